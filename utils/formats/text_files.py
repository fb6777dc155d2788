"""Text files of a data set: read as UTF-8, as JSON, and as lists of other files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats.moved import find_here
from utils.formats.pictures import is_absolute, plain_path
from utils.runtime.reading import DuplicateKeyError, decode_text, file_errors, read_bounded, unique_keys

LIST_SUFFIXES = (".txt", ".list")


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


def read_json_file(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    DataError
        If it is none, or a key occurs twice in one object.

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
        return json.loads(text, parse_int=_read_whole_number, object_pairs_hook=unique_keys)
    except DuplicateKeyError as error:
        raise DataError(f"{path}: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None


def _read_whole_number(digits: str) -> int | float:
    """Read a whole number; beyond 64 bits it becomes a real one, as in most programs, which no later step trips over.

    Examples
    --------
    >>> _read_whole_number("12"), _read_whole_number("9" * 400)
    (12, inf)
    """
    return int(digits) if len(digits) < 19 else float(digits)


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
