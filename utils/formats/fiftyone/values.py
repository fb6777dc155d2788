"""Values of FiftyOne's files: numbers and masks as MongoDB writes them into JSON."""

from __future__ import annotations

import base64
import binascii
import io
import math
import zlib
from typing import Any

import numpy as np

from utils.formats.types import MOST_POINTS

_NUMBERS = ("$numberDouble", "$numberInt", "$numberLong", "$numberDecimal")
_LEAST = 2**20  # elements that a mask may have in any picture


def plain_number(value: Any) -> Any:
    """A number that stands in an object such as {"$numberDouble": "NaN"}; any other value as it is.

    Examples
    --------
    >>> plain_number({"$numberDouble": "NaN"}), plain_number({"$numberInt": "3"}), plain_number(None), plain_number([1])
    (nan, 3, None, [1])
    """
    if not isinstance(value, dict) or len(value) != 1:
        return value
    [(key, text)] = value.items()
    try:
        return value if key not in _NUMBERS else int(text) if key in _NUMBERS[1:3] else float(text)
    except (TypeError, ValueError):
        return value


def read_points(value: Any, name: str, missing: bool = False) -> np.ndarray:
    """Points (N, 2) of a list of pairs, in shares of the picture.

    Parameters
    ----------
    value : JSON value
        As the file states it.
    name : str
        What it is called, for the error.
    missing : bool
        Whether a point may be NaN or null.

    Raises
    ------
    ValueError
        If it is something else, or has too many points.

    Examples
    --------
    >>> read_points([[0.5, {"$numberDouble": "0.25"}]], "points").tolist()
    [[0.5, 0.25]]
    >>> read_points([[0.5, None]], "points")
    Traceback (most recent call last):
        ...
    ValueError: expected points as pairs of finite numbers, got [[0.5, None]]
    """
    if isinstance(value, list) and len(value) > MOST_POINTS:
        raise ValueError(f"{len(value)} points, and an outline has {MOST_POINTS} at most; simplify it")
    try:
        rows = [[plain_number(number) for number in (pair or (None, None))] for pair in value]
        good = all(len(row) == 2 and not any(isinstance(n, str | bool) for n in row) for row in rows)
        points = np.array(rows if good else "none", np.float64).reshape(-1, 2)
    except (OverflowError, TypeError, ValueError):
        points = np.full((1, 2), np.inf)
    if not (np.isfinite(points) | (np.isnan(points) & missing)).all():
        raise ValueError(f"expected {name} as pairs of finite numbers, got {str(value)[:60]}")
    return points


def read_box(value: Any, size: tuple[int, int]) -> np.ndarray:
    """A box (4,) as x1, y1, x2, y2 in pixels, out of left, top, width and height in shares of the picture.

    Raises
    ------
    ValueError
        If it is no such list, has no area, or is more than three pictures wide: in pixels by mistake.

    Examples
    --------
    >>> read_box([0.5, 0, 0.25, 1], (40, 60)).tolist()
    [30.0, 0.0, 45.0, 40.0]
    >>> read_box([30, 0, 15, 40], (40, 60))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: expected bounding_box as left, top, width and height in shares of the picture, got [30, 0, 15, 40]
    """
    numbers = [plain_number(number) for number in value] if isinstance(value, list) else []
    good = len(numbers) == 4 and all(isinstance(number, int | float) for number in numbers)
    if not good or not all(math.isfinite(number) and abs(number) < 3 for number in numbers):
        what = "left, top, width and height in shares of the picture"
        raise ValueError(f"expected bounding_box as {what}, got {str(value)[:60]}")
    left, top, width, height = map(float, numbers)
    if min(width, height) <= 0:
        raise ValueError(f"expected a bounding_box with a width and a height, got {width:g} x {height:g}")
    return np.array([left, top, left + width, top + height]) * [size[1], size[0], size[1], size[0]]


def read_array(value: Any, pixels: int) -> np.ndarray:
    """A mask of whole numbers, shape (H, W), as FiftyOne writes it: base64 of what zlib made of a file of NumPy.

    Parameters
    ----------
    value : JSON value
        An object with `$binary`, the text alone, or rows of numbers.
    pixels : int
        Of the picture: a mask has no more.

    Raises
    ------
    ValueError
        If it is no such array, or a larger one; nothing is unpacked beyond that, and no object is loaded.

    References
    ----------
    serialize_numpy_array of FiftyOne.

    Examples
    --------
    >>> text = write_array(np.eye(2, dtype=bool))
    >>> read_array(text, 6).tolist()
    [[True, False], [False, True]]
    >>> read_array({"$binary": {"base64": "AAAA", "subType": "00"}}, 6)
    Traceback (most recent call last):
        ...
    ValueError: a mask that is damaged: unknown compression method; export it again
    """
    if isinstance(value, list):
        rows = value if all(isinstance(row, list) for row in value) else [[]]
        found = np.array(rows if len({len(row) for row in rows}) == 1 else [[None]])
        return _checked(found)
    binary = value.get("$binary") if isinstance(value, dict) else value
    text = binary.get("base64") if isinstance(binary, dict) else binary
    if not isinstance(text, str):
        raise ValueError(f"expected a mask as $binary, got {str(value)[:60]}")
    most = 8 * max(pixels, _LEAST) + 4096  # numbers of 64 bits at most, and the head
    try:
        unpacked = zlib.decompressobj()
        data = unpacked.decompress(base64.b64decode(text, validate=True), most)
    except (binascii.Error, zlib.error, ValueError) as error:
        reason = str(error).rpartition(": ")[2]
        raise ValueError(f"a mask that is damaged: {reason}; export it again") from None
    if not unpacked.eof:
        what = "is cut off" if len(data) < most else f"has more than {most} bytes, for a picture of {pixels} pixels"
        raise ValueError(f"a mask that {what}; export it again")
    return _checked(_array_of(data))


def _array_of(data: bytes) -> np.ndarray:
    """The array of a file of NumPy, which says no more than what it holds.

    Raises
    ------
    ValueError
        If it is none, or one of objects.

    Examples
    --------
    >>> _array_of(b"pixels")
    Traceback (most recent call last):
        ...
    ValueError: a mask that is no array of NumPy; export it again
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, kind = read(stream)
        rest = memoryview(data)[stream.tell() :]
        if kind.hasobject or math.prod(shape) * kind.itemsize != len(rest):
            raise ValueError
        return np.frombuffer(rest, kind).reshape(shape, order="F" if by_column else "C")
    except (EOFError, SyntaxError, TypeError, ValueError):
        raise ValueError("a mask that is no array of NumPy; export it again") from None


def _checked(array: np.ndarray) -> np.ndarray:
    """An array that is a mask of whole numbers.

    Raises
    ------
    ValueError
        If it is another one.

    Examples
    --------
    >>> _checked(np.zeros((2, 3, 3)))
    Traceback (most recent call last):
        ...
    ValueError: expected a mask of whole numbers with height and width, got float64 of shape (2, 3, 3)
    """
    if array.ndim != 2 or array.dtype.kind not in "biu" or not array.size:
        got = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"expected a mask of whole numbers with height and width, got {got}")
    return array


def write_array(array: np.ndarray) -> dict[str, Any]:
    """An array as FiftyOne writes it: see `read_array`.

    Examples
    --------
    >>> sorted(write_array(np.zeros((2, 3), bool))["$binary"])
    ['base64', 'subType']
    """
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    text = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    return {"$binary": {"base64": text, "subType": "00"}}
