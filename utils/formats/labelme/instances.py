"""Which shapes of a LabelMe file make one animal, and what they say about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from utils.formats.labelme.shapes import (
    RINGS,
    Shape,
    decode_mask,
    parse_shape,
    polygon_of,
    score_of,
    tags_of,
    visibility_of,
)
from utils.formats.predictions import read_score
from utils.formats.run_lengths import area_of_mask, box_of_mask, read_counts
from utils.formats.sets import FACTS
from utils.formats.types import Instance, Problem, Skeleton, encode_mask, keypoints_array, polygon_area
from utils.formats.values import read_flag, read_whole
from utils.geometry.crops import tight_box

ANY_CATEGORY = ""  # of an instance whose shapes name none


class ShapeReader:
    """Turns the shapes of a file into instances.

    Parameters
    ----------
    skeletons : dict of str to Skeleton
        By category.
    any_category : bool
        Whether the labels of boxes and outlines name the categories; else only those of `skeletons` exist. All
        categories have the one skeleton then, which stands under `ANY_CATEGORY`.
    need_keypoints : bool
        Whether the shapes are animals with keypoints: an outline with a keypoint's name is then a mark around it, lines
        are left out with a note, and a rectangle beside an outline is the animal's box. Else all of these are areas and
        lines of the object.

    Examples
    --------
    >>> reader = ShapeReader({"mouse": Skeleton(("nose", "tail"))}, any_category=False)
    >>> shape = {"label": "nose", "points": [[3, 4]], "shape_type": "point", "group_id": 7}
    >>> instances, problems = reader.read([shape], (4, 6))
    >>> instances[0].keypoints.tolist(), instances[0].group, problems
    ([[3.0, 4.0, 2.0], [nan, nan, 0.0]], 7, [])
    """

    def __init__(self, skeletons: Mapping[str, Skeleton], any_category: bool, need_keypoints: bool = True):
        self.skeletons = skeletons
        self.any_category = any_category
        self.need_keypoints = need_keypoints
        self.names = {name for skeleton in skeletons.values() for name in skeleton.names}

    def read(self, entries: Sequence[Any], size: tuple[int, int]) -> tuple[list[Instance], list[Problem]]:
        """Read the shapes of a file.

        Parameters
        ----------
        entries : sequence
            The file's `shapes`.
        size : (int, int)
            Height and width of its picture.

        Returns
        -------
        list of Instance
            In the order of their first shapes.
        list of Problem
            What was skipped or doubtful; the place is within the file.

        Examples
        --------
        >>> reader = ShapeReader({"mouse": Skeleton(("nose",))}, any_category=False)
        >>> reader.read([{"label": "nsoe", "points": [[3, 4]], "shape_type": "point"}], (4, 6))[1][0].what
        "'nsoe' is no keypoint; did you mean 'nose'?"
        """
        problems: list[Problem] = []
        shapes = []
        for index, keys in enumerate(entries, start=1):
            try:
                shape = parse_shape(index, keys)
                self._check(shape)
            except ValueError as error:
                problems.append(Problem(f"shape {index}", str(error), "mend or remove the shape", lost=True))
                continue
            if self.need_keypoints and shape.is_line:
                what = f"the {shape.kind} {shape.label!r} is neither keypoint, box nor outline; it is left out"
                problems.append(Problem(f"shape {index}", what, blocks=False))
            elif not self._is_mark(shape):
                shapes.append(shape)
        groups = sorted(self._group(shapes, problems), key=lambda group: group[0].index)
        found = [self._build(group, size, problems) for group in groups]
        return [instance for instance in found if instance is not None], problems

    def _is_mark(self, shape: Shape) -> bool:
        """Whether an outline is only drawn around the keypoint whose name it has, as some tools show predictions.

        Examples
        --------
        >>> circle = Shape(1, "nose", "circle", np.zeros((2, 2)), None, {"label": "nose"})
        >>> [ShapeReader({"mouse": Skeleton(("nose",))}, True, needs)._is_mark(circle) for needs in (True, False)]
        [True, False]
        """
        if not self.need_keypoints or shape.kind not in RINGS or shape.label in self.skeletons:
            return False
        return bool({shape.label, str(shape.keys["label"])} & self.names)

    def _check(self, shape: Shape) -> None:
        """Refuse a point that is no keypoint, and a visibility or a score that is none.

        Raises
        ------
        ValueError
            If it is one of them.

        Examples
        --------
        >>> reader = ShapeReader({"mouse": Skeleton(("nose",))}, any_category=False)
        >>> reader._check(Shape(1, "x", "point", np.zeros((1, 2)), None, {}))
        Traceback (most recent call last):
            ...
        ValueError: 'x' is no keypoint; known: nose
        """
        score_of(shape)
        facts = shape.keys.get(FACTS)
        read_score("score", facts.get("score") if isinstance(facts, Mapping) else None)
        if not shape.is_point:
            return
        visibility_of(shape.keys)
        if shape.label not in self.names:
            close = get_close_matches(shape.label, self.names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(self.names)[:8])}"
            raise ValueError(f"{shape.label!r} is no keypoint; {hint}")

    def _group(self, shapes: Sequence[Shape], problems: list[Problem]) -> list[list[Shape]]:
        """Shapes of each instance; those without group_id are one animal where that is possible.

        Examples
        --------
        >>> reader = ShapeReader({"mouse": Skeleton(("nose",))}, any_category=False)
        >>> noses = [Shape(i, "nose", "point", np.zeros((1, 2)), None, {}) for i in (1, 2)]
        >>> problems = []
        >>> reader._group(noses, problems), problems[0].where
        ([], 'shapes 1, 2')
        """
        by_group: dict[int | None, list[Shape]] = {}
        for shape in shapes:
            by_group.setdefault(shape.group, []).append(shape)
        loose = by_group.pop(None, [])
        groups = [part for group in by_group.values() for part in _split_without_points(group, self.need_keypoints)]
        points = [shape for shape in loose if shape.is_point]
        if not points:
            return [*groups, *([shape] for shape in loose)]
        if not self.need_keypoints and len({shape.label for shape in loose if not shape.is_point}) > 1:
            where, what = f"shapes {', '.join(str(shape.index) for shape in points)}", "points beside several outlines"
            cure = "which of them they belong to is not known, so they are left out; give each object a group_id"
            problems.append(Problem(where, what, cure, blocks=False))
            return [*groups, *([shape] for shape in loose if not shape.is_point)]
        groups += [[shape] for shape in loose if shape.is_line]
        loose = [shape for shape in loose if not shape.is_line]
        labels = [(shape.is_point, shape.label) for shape in loose if shape.is_point or shape.kind in RINGS]
        if len(set(labels)) == len(labels) and sum(shape.kind in ("rectangle", "mask") for shape in loose) <= 1:
            return [*groups, loose]  # no duplicate keypoint or outline, and there is one box at most
        where = f"shapes {', '.join(str(shape.index) for shape in points)}"
        what = "points of several objects without group_id; which belong together is not known"
        cure, needed = "give the shapes of each object a group_id of their own", self.need_keypoints
        problems.append(Problem(where, what, cure, lost=needed, blocks=needed))
        return [*groups, *([shape] for shape in loose if not shape.is_point)]

    def _build(self, shapes: Sequence[Shape], size: tuple[int, int], problems: list[Problem]) -> Instance | None:
        """One instance out of its shapes, or None when its category is not known.

        Examples
        --------
        >>> reader = ShapeReader({"mouse": Skeleton(("nose",))}, any_category=False)
        >>> box = Shape(1, "cage", "rectangle", np.zeros((2, 2)), None, {})
        >>> problems = []
        >>> reader._build([box], (4, 6), problems) is None, problems[0].what
        (True, "'cage' is no category; known: mouse")
        """
        facts = _facts_of(shapes, problems)
        outlines = [shape for shape in shapes if not shape.is_point]
        category = self._category(shapes, facts)
        if category is None:
            label = repr(outlines[0].label) if outlines else "an instance of points only"
            what = f"{label} is no category; known: {', '.join(self.skeletons)}"
            problems.append(
                Problem(f"shape {shapes[0].index}", what, "name it in the specification, or remove it", lost=True)
            )
            return None
        skeleton = self.skeletons[ANY_CATEGORY if self.any_category else category]
        keypoints, scores = _place_keypoints(shapes, skeleton, problems)
        mask, unread = _mask_of(outlines, size, problems)
        areas = [shape for shape in outlines if not shape.is_line]
        is_one = self.need_keypoints or len(outlines) < len(shapes)  # an animal with its box, not parts of an object
        kinds = RINGS if is_one or len(areas) == 1 else (*RINGS, "rectangle")
        boxes = [shape for shape in areas if shape.kind == "rectangle" and "rectangle" not in kinds]
        instance = Instance(
            category=category,
            keypoints=keypoints,
            box_xyxy=_box_of([*boxes, *unread], problems),
            polygons=tuple(polygon_of(shape) for shape in areas if shape.kind in kinds),
            lines=tuple(shape.points for shape in outlines if shape.is_line),
            mask=mask,
            group=shapes[0].group,
            score=next((score for shape in outlines if (score := score_of(shape)) is not None), None),
            keypoint_scores=scores,
            tags=tags_of(shapes),
        )
        try:
            return _apply_facts(instance, facts, size)
        except (TypeError, ValueError) as error:
            what = f"{FACTS!r} cannot be used ({error})"
            problems.append(Problem(f"shape {shapes[0].index}", what, "remove that key"))
            return instance

    def _category(self, shapes: Sequence[Shape], facts: Mapping[str, Any]) -> str | None:
        """Category of an instance, or None.

        Examples
        --------
        >>> reader = ShapeReader({"mouse": Skeleton(("nose",))}, any_category=False)
        >>> nose = Shape(1, "nose", "point", np.zeros((1, 2)), None, {})
        >>> box = Shape(2, "mouse_rect", "rectangle", np.zeros((2, 2)), None, {})
        >>> reader._category([nose, box], {}), reader._category([box], {})
        ('mouse', None)
        """
        outlines = sorted(
            (shape for shape in shapes if not shape.is_point),
            key=lambda shape: (shape.is_line, shape.kind != "rectangle"),
        )
        labels = [str(facts["category"])] if "category" in facts else [shape.label for shape in outlines]
        if self.any_category:
            return labels[0] if labels else ANY_CATEGORY
        found = next((label for label in labels if label in self.skeletons), None)
        if found is not None:
            return found
        points = {shape.label for shape in shapes if shape.is_point}
        fitting = [name for name, skeleton in self.skeletons.items() if points <= set(skeleton.names)]
        return fitting[0] if points and len(fitting) == 1 else None


def _split_without_points(shapes: list[Shape], need_keypoints: bool) -> list[list[Shape]]:
    """Shapes of one group_id: one instance with points, else one for each label, as LabelMe's own converters do.

    Where keypoints are not asked for, points do not join outlines of several labels; the first of them gets them.

    Examples
    --------
    >>> shapes = [Shape(i, label, "rectangle", np.zeros((2, 2)), 0, {}) for i, label in enumerate("aab")]
    >>> [len(part) for part in _split_without_points(shapes, need_keypoints=True)]
    [2, 1]
    >>> nose = Shape(4, "nose", "point", np.zeros((1, 2)), 0, {})
    >>> [len(_split_without_points([*shapes, nose], needed)) for needed in (True, False)]
    [1, 2]
    """
    points = [shape for shape in shapes if shape.is_point]
    by_label: dict[str, list[Shape]] = {}
    for shape in shapes:
        if not shape.is_point:
            by_label.setdefault(shape.label, []).append(shape)
    if points and (need_keypoints or len(by_label) < 2):
        return [shapes]
    first, *others = by_label.values()
    return [[*first, *points], *others]


def _place_keypoints(
    shapes: Sequence[Shape], skeleton: Skeleton, problems: list[Problem]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Keypoints (K, 3) in the skeleton's order, and their scores (K,) where the shapes have any.

    Examples
    --------
    >>> hidden, seen = {"flags": {"kp_visible": False}, "score": 0.5}, {}
    >>> noses = [Shape(i, "nose", "point", np.full((1, 2), i), 0, keys) for i, keys in ((1, hidden), (2, seen))]
    >>> problems = []
    >>> keypoints, scores = _place_keypoints(noses, Skeleton(("nose",)), problems)
    >>> keypoints.tolist(), scores, problems[0].what
    ([[2.0, 2.0, 2.0]], None, "'nose' is a duplicate in one group; the more visible one is taken")
    """
    places: dict[str, Shape] = {}
    for shape in (shape for shape in shapes if shape.is_point):
        other = places.get(shape.label)
        if shape.label not in skeleton.names:
            what = f"{shape.label!r} is no keypoint of its category; known: {', '.join(skeleton.names[:8])}"
            problems.append(
                Problem(f"shape {shape.index}", what, "mend the label, or the category's outline", lost=True)
            )
            continue
        if other is not None:
            what = f"{shape.label!r} is a duplicate in one group; the more visible one is taken"
            problems.append(Problem(f"shapes {other.index}, {shape.index}", what, "remove one"))
        if other is None or visibility_of(shape.keys) > visibility_of(other.keys):
            places[shape.label] = shape
    points = np.zeros((skeleton.num_keypoints, 2))
    seen, scores = np.zeros(skeleton.num_keypoints), np.full(skeleton.num_keypoints, np.nan)
    for label, shape in places.items():
        k = skeleton.names.index(label)
        points[k], seen[k] = shape.points[0], visibility_of(shape.keys)
        score = score_of(shape)
        scores[k] = math.nan if score is None else score
    return keypoints_array(points, seen), None if np.isnan(scores).all() else scores


