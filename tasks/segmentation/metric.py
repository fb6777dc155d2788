"""Scores of class maps: confusion matrices per scene and in total, with tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from tasks.item import Piece
from tasks.output import Metric
from tasks.segmentation.boundary_scores import BoundaryScores
from tasks.segmentation.items import SceneItem
from utils.logging import VerbosityLogger
from utils.metrics import IGNORE_INDEX, ConfusionMatrix, ScoreHistogram
from utils.report.plots import plot_confusion
from utils.report.tables import class_table, format_table, write_csv

CONFIDENCE_STEP = 1e-4
SCENES_SHOWN = 30  # if there are more scenes, only metrics.json lists them


class SegmentationMetric(Metric):
    """One confusion matrix per scene, and for two classes the distribution of the second's probability.

    Parameters
    ----------
    classes : sequence of str
        Class names.
    boundary_width : float, optional
        Also score edges, as `BoundaryScores` does.

    Examples
    --------
    >>> from tasks.item import Item
    >>> from utils.raster.tiling import Window
    >>> item = SceneItem("a", (), "a", Window(0, 0, 1, 4), 4, 4, (0, 1))
    >>> metric = SegmentationMetric(["field", "road", "water"])
    >>> piece = Piece(item, {"classes": np.array([[0, 1, 1, 2]], np.uint8)})
    >>> metric.update(piece, np.array([[0, 1, 0, 255]], np.uint8))
    >>> scores = metric.compute()
    >>> scores["aAcc"], scores["per_class"]["road"]["IoU"], scores["support"]
    (0.6666666666666666, 0.5, 3)
    >>> metric.constant()["mIoU"]  # two of three pixels are fields, and one of two classes is found
    0.3333333333333333
    """

    def __init__(self, classes: Sequence[str], boundary_width: float | None = None):
        self.classes = list(classes)
        self.boundaries = BoundaryScores(len(self.classes), boundary_width) if boundary_width is not None else None
        self.scenes: dict[str, ConfusionMatrix] = {}
        self.histogram = ScoreHistogram() if len(self.classes) == 2 else None
        self.confidence = np.zeros(
            2, np.int64
        )  # sum in steps of CONFIDENCE_STEP, as whole numbers add up exactly; pixels

    @override
    def update(self, piece: Piece, truth: np.ndarray) -> None:
        if "valid" in piece.arrays:  # pixels without a window, as of dataset.max_windows, have no prediction to count
            truth = np.where(piece.arrays["valid"], truth, IGNORE_INDEX)
        scene = piece.item.scene_id if isinstance(piece.item, SceneItem) else piece.item.id
        matrix = self.scenes.setdefault(scene, ConfusionMatrix(len(self.classes)))
        matrix.update(piece.arrays["classes"], truth)
        if self.boundaries is not None:
            self.boundaries.update(piece, truth)
        if self.histogram is not None:
            self.histogram.update(piece.arrays["foreground"], truth)
        if "confidence" in piece.arrays:
            sure = piece.arrays["confidence"][truth != IGNORE_INDEX]
            self.confidence += [int(np.rint(sure / CONFIDENCE_STEP).astype(np.int64).sum()), sure.size]

    @override
    def state(self) -> dict[str, Any]:
        scenes = {scene: matrix.state for scene, matrix in self.scenes.items()}
        histogram = None if self.histogram is None else self.histogram.state
        boundaries = None if self.boundaries is None else self.boundaries.counts
        return {"scenes": scenes, "histogram": histogram, "confidence": self.confidence, "boundaries": boundaries}

    @override
    def merge(self, state: dict[str, Any]) -> None:
        for scene, counts in state["scenes"].items():
            self.scenes.setdefault(scene, ConfusionMatrix(len(self.classes))).state += torch.as_tensor(counts)
        if self.histogram is not None and state["histogram"] is not None:
            self.histogram.state += torch.as_tensor(state["histogram"])
        self.confidence += np.asarray(state["confidence"])
        if self.boundaries is not None:
            self.boundaries.merge(state["boundaries"])

    def _total(self) -> ConfusionMatrix:
        """The counts of all scenes.

        Examples
        --------
        >>> SegmentationMetric(["field", "road"])._total().state.sum().item()
        0
        """
        total = ConfusionMatrix(len(self.classes))
        for scene in sorted(self.scenes):
            total.merge(self.scenes[scene])
        return total

    @override
    def constant(self) -> dict[str, Any]:
        pixels = self._total().state.sum(dim=1)
        if not pixels.sum():
            return {}
        constant = ConfusionMatrix(len(self.classes))  # the most frequent class everywhere is best for every mean
        constant.state[:, int(pixels.argmax())] = pixels
        return named_scores(constant, self.classes)

    @override
    def compute(self) -> dict[str, Any]:
        total = self._total()
        scores = named_scores(total, self.classes)
        scores["mean_confidence"] = float(self.confidence[0] * CONFIDENCE_STEP / max(self.confidence[1], 1))
        if self.boundaries is not None:
            values = self.boundaries.compute()
            scores["mbIoU"] = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
            for name, value in zip(self.classes, values.tolist(), strict=True):
                scores["per_class"][name]["bIoU"] = value
        scores["confusion"] = total.state.tolist()
        scores["per_scene"] = {scene: named_scores(self.scenes[scene], self.classes) for scene in sorted(self.scenes)}
        if self.histogram is not None:
            threshold, iou = self.histogram.best_threshold()
            scores["calibration"] = {"class": self.classes[1], "threshold": threshold, "IoU": iou}
        return scores


def named_scores(matrix: ConfusionMatrix, classes: Sequence[str]) -> dict[str, Any]:
    """Scores of a confusion matrix with class names in place of indices.

    Examples
    --------
    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(np.array([0, 1], np.uint8), np.array([0, 0], np.uint8))
    >>> named_scores(matrix, ["field", "road"])["per_class"]["field"]["Acc"]
    0.5
    """
    computed = matrix.compute()
    columns = ("IoU", "Acc", "Precision", "Dice", "Support")
    per_class = {name: {label: computed[label][index] for label in columns} for index, name in enumerate(classes)}
    means = {name: float(computed[name]) for name in ("aAcc", "mAcc", "mIoU", "mDice")}
    return {**means, "support": int(matrix.state.sum()), "per_class": per_class}


def report_scores(metrics: dict[str, Any], classes: Sequence[str], folder: Path, log: VerbosityLogger) -> None:
    """Print the tables and write confusion.csv, confusion.png and classes.csv.

    Examples
    --------
    >>> import tempfile
    >>> metric = SegmentationMetric(["a", "b", "c"])
    >>> metric.merge({"scenes": {"s": [[1, 0, 0], [0, 2, 0], [0, 0, 3]]}, "histogram": None, "confidence": [0, 0]})
    >>> folder = Path(tempfile.mkdtemp())
    >>> report_scores(metric.compute(), ["a", "b", "c"], folder, VerbosityLogger("error"))
    >>> sorted(path.name for path in folder.iterdir())
    ['classes.csv', 'confusion.csv', 'confusion.png']
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        label: [metrics["per_class"][name][label] for name in classes] for label in ("IoU", "Acc", "Dice", "Support")
    }
    for line in class_table(metrics | columns, list(classes)).splitlines():
        log.info(line)
    if "mbIoU" in metrics:
        edges = [metrics["per_class"][name]["bIoU"] for name in classes]
        table = [*zip(classes, edges, strict=True), ("mean", metrics["mbIoU"])]
        for line in format_table(["Class", "Boundary IoU"], table, "<>").splitlines():
            log.info(line)
    scenes = metrics["per_scene"]
    if 1 < len(scenes) <= SCENES_SHOWN:
        for line in scene_table(scenes, classes).splitlines():
            log.info(line)
    if "calibration" in metrics:
        best = metrics["calibration"]
        log.info(
            f"IoU of {best['class']} with a threshold chosen on this split ({best['threshold']:.2f}): {best['IoU']:.4f}"
        )
    rows = [
        {"truth": name, **dict(zip(classes, counts, strict=True))}
        for name, counts in zip(classes, metrics["confusion"], strict=True)
    ]
    write_csv(folder / "confusion.csv", rows)
    write_csv(folder / "classes.csv", [{"class": name, **scores} for name, scores in metrics["per_class"].items()])
    plot_confusion(np.array(metrics["confusion"]), list(classes), folder / "confusion.png")


def scene_table(scenes: dict[str, Any], classes: Sequence[str]) -> str:
    """Table of scores by scene, with the IoU of each class.

    Examples
    --------
    >>> metric = SegmentationMetric(["a", "b", "c"])
    >>> metric.merge({"scenes": {"s": [[1, 0, 0], [0, 2, 0], [0, 0, 3]]}, "histogram": None, "confidence": [0, 0]})
    >>> "| s " in scene_table(metric.compute()["per_scene"], ["a", "b", "c"])
    True
    """
    rows = [
        [scene, scores["mIoU"], *(scores["per_class"][name]["IoU"] for name in classes)]
        for scene, scores in scenes.items()
    ]
    return format_table(["Scene", "mIoU", *(f"IoU {name}" for name in classes)], rows)
