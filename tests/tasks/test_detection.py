"""Detection: what a detector sees of pictures and boxes, how boxes move with pictures, and all phases on odd data."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import main
from config import parse_settings
from tasks import kinds
from tasks.detection.example import SETTINGS, foxes_example
from tasks.detection.items import DetectionItem
from tasks.detection.predictor import DetectionPredictor
from tasks.detection.settings import DetectionConfig
from tasks.detection.task import DetectionTask
from tasks.detection.views import padded_size, part_matrices, resized_size
from tasks.example import drawn_animals, tiny_backbone
from tasks.item import Item
from tasks.phases import evaluate, inference, prepare, train
from tasks.prepared import PreparedReader, prepared_items
from tasks.sample import Progress, Sample
from tasks.stores import open_store
from tests.tasks.detection_data import scattered, write_split
from tests.tasks.example_runs import equal, in_folder, rows_of, stopping_after, weights_of
from utils.data import SampleRef
from utils.errors import DataError, Interrupted, SettingsError
from utils.geometry.augment import Variation, View, views_of
from utils.geometry.crops import move_boxes
from utils.runtime.files import read_json

SIZE = (96, 128)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of three shapes with none, one and several rectangles of two classes, in two splits."""
    shapes = (SIZE, (128, 96), (80, 150))
    for split, numbers in (("train", (3, 0, 1, 4, 2, 1)), ("val", (2, 0, 1))):
        write_split(
            tmp_path / "animals",
            split,
            {
                f"{split}_{index}.png": (shapes[index % 3], scattered(number, shapes[index % 3], index))
                for index, number in enumerate(numbers)
            },
        )
    return tmp_path


def make_task(folder: Path, *overrides: str) -> DetectionTask:
    return foxes_example(folder, "paths.data_root={}".format(folder / "animals"), *overrides)[0]


# --- what a detector sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (1920, 1080), (33, 500), (700, 700)])
def test_pictures_are_scaled_as_image_processors_of_detr_scale_them(size):
    """Against the rule of transformers, written out: the short side, bounded by what the long side allows."""
    height, width = resized_size(size, 960, 1536)
    short, long = sorted(size)
    wanted = min(960.0, 1536 * short / long)
    assert abs(min(height, width) - wanted) <= 1
    assert max(height, width) <= 1536
    assert abs(max(height, width) - wanted * long / short) <= 1


def test_the_fallback_of_800_by_1333_pads_to_1344():
    for size in ((800, 1200), (1200, 800)):
        scaled = resized_size(size, 800, 1333)
        assert sorted(padded_size(scaled, (800, 1333), 16)) == [800, 1344]
        assert (padded_size(scaled, (800, 1333), 16)[0] > 800) == (size[0] > size[1])


@pytest.mark.parametrize("windows", [2, 3])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.45])
def test_windows_cover_the_picture_and_overlap_as_asked(windows, overlap):
    size, sample = (300, 400), (150, 200)
    whole, *matrices = part_matrices(size, sample, windows, overlap)
    corners = [move_boxes(np.array([0.0, 0, sample[1], sample[0]]), np.linalg.inv(matrix)) for matrix in matrices]
    assert np.allclose(move_boxes(np.array([0.0, 0, 400, 300]), whole), [0, 0, 200, 150])
    assert np.allclose(corners[0][:2], 0)
    assert np.allclose(corners[-1][2:], (400, 300))
    widths = {round(float(box[2] - box[0]), 6) for box in corners}
    assert len(widths) == 1
    shared = corners[0][2] - corners[1][0]
    assert shared == pytest.approx(overlap * widths.pop())
    covered = np.zeros(size, bool)
    for left, top, right, bottom in np.round(corners).astype(int):
        covered[top:bottom, left:right] = True
    assert covered.all()


def sample_of(task: DetectionTask, part: int = 0) -> Sample:
    item = max(task.source.items("train"), key=lambda item: len(item.objects.labels))
    return list(task.source.samples(item))[part]


MOVED = (
    "dataset.augmentations={enable: true, stored_variations: 1, scale_range: [0.8, 1.2], rotation_degrees: 20, "
    "shear_degrees: 10, translate: 0.1}",
)


