"""Sets of labelled pictures, by split: what all readers and all writers of them do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.formats.pictures import is_picture, place_picture
from utils.formats.specs import SUFFIXES
from utils.formats.types import SPLITS, AnnotatedPicture, AnnotationSet, Instance, Problem, Skeleton
from utils.formats.values import read_whole
from utils.media.orientation import describe_ignored, picture_orientation

FACTS = "dinolith"  # our key in files of other formats, for what they have no place for


def shared_skeletons(sets: Mapping[str, AnnotationSet]) -> dict[str, Skeleton]:
    """Skeletons of all splits together.

    Raises
    ------
    ValueError
        If a split has an unknown name, or two splits mean different keypoints by one category.

    Examples
    --------
    >>> mouse, rat = {"mouse": Skeleton(("nose",))}, {"rat": Skeleton(("tail",))}
    >>> list(shared_skeletons({"train": AnnotationSet([], mouse), "val": AnnotationSet([], rat)}))
    ['mouse', 'rat']
    >>> shared_skeletons({"trian": AnnotationSet([], {})})
    Traceback (most recent call last):
        ...
    ValueError: unknown split 'trian'; known: train, val, test, all
    """
    found: dict[str, Skeleton] = {}
    for name, part in sets.items():
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; known: {', '.join(SPLITS)}")
        for category, skeleton in part.skeletons.items():
            if found.setdefault(category, skeleton) != skeleton:
                raise ValueError(f"split {name!r}: the skeleton of {category!r} differs from the other splits'")
    return found


def place_pictures(
    folder: Path,
    sets: Mapping[str, AnnotationSet],
    images: Mapping[str, Sequence[Path]],
    labels: Iterable[Path] = (),
    tops: Iterable[Path] = (),
) -> None:
    """Put the pictures of all splits into a new data set, unless it would mix with the source or with old labels.

    Parameters
    ----------
    folder : Path
        Where the data set is to be written.
    sets : dict of str to AnnotationSet
        What is to be written, by split.
    images : dict of str to sequence of Path
        New name of each picture, by split.
    labels : iterable of Path
        The other files that will be written.
    tops : iterable of Path
        Folders that are to hold nothing but `images` and `labels`, also not in folders inside.

    Raises
    ------
    DataError
        If a picture of the source lies in the folder, or a file is there that is not of this data set.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> sets = {"all": AnnotationSet([AnnotatedPicture("a", folder / "a.png", (4, 6), ())], {})}
    >>> place_pictures(folder / "new", sets, {"all": [folder / "new" / "b.png"]})
    >>> (folder / "new" / "b.png").read_bytes()
    b'pixels'
    >>> place_pictures(folder / "new", {}, {}, tops=[folder / "new"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../b.png: not of the data set that is to be written here; write to an empty folder
    """
    refuse_source_inside(folder, sets)
    expected = {path for paths in (*images.values(), labels) for path in paths}
    for path in (Path(root, name) for top in tops for root, _, names in os.walk(top) for name in sorted(names)):
        if path not in expected and not path.name.startswith("."):
            raise DataError(f"{path}: not of the data set that is to be written here; write to an empty folder")
    for split, part in sets.items():
        for picture, target in zip(part.pictures, images[split], strict=True):
            place_picture(picture, target)


def refuse_source_inside(folder: Path, sets: Mapping[str, AnnotationSet]) -> None:
    """Refuse to write a data set over the pictures that it is made of.

    Raises
    ------
    DataError
        If a picture lies in the folder, or in what it is a link to.

    Examples
    --------
    >>> sets = {"all": AnnotationSet([AnnotatedPicture("a", Path("photos/in/a.png"), (4, 6), ())], {})}
    >>> refuse_source_inside(Path("photos/out"), sets)
    >>> refuse_source_inside(Path("photos"), sets)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: photos: the source lies in it (photos/in/a.png), and would be overwritten; write elsewhere
    """
    top = folder.resolve()
    folders: dict[Path, Path] = {}  # each with its first picture
    for path in (picture.path for part in sets.values() for picture in part.pictures):
        folders.setdefault(path.parent, path)
    inside = next((path for folder, path in folders.items() if folder.resolve().is_relative_to(top)), None)
    if inside is not None:
        raise DataError(f"{folder}: the source lies in it ({inside}), and would be overwritten; write elsewhere")


def shared_labels(labels: Mapping[Path, Path | None], ids: Mapping[Path, str]) -> list[Problem]:
    """Report pictures that share a label file, as `a.jpg` and `a.png` do where labels are found by stem.

    Parameters
    ----------
    labels : dict of Path to Path or None
        The label file of each picture.
    ids : dict of Path to str
        The id of each picture.

    Returns
    -------
    list of Problem
        One for each such picture; its labels do not count, as nothing says which picture they are of.

    Examples
    --------
    >>> labels = {Path("a.jpg"): Path("a.txt"), Path("a.png"): Path("a.txt"), Path("b.png"): None}
    >>> [str(problem) for problem in shared_labels(labels, {Path("a.jpg"): "a.jpg", Path("a.png"): "a.png"})]
    ['a.txt: is the label of a.jpg and of a.png; give each picture its own name and label, or take one away', \
'a.txt: is the label of a.png and of a.jpg; give each picture its own name and label, or take one away']
    """
    pictures: dict[Path, list[Path]] = {}
    for picture, label in labels.items():
        if label is not None:
            pictures.setdefault(label, []).append(picture)
    cure = "give each picture its own name and label, or take one away"
    return [
        Problem(str(label), f"is the label of {picture} and of {other}", cure, ids[picture], lost=True)
        for label, sharing in pictures.items()
        if len(sharing) > 1
        for picture, other in zip(sharing, [*sharing[1:], sharing[0]], strict=True)
    ]


def text_sizes(where: str, names: str, sizes: Iterable[tuple]) -> list[Problem]:
    """Note that sizes of pictures are written as text, which is read as numbers; once for all of them.

    Examples
    --------
    >>> print(*text_sizes("a.json", "height x width", [(4, 6), ("4", "6")]))
    a.json: height x width is text for 1 pictures, such as '4' x '6', and read as numbers; write it as numbers
    """
    found = [size for size in sizes if any(isinstance(side, str) for side in size)]
    if not found:
        return []
    some = " x ".join(repr(side)[:40] for side in found[0])
    what = f"{names} is text for {len(found)} pictures, such as {some}, and read as numbers"
    return [Problem(where, what, "write it as numbers", blocks=False)]


def find_unlabelled(
    where: str | Path, labelled: Iterable[Path], lack: str, cure: str, named: Collection[str] = ()
) -> list[Problem]:
    """Tell of pictures that lie beside labelled ones and are left out, as the labels do not name them.

    Parameters
    ----------
    where : str or Path
        The labels. Where they are one file, another one may label the pictures, and the advice says so.
    labelled : iterable of Path
        The pictures that have labels. One of their name in another format, as a PNG beside a GeoTIFF, is their copy.
    lack : str
        What a picture lacks, for the message.
    cure : str
        How to label one without an object.
    named : collection of str
        Names, or stems, of pictures whose labels cannot be used, which is told already.

    Returns
    -------
    list of Problem
        One for all pictures, or none.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.png", "a.tif", "b.png", "c.png", "d.png", "bad.png", "notes.txt"):
    ...     (folder / name).touch()
    >>> [problem] = find_unlabelled("x.csv", [folder / "a.tif"], "a row", "add an empty row", ["bad"])
    >>> print(problem)
    x.csv: pictures without a row, left out: 3, such as b.png, c.png, d.png; add an empty row
    """
    stems: dict[Path, set[str]] = {}
    for picture in labelled:
        stems.setdefault(picture.parent, set()).add(picture.stem)
    known: dict[Path, set[str]] = {}  # readers spell a folder in several ways
    for folder, names in stems.items():
        known.setdefault(folder.resolve(), set()).update(names)
    lacking = [
        file
        for folder in sorted(known)
        for file in sorted(folder.iterdir())
        if is_picture(file) and not file.name.startswith(".") and file.stem not in known[folder]
        if file.name not in named
        and file.stem not in named
        and not file.is_dir()  # a link to nowhere is a picture that is missed
    ]
    if not lacking:
        return []
    some = ", ".join(file.name for file in lacking[:3])
    what = f"pictures without {lack}, left out: {len(lacking)}, such as {some}"
    is_one = Path(where).is_file() and Path(where).suffix.lower() not in SUFFIXES
    return [Problem(str(where), what, f"if no other file labels them, {cure}" if is_one else cure, blocks=False)]


def size_problems(where: str, names: str, stated: tuple, picture: AnnotatedPicture) -> list[Problem]:
    """Report a picture that has not the size (height, width) that its label states.

    Where that is its size before it is turned as its EXIF orientation says, the points may count on that picture; if
    some lie outside of the turned one, they do, and the picture's labels do not count.

    Examples
    --------
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), ())
    >>> [str(problem) for problem in size_problems("a.json", "height x width", (5, 9), picture)]
    ['a.json: height x width is 5 x 9, the picture is 4 x 6; label the picture as it is now']
    >>> size_problems("a.json", "height x width", (None, 4), picture), size_problems("a.json", "", ("4", "6"), picture)
    ([], [])
    >>> [str(problem) for problem in size_problems("a.json", "height x width", ("big", 6), picture)]
    ["a.json: expected whole numbers as height x width, got 'big' x 6; write the picture's size, or leave it out"]
    """
    if None in stated or picture.size is None or stated == picture.size:
        return []
    try:
        stated = tuple(map(read_whole, stated))
    except ValueError:
        what = f"expected whole numbers as {names}, got {' x '.join(repr(value)[:40] for value in stated)}"
        return [Problem(where, what, "write the picture's size, or leave it out", picture.id)]
    if stated == picture.size:
        return []
    what = f"{names} is {stated[0]} x {stated[1]}, the picture is {picture.size[0]} x {picture.size[1]}"
    turn = picture_orientation(picture.path) if stated == picture.size[::-1] else 1
    if turn < 5:
        doubt = describe_ignored(picture.path) if stated == picture.size[::-1] else ""
        note = f"; its {doubt}" if doubt else ""
        return [Problem(where, what, f"label the picture as it is now{note}", picture.id)]
    places = [animal.keypoints[animal.keypoints[:, 2] > 0, :2] for animal in picture.instances]
    places += [animal.box_xyxy.reshape(2, 2) for animal in picture.instances if animal.box_xyxy is not None]
    corner = np.max(np.concatenate([np.zeros((1, 2)), *places]), axis=0)
    outside = bool((corner > np.array(picture.size[::-1]) + 1).any() and (corner <= np.array(stated[::-1]) + 1).all())
    proof = ", and its points lie outside of that" if outside else ""
    what += f" as viewers show it, turned by its EXIF orientation {turn}{proof}: the label was made before it is turned"
    cure = "look at the points, and label the picture as viewers show it"
    return [Problem(where, what, cure, picture.id, lost=outside)]


def finish_sets(
    sets: dict[str, AnnotationSet], problems: Iterable[Problem] = (), notes: Iterable[Problem] = ()
) -> dict[str, AnnotationSet]:
    """Add problems of the whole data set to its first split, and one for every picture that several splits hold.

    Notes on the whole data set come last.

    A picture of whose labels something is lost is marked: `extra["incomplete"]` is True. One whose name is no UTF-8 is
    left out: no table, list or result could name it.

    Examples
    --------
    >>> both = AnnotatedPicture("a", Path("a.png"), (4, 6), ())
    >>> sets = {"train": AnnotationSet([both], {}), "val": AnnotationSet([both], {})}
    >>> str(finish_sets(sets)["val"].problems[0])
    'a.png: the picture is in train and in val; keep it in one split, or the scores of val flatter'
    >>> lost = AnnotationSet([both], {}, [Problem("a.txt:1", "expected numbers", picture="a", lost=True)])
    >>> finish_sets({"all": lost})["all"].pictures[0].extra
    {'incomplete': True}
    """
    next(iter(sets.values())).problems[:0] = problems
    seen: dict[str, str] = {}
    for name, part in sets.items():
        part.problems += [
            Problem(_shown(str(picture.path)), "its name is not UTF-8, so that it is left out", "rename the file")
            for picture in part.pictures
            if _shown(picture.id) != picture.id
        ]
        part.pictures[:] = [picture for picture in part.pictures if _shown(picture.id) == picture.id]
        for picture in part.pictures:
            first = seen.setdefault(picture.id, name)
            if first != name:
                what = f"the picture is in {first} and in {name}"
                cure = f"keep it in one split, or the scores of {name} flatter"
                part.problems.append(Problem(str(picture.path), what, cure, picture.id))
        lost = {problem.picture for problem in part.problems if problem.lost}
        for index, picture in enumerate(part.pictures):
            if picture.id in lost:
                part.pictures[index] = replace(picture, extra={**picture.extra, "incomplete": True})
    part.problems += notes
    return sets


def _shown(name: str) -> str:
    r"""A name with escapes in place of bytes that are no UTF-8.

    Examples
    --------
    >>> print(_shown("gr\udcfcn.png"), _shown("gr\u00fcn.png"))
    gr\udcfcn.png grün.png
    """
    return name.encode(errors="backslashreplace").decode()


def in_drawing_order(picture: AnnotatedPicture, holds_crowds: bool = True) -> tuple[Instance, ...]:
    """The instances of a picture in the order in which they lie on each other, for formats that know no other order.

    A format without crowds has them first, since they lie under all others when they are drawn.

    Examples
    --------
    >>> under, over, crowd = Instance("road", z_order=-1), Instance("car", z_order=2), Instance("people", is_crowd=True)
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), (over, crowd, under))
    >>> [[one.category for one in in_drawing_order(picture, holds_crowds)] for holds_crowds in (True, False)]
    [['road', 'people', 'car'], ['people', 'road', 'car']]
    """
    crowds_under = not holds_crowds
    return tuple(sorted(picture.instances, key=lambda one: (crowds_under and not one.is_crowd, one.z_order)))


Z_ORDER_LOST = "z_order (written as the order of the objects)"

HAS_FIELD: dict[str, Callable[[Instance], bool]] = {
    "boxes": lambda i: i.box_xyxy is not None,
    "polygons": lambda i: bool(i.polygons),
    "holes": lambda i: bool(i.holes),
    "lines": lambda i: bool(i.lines),
    "masks": lambda i: i.mask is not None,
    "keypoints": lambda i: bool((i.keypoints[:, 2] > 0).any()),
    "is_crowd": lambda i: i.is_crowd,
    "area": lambda i: i.area is not None,
    "group": lambda i: i.group is not None,
    "track_id": lambda i: i.track_id is not None,
    "z_order": lambda i: i.z_order != 0,
    "score": lambda i: i.score is not None,
    "tags": lambda i: bool(i.tags),
    "extra facts": lambda i: bool(i.extra),
}


def list_lost(
    annotations: AnnotationSet,
    kept: Iterable[str],
    tests: Mapping[str, Callable[[Instance], bool]],
    kept_facts: Iterable[str] = (),
) -> list[str]:
    """List what a format cannot hold, with how many instances or pictures have it.

    Parameters
    ----------
    annotations : AnnotationSet
        What is to be written.
    kept : iterable of str
        Names in `HAS_FIELD` of what the format holds.
    tests : dict of str to callable
        What it lacks besides: whether an instance has the thing of that name.
    kept_facts : iterable of str
        Keys of a picture's `extra` that the format holds; "tags" where it holds the tags of pictures.

    Returns
    -------
    list of str

    Examples
    --------
    >>> instances, facts = (Instance("car", area=3.0), Instance("car")), {"license": 4, "image_id": 7}
    >>> annotations = AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), instances, facts)], {})
    >>> list_lost(annotations, ["boxes"], {"car": lambda instance: instance.category == "car"})
    ['car: 2 of 2 instances', 'area: 1 of 2 instances', 'license of pictures: 1 of 1']
    """
    pictures = annotations.pictures
    instances = [instance for picture in pictures for instance in picture.instances]
    lacking = {**tests, **{name: test for name, test in HAS_FIELD.items() if name not in kept}}
    facts = [set(picture.extra) | ({"tags"} if picture.tags else set()) for picture in pictures]
    lost = sorted(set().union(*facts) - {"image_data", "found_by", "image_id", "incomplete", *kept_facts})
    incomplete = sum(bool(picture.extra.get("incomplete")) for picture in pictures)
    counts = {name: (sum(map(test, instances)), f"{len(instances)} instances") for name, test in lacking.items()}
    counts["incomplete pictures (written as if whole; see the problems)"] = incomplete, str(len(pictures))
    counts |= {f"{key} of pictures": (sum(key in fact for fact in facts), str(len(pictures))) for key in lost}
    return [f"{name}: {count} of {total}" for name, (count, total) in counts.items() if count]


def to_json(value: Any, indent: int | None = None) -> bytes:
    r"""Write a value as JSON; arrays and numbers of NumPy as lists and numbers.

    Raises
    ------
    TypeError
        If it holds something that JSON cannot.

    Examples
    --------
    >>> to_json({"a": np.float32(0.5), "b": np.arange(2)})
    b'{"a": 0.5, "b": [0, 1]}\n'
    >>> to_json(Path("a.png"))
    Traceback (most recent call last):
        ...
    TypeError: PosixPath cannot be written as JSON
    """

    def to_plain(entry: Any) -> Any:
        if isinstance(entry, np.ndarray | np.generic):
            return entry.tolist()
        raise TypeError(f"{type(entry).__name__} cannot be written as JSON")

    return (json.dumps(value, indent=indent, ensure_ascii=False, default=to_plain) + "\n").encode()
