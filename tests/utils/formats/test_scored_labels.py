"""Predictions are no labels: one rule for every format, for boxes, masks and keypoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.errors import DataError
from utils.formats.read import read_annotations, read_boxes, read_poses

REFUSED = "predictions, no labels: each of its 2 objects has a score"
XML = "<annotation><filename>a.png</filename>{}</annotation>"
BOX = "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
PART = "predictions, as their scores say"


def coco(folder: Path, *scores: dict, **keys) -> Path:
    annotations = [
        {"id": 7 + n, "image_id": 1, "category_id": 1, "bbox": [2 + n, 4, 20, 10], **keys, **score}
        for n, score in enumerate(scores)
    ]
    names = ["nose"] if "keypoints" in keys else []
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cow", "keypoints": names}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def labelme(folder: Path, *scores: dict, kind: str = "rectangle") -> Path:
    points = {"rectangle": [[2, 4], [22, 14]], "polygon": [[2, 4], [22, 4], [9, 14]], "point": [[3, 4]]}[kind]
    shapes = [
        {"label": "nose" if kind == "point" else "cow", "points": points, "shape_type": kind, "group_id": n, **score}
        for n, score in enumerate(scores)
    ]
    (folder / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    return folder


@pytest.mark.parametrize("name", ["score", "confidence", "Probability"])
@pytest.mark.parametrize("value", [0.5, 1, "0.5"])
def test_coco_with_a_score_on_every_annotation_is_refused(name, value, tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    path = coco(tmp_path, {name: value}, {name: value})
    with pytest.raises(DataError, match=f"labels.json: {REFUSED}"):
        read_boxes(path)
    coco(tmp_path, {name: None}, {"scores": []})  # an empty list as in PoseTrack
    assert read_boxes(path)["all"].num_instances == 2
    coco(tmp_path, {name: value}, {name: value}, keypoints=[3, 5, 2])
    with pytest.raises(DataError, match=REFUSED):
        read_poses(path)
    path = coco(tmp_path, {name: value}, {name: value}, bbox=None, segmentation=[[0, 0, 9, 0, 9, 9]])
    with pytest.raises(DataError, match=REFUSED):
        read_annotations(path)


def test_a_prediction_among_labels_leaves_its_picture_out(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    part = read_boxes(coco(tmp_path, {}, {"score": 0.25}))["all"]
    [problem] = part.problems
    assert f"1 of its 2 objects are {PART} (object 2, id 8: 0.25)" in problem.what
    assert problem.lost
    assert problem.blocks
    assert part.pictures[0].extra["incomplete"]
    assert part.num_instances == 1


@pytest.mark.parametrize("kind", ["rectangle", "polygon", "point"])
@pytest.mark.parametrize("score", [{"score": 0.5}, {"description": "score 0.500"}, {"dinolith": {"score": 0.5}}])
def test_labelme_shapes_with_scores_are_refused(kind, score, tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=REFUSED):
        read_annotations(labelme(tmp_path, score, score, kind=kind))
    [part] = read_annotations(labelme(tmp_path, score, {}, kind=kind)).values()
    assert PART in part.problems[0].what
    given = read_annotations(tmp_path, predictions=True)["all"]  # as boxes for keypoints.prompts
    assert given.num_instances == 2
    none = {"score": None, "description": "score of the judge", "dinolith": {"area": 3.0}}
    assert not read_annotations(labelme(tmp_path, none, none, kind=kind))["all"].problems


@pytest.mark.parametrize("write", [coco, labelme])
@pytest.mark.parametrize("score", [{" score": 0.5}, {"score": "0.5"}, {"Confidence": ".5"}])
def test_a_score_means_the_same_in_every_format_whatever_its_spelling(score, write, tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    part = read_boxes(write(tmp_path, {}, score))["all"]
    assert part.num_instances == 1
    assert f"{PART} (object 2" in part.problems[0].what
    assert ": 0.5)" in part.problems[0].what


@pytest.mark.parametrize("write", [coco, labelme])
@pytest.mark.parametrize("value", [True, "high", "", float("nan"), [0.5]])
def test_an_object_whose_score_cannot_be_read_is_lost_and_told(value, write, tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    part = read_boxes(write(tmp_path, {}, {"score": value}))["all"]
    assert part.num_instances == 1
    [problem] = part.problems
    assert f"expected a finite number as score, got {repr(value)[:20]}" in problem.what
    assert problem.lost
    assert part.pictures[0].extra["incomplete"]


def test_a_score_among_the_facts_of_a_labelme_file_is_read_likewise(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    part = read_boxes(labelme(tmp_path, {}, {"dinolith": {"score": "high"}}))["all"]
    assert part.num_instances == 1
    assert "expected a finite number as score, got 'high'" in part.problems[0].what


@pytest.mark.parametrize("name", ["score", "Confidence"])
def test_voc_objects_with_scores_are_refused(name, tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    label, found = (
        f"<object><name>{each}</name>{more}{BOX}</object>"
        for each, more in (("cow", ""), ("dog", f"<{name}>.5</{name}>"))
    )
    (tmp_path / "a.xml").write_text(XML.format(found + found.replace("dog", "cat")))
    with pytest.raises(DataError, match=REFUSED):
        read_boxes(tmp_path)
    (tmp_path / "a.xml").write_text(XML.format(label + found))
    part = read_boxes(tmp_path)["all"]
    assert [each.category for each in part.pictures[0].instances] == ["cow"]
    assert f"1 of its 2 objects are {PART}" in part.problems[0].what


def test_a_table_of_deeplabcut_with_a_likelihood_below_1_is_refused(tmp_path, draw_picture):
    for name in "ab":
        draw_picture(tmp_path / f"{name}.png")
    head = "scorer,m,m,m\nbodyparts,nose,nose,nose\ncoords,x,y,likelihood\n"
    (tmp_path / "CollectedData_me.csv").write_text(f"{head}a.png,3,4,0.9\nb.png,5,6,0.1\n")
    with pytest.raises(DataError, match=REFUSED):
        read_poses(tmp_path)
    (tmp_path / "CollectedData_me.csv").write_text(f"{head}a.png,3,4,1\nb.png,5,6,\n")  # as labels of a person
    assert not read_poses(tmp_path)["all"].problems


def test_a_coco_file_of_predictions_beside_labels_is_passed_over(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    coco(tmp_path, {}).rename(tmp_path / "train.json")
    coco(tmp_path, {"score": 0.5}, {"score": 0.25}).rename(tmp_path / "predictions_coco.json")
    sets = read_boxes(tmp_path)
    assert list(sets) == ["train"]
    [problem] = sets["train"].problems
    assert "predictions_coco.json: not read: predictions" in str(problem)
    assert not problem.blocks
