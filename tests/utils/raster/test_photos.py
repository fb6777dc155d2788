"""Photos and their masks as viewers show them: turned, with few bits, white as zero, in pages."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image, ImageOps

from utils.errors import DataError
from utils.media.orientation import picture_orientation
from utils.media.picture_sizes import picture_size
from utils.raster.files import RasterFile, check_scene, write_raster
from utils.raster.raster_labels import RasterLabels
from utils.raster.scaling import ValueScaling
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

SUFFIXES = ("jpg", "png", "webp", "tif")
Y, X = np.mgrid[0:32, 0:48]
UPRIGHT = np.stack([X * 5, Y * 7, X * 0 + 90], axis=-1).astype(np.uint8)  # no symmetry
LABEL = ((X > 30) | (Y < 9)).astype(np.uint8)


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a file with this orientation holds; found with Pillow, the reference of this test."""
    size = upright.shape[:2] if orientation < 5 else upright.shape[1::-1]
    places = Image.fromarray(np.arange(size[0] * size[1], dtype=np.int32).reshape(size))
    tags = places.getexif()
    tags[274] = orientation
    shown = np.asarray(ImageOps.exif_transpose(places))  # stored place of every shown pixel
    stored = np.empty_like(upright).reshape(size[0] * size[1], -1)
    stored[shown.ravel()] = upright.reshape(len(stored), -1)
    return stored.reshape(*size, *upright.shape[2:])


def save(path, upright: np.ndarray, orientation: int) -> None:
    """Save a picture as a camera does: stored in some way, with a tag that tells how to turn it."""
    tags = Image.Exif()
    tags[274] = orientation
    options = {
        ".jpg": {"quality": 98, "subsampling": 0, "exif": tags.tobytes()},
        ".png": {"exif": tags.tobytes()},
        ".webp": {"lossless": True, "exif": tags.tobytes()},
        ".tif": {"tiffinfo": {274: orientation}},
    }
    Image.fromarray(np.ascontiguousarray(as_stored(upright, orientation))).save(path, **options[path.suffix])


def read_all(path, **options) -> tuple[np.ndarray, np.ndarray]:
    scene = RasterScene(path, **options)
    return scene.read(Window(0, 0, scene.height, scene.width))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_and_its_label_stand_upright_in_every_format(tmp_path, suffix, orientation):
    picture, label = tmp_path / f"a.{suffix}", tmp_path / "a_label.png"
    save(picture, UPRIGHT, orientation)
    Image.fromarray(LABEL).save(label)
    assert picture_size(picture) == (32, 48)
    assert picture_orientation(picture) == orientation
    assert check_scene(picture) == []
    scene = RasterScene(picture)
    image, valid = read_all(picture)
    assert image.shape == UPRIGHT.shape
    assert valid.all()
    assert np.abs(image.astype(int) - UPRIGHT).max() <= (6 if suffix == "jpg" else 0)
    part = scene.read(Window(20, 5, 7, 9))[0]
    assert np.array_equal(part, image[20:27, 5:14])
    labels = RasterLabels(label, 2)
    labels.check(scene)
    assert np.array_equal(labels.read(scene, Window(0, 0, 32, 48)), LABEL)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_label_with_a_tag_of_its_own_is_turned(tmp_path, suffix, orientation):
    save(tmp_path / "a.jpg", UPRIGHT, 6)
    save(tmp_path / f"l.{suffix}", LABEL, orientation)
    labels = RasterLabels(tmp_path / f"l.{suffix}", 2)
    assert np.array_equal(labels.read(RasterScene(tmp_path / "a.jpg"), Window(0, 0, 32, 48)), LABEL)


