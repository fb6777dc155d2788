"""Paths of labels that were written on another computer: what they mean here."""

from __future__ import annotations

import filecmp
import functools
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from utils.errors import DataError
from utils.formats.pictures import PICTURE_SUFFIXES, is_absolute, list_files, plain_path
from utils.runtime.reading import kind_at

NO_FOLDER = ("file", "other")  # what is no file is refused by whoever reads it, and not taken for nothing

_DRIVE = re.compile(r"[A-Za-z]:")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def parts_of(text: str) -> list[str]:
    r"""Folders and name of a path of any system or an address, without its root and steps upward.

    Parameters
    ----------
    text : str
        As a label writes it: `/home/me/a.png`, `C:\set\a.png`, `\\server\share\a.png`, `file:///set/my%20a.png`.

    Examples
    --------
    >>> parts_of("C:\\Users\\me/day 1\\a.png"), parts_of("\\\\server\\share\\..\\a.png")
    (['Users', 'me', 'day 1', 'a.png'], ['server', 'share', 'a.png'])
    >>> parts_of("s3://bucket/day%201/a.png?v=3"), parts_of("D:a.png")
    (['bucket', 'day 1', 'a.png'], ['a.png'])
    """
    plain = plain_path(text)
    if _ADDRESS.match(plain):
        address = urlsplit(plain)
        plain = f"{address.netloc}/{unquote(address.path)}".lstrip("/")
    return [part for part in _DRIVE.sub("", plain, count=1 if _DRIVE.match(plain) else 0).split("/") if part.strip(".")]


def find_moved(text: str, folders: Sequence[Path], kinds: Sequence[str] = NO_FOLDER) -> Path | None:
    """What a path from elsewhere means: the longest end of it that leads to something in one of the folders.

    Parameters
    ----------
    text : str
        The path as written.
    folders : sequence of Path
        Where to look; nothing outside of them is found.
    kinds : sequence of str
        What counts, as `kind_at` calls it.

    Returns
    -------
    Path or None
        None where no end of it leads to anything.

    Raises
    ------
    ValueError
        If the same end leads to different files, or a path cannot be followed.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("day1", "day2"):
    ...     (folder / name).mkdir()
    ...     (folder / name / "a.png").touch()
    >>> find_moved("/home/me/set/day2/a.png", [folder]).relative_to(folder).as_posix()
    'day2/a.png'
    >>> find_moved("E:/set/a.png", [folder / "day1", folder / "day2"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: 'E:/set/a.png' is not on this computer, and may be .../day1/a.png or .../day2/a.png
    """
    parts = parts_of(text)
    for start in range(len(parts)):
        end = posixpath.join(*parts[start:])
        places = [Path(os.path.normpath(folder / end)) for folder in folders]
        found = distinct(place for place in places if kind_at(place) in kinds)
        if len(found) > 1:
            listed = " or ".join(map(str, found[:3]))
            raise ValueError(f"{text!r} is not on this computer, and may be {listed}")
        if found:
            return found[0]
    return None


def find_here(
    text: str, places: Iterable[Path], folders: Sequence[Path], kinds: Sequence[str] = NO_FOLDER
) -> Path | None:
    """The first place that there is; else, of a path that starts at the root of another computer, see `find_moved`.

    Parameters
    ----------
    text : str
        The path as written.
    places : iterable of Path
        What it may mean on this computer, the likeliest first.
    folders : sequence of Path
        Where its end is looked for.
    kinds : sequence of str
        What counts, as `kind_at` calls it.

    Raises
    ------
    ValueError
        If several may be meant, or a path cannot be followed and its end leads nowhere.

    Examples
    --------
    >>> find_here("a.png", [Path("/no/a.png")], []) is None
    True
    >>> find_here("/", [Path("/")], [], ["folder"])
    PosixPath('/')
    """
    moved = is_absolute(plain_path(text))
    try:
        found = next((place for place in places if kind_at(place) in kinds), None)
    except DataError:  # as a folder of the same name that is somebody else's
        found = find_moved(text, folders, kinds) if moved else None
        if found is None:
            raise
    return find_moved(text, folders, kinds) if found is None and moved else found


def need_moved(text: str, folders: Sequence[Path], root: Path, key: str = "") -> Path:
    """The picture that a path from elsewhere means: see `find_moved`.

    Parameters
    ----------
    text : str
        The path as written.
    folders : sequence of Path
        Where to look.
    root : Path
        Data root, for the error.
    key : str
        What the label calls the path, with a colon.

    Raises
    ------
    ValueError
        If there is none, or several may be meant: those of its name in the data root are listed.

    Examples
    --------
    >>> need_moved("../../etc/a.png", [], Path("/data"))
    Traceback (most recent call last):
        ...
    ValueError: '../../etc/a.png' is outside of the data root /data, and no picture of its name is in it
    """
    found = find_moved(text, folders)
    if found is None:
        what = f"{key}{text!r} is outside of the data root {root}"
        alike = _by_name(root).get(parts_of(text)[-1] if parts_of(text) else "", [])
        if not alike:
            raise ValueError(f"{what}, and no picture of its name is in it")
        listed = " or ".join(alike[:3]) + (f" ({len(alike)} in all)" if len(alike) > 3 else "")
        raise ValueError(f"{what}, and may be {listed} in it; write the path from there")
    refuse_other(text, folders, found, key)
    return found


@functools.lru_cache(maxsize=4)
def _by_name(root: Path) -> dict[str, list[str]]:
    """Pictures below a folder by their names, for errors; looked for once, as a set may lack thousands of pictures.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a", "b"):
    ...     (folder / name).mkdir()
    ...     (folder / name / "p.png").touch()
    >>> _by_name(folder)
    {'p.png': ['a/p.png', 'b/p.png']}
    """
    found: dict[str, list[str]] = {}
    for path in list_files(root, PICTURE_SUFFIXES) if root.is_dir() else ():
        found.setdefault(path.name, []).append(path.relative_to(root).as_posix())
    return found


def refuse_other(text: str, folders: Iterable[Path], found: Path, key: str = "") -> None:
    """Refuse a picture of the right name where the path itself leads to another one, outside of the data root.

    Parameters
    ----------
    text : str
        The path as written.
    folders : iterable of Path
        Where it may start.
    found : Path
        The picture of that name inside.
    key : str
        What the label calls the path, with a colon.

    Raises
    ------
    ValueError
        If a file is there whose content differs: the set was not merely copied.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("old", "new"):
    ...     (folder / name).mkdir()
    ...     _ = (folder / name / "a.png").write_text(name)
    >>> refuse_other("../old/a.png", [folder / "new"], folder / "new" / "a.png")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: '../old/a.png' is outside of the data root, and .../new/a.png of its name is another picture; ...
    """
    plain = plain_path(text)
    originals = (Path(os.path.normpath(folder / plain)) for folder in folders)
    if any(os.path.isfile(path) and not filecmp.cmp(path, found, shallow=False) for path in originals):
        what = f"{text!r} is outside of the data root, and {found} of its name is another picture"
        raise ValueError(f"{key}{what}; set paths.data_root to a folder that holds both, or mend the path")


def distinct(paths: Iterable[Path]) -> list[Path]:
    """Paths that lead to different files, in their order; of names of one file the first.

    Examples
    --------
    >>> distinct([Path("a/../b.png"), Path("b.png"), Path("c.png")])
    [PosixPath('a/../b.png'), PosixPath('c.png')]
    """
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())
