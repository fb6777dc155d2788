"""Small grey copies of pictures, by which near doubles are found, such as neighbouring frames of a video."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 32  # pixels; coarse enough to forget noise, fine enough to see a mouse in its arena
FLAT = 1e-3  # deviation, as a share of the largest value, below which a thumbnail shows nothing


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Average a picture into a small grey one.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, C)
        Values of any type.

    Returns
    -------
    ndarray of float32, shape (32, 32)
        Means over bands and areas.

    Examples
    --------
    >>> image = np.zeros((64, 128, 3), np.uint8)
    >>> image[:32] = 90
    >>> thumbnail(image)[[0, 31], 0].tolist()
    [90.0, 0.0]
    """
    grey = image.astype(np.float32)
    grey = grey if grey.ndim == 2 else grey.mean(axis=2)
    return cv2.resize(np.nan_to_num(grey), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two thumbnails (32, 32): 1 for the same picture, near 0 for unrelated ones.

    Two that show nothing are alike if they have one value.

    Examples
    --------
    >>> ramp = np.arange(1024, dtype=np.float32).reshape(32, 32)
    >>> likeness(ramp, 2 * ramp + 5), round(likeness(ramp, ramp.T), 2), likeness(ramp, 0 * ramp)
    (1.0, 0.06, 0.0)
    >>> likeness(0 * ramp + 7, 0 * ramp + 7), likeness(0 * ramp + 7, 0 * ramp)
    (1.0, 0.0)
    """
    scale = float(max(np.abs(first).max(), np.abs(second).max(), 1e-12))
    centred = [(part - part.mean()).ravel().astype(np.float64) / scale for part in (first, second)]
    norms = [float(np.linalg.norm(part)) for part in centred]
    flat = [norm < FLAT * SIDE for norm in norms]
    if all(flat):
        return float(abs(float(first.mean()) - float(second.mean())) < FLAT * scale)
    return 0.0 if any(flat) else round(float(centred[0] @ centred[1]) / (norms[0] * norms[1]), 9)
