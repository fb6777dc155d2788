"""Relative paths that are in the working directory, but not in `paths.data_root`, where they start."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from config import TaskConfig, parse_settings
from tasks import kinds
from tasks.named_files import check_named_files, refuse_files_for_folders
from utils.errors import DataError, SettingsError

NAMED = [  # kind, setting, its value, the phase that reads it
    ("segmentation", "paths.raw_images_dir", "new", "train"),
    ("segmentation", "paths.raw_images_dir", "[old, new]", "prepare"),
    ("distill", "paths.raw_images_dir", "'new/*.png'", "prepare"),
    ("detection", "paths.label_path", "new", "verify"),
    ("keypoints", "paths.label_path", "new", "evaluate"),
    ("keypoints", "keypoints.names_file", "new/a.png", "train"),
    ("keypoints", "keypoints.prompts", "new", "inference"),
    ("distill", "distill.stacks", "[[old, old, new/a.png]]", "prepare"),
    ("distill", "evaluate.inputs", "new", "evaluate"),
    ("segmentation", "evaluate.inputs", "new", "evaluate"),
    ("detection", "evaluate.labels", "new", "evaluate"),
    ("detection", "inference.inputs", "new/a.png", "inference"),
    ("segmentation", "inference.inputs", "[old, 'new/*.png']", "inference"),
]


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch) -> Path:
    """The working directory holds `new` and the data root holds `old`."""
    for name in ("here/new", "root/old"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "here/new/a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def check(kind: str, setting: str, value: str, phase: str, *more: str) -> None:
    other = {"evaluate.inputs": "labels", "evaluate.labels": "inputs"}.get(setting)  # are given together
    both = [f"evaluate.{other}=old"] if other and kind != "distill" else []
    both += ["keypoints.instance_mode=per_instance"] if setting == "keypoints.prompts" else []
    settings = parse_settings(f"kind: {kind}", [f"{setting}={value}", *both, "paths.data_root=../root", *more], kinds())
    check_named_files(kind, settings.tasks, [phase])


@pytest.mark.parametrize(("kind", "setting", "value", "phase"), NAMED)
def test_a_path_that_is_only_in_the_working_directory_is_told_with_what_to_write(kind, setting, value, phase, folders):
    entry = re.search(r"new[\w/.*]*", value).group()
    text = (
        f"{setting}: ../root/{entry}: no such file or folder: relative paths start in paths.data_root (../root), and "
        f"{entry} is in the working directory; write {folders}/here/{entry}, or change paths.data_root"
    )
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        check(kind, setting, value, phase)


@pytest.mark.parametrize(("kind", "setting", "value", "phase"), NAMED)
def test_a_path_that_is_in_the_data_root_wins_and_other_phases_do_not_ask(kind, setting, value, phase, folders):
    (folders / "root" / "new").symlink_to(folders / "here" / "new")
    told = ""
    try:
        check(kind, setting, value, phase)
    except DataError as error:  # of what else is wrong with empty folders
        told = str(error)
    assert "paths.data_root" not in told
    (folders / "root" / "new").unlink()
    if phase != "inference":
        check(kind, setting, value, "export" if kind == "distill" else "inference")


def test_every_setting_that_starts_in_the_data_root_is_tried():
    known = {
        setting for kind in ("detection", "distill", "keypoints", "segmentation") for setting in kinds()[kind].rooted
    }
    assert {setting for _, setting, _, _ in NAMED} == known


def test_an_absolute_path_is_not_looked_for_elsewhere():
    check_named_files("a", {"a": TaskConfig(evaluate={"inputs": os.path.abspath("new/a.png")})}, ["prepare"])


FOLDERS = [  # kind, setting, the phase that it is of
    ("segmentation", "paths.runs_root", "train"),
    ("keypoints", "paths.processed_dir", "prepare"),
    ("detection", "paths.splits_dir", "prepare"),
    ("detection", "paths.data_root", "train"),
    ("segmentation", "train.weights_dir", "train"),
    ("distill", "train.processed_dir", "train"),
    ("keypoints", "inference.output_dir", "inference"),
    ("distill", "export.output_dir", "export"),
    ("keypoints", "dataset.convert_to.folder", "prepare"),
    ("segmentation", "dataset.sample.folder", "prepare"),
]


@pytest.mark.parametrize(("kind", "setting", "phase"), FOLDERS)
@pytest.mark.parametrize("inside", ["", "/runs"])
def test_a_file_in_the_place_of_a_folder_is_refused_before_work(kind, setting, phase, inside, folders):
    more = {
        "dataset.convert_to.folder": "dataset.convert_to.format=coco",
        "dataset.sample.folder": "sample.enable=true",
    }
    section = [more[setting].replace("sample.", "dataset.sample.")] if setting in more else []
    overrides = [f"{setting}=new/a.png{inside}", *section]
    settings = parse_settings(f"kind: {kind}", overrides, kinds())
    with pytest.raises(SettingsError, match=f"^{setting}: {folders}/here/new/a.png: a file, expected a folder; name"):
        check_named_files(kind, settings.tasks, [phase])
    settings = parse_settings(f"kind: {kind}", [f"{setting}=new", *section], kinds())
    refuse_files_for_folders(settings.tasks[kind], [phase])


def test_a_file_in_the_folder_of_a_phase_that_does_not_run_is_no_fault(folders):
    settings = parse_settings("kind: keypoints", ["inference.output_dir=new/a.png"], kinds())
    refuse_files_for_folders(settings.tasks["keypoints"], ["train"])
