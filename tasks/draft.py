"""Settings that are drafted for a person's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats.recognise import format_of_file

PHASES_ON = ("prepare", "verify", "train", "evaluate")  # of a new settings file


@dataclass
class Draft:
    """Settings for data, before they are checked and written.

    Parameters
    ----------
    kind : str
        Of the task.
    tree : dict
        The settings, as in a file; those of the task itself are in `task`.
    figures : list of str
        What the data hold, a line each.
    advice : list of str
        What a person may want to change.
    task : dict
        Settings of the task's own section, besides its kind.
    read_as : str
        The format in which the labels were read.
    profiles : dict of str to str
        Profiles that are made for such data, each with a line of advice.
    refine : callable, optional
        Looks at the data with the task that the settings make, and betters what nobody has chosen: takes this draft,
        the task, and the settings that a person gives, for all tasks and for this one.

    Examples
    --------
    >>> Draft("keypoints", {}, ["8 pictures"]).advice
    []
    """

    kind: str
    tree: dict[str, Any]
    figures: list[str]
    advice: list[str] = field(default_factory=list)
    task: dict[str, Any] = field(default_factory=dict)
    read_as: str = ""
    profiles: dict[str, str] = field(default_factory=dict)
    refine: Callable[[Draft, Any, Sequence[Mapping[str, Any]]], None] | None = None


class NoLabelsError(DataError):
    """The data hold no labels that a kind of task learns from; another kind may.

    Examples
    --------
    >>> NoLabelsError("a: no masks").exit_code
    3
    """


def place_of(path: Path) -> Path:
    """What `paths.label_path` names: the path, or the specification that a folder holds as its only YAML file.

    Examples
    --------
    >>> place_of(Path("/data/mice.json")).name
    'mice.json'
    """
    files = sorted(path.glob("*.y*ml")) if path.is_dir() else []
    return files[0] if len(files) == 1 and format_of_file(files[0]) else path


def paths_of(place: Path) -> dict[str, str]:
    """Settings of `paths` for labels; pictures of a COCO file in `annotations` lie beside that folder.

    Examples
    --------
    >>> paths_of(Path("/data/mice/data.yaml"))
    {'data_root': '/data/mice', 'label_path': 'data.yaml'}
    >>> paths_of(Path("/data/mice/annotations/train.json"))
    {'data_root': '/data/mice', 'label_path': 'annotations/train.json'}
    """
    beside = place.suffix.lower() == ".json" and place.parent.name.lower() == "annotations"
    root = place.parent.parent if beside else place.parent
    return {"data_root": str(root), "label_path": place.relative_to(root).as_posix()}
