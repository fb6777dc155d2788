"""Pictures of predictions over what was predicted: written with a mark, by which they are no input of a later run."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from utils.runtime.files import write_bytes

ENDING = "_overlay.png"
_MARK, _MADE_BY = "Software", "Dinolith overlay"  # a text chunk of the PNG


def write_overlay_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write an overlay as PNG; it appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        Ends with `_overlay.png`.
    picture : ndarray of uint8, shape (H, W, 3)
        Red, green, blue.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a_overlay.png"
    >>> write_overlay_picture(path, np.zeros((2, 3, 3), np.uint8))
    >>> is_overlay_picture(path), Image.open(path).size
    (True, (3, 2))
    """
    text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text(_MARK, _MADE_BY)
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=text, compress_type=zlib.Z_RLE)  # thrice as fast on photos
    write_bytes(path, buffer.getvalue())


def is_overlay_picture(path: str | Path) -> bool:
    """Whether a file is a picture that `write_overlay_picture` has written.

    Examples
    --------
    >>> is_overlay_picture("/no/such_overlay.png"), is_overlay_picture("a.png")
    (False, False)
    """
    path = Path(path)
    if not path.name.endswith(ENDING) or not path.is_file():
        return False
    with open(path, "rb") as stream:
        return f"{_MARK}\0{_MADE_BY}".encode() in stream.read(256)
