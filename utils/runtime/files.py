"""Files that are complete or absent, locks that cannot go stale, and digests that decide identity."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError, LockedError
from utils.runtime.reading import read_bounded_text, unique_keys

MAX_STATE_BYTES = 2**32  # of a JSON file of our own
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.partial")  # names that `temporary_folder` gives
CHECKSUM = "checksum"  # the key of a JSON file by which changed bits are found


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path near `path`; on success flush it to disk and rename it, on failure remove it.

    It lies in a locked folder, which `sweep_temporaries` removes after a process was killed.

    Parameters
    ----------
    path : str or Path
        The final name; its folder is made when missing.

    Yields
    ------
    Path
        Where to write. It keeps the final name, because many libraries choose a format by its suffix.

    Raises
    ------
    OSError
        When the file cannot be written; it names the file.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    ...     (folder / "a.txt").exists()
    False
    >>> [entry.name for entry in folder.iterdir()], (folder / "a.txt").read_text()
    (['a.txt'], 'whole')
    """
    path = Path(path)
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        temporary.touch()  # not mkstemp, whose files are private; results are for everybody
        with named_in_errors(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)


def cut_name(name: str, most: int = 200) -> str:
    """The start of a name that has at most so many bytes, as the limits of disks count.

    Examples
    --------
    >>> cut_name("fox", 2), cut_name("\N{GREEK SMALL LETTER PI}" * 3, 3) == "\N{GREEK SMALL LETTER PI}"
    ('fo', True)
    """
    return os.fsencode(name)[:most].decode(errors="ignore")


def refuse_long(source: str | Path, names: Sequence[str], folder: Path) -> None:
    """Refuse an input for whose results, by their names, a folder's disk has no room in a name.

    Raises
    ------
    DataError
        With the input, the longest name's length, and the limit, both in bytes.

    Examples
    --------
    >>> refuse_long("a.png", ["a.json"], Path("/tmp"))
    >>> refuse_long("a.png", ["a" * 256], Path("/tmp"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.png: a file of its result would have a name of 256 bytes, and the disk takes 255; ...
    """
    there = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("/"))
    most = os.pathconf(there, "PC_NAME_MAX")
    longest = max((len(os.fsencode(name)) for name in names), default=0)
    if longest > most:
        what = f"a file of its result would have a name of {longest} bytes, and the disk takes {most}"
        raise DataError(f"{source}: {what}; give it a shorter name")


@contextmanager
def named_in_errors(path: str | Path) -> Iterator[None]:
    """Name a file in errors of the system that name none: a write to a full disk does not say where.

    Raises
    ------
    OSError
        The same error, with the file.

    Examples
    --------
    >>> with named_in_errors("results.csv"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] No space left on device: 'results.csv'
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Make a hidden folder beside `path` for what becomes it; it is removed at the end.

    The folder is locked while its process lives, so that others can tell it from what a dead one has left.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with temporary_folder(path) as folder:
    ...     folder.parent == path.parent, sweep_temporaries(path.parent)
    (True, 0)
    >>> list(path.parent.iterdir())
    []
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = path.with_name(f".{cut_name(path.name)}.{secrets.token_hex(6)}.partial")
        folder.mkdir()
        handle = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: then nobody can take the folder for a leftover either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(handle)  # a sweep took it for a leftover between the two calls
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def sweep_temporaries(folder: str | Path, recursive: bool = True) -> int:
    """Remove the temporary folders that killed processes have left in a folder; how many they were.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "deep" / ".a.txt.0123456789ab.partial").mkdir(parents=True)
    >>> sweep_temporaries(folder, recursive=False), sweep_temporaries(folder), sweep_temporaries(folder)
    (0, 1, 0)
    """
    count = 0
    for root, folders, _ in os.walk(folder):
        for name in filter(TEMPORARY.fullmatch, list(folders)):
            folders.remove(name)
            count += _remove_leftover(Path(root, name))
        if not recursive:
            break
    return count


def _remove_leftover(folder: Path) -> bool:
    """Remove a temporary folder unless a live process holds it; whether it was removed.

    Examples
    --------
    >>> _remove_leftover(Path("/no/such/folder"))
    False
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # gone meanwhile, or somebody else's
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # its process lives, or there are no locks here
        return False
    finally:
        os.close(handle)
    return not folder.exists()


