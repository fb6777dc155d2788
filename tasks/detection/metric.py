"""Scores of boxes: average precision over overlaps, in the mean of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.item import Piece
from tasks.output import Metric
from utils.boxes.geometry import covered_shares, ious, pairwise

IOUS = np.linspace(0.5, 0.95, 10)


class DetectionMetric(Metric):
    """Average precision by COCO's rules, at 101 recalls.

    Parameters
    ----------
    classes : sequence of str
        Their names.

    Examples
    --------
    >>> from tasks.item import Item
    >>> metric = DetectionMetric(["fox"])
    >>> found = {"boxes_xyxy": np.array([[0.0, 0, 4, 4]]), "scores": np.array([0.5]), "labels": np.array([0])}
    >>> truth = {"boxes_xyxy": np.array([[0.0, 0, 4, 3]]), "labels": np.array([0]), "is_crowd": np.array([False])}
    >>> metric.update(Piece(Item("a", ()), found), truth)
    >>> [round(metric.compute()[name], 2) for name in ("AP", "AP50", "AP75")]
    [0.6, 1.0, 1.0]
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = list(classes)
        self.rows: list[list[list[list[float]]]] = [[] for _ in self.classes]  # of each class and picture
        self.true = [0] * len(self.classes)

    @override
    def update(self, piece: Piece, truth: dict[str, np.ndarray]) -> None:
        for index in range(len(self.classes)):
            chosen = piece.arrays["labels"] == index
            learnt = (truth["labels"] == index) & ~truth["is_crowd"]
            self.true[index] += int(learnt.sum())
            boxes, scores = piece.arrays["boxes_xyxy"][chosen], piece.arrays["scores"][chosen]
            crowd = truth["boxes_xyxy"][truth["is_crowd"]]
            rows = match(boxes, scores, truth["boxes_xyxy"][learnt], crowd)
            self.rows[index].append(rows.tolist())

    @override
    def state(self) -> Any:
        return {"rows": self.rows, "true": self.true}

    @override
    def merge(self, state: Any) -> None:
        self.rows = [mine + other for mine, other in zip(self.rows, state["rows"], strict=True)]
        self.true = [mine + other for mine, other in zip(self.true, state["true"], strict=True)]

    @override
    def compute(self) -> dict[str, Any]:
        of_class = [
            average_precision(np.array([row for picture in rows for row in picture]).reshape(-1, 11), true)
            for rows, true in zip(self.rows, self.true, strict=True)
        ]
        table = np.array([row if true else np.full(10, np.nan) for row, true in zip(of_class, self.true, strict=True)])
        means = np.full(10, np.nan) if np.isnan(table).all() else np.nanmean(table, axis=0)
        classes = {
            name: {"AP": float(row.mean()), "AP50": float(row[0]), "boxes": true}
            for name, row, true in zip(self.classes, table, self.true, strict=True)
        }
        scores = {"AP": float(means.mean()), "AP50": float(means[0]), "AP75": float(means[5])}
        return {**scores, "boxes": sum(self.true), "classes": classes}


def match(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Score and, for each overlap, 1 right, 0 wrong or -1 ignored of boxes (N, 4) with scores (N,), as (N, 11).

    Examples
    --------
    >>> box = np.array([[0.0, 0, 4, 4]])
    >>> match(box, np.array([0.5]), box, np.zeros((0, 4)))[0, :3].tolist()
    [0.5, 1.0, 1.0]
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = pairwise(ious, boxes[order], truth)
    ignored = (pairwise(covered_shares, boxes[order], crowd) >= 0.5).any(axis=1)
    rows = np.zeros((len(order), 11))
    rows[:, 0] = scores[order]
    for column, least in enumerate(IOUS, start=1):
        free = np.ones(len(truth), bool)
        for row, of_box in enumerate(overlaps):
            left = np.where(free, of_box, -1)
            best = int(left.argmax()) if len(left) else -1
            if best >= 0 and left[best] >= least:
                rows[row, column], free[best] = 1, False
            elif ignored[row]:
                rows[row, column] = -1
    return rows


def average_precision(rows: np.ndarray, true: int) -> np.ndarray:
    """Average precision (10,) at each overlap, of what `match` gave for all pictures, (N, 11).

    Examples
    --------
    >>> average_precision(np.array([[0.5] + [1.0] * 10]), true=1)[0].round(3)
    np.float64(1.0)
    """
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    found = np.zeros(10)
    for column in range(10):
        hits = rows[rows[:, column + 1] >= 0, column + 1]
        right = np.cumsum(hits)
        precision = right / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        recall = right / max(true, 1)
        places = np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-12)
        found[column] = np.append(best, 0.0)[np.minimum(places, len(best))].mean()
    return found