def test_a_label_of_the_stored_picture_is_refused(tmp_path):
    save(tmp_path / "a.png", UPRIGHT, 6)
    Image.fromarray(as_stored(LABEL, 6)).save(tmp_path / "l.png")
    with pytest.raises(
        DataError, match=r"48 x 32 pixels, but .*a.png has 32 x 48 .*EXIF orientation 6.*as it is stored"
    ):
        RasterLabels(tmp_path / "l.png", 2).check(RasterScene(tmp_path / "a.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_beside_a_photo_is_turned_with_it(tmp_path, orientation):
    save(tmp_path / "a.jpg", UPRIGHT, orientation)
    stored = as_stored(LABEL, orientation)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        height, width = stored.shape
        profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8"}
        with rasterio.open(tmp_path / "m.tif", "w", **profile) as dataset:
            dataset.write_mask(stored.astype(bool))
    (tmp_path / "m.tif.msk").rename(tmp_path / "a.jpg.msk")
    assert np.array_equal(read_all(tmp_path / "a.jpg")[1], LABEL.astype(bool))


def test_a_raster_with_a_place_is_not_turned(tmp_path):
    write_raster(tmp_path / "a.tif", UPRIGHT, crs="EPSG:32631", transform=rasterio.Affine(2, 0, 8, 0, -2, 9))
    with tifffile.TiffFile(tmp_path / "a.tif") as stream:
        extra = [(tag.code, tag.dtype, tag.count, tag.value, False) for tag in stream.pages[0].tags if tag.code > 33000]
    tifffile.imwrite(tmp_path / "b.tif", UPRIGHT, extratags=[*extra, (274, "H", 1, 6, False)], photometric="rgb")
    scene = RasterScene(tmp_path / "b.tif")
    assert (scene.height, scene.width) == picture_size(tmp_path / "b.tif") == (32, 48)
    assert np.array_equal(scene.read(Window(0, 0, 32, 48))[0], UPRIGHT)


# ------------------------------------------------------------------------------------------------ values


def grey_png(bits: int, values: np.ndarray) -> bytes:
    """A grey PNG of 1, 2 or 4 bits."""
    packed = [int("".join(format(value, f"0{bits}b") for value in row), 2).to_bytes(6 * bits, "big") for row in values]

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 48, 32, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in packed))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_few_bits_of_grey_fill_the_range_in_pictures_and_stay_in_labels(tmp_path, bits, suffix):
    values, path = (X % 2**bits).astype(np.uint8), tmp_path / f"a.{suffix}"
    if suffix == "png":
        path.write_bytes(grey_png(bits, values))
        assert np.array_equal(np.asarray(Image.open(path).convert("L")), values * (255 // (2**bits - 1)))
    else:
        write_raster(path, values, nbits=bits)
    assert np.array_equal(read_all(path)[0][..., 0], values * (255 // (2**bits - 1)))
    ranged = ValueScaling((0,) * 3, (2**bits,) * 3)  # as dataset.value_range: of the values in the file
    if (suffix, bits) != ("tif", 1):  # to which GDAL gives a palette
        assert np.array_equal(read_all(path, scaling=ranged)[0][..., 0], np.rint(values * (255 / 2**bits)))
    assert np.array_equal(RasterLabels(path, 2**bits).read(RasterScene(path), Window(0, 0, 32, 48)), values)


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_white_is_zero_is_read_as_viewers_show_it_and_refused_in_labels(tmp_path, bits):
    highest = 2**bits - 1
    shown = (X * highest // 47).astype(np.uint16 if bits == 16 else np.uint8)
    path = tmp_path / "a.tif"
    write_raster(path, (highest - shown).astype(shown.dtype), photometric="MINISWHITE", nbits=bits)
    scene = RasterScene(path)
    values, _ = scene.read_values(Window(0, 0, 32, 48))
    assert np.array_equal(values[..., 0], shown if bits > 7 else shown * (255 // highest))
    with pytest.raises(DataError, match=r"WhiteIsZero TIFF.*expected BlackIsZero"):
        RasterLabels(path, 2).check(scene)


def test_pages_of_a_tiff_are_refused_or_told(tmp_path, caplog):
    first, second = Image.fromarray(UPRIGHT), Image.fromarray(UPRIGHT[::-1].copy())
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(DataError, match="TIFF of 2 pages, of which page 2 is as large as page 1; expected one picture"):
        RasterFile(tmp_path / "a.tif").header  # noqa: B018 - a property that checks
    first.save(tmp_path / "b.tif", save_all=True, append_images=[second.resize((6, 4))])
    assert np.array_equal(read_all(tmp_path / "b.tif")[0], UPRIGHT)
    assert "b.tif: a TIFF of 2 pages; page 1, the largest, is read" in caplog.text
