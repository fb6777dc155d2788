"""Categories and annotations of a COCO file: what they say, checked."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.formats.coco.ids import is_id
from utils.formats.names import read_name, read_names
from utils.formats.predictions import read_score, score_key
from utils.formats.run_lengths import read_counts
from utils.formats.sets import FACTS
from utils.formats.types import Instance, Problem, Skeleton, build_skeleton, keypoints_array, missing_keypoints
from utils.formats.values import read_flag, read_number

OWN_KEYS = frozenset(
    {
        "id", "image_id", "category_id", "bbox", "keypoints", "num_keypoints", "area", "iscrowd", "segmentation",
        "track_id", "score", "keypoint_scores", "attributes", FACTS,
    }
)  # fmt: skip
PICTURE_KEYS = frozenset({"id", "file_name", "width", "height", "image_id", "image_data", "found_by"})
_WHOLE_BODY = (
    "face_kpts", "lefthand_kpts", "righthand_kpts", "foot_kpts", "face_valid", "lefthand_valid", "foot_valid",
)  # fmt: skip


def check_dialect(where: str, content: Any) -> dict[str, Any]:
    """Refuse what is no COCO file of labels, with the reason.

    Raises
    ------
    DataError
        For a list of detections, a file without images, annotations and categories, and COCO-WholeBody.

    Examples
    --------
    >>> check_dialect("a.json", [{"bbox": [1, 2, 3, 4], "score": 0.5}])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.json: a list of 1 detections or results (bbox, score), not labels; give the file with \
