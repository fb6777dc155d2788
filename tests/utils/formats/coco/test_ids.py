"""Ids of COCO files in numbers and in text: matched, or the picture is left out; none becomes an empty picture."""

from __future__ import annotations

import json

import pytest

from utils.formats.coco.read import read_coco
from utils.formats.read import read_poses

POSE = {"category_id": 1, "keypoints": [3, 4, 2, 0, 0, 0], "bbox": [1, 2, 5, 6]}


@pytest.fixture
def read(tmp_path, draw_picture):
    """Write a COCO file of pictures a, b and c with these ids, an annotation for each image id, and read it."""

    def write(image_ids, annotations, category=1, **changes):
        images = []
        for id, name in zip(image_ids, "abc", strict=False):
            draw_picture(tmp_path / f"{name}.png")
            images.append({"id": id, "file_name": f"{name}.png"})
        content = {
            "images": images,
            "annotations": [{**POSE, "id": n, "image_id": id, **changes} for n, id in enumerate(annotations)],
            "categories": [{"id": category, "name": "mouse", "keypoints": ["nose", "tail"]}],
        }
        (tmp_path / "labels.json").write_text(json.dumps(content))
        return read_coco(tmp_path / "labels.json")["all"]

    return write


def animals(part) -> dict[str, int | str]:
    """Animals of each picture by its id; pictures that training leaves out say so."""
    return {p.id: "left out" if p.extra.get("incomplete") else len(p.instances) for p in part.pictures}


@pytest.mark.parametrize(
    ("image_ids", "annotations"),
    [
        ([1, 2], ["1", "2"]),
        (["1", "2"], [1, 2]),
        ([1, 2], [1.0, 2.0]),
        (["0001", "0002"], [1, 2]),
        ([1, 2], ["001", " 2 "]),
        ([1, "2"], ["1", 2]),
        (["cam_1", 2], ["cam_1", "2"]),
    ],
)
def test_numbers_and_text_are_matched(read, image_ids, annotations):
    part = read(image_ids, annotations)
    assert animals(part) == {"a": 1, "b": 1}
    assert not part.problems


def test_categories_are_matched_too(read):
    for written, used in ((1, "1"), ("1", 1), ("7", "7"), (7, 7.0)):
        part = read([1], [1], category=written, category_id=used)
        assert animals(part) == {"a": 1}
        assert not part.problems


def test_an_id_that_may_be_two_pictures_leaves_out_what_has_no_annotation(read):
    part = read(["7", "007", 8], [7, 8])
    assert animals(part) == {"a": "left out", "b": "left out", "c": 1}
    assert "image 7 may be '7' or '007'" in str(part.problems[0])


@pytest.mark.parametrize("wrong", ["a.png", 99, None, True, [1], 1.5])
def test_pictures_without_annotations_are_not_taken_for_empty_where_annotations_are_of_no_picture(read, wrong):
    part = read([1, 2, 3], [2, wrong])
    assert animals(part) == {"a": "left out", "b": 1, "c": "left out"}
    assert "image 1: has no annotation, and 1 of the file are of unknown images" in str(part.problems[1])


def test_a_picture_without_annotations_is_empty_where_all_are_matched(read):
    assert animals(read([1, 2, 3], ["2", 3])) == {"a": 0, "b": 1, "c": 1}


def test_two_pictures_with_one_id_are_both_left_out(read):
    part = read([1, 1, 2], [1, 1, 2])
    assert animals(part) == {"a": "left out", "c": 1}


def test_annotations_of_a_second_entry_of_a_picture_are_not_lost_in_silence(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "./a.png"}]
    content = {
        "images": images,
        "annotations": [{**POSE, "id": 1, "image_id": 1}, {**POSE, "id": 2, "image_id": 2}],
        "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose", "tail"]}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    part = read_poses(tmp_path / "labels.json")["all"]
    assert animals(part) == {"a": "left out"}
