"""What boxes hand to people: scores, pictures with the boxes drawn in, and JSON files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from typing_extensions import override

from tasks.item import Item, Piece
from tasks.output import Metric, Output, Sink
from tests.kinds.boxes.metric import BoxMetric
from tests.kinds.boxes.sinks import BoxesSink
from tests.kinds.boxes.source import PhotoItem

TRUE, PREDICTED = (255, 255, 255), (230, 90, 20)


class BoxesOutput(Output):
    """Scores, pictures and files of boxes."""

    @override
    def metric(self, phase: str = "train") -> Metric:
        return BoxMetric()

    @override
    def draw(self, item: Item, pieces: Iterable[Piece]) -> np.ndarray | None:
        assert isinstance(item, PhotoItem)
        image = np.ascontiguousarray(cv2.imread(str(item.sources[0]))[..., ::-1])
        predicted = next(iter(pieces)).arrays["boxes_xyxy"]
        for boxes, colour in ((item.boxes_xyxy, TRUE), (predicted, PREDICTED)):
            for left, top, right, bottom in boxes.round().astype(int).tolist():
                cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour)
        return image

    @override
    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        return BoxesSink(item, folder)
