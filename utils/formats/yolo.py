"""YOLO pose: a data.yaml, pictures under `images`, and one text file of normalised rows for each under `labels`.

A row is `class cx cy w h` and then `x y v` (or `x y`) for each keypoint, all as shares of the picture's width and
height; x is x in pixels over the width, without a shift by half a pixel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.errors import DataError
from utils.files import write_bytes
from utils.formats import specs
from utils.formats.picture_sizes import picture_size
from utils.formats.pictures import (
    PICTURE_SUFFIXES,
    is_absolute,
    is_picture,
    list_files,
    new_names,
    picture_ids,
    place_picture,
    plain_path,
)
from utils.formats.pose_sets import (
    as_sets,
    check_target,
    count_lost,
    count_lost_facts,
    mark_incomplete,
    report_shared_pictures,
    shared_skeletons,
)
from utils.formats.poses import Instance, PosePicture, PoseSet, Problem, tight_box
from utils.formats.yolo_rows import RowReader, count_beyond, format_row

_LISTS = (".txt", ".list")


def read_yolo(path: str | Path, root: str | Path | None = None) -> dict[str, PoseSet]:
    r"""Read a YOLO pose data set.

    Keys of the file: `path` (data root, relative to the file), `train`, `val`, `test`, `all` (a folder, a list of
    folders, or a text file of picture paths, relative to the data root; in a text file also relative to it),
    `kpt_shape`, `names`, `flip_idx`, and keypoint names as `kpt_names`, `keypoint_names` or `kpt_labels`.

    Labels lie where the last folder named `images` in a picture's path is replaced by `labels`; where no file is
    there, the first such folder is tried, as other tools do; without such a folder, beside the picture. An empty file
    says that there is no animal; a missing one is a problem, and the picture counts as incomplete.

    Parameters
    ----------
    path : str or Path
        The YAML file.
    root : str or Path, optional
        Data root in place of the file's.

    Returns
    -------
    dict of str to PoseSet
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
    spec = specs.read_spec(Path(path), root)
    shape = specs.keypoint_shape(spec)
    if shape is None:
        raise DataError(f"{path}: no kpt_shape, so the number of keypoints is unknown; add kpt_shape: [K, 3]")
    categories = specs.category_names(spec) or ["0"]
    numbers = [str(index) for index in range(shape[0])]
    names = specs.keypoint_names(spec, categories) or dict.fromkeys(categories, numbers)
    reader = RowReader(specs.build_skeletons(spec, names), *shape)

    problems: dict[str, list[Problem]] = {}
    listed = {}
    for split, entries in spec.splits().items():
        problems[split] = specs.find_misspelled(spec, ()) if not problems else []
        listed[split] = _list_pictures(spec, split, entries, problems[split])
    ids = picture_ids((picture for pictures in listed.values() for picture in pictures), spec.root)
    sets = {}
    for split, pictures in listed.items():
        labels = {picture: _find_label(picture) for picture in pictures}
        if not any(labels.values()):
            raise DataError(
                f"{path}: {split}: none of the {len(pictures)} pictures has a label, such as {label_path(pictures[0])}"
            )
        read = [_read_picture(picture, ids[picture], labels[picture], reader, problems[split]) for picture in pictures]
        sets[split] = PoseSet([picture for picture in read if picture], dict(reader.skeletons), problems[split])
    return report_shared_pictures(sets)


def _list_pictures(spec: specs.Spec, split: str, entries: Sequence[str], problems: list[Problem]) -> list[Path]:
    """The pictures of a split, each once; those that are named but not there become problems.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _list_pictures(specs.Spec(Path("data.yaml"), folder, {}), "train", ["no"], [])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: train: no such file or folder: .../no
    """
    found: dict[Path, None] = {}
    missing: list[Problem] = []
    for entry in entries:
        source = _resolve_source(spec, split, entry)
        if source.is_dir():
            found.update(dict.fromkeys(list_files(source, PICTURE_SUFFIXES)))
        elif source.suffix.lower() in _LISTS:
            for number, line in _lines(source):
                picture = _resolve_listed(line, source.parent, spec.root)
                if picture is None:
                    what = f"no such picture: {line}"
                    missing.append(Problem(f"{source}:{number}", what, "put it there, or take the line out"))
                else:
                    found[picture] = None
        elif is_picture(source):
            found[source] = None
        else:
            raise DataError(f"{spec.path}: {split}: expected a folder, a list (.txt) or a picture, got {source}")
    if not found:
        first = f"; first: {missing[0]}" if missing else ""
        raise DataError(f"{spec.path}: {split}: no picture in {', '.join(entries)}{first}")
    problems += missing
    return list(found)


