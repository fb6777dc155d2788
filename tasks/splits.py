"""Where a task's split lists are, and how the ones that nobody named come about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from config import TaskConfig, expand_path
from tasks.split_lists import made_from, read_list, write_list
from utils.errors import DataError, SettingsError
from utils.raster.gdal import refuse_other_encoding
from utils.runtime.files import digest_json

logger = logging.getLogger(__name__)

OTHER_PICTURES = "run prepare, which draws its own lists anew, or mend a list of your own"
MADE = ("train", "val")  # lists that prepare writes when they are absent
LIST_SPLITS = (*MADE, "test")


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


def refuse_unlistable(names: Iterable[str]) -> None:
    r"""Refuse pictures whose names a split list, which has one a line, would give back as others or not at all.

    Raises
    ------
    DataError
        If there is such a name.

    Examples
    --------
    >>> refuse_unlistable(["a b", "-x"])
    >>> refuse_unlistable(["a\nb"])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: picture 'a\nb': expected a name in UTF-8 of one line, without blanks around it or # ...
    """
    for name in names:
        refuse_other_encoding(name)
        if name.strip() != name or name.splitlines() != [name] or name.startswith("#"):
            raise DataError(
                f"picture {name!r}: expected a name in UTF-8 of one line, without blanks around it or # before it, "
                "as split lists have one name a line; rename the file"
            )


def settle_lists(
    name: str,
    settings: TaskConfig,
    draw: Callable[[], tuple[Sequence[str], Sequence[str]]],
    how: str,
    pictures: Collection[str],
) -> None:
    """Write the lists of train and val when they are absent, or when prepare made them for other pictures or settings.

    A list that the settings name, or that a person wrote or changed, stays as it is.

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
    pictures : collection of str
        All that can be listed; an id is a picture's name, alone or before "@".

    Raises
    ------
    SettingsError
        If a list that stays is there and `train.val_fraction` is set to something else than it was made with.
    DataError
        If only one of the two lists is there.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"splits_dir": tempfile.mkdtemp()})
    >>> settle_lists("coral", settings, lambda: (["a", "b"], ["c"]), "seed 1, val_fraction 0.2,", "abc")
    >>> settle_lists("coral", settings, lambda: (["a", "b", "c"], ["d"]), "seed 1, val_fraction 0.2,", "abcd")
    >>> split_list("coral", settings, "val").read_text().splitlines()[1:]
    ['d']
    """
    paths = [path for path in (split_list(name, settings, split) for split in MADE) if path is not None]
    there = [path for path in paths if path.exists()]
    if 0 < len(there) < len(paths):
        raise DataError(f"{there[0]} is there, but the other list of train and val is not; give both or neither")
    wanted = f"{how.rstrip(',')}, {len(pictures)} pictures {digest_json(sorted(pictures))[:8]}"
    if there and lists_stay(name, settings):
        check_fraction(name, settings)
        tell_unlisted(name, settings, pictures)
        return
    if there:
        made = made_from(there[0])
        if made == wanted:
            return
        logger.warning(
            "%s: drawn anew, as it was made for other pictures or settings (%s; now %s)", there[0], made, wanted
        )
    for path, ids in zip(paths, draw(), strict=True):
        write_list(path, ids, wanted)


def lists_stay(name: str, settings: TaskConfig) -> bool:
    """Whether lists are there that prepare must not draw anew: named ones, and those that a person wrote or changed.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"splits_dir": tempfile.mkdtemp()})
    >>> settle_lists("coral", settings, lambda: (["a"], ["b"]), "seed 1, val_fraction 0.2,", "ab")
    >>> lists_stay("coral", settings)
    False
    >>> _ = split_list("coral", settings, "val").write_text("c")
    >>> lists_stay("coral", settings)
    True
    """
    paths = [path for path in (split_list(name, settings, split) for split in MADE) if path is not None]
    splits = settings.dataset.splits
    named = splits.train_list is not None or splits.val_list is not None
    return all(path.exists() for path in paths) and (named or any(made_from(path) is None for path in paths))


def check_fraction(name: str, settings: TaskConfig) -> None:
    """Refuse a share of validation beside lists that say it already.

    Raises
    ------
    SettingsError
        If `train.val_fraction` is set and a list was made with another one.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"splits_dir": tempfile.mkdtemp()}, train={"val_fraction": 0.5})
    >>> for split in MADE:
    ...     _ = split_list("coral", settings, split).write_text(split)
    >>> check_fraction("coral", settings)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: train.val_fraction: ...coral_train.txt already says what is validated (written by ...
    """
    if "val_fraction" not in settings.train.model_fields_set:
        return
    for path in (split_list(name, settings, split) for split in MADE):
        assert path is not None
        made = made_from(path)
        if f"val_fraction {settings.train.val_fraction:g}," not in (made or ""):
            raise SettingsError(
                f"train.val_fraction: {path} already says what is validated ({made or 'written by hand'}); remove "
                "val_fraction, or delete the list to have it drawn anew"
            )


def tell_unlisted(name: str, settings: TaskConfig, pictures: Collection[str]) -> None:
    """Warn of pictures that no list names: nothing is learnt from them.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"splits_dir": tempfile.mkdtemp()})
    >>> settle_lists("coral", settings, lambda: (["a"], ["b"]), "seed 1, val_fraction 0.2,", "ab")
    >>> tell_unlisted("coral", settings, ["a", "b"])
    """
    lists = (split_list(name, settings, split) for split in (*MADE, "test"))
    ids = [entry for path in lists if path is not None and path.exists() for entry in read_list(path)]
    listed = {*ids, *(entry.partition("@")[0] for entry in ids)}
    missing = sorted(set(pictures) - listed)
    if missing:
        logger.warning(
            "%d pictures, such as %s, are in no split list, so nothing is learnt from them; add them to %s",
            len(missing),
            missing[0],
            split_list(name, settings, "train"),
        )
