"""One shard: records of arrays in a safetensors file that is written whole and read by position.

`utils.store.feature_store` describes the format. Whatever is wrong with a file is a `ShardError` that names the kind of
damage; a checksum guards the header, and one each array of a record, so that whatever part is read can be checked.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_64_hexdigest

from utils.errors import DataError
from utils.runtime.files import sync
from utils.store.buffers import ALIGNMENT
from utils.store.encoding import Int8Features

FORMAT = "dinolith-features"
VERSION = 2  # 1 had a checksum per record, which cannot check an array that is read alone

_SHARD_FORMAT = f"{FORMAT}-{VERSION}"
SCALE_SUFFIX = ".scale"  # the companion of an int8 map; no name of a caller can hold a dot
_PAD = ".pad"
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
_TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_RECORDS_PER_SHARD = 4096  # keeps headers of tiny records far below the 100 MB that safetensors allows
_MAX_BUFFERS = 1024  # IOV_MAX of Linux
_MAX_RUN = 1 << 20  # bytes; reading and checking 4 MB in such pieces is a tenth faster than in one (measured)
_METADATA = b'{"__metadata__":'
_HEADER_CHECKSUM = b'"header_xxh3":"'
_DIGITS = 16  # of a checksum


def compute_checksum(data: np.ndarray | bytes) -> str:
    """Fingerprint of bytes against accidents, not against intent: xxh3 runs at the speed of memory.

    Examples
    --------
    >>> compute_checksum(b""), compute_checksum(np.zeros(2, np.uint8)) == compute_checksum(bytes(2))
    ('2d06800538d394c2', True)
    """
    return xxh3_64_hexdigest(data.data if isinstance(data, np.ndarray) else data)


class Field(NamedTuple):
    """One array of a record: where its bytes lie from the record's first byte on, and what they are.

    Examples
    --------
    >>> Field("label", "U8", (2, 3), 0, 6).stop
    6
    """

    name: str
    type_name: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def stop(self) -> int:
        """The byte after the last one.

        Examples
        --------
        >>> Field("map_0", "F16", (4,), 64, 8).stop
        72
        """
        return self.start + self.size


Layout = tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Where a record lies; its arrays are read when asked for.

    Parameters
    ----------
    key : str
        Name of the record, hexadecimal.
    shard : str
        File name in `shards/`.
    offset, size : int
        Its bytes in the file, padding included.
    layout : tuple of Field
        Its arrays in the order of the file.
    checksums : str
        xxh3 of the bytes of each array, 16 digits after 16 digits, in the order of `layout`.
    metadata : str
        JSON text of what its maker wrote about it.

    Examples
    --------
    >>> packed = pack_record("ab" * 8, {"x": np.zeros(64, np.uint8), "y": np.ones(64, np.uint8)}, {})
    >>> record = Record("ab" * 8, "x.safetensors", 64, 128, packed.layout, packed.checksums, "{}")
    >>> record.find_damage([0, 1], [packed.data[:64], packed.data[64:]]), record.find_damage([1], [packed.data[:64]])
    ([], ['y'])
    """

    key: str
    shard: str
    offset: int
    size: int
    layout: Layout
    checksums: str
    metadata: str

    def find_damage(self, numbers: Sequence[int], buffers: Sequence[np.ndarray]) -> list[str]:
        """Names of the arrays whose bytes do not match their checksums.

        Parameters
        ----------
        numbers : sequence of int
            Their places in `layout`.
        buffers : sequence of ndarray of uint8
            Their bytes as they were read.

        Examples
        --------
        >>> record = Record("ab", "x", 0, 1, (Field("x", "U8", (1,), 0, 1),), compute_checksum(b"a"), "{}")
        >>> record.find_damage([0], [np.frombuffer(b"a", np.uint8)]), record.find_damage([0], [np.ones(1, np.uint8)])
        ([], ['x'])
        """
        return [
            self.layout[number].name
            for number, buffer in zip(numbers, buffers, strict=True)
            if compute_checksum(buffer) != self.checksums[number * _DIGITS : (number + 1) * _DIGITS]
        ]


