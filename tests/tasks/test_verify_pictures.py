"""Verify names pictures that programs show in different ways, and damaged ones that are decoded, for every kind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio

from tasks.detection.example import foxes_example
from tasks.distill.example import student_example
from tasks.example import example_task
from tasks.keypoints.example import animals_example
from tasks.phases import verify
from tests.utils.media.test_orientation import XMP_FORMS, text_chunk
from utils.raster.files import write_raster

MAKERS = {
    "segmentation": example_task,
    "keypoints": animals_example,
    "detection": foxes_example,
    "distill": student_example,
}


def spoil(path: Path, damage: bool) -> None:
    """Give a picture an orientation in XMP, or make it a JPEG of the same name with a marker amid its data."""
    pixels = cv2.imread(str(path))
    if damage:
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        place = data.index(b"\xff\xda") + (len(data) - data.index(b"\xff\xda")) // 2
        path.write_bytes(data[:place] + b"\xff\xd3" + data[place + 2 :])
    else:
        data = cv2.imencode(".png", pixels)[1].tobytes()
        path.write_bytes(data[:33] + text_chunk("iTXt", b"XML:com.adobe.xmp", XMP_FORMS[0]) + data[33:])


def make(kind: str, folder: Path):
    """A task on pictures without a place on Earth."""
    task, context = MAKERS[kind](folder)
    for path in folder.glob("*/scene_*.tif") if kind == "segmentation" else ():
        with rasterio.open(path) as raster:
            pixels = np.moveaxis(raster.read(), 0, 2)
        write_raster(path, pixels)
    return task, context


@pytest.mark.parametrize("damage", [False, True])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_doubtful_pictures_are_noted_by_name_in_every_kind(tmp_path, kind, damage):
    task, context = make(kind, tmp_path)
    task.source.prepare_data()
    sources = [path for item in task.source.items("train") for path in item.sources]
    path = next(path for path in sources if path.suffix == (".tif" if kind == "segmentation" else ".png"))
    spoil(path, damage)
    task, context = MAKERS[kind](tmp_path)
    task.source.prepare_data()
    report = verify.check_everything(task, context)
    what = "its data are damaged, and decoded all the same (Corrupt JPEG" if damage else "orientation 6 stands in its"
    assert [line for line in report["lines"] if line.startswith(f"note: {path}: {what}")]
    assert report["findings"] == 0
    notes = [line for line in report["lines"] if line.startswith("note: ")]
    assert [line for line in notes if "items are not prepared" in line], "of the splits, beside those of pictures"
    assert report["summary"][0].endswith(f"; 0 findings, {len(notes)} notes in pictures and labels")
