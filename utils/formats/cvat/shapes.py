"""Shapes of a CVAT file, each by itself: what their attributes say, checked, in the pixels of the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utils.formats.elements import Element
from utils.formats.mask_crops import place_mask
from utils.formats.names import read_name
from utils.formats.predictions import read_score, score_name
from utils.formats.types import MISSING, MOST_POINTS, OCCLUDED, VISIBLE
from utils.formats.values import read_flag, read_number, read_whole

LEAST_POINTS = {"polygon": 3, "polyline": 2, "points": 1}
AREAS = ("box", "ellipse", "polygon", "mask")
SHAPES = (*AREAS, "polyline", "points", "skeleton", "cuboid")
_ELLIPSE_CORNERS = 64
_BY_PERSON = ("manual", "semi-auto", "consensus")  # the last two: made by a program, then by a person


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape of a CVAT file.

    Parameters
    ----------
    label : str
        Of its class.
    kind : str
        box, polygon (also of a rotated box and an ellipse), polyline, points, mask or skeleton.
    line : int
        Where it stands in the file.
    points : ndarray of float64, shape (N, 2)
        In pixels from the outer corner of the top-left pixel; of a box its corners; none of a mask or skeleton.
    mask : dict, optional
        COCO's run lengths, of the whole picture.
    joints : dict of str to (float, float, int)
        Of a skeleton: place and visibility by name.
    group, z_order : int
        0 where there is none.
    tags : dict of str to str or True
        Attributes as text, and `occluded` where it is.
    score : float, optional
        How sure a program was.

    Examples
    --------
    >>> Shape("car", "box", 3, np.array([[1.0, 2], [5, 8]])).group
    0
    """

    label: str
    kind: str
    line: int
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    mask: dict | None = None
    joints: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    group: int = 0
    z_order: int = 0
    tags: dict[str, Any] = field(default_factory=dict)
    score: float | None = None


def parse_shape(
    element: Element, size: tuple[int, int], label: str | None = None, defaults: Mapping[str, str] | None = None
) -> Shape:
    """Check one shape.

    Parameters
    ----------
    element : Element
        One of `SHAPES`.
    size : (int, int)
        Height and width of its picture.
    label : str, optional
        Of its track, which shapes of a video have in place of their own.
    defaults : dict of str to str, optional
        Values that attributes of the label have until somebody sets them.

    Raises
    ------
    ValueError
        What is wrong with it.

    Examples
    --------
    >>> from utils.formats.elements import parse_xml
    >>> text = '<box label="cow" xtl="1" ytl="2.5" xbr="3" ybr="4" occluded="1">{}</box>'
    >>> text = text.format('<attribute name="age">old</attribute>')
    >>> cow = parse_shape(parse_xml(text), (6, 8))
    >>> cow.points.tolist(), cow.tags
    ([[1.0, 2.5], [3.0, 4.0]], {'age': 'old', 'occluded': True})
    >>> parse_shape(parse_xml('<polygon label="cow" points="1,2;3,nan;4,4"/>'), (6, 8))
    Traceback (most recent call last):
        ...
    ValueError: expected points as pairs of finite numbers (x,y;x,y), got '1,2;3,nan;4,4'
    """
    kind, keys = element.name, element.attributes
    if kind == "cuboid":
        raise ValueError("a cuboid is neither box nor outline of a picture; draw it as one of these")
    try:
        label = read_name(keys.get("label") if label is None else label)
    except ValueError as error:
        raise ValueError(f"label: {error}") from None
    points, mask, joints = np.zeros((0, 2)), None, {}
    if kind == "mask":
        mask = _read_mask(keys, size)
    elif kind == "skeleton":
        joints = _read_joints(element)
    else:
        points = _read_outline(kind, keys)
    tags = _read_tags(element)
    score = _find_score(keys.get("source"), tags, defaults or {})
    if read_flag("occluded", keys.get("occluded")):
        tags["occluded"] = True
    whole = {name: read_whole(keys.get(name) or "0") for name in ("group_id", "z_order")}
    is_turned = kind == "ellipse" or (kind == "box" and len(points) == 4)
    kind = "polygon" if is_turned else kind
    return Shape(label, kind, element.line, points, mask, joints, whole["group_id"], whole["z_order"], tags, score)


