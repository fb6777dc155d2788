"""Where a set of masks keeps its pictures, masks, names and colours: as MMSegmentation's users lay it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.formats.names import read_names
from utils.formats.pictures import is_picture
from utils.formats.specs import SPLIT_WORDS
from utils.formats.text_files import read_text

CLASSES, PALETTE, INFO = "classes.txt", "palette.txt", "dataset_info.py"
PICTURES, MASKS = "data", "labels"  # folders in that of a split
IGNORED = 255  # value of pixels of no class


@dataclass(frozen=True, eq=False)
class Layout:
    """A set of masks.

    Parameters
    ----------
    folder : Path
        The set.
    splits : dict of str to Path
        The folder of each split, which holds `data` and `labels`.
    names : tuple of str
        Classes in the order of their values, from 0.
    palette : ndarray of uint8, shape (K, 3), optional
        Red, green and blue of each.

    Examples
    --------
    >>> Layout(Path("set"), {"train": Path("set/train")}, ("cow",)).palette is None
    True
    """

    folder: Path
    splits: dict[str, Path]
    names: tuple[str, ...]
    palette: np.ndarray | None = None


def find_splits(folder: Path) -> dict[str, Path]:
    """The folders of a set of masks that hold `data` and `labels`, by split; empty where it is none.

    The set itself may be one, which is then all of it. Label files of YOLO are no masks.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("valid/data", "valid/labels", "train/labels", "train/images"):
    ...     (folder / name).mkdir(parents=True)
    >>> (folder / "classes.txt").touch(), (folder / "valid" / "labels" / "a.png").touch()
    (None, None)
    >>> find_splits(folder) == {"val": folder / "valid"}
    True
    """
    if not (folder / CLASSES).is_file():
        return {}
    tops = {"all": folder} | {
        SPLIT_WORDS[top.name.lower()]: top
        for top in sorted(folder.iterdir())
        if top.name.lower() in SPLIT_WORDS and top.is_dir()
    }
    return {split: top for split, top in tops.items() if (top / PICTURES).is_dir() and _has_masks(top / MASKS)}


def _has_masks(folder: Path) -> bool:
    """Whether there is a picture in a folder or right below it.

    Examples
    --------
    >>> _has_masks(Path("/no/such/folder"))
    False
    """
    if not folder.is_dir():
        return False
    return any(is_picture(file) for pattern in ("*", "*/*") for file in folder.glob(pattern))


def read_layout(folder: Path) -> Layout:
    """Read the names and colours of a set of masks.

    Raises
    ------
    DataError
        If it is none, or names and colours do not fit each other.

    Examples
    --------
    >>> read_layout(Path("/no/such/folder"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/folder: no set of masks: expected classes.txt, and data and labels (with masks) \
in folders train, val and test, or right in it
    """
    splits = find_splits(folder)
    if not splits:
        raise DataError(
            f"{folder}: no set of masks: expected {CLASSES}, and {PICTURES} and {MASKS} (with masks) in folders train, "
            "val and test, or right in it"
        )
    names = read_classes(folder / CLASSES)
    palette = read_palette(folder / PALETTE, names) if (folder / PALETTE).exists() else None
    return Layout(folder, dict(sorted(splits.items(), key=_order)), names, palette)


def _order(entry: tuple[str, Path]) -> int:
    """Place of a split among train, val, test and all.

    Examples
    --------
    >>> sorted([("all", Path()), ("val", Path()), ("train", Path())], key=_order)[0][0]
    'train'
    """
    return ("train", "val", "test", "all").index(entry[0])


def read_classes(path: Path) -> tuple[str, ...]:
    r"""Names of the classes, one a line: the first line is the value 0.

    Raises
    ------
    DataError
        If a line between others is empty, a name stands there twice, or there are more than values of a byte.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "classes.txt"
    >>> _ = path.write_text("background\nPorites/massive\n\n")
    >>> read_classes(path)
    ('background', 'Porites/massive')
    >>> _ = path.write_text("cow\ncow")
    >>> read_classes(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../classes.txt: line 2: 'cow' is the name of line 1 too; give each class its own
    """
    names = read_names(read_text(path).rstrip().splitlines(), str(path))
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if first.setdefault(name, number) != number:
            what = f"{name!r} is the name of line {first[name]} too"
            raise DataError(f"{path}: line {number}: {what}; give each class its own")
    if not 1 <= len(names) <= IGNORED:
        raise DataError(
            f"{path}: {len(names)} classes, and there may be 1 to {IGNORED}; the value {IGNORED} is no class"
        )
    return tuple(names)


def read_palette(path: Path, names: Sequence[str]) -> np.ndarray:
    r"""Colours of the classes, uint8 (K, 3): red, green and blue of each on a line, with blanks or commas between them.

    Raises
    ------
    DataError
        If a line holds something else, a colour stands there twice, or there are not as many as classes.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "palette.txt"
    >>> _ = path.write_text("0 0 0\n[255, 128, 0]\n")
    >>> read_palette(path, ["background", "coral"]).tolist()
    [[0, 0, 0], [255, 128, 0]]
    >>> read_palette(path, ["coral"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../palette.txt: 2 colours, but classes.txt has 1 names; write a line for each class
    """
    found: list[tuple[int, ...]] = []
    for number, line in enumerate(read_text(path).rstrip().splitlines(), start=1):
        parts = line.replace(",", " ").strip(" ()[]\t").split()
        colour = tuple(int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < 4)
        if len(colour) != 3 or len(parts) != 3 or max(colour) > 255:
            raise DataError(f"{path}: line {number}: expected red, green and blue from 0 to 255, got {line[:60]!r}")
        if colour in found:
            raise DataError(f"{path}: line {number}: {line.strip()!r} is a duplicate; give each class its own colour")
        found.append(colour)
    if len(found) != len(names):
        raise DataError(
            f"{path}: {len(found)} colours, but {CLASSES} has {len(names)} names; write a line for each class"
        )
    return np.array(found, np.uint8)
