"""What the phases promise, on the tiny example: one result by every way, predictions, and split lists."""

from __future__ import annotations

import shutil
import signal
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
from tasks.model import FeatureModel
from tasks.phases import evaluate, inference, prepare, train
from tasks.phases.prediction import collect
from tasks.phases.samples import Job, LiveSamples, StoredSamples
from tasks.phases.step import count_targets
from tasks.prepared import PreparedReader, prepared_items
from tasks.runs import BEST, LAST, checkpoint_path
from tasks.sample import Progress
from tasks.segmentation.task import SegmentationTask
from tests.tasks.example_runs import (
    SMALL,
    VIEWS,
    equal,
    first_step,
    rewrite,
    rows_of,
    weights_of,
)
from utils.data import SampleRef
from utils.errors import DataError, Interrupted, SettingsError
from utils.geometry.augment import IDENTITY, View
from utils.runtime.checkpoints import load_checkpoint, save_checkpoint
from utils.runtime.files import read_json

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
    loss, *_ = training.optimisation.weighted_loss(empty, Progress(), divisors)
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
# Predictions


def trained_example(folder: Path, *overrides: str) -> tuple[SegmentationTask, Context]:
    task, context = example_task(folder, *SMALL, *overrides)
    prepare.run(task, context)
    train.run(task, context)
    return task, context


def read_raster(path: Path) -> tuple[np.ndarray, dict]:
    with rasterio.open(path) as raster:
        return raster.read(), {"crs": raster.crs, "transform": raster.transform, "nodata": raster.nodata}


def test_evaluate_scores_several_splits_in_one_run_and_only_what_is_new(tmp_path):
    task, context = example_task(tmp_path, *SMALL, "evaluate.boundary_width=0.02")
    prepare.run(task, context)
    train.run(task, context)
    alone = evaluate.run(task, context)
    both, _ = example_task(tmp_path, *SMALL, "evaluate.boundary_width=0.02", "evaluate.split=[train, val]")
    result = evaluate.run(both, context)
    assert result.metrics["mIoU val"] == alone.metrics["mIoU"]
    assert result.metrics["mIoU train"] != alone.metrics["mIoU"]
    assert result.status == "done"
    assert result.doubt.startswith("train: mIoU"), "each doubt names its split"
    assert {path.name for path in context.folder.glob("evaluate_*")} == {"evaluate_train", "evaluate_val"}
    assert evaluate.run(both, context).status == "up to date"
    assert "mbIoU" in read_json(context.folder / "evaluate_train" / "metrics.json")["metrics"]


def test_evaluate_with_turned_pictures_is_a_score_of_its_own(tmp_path):
    task, context = trained_example(tmp_path, "train.epochs=3")
    evaluate.run(task, context)
    views_of_inference = example_task(tmp_path, *SMALL, "train.epochs=3", "inference.tta={horizontal_flip: true}")[0]
    assert evaluate.run(views_of_inference, context).status == "up to date", "they are for inference"
    turned, _ = example_task(tmp_path, *SMALL, "train.epochs=3", "evaluate.tta={horizontal_flip: true}")
    result = evaluate.run(turned, context)
    assert result.status == "done"
    assert result.metrics["mIoU"] > 0.5
    assert read_json(context.folder / "evaluate_val" / "metrics.json")["views"] == ["identity", "hflip"]
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


def test_settings_that_a_checkpoint_replaces_are_told(tmp_path, caplog):
    """Of what the file sets, only what differs is named; the same in other words is not."""
    _, context = trained_example(tmp_path)
    same = ("model.layers=last2", "model.head_options={}", "model.precision=auto")
    for changes, number in ((("model.attention=eager", "train.precision=bf16"), 2), (same, 0)):
        caplog.clear()
        evaluate.run(example_task(tmp_path, *SMALL, *changes)[0], context)
        told = [record.message for record in caplog.records if "has no effect" in record.message]
        assert len(told) == number
        assert not told or ("model.attention: 'eager'" in told[0] and "trained with 'sdpa'" in told[0])


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
    loaded = load_checkpoint(checkpoint_path(context.folder, BEST))
    tensors, described = loaded.tensors, loaded.description
    save_checkpoint(tmp_path / "odd.safetensors", tensors, {**described, "layers": "x", "tile_size": -5})
    task.settings = task.settings.model_copy(
        update={"evaluate": task.settings.evaluate.model_copy(update={"checkpoint": str(tmp_path / "odd.safetensors")})}
    )
    with pytest.raises(DataError):
        evaluate.run(task, context)
