"""Stored samples as a data set: batches of any views, read by position from the store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.augment import View
from utils.errors import DataError
from utils.feature_store import FeatureStore

Memory = Callable[[Sequence[int], torch.dtype], Tensor]

_MAP_NAME = re.compile(r"map_(\d+)")


@dataclass(frozen=True)
class Entry:
    """Where one sample lies in the store.

    Parameters
    ----------
    sample_id : str
        Name of the sample, for reports and lists.
    sample_key : str
        Record with `image` uint8 (H, W, C), `label` uint8 (H, W), `valid` bool (H, W) and any other arrays.
    features : dict of str to str
        View name -> record with the feature maps `map_0`, `map_1`, ... of the picture laid down that way.

    Examples
    --------
    >>> Entry("scene_y0_x512", "00ff00ff", {"identity": "11ee11ee"}).features["identity"]
    '11ee11ee'
    """

    sample_id: str
    sample_key: str
    features: dict[str, str] = field(default_factory=dict)


class PrecomputedDataset(Dataset[dict[str, Any]]):
    """Samples and feature maps from the store.

    An item is asked for by (position, view name). Pictures, labels and everything else that has the picture's height
    and width is laid down in that view, which is exact; feature maps never are: each view has maps of its own.

    Parameters
    ----------
    store : FeatureStore
        Where the records lie.
    entries : sequence of Entry
        The samples, in the order of their positions.
    use_features : bool
        False leaves `feature_maps` empty; then every view can be asked for.

    Examples
    --------
    >>> import tempfile
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> with store.writer() as writer:
    ...     writer.put("aa" * 8, {"image": torch.arange(6, dtype=torch.uint8).view(1, 2, 3)})
    ...     writer.put("bb" * 8, {"map_0": torch.ones(4, 1, 1)})
    >>> dataset = PrecomputedDataset(store, [Entry("a", "aa" * 8, {"hflip": "bb" * 8})])
    >>> item = dataset[0, "hflip"]
    >>> item["image"].tolist(), [maps.shape for maps in item["feature_maps"]]
    ([[[3, 0]], [[4, 1]], [[5, 2]]], [torch.Size([4, 1, 1])])
    """

    def __init__(self, store: FeatureStore, entries: Sequence[Entry], use_features: bool = True):
        self.store = store
        self.entries = list(entries)
        self.use_features = use_features

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, request: tuple[int, str]) -> dict[str, Any]:
        batch = self.read([request])
        item = {name: value[0] for name, value in batch.items() if name != "feature_maps"}
        return {**item, "feature_maps": [maps[0] for maps in batch["feature_maps"]]}

    def read(self, requests: Sequence[tuple[int, str]]) -> dict[str, Any]:
        """Read a batch, every array straight into its place.

        Parameters
        ----------
        requests : sequence of (int, str)
            Position and view name of each of the B samples. None at all gives arrays with no rows, for a rank that
            has nothing to do.

        Returns
        -------
        dict
            `image` uint8 (B, C, H, W), `label` (B, H, W), `valid` (B, H, W) and other arrays of the records by their
            names; `feature_maps`, a list of Tensor (B, C_i, h_i, w_i); `sample_id` and `view`, lists of str.

        Raises
        ------
        DataError
            If a record is missing, a view is not stored, or the samples' shapes differ.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("aa" * 8, {"image": torch.zeros(4, 5, 3), "label": torch.eye(4, 5)})
        >>> dataset = PrecomputedDataset(store, [Entry("a", "aa" * 8)], use_features=False)
        >>> batch = dataset.read([(0, "identity"), (0, "rot180")])
        >>> batch["image"].shape, batch["label"][1, -1].tolist(), batch["view"]
        (torch.Size([2, 3, 4, 5]), [0.0, 0.0, 0.0, 0.0, 1.0], ['identity', 'rot180'])
        """
        if not requests:
            return self._empty()
        entries = [self.entries[position] for position, _ in requests]
        views = [View.from_name(name) for _, name in requests]
        keys = [entry.sample_key for entry in entries]
        names = [name for name in self.store.describe(keys[0]) if not _MAP_NAME.fullmatch(name)]
        arrays = lay_down(self.store.read_batch(keys, names), views, self.store.memory)
        arrays["sample_id"] = [entry.sample_id for entry in entries]
        arrays["view"] = [name for _, name in requests]
        return {**arrays, "feature_maps": self._read_maps(entries, arrays["view"])}

    def _read_maps(self, entries: Sequence[Entry], view_names: Sequence[str]) -> list[Tensor]:
        """Feature maps of a batch, in the order of their numbers.

        Each has shape (B, C, h, w).

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("bb" * 8, {f"map_{index}": torch.full((2,), index) for index in (10, 9)})
        >>> entry = Entry("a", "aa" * 8, {"identity": "bb" * 8})
        >>> PrecomputedDataset(store, [entry])._read_maps([entry], ["identity"])[0].tolist()
        [[9, 9]]
        """
        if not self.use_features:
            return []
        keys = [feature_key(entry, view_name) for entry, view_name in zip(entries, view_names, strict=True)]
        names = map_names(self.store.describe(keys[0]))
        return list(self.store.read_batch(keys, names).values())

    def _empty(self) -> dict[str, Any]:
        """A batch of no samples whose arrays have the shapes and types of the first sample.

        Raises
        ------
        DataError
            When the data set has no samples.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("aa" * 8, {"image": torch.zeros(4, 5, 3)})
        >>> PrecomputedDataset(store, [Entry("a", "aa" * 8)], use_features=False).read([])["image"].shape
        torch.Size([0, 3, 4, 5])
        """
        if not self.entries:
            raise DataError(
                f"{self.store.folder}: the data set has no samples, so that even an empty batch has no shape"
            )
        entry = self.entries[0]
        view_name = next(iter(entry.features), "identity")
        batch = self.read([(0, view_name)])
        maps = [stacked[:0] for stacked in batch.pop("feature_maps")]
        return {**{name: value[:0] for name, value in batch.items()}, "feature_maps": maps}


def feature_key(entry: Entry, view_name: str) -> str:
    """The record that holds the feature maps of a sample in a view.

    Raises
    ------
    DataError
        If that view is not stored: maps of another view cannot stand in for it.

    Examples
    --------
    >>> feature_key(Entry("a", "00", {"identity": "11", "hflip": "22"}), "rot90")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: sample a: no features of view 'rot90' are stored; stored: identity, hflip
    """
    if view_name not in entry.features:
        stored = ", ".join(entry.features) or "none"
        raise DataError(f"sample {entry.sample_id}: no features of view {view_name!r} are stored; stored: {stored}")
    return entry.features[view_name]


def map_names(names: Iterable[str]) -> list[str]:
    """The feature maps among the arrays of a record, in the order of their numbers.

    Examples
    --------
    >>> map_names(["map_10", "image", "map_9", "map_x"])
    ['map_9', 'map_10']
    """
    numbers = {name: int(match[1]) for name in names if (match := _MAP_NAME.fullmatch(name))}
    return sorted(numbers, key=numbers.__getitem__)


def allocate(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Fresh memory; `FeatureStore.memory` gives used memory, which is faster.

    Examples
    --------
    >>> allocate((2, 3), torch.uint8).shape
    torch.Size([2, 3])
    """
    return torch.empty(tuple(shape), dtype=dtype)


