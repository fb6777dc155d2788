"""What tasks read and predict: items, what is found wrong with them, and pieces of their prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.raster.dependencies import input_stamps
from utils.raster.tiling import Window


@dataclass(frozen=True)
class Item:
    """One picture, scene, block of a scene or video, with its label.

    Parameters
    ----------
    id : str
        Stable and unique in the data set; what a split list holds.
    sources : tuple of Path
        The files that it is made from, labels included.
    faults : list of str
        What was wrong with its file, and read all the same; filled as it is read, also by copies of the item.

    Examples
    --------
    >>> Item("a", ()).id
    'a'
    """

    id: str
    sources: tuple[Path, ...]
    faults: list[str] = field(default_factory=list, compare=False, repr=False, kw_only=True)

    def stamp(self) -> list:
        """Say when the item changed: path, size and time of each source and of the files that are read with it.

        Examples
        --------
        >>> Item("a", ()).stamp()
        ['a', []]
        """
        return [self.id, [stamp for path in self.sources for stamp in input_stamps(path)]]


@dataclass(frozen=True)
class Finding:
    """Something wrong in the data, where, and how to mend it.

    Parameters
    ----------
    where, problem, cure : str
        Parts of the line that a person reads.
    blocks : bool
        False for what a person should look at, but may be right.

    Examples
    --------
    >>> print(Finding("scene.tif", "label value 7 outside 0..1", "add 7 to dataset.label_mapping"))
    scene.tif: label value 7 outside 0..1; add 7 to dataset.label_mapping
    """

    where: str
    problem: str
    cure: str = ""
    blocks: bool = True

    def __str__(self) -> str:
        """Give one line for a person."""
        return f"{self.where}: {self.problem}" + (f"; {self.cure}" if self.cure else "")


@dataclass(frozen=True)
class Piece:
    """A finished part of a prediction: a block of a raster, a picture, a frame.

    Parameters
    ----------
    item : Item
        What was predicted.
    arrays : dict of str to ndarray
        Named results, such as `classes` (h, w) uint8 and `confidence` (h, w) float32.
    window : Window, optional
        Its place in the item.

    Examples
    --------
    >>> import numpy as np
    >>> Piece(Item("a", ()), {"classes": np.zeros((2, 3), np.uint8)}).arrays["classes"].shape
    (2, 3)
    """

    item: Item
    arrays: dict[str, Any]
    window: Window | None = None
