"""From cells to boxes in pixels of the picture, each object once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tasks.item import Item, Piece
from tasks.predictor import Predictor
from tasks.sample import Sample
from tests.kinds.boxes.settings import BoxesConfig
from utils.boxes.suppression import nms
from utils.geometry.fields import Boxes


def decode_cells(objectness: Tensor, sides: Tensor, stride: float, min_score: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) in pixels and scores (N,) of the cells whose score is high enough, from (1, h, w) and (4, h, w).

    >>> boxes, scores = decode_cells(torch.tensor([[[-9.0, 0.0]]]), torch.ones(4, 1, 2), 4, min_score=0.25)
    >>> boxes.tolist(), scores.tolist()
    ([[2.0, -2.0, 10.0, 6.0]], [0.5])
    """
    scores = objectness[0].sigmoid()
    rows, columns = torch.nonzero(scores >= min_score, as_tuple=True)
    centres = torch.stack([columns, rows], dim=1) + 0.5
    left_top, right_bottom = sides[:, rows, columns].T.split(2, dim=1)
    boxes = torch.cat([centres - left_top, centres + right_bottom], dim=1) * stride
    return boxes.numpy(), scores[rows, columns].numpy()


class BoxesPredictor(Predictor):
    """Gives a piece per picture, once all its views came: boxes are turned back as their field says, then merged."""

    def __init__(self, stride: float, settings: BoxesConfig, views: int):
        self.stride, self.settings, self.views = stride, settings, views

    @override
    def start(self, item: Item, resume: int | None = None) -> None:
        self.item = item
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    @override
    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        assert outputs is not None
        for sample, objectness, sides in zip(samples, outputs["objectness"], outputs["boxes"], strict=True):
            boxes, scores = decode_cells(objectness.cpu(), sides.cpu(), self.stride, self.settings.min_score)
            height, width = sample.arrays["image"].shape[:2]
            boxes = Boxes().apply_view(boxes, sample.view.invert(), (height, width))
            self.found.append((boxes * self.settings.shrink, scores))
            if len(self.found) == self.views:
                boxes, scores = (np.concatenate(parts) for parts in zip(*self.found, strict=True))
                kept = nms(boxes, scores, iou=0.3)
                yield Piece(self.item, {"boxes_xyxy": boxes[kept], "scores": scores[kept]})

    @override
    def finish(self) -> Iterator[Piece]:
        yield from ()
