"""Sizes of pictures as they are displayed, from their headers, without decoding a pixel."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from utils.errors import DataError

_SIZES_TIFF = {1: "B", 3: "H", 4: "I", 16: "Q"}  # type of a TIFF tag -> struct code
_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
MAX_PIXELS = 178_956_970  # a header may claim any size: a larger picture would fill the memory when it is decoded


def picture_size(source: str | Path | bytes, name: str | Path | None = None) -> tuple[int, int]:
    """Read (height, width) of a picture as it is displayed, from its header alone where the kind is known.

    Parameters
    ----------
    source : str, Path or bytes
        PNG, JPEG, BMP, TIFF and WebP take a few reads; another kind is decoded by OpenCV.
    name : str or Path, optional
        What errors call it.

    Returns
    -------
    tuple of int
        Height and width, after the EXIF orientation: what OpenCV's imread gives.

    Raises
    ------
    DataError
        If there is no such file, it is empty, no picture, a picture without pixels, or larger than `MAX_PIXELS`.

    Examples
    --------
    >>> picture_size(cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes())
    (4, 6)
    """
    name = name or ("picture" if isinstance(source, bytes) else source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
            size = _size_of_stream(stream)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{name}: no such picture; put it there, or mend the label that names it") from None
    except (struct.error, ValueError):
        size = None  # the header ends early or contradicts itself
    if size is None:
        size = _size_by_decoding(source)
    if size is None or min(size) < 1:
        what = "a picture without pixels" if size else "not a picture that can be read"
        raise DataError(f"{name}: {what}; take another copy, or remove it and its label")
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{name}: {size[0]} x {size[1]} pixels, expected at most {MAX_PIXELS} in all; cut it into parts, or take "
            "another copy if it is not that large"
        )
    return size


def _size_by_decoding(source: str | Path | bytes) -> tuple[int, int] | None:
    """Size of a picture of any kind that OpenCV knows, or None, also for one that is too large for OpenCV.

    Examples
    --------
    >>> _size_by_decoding(b"no picture") is None
    True
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        pixels = None
    return None if pixels is None else (pixels.shape[0], pixels.shape[1])


def _size_of_stream(stream: BinaryIO) -> tuple[int, int] | None:
    """Size by the header of a known kind, or None for another kind.

    Examples
    --------
    >>> _size_of_stream(io.BytesIO(b"BM" + bytes(16) + struct.pack("<ii", 6, -4)))
    (4, 6)
    """
    head = stream.read(32)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return _size_of_png(stream)
    if head[:2] == b"\xff\xd8":
        return _size_of_jpeg(stream)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        tags = _read_tags(stream, 0)
        return _turn((tags[_HEIGHT], tags[_WIDTH]), tags) if {_HEIGHT, _WIDTH} <= tags.keys() else None
    if head[:2] == b"BM" and len(head) >= 26:
        width, height = struct.unpack("<ii", head[18:26])
        return abs(height), width  # a negative height: rows from the top
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _size_of_webp(stream)
    return None


def _turn(size: tuple[int, int], tags: dict[int, int]) -> tuple[int, int]:
    """Exchange height and width where the orientation turns the picture by a quarter.

    Examples
    --------
    >>> _turn((4, 6), {_ORIENTATION: 6}), _turn((4, 6), {_ORIENTATION: 3})
    ((6, 4), (4, 6))
    """
    return size[::-1] if 5 <= tags.get(_ORIENTATION, 1) <= 8 else size


def _read_tags(stream: BinaryIO, start: int) -> dict[int, int]:
    r"""Whole-number tags of the first directory of a TIFF, which is also what EXIF consists of.

    Parameters
    ----------
    stream : file
        Of bytes.
    start : int
        Where the TIFF begins in it.

    Examples
    --------
    >>> one = struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    >>> _read_tags(io.BytesIO(b"--II*\0" + struct.pack("<IH", 8, 1) + one), 2)
    {274: 6}
    """
    stream.seek(start)
    order = {b"II": "<", b"MM": ">"}.get(stream.read(2))
    if order is None:
        return {}
    big = struct.unpack(order + "H", stream.read(2))[0] == 43
    stream.seek(4 if big else 0, os.SEEK_CUR)
    stream.seek(start + struct.unpack(order + ("Q" if big else "I"), stream.read(8 if big else 4))[0])
    count = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))[0]
    step = 20 if big else 12
    entries = stream.read(min(count, 4096) * step)
    tags = {}
    for place in range(0, len(entries) - step + 1, step):
        tag, kind = struct.unpack_from(order + "HH", entries, place)
        if kind in _SIZES_TIFF:
            tags[tag] = struct.unpack_from(order + _SIZES_TIFF[kind], entries, place + (12 if big else 8))[0]
    return tags


def _size_of_png(stream: BinaryIO) -> tuple[int, int]:
    """Size of a PNG; its orientation may stand behind the pixels.

    Examples
    --------
    >>> data = cv2.imencode(".png", np.zeros((4, 6), np.uint8))[1].tobytes()
    >>> _size_of_png(io.BytesIO(data))
    (4, 6)
    """
    stream.seek(16)
    width, height = struct.unpack(">II", stream.read(8))
    place = 8
    while True:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return height, width
        if head[4:] == b"eXIf":
            return _turn((height, width), _read_tags(stream, place + 8))
        place += 12 + struct.unpack(">I", head[:4])[0]


def _size_of_jpeg(stream: BinaryIO) -> tuple[int, int] | None:
    """Size of a JPEG, with the orientation that stands before it.

    Examples
    --------
    >>> data = cv2.imencode(".jpg", np.zeros((4, 6), np.uint8))[1].tobytes()
    >>> _size_of_jpeg(io.BytesIO(data))
    (4, 6)
    """
    place, tags = 2, dict[int, int]()
    while True:
        stream.seek(place)
        head = stream.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return None
        if head[1] == 0xFF:  # a fill byte
            place += 1
            continue
        if 0xC0 <= head[1] <= 0xCF and head[1] not in (0xC4, 0xC8, 0xCC):
            return _turn(struct.unpack(">xHH", stream.read(5)), tags)
        if head[1] == 0xE1 and not tags and stream.read(6) == b"Exif\0\0":
            tags = _read_tags(stream, place + 10)
        place += 2 + struct.unpack(">H", head[2:])[0]


def _size_of_webp(stream: BinaryIO) -> tuple[int, int] | None:
    """Size of a WebP, lossy or lossless, plain or extended.

    Examples
    --------
    >>> data = cv2.imencode(".webp", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    >>> _size_of_webp(io.BytesIO(data))
    (4, 6)
    """
    stream.seek(12)
    kind, body = stream.read(4), stream.read(14)[4:]
    if kind == b"VP8X":
        size = int.from_bytes(body[7:10], "little") + 1, int.from_bytes(body[4:7], "little") + 1
        return _turn(size, _exif_of_webp(stream)) if body[0] & 8 else size
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return height & 0x3FFF, width & 0x3FFF
    return None


def _exif_of_webp(stream: BinaryIO) -> dict[int, int]:
    r"""EXIF tags of an extended WebP; they stand behind the pixels.

    Examples
    --------
    >>> tags = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)
    >>> _exif_of_webp(io.BytesIO(b"RIFF----WEBPEXIF" + struct.pack("<I", len(tags)) + tags))
    {274: 6}
    """
    place = 12
    while True:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            return {}
        if head[:4] == b"EXIF":
            return _read_tags(stream, place + 8)
        length = int.from_bytes(head[4:], "little")
        place += 8 + length + length % 2
