"""Shapes of a LabelMe file, each by itself: checked, with its visibility and its outline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from utils.errors import DataError
from utils.formats.names import read_name
from utils.formats.predictions import described_score, read_score, score_key
from utils.formats.types import MISSING, OCCLUDED, VISIBLE
from utils.formats.values import read_flag, read_number
from utils.media.decoding import decode
from utils.media.picture_sizes import picture_size

RINGS = {"polygon": 3, "circle": 2, "oriented_rectangle": 4}  # with the least number of points
OUTLINES = {**RINGS, "rectangle": 2, "mask": 2}
LINES = {"line": 2, "linestrip": 2}
VISIBILITY_FLAGS = ("kp_visibility", "visibility", "kp_visible")
_CIRCLE_CORNERS = 64


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape of a LabelMe file.

    Parameters
    ----------
    index : int
        Its place in the file, from 1.
    label, kind : str
        `label` and `shape_type`.
    points : ndarray, shape (N, 2)
        In pixels.
    group : int or None
        `group_id`.
    keys : dict
        All that the file says.

    Examples
    --------
    >>> Shape(1, "nose", "point", np.zeros((1, 2)), None, {}).is_point
    True
    """

    index: int
    label: str
    kind: str
    points: np.ndarray
    group: int | None
    keys: Mapping[str, Any]

    @property
    def is_point(self) -> bool:
        """Whether it marks a place, not an outline.

        Examples
        --------
        >>> Shape(1, "mouse", "rectangle", np.zeros((2, 2)), None, {}).is_point
        False
        """
        return self.kind == "point"

    @property
    def is_line(self) -> bool:
        """Whether it is an open line.

        Examples
        --------
        >>> Shape(1, "road", "linestrip", np.zeros((3, 2)), None, {}).is_line
        True
        """
        return self.kind in LINES


