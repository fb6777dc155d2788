"""Split lists: the items of train, validation and test as text files, and how prepare draws the missing ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np

from config import TaskConfig, expand_path
from utils.errors import DataError, SettingsError
from utils.media.videos import SUFFIXES as VIDEO_SUFFIXES
from utils.raster.gdal import refuse_other_encoding
from utils.raster.scene_paths import RASTER_SUFFIXES
from utils.runtime.files import digest_json, write_bytes
from utils.runtime.reading import read_bounded_text

logger = logging.getLogger(__name__)

OTHER_PICTURES = "run prepare, which draws its own lists anew, or mend a list of your own"
MADE = ("train", "val")  # lists that prepare writes when they are absent
LIST_SPLITS = (*MADE, "test")
MADE_BY_PREPARE = "# made by prepare: "
MOST_DRAWN_AGAIN, TRIES = 200, 50  # units of which each is a noticeable share, and draws to find a better share
IDS = "; ids "  # before the digest of the ids, which shows whether a person changed the list


def split_list(name: str, settings: TaskConfig, split: str) -> Path | None:
    """The file of a split: the one in the settings, or the one that prepare writes; None where there is neither.

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
    path = getattr(settings.dataset.splits, f"{split}_list")
    if path:
        return Path(expand_path(path))
    return Path(expand_path(settings.paths.splits_dir)) / f"{name}_{split}.txt" if split in MADE else None


