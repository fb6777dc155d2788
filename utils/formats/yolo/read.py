"""YOLO: a data.yaml, pictures under `images`, and one text file of normalised rows for each under `labels`.

A row of a pose set is `class cx cy w h` and then `x y v` (or `x y`) for each keypoint. In a set without keypoints it is
`class cx cy w h` for a box, or `class x1 y1 x2 y2 x3 y3 ...` for an outline. All are shares of the picture's width and
height; x is x in pixels over the width, without a shift by half a pixel.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError
from utils.formats import specs
from utils.formats.file_names import FileNames
from utils.formats.pictures import PICTURE_SUFFIXES, is_picture, list_files, picture_ids
from utils.formats.sets import finish_sets, shared_labels
from utils.formats.text_files import LIST_SUFFIXES, find_listed, read_lines
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem
from utils.formats.values import read_flag
from utils.formats.yolo.folders import NAMES_FILES, read_folder, survey_rows
from utils.formats.yolo.rows import BOX_VALUES, RowReader
from utils.media.picture_sizes import picture_size

logger = logging.getLogger(__name__)

_SKIP_KEY = "skip_if_label_file_missing"  # some exporters write it


def read_yolo(
    path: str | Path, root: str | Path | None = None, need_keypoints: bool = True
) -> dict[str, AnnotationSet]:
    r"""Read a YOLO data set: of annotations where the file has `kpt_shape`, else of boxes and outlines.

    Keys of the file: `path` (data root, relative to the file), `train`, `val`, `test`, `all` (a folder, a list of
    folders, or a text file of picture paths, relative to the data root; in a text file also relative to it),
    `kpt_shape`, `names`, `flip_idx`, and keypoint names as `kpt_names`, `keypoint_names` or `kpt_labels`.

    Labels lie where the last folder named `images` in a picture's path is replaced by `labels`; where no file is
    there, the first such folder is tried, as other tools do; without such a folder, beside the picture. An empty file
    says that there is no object. A missing one says so too in a set of boxes or outlines; in one of poses it is a
    problem, and the picture counts as incomplete. Where the file says `skip_if_label_file_missing: true`, pictures
    without a label are left out. Where the pictures lie below a data root that is not the file's folder, labels may lie
    in the file's folder in their place. In a set where most rows are boxes, other rows are problems.

    Parameters
    ----------
    path : str or Path
        The YAML file; or a folder without one, whose splits and categories `read_folder` tells.
    root : str or Path, optional
        Data root in place of the file's.
    need_keypoints : bool
        Whether a file without `kpt_shape` is refused.

    Returns
    -------
    dict of str to AnnotationSet
        By split.

    Raises
    ------
    DataError
        If the file cannot be used, or a split has no picture or no label at all.

    Examples
    --------
    >>> import tempfile, cv2, numpy as np
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("images", "labels"):
    ...     (folder / name).mkdir()
    >>> _ = cv2.imwrite(str(folder / "images/a.png"), np.zeros((100, 200, 3), np.uint8))
    >>> _ = (folder / "labels/a.txt").write_text("0 .5 .5 .5 .25 .25 .5 2\n0 .5 .5\n")
    >>> _ = (folder / "data.yaml").write_text("{train: images, kpt_shape: [1, 3], names: [mouse]}")
    >>> train = read_yolo(folder / "data.yaml")["train"]
    >>> train.pictures[0].id, train.pictures[0].instances[0].box_xyxy.tolist()
    ('images/a', [50.0, 37.5, 150.0, 62.5])
    >>> train.problems[0].what
    'expected 8 values (class, box of 4, 1 keypoints of 3), got 3'
    """
    path = Path(path)
    spec = read_folder(path) if path.is_dir() else specs.read_spec(path, root)
    if specs.keypoint_shape(spec) is None and need_keypoints:
        raise DataError(f"{path}: no kpt_shape, so the number of keypoints is unknown; add kpt_shape: [K, 3]")
    listed: dict[str, list[Path]] = {}
    problems: dict[str, list[Problem]] = {}
    for split, sources in spec.splits().items():
        problems[split] = [] if problems else specs.find_misspelled(spec)
        listed[split] = _list_pictures(spec, split, sources, problems[split])
    files = _name_files(spec, listed)
    if not any(problems.values()):  # else they may be the labels of the pictures that are named and not there
        problems[next(iter(problems))] += find_orphans(files.labels)
    reader = _build_reader(spec, files)
    sets = {split: _read_split(spec, split, listed[split], files, reader, problems[split]) for split in listed}
    return finish_sets(sets)


@dataclass(frozen=True)
class _Files:
    """Pictures of all splits: their ids, the label file of each or None, and problems of labels that several share.

    Examples
    --------
    >>> _Files({Path("a.png"): "a"}, {Path("a.png"): None}).labels
    {PosixPath('a.png'): None}
    """

    ids: Mapping[Path, str]
    labels: Mapping[Path, Path | None]
    shared: Sequence[Problem] = ()


def _name_files(spec: specs.Spec, listed: Mapping[str, Sequence[Path]]) -> _Files:
    """Find the labels of the pictures of all splits, and name the pictures.

    Raises
    ------
    DataError
        If a picture has two labels whose names differ in the case of their suffix.

    Examples
    --------
    >>> spec = specs.Spec(Path("/no/data.yaml"), Path("/no"), {})
    >>> _name_files(spec, {"train": [Path("/no/images/a.png")]}).ids
    {PosixPath('/no/images/a.png'): 'images/a'}
    """
    pictures = [picture for part in listed.values() for picture in part]
    names = FileNames()
    ids, labels = picture_ids(pictures, spec.root), {picture: _find_label(picture, spec, names) for picture in pictures}
    return _Files(ids, labels, shared_labels(labels, ids))


def _find_label(picture: Path, spec: specs.Spec, names: FileNames) -> Path | None:
    """The label of a picture, or None. What stands in its place counts, file or not: reading it tells.

    Several sets of labels of the same pictures have a folder each, with a specification and `labels` in it; the one
    beside the specification goes before what lies at the pictures.

    Raises
    ------
    DataError
        If there are two whose names differ in the case of their suffix.

    Examples
    --------
    >>> _find_label(Path("/no/images/a.png"), specs.Spec(Path("data.yaml"), Path("/no"), {}), FileNames()) is None
    True
    """
    places = [label_path(picture), label_path(picture, 0), picture.with_suffix(".txt")]
    folder = spec.path.parent  # of a folder without a specification, the folder around it, which is not asked
    if spec.path != spec.root and folder != spec.root and picture.is_relative_to(spec.root):
        places.insert(0, label_path(folder / picture.relative_to(spec.root)))
    return next((found for place in places if (found := names.find(place)) is not None), None)


def _build_reader(spec: specs.Spec, files: _Files) -> RowReader:
    """The reader of a set's rows: for its classes, and its keypoints, or boxes and outlines as most rows are.

    Examples
    --------
    >>> spec = specs.Spec(Path("data.yaml"), Path("."), {"names": ["cow"], "kpt_shape": [1, 3]})
    >>> reader = _build_reader(spec, _Files({}, {}))
    >>> reader.skeletons["cow"].names, reader.num_keypoints
    (('0',), 1)
    """
    shape, categories = specs.keypoint_shape(spec), specs.category_names(spec)
    if shape is not None:
        categories = categories or ["0"]
        numbers = {category: list(map(str, range(shape[0]))) for category in categories}
        names = specs.keypoint_names(spec, categories) or numbers
        return RowReader(specs.build_skeletons(spec, names), *shape, numbers=tuple(specs.class_numbers(spec)))
    rows = survey_rows(label for label in files.labels.values() if label)
    categories = categories or list(map(str, range(rows.classes)))
    skeletons = specs.build_skeletons(spec, dict.fromkeys(categories, ()))
    return RowReader(skeletons, outlines=rows.outlines >= rows.boxes, numbers=tuple(specs.class_numbers(spec)))


def _read_split(
    spec: specs.Spec,
    split: str,
    pictures: Sequence[Path],
    files: _Files,
    reader: RowReader,
    problems: list[Problem],
) -> AnnotationSet:
    """The pictures of a split.

    Raises
    ------
    DataError
        If none of them has a label.

    Examples
    --------
    >>> spec, picture = specs.Spec(Path("data.yaml"), Path("."), {}), Path("images/a.png")
    >>> _read_split(spec, "val", [picture], _Files({picture: "a"}, {picture: None}), RowReader({}), [])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: val: none of the 1 pictures has a label, such as labels/a.txt
    """
    empty = sum(files.labels[picture] is None for picture in pictures)
    if empty == len(pictures):
        first = label_path(pictures[0])
        raise DataError(f"{spec.path}: {split}: none of the {len(pictures)} pictures has a label, such as {first}")
    if empty and _skips_unlabelled(spec):
        left = [picture for picture in pictures if files.labels[picture] is None]
        what = f"pictures without a label file, left out as {_SKIP_KEY} says: {empty}, such as {left[0].name}"
        problems.append(
            Problem(f"{spec.path}: {split}", what, "write an empty file where there is no object", blocks=False)
        )
        pictures = [picture for picture in pictures if files.labels[picture] is not None]
    elif empty and not reader.num_keypoints:
        text = "%s: %s: %d of %d pictures have no label file and count as pictures without an object"
        logger.info(text, spec.path, split, empty, len(pictures))
    read = [_read_picture(path, files.ids[path], files.labels[path], reader, problems) for path in pictures]
    here = {files.ids[picture] for picture in pictures}
    problems += [problem for problem in files.shared if problem.picture in here]
    return AnnotationSet([picture for picture in read if picture], dict(reader.skeletons), problems)


def _skips_unlabelled(spec: specs.Spec) -> bool:
    """Whether the file says that pictures without a label file are not labelled, and not that they show nothing.

    Raises
    ------
    DataError
        If it says neither yes nor no.

    Examples
    --------
    >>> _skips_unlabelled(specs.Spec(Path("data.yaml"), Path("."), {"skip_if_label_file_missing": "perhaps"}))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: expected 0 or 1 as skip_if_label_file_missing, got 'perhaps'
    """
    try:
        return read_flag(_SKIP_KEY, spec.keys.get(_SKIP_KEY))
    except ValueError as error:
        raise DataError(f"{spec.path}: {error}") from None


def find_orphans(labels: Mapping[Path, Path | None]) -> list[Problem]:
    r"""Tell of label files, beside those that are read, whose picture is not there; pictures in no split are fine.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("images/a.png", "images/other.png", "labels/a.txt", "labels/other.txt", "labels/gone.txt"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     (folder / name).touch()
    >>> [problem] = find_orphans({folder / "images/a.png": folder / "labels/a.txt"})
    >>> print(str(problem).replace(str(folder), "set"))
    set/labels: 1 label files have no picture, such as gone.txt; add the pictures, or remove these files
    """
    known: dict[Path, set[str]] = {}  # names of pictures, by the folder of their labels
    for picture_folder, label_folder in {(picture.parent, label.parent) for picture, label in labels.items() if label}:
        stems = {path.stem for path in picture_folder.iterdir() if is_picture(path)}
        known.setdefault(label_folder, set()).update(stems)
    problems = []
    for folder, stems in sorted(known.items()):
        names = sorted(
            path.name for path in folder.iterdir() if path.suffix.lower() == ".txt" and path.stem not in stems
        )
        files = [name for name in names if name not in NAMES_FILES]
        if files:
            what = f"{len(files)} label files have no picture, such as {files[0]}"
            problems.append(Problem(str(folder), what, "add the pictures, or remove these files", blocks=False))
    return problems


def _list_pictures(spec: specs.Spec, split: str, sources: Sequence[Path], problems: list[Problem]) -> list[Path]:
    """The pictures of a split, each once; those that are named but not there become problems.

    Raises
    ------
    DataError
        If there is none, or a source is neither a folder, a list nor a picture.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "train").mkdir()
    >>> _list_pictures(specs.Spec(Path("data.yaml"), folder, {}), "train", [folder / "train"], [])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: train: no picture in train
    """
    found: dict[Path, None] = {}
    missing: list[Problem] = []
    for source in sources:
        if source.is_dir():
            found.update(dict.fromkeys(list_files(source, PICTURE_SUFFIXES)))
        elif source.suffix.lower() in LIST_SUFFIXES:
            for number, line in read_lines(source):
                what = f"no such picture: {line}"
                try:
                    picture = find_listed(line, source.parent, spec.root)
                except ValueError as error:
                    picture, what = None, str(error)
                if picture is None:
                    missing.append(Problem(f"{source}:{number}", what, "put it there, or take the line out"))
                else:
                    found[picture] = None
        elif is_picture(source):
            found[source] = None
        else:
            raise DataError(f"{spec.path}: {split}: expected a folder, a list (.txt) or a picture, got {source}")
    if not found:
        first = f"; first: {missing[0]}" if missing else ""
        names = ", ".join(os.path.relpath(source, spec.root) for source in sources)
        raise DataError(f"{spec.path}: {split}: no picture in {names}{first}")
    problems += missing
    return list(found)


def label_path(picture: Path, component: int = -1) -> Path:
    """Where the label of a picture belongs.

    Parameters
    ----------
    picture : Path
        The picture.
    component : int
        Which folder named `images` is replaced by `labels`: -1 the last, 0 the first.

    Examples
    --------
    >>> label_path(Path("/images/set/images/a.png")).as_posix()
    '/images/set/labels/a.txt'
    >>> label_path(Path("/images/set/images/a.png"), 0).as_posix(), label_path(Path("set/a.png")).as_posix()
    ('/labels/set/images/a.txt', 'set/a.txt')
    """
    parts = list(picture.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[component]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_picture(
    path: Path, id: str, label: Path | None, reader: RowReader, problems: list[Problem]
) -> AnnotatedPicture | None:
    """Read one picture's rows; None when the picture itself cannot be used.

    Examples
    --------
    >>> problems = []
    >>> _read_picture(Path("/no/a.png"), "a", None, RowReader({}, 1, 2), problems), len(problems)
    (None, 1)
    """
    try:
        size = picture_size(path)
    except DataError as error:
        where, _, what = str(error).partition(": ")
        problems.append(Problem(where, what, picture=id))
        return None
    if label is None and not reader.num_keypoints:
        return AnnotatedPicture(id, path, size, ())
    if label is None:
        what, cure = f"no label for {path}", "write an empty file where there is no object"
        problems.append(Problem(str(label_path(path)), what, cure, id, lost=True))
        return AnnotatedPicture(id, path, size, ())
    return AnnotatedPicture(id, path, size, tuple(_read_rows(label, id, size, reader, problems)))


def _read_rows(
    label: Path, id: str, size: tuple[int, int], reader: RowReader, problems: list[Problem]
) -> Iterator[Instance]:
    r"""The instances of a label file; bad rows become problems.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import Skeleton
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("0 .5 .5 .5 .25 nan .5\n")
    >>> problems = []
    >>> list(_read_rows(path, "a", (4, 6), RowReader({"mouse": Skeleton(("nose",))}, 1, 2), problems))
    []
    >>> str(problems[0])  # doctest: +ELLIPSIS
    '.../a.txt:1: expected finite numbers, got NaN or infinity; mend or remove the row'
    """
    try:
        lines = list(read_lines(label, BOX_VALUES))
    except DataError as error:
        problems.append(Problem(str(label), str(error).removeprefix(f"{label}: "), "", id, lost=True))
        return
    for (number, line), plain in zip(lines, reader.read_plain([line for _, line in lines], size), strict=True):
        try:
            yield reader.read(line, size) if plain is None else plain
        except ValueError as error:
            problems.append(Problem(f"{label}:{number}", str(error), "mend or remove the row", id, lost=True))
