"""Scores of boxes: how many are found, and how many of those found are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import override

from tasks.item import Piece
from tasks.output import Metric
from utils.boxes.geometry import ious, pairwise

MIN_IOU = 0.3


class BoxMetric(Metric):
    """Precision, recall and F1 of boxes that cover the same place as a true one, the surest first.

    >>> metric = BoxMetric()
    >>> found = {"boxes_xyxy": np.array([[0.0, 0, 4, 4], [0, 0, 4, 3]]), "scores": np.array([0.5, 0.9])}
    >>> metric.update(Piece(None, found), np.array([[0.0, 0, 4, 4]]))
    >>> metric.compute()["precision"], metric.compute()["recall"]
    (0.5, 1.0)
    """

    def __init__(self) -> None:
        self.counts = np.zeros(3, int)  # right, predicted, true

    @override
    def update(self, piece: Piece, truth: np.ndarray) -> None:
        order = np.argsort(-piece.arrays["scores"], kind="stable")
        overlaps, right = pairwise(ious, piece.arrays["boxes_xyxy"][order], truth), 0
        for row in overlaps if truth.size else ():
            best = int(row.argmax())
            if row[best] >= MIN_IOU:
                overlaps[:, best], right = 0, right + 1
        self.counts += [right, len(order), len(truth)]

    @override
    def state(self) -> Any:
        return self.counts.tolist()

    @override
    def merge(self, state: Any) -> None:
        self.counts += state

    @override
    def compute(self) -> dict[str, Any]:
        right, predicted, true = self.counts.tolist()
        parts = {"precision": predicted, "recall": true, "F1": (predicted + true) / 2}
        return {name: right / number if number else float("nan") for name, number in parts.items()}