@pytest.mark.parametrize("windows", [0, 2])
@pytest.mark.parametrize("view", [*views_of(True, True, True), "varied"], ids=str)
def test_boxes_and_pictures_move_together(view, windows, tmp_path):
    """Of small squares, none at an edge of a window, the middle of the light is that of the box to a tenth of a pixel.

    The light reaches two pixels beyond a box, as a smoothed picture's does; no other square is so near.
    """
    squares = [("red", (x, y, x + 8, y + 8)) for x in (20, 90, 150, 200) for y in (20, 90, 140)]
    for split in ("train", "val"):
        write_split(tmp_path / "animals", split, {f"{split}.png": ((192, 256), squares)}, ground=(0, 1))
    task = make_task(tmp_path, f"detection.windows={windows}", "detection.longest_edge=256", *MOVED)
    (item,) = task.source.items("train")
    compared = 0
    for sample in task.source.samples(item):
        for seed in range(5 if view == "varied" else 1):
            generator = np.random.default_rng(seed)
            moved = task.source.augment(sample, generator) if view == "varied" else task.source.apply_view(sample, view)
            light = moved.arrays["image"][..., 0].astype(float)
            y, x = (np.arange(side) + 0.5 for side in light.shape)
            for box in moved.arrays["boxes_xyxy"][~moved.arrays["is_crowd"]]:
                left, top, right, bottom = box.tolist()
                if min(left, top) < 3 or right > light.shape[1] - 3 or bottom > light.shape[0] - 3:
                    continue  # cut off by the edge
                rows, columns = (
                    slice(int(low) - 2, math.ceil(high) + 2) for low, high in ((top, bottom), (left, right))
                )
                part = light[rows, columns]
                middle = (part.sum(0) @ x[columns] / part.sum(), part.sum(1) @ y[rows] / part.sum())
                np.testing.assert_allclose(middle, ((left + right) / 2, (top + bottom) / 2), atol=0.1)
                compared += 1
    assert compared >= 10


@pytest.mark.parametrize("view", [*views_of(True, True, True), "varied"], ids=str)
def test_rows_of_a_sample_correspond_whatever_is_dropped(view, folder):
    task = make_task(folder, "detection.windows=3", "detection.min_visible=0.5", *MOVED)
    dropped, ignored = 0, 0
    for item in task.source.items("train"):
        for sample in task.source.samples(item):
            sample = task.source.apply_view(sample, view) if isinstance(view, View) else sample
            moved = task.source.augment(sample, np.random.default_rng(0)) if view == "varied" else sample
            boxes, labels, crowd = (moved.arrays[name] for name in ("boxes_xyxy", "labels", "is_crowd"))
            assert boxes.dtype == np.float32
            assert labels.dtype == np.int64
            assert crowd.dtype == bool
            assert len(boxes) == len(labels) == len(crowd)
            height, width = moved.arrays["image"].shape[:2]
            assert (boxes[:, :2] >= 0).all()
            assert (boxes[:, 2:] <= (width, height)).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            for box, label in zip(boxes, labels, strict=True):  # the class is that of the box that it was
                back = move_boxes(box, np.linalg.inv(moved.arrays["matrix"]))
                centre = (back[:2] + back[2:]) / 2
                near = np.abs(item.objects.boxes_xyxy.reshape(-1, 2, 2).mean(axis=1) - centre).max(axis=1)
                reach = (item.objects.boxes_xyxy[:, 2:] - item.objects.boxes_xyxy[:, :2]).max(axis=1)
                assert (item.objects.labels[near <= reach] == label).any()
            dropped += len(item.objects.labels) - len(labels)
            ignored += int(crowd.sum())
    assert dropped > 0
    assert ignored > 0


