"""What tests of the phases share: short runs of the tiny example, and what is read of them."""

from __future__ import annotations

import csv
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import rasterio
import torch
from torch import Tensor

from tasks.context import Context
from tasks.phases import train
from tasks.phases.step import StepResult, count_targets
from tasks.runs import checkpoint_path
from tasks.sample import Batch, Progress
from utils.logging import VerbosityLogger
from utils.runtime.checkpoints import load_checkpoint
from utils.store.feature_store import FeatureStore

SMALL = ("prepare.tile_size=16", "model.head=linear")  # 28 windows
VIEWS = "dataset.augmentations={enable: true, stored_views: 2}"


def stopping_after(context: Context, steps: int) -> Context:
    """A context in which a signal arrives during a step (counted from 1)."""
    asked = []

    def stop_requested() -> int | None:
        asked.append(None)
        return signal.SIGTERM if len(asked) >= steps else None

    return replace(context, stop_requested=stop_requested)


def in_folder(context: Context, name: str) -> Context:
    """A context among whose runs there is no other training."""
    return replace(context, folder=context.folder.parent / name / "run")


def spoken(folder: Path) -> tuple[Context, Path]:
    """A context whose lines can be read."""
    return Context(VerbosityLogger("info", file=str(folder / "log.txt")), folder / "run"), folder / "log.txt"


def weights_of(context: Context, name: str) -> dict[str, Tensor]:
    return load_checkpoint(checkpoint_path(context.folder, name)).tensors


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def keys_of(folder: Path) -> set[str]:
    return set(FeatureStore(folder / "store").keys())


def producers_of(folder: Path, keys: set[str]) -> Counter:
    store = FeatureStore(folder / "store")
    return Counter(store.metadata(key).get("producer", "sample") for key in keys)


def rewrite(path: Path, change) -> None:
    """Change a raster's pixels (C, H, W) in place."""
    with rasterio.open(path, "r+") as raster:
        pixels = raster.read()
        change(pixels)
        raster.write(pixels)


def rows_of(context: Context) -> list[dict[str, str]]:
    with open(context.folder / "results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def first_step(training: train.Training) -> tuple[list[Batch], StepResult]:
    """Make the first step of a training, of this process alone."""
    training.model.train()
    batches = next(training.read(training.plan_epoch()[:1], Progress()))
    divisors, _ = count_targets(training.task, batches, training.device)
    return batches, training.optimisation.step(0, batches, Progress(), divisors)
