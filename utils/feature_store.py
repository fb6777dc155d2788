"""A content-addressed store of arrays in safetensors shards that are read by position and know when they are damaged.

On disk
-------
``store.json``
    The format's name and version.
``shards/<random>.safetensors``
    Records, each a group of tensors ``<key>/<name>``. The bytes of a record lie together and begin at a multiple of
    64, so that one ``preadv`` fills all its places in a batch at the speed of memcpy. ``__metadata__`` holds a
    checksum of the header, and per record a checksum of its bytes and what its maker wrote about it.
``aside/<file>[@<key>].json``
    Why a shard, or one record of it, is not used any more.
``manifests/<key>.json``
    Small JSON documents with a checksum.

A shard is complete or absent: it is written to a temporary file, flushed to disk and renamed, and never changed after.
Names are random, so any number of processes write at once; when two store the same key, the first one found is used.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import math
import os
import queue
import re
import secrets
import shutil
import socket
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_64_hexdigest

from utils.errors import DataError
from utils.files import digest_json, read_json, sync, write_bytes, write_json

FORMAT = "dinolith-features"
VERSION = 1
ALIGNMENT = 64  # source and destination on the same cache line: preadv runs at 17 GB/s, else at 12 (measured)
FEATURE_DTYPES = ("fp16", "bf16", "int8")

_SHARD_FORMAT = f"{FORMAT}-{VERSION}"
_SCALE = ".scale"  # the companion of an int8 map; no name of a caller can hold a dot
_PAD = ".pad"
_TYPES = {
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
_TYPE_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAX_RECORDS_PER_SHARD = 4096  # keeps headers of tiny records far below the 100 MB that safetensors allows
_MAX_BUFFERS = 1024  # IOV_MAX of Linux
_METADATA = b'{"__metadata__":'
_HEADER_CHECKSUM = b'"header_xxh3":"'


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


# ---------------------------------------------------------------------------------------------------------------------
# How feature maps are written


@dataclass(frozen=True, eq=False)
class Int8Features:
    """A feature map as int8 with one scale per channel.

    Parameters
    ----------
    values : Tensor of int8, shape (C, ...)
        Steps of the channel's scale, -127 to 127.
    scales : Tensor of float32, shape (C,)
        Size of one step.

    Examples
    --------
    >>> Int8Features(torch.tensor([[4, -2]], dtype=torch.int8), torch.tensor([0.5])).decode().tolist()
    [[2.0, -1.0]]
    """

    values: Tensor
    scales: Tensor

    def decode(self) -> Tensor:
        """The feature map as float32: float16 would add an error of its own.

        Examples
        --------
        >>> encode_features(torch.tensor([[127.0, 63.6]]), "int8").decode().tolist()
        [[127.0, 64.0]]
        """
        return _multiply_scales(self.values[None], self.scales[None])[0]


def encode_features(array: Tensor | np.ndarray, dtype: str) -> Tensor | Int8Features:
    """Bring a feature map into the form in which it is stored.

    Parameters
    ----------
    array : Tensor or ndarray, shape (C, h, w)
        Finite values; may lie on an accelerator.
    dtype : {"fp16", "bf16", "int8"}
        int8 has a symmetric scale per channel; its error is at most half a scale. It is read back as float32, the
        other two as they are.

    Returns
    -------
    Tensor or Int8Features
        What `StoreWriter.put` takes.

    Raises
    ------
    DataError
        If a value is not finite, or beyond the range of fp16.
    ValueError
        If `dtype` is not one of the three, or an int8 map has no channel axis or no cells.

    Examples
    --------
    >>> encode_features(torch.ones(2, 1, 3), "fp16").dtype
    torch.float16
    >>> encode_features(torch.tensor([[[-254.0, 127.0]]]), "int8").values.tolist()
    [[[-127, 64]]]
    >>> encode_features(torch.full((1, 1, 1), 7e4), "fp16")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: feature map reaches 70000, fp16 ends at 65504: choose bf16 (or int8) as the stored dtype
    """
    if dtype not in FEATURE_DTYPES:
        raise ValueError(f"unknown feature dtype {dtype!r}; known: {', '.join(FEATURE_DTYPES)}")
    features = torch.as_tensor(array).detach()
    if dtype == "int8":
        return _encode_int8(features)
    encoded = features.to({"fp16": torch.float16, "bf16": torch.bfloat16}[dtype])
    _check_finite(encoded, features)
    return encoded


def _encode_int8(features: Tensor) -> Int8Features:
    """Divide each channel by its largest magnitude / 127 and round.

    Examples
    --------
    >>> encoded = _encode_int8(torch.tensor([[1.0, -127.0], [0.0, 0.0]]))
    >>> encoded.values.tolist(), encoded.scales[0].item()
    ([[1, -127], [0, 0]], 1.0)
    """
    if features.ndim < 2 or not features.numel():
        raise ValueError(f"an int8 feature map must have shape (C, h, w) with cells, got {tuple(features.shape)}")
    features = features.float()
    _check_finite(features, features)
    peaks = features.flatten(1).abs().amax(dim=1)
    scales = (peaks / 127).clamp(min=torch.finfo(torch.float32).tiny)  # a channel of zeros must not divide by zero
    steps = features / scales.view(-1, *[1] * (features.ndim - 1))
    return Int8Features(steps.round_().clamp_(-127, 127).to(torch.int8), scales)


def _check_finite(encoded: Tensor, features: Tensor) -> None:
    """Raise when encoding left something that is not a number, and say why.

    Examples
    --------
    >>> _check_finite(torch.tensor([float("inf")]), torch.tensor([float("nan")]))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: feature map holds NaN or infinity: compute the backbone in bf16 or fp32, never fp16
    """
    if not encoded.numel() or all(bool(torch.isfinite(bound)) for bound in torch.aminmax(encoded)):
        return
    peak = features.abs().max().item()
    if math.isfinite(peak):
        raise DataError(f"feature map reaches {peak:g}, fp16 ends at 65504: choose bf16 (or int8) as the stored dtype")
    raise DataError("feature map holds NaN or infinity: compute the backbone in bf16 or fp32, never fp16")


def _multiply_scales(values: Tensor, scales: Tensor, out: Tensor | None = None) -> Tensor:
    """Decode a batch of int8 maps, shape (B, C, ...), with scales (B, C).

    Examples
    --------
    >>> _multiply_scales(torch.ones(1, 2, 1, dtype=torch.int8), torch.tensor([[2.0, 3.0]])).tolist()
    [[[2.0], [3.0]]]
    """
    out = torch.empty(values.shape) if out is None else out
    out.copy_(values)  # then in place: a product of two types is eight times as slow
    return out.mul_(scales.reshape(*scales.shape, *[1] * (values.ndim - 2)))


def encoded_bytes(shape: Sequence[int], dtype: str) -> int:
    """How many bytes a feature map takes on disk.

    Parameters
    ----------
    shape : sequence of int
        (C, h, w).
    dtype : {"fp16", "bf16", "int8"}
        Stored type.

    Examples
    --------
    >>> encoded_bytes((384, 32, 32), "fp16"), encoded_bytes((384, 32, 32), "int8")
    (786432, 394752)
    """
    if dtype not in FEATURE_DTYPES:
        raise ValueError(f"unknown feature dtype {dtype!r}; known: {', '.join(FEATURE_DTYPES)}")
    cells = math.prod(shape)
    return cells + 4 * shape[0] if dtype == "int8" else 2 * cells


# ---------------------------------------------------------------------------------------------------------------------
# Records and shards


def _checksum(data: np.ndarray | bytes) -> str:
    """Fingerprint of bytes against accidents, not against intent: xxh3 runs at the speed of memory.

    Examples
    --------
    >>> _checksum(b""), _checksum(np.zeros(2, np.uint8)) == _checksum(bytes(2))
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
    description : str
        JSON text with `xxh3`, the checksum of its bytes, and `metadata`.

    Examples
    --------
    >>> Record("ab", "x.safetensors", 64, 8, (), '{"xxh3": "0f", "metadata": {"view": "hflip"}}').checksum
    '0f'
    """

    key: str
    shard: str
    offset: int
    size: int
    layout: Layout
    description: str

    @property
    def checksum(self) -> str:
        """xxh3 (64 bits) of the record's bytes, as written.

        Examples
        --------
        >>> Record("ab", "x", 0, 0, (), '{"xxh3": "0f"}').checksum
        '0f'
        """
        return json.loads(self.description)["xxh3"]


@dataclass(frozen=True, slots=True, eq=False)
class _PackedRecord:
    """A record ready to be written: its bytes in file order, padded to a multiple of 64.

    Examples
    --------
    >>> packed = _pack("ab" * 8, {"x": np.arange(3, dtype=np.uint8)}, {})
    >>> packed.data.size, packed.data[:4].tolist()
    (64, [0, 1, 2, 0])
    """

    key: str
    layout: Layout
    data: np.ndarray
    description: str


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


def _check_key(key: str) -> str:
    """Give back a key that can be a file name and a part of a tensor's name.

    Examples
    --------
    >>> _check_key("../x")
    Traceback (most recent call last):
        ...
    ValueError: a key must be 8 to 128 lower-case hexadecimal digits, got '../x'; record_key() makes one
    """
    if not re.fullmatch(r"[0-9a-f]{8,128}", key):
        raise ValueError(f"a key must be 8 to 128 lower-case hexadecimal digits, got {key!r}; record_key() makes one")
    return key


def _as_tensor(name: str, value: Tensor | np.ndarray) -> Tensor:
    """An array as a tensor in main memory, of a type that the store knows.

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
    >>> list(_flatten({"map_0": encode_features(torch.ones(2, 1, 1), "int8")}))
    ['map_0', 'map_0.scale']
    """
    tensors = {}
    for name, value in arrays.items():
        if isinstance(value, Int8Features):
            tensors[name] = _as_tensor(name, value.values)
            tensors[name + _SCALE] = value.scales.detach().cpu().float()
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


def _pack(
    key: str, arrays: Mapping[str, Tensor | np.ndarray | Int8Features], metadata: Mapping[str, Any] | None
) -> _PackedRecord:
    """Copy a record's arrays into one block of bytes, with its checksum.

    Examples
    --------
    >>> packed = _pack("ab" * 8, {"x": np.zeros(64, np.uint8)}, {"view": "identity"})
    >>> json.loads(packed.description)
    {'xxh3': '2ffb6918c12c256e', 'metadata': {'view': 'identity'}}
    """
    if not arrays:
        raise ValueError(f"record {key}: it has no arrays; give at least one")
    tensors = _flatten(arrays)
    layout = _lay_out(tensors)
    data = np.zeros(layout[-1].stop, np.uint8)
    for field in layout:
        if field.name != _PAD:
            data[field.start : field.stop] = tensors[field.name].reshape(-1).view(torch.uint8).numpy()
    description = {"xxh3": _checksum(data), "metadata": dict(metadata or {})}
    return _PackedRecord(_check_key(key), layout, data, json.dumps(description))


def _index_records(packed: Sequence[_PackedRecord]) -> dict[str, str]:
    """Where each record lies and how, with every layout written once: opening a store looks at this and no more.

    Examples
    --------
    >>> packed = [_pack(key, {"x": np.zeros(64, np.uint8)}, {}) for key in ("ab" * 4, "cd" * 4)]
    >>> _index_records(packed)
    {'layouts': '[[["x", "U8", [64], 0, 64]]]', 'records': '[["abababab", 0, 0], ["cdcdcdcd", 64, 0]]'}
    """
    layouts: dict[Layout, int] = {}
    records, start = [], 0
    for record in packed:
        records.append([record.key, start, layouts.setdefault(record.layout, len(layouts))])
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


def _build_header(packed: Sequence[_PackedRecord]) -> bytes:
    """The head of a safetensors file: length, JSON, spaces up to a multiple of 64, with a checksum of itself inside.

    Examples
    --------
    >>> header = _build_header([_pack("ab" * 8, {"x": np.zeros((2, 3), np.uint8)}, {})])
    >>> len(header) % 64, json.loads(header[8:])["abababababababab/x"]
    (0, {'dtype': 'U8', 'shape': [2, 3], 'data_offsets': [0, 6]})
    """
    metadata = {"format": _SHARD_FORMAT, "header_xxh3": "0" * 16, **_index_records(packed)}
    entries: dict[str, dict] = {"__metadata__": metadata | {record.key: record.description for record in packed}}
    start = 0
    for record in packed:
        for field in record.layout:
            offsets = [start + field.start, start + field.stop]
            entry = {"dtype": field.type_name, "shape": list(field.shape), "data_offsets": offsets}
            entries[f"{record.key}/{field.name}"] = entry
        start += record.data.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    text = text.replace(_HEADER_CHECKSUM + b"0" * 16, _HEADER_CHECKSUM + _checksum(text).encode(), 1)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: Path) -> tuple[dict[str, str], int, int]:
    """Metadata in a shard's header, where the shard's data begins, and how long the file is.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> _ = path.write_bytes(_build_header([_pack("ab" * 8, {"x": np.zeros(6, np.uint8)}, {})])[:70])
    >>> _read_header(path)
    Traceback (most recent call last):
        ...
    utils.feature_store.ShardError: header of ... bytes, but the file ends after 70
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
    if _checksum(blank).encode() != text[start : start + 16]:
        raise ShardError("header", "the checksum of its header does not match: bits have changed")
    return metadata, 8 + length, size


