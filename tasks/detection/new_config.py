"""Settings for labels of boxes, after a look at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from config import parse_settings
from tasks import kinds
from tasks.detection.items import DetectionItem, Objects
from tasks.detection.labels import DetectionLabels
from tasks.detection.source import audit_picture
from tasks.draft import PHASES_ON, Draft, NoLabelsError, paths_of, place_of
from utils.errors import DataError
from utils.formats.recognise import find_source, other_formats
from utils.formats.types import CLASS_FORMATS, AnnotatedPicture
from utils.logging import VerbosityLogger

SMALL = 0.04  # of a picture's short side; a smaller object covers a cell or two at the default size
FEW = 200  # pictures


def draft_detection(path: Path, changes: dict[str, Any], log: VerbosityLogger, chosen: bool = False) -> Draft:
    """Read labels of boxes, log their problems, and draft settings that train on them.

    Parameters
    ----------
    path : Path
        Labels in any format that is read.
    changes : dict
        Settings that a person gives.
    log : VerbosityLogger
        Gets the problems.
    chosen : bool
        Whether a person asks for this kind: vector files are else for segmentation, though they hold boxes too.

    Raises
    ------
    NoLabelsError
        If there are no labels, or none with a box.
    DataError
        If labels cannot be read.

    Examples
    --------
    >>> from tasks.example import drawn_animals
    >>> draft = draft_detection(drawn_animals() / "annotations", {}, VerbosityLogger("error"))
    >>> draft.figures[0], draft.tree["paths"]["label_path"]
    ('12 pictures, 0 of them without an object; 22 objects of 1 classes: fox 22', 'annotations')
    """
    place, given = place_of(path), dict(changes.get("detection") or {})
    try:
        _, found = find_source(place, given.get("format", "auto"))
        others = other_formats(place, found, "detection.format=NAME after the command")
    except DataError as error:
        raise NoLabelsError(f"no boxes: {error}") from None
    if found in ("deeplabcut", *CLASS_FORMATS) or (found == "vector" and not chosen):
        raise NoLabelsError(f"no boxes: {path}: labels of format {found}")
    stated = {"format": found} if others else {}  # so that the file says it
    labels = labels_of(place, {**changes, "detection": stated | given})
    pictures = [picture for _, picture in labels.pictures.values()]
    objects = [labels.objects(picture.instances) for picture in pictures]
    if not any(len(each.labels) for each in objects):
        raise NoLabelsError(f"no boxes: {path}: {len(pictures)} pictures, but no object is labelled in them")
    items = [
        DetectionItem(picture.id, (picture.path,), picture, "train", objects=each)
        for picture, each in zip(pictures, objects, strict=True)
    ]
    for finding in (*labels.problems(), *(finding for item in items for finding in audit_picture(item))):
        log.warning(f"audit: {finding}" if finding.blocks else f"audit: note: {finding}")
    figures, advice = survey(labels.classes, pictures, objects)
    tree = {
        "paths": paths_of(place),
        "model": {"backbone": "embedded"},
        **{phase: {"enable": True} for phase in PHASES_ON},
        "inference": {"enable": False, "inputs": "/path/to/pictures"},
    }
    advice.append("model.backbone: facebook/dinov2-small, or the folder of its weights, is better and slower")
    if others:
        figures.append(others)
    edges = stated | {"shortest_edge": labels.settings.detection.shortest_edge}
    edges["longest_edge"] = labels.settings.detection.longest_edge
    return Draft("detection", tree, figures, advice, {"detection": edges}, found)


def labels_of(place: Path, changes: dict[str, Any]) -> DetectionLabels:
    """Read labels with default settings, and with what a person changes in them.

    Examples
    --------
    >>> from tasks.example import drawn_animals
    >>> labels_of(drawn_animals() / "annotations", {}).classes
    ['fox']
    """
    of_kind: dict[str, Any] = {key: changes[key] for key in ("detection", "dataset") if key in changes}
    tree = {"paths": paths_of(place), "tasks": {"labels": {"kind": "detection"}}} | of_kind
    settings = parse_settings(yaml.safe_dump(tree), (), kinds())
    return DetectionLabels(settings.tasks["labels"])


def survey(
    classes: Sequence[str], pictures: Sequence[AnnotatedPicture], objects: Sequence[Objects]
) -> tuple[list[str], list[str]]:
    r"""Count pictures and objects, measure objects, and say what follows from it.

    Returns
    -------
    figures, advice : list of str
        A line each.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> labels = fox_task().labels
    >>> pictures = [picture for _, picture in labels.pictures.values()]
    >>> figures, advice = survey(labels.classes, pictures, [labels.objects(each.instances) for each in pictures])
    >>> print(*figures, sep="\n")  # doctest: +ELLIPSIS
    12 pictures, 0 of them without an object; 22 objects of 1 classes: fox 22
    at most 3 objects in a picture; 99 % of the pictures have 3 or fewer
    short sides of objects: median ... of the picture's short side, smallest ...
    >>> advice[0].partition(":")[0]
    'few pictures (12)'
    """
    numbers = [int((~each.is_crowd).sum()) for each in objects]
    counts = np.bincount(np.concatenate([each.labels for each in objects]), minlength=len(classes))
    listed = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    figures = [
        f"{len(pictures)} pictures, {numbers.count(0)} of them without an object; {counts.sum()} objects of "
        f"{len(classes)} classes: {listed}",
        f"at most {max(numbers)} objects in a picture; 99 % of the pictures have {np.percentile(numbers, 99):.0f} or "
        "fewer",
    ]
    advice = [f"few pictures ({len(pictures)}): more, or longer training, help most"] if len(pictures) < FEW else []
    sides = [
        (each.boxes_xyxy[:, 2:] - each.boxes_xyxy[:, :2]).min(axis=1) / min(picture.size)
        for picture, each in zip(pictures, objects, strict=True)
        if picture.size is not None
    ]
    shares = np.concatenate(sides) if sides else np.zeros(0)
    if len(shares):
        median, smallest = np.median(shares), shares.min()
        figures.append(
            f"short sides of objects: median {median:.3f} of the picture's short side, smallest {smallest:.3f}"
        )
        if np.mean(shares < SMALL) > 0.2:
            advice.append("objects are small in their pictures: set detection.windows: 2, or raise shortest_edge")
    return figures, advice
