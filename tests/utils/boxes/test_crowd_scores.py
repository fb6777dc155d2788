"""AP, MR^-2 and JI of crowds: a case counted by hand, and literal versions over random cases."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from tests.utils.boxes.random_sets import random_sets
from utils.boxes.crowd_scores import (
    crowd_average_precision,
    jaccard_index,
    log_average_miss_rate,
    match_most,
    rank_detections,
)
from utils.boxes.detections import FALSE, IGNORED, FoundBoxes, TrueBoxes, match_all, match_picture

# --- literal versions: scalar loops, one detection and one object at a time ------------------------------------------


def shared_area(box, other):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(box, other):
    return shared_area(box, other) / (area(box) + area(other) - shared_area(box, other))


def inside(box, regions):
    return any(shared_area(box, region) / area(box) > 0.5 for region in regions)


def pictures_of(true, found, label, number):
    """For each picture objects, ignore regions, and (score, box) of the detections of a class, as lists."""
    for picture in range(number):
        rows = [row for row in range(len(true.labels)) if true.pictures[row] == picture and true.labels[row] == label]
        boxes = {False: [], True: []}
        for row in rows:
            boxes[bool(true.is_crowd[row])].append(true.boxes_xyxy[row].tolist())
        seen = [
            (float(found.scores[row]), found.boxes_xyxy[row].tolist())
            for row in range(len(found.labels))
            if found.pictures[row] == picture and found.labels[row] == label
        ]
        yield boxes[False], boxes[True], sorted(seen, key=lambda pair: -pair[0])


def literal_ranking(true, found, label, number):
    listed, objects = [], 0
    for truth, regions, seen in pictures_of(true, found, label, number):
        objects += len(truth)
        taken = set()
        for score, box in seen:
            best, largest = None, 0.5
            for place, other in enumerate(truth):
                if place not in taken and iou(box, other) > largest:
                    best, largest = place, iou(box, other)
            if best is not None:
                taken.add(best)
                listed.append((score, 1))
            elif not inside(box, regions):
                listed.append((score, 0))
    listed.sort(key=lambda pair: -pair[0])
    return listed, objects


def literal_ap_and_mr(true, found, label, number):
    listed, objects = literal_ranking(true, found, label, number)
    if not objects:
        return math.nan, math.nan
    right = false = 0
    recalls, precisions, missed, rates = [], [], [], []
    for _, outcome in listed:
        right, false = right + outcome, false + 1 - outcome
        recalls.append(right / objects)
        precisions.append(right / (right + false))
        missed.append(1 - right / objects)
        rates.append(false / number)
    average = sum(
        (precisions[place - 1] + precisions[place]) / 2 * (recalls[place] - recalls[place - 1])
        for place in range(1, len(listed))
    )
    if not listed:
        return 0.0, 1.0
    product = 1.0
    for limit in (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.000):
        place = next((place for place, rate in enumerate(rates) if rate >= limit), len(rates) - 1)
        product *= missed[place] ** (1 / 9)
    return average, product


def augment(detection, edges, owner, visited):
    for place in edges[detection]:
        if place not in visited:
            visited.add(place)
            if place not in owner or augment(owner[place], edges, owner, visited):
                owner[place] = detection
                return True
    return False


def literal_ji(true, found, label, number):
    best = math.nan
    for step in range(10):
        ratios = []
        for truth, regions, seen in pictures_of(true, found, label, number):
            boxes = [box for score, box in seen if score > step / 10]
            edges = [[place for place, other in enumerate(truth) if iou(box, other) >= 0.5] for box in boxes]
            owner = {}
            for detection in range(len(boxes)):
                augment(detection, edges, owner, set())
            detections = sum(place in owner.values() or not inside(box, regions) for place, box in enumerate(boxes))
            objects = sum(place in owner or not inside(box, regions) for place, box in enumerate(truth))
            if objects or detections:
                ratios.append(len(owner) / (objects + detections - len(owner)))
        if ratios and not (math.nan if math.isnan(best) else best) >= sum(ratios) / len(ratios):
            best = sum(ratios) / len(ratios)
    return best


# --- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_scores_are_those_of_the_literal_version(seed):
    pictures = 9
    true, found = random_sets(100 + seed, pictures, classes=2, most=10, crowds=0.2, side=150)
    matches = match_all(true, found)
    for label in range(2):
        ranking = rank_detections(true, found, matches, label, pictures)
        listed, objects = literal_ranking(true, found, label, pictures)
        assert ranking.objects == objects
        assert sorted(zip(ranking.scores.tolist(), ranking.right.tolist(), strict=True)) == sorted(listed)
        average, missed = literal_ap_and_mr(true, found, label, pictures)
        assert crowd_average_precision(ranking) == pytest.approx(average, abs=1e-12)
        assert log_average_miss_rate(ranking) == pytest.approx(missed, abs=1e-12)
        index, score = jaccard_index(true, found, label)
        assert index == pytest.approx(literal_ji(true, found, label, pictures), abs=1e-12)
        assert 0 <= score <= 0.9
        assert 0.05 < index < 0.95


def crowd_by_hand() -> tuple[TrueBoxes, FoundBoxes]:
    """Two pictures: in the first two people side by side and an ignore region, in the second one person.

    Detections of the first: 0.9 on the left person; 0.8 on the left one again; 0.7 in the region; 0.45 on the right
    person. Of the second: 0.6 on nothing; the person is missed.
    """
    people = [[0, 0, 10, 30], [12, 0, 22, 30]]
    truth = np.array([*people, [100, 0, 200, 100], [0, 0, 10, 30]], float)
    true = TrueBoxes(np.array([0, 0, 0, 1]), truth, np.zeros(4, int), np.array([False, False, True, False]))
    boxes = np.array([people[0], people[0], [120, 20, 130, 50], people[1], [50, 50, 60, 80]], float)
    found = FoundBoxes(np.array([0, 0, 0, 0, 1]), boxes, np.zeros(5, int), np.array([0.9, 0.8, 0.7, 0.45, 0.6]))
    return true, found


def test_a_case_counted_by_hand():
    true, found = crowd_by_hand()
    matches = match_all(true, found)
    assert matches.tolist() == [0, FALSE, IGNORED, 1, FALSE]
    ranking = rank_detections(true, found, matches, 0, pictures=2)
    # 0.9 right, 0.8 false, 0.6 false, 0.45 right: precisions 1, 1/2, 1/3, 1/2 at recalls 1/3, 1/3, 1/3, 2/3
    assert crowd_average_precision(ranking) == pytest.approx((1 / 3 + 1 / 2) / 2 * (1 / 3))
    # false per picture 0, .5, 1, 1: missed 2/3 at all nine points
    assert log_average_miss_rate(ranking) == pytest.approx(2 / 3)
    # above 0.8: 1 pair of 2 objects and 1 detection, 1/2; the second picture 0 of 1; mean 1/4. Above 0.4 to 0:
    # 2 pairs, 2 objects, 3 detections (the one in the region is none): 2/3; 0 of 1 person and 1 detection: mean 1/3
    assert jaccard_index(true, found, 0) == (pytest.approx(1 / 3), 0.4)


def test_an_ignore_region_hides_only_what_it_covers_by_more_than_half_and_never_an_object():
    truth = np.array([[0.0, 0, 10, 10], [0, 0, 100, 100]])
    true = TrueBoxes(np.zeros(2, int), truth, np.zeros(2, int), np.array([False, True]))
    boxes = np.array([[0.0, 0, 10, 10], [80, 80, 120, 100], [80, 80, 121, 100], [50, 50, 60, 60], [50, 50, 60, 60]])
    assert match_picture(boxes, np.zeros(5, int), true).tolist() == [0, FALSE, FALSE, IGNORED, IGNORED]
    assert match_picture(boxes, np.ones(5, int), true).tolist() == [FALSE] * 5  # of another class


def test_more_detections_than_any_limit_count():
    places = np.arange(1200)
    low = np.stack([20.0 * (places % 40), 20.0 * (places // 40)], axis=1)
    boxes = np.concatenate([low, low + 15], axis=1)
    true = TrueBoxes(np.zeros(1200, int), boxes, np.zeros(1200, int), np.zeros(1200, bool))
    found = FoundBoxes(np.zeros(1200, int), boxes, np.zeros(1200, int), np.linspace(1, 0.95, 1200))
    ranking = rank_detections(true, found, match_all(true, found), 0, 1)
    assert crowd_average_precision(ranking) == pytest.approx(1 - 1 / 1200)  # all but the stretch before the first
    assert log_average_miss_rate(ranking) == 0
    assert jaccard_index(true, found, 0)[0] == 1


def test_nobody_and_nothing():
    assert math.isnan(jaccard_index(TrueBoxes.empty(), FoundBoxes.empty(), 0)[0])
    true, _ = crowd_by_hand()
    ranking = rank_detections(true, FoundBoxes.empty(), np.zeros(0, int), 0, 2)
    assert (crowd_average_precision(ranking), log_average_miss_rate(ranking)) == (0, 1)
    assert jaccard_index(true, FoundBoxes.empty(), 0)[0] == 0
    nobody = rank_detections(true, FoundBoxes.empty(), np.zeros(0, int), 5, 2)
    assert math.isnan(crowd_average_precision(nobody))
    assert math.isnan(log_average_miss_rate(nobody))


@pytest.mark.parametrize("seed", range(20))
def test_the_matching_is_largest_after_each_detection(seed):
    generator = np.random.default_rng(seed)
    near = generator.random((14, 9)) < generator.choice([0.1, 0.25, 0.5])
    matched, since = match_most([np.flatnonzero(row).tolist() for row in near], 9)
    for count in range(15):
        largest = (maximum_bipartite_matching(csr_matrix(near[:count]), perm_type="column") >= 0).sum() if count else 0
        assert matched[:count].sum() == largest
        assert (since < count).sum() == largest
