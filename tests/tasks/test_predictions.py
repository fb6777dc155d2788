"""Predictions are one stream over all items: batches, order, memory of predictors, and what is counted of them."""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
import pytest
import torch

from config import ExportConfig, InferenceConfig, PathsConfig, TaskConfig, parse_settings
from tasks import kinds
from tasks.context import Context
from tasks.example import SETTINGS as SCENES
from tasks.example import example_context, example_task, tiny_backbone
from tasks.item import Item, Piece
from tasks.keypoints.example import SETTINGS as ANIMALS
from tasks.keypoints.task import KeypointsTask
from tasks.model import FeatureModel
from tasks.output import Metric, Output, Sink
from tasks.phases import evaluate, export, inference, prepare, train
from tasks.phases.prediction import LOOK_AHEAD, predict, score
from tasks.phases.samples import LiveSamples, Slot
from tasks.predictor import Predictor
from tasks.prepared import prepared_items
from tasks.sample import Batch, Sample
from tasks.segmentation.items import SceneItem
from tasks.segmentation.metric import SegmentationMetric
from tasks.segmentation.predictor import DensePredictor
from tasks.segmentation.task import SegmentationTask
from tasks.source import Source
from tasks.stores import open_store
from tasks.task import Task
from tests.processes import ends_of
from utils.errors import DataError, Interrupted
from utils.geometry.augment import IDENTITY
from utils.logging import VerbosityLogger
from utils.raster.tiling import Window
from utils.runtime import distributed
from utils.runtime.files import read_json
from utils.samples.files import write_foxes

ROOT = Path(__file__).resolve().parents[2]

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
    assert [item.stride for item in (*task.source.items("val"), *other.source.items("val"))] == [24, 16]


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
    [item] = task.source.items("val")
    shown = task.output.draw(item, iter(pieces_of(task, item)))
    whole, _ = example_task(tmp_path)
    full = whole.output.draw(item, iter(pieces_of(whole, item)))
    assert (shown != full).any(axis=2).mean() > 0.15, "three quarters of the third panel are empty"


def pieces_of(task, item):
    """All of an item as class 0, where a window lies."""
    predictor = task.predictor()
    predictor.start(item)
    for sample in task.source.samples(item):
        logits = torch.zeros(1, 2, 8, 8)
        yield from predictor.push([sample], {"logits": logits})
    yield from predictor.finish()


# ---------------------------------------------------------------------------------------------------------------------
# Batches cross items

PHOTOS, SIZE = 10, (128, 160)


def photos(folder: Path, *overrides: str):
    """A task on four photos for training and ten to validate and predict, each of one window."""
    generator = np.random.default_rng(0)
    for kind in ("pictures", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    names = [f"train_{i}" for i in range(4)] + [f"val_{i}" for i in range(PHOTOS)]
    for name in names:
        label = (generator.random((32, 32)) > 0.5).astype(np.uint8)
        noise = generator.integers(0, 40, (32, 32, 3))
        cv2.imwrite(str(folder / "pictures" / f"{name}.png"), (60 + 100 * label[..., None] + noise).astype(np.uint8))
        cv2.imwrite(str(folder / "labels" / f"{name}.png"), label)
    for split in ("train", "val"):
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names if name.startswith(split)))
    lists = f"dataset.splits={{train_list: {folder}/train.txt, val_list: {folder}/val.txt}}"
    named = f"inference.inputs={folder}/pictures/val_*.png"
    text = SCENES.format(folder=folder, backbone=tiny_backbone()).replace("val_fraction: 0.34, ", "")
    settings = parse_settings(text, (lists, named, *overrides), kinds()).tasks["segmentation"]
    return SegmentationTask("segmentation", settings), example_context(folder / "run")


def animals(folder: Path, *overrides: str):
    """A task on two pictures for training and ten to validate and predict, each of one canvas."""
    write_foxes(folder / "animals", seed=1, train=2, val=PHOTOS, frames=1, size=SIZE)
    text = ANIMALS.format(folder=folder, backbone=tiny_backbone())
    changes = ("keypoints.short_side=48", *overrides)
    settings = parse_settings(text, changes, kinds()).tasks["animals"]
    return KeypointsTask("animals", settings), example_context(folder / "run")


