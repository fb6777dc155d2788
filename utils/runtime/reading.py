"""The edge to files that people give: regular files only, bounded, and one error that names file and reader."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from utils.errors import DataError, DinolithError

UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
MAX_TEXT_BYTES = 2**29  # half a gigabyte: COCO files of large sets; a person's list or settings are far below
MAX_SETTINGS_BYTES = 2**20
MAX_PICTURE_BYTES = 2**32  # of a file that is decoded at once

Given = ParamSpec("Given")
Made = TypeVar("Made")

_DAMAGED = "it is damaged or of another kind: copy or export it again"
_VIRTUAL = ("/proc/", "/sys/")  # the system's own: without a size, and often without an end
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
)


@contextmanager
def file_errors(path: str | Path, problem: str, cure: str = _DAMAGED) -> Iterator[None]:
    """Turn whatever a reader raises on a file into one error that names both: a file may break a library anywhere.

    The original error stays as its cause, for the log's debug level.

    Parameters
    ----------
    path : str or Path
        The file.
    problem : str
        What failed, with the name of the reader, such as "cannot be read as LabelMe JSON".
    cure : str
        What to do about it.

    Raises
    ------
    DataError
        In place of any error but those of this project, which say already what they are about.

    Examples
    --------
    >>> with file_errors("a.json", "cannot be read as LabelMe JSON"):
    ...     [][0]
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.json: cannot be read as LabelMe JSON (IndexError: list index out of range); it is ...
    """
    try:
        yield
    except (DinolithError, ModuleNotFoundError):  # a package that is missing is no fault of the file
        raise
    except OSError as error:
        raise DataError(f"{path}: {problem} ({error.strerror or error}); {cure}") from error
    except Exception as error:
        text = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise DataError(f"{path}: {problem} ({reason[:500]}); {cure}") from error


def reads(reader: str, cure: str = _DAMAGED) -> Callable[[Callable[Given, Made]], Callable[Given, Made]]:
    """Mark a function that reads the file of its first argument: its errors name file and reader.

    Parameters
    ----------
    reader : str
        What it is read as, such as "a GeoTIFF".
    cure : str
        What to do about it.

    Examples
    --------
    >>> @reads("a list of numbers")
    ... def read_numbers(path):
    ...     return [int(word) for word in Path(path).read_text().split()]
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("1 two")
    >>> read_numbers(path)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.txt: cannot be read as a list of numbers (ValueError: invalid literal for int() ...
    """

    def mark(function: Callable[Given, Made]) -> Callable[Given, Made]:
        @functools.wraps(function)
        def read(*args: Given.args, **kwargs: Given.kwargs) -> Made:
            with file_errors(str(args[0]) if args else "", f"cannot be read as {reader}", cure):
                return function(*args, **kwargs)

        return read

    return mark


def check_regular(path: str | Path) -> os.stat_result:
    """Refuse what is no file on a disk: reading a pipe waits forever, and a device never ends.

    Raises
    ------
    DataError
        When it is a pipe, a device, a socket, a folder, or a file of the system's own such as in /proc.
    FileNotFoundError
        When there is none.

    Examples
    --------
    >>> check_regular("/dev/zero")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /dev/zero: a device; expected a file on a disk; name another one
    """
    if "\0" in str(path):
        raise DataError(f"{path}: a path cannot hold a NUL character; mend the name")
    status = os.stat(path)
    kind = next((name for test, name in _KINDS if test(status.st_mode)), "")
    if not kind and stat.S_ISREG(status.st_mode) and os.path.realpath(path).startswith(_VIRTUAL):
        kind = "a file that the system makes as it is read"
    if kind:
        raise DataError(f"{path}: {kind}; expected a file on a disk; name another one")
    return status


def kind_at(path: str | Path) -> str:
    """What a path leads to: "file", "folder", "other" as a pipe is, or "" for nothing.

    For paths that labels name: `Path.is_file` takes a loop of links for nothing, and breaks on a name that is too long.

    Raises
    ------
    DataError
        If the path cannot be followed.

    Examples
    --------
    >>> kind_at("/"), kind_at("/dev/zero"), kind_at("/no/such/file")
    ('folder', 'other', '')
    >>> kind_at("/" + "a" * 300)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: the path '/aaa...aaa' cannot be followed (File name too long); mend it, or ...
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        text = str(path) if len(str(path)) <= 120 else f"{str(path)[:60]}...{str(path)[-60:]}"
        raise DataError(f"the path {text!r} cannot be followed ({reason}); mend it, or what it leads over") from None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def read_bounded(path: str | Path, limit: int = MAX_TEXT_BYTES) -> bytes:
    """Read a regular file, if it is no larger than a limit.

    Parameters
    ----------
    path : str or Path
        The file.
    limit : int
        Bytes.

    Raises
    ------
    DataError
        When it is no regular file, or larger.
    OSError
        When there is none, or it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("abc")
    >>> read_bounded(path)
    b'abc'
    >>> read_bounded(path, limit=2)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.txt: 3 bytes, more than the 2 that it may have; divide it, or name another file
    """
    size = check_regular(path).st_size
    if size <= limit:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            data = stream.read(limit + 1)
        size = len(data)
    if size > limit:
        raise DataError(
            f"{path}: {size} bytes, more than the {limit} that it may have; divide it, or name another file"
        )
    return data


def read_bounded_text(path: str | Path, limit: int = MAX_TEXT_BYTES) -> str:
    r"""Text of a regular file in UTF-8, with or without a byte order mark; lines may end in any way.

    Raises
    ------
    DataError
        When it is no regular file, larger than `limit` bytes, or not UTF-8.
    OSError
        When there is none, or it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    >>> read_bounded_text(path)
    'a\nb'
    """
    return decode_text(path, read_bounded(path, limit))


def decode_text(path: str | Path, data: bytes) -> str:
    r"""Decode the content of a file as UTF-8, with or without a byte order mark; lines may end in any way.

    Raises
    ------
    DataError
        If it is not UTF-8; what a byte order mark tells is said.

    Examples
    --------
    >>> decode_text("a.txt", b"\xef\xbb\xbfa\r\nb")
    'a\nb'
    >>> decode_text("a.txt", "a".encode("utf-16"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.txt: not a text file in UTF-8 but in UTF-16; save it as UTF-8
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        other = " but in UTF-16" if data.startswith(UTF16) and len(data) > 2 else ""
        raise DataError(f"{path}: not a text file in UTF-8{other}; save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


class DuplicateKeyError(ValueError):
    """A key that occurs twice in one object of JSON.

    Examples
    --------
    >>> str(DuplicateKeyError("the key 'a' is a duplicate"))
    "the key 'a' is a duplicate"
    """


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, as `object_pairs_hook` of `json.loads`, which by itself keeps the last of equal keys.

    Raises
    ------
    DuplicateKeyError
        If a key occurs twice.

    Examples
    --------
    >>> import json
    >>> json.loads('{"shapes": [1], "id": 2, "shapes": []}', object_pairs_hook=unique_keys)
    Traceback (most recent call last):
        ...
    utils.runtime.reading.DuplicateKeyError: the key 'shapes' is a duplicate in one object; keep one of them
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise DuplicateKeyError(f"the key {doubled[:60]!r} is a duplicate in one object; keep one of them")
    return made
