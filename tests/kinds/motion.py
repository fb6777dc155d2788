"""Pairs of frames: a predictor with memory, which bridges frames where nothing moves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tasks.item import Item, Piece
from tasks.output import Metric, Sink
from tasks.predictor import Predictor
from tasks.sample import Batch, Progress, Sample
from tests.kinds.folders import HFLIP, SIDE, HouseSettings, LearningTask, SquaredErrors
from utils.geometry.augment import IDENTITY, View
from utils.geometry.fields import Displacements, Image
from utils.runtime.files import read_json, write_bytes, write_json


@dataclass(frozen=True)
class Video(Item):
    first: int = 0  # pairs before this one are done


class ProfileModel(nn.Module):
    """Displacement from the difference of the profiles of two frames, which is linear in the centre of mass."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(SIDE, 1, bias=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        change = (batch.arrays["image"].float() - batch.arrays["before"].float()).mean(dim=1) / 16
        return {"shift": torch.cat([self.read(change.sum(dim=1)), self.read(change.sum(dim=2))], dim=1)}


class Bridging(Predictor):
    """After a pair without motion the next one is taken to be still, too, and costs nothing."""

    stateful = True

    def start(self, item: Item, resume: int | None = None) -> None:
        self.item, self.bridge, self.frame = item, False, item.first
        assert (resume or 0) == item.first

    def wants(self, sample: Sample) -> bool:
        assert sample.arrays["image"].shape == (SIDE, SIDE, 3)  # the same from the store and from the frames
        return not self.bridge

    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        [sample] = samples
        shift = np.zeros(2) if outputs is None else outputs["shift"][0].numpy()
        assert sample.id.endswith(f"/{self.frame}")
        yield Piece(self.item, {"shift": shift, "bridged": outputs is None, "frame": self.frame})
        self.bridge = outputs is not None and float(np.abs(shift).max()) < 0.5
        self.frame += 1

    def finish(self) -> Iterator[Piece]:
        yield from ()


class MotionErrors(SquaredErrors):
    def update(self, piece: Piece, truth: np.ndarray) -> None:
        self.count(piece.arrays["shift"], truth[piece.arrays["frame"]], float(piece.arrays["bridged"]))


class MotionSink(Sink):
    """A line per pair; a rerun goes on at the last pair that the model saw, where the predictor's memory is empty."""

    def __init__(self, item: Item, folder: Path):
        self.final = folder / f"{item.id}.json"
        self.lines = folder / f".{item.id}.lines"

    def written(self) -> list[dict]:
        return [json.loads(line) for line in self.lines.read_text().splitlines()] if self.lines.exists() else []

    def append(self, piece: Piece) -> None:
        self.lines.parent.mkdir(parents=True, exist_ok=True)
        arrays = piece.arrays
        kept = [line for line in self.written() if line["frame"] < arrays["frame"]]
        kept.append({"frame": arrays["frame"], "shift": arrays["shift"].tolist(), "bridged": arrays["bridged"]})
        write_bytes(self.lines, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def resume_point(self) -> int | None:
        return max((line["frame"] for line in self.written() if not line["bridged"]), default=None)

    def close(self) -> list[Path]:
        write_json(self.final, self.written())
        self.lines.unlink()
        return [self.final]


class MotionTask(LearningTask):
    """How far the picture moved from one frame of a video to the next."""

    kind = "motion"
    phases = ("prepare", "verify", "train", "evaluate", "inference")
    primary = "R2"

    def item(self, path: Path) -> Item:
        return Video(path.name, tuple(sorted(path.iterdir())))

    def continue_from(self, item: Item, resume: int) -> Item:
        return replace(item, first=resume)

    def samples(self, item: Item, prompts: Any = None) -> Iterator[Sample]:
        frames, shifts = item.sources[:-1], self.shifts(item)
        for pair in range(item.first, len(frames) - 1):
            arrays = {"image": np.load(frames[pair + 1]), "before": np.load(frames[pair])}
            yield Sample(f"{item.id}/{pair}", item, {**arrays, "shift": shifts[pair].astype(np.float32)})

    def count_samples(self, item: Item) -> int:
        return len(item.sources) - 2 - item.first

    def shifts(self, item: Item) -> np.ndarray:
        return np.array(read_json(item.sources[-1]))

    def truth(self, piece: Piece) -> np.ndarray:
        return self.shifts(piece.item)

    def views(self, split: str) -> list[View]:
        return [IDENTITY, HFLIP] if split == "train" else [IDENTITY]

    @property
    def fields(self):
        return {"image": Image(), "before": Image(), "shift": Displacements()}

    def make_model(self) -> nn.Module:
        return ProfileModel()

    def encode(self, sample: Sample, progress: Progress) -> Any:
        return torch.from_numpy(sample.arrays["shift"])

    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        batch.target = {"shift": torch.stack(list(targets)), "names": [sample.id for sample in batch.samples]}
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.tensor(batch.target["shift"].numel())}

    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert len(batch.target["names"]) == len(outputs["shift"])
        return {"loss": (outputs["shift"] - batch.target["shift"]).square().sum()}

    def predictor(self, views=None, phase="train") -> Predictor:
        return Bridging()

    def metric(self, phase: str = "train") -> Metric:
        return MotionErrors("bridged")

    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        return MotionSink(item, folder)


def write_video(folder: Path, seed: int, cycles: int = 3) -> None:
    """A bright square that moves twice, rests for two frames, and so on."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    corners = [np.array([0, 0])]
    for _ in range(cycles):
        for _ in range(2):
            corners.append((corners[-1] + generator.integers(1, SIDE - 4, 2)) % (SIDE - 4))
        corners += [corners[-1]] * 2
    for index, (x, y) in enumerate(corners):
        frame = np.full((SIDE, SIDE, 3), 20, np.uint8)
        frame[y : y + 4, x : x + 4] = 220
        np.save(folder / f"frame_{index:02d}.npy", frame)
    write_json(folder / "motion.json", np.diff(corners, axis=0).tolist())


class MotionSettings(HouseSettings):
    kind: Literal["motion"] = "motion"
