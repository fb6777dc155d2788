"""Pictures in memory: what a damaged file states is not believed."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError
from utils.media.decoding import decode, whole_png
from utils.media.picture_sizes import picture_size
from utils.raster.files import check_scene
from utils.raster.header import read_header
from utils.raster.pictures import decode_rgb

ROOT = Path(__file__).parents[3]


@pytest.fixture
def picture() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


@pytest.mark.parametrize("top", [0x7F, 0xC0, 0xFF])
def test_a_chunk_longer_than_the_file_is_not_read(picture, top):
    place = picture.index(b"IDAT") - 4
    damaged = picture[:place] + bytes([top]) + picture[place + 1 :]
    assert whole_png(damaged) is None  # or OpenCV takes gigabytes before it gives up
    assert decode(damaged, cv2.IMREAD_COLOR) is None
    with pytest.raises(DataError, match="take another copy"):
        decode_rgb(damaged, "a.png")


def test_whole_pictures_are_read_and_cut_ones_refused(picture):
    assert whole_png(picture) == picture
    assert decode(picture, cv2.IMREAD_COLOR).shape == (40, 60, 3)
    assert picture_size(picture) == (40, 60)
    with pytest.raises(DataError, match="cut off"):
        decode_rgb(picture[: len(picture) // 2], "a.png")


def save_frames(path: Path, kind: str, count: int) -> None:
    """Write a picture of several frames, or of one that is written as a moving picture may be."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 20, 30, 3), np.uint8)
    frames = [Image.fromarray(values) for values in noise]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
@pytest.mark.parametrize("suffix", ["own", "png"])
def test_a_moving_picture_is_refused_by_all_readers_with_the_command_that_divides_it(tmp_path, kind, suffix):
    path = tmp_path / f"a.{kind.lower() if suffix == 'own' else suffix}"
    save_frames(path, kind, 3)
    message = rf"a\.\w+: a moving picture \({kind}\) of 3 frames; expected one picture: .*(ffmpeg|magick) .*FRAME_%04d"
    with pytest.raises(DataError, match=message):
        picture_size(path)
    with pytest.raises(DataError, match=message):
        decode_rgb(path.read_bytes(), path)
    with pytest.raises(DataError, match=message):
        read_header(path)
    assert check_scene(path)[0].startswith(f"{path}: a moving picture")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_a_picture_of_one_frame_is_none_that_moves(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    save_frames(path, kind, 1)
    assert picture_size(path) == (20, 30)
    assert (read_header(path).grid.height, read_header(path).grid.width) == (20, 30)
    assert decode_rgb(path.read_bytes(), path).shape == (20, 30, 3)


def test_opencv_writes_nothing_of_its_own(tmp_path):
    """A process of its own: OpenCV reads its level when it is imported."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for suffix in ("png", "bmp", "tif", "jp2", "webp"):
        data = cv2.imencode(f".{suffix}", noise)[1].tobytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) * 9 // 10])
        (tmp_path / f"half.{suffix}").write_bytes(data[: len(data) // 2])
    flipped = bytearray(cv2.imencode(".png", noise)[1].tobytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "flipped.png").write_bytes(flipped)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG", icc_profile=b"no profile" * 20)
    (tmp_path / "profile.png").write_bytes(stream.getvalue())
    program = """
import sys
from pathlib import Path
from utils.errors import DataError
from utils.raster.pictures import decode_rgb
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, decode_rgb(path.read_bytes(), path).shape)
    except DataError as error:
        print(path.name, "refused")
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines.pop("profile.png") == "(40, 60, 3)"
    assert len(lines) == 11
    assert set(lines.values()) == {"refused"}