def _resolve_source(spec: specs.Spec, split: str, entry: str) -> Path:
    """Where a split's folder or list lies; `../` at the beginning is left out where only that leads somewhere.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "train").mkdir()
    >>> _resolve_source(specs.Spec(Path("data.yaml"), folder, {}), "train", "../train").name
    'train'
    """
    plain = plain_path(entry)
    source = Path(os.path.normpath(spec.root / plain))
    # Exporters write `../train/images` for a folder beside the file.
    inner = Path(os.path.normpath(spec.root / plain.removeprefix("../")))
    for candidate in (source, inner):
        if candidate.exists():
            return candidate
    raise DataError(f"{spec.path}: {split}: no such file or folder: {source}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Lines of a text file that say something, with their numbers.

    Raises
    ------
    DataError
        If it is no text.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_text("a.png\n\n b.png \n")
    >>> list(_lines(path))
    [(1, 'a.png'), (3, 'b.png')]
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _resolve_listed(line: str, folder: Path, root: Path) -> Path | None:
    """The picture that a line of a list names, relative to the list or to the data root; None where there is none.

    Examples
    --------
    >>> _resolve_listed("a.png", Path("/no/such"), Path("/no/root")) is None
    True
    """
    plain = plain_path(line)
    bases = [Path("/")] if is_absolute(plain) else [folder, root]
    candidates = [Path(os.path.normpath(base / plain)) for base in bases]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


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


def _find_label(picture: Path) -> Path | None:
    """The label file of a picture, or None.

    Examples
    --------
    >>> _find_label(Path("/no/images/a.png")) is None
    True
    """
    candidates = (label_path(picture), label_path(picture, 0), picture.with_suffix(".txt"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_picture(
    path: Path, id: str, label: Path | None, reader: RowReader, problems: list[Problem]
) -> PosePicture | None:
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
    picture = PosePicture(id, path, size, ())
    if label is None:
        what, cure = f"no label for {path}", "write an empty file where there is no animal"
        problems.append(Problem(str(label_path(path)), what, cure, id))
        return mark_incomplete(picture)
    count = len(problems)
    instances = tuple(_read_rows(label, id, size, reader, problems))
    whole = PosePicture(id, path, size, instances)
    return whole if len(problems) == count else mark_incomplete(whole)


def _read_rows(
    label: Path, id: str, size: tuple[int, int], reader: RowReader, problems: list[Problem]
) -> Iterator[Instance]:
    r"""The instances of a label file; bad rows become problems.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.poses import Skeleton
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("0 .5 .5 .5 .25 nan .5\n")
    >>> problems = []
    >>> list(_read_rows(path, "a", (4, 6), RowReader({"mouse": Skeleton(("nose",))}, 1, 2), problems))
    []
    >>> str(problems[0])  # doctest: +ELLIPSIS
    '.../a.txt:1: expected finite numbers, got NaN or infinity; mend or remove the row'
    """
    try:
        for number, line in _lines(label):
            try:
                yield reader.read(line, size)
            except ValueError as error:
                problems.append(Problem(f"{label}:{number}", str(error), "mend or remove the row", id))
    except DataError as error:
        problems.append(Problem(str(label), str(error).partition(": ")[2], "save it as text", id))


def write_yolo(poses: PoseSet | Mapping[str, PoseSet], folder: str | Path) -> list[Path]:
    """Write a YOLO pose data set: data.yaml, `images/<split>/` and `labels/<split>/`.

    Pictures are given a second name (a hard link) where the system allows it, else copied. What the format cannot
    hold is left out: `unsupported` lists it.

    Parameters
    ----------
    poses : PoseSet or dict of str to PoseSet
        By split; one set is the split "all".
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        The specification first, then the label files.

    Raises
    ------
    DataError
        If categories have different numbers of keypoints, or a picture's size is not known.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.poses import Skeleton
    >>> poses = PoseSet([], {"mouse": Skeleton(("nose",)), "fish": Skeleton(("eye", "fin"))})
    >>> write_yolo(poses, tempfile.mkdtemp())
    Traceback (most recent call last):
        ...
    utils.errors.DataError: YOLO holds one number of keypoints, but mouse has 1, fish has 2; choose categories
    """
    folder, sets = Path(folder), as_sets(poses)
    skeletons = shared_skeletons(sets)
    if not any(skeleton.num_keypoints for skeleton in skeletons.values()):
        raise DataError(f"{folder}: YOLO pose needs keypoints, but no category has any")
    if len({skeleton.num_keypoints for skeleton in skeletons.values()}) > 1:
        counts = ", ".join(f"{name} has {skeleton.num_keypoints}" for name, skeleton in skeletons.items())
        raise DataError(f"YOLO holds one number of keypoints, but {counts}; choose categories")
    keys = specs.spec_keys(skeletons)
    if isinstance(keys["flip_idx"], dict):  # the format knows one for all; `unsupported` says so
        del keys["flip_idx"]
    names = {split: new_names(part.pictures) for split, part in sets.items()}
    targets = {split: [_targets(folder, split, name) for name in part] for split, part in names.items()}
    tops = [folder / kind / split for kind in ("images", "labels") for split in sets]
    check_target(folder, sets, tops, [path for pairs in targets.values() for pair in pairs for path in pair])
    for split, part in sets.items():
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        for picture, (image, label) in zip(part.pictures, targets[split], strict=True):
            _write_picture(picture, list(skeletons), image, label)
    splits = {split: f"images/{split}" for split in sets}
    written = [label for pairs in targets.values() for _, label in pairs]
    return [specs.write_spec(folder / "data.yaml", {"path": ".", **splits, **keys}), *written]


def _targets(folder: Path, split: str, name: str) -> tuple[Path, Path]:
    """Where a picture and its label are written.

    Examples
    --------
    >>> [path.as_posix() for path in _targets(Path("new"), "val", "day1/a.png")]
    ['new/images/val/day1/a.png', 'new/labels/val/day1/a.txt']
    """
    return folder / "images" / split / name, (folder / "labels" / split / name).with_suffix(".txt")


def _write_picture(picture: PosePicture, categories: list[str], image: Path, label: Path) -> None:
    """Write one picture and its label.

    Raises
    ------
    DataError
        If its size is not known.

    Examples
    --------
    >>> _write_picture(PosePicture("a", Path("a.png"), None, ()), [], Path("b.png"), Path("b.txt"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.png: the size is unknown, and YOLO writes shares of it; look at its problem
    """
    if picture.size is None:
        raise DataError(f"{picture.path}: the size is unknown, and YOLO writes shares of it; look at its problem")
    rows = [format_row(instance, categories, picture.size) for instance in picture.instances]
    place_picture(picture, image)
    write_bytes(label, "".join(row + "\n" for row in rows if row).encode())


def unsupported(poses: PoseSet) -> list[str]:
    """List what YOLO pose cannot hold of a set.

    Parameters
    ----------
    poses : PoseSet
        What is to be written.

    Returns
    -------
    list of str
        Each with how many instances have it; empty when writing loses nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from utils.formats.poses import Instance, Skeleton, keypoints_array
    >>> crowd = Instance("mouse", keypoints_array([[1, 2]], [2]), tight_box(np.eye(2)), is_crowd=True, area=6.0)
    >>> unsupported(PoseSet([PosePicture("a", Path("a.png"), (4, 6), (crowd,))], {"mouse": Skeleton(("nose",))}))
    ['is_crowd: 1 of 1 instances', 'area: 1 of 1 instances']
    """
    counts = {skeleton.num_keypoints for skeleton in poses.skeletons.values()}
    sizes = [f"{len(counts)} different numbers of keypoints"] if len(counts) > 1 else []
    flips = len({skeleton.flip_idx for skeleton in poses.skeletons.values()})
    sides = ["flip_idx that differs between categories (inferred from the names when read)"] if flips > 1 else []
    lost = count_lost(
        poses,
        {
            "neither box nor keypoint (left out)": lambda i: i.box_xyxy is None and tight_box(i.keypoints) is None,
            "polygons": lambda i: bool(i.polygons),
            "is_crowd": lambda i: i.is_crowd,
            "area": lambda i: i.area is not None,
            "group": lambda i: i.group is not None,
            "track": lambda i: i.track is not None,
            "scores": lambda i: i.score is not None or i.keypoint_scores is not None,
            "extra facts": lambda i: bool(i.extra),
        },
    )
    return [*sizes, *sides, *count_beyond(poses), *lost, *count_lost_facts(poses)]
