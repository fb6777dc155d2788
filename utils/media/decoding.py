"""Decoding of pictures that are in memory, of any kind that OpenCV knows."""

from __future__ import annotations

import cv2
import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"


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
    if not data or not png_fits(data):
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # OpenCV has its own limits for headers
        return None


def png_fits(data: bytes) -> bool:
    r"""Whether no chunk of a PNG states to be longer than the file: OpenCV takes as much memory as a chunk states.

    Examples
    --------
    >>> whole = cv2.imencode(".png", np.zeros((2, 3), np.uint8))[1].tobytes()
    >>> place = whole.index(b"IDAT") - 4
    >>> png_fits(whole), png_fits(whole[:place] + b"\xc0" + whole[place + 1 :]), png_fits(b"another kind")
    (True, False, True)
    """
    position = len(_PNG)
    while data.startswith(_PNG) and position + 4 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length > len(data):
            return False
        position += length + 12  # with its own length, name and checksum
    return True
