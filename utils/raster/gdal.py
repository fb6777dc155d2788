"""GDAL and its limits: a bounded cache, errors that name the file, and handles that no thread or child shares."""

from __future__ import annotations

import functools
import logging
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from utils.errors import DataError, DinolithError
from utils.media.other_kinds import name_kind
from utils.media.videos import is_video
from utils.raster.drivers import RASTER_DRIVERS
from utils.raster.vrt import check_vrt, is_virtual
from utils.runtime.reading import check_regular

BLOCK_CACHE_MB = 64  # GDAL takes 5 % of the memory by itself, once per process
OPEN_FILES = 32  # per thread

# GDAL reads this once, at its first use in the process; a value that the user has set stands.
os.environ.setdefault("GDAL_CACHEMAX", str(BLOCK_CACHE_MB))

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # photos have none; where it counts, it is checked
for _name in ("rasterio._env", "rasterio._err", "tifffile"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # their errors reach the user as one DataError


@contextmanager
def bounded_gdal(**options: Any) -> Iterator[None]:
    """Run GDAL with a bounded block cache and without messages on stderr.

    The cache is bounded by this module's import (`GDAL_CACHEMAX`, 64 MB unless the environment says otherwise): it
    belongs to the process, and setting it from several threads in turn would undo it.

    Parameters
    ----------
    **options
        More settings of GDAL, such as GDAL_PAM_ENABLED="NO" to write no `.aux.xml` files beside results.

    Examples
    --------
    >>> from rasterio._env import get_gdal_config
    >>> with bounded_gdal(GDAL_PAM_ENABLED="NO"):
    ...     get_gdal_config("GDAL_CACHEMAX") <= int(os.environ["GDAL_CACHEMAX"]) * 2**20
    ...     get_gdal_config("GDAL_PAM_ENABLED")
    True
    'NO'
    """
    with rasterio.Env(CPL_DEBUG=False, **options):
        yield


@contextmanager
def gdal_errors(
    path: str, action: str, cure: str = "the file is truncated or damaged: copy or export it again"
) -> Iterator[None]:
    """Turn GDAL's errors into one that names the file and what to do.

    Parameters
    ----------
    path : str
        The file at work.
    action : str
        What failed, such as "opened" or "read".
    cure : str
        What to do about it.

    Raises
    ------
    DataError
        In place of any error of GDAL.

    Examples
    --------
    >>> with gdal_errors("a.tif", "opened", cure="give another"):
    ...     _ = rasterio.open("/no/a.tif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: cannot be opened (/no/a.tif: No such file or directory); give another
    """
    try:
        with bounded_gdal():
            yield
    except DinolithError:
        raise
    except Exception as error:  # a damaged file may break a library anywhere
        if isinstance(error, OSError) and not isinstance(error, RasterioError):
            raise  # the disk's
        HANDLES.close([path])  # after an error some drivers go on with what they have, as if it were whole
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # the first of the chain is GDAL's last message
        reason = " ".join(str(getattr(cause, "errmsg", cause)).split()) or type(cause).__name__
        if is_video(path):
            reason, cure = "it is a video", "segmentation and labels have none: write its frames as pictures"
        elif action == "opened" and (kind := name_kind(path)) is not None:
            reason, cure = f"it is {kind[0]}", kind[1]
        raise DataError(f"{path}: cannot be {action} ({reason[:500]}); {cure}") from error


FileKey = tuple[str, int, int, int]
_VERSIONS: dict[str, tuple[str, int]] = {}  # digest of all that is read with a file, and how often it has changed


def file_key(path: str) -> FileKey:
    """What tells a file from its next version: path, size, modification time, and the changes that `note_version` saw.

    Examples
    --------
    >>> file_key("/no/such/file")
    ('/no/such/file', -1, -1, 0)
    """
    version = _VERSIONS[path][1] if path in _VERSIONS else 0
    try:
        status = os.stat(path)
    except OSError:  # GDAL also knows paths that the system does not, such as /vsimem/
        return path, -1, -1, version
    return path, status.st_size, status.st_mtime_ns, version


def note_version(path: str, digest: str) -> None:
    """Make a file another one for this process, when a file that is read with it has changed since it was last noted.

    Parameters
    ----------
    path : str
        The file.
    digest : str
        Of the stamps of all that is read with it.

    Examples
    --------
    >>> note_version("/no/a.vrt", "00"), file_key("/no/a.vrt")[3]
    (None, 0)
    >>> note_version("/no/a.vrt", "11"), file_key("/no/a.vrt")[3]
    (None, 1)
    """
    known, changes = _VERSIONS.get(path, (digest, 0))
    _VERSIONS[path] = digest, changes + (known != digest)


class Handles(threading.local):
    """The open files of one thread; a GDAL handle must not be shared by threads, nor survive a fork.

    Examples
    --------
    >>> handles = Handles()
    >>> handles.get("key", lambda: open(os.devnull)) is handles.get("key", lambda: None)
    True
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.open: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, opener: Callable[[], Any]) -> Any:
        """The handle of a key, opened when this thread of this process has none.

        Examples
        --------
        >>> Handles().get("key", lambda: "opened")
        'opened'
        """
        if self.pid != os.getpid():  # the file position is shared with the parent process
            self.pid, self.open = os.getpid(), OrderedDict()
        if key not in self.open:
            self.open[key] = opener()
            if len(self.open) > OPEN_FILES:
                self.open.popitem(last=False)[1].close()
        self.open.move_to_end(key)
        return self.open[key]

    def close(self, paths: Sequence[str] | None = None) -> None:
        """Close the handles of some files, or all.

        Examples
        --------
        >>> handles = Handles()
        >>> stream = handles.get(("a", 0, 0), lambda: open(os.devnull))
        >>> handles.close(["a"])
        >>> stream.closed, len(handles.open)
        (True, 0)
        """
        for key in [key for key in self.open if paths is None or (isinstance(key, tuple) and key[0] in paths)]:
            self.open.pop(key).close()


HANDLES = Handles()


def open_raster(path: str) -> rasterio.DatasetReader:
    """Open a file with GDAL, or take this thread's handle of it.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = raster_file("a.tif", np.zeros((4, 6), np.uint8))
    >>> open_raster(path) is open_raster(path)
    True
    """
    return HANDLES.get(file_key(path), functools.partial(_open_file, path))


def _open_file(path: str) -> rasterio.DatasetReader:
    """Open a file as what it is: with drivers that read the file itself, or as a virtual raster that may be used.

    Raises
    ------
    DataError
        When it is no regular file, or makes GDAL read others that it may not.

    Examples
    --------
    >>> _open_file("/dev/zero")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /dev/zero: a device; expected a file on a disk; name another one
    """
    if path.startswith("/vsimem/"):
        return rasterio.open(path)
    check_regular(path)
    virtual = is_virtual(Path(path))
    if virtual:
        check_vrt(path)
    dataset = rasterio.open(local_path(path))
    if dataset.driver not in (("VRT",) if virtual else RASTER_DRIVERS):
        dataset.close()
        raise DataError(f"{path}: {dataset.driver} is not among the formats that are read; convert it to GeoTIFF")
    if elsewhere := dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE"):  # GDAL would take pixels from there
        dataset.close()
        raise DataError(
            f"{path}: names {elsewhere[:200]} as its overviews; remove its .aux.xml file, or build them anew (gdaladdo)"
        )
    return dataset


def local_path(path: str | Path) -> Path:
    """A path that libraries take for a file's name and nothing else, whatever characters stand in it.

    Examples
    --------
    >>> local_path("zip:a!b;c.tif").is_absolute(), local_path("//data/a.tif").as_posix()
    (True, '/data/a.tif')
    """
    return Path("/" + os.path.abspath(path).lstrip("/"))


def refuse_other_encoding(path: str) -> None:
    r"""Refuse a path whose bytes are no UTF-8, which GDAL cannot be given.

    Raises
    ------
    DataError
        When the name is not UTF-8.

    Examples
    --------
    >>> refuse_other_encoding("gr\u00fcn.tif")
    >>> refuse_other_encoding("gr\udcfcn.tif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: gr\udcfcn.tif: its name is not UTF-8, which is expected; rename the file
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode(errors="backslashreplace").decode()
        raise DataError(f"{shown}: its name is not UTF-8, which is expected; rename the file") from None
