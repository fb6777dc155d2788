"""Sizes of pictures as they are displayed, from their headers, without decoding a pixel."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import cv2
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from utils.errors import DataError
from utils.media.decoding import decode
from utils.media.orientation import HEADERS, orientation_in, tags_of, tags_of_png
from utils.media.other_kinds import VIDEO_SUFFIXES, name_kind
from utils.runtime.reading import MAX_PICTURE_BYTES, check_regular, read_bounded

MAX_PIXELS = 178_956_970  # a header may claim any size: a larger picture would fill the memory when it is decoded
warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")  # what is damaged is refused here
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is the same; ours names the file and its size
_MOVING = ("GIF", "PNG", "WEBP", "AVIF")  # the last one is not in every build of Pillow


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
        If there is no such file, it is empty, no picture, a moving one, or larger than `MAX_PIXELS`.

    Examples
    --------
    >>> import numpy as np
    >>> picture_size(cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes())
    (4, 6)
    """
    size: tuple[int, int] | None
    name = name or ("picture" if isinstance(source, bytes) else source)
    try:
        if not isinstance(source, bytes):
            _check_picture(source)
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
            refuse_frames(stream, name)
            size = _size_of_stream(stream)
    except DataError:
        raise
    except Exception:  # the header ends early or contradicts itself, or it is another kind
        size = _size_by_decoding(source)
    if size is None or min(size) < 1:
        noun = "video" if Path(name).suffix.lower() in VIDEO_SUFFIXES else "picture"
        what, cure = name_kind(source) or ("", "take another copy, or remove it and its label")
        raise DataError(f"{name}: not a {noun} that can be read{f': it is {what}' if what else ''}; {cure}")
    check_pixels(size, name)
    return size


def check_pixels(size: tuple[int, int], name: str | Path) -> None:
    """Refuse a picture, by its size (height, width), that would fill the memory when it is decoded as a whole.

    Raises
    ------
    DataError
        If it is larger than `MAX_PIXELS`.

    Examples
    --------
    >>> check_pixels((20_000, 10_000), "a.png")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.png: 20000 x 10000 pixels, expected at most 178956970 in all; cut it into parts, or ...
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{name}: {size[0]} x {size[1]} pixels, expected at most {MAX_PIXELS} in all; cut it into parts, or take "
            "another copy if it is not that large"
        )


def _check_picture(path: str | Path) -> None:
    """Refuse what is no file on a disk.

    Raises
    ------
    DataError
        If nothing is there, or something else, or the path cannot be followed.

    Examples
    --------
    >>> _check_picture("a" * 300)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: aaa...: the path cannot be followed (File name too long); mend it, or ...
    """
    try:
        check_regular(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such picture; put it there, or mend the label that names it") from None
    except OSError as error:
        what = f"the path cannot be followed ({error.strerror})"
        raise DataError(f"{path}: {what}; mend it, or the label that names it") from None


def refuse_frames(stream: BinaryIO, name: str | Path) -> None:
    """Refuse a moving picture: nothing says which of its frames is meant, and readers take the first one.

    Parameters
    ----------
    stream : binary stream
        A picture; it is read from its start, and left there.
    name : str or Path
        What errors call it.

    Raises
    ------
    DataError
        If it is an animated GIF, PNG, WebP or AVIF of several frames.

    Examples
    --------
    >>> frames, stream = [Image.new("L", (6, 4), value) for value in (0, 9)], io.BytesIO()
    >>> frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    >>> refuse_frames(stream, "a.gif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.gif: a moving picture (GIF) of 2 frames; expected one picture: write each frame to ...
    """
    stream.seek(0)
    try:
        with Image.open(stream, formats=_MOVING) as picture:
            kind, frames = picture.format, int(getattr(picture, "n_frames", 1))
    except Exception:  # of another kind, or damaged: whoever decodes it says so
        kind, frames = None, 1
    stream.seek(0)
    if frames > 1:
        split = f"magick {name} -coalesce" if kind in ("WEBP", "AVIF") else f"ffmpeg -i {name}"
        raise DataError(
            f"{name}: a moving picture ({kind}) of {frames} frames; expected one picture: write each frame to its own "
            f"file ({split} FRAME_%04d.png), or make it a video (ffmpeg -i FRAME_%04d.png VIDEO.mp4)"
        )


def _size_by_decoding(source: str | Path | bytes) -> tuple[int, int] | None:
    """Size of a picture of any kind that OpenCV knows, or None, also for one that is too large for OpenCV.

    Examples
    --------
    >>> _size_by_decoding(b"no picture") is None
    True
    """
    data = source if isinstance(source, bytes) else read_bounded(source, MAX_PICTURE_BYTES)
    pixels = decode(data, cv2.IMREAD_COLOR)
    return None if pixels is None else (pixels.shape[0], pixels.shape[1])


def _size_of_stream(stream: BinaryIO) -> tuple[int, int]:
    """Size by the header of a kind that Pillow and OpenCV read alike.

    Raises
    ------
    Exception
        Whatever Pillow raises where it does not understand the header.

    Examples
    --------
    >>> import numpy as np
    >>> _size_of_stream(io.BytesIO(cv2.imencode(".bmp", np.zeros((4, 6, 3), np.uint8))[1].tobytes()))
    (4, 6)
    """
    with Image.open(stream, formats=HEADERS) as picture:
        if isinstance(picture, TiffImageFile):
            tags: Any = picture.tag_v2
            width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]  # `size` is turned already
        else:
            width, height = picture.size
            tags = tags_of_png(stream) if picture.format == "PNG" else tags_of(picture)
        return (width, height) if orientation_in(tags) > 4 else (height, width)
