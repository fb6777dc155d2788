"""What a process reuses while it reads: memory for batches and open files. None of it may cross a fork."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 64  # source and destination on the same cache line: preadv runs at 17 GB/s, else at 12 (measured)


class _Descriptor:
    """An open file; it closes when the last reader lets go of it.

    Examples
    --------
    >>> _Descriptor(Path("/dev/null")).handle > 2
    True
    """

    def __init__(self, path: Path):
        self.handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.handle)


class OpenShards:
    """The files read last, at most `limit` of them; others are closed once nobody reads them.

    Examples
    --------
    >>> files = OpenShards(Path("/dev"), limit=1)
    >>> _ = files.open("null"), files.open("zero")
    >>> list(files.descriptors)
    ['zero']
    """

    def __init__(self, folder: Path, limit: int):
        self.folder = folder
        self.limit = limit
        self.descriptors: OrderedDict[str, _Descriptor] = OrderedDict()
        self.lock = threading.Lock()

    def open(self, name: str) -> _Descriptor:
        """The open file of that name; hold on to it while reading.

        Examples
        --------
        >>> files = OpenShards(Path("/dev"), limit=4)
        >>> files.open("null") is files.open("null")
        True
        """
        with self.lock:
            if name not in self.descriptors:
                self.descriptors[name] = _Descriptor(self.folder / name)
            self.descriptors.move_to_end(name)
            if len(self.descriptors) > self.limit:
                self.descriptors.popitem(last=False)
            return self.descriptors[name]

    def close(self, name: str) -> None:
        """Forget a file that is going to be replaced or removed.

        Examples
        --------
        >>> files = OpenShards(Path("/dev"), limit=4)
        >>> _ = files.open("null")
        >>> files.close("null"), list(files.descriptors)
        (None, [])
        """
        with self.lock:
            self.descriptors.pop(name, None)


class BufferPool:
    """Memory for batches, used again as soon as the last tensor on it is gone.

    Fresh memory costs page faults: filling it runs at 2 GB/s, filling used memory at 17 (measured). A tensor lies on a
    lease, an array object of its own; when the tensor's storage dies the lease dies, and its finalizer gives the memory
    back. Nobody has to return anything, and nothing is overwritten that somebody still holds.

    Parameters
    ----------
    keep_bytes : int
        How much unused memory may wait for the next batch.

    Examples
    --------
    >>> pool = BufferPool()
    >>> first = pool.take((2, 1 << 20), torch.uint8)
    >>> address = first.data_ptr()
    >>> pool.take((2, 1 << 20), torch.uint8).data_ptr() == address
    False
    >>> del first
    >>> pool.take((1, 1 << 19), torch.float32).data_ptr() == address
    True
    """

    smallest = 1 << 16  # below, the allocator of PyTorch is as good

    def __init__(self, keep_bytes: int = 1 << 30):
        self.keep_bytes = keep_bytes
        self.idle: list[np.ndarray] = []
        self.returned: deque[np.ndarray] = deque()  # filled by finalizers, which may run anywhere: no lock there
        self.lock = threading.Lock()

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of any content, aligned to 64 bytes.

        Examples
        --------
        >>> tensor = BufferPool().take((3, 40000), torch.float16)
        >>> tensor.shape, tensor.data_ptr() % 64
        (torch.Size([3, 40000]), 0)
        """
        count = math.prod(shape) * dtype.itemsize
        if count < self.smallest:
            return torch.empty(tuple(shape), dtype=dtype)
        memory = self._find(count)
        lease = memory[:count]
        finalizer = weakref.finalize(lease, self.returned.append, memory)
        finalizer.atexit = False
        return torch.from_numpy(lease).view(dtype).view(tuple(shape))

    def _find(self, count: int) -> np.ndarray:
        """Memory of at least `count` bytes that nobody uses, new when there is none of about that size.

        Examples
        --------
        >>> BufferPool()._find(100000).size
        100000
        """
        with self.lock:
            self._collect()
            fitting = [index for index, memory in enumerate(self.idle) if count <= memory.size <= 2 * count]
            if fitting:
                return self.idle.pop(fitting[-1])
        memory = np.empty(count + ALIGNMENT, np.uint8)  # numpy asks for huge pages, torch.empty does not
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + count]

    def _collect(self) -> None:
        """Take in what finalizers gave back, and free the oldest memory beyond the limit.

        Examples
        --------
        >>> pool = BufferPool(keep_bytes=150000)
        >>> for _ in range(2):
        ...     pool.returned.append(np.empty(100000, np.uint8))
        >>> pool._collect(), len(pool.idle)
        (None, 1)
        """
        while self.returned:
            self.idle.append(self.returned.popleft())
        while sum(memory.size for memory in self.idle) > self.keep_bytes:
            self.idle.pop(0)


class ProcessState:
    """What must not be shared between processes: locks, open files, memory and threads.

    Examples
    --------
    >>> ProcessState(Path("/dev"), open_files=2).pid == os.getpid()
    True
    """

    def __init__(self, shards: Path, open_files: int, threads: int = 1):
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.files = OpenShards(shards, open_files)
        self.pool = BufferPool()
        self.helpers = ThreadPoolExecutor(threads, thread_name_prefix="store")  # starts threads when it gets work
