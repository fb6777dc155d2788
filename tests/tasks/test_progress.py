"""Long phases say how far they are, how fast and when they end, without a terminal too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import utils.logging
from tasks import example
from tasks.context import Context
from tasks.distill import example as students
from tasks.keypoints import example as animals
from tasks.phases import evaluate, inference, prepare, train, verify
from utils.logging import VerbosityLogger

EXAMPLES = {
    "segmentation": example.example_task,
    "keypoints": animals.animals_example,
    "distill": students.student_example,
}
LINE = r"\[INFO\] {name}[^:]*: \d+/\d+ \(\d+%\), [\d.]+ per s, .+ left, ends about \d\d:\d\d"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_prepare_verify_evaluate_and_inference_tell_a_rate_and_an_end(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(utils.logging, "FIRST_S", 0.0)  # as if ten seconds had passed
    task, _ = EXAMPLES[kind](tmp_path)
    context = Context(VerbosityLogger("info"), Path(tmp_path) / "run" / "1")
    phases = {
        prepare: "prepare",
        verify: "records verified",
        train: "windows predicted and scored",
        evaluate: "windows predicted and scored",
        inference: "inference",
    }
    for phase, name in phases.items():
        if phase is inference and "inference" not in task.phases:
            continue
        phase.run(task, context)
        said = capsys.readouterr().out
        assert re.search(LINE.format(name=name), said), (name, said)


NUMBER = r"\d\.\d\de[+-]\d\d"
RATES = {"muon": f"muon {NUMBER}, adamw {NUMBER}", "adamw": f"adamw {NUMBER}"}


@pytest.mark.parametrize("optimizer", sorted(RATES))
def test_the_log_of_a_training_names_the_rate_of_each_optimizer(optimizer, tmp_path, capsys):
    training = example.training_example(tmp_path, f"train.optimizer={optimizer}")
    training.context = Context(VerbosityLogger("info"), training.context.folder)
    training.train_one_epoch()
    [line] = [line for line in capsys.readouterr().out.splitlines() if "  eta " in line]
    assert re.search(rf"  lr {RATES[optimizer]}  eta ", line), line
