"""YOLO folders without a specification: their splits and categories, and what the rows of a set hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats import specs
from utils.formats.pictures import PICTURE_SUFFIXES, list_files
from utils.formats.text_files import read_lines
from utils.formats.yolo.rows import BOX_VALUES

NAMES_FILES = ("classes.txt", "obj.names", "names.txt", "_darknet.labels")  # of labelImg, darknet and exporters
MOST_CLASSES = 10_000  # a larger number is no class


def read_folder(folder: Path) -> specs.Spec:
    r"""A specification of a folder that has none.

    The splits are the folders named train, val (valid) or test, also with a number behind (`train2017`), where all
    pictures lie in such; else all pictures are one set. The categories are the lines of `classes.txt`, `obj.names`,
    `names.txt` or `_darknet.labels` in the folder or in one inside; without such a file they are called by numbers.

    Raises
    ------
    DataError
        If there is no picture, or two different files of names.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("images/train2017/a.png", "images/val2017/b.png"):
    ...     (folder / name).parent.mkdir(parents=True)
    ...     (folder / name).touch()
    >>> _ = (folder / "classes.txt").write_text("cow\nsheep\n")
    >>> spec = read_folder(folder)
    >>> spec.keys["names"], {split: [path.name for path in paths] for split, paths in spec.splits().items()}
    (['cow', 'sheep'], {'train': ['a.png'], 'val': ['b.png']})
    """
    pictures = list_files(folder, PICTURE_SUFFIXES)
    if not pictures:
        raise DataError(f"{folder}: no picture in it, and no specification (YAML); name the folder of both")
    by_split: dict[str, list[str]] = {}
    for picture in pictures:
        relative = picture.relative_to(folder)
        words = (part.rstrip("0123456789") for part in relative.parts[:-1])
        split = next((specs.SPLIT_WORDS[word] for word in words if word in specs.SPLIT_WORDS), "all")
        by_split.setdefault(split, []).append(str(relative))
    if "all" in by_split:
        by_split = {"all": [str(picture.relative_to(folder)) for picture in pictures]}
    keys: dict[str, Any] = {split: by_split[split] for split in ("train", "val", "test", "all") if split in by_split}
    files = [file for file in list_files(folder, (".txt", ".names", ".labels")) if file.name in NAMES_FILES]
    names = {file: _read_names(file) for file in files}
    if len({tuple(lines) for lines in names.values()}) > 1:
        raise DataError(f"{folder}: {files[0]} and {files[1]} name different classes; keep one of them")
    return specs.Spec(folder, folder, keys | ({"names": names[files[0]]} if files else {}))


def _read_names(file: Path) -> list[str]:
    r"""Names of the classes, one per line; empty lines at the end do not count.

    Raises
    ------
    DataError
        If a line before the last name is empty: the numbers of the names after it would not be known.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "classes.txt"
    >>> _ = file.write_text("cow\n\nsheep\n\n")
    >>> _read_names(file)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../classes.txt:2: no name, but more names follow, whose numbers are then not known; ...
    """
    lines = list(read_lines(file))
    gap = next((index for index, (number, _) in enumerate(lines, start=1) if number != index), None)
    if gap is not None:
        what = "no name, but more names follow, whose numbers are then not known"
        raise DataError(f"{file}:{gap}: {what}; write a name, or remove the line if the labels count without it")
    return [line for _, line in lines]


@dataclass(frozen=True)
class Survey:
    """What the rows of a set without keypoints look like.

    Parameters
    ----------
    classes : int
        One more than the highest class.
    boxes, outlines : int
        Rows of five values, and of seven, nine or more.

    Examples
    --------
    >>> Survey(3, 10, 0).classes
    3
    """

    classes: int
    boxes: int
    outlines: int


def survey_rows(labels: Iterable[Path]) -> Survey:
    r"""Count the classes, boxes and outlines of a set without keypoints; files that cannot be read do not count.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("2 .5 .5 .25 .25\n0 0 0 .5 0 .5 .25\nx\n1 .5 .5 .25 .25\n")
    >>> survey_rows([path])
    Survey(classes=3, boxes=2, outlines=1)
    """
    highest, boxes, outlines = -1, 0, 0
    for label in labels:
        try:
            lines = list(read_lines(label, BOX_VALUES))
        except DataError:  # told where the picture is read
            continue
        for _, line in lines:
            words = line.split()
            boxes += len(words) == 5
            outlines += len(words) >= 7 and len(words) % 2 == 1
            number = words[0].removesuffix(".0")
            if number.isdecimal() and len(number) < 6 and int(number) < MOST_CLASSES:
                highest = max(highest, int(number))
    return Survey(highest + 1, boxes, outlines)
