"""prepare.project: one projection in store, training, checkpoints and predictions, whatever comes in between.

This file, run as a script, is the work of a rank.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from config import parse_settings
from models.backbones.random_backbone import write_random_backbone
from tasks import kinds
from tasks.context import Context, WouldRun
from tasks.detection.example import fox_task, foxes_example
from tasks.example import SETTINGS, example_context, example_task, scene_task, tiny_backbone, write_pictures
from tasks.forecast import forecast
from tasks.keypoints.example import animals_example
from tasks.labelled import decode_picture
from tasks.phases import evaluate, load_phase, prepare, train, verify
from tasks.prepared import PreparedReader, prepared_items
from tasks.projection import chosen_samples
from tasks.runs import BEST, checkpoint_path
from tasks.segmentation.task import SegmentationTask
from tasks.stores import make_no_stores, open_store, preview_stores
from tasks.task import Task
from tasks.trained import TrainedTask, build_trained
from tests.processes import ends_of
from tests.tasks.example_runs import equal, producers_of, spoken, stopping_after
from utils.data import SampleRef
from utils.errors import DataError, Interrupted, SettingsError
from utils.runtime import distributed
from utils.runtime.checkpoints import load_checkpoint
from utils.store.feature_store import FeatureStore

PROJECTED = ("prepare.project=5", "prepare.store_dtype=int8")
EXAMPLES = {"segmentation": example_task, "keypoints": animals_example, "detection": foxes_example}


def digest_of(task: Task) -> str:
    return task.features.known_projection().digest  # type: ignore[attr-defined]


def keys_by_producer(folder: Path, name: str) -> set[str]:
    store = FeatureStore(folder / "store")
    return {key for key in store.keys() if store.metadata(key).get("producer") == name}  # noqa: SIM118 - no dictionary


# --- what is stored --------------------------------------------------------------------------------------------------


def test_one_map_is_stored_and_computed_maps_are_its_bits(tmp_path):
    task, context = example_task(tmp_path, *PROJECTED)
    prepare.run(task, context)
    store = open_store(task.settings, "train")
    reader = PreparedReader(task, store, prepared_items(task, store, "train", "train"))
    batch = reader.read([SampleRef(0), SampleRef(1), SampleRef(2)])
    (stored,) = batch.feature_maps
    assert stored.shape == (3, 5, 8, 8)
    assert stored.std() > 0.1
    assert torch.equal(stored, task.features.maps(batch.arrays["image"])[0])


def test_the_plan_tells_the_bytes_that_are_stored(tmp_path):
    task, context = example_task(tmp_path, *PROJECTED)
    task.source.prepare_data()
    records, planned = prepare.size_of(task, prepare.missing_jobs(task, open_store(task.settings, "prepare")))
    prepare.run(task, context)
    shards = (tmp_path / "store" / "shards").iterdir()
    stored = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    maps = {name: tensor for name, tensor in stored.items() if "map_" in name}
    assert {tuple(tensor.shape) for tensor in maps.values()} == {(5, 8, 8), (5,)}
    assert sum(tensor.nbytes for tensor in maps.values()) == 15 * task.source.record_bytes() == 15 * (5 * 64 + 5 * 4)
    assert (records, planned) == (30, 15 * (task.source.record_bytes() + task.source.sample_bytes()))
    assert scene_task("prepare.store_dtype=int8").source.record_bytes() == 2 * (8 * 64 + 8 * 4)


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_without_a_projection_recipes_and_descriptions_are_as_before(kind, tmp_path):
    task, _ = EXAMPLES[kind](tmp_path)
    task.source.prepare_data()
    task.setup()
    assert set(task.features.recipe()) == {
        *("backbone", "layers", "mean", "std", "precision", "attention", "store_dtype", "padding")
    }
    assert not {"project", "projection"} & set(task.describe_model())
    assert (task.kept_tensors(), task.shared_records(), task.unlearnt()) == ({}, [], 0)


# --- how it is learnt ------------------------------------------------------------------------------------------------


def test_other_heads_tasks_and_stored_types_find_the_projection_of_a_store(tmp_path):
    first, context = example_task(tmp_path, *PROJECTED)
    prepare.run(first, context)
    assert prepare.run(*example_task(tmp_path, *PROJECTED, "model.head=linear")).status == "up to date"
    store = f"paths.processed_dir={tmp_path}/store"
    foxes, fox_context = foxes_example(tmp_path / "foxes", "prepare.project=5", store)
    assert foxes.unlearnt() == 0
    prepare.run(foxes, fox_context)
    assert digest_of(foxes) == digest_of(first)
    assert len(keys_by_producer(tmp_path, "projection")) == 1
    other, _ = example_task(tmp_path, "prepare.project=4")
    assert other.unlearnt() == 6


def test_pictures_that_are_added_later_keep_the_projection_and_the_records(tmp_path):
    few, context = foxes_example(tmp_path, *PROJECTED, "dataset.subset.train=3")
    prepare.run(few, context)
    before, digest = keys_by_producer(tmp_path, "backbone"), digest_of(few)
    more, context = foxes_example(tmp_path, *PROJECTED)
    assert prepare.run(more, context).status == "done"
    assert digest_of(more) == digest
    assert before < keys_by_producer(tmp_path, "backbone")
    fresh, context = foxes_example(tmp_path, *PROJECTED, f"paths.processed_dir={tmp_path}/fresh")
    prepare.run(fresh, context)
    assert digest_of(fresh) != digest, "these pictures would not show whether it was learnt anew"


def test_an_interrupted_attempt_leaves_nothing_and_the_next_gives_the_same_bits(tmp_path):
    whole, context = example_task(tmp_path / "whole", *PROJECTED)
    prepare.run(whole, context)
    cut, context = example_task(tmp_path / "cut", *PROJECTED)
    asked: list[None] = []

    def stop() -> None:
        asked.append(None)
        if len(asked) == 4:
            raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        prepare.run(cut, replace(context, check_stop=stop))
    assert len(FeatureStore(tmp_path / "cut" / "store")) == 0
    again, context = example_task(tmp_path / "cut", *PROJECTED)
    prepare.run(again, context)
    assert digest_of(again) == digest_of(whole)
    assert keys_by_producer(tmp_path / "cut", "backbone") == keys_by_producer(tmp_path / "whole", "backbone")


def ranked_task(folder: Path) -> tuple[Task, Context]:
    text = SETTINGS.format(folder=folder, backbone=tiny_or(folder / "backbone"))
    overrides = (*PROJECTED, "resources.omp_threads=null")
    settings = parse_settings(text, overrides, kinds()).tasks["segmentation"]
    return SegmentationTask("segmentation", settings), example_context(folder / "run")


def tiny_or(folder: Path) -> Path:
    if not folder.exists():
        write_random_backbone(folder, family="dinov2", width=8, depth=2, heads=2, patch_size=4, seed=0)
    return folder


def test_two_ranks_learn_the_bits_of_one_process(forks, tmp_path):
    for name in ("one", "two"):
        write_pictures(tmp_path / name)
        tiny_or(tmp_path / name / "backbone")
    prepare.run(*ranked_task(tmp_path / "one"))
    codes, outputs = ends_of(forks.start_ranks(2, Path(__file__), tmp_path / "two", env=os.environ), timeout=200)
    assert codes == [0, 0], "\n".join(outputs)
    digest = digest_of(ranked_task(tmp_path / "one")[0])
    assert [(tmp_path / "two" / f"{rank}.txt").read_text() for rank in range(2)] == [digest] * 2
    assert len(keys_by_producer(tmp_path / "two", "projection")) == 1
    assert keys_by_producer(tmp_path / "two", "backbone") == keys_by_producer(tmp_path / "one", "backbone")


def test_the_sample_is_spread_over_all_training_windows(tmp_path):
    task, _ = example_task(tmp_path)
    task.source.prepare_data()
    ids = [sample.id for item in task.source.items("train") for sample in task.source.samples(item)]
    assert [sample.id for sample in chosen_samples(task.source)] == ids
    assert [sample.id for sample in chosen_samples(task.source, 2)] == [ids[0], ids[3]]


def test_items_with_fewer_windows_than_are_counted_are_learnt_from(tmp_path, monkeypatch):
    task, _ = example_task(tmp_path)
    task.source.prepare_data()
    items, count = task.source.items("train"), task.source.count_samples
    assert [count(item) for item in items] == [4, 2]
    monkeypatch.setattr(task.source, "count_samples", lambda item: 10 * count(item))  # as if most held no label
    found = [sample.item.id for sample in chosen_samples(task.source, 5)]
    assert found == [items[0].id, items[1].id]  # positions 0, 12, 24, 36 of the first, and 8 of the second


def test_padding_is_not_learnt_from(tmp_path):
    padded = ("detection.pad_size=[160, 192]", "detection.longest_edge=160", "detection.shortest_edge=96")
    task = fox_task("prepare.project=3", *padded)
    sample = next(iter(task.source.samples(task.source.items("train")[0])))
    assert sample.arrays["image"].shape[:2] == (160, 192)
    tokens = task.features.tokens(task.source.backbone_image(sample), sample.arrays["valid"])
    assert len(tokens) == 24 * 32  # 96 x 128 pixels of patches of 4


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_damaged_projection_stops_the_run_and_is_learnt_again_after_verify(tmp_path):
    task, context = example_task(tmp_path, *PROJECTED)
    prepare.run(task, context)
    digest, records = digest_of(task), keys_by_producer(tmp_path, "backbone")
    key = task.features.projection_key
    weight = task.features.known_projection().weight.numpy().tobytes()
    (shard,) = [path for path in (tmp_path / "store" / "shards").iterdir() if weight in path.read_bytes()]
    shard.write_bytes(shard.read_bytes().replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))
    damaged, context = example_task(tmp_path, *PROJECTED)
    with pytest.raises(DataError, match=key):
        train.run(damaged, context)
    checked, context = example_task(tmp_path, *PROJECTED)
    assert verify.run(checked, context).metrics["bad records"] == 1
    mended, context = example_task(tmp_path, *PROJECTED)
    prepare.run(mended, context)
    assert digest_of(mended) == digest
    assert keys_by_producer(tmp_path, "backbone") == records
    assert verify.run(mended, context).metrics == {"records": 31, "bad records": 0, "findings": 0}
    assert producers_of(tmp_path, {key}) == {"projection": 1}


def test_training_without_a_projection_asks_for_prepare(tmp_path):
    prepare.run(*example_task(tmp_path, "train.features=online"))
    task, context = example_task(tmp_path, "train.features=online", *PROJECTED)
    with pytest.raises(DataError, match="holds no projection of blocks 0, 1 to 5 channels; run prepare"):
        train.run(task, context)
    assert prepare.run(*example_task(tmp_path, "train.features=online", *PROJECTED)).status == "done"
    assert train.run(*example_task(tmp_path, "train.features=online", *PROJECTED)).status == "done"


def test_a_copy_of_the_store_is_enough_to_train_from(tmp_path):
    task, context = foxes_example(tmp_path, *PROJECTED)
    prepare.run(task, context)
    shutil.move(tmp_path / "store", tmp_path / "copy")
    other, context = foxes_example(tmp_path, *PROJECTED, f"train.processed_dir={tmp_path}/copy")
    assert train.run(other, context).status == "done"
    assert digest_of(other) == digest_of(task)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Callable[[str], tuple[Task, Context, Path]]:
    """Prepares and trains the example of a kind, once; gives its task, context and best checkpoint."""

    @cache
    def train_example(kind: str) -> tuple[Task, Context, Path]:
        task, context = EXAMPLES[kind](tmp_path_factory.mktemp(kind), *PROJECTED)
        for phase in ("prepare", "train"):
            load_phase(phase)(task, context)
        return task, context, checkpoint_path(context.folder, BEST)

    return train_example


def elsewhere(kind: str, checkpoint: Path, folder: Path) -> TrainedTask:
    """The task of a checkpoint in a folder without data and store, and where none is made."""
    text = f"{{kind: {kind}, paths: {{processed_dir: {folder}/none}}, model: {{backbone: {tiny_backbone()}}}}}"
    with make_no_stores():
        return TrainedTask.load(checkpoint, parse_settings(text, (), kinds()).tasks[kind])


def picture_of(kind: str, task: Task) -> np.ndarray:
    item = task.source.items("val")[0]
    if kind != "segmentation":
        return decode_picture(item.picture)
    return next(iter(task.source.samples(item))).arrays["image"]


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_a_checkpoint_alone_predicts_the_bits_of_the_task_with_its_store(kind, trained, tmp_path):
    task, _, checkpoint = trained(kind)
    there = TrainedTask(task, build_trained(task, load_checkpoint(checkpoint)))
    here = elsewhere(kind, checkpoint, tmp_path)
    assert not (tmp_path / "none").exists()
    assert digest_of(here.task) == digest_of(task)
    image = picture_of(kind, task)
    expected, found = there.predict(image), here.predict(image)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.arrays.keys() == other.arrays.keys()
        for name, value in other.arrays.items():
            np.testing.assert_array_equal(one.arrays[name], value)
    reader = PreparedReader(task, store := open_store(task.settings, "train"), prepared_items(task, store, "val", "x"))
    batch = reader.read([SampleRef(0)])
    assert [feature_map.shape[1] for feature_map in batch.feature_maps] == [5]
    with torch.no_grad():
        stored = there.model.eval()(batch)
        batch.feature_maps = None
        live = here.model.eval()(batch)
    assert stored.keys() == live.keys()
    assert all(torch.equal(value, live[name]) for name, value in stored.items())


def test_a_checkpoint_keeps_its_projection_where_the_store_has_another(trained, tmp_path):
    task, context, checkpoint = trained("segmentation")
    scores = evaluate.run(task, context).metrics
    one = f"paths.processed_dir={tmp_path}/other"
    other, other_context = foxes_example(tmp_path / "foxes", "prepare.project=5", one)
    prepare.run(other, other_context)
    assert digest_of(other) != digest_of(task)
    again, _ = example_task(context.folder.parent, *PROJECTED, one, f"evaluate.checkpoint={checkpoint}")
    assert evaluate.run(again, Context(context.log, tmp_path / "again" / "run")).metrics == pytest.approx(scores)


def test_settings_that_ask_for_another_projection_than_the_checkpoint_are_told(trained, tmp_path, caplog):
    _, _, checkpoint = trained("segmentation")
    text = f"{{paths: {{processed_dir: {tmp_path}/none}}, model: {{backbone: {tiny_backbone()}}}}}"
    settings = parse_settings(text, ("prepare.project=4",), kinds()).tasks["segmentation"]
    found = TrainedTask.load(checkpoint, settings)
    assert found.task.settings.prepare.project == 5
    assert "prepare.project: 4 has no effect on" in caplog.text


def test_a_training_goes_on_bitwise_with_the_projection(trained, tmp_path):
    task, context, checkpoint = trained("segmentation")
    cut = type(task)(task.name, task.settings)
    cut_context = Context(context.log, tmp_path / "run")
    with pytest.raises(Interrupted):
        train.run(cut, stopping_after(cut_context, 2))
    train.run(cut, cut_context)
    one, other = load_checkpoint(checkpoint), load_checkpoint(checkpoint_path(cut_context.folder, BEST))
    assert equal(one.tensors, other.tensors)
    assert equal(one.kept, other.kept)
    assert sorted(one.kept) == ["projection.bias", "projection.weight"]
    assert one.description["projection"] == digest_of(task)


def test_a_head_from_another_projection_is_told(trained, tmp_path):
    _, _, source = trained("segmentation")
    lines, log = spoken(tmp_path)
    task, _ = example_task(tmp_path, "prepare.project=5", "dataset.scale=0.5", f"train.init_from={source}")
    for phase in ("prepare", "train"):
        load_phase(phase)(task, lines)
    assert "its head learnt on other maps (another prepare.project, or of other data)" in log.read_text()


# --- before work starts ----------------------------------------------------------------------------------------------


def test_a_preview_announces_the_projection_and_learns_nothing(tmp_path):
    with preview_stores():
        task, context = example_task(tmp_path, *PROJECTED)
        with pytest.raises(WouldRun) as found:
            prepare.run(task, replace(context, preview=True))
        assert "learns a projection from 6 windows first" in found.value.work.text
        assert found.value.work.backbone == 15 + 6
        lines = forecast(example_task(tmp_path, *PROJECTED)[0], ["prepare", "train", "inference"], {}, {})
    assert [line.partition(":")[0] for line in lines][:3] == ["prepare", "train", "inference"]
    assert not (tmp_path / "store").exists()


def test_what_cannot_be_projected_is_refused_with_the_reason(tmp_path):
    convnext = write_random_backbone(tmp_path / "convnext", "dinov3_convnext", width=8)
    with pytest.raises(SettingsError, match=r"blocks 0, 3 have strides of 4, 32 pixels, and one map has one"):
        scene_task("prepare.project=4", f"model.backbone={convnext}", "model.layers=[0, 3]").check()
    assert scene_task("prepare.project=4", f"model.backbone={convnext}", "model.layers=[3]").spec().channels == (4,)
    with pytest.raises(SettingsError, match=r"prepare\.project: 99, but blocks 0, 1 have 16 channels together"):
        scene_task("prepare.project=99").check()
    with pytest.raises(DataError, match=r"prepare\.project: 16, but the 384 tokens .* vary in 14 directions only"):
        prepare.run(*example_task(tmp_path, "prepare.project=16"))  # each block's norm takes one
    for text, reason in (
        (
            "kind: distill\nprepare: {project: 4}",
            "prepare.project: a student learns the maps of the teacher",
        ),
        ("prepare: {project: 4}\nmodel: {freeze: 1}\ntrain: {features: online}", "prepare.project: fits the maps of"),
    ):
        with pytest.raises(SettingsError, match=reason):
            parse_settings(text, (), kinds())
    shared: dict[str, Any] = parse_settings(
        "prepare: {project: 4}\ntasks: {a: {kind: distill}, b: {}}", (), kinds()
    ).tasks
    assert [shared[name].prepare.project for name in "ab"] == [None, 4]


if __name__ == "__main__":
    distributed.start_ranks("auto", timeout_s=100)
    its_task, its_context = ranked_task(Path(sys.argv[1]))
    prepare.run(its_task, its_context)
    (Path(sys.argv[1]) / f"{distributed.rank()}.txt").write_text(digest_of(its_task))
    distributed.barrier()
    distributed.stop_ranks()
