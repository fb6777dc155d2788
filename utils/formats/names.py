"""Names of classes and keypoints: which are alike, and which are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.errors import DataError


def alike(names: Sequence[str]) -> list[list[str]]:
    """Groups of names that differ only by case, spaces or underscores.

    Examples
    --------
    >>> alike(["nose", " Nose", "left ear", "Left_Ear", "tail"])
    [['nose', ' Nose'], ['left ear', 'Left_Ear']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.replace("_", " ").split()).casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def read_name(value: Any) -> str:
    """The name of a class or keypoint, without blanks at its ends.

    Raises
    ------
    ValueError
        If it is neither text nor a number, or empty.

    Examples
    --------
    >>> read_name(" cat "), read_name(7)
    ('cat', '7')
    >>> read_name(None)
    Traceback (most recent call last):
        ...
    ValueError: expected a name, got None
    """
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"expected a name, got {repr(value)[:60]}")
    return str(value).strip()


def read_names(values: Sequence[Any], where: str) -> list[str]:
    """The names in a list, each without blanks at its ends.

    Raises
    ------
    DataError
        With `where` and the number of the first value that is none.

    Examples
    --------
    >>> read_names(["cat ", 7], "data.yaml: names")
    ['cat', '7']
    >>> read_names(["cat", " "], "data.yaml: names")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: names: entry 1: expected a name, got ' '; give it one, or take it out and count \
the others anew
    """
    names = []
    for index, value in enumerate(values):
        try:
            names.append(read_name(value))
        except ValueError as error:
            cure = "give it one, or take it out and count the others anew"
            raise DataError(f"{where}: entry {index}: {error}; {cure}") from None
    return names