def refuse_unlistable(names: Iterable[str]) -> None:
    r"""Refuse pictures whose names cannot be written to a split list, which has one name per line.

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
    draw: Callable[[], tuple[list[str], list[str]]],
    how: str,
    pictures: Collection[str],
    held_out: Collection[str] = (),
    write: bool = True,
) -> dict[str, list[str]]:
    """Write the lists of train and val if they are missing, or if prepare made them for other pictures or settings.

    A list that is named in the settings, or that a person wrote or changed, is kept. What is drawn is announced, with a
    warning where the settings name the list.

    Parameters
    ----------
    name : str
        The task's name.
    settings : TaskConfig
        Its settings.
    draw : callable
        Gives the ids of train and of val.
    how : str
        How the ids are drawn, for the first line of the list; contains "val_fraction <value>,".
    pictures : collection of str
        Names of all pictures; an id is such a name, alone or before "@".
    held_out : collection of str
        Ids of the test split, which `draw` leaves out.
    write : bool
        False only finds out what would be written.

    Returns
    -------
    dict of str to list of str
        The ids that were drawn, by split; empty where the existing lists are kept.

    Raises
    ------
    SettingsError
        If a list is kept and `train.val_fraction` is not the value that it was made with.
    DataError
        If only one of the two lists exists, the test list that the settings name does not, or a name cannot be listed.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"splits_dir": tempfile.mkdtemp()})
    >>> settle_lists("coral", settings, lambda: (["a", "b"], ["c"]), "seed 1, val_fraction 0.2,", "abc")
    {'train': ['a', 'b'], 'val': ['c']}
    >>> settle_lists("coral", settings, lambda: ([], []), "seed 1, val_fraction 0.2,", "abc")
    {}
    >>> drawn = settle_lists("coral", settings, lambda: (["a", "b", "c"], ["d"]), "seed 1, val_fraction 0.2,", "abcd")
    >>> split_list("coral", settings, "val").read_text().splitlines()[1:]
    ['d']
    """
    refuse_absent_test(name, settings)
    paths = [path for path in (split_list(name, settings, split) for split in MADE) if path is not None]
    existing = [path for path in paths if path.exists()]
    if 0 < len(existing) < len(paths):
        raise DataError(f"{existing[0]} exists, but the other list of train and val does not; give both or neither")
    left_out = f", without {len(held_out)} of the test split {digest_json(sorted(held_out))[:8]}" if held_out else ""
    recipe = f"{how.rstrip(',')}, {len(pictures)} pictures {digest_json(sorted(pictures))[:8]}{left_out}"
    if existing and lists_stay(name, settings):
        check_fraction(name, settings)
        warn_of_unlisted(name, settings, pictures)
        return {}
    if existing:
        made = made_from(existing[0])
        if made == recipe:
            return {}
        logger.warning(
            "%s: drawn anew, as it was made for other pictures or settings (%s; now %s)", existing[0], made, recipe
        )
    warn_of_absent(name, settings)
    refuse_unlistable(pictures)
    drawn = dict(zip(MADE, draw(), strict=True))
    if write:
        for path, split in zip(paths, MADE, strict=True):
            write_list(path, drawn[split], recipe)
        share = len(drawn["val"]) / max(len(drawn["train"]) + len(drawn["val"]), 1)
        counts = (
            f"{len(drawn['train'])} ids to train on in {paths[0]}, {len(drawn['val'])} to validate on in {paths[1]} "
            f"({share:.0%} of them; train.val_fraction is {settings.train.val_fraction:g})"
        )
        logger.info("splits: drawn at random (%s): %s", recipe, counts)
    return drawn


def refuse_absent_test(name: str, settings: TaskConfig) -> None:
    """Refuse a test list that the settings name and that does not exist: its pictures might be drawn to train on.

    Raises
    ------
    DataError
        If there is no such file.

    Examples
    --------
    >>> refuse_absent_test("coral", TaskConfig())
    >>> refuse_absent_test("coral", TaskConfig(dataset={"splits": {"test_list": "no/test.txt"}}))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: dataset.splits.test_list: no no/test.txt in the working directory or beside the settings ...
    """
    path = split_list(name, settings, "test")
    if path is not None and not path.exists():
        raise DataError(
            f"dataset.splits.test_list: no {path} in the working directory or beside the settings file; correct the "
            "path, write the list, or remove the key (prepare draws only train and val)"
        )


def refuse_empty_lists(name: str, settings: TaskConfig, splits: Collection[str]) -> None:
    """Refuse lists of splits that are there and hold no id, unless prepare drew them and may draw them anew.

    Raises
    ------
    DataError
        If there is such a list.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("# later")
    >>> settings = TaskConfig(dataset={"splits": {"train_list": str(path)}})
    >>> refuse_empty_lists("coral", settings, ["val"])
    >>> refuse_empty_lists("coral", settings, ["train"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.txt: the list of the train split names no picture; write one name a line, or ...
    """
    for split in sorted(splits):
        path = split_list(name, settings, split)
        if path is not None and path.exists() and not read_list(path) and made_from(path) is None:
            raise DataError(
                f"{path}: the list of the {split} split names no picture; write one name a line, or remove the file "
                "to have the lists drawn"
            )


def warn_of_absent(name: str, settings: TaskConfig) -> None:
    """Warn of lists that the settings name and that do not exist, so that prepare draws them.

    Examples
    --------
    >>> from utils.logging import VerbosityLogger, listening
    >>> splits = {"train_list": "no/a.txt", "val_list": "no/b.txt"}
    >>> with listening(VerbosityLogger(), "tasks"):
    ...     warn_of_absent("coral", TaskConfig(dataset={"splits": splits}))  # doctest: +ELLIPSIS
    [WARNING] dataset.splits.train_list: no no/a.txt in the working directory (...) or beside the settings file, ...
    [WARNING] dataset.splits.val_list: no no/b.txt in the working directory (...) or beside the settings file, ...
    """
    for split in MADE:
        path = split_list(name, settings, split)
        if getattr(settings.dataset.splits, f"{split}_list") is not None and path is not None and not path.exists():
            logger.warning(
                "dataset.splits.%s_list: no %s in the working directory (%s) or beside the settings file, so that "
                "prepare draws this list at random; if you have one, correct the path and delete the drawn one",
                split,
                path,
                Path.cwd(),
            )


def lists_stay(name: str, settings: TaskConfig) -> bool:
    """Whether prepare keeps the existing lists: those named in the settings, or written or changed by a person.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"splits_dir": tempfile.mkdtemp()})
    >>> _ = settle_lists("coral", settings, lambda: (["a"], ["b"]), "seed 1, val_fraction 0.2,", "ab")
    >>> lists_stay("coral", settings)
    False
    >>> _ = split_list("coral", settings, "val").write_text("c")
    >>> lists_stay("coral", settings)
    True
    """
    paths = [path for path in (split_list(name, settings, split) for split in MADE) if path is not None]
    splits = settings.dataset.splits
    in_settings = splits.train_list is not None or splits.val_list is not None
    return all(path.exists() for path in paths) and (in_settings or any(made_from(path) is None for path in paths))


def check_fraction(name: str, settings: TaskConfig) -> None:
    """Refuse a validation share that the lists were not made with.

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


def warn_of_unlisted(name: str, settings: TaskConfig, pictures: Collection[str]) -> None:
    """Warn of pictures that are in no list, so that they are not used.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"splits_dir": tempfile.mkdtemp()})
    >>> _ = settle_lists("coral", settings, lambda: (["a"], ["b"]), "seed 1, val_fraction 0.2,", "ab")
    >>> warn_of_unlisted("coral", settings, ["a", "b"])
    """
    lists = (split_list(name, settings, split) for split in (*MADE, "test"))
    existing = [path for path in lists if path is not None and path.exists()]
    ids = [entry for path in existing for entry in as_names(read_list(path), pictures, path)]
    listed = {*ids, *(entry.partition("@")[0] for entry in ids)}
    missing = sorted(set(pictures) - listed)
    if missing:
        logger.warning(
            "%d pictures, such as %s, are in no split list, so nothing is learnt from them; add them to %s",
            len(missing),
            missing[0],
            split_list(name, settings, "train"),
        )


