"""Pictures of keypoints: every kind of file as viewers show it, or refused with the reason."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.utils.raster.test_photos import SUFFIXES, UPRIGHT, as_stored, grey_png, save
from utils.errors import DataError
from utils.raster.files import write_raster
from utils.raster.pictures import decode_rgb
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

RAMP = np.linspace(0, 1, 48)[None].repeat(32, 0)
GREY = np.rint(RAMP * 255).astype(np.uint8)


def decode(path) -> np.ndarray:
    return decode_rgb(path.read_bytes(), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_keypoints_and_segmentation_see_the_same_upright_picture(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    save(path, UPRIGHT, orientation)
    decoded = decode(path)
    assert np.abs(decoded.astype(int) - UPRIGHT).max() <= (6 if suffix == "jpg" else 0)
    assert np.array_equal(decoded, RasterScene(path).read(Window(0, 0, 32, 48))[0])


def test_a_tiff_in_tiles_is_read_and_turned(tmp_path):
    stored = np.ascontiguousarray(as_stored(UPRIGHT, 8))
    tags = [(274, "H", 1, 8, False)]
    tifffile.imwrite(tmp_path / "a.tif", stored, tile=(16, 16), photometric="rgb", extratags=tags)
    assert np.array_equal(decode(tmp_path / "a.tif"), UPRIGHT)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_fill_the_range(tmp_path, bits):
    values = (np.arange(48)[None].repeat(32, 0) % 2**bits).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(grey_png(bits, values))
    write_raster(tmp_path / "a.tif", values, nbits=bits)
    for name in ("a.png", "a.tif"):
        assert np.array_equal(decode(tmp_path / name)[..., 1], values * (255 // (2**bits - 1)))


def test_palettes_opacity_and_white_as_zero_are_shown_as_viewers_do(tmp_path):
    image = Image.fromarray(GREY)
    image.convert("P").save(tmp_path / "palette.png")
    image.convert("LA").save(tmp_path / "opacity.png")
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    write_raster(tmp_path / "palette.tif", GREY, palette={v: (v, v, v) for v in range(256)}, photometric="PALETTE")
    write_raster(tmp_path / "white.tif", 255 - GREY, photometric="MINISWHITE")
    for path in tmp_path.iterdir():
        assert np.array_equal(decode(path)[..., 2], GREY), path.name


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_shares_of_the_whole_range_and_12_bits_in_them_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.rint(RAMP * 65535).astype(np.uint16))
    assert np.array_equal(decode(path)[..., 0], GREY)
    cv2.imwrite(str(path), np.rint(RAMP * 4095).astype(np.uint16))
    with pytest.raises(DataError, match=r"a\.(png|tif): 16-bit values up to 4095 only, .*if they are of 12 bits"):
        decode(path)
    hot = np.rint(RAMP * 4095).astype(np.uint16)
    hot[3, 5] = 65535  # a hot pixel
    cv2.imwrite(str(path), hot)
    with pytest.raises(DataError, match="16-bit values up to 4095 only"):
        decode(path)
    cv2.imwrite(str(path), np.zeros((4, 6), np.uint16))  # black on any scale
    assert decode(path).max() == 0


def test_bits_that_the_file_states_are_its_scale(tmp_path):
    write_raster(tmp_path / "a.tif", np.rint(RAMP * 4095).astype(np.uint16), nbits=12)
    assert np.array_equal(decode(tmp_path / "a.tif")[..., 0], GREY)


@pytest.mark.parametrize("kind", ["float32", "int16", "uint32"])
def test_values_without_a_known_black_and_white_are_refused(tmp_path, kind):
    write_raster(tmp_path / "a.tif", (RAMP * 100).astype(kind))
    with pytest.raises(DataError, match=rf"a\.tif: values are {kind}, from 0 to 100, and a picture needs 8 bits"):
        decode(tmp_path / "a.tif")


def test_pages_are_refused_by_the_name_of_the_file():
    stream, image = io.BytesIO(), Image.fromarray(GREY)
    image.save(stream, "TIFF", save_all=True, append_images=[image])
    with pytest.raises(DataError, match=r"^day1/a\.tif: a TIFF of 2 pages"):
        decode_rgb(stream.getvalue(), "day1/a.tif")
