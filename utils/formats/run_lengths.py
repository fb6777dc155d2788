"""Masks as run lengths of COCO: column by column, first of what the mask does not cover; checked, never unfolded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_MOST_DIGITS = 10  # of five bits: longer numbers are beyond every picture


def read_counts(mask: Any, size: tuple[int, int] | None = None) -> list[int]:
    """The run lengths of a mask, also of one compressed to text.

    Parameters
    ----------
    mask : dict
        `size` as [height, width], and `counts` as numbers or text.
    size : (int, int), optional
        Height and width of its picture.

    Raises
    ------
    ValueError
        If they are no run lengths, are not of the picture's size, or do not add up to its pixels.

    Examples
    --------
    >>> read_counts({"size": [2, 3], "counts": [3, 2, 1]}, (2, 3)), read_counts({"size": [2, 3], "counts": "321"})
    ([3, 2, 1], [3, 2, 1])
    >>> read_counts({"size": [2, 3], "counts": [3, 2]})
    Traceback (most recent call last):
        ...
    ValueError: run lengths of 5 pixels in a mask of 2 x 3; write the mask again
    >>> read_counts({"size": [2, 3], "counts": [3, 2, 1]}, (4, 6))
    Traceback (most recent call last):
        ...
    ValueError: a mask of 2 x 3 pixels, but its picture has 4 x 6; write the mask again at the picture's size
    """
    known: Any = mask if isinstance(mask, Mapping) else {}
    counts, sides = known.get("counts"), known.get("size")
    if isinstance(counts, str):
        counts = _read_text(counts)
    lists = all(isinstance(part, list) and all(type(value) is int for value in part) for part in (counts, sides))
    if not lists or len(sides) != 2 or min((*counts, *sides), default=-1) < 0:
        raise ValueError("a mask without counts and size as whole numbers; write the mask again")
    if size is not None and tuple(sides) != size:
        what = f"a mask of {sides[0]} x {sides[1]} pixels, but its picture has {size[0]} x {size[1]}"
        raise ValueError(f"{what}; write the mask again at the picture's size")
    if sum(counts) != sides[0] * sides[1]:
        what = f"run lengths of {sum(counts)} pixels in a mask of {sides[0]} x {sides[1]}"
        raise ValueError(f"{what}; write the mask again")
    return counts


def _read_text(text: str) -> list[int] | None:
    """Run lengths out of COCO's text: digits of five bits from the lowest on; from the fourth number on, differences.

    None where the text is none.

    References
    ----------
    rleFrString of pycocotools.

    Examples
    --------
    >>> _read_text("52203"), _read_text("5 2"), _read_text("o")
    ([5, 2, 2, 2, 5], None, None)
    """
    counts: list[int] = []
    value = digits = 0
    for byte in text.encode():
        part = byte - 48
        if not 0 <= part < 64 or digits == _MOST_DIGITS:
            return None
        value |= (part & 31) << 5 * digits
        digits += 1
        if part & 32:  # more digits follow
            continue
        if part & 16:  # the highest bit is the sign
            value -= 1 << 5 * digits
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = digits = 0
    return counts if digits == 0 else None


def box_of_mask(mask: Mapping) -> np.ndarray | None:
    """The box (4,) around a mask; None where it covers nothing.

    Raises
    ------
    ValueError
        If it is none: see `read_counts`.

    Examples
    --------
    >>> box_of_mask({"size": [2, 3], "counts": [3, 2, 1]}).tolist(), box_of_mask({"size": [2, 3], "counts": [6]})
    ([1.0, 0.0, 3.0, 2.0], None)
    """
    counts = read_counts(mask)
    height, ends = mask["size"][0], np.cumsum(counts)
    covered = [(start, stop) for start, stop in zip(ends[::2], ends[1::2], strict=False) if stop > start]
    if not covered:
        return None
    firsts, lasts = (np.array(side) for side in zip(*covered, strict=True))
    turns = (lasts - 1) // height > firsts // height  # a run that goes on in the next column covers its first row
    top = 0 if turns.any() else int((firsts % height).min())
    bottom = height if turns.any() else int(((lasts - 1) % height).max()) + 1
    return np.array([firsts.min() // height, top, (lasts.max() - 1) // height + 1, bottom], np.float64)