@pytest.fixture
def forwards(monkeypatch):
    """Samples of each forward that is not of training."""
    seen = []
    forward = FeatureModel.forward

    def spy(model, batch):
        if not model.training:
            seen.append(len(batch))
        return forward(model, batch)

    monkeypatch.setattr(FeatureModel, "forward", spy)
    return seen


@pytest.mark.parametrize("features", ["cached", "online"])
@pytest.mark.parametrize("make", [photos, animals])
def test_batches_cross_the_pictures_of_a_set(make, features, tmp_path, forwards):
    sizes = [f"{where}=4" for where in ("train.val_batch_size", "evaluate.batch_size", "inference.batch_size")]
    task, context = make(tmp_path, *sizes, f"train.features={features}")
    prepare.run(task, context)
    for phase in (train, evaluate, inference):
        forwards.clear()
        assert phase.run(task, context).status == "done"
        assert forwards == [4, 4, 2], phase.__name__
    assert len(list((context.folder / "evaluate_val").glob("val_*.png"))) == 8 or make is animals
    made = {path.name.partition(".")[0] for path in (context.folder / "predictions").glob("val_*")}
    assert len({name.removesuffix("_classes").removesuffix("_overlay") for name in made}) == PHOTOS


@pytest.mark.parametrize("make", [photos, animals])
def test_every_photo_gets_an_overlay_which_is_no_input_of_the_next_run(make, tmp_path):
    """Results are written beside the pictures; a second run over that folder sees the pictures only."""
    folder = tmp_path / "pictures" if make is photos else tmp_path / "animals" / "images"
    whole = f"inference.inputs={folder}", f"inference.output_dir={folder}"
    low = ["keypoints.min_score=0.0"] if make is animals else []
    task, context = make(tmp_path, *whole, *low)
    before = sorted(path.stem for path in folder.glob("*.png"))
    prepare.run(task, context)
    train.run(task, context)
    inference.run(task, context)
    assert sorted(path.name.removesuffix("_overlay.png") for path in folder.glob("*_overlay.png")) == before
    drawn = cv2.imread(str(folder / f"{before[-1]}_overlay.png"))
    image = cv2.imread(str(folder / f"{before[-1]}.png"))
    assert drawn.shape[1] == image.shape[1]
    assert drawn.shape[0] > image.shape[0]  # the legend
    assert (drawn[: len(image)] != image).any()
    again, _ = make(tmp_path / "other", *whole)
    inputs = [item.sources[0] for item in again.source.items("inference")]
    assert not [path for path in inputs if path.name.endswith("_overlay.png")]


@pytest.mark.parametrize("make", [photos, animals])
def test_results_are_the_same_at_any_batch_size_from_the_store_and_from_the_pictures(make, tmp_path):
    task, context = make(tmp_path, "prepare.store_dtype=fp16")
    prepare.run(task, context)
    torch.manual_seed(0)
    model, store = task.build_model().eval(), open_store(task.settings, "train")
    prepared = prepared_items(task, store, "val", "test")
    scores, pieces = {}, {}
    for kind, stored in (("cached", store), ("live", None)):
        for batch_size in (1, 3, 8):
            pieces[kind, batch_size] = kept = []
            scores[kind, batch_size] = score(
                task, model, prepared, stored, "cpu", batch_size, context, watch=kept.append
            )
    first = ("cached", 1)
    for way, kept in pieces.items():
        assert [piece.item.id for piece in kept] == [entry.item.id for entry in prepared]
        for piece, other in zip(kept, pieces[first], strict=True):
            for name in set(piece.arrays) - {"spread", "frame"}:
                np.testing.assert_allclose(piece.arrays[name], other.arrays[name], atol=2e-3, err_msg=f"{way} {name}")
        assert plain_numbers(scores[way]) == pytest.approx(plain_numbers(scores[first]), rel=1e-3, nan_ok=True)


def plain_numbers(metrics: dict) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