images, annotations and categories
    """
    if isinstance(content, list):
        keys = ", ".join(sorted(content[0])) if content and isinstance(content[0], dict) else "empty"
        raise DataError(
            f"{where}: a list of {len(content)} detections or results ({keys}), not labels; "
            "give the file with images, annotations and categories"
        )
    needed = ("images", "annotations", "categories")
    missing = [key for key in needed if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DataError(f"{where}: not a COCO file of labels: no list of {', '.join(missing)}")
    found = {key for annotation in content["annotations"] if isinstance(annotation, dict) for key in annotation}
    whole = [key for key in _WHOLE_BODY if key in found]
    if whole:
        raise DataError(
            f"{where}: COCO-WholeBody keeps feet, face and hands beside the keypoints ({', '.join(whole)}), "
            "where they would be lost; export them as keypoints of one category"
        )
    return content


def read_categories(
    where: str, entries: Sequence[Any], problems: list[Problem]
) -> dict[int | str, tuple[str, Skeleton]]:
    """Read the categories.

    Parameters
    ----------
    where : str
        The file.
    entries : sequence
        `categories`; their `keypoints` are names, `skeleton` the edges from 1, `flip_idx` and `flip_pairs` from 0.
    problems : list of Problem
        Gets edges that cannot be.

    Returns
    -------
    dict of int or str to (str, Skeleton)
        Name and skeleton by id; without keypoints the skeleton is empty.

    Raises
    ------
    DataError
        If an entry has no id or name, or one of them or a keypoint name is a duplicate.

    Examples
    --------
    >>> read_categories("a.json", [{"id": 3, "name": "fish", "keypoints": ["eyeL", "eyeR"], "skeleton": [[1, 2]]}], [])
    {3: ('fish', Skeleton(names=('eyeL', 'eyeR'), flip_idx=(1, 0), edges=((0, 1),)))}
    """
    found: dict[int | str, tuple[str, Skeleton]] = {}
    for index, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not is_id(entry.get("id")) or "name" not in entry:
            raise DataError(f"{where}: category {index}: expected an id and a name, got {str(entry)[:60]}")
        try:
            name, place = read_name(entry["name"]), f"{where}: category {entry['name']!r}"
        except ValueError as error:
            raise DataError(f"{where}: category {index} (id {entry['id']}): {error}; give it one") from None
        if entry["id"] in found or name in (other for other, _ in found.values()):
            raise DataError(f"{place}: its id {entry['id']} or its name is a duplicate; give each category its own")
        labels = entry.get("keypoints") or []
        if not isinstance(labels, list):
            raise DataError(f"{place}: expected keypoints as a list of names, got {str(labels)[:60]}")
        names = read_names(labels, f"{place}: keypoints")
        edges = _read_edges(place, entry.get("skeleton"), len(names), problems)
        found[entry["id"]] = name, build_skeleton(place, names, _read_flips(place, entry, len(names)), edges)
    return found


def _read_edges(where: str, value: Any, count: int, problems: list[Problem]) -> list[tuple[int, int]]:
    """Edges from 0; none, with a problem, when they do not fit the keypoints.

    Examples
    --------
    >>> _read_edges("a.json", [[1, 2]], 2, []), _read_edges("a.json", [[0, 1]], 2, [])
    ([(0, 1)], [(0, 1)])
    >>> problems = []
    >>> _read_edges("a.json", [[16, 14]], 14, problems), problems[0].what
    ([], 'the skeleton names keypoints that are not there (1 to 14 are), so no edge is read')
    """
    value = value if isinstance(value, list) else []
    lists = [pair for pair in value if isinstance(pair, list) and len(pair) == 2]
    pairs = [pair for pair in lists if all(type(end) is int for end in pair)]
    first = 0 if any(0 in pair for pair in pairs) else 1  # COCO counts from 1; some count from 0
    if len(pairs) < len(value) or any(not first <= end < count + first for pair in pairs for end in pair):
        what = f"the skeleton names keypoints that are not there (1 to {count} are), so no edge is read"
        problems.append(Problem(where, what, "mend the skeleton"))
        return []
    if first == 0:
        problems.append(Problem(where, "the skeleton counts keypoints from 0 (COCO from 1); read so", "add 1 to each"))
    return [(a - first, b - first) for a, b in pairs]


def _read_flips(where: str, entry: Mapping[str, Any], count: int) -> list[int] | None:
    """Mirror partners that a category states, or None.

    Raises
    ------
    DataError
        If they are no list of indices, or no pairs of them.

    Examples
    --------
    >>> _read_flips("a.json", {"flip_pairs": [[1, 2]]}, 3)
    [0, 2, 1]
    >>> _read_flips("a.json", {"flip_pairs": 5}, 3)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.json: flip_pairs: expected pairs of keypoint indices from 0, got 5
    """
    stated, pairs = entry.get("flip_idx"), entry.get("flip_pairs")
    if stated is not None:
        if not isinstance(stated, list) or any(type(index) is not int for index in stated):
            raise DataError(f"{where}: flip_idx: expected a list of keypoint indices from 0, got {stated!r}")
        return stated
    if not pairs:
        return None
    if not isinstance(pairs, list):
        raise DataError(f"{where}: flip_pairs: expected pairs of keypoint indices from 0, got {str(pairs)[:60]}")
    flips = list(range(count))
    for pair in pairs:
        good = isinstance(pair, list) and len(pair) == 2 and all(type(k) is int and 0 <= k < count for k in pair)
        if not good:
            raise DataError(f"{where}: flip_pairs: expected pairs of keypoint indices from 0, got {pair!r}")
        flips[pair[0]], flips[pair[1]] = pair[1], pair[0]
    return flips


def read_annotation(
    keys: Mapping[str, Any], category: str, skeleton: Skeleton, size: tuple[int, int] | None = None
) -> tuple[Instance, list[str]]:
    """Read one annotation.

    Parameters
    ----------
    keys : dict
        The annotation; one without keypoints is a box.
    category : str
        Name of its category.
    skeleton : Skeleton
        Of its category.
    size : (int, int), optional
        Height and width of its picture, which a mask must have.

    Returns
    -------
    Instance
        Fields that are not COCO's own are in `extra`.
    list of str
        Parts that could not be used.

    Raises
    ------
    ValueError
        What makes the annotation unusable.

    Examples
    --------
    >>> keys = {"id": 7, "keypoints": [3, 4, 2, 0, 0, 0], "bbox": [1, 2, 5, 6], "iscrowd": 0}
    >>> fish, parts = read_annotation(keys, "fish", Skeleton(("eye", "tail")))
    >>> fish.keypoints.tolist(), fish.box_xyxy.tolist(), fish.group, parts
    ([[3.0, 4.0, 2.0], [nan, nan, 0.0]], [1.0, 2.0, 6.0, 8.0], 7, [])
    """
    parts: list[str] = []
    stated = keys.get(FACTS)
    facts: dict[str, Any] = stated if isinstance(stated, dict) else {}
    derived = facts["derived"] if isinstance(facts.get("derived"), list) else []
    tags, scored = keys.get("attributes"), score_key(keys)
    extra = {key: value for key, value in keys.items() if key not in OWN_KEYS and key != scored}
    if not isinstance(tags, dict) and tags is not None:
        extra["attributes"] = tags
    mask = keys["segmentation"] if keys.get("segmentation") and isinstance(keys["segmentation"], dict) else None
    if mask is not None:
        read_counts(mask, size)
    keypoints = _read_keypoints(keys.get("keypoints"), skeleton)
    box = None if "bbox" in derived else _read_box(keys.get("bbox"), parts)
    polygons, broken = _read_polygons(keys.get("segmentation"), parts)
    if broken and box is None and not (keypoints[:, 2] > 0).any():
        raise ValueError(f"{parts[-1].partition(';')[0]}, and no bbox tells where the object is")
    instance = Instance(
        category=category,
        keypoints=keypoints,
        box_xyxy=box,
        polygons=() if broken else polygons,  # a part of an outline would show the rest as something else
        mask=mask,
        area=None if "area" in derived else _read_number(keys, "area", parts),
        is_crowd=read_flag("iscrowd", keys.get("iscrowd")),
        group=_read_whole(facts["group"] if "group" in facts else keys.get("id")),
        score=None if scored is None else read_score(scored, keys[scored]),
        keypoint_scores=_read_scores(keys.get("keypoint_scores"), skeleton, parts),
        track_id=_read_whole(keys.get("track_id")),
        tags=tags if isinstance(tags, dict) else {},
        extra=extra,
    )
    return instance, parts


def _read_keypoints(value: Any, skeleton: Skeleton) -> np.ndarray:
    """Keypoints of an annotation, shape (K, 3).

    Raises
    ------
    ValueError
        If they are not three finite numbers for each keypoint, or a visibility is not 0, 1 or 2.

    Examples
    --------
    >>> _read_keypoints([3, 4, 5], Skeleton(("eye",)))
    Traceback (most recent call last):
        ...
    ValueError: expected visibility 0, 1 or 2, got 5
    """
    count = skeleton.num_keypoints
    if value is None or value == []:
        return missing_keypoints(count)
    values = _numbers(value, "keypoints")
    if len(values) != 3 * count:
        raise ValueError(f"expected {3 * count} keypoint values ({count} keypoints of 3), got {len(values)}")
    points = values.reshape(count, 3)
    seen = np.round(points[:, 2])
    wrong = ~np.isin(seen, (0, 1, 2))
    if wrong.any():
        raise ValueError(f"expected visibility 0, 1 or 2, got {points[wrong, 2][0]:g}")
    if not np.isfinite(points[seen > 0]).all():
        raise ValueError("expected finite keypoints, got NaN or infinity")
    return keypoints_array(points[:, :2], seen)


def _numbers(value: Any, name: str) -> np.ndarray:
    """A flat list of numbers as an array of shape (N,).

    Raises
    ------
    ValueError
        If it is something else.

    Examples
    --------
    >>> _numbers([1, "a"], "bbox")
    Traceback (most recent call last):
        ...
    ValueError: expected bbox as a list of numbers, got [1, 'a']
    """
    flat = isinstance(value, list) and all(isinstance(item, int | float | None) for item in value)
    if not flat:
        raise ValueError(f"expected {name} as a list of numbers, got {str(value)[:60]}")
    return as_floats(value)


def as_floats(values: Sequence[float | None]) -> np.ndarray:
    """Numbers of JSON as an array of shape (N,); None becomes NaN, a whole number that no float can hold infinity.

    Examples
    --------
    >>> as_floats([1, None, 10**400, -(10**400)]).tolist()
    [1.0, nan, inf, -inf]
    """
    try:
        return np.array(values, np.float64)
    except OverflowError:
        return np.array([np.nan if value is None else as_float(value) for value in values], np.float64)


def as_float(value: float) -> float:
    """A number of JSON as a float; a whole number that none can hold is infinite.

    Examples
    --------
    >>> as_float(3), as_float(-(10**400))
    (3.0, -inf)
    """
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _read_box(value: Any, parts: list[str]) -> np.ndarray | None:
    """Box as corners, (4,) as x1, y1, x2, y2; None where there is none or it is flat.

    Raises
    ------
    ValueError
        If it is not 4 finite numbers.

    Examples
    --------
    >>> _read_box([1, 2, float("nan"), 6], [])
    Traceback (most recent call last):
        ...
    ValueError: expected bbox as 4 finite numbers (x, y, width, height), got [1, 2, nan, 6]
    >>> parts = []
    >>> _read_box([1, 2, 0, 6], parts), parts
    (None, ['bbox has no width or no height (0 x 6); it is left out'])
    """
    if value is None:
        return None
    values = _numbers(value, "bbox")
    if len(values) != 4 or not all(map(math.isfinite, values.tolist())):
        raise ValueError(f"expected bbox as 4 finite numbers (x, y, width, height), got {str(value)[:60]}")
    x, y, width, height = values.tolist()
    if min(width, height) <= 0:
        parts.append(f"bbox has no width or no height ({width:g} x {height:g}); it is left out")
        return None
    return np.array([x, y, x + width, y + height], np.float64)


def _read_polygons(value: Any, parts: list[str]) -> tuple[tuple[np.ndarray, ...], bool]:
    """Polygons, each of shape (N, 2), of a segmentation that is a list of them, and whether one is broken.

    One of two points has no area, so that nothing is lost with it.

    Examples
    --------
    >>> parts = []
    >>> polygons, broken = _read_polygons([[0, 0, 4, 0, 4, 3], [1, 2]], parts)
    >>> [polygon.tolist() for polygon in polygons], broken, parts
    ([[[0.0, 0.0], [4.0, 0.0], [4.0, 3.0]]], False, ['polygon 2 is no list of 3 or more finite points; it is left out'])
    >>> _read_polygons([[0, 0, 4, 0, 4, None]], [])
    ((), True)
    """
    found, broken = [], False
    for index, item in enumerate(value if isinstance(value, list) else [], start=1):
        good = isinstance(item, list) and all(isinstance(number, int | float) for number in item)
        corners = as_floats(item if good else [])
        if len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
            parts.append(f"polygon {index} is no list of 3 or more finite points; it is left out")
            broken |= not good or len(corners) % 2 == 1 or not np.isfinite(corners).all()
        else:
            found.append(corners.reshape(-1, 2))
    return tuple(found), broken


def _read_number(keys: Mapping[str, Any], name: str, parts: list[str]) -> float | None:
    """A finite number, also one in quotes, or None.

    Examples
    --------
    >>> _read_number({"area": "7.5"}, "area", [])
    7.5
    >>> parts = []
    >>> _read_number({"area": "big"}, "area", parts), parts
    (None, ["area is no finite number ('big'); it is left out"])
    """
    value = keys.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = read_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(as_float(value)):
        parts.append(f"{name} is no finite number ({repr(value)[:60]}); it is left out")
        return None
    return float(value)


def _read_whole(value: Any) -> int | None:
    """A whole number, or None.

    Examples
    --------
    >>> _read_whole(3), _read_whole("7"), _read_whole("a7"), _read_whole(None)
    (3, 7, None, None)
    """
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else None


def _read_scores(value: Any, skeleton: Skeleton, parts: list[str]) -> np.ndarray | None:
    """Scores of keypoints, one for each: shape (K,).

    Examples
    --------
    >>> _read_scores([0.5, None], Skeleton(("eye", "tail")), []).tolist()
    [0.5, nan]
    """
    if value is None:
        return None
    scores = _numbers(value, "keypoint_scores")
    if len(scores) != skeleton.num_keypoints:
        parts.append(f"keypoint_scores has {len(scores)} values for {skeleton.num_keypoints} keypoints; it is left out")
        return None
    return scores
