"""What prepare leaves for the other phases: the entries of each item, and how batches are read from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tasks.batching import plan_batches
from tasks.item import Item
from tasks.sample import Batch, Progress, Sample
from tasks.stores import advice_to_prepare
from tasks.task import Task
from utils.data import Entry, PrecomputedDataset, SampleRef
from utils.errors import DataError
from utils.geometry.augment import IDENTITY, Variation, View, parse_view_name
from utils.geometry.fields import collate, merge_rows
from utils.raster.tiling import Window
from utils.runtime.files import digest_json
from utils.store.feature_store import FeatureStore


@dataclass(frozen=True)
class PreparedItem:
    """An item and the entries that prepare made of it.

    Examples
    --------
    >>> PreparedItem(Item("a", ()), [Entry("a", "00", {})]).item.id
    'a'
    """

    item: Item
    entries: list[Entry]


def manifest_key(recipe: dict[str, Any], item: Item, views: Sequence[View | Variation]) -> str:
    """Name an item's manifest: another file, setting, weight or view gives another name.

    Examples
    --------
    >>> item = Item("a", ())
    >>> manifest_key({"tile_size": 4}, item, [IDENTITY]) == manifest_key({"tile_size": 8}, item, [IDENTITY])
    False
    """
    return digest_json({"item": item.stamp(), "recipe": recipe, "views": [view.name for view in views]})


def write_entries(store: FeatureStore, key: str, entries: Iterable[Entry]) -> None:
    """Keep an item's entries.

    Examples
    --------
    >>> import tempfile
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> write_entries(store, "ab" * 16, [Entry("a", "00", {}, [0, 0, 4, 6])])
    >>> read_entries(store, "ab" * 16)
    [Entry(sample_id='a', sample_key='00', records={}, window=[0, 0, 4, 6], facts={})]
    """
    store.manifests.write(key, {"entries": [asdict(entry) for entry in entries]})


def read_entries(store: FeatureStore, key: str) -> list[Entry] | None:
    """Read an item's entries; None when they were never written.

    Examples
    --------
    >>> import tempfile
    >>> read_entries(FeatureStore(tempfile.mkdtemp()), "00" * 16) is None
    True
    """
    manifest = store.manifests.read(key)
    return None if manifest is None else [Entry(**entry) for entry in manifest["entries"]]


def is_complete(store: FeatureStore, entries: Sequence[Entry] | None) -> bool:
    """Whether every record of an item can be read.

    Examples
    --------
    >>> import tempfile
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> is_complete(store, []), is_complete(store, None), is_complete(store, [Entry("a", "00" * 16, {})])
    (True, False, False)
    """
    return entries is not None and all(store.has(key) for entry in entries for key in entry.record_keys())


def prepared_items(task: Task, store: FeatureStore, split: str, where: str) -> list[PreparedItem]:
    """Read what prepare made of a split.

    Parameters
    ----------
    task : Task
        The task whose items are wanted.
    store : FeatureStore
        Its store.
    split : str
        `train`, `val` or `test`.
    where : str
        The phase that asks, for the message.

    Returns
    -------
    list of PreparedItem
        In the order of `task.source.items(split)`.

    Raises
    ------
    DataError
        If an item is not prepared, or records of it are missing.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> store = FeatureStore(task.settings.processed_dir("train"))
    >>> prepared_items(task, store, "val", "train")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: train: 1 of 1 val items are not prepared (first: ...); run prepare...
    """
    recipe, views = task.source.cache_key(), task.source.views(split)
    prepared, missing = [], []
    for item in task.source.items(split):
        entries = read_entries(store, manifest_key(recipe, item, views))
        if is_complete(store, entries):
            prepared.append(PreparedItem(item, entries or []))
        else:
            missing.append(item.id)
    if missing:
        total = len(prepared) + len(missing)
        raise DataError(
            f"{where}: {len(missing)} of {total} {split} items are not prepared (first: {missing[0]}); "
            f"{advice_to_prepare(task.settings, where, store.folder)}; it makes only what is missing"
        )
    return prepared


class PreparedReader:
    """Reads batches of prepared samples with their targets: the stored data set, and what the task adds to it.

    Parameters
    ----------
    task : Task
        Declares the kinds of fields, varies online samples and encodes targets.
    store : FeatureStore
        Holds the records.
    prepared : sequence of PreparedItem
        What positions count through, item by item.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> reader = PreparedReader(task, store, prepared)
    >>> batch = reader.read([SampleRef(0), SampleRef(1)])
    >>> len(batch), batch.arrays["image"].shape, len(batch.feature_maps)
    (2, torch.Size([2, 3, 32, 32]), 2)
    """

    def __init__(self, task: Task, store: FeatureStore, prepared: Sequence[PreparedItem]):
        self.task = task
        self.owners = [item.item for item in prepared for _ in item.entries]
        self.entries = [entry for item in prepared for entry in item.entries]
        self.dataset = PrecomputedDataset(store, self.entries, fields=task.source.fields)

    def read(self, refs: Sequence[SampleRef], progress: Progress | None = None) -> Batch:
        """Read one batch; an empty one keeps the shapes of a full one.

        Parameters
        ----------
        refs : sequence of SampleRef
            Samples of the batch.
        progress : Progress, optional
            When given, targets are encoded, and online samples are varied; without it the batch's samples keep their
            arrays.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> len(reader.read([])), reader.read([]).arrays["image"].shape
        (0, torch.Size([0, 3, 32, 32]))
        >>> [sample] = reader.read([SampleRef(0)]).samples
        >>> sample.arrays["image"].shape, sample.arrays["label"].shape
        ((32, 32, 3), (32, 32))
        """
        wanted = list(refs) or [SampleRef(0)]
        online = progress is not None and self.task.settings.train.features == "online"

        def turn(ref: SampleRef, arrays: dict[str, Any]) -> dict[str, Any]:
            return self.task.source.apply_view(self._sample(ref, arrays), parse_view_name(ref.view)).arrays

        def vary(ref: SampleRef, arrays: dict[str, Any]) -> dict[str, Any]:
            words = [self.task.settings.resources.seed, progress.epoch if progress else 0, ref.position]
            return self.task.source.augment(self._sample(ref, arrays), np.random.default_rng(words)).arrays

        loaded = self.dataset.load(wanted, turn, vary if online else None)
        samples = [self._sample(ref, arrays) for ref, arrays in zip(wanted, loaded.samples, strict=True)]
        maps = None
        if not online and self.dataset.has_maps(wanted):
            maps = self.dataset.read_maps(wanted, loaded.sizes, self.task.source.cell_size() if loaded.sizes else 1)
        batch = Batch(samples, loaded.arrays, maps, sizes=loaded.sizes)
        if progress is not None:
            targets = [self.task.objective.encode(sample, progress) for sample in samples]
            batch.samples = [sample.with_arrays({}) for sample in samples]
            batch = self.task.objective.collate(batch, targets)
        return batch if refs else _emptied(batch)

    def samples(self, positions: Iterable[int]) -> Iterator[Sample]:
        """Read samples one by one as they were stored, without feature maps.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> [(sample.window.y, sample.window.x, sample.arrays["image"].shape) for sample in reader.samples([1])]
        [(0, 32, (32, 32, 3))]
        """
        for position in positions:
            ref = SampleRef(position)
            yield self._sample(ref, self.dataset.load([ref], lambda _, arrays: arrays).samples[0])

    def _sample(self, ref: SampleRef, arrays: dict[str, Any]) -> Sample:
        """A sample of a batch, with its arrays as they are in its view.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> PreparedReader(*prepared_example(tempfile.mkdtemp()))._sample(SampleRef(1, "hflip"), {}).view.name
        'hflip'
        """
        entry = self.entries[ref.position]
        window = Window(*entry.window) if entry.window else None
        view = parse_view_name(ref.view)
        shown = view if isinstance(view, View) else IDENTITY
        return Sample(entry.sample_id, self.owners[ref.position], arrays, window, shown)

    def plan(self, refs: Sequence[SampleRef], batch_size: int, generator: np.random.Generator) -> list[list[SampleRef]]:
        """Cut samples into batches of one padded shape, and what is left over into mixed ones.

        Parameters
        ----------
        refs : sequence of SampleRef
            In the order in which they come.
        batch_size : int
            Samples of a batch.
        generator : numpy.random.Generator
            As in `plan_batches`.

        Returns
        -------
        list of list of SampleRef
            Samples of a batch that is to be padded know its size, so that ranks can share it.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> plan = reader.plan([SampleRef(2), SampleRef(0), SampleRef(1)], 2, np.random.default_rng(0))
        >>> [[ref.position for ref in batch] for batch in plan]
        [[2, 0], [1]]
        """
        sizes = [self._size(ref) for ref in refs]
        cell = self.task.source.cell_size() if len(set(sizes)) > 1 else 1
        grids = [size and (-(-size[0] // cell), -(-size[1] // cell)) for size in sizes]
        batches = []
        for members in plan_batches(grids, batch_size, generator):
            found = {size for index in members if (size := sizes[index]) is not None}
            padded = (max(size[0] for size in found), max(size[1] for size in found)) if len(found) > 1 else None
            batches.append([refs[index]._replace(padded=padded) for index in members])
        return batches

    def _size(self, ref: SampleRef) -> tuple[int, int] | None:
        """Height and width of a sample in its view.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> PreparedReader(*prepared_example(tempfile.mkdtemp()))._size(SampleRef(0, "rot90"))
        (32, 32)
        """
        size = self.dataset.stored_size(ref.position)
        view, _ = self.task.source.draw_view(self.entries[ref.position].sample_id, parse_view_name(ref.view))
        return size if size is None or view.quarter_turns % 2 == 0 else (size[1], size[0])


def collate_samples(task: Task, samples: Sequence[Sample]) -> Batch:
    """Put samples that were not stored into a batch without feature maps; its samples keep their arrays.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, _ = example_task(tempfile.mkdtemp())
    >>> arrays = {"image": np.zeros((4, 6, 3), np.uint8), "label": np.zeros((4, 6))}
    >>> batch = collate_samples(task, [Sample("a", Item("a", ()), arrays)] * 2)
    >>> [tuple(array.shape) for array in batch.arrays.values()]
    [(2, 3, 4, 6), (2, 4, 6)]
    """
    arrays, sizes = collate(task.source.fields, merge_rows([sample.arrays for sample in samples]))
    return Batch(list(samples), arrays, sizes=sizes)


def _emptied(batch: Batch) -> Batch:
    """Drop the samples of a batch and keep its shapes, for a rank without work in a step.

    Examples
    --------
    >>> import torch
    >>> batch = Batch([], {"image": torch.zeros(1, 3, 4, 6)}, target=torch.zeros(1, 4, 6))
    >>> _emptied(batch).arrays["image"].shape, _emptied(batch).target.shape
    (torch.Size([0, 3, 4, 6]), torch.Size([0, 4, 6]))
    """
    maps = None if batch.feature_maps is None else [feature_map[:0] for feature_map in batch.feature_maps]
    return Batch([], _emptied_target(batch.arrays), maps, _emptied_target(batch.target))


def _emptied_target(target: Any) -> Any:
    """Drop the samples of a target, whatever it is made of.

    Examples
    --------
    >>> import torch
    >>> _emptied_target({"heatmaps": torch.zeros(1, 2, 3), "boxes": [torch.zeros(5, 4)]})
    {'heatmaps': tensor([], size=(0, 2, 3)), 'boxes': []}
    """
    if isinstance(target, Tensor | list):
        return target[:0]
    if isinstance(target, dict):
        return {name: _emptied_target(part) for name, part in target.items()}
    return tuple(_emptied_target(part) for part in target) if isinstance(target, tuple) else target


def batched(refs: Sequence[SampleRef], size: int) -> Iterator[Sequence[SampleRef]]:
    """Cut a list into runs of at most `size`.

    Examples
    --------
    >>> [list(part) for part in batched([1, 2, 3, 4, 5], 2)]
    [[1, 2], [3, 4], [5]]
    """
    for start in range(0, len(refs), size):
        yield refs[start : start + size]
