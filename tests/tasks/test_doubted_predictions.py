"""Predictions of a checkpoint whose best score cannot be believed say so, in the log and in every overlay."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio

import main
from tasks.belief import doubts_of_checkpoint
from tasks.context import PhaseResult
from tasks.phases import load_phase
from tests.settings.stage import model_of, task_of
from utils.logging import VerbosityLogger
from utils.media.videos import VideoReader, VideoWriter
from utils.raster.tiling import Window
from utils.raster.writer import ClassRasterWriter
from utils.report.caption import captioned
from utils.report.plots import overlay_legend
from utils.runtime.checkpoints import load_checkpoint

KINDS = ("detection", "keypoints", "segmentation")


def photo(path: Path) -> Path:
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (96, 240, 3)).astype(np.uint8))
    return path


def predict(kind: str, folder: Path, source: Path, *overrides: str) -> tuple[str, str, PhaseResult]:
    """What the log and the caption have to say of the checkpoint, after inference from it, and its result."""
    model = model_of(kind)
    checkpoint = load_checkpoint(model)
    where = (f"inference.checkpoint={model}", f"inference.inputs={source}", f"inference.output_dir={folder}/out")
    task, context = task_of(kind, folder, ("inference.enable=true", *where, *overrides))
    result = load_phase("inference")(task, context)
    return *doubts_of_checkpoint(task.primary, checkpoint.description), result


def caption_below(text: str, width: int) -> np.ndarray:
    with captioned(text):
        sheet = overlay_legend([], width)
    return sheet[len(overlay_legend([], width)) :]


@pytest.mark.parametrize("kind", KINDS)
def test_an_overlay_says_below_the_picture_that_its_model_cannot_be_believed(kind, tmp_path):
    _, text, _ = predict(kind, tmp_path, photo(tmp_path / "new.png"))
    assert "cannot be believed: " in text, "a few steps of training"
    assert " nan " not in text, "a score of 0 is one"
    [overlay] = (tmp_path / "out").glob("*_overlay.png")
    drawn = cv2.imread(str(overlay))[..., ::-1]
    expected = caption_below(text, 240)
    assert expected.size
    assert expected.min() < 100, "there is text"
    assert np.array_equal(drawn[-len(expected) :], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_of_inference_says_it_once(kind, tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(VerbosityLogger, "warning", lambda self, line: told.append(line))
    doubt, _, _ = predict(kind, tmp_path, photo(tmp_path / "new.png"))
    assert [line for line in told if "believed" in line] == [f"inference: of the checkpoint: {doubt}"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_results_themselves_say_it(kind, tmp_path):
    _, text, _ = predict(kind, tmp_path, photo(tmp_path / "new.png"))
    if kind == "segmentation":
        with rasterio.open(tmp_path / "out" / "new_classes.tif") as raster:
            assert raster.tags()["SCORE_DOUBT"] == text
    else:
        assert json.loads((tmp_path / "out" / "new.json").read_text())["score_doubt"] == text
    assert "cannot be believed: " in text


def test_a_map_of_a_model_that_can_be_believed_has_no_such_tag(tmp_path):
    writer = ClassRasterWriter(tmp_path / "a.tif", height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
    writer.append(Window(0, 0, 1, 1), np.zeros((1, 1), np.uint8))
    with captioned(""), rasterio.open(writer.close()[0]) as raster:
        assert "SCORE_DOUBT" not in raster.tags()


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_of_inference_alone_carries_it_to_the_closing_lines(kind, tmp_path):
    source, told = photo(tmp_path / "new.png"), []
    where = (f"inference.checkpoint={model_of(kind)}", f"inference.inputs={source}")
    for _ in range(2):  # made, and up to date
        task, context = task_of(kind, tmp_path, ("inference.enable=true", *where))
        told.append(load_phase("inference")(task, context))
    assert [result.status for result in told] == ["done", "up to date"]
    for result in told:
        outcome = main.Outcome()
        outcome.add("new", "inference", result.status, 1.0, result.metrics, result.doubt)
        assert outcome.doubts["new"].startswith("of the checkpoint: ")
        assert "cannot be believed" in outcome.doubts["new"]


def test_an_overlay_video_says_it_below_every_frame(tmp_path):
    with VideoWriter(tmp_path / "new.avi", (96, 240), 10.0) as video:
        for shade in (40, 80):
            video.write(np.full((96, 240, 3), shade, np.uint8))
    _, text, _ = predict("keypoints", tmp_path, tmp_path / "new.avi", "keypoints.formats=[video]")
    [overlay] = [path for path in (tmp_path / "out").iterdir() if path.suffix in (".mp4", ".avi", ".webm")]
    expected = caption_below(text, 240)
    frames = list(VideoReader(overlay).frames())
    assert len(frames) == 2
    for frame in frames:
        assert np.abs(frame[-len(expected) :].astype(int) - expected).mean() < 12, "but for the loss of the codec"


@pytest.mark.parametrize("kind", ["detection", "keypoints"])
def test_frames_missing_inside_a_video_are_told_once_in_each_run_and_in_its_results(
    kind, tmp_path, monkeypatch, caplog
):
    path, told = tmp_path / "new.avi", []
    with VideoWriter(path, (96, 240), 10.0) as video:
        for shade in range(40, 240, 20):
            video.write(np.full((96, 240, 3), shade, np.uint8))
    data = path.read_bytes()
    where = [place for place in range(data.index(b"movi"), len(data)) if data[place : place + 4] == b"00dc"]
    third, fourth = where[2:4]  # the index of the file, which no longer fits, is set aside by name
    empty = data[:third] + b"00dc" + bytes(4) + b"JUNK" + (fourth - third - 16).to_bytes(4, "little")
    path.write_bytes((empty + data[third + 16 :]).replace(b"idx1", b"JUNK"))
    monkeypatch.setattr(VerbosityLogger, "warning", lambda self, line: told.append(line))
    fault = "by the times of its frames, 1 frame is missing inside: 1 before frame 2; frames are numbered as they are"
    for run in ("first", "second"):
        caplog.clear()
        told.clear()
        result = predict(kind, tmp_path, path, f"{kind}.formats=[csv, video]")[2]
        assert [line.startswith(f"new: {fault}") for line in result.faults] == [True], "for the closing lines"
        lines = [line for line in caplog.messages + told if "missing inside" in line]
        assert len(lines) == 1, run
        assert fault in lines[0]
    [written] = json.loads((tmp_path / "out" / "new.json").read_text())["faults"]
    assert written.startswith(fault)


def test_a_model_that_can_be_believed_adds_nothing():
    belief = {"believable": True, "reasons": [], "baselines": {}}
    description = {"training": {"belief": belief}, "metrics": {"mIoU": 0.75}}
    assert doubts_of_checkpoint("mIoU", description) == ("", "")
    assert len(overlay_legend([], 200)) == 22
