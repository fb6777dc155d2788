"""Classes and keypoints that the training split lacks are told when it is prepared, trained on and scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.detection.example import foxes_example
from tasks.example import drawn_animals, example_task
from tasks.keypoints.example import animals_example
from tasks.phases import load_phase
from tests.tasks.example_runs import SMALL, spoken
from utils.runtime.files import read_json


def change_labels(folder: Path, split: str, change) -> None:
    path = folder / "animals" / "annotations" / f"{split}.json"
    labels = json.loads(path.read_text())
    change(labels)
    path.write_text(json.dumps(labels))


def one_deer(labels: dict) -> None:
    labels["categories"].append({**labels["categories"][0], "id": 99, "name": "deer"})
    labels["annotations"][0]["category_id"] = 99


def no_first_keypoint(labels: dict) -> None:
    for animal in labels["annotations"]:
        animal["keypoints"][:3] = [0, 0, 0]


def make(kind: str, folder: Path) -> tuple:
    if kind == "segmentation":
        return example_task(folder, *SMALL, "dataset.classes=[dark, light, grey]")
    example = {"detection": foxes_example, "keypoints": animals_example}[kind]
    there = (folder / "animals").exists()
    made = example(folder)
    if not there:
        change = {"detection": ("val", one_deer), "keypoints": ("train", no_first_keypoint)}[kind]
        change_labels(folder, *change)
    return made


def first_keypoint() -> str:
    labels = json.loads((drawn_animals() / "annotations" / "train.json").read_text())
    return labels["categories"][0]["keypoints"][0]


LACKING = {
    "segmentation": ("pixels", "class", lambda: "grey"),
    "detection": ("boxes", "class", lambda: "deer"),
    "keypoints": ("points", "keypoint", first_keypoint),
}


@pytest.mark.parametrize("kind", sorted(LACKING))
def test_what_training_lacks_is_told_by_each_phase(kind, tmp_path):
    unit, each, name = LACKING[kind]
    said = f"the training split has no {unit} of {name()}, which cannot be learnt; label some there"
    context, log = spoken(tmp_path)
    task, _ = make(kind, tmp_path)
    for phase, status in (("prepare", "done"), ("prepare", "up to date"), ("train", "done")):
        log.write_text("")
        assert load_phase(phase)(task, context).status == status
        assert f"[WARNING] {phase}: {said}" in log.read_text()
    task.settings = task.settings.model_copy(
        update={"evaluate": task.settings.evaluate.model_copy(update={"split": "train", "pictures": 0})}
    )
    assert said in load_phase("evaluate")(task, context).doubt
    code = f"no_training_{unit}_of_a_{each}"
    for found in (context.folder / "train.json", context.folder / "evaluate_train" / "metrics.json"):
        assert code in [reason["code"] for reason in read_json(found, {}, checksum=True)["belief"]["reasons"]]


@pytest.mark.parametrize("example", [example_task, foxes_example, animals_example])
def test_a_split_that_has_all_says_nothing(example, tmp_path):
    context, log = spoken(tmp_path)
    task, _ = example(tmp_path)
    load_phase("prepare")(task, context)
    assert "cannot be learnt" not in log.read_text()
