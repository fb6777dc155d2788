"""Calls that need no settings file: what they leave in the working directory, and what their last lines name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from main import main
from tests.settings.stage import model_of, prepared
from utils.runtime.files import read_json

LABELS = {"segmentation": "labels", "keypoints": "animals/annotations", "detection": "animals/annotations"}


def files_of(kind: str) -> tuple[Path, Path]:
    """Pictures of a kind, and their labels."""
    folder = prepared(kind)
    return folder / ("pictures" if kind == "segmentation" else "animals/images"), folder / LABELS[kind]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DINOV3SEG_CONFIG", raising=False)
    return tmp_path


def one_line(capsys, kind: str, *arguments: str) -> list[str]:
    phase = arguments[0].partition(".")[0]
    shutil.copy(model_of(kind), "best.safetensors")
    settings = [f"kind={kind}", f"{phase}.checkpoint=best.safetensors", "resources.device=cpu"]
    assert main([*settings, *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("kind", sorted(LABELS))
def test_an_evaluation_leaves_its_results_alone_and_names_their_folder_last(kind, here, capsys):
    pictures, labels = files_of(kind)
    said = one_line(capsys, kind, "evaluate.enable=true", f"evaluate.inputs={pictures}", f"evaluate.labels={labels}")
    assert sorted(path.name for path in here.iterdir()) == ["best.safetensors", "runs"]
    run = (here / "runs" / kind / "latest").resolve()
    assert said[-1] == f"[INFO] {kind}: results: {run} (evaluate_inputs/metrics.json)"
    assert read_json(here / "runs" / "status.json")["results"][kind]["metrics"] == f"{run}/evaluate_inputs/metrics.json"


def test_a_second_evaluation_says_what_it_replaces_and_whose_scores_lie_there(here, capsys):
    pictures, labels = files_of("segmentation")
    named = ["evaluate.enable=true", f"evaluate.inputs={pictures}", f"evaluate.labels={labels}"]
    one_line(capsys, "segmentation", *named)
    Path("best.safetensors").rename("other.safetensors")
    changed = ["evaluate.checkpoint=other.safetensors", "evaluate.tta.horizontal_flip=true"]
    assert main(["kind=segmentation", "resources.device=cpu", *named, *changed]) == 0
    run = here / "runs" / "segmentation" / "latest"
    replaced = "evaluate_inputs of best.safetensors are replaced by those of other.safetensors"
    assert replaced in capsys.readouterr().out
    assert read_json(run / "evaluate_inputs" / "metrics.json")["checkpoint"] == "other.safetensors"
    assert read_json(run / "config.json")["evaluate"]["checkpoint"] == "other.safetensors"


@pytest.mark.parametrize("kind", sorted(LABELS))
def test_predictions_outside_the_run_are_named_too(kind, here, capsys):
    picture = next(path for path in sorted(files_of(kind)[0].iterdir()) if path.suffix in (".png", ".jpg", ".tif"))
    said = one_line(capsys, kind, "inference.enable=true", f"inference.inputs={picture}", "inference.output_dir=out")
    assert sorted(path.name for path in here.iterdir()) == ["best.safetensors", "out", "runs"]
    run = (here / "runs" / kind / "latest").resolve()
    assert said[-2:] == [f"[INFO] {kind}: results: {run}", f"[INFO] {kind}: predictions: {here.resolve()}/out"]


def test_a_store_that_is_there_keeps_what_is_found_out(here, capsys):
    pictures, labels = files_of("segmentation")
    shutil.copytree(prepared("segmentation") / "store", "processed")
    before = set((here / "processed" / "manifests").iterdir())
    one_line(capsys, "segmentation", "evaluate.enable=true", f"evaluate.inputs={pictures}", f"evaluate.labels={labels}")
    assert set((here / "processed" / "manifests").iterdir()) > before
