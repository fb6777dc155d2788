"""Damaged JPEG files: cut ones are refused by every reader, others are told by name."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError
from utils.media.damage import jpeg_damage
from utils.media.decoding import decode, has_end
from utils.raster.files import check_scene
from utils.raster.pictures import decode_rgb

NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def jpeg(**options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "JPEG", quality=98, subsampling=0, **options)
    return stream.getvalue()


def with_preview() -> bytes:
    """A JPEG with a whole one, end marker and all, in its EXIF."""
    small = cv2.imencode(".jpg", NOISE[:16, :16])[1].tobytes()
    return jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(6) + small)


@pytest.mark.parametrize("whole", [jpeg(), jpeg(progressive=True), with_preview()])
@pytest.mark.parametrize("share", [0.6, 0.9, 1.0])
def test_a_jpeg_without_its_end_is_refused_by_every_reader(tmp_path, whole, share):
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert has_end(whole)
    assert has_end(whole + bytes(1000))  # some cameras append data
    assert np.abs(decode_rgb(whole, path).astype(int) - NOISE).mean() < 3
    assert check_scene(path) == []
    cut = whole[: int((len(whole) - 2) * share)]
    path.write_bytes(cut)
    assert decode(cut, cv2.IMREAD_COLOR) is None
    with pytest.raises(DataError, match=r"a\.jpg: cannot be decoded as a picture; is it cut off\?"):
        decode_rgb(cut, path)
    assert "cannot be read" in check_scene(path)[0]


def test_damage_that_is_decoded_all_the_same_is_told_by_name(tmp_path):
    whole = jpeg()
    place = whole.index(b"\xff\xda") + 2000
    files = {
        "whole": whole,
        "marker": whole[:place] + b"\xff\xd3" + whole[place + 2 :],
        "noise": whole[:place] + np.random.default_rng(1).bytes(300) + whole[place + 300 :],
        "gap": whole[:place] + whole[place + 300 :],
        "mask": cv2.imencode(".png", NOISE)[1].tobytes(),
        "new\nline": whole[:place] + b"\xff\xd3" + whole[place + 2 :],
    }
    for name, data in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    told = jpeg_damage([tmp_path / f"{name}.jpg" for name in files])
    assert sorted(path.stem for path in told) == ["gap", "marker", "new\nline", "noise"]
    assert all(text.startswith("Corrupt JPEG data: ") and "\n" not in text for text in told.values())
    assert all(decode(path.read_bytes(), cv2.IMREAD_COLOR).shape == NOISE.shape for path in told)


def test_nothing_is_started_without_a_jpeg(tmp_path, monkeypatch):
    Path(tmp_path / "a.png").write_bytes(cv2.imencode(".png", NOISE)[1].tobytes())
    monkeypatch.setattr("sys.executable", "/no/such/program")
    assert jpeg_damage([tmp_path / "a.png"]) == {}


def test_a_file_that_ends_the_decoder_is_told_and_the_next_ones_are_looked_at(tmp_path, monkeypatch):
    damaged, gone = tmp_path / "damaged.jpg", tmp_path / "gone.jpg"
    data = jpeg()
    damaged.write_bytes(data[:2000] + b"\xff\xd3" + data[2002:])
    monkeypatch.setattr("utils.media.damage._is_jpeg", lambda path: True)  # it goes between two looks
    found = jpeg_damage([damaged, gone, damaged, gone])
    assert found[gone] == "the decoder stopped at it, with code 1"
    assert found[damaged].startswith("Corrupt JPEG data")
