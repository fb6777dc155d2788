"""Records of a store read by position and checked: straight into stacked tensors, or as bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import DataError
from utils.store.buffers import ProcessState
from utils.store.encoding import multiply_scales
from utils.store.shards import (
    DTYPES,
    SCALE_SUFFIX,
    Field,
    Record,
    plan_reads,
    read_all,
    select_fields,
    select_public,
)


class RecordReader:
    """Reads records; safe in several threads, after a fork, and in worker processes that got it by pickling.

    Parameters
    ----------
    shards : Path
        Folder of the shards.
    threads : int
        Reads at a time of one batch.
    open_files : int
        Shards held open at most.

    Examples
    --------
    >>> import tempfile
    >>> from utils.store.shards import pack_record, read_shard, write_shard
    >>> folder = Path(tempfile.mkdtemp())
    >>> name = write_shard(folder, [pack_record("ab" * 8, {"x": np.array([5, 6], np.uint8)}, {})])
    >>> reader, records = RecordReader(folder, threads=1, open_files=4), read_shard(folder / name)
    >>> reader.read_batch(records * 2, ["x"])["x"].tolist(), reader.read_bytes(records[0])[:3].tolist()
    ([[5, 6], [5, 6]], [5, 6, 0])
    """

    def __init__(self, shards: Path, threads: int, open_files: int):
        self.shards = shards
        self.threads = threads
        self.open_files = open_files
        self._state: ProcessState | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": None}

    @property
    def process(self) -> ProcessState:
        """Locks, files and memory of this process; a forked child gets new ones.

        Examples
        --------
        >>> RecordReader(Path("/dev"), 1, 4).process.pid == os.getpid()
        True
        """
        if self._state is None or self._state.pid != os.getpid():
            self._state = ProcessState(self.shards, self.open_files, self.threads)
        return self._state

    def memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of any content for a batch, used again once nothing refers to it; faster than fresh memory.

        Examples
        --------
        >>> RecordReader(Path("/dev"), 1, 4).memory((2, 3), torch.float16).shape
        torch.Size([2, 3])
        """
        return self.process.pool.take(shape, dtype)

    def read_batch(self, records: Sequence[Record], names: Sequence[str] | None) -> dict[str, Tensor]:
        """Read records of equal shapes into stacked tensors; see `FeatureStore.read_batch`, also for what it raises.

        Memory is taken from a pool, to which it returns by itself when the tensors are gone.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.encoding import Int8Features
        >>> from utils.store.shards import pack_record, read_shard, write_shard
        >>> folder = Path(tempfile.mkdtemp())
        >>> scaled = Int8Features(torch.ones(2, 1, dtype=torch.int8), torch.tensor([2.0, 3.0]))
        >>> name = write_shard(folder, [pack_record("ab" * 8, {"m": scaled}, {})])
        >>> RecordReader(folder, 1, 4).read_batch(read_shard(folder / name), None)["m"].tolist()
        [[[2.0], [3.0]]]
        """
        fields = self._common_fields(records, names)
        count = len(records)
        arrays = {name: self.memory((count, *field.shape), DTYPES[field.type_name]) for name, field in fields.items()}
        self._fill(
            records,
            {name: array.view(count, array[0].numel()).view(torch.uint8).numpy() for name, array in arrays.items()},
        )
        batch = {}
        for name in names if names is not None else [field.name for field in select_public(records[0].layout)]:
            scales = arrays.get(name + SCALE_SUFFIX)
            batch[name] = array = arrays[name]
            if scales is not None:
                batch[name] = multiply_scales(array, scales, self.memory(array.shape, torch.float32))
        return batch

    def _common_fields(self, records: Sequence[Record], names: Sequence[str] | None) -> dict[str, Field]:
        """The fields to read, after a check that all records have them alike.

        Raises
        ------
        DataError
            When a field is missing in a record, or differs in type or shape.

        Examples
        --------
        >>> narrow = Record("aa", "s", 0, 2, (Field("x", "U8", (2,), 0, 2),), "", "")
        >>> wide = Record("bb", "s", 0, 3, (Field("x", "U8", (3,), 0, 3),), "", "")
        >>> RecordReader(Path("store/shards"), 1, 4)._common_fields([narrow, wide], None)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: store: records aa and bb cannot be stacked: 'x' is U8 (2,) and U8 (3,); read them ...
        """
        first = records[0]
        fields = select_fields(first.layout, names)
        for record in {id(record.layout): record for record in records}.values():
            others = select_fields(record.layout, names)
            for name in dict.fromkeys([*fields, *others]):
                wanted, found = fields.get(name), others.get(name)
                if wanted is None or found is None or wanted[1:3] != found[1:3]:
                    shown = (f"{field.type_name} {field.shape}" if field else "absent" for field in (wanted, found))
                    raise DataError(
                        f"{self.shards.parent}: records {first.key} and {record.key} cannot be stacked: {name!r} is "
                        f"{' and '.join(shown)}; read them in separate batches (batch_size: 1), or store windows of "
                        "one size"
                    )
        return fields

    def _fill(self, records: Sequence[Record], rows: Mapping[str, np.ndarray]) -> None:
        """Read each record into its row of every array, in the order of the disk.

        Each of `rows` has shape (B, bytes), uint8.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.shards import pack_record, read_shard, write_shard
        >>> folder = Path(tempfile.mkdtemp())
        >>> name = write_shard(folder, [pack_record("ab" * 8, {"x": np.array([5, 6], np.uint8)}, {})])
        >>> rows = np.zeros((1, 2), np.uint8)
        >>> RecordReader(folder, 1, 4)._fill(read_shard(folder / name), {"x": rows}), rows.tolist()
        (None, [[5, 6]])
        """
        runs = {id(record.layout): plan_reads(record.layout, rows) for record in records}

        def read_rows(indices: Sequence[int]) -> None:
            for index in indices:
                record = records[index]
                for numbers in runs[id(record.layout)]:
                    fields = [record.layout[number] for number in numbers]
                    buffers = [rows[field.name][index] for field in fields]
                    self._read_into(record, buffers, fields[0].start)
                    self._check(record, numbers, buffers)

        order = sorted(range(len(records)), key=lambda index: (records[index].shard, records[index].offset))
        share = -(-len(order) // self.threads)
        others = [order[start : start + share] for start in range(share, len(order), share)]
        helping = [self.process.helpers.submit(read_rows, part) for part in others]
        try:
            read_rows(order[:share])
        finally:
            wait(helping)  # nobody may write into the rows any more, whatever happened here
        for done in helping:
            done.result()

    def _check(self, record: Record, numbers: Sequence[int], buffers: Sequence[np.ndarray]) -> None:
        """Compare bytes that were just read with their checksums.

        Raises
        ------
        DataError
            When bits have changed.

        Examples
        --------
        >>> from utils.store.shards import compute_checksum
        >>> record = Record("ab", "s.safetensors", 0, 2, (Field("x", "U8", (2,), 0, 2),), compute_checksum(b"ab"), "")
        >>> RecordReader(Path("store/shards"), 1, 4)._check(record, [0], [np.zeros(2, np.uint8)])
        Traceback (most recent call last):
            ...
        utils.errors.DataError: store/shards/s.safetensors: record ab: the checksum of x does not match, bits have ...
        """
        if damaged := record.find_damage(numbers, buffers):
            raise DataError(
                f"{self.shards / record.shard}: record {record.key}: the checksum of {', '.join(damaged)} does not "
                "match, bits have changed; run verify, which sets the record aside, then prepare, which makes it again"
            )

    def read_bytes(self, record: Record) -> Tensor:
        """The bytes of a record as they lie in the file, not compared with checksums.

        The tensor has shape (bytes,), uint8.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.shards import pack_record, read_shard, write_shard
        >>> folder = Path(tempfile.mkdtemp())
        >>> name = write_shard(folder, [pack_record("ab" * 8, {"x": np.full(2, 7, np.uint8)}, {})])
        >>> RecordReader(folder, 1, 4).read_bytes(read_shard(folder / name)[0])[:3].tolist()
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
        >>> record = Record("ab", "gone.safetensors", 0, 4, (), "", "")
        >>> RecordReader(Path("store/shards"), 1, 4)._read_into(record, [np.zeros(4, np.uint8)], 0)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: store/shards/gone.safetensors: cannot read record ab (...); run verify, which sets ...
        """
        try:
            descriptor = self.process.files.open(record.shard)
            read_all(descriptor.handle, buffers, record.offset + start)
        except (OSError, EOFError) as error:
            path = self.shards / record.shard
            advice = "run verify, which sets it aside, then prepare, which makes it again"
            raise DataError(f"{path}: cannot read record {record.key} ({error}); {advice}") from error
