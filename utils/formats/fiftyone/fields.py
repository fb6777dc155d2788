"""Which fields of a FiftyOne data set are its labels, and what its head says of their classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.errors import DataError
from utils.formats.fiftyone.labels import LISTS, SINGLE, labels_in
from utils.formats.fiftyone.values import plain_number
from utils.formats.names import read_names
from utils.formats.predictions import score_key
from utils.formats.sets import FACTS
from utils.formats.types import Problem, Skeleton, build_skeleton

SEGMENTATION = "Segmentation"
_DEFAULT = 100  # of an attribute confidence as people declare it in CVAT, from 0 to 100
CLASSES = ("Classification", "Classifications")


@dataclass
class Field:
    """What the samples hold in one field.

    Parameters
    ----------
    kind : str
        Detections, Polylines, Keypoints or Segmentation.
    labels, scored, indexed, certain : int
        How many labels there are, how many of them have a confidence, how many an index, and how many a confidence of
        100, which no model gives in FiftyOne, but CVAT where nobody changed it.

    Examples
    --------
    >>> Field("Detections", 3, 3).is_predicted
    True
    """

    kind: str
    labels: int = 0
    scored: int = 0
    indexed: int = 0
    certain: int = 0

    @property
    def is_default(self) -> bool:
        """Whether the confidences of its labels are what nobody has stated.

        Examples
        --------
        >>> Field("Polylines", 3, 2, certain=2).is_default, Field("Polylines", 3, 2, certain=1).is_default
        (True, False)
        """
        return 0 < self.scored == self.certain

    @property
    def is_predicted(self) -> bool:
        """Whether all of its labels state how sure a program was.

        Examples
        --------
        >>> Field("Detections").is_predicted
        False
        """
        return self.labels > 0 and self.scored == self.labels and not self.is_default


def survey_fields(samples: Iterable[Any]) -> dict[str, Field]:
    """The fields with labels of objects or pixels, in the order in which they come.

    Examples
    --------
    >>> polyline = {"label": "coral", "index": 3}
    >>> survey_fields([{"tags": [], "truth": {"_cls": "Polylines", "polylines": [polyline]}}, {"truth": None}])
    {'truth': Field(kind='Polylines', labels=1, scored=0, indexed=1, certain=0)}
    """
    found: dict[str, Field] = {}
    for sample in samples:
        for name, value in sample.items() if isinstance(sample, Mapping) else ():
            kind = value.get("_cls") if isinstance(value, Mapping) else None
            kind = SINGLE.get(kind, kind) if isinstance(kind, str) else None
            if kind not in (*LISTS, SEGMENTATION):
                continue
            known = found.setdefault(name, Field(kind))
            try:
                labels = [label for label in labels_in(value) if isinstance(label, Mapping)]
            except ValueError:  # told where it is read
                continue
            known.labels += len(labels)
            scores = [plain_number(label[key]) for label in labels if (key := score_key(label)) is not None]
            known.scored += len(scores)
            known.certain += sum(type(score) in (int, float) and score == _DEFAULT for score in scores)
            known.indexed += sum(label.get("index") is not None for label in labels)
    return found


def choose_fields(
    where: str,
    found: Mapping[str, Field],
    stated: str | None,
    need_keypoints: bool,
    need_objects: bool,
    problems: list[Problem],
) -> list[str]:
    """The fields that are the labels: the one that is named; else the only one that is no prediction.

    Several are read together where all of their labels have an index, which then tells which are of one object.

    Parameters
    ----------
    where : str
        The file.
    found : dict of str to Field
        See `survey_fields`.
    stated : str, optional
        `label_field` of a specification.
    need_keypoints : bool
        Whether one of them must have keypoints.
    need_objects : bool
        Whether masks of classes, which tell no objects apart, are refused.
    problems : list of Problem
        Gets a note on those that are passed over.

    Raises
    ------
    DataError
        If there is none, or it is not clear which.

    Examples
    --------
    >>> found = {"truth": Field("Polylines", 5), "model": Field("Detections", 3, 3)}
    >>> problems = []
    >>> choose_fields("samples.json", found, None, False, True, problems), str(problems[0])
    (['truth'], 'samples.json: the field truth is read, and passed over: model (Detections, predictions)')
    >>> choose_fields("samples.json", found | {"boxes": Field("Detections", 4)}, None, False, True, [])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: samples.json: several fields of labels: truth (Polylines), boxes (Detections); name one as \
