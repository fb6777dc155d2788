"""Metrics against plain loops, and additivity of their state."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from utils.metrics import ConfusionMatrix, RunningMean, ScoreHistogram, nan_to_none


def make_maps(num_classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    prediction = generator.integers(0, num_classes, (3, 20, 30)).astype(np.uint8)
    target = generator.integers(0, num_classes, (3, 20, 30)).astype(np.uint8)
    target[:, :5] = 255
    return prediction, target


def test_confusion_matrix_equals_a_loop_over_pairs() -> None:
    prediction, target = make_maps()
    metric = ConfusionMatrix(4)
    metric.update(prediction, target)
    expected = [[int(((target == true) & (prediction == other)).sum()) for other in range(4)] for true in range(4)]
    assert metric.state.tolist() == expected


def test_scores_equal_their_definitions() -> None:
    prediction, target = make_maps()
    metric = ConfusionMatrix(4)
    metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
    result, valid = metric.compute(), target != 255
    for index in range(4):
        true, predicted = (target == index) & valid, (prediction == index) & valid
        both = (true & predicted).sum()
        assert result["IoU"][index] == pytest.approx(both / (true | predicted).sum())
        assert result["Acc"][index] == pytest.approx(both / true.sum())
        assert result["Precision"][index] == pytest.approx(both / predicted.sum())
        assert result["Dice"][index] == pytest.approx(2 * both / (true.sum() + predicted.sum()))
        assert result["Support"][index] == true.sum()
    assert result["aAcc"] == pytest.approx((prediction == target)[valid].mean())
    assert result["mIoU"] == pytest.approx(np.mean(result["IoU"]))


def test_absent_class_is_left_out_and_false_alarm_counts_zero() -> None:
    metric = ConfusionMatrix(3)
    metric.update(np.array([0, 0, 0, 1], np.uint8), np.zeros(4, np.uint8))
    result = metric.compute()
    assert result["IoU"][:2] == [0.75, 0.0]
    assert math.isnan(result["IoU"][2])
    assert result["mIoU"] == 0.375  # class 1 counts, class 2 does not
    assert result["mAcc"] == 0.75  # neither of them has a true pixel
    assert result["mPrecision"] == 0.5


def test_empty_matrix_is_nan_without_a_warning() -> None:
    result = ConfusionMatrix(2).compute()
    assert all(math.isnan(result[name]) for name in ("aAcc", "mIoU", "mAcc", "mDice", "mPrecision"))


@pytest.mark.parametrize("parts", [1, 3])
def test_states_of_parts_add_up(parts: int) -> None:
    prediction, target = make_maps()
    whole, merged, loaded = ConfusionMatrix(4), ConfusionMatrix(4), ConfusionMatrix(4)
    whole.update(prediction, target)
    for index in range(parts):
        part = ConfusionMatrix(4)
        part.update(prediction[index::parts], target[index::parts])
        merged.merge(part)
    loaded.load_state(merged.state)
    assert torch.equal(whole.state, merged.state)
    assert loaded.compute() == whole.compute()
    loaded.update(prediction, target)
    assert torch.equal(merged.state, whole.state)  # a loaded state is a copy


def test_values_beyond_the_classes_are_named() -> None:
    metric = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"beyond the 3 classes: \[7\] in the prediction, \[4\] in the target"):
        metric.update(np.array([0, 7], np.uint8), np.array([4, 0], np.uint8))
    metric.update(np.array([7], np.uint8), np.array([255], np.uint8))  # nothing is known there
    assert metric.state.sum() == 0


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"got uint8\[2\] and uint8\[3\]"):
        ConfusionMatrix(2).update(np.zeros(2, np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"got int64\[2\] and uint8\[2\]"):
        ConfusionMatrix(2).update(np.zeros(2, np.int64), np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="expected 1 to 255"):
        ConfusionMatrix(256)
    with pytest.raises(ValueError, match=r"expected a state of shape \(2, 2\), got \(3, 3\)"):
        ConfusionMatrix(2).merge(ConfusionMatrix(3))


def test_running_mean_weighs_by_count_and_merges() -> None:
    first, second = RunningMean(), RunningMean()
    first.update(torch.tensor(3.0), torch.tensor(1))
    second.update(torch.tensor(1.0, dtype=torch.bfloat16), 3)
    first.merge(second)
    assert first.compute() == 1.0
    second.load_state(first.state)
    assert second.compute() == 1.0
    with pytest.raises(ValueError, match=r"RunningMean: expected a state of shape \(2,\), got \(3,\)"):
        second.load_state(torch.zeros(3))


def test_curve_equals_scores_of_thresholded_maps() -> None:
    generator = np.random.default_rng(0)
    target = generator.integers(0, 2, 500).astype(np.uint8)
    probabilities = np.clip(generator.normal(0.3 + 0.3 * target, 0.2), 0, 1).astype(np.float32)
    target[:50] = 255
    scores = ScoreHistogram()
    scores.update(probabilities, target)

    def score(threshold: float) -> float:
        matrix = ConfusionMatrix(2)
        matrix.update((probabilities >= threshold).astype(np.uint8), target)
        return matrix.compute()["IoU"][1]

    expected = [score(index / 256) for index in range(256)]
    np.testing.assert_allclose(scores.curve(), expected)
    threshold, best = scores.best_threshold()
    assert best == pytest.approx(max(expected))
    assert score(threshold) == pytest.approx(best)
    assert best > score(0.0)


def test_histograms_of_parts_add_up() -> None:
    generator = np.random.default_rng(1)
    probabilities, target = generator.random((4, 9)), generator.integers(0, 2, (4, 9)).astype(np.uint8)
    whole, merged = ScoreHistogram(), ScoreHistogram()
    whole.update(probabilities, target)
    for part in (slice(1), slice(1, 4)):
        piece = ScoreHistogram()
        piece.update(probabilities[part], target[part])
        merged.merge(piece)
    assert torch.equal(whole.state, merged.state)
    assert whole.state[1].sum() == (target == 1).sum()


def test_histogram_names_wrong_input() -> None:
    scores = ScoreHistogram()
    with pytest.raises(ValueError, match="expected 0 to 1, got nan"):
        scores.update(np.array([np.nan]), np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="must have one shape"):
        scores.update(np.zeros(2), np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match=r"ScoreHistogram: expected a state of shape \(2, 256\), got \(2, 2\)"):
        scores.merge(ConfusionMatrix(2))


def test_results_become_strict_json() -> None:
    text = json.dumps(nan_to_none(ConfusionMatrix(2).compute()), allow_nan=False)
    assert json.loads(text)["IoU"] == [None, None]
