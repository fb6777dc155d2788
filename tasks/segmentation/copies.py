"""Copies of annotations in other formats, divided as the splits of segmentation are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from config import expand_path
from utils.errors import DataError
from utils.formats.convert import convert_labels, is_converted
from utils.formats.outline_rules import is_only_box
from utils.formats.types import AnnotationSet

if TYPE_CHECKING:
    from tasks.segmentation.source import SceneSource

logger = logging.getLogger(__name__)

FILLED = ("labelme", "cvat", "yolo")  # formats whose boxes are read as areas


def split_sets(source: SceneSource) -> dict[str, AnnotationSet]:
    """All annotations of the pictures of each split, of every name.

    Parameters
    ----------
    source : SceneSource
        With its splits.

    Returns
    -------
    dict of str to AnnotationSet
        As they were read.

    Raises
    ------
    DataError
        If a picture is divided between splits.

    Examples
    --------
    >>> from tasks.example import annotated_task
    >>> source = annotated_task().source
    >>> _ = source.write_splits()
    >>> {split: [picture.id for picture in part.pictures] for split, part in split_sets(source).items()}
    {'train': ['pictures/scene_1'], 'val': ['pictures/scene_0']}
    """
    annotations = source.scenes.annotations
    assert annotations is not None, "convert_to is refused for other labels"
    whole = {picture.id: picture for part in annotations.whole.values() for picture in part.pictures}
    skeletons = {name: skeleton for part in annotations.whole.values() for name, skeleton in part.skeletons.items()}
    divided: dict[str, AnnotationSet] = {}
    placed: dict[str, str] = {}
    for split in ("train", "val", "test"):
        ids = list(dict.fromkeys(item.scene_id for item in source.items(split)))
        for id in ids:
            if placed.setdefault(id, split) != split:
                raise DataError(
                    f"dataset.convert_to: {id} has blocks in {placed[id]} and in {split}, and a copy has whole "
                    "pictures; remove dataset.splits.block_tiles"
                )
        if ids:
            divided[split] = AnnotationSet([whole[id] for id in ids], skeletons)
    return divided


def tell_boxes(source: SceneSource, sets: Mapping[str, AnnotationSet], format: str) -> None:
    """Warn of boxes without outline that are no area here, and are read as one from a copy.

    Examples
    --------
    >>> from tasks.example import annotated_task
    >>> source = annotated_task().source
    >>> _ = source.write_splits()
    >>> tell_boxes(source, split_sets(source), "labelme")
    """
    annotations = source.scenes.annotations
    assert annotations is not None
    areas = {picture.id: picture for part in annotations.sets.values() for picture in part.pictures}
    number = sum(
        is_only_box(instance)
        for part in sets.values()
        for picture in part.pictures
        if picture.id in areas
        for instance in areas[picture.id].instances
    )
    if number and format in FILLED:
        more = ", or leave them out: YOLO's outlines know no boxes" if format == "yolo" else ""
        logger.warning(
            "dataset.convert_to: %d boxes have no outline and are not learnt here; in the copy as %s they are areas of "
            "their class: read it with dataset.boxes: ignore%s",
            *(number, format, more),
        )


def write_copy(source: SceneSource) -> None:
    """Write the copy of `dataset.convert_to`, if it is set.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tasks.example import annotated_task
    >>> folder = tempfile.mkdtemp()
    >>> source = annotated_task(f"dataset.convert_to={{format: labelme, folder: {folder}}}").source
    >>> source.prepare_data()
    >>> sorted(path.name for path in Path(folder).rglob("scene*.json"))
    ['scene_0.json', 'scene_1.json']
    """
    target = source.settings.dataset.convert_to
    if target is not None:
        divided = split_sets(source)
        tell_boxes(source, divided, target.format)
        convert_labels(divided, expand_path(target.folder), target.format, **target.how())


def describe_copy(source: SceneSource) -> str:
    """Say what `write_copy` would write; empty where it writes nothing.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import annotated_task
    >>> source = annotated_task(f"dataset.convert_to={{format: coco, folder: {tempfile.mkdtemp()}}}").source
    >>> _ = source.write_splits()
    >>> describe_copy(source), describe_copy(annotated_task().source)
    ('writes the labels as coco', '')
    """
    target = source.settings.dataset.convert_to
    if target is None or is_converted(split_sets(source), expand_path(target.folder), target.format, **target.how()):
        return ""
    return f"writes the labels as {target.format}"
