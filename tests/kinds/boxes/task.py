"""Boxes around the foxes of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

from typing_extensions import override

from tasks.feature_task import FeatureTask
from tasks.predictor import Predictor
from tests.kinds.boxes.objective import BoxesObjective
from tests.kinds.boxes.output import BoxesOutput
from tests.kinds.boxes.predictor import BoxesPredictor
from tests.kinds.boxes.settings import BoxesSettings
from tests.kinds.boxes.source import BoxesSource
from utils.geometry.augment import View
from utils.runtime.checkpoints import Checkpoint


class BoxesTask(FeatureTask):
    """Boxes around the foxes of a picture."""

    settings: BoxesSettings
    kind = "boxes"
    phases: ClassVar[tuple[str, ...]] = ("prepare", "verify", "train", "evaluate", "inference")
    primary = "F1"
    num_outputs = 1
    output = BoxesOutput()

    def __init__(self, name: str, settings: BoxesSettings):
        super().__init__(name, settings)
        self.source = BoxesSource(name, settings, self.features)

    @cached_property
    @override
    def objective(self) -> BoxesObjective:
        return BoxesObjective(self.head_shapes().stride)

    @override
    def check(self) -> list[str]:
        return [f"{len(self.source.items(split))} pictures in {split}" for split in ("train", "val")]

    @override
    def preflight(self, phases: Sequence[str]) -> None:
        super().preflight(phases)
        if "train" in phases:
            self.check_head()

    @override
    def describe(self) -> dict[str, Any]:
        return self.describe_model()

    @override
    @classmethod
    def from_checkpoint(cls, name: str, settings: BoxesSettings, checkpoint: Checkpoint) -> Self:
        description = cls.check_description(checkpoint, frozenset())
        task = cls(name, cls.restored_settings(settings, description, checkpoint.path))
        task.take_features(checkpoint)
        return task

    @override
    def predictor(self, views: Sequence[View] | None = None, phase: str = "train") -> Predictor:
        count = len(self.prediction_views() if views is None else views)
        return BoxesPredictor(self.head_shapes().stride, self.settings.boxes, count)