def _read_outline(kind: str, keys: Mapping[str, str]) -> np.ndarray:
    """Points (N, 2) of a box, an ellipse or a shape that lists them; a box that is turned is its four corners.

    Raises
    ------
    ValueError
        If they are no finite numbers, or too few or too many.

    Examples
    --------
    >>> _read_outline("box", {"xtl": "0", "ytl": "0", "xbr": "4", "ybr": "2", "rotation": "90"}).round(6).tolist()
    [[3.0, -1.0], [3.0, 3.0], [1.0, 3.0], [1.0, -1.0]]
    """
    if kind == "box":
        left, top, right, bottom = _read_numbers(keys, ("xtl", "ytl", "xbr", "ybr"))
        if not (angle := _read_angle(keys)):
            return np.array([[left, top], [right, bottom]])
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return turn(corners, ((left + right) / 2, (top + bottom) / 2), angle)
    if kind == "ellipse":
        x, y, wide, high = _read_numbers(keys, ("cx", "cy", "rx", "ry"))
        steps = np.arange(_ELLIPSE_CORNERS) * 2 * np.pi / _ELLIPSE_CORNERS
        rim = np.column_stack([x + abs(wide) * np.cos(steps), y + abs(high) * np.sin(steps)])
        return turn(rim, (x, y), _read_angle(keys))
    return _read_points(kind, keys.get("points") or "")


def _read_numbers(keys: Mapping[str, str], names: tuple[str, ...]) -> list[float]:
    """Numbers of some attributes.

    Raises
    ------
    ValueError
        If one is missing or not finite.

    Examples
    --------
    >>> _read_numbers({"cx": "1.5", "cy": "inf"}, ("cx", "cy"))
    Traceback (most recent call last):
        ...
    ValueError: expected finite numbers as cx, cy, got '1.5', 'inf'
    """
    try:
        found = [read_number(keys.get(name, "none")) for name in names]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        stated = ", ".join(repr(keys.get(name, "")[:20]) for name in names)
        raise ValueError(f"expected finite numbers as {', '.join(names)}, got {stated}")
    return found


def _read_angle(keys: Mapping[str, str]) -> float:
    """Rotation in degrees, clockwise as the picture is seen; 0 where there is none.

    Examples
    --------
    >>> _read_angle({"rotation": "30.00"}), _read_angle({})
    (30.0, 0.0)
    """
    return _read_numbers(keys, ("rotation",))[0] % 360 if keys.get("rotation") else 0.0


def turn(points: np.ndarray, centre: tuple[float, float], degrees: float) -> np.ndarray:
    """Turn points (N, 2) clockwise as the picture is seen, whose y grows downwards.

    Examples
    --------
    >>> turn(np.array([[3.0, 1]]), (1, 1), 90).round(6).tolist()
    [[1.0, 3.0]]
    """
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return (points - centre) @ matrix + centre


def _read_points(kind: str, text: str) -> np.ndarray:
    """Points (N, 2) of a list such as "1.5,2;3,4".

    Raises
    ------
    ValueError
        If they are no pairs of finite numbers, or too few or too many.

    Examples
    --------
    >>> _read_points("polyline", "1.50,2;3,4").tolist()
    [[1.5, 2.0], [3.0, 4.0]]
    >>> _read_points("polygon", "1,2;3,4")
    Traceback (most recent call last):
        ...
    ValueError: a polygon needs 3 points, got 2
    """
    if text.count(";") >= MOST_POINTS:
        raise ValueError(
            f"a {kind} of {text.count(';') + 1} points, and it may have {MOST_POINTS} at most; simplify it"
        )
    pairs = text.strip().strip(";").split(";")
    try:
        if "_" in text or not text.isascii() or any(pair.count(",") != 1 for pair in pairs):
            raise ValueError
        points = np.array([float(number) for pair in pairs for number in pair.split(",")]).reshape(-1, 2)
    except ValueError:
        points = np.full((1, 2), np.nan)
    if not np.isfinite(points).all():
        raise ValueError(f"expected points as pairs of finite numbers (x,y;x,y), got {text[:60]!r}")
    if len(points) < LEAST_POINTS[kind]:
        raise ValueError(f"a {kind} needs {LEAST_POINTS[kind]} points, got {len(points)}")
    return points


