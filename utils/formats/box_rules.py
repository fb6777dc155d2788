"""What every reader of boxes asks of them: finite, with an area, in the picture."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from utils.errors import DataError
from utils.formats.extents import extent_of
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem, Skeleton

logger = logging.getLogger(__name__)

BEYOND = 2.0  # pixels by which boxes may pass the edge of their picture without a note, for clicks at the edge


def cut_to_picture(box_xyxy: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Cut a box at the edges of its picture.

    Parameters
    ----------
    box_xyxy : ndarray, shape (4,)
        In pixels, half-open, from the outer corner of the first pixel.
    size : (int, int), optional
        Height and width of the picture; without them nothing is cut.

    Returns
    -------
    ndarray of float64, shape (4,)
        The part of the box that lies in the picture; no edge inside of it is moved.

    Raises
    ------
    ValueError
        If the box is not finite, has no area, is smaller than a pixel, or lies outside of the picture.

    Examples
    --------
    >>> cut_to_picture(np.array([-2.0, 1, 3, 9]), (4, 6)).tolist()
    [0.0, 1.0, 3.0, 4.0]
    >>> cut_to_picture(np.array([7.0, 1, 9, 3]), (4, 6))
    Traceback (most recent call last):
        ...
    ValueError: the box 7, 1, 9, 3 lies outside of the picture of 6 x 4 pixels
    >>> cut_to_picture(np.array([3.0, 1, 3, 9]), (4, 6))
    Traceback (most recent call last):
        ...
    ValueError: expected a box with a width and a height, got 0 x 8
    >>> cut_to_picture(np.array([0.1, 0.2, 0.6, 0.7]), (4, 6))
    Traceback (most recent call last):
        ...
    ValueError: the box of 0.5 x 0.5 is smaller than a pixel; pixels are expected, no shares of the picture
    """
    box = np.asarray(box_xyxy, np.float64)
    left, top, right, bottom = corners = box.tolist()  # plain numbers: there may be a million boxes
    if not all(map(math.isfinite, corners)):
        raise ValueError(f"expected a box of finite numbers, got {corners}")
    width, height = right - left, bottom - top
    if not min(width, height) > 0:
        raise ValueError(f"expected a box with a width and a height, got {width:g} x {height:g}")
    if max(width, height) < 1:
        what = "is smaller than a pixel; pixels are expected, no shares of the picture"
        raise ValueError(f"the box of {width:g} x {height:g} {what}")
    if size is None:
        return box
    if not (max(left, 0) < min(right, size[1]) and max(top, 0) < min(bottom, size[0])):
        shown = ", ".join(f"{value:g}" for value in corners)
        raise ValueError(f"the box {shown} lies outside of the picture of {size[1]} x {size[0]} pixels")
    return np.array([max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0])], np.float64)


def box_of_instance(instance: Instance) -> np.ndarray:
    """The box (4,) that a label states, else the smallest one around its outlines, lines and mask.

    Raises
    ------
    ValueError
        If it has none of them.

    Examples
    --------
    >>> box_of_instance(Instance("car", polygons=(np.array([[1.0, 2], [5, 4], [3, 9]]),))).tolist()
    [1.0, 2.0, 5.0, 9.0]
    >>> box_of_instance(Instance("car", mask={"size": [4, 6], "counts": [5, 2, 17]})).tolist()
    [1.0, 1.0, 2.0, 3.0]
    >>> box_of_instance(Instance("car"))
    Traceback (most recent call last):
        ...
    ValueError: neither box nor outline; draw a box around the object
    """
    box = extent_of(instance)
    if box is None:
        raise ValueError("neither box nor outline; draw a box around the object")
    return box


