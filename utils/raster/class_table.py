"""Which class a value of a label stands for, and how many pixels each class has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils import IGNORE_INDEX as IGNORE
from utils.errors import SettingsError

EVERY_OTHER = "*"  # in a mapping: all values that are not named


def class_key(value: object) -> str:
    """A value as text, so that 3, 3.0, numpy's 3 and a mapping's "3" are the same.

    Examples
    --------
    >>> class_key(3), class_key(np.float32(3)), class_key("3"), class_key(2.5), class_key(float("nan")), class_key(None)
    ('3', '3', '3', '2.5', 'null', 'null')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def class_index(
    target: int | str, num_classes: int, class_names: Sequence[str] = (), where: str = "dataset.label_mapping"
) -> int:
    """Index of a class given by index or name; 255 for "ignore". `where` is the setting that names it.

    Raises
    ------
    SettingsError
        If there is no such class.

    Examples
    --------
    >>> class_index("road", 2, ["field", "road"]), class_index("ignore", 2), class_index(0, 2)
    (1, 255, 0)
    >>> class_index("rode", 2, ["field", "road"])
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: dataset.label_mapping: unknown class 'rode'; known: 0, 1, field, road, ignore
    """
    if target in ("ignore", IGNORE):
        return IGNORE
    if isinstance(target, str) and target in class_names:
        return list(class_names).index(target)
    if isinstance(target, int) and 0 <= target < num_classes:
        return int(target)
    names = ", ".join([*map(str, range(num_classes)), *class_names, "ignore"])
    raise SettingsError(f"{where}: unknown class {target!r}; known: {names}")


@dataclass(frozen=True)
class ClassTable:
    """Which class each value stands for.

    Parameters
    ----------
    classes : dict of str to int
        Class of each value, which is written as `class_key` does.
    other : int or None
        Class of every value that is not named; None makes such a value an error.

    Examples
    --------
    >>> ClassTable({"7": 0, "9": 255}, other=None).look_up([7.0, 9, 8]).tolist()
    [0, 255, -1]
    """

    classes: dict[str, int]
    other: int | None

    def look_up(self, values: Iterable[object]) -> np.ndarray:
        """Class of each value, -1 where there is none.

        The result has shape (N,), one class per value.

        Examples
        --------
        >>> ClassTable({"a": 0}, other=3).look_up(["a", "b"]).tolist()
        [0, 3]
        """
        other = -1 if self.other is None else self.other
        return np.array([self.classes.get(class_key(value), other) for value in values], dtype=np.int16)


def build_table(mapping: Mapping[Any, int | str], num_classes: int, class_names: Sequence[str] = ()) -> ClassTable:
    """Turn a mapping of values to classes into a table.

    Parameters
    ----------
    mapping : dict
        Value -> class index, class name or "ignore"; "*" stands for every value that is not named.
    num_classes : int
        Classes, besides "ignore".
    class_names : sequence of str
        Names, where the mapping uses them.

    Examples
    --------
    >>> build_table({2: "road", "*": "ignore"}, 2, ["field", "road"])
    ClassTable(classes={'2': 1}, other=255)
    """
    classes = {class_key(value): class_index(target, num_classes, class_names) for value, target in mapping.items()}
    return ClassTable(classes, classes.pop(EVERY_OTHER, None))


def label_counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each class, ignored ones left out.

    Parameters
    ----------
    label : uint8 array, any shape
        Class indices, 255 where not labelled.
    num_classes : int
        Classes.

    Returns
    -------
    int64 array, shape (num_classes,)

    Raises
    ------
    ValueError
        If a value is neither a class nor 255.

    Examples
    --------
    >>> label_counts(np.uint8([[0, 2, 2], [255, 0, 2]]), 3).tolist()
    [2, 0, 3]
    """
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    foreign = np.flatnonzero(counts[num_classes:IGNORE]) + num_classes
    if foreign.size or len(counts) > IGNORE + 1:
        raise ValueError(f"labels hold {foreign.tolist()}; expected classes 0 to {num_classes - 1}, or {IGNORE}")
    return counts[:num_classes].astype(np.int64)
