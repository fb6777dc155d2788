"""Small JSON documents of a feature store, each with a checksum."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.runtime.files import write_bytes
from utils.store.shards import check_key, compute_checksum


class Manifests:
    """Documents by key, one file each.

    Parameters
    ----------
    folder : Path
        Where they lie; made with the first of them.

    Examples
    --------
    >>> import tempfile
    >>> manifests = Manifests(Path(tempfile.mkdtemp()))
    >>> manifests.write("00ff00ff", {"records": ("ab",)})
    >>> manifests.read("00ff00ff")
    {'records': ['ab']}
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, key: str, value: Any) -> None:
        """Keep a document under a key; it replaces an earlier one.

        Parameters
        ----------
        key : str
            Hexadecimal digest.
        value : JSON value
            Tuples come back as lists.

        Raises
        ------
        ValueError
            If `value` is no JSON value or `key` no digest.

        Examples
        --------
        >>> import tempfile
        >>> Manifests(Path(tempfile.mkdtemp())).write("00ff00ff", {1, 2})
        Traceback (most recent call last):
            ...
        ValueError: manifest 00ff00ff: expected a JSON value: Object of type set is not JSON serializable
        """
        path = self.folder / f"{check_key(key)}.json"
        try:
            text = _canonical(value)
        except TypeError as error:
            raise ValueError(f"manifest {key}: expected a JSON value: {error}") from None
        write_bytes(path, f'{{"xxh3":"{compute_checksum(text.encode())}","value":{text}}}\n'.encode())

    def read(self, key: str) -> Any:
        """Read a document; None when there is none.

        Raises
        ------
        DataError
            If its bits have changed.

        Examples
        --------
        >>> import tempfile
        >>> manifests = Manifests(Path(tempfile.mkdtemp()))
        >>> manifests.read("00ff00ff") is None
        True
        >>> manifests.write("00ff00ff", [1])
        >>> path = manifests.folder / "00ff00ff.json"
        >>> _ = path.write_text(path.read_text().replace("[1]", "[3]"))
        >>> manifests.read("00ff00ff")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../00ff00ff.json: its checksum does not match, bits have changed; remove the file ...
        """
        path = self.folder / f"{check_key(key)}.json"
        try:
            document = json.loads(path.read_bytes())
            value = document["value"]
            intact = document["xxh3"] == compute_checksum(_canonical(value).encode())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            advice = "remove the file and run the prepare phase"
            raise DataError(f"{path}: its checksum does not match, bits have changed; {advice}")
        return value

    def find_damaged(self) -> Iterator[tuple[Path, str]]:
        """Read every document; give the path of each that is damaged, and what is wrong.

        Examples
        --------
        >>> import tempfile
        >>> manifests = Manifests(Path(tempfile.mkdtemp()))
        >>> manifests.write("00ff00ff", [1])
        >>> _ = (manifests.folder / "00ff00ff.json").write_text("[")
        >>> [path.name for path, message in manifests.find_damaged()]
        ['00ff00ff.json']
        """
        for path in sorted(self.folder.glob("[0-9a-f]*.json")):
            try:
                self.read(path.stem)
            except ValueError as error:
                yield path, str(error)


def _canonical(value: Any) -> str:
    """The one JSON text of a value, whatever the order in which its keys were set.

    Examples
    --------
    >>> _canonical({"b": (1, 2), "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
