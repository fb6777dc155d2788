"""Pictures decoded as viewers show them: upright, in 8-bit colours, or refused with the reason."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import cv2
import numpy as np

from utils.errors import DataError
from utils.media.decoding import decode
from utils.media.orientation import TIFF_STARTS
from utils.media.picture_sizes import check_pixels, picture_size
from utils.raster.header import read_header
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

logger = logging.getLogger(__name__)

FAINT = 2**14  # a 16-bit picture of lower values is nearly black, as 12 or 14 bits in 16 are
BRIGHT = 0.001  # share of values that may be higher nevertheless: hot pixels of a sensor


def decode_rgb(data: bytes, name: str | Path) -> np.ndarray:
    """Decode a picture as it is displayed.

    Parameters
    ----------
    data : bytes
        PNG, JPEG, BMP, WebP and what else OpenCV knows; a TIFF is read by GDAL, which knows more kinds of it.
    name : str or Path
        What errors call it.

    Returns
    -------
    uint8 array, shape (H, W, 3)
        Red first, turned as the EXIF orientation says. 16-bit values are shares of the whole range.

    Raises
    ------
    DataError
        If it cannot be decoded, has too many pixels, or its values cannot be shown in 8 bits without a choice: real
        or signed numbers, and few bits in many.

    Examples
    --------
    >>> pixels = np.full((2, 3, 3), (9, 0, 0), np.uint8)
    >>> decode_rgb(cv2.imencode(".png", pixels)[1].tobytes(), "a.png")[0, 0].tolist()
    [0, 0, 9]
    >>> decode_rgb(cv2.imencode(".png", np.full((2, 3), 4095, np.uint16))[1].tobytes(), "a.png")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.png: 16-bit values up to 4095 only, nearly black where 65535 is white; if they are of 12 \
