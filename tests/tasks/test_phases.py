"""What the phases promise, on the tiny example: exact continuation, no stale record, one result by every way."""

from __future__ import annotations

import csv
import itertools
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from models import HEADS
from tasks.context import Context
from tasks.example import example_task, prepared_example, training_example
from tasks.model import FeatureModel, trained_state
from tasks.phases import evaluate, inference, prepare, train, verify
from tasks.phases.prediction import collect
from tasks.phases.samples import Job, LiveSamples, StoredSamples
from tasks.phases.step import StepResult, count_targets
from tasks.prepared import PreparedReader, prepared_items
from tasks.runs import BEST, LAST, checkpoint_path
from tasks.sample import Batch, Progress
from tasks.segmentation.task import SegmentationTask
from tasks.stores import open_store
from utils.data import SampleRef
from utils.errors import DataError, DinolithError, Interrupted, SettingsError
from utils.geometry.augment import IDENTITY, View
from utils.logging import VerbosityLogger
from utils.losses import class_weights_from_counts
from utils.runtime.checkpoints import load_checkpoint, save_checkpoint
from utils.runtime.files import read_json
from utils.store.feature_store import FeatureStore

SMALL = ("prepare.tile_size=16", "model.head=linear")  # 28 windows
VIEWS = "dataset.augmentations={enable: true, stored_views: 2}"


def stopping_after(context: Context, steps: int) -> Context:
    """A context in which a signal arrives during a step (counted from 1)."""
    asked = []

    def stop_requested() -> int | None:
        asked.append(None)
        return signal.SIGTERM if len(asked) >= steps else None

    return replace(context, stop_requested=stop_requested)


def in_folder(context: Context, name: str) -> Context:
    """A context among whose runs there is no other training."""
    return replace(context, folder=context.folder.parent / name / "run")


def spoken(folder: Path) -> tuple[Context, Path]:
    """A context whose lines can be read."""
    return Context(VerbosityLogger("info", file=str(folder / "log.txt")), folder / "run"), folder / "log.txt"


def weights_of(context: Context, name: str) -> dict[str, Tensor]:
    return load_checkpoint(checkpoint_path(context.folder, name)).tensors


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def keys_of(folder: Path) -> set[str]:
    return set(FeatureStore(folder / "store").keys())


def producers_of(folder: Path, keys: set[str]) -> Counter:
    store = FeatureStore(folder / "store")
    return Counter(store.metadata(key).get("producer", "sample") for key in keys)


def rewrite(path: Path, change) -> None:
    """Change a raster's pixels (C, H, W) in place."""
    with rasterio.open(path, "r+") as raster:
        pixels = raster.read()
        change(pixels)
        raster.write(pixels)


# ---------------------------------------------------------------------------------------------------------------------
# Exact continuation

RESUMED = {
    "adamw": ("train.optimizer=adamw",),
    "muon": ("train.optimizer=muon", "model.head=segformer"),
    "ema": ("train.ema_decay=0.9", VIEWS),
    "accumulated": ("train.grad_accum_steps=2", "train.batch_size=1", "train.sampling=rare"),
    "read ahead": ("train.num_workers=2", VIEWS),
    "online": (
        "train={features: online, crop_size: 24, batch_size: 2, epochs: 2}",
        "dataset.augmentations={enable: true, scale_range: [0.8, 1.2], brightness: 0.2, rotation_degrees: 10}",
    ),
    "fine-tuned": ("train={features: online, batch_size: 2, epochs: 2}", "model.freeze=1"),
}


@pytest.mark.parametrize("way", sorted(RESUMED))
def test_an_interrupted_training_ends_bitwise_as_an_unbroken_one(way, tmp_path):
    base = ("model.head=linear", "train.epochs=2", "train.batch_size=2")
    task, context = example_task(tmp_path, *base, *RESUMED[way])
    prepare.run(task, context)
    whole, cut = in_folder(context, "whole"), in_folder(context, "cut")
    train.run(task, whole)
    steps = count_steps(task, whole)
    assert steps > 2
    for stop in (1, steps - 1, 1):  # in the first step, in the last of the epoch, and in the first of the next
        again = SegmentationTask(task.name, task.settings)  # a new process knows nothing of the old one
        with pytest.raises(Interrupted, match="interrupted by SIGTERM; the next run continues from here"):
            train.run(again, stopping_after(cut, stop))
    assert train.run(SegmentationTask(task.name, task.settings), cut).status == "done"
    for name in (BEST, LAST):
        assert equal(weights_of(whole, name), weights_of(cut, name)), f"{name} differs"
    assert rows_of(whole) == rows_of(cut)
    assert read_json(whole.folder / "train.json") == read_json(cut.folder / "train.json")


def count_steps(task, context: Context) -> int:
    store = open_store(task.settings, "train")
    items = prepared_items(task, store, "train", "test")
    return train.Training(task, context, store, items, [], "x").steps_per_epoch