@dataclass(frozen=True, slots=True, eq=False)
class PackedRecord:
    """A record ready to be written: its bytes in file order, padded to a multiple of 64.

    Examples
    --------
    >>> packed = pack_record("ab" * 8, {"x": np.arange(3, dtype=np.uint8)}, {})
    >>> packed.data.size, packed.data[:4].tolist()
    (64, [0, 1, 2, 0])
    """

    key: str
    layout: Layout
    data: np.ndarray
    checksums: str
    metadata: str


class ShardError(DataError):
    """A file in `shards/` cannot be used.

    Parameters
    ----------
    kind : str
        "truncated", "oversized", "header" or "foreign".
    message : str
        What was found.

    Examples
    --------
    >>> ShardError("truncated", "12 bytes, the header says 64").kind
    'truncated'
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def check_key(key: str) -> str:
    """Give back a key that can be a file name and a part of a tensor's name.

    Raises
    ------
    ValueError
        If it is not 8 to 128 lower-case hexadecimal digits.

    Examples
    --------
    >>> check_key("../x")
    Traceback (most recent call last):
        ...
    ValueError: a key must be 8 to 128 lower-case hexadecimal digits, got '../x'; record_key() makes one
    """
    if not re.fullmatch(r"[0-9a-f]{8,128}", key):
        raise ValueError(f"a key must be 8 to 128 lower-case hexadecimal digits, got {key!r}; record_key() makes one")
    return key


def _as_tensor(name: str, value: Tensor | np.ndarray) -> Tensor:
    """An array as a tensor in main memory, of a type that the store knows.

    Raises
    ------
    ValueError
        If the name is no word, or the type cannot be stored.

    Examples
    --------
    >>> _as_tensor("x", np.ones((2, 1), np.float16)).dtype
    torch.float16
    >>> _as_tensor("x", np.array(["a"]))
    Traceback (most recent call last):
        ...
    ValueError: array 'x' has type <U1, which cannot be stored; numbers and booleans can
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"the name of an array must be a word of letters, digits and _, got {name!r}")
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or not value.dtype.isnative or value.dtype.itemsize > 8:
            raise ValueError(f"array {name!r} has type {value.dtype}, which cannot be stored; numbers and booleans can")
        value = torch.from_numpy(value.copy())  # a copy: views may be read-only or run backwards
    if value.dtype not in _TYPE_NAMES:
        raise ValueError(f"array {name!r} has type {value.dtype}, which cannot be stored; numbers and booleans can")
    return value.detach().cpu()


def _flatten(arrays: Mapping[str, Tensor | np.ndarray | Int8Features]) -> dict[str, Tensor]:
    """Plain tensors of a record; an int8 map becomes its values and its scales.

    Examples
    --------
    >>> from utils.store.encoding import encode_features
    >>> list(_flatten({"map_0": encode_features(torch.ones(2, 1, 1), "int8")}))
    ['map_0', 'map_0.scale']
    """
    tensors = {}
    for name, value in arrays.items():
        if isinstance(value, Int8Features):
            tensors[name] = _as_tensor(name, value.values)
            tensors[name + SCALE_SUFFIX] = value.scales.detach().cpu().float()
        else:
            tensors[name] = _as_tensor(name, value)
    return tensors


def _lay_out(tensors: Mapping[str, Tensor]) -> Layout:
    """Order the arrays of a record so that none needs padding before it.

    Whole multiples of 64 bytes come first and keep their successors aligned; then wide types before narrow ones, so
    that each begins at a multiple of its own item size, as other safetensors readers need it.

    Examples
    --------
    >>> fields = _lay_out({"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(5), "c": torch.zeros(16)})
    >>> [(field.name, field.start, field.size) for field in fields]
    [('c', 0, 64), ('b', 64, 20), ('a', 84, 3), ('.pad', 87, 41)]
    """
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT > 0, -tensors[name].itemsize))
    fields, start = [], 0
    for name in order:
        tensor = tensors[name]
        fields.append(Field(name, _TYPE_NAMES[tensor.dtype], tuple(tensor.shape), start, tensor.nbytes))
        start += tensor.nbytes
    pad = -start % ALIGNMENT
    return (*fields, Field(_PAD, "U8", (pad,), start, pad)) if pad else tuple(fields)


