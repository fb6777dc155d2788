"""Means of scenes and of a split: one rule for classes that are only predicted, and for absent ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.item import Piece
from tasks.segmentation.items import SceneItem
from tasks.segmentation.metric import SegmentationMetric
from utils.raster.tiling import Window

CLASSES = ["field", "road", "water"]


def scored(**scenes: tuple[list[int], list[int]]) -> dict:
    """Scores of scenes of one row, each given as its prediction and its truth."""
    metric = SegmentationMetric(CLASSES)
    for name, (prediction, truth) in scenes.items():
        item = SceneItem(name, (), name, Window(0, 0, 1, len(truth)), 4, 4, (0, 1))
        metric.update(Piece(item, {"classes": np.uint8([prediction])}), np.uint8([truth]))
    return metric.compute()


def test_a_class_of_false_alarms_alone_counts_as_zero_in_a_scene_and_in_a_split():
    alone = scored(a=([0, 0, 0, 1], [0, 0, 0, 0]))
    for scores in (alone, alone["per_scene"]["a"]):
        assert scores["per_class"]["road"]["IoU"] == 0
        assert math.isnan(scores["per_class"]["water"]["IoU"])
        assert scores["mIoU"] == pytest.approx((0.75 + 0) / 2)
        assert scores["mAcc"] == pytest.approx(0.75), "no road is labelled, so none can be found"


def test_pixels_without_a_label_are_no_false_alarms():
    scores = scored(a=([0, 0, 1, 1], [0, 0, 255, 255]))["per_scene"]["a"]
    assert math.isnan(scores["per_class"]["road"]["IoU"])
    assert scores["mIoU"] == 1


def test_a_split_is_scored_from_the_counts_of_its_scenes_not_from_their_means():
    scores = scored(a=([0, 0, 0, 1], [0, 0, 0, 0]), b=([1, 1], [1, 1]))
    assert scores["per_scene"]["b"]["mIoU"] == 1
    assert scores["per_class"]["road"]["IoU"] == pytest.approx(2 / 3)
    assert scores["mIoU"] == pytest.approx((0.75 + 2 / 3) / 2)
