"""How fast stored records are read in random order: the store, memcpy, and one file per record, side by side.

    python benchmarks/store_reads.py [--records 200] [--megabytes 4.2] [--batch 8] [--repeats 5] [--folder /tmp]

The store compares what it reads with checksums; "without checksums" is the same reader without that step: their cost.
Every reader fills a batch of `--batch` records per call and goes through all records in a new random order, `--repeats`
times; the best pass counts. "cold" first drops the files from the page cache, where the system allows it. Pages that
random reads brought back lie scattered, which makes later reads slower for every reader: "warm, after ..." shows it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.runtime.files import format_bytes
from utils.store.feature_store import FeatureStore, record_key
from utils.store.reader import RecordReader
from utils.store.shards import Record

THREADED = "store, two threads"
UNCHECKED, UNCHECKED_THREADED = "store, without checksums", "two threads, without"
ReadBatch = Callable[[list[int]], object]


class UncheckedReader(RecordReader):
    """Reads as the store does and believes what it reads."""

    def _check(self, record: Record, numbers: Sequence[int], buffers: Sequence[np.ndarray]) -> None:
        """Skip the comparison."""


def without_checksums(folder: Path, threads: int) -> FeatureStore:
    """Open a store that does not compare what it reads."""
    store = FeatureStore(folder, threads=threads)
    store.reader = UncheckedReader(store.folder / "shards", threads, store.reader.open_files)
    return store


def make_record(megabytes: float, generator: torch.Generator) -> dict[str, Tensor]:
    """A sample as `prepare` stores it: picture, labels, validity and four fp16 feature maps, of about that size."""
    side = 256
    cells = max(1, round((megabytes * 1e6 - 5 * side * side) / (4 * 384 * 2)))
    pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=generator)
    record = {"image": pixels, "label": pixels[..., 0].contiguous(), "valid": pixels[..., 1] > 0}
    maps = {f"map_{index}": torch.randn(384, 1, cells, generator=generator).half() for index in range(4)}
    return {**record, **maps}


def write_all(folder: Path, records: list[dict[str, Tensor]]) -> tuple[FeatureStore, list[str]]:
    """Put the records into a store and, one file each, into `pt/` and `safetensors/`."""
    store = FeatureStore(folder / "store")
    keys = [record_key(index=index) for index in range(len(records))]
    for name in ("pt", "safetensors"):
        (folder / name).mkdir()
    started = time.perf_counter()
    with store.writer() as writer:
        for key, record in zip(keys, records, strict=True):
            writer.put(key, record)
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in (store.folder / "shards").iterdir())
    print(f"store written at {size / seconds / 1e9:.2f} GB/s, fsync included")
    for index, record in enumerate(records):
        torch.save(record, folder / "pt" / f"{index}.pt")
        save_file(record, folder / "safetensors" / f"{index}.safetensors")
    os.sync()
    return store, keys


def read_files(folder: Path, suffix: str, load: Callable[[Path], dict[str, Tensor]]) -> ReadBatch:
    """Read one file per record and stack them, as a `DataLoader` would."""

    def read(batch: list[int]) -> dict[str, Tensor]:
        records = [load(folder / f"{index}.{suffix}") for index in batch]
        return {name: torch.stack([record[name] for record in records]) for name in records[0]}

    return read


def copy_memory(records: list[dict[str, Tensor]], batch_size: int) -> ReadBatch:
    """Copy the same bytes to memory that is used again: one core cannot be faster."""
    sources = [torch.cat([tensor.flatten().view(torch.uint8) for tensor in record.values()]) for record in records]
    targets = torch.zeros(batch_size, sources[0].numel(), dtype=torch.uint8).numpy()

    def read(batch: list[int]) -> None:
        for target, index in zip(targets[: len(batch)], batch, strict=True):
            np.copyto(target, sources[index].numpy())

    return read


def drop_cache(folder: Path) -> bool:
    """Ask the system to forget the contents of all files below a folder; whether it can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*.*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
    return True


def random_batches(records: int, batch_size: int) -> Iterator[list[int]]:
    """All record numbers once, in a new random order."""
    order = torch.randperm(records).tolist()
    for start in range(0, records, batch_size):
        yield order[start : start + batch_size]


