"""The feature stores that are open: one per folder, shared by the phases and tasks of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from config import TaskConfig
from utils.store.feature_store import FeatureStore

THREADS = 2  # they read a batch in two thirds of the time that one takes

_open: WeakValueDictionary[Path, FeatureStore] = WeakValueDictionary()  # resolved folder -> store
_kept: list[set[FeatureStore]] = []  # what `keep_stores` holds, the innermost last


def open_store(settings: TaskConfig, phase: str) -> FeatureStore:
    """Give the feature store of a phase; one that is open already takes in what was stored or set aside since.

    Other ranks' records are seen by those who call this after a barrier.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"processed_dir": tempfile.mkdtemp()})
    >>> store = open_store(settings, "prepare")
    >>> len(store), open_store(settings, "train") is store
    (0, True)
    """
    folder = settings.processed_dir(phase).resolve()
    store = _open.get(folder)
    if store is None or not (folder / "store.json").exists():  # a person may remove the folder between two runs
        store = _open[folder] = FeatureStore(settings.processed_dir(phase), threads=THREADS)
    else:
        store.refresh()
    if _kept:
        _kept[-1].add(store)
    return store


@contextmanager
def keep_stores() -> Iterator[None]:
    """Keep each store that is opened inside open until the end, also while no phase uses it.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"processed_dir": tempfile.mkdtemp()})
    >>> with keep_stores():
    ...     first = id(open_store(settings, "prepare"))
    ...     id(open_store(settings, "train")) == first
    True
    """
    _kept.append(set())
    try:
        yield
    finally:
        _kept.pop()
