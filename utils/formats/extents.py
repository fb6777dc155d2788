"""How far an instance reaches: the one box around all that its label says of it."""

from __future__ import annotations

import numpy as np

from utils.formats.run_lengths import box_of_mask
from utils.formats.types import Instance
from utils.geometry.crops import tight_box


def extent_of(instance: Instance) -> np.ndarray | None:
    """The box (4,) that a label states, else the smallest one around its outlines, lines and mask together.

    A line that is straight along an axis has no width: the box of lines is a pixel wide and high at least. Keypoints
    are no extent.

    Parameters
    ----------
    instance : Instance
        Of any format.

    Returns
    -------
    ndarray of float64, shape (4,), or None
        x1, y1, x2, y2 in pixels from the outer corner of the first pixel; None where nothing says it.

    Raises
    ------
    ValueError
        If its mask is none: see `run_lengths.read_counts`.

    Examples
    --------
    >>> triangle = np.array([[1.0, 2], [5, 4], [3, 9]])
    >>> extent_of(Instance("car", polygons=(triangle,))).tolist()
    [1.0, 2.0, 5.0, 9.0]
    >>> extent_of(Instance("car", polygons=(triangle,), mask={"size": [4, 9], "counts": [28, 2, 6]})).tolist()
    [1.0, 0.0, 8.0, 9.0]
    >>> extent_of(Instance("road", lines=(np.array([[1.0, 2], [7, 2]]),))).tolist()
    [1.0, 1.5, 7.0, 2.5]
    >>> extent_of(Instance("fox", np.array([[3.0, 4, 2]]))) is None
    True
    """
    if instance.box_xyxy is not None:
        return instance.box_xyxy
    boxes = [tight_box(np.concatenate(instance.polygons))] if instance.polygons else []
    if instance.lines:
        boxes.append(_widen(tight_box(np.concatenate(instance.lines))))
    if instance.mask is not None:
        boxes.append(box_of_mask(instance.mask))
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    return np.concatenate([np.min(found, axis=0)[:2], np.max(found, axis=0)[2:]])


def _widen(box: np.ndarray | None) -> np.ndarray | None:
    """A box (4,) of a pixel at least in width and height, about its centre.

    Examples
    --------
    >>> _widen(np.array([1.0, 2, 1, 9])).tolist(), _widen(None)
    ([0.5, 2.0, 1.5, 9.0], None)
    """
    if box is None:
        return None
    added = np.maximum(1 - (box[2:] - box[:2]), 0) / 2
    return np.concatenate([box[:2] - added, box[2:] + added])
