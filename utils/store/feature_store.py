"""A content-addressed store of arrays in safetensors shards that are read by position and know when they are damaged.

On disk
-------
``store.json``
    The format's name and version.
``shards/<random>.safetensors``
    Records, each a group of tensors ``<key>/<name>``. The bytes of a record lie together and begin at a multiple of
    64, so that ``preadv`` fills all its places in a batch at the speed of memcpy. ``__metadata__`` holds a
    checksum of the header, and per record one of each array and what its maker wrote about it. Whatever is read is
    compared with its checksum.
``aside/<file>[@<key>].json``
    Why a shard, or one record of it, is not used any more.
``manifests/<key>.json``
    Small JSON documents with a checksum.

A shard is complete or absent: it is written to a temporary file, flushed to disk and renamed, and never changed after.
Names are random, so any number of processes write at once; when two store the same key, the first one found is used.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import DataError
from utils.runtime.files import digest_json, read_json, write_json
from utils.runtime.threads import map_in_threads
from utils.store.index import StoreIndex
from utils.store.manifests import Manifests
from utils.store.reader import RecordReader
from utils.store.shards import (
    DTYPES,
    FORMAT,
    SCALE_SUFFIX,
    VERSION,
    Record,
    ShardError,
    read_shard,
    remove_leftover,
    select_public,
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
    ...     writer.put(key, {"image": torch.arange(6, dtype=torch.uint8).view(1, 2, 3)}, {"view": "identity"})
    >>> store.read(key)["image"].tolist(), store.metadata(key)
    ([[[0, 1, 2], [3, 4, 5]]], {'view': 'identity'})
    """

    def __init__(self, folder: str | Path, create: bool = True, threads: int = 1, open_files: int = 128):
        self.folder = Path(folder)
        self._shards = self.folder / "shards"
        self.threads = threads
        self.reader = RecordReader(self._shards, threads, open_files)
        self.manifests = Manifests(self.folder / "manifests")
        self._index = StoreIndex(self._shards, frozenset())
        self._check_version(create)
        if create:
            for path in self._shards.glob(".*.partial"):  # of writers that are dead
                remove_leftover(path)
        self.refresh()

    def __len__(self) -> int:
        return len(self._index.records)

    # -- folder and index

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
        utils.errors.DataError: .../store.json: expected format dinolith-features, version 2, got ...version 99; use ...
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
        if (name, version) == (FORMAT, 1):
            raise DataError(
                f"{path}: version 1 of the format, whose checksums cannot check what training reads; remove "
                f"{self.folder}, prepare makes all of it again, or name another folder in paths.processed_dir"
            )
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
        ...     writer.put("ab" * 8, {"x": torch.zeros(3)})
        >>> len(mine), mine.refresh()
        (0, 1)
        """
        with self.reader.process.lock:
            aside = self.folder / "aside"
            markers = frozenset(os.listdir(aside)) if aside.exists() else frozenset()
            names = self._shard_names()
            index = self._index.exclude(markers)
            if not markers >= self._index.aside or not index.sizes.keys() <= set(names):
                # a note or a shard is gone: a new index is built, threads that read keep the old one
                index = StoreIndex(self._shards, markers)
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
        ...     writer.put("ab" * 8, {"x": torch.zeros(3)}, {"mean": [0.5]})
        >>> store.metadata("ab" * 8)
        {'mean': [0.5]}
        """
        return json.loads(self._record(key).metadata)

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
        scaled = {field.name.removesuffix(SCALE_SUFFIX) for field in layout if field.name.endswith(SCALE_SUFFIX)}
        return {
            field.name: (field.shape, torch.float32 if field.name in scaled else DTYPES[field.type_name])
            for field in select_public(layout)
        }

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

    def read(self, key: str) -> dict[str, Tensor]:
        """Read one record; int8 feature maps come as float32.

        Raises
        ------
        DataError
            If it is not there, is cut off or does not match its checksums.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"label": torch.tensor([[3, 255]]), "map_0": torch.ones(1, 1, 2).half()})
        >>> record = store.read("ab" * 8)
        >>> record["label"].tolist(), record["map_0"].dtype
        ([[3, 255]], torch.float16)
        """
        return {name: stacked[0] for name, stacked in self.read_batch([key]).items()}

    def read_batch(self, keys: Sequence[str], names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Read records of equal shapes straight into stacked tensors.

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
            If a record is not there, cut off or does not match its checksums, or the records' shapes or types differ.
        ValueError
            If `keys` is empty or a name is unknown.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     for value in range(3):
        ...         writer.put(f"{value:08x}", {"x": torch.full((1, 2), value), "y": torch.zeros(5)})
        >>> batch = store.read_batch(["00000002", "00000000"], names=["x"])
        >>> {name: tensor.tolist() for name, tensor in batch.items()}
        {'x': [[[2, 2]], [[0, 0]]]}
        """
        if not keys:
            raise ValueError("read_batch needs at least one key: an empty batch has no shapes")
        return self.reader.read_batch([self._record(key) for key in keys], names)

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
        ...     writer.put("aa" * 8, {"x": torch.zeros(3)})
        ...     writer.put("bb" * 8, {"x": torch.zeros(3)})
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
        >>> name = write_shard(store.folder / "shards", [pack_record("ab" * 8, {"x": torch.zeros(1)}, {})])
        >>> store.adopt(name), store.keys()
        (None, ['abababababababab'])
        """
        with self.reader.process.lock:
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
        ...     writer.put("ab" * 8, {"x": torch.zeros(64, dtype=torch.uint8)})
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
            for path, message in self.manifests.find_damaged():
                yield Problem("manifest", message, f"manifests/{path.name}")
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
        >>> list(store._verify_records([Record("ab", "gone.safetensors", 0, 4, (), "", "")], rehash=True))[0].kind
        'truncated'
        """

        def check(record: Record) -> Problem | None:
            file = f"shards/{record.shard}"
            try:
                data = self.reader.read_bytes(record).numpy()
            except DataError as error:
                return Problem("truncated", str(error), file, record.key)
            parts = [data[field.start : field.stop] for field in record.layout]
            if not (damaged := record.find_damage(range(len(parts)), parts)):
                return None
            damage = f"the checksum of {', '.join(damaged)} does not match, bits have changed"
            return Problem("checksum", f"{self.folder / file}: record {record.key}: {damage}", file, record.key)

        if rehash:
            checked = map_in_threads(check, records, threads or self.threads)
            yield from (problem for problem in checked if problem is not None)

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
        ...     writer.put("ab" * 8, {"x": torch.zeros(3)})
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
