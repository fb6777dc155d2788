"""The house is for any task: three tasks that no phase knows pass every phase that they declare, through main.py.

A stateful one on pairs of frames, which skips frames; one without training and model; and one whose targets are stored
maps of a producer that is not the backbone, and whose model has no backbone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import main
from config import ExportConfig, InferenceConfig, PathsConfig, TaskConfig, load_settings
from tasks import TASKS, kinds
from tasks.context import Context
from tasks.item import Finding, Item, Piece
from tasks.objective import Objective
from tasks.output import Metric, Output, Sink
from tasks.phases import evaluate, inference
from tasks.phases.prediction import predict
from tasks.phases.samples import Job, LiveSamples, StoredSamples
from tasks.phases.step import WeightedLoss, count_targets
from tasks.predictor import Predictor
from tasks.prepared import PreparedReader, prepared_items
from tasks.sample import Batch, Progress, Request, Sample
from tasks.source import Source
from tasks.stores import open_store
from tasks.task import Task
from utils.data import SampleRef
from utils.errors import DataError, Interrupted
from utils.geometry.augment import IDENTITY, View
from utils.geometry.fields import Displacements, Image, Maps
from utils.logging import VerbosityLogger
from utils.runtime.files import digest_array, read_json, write_bytes, write_json
from utils.store.feature_store import record_key

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
            named = self.settings.inference.input_tif
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


# ---------------------------------------------------------------------------------------------------------------------
# (a) Pairs of frames: a predictor with memory, which bridges frames where nothing moves


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

    def predictor(self, views=None) -> Predictor:
        return Bridging()

    def metric(self) -> Metric:
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


# ---------------------------------------------------------------------------------------------------------------------
# (b) Counting bright pixels: neither training nor model


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

    def predictor(self, views=None) -> Predictor:
        return Counting(self.settings.model.head_options.get("threshold", 128))

    def metric(self) -> Metric:
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


# ---------------------------------------------------------------------------------------------------------------------
# (c) Learning stored maps: a fixed random convolution as teacher, and a model without backbone


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

    def predictor(self, views=None) -> Predictor:
        return EchoPredictor()

    def metric(self) -> Metric:
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


# ---------------------------------------------------------------------------------------------------------------------
# Through main.py


class HousePaths(PathsConfig):
    raw_images_dir: str | None = None


class HouseSettings(TaskConfig):
    paths: HousePaths = HousePaths()
    inference: InferenceConfig = InferenceConfig()
    export: ExportConfig = ExportConfig()


class MotionSettings(HouseSettings):
    kind: Literal["motion"] = "motion"


class CountSettings(HouseSettings):
    kind: Literal["count"] = "count"


class EchoSettings(HouseSettings):
    kind: Literal["echo"] = "echo"


KINDS = {"motion": MotionTask, "count": CountTask, "echo": EchoTask}
SETTINGS = {"motion": MotionSettings, "count": CountSettings, "echo": EchoSettings}
TRAIN = {"epochs": 24, "batch_size": 2, "optimizer": "adamw", "adamw_lr": 0.05, "val_every": 12}


@pytest.fixture(autouse=True, scope="module")
def registry():
    """What a new task adds to the house: a line per kind."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, task in KINDS.items():
            patch.setitem(TASKS, kind, (f"{__name__}:{SETTINGS[kind].__name__}", f"{__name__}:{task.__name__}"))
        yield


@pytest.fixture(scope="module")
def run_once(registry, tmp_path_factory):
    """Run all phases of a kind through main.py, once for all tests that only look at what came out."""
    done: dict[str, tuple[Path, dict[str, str]]] = {}

    def run(kind: str) -> tuple[Path, dict[str, str]]:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            assert main.main([str(write_config(kind, folder))]) == 0
            done[kind] = folder, statuses(folder)
        return done[kind]

    return run


def write_data(kind: str, folder: Path) -> str:
    if kind == "motion":
        for split, seeds in (("train", range(5)), ("val", range(5, 7))):
            for seed in seeds:
                write_video(folder / "data" / split / f"video_{seed}", seed)
        return str(folder / "data" / "val" / "video_6")
    write_noise(folder / "data") if kind == "echo" else write_count_pictures(folder / "data")
    return str(folder / "data" / "val" / "val_1.npy")


def write_config(kind: str, folder: Path, **sections: Any) -> Path:
    """Settings of a task with all its phases enabled."""
    shown = write_data(kind, folder)
    tree: dict[str, Any] = {
        "logging": {"level": "error"},
        "paths": {name: str(folder / name) for name in ("processed_dir", "runs_root", "splits_dir")}
        | {"raw_images_dir": str(folder / "data")},
        "train": TRAIN,
        "inference": {"input_tif": shown},
        "tasks": {kind: {"kind": kind}},
    }
    for phase in KINDS[kind].phases:
        tree[phase] = tree.get(phase, {}) | {"enable": True}
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(tree | sections))
    return path


