"""Small tasks of every kind on data that are made and prepared once, and what is recorded while their code runs."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

from tasks.context import Context
from tasks.detection.example import foxes_example
from tasks.distill.example import student_example
from tasks.example import example_context, example_task
from tasks.keypoints.example import animals_example
from tasks.phases import load_phase
from tasks.task import Task

EXAMPLES: dict[str, Callable[..., tuple[Any, Context]]] = {
    "segmentation": example_task,
    "keypoints": animals_example,
    "detection": foxes_example,
    "distill": student_example,
}
CALLS: list[Any] = []  # what libraries were asked for
SIZES: set[int] = set()  # of the batches that convolutions saw


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


def temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


FIRST_LOOK = "{width: 8, tower_layers: 1, refine: false}"  # each cell's box stays a candidate, however unsure
SMALL = {  # heads that train fast, on few pixels
    "segmentation": ("model.head_options={width: 8}",),
    "detection": (f"model.head_options={FIRST_LOOK}", "detection.shortest_edge=48", "detection.longest_edge=64"),
}


def find_objects(folder: Path) -> None:
    """Add what two other models have found in the pictures, by their first file."""
    for name, category, left in (("other", "light", 0), ("another", "dark", 20)):
        images, found = [], []
        for number, path in enumerate(sorted((folder / "pictures").glob("*.tif")), start=1):
            height, width = cv2.imread(str(path)).shape[:2]
            images.append({"id": number, "file_name": str(path), "height": height, "width": width})
            ring = [left, 0, width - 20 + left, 0, width - 20 + left, height, left, height]
            one = {"id": number, "image_id": number, "category_id": 1, "bbox": [left, 0, width - 20, height]}
            found.append(one | {"segmentation": [ring], "score": 0.999})
        categories = [{"id": 1, "name": category}]
        content = {"images": images, "annotations": found, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))


@cache
def prepared(kind: str) -> Path:
    """A folder with the data of a kind, its split lists and its store, which probes only read."""
    folder = temporary_folder()
    with quiet():
        task, context = EXAMPLES[kind](folder, *SMALL.get(kind, ()))
        load_phase("prepare")(task, context)
        if kind == "segmentation":
            find_objects(folder)
    return folder


@cache
def model_of(kind: str) -> Path:
    """A checkpoint of a short training."""
    folder = temporary_folder()
    with quiet():
        task, context = EXAMPLES[kind](
            prepared(kind), "train.epochs=3", f"paths.runs_root={folder}", *SMALL.get(kind, ())
        )
        load_phase("train")(task, Context(context.log, folder / "run"))
    return folder / "run" / "checkpoints" / "best.safetensors"


def task_of(kind: str, folder: Path, overrides: Sequence[str]) -> tuple[Task, Context]:
    """A task on the prepared data, or on those that `folder` holds, whose results go to `folder`."""
    data = folder if any((folder / name).exists() for name in ("pictures", "animals")) else prepared(kind)
    task, _ = EXAMPLES[kind](data, f"paths.runs_root={folder}/runs", *SMALL.get(kind, ()), *overrides)
    return task, example_context(folder / "run")


def own_task(kind: str, folder: Path, overrides: Sequence[str]) -> tuple[Task, Context]:
    """A task on the shared data with a store and split lists of its own."""
    own = (f"paths.splits_dir={folder}/splits", f"paths.processed_dir={folder}/store")
    return task_of(kind, folder, (*own, *overrides))


def names_in(folder: Path) -> list[str]:
    """Files below a folder, without logs."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix != ".log")


class FakeWriter:
    def __init__(self, folder: str, purge_step: int):
        CALLS.append(("SummaryWriter", purge_step))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        CALLS.append(("add_scalar", name, step))

    def add_text(self, name: str, text: str, step: int) -> None:
        CALLS.append(("add_text", name, step))

    def flush(self) -> None:
        CALLS.append("flush")

    def close(self) -> None:
        CALLS.append("close")


class FakeRun:
    _next_step = 0

    def log(self, row: dict[str, float], step: int) -> None:
        CALLS.append(("log", sorted(row), step))


def fake_trackio() -> ModuleType:
    """The calls of trackio that a training makes, recorded; the package itself is tested in test_tracking.py."""
    module = ModuleType("trackio")
    module.__spec__ = ModuleSpec("trackio", None)

    def init(**named: Any) -> FakeRun:
        CALLS.append(("init", [named[name] for name in ("project", "name", "space_id")]))
        return FakeRun()

    def runs(project: str) -> list:
        raise ValueError(project)

    module.Api = lambda: SimpleNamespace(runs=runs)  # type: ignore[attr-defined]
    module.init, module.finish = init, lambda: CALLS.append("finish")  # type: ignore[attr-defined]
    return module


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what is recorded as it is."""
    before = list(CALLS), set(SIZES)
    yield
    CALLS[:] = before[0]
    SIZES.clear()
    SIZES.update(before[1])


def draw_nothing(*arguments: Any, **named: Any) -> None:
    """Stand in for a plot: only its file is made."""
    for path in (value for value in arguments if isinstance(value, Path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def record(patch: Any) -> Any:
    """Record the arguments of library functions that do what a setting asks; leave out plots, which are slow."""

    def replace(module: Any, name: str, result: Callable[..., Any] = lambda *_, **__: None) -> None:
        def recorder(*arguments: Any, **named: Any) -> Any:
            plain = [argument for argument in arguments if isinstance(argument, str | int | float | bool)]
            CALLS.append((name, plain, sorted((key, repr(value)) for key, value in named.items())[:3]))
            return result(*arguments, **named)

        patch.setattr(module, name, recorder)

    def size(module: torch.nn.Module, arguments: tuple) -> None:
        if isinstance(module, torch.nn.Conv2d):
            SIZES.add(len(arguments[0]))

    writer = ModuleType("torch.utils.tensorboard")
    writer.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    board = ModuleType("tensorboard")
    board.__spec__ = ModuleSpec("tensorboard", None)
    patch.setitem(sys.modules, "tensorboard", board)
    patch.setitem(sys.modules, "trackio", fake_trackio())
    replace(torch, "compile", lambda model, *_, **__: model)
    replace(torch.nn.Module, "compile")
    for name in ("set_num_threads", "set_num_interop_threads", "set_float32_matmul_precision"):
        replace(torch, name)
    replace(torch, "use_deterministic_algorithms")
    patch.setattr(Figure, "savefig", lambda figure, path, *_, **__: Path(path).write_bytes(b""))
    patch.setattr("tasks.phases.training_report.plot_training", draw_nothing)
    for name in ("plot_keypoint_table", "plot_error_histogram"):
        patch.setattr(f"tasks.keypoints.metric.{name}", draw_nothing)
    patch.setattr("os.fsync", lambda _: None)
    patch.setattr("tasks.segmentation.metric.plot_confusion", draw_nothing)
    attend = torch.nn.functional.scaled_dot_product_attention

    def attention(*arguments: Any, **named: Any) -> Any:
        if "scaled_dot_product_attention" not in CALLS:
            CALLS.append("scaled_dot_product_attention")
        return attend(*arguments, **named)

    patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    return torch.nn.modules.module.register_module_forward_pre_hook(size)