@pytest.mark.parametrize("view", [*views_of(True, True, True), "varied"], ids=str)
def test_objects_of_other_classes_move_as_those_of_the_task(view, folder):
    changes = ("detection.windows=2", "detection.min_visible=0.5", *MOVED)
    learns = "model.head_options={other_classes: true}"
    every, reds = make_task(folder, *changes), make_task(folder, "dataset.classes=[red]", learns, *changes)
    blue, compared = every.source.labels.classes.index("blue"), 0
    for items in zip(every.source.items("train"), reds.source.items("train"), strict=True):
        for pair in zip(
            *(task.source.samples(item) for task, item in zip((every, reds), items, strict=True)), strict=True
        ):
            moved = [
                task.source.augment(sample, np.random.default_rng(0))
                if view == "varied"
                else task.source.apply_view(sample, view)
                for task, sample in zip((every, reds), pair, strict=True)
            ]
            boxes, labels, is_crowd = (moved[0].arrays[name] for name in ("boxes_xyxy", "labels", "is_crowd"))
            expected = boxes[(labels == blue) & ~is_crowd]
            np.testing.assert_array_equal(moved[1].arrays["others_xyxy"], expected)
            assert "others_xyxy" not in moved[0].arrays  # nothing is stored for a head that does not learn from it
            compared += len(expected)
    assert compared > 10
    without = make_task(folder, "dataset.classes=[red]", *changes).source.items("train")
    assert all(len(item.others_xyxy) == 0 for item in [*reds.source.items("val"), *without])


def test_padding_has_the_mean_colour_and_is_not_valid(folder):
    task = make_task(folder, "detection.pad_size=[100, 160]", "detection.longest_edge=150")
    shapes = {}
    for item in task.source.items("train")[:3]:
        (sample,) = task.source.samples(item)
        image, valid = sample.arrays["image"], sample.arrays["valid"]
        shapes[image.shape[:2]] = valid.sum()
        assert (image[~valid] == np.rint(255 * np.array(task.features.info.mean))).all()
    assert shapes == {(100, 160): 80 * 150, (160, 100): 128 * 96}


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [*views_of(True, True, True), Variation(0, "a"), Variation(1, "a"), "online"], ids=str)
def test_what_is_padded_lies_below_and_to_the_right_of_every_view(view, folder):
    """Heads take the picture to begin in the upper left corner, so a padded sample is turned without its padding."""
    changes = ("detection.longest_edge=160", "dataset.augmentations.stored_variations=2", *MOVED)
    padded, plain = make_task(folder, "detection.pad_size=[120, 160]", *changes), make_task(folder, *changes)
    shapes = set()
    for items in zip(padded.source.items("train"), plain.source.items("train"), strict=True):
        for pair in zip(
            *(task.source.samples(item) for task, item in zip((padded, plain), items, strict=True)), strict=True
        ):
            first, then = (
                task.source.augment(sample, np.random.default_rng(1))
                if view == "online"
                else task.source.apply_view(sample, view)
                for task, sample in zip((padded, plain), pair, strict=True)
            )
            height, width = then.arrays["image"].shape[:2]
            valid = np.zeros(first.arrays["valid"].shape, bool)
            valid[:height, :width] = True
            np.testing.assert_array_equal(first.arrays["valid"], valid)
            np.testing.assert_array_equal(first.arrays["image"][:height, :width], then.arrays["image"])
            for name in ("boxes_xyxy", "labels", "is_crowd", "matrix"):
                np.testing.assert_array_equal(first.arrays[name], then.arrays[name])
            size = pair[0].arrays["image"].shape[:2]
            shapes.add(first.arrays["image"].shape[:2] in (size, size[::-1]))
    assert shapes == {True}


def test_classes_may_be_chosen_merged_and_ignored(folder):
    def counts(*overrides: str) -> tuple[list[str], int, int]:
        task = make_task(folder, *overrides)
        objects = [item.objects for item in task.source.items("train")]
        crowd = sum(int(each.is_crowd.sum()) for each in objects)
        return task.labels.classes, sum(len(each.labels) for each in objects) - crowd, crowd

    classes, everything, _ = counts()
    assert classes == ["red", "blue"]
    assert everything == 11
    classes, reds, crowd = counts("dataset.classes=[red]")
    assert classes == ["red"]
    assert 0 < reds < 11
    assert crowd == 0
    assert counts("dataset.classes=[blue, red]")[0] == ["blue", "red"]
    assert counts("dataset.label_mapping={red: thing, blue: thing}") == (["thing"], 11, 0)
    assert counts("dataset.label_mapping={'*': thing}") == (["thing"], 11, 0)
    assert counts("dataset.label_mapping={blue: ignore}") == (["red"], reds, 11 - reds)
    with pytest.raises(SettingsError, match=r"dataset.classes: no 'rde' in the labels, did you mean 'red'"):
        counts("dataset.classes=[rde]")
    with pytest.raises(SettingsError, match=r"dataset.label_mapping: no 'rde' in the labels, did you mean 'red'"):
        counts("dataset.label_mapping={rde: red}")


