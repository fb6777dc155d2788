"""What probes look at: each gives what real code computes, reads, writes or asks of a library."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import yaml
from safetensors.torch import load_file

import main
from config import parse_settings
from tasks import kinds, load_task
from tasks.belief import judge
from tasks.context import PhaseResult
from tasks.example import tiny_backbone
from tasks.phases import load_phase
from tasks.phases.train import Training
from tasks.prepared import collate_samples, prepared_items
from tasks.runs import seed_everything
from tasks.sample import Progress
from tasks.stores import open_store
from tests.settings.stage import CALLS, SIZES, digest, model_of, names_in, own_task, prepared, task_of
from utils.errors import DataError, Interrupted
from utils.formats.convert import STAMP
from utils.geometry.augment import IDENTITY
from utils.samples.files import write_foxes, write_land

Look = Callable[[str, Path, Sequence[str]], Any]

# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The samples of the splits with their labels, and what training varies of them."""
    task, _ = own_task(kind, folder, overrides)
    task.source.prepare_data()
    task.setup()
    found: list[Any] = []
    for split in ("train", "val"):
        items = task.source.items(split)
        samples = [sample for item in items for sample in task.source.samples(item)][:60]
        found.append([[item.id for item in items], [digest(sample.arrays) for sample in samples]])
        if split == "train":
            views = task.source.views("train")
            varied = [*(task.source.apply_view(samples[0], view) for view in views), *samples[:6]]
            found += [[view.name for view in views], len(varied)]
            found.append([digest(task.source.augment(one, np.random.default_rng(0)).arrays) for one in varied])
    return found