def read_list(path: str | Path) -> list[str]:
    """Read the item ids of a split list, one per line; lines that begin with # are comments.

    Raises
    ------
    DataError
        If an id is listed twice, or the file is not text.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> write_list(path, ["b", "a"], "seed 1")
    >>> read_list(path)
    ['b', 'a']
    """
    ids: dict[str, int] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry in ids:
            raise DataError(f"{path}:{number}: {entry!r} is listed twice; keep one line")
        ids[entry] = number
    return list(ids)


def as_names(entries: Iterable[str], names: Collection[str], path: str | Path) -> list[str]:
    """Replace file names in a split list, with or without folders and suffix, by the names of their pictures.

    Parameters
    ----------
    entries : iterable of str
        Lines of the list: names, names with an area after "@", or file names; what is none of these stays.
    names : collection of str
        Names of all pictures.
    path : str or Path
        The list, for errors.

    Raises
    ------
    DataError
        If a file name fits several pictures, or two lines mean the same.

    Examples
    --------
    >>> as_names(["images/a.jpg", "b", "c.tif@y0:8,x0:8", "d.png"], ["a", "b", "c", "x/d"], "val.txt")
    ['a', 'b', 'c@y0:8,x0:8', 'x/d']
    >>> as_names(["a.jpg"], ["x/a", "y/a"], "val.txt")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: val.txt: 'a.jpg' fits several pictures: x/a, y/a; write the one that is meant
    """
    known, by_stem = set(names), dict[str, list[str]]()
    for name in names:
        by_stem.setdefault(_parts_of(name)[-1], []).append(name)
    found: dict[str, str] = {}
    for entry in entries:
        stem, mark, area = entry.partition("@")
        if entry not in known and stem not in known:
            parts = _parts_of(stem)
            likely = [name for name in by_stem.get(parts[-1], []) if _end_alike(parts, _parts_of(name))]
            if len(likely) > 1:
                listed = ", ".join(likely[:5])
                raise DataError(f"{path}: {entry!r} fits several pictures: {listed}; write the one that is meant")
            stem = likely[0] if likely else stem
        line = entry if entry in known else f"{stem}{mark}{area}"
        if found.setdefault(line, entry) != entry:
            raise DataError(f"{path}: {entry!r} and {found[line]!r} are the same picture; keep one line")
    return list(found)


def _parts_of(name: str) -> list[str]:
    r"""Folders and stem of a picture's name or path, without a suffix of pictures or videos.

    Examples
    --------
    >>> _parts_of("c:\\x\\a.JPG"), _parts_of("north__a"), _parts_of("a.v2")
    (['c:', 'x', 'a'], ['north', 'a'], ['a.v2'])
    """
    parts = [part for part in name.replace("\\", "/").replace("__", "/").split("/") if part not in ("", ".")] or [name]
    stem, dot, suffix = parts[-1].rpartition(".")
    is_file = f".{suffix.lower()}" in (*RASTER_SUFFIXES, *VIDEO_SUFFIXES)
    return [*parts[:-1], stem] if dot and is_file and stem else parts


def _end_alike(first: list[str], second: list[str]) -> bool:
    """Whether the shorter of two paths is the end of the longer one.

    Examples
    --------
    >>> _end_alike(["x", "a"], ["a"]), _end_alike(["x", "a"], ["y", "a"])
    (True, False)
    """
    length = min(len(first), len(second))
    return first[-length:] == second[-length:]


def _read_text(path: str | Path) -> str:
    r"""Read a list's text.

    Raises
    ------
    DataError
        If the file is not text in UTF-8.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_bytes(b"\xff\xfe")
    >>> _read_text(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../train.txt: not a text file in UTF-8; save it as UTF-8; a split list holds ...
    """
    try:
        return read_bounded_text(path)
    except DataError as error:
        raise DataError(f"{error}; a split list holds one item id a line") from None


def made_from(path: str | Path) -> str | None:
    """How prepare made a list, or None when a person wrote or changed it.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> write_list(path, ["a"], "seed 1, val_fraction 0.2")
    >>> made_from(path)
    'seed 1, val_fraction 0.2'
    >>> _ = path.write_text(path.read_text() + "b")
    >>> made_from(path) is None
    True
    """
    first = _read_text(path).partition("\n")[0]
    how, mark, digest = first.removeprefix(MADE_BY_PREPARE).rpartition(IDS)
    made = first.startswith(MADE_BY_PREPARE) and mark and digest == digest_json(read_list(path))[:8]
    return how if made else None


