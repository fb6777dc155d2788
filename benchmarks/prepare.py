"""How much of the backbone's speed the whole prepare phase keeps, and where the rest goes.

    python -m benchmarks.prepare --backbone /models/dinov2-small
    python -m benchmarks.prepare --quick          # a small random backbone and few windows: does it run?

The phase (settle the split and scaling, read windows of a compressed GeoTIFF, turn them to their views, hash, compute,
encode, write a store with fsync) and the bare forward of the same windows and views, already in memory, at the same
batch size and precision, take turns. "CPU" is the time of all threads together: on a machine whose cores the forward
fills, it is the work that the phase adds. The parts are measured one by one in one thread; they run beside the forward.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.workbench import (
    SIDE,
    TINY,
    VIT_SMALL,
    machine_line,
    make_task,
    median_ratio,
    quiet_libraries,
    random_backbone,
    take_turns,
    verdict,
    write_scene,
)
from models.backbone import Backbone, load_backbone
from tasks.features import even_layers
from tasks.phases import prepare
from tasks.sample import Sample
from tasks.segmentation.task import SegmentationTask
from utils.runtime.files import digest_array
from utils.store.encoding import encode_features
from utils.store.feature_store import FeatureStore

GOAL = 0.9


class Bench:
    """One scene, one backbone, and the same windows for both sides."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.folder, self.options = folder, options
        self.source = random_backbone(options.backbone, folder, TINY if options.quick else VIT_SMALL)
        rows = -(-options.windows // options.columns)
        write_scene(folder, rows * SIDE, options.columns * SIDE)
        task = self.task()
        task.source.prepare_data()
        self.samples = [(split, sample) for split in prepare.SPLITS for sample in self.read(task, split)]
        self.pictures = [
            np.ascontiguousarray(task.source.apply_view(sample, view).arrays["image"])
            for split, sample in self.samples
            for view in task.source.views(split)
        ]
        self.backbone = self.load()

    def task(self) -> SegmentationTask:
        """A task with an empty store."""
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        views = f"dataset.augmentations={{enable: {self.options.views > 1}, stored_views: {self.options.views}}}"
        batch = f"prepare.batch_size={self.options.batch_size}"
        stored = f"prepare.store_dtype={self.options.store_dtype}"
        return make_task(self.folder, self.source, views, batch, stored, f"model.precision={self.options.precision}")[0]

    @staticmethod
    def read(task: SegmentationTask, split: str) -> Iterator[Sample]:
        """All windows of a split."""
        for item in task.source.items(split):
            yield from task.source.samples(item)

    def load(self) -> Backbone:
        """The backbone as prepare loads it."""
        return load_backbone(self.source, even_layers(self.source), precision=self.options.precision)

    def ready_task(self) -> SegmentationTask:
        """A task with an empty store whose backbone is loaded already, as the bare one is."""
        task = self.task()
        assert task.features.backbone.info.digest == task.features.info.digest
        return task

    def batches(self) -> Iterator[Tensor]:
        """Pictures of one forward, as a batch."""
        size = self.options.batch_size
        for start in range(0, len(self.pictures), size):
            yield torch.from_numpy(np.stack(self.pictures[start : start + size])).permute(0, 3, 1, 2)

    @torch.no_grad()
    def run_bare(self) -> None:
        """Forward of all pictures, nothing else."""
        for batch in self.batches():
            self.backbone(batch)


def part_times(bench: Bench) -> dict[str, float]:
    """Milliseconds per record of each part of the phase, alone, in one thread."""
    task, count = bench.ready_task(), len(bench.pictures)
    task.source.prepare_data()
    maps = bench.backbone(next(bench.batches())[:1])
    reads, first = len(bench.samples), bench.samples[0][1]
    records = encode_all(task, maps, count)
    store = FeatureStore(bench.folder / "parts")
    view = task.source.views("train")[-1]
    parts: dict[str, Callable[[], object]] = {
        "read": lambda: [list(bench.read(task, split)) for split in prepare.SPLITS],
        "digest of the sample": lambda: [digest_array(a) for a in first.arrays.values() for _ in range(reads)],
        "turn to a view, contiguous": lambda: [
            task.source.requests(task.source.apply_view(first, view)) for _ in range(count)
        ],
        "encode": lambda: encode_all(task, maps, count),
        "write and fsync": lambda: write_all(store, records),
    }
    return {name: 1000 * timed(part) / count for name, part in parts.items()}


def encode_all(task: SegmentationTask, maps: list[Tensor], count: int) -> list[dict]:
    """Encode the maps of one picture as many times as there are records."""
    dtype = task.settings.prepare.store_dtype
    return [{f"map_{i}": encode_features(one[0], dtype) for i, one in enumerate(maps)} for _ in range(count)]


def timed(function: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def write_all(store: FeatureStore, records: list) -> None:
    """Write records as prepare does."""
    with store.writer() as writer:
        for index, record in enumerate(records):
            writer.put(f"{index:032x}", record)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Measure both sides in turns and print the ratio."""
    bench = Bench(folder, options)
    count = len(bench.pictures)
    print(
        f"{count} records ({len(bench.samples)} windows of {SIDE} pixels, {options.views} stored views), batches of "
        f"{options.batch_size}, {bench.backbone.info.precision_in_use}, store {options.store_dtype}"
    )
    bench.run_bare()  # the first pass chooses kernels
    ready: list[SegmentationTask] = []

    def phase() -> None:
        task = ready.pop()
        prepare.run(task, make_task(folder, bench.source)[1])

    seconds: dict[str, list[tuple[float, float]]] = {"bare forward": [], "prepare phase": []}
    for _ in range(options.repeats):
        ready.append(bench.ready_task())
        for name, pair in take_turns({"bare forward": bench.run_bare, "prepare phase": phase}, 1).items():
            seconds[name] += pair
    print(f"{'':<16}{'s / record':>12}{'CPU s / record':>16}   median of {options.repeats}")
    for name, pairs in seconds.items():
        wall, cpu = (statistics.median(pair[which] for pair in pairs) / count for which in (0, 1))
        print(f"{name:<16}{wall:>12.4f}{cpu:>16.4f}")
    parts = part_times(bench)
    print("parts in one thread, ms per record: " + ", ".join(f"{name} {value:.1f}" for name, value in parts.items()))
    added = 1 / median_ratio(seconds["bare forward"], seconds["prepare phase"], which=1) - 1
    print(f"CPU that the phase adds to the forward: {added:.1%}")
    ratio = median_ratio(seconds["bare forward"], seconds["prepare phase"])
    print(verdict("prepare throughput over bare forward", ratio, GOAL, at_least=True, digits=3))


def main() -> None:
    """Read the arguments and measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="folder of a ViT-S; a random one of its shape when not given")
    parser.add_argument("--windows", type=int, default=36, help="windows of the scene")
    parser.add_argument("--columns", type=int, default=6, help="windows beside each other")
    parser.add_argument("--views", type=int, default=2, help="stored views of a training window")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--store-dtype", default="fp16", choices=["fp16", "bf16", "int8"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="null: as PyTorch chooses")
    parser.add_argument("--folder", type=Path, default=None, help="disk to measure; the system's temporary folder")
    parser.add_argument("--quick", action="store_true", help="a tiny backbone and few windows; the ratio means nothing")
    options = parser.parse_args()
    quiet_libraries()
    if options.quick:
        options.windows, options.columns, options.repeats = 6, 3, 1
    if options.threads:
        torch.set_num_threads(options.threads)
    print(machine_line())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        compare(Path(name), options)


if __name__ == "__main__":
    main()
