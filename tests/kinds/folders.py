"""What the small kinds of task have in common: pictures are arrays in folders, and one object is all parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from config import ExportConfig, InferenceConfig, PathsConfig, TaskConfig
from tasks.item import Item
from tasks.objective import Objective
from tasks.output import Metric, Output
from tasks.source import Source
from tasks.task import Task
from utils.geometry.augment import View

HFLIP = View.from_name("hflip")
SIDE = 16  # pixels of every picture of these tests


class FolderTask(Source, Output, Task):
    """What the three have in common: pictures are arrays in `<raw_images_dir>/<split>/`; one object is all parts."""

    source = output = property(lambda self: self)

    def check(self):
        return [f"{len(self.items('train'))} to train on"]

    def folder(self, split: str) -> Path:
        return Path(self.settings.paths.raw_images_dir) / split

    def items(self, split: str) -> list[Item]:
        if split == "inference":
            named = self.settings.inference.inputs
            return [self.item(Path(path)) for path in ([named] if isinstance(named, str) else named or [])]
        folder = self.folder(split)
        return [self.item(path) for path in sorted(folder.iterdir())] if folder.exists() else []

    def item(self, path: Path) -> Item:
        return Item(path.stem, (path,))

    def cache_key(self):
        return {"kind": self.kind}

    def build_model(self) -> nn.Module:
        torch.manual_seed(self.settings.resources.seed)
        return self.make_model()

    def outputs(self, item: Item, folder: Path) -> list[Path]:
        return [folder / f"{item.id}.json"]


class LearningTask(FolderTask, Objective):
    """A task that trains a model."""

    objective = property(lambda self: self)


class SquaredErrors(Metric):
    """Explained variance of vectors: sums of squares, so that ranks can be added."""

    def __init__(self, extra: str | None = None):
        self.extra = extra
        self.sums = np.zeros(5)  # count, squared error, sum, squared sum, extra

    def count(self, predicted: np.ndarray, true: np.ndarray, extra: float = 0.0) -> None:
        error = np.square(np.asarray(predicted, float) - true).sum()
        self.sums += [true.size, error, true.sum(), np.square(true.astype(float)).sum(), extra * true.size]

    def state(self):
        return self.sums.tolist()

    def merge(self, state):
        self.sums += state

    def compute(self):
        number, error, total, squares, extra = self.sums
        variance = squares - total**2 / max(number, 1)
        scores = {"R2": float(1 - error / variance) if variance else float("nan")}
        return scores | ({self.extra: float(extra / max(number, 1))} if self.extra else {})


class HousePaths(PathsConfig):
    raw_images_dir: str | None = None


class HouseSettings(TaskConfig):
    paths: HousePaths = HousePaths()
    inference: InferenceConfig = InferenceConfig()
    export: ExportConfig = ExportConfig()
