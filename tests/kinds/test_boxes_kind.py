"""A kind of task that needs only its folder and one line each in TASKS and HEADS passes all phases through main.py.

Its boxes are ragged fields: no, one or several per picture, on pictures of three shapes, from stored features, online,
and with stored views; in one process and on two ranks, which run this file as a script.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import main
from config import load_settings
from models import HEADS
from tasks import TASKS, kinds
from tasks.example import tiny_backbone
from tasks.phases.prediction import collect
from tasks.phases.samples import Job, LiveSamples, StoredSamples
from tasks.prepared import PreparedItem, PreparedReader, prepared_items
from tasks.sample import Progress
from tasks.stores import open_store
from tests.kinds.boxes.task import BoxesTask
from tests.processes import ends_of
from utils.data import SampleRef
from utils.geometry.augment import IDENTITY
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import read_json

ROOT = Path(__file__).resolve().parents[2]
TASK_LINE = ("tests.kinds.boxes.settings:BoxesSettings", "tests.kinds.boxes.task:BoxesTask")
HEAD_LINE = {"cells": "tests.kinds.boxes.head:CellsHead"}
WAYS: dict[str, dict[str, Any]] = {
    "cached": {},
    "online": {"train": {"features": "online"}},
    "views": {"dataset": {"augmentations": {"enable": True, "rotate90": True, "stored_views": 4}}},
}
PHASES = ("prepare", "verify", "train", "evaluate", "inference")


def write_config(folder: Path, ranks: str) -> Path:
    """Settings of a task for each way, with all phases; both numbers of ranks share pictures and backbone."""
    results = folder / ranks
    tree: dict[str, Any] = {
        "kind": "boxes",
        "resources": {"omp_threads": 1},
        "logging": {"level": "error"},
        "paths": {
            "data_root": str(folder),
            "processed_dir": str(results / "store"),
            "runs_root": str(results / "runs"),
        },
        "dataset": {"sample": {"enable": True, "folder": str(folder / "sample")}},
        "model": {"backbone": str(folder / "backbone"), "layers": [0, 1], "precision": "fp32"},
        "train": {"epochs": 8, "batch_size": 3, "adamw_lr": 0.05, "optimizer": "adamw"},
        "evaluate": {"split": "train"},  # has more boxes than the three pictures that validate
        "inference": {"inputs": "sample/odd/images/train_00[01].png", "tta": {"horizontal_flip": True}},
        "boxes": {"min_side": 45, "min_score": 0.2},
        "tasks": WAYS,
    }
    for phase in PHASES:
        tree[phase] = tree.get(phase, {}) | {"enable": True}
    results.mkdir()
    (results / "config.yml").write_text(yaml.safe_dump(tree))
    return results / "config.yml"


@pytest.fixture(autouse=True, scope="module")
def registry():
    """What a new kind of task adds outside its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "boxes", TASK_LINE)
        patch.setitem(HEADS, "boxes", HEAD_LINE)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    (folder / "backbone").symlink_to(tiny_backbone())
    return folder


@pytest.fixture(scope="module")
def one_process(registry, folder) -> Path:
    config = write_config(folder, "one_process")
    assert main.main([str(config)]) == 0
    return config.parent


@pytest.fixture(scope="module")
def two_ranks(folder, one_process, forks) -> Path:
    config = write_config(folder, "two_ranks")
    codes, outputs = ends_of(forks.start_ranks(2, Path(__file__), config, env=os.environ))
    assert codes == [0, 0], outputs
    return config.parent


def statuses(results: Path) -> dict[str, str]:
    return {row["phase"]: row["status"] for row in read_json(results / "runs" / "status.json")["phases"]}


