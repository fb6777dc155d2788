"""The best score of a class against every possible one, and what is taken for what, counted by hand."""

import math

import numpy as np
import pytest

from tests.utils.boxes.random_sets import random_sets
from utils.boxes.crowd_scores import Ranking, rank_detections
from utils.boxes.detections import FoundBoxes, TrueBoxes, match_all
from utils.boxes.thresholds import STEPS, best_threshold, count_confusions, threshold_curves


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all_scores(seed):
    true, found = random_sets(seed, classes=1)
    ranking = rank_detections(true, found, match_all(true, found), 0, 12)
    best = best_threshold(ranking)
    tried = {}
    for score in sorted(set(ranking.scores.tolist())):
        right, all_found = ranking.right[ranking.scores >= score].sum(), (ranking.scores >= score).sum()
        tried[score] = 2 * right / (all_found + ranking.objects)
    assert best["F1"] == pytest.approx(max(tried.values()))
    assert tried[best["score"]] == pytest.approx(best["F1"])
    right = ranking.right[ranking.scores >= best["score"]].sum()
    assert best["recall"] == pytest.approx(right / ranking.objects)
    assert best["precision"] == pytest.approx(right / (ranking.scores >= best["score"]).sum())


def test_curves_are_what_is_left_above_each_score():
    true, found = random_sets(3, classes=1)
    ranking = rank_detections(true, found, match_all(true, found), 0, 12)
    curves = threshold_curves(ranking)
    for place, score in enumerate(STEPS):
        left = ranking.right[ranking.scores >= score]
        assert curves["recall"][place] == pytest.approx(left.sum() / ranking.objects)
        assert curves["precision"][place] == pytest.approx(left.mean() if len(left) else math.nan, nan_ok=True)


def test_scores_that_are_equal_come_and_go_together():
    ranking = Ranking(np.array([0.5, 0.5, 0.5, 0.25]), np.array([True, False, True, True]), objects=3, pictures=1)
    assert best_threshold(ranking) == {"score": 0.25, "precision": 0.75, "recall": 1.0, "F1": pytest.approx(6 / 7)}


def test_nothing_found_and_nobody_there():
    nothing = Ranking(np.zeros(0), np.zeros(0, bool), objects=3, pictures=1)
    nobody = Ranking(np.array([0.5]), np.array([False]), objects=0, pictures=1)
    assert all(math.isnan(value) for ranking in (nothing, nobody) for value in best_threshold(ranking).values())
    assert threshold_curves(nothing)["recall"].tolist() == [0.0] * 101
    assert np.isnan(threshold_curves(nobody)["recall"]).all()


def test_confusions_counted_by_hand():
    truth = np.array([[0.0, 0, 20, 20], [50, 0, 100, 50], [200, 0, 320, 120], [400, 0, 500, 100], [600, 0, 700, 100]])
    true = TrueBoxes(np.zeros(5, int), truth, np.array([0, 1, 0, 1, 0]), np.array([False] * 4 + [True]))
    # the small 0 is found, the medium 1 taken for 0, the large 0 missed (its detection lies below the threshold),
    # the large 1 found as 1 and as 0 besides; one 1 on nothing; and one 0 in the ignore region of class 0
    boxes = np.array([*truth[:2], truth[2], truth[3], truth[3] + 2, [800, 0, 810, 10], [610, 10, 650, 50]], float)
    labels = np.array([0, 0, 0, 1, 0, 1, 0])
    scores = np.array([0.9, 0.8, 0.1, 0.9, 0.7, 0.6, 0.9])
    found = FoundBoxes(np.zeros(7, int), boxes, labels, scores)
    matrices = count_confusions(true, found, match_all(true, found), [0.5, 0.5])
    assert matrices[0].tolist() == [[1, 0, 1], [1, 1, 0], [1, 1, 0]]
    assert matrices[1].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert matrices[2].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert matrices[3].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert count_confusions(true, found, match_all(true, found), [math.nan, 0.5])[0][:, 0].sum() == 0


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_the_confusion_matrix_are_the_objects_and_columns_the_detections(seed):
    true, found = random_sets(seed, classes=3)
    matches = match_all(true, found)
    matrix = count_confusions(true, found, matches, [0.3, 0.5, 0.7])[0]
    objects = np.bincount(true.labels[~true.is_crowd], minlength=3)
    kept = (found.scores >= np.array([0.3, 0.5, 0.7])[found.labels]) & (matches != -2)
    assert matrix[:3].sum(axis=1).tolist() == objects.tolist()
    assert matrix[:, :3].sum(axis=0).tolist() == np.bincount(found.labels[kept], minlength=3).tolist()
    assert matrix[3, 3] == 0
