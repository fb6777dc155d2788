"""Settings of training act in every kind of task that trains: what is computed, and what the libraries receive."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import main
from config import parse_settings
from tasks import kinds
from tasks.context import Context, PhaseResult
from tasks.distill.example import student_example
from tasks.example import example_task, training_example
from tasks.keypoints.example import animals_example
from tasks.model import advice_for_memory
from tasks.phases import evaluate, prepare, train, verify
from tasks.phases.training_state import generator_states, restore_generators
from tasks.prepared import PreparedReader
from tasks.runs import BEST, LAST, checkpoint_path
from tasks.segmentation.variations import draw_crop, largest_share
from tasks.task import Task
from utils.geometry.augment import RandomGeometry
from utils.geometry.fields import STANDARD_FIELDS, warp
from utils.runtime.checkpoints import load_checkpoint
from utils.store.reader import RecordReader

EXAMPLES: dict[str, Callable[..., tuple[Task, Context]]] = {
    "segmentation": example_task,
    "keypoints": animals_example,
    "distill": student_example,
}
QUICK = ("train.epochs=1", "train.optimizer=adamw")
ONE_SIZE = {"distill": ("distill.student_scales=[1.0]",)}  # every size of a picture is compiled anew


def trained_weights(context: Context) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint_path(context.folder, LAST)).tensors


def train_watched(task: Task, context: Context, monkeypatch: pytest.MonkeyPatch) -> set[tuple[bool, torch.dtype]]:
    """Train, and tell in which types trained layers computed, in training and in validation."""
    seen: set[tuple[bool, torch.dtype]] = set()
    build, loss = task.build_model, task.objective.loss

    def build_watched() -> nn.Module:
        model = build()
        for part in model.modules():
            if isinstance(part, nn.Linear | nn.Conv2d) and part.weight.requires_grad:
                part.register_forward_hook(lambda *call: seen.add((torch.is_grad_enabled(), call[-1].dtype)))
        return model

    def loss_of_float32(outputs, *others):
        assert {output.dtype for output in outputs.values()} == {torch.float32}
        assert not torch.is_autocast_enabled("cpu")
        return loss(outputs, *others)

    monkeypatch.setattr(task, "build_model", build_watched)
    monkeypatch.setattr(task.objective, "loss", loss_of_float32)
    prepare.run(task, context)
    assert train.run(task, context).status == "done"
    return seen


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_precision_is_that_of_the_trained_layers_and_not_of_the_loss(kind, tmp_path, monkeypatch):
    weights = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        task, context = EXAMPLES[kind](tmp_path / precision, *QUICK, f"train.precision={precision}")
        seen = train_watched(task, context, monkeypatch)
        assert {(training, dtype) for training in (True, False)} <= seen
        assert (torch.bfloat16 in {found for _, found in seen}) == (precision == "bf16")
        weights.append(trained_weights(context))
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights[1].values())
    assert any(not torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_evaluate_computes_in_the_precision_of_the_training(kind, tmp_path):
    task, context = EXAMPLES[kind](tmp_path, *QUICK, "train.precision=bf16")
    prepare.run(task, context)
    trained = train.run(task, context).metrics[task.primary]
    other, _ = EXAMPLES[kind](tmp_path, *QUICK, "train.precision=fp32")
    assert evaluate.run(other, context).metrics[task.primary] == trained
    restored, _, checkpoint = evaluate.restore(other, None, context, "evaluate")
    assert restored.settings.train.precision == checkpoint.description["train_precision"] == "bf16"


def test_a_checkpoint_that_names_no_precision_is_computed_in_fp32(tmp_path):
    """Those of version 1.0: heads were trained in fp32, whatever the setting said."""
    task, context = example_task(tmp_path, *QUICK)
    prepare.run(task, context)
    train.run(task, context)
    checkpoint = load_checkpoint(checkpoint_path(context.folder, BEST))
    del checkpoint.description["train_precision"]
    other, _ = example_task(tmp_path, "train.precision=bf16")
    assert type(other).from_checkpoint(other.name, other.settings, checkpoint).settings.train.precision == "fp32"


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_compile_compiles_what_is_trained(kind, tmp_path, monkeypatch):
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    compile_by_inductor = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_by_inductor(model, backend=count, **options))
    weights = []
    for name, wanted in (("plain", "false"), ("compiled", "true")):
        task, context = EXAMPLES[kind](tmp_path / name, *QUICK, *ONE_SIZE.get(kind, ()), f"train.compile={wanted}")
        prepare.run(task, context)
        train.run(task, context)
        assert bool(graphs) == (wanted == "true")
        weights.append(trained_weights(context))
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-3, rtol=1e-3)


def meet(number: int, function: Callable) -> Callable:
    """Let the first calls of a function wait for each other: they only go on where so many run at the same time."""
    calls, meeting = itertools.count(), threading.Barrier(number, timeout=10)

    def met(*arguments, **options):
        if next(calls) < number:
            meeting.wait()
        return function(*arguments, **options)

    return met


def test_num_workers_is_the_number_of_batches_that_are_read_at_the_same_time(tmp_path, monkeypatch):
    weights = []
    for workers in (0, 1, 3):
        changed = ("prepare.tile_size=16", "model.head=linear", f"train.num_workers={workers}")
        task, context = example_task(tmp_path / str(workers), *QUICK, *changed)
        prepare.run(task, context)
        with monkeypatch.context() as patch:
            patch.setattr(PreparedReader, "read", meet(max(workers, 1), PreparedReader.read))
            train.run(task, context)
        weights.append(trained_weights(context))
    for other in weights[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_of_verify_read_at_the_same_time(workers, tmp_path, monkeypatch):
    task, context = example_task(tmp_path, f"verify.workers={workers}")
    prepare.run(task, context)
    monkeypatch.setattr(RecordReader, "read_bytes", meet(workers, RecordReader.read_bytes))
    assert verify.run(task, context).metrics == {"records": 30.0, "bad records": 0.0, "findings": 0.0}


def test_a_state_holds_the_generator_of_the_device(tmp_path, monkeypatch):
    """Dropout on a GPU draws from its own generator."""
    kept = {"cuda:1": torch.arange(16, dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: kept[str(device)].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: kept.update({str(device): state}))
    state = training_example(tmp_path).state
    state.device = torch.device("cuda", 1)
    path = Path(tmp_path) / "state.safetensors"
    state.save(path, "a")
    before = kept["cuda:1"]
    kept["cuda:1"] = torch.zeros(16, dtype=torch.uint8)
    drawn = torch.rand(3)
    assert state.load(path, "a", path)
    assert torch.equal(kept["cuda:1"], before)
    assert torch.equal(torch.rand(3), drawn), "and that of the CPU"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_numbers_of_a_gpu_repeat_after_its_generator_was_restored():
    device = torch.device("cuda", torch.cuda.current_device())
    states = generator_states(device)
    first = torch.rand(3, device=device)
    restore_generators(device, states)
    assert torch.equal(torch.rand(3, device=device), first)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("segmentation", "lower prepare.tile_size (now 512)"),
        ("keypoints", "lower keypoints.short_side (now 518, such as 378)"),
        (
            "detection",
            "lower detection.shortest_edge (now 960, such as 800), detection.longest_edge (now 1536, such",
        ),
        ("distill", "lower distill.crop (now 320)"),
    ],
)
@pytest.mark.parametrize("phase", ["prepare", "train", "evaluate"])
def test_advice_where_memory_is_short_names_settings_that_the_kind_has(kind, words, phase):
    sides = ["detection={shortest_edge: 960, longest_edge: 1536}"] if kind == "detection" else []
    settings = parse_settings(f"kind: {kind}", sides, kinds()).shared
    advice = str(advice_for_memory(settings, phase))
    assert words in advice
    assert f"lower {phase}.batch_size (now " in advice
    for name in re.findall(r"[a-z]\w*\.[a-z]\w+", advice):
        attrgetter(name)(settings)


def test_a_phase_without_memory_ends_with_advice_for_the_task_that_was_at_work(monkeypatch, tmp_path, capsys):
    text = f"""