def _box_of(boxes: Sequence[Shape], problems: list[Problem]) -> np.ndarray | None:
    """Box (4,), as x1, y1, x2, y2, that rectangles state, or mask shapes, whose last pixel is inside.

    Examples
    --------
    >>> corners = np.array([[8.0, 2], [3, 7]])
    >>> [_box_of([Shape(1, "mouse", kind, corners, None, {})], []).tolist() for kind in ("rectangle", "mask")]
    [[3.0, 2.0, 8.0, 7.0], [3.0, 2.0, 9.0, 8.0]]
    """
    if not boxes:
        return None
    if len(boxes) > 1:
        where = f"shapes {', '.join(str(shape.index) for shape in boxes)}"
        problems.append(Problem(where, "several boxes of one instance; the box around all is taken", "keep one"))
    ends = [shape.points.max(axis=0) + (shape.kind == "mask") for shape in boxes]
    return tight_box(np.concatenate([*(shape.points for shape in boxes), np.array(ends)]))


def _mask_of(
    outlines: Sequence[Shape], size: tuple[int, int], problems: list[Problem]
) -> tuple[dict[str, Any] | None, list[Shape]]:
    """Run lengths, as COCO has them, of all that mask shapes cover, or None; and the mask shapes that cannot be read.

    Examples
    --------
    >>> import base64, cv2
    >>> png = base64.b64encode(cv2.imencode(".png", np.ones((2, 3), np.uint8))[1]).decode()
    >>> mask = Shape(1, "mouse", "mask", np.array([[1.0, 2], [3, 3]]), None, {"mask": png})
    >>> _mask_of([mask], (4, 6), [])
    ({'size': [4, 6], 'counts': [6, 2, 2, 2, 2, 2, 8]}, [])
    """
    shapes = [shape for shape in outlines if shape.kind == "mask"]
    if not shapes:
        return None, []
    covered, unread = np.zeros(size, bool), []
    for shape in shapes:
        try:
            pixels = decode_mask(shape, size)
        except ValueError as error:
            what = f"{error}; only the box is read"
            problems.append(Problem(f"shape {shape.index}", what, "draw it again", lost=True))
            unread.append(shape)
            continue
        x, y = (int(start) for start in np.round(np.clip(shape.points.min(axis=0), -(2**30), 2**30)))
        rows, columns = slice(max(y, 0), max(y + pixels.shape[0], 0)), slice(max(x, 0), max(x + pixels.shape[1], 0))
        place = covered[rows, columns]
        top, left = rows.start - y, columns.start - x
        shown = pixels[top : top + place.shape[0], left : left + place.shape[1]]
        if shown.shape != pixels.shape:
            what = "its mask reaches beyond the picture; it is cut at the edge"
            problems.append(Problem(f"shape {shape.index}", what, "look at it, and draw it again", blocks=False))
        place |= shown
    return encode_mask(covered) if covered.any() else None, unread


