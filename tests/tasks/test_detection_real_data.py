"""Detection on real pictures: the settings under docs/configs run all phases as they are, but with a small backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import main
from tasks.example import tiny_backbone
from utils.runtime.files import read_json

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
PHOTOS, TREES = DATA / "photo_coco", DATA / "det_trees"
NAMES = PHOTOS / "object_detection" / "config.yaml"
FAST = ("detection.shortest_edge=96", "detection.longest_edge=160", "model.layers=[0,1]", "train.epochs=1")


@pytest.fixture
def people(tmp_path) -> Path:
    """The photos and their labels side by side, as YOLO's trainers want them."""
    if not PHOTOS.exists():
        pytest.skip(f"{PHOTOS} is not there")
    folder = tmp_path / "people"
    folder.mkdir()
    (folder / "images").symlink_to(PHOTOS / "images" / "train2017")
    (folder / "labels").symlink_to(PHOTOS / "object_detection" / "labels" / "train2017")
    names = yaml.safe_load(NAMES.read_text())["names"]
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": ".", "train": "images", "names": names}))
    return folder


def run(config: str, data: Path, tmp_path: Path, *more: str) -> Path:
    """Run a file of docs/configs with a small backbone; gives the run's folder."""
    paths = [f"paths.{name}={tmp_path}/{name}" for name in ("processed_dir", "runs_root", "splits_dir")]
    changes = [f"paths.data_root={data}", f"model.backbone={tiny_backbone()}", "logging.level=error", *paths]
    assert main.main([str(ROOT / "docs" / "configs" / config), *changes, *FAST, *more]) == 0
    return next(tmp_path.glob("runs_root/*/latest"))


def test_the_pilot_reads_the_people_of_photos_and_runs_all_phases(people, tmp_path):
    named = "inference.inputs=[images/000000000009.jpg, images/000000000025.jpg]"
    folder = run("det_pilot.yml", people, tmp_path, named)
    found = read_json(folder / "evaluate_val" / "metrics.json")
    assert found["pictures"] == 10
    assert list(found["metrics"]["classes"]) == ["person"]


def test_photos_without_a_label_file_show_nothing_and_the_plan_counts_people(people, tmp_path, capsys):
    text, changes = ROOT / "docs" / "configs" / "det_people.yml", [f"model.backbone={tiny_backbone()}", *FAST]
    assert main.main([str(text), f"paths.data_root={people}", *changes, "--check"]) == 0
    printed = capsys.readouterr().out
    names = [path.stem for path in (people / "images").iterdir()]
    files = [people / "labels" / f"{name}.txt" for name in names]
    rows = [path.read_text().splitlines() for path in files if path.exists()]
    numbers = [sum(row.split()[0] == "0" for row in of_picture if row.strip()) for of_picture in rows]
    assert f"{sum(numbers)} objects: at most {max(numbers)} in a picture" in printed
    assert "1 classes: person" in printed


def test_trees_of_three_names_are_one_class(tmp_path):
    if not TREES.exists():
        pytest.skip(f"{TREES} is not there")
    (tmp_path / "trees").mkdir()
    for xml in TREES.glob("*.xml"):  # two further pictures have none
        for path in (xml, xml.with_suffix(".png")):
            (tmp_path / "trees" / path.name).symlink_to(path)
    folder = run("det_trees.yml", tmp_path / "trees", tmp_path)
    scores = read_json(folder / "evaluate_val" / "metrics.json")["metrics"]
    assert list(scores["classes"]) == ["tree"]