def _parse_metadata(text: bytes) -> dict[str, str]:
    """The metadata at the front of a header; the tensors after it, ten times as long, need no parsing.

    Examples
    --------
    >>> _parse_metadata(b'{"__metadata__":{"format":"pt"}}')
    Traceback (most recent call last):
        ...
    utils.feature_store.ShardError: its format is 'pt', expected 'dinolith-features-1'
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
    >>> packed = _pack("ab" * 8, {"x": np.zeros((2, 3), np.uint8)}, {})
    >>> _ = path.write_bytes(_build_header([packed]) + packed.data.tobytes())
    >>> [(record.key, record.size, record.layout[0].shape) for record in read_shard(path)]
    [('abababababababab', 64, (2, 3))]
    """
    path = Path(path)
    descriptions, data_start, size = _read_header(path)
    layouts = _parse_layouts(descriptions["layouts"])
    records = [
        Record(key, path.name, data_start + start, layouts[number][-1].stop, layouts[number], descriptions[key])
        for key, start, number in json.loads(descriptions["records"])
    ]
    stop = records[-1].offset + records[-1].size if records else data_start
    if stop != size:
        kind = "truncated" if size < stop else "oversized"
        raise ShardError(kind, f"{size} bytes, its header says {stop}")
    return records


def _write_shard(folder: Path, packed: Sequence[_PackedRecord]) -> str:
    """Write a shard that is complete or absent; give its name.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> name = _write_shard(folder, [_pack("ab" * 8, {"x": np.zeros(6, np.uint8)}, {})])
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
    >>> _remove_leftover(path), os.close(handle), _remove_leftover(path)
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


def _remove_leftover(path: Path) -> bool:
    """Remove the temporary file of a dead writer; whether it was one.

    Examples
    --------
    >>> _remove_leftover(Path("/no/such/.x.partial"))
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


