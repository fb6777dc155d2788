"""The house is for any task: three tasks that no phase knows pass every phase that they declare, through main.py.

A stateful one on pairs of frames, which skips frames; one without training and model; and one whose targets are stored
maps of a producer that is not the backbone, and whose model has no backbone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import main
from config import load_settings
from tasks import TASKS, kinds
from tasks.context import Context
from tasks.phases import evaluate, inference
from tasks.phases.prediction import predict
from tasks.phases.samples import Job, LiveSamples, StoredSamples
from tasks.phases.step import WeightedLoss, count_targets
from tasks.prepared import PreparedReader, prepared_items
from tasks.sample import Batch, Progress
from tasks.stores import open_store
from tasks.task import Task
from tests.kinds.count import CountSettings, CountTask, write_count_pictures
from tests.kinds.echo import EchoSettings, EchoTask, write_noise
from tests.kinds.motion import MotionSettings, MotionTask, write_video
from utils.data import SampleRef
from utils.errors import DataError, Interrupted
from utils.geometry.augment import IDENTITY
from utils.logging import VerbosityLogger
from utils.runtime.files import read_json, write_json

KINDS = {"motion": MotionTask, "count": CountTask, "echo": EchoTask}
SETTINGS = {"motion": MotionSettings, "count": CountSettings, "echo": EchoSettings}
TRAIN = {"epochs": 24, "batch_size": 2, "optimizer": "adamw", "adamw_lr": 0.05, "val_every": 12}


@pytest.fixture(autouse=True, scope="module")
def registry():
    """What a new task adds to the house: a line per kind."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, task in KINDS.items():
            module = task.__module__
            patch.setitem(TASKS, kind, (f"{module}:{SETTINGS[kind].__name__}", f"{module}:{task.__name__}"))
        yield


@pytest.fixture(scope="module")
def run_once(registry, tmp_path_factory):
    """Run all phases of a kind through main.py, once for all tests that only look at what came out."""
    done: dict[str, tuple[Path, dict[str, str]]] = {}

    def run(kind: str) -> tuple[Path, dict[str, str]]:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            assert main.main([str(write_config(kind, folder))]) == 0
            done[kind] = folder, statuses(folder)
        return done[kind]

    return run


def write_data(kind: str, folder: Path) -> str:
    if kind == "motion":
        for split, seeds in (("train", range(5)), ("val", range(5, 7))):
            for seed in seeds:
                write_video(folder / "data" / split / f"video_{seed}", seed)
        return str(folder / "data" / "val" / "video_6")
    write_noise(folder / "data") if kind == "echo" else write_count_pictures(folder / "data")
    return str(folder / "data" / "val" / "val_1.npy")


def write_config(kind: str, folder: Path, **sections: Any) -> Path:
    """Settings of a task with all its phases enabled."""
    shown = write_data(kind, folder)
    tree: dict[str, Any] = {
        "logging": {"level": "error"},
        "paths": {name: str(folder / name) for name in ("processed_dir", "runs_root", "splits_dir")}
        | {"raw_images_dir": str(folder / "data")},
        "train": TRAIN,
        "inference": {"inputs": shown},
        "tasks": {kind: {"kind": kind}},
    }
    for phase in KINDS[kind].phases:
        tree[phase] = tree.get(phase, {}) | {"enable": True}
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(tree | sections))
    return path


def statuses(folder: Path) -> dict[str, str]:
    phases = read_json(folder / "runs_root" / "status.json")["phases"]
    return {row["phase"].partition(".")[2]: row["status"] for row in phases}


