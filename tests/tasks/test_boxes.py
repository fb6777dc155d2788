"""Ragged fields and pictures of several shapes, end to end: a task with 0 to 5 boxes on pictures of three shapes.

It is trained with stored features and online, in one process and on two ranks; the ranks run this file as a script.
"""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from config import DatasetConfig, GeometricAugmentationsConfig, PathsConfig, TaskConfig, parse_settings
from tasks.batching import plan_batches
from tasks.context import Context
from tasks.example import example_context, tiny_backbone
from tasks.feature_task import FeatureTask
from tasks.item import Item, Piece
from tasks.model import FeatureModel
from tasks.objective import Objective
from tasks.output import Metric, Output
from tasks.phases import prepare, train
from tasks.predictor import Predictor
from tasks.prepared import PreparedReader, prepared_items
from tasks.runs import BEST, checkpoint_path
from tasks.sample import Batch, Progress, Sample
from tasks.source import FeatureSource
from tasks.stores import open_store
from utils.data import SampleRef
from utils.geometry.augment import View
from utils.geometry.fields import Boxes, Image, Values
from utils.runtime import distributed
from utils.runtime.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [(16, 24), (22, 12), (13, 30)]  # height and width; patches have 4 pixels
PATCH = 4


class BoxHead(nn.Module):
    """A logit per cell; its norm over the whole map makes the result depend on what was padded."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(16, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def forward(self, maps: list[Tensor], image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layers(torch.cat(maps, dim=1))[:, 0]}


class CellPredictor(Predictor):
    def start(self, item: Item, resume: int | None = None) -> None:
        self.item = item

    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        assert outputs is not None
        for sample, logits in zip(samples, outputs["logits"], strict=True):
            height, width = sample.arrays["image"].shape[:2]
            yield Piece(self.item, {"cells": (logits > 0).numpy()[: -(-height // PATCH), : -(-width // PATCH)]})

    def finish(self) -> Iterator[Piece]:
        yield from ()


class CellAccuracy(Metric):
    def __init__(self):
        self.right, self.count = 0, 0

    def update(self, piece: Piece, truth: np.ndarray) -> None:
        self.right += int((piece.arrays["cells"] == truth).sum())
        self.count += truth.size

    def state(self):
        return [self.right, self.count]

    def merge(self, state):
        self.right, self.count = self.right + state[0], self.count + state[1]

    def compute(self):
        return {"accuracy": self.right / max(self.count, 1)}


def covered_cells(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cells whose middle lies in a box, (rows, columns)."""
    y, x = (PATCH * (torch.arange(number) + 0.5) for number in grid)
    left, top, right, bottom = boxes[:, :, None, None].unbind(1)
    inside = (x >= left) & (x < right) & (y[:, None] >= top) & (y[:, None] < bottom)
    return inside.any(dim=0)


class BoxPaths(PathsConfig):
    raw_images_dir: str


class BoxDataset(DatasetConfig):
    augmentations: GeometricAugmentationsConfig = GeometricAugmentationsConfig()


class BoxSettings(TaskConfig):
    kind: Literal["boxes"] = "boxes"
    paths: BoxPaths
    dataset: BoxDataset = BoxDataset()


