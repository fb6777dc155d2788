"""A training is shown in trackio and TensorBoard as results.csv has it, and goes on whatever becomes of them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tasks.example import example_task
from tasks.phases import prepare, train
from tasks.runs import BEST, LAST
from tasks.segmentation.task import SegmentationTask
from tests.processes import Forks
from tests.tasks.example_runs import SMALL, equal, in_folder, rows_of, spoken, stopping_after, weights_of
from utils.errors import Interrupted, SettingsError
from utils.report import tracking

needs_trackio = pytest.mark.skipif(find_spec("trackio") is None, reason="needs trackio: pip install trackio")
needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs TensorBoard")

# trains the example; `stop` ends it in that step, `lose` after the row of that epoch and before its state is saved
SCRIPT = """
import os, socket, sys
from dataclasses import replace
from pathlib import Path
asked = []
def refuse(self, address, *rest):
    asked.append(str(address))
    raise OSError(f"no network here: {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *address, **named: refuse(None, address)
from models.backbones.random_backbone import write_random_backbone
from tasks.example import example_task
from tasks.phases import prepare, train
from tasks.phases.training_files import TrainingFiles
from utils.errors import Interrupted
folder, stop, lose, *overrides = sys.argv[1:]
backbone = Path(folder) / "backbone"  # in one place: a training on another one is another training
if not backbone.exists():
    write_random_backbone(backbone, family="dinov2", width=8, depth=2, heads=2, patch_size=4, seed=0)
overrides = [f"model.backbone={backbone}", "model.head=linear", "train.batch_size=4", *overrides]
task, context = example_task(folder, *overrides)
prepare.run(task, context)
steps = iter(range(1, 10**6))
if int(stop):
    context = replace(context, stop_requested=lambda: 15 if next(steps) > int(stop) else None)
real = TrainingFiles.save_state
def save(files):
    if files.state.epoch == int(lose):
        os._exit(9)
    real(files)
if int(lose):
    TrainingFiles.save_state = save
try:
    train.run(task, context)
except Interrupted:
    print("interrupted")
print("asked", asked)
print("imported", sorted({"trackio", "tensorboard", "torch.utils.tensorboard", "gradio_client"} & set(sys.modules)))
"""


@pytest.fixture
def trained(forks) -> Callable[..., list[str]]:
    """Trains the example in a process of its own, in which every connection is refused; gives the lines it prints."""
    return partial(train_in_a_process, forks)


def train_in_a_process(forks: Forks, folder: Path, *overrides: str, stop: int = 0, lose: int = 0) -> list[str]:
    environment = {"TRACKIO_DIR": f"{folder}/trackio", "HF_TOKEN": "hf_of_nobody", "TRACKIO_SPACE_ID": "me/elsewhere"}
    script = folder / "script.py"
    script.write_text(SCRIPT)
    process = forks.start(script, folder, stop, lose, *overrides, env=os.environ | environment)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == (9 if lose else 0), said
    return said.splitlines()


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "run" / "results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def asked_of_trackio(folder: Path, *words: str):
    """What the command of trackio answers, as JSON."""
    command = [sys.executable, "-m", "trackio.cli", *words, "--json"]
    environment = os.environ | {"TRACKIO_DIR": f"{folder}/trackio"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shown(folder: Path) -> dict[str, list[tuple[str, int, dict[str, float]]]]:
    """What trackio has in its file, by run: its name, and the numbers of each step."""
    with closing(sqlite3.connect(folder / "trackio" / "reef.db")) as base:
        found = base.execute("select run_id, run_name, step, metrics from metrics order by id").fetchall()
    runs: dict[str, list[tuple[str, int, dict[str, float]]]] = {}
    for run, name, step, numbers in found:
        runs.setdefault(run, []).append((name, step, json.loads(numbers)))
    return runs


def check_shown(folder: Path, name: str, epochs: int) -> None:
    """One run of this name has each epoch once, with every number of results.csv."""
    (steps,) = shown(folder).values()
    assert [(found, step) for found, step, _ in steps] == [(name, epoch) for epoch in range(1, epochs + 1)]
    for (_, _, numbers), row in zip(steps, rows(folder), strict=True):
        expected = {key: float(value) for key, value in row.items() if value and key != "epoch"}
        assert numbers == pytest.approx(expected, rel=1e-5)


def test_what_is_not_asked_for_is_not_imported(tmp_path, trained):
    assert trained(tmp_path) == ["asked []", "imported []"]


def test_losses_of_each_term_rates_and_scores_of_each_class_are_in_the_table(tmp_path):
    task, context = example_task(tmp_path, "model.head=linear", "train={epochs: 2, optimizer: muon}")
    prepare.run(task, context)
    train.run(task, context)
    weights = task.objective.weights()
    for row in rows_of(context):
        assert {"loss/ce", "loss/dice", "IoU/dark", "IoU/light", "Acc/light", "mIoU"} <= set(row)
        whole = sum(weights[name] * float(row[f"loss/{name}"]) for name in ("ce", "dice"))
        assert float(row["train_loss"]) == pytest.approx(whole, rel=1e-4)
        assert float(row["mIoU"]) == pytest.approx((float(row["IoU/dark"]) + float(row["IoU/light"])) / 2, rel=1e-4)


def test_terms_go_on_after_an_interruption_within_an_epoch(tmp_path):
    task, context = example_task(tmp_path, *SMALL, "train={epochs: 2, batch_size: 2}")
    prepare.run(task, context)
    whole, cut = in_folder(context, "whole"), in_folder(context, "cut")
    train.run(task, whole)
    with pytest.raises(Interrupted):
        train.run(SegmentationTask(task.name, task.settings), stopping_after(cut, 2))
    train.run(SegmentationTask(task.name, task.settings), cut)
    assert rows_of(whole) == rows_of(cut)


@pytest.mark.parametrize(
    ("setting", "package"), [("train.tensorboard=true", "tensorboard"), ("train.tracking.project=reef", "trackio")]
)
def test_a_missing_package_is_an_error_before_work_starts(setting, package, tmp_path, monkeypatch):
    task, _ = example_task(tmp_path, setting)
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=f"{setting.partition('=')[0]}: .*; pip install {package}, or set"):
        task.preflight(["prepare", "train"])
    task.preflight(["prepare"])


def test_a_run_or_space_without_project_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"train\.tracking\.name: has no effect without train\.tracking\.project"):
        example_task(tmp_path, "train.tracking.name=first")


@pytest.mark.parametrize("part", ["start", "log", "finish"])
def test_a_tracker_that_fails_does_not_end_the_training(part, tmp_path, monkeypatch):
    task, context = example_task(tmp_path, *SMALL, "train.epochs=2")
    prepare.run(task, context)
    whole = in_folder(context, "whole")
    train.run(task, whole)
    calls = []

    class Broken:
        def __init__(self, config, run):
            self.call("start")

        def call(self, name):
            calls.append(name)
            if name == part:
                raise OSError("disk quota exceeded")

        def log(self, row, epoch):
            self.call("log")

        def finish(self):
            self.call("finish")

    monkeypatch.setattr(tracking, "Trackio", Broken)
    tracked, _ = example_task(tmp_path, *SMALL, "train.epochs=2", "train.tracking.project=reef")
    speaking, log = spoken(tmp_path)
    assert train.run(tracked, in_folder(speaking, "tracked")).status == "done"
    said = [line for line in log.read_text().splitlines() if "tracking by trackio stops" in line]
    assert len(said) == 1
    assert "OSError: disk quota exceeded" in said[0]
    assert calls.count(part) == 1
    assert all(
        equal(weights_of(whole, name), weights_of(in_folder(speaking, "tracked"), name)) for name in (BEST, LAST)
    )


@needs_trackio
def test_trackio_shows_every_number_of_the_table_and_nothing_leaves_the_machine(tmp_path, trained):
    said = trained(tmp_path, "train={epochs: 3}", "train.tracking={project: reef, name: first}")
    assert "asked []" in said
    assert "imported ['gradio_client', 'trackio']" in said
    check_shown(tmp_path, "first", epochs=3)
    assert asked_of_trackio(tmp_path, "list", "runs", "--project", "reef")["runs"] == ["first"]
    run = ("--project", "reef", "--run", "first")
    values = asked_of_trackio(tmp_path, "get", "metric", *run, "--metric", "IoU/light")["values"]
    found = [(value["step"], value["value"]) for value in values]
    expected = [(int(row["epoch"]), pytest.approx(float(row["IoU/light"]), rel=1e-5)) for row in rows(tmp_path)]
    assert found == expected
    assert asked_of_trackio(tmp_path, "get", "run", *run)["config"]["train"]["epochs"] == 3


@needs_trackio
def test_an_interrupted_training_goes_on_in_its_run_of_trackio(tmp_path, trained):
    settings = ("train={epochs: 4}", "train.tracking.project=reef")
    assert "interrupted" in trained(tmp_path, *settings, stop=3)
    trained(tmp_path, *settings, lose=3)  # killed when the row of epoch 3 is written, and its state is not
    trained(tmp_path, *settings)
    check_shown(tmp_path, "segmentation-run", epochs=4)


@needs_trackio
def test_a_run_that_is_tracked_late_has_the_epochs_before_too(tmp_path, trained):
    assert "interrupted" in trained(tmp_path, "train={epochs: 3}", stop=5)
    trained(tmp_path, "train={epochs: 3}", "train.tracking={project: reef, name: late}")
    check_shown(tmp_path, "late", epochs=3)


@needs_trackio
def test_another_training_of_the_same_name_gets_a_run_of_its_own(tmp_path, trained):
    named = ("train={epochs: 2}", "train.tracking={project: reef, name: first}")
    trained(tmp_path, *named)
    shutil.move(tmp_path / "run", tmp_path / "before")
    trained(tmp_path, *named, "train.adamw_lr=0.02")
    runs = list(shown(tmp_path).values())
    assert [[(name, step) for name, step, _ in steps] for steps in runs] == [[("first", 1), ("first", 2)]] * 2
    assert runs[0][1][2]["train_loss"] != runs[1][1][2]["train_loss"]


@needs_tensorboard
def test_tensorboard_has_each_epoch_once_after_a_resumption(tmp_path, trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ("train={epochs: 4}", "train.tensorboard=true")
    assert "interrupted" in trained(tmp_path, *settings, stop=3)
    trained(tmp_path, *settings, lose=3)
    trained(tmp_path, *settings)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for column in ("train_loss", "IoU/light", "loss/ce"):
        found = {event.step: event.value for event in events.Scalars(column)}
        assert [event.step for event in events.Scalars(column)] == [1, 2, 3, 4]
        assert found == pytest.approx({int(row["epoch"]): float(row[column]) for row in rows(tmp_path)}, rel=1e-5)
    assert "settings/text_summary" in events.Tags()["tensors"]