def _read_mask(keys: Mapping[str, str], size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths of COCO, of the whole picture, out of CVAT's: row by row in the mask's box, first of what is empty.

    Raises
    ------
    ValueError
        If they are no whole numbers, do not add up to the box, or the box is not in the picture.

    References
    ----------
    Masks of cvat_sdk, whose last two numbers are the last column and row; the XML has width and height in their place.

    Examples
    --------
    >>> keys = {"rle": "1, 3, 2", "left": "1", "top": "0", "width": "3", "height": "2"}
    >>> _read_mask(keys, (2, 5))  # covered: 0 1 1 of the first row, 1 0 0 of the second
    {'size': [2, 5], 'counts': [3, 2, 1, 1, 3]}
    >>> _read_mask({**keys, "rle": "1, 3"}, (2, 5))
    Traceback (most recent call last):
        ...
    ValueError: run lengths of 4 pixels in a mask of 2 x 3; draw the mask again
    """
    names = ("left", "top", "width", "height")
    try:
        left, top, width, height = (read_whole(keys.get(name, "none")) for name in names)
        counts = [int(number) for number in keys.get("rle", "").split(",")]
    except ValueError:
        stated = ", ".join(repr(keys.get(name, "")[:20]) for name in ("rle", *names))
        raise ValueError(f"expected whole numbers as rle, {', '.join(names)}, got {stated}") from None
    if min(width, height) < 1 or min(left, top) < 0 or left + width > size[1] or top + height > size[0]:
        what = f"a mask of {height} x {width} pixels at row {top} and column {left}"
        raise ValueError(f"{what} reaches beyond its picture of {size[0]} x {size[1]}; draw the mask again")
    if min(counts) < 0 or sum(counts) != width * height:
        what = f"run lengths of {sum(counts)} pixels in a mask of {height} x {width}"
        raise ValueError(f"{what}; draw the mask again")
    crop = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    return place_mask(crop, left, top, size)


def _read_joints(element: Element) -> dict[str, tuple[float, float, int]]:
    """Place and visibility of the points of a skeleton by their labels; one that is outside is missing.

    Raises
    ------
    ValueError
        If one is no single point, or two have one label.

    Examples
    --------
    >>> from utils.formats.elements import parse_xml
    >>> rows = '<points label="nose" occluded="1" points="1,2"/><points label="tail" outside="1" points="0,0"/>'
    >>> _read_joints(parse_xml(f'<skeleton label="fox">{rows}</skeleton>'))
    {'nose': (1.0, 2.0, 1), 'tail': (0.0, 0.0, 0)}
    """
    found: dict[str, tuple[float, float, int]] = {}
    for part in element.children:
        if part.name == "attribute":
            continue
        name = part.attributes.get("label", "").strip()
        if part.name != "points" or not name or name in found:
            shown = f"{part.name} {name!r}"
            raise ValueError(f"expected points in the skeleton, each with a label of its own, got {shown[:60]}")
        outside, occluded = (read_flag(flag, part.attributes.get(flag)) for flag in ("outside", "occluded"))
        if outside:
            found[name] = (0.0, 0.0, MISSING)
            continue
        points = _read_points("points", part.attributes.get("points") or "")
        if len(points) != 1:
            raise ValueError(f"expected one point as {name!r}, got {len(points)}")
        found[name] = (*points[0].tolist(), OCCLUDED if occluded else VISIBLE)
    return found


def _read_tags(element: Element) -> dict[str, Any]:
    """The attributes that a person gave a shape, by name, as text.

    Examples
    --------
    >>> from utils.formats.elements import parse_xml
    >>> _read_tags(parse_xml('<box><attribute name="age"> old </attribute><attribute name="note"/></box>'))
    {'age': 'old', 'note': ''}
    """
    return {part.attributes.get("name", ""): part.text.strip() for part in element.find_all("attribute")}


def _find_score(source: str | None, tags: dict[str, Any], defaults: Mapping[str, str]) -> float | None:
    """Take how sure a program was out of the tags; a number that a person has given, or nobody, is none and stays.

    Raises
    ------
    ValueError
        If it is no number.

    Examples
    --------
    >>> tags = {"confidence": "87"}
    >>> _find_score("manual", tags, {}), _find_score(None, tags, {"confidence": "87"}), _find_score("auto", tags, {})
    (None, None, 87.0)
    >>> tags
    {}
    """
    name = score_name(tags)
    if name is None or source in _BY_PERSON or (source != "auto" and tags[name] == defaults.get(name)):
        return None
    return read_score(name, tags.pop(name))
