"""Scores of keypoints, with tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from tasks.item import Piece
from tasks.keypoints.baseline import constant_poses
from tasks.keypoints.settings import KeypointsConfig
from tasks.output import Metric
from utils.formats.types import Instance, Skeleton
from utils.keypoints.matching import PredictedPose, TruthPose
from utils.keypoints.metrics import PoseScores
from utils.keypoints.plots import plot_error_histogram, plot_keypoint_table
from utils.keypoints.tables import keypoint_table, swap_table, write_keypoint_table
from utils.report.tables import format_table

PRIMARY = {"PCK": "weighted_PCK", "error": "negative_error", "AP": "OKS_AP"}
SHOWN = (
    "mean_error_px",
    "median_error_px",
    "mean_error_all_px",
    "missed",
    "labelled",
    "weighted_PCK",
    "OKS_AP",
    "OKS_AR",
    "swap_rate",
)


class KeypointMetric(Metric):
    """Errors in pixels of the pictures, PCK, OKS AP and left-right swaps.

    Parameters
    ----------
    skeleton : Skeleton
        The keypoints.
    settings : KeypointsConfig
        Tolerances of OKS.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tasks.item import Item
    >>> import numpy as np
    >>> metric = KeypointMetric(Skeleton(("nose",)), KeypointsConfig())
    >>> found = {"frame": 0, "keypoints": np.array([[[3.0, 4.0, 0.9]]]), "scores": np.array([0.9])}
    >>> metric.update(Piece(Item("a", ()), found), [Instance("fly", np.array([[0.0, 4.0, 2.0]]))])
    >>> metric.compute()["mean_error_px"]
    3.0
    """

    def __init__(self, skeleton: Skeleton, settings: KeypointsConfig):
        self.skeleton, self.settings = skeleton, settings
        self.scores = self._empty()

    def _empty(self) -> PoseScores:
        """Scores of no picture yet.

        Examples
        --------
        >>> KeypointMetric(Skeleton(("nose",)), KeypointsConfig())._empty().compute()["pictures"]
        0
        """
        skeleton, settings = self.skeleton, self.settings
        return PoseScores(skeleton.num_keypoints, skeleton.flip_idx, settings.oks_sigmas, more_px=settings.thresholds)

    @override
    def update(self, piece: Piece, truth: Sequence[Instance]) -> None:
        true = [TruthPose(animal.keypoints, animal.box_xyxy, animal.area, animal.is_crowd) for animal in truth]
        pairs = zip(piece.arrays["keypoints"], piece.arrays["scores"], strict=True)
        predicted = [PredictedPose(keypoints, float(score)) for keypoints, score in pairs]
        self.scores.update(true, predicted, f"{piece.item.id}#{piece.arrays['frame']}")

    @override
    def state(self) -> Any:
        return self.scores.state()

    @override
    def merge(self, state: Any) -> None:
        self.scores.merge(state)

    @override
    def constant(self) -> dict[str, Any]:
        truths = self.scores.truths()
        predicted = constant_poses(truths, self.settings.instance_mode == "per_instance")
        if predicted is None:
            return {}
        scores = self._empty()
        for name, poses in predicted.items():
            scores.update(truths[name], poses, name)
        constant = scores.compute()
        return {**constant, "negative_error": -constant["mean_error_all_px"]}

    @override
    def compute(self) -> dict[str, Any]:
        scores = self.scores.compute()
        return {**scores, "negative_error": -scores["mean_error_all_px"]}


def report_scores(metrics: dict[str, Any], skeleton: Skeleton, folder: Path, log: Any) -> None:
    """Log the scores of all keypoints and of each; write and plot those of each.

    Examples
    --------
    >>> import tempfile
    >>> from utils.logging import VerbosityLogger
    >>> skeleton, folder = Skeleton(("nose",)), Path(tempfile.mkdtemp())
    >>> metrics = KeypointMetric(skeleton, KeypointsConfig()).compute()
    >>> report_scores(metrics, skeleton, folder, VerbosityLogger("error"))
    >>> sorted(path.name for path in folder.iterdir())
    ['errors.png', 'keypoints.csv', 'keypoints.png']
    """
    shown = [*SHOWN, *(name for name in metrics if name.startswith("PCK@"))]
    tables = [format_table(["Score", "Value"], [[name, metrics[name]] for name in shown])]
    tables.append(keypoint_table(metrics, skeleton.names, markdown=False))
    if metrics["per_pair"]["pairs"]:
        tables.append(swap_table(metrics, skeleton.names, markdown=False))
    for line in "\n".join(tables).splitlines():
        log.info(line)
    write_keypoint_table(folder / "keypoints.csv", metrics, skeleton.names)
    plot_keypoint_table(metrics, skeleton.names, folder / "keypoints.png")
    histogram = metrics["histogram"]
    missed = metrics["per_keypoint"]["missed"]
    plot_error_histogram(histogram["counts"], histogram["edges_px"], folder / "errors.png", missed, skeleton.names)
