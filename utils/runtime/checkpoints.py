"""Checkpoints and training states: safetensors with JSON, never pickle; each file is whole or absent.

A checkpoint (weights and a description that `evaluate`, `inference` and `export` work from) and a training state (all
that an interrupted training needs to go on bit by bit) are the same kind of file: tensors, and one JSON text in the
file's metadata. A digest covers both, so that no flipped bit of either is used.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from utils.errors import DataError
from utils.runtime.files import atomic_path, digest_array, digest_json, read_json, write_json
from utils.runtime.reading import file_errors

FORMAT_VERSION = 3
TENSORS_ONLY = 2  # the version whose digest covers the tensors, not the description
METADATA_KEY = "dinolith"
KEPT = "kept."  # starts the names of tensors that are no weights; no head has a part of that name
# what torch.save and pickle.dump write: a zip archive, or a pickle of protocol 2 to 5
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
NAMES_SHOWN = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Parameters
    ----------
    tensors : dict of Tensor
        The weights by name, on the CPU.
    description : dict
        Task, head, options, backbone, classes, metrics: all that a use of the weights needs to know.
    path : Path
        The file that was read; another than asked for, where a `.pth` stood for its `.safetensors`.
    kept : dict of Tensor
        What predictions need beside the weights, and no training changes.

    Examples
    --------
    >>> Checkpoint({"weight": torch.zeros(2)}, {"head": "linear"}, Path("best.safetensors")).description["head"]
    'linear'
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any]
    path: Path
    kept: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any],
    kept: Mapping[str, Tensor] = MappingProxyType({}),
) -> Path:
    """Write weights with their description; a readable copy of the description goes to a `.json` beside them.

    Parameters
    ----------
    path : str or Path
        Its suffix becomes `.safetensors`.
    tensors : mapping of Tensor
        The weights by name.
    description : mapping
        JSON values. The copy inside the safetensors file is the one that counts.
    kept : mapping of Tensor
        What predictions need beside the weights.

    Returns
    -------
    Path
        The file that was written.

    Examples
    --------
    >>> import tempfile
    >>> path = save_checkpoint(Path(tempfile.mkdtemp()) / "best.pth", {"a": torch.ones(2)}, {"head": "linear"})
    >>> sorted(entry.name for entry in path.parent.iterdir())
    ['best.json', 'best.safetensors']
    >>> load_checkpoint(path).tensors["a"].tolist()
    [1.0, 1.0]
    """
    path = _safetensors_path(Path(path))
    description = dict(description)
    _write(path, {**tensors, **{KEPT + name: tensor for name, tensor in kept.items()}}, "checkpoint", description)
    write_json(path.with_suffix(".json"), description)
    return path


def checkpoint_files(path: str | Path) -> tuple[Path, Path]:
    """The two files of a checkpoint: weights, and the readable copy of their description.

    Parameters
    ----------
    path : str or Path
        As for `save_checkpoint`.

    Examples
    --------
    >>> [file.name for file in checkpoint_files("unet_v2.1")]
    ['unet_v2.1.safetensors', 'unet_v2.1.json']
    """
    path = _safetensors_path(Path(path))
    return path, path.with_suffix(".json")


def is_checkpoint_file(path: str | Path) -> bool:
    """Whether a file, whole or damaged inside, is one of the two that `save_checkpoint` writes.

    Parameters
    ----------
    path : str or Path
        A file that exists.

    Examples
    --------
    >>> import tempfile
    >>> path = save_checkpoint(Path(tempfile.mkdtemp()) / "best", {"a": torch.ones(2)}, {"kind": "distill"})
    >>> [is_checkpoint_file(file) for file in checkpoint_files(path)], is_checkpoint_file(__file__)
    ([True, True], False)
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            content = read_json(path)
            return isinstance(content, dict) and "kind" in content
        with safe_open(path, framework="pt") as stream:
            return METADATA_KEY in (stream.metadata() or {})
    except (SafetensorError, OSError, DataError):
        return False


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    path : str or Path
        The file. Where an older `.pth` or `.pt` is asked for that is not there, its `.safetensors` is taken.

    Returns
    -------
    Checkpoint
        Weights and description.

    Raises
    ------
    DataError
        If there is no such file, or it is a pickle, truncated, damaged, not a checkpoint of ours, or of another format.

    Examples
    --------
    >>> load_checkpoint("/no/such/best.safetensors")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/best.safetensors: no such checkpoint, and none near it; train first or name another
    """
    tensors, description, path = _read(Path(path), "checkpoint")
    kept = {name.removeprefix(KEPT): tensors.pop(name) for name in list(tensors) if name.startswith(KEPT)}
    return Checkpoint(tensors, description, path, kept)


def save_training_state(path: str | Path, tree: Any) -> Path:
    """Write a nested state, such as that of an optimizer, so that it is read back bit by bit.

    Parameters
    ----------
    path : str or Path
        Its suffix becomes `.safetensors`.
    tree : nested value
        What `pack_state` takes.

    Returns
    -------
    Path
        The file that was written.

    Examples
    --------
    >>> import tempfile
    >>> path = save_training_state(Path(tempfile.mkdtemp()) / "last", {"epoch": 3, "best": (0.1, None)})
    >>> load_training_state(path)
    {'epoch': 3, 'best': (0.1, None)}
    """
    path = _safetensors_path(Path(path))
    tensors, structure = pack_state(tree)
    _write(path, tensors, "training state", structure)
    return path


def load_training_state(path: str | Path) -> Any:
    """Read what `save_training_state` wrote.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    nested value
        Equal to what was saved, with its tensors on the CPU.

    Raises
    ------
    DataError
        As `load_checkpoint` does.

    Examples
    --------
    >>> import tempfile
    >>> path = save_checkpoint(Path(tempfile.mkdtemp()) / "best", {}, {})
    >>> load_training_state(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../best.safetensors: expected a training state, got a checkpoint; ...
    """
    tensors, structure, path = _read(Path(path), "training state")
    with file_errors(path, "its description of the state cannot be used", "remove it; training starts anew"):
        return unpack_state(tensors, structure)


def _safetensors_path(path: Path) -> Path:
    """Give a path its suffix, in place of those that checkpoints have elsewhere.

    Examples
    --------
    >>> [_safetensors_path(Path(name)).name for name in ("a.pth", "a.pt", "a.safetensors", "unet_v2.1")]
    ['a.safetensors', 'a.safetensors', 'a.safetensors', 'unet_v2.1.safetensors']
    """
    if path.suffix in (".pth", ".pt", ".safetensors"):
        return path.with_suffix(".safetensors")
    return path.with_name(path.name + ".safetensors")


def _write(path: Path, tensors: Mapping[str, Tensor], kind: str, content: Any) -> None:
    """Write tensors with a JSON text, atomically.

    Raises
    ------
    DataError
        When the disk is full or the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> _write(path, {"a": torch.ones(3)[:1]}, "checkpoint", {"b": 1})
    >>> _read(path, "checkpoint")[1]
    {'b': 1}
    """
    tensors = _separate_storage(tensors)
    content = json.loads(json.dumps(content))  # as it is read back: keys are text
    digest = _digest(FORMAT_VERSION, kind, content, tensors)
    text = json.dumps({"version": FORMAT_VERSION, "kind": kind, "digest": digest, "content": content})
    try:
        with atomic_path(path) as temporary:
            save_file(dict(tensors), temporary, metadata={"format": "pt", METADATA_KEY: text})
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: cannot be written ({error}); free space on this disk or choose another folder"
        ) from None


def _separate_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the CPU, contiguous, each with memory of its own, as the format asks for.

    Examples
    --------
    >>> weight = torch.arange(4.0)
    >>> separate = _separate_storage({"tied": weight, "weight": weight, "row": weight.view(2, 2).t()})
    >>> len({tensor.data_ptr() for tensor in separate.values()}), separate["row"].is_contiguous()
    (3, True)
    """
    separate: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


def _read(path: Path, kind: str) -> tuple[dict[str, Tensor], Any, Path]:
    """Read the tensors and the JSON content of a file of one kind, and say which file it was.

    Raises
    ------
    DataError
        When the file is missing, of another kind, cut off or changed since it was written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> _write(path, {"a": torch.ones(1)}, "checkpoint", {"b": 1})
    >>> _read(path.with_suffix(".pth"), "checkpoint")[2].name
    'a.safetensors'
    """
    path = find_file(path, kind)
    cure = "remove it and train again, or take another copy"
    with file_errors(path, "truncated or not a safetensors file", cure), safe_open(path, framework="pt") as stream:
        envelope = _check_metadata(path, stream.metadata() or {}, kind)
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dictionary)
    version, content = envelope["version"], envelope["content"]
    if _digest(version, kind, content, tensors) != envelope["digest"]:
        raise DataError(
            f"{path}: its tensors or its description are not those that were written: the file is damaged; remove it "
            "and train again, or take another copy"
        )
    if version == TENSORS_ONLY:
        logger.warning(
            f"{path}: written by an earlier version, whose digest covers the tensors only; damage of its description "
            "would not be noticed"
        )
    return tensors, content, path