def keep_boxes(sets: Mapping[str, AnnotationSet]) -> dict[str, AnnotationSet]:
    """Sets in which every instance has a box inside its picture; what cannot have one becomes a problem.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        As they were read. Outlines without a box get the box around them.

    Returns
    -------
    dict of str to AnnotationSet
        Boxes are cut at the picture's edges; one of which less than a pixel is left there is no object. A picture of
        which an object is lost is marked as incomplete.

    Raises
    ------
    DataError
        If no picture of any split has a box, but there are objects without any.

    Examples
    --------
    >>> from pathlib import Path
    >>> boxes = tuple(Instance("car", box_xyxy=np.array(box)) for box in ([-1.0, 1, 3, 9], [2.0, 3, 2, 3]))
    >>> kept = keep_boxes({"all": AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), boxes)], {})})["all"]
    >>> kept.pictures[0].instances[0].box_xyxy.tolist(), kept.pictures[0].extra, str(kept.problems[0])
    ([0.0, 1.0, 3.0, 4.0], {'incomplete': True}, \
'a.png: object 2: expected a box with a width and a height, got 0 x 0; correct or remove it')
    """
    found = {}
    total = cut = 0
    for split, part in sets.items():
        problems: list[Problem] = []
        edges = _Edges()
        kept = [_keep_of_picture(picture, problems, edges) for picture in part.pictures]
        problems += edges.tell()
        found[split] = AnnotationSet(kept, dict(part.skeletons), part.problems + problems)
        total += found[split].num_instances
        cut += len(edges.beyond)
    if not total and any(part.num_instances for part in sets.values()):
        last = next(part.problems[-1] for part in found.values() if part.problems)
        raise DataError(f"no object of these labels has a box that can be used; the last one: {last}")
    if cut:
        logger.info("%d of %d boxes reach beyond their picture and are cut at its edge", cut, total)
    return found


@dataclass
class _Edges:
    """Boxes that are doubtful for their edges, by place.

    Parameters
    ----------
    beyond : dict of str to float
        By how many pixels at most they reach beyond their picture.
    slivers : list of str
        Of which the picture's edge leaves less than a pixel in one direction.
    thin : list of str
        Less than a pixel wide or high as they are labelled.
    tiny : list of str
        Less than a pixel wide and high, in pictures with larger boxes: no shares of the picture by mistake.

    Examples
    --------
    >>> print(*_Edges({"a.png: object 2": 3.0}, ["a.png: object 5"]).tell(), sep="; ")
    a.png: object 2: this box, and 0 others, reach beyond their picture by more than 2 pixels; they are cut at its \
edge; look whether corners stand where width and height are expected; a.png: object 5: of this box, and 0 others, \
less than a pixel lies in the picture: they are left out; label what can be seen
    """

    beyond: dict[str, float] = field(default_factory=dict)
    slivers: list[str] = field(default_factory=list)
    thin: list[str] = field(default_factory=list)
    tiny: list[str] = field(default_factory=list)

    def tell(self) -> list[Problem]:
        """One note for each kind that there is.

        Examples
        --------
        >>> print(*_Edges(thin=["a.png: object 1", "b.png: object 7"]).tell())
        a.png: object 1: this box, and 1 others, are less than a pixel wide or high; look at them, and remove strokes \
that are no objects
        """
        far = [where for where, pixels in self.beyond.items() if pixels > BEYOND]
        corners = "look whether corners stand where width and height are expected"
        told = (
            (far, f"reach beyond their picture by more than {BEYOND:g} pixels", f"they are cut at its edge; {corners}"),
            (self.slivers, "less than a pixel lies in the picture: they are left out", "label what can be seen"),
            (self.tiny, "are smaller than a pixel: they are left out", "remove them"),
            (self.thin, "are less than a pixel wide or high", "look at them, and remove strokes that are no objects"),
        )
        problems = []
        for places, what, cure in told:
            if places:
                link = "of this box, and {} others, {}" if places is self.slivers else "this box, and {} others, {}"
                problems.append(Problem(places[0], link.format(len(places) - 1, what), cure, blocks=False))
        return problems