def build(kind: str, config: Path) -> tuple[Task, Context]:
    settings = load_settings(config, (), kinds()).tasks[kind]
    folder = Path(settings.paths.runs_root) / kind / "latest"
    return KINDS[kind](kind, settings), Context(VerbosityLogger("error"), folder)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_task_passes_every_phase_it_declares_and_a_rerun_does_nothing(kind, run_once):
    folder, first = run_once(kind)
    assert first == dict.fromkeys(KINDS[kind].phases, "done")
    scores = read_json(folder / "runs_root" / kind / "latest" / "evaluate_val" / "metrics.json")["metrics"]
    assert scores["R2"] > 0.98, "it has learned (or counts) what it should"
    assert main.main([str(folder / "config.yml")]) == 0
    never_out_of_date = {"verify": "done", "export": "done"}
    assert statuses(folder) == {phase: never_out_of_date.get(phase, "up to date") for phase in KINDS[kind].phases}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_evaluate_gives_the_same_from_the_store_and_from_the_pictures(kind, run_once, tmp_path):
    folder, _ = run_once(kind)
    task, context = build(kind, folder / "config.yml")
    stored = read_json(context.folder / "evaluate_val" / "metrics.json")
    live_settings = load_settings(folder / "config.yml", [f"paths.processed_dir={tmp_path}"], kinds())
    live = KINDS[kind](kind, live_settings.tasks[kind])
    (context.folder / "evaluate_val" / "metrics.json").unlink()
    assert evaluate.stored_or_live(task, "val")[1] is not None
    assert evaluate.stored_or_live(live, "val")[1] is None
    assert evaluate.run(live, context).status == "done"
    scores = read_json(context.folder / "evaluate_val" / "metrics.json")["metrics"]
    assert scores == pytest.approx(stored["metrics"], rel=1e-5)


def test_the_stateful_predictor_skips_frames_in_every_phase(run_once):
    """Of four pairs two rest, and the second of those is bridged."""
    folder, _ = run_once("motion")
    task, context = build("motion", folder / "config.yml")
    scores = read_json(context.folder / "evaluate_val" / "metrics.json")["metrics"]
    assert scores["bridged"] == 0.25
    lines = read_json(context.folder / "predictions" / "video_6.json")
    truth = task.shifts(task.source.items("inference")[0])
    assert [line["frame"] for line in lines if line["bridged"]] == [3, 7, 11]
    assert np.abs(np.array([line["shift"] for line in lines]) - truth).max() < 1


def test_what_a_predictor_bridges_never_reaches_the_model(tmp_path):
    config = write_config("motion", tmp_path)
    assert main.main([str(config), "--only", "motion.prepare"]) == 0
    task, _ = build("motion", config)
    store = open_store(task.settings, "train")
    prepared = prepared_items(task, store, "val", "test")[:1]
    groups, context = [[prepared[0].item]], Context(VerbosityLogger("error"), tmp_path)
    for source in (StoredSamples(task, store, prepared), LiveSamples(task, [IDENTITY])):
        seen = []

        def rest(batch: Batch, seen: list[int] = seen) -> dict[str, Tensor]:
            seen.append(len(batch))
            return {"shift": torch.zeros(len(batch), 2)}

        given = [piece for _, piece in predict(task, rest, source, groups, "cpu", 8, context) if piece is not None]
        assert [piece.arrays["bridged"] for piece in given] == [False, True] * 6
        assert seen == [1] * 6, f"{type(source).__name__}: everything seems to rest, so every second pair is bridged"


def test_an_interrupted_video_goes_on_where_the_memory_is_empty(run_once, tmp_path):
    folder, _ = run_once("motion")
    settings = load_settings(folder / "config.yml", [f"inference.output_dir={tmp_path}"], kinds())
    task, context = MotionTask("motion", settings.tasks["motion"]), build("motion", folder / "config.yml")[1]
    asked, again = [], []

    def check_stop():
        asked.append(None)
        if len(asked) == 9:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        inference.run(task, replace(context, check_stop=check_stop))
    assert not (tmp_path / "video_6.json").exists(), "complete or absent"
    inference.run(task, replace(context, check_stop=lambda: again.append(None)))
    assert len(again) == 12 - 6, "pair 7 was bridged, pair 6 was the last that the model saw"
    assert read_json(tmp_path / "video_6.json") == read_json(context.folder / "predictions" / "video_6.json")


def test_stored_views_turn_vectors_as_the_task_says(tmp_path):
    config = write_config("motion", tmp_path)
    assert main.main([str(config), "--only", "motion.prepare"]) == 0
    task, _ = build("motion", config)
    store = open_store(task.settings, "train")
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    plain, mixed = (reader.read([SampleRef(0), SampleRef(1, view)], Progress()) for view in ("identity", "hflip"))
    assert torch.equal(plain.arrays["before"][0], mixed.arrays["before"][0])
    assert torch.equal(plain.arrays["before"][1].flip(-1), mixed.arrays["before"][1])
    factors = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    assert torch.equal(plain.target["shift"] * factors, mixed.target["shift"])
    assert (plain.target["shift"] != 0).all(), "this data would not show a sign"


