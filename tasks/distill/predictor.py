"""Predictor of distillation: scores of crops from the maps of student and teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tasks.distill.map_comparison import score_map, valid_cells
from tasks.item import Item, Piece
from tasks.predictor import Predictor
from tasks.sample import Sample


class StudentPredictor(Predictor):
    """Compares the predicted maps of each crop with their targets.

    Parameters
    ----------
    num_blocks : int
        Blocks of the teacher.

    Examples
    --------
    >>> StudentPredictor(2).num_blocks
    2
    """

    def __init__(self, num_blocks: int):
        self.num_blocks = num_blocks
        self.item: Item | None = None

    @override
    def start(self, item: Item, resume: int | None = None) -> None:
        self.item = item

    @override
    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        assert self.item is not None and outputs is not None  # noqa: PT018 - one state, not two facts
        last = self.num_blocks - 1
        for row, sample in enumerate(samples):
            valid = torch.from_numpy(np.ascontiguousarray(sample.arrays["valid"])).bool()[None]
            scores = []
            for index in range(self.num_blocks):
                student_map, teacher_map = (
                    outputs[f"predicted_{index}"][row].cpu(),
                    outputs[f"target_{index}"][row].cpu(),
                )
                raw = (outputs[f"raw_predicted_{index}"][row].cpu(), outputs[f"raw_target_{index}"][row].cpu())
                scores.append(score_map(student_map, teacher_map, raw, valid_cells(valid, teacher_map.shape[-2:])[0]))
            shown = {name: outputs[f"{name}_{last}"][row].float().cpu().numpy() for name in ("predicted", "target")}
            yield Piece(self.item, {"scores": scores, "image": sample.arrays["image"], **shown}, sample.window)

    @override
    def finish(self) -> Iterator[Piece]:
        yield from ()