def sync(path: str | Path) -> None:
    """Make sure that a file or the entries of a folder survive a power cut.

    Examples
    --------
    >>> import tempfile
    >>> sync(tempfile.mkdtemp())
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        with named_in_errors(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def walk_files(folder: Path, hidden: bool = False) -> list[Path]:
    """Files in a folder and the folders inside, also linked ones, sorted; broken links too, hidden ones if asked for.

    What is in hidden folders is left out.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "deep").mkdir()
    >>> for name in ("deep/a.jp2", ".b.tif", "c.txt"):
    ...     (folder / name).touch()
    >>> (folder / "deep" / "up").symlink_to(folder)
    >>> [str(path.relative_to(folder)) for path in walk_files(folder)]
    ['c.txt', 'deep/a.jp2']
    """
    found: list[Path] = []
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:  # a link leads back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in names if hidden or not name.startswith(".")]
    return sorted(found)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file that appears whole or not at all.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "deep" / "a.bin"
    >>> write_bytes(path, b"abc")
    >>> path.read_bytes()
    b'abc'
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any, checksum: bool = False) -> None:
    r"""Write a value as readable JSON that appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file.
    value : JSON value
        With `checksum`, a dictionary.
    checksum : bool
        Add the key `checksum`, by which `read_json` finds changed bits: for files that a later phase trusts.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(path, {"mIoU": 0.5})
    >>> path.read_text()
    '{\n  "mIoU": 0.5\n}\n'
    >>> write_json(path, {"mIoU": 0.5}, checksum=True)
    >>> path.read_text()
    '{\n  "mIoU": 0.5,\n  "checksum": "795ffffd5d8c8175e41c52a2007b699a"\n}\n'
    """
    if checksum:
        value = {**value, CHECKSUM: digest_json(json.loads(json.dumps(value, default=str)))}
    write_bytes(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def read_json(path: str | Path, default: Any = None, checksum: bool = False) -> Any:
    """Read a JSON file; `default` when there is none.

    Parameters
    ----------
    path : str or Path
        The file.
    default : JSON value, optional
        Whose type is expected.
    checksum : bool
        Compare the content with the key `checksum` that `write_json` added, and leave the key out. A file of an
        earlier version has none and is taken as it is.

    Returns
    -------
    JSON value
        The file's content.

    Raises
    ------
    DataError
        If the file is damaged, holds another type than a `default` that is given, or does not match its checksum.

    Examples
    --------
    >>> read_json("/no/such/file.json", default={})
    {}
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(path, [1])
    >>> read_json(path, default={})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.json: damaged: expected the JSON of a dict; remove it, or take another copy
    """
    path = Path(path)
    if not path.exists():
        return default
    try:
        value = json.loads(read_bounded_text(path, MAX_STATE_BYTES), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged: not JSON ({error}); remove it, or take another copy") from None
    if default is not None and not isinstance(value, type(default)):
        kind = type(default).__name__
        raise DataError(f"{path}: damaged: expected the JSON of a {kind}; remove it, or take another copy")
    written = value.pop(CHECKSUM, None) if checksum and isinstance(value, dict) else None
    if written is not None and written != digest_json(value):
        raise DataError(
            f"{path}: damaged: its checksum is {written}, its content gives {digest_json(value)}; remove it to have it "
            "made again, or take another copy"
        )
    return value


def digest_json(value: Any) -> str:
    """Hash a value by its canonical JSON, 32 hexadecimal digits of SHA-256.

    Examples
    --------
    >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    True
    >>> digest_json([1]) == digest_json(["1"])
    False
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_array(array: np.ndarray) -> str:
    """Hash an array's values, shape and type, 32 hexadecimal digits of SHA-256.

    Examples
    --------
    >>> digest_array(np.zeros((2, 3), np.uint8)) == digest_array(np.zeros((3, 2), np.uint8))
    False
    """
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    if array.size:  # an array of no boxes has no bytes to look at
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()[:32]


def digest_file(path: str | Path) -> str:
    """Hash a file's bytes, 32 hexadecimal digits of SHA-256.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> _ = path.write_bytes(b"abc")
    >>> digest_file(path)
    'ba7816bf8f01cfea414140de5dae2223'
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]


def file_stamp(path: str | Path) -> list:
    """Path, size and modification time: changes when a file does, without reading it.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> _ = path.write_bytes(b"abc")
    >>> file_stamp(path)[1]
    3
    """
    path = Path(path)
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


class FileLock:
    """Keep a second process away from an output; the system frees the lock when its holder dies.

    Parameters
    ----------
    path : str or Path
        The lock file; it stays, empty of meaning, when nobody holds it.

    Raises
    ------
    LockedError
        On entry, when another process holds the lock.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "lock"
    >>> with FileLock(path):  # doctest: +ELLIPSIS
    ...     with FileLock(path):
    ...         pass
    Traceback (most recent call last):
        ...
    utils.errors.LockedError: .../lock: held by process ...
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.handle: int | None = None

    def __enter__(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise LockedError(f"{self.path}: held by process {holder}; another run writes this output") from None
        with named_in_errors(self.path):
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
        self.handle = handle
        return self

    def __exit__(self, *exception: object) -> None:
        if self.handle is not None:
            os.close(self.handle)  # closing releases the lock
            self.handle = None


def lock_holder(path: str | Path) -> str:
    """Say which process holds a lock; empty if none does. Nothing is written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "lock"
    >>> with FileLock(path):
    ...     lock_holder(path) == str(os.getpid())
    True
    >>> lock_holder(path)
    ''
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed at once, so that nobody finds it taken
        return ""
    except BlockingIOError:
        return os.read(handle, 64).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(handle)


def format_bytes(count: float) -> str:
    """Write a number of bytes as people read it, in powers of 1000.

    Examples
    --------
    >>> format_bytes(999), format_bytes(4_200_000), format_bytes(5e13)
    ('999 B', '4.2 MB', '50.0 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
