"""The labels of detection: classes, and the boxes of pictures that can be used."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.detection.items import Objects, no_objects
from tasks.detection.settings import DetectionSettings
from tasks.item import Finding
from tasks.labels import NO_CLASS, PictureLabels, box_fault, doubt_classes
from utils.boxes.geometry import areas
from utils.errors import DataError, SettingsError
from utils.formats.extents import extent_of
from utils.formats.read import read_boxes
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance
from utils.formats.vector.classes import VectorChoice
from utils.runtime.setting_errors import suggest

logger = logging.getLogger(__name__)

IGNORE = "ignore"  # what a name is mapped to whose boxes are ignore regions
OTHERS = "*"  # every name that the mapping does not list


class DetectionLabels(PictureLabels):
    """Reads the labels once, with the classes; the description of a checkpoint can replace these.

    Parameters
    ----------
    settings : DetectionSettings
        Paths, classes and mapping.
    fixed : dict
        Values of a checkpoint in place of the labels: `classes`.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> labels = fox_task().source.labels
    >>> labels.classes, len(labels.pictures)
    (['fox'], 12)
    """

    settings: DetectionSettings

    def __init__(self, settings: DetectionSettings, fixed: Mapping[str, Any] | None = None):
        super().__init__(settings, fixed)
        self._found: dict[str, Objects] = {}

    @override
    def read(self, source: str, root: str | None) -> dict[str, AnnotationSet]:
        dataset = self.settings.dataset
        choice = VectorChoice(dataset.label_layer, dataset.label_attribute, set(self._mapping) == {OTHERS})
        return read_boxes(source, self.settings.detection.format, root, choice=choice)

    @override
    def align(self, sets: dict[str, AnnotationSet]) -> dict[str, AnnotationSet]:
        known, names = self.fixed["classes"], self.names_in(sets)
        other = [name for name in names if self.mapped(name) not in (*known, IGNORE)]
        absent = [name for name in known if name not in map(self.mapped, names)]
        parts = [f"the checkpoint does not predict {', '.join(other)}"] if other else []
        parts += [f"the labels lack {', '.join(absent)}"] if absent else []
        if len(other) == len(names) and names:
            raise DataError(
                f"the labels have {', '.join(names)}; the checkpoint predicts {', '.join(known)}; say in "
                "dataset.label_mapping which is which"
            )
        if parts:
            logger.warning("%s; these classes are not scored", "; ".join(parts))
        return sets

    @staticmethod
    def names_in(sets: Mapping[str, AnnotationSet]) -> list[str]:
        """Names of the classes of all splits, in the order of the labels.

        Examples
        --------
        >>> from utils.formats.types import Skeleton
        >>> parts = {"train": AnnotationSet([], {"b": Skeleton(())}), "val": AnnotationSet([], {"a": Skeleton(())})}
        >>> DetectionLabels.names_in(parts)
        ['b', 'a']
        """
        return list(dict.fromkeys(name for part in sets.values() for name in part.skeletons))

    def mapped(self, name: str) -> str:
        """What the settings call a class of the labels.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> labels = fox_task("dataset.label_mapping={fox: animal, 0: tree}").labels
        >>> labels.mapped("fox"), labels.mapped("0"), labels.mapped("wolf")
        ('animal', 'tree', 'wolf')
        """
        return self._mapping.get(name, self._mapping.get(OTHERS, name))

    @cached_property
    def _mapping(self) -> dict[str, str]:
        """The mapping with names as text; YAML reads some as numbers.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task("dataset.label_mapping={0: tree}").labels._mapping
        {'0': 'tree'}
        """
        return {str(name).strip(): value for name, value in (self.settings.dataset.label_mapping or {}).items()}

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes; those of the checkpoint, if the task is made from one.

        Raises
        ------
        SettingsError
            If the settings name a class or a label that the labels do not have.
        DataError
            If the labels name no class.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task("dataset.classes=[wolf]").labels.classes
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: dataset.classes: no 'wolf' in the labels; known: fox
        """
        if "classes" in self.fixed:
            return self.fixed["classes"]
        names = self.names_in(self.sets)
        unknown = [name for name in self._mapping if name not in (*names, OTHERS)]
        if unknown:
            hint = suggest(unknown[0], names)
            raise SettingsError(
                f"dataset.label_mapping: no {unknown[0]!r} in the labels{hint} known: {', '.join(names)}"
            )
        found = [name for name in dict.fromkeys(map(self.mapped, names)) if name != IGNORE]
        asked = self.settings.dataset.classes
        if asked is None:
            if not found:
                raise DataError(f"{self.settings.paths.label_path}: {NO_CLASS}")
            return found
        if IGNORE in asked or len(set(asked)) < len(asked):
            raise SettingsError(f"dataset.classes: expected different names other than {IGNORE!r}, got {asked}")
        absent = [name for name in asked if name not in found]
        if absent:
            hint = suggest(absent[0], found)
            raise SettingsError(f"dataset.classes: no {absent[0]!r} in the labels{hint} known: {', '.join(found)}")
        return list(asked)

    @cached_property
    def zoom(self) -> float:
        """How much training pictures are enlarged for a sample: the median; that of the checkpoint, if there is one.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().labels.zoom
        0.5
        """
        if "zoom" in self.fixed:
            return self.fixed["zoom"]
        sizes = (picture.size for _, picture in self.pictures.values() if picture.size is not None)
        return float(np.median([self.zoom_of(size) for size in sizes]))

    def zoom_of(self, size: tuple[int, int]) -> float:
        """How much a picture of a height and width is enlarged for the sample of the whole of it.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().labels.zoom_of((192, 320))
        0.4
        """
        edges = self.settings.detection.shortest_edge, self.settings.detection.longest_edge
        return min(edges[0] / min(size), edges[1] / max(size))

    def median_size(self) -> float:
        """Median size (root of the area) of the objects in their closest samples, in pixels; NaN without any.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> round(fox_task().labels.median_size(), 1), round(fox_task("detection.windows=2").labels.median_size(), 1)
        (37.8, 68.0)
        """
        settings, sizes = self.settings.detection, [np.zeros(0)]
        closer = settings.windows - (settings.windows - 1) * settings.window_overlap if settings.windows else 1.0
        for _, picture in self.pictures.values():
            if picture.size is not None:
                objects = self.objects_of(picture)
                boxes = objects.boxes_xyxy[~objects.is_crowd]
                sizes.append(closer * self.zoom_of(picture.size) * np.sqrt(areas(boxes)))
        joined = np.concatenate(sizes)
        return float(np.median(joined)) if len(joined) else math.nan

    @override
    def problems(self) -> Iterator[Finding]:
        yield from super().problems()
        if not self.fixed:
            yield from doubt_classes(self.classes)

    @override
    def counts(self, instance: Instance) -> bool:
        return self.mapped(instance.category) in (*self.classes, IGNORE)

    def objects(self, instances: Sequence[Instance]) -> Objects:
        """Boxes, classes and ignore regions of the objects of a picture, in the order of the labels.

        A box whose name is mapped to `ignore` is a region of every class.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> labels = fox_task("dataset.label_mapping={fox: animal}").labels
        >>> found = labels.objects([Instance("fox", box_xyxy=np.array([1.0, 2, 5, 8]))])
        >>> found.boxes_xyxy.tolist(), found.labels.tolist(), found.is_crowd.tolist()
        ([[1.0, 2.0, 5.0, 8.0]], [0], [False])
        """
        rows: list[tuple[np.ndarray, int, bool]] = []
        for instance in instances:
            box, name = extent_of(instance), self.mapped(instance.category)
            if box is not None:
                of_classes = self.classes if name == IGNORE else [name]
                crowd = instance.is_crowd or name == IGNORE
                rows += [(box, self.classes.index(each), crowd) for each in of_classes]
        boxes = np.array([box for box, _, _ in rows], float).reshape(-1, 4)
        indices, is_crowd = ([row[column] for row in rows] for column in (1, 2))
        return Objects(boxes, np.array(indices, np.int64), np.array(is_crowd, bool))

    def objects_of(self, picture: AnnotatedPicture) -> Objects:
        """The objects of a labelled picture, made once: items are asked for many times.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> labels = fox_task().labels
        >>> _, picture = labels.pictures["images/val_000"]
        >>> labels.objects_of(picture) is labels.objects_of(picture), labels.objects_of(picture).labels.tolist()
        (True, [0, 0])
        """
        if not picture.instances:  # one to predict may have the name of a labelled one
            return no_objects()
        if picture.id not in self._found:
            self._found[picture.id] = self.objects(picture.instances)
        return self._found[picture.id]

    def others_of(self, picture: AnnotatedPicture) -> np.ndarray:
        """Boxes (M, 4) of a labelled picture's objects of other classes.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> labels = fox_task().labels
        >>> _, picture = labels.pictures["images/val_000"]
        >>> labels.others_of(picture).shape
        (0, 4)
        """
        return np.array(self._others.get(picture.id, []), float).reshape(-1, 4)

    @cached_property
    def _others(self) -> dict[str, list[np.ndarray]]:
        """Boxes of objects of other classes by picture; crowds and boxes that cannot be used are left out.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().labels._others
        {}
        """
        found: dict[str, list[np.ndarray]] = {}
        for picture in (picture for part in self.sets.values() for picture in part.pictures):
            for instance in picture.instances:
                box = extent_of(instance)
                if not (box is None or instance.is_crowd or self.counts(instance) or box_fault(box, picture.size)):
                    found.setdefault(picture.id, []).append(box)
        return found

    def numbers(self) -> dict[str, int]:
        """How many objects each picture has to learn, by the picture's path.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> max(fox_task().labels.numbers().values())
        3
        """
        return {
            str(picture.path): int((~self.objects_of(picture).is_crowd).sum()) for _, picture in self.pictures.values()
        }
