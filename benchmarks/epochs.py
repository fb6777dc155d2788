"""How much faster an epoch on stored features is than the same epoch that computes them anew, head by head.

    python -m benchmarks.epochs --backbone /models/dinov2-small
    python -m benchmarks.epochs --compare precision --heads dpt unet_v2     # bf16 against fp32, both on stored features
    python -m benchmarks.epochs --compare project --heads dpt   # maps projected to 256 channels against all of them
    python -m benchmarks.epochs --quick --heads linear dpt      # a small backbone: does it run?

Both sides are the project's own training loop on the same windows of 518 pixels with the same batch size, two classes
and heads at their default widths: `train.features: cached` reads maps from the store, `online` reads the picture and
runs the frozen backbone. Epochs take turns. The seconds per window are split into data (reading, targets, copying),
forward, loss (with its counts), backward, and optimiser (with clipping); "rest" is what the loop itself takes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.workbench import (
    SIDE,
    TINY,
    VIT_SMALL,
    machine_line,
    make_task,
    quiet_libraries,
    random_backbone,
    verdict,
    write_scene,
)
from models import HEADS
from tasks.phases import prepare, step, train
from tasks.phases.train import Training
from tasks.prepared import prepared_items
from tasks.stores import open_store

PARTS = ("data", "forward", "loss", "backward", "optimiser")
GOALS = {"linear": 10.0, "dpt": 4.0}
OTHER_GOAL = 2.0
SIDES = {  # the slower one last: the ratio is its seconds over those of the other
    "features": {"cached": ["train.features=cached"], "online": ["train.features=online"]},
    "precision": {name: ["train.features=cached", f"train.precision={name}"] for name in ("bf16", "fp32")},
    "project": {"256": ["prepare.project=256", "prepare.store_dtype=int8"], "whole": []},
}


class Stopwatch:
    """Seconds that named parts of a loop take; a part inside another counts once, as the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running = False

    def watch(self, part: str, function: Callable) -> Callable:
        """Wrap a function so that its time is counted."""

        def timed(*arguments: Any, **named: Any) -> Any:
            if self.running:
                return function(*arguments, **named)
            self.running, started = True, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[part] += time.perf_counter() - started
                self.running = False

        return timed


@contextmanager
def watched(training: Training, stopwatch: Stopwatch) -> Iterator[None]:
    """Count the parts of a training's steps."""
    backward, optimisation = torch.Tensor.backward, training.optimisation
    objective, optimizer = training.task.objective, optimisation.optimizer
    with (
        mock.patch.object(training.reader, "read", stopwatch.watch("data", training.reader.read)),
        mock.patch.object(training.model, "forward", stopwatch.watch("forward", training.model.forward)),
        mock.patch.object(objective, "loss", stopwatch.watch("loss", objective.loss)),
        mock.patch.object(train, "count_targets", stopwatch.watch("loss", train.count_targets)),
        mock.patch.object(torch.Tensor, "backward", lambda *args: stopwatch.watch("backward", backward)(*args)),
        mock.patch.object(step, "clip_gradients", stopwatch.watch("optimiser", step.clip_gradients)),
        mock.patch.object(optimizer, "step", stopwatch.watch("optimiser", optimizer.step)),
        mock.patch.object(optimizer, "zero_grad", stopwatch.watch("optimiser", optimizer.zero_grad)),
    ):
        yield


def make_training(folder: Path, source: str, head: str, changes: list[str], options: argparse.Namespace) -> Training:
    """A training whose windows are prepared, before its first step."""
    task, context = make_task(
        folder,
        source,
        f"model.head={head}",
        f"model.precision={options.precision}",
        f"train.batch_size={options.batch_size}",
        f"train.num_workers={options.workers}",
        f"train.precision={options.train_precision}",
        *changes,
        "train.epochs=1000",
    )
    prepare.run(task, context)
    store = open_store(task.settings, "train")
    train_items, val_items = (prepared_items(task, store, split, "benchmark") for split in ("train", "val"))
    training = Training(task, context, store, train_items, val_items, "benchmark")
    if "train.features=online" in changes:
        assert task.features.backbone is not None  # loaded now, not in the first epoch
    return training


def time_epoch(training: Training) -> dict[str, float]:
    """Seconds per window of one epoch, in all and by part."""
    stopwatch, count = Stopwatch(), len(training.reader.entries)
    training.state.step_in_epoch = 0
    with watched(training, stopwatch):
        started = time.perf_counter()
        training.train_one_epoch()
        total = time.perf_counter() - started
    return {name: seconds / count for name, seconds in {**stopwatch.seconds, "total": total}.items()}


def measure(folder: Path, source: str, head: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median seconds per window of both sides, epochs in turns after one that warms up."""
    sides = {
        name: make_training(folder, source, head, changes, options) for name, changes in SIDES[options.compare].items()
    }
    time_epoch(next(iter(sides.values())))
    epochs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, training in sides.items():
            epochs[name].append(time_epoch(training))
    return {
        name: {part: statistics.median(epoch.get(part, 0.0) for epoch in found) for part in (*PARTS, "total")}
        for name, found in epochs.items()
    }


def print_row(head: str, side: str, seconds: dict[str, float]) -> None:
    """One line of the table, milliseconds per window."""
    rest = seconds["total"] - sum(seconds[part] for part in PARTS)
    cells = [*(seconds[part] for part in PARTS), rest, seconds["total"]]
    print(f"{head:<12}{side:<8}" + "".join(f"{1000 * value:>11.1f}" for value in cells), flush=True)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Measure every head and print the table and the ratios."""
    source = random_backbone(options.backbone, folder, TINY if options.quick else VIT_SMALL)
    write_scene(folder, SIDE * 2, SIDE * -(-options.windows // 2))
    print(f"batches of {options.batch_size}, {options.workers} reading threads, ms per window of {SIDE} pixels")
    print(f"{'head':<12}{'side':<8}" + "".join(f"{name:>11}" for name in (*PARTS, "rest", "total")))
    lines = []
    for head in options.heads:
        result = measure(folder, source, head, options)
        for side, seconds in result.items():
            print_row(head, side, seconds)
        (quick, slow), (shorter, longer) = result, result.values()
        ratio = longer["total"] / shorter["total"]
        goal = GOALS.get(head, OTHER_GOAL) if options.compare == "features" else 1.0
        lines.append(verdict(f"{head}: {slow} epoch over {quick} epoch", ratio, goal, at_least=True))
    print("\n".join(lines))


def main() -> None:
    """Read the arguments and measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="folder of a ViT-S; a random one of its shape when not given")
    parser.add_argument("--heads", nargs="+", default=sorted(HEADS["segmentation"]))
    parser.add_argument("--windows", type=int, default=20, help="windows of the scene; four fifths of them train")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0, help="train.num_workers")
    parser.add_argument("--compare", default="features", choices=list(SIDES), help="what the two sides differ in")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"], help="of the backbone")
    parser.add_argument("--train-precision", default="fp32", choices=["auto", "bf16", "fp32"], help="of the head")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="as PyTorch chooses when not given")
    parser.add_argument("--quick", action="store_true", help="a tiny backbone and few windows; the ratios mean nothing")
    options = parser.parse_args()
    quiet_libraries()
    if options.quick:
        options.windows, options.repeats = 6, 1
    if options.threads:
        torch.set_num_threads(options.threads)
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), options)


if __name__ == "__main__":
    main()
