"""A file that is no picture at all is called what it is, whatever its suffix, and not a damaged picture."""

from __future__ import annotations

import pytest

from utils.errors import DataError
from utils.media.other_kinds import name_kind
from utils.media.picture_sizes import picture_size
from utils.media.videos import CODECS, SUFFIXES
from utils.raster.header import read_header

CONTENTS = {
    "SVG": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
    "AVIF": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf", "a picture of kind AVIF"),
    "HEIC": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a picture of kind HEIC"),
    "text": ("Größe: 4 Äcker\n".encode() * 200, "a text file"),
    "page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
    "page with a drawing": (b"<html><body><svg viewBox='0 0 1 1'/></body></html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
}


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "mp4"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_no_picture_is_called_what_it_is(kind, suffix, tmp_path):
    content, what = CONTENTS[kind]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    noun = "video" if suffix == "mp4" else "picture"
    with pytest.raises(DataError, match=rf"a\.{suffix}: not a {noun} that can be read: it is {what}.*; \w+"):
        picture_size(path)
    if suffix != "mp4":
        with pytest.raises(DataError, match=rf"a\.{suffix}: cannot be opened \(it is {what}") as error:
            read_header(path)
        assert "damaged" not in str(error.value)


def test_a_picture_that_is_cut_off_stays_a_damaged_one(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0\xff\xff")
    assert name_kind(path) is None
    with pytest.raises(DataError, match="truncated or damaged"):
        read_header(path)


def test_videos_that_are_written_are_known_by_their_suffix():
    assert set(CODECS) <= SUFFIXES