def statuses(folder: Path) -> dict[str, str]:
    phases = read_json(folder / "runs_root" / "status.json")["phases"]
    return {row["phase"].partition(".")[2]: row["status"] for row in phases}


def build(kind: str, config: Path) -> tuple[Task, Context]:
    settings = load_settings(config, (), kinds()).tasks[kind]
    folder = Path(settings.paths.runs_root) / kind / "latest"
    return KINDS[kind](kind, settings), Context(VerbosityLogger("error"), folder)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_task_passes_every_phase_it_declares_and_a_rerun_does_nothing(kind, run_once):
    folder, first = run_once(kind)
    assert first == dict.fromkeys(KINDS[kind].phases, "done")
    scores = read_json(folder / "runs_root" / kind / "latest" / "evaluate_val" / "metrics.json")["metrics"]
    assert scores["R2"] > 0.98, "it has learned (or counts) what it should"
    assert main.main([str(folder / "config.yml")]) == 0
    never_out_of_date = {"verify": "done", "export": "done"}
    assert statuses(folder) == {phase: never_out_of_date.get(phase, "up to date") for phase in KINDS[kind].phases}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_evaluate_gives_the_same_from_the_store_and_from_the_pictures(kind, run_once, tmp_path):
    folder, _ = run_once(kind)
    task, context = build(kind, folder / "config.yml")
    stored = read_json(context.folder / "evaluate_val" / "metrics.json")
    live_settings = load_settings(folder / "config.yml", [f"paths.processed_dir={tmp_path}"], kinds())
    live = KINDS[kind](kind, live_settings.tasks[kind])
    (context.folder / "evaluate_val" / "metrics.json").unlink()
    assert evaluate.stored_or_live(task, "val")[1] is not None
    assert evaluate.stored_or_live(live, "val")[1] is None
    assert evaluate.run(live, context).status == "done"
    scores = read_json(context.folder / "evaluate_val" / "metrics.json")["metrics"]
    assert scores == pytest.approx(stored["metrics"], rel=1e-5)


def test_the_stateful_predictor_skips_frames_in_every_phase(run_once):
    """Of four pairs two rest, and the second of those is bridged."""
    folder, _ = run_once("motion")
    task, context = build("motion", folder / "config.yml")
    scores = read_json(context.folder / "evaluate_val" / "metrics.json")["metrics"]
    assert scores["bridged"] == 0.25
    lines = read_json(context.folder / "predictions" / "video_6.json")
    truth = task.shifts(task.source.items("inference")[0])
    assert [line["frame"] for line in lines if line["bridged"]] == [3, 7, 11]
    assert np.abs(np.array([line["shift"] for line in lines]) - truth).max() < 1


def test_what_a_predictor_bridges_never_reaches_the_model(tmp_path):
    config = write_config("motion", tmp_path)
    assert main.main([str(config), "--only", "motion.prepare"]) == 0
    task, _ = build("motion", config)
    store = open_store(task.settings, "train")
    prepared = prepared_items(task, store, "val", "test")[:1]
    groups, context = [[prepared[0].item]], Context(VerbosityLogger("error"), tmp_path)
    for source in (StoredSamples(task, store, prepared), LiveSamples(task, [IDENTITY])):
        seen = []

        def rest(batch: Batch, seen: list[int] = seen) -> dict[str, Tensor]:
            seen.append(len(batch))
            return {"shift": torch.zeros(len(batch), 2)}

        given = [piece for _, piece in predict(task, rest, source, groups, "cpu", 8, context) if piece is not None]
        assert [piece.arrays["bridged"] for piece in given] == [False, True] * 6
        assert seen == [1] * 6, f"{type(source).__name__}: everything seems to rest, so every second pair is bridged"


def test_an_interrupted_video_goes_on_where_the_memory_is_empty(run_once, tmp_path):
    folder, _ = run_once("motion")
    settings = load_settings(folder / "config.yml", [f"inference.output_dir={tmp_path}"], kinds())
    task, context = MotionTask("motion", settings.tasks["motion"]), build("motion", folder / "config.yml")[1]
    asked, again = [], []

    def check_stop():
        asked.append(None)
        if len(asked) == 9:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        inference.run(task, replace(context, check_stop=check_stop))
    assert not (tmp_path / "video_6.json").exists(), "complete or absent"
    inference.run(task, replace(context, check_stop=lambda: again.append(None)))
    assert len(again) == 12 - 6, "pair 7 was bridged, pair 6 was the last that the model saw"
    assert read_json(tmp_path / "video_6.json") == read_json(context.folder / "predictions" / "video_6.json")


def test_stored_views_turn_vectors_as_the_task_says(tmp_path):
    config = write_config("motion", tmp_path)
    assert main.main([str(config), "--only", "motion.prepare"]) == 0
    task, _ = build("motion", config)
    store = open_store(task.settings, "train")
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    plain, mixed = (reader.read([SampleRef(0), SampleRef(1, view)], Progress()) for view in ("identity", "hflip"))
    assert torch.equal(plain.arrays["before"][0], mixed.arrays["before"][0])
    assert torch.equal(plain.arrays["before"][1].flip(-1), mixed.arrays["before"][1])
    factors = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    assert torch.equal(plain.target["shift"] * factors, mixed.target["shift"])
    assert (plain.target["shift"] != 0).all(), "this data would not show a sign"