class BoxSource(FeatureSource):
    """Pictures with boxes, as arrays in `<raw_images_dir>/<split>/`."""

    fields: ClassVar = {"image": Image(), "boxes": Boxes(), "classes": Values(ragged=True)}

    def sample_size(self):
        return max(SHAPES)

    def items(self, split: str) -> list[Item]:
        folder = Path(self.settings.paths.raw_images_dir) / split
        return [Item(path.stem, (path,)) for path in sorted(folder.iterdir())]

    def samples(self, item: Item, prompts: Any = None) -> Iterator[Sample]:
        with np.load(item.sources[0]) as arrays:
            yield Sample(item.id, item, {name: arrays[name] for name in ("image", "boxes", "classes")})

    def truth(self, piece: Piece) -> np.ndarray:
        [sample] = self.samples(piece.item)
        height, width = sample.arrays["image"].shape[:2]
        grid = -(-height // PATCH), -(-width // PATCH)
        return covered_cells(torch.from_numpy(sample.arrays["boxes"]), grid).numpy()

    def cache_key(self):
        return {"features": self.features_key()}


class BoxObjective(Objective):
    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        assert [len(boxes) for boxes in batch.arrays["boxes"]] == [len(c) for c in batch.arrays["classes"]]
        size = batch.arrays["image"].shape[-2:]
        valid = batch.arrays.get("valid", torch.ones(len(batch), *size, dtype=torch.bool))
        beyond = (0, -size[1] % PATCH, 0, -size[0] % PATCH)
        cells = functional.max_pool2d(functional.pad(valid[:, None].float(), beyond), PATCH)[:, 0] > 0
        batch.target = {"boxes": batch.arrays["boxes"], "cells": cells}
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": batch.target["cells"].sum()}

    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        logits, cells = outputs["logits"], batch.target["cells"]
        maps = [covered_cells(boxes, logits.shape[1:]) for boxes in batch.target["boxes"]]
        target = torch.stack(maps).float()
        each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return {"loss": (each * cells).sum()}


class BoxOutput(Output):
    def metric(self) -> Metric:
        return CellAccuracy()


class BoxTask(FeatureTask):
    """Which cells of a picture lie in a box."""

    kind = "boxes"
    phases = ("prepare", "train")
    primary = "accuracy"
    num_outputs = 1
    objective = BoxObjective()
    output = BoxOutput()

    def __init__(self, name, settings):
        super().__init__(name, settings)
        self.source = BoxSource(name, settings, self.features)

    def check(self):
        return []

    def build_model(self) -> nn.Module:
        torch.manual_seed(self.settings.resources.seed)
        return FeatureModel(self.features, BoxHead())

    def predictor(self, views: Sequence[View] | None = None) -> Predictor:
        return CellPredictor()


SETTINGS = """
resources: {{omp_threads: 1}}
paths: {{raw_images_dir: {data}, processed_dir: {store}, runs_root: {runs}}}
model: {{backbone: {backbone}, layers: [0, 1], precision: fp32}}
prepare: {{enable: true}}
train: {{enable: true, epochs: 4, batch_size: 4, adamw_lr: 0.03, optimizer: adamw, features: {features}}}
dataset: {{augmentations: {{enable: {views}, rotate90: true}}}}
tasks: {{toy: {{kind: boxes}}}}
"""
WAYS = {"cached": ("cached", "false"), "online": ("online", "false"), "views": ("cached", "true")}


def write_boxes(folder: Path) -> None:
    """Dark pictures with bright rectangles: 0 to 5 each, 7 or 8 pictures of each shape."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 22), ("val", 6)):
        (folder / split).mkdir(parents=True)
        for index in range(number):
            height, width = SHAPES[index % 3]
            image = generator.integers(0, 40, (height, width, 3)).astype(np.uint8)
            corners = generator.integers(0, (width - 6, height - 6), (index % 6, 2))
            boxes = np.concatenate([corners, corners + generator.integers(4, 7, corners.shape)], axis=1)
            for left, top, right, bottom in boxes:
                image[top:bottom, left:right] += 180
            arrays = {"image": image, "boxes": boxes.astype(np.float32), "classes": np.arange(len(boxes))}
            np.savez(folder / split / f"{split}_{index:02d}.npz", **arrays)


def make_task(folder: Path, way: str, runs: str) -> tuple[BoxTask, Context]:
    features, views = WAYS[way]
    backbone = (folder / "backbone").resolve()
    text = SETTINGS.format(
        data=folder / "data", store=folder / way, runs=folder / runs, backbone=backbone, features=features, views=views
    )
    task = BoxTask("toy", parse_settings(text, (), {"boxes": BoxSettings}).tasks["toy"])
    return task, example_context(folder / runs / way)


def run_training(folder: Path, way: str, runs: str) -> dict[str, Any]:
    """Prepare and train; losses and scores of all epochs, and the sum of all trained weights."""
    task, context = make_task(folder, way, runs)
    prepare.run(task, context)
    train.run(task, context)
    with (context.folder / "results.csv").open() as file:
        rows = [{name: float(row[name]) for name in ("train_loss", "accuracy")} for row in csv.DictReader(file)]
    tensors = load_checkpoint(checkpoint_path(context.folder, BEST)).tensors
    return {"rows": rows, "weights": {name: tensor.flatten().tolist() for name, tensor in tensors.items()}}


def work_of_a_rank(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.start_ranks("auto", timeout_s=60)
    results = {way: run_training(folder, way, "two_ranks") for way in WAYS}
    if distributed.is_main():
        (folder / "two_ranks.json").write_text(json.dumps(results))
    distributed.barrier()
    distributed.stop_ranks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    write_boxes(folder / "data")
    (folder / "backbone").symlink_to(tiny_backbone())
    return folder


@pytest.fixture(scope="module")
def one_process(folder) -> dict[str, Any]:
    return {way: run_training(folder, way, "one_process") for way in WAYS}


@pytest.fixture(scope="module")
def two_ranks(folder, one_process) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(2):
        launcher = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": port}
        launcher |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(folder)]
        processes.append(subprocess.Popen(command, env=os.environ | launcher, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return json.loads((folder / "two_ranks.json").read_text())


def same(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    assert len(one["rows"]) == len(other["rows"]) == 4
    for row, twin in zip(one["rows"], other["rows"], strict=True):
        assert row["train_loss"] == pytest.approx(twin["train_loss"], rel=tolerance)
    for name, weight in one["weights"].items():
        np.testing.assert_allclose(weight, other["weights"][name], atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_it_learns(way, one_process):
    rows = one_process[way]["rows"]
    assert rows[-1]["train_loss"] < 0.75 * rows[0]["train_loss"]
    assert rows[-1]["accuracy"] > 0.85


@pytest.mark.parametrize("way", sorted(WAYS))
def test_two_ranks_compute_what_one_process_computes(way, one_process, two_ranks):
    same(one_process[way], two_ranks[way], tolerance=1e-5)


def test_stored_features_and_online_ones_train_alike(one_process):
    same(one_process["cached"], one_process["online"], tolerance=2e-3)


@pytest.fixture(scope="module")
def readers(folder, one_process) -> dict[str, PreparedReader]:
    found = {}
    for way in WAYS:
        task, _ = make_task(folder, way, "one_process")
        store = open_store(task.settings, "train")
        found[way] = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    return found


def test_cached_and_online_give_the_same_batch(readers):
    """Of pictures of three shapes, padded to one, with their boxes; maps to the rounding of another batch."""
    refs = [SampleRef(position, padded=(24, 32)) for position in (3, 0, 5, 7)]
    cached, online = (readers[way].read(refs, Progress()) for way in ("cached", "online"))
    assert cached.sizes == online.sizes == [SHAPES[0], SHAPES[0], SHAPES[2], SHAPES[1]]
    for name in ("image", "valid"):
        assert torch.equal(cached.arrays[name], online.arrays[name])
    assert cached.arrays["image"].shape == (4, 3, 24, 32)
    for boxes, others in zip(cached.arrays["boxes"], online.arrays["boxes"], strict=True):
        assert torch.equal(boxes, others)
    assert [len(boxes) for boxes in cached.arrays["boxes"]] == [3, 0, 5, 1]
    model = readers["online"].task.build_model().eval()
    assert online.feature_maps is None
    assert [maps.shape for maps in cached.feature_maps] == [(4, 8, 6, 8)] * 2
    torch.testing.assert_close(model(cached)["logits"], model(online)["logits"], atol=5e-3, rtol=0)


def test_what_is_padded_never_reaches_the_backbone(readers):
    for way in ("cached", "online"):
        reader = readers[way]
        alone, padded = (reader.read([SampleRef(5, padded=size)], Progress()) for size in (None, (40, 40)))
        compute = reader.task.build_model().eval()
        compute.head.layers = nn.Conv2d(16, 1, 1).requires_grad_(False)  # a head that sees each cell alone
        few, many = compute(alone)["logits"], compute(padded)["logits"]
        torch.testing.assert_close(many[:, : few.shape[1], : few.shape[2]], few, atol=1e-3, rtol=0)
        assert many.shape == (1, 10, 10)


def test_an_empty_share_has_lists_without_boxes(readers):
    batch = readers["cached"].read([], Progress()).to("cpu")
    assert batch.arrays["boxes"] == batch.target["boxes"] == []
    loss = readers["cached"].task.objective.loss(readers["cached"].task.build_model()(batch), batch, Progress())["loss"]
    assert loss.item() == 0


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_plans_hold_each_sample_once_in_as_many_batches_as_without_shapes(seed):
    generator = np.random.default_rng(seed)
    shapes = [SHAPES[index] for index in generator.integers(0, 3, int(generator.integers(1, 60)))]
    size = int(generator.integers(1, 9))
    plan = plan_batches(shapes, size, np.random.default_rng(seed))
    assert sorted(index for batch in plan for index in batch) == list(range(len(shapes)))
    assert len(plan) == -(-len(shapes) // size)
    assert sum(len(batch) < size for batch in plan) <= 1
    mixed = [batch for batch in plan if len({shapes[index] for index in batch}) > 1]
    left = sum(count % size for count in Counter(shapes).values())
    assert sum(map(len, mixed)) <= left < 3 * size, "only leftovers are mixed"
    assert plan == plan_batches(shapes, size, np.random.default_rng(seed))


def test_one_shape_is_cut_in_order_and_draws_nothing():
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    assert plan_batches([(4, 6)] * 7, 3, generator) == [[0, 1, 2], [3, 4, 5], [6]]
    assert generator.bit_generator.state == before


def test_the_order_of_buckets_follows_the_generator():
    shapes = [SHAPES[index % 3] for index in range(90)]
    plans = [plan_batches(shapes, 4, np.random.default_rng([0, epoch])) for epoch in range(3)]
    firsts = [[shapes[batch[0]] for batch in plan] for plan in plans]
    assert firsts[0] != firsts[1] != firsts[2]
    assert all(len(set(order[:8])) > 1 for order in firsts), "shapes come in turns"


def test_a_mixed_batch_tells_every_rank_its_size_and_turned_pictures_find_their_bucket(readers):
    reader = readers["views"]
    refs = [SampleRef(0), SampleRef(3), SampleRef(1), SampleRef(0, "rot90"), SampleRef(2)]
    plan = reader.plan(refs, 2, np.random.default_rng(0))
    by_members = {tuple((ref.position, ref.view) for ref in batch): {ref.padded for ref in batch} for batch in plan}
    assert by_members == {
        ((0, "identity"), (3, "identity")): {None},
        ((1, "identity"), (0, "rot90")): {(24, 16)},
        ((2, "identity"),): {None},
    }


if __name__ == "__main__":
    work_of_a_rank(Path(sys.argv[1]))
