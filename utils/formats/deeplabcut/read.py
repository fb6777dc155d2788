"""DeepLabCut: a csv table of points in pixels, with three header rows, or four for several animals.

The rows above the table are scorer, individuals (for several animals), bodyparts and coords; a table row is a picture,
by its path in one column or in three. An empty cell or NaN is a missing keypoint. Points are taken as they stand.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.formats import specs
from utils.formats.moved import NO_FOLDER, need_moved, parts_of
from utils.formats.other_files import describe_others
from utils.formats.pictures import is_absolute, is_picture, list_files, picture_ids, plain_path, resolve_inside
from utils.formats.recognise import format_of_file
from utils.formats.sets import find_unlabelled, finish_sets
from utils.formats.text_files import read_text
from utils.formats.types import (
    AnnotatedPicture,
    AnnotationSet,
    Instance,
    Problem,
    Skeleton,
    build_skeleton,
    keypoints_array,
)
from utils.formats.values import read_number
from utils.media.picture_sizes import picture_size
from utils.runtime.reading import kind_at

DEFAULT_CATEGORY = "animal"
_HEADER = ("scorer", "individuals", "bodyparts", "coords")
_UNIQUE = "single"  # DeepLabCut's individual for body parts that only exist once in a picture
_COORDS = ("x", "y", "likelihood")


def read_deeplabcut(path: str | Path, root: str | Path | None = None) -> dict[str, AnnotationSet]:
    r"""Read DeepLabCut's tables of labels.

    A keypoint with coordinates is visible (2). Individuals keep their identity: `track_id` is the number at the end of
    the individual's name less one, or its place. Where a picture's path does not lead to it, its name is looked for
    beside the table and in `images`.

    Parameters
    ----------
    path : str or Path
        A csv table; a folder with tables in it, also in folders inside; or a specification (YAML with
        `format: deeplabcut`, `path`, `train`, `val`, `test` or `all` as tables; `names` and `kpt_names`, `flip_idx`,
        `edges`). Without a specification, names of tables and their folders tell the splits, and the category is
        "animal".
    root : str or Path, optional
        Data root, which no picture's path may leave.

    Returns
    -------
    dict of str to AnnotationSet
        By split. An instance has its individual's name in `extra["individual"]` where there are several.

    Raises
    ------
    DataError
        If a table has no such header, a keypoint is a duplicate, or none of its pictures is there.

    Examples
    --------
    >>> import tempfile, cv2
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((4, 6), np.uint8))
    >>> table = "scorer,me,me,me,me\nbodyparts,nose,nose,tail,tail\ncoords,x,y,x,y\nlabeled-data/a.png,3,2.5,,\n"
    >>> _ = (folder / "CollectedData.csv").write_text(table)
    >>> mouse = read_deeplabcut(folder)["all"].pictures[0].instances[0]
    >>> mouse.category, mouse.keypoints.tolist()
    ('animal', [[3.0, 2.5, 2.0], [nan, nan, 0.0]])
    """
    path = Path(path)
    spec, base, files = _find_tables(path, None if root is None else Path(root))
    problems = specs.find_misspelled(spec) if spec else []
    tables = {split: [_read_table(file, base) for file in part] for split, part in files.items()}
    ids = picture_ids((picture for part in tables.values() for table in part for picture in table.rows), base)
    skeletons = _read_skeletons([table for part in tables.values() for table in part], spec, str(path))
    sets = {split: _build_set(part, skeletons, ids) for split, part in tables.items()}
    named = {name for part in tables.values() for table in part for name in table.unusable}
    cure = "add one without values where there is no animal"
    return finish_sets(sets, problems, find_unlabelled(path, ids, "a row", cure, named))


def _find_tables(path: Path, root: Path | None) -> tuple[specs.Spec | None, Path, dict[str, list[Path]]]:
    """The specification if there is one, the data root, and the tables of each split.

    Raises
    ------
    DataError
        If a folder has no table in it.

    Examples
    --------
    >>> spec, root, files = _find_tables(Path("set/labeled-data/day1/CollectedData_me.csv"), None)
    >>> root.as_posix(), list(files)
    ('set', ['all'])
    """
    if path.suffix.lower() in specs.SUFFIXES:
        spec = specs.read_spec(path, root)
        return spec, spec.root, spec.splits()
    tables = [path]
    if path.is_dir():
        tables = [file for file in list_files(path, (".csv",)) if format_of_file(file) == "deeplabcut"]
        if not tables:
            raise DataError(f"{path}: no table of DeepLabCut (csv) in it{describe_others(path)}")
    files: dict[str, list[Path]] = {}
    for table in tables:
        split = specs.split_of_name(table.name) or specs.SPLIT_WORDS.get(table.parent.name, "all")
        files.setdefault(split, []).append(table)
    above = next((folder.parent for folder in path.parents if folder.name == "labeled-data"), None)
    return None, root or (path if path.is_dir() else above or path.parent), files


@dataclass(frozen=True, eq=False)
class _Row:
    """A row of a table: the size of its picture and the values of the columns.

    Examples
    --------
    >>> _Row(5, (4, 6), np.zeros(2)).number
    5
    """

    number: int
    size: tuple[int, int]
    values: np.ndarray


@dataclass(frozen=True)
class _Table:
    """A table: for each individual (None for the only animal) and body part the columns of x, y and likelihood.

    Examples
    --------
    >>> table = _Table(Path("a.csv"), {(None, "nose"): {"x": 0, "y": 1}}, 1)
    >>> table.parts
    {None: ('nose',)}
    """

    path: Path
    columns: dict[tuple[str | None, str], dict[str, int]]
    num_index: int
    rows: dict[Path, _Row] = field(default_factory=dict)
    doubled: dict[Path, _Row] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)  # names of pictures whose rows are left out

    @property
    def parts(self) -> dict[str | None, tuple[str, ...]]:
        """Body parts of each individual.

        Examples
        --------
        >>> _Table(Path("a.csv"), {("m1", "nose"): {}, ("m2", "nose"): {}, ("m1", "tail"): {}}, 1).parts
        {'m1': ('nose', 'tail'), 'm2': ('nose',)}
        """
        found: dict[str | None, list[str]] = {}
        for individual, part in self.columns:
            found.setdefault(individual, []).append(part)
        return {individual: tuple(parts) for individual, parts in found.items()}


def _read_table(path: Path, root: Path) -> _Table:
    r"""Read a table and find its pictures.

    Raises
    ------
    DataError
        If it has no such header or no picture.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("scorer,me\n")
    >>> _read_table(path, path.parent)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.csv: not a table of DeepLabCut: no header row bodyparts, coords
    """
    text = read_text(path)
    try:
        lines = [(number, line) for number, line in enumerate(csv.reader(io.StringIO(text, "")), start=1) if any(line)]
    except csv.Error as error:
        raise DataError(f"{path}: not a csv table ({error})") from None
    header = {line[0]: line for _, line in lines[:4] if line[0] in _HEADER}
    table = _Table(path, *_read_header(path, header))
    for number, line in lines[len(header) :]:
        _add_row(table, number, line, root)
    if not table.rows:
        first = f"; first: {table.problems[0]}" if table.problems else ""
        raise DataError(f"{path}: none of its {len(lines) - len(header)} rows has a picture that is there{first}")
    return table


def _read_header(path: Path, header: Mapping[str, Sequence[str]]) -> tuple[dict, int]:
    """What the columns mean, counted from the first value, and how many columns the picture's path takes.

    Raises
    ------
    DataError
        If a row is missing, a column is a duplicate, or x and y are not both there.

    Examples
    --------
    >>> header = {"scorer": ["scorer", "", "", "me"], "bodyparts": ["bodyparts", "", "", "nose", "nose"]}
    >>> _read_header(Path("a.csv"), {**header, "coords": ["coords", "", "", "x", "y"]})
    ({(None, 'nose'): {'x': 0, 'y': 1}}, 3)
    """
    missing = [name for name in ("scorer", "bodyparts", "coords") if name not in header]
    if missing:
        raise DataError(f"{path}: not a table of DeepLabCut: no header row {', '.join(missing)}")
    coords = header["coords"]
    num_index = next((index for index, cell in enumerate(coords) if cell in _COORDS), len(coords))
    individuals: Sequence[str | None] = header.get("individuals") or [None] * len(coords)
    columns: dict[tuple[str | None, str], dict[str, int]] = {}
    for index, cells in enumerate(zip(individuals, header["bodyparts"], coords, strict=False)):
        individual, part, coord = cells
        if index < num_index:
            continue
        if coord not in _COORDS:
            raise DataError(f"{path}: coords: expected x, y or likelihood, got {coord!r} in column {index + 1}")
        places = columns.setdefault((individual, part), {})
        if coord in places:
            raise DataError(
                f"{path}: {coord} of {part!r} is a duplicate (column {index + 1}); keypoint names must differ"
            )
        places[coord] = index - num_index
    for (_, part), places in columns.items():
        if "x" not in places or "y" not in places:
            raise DataError(f"{path}: {part!r} lacks its x or y column")
    if not columns or num_index not in (1, 3):
        raise DataError(f"{path}: expected the picture's path in 1 or 3 columns before x, got {num_index}")
    return columns, num_index


def _add_row(table: _Table, number: int, line: Sequence[str], root: Path) -> None:
    """Add a row, or the problem that keeps it out.

    Examples
    --------
    >>> table = _Table(Path("/d/a.csv"), {(None, "nose"): {"x": 0, "y": 1}}, 1)
    >>> _add_row(table, 4, ["b.png", "1"], Path("/d"))
    >>> str(table.problems[0])
    '/d/a.csv:4: expected 2 values after the path, got 1; mend or remove the row'
    """
    where, count = f"{table.path}:{number}", sum(map(len, table.columns.values()))
    cells, name = line[table.num_index :], "/".join(part for part in line[: table.num_index] if part)
    try:
        if len(cells) != count:
            raise ValueError(f"expected {count} values after the path, got {len(cells)}")
        values = _read_values(cells)
        picture = _find_picture(name, table.path.parent, root)
        size = picture_size(picture)
    except ValueError as error:  # a DataError tells what to do itself
        cure = "" if isinstance(error, DataError) else "mend or remove the row"
        table.problems.append(Problem(where, str(error), cure))
        table.unusable.extend(parts_of(name)[-1:])
        return
    rows = table.doubled if picture in table.rows else table.rows
    rows[picture] = _Row(number, size, values)


def _read_values(cells: Sequence[str]) -> np.ndarray:
    """Numbers of a row, shape (N,); an empty cell is NaN.

    Raises
    ------
    ValueError
        If a cell is no finite number.

    Examples
    --------
    >>> _read_values(["1.5", "", "NaN"]).tolist()
    [1.5, nan, nan]
    >>> _read_values(["inf"])
    Traceback (most recent call last):
        ...
    ValueError: expected finite numbers or empty cells, got 'inf'
    """
    try:
        values = np.array([read_number(cell) if cell.strip() else np.nan for cell in cells])
    except ValueError as error:
        raise ValueError(f"expected numbers or empty cells ({error})") from None
    if np.isinf(values).any():
        raise ValueError(f"expected finite numbers or empty cells, got {cells[int(np.isinf(values).argmax())]!r}")
    return values


def _find_picture(name: str, folder: Path, root: Path) -> Path:
    """The picture of a row; of a path from another computer, or out of the data root, only the end counts.

    Raises
    ------
    ValueError
        If it is not there, or several may be meant.

    Examples
    --------
    >>> _find_picture("17", Path("/no"), Path("/no"))
    Traceback (most recent call last):
        ...
    ValueError: expected a picture's path, got '17' (a table of predictions for a video names none)
    """
    if not is_picture(name):
        raise ValueError(f"expected a picture's path, got {name!r} (a table of predictions for a video names none)")
    plain = plain_path(name)
    base, last = os.path.basename(plain), "/".join(plain.split("/")[-2:])
    places = [folder / base, folder / "images" / last, folder / "images" / base, root / "images" / base]
    try:
        places = [resolve_inside("", plain, root, root), resolve_inside("", plain, folder, root), *places]
    except DataError:  # it leads out of the root
        places = []
    found = next((path for path in places if kind_at(path) in NO_FOLDER), None)
    if found is None and (not places or is_absolute(plain)):
        found = need_moved(name, [folder, folder / "images", root, root / "images"], root)
    if found is None:
        raise ValueError(f"no such picture: {name}")
    return Path(os.path.normpath(found))


def _read_skeletons(tables: Sequence[_Table], spec: specs.Spec | None, where: str) -> dict[str, Skeleton]:
    """Skeletons by category: as the specification says, else "animal" for the first set of body parts.

    Raises
    ------
    DataError
        If the specification has no category with a table's keypoints.

    Examples
    --------
    >>> table = _Table(Path("a.csv"), {("m1", "nose"): {}, ("single", "corner"): {}}, 1)
    >>> {name: skeleton.names for name, skeleton in _read_skeletons([table], None, "a.csv").items()}
    {'animal': ('nose',), 'single': ('corner',)}
    """
    parts: dict[tuple[str, ...], str | None] = {}
    for individual, names in (item for table in tables for item in table.parts.items()):
        parts.setdefault(names, individual)
    categories = specs.category_names(spec) if spec else None
    if spec and categories:
        first = list(next(iter(parts)))
        skeletons = specs.build_skeletons(spec, specs.keypoint_names(spec, categories) or {categories[0]: first})
        unknown = [names for names in parts if names not in {skeleton.names for skeleton in skeletons.values()}]
        if unknown:
            raise DataError(f"{spec.path}: no category has the table's keypoints {', '.join(unknown[0])}; name them")
        return skeletons
    found: dict[str, Skeleton] = {}
    for names, individual in parts.items():
        usual = DEFAULT_CATEGORY not in found and individual != _UNIQUE
        found[DEFAULT_CATEGORY if usual else str(individual)] = build_skeleton(where, names)
    return found


def _build_set(tables: Sequence[_Table], skeletons: Mapping[str, Skeleton], ids: Mapping[Path, str]) -> AnnotationSet:
    """Join the tables of a split.

    Examples
    --------
    >>> rows = {Path("a.png"): _Row(4, (4, 6), np.array([3.0, np.nan]))}
    >>> table = _Table(Path("a.csv"), {(None, "nose"): {"x": 0, "y": 1}}, 1, rows)
    >>> annotations = _build_set([table], {"mouse": Skeleton(("nose",))}, {Path("a.png"): "a"})
    >>> annotations.pictures[0].instances, annotations.problems[0].what
    ((), "'nose' has only one of x and y; it is taken as missing")
    """
    annotations = AnnotationSet([], dict(skeletons), [])
    seen: dict[Path, tuple[_Table, _Row]] = {}
    for table in tables:
        annotations.problems += table.problems
        for path, row in (*table.rows.items(), *table.doubled.items()):
            where, id = f"{table.path}:{row.number}", ids[path]
            if path in seen:
                first, other = seen[path]
                what = f"{path} has a row already, {first.path}:{other.number}; this one is left out"
                same = first.columns == table.columns and np.array_equal(row.values, other.values, equal_nan=True)
                annotations.problems.append(Problem(where, what, "keep one row", id, lost=not same))
                continue
            seen[path] = table, row
            instances = tuple(_read_instances(table, row, skeletons, id, annotations.problems))
            annotations.pictures.append(AnnotatedPicture(id, path, row.size, instances))
    return annotations


def _read_instances(
    table: _Table, row: _Row, skeletons: Mapping[str, Skeleton], id: str, problems: list[Problem]
) -> Iterator[Instance]:
    """The individuals of a row that have a point.

    Examples
    --------
    >>> row = _Row(4, (4, 6), np.array([3.0, 2.0, 0.5]))
    >>> table = _Table(Path("a.csv"), {("m3", "nose"): {"x": 0, "y": 1, "likelihood": 2}}, 1)
    >>> mouse = next(_read_instances(table, row, {"mouse": Skeleton(("nose",))}, "a", []))
    >>> mouse.track_id, mouse.extra, mouse.keypoint_scores.tolist()
    (2, {'individual': 'm3'}, [0.5])
    """
    tracks = _tracks(table.parts, skeletons)
    for individual, names in table.parts.items():
        places = [table.columns[individual, name] for name in names]
        points = row.values[[[place["x"], place["y"]] for place in places]]
        finite = np.isfinite(points)
        for k in np.flatnonzero(finite.any(axis=1) & ~finite.all(axis=1)):
            what = f"{names[k]!r} has only one of x and y; it is taken as missing"
            problems.append(Problem(f"{table.path}:{row.number}", what, "give both or none", id, lost=True))
        seen = finite.all(axis=1)
        if not seen.any():
            continue
        scores = np.array([row.values[place["likelihood"]] if "likelihood" in place else np.nan for place in places])
        yield Instance(
            category=_category_of(individual, names, skeletons),
            keypoints=keypoints_array(points, np.where(seen, 2, 0)),
            keypoint_scores=None if np.isnan(scores).all() else scores,
            track_id=tracks[individual],
            extra={} if individual is None else {"individual": individual},
        )


def _category_of(individual: str | None, names: tuple[str, ...], skeletons: Mapping[str, Skeleton]) -> str:
    """Category with these body parts; of several the one that the individual is named after, as in `mouse_3`.

    Examples
    --------
    >>> skeletons = {"mouse": Skeleton(("nose",)), "rat": Skeleton(("nose",))}
    >>> _category_of("rat_2", ("nose",), skeletons), _category_of("bob", ("nose",), skeletons)
    ('rat', 'mouse')
    """
    fitting = [category for category, skeleton in skeletons.items() if skeleton.names == names]
    stem = re.sub(r"_\d+$", "", individual or "")
    return stem if stem in fitting else fitting[0]


def _tracks(
    parts: Mapping[str | None, tuple[str, ...]], skeletons: Mapping[str, Skeleton]
) -> dict[str | None, int | None]:
    """Identity of each individual: the number at the end of its name less one, if that tells them apart, or place.

    Examples
    --------
    >>> skeletons, nose = {"mouse": Skeleton(("nose",)), "rat": Skeleton(("nose",))}, ("nose",)
    >>> _tracks({"m2": nose, "m7": nose}, skeletons), _tracks({"ann": nose, "bob": nose, "single": nose}, skeletons)
    ({'m2': 1, 'm7': 6}, {'ann': 0, 'bob': 1, 'single': None})
    >>> _tracks({"mouse_3": nose, "rat_3": nose}, skeletons), _tracks({"he1": nose, "she1": nose}, skeletons)
    ({'mouse_3': 2, 'rat_3': 2}, {'he1': 0, 'she1': 1})
    """
    names = [name for name in parts if name not in (None, _UNIQUE)]
    found = [re.search(r"(\d+)$", str(name)) for name in names]
    values = [int(number.group()) - 1 if number else -1 for number in found]
    animals = {(_category_of(name, parts[name], skeletons), value) for name, value in zip(names, values, strict=True)}
    good = min(values, default=0) >= 0 and len(animals) == len(names)
    tracks: dict[str | None, int | None] = dict(zip(names, values if good else range(len(names)), strict=True))
    return {name: tracks.get(name) for name in parts}
