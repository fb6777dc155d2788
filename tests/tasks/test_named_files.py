"""Relative paths that are in the working directory, but not in `paths.data_root`, where they start."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from config import TaskConfig, parse_settings
from tasks import kinds
from tasks.named_files import check_named_files
from utils.errors import DataError

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
