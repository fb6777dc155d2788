"""The writer of a feature store: it gathers records into shards behind the back of whoever computes them."""

from __future__ import annotations

import errno
import queue
import shutil
import threading
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from utils.errors import DataError
from utils.runtime.files import format_bytes
from utils.store.encoding import Int8Features
from utils.store.shards import MAX_RECORDS_PER_SHARD, PackedRecord, pack_record, write_shard

if TYPE_CHECKING:
    from utils.store.feature_store import FeatureStore

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreWriter:
    """Writes records in a thread of its own.

    `put` copies a record and returns; a thread gathers records into shards and writes each in one go. An error of the
    thread (a full disk) is raised by the next `put` or the end of the `with` block; what was finished before
    is kept. When the block ends by an exception, records that were put are still written.

    Parameters
    ----------
    store : FeatureStore
        Where to; finished shards enter its index at once.
    max_shard_bytes : int
        See `FeatureStore.writer`.
    queue_records : int
        See `FeatureStore.writer`.

    Examples
    --------
    >>> import tempfile
    >>> from utils.store.feature_store import FeatureStore
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> with StoreWriter(store, max_shard_bytes=1 << 20, queue_records=4) as writer:
    ...     writer.put("ab" * 8, {"x": np.zeros(3)})
    >>> store.has("ab" * 8)
    True
    """

    def __init__(self, store: FeatureStore, max_shard_bytes: int, queue_records: int):
        self.store = store
        self.max_shard_bytes = max_shard_bytes
        self._queue: queue.Queue[PackedRecord | None] = queue.Queue(max(1, queue_records))
        self._pending: list[PackedRecord] = []
        self._pending_bytes = 0
        self._queued: set[str] = set()
        self._written = 0
        self._error: BaseException | None = None
        # a daemon: an interpreter that ends without closing the writer must not wait for it
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)

    def __enter__(self) -> StoreWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:  # an exception on its way out says more than what followed from it
            self._raise_error()

    def put(
        self,
        key: str,
        arrays: Mapping[str, Tensor | np.ndarray | Int8Features],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand over a record; one that is stored already is left alone.

        Parameters
        ----------
        key : str
            From `record_key`.
        arrays : mapping of str to Tensor, ndarray or Int8Features
            Copied at once, so that the caller may go on using their memory.
        metadata : mapping, optional
            JSON values to keep with it.

        Raises
        ------
        DataError
            If the disk is full.
        ValueError
            If key, a name or a type cannot be stored.
        RuntimeError
            When the writer is not open.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.feature_store import FeatureStore
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.array([1])})
        ...     writer.put("ab" * 8, {"x": np.array([2])})
        >>> store.read("ab" * 8)["x"].tolist()
        [1]
        """
        self._raise_error()
        if key in self._queued or self.store.has(key):
            return
        packed = pack_record(key, arrays, metadata)
        if not self._thread.is_alive():
            raise RuntimeError("the writer is not open: use it in a `with` block")
        self._queued.add(key)
        self._queue.put(packed)

    def _raise_error(self) -> None:
        """Raise what went wrong in the thread.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.feature_store import FeatureStore
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer()
        >>> writer._error = DataError("disk full")
        >>> writer._raise_error()
        Traceback (most recent call last):
            ...
        utils.errors.DataError: disk full
        """
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        """Take records from the queue until None comes; after an error only empty the queue.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.feature_store import FeatureStore
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer()
        >>> writer._queue.put(None)
        >>> writer._work(), writer._queue.empty()
        (None, True)
        """
        while (item := self._queue.get()) is not None:
            self._attempt(partial(self._gather, item))
        self._attempt(self._write_pending)

    def _attempt(self, step: Any) -> None:
        """Run a step unless one failed before, and remember its error for the caller's thread.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.feature_store import FeatureStore
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer()
        >>> writer._attempt(partial(int, "x"))
        >>> writer._error
        ValueError("invalid literal for int() with base 10: 'x'")
        """
        if self._error is not None:
            return
        try:
            step()
        except BaseException as error:  # raised again in the thread of the caller, whatever it is
            self._error = error

    def _gather(self, record: PackedRecord) -> None:
        """Add a record to the shard at hand; write the shard first when it would grow too large.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.feature_store import FeatureStore
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer(max_shard_bytes=100)
        >>> for key in ("aa" * 8, "bb" * 8):
        ...     writer._gather(pack_record(key, {"x": np.zeros(64, np.uint8)}, {}))
        >>> [record.key[:2] for record in writer._pending], writer.store.keys()
        (['bb'], ['aaaaaaaaaaaaaaaa'])
        """
        too_large = self._pending_bytes + record.data.size > self.max_shard_bytes
        if too_large or len(self._pending) >= MAX_RECORDS_PER_SHARD:
            self._write_pending()
        self._pending.append(record)
        self._pending_bytes += record.data.size

    def _write_pending(self) -> None:
        """Write the records gathered so far as one shard.

        Raises
        ------
        DataError
            When the disk is full or cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.feature_store import FeatureStore
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer()
        >>> writer._pending = [pack_record("ab" * 8, {"x": np.zeros(1)}, {})]
        >>> writer._write_pending(), writer._pending, len(writer.store)
        (None, [], 1)
        """
        if not self._pending:
            return
        try:
            name = write_shard(self.store.folder / "shards", self._pending)
        except OSError as error:
            raise self._explain(error) from error
        self.store.adopt(name)
        self._written += len(self._pending)
        self._queued.difference_update(record.key for record in self._pending)
        self._pending, self._pending_bytes = [], 0

    def _explain(self, error: OSError) -> Exception:
        """What a person can do about a shard that could not be written.

        Examples
        --------
        >>> import tempfile
        >>> from utils.store.feature_store import FeatureStore
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer()
        >>> str(writer._explain(OSError(errno.ENOSPC, "No space left on device")))
        '...: No space left on device while writing a shard of 0 B; ... are finished and kept: free space or move...'
        """
        free = shutil.disk_usage(self.store.folder).free
        advice = "free space or move the store" if error.errno in _NO_ROOM else "see that the folder can be written"
        return DataError(
            f"{self.store.folder}: {error.strerror} while writing a shard of {format_bytes(self._pending_bytes)}; "
            f"{format_bytes(free)} free. {self._written:,} records of this run are finished and kept: "
            f"{advice}, and run again to make the rest"
        )
