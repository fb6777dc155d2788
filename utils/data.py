"""Stored samples as a data set: batches of any views, read by position from the store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from utils.errors import DataError
from utils.geometry.augment import IDENTITY, View
from utils.geometry.fields import (
    STANDARD_FIELDS,
    Fields,
    Grid,
    Maps,
    Rows,
    Size,
    apply_view,
    collate,
    kind_of,
    merge_rows,
    split_rows,
)
from utils.store.feature_store import FeatureStore

BACKBONE = "backbone"  # the producer whose maps reach a model as `feature_maps`
_MAP_NAME = re.compile(r"map_(\d+)")


class SampleRef(NamedTuple):
    """One sample of a batch.

    Parameters
    ----------
    position : int
        Where it stands in the entries.
    view : str
        Name of the view, or of the stored variation, to take.
    padded : (int, int), optional
        Height and width of the batch that it belongs to, where samples of several sizes share it.

    Examples
    --------
    >>> SampleRef(3, "hflip").view
    'hflip'
    """

    position: int
    view: str = IDENTITY.name
    padded: Size | None = None


@dataclass(frozen=True)
class Entry:
    """Where the records of one prepared sample are.

    Parameters
    ----------
    sample_id : str
        Name of the sample, for reports and lists.
    sample_key : str
        Record of the sample's arrays, such as `image` uint8 (H, W, C), `label` uint8 (H, W) and `valid` bool (H, W).
    records : dict of str to dict of str to str
        view name -> producer -> record key; the record of the producer `backbone` holds the feature maps `map_0`,
        `map_1`, ... of the picture laid down that way.
    window : list of int, optional
        y, x, height, width.
    facts : dict
        What the task wants to know later without reading, such as pixel counts of the classes.

    Examples
    --------
    >>> entry = Entry("a", "00", {"identity": {"backbone": "11"}, "hflip": {"backbone": "22"}})
    >>> list(entry.record_keys())
    ['00', '11', '22']
    """

    sample_id: str
    sample_key: str
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    window: list[int] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def record_keys(self) -> Iterator[str]:
        """All record keys.

        Examples
        --------
        >>> list(Entry("a", "00").record_keys())
        ['00']
        """
        yield self.sample_key
        for view in self.records.values():
            yield from view.values()


class Loaded(NamedTuple):
    """What was read for a batch.

    Parameters
    ----------
    samples : list of dict
        The fields of each sample, pictures (H, W, C), in its view and without padding.
    arrays : dict of str to Tensor or list of Tensor
        The fields of all samples together, pictures (B, C, H, W).
    sizes : list of (int, int), or None
        Height and width of each sample where pictures were padded.

    Examples
    --------
    >>> Loaded([], {}, None).sizes is None
    True
    """

    samples: list[dict[str, Any]]
    arrays: dict[str, Any]
    sizes: list[Size] | None


Change = Callable[[SampleRef, dict[str, Any]], dict[str, Any]]


class PrecomputedDataset(Dataset[dict[str, Any]]):
    """Samples and feature maps from the store; the one reader of batches.

    An item is asked for by (position, view name). Its fields are laid down in that view as their kinds ask for, which
    is exact; feature maps never are: each view has maps of its own. Samples of several sizes share a batch: pictures
    and maps are padded below and to the right, and `valid` is False there. Maps are padded by cells after they were
    computed, so that what was added to a picture never reaches the backbone.

    Parameters
    ----------
    store : FeatureStore
        Where the records lie.
    entries : sequence of Entry
        The samples, in the order of their positions.
    use_features : bool
        False leaves `feature_maps` empty; then every view can be asked for.
    fields : mapping of str to Values
        Kind of each field of the records; arrays of producers other than the backbone are named producer_array.

    Examples
    --------
    >>> import tempfile, torch
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> with store.writer() as writer:
    ...     writer.put("aa" * 8, {"image": torch.arange(6, dtype=torch.uint8).view(1, 2, 3)})
    ...     writer.put("bb" * 8, {"map_0": torch.ones(4, 1, 1)})
    >>> dataset = PrecomputedDataset(store, [Entry("a", "aa" * 8, {"hflip": {"backbone": "bb" * 8}})])
    >>> item = dataset[0, "hflip"]
    >>> item["image"].tolist(), [maps.shape for maps in item["feature_maps"]]
    ([[[3, 0]], [[4, 1]], [[5, 2]]], [torch.Size([4, 1, 1])])
    """

    def __init__(
        self,
        store: FeatureStore,
        entries: Sequence[Entry],
        use_features: bool = True,
        fields: Fields = STANDARD_FIELDS,
    ):
        self.store = store
        self.entries = list(entries)
        self.use_features = use_features
        self.fields = fields

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, request: tuple[int, str]) -> dict[str, Any]:
        batch = self.read([request])
        item = {name: value[0] for name, value in batch.items() if name != "feature_maps"}
        return {**item, "feature_maps": [maps[0] for maps in batch["feature_maps"]]}

    def read(self, requests: Sequence[tuple[int, str] | SampleRef]) -> dict[str, Any]:
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
            If a record is missing, or a view is not stored.

        Examples
        --------
        >>> import tempfile, torch
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
        refs = [SampleRef(*request) for request in requests]
        loaded = self.load(refs, lambda ref, arrays: apply_view(self.fields, arrays, View.from_name(ref.view)))
        return {
            **loaded.arrays,
            "sample_id": [self.entries[ref.position].sample_id for ref in refs],
            "view": [ref.view for ref in refs],
            "feature_maps": self.read_maps(refs, loaded.sizes) if self.use_features else [],
        }

    def load(self, refs: Sequence[SampleRef], turn: Change, vary: Change | None = None) -> Loaded:
        """Read all fields of samples except the backbone's maps.

        Parameters
        ----------
        refs : sequence of SampleRef
            At least one.
        turn : callable
            Lays the stored fields of a sample down in its view.
        vary : callable, optional
            Changes all fields of a sample further, those of producers with them.

        Each has shape (B, C, h, w).

        Examples
        --------
        >>> import tempfile, torch
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("aa" * 8, {"label": torch.eye(4, 5)})
        >>> loaded = PrecomputedDataset(store, [Entry("a", "aa" * 8)]).load([SampleRef(0)], lambda ref, arrays: arrays)
        >>> loaded.samples[0]["label"].shape, loaded.arrays["label"].shape, loaded.sizes
        ((4, 5), torch.Size([1, 4, 5]), None)
        """
        keys = [self.entries[ref.position].sample_key for ref in refs]
        names = [name for name in self.store.describe(keys[0]) if not _MAP_NAME.fullmatch(name)]
        rows = self._read_rows(keys, names)
        if any(ref.view != IDENTITY.name for ref in refs):
            rows = self._change(refs, rows, turn)
        rows |= self._read_producers(refs)
        if vary is not None:
            rows = self._change(refs, rows, vary)
        arrays, sizes = collate(self.fields, rows, refs[0].padded, self.store.reader.memory)
        return Loaded(list(split_rows(self.fields, rows)), arrays, sizes)

    def _change(self, refs: Sequence[SampleRef], rows: dict[str, Rows], change: Change) -> dict[str, Rows]:
        """Change the fields of each sample.

        Examples
        --------
        >>> dataset = PrecomputedDataset(None, [])
        >>> dataset._change([SampleRef(7)], {"label": [3]}, lambda ref, arrays: {"label": ref.position})
        {'label': [7]}
        """
        samples = zip(refs, split_rows(self.fields, rows), strict=True)
        return merge_rows([change(ref, arrays) for ref, arrays in samples])

    def _read_rows(self, keys: Sequence[str], names: Sequence[str]) -> dict[str, Rows]:
        """Read arrays of records: those of one shape straight into one tensor, others into a list.

        Raises
        ------
        DataError
            If a record lacks an array, or the types differ.

        Examples
        --------
        >>> import tempfile, torch
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     for count in range(2):
        ...         writer.put(f"{count:08x}", {"image": torch.zeros(2, 3, 3), "boxes": torch.ones(count, 4)})
        >>> rows = PrecomputedDataset(store, [])._read_rows(["00000000", "00000001"], ["image", "boxes"])
        >>> rows["image"].shape, [tuple(boxes.shape) for boxes in rows["boxes"]]
        (torch.Size([2, 2, 3, 3]), [(0, 4), (1, 4)])
        """
        layouts = [self.store.describe(key) for key in keys]
        mixed = [name for name in names if any(layout.get(name) != layouts[0][name] for layout in layouts)]
        for name in mixed:
            for key, layout in zip(keys, layouts, strict=True):
                if name not in layout or layout[name][1] != layouts[0][name][1]:
                    raise DataError(
                        f"{self.store.folder}: records {keys[0]} and {key} cannot share a batch: {name!r} is "
                        f"{layouts[0][name]} and {layout.get(name, 'absent')}; run prepare again"
                    )
        equal = [name for name in names if name not in mixed]
        stacked = self.store.read_batch(keys, equal) if equal else {}
        single = [self.store.read_batch([key], mixed) for key in keys] if mixed else []
        return {name: stacked[name] if name in stacked else [record[name][0] for record in single] for name in names}

    def _read_producers(self, refs: Sequence[SampleRef]) -> dict[str, Rows]:
        """Read the records of producers other than the backbone, named producer_array.

        Examples
        --------
        >>> import tempfile, torch
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("bb" * 8, {"flow": torch.ones(1, 2)})
        >>> entry = Entry("a", "aa" * 8, {"identity": {"motion": "bb" * 8}})
        >>> list(PrecomputedDataset(store, [entry])._read_producers([SampleRef(0)]))
        ['motion_flow']
        """
        rows: dict[str, Rows] = {}
        for producer in sorted(set(self._records(refs[0])) - {BACKBONE}):
            keys = [self._records(ref)[producer] for ref in refs]
            for name, values in self._read_rows(keys, list(self.store.describe(keys[0]))).items():
                rows[f"{producer}_{name}"] = values
        return rows

    def _records(self, ref: SampleRef) -> dict[str, str]:
        """Records of a sample in its view: producer -> key.

        Examples
        --------
        >>> PrecomputedDataset(None, [Entry("a", "00")])._records(SampleRef(0))
        {}
        """
        return self.entries[ref.position].records.get(ref.view, {})

    def has_maps(self, refs: Sequence[SampleRef]) -> bool:
        """Whether the backbone's maps of all of these samples and views are stored.

        Examples
        --------
        >>> dataset = PrecomputedDataset(None, [Entry("a", "00", {"identity": {"backbone": "11"}})])
        >>> dataset.has_maps([SampleRef(0)]), dataset.has_maps([SampleRef(0, "hflip")])
        (True, False)
        """
        return all(BACKBONE in self._records(ref) for ref in refs)

    def read_maps(self, refs: Sequence[SampleRef], sizes: Sequence[Size] | None = None, cell: int = 1) -> list[Tensor]:
        """Read the backbone's maps of samples in their views, in the order of their numbers.

        Parameters
        ----------
        refs : sequence of SampleRef
            At least one.
        sizes : sequence of (int, int), optional
            Height and width of each picture where they are padded to one size.
        cell : int
            Pixels per side of the largest cell; needed where pictures are padded.

        Returns
        -------
        list of Tensor, shape (B, C_i, h_i, w_i)
            On the grid of the padded pictures.

        Raises
        ------
        DataError
            If a view is not stored: maps of another view cannot stand in for it.

        Examples
        --------
        >>> import tempfile, torch
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("bb" * 8, {f"map_{index}": torch.full((2,), index) for index in (10, 9)})
        >>> entry = Entry("a", "aa" * 8, {"identity": {"backbone": "bb" * 8}})
        >>> PrecomputedDataset(store, [entry]).read_maps([SampleRef(0)])[0].tolist()
        [[9, 9]]
        >>> PrecomputedDataset(store, [entry]).read_maps([SampleRef(0, "rot90")])
        Traceback (most recent call last):
            ...
        utils.errors.DataError: sample a: no features of view 'rot90' are stored; stored: identity
        """
        for ref in refs:
            if BACKBONE not in self._records(ref):
                entry = self.entries[ref.position]
                stored = ", ".join(entry.records) or "none"
                raise DataError(
                    f"sample {entry.sample_id}: no features of view {ref.view!r} are stored; stored: {stored}"
                )
        keys = [self._records(ref)[BACKBONE] for ref in refs]
        rows = self._read_rows(keys, map_names(self.store.describe(keys[0])))
        kind = Maps(cell=cell)
        if sizes is not None:
            padded = refs[0].padded or (max(height for height, _ in sizes), max(width for _, width in sizes))
            rows = {
                name: [kind.pad(value, size, padded) for value, size in zip(values, sizes, strict=True)]
                for name, values in rows.items()
            }
        return [kind.stack(values, self.store.reader.memory) for values in rows.values()]  # type: ignore[misc]

    def stored_size(self, position: int) -> Size | None:
        """Height and width of a sample as it is stored, without reading it; None where it has no picture.

        Examples
        --------
        >>> import tempfile, torch
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("aa" * 8, {"label": torch.zeros(4, 5)})
        >>> PrecomputedDataset(store, [Entry("a", "aa" * 8)]).stored_size(0)
        (4, 5)
        """
        for name, (shape, _) in self.store.describe(self.entries[position].sample_key).items():
            if not _MAP_NAME.fullmatch(name) and isinstance(kind_of(self.fields, name), Grid):
                return shape[0], shape[1]
        return None

    def _empty(self) -> dict[str, Any]:
        """A batch of no samples whose arrays have the shapes and types of the first sample.

        Raises
        ------
        DataError
            When the data set has no samples.

        Examples
        --------
        >>> import tempfile, torch
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
        batch = self.read([(0, next(iter(self.entries[0].records), IDENTITY.name))])
        maps = [stacked[:0] for stacked in batch.pop("feature_maps")]
        return {**{name: value[:0] for name, value in batch.items()}, "feature_maps": maps}


def map_names(names: Iterable[str]) -> list[str]:
    """The feature maps among the arrays of a record, in the order of their numbers.

    Examples
    --------
    >>> map_names(["map_10", "image", "map_9", "map_x"])
    ['map_9', 'map_10']
    """
    numbers = {name: int(match[1]) for name in names if (match := _MAP_NAME.fullmatch(name))}
    return sorted(numbers, key=numbers.__getitem__)