def lay_down(arrays: Mapping[str, Tensor], views: Sequence[View], memory: Memory = allocate) -> dict[str, Any]:
    """Lay down everything that has the picture's height and width, each sample in its view, channels first.

    Parameters
    ----------
    arrays : mapping of str to Tensor
        `image` (B, H, W, C) or at least `label` (B, H, W), which tell H and W; others, such as an elevation
        (B, H, W, 1), follow them. What has another shape stays as it is.
    views : sequence of View
        One per sample.
    memory : callable
        Gives a tensor of a shape and type for the results.

    Returns
    -------
    dict of str to Tensor
        (B, H, W) stays so, (B, H, W, C) becomes (B, C, H, W).

    Raises
    ------
    DataError
        If quarter turns of pictures that are not square should share a batch with unturned ones.

    Examples
    --------
    >>> arrays = {"image": torch.arange(6).view(1, 1, 2, 3), "bounds": torch.tensor([[7.0, 8.0]])}
    >>> laid = lay_down(arrays, [View(False, 1)])
    >>> laid["image"].tolist(), laid["bounds"].tolist()
    ([[[[3], [0]], [[4], [1]], [[5], [2]]]], [[7.0, 8.0]])
    """
    reference = arrays.get("image", arrays.get("label"))
    if reference is None:
        return dict(arrays)
    height, width = reference.shape[1:3]
    if height != width and len({view.quarter_turns % 2 for view in views}) > 1:
        raise DataError(
            f"pictures of {height} x {width} pixels cannot share a batch with quarter turns of themselves: use square "
            "windows, views without quarter turns, or batches of one"
        )
    return {
        name: _lay_down_one(array, views, memory)
        if array.ndim in (3, 4) and array.shape[1:3] == (height, width)
        else array
        for name, array in arrays.items()
    }


def _lay_down_one(array: Tensor, views: Sequence[View], memory: Memory = allocate) -> Tensor:
    """Lay down a stack (B, H, W) or (B, H, W, C), channels first.

    Examples
    --------
    >>> _lay_down_one(torch.tensor([[[1, 2]], [[1, 2]]]), [View(False, 0), View(True, 0)]).tolist()
    [[[1, 2]], [[2, 1]]]
    """
    planes = array if array.ndim == 3 else _channels_first(array, memory)
    if all(view == View(False, 0) for view in views):
        return planes
    height, width = planes.shape[-2:]
    turned = (width, height) if views[0].quarter_turns % 2 else (height, width)
    result = memory((*planes.shape[:-2], *turned), planes.dtype)
    for target, view, source in zip(result, views, planes, strict=True):
        target.copy_(view.apply(source))
    return result


def _channels_first(array: Tensor, memory: Memory = allocate) -> Tensor:
    """Reorder a stack (B, H, W, C) to (B, C, H, W).

    Examples
    --------
    >>> _channels_first(torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)).tolist()
    [[[[0, 3]], [[1, 4]], [[2, 5]]]]
    """
    planes = memory((array.shape[0], array.shape[3], *array.shape[1:3]), array.dtype)
    if array.dtype != torch.uint8:
        return planes.copy_(array.permute(0, 3, 1, 2))
    for target, source in zip(planes.numpy(), array.numpy(), strict=True):
        cv2.split(source, list(target))  # seven times as fast as a strided copy
    return planes
