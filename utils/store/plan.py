"""Whether the disk has room for the records that are going to be written, and how fast it takes them."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError
from utils.logging import format_duration
from utils.runtime.files import format_bytes

LARGE_BYTES = 2 * 10**9  # from here on writing may take long enough to be measured; a disk takes seconds for less
MEASURED_S = 1.0
BLOCK_BYTES = 16 << 20
FREE_SHARE = 10  # a measurement takes at most this part of what is free


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
    bytes_per_s : float, optional
        What the disk takes, where it was measured.

    Examples
    --------
    >>> str(Plan(100, 420_000_000, 2_000_000_000, "store"))
    'store: 100 records, 420.0 MB; 2.0 GB free'
    >>> str(Plan(100, 42 * 10**9, 10**12, "store", 2e8))
    'store: 100 records, 42.0 GB; 1.0 TB free; the disk takes 200.0 MB a second, so 3 min 30 s at least'
    """

    records: int
    bytes: int
    free_bytes: int
    folder: str = "."
    bytes_per_s: float | None = None

    def __str__(self) -> str:
        free = format_bytes(self.free_bytes)
        text = f"{self.folder}: {self.records:,} records, {format_bytes(self.bytes)}; {free} free"
        if not self.bytes_per_s:
            return text
        seconds = format_duration(round(self.bytes / self.bytes_per_s))
        return f"{text}; the disk takes {format_bytes(int(self.bytes_per_s))} a second, so {seconds} at least"

    def refuse_if_full(self, keep_free_bytes: int = 256 << 20, projectable: bool = False) -> None:
        """Raise when the records would not fit.

        Parameters
        ----------
        keep_free_bytes : int
            What must be left for everything else on the disk.
        projectable : bool
            Whether features can be projected to fewer channels.

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
        fewer = ", project them to fewer channels (prepare.project)" if projectable else ""
        raise DataError(
            f"{self.folder}: {self.records:,} records need {format_bytes(self.bytes)}, free are "
            f"{format_bytes(self.free_bytes)} ({format_bytes(keep_free_bytes)} of them kept free); name another disk "
            "(paths.processed_dir), store fewer views (dataset.augmentations.stored_views), fewer blocks "
            f"(model.layers) or int8 (prepare.store_dtype){fewer}, or compute features online (train.features)"
        )


def measure_writing(folder: str | Path, seconds: float = MEASURED_S) -> float | None:
    """Write to a disk for about a second, each block through to the disk, and give its bytes per second.

    The file has no name, so that nothing is left of it whatever happens. Its bytes are random, as disks and file
    systems that compress would do others faster than features.

    Parameters
    ----------
    folder : str or Path
        On the disk; it exists.
    seconds : float
        How long to write.

    Returns
    -------
    float or None
        None where the disk has no room for a block.

    Examples
    --------
    >>> folder = tempfile.mkdtemp()
    >>> measure_writing(folder, seconds=0.01) > 1e5, os.listdir(folder)
    (True, [])
    """
    stat = os.statvfs(folder)
    most = stat.f_bavail * stat.f_frsize // FREE_SHARE
    block, written = os.urandom(BLOCK_BYTES), 0
    with tempfile.TemporaryFile(dir=folder, buffering=0) as stream:
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds and written + BLOCK_BYTES <= most:
            written += stream.write(block)
            os.fsync(stream.fileno())
    return written / spent if written else None
