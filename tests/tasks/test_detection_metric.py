"""The metric of detection: exact over ranks, independent of order, and what its scores are compared with."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from affine import Affine

from tasks.belief import LEAST_BOXES, same_place
from tasks.detection.example import fox_task
from tasks.detection.metric import DetectionMetric, report_scores
from tasks.detection.output import support_of
from tasks.item import Item, Piece
from tests.utils.boxes.random_sets import random_sets
from utils.boxes.drawing import STYLES
from utils.formats.types import AnnotatedPicture
from utils.logging import VerbosityLogger
from utils.metrics import nan_to_none
from utils.raster.files import write_raster
from utils.runtime.distributed import gather_objects

CLASSES = ["fox", "hen", "man"]


def pieces(seed: int = 0, pictures: int = 12, **options):
    true, found = random_sets(seed, pictures, len(CLASSES), **options)
    for picture in range(pictures):
        rows, places = true.pictures == picture, found.pictures == picture
        truth = {name: getattr(true, name)[rows] for name in ("boxes_xyxy", "labels", "is_crowd")}
        arrays = {name: getattr(found, name)[places] for name in ("boxes_xyxy", "labels", "scores")}
        yield Piece(Item(f"{picture:03}", ()), {**arrays, "frame": 0, "size": (240, 320)}), truth


def scored(given, max_detections: int = 300) -> DetectionMetric:
    metric = DetectionMetric(CLASSES, max_detections)
    for piece, truth in given:
        metric.update(piece, truth)
    return metric


def plain(metrics) -> str:
    return json.dumps(nan_to_none(metrics))


@pytest.mark.parametrize("ranks", [2, 3, 20])
def test_ranks_give_together_what_one_process_gives(ranks):
    given = list(pieces())
    alone = scored(given)
    merged = DetectionMetric(CLASSES, 300)
    for rank in reversed(range(ranks)):  # some have no picture
        [state] = gather_objects(scored(given[rank::ranks]).state())  # as it travels
        merged.merge(state)
    assert plain(merged.compute()) == plain(alone.compute())
    assert plain(merged.constant()) == plain(alone.constant())


def test_the_order_of_pictures_changes_nothing():
    given = list(pieces(1))
    assert plain(scored(given).compute()) == plain(scored(given[::-1]).compute())


def test_frames_of_a_video_are_pictures_of_their_own_and_none_counts_twice():
    given = list(pieces(2, pictures=2))
    item = Item("video", ())
    frames = [(Piece(item, {**piece.arrays, "frame": frame}), truth) for frame, (piece, truth) in enumerate(given)]
    assert scored(frames).compute()["pictures"] == 2
    with pytest.raises(ValueError, match="'video#1' was scored before"):
        scored([*frames, frames[1]])


def test_numbers_that_are_not_finite_are_refused():
    piece, truth = next(iter(pieces()))
    piece.arrays["scores"][0] = np.nan
    with pytest.raises(ValueError, match=r"'000#0': a box or score that was predicted is not finite"):
        scored([(piece, truth)])


def test_perfect_detections_score_one_and_counts_say_what_was_scored():
    given = []
    for piece, truth in pieces(3, crowds=0.0):
        arrays = {**piece.arrays, "boxes_xyxy": truth["boxes_xyxy"], "labels": truth["labels"]}
        given.append((Piece(piece.item, {**arrays, "scores": np.linspace(1, 0.5, len(truth["labels"]))}), truth))
    metrics = scored(given).compute()
    assert [metrics[name] for name in ("AP", "AP50", "AP@300", "F1", "crowd_JI")] == pytest.approx([1.0] * 5)
    assert metrics["crowd_MR"] == 0
    objects = sum(len(truth["labels"]) for _, truth in given)
    assert (metrics["pictures"], metrics["objects"], metrics["detections"]) == (12, objects, objects)
    assert sum(np.diag(metrics["confusion"]["all"])) == objects
    for name in CLASSES:
        scores = metrics["classes"][name]
        assert scores["precision"] == scores["recall"] == 1.0


def test_detections_are_counted_up_to_what_the_settings_allow():
    names = {limit: set(scored([], limit).compute()) for limit in (50, 100, 300, 1000)}
    assert {name for name in names[1000] if "@" in name} >= {"AP@500", "AP@1000", "AP_small@1000"}
    assert "AP@300" in names[300]
    assert "AP@500" not in names[300]
    assert names[50] == names[100]
    assert not any("@" in name for name in names[100])


def test_classes_that_validation_lacks_have_no_score_and_are_left_out_of_the_mean():
    given = [(piece, {**truth, "labels": truth["labels"] % 2}) for piece, truth in pieces(4)]
    metrics = scored(given).compute()
    assert metrics["classes"]["man"]["objects"] == 0
    assert np.isnan(metrics["classes"]["man"]["AP"])
    assert metrics["AP"] == pytest.approx(np.mean([metrics["classes"][name]["AP"] for name in CLASSES[:2]]))


def video_of_a_still_camera(pictures: int, jitter: float):
    generator = np.random.default_rng(5)
    places = np.array([[10.0, 20, 60, 90], [150, 40, 220, 200]])
    for picture in range(pictures):
        boxes = places + generator.normal(0, jitter, places.shape)
        truth = {"boxes_xyxy": boxes, "labels": np.array([0, 1]), "is_crowd": np.zeros(2, bool)}
        nothing = {"boxes_xyxy": np.zeros((0, 4)), "labels": np.zeros(0, int), "scores": np.zeros(0)}
        yield Piece(Item(f"{picture:03}", ()), {**nothing, "frame": 0, "size": (240, 320)}), truth


def test_a_constant_is_good_where_all_objects_lie_at_one_place_and_bad_elsewhere():
    still = scored(video_of_a_still_camera(10, jitter=1.0)).constant()
    assert still["AP50"] == 1.0
    assert still["AP"] > 0.7
    assert scored(pieces(6, pictures=30)).constant()["AP50"] < 0.1


def test_a_constant_is_never_taken_from_the_picture_itself():
    given = list(pieces(7, pictures=2, crowds=0.0))  # the first has no object
    assert scored(given).constant()["AP"] == 0
    assert scored(given[:1]).constant() == {}
    assert scored([]).constant() == {}


def test_scores_are_logged_tabled_and_plotted(tmp_path: Path, capsys):
    metrics = scored(pieces(8)).compute()
    report_scores(metrics, CLASSES, tmp_path, VerbosityLogger())
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        "classes.csv",
        "precision_recall.png",
        "thresholds.png",
        *(f"confusion{size}.png" for size in ("", "_small", "_medium", "_large")),
    }
    for path in tmp_path.glob("*.png"):
        assert cv2.imread(str(path)).std() > 5
    assert f"{metrics['classes']['hen']['AP']:.4f}" in capsys.readouterr().out


def test_a_picture_with_more_objects_than_ap_counts_is_told(tmp_path: Path, capsys):
    places = np.arange(150)
    low = np.stack([12.0 * (places % 20), 12.0 * (places // 20)], axis=1)
    boxes = np.concatenate([low, low + 10], axis=1)
    truth = {"boxes_xyxy": boxes, "labels": np.zeros(150, int), "is_crowd": np.zeros(150, bool)}
    arrays = {"boxes_xyxy": boxes, "labels": np.zeros(150, int), "scores": np.linspace(1, 0.5, 150)}
    metrics = scored([(Piece(Item("a", ()), {**arrays, "frame": 0, "size": (240, 320)}), truth)]).compute()
    assert metrics["AP@300"] == 1.0
    assert metrics["AP"] == pytest.approx(67 / 101)
    report_scores(metrics, CLASSES, tmp_path, VerbosityLogger())
    assert "holds 150 objects of one class, and AP counts 100" in capsys.readouterr().out


def test_the_best_score_does_not_cut_off_its_own_detection():
    given = list(pieces(10))
    for piece, _ in given:
        piece.arrays["scores"] = piece.arrays["scores"] / 3  # no number of single precision
    metrics = scored(given).compute()
    for label, name in enumerate(CLASSES):
        all_scores = np.concatenate([piece.arrays["scores"][piece.arrays["labels"] == label] for piece, _ in given])
        assert metrics["classes"][name]["score"] in all_scores


def test_few_boxes_are_doubted():
    metrics = scored(pieces(9, pictures=3)).compute()
    codes = {doubt.code for doubt in support_of(metrics).find()}
    assert metrics["objects"] < LEAST_BOXES
    assert {"few_boxes", "few_pictures"} <= codes
    many = scored(pieces(9, pictures=60)).compute()
    assert not list(support_of(many).find())
    silent = []
    for piece, truth in pieces(9, pictures=60):
        nothing = {name: piece.arrays[name][:0] for name in ("boxes_xyxy", "labels", "scores")}
        silent.append((Piece(piece.item, {**piece.arrays, **nothing}), truth))
    assert [doubt.code for doubt in support_of(scored(silent).compute()).find()] == ["nothing_found"]


def test_rasters_of_the_same_ground_are_the_same_place(tmp_path):
    task = fox_task()
    places = {}
    for name, left in (("first", 0), ("later", 5), ("next", 320), ("far", 5_000)):
        transform = Affine(10, 0, 500_000 + left, 0, -10, 5_000_000)
        write_raster(tmp_path / f"{name}.tif", np.zeros((32, 32, 3), np.uint8), crs="EPSG:32631", transform=transform)
        picture = AnnotatedPicture(name, tmp_path / f"{name}.tif", (32, 32), ())
        places[name] = task.source.place(task.source.make_item(picture, "val"))
    for name in ("later", "next"):
        assert [doubt.code for doubt in same_place([places[name]], [places["first"]])] == ["same_place"]
    assert not list(same_place([places["far"]], [places["first"]]))
    assert task.source.place(task.source.items("val")[0]) is None  # a photo


def test_pictures_show_detections_from_the_best_score_of_their_class_on():
    task = fox_task()
    task.source.prepare_data()
    item = task.source.items("val")[0]
    truth = item.objects.boxes_xyxy
    boxes = np.concatenate([truth, [[2.0, 2, 60, 60]]])
    scores = np.array([0.9] * len(truth) + [0.2])
    piece = Piece(item, {"boxes_xyxy": boxes, "scores": scores, "labels": np.zeros(len(boxes), int)})
    shown = {}
    for score in (None, 0.5):
        if score is not None:
            task.output.take_scores({"classes": {"fox": {"score": score}}})
        sheet = task.output.draw(item, [piece])[:-44]  # without the legend
        shown[score] = bool((sheet == STYLES["false"].colour).all(axis=2).any())
    assert shown == {None: True, 0.5: False}