class Shapes:
    """A source of numbered samples of given shapes, and the task that predicts them."""

    views = (IDENTITY,)

    def __init__(self, *items: str):
        self.items, self.live, self.most = items, 0, 0

    def predictor(self, views, phase="train"):
        return Recorder()

    def read(self, job):
        for number, shape in enumerate(self.items[int(job.item.id)]):
            self.live += 1
            self.most = max(self.most, self.live)
            yield Slot(job, Sample(f"{job.item.id}.{number}", job.item, {"shape": shape}), wanted=shape != "-")

    def shape(self, slot):
        return slot.sample.arrays["shape"]

    def load(self, slots):
        return Batch([slot.sample for slot in slots], {"x": torch.arange(len(slots))})


class Recorder(Predictor):
    def start(self, item, resume=None):
        self.item = item

    def push(self, samples, outputs):
        names = outputs["names"] if outputs else [None] * len(samples)
        for sample, name in zip(samples, names, strict=True):
            yield Piece(self.item, {"sample": sample.id, "seen": name})

    def finish(self):
        yield Piece(self.item, {"sample": "end", "seen": None})


def test_batches_hold_one_shape_and_outputs_return_in_the_order_of_samples():
    source, batches = Shapes("abab", "", "bbbac-", "aaaa" * 9, "c"), []

    def model(batch):
        batches.append([sample.arrays["shape"] for sample in batch.samples])
        return {"names": [sample.id for sample in batch.samples]}

    groups = [[Item(str(index), ())] for index in range(len(source.items))]
    given, done = [], []
    for job, piece in predict(source, model, source, groups, "cpu", 3, example_context(Path("run"))):
        if piece is None:
            source.live -= job.pushed
            job.pushed = 0
            done += [job.item.id] if job.done else []
        else:
            given.append((job.item.id, piece.arrays["sample"], piece.arrays["seen"]))
    expected = [
        (str(item), name, seen)
        for item, shapes in enumerate(source.items)
        for name, seen in [
            *((f"{item}.{n}", None if shape == "-" else f"{item}.{n}") for n, shape in enumerate(shapes)),
            ("end", None),
        ]
    ]
    assert given == expected
    assert done == ["0", "1", "2", "3", "4"]
    assert all(len(set(batch)) == 1 for batch in batches)
    assert max(map(len, batches)) == 3
    assert [len(batch) for batch in batches].count(3) >= 12, "most are full"
    assert source.most <= 3 * (LOOK_AHEAD + 6), "a rare shape does not hold up everything that follows"


# ---------------------------------------------------------------------------------------------------------------------
# Predictors with a memory


@dataclass(frozen=True)
class Clip(Item):
    first: int = 0


class Walker(Predictor):
    """What it gives for a frame depends on all frames before, as identities of a tracker do."""

    stateful = True
    began: ClassVar[list[int]] = []

    def start(self, item, resume=None):
        assert item.first == (resume or 0)
        self.item, self.frame, self.seen = item, item.first, 0.0
        self.began.append(item.first)

    def wants(self, sample):
        return self.seen < 100

    def push(self, samples, outputs):
        [sample] = samples
        self.seen = self.seen / 2 + float(sample.arrays["image"].mean() if outputs is None else outputs["mean"][0])
        arrays = {"frame": self.frame, "seen": self.seen, "bridged": outputs is None}
        self.frame += 1
        yield Piece(self.item, arrays)

    def finish(self):
        yield from ()

    def state(self):
        return {"seen": np.array([self.seen]), "frame": self.frame}

    def load_state(self, state):
        assert state["frame"] == self.frame
        self.seen = float(state["seen"][0])


class Lines(Sink):
    """A line per frame, written at once: it may be ahead of the state that was saved."""

    def __init__(self, item, folder):
        self.path, self.final = folder / f".{item.id}.lines", folder / f"{item.id}.json"

    def read(self) -> list[str]:
        return self.path.read_text().splitlines(keepends=True) if self.path.exists() else []

    def append(self, piece):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(piece.arrays) + "\n")
        if len(self.read()) == int(os.environ.get("KILL_AT", 0)):
            os._exit(9)

    def resume_point(self):
        return len(self.read()) or None

    def rewind(self, point):
        self.path.write_text("".join(self.read()[:point]))

    def close(self):
        if "close" in os.environ.get("FAIL", "") and distributed.is_main():
            raise DataError("disk full")
        self.path.rename(self.final)
        return [self.final]