def test_a_video_stays_together(tmp_path):
    task, _ = build("motion", write_config("motion", tmp_path))
    groups = task.source.partition(task.source.items("train"))
    assert [[item.id for item in group] for group in groups] == [[f"video_{seed}"] for seed in range(5)]
    assert all(len(group[0].sources) == 14 for group in groups), "13 frames and their labels"


def test_a_rank_without_work_gets_a_batch_of_nested_targets_without_rows(tmp_path):
    config = write_config("motion", tmp_path)
    assert main.main([str(config), "--only", "motion.prepare"]) == 0
    task, _ = build("motion", config)
    store = open_store(task.settings, "train")
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    batch = reader.read([], Progress()).to("cpu")
    model = task.build_model()
    divisors, _ = count_targets(task, [batch], torch.device("cpu"))
    loss, _, _ = WeightedLoss(model, task)(batch, Progress(), divisors)
    loss.backward()
    assert loss.item() == 0
    assert divisors.counts["loss"] == 0
    assert model.read.weight.grad.abs().max() == 0


def test_a_task_without_training_needs_no_checkpoint_and_refuses_training(tmp_path, capsys):
    config = write_config("count", tmp_path)
    task, context = build("count", config)
    assert evaluate.restore(task, None, context, "evaluate") == (task, None, None)
    assert main.main([str(config), "train.enable=true"]) == 2
    expected = (
        "count.train: a task of kind count has no phase train; it has prepare, verify, evaluate, inference, export"
    )
    assert expected in capsys.readouterr().err
    assert main.main([str(config), "--only", "count.evaluate"]) == 0, "evaluate needs no prepare"


def test_a_batched_predictor_can_refuse_samples(tmp_path):
    task, _ = build("count", write_config("count", tmp_path))
    source = LiveSamples(task, [IDENTITY])
    seen = [
        (slot.sample.id, slot.wanted)
        for item in task.source.items("val")[:2]
        for slot in source.read(Job(item, task.predictor()))
    ]
    assert seen == [("val_0", False), ("val_1", True)], "the black picture is pushed, and not computed"


def test_a_finding_of_the_audit_ends_the_run(tmp_path, capsys):
    config = write_config("count", tmp_path)
    write_json(tmp_path / "data" / "counts.json", read_json(tmp_path / "data" / "counts.json") | {"val_2": 999})
    assert main.main([str(config)]) == 3
    assert "verify: 1 findings in labels or pictures" in capsys.readouterr().err
    assert statuses(tmp_path) == {"prepare": "done", "verify": "failed"}


def test_a_teachers_maps_are_those_of_the_view_and_are_made_once(tmp_path):
    config = write_config("echo", tmp_path)
    assert main.main([str(config), "--only", "echo.prepare"]) == 0
    task, _ = build("echo", config)
    store = open_store(task.settings, "train")
    producers = [store.metadata(key).get("producer") for key in store.keys()]  # noqa: SIM118 - not a dictionary
    assert producers.count("teacher") == 6 * 2 + 2
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    plain, turned = reader.read([SampleRef(2)], Progress()), reader.read([SampleRef(2, "hflip")], Progress())
    [taught] = task.teach([np.load(task.source.items("train")[2].sources[0])[:, ::-1].copy()])
    assert torch.allclose(turned.target[0], taught["maps"], atol=1e-6)
    assert not torch.allclose(turned.target, plain.target.flip(-1), atol=0.1), "maps are never flipped"


def test_online_pictures_meet_the_maps_of_their_view(tmp_path):
    config = write_config("echo", tmp_path)
    assert main.main([str(config), "--only", "echo.prepare"]) == 0
    settings = load_settings(config, ["train.features=online"], kinds()).tasks["echo"]
    task, cached = EchoTask("echo", settings), build("echo", config)[0]
    store = open_store(settings, "train")
    refs = [SampleRef(0, "hflip"), SampleRef(1)]
    online = PreparedReader(task, store, prepared_items(task, store, "train", "test")).read(refs, Progress())
    stored = PreparedReader(cached, store, prepared_items(task, store, "train", "test")).read(refs, Progress())
    assert torch.equal(online.arrays["image"], stored.arrays["image"])
    assert torch.equal(online.target, stored.target)


def test_a_checkpoint_of_another_kind_is_refused(run_once):
    folder, _ = run_once("echo")
    echo, context = build("echo", folder / "config.yml")
    motion = MotionTask("motion", echo.settings)
    with pytest.raises(DataError, match="a checkpoint of 'echo', not of 'motion'"):
        evaluate.restore(motion, None, context, "evaluate")
