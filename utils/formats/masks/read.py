"""Masks of classes: a mask for each picture, with a value or a colour for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import DataError
from utils.formats.masks.layout import CLASSES, IGNORED, MASKS, PALETTE, PICTURES, Layout, read_layout
from utils.formats.pictures import PICTURE_SUFFIXES, list_files, picture_ids
from utils.formats.run_lengths import area_of_mask
from utils.formats.sets import find_unlabelled, finish_sets, shared_labels
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem, Skeleton, encode_mask
from utils.media.picture_sizes import picture_size
from utils.runtime.reading import file_errors


def read_masks(path: str | Path, root: str | Path | None = None) -> dict[str, AnnotationSet]:
    r"""Read a set of masks: `train`, `val` and `test` with `data` and `labels` each, classes.txt and palette.txt.

    Each class of a picture is one object, whose mask is all of its pixels. The first line of classes.txt is the value
    0; 255 is no class. Masks of three bands have the colours of palette.txt; of masks with a palette of their own the
    values count.

    Parameters
    ----------
    path : str or Path
        The folder, or its classes.txt.
    root : str or Path, optional
        What picture ids are relative to: by default the folder.

    Returns
    -------
    dict of str to AnnotationSet
        By split; "all" for `data` and `labels` right in the folder.

    Raises
    ------
    DataError
        If it is no such set, or none of its masks can be used.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, values in {"val/data/a.png": [[9, 9], [9, 9]], "val/labels/a.png": [[0, 1], [255, 7]]}.items():
    ...     (folder / name).parent.mkdir(parents=True)
    ...     Image.fromarray(np.uint8(values)).save(folder / name)
    >>> _ = (folder / "classes.txt").write_text("sand\ncoral\n")
    >>> part = read_masks(folder)["val"]
    >>> [(i.category, i.mask["counts"]) for i in part.pictures[0].instances]
    [('sand', [0, 1, 3]), ('coral', [2, 1, 1])]
    >>> part.problems[0].what
    'values that are no class of classes.txt (0 to 1, and 255 for none): 7'
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    layout = read_layout(folder)
    problems: list[Problem] = []
    pairs = {split: _pair(top, problems) for split, top in layout.splits.items()}
    found = [picture for part in pairs.values() for picture in part]
    ids = picture_ids(found, Path(root) if root is not None else folder)
    sets = {split: AnnotationSet([], {name: Skeleton(()) for name in layout.names}, []) for split in pairs}
    for split, part in pairs.items():
        _fill(sets[split], part, ids, layout)
    if not any(part.pictures for part in sets.values()):
        first = next((problem for part in (problems, *(p.problems for p in sets.values())) for problem in part), None)
        raise DataError(f"{folder}: no mask can be used" + (f"; first: {first}" if first else ""))
    labelled = [picture for part in pairs.values() for picture, mask in part.items() if mask is not None]
    cure = f"paint one with the value {IGNORED} where there is no class"
    return finish_sets(sets, problems, find_unlabelled(folder, labelled, f"a mask in {MASKS}", cure))


def _pair(top: Path, problems: list[Problem]) -> dict[Path, Path | None]:
    """The pictures of a split, each with the mask of its name; masks without a picture become problems.

    Examples
    --------
    >>> import tempfile
    >>> top = Path(tempfile.mkdtemp())
    >>> for name in ("data/a.jpg", "labels/a.png", "labels/b.png"):
    ...     (top / name).parent.mkdir(exist_ok=True)
    ...     (top / name).touch()
    >>> problems = []
    >>> {picture.name: mask.name for picture, mask in _pair(top, problems).items()}, problems[0].what
    ({'a.jpg': 'a.png'}, "no picture of this mask's name in data")
    """
    masks: dict[Path, Path] = {}
    for mask in list_files(top / MASKS, PICTURE_SUFFIXES):
        stem = mask.relative_to(top / MASKS).with_suffix("")
        if stem in masks:
            what = f"is the mask of the name of {masks[stem]} too; the latter is read"
            problems.append(Problem(str(mask), what, "keep one of them"))
        masks.setdefault(stem, mask)
    pictures = list_files(top / PICTURES, PICTURE_SUFFIXES)
    stems = {picture: picture.relative_to(top / PICTURES).with_suffix("") for picture in pictures}
    alone = masks.keys() - set(stems.values())
    problems += [
        Problem(str(masks[stem]), f"no picture of this mask's name in {PICTURES}", "put it there, or remove the mask")
        for stem in sorted(alone)
    ]
    return {picture: masks.get(stem) for picture, stem in stems.items()}


