"""Orientation that is not in a plain block of EXIF: texts of a PNG are followed, XMP is told, by every reader alike."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.utils.raster.test_photos import LABEL, UPRIGHT, as_stored, save
from utils.errors import DataError
from utils.formats.sets import size_problems
from utils.formats.types import AnnotatedPicture
from utils.media.orientation import describe_ignored, ignored_orientation, picture_orientation
from utils.media.picture_sizes import picture_size
from utils.raster.pictures import decode_rgb
from utils.raster.raster_labels import RasterLabels
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window


def exif_block(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    return tags.tobytes()


def raw_profile(data: bytes, name: str) -> bytes:
    """ImageMagick's form: a name, a length, and rows of 72 hexadecimal digits."""
    digits = data.hex()
    rows = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    return f"\n{name}\n{len(data):8d}\n{chr(10).join(rows)}\n".encode()


def chunk_of(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def text_chunk(kind: str, keyword: bytes, text: bytes) -> bytes:
    bodies = {
        "tEXt": keyword + b"\0" + text,
        "zTXt": keyword + b"\0\0" + zlib.compress(text),
        "iTXt": keyword + b"\0\0\0\0\0" + text,
        "packed iTXt": keyword + b"\0\1\0\0\0" + zlib.compress(text),
    }
    return chunk_of(kind[-4:].encode(), bodies[kind])


def save_with_chunk(path: Path, pixels: np.ndarray, chunk: bytes, behind: bool = False, **options) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", **options)
    data = stream.getvalue()
    place = len(data) - 12 if behind else 33  # before IEND, or after IHDR
    path.write_bytes(data[:place] + chunk + data[place:])


def read_in_all_ways(path: Path) -> list[np.ndarray]:
    """The picture as keypoints and detection read it, and as segmentation and distillation do."""
    scene = RasterScene(path)
    decoded = decode_rgb(path.read_bytes(), path)
    assert picture_size(path) == picture_size(path.read_bytes()) == (scene.height, scene.width) == decoded.shape[:2]
    return [decoded, scene.read(Window(0, 0, scene.height, scene.width))[0]]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "packed iTXt"])
@pytest.mark.parametrize("name", ["exif", "APP1"])
@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_a_raw_profile_of_a_png_turns_it_for_every_reader(tmp_path, name, kind, behind, orientation):
    text = raw_profile(exif_block(orientation), "generic profile" if name == "APP1" else name)
    chunk = text_chunk(kind, b"Raw profile type " + name.encode(), text)
    save_with_chunk(tmp_path / "a.png", as_stored(UPRIGHT, orientation), chunk, behind)
    assert picture_orientation(tmp_path / "a.png") == orientation
    assert all(np.array_equal(pixels, UPRIGHT) for pixels in read_in_all_ways(tmp_path / "a.png"))


def test_a_mask_with_a_raw_profile_is_turned(tmp_path):
    save(tmp_path / "a.jpg", UPRIGHT, 6)
    chunk = text_chunk("zTXt", b"Raw profile type exif", raw_profile(exif_block(8), "exif"))
    save_with_chunk(tmp_path / "l.png", as_stored(LABEL, 8), chunk)
    labels = RasterLabels(tmp_path / "l.png", 2)
    assert np.array_equal(labels.read(RasterScene(tmp_path / "a.jpg"), Window(0, 0, 32, 48)), LABEL)


def test_the_exif_chunk_decides_over_a_raw_profile(tmp_path):
    chunk = text_chunk("tEXt", b"Raw profile type exif", raw_profile(exif_block(6), "exif"))
    save_with_chunk(tmp_path / "a.png", as_stored(UPRIGHT, 3), chunk, exif=exif_block(3))
    assert picture_orientation(tmp_path / "a.png") == 3
    assert all(np.array_equal(pixels, UPRIGHT) for pixels in read_in_all_ways(tmp_path / "a.png"))


