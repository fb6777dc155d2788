"""Decoding of pictures that are in memory, of any kind that OpenCV knows."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from utils.media.orientation import PNG_START, exif_in_text

_JPEG = b"\xff\xd8"
_SHOWN = (b"tRNS", b"eXIf")  # chunks besides the critical ones that decide what is seen: opacity and orientation


def decode(data: bytes, flags: int) -> np.ndarray | None:
    """Decode a picture, shape (H, W) or (H, W, C) in OpenCV's order of colours; None for what is no whole picture.

    Parameters
    ----------
    data : bytes
        The file.
    flags : int
        OpenCV's, such as `cv2.IMREAD_COLOR`.

    Examples
    --------
    >>> decode(cv2.imencode(".png", np.full((2, 3), 7, np.uint8))[1].tobytes(), cv2.IMREAD_GRAYSCALE).tolist()
    [[7, 7, 7], [7, 7, 7]]
    >>> decode(b"no picture", cv2.IMREAD_COLOR) is None
    True
    """
    whole = whole_png(data) if data.startswith(PNG_START) else data
    if not whole or (data.startswith(_JPEG) and not has_end(data)):
        return None
    try:
        return cv2.imdecode(np.frombuffer(whole, np.uint8), flags)
    except cv2.error:  # OpenCV has its own limits for headers
        return None


def whole_png(data: bytes) -> bytes | None:
    r"""A PNG with the chunks that decide what is seen; None for one that is cut off or damaged.

    OpenCV takes as much memory as a chunk states to be long, and its libpng writes past the log what it thinks of a
    colour profile, a text or a wrong checksum, without naming the file.

    Parameters
    ----------
    data : bytes
        A file that begins as a PNG.

    References
    ----------
    PNG Specification, third edition, 5.3 and 5.4: length, name, content and CRC-32 of a chunk; the name of a critical
    one begins with a capital letter.

    Examples
    --------
    >>> whole = cv2.imencode(".png", np.zeros((2, 3), np.uint8))[1].tobytes()
    >>> comment = b"\0\0\0\3tEXta\0b" + zlib.crc32(b"tEXta\0b").to_bytes(4, "big")
    >>> whole_png(whole[:33] + comment + whole[33:]) == whole
    True
    >>> place = whole.index(b"IDAT")
    >>> whole_png(whole[:-12]), whole_png(whole[: place - 4] + b"\xc0" + whole[place - 3 :])
    (None, None)
    """
    view, position, kept, exif = memoryview(data), len(PNG_START), [memoryview(PNG_START)], b""
    while position + 12 <= len(data):
        end = position + int.from_bytes(view[position : position + 4], "big") + 12
        kind = bytes(view[position + 4 : position + 8])
        if end > len(data):
            return None
        profile = exif_in_text(kind, bytes(view[position + 8 : end - 4])) if kind.endswith(b"Xt") else b""
        if kind[:1].isupper() or kind in _SHOWN or profile:
            if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                return None
            if not profile:
                kept.append(view[position:end])
        exif = exif or profile
        if kind == b"IEND":  # some programs append data behind it
            if exif and not any(chunk[4:8] == b"eXIf" for chunk in kept):  # as OpenCV reads it from the text itself
                body = b"eXIf" + exif
                kept.insert(2, memoryview(len(exif).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")))
            return b"".join(kept)
        position = end
    return None


def has_end(data: bytes) -> bool:
    r"""Whether the end of a JPEG is there: without it OpenCV fills what is missing with grey, and GDAL refuses it.

    Parameters
    ----------
    data : bytes
        A file that begins as a JPEG.

    References
    ----------
    ITU-T T.81, B.1.1: segments begin with a marker and their length; after the start of a scan, 0xFFD9 is the end.

    Examples
    --------
    >>> whole = cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes()
    >>> has_end(whole), has_end(whole + bytes(3)), has_end(whole[:-1])
    (True, True, False)
    """
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == b"\xda":  # a preview within the segments before it has an end of its own
            return data.find(b"\xff\xd9", position) >= 0
        position += 1 if marker == b"\xff" else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position < len(data)  # no marker where one should be: the decoder tells what it makes of it
