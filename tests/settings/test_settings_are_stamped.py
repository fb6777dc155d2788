"""A setting that changes what a phase makes also changes the stamp by which the phase knows what it has made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.phases.evaluate import evaluation_fingerprint
from tasks.phases.inference import fingerprint
from tasks.phases.training_state import training_fingerprint
from tests.settings import detection, looks
from tests.settings.shared import SHARED
from tests.settings.stage import task_of
from tests.settings.test_settings_act import PROBES, look


def trainings(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What a training is known by, and its records."""
    task, _ = task_of(kind, folder, overrides)
    task.setup()
    return training_fingerprint(task, [], []), task.source.cache_key()


def results(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What scores and predictions are known by."""
    task, _ = task_of(kind, folder, overrides)
    task.setup()
    scores = evaluation_fingerprint(task, None, task.settings.evaluate.split)
    if kind == "distill":
        return scores
    return scores, [fingerprint(task, item, None) for item in task.source.items("inference")]


STAMPS = {
    looks.learnt: trainings,
    looks.learnt_anew: trainings,
    looks.chosen_best: trainings,
    looks.trained_anew: trainings,
    looks.trained: trainings,
    looks.judged: results,
    detection.judged: results,
    looks.predicted: results,
    looks.scored: results,
    detection.scored: results,
}
KEPT = {  # whose other value makes no other weights, scores or predictions, or names other items or another checkpoint
    "train.weights_dir",
    "train.save_total_limit",
    "train.tensorboard",
    "train.tracking.project",
    "train.tracking.name",
    "train.tracking.space_id",
    "evaluate.inputs",
    "evaluate.labels",
    "evaluate.checkpoint",
    "evaluate.batch_size",
    "inference.inputs",
    "inference.input_tif",
    "inference.checkpoint",
    "inference.batch_size",
}
CASES = [
    (kind, leaf)
    for (kind, leaf), probe in PROBES.items()
    if probe and probe.look in STAMPS and not probe.refuses and leaf not in KEPT
    if leaf not in SHARED or not leaf.startswith("train.") or kind == "keypoints"  # every kind stamps them as one
]


@pytest.mark.parametrize(("kind", "leaf"), CASES)
def test_a_setting_that_acts_on_results_is_stamped(kind, leaf, tmp_path):
    probe = PROBES[kind, leaf]
    assert probe is not None
    probe = replace(probe, look=STAMPS[probe.look])
    usual, other = (
        look(probe, kind, tmp_path / name, *more) for name, more in (("a", ()), ("b", (f"{leaf}={probe.other}",)))
    )
    assert other != usual, "a run with the other value takes the results of the first"
