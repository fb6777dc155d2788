"""Tables of boxes, as DeepForest writes them: `image_path,xmin,ymin,xmax,ymax,label`, in the order of the header.

Corners are edges in pixels from the outer corner of the first pixel. A picture whose row has no corners, or only zeros,
holds no object. Of a raster with a place on Earth the corners may be map coordinates, in the raster's own CRS.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.formats import specs
from utils.formats.box_rules import cut_to_picture, name_categories
from utils.formats.coco.files import Sources, find_image, image_folders
from utils.formats.moved import parts_of
from utils.formats.names import read_name
from utils.formats.other_files import describe_other
from utils.formats.pictures import list_files, picture_ids
from utils.formats.recognise import format_of_file
from utils.formats.sets import find_unlabelled, finish_sets, size_problems
from utils.formats.tables.columns import CORNERS, Columns, find_columns, split_rows
from utils.formats.text_files import read_text
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem
from utils.formats.values import read_number
from utils.formats.vector.place import boxes_on_pixels, grid_of
from utils.media.picture_sizes import picture_size
from utils.raster.grids import in_degrees

logger = logging.getLogger(__name__)

TIFFS = (".tif", ".tiff")  # may have a place on Earth


def read_tables(path: str | Path, root: str | Path | None = None) -> dict[str, AnnotationSet]:
    r"""Read tables of boxes.

    Parameters
    ----------
    path : str or Path
        A csv file, a folder of them, or a specification (YAML with `format: csv`, and `path`, `train`, `val`, `test` or
        `all`, and `names`, the categories in order; by default those of the tables, sorted).
    root : str or Path, optional
        Data root, which no picture may leave: by default the specification's, the folder, or the file's folder.

    Returns
    -------
    dict of str to AnnotationSet
        By split, as the names of the files say. In a folder, tables with scores are predictions and left out.

    Raises
    ------
    DataError
        If nothing can be read, a table holds scores, or its numbers are shares of the picture. A single bad row is
        skipped and becomes a Problem with file and line.

    Examples
    --------
    >>> import tempfile, cv2
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    >>> rows = "image_path,xmin,xmax,ymin,ymax,label\na.png,3,30,10,20,Tree\na.png,3,x,10,20,Tree\n"
    >>> _ = (folder / "boxes.csv").write_text(rows)
    >>> part = read_tables(folder / "boxes.csv")["all"]
    >>> part.pictures[0].instances[0].box_xyxy.tolist(), part.problems[0].where.endswith("boxes.csv:3")
    ([3.0, 10.0, 30.0, 20.0], True)
    """
    path = Path(path)
    problems: list[Problem] = []
    sources = _find_sources(path, None if root is None else Path(root), problems)
    named: set[str] = set()
    read: dict[str, list[_Picture]] = {}
    for split, files in sources.files.items():
        read[split] = []
        for file in files:
            _read_file(sources, split, file, read[split], problems, named)
    found = [picture for part in read.values() for picture in part]
    if not found:
        first = f"; first: {problems[0]}" if problems else ""
        raise DataError(f"{path}: no row of it can be used{first}")
    ids = picture_ids((picture.path for picture in found), sources.root)
    names = specs.category_names(sources.spec) if sources.spec else None
    sets = {}
    for split, part in read.items():
        sets[split] = AnnotationSet([], {}, [])
        for picture in part:
            sets[split].pictures.append(_build_picture(picture, ids[picture.path], names, sets[split].problems))
    name_categories(sets, names)
    cure = "write a row without corners where there is no object"
    return finish_sets(sets, problems, find_unlabelled(path, ids, "a row", cure, named))


def _find_sources(path: Path, root: Path | None, problems: list[Problem]) -> Sources:
    """The tables of each split.

    Raises
    ------
    DataError
        If there is none.

    Examples
    --------
    >>> list(_find_sources(Path("/d/train.csv"), None, []).files)
    ['train']
    """
    if path.suffix.lower() in specs.SUFFIXES:
        spec = specs.read_spec(path, root)
        problems += specs.find_misspelled(spec)
        return Sources(specs.split_files(spec, "a table of boxes (csv)"), spec.root, None, spec)
    files = [path]
    if path.is_dir():
        files = []
        for file in list_files(path, (".csv",)):
            if format_of_file(file) == "csv":
                files.append(file)
            elif what := describe_other(file):
                problems.append(Problem(str(file), f"not read: {what}", blocks=False))
        if not files:
            raise DataError(f"{path}: no table of boxes (csv) in it{f'; {problems[0]}' if problems else ''}")
    top = root or (path if path.is_dir() else path.parent)
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(specs.split_of_name(file.name) or "all", []).append(file)
    return Sources({split: found[split] for split in ("train", "val", "test", "all") if split in found}, top)


@dataclass
class _Picture:
    """Rows of one picture: their lines, boxes, classes and whether they are crowds.

    Examples
    --------
    >>> _Picture(Path("a.csv"), Path("a.png"), (4, 6)).boxes
    []
    """

    table: Path
    path: Path
    size: tuple[int, int]
    lines: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    crowds: list[bool] = field(default_factory=list)
    bad: list[Problem] = field(default_factory=list)
    empty: int = 0  # the line that says that there is no object
    stated: tuple[int, str, str] | None = None  # a line, and the height and width on it


def _read_file(
    sources: Sources, split: str, file: Path, found: list[_Picture], problems: list[Problem], named: set[str]
) -> None:
    r"""Read the rows of a table, by picture; `named` gets the names of pictures that bad rows name.

    Raises
    ------
    DataError
        If it is no table of boxes, holds scores, or all its numbers lie between 0 and 1.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = file.write_text("image,x1,y1,x2,y2,label,score\n")
    >>> _read_file(Sources({}, file.parent), "all", file, [], [], set())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.csv: a table of predictions: it has a column 'score'; labels have none: ...
    """
    try:
        rows = list(split_rows(read_text(file)))
        columns = find_columns(rows[0][1]) if rows else None
    except DataError:  # which names the file
        raise
    except ValueError as error:
        raise DataError(f"{file}:{error}") from None
    if columns is None or columns.score is not None:
        raise DataError(f"{file}: {describe_other(file) or 'not a table of boxes (csv)'}")
    folders = image_folders(sources, split, file)
    taken = {picture.path: picture for picture in found}
    own: dict[str, _Picture | None] = {}
    for line, row in rows[1:]:
        if len(row) != columns.count:
            what = f"expected {columns.count} cells as the header has, got {len(row)}"
            name = row[columns.picture] if len(row) > columns.picture else ""
            named.update(parts_of(name)[-1:])
            _add_problem(file, line, what, own, name, problems)
            continue
        name = row[columns.picture].strip()
        if name not in own:
            own[name] = _find(file, line, name, folders, sources.root, taken, problems)
        picture = own[name]
        if picture is None:
            named.update(parts_of(name)[-1:])
        else:
            _read_row(picture, line, row, columns)
    read = [picture for picture in taken.values() if picture.table == file]
    _refuse_shares(file, read)
    found += read


def _add_problem(
    file: Path, line: int, what: str, own: Mapping[str, _Picture | None], name: str, problems: list[Problem]
) -> None:
    """Tell of a row that cannot be used; its picture is incomplete, where it is known.

    Examples
    --------
    >>> picture, problems = _Picture(Path("a.csv"), Path("a.png"), (4, 6)), []
    >>> _add_problem(Path("a.csv"), 3, "wrong", {"a.png": picture}, "a.png", problems)
    >>> len(problems), picture.bad[0].where
    (0, 'a.csv:3')
    """
    picture = own.get(name.strip())
    problem = Problem(f"{file}:{line}", what, "mend or remove the row", lost=True)
    (problems if picture is None else picture.bad).append(problem)


def _find(
    file: Path,
    line: int,
    name: str,
    folders: Sequence[Path],
    root: Path,
    taken: dict[Path, _Picture],
    problems: list[Problem],
) -> _Picture | None:
    """The picture that a row names; None, with a problem, where there is none or an earlier table has it.

    Examples
    --------
    >>> problems = []
    >>> _find(Path("a.csv"), 2, "b.png", [Path("/no")], Path("/no"), {}, problems) is None, str(problems[0])
    (True, 'a.csv:2: no such picture: b.png; put it there; paths.data_root is where pictures are looked for')
    """
    where = f"{file}:{line}"
    try:
        if not name:
            raise ValueError("no picture is named")
        path = find_image(name, folders, root)
        if path is None:
            raise ValueError(f"no such picture: {name}")
        size = picture_size(path)
    except (ValueError, DataError) as error:
        cure = "" if isinstance(error, DataError) else "put it there; paths.data_root is where pictures are looked for"
        problems.append(Problem(where, str(error), cure))
        return None
    other = taken.get(path)
    if other is not None and other.table != file:
        what = f"{path} has rows in {other.table} already; those of this table are left out"
        other.bad.append(Problem(where, what, "keep one of them", lost=True))
        return None
    return taken.setdefault(path, _Picture(file, path, size))


def _read_row(picture: _Picture, line: int, row: Sequence[str], columns: Columns) -> None:
    """Add a row to its picture: a box, that there is none, or a problem.

    Examples
    --------
    >>> columns = find_columns(["image", "x1", "y1", "x2", "y2", "label"])
    >>> picture = _Picture(Path("a.csv"), Path("a.png"), (4, 6))
    >>> _read_row(picture, 2, ["a.png", "1", "nan", "3", "4", "cow"], columns)
    >>> _read_row(picture, 3, ["a.png", "0", "0", "0", "0", ""], columns)
    >>> str(picture.bad[0]), picture.empty
    ("a.csv:2: expected finite numbers as xmin, ymin, xmax, ymax, got '1', 'nan', '3', '4'; mend or remove the row", 3)
    """
    try:
        parsed = _parse_row(row, columns)
    except ValueError as error:
        picture.bad.append(Problem(f"{picture.table}:{line}", str(error), "mend or remove the row", lost=True))
        return
    if columns.size is not None and picture.stated is None:
        height, width = (row[place].strip() for place in columns.size)
        if height and width:
            picture.stated = line, height, width
    if parsed is None:
        picture.empty = picture.empty or line
        return
    corners, label, crowd = parsed
    picture.lines.append(line)
    picture.boxes.append(corners)
    picture.labels.append(label)
    picture.crowds.append(crowd)


def _parse_row(row: Sequence[str], columns: Columns) -> tuple[np.ndarray, str, bool] | None:
    """Corners (4,), class and crowd of a row; None for one that says that there is no object.

    Raises
    ------
    ValueError
        What is wrong with it.

    Examples
    --------
    >>> columns = find_columns(["image", "x1", "y1", "x2", "y2", "label", "iscrowd"])
    >>> corners, label, crowd = _parse_row(["a.png", "1", "2", "3", "4", "cow", "1"], columns)
    >>> corners.tolist(), label, crowd
    ([1.0, 2.0, 3.0, 4.0], 'cow', True)
    >>> _parse_row(["a.png", "1", "2", "3", "4", " ", "1"], columns)
    Traceback (most recent call last):
        ...
    ValueError: class: expected a name, got ' '
    """
    texts = [row[place].strip() for place in columns.corners]
    stated = ", ".join(repr(text[:20]) for text in texts)
    wrong = ValueError(f"expected finite numbers as {', '.join(CORNERS[0])}, got {stated}")
    try:
        corners = np.array([read_number(text or "0") for text in texts])
    except ValueError:
        raise wrong from None
    if not any(texts) or not corners.any():
        return None
    if not all(texts) or not np.isfinite(corners).all():
        raise wrong
    try:
        label = read_name(row[columns.label])
    except ValueError as error:
        raise ValueError(f"class: {error}") from None
    crowd = "0" if columns.crowd is None else row[columns.crowd].strip().lower()
    if crowd not in ("", "0", "1", "false", "true"):
        raise ValueError(f"expected 0 or 1 as crowd, got {crowd[:20]!r}")
    return corners, label, crowd in ("1", "true")


def _refuse_shares(file: Path, pictures: Sequence[_Picture]) -> None:
    """Refuse a table whose numbers are shares of the pictures.

    Raises
    ------
    DataError
        If all of them lie between 0 and 1, and some are no whole numbers.

    Examples
    --------
    >>> picture = _Picture(Path("a.csv"), Path("a.png"), (40, 60), [2], [np.array([0.1, 0.2, 0.5, 1.0])])
    >>> _refuse_shares(Path("a.csv"), [picture])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.csv: all corners lie between 0 and 1, as shares of the picture do, but pixels are \