def parse_shape(index: int, keys: Any) -> Shape:
    """Check one entry of `shapes`.

    Raises
    ------
    ValueError
        What is wrong with it.

    Examples
    --------
    >>> parse_shape(1, {"label": "nose", "points": [[1, float("nan")]], "shape_type": "point"})
    Traceback (most recent call last):
        ...
    ValueError: expected points as pairs of finite numbers, got [[1, nan]]
    """
    if not isinstance(keys, Mapping) or "label" not in keys:
        raise ValueError("expected a shape with a label and points")
    try:
        label = read_name(keys.get("label"))
    except ValueError as error:
        raise ValueError(f"label of a class or keypoint: {error}") from None
    kind, group = str(keys.get("shape_type") or "polygon"), keys.get("group_id")
    if kind != "point" and kind not in OUTLINES and kind not in LINES:
        known = ", ".join(("point", *OUTLINES, *LINES))
        raise ValueError(f"a shape of type {kind!r} is neither point, outline nor line; known: {known}")
    if group is not None and not _is_whole(group):
        raise ValueError(f"expected a whole number as group_id, got {group!r}")
    points = _read_points(keys.get("points"))
    least = {**OUTLINES, **LINES}.get(kind, 1)
    if len(points) < least:
        raise ValueError(f"a {kind} needs {least} points, got {len(points)}")
    label = str(keys["label"]) if kind == "point" else label  # a point's is doubted beside the others, if it has blanks
    return Shape(index, label, kind, points, None if group is None else int(group), keys)


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number, also one in quotes or with .0.

    Examples
    --------
    >>> _is_whole(3), _is_whole("3"), _is_whole(3.0), _is_whole(True), _is_whole("a")
    (True, True, True, False, False)
    """
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer()) or str(value).isdecimal()


def _read_points(value: Any) -> np.ndarray:
    """Points of a shape, (N, 2).

    Raises
    ------
    ValueError
        If they are no pairs of finite numbers.

    Examples
    --------
    >>> _read_points([[1, 2], [3, 4]]).shape
    (2, 2)
    >>> _read_points([[10**400, 2]])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: expected points as pairs of finite numbers, got [[1000...
    """
    try:
        points = np.array(value)
        if points.dtype.kind not in "iuf":  # text, or something that is no number
            points = np.array(
                [[read_number(number) if isinstance(number, str) else number for number in pair] for pair in value]
            )
        points = points.astype(np.float64)
    except (TypeError, ValueError, OverflowError):  # the last: a whole number that no float can hold
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1:] != (2,) or not np.isfinite(points).all():
        raise ValueError(f"expected points as pairs of finite numbers, got {str(value)[:60]}")
    return points


def visibility_of(keys: Mapping[str, Any]) -> int:
    """Visibility of a point: 0 missing, 1 occluded, 2 visible.

    Asked in this order: `flags.kp_visibility` and `flags.visibility` (0, 1, 2), `flags.kp_visible` (true 2, false 1), a
    `description` that is a number; without any, 2.

    Raises
    ------
    ValueError
        If it is another number, or `kp_visible` neither true nor false.

    Examples
    --------
    >>> visibility_of({"flags": {"kp_visible": False}}), visibility_of({"description": "0"}), visibility_of({})
    (1, 0, 2)
    >>> visibility_of({"flags": {"visibility": 3}})
    Traceback (most recent call last):
        ...
    ValueError: expected visibility 0, 1 or 2, got 3
    """
    flags = keys["flags"] if isinstance(keys.get("flags"), Mapping) else {}
    text = str(keys.get("description") or "").strip()
    numbers = [stated for stated in (flags.get("kp_visibility"), flags.get("visibility")) if stated is not None]
    if not numbers and flags.get("kp_visible") is not None:
        return VISIBLE if read_flag("kp_visible", flags["kp_visible"]) else OCCLUDED
    stated = next(iter(numbers), text if _is_whole(text) else VISIBLE)
    if not _is_whole(stated) or int(stated) not in (MISSING, OCCLUDED, VISIBLE):
        raise ValueError(f"expected visibility 0, 1 or 2, got {stated!r}")
    return int(stated)


def decode_mask(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """Pixels, bool of shape (H, W), of a mask shape from its first point on: a PNG in base64.

    Parameters
    ----------
    shape : Shape
        Its corners are those of its first and of its last pixel, which is inside.
    size : (int, int)
        Height and width of its picture.

    Raises
    ------
    ValueError
        If it is none, or larger than its picture.

    Examples
    --------
    >>> decode_mask(Shape(1, "mouse", "mask", np.zeros((2, 2)), None, {"mask": "iVBOR"}), (4, 6))
    Traceback (most recent call last):
        ...
    ValueError: expected a mask as PNG in base64, got 'iVBOR'
    """
    text = shape.keys.get("mask")
    try:
        data = base64.b64decode(text or "", validate=True)
        sides = picture_size(data)
        pixels = decode(data, cv2.IMREAD_GRAYSCALE) if sides[0] <= size[0] and sides[1] <= size[1] else None
    except (TypeError, ValueError, DataError):
        pixels, sides = None, (0, 0)
    if pixels is None and max(sides) > 0 and (sides[0] > size[0] or sides[1] > size[1]):
        raise ValueError(f"a mask of {sides[0]} x {sides[1]} pixels in a picture of {size[0]} x {size[1]}")
    if pixels is None:
        raise ValueError(f"expected a mask as PNG in base64, got {str(text)[:60]!r}")
    return pixels > 0


def score_of(shape: Shape) -> float | None:
    """How sure a program was of a shape: a key such as `score`, or the description that inference writes; else None.

    Raises
    ------
    ValueError
        If the key holds something else than a score.

    Examples
    --------
    >>> shapes = {"score": 0.75}, {"score": None}, {"description": "score 0.500"}, {"description": "lame"}
    >>> [score_of(Shape(1, "cow", "rectangle", np.zeros((2, 2)), None, keys)) for keys in shapes]
    [0.75, None, 0.5, None]
    """
    name = score_key(shape.keys)
    return described_score(shape.keys.get("description")) if name is None else read_score(name, shape.keys[name])


def tags_of(shapes: Sequence[Shape]) -> dict[str, Any]:
    """Flags of the shapes of one instance that are not about a keypoint's visibility; one that is true anywhere counts.

    Examples
    --------
    >>> keys = {"flags": {"occluded": True, "truncated": False, "kp_visible": True}}, {"flags": {"occluded": False}}
    >>> tags_of([Shape(1, "mouse", "polygon", np.zeros((3, 2)), 0, shape) for shape in keys])
    {'occluded': True, 'truncated': False}
    """
    tags: dict[str, Any] = {}
    for flags in (shape.keys.get("flags") for shape in shapes):
        for name, value in flags.items() if isinstance(flags, Mapping) else ():
            if name not in VISIBILITY_FLAGS:
                tags[name] = tags.get(name) or value
    return tags


def polygon_of(shape: Shape) -> np.ndarray:
    """Corners (N, 2) of a polygon, a rectangle by two of its corners, or a circle by its centre and a point on it.

    Examples
    --------
    >>> circle = Shape(1, "ball", "circle", np.array([[5.0, 5], [8, 9]]), None, {})
    >>> polygon = polygon_of(circle)
    >>> len(polygon), polygon.min(axis=0).tolist(), polygon.max(axis=0).tolist()
    (64, [0.0, 0.0], [10.0, 10.0])
    """
    if shape.kind == "rectangle":
        (x1, y1), (x2, y2) = shape.points.min(axis=0), shape.points.max(axis=0)
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    if shape.kind != "circle":
        return shape.points
    centre, radius = shape.points[0], np.linalg.norm(shape.points[1] - shape.points[0])
    angles = np.arange(_CIRCLE_CORNERS) * (2 * np.pi / _CIRCLE_CORNERS)
    return centre + radius * np.column_stack([np.cos(angles), np.sin(angles)])
