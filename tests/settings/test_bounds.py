"""Numbers in settings that size memory: each ends at a limit, and what is too large together is refused unallocated."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from config import parse_settings
from models import HEADS, find_head, read_head_options
from tasks import forecast, kinds, memory
from tasks.detection.example import fox_task
from tasks.distill.example import student_task
from tasks.example import example_task, scene_task
from tasks.forecast import Outlook
from tasks.item import Item
from tasks.keypoints.example import pose_task
from tasks.phases import prepare, train
from tasks.phases.step import count_targets
from tasks.prepared import prepared_items
from tasks.sample import Progress
from tasks.stores import open_store
from utils.errors import SettingsError

HEAD_NAMES = [(kind, name) for kind, names in HEADS.items() for name in names]
NAMES_SOMETHING = {  # whole numbers that choose or name something: they size nothing
    "dataset.label_colours",
    "dataset.label_mapping",
    "dataset.label_nodata",
    "dataset.sample.seed",
    "detection.windows",  # one of three
    "model.layers",
    "anchors",
    "inherit",
    "layers",
}


def unbounded(schema: dict[str, Any], whole: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of the whole numbers of a JSON schema that have no largest value."""
    if "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    for variant in schema.get("anyOf", []):
        yield from unbounded(variant, whole, path)
    if schema.get("type") == "integer" and not {"maximum", "exclusiveMaximum"} & set(schema):
        yield path
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from unbounded(schema[part], whole, path)
    for name, section in schema.get("properties", {}).items():
        yield from unbounded(section, whole, f"{path}.{name}".lstrip("."))


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_every_whole_number_of_the_settings_has_a_largest_value(kind):
    schema = kinds()[kind].model_json_schema()
    assert set(unbounded(schema, schema)) <= NAMES_SOMETHING


@pytest.mark.parametrize(("kind", "name"), HEAD_NAMES)
def test_every_whole_number_of_a_heads_options_has_a_largest_value(kind, name):
    schema = find_head(kind, name).Options.model_json_schema()
    assert set(unbounded(schema, schema)) <= NAMES_SOMETHING


@pytest.mark.parametrize(
    ("kind", "head", "option", "value", "limit"),
    [
        ("detection", "dense", "width", 1048576, 4096),
        ("detection", "detr", "num_queries", 10**9, 5000),
        ("detection", "deim", "eval_queries", 10**8, 5000),
        ("segmentation", "maskformer", "num_queries", 10**9, 5000),
        ("segmentation", "unet", "width", 10**7, 4096),
        ("keypoints", "relational", "depth", 10**6, 64),
        ("distill", "vit", "depth", 10**6, 64),
    ],
)
def test_an_option_of_a_head_beyond_its_limit_is_named_with_it(kind, head, option, value, limit):
    text = f"model.head_options.{option}: expected less than or equal to {limit}, got int {value}"
    with pytest.raises(SettingsError, match=f"^{text}$"):
        read_head_options({option: value}, find_head(kind, head).Options)


@pytest.mark.parametrize(
    ("kind", "setting", "limit"),
    [
        ("detection", "train.batch_size=1000000000", 65536),
        ("detection", "detection.max_detections=1000000000", 100000),
        ("keypoints", "keypoints.max_instances=1000000000", 5000),
        ("keypoints", "keypoints.sigma=1.0e+30", 1024),
        ("segmentation", "model.num_classes=1000000000", 254),
        ("segmentation", "dataset.scale=1.0e+30", 100),
        ("segmentation", "train.crop_size=1000000000", 32768),
        ("distill", "distill.crops=1000000000", 10000),
    ],
)
def test_a_setting_beyond_its_limit_is_named_with_it(kind, setting, limit):
    key = setting.partition("=")[0]
    with pytest.raises(SettingsError, match=rf"^{key}: expected less than or equal to {limit}(\.0)?, got "):
        parse_settings(f"kind: {kind}", [setting], kinds())


@pytest.mark.parametrize(
    ("make", "phase", "settings", "named"),
    [
        (fox_task, "train", ["detection.pad_size=[32768, 32768]"], r"detection.pad_size \(now \[32768, 32768\]\)"),
        (fox_task, "prepare", ["detection.pad_size=[32768, 32768]"], r"prepare: a batch of \d+ samples of 32768 x"),
        (fox_task, "inference", ["detection.pad_size=[32768, 32768]"], r"lower inference.batch_size \(now 4\)"),
        (pose_task, "train", ["keypoints.short_side=32768"], r"keypoints.short_side \(now 32768"),
        (scene_task, "train", ["prepare.tile_size=32768"], r"prepare.tile_size \(now 32768\)"),
        (scene_task, "evaluate", ["evaluate.batch_size=65536", "prepare.tile_size=32768"], r"evaluate.batch_size"),
        (scene_task, "inference", ["inference.tile_size=32768"], r"inference: a batch of 1 samples of 32768 x 32768"),
        (scene_task, "train", ["model.head=unet", "model.head_options={width: 4096, narrowest: 4096}"], "and the head"),
        (student_task, "train", ["distill.crop=32768"], r"distill.crop \(now 32768\)"),
    ],
)
def test_what_is_too_large_together_is_refused_with_its_settings_and_without_memory(
    make, phase, settings, named, monkeypatch
):
    monkeypatch.setattr(memory, "memory_of", lambda device: 2 * 10**9)
    task = make(*settings, "resources.device=cpu")
    task.features.setup()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SettingsError, match=named) as refused:
        task.check_memory([phase])
    assert f"{phase}: a batch of " in str(refused.value)
    assert "but cpu has 2.0 GB" in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


