"""Paths written on another computer: the picture of that name beside the file, or one problem of that file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from utils.errors import DataError
from utils.formats.moved import find_moved
from utils.formats.read import read_poses

ELSEWHERE = {
    "windows": "C:\\Users\\me\\Desktop\\set\\{}",
    "slashes": "D:/data/set/{}",
    "mixed": "C:\\Users/me\\set/{}",
    "share": "\\\\server\\share\\set\\{}",
    "share with slashes": "//server/share/set/{}",
    "linux": "/home/me/data set/{}",
    "colab": "/content/set/{}",
    "file address": "file:///C:/my%20set/{}",
    "bucket": "s3://bucket/set/{}",
    "upward": "../../../other/set/{}",
    "upward on windows": "..\\..\\..\\label-studio\\upload\\{}",
}
POINTS = [3.0, 4.0, 20.0, 30.0]


def write_labelme(folder: Path, paths: dict[str, str]) -> Path:
    for n, path in enumerate(paths.values()):
        shapes = [
            {"label": name, "points": [POINTS[2 * k : 2 * k + 2]], "shape_type": "point"}
            for k, name in enumerate(("nose", "tail"))
        ]
        (folder / f"label_{n}.json").write_text(json.dumps({"shapes": shapes, "imagePath": path}))
    return folder


def write_coco(folder: Path, paths: dict[str, str]) -> Path:
    content = {
        "images": [{"id": n, "file_name": path} for n, path in enumerate(paths.values())],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "keypoints": [3, 4, 2, 20, 30, 2]} for n in range(len(paths))
        ],
        "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose", "tail"]}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def write_deeplabcut(folder: Path, paths: dict[str, str]) -> Path:
    head = "scorer,me,me,me,me\nbodyparts,nose,nose,tail,tail\ncoords,x,y,x,y\n"
    (folder / "CollectedData_me.csv").write_text(head + "".join(f"{path},3,4,20,30\n" for path in paths.values()))
    return folder / "CollectedData_me.csv"


def write_yolo(folder: Path, paths: dict[str, str]) -> Path:
    for name in paths:
        row = f"0 .5 .5 .5 .5 {3 / 60:.9f} {4 / 40:.9f} 2 {20 / 60:.9f} {30 / 40:.9f} 2\n"
        (folder / name).with_suffix(".txt").write_text(row)
    (folder / "train.list").write_text("".join(f"{path}\n" for path in paths.values()))
    (folder / "data.yaml").write_text("{path: ., train: train.list, kpt_shape: [2, 3], names: [mouse]}")
    return folder / "data.yaml"


WRITERS = {"labelme": write_labelme, "coco": write_coco, "deeplabcut": write_deeplabcut, "yolo": write_yolo}
CASES = [  # a list of YOLO may lead upward
    (format, style) for format in WRITERS for style in ELSEWHERE if (format, style[:6]) != ("yolo", "upward")
]


@pytest.mark.parametrize(("format", "style"), CASES)
def test_the_picture_of_that_name_beside_the_file_is_meant(tmp_path, draw_picture, format, style):
    folder = tmp_path / "set"
    paths = {name: ELSEWHERE[style].format(name) for name in ("a.png", "b.png")}
    for name in paths:
        draw_picture(folder / name)
    part = next(iter(read_poses(WRITERS[format](folder, paths), format).values()))
    assert [picture.path for picture in part.pictures] == [folder / name for name in paths]
    assert [i.keypoints[:, :2].round(6).ravel().tolist() for p in part.pictures for i in p.instances] == [POINTS] * 2
    assert not part.problems


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("style", ELSEWHERE)
def test_one_that_is_not_there_is_a_problem_of_one_picture(tmp_path, draw_picture, format, style):
    folder = tmp_path / "set"
    paths = {"a.png": "a.png", "b.png": ELSEWHERE[style].format("b.png")}
    draw_picture(folder / "a.png")
    part = next(iter(read_poses(WRITERS[format](folder, paths), format).values()))
    assert [picture.path.name for picture in part.pictures] == ["a.png"]
    assert len(part.problems) == 1
    assert "b.png" in str(part.problems[0])


@pytest.mark.parametrize("stated", ["C:\\set\\images", "/home/me/set/images", "images"])
def test_the_folder_of_pictures_in_a_specification_of_coco(tmp_path, draw_picture, stated):
    draw_picture(tmp_path / "images" / "a.png")
    write_coco(tmp_path, {"a.png": "a.png"})
    keys = f"format: coco\npath: D:\\mice\nimage_root: {stated}\nall: labels.json\n"
    (tmp_path / "data.yaml").write_text(keys)
    assert [p.id for p in read_poses(tmp_path / "data.yaml")["all"].pictures] == ["images/a"]


def test_the_longest_end_of_the_path_counts_and_nothing_outside_is_found(tmp_path, draw_picture):
    for name in ("day1/a.png", "day2/a.png", "a.png", "images/b.png"):
        draw_picture(tmp_path / "set" / name)
    draw_picture(tmp_path / "c.png")
    root = tmp_path / "set"
    assert find_moved("E:\\mice\\day2\\a.png", [root]) == root / "day2" / "a.png"
    assert find_moved("E:\\mice\\day3\\a.png", [root]) == root / "a.png"
    assert find_moved("/x/../c.png", [root]) is None
    assert find_moved("/x/b.png", [root, root / "images", root / "images" / ".." / "images"]) == root / "images/b.png"
    with pytest.raises(ValueError, match=r"may be .*day1/a.png or .*day2/a.png"):
        find_moved("/x/a.png", [root / "day1", root / "day2"])


@pytest.mark.parametrize("format", ["labelme", "coco", "deeplabcut"])
def test_a_path_that_may_be_several_pictures_lists_them(tmp_path, draw_picture, format):
    for name in ("a/p.png", "b/p.png", "c.png"):
        draw_picture(tmp_path / name)
    part = read_poses(WRITERS[format](tmp_path, {"p.png": "/q/p.png", "c.png": "c.png"}))["all"]
    assert [picture.path.name for picture in part.pictures] == ["c.png"]
    assert "'/q/p.png' is outside of the data root" in part.problems[0].what
    assert "and may be a/p.png or b/p.png in it; write the path from there" in part.problems[0].what


@pytest.mark.parametrize("format", ["labelme", "coco", "deeplabcut"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_copied_set_is_read_and_another_picture_of_that_name_is_not(tmp_path, draw_picture, format, absolute):
    original, folder = draw_picture(tmp_path / "old" / "a.png"), tmp_path / "new"
    draw_picture(folder / "b.png")
    (folder / "a.png").write_bytes(original.read_bytes())
    source = WRITERS[format](folder, {"a.png": str(original) if absolute else "../old/a.png", "b.png": "b.png"})
    assert [picture.path for picture in read_poses(source)["all"].pictures] == [folder / "a.png", folder / "b.png"]
    draw_picture(folder / "a.png", 44, 66)
    part = read_poses(source)["all"]
    assert [picture.path.name for picture in part.pictures] == ["b.png"]
    assert "of its name is another picture" in part.problems[0].what


@pytest.mark.parametrize("format", ["coco", "deeplabcut"])
def test_two_paths_that_end_at_one_picture_leave_it_out(tmp_path, draw_picture, format):
    folder = tmp_path / "set"
    draw_picture(folder / "a.png")
    draw_picture(folder / "b.png")
    paths = {"1": "/x/day1/a.png", "2": "/x/day2/a.png", "3": "b.png"}
    source = WRITERS[format](folder, paths)
    if format == "deeplabcut":
        source.write_text(source.read_text().replace("day2/a.png,3", "day2/a.png,9"))
    part = read_poses(source, format)["all"]
    assert {picture.id: bool(picture.extra.get("incomplete")) for picture in part.pictures} == {"a": True, "b": False}


# ------------------------------------------------------------------------------------------------ path of YOLO


@pytest.fixture
def yolo(tmp_path, draw_picture):
    """Write a YOLO set in tmp_path/set with these keys, and give its data.yaml."""

    def write(text: str) -> Path:
        for split in ("train", "val"):
            draw_picture(tmp_path / "set" / "images" / split / f"{split}.png")
            (tmp_path / "set" / "labels" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / "labels" / split / f"{split}.txt").write_text("0 .5 .5 .5 .5 .1 .1 2\n")
        path = tmp_path / "set" / "data.yaml"
        path.write_text(text + "\nkpt_shape: [1, 3]\nnames: [mouse]\n")
        return path

    return write


def ids(sets) -> list[str]:
    return [picture.id for part in sets.values() for picture in part.pictures]


SPLITS = "train: images/train\nval: images/val"


@pytest.mark.parametrize("root", [None, "", "set"])
@pytest.mark.parametrize("stated", [".", "./", "../set"])
def test_a_relative_path_starts_at_the_file_whatever_the_data_root(yolo, tmp_path, monkeypatch, stated, root):
    monkeypatch.chdir(tmp_path.parent)  # the working directory does not count
    sets = read_poses(yolo(f"path: {stated}\n{SPLITS}"), root=None if root is None else tmp_path / root)
    assert ids(sets) == ["images/train/train", "images/val/val"]


@pytest.mark.parametrize("stated", ["/content/set", "C:\\data\\set", "../datasets/mice", "\\\\server\\set"])
@pytest.mark.parametrize("splits", [SPLITS, "train: /content/set/images/train\nval: C:\\set\\images\\val"])
def test_a_path_of_another_computer_means_the_folder_of_the_file(yolo, caplog, stated, splits):
    with caplog.at_level(logging.WARNING):
        assert ids(read_poses(yolo(f"path: '{stated}'\n{splits}"))) == ["images/train/train", "images/val/val"]
    assert f"data.yaml: path: {stated} is no folder on this computer" in caplog.text


def test_an_absolute_path_goes_before_the_data_root(yolo, tmp_path, draw_picture):
    other = tmp_path / "other"
    for split in ("train", "val"):
        draw_picture(other / "images" / split / "x.png")
        (other / "labels" / split).mkdir(parents=True)
        (other / "labels" / split / "x.txt").write_text("")
    path = yolo(f"path: {tmp_path / 'set'}\n{SPLITS}")
    assert ids(read_poses(path, root=other)) == ["images/train/train", "images/val/val"]
    assert ids(read_poses(path)) == ["images/train/train", "images/val/val"]
    (tmp_path / "set" / "images" / "val").rename(tmp_path / "gone")
    assert ids(read_poses(path, root=other)) == ["images/train/x", "images/val/x"], "it does not hold the splits"


def test_a_path_that_leads_nowhere_is_refused(yolo):
    with pytest.raises(DataError, match=r"data.yaml: path: /content/set is no folder, and not all splits are beside"):
        read_poses(yolo("path: /content/set\ntrain: images/train\nval: pictures/val"))
