"""AP and AR of boxes: equal to pycocotools', also with crowds, ties and more than 100 detections."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.utils.boxes.random_sets import random_sets
from utils.boxes.coco_scores import coco_arrays, coco_scores
from utils.boxes.detections import FoundBoxes, TrueBoxes


def pycocotools_arrays(true: TrueBoxes, found: FoundBoxes, classes: int, counted: list[int]):
    """Precision (10, 101, K, 4, M) and recall (10, K, 4, M) by pycocotools on the whole set at once."""

    def annotations(boxes, **fields):
        rows = []
        for number, (picture, (x1, y1, x2, y2), label) in enumerate(
            zip(boxes.pictures.tolist(), boxes.boxes_xyxy.tolist(), boxes.labels.tolist(), strict=True)
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"id": number + 1, "image_id": picture, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            rows.append(row | {name: values[number].item() for name, values in fields.items()})
        return rows

    last = int(max(true.pictures.max(initial=0), found.pictures.max(initial=0)))
    with contextlib.redirect_stdout(io.StringIO()):
        labelled, detected = COCO(), COCO()
        for coco, rows in (
            (labelled, annotations(true, iscrowd=true.is_crowd.astype(int))),
            (detected, annotations(found, score=found.scores)),
        ):
            coco.dataset = {
                "images": [{"id": picture} for picture in range(last + 1)],
                "categories": [{"id": label} for label in range(classes)],
                "annotations": rows,
            }
            coco.createIndex()
        evaluation = COCOeval(labelled, detected, "bbox")
        evaluation.params.maxDets = counted
        evaluation.evaluate()
        evaluation.accumulate()
    return tuple(np.where(evaluation.eval[name] < 0, np.nan, evaluation.eval[name]) for name in ("precision", "recall"))


@pytest.mark.parametrize("seed", range(6))
def test_precision_and_recall_are_those_of_pycocotools(seed):
    true, found = random_sets(seed, classes=4)
    counted = [1, 3, 10, 100]
    precision, recall = pycocotools_arrays(true, found, 4, counted)
    arrays = coco_arrays(true, found, 4, counted)
    assert np.allclose(arrays.precision, precision, rtol=0, atol=1e-6, equal_nan=True)
    assert np.allclose(arrays.recall, recall, rtol=0, atol=1e-6, equal_nan=True)
    assert np.nanmax(precision) > 0.3


@pytest.mark.parametrize("together", [1, 5, 12])
def test_pictures_may_be_matched_a_few_at_a_time(together, monkeypatch):
    true, found = random_sets(8)
    monkeypatch.setattr("utils.boxes.coco_scores._TOGETHER", together)
    precision, recall = pycocotools_arrays(true, found, 3, [1, 10, 100])
    arrays = coco_arrays(true, found, 3)
    assert np.allclose(arrays.precision, precision, rtol=0, atol=1e-6, equal_nan=True)
    assert np.allclose(arrays.recall, recall, rtol=0, atol=1e-6, equal_nan=True)


def test_single_precision_changes_nothing_but_the_last_digits():
    true, found = random_sets(7)
    single = [
        type(part)(*(column.astype(np.float32) if column.dtype == np.float64 else column for column in part))
        for part in (true, found)
    ]
    arrays = coco_arrays(*single, 3)
    precision, _ = pycocotools_arrays(*single, 3, [1, 10, 100])
    assert np.allclose(arrays.precision, precision, rtol=0, atol=1e-6, equal_nan=True)


def grid_of(number: int) -> np.ndarray:
    places = np.arange(number)
    low = np.stack([12.0 * (places % 20), 12.0 * (places // 20)], axis=1)
    return np.concatenate([low, low + 10], axis=1)


def test_of_300_objects_a_hundred_detections_find_a_third_and_a_thousand_all():
    boxes = grid_of(300)
    true = TrueBoxes(np.zeros(300, int), boxes, np.zeros(300, int), np.zeros(300, bool))
    found = FoundBoxes(np.zeros(300, int), boxes, np.zeros(300, int), np.linspace(1, 0.1, 300))
    scores = coco_scores(coco_arrays(true, found, 1, (1, 10, 100, 500, 1000)))
    assert scores["AP@1000"] == scores["AP@500"] == 1.0
    assert scores["AP"] == pytest.approx(34 / 101)  # precision is 1 at the recalls 0, 0.01, ... 0.33
    assert scores["AR_100"] == pytest.approx(100 / 300)
    assert scores["AR_1"] == pytest.approx(1 / 300)
    assert scores["AR_1000"] == 1.0
    assert scores["AP_small@1000"] == 1.0
    assert np.isnan(scores["AP_large@1000"])


def test_detections_count_per_class():
    boxes = grid_of(120)
    labels = np.arange(120) % 2
    true = TrueBoxes(np.zeros(120, int), boxes, labels, np.zeros(120, bool))
    found = FoundBoxes(np.zeros(120, int), boxes, labels, np.linspace(1, 0.1, 120))
    assert coco_scores(coco_arrays(true, found, 2))["AP"] == 1.0


def test_a_class_without_objects_is_left_out_and_false_detections_elsewhere_count():
    true = TrueBoxes(np.array([0]), np.array([[0.0, 0, 50, 50]]), np.array([0]), np.array([False]))
    found = FoundBoxes(
        np.array([0, 1, 1]), np.array([[0.0, 0, 50, 50]] * 3), np.array([0, 0, 1]), np.array([0.5, 0.9, 0.9])
    )
    arrays = coco_arrays(true, found, 3)
    assert [coco_scores(arrays, label)["AP"] for label in range(2)] == [0.5, pytest.approx(np.nan, nan_ok=True)]
    assert coco_scores(arrays)["AP"] == 0.5


def test_nothing_at_all_and_only_ignore_regions_have_no_score():
    for true in (
        TrueBoxes.empty(),
        TrueBoxes(np.array([0]), np.array([[0.0, 0, 9, 9]]), np.array([0]), np.array([True])),
    ):
        scores = coco_scores(coco_arrays(true, FoundBoxes.empty(), 2))
        assert all(np.isnan(value) for value in scores.values())
    one = TrueBoxes(np.array([0]), np.array([[0.0, 0, 9, 9]]), np.array([0]), np.array([False]))
    assert coco_scores(coco_arrays(one, FoundBoxes.empty(), 1))["AP"] == 0


def test_detections_in_an_ignore_region_are_not_false():
    boxes = np.array([[0.0, 0, 50, 50], [100, 0, 400, 300]])
    true = TrueBoxes(np.zeros(2, int), boxes, np.zeros(2, int), np.array([False, True]))
    inside = np.array([[110.0, 10, 160, 60]]) + np.array([[0], [50], [150]])
    found = FoundBoxes(
        np.zeros(4, int), np.concatenate([inside, boxes[:1]]), np.zeros(4, int), np.array([0.9, 0.8, 0.7, 0.6])
    )
    assert coco_scores(coco_arrays(true, found, 1))["AP"] == 1.0
    plain = true._replace(is_crowd=np.zeros(2, bool))
    assert coco_scores(coco_arrays(plain, found, 1))["AP"] < 0.2
