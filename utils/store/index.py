"""Which record of a feature store lies where, and what of it is not used any more."""

from __future__ import annotations

import itertools
from pathlib import Path

from utils.store.shards import Record, ShardError, read_shard


class StoreIndex:
    """Which record lies where, from the headers of the shards; it only ever grows, so threads may read it meanwhile.

    Parameters
    ----------
    shards : Path
        Their folder.
    aside : frozenset of str
        Names of the notes in `aside/`.

    Examples
    --------
    >>> StoreIndex(Path("/nowhere"), frozenset({"a.safetensors.json"})).is_aside("a.safetensors")
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
        >>> index = StoreIndex(Path("/nowhere"), frozenset({"a.safetensors@00ff.json"}))
        >>> index.is_aside("a.safetensors", "00ff"), index.is_aside("a.safetensors")
        (True, False)
        """
        return (f"{shard}@{key}.json" if key else f"{shard}.json") in self.aside

    def load(self, name: str) -> None:
        """Take in the records of a shard, once; a shard that cannot be used is remembered as such.

        Examples
        --------
        >>> import tempfile
        >>> index = StoreIndex(Path(tempfile.mkdtemp()), frozenset())
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
        >>> index = StoreIndex(Path("/nowhere"), frozenset({"a@00ff.json"}))
        >>> for shard in "abc":
        ...     index.add(Record("00ff", shard, 64, 64, (), "", ""))
        >>> [record.shard for record in index.find_all("00ff")]
        ['b', 'c']
        """
        if self.is_aside(record.shard) or self.is_aside(record.shard, record.key):
            return
        if record.key in self.records:
            self.duplicates.setdefault(record.key, []).append(record)
        else:
            self.records[record.key] = record

    def exclude(self, aside: frozenset[str]) -> StoreIndex:
        """The index after more was set aside; itself when nothing was.

        Examples
        --------
        >>> index = StoreIndex(Path("/nowhere"), frozenset())
        >>> index.add(Record("00ff", "a", 64, 64, (), "", ""))
        >>> len(index.exclude(frozenset({"a@00ff.json"})).records), index.exclude(frozenset()) is index
        (0, True)
        """
        if aside == self.aside:
            return self
        index = StoreIndex(self.shards, aside)
        index.sizes, index.unusable = dict(self.sizes), set(self.unusable)
        for record in itertools.chain(self.records.values(), *self.duplicates.values()):
            index.add(record)
        return index

    def find_all(self, key: str) -> list[Record]:
        """Every copy of a record that is in use, the one that is read first.

        Examples
        --------
        >>> StoreIndex(Path("/nowhere"), frozenset()).find_all("00ff")
        []
        """
        return [self.records[key], *self.duplicates.get(key, [])] if key in self.records else []
