"""Finished strips of a class map, kept in a work folder so that a stopped run goes on where it was."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.raster.tiling import Window
from utils.runtime.files import write_bytes


class StripStore:
    """Finished strips of rows in a work folder, each in one small compressed file that is whole or absent.

    The key stands in the file names. So several processes may write strips into one folder, and strips of other
    settings are neither read nor, while they are being written, disturbed.

    Parameters
    ----------
    folder : str or Path
        The work folder; made with the first strip.
    key : str
        Digest of everything the pixels depend on.
    planes : int
        uint8 planes per strip.
    height, width : int
        Size of the whole raster in pixels.

    Examples
    --------
    >>> import tempfile
    >>> store = StripStore(Path(tempfile.mkdtemp()) / "work", "k", planes=1, height=5, width=3)
    >>> store.save(1, np.ones((1, 2, 3), np.uint8))
    >>> store.missing_rows(0, 5)
    [(0, 1), (3, 5)]
    """

    def __init__(self, folder: str | Path, key: str, *, planes: int, height: int, width: int):
        self.folder = Path(folder)
        self.key = key
        self.planes = planes
        self.height = height
        self.width = width

    def save(self, y: int, strip: np.ndarray) -> None:
        """Write a strip so that it survives a kill or a power cut.

        Parameters
        ----------
        y : int
            Its first row.
        strip : ndarray of uint8, shape (planes, rows, width)
            Its pixels.

        Examples
        --------
        >>> import tempfile
        >>> import os
        >>> store = StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=3)
        >>> store.save(2, np.ones((1, 2, 3), np.uint8))
        >>> os.listdir(store.folder)
        ['k_0000000002_2.strip']
        """
        packed = [zlib.compress(np.ascontiguousarray(plane).data, 1) for plane in strip]
        sizes = struct.pack(f"<{len(packed)}Q", *map(len, packed))
        write_bytes(self.folder / f"{self.key}_{y:010d}_{strip.shape[1]}.strip", sizes + b"".join(packed))

    def strips(self) -> list[tuple[int, int, Path]]:
        """First row, row after the last, and file of every strip of this key, from the top down.

        Examples
        --------
        >>> import tempfile
        >>> store = StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=3)
        >>> store.save(3, np.ones((1, 2, 3), np.uint8)), store.save(0, np.ones((1, 3, 3), np.uint8))
        (None, None)
        >>> [strip[:2] for strip in store.strips()]
        [(0, 3), (3, 5)]
        """
        found = []
        for path in self.folder.glob(f"{self.key}_*.strip"):
            _, y, height = path.stem.rsplit("_", 2)
            found.append((int(y), int(y) + int(height), path))
        return sorted(found)

    def missing_rows(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of rows within start..stop that no strip holds.

        Examples
        --------
        >>> import tempfile
        >>> StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=3).missing_rows(1, 4)
        [(1, 4)]
        """
        missing, row = [], start
        for first, last, _ in self.strips():
            if first >= stop:
                break
            if first > row:
                missing.append((row, first))
            row = max(row, last)
        return missing if row >= stop else [*missing, (row, stop)]

    def read_bands(self, plane: int, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Read one plane from the top down in bands of equal height, with one band and one strip in memory.

        Parameters
        ----------
        plane : int
            Which plane.
        rows : int
            Rows of a band; the last may have fewer.

        Yields
        ------
        y : int
            First row of the band.
        band : ndarray of uint8, shape (<= rows, width)
            Its pixels; overwritten by the next one.

        Examples
        --------
        >>> import tempfile
        >>> store = StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=1)
        >>> store.save(0, np.array([[[0], [1], [2]]], np.uint8)), store.save(2, np.array([[[2], [3], [4]]], np.uint8))
        (None, None)
        >>> [(y, band.ravel().tolist()) for y, band in store.read_bands(0, rows=2)]
        [(0, [0, 1]), (2, [2, 3]), (4, [4])]
        """
        band = np.empty((rows, self.width), np.uint8)
        row = 0
        for first, last, path in self.strips():
            strip = self._read(path, plane, last - first) if last > row else None
            while strip is not None and row < last:
                count = min(last - row, rows - row % rows)
                band[row % rows : row % rows + count] = strip[row - first : row - first + count]
                row += count
                if row % rows == 0 or row == self.height:
                    top = (row - 1) // rows * rows
                    yield top, band[: row - top]

    def _read(self, path: Path, plane: int, rows: int) -> np.ndarray:
        """Unpack one plane of a strip; a damaged strip is removed, so that the next run makes it anew.

        The result has shape (rows, W).

        Raises
        ------
        DataError
            When the strip is damaged.

        Examples
        --------
        >>> import tempfile
        >>> store = StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=3)
        >>> _ = (store.folder / "k_0_1.strip").write_bytes(bytes(9))
        >>> store._read(store.folder / "k_0_1.strip", 0, 1)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../k_0_1.strip: damaged strip, removed; run again to make these rows anew
        """
        data = path.read_bytes()
        try:
            sizes = struct.unpack_from(f"<{self.planes}Q", data)
            start = 8 * self.planes + sum(sizes[:plane])
            pixels = zlib.decompress(memoryview(data)[start : start + sizes[plane]])
            return np.frombuffer(pixels, np.uint8).reshape(rows, self.width)
        except (struct.error, zlib.error, ValueError) as error:
            path.unlink()
            raise DataError(f"{path}: damaged strip, removed; run again to make these rows anew") from error

    def drop_others(self) -> None:
        """Remove the strips of other keys, which nothing can use any more.

        Examples
        --------
        >>> import tempfile
        >>> import os
        >>> store = StripStore(tempfile.mkdtemp(), "new", planes=1, height=5, width=3)
        >>> _ = (store.folder / "old_0_1.strip").write_bytes(b"")
        >>> store.drop_others(), os.listdir(store.folder)
        (None, [])
        """
        for path in self.folder.glob("*.strip"):
            # names with a dot are being written, perhaps by another rank
            if not path.name.startswith((f"{self.key}_", ".")):
                path.unlink(missing_ok=True)


@dataclass
class OpenStrip:
    """A strip of rows that is being filled with blocks.

    Parameters
    ----------
    y : int
        Its first row.
    planes : ndarray of uint8, shape (planes, rows, width)
        Its pixels.

    Examples
    --------
    >>> strip = OpenStrip(4, np.zeros((1, 2, 3), np.uint8))
    >>> strip.complete
    False
    """

    y: int
    planes: np.ndarray
    filled: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.filled = np.zeros(self.planes.shape[2], bool)

    @property
    def complete(self) -> bool:
        """Whether all its columns have come.

        Examples
        --------
        >>> OpenStrip(0, np.zeros((1, 2, 0), np.uint8)).complete
        True
        """
        return bool(self.filled.all())

    def put(self, window: Window, planes: Sequence[np.ndarray]) -> None:
        """Copy one block in.

        Each plane has the shape (height, width) of the window.

        Raises
        ------
        ValueError
            If the block belongs to another strip, or has come before.

        Examples
        --------
        >>> strip = OpenStrip(4, np.zeros((1, 1, 3), np.uint8))
        >>> strip.put(Window(4, 1, 1, 2), [np.array([[5, 6]])])
        >>> strip.planes.tolist(), strip.filled.tolist()
        ([[[0, 5, 6]]], [False, True, True])
        """
        if (window.y, window.height) != (self.y, self.planes.shape[1]):
            rows = slice(self.y, self.y + self.planes.shape[1])
            raise ValueError(f"{window}: a block of another strip came before the strip of {rows} was full")
        if self.filled[window.columns].any():
            raise ValueError(f"{window}: these columns have come before")
        for target, block in zip(self.planes, planes, strict=True):
            target[:, window.columns] = block
        self.filled[window.columns] = True
