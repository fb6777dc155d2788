"""Pictures whose names hold line ends, commas, quotes and the like, in every format that is written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.formats.convert import convert_labels
from utils.formats.read import read_boxes, read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, keypoints_array

NAMES = ["a\nb", "a\rb", "a\tb", "a,b", 'a"b', "a;b", "a'b", "a\x1b[2Jb", "grün", " a", "#a", "a\u2028b", "a b%20c"]


def odd_set(folder: Path, names: list[str]) -> AnnotationSet:
    """One picture and one point for each name; both tell which."""
    folder.mkdir()
    pictures = []
    for index, name in enumerate(names):
        path = folder / f"{name}.png"
        path.write_bytes(cv2.imencode(".png", np.full((40, 60), index, np.uint8))[1].tobytes())
        found = (Instance("fly", keypoints_array([[index + 5, 7]], [2]), box_xyxy=np.array([1.0, 2, 50, 30])),)
        pictures.append(AnnotatedPicture(name, path, (40, 60), found))
    return AnnotationSet(pictures, {"fly": Skeleton(("head",))})


@pytest.mark.parametrize("format", ["yolo", "labelme", "coco", "deeplabcut", "cvat", "fiftyone"])
def test_labels_of_oddly_named_pictures_survive_a_conversion(tmp_path, format):
    part = odd_set(tmp_path / "pictures", NAMES)
    convert_labels({"train": part}, tmp_path / "copy", format)
    (copy,) = read_poses(tmp_path / "copy").values()
    assert copy.problems == []
    found = {int(cv2.imdecode(np.fromfile(p.path, np.uint8), 0)[0, 0]): p.instances[0] for p in copy.pictures}
    assert sorted(found) == list(range(len(NAMES)))
    for index, instance in found.items():
        np.testing.assert_allclose(instance.keypoints[0, :2], [index + 5, 7], atol=1e-3)


@pytest.mark.parametrize("format", ["yolo", "labelme"])
def test_a_picture_whose_name_is_not_utf8_is_left_out_with_a_word(tmp_path, format):
    """LabelMe finds it beside its file, YOLO in its folder."""
    convert_labels({"train": odd_set(tmp_path / "pictures", ["a", "b"])}, tmp_path / "copy", format)
    for file in sorted((tmp_path / "copy").rglob("b.*")):
        os.rename(file, os.fsencode(file.parent) + b"/\xffb" + os.fsencode(file.suffix))
    (part,) = read_poses(tmp_path / "copy").values()
    assert [picture.path.stem for picture in part.pictures] == ["a"]
    texts = [str(problem) for problem in part.problems]
    assert any("\\udcffb.png: its name is not UTF-8, so that it is left out; rename the file" in text for text in texts)


@pytest.mark.parametrize("format", ["voc", "csv"])
def test_boxes_of_oddly_named_pictures_survive_a_conversion(tmp_path, format):
    part = odd_set(tmp_path / "pictures", NAMES)
    for index, picture in enumerate(part.pictures):
        instance = Instance("fly", box_xyxy=np.array([1.0, 2, 20 + index, 30]))
        part.pictures[index] = replace(picture, instances=(instance,))
    convert_labels({"train": part}, tmp_path / "copy", format)
    (copy,) = read_boxes(tmp_path / "copy").values()
    assert copy.problems == []
    found = {int(cv2.imdecode(np.fromfile(p.path, np.uint8), 0)[0, 0]): p.instances[0] for p in copy.pictures}
    assert {index: instance.box_xyxy[2] for index, instance in found.items()} == {n: 20 + n for n in range(len(NAMES))}
