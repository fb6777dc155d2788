"""Pictures in memory: what a damaged file states is not believed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from utils.errors import DataError
from utils.media.decoding import decode, png_fits
from utils.media.picture_sizes import picture_size
from utils.raster.pictures import decode_rgb


@pytest.fixture
def picture() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


@pytest.mark.parametrize("top", [0x7F, 0xC0, 0xFF])
def test_a_chunk_longer_than_the_file_is_not_read(picture, top):
    place = picture.index(b"IDAT") - 4
    damaged = picture[:place] + bytes([top]) + picture[place + 1 :]
    assert not png_fits(damaged)  # or OpenCV takes gigabytes before it gives up
    assert decode(damaged, cv2.IMREAD_COLOR) is None
    with pytest.raises(DataError, match="take another copy"):
        decode_rgb(damaged, "a.png")


def test_whole_pictures_are_read_and_cut_ones_refused(picture):
    assert png_fits(picture)
    assert decode(picture, cv2.IMREAD_COLOR).shape == (40, 60, 3)
    assert picture_size(picture) == (40, 60)
    with pytest.raises(DataError, match="cut off"):
        decode_rgb(picture[: len(picture) // 2], "a.png")