class Errors(Metric):
    def __init__(self):
        self.count = 0

    def update(self, piece, truth):
        if os.environ.get("FAIL") == f"share {distributed.rank()}":
            raise DataError("frame 0 cannot be read")
        self.count += 1

    def state(self):
        return self.count

    def merge(self, state):
        self.count += state

    def compute(self):
        return {"frames": float(self.count)}


class WalkPaths(PathsConfig):
    raw_images_dir: str


class WalkSettings(TaskConfig):
    kind: Literal["walk"] = "walk"
    paths: WalkPaths
    inference: InferenceConfig = InferenceConfig()
    export: ExportConfig = ExportConfig()


class WalkTask(Source, Output, Task):
    """Follow something through clips, without training; one object is all parts."""

    source = output = property(lambda self: self)

    kind, phases, primary = "walk", ("evaluate", "inference", "export"), "frames"

    def check(self):
        return []

    def items(self, split):
        return [Clip(path.stem, (path,)) for path in sorted(Path(self.settings.paths.raw_images_dir).glob("*.npy"))]

    def continue_from(self, item, resume):
        return replace(item, first=resume)

    def samples(self, item):
        for number, frame in enumerate(np.load(item.sources[0])):
            if number >= item.first:
                yield Sample(f"{item.id}/{number}", item, {"image": frame})

    def truth(self, piece):
        return None

    def predictor(self, views=None, phase="train"):
        return Walker()

    def metric(self, phase="train"):
        return Errors()

    def report(self, metrics, folder, log):
        if os.environ.get("FAIL") == "report":
            raise DataError("no font")

    def sink(self, item, folder, fingerprint):
        return Lines(item, folder)

    def export(self, model, folder, checkpoint):
        raise DataError("no space for the export")


def walk_task(folder: Path) -> tuple[WalkTask, Context]:
    generator = np.random.default_rng(0)
    if not (folder / "clips").exists():
        (folder / "clips").mkdir()
        for name, frames in (("one", 9), ("two", 4), ("three", 6)):
            np.save(folder / "clips" / f"{name}.npy", generator.integers(0, 256, (frames, 4, 6, 3)).astype(np.uint8))
    paths = {"raw_images_dir": str(folder / "clips"), "processed_dir": str(folder / "store")}
    return WalkTask("walk", WalkSettings(paths=paths)), example_context(folder / "run")


def results(folder: Path) -> dict[str, list[dict]]:
    found = sorted((folder / "run" / "predictions").glob("*.json"))
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in found}


@pytest.mark.parametrize("save_s", [0.0, 1000.0], ids=["states are saved", "no state was saved yet"])
def test_a_killed_prediction_goes_on_with_what_its_predictor_remembered(save_s, tmp_path, monkeypatch, forks):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    inference.run(*walk_task(whole))
    environment = os.environ | {"KILL_AT": "3", "SAVE_S": str(save_s)}
    assert forks.start(Path(__file__), "inference", killed, env=environment).wait(timeout=100) == 9
    assert results(killed) == {}, "complete or absent"
    monkeypatch.setattr(Walker, "began", [])
    inference.run(*walk_task(killed))
    assert results(killed) == results(whole)
    assert {len(frames) for frames in results(whole).values()} == {9, 4, 6}
    assert (max(Walker.began) > 0) == (save_s == 0), "it goes on where the last saved state was"
    assert not list((killed / "run" / "predictions").glob(".*")), "nothing is left of the interruption"


