"""Learning stored maps: a fixed random convolution as teacher, and a model without backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tasks.item import Item, Piece
from tasks.output import Metric, Sink
from tasks.predictor import Predictor
from tasks.sample import Batch, Progress, Request, Sample
from tests.kinds.count import CountSink
from tests.kinds.folders import HFLIP, SIDE, HouseSettings, LearningTask, SquaredErrors
from utils.geometry.augment import IDENTITY, View
from utils.geometry.fields import Image, Maps
from utils.runtime.files import digest_array, write_json
from utils.store.feature_store import record_key


class EchoPredictor(Predictor):
    def start(self, item: Item, resume: int | None = None) -> None:
        self.item = item

    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        assert outputs is not None
        for maps in outputs["maps"]:
            yield Piece(self.item, {"maps": maps.numpy()})

    def finish(self) -> Iterator[Piece]:
        yield from ()


class EchoErrors(SquaredErrors):
    def update(self, piece: Piece, truth: np.ndarray) -> None:
        self.count(piece.arrays["maps"], truth)


class EchoSink(CountSink):
    def append(self, piece: Piece) -> None:
        write_json(self.path, {"maps": piece.arrays["maps"].tolist()})


class EchoModel(nn.Module):
    """What the teacher is, with weights of its own."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.feature_maps is None
        return {"maps": self.convolution(batch.arrays["image"].float() / 128 - 1)}


class EchoTask(LearningTask):
    """Learn what another network makes of a picture."""

    kind = "echo"
    phases = ("prepare", "verify", "train", "evaluate", "inference")
    primary = "R2"

    @property
    def fields(self):
        return {"image": Image(), "teacher_maps": Maps()}

    @cached_property
    def teacher(self) -> EchoModel:
        torch.manual_seed(99)
        return EchoModel().eval()

    @torch.no_grad()
    def teach(self, images: Sequence[np.ndarray]) -> list[dict[str, Tensor]]:
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return [{"maps": maps} for maps in self.teacher(Batch([], {"image": stacked}))["maps"]]

    def samples(self, item: Item, prompts: Any = None) -> Iterator[Sample]:
        yield Sample(item.id, item, {"image": np.load(item.sources[0])})

    def truth(self, piece: Piece) -> np.ndarray:
        return self.teach([np.load(piece.item.sources[0])])[0]["maps"].numpy()

    def views(self, split: str) -> list[View]:
        return [IDENTITY, HFLIP] if split == "train" else [IDENTITY]

    def requests(self, sample: Sample) -> list[Request]:
        image = np.ascontiguousarray(sample.arrays["image"])
        return [Request("teacher", record_key(kind="echo", teacher=99, pixels=digest_array(image)), image)]

    def producers(self):
        return {"teacher": self.teach}

    def make_model(self) -> nn.Module:
        return EchoModel()

    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        batch.target = batch.arrays["teacher_maps"]
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.tensor(batch.target.numel())}

    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"loss": (outputs["maps"] - batch.target).square().sum()}

    def predictor(self, views=None, phase="train") -> Predictor:
        return EchoPredictor()

    def metric(self, phase: str = "train") -> Metric:
        return EchoErrors()

    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        return EchoSink(folder / f"{item.id}.json")


def write_noise(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 2)):
        (folder / split).mkdir(parents=True)
        for index in range(number):
            image = generator.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
            np.save(folder / split / f"{split}_{index}.npy", image)


class EchoSettings(HouseSettings):
    kind: Literal["echo"] = "echo"
