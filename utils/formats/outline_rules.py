"""What drawing asks of labels: every object an area inside its picture, with what its box stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from utils.formats.box_rules import cut_to_picture, name_object
from utils.formats.extents import extent_of
from utils.formats.run_lengths import box_of_mask
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem, polygon_area

FILLED_BOXES = frozenset({"labelme", "cvat"})  # where a rectangle is a shape that a person draws, like a polygon
REACH = 3.0  # largest distance of a corner from the picture, in pictures
_APART = 1.5  # pixels between a box and what it encloses, from which on it is a shape of its own


def box_rule(format: str, boxes: str = "auto") -> str:
    """What the box of an object without an outline stands for: class, ignore or skip.

    Parameters
    ----------
    format : str
        Of the labels.
    boxes : str
        The rule asked for; auto takes boxes of tools that draw them as areas (LabelMe, CVAT) for areas, all others for
        regions that hold more than the object.

    Examples
    --------
    >>> box_rule("labelme"), box_rule("coco"), box_rule("coco", "class")
    ('class', 'ignore', 'class')
    """
    if boxes != "auto":
        return boxes
    return "class" if format in FILLED_BOXES else "ignore"


def is_only_box(instance: Instance) -> bool:
    """Whether an object has neither outline nor line nor mask.

    Examples
    --------
    >>> is_only_box(Instance("car", box_xyxy=np.zeros(4))), is_only_box(Instance("car", lines=(np.zeros((2, 2)),)))
    (True, False)
    """
    return not (instance.polygons or instance.lines or instance.mask is not None)


def keep_areas(sets: Mapping[str, AnnotationSet], format: str, boxes: str = "auto") -> dict[str, AnnotationSet]:
    """Sets in which every object has what is drawn of it; what has no area becomes a problem.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        As they were read.
    format : str
        Their format.
    boxes : str
        What a box without an outline is: `class` makes it an outline, `ignore` leaves the box alone, which is drawn as
        not labelled, `skip` takes the object out; auto chooses by the format.

    Returns
    -------
    dict of str to AnnotationSet
        Objects have outlines, lines, a mask, or a box that lies inside the picture. A picture of which an object is
        lost is marked as incomplete.

    Examples
    --------
    >>> from pathlib import Path
    >>> box, line = Instance("car", box_xyxy=np.array([1.0, 1, 9, 3])), Instance("road", polygons=(np.zeros((2, 2)),))
    >>> sets = {"all": AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), (box, line))], {})}
    >>> kept = keep_areas(sets, "labelme")["all"]
    >>> kept.pictures[0].instances[0].polygons[0].tolist(), kept.pictures[0].extra
    ([[1.0, 1.0], [6.0, 1.0], [6.0, 3.0], [1.0, 3.0]], {'incomplete': True})
    >>> str(kept.problems[0])
    'a.png: object 2: an outline of 2 points without an area (road); draw it as a line or an area, or remove it'
    >>> keep_areas(sets, "coco")["all"].pictures[0].instances[0].box_xyxy.tolist()
    [1.0, 1.0, 6.0, 3.0]
    """
    found = {}
    rule = box_rule(format, boxes)
    for split, part in sets.items():
        problems: list[Problem] = []
        notes = _Notes(rule)
        kept = [_keep_of_picture(picture, problems, notes, format in FILLED_BOXES) for picture in part.pictures]
        found[split] = AnnotationSet(kept, dict(part.skeletons), [*part.problems, *problems, *notes.tell()])
    return found


@dataclass
class _Notes:
    """What a person should know of a set, by the first place and a number.

    Examples
    --------
    >>> print(*_Notes("ignore", only_boxes=["a.png: object 2"]).tell())
    a.png: object 2: this object, and 0 others, have a box and no outline: their pixels are not labelled, but for \
