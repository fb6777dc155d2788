"""Hierarchical runs: which class of a coarser training each class starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.segmentation.annotations import class_of_name, read_families
from tasks.segmentation.settings import SegmentationDataset
from utils import IGNORE_INDEX


def coarser_classes(
    dataset: SegmentationDataset, classes: Sequence[str], description: Mapping[str, Any]
) -> dict[str, str]:
    """The class of another training that held the annotations of each of these classes.

    Parameters
    ----------
    dataset : SegmentationDataset
        Says which names each class gathers, by `taxonomy` and `label_mapping`.
    classes : sequence of str
        Class names of this training.
    description : mapping
        Of the other training's checkpoint; its `classes`, and the taxonomy and mapping in its `labels`.

    Returns
    -------
    dict of str to str
        Classes whose names all went to one class there. A class of the same name is left to be found by its name.

    Examples
    --------
    >>> labels = {"taxonomy": {"Porites": "coral", "Acropora": "coral", "crab": "animal"}}
    >>> coarse = {"classes": ["background", "coral", "animal"], "labels": labels}
    >>> coarser_classes(SegmentationDataset(), ["background", "Porites", "crab", "algae"], coarse)
    {'Porites': 'coral', 'crab': 'animal'}
    >>> coarser_classes(SegmentationDataset(taxonomy={"Porites": "all", "crab": "all"}), ["all"], coarse)
    {}
    """
    theirs = description.get("classes") or []
    labels = description.get("labels") or {}
    families = labels.get("taxonomy") or {}
    other = SegmentationDataset(label_mapping=dict(labels.get("label_mapping") or []) or None)
    found = {}
    for name in classes:
        if name not in theirs:
            indices = {class_of_name(one, other, families, theirs) for one in _names_of(dataset, name, classes)}
            if len(indices) == 1 and -1 < (index := indices.pop()) < IGNORE_INDEX:
                found[name] = theirs[index]
    return found


def _names_of(dataset: SegmentationDataset, class_name: str, classes: Sequence[str]) -> list[str]:
    """Names in the labels that become a class; the class itself where no setting lists any.

    Examples
    --------
    >>> dataset = SegmentationDataset(taxonomy={"Porites": "coral"}, label_mapping={"crab": "animal", "fish": 1})
    >>> [_names_of(dataset, name, ["coral", "animal", "algae"]) for name in ("coral", "animal", "algae")]
    [['Porites'], ['crab', 'fish'], ['algae']]
    """
    pairs: dict[Any, Any] = {**read_families(dataset), **(dataset.label_mapping or {})}
    wanted = (class_name, list(classes).index(class_name))
    return [str(name) for name, target in pairs.items() if target in wanted and name != "*"] or [class_name]
