"""Whether the disk has room for the records that are going to be written."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import DataError
from utils.runtime.files import format_bytes


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
