"""Taxonomies: files that say which family a fine name belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats.specs import read_yaml

EVERY_OTHER = "*"  # every name that is not listed


def read_taxonomy(value: str | Mapping[str, str], shipped: Path) -> dict[str, str]:
    r"""Read a taxonomy: the family of each fine name.

    Parameters
    ----------
    value : str or dict of str to str
        The name of one in the folder `shipped`, the path of a YAML file with lines `name: family`, or the names and
        families themselves; `*` is every other name.
    shipped : Path
        Folder of the taxonomies that have names.

    Returns
    -------
    dict of str to str
        In the order of the file.

    Raises
    ------
    DataError
        If there is no such file, or it holds something else.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "reef.yml"
    >>> _ = path.write_text("Pavona/Leptoseris: Agariciidae\nPorites: Poritidae\n")
    >>> read_taxonomy(str(path), Path("shipped")), read_taxonomy("reef", path.parent)["Porites"]
    ({'Pavona/Leptoseris': 'Agariciidae', 'Porites': 'Poritidae'}, 'Poritidae')
    >>> read_taxonomy("ref", path.parent)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: dataset.taxonomy: ref: no such file, and no taxonomy of that name; known: reef
    """
    if isinstance(value, str):
        known = {path.stem: path for path in sorted(shipped.glob("*.yml"))}
        path = known.get(value, Path(value).expanduser())
        if not path.is_file():
            names = ", ".join(known) or "none"
            raise DataError(f"dataset.taxonomy: {value}: no such file, and no taxonomy of that name; known: {names}")
        return _check(read_yaml(path), str(path))
    return _check(value, "dataset.taxonomy")


def _check(families: Mapping[Any, Any], where: str) -> dict[str, str]:
    """Names and families as text.

    Raises
    ------
    DataError
        If one is neither text nor a number, or there is none.

    Examples
    --------
    >>> _check({"7": "fish", 8: "fish"}, "a.yml")
    {'7': 'fish', '8': 'fish'}
    >>> _check({"Acropora": ["coral"]}, "a.yml")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.yml: 'Acropora': ['coral']: expected lines `name: family`, both text; quote words such ...
    """
    if not families:
        raise DataError(f"{where}: no line `name: family`; write some")
    for name, family in families.items():
        if any(isinstance(entry, bool) or not isinstance(entry, str | int | float) for entry in (name, family)):
            raise DataError(
                f"{where}: {name!r}: {family!r}: expected lines `name: family`, both text; quote words such as 'no'"
            )
    return {str(name).strip(): str(family).strip() for name, family in families.items()}


def family_of(name: str, taxonomy: Mapping[str, str]) -> str | None:
    """The family of a name; None where the taxonomy does not say.

    Examples
    --------
    >>> family_of("Porites", {"*": "coral"}), family_of("Porites", {"Acropora": "coral"})
    ('coral', None)
    """
    return taxonomy.get(name, taxonomy.get(EVERY_OTHER))