def _read_all(handle: int, buffers: Sequence[np.ndarray], position: int) -> None:
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
    ...     _read_all(stream.fileno(), [first, second], 1)
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


def _read_through(path: Path, step: int = 1 << 20) -> int:
    """Read a file from end to end and forget what it holds; its size.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> _ = path.write_bytes(bytes(10))
    >>> _read_through(path, step=4)
    10
    """
    buffer = bytearray(step)
    with open(path, "rb", buffering=0) as stream:
        return sum(iter(lambda: stream.readinto(buffer), 0))


def available_bytes() -> int:
    """Memory that can be had without swapping, as Linux estimates it; 0 where it does not.

    Examples
    --------
    >>> available_bytes() == 0 or available_bytes() > 1 << 20
    True
    """
    path = Path("/proc/meminfo")
    text = path.read_text() if path.exists() else ""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


# ---------------------------------------------------------------------------------------------------------------------
# What a process keeps open and reuses


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


class _OpenShards:
    """The files read last, at most `limit` of them; others are closed once nobody reads them.

    Examples
    --------
    >>> files = _OpenShards(Path("/dev"), limit=1)
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
        >>> files = _OpenShards(Path("/dev"), limit=4)
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
        >>> files = _OpenShards(Path("/dev"), limit=4)
        >>> _ = files.open("null")
        >>> files.close("null"), list(files.descriptors)
        (None, [])
        """
        with self.lock:
            self.descriptors.pop(name, None)


class _BufferPool:
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
    >>> pool = _BufferPool()
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
        >>> tensor = _BufferPool().take((3, 40000), torch.float16)
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
        >>> _BufferPool()._find(100000).size
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
        >>> pool = _BufferPool(keep_bytes=150000)
        >>> for _ in range(2):
        ...     pool.returned.append(np.empty(100000, np.uint8))
        >>> pool._collect(), len(pool.idle)
        (None, 1)
        """
        while self.returned:
            self.idle.append(self.returned.popleft())
        while sum(memory.size for memory in self.idle) > self.keep_bytes:
            self.idle.pop(0)


class _ProcessState:
    """What must not be shared between processes: locks, open files and memory.

    Examples
    --------
    >>> _ProcessState(Path("/dev"), open_files=2).pid == os.getpid()
    True
    """

    def __init__(self, shards: Path, open_files: int):
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.files = _OpenShards(shards, open_files)
        self.pool = _BufferPool()


# ---------------------------------------------------------------------------------------------------------------------
# The store


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
        utils.errors.DataError: store: 1,000 records need 9.0 GB, free are 1.0 GB (0 B of them kept ... fewer ...
        """
        if not self.records or self.bytes + keep_free_bytes <= self.free_bytes:
            return
        raise DataError(
            f"{self.folder}: {self.records:,} records need {format_bytes(self.bytes)}, free are "
            f"{format_bytes(self.free_bytes)} ({format_bytes(keep_free_bytes)} of them kept free). Store fewer views "
            "or fewer blocks, store int8 instead of fp16, use a larger stride between windows, free space, put the "
            "store on another disk, or compute features online"
        )


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


