"""How close the maps of student and teacher are: scores of each block, their tables, and pictures of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from typing_extensions import override

from tasks.distill.map_comparison import MapScores
from tasks.item import Piece
from tasks.output import Metric
from utils.logging import VerbosityLogger
from utils.report.plots import side_by_side, with_title
from utils.report.tables import format_table, write_csv

COLUMNS = ("cosine", "raw_cosine", "explained_variance")
SHOWN_SIDE = 320  # pixels of a panel


class StudentMetric(Metric):
    """Cosines and explained variance of each block.

    Parameters
    ----------
    layers : sequence of int
        The teacher's blocks.

    Examples
    --------
    >>> from tasks.item import Item
    >>> metric = StudentMetric([3])
    >>> metric.update(Piece(Item("a", ()), {"scores": [MapScores(2, 1.0, 2.0, 1.0, 6.0, np.array([2.0]))]}), None)
    >>> metric.compute()["mean_cosine"], metric.compute()["per_block"]
    (0.5, {'3': {'cosine': 0.5, 'raw_cosine': 1.0, 'explained_variance': 0.75}})
    """

    def __init__(self, layers: Sequence[int]):
        self.layers = list(layers)
        self.blocks = [MapScores() for _ in self.layers]

    @override
    def update(self, piece: Piece, truth: Any) -> None:
        for block, scores in zip(self.blocks, piece.arrays["scores"], strict=True):
            block.add(scores)

    @override
    def state(self) -> list[dict[str, Any]]:
        return [block.state() for block in self.blocks]

    @override
    def merge(self, state: list[dict[str, Any]]) -> None:
        for block, sums in zip(self.blocks, state, strict=True):
            block.add(MapScores.from_state(sums))

    @override
    def constant(self) -> dict[str, Any]:
        return {"mean_cosine": float(np.mean([block.constant_cosine() for block in self.blocks]))}

    @override
    def compute(self) -> dict[str, Any]:
        per_block = {str(layer): block.compute() for layer, block in zip(self.layers, self.blocks, strict=True)}
        means = {name: float(np.mean([scores[name] for scores in per_block.values()])) for name in COLUMNS}
        return {
            "mean_cosine": means["cosine"],
            "raw_cosine": means["raw_cosine"],
            "explained_variance": means["explained_variance"],
            "cells": sum(block.cells for block in self.blocks),
            "per_block": per_block,
        }


def report_scores(metrics: dict[str, Any], folder: Path, log: VerbosityLogger) -> None:
    """Print the scores of each block, write them as blocks.csv, and print those of the probe where there are any.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> report_scores(StudentMetric([3]).compute(), folder, VerbosityLogger("error"))
    >>> (folder / "blocks.csv").read_text().splitlines()[0]
    'block,cosine,raw_cosine,explained_variance'
    """
    rows = [[block, *(scores[name] for name in COLUMNS)] for block, scores in metrics["per_block"].items()]
    tables = [format_table(["Block", "Cosine", "Cosine, raw", "Explained variance"], rows)]
    probe = metrics.get("probe")
    if probe:
        models = ("teacher", "student", "random")
        tables.append(format_table(["Linear probe", "mIoU"], [[name, probe[name]] for name in models]))
        tables.append(f"{closed_gap(probe['closed'])} of the gap from random to teacher is closed")
    for line in "\n".join(tables).splitlines():
        log.info(line)
    write_csv(folder / "blocks.csv", [{"block": block, **scores} for block, scores in metrics["per_block"].items()])


def closed_gap(share: float | None) -> str:
    """Which share of a gap is closed; NaN or None where a random student is as good as the teacher.

    Examples
    --------
    >>> closed_gap(0.725), closed_gap(float("nan")), closed_gap(None)
    ('72.5 %', 'nothing', 'nothing')
    """
    return "nothing" if share is None or np.isnan(share) else f"{100 * share:.1f} %"


def draw_maps(image: np.ndarray, target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Draw a crop beside the teacher's map and the student's, in the colours of the teacher's three main components.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        The crop.
    target, predicted : ndarray, shape (C, h, w)
        Maps of one block.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)

    Examples
    --------
    >>> maps = np.random.default_rng(0).normal(size=(5, 2, 2))
    >>> drawn = draw_maps(np.zeros((8, 8, 3), np.uint8), maps, maps)
    >>> drawn.ndim, drawn.shape[1] > 3 * SHOWN_SIDE - 1
    (3, True)
    """
    vectors = target.reshape(len(target), -1).T
    centre = vectors.mean(axis=0)
    axes = np.linalg.svd(vectors - centre, full_matrices=False)[2][:3]
    axes = np.pad(axes, ((0, 3 - len(axes)), (0, 0)))
    projected = (vectors - centre) @ axes.T
    low, high = np.percentile(projected, [2, 98], axis=0)
    panels = [with_title(_enlarge(image), "picture")]
    for title, maps in (("teacher", target), ("student", predicted)):
        colours = (maps.reshape(len(maps), -1).T - centre) @ axes.T
        colours = ((colours - low) / np.maximum(high - low, 1e-6)).clip(0, 1)
        panels.append(with_title(_enlarge((255 * colours).astype(np.uint8).reshape(*maps.shape[1:], 3)), title))
    return side_by_side(panels)


def _enlarge(image: np.ndarray) -> np.ndarray:
    """Show a map or picture at the size of a panel, cells as squares.

    Examples
    --------
    >>> _enlarge(np.zeros((2, 2, 3), np.uint8)).shape
    (320, 320, 3)
    """
    return cv2.resize(image, (SHOWN_SIDE, SHOWN_SIDE), interpolation=cv2.INTER_NEAREST)
