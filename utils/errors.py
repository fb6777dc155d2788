"""Errors that a person can act on, and the exit code that each one stands for."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from pathlib import Path

MAX_LINE = 5000  # characters
MAX_WORD = 1000  # characters without a blank; a path has at most some hundred

# control characters, marks of another line, marks that turn the direction of reading, bytes that are no UTF-8
_UNPRINTED = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str) -> str:
    r"""Write what would act on a terminal or begin another line as an escape: names and keys come from strangers.

    Parameters
    ----------
    text : str
        One line. Tabs stay.

    Returns
    -------
    str
        Without control characters; the same text when it is given again.

    Examples
    --------
    >>> print(escape_controls("a.png\n[INFO] done \x1b[2J \u2028 gr\u00fcn \udcff"))
    a.png\n[INFO] done \x1b[2J \u2028 grün \udcff
    """
    return _UNPRINTED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shorten(text: str) -> str:
    """Leave out the middle of a line, or of a word of it, that nobody reads to its end: a line of a file, or a name.

    Where it begins and the advice at its end stay.

    Examples
    --------
    >>> shorten(f"list.txt:1: {'x' * 200000!r} is no picture; remove it") == (
    ...     f"list.txt:1: '{'x' * 499}[... 199002 characters ...]{'x' * 499}' is no picture; remove it"
    ... )
    True
    >>> len(shorten("no such name: " + "a b " * 50000)), shorten("a.png: truncated")
    (5027, 'a.png: truncated')
    """
    words = re.sub(rf"\S{{{MAX_WORD + 1},}}", lambda word: _cut(word[0], MAX_WORD), text)
    return words if len(words) <= MAX_LINE else _cut(words, MAX_LINE)


def _cut(text: str, most: int) -> str:
    """The two ends of a text, and how many characters are left out between them.

    Examples
    --------
    >>> _cut("abcdefgh", 4)
    'ab[... 4 characters ...]gh'
    """
    return f"{text[: most // 2]}[... {len(text) - most // 2 * 2} characters ...]{text[-(most // 2) :]}"


class DinolithError(Exception):
    r"""Base of all errors that `main.py` reports as lines of text, without a traceback.

    Parameters
    ----------
    *lines : str
        One per mistake. A line break within one, as a file's name may hold it, is escaped; what is too long for
        anybody to read is cut.

    Examples
    --------
    >>> DinolithError("x").exit_code
    4
    >>> print(DinolithError("a\nb.tif: truncated", "c.tif: missing"))
    a\nb.tif: truncated
    c.tif: missing
    """

    exit_code = 4
    task = ""  # the task that it is about, where there are several
    told = False  # whether another rank has raised it first, and says it

    def __init__(self, *lines: str):
        super().__init__("\n".join(escape_controls(shorten(str(line))) for line in lines))


class SettingsError(DinolithError, ValueError):
    """The settings cannot be used as they stand.

    Examples
    --------
    >>> SettingsError("train.lr: unknown key").exit_code
    2
    """

    exit_code = 2


class DataError(DinolithError, ValueError):
    """A picture, a label, a store, a checkpoint or weights cannot be used.

    Examples
    --------
    >>> DataError("scene.tif: truncated").exit_code
    3
    """

    exit_code = 3


class LockedError(DinolithError):
    """Another run is at work on the same output.

    Examples
    --------
    >>> LockedError("runs/coral: in use").exit_code
    75
    """

    exit_code = 75


class LostRankError(DinolithError):
    """Another rank was killed or stopped; this one cannot go on without it. Without text where a lower rank speaks.

    Examples
    --------
    >>> LostRankError("rank 1 is lost").exit_code
    4
    """


class Interrupted(DinolithError):
    """A signal asked the run to stop; its state has been saved.

    Parameters
    ----------
    signum : int
        The signal, SIGINT or SIGTERM.

    Examples
    --------
    >>> Interrupted(signal.SIGTERM).exit_code, str(Interrupted(signal.SIGINT))
    (143, 'interrupted by SIGINT; the next run continues from here')
    """

    def __init__(self, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name}; the next run continues from here")
        self.exit_code = 128 + signum


def advice_for_files(error: OSError) -> str | None:
    """Say what to do about a file or folder that the system refuses; None when it is no matter of files.

    Examples
    --------
    >>> advice_for_files(FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b.txt"))
    'a/b.txt: No such file or directory; check the path that the settings name'
    >>> import tempfile
    >>> link = Path(tempfile.mkdtemp()) / "runs"
    >>> link.symlink_to("/no/such")
    >>> advice_for_files(FileExistsError(errno.EEXIST, "File exists", str(link))).replace(str(link), "runs")
    'runs: runs is a link to /no/such, which is not there; remove it, or name another place'
    >>> advice_for_files(OSError(errno.ENAMETOOLONG, "File name too long", 300 * "a"))[300:]
    ': File name too long; check the path that the settings name'
    >>> advice_for_files(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None
    True
    """
    cures = {
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free space on this disk, or name a folder on another one",
        (errno.EACCES, errno.EPERM, errno.EROFS): "name a folder that you may write, or have the rights changed",
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR): "a file stands where a folder is needed, or a folder in place of "
        "a file; remove it, or name another place",
        (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP): "check the path that the settings name",
    }
    cure = next((cure for numbers, cure in cures.items() if error.errno in numbers), None)
    where = error.filename2 or error.filename
    named = next((part for part in (error.filename, error.filename2) if isinstance(part, str | Path)), "")
    parts = (Path(named), *Path(named).parents)  # os.path asks about any path without an error, which Path does not
    link = next((part for part in parts if os.path.islink(part) and not os.path.exists(part)), None)
    if link is not None and error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR):
        return f"{where}: {link} is a link to {os.readlink(link)}, which is not there; remove it, or name another place"
    return None if cure is None else f"{where or 'a file'}: {error.strerror}; {cure}"


def advice_for_packages(error: ModuleNotFoundError) -> str | None:
    """Say what to do about a package that is not installed; None for a module of this project: it is no such matter.

    The text is empty on all ranks of a machine but the first.

    Examples
    --------
    >>> missing = ModuleNotFoundError("No module named 'pydantic'", name="pydantic.main")
    >>> advice_for_packages(missing)  # doctest: +ELLIPSIS
    "the Python package 'pydantic' is missing; install it: .../python... -m pip install -r requirements.txt"
    >>> advice_for_packages(ModuleNotFoundError("", name="utils.lost")) is None
    True
    """
    package = (error.name or str(error)).partition(".")[0]
    root = Path(__file__).parents[1]
    if (root / package).is_dir() or (root / f"{package}.py").is_file():
        return None
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return ""
    install = f"{sys.executable} -m pip install -r requirements.txt"
    return f"the Python package {package!r} is missing; install it: {install}"
