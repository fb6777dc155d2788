"""Every setting of every kind of task acts: another value changes what real code computes, reads, writes or calls.

A probe runs phases of a small task and gives what came out: weights, scores, files, arrays, or the arguments that a
library received. It never looks at resolved settings, logs or fingerprints. `PROBES` names for each setting a probe and
another value; a setting without one fails the test.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
import yaml
from matplotlib.figure import Figure
from safetensors.torch import load_file

import main
from config import Section, parse_settings
from tasks import kinds, load_task
from tasks.context import PhaseResult
from tasks.distill.example import student_example
from tasks.example import example_task
from tasks.keypoints.example import animals_example
from tasks.phases import load_phase
from utils.errors import Interrupted
from utils.runtime.setting_errors import section_of

EXAMPLES = {"segmentation": example_task, "keypoints": animals_example, "distill": student_example}
VARIED = "dataset.augmentations.enable=true"


def leaves(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Paths of all settings below a section."""
    for name, field in section.model_fields.items():
        nested = section_of(field.annotation)
        if nested:
            yield from leaves(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


# ---------------------------------------------------------------------------------------------------------------------
# What is observed


def digest(value: Any) -> str:
    """A digest of arrays in any nesting."""
    if isinstance(value, torch.Tensor):
        value = value.detach().float().numpy() if value.dtype == torch.bfloat16 else value.detach().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:12]}"
    if isinstance(value, dict):
        return json.dumps({str(key): digest(value[key]) for key in sorted(value, key=str)})
    if isinstance(value, list | tuple):
        return json.dumps([digest(entry) for entry in value])
    return repr(value)


def run_phases(kind: str, folder: Path, phases: Sequence[str], overrides: Sequence[str]):
    task, context = EXAMPLES[kind](folder, *overrides)
    for phase in phases:
        load_phase(phase)(task, context)
    return task, context


def names_in(folder: Path) -> list[str]:
    """Files below a folder, without the names that hold a time or a digest."""
    if not folder.exists():
        return []
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix not in (".log",))