def _keep_of_picture(picture: AnnotatedPicture, problems: list[Problem], edges: _Edges) -> AnnotatedPicture:
    """A picture whose instances have boxes inside it, each once; adds what is doubtful in their edges.

    Examples
    --------
    >>> from pathlib import Path
    >>> problems, edges, car = [], _Edges(), Instance("car", box_xyxy=np.array([1.0, 2, 9, 4]))
    >>> instances = (Instance("car", group=7), car, car, Instance("car", box_xyxy=np.array([5.75, 0, 9, 3])))
    >>> kept = _keep_of_picture(AnnotatedPicture("a", Path("a.png"), (4, 6), instances), problems, edges)
    >>> len(kept.instances), edges.beyond, edges.slivers, problems[0].where
    (1, {'a.png: object 2': 3.0}, ['a.png: object 4'], 'a.png: object 1 (id 7)')
    >>> problems[1].what
    'is object 2 once more (car at 1, 2, 6, 4); it is read once'
    """
    kept: list[Instance] = []
    seen: dict[tuple, int] = {}
    lost, plain = 0, _plain_boxes(picture)
    has_larger = any(box is not None for box in plain)  # of a pixel or more: boxes are no shares of the picture
    for number, (instance, box) in enumerate(zip(picture.instances, plain, strict=True), start=1):
        where = ""
        if box is None:
            where = name_object(picture, number)
            try:
                whole = box_of_instance(instance)
                if min(sides := whole[2:] - whole[:2]) > 0 and max(sides) < 1 and has_larger:
                    edges.tiny.append(where)
                    continue
                box = cut_to_picture(whole, picture.size)
            except ValueError as error:
                problems.append(Problem(where, str(error), "correct or remove it", picture.id, lost=True))
                lost += 1
                continue
            sides, shown = whole[2:] - whole[:2], box[2:] - box[:2]
            if ((shown < 1) & (shown < sides)).any():
                edges.slivers.append(where)
                continue
        first = seen.setdefault((instance.category, instance.is_crowd, *box.tolist()), number)
        if first != number:
            corners = ", ".join(f"{value:g}" for value in box)
            what = f"is object {first} once more ({instance.category} at {corners}); it is read once"
            problems.append(Problem(name_object(picture, number), what, "remove one", picture.id, blocks=False))
            continue
        kept.append(replace(instance, box_xyxy=box) if where else instance)
        if where and not np.array_equal(whole, box):
            edges.beyond[where] = float(np.abs(whole - box).max())
        if where and (sides < 1).any():
            edges.thin.append(where)
    extra = picture.extra | ({"incomplete": True} if lost else {})
    return replace(picture, instances=tuple(kept), extra=extra)


def _plain_boxes(picture: AnnotatedPicture) -> list[np.ndarray | None]:
    """The box (4,) of each instance that states one inside the picture and no thinner than a pixel, else None.

    Nothing is to be done or said about these. All are looked at together: a picture may have a million.

    Examples
    --------
    >>> from pathlib import Path
    >>> boxes = [Instance("car", box_xyxy=np.array(box)) for box in ([1.0, 2, 5, 4], [1.0, 2, 9, 4], [1.0, 2, 1, 4])]
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), (*boxes, Instance("car")))
    >>> [box is not None for box in _plain_boxes(picture)]
    [True, False, False, False]
    """
    found: list[np.ndarray | None] = [instance.box_xyxy for instance in picture.instances]
    nothing = np.full(4, np.nan)
    boxes = np.array([nothing if box is None else box for box in found]).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite corners, and of such as 1e308
        sides = boxes[:, 2:] - boxes[:, :2]
    inside = np.isfinite(boxes).all(axis=1) & (sides >= 1).all(axis=1)
    if picture.size is not None:
        inside &= ((boxes >= 0) & (boxes <= np.array([*picture.size[::-1], *picture.size[::-1]]))).all(axis=1)
    for index in np.flatnonzero(~inside).tolist():
        found[index] = None
    return found


def name_object(picture: AnnotatedPicture, number: int) -> str:
    """What problems call an object of a picture, by its place from 1 and the id that its file gives it.

    Examples
    --------
    >>> from pathlib import Path
    >>> name_object(AnnotatedPicture("a", Path("a.png"), (4, 6), (Instance("car", group=7),)), 1)
    'a.png: object 1 (id 7)'
    """
    group = picture.instances[number - 1].group
    return f"{picture.path}: object {number}" + ("" if group is None else f" (id {group})")


def name_categories(sets: Mapping[str, AnnotationSet], names: Sequence[str] | None = None) -> None:
    """Give every set the categories of all splits.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split; their skeletons are replaced by ones without keypoints.
    names : sequence of str, optional
        The categories in order; by default those of the instances, sorted.

    Examples
    --------
    >>> from pathlib import Path
    >>> dogs = (Instance("dog"), Instance("cat"))
    >>> sets = {"all": AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), dogs)], {})}
    >>> name_categories(sets)
    >>> list(sets["all"].skeletons)
    ['cat', 'dog']
    """
    found = {i.category for part in sets.values() for picture in part.pictures for i in picture.instances}
    for part in sets.values():
        part.skeletons = {name: Skeleton(()) for name in (sorted(found) if names is None else names)}
