"""Outlines and masks that no picture can have: one line with file and place, in seconds and without filling memory."""

from __future__ import annotations

import base64
import json
import struct
import time
import tracemalloc
import zlib

import pytest

from utils.errors import DataError
from utils.formats.read import read_annotations

FOUR = "1.5,2.5,9.5,2.5,9.5,8.5,1.5,8.5"
MANY = 420_000  # outlines of four points each: more than a million points in all, in lists of eight numbers


def png_of_zeros(height: int, width: int) -> str:
    """A PNG of a bit for a pixel: few bytes that decode to very many."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def coco(segmentation: str, count: int = 1) -> dict[str, str]:
    one = f'{{"id": 1, "image_id": 1, "category_id": 1, "segmentation": {segmentation}}}'
    annotations = ",".join([one] * count)
    images, categories = '[{"id": 1, "file_name": "a.png"}]', '[{"id": 1, "name": "cow"}]'
    return {"labels.json": f'{{"images": {images}, "categories": {categories}, "annotations": [{annotations}]}}'}


def labelme(shape: str, count: int = 1) -> dict[str, str]:
    return {"a.json": f'{{"imagePath": "a.png", "shapes": [{",".join([shape] * count)}]}}'}


def labelme_mask(png: str) -> dict[str, str]:
    return labelme(json.dumps({"label": "cow", "shape_type": "mask", "points": [[0, 0], [5, 5]], "mask": png}))


def labelme_polygon(points: str, count: int = 1) -> dict[str, str]:
    return labelme(f'{{"label": "cow", "shape_type": "polygon", "points": {points}}}', count)


def yolo(rows: str) -> dict[str, str]:
    return {"data.yaml": "train: .\nnames: [cow]\n", "a.txt": rows}


HUGE = '{"size": [1000000000, 1000000000], "counts": [1000000000000000000]}'
LONG = '{"size": [40, 60], "counts": "' + "1" * 10**6 + '"}'
EMPTY = '{"size": [40, 60], "counts": [' + "0," * 10**6 + "2400]}"
CASES = {
    "coco, NaN": (coco("[[1, 2, NaN, 4, 5, 6]]"), "annotation 1: polygon 1 is no list of 3 or more finite points"),
    "coco, many outlines": (coco(f"[[{FOUR}]]", MANY), "values label a picture, and the outlines of a picture have"),
    "coco, deep": (coco("[" * 10**5 + "]" * 10**5), "labels.json: not JSON that can be read: nested too deeply"),
    "coco, huge mask": (coco(HUGE), "annotation 1: a mask of 1000000000 x 1000000000 pixels, but its picture has 40"),
    "coco, long mask": (coco(LONG), "annotation 1: a mask without counts and size as whole numbers"),
    "coco, empty runs": (coco(EMPTY), "annotation 1: a mask without counts and size as whole numbers"),
    "labelme, NaN": (labelme_polygon("[[1, 2], [NaN, 4], [5, 6]]"), "a.json: shape 1: expected points as pairs of fin"),
    "labelme, many outlines": (labelme_polygon(f"[[{FOUR[:7]}]]", 3 * MANY), "a.json: 5040000 values label a picture"),
    "labelme, deep": (labelme_polygon("[" * 10**5 + "]" * 10**5), "a.json: not JSON that can be read: nested too deep"),
    "labelme, large mask": (labelme_mask(png_of_zeros(9000, 9000)), "a mask of 9000 x 9000 pixels in a picture of 40"),
    "labelme, huge mask": (labelme_mask(png_of_zeros(20000, 20000)), "a.json: shape 1: expected a mask as PNG"),
    "yolo, NaN": (yolo("0 .5 .5 nan .5 .5 .25\n"), "a.txt:1: expected finite numbers, got NaN or infinity"),
    "yolo, many outlines": (yolo(f"0 {FOUR.replace(',', ' ')}\n" * 3 * MANY), "a.txt: 5080000 values label a picture"),
    "yolo, tabs": (yolo("0\t" + FOUR.replace(",", "\t") + ("\n0\t" + FOUR.replace(",", "\t")) * 3 * MANY), "a.txt: "),
}


@pytest.mark.parametrize("name", CASES)
def test_what_no_picture_can_have_is_told_in_one_line(name, tmp_path, draw_picture):
    files, reason = CASES[name]
    draw_picture(tmp_path / "a.png")
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    source = next(tmp_path / file for file in files) if "data.yaml" in files else tmp_path
    tracemalloc.start()
    start = time.process_time()
    try:
        lines = [str(problem) for part in read_annotations(source).values() for problem in part.problems]
    except DataError as error:
        lines = [str(error)]
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(lines) == 1
    assert reason in lines[0]
    assert len(lines[0]) < 400 + 2 * len(str(tmp_path))
    assert "\n" not in lines[0]
    assert seconds < 10  # traced, which takes several times as long
    assert peak < 1e9  # half of it is room for a file, of which no page is touched
