"""Where a task's split lists are, and how the ones that nobody named come about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from config import TaskConfig, expand_path
from utils.errors import DataError, SettingsError
from utils.splits import made_from, write_list

OTHER_PICTURES = "if the list is of other pictures, delete it, or give the task a name of its own (tasks: {NAME: ...})"
MADE = ("train", "val")  # lists that prepare writes when they are absent


def split_list(name: str, settings: TaskConfig, split: str) -> Path | None:
    """The file of a split: the named one, or the one that prepare writes; None for one that nobody named.

    Parameters
    ----------
    name : str
        The task's name, with which lists that prepare writes begin.
    settings : TaskConfig
        Its settings.
    split : str
        `train`, `val` or `test`.

    Examples
    --------
    >>> split_list("coral", TaskConfig(), "train").as_posix(), split_list("coral", TaskConfig(), "test")
    ('splits/coral_train.txt', None)
    """
    named = getattr(settings.dataset.splits, f"{split}_list")
    if named:
        return Path(expand_path(named))
    return Path(expand_path(settings.paths.splits_dir)) / f"{name}_{split}.txt" if split in MADE else None


def settle_lists(
    name: str, settings: TaskConfig, draw: Callable[[], tuple[Sequence[str], Sequence[str]]], how: str
) -> None:
    """Write the lists of train and val when they are absent; refuse settings that contradict lists which are there.

    Parameters
    ----------
    name : str
        The task's name.
    settings : TaskConfig
        Its settings.
    draw : callable
        Gives the ids of train and of val.
    how : str
        How it draws, for the list's first line; holds "val_fraction <value>,".

    Raises
    ------
    SettingsError
        If a list is there and `train.val_fraction` is set to something else than it was made with.
    DataError
        If only one of the two lists is there.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"splits_dir": tempfile.mkdtemp()})
    >>> settle_lists("coral", settings, lambda: (["a", "b"], ["c"]), "seed 1, val_fraction 0.2,")
    >>> split_list("coral", settings, "val").read_text().splitlines()[1:]
    ['c']
    """
    paths = [path for path in (split_list(name, settings, split) for split in MADE) if path is not None]
    there = [path for path in paths if path.exists()]
    fraction = f"val_fraction {settings.train.val_fraction:g},"
    for path in there:
        made = made_from(path)
        if "val_fraction" in settings.train.model_fields_set and fraction not in (made or ""):
            raise SettingsError(
                f"train.val_fraction: {path} already says what is validated ({made or 'written by hand'}); remove "
                "val_fraction, or delete the list to have it drawn anew"
            )
    if len(there) == len(paths):
        return
    if there:
        raise DataError(f"{there[0]} is there, but the other list of train and val is not; give both or neither")
    for path, ids in zip(paths, draw(), strict=True):
        write_list(path, ids, how)
