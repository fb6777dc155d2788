"""Output of detection: scores, comparison pictures, and prediction files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from typing_extensions import override

from tasks.belief import Support
from tasks.detection.items import DetectionItem
from tasks.detection.labels import DetectionLabels
from tasks.detection.metric import DetectionMetric
from tasks.detection.settings import DetectionSettings
from tasks.detection.sinks import DetectionSink, Looks, gather_predictions
from tasks.item import Item, Piece
from tasks.labelled import decode_picture
from tasks.output import Metric, Output, Sink
from utils.formats.coco.label_ids import LabelIds, find_class_ids

LEAST_BOXES, LEAST_BOXES_OF_ONE = 50, 10  # a share of 50 boxes is known to .07 (standard error at one half)
TRUE, PREDICTED = (255, 255, 255), (230, 90, 20)


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

    def __init__(self, settings: DetectionSettings, labels: DetectionLabels):
        self.settings, self.labels = settings, labels

    @override
    def metric(self) -> Metric:
        return DetectionMetric(self.labels.classes)

    @override
    def support(self, metrics: dict[str, Any]) -> Support:
        counts = {name: scores["boxes"] for name, scores in metrics["classes"].items()}
        return Support("boxes", counts, LEAST_BOXES, LEAST_BOXES_OF_ONE)

    @override
    def draw(self, item: Item, pieces: Iterable[Piece]) -> np.ndarray | None:
        assert isinstance(item, DetectionItem)
        image = decode_picture(item.picture).copy()
        predicted = next(iter(pieces)).arrays["boxes_xyxy"]
        for boxes, colour in ((item.objects.boxes_xyxy, TRUE), (predicted, PREDICTED)):
            for left, top, right, bottom in boxes.round().astype(int).tolist():
                cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour)
        return image

    @property
    def looks(self) -> Looks:
        """Classes and formats of the files of predictions.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().output.looks.classes
        ('fox',)
        """
        return Looks(tuple(self.labels.classes), tuple(self.settings.detection.formats))

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