def write_list(path: str | Path, ids: Iterable[str], how: str) -> None:
    """Write a split list that says how it was made.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "val.txt"
    >>> write_list(path, ["a", "b"], "seed 1")
    >>> path.read_text().splitlines()
    ['# made by prepare: seed 1; ids 0473ef2d', 'a', 'b']
    """
    ids = list(ids)
    text = "\n".join([f"{MADE_BY_PREPARE}{how}{IDS}{digest_json(ids)[:8]}", *ids]) + "\n"
    write_bytes(path, text.encode())


def stratified_choice(counts: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """Choose about `fraction` of the labelled area so that every class is in both parts where possible.

    Classes are treated from the rarest on, as in the iterative stratification of Sechidis et al., 2011 (ECML PKDD),
    except that a unit has pixel counts in place of labels, and that every class stays in training.

    Parameters
    ----------
    counts : ndarray, shape (N, K)
        Labelled pixels of each unit and class.
    fraction : float
        Share of the pixels to choose.
    generator : numpy Generator
        Breaks ties.

    Returns
    -------
    ndarray of bool, shape (N,)
        The chosen units: at least one and not all, when there are two or more.

    Examples
    --------
    >>> counts = np.array([[10, 0], [10, 0], [10, 5], [10, 0], [10, 5]])
    >>> chosen = stratified_choice(counts, 0.4, np.random.default_rng(0))
    >>> counts[chosen].sum(axis=0).tolist()
    [20, 5]
    """
    number = len(counts)
    chosen = np.zeros(number, bool)
    if number < 2:
        return chosen
    totals = counts.sum(axis=0)
    order = generator.permutation(number)
    for class_index in sorted(np.flatnonzero(totals), key=lambda index: totals[index]):
        for unit in (unit for unit in order if counts[unit, class_index] > 0 and not chosen[unit]):
            if counts[chosen, class_index].sum() >= fraction * totals[class_index]:
                break
            fits = counts[chosen].sum() + counts[unit].sum() <= (fraction + 0.5 / number) * counts.sum()
            useful = fits or not counts[chosen, class_index].any()
            if useful and _stays_in_training(counts, chosen, unit):
                chosen[unit] = True
    if not chosen.any():
        chosen[order[0]] = True
    if chosen.all():
        chosen[order[-1]] = False
    return chosen


def nearest_choice(counts: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """Choose as `stratified_choice` does, again where a few large units make the share far from `fraction`.

    Parameters
    ----------
    counts : ndarray, shape (N, K)
        Labelled pixels of each unit and class.
    fraction : float
        Share of the pixels to choose.
    generator : numpy Generator
        Breaks ties.

    Returns
    -------
    ndarray of bool, shape (N,)
        The choice with the share nearest to `fraction`, among those that hold no class less than the first one.

    Examples
    --------
    >>> counts = np.array([[8, 1, 0], [8, 0, 1], [8, 1, 1], [8, 1, 1], [9, 0, 0], [9, 0, 0], [9, 0, 0], [9, 0, 0]])
    >>> [int(nearest_choice(counts, 0.2, np.random.default_rng(seed)).sum()) for seed in range(4)]
    [2, 2, 2, 2]
    """
    best = stratified_choice(counts, fraction, generator)
    if not 2 <= len(counts) <= MOST_DRAWN_AGAIN:
        return best

    def look(chosen: np.ndarray) -> tuple[int, float]:
        return int(counts[chosen].any(axis=0).sum()), abs(counts[chosen].sum() / counts.sum() - fraction)

    for _ in range(TRIES):
        classes, apart = look(best)
        if apart <= 0.5 / len(counts):
            break
        other = stratified_choice(counts, fraction, generator)
        if look(other)[0] >= classes and look(other)[1] < apart:
            best = other
    return best


def _stays_in_training(counts: np.ndarray, chosen: np.ndarray, unit: int) -> bool:
    """Whether every class still has pixels in training when one more unit is chosen.

    `counts` has shape (N, K), `chosen` shape (N,).

    Examples
    --------
    >>> counts, chosen = np.array([[1, 1], [1, 0]]), np.array([False, False])
    >>> _stays_in_training(counts, chosen, 0), _stays_in_training(counts, chosen, 1)
    (False, True)
    """
    left = counts[~chosen].sum(axis=0) - counts[unit]
    return bool(((left > 0) | (counts.sum(axis=0) == 0)).all())
