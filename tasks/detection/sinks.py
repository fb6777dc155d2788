"""Prediction files of detection: JSON with the boxes of each picture or frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import override

from tasks.detection.items import DetectionItem
from tasks.item import Piece
from tasks.output import Sink
from utils.runtime.files import write_json


class DetectionSink(Sink):
    """Collects the frames of one picture or video, then writes them.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> item = fox_task().source.items("val")[0]
    >>> DetectionSink(item, Path("out"), ["fox"]).path.as_posix()
    'out/images/val_000.json'
    """

    def __init__(self, item: DetectionItem, folder: Path, classes: list[str]):
        self.item, self.path, self.classes = item, folder / f"{item.id}.json", classes
        self.frames: list[dict[str, Any]] = []

    @override
    def append(self, piece: Piece) -> None:
        arrays = piece.arrays
        rows = zip(arrays["boxes_xyxy"].round(3).tolist(), arrays["scores"], arrays["labels"], strict=True)
        boxes = [
            {"box_xyxy": box, "score": round(float(score), 6), "class": self.classes[label]}
            for box, score, label in rows
        ]
        self.frames.append({"frame": arrays["frame"], "boxes": boxes})

    @override
    def flush(self) -> None:
        write_json(self.path, {"source": str(self.item.picture.path), "frames": self.frames})

    @override
    def close(self) -> list[Path]:
        return [self.path]
