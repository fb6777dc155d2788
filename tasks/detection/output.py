"""Output of detection: scores, comparison pictures, and prediction files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from tasks.belief import LEAST_BOXES, LEAST_BOXES_OF_ONE, Doubt, Support, few_pictures
from tasks.detection.items import DetectionItem
from tasks.detection.labels import DetectionLabels
from tasks.detection.metric import DetectionMetric, report_scores
from tasks.detection.settings import DetectionSettings
from tasks.detection.sinks import DetectionSink, Looks, gather_predictions
from tasks.item import Item, Piece
from tasks.labelled import decode_picture
from tasks.output import Metric, Output, Sink
from tasks.sample import Sample
from utils.boxes.detections import TrueBoxes
from utils.boxes.drawing import draw_box_comparison, draw_detections
from utils.formats.coco.label_ids import LabelIds, find_class_ids
from utils.logging import VerbosityLogger


class DetectionOutput(Output):
    """Scores of boxes, and the files of predictions.

    Parameters
    ----------
    settings : DetectionSettings
        Formats.
    labels : DetectionLabels
        The classes.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> fox_task().output.metric().compute()["AP50"]
    nan
    """

    class_score: ClassVar[str] = "AP"

    def __init__(self, settings: DetectionSettings, labels: DetectionLabels):
        self.settings, self.labels = settings, labels
        self.thresholds: dict[str, float] | None = None  # scores from which on detections are drawn, by class

    @override
    def metric(self, phase: str = "train") -> Metric:
        return DetectionMetric(self.labels.classes, self.settings.detection.max_detections)

    @override
    def support(self, metrics: dict[str, Any]) -> Support:
        return support_of(metrics)

    @override
    def report(self, metrics: dict[str, Any], folder: Path, log: VerbosityLogger) -> None:
        report_scores(metrics, self.labels.classes, folder, log)

    @override
    def take_scores(self, metrics: dict[str, Any]) -> None:
        self.thresholds = {name: scores["score"] for name, scores in metrics["classes"].items()}

    @override
    def draw(self, item: Item, pieces: Iterable[Piece]) -> np.ndarray | None:
        assert isinstance(item, DetectionItem)
        boxes, labels, is_crowd = item.objects
        true = TrueBoxes(np.zeros(len(boxes), np.int64), boxes, labels, is_crowd)
        arrays = next(iter(pieces)).arrays
        found = (arrays["boxes_xyxy"], arrays["scores"], arrays["labels"])
        return draw_box_comparison(decode_picture(item.picture), true, *found, self.labels.classes, self.thresholds)

    @override
    def draw_sample(self, sample: Sample) -> np.ndarray:
        boxes, labels = sample.arrays["boxes_xyxy"], sample.arrays["labels"]
        learnt = ~sample.arrays["is_crowd"]
        return draw_detections(sample.arrays["image"], boxes[learnt], None, labels[learnt], self.labels.classes)

    @property
    def looks(self) -> Looks:
        """Classes and formats of the files of predictions; overlays begin at the best score of each class, if known.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().output.looks.classes
        ('fox',)
        """
        classes, least = self.labels.classes, self.settings.detection.min_score
        drawn_from = () if self.thresholds is None else tuple(self.thresholds.get(name, least) for name in classes)
        return Looks(tuple(classes), tuple(self.settings.detection.formats), drawn_from)

    @override
    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        assert isinstance(item, DetectionItem)
        return DetectionSink(item, folder, self.looks, fingerprint)

    @override
    def write_summary(self, items: Sequence[Item], folder: Path) -> list[Path]:
        inputs = [item for item in items if isinstance(item, DetectionItem)]
        return gather_predictions(inputs, folder, self.looks, lambda: self._label_ids(inputs))

    def _label_ids(self, items: Sequence[DetectionItem]) -> LabelIds | None:
        """Ids of the pictures in the COCO labels of the task or of evaluate, if one file holds them all.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> task = fox_task()
        >>> ids = task.output._label_ids(task.source.items("inference"))
        >>> sorted(ids.pictures.values()), ids.category
        ([1, 2, 3, 4], {'fox': 1})
        """
        paths, named = self.settings.paths, self.settings.evaluate
        pictures = [item.picture.path for item in items]
        places = [(paths.resolve("label_path"), paths.data_root, False)]
        if named.labels is not None:
            places.append((paths.locate(named.labels), paths.data_root, True))
        for labels, root, beside in places:
            if labels is not None and Path(labels).exists():
                ids = find_class_ids(labels, root, pictures, self.labels.classes, beside)
                if ids is not None:
                    return ids
        return None


def support_of(metrics: dict[str, Any]) -> Support:
    """Say what scores of boxes were counted on, and what speaks against them.

    Parameters
    ----------
    metrics : dict
        What `DetectionMetric.compute` gave.

    Examples
    --------
    >>> [doubt.code for doubt in support_of(DetectionMetric(["fox"]).compute()).find()]
    ['few_boxes', 'no_boxes_of_a_class', 'few_pictures', 'nothing_found']
    """
    counts = {name: scores["objects"] for name, scores in metrics["classes"].items()}
    doubts = list(few_pictures(metrics["pictures"]))
    if not metrics["detections"]:
        doubts.append(Doubt("nothing_found", "no box was predicted whose score reaches detection.min_score"))
    return Support("boxes", counts, LEAST_BOXES, LEAST_BOXES_OF_ONE, "class", doubts)
