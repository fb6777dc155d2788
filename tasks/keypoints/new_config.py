"""Settings for keypoint labels, after a look at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from config import parse_settings
from tasks import kinds
from tasks.draft import PHASES_ON, Draft, NoLabelsError, paths_of, place_of
from tasks.keypoints.audit import audit_pictures
from tasks.keypoints.items import PoseItem, usable
from tasks.keypoints.labels import PoseLabels
from tasks.keypoints.survey import fitting_profiles, suggestions, survey
from utils.errors import DataError
from utils.formats.read import read_annotations
from utils.formats.recognise import find_source, other_formats
from utils.formats.types import BOX_FORMATS, CLASS_FORMATS, AnnotatedPicture
from utils.logging import VerbosityLogger


def draft_keypoints(path: Path, changes: dict[str, Any], log: VerbosityLogger) -> Draft:
    """Read keypoint labels, log their problems, and draft settings that train on them.

    Parameters
    ----------
    path : Path
        Labels in any format that is read.
    changes : dict
        Settings that a person gives.
    log : VerbosityLogger
        Gets the problems.

    Raises
    ------
    NoLabelsError
        If there are no labels, or none with a keypoint.
    DataError
        If labels cannot be read.

    Examples
    --------
    >>> from tasks.example import drawn_animals
    >>> draft = draft_keypoints(drawn_animals() / "annotations", {}, VerbosityLogger("error"))
    >>> draft.figures[0], draft.task["keypoints"]["formats"]
    ('12 pictures, 0 of them without an animal; 22 animals, at most 3 in a picture', ['csv', 'json', 'video'])
    """
    given = dict(changes.get("keypoints") or {})
    try:
        source, taken = find_source(place_of(path), given.get("format", "auto"))
        only_rows = taken == "yolo" and source.is_dir()  # which do not tell what they hold
        if taken in (*BOX_FORMATS, *CLASS_FORMATS) or only_rows:
            raise DataError(f"{path}: labels of format {taken} without keypoints")
        others = other_formats(path, taken, "keypoints.format=NAME after the command")
    except DataError as error:
        raise NoLabelsError(f"no keypoints: {error}") from None
    chosen = {"format": taken} if others else {}  # so that the file says it
    try:
        labels = labels_of(path, {**changes, "keypoints": chosen | given})
        pictures = [picture for _, picture in labels.pictures.values()]
    except DataError as error:
        if _have_keypoints(source, taken, paths_of(place_of(path))["data_root"]):
            raise
        raise NoLabelsError(f"no keypoints: {error}") from None
    if not any(usable(picture) for picture in pictures):
        raise NoLabelsError(f"no keypoints: {path}: {len(pictures)} pictures, but no keypoint is labelled in them")
    figures, advice = survey(labels.skeleton, pictures), suggestions(labels.skeleton, pictures)
    _log_problems(labels, pictures, log)
    place = place_of(path)
    tree = {
        "paths": paths_of(place),
        "model": {"backbone": "embedded"},
        **{phase: {"enable": True} for phase in PHASES_ON},
        "inference": {"enable": False, "inputs": "/path/to/video.mp4"},
    }
    advice.append("model.backbone: facebook/dinov2-small, or the folder of its weights, is better and slower")
    if others:
        figures.append(others)
    keypoints = chosen | {"short_side": labels.keypoints.short_side, "formats": ["csv", "json", "video"]}
    return Draft("keypoints", tree, figures, advice, {"keypoints": keypoints}, taken, fitting_profiles(pictures))


def _have_keypoints(source: Path, format: str, root: str) -> bool:
    """Whether labels that cannot be read as keypoints have any; where they cannot be read at all, other kinds say why.

    Examples
    --------
    >>> from tasks.example import drawn_animals
    >>> folder = drawn_animals()
    >>> [_have_keypoints(path, "coco", str(folder)) for path in (folder / "annotations", Path("/no/such/file"))]
    [True, False]
    """
    try:
        sets = read_annotations(source, format, root)
    except DataError:
        return False
    return any(skeleton.num_keypoints for part in sets.values() for skeleton in part.skeletons.values())


def _log_problems(labels: PoseLabels, pictures: Sequence[AnnotatedPicture], log: VerbosityLogger) -> None:
    """Log problems of labels.

    Examples
    --------
    >>> from tasks.example import drawn_animals
    >>> _log_problems(labels_of(drawn_animals() / "annotations", {}), [], VerbosityLogger("info"))
    """
    items = [PoseItem(picture.id, (picture.path,), picture, "train") for picture in pictures]
    for finding in (*labels.problems(), *audit_pictures(items, labels.skeleton)):
        log.warning(f"audit: {finding}" if finding.blocks else f"audit: note: {finding}")


def labels_of(path: Path, changes: dict[str, Any]) -> PoseLabels:
    """Read labels with default settings, and with what a person changes in them.

    Examples
    --------
    >>> from tasks.example import drawn_animals
    >>> labels_of(drawn_animals() / "annotations", {}).skeleton.num_keypoints
    7
    """
    tree = {
        "paths": paths_of(place_of(path)),
        "keypoints": changes.get("keypoints", {}),
        "tasks": {"labels": {"kind": "keypoints"}},
    }
    settings = parse_settings(yaml.safe_dump(tree), (), kinds())
    return PoseLabels(settings.tasks["labels"], lambda: 14)
