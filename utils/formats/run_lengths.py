"""Masks as run lengths of COCO, column by column, first of what the mask does not cover: checked, then decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.media.picture_sizes import MAX_PIXELS

_NO_MASK = "a mask without counts and size as whole numbers; write the mask again"
_MOST_DIGITS = 7  # of five bits: longer numbers are beyond every picture


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
    if not _are_whole(sides) or len(sides) != 2:
        raise ValueError(_NO_MASK)
    if size is not None and tuple(sides) != size:
        what = f"a mask of {sides[0]} x {sides[1]} pixels, but its picture has {size[0]} x {size[1]}"
        raise ValueError(f"{what}; write the mask again at the picture's size")
    most = sides[0] * sides[1] + 1
    if isinstance(counts, str):
        counts = _read_text(counts) if len(counts) <= _MOST_DIGITS * most else None
    if not _are_whole(counts) or len(counts) > most:
        raise ValueError(_NO_MASK)
    if sum(counts) != sides[0] * sides[1]:
        what = f"run lengths of {sum(counts)} pixels in a mask of {sides[0]} x {sides[1]}"
        raise ValueError(f"{what}; write the mask again")
    return counts


def _are_whole(values: Any) -> bool:
    """Whether something is a list of whole numbers from 0 on.

    Examples
    --------
    >>> _are_whole([3, 0]), _are_whole([3, -1]), _are_whole([3, True]), _are_whole("30"), _are_whole(None)
    (True, False, False, False, False)
    """
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


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
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)  # else more digits follow
    lengths = np.diff(ends, prepend=-1)
    whole = bool(len(digits)) and len(ends) > 0 and ends[-1] == len(digits) - 1
    if not whole or digits.min() < 0 or digits.max() > 63 or lengths.max() > _MOST_DIGITS:
        return None if len(digits) else []
    starts = ends - lengths + 1
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((digits & 31) << 5 * places, starts)
    counts -= np.where(digits[ends] & 16, 1 << 5 * lengths, 0)  # the highest bit is the sign
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts.tolist()


def refuse_large(size: Sequence[int]) -> None:
    """Refuse to draw a mask of more pixels than a picture may have.

    Raises
    ------
    ValueError
        If the height times the width of `size` is more.

    Examples
    --------
    >>> refuse_large((100_000, 100_000))
    Traceback (most recent call last):
        ...
    ValueError: a mask of 100000 x 100000 pixels, and a picture has 178956970 at most
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"a mask of {size[0]} x {size[1]} pixels, and a picture has {MAX_PIXELS} at most")


def decode_runs(mask: Mapping, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels, bool of shape (H, W), that a mask covers: what `types.encode_mask` takes.

    Parameters
    ----------
    mask : dict
        `size` as [height, width], and `counts` as numbers or text.
    size : (int, int), optional
        Height and width of its picture.

    Raises
    ------
    ValueError
        If it is none, is not of the picture's size (see `read_counts`), or has more pixels than a picture may have.

    Examples
    --------
    >>> decode_runs({"size": [2, 3], "counts": [0, 2, 3, 1]}).astype(int).tolist()
    [[1, 0, 0], [1, 0, 1]]
    """
    counts = read_counts(mask, size)
    height, width = mask["size"]
    refuse_large((height, width))
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def area_of_mask(mask: Mapping) -> float:
    """How many pixels a mask covers.

    Raises
    ------
    ValueError
        If it is none: see `read_counts`.

    Examples
    --------
    >>> area_of_mask({"size": [2, 3], "counts": [0, 2, 3, 1]})
    3.0
    """
    return float(sum(read_counts(mask)[1::2]))


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
