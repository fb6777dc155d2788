"""Boxes around objects in pictures and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from typing_extensions import override

from models import find_head, read_head_options
from models.detection import DetectionHead
from tasks.detection.labels import DetectionLabels
from tasks.detection.objective import DetectionObjective
from tasks.detection.output import DetectionOutput
from tasks.detection.predictor import DetectionPredictor
from tasks.detection.settings import DetectionSettings
from tasks.detection.source import DetectionSource
from tasks.feature_task import refuse_other, refuse_unused_sample
from tasks.labelled import LabelledTask
from tasks.predictor import Predictor
from utils.errors import DataError
from utils.geometry.augment import View
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint

SCALING = ("shortest_edge", "longest_edge", "pad_size")  # of samples: a head knows no other
PREDICTING = ("windows", "window_overlap", "min_score", "suppression", "iou", "max_detections")  # kept in checkpoints
DESCRIBED = frozenset(["classes", "label_mapping", "detection"])


class DetectionTask(LabelledTask):
    """Boxes around objects of some classes.

    Parameters
    ----------
    name, settings
        As for `Task`.
    fixed : mapping, optional
        Values of a checkpoint in place of the labels: `classes`.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> task = fox_task()
    >>> task.kind, task.primary, task.num_outputs
    ('detection', 'AP', 1)
    """

    settings: DetectionSettings
    kind = "detection"
    phases: ClassVar[tuple[str, ...]] = ("prepare", "verify", "train", "evaluate", "inference")
    primary = "AP"
    plotted: ClassVar[tuple[str, ...]] = ("AP", "AP50", "AP75")

    source: DetectionSource
    output: DetectionOutput

    def __init__(self, name: str, settings: DetectionSettings, fixed: Mapping[str, Any] | None = None):
        super().__init__(name, settings)
        self.labels = DetectionLabels(settings, fixed)
        self.source = DetectionSource(name, settings, self.features, self.labels)
        self.output = DetectionOutput(settings, self.labels)

    @cached_property
    @override
    def objective(self) -> DetectionObjective:
        return DetectionObjective(self._head, self.labels.classes, self.settings.paths.label_path)

    @cached_property
    def _head(self) -> DetectionHead:
        """The head without weights.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task()._head.num_classes
        1
        """
        head = self.head_shapes()
        assert isinstance(head, DetectionHead)
        return head

    @property
    @override
    def num_outputs(self) -> int:
        return len(self.labels.classes)

    # -- before work starts

    @override
    def check(self) -> list[str]:
        sample, data = self.settings.dataset.sample, self.labels
        if self.awaits_sample():
            return [f"the sample is not in {sample.folder} yet; prepare writes it"]
        inputs = self.source.items("inference") if self.settings.inference.enable else []
        predicted = [f"inference: {item.id}" for item in inputs]
        if self.settings.paths.label_path is None and self.works_from_checkpoint():
            return ["head and classes are those of the checkpoint", *predicted]
        info, numbers = self.features.info, list(data.numbers().values())
        height, width = self.source.sample_size()
        lines = [
            f"head {self.settings.model.head} on blocks {', '.join(map(str, info.layers))} of {info.family} "
            f"(patch {info.patch_size}, {self.features.precision}), {self.num_outputs} classes: "
            f"{', '.join(data.classes)}",
            f"{self.split_sizes()}, samples of at most {height} x {width} pixels",
            f"{sum(numbers)} objects: at most {max(numbers)} in a picture, 99 % of the pictures have "
            f"{np.percentile(numbers, 99):.0f} or fewer; the head gives at most {self._head.max_objects} boxes",
        ]
        self.check_numbers()
        return [*lines, *predicted]

    def check_numbers(self) -> None:
        """Refuse pictures with more objects than the head can give boxes.

        Raises
        ------
        DataError
            If there is one.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().check_numbers()
        """
        numbers, most = self.labels.numbers(), self._head.max_objects
        fullest = max(numbers, key=lambda path: numbers[path])
        if numbers[fullest] > most:
            raise DataError(
                f"{fullest}: {numbers[fullest]} objects, but the head gives at most {most} boxes; raise the number of "
                "its candidates or queries in model.head_options"
            )

    @override
    def preflight(self, phases: Sequence[str]) -> None:
        super().preflight(phases)
        if "prepare" in phases:
            refuse_unused_sample(self.settings, "label_path")
        if self.settings.dataset.sample.enable and not self.labels.fixed:  # prepare writes the sample
            model = self.settings.model
            read_head_options(model.head_options, find_head(self.kind, model.head).Options)
            return
        if {"prepare", "train"} & set(phases):
            self.features.setup()
            if distributed.is_main():
                self.labels.warn_of_problems()
        if "train" in phases:
            self.check_head()
            self.check_numbers()
        if "evaluate" in phases and not self.settings.evaluate.names_pictures:
            self.check_test_split()

    # -- checkpoints

    @override
    def describe_data(self) -> dict[str, Any]:
        return {"predicting": self.settings.detection.model_dump(mode="json", include=set(PREDICTING))}

    @override
    def describe(self) -> dict[str, Any]:
        mapping = self.settings.dataset.label_mapping
        return {
            **self.describe_model(),
            "classes": self.labels.classes,
            "label_mapping": None if mapping is None else [list(pair) for pair in mapping.items()],
            "detection": self.settings.detection.model_dump(mode="json", include=set(SCALING)),
        }

    @override
    @classmethod
    def from_checkpoint(cls, name: str, settings: DetectionSettings, checkpoint: Checkpoint) -> Self:
        description = cls.check_description(checkpoint, DESCRIBED)
        scaling = {key: description["detection"][key] for key in SCALING}
        refuse_other(settings.detection, "detection", scaling, checkpoint.path)
        settings = cls.restored_settings(settings, description, checkpoint.path)
        kept = description["predicting"]
        known = {key: kept[key] for key in PREDICTING if key in kept and key not in settings.detection.model_fields_set}
        detection = settings.detection.model_copy(update=known | scaling)
        dataset = settings.dataset
        if description["label_mapping"] is not None and "label_mapping" not in dataset.model_fields_set:
            dataset = dataset.model_copy(update={"label_mapping": dict(map(tuple, description["label_mapping"]))})
        settings = settings.model_copy(update={"detection": detection, "dataset": dataset})
        task = cls(name, settings, {"classes": list(description["classes"])})
        task.refuse_other_backbone(description, checkpoint.path)
        return task

    # -- predictions

    @override
    def predictor(self, views: Sequence[View] | None = None) -> Predictor:
        count = len(self.prediction_views() if views is None else views)
        samples = count * (1 + self.settings.detection.windows**2)
        return DetectionPredictor(self.settings.detection, self._head.merges, samples)