def rows_of(context: Context) -> list[dict[str, str]]:
    with open(context.folder / "results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_training_depends_on_the_seed(tmp_path):
    trained = []
    for name, seed in (("one", 1), ("two", 1), ("three", 3)):
        task, context = example_task(tmp_path / name, *SMALL, f"resources.seed={seed}")
        prepare.run(task, context)
        train.run(task, context)
        trained.append(weights_of(context, LAST))
    assert equal(trained[0], trained[1])
    assert not equal(trained[0], trained[2])


def test_other_settings_do_not_continue_a_state(tmp_path):
    task, context = example_task(tmp_path, *SMALL, "train.epochs=2")
    prepare.run(task, context)
    with pytest.raises(Interrupted):
        train.run(task, stopping_after(context, 2))
    other, _ = example_task(tmp_path, *SMALL, "train.epochs=2", "train.adamw_lr=0.003")
    speaking, log = spoken(tmp_path)
    train.run(other, speaking)
    assert "resuming" not in log.read_text()
    assert "is a new run, as train.adamw_lr is 0.003, was" in log.read_text()
    assert speaking.folder != context.folder
    train.run(other, in_folder(context, "fresh"))
    assert equal(weights_of(speaking, LAST), weights_of(in_folder(context, "fresh"), LAST))


def test_who_goes_back_to_earlier_settings_goes_back_to_their_run(tmp_path):
    task, context = example_task(tmp_path, *SMALL)
    prepare.run(task, context)
    assert train.run(task, context).status == "done"
    other, second = example_task(tmp_path, *SMALL, "train.adamw_lr=0.003")
    assert train.run(other, second).status == "done"
    kept = weights_of(context, BEST)
    again, third = example_task(tmp_path, *SMALL, "prepare.batch_size=1", "train.val_batch_size=1")
    third.folder = second.folder
    assert train.run(again, third).status == "up to date"
    assert third.folder == context.folder
    assert (context.folder.parent / "latest").resolve() == context.folder.resolve()
    assert equal(weights_of(context, BEST), kept)


def test_other_labels_do_not_overwrite_the_model_of_the_first(tmp_path):
    task, context = example_task(tmp_path, *SMALL)
    prepare.run(task, context)
    train.run(task, context)
    kept = weights_of(context, BEST)
    rewrite(next((tmp_path / "labels").iterdir()), lambda pixels: pixels.__ior__(1))
    other, _ = example_task(tmp_path, *SMALL)
    speaking, log = spoken(tmp_path)
    prepare.run(other, speaking)
    assert train.run(other, speaking).status == "done"
    assert "is a new run, as the pictures, labels or weights are others" in log.read_text()
    assert equal(weights_of(context, BEST), kept)


@pytest.mark.parametrize("change", ["train.adamw_lr=0.003", "dataset.augmentations.brightness=0.5", "model.head=dpt"])
def test_a_finished_training_is_up_to_date_until_a_setting_changes(change, tmp_path):
    online = ("train.features=online", "dataset.augmentations.enable=true")
    task, context = example_task(tmp_path, *SMALL, *online)
    prepare.run(task, context)
    assert [train.run(task, context).status for _ in range(2)] == ["done", "up to date"]
    other, _ = example_task(tmp_path, *SMALL, *online, change)
    assert train.run(other, context).status == "done"


def test_a_lost_checkpoint_is_trained_again(tmp_path):
    task, context = example_task(tmp_path, *SMALL)
    prepare.run(task, context)
    train.run(task, context)
    before = weights_of(context, BEST)
    checkpoint_path(context.folder, BEST).unlink()
    assert train.run(task, context).status == "done"
    assert equal(before, weights_of(context, BEST))


def test_a_truncated_state_says_what_to_do(tmp_path):
    task, context = example_task(tmp_path, *SMALL, "train.epochs=2")
    prepare.run(task, context)
    with pytest.raises(Interrupted):
        train.run(task, stopping_after(context, 2))
    path = checkpoint_path(context.folder, "state")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"state\.safetensors: truncated .*; remove it and train again"):
        train.run(task, context)


# ---------------------------------------------------------------------------------------------------------------------
# One result by every way


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "int8"])
def test_a_batch_from_the_store_equals_one_computed_on_the_fly(dtype, tmp_path):
    task, store, prepared = prepared_example(tmp_path, f"prepare.store_dtype={dtype}", VIEWS)
    reader = PreparedReader(task, store, prepared)
    view = task.source.views("train")[1]
    for name in ("identity", view.name):
        stored = reader.read([SampleRef(0, name), SampleRef(1, name)], Progress())
        samples = [
            task.source.apply_view(sample, View.from_name(name))
            for sample in list(task.source.samples(prepared[0].item))[:2]
        ]
        for field in ("image", "label", "valid"):
            live = np.stack([sample.arrays[field] for sample in samples])
            live = live.transpose(0, 3, 1, 2) if field == "image" else live
            assert np.array_equal(stored.arrays[field].numpy(), live)
        assert torch.equal(stored.target, stored.arrays["label"])
        maps = task.features.maps(stored.arrays["image"])
        for from_store, computed in zip(stored.feature_maps, maps, strict=True):
            assert from_store.dtype == computed.dtype
            # the forward of another batch may round another way, by one step of the stored type
            assert torch.allclose(from_store.float(), computed.float(), atol=0.05 if dtype != "fp16" else 0.004)
            assert (from_store == computed).float().mean() > 0.9


