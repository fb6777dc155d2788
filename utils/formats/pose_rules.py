"""What every reader of poses asks of them: each animal or tool once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from utils.formats.box_rules import name_object
from utils.formats.extents import extent_of
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem


def keep_poses(sets: Mapping[str, AnnotationSet]) -> dict[str, AnnotationSet]:
    """Sets in which no picture has an object with the very class, points and box of an earlier one.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        As they were read. What is left out becomes a note.

    Returns
    -------
    dict of str to AnnotationSet

    Examples
    --------
    >>> from pathlib import Path
    >>> nose = Instance("fox", np.array([[3.0, 4.0, 2.0]]))
    >>> pictures = [AnnotatedPicture("a", Path("a.png"), (4, 6), (nose, replace(nose, group=7)))]
    >>> kept = keep_poses({"all": AnnotationSet(pictures, {})})["all"]
    >>> len(kept.pictures[0].instances), str(kept.problems[0])
    (1, 'a.png: object 2 (id 7): is object 1 once more (fox); it is read once; remove one')
    """
    found = {}
    for split, part in sets.items():
        problems: list[Problem] = []
        kept = [_keep_of_picture(picture, problems) for picture in part.pictures]
        found[split] = AnnotationSet(kept, dict(part.skeletons), part.problems + problems)
    return found


def _keep_of_picture(picture: AnnotatedPicture, problems: list[Problem]) -> AnnotatedPicture:
    """A picture with each object once; adds a note for each that is left out.

    Examples
    --------
    >>> from pathlib import Path
    >>> problems, nose = [], Instance("fox", np.array([[3.0, 4.0, 2.0]]))
    >>> instances = (nose, replace(nose, category="dog"), replace(nose, keypoints=nose.keypoints - 1))
    >>> len(_keep_of_picture(AnnotatedPicture("a", Path("a.png"), (4, 6), instances), problems).instances), problems
    (3, [])
    """
    first: dict[tuple, int] = {}
    kept: list[Instance] = []
    for number, instance in enumerate(picture.instances, start=1):
        key = _what_is_labelled(instance)
        if key is None or first.setdefault(key, number) == number:
            kept.append(instance)
            continue
        what = f"is object {first[key]} once more ({instance.category}); it is read once"
        problems.append(Problem(name_object(picture, number), what, "remove one", picture.id, blocks=False))
    return picture if len(kept) == len(picture.instances) else replace(picture, instances=tuple(kept))


def _what_is_labelled(instance: Instance) -> tuple | None:
    """What is equal of two labels of one object; None where neither point nor box says where it is.

    Examples
    --------
    >>> _what_is_labelled(Instance("fox", np.array([[np.nan, np.nan, 0.0]]))) is None
    True
    """
    seen, box = instance.keypoints[:, 2] > 0, extent_of(instance)
    if not seen.any() and box is None:
        return None
    points = np.where(seen[:, None], instance.keypoints, 0.0)
    where = None if box is None else tuple(box.tolist())
    return instance.category, instance.is_crowd, tuple(points.ravel().tolist()), where
