"""Labels for a model that is already trained: with its keypoints, in its order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from utils.errors import DataError
from utils.formats.types import AnnotationSet, Instance, Skeleton, missing_keypoints

logger = logging.getLogger(__name__)


def align_sets(sets: Mapping[str, AnnotationSet], wanted: Skeleton, category: str | None) -> dict[str, AnnotationSet]:
    """Give labels the keypoints of a model, in its order, by their names.

    Keypoints that the labels lack are missing in them. Labels without names (numbered from 0) are taken in their order
    if they have as many.

    Parameters
    ----------
    sets : mapping of str to AnnotationSet
        The labels.
    wanted : Skeleton
        Of the model.
    category : str, optional
        The kind of animal; else the one with these keypoints, or the only one.

    Returns
    -------
    dict of str to AnnotationSet
        Without animals of other kinds.

    Raises
    ------
    DataError
        If it is not clear which labelled keypoints are those of the model.

    Examples
    --------
    >>> from pathlib import Path
    >>> from utils.formats.types import AnnotatedPicture
    >>> fox = Instance("fox", np.array([[1.0, 2.0, 2.0], [3.0, 4.0, 2.0]]))
    >>> part = AnnotationSet([AnnotatedPicture("a", Path("a.png"), None, (fox,))], {"fox": Skeleton(("tail", "nose"))})
    >>> aligned = align_sets({"all": part}, Skeleton(("nose", "ear", "tail")), None)
    >>> aligned["all"].pictures[0].instances[0].keypoints.tolist()
    [[3.0, 4.0, 2.0], [nan, nan, 0.0], [1.0, 2.0, 2.0]]
    """
    kinds: dict[str, Skeleton] = {}
    for part in sets.values():
        kinds |= {name: found for name, found in part.skeletons.items() if category in (None, name)}
    orders = {name: order_of(found.names, wanted.names) for name, found in kinds.items() if found.num_keypoints}
    same = {name: order for name, order in orders.items() if order == list(range(wanted.num_keypoints))}
    chosen = same or {name: order for name, order in orders.items() if any(place >= 0 for place in order)}
    different = {tuple(kinds[name].names) for name in chosen}
    if len(different) != 1:
        have = "; ".join(f"{name}: {', '.join(found.names)}" for name, found in kinds.items()) or "no keypoints"
        raise DataError(
            f"the labels have {have}; the checkpoint predicts {', '.join(wanted.names)}; "
            + ("choose one of these kinds in keypoints.category" if different else "give labels with these names")
        )
    tell_differences(next(iter(different)), wanted.names)
    return {split: _align_set(part, chosen, wanted) for split, part in sets.items()}


def order_of(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Place of each wanted keypoint among the labelled ones, -1 where there is none.

    Examples
    --------
    >>> order_of(["tail", "nose"], ["nose", "ear", "tail"]), order_of(["0", "1"], ["nose", "ear"])
    ([1, -1, 0], [0, 1])
    """
    if list(names) == [str(index) for index in range(len(wanted))]:
        return list(range(len(wanted)))  # rows of numbers that no file names
    return [list(names).index(name) if name in names else -1 for name in wanted]


def tell_differences(names: Sequence[str], wanted: Sequence[str]) -> None:
    """Warn of keypoints that only the labels or only the model has: they are not scored.

    Examples
    --------
    >>> tell_differences(["tail", "nose"], ["nose", "tail"])
    """
    if list(names) == [str(index) for index in range(len(wanted))]:
        logger.warning(
            "the labels do not name their keypoints; taken in the order of the checkpoint: %s", ", ".join(wanted)
        )
        return
    unknown, unlabelled = (
        [name for name in one if name not in other] for one, other in ((names, wanted), (wanted, names))
    )
    if unknown or unlabelled:
        parts = [f"the labels lack {', '.join(unlabelled)}"] if unlabelled else []
        parts += [f"the checkpoint does not predict {', '.join(unknown)}"] if unknown else []
        logger.warning("%s; these keypoints are not scored", "; ".join(parts))


def _align_set(part: AnnotationSet, orders: Mapping[str, list[int]], wanted: Skeleton) -> AnnotationSet:
    """Reorder the keypoints of the animals of some kinds, and leave out the others.

    Examples
    --------
    >>> _align_set(AnnotationSet([], {"fox": Skeleton(("a",))}), {"fox": [0]}, Skeleton(("b",))).skeletons
    {'fox': Skeleton(names=('b',), flip_idx=None, edges=())}
    """
    pictures = [
        replace(
            picture,
            instances=tuple(
                _align(animal, orders[animal.category]) for animal in picture.instances if animal.category in orders
            ),
        )
        for picture in part.pictures
    ]
    return replace(part, pictures=pictures, skeletons=dict.fromkeys(orders, wanted))


def _align(animal: Instance, order: Sequence[int]) -> Instance:
    """Put an animal's keypoints (K, 3) into another order; -1 is missing.

    Examples
    --------
    >>> _align(Instance("fox", np.array([[1.0, 2.0, 2.0]])), [-1, 0]).keypoints.tolist()
    [[nan, nan, 0.0], [1.0, 2.0, 2.0]]
    """
    keypoints = missing_keypoints(len(order))
    for row, place in enumerate(order):
        if place >= 0:
            keypoints[row] = animal.keypoints[place]
    scores = animal.keypoint_scores
    if scores is not None:
        scores = np.array([scores[place] if place >= 0 else np.nan for place in order])
    return replace(animal, keypoints=keypoints, keypoint_scores=scores)
