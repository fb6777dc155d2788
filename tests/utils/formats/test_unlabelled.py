"""Pictures beside labelled ones that the labels do not name are left out, and every format says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.formats.read import read_annotations

BOX = "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
NAMED = ("day1/a.png", "day2/b.png")
LACKS = {
    "csv": "a row",
    "deeplabcut": "a row",
    "coco": "an entry in images",
    "labelme": "a LabelMe file",
    "voc": "an XML",
    "cvat": "an image in the file",
    "fiftyone": "a sample with labels",
}


def label(folder: Path, format: str) -> Path:
    """Write labels of two pictures, and of one whose label cannot be used."""
    if format == "csv":
        rows = "".join(f"{name},1,2,30,20,cow\n" for name in NAMED)
        (folder / "l.csv").write_text(f"image_path,xmin,ymin,xmax,ymax,label\n{rows}day1/bad.png,1,2,3\n")
        return folder / "l.csv"
    if format == "deeplabcut":
        rows = "".join(f"{name},3,4\n" for name in NAMED)
        head = "scorer,me,me\nbodyparts,nose,nose\ncoords,x,y\n"
        (folder / "l.csv").write_text(f"{head}{rows}day1/bad.png,3\n")
        return folder / "l.csv"
    if format == "coco":
        images = [{"id": name, "file_name": name} for name in (*NAMED, "day1/bad.png", "day1/bad.png")]
        keys = {"category_id": 1, "bbox": [1, 2, 5, 6]}
        content = {
            "images": images,
            "annotations": [{"id": n, "image_id": name, **keys} for n, name in enumerate(NAMED)],
            "categories": [{"id": 1, "name": "cow"}],
        }
        (folder / "l.json").write_text(json.dumps(content))
        return folder / "l.json"
    if format == "fiftyone":
        label = {"label": "cow", "bounding_box": [0.1, 0.1, 0.5, 0.5]}
        truth = {"_cls": "Detections", "detections": [label]}
        samples = [{"filepath": name, "truth": truth} for name in NAMED]
        samples += [{"filepath": "day1/bad.png", "truth": truth, "tags": ["train", "val"]}]
        (folder / "samples.json").write_text(json.dumps({"samples": samples}))
        return folder / "samples.json"
    if format == "cvat":
        box = '<box label="cow" xtl="1" ytl="2" xbr="30" ybr="20"/>'
        images = "".join(f'<image name="{name}">{box}</image>' for name in (*NAMED, "day1/bad.png"))
        (folder / "l.xml").write_text(f"<annotations>{images}</annotations>")
        return folder / "l.xml"
    for name in (*NAMED, "day1/bad.png"):
        path = (folder / name).with_suffix(".json" if format == "labelme" else ".xml")
        shape = {"label": "cow", "points": [[1, 2], [30, 20]], "shape_type": "rectangle"}
        text = f"<annotation><filename>{Path(name).name}</filename><object><name>cow</name>{BOX}</object></annotation>"
        text = json.dumps({"shapes": [shape], "imagePath": Path(name).name}) if format == "labelme" else text
        path.write_text(text[:-5] if "bad" in name else text)
    return folder


@pytest.mark.parametrize("format", LACKS)
def test_pictures_that_the_labels_do_not_name_are_counted_and_named(format, tmp_path, draw_picture):
    for name in (*NAMED, "day1/bad.png"):
        draw_picture(tmp_path / name)
    draw_picture(tmp_path / "day1" / "a.jpg")  # a copy of a labelled one in another format
    source = label(tmp_path, format)
    told = [problem for problem in read_annotations(source, format)["all"].problems if "left out:" in problem.what]
    assert not told
    for name in ("day1/b.png", "day1/c.png", "day2/a.png", "day2/c.jpg", "day3/d.png"):  # of day 3 nothing is labelled
        draw_picture(tmp_path / name)
    part = read_annotations(source, format)["all"]
    assert {picture.path.name for picture in part.pictures} - {"bad.png"} == {"a.png", "b.png"}
    problem = part.problems[-1]
    assert problem.what.startswith(f"pictures without {LACKS[format]}")
    assert problem.what.endswith(", left out: 4, such as b.png, c.png, a.png")
    assert not problem.blocks


@pytest.mark.parametrize("format", ["labelme", "deeplabcut", "coco"])
def test_however_a_folder_is_spelled_its_pictures_are_the_labelled_ones(format, tmp_path, draw_picture, monkeypatch):
    """A picture of a path of another machine is found in a folder that is spelled otherwise than its neighbours'."""
    for name in (*NAMED, "day1/bad.png", "day1/c.png"):
        draw_picture(tmp_path / name)
    source = label(tmp_path, format)
    path = (tmp_path / "day1/a.json") if format == "labelme" else source
    old = "a.png" if format == "labelme" else "day1/a.png"
    path.write_text(path.read_text().replace(old, "/home/me/set/day1/a.png"))
    if format == "deeplabcut":
        path.write_text(path.read_text() + "day1/c.png,5,6\n")
    monkeypatch.chdir(tmp_path)
    part = read_annotations(source.relative_to(tmp_path), format)["all"]
    has_row = format == "deeplabcut"  # that of c.png, which was added
    named = {picture.path.name for picture in part.pictures} - {"bad.png"}
    assert named == {"a.png", "b.png"} | ({"c.png"} if has_row else set())
    told = [problem.what for problem in part.problems if "left out:" in problem.what]
    assert told == ([] if has_row else [f"pictures without {LACKS[format]}, left out: 1, such as c.png"])
