"""Output of distillation: scores of the student, maps in colours, and the exported folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from typing_extensions import override

from tasks.belief import LEAST_CELLS, Support
from tasks.context import Context
from tasks.distill.comparison import compare_probes, probe_recipe
from tasks.distill.export import export_student
from tasks.distill.metric import StudentMetric, draw_maps, report_scores
from tasks.distill.model import DistillModel
from tasks.distill.settings import DistillSettings
from tasks.features import FeatureService
from tasks.item import Item, Piece
from tasks.output import Metric, Output, name_scores
from utils.runtime.checkpoints import Checkpoint


class DistillOutput(Output):
    """Scores of the student, and its export as a folder that `model.backbone` accepts.

    Parameters
    ----------
    settings : DistillSettings
        The probe and the card.
    features : FeatureService
        The teacher.
    build_model : callable
        Makes a student with random weights, to compare with.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> student_task().output.extra_metrics_key()
    {}
    """

    def __init__(self, settings: DistillSettings, features: FeatureService, build_model: Callable[[], nn.Module]):
        self.settings, self.features, self.build_model = settings, features, build_model

    @override
    def metric(self, phase: str = "train") -> Metric:
        return StudentMetric(self.features.info.layers)

    @override
    def scores_by_class(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        return name_scores({f"block_{layer}": scores for layer, scores in metrics.get("per_block", {}).items()})

    @override
    def support(self, metrics: dict[str, Any]) -> Support:
        cells = metrics["cells"] // max(len(metrics["per_block"]), 1)
        return Support("cells", {"all": cells}, LEAST_CELLS)

    @override
    def extra_metrics_key(self) -> dict[str, Any]:
        probe = self.settings.distill.probe
        return {} if probe is None else probe_recipe(probe)

    @override
    def extra_metrics(self, model: nn.Module | None, context: Context) -> dict[str, Any]:
        probe = self.settings.distill.probe
        if probe is None:
            return {}
        assert isinstance(model, DistillModel)
        fresh = self.build_model()
        assert isinstance(fresh, DistillModel)
        return {
            "probe": compare_probes(self.settings, probe, self.features.info, model.student, fresh.student, context)
        }

    @override
    def report(self, metrics: dict[str, Any], folder: Path, log: Any) -> None:
        report_scores(metrics, folder, log)

    @override
    def draw(self, item: Item, pieces: Iterable[Piece]) -> np.ndarray | None:
        piece = next(iter(pieces), None)
        return None if piece is None else draw_maps(*(piece.arrays[name] for name in ("image", "target", "predicted")))

    @override
    def export(self, model: nn.Module | None, folder: Path, checkpoint: Checkpoint | None) -> list[Path]:
        assert isinstance(model, DistillModel)
        assert checkpoint is not None
        return export_student(self.settings, self.features.info, model.student, folder, checkpoint)