outlines over them; outline them, or set dataset.boxes
    """

    rule: str
    only_boxes: list[str] = field(default_factory=list)
    crowds: list[str] = field(default_factory=list)
    rings: list[str] = field(default_factory=list)

    def tell(self) -> list[Problem]:
        """One note for each kind that there is.

        Examples
        --------
        >>> print(*_Notes("class", only_boxes=["a.png: object 2"], crowds=["b.png: object 1"]).tell())
        b.png: object 1: this object, and 0 others, are crowds: they are drawn as their class, under all others; look
        """
        what = {
            "ignore": "their pixels are not labelled, but for outlines over them",
            "skip": "they are not drawn, so that their pixels are as those of no object",
        }
        told = [
            (
                self.only_boxes if self.rule in what else [],
                f"have a box and no outline: {what.get(self.rule)}",
                "outline them, or set dataset.boxes",
            ),
            (self.crowds, "are crowds: they are drawn as their class, under all others", "look"),
            (self.rings, "have a part or a hole without an area, which is not drawn", "remove it"),
        ]
        return [
            Problem(places[0], f"this object, and {len(places) - 1} others, {text}", cure, blocks=False)
            for places, text, cure in told
            if places
        ]


def _keep_of_picture(
    picture: AnnotatedPicture, problems: list[Problem], notes: _Notes, filled: bool
) -> AnnotatedPicture:
    """A picture whose objects have what is drawn of them; adds what is lost or doubtful.

    Examples
    --------
    >>> from pathlib import Path
    >>> problems, notes = [], _Notes("skip")
    >>> instances = Instance("car", box_xyxy=np.array([1.0, 1, 9, 3])), Instance("dog")
    >>> kept = _keep_of_picture(AnnotatedPicture("a", Path("a.png"), (4, 6), instances), problems, notes, False)
    >>> kept.instances, notes.only_boxes, problems[0].what
    ((), ['a.png: object 1'], 'neither outline nor box: no pixel is known to be of it (dog)')
    """
    kept: list[Instance] = []
    lost = 0
    for number, instance in enumerate(picture.instances, start=1):
        try:
            area, thin = _area_of(instance, picture.size, notes.rule, filled)
        except ValueError as error:
            what, _, cure = str(error).partition("; ")
            where = name_object(picture, number)
            problems.append(Problem(where, f"{what} ({instance.category})", cure, picture.id, lost=True))
            lost += 1
            continue
        only_box = is_only_box(instance)
        for noted, places in ((only_box, notes.only_boxes), (instance.is_crowd, notes.crowds), (thin, notes.rings)):
            if noted:
                places.append(name_object(picture, number))
        if not only_box or notes.rule != "skip":
            kept.append(area)
    extra = picture.extra | ({"incomplete": True} if lost else {})
    return replace(picture, instances=tuple(kept), extra=extra)


def _area_of(instance: Instance, size: tuple[int, int] | None, rule: str, filled: bool) -> tuple[Instance, bool]:
    """An object with what is drawn of it, and whether a part of it without an area was taken out.

    Raises
    ------
    ValueError
        With a cure, if nothing can be drawn of it, or it lies outside of its picture.

    Examples
    --------
    >>> corner = np.array([[0.0, 0], [4, 0], [0, 4]])
    >>> area, thin = _area_of(Instance("car", polygons=(corner, corner[:2])), (4, 6), "ignore", False)
    >>> len(area.polygons), thin
    (1, True)
    >>> _area_of(Instance("car", polygons=(corner - 9,)), (4, 6), "ignore", False)
    Traceback (most recent call last):
        ...
    ValueError: it lies outside of the picture of 6 x 4 pixels; correct or remove it
    """
    mask_box = None if instance.mask is None else box_of_mask(instance.mask)
    if instance.mask is not None and mask_box is None and not (instance.polygons or instance.lines):
        raise ValueError("a mask that covers nothing; draw it or remove the object")
    polygons, holes = _with_area(instance.polygons), _with_area(instance.holes)
    lines = tuple(line for line in instance.lines if len(line))
    if instance.polygons and not (polygons or lines or mask_box is not None):
        points = len(instance.polygons[0])
        raise ValueError(f"an outline of {points} points without an area; draw it as a line or an area, or remove it")
    box = instance.box_xyxy
    if is_only_box(instance):
        if box is None:
            raise ValueError(
                "neither outline nor box: no pixel is known to be of it; outline it, or map its name to ignore in "
                "dataset.label_mapping"
            )
        try:
            box = cut_to_picture(box, size)
        except ValueError as error:
            raise ValueError(f"{str(error).replace('; ', ', ')}; correct or remove it") from None
        return replace(instance, box_xyxy=box, polygons=(_ring(box),) if rule == "class" else ()), False
    _refuse_outside([*polygons, *lines], mask_box, size)
    if filled and rule == "class" and box is not None and _is_apart(instance):
        polygons = (*polygons, _ring(box))  # a rectangle that belongs to the object as a part of it
    thin = len(polygons) < len(instance.polygons) or len(holes) < len(instance.holes)
    return replace(instance, polygons=polygons, holes=holes, lines=lines), thin


def _with_area(rings: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The rings, each (N, 2), that have an area.

    Raises
    ------
    ValueError
        If a coordinate is no finite number.

    Examples
    --------
    >>> len(_with_area([np.zeros((3, 2)), np.array([[0.0, 0], [4, 0], [0, 4]]), np.zeros((2, 2))]))
    1
    """
    if not all(np.isfinite(ring).all() for ring in rings):
        raise ValueError("expected finite corners, got NaN or infinity; correct or remove it")
    return tuple(ring for ring in rings if len(ring) > 2 and _encloses(ring))