def outline_print(instance: Instance) -> list[float] | None:
    """Bounds and area of what is drawn around an instance: tells whether it was edited after facts were written.

    Examples
    --------
    >>> triangle = np.array([[0.0, 0], [4, 0], [4, 3]])
    >>> outline_print(Instance("mouse", keypoints_array([[1, 1]], [2]), polygons=(triangle,)))
    [0.0, 0.0, 4.0, 3.0, 6.0]
    """
    corners, area = [*instance.polygons, *instance.lines], polygon_area(instance.polygons)
    box = None if instance.mask is None else box_of_mask(instance.mask)
    if instance.mask is not None and box is not None:
        corners.append(box.reshape(2, 2))
        area += area_of_mask(instance.mask)
    if not corners and instance.box_xyxy is not None:
        corners = [instance.box_xyxy.reshape(2, 2)]
    if not corners:
        return None
    drawn = np.concatenate(corners)
    return [*drawn.min(axis=0).tolist(), *drawn.max(axis=0).tolist(), area]


def _facts_of(shapes: Sequence[Shape], problems: list[Problem]) -> Mapping[str, Any]:
    """What we once wrote about an instance into one of its shapes.

    Examples
    --------
    >>> _facts_of([Shape(1, "nose", "point", np.zeros((1, 2)), 0, {FACTS: {"area": 3.0}})], [])
    {'area': 3.0}
    """
    for shape in shapes:
        facts = shape.keys.get(FACTS)
        if isinstance(facts, Mapping):
            return facts
        if facts is not None:
            what = f"{FACTS!r} must be a mapping, got {str(facts)[:40]}"
            problems.append(Problem(f"shape {shape.index}", what, "remove that key"))
    return {}


