"""Geometry of boxes x1, y1, x2, y2: half-open, in pixels, the origin at the outer corner of the first pixel.

All functions but `keep_visible` take arrays of NumPy or tensors, any leading axes, and give the same kind back. Those
of two sets of boxes work element by element and broadcast; `pairwise` compares every box with every other one. A box
that is inside out has no area.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

BoxArray = TypeVar("BoxArray", np.ndarray, Tensor)

_TINY = 1e-14  # square pixels; two boxes without area have an IoU of 0, not of 0 / 0


def _module(boxes: Any) -> Any:
    """The library that a value belongs to.

    Examples
    --------
    >>> _module(np.zeros(4)) is np, _module(torch.zeros(4)) is torch
    (True, True)
    """
    return torch if isinstance(boxes, Tensor) else np


# --- formats ---------------------------------------------------------------------------------------------------------


def xyxy_to_xywh(boxes_xyxy: BoxArray) -> BoxArray:
    """From two corners to the first corner and the sides, as COCO has it.

    Parameters
    ----------
    boxes_xyxy : array or Tensor, shape (..., 4)
        x1, y1, x2, y2.

    Returns
    -------
    array or Tensor, shape (..., 4)
        x1, y1, width, height.

    Examples
    --------
    >>> xyxy_to_xywh(np.array([[1.0, 2, 4, 6]])).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return _module(boxes_xyxy).concatenate([low, high - low], -1)


def xywh_to_xyxy(boxes_xywh: BoxArray) -> BoxArray:
    """From the first corner and the sides to two corners.

    Parameters
    ----------
    boxes_xywh : array or Tensor, shape (..., 4)
        x1, y1, width, height.

    Returns
    -------
    array or Tensor, shape (..., 4)
        x1, y1, x2, y2.

    Examples
    --------
    >>> xywh_to_xyxy(torch.tensor([[1.0, 2, 3, 4]])).tolist()
    [[1.0, 2.0, 4.0, 6.0]]
    """
    low, sides = boxes_xywh[..., :2], boxes_xywh[..., 2:]
    return _module(boxes_xywh).concatenate([low, low + sides], -1)


def xyxy_to_cxcywh(boxes_xyxy: BoxArray) -> BoxArray:
    """From two corners to the centre and the sides, as YOLO and DETR have it.

    Parameters
    ----------
    boxes_xyxy : array or Tensor, shape (..., 4)
        x1, y1, x2, y2.

    Returns
    -------
    array or Tensor, shape (..., 4)
        x and y of the centre, width, height.

    Examples
    --------
    >>> xyxy_to_cxcywh(np.array([1.0, 2, 4, 6])).tolist()
    [2.5, 4.0, 3.0, 4.0]
    """
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return _module(boxes_xyxy).concatenate([(low + high) / 2, high - low], -1)


def cxcywh_to_xyxy(boxes_cxcywh: BoxArray) -> BoxArray:
    """From the centre and the sides to two corners.

    Parameters
    ----------
    boxes_cxcywh : array or Tensor, shape (..., 4)
        x and y of the centre, width, height.

    Returns
    -------
    array or Tensor, shape (..., 4)
        x1, y1, x2, y2.

    Examples
    --------
    >>> cxcywh_to_xyxy(torch.tensor([2.5, 4.0, 3.0, 4.0])).tolist()
    [1.0, 2.0, 4.0, 6.0]
    """
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return _module(boxes_cxcywh).concatenate([centre - half, centre + half], -1)


def sides_to_xyxy(points: BoxArray, sides: BoxArray) -> BoxArray:
    """From the distances of the edges from a point to two corners.

    Parameters
    ----------
    points : array or Tensor, shape (..., 2)
        x and y.
    sides : array or Tensor, shape (..., 4)
        Distances of the left, upper, right and lower edge; negative where the point lies beyond the edge.

    Returns
    -------
    array or Tensor, shape (..., 4)
        x1, y1, x2, y2.

    Examples
    --------
    >>> sides_to_xyxy(np.array([[10.0, 20]]), np.array([[1.0, 2, 3, 4]])).tolist()
    [[9.0, 18.0, 13.0, 24.0]]
    """
    return _module(sides).concatenate([points - sides[..., :2], points + sides[..., 2:]], -1)