def pack_record(
    key: str, arrays: Mapping[str, Tensor | np.ndarray | Int8Features], metadata: Mapping[str, Any] | None
) -> PackedRecord:
    """Copy a record's arrays into one block of bytes, with a checksum of each.

    Raises
    ------
    ValueError
        If there are no arrays, or one of them cannot be stored.

    Examples
    --------
    >>> packed = pack_record("ab" * 8, {"x": np.zeros(64, np.uint8)}, {"view": "identity"})
    >>> packed.checksums, packed.metadata
    ('2ffb6918c12c256e', '{"view": "identity"}')
    """
    if not arrays:
        raise ValueError(f"record {key}: it has no arrays; give at least one")
    tensors = _flatten(arrays)
    layout = _lay_out(tensors)
    data = np.zeros(layout[-1].stop, np.uint8)
    for field in layout:
        if field.name != _PAD and field.stop > field.start:  # no boxes have no bytes
            data[field.start : field.stop] = tensors[field.name].reshape(-1).view(torch.uint8).numpy()
    checksums = "".join(compute_checksum(data[field.start : field.stop]) for field in layout)
    return PackedRecord(check_key(key), layout, data, checksums, json.dumps(dict(metadata or {})))


def _index_records(packed: Sequence[PackedRecord]) -> dict[str, str]:
    """Where each record lies and how, with every layout written once: opening a store looks at this and no more.

    Examples
    --------
    >>> packed = [pack_record(key, {"x": np.zeros(64, np.uint8)}, {}) for key in ("ab" * 4, "cd" * 4)]
    >>> _index_records(packed[:1])["records"]
    '[["abababab", 0, 0, "2ffb6918c12c256e"]]'
    >>> _index_records(packed)["layouts"]
    '[[["x", "U8", [64], 0, 64]]]'
    """
    layouts: dict[Layout, int] = {}
    records, start = [], 0
    for record in packed:
        records.append([record.key, start, layouts.setdefault(record.layout, len(layouts)), record.checksums])
        start += record.data.size
    return {"layouts": json.dumps(list(layouts)), "records": json.dumps(records)}


@lru_cache(maxsize=256)
def _parse_layouts(text: str) -> tuple[Layout, ...]:
    """Layouts from their JSON text; shards that agree share the objects.

    Examples
    --------
    >>> _parse_layouts('[[["x", "U8", [2, 3], 0, 6]]]')
    ((Field(name='x', type_name='U8', shape=(2, 3), start=0, size=6),),)
    """
    layouts = json.loads(text)
    return tuple(
        tuple(Field(name, kind, tuple(shape), *place) for name, kind, shape, *place in layout) for layout in layouts
    )