def test_a_video_stays_together(tmp_path):
    task, _ = build("motion", write_config("motion", tmp_path))
    groups = task.source.partition(task.source.items("train"))
    assert [[item.id for item in group] for group in groups] == [[f"video_{seed}"] for seed in range(5)]
    assert all(len(group[0].sources) == 14 for group in groups), "13 frames and their labels"


def test_a_rank_without_work_gets_a_batch_of_nested_targets_without_rows(tmp_path):
    config = write_config("motion", tmp_path)
    assert main.main([str(config), "--only", "motion.prepare"]) == 0
    task, _ = build("motion", config)
    store = open_store(task.settings, "train")
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    batch = reader.read([], Progress()).to("cpu")
    model = task.build_model()
    divisors, _ = count_targets(task, [batch], torch.device("cpu"))
    loss, _ = WeightedLoss(model, task)(batch, Progress(), divisors)
    loss.backward()
    assert loss.item() == 0
    assert divisors.counts["loss"] == 0
    assert model.read.weight.grad.abs().max() == 0


def test_a_task_without_training_needs_no_checkpoint_and_refuses_training(tmp_path, capsys):
    config = write_config("count", tmp_path)
    task, context = build("count", config)
    assert evaluate.restore(task, None, context, "evaluate") == (task, None, None)
    assert main.main([str(config), "train.enable=true"]) == 2
    expected = (
        "count.train: a task of kind count has no phase train; it has prepare, verify, evaluate, inference, export"
    )
    assert expected in capsys.readouterr().err
    assert main.main([str(config), "--only", "count.evaluate"]) == 0, "evaluate needs no prepare"


def test_a_batched_predictor_can_refuse_samples(tmp_path):
    task, _ = build("count", write_config("count", tmp_path))
    source = LiveSamples(task, [IDENTITY])
    seen = [
        (slot.sample.id, slot.wanted)
        for item in task.source.items("val")[:2]
        for slot in source.read(Job(item, task.predictor()))
    ]
    assert seen == [("val_0", False), ("val_1", True)], "the black picture is pushed, and not computed"


def test_a_finding_of_the_audit_ends_the_run(tmp_path, capsys):
    config = write_config("count", tmp_path)
    write_json(tmp_path / "data" / "counts.json", read_json(tmp_path / "data" / "counts.json") | {"val_2": 999})
    assert main.main([str(config)]) == 3
    assert "verify: 1 findings in labels or pictures" in capsys.readouterr().err
    assert statuses(tmp_path) == {"prepare": "done"}


def test_a_teachers_maps_are_those_of_the_view_and_are_made_once(tmp_path):
    config = write_config("echo", tmp_path)
    assert main.main([str(config), "--only", "echo.prepare"]) == 0
    task, _ = build("echo", config)
    store = open_store(task.settings, "train")
    producers = [store.metadata(key).get("producer") for key in store.keys()]  # noqa: SIM118 - not a dictionary
    assert producers.count("teacher") == 6 * 2 + 2
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "test"))
    plain, turned = reader.read([SampleRef(2)], Progress()), reader.read([SampleRef(2, "hflip")], Progress())
    [taught] = task.teach([np.load(task.source.items("train")[2].sources[0])[:, ::-1].copy()])
    assert torch.allclose(turned.target[0], taught["maps"], atol=1e-6)
    assert not torch.allclose(turned.target, plain.target.flip(-1), atol=0.1), "maps are never flipped"


def test_online_pictures_meet_the_maps_of_their_view(tmp_path):
    config = write_config("echo", tmp_path)
    assert main.main([str(config), "--only", "echo.prepare"]) == 0
    settings = load_settings(config, ["train.features=online"], kinds()).tasks["echo"]
    task, cached = EchoTask("echo", settings), build("echo", config)[0]
    store = open_store(settings, "train")
    refs = [SampleRef(0, "hflip"), SampleRef(1)]
    online = PreparedReader(task, store, prepared_items(task, store, "train", "test")).read(refs, Progress())
    stored = PreparedReader(cached, store, prepared_items(task, store, "train", "test")).read(refs, Progress())
    assert torch.equal(online.arrays["image"], stored.arrays["image"])
    assert torch.equal(online.target, stored.target)


def test_a_checkpoint_of_another_kind_is_refused(run_once):
    folder, _ = run_once("echo")
    echo, context = build("echo", folder / "config.yml")
    motion = MotionTask("motion", echo.settings)
    with pytest.raises(DataError, match="a checkpoint of 'echo', not of 'motion'"):
        evaluate.restore(motion, None, context, "evaluate")
