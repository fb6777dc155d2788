"""Ids of COCO files: exporters write a number in one place of a file and text in another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def is_id(value: Any) -> bool:
    """Whether a value can be an id: a whole number or text.

    Examples
    --------
    >>> is_id(7), is_id("a7"), is_id(True), is_id(7.0)
    (True, True, False, False)
    """
    return isinstance(value, int | str) and not isinstance(value, bool)


def plain_id(value: Any) -> int | str | None:
    """An id as it is compared: the number that it is or writes, else its text; None for what is no id.

    Examples
    --------
    >>> plain_id("0012"), plain_id(12.0), plain_id("cam 1"), plain_id([12])
    (12, 12, 'cam 1', None)
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isdecimal() and len(text) < 100 else text
    return value if is_id(value) else None


class IdFinder:
    """The ids of the pictures or categories of a file, found by number or text.

    Parameters
    ----------
    known : iterable of int or str
        As the file writes them.

    Examples
    --------
    >>> ids = IdFinder([1, "2", "left"])
    >>> ids.find("1", "image"), ids.find(2.0, "image"), ids.find("left", "image")
    (1, '2', 'left')
    """

    def __init__(self, known: Iterable[int | str]):
        self.exact = {(type(id), id): id for id in known}
        self.alike: dict[Any, list[int | str]] = {}
        for id in self.exact.values():
            self.alike.setdefault(plain_id(id), []).append(id)

    def find(self, value: Any, kind: str) -> int | str:
        """The known id that is meant: the same, else the only one that is the same number.

        Parameters
        ----------
        value : any
            As another place of the file writes it.
        kind : str
            What it is an id of, for the error.

        Raises
        ------
        ValueError
            If none is meant, or several may be.

        Examples
        --------
        >>> IdFinder([7, "007"]).find("07", "image")
        Traceback (most recent call last):
            ...
        ValueError: image '07' may be 7 or '007'
        >>> IdFinder([7]).find("8", "category")
        Traceback (most recent call last):
            ...
        ValueError: category '8' is unknown; known: 7
        """
        plain = plain_id(value)
        if plain is not None and (type(value), value) in self.exact:
            return value
        found = self.alike.get(plain, [])
        if len(found) > 1:
            raise ValueError(f"{kind} {value!r} may be {' or '.join(map(repr, found))}")
        if not found:
            listed = [str(id) for id in list(self.exact.values())[:12]]
            more = ", ..." if len(self.exact) > len(listed) else ""
            raise ValueError(f"{kind} {str(repr(value))[:60]} is unknown; known: {', '.join(listed) or 'none'}{more}")
        return found[0]