def _build_header(packed: Sequence[PackedRecord]) -> bytes:
    """The head of a safetensors file: length, JSON, spaces up to a multiple of 64, with a checksum of itself inside.

    Examples
    --------
    >>> header = _build_header([pack_record("ab" * 8, {"x": np.zeros((2, 3), np.uint8)}, {})])
    >>> len(header) % 64, json.loads(header[8:])["abababababababab/x"]
    (0, {'dtype': 'U8', 'shape': [2, 3], 'data_offsets': [0, 6]})
    """
    metadata = {"format": _SHARD_FORMAT, "header_xxh3": "0" * 16, **_index_records(packed)}
    entries: dict[str, dict] = {"__metadata__": metadata | {record.key: record.metadata for record in packed}}
    start = 0
    for record in packed:
        for field in record.layout:
            offsets = [start + field.start, start + field.stop]
            entry = {"dtype": field.type_name, "shape": list(field.shape), "data_offsets": offsets}
            entries[f"{record.key}/{field.name}"] = entry
        start += record.data.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    text = text.replace(_HEADER_CHECKSUM + b"0" * 16, _HEADER_CHECKSUM + compute_checksum(text).encode(), 1)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: Path) -> tuple[dict[str, str], int, int]:
    """Metadata in a shard's header, where the shard's data begins, and how long the file is.

    Raises
    ------
    ShardError
        When the file is cut off or a bit of its header has changed.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> _ = path.write_bytes(_build_header([pack_record("ab" * 8, {"x": np.zeros(6, np.uint8)}, {})])[:70])
    >>> _read_header(path)
    Traceback (most recent call last):
        ...
    utils.store.shards.ShardError: header of ... bytes, but the file ends after 70
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ShardError("truncated", f"header of {length} bytes, but the file ends after {size}")
        text = stream.read(length)
    metadata = _parse_metadata(text)
    start = text.find(_HEADER_CHECKSUM) + len(_HEADER_CHECKSUM)
    blank = text[:start] + b"0" * 16 + text[start + 16 :]
    if compute_checksum(blank).encode() != text[start : start + 16]:
        raise ShardError("header", "the checksum of its header does not match: bits have changed")
    return metadata, 8 + length, size


def _parse_metadata(text: bytes) -> dict[str, str]:
    """The metadata at the front of a header; the tensors after it, ten times as long, need no parsing.

    Raises
    ------
    ShardError
        When the header is damaged, or of another program or format.

    Examples
    --------
    >>> _parse_metadata(b'{"__metadata__":{"format":"pt"}}')
    Traceback (most recent call last):
        ...
    utils.store.shards.ShardError: its format is 'pt', expected 'dinolith-features-2'
    """
    if not text.startswith(_METADATA):
        raise ShardError("foreign", "its header does not begin as one of this store: damaged, or made elsewhere")
    try:
        metadata, _ = json.JSONDecoder().raw_decode(text.decode(), len(_METADATA))
        stamp = metadata.get("format")
    except (ValueError, AttributeError):
        raise ShardError("header", "the metadata of its header cannot be read: bits have changed") from None
    if stamp != _SHARD_FORMAT:
        raise ShardError("foreign", f"its format is {stamp!r}, expected {_SHARD_FORMAT!r}")
    return metadata


def read_shard(path: str | Path) -> list[Record]:
    """List the records of a shard from its header alone.

    Parameters
    ----------
    path : str or Path
        A file of `shards/`.

    Returns
    -------
    list of Record
        In the order of the file.

    Raises
    ------
    ShardError
        If the header is damaged or foreign, or the file's size is not what the header says.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> packed = pack_record("ab" * 8, {"x": np.zeros((2, 3), np.uint8)}, {})
    >>> _ = path.write_bytes(_build_header([packed]) + packed.data.tobytes())
    >>> [(record.key, record.size, record.layout[0].shape) for record in read_shard(path)]
    [('abababababababab', 64, (2, 3))]
    """
    path = Path(path)
    descriptions, data_start, size = _read_header(path)
    layouts = _parse_layouts(descriptions["layouts"])
    records = [
        Record(
            key,
            path.name,
            data_start + start,
            layouts[number][-1].stop,
            layouts[number],
            checksums,
            descriptions[key],
        )
        for key, start, number, checksums in json.loads(descriptions["records"])
    ]
    stop = records[-1].offset + records[-1].size if records else data_start
    if stop != size:
        kind = "truncated" if size < stop else "oversized"
        raise ShardError(kind, f"{size} bytes, its header says {stop}")
    return records


def write_shard(folder: Path, packed: Sequence[PackedRecord]) -> str:
    """Write a shard that is complete or absent; give its name.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> name = write_shard(folder, [pack_record("ab" * 8, {"x": np.zeros(6, np.uint8)}, {})])
    >>> [path.name for path in folder.iterdir()] == [name], len(read_shard(folder / name))
    (True, 1)
    """
    name = f"{secrets.token_hex(16)}.safetensors"
    temporary = folder / f".{socket.gethostname()}-{os.getpid()}-{name}.partial"
    handle = _create_locked(temporary)
    try:
        _write_all(handle, [_build_header(packed), *[record.data for record in packed]])
        os.fsync(handle)
        os.rename(temporary, folder / name)
        sync(folder)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)
    return name


def _create_locked(path: Path) -> int:
    """Create a file and lock it, so that others can tell a live writer's file from a dead one's.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / ".x.partial"
    >>> handle = _create_locked(path)
    >>> remove_leftover(path), os.close(handle), remove_leftover(path)
    (False, None, True)
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: then nobody can take this file for a leftover either
            return handle
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)  # a sweep took it for a leftover between the two calls


def remove_leftover(path: Path) -> bool:
    """Remove the temporary file of a dead writer; whether it was one.

    Examples
    --------
    >>> remove_leftover(Path("/no/such/.x.partial"))
    False
    """
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:  # gone meanwhile, or somebody else's
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:  # its writer lives
        return False
    finally:
        os.close(handle)
    return True


