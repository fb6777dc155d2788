"""Single values of labels: flags and numbers, as files state them."""

from __future__ import annotations

import math
from typing import Any


def read_flag(name: str, value: Any) -> bool:
    """Read a flag: 0 or 1 as a number, a boolean or text. The text "0" is true to Python, so it is never asked that.

    Parameters
    ----------
    name : str
        What it is called, for the error.
    value : JSON value
        As the file states it; None is no flag.

    Raises
    ------
    ValueError
        If it is anything else.

    Examples
    --------
    >>> [read_flag("iscrowd", value) for value in (None, False, "0", 1, 1.0, True, "1")]
    [False, False, False, True, True, True, True]
    >>> read_flag("iscrowd", "false")
    Traceback (most recent call last):
        ...
    ValueError: expected 0 or 1 as iscrowd, got 'false'
    """
    if value is None or (isinstance(value, int | float | str) and value in (0, "0")):
        return False
    if isinstance(value, int | float | str) and value in (1, "1"):
        return True
    raise ValueError(f"expected 0 or 1 as {name}, got {repr(value)[:60]}")


def read_number(text: str) -> float:
    """Read a number of a row: digits of ASCII without underscores, which Python itself would take.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> read_number(" 2.5"), read_number("1e-3")
    (2.5, 0.001)
    >>> read_number(".3_1")
    Traceback (most recent call last):
        ...
    ValueError: expected a number, got '.3_1'
    """
    try:
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"expected a number, got {text[:60]!r}")


def read_whole(value: Any) -> int:
    """Read a whole number, also one in quotes or with .0.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> read_whole(96), read_whole("96"), read_whole(96.0)
    (96, 96, 96)
    >>> read_whole("wide")
    Traceback (most recent call last):
        ...
    ValueError: expected a number, got 'wide'
    """
    number = read_number(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"expected a whole number, got {repr(value)[:60]}")
    if not math.isfinite(number) or number != int(number):
        raise ValueError(f"expected a whole number, got {repr(value)[:60]}")
    return int(number)