def test_batches_for_the_predictor_are_the_same_from_the_store_and_live(tmp_path):
    task, store, _ = prepared_example(tmp_path, "prepare.tile_size=16")
    for prepared in prepared_items(task, store, "val", "test"):
        job = Job(prepared.item, task.predictor())
        sources = StoredSamples(task, store, [prepared]), LiveSamples(task, [IDENTITY])
        stored, live = (list(collect(source, source.read(job), 4)) for source in sources)
        assert len(stored) == len(live) == 3
        for part, other_part in zip(stored, live, strict=True):
            samples, others = ([slot.sample for slot in each.slots] for each in (part, other_part))
            batch, other = part.batch, other_part.batch
            assert [s.window for s in samples] == [s.window for s in others]
            for sample, twin in zip(samples, others, strict=True):
                assert sample.arrays.keys() == twin.arrays.keys()
                assert all(np.array_equal(sample.arrays[name], twin.arrays[name]) for name in sample.arrays)
            assert all(torch.equal(batch.arrays[name], other.arrays[name]) for name in batch.arrays)


@pytest.mark.parametrize(
    "overrides", [(), ("train.ema_decay=0.8",), ("train.features=online",), ("prepare.store_dtype=int8",)], ids=str
)
def test_evaluate_gives_the_best_score_of_training(overrides, tmp_path):
    task, context = example_task(tmp_path, *SMALL, "train.epochs=4", "train.schedule=constant", *overrides)
    prepare.run(task, context)
    trained = train.run(task, context).metrics["mIoU"]
    assert evaluate.run(SegmentationTask(task.name, task.settings), context).metrics["mIoU"] == trained
    per_epoch = [float(row["mIoU"]) for row in rows_of(context)]
    assert max(per_epoch) == pytest.approx(trained, abs=1e-6)
    assert load_checkpoint(checkpoint_path(context.folder, BEST)).description["metrics"]["mIoU"] == trained


def first_step(training: train.Training) -> tuple[list[Batch], StepResult]:
    """Make the first step of a training, of this process alone."""
    training.model.train()
    batches = next(training.read(training.plan_epoch()[:1], Progress()))
    divisors, _ = count_targets(training.task, batches, training.device)
    return batches, training.optimisation.step(0, batches, Progress(), divisors)


def gradients_of(training: train.Training) -> list[Tensor]:
    return [p.grad.clone() for p in training.model.parameters() if p.requires_grad and p.grad is not None]


