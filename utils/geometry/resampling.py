"""Resampling along axes: weights from whole numbers on one global axis, the same in every window."""

from __future__ import annotations

import cv2
import numpy as np


def working_dtype(dtype: np.dtype) -> np.dtype:
    """The real type in which values of a type can be averaged without loss that matters.

    Examples
    --------
    >>> [working_dtype(np.dtype(name)).name for name in ("uint16", "float32", "int32", "float64")]
    ['float32', 'float32', 'float64', 'float64']
    """
    small = dtype.itemsize <= 2 or dtype == np.float32
    return np.dtype(np.float32 if small else np.float64)


def reflect_index(start: int, count: int, size: int) -> np.ndarray:
    """Positions on an axis whose outside is its reflection about the first and last pixel.

    The result has shape (count,).

    Examples
    --------
    >>> reflect_index(-2, 8, 4).tolist(), reflect_index(-1, 3, 1).tolist()
    ([2, 1, 0, 1, 2, 3, 2, 1], [0, 0, 0])
    """
    period = max(2 * (size - 1), 1)
    position = np.arange(start, start + count) % period
    return np.minimum(position, period - position) if size > 1 else np.zeros(count, dtype=np.int64)


def resampling_weights(
    start: int, count: int, source_size: int, target_size: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which source pixels make up each target pixel along one axis, and with what weight.

    Positions are ratios of whole numbers on the global axis, so the weights of a pixel are the same in every window.

    Parameters
    ----------
    start, count : int
        First target pixel and how many.
    source_size, target_size : int
        Pixels of the whole axis; both cover the same ground.
    kind : str
        "area" (mean of the covered ground) or "bilinear".

    Returns
    -------
    index : int array, shape (count, taps)
        Source pixels, kept inside the axis.
    weight : float array, shape (count, taps)
        Each row adds up to 1.

    Examples
    --------
    >>> index, weight = resampling_weights(1, 2, source_size=5, target_size=4, kind="area")
    >>> index.tolist(), weight.round(3).tolist()
    ([[1, 2, 3], [2, 3, 4]], [[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]])
    >>> resampling_weights(1, 1, source_size=2, target_size=4, kind="bilinear")[1].tolist()
    [[0.75, 0.25]]
    """
    target = np.arange(start, start + count, dtype=np.int64)[:, None]
    if kind == "area":
        first = target * source_size // target_size
        index = first + np.arange(-(-source_size // target_size) + 1)
        begin, end = (
            np.maximum(index * target_size, target * source_size),
            np.minimum((index + 1) * target_size, (target + 1) * source_size),
        )
        return index.clip(0, source_size - 1), np.maximum(end - begin, 0) / source_size
    centre = (2 * target + 1) * source_size - target_size
    base, fraction = centre // (2 * target_size), centre % (2 * target_size) / (2 * target_size)
    offsets = np.arange(2)
    return (base + offsets).clip(0, source_size - 1), 1 - np.abs(offsets - fraction)


def _combine(values: np.ndarray, index: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """Weighted sums along an axis, tap by tap, so that no sum depends on the window's size.

    A matrix product would be shorter, but its order of additions changes with the shape.

    Examples
    --------
    >>> index, weight = np.array([[0, 1], [1, 2]]), np.array([[0.5, 0.5], [0.25, 0.75]])
    >>> _combine(np.array([[2.0], [4.0], [8.0]]), index, weight, axis=0).tolist()
    [[3.0], [7.0]]
    """
    shape = [1] * values.ndim
    shape[axis] = -1
    total = None
    for tap in range(index.shape[1]):
        if weight[:, tap].any():
            part = _pick(values, index[:, tap], axis) * weight[:, tap].reshape(shape).astype(values.dtype)
            total = part if total is None else np.add(total, part, out=total)
    assert total is not None, "the weights of a pixel add up to 1"
    return total


def _pick(values: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Take positions along an axis, as a view where they are evenly spaced.

    Along `axis` the result has as many entries as `index`, which has shape (N,); other axes keep their shape.

    Examples
    --------
    >>> values = np.arange(12).reshape(2, 6)
    >>> picked = _pick(values, np.array([1, 3, 5]), axis=1)
    >>> picked.tolist(), np.shares_memory(picked, values)
    ([[1, 3, 5], [7, 9, 11]], True)
    """
    steps = np.diff(index)
    if not len(steps) or steps[0] <= 0 or (steps != steps[0]).any():
        return values.take(index, axis=axis)
    picked = [slice(None)] * values.ndim
    picked[axis] = slice(int(index[0]), int(index[-1]) + 1, int(steps[0]))
    return values[tuple(picked)]


def resample(
    values: np.ndarray,
    valid: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray],
    least: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Resample values by weights per axis; invalid pixels take no part.

    Parameters
    ----------
    values : array, shape (bands, height, width)
        Numbers everywhere, also where not valid.
    valid : bool array, shape (height, width)
        Which pixels count.
    rows, columns : (index, weight)
        From `resampling_weights`, counted from the array's first row and column.
    least : float, default 0.5
        Share of the weight that must be valid.

    Returns
    -------
    values : float array, shape (bands, target height, target width)
        0 where not valid.
    valid : bool array, shape (target height, target width)
        Where at least this share of the weight was valid.

    Examples
    --------
    >>> axis = resampling_weights(0, 1, source_size=2, target_size=1, kind="area")
    >>> values = np.float32([[[1, 3], [99, 5]]])
    >>> mean, valid = resample(values, np.array([[True, True], [False, True]]), axis, axis)
    >>> mean.tolist(), valid.tolist()
    ([[[3.0]]], [[True]])
    """
    values = values.astype(working_dtype(values.dtype), copy=False)
    if valid.all():
        share = np.ones((1, 1), dtype=values.dtype)  # the same sums as below, once for all pixels of a row
        share = _combine(share, np.zeros_like(rows[0]), rows[1], axis=-2)
        share = _combine(share, np.zeros_like(columns[0]), columns[1], axis=-1)
    else:
        share = valid.astype(values.dtype)
        values = values * share
        share = _combine(_combine(share, *rows, axis=-2), *columns, axis=-1)
    sums = _combine(_combine(values, *rows, axis=-2), *columns, axis=-1)
    kept = np.broadcast_to(share >= least, sums.shape[-2:])
    if not (share == 1).all():
        sums = np.divide(sums, share, out=np.zeros_like(sums), where=kept)
    return sums, kept


def resize_picture(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring an 8-bit picture to another size: means of the covered ground where it shrinks, else bilinearly.

    Parameters
    ----------
    image : uint8 array, shape (H, W, C)
        The picture; it is left as it is.
    size : (int, int)
        Height and width wanted.

    Returns
    -------
    uint8 array, shape (height, width, C)
        The picture itself where the size is right already.

    Examples
    --------
    >>> image = np.array([[[0], [4], [8], [16]], [[0], [4], [8], [16]]], np.uint8)
    >>> resize_picture(image, (1, 2))[..., 0].tolist()
    [[2, 12]]
    """
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(*size, image.shape[2])  # OpenCV drops an axis of one channel