def measure(read: ReadBatch, options: argparse.Namespace) -> float:
    """Seconds of one pass over all records."""
    batches = list(random_batches(options.records, options.batch))
    started = time.perf_counter()
    for batch in batches:
        read(batch)
    return time.perf_counter() - started


def measure_warm(readers: dict[str, ReadBatch], options: argparse.Namespace) -> dict[str, float]:
    """Best seconds of each reader; they take turns, so that a busy machine is fair to all."""
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(options.repeats):
        for name, read in readers.items():
            best[name] = min(best[name], measure(read, options))
    return best


def measure_cold(readers: dict[str, ReadBatch], folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each reader after the page cache was dropped; none where it cannot be."""
    seconds = {}
    for name, read in readers.items():
        if name != "memcpy" and drop_cache(folder):
            seconds[name] = measure(read, options)
    return seconds


def build_readers(folder: Path, options: argparse.Namespace) -> tuple[dict[str, ReadBatch], int]:
    """Write the records every way; give a reader for each way, and the bytes of all records."""
    template = make_record(options.megabytes, torch.Generator().manual_seed(0))
    records = [{name: tensor.clone() for name, tensor in template.items()} for _ in range(options.records)]
    store, keys = write_all(folder, records)
    threaded = FeatureStore(store.folder, threads=2)
    bare, bare_threaded = (without_checksums(store.folder, threads) for threads in (1, 2))
    readers: dict[str, ReadBatch] = {
        "memcpy": copy_memory(records, options.batch),
        "store": lambda batch: store.read_batch([keys[index] for index in batch]),
        THREADED: lambda batch: threaded.read_batch([keys[index] for index in batch]),
        UNCHECKED: lambda batch: bare.read_batch([keys[index] for index in batch]),
        UNCHECKED_THREADED: lambda batch: bare_threaded.read_batch([keys[index] for index in batch]),
        "safetensors files": read_files(folder / "safetensors", "safetensors", load_file),
        "pt files": read_files(folder / "pt", "pt", lambda path: torch.load(path, weights_only=True)),
    }
    return readers, sum(tensor.nbytes for record in records for tensor in record.values())


def report(title: str, seconds: dict[str, float], total: int) -> None:
    """Print the speed of each reader, and how the store compares with it."""
    print(f"\n{title:<28}{'GB/s':>8}{'store is faster by':>20}")
    for name, duration in seconds.items():
        print(f"{name:<28}{total / duration / 1e9:>8.2f}{duration / seconds['store']:>20.2f}")


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Measure every reader warm, cold and warm again, and print the ratios that the store is held to."""
    readers, total = build_readers(folder, options)
    print(f"{options.records} records, {format_bytes(total)}, batches of {options.batch}, random order")
    warm = measure_warm(readers, options)
    report("warm, as written", warm, total)
    cold = measure_cold(readers, folder, options)
    if cold:
        report("cold", cold, total)
        report("warm, after random reads", measure_warm(readers, options), total)
    print(f"\nstore over memcpy, warm:   {warm['memcpy'] / warm['store']:.2f}  (goal >= 0.8)")
    print(f"store over pt files, warm: {warm['pt files'] / warm['store']:.1f}  (goal >= 5)")
    print(f"{THREADED} over pt files, warm: {warm['pt files'] / warm[THREADED]:.1f}  (as training reads)")
    costs = [warm[checked] / warm[bare] for checked, bare in (("store", UNCHECKED), (THREADED, UNCHECKED_THREADED))]
    print(f"checksums: {costs[0]:.2f} times the time of reading without, {costs[1]:.2f} with two threads")


def main() -> None:
    """Read the arguments and run the comparison in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200, help="records to write")
    parser.add_argument("--megabytes", type=float, default=4.2, help="size of one record")
    parser.add_argument("--batch", type=int, default=8, help="records per read")
    parser.add_argument("--repeats", type=int, default=5, help="passes over all records; the best one counts")
    parser.add_argument("--folder", type=Path, default=None, help="disk to measure; the system's temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one core against one core
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        compare(Path(name), options)


if __name__ == "__main__":
    main()
