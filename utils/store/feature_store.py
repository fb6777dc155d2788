"""A content-addressed store of arrays in safetensors shards that are read by position and know when they are damaged.

On disk
-------
``store.json``
    The format's name and version.
``shards/<random>.safetensors``
    Records, each a group of tensors ``<key>/<name>``. The bytes of a record lie together and begin at a multiple of
    64, so that one ``preadv`` fills all its places in a batch at the speed of memcpy. ``__metadata__`` holds a
    checksum of the header, and per record a checksum of its bytes and what its maker wrote about it.
``aside/<file>[@<key>].json``
    Why a shard, or one record of it, is not used any more.
``manifests/<key>.json``
    Small JSON documents with a checksum.

A shard is complete or absent: it is written to a temporary file, flushed to disk and renamed, and never changed after.
Names are random, so any number of processes write at once; when two store the same key, the first one found is used.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import DataError
from utils.runtime.files import digest_json, format_bytes, read_json, write_bytes, write_json
from utils.runtime.threads import map_in_threads
from utils.store.buffers import ProcessState
from utils.store.encoding import multiply_scales
from utils.store.index import StoreIndex
from utils.store.shards import (
    DTYPES,
    FORMAT,
    SCALE_SUFFIX,
    VERSION,
    Field,
    Record,
    ShardError,
    check_key,
    compute_checksum,
    decode_array,
    decoded_type,
    plan_reads,
    read_all,
    read_shard,
    remove_leftover,
    select_fields,
    select_public,
    show_field,
)
from utils.store.writer import StoreWriter


def record_key(**parts: Any) -> str:
    """Name a record by what it was made from: any part that changes gives another key.

    Parameters
    ----------
    **parts : JSON values
        Digest of the pixels, digest of the weights, blocks, view and so on.

    Returns
    -------
    str
        32 hexadecimal digits; the store's format version is part of them.

    Raises
    ------
    ValueError
        If a part is no JSON value: its text could hide a difference.

    Examples
    --------
    >>> record_key(image="ab", view="hflip") == record_key(view="hflip", image="ab")
    True
    >>> record_key(image="ab", layers=[1]) == record_key(image="ab", layers=["1"])
    False
    >>> record_key(image=torch.zeros(1))
    Traceback (most recent call last):
        ...
    ValueError: part 'image' of a record's key must be a JSON value, got Tensor
    """
    for name, value in parts.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            found = value if isinstance(value, float) else type(value).__name__
            raise ValueError(f"part {name!r} of a record's key must be a JSON value, got {found}") from None
    return digest_json({"store_version": VERSION, "parts": parts})


@dataclass(frozen=True)
class Problem:
    """Something that `FeatureStore.verify` found.

    Parameters
    ----------
    kind : str
        "truncated", "oversized", "header", "foreign", "checksum", "missing" or "manifest".
    message : str
        Where, what was expected and what is there.
    file : str
        The file, relative to the store; empty when a record is missing.
    key : str
        The record; empty when the whole file is meant.

    Examples
    --------
    >>> Problem("checksum", "shards/a.safetensors, record 00ff: ...", "shards/a.safetensors", "00ff").subject
    '00ff'
    """

    kind: str
    message: str
    file: str = ""
    key: str = ""

    @property
    def subject(self) -> str:
        """What to hand to `FeatureStore.set_aside`: the record's key, else the file.

        Examples
        --------
        >>> Problem("truncated", "...", "shards/a.safetensors").subject
        'shards/a.safetensors'
        """
        return self.key or self.file


@dataclass(frozen=True)
class Plan:
    """What a number of records will take, and what there is.

    Parameters
    ----------
    records : int
        How many will be written.
    bytes : int
        What they take, headers and padding included.
    free_bytes : int
        What the disk has free for this user.
    folder : str
        Where the store lies.

    Examples
    --------
    >>> str(Plan(100, 420_000_000, 2_000_000_000, "store"))
    'store: 100 records, 420.0 MB; 2.0 GB free'
    """

    records: int
    bytes: int
    free_bytes: int
    folder: str = "."

    def __str__(self) -> str:
        free = format_bytes(self.free_bytes)
        return f"{self.folder}: {self.records:,} records, {format_bytes(self.bytes)}; {free} free"

    def refuse_if_full(self, keep_free_bytes: int = 256 << 20) -> None:
        """Raise when the records would not fit.

        Parameters
        ----------
        keep_free_bytes : int
            What must be left for everything else on the disk.

        Raises
        ------
        DataError
            With what is needed, what is free and what to change.

        Examples
        --------
        >>> Plan(1000, 9 * 10**9, 10**9, "store").refuse_if_full(0)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: store: 1,000 records need 9.0 GB, free are 1.0 GB (0 B of them kept ... int8 ...
        """
        if not self.records or self.bytes + keep_free_bytes <= self.free_bytes:
            return
        raise DataError(
            f"{self.folder}: {self.records:,} records need {format_bytes(self.bytes)}, free are "
            f"{format_bytes(self.free_bytes)} ({format_bytes(keep_free_bytes)} of them kept free); name another disk "
            "(paths.processed_dir), store fewer views (dataset.augmentations.stored_views), fewer blocks "
            "(model.layers) or int8 (prepare.store_dtype), or compute features online (train.features)"
        )


class FeatureStore:
    """Records of arrays by content key, on disk.

    Parameters
    ----------
    folder : str or Path
        Where the store lies.
    create : bool
        Make it when it is not there, and remove what dead writers left behind; otherwise a missing store is an error
        and nothing is changed by opening.
    threads : int
        Reads at a time of one `read_batch`. One is best for warm data; a few help slow or distant disks.
    open_files : int
        Shards held open at most.

    Raises
    ------
    DataError
        If there is no store and `create` is false, or its format is of another version.

    Notes
    -----
    Reading is safe from several threads, after a fork, and from worker processes that got the store by pickling.

    Examples
    --------
    >>> import tempfile
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> key = record_key(image="00ff", view="identity")
    >>> with store.writer() as writer:
    ...     writer.put(key, {"image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3)}, {"view": "identity"})
    >>> store.read(key)["image"].tolist(), store.metadata(key)
    ([[[0, 1, 2], [3, 4, 5]]], {'view': 'identity'})
    """

    def __init__(self, folder: str | Path, create: bool = True, threads: int = 1, open_files: int = 128):
        self.folder = Path(folder)
        self.threads = threads
        self.open_files = open_files
        self._state = ProcessState(self._shards, open_files, threads)
        self._index = StoreIndex(self._shards, frozenset())
        self._check_version(create)
        if create:
            for path in self._shards.glob(".*.partial"):  # of writers that are dead
                remove_leftover(path)
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_state"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = ProcessState(self._shards, self.open_files, self.threads)

    def __len__(self) -> int:
        return len(self._index.records)

    def __contains__(self, key: str) -> bool:
        return key in self._index.records

    # -- folder and index

    @property
    def _shards(self) -> Path:
        """The folder of the shards.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp())._shards.name
        'shards'
        """
        return self.folder / "shards"

    @property
    def _process(self) -> ProcessState:
        """Locks, files and memory of this process; a forked child gets its own.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp())._process.pid == os.getpid()
        True
        """
        if self._state.pid != os.getpid():
            self._state = ProcessState(self._shards, self.open_files, self.threads)
        return self._state

    def _check_version(self, create: bool) -> None:
        """Make the folder, or see that it is a store of this version.

        Raises
        ------
        DataError
            When there is no store and none is to be made, or it is damaged or of another version.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_json(folder / "store.json", {"format": "dinolith-features", "version": 99})
        >>> FeatureStore(folder)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../store.json: expected format dinolith-features, version 1, got ...version 99; use ...
        """
        path = self.folder / "store.json"
        if not path.exists():
            if not create:
                raise DataError(f"{self.folder}: no feature store there; run the prepare phase first")
            write_json(path, {"format": FORMAT, "version": VERSION})
        if create:
            self._shards.mkdir(exist_ok=True)
        try:
            found = read_json(path)
            name, version = found["format"], found["version"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: damaged; expected the JSON of a feature store; remove the file") from None
        if (name, version) != (FORMAT, VERSION):
            raise DataError(
                f"{path}: expected format {FORMAT}, version {VERSION}, got {name}, version {version}; "
                "use another folder, or the program that wrote this one"
            )

    def _shard_names(self) -> list[str]:
        """What lies in `shards/`, without temporary files, in order.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp())._shard_names()
        []
        """
        names = os.listdir(self._shards) if self._shards.exists() else []
        return sorted(name for name in names if not name.endswith(".partial"))

    def refresh(self) -> int:
        """Take in what other processes stored or set aside since.

        Returns
        -------
        int
            How many records the store has now.

        Examples
        --------
        >>> import tempfile
        >>> mine = FeatureStore(tempfile.mkdtemp())
        >>> other = FeatureStore(mine.folder)
        >>> with other.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(3)})
        >>> len(mine), mine.refresh()
        (0, 1)
        """
        with self._process.lock:
            aside = self.folder / "aside"
            markers = frozenset(os.listdir(aside)) if aside.exists() else frozenset()
            names = self._shard_names()
            index = self._index.exclude(markers)
            if not markers >= self._index.aside or not index.sizes.keys() <= set(names):
                index = StoreIndex(
                    self._shards, markers
                )  # a note or a shard is gone: begin again, readers keep the old
            for name in names:
                index.load(name)
            self._index = index
        return len(self)

    # -- questions

    def has(self, key: str) -> bool:
        """Whether a record is there, as far as this process knows (`refresh` brings it up to date).

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp()).has("00ff00ff")
        False
        """
        return key in self._index.records

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that are not there, each once, in their order.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp()).missing(["bb", "aa", "bb"])
        ['bb', 'aa']
        """
        return [key for key in dict.fromkeys(keys) if key not in self._index.records]

    def keys(self) -> list[str]:
        """All keys, in the order in which they were found.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp()).keys()
        []
        """
        return list(self._index.records)

    def metadata(self, key: str) -> dict[str, Any]:
        """What the maker of a record wrote about it.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(3)}, {"mean": [0.5]})
        >>> store.metadata("ab" * 8)
        {'mean': [0.5]}
        """
        return json.loads(self._record(key).description)["metadata"]

    def describe(self, key: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and types of a record's arrays, as they are read.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.encoding import encode_features
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"map_0": encode_features(torch.ones(2, 1, 3), "int8")})
        >>> store.describe("ab" * 8)
        {'map_0': ((2, 1, 3), torch.float32)}
        """
        layout = self._record(key).layout
        return {field.name: (field.shape, decoded_type(layout, field)) for field in select_public(layout)}

    def _record(self, key: str) -> Record:
        """Where a record lies.

        Raises
        ------
        DataError
            If it is not there.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp())._record("00ff")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...: no record 00ff among 0; run the prepare phase to make it
        """
        try:
            return self._index.records[key]
        except KeyError:
            message = f"{self.folder}: no record {key} among {len(self)}; run the prepare phase to make it"
            raise DataError(message) from None

    # -- reading

    def read(self, key: str, verify: bool = False) -> dict[str, Tensor]:
        """Read one record.

        Parameters
        ----------
        key : str
            Its name.
        verify : bool
            Also compare its checksum (costs less than reading).

        Returns
        -------
        dict of str to Tensor
            All arrays; int8 feature maps as float32.

        Raises
        ------
        DataError
            If it is not there, is cut off, or `verify` finds changed bits.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"label": np.array([[3, 255]], np.uint8), "map_0": torch.ones(1, 1, 2).half()})
        >>> record = store.read("ab" * 8, verify=True)
        >>> record["label"].tolist(), record["map_0"].dtype
        ([[3, 255]], torch.float16)
        """
        record = self._record(key)
        data = self._read_bytes(record)
        if verify and compute_checksum(data.numpy()) != record.checksum:
            raise DataError(self._describe_damage(record))
        arrays = {}
        for field in record.layout:
            flat = data[field.start : field.stop].view(DTYPES[field.type_name])
            arrays[field.name] = flat.view(field.shape)
        return {field.name: decode_array(arrays, field.name) for field in select_public(record.layout)}

    def _read_bytes(self, record: Record) -> Tensor:
        """The bytes of a record as they lie in the file.

        The tensor has shape (bytes,), uint8.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.full(2, 7, np.uint8)})
        >>> store._read_bytes(store._record("ab" * 8))[:3].tolist()
        [7, 7, 0]
        """
        data = self.memory((record.size,), torch.uint8)
        self._read_into(record, [data.numpy()], 0)
        return data

    def _read_into(self, record: Record, buffers: Sequence[np.ndarray], start: int) -> None:
        """Fill buffers with a record's bytes from `start` on.

        Raises
        ------
        DataError
            When the shard is gone or ends early.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store._read_into(Record("ab", "gone.safetensors", 0, 4, (), ""), [np.zeros(4, np.uint8)], 0)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../shards/gone.safetensors: cannot read record ab (...); run the verify phase
        """
        try:
            descriptor = self._process.files.open(record.shard)
            read_all(descriptor.handle, buffers, record.offset + start)
        except (OSError, EOFError) as error:
            path = self._shards / record.shard
            raise DataError(f"{path}: cannot read record {record.key} ({error}); run the verify phase") from error

    def read_batch(self, keys: Sequence[str], names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Read records of equal shapes straight into stacked tensors.

        Memory is taken from a pool, to which it returns by itself when the tensors are gone.

        Parameters
        ----------
        keys : sequence of str
            B records, in any order, repeats allowed; at least one.
        names : sequence of str, optional
            Which arrays; all by default. Others are not read.

        Returns
        -------
        dict of str to Tensor, shape (B, ...)
            In the order of `names`; int8 feature maps as float32.

        Raises
        ------
        DataError
            If a record is not there or cut off, or the records' shapes or types differ.
        ValueError
            If `keys` is empty or a name is unknown.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     for value in range(3):
        ...         writer.put(f"{value:08x}", {"x": np.full((1, 2), value), "y": np.zeros(5)})
        >>> batch = store.read_batch(["00000002", "00000000"], names=["x"])
        >>> {name: tensor.tolist() for name, tensor in batch.items()}
        {'x': [[[2, 2]], [[0, 0]]]}
        """
        if not keys:
            raise ValueError("read_batch needs at least one key: an empty batch has no shapes")
        records = [self._record(key) for key in keys]
        fields = self._common_fields(records, names)
        arrays = {
            field.name: self.memory((len(keys), *field.shape), DTYPES[field.type_name]) for field in fields.values()
        }
        rows = {name: _byte_rows(array) for name, array in arrays.items()}
        self._fill(records, rows)
        wanted = names if names is not None else [name for name in fields if not name.endswith(SCALE_SUFFIX)]
        return {name: self._decode_batch(arrays, name) for name in wanted}

    def _common_fields(self, records: Sequence[Record], names: Sequence[str] | None) -> dict[str, Field]:
        """The fields to read, after a check that all records have them alike.

        Raises
        ------
        DataError
            When a field is missing in a record, or differs in type or shape.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> narrow = Record("aa", "s", 0, 2, (Field("x", "U8", (2,), 0, 2),), "")
        >>> wide = Record("bb", "s", 0, 3, (Field("x", "U8", (3,), 0, 3),), "")
        >>> store._common_fields([narrow, wide], None)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...: records aa and bb cannot be stacked: 'x' is U8 (2,) and U8 (3,); read ...
        """
        first = records[0]
        fields = select_fields(first.layout, names)
        for record in {id(record.layout): record for record in records}.values():
            others = select_fields(record.layout, names)
            for name in dict.fromkeys([*fields, *others]):
                mine, other = fields.get(name), others.get(name)
                if mine is None or other is None or mine[1:3] != other[1:3]:
                    raise DataError(
                        f"{self.folder}: records {first.key} and {record.key} cannot be stacked: {name!r} is "
                        f"{show_field(mine)} and {show_field(other)}; read them in separate batches "
                        "(batch_size: 1), or store windows of one size"
                    )
        return fields

    def _decode_batch(self, arrays: Mapping[str, Tensor], name: str) -> Tensor:
        """A stacked array as it is handed out: as read, or int8 multiplied with its scales.

        Its shape is (B, ...).

        Examples
        --------
        >>> import tempfile
        >>> values, scales = torch.ones(1, 2, 1, dtype=torch.int8), torch.tensor([[2.0, 3.0]])
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store._decode_batch({"m": values, "m.scale": scales}, "m").tolist()
        [[[2.0], [3.0]]]
        """
        array = arrays[name]
        if name + SCALE_SUFFIX not in arrays:
            return array
        return multiply_scales(array, arrays[name + SCALE_SUFFIX], self.memory(array.shape, torch.float32))

    def _fill(self, records: Sequence[Record], rows: Mapping[str, np.ndarray]) -> None:
        """Read each record into its row of every array, in the order of the disk.

        Each of `rows` has shape (B, bytes), uint8.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.array([5, 6], np.uint8)})
        >>> rows = np.zeros((1, 2), np.uint8)
        >>> store._fill([store._record("ab" * 8)], {"x": rows}), rows.tolist()
        (None, [[5, 6]])
        """
        runs = {id(record.layout): plan_reads(record.layout, rows) for record in records}

        def read_rows(indices: Sequence[int]) -> None:
            for index in indices:
                record = records[index]
                for start, names in runs[id(record.layout)]:
                    self._read_into(record, [rows[name][index] for name in names], start)

        order = sorted(range(len(records)), key=lambda index: (records[index].shard, records[index].offset))
        share = -(-len(order) // self.threads)
        others = [order[start : start + share] for start in range(share, len(order), share)]
        helping = [self._process.helpers.submit(read_rows, part) for part in others]
        try:
            read_rows(order[:share])
        finally:
            wait(helping)  # nobody may write into the rows any more, whatever happened here
        for done in helping:
            done.result()

    def memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of any content for a batch, used again once nothing refers to it; faster than fresh memory.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp()).memory((2, 3), torch.float16).shape
        torch.Size([2, 3])
        """
        return self._process.pool.take(shape, dtype)

    # -- writing

    def writer(self, max_shard_bytes: int = 64 << 20, queue_records: int = 16) -> StoreWriter:
        """A writer with a thread of its own, to be used in a `with` block.

        Parameters
        ----------
        max_shard_bytes : int
            A shard is closed when it would grow beyond this; a larger record gets a shard of its own.
        queue_records : int
            Records that may wait for the disk; `put` blocks beyond.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer(max_shard_bytes=1) as writer:
        ...     writer.put("aa" * 8, {"x": np.zeros(3)})
        ...     writer.put("bb" * 8, {"x": np.zeros(3)})
        >>> len(store), len(os.listdir(store.folder / "shards"))
        (2, 2)
        """
        return StoreWriter(self, max_shard_bytes, queue_records)

    def adopt(self, name: str) -> None:
        """Take a shard that was just written into the index.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.shards import pack_record, write_shard
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> name = write_shard(store.folder / "shards", [pack_record("ab" * 8, {"x": np.zeros(1)}, {})])
        >>> store.adopt(name), store.keys()
        (None, ['abababababababab'])
        """
        with self._process.lock:
            self._index.load(name)

    # -- care

    def verify(
        self, keys: Iterable[str] | None = None, rehash: bool = True, threads: int | None = None
    ) -> Iterator[Problem]:
        """Look for damage.

        Parameters
        ----------
        keys : iterable of str, optional
            Only these records; by default everything in the store, as it is on disk now.
        rehash : bool
            Read every byte and compare checksums; otherwise only sizes and headers are checked.
        threads : int, optional
            Records that are read at the same time; by default as many as the store has threads.

        Yields
        ------
        Problem
            One per damaged record or file; hand its `subject` to `set_aside`.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(64, np.uint8)})
        >>> list(store.verify())
        []
        >>> shard = next((store.folder / "shards").iterdir())
        >>> _ = shard.write_bytes(shard.read_bytes()[:-1] + b"!")
        >>> [(problem.kind, problem.subject) for problem in store.verify()]
        [('checksum', 'abababababababab')]
        """
        self.refresh()
        if keys is None:
            for name in self._shard_names():
                if not self._index.is_aside(name):
                    yield from self._verify_shard(name, rehash, threads)
            yield from self._verify_manifests()
            return
        records = {key: self._index.records.get(key) for key in keys}
        yield from self._verify_records([record for record in records.values() if record], rehash, threads)
        for key in (key for key, record in records.items() if record is None):
            yield Problem("missing", f"{self.folder}: no record {key}; run the prepare phase to make it", key=key)

    def _verify_shard(self, name: str, rehash: bool, threads: int | None = None) -> Iterator[Problem]:
        """Check one file of `shards/`, header first.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> _ = (store.folder / "shards" / "notes.txt").write_text("mine")
        >>> [problem.kind for problem in store._verify_shard("notes.txt", True)]
        ['foreign']
        """
        path = self._shards / name
        file = f"shards/{name}"
        if path.suffix != ".safetensors" or not path.is_file():
            yield Problem("foreign", f"{path}: not a file of this store; move it elsewhere", file)
            return
        try:
            records = read_shard(path)
        except ShardError as error:
            yield Problem(error.kind, f"{path}: {error}; its records will be made again", file)
            return
        yield from self._verify_records(
            [record for record in records if not self._index.is_aside(name, record.key)], rehash, threads
        )

    def _verify_records(self, records: Iterable[Record], rehash: bool, threads: int | None = None) -> Iterator[Problem]:
        """Compare the bytes of records with their checksums.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> list(store._verify_records([Record("ab", "gone.safetensors", 0, 4, (), "")], rehash=True))[0].kind
        'truncated'
        """

        def check(record: Record) -> Problem | None:
            file = f"shards/{record.shard}"
            try:
                intact = compute_checksum(self._read_bytes(record).numpy()) == record.checksum
            except DataError as error:
                return Problem("truncated", str(error), file, record.key)
            return None if intact else Problem("checksum", self._describe_damage(record), file, record.key)

        if rehash:
            checked = map_in_threads(check, records, threads or self.threads)
            yield from (problem for problem in checked if problem is not None)

    def _describe_damage(self, record: Record) -> str:
        """One line for a record whose checksum does not match.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp())._describe_damage(Record("ab", "s", 0, 4, (), ""))
        '.../shards/s: record ab: its checksum does not match, bits have changed; run the verify phase'
        """
        path = self._shards / record.shard
        return f"{path}: record {record.key}: its checksum does not match, bits have changed; run the verify phase"

    def set_aside(self, subject: str, reason: str) -> None:
        """Stop using a record or a file; its bytes stay for inspection, the reason is written to `aside/`.

        All copies of a record are set aside: it is missing until it is put again.

        Parameters
        ----------
        subject : str
            A record's key, or a file as `Problem.subject` names it ("shards/..." or "manifests/...").
        reason : str
            Why, for whoever looks into `aside/`.

        Raises
        ------
        DataError
            If there is no such record or file.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(3)})
        >>> store.set_aside("ab" * 8, "blurred")
        >>> store.has("ab" * 8), [read_json(path)["reason"] for path in (store.folder / "aside").iterdir()]
        (False, ['blurred'])
        """
        folder, _, name = subject.rpartition("/")
        if folder == "manifests" and (self.folder / subject).exists():
            (self.folder / "aside").mkdir(exist_ok=True)
            os.replace(self.folder / subject, self.folder / "aside" / f"manifest-{name}")
            self._mark_aside(f"manifest-{name}", {}, reason)
        elif folder in ("", "shards") and name in self._shard_names():
            self._mark_aside(name, {}, reason)
        else:
            self.refresh()
            copies = self._index.find_all(subject)
            if not copies:
                raise DataError(f"{self.folder}: cannot set aside {subject!r}: no record or file of that name")
            for record in copies:
                position = {"key": record.key, "offset": record.offset, "bytes": record.size}
                self._mark_aside(f"{record.shard}@{record.key}", position, reason)
        self.refresh()

    def _mark_aside(self, name: str, position: Mapping[str, Any], reason: str) -> None:
        """Write the note that takes a file or record out of use.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store._mark_aside("a.safetensors", {}, "cut off")
        >>> read_json(store.folder / "aside" / "a.safetensors.json")["reason"]
        'cut off'
        """
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        note = {"file": name.partition("@")[0], **position, "reason": reason, "when": when}
        write_json(self.folder / "aside" / f"{name}.json", note)

    # -- manifests

    def write_manifest(self, key: str, value: Any) -> None:
        """Keep a small JSON document under a key; it replaces an earlier one.

        Parameters
        ----------
        key : str
            Hexadecimal digest.
        value : JSON value
            Tuples come back as lists.

        Raises
        ------
        ValueError
            If `value` is no JSON value or `key` no digest.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store.write_manifest("00ff00ff", {"records": ["ab"]})
        >>> store.read_manifest("00ff00ff")
        {'records': ['ab']}
        """
        path = self.folder / "manifests" / f"{check_key(key)}.json"
        try:
            text = _canonical(value)
        except TypeError as error:
            raise ValueError(f"manifest {key}: expected a JSON value: {error}") from None
        write_bytes(path, f'{{"xxh3":"{compute_checksum(text.encode())}","value":{text}}}\n'.encode())

    def read_manifest(self, key: str) -> Any:
        """Read a document; None when there is none.

        Raises
        ------
        DataError
            If its bits have changed.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store.read_manifest("00ff00ff") is None
        True
        >>> store.write_manifest("00ff00ff", [1])
        >>> path = store.folder / "manifests" / "00ff00ff.json"
        >>> _ = path.write_text(path.read_text().replace("[1]", "[3]"))
        >>> store.read_manifest("00ff00ff")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../manifests/00ff00ff.json: its checksum does not match, bits have changed; remove ...
        """
        path = self.folder / "manifests" / f"{check_key(key)}.json"
        try:
            document = json.loads(path.read_bytes())
            value = document["value"]
            intact = document["xxh3"] == compute_checksum(_canonical(value).encode())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            advice = "remove the file and run the prepare phase"
            raise DataError(f"{path}: its checksum does not match, bits have changed; {advice}")
        return value

    def _verify_manifests(self) -> Iterator[Problem]:
        """Read every document.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store.write_manifest("00ff00ff", [1])
        >>> _ = (store.folder / "manifests" / "00ff00ff.json").write_text("[")
        >>> [problem.subject for problem in store._verify_manifests()]
        ['manifests/00ff00ff.json']
        """
        for path in sorted((self.folder / "manifests").glob("[0-9a-f]*.json")):
            try:
                self.read_manifest(path.stem)
            except ValueError as error:
                yield Problem("manifest", str(error), f"manifests/{path.name}")


def _canonical(value: Any) -> str:
    """The one JSON text of a value, whatever the order in which its keys were set.

    Examples
    --------
    >>> _canonical({"b": (1, 2), "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _byte_rows(tensor: Tensor) -> np.ndarray:
    """The memory of a stacked tensor as one row of bytes per record.

    Examples
    --------
    >>> _byte_rows(torch.ones(2, 3, dtype=torch.float16)).shape
    (2, 6)
    """
    count = math.prod(tensor.shape[1:])
    return tensor.view(len(tensor), count).view(torch.uint8).numpy()
