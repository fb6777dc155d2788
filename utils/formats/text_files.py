"""Text files of a data set: read as UTF-8, as JSON, and as lists of other files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats.pictures import is_absolute, plain_path

LIST_SUFFIXES = (".txt", ".list")


def read_text(path: Path) -> str:
    r"""Text of a file.

    Raises
    ------
    DataError
        If it is not there, or not text.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_bytes(b"\xff\xfe")
    >>> read_text(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.json: not a text file in UTF-8
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8") from None


def read_json_file(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    DataError
        If it is none.

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
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{path}: not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Lines of a text file that are not empty, with their numbers.

    Raises
    ------
    DataError
        If it is no text.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_text("a.png\n\n b.png \n")
    >>> list(read_lines(path))
    [(1, 'a.png'), (3, 'b.png')]
    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    return ((number, line.strip()) for number, line in lines if line.strip())


def find_listed(text: str, folder: Path, root: Path) -> Path | None:
    """The file that a line of a list names, relative to the list or to the data root; None where there is none.

    Examples
    --------
    >>> find_listed("a.png", Path("/no/such"), Path("/no/root")) is None
    True
    """
    plain = plain_path(text)
    bases = [Path("/")] if is_absolute(plain) else [folder, root]
    candidates = [Path(os.path.normpath(base / plain)) for base in bases]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
