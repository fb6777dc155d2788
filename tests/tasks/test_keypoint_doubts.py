"""Labels that can be read and are unlikely to be meant: verify doubts them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tasks.keypoints.doubts import find_doubts
from tasks.keypoints.example import pose_task
from utils.formats.labelme.read import read_labelme
from utils.formats.read import read_poses


def picture(path, size: tuple[int, int], orientation: int = 1) -> None:
    tags = Image.Exif()
    tags[274] = orientation
    Image.new("RGB", size[::-1]).save(path, exif=tags.tobytes())


def coco(folder, points: list[float], size: tuple[int, int], number: int = 3, **more: list[float]) -> list:
    """A COCO set of `number` pictures with the same points, and its problems as verify reports them."""
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": size[0], "width": size[1]} for n in range(number)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "keypoints": points, **more} for n in range(number)],
        "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose", "tail"]}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return pose_task(f"paths.data_root={folder}", "paths.label_path=labels.json").labels


def test_points_in_the_corner_are_doubted(tmp_path):
    for n in range(3):
        picture(tmp_path / f"{n}.jpg", (40, 60))
    labels = coco(tmp_path, [3, 4, 2, 0, 0, 2], (40, 60))
    (finding,) = labels.problems()
    assert finding.blocks
    assert "keypoint 'tail' of 'mouse': lies at exactly (0, 0) in 3 of 3 animals, such as in 0" in str(finding)
    assert not list(coco(tmp_path, [3, 4, 2, 0, 0, 0], (40, 60)).problems())  # missing
    assert not list(coco(tmp_path, [3, 4, 2, 0, 0.5, 2], (40, 60)).problems())


def test_points_in_another_unit_than_the_boxes_are_doubted(tmp_path):
    for n in range(3):
        picture(tmp_path / f"{n}.jpg", (40, 60))
    box = {"bbox": [20, 10, 20, 16]}
    (finding,) = coco(tmp_path, [0.3, 0.4, 2, 0.5, 0.6, 2], (40, 60), **box).problems()
    assert finding.blocks
    assert "3 of 3 animals have no labelled point in or near their own box, such as in 0" in str(finding)
    assert not list(coco(tmp_path, [22, 12, 2, 0.5, 0.6, 0], (40, 60), **box).problems())
    assert not list(coco(tmp_path, [42, 28, 2, 15, 5, 2], (40, 60), **box).problems())  # near the box


@pytest.mark.parametrize("names", [(" nose ", "Nose", "nose"), ("left ear", "Left_Ear"), ("tail", "tail  ")])
def test_names_that_differ_by_case_or_spaces_are_doubted(tmp_path, names):
    for n, name in enumerate(names):
        picture(tmp_path / f"{n}.jpg", (40, 60))
        shapes = [{"label": name, "points": [[3, 4]], "shape_type": "point"}]
        (tmp_path / f"{n}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{n}.jpg"}))
    (finding,) = find_doubts(read_labelme(tmp_path))
    assert finding.blocks
    assert all(repr(name) in finding.problem for name in names)
    shapes = [{"label": name, "points": [[3 + k, 4]], "shape_type": "point"} for k, name in enumerate(names)]
    (tmp_path / "all.json").write_text(json.dumps({"shapes": shapes, "imagePath": "0.jpg"}))
    (tmp_path / "0.json").unlink()
    (finding,) = find_doubts(read_labelme(tmp_path))
    assert not finding.blocks  # one animal has all of them: a note


@pytest.mark.parametrize("format", ["coco", "labelme"])
@pytest.mark.parametrize("orientation", [6, 8])
def test_the_size_before_the_turn_is_doubted_and_points_outside_leave_the_picture_out(tmp_path, format, orientation):
    for n in range(2):
        picture(tmp_path / f"{n}.jpg", (60, 40), orientation)  # shown as 40 x 60
    points = {0: [10, 30], 1: [10, 55]}  # 55 lies below the picture that viewers show
    if format == "coco":
        content = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "height": 60, "width": 40} for n in points],
            "annotations": [{"id": n, "image_id": n, "category_id": 1, "keypoints": [*points[n], 2]} for n in points],
            "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose"]}],
        }
        (tmp_path / "labels.json").write_text(json.dumps(content))
        part = read_poses(tmp_path / "labels.json")["all"]
    else:
        for n, point in points.items():
            shapes = [{"label": "nose", "points": [point], "shape_type": "point"}]
            keys = {"shapes": shapes, "imagePath": f"{n}.jpg", "imageHeight": 60, "imageWidth": 40}
            (tmp_path / f"{n}.json").write_text(json.dumps(keys))
        part = read_poses(tmp_path)["all"]
    assert [p.size for p in part.pictures] == [(40, 60), (40, 60)]
    assert [bool(p.extra.get("incomplete")) for p in part.pictures] == [False, True]
    assert all(f"turned by its EXIF orientation {orientation}" in problem.what for problem in part.problems)
    assert np.array_equal([len(p.instances) for p in part.pictures], [1, 1])