@pytest.mark.parametrize(
    "text",
    [
        raw_profile(exif_block(6), "exif")[:-20],  # its length is wrong
        raw_profile(exif_block(6), "exif").replace(b"4578", b"45zz"),  # no digits
        raw_profile(b"http://ns.adobe.com/xap/1.0/\0", "exif"),  # not EXIF
        b"",
    ],
)
def test_a_damaged_raw_profile_turns_nothing(tmp_path, text):
    save_with_chunk(tmp_path / "a.png", UPRIGHT, text_chunk("tEXt", b"Raw profile type exif", text))
    assert picture_orientation(tmp_path / "a.png") == 1
    assert all(np.array_equal(pixels, UPRIGHT) for pixels in read_in_all_ways(tmp_path / "a.png"))


# ------------------------------------------------------------------------------------------------ XMP

PACKET = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" %s</rdf:Description></rdf:RDF></x:xmpmeta>"""
XMP_FORMS = (PACKET % b'tiff:Orientation="6">', PACKET % b"><tiff:Orientation>6</tiff:Orientation>")


def save_with_xmp(path: Path, pixels: np.ndarray, xmp: bytes, orientation: int | None = None) -> None:
    """A picture whose XMP gives an orientation, and whose EXIF may give another one."""
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=b">6<" in xmp)
    tags = {} if orientation is None else {"exif": exif_block(orientation)}
    options = {
        ".jpg": {"quality": 98, "subsampling": 0, "xmp": xmp, **tags},
        ".png": {"pnginfo": text, **tags},
        ".webp": {"lossless": True, "xmp": xmp, **tags},
        ".tif": {"tiffinfo": {700: xmp} | ({} if orientation is None else {274: orientation})},
    }
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options[path.suffix])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("xmp", XMP_FORMS)
def test_an_orientation_in_xmp_alone_turns_nothing_and_is_told(tmp_path, suffix, xmp):
    path = tmp_path / f"a.{suffix}"
    save_with_xmp(path, UPRIGHT, xmp)
    assert (picture_orientation(path), ignored_orientation(path)) == (1, 6)
    near = 6 if suffix == "jpg" else 0
    assert all(np.abs(pixels.astype(int) - UPRIGHT).max() <= near for pixels in read_in_all_ways(path))
    assert describe_ignored(path).startswith("orientation 6 stands in its XMP only, and it is not turned")


def test_xmp_of_a_raw_profile_is_told(tmp_path):
    chunk = text_chunk("zTXt", b"Raw profile type xmp", raw_profile(XMP_FORMS[0], "xmp"))
    save_with_chunk(tmp_path / "a.png", UPRIGHT, chunk)
    assert (picture_orientation(tmp_path / "a.png"), ignored_orientation(tmp_path / "a.png")) == (1, 6)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 3])
def test_where_exif_and_xmp_differ_exif_decides_and_nothing_is_told(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    save_with_xmp(path, as_stored(UPRIGHT, orientation), XMP_FORMS[0], orientation)
    assert picture_orientation(path) == orientation
    assert describe_ignored(path) == ""


def test_labels_of_a_picture_that_xmp_turns_are_told_why_they_do_not_fit(tmp_path):
    save_with_xmp(tmp_path / "a.jpg", as_stored(UPRIGHT, 6), XMP_FORMS[0])
    Image.fromarray(LABEL).save(tmp_path / "l.png")
    with pytest.raises(
        DataError, match=r"32 x 48 pixels, but .*a.jpg has 48 x 32 .*orientation 6 stands in its XMP only"
    ):
        RasterLabels(tmp_path / "l.png", 2).check(RasterScene(tmp_path / "a.jpg"))
    picture = AnnotatedPicture("a", tmp_path / "a.jpg", (48, 32), ())
    [problem] = size_problems("a.json", "height x width", (32, 48), picture)
    assert "orientation 6 stands in its XMP only" in str(problem)