def test_a_subset_is_spread_over_the_split(folder):
    task = make_task(folder, "dataset.subset={train: 2, val: 1}")
    assert [item.id for item in task.source.items("train")] == ["images/train_0", "images/train_5"]
    assert len(task.source.items("val")) == 1
    assert len(make_task(folder, "dataset.subset={train: 99}").source.items("train")) == 6


def test_more_objects_than_the_head_has_boxes_are_refused_before_training(folder, monkeypatch):
    task = make_task(folder)
    monkeypatch.setattr(type(task._head), "max_objects", 3)
    with pytest.raises(DataError, match=r"train_3.png: 4 objects, but the head gives at most 3 boxes"):
        task.preflight(["train"])
    with pytest.raises(DataError, match="at most 3 boxes"):
        task.check()


def test_the_plan_compares_objects_with_boxes(folder):
    lines = make_task(folder).check()
    assert any("14 objects: at most 4 in a picture, 99 % of the pictures have 4 or fewer" in line for line in lines)


def test_pictures_without_any_object_are_refused(folder):
    for path in (folder / "animals" / "annotations").glob("val.json"):
        tree = json.loads(path.read_text())
        path.write_text(json.dumps({**tree, "annotations": []}))
    task = make_task(folder)
    _, context = foxes_example(folder)
    prepare.run(task, context)
    with pytest.raises(DataError, match="no labelled object in val"):
        train.run(task, context)


# --- predictions -----------------------------------------------------------------------------------------------------


def sample_at(part: int, matrix: np.ndarray) -> Sample:
    arrays = {"matrix": matrix, "part": np.array(part), "picture": np.array([0, 100, 100])}
    return Sample("a", Item("a", ()), {**arrays, "image": np.zeros((100, 100, 3), np.uint8)})


def test_an_object_on_the_edge_of_windows_is_found_once():
    """Whole in the first sample, and as a half in two windows, where each half is surer."""
    _, left, right, _, _ = part_matrices((100, 100), (100, 100), 2, 0.2)
    whole, box = np.eye(3), np.array([40.0, 10, 60, 30])
    predictor = DetectionPredictor(DetectionConfig(), True, 5)
    predictor.start(Item("a", ()))
    samples = [sample_at(0, whole), sample_at(1, left), sample_at(2, right)]
    seen = [torch.tensor(move_boxes(box, sample.arrays["matrix"])[None], dtype=torch.float32) for sample in samples]
    scores = torch.tensor([0.5, 0.9, 0.9]).reshape(3, 1, 1)
    assert list(predictor.push(samples, {"boxes_xyxy": torch.stack(seen), "scores": scores})) == []
    (piece,) = predictor.finish()
    assert piece.arrays["boxes_xyxy"].round(3).tolist() == [box.tolist()]


def test_views_are_turned_back_and_merged(folder):
    task = make_task(folder)
    sample = sample_of(task)
    truth = sample.arrays["boxes_xyxy"]
    views = views_of(True, True, True)
    predictor = DetectionPredictor(DetectionConfig(iou=0.9), True, len(views))
    predictor.start(sample.item)
    for view in views:
        turned = task.source.apply_view(sample, view)
        boxes = torch.from_numpy(turned.arrays["boxes_xyxy"])[None]
        assert (
            list(predictor.push([turned], {"boxes_xyxy": boxes, "scores": torch.full((1, len(truth), 1), 0.5)})) == []
        )
    (piece,) = predictor.finish()
    back = move_boxes(truth, np.linalg.inv(sample.arrays["matrix"]))
    assert sorted(map(tuple, piece.arrays["boxes_xyxy"].round(2))) == sorted(map(tuple, back.round(2)))


