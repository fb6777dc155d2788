"""Predictions among labels: what states how sure a program was is no label, in every format."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.formats.types import MISSING, AnnotatedPicture, AnnotationSet, Instance, Problem
from utils.formats.values import read_number

SCORES = ("score", "scores", "confidence", "conf", "probability")  # names of what only predictions state
CURE = "labels have none: remove it if a person has checked them"
_DESCRIBED = re.compile(r"score ((?:\d+(?:\.\d*)?|\.\d+)(?:e-?\d+)?)")  # as inference writes it into LabelMe files


def score_name(names: Iterable[str]) -> str | None:
    """The column, attribute, element or key by which labels are predictions, as the file writes it; or None.

    The objects of a file have the same few sets of names, so that each set is looked at once.

    Examples
    --------
    >>> score_name(["label", "Confidence"]), score_name(["label", "scorer"])
    ('Confidence', None)
    """
    return _find_score(tuple(names))


@functools.lru_cache(maxsize=1024)
def _find_score(names: tuple[str, ...]) -> str | None:
    """The first of the names that means a score, or None.

    Examples
    --------
    >>> _find_score(("id", " Score ")), _find_score(("id",))
    (' Score ', None)
    """
    found = {name.strip().lower(): name for name in names}
    return next((found[name] for name in SCORES if name in found), None)


def score_key(keys: Mapping[str, Any]) -> str | None:
    """The key by which an object of JSON is a prediction, or None; null and the empty list of PoseTrack state nothing.

    Examples
    --------
    >>> score_key({"label": "cow", "score": 0.5}), score_key({"score": None, "scores": []})
    ('score', None)
    """
    return score_name(key for key, value in keys.items() if value is not None and value != [])


def read_score(name: str, value: Any) -> float | None:
    """Read how sure a program was of an object: a number, also one in quotes.

    Parameters
    ----------
    name : str
        What the file calls it, for the error.
    value : JSON value
        As the file states it; None is no score.

    Raises
    ------
    ValueError
        If it is anything else, or not finite: whether the object is a label is then not known.

    Examples
    --------
    >>> read_score("score", 0.5), read_score("score", " .5"), read_score("score", None)
    (0.5, 0.5, None)
    >>> read_score("confidence", True)
    Traceback (most recent call last):
        ...
    ValueError: expected a finite number as confidence, got True
    """
    if value is None:
        return None
    try:
        number = read_number(value) if isinstance(value, str) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"expected a finite number as {name.strip()}, got {repr(value)[:60]}")
    return number


def described_score(text: object) -> float | None:
    """The score in the description of a LabelMe shape that inference wrote; None for what a person writes.

    Examples
    --------
    >>> described_score("score 0.500"), described_score("score of the team"), described_score(None)
    (0.5, None, None)
    """
    found = _DESCRIBED.fullmatch(text) if isinstance(text, str) else None
    return float(found[1]) if found else None


def is_prediction(instance: Instance) -> bool:
    """Whether an object has a score, or one of its points a score below 1 (some tables give labels the score 1).

    Examples
    --------
    >>> is_prediction(Instance("cow", score=0.5)), is_prediction(Instance("cow"))
    (True, False)
    >>> nose = np.array([[1.0, 2.0, 2.0]])
    >>> [is_prediction(Instance("cow", nose, keypoint_scores=np.array([score]))) for score in (0.5, 1.0, np.nan)]
    [True, False, False]
    """
    if instance.score is not None or instance.keypoint_scores is None:
        return instance.score is not None
    return bool((instance.keypoint_scores[instance.keypoints[:, 2] > MISSING] < 1).any())


def refuse_predictions(path: object, sets: Mapping[str, AnnotationSet]) -> dict[str, AnnotationSet]:
    """Take predictions out of labels, each picture of them with a problem; labels that hold nothing else are refused.

    Parameters
    ----------
    path : Path
        The labels, for the error.
    sets : dict of str to AnnotationSet
        By split.

    Returns
    -------
    dict of str to AnnotationSet
        A picture of which a prediction is taken is marked as incomplete.

    Raises
    ------
    DataError
        If all objects are predictions.

    Examples
    --------
    >>> from pathlib import Path
    >>> objects = Instance("cow"), Instance("cow", score=0.5, group=7)
    >>> sets = {"all": AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), objects)], {})}
    >>> part = refuse_predictions("cows.json", sets)["all"]
    >>> len(part.pictures[0].instances), part.pictures[0].extra, str(part.problems[0])
    (1, {'incomplete': True}, 'a.png: 1 of its 2 objects are predictions, as their scores say (object 2, id 7: 0.5); \
labels have none: remove it if a person has checked them')
    >>> sets["all"].pictures[0] = replace(sets["all"].pictures[0], instances=objects[1:])
    >>> refuse_predictions("cows.json", sets)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: cows.json: predictions, no labels: each of its 1 objects has a score (the first: 0.5, in \
a.png); labels have none: remove it if a person has checked them
    """
    objects = [(picture, each) for part in sets.values() for picture in part.pictures for each in picture.instances]
    predicted = [(picture, each) for picture, each in objects if is_prediction(each)]
    if not predicted:
        return dict(sets)
    if len(predicted) == len(objects):
        first = f"{_lowest(predicted[0][1]):g}, in {predicted[0][0].path}"
        what = f"predictions, no labels: each of its {len(objects)} objects has a score (the first: {first})"
        raise DataError(f"{path}: {what}; {CURE}")
    return {split: _without_predictions(part) for split, part in sets.items()}


def _without_predictions(part: AnnotationSet) -> AnnotationSet:
    """A set without predictions, and a problem for each picture that had some.

    Examples
    --------
    >>> _without_predictions(AnnotationSet([], {})).problems
    []
    """
    pictures: list[AnnotatedPicture] = []
    problems = list(part.problems)
    for picture in part.pictures:
        predicted = [index for index, each in enumerate(picture.instances) if is_prediction(each)]
        if predicted:
            first = picture.instances[predicted[0]]
            known = "" if first.group is None else f", id {first.group}"
            some = f"object {predicted[0] + 1}{known}: {_lowest(first):g}"
            count = f"{len(predicted)} of its {len(picture.instances)} objects"
            what = f"{count} are predictions, as their scores say ({some})"
            problems.append(Problem(str(picture.path), what, CURE, picture.id, lost=True))
            kept = tuple(each for each in picture.instances if not is_prediction(each))
            picture = replace(picture, instances=kept, extra=picture.extra | {"incomplete": True})
        pictures.append(picture)
    return AnnotationSet(pictures, part.skeletons, problems)


def _lowest(instance: Instance) -> float:
    """The score of a prediction, else the lowest one of its points.

    Examples
    --------
    >>> _lowest(Instance("cow", np.ones((2, 3)), keypoint_scores=np.array([np.nan, 0.25])))
    0.25
    """
    if instance.score is not None or instance.keypoint_scores is None:
        return float(np.nan if instance.score is None else instance.score)
    return float(np.nanmin(instance.keypoint_scores))
