"""What every reader of boxes asks of them: finite, with an area, in the picture."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from utils.errors import DataError
from utils.formats.run_lengths import box_of_mask
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem, Skeleton
from utils.geometry.crops import tight_box

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
    """The box (4,) that a label states, else the smallest one around its outline or mask.

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
    box = instance.box_xyxy
    if box is None and instance.polygons:
        box = tight_box(np.concatenate(instance.polygons))
    if box is None and instance.mask is not None:
        box = box_of_mask(instance.mask)
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
        Boxes are cut at the picture's edges. A picture of which an object is lost is marked as incomplete.

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
        beyond: list[tuple[str, float]] = []
        kept = [_keep_of_picture(picture, problems, beyond) for picture in part.pictures]
        far = [where for where, pixels in beyond if pixels > BEYOND]
        if far:
            what = f"this box, and {len(far) - 1} others, reach beyond their picture by more than {BEYOND:g} pixels"
            cure = "they are cut at its edge; look whether corners stand where width and height are expected"
            problems.append(Problem(far[0], what, cure, blocks=False))
        found[split] = AnnotationSet(kept, dict(part.skeletons), part.problems + problems)
        total += found[split].num_instances
        cut += len(beyond)
    if not total and any(part.num_instances for part in sets.values()):
        last = next(part.problems[-1] for part in found.values() if part.problems)
        raise DataError(f"no object of these labels has a box that can be used; the last one: {last}")
    if cut:
        logger.info("%d of %d boxes reach beyond their picture and are cut at its edge", cut, total)
    return found


def _keep_of_picture(
    picture: AnnotatedPicture, problems: list[Problem], beyond: list[tuple[str, float]]
) -> AnnotatedPicture:
    """A picture whose instances have boxes inside it, each once; adds which are cut, and by how many pixels at most.

    Examples
    --------
    >>> from pathlib import Path
    >>> problems, beyond, car = [], [], Instance("car", box_xyxy=np.array([1.0, 2, 9, 4]))
    >>> instances = (Instance("car", group=7), car, car)
    >>> kept = _keep_of_picture(AnnotatedPicture("a", Path("a.png"), (4, 6), instances), problems, beyond)
    >>> len(kept.instances), beyond, problems[0].where
    (1, [('a.png: object 2', 3.0)], 'a.png: object 1 (id 7)')
    >>> problems[1].what
    'is object 2 once more (car at 1, 2, 6, 4); it is read once'
    """
    kept: list[Instance] = []
    seen: dict[tuple, int] = {}
    lost = 0
    for number, instance in enumerate(picture.instances, start=1):
        known = "" if instance.group is None else f" (id {instance.group})"
        where = f"{picture.path}: object {number}{known}"
        try:
            whole = box_of_instance(instance)
            box = cut_to_picture(whole, picture.size)
        except ValueError as error:
            problems.append(Problem(where, str(error), "correct or remove it", picture.id, lost=True))
            lost += 1
            continue
        first = seen.setdefault((instance.category, instance.is_crowd, *box.tolist()), number)
        if first != number:
            corners = ", ".join(f"{value:g}" for value in box)
            what = f"is object {first} once more ({instance.category} at {corners}); it is read once"
            problems.append(Problem(where, what, "remove one", picture.id, blocks=False))
            continue
        kept.append(replace(instance, box_xyxy=box))
        if not np.array_equal(whole, box):
            beyond.append((where, float(np.abs(whole - box).max())))
    extra = picture.extra | ({"incomplete": True} if lost else {})
    return replace(picture, instances=tuple(kept), extra=extra)


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