def test_an_interrupted_prediction_keeps_what_its_predictors_remember(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    inference.run(*walk_task(whole))
    task, context = walk_task(cut)
    asked = itertools.count()

    def check_stop():
        if next(asked) == 5:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        inference.run(task, replace(context, check_stop=check_stop))
    monkeypatch.setattr(Walker, "began", [])
    inference.run(task, context)
    assert sorted(Walker.began) == [4, 5, 5], "one clip was complete, the others had five frames"
    assert results(cut) == results(whole)


def test_groups_with_a_memory_share_batches(tmp_path):
    task, context = walk_task(tmp_path)
    groups, forwards = task.source.partition(task.source.items("val")), []

    def model(batch):
        forwards.append(len(batch))
        return {"mean": batch.arrays["image"].float().mean(dim=(1, 2, 3))}

    def walk(batch_size):
        given = predict(task, model, LiveSamples(task, [IDENTITY]), groups, "cpu", batch_size, context)
        found = {}
        for job, piece in given:
            if piece is not None:
                found.setdefault(job.item.id, []).append((piece.arrays["seen"], piece.arrays["bridged"]))
        return found

    alone = walk(1)
    assert set(forwards) == {1}
    forwards.clear()
    together = walk(2)
    assert max(forwards) == 2
    assert sorted(together) == ["one", "three", "two"]
    for name, frames in alone.items():
        assert [bridged for _, bridged in frames] == [bridged for _, bridged in together[name]]
        assert [seen for seen, _ in frames] == pytest.approx([seen for seen, _ in together[name]], rel=1e-6)
    assert {bridged for _, bridged in alone["one"]} == {True, False}


def test_a_done_picture_whose_files_are_not_written_yet_is_not_predicted_twice(tmp_path):
    task, context = animals(tmp_path)
    prepare.run(task, context)
    train.run(task, context)
    asked = itertools.count()

    def check_stop():
        if next(asked) == 2:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        inference.run(task, replace(context, check_stop=check_stop))
    partials = list((context.folder / "predictions").glob(".*.part.jsonl"))
    assert len(partials) == 8, "two batches of four"
    assert inference.run(task, context).status == "done"
    files = sorted((context.folder / "predictions").glob("val_*.json"))
    assert [len(read_json(path)["frames"]) for path in files] == [1] * PHOTOS


# ---------------------------------------------------------------------------------------------------------------------
# Ranks


FAILURES = {  # what fails, on one rank -> the phase, and the error of all ranks
    "report": ("evaluate", "DataError: no font"),
    "share 1": ("evaluate", "DataError: frame 0 cannot be read"),
    "close": ("inference", "DataError: disk full"),
    "export": ("export", "DataError: no space for the export"),
}


def test_all_ranks_end_with_the_error_of_one(tmp_path, forks):
    walk_task(tmp_path)
    _, outputs = ends_of(forks.start_ranks(2, Path(__file__), "ranks", tmp_path, env=os.environ))
    expected = [message for _, message in FAILURES.values()]
    assert [[line for line in output.splitlines() if "Error" in line] for output in outputs] == [expected, expected]


def test_a_fresh_band_of_a_rank_is_not_resumed(tmp_path):
    task, context = example_task(tmp_path)
    spoken = Context(VerbosityLogger("info", file=str(tmp_path / "log.txt")), context.folder)
    task.source.prepare_data()
    [item] = task.source.items("inference")
    share = inference.Share(task, tmp_path / "maps", {item.id: {}}, spoken)
    band = replace(item, rows=(24, 64))  # the rows of a second rank
    job = share.open_job(band, task.predictor())
    assert (job.item, job.resume) == (band, 24)
    assert "resuming" not in (tmp_path / "log.txt").read_text()
    source, model = LiveSamples(task, [IDENTITY]), task.build_model().eval()
    share.write(predict(task, model, source, [[band]], "cpu", 4, context, share.open_job), [[band]])
    assert share.open_job(replace(item, rows=(20, 64)), task.predictor()).item.rows == (20, 64)
    assert share.open_job(band, task.predictor()).item.rows == (64, 64)
    assert "scene_0: resuming at 64" in (tmp_path / "log.txt").read_text()


def work(way: str, folder: str) -> None:
    torch.set_num_threads(1)
    phases = {"evaluate": evaluate, "inference": inference, "export": export}
    if way != "ranks":
        inference.SAVE_S = float(os.environ["SAVE_S"])
        phases[way].run(*walk_task(Path(folder)))
        return
    distributed.start_ranks("auto", timeout_s=30)
    for fail, (phase, _) in FAILURES.items():
        os.environ["FAIL"] = fail
        try:
            phases[phase].run(*walk_task(Path(folder)))
        except DataError as error:
            print(f"DataError: {error}")


if __name__ == "__main__":
    work(*sys.argv[1:])
