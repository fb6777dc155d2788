"""A run with other settings than the last one gives what a fresh run gives with them."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tasks.phases import load_phase
from tests.settings.stage import own_task
from utils.errors import Interrupted
from utils.logging import VerbosityLogger
from utils.runtime.checkpoints import load_checkpoint

CHANGES = {
    "detection": ("detection.suppression=none", "detection.max_detections=3", "detection.min_score=0.001"),
    "keypoints": ("keypoints.min_score=0.0", "keypoints.nms_radius=12", "keypoints.thresholds=[3]"),
}
TRAINED = ("keypoints.loss.heatmap=mse", "keypoints.sigma=3.0", "keypoints.best_metric=AP")
ALL = ("prepare", "train", "evaluate", "inference")


def run(kind: str, folder: Path, *overrides: str, phases: tuple[str, ...] = ALL) -> list[str]:
    # with one epoch there is one checkpoint, whatever validation makes of it
    task, context = own_task(kind, folder, ("train.epochs=1", "evaluate.pictures=0", *overrides))
    context = replace(context, log=VerbosityLogger())
    return [load_phase(phase)(task, context).status for phase in phases]


def results(folder: Path) -> tuple[dict, dict[str, str]]:
    """The scores, and the files of the predictions without what tells of the training: overlays and doubts."""
    metrics = json.loads((folder / "run" / "evaluate_val" / "metrics.json").read_text())["metrics"]
    files = sorted((folder / "run" / "predictions").iterdir())
    texts = {path.name: path.read_text() for path in files if path.suffix != ".png"}
    return metrics, {name: re.sub(r'\n *"(score_doubt|checksum)": .*', "", text) for name, text in texts.items()}


@pytest.mark.parametrize("kind", sorted(CHANGES))
def test_scores_and_predictions_follow_the_settings(kind, tmp_path):
    before, fresh = tmp_path / "before", tmp_path / "fresh"
    run(kind, before)
    old = results(before)
    assert run(kind, before, *CHANGES[kind]) == ["up to date", "up to date", "done", "done"]
    run(kind, fresh, *CHANGES[kind])
    assert results(before)[0] == results(fresh)[0] != old[0]
    assert results(before)[1] == results(fresh)[1] != old[1]
    assert set(run(kind, before, *CHANGES[kind])) == {"up to date"}


@pytest.mark.parametrize("change", TRAINED)
def test_a_training_with_other_losses_targets_or_aims_is_another_one(change, tmp_path):
    phases = ("prepare", "train")
    assert run("keypoints", tmp_path, phases=phases) == ["done", "done"]
    assert run("keypoints", tmp_path, change, phases=phases) == ["up to date", "done"]
    assert run("keypoints", tmp_path, phases=phases) == ["up to date", "up to date"]
    assert run("keypoints", tmp_path, change, phases=phases) == ["up to date", "up to date"]


VALIDATED = {
    "detection": ("detection.min_score=0.0", "detection.min_score=1.0"),
    "keypoints": ("keypoints.min_score=0.0", "keypoints.min_score=1.0"),
}


@pytest.mark.parametrize("kind", sorted(VALIDATED))
def test_a_finished_training_says_that_its_best_was_chosen_with_other_settings(kind, tmp_path, capsys):
    first, then = VALIDATED[kind]
    run(kind, tmp_path, first, phases=("prepare", "train"))
    capsys.readouterr()
    assert run(kind, tmp_path, first, phases=("train",)) == ["up to date"]
    assert "chosen by validations" not in capsys.readouterr().out
    assert run(kind, tmp_path, then, phases=("train",)) == ["up to date"]
    said = capsys.readouterr().out
    assert f"chosen by validations with other settings ({kind}.min_score is 1.0, was 0.0)" in said
    assert "train under another paths.run_name" in said
    assert run(kind, tmp_path, then, f"paths.runs_root={tmp_path}/others", phases=("train",)) == ["up to date"]


@pytest.mark.parametrize("kind", sorted(VALIDATED))
def test_a_resumed_training_compares_scores_of_one_kind_of_validation(kind, tmp_path, capsys):
    """The first epoch scores with all predictions, the second with none: what is the best is told by one measure."""
    first, then = VALIDATED[kind]
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    task, context = own_task(kind, tmp_path, ("train.epochs=2", first))
    load_phase("prepare")(task, context)
    after_one = replace(context, stop_requested=lambda: signal.SIGTERM if best.exists() else None)
    with pytest.raises(Interrupted):
        load_phase("train")(task, after_one)
    before = load_checkpoint(best).description
    assert before["epoch"] == 1
    assert before["metrics"][task.primary] > 0
    capsys.readouterr()
    task, context = own_task(kind, tmp_path, ("train.epochs=2", then))
    result = load_phase("train")(task, replace(context, log=VerbosityLogger()))
    said = capsys.readouterr().out
    was = f"{before['metrics'][task.primary]:.4f}"
    assert f"of epoch 1, score {task.primary} 0.0000 with them, and {was} before" in said
    assert result.metrics[task.primary] == 0  # not the score of the other settings
    assert load_checkpoint(best).description["epoch"] == 2  # of equal scores at chance the later one


@pytest.mark.parametrize("kind", sorted(VALIDATED))
def test_the_best_checkpoint_says_the_score_that_it_has_with_changed_settings(kind, tmp_path):
    first, then = VALIDATED[kind]
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    task, context = own_task(kind, tmp_path, ("train.epochs=3", first, f"train.weights_dir={tmp_path / 'weights'}"))
    load_phase("prepare")(task, context)
    after_one = replace(context, stop_requested=lambda: signal.SIGTERM if best.exists() else None)
    with pytest.raises(Interrupted):
        load_phase("train")(task, after_one)
    before = load_checkpoint(best)
    task, context = own_task(kind, tmp_path, ("train.epochs=3", then, f"train.weights_dir={tmp_path / 'weights'}"))
    with pytest.raises(Interrupted):
        load_phase("train")(task, replace(context, stop_requested=lambda: signal.SIGTERM))
    (copy,) = (tmp_path / "weights").glob("*_best.safetensors")
    for after in map(load_checkpoint, (best, copy)):
        assert after.description["metrics"][task.primary] == 0 < before.description["metrics"][task.primary]
        assert after.description["epoch"] == before.description["epoch"] == 1
        assert after.tensors.keys() == before.tensors.keys()
        assert all(torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors)
