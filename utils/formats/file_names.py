"""Files that are looked for by a name that another file's name gives, as a picture's label is."""

from __future__ import annotations

import os
from pathlib import Path

from utils.errors import DataError


class FileNames:
    """The names in folders; each folder is listed once.

    Examples
    --------
    >>> FileNames().find(Path("/no/a.txt")) is None
    True
    """

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, path: Path) -> Path | None:
        """What stands under a name whose suffix may be in capitals, be it a file or not; None where nothing does.

        Whoever reads it refuses what is no file: a folder or a pipe of the name is not as good as nothing.

        Raises
        ------
        DataError
            If several names differ in the case of their suffix alone, or the folder cannot be listed.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "a.TXT").touch()
        >>> FileNames().find(folder / "a.txt").name
        'a.TXT'
        >>> (folder / "a.txt").mkdir()
        >>> FileNames().find(folder / "a.txt")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../a.TXT: may be meant as well as a.txt beside it; keep one of them
        """
        if path.parent not in self._listed:
            self._listed[path.parent] = _names_in(path.parent)
        names = self._listed[path.parent].get(_plain(path.name), [])
        if len(names) > 1:
            raise DataError(f"{path.parent / names[0]}: may be meant as well as {names[1]} beside it; keep one of them")
        return path.parent / names[0] if names else None


def _plain(name: str) -> str:
    """A name with its suffix in lower case.

    Examples
    --------
    >>> _plain("A.b.TXT")
    'A.b.txt'
    """
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


def _names_in(folder: Path) -> dict[str, list[str]]:
    """Names in a folder, sorted, by the name with a suffix in lower case; none where there is no such folder.

    Raises
    ------
    DataError
        If the folder cannot be listed.

    Examples
    --------
    >>> _names_in(Path("/no/such/folder"))
    {}
    """
    try:
        listed = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); mend the folder or the right to read it"
        ) from None
    found: dict[str, list[str]] = {}
    for name in listed:
        found.setdefault(_plain(name), []).append(name)
    return found
