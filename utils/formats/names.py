"""Names of classes and keypoints: which are alike, and which are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
