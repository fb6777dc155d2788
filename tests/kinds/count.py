"""Counting bright pixels: neither training nor model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from tasks.item import Finding, Item, Piece
from tasks.output import Metric, Sink
from tasks.predictor import Predictor
from tasks.sample import Sample
from tests.kinds.folders import SIDE, FolderTask, HouseSettings, SquaredErrors
from utils.runtime.files import read_json, write_json


class Counting(Predictor):
    """Counts in the picture itself; a black picture needs no counting."""

    def __init__(self, threshold: int):
        self.threshold = threshold

    def start(self, item: Item, resume: int | None = None) -> None:
        self.item = item

    def wants(self, sample: Sample) -> bool:
        return bool(sample.arrays["image"].any())

    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        assert outputs is None  # there is no model
        for sample in samples:
            yield Piece(self.item, {"bright": int((sample.arrays["image"][..., 0] > self.threshold).sum())})

    def finish(self) -> Iterator[Piece]:
        yield from ()


class CountErrors(SquaredErrors):
    def update(self, piece: Piece, truth: int) -> None:
        self.count(np.array(piece.arrays["bright"]), np.array(truth))


class CountSink(Sink):
    def __init__(self, path: Path):
        self.path = path

    def append(self, piece: Piece) -> None:
        write_json(self.path, piece.arrays)

    def close(self) -> list[Path]:
        return [self.path]


class CountTask(FolderTask):
    """How many pixels are bright."""

    kind = "count"
    phases = ("prepare", "verify", "evaluate", "inference", "export")
    primary = "R2"

    def samples(self, item: Item, prompts: Any = None) -> Iterator[Sample]:
        yield Sample(item.id, item, {"image": np.load(item.sources[0])})

    def labelled(self, item: Item) -> int:
        return read_json(item.sources[0].parents[1] / "counts.json")[item.id]

    def truth(self, piece: Piece) -> int:
        return self.labelled(piece.item)

    def audit(self, items) -> Iterator[Finding]:
        for item in items:
            if self.labelled(item) > SIDE * SIDE:
                yield Finding(item.id, f"{self.labelled(item)} of {SIDE * SIDE} pixels", "count again")

    def predictor(self, views=None, phase="train") -> Predictor:
        return Counting(self.settings.model.head_options.get("threshold", 128))

    def metric(self, phase: str = "train") -> Metric:
        return CountErrors()

    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        return CountSink(folder / f"{item.id}.json")

    def export(self, model, folder: Path, checkpoint) -> list[Path]:
        assert model is None
        assert checkpoint is None
        write_json(folder / "rule.json", {"threshold": self.predictor().threshold})
        return [folder / "rule.json"]


def write_count_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    counts = {}
    for split, number in (("train", 3), ("val", 4)):
        (folder / split).mkdir(parents=True)
        for index in range(number):
            image = generator.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) // (4 - index)
            image *= index > 0  # the first picture is black
            np.save(folder / split / f"{split}_{index}.npy", image)
            counts[f"{split}_{index}"] = int((image[..., 0] > 128).sum())
    write_json(folder / "counts.json", counts)


class CountSettings(HouseSettings):
    kind: Literal["count"] = "count"