label_field in a data.yaml beside it: {format: fiftyone, path: ., all: samples.json, label_field: truth}
    """
    listed = {name: f"{name} ({one.kind}{', predictions' if one.is_predicted else ''})" for name, one in found.items()}
    if stated is not None and stated not in found:
        raise DataError(
            f"{where}: label_field: no field {stated!r} with labels; there are: {', '.join(listed.values())}"
        )
    fit = [stated] if stated is not None else list(found)
    fit = [name for name in fit if not (need_objects and found[name].kind == SEGMENTATION)]
    if not fit:
        masks = "; masks of classes tell no objects apart" if found else ""
        kinds = "Detections, Polylines, Keypoints" + ("" if need_objects else ", Segmentation")
        raise DataError(f"{where}: no field with labels of objects ({kinds}){masks}; name other labels")
    if need_keypoints and not any(found[name].kind == "Keypoints" for name in fit):
        raise DataError(
            f"{where}: no field with Keypoints: {', '.join(listed[name] for name in fit)}; name other labels"
        )
    sure = [name for name in fit if not found[name].is_predicted] or fit
    linked = all(found[name].indexed == found[name].labels and found[name].kind != SEGMENTATION for name in sure)
    if len(sure) > 1 and not linked:
        of_kind = [name for name in sure if (found[name].kind == "Keypoints") is need_keypoints]
        sure = of_kind if len(of_kind) == 1 else sure
    if len(sure) > 1 and not linked:
        several = ", ".join(listed[name] for name in sure)
        raise DataError(
            f"{where}: several fields of labels: {several}; name one as label_field in a data.yaml beside it: "
            f"{{format: fiftyone, path: ., all: samples.json, label_field: {sure[0]}}}"
        )
    passed = [listed[name] for name in found if name not in sure]
    if passed:
        what = f"the field {' and '.join(sure)} is read, and passed over: {', '.join(passed)}"
        problems.append(Problem(where, what, blocks=False))
    return sure


@dataclass
class Head:
    """What metadata.json says.

    Parameters
    ----------
    classes : list of str
        In order, as far as they are stated.
    skeletons : dict of str to Skeleton
        By class, as this program writes them.
    by_field : dict of str to Skeleton
        By field; "" is the one of all others.
    targets : dict of str to dict of int to str
        Names of values of masks by field; "" is that of all others.

    Examples
    --------
    >>> Head().classes
    []
    """

    classes: list[str] = field(default_factory=list)
    skeletons: dict[str, Skeleton] = field(default_factory=dict)
    by_field: dict[str, Skeleton] = field(default_factory=dict)
    targets: dict[str, dict[int, str]] = field(default_factory=dict)

    def skeleton(self, name: str, field_name: str, points: int) -> Skeleton:
        """The keypoints of a class in a field; numbers are their names where the head does not tell them.

        Examples
        --------
        >>> Head(by_field={"": Skeleton(("nose",))}).skeleton("fox", "poses", 2).names
        ('nose',)
        >>> Head().skeleton("fox", "poses", 2).names
        ('0', '1')
        """
        stated = self.by_field.get(field_name, self.by_field.get(""))
        return self.skeletons.get(name) or stated or Skeleton(tuple(map(str, range(points))))


def read_head(where: str, content: Any) -> Head:
    """Read metadata.json, in the layout of any version: some facts stand in `info` of older ones.

    Parameters
    ----------
    where : str
        The file.
    content : JSON value
        Of the file; None where there is none.

    Raises
    ------
    DataError
        If skeletons or names are none.

    Examples
    --------
    >>> content = {"default_classes": ["cow"], "default_mask_targets": {"1": "cow"}, "skeletons": {"poses": {"labels": \
["nose", "tail"], "edges": [[0, 1]]}}}
    >>> head = read_head("metadata.json", content)
    >>> head.classes, head.targets, head.by_field["poses"].edges
    (['cow'], {'': {1: 'cow'}}, ((0, 1),))
    """
    head, info = Head(), content.get("info") if isinstance(content, Mapping) else None
    levels = [level for level in (content, info) if isinstance(level, Mapping)]

    def stated(key: str) -> Any:
        return next((level[key] for level in levels if level.get(key)), None)

    classes = stated("default_classes")
    head.classes = read_names(classes, f"{where}: default_classes") if isinstance(classes, list) else []
    for name, value in _by_field(stated("skeletons"), stated("default_skeleton")):
        if isinstance(value, Mapping):
            head.by_field[name] = _read_skeleton(f"{where}: skeleton {name}".rstrip(), value)
    for name, value in _by_field(stated("mask_targets"), stated("default_mask_targets")):
        head.targets[name] = _read_targets(f"{where}: mask_targets", value)
    ours = stated(FACTS)
    kinds = ours.get("categories") if isinstance(ours, Mapping) else None
    for name, value in kinds.items() if isinstance(kinds, Mapping) else ():
        if isinstance(value, Mapping):
            head.skeletons[name] = _read_skeleton(f"{where}: {FACTS}: {name}", value)
    return head


def _by_field(fields: Any, default: Any) -> list[tuple[str, Any]]:
    """What is stated for each field, and "" for what holds for all others.

    Examples
    --------
    >>> _by_field({"truth": 1}, 2), _by_field(None, None)
    ([('truth', 1), ('', 2)], [])
    """
    found = [(str(name), value) for name, value in fields.items()] if isinstance(fields, Mapping) else []
    return found + ([("", default)] if default is not None else [])


def _read_skeleton(where: str, keys: Mapping[str, Any]) -> Skeleton:
    """A skeleton: names of its points, and edges as sequences of points.

    Raises
    ------
    DataError
        If they are none.

    Examples
    --------
    >>> _read_skeleton("a.json", {"labels": ["a", "b", "c"], "edges": [[0, 1, 2]]}).edges
    ((0, 1), (1, 2))
    """
    names, edges, flips = (keys.get(key) for key in ("labels", "edges", "flip_idx"))
    chains = edges if isinstance(edges, list) else []
    good = all(isinstance(chain, list) and all(type(end) is int for end in chain) for chain in chains)
    count = max((end for chain in chains for end in chain), default=-1) + 1 if good else 0
    if not good or count > 1000 or not isinstance(names, list | None) or not isinstance(flips, list | None):
        raise DataError(
            f"{where}: expected labels as names and edges as lists of their places from 0, got {str(keys)[:60]}"
        )
    labels = read_names(names, where) if names else [str(place) for place in range(count)]
    pairs = [(first, last) for chain in chains for first, last in itertools.pairwise(chain)]
    if flips is not None and any(type(place) is not int for place in flips):
        raise DataError(f"{where}: flip_idx: expected places from 0, got {str(flips)[:60]}")
    return build_skeleton(where, labels, flips, pairs)


def _read_targets(where: str, value: Any) -> dict[int, str]:
    """Names of the values of a mask, in the order of the values; colours, of masks with three bands, are passed over.

    Raises
    ------
    DataError
        If they are none.

    Examples
    --------
    >>> _read_targets("a.json", {"7": "dog", "1": "cat", "#ff0000": "cow"})
    {1: 'cat', 7: 'dog'}
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected names by whole numbers, got {str(value)[:60]}")
    numbers = [key for key in value if str(key).isdecimal()]
    names = read_names([value[key] for key in numbers], where)
    return dict(sorted(zip(map(int, numbers), names, strict=True)))


def classes_in(value: Mapping[str, Any]) -> list[str]:
    """Names that people gave a whole picture in a field of classes; those with a confidence are left out.

    Examples
    --------
    >>> classes_in({"_cls": "Classification", "label": "day"})
    ['day']
    >>> labels = [{"label": "day"}, {"label": "fog", "confidence": 0.5}]
    >>> classes_in({"_cls": "Classifications", "classifications": labels})
    ['day']
    """
    labels: Sequence[Any] = [value] if value.get("_cls") == CLASSES[0] else value.get("classifications") or []
    kept = (label for label in labels if isinstance(label, Mapping) and score_key(label) is None)
    return [str(label["label"]) for label in kept if label.get("label") is not None]
