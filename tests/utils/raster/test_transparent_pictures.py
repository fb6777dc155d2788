"""A picture that is transparent everywhere is read by its colours, and that is told once."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tasks.labelled import decode_picture
from utils.formats.types import AnnotatedPicture
from utils.raster import pictures
from utils.raster.files import write_raster


@pytest.fixture(autouse=True)
def first(monkeypatch):
    monkeypatch.setattr(pictures, "_TRANSPARENT", [])


def write(path, alpha):
    pixels = np.full((4, 6, 4), (1, 2, 3, alpha), np.uint8)
    if path.suffix == ".tif":
        write_raster(path, pixels, alpha=True)
    else:
        cv2.imwrite(str(path), pixels)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_picture_that_is_transparent_everywhere_is_told_once(tmp_path, caplog, suffix):
    for name, alpha in (("opaque", 255), ("faint", 1), ("clear", 0), ("clear_too", 0)):
        write(tmp_path / f"{name}.{suffix}", alpha)
        decode_picture(AnnotatedPicture(name, tmp_path / f"{name}.{suffix}", None, ()))
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{tmp_path}/clear.{suffix}: transparent everywhere")
