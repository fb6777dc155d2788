"""Text files of a data set: read as UTF-8, as JSON, and as lists of other files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.formats.moved import find_here
from utils.formats.pictures import is_absolute, plain_path
from utils.formats.types import MOST_POINTS
from utils.runtime.reading import DuplicateKeyError, decode_text, file_errors, read_bounded, unique_keys

LIST_SUFFIXES = (".txt", ".list")
_MOST_NUMBERS = 2 * MOST_POINTS
_BLOCK = 2**24


def read_data(path: Path) -> bytes:
    r"""Content of a regular file.

    Raises
    ------
    DataError
        If it is not there, a folder, a pipe or a device, or too large.

    Examples
    --------
    >>> read_data(Path("/no/such/a.xml"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/a.xml: no such file
    """
    try:
        with file_errors(path, "cannot be read"):
            return read_bounded(path)
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            what = "a link that leads nowhere" if path.is_symlink() else "no such file"
            raise DataError(f"{path}: {what}") from None
        raise


def read_text(path: Path) -> str:
    r"""Text of a regular file in UTF-8, with or without a byte order mark; lines may end in any way.

    Raises
    ------
    DataError
        If it is not there, a folder, a pipe or a device, too large, or not text.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_bytes(b"\xff\xfe")
    >>> read_text(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.json: not a text file in UTF-8; save it as UTF-8
    """
    return decode_text(path, read_data(path))


def read_json_file(path: Path, picture_key: str | None = None) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : Path
        The file.
    picture_key : str, optional
        A key that stands once for each picture that the file labels; then the points of all outlines are bounded too.

    Raises
    ------
    DataError
        If it is none, a key occurs twice in one object, a list of numbers is too long, or it has too many for its
        pictures.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text('{"images": [')
    >>> read_json_file(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.json: not JSON (...)
    """
    data = read_data(path)
    refuse_long_lists(path, data)
    if picture_key is not None:
        refuse_many_numbers(path, data.count(b","), max(1, data.count(f'"{picture_key}"'.encode())))
    text = decode_text(path, data)
    try:
        return json.loads(text, parse_int=_read_whole_number, object_pairs_hook=unique_keys)
    except DuplicateKeyError as error:
        raise DataError(f"{path}: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None


def refuse_long_lists(path: Path, data: bytes, ends: bytes = b'{}"', between: bytes = b",") -> None:
    r"""Refuse a file with a list of more numbers than an outline may have, before parsing it fills the memory.

    Parameters
    ----------
    path : Path
        The file, for the message.
    data : bytes
        Its content.
    ends : bytes
        Characters that no list of numbers holds.
    between : bytes
        The character that divides its numbers.

    Raises
    ------
    DataError
        With the line on which the list begins.

    Examples
    --------
    >>> refuse_long_lists(Path("a.json"), b'{"points": [' + b"1,2," * 9 + b"3]}")
    >>> refuse_long_lists(Path("a.json"), b'{\n"points": [' + b"1,2," * 1_000_001 + b"3]}")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.json: line 2: a list of 2000003 numbers, and an outline has 1000000 points at most; ...
    """
    for begin, end in _long_stretches(data, ends):
        if (numbers := data.count(between, begin, end) + 1) > _MOST_NUMBERS:
            line = data.count(b"\n", 0, begin) + 1
            raise DataError(
                f"{path}: line {line}: a list of {numbers} numbers, and an outline has {MOST_POINTS} points at most; "
                "simplify it"
            )


def refuse_many_numbers(path: Path, numbers: int, pictures: int = 1) -> None:
    """Refuse a file of short lists that together are more points than pictures have, before parsing fills the memory.

    Parameters
    ----------
    path : Path
        The file, for the message.
    numbers : int
        How many values it has, of points and of all else.
    pictures : int
        How many pictures it labels.

    Raises
    ------
    DataError
        If there are more than `MOST_POINTS` points and as many other values for each picture.

    Examples
    --------
    >>> refuse_many_numbers(Path("a.json"), 4_000_000)
    >>> refuse_many_numbers(Path("a.json"), 30_000_000, 2)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.json: 30000000 values label 2 pictures, and the outlines of a picture have 1000000 \
points at most; simplify them
    """
    if numbers > 2 * _MOST_NUMBERS * pictures:
        noun = "a picture" if pictures == 1 else f"{pictures} pictures"
        raise DataError(
            f"{path}: {numbers} values label {noun}, and the outlines of a picture have {MOST_POINTS} points at most; "
            "simplify them"
        )


def _long_stretches(data: bytes, ends: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of what stands between any of some characters, where it is as long as a list that is refused.

    Examples
    --------
    >>> list(_long_stretches(b"{ab}" + b"a" * 2_000_001 + b"}" + b"b" * 9, b"{}"))
    [(4, 2000005)]
    """
    characters, last = np.frombuffer(data, np.uint8), -1
    for start in range(0, len(data), _BLOCK):
        block = characters[start : start + _BLOCK]
        found = start + np.flatnonzero(np.logical_or.reduce([block == end for end in ends]))
        edges = np.concatenate([[last], found])
        for place in np.flatnonzero(np.diff(edges) > _MOST_NUMBERS):
            yield int(edges[place]) + 1, int(edges[place + 1])
        last = int(edges[-1])
    if len(data) - last > _MOST_NUMBERS:
        yield last + 1, len(data)


def _read_whole_number(digits: str) -> int | float:
    """Read a whole number; beyond 64 bits it becomes a real one, as in most programs, which no later step trips over.

    Examples
    --------
    >>> _read_whole_number("12"), _read_whole_number("9" * 400)
    (12, inf)
    """
    return int(digits) if len(digits) < 19 else float(digits)


def read_lines(path: Path, row_values: int | None = None) -> Iterator[tuple[int, str]]:
    r"""Lines of a text file that are not empty, with their numbers.

    Parameters
    ----------
    path : Path
        The file.
    row_values : int, optional
        How many values a row of the labels of a picture has at least; then what its rows have more, together, is
        bounded by the points that the outlines of a picture may have.

    Raises
    ------
    DataError
        If it is no text, or a line, or all rows together, hold too many numbers.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_text("a.png\n\n b.png \n")
    >>> list(read_lines(path))
    [(1, 'a.png'), (3, 'b.png')]
    """
    data = read_data(path)
    refuse_long_lists(path, data, b"\n", b" ")
    if row_values is not None:
        numbers = data.count(b" ") + data.count(b"\t")
        refuse_many_numbers(path, numbers - row_values * min(data.count(b"\n"), MOST_POINTS))
    lines = enumerate(decode_text(path, data).splitlines(), start=1)
    return ((number, line.strip()) for number, line in lines if line.strip())


def find_listed(text: str, folder: Path, root: Path) -> Path | None:
    """The file that a line of a list names, relative to the list or to the data root; None where there is none.

    A path that starts at the root of another computer means the file at its end beside the list or in the data root.

    Raises
    ------
    ValueError
        If several files may be meant, or the path cannot be followed.

    Examples
    --------
    >>> find_listed("a.png", Path("/no/such"), Path("/no/root")) is None
    True
    """
    plain = plain_path(text)
    bases = [Path("/")] if is_absolute(plain) else [folder, root]
    return find_here(text, (Path(os.path.normpath(base / plain)) for base in bases), [folder, root])