paths: {{raw_images_dir: {tmp_path}, label_path: {tmp_path}, runs_root: {tmp_path}/runs}}
dataset: {{classes: [a, b]}}
tasks: {{one: {{verify: {{enable: true}}}}, two: {{prepare: {{enable: true, tile_size: 64}}}}}}
"""
    (tmp_path / "config.yml").write_text(text)

    def phase(name):
        def run(task, context):
            if name == "prepare":
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            return PhaseResult("done")

        return run

    monkeypatch.setattr("tasks.phases.load_phase", phase)
    monkeypatch.setattr(
        "main.build_task", lambda name, settings, phases: SimpleNamespace(name=name, settings=settings.tasks[name])
    )
    assert main.main([str(tmp_path / "config.yml")]) == 4
    said = capsys.readouterr()
    assert "lower prepare.batch_size (now 4)" in said.out + said.err
    assert "lower prepare.tile_size (now 64)" in said.out + said.err


def test_crops_that_show_one_class_are_drawn_again(tmp_path):
    shares = {}
    for most in (1.0, 0.75):
        online = f"train={{features: online, crop_size: 12, cat_max_ratio: {most}}}"
        task, _ = example_task(tmp_path, online, "dataset.augmentations={enable: true, scale_range: [1.0, 1.0]}")
        task.source.prepare_data()
        sample = next(
            sample
            for item in task.source.items("train")
            for sample in task.source.samples(item)
            if 0.3 < (sample.arrays["label"] == 1).mean() < 0.7
        )
        generator = np.random.default_rng(0)
        crops = [task.source.augment(sample, generator) for _ in range(60)]
        shares[most] = [largest_share(crop.arrays["label"]) for crop in crops]
        assert all(crop.arrays["label"].shape == (12, 12) for crop in crops)
    assert np.mean(np.array(shares[1.0]) > 0.75) > 0.5
    assert np.mean(np.array(shares[0.75]) > 0.75) < 0.15, "ten tries seldom fail"


def test_crops_without_labels_are_not_taken_for_crops_of_many_classes():
    label = np.full((64, 64), 255, np.uint8)
    label[:32] = 0
    label[:8, ::2] = 1
    shown = []
    for most in (1.0, 0.75):
        generator = np.random.default_rng(0)
        crops = [draw_crop(STANDARD_FIELDS, label, RandomGeometry((16, 16)), most, generator) for _ in range(200)]
        labels = [warp(STANDARD_FIELDS, {"label": label}, matrix, (16, 16))["label"] for matrix in crops]
        shown.append(np.mean([(part < 255).any() for part in labels]))
    assert shown[1] > shown[0], "a crop in which nothing is labelled is drawn again"