def test_micro_batches_give_the_gradients_of_one_batch(tmp_path):
    """Windows differ in their number of labelled pixels, so that a mean of means would differ."""
    gradients, losses = [], []
    for batch_size, accumulated in ((8, 1), (4, 2), (2, 4)):
        training = training_example(
            tmp_path / str(accumulated),
            "prepare.tile_size=16",
            f"train.batch_size={batch_size}",
            f"train.grad_accum_steps={accumulated}",
            "train.clip_norm=null",
        )
        batches, result = first_step(training)
        assert [len(batch) for batch in batches] == [batch_size] * accumulated
        losses.append(result.loss)
        gradients.append(gradients_of(training))
        assert result.gradient_norm > 0.01
        assert sum(float(gradient.square().sum()) for gradient in gradients[-1]) == pytest.approx(
            result.gradient_norm**2, rel=1e-4
        ), "nothing was clipped"
    for others in gradients[1:]:
        for one, other in zip(gradients[0], others, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    assert training.steps_per_epoch == 4, "28 windows: three steps of eight and one of four"


@pytest.mark.parametrize("limit", ["0", "null"])
def test_a_clip_norm_of_0_or_null_does_not_clip(limit, tmp_path):
    trained = []
    for name, value in (("none", limit), ("high", "1.0e+9"), ("low", "1.0e-3")):
        task, context = example_task(tmp_path / name, *SMALL, f"train.clip_norm={value}", "train.schedule=constant")
        prepare.run(task, context)
        train.run(task, context)
        trained.append(weights_of(context, LAST))
    assert equal(trained[0], trained[1])
    assert not equal(trained[0], trained[2])


@pytest.mark.parametrize("head", sorted(HEADS["segmentation"]))
def test_a_rank_without_windows_adds_nothing(head, tmp_path, monkeypatch):
    training = training_example(tmp_path, f"model.head={head}", "train.ema_decay=0.5")
    training.model.train()
    full = next(training.read(training.plan_epoch()[:1], Progress()))
    empty = training.reader.read([], Progress())
    divisors, _ = count_targets(training.task, [*full, empty], training.device)
    alone, _ = count_targets(training.task, full, training.device)
    assert divisors.counts == alone.counts
    monkeypatch.setattr(training.task.objective, "loss", None)  # it never sees zero samples
    loss, _ = training.optimisation.weighted_loss(empty, Progress(), divisors)
    loss.backward()
    assert loss.item() == 0
    gradients = gradients_of(training)
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def test_terms_counted_in_the_forward_are_divided_by_each_micro_batch_and_their_number(tmp_path, monkeypatch):
    """Two micro-batches with sums 6 and 8 over counts 3 and 2: (6 / 3 + 8 / 2) / 2."""
    training = training_example(tmp_path, "train.batch_size=3", "train.grad_accum_steps=2")
    sums, weight = iter([(6.0, 3.0), (8.0, 2.0)]), next(iter(training.model.head.parameters()))

    def loss(outputs, batch, progress):
        value, count = next(sums)
        return {"matched": (value + 0 * outputs["logits"].sum() + weight.flatten()[0], torch.tensor(count))}

    start = float(weight.detach().flatten()[0])
    monkeypatch.setattr(training.task.objective, "counts", lambda batch: {"matched": None})
    monkeypatch.setattr(training.task.objective, "weights", lambda: {"matched": 2.0})
    monkeypatch.setattr(training.task.objective, "loss", loss)
    _, result = first_step(training)
    assert result.loss == pytest.approx(2 * ((6 + start) / 3 + (8 + start) / 2) / 2, rel=1e-6)
    assert result.gradient_norm == pytest.approx(2 * (1 / 3 + 1 / 2) / 2, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# No stale record, and no record twice


def test_a_changed_label_is_read_again_and_its_features_are_not_computed_again(tmp_path):
    task, context = example_task(tmp_path)
    prepare.run(task, context)
    before = keys_of(tmp_path)

    def change(pixels):
        pixels[:, 0, 0] = 1

    rewrite(tmp_path / "labels" / "scene_0.tif", change)
    task, context = example_task(tmp_path)
    with pytest.raises(DataError, match="items are not prepared"):
        train.run(task, context)
    assert prepare.run(task, context).status == "done"
    assert producers_of(tmp_path, keys_of(tmp_path) - before) == {"sample": 1}, "one window shows the pixel"
    windows = [
        sample for item in task.source.items("train") + task.source.items("val") for sample in task.source.samples(item)
    ]
    assert sum(int(sample.arrays["label"][0, 0] == 1 and sample.window.x == 0) for sample in windows) >= 1
    assert train.run(task, context).status == "done"


def test_a_changed_picture_is_computed_again_where_it_changed(tmp_path):
    task, context = example_task(tmp_path)
    prepare.run(task, context)
    before = keys_of(tmp_path)

    def change(pixels):
        pixels[:, 0, 0] = 77

    rewrite(tmp_path / "pictures" / "scene_0.tif", change)
    task, context = example_task(tmp_path)
    assert prepare.run(task, context).status == "done"
    assert producers_of(tmp_path, keys_of(tmp_path) - before) == {"sample": 1, "backbone": 1}


@pytest.mark.parametrize(
    ("change", "samples", "features"),
    [
        ("model.layers=[1]", False, True),
        ("prepare.store_dtype=bf16", False, True),
        ("prepare.tile_size=16", True, True),
        (VIEWS, False, True),
        ("dataset.label_nodata=[1]", True, False),
        ("dataset.classes=[light, dark]", False, False),
        ("train.adamw_lr=0.002", False, False),
    ],
)
def test_a_changed_setting_makes_what_depends_on_it_and_only_that(change, samples, features, tmp_path):
    task, context = example_task(tmp_path)
    prepare.run(task, context)
    before = keys_of(tmp_path)
    other, _ = example_task(tmp_path, change)
    if "tile_size" in change:  # lists that were drawn for other windows are refused
        shutil.rmtree(tmp_path / "splits")
    prepare.run(other, context)
    made = producers_of(tmp_path, keys_of(tmp_path) - before)
    assert (made["sample"] > 0, made["backbone"] > 0) == (samples, features)
    assert before <= keys_of(tmp_path), "what was there stays"
    if "tile_size" in change:
        shutil.rmtree(tmp_path / "splits")
    back, _ = example_task(tmp_path)
    assert prepare.run(back, context).status == "up to date"


def test_an_interrupted_prepare_goes_on_with_what_is_missing(tmp_path):
    task, context = example_task(tmp_path, "prepare.batch_size=1", "prepare.tile_size=16")
    asked = []

    def check_stop():
        asked.append(None)
        if len(asked) == 9:
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        prepare.run(task, replace(context, check_stop=check_stop))
    kept = keys_of(tmp_path)
    assert len(kept) >= 8, "what was computed before the signal is there"
    again, _ = example_task(tmp_path, "prepare.batch_size=1", "prepare.tile_size=16")
    assert prepare.run(again, context).status == "done"
    unbroken, _ = example_task(tmp_path / "unbroken", "prepare.batch_size=1", "prepare.tile_size=16")
    prepare.run(unbroken, context)
    assert keys_of(tmp_path) == keys_of(tmp_path / "unbroken")
    assert producers_of(tmp_path, kept)["backbone"] > 0
    with_twice = FeatureStore(tmp_path / "store")
    assert sum(1 for path in with_twice.folder.glob("shards/*.safetensors")) >= 2


def test_another_head_and_another_task_share_what_is_stored(tmp_path):
    task, context = example_task(tmp_path)
    prepare.run(task, context)
    before = keys_of(tmp_path)
    head, _ = example_task(tmp_path, "model.head=unet", "train.loss.dice_weight=0.5")
    assert prepare.run(head, context).status == "up to date"
    settings = example_task(tmp_path, "model.layers=[1]")[0].settings
    second = SegmentationTask("second", settings)
    assert prepare.run(second, context).status == "done"
    made = producers_of(tmp_path, keys_of(tmp_path) - before)
    assert set(made) == {"backbone"}, "the second task shares pictures and labels and adds features of its own"
    for each in (task, head, second):
        assert prepare.run(SegmentationTask(each.name, each.settings), context).status == "up to date"
    assert train.run(task, in_folder(context, "one")).status == "done"
    assert train.run(second, in_folder(context, "two")).status == "done"


@pytest.mark.parametrize("kind", ["sample", "backbone"])
def test_a_flipped_byte_is_found_set_aside_and_made_again(kind, tmp_path):
    task, context = example_task(tmp_path, "train.epochs=1")
    prepare.run(task, context)
    store = FeatureStore(tmp_path / "store")
    original = {key: store.read(key) for key in keys_of(tmp_path)}
    hurt = next(key for key in original if store.metadata(key).get("producer", "sample") == kind)
    flip_a_byte_of(store, hurt)
    result = verify.run(task, context)
    assert result.metrics == {"records": float(len(original)), "bad records": 1.0, "findings": 0.0}
    assert keys_of(tmp_path) == original.keys() - {hurt}
    again, _ = example_task(tmp_path, "train.epochs=1")
    with pytest.raises(DataError, match=r"items are not prepared .*run prepare"):
        train.run(again, context)
    speaking, log = spoken(tmp_path)
    assert prepare.run(again, speaking).status == "done"
    assert "prepare: 1 records written" in log.read_text()
    restored = FeatureStore(tmp_path / "store")
    assert set(restored.keys()) == original.keys()
    for key, arrays in original.items():
        assert all(torch.equal(arrays[name], array) for name, array in restored.read(key).items())
    assert verify.run(again, context).metrics["bad records"] == 0
    assert train.run(again, context).status == "done"


def flip_a_byte_of(store: FeatureStore, key: str) -> None:
    """Flip a bit in the first array of a record, where it lies in its shard."""
    value = next(iter(store.read(key).values())).contiguous()
    payload = value.view(torch.uint8).numpy().tobytes() if value.dtype != torch.bool else value.numpy().tobytes()
    for shard in store.folder.glob("shards/*.safetensors"):
        data = bytearray(shard.read_bytes())
        place = data.find(payload)
        if place >= 0:
            data[place + len(payload) // 2] ^= 4
            shard.write_bytes(data)
            return
    raise AssertionError("the record's bytes are in no shard")


def test_a_truncated_shard_is_made_again(tmp_path):
    task, context = example_task(tmp_path)
    prepare.run(task, context)
    before = keys_of(tmp_path)
    [shard] = (tmp_path / "store").glob("shards/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1000])
    again, _ = example_task(tmp_path)
    verify.run(again, context)
    assert prepare.run(again, context).status == "done"
    assert keys_of(tmp_path) == before
    assert verify.run(again, context).metrics["bad records"] == 0


def test_a_store_that_does_not_fit_is_refused_with_advice(tmp_path):
    task, context = example_task(tmp_path, "prepare.reserve_gb=1e9")
    with pytest.raises(DataError, match=r"records need .*, free are .*; name another disk"):
        prepare.run(task, context)
    assert not keys_of(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Choices of training


def test_a_start_from_another_run_names_the_rows_that_begin_anew(tmp_path):
    task, context = example_task(tmp_path, *SMALL)
    prepare.run(task, context)
    train.run(task, in_folder(context, "source"))
    source = checkpoint_path(in_folder(context, "source").folder, BEST)
    classes = ("dataset.classes=[light, other]", "dataset.label_mapping={0: other, 1: light, 255: ignore}")
    other, _ = example_task(tmp_path, *SMALL, *classes, f"train.init_from={source}")
    prepare.run(other, context)
    speaking, log = spoken(tmp_path)
    store = open_store(other.settings, "train")
    training = train.Training(other, speaking, store, prepared_items(other, store, "train", "test"), [], "x")
    training.start()
    line = next(line for line in log.read_text().splitlines() if "starting from" in line)
    assert "(other)" in line
    assert "(light)" not in line
    old, new = load_checkpoint(source).tensors, trained_state(training.model)
    rows = [name for name, tensor in new.items() if tensor.shape[:1] == (2,)]
    assert rows
    for name in rows:
        assert torch.equal(new[name][0], old[name][1]), "light was the second class and is the first now"
        assert not torch.equal(new[name][1], old[name][0])


def make_light_rare(folder: Path) -> None:
    """Leave 64 pixels of the second class in each picture's label."""

    def change(pixels):
        pixels[:] = 0
        pixels[:, :8, :8] = 1

    example_task(folder)
    for path in (folder / "labels").iterdir():
        rewrite(path, change)


def test_automatic_class_weights_follow_the_pixels_of_the_training_windows(tmp_path):
    make_light_rare(tmp_path)
    steady = (*SMALL, "train.schedule=constant")
    task, context = example_task(tmp_path, *steady, "train.loss.class_weights=auto")
    prepare.run(task, context)
    labels = [sample.arrays["label"] for item in task.source.items("train") for sample in task.source.samples(item)]
    counts = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)[:2]
    assert counts.min() > 0
    assert train.run(task, context).status == "done"
    assert torch.allclose(task.objective.class_weights, class_weights_from_counts(torch.from_numpy(counts)))
    assert task.objective.class_weights[1] > task.objective.class_weights[0]
    plain, _ = example_task(tmp_path, *steady)
    train.run(plain, in_folder(context, "plain"))
    assert not equal(weights_of(context, LAST), weights_of(in_folder(context, "plain"), LAST))


def test_windows_with_a_rare_class_come_as_often_as_their_weight_says(tmp_path):
    make_light_rare(tmp_path)
    training = training_example(tmp_path, *SMALL, "train.sampling=rare")
    holds = np.array([entry.facts["counts"]["light"] > 0 for entry in training.reader.entries])
    assert 0 < holds.mean() < 0.3
    drawn = Counter()
    for epoch in range(200):
        training.state.epoch = epoch
        for step in training.plan_epoch():
            drawn.update(bool(holds[ref.position]) for part in step for ref in part)
    expected = training.weights[holds].sum() / training.weights.sum()
    assert expected > 1.5 * holds.mean()
    assert drawn[True] / drawn.total() == pytest.approx(expected, abs=0.03)


def test_online_windows_are_cropped_with_their_labels_anew_in_each_epoch(tmp_path):
    online = "train={features: online, crop_size: 12, batch_size: 6}"
    task, store, prepared = prepared_example(tmp_path, online, "dataset.augmentations.enable=true")
    assert set(producers_of(tmp_path, keys_of(tmp_path))) == {"sample"}, "no features are stored"
    reader = PreparedReader(task, store, prepared)
    refs = [SampleRef(position, view.name) for position in range(6) for view in task.source.views("train")]
    batch = reader.read(refs, Progress(0))
    assert batch.feature_maps is None
    assert batch.arrays["image"].shape == (48, 3, 12, 12)
    known = batch.target != 255
    bright = batch.arrays["image"].float().mean(dim=1) > 120
    assert torch.equal(bright[known], batch.target.bool()[known]), "light is bright: picture and label moved together"
    assert torch.equal(batch.arrays["image"], reader.read(refs, Progress(0)).arrays["image"])
    epochs = torch.cat([reader.read(refs[:48:8], Progress(epoch)).arrays["image"] for epoch in range(8)])
    assert len(epochs.flatten(1).unique(dim=0)) > 40, "48 crops of six windows; few come twice"
    assert task.build_model().eval()(batch)["logits"].shape[:2] == (48, 2)


def test_fine_tuning_trains_the_last_block_only_and_ships_it(tmp_path):
    settings = (*SMALL, "model.freeze=1", "train={features: online, epochs: 2, batch_size: 8}")
    task, context = example_task(tmp_path, *settings)
    prepare.run(task, context)
    frozen = {name: tensor.clone() for name, tensor in task.features.backbone.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in task.build_model().state_dict().items()}
    trained = train.run(task, context).metrics["mIoU"]
    shipped = weights_of(context, BEST)
    blocks = {name for name in shipped if name.startswith("backbone.")}
    assert blocks
    changed = {name for name in blocks if not torch.equal(shipped[name], before[name])}
    assert len(changed) > len(blocks) / 2
    assert blocks < {name for name in before if name.startswith("backbone.")}, "the first block is not shipped"
    assert all(torch.equal(frozen[n], t) for n, t in task.features.backbone.state_dict().items())
    assert evaluate.run(SegmentationTask(task.name, task.settings), context).metrics["mIoU"] == trained


def test_losses_that_are_not_finite_are_skipped_counted_and_then_fatal(tmp_path, monkeypatch):
    task, context = example_task(tmp_path, *SMALL, "train.non_finite_limit=2", "train.epochs=2")
    prepare.run(task, context)
    healthy, seen = task.objective.loss, []

    def sometimes(outputs, batch, progress):
        seen.append(None)
        sums = healthy(outputs, batch, progress)
        return {name: value * float("nan") for name, value in sums.items()} if len(seen) in bad else sums

    monkeypatch.setattr(task.objective, "loss", sometimes)
    bad = {2, 3, 5}
    assert train.run(task, in_folder(context, "skips")).status == "done"
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(in_folder(context, "skips"), LAST).values())
    seen.clear()
    bad = set(range(3, 100))
    with pytest.raises(DinolithError, match="the loss was not finite 3 times in a row"):
        train.run(task, in_folder(context, "fatal"))
    assert len(seen) == 5, "two good steps, two skipped ones, and the one that was too many"


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_leaves_the_weights_alone(broken, tmp_path, monkeypatch):
    training = training_example(tmp_path, "prepare.tile_size=16", "model.head=segformer")
    before = {name: tensor.clone() for name, tensor in trained_state(training.model).items()}
    if broken == "loss":
        monkeypatch.setattr(
            training.task.objective, "loss", lambda outputs, *_: {"ce": outputs["logits"].sum() * float("inf")}
        )
    else:
        healthy = training.task.objective.loss
        monkeypatch.setattr(training.task.objective, "loss", with_broken_gradient(healthy))
    _, result = first_step(training)
    assert not result.applied
    assert np.isfinite(result.loss) == (broken == "gradient")
    assert not np.isfinite(result.gradient_norm)
    assert equal(before, trained_state(training.model))
    assert training.optimisation.guard.total == 1


class NanGradient(torch.autograd.Function):
    """The same value, and a gradient that is not a number."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def with_broken_gradient(loss, calls=range(10**9)):
    """A loss whose values are right and whose gradients, in some of its calls, are not."""
    number = itertools.count()

    def broken(outputs, batch, progress):
        sums = loss(outputs, batch, progress)
        if next(number) not in calls:
            return sums
        return {name: NanGradient.apply(value) for name, value in sums.items()}

    return broken


def test_gradients_that_are_not_finite_are_skipped_logged_and_then_fatal(tmp_path, monkeypatch):
    task, context = example_task(tmp_path, *SMALL, "train.non_finite_limit=2", "train.epochs=2")
    prepare.run(task, context)
    healthy = task.objective.loss
    monkeypatch.setattr(task.objective, "loss", with_broken_gradient(healthy, {2, 3, 5}))
    speaking, log = spoken(tmp_path)
    assert train.run(task, speaking).status == "done"
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(speaking, LAST).values())
    assert [line.rpartition("; ")[2] for line in log.read_text().splitlines() if "step skipped" in line] == [
        "1 in a row, 1 in all",
        "2 in a row, 2 in all",
        "1 in a row, 3 in all",
    ]
    monkeypatch.setattr(task.objective, "loss", with_broken_gradient(healthy, range(3, 100)))
    with pytest.raises(DinolithError, match="the gradient was not finite 3 times in a row"):
        train.run(task, in_folder(context, "fatal"))


def test_early_stopping_ends_after_patience_and_keeps_the_best(tmp_path):
    task, context = example_task(tmp_path, *SMALL, "train.epochs=9", "train.patience=2", "train.min_delta=1.0")
    prepare.run(task, context)
    train.run(task, context)
    assert len(rows_of(context)) == 3, "the first validation is a gain, two more are not"
    assert load_checkpoint(checkpoint_path(context.folder, BEST)).description["epoch"] == 1


# ---------------------------------------------------------------------------------------------------------------------
# Predictions


def trained_example(folder: Path, *overrides: str) -> tuple[SegmentationTask, Context]:
    task, context = example_task(folder, *SMALL, *overrides)
    prepare.run(task, context)
    train.run(task, context)
    return task, context


def read_raster(path: Path) -> tuple[np.ndarray, dict]:
    with rasterio.open(path) as raster:
        return raster.read(), {"crs": raster.crs, "transform": raster.transform, "nodata": raster.nodata}


def test_evaluate_with_turned_pictures_is_a_score_of_its_own(tmp_path):
    task, context = trained_example(tmp_path, "train.epochs=3")
    evaluate.run(task, context)
    turned, _ = example_task(tmp_path, *SMALL, "train.epochs=3", "inference.tta={horizontal_flip: true}")
    result = evaluate.run(turned, context)
    assert result.status == "done"
    assert result.metrics["mIoU"] > 0.5
    assert evaluate.run(turned, context).status == "up to date"


def test_an_interrupted_inference_gives_the_raster_of_an_unbroken_one(tmp_path):
    task, context = trained_example(tmp_path, f"inference.output_dir={tmp_path / 'whole'}", "inference.batch_size=1")
    inference.run(task, context)
    cut, _ = example_task(tmp_path, *SMALL, f"inference.output_dir={tmp_path / 'cut'}", "inference.batch_size=1")
    total = []
    inference.run(cut, replace(context, check_stop=lambda: total.append(None)))
    shutil.rmtree(tmp_path / "cut")
    asked = []

    def check_stop():
        asked.append(None)
        if len(asked) == len(total) * 3 // 4:
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        inference.run(cut, replace(context, check_stop=check_stop))
    assert not list((tmp_path / "cut").glob("*_classes.tif")), "complete or absent"
    assert inference.run(cut, context).status == "done"
    for name in ("whole", "cut"):
        assert [path.name for path in (tmp_path / name).glob("*.tif")] == ["scene_0_classes.tif"]
    one, other = (read_raster(tmp_path / name / "scene_0_classes.tif") for name in ("whole", "cut"))
    assert np.array_equal(one[0], other[0])
    assert one[1] == other[1]


def test_a_prediction_is_made_again_when_what_it_was_made_of_changed(tmp_path):
    task, context = trained_example(tmp_path)
    assert [inference.run(task, context).status for _ in range(2)] == ["done", "up to date"]
    [path] = (context.folder / "predictions").glob("*_classes.tif")
    path.unlink()
    assert inference.run(task, context).status == "done", "its output is gone"
    rewrite(tmp_path / "pictures" / "scene_0.tif", lambda pixels: pixels[:, :4].fill(0))
    assert inference.run(task, context).status == "done", "its picture has changed"
    other, _ = example_task(tmp_path, *SMALL, "inference.overlap=0.5")
    assert inference.run(other, context).status == "done", "its windows overlap more"
    assert inference.run(other, context).status == "up to date"


def test_settings_that_contradict_a_checkpoint_are_refused(tmp_path):
    _, context = trained_example(tmp_path)
    other, _ = example_task(tmp_path, "prepare.tile_size=16", "model.head=unet")
    with pytest.raises(DataError, match=r"holds head 'linear', but model.head asks for 'unet'"):
        evaluate.run(other, context)


@pytest.mark.parametrize("features", ["cached", "online"])
def test_views_of_inference_do_not_change_the_validation_of_training(features, tmp_path, monkeypatch):
    """Validation sees pictures as they are, whatever inference is asked to average."""
    scores, seen = [], []
    forward = FeatureModel.forward
    monkeypatch.setattr(FeatureModel, "forward", lambda model, batch: seen.append(len(batch)) or forward(model, batch))
    for name, changes in (("plain", []), ("averaged", ["inference.tta={horizontal_flip: true, vertical_flip: true}"])):
        task, context = example_task(tmp_path / name, f"train.features={features}", *changes)
        prepare.run(task, context)
        scores.append(train.run(task, context).metrics["mIoU"])
    assert scores[0] == scores[1] > 0.25
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :], "the same batches"


# ---------------------------------------------------------------------------------------------------------------------
# Split lists


def lists_of(folder: Path) -> str:
    return "".join((folder / "splits" / f"segmentation_{split}.txt").read_text() for split in ("train", "val"))


def test_pictures_that_are_left_out_are_told_in_one_line(tmp_path, caplog):
    task, _ = example_task(tmp_path)
    task.source.prepare_data()
    assert "left out" not in caplog.text
    pictures, labels = tmp_path / "pictures", tmp_path / "labels"
    shutil.copy(pictures / "scene_0.tif", pictures / "lonely.tif")
    shutil.copy(pictures / "scene_0.tif", pictures / "unknown.tif")
    with rasterio.open(labels / "scene_0.tif") as known:
        profile = known.profile
    with rasterio.open(labels / "unknown.tif", "w", **profile) as label:
        label.write(np.full((1, 64, 64), 255, np.uint8))
    task, _ = example_task(tmp_path)
    task.source.prepare_data()
    (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert line.startswith("2 pictures are left out: 1 without a label, such as lonely; 1 without a pixel that is both")


def test_lists_of_other_pictures_are_drawn_anew_and_those_of_a_person_stay(tmp_path, caplog):
    task, context = example_task(tmp_path, *SMALL)
    prepare.run(task, context)
    before = lists_of(tmp_path)
    for kind in ("pictures", "labels"):
        shutil.copy(tmp_path / kind / "scene_0.tif", tmp_path / kind / "new.tif")
    more, _ = example_task(tmp_path, *SMALL)
    prepare.run(more, context)
    assert "drawn anew, as it was made for other pictures or settings" in caplog.text
    assert "new" in lists_of(tmp_path)
    assert "new" not in before
    path = tmp_path / "splits" / "segmentation_train.txt"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "new" not in line))
    val = path.with_name("segmentation_val.txt")
    val.write_text("\n".join(line for line in val.read_text().splitlines() if "new" not in line) + "\nscene_0\n")
    by_hand = lists_of(tmp_path)
    example_task(tmp_path, *SMALL, "train={epochs: 1}")[0].source.write_splits()
    assert lists_of(tmp_path) == by_hand
    assert "1 pictures, such as new, are in no split list" in caplog.text


def test_another_tile_size_draws_the_ground_anew(tmp_path):
    prepare.run(*example_task(tmp_path))
    before = lists_of(tmp_path)
    prepare.run(*example_task(tmp_path, "prepare.tile_size=16"))
    assert "tiles of 16 pixels" in lists_of(tmp_path)
    assert "tiles of 16 pixels" not in before


def test_a_named_run_is_not_trained_over(tmp_path):
    named = "paths.run_name=run"
    task, context = example_task(tmp_path, *SMALL, named)
    prepare.run(task, context)
    train.run(task, context)
    kept = weights_of(context, BEST)
    other, _ = example_task(tmp_path, *SMALL, named, "train.epochs=3")
    with pytest.raises(SettingsError, match=r"paths.run_name: .* holds another training \(train.epochs is 3"):
        train.run(other, context)
    assert equal(weights_of(context, BEST), kept)
    assert train.run(task, context).status == "up to date"


def test_labels_of_a_single_class_are_refused_with_the_cure(tmp_path):
    task, context = example_task(tmp_path, *SMALL)
    for path in (tmp_path / "labels").iterdir():
        rewrite(path, lambda pixels: np.place(pixels, pixels == 1, 255))
    prepare.run(task, context)
    with pytest.raises(DataError, match=r"all labelled pixels .* are dark; 255 counts as unlabelled; .*label_mapping"):
        train.run(task, context)


def test_a_checkpoint_whose_description_was_changed_ends_in_one_line(tmp_path):
    task, context = example_task(tmp_path, *SMALL)
    prepare.run(task, context)
    train.run(task, context)
    tensors, described, _ = vars(load_checkpoint(checkpoint_path(context.folder, BEST))).values()
    save_checkpoint(tmp_path / "odd.safetensors", tensors, {**described, "layers": "x", "tile_size": -5})
    task.settings = task.settings.model_copy(
        update={"evaluate": task.settings.evaluate.model_copy(update={"checkpoint": str(tmp_path / "odd.safetensors")})}
    )
    with pytest.raises(DataError):
        evaluate.run(task, context)
