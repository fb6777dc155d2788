"""Labels of FiftyOne, each by itself: what they say of an object, in the pixels of its picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely

from utils.formats.fiftyone.values import plain_number, read_array, read_box, read_points
from utils.formats.mask_crops import place_mask
from utils.formats.mask_outlines import draw_outlines
from utils.formats.names import read_name
from utils.formats.predictions import read_score, score_key
from utils.formats.types import MISSING, OCCLUDED, VISIBLE, Skeleton, encode_mask, keypoints_array
from utils.formats.values import read_flag, read_whole

LISTS = {"Detections": "detections", "Polylines": "polylines", "Keypoints": "keypoints"}
SINGLE = {"Detection": "Detections", "Polyline": "Polylines", "Keypoint": "Keypoints"}
_OWN_KEYS = {
    "_id", "_cls", "tags", "attributes", "label", "bounding_box", "mask", "mask_path", "points", "closed", "filled",
    "index", "instance", "logits", "confidence", "confidences", "iscrowd", "area", "group_id", "track_id", "z_order",
    "visibility", "created_at", "last_modified_at",
}  # fmt: skip
FACTS = ("iscrowd", "area", "group_id", "track_id", "z_order", "visibility")  # attributes with a place of their own


@dataclass
class Label:
    """What one label says of an object; those of several fields may be of one.

    Parameters
    ----------
    name : str
        Of its class.
    slot : str
        box, area, line or points: an object has one of each.
    index : int, optional
        That labels of one object share.
    fields : dict
        Values of `Instance`.

    Examples
    --------
    >>> Label("cow", "box").fields
    {}
    """

    name: str
    slot: str
    index: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def labels_in(value: Mapping[str, Any]) -> list[Any]:
    """The single labels of a field: of its list, or itself.

    Raises
    ------
    ValueError
        If its list is none.

    Examples
    --------
    >>> labels_in({"_cls": "Detections", "detections": [{"label": "cow"}]}), len(labels_in({"_cls": "Polyline"}))
    ([{'label': 'cow'}], 1)
    """
    kind = value.get("_cls")
    if kind not in LISTS:
        return [value]
    found = value.get(LISTS[kind])
    if found is not None and not isinstance(found, list):
        raise ValueError(f"expected {LISTS[kind]} as a list, got {str(found)[:60]}")
    return found or []


def read_label(
    kind: str,
    keys: Any,
    size: tuple[int, int],
    skeleton: Callable[[str], Skeleton],
    open_mask: Callable[[str], np.ndarray],
) -> Label:
    """Read one label.

    Parameters
    ----------
    kind : str
        Detections, Polylines or Keypoints.
    keys : JSON value
        The label.
    size : (int, int)
        Height and width of its picture.
    skeleton : callable
        Gives the keypoints of a class.
    open_mask : callable
        Reads the file that a `mask_path` names.

    Raises
    ------
    ValueError
        What is wrong with it.

    Examples
    --------
    >>> keys = {"label": "cow", "bounding_box": [0.5, 0, 0.25, 1], "iscrowd": 1, "age": "old", "tags": ["hard"]}
    >>> cow = read_label("Detections", keys, (40, 60), lambda name: Skeleton(()), np.load)
    >>> cow.fields["box_xyxy"].tolist(), cow.fields["is_crowd"], cow.fields["tags"]
    ([30.0, 0.0, 45.0, 40.0], True, {'hard': True, 'age': 'old'})
    """
    if not isinstance(keys, Mapping):
        raise ValueError(f"expected a label, got {str(keys)[:60]}")
    try:
        name = read_name(keys.get("label"))
    except ValueError as error:
        raise ValueError(f"label: {error}") from None
    if kind == "Detections":
        slot, fields = "box", _read_detection(keys, size, open_mask)
    elif kind == "Polylines":
        slot, fields = _read_polyline(keys, size)
    else:
        slot, fields = "points", _read_keypoint(keys, size, skeleton(name))
    scored = score_key(keys) if kind != "Keypoints" else None
    if scored is not None:
        fields["score"] = read_score(scored, plain_number(keys[scored]))
    fields |= _read_facts(keys)
    index = plain_number(keys.get("index"))
    return Label(name, slot, None if index is None else read_whole(index), fields)


def _read_detection(
    keys: Mapping[str, Any], size: tuple[int, int], open_mask: Callable[[str], np.ndarray]
) -> dict[str, Any]:
    """Box and mask of a detection; the mask is stretched over the box's pixels, as FiftyOne shows it.

    Raises
    ------
    ValueError
        If either is none.

    Examples
    --------
    >>> keys = {"bounding_box": [0.25, 0, 0.5, 0.5], "mask": [[1, 0]]}
    >>> _read_detection(keys, (4, 8), np.load)["mask"]  # covers two columns of two rows from x = 2
    {'size': [4, 8], 'counts': [8, 2, 2, 2, 18]}
    """
    box = read_box(keys.get("bounding_box"), size)
    mask, path = keys.get("mask"), keys.get("mask_path")
    if mask is None and not path:
        return {"box_xyxy": box}
    pixels = size[0] * size[1]
    values = read_array(mask, pixels) if mask is not None else open_mask(str(path))
    left, top, right, bottom = np.floor(box + 0.5).astype(int).tolist()
    rows = _stretch(len(values), top, max(bottom, top + 1), size[0])
    columns = _stretch(values.shape[1], left, max(right, left + 1), size[1])
    covered = values[np.ix_(rows, columns)] != 0
    return {"box_xyxy": box, "mask": place_mask(covered, max(left, 0), max(top, 0), size)}


def _stretch(count: int, start: int, stop: int, side: int) -> np.ndarray:
    """Which of `count` rows of a mask lies at each row of the picture from `start` to `stop`, as far as it is there.

    Examples
    --------
    >>> _stretch(2, 1, 5, 9).tolist(), _stretch(4, -2, 2, 9).tolist()
    ([0, 0, 1, 1], [2, 3])
    """
    places = np.arange(max(start, 0), min(stop, side))
    return ((places - start) * 2 + 1) * count // (2 * (stop - start))


def _read_polyline(keys: Mapping[str, Any], size: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    """What a polyline is, and its rings or lines: filled ones are areas, a ring inside another one is a hole.

    Raises
    ------
    ValueError
        If its points are none, or too few.

    Examples
    --------
    >>> square = [[0, 0], [1, 0], [1, 1], [0, 1]]
    >>> inner = [[0.25, 0.25], [0.75, 0.25], [0.5, 0.75]]
    >>> slot, fields = _read_polyline({"points": [square, inner], "closed": True, "filled": True}, (40, 60))
    >>> slot, len(fields["polygons"]), fields["holes"][0].tolist()
    ('area', 1, [[15.0, 10.0], [45.0, 10.0], [30.0, 30.0]])
    """
    parts = keys.get("points")
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"expected points as a list of lists of pairs, got {str(parts)[:60]}")
    shapes = [read_points(part, "points") * [size[1], size[0]] for part in parts]
    filled, closed = (read_flag(name, keys.get(name)) for name in ("filled", "closed"))
    least = 3 if filled else 2
    short = next((len(points) for points in shapes if len(points) < least), None)
    if short is not None:
        raise ValueError(
            f"expected {least} points of a polyline that is {'filled' if filled else 'a line'}, got {short}"
        )
    if not filled:
        return "line", {"lines": tuple(np.vstack([part, part[:1]]) if closed else part for part in shapes)}
    polygons, holes, has_islands = nest_rings(shapes)
    if not has_islands:
        return "area", {"polygons": tuple(polygons), "holes": tuple(holes)}
    covered = np.logical_xor.reduce([draw_outlines([ring], (), size) for ring in shapes])
    return "area", {"mask": encode_mask(covered)}


def nest_rings(rings: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray], bool]:
    """Divide rings, each (N, 2), into outlines and those that lie inside one of them.

    Returns
    -------
    polygons, holes : list of ndarray
        In their order.
    has_islands : bool
        Whether a ring lies inside a hole, which outlines and holes cannot say.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]])
    >>> outer, inner, island = nest_rings([square, square / 2 + 1, square + 20])
    >>> len(outer), len(inner), island, nest_rings([square, square / 2 + 1, square / 4 + 2])[2]
    (2, 1, False, True)
    """
    if len(rings) == 1:
        return list(rings), [], False
    shapes = shapely.make_valid(np.array([shapely.Polygon(ring) for ring in rings]))
    inner, outer = shapely.STRtree(shapes).query(shapes, predicate="within")
    equal = shapely.equals(shapes[inner], shapes[outer])
    depths = np.bincount(inner[~equal], minlength=len(rings))
    divided = {kind: [ring for ring, depth in zip(rings, depths, strict=True) if depth % 2 == kind] for kind in (0, 1)}
    return divided[0], divided[1], bool(depths.max() > 1)


def _read_keypoint(keys: Mapping[str, Any], size: tuple[int, int], skeleton: Skeleton) -> dict[str, Any]:
    """Keypoints (K, 3) of a label; NaN is a missing one, `visibility` or `occluded` tell hidden ones.

    Raises
    ------
    ValueError
        If they are not those of the skeleton.

    Examples
    --------
    >>> keys = {"points": [[0.5, 0.5], [None, None]], "visibility": [1, 0]}
    >>> _read_keypoint(keys, (40, 60), Skeleton(("a", "b")))["keypoints"].tolist()
    [[30.0, 20.0, 1.0], [nan, nan, 0.0]]
    """
    points = read_points(keys.get("points"), "points", missing=True)
    if len(points) != skeleton.num_keypoints:
        raise ValueError(f"expected {skeleton.num_keypoints} points as its skeleton has, got {len(points)}")
    seen = np.where(np.isnan(points).any(axis=1), MISSING, VISIBLE)
    stated = {name: keys.get(name) for name in ("visibility", "occluded")}
    for name, values in stated.items():
        if isinstance(values, list) and len(values) == len(seen):
            hidden = [plain_number(value) in ((1,) if name == "visibility" else (1, True)) for value in values]
            seen = np.where((seen == VISIBLE) & hidden, OCCLUDED, seen)
    found: dict[str, Any] = {"keypoints": keypoints_array(points * [size[1], size[0]], seen)}
    scores = keys.get("confidence", keys.get("confidences"))
    if isinstance(scores, list) and any(score is not None for score in scores):
        numbers = [read_score("confidence", plain_number(score)) for score in scores]
        if len(numbers) != len(seen):
            raise ValueError(f"expected a confidence for each of {len(seen)} points, got {len(numbers)}")
        found["keypoint_scores"] = np.array([np.nan if number is None else number for number in numbers])
    elif scores is not None and not isinstance(scores, list):
        found["score"] = read_score("confidence", plain_number(scores))
    return found


def _read_facts(keys: Mapping[str, Any]) -> dict[str, Any]:
    """What a label says besides its place: attributes as tags, and those that have a place of their own.

    Raises
    ------
    ValueError
        If one of these is not what it should be.

    Examples
    --------
    >>> attributes = {"old": {"_cls": "BooleanAttribute", "value": True}}
    >>> _read_facts({"iscrowd": 0, "area": 7, "z_order": 2, "attributes": attributes})
    {'is_crowd': False, 'z_order': 2, 'tags': {'old': True}, 'area': 7.0}
    """
    listed, attributes, scored = keys.get("tags"), keys.get("attributes"), score_key(keys)
    tags: dict[str, Any] = dict.fromkeys((str(tag) for tag in listed), True) if isinstance(listed, list) else {}
    for name, value in attributes.items() if isinstance(attributes, Mapping) else ():
        tags[name] = plain_number(value.get("value") if isinstance(value, Mapping) else value)
    for name, value in keys.items():
        of_points = name == "occluded" and isinstance(value, list)
        if name not in _OWN_KEYS and name != scored and value is not None and not of_points:
            tags[name] = plain_number(value)
    stated = {name: plain_number(keys.get(name)) for name in ("area", "group_id", "track_id", "z_order")}
    found: dict[str, Any] = {
        "is_crowd": read_flag("iscrowd", plain_number(keys.get("iscrowd"))),
        "z_order": read_whole(stated["z_order"] or 0),
        "tags": tags,
    }
    if stated["area"] is not None:
        found["area"] = read_score("area", stated["area"])
    ids = (("group", "group_id"), ("track_id", "track_id"))
    return found | {name: read_whole(stated[key]) for name, key in ids if stated[key] is not None}
