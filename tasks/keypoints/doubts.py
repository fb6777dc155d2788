"""Doubts about keypoint labels that can be read: names that are alike, and points in the corner of the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tasks.item import Finding
from tasks.labels import doubt_classes
from utils.formats.names import alike
from utils.formats.types import AnnotationSet, Instance


def find_doubts(sets: Mapping[str, AnnotationSet]) -> Iterator[Finding]:
    """Find what labels are unlikely to mean.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        The labels by split.

    Yields
    ------
    Finding
        For each kind of animal.

    Examples
    --------
    >>> from pathlib import Path
    >>> from utils.formats.types import AnnotatedPicture, Skeleton
    >>> fox = Instance("fox", np.array([[0.0, 0.0, 2.0], [5.0, 6.0, 2.0]]))
    >>> picture = AnnotatedPicture("a", Path("a.png"), (9, 9), (fox,))
    >>> for finding in find_doubts({"all": AnnotationSet([picture], {"fox": Skeleton(("nose", "Nose "))})}):
    ...     print(finding)
    keypoints of 'fox': 'nose', 'Nose ' differ only by case or spaces; give a keypoint one name in all files
    keypoint 'nose' of 'fox': lies at exactly (0, 0) in 1 of 1 animals, such as in a, as missing ones are often \
written; mark it as missing there (visibility 0)
    """
    skeletons = {name: skeleton for part in sets.values() for name, skeleton in part.skeletons.items()}
    yield from doubt_classes(list(skeletons))
    for category, skeleton in skeletons.items():
        labelled = [
            (picture.id, animal)
            for part in sets.values()
            for picture in part.pictures
            for animal in picture.instances
            if animal.category == category and len(animal.keypoints) == skeleton.num_keypoints
        ]
        yield from _doubt_names(category, skeleton.names, [animal for _, animal in labelled])
        yield from _doubt_corners(category, skeleton.names, labelled)
        yield from _doubt_boxes(category, labelled)


def _doubt_names(category: str, names: Sequence[str], animals: Sequence[Instance]) -> Iterator[Finding]:
    """Keypoints whose names are alike; a note only, where an animal has several of them and they are different points.

    Examples
    --------
    >>> both = Instance("fox", np.array([[1.0, 1.0, 2.0], [5.0, 6.0, 2.0]]))
    >>> [finding.blocks for finding in _doubt_names("fox", ("a", "A"), [both])]
    [False]
    """
    for group in alike(names):
        places = [index for index, name in enumerate(names) if name in group]
        together = any((animal.keypoints[places, 2] > 0).sum() > 1 for animal in animals)
        listed = ", ".join(map(repr, group))
        problem = f"{listed} differ only by case or spaces"
        cure = "give a keypoint one name in all files"
        yield Finding(f"keypoints of {category!r}", problem, cure, blocks=not together)


def _doubt_corners(category: str, names: Sequence[str], labelled: Sequence[tuple[str, Instance]]) -> Iterator[Finding]:
    """Keypoints that are seen at exactly (0, 0), the corner of the picture.

    Examples
    --------
    >>> list(_doubt_corners("fox", ("nose",), [("a", Instance("fox", np.array([[0.0, 1.0, 2.0]])))]))
    []
    """
    if not labelled:
        return
    points = np.stack([animal.keypoints for _, animal in labelled])
    seen = points[..., 2] > 0
    corner = seen & (points[..., :2] == 0).all(axis=2)
    for index in np.flatnonzero(corner.any(axis=0)).tolist():
        first = labelled[int(corner[:, index].argmax())][0]
        count = f"{int(corner[:, index].sum())} of {int(seen[:, index].sum())} animals, such as in {first}"
        problem = f"lies at exactly (0, 0) in {count}, as missing ones are often written"
        yield Finding(f"keypoint {names[index]!r} of {category!r}", problem, "mark it as missing there (visibility 0)")


def _doubt_boxes(category: str, labelled: Sequence[tuple[str, Instance]]) -> Iterator[Finding]:
    """Animals that have no labelled point in or near their own box, as where points are in another unit than boxes.

    Near is half of the box's longer side around it. More than half of all animals with a box block the training.

    Examples
    --------
    >>> fox = Instance("fox", np.array([[0.2, 0.3, 2.0]]), box_xyxy=np.array([20.0, 30.0, 60.0, 50.0]))
    >>> [finding.problem for finding in _doubt_boxes("fox", [("a", fox)])]
    ['1 of 1 animals have no labelled point in or near their own box, such as in a']
    """
    boxed, apart = 0, []
    for picture, animal in labelled:
        points = animal.keypoints[animal.keypoints[:, 2] > 0, :2]
        if animal.box_xyxy is None or not len(points):
            continue
        boxed += 1
        low, high = animal.box_xyxy[:2], animal.box_xyxy[2:]
        margin = (high - low).max() / 2
        if not ((points >= low - margin) & (points <= high + margin)).all(axis=1).any():
            apart.append(picture)
    if apart:
        problem = (
            f"{len(apart)} of {boxed} animals have no labelled point in or near their own box, such as in {apart[0]}"
        )
        cure = "write points and boxes in pixels of one picture"
        yield Finding(f"boxes of {category!r}", problem, cure, blocks=2 * len(apart) > boxed)