def _encloses(ring: np.ndarray) -> bool:
    """Whether a ring (N, 2) encloses anything; one that crosses itself, whose signed areas cancel, does too.

    Examples
    --------
    >>> bow_tie = np.array([[0.0, 0], [2, 2], [2, 0], [0, 2]])
    >>> polygon_area([bow_tie]), _encloses(bow_tie), _encloses(np.array([[0.0, 0], [2, 2], [1, 1]]))
    (0.0, True, False)
    """
    if polygon_area([ring]) > 0:
        return True
    steps = ring - ring[0]
    first = steps[np.abs(steps).sum(axis=1).argmax()]
    return bool((np.abs(steps[:, 0] * first[1] - steps[:, 1] * first[0]) > 0).any())


def _refuse_outside(shapes: Sequence[np.ndarray], mask_box: np.ndarray | None, size: tuple[int, int] | None) -> None:
    """Refuse outlines and lines, each (N, 2), of which nothing lies in the picture, or that reach far beyond it.

    Raises
    ------
    ValueError
        With a cure.

    Examples
    --------
    >>> _refuse_outside([np.array([[1.0, 1], [900, 1], [1, 3]])], None, (4, 6))
    Traceback (most recent call last):
        ...
    ValueError: it reaches 894 pixels beyond the picture of 6 x 4 pixels; correct or remove it
    """
    if size is None or not shapes:
        return
    points = np.concatenate(list(shapes))
    if not np.isfinite(points).all():
        raise ValueError("expected finite corners, got NaN or infinity; correct or remove it")
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    shown = f"the picture of {size[1]} x {size[0]} pixels; correct or remove it"
    beyond = np.maximum([-left, -top], [right - size[1], bottom - size[0]])
    if (beyond > REACH * np.array(size[::-1])).any():
        raise ValueError(f"it reaches {beyond.max():.6g} pixels beyond {shown}")
    inside = max(left, 0) <= min(right, size[1]) and max(top, 0) <= min(bottom, size[0])
    if not inside and mask_box is None:
        raise ValueError(f"it lies outside of {shown}")


def _is_apart(instance: Instance) -> bool:
    """Whether an object's box is another one than that around its outlines, lines and mask.

    Examples
    --------
    >>> outline = np.array([[1.0, 2], [5, 4], [3, 9]])
    >>> boxes = np.array([[1.0, 2, 5, 9], [6, 2, 9, 4]])
    >>> [_is_apart(Instance("car", polygons=(outline,), box_xyxy=box)) for box in boxes]
    [False, True]
    """
    around = extent_of(replace(instance, box_xyxy=None))
    return around is not None and bool((np.abs(instance.box_xyxy - around) > _APART).any())


def _ring(box: np.ndarray) -> np.ndarray:
    """The corners (4, 2) of a box (4,).

    Examples
    --------
    >>> _ring(np.array([1.0, 2, 5, 9])).tolist()
    [[1.0, 2.0], [5.0, 2.0], [5.0, 9.0], [1.0, 9.0]]
    """
    left, top, right, bottom = box.tolist()
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
