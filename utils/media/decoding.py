"""Decoding of pictures that are in memory, of any kind that OpenCV knows."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"
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
    whole = whole_png(data) if data.startswith(_PNG) else data
    if not whole:
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
    view, position, kept = memoryview(data), len(_PNG), [memoryview(_PNG)]
    while position + 12 <= len(data):
        end = position + int.from_bytes(view[position : position + 4], "big") + 12
        kind = bytes(view[position + 4 : position + 8])
        if end > len(data):
            return None
        if kind[:1].isupper() or kind in _SHOWN:
            if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                return None
            kept.append(view[position:end])
        if kind == b"IEND":  # some programs append data behind it
            return data if sum(map(len, kept)) == len(data) else b"".join(kept)
        position = end
    return None
