"""Settings that are written after a look at labels of boxes, in each format of boxes, with and without a profile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import main
from config import parse_settings
from tasks import kinds
from tasks.example import drawn_animals
from tests.tasks.detection_data import scattered, write_split
from utils.formats.coco.write import write_coco
from utils.formats.cvat.write import write_cvat
from utils.formats.fiftyone.write import write_fiftyone
from utils.formats.labelme.write import write_labelme
from utils.formats.read import read_boxes
from utils.formats.tables.write import write_tables
from utils.formats.voc.write import write_voc
from utils.formats.yolo.write import write_yolo

WRITERS: dict[str, Callable] = {
    "yolo": write_yolo,
    "coco": write_coco,
    "labelme": write_labelme,
    "voc": write_voc,
    "csv": write_tables,
    "cvat": write_cvat,
    "fiftyone": write_fiftyone,
}


def boxes(folder: Path, format: str) -> Path:
    """Six pictures with three boxes each, in a format."""
    pictures = {f"{number}.png": ((64, 96), scattered(3, (64, 96), number)) for number in range(6)}
    write_split(folder / "source", "all", pictures)
    WRITERS[format](read_boxes(folder / "source"), folder / "set")
    return folder / "set"


def drafted(target: Path, source: Path, *words: str) -> dict:
    assert main.main([str(target), "--new-config", str(source), *words]) == 0
    parse_settings(target.read_text(), (), kinds())
    return yaml.safe_load(target.read_text())


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("profile", [None, "none", "file"])
def test_boxes_in_each_format_are_drafted_for_detection(tmp_path, capsys, format, profile):
    source = boxes(tmp_path, format)
    path = tmp_path / "short.yml"
    path.write_text("train: {epochs: 3}\n")
    tree = drafted(tmp_path / "things.yml", source, *{None: [], "none": ["none"], "file": [str(path)]}[profile])
    said = capsys.readouterr().out
    assert f"data: labels for detection, read as {format}\n" in said
    assert "data: 6 pictures, 0 of them without an object; 18 objects of 2 classes: " in said
    assert tree["tasks"]["things"]["kind"] == "detection"
    settings = parse_settings((tmp_path / "things.yml").read_text(), (), kinds()).tasks["things"]
    assert settings.train.epochs == (3 if profile == "file" else 30)


@pytest.mark.parametrize("format", ["yolo", "coco", "csv"])
def test_the_label_file_itself_can_be_named(tmp_path, format):
    source = boxes(tmp_path, format)
    suffix = {"yolo": "yaml", "coco": "json", "csv": "csv"}[format]
    [file] = [path for path in source.rglob(f"*.{suffix}") if path.is_file()]
    assert drafted(tmp_path / "things.yml", file)["tasks"]["things"]["kind"] == "detection"


def test_a_profile_that_detection_does_not_have_is_refused_by_name(tmp_path, capsys):
    assert main.main([str(tmp_path / "a.yml"), "--new-config", str(boxes(tmp_path, "coco")), "small_data"]) == 2
    captured = capsys.readouterr()
    assert "profile: unknown name 'small_data'; kind detection has none" in captured.out + captured.err


def test_a_kind_can_be_chosen(tmp_path, capsys):
    source = boxes(tmp_path, "coco")
    assert drafted(tmp_path / "a.yml", source, "kind=detection")["tasks"]["a"]["kind"] == "detection"
    for kind, code, message in (
        ("segmentation", 3, "no masks or vectors: "),
        ("keypoints", 3, "no keypoints: "),
        ("boxes", 2, "kind: settings are drafted for keypoints, detection, segmentation, got 'boxes'"),
    ):
        assert main.main([str(tmp_path / f"{kind}.yml"), "--new-config", str(source), f"kind={kind}"]) == code
        captured = capsys.readouterr()
        assert message in captured.out + captured.err
        assert "no boxes" not in captured.out + captured.err


def test_keypoints_with_a_fault_are_not_taken_for_boxes(tmp_path, capsys):
    source = boxes(tmp_path, "yolo")
    file = source / "data.yaml"
    file.write_text(file.read_text() + "kpt_shape: [2, 3]\nkpt_names: [head]\n")
    assert main.main([str(tmp_path / "a.yml"), "--new-config", str(source)]) == 3
    captured = capsys.readouterr()
    assert "labels for detection" not in captured.out
    assert "kpt_names" in captured.out + captured.err


def test_keypoints_of_coco_with_a_fault_are_not_taken_for_boxes(tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.copytree(drawn_animals(), folder)
    for path in (folder / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        content["categories"][0]["keypoints"] *= 2  # each name twice
        path.write_text(json.dumps(content))
    assert main.main([str(tmp_path / "a.yml"), "--new-config", str(folder)]) == 3
    assert "labels for detection" not in capsys.readouterr().out
