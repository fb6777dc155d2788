"""An animal that is labelled twice is read once, in every format of keypoints, as an object with a box is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from utils.formats.coco.write import write_coco
from utils.formats.deeplabcut.write import write_deeplabcut
from utils.formats.labelme.write import write_labelme
from utils.formats.pose_rules import keep_poses
from utils.formats.read import read_boxes, read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton
from utils.formats.yolo.write import write_yolo

WRITERS = {"coco": write_coco, "deeplabcut": write_deeplabcut, "labelme": write_labelme, "yolo": write_yolo}


def written(tmp_path, draw_picture, format):
    """Labels of one picture with an animal, the same once more, and one that differs from it in one point."""
    draw_picture(tmp_path / "a.png")
    points = np.array([[3.0, 4.0, 2.0], [20.0, 30.0, 2.0], [np.nan, np.nan, 0.0]])
    box = None if format == "deeplabcut" else np.array([3.0, 4.0, 20.0, 30.0])
    mouse = Instance("mouse", points, box)
    near = replace(mouse, keypoints=points + np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]]))
    animals = tuple(replace(animal, group=number) for number, animal in enumerate((mouse, mouse, near)))
    pictures = [AnnotatedPicture("a", tmp_path / "a.png", (40, 60), animals)]
    skeleton = Skeleton(("nose", "tail", "ear"))
    return WRITERS[format]({"all": AnnotationSet(pictures, {"mouse": skeleton})}, tmp_path / "new")[0]


@pytest.mark.parametrize("format", WRITERS)
def test_an_animal_that_is_labelled_twice_is_read_once_and_told(tmp_path, draw_picture, format):
    (part,) = read_poses(written(tmp_path, draw_picture, format), format).values()
    (picture,) = part.pictures
    assert [animal.keypoints[1, 0].round(3) for animal in picture.instances] == [20, 21]
    (problem,) = part.problems
    assert (problem.what, problem.cure) == ("is object 1 once more (mouse); it is read once", "remove one")
    assert not problem.blocks
    assert "incomplete" not in picture.extra


@pytest.mark.parametrize("format", ["coco", "labelme", "yolo"])
def test_boxes_and_poses_say_the_same_of_such_labels(tmp_path, draw_picture, format):
    path = written(tmp_path, draw_picture, format)
    (poses,), (boxes,) = read_poses(path, format).values(), read_boxes(path, format).values()
    assert (poses.problems[0].where, poses.problems[0].cure) == (boxes.problems[0].where, boxes.problems[0].cure)


def test_animals_that_differ_in_their_box_or_have_no_place_are_kept():

    seen, nowhere = np.array([[3.0, 4.0, 2.0]]), np.array([[np.nan, np.nan, 0.0]])
    boxes = [np.array([1.0, 2, 9, 8]), np.array([1.0, 2, 9, 9])]
    animals = [Instance("fox", seen, box) for box in boxes] + [Instance("fox", nowhere)] * 2
    part = AnnotationSet([AnnotatedPicture("a", Path("a.png"), (40, 60), tuple(animals))], {})
    kept = keep_poses({"all": part})["all"]
    assert len(kept.pictures[0].instances) == 4
    assert not kept.problems
