"""One label file for two pictures of the same stem: neither is taught what may be the other's."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from tasks.example import scene_task
from utils.errors import DataError
from utils.formats.labelme.read import read_labelme
from utils.formats.yolo.read import read_yolo
from utils.raster.files import write_raster
from utils.raster.label_pairs import pair_labels
from utils.raster.labels import refuse_shared

ROW = "0 .5 .5 .5 .5 .1 .1 2\n"


def left_out(part) -> list[str]:
    return [picture.path.name for picture in part.pictures if picture.extra.get("incomplete")]


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("a.JPG", "a.jpg"), ("a.jpeg", "a.jpg")])
def test_yolo(tmp_path, draw_picture, names):
    for name in (*names, "b.png"):
        draw_picture(tmp_path / "images" / name)
    (tmp_path / "labels").mkdir()
    for stem in ("a", "b"):
        (tmp_path / "labels" / f"{stem}.txt").write_text(ROW)
    (tmp_path / "data.yaml").write_text("{train: images, kpt_shape: [1, 3], names: [mouse]}")
    part = read_yolo(tmp_path / "data.yaml")["train"]
    assert left_out(part) == sorted(names)
    assert [str(problem).count("is the label of") for problem in part.problems] == [1, 1]


def test_yolo_over_two_splits(tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "a.jpg")
    draw_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(ROW)
    (tmp_path / "data.yaml").write_text("{train: images/a.jpg, val: images/a.png, kpt_shape: [1, 3], names: [mouse]}")
    sets = read_yolo(tmp_path / "data.yaml")
    assert [left_out(sets[split]) for split in ("train", "val")] == [["a.jpg"], ["a.png"]]


def labelme(folder, stem: str, **keys) -> None:
    nose = {"label": "nose", "points": [[3, 4]], "shape_type": "point"}
    (folder / f"{stem}.json").write_text(json.dumps({"shapes": [nose], **keys}))


def test_labelme_is_asked_which_picture_it_means(tmp_path, draw_picture):
    for name in ("a.jpg", "a.png", "b.png"):
        draw_picture(tmp_path / name)
    labelme(tmp_path, "a")
    labelme(tmp_path, "b")
    part = read_labelme(tmp_path)["all"]
    assert [picture.path.name for picture in part.pictures] == ["b.png"]
    assert "may be the label of" in part.problems[0].what
    for stated in ("a.jpg", "C:\\set\\a.jpg"):  # the name decides, here and from elsewhere
        labelme(tmp_path, "a", imagePath=stated)
        assert [picture.path.name for picture in read_labelme(tmp_path)["all"].pictures] == ["a.jpg", "b.png"]


def test_a_list_of_pictures_gives_one_labelme_file_to_two(tmp_path, draw_picture):
    for name in ("a.jpg", "a.png", "b.png"):
        draw_picture(tmp_path / name)
    labelme(tmp_path, "a")
    labelme(tmp_path, "b")
    (tmp_path / "list.txt").write_text("a.jpg\na.png\nb.png\n")
    part = read_labelme(tmp_path / "list.txt")["all"]
    assert [picture.path.name for picture in part.pictures] == ["b.png"]
    assert "would be the label of" in part.problems[0].what


def test_two_labelme_files_of_one_picture_that_differ_leave_it_out(tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    labelme(tmp_path, "a", imagePath="a.png")
    labelme(tmp_path, "copy", imagePath="a.png")
    assert left_out(read_labelme(tmp_path)["all"]) == []  # both say the same
    (tmp_path / "copy.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    assert left_out(read_labelme(tmp_path)["all"]) == ["a.png"]


@pytest.mark.parametrize("label", ["a.png", "a.tif"])
def test_masks(tmp_path, label):
    for name in ("scenes/a.jpg", "scenes/a.png", "scenes/b.png", f"labels/{label}", "labels/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 6), np.uint8))
    paths = [f"paths.raw_images_dir={tmp_path / 'scenes'}", f"paths.label_path={tmp_path / 'labels'}"]
    with pytest.raises(DataError, match=rf"labels/{label}: fits .*a.jpg and .*a.png by its name"):
        scene_task(*paths).source.scenes.labelled()
    (tmp_path / "scenes" / "a.jpg").unlink()
    assert list(scene_task(*paths).source.scenes.labelled()) == ["a", "b"]


def test_one_file_that_the_user_names_is_for_all(tmp_path):
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 6), np.uint8))
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "labels" / "a.png"), np.zeros((4, 6), np.uint8))
    paths = [f"paths.raw_images_dir={tmp_path}/a.*", f"paths.label_path={tmp_path / 'labels' / 'a.png'}"]
    assert len(scene_task(*paths).source.scenes.labelled()) == 2


def test_scenes_of_two_days_with_a_place_may_share_a_label(tmp_path):
    scenes = [tmp_path / day / "a.tif" for day in ("may", "june")]
    for path in (*scenes, tmp_path / "labels" / "a.tif"):
        path.parent.mkdir()
        write_raster(path, np.zeros((4, 6), np.uint8), crs="EPSG:32631")
    pairs, _ = pair_labels(scenes, tmp_path / "labels")
    refuse_shared(pairs)
    assert len(pairs) == 2