def _apply_facts(instance: Instance, facts: Mapping[str, Any], size: tuple[int, int]) -> Instance:
    """Add to an instance what its shapes cannot show; box and area only while the polygons are as they were.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    >>> instance = Instance("mouse", keypoints_array([[1, 1]], [2]), polygons=(square,))
    >>> facts = {"box_xyxy": [0, 0, 3, 3], "outline": [0, 0, 2, 2, 4], "is_crowd": True}
    >>> changed = _apply_facts(instance, facts, (4, 6))
    >>> changed.box_xyxy.tolist(), changed.is_crowd
    ([0.0, 0.0, 3.0, 3.0], True)
    >>> _apply_facts(instance, {**facts, "outline": [0, 0, 5, 2, 9]}, (4, 6)).box_xyxy is None
    True
    """
    kept = {**facts, "track_id": facts.get("track")}
    changes = {key: read(kept[key]) for key, read in _FACTS.items() if kept.get(key) is not None}
    changes |= {"group": None} if "group" in facts and facts["group"] is None else {}
    if facts.get("mask") is not None:
        read_counts(facts["mask"], size)
        changes["mask"] = facts["mask"]
    if facts.get("keypoint_scores") is not None:
        scores = np.array(facts["keypoint_scores"], np.float64)  # None, for NaN, becomes NaN
        if scores.shape == instance.keypoints.shape[:1]:
            changes["keypoint_scores"] = scores
    drawn, stated = outline_print(instance), facts.get("outline")
    if drawn == stated or (drawn and stated and np.allclose(stated, drawn, rtol=1e-6)):
        changes |= {"area": _read_finite(facts["area"]).item()} if facts.get("area") is not None else {}
        changes |= {"box_xyxy": _read_finite(facts["box_xyxy"])} if facts.get("box_xyxy") is not None else {}
    return replace(instance, **changes)


def _read_finite(value: Any) -> np.ndarray:
    """A finite number, or a list of some, as an array.

    Raises
    ------
    ValueError
        If one is not finite.

    Examples
    --------
    >>> _read_finite(3), _read_finite([1, 2]).tolist()
    (array(3.), [1.0, 2.0])
    >>> _read_finite([1, None])
    Traceback (most recent call last):
        ...
    ValueError: expected finite numbers, got [1, None]
    """
    numbers = np.array(value, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"expected finite numbers, got {str(value)[:60]}")
    return numbers


def _read_mapping(value: Any) -> dict[str, Any]:
    """A mapping.

    Raises
    ------
    ValueError
        If it is something else.

    Examples
    --------
    >>> _read_mapping([3])
    Traceback (most recent call last):
        ...
    ValueError: expected a mapping, got [3]
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, got {str(value)[:60]}")
    return value


_FACTS: dict[str, Callable[[Any], Any]] = {
    "is_crowd": lambda value: read_flag("is_crowd", value),
    "extra": _read_mapping,
    "group": read_whole,
    "track_id": read_whole,
    "score": lambda value: read_score("score", value),
}
