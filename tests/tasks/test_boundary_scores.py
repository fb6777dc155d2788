"""Boundary IoU of evaluate: the same in pieces of any form, in files or in memory, on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.item import Piece
from tasks.segmentation import boundary_scores
from tasks.segmentation.items import SceneItem
from tasks.segmentation.metric import SegmentationMetric
from utils.masks.boundaries import boundary_counts
from utils.raster.tiling import Window

CLASSES = ["field", "road", "water"]
SIZE = (40, 50)


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true classes, a tenth of them unknown."""
    generator = np.random.default_rng(seed)
    prediction, truth = (np.kron(generator.integers(0, 3, (5, 5)), np.ones((8, 10))).astype(np.uint8) for _ in "ab")
    truth[generator.random(SIZE) < 0.1] = 255
    return prediction, truth


def score(metric: SegmentationMetric, name: str, maps: tuple[np.ndarray, np.ndarray], windows: list[Window]) -> None:
    """Score a picture piece by piece."""
    item = SceneItem(name, (), name, Window(0, 0, *SIZE), 16, 16, (0, SIZE[0]))
    prediction, truth = maps
    for window in windows:
        part = window.rows, window.columns
        metric.update(Piece(item, {"classes": prediction[part]}, window), truth[part])


WHOLE = [Window(0, 0, *SIZE)]
PARTS = [Window(y, x, min(16, 40 - y), min(16, 50 - x)) for y in range(0, 40, 16) for x in range(0, 50, 16)]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("width", [0.05, 3])
def test_pieces_and_ranks_give_the_scores_of_whole_pictures(monkeypatch, width, in_memory):
    if not in_memory:
        monkeypatch.setattr(boundary_scores, "_IN_MEMORY", 1)
    ranks = [SegmentationMetric(CLASSES, width) for _ in range(2)]
    for index, rank in enumerate(ranks):
        score(rank, f"picture {index}", draw(index), PARTS[:: 1 - 2 * index])  # the second in the opposite order
    merged = SegmentationMetric(CLASSES, width)
    for rank in ranks:
        merged.merge(rank.state())
    counts = sum(boundary_counts(*draw(index), 3, 3) for index in range(2))  # 5 % of a diagonal of 64 pixels is 3
    expected = counts[:, 0] / counts[:, 1]
    scores = merged.compute()
    assert [scores["per_class"][name]["bIoU"] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-12)
    assert scores["mbIoU"] == pytest.approx(expected.mean())


def test_what_was_not_predicted_is_not_scored_as_an_edge():
    metric, other = (SegmentationMetric(CLASSES, 2) for _ in range(2))
    prediction, truth = draw(5)
    item = SceneItem("a", (), "a", Window(0, 0, *SIZE), 16, 16, (0, SIZE[0]))
    valid = np.ones(SIZE, bool)
    valid[:, 30:] = False
    metric.update(Piece(item, {"classes": prediction, "valid": valid}, WHOLE[0]), truth)
    score(other, "a", (prediction, np.where(valid, truth, 255).astype(np.uint8)), WHOLE)
    assert metric.compute()["mbIoU"] == other.compute()["mbIoU"]


def test_a_missing_piece_is_an_error():
    metric = SegmentationMetric(CLASSES, 2)
    score(metric, "a", draw(0), PARTS[:-1])
    with pytest.raises(RuntimeError, match="16 pixels of a were not predicted"):
        metric.compute()


def test_without_the_setting_no_edges_are_scored():
    metric = SegmentationMetric(CLASSES)
    score(metric, "a", draw(0), PARTS)
    assert "mbIoU" not in metric.compute()
    assert metric.state()["boundaries"] is None