def test_ranks_share_the_batches_of_a_training(monkeypatch):
    task = scene_task("train.batch_size=16")
    task.source.prepare_data()
    task.features.setup()
    weights, one = 3 * 4 * task.head_shapes().num_parameters, memory.sample_bytes(task, (32, 32))
    monkeypatch.setattr(memory, "memory_of", lambda device: weights + 2 * one)
    with pytest.raises(SettingsError, match="train: a batch of 6 samples of 32 x 32 pixels takes at least "):
        task.check_memory(["train"])
    monkeypatch.setattr(memory.distributed, "world_size", lambda: 3)
    task.check_memory(["train"])  # two samples each


@pytest.mark.parametrize("make", [fox_task, pose_task, scene_task, student_task])
@pytest.mark.parametrize("phase", ["prepare", "train", "evaluate"])
def test_a_batch_is_no_larger_than_the_data(make, phase, monkeypatch):
    monkeypatch.setattr(memory, "memory_of", lambda device: 10**8)
    task = make(f"{phase}.batch_size=65536")
    task.check_memory([phase])  # also before the lists are there
    task.source.prepare_data()
    task.check_memory([phase])


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_counted_is_held_by_a_real_step_of_every_optimizer_and_precision(
    optimizer, precision, tmp_path, monkeypatch
):
    """A machine that has just what a step holds is not refused, and one with much less is."""
    computing = (f"train.optimizer={optimizer}", f"train.precision={precision}", f"model.precision={precision}")
    head = ("model.head=unet", "model.head_options={width: 64}")
    task, context = example_task(tmp_path, "train.batch_size=1", *head, *computing)
    prepare.run(task, context)
    store = open_store(task.settings, "train")
    task.setup()
    training = train.Training(task, context, store, prepared_items(task, store, "train", "test"), [], "x")
    [batch] = batches = next(training.read(training.plan_epoch()[:1], Progress()))
    divisors, _ = count_targets(task, batches, training.device)
    training.optimisation.step(0, batches, Progress(), divisors)
    weights = [value for value in training.model.parameters() if value.requires_grad]
    moments = [value for value in tensors_of(training.optimisation.state_dict()["optimizer"]) if value.ndim]
    held = [*weights, *(value.grad for value in weights), *moments, *batch.arrays.values(), *batch.feature_maps]
    assert all(value.nbytes >= memory.HALF * value.numel() for value in batch.feature_maps)
    there = sum(value.nbytes for value in held)
    monkeypatch.setattr(memory, "memory_of", lambda device: there)
    task.check_memory(["train"])
    monkeypatch.setattr(memory, "memory_of", lambda device: there * 7 // 10)
    with pytest.raises(SettingsError, match="a batch of 1 samples of 32 x 32 pixels"):
        task.check_memory(["train"])


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested containers."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors_of(part)


def test_maps_of_distillation_are_those_of_the_picture_for_the_teacher():
    task = student_task("distill.crop=320")  # the teacher, with half the patch of the student, sees half of it
    channels = 2 * 8
    assert task.source.backbone_size() == (160, 160)
    assert memory.sample_bytes(task, (320, 320)) == 320 * 320 * 3 + 2 * channels * 40 * 40


def test_small_tasks_are_not_refused(monkeypatch):
    monkeypatch.setattr(memory, "memory_of", lambda device: 10**9)
    for task in (fox_task(), pose_task(), scene_task(), student_task()):
        task.check_memory(["prepare", "train"])


def test_large_samples_are_not_made_to_learn_how_long_they_take():
    outlook = Outlook(scene_task("prepare.tile_size=16384"))
    outlook.timed = outlook.task, Item("never read", ())
    seconds = outlook.seconds("train", forecast.Workload("", backbone=3))
    assert forecast.about(seconds) == "; how long is not tried, as a sample is so large"


def test_the_memory_of_a_card_is_its_own():
    if not torch.cuda.is_available():
        assert memory.memory_of(torch.device("cpu")) == memory.memory_of(torch.device("mps"))
    else:
        assert memory.memory_of(torch.device("cuda")) == torch.cuda.mem_get_info()[1]
