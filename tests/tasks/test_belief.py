"""Whether scores can be believed: what is said beside them, by value, for every kind of task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from tasks.baselines import direction, share_of_doubles
from tasks.belief import (
    LEAST_CELLS,
    LEAST_GAIN,
    LEAST_PIXELS,
    LEAST_PIXELS_OF_CLASS,
    LEAST_POINTS,
    LEAST_POINTS_OF_ONE,
    LEAST_STEPS,
    MOST_BORDERING,
    MOST_DOUBLES,
    NEAR_CHANCE,
    Doubt,
    Place,
    Support,
    few_steps,
    judge,
    near_chance,
    no_better,
    same_place,
)
from tasks.distill.example import student_example
from tasks.evidence import same_pictures
from tasks.example import example_context, example_task, training_example
from tasks.item import Item, Piece
from tasks.keypoints.example import animals_example
from tasks.keypoints.metric import KeypointMetric
from tasks.keypoints.settings import KeypointsConfig
from tasks.phases import evaluate, prepare, train
from tasks.sample import Sample
from tasks.segmentation.baseline import ClassColours
from tasks.segmentation.items import SceneItem
from tasks.segmentation.metric import SegmentationMetric
from utils.formats.types import Instance, Skeleton
from utils.logging import VerbosityLogger
from utils.raster.tiling import Window
from utils.runtime.files import read_json


def codes(doubts) -> list[str]:
    return [doubt.code for doubt in doubts]


def reasons(belief: dict) -> list[str]:
    return [reason["code"] for reason in belief["reasons"]]


# ---------------------------------------------------------------------------------------------------------------------
# The limits, by value


def test_each_limit_doubts_what_is_below_it_and_nothing_above():
    assert (LEAST_STEPS, LEAST_PIXELS, LEAST_PIXELS_OF_CLASS) == (50, 5_000, 100)
    assert (LEAST_POINTS, LEAST_POINTS_OF_ONE, LEAST_CELLS) == (50, 10, 500)
    assert codes(few_steps(49)) == ["few_steps"]
    assert not codes(few_steps(50))
    assert codes(Support("pixels", {"sea": 4_999}, LEAST_PIXELS, 100).find()) == ["few_pixels"]
    assert codes(Support("pixels", {"sea": 4_901, "sand": 99}, LEAST_PIXELS, 100).find()) == ["few_pixels_of_a_class"]
    assert codes(Support("pixels", {"sea": 5_000, "sand": 0}, LEAST_PIXELS, 100).find()) == ["no_pixels_of_a_class"]
    assert not codes(Support("pixels", {"sea": 4_900, "sand": 100}, LEAST_PIXELS, 100).find())


def test_confidence_is_near_chance_up_to_a_tenth_of_the_way_to_certainty():
    assert NEAR_CHANCE == 0.1
    assert codes(near_chance(0.177, 6)) == ["confidence_near_chance"]
    assert [bool(codes(near_chance(value, 6))) for value in (0.2499, 0.2501)] == [True, False]
    assert [bool(codes(near_chance(value, 2))) for value in (0.5499, 0.5501)] == [True, False]
    assert not codes(near_chance(1.0, 1))  # with a single class there is nothing to guess


@pytest.mark.parametrize("name", ["constant", "colours"])
def test_a_score_must_exceed_what_needs_no_training(name):
    assert LEAST_GAIN == 0.01
    found = [bool(codes(no_better("mIoU", score, {name: 0.5}))) for score in (0.3, 0.509, 0.511, float("nan"))]
    assert found == [True, True, False, True]
    found = [bool(codes(no_better("negative_error", score, {name: -40.0}))) for score in (-39.7, -39.5)]
    assert found == [True, False]  # an error in pixels is compared in shares of it


def test_a_tenth_of_the_items_on_the_border_is_the_same_place():
    assert (MOST_BORDERING, MOST_DOUBLES) == (0.1, 0.1)
    train_items = [Place("a", (0, 0, 10, 10), 0)]
    touching, apart, elsewhere = (
        Place("a", (10, 0, 20, 10), 0),
        Place("a", (11, 0, 20, 10), 0),
        Place("b", (0, 0, 10, 10), 0),
    )
    assert codes(same_place([touching, apart], train_items)) == ["same_place"]
    assert codes(same_place([touching, *[apart] * 8, elsewhere], train_items)) == ["same_place"]
    assert not codes(same_place([touching, *[apart] * 9, elsewhere], train_items))
    assert not codes(same_place([], train_items))


def test_a_belief_is_json_and_names_every_reason_once():
    belief = judge("mIoU", 0.2, {"constant": 0.25}, [Doubt("few_steps", "few"), Doubt("few_steps", "few")])
    assert json.loads(json.dumps(belief)) == belief
    assert reasons(belief) == ["few_steps", "no_better_than_constant"]
    assert not belief["believable"]


# ---------------------------------------------------------------------------------------------------------------------
# What needs no training


def test_the_constant_of_segmentation_is_the_best_single_class_by_brute_force():
    generator = np.random.default_rng(0)
    truth = generator.choice(np.array([0, 1, 2, 255], np.uint8), size=(40, 50), p=[0.2, 0.5, 0.1, 0.2])
    item = SceneItem("a", (), "a", Window(0, 0, 40, 50), 40, 40, (0, 40))
    scored = SegmentationMetric(["a", "b", "c", "never"])
    scored.update(Piece(item, {"classes": generator.choice(np.arange(4, dtype=np.uint8), size=(40, 50))}), truth)
    singles = []
    for index in range(4):
        metric = SegmentationMetric(["a", "b", "c", "never"])
        metric.update(Piece(item, {"classes": np.full((40, 50), index, np.uint8)}), truth)
        singles.append(metric.compute()["mIoU"])
    assert scored.constant()["mIoU"] == max(singles)
    assert SegmentationMetric(["a", "b"]).constant() == {}


def test_mean_confidence_counts_labelled_pixels_and_adds_up_over_ranks():
    item = SceneItem("a", (), "a", Window(0, 0, 1, 3), 4, 4, (0, 1))
    sure = np.array([[0.25, 0.75, 1.0]], np.float32)
    piece = Piece(item, {"classes": np.zeros((1, 3), np.uint8), "confidence": sure})
    metric, merged = SegmentationMetric(["a", "b", "c"]), SegmentationMetric(["a", "b", "c"])
    metric.update(piece, np.array([[0, 1, 255]], np.uint8))
    for _ in range(3):
        merged.merge(metric.state())
    assert merged.compute()["mean_confidence"] == metric.compute()["mean_confidence"] == 0.5


def test_colours_alone_tell_classes_of_two_colours_apart_and_not_those_of_one():
    generator = np.random.default_rng(0)
    label = np.repeat(np.array([[0, 1]], np.uint8), 32, axis=1).repeat(64, axis=0)
    for apart, share in ((60, 1.0), (0, 0.5)):
        image = generator.normal(100 + apart * label[..., None], 5, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        sample = Sample("a", Item("a", ()), {"image": image, "label": label})
        colours = ClassColours(2)
        [(piece, truth)] = colours.predict(json.loads(json.dumps(colours.fit([sample]))), sample)
        assert (piece.arrays["classes"] == truth).mean() == pytest.approx(share, abs=0.05)


def poses(xs: list[float], per_instance: bool = False) -> KeypointMetric:
    settings = KeypointsConfig(instance_mode="per_instance" if per_instance else "whole")
    metric = KeypointMetric(Skeleton(("nose",)), settings)
    for x in xs:
        box = np.array([x - 4.0, 0.0, x + 6.0, 10.0]) if per_instance else None
        truth = [Instance("fly", np.array([[x, 5.0, 2.0]]), box)]
        found = {"frame": 0, "keypoints": np.array([[[x, 5.0, 0.9]]]), "scores": np.array([0.9])}
        metric.update(Piece(Item(f"picture {x}", ()), found), truth)
    return metric


def test_the_constant_of_keypoints_is_the_mean_pose_of_the_other_pictures():
    assert poses([10.0, 20.0, 60.0]).constant()["mean_error_px"] == pytest.approx((30 + 15 + 45) / 3)
    assert poses([10.0]).constant() == {}  # one picture has no others
    assert poses([10.0, 20.0, 60.0], per_instance=True).constant()["mean_error_px"] == pytest.approx(
        0
    )  # in their boxes


def test_the_constant_of_distillation_is_the_mean_direction():
    import torch

    from tasks.distill.map_comparison import score_map

    target = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0)) + 1
    valid = torch.ones(6, 7, dtype=torch.bool)
    scores = score_map(target, target, (target, target), valid)
    best = torch.nn.functional.normalize(target, dim=0).flatten(1).mean(dim=1)
    by_hand = torch.nn.functional.cosine_similarity(best[:, None].double(), target.flatten(1).double(), dim=0).mean()
    assert scores.constant_cosine() == pytest.approx(float(by_hand), rel=1e-5)
    for seed in range(5):  # no other constant is better
        other = best + 0.1 * torch.randn(5, generator=torch.Generator().manual_seed(seed))
        assert float(torch.nn.functional.cosine_similarity(other[:, None], target.flatten(1), dim=0).mean()) < by_hand


# ---------------------------------------------------------------------------------------------------------------------
# The same place


def write_scene(path: Path, left: float, epsg: int = 32631) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = from_origin(500_000 + left, 5_000_000, 10, 10)
    generator = np.random.default_rng(int(left))
    size = {"height": 32, "width": 32, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs=f"EPSG:{epsg}", transform=transform, **size) as file:
        file.write(generator.integers(0, 255, (3, 32, 32), np.uint8))


@pytest.mark.parametrize(
    ("suffix", "number", "expected"), [("png", 3, ["few_pictures"]), ("png", 10, []), ("tif", 3, [])]
)
def test_few_photos_are_doubted_and_few_scenes_with_a_place_are_not(tmp_path, suffix, number, expected):
    """The pixels of a photo are many, and show one place at one time; a scene may be all the ground that there is."""
    names = [f"{index:02}" for index in range(number)]
    for folder, bands in (("pictures", 3), ("labels", 1)):
        (tmp_path / folder).mkdir()
        place = {} if suffix == "png" else {"crs": "EPSG:32632", "transform": from_origin(0, 0, 1, 1)}
        for name in names:
            pixels = np.full((64, 64, bands), 0 if bands == 1 else 90, np.uint8)
            path = tmp_path / folder / f"{name}.{suffix}"
            if suffix == "png":
                cv2.imwrite(str(path), pixels)
                continue
            with rasterio.open(path, "w", count=bands, height=64, width=64, dtype="uint8", **place) as raster:
                raster.write(np.moveaxis(pixels, 2, 0))
    task, _ = example_task(
        tmp_path / "task", f"paths.raw_images_dir={tmp_path}/pictures", f"paths.label_path={tmp_path}/labels"
    )
    metric = task.output.metric()
    for name in names:
        item = SceneItem(name, (), name, Window(0, 0, 64, 64), 64, 64, (0, 64))
        truth = np.repeat([[0, 1]], 64, axis=0).repeat(32, axis=1).astype(np.uint8)
        sure = {"classes": truth, "foreground": truth.astype(float), "confidence": np.ones((64, 64))}
        metric.update(Piece(item, sure), truth)
    assert codes(task.output.support(metric.compute()).find()) == expected


def test_files_that_show_the_same_ground_are_the_same_place(tmp_path):
    """Two dates of one scene, and tiles of one mosaic, are in different files."""
    for name, left in (("first", 0), ("later", 5), ("next", 320), ("far", 5_000)):
        write_scene(tmp_path / "pictures" / f"{name}.tif", left)
        (tmp_path / "labels").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "labels" / f"{name}.png"), np.zeros((32, 32), np.uint8))
    task, _ = example_task(tmp_path, f"inference.input_tif={tmp_path}/pictures")
    first, later, beside, far = (task.source.named(name, "val")[0] for name in ("first", "later", "next", "far"))
    place = task.source.place
    assert codes(same_place([place(later)], [place(first)])) == ["same_place"]
    assert codes(same_place([place(beside)], [place(first)])) == ["same_place"]
    assert not codes(same_place([place(far)], [place(first)]))


def test_frames_beside_those_of_training_are_the_same_place(tmp_path):
    task, _ = student_example(tmp_path)
    source = task.source
    segments = [item for item in source.units.values() if item.frames is not None][:3]
    before, middle, after = (source.place(item) for item in segments)
    assert codes(same_place([middle], [before])) == ["same_place"]
    assert not codes(same_place([after], [before]))


# ---------------------------------------------------------------------------------------------------------------------
# Through the phases


class KeptLog(VerbosityLogger):
    def __init__(self):
        super().__init__("error")
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


EXAMPLES = {"segmentation": example_task, "keypoints": animals_example, "distill": student_example}


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_every_kind_says_why_its_score_cannot_be_believed(kind, tmp_path):
    task, _ = EXAMPLES[kind](tmp_path)
    context = replace(example_context(tmp_path / "run"), log=KeptLog())
    prepare.run(task, context)
    trained = train.run(task, context)
    folder = context.folder
    belief = read_json(folder / "train.json", {})["belief"]
    assert not belief["believable"]
    assert "few_steps" in reasons(belief)
    assert "constant" in belief["baselines"]
    assert ("colours" in belief["baselines"]) == (kind != "distill")
    scored = evaluate.run(task, context)
    written = read_json(folder / "evaluate_val" / "metrics.json", {})
    assert written["belief"] == belief  # evaluate knows all that training knew, from the checkpoint alone
    assert [scored.doubt] == [f"{trained.doubt}"]
    warned = [line for line in context.log.warnings if "cannot be believed" in line]
    assert [line.partition(":")[0] for line in warned] == ["train", "evaluate"]
    assert "only" in warned[0]
    assert "steps of training up to this checkpoint (fewer than 50)" in warned[0]
    again = train.run(task, context), evaluate.run(task, context)
    assert [(result.status, result.doubt) for result in again] == [("up to date", trained.doubt)] * 2
    for picture in (folder / "evaluate_val").glob("*.png"):
        assert cv2.imread(str(picture)) is not None


def test_pictures_carry_the_doubt(tmp_path, monkeypatch):
    texts = []
    from utils.report import plots

    real = plots.with_title
    monkeypatch.setattr(plots, "with_title", lambda picture, title: (texts.append(title), real(picture, title))[1])
    task, context = example_task(tmp_path)
    prepare.run(task, context)
    train.run(task, context)
    evaluate.run(task, context)
    score = read_json(context.folder / "train.json", {})["metrics"]["mIoU"]
    assert any(text.startswith(f"mIoU {score:.4f} cannot be believed: few steps") for text in texts)


def test_patience_starts_when_a_score_beats_the_constant(tmp_path, monkeypatch):
    """Ten epochs at the score of a constant do not stop a training of patience 2; after a gain they do."""
    training = training_example(tmp_path, "train.epochs=12", "train.patience=2")
    constant = training.validate()["constant"]["mIoU"]
    values = iter([constant] * 5 + [constant + 0.2] * 7)
    real = training.validate
    monkeypatch.setattr(training, "validate", lambda: {**real(), "mIoU": next(values)})
    training.run()
    assert training.state.early.chance == constant
    assert training.state.epoch == 8  # the gain of epoch 6, and two validations without another


def test_what_is_known_of_chance_survives_an_interruption(tmp_path):
    training = training_example(tmp_path)
    training.run()
    state = training.state
    path = tmp_path / "state.safetensors"
    state.save(path, "a")
    chance, best = state.early.chance, state.best
    state.early.chance, state.best = None, {}
    assert state.load(path, "a", path)
    assert (state.early.chance, state.best) == (chance, best)
    assert chance > 0


def test_a_copy_in_another_format_is_a_near_double_and_another_picture_of_the_place_is_not():
    noise = np.random.default_rng(0).uniform(0, 255, (96, 128, 3)).astype(np.float32)
    arena = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 12), None, 120, 200, cv2.NORM_MINMAX).astype(np.uint8)
    first, later = (cv2.circle(arena.copy(), (x, 48), 9, (20, 20, 20), -1) for x in (30, 90))
    copied = cv2.imdecode(cv2.imencode(".jpg", first)[1], cv2.IMREAD_COLOR)
    looks = [direction(Sample("a", Item("a", ()), {"image": image})) for image in (first, copied, later)]
    assert share_of_doubles([looks[1]], [looks[0]]) == 1.0
    assert share_of_doubles([looks[2]], [looks[0]]) == 0.0
    assert codes(same_pictures([looks[1], looks[2]], [looks[0]])) == ["same_pictures"]
