"""Sizes of pictures that labels state as text are read as numbers; what is none is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.formats.read import read_annotations

BOX = "<object><name>cow</name><bndbox><xmin>3</xmin><ymin>5</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>"


def label(folder: Path, format: str, height: object, width: object) -> list[str]:
    """Problems of the labels of a picture of 40 x 60 pixels."""
    if format == "voc":
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (folder / "a.xml").write_text(f"<annotation><filename>a.png</filename>{size}{BOX}</annotation>")
    elif format == "coco":
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6]}],
            "categories": [{"id": 1, "name": "cow"}],
        }
        (folder / "l.json").write_text(json.dumps(content))
    elif format == "fiftyone":
        truth = {"_cls": "Detections", "detections": [{"label": "cow", "bounding_box": [0.1, 0.1, 0.5, 0.5]}]}
        sample = {"filepath": "a.png", "metadata": {"height": height, "width": width}, "truth": truth}
        (folder / "samples.json").write_text(json.dumps({"samples": [sample]}))
    elif format == "cvat":
        box = '<box label="cow" xtl="1" ytl="2" xbr="30" ybr="20"/>'
        image = f'<image name="a.png" height="{height}" width="{width}">{box}</image>'
        (folder / "a.xml").write_text(f"<annotations>{image}</annotations>")
    elif format == "csv":
        rows = f"filename,width,height,class,xmin,ymin,xmax,ymax\na.png,{width},{height},cow,1,2,5,6\n"
        (folder / "l.csv").write_text(rows)
    else:
        shape = {"label": "cow", "points": [[1, 2], [30, 20]], "shape_type": "rectangle"}
        keys = {"shapes": [shape], "imagePath": "a.png", "imageHeight": height, "imageWidth": width}
        (folder / "a.json").write_text(json.dumps(keys))
    part = read_annotations(folder, format)["all"]
    assert part.num_instances == 1
    return [problem.what + ("" if problem.blocks else " (note)") for problem in part.problems]


@pytest.mark.parametrize("format", ["coco", "csv", "cvat", "fiftyone", "labelme", "voc"])
def test_a_size_as_text_is_read_as_numbers(format, tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    note = label(tmp_path, format, "40", "60")
    if format in ("csv", "cvat", "voc"):  # of which all is text
        assert not note
    else:
        [text] = note
        assert text.endswith("is text for 1 pictures, such as '40' x '60', and read as numbers (note)")
    assert not label(tmp_path, format, 40.0, 60)
    for height in ("41", 41.0):
        [wrong] = [text for text in label(tmp_path, format, height, "60") if "note" not in text]
        assert wrong.endswith(" is 41 x 60, the picture is 40 x 60")
    for height in ("high", "40.5", "4_0"):
        [wrong] = [text for text in label(tmp_path, format, height, 60) if "note" not in text]
        assert wrong.startswith("expected whole numbers as ")
        assert f"got '{height}' x " in wrong
