"""Labels and pictures that are no plain files, or whose names end in capitals: read, or refused by name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from utils.errors import DataError
from utils.formats.read import read_annotations, read_boxes
from utils.raster.label_pairs import pair_labels

ROW = "0 .5 .5 .5 .25\n"
BOX = "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
VOC = f"<annotation><object><name>cow</name>{BOX}</object></annotation>"
LABELME = {"shapes": [{"label": "cow", "points": [[2, 4], [30, 20]], "shape_type": "rectangle"}]}


def make_folder(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


ODD = {
    "folder": (make_folder, "a folder"),
    "pipe": (os.mkfifo, "a pipe"),
    "link": (make_link, "a link that leads nowhere"),
    "loop": (make_loop, "Too many levels of symbolic links"),
}


@pytest.fixture
def yolo(tmp_path, draw_picture) -> Path:
    (tmp_path / "labels").mkdir()
    for name in "ab":
        draw_picture(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text(ROW)
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cow]\n")
    return tmp_path


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("keys", ["", "kpt_shape: [1, 2]\n"], ids=["boxes", "poses"])
def test_a_yolo_label_that_is_no_file_is_told_and_its_picture_is_not_empty(kind, keys, yolo):
    make, words = ODD[kind]
    (yolo / "labels" / "a.txt").unlink()
    make(yolo / "labels" / "a.txt")
    if keys:
        (yolo / "labels" / "b.txt").write_text("0 .5 .5 .5 .25 .5 .5\n")
    (yolo / "data.yaml").write_text(f"train: images\nnames: [cow]\n{keys}")
    part = read_annotations(yolo / "data.yaml")["train"]
    [problem] = part.problems
    assert problem.where == str(yolo / "labels" / "a.txt")
    assert words in problem.what
    assert problem.lost
    assert [bool(picture.extra.get("incomplete")) for picture in part.pictures] == [True, False]


@pytest.mark.parametrize("name", ["labels/a.TXT", "labels/a.Txt", "images/a.TXT"])
def test_a_yolo_label_in_capitals_is_read(name, yolo):
    (yolo / "labels" / "a.txt").rename(yolo / name)
    part = read_boxes(yolo / "data.yaml")["train"]
    assert [len(picture.instances) for picture in part.pictures] == [1, 1]
    assert not part.problems


def test_a_yolo_label_in_capitals_beside_another_is_refused_and_one_without_a_picture_told(yolo):
    (yolo / "labels" / "gone.TXT").write_text(ROW)
    [problem] = read_boxes(yolo / "data.yaml")["train"].problems
    assert "1 label files have no picture, such as gone.TXT" in str(problem)
    (yolo / "labels" / "a.TXT").write_text("")
    with pytest.raises(DataError, match=r"labels/a.TXT: may be meant as well as a.txt"):
        read_boxes(yolo / "data.yaml")


@pytest.mark.parametrize("kind", ODD)
def test_a_picture_that_is_no_file_is_told_by_its_own_name(kind, yolo):
    make, words = ODD[kind]
    (yolo / "images" / "a.png").unlink()
    make(yolo / "images" / "a.png")
    (yolo / "list.txt").write_text("images/a.png\nimages/b.png\n")
    for train in ("images", "list.txt"):
        if kind == "folder" and train == "images":
            continue  # whose pictures would be read
        (yolo / "data.yaml").write_text(f"train: {train}\nnames: [cow]\n")
        part = read_boxes(yolo / "data.yaml")["train"]
        told = [str(problem) for problem in part.problems if "a.png" in str(problem)]
        assert len(told) == 1
        assert any(word in told[0] for word in (words, "no such picture"))
        assert "damaged" not in told[0]
        assert [picture.id for picture in part.pictures] == ["images/b"]


NAMES = {"long": ("b" * 5000 + ".png", "File name too long"), "loop": ("loop.png", "Too many levels of symbolic links")}


def write_coco(folder: Path, name: str) -> Path:
    images = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "a.png"}]
    notes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [2, 3, 9, 8]} for n in (1, 2)]
    content = {"images": images, "categories": [{"id": 1, "name": "cow"}], "annotations": notes}
    (folder / "l.json").write_text(json.dumps(content))
    return folder / "l.json"


def write_table(folder: Path, name: str) -> Path:
    (folder / "l.csv").write_text(f"image,xmin,ymin,xmax,ymax,label\n{name},1,2,30,20,cow\na.png,1,2,30,20,cow\n")
    return folder / "l.csv"


def write_labelme(folder: Path, name: str) -> Path:
    (folder / "x.json").write_text(json.dumps({**LABELME, "imagePath": name}))
    (folder / "a.json").write_text(json.dumps(LABELME))
    return folder


def write_voc(folder: Path, name: str) -> Path:
    (folder / "x.xml").write_text(VOC.replace("<annotation>", f"<annotation><filename>{name}</filename>"))
    (folder / "a.xml").write_text(VOC)
    return folder


def write_deeplabcut(folder: Path, name: str) -> Path:
    text = f"scorer,me,me\nbodyparts,nose,nose\ncoords,x,y\n{name},3,4\na.png,3,4\n"
    (folder / "CollectedData_me.csv").write_text(text)
    return folder / "CollectedData_me.csv"


@pytest.mark.parametrize("write", [write_coco, write_table, write_labelme, write_voc, write_deeplabcut])
@pytest.mark.parametrize("kind", NAMES)
def test_a_path_that_cannot_be_followed_costs_its_picture_and_not_the_set(kind, write, tmp_path, draw_picture):
    name, words = NAMES[kind]
    draw_picture(tmp_path / "a.png")
    make_loop(tmp_path / "loop.png")
    [part] = read_annotations(write(tmp_path, name)).values()
    assert [(picture.id, len(picture.instances)) for picture in part.pictures] == [("a", 1)]
    told = [str(problem) for problem in part.problems if words in str(problem)]
    assert len(told) == 1
    assert "damaged" not in told[0]
    assert len(told[0]) < 6000


@pytest.mark.parametrize("key", ["train", "path"])
def test_a_path_of_a_specification_that_cannot_be_followed_is_told_with_its_key(key, yolo):
    (yolo / "data.yaml").write_text(f"{key}: {'b' * 5000}\nnames: [cow]\nval: images\n")
    with pytest.raises(DataError, match=rf"data.yaml: {key}: ") as caught:
        read_annotations(yolo / "data.yaml")
    assert "damaged" not in str(caught.value)


def test_voc_and_labelme_files_in_capitals_are_read_in_every_layout(tmp_path, draw_picture):
    for folder, suffix, text in (("v", ".XML", VOC), ("m", ".JSON", json.dumps(LABELME))):
        draw_picture(tmp_path / folder / "a.PNG")
        (tmp_path / folder / f"a{suffix}").write_text(text)
        (tmp_path / folder / "train.txt").write_text("a.PNG\n")
        for path in (tmp_path / folder, tmp_path / folder / f"a{suffix}", tmp_path / folder / "train.txt"):
            [part] = read_boxes(path, {"v": "voc", "m": "labelme"}[folder]).values()
            assert [len(picture.instances) for picture in part.pictures] == [1]
    (tmp_path / "v" / "Annotations").mkdir()
    (tmp_path / "v" / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "v" / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    (tmp_path / "v" / "a.XML").rename(tmp_path / "v" / "Annotations" / "a.XML")
    assert read_boxes(tmp_path / "v")["val"].num_instances == 1


@pytest.mark.parametrize("pattern", [None, "{stem}.png", "{stem}.p*"])
def test_a_mask_in_capitals_is_found_and_one_that_is_no_file_refused(pattern, tmp_path, draw_picture):
    scene = draw_picture(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    for kind, (make, words) in ODD.items():
        mask = tmp_path / "masks" / "a.png"
        make(mask)
        with pytest.raises(DataError, match=rf"the label of a.png: .*masks/a.png.*{words}"):
            pair_labels([scene], tmp_path / "masks", pattern)
        mask.rmdir() if kind == "folder" else mask.unlink()
    draw_picture(tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a.PNG")
    assert pair_labels([scene], tmp_path / "masks", pattern)[0] == {scene: tmp_path / "masks" / "a.PNG"}


@pytest.mark.parametrize("format", ["labelme", "yolo"])
def test_an_outline_of_ten_million_points_is_refused_before_it_is_parsed(tmp_path, format, draw_picture):
    numbers = ["1", "2"] * 10_000_000
    if format == "labelme":
        name, text = "a.json", f'{{"imagePath": "a.png", "shapes": [\n{{"points": [{",".join(numbers)}]}}]}}'
    else:
        name, text = "a.txt", f"{ROW}0 {' '.join(numbers)}"
        (tmp_path / "data.yaml").write_text("names: [cow]\ntrain: .\n")
    draw_picture(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    try:
        told = [str(problem) for problem in read_annotations(tmp_path)["train"].problems]  # the other rows may do
    except DataError as error:
        told = [str(error)]  # there is no other file
    assert re.search(rf"{name}: line 2: a list of 2000000\d numbers, and an outline has 1000000 points", "".join(told))
