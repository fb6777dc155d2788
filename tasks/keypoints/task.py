"""Keypoints of animals and tools in pictures and videos."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

from typing_extensions import override

from models import find_head, read_head_options
from models.base import KeypointHead
from tasks.feature_task import refuse_other, refuse_unused_sample
from tasks.keypoints.labels import PoseLabels
from tasks.keypoints.metric import PRIMARY
from tasks.keypoints.objective import KeypointsObjective
from tasks.keypoints.output import KeypointsOutput
from tasks.keypoints.predictor import Decoder, PosePredictor
from tasks.keypoints.results import result_files
from tasks.keypoints.rules import Decision, automatic_settings
from tasks.keypoints.settings import KeypointsSettings
from tasks.keypoints.source import PoseSource
from tasks.labelled import LabelledTask
from tasks.named_files import check_there, located
from tasks.predictor import Predictor
from tasks.result_files import ResultFiles
from utils.errors import DataError, SettingsError
from utils.formats.types import Skeleton
from utils.geometry.augment import View
from utils.keypoints.oks import resolve_sigmas
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint
from utils.samples.files import FOX_FILES

logger = logging.getLogger(__name__)

PREDICTING = ("decoder", "min_score", "nms_radius", "tta_merge", "thresholds", "oks_sigmas")  # kept in checkpoints
# settings on which no weights depend, or only by the records and the description
RECORDED = (
    "format",
    "names_file",
    "category",
    "instance_mode",
    "bbox_scale",
    "short_side",
    "max_instances",
    "grouping",
)
UNLEARNT = frozenset([*PREDICTING, *RECORDED, "split_by", "formats", "prompts"])
DESCRIBED = frozenset(["skeleton", "canvas", "most", "grouping", "instance_mode", "bbox_scale"])


class KeypointsTask(LabelledTask):
    """Keypoints of one or several animals per picture.

    Parameters
    ----------
    name, settings
        As for `Task`.
    fixed : mapping, optional
        Values of a checkpoint in place of the labels: `skeleton`, `canvas`, `max_instances`, `grouping`, `category`.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> task = pose_task()
    >>> task.kind, task.primary, task.num_outputs
    ('keypoints', 'weighted_PCK', 7)
    """

    settings: KeypointsSettings
    kind = "keypoints"
    phases: ClassVar[tuple[str, ...]] = ("prepare", "verify", "train", "evaluate", "inference")
    primary = "weighted_PCK"
    counted: ClassVar[tuple[str, str] | None] = ("points", "keypoint")
    sample_files = FOX_FILES
    plotted: ClassVar[tuple[str, ...]] = (
        "weighted_PCK",
        "PCK@2px",
        "PCK@4px",
        "PCK@8px",
        "PCK@16px",
        "OKS_AP",
        "OKS_AR",
    )

    source: PoseSource
    output: KeypointsOutput

    def __init__(self, name: str, settings: KeypointsSettings, fixed: Mapping[str, Any] | None = None):
        super().__init__(name, settings)
        self.fixed = fixed
        self.primary = PRIMARY[settings.keypoints.best_metric]  # type: ignore[misc]
        self.decisions: list[Decision] = []
        self.labels = PoseLabels(settings, lambda: self.features.info.patch_size, fixed)
        self._build_parts(settings)

    def _build_parts(self, settings: KeypointsSettings, drawn: Mapping[str, list[str]] = MappingProxyType({})) -> None:
        """Make the parts from settings, which automatic rules may change after the labels are read.

        Parameters
        ----------
        settings : KeypointsSettings
            Of the parts.
        drawn : mapping of str to list of str
            Lists of a preview, which are not written and so are handed on.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> task = pose_task()
        >>> task._build_parts(task.settings.model_copy(update={"kind": "other"}))
        >>> task.source.settings.kind
        'other'
        """
        self.settings = settings
        self.source = PoseSource(self.name, settings, self.features, self.labels)
        self.source.drawn = drawn
        self.output = KeypointsOutput(settings, self.labels)

    @cached_property
    @override
    def objective(self) -> KeypointsObjective:
        head, labels = self.head_shapes(), self.labels
        assert isinstance(head, KeypointHead)
        return KeypointsObjective(self.settings, labels.skeleton, labels.canvas, head.stride, self.grouping)

    @property
    @override
    def num_outputs(self) -> int:
        return self.labels.skeleton.num_keypoints

    @property
    def grouping(self) -> bool:
        """Whether the head learns which points belong to the same animal.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().grouping
        True
        """
        if "grouping" in self.labels.fixed:
            return self.labels.fixed["grouping"]
        setting = self.settings.keypoints.grouping
        return self.labels.max_instances > 1 if setting == "auto" else setting

    @override
    def head_options(self) -> dict[str, Any]:
        return {**self.settings.model.head_options, "grouping": self.grouping}

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
            return ["head and keypoints are those of the checkpoint", *predicted]
        self.features.setup()
        target = self.settings.dataset.convert_to
        if target is not None and not self.num_outputs:
            return [f"{self.split_sizes()}, no keypoint in them; prepare only writes the labels as {target.format}"]
        lines = [
            f"head {self.settings.model.head} on {self.features.describe()}, {self.num_outputs} keypoints: "
            f"{', '.join(data.skeleton.names)}",
            f"{self.split_sizes()}, canvas {data.canvas[0]} x {data.canvas[1]} pixels, "
            f"at most {data.max_instances} animals each",
        ]
        return [*lines, *self.odd_sides(), *predicted]

    @override
    def odd_sides(self) -> list[str]:
        note = self.beside_patch("keypoints.short_side", self.settings.keypoints.short_side)
        if not note or not self.num_outputs or "canvas" in self.labels.fixed:
            return []
        height, width = self.labels.canvas
        return [f"{note}; pictures are scaled to fit {height} x {width} pixels (height x width)"]

    @override
    def preflight(self, phases: Sequence[str]) -> None:
        super().preflight(phases)
        if "prepare" in phases:
            refuse_unused_sample(self.settings, "label_path", self.sample_files)
        if self.settings.dataset.sample.enable and self.fixed is None:  # prepare writes the sample
            model = self.settings.model
            read_head_options(model.head_options, find_head(self.kind, model.head).Options)
            for key in ("prompts", "names_file"):
                for source in located(self.settings, getattr(self.settings.keypoints, key)):
                    check_there(f"keypoints.{key}", source)
            return
        if {"prepare", "train"} & set(phases):
            self.features.setup()
            self._refuse_pointless(phases)
            if distributed.is_main():
                self.labels.warn_of_problems()
            self._check_views()
        if "train" in phases:
            resolve_sigmas(self.settings.keypoints.oks_sigmas, self.num_outputs)  # raises for another number
            self.check_head()
        if "evaluate" in phases and not self.settings.evaluate.names_pictures:
            self.check_test_split()
        if "inference" in phases:
            distributed.run_on_main(self.check_inputs)

    def _refuse_pointless(self, phases: Sequence[str]) -> None:
        """Refuse labels without a keypoint, unless prepare only converts them.

        Raises
        ------
        DataError
            If no keypoint is labelled, or the labels cannot be read.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> task = pose_task()
        >>> task._refuse_pointless(["train"])
        >>> task.labels.skeleton = Skeleton(())
        >>> task._refuse_pointless(["train"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: annotations: no keypoint is labelled, only boxes and outlines; label points, or let ...
        """
        if self.labels.skeleton.num_keypoints:
            return
        if self.settings.dataset.convert_to is None or set(phases) - {"prepare", "verify"}:
            raise DataError(
                f"{self.settings.paths.label_path}: no keypoint is labelled, only boxes and outlines; label points, or "
                "let prepare alone write them in another format (dataset.convert_to)"
            )

    @override
    def result_files(self, folder: Path) -> ResultFiles:
        return result_files(folder, self.settings.keypoints.formats)

    def _check_views(self) -> None:
        """Refuse quarter turns of canvases that are not square.

        Raises
        ------
        SettingsError
            If quarter turns are set for such a canvas.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> changed = "dataset.augmentations={enable: true, rotate90: true}"
        >>> pose_task(changed)._check_views()
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: dataset.augmentations.rotate90: the canvas of 96 x 128 pixels is not square; ...
        """
        height, width = self.labels.canvas
        varied = self.settings.dataset.augmentations
        turns = {
            "dataset.augmentations.rotate90": varied.enable and varied.rotate90,
            "evaluate.tta.quarter_turns": self.settings.evaluate.tta.quarter_turns,
            "inference.tta.quarter_turns": self.settings.inference.tta.quarter_turns,
        }
        for name, on in turns.items():
            if on and height != width:
                raise SettingsError(
                    f"{name}: the canvas of {height} x {width} pixels is not square; set false, or use crops"
                )

    @override
    def setup(self) -> None:
        super().setup()
        if self.fixed is None and self.settings.keypoints.automatic_rules and self.num_outputs:
            pictures = [item.picture for item in self.source.items("train")]
            settings, decisions = automatic_settings(self.settings, pictures, self.labels.skeleton)
            for decision in decisions:
                logger.warning("%s", decision)
            self.decisions += decisions
            self._build_parts(settings, self.source.drawn)

    # -- checkpoints

    @override
    def describe_data(self) -> dict[str, Any]:
        keys = set(PREDICTING) | {"category"}
        return {"keypoints": self.settings.keypoints.model_dump(mode="json", include=keys)}

    @override
    def learning_key(self) -> dict[str, Any]:
        # what is as it is by default is left out: a later version with more settings knows its trainings
        return self.settings.keypoints.model_dump(mode="json", exclude=set(UNLEARNT), exclude_defaults=True)

    @override
    def validating_key(self) -> dict[str, Any]:
        scored = {"oks_sigmas"} if self.settings.keypoints.best_metric == "AP" else set()
        keys = {"decoder", "min_score", "nms_radius"} | scored
        return {"keypoints": self.settings.keypoints.model_dump(mode="json", include=keys)}

    @override
    def predicting_key(self, phase: str) -> dict[str, Any]:
        more = {"best_metric"} if phase == "evaluate" else {"formats"}
        return self.settings.keypoints.model_dump(mode="json", include=set(PREDICTING) | more)

    @override
    def describe(self) -> dict[str, Any]:
        skeleton, settings = self.labels.skeleton, self.settings.keypoints
        return {
            **self.describe_model(),
            "classes": list(skeleton.names),
            "skeleton": {
                "names": list(skeleton.names),
                "flip_idx": None if skeleton.flip_idx is None else list(skeleton.flip_idx),
                "edges": [list(edge) for edge in skeleton.edges],
            },
            "canvas": list(self.labels.canvas),
            "most": self.labels.max_instances,
            "grouping": self.grouping,
            "instance_mode": settings.instance_mode,
            "bbox_scale": settings.bbox_scale,
        }

    @override
    @classmethod
    def from_checkpoint(cls, name: str, settings: KeypointsSettings, checkpoint: Checkpoint) -> Self:
        description = cls.check_description(checkpoint, DESCRIBED)
        cropping = {"instance_mode": description["instance_mode"], "bbox_scale": description["bbox_scale"]}
        refuse_other(settings.keypoints, "keypoints", cropping, checkpoint.path)
        settings = cls.restored_settings(settings, description, checkpoint.path)
        kept = description.get("keypoints", {})  # not in old checkpoints
        known = {key: kept[key] for key in PREDICTING if key in kept and key not in settings.keypoints.model_fields_set}
        settings = settings.model_copy(update={"keypoints": settings.keypoints.model_copy(update=known | cropping)})
        skeleton = description["skeleton"]
        flip_idx = None if skeleton["flip_idx"] is None else tuple(skeleton["flip_idx"])
        edges = tuple((int(a), int(b)) for a, b in skeleton["edges"])
        fixed = {
            "skeleton": Skeleton(tuple(skeleton["names"]), flip_idx, edges),
            "canvas": (description["canvas"][0], description["canvas"][1]),
            "max_instances": description["most"],
            "grouping": description["grouping"],
            "category": kept.get("category"),
        }
        task = cls(name, settings, fixed)
        task.take_features(checkpoint)
        task._check_views()
        return task

    @override
    def take_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._check_views()

    # -- predictions

    @override
    def predictor(self, views: Sequence[View] | None = None, phase: str = "train") -> Predictor:
        labels = self.labels
        decoder = Decoder(
            self.spec().stride, labels.mirror_swap, self.settings.keypoints, self.grouping, labels.max_instances
        )
        return PosePredictor(decoder, len(self.prediction_views() if views is None else views))
