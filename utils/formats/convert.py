"""Conversion of labels: what was read in one format, written in another, with an account of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats.coco import write as coco
from utils.formats.cvat import write as cvat
from utils.formats.deeplabcut import write as deeplabcut
from utils.formats.fiftyone import write as fiftyone
from utils.formats.labelme import write as labelme
from utils.formats.masks import write as masks
from utils.formats.sets import refuse_source_inside, to_json
from utils.formats.tables import write as tables
from utils.formats.types import AnnotationSet
from utils.formats.voc import write as voc
from utils.formats.yolo import write as yolo
from utils.runtime.files import digest_json, file_stamp, read_json, write_json

logger = logging.getLogger(__name__)

STAMP = ".dinolith.json"  # what a finished copy was made from; a dot, so that readers and writers pass over it


def describe(sets: Mapping[str, AnnotationSet]) -> list[str]:
    """Count what there is, before anything is written.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.

    Returns
    -------
    list of str
        A line for each split.

    Examples
    --------
    >>> describe({"train": AnnotationSet([], {})})
    ['train: 0 pictures, 0 instances, 0 boxes, 0 visible and 0 hidden points']
    """
    lines = []
    for split, part in sets.items():
        seen = [flag for picture in part.pictures for i in picture.instances for flag in i.keypoints[:, 2].tolist()]
        boxes = sum(i.box_xyxy is not None for picture in part.pictures for i in picture.instances)
        points = f"{boxes} boxes, {seen.count(2.0)} visible and {seen.count(1.0)} hidden points"
        lines.append(f"{split}: {len(part.pictures)} pictures, {part.num_instances} instances, {points}")
    return lines


def what_is_lost(sets: Mapping[str, AnnotationSet], format: str, mode: str = "keypoints") -> list[str]:
    """List what a format cannot hold of labels.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    format : str
        yolo, labelme, coco, deeplabcut, cvat, fiftyone, voc, csv or masks.
    mode : str
        keypoints or segmentation; coco only.

    Returns
    -------
    list of str
        Empty where reading the copy gives the same labels.

    Examples
    --------
    >>> from utils.formats.types import AnnotatedPicture, Instance, Skeleton, keypoints_array
    >>> fly = Instance("fly", keypoints_array([[1, 2]], [2]), is_crowd=True)
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), (fly,))
    >>> sets = {"all": AnnotationSet([picture], {"fly": Skeleton(("head",))})}
    >>> what_is_lost(sets, "yolo"), what_is_lost(sets, "coco")
    (['all: no box (the tight box of the keypoints is written): 1', 'all: is_crowd: 1 of 1 instances'], [])
    """
    tests = {
        "yolo": lambda part: yolo.unsupported(part, yolo.writes_outlines(sets.values())),
        "labelme": labelme.unsupported,
        "coco": lambda part: coco.unsupported(part, mode),
        "deeplabcut": deeplabcut.unsupported,
        "cvat": cvat.unsupported,
        "fiftyone": fiftyone.unsupported,
        "masks": masks.unsupported,
        "voc": voc.unsupported,
        "csv": tables.unsupported,
    }
    return [f"{split}: {line}" for split, part in sets.items() for line in tests[format](part)]


def convert_labels(
    sets: Mapping[str, AnnotationSet],
    folder: str | Path,
    format: str,
    layout: str = "annotations",
    mode: str = "keypoints",
) -> list[Path]:
    """Write labels in another format, telling first what there is and what will be lost; a finished copy stays.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.
    format : str
        yolo, labelme, coco, deeplabcut, cvat, fiftyone, voc, csv or masks.
    layout, mode : str
        Of coco, see `write_coco`.

    Returns
    -------
    list of Path
        The files with labels; none where the folder already holds a copy of these very labels.

    Raises
    ------
    DataError
        If there is no picture to write, or the folder holds something else.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import AnnotatedPicture, Instance, Skeleton, keypoints_array
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> fly = Instance("fly", keypoints_array([[1, 2]], [2]))
    >>> picture = AnnotatedPicture("a", folder / "a.png", (4, 6), (fly,))
    >>> sets = {"train": AnnotationSet([picture], {"fly": Skeleton(("head",))})}
    >>> [path.name for path in convert_labels(sets, folder / "new", "labelme")]
    ['data.yaml', 'a.json']
    >>> convert_labels(sets, folder / "new", "labelme")
    []
    """
    folder = Path(folder)
    if not any(part.pictures for part in sets.values()):
        raise DataError(f"{folder}: nothing to convert: no labelled picture could be read; see the report of verify")
    if is_converted(sets, folder, format, layout, mode):
        logger.info("%s: holds these labels as %s already", folder, format)
        return []
    for line in describe(sets):
        logger.info("converting to %s: %s", format, line)
    for line in what_is_lost(sets, format, mode):
        logger.warning("%s cannot hold: %s", format, line)
    writers = {
        "yolo": yolo.write_yolo,
        "labelme": labelme.write_labelme,
        "coco": lambda sets, folder: coco.write_coco(sets, folder, layout, mode),
        "deeplabcut": deeplabcut.write_deeplabcut,
        "cvat": cvat.write_cvat,
        "fiftyone": fiftyone.write_fiftyone,
        "masks": masks.write_masks,
        "voc": voc.write_voc,
        "csv": tables.write_tables,
    }
    refuse_source_inside(folder, sets)
    refuse_other_content(folder, format)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STAMP, {"format": format})  # an interrupted copy is no finished one, but still a copy
    written = writers[format](dict(sets), folder)
    files = [path.relative_to(folder).as_posix() for path in written]
    write_json(folder / STAMP, {**recipe_of(sets, format, layout, mode), "files": files})
    return written


def refuse_other_content(folder: Path, format: str) -> None:
    """Refuse to write a copy over anything but an earlier copy in the same format.

    Raises
    ------
    DataError
        If the folder holds files of a person, or a copy in another format.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> refuse_other_content(folder, "yolo")
    >>> (folder / "data.yaml").touch()
    >>> refuse_other_content(folder, "yolo")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /...: holds data.yaml; labels are written into an empty folder, or over an earlier copy ...
    """
    stamp = read_stamp(folder)
    if not stamp:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        held = [name for name in names if name == STAMP or not name.startswith(".")]  # .DS_Store is in nobody's way
        if held:
            raise DataError(
                f"{folder}: holds {held[0]}; labels are written into an empty folder, or over an earlier copy of this "
                "program; name another folder"
            )
    elif stamp.get("format") != format:
        raise DataError(f"{folder}: holds a copy as {stamp.get('format')}, not as {format}; name another folder")


def read_stamp(folder: Path) -> dict[str, Any]:
    """What a copy says of itself; empty where there is none, or the file is another program's.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / STAMP).write_text("[1, 2]")
    >>> read_stamp(folder), read_stamp(folder / "gone")
    ({}, {})
    """
    found = read_json(folder / STAMP) if (folder / STAMP).exists() else None
    return found if isinstance(found, dict) else {}


def recipe_of(sets: Mapping[str, AnnotationSet], format: str, layout: str, mode: str) -> dict[str, str]:
    """Everything that a copy of labels depends on.

    Examples
    --------
    >>> recipe_of({"train": AnnotationSet([], {})}, "coco", "files", "keypoints")["format"]
    'coco'
    """
    return {"format": format, "layout": layout, "mode": mode, "labels": digest_sets(sets)}


def is_converted(
    sets: Mapping[str, AnnotationSet],
    folder: str | Path,
    format: str,
    layout: str = "annotations",
    mode: str = "keypoints",
) -> bool:
    """Whether a folder holds a finished copy of these very labels, with all of its files.

    Examples
    --------
    >>> is_converted({"train": AnnotationSet([], {})}, "/no/such/folder", "coco")
    False
    """
    found = read_stamp(Path(folder))
    files = found.pop("files", [])
    wanted = recipe_of(sets, format, layout, mode)
    return found == wanted and isinstance(files, list) and all((Path(folder) / str(name)).is_file() for name in files)


def digest_sets(sets: Mapping[str, AnnotationSet]) -> str:
    """Digest labels and the stamps of their pictures, to know a copy that is still true.

    Examples
    --------
    >>> digest_sets({"train": AnnotationSet([], {})}) == digest_sets({"val": AnnotationSet([], {})})
    False
    """
    plain = {
        split: [
            [to_json(asdict(skeleton)).decode() for skeleton in part.skeletons.values()],
            [
                [to_json({**asdict(picture), "path": str(picture.path)}).decode(), file_stamp(picture.path)]
                for picture in part.pictures
            ],
        ]
        for split, part in sets.items()
    }
    return digest_json(plain)
