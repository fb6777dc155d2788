"""A run with other settings than the last one gives what a fresh run gives with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tasks.phases import load_phase
from tests.settings.stage import own_task

CHANGES = {
    "detection": ("detection.suppression=none", "detection.max_detections=3", "detection.min_score=0.001"),
    "keypoints": ("keypoints.min_score=0.0", "keypoints.nms_radius=12", "keypoints.thresholds=[3]"),
}
TRAINED = ("keypoints.loss.heatmap=mse", "keypoints.sigma=3.0", "keypoints.best_metric=AP")
ALL = ("prepare", "train", "evaluate", "inference")


def run(kind: str, folder: Path, *overrides: str, phases: tuple[str, ...] = ALL) -> list[str]:
    # with one epoch there is one checkpoint, whatever validation makes of it
    task, context = own_task(kind, folder, ("train.epochs=1", "evaluate.pictures=0", *overrides))
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
