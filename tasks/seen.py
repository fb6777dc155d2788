"""Which pictures training saw: digests of them, which a checkpoint keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from utils.errors import DataError

if TYPE_CHECKING:
    from tasks.item import Item
    from tasks.source import Source

WHOLE = 2**26  # bytes up to which a file is read whole
PARTS, PART = 64, 2**20  # of a larger one, so many parts of so many bytes


def digest_pictures(paths: Iterable[Path]) -> str:
    """Digest the content of the files of a picture, whatever their names; of large files, parts of it.

    Parameters
    ----------
    paths : iterable of Path
        One file, or one for each band.

    Raises
    ------
    DataError
        If a file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> one, other = (Path(tempfile.mkdtemp()) / name for name in ("a.png", "b.png"))
    >>> _ = one.write_bytes(b"pixels"), other.write_bytes(b"pixels")
    >>> digest_pictures([one]), digest_pictures([one]) == digest_pictures([other])
    ('f347d73ed2cab18d', True)
    """
    digests = []
    for path in paths:
        try:
            with open(path, "rb") as stream:
                digests.append(digest_stream(stream))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def digest_stream(stream: IO[bytes]) -> str:
    """Digest a file, 16 hexadecimal digits of SHA-256.

    Examples
    --------
    >>> import io
    >>> digest_stream(io.BytesIO(b"pixels"))
    'f347d73ed2cab18d'
    """
    size = stream.seek(0, 2)
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    for part in range(PARTS if size > WHOLE else 1):
        stream.seek(part * (size - PART) // (PARTS - 1) if size > WHOLE else 0)
        digest.update(stream.read(PART if size > WHOLE else -1))
    return digest.hexdigest()[:16]


def digest_items(source: Source, items: Iterable[Item]) -> list[str]:
    """Digest the pictures of items, each once; blocks of a scene share one.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> source = scene_task().source
    >>> source.prepare_data()
    >>> len(source.items("train")), len(digest_items(source, source.items("train")))
    (2, 1)
    """
    by_files = {item.sources or (item.id,): item for item in items}
    return sorted({source.picture_digest(item) for item in by_files.values()})


def seen_in_training(description: dict[str, Any], source: Source, items: Sequence[Item]) -> dict[str, list[str]] | None:
    """Items whose picture, or a part of it, a model was trained on or its best checkpoint was chosen by.

    Parameters
    ----------
    description : dict
        Of the checkpoint.
    source : Source
        Of the items.
    items : sequence of Item
        The items.

    Returns
    -------
    dict of str to list of str, or None
        Ids under `train` and `val`; None where the checkpoint does not say what it was trained on.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> source = scene_task().source
    >>> source.prepare_data()
    >>> train, val = source.items("train"), source.items("val")
    >>> description = {"seen": {"train": digest_items(source, train), "val": []}}
    >>> seen_in_training(description, source, [*train[:1], *val]), seen_in_training({}, source, val)
    ({'train': ['scene_1@y0:64,x0:64'], 'val': []}, None)
    """
    seen = description.get("seen")
    if not isinstance(seen, dict):
        return None
    digests = {item.id: source.picture_digest(item) for item in items}
    return {
        split: [name for name, digest in digests.items() if digest in set(seen.get(split, ()))]
        for split in ("train", "val")
    }


def tell_seen(seen: dict[str, list[str]] | None, number: int) -> str:
    """Say which of some pictures training saw, in a line for a person.

    Examples
    --------
    >>> tell_seen({"train": [], "val": []}, 3)
    'training saw none of the 3'
    >>> tell_seen({"train": ["a", "b"], "val": ["c"]}, 3)
    '2 of the 3 were trained on, at least in part, and their scores say nothing about new pictures: a, b; 1 of the 3 \
chose the best checkpoint: c'
    """
    if seen is None:
        return "the checkpoint does not say which pictures it was trained on (it is of an older version)"
    told = {
        "train": "were trained on, at least in part, and their scores say nothing about new pictures",
        "val": "chose the best checkpoint",
    }
    parts = [
        f"{len(names)} of the {number} {told[split]}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for split, names in seen.items()
        if names
    ]
    return "; ".join(parts) or f"training saw none of the {number}"
