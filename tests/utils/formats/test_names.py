"""Names of classes: none that is empty or invented, and blanks at their ends are no part of them."""

from __future__ import annotations

import json

import pytest

from utils.errors import DataError
from utils.formats.read import read_annotations, read_boxes

BOX = {"points": [[2, 4], [22, 14]], "shape_type": "rectangle"}


def labelme(folder, *labels: str) -> None:
    shapes = [{"label": label, **BOX, "group_id": n} for n, label in enumerate(labels)]
    (folder / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))


def test_labelme_files_without_a_shape_name_no_class(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    labelme(tmp_path)
    assert read_annotations(tmp_path)["all"].skeletons == {}
    labelme(tmp_path, "", "cat ", "cat", " ")
    part = read_boxes(tmp_path)["all"]
    assert list(part.skeletons) == ["cat"]
    assert [problem.where.rpartition("/")[2] for problem in part.problems if problem.lost] == [
        "a.json: shape 1",
        "a.json: shape 4",
    ]
    assert "label of a class or keypoint: expected a name, got ''" in part.problems[0].what
    point = {"label": " ", "points": [[3, 4]], "shape_type": "point"}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [point], "imagePath": "a.png"}))
    part = read_annotations(tmp_path)["all"]
    assert (part.skeletons, part.num_instances) == ({}, 0)


@pytest.mark.parametrize("key", ["names", "kpt_names"])
@pytest.mark.parametrize("name", ['""', '" "'])
def test_an_empty_name_in_a_specification_is_refused_with_its_place(key, name, tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .5 .5 .5 .5 2 .25 .25 2\n")
    rest = "names: [cat], kpt_names" if key == "kpt_names" else "names"
    (tmp_path / "data.yaml").write_text(f"{{train: images, kpt_shape: [2, 3], {rest}: [dog, {name}]}}")
    with pytest.raises(DataError, match=rf"data.yaml: {key}: entry 1: expected a name, got ' *'; give it one"):
        read_annotations(tmp_path)


@pytest.mark.parametrize(("name", "got"), [(None, "None"), ("", "''"), ("  ", "'  '"), ([], r"\[\]")])
def test_a_coco_category_without_a_name_is_refused_with_its_id(name, got, tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat "}, {"id": 7, "name": name}],
    }
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"l.json: category 2 \(id 7\): expected a name, got {got}; give it one"):
        read_annotations(tmp_path / "l.json")
    content["categories"][1] = {"id": 7, "name": "eagle", "keypoints": ["beak", ""]}
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"category 'eagle': keypoints: entry 1: expected a name, got ''"):
        read_annotations(tmp_path / "l.json")
    content["categories"].pop()
    (tmp_path / "l.json").write_text(json.dumps(content))
    assert list(read_annotations(tmp_path / "l.json")["all"].skeletons) == ["cat"]


def test_an_empty_line_among_the_classes_is_refused(tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 .5 .5 .5 .5\n")
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match=r"classes.txt:2: no name, but more names follow"):
        read_annotations(tmp_path, "yolo")
    (tmp_path / "classes.txt").write_text("cat \n dog\n\n")
    assert list(read_annotations(tmp_path)["all"].skeletons) == ["cat", "dog"]