def test_frames_of_a_video_become_pieces(tmp_path):
    task, _ = foxes_example(tmp_path, "detection.windows=2")
    path = drawn_animals() / "chase.mp4"
    (item,) = task.source.input_items([str(path)])
    samples = list(task.source.samples(item))
    assert len(samples) == task.source.count_samples(item) == 4 * 5
    predictor = task.predictor()
    predictor.start(item)
    outputs = {"boxes_xyxy": torch.zeros(len(samples), 1, 4), "scores": torch.zeros(len(samples), 1, 1)}
    pieces = [*predictor.push(samples, outputs), *predictor.finish()]
    assert [piece.arrays["frame"] for piece in pieces] == [0, 1, 2, 3]
    left = task.source.continue_from(item, 3)
    assert [sample.id for sample in task.source.samples(left)] == [sample.id for sample in samples[15:]]


def test_an_array_is_predicted_as_its_file(tmp_path):
    task, _ = foxes_example(tmp_path)
    item = task.source.items("val")[0]
    ((_, image),) = item.frames()
    with task.source.in_memory(image) as array:
        assert isinstance(array, DetectionItem)
        (one,), (other,) = task.source.samples(array), task.source.samples(item)
    assert np.array_equal(one.arrays["image"], other.arrays["image"])


# --- all phases ------------------------------------------------------------------------------------------------------


def write_config(folder: Path, **changes: dict) -> Path:
    tree = yaml.safe_load(SETTINGS.format(folder=folder, backbone=tiny_backbone()))
    for phase in ("verify", "train", "evaluate", "inference"):
        tree.setdefault(phase, {})["enable"] = True
    tree["train"] |= {"epochs": 2, "batch_size": 2, "val_batch_size": 2}
    tree["logging"] = {"level": "error"}
    for section, values in changes.items():
        tree.setdefault(section, {}).update(values)
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(tree))
    return path


ODD = {
    "many": ((96, 128), scattered(400, (96, 128), 0, sides=(1, 6))),
    "pixel": ((96, 128), [("red", (5, 7, 6, 8))]),
    "empty_1": ((96, 128), []),
    "empty_2": ((60, 128), []),
    "empty_3": ((60, 128), []),
    "edge": ((60, 128), [("blue", (100, 20, 128, 60))]),
}


SMALL = {"width": 16, "decoder_layers": 1, "attention_heads": 2, "feedforward": 16, "num_queries": 400}
OPTIONS = {"dense": {"width": 16}, "detr": {**SMALL, "encoder_layers": 0}, "deim": {**SMALL, "detail_width": 0}}


@pytest.mark.parametrize("head", OPTIONS)
@pytest.mark.parametrize("features", ["cached", "online"])
def test_odd_pictures_pass_all_phases(features, head, tmp_path):
    """400 objects, one pixel, none in a whole batch; pictures of several shapes, windows and padding."""
    for split in ("train", "val"):
        write_split(tmp_path / "animals", split, {f"{split}_{name}.png": value for name, value in ODD.items()})
    windows = 2 if features == "cached" else 0
    closer = {"shortest_edge": 144, "longest_edge": 192}  # with cells for 400 queries
    changes = {"detection": {"windows": windows, **closer}, "inference": {"tta": {"horizontal_flip": True}}}
    changes["model"] = {"head": head, "head_options": OPTIONS[head]}
    config = write_config(tmp_path, train={"features": features}, **changes)
    assert main.main([str(config)]) == 0
    run = tmp_path / "runs" / "foxes" / "latest"
    scores = read_json(run / "evaluate_val" / "metrics.json")["metrics"]
    assert 0 <= scores["AP50"] <= 1
    assert len(list((run / "predictions").glob("*.json"))) >= len(ODD)


def test_an_empty_batch_gives_gradients_to_all_parameters(folder):
    task = make_task(folder, "dataset.subset={train: 2}")
    _, context = foxes_example(folder)
    prepare.run(task, context)
    store = open_store(task.settings, "train")
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    model = task.build_model().train()
    outputs = model(reader.read([], Progress()))
    sum(value.sum() for value in outputs.values() if value.requires_grad).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    without = reader.read([SampleRef(1)], Progress())
    without.target = {name: [part[:0] for part in parts] for name, parts in without.target.items()}
    terms = task.objective.loss(model(without), without, Progress())
    assert all(torch.isfinite(value[0] if isinstance(value, tuple) else value) for value in terms.values())