def _digest(version: int, kind: str, content: Any, tensors: Mapping[str, Tensor]) -> str:
    """Hash all that a file says; in the earlier version its tensors alone.

    Examples
    --------
    >>> digests = [_digest(version, "checkpoint", {"scale": scale}, {}) for version in (2, 3) for scale in (1.0, 3.0)]
    >>> digests[0] == digests[1], digests[2] == digests[3]
    (True, False)
    """
    digest = digest_tensors(tensors)
    if version == TENSORS_ONLY:
        return digest
    return digest_json({"version": version, "kind": kind, "content": content, "tensors": digest})


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors on the CPU with their names, so that a flipped byte is noticed.

    Examples
    --------
    >>> digest_tensors({"a": torch.ones(2)}) == digest_tensors({"b": torch.ones(2)})
    False
    """
    return digest_json(
        {
            # as bytes, for NumPy knows no bfloat16
            name: [str(tensor.dtype), list(tensor.shape), digest_array(tensor.reshape(-1).view(torch.uint8).numpy())]
            for name, tensor in tensors.items()
        }
    )


def find_file(path: Path, kind: str) -> Path:
    r"""Choose the file to read, or say why there is none.

    Raises
    ------
    DataError
        When there is no such file, or it is pickled.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "old.pth"
    >>> _ = path.write_bytes(b"PK\x03\x04...")
    >>> find_file(path, "checkpoint")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../old.pth: a pickle (torch.save), which could run any program when loaded; ...
    """
    sibling = _safetensors_path(path)
    if not path.is_file() and sibling.is_file():
        return sibling
    if not path.is_file():
        raise DataError(f"{path}: no such {kind}, {_describe_candidates(path)}")
    with open(path, "rb") as stream:
        start = stream.read(9)
    if start.startswith(PICKLE_STARTS) and start[8:9] != b"{":  # a safetensors header of 640 bytes begins 80 02 too
        advice = (
            f"use {sibling} instead"
            if sibling.is_file() and sibling != path
            else "train again, or convert it to safetensors yourself"
        )
        raise DataError(
            f"{path}: a pickle (torch.save), which could run any program when loaded; it is not loaded, {advice}"
        )
    return path


def _describe_candidates(path: Path) -> str:
    """Name the checkpoints near a path that is not there, the most similar first.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("unet_best", "linear_best"):
    ...     _ = (folder / f"{name}.safetensors").write_bytes(b"")
    >>> _describe_candidates(folder / "unet_bset.safetensors")
    'did you mean unet_best.safetensors, linear_best.safetensors?'
    """
    folder = path.parent
    names = sorted(file.name for file in folder.glob("*.safetensors")) if folder.is_dir() else []
    if not names:
        return "and none near it; train first or name another"
    return f"did you mean {', '.join(difflib.get_close_matches(path.name, names, n=NAMES_SHOWN, cutoff=0.0))}?"


def _check_metadata(path: Path, metadata: Mapping[str, str], kind: str) -> dict[str, Any]:
    """Take the JSON envelope out of a file's metadata, or say why it is not what was expected.

    Raises
    ------
    DataError
        When the description is missing or damaged, or the file is of another kind or format version.

    Examples
    --------
    >>> text = '{"version": 3, "kind": "checkpoint", "digest": "", "content": [2]}'
    >>> _check_metadata(Path("a"), {"dinolith": text}, "checkpoint")["content"]
    [2]
    """
    if METADATA_KEY not in metadata:
        raise DataError(
            f"{path}: a safetensors file without Dinolith's description, so it is not known what it is for; expected a "
            f"{kind} that a training has written"
        )
    try:
        envelope = json.loads(metadata[METADATA_KEY])
        version, file_kind = envelope["version"], envelope["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path}: its description is damaged; take another copy, or train again") from None
    if version not in (FORMAT_VERSION, TENSORS_ONLY):
        raise DataError(
            f"{path}: format version {version}, this program reads versions {TENSORS_ONLY} and {FORMAT_VERSION}; use "
            "the version of the program that wrote it, or train again"
        )
    if file_kind != kind:
        raise DataError(f"{path}: expected a {kind}, got a {file_kind}; name the other file")
    if not envelope.keys() >= {"digest", "content"}:
        raise DataError(f"{path}: its description is damaged; take another copy, or train again")
    return envelope


def pack_state(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Take the tensors out of a nested value, and describe the rest in JSON.

    Parameters
    ----------
    tree : nested value
        Dictionaries with keys of text or whole numbers, lists, tuples, tensors, numpy arrays, numbers, text, None.

    Returns
    -------
    tensors : dict of Tensor
        By a name that tells the place: `optimizer/state/0/exp_avg`.
    structure : JSON value
        What `unpack_state` needs besides.

    Raises
    ------
    TypeError
        If a value or a key is of another type; the message names its place.

    Examples
    --------
    >>> tensors, structure = pack_state({"state": {0: (torch.ones(2), 0.5)}})
    >>> list(tensors), structure
    (['state/0/0'], {'dict': [['state', {'dict': [[0, {'tuple': [{'tensor': 'state/0/0'}, 0.5]}]]}]]})
    >>> pack_state({"a": [object]})
    Traceback (most recent call last):
        ...
    TypeError: cannot save a/0: a value of type type; expected tensors, arrays, numbers, text, None, lists, dictionaries
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(tree, (), tensors)


def _pack(value: Any, place: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """Describe a value in JSON; tensors in it go to `tensors`.

    Raises
    ------
    TypeError
        When a value is no tensor, array, number, text, None, list or dictionary, or a key no text or whole number.

    Examples
    --------
    >>> _pack([1, {2: 3, "2": None}], ("a",), {})
    {'list': [1, {'dict': [[2, 3], ['2', None]]}]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        name = "/".join(place)
        while name in tensors:
            name += "~"
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str | int) or isinstance(key, bool)]
        if wrong:
            where = "/".join(place) or "this"
            raise TypeError(f"cannot save {where}: key {wrong[0]!r}; expected text or whole numbers")
        return {"dict": [[key, _pack(child, (*place, str(key)), tensors)] for key, child in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(child, (*place, str(index)), tensors) for index, child in enumerate(value)]}
    raise TypeError(
        f"cannot save {'/'.join(place) or 'this'}: a value of type {type(value).__name__}; expected tensors, arrays, "
        "numbers, text, None, lists, dictionaries"
    )


def unpack_state(tensors: Mapping[str, Tensor], structure: Any) -> Any:
    """Build the nested value that `pack_state` took apart.

    Parameters
    ----------
    tensors : mapping of Tensor
        By name.
    structure : JSON value
        Where each goes.

    Returns
    -------
    nested value
        Equal to the original.

    Examples
    --------
    >>> unpack_state({}, {"dict": [[0, {"tuple": [1, 0.5]}], ["a", None]]})
    {0: (1, 0.5), 'a': None}
    """
    if not isinstance(structure, dict):
        return structure
    [(kind, content)] = structure.items()
    if kind == "dict":
        return {key: unpack_state(tensors, child) for key, child in content}
    builders: dict[str, Callable[[Any], Any]] = {
        "tensor": lambda name: tensors[name],
        "array": lambda name: tensors[name].numpy(),
        "list": lambda children: [unpack_state(tensors, child) for child in children],
        "tuple": lambda children: tuple(unpack_state(tensors, child) for child in children),
    }
    return builders[kind](content)