def _fill(
    annotations: AnnotationSet, pairs: Mapping[Path, Path | None], ids: Mapping[Path, str], layout: Layout
) -> None:
    """Add the pictures of a split that have a mask, and the problems of these.

    Examples
    --------
    >>> annotations = AnnotationSet([], {})
    >>> picture = Path("/no/a.png")
    >>> _fill(annotations, {picture: Path("/no/b.png")}, {picture: "a"}, Layout(Path("/no"), {}, ()))
    >>> annotations.problems[0].where, annotations.pictures
    ('/no/a.png', [])
    """
    shared = shared_labels(pairs, ids)
    annotations.problems += shared
    doubtful = {problem.picture for problem in shared}
    for picture, mask in pairs.items():
        if mask is None or ids[picture] in doubtful:
            continue
        id, faults = ids[picture], list[str]()
        try:
            size = picture_size(picture)
            instances = tuple(_read_instances(mask, size, layout, faults))
        except DataError as error:
            where, _, what = str(error).partition(": ")
            annotations.problems.append(Problem(where, what, "" if ";" in what else "mend or remove the file", id))
            continue
        cure = "paint it with the values of the classes, or name its classes"
        annotations.problems += [Problem(str(mask), what, cure, id, lost=True) for what in faults]
        annotations.pictures.append(AnnotatedPicture(id, picture, size, instances))
    annotations.problems += _tell_one_class(annotations.pictures, layout)


def _tell_one_class(pictures: Sequence[AnnotatedPicture], layout: Layout) -> list[Problem]:
    """Note that masks hold one class at most beside 255, which is none: in masks of 0 and 255 it is meant for a class.

    Examples
    --------
    >>> road = Instance("road", mask={"size": [1, 2], "counts": [0, 1, 1]})
    >>> pictures = [AnnotatedPicture("a", Path("a.png"), (1, 2), (road,))]
    >>> [problem.what for problem in _tell_one_class(pictures, Layout(Path("set"), {}, ("road", "cow")))]
    ['masks hold road and 255, which is no class; cow is in none of them']
    >>> _tell_one_class(pictures, Layout(Path("set"), {}, ("road",)))
    []
    """
    seen = dict.fromkeys(instance.category for picture in pictures for instance in picture.instances)
    holds_none = any(
        picture.size is not None
        and sum(area_of_mask(one.mask) for one in picture.instances if one.mask) < picture.size[0] * picture.size[1]
        for picture in pictures
    )
    if len(seen) > 1 or len(layout.names) < 2 or not holds_none:
        return []
    absent = ", ".join(name for name in layout.names if name not in seen)
    what = f"masks hold {', '.join(seen) or 'no class'} and 255, which is no class; {absent} is in none of them"
    return [
        Problem(str(layout.folder / CLASSES), what, "if 255 means a class, write its line number less 1", blocks=False)
    ]


