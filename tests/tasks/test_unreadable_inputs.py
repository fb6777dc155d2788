"""One input that cannot be read is reported, and the rest is predicted as without it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.phases import inference, prepare, train
from tests.tasks.test_predictions import PHOTOS, animals, photos
from utils.errors import DataError


def cut(path: Path, share: float) -> None:
    """Keep the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name.startswith("val_") and path.is_file()
    }


@pytest.mark.parametrize("make", [photos, animals])
def test_broken_pictures_of_a_set_are_reported_and_the_rest_is_predicted(make, tmp_path):
    task, context = make(tmp_path)
    prepare.run(task, context)
    train.run(task, context)
    assert inference.run(task, replace(context)).failures == ()
    expected = digests(context.folder / "predictions")
    pictures = sorted(tmp_path.rglob("val_*.png"))
    pictures = [path for path in pictures if path.parent.name in ("pictures", "val", "images")]
    assert len(pictures) == PHOTOS
    cut(pictures[2], 0.6)  # its header is whole
    pictures[5].write_bytes(b"no picture")
    broken = {pictures[index].stem for index in (2, 5)}
    for path in (context.folder / "predictions").iterdir():
        path.unlink()
    task = type(task)(task.name, task.settings)  # nothing is remembered
    result = inference.run(task, replace(context))
    assert (result.status, result.metrics["outputs"]) == ("done", PHOTOS - 2)
    assert sorted(name for name in broken for failure in result.failures if name in failure) == sorted(broken)
    found = digests(context.folder / "predictions")
    assert found == {name: value for name, value in expected.items() if not any(stem in name for stem in broken)}
    again = inference.run(task, replace(context))
    assert len(again.failures) == 2, "what is broken stays a failure"


def test_a_broken_video_does_not_stop_the_pictures(tmp_path):
    task, context = animals(tmp_path)
    prepare.run(task, context)
    train.run(task, context)
    pictures, video = sorted(tmp_path.rglob("val_*.png"))[:2], next(tmp_path.rglob("*.mp4"))
    broken = video.with_name("broken.mp4")
    broken.write_bytes(video.read_bytes())
    cut(broken, 0.5)
    inputs = [str(path) for path in (pictures[0], broken, pictures[1])]
    task, _ = animals(tmp_path, f"inference.inputs={inputs}")
    result = inference.run(task, context)
    assert result.metrics["outputs"] == 2
    assert len(result.failures) == 1
    assert "broken.mp4" in result.failures[0]
    written = {path.name for path in (context.folder / "predictions").iterdir()}
    assert {f"{path.stem}.json" for path in pictures} <= written
    assert "broken.json" not in written
    task, _ = animals(tmp_path, f"inference.inputs={broken}")
    with pytest.raises(DataError, match=r"broken\.mp4"):
        inference.run(task, context)
