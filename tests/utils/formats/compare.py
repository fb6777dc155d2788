"""Whether two sets of labelled pictures say the same: the proof of a conversion."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from utils.formats.run_lengths import decode_runs
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance


def find_differences(
    first: Mapping[str, AnnotationSet],
    second: Mapping[str, AnnotationSet],
    ignore: Collection[str] = (),
    relative: float = 1e-6,
) -> list[str]:
    """List where two data sets differ.

    Pictures are paired by their ids without the folders that all of a split share: those change in a conversion.

    Parameters
    ----------
    first, second : dict of str to AnnotationSet
        By split.
    ignore : collection of str
        Fields of `Instance` to leave out, because a format cannot hold them; "skeletons" leaves these out.
    relative : float
        How far numbers may differ, as a share of their size.

    Returns
    -------
    list of str
        One line for each difference; empty when both say the same.

    Examples
    --------
    >>> from pathlib import Path
    >>> from utils.formats.types import keypoints_array
    >>> def one(x):
    ...     mouse = Instance("mouse", keypoints_array([[x, 2]], [2]))
    ...     return {"all": AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), (mouse,))], {})}
    >>> find_differences(one(1), one(1 + 1e-9)), find_differences(one(1), one(1.5))
    ([], ['all: a: instance 1: keypoints differ: [[1.0, 2.0, 2.0]], [[1.5, 2.0, 2.0]]'])
    """
    if set(first) != set(second):
        return [f"splits differ: {sorted(first)}, {sorted(second)}"]
    found = []
    for split in first:
        if "skeletons" not in ignore and dict(first[split].skeletons) != dict(second[split].skeletons):
            found.append(f"{split}: skeletons differ: {first[split].skeletons}, {second[split].skeletons}")
        found += [f"{split}: {line}" for line in _compare_pictures(first[split], second[split], ignore, relative)]
    return found


def _compare_pictures(
    first: AnnotationSet, second: AnnotationSet, ignore: Collection[str], relative: float
) -> list[str]:
    """Differences between the pictures of a split.

    Examples
    --------
    >>> from pathlib import Path
    >>> one = AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), ())], {})
    >>> _compare_pictures(one, AnnotationSet([], {}), (), 1e-6)
    ['pictures differ: a']
    """
    ours, theirs = _by_short_id(first.pictures), _by_short_id(second.pictures)
    if ours.keys() != theirs.keys():
        return [f"pictures differ: {', '.join(sorted(ours.keys() ^ theirs.keys())[:5])}"]
    lines = []
    for name, picture in ours.items():
        other = theirs[name]
        if picture.size != other.size:
            lines.append(f"{name}: size differs: {picture.size}, {other.size}")
        if len(picture.instances) != len(other.instances):
            lines.append(f"{name}: number of instances differs: {len(picture.instances)}, {len(other.instances)}")
            continue
        for index, pair in enumerate(zip(picture.instances, other.instances, strict=True), start=1):
            lines += [f"{name}: instance {index}: {line}" for line in _compare_instances(*pair, ignore, relative)]
    return lines


def _by_short_id(pictures: Sequence[AnnotatedPicture]) -> dict[str, AnnotatedPicture]:
    """Pictures by their ids without shared folders; a folder inside counts as two underscores.

    Examples
    --------
    >>> from pathlib import Path
    >>> list(_by_short_id([AnnotatedPicture(id, Path("a.png"), None, ()) for id in ("x/a", "x/y/b")]))
    ['a', 'y__b']
    """
    shared = posixpath.commonpath([posixpath.dirname(picture.id) for picture in pictures]) if pictures else ""
    cut = len(shared) + 1 if shared else 0
    return {picture.id[cut:].replace("/", "__"): picture for picture in pictures}


def _compare_instances(first: Instance, second: Instance, ignore: Collection[str], relative: float) -> list[str]:
    """Fields in which two instances differ.

    Examples
    --------
    >>> from utils.formats.types import missing_keypoints
    >>> mice = [Instance("mouse", missing_keypoints(1), track_id=track) for track in (1, 2)]
    >>> _compare_instances(*mice, (), 1e-6), _compare_instances(*mice, ("track_id",), 1e-6)
    (['track_id differ: 1, 2'], [])
    """
    names = [field.name for field in dataclasses.fields(Instance) if field.name not in ignore]
    pairs = [(name, getattr(first, name), getattr(second, name)) for name in names]
    return [f"{name} differ: {_show(a)}, {_show(b)}" for name, a, b in pairs if not is_same(a, b, relative)]


def _show(value: Any) -> str:
    """A value in few words.

    Examples
    --------
    >>> _show(np.arange(3)), len(_show(np.arange(1000)))
    ('[0, 1, 2]', 120)
    """
    return str(value.tolist() if isinstance(value, np.ndarray) else value)[:120]


def is_same(first: Any, second: Any, relative: float = 1e-6) -> bool:
    """Whether two values are equal, numbers within a relative tolerance, NaN to NaN and masks pixel by pixel.

    Examples
    --------
    >>> is_same([1.0, None], [1.0 + 1e-9, None]), is_same(np.array([np.nan]), np.array([np.nan])), is_same(1, "1")
    (True, True, False)
    """
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        if first is None or second is None or np.shape(first) != np.shape(second):
            return False
        return bool(np.allclose(first, second, rtol=relative, atol=1e-9, equal_nan=True))
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() == second.keys() == {"size", "counts"}:
            return bool(np.array_equal(decode_runs(first), decode_runs(second)))  # run lengths may be text or numbers
        return first.keys() == second.keys() and all(is_same(first[key], second[key], relative) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(is_same(a, b, relative) for a, b in zip(first, second, strict=True))
    if isinstance(first, float) or isinstance(second, float):
        numbers = isinstance(first, int | float) and isinstance(second, int | float)
        return numbers and bool(np.isclose(first, second, rtol=relative, atol=1e-9, equal_nan=True))
    return type(first) is type(second) and bool(first == second)