def _read_instances(mask: Path, size: tuple[int, int], layout: Layout, faults: list[str]) -> Sequence[Instance]:
    """An object for each class of a mask.

    Parameters
    ----------
    mask : Path
        Its file.
    size : (int, int)
        Height and width of the picture.
    layout : Layout
        Of the set.
    faults : list of str
        Gets what part of it cannot be used.

    Raises
    ------
    DataError
        If the file is no picture, or has colours and the set no palette.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> Image.fromarray(np.uint8([[[255, 0, 0], [0, 0, 9]]])).save(path)
    >>> faults, layout = [], Layout(Path("."), {}, ("cow",), np.uint8([[255, 0, 0]]))
    >>> [cow.mask for cow in _read_instances(path, (1, 2), layout, faults)], faults
    ([{'size': [1, 2], 'counts': [0, 1, 1]}], ['colours that are not in palette.txt: 1, such as 0 0 9'])
    """
    stated = picture_size(mask)  # before it is decoded
    if stated != size:
        what = f"the mask is {stated[0]} x {stated[1]} (height x width), the picture {size[0]} x {size[1]}"
        faults.append(f"{what}, and nothing of it is read")
        return []
    values = read_values(mask)
    if values.ndim == 3:
        places = None if layout.palette is None else _places_of_colours(values, layout.palette)
        if (places is None or (places < 0).any()) and (values == values[..., :1]).all():  # a value in each band
            values = values[..., 0]
        elif places is None:
            raise DataError(
                f"{mask}: a mask of colours, and no {PALETTE} beside {CLASSES}; write one, a line for a class"
            )
        else:
            _tell_others(values[places < 0], faults)
            values = np.where(places < 0, IGNORED, places)
    present = np.unique(values).tolist()
    wrong = [value for value in present if value >= len(layout.names) and value != IGNORED]
    if wrong:
        known = f"0 to {len(layout.names) - 1}, and {IGNORED} for none"
        listed = ", ".join(map(str, wrong[:5])) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        faults.append(f"values that are no class of {CLASSES} ({known}): {listed}")
    classes = [value for value in present if value < len(layout.names)]
    return [Instance(layout.names[value], mask=encode_mask(values == value)) for value in classes]


def read_values(path: Path) -> np.ndarray:
    """The values of a mask, (H, W), or its colours, uint8 (H, W, 3); of a mask with a palette of its own the values.

    Raises
    ------
    DataError
        If it is no picture, or neither.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> picture = Image.fromarray(np.uint8([[0, 1]]), mode="P")
    >>> picture.putpalette([9, 9, 9, 200, 0, 0])
    >>> picture.save(path)
    >>> read_values(path).tolist()
    [[0, 1]]
    """
    picture_size(path)  # refuses what is too large to be decoded
    with file_errors(path, "cannot be read as a mask"), Image.open(path) as picture:
        values = np.asarray(picture.convert("RGB") if picture.mode in ("RGBA", "RGBX") else picture)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.kind not in "ui" or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)):
        raise DataError(
            f"{path}: expected whole numbers in one band, or colours in three, got {values.dtype} {values.shape}"
        )
    return values


def _places_of_colours(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Places (H, W) of colours (H, W, 3) in a palette (K, 3); -1 for a colour that is not there.

    Examples
    --------
    >>> _places_of_colours(np.uint8([[[1, 2, 3], [0, 0, 0], [0, 0, 9]]]), np.uint8([[0, 0, 0], [1, 2, 3]])).tolist()
    [[1, 0, -1]]
    """
    codes, known = (
        (rgb[..., 0].astype(np.uint32) << 16) | (rgb[..., 1].astype(np.uint32) << 8) | rgb[..., 2]
        for rgb in (colours, palette)
    )
    places = np.full(codes.shape, -1, np.int16)
    for place, code in enumerate(known):
        places[codes == code] = place
    return places


def _tell_others(colours: np.ndarray, faults: list[str]) -> None:
    """Tell of colours (N, 3) that are no class.

    Examples
    --------
    >>> faults = []
    >>> _tell_others(np.uint8([[0, 0, 9], [0, 0, 9], [1, 0, 0]]), faults), faults
    (None, ['colours that are not in palette.txt: 2, such as 0 0 9'])
    """
    if len(colours):
        others = np.unique(colours, axis=0)
        faults.append(f"colours that are not in {PALETTE}: {len(others)}, such as {' '.join(map(str, others[0]))}")
