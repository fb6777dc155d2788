"""Several gloo ranks compute what one process computes, and go on bitwise where they stopped.

This file, run as a script, is the work of a rank; all its work is done in one start of two and one of four processes.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from config import parse_settings
from models import HEADS
from tasks import example, kinds
from tasks.context import Context
from tasks.detection import example as foxes
from tasks.detection.task import DetectionTask
from tasks.distill import example as students
from tasks.distill.task import DistillTask
from tasks.example import example_context, tiny_backbone
from tasks.keypoints import example as animals
from tasks.keypoints.task import KeypointsTask
from tasks.model import trained_state
from tasks.phases import prepare, train
from tasks.phases.step import count_targets
from tasks.prepared import prepared_items
from tasks.runs import BEST, LAST, checkpoint_path
from tasks.sample import Progress
from tasks.segmentation.task import SegmentationTask
from tasks.stores import open_store
from tasks.task import Task
from tests.processes import Forks, ends_of
from utils.errors import Interrupted
from utils.runtime import distributed
from utils.runtime.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {
    "segmentation": (example.example_task, example.SETTINGS),
    "keypoints": (animals.animals_example, animals.SETTINGS),
    "distill": (students.student_example, students.SETTINGS),
    "detection": (foxes.foxes_example, foxes.SETTINGS),
}
TASK_CLASSES: dict[str, type[Task]] = {
    "segmentation": SegmentationTask,
    "keypoints": KeypointsTask,
    "distill": DistillTask,
    "detection": DetectionTask,
}
# micro-batches of three samples: of four ranks the last has none; Muon would show the rounding of sums
STEP = ("train.batch_size=3", "train.grad_accum_steps=2", "train.clip_norm=0", "train.optimizer=adamw")
STEPS = {f"{kind} {head}": (kind, (f"model.head={head}",)) for kind in EXAMPLES for head in sorted(HEADS[kind])}
STEPS["keypoints relational"] = ("keypoints", ("model.head=relational", "model.head_options={dropout: 0.0}"))
SMALL = {
    "vit": "{width: 16, depth: 2, heads: 2, mlp_ratio: 2, patch_size: 8}",
    "dinov2": "{width: 16, depth: 2, heads: 2, mlp_ratio: 2, patch_size: 8}",
    "convnext": "{widths: [4, 4, 8, 8], depths: [1, 1, 1, 1]}",
}
STEPS |= {
    f"distill {head}": ("distill", (f"model.head={head}", f"model.head_options={options}"))
    for head, options in SMALL.items()
}
STEPS["fine-tuned linear"] = ("segmentation", ("model.head=linear", "model.freeze=1", "train.features=online"))
STEPS["unused auxiliary"] = ("segmentation", ("model.head=unet_v2", "train.loss.aux_weight=0"))
STEPS["bf16"] = ("segmentation", ("model.head=dpt", "train.precision=bf16"))
STEPS["counted in the forward"] = ("segmentation", ("model.head=linear",))
SMALL_TRANSFORMER = "width: 32, decoder_layers: 1, attention_heads: 2, feedforward: 32, num_queries: 12, dropout: 0.0"
SMALL_DETECTORS = {  # a dropout draws other cells where a batch is shared
    "dense": "{width: 16, refine_width: 16, dropout: 0.0}",
    "detr": f"{{{SMALL_TRANSFORMER}, encoder_layers: 1}}",
    "deim": f"{{{SMALL_TRANSFORMER}, denoising: 10}}",
}
STEPS |= {
    f"detection {head}": ("detection", (f"model.head={head}", f"model.head_options={options}"))
    for head, options in SMALL_DETECTORS.items()
}
RESUMED = {
    "dropout": ("segmentation", "model.head=linear", "model.head_options={dropout: 0.3}", "train.ema_decay=0.9"),
    "muon": ("segmentation", "model.head=segformer", "train.num_workers=2"),
    "boxes": ("detection", "model.head=dense", "train.ema_decay=0.9"),
}
PARTS = ("train.epochs=2", "train.batch_size=2", "train.grad_accum_steps=2")


def make_task(folder: Path, kind: str, *changes: str) -> tuple[Task, Context]:
    """The task of an example that was drawn before, by this process or another."""
    text = (folder / f"{kind}.yml").read_text()
    ((name, settings),) = parse_settings(text, changes, kinds()).tasks.items()
    return TASK_CLASSES[kind](name, settings), example_context(folder / kind / "run")


def count_in_the_forward(task: Task) -> None:
    """Let the cross-entropy of a task come with its count, and Dice be counted from the targets as before."""
    counts, loss = task.objective.counts, task.objective.loss
    task.objective.counts = lambda batch: {**counts(batch), "ce": None}
    task.objective.loss = lambda outputs, batch, progress: {
        name: (value, counts(batch)[name]) if name == "ce" else value
        for name, value in loss(outputs, batch, progress).items()
    }


def first_step(folder: Path, name: str) -> dict:
    """Loss, gradients and weights of the first step of a training."""
    kind, changes = STEPS[name]
    task, context = make_task(folder, kind, *STEP, *changes)
    task.setup()
    if name == "counted in the forward":
        count_in_the_forward(task)
    store = open_store(task.settings, "train")
    items = prepared_items(task, store, "train", "test")
    task.objective.fit_statistics([entry for item in items for entry in item.entries])
    training = train.Training(task, context, store, items, [], "x")
    training.model.train()
    batches = next(training.read(training.plan_epoch()[:1], Progress()))
    divisors, _ = count_targets(task, batches, training.device)
    result = training.optimisation.step(0, batches, Progress(), divisors)
    gradients = {name: p.grad for name, p in training.model.named_parameters() if p.requires_grad}
    return {
        "samples": [len(batch) for batch in batches],
        "loss": result.loss,
        "terms": dict(result.terms),
        "norm": result.gradient_norm,
        "gradients": gradients,
        "weights": {name: value.detach() for name, value in trained_state(training.model).items()},
    }


def train_in_pieces(folder: Path, way: str) -> None:
    """Train without and with interruptions, which only the last rank hears of."""
    for name, stops in (("whole", ()), ("cut", (1, 1, 1))):
        kind, *changes = RESUMED[way]
        task, _ = make_task(folder, kind, *PARTS, *changes)
        context = example_context(folder / f"{way}_{distributed.world_size()}" / name / "run")
        for stop in stops:
            calls: list[None] = []

            def stop_requested(calls=calls, stop=stop) -> int | None:
                calls.append(None)
                last = distributed.rank() == distributed.world_size() - 1
                return signal.SIGTERM if last and len(calls) >= stop else None

            with pytest.raises(Interrupted):
                train.run(task, replace(context, stop_requested=stop_requested))
        train.run(task, context)


def work_of_a_rank(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.start_ranks("auto", timeout_s=100)
    rank = distributed.rank()
    for name in STEPS:
        torch.save(first_step(folder, name), folder / f"{name} {distributed.world_size()} {rank}.pt")
    for way in RESUMED:
        train_in_pieces(folder, way)
    distributed.barrier()
    distributed.stop_ranks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, forks) -> Path:
    """Where everything is prepared, and the ranks have done their work."""
    folder = tmp_path_factory.mktemp("ranks")
    for kind, (draw, text) in EXAMPLES.items():
        draw(folder / kind)
        (folder / f"{kind}.yml").write_text(text.format(folder=folder / kind, backbone=tiny_backbone()))
    for kind, changes in STEPS.values():
        prepare.run(*make_task(folder, kind, *STEP, *changes))
    for kind, *changes in RESUMED.values():
        prepare.run(*make_task(folder, kind, *PARTS, *changes))
    for number in (2, 4):
        start_ranks(forks, folder, number)
    return folder


def start_ranks(forks: Forks, folder: Path, number: int) -> None:
    codes, outputs = ends_of(forks.start_ranks(number, Path(__file__), folder, env=os.environ), timeout=400)
    assert codes == [0] * number, "\n".join(outputs)
    assert not any("Warning" in output for output in outputs), "\n".join(outputs)


@cache
def step_of_one_process(folder: Path, name: str) -> dict:
    return first_step(folder, name)


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_step_of_several_ranks_is_that_of_one_process(name, number, folder):
    one = step_of_one_process(folder, name)
    ranks = [torch.load(folder / f"{name} {number} {rank}.pt") for rank in range(number)]
    assert [sum(samples) for samples in zip(*(found["samples"] for found in ranks), strict=True)] == one["samples"]
    assert number == 2 or 0 in ranks[-1]["samples"], "this data would not show an empty share"
    rough = 0.02 if name == "bf16" else 1e-4
    for found in ranks:
        assert found["loss"] == pytest.approx(one["loss"], rel=rough)
        assert found["terms"] == pytest.approx(one["terms"], rel=rough)
        assert found["norm"] == pytest.approx(one["norm"], rel=10 * rough)
        for parameter, gradient in one["gradients"].items():
            other = found["gradients"][parameter]
            if gradient is None:
                assert other is None or not other.any(), parameter
            else:
                torch.testing.assert_close(other, gradient, atol=rough * one["norm"], rtol=0.01, msg=parameter)
        assert all(torch.equal(value, ranks[0]["weights"][key]) for key, value in found["weights"].items())


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("way", sorted(RESUMED))
def test_an_interrupted_training_of_ranks_ends_bitwise_as_an_unbroken_one(way, number, folder):
    whole, cut = (folder / f"{way}_{number}" / name / "run" for name in ("whole", "cut"))
    for name in (BEST, LAST):
        one, other = (load_checkpoint(checkpoint_path(run, name)).tensors for run in (whole, cut))
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert (whole / "results.csv").read_text() == (cut / "results.csv").read_text()


if __name__ == "__main__":
    work_of_a_rank(Path(sys.argv[1]))
