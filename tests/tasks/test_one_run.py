"""What a command does once: it opens each store, reads the labels and builds the task."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

import main
import tasks.keypoints.labels
from config import parse_settings
from tasks import kinds
from tasks.distill.example import student_example
from tasks.example import SETTINGS, drawn_animals, tiny_backbone, write_pictures
from tasks.keypoints.example import SETTINGS as ANIMALS
from tasks.keypoints.task import KeypointsTask
from tasks.phases import load_phase
from tasks.phases.evaluate import restore
from tasks.stores import open_store
from utils.logging import VerbosityLogger
from utils.runtime.checkpoints import load_checkpoint, save_checkpoint
from utils.runtime.signals import StopSignal
from utils.store.feature_store import FeatureStore, Problem

FIVE = ("prepare", "verify", "train", "evaluate", "inference")


def settings_of(kind: str, folder: Path, *overrides: str) -> Any:
    if kind == "segmentation":
        if not (folder / "pictures").exists():
            write_pictures(folder)
        text = SETTINGS
    else:
        if not (folder / "animals").exists():
            (folder / "animals").symlink_to(drawn_animals())
        text = ANIMALS
    quiet = ("logging.level=error", *overrides)
    return parse_settings(text.format(folder=folder, backbone=tiny_backbone()), quiet, kinds())


def run_command(kind: str, folder: Path, *overrides: str, phases: tuple[str, ...] = FIVE) -> int:
    settings = settings_of(kind, folder, *overrides)
    return main.run_and_report(settings, {name: phases for name in settings.tasks}, only_check=False)


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, key: Callable[..., Any]) -> Counter:
    counts: Counter = Counter()
    real = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        counts[key(*arguments, **named)] += 1
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)
    return counts


@pytest.mark.parametrize("kind", ["segmentation", "keypoints"])
def test_five_phases_open_each_store_once(kind, tmp_path, monkeypatch):
    opened = count_calls(
        monkeypatch, FeatureStore, "__init__", lambda self, folder, *_, **__: Path(folder).resolve().name
    )
    assert run_command(kind, tmp_path) == 0
    assert opened == {"store": 1}


def test_records_set_aside_by_verify_are_missing_for_all_and_made_again(tmp_path):
    settings = settings_of("segmentation", tmp_path)
    assert main.run_and_report(settings, {"segmentation": ("prepare",)}, only_check=False) == 0
    shard = next((tmp_path / "store" / "shards").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    outcome = main.Outcome()
    phases = {"segmentation": ("prepare", "verify", "train")}
    main.run(settings, phases, VerbosityLogger("error"), StopSignal(), outcome)
    assert [(name, status) for name, status, _ in outcome.rows] == [
        ("segmentation.prepare", "up to date"),
        ("segmentation.verify", "done"),
        ("segmentation.prepare", "done"),  # only with the record missing is there something to do
        ("segmentation.train", "done"),
    ]


def test_an_open_store_takes_in_what_another_process_stored_or_set_aside(tmp_path):
    settings = settings_of("segmentation", tmp_path).tasks["segmentation"]
    store, other = open_store(settings, "prepare"), FeatureStore(tmp_path / "store")
    with other.writer() as writer:
        writer.put("ab" * 8, {"x": np.zeros(3)})
    assert not store.has("ab" * 8)
    assert open_store(settings, "train") is store
    assert store.has("ab" * 8)
    other.set_aside(Problem("checksum", "", "", "ab" * 8).subject, "test")
    open_store(settings, "verify")
    assert not store.has("ab" * 8)


def test_a_store_whose_folder_was_removed_is_made_again(tmp_path):
    settings = settings_of("segmentation", tmp_path).tasks["segmentation"]
    first = open_store(settings, "prepare")
    shutil.rmtree(tmp_path / "store")
    again = open_store(settings, "prepare")
    with again.writer() as writer:
        writer.put("ab" * 8, {"x": np.zeros(3)})
    assert again is not first
    assert len(again) == 1


def test_five_phases_read_the_labels_and_build_the_task_once(tmp_path, monkeypatch):
    read = count_calls(monkeypatch, tasks.keypoints.labels, "read_poses", lambda source, *_: Path(source).name)
    built = count_calls(monkeypatch, KeypointsTask, "__init__", lambda self, name, *_: name)
    assert run_command("keypoints", tmp_path) == 0
    assert (read, built) == ({"annotations": 1}, {"animals": 1})


def without_training_in_this_run(folder: Path, kind: str, split: str) -> dict[str, Any]:
    """Scores of a task that is made from the checkpoint alone."""
    settings = settings_of(kind, folder)
    name = next(iter(settings.tasks))
    metrics = next(folder.glob(f"runs/{name}/*/evaluate_{split}/metrics.json"))
    metrics.unlink()
    assert main.run_and_report(settings, {name: ("evaluate",)}, only_check=False) == 0
    return json.loads(metrics.read_text())["metrics"]


def test_scores_are_those_of_a_task_made_from_the_checkpoint(tmp_path):
    assert run_command("segmentation", tmp_path, phases=("prepare", "train", "evaluate")) == 0
    scores = json.loads(next(tmp_path.glob("runs/segmentation/*/evaluate_val/metrics.json")).read_text())["metrics"]
    assert scores["mIoU"] > 0.1
    assert scores == without_training_in_this_run(tmp_path, "segmentation", "val")


def test_another_checkpoint_makes_a_task_of_its_own(tmp_path, monkeypatch):
    assert run_command("keypoints", tmp_path, phases=("prepare", "train")) == 0
    checkpoint = load_checkpoint(next(tmp_path.glob("runs/animals/*/checkpoints/best.safetensors")).resolve())
    described = {**checkpoint.description, "most": 1}
    other = save_checkpoint(tmp_path / "other.safetensors", checkpoint.tensors, described)
    built = count_calls(monkeypatch, KeypointsTask, "__init__", lambda self, name, *_: name)
    named = f"evaluate.checkpoint={other}"
    assert run_command("keypoints", tmp_path, named, phases=("train", "evaluate")) == 0
    assert built == {"animals": 2}


def test_pictures_of_other_values_are_refused_also_right_after_training(tmp_path, capsys):
    (tmp_path / "new").mkdir()
    settings = settings_of("segmentation", tmp_path, f"inference.inputs={tmp_path}/new")
    with rasterio.open(tmp_path / "pictures" / "scene_0.tif") as scene:
        profile, values = {**scene.profile, "dtype": "uint16"}, scene.read().astype(np.uint16)
    with rasterio.open(tmp_path / "new" / "deep.tif", "w", **profile) as scene:
        scene.write(values)
    phases = {"segmentation": ("prepare", "train", "inference")}
    assert main.run_and_report(settings, phases, only_check=False) == 3
    assert "deep.tif: holds uint16, but the model was trained on 8-bit values as they are" in capsys.readouterr().err


def test_a_student_made_after_training_begins_with_nothing_of_the_teacher(tmp_path):
    options = "{width: 8, depth: 1, heads: 2, mlp_ratio: 2, patch_size: 8, inherit: [1]}"
    task, context = student_example(tmp_path, "model.head=dinov2", f"model.head_options={options}")
    load_phase("prepare")(task, context)
    load_phase("train")(task, context)
    teacher = task.features.backbone.blocks[1].norm1.weight
    assert torch.equal(task.build_model().student.backbone.blocks[0].norm1.weight, teacher)
    restored, _, _ = restore(task, None, context, "evaluate")
    assert restored is task
    assert not torch.equal(task.build_model().student.backbone.blocks[0].norm1.weight, teacher)