class _Index:
    """Which record lies where, from the headers of the shards; it only ever grows, so threads may read it meanwhile.

    Parameters
    ----------
    shards : Path
        Their folder.
    aside : frozenset of str
        Names of the notes in `aside/`.

    Examples
    --------
    >>> _Index(Path("/nowhere"), frozenset({"a.safetensors.json"})).is_aside("a.safetensors")
    True
    """

    def __init__(self, shards: Path, aside: frozenset[str]):
        self.shards = shards
        self.aside = aside
        self.records: dict[str, Record] = {}
        self.duplicates: dict[str, list[Record]] = {}  # other copies, when two processes stored a record at once
        self.sizes: dict[str, int] = {}  # bytes of every file looked at
        self.unusable: set[str] = set()

    def is_aside(self, shard: str, key: str = "") -> bool:
        """Whether a shard, or a record of it, was set aside.

        Examples
        --------
        >>> index = _Index(Path("/nowhere"), frozenset({"a.safetensors@00ff.json"}))
        >>> index.is_aside("a.safetensors", "00ff"), index.is_aside("a.safetensors")
        (True, False)
        """
        return (f"{shard}@{key}.json" if key else f"{shard}.json") in self.aside

    def load(self, name: str) -> None:
        """Take in the records of a shard, once; a shard that cannot be used is remembered as such.

        Examples
        --------
        >>> import tempfile
        >>> index = _Index(Path(tempfile.mkdtemp()), frozenset())
        >>> _ = (index.shards / "a.safetensors").write_bytes(b"garbage garbage")
        >>> index.load("a.safetensors"), index.unusable, index.records
        (None, {'a.safetensors'}, {})
        """
        if name in self.sizes:
            return
        path = self.shards / name
        try:
            self.sizes[name] = path.stat().st_size
            records = [] if self.is_aside(name) else read_shard(path)
        except (ShardError, OSError):
            self.unusable.add(name)  # verify() reads it again and says what is wrong
            return
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in a record: the first of its key is used, others are remembered, one set aside is left out.

        Examples
        --------
        >>> index = _Index(Path("/nowhere"), frozenset({"a@00ff.json"}))
        >>> for shard in "abc":
        ...     index.add(Record("00ff", shard, 64, 64, (), ""))
        >>> [record.shard for record in index.find_all("00ff")]
        ['b', 'c']
        """
        if self.is_aside(record.shard) or self.is_aside(record.shard, record.key):
            return
        if record.key in self.records:
            self.duplicates.setdefault(record.key, []).append(record)
        else:
            self.records[record.key] = record

    def exclude(self, aside: frozenset[str]) -> _Index:
        """The index after more was set aside; itself when nothing was.

        Examples
        --------
        >>> index = _Index(Path("/nowhere"), frozenset())
        >>> index.add(Record("00ff", "a", 64, 64, (), ""))
        >>> len(index.exclude(frozenset({"a@00ff.json"})).records), index.exclude(frozenset()) is index
        (0, True)
        """
        if aside == self.aside:
            return self
        index = _Index(self.shards, aside)
        index.sizes, index.unusable = dict(self.sizes), set(self.unusable)
        for record in itertools.chain(self.records.values(), *self.duplicates.values()):
            index.add(record)
        return index

    def find_all(self, key: str) -> list[Record]:
        """Every copy of a record that is in use, the one that is read first.

        Examples
        --------
        >>> _Index(Path("/nowhere"), frozenset()).find_all("00ff")
        []
        """
        return [self.records[key], *self.duplicates.get(key, [])] if key in self.records else []

    def has_dead_records(self, name: str, kept: Mapping[str, Record]) -> bool:
        """Whether a shard holds a record that is not kept; a file that cannot be read is dead once set aside.

        Examples
        --------
        >>> import tempfile
        >>> index = _Index(Path(tempfile.mkdtemp()), frozenset())
        >>> name = _write_shard(index.shards, [_pack("ab" * 8, {"x": np.zeros(1)}, {})])
        >>> index.load(name)
        >>> index.has_dead_records(name, {}), index.has_dead_records(name, index.records)
        (True, False)
        """
        if self.is_aside(name):
            return True
        if name in self.unusable:
            return False
        records = read_shard(self.shards / name)
        return any(record.key not in kept or kept[record.key].shard != name for record in records)


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
    ...     writer.put(key, {"image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3)}, {"view": "identity"})
    >>> store.read(key)["image"].tolist(), store.metadata(key)
    ([[[0, 1, 2], [3, 4, 5]]], {'view': 'identity'})
    """

    def __init__(self, folder: str | Path, create: bool = True, threads: int = 1, open_files: int = 128):
        self.folder = Path(folder)
        self.threads = threads
        self.open_files = open_files
        self._state = _ProcessState(self._shards, open_files)
        self._index = _Index(self._shards, frozenset())
        self._check_version(create)
        if create:
            self._remove_leftovers()
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_state"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = _ProcessState(self._shards, self.open_files)

    def __len__(self) -> int:
        return len(self._index.records)

    def __contains__(self, key: str) -> bool:
        return key in self._index.records

    # -- folder and index

    @property
    def _shards(self) -> Path:
        """The folder of the shards.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp())._shards.name
        'shards'
        """
        return self.folder / "shards"

    @property
    def _process(self) -> _ProcessState:
        """Locks, files and memory of this process; a forked child gets its own.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp())._process.pid == os.getpid()
        True
        """
        if self._state.pid != os.getpid():
            self._state = _ProcessState(self._shards, self.open_files)
        return self._state

    def _check_version(self, create: bool) -> None:
        """Make the folder, or see that it is a store of this version.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_json(folder / "store.json", {"format": "dinolith-features", "version": 99})
        >>> FeatureStore(folder)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../store.json: expected format dinolith-features, version 1, got ...version 99; use ...
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
        if (name, version) != (FORMAT, VERSION):
            raise DataError(
                f"{path}: expected format {FORMAT}, version {VERSION}, got {name}, version {version}; "
                "use another folder, or the program that wrote this one"
            )

    def _remove_leftovers(self) -> None:
        """Remove temporary shards whose writers are dead.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> leftover = FeatureStore(folder).folder / "shards" / ".host-1-x.safetensors.partial"
        >>> _ = leftover.write_bytes(b"half")
        >>> _ = FeatureStore(folder)
        >>> leftover.exists()
        False
        """
        for path in self._shards.glob(".*.partial"):
            _remove_leftover(path)

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
        ...     writer.put("ab" * 8, {"x": np.zeros(3)})
        >>> len(mine), mine.refresh()
        (0, 1)
        """
        with self._process.lock:
            aside = self.folder / "aside"
            markers = frozenset(os.listdir(aside)) if aside.exists() else frozenset()
            names = self._shard_names()
            index = self._index.exclude(markers)
            if not markers >= self._index.aside or not index.sizes.keys() <= set(names):
                index = _Index(self._shards, markers)  # a note or a shard is gone: begin again, readers keep the old
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

    @property
    def size_bytes(self) -> int:
        """What the shards take on disk.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(1000)})
        >>> 8000 <= store.size_bytes < 9000
        True
        """
        return sum(self._index.sizes.values())

    def metadata(self, key: str) -> dict[str, Any]:
        """What the maker of a record wrote about it.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(3)}, {"mean": [0.5]})
        >>> store.metadata("ab" * 8)
        {'mean': [0.5]}
        """
        return json.loads(self._record(key).description)["metadata"]

    def describe(self, key: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and types of a record's arrays, as they are read.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"map_0": encode_features(torch.ones(2, 1, 3), "int8")})
        >>> store.describe("ab" * 8)
        {'map_0': ((2, 1, 3), torch.float32)}
        """
        layout = self._record(key).layout
        return {field.name: (field.shape, _decoded_type(layout, field)) for field in _public(layout)}

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

    def read(self, key: str, verify: bool = False) -> dict[str, Tensor]:
        """Read one record.

        Parameters
        ----------
        key : str
            Its name.
        verify : bool
            Also compare its checksum (costs less than reading).

        Returns
        -------
        dict of str to Tensor
            All arrays; int8 feature maps as float32.

        Raises
        ------
        DataError
            If it is not there, is cut off, or `verify` finds changed bits.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"label": np.array([[3, 255]], np.uint8), "map_0": torch.ones(1, 1, 2).half()})
        >>> record = store.read("ab" * 8, verify=True)
        >>> record["label"].tolist(), record["map_0"].dtype
        ([[3, 255]], torch.float16)
        """
        record = self._record(key)
        data = self._read_bytes(record)
        if verify and _checksum(data.numpy()) != record.checksum:
            raise DataError(self._describe_damage(record))
        arrays = {}
        for field in record.layout:
            flat = data[field.start : field.stop].view(_TYPES[field.type_name])
            arrays[field.name] = flat.view(field.shape)
        return {field.name: _decode(arrays, field.name) for field in _public(record.layout)}

    def _read_bytes(self, record: Record) -> Tensor:
        """The bytes of a record as they lie in the file.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.full(2, 7, np.uint8)})
        >>> store._read_bytes(store._record("ab" * 8))[:3].tolist()
        [7, 7, 0]
        """
        data = self.memory((record.size,), torch.uint8)
        self._read_into(record, [data.numpy()], 0)
        return data

    def _read_into(self, record: Record, buffers: Sequence[np.ndarray], start: int) -> None:
        """Fill buffers with a record's bytes from `start` on.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store._read_into(Record("ab", "gone.safetensors", 0, 4, (), ""), [np.zeros(4, np.uint8)], 0)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../shards/gone.safetensors: cannot read record ab (...); run the verify phase
        """
        try:
            descriptor = self._process.files.open(record.shard)
            _read_all(descriptor.handle, buffers, record.offset + start)
        except (OSError, EOFError) as error:
            path = self._shards / record.shard
            raise DataError(f"{path}: cannot read record {record.key} ({error}); run the verify phase") from error

    def read_batch(
        self, keys: Sequence[str], names: Sequence[str] | None = None, out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Read records of equal shapes straight into stacked tensors.

        Parameters
        ----------
        keys : sequence of str
            B records, in any order, repeats allowed; at least one.
        names : sequence of str, optional
            Which arrays; all by default. Others are not read.
        out : mapping of str to Tensor, optional
            Contiguous tensors of at least B rows to fill. Without it memory is taken from a pool to which it returns
            by itself when its tensors are gone, so that `out` is seldom needed.

        Returns
        -------
        dict of str to Tensor, shape (B, ...)
            In the order of `names`; int8 feature maps as float32.

        Raises
        ------
        DataError
            If a record is not there or cut off, or the records' shapes or types differ.
        ValueError
            If `keys` is empty, a name is unknown, or a tensor of `out` does not fit.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     for value in range(3):
        ...         writer.put(f"{value:08x}", {"x": np.full((1, 2), value), "y": np.zeros(5)})
        >>> batch = store.read_batch(["00000002", "00000000"], names=["x"])
        >>> {name: tensor.tolist() for name, tensor in batch.items()}
        {'x': [[[2, 2]], [[0, 0]]]}
        """
        if not keys:
            raise ValueError("read_batch needs at least one key: an empty batch has no shapes")
        records = [self._record(key) for key in keys]
        fields = self._common_fields(records, names)
        arrays = {field.name: self._target(field, len(keys), fields, out) for field in fields.values()}
        rows = {name: _byte_rows(array) for name, array in arrays.items()}
        self._fill(records, rows)
        wanted = names if names is not None else [name for name in fields if not name.endswith(_SCALE)]
        return {name: self._decode_batch(arrays, name, out) for name in wanted}

    def _common_fields(self, records: Sequence[Record], names: Sequence[str] | None) -> dict[str, Field]:
        """The fields to read, after a check that all records have them alike.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> narrow = Record("aa", "s", 0, 2, (Field("x", "U8", (2,), 0, 2),), "")
        >>> wide = Record("bb", "s", 0, 3, (Field("x", "U8", (3,), 0, 3),), "")
        >>> store._common_fields([narrow, wide], None)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...: records aa and bb cannot be stacked: 'x' is U8 (2,) and U8 (3,); read ...
        """
        first = records[0]
        fields = _select(first.layout, names)
        for record in {id(record.layout): record for record in records}.values():
            others = _select(record.layout, names)
            for name in dict.fromkeys([*fields, *others]):
                mine, other = fields.get(name), others.get(name)
                if mine is None or other is None or mine[1:3] != other[1:3]:
                    raise DataError(
                        f"{self.folder}: records {first.key} and {record.key} cannot be stacked: {name!r} is "
                        f"{_shape_text(mine)} and {_shape_text(other)}; read them in separate batches "
                        "(batch_size: 1), or store windows of one size"
                    )
        return fields

    def _target(self, field: Field, rows: int, fields: Mapping[str, Field], out: Mapping[str, Tensor] | None) -> Tensor:
        """Where the bytes of a field go: the caller's tensor, or memory of the pool.

        Examples
        --------
        >>> import tempfile
        >>> field = Field("x", "F16", (2, 3), 0, 12)
        >>> FeatureStore(tempfile.mkdtemp())._target(field, 4, {"x": field}, None).shape
        torch.Size([4, 2, 3])
        """
        dtype = _TYPES[field.type_name]
        if out is None or field.name not in out or field.name + _SCALE in fields:
            return self.memory((rows, *field.shape), dtype)
        return _check_out(field.name, out[field.name], rows, field.shape, dtype)

    def _decode_batch(self, arrays: Mapping[str, Tensor], name: str, out: Mapping[str, Tensor] | None) -> Tensor:
        """A stacked array as it is handed out: as read, or int8 multiplied with its scales.

        Examples
        --------
        >>> import tempfile
        >>> values, scales = torch.ones(1, 2, 1, dtype=torch.int8), torch.tensor([[2.0, 3.0]])
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store._decode_batch({"m": values, "m.scale": scales}, "m", None).tolist()
        [[[2.0], [3.0]]]
        """
        array = arrays[name]
        if name + _SCALE not in arrays:
            return array
        if out is not None and name in out:
            target = _check_out(name, out[name], len(array), array.shape[1:], torch.float32)
        else:
            target = self.memory(array.shape, torch.float32)
        return _multiply_scales(array, arrays[name + _SCALE], target)

    def _fill(self, records: Sequence[Record], rows: Mapping[str, np.ndarray]) -> None:
        """Read each record into its row of every array, in the order of the disk.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.array([5, 6], np.uint8)})
        >>> rows = np.zeros((1, 2), np.uint8)
        >>> store._fill([store._record("ab" * 8)], {"x": rows}), rows.tolist()
        (None, [[5, 6]])
        """
        runs = {id(record.layout): _runs(record.layout, rows) for record in records}

        def read_row(index: int) -> None:
            record = records[index]
            for start, names in runs[id(record.layout)]:
                self._read_into(record, [rows[name][index] for name in names], start)

        order = sorted(range(len(records)), key=lambda index: (records[index].shard, records[index].offset))
        if self.threads > 1 and len(order) > 1:
            with ThreadPoolExecutor(self.threads) as executor:
                list(executor.map(read_row, order))
        else:
            for index in order:
                read_row(index)

    def memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of any content for a batch, used again once nothing refers to it; faster than fresh memory.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp()).memory((2, 3), torch.float16).shape
        torch.Size([2, 3])
        """
        return self._process.pool.take(shape, dtype)

    def warm_up(self, keys: Iterable[str] | None = None, limit_bytes: int | None = None) -> int:
        """Bring shards into the system's page cache, from first to last byte.

        A disk gives a shard in order at twice the speed of single records, and pages that came in order lie in larger
        blocks, from which later reads in random order are twice as fast too (measured on ext4).

        Parameters
        ----------
        keys : iterable of str, optional
            The records that will be read; all by default.
        limit_bytes : int, optional
            Stop before this is exceeded; half of the memory that is available by default.

        Returns
        -------
        int
            Bytes read.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(1000)})
        >>> store.warm_up() == store.size_bytes, store.warm_up(limit_bytes=100)
        (True, 0)
        """
        wanted = self.keys() if keys is None else keys
        shards = dict.fromkeys(record.shard for key in wanted if (record := self._index.records.get(key)))
        left = available_bytes() // 2 if limit_bytes is None else limit_bytes
        done = 0
        for name in shards:
            size = self._index.sizes[name]
            if done + size > left:
                break
            _read_through(self._shards / name)
            done += size
        return done

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
        ...     writer.put("aa" * 8, {"x": np.zeros(3)})
        ...     writer.put("bb" * 8, {"x": np.zeros(3)})
        >>> len(store), len(os.listdir(store.folder / "shards"))
        (2, 2)
        """
        return StoreWriter(self, max_shard_bytes, queue_records)

    def plan(self, num_records: int, record_bytes: int) -> Plan:
        """What storing so many records will take.

        Parameters
        ----------
        num_records : int
            Records still to be written.
        record_bytes : int
            Bytes of the arrays of one (see `encoded_bytes`).

        Examples
        --------
        >>> import tempfile
        >>> plan = FeatureStore(tempfile.mkdtemp()).plan(10, 4_200_000)
        >>> plan.records, plan.bytes, plan.free_bytes > 0
        (10, 42010240, True)
        """
        padded = record_bytes + -record_bytes % ALIGNMENT
        total = num_records * (padded + 1024)  # 1024: the record's part of the header
        return Plan(num_records, total, shutil.disk_usage(self.folder).free, str(self.folder))

    def _adopt(self, name: str) -> None:
        """Take a shard that was just written into the index.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> name = _write_shard(store.folder / "shards", [_pack("ab" * 8, {"x": np.zeros(1)}, {})])
        >>> store._adopt(name), store.keys()
        (None, ['abababababababab'])
        """
        with self._process.lock:
            self._index.load(name)

    # -- care

    def verify(self, keys: Iterable[str] | None = None, rehash: bool = True) -> Iterator[Problem]:
        """Look for damage.

        Parameters
        ----------
        keys : iterable of str, optional
            Only these records; by default everything in the store, as it is on disk now.
        rehash : bool
            Read every byte and compare checksums; otherwise only sizes and headers are checked.

        Yields
        ------
        Problem
            One per damaged record or file; hand its `subject` to `set_aside`.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(64, np.uint8)})
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
                    yield from self._verify_shard(name, rehash)
            yield from self._verify_manifests()
            return
        for key in dict.fromkeys(keys):
            if key in self._index.records:
                yield from self._verify_records([self._index.records[key]], rehash)
            else:
                yield Problem("missing", f"{self.folder}: no record {key}; run the prepare phase to make it", key=key)

    def _verify_shard(self, name: str, rehash: bool) -> Iterator[Problem]:
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
            [record for record in records if not self._index.is_aside(name, record.key)], rehash
        )

    def _verify_records(self, records: Iterable[Record], rehash: bool) -> Iterator[Problem]:
        """Compare the bytes of records with their checksums.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> list(store._verify_records([Record("ab", "gone.safetensors", 0, 4, (), "")], rehash=True))[0].kind
        'truncated'
        """
        for record in records:
            file = f"shards/{record.shard}"
            try:
                intact = not rehash or _checksum(self._read_bytes(record).numpy()) == record.checksum
            except DataError as error:
                yield Problem("truncated", str(error), file, record.key)
                continue
            if not intact:
                yield Problem("checksum", self._describe_damage(record), file, record.key)

    def _describe_damage(self, record: Record) -> str:
        """One line for a record whose checksum does not match.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp())._describe_damage(Record("ab", "s", 0, 4, (), ""))
        '.../shards/s: record ab: its checksum does not match, bits have changed; run the verify phase'
        """
        path = self._shards / record.shard
        return f"{path}: record {record.key}: its checksum does not match, bits have changed; run the verify phase"

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
        ...     writer.put("ab" * 8, {"x": np.zeros(3)})
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

    def compact(self, keep: Iterable[str] | None = None, max_shard_bytes: int = 64 << 20) -> int:
        """Give back the space of what is not used: set aside, stored twice, or not to be kept.

        New shards are complete before old ones go, so an interruption loses nothing; room for one shard is needed.
        What was set aside is deleted. Other processes that have the
        store open must open it again.

        Parameters
        ----------
        keep : iterable of str, optional
            The records to keep; all that are in use by default.
        max_shard_bytes : int
            Size of the new shards.

        Returns
        -------
        int
            Bytes freed.

        Raises
        ------
        DataError
            If a record to be kept is damaged: verify and set it aside first.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     for value in range(4):
        ...         writer.put(f"{value:08x}", {"x": np.full(1000, value)})
        >>> freed = store.compact(keep=["00000002"])
        >>> 24000 <= freed < 26000, store.keys(), store.read("00000002")["x"][0].item()
        (True, ['00000002'], 2)
        """
        self.refresh()
        before = self.size_bytes
        wanted = self._index.records.keys() if keep is None else set(keep)
        kept = {key: record for key, record in self._index.records.items() if key in wanted}
        stale = [name for name in self._index.sizes if self._index.has_dead_records(name, kept)]
        live: dict[str, list[Record]] = {name: [] for name in stale}
        for record in kept.values():
            if record.shard in live:
                live[record.shard].append(record)
        batch: list[_PackedRecord] = []
        emptied: list[str] = []
        for name, records in live.items():
            batch += [self._repack(record) for record in records]
            emptied.append(name)
            if sum(packed.data.size for packed in batch) >= max_shard_bytes:
                self._replace_shards(emptied, batch)
                batch, emptied = [], []
        self._replace_shards(emptied, batch)
        self.refresh()
        return before - self.size_bytes

    def _replace_shards(self, names: Iterable[str], batch: Sequence[_PackedRecord]) -> None:
        """Write what is left of some shards as one, then remove them.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> name = _write_shard(store.folder / "shards", [_pack("ab" * 8, {"x": np.zeros(1)}, {})])
        >>> store._replace_shards([name], [_pack("cd" * 8, {"x": np.zeros(1)}, {})])
        >>> store.refresh(), store.keys()
        (1, ['cdcdcdcdcdcdcdcd'])
        """
        if batch:
            _write_shard(self._shards, batch)
        for name in names:
            self._remove_shard(name)

    def _repack(self, record: Record) -> _PackedRecord:
        """A stored record in the form in which it is written, after a look at its checksum.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(3, np.uint8)})
        >>> store._repack(store._record("ab" * 8)).data.size
        64
        """
        data = self._read_bytes(record).numpy().copy()
        if _checksum(data) != record.checksum:
            raise DataError(self._describe_damage(record))
        return _PackedRecord(record.key, record.layout, data, record.description)

    def _remove_shard(self, name: str) -> None:
        """Remove a shard and the notes that concern it.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.zeros(3)})
        >>> store._remove_shard(store._record("ab" * 8).shard), store.refresh()
        (None, 0)
        """
        self._process.files.close(name)
        (self._shards / name).unlink(missing_ok=True)
        for marker in self._index.aside:
            if marker == f"{name}.json" or marker.startswith(f"{name}@"):
                (self.folder / "aside" / marker).unlink(missing_ok=True)

    # -- manifests

    def write_manifest(self, key: str, value: Any) -> None:
        """Keep a small JSON document under a key; it replaces an earlier one.

        Parameters
        ----------
        key : str
            Hexadecimal digest.
        value : JSON value
            Tuples come back as lists.

        Raises
        ------
        ValueError
            If `value` is no JSON value or `key` no digest.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store.write_manifest("00ff00ff", {"records": ["ab"]})
        >>> store.read_manifest("00ff00ff")
        {'records': ['ab']}
        """
        path = self.folder / "manifests" / f"{_check_key(key)}.json"
        try:
            text = _canonical(value)
        except TypeError as error:
            raise ValueError(f"manifest {key}: expected a JSON value: {error}") from None
        write_bytes(path, f'{{"xxh3":"{_checksum(text.encode())}","value":{text}}}\n'.encode())

    def read_manifest(self, key: str) -> Any:
        """Read a document; None when there is none.

        Raises
        ------
        DataError
            If its bits have changed.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store.read_manifest("00ff00ff") is None
        True
        >>> store.write_manifest("00ff00ff", [1])
        >>> path = store.folder / "manifests" / "00ff00ff.json"
        >>> _ = path.write_text(path.read_text().replace("[1]", "[3]"))
        >>> store.read_manifest("00ff00ff")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../manifests/00ff00ff.json: its checksum does not match, bits have changed; remove ...
        """
        path = self.folder / "manifests" / f"{_check_key(key)}.json"
        try:
            document = json.loads(path.read_bytes())
            value = document["value"]
            intact = document["xxh3"] == _checksum(_canonical(value).encode())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            advice = "remove the file and run the prepare phase"
            raise DataError(f"{path}: its checksum does not match, bits have changed; {advice}")
        return value

    def _verify_manifests(self) -> Iterator[Problem]:
        """Read every document.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store.write_manifest("00ff00ff", [1])
        >>> _ = (store.folder / "manifests" / "00ff00ff.json").write_text("[")
        >>> [problem.subject for problem in store._verify_manifests()]
        ['manifests/00ff00ff.json']
        """
        for path in sorted((self.folder / "manifests").glob("[0-9a-f]*.json")):
            try:
                self.read_manifest(path.stem)
            except ValueError as error:
                yield Problem("manifest", str(error), f"manifests/{path.name}")


def _canonical(value: Any) -> str:
    """The one JSON text of a value, whatever the order in which its keys were set.

    Examples
    --------
    >>> _canonical({"b": (1, 2), "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# ---------------------------------------------------------------------------------------------------------------------
# From fields to tensors


def _public(layout: Layout) -> list[Field]:
    """The arrays that a caller gave, without padding and scales.

    Examples
    --------
    >>> _public((Field("m", "I8", (1,), 0, 1), Field("m.scale", "F32", (1,), 1, 4), Field(".pad", "U8", (3,), 5, 3)))
    [Field(name='m', type_name='I8', shape=(1,), start=0, size=1)]
    """
    return [field for field in layout if "." not in field.name]


def _decoded_type(layout: Layout, field: Field) -> torch.dtype:
    """Type of an array as it is read.

    Examples
    --------
    >>> layout = (Field("m", "I8", (1,), 0, 1), Field("m.scale", "F32", (1,), 1, 4), Field("i", "I8", (1,), 5, 1))
    >>> _decoded_type(layout, layout[0]), _decoded_type(layout, layout[2])
    (torch.float32, torch.int8)
    """
    scaled = any(other.name == field.name + _SCALE for other in layout)
    return torch.float32 if scaled else _TYPES[field.type_name]


def _decode(arrays: Mapping[str, Tensor], name: str) -> Tensor:
    """An array of one record as it is handed out.

    Examples
    --------
    >>> _decode({"m": torch.tensor([[3]], dtype=torch.int8), "m.scale": torch.tensor([0.5])}, "m").tolist()
    [[1.5]]
    """
    scales = arrays.get(name + _SCALE)
    return arrays[name] if scales is None else Int8Features(arrays[name], scales).decode()


def _select(layout: Layout, names: Sequence[str] | None) -> dict[str, Field]:
    """The fields behind some names, with the scales that decode them.

    Examples
    --------
    >>> _select((Field("x", "U8", (1,), 0, 1),), ["y"])
    Traceback (most recent call last):
        ...
    ValueError: the record has no array 'y'; it has: x
    """
    public = [field.name for field in _public(layout)]
    wanted = set(public if names is None else names)
    for name in sorted(wanted.difference(public)):
        raise ValueError(f"the record has no array {name!r}; it has: {', '.join(public)}")
    return {field.name: field for field in layout if field.name.removesuffix(_SCALE) in wanted}


def _shape_text(field: Field | None) -> str:
    """Type and shape of a field for a message.

    Examples
    --------
    >>> _shape_text(Field("x", "U8", (2, 3), 0, 6)), _shape_text(None)
    ('U8 (2, 3)', 'absent')
    """
    return "absent" if field is None else f"{field.type_name} {field.shape}"


def _check_out(name: str, tensor: Tensor, rows: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The first rows of a caller's tensor, if it can take what is read.

    Examples
    --------
    >>> _check_out("x", torch.zeros(4, 2), 3, (2,), torch.float32).shape
    torch.Size([3, 2])
    >>> _check_out("x", torch.zeros(4, 2), 3, (2,), torch.uint8)
    Traceback (most recent call last):
        ...
    ValueError: out['x'] must be a contiguous torch.uint8 tensor on the CPU of shape (>= 3, 2), got torch.float32 ...
    """
    fits = tuple(tensor.shape[1:]) == tuple(shape) and len(tensor) >= rows and tensor.dtype == dtype
    if not fits or not tensor.is_contiguous() or tensor.device.type != "cpu":
        wanted = ", ".join(map(str, [f">= {rows}", *shape]))
        raise ValueError(
            f"out[{name!r}] must be a contiguous {dtype} tensor on the CPU of shape ({wanted}), "
            f"got {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor[:rows]


def _byte_rows(tensor: Tensor) -> np.ndarray:
    """The memory of a stacked tensor as one row of bytes per record.

    Examples
    --------
    >>> _byte_rows(torch.ones(2, 3, dtype=torch.float16)).shape
    (2, 6)
    """
    count = math.prod(tensor.shape[1:])
    return tensor.view(len(tensor), count).view(torch.uint8).numpy()


def _runs(layout: Layout, names: Collection[str]) -> list[tuple[int, list[str]]]:
    """Stretches of a record that are read in one go: their first byte and the arrays that they fill.

    Examples
    --------
    >>> layout = tuple(Field(name, "U8", (4,), 4 * index, 4) for index, name in enumerate("abcd"))
    >>> _runs(layout, {"a", "b", "d"})
    [(0, ['a', 'b']), (12, ['d'])]
    """
    runs: list[tuple[int, list[str]]] = []
    follows = False
    for field in layout:
        wanted = field.name in names
        if wanted and follows:
            runs[-1][1].append(field.name)
        elif wanted:
            runs.append((field.start, [field.name]))
        follows = wanted
    return runs


# ---------------------------------------------------------------------------------------------------------------------
# The writer


class StoreWriter:
    """Writes records behind the back of whoever computes them.

    `put` copies a record and returns; a thread gathers records into shards and writes each in one go. An error of the
    thread (a full disk) is raised by the next `put`, `flush` or the end of the `with` block; what was finished before
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
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> with StoreWriter(store, max_shard_bytes=1 << 20, queue_records=4) as writer:
    ...     writer.put("ab" * 8, {"x": np.zeros(3)})
    ...     writer.flush()
    ...     store.has("ab" * 8)
    True
    """

    def __init__(self, store: FeatureStore, max_shard_bytes: int, queue_records: int):
        self.store = store
        self.max_shard_bytes = max_shard_bytes
        self._queue: queue.Queue[_PackedRecord | threading.Event | None] = queue.Queue(max(1, queue_records))
        self._pending: list[_PackedRecord] = []
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

        Examples
        --------
        >>> import tempfile
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
        packed = _pack(key, arrays, metadata)
        self._queued.add(key)
        self._put_in_queue(packed)

    def flush(self) -> None:
        """Wait until everything that was put is on disk.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     writer.put("ab" * 8, {"x": np.array([1])})
        ...     writer.flush()
        ...     len(store)
        1
        """
        done = threading.Event()
        self._put_in_queue(done)
        done.wait()
        self._raise_error()

    def _put_in_queue(self, item: _PackedRecord | threading.Event) -> None:
        """Put something into the queue of a thread that is there to take it.

        Examples
        --------
        >>> import tempfile
        >>> FeatureStore(tempfile.mkdtemp()).writer().flush()
        Traceback (most recent call last):
            ...
        RuntimeError: the writer is not open: use it in a `with` block
        """
        if not self._thread.is_alive():
            raise RuntimeError("the writer is not open: use it in a `with` block")
        self._queue.put(item)

    def _raise_error(self) -> None:
        """Raise what went wrong in the thread.

        Examples
        --------
        >>> import tempfile
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
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer()
        >>> writer._queue.put(None)
        >>> writer._work(), writer._queue.empty()
        (None, True)
        """
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                self._attempt(self._write_pending)
                item.set()
            else:
                self._attempt(partial(self._gather, item))
        self._attempt(self._write_pending)

    def _attempt(self, step: Any) -> None:
        """Run a step unless one failed before, and remember its error for the caller's thread.

        Examples
        --------
        >>> import tempfile
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

    def _gather(self, record: _PackedRecord) -> None:
        """Add a record to the shard at hand; write the shard first when it would grow too large.

        Examples
        --------
        >>> import tempfile
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer(max_shard_bytes=100)
        >>> for key in ("aa" * 8, "bb" * 8):
        ...     writer._gather(_pack(key, {"x": np.zeros(64, np.uint8)}, {}))
        >>> [record.key[:2] for record in writer._pending], writer.store.keys()
        (['bb'], ['aaaaaaaaaaaaaaaa'])
        """
        too_large = self._pending_bytes + record.data.size > self.max_shard_bytes
        if too_large or len(self._pending) >= _MAX_RECORDS_PER_SHARD:
            self._write_pending()
        self._pending.append(record)
        self._pending_bytes += record.data.size

    def _write_pending(self) -> None:
        """Write the records gathered so far as one shard.

        Examples
        --------
        >>> import tempfile
        >>> writer = FeatureStore(tempfile.mkdtemp()).writer()
        >>> writer._pending = [_pack("ab" * 8, {"x": np.zeros(1)}, {})]
        >>> writer._write_pending(), writer._pending, len(writer.store)
        (None, [], 1)
        """
        if not self._pending:
            return
        try:
            name = _write_shard(self.store.folder / "shards", self._pending)
        except OSError as error:
            raise self._explain(error) from error
        self.store._adopt(name)
        self._written += len(self._pending)
        self._queued.difference_update(record.key for record in self._pending)
        self._pending, self._pending_bytes = [], 0

    def _explain(self, error: OSError) -> Exception:
        """What a person can do about a shard that could not be written.

        Examples
        --------
        >>> import tempfile
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
