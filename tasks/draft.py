"""Settings that are drafted for a person's data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from utils.errors import DataError

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


class NoLabelsError(DataError):
    """The data hold no labels that a kind of task learns from; another kind may.

    Examples
    --------
    >>> NoLabelsError("a: no masks").exit_code
    3
    """