def _skip_bytes(buffers: Sequence[Any], count: int) -> list[memoryview]:
    """What is left of a row of buffers after the first `count` bytes.

    Examples
    --------
    >>> [bytes(rest) for rest in _skip_bytes([b"abc", b"de", b""], 2)]
    [b'c', b'de']
    """
    rest = []
    for buffer in buffers:
        view = memoryview(buffer)
        if count < view.nbytes:
            rest.append(view[count:])
        count = max(count - view.nbytes, 0)
    return rest


def _write_all(handle: int, buffers: Sequence[Any]) -> None:
    r"""Write buffers one after another, whatever number of bytes the system takes at a time.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryFile() as stream:
    ...     _write_all(stream.fileno(), [b"abc", np.zeros(2, np.uint8)])
    ...     os.pread(stream.fileno(), 9, 0)
    b'abc\x00\x00'
    """
    rest = _skip_bytes(buffers, 0)
    while rest:
        count = os.writev(handle, rest[:_MAX_BUFFERS])
        rest = _skip_bytes(rest, count)


def read_all(handle: int, buffers: Sequence[np.ndarray], position: int) -> None:
    """Fill buffers from a file's bytes at `position`.

    Raises
    ------
    EOFError
        If the file ends before the buffers are full.

    Examples
    --------
    >>> import tempfile
    >>> first, second = np.zeros(2, np.uint8), np.zeros(1, np.uint8)
    >>> with tempfile.TemporaryFile() as stream:
    ...     _ = stream.write(bytes([5, 6, 7, 8])), stream.flush()
    ...     read_all(stream.fileno(), [first, second], 1)
    >>> first.tolist(), second.tolist()
    ([6, 7], [8])
    """
    rest = _skip_bytes(buffers, 0)
    while rest:  # more than once after a signal, and beyond 2 GiB
        count = os.preadv(handle, rest[:_MAX_BUFFERS], position)
        if not count:
            raise EOFError(f"the file ends {sum(view.nbytes for view in rest)} bytes early")
        position += count
        rest = _skip_bytes(rest, count)


def select_public(layout: Layout) -> list[Field]:
    """The arrays that a caller gave, without padding and scales.

    Examples
    --------
    >>> pad = Field(".pad", "U8", (3,), 5, 3)
    >>> select_public((Field("m", "I8", (1,), 0, 1), Field("m.scale", "F32", (1,), 1, 4), pad))
    [Field(name='m', type_name='I8', shape=(1,), start=0, size=1)]
    """
    return [field for field in layout if "." not in field.name]


def select_fields(layout: Layout, names: Sequence[str] | None) -> dict[str, Field]:
    """The fields behind some names, with the scales that decode them.

    Raises
    ------
    ValueError
        If the record has no array of a name.

    Examples
    --------
    >>> select_fields((Field("x", "U8", (1,), 0, 1),), ["y"])
    Traceback (most recent call last):
        ...
    ValueError: the record has no array 'y'; it has: x
    """
    public = [field.name for field in select_public(layout)]
    wanted = set(public if names is None else names)
    for name in sorted(wanted.difference(public)):
        raise ValueError(f"the record has no array {name!r}; it has: {', '.join(public)}")
    return {field.name: field for field in layout if field.name.removesuffix(SCALE_SUFFIX) in wanted}


def plan_reads(layout: Layout, names: Collection[str]) -> list[list[int]]:
    """Stretches of a record that are read in one go: the numbers of the arrays that each fills.

    Arrays that lie together share a stretch until it fills the cache of a core, in which their checksums are computed.

    Examples
    --------
    >>> layout = tuple(Field(name, "U8", (4,), 4 * index, 4) for index, name in enumerate("abcd"))
    >>> plan_reads(layout, {"a", "b", "d"})
    [[0, 1], [3]]
    >>> plan_reads((Field("a", "U8", (1 << 20,), 0, 1 << 20), Field("b", "U8", (4,), 1 << 20, 4)), {"a", "b"})
    [[0], [1]]
    """
    runs: list[list[int]] = []
    read = _MAX_RUN + 1  # bytes of the stretch at hand; beyond the limit the next array begins another
    for number, field in enumerate(layout):
        if field.name not in names:
            read = _MAX_RUN + 1
        elif read + field.size > _MAX_RUN:
            runs.append([number])
            read = field.size
        else:
            runs[-1].append(number)
            read += field.size
    return runs
