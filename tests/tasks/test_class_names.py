"""Names of classes in tasks: empty ones are refused, those that are alike are doubted, none is invented."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from config import load_settings
from tasks import kinds
from tasks.detection.example import fox_task
from tasks.example import scene_task
from tasks.keypoints.example import pose_task
from utils.errors import DataError, SettingsError


@pytest.mark.parametrize(
    ("kind", "entry", "message"),
    [
        ("detection", 'dataset.label_mapping={fox: ""}', "dataset.label_mapping: expected a name, got str ''"),
        ("detection", "dataset.classes=[fox, ' ']", "dataset.classes.1: expected a name, got str ' '"),
        (
            "segmentation",
            'dataset.label_mapping={1: ""}',
            "label_mapping.1: expected a name or int, got str ''",
        ),
        ("segmentation", "dataset.classes=[sea, ' ']", "dataset.classes.1: expected a name, got str ' '"),
        ("segmentation", 'dataset.label_colours={"": [1, 2, 3]}', "dataset.label_colours: expected a name, got str ''"),
    ],
)
def test_a_class_without_a_name_in_the_settings_is_refused(kind, entry, message, tmp_path):
    (tmp_path / "c.yml").write_text(f"kind: {kind}\n")
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings(tmp_path / "c.yml", [entry], kinds())


def test_classes_that_are_alike_are_doubted_and_joined_ones_are_not(tmp_path):
    shapes = [[4, 4, 60, 50], [70, 60, 120, 100]]
    for name in ("a", "b"):
        Image.new("RGB", (160, 120)).save(tmp_path / f"{name}.png")
        boxes = [
            {"label": label, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle"}
            for label, (x1, y1, x2, y2) in zip(("fox", "Fox "), shapes, strict=True)
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps({"shapes": boxes, "imagePath": f"{name}.png"}))
    named = (f"paths.data_root={tmp_path}", f"paths.label_path={tmp_path}")
    [finding] = fox_task(*named).labels.problems()
    assert str(finding).startswith("classes: 'fox', 'Fox' differ only by case or spaces")
    assert not finding.blocks
    assert not list(fox_task(*named, "dataset.label_mapping={Fox: fox}").labels.problems())


def test_labels_without_an_object_name_no_class(tmp_path):
    Image.new("RGB", (160, 120)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    for make_task in (fox_task, pose_task):
        task = make_task(f"paths.data_root={tmp_path}", f"paths.label_path={tmp_path}")
        with pytest.raises(DataError, match="the labels name no class, as no object is labelled"):
            task.labels.classes if make_task is fox_task else task.labels.skeleton  # noqa: B018


def test_classes_of_segmentation_that_are_alike_are_doubted():
    source = scene_task().source
    assert not [finding for finding in source.audit([]) if finding.where == "classes"]
    source.classes = ["field", "Field", "field_"]
    [finding] = source.audit([])
    assert str(finding).startswith("classes: 'field', 'Field', 'field_' differ only by case or spaces")