def listed(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """Ids of each split, where one.txt names the first item of the default training split, and others the rest."""
    task, _ = own_task(kind, folder, [entry for entry in overrides if "label_path" in entry])
    task.source.prepare_data()
    train, val = ([item.id for item in task.source.items(split)] for split in ("train", "val"))
    for name, ids in (("one", train[:1]), ("rest", train[1:]), ("all", train), ("val", val)):
        (folder / f"{name}.txt").write_text("\n".join([*ids, ""]))
    task, _ = own_task(kind, folder, overrides)
    task.source.prepare_data()
    found = []
    for split in ("train", "val", "test"):
        with contextlib.suppress(DataError):  # a test split that is not named
            found.append((split, [item.id for item in task.source.items(split)]))
    return found


def audited(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What a source finds in its labels."""
    task, _ = own_task(kind, folder, overrides)
    return [str(finding) for finding in task.source.audit(task.source.items("train"))]


def asked(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The samples of what is to be predicted."""
    task, _ = own_task(kind, folder, overrides)
    items = task.source.items("inference")
    return [(item.id, digest(sample.arrays)) for item in items for sample in task.source.samples(item)]


def sampled(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The files of the seeded sample, in a small size."""
    small = {"write_land": functools.partial(write_land, size=(128, 128))}
    small["write_foxes"] = functools.partial(write_foxes, train=2, val=1, frames=2, size=(128, 160))
    task, _ = own_task(kind, folder, ("dataset.sample.enable=true", *overrides))
    with pytest.MonkeyPatch.context() as patch:
        for module in (f"tasks.{kind}.source", "tasks.labelled"):
            [patch.setattr(f"{module}.{name}", make, raising=False) for name, make in small.items()]
        task.source.prepare_data()
    return [
        (path.relative_to(folder).as_posix(), digest(np.frombuffer(path.read_bytes(), np.uint8)))
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".tif", ".png", ".gpkg")
    ]


def converted(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The copy of the labels that prepare writes."""
    task, _ = own_task(kind, folder, overrides)
    task.source.prepare_data()
    return [
        (path.relative_to(folder).as_posix(), path.read_text())
        for place in ("copy", "there")
        for path in sorted((folder / place).rglob("*"))
        if path.suffix in (".json", ".txt", ".yaml") and path.name != STAMP  # which knows the times of the pictures
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Preparing


def stored(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The records that prepare stores, by content, and where; how many pictures the backbone saw together."""
    load_phase("prepare")(*own_task(kind, folder, overrides))
    shards = sorted(folder.glob("*/shards/*.safetensors"))
    records = sorted(digest(tensor) for shard in shards for tensor in load_file(shard).values())
    lists = [(path.relative_to(folder).as_posix(), path.read_text()) for path in sorted(folder.glob("*/*.txt"))]
    return records, sorted({shard.parent.parent.name for shard in shards}), lists, sorted(SIZES), list(CALLS)


def threads(kind: str, folder: Path, overrides: Sequence[str], phase: str) -> Any:
    """For how many threads pools are made; the store's own one of two, which outlives a phase, does not count."""
    pools: set[int | None] = set()
    real_pool = ThreadPoolExecutor.__init__

    def make(self: ThreadPoolExecutor, max_workers: int | None = None, *rest: Any, **named: Any) -> None:
        pools.add(max_workers)
        real_pool(self, max_workers, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "__init__", make)
        load_phase(phase)(*(own_task if phase == "prepare" else task_of)(kind, folder, overrides))
    return sorted(map(str, pools - {2}))


def threads_of_prepare(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    return threads(kind, folder, overrides, "prepare")


def threads_of_verify(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    return threads(kind, folder, overrides, "verify")


def threads_of_train(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    return threads(kind, folder, overrides, "train")


def verified(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What verify finds in a store with a flipped byte, and whether it draws samples; a whole store is beside."""
    for name in ("store", "other"):
        shutil.copytree(prepared(kind) / "store", folder / name)
    shard = sorted((folder / "store" / "shards").glob("*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    task, context = task_of(kind, folder, (f"paths.processed_dir={folder}/store", *overrides))
    return load_phase("verify")(task, context).metrics, (context.folder.parent / "samples.png").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Training


def learnt(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """Targets, outputs and loss terms of untrained weights at each epoch, and the order of samples and views."""
    task, context = task_of(kind, folder, overrides)
    task.setup()
    store = open_store(task.settings, "train")
    items = prepared_items(task, store, "train", "train")
    task.objective.fit_statistics([entry for item in items for entry in item.entries])
    training = Training(task, context, store, items, [], "probe")
    seed_everything(task.settings.resources)  # dropout
    found = []
    for epoch in range(task.settings.train.epochs):
        training.state.epoch = epoch
        progress = task.objective.curriculum(epoch, task.settings.train.epochs)
        steps = training.plan_epoch()
        with contextlib.closing(training.read(steps[:1], progress)) as read_steps:
            batch = next(read_steps)[0]
        outputs = training.model(batch)
        counts, weights = task.objective.counts(batch), task.objective.weights()
        terms = {}
        for name, value in task.objective.loss(outputs, batch, progress).items():
            total, number = value if isinstance(value, tuple) else (value, counts[name])
            terms[name] = float(weights[name] * total.detach() / max(float(number), 1.0))
        order = [[(ref.position, ref.view) for ref in part] for step in steps for part in step]
        found.append((digest(batch.target), digest(outputs), terms, order))
    return found


def trained(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The weights that a training ends with, its losses by epoch and its files, where each validation scores more."""
    scores = count(1)
    context = _train(kind, folder, overrides, lambda task, *_, **__: {task.primary: next(scores) / 10})
    with (context.folder / "results.csv").open() as file:
        rows = [{name: row[name] for name in row if "time" not in name} for row in csv.DictReader(file)]
    weights = {path.name: load_file(path) for path in (context.folder / "checkpoints").glob("*.safetensors")}
    return digest(weights), rows, names_in(context.folder / "checkpoints"), names_in(folder / "extra"), list(CALLS)


def _train(kind: str, folder: Path, overrides: Sequence[str], score: Callable[..., Any] | None) -> Any:
    task, context = task_of(kind, folder, overrides)
    with pytest.MonkeyPatch.context() as patch:
        if score:
            replace_scores(patch, score)
        load_phase("train")(task, context)
    return context


def replace_scores(patch: pytest.MonkeyPatch, score: Callable[..., Any]) -> None:
    """Replace the scores of validations, and the judgement of what they were counted on, which they then lack."""
    patch.setattr("tasks.phases.train.score", score)
    patch.setattr("tasks.phases.train.judge_training", lambda task, scores, *_: judge(task.primary, 0.0, {}, []))


def validated(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The scores of validations, and how many samples go through the networks together."""
    context = _train(kind, folder, overrides, None)
    return (context.folder / "results.csv").read_text(), sorted(SIZES)


def chosen_best(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The epoch that a training keeps as the best, where scores disagree on it."""
    scores = iter(
        {"weighted_PCK": pck, "negative_error": error, "OKS_AP": ap, "mean_error_px": -error}
        for pck, error, ap in ((0.9, -9.0, 0.2), (0.5, -2.0, 0.1), (0.1, -5.0, 0.9))
    )
    context = _train(kind, folder, overrides, lambda *_, **__: next(scores))
    return digest(load_file(context.folder / "checkpoints" / "best.safetensors"))


def broken(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How many steps a training takes whose loss is not a number before it gives up."""
    taken: list[int] = []

    def update(self: Any, loss: float, norm: float) -> bool:
        taken.append(1)
        return real(self, float("nan"), norm)

    with pytest.MonkeyPatch.context() as patch:
        from utils.training.stopping import NonFiniteGuard

        real = NonFiniteGuard.update
        patch.setattr(NonFiniteGuard, "update", update)
        with contextlib.suppress(Exception):  # the end that the guard makes
            _train(kind, folder, overrides, lambda task, *_, **__: {task.primary: 0.0})
    return len(taken)


def resumed(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How often a training that was stopped early asks whether to stop when it is begun again."""
    asks: list[int] = []
    for most in (2, 10**6):
        task, context = task_of(kind, folder, overrides)
        asks.clear()

        def stop(most: int = most) -> int | None:
            asks.append(1)
            return signal.SIGTERM if len(asks) > most else None

        with contextlib.suppress(Interrupted), pytest.MonkeyPatch.context() as patch:
            replace_scores(patch, lambda task, *_, **__: {task.primary: 0.5})
            load_phase("train")(task, replace(context, stop_requested=stop))
    return len(asks)


def saved(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How often a training saves its state."""
    renamed: list[str] = []
    real = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda old, new, **named: renamed.append(str(new)) or real(old, new, **named))
        _train(kind, folder, overrides, lambda task, *_, **__: {task.primary: 0.5})
    return sum(name.endswith("state.safetensors") for name in renamed)


def anew(look: Look) -> Look:
    """Let a look have records of its own, where the setting or its base changes what is stored."""

    def look_anew(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
        own = (f"paths.splits_dir={folder}/splits", f"paths.processed_dir={folder}/store")
        load_phase("prepare")(*task_of(kind, folder, (*own, *overrides)))
        SIZES.clear()
        return look(kind, folder, (*own, *overrides))

    return look_anew


learnt_anew, trained_anew = anew(learnt), anew(trained)


def trained_from_copy(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What a training ends with, where the store has lost its records and the folder `copy` holds them."""
    for name in ("lost", "copy"):
        shutil.copytree(prepared(kind) / "store", folder / name)
    shutil.rmtree(folder / "lost" / "shards")
    return trained(kind, folder, (f"paths.processed_dir={folder}/lost", *overrides))[0]


# ---------------------------------------------------------------------------------------------------------------------
# Predictions


def with_model(kind: str, phase: str, overrides: Sequence[str]) -> list[str]:
    named = [] if any("checkpoint=" in entry for entry in overrides) else [f"{phase}.checkpoint={model_of(kind)}"]
    return [*named, *overrides]


def content(path: Path) -> Any:
    if path.suffix in (".tif", ".png") and path.stat().st_size:
        with rasterio.open(path) as raster:
            return digest(raster.read()), raster.tags(ns="IMAGE_STRUCTURE"), raster.colorinterp
    if path.suffix == ".gpkg":
        _, _, geometry, columns = pyogrio.raw.read(path, layer=0)  # without its styles
        return digest([list(map(bytes, geometry)), [list(column) for column in columns]])
    if path.suffix == ".json":
        tree = json.loads(path.read_text())
        follow = ("fingerprint", "checksum")  # they follow the folder's name
        return {key: value for key, value in tree.items() if key not in follow} if isinstance(tree, dict) else tree
    return path.read_text() if path.suffix in (".csv", ".qml", ".xml") else None


def predicted(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """Every file of results that inference writes, and how many samples go through the networks together."""
    low = [f"{kind}.min_score=0.0"] if kind in ("keypoints", "detection") else []
    task, context = task_of(kind, folder, [*low, *with_model(kind, "inference", overrides)])
    SIZES.clear()
    before = set(folder.rglob("*"))
    load_phase("inference")(task, context)
    made = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in before]
    files = [(path.relative_to(folder).as_posix(), content(path)) for path in made if path.name != "inference.json"]
    return files, sorted(SIZES)


def scored(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The scores of evaluate, the pictures it draws, and how many samples go through the networks together."""
    task, context = task_of(kind, folder, with_model(kind, "evaluate", overrides))
    SIZES.clear()
    load_phase("evaluate")(task, context)
    [place] = context.folder.glob("evaluate_*")
    return place.name, json.loads((place / "metrics.json").read_text())["metrics"], names_in(place), sorted(SIZES)


def judged(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What becomes of the validation targets when they are decoded as if a head had given them, and their scores."""
    task, _ = task_of(kind, folder, overrides)
    task.setup()
    predictor, metric = task.predictor([IDENTITY]), task.output.metric()
    found = []
    for item in task.source.items("val"):
        predictor.start(item)
        pieces: list[Any] = []
        for sample in task.source.samples(item):
            target = task.objective.collate(
                collate_samples(task, [sample]), [task.objective.encode(sample, Progress())]
            ).target
            maps = {name: target[name] for name in ("heatmaps", "centre", "offsets") if name in target}
            sure = {name: value if name == "offsets" else 8 * value - 4 for name, value in maps.items()}
            pieces += predictor.push([sample], sure)
        for piece in (*pieces, *predictor.finish()):
            metric.update(piece, task.source.truth(piece))
            found.append(digest(piece.arrays))
    return found, metric.compute()


def trained_and_predicted(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The predictions of a model of its own."""
    best = folder / "run" / "checkpoints" / "best.safetensors"
    trained_anew(kind, folder, overrides)
    return predicted(kind, folder, (f"inference.checkpoint={best}", *overrides))[0]


def exported(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The files of an export, and its model card."""
    load_phase("export")(*task_of(kind, folder, with_model(kind, "export", overrides)))
    cards = [path.read_text() for path in sorted(folder.rglob("README.md"))]
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("model.safetensors")), cards


# ---------------------------------------------------------------------------------------------------------------------
# The command


def tree_of(kind: str, data: Path) -> dict[str, Any]:
    """The settings file of a task on the data of its example."""
    model: dict[str, Any] = {"backbone": str(tiny_backbone()), "layers": [0, 1]}
    if kind == "segmentation":
        tree = {"paths": {"raw_images_dir": f"{data}/pictures", "label_path": f"{data}/labels"}}
        tree |= {"dataset": {"classes": ["dark", "light"]}}
    elif kind == "keypoints":
        tree = {"paths": {"data_root": f"{data}/animals", "label_path": "annotations"}}
        tree |= {"keypoints": {"short_side": 96}}
    elif kind == "detection":
        tree = {"paths": {"data_root": f"{data}/animals", "label_path": "annotations"}}
        tree |= {"detection": {"shortest_edge": 96}}
    else:
        tree = {"paths": {"raw_images_dir": f"{data}/pictures"}, "distill": {"crop": 32}}
        model["head_options"] = {"width": 16, "depth": 2, "heads": 2, "registers": 1, "patch_size": 8}
    return {"model": model, "tasks": {"t": {"kind": kind, **tree}}}


def commanded(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What main does: the phases that it calls on which task, the lines that it prints, and the files of the run."""

    def fake(name: str) -> Callable:
        return lambda task, context: CALLS.append((name, type(task).__name__)) or PhaseResult("done")

    paths = {name: f"{folder}/{name}" for name in ("runs_root", "processed_dir", "splits_dir")}
    (folder / "config.yml").write_text(yaml.safe_dump({"paths": paths} | tree_of(kind, prepared(kind))))
    (folder / "profile.yml").write_text("resources: {omp_threads: 3}\n")
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        patch.setattr("tasks.phases.load_phase", fake)
        code = main.main([str(folder / "config.yml"), *overrides])
    lines = [re.sub(r"[\d.]+", "#", line) for line in printed.getvalue().splitlines()]
    return code, lines, [re.sub(r"\d", "#", name) for name in names_in(folder)], list(CALLS)


def chosen(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The class of the task."""
    return load_task(parse_settings("{}", overrides, kinds()).shared.kind).__name__


def launched(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What torch.distributed is asked for under torchrun."""
    under = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}

    def begin(backend: Any = None, *_: Any, **named: Any) -> None:
        CALLS.append(("init_process_group", backend, named.get("backend")))
        raise RuntimeError("no other rank")

    with pytest.MonkeyPatch.context() as patch:
        for name, value in under.items():
            patch.setenv(name, value)
        patch.setattr("torch.distributed.init_process_group", begin)
        return commanded(kind, folder, ("resources.device=cpu", *overrides))
