"""Predictions of boxes as JSON."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from tasks.item import Item, Piece
from tasks.output import Sink
from utils.runtime.files import write_json


class BoxesSink(Sink):
    """Writes the boxes of one picture."""

    def __init__(self, item: Item, folder: Path):
        self.item, self.path = item, folder / f"{item.id}.json"

    @override
    def append(self, piece: Piece) -> None:
        rows = zip(piece.arrays["boxes_xyxy"].round(3).tolist(), piece.arrays["scores"].round(4).tolist(), strict=True)
        boxes = [{"box_xyxy": box, "score": score} for box, score in rows]
        write_json(self.path, {"source": self.item.sources[0].name, "boxes": boxes})

    @override
    def close(self) -> list[Path]:
        return [self.path]
