"""Writing DeepLabCut's tables of labels, each beside its pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.formats import specs
from utils.formats.pictures import new_names
from utils.formats.sets import list_lost, place_pictures, shared_skeletons
from utils.formats.types import OCCLUDED, AnnotatedPicture, AnnotationSet, Instance, Skeleton
from utils.runtime.files import write_bytes

SCORER = "dinolith"  # DeepLabCut's word for who labelled


def write_deeplabcut(sets: Mapping[str, AnnotationSet], folder: str | Path) -> list[Path]:
    """Write DeepLabCut's tables: data.yaml, and `labeled-data/<split>/` with pictures and CollectedData_dinolith.csv.

    With one animal in each picture the header has three rows, else four, with an individual for each track. What a
    table cannot hold is left out: `unsupported` lists it. Pictures are given a second name (a hard link) where the
    system allows it, else copied.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        The specification first, then the tables.

    Raises
    ------
    DataError
        If no category has keypoints.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import keypoints_array
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> mouse = Instance("mouse", keypoints_array([[1, 2.5], [0, 0]], [2, 0]))
    >>> picture = AnnotatedPicture("a", folder / "a.png", (4, 6), (mouse,))
    >>> sets = {"all": AnnotationSet([picture], {"mouse": Skeleton(("nose", "tail"))})}
    >>> print(write_deeplabcut(sets, folder / "new")[1].read_text().replace(",dinolith", ",me"))
    scorer,,,me,me,me,me
    bodyparts,,,nose,nose,tail,tail
    coords,,,x,y,x,y
    labeled-data,all,a.png,1.0,2.5,,
    <BLANKLINE>
    """
    folder, skeletons = Path(folder), shared_skeletons(sets)
    if not any(skeleton.num_keypoints for skeleton in skeletons.values()):
        raise DataError(f"{folder}: DeepLabCut holds keypoints, but no category has any")
    places = {split: folder / "labeled-data" / split for split in sets}
    images = {split: [places[split] / name for name in _flat_names(part)] for split, part in sets.items()}
    tables = {split: place / f"CollectedData_{SCORER}.csv" for split, place in places.items()}
    place_pictures(folder, sets, images, tables.values(), [folder / "labeled-data"])
    for split, part in sets.items():
        write_bytes(tables[split], _format_table(part, skeletons, split, images[split]).encode())
    splits = {split: table.relative_to(folder).as_posix() for split, table in tables.items()}
    keys = {"format": "deeplabcut", "path": ".", **splits, **specs.spec_keys(skeletons)}
    return [specs.write_spec(folder / "data.yaml", keys), *tables.values()]


def _flat_names(annotations: AnnotationSet) -> list[str]:
    """Names of the pictures in one folder, without folders inside.

    Examples
    --------
    >>> pictures = [AnnotatedPicture(f"{day}/a", Path("a.png"), (4, 6), ()) for day in ("mon", "tue")]
    >>> _flat_names(AnnotationSet(pictures, {}))
    ['mon__a.png', 'tue__a.png']
    """
    names: dict[str, None] = {}
    for name in (name.replace("/", "__") for name in new_names(annotations.pictures)):
        while name in names:
            name = f"_{name}"
        names[name] = None
    return list(names)


def _format_table(annotations: AnnotationSet, skeletons: Mapping[str, Skeleton], split: str, images: list[Path]) -> str:
    """A table as text.

    Examples
    --------
    >>> print(_format_table(AnnotationSet([], {}), {"mouse": Skeleton(("nose",))}, "val", []))
    scorer,,,dinolith,dinolith
    bodyparts,,,nose,nose
    coords,,,x,y
    <BLANKLINE>
    """
    columns = _choose_columns(annotations, skeletons)
    scored = any(i.keypoint_scores is not None for picture in annotations.pictures for i in picture.instances)
    coords = ("x", "y", "likelihood") if scored else ("x", "y")
    cells = [
        (name, part, coord)
        for name, category in columns.items()
        for part in skeletons[category].names
        for coord in coords
    ]
    rows = [["scorer", *[SCORER] * len(cells)]]
    if list(columns) != [""]:
        rows.append(["individuals", *(name for name, _, _ in cells)])
    rows += [["bodyparts", *(part for _, part, _ in cells)], ["coords", *(coord for _, _, coord in cells)]]
    lines = [[row[0], "", "", *row[1:]] for row in rows]
    for picture, image in zip(annotations.pictures, images, strict=True):
        lines.append(["labeled-data", split, image.name, *_format_values(picture, columns, skeletons, len(coords))])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _choose_columns(annotations: AnnotationSet, skeletons: Mapping[str, Skeleton]) -> dict[str, str]:
    """Category of each individual; the only animal's name is empty.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> mice = tuple(Instance("mouse", keypoints_array([[1, 2]], [2]), track_id=track) for track in (4, 0))
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), mice)
    >>> _choose_columns(AnnotationSet([picture], {}), {"mouse": Skeleton(("nose",))})
    {'individual1': 'mouse', 'individual5': 'mouse'}
    """
    kinds = {skeleton.names for skeleton in skeletons.values()}
    used = {instance.category for picture in annotations.pictures for instance in picture.instances}
    categories = [name for name in skeletons if name in used] or [next(iter(skeletons))]
    named = [_name_individuals(picture) for picture in annotations.pictures]
    untracked = all(instance.track_id is None for animals in named for instance in animals.values())
    prefix = len(categories) > 1 or len(kinds) < len(skeletons)
    most = max(map(len, named), default=0)
    if most == 0 or (untracked and not prefix and most == 1):
        return {"": categories[0]}
    slots = sorted(
        {slot for animals in named for slot in animals}, key=lambda slot: (categories.index(slot[0]), slot[1])
    )
    return {_individual(slot, prefix): slot[0] for slot in slots}


def _individual(slot: tuple[str, int], prefix: bool) -> str:
    """Name of an individual, with its category where the keypoints alone do not tell it.

    Examples
    --------
    >>> _individual(("mouse", 0), False), _individual(("mouse", 0), True)
    ('individual1', 'mouse_1')
    """
    return f"{slot[0]}_{slot[1] + 1}" if prefix else f"individual{slot[1] + 1}"


def _name_individuals(picture: AnnotatedPicture) -> dict[tuple[str, int], Instance]:
    """Category and number of each instance that has a keypoint: its track, or the next free number.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> mice = tuple(Instance("mouse", keypoints_array([[1, 2]], [2]), track_id=track) for track in (None, 0, 0))
    >>> list(_name_individuals(AnnotatedPicture("a", Path("a.png"), (4, 6), mice)))
    [('mouse', 1), ('mouse', 0), ('mouse', 2)]
    """
    animals = [instance for instance in picture.instances if (instance.keypoints[:, 2] > 0).any()]
    reserved = {(animal.category, animal.track_id) for animal in animals}
    found: dict[tuple[str, int], Instance] = {}
    for animal in animals:
        slot = (animal.category, -1 if animal.track_id is None else animal.track_id)
        if slot[1] < 0 or slot in found:
            free = (number for number in range(len(reserved) + len(animals) + 1))
            number = next(n for n in free if (slot[0], n) not in reserved and (slot[0], n) not in found)
            slot = (slot[0], number)
        found[slot] = animal
    return found


def _format_values(
    picture: AnnotatedPicture, columns: Mapping[str, str], skeletons: Mapping[str, Skeleton], width: int
) -> Iterator[str]:
    """Cells of a picture's row.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> mouse = Instance("mouse", keypoints_array([[1, 2], [0, 0]], [2, 0]))
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), (mouse,))
    >>> list(_format_values(picture, {"": "mouse"}, {"mouse": Skeleton(("nose", "tail"))}, 2))
    ['1.0', '2.0', '', '']
    """
    named = _name_individuals(picture)
    animals = {_individual(slot, prefix): animal for slot, animal in named.items() for prefix in (False, True)}
    if list(columns) == [""]:
        animals = dict(zip(columns, named.values(), strict=False))
    for name, category in columns.items():
        values = np.full((skeletons[category].num_keypoints, width), np.nan)
        if name in animals:
            values[:, :2] = animals[name].keypoints[:, :2]
            scores = animals[name].keypoint_scores
            if width == 3 and scores is not None:
                values[:, 2] = scores
        yield from ("" if np.isnan(value) else repr(value) for value in values.ravel().tolist())


def unsupported(annotations: AnnotationSet) -> list[str]:
    """List what DeepLabCut cannot hold of a set.

    Parameters
    ----------
    annotations : AnnotationSet
        What is to be written.

    Returns
    -------
    list of str
        Each with how many instances have it; empty when writing loses nothing.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> mouse = Instance("mouse", keypoints_array([[1, 2]], [1]), np.array([0.0, 0, 2, 3]))
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), (mouse,))
    >>> unsupported(AnnotationSet([picture], {"mouse": Skeleton(("nose",))}))
    ['occluded keypoints (written as visible): 1 of 1 instances', 'boxes: 1 of 1 instances']
    """
    alone = list(_choose_columns(annotations, annotations.skeletons)) == [""] if annotations.skeletons else True
    tests = {
        "no keypoint (left out)": lambda i: not (i.keypoints[:, 2] > 0).any(),
        "occluded keypoints (written as visible)": lambda i: bool((i.keypoints[:, 2] == OCCLUDED).any()),
        "no track (the column becomes one)": lambda i: i.track_id is None and not alone,
        "extra facts": lambda i: bool(i.extra.keys() - {"individual"}),
    }
    return list_lost(annotations, ("keypoints", "track_id", "extra facts"), tests)
