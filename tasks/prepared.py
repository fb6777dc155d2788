"""What prepare leaves for the other phases: the entries of each item, and how batches are read from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.base import Batch, Entry, Item, Progress, Sample
from tasks.source import Source
from tasks.task import Task
from utils.augment import IDENTITY, Variation, View, laid_down_as
from utils.data import Entry as StoredEntry
from utils.data import PrecomputedDataset, map_names
from utils.errors import DataError
from utils.feature_store import FeatureStore
from utils.files import digest_json
from utils.tiling import Window

BACKBONE = "backbone"  # the producer whose maps reach a model as `feature_maps`


@dataclass(frozen=True)
class Ticket:
    """One training sample of one step: where it stands in the entries, and the view to take.

    Examples
    --------
    >>> Ticket(3, "hflip").view
    'hflip'
    """

    position: int
    view: str = IDENTITY.name


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
    store.write_manifest(key, {"entries": [asdict(entry) for entry in entries]})


def read_entries(store: FeatureStore, key: str) -> list[Entry] | None:
    """Read an item's entries; None when they were never written.

    Examples
    --------
    >>> import tempfile
    >>> read_entries(FeatureStore(tempfile.mkdtemp()), "00" * 16) is None
    True
    """
    manifest = store.read_manifest(key)
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
            "run prepare (set prepare.enable: true); it makes only what is missing"
        )
    return prepared


class PreparedReader:
    """Reads batches of prepared samples, turned to their views, with their targets.

    Parameters
    ----------
    task : Task
        Encodes targets.
    store : FeatureStore
        Holds the records.
    prepared : sequence of PreparedItem
        What tickets count through, item by item.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> reader = PreparedReader(task, store, prepared)
    >>> batch = reader.read([Ticket(0), Ticket(1)])
    >>> len(batch), batch.arrays["image"].shape, len(batch.feature_maps)
    (2, torch.Size([2, 3, 32, 32]), 2)
    """

    def __init__(self, task: Task, store: FeatureStore, prepared: Sequence[PreparedItem]):
        self.task = task
        self.store = store
        self.owners = [item.item for item in prepared for _ in item.entries]
        self.entries = [entry for item in prepared for entry in item.entries]
        self.dataset = PrecomputedDataset(store, [_stored_entry(entry) for entry in self.entries], use_features=False)
        self.features = PrecomputedDataset(store, [_stored_entry(entry) for entry in self.entries])
        self.task_turns = (
            type(task.source).transform is not Source.transform
        )  # it knows more than pictures, such as points
        self.generator_seed = task.settings.resources.seed

    def read(self, tickets: Sequence[Ticket], progress: Progress | None = None) -> Batch:
        """Read one batch; an empty one keeps the shapes of a full one.

        Parameters
        ----------
        tickets : sequence of Ticket
            Samples of the batch.
        progress : Progress, optional
            When given, targets are encoded, and online samples are varied.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> len(reader.read([])), reader.read([]).arrays["image"].shape
        (0, torch.Size([0, 3, 32, 32]))
        """
        wanted = list(tickets) or [Ticket(0)]
        online = progress is not None and self.task.settings.train.features == "online"
        batch = self._read_online(wanted, progress) if online and progress else self._read_cached(wanted)
        if progress is not None:
            targets = [self.task.objective.encode(sample, progress) for sample in self.samples(batch)]
            batch = self.task.objective.collate(batch, targets)
        return batch if tickets else _emptied(batch)

    def _read_cached(self, tickets: Sequence[Ticket]) -> Batch:
        """Read records as they are stored.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> reader._read_cached([Ticket(1)]).samples[0].view.name
        'identity'
        """
        views = [ticket.view for ticket in tickets]
        varied = any(isinstance(laid_down_as(view), Variation) for view in views)
        if varied or (self.task_turns and set(views) != {IDENTITY.name}):
            arrays, maps = stack_samples(self._turned(tickets)).arrays, self._maps(tickets)
        else:
            dataset = self.features if self._has_maps(tickets) else self.dataset
            read = dataset.read(list(zip([ticket.position for ticket in tickets], views, strict=True)))
            arrays = {name: array for name, array in read.items() if isinstance(array, Tensor)}
            maps = read["feature_maps"] or None
        arrays.update(self._other_records(tickets))
        return Batch([self._bare_sample(ticket) for ticket in tickets], arrays, maps)

    def _has_maps(self, tickets: Sequence[Ticket]) -> bool:
        """Whether features of all of these samples and views are stored.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> reader._has_maps([Ticket(1)]), reader._has_maps([Ticket(1, "hflip")])
        (True, False)
        """
        return all(BACKBONE in self.entries[ticket.position].records.get(ticket.view, {}) for ticket in tickets)

    def _maps(self, tickets: Sequence[Ticket]) -> list[Tensor] | None:
        """Read the feature maps of samples in their views; None where they are not stored.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> [tuple(feature_map.shape) for feature_map in reader._maps([Ticket(1)])]
        [(1, 8, 8, 8), (1, 8, 8, 8)]
        """
        if not self._has_maps(tickets):
            return None
        keys = [self.entries[ticket.position].records[ticket.view][BACKBONE] for ticket in tickets]
        return list(self.store.read_batch(keys, map_names(self.store.describe(keys[0]))).values())

    def _turned(self, tickets: Sequence[Ticket]) -> list[Sample]:
        """Read samples as they are stored, and let the task turn each to its view: also points and vectors.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> [plain], [turned] = reader._turned([Ticket(1)]), reader._turned([Ticket(1, "hflip")])
        >>> bool((plain.arrays["image"][:, ::-1] == turned.arrays["image"]).all())
        True
        """
        read = self.dataset.read([(ticket.position, IDENTITY.name) for ticket in tickets])
        arrays = {name: array for name, array in read.items() if isinstance(array, Tensor)}
        plain = Batch([self._bare_sample(Ticket(ticket.position)) for ticket in tickets], arrays)
        views = [laid_down_as(ticket.view) for ticket in tickets]
        return [
            self.task.source.apply_view(sample, view) for sample, view in zip(self.samples(plain), views, strict=True)
        ]

    def _other_records(self, tickets: Sequence[Ticket]) -> dict[str, Tensor]:
        """Read the records of producers other than the backbone, named producer_array.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> PreparedReader(*prepared_example(tempfile.mkdtemp()))._other_records([Ticket(0)])
        {}
        """
        first = self.entries[tickets[0].position].records.get(tickets[0].view, {})
        arrays = {}
        for producer in sorted(set(first) - {BACKBONE}):
            keys = [self.entries[ticket.position].records[ticket.view][producer] for ticket in tickets]
            for name, array in self.store.read_batch(keys).items():
                arrays[f"{producer}_{name}"] = array
        return arrays

    def _read_online(self, tickets: Sequence[Ticket], progress: Progress) -> Batch:
        """Read stored pictures, turn and vary each, and leave the features to the model.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> reader._read_online([Ticket(1)], Progress()).feature_maps is None
        True
        """
        varied = []
        others = self._other_records(tickets)
        for index, (sample, ticket) in enumerate(zip(self._turned(tickets), tickets, strict=True)):
            size = picture_size(sample.arrays)
            own = {name: channels_last(array[index], size) for name, array in others.items()}
            generator = np.random.default_rng([self.generator_seed, progress.epoch, ticket.position])
            varied.append(self.task.source.augment(sample.with_arrays({**sample.arrays, **own}), generator))
        return stack_samples(varied)

    def _bare_sample(self, ticket: Ticket) -> Sample:
        """Name a sample of a batch, without its arrays.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> PreparedReader(*prepared_example(tempfile.mkdtemp()))._bare_sample(Ticket(0)).arrays
        {}
        """
        entry = self.entries[ticket.position]
        window = Window(*entry.window) if entry.window else None
        view = laid_down_as(ticket.view)
        sample = Sample(entry.sample_id, self.owners[ticket.position], {}, window)
        return replace(sample, view=view) if isinstance(view, View) else sample

    def samples(self, batch: Batch) -> list[Sample]:
        """Give the samples of a batch with their arrays, pictures as (H, W, C) again.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
        >>> [sample] = reader.samples(reader.read([Ticket(0)]))
        >>> sample.arrays["image"].shape, sample.arrays["label"].shape
        ((32, 32, 3), (32, 32))
        """
        reference = batch.arrays.get("image", batch.arrays.get("label"))
        size = None if reference is None else tuple(reference.shape[-2:])
        return [
            sample.with_arrays({name: channels_last(array[index], size) for name, array in batch.arrays.items()})
            for index, sample in enumerate(batch.samples)
        ]


def picture_size(arrays: dict[str, np.ndarray]) -> tuple[int, ...] | None:
    """Height and width of a sample, which its picture tells, or its label; None when it has neither.

    Examples
    --------
    >>> picture_size({"image": np.zeros((4, 6, 3))}), picture_size({"flow": np.zeros((4, 6, 2))})
    ((4, 6), None)
    """
    reference = arrays.get("image", arrays.get("label"))
    return None if reference is None else reference.shape[:2]


def channels_last(array: Tensor, size: tuple[int, ...] | None) -> np.ndarray:
    """Turn (C, H, W) of a picture's size into (H, W, C); other arrays stay as they are.

    Examples
    --------
    >>> channels_last(torch.zeros(3, 4, 6), (4, 6)).shape, channels_last(torch.zeros(8, 2, 3), (4, 6)).shape
    ((4, 6, 3), (8, 2, 3))
    """
    fits = array.ndim == 3 and tuple(array.shape[1:]) == size
    return np.asarray(array.permute(1, 2, 0) if fits else array)


def stack_samples(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one shape into a batch without feature maps; pictures (H, W, C) become (B, C, H, W).

    Examples
    --------
    >>> arrays = {"image": np.zeros((4, 6, 3), np.uint8), "label": np.zeros((4, 6)), "points": np.zeros((1, 5, 2))}
    >>> batch = stack_samples([Sample("a", Item("a", ()), arrays)] * 2)
    >>> [tuple(array.shape) for array in batch.arrays.values()]
    [(2, 3, 4, 6), (2, 4, 6), (2, 1, 5, 2)]
    """
    size = picture_size(samples[0].arrays)
    arrays = {}
    for name, first in samples[0].arrays.items():
        stacked = torch.from_numpy(np.stack([sample.arrays[name] for sample in samples]))
        is_picture = first.ndim == 3 and first.shape[:2] == size
        arrays[name] = stacked.permute(0, 3, 1, 2).contiguous() if is_picture else stacked
    return Batch([replace(sample, arrays={}) for sample in samples], arrays)


