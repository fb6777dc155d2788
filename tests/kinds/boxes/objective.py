"""What boxes learn: which cells lie near the centre of an object, and the sides of its box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from tasks.objective import Objective
from tasks.sample import Batch, Progress

CORE = 0.5  # of a box's width and height around its centre, where cells answer for it


def encode_cells(boxes_xyxy: Tensor, grid: tuple[int, int], stride: float) -> tuple[Tensor, Tensor]:
    """Objectness (1, h, w) and distances to the sides (4, h, w), in cells; the smallest of several boxes counts.

    >>> objectness, sides = encode_cells(torch.tensor([[0.0, 4.0, 12.0, 8.0]]), (2, 4), stride=4)
    >>> objectness.tolist(), sides[:, 1, 1].tolist()
    ([[[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]], [1.5, 0.5, 1.5, 0.5])
    """
    y, x = (torch.arange(number) + 0.5 for number in grid)
    objectness, sides = torch.zeros(1, *grid), torch.zeros(4, *grid)
    boxes = boxes_xyxy / stride
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    for left, top, right, bottom in boxes[areas.argsort(descending=True)]:
        distances = torch.stack(torch.broadcast_tensors(x - left, (y - top)[:, None], right - x, (bottom - y)[:, None]))
        across, down = (x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs()
        core = (across <= CORE * (right - left) / 2) & (down <= CORE * (bottom - top) / 2)[:, None]
        objectness[:, core], sides[:, core] = 1.0, distances[:, core]
    return objectness, sides


class BoxesObjective(Objective):
    """Cross-entropy of objectness over the cells of the picture, and the distance of sides where a box is."""

    def __init__(self, stride: float):
        self.stride = stride

    @override
    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        size = batch.arrays["image"].shape[-2:]
        grid = (-int(-size[0] // self.stride), -int(-size[1] // self.stride))
        cells = [encode_cells(boxes, grid, self.stride) for boxes in batch.arrays["boxes_xyxy"]]
        valid = torch.zeros(len(cells), 1, *grid)
        for row, (height, width) in enumerate(batch.sizes or [size] * len(cells)):
            valid[row, :, : -int(-height // self.stride), : -int(-width // self.stride)] = 1
        objectness, sides = (torch.stack(parts) for parts in zip(*cells, strict=True))
        batch.target = {"objectness": objectness, "boxes": sides, "valid": valid}
        return batch

    @override
    def counts(self, batch: Batch) -> dict[str, Tensor | None]:
        return {"objectness": batch.target["valid"].sum(), "boxes": batch.target["objectness"].sum()}

    @override
    def weights(self) -> dict[str, float]:
        return {"objectness": 4.0, "boxes": 1.0}

    @override
    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        target = batch.target
        each = F.binary_cross_entropy_with_logits(outputs["objectness"], target["objectness"], reduction="none")
        distance = (outputs["boxes"] - target["boxes"]).abs().mean(dim=1, keepdim=True)
        return {"objectness": (each * target["valid"]).sum(), "boxes": (distance * target["objectness"]).sum()}
