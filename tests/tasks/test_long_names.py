"""An input whose name is too long for the files of its result is reported, and the rest is predicted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tasks.detection.example import foxes_example
from tasks.keypoints.example import animals_example
from tasks.phases import inference, prepare, train
from tests.tasks.example_runs import spoken
from tests.tasks.test_predictions import photos
from utils.runtime.files import atomic_path

ALL = {  # every file that the kind writes, and how much longer than the input's stem the longest of their names is
    photos: (
        ("inference.confidence=true", "inference.polygons.enable=true"),
        len("_classes_confidence.tif.msk.ovr.tmp"),
    ),
    animals_example: (["keypoints.formats=[labelme, coco, csv, json, video]"], len(".labelme.json")),
    foxes_example: (["detection.formats=[labelme, coco, csv, yolo, voc, gpkg, video]"], len(".labelme.json")),
}


@pytest.mark.parametrize("make", ALL)
def test_one_name_that_is_too_long_is_reported_and_the_rest_is_predicted(make, tmp_path):
    options, longer = ALL[make]
    task, context = make(tmp_path, "train.epochs=1")
    prepare.run(task, context)
    train.run(task, context)
    picture = sorted(path for path in tmp_path.rglob("*.png") if "val" in str(path) and "labels" not in path.parts)[0]
    inputs = tmp_path / "new"
    inputs.mkdir()
    most = os.pathconf(tmp_path, "PC_NAME_MAX") - longer
    names = {length: "é" + "a" * (length - 2) for length in (most, most + 1, 244)}  # bytes count, not letters
    for stem in ("short", ".hidden", "._short", *names.values()):
        shutil.copy(picture, inputs / f"{stem}.png")
    context, log = spoken(tmp_path)
    task, _ = make(tmp_path, "train.epochs=1", f"inference.inputs={inputs}", *options)
    result = inference.run(task, context)
    assert result.metrics["outputs"] == 2
    assert len(result.failures) == 2
    (line,) = [line for line in log.read_text().splitlines() if "begin with a dot" in line]
    assert "1 pictures or videos whose names begin with a dot are left out" in line
    for length in (most + 1, 244):
        (failure,) = [text for text in result.failures if f"/{names[length]}.png: " in text]
        assert "and the disk takes 255; give it a shorter name" in failure
    written = [path.name for path in (context.folder / "predictions").iterdir()]
    assert not [name for name in written if "partial" in name or ".part" in name or name.startswith(".")]
    assert sum(name.startswith(names[most] + ".") or name.startswith(names[most] + "_") for name in written) >= 2
    assert not [name for name in written if name.startswith((names[most + 1], names[244]))]


def test_a_temporary_folder_for_a_long_name_of_wide_letters_can_be_made(tmp_path):
    path = Path(tmp_path, "\N{GREEK SMALL LETTER PI}" * 125 + ".json")  # 255 bytes
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
