"""Problems of keypoint labels: unreadable rows, points outside their picture, exchanged left and right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tasks.item import Finding
from tasks.keypoints.items import PoseItem, box_of
from tasks.labelled import decode_picture
from utils.errors import DataError
from utils.formats.types import Instance, Skeleton
from utils.keypoints.left_right import body_axis, left_right_pairs

CLEAR_SIDE = 0.05  # of the length of the body axis: least distance of left and right across it
OUTSIDE = 2.0  # pixels by which a point may lie outside its picture, for clicks at the edge


def audit_pictures(items: Sequence[PoseItem], skeleton: Skeleton) -> Iterator[Finding]:
    """Check pictures and labels of a split.

    Parameters
    ----------
    items : sequence of PoseItem
        The split.
    skeleton : Skeleton
        The keypoints.

    Yields
    ------
    Finding
        Errors, and notes that do not stop the work.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> source = pose_task().source
    >>> [finding.blocks for finding in audit_pictures(source.items("train"), source.labels.skeleton)]
    []
    """
    for item in items:
        yield from audit_picture(item)
    yield from audit_sides(items, skeleton)


def audit_picture(item: PoseItem) -> Iterator[Finding]:
    """Check that a picture can be read and that its points and boxes are inside it.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> item = pose_task().source.items("val")[0]
    >>> item.picture.instances[0].keypoints[0, 0] = 999.0
    >>> print(*audit_picture(item))  # doctest: +ELLIPSIS
    images/val_000: 1 points lie outside the picture of 192 x 256 pixels; ...
    """
    try:
        height, width = decode_picture(item.picture).shape[:2]
    except DataError as error:
        yield Finding(item.id, str(error))
        return
    points = [animal.keypoints[animal.keypoints[:, 2] > 0, :2] for animal in item.picture.instances]
    stray = sum(count_outside(points, (height, width)) for points in points)
    where = f"the picture of {height} x {width} pixels"
    if stray:
        yield Finding(
            item.id, f"{stray} points lie outside {where}", "move them, or mark them as missing", blocks=False
        )
    boxes = [box for animal in item.picture.instances if (box := box_of(animal)) is not None]
    away = sum(bool((box[:2] >= (width, height)).any() or (box[2:] <= 0).any()) for box in boxes)
    if away:
        yield Finding(item.id, f"{away} boxes lie outside {where}", "correct or remove them")


def count_outside(points: np.ndarray, size: tuple[int, int]) -> int:
    """Count points (N, 2) that are more than `OUTSIDE` pixels outside a picture.

    Examples
    --------
    >>> count_outside(np.array([[0.0, 0.0], [-1.0, 5.0], [30.0, 5.0]]), (10, 20))
    1
    """
    far = (points < -OUTSIDE) | (points > np.array(size[::-1]) + OUTSIDE)
    return int(far.any(axis=1).sum())


def audit_sides(items: Sequence[PoseItem], skeleton: Skeleton) -> Iterator[Finding]:
    """Note animals whose left and right seem to be exchanged.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> source = pose_task().source
    >>> list(audit_sides(source.items("val"), source.labels.skeleton))
    []
    """
    if skeleton.flip_idx is None or (axis := body_axis(skeleton.names)) is None:
        return
    pairs = left_right_pairs(skeleton.flip_idx).numpy()
    names = [(item.id, index) for item in items for index, _ in enumerate(item.picture.instances)]
    animals = [animal for item in items for animal in item.picture.instances]
    if not animals:
        return
    across = sides(animals, pairs, axis)
    usual = np.sign(np.nanmedian(np.sign(across))) if np.isfinite(across).any() else 0.0
    for row in np.flatnonzero((np.sign(across) == -usual).any(axis=1) & (usual != 0)):
        clear = np.abs(across[row]) > CLEAR_SIDE
        if (clear & (np.sign(across[row]) == -usual)).any():
            name, index = names[row]
            text = f"left and right of animal {index + 1} lie on the other sides of its body than in most pictures"
            yield Finding(name, text, "look whether they are exchanged, or the animal lies on its back", blocks=False)


def sides(animals: Sequence[Instance], pairs: np.ndarray, axis: tuple[int, int]) -> np.ndarray:
    """How far the left point of each pair lies from the right one across the body axis, in lengths of the axis.

    Parameters
    ----------
    animals : sequence of Instance
        N of them.
    pairs : ndarray of int, shape (P, 2)
        Left and right.
    axis : (int, int)
        Two keypoints on the axis, the front one first.

    Returns
    -------
    ndarray of float64, shape (N, P)
        Signed; NaN where a point is missing.

    Examples
    --------
    >>> points = np.array([[0.0, 0, 2], [10, 0, 2], [5, -2, 2], [5, 3, 2]])  # head, tail, left, right
    >>> sides([Instance("fly", points)], np.array([[2, 3]]), (0, 1)).tolist()
    [[-0.5]]
    """
    points = np.stack([animal.keypoints[:, :2] for animal in animals])
    points[np.stack([animal.keypoints[:, 2] for animal in animals]) == 0] = np.nan
    along = points[:, axis[1]] - points[:, axis[0]]
    across = points[:, pairs[:, 0]] - points[:, pairs[:, 1]]
    length = np.linalg.norm(along, axis=1)
    signed = along[:, None, 0] * across[..., 1] - along[:, None, 1] * across[..., 0]
    return np.divide(signed, (length**2)[:, None], out=np.full(signed.shape, np.nan), where=length[:, None] > 0)


def ambiguity(animals: Sequence[Instance], pairs: np.ndarray, axis: tuple[int, int]) -> float:
    """Share of the pairs (P, 2) whose left and right cannot be told apart across the body; NaN without any such pair.

    Examples
    --------
    >>> points = np.array([[0.0, 0, 2], [10, 0, 2], [4, 0, 2], [6, 0, 2]])
    >>> ambiguity([Instance("fly", points)], np.array([[2, 3]]), (0, 1))
    1.0
    """
    across = sides(animals, pairs, axis) if len(animals) else np.zeros((0, 0))
    measured = across[np.isfinite(across)]
    return float((np.abs(measured) < CLEAR_SIDE).mean()) if len(measured) else float("nan")
