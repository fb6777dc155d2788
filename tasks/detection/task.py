"""Boxes around objects in pictures and videos."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn
from typing_extensions import override

from config import expand_path
from models import HEADS, find_head, read_head_options
from models.backbones.weights import digest_weights
from models.detection import DetectionHead
from models.pretrained import check_kind, find_pretrained, start_from
from models.set_prediction import SetHead
from tasks.detection.labels import DetectionLabels
from tasks.detection.objective import DetectionObjective
from tasks.detection.output import DetectionOutput
from tasks.detection.predictor import DetectionPredictor
from tasks.detection.results import result_files
from tasks.detection.settings import DetectionSettings
from tasks.detection.source import DetectionSource
from tasks.detection.views import resized_size
from tasks.feature_task import refuse_other, refuse_unused_sample
from tasks.labelled import LabelledTask
from tasks.predictor import Predictor
from tasks.result_files import ResultFiles
from utils.errors import DataError, SettingsError
from utils.geometry.augment import View
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint, load_checkpoint
from utils.samples.files import FOX_FILES

SCALING = ("shortest_edge", "longest_edge", "pad_size")  # of samples: a head knows no other
PREDICTING = (  # kept in checkpoints
    *("windows", "window_overlap", "window_largest", "min_score"),
    *("suppression", "iou", "max_detections"),
)
DESCRIBED = frozenset(["classes", "label_mapping", "detection", "zoom"])


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
    counted: ClassVar[tuple[str, str] | None] = ("boxes", "class")
    sample_files = FOX_FILES
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
        return DetectionObjective(self._head, self.labels.classes, self.settings)

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
        data = self.labels
        if self.awaits_sample():
            self.features.setup()
            return self.plan_before_sample()
        inputs = self.source.items("inference") if self.settings.inference.enable else []
        predicted = [f"inference: {item.id}" for item in inputs]
        if self.settings.paths.label_path is None and self.works_from_checkpoint():
            return ["head and classes are those of the checkpoint", *predicted]
        numbers = list(data.numbers().values())
        height, width = self.source.sample_size()
        lines = [
            f"head {self.settings.model.head} on {self.features.describe()}, {self.num_outputs} classes: "
            f"{', '.join(data.classes)}",
            f"{self.split_sizes()}, samples of at most {height} x {width} pixels",
            f"{sum(numbers)} objects: at most {max(numbers, default=0)} in a picture, 99 % of the pictures have "
            f"{np.percentile(numbers or [0], 99):.0f} or fewer; the head gives at most {self._head.max_objects} boxes",
            *self.doubts_of_sizes(),
        ]
        self.check_numbers()
        self.check_init()
        return [*lines, *predicted]

    def doubts_of_sizes(self) -> Iterator[str]:
        r"""Say which settings do not fit the numbers and the sizes of the labelled objects.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> list(fox_task().doubts_of_sizes())
        []
        >>> settings = ("detection.max_detections=1", "detection.shortest_edge=8", "detection.longest_edge=28")
        >>> print(*fox_task(*settings).doubts_of_sizes(), sep="\n")  # doctest: +ELLIPSIS
        detection.max_detections: at most 1 boxes of a picture are kept, and ... holds 3 objects; raise it
        detection.shortest_edge: half of the objects are below ... pixels in samples, which is less than a cell of ...
        """
        numbers, settings = self.labels.numbers(), self.settings.detection
        fullest, kept = max(numbers, key=lambda path: numbers[path], default=""), settings.max_detections
        if fullest and numbers[fullest] > kept:
            holds = f"{fullest} holds {numbers[fullest]} objects"
            yield f"detection.max_detections: at most {kept} boxes of a picture are kept, and {holds}; raise it"
        size, cell = self.labels.median_size(), self.source.cell_size()
        if size < cell:
            yield (
                f"detection.shortest_edge: half of the objects are below {size:.1f} pixels in samples, which is less "
                f"than a cell of {cell} pixels; raise it with detection.longest_edge, set detection.windows, or cut "
                "large pictures and rasters into pieces"
            )

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
        numbers, head, settings = self.labels.numbers(), self._head, self.settings.detection
        pictures = (picture for _, picture in self.labels.pictures.values())
        for picture in sorted(pictures, key=lambda picture: -numbers[str(picture.path)]):
            number, most, more = numbers[str(picture.path)], head.max_objects, ""
            if picture.size is not None:
                size = resized_size(picture.size, settings.shortest_edge, settings.longest_edge)
                most = head.max_objects_in(head.spec.patch_grid(size))
                more = ", or detection.shortest_edge" if most < head.max_objects else ""
            if number > most:
                raise DataError(
                    f"{picture.path}: {number} objects, but the head gives at most {most} boxes; raise the number of "
                    f"its candidates or queries in model.head_options{more}"
                )

    def check_init(self) -> None:
        """Refuse `model.init` where it cannot act, and weights that are not there.

        Raises
        ------
        SettingsError
            If the head starts from no other detector, or `train.init_from` names other weights.
        DataError
            If there is no such folder, the hub does not give the files, or they are of another kind of detector.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task("model.init=facebook/detr-resnet-50").check_init()
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: model.init: the head 'dense' starts from no other detector; drop it, or take ...
        """
        model = self.settings.model
        if model.init is None:
            return
        head = find_head(self.kind, model.head)
        if not issubclass(head, SetHead):
            others = [name for name in HEADS[self.kind] if issubclass(find_head(self.kind, name), SetHead)]
            raise SettingsError(
                f"model.init: the head {model.head!r} starts from no other detector; drop it, or take model.head "
                f"{' or '.join(sorted(others))}"
            )
        if self.settings.train.init_from is not None:
            raise SettingsError("model.init: train.init_from names the head's first weights, too; drop one of them")
        check_kind(head, find_pretrained(model.init))

    @override
    def start_weights(self, model: nn.Module) -> list[str]:
        source = self.settings.model.init
        if source is None:
            return []
        head = model.get_submodule("head")
        assert isinstance(head, SetHead)
        return [f"model.init: {source}: {line}" for line in start_from(head, find_pretrained(source))]

    @cached_property
    def _first_weights(self) -> dict[str, str] | None:
        """What a training starts from, as its checkpoints state it.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task()._first_weights is None
        True
        """
        source = self.settings.model.init
        return None if source is None else {"source": source, "digest": digest_weights(find_pretrained(source), {})}

    @override
    def preflight(self, phases: Sequence[str]) -> None:
        super().preflight(phases)
        self.check_init()
        if "prepare" in phases:
            refuse_unused_sample(self.settings, "label_path", self.sample_files)
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
        if "inference" in phases:
            distributed.run_on_main(self.check_inputs)

    @override
    def result_files(self, folder: Path) -> ResultFiles:
        named = self.settings.inference.checkpoint
        if named is None or self.labels.fixed:
            classes = self.labels.classes
        else:  # there may be no labels
            classes = load_checkpoint(expand_path(named)).description.get("classes", [])
        return result_files(folder, self.settings.detection.formats, classes)

    # -- checkpoints

    @override
    def describe_data(self) -> dict[str, Any]:
        return {"predicting": self.settings.detection.model_dump(mode="json", include=set(PREDICTING))}

    @override
    def validating_key(self) -> dict[str, Any]:
        return {"detection": self.settings.detection.model_dump(mode="json", include=set(PREDICTING))}

    @override
    def predicting_key(self, phase: str) -> dict[str, Any]:
        more = {"formats"} if phase == "inference" else set()
        return self.settings.detection.model_dump(mode="json", include=set(PREDICTING) | more)

    @override
    def describe(self) -> dict[str, Any]:
        mapping = self.settings.dataset.label_mapping
        return {
            **self.describe_model(),
            "init": self._first_weights,
            "classes": self.labels.classes,
            "label_mapping": None if mapping is None else [list(pair) for pair in mapping.items()],
            "detection": self.settings.detection.model_dump(mode="json", include=set(SCALING)),
            "zoom": self.labels.zoom,  # of training pictures, by which rasters are cut into windows
        }

    @override
    @classmethod
    def from_checkpoint(cls, name: str, settings: DetectionSettings, checkpoint: Checkpoint) -> Self:
        description = cls.check_description(checkpoint, DESCRIBED)
        scaling = {key: description["detection"][key] for key in SCALING}
        refuse_other(settings.detection, "detection", scaling, checkpoint.path)
        settings = cls.restored_settings(settings, description, checkpoint.path)
        kept = {"window_largest": 1.0, **description["predicting"]}  # versions before it had no such limit
        known = {key: kept[key] for key in PREDICTING if key in kept and key not in settings.detection.model_fields_set}
        detection = settings.detection.model_copy(update=known | scaling)
        dataset, mapping = settings.dataset, description["label_mapping"]
        if mapping is not None and "label_mapping" not in dataset.model_fields_set:
            dataset = dataset.model_copy(update={"label_mapping": {name: value for name, value in mapping}})
        settings = settings.model_copy(update={"detection": detection, "dataset": dataset})
        task = cls(name, settings, {"classes": list(description["classes"]), "zoom": float(description["zoom"])})
        task.take_features(checkpoint)
        task.take_checkpoint(checkpoint)
        return task

    @override
    def take_checkpoint(self, checkpoint: Checkpoint) -> None:
        by_class = checkpoint.description.get("by_class", {})  # checkpoints of earlier versions have none
        scores = {name: by_class.get(f"score/{name}") for name in self.labels.classes}
        # rounded down: stored and computed features give scores that differ in the last digits
        known = {name: math.floor(1000 * score) / 1000 for name, score in scores.items() if score is not None}
        self.output.thresholds = known or None

    # -- predictions

    @override
    def predictor(self, views: Sequence[View] | None = None, phase: str = "train") -> Predictor:
        count = len(self.prediction_views() if views is None else views)
        samples = count * (1 + self.settings.detection.windows**2)
        return DetectionPredictor(self.settings.detection, self._head.merges, samples)