def _stored_entry(entry: Entry) -> StoredEntry:
    """Give an entry in the form that the precomputed data set takes.

    Examples
    --------
    >>> _stored_entry(Entry("a", "00", {"identity": {"backbone": "11"}})).features
    {'identity': '11'}
    """
    features = {view: keys[BACKBONE] for view, keys in entry.records.items() if BACKBONE in keys}
    return StoredEntry(entry.sample_id, entry.sample_key, features)


def _emptied(batch: Batch) -> Batch:
    """Drop the samples of a batch and keep its shapes, for a rank without work in a step.

    Examples
    --------
    >>> batch = Batch([], {"image": torch.zeros(1, 3, 4, 6)}, target=torch.zeros(1, 4, 6))
    >>> _emptied(batch).arrays["image"].shape, _emptied(batch).target.shape
    (torch.Size([0, 3, 4, 6]), torch.Size([0, 4, 6]))
    """
    maps = None if batch.feature_maps is None else [feature_map[:0] for feature_map in batch.feature_maps]
    return Batch([], {name: array[:0] for name, array in batch.arrays.items()}, maps, _emptied_target(batch.target))


def _emptied_target(target: Any) -> Any:
    """Drop the samples of a target, whatever it is made of.

    Examples
    --------
    >>> _emptied_target({"heatmaps": torch.zeros(1, 2, 3), "boxes": [torch.zeros(5, 4)]})
    {'heatmaps': tensor([], size=(0, 2, 3)), 'boxes': []}
    """
    if isinstance(target, Tensor | list):
        return target[:0]
    if isinstance(target, dict):
        return {name: _emptied_target(part) for name, part in target.items()}
    return tuple(_emptied_target(part) for part in target) if isinstance(target, tuple) else target


def batched(tickets: Sequence[Ticket], size: int) -> Iterator[Sequence[Ticket]]:
    """Cut a list into runs of at most `size`.

    Examples
    --------
    >>> [list(part) for part in batched([1, 2, 3, 4, 5], 2)]
    [[1, 2], [3, 4], [5]]
    """
    for start in range(0, len(tickets), size):
        yield tickets[start : start + size]