expected; multiply them by its width and height
    """
    boxes = [box for picture in pictures for box in picture.boxes]
    if not boxes:
        return
    values = np.stack(boxes)
    if values.min() >= 0 and values.max() <= 1 and (values % 1).any():
        what = "all corners lie between 0 and 1, as shares of the picture do, but pixels are expected"
        raise DataError(f"{file}: {what}; multiply them by its width and height")


def _build_picture(
    picture: _Picture, id: str, names: Sequence[str] | None, problems: list[Problem]
) -> AnnotatedPicture:
    """A picture with its boxes in pixels; what is wrong with a row becomes a problem.

    Examples
    --------
    >>> rows = [2, 3], [np.array([1.0, 2, 3, 4]), np.array([7.0, 2, 9, 4])], ["cow", "cow"], [False, False]
    >>> problems = []
    >>> built = _build_picture(_Picture(Path("a.csv"), Path("a.png"), (4, 6), *rows), "a", None, problems)
    >>> len(built.instances), str(problems[0])
    (1, 'a.csv:3: the box 7, 2, 9, 4 lies outside of the picture of 6 x 4 pixels; mend or remove the row')
    """
    table = picture.table
    if picture.empty and picture.boxes:
        what = f"says that {picture.path.name} holds no object, but line {picture.lines[0]} has one; the boxes are read"
        problems.append(Problem(f"{table}:{picture.empty}", what, "remove the row", id))
    problems += [Problem(bad.where, bad.what, bad.cure, id, bad.lost) for bad in picture.bad]
    boxes, note = _in_pixels(picture)
    if note:
        where = f"{table}:{picture.lines[0]}"
        problems.append(Problem(where, note, "look at the boxes over the picture", id, blocks=False))
    instances = []
    for line, box, label, crowd in zip(picture.lines, boxes, picture.labels, picture.crowds, strict=True):
        try:
            if names is not None and label not in names:
                raise ValueError(f"{label!r} is no category; known: {', '.join(names)}")
            cut_to_picture(box, picture.size)
        except ValueError as error:
            problems.append(Problem(f"{table}:{line}", str(error), "mend or remove the row", id, lost=True))
            continue
        instances.append(Instance(label, box_xyxy=box, is_crowd=crowd))
    built = AnnotatedPicture(id, picture.path, picture.size, tuple(instances))
    if picture.stated is not None:
        line, height, width = picture.stated
        problems += size_problems(f"{table}:{line}", "height x width", (height, width), built)
    return built


def _in_pixels(picture: _Picture) -> tuple[np.ndarray, str]:
    """Boxes (N, 4) of a picture in its pixels, and what is doubtful in them.

    Corners are pixels unless no box meets the picture so, and the picture is a raster on whose place a box lies.

    Raises
    ------
    DataError
        If a box in degrees is wider than 180: it may cross the antimeridian, and be what is left of the Earth.

    Examples
    --------
    >>> from affine import Affine
    >>> from utils.raster.example import raster_file
    >>> transform = Affine(0.5, 0, 100, 0, -0.5, 50)
    >>> path = Path(raster_file("a.tif", np.zeros((4, 6, 3), np.uint8), crs="EPSG:32631", transform=transform))
    >>> _in_pixels(_Picture(Path("a.csv"), path, (4, 6), [2], [np.array([101.0, 48.5, 102.0, 49.5])]))[0].tolist()
    [[2.0, 1.0, 4.0, 3.0]]
    """
    boxes = np.stack(picture.boxes) if picture.boxes else np.zeros((0, 4))
    if not len(boxes) or picture.path.suffix.lower() not in TIFFS:
        return boxes, ""
    grid = grid_of(picture.path)
    if grid is None:
        return boxes, ""
    placed = boxes_on_pixels(np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4), grid)
    as_pixels, as_map = (_meets(corners, picture.size) for corners in (boxes, placed))
    if not as_pixels.any() and as_map.any():
        wide = np.flatnonzero(in_degrees(grid.crs) & (np.abs(boxes[:, 2] - boxes[:, 0]) > 180))
        if wide.size:
            raise DataError(
                f"{picture.table}:{picture.lines[wide[0]]}: a box of more than 180 degrees of longitude; if it crosses "
                "the antimeridian, write longitudes beyond 180"
            )
        logger.info("%s: the boxes of %s are in the raster's map coordinates", picture.table, picture.path.name)
        return placed, ""
    if as_pixels.all() and as_map.all():
        return boxes, f"the boxes of {picture.path.name} may be pixels or map coordinates; they are taken as pixels"
    return boxes, ""


def _meets(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which boxes (N, 4) share an area with a picture of `size` (height, width), bool (N,).

    Examples
    --------
    >>> _meets(np.array([[1.0, 1, 3, 3], [6.0, 1, 8, 3]]), (4, 6)).tolist()
    [True, False]
    """
    low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], [size[1], size[0]])
    return (high > low).all(axis=1)
