"""Training on the tiny example: exact continuation, and what its settings choose."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.context import Context
from tasks.example import annotated_example, example_task, prepared_example, training_example
from tasks.model import trained_state
from tasks.phases import evaluate, prepare, train
from tasks.prepared import PreparedReader, prepared_items
from tasks.runs import BEST, LAST, checkpoint_path
from tasks.sample import Progress
from tasks.segmentation.task import SegmentationTask
from tasks.stores import open_store
from tests.tasks.example_runs import (
    SMALL,
    VIEWS,
    equal,
    first_step,
    in_folder,
    keys_of,
    producers_of,
    rewrite,
    rows_of,
    spoken,
    stopping_after,
    weights_of,
)
from utils.data import SampleRef
from utils.errors import DataError, DinolithError, Interrupted
from utils.losses import class_weights_from_counts
from utils.runtime.checkpoints import load_checkpoint, save_checkpoint
from utils.runtime.files import read_json

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


def test_a_class_begins_from_its_family_of_a_coarser_run(tmp_path):
    families = ("dataset.classes=[dark, bright]", "dataset.taxonomy={light: bright}")
    task, context = annotated_example(tmp_path, *SMALL, *families)
    prepare.run(task, context)
    train.run(task, in_folder(context, "source"))
    source = checkpoint_path(in_folder(context, "source").folder, BEST)
    fine, _ = annotated_example(tmp_path, *SMALL, "dataset.classes=[light, dark]", f"train.init_from={source}")
    prepare.run(fine, context)
    speaking, log = spoken(tmp_path)
    store = open_store(fine.settings, "train")
    training = train.Training(fine, speaking, store, prepared_items(fine, store, "train", "test"), [], "x")
    training.start()
    line = next(line for line in log.read_text().splitlines() if "starting from" in line)
    assert "light begins as bright" in line
    assert "re-initialised" not in line
    old, new = load_checkpoint(source).tensors, trained_state(training.model)
    rows = [name for name, tensor in new.items() if tensor.shape[:1] == (2,)]
    assert rows
    for name in rows:
        assert torch.equal(new[name], old[name].flip(0)), "light has the row of bright, dark its own"


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


def test_a_start_from_a_checkpoint_that_fits_nowhere_names_setting_file_and_both_kinds(tmp_path):
    training = training_example(tmp_path)
    path = save_checkpoint(tmp_path / "boxes", {"a.weight": torch.ones(2)}, {"kind": "detection", "head": "dense"})
    text = (
        f"train.init_from: {path}: a checkpoint of kind detection, head dense; this task is of kind segmentation, head "
        f"{training.task.settings.model.head}: nothing to start from"
    )
    with pytest.raises(DataError, match=re.escape(text)):
        training._init_from(str(path))


@pytest.mark.parametrize("features", ["cached", "online"])
def test_the_validation_loss_is_that_of_the_same_weights_on_the_same_windows(tmp_path, features):
    task, context = example_task(
        tmp_path, *SMALL, "train.val_overlap=0", "train.val_every=2", "train.epochs=3", f"train.features={features}"
    )
    prepare.run(task, context)
    task.setup()
    store = open_store(task.settings, "train")
    items = [prepared_items(task, store, split, "test") for split in ("train", "val")]
    training = train.Training(task, context, store, *items, "x")
    training.start()
    scores = training.validate()
    reader = PreparedReader(task, store, items[1])
    batch = reader.read([SampleRef(place) for place in range(len(reader.entries))], Progress())
    with training.state.shipped_weights(), torch.no_grad():
        terms = task.objective.loss(training.model.eval()(batch), batch, Progress())
    counts, weights = task.objective.counts(batch), task.objective.weights()
    means = {name: float(value) / float(counts[name]) for name, value in terms.items()}
    assert {name: scores[f"val_loss/{name}"] for name in means} == pytest.approx(means, rel=1e-5)
    assert scores["val_loss"] == pytest.approx(sum(weights[name] * value for name, value in means.items()), rel=1e-5)


def test_the_log_and_the_table_have_the_validation_loss_and_the_classes(tmp_path):
    task, context = example_task(tmp_path, *SMALL, "train.epochs=2")
    prepare.run(task, context)
    speaking, log = spoken(tmp_path)
    train.run(task, speaking)
    lines = [line for line in log.read_text().splitlines() if "epoch 2:" in line]
    assert any(re.search(r"mIoU 0\.\d{4}, validation loss \d\.\d{4}", line) for line in lines)
    assert any(re.search(r"IoU: (dark|light) 0\.\d{4}, (dark|light) [01]\.\d{4}$", line) for line in lines)
    rows = (speaking.folder / "results.csv").read_text().splitlines()
    assert {"val_loss", "val_loss/ce", "val_loss/dice", "IoU/dark"} <= set(rows[0].split(","))