def rows(results: Path, way: str) -> list[dict[str, str]]:
    with (results / "runs" / way / "latest" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def weights(results: Path, way: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(results / "runs" / way / "latest" / "checkpoints" / "best.safetensors").tensors


def predictions(results: Path, way: str) -> dict[str, Any]:
    folder = results / "runs" / way / "latest" / "predictions"
    return {path.name: json.loads(path.read_text())["boxes"] for path in sorted(folder.glob("*.json"))}


def scores(results: Path, way: str) -> dict[str, float]:
    return read_json(results / "runs" / way / "latest" / "evaluate_train" / "metrics.json")["metrics"]


def same(one: tuple[Path, str], other: tuple[Path, str], tolerance: float) -> None:
    """Losses of all epochs, and the best weights."""
    assert len(rows(*one)) == len(rows(*other)) == 8
    for row, twin in zip(rows(*one), rows(*other), strict=True):
        assert float(row["train_loss"]) == pytest.approx(float(twin["train_loss"]), rel=tolerance)
    others = weights(*other)
    for name, weight in weights(*one).items():
        np.testing.assert_allclose(weight, others[name], atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_it_passes_all_phases_and_learns(way, one_process):
    assert {phase: statuses(one_process)[f"{way}.{phase}"] for phase in PHASES} == dict.fromkeys(PHASES, "done")
    losses = [float(row["train_loss"]) for row in rows(one_process, way)]
    assert losses[-1] < 0.6 * losses[0]
    assert [len(boxes) for boxes in predictions(one_process, way).values()] != [0, 0]
    assert len(list((one_process / "runs" / way / "latest" / "evaluate_train").glob("*.png"))) == 8


@pytest.mark.parametrize("way", sorted(WAYS))
def test_two_ranks_compute_what_one_process_computes(way, one_process, two_ranks):
    same((one_process, way), (two_ranks, way), tolerance=1e-5)
    one, other = (scores(results, way) for results in (one_process, two_ranks))
    assert one == pytest.approx(other)
    files, others = (predictions(results, way) for results in (one_process, two_ranks))
    assert list(files) == list(others) == ["train_000.json", "train_001.json"]
    for name, boxes in files.items():
        for box, twin in zip(boxes, others[name], strict=True):
            np.testing.assert_allclose(box["box_xyxy"], twin["box_xyxy"], atol=0.05)


def test_stored_features_and_online_ones_train_alike(one_process):
    same((one_process, "cached"), (one_process, "online"), tolerance=2e-3)
    assert scores(one_process, "cached")["F1"] > 0.25


def test_a_rerun_is_up_to_date(one_process, two_ranks):
    assert main.main([str(one_process / "config.yml")]) == 0
    expected = dict.fromkeys(PHASES, "up to date") | {"verify": "done"}  # a check is never out of date
    for way in WAYS:
        assert {phase: statuses(one_process)[f"{way}.{phase}"] for phase in PHASES} == expected


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readers(one_process) -> dict[str, PreparedReader]:
    found = {}
    for way, settings in load_settings(one_process / "config.yml", (), kinds()).tasks.items():
        task = BoxesTask(way, settings)
        task.setup()
        store = open_store(settings, "train")
        found[way] = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    return found


def test_pictures_have_three_shapes_and_no_one_or_several_boxes(readers):
    batch = readers["cached"].read([SampleRef(position) for position in range(15)], Progress())
    assert set(batch.sizes) == {(32, 40), (44, 32), (36, 50)}
    assert {len(boxes) for boxes in batch.arrays["boxes_xyxy"]} >= {0, 1, 2}


def test_cached_and_online_give_the_same_batch(readers):
    """Of pictures of three shapes, padded to one, with their boxes; maps to the rounding of another batch."""
    refs = [SampleRef(position, padded=(44, 52)) for position in (0, 5, 10, 11)]
    cached, online = (readers[way].read(refs, Progress()) for way in ("cached", "online"))
    assert cached.sizes == online.sizes == [(32, 40), (44, 32), (36, 50), (36, 50)]
    for name in ("image", "valid"):
        assert torch.equal(cached.arrays[name], online.arrays[name])
    assert cached.arrays["image"].shape == (4, 3, 44, 52)
    for boxes, others, ref in zip(cached.arrays["boxes_xyxy"], online.arrays["boxes_xyxy"], refs, strict=True):
        assert torch.equal(boxes, others)
        truth = readers["cached"].owners[ref.position].boxes_xyxy / 4
        np.testing.assert_allclose(boxes, truth, rtol=1e-6)
    assert cached.target["valid"].sum(dim=(1, 2, 3)).tolist() == [8 * 10, 11 * 8, 9 * 13, 9 * 13]
    model = readers["online"].task.build_model().eval()
    assert online.feature_maps is None
    assert [maps.shape for maps in cached.feature_maps] == [(4, 8, 11, 13)] * 2
    torch.testing.assert_close(model(cached)["boxes"], model(online)["boxes"], atol=5e-3, rtol=0)


@pytest.mark.parametrize("way", ["cached", "online"])
def test_what_is_padded_never_reaches_the_backbone(way, readers):
    alone, padded = (readers[way].read([SampleRef(11, padded=size)], Progress()) for size in (None, (60, 60)))
    compute = readers[way].task.build_model().eval()
    compute.head.layers = nn.Identity()  # a head that sees each cell alone
    compute.head.cells = nn.Conv2d(16, 5, 1).requires_grad_(False)
    few, many = compute(alone)["objectness"], compute(padded)["objectness"]
    assert (few.shape, many.shape) == ((1, 1, 9, 13), (1, 1, 15, 15))
    torch.testing.assert_close(many[:, :, :9, :13], few, atol=1e-3, rtol=0)


def test_an_empty_share_has_lists_without_boxes(readers):
    task, batch = readers["cached"].task, readers["cached"].read([], Progress()).to("cpu")
    assert batch.arrays["boxes_xyxy"] == []
    assert {name: tuple(part.shape[:1]) for name, part in batch.target.items()} == dict.fromkeys(batch.target, (0,))
    assert task.build_model()(batch)["boxes"].shape == (0, 4, 8, 10)


def test_pictures_with_other_numbers_of_boxes_are_predicted_in_one_batch(readers):
    reader = readers["cached"]
    jobs = [Job(item, reader.task.predictor()) for item in reader.owners]
    stored = StoredSamples(reader.task, reader.dataset.store, prepared_of(reader))
    for source in (LiveSamples(reader.task, [IDENTITY]), stored):
        slots = (slot for job in jobs for slot in source.read(job))
        assert [len(part.batch) for part in collect(source, slots, 5)] == [5, 5, 5]


def prepared_of(reader: PreparedReader) -> list[PreparedItem]:
    return [PreparedItem(item, [entry]) for item, entry in zip(reader.owners, reader.entries, strict=True)]


def test_a_mixed_batch_tells_every_rank_its_size_and_turned_pictures_find_their_bucket(readers):
    reader = readers["views"]
    refs = [SampleRef(0), SampleRef(1), SampleRef(5), SampleRef(0, "rot90"), SampleRef(10)]
    plan = reader.plan(refs, 2, np.random.default_rng(0))
    by_members = {tuple((ref.position, ref.view) for ref in batch): {ref.padded for ref in batch} for batch in plan}
    assert by_members == {
        ((0, "identity"), (1, "identity")): {None},
        ((5, "identity"), (0, "rot90")): {(44, 32)},
        ((10, "identity"),): {None},
    }


if __name__ == "__main__":
    TASKS["boxes"], HEADS["boxes"] = TASK_LINE, HEAD_LINE
    sys.exit(main.main(sys.argv[1:]))
