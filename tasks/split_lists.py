"""Split lists: which items train and which judge, as text files that people can read and keep."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.runtime.files import digest_json, write_bytes

MADE_BY_PREPARE = "# made by prepare: "
IDS = "; ids "  # before the digest of the list, which tells whether a person changed it


def read_list(path: str | Path) -> list[str]:
    """Read the item ids of a split list, one a line; lines that begin with # are comments.

    Raises
    ------
    DataError
        If an id stands twice, or the file holds no text.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> write_list(path, ["b", "a"], "seed 1")
    >>> read_list(path)
    ['b', 'a']
    """
    ids: list[str] = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry in ids:
            raise DataError(f"{path}:{number}: {entry!r} stands twice; keep one line")
        ids.append(entry)
    return ids


def _read_text(path: str | Path) -> str:
    r"""Read a list's text.

    Raises
    ------
    DataError
        When the file is no text in UTF-8.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_bytes(b"\xff\xfe")
    >>> _read_text(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../train.txt: not a text file in UTF-8; a split list holds one item id a line
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8; a split list holds one item id a line") from None


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


def nearest(name: str, known: Sequence[str]) -> str:
    """Hint at a known name that looks like an unknown one.

    Examples
    --------
    >>> nearest("kampala1", ["kampala_1", "nepal_1"])
    "did you mean 'kampala_1'?"
    """
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(list(known)[:5])}{', ...' if len(known) > 5 else ''}"


def stratified_choice(counts: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """Choose about `fraction` of the ground so that every class is represented on both sides where it can be.

    Classes are served from the rarest on, as in the iterative stratification of Sechidis et al., 2011 (ECML PKDD),
    except that a unit carries pixel counts in place of labels, and that every class stays in training.

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
            wanted = fits or not counts[chosen, class_index].any()
            if wanted and _stays_in_training(counts, chosen, unit):
                chosen[unit] = True
    if not chosen.any():
        chosen[order[0]] = True
    if chosen.all():
        chosen[order[-1]] = False
    return chosen


def _stays_in_training(counts: np.ndarray, chosen: np.ndarray, unit: int) -> bool:
    """Whether every class still has ground in training when one more unit is chosen.

    `counts` has shape (N, K), `chosen` shape (N,).

    Examples
    --------
    >>> counts, chosen = np.array([[1, 1], [1, 0]]), np.array([False, False])
    >>> _stays_in_training(counts, chosen, 0), _stays_in_training(counts, chosen, 1)
    (False, True)
    """
    left = counts[~chosen].sum(axis=0) - counts[unit]
    return bool(((left > 0) | (counts.sum(axis=0) == 0)).all())
