"""The feature stores that are open: one per folder, shared by the phases and tasks of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from typing_extensions import override

from config import TaskConfig
from utils.store.feature_store import FeatureStore
from utils.store.manifests import Manifests

THREADS = 2  # they read a batch in two thirds of the time that one takes

_open: WeakValueDictionary[Path, FeatureStore] = WeakValueDictionary()  # resolved folder -> store
_kept: list[set[FeatureStore]] = []  # what `keep_stores` holds, the innermost last
_previews: list[dict[Path, PreviewStore]] = []  # of `preview_stores`, the innermost last
_unmade: list[dict[Path, PreviewStore]] = []  # of `make_no_stores`, the innermost last


class _PreviewManifests(Manifests):
    """Documents of a folder; what is added stays in memory.

    Examples
    --------
    >>> manifests = _PreviewManifests(Path("/no/such/folder"))
    >>> manifests.write("00ff00ff", {"frames": (12,)})
    >>> manifests.read("00ff00ff"), manifests.folder.exists()
    ({'frames': (12,)}, False)
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.added: dict[str, Any] = {}

    @override
    def write(self, key: str, value: Any) -> None:
        self.added[key] = value

    @override
    def read(self, key: str) -> Any:
        return self.added[key] if key in self.added else super().read(key)


class PreviewStore(FeatureStore):
    """A store that is looked at and not changed, not even by opening it; it need not exist.

    Examples
    --------
    >>> store = PreviewStore("/no/such/folder")
    >>> len(store), store.folder.exists()
    (0, False)
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder, create=False)
        self.manifests = _PreviewManifests(self.manifests.folder)

    @override
    def _check_version(self, create: bool) -> None:
        if (self.folder / "store.json").exists():
            super()._check_version(create)


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
    in_memory = _previews or ([] if (folder / "store.json").exists() else _unmade)
    if in_memory:
        if folder not in in_memory[-1]:
            in_memory[-1][folder] = PreviewStore(settings.processed_dir(phase))
        return in_memory[-1][folder]
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


@contextmanager
def preview_stores() -> Iterator[None]:
    """Let `open_store` give stores that nothing is written to.

    Examples
    --------
    >>> with preview_stores():
    ...     open_store(TaskConfig(paths={"processed_dir": "/no/such/folder"}), "prepare").folder.exists()
    False
    """
    _previews.append({})
    try:
        yield
    finally:
        _previews.pop()


@contextmanager
def make_no_stores() -> Iterator[None]:
    """Let `open_store` make no store where there is none, for calls that store nothing; what it would keep is lost.

    Examples
    --------
    >>> with make_no_stores():
    ...     open_store(TaskConfig(paths={"processed_dir": "/no/such/folder"}), "prepare").folder.exists()
    False
    """
    _unmade.append({})
    try:
        yield
    finally:
        _unmade.pop()


def advice_to_prepare(settings: TaskConfig, phase: str, folder: Path) -> str:
    """What to do where a phase does not find in the store at `folder` what prepare makes, by what the settings say.

    Examples
    --------
    >>> advice_to_prepare(TaskConfig(), "train", Path("processed"))
    'run prepare (set prepare.enable: true)'
    >>> enabled = TaskConfig(prepare={"enable": True})
    >>> advice_to_prepare(enabled, "train", Path("processed"))
    'run prepare, which is enabled, in the same call or before (--only must not leave it out)'
    >>> advice_to_prepare(enabled, "train", Path("here"))
    'prepare stores in processed, but train reads here; give prepare.processed_dir and train.processed_dir one folder'
    """
    stores_in = settings.processed_dir("prepare")
    if folder.resolve() != stores_in.resolve():
        both = f"give prepare.processed_dir and {phase}.processed_dir one folder"
        return f"prepare stores in {stores_in}, but {phase} reads {folder}; {both}"
    if settings.prepare.enable:
        return "run prepare, which is enabled, in the same call or before (--only must not leave it out)"
    return "run prepare (set prepare.enable: true)"