def trained(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The weights that a training ends with, its losses and scores by epoch, and the files beside."""
    _, context = run_phases(kind, folder, ("prepare", "train"), overrides)
    with (context.folder / "results.csv").open() as file:
        rows = [
            {name: row[name] for name in row if "time" not in name and "second" not in name}
            for row in csv.DictReader(file)
        ]
    weights = {path.name: load_file(path) for path in (context.folder / "checkpoints").glob("*.safetensors")}
    return digest(weights), rows, names_in(context.folder / "checkpoints"), names_in(folder / "extra"), list(CALLS)


CALLS: list[Any] = []  # what libraries were asked for
SIZES: set[int] = set()  # of the batches that convolutions saw


class FakeWriter(contextlib.nullcontext):
    def add_scalar(self, name: str, value: float, step: int) -> None:
        CALLS.append(("add_scalar", name, step))

    def __enter__(self):
        return self


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """Record the arguments of library functions that do what a setting asks; leave out the drawing, which is slow."""
    CALLS.clear()

    def record(module: Any, name: str, result: Any = None, call: bool = False) -> None:
        real = getattr(module, name)

        def recorder(*arguments: Any, **named: Any) -> Any:
            plain = [argument for argument in arguments if isinstance(argument, str | int | float | bool)]
            CALLS.append((name, plain, sorted((key, repr(value)) for key, value in named.items())[:3]))
            return real(*arguments, **named) if call else result(*arguments) if callable(result) else result

        monkeypatch.setattr(module, name, recorder)

    def size(module: torch.nn.Module, arguments: tuple) -> None:
        if isinstance(module, torch.nn.Conv2d):
            SIZES.add(len(arguments[0]))

    SIZES.clear()
    hook = torch.nn.modules.module.register_module_forward_pre_hook(size)
    writer = ModuleType("torch.utils.tensorboard")
    writer.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    board = ModuleType("tensorboard")
    board.__spec__ = ModuleSpec("tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", board)
    record(torch, "compile", lambda model, *_: model)
    record(torch, "set_num_threads")
    record(torch, "set_num_interop_threads")
    record(torch, "set_float32_matmul_precision")
    record(torch, "use_deterministic_algorithms")
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, *_, **__: Path(path).write_bytes(b""))
    attend = torch.nn.functional.scaled_dot_product_attention

    def attention(*arguments: Any, **named: Any) -> Any:
        if "scaled_dot_product_attention" not in CALLS:
            CALLS.append("scaled_dot_product_attention")
        return attend(*arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    yield
    hook.remove()


def stored(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The records that prepare stores, by content, and where."""
    run_phases(kind, folder, ("prepare",), overrides)
    shards = sorted(folder.glob("*/shards/*.safetensors"))
    records = sorted(digest(tensor) for shard in shards for tensor in load_file(shard).values())
    lists = {
        f"{path.parent.name}/{path.name}": path.read_text().splitlines()[1:] for path in sorted(folder.glob("*/*.txt"))
    }
    return records, sorted({shard.parent.parent.name for shard in shards}), lists, list(CALLS)


def sizes(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How many pictures go through the networks together while features are stored and a head is trained."""
    run_phases(kind, folder, ("prepare",), overrides)
    first = sorted(SIZES)
    SIZES.clear()
    run_phases(kind, folder, ("train",), overrides)
    return first, sorted(SIZES)


def threads(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How many threads pools are made for, and how many are started beside, by the phases that read the store."""
    pools: list[int | None] = []
    beside: list[str] = []
    real_pool, real_start = ThreadPoolExecutor.__init__, threading.Thread.start

    def make(self: ThreadPoolExecutor, max_workers: int | None = None, *rest: Any, **named: Any) -> None:
        pools.append(max_workers)
        real_pool(self, max_workers, *rest, **named)

    def begin(self: threading.Thread) -> None:
        if not self.name.startswith("ThreadPoolExecutor"):
            beside.append(self.name)
        real_start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "__init__", make)
        patch.setattr(threading.Thread, "start", begin)
        run_phases(kind, folder, ("prepare", "verify", "train"), overrides)
    return sorted(map(str, pools)), len(beside)


def sizes_scored(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How many samples go through the networks together while a split is scored."""
    named = f"evaluate.checkpoint={model_of(kind, folder)}"
    run_phases(kind, folder, ("prepare",), (named, *overrides))
    SIZES.clear()
    run_phases(kind, folder, ("evaluate",), (named, "evaluate.pictures=0", *overrides))
    return sorted(SIZES)


def sizes_predicted(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How many samples go through the networks together while new pictures are predicted."""
    named = f"inference.checkpoint={model_of(kind, folder)}"
    SIZES.clear()
    run_phases(kind, folder, ("inference",), (named, *overrides))
    return sorted(SIZES)


def verified(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What verify finds in a store with a flipped byte, and in which store it looks."""
    run_phases(kind, folder, ("prepare",), ())
    shard = sorted((folder / "store" / "shards").glob("*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    task, context = EXAMPLES[kind](folder, *overrides)
    return load_phase("verify")(task, context).metrics


def read(kind: str, folder: Path, overrides: Sequence[str], change: Callable[[Path], None] | None = None) -> Any:
    """The samples of the splits with their labels, and what training varies of them."""
    task, _ = EXAMPLES[kind](folder, *overrides)
    if change:
        change(folder)
        task = type(task)(task.name, task.settings)
    task.source.prepare_data()
    found: list[Any] = []
    for split in ("train", "val", "test"):
        try:
            items = task.source.items(split)
        except Exception as error:
            found.append(type(error).__name__)  # the example has no test split
            continue
        samples = [sample for item in items for sample in task.source.samples(item)][:120]
        found.append([[item.id for item in items], [digest(sample.arrays) for sample in samples]])
        if split == "train":
            views = task.source.views("train")
            found.append([view.name for view in views])
            turned = [task.source.apply_view(samples[0], view) for view in views]
            found.append(
                [digest(task.source.augment(sample, np.random.default_rng(0)).arrays) for sample in [*turned, *samples]]
            )
    return found


def listed(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The splits, where {folder}/one.txt names the first item of the default training split, and others the rest."""
    task, _ = EXAMPLES[kind](folder, *(entry for entry in overrides if "label_path" in entry))
    task.source.prepare_data()
    train, val = (
        [line for line in next(folder.glob(f"splits/*_{split}.txt")).read_text().splitlines() if line[:1] != "#"]
        for split in ("train", "val")
    )
    for name, ids in (("one", train[:1]), ("rest", train[1:]), ("all", train), ("val", val)):
        (folder / f"{name}.txt").write_text("\n".join([*ids, ""]))
    shutil.rmtree(folder / "splits")
    return read(kind, folder, overrides)


MODELS: dict[str, Path] = {}


def model_of(kind: str, folder: Path) -> Path:
    if kind not in MODELS:
        place = folder.parent / f"model_of_{kind}"
        run_phases(kind, place, ("prepare", "train"), ("train.epochs=3", "train.adamw_lr=0.01"))
        MODELS[kind] = next(place.rglob("best.safetensors"))
    return MODELS[kind]


def content(path: Path) -> Any:
    if path.suffix in (".tif", ".png"):
        with rasterio.open(path) as raster:
            return digest(raster.read()), raster.tags(ns="IMAGE_STRUCTURE"), raster.colorinterp
    if path.suffix == ".gpkg":
        _, _, geometry, columns = pyogrio.raw.read(path)
        return digest([list(map(bytes, geometry)), [list(column) for column in columns]])
    if path.suffix == ".json":
        tree = json.loads(path.read_text())
        return {key: value for key, value in tree.items() if key != "fingerprint"}
    if path.suffix == ".csv":
        return path.read_text()
    return None


def predicted(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """Every file of results that inference writes."""
    named = (
        ()
        if any(entry.startswith("inference.checkpoint=") for entry in overrides)
        else (f"inference.checkpoint={model_of(kind, folder)}",)
    )
    low = ("keypoints.min_score=0.0",) if kind == "keypoints" and "keypoints.min_score" not in str(overrides) else ()
    before = set(folder.rglob("*"))
    run_phases(kind, folder, ("inference",), (*low, *named, *overrides))
    skipped = {"inference.json"}
    made = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in before]
    made = [
        path for path in made if not {"pictures", "labels", "animals", "store"} & set(path.relative_to(folder).parts)
    ]
    return [
        (path.relative_to(folder).as_posix(), str(content(path)).replace(str(folder), ""))
        for path in made
        if path.name not in skipped and "fingerprint" not in path.name
    ], list(CALLS)


def scored(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The scores of evaluate and the pictures it draws."""
    named = (
        ()
        if any(entry.startswith("evaluate.checkpoint=") for entry in overrides)
        else (f"evaluate.checkpoint={model_of(kind, folder)}",)
    )
    _, context = run_phases(kind, folder, ("prepare", "evaluate"), (*named, *overrides))
    [place] = context.folder.glob("evaluate_*")
    metrics = json.loads((place / "metrics.json").read_text())["metrics"]
    return place.name, metrics, names_in(place)


def exported(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The files of an export, and its model card."""
    named = (
        ()
        if any(entry.startswith("export.checkpoint=") for entry in overrides)
        else (f"export.checkpoint={model_of(kind, folder)}",)
    )
    run_phases(kind, folder, ("export",), (*named, *overrides))
    cards = [path.read_text().replace(str(folder), "") for path in sorted(folder.rglob("README.md"))]
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("model.safetensors")), cards


def commanded(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What main does: the phases that it calls on which task, the lines that it prints, and the files of the run."""
    EXAMPLES[kind](folder)

    def fake(name: str) -> Callable:
        return lambda task, context: CALLS.append((name, type(task).__name__)) or PhaseResult("done")

    text = yaml.safe_dump({"paths": {"runs_root": str(folder / "runs")}} | TREES[kind](folder))
    (folder / "config.yml").write_text(text)
    (folder / "profile.yml").write_text("resources: {omp_threads: 3}\n")
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        patch.setattr("tasks.phases.load_phase", fake)
        code = main.main([str(folder / "config.yml"), *overrides])
    lines = [re.sub(r"[\d.]+", "#", line) for line in printed.getvalue().replace(str(folder), "").splitlines()]
    made = [
        re.sub(r"\d", "#", name)
        for name in names_in(folder)
        if name.split("/")[0] not in ("pictures", "labels", "animals")
    ]
    return code, lines, made, list(CALLS)


def tree_of_rasters(folder: Path) -> dict[str, Any]:
    from tasks.example import tiny_backbone

    return {
        "dataset": {"classes": ["dark", "light"]},
        "model": {"backbone": str(tiny_backbone()), "layers": [0, 1]},
    } | {
        "tasks": {
            "t": {
                "kind": "segmentation",
                "paths": {"raw_images_dir": f"{folder}/pictures", "label_path": f"{folder}/labels"},
            }
        }
    }


def tree_of_poses(folder: Path) -> dict[str, Any]:
    from tasks.example import tiny_backbone

    paths = {"data_root": f"{folder}/animals", "label_path": "annotations"}
    tree = {"model": {"backbone": str(tiny_backbone()), "layers": [0, 1]}, "keypoints": {"short_side": 96}}
    return tree | {"tasks": {"t": {"kind": "keypoints", "paths": paths}}}


def tree_of_pictures(folder: Path) -> dict[str, Any]:
    from tasks.example import tiny_backbone

    student = {"head_options": {"width": 16, "depth": 2, "heads": 2, "registers": 1, "patch_size": 8}}
    tree = {"model": {"backbone": str(tiny_backbone()), "layers": [0, 1], **student}, "distill": {"crop": 32}}
    return tree | {"tasks": {"t": {"kind": "distill", "paths": {"raw_images_dir": f"{folder}/pictures"}}}}


def deep(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The samples of pictures of 16 bits."""

    def change(folder: Path) -> None:
        for path in (folder / "pictures").glob("*.tif"):
            with rasterio.open(path) as raster:
                values, profile = raster.read(), raster.profile
            with rasterio.open(path, "w", **{**profile, "dtype": "uint16"}) as raster:
                raster.write(values.astype(np.uint16) ** 2)

    return read(kind, folder, overrides, change)


def drawn(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The samples where labels are two layers of vectors: an area and a line with attributes `sort` and `other`."""

    def change(folder: Path) -> None:
        line = shapely.LineString([(500_010, 5_499_990), (500_030, 5_499_990)])
        for layer, moved in (("first", 0), ("second", 4)):
            shapes = np.array([shapely.box(499_990, 5_499_000, 500_010 + moved, 5_501_000), line])
            columns = [np.array(["dark", "light"], dtype=object), np.array(["light", "dark"], dtype=object)]
            pyogrio.raw.write(
                folder / "labels.gpkg",
                geometry=shapely.to_wkb(shapes),
                field_data=columns,
                fields=["sort", "other"],
                layer=layer,
                geometry_type="Unknown",
                crs="EPSG:32632",
                append=layer == "second",
            )

    return read(kind, folder, overrides, change)


def whole(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The samples of pictures in a format that is decoded whole."""

    def change(folder: Path) -> None:
        for path in (*folder.glob("pictures/*.tif"), *folder.glob("labels/*.tif")):
            with rasterio.open(path) as raster:
                values = raster.read()
            count, height, width = values.shape
            profile = {"driver": "PNG", "height": height, "width": width, "count": count, "dtype": "uint8"}
            with rasterio.open(path.with_suffix(".png"), "w", **profile) as raster:
                raster.write(values)
            path.unlink()

    return read(kind, folder, overrides, change)


def painted(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The samples where labels are masks in two colours."""

    def change(folder: Path) -> None:
        for path in (folder / "labels").glob("*.tif"):
            with rasterio.open(path) as raster:
                values, profile = raster.read(1), raster.profile
            colours = np.stack([np.where(values == 1, 250, 10)] * 3).astype(np.uint8)
            with rasterio.open(path, "w", **{**profile, "count": 3, "nodata": None}) as raster:
                raster.write(colours)

    return read(kind, folder, overrides, change)


def resumed(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How often a training that was stopped early asks whether to stop when it is begun again."""
    run_phases(kind, folder, ("prepare",), overrides)
    asked: list[int] = []
    for most in (4, 10**6):
        task, context = EXAMPLES[kind](folder, *overrides)
        asked.clear()

        def stop(most: int = most) -> int | None:
            asked.append(1)
            return signal.SIGTERM if len(asked) > most else None

        context = replace(context, stop_requested=stop)
        with contextlib.suppress(Interrupted):
            load_phase("train")(task, context)
    return len(asked)


def saved(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """How often a training saves its state."""
    renamed: list[str] = []
    real = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda old, new, **named: renamed.append(str(new)) or real(old, new, **named))
        run_phases(kind, folder, ("prepare", "train"), overrides)
    return sum(name.endswith("state.safetensors") for name in renamed)


def chosen(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The class of the task."""
    return load_task(parse_settings("{}", overrides, kinds()).shared.kind).__name__


def launched(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What torch.distributed is asked for under torchrun."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "x",
            "MASTER_PORT": "1",
        }.items():
            patch.setenv(name, value)

        def begin(backend: Any = None, *_: Any, **named: Any) -> None:
            CALLS.append(("init_process_group", backend, named.get("backend")))
            raise RuntimeError("no other rank")

        patch.setattr("torch.distributed.init_process_group", begin)
        return commanded(kind, folder, ("resources.device=cpu", *overrides))


def converted(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The copy of the labels that prepare writes."""
    run_phases(kind, folder, ("prepare",), overrides)
    return [
        (path.relative_to(folder).as_posix(), path.read_text().replace(str(folder), ""))
        for place in ("copy", "there")
        for path in sorted((folder / place).rglob("*"))
        if path.suffix in (".json", ".txt", ".yaml")
    ]


TREES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "segmentation": tree_of_rasters,
    "keypoints": tree_of_poses,
    "distill": tree_of_pictures,
}


# ---------------------------------------------------------------------------------------------------------------------
# One probe for each setting


@dataclass(frozen=True)
class Probe:
    """What to look at, another value, settings that hold for both, and the error that the other value may end in."""

    look: Callable[[str, Path, Sequence[str]], Any]
    other: str | dict[str, str]
    base: tuple[str, ...] = ()
    error: str | dict[str, str] = ""


LISTS = (
    "train={enable: true, epochs: 1, batch_size: 4}",
    "keypoints|paths.label_path=annotations/train.json",
    "dataset.splits.train_list={folder}/rest.txt",
    "dataset.splits.val_list={folder}/val.txt",
)
AGAIN = ("train.epochs=2",)
MULTITASK = ("model.head=multitask", "train.epochs=2")
CONVERTED = ("dataset.convert_to={format: coco, folder: FOLDER/copy}".replace("FOLDER", "{folder}"),)
PLAIN = (VARIED, *(f"dataset.augmentations.{name}=false" for name in ("hflip", "vflip", "rotate90")))
COLOUR = (VARIED, "dataset.augmentations.stored_variations=1")
UNGROUPED = ("train.epochs=2", "keypoints.grouping=false")
OTHER_PICTURE = {"segmentation": "{folder}/pictures/scene_1.tif", "keypoints": "images/val_001.png"}
RELATIVE = (
    "segmentation|paths.raw_images_dir=pictures",
    "distill|paths.raw_images_dir=pictures",
    "keypoints|paths.label_path=animals/annotations",
    "paths.data_root={folder}",
)
VECTORS = ("paths.label_path={folder}/labels.gpkg", "dataset.label_layer=first", "dataset.label_attribute=sort")
COLOURS = ("dataset.label_colours={dark: [10, 10, 10], light: [250, 250, 250]}",)
PROBES: dict[str, Probe] = {
    "kind": Probe(
        chosen,
        {"segmentation": "keypoints", "keypoints": "distill", "distill": "segmentation"},
        tuple(f"{kind}|kind={kind}" for kind in EXAMPLES),
    ),
    "dataset.percentiles": Probe(deep, "[20.0, 80.0]"),
    "dataset.label_pattern": Probe(read, "'{stem}_labels.tif'", error="label"),
    "dataset.label_layer": Probe(drawn, "second", VECTORS),
    "dataset.label_attribute": Probe(drawn, "other", VECTORS),
    "dataset.unlabelled": Probe(drawn, "light", VECTORS),
    "dataset.line_width": Probe(drawn, "9.0", VECTORS),
    "dataset.label_colours": Probe(painted, "{dark: [250, 250, 250], light: [10, 10, 10]}", COLOURS),
    "train.resume": Probe(resumed, "never", ("train.epochs=3", "train.batch_size=2")),
    "train.save_minutes": Probe(saved, "1e-9", ("train.epochs=2", "train.batch_size=2")),
    "keypoints.split_by": Probe(read, "stem", ("paths.label_path=annotations/train.json",), error="stem|split"),
    "keypoints.canonicalise": Probe(trained, "true"),
    "keypoints.best_metric": Probe(trained, "error", UNGROUPED),
    "resources.dist_backend": Probe(launched, "nccl"),
    "paths.data_root": Probe(read, "/no/folder", RELATIVE, error="no/folder|no scene|no such|nothing"),
    "paths.raw_images_dir": Probe(read, "/no/folder", error="no/folder"),
    "paths.label_path": Probe(read, "/no/folder", error="no/folder"),
    "prepare.batch_size": Probe(sizes, "2"),
    "verify.rehash": Probe(verified, "false"),
    "verify.processed_dir": Probe(verified, "{folder}/other"),
    "train.features": Probe(sizes, "online"),
    "train.val_batch_size": Probe(sizes, "1", ("train.batch_size=4",)),
    "dataset.splits.block_tiles": Probe(read, "1"),
    "dataset.sample.enable": Probe(commanded, "true", ("prepare.enable=true",)),
    "model.freeze": Probe(trained, "1", ("train.features=online",)),
    "model.num_classes": Probe(trained, "3", ("dataset.classes=null", "model.num_classes=2")),
    "inference.input_tif": Probe(predicted, OTHER_PICTURE),
    "inference.inputs": Probe(predicted, OTHER_PICTURE),
    "inference.polygons.simplify": Probe(predicted, "3.0", ("inference.polygons.enable=true",)),
    "inference.polygons.min_area": Probe(predicted, "1e6", ("inference.polygons.enable=true",)),
    "inference.polygons.skip": Probe(predicted, "[dark]", ("inference.polygons.enable=true",)),
    "keypoints.augment_from": Probe(trained, "0.9", (*COLOUR, "dataset.augmentations.brightness=0.5", *AGAIN)),
    "keypoints.augment_until": Probe(trained, "0.1", (*COLOUR, "dataset.augmentations.brightness=0.5", *AGAIN)),
    "keypoints.loss.grouping_weight": Probe(trained, "3.0"),
    "keypoints.loss.objectness_weight": Probe(trained, "3.0", MULTITASK),
    "keypoints.loss.box_weight": Probe(trained, "3.0", MULTITASK),
    "keypoints.loss.mask_weight": Probe(trained, "3.0", MULTITASK),
    "keypoints.loss.aux_warmup": Probe(trained, "0.5", MULTITASK),
    "keypoints.loss.pair_weight": Probe(trained, "3.0"),
    "keypoints.loss.pair_margin_px": Probe(trained, "30.0", ("keypoints.loss.pair_weight=3.0",)),
    "keypoints.loss.side_weight": Probe(trained, "3.0"),
    "keypoints.loss.side_margin": Probe(trained, "0.9", ("keypoints.loss.side_weight=3.0",)),
    "keypoints.nms_radius": Probe(predicted, "9.0"),
    "keypoints.tta_merge": Probe(predicted, "max", ("inference.tta.horizontal_flip=true",)),
    "keypoints.max_instances": Probe(read, "1", error="max_instances"),
    "dataset.convert_to.format": Probe(converted, "yolo", CONVERTED),
    "dataset.convert_to.folder": Probe(converted, "{folder}/there", CONVERTED),
    "dataset.convert_to.layout": Probe(converted, "folders", CONVERTED),
    "dataset.convert_to.mode": Probe(converted, "segmentation", CONVERTED),
    "keypoints.format": Probe(read, "yolo", error="format|data"),
    "distill.bands": Probe(read, "{'scene.tif': [3, 2, 1]}"),
    "distill.stacks": Probe(read, "[[pictures/scene.tif, pictures/scene.tif, pictures/scene.tif]]", RELATIVE),
    "distill.probe.config": Probe(scored, "/no/such.yml", error="no such"),
    "profile": Probe(commanded, "{folder}/profile.yml"),
    "resources.seed": Probe(trained, "3"),
    "resources.device": Probe(commanded, "mps"),
    "resources.omp_threads": Probe(commanded, "2"),
    "resources.interop_threads": Probe(commanded, "7"),
    "resources.matmul_precision": Probe(commanded, "medium"),
    "resources.safe_mode": Probe(commanded, "true"),
    "resources.deterministic": Probe(commanded, "true"),
    "resources.distributed": Probe(commanded, "true"),
    "logging.level": Probe(commanded, "error"),
    "logging.timestamps": Probe(commanded, "true"),
    "logging.file": Probe(commanded, "{folder}/log.txt"),
    "paths.processed_dir": Probe(stored, "{folder}/other"),
    "paths.runs_root": Probe(commanded, "{folder}/other"),
    "paths.run_name": Probe(commanded, "mine", ("train.enable=true",)),
    "paths.splits_dir": Probe(stored, "{folder}/other", ("keypoints|paths.label_path=annotations/train.json",)),
    "dataset.augmentations.enable": Probe(read, "true"),
    "dataset.augmentations.hflip": Probe(read, "true", PLAIN),
    "dataset.augmentations.vflip": Probe(read, "true", PLAIN),
    "dataset.augmentations.rotate90": Probe(read, "true", PLAIN),
    "dataset.augmentations.stored_views": Probe(read, "2", (VARIED,)),
    "dataset.augmentations.stored_variations": Probe(read, "2", (*COLOUR, "dataset.augmentations.brightness=0.5")),
    "dataset.augmentations.brightness": Probe(read, "0.5", (*COLOUR, "dataset.augmentations.contrast=0.1")),
    "dataset.augmentations.contrast": Probe(read, "0.5", (*COLOUR, "dataset.augmentations.brightness=0.1")),
    "dataset.augmentations.saturation": Probe(read, "0.5", (*COLOUR, "dataset.augmentations.brightness=0.1")),
    "dataset.augmentations.scale_range": Probe(read, "[1.5, 1.6]", (*COLOUR, "dataset.augmentations.brightness=0.1")),
    "dataset.augmentations.rotation_degrees": Probe(read, "40", (*COLOUR, "dataset.augmentations.brightness=0.1")),
    "dataset.splits.train_list": Probe(listed, "{folder}/all.txt", LISTS),
    "dataset.splits.val_list": Probe(listed, "{folder}/one.txt", LISTS),
    "dataset.splits.test_list": Probe(listed, "{folder}/one.txt", LISTS),
    "model.layers": Probe(stored, "[1]"),
    "model.backbone": Probe(stored, "embedded", ("model.layers=[1]",)),
    "model.head": Probe(
        trained,
        {"segmentation": "linear", "keypoints": "relational", "distill": "convnext"},
        ("model.head_options={}",),
    ),
    "model.head_options": Probe(
        trained,
        {
            "segmentation": "{width: 16}",
            "keypoints": "{width: 8}",
            "distill": "{width: 24, depth: 2, heads: 2, registers: 1, patch_size: 8}",
        },
    ),
    "model.dino_channels": Probe(stored, "5", error="dino_channels"),
    "model.precision": Probe(stored, "bf16"),
    "model.attention": Probe(stored, "eager"),
    "model.compile": Probe(stored, "true"),
    "prepare.enable": Probe(commanded, "true"),
    "prepare.store_dtype": Probe(stored, "bf16"),
    "prepare.processed_dir": Probe(stored, "{folder}/other"),
    "prepare.device": Probe(stored, "mps", error="mps asked for"),
    "prepare.reserve_gb": Probe(stored, "1e9", error="GB"),
    "verify.enable": Probe(commanded, "true"),
    "train.enable": Probe(commanded, "true"),
    "train.device": Probe(trained, "mps", error="mps asked for"),
    "train.processed_dir": Probe(trained, "{folder}/other", error="prepare"),
    "train.weights_dir": Probe(trained, "{folder}/extra"),
    "train.batch_size": Probe(trained, "2"),
    "train.grad_accum_steps": Probe(trained, "2", ("train.batch_size=1",)),
    "train.epochs": Probe(trained, "2"),
    "train.optimizer": Probe(trained, "adamw"),
    "train.muon_lr": Probe(trained, "0.3", AGAIN),
    "train.adamw_lr": Probe(trained, "0.03", AGAIN),
    "train.momentum": Probe(trained, "0.5", AGAIN),
    "train.weight_decay": Probe(trained, "0.9", AGAIN),
    "train.schedule": Probe(trained, "constant", AGAIN),
    "train.warmup": Probe(trained, "0.9", AGAIN),
    "train.milestones": Probe(trained, "[0.1]", (*AGAIN, "train.schedule=step")),
    "train.clip_norm": Probe(trained, "0.001", AGAIN),
    "train.ema_decay": Probe(trained, "0.5", AGAIN),
    "train.val_fraction": Probe(read, "0.6", ("keypoints|paths.label_path=annotations/train.json",)),
    "train.val_every": Probe(trained, "2", AGAIN),
    "train.patience": Probe(trained, "1", ("train.epochs=3", "train.min_delta=9")),
    "train.min_delta": Probe(trained, "9", ("train.epochs=4", "train.patience=2", "train.adamw_lr=0.03")),
    "train.init_from": Probe(trained, "{model}"),
    "train.tensorboard": Probe(trained, "true"),
    "evaluate.batch_size": Probe(sizes_scored, "3"),
    "inference.batch_size": Probe(sizes_predicted, "3"),
    "train.compile": Probe(trained, "true"),
    "train.num_workers": Probe(threads, "3", ("train.num_workers=1",)),
    "train.precision": Probe(trained, "bf16"),
    "verify.workers": Probe(threads, "5"),
    "evaluate.enable": Probe(commanded, "true"),
    "evaluate.split": Probe(scored, "train"),
    "evaluate.checkpoint": Probe(scored, "/no/such.safetensors", error="no such"),
    "evaluate.device": Probe(scored, "mps", error="mps asked for"),
    "evaluate.pictures": Probe(scored, "0"),
    "inference.enable": Probe(commanded, "true"),
    "inference.output_dir": Probe(predicted, "{folder}/maps"),
    "inference.checkpoint": Probe(predicted, "/no/such.safetensors", error="no such"),
    "inference.device": Probe(predicted, "mps", error="mps asked for"),
    "inference.tta.horizontal_flip": Probe(predicted, "true"),
    "inference.tta.vertical_flip": Probe(predicted, "true"),
    "export.enable": Probe(commanded, "true"),
    "export.checkpoint": Probe(exported, "/no/such.safetensors", error="no such"),
    "export.output_dir": Probe(exported, "{folder}/out"),
    "prepare.tile_size": Probe(read, "16"),
    "prepare.overlap": Probe(read, "0.5"),
    "dataset.classes": Probe(trained, "[dark, light, other]"),
    "dataset.bands": Probe(read, "[3, 2, 1]"),
    "dataset.scale": Probe(read, "0.5"),
    "dataset.max_windows": Probe(read, "1"),
    "dataset.label_nodata": Probe(read, "[1]"),
    "dataset.label_mapping": Probe(read, "{0: light, 1: dark, 255: ignore}"),
    "dataset.value_range": Probe(read, "[0.0, 100.0]"),
    "dataset.max_pixels": Probe(whole, "10", error="pixels"),
    "train.loss.ce_weight": Probe(trained, "0.1", AGAIN),
    "train.loss.dice_weight": Probe(trained, "0.1", AGAIN),
    "train.loss.focal_gamma": Probe(trained, "2", AGAIN),
    "train.loss.class_weights": Probe(trained, "[1.0, 9.0]", AGAIN),
    "train.loss.aux_weight": Probe(trained, "2", ("model.head=unet_v2", *AGAIN)),
    "train.loss.no_object_weight": Probe(trained, "0.9", ("model.head=maskformer", *AGAIN)),
    "train.sampling": Probe(trained, "rare"),
    "train.crop_size": Probe(trained, "16", ("train.features=online",)),
    "inference.output_tif": Probe(predicted, "{folder}/map.tif"),
    "inference.tile_size": Probe(predicted, "64"),
    "inference.overlap": Probe(predicted, "0.5"),
    "inference.confidence": Probe(predicted, "true"),
    "inference.format": Probe(predicted, "cog"),
    "inference.polygons.enable": Probe(predicted, "true"),
    "inference.tta.quarter_turns": Probe(predicted, "true", error={"keypoints": "not square"}),
    "keypoints.short_side": Probe(read, "64"),
    "keypoints.instance_mode": Probe(read, "per_instance"),
    "keypoints.bbox_scale": Probe(read, "2.0", ("keypoints.instance_mode=per_instance",)),
    "keypoints.mask_type": Probe(trained, "circle"),
    "keypoints.sigma": Probe(trained, "3.0"),
    "keypoints.sigma_end": Probe(trained, "0.7", AGAIN),
    "keypoints.loss.heatmap": Probe(trained, "mse"),
    "keypoints.loss.heatmap_weight": Probe(trained, "0.1"),
    "keypoints.loss.balance": Probe(trained, "true"),
    "keypoints.loss.dice_weight": Probe(trained, "0.1"),
    "keypoints.loss.coord_weight": Probe(trained, "1.0", AGAIN),
    "keypoints.loss.coord_type": Probe(trained, "l2", (*AGAIN, "keypoints.loss.coord_weight=1.0")),
    "keypoints.loss.coord_warmup": Probe(trained, "0.5", (*AGAIN, "keypoints.loss.coord_weight=1.0")),
    "keypoints.grouping": Probe(trained, "false"),
    "keypoints.min_score": Probe(predicted, "0.9"),
    "keypoints.decoder": Probe(trained, "soft_argmax", UNGROUPED),
    "keypoints.formats": Probe(predicted, "[labelme]"),
    "keypoints.thresholds": Probe(scored, "[3.0]"),
    "keypoints.oks_sigmas": Probe(trained, "1000.0", UNGROUPED),
    "distill.crop": Probe(read, "64"),
    "distill.zooms": Probe(read, "[1.0]"),
    "distill.crops": Probe(read, "1"),
    "distill.block": Probe(read, "32"),
    "distill.frame_step": Probe(read, "1"),
    "distill.max_frames": Probe(read, "2"),
    "distill.exclude": Probe(read, "[photo_0.png]"),
    "distill.student_scales": Probe(trained, "[1.0]"),
    "distill.loss.cosine": Probe(trained, "0.1"),
    "distill.loss.smooth_l1": Probe(trained, "0.1"),
    "distill.loss.relation": Probe(trained, "1.0"),
    "distill.card.licence": Probe(exported, "mine"),
    "distill.card.origin": Probe(exported, "from here"),
    "distill.card.sources": Probe(exported, "[{name: reef, licence: CC0}]"),
}

UNSEEN = {  # kinds whose small example does not show what a setting does, and why
    ("keypoints", "train.patience"): "every score of the example is 0",
    ("keypoints", "train.min_delta"): "every score of the example is 0",
    ("keypoints", "keypoints.format"): "the labels of the example are of one format",
    ("keypoints", "keypoints.loss.pair_margin_px"): "to be looked into",
    ("keypoints", "keypoints.loss.side_margin"): "to be looked into",
    ("keypoints", "keypoints.canonicalise"): "left and right of the example are right already",
    ("keypoints", "keypoints.decoder"): "every score of the example is 0",
    ("keypoints", "keypoints.oks_sigmas"): "every score of the example is 0",
    ("keypoints", "keypoints.best_metric"): "the example has no error in pixels, as no point is found",
    ("distill", "distill.stacks"): "needs pictures of one band",
}


LEAVES = [(kind, leaf) for kind, settings in kinds().items() for leaf in leaves(settings)]


@pytest.fixture(scope="module")
def usual() -> dict[Any, Any]:
    """What probes see with the settings that hold for both values, kept for the settings that share them."""
    return {}


@pytest.mark.parametrize("look", [trained, stored, sizes, verified, read, predicted, scored, exported, commanded])
@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_the_same_settings_look_the_same(kind, look, tmp_path):
    if (look is exported and kind != "distill") or (look is predicted and kind == "distill"):
        return
    seen = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        if look in (predicted, scored, exported):
            model_of(kind, folder)
        CALLS.clear()
        SIZES.clear()
        seen.append(str(look(kind, folder, ())).replace(str(folder), ""))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(("kind", "leaf"), [case for case in LEAVES if case[1] in PROBES and case not in UNSEEN])
def test_a_setting_acts(kind, leaf, usual, tmp_path):
    probe = PROBES[leaf]

    def look(name: str, *more: str) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        CALLS.clear()
        words = {"{folder}": str(folder)} | ({"{model}": str(model_of(kind, folder))} if "{model}" in str(more) else {})
        SIZES.clear()
        changed = []
        for entry in (*probe.base, *more):
            only, bar, rest = entry.partition("|")
            if bar and only in EXAMPLES:
                if only != kind:
                    continue
                entry = rest
            for word, value in words.items():
                entry = entry.replace(word, value)
            changed.append(entry)
        CALLS.clear()
        SIZES.clear()
        return str(probe.look(kind, folder, changed)).replace(str(folder), "")

    other = probe.other[kind] if isinstance(probe.other, dict) else probe.other
    key = kind, probe.look.__name__, probe.base
    if key not in usual:
        usual[key] = look("usual")
    error = probe.error.get(kind, "") if isinstance(probe.error, dict) else probe.error
    if error:
        with pytest.raises(Exception, match=error):
            look("other", f"{leaf}={other}")
    else:
        assert look("other", f"{leaf}={other}") != usual[key], f"{leaf} changes nothing"


PENDING = {  # settings without a probe yet, and why
    "dataset.sample.folder": "draws the whole sample, which is slow; tests/utils/test_sample.py looks at it",
    "dataset.sample.seed": "draws the whole sample, which is slow; tests/utils/test_sample.py looks at it",
    "dataset.band_files": "needs a scene whose bands are files",
    "distill.probe.overrides": "needs a labelled task beside the pictures",
    "keypoints.names_file": "needs LabelMe labels",
    "keypoints.category": "needs labels of two kinds of animals",
    "keypoints.automatic_rules": "needs labels whose left and right are in doubt",
    "keypoints.prompts": "needs LabelMe files with boxes",
    "prepare.workers": "needs a look at threads",
    "train.non_finite_limit": "needs a loss that is not finite",
}


def test_every_setting_has_a_probe():
    assert set(UNSEEN) <= set(LEAVES)
    without = sorted({leaf for _, leaf in LEAVES} - set(PROBES))
    assert without == sorted(PENDING), "each setting has a probe or stands in PENDING with the reason"