bits, convert it to 8 bits (gdal_translate -ot Byte -scale 0 4095 0 255)
    """
    if data[:4] in TIFF_STARTS:
        with tempfile.NamedTemporaryFile(suffix=".tif") as file:  # it may be embedded in a label
            file.write(data)
            file.flush()
            try:
                return decode_raster(file.name, name)
            except DataError as error:
                raise DataError(str(error).replace(file.name, str(name))) from None
    picture_size(data, name)  # before memory is allocated for it
    decoded = decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if decoded is None:
        raise DataError(f"{name}: cannot be decoded as a picture; is it cut off? take another copy")
    refuse_faint(decoded, name)
    if has_opacity(data) and not _TRANSPARENT:
        whole = decode(data, cv2.IMREAD_UNCHANGED)
        if whole is not None and whole.ndim == 3 and whole.shape[2] == 4 and not whole[..., 3].any():
            _tell_of_transparency(str(name))
    return show_values(np.ascontiguousarray(decoded[..., ::-1]), name)


def decode_raster(path: str | Path, name: str | Path | None = None) -> np.ndarray:
    """Decode a TIFF or VRT as it is displayed, shape (H, W, 3), uint8.

    Parameters
    ----------
    path : str or Path
        A file that GDAL reads.
    name : str or Path, optional
        What errors call it.

    Raises
    ------
    DataError
        If it cannot be read, has several pages, too many pixels, other bands than colours, or values that are no
        colours.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> decode_raster(raster_file("a.tif", np.uint8([[[1, 2, 3], [4, 5, 6]]])), "a.tif").tolist()
    [[[1, 2, 3], [4, 5, 6]]]
    >>> decode_raster(raster_file("a.tif", np.zeros((1, 2, 5), np.uint8)), "a.tif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: 5 bands, expected grey, three colours, or colours and opacity; write the three ...
    """
    name = name or path
    scene, bits = open_picture(path, name)  # first, as it tells a raster without data from one that is too large
    check_pixels((scene.height, scene.width), name)
    values, valid = scene.read_values(Window(0, 0, scene.height, scene.width))
    if bits is None:
        refuse_faint(values[valid], name)
    if read_header(path).alpha is not None and not valid.any():
        _tell_of_transparency(str(name))
    return show_values(values, name, bits)


def open_picture(path: str | Path, name: str | Path | None = None) -> tuple[RasterScene, int | None]:
    """A raster as a picture of three colours, and how many bits of a value the file says that it uses, if it does.

    Of four bands none of which is opacity, the first three are taken for the colours, and that is logged.

    Parameters
    ----------
    path : str or Path
        A file that GDAL reads.
    name : str or Path, optional
        What errors call it.

    Raises
    ------
    DataError
        If it has two or more than four bands besides opacity.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> scene, bits = open_picture(raster_file("a.tif", np.zeros((4, 8, 4), np.uint8)))
    >>> scene.bands, bits
    ((1, 2, 3), None)
    """
    header, name = read_header(path), name or path
    count = len(header.colour_bands)
    if count == 2 or count > 4:
        raise DataError(
            f"{name}: {count} bands, expected grey, three colours, or colours and opacity; write the three that are "
            "red, green and blue to a file of their own (gdal_translate -b 1 -b 2 -b 3)"
        )
    if count == 4:
        _tell_of_fourth(str(name))
    return RasterScene(path, bands=(1, 2, 3) if count == 4 else None), header.bits


_TOLD: list[str] = []  # the first picture with a fourth band: one line is enough for a set of them


def _tell_of_fourth(name: str) -> None:
    """Log, once, that a band is left out.

    Examples
    --------
    >>> _tell_of_fourth("a.tif")
    """
    if not _TOLD:
        _TOLD.append(name)
        logger.warning(
            "%s: 4 bands, and none is opacity: the first three are read as red, green and blue, and the fourth is left "
            "out, here and in others like it; if the colours are other bands, write them to a file of their own "
            "(gdal_translate -b 3 -b 2 -b 1)",
            name,
        )


def has_opacity(data: bytes) -> bool:
    """Whether a PNG or WebP says that it holds opacity beside its colours.

    Examples
    --------
    >>> [has_opacity(cv2.imencode(".png", np.zeros((2, 3, bands), np.uint8))[1].tobytes()) for bands in (3, 4)]
    [False, True]
    """
    png = data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] in (b"\x04", b"\x06")
    flags = {b"VP8X": data[20:21], b"VP8L": data[24:25]}.get(data[12:16], b"") if data[:4] == b"RIFF" else b""
    return png or bool(flags and flags[0] & 0x10)


_TRANSPARENT: list[str] = []  # the first such picture: one line is enough for a set of them


def _tell_of_transparency(name: str) -> None:
    """Log, once, that a picture is transparent everywhere, and is read as if it were not.

    Examples
    --------
    >>> _tell_of_transparency("a.png")
    """
    if not _TRANSPARENT:
        _TRANSPARENT.append(name)
        logger.warning(
            "%s: transparent everywhere: the colours beneath are read as if it were not, here and in others like it; "
            "look whether it is the picture that is meant (magick IN -alpha off OUT.png)",
            name,
        )


def refuse_faint(values: np.ndarray, name: str | Path) -> None:
    """Refuse 16-bit values, any shape, that would be nearly black; the file does not say that it uses fewer bits.

    Raises
    ------
    DataError
        If hardly any of them reaches a quarter of the range; other types pass, and so does what is black on any scale.

    Examples
    --------
    >>> refuse_faint(np.uint16([0, 20000]), "a.tif")
    >>> refuse_faint(np.uint16([0] * 999 + [60000]), "stars.tif")
    >>> refuse_faint(np.uint16([0, 900]), "a.tif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: 16-bit values up to 900 only, nearly black where 65535 is white; if they are of 10 \
bits, convert it to 8 bits (gdal_translate -ot Byte -scale 0 1023 0 255)
    """
    if values.dtype != np.uint16 or not values.any() or np.mean(values >= FAINT) >= BRIGHT:
        return
    top = int(values[values < FAINT].max())
    if top == 0:  # a black sky with stars: no other scale would show more
        return
    few = max(top.bit_length(), 8)
    raise DataError(
        f"{name}: 16-bit values up to {top} only, nearly black where 65535 is white; if they are of {few} "
        f"bits, convert it to 8 bits (gdal_translate -ot Byte -scale 0 {2**few - 1} 0 255)"
    )


def show_values(values: np.ndarray, name: str | Path, bits: int | None = None) -> np.ndarray:
    """Values of a picture, any shape, as uint8.

    Parameters
    ----------
    values : array
        As they were decoded.
    name : str or Path
        What errors call it.
    bits : int, optional
        Of a value, where the file says that it uses fewer than its type has.

    Raises
    ------
    DataError
        If what is black and white in them is not known.

    Examples
    --------
    >>> show_values(np.uint16([0, 257, 32896, 65535]), "a.png").tolist()
    [0, 1, 128, 255]
    >>> show_values(np.float32([0, 1]), "a.tif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: values are float32, from 0 to 1, and a picture needs 8 bits; convert it ...
    """
    if values.dtype == np.uint8:
        return values
    low, high = (float(np.nan_to_num(edge(values))) for edge in (np.nanmin, np.nanmax))
    convert = f"convert it to 8 bits (gdal_translate -ot Byte -scale {low:g} {high:g} 0 255)"
    if values.dtype != np.uint16:
        raise DataError(
            f"{name}: values are {values.dtype}, from {low:g} to {high:g}, and a picture needs 8 bits; {convert}"
        )
    return np.rint(values * np.float32(255 / (2 ** (bits or 16) - 1))).clip(0, 255).astype(np.uint8)