RESUMED = {
    "cached": (
        "detection.windows=2",
        "train={ema_decay: 0.9, epochs: 2, batch_size: 2}",
        "dataset.subset={train: 2, val: 1}",
        "model.head_options={width: 16, refine_width: 16, tower_layers: 1}",
    ),
    "online": (
        "train={features: online, batch_size: 2, grad_accum_steps: 2, epochs: 2, num_workers: 2}",
        "dataset.augmentations={enable: true, scale_range: [0.8, 1.2], rotation_degrees: 10, shear_degrees: 3}",
    ),
}


@pytest.mark.parametrize("way", sorted(RESUMED))
def test_an_interrupted_training_ends_bitwise_as_an_unbroken_one(way, folder):
    make = lambda: make_task(folder, *RESUMED[way])  # noqa: E731 - a new process knows nothing of the old one
    _, context = foxes_example(folder)
    prepare.run(make(), context)
    whole, cut = in_folder(context, "whole"), in_folder(context, "cut")
    train.run(make(), whole)
    for stop in (1, 2):
        with pytest.raises(Interrupted):
            train.run(make(), stopping_after(cut, stop))
    assert train.run(make(), cut).status == "done"
    assert equal(weights_of(whole, "last"), weights_of(cut, "last"))
    assert rows_of(whole) == rows_of(cut)


def test_a_checkpoint_predicts_without_the_training_data(folder, tmp_path):
    task = make_task(folder, "detection.min_score=0.0", "dataset.label_mapping={red: thing, blue: thing}")
    _, context = foxes_example(folder)
    prepare.run(task, context)
    trained = train.run(task, context)
    checkpoint = context.folder / "checkpoints" / "best.safetensors"
    text = f"""
kind: detection
evaluate: {{inputs: "{folder}/animals/images/val_*.png", labels: "{folder}/animals/annotations/val.json"}}
paths: {{data_root: "{folder}/animals", processed_dir: "{folder}/store"}}
"""
    ((name, settings),) = parse_settings(text, [f"evaluate.checkpoint={checkpoint}"], kinds()).tasks.items()
    result = evaluate.run(DetectionTask(name, settings), context)
    assert result.metrics["AP"] == pytest.approx(trained.metrics["AP"], nan_ok=True)
    scores = read_json(context.folder / "evaluate_inputs" / "metrics.json")["metrics"]
    assert list(scores["classes"]) == ["thing"]
    alone = f"""
kind: detection
paths: {{data_root: "{folder}/animals/images", processed_dir: "{folder}/store"}}
inference: {{enable: true, checkpoint: {checkpoint}, inputs: val_*.png, output_dir: {tmp_path}}}
detection: {{formats: [yolo]}}
"""
    ((name, settings),) = parse_settings(alone, [], kinds()).tasks.items()
    predicting = DetectionTask(name, settings)
    predicting.preflight(["inference"])
    assert inference.run(predicting, context).status == "done"
    assert (tmp_path / "classes.txt").read_text() == "thing\n"
    other = parse_settings(text, [f"evaluate.checkpoint={checkpoint}", "detection.shortest_edge=50"], kinds())
    with pytest.raises(DataError, match=r"holds shortest_edge 96, but detection.shortest_edge asks for 50"):
        evaluate.run(DetectionTask(name, other.tasks[name]), context)


def test_an_item_changes_with_its_labels(folder):
    task = make_task(folder)
    picture = task.labels.pictures["images/val_0"][1]
    one, other = (task.source.make_item(each, "val") for each in (picture, replace(picture, instances=())))
    assert one.stamp() != other.stamp()


def test_inference_resumes_at_a_frame(tmp_path):
    task, context = foxes_example(tmp_path, "inference.inputs=chase.mp4", "detection.min_score=0.0")
    prepare.run(task, context)
    train.run(task, context)
    assert inference.run(task, context).status == "done"
    assert inference.run(task, context).status == "up to date"
