"""Which column of a table of boxes holds what: told by the header, never by the order."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from utils.formats.predictions import score_name

PICTURE = ("image_path", "image", "filename", "file_name", "img_path", "image_name", "path", "img", "picture")
LABEL = ("label", "class", "class_name", "category", "category_name", "name")
CROWD = ("is_crowd", "iscrowd", "crowd", "difficult")
CORNERS = (  # xmin, ymin, xmax, ymax as different programs call them
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("minx", "miny", "maxx", "maxy"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
PICTURE_SIZE = ("height", "width")


@dataclass(frozen=True)
class Columns:
    """Places of the columns in a row, from 0.

    Parameters
    ----------
    count : int
        Cells of a row.
    picture, label : int
        Path of the picture, and class of the box.
    corners : (int, int, int, int)
        xmin, ymin, xmax, ymax.
    score, crowd : int, optional
        What only some tables have.
    size : (int, int), optional
        Height and width of the picture.

    Examples
    --------
    >>> columns = find_columns(["image_path", "xmin", "xmax", "ymin", "ymax", "label"])
    >>> columns.corners, columns.score
    ((1, 3, 2, 4), None)
    """

    count: int
    picture: int
    label: int
    corners: tuple[int, int, int, int]
    score: int | None = None
    crowd: int | None = None
    size: tuple[int, int] | None = None


def find_columns(header: Sequence[str]) -> Columns | None:
    """Find the columns of a table of boxes; None for a header that lacks a picture, a corner or a class.

    Raises
    ------
    ValueError
        If a name that is needed stands in the header twice.

    Examples
    --------
    >>> find_columns(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]).size
    (2, 1)
    >>> find_columns(["a.png", "1", "2", "3", "4", "Tree"]) is None
    True
    >>> find_columns(["image", "x1", "y1", "x2", "y2", "y2", "label"])
    Traceback (most recent call last):
        ...
    ValueError: the header names 'y2' twice
    """
    names = [name.strip().lower() for name in header]
    corners = next((group for group in CORNERS if set(group) <= set(names)), None)
    picture = next((name for name in PICTURE if name in names), None)
    label = next((name for name in LABEL if name in names), None)
    if corners is None or picture is None or label is None:
        return None
    score = score_name(names)
    crowd = next((name for name in CROWD if name in names), None)
    needed = (*corners, picture, label, score, crowd)
    doubled = next((name for name in needed if name and names.count(name) > 1), None)
    if doubled:
        raise ValueError(f"the header names {doubled!r} twice")
    score_at, crowd_at = (None if name is None else names.index(name) for name in (score, crowd))
    left, top, right, bottom = map(names.index, corners)
    has_size = set(PICTURE_SIZE) <= set(names)
    size = (names.index(PICTURE_SIZE[0]), names.index(PICTURE_SIZE[1])) if has_size else None
    places = (names.index(picture), names.index(label), (left, top, right, bottom))
    return Columns(len(names), *places, score_at, crowd_at, size)


def split_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    r"""Rows of a table that are not empty, each with the number of its first line.

    Raises
    ------
    ValueError
        If a quote is not closed, or a cell is longer than the library reads. The message begins with the line.

    Examples
    --------
    >>> list(split_rows('a,"b\nc"\n\nd,e\n'))
    [(1, ['a', 'b\nc']), (4, ['d', 'e'])]
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{line}: not a table ({error})") from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield line, row


def first_row(text: str) -> list[str]:
    r"""The first row of the beginning of a table; empty where there is none.

    Examples
    --------
    >>> first_row('image_path,xmin\n"a\nb",1\n'), first_row('"')
    (['image_path', 'xmin'], [])
    """
    try:
        return next(split_rows(text.removeprefix("\ufeff")), (0, []))[1]
    except ValueError:
        return []


def is_headerless(row: Sequence[str]) -> bool:
    """Whether the first row of a table is a box itself, as keras-retinanet writes it: path, x1, y1, x2, y2, class.

    Examples
    --------
    >>> is_headerless(["a.png", "1", "2", "3", "4", "cow"]), is_headerless(["a.png", "", "", "", "", ""])
    (True, True)
    >>> is_headerless(["image", "x1", "y1", "x2", "y2", "label"])
    False
    """
    cells = [cell.strip() for cell in row]
    numbers = cells[1:5]
    is_box = all(cell.lstrip("-").replace(".", "", 1).isdecimal() for cell in numbers)
    return len(cells) == 6 and "." in cells[0] and (is_box or not any(numbers))