def xyxy_to_sides(points: BoxArray, boxes_xyxy: BoxArray) -> BoxArray:
    """From two corners to the distances of the edges from a point.

    Parameters
    ----------
    points : array or Tensor, shape (..., 2)
        x and y.
    boxes_xyxy : array or Tensor, shape (..., 4)
        x1, y1, x2, y2.

    Returns
    -------
    array or Tensor, shape (..., 4)
        Distances of the left, upper, right and lower edge; all positive where the point lies in the box.

    Examples
    --------
    >>> xyxy_to_sides(torch.tensor([[10.0, 20]]), torch.tensor([[9.0, 18, 13, 24]])).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    return _module(boxes_xyxy).concatenate([points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points], -1)


# --- sizes and overlaps ----------------------------------------------------------------------------------------------


def areas(boxes_xyxy: BoxArray) -> BoxArray:
    """Areas of boxes.

    Parameters
    ----------
    boxes_xyxy : array or Tensor, shape (..., 4)
        Boxes.

    Returns
    -------
    array or Tensor, shape (...)
        In square pixels; 0 for a box that is inside out.

    Examples
    --------
    >>> areas(np.array([[0.0, 0, 3, 2], [4, 0, 3, 2], [4, 2, 3, 0]])).tolist()
    [6.0, 0.0, 0.0]
    """
    width = (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]).clip(min=0)
    return width * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1]).clip(min=0)


def intersections(boxes_xyxy: BoxArray, others: BoxArray) -> BoxArray:
    """Areas that boxes share.

    Parameters
    ----------
    boxes_xyxy, others : array or Tensor, shape (..., 4)
        Boxes; the leading axes broadcast.

    Returns
    -------
    array or Tensor, shape (...)
        In square pixels.

    Examples
    --------
    >>> intersections(np.array([0.0, 0, 3, 2]), np.array([[1.0, 1, 9, 9], [3, 0, 4, 2]])).tolist()
    [2.0, 0.0]
    """
    library = _module(boxes_xyxy)
    left, upper = (library.maximum(boxes_xyxy[..., axis], others[..., axis]) for axis in (0, 1))
    right, lower = (library.minimum(boxes_xyxy[..., axis], others[..., axis]) for axis in (2, 3))
    return (right - left).clip(min=0) * (lower - upper).clip(min=0)


def hulls(boxes_xyxy: BoxArray, others: BoxArray) -> BoxArray:
    """Smallest boxes around two.

    Parameters
    ----------
    boxes_xyxy, others : array or Tensor, shape (..., 4)
        Boxes; the leading axes broadcast.

    Returns
    -------
    array or Tensor, shape (..., 4)
        x1, y1, x2, y2.

    Examples
    --------
    >>> hulls(np.array([0.0, 0, 3, 2]), np.array([[1.0, 1, 9, 9]])).tolist()
    [[0.0, 0.0, 9.0, 9.0]]
    """
    library = _module(boxes_xyxy)
    low = library.minimum(boxes_xyxy[..., :2], others[..., :2])
    return library.concatenate([low, library.maximum(boxes_xyxy[..., 2:], others[..., 2:])], -1)


def ious(boxes_xyxy: BoxArray, others: BoxArray) -> BoxArray:
    """Intersection over union.

    Parameters
    ----------
    boxes_xyxy, others : array or Tensor, shape (..., 4)
        Boxes; the leading axes broadcast.

    Returns
    -------
    array or Tensor, shape (...)
        0 to 1; 0 where neither has an area.

    Examples
    --------
    >>> ious(np.array([[0.0, 0, 4, 2]]), np.array([[2.0, 0, 4, 2], [0, 0, 4, 2], [4, 0, 8, 2]])).tolist()
    [0.5, 1.0, 0.0]
    """
    shared = intersections(boxes_xyxy, others)
    return shared / (areas(boxes_xyxy) + areas(others) - shared).clip(min=_TINY)


def covered_shares(boxes_xyxy: BoxArray, others: BoxArray) -> BoxArray:
    """Share of each box that another one covers, as a detection in an ignore region.

    Parameters
    ----------
    boxes_xyxy : array or Tensor, shape (..., 4)
        Boxes whose areas are the whole.
    others : array or Tensor, shape (..., 4)
        What may cover them; the leading axes broadcast.

    Returns
    -------
    array or Tensor, shape (...)
        0 to 1; 0 for a box without area.

    Examples
    --------
    >>> covered_shares(np.array([[0.0, 0, 4, 2], [1, 0, 2, 1]]), np.array([0.0, 0, 2, 9])).tolist()
    [0.5, 1.0]
    """
    return intersections(boxes_xyxy, others) / areas(boxes_xyxy).clip(min=_TINY)


def smaller_shares(boxes_xyxy: BoxArray, others: BoxArray) -> BoxArray:
    """Share of the smaller of two boxes that the other one covers: 1 where it lies inside.

    Parameters
    ----------
    boxes_xyxy, others : array or Tensor, shape (..., 4)
        Boxes; the leading axes broadcast.

    Returns
    -------
    array or Tensor, shape (...)
        0 to 1; 0 where one has no area.

    Examples
    --------
    >>> smaller_shares(np.array([0.0, 0, 4, 2]), np.array([[1.0, 1, 2, 2], [3, 0, 99, 2]])).tolist()
    [1.0, 0.25]
    """
    smaller = _module(boxes_xyxy).minimum(areas(boxes_xyxy), areas(others))
    return intersections(boxes_xyxy, others) / smaller.clip(min=_TINY)


def generalised_ious(boxes_xyxy: BoxArray, others: BoxArray) -> BoxArray:
    """Intersection over union, less the share of the hull that neither fills: it falls with the distance, too.

    Parameters
    ----------
    boxes_xyxy, others : array or Tensor, shape (..., 4)
        Boxes; the leading axes broadcast.

    Returns
    -------
    array or Tensor, shape (...)
        -1 to 1.

    References
    ----------
    Rezatofighi et al., 2019 (arXiv:1902.09630).

    Examples
    --------
    >>> box = torch.tensor([0.0, 0, 2, 2])
    >>> generalised_ious(box, torch.tensor([[0.0, 0, 2, 2], [2, 0, 4, 2], [6, 0, 8, 2]])).tolist()
    [1.0, 0.0, -0.5]
    """
    shared = intersections(boxes_xyxy, others)
    union = areas(boxes_xyxy) + areas(others) - shared
    hull = areas(hulls(boxes_xyxy, others)).clip(min=_TINY)
    return shared / union.clip(min=_TINY) - (hull - union) / hull


def distance_ious(boxes_xyxy: BoxArray, others: BoxArray) -> BoxArray:
    """Intersection over union, less the squared distance of the centres over the squared diagonal of the hull.

    Parameters
    ----------
    boxes_xyxy, others : array or Tensor, shape (..., 4)
        Boxes; the leading axes broadcast.

    Returns
    -------
    array or Tensor, shape (...)
        -1 to 1.

    References
    ----------
    Zheng et al., 2020 (arXiv:1911.08287).

    Examples
    --------
    >>> box = np.array([0.0, 0, 2, 2])
    >>> distance_ious(box, np.array([[0.0, 0, 2, 2], [0, 2, 2, 4]])).tolist()  # 0 - 2^2 / (2^2 + 4^2)
    [1.0, -0.2]
    """
    outer = hulls(boxes_xyxy, others)
    apart = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:] - others[..., :2] - others[..., 2:]) / 2
    diagonals = ((outer[..., 2:] - outer[..., :2]) ** 2).sum(-1).clip(min=_TINY)
    return ious(boxes_xyxy, others) - (apart**2).sum(-1) / diagonals


def pairwise(measure: Callable[[BoxArray, BoxArray], BoxArray], boxes_xyxy: BoxArray, others: BoxArray) -> BoxArray:
    """Compare every box with every other one.

    Parameters
    ----------
    measure : callable
        One of the functions above: `ious`, `generalised_ious`, `covered_shares`, ...
    boxes_xyxy : array or Tensor, shape (..., N, 4)
        Rows of the result.
    others : array or Tensor, shape (..., M, 4)
        Its columns.

    Returns
    -------
    array or Tensor, shape (..., N, M)
        What `measure` gives of each pair.

    Examples
    --------
    >>> pairwise(ious, np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 2], [0, 1, 2, 2], [4, 4, 5, 5]])).tolist()
    [[1.0, 0.5, 0.0]]
    """
    return measure(boxes_xyxy[..., :, None, :], others[..., None, :, :])


# --- pictures --------------------------------------------------------------------------------------------------------


def clip_boxes(boxes_xyxy: BoxArray, size: tuple[int, int]) -> BoxArray:
    """Cut boxes off at the edges of a picture; each edge of a box moves by itself.

    Parameters
    ----------
    boxes_xyxy : array or Tensor, shape (..., 4)
        Boxes.
    size : (int, int)
        Height and width of the picture.

    Returns
    -------
    array or Tensor, shape (..., 4)
        Inside the picture; without area where the box lies outside.

    Examples
    --------
    >>> clip_boxes(np.array([[-5.0, 2, 4, 99], [20, 0, 30, 5]]), (10, 15)).tolist()
    [[0.0, 2.0, 4.0, 10.0], [15.0, 0.0, 15.0, 5.0]]
    """
    height, width = size
    x, y = boxes_xyxy[..., 0::2].clip(0, width), boxes_xyxy[..., 1::2].clip(0, height)
    return _module(boxes_xyxy).stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def keep_visible(
    boxes_xyxy: np.ndarray, labels: np.ndarray, is_crowd: np.ndarray, size: tuple[int, int], min_visible: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip labelled boxes to a picture; what is mostly outside becomes an ignore region.

    Of a person cut by the edge, a sliver is no example of a person, and to find one there is no false alarm.

    Parameters
    ----------
    boxes_xyxy : ndarray, shape (N, 4)
        Boxes, which may reach beyond the picture.
    labels : ndarray of int, shape (N,)
        Their classes.
    is_crowd : ndarray of bool, shape (N,)
        Which of them are ignore regions already.
    size : (int, int)
        Height and width of the picture.
    min_visible : float
        Share of a box's area inside the picture from which it stays an example, 0 to 1.

    Returns
    -------
    boxes_xyxy : ndarray, shape (M, 4)
        Clipped; rows without area inside the picture are dropped.
    labels, is_crowd : ndarray, shape (M,)
        Of the same rows.

    Raises
    ------
    ValueError
        If the rows do not correspond, or a box is not finite.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 4, 4], [-3, 0, 1, 4], [-9, 0, 0, 4]], np.float32)
    >>> kept = keep_visible(boxes, np.array([0, 1, 2]), np.zeros(3, bool), (4, 8), min_visible=0.5)
    >>> [part.tolist() for part in kept]
    [[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 1.0, 4.0]], [0, 1], [False, True]]
    """
    if not len(boxes_xyxy) == len(labels) == len(is_crowd):
        raise ValueError(f"expected as many labels as boxes, got {len(boxes_xyxy)}, {len(labels)} and {len(is_crowd)}")
    if not np.isfinite(boxes_xyxy).all():
        raise ValueError(f"boxes are not finite: {boxes_xyxy[~np.isfinite(boxes_xyxy).all(axis=1)][:3].tolist()}")
    clipped = clip_boxes(boxes_xyxy, size)
    inside, whole = areas(clipped.astype(np.float64)), areas(boxes_xyxy.astype(np.float64))
    seen = inside > 0
    share = inside[seen] / whole[seen]
    return clipped[seen], labels[seen], is_crowd[seen] | (share < min_visible - 1e-6)  # of sides in single precision
