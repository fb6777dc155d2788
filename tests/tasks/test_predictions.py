"""Predictions are one stream over all items: batches, order, memory of predictors, and what is counted of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.base import Sample
from tasks.example import example_task
from tasks.phases import evaluate, prepare, train
from tasks.segmentation.prediction import DensePredictor
from tasks.segmentation.scenes import SceneItem
from tasks.segmentation.scoring import SegmentationMetric
from utils.files import read_json
from utils.tiling import Window

# ---------------------------------------------------------------------------------------------------------------------
# What is counted


@pytest.mark.parametrize("stride", [128, 171, 205, 51])
def test_confident_windows_that_overlap_much_are_scored(stride):
    side, tile = 1024, 512
    item = SceneItem("a", (), "a", Window(0, 0, side, side), tile, stride, (0, side))
    predictor, metric = DensePredictor(2, 64), SegmentationMetric(["field", "road"])
    predictor.start(item)
    logits = torch.tensor([-40.0, 40.0]).reshape(1, 2, 1, 1).expand(1, 2, 8, 8)
    arrays = {"valid": np.ones((tile, tile), bool)}
    largest = 0.0
    for window in item.windows():
        for piece in predictor.push([Sample("a", item, arrays, window)], {"logits": logits}):
            largest = max(largest, float(piece.arrays["confidence"].max()))
            metric.update(piece, np.ones(piece.arrays["classes"].shape, np.uint8))
    assert largest == 1
    assert metric.compute()["aAcc"] == 1
    assert int(metric.histogram.state.sum()) == side * side


def test_the_overlap_of_inference_does_not_retrain(tmp_path):
    task, context = example_task(tmp_path)
    prepare.run(task, context)
    assert train.run(task, context).status == "done"
    task, _ = example_task(tmp_path, "inference.overlap=0.5")
    assert prepare.run(task, context).status == "up to date"
    assert train.run(task, context).status == "up to date"
    other, _ = example_task(tmp_path, "train.val_overlap=0.5")
    assert [item.stride for item in (*task.items("val"), *other.items("val"))] == [24, 16]


def test_only_ground_with_a_window_is_counted_and_drawn(tmp_path):
    """The one window of 32 pixels shows dark ground only; what lies beside it is not predicted."""
    task, context = example_task(tmp_path, "dataset.max_windows=1")
    prepare.run(task, context)
    train.run(task, context)
    evaluate.run(task, context)
    folder = context.folder / "evaluate_val"
    scores = read_json(folder / "metrics.json")["metrics"]
    assert 0 < scores["support"] <= 32 * 32
    assert scores["per_class"]["light"]["Support"] == 0
    [item] = task.items("val")
    shown = task.draw(item, iter(pieces_of(task, item)))
    whole, _ = example_task(tmp_path)
    full = whole.draw(item, iter(pieces_of(whole, item)))
    assert (shown != full).any(axis=2).mean() > 0.15, "three quarters of the third panel are empty"


def pieces_of(task, item):
    """All of an item as class 0, where a window lies."""
    predictor = task.predictor()
    predictor.start(item)
    for sample in task.samples(item):
        logits = torch.zeros(1, 2, 8, 8)
        yield from predictor.push([sample], {"logits": logits})
    yield from predictor.finish()
