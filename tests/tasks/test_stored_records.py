"""What prepare stores of the tiny example: no stale record, and no record twice."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace

import pytest
import torch

from tasks.example import example_task
from tasks.phases import prepare, train, verify
from tasks.segmentation.task import SegmentationTask
from tests.tasks.example_runs import (
    VIEWS,
    in_folder,
    keys_of,
    producers_of,
    rewrite,
    spoken,
)
from utils.errors import DataError, Interrupted
from utils.runtime.files import read_json
from utils.store.feature_store import FeatureStore


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
    with pytest.raises(DataError, match=rf"record {hurt}: the checksum of .* run verify, which sets the record aside"):
        train.run(task, in_folder(context, "unchecked"))
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


def test_verify_says_how_many_items_are_not_prepared(tmp_path):
    task, context = example_task(tmp_path)
    task.source.prepare_data()
    verify.run(task, context)
    lines = read_json(context.folder.parent / "verify.json")["lines"]
    assert lines == [
        "note: train: 2 of 2 items are not prepared; run prepare",
        "note: val: 1 of 1 items are not prepared; run prepare",
    ]
    prepare.run(task, context)
    verify.run(task, context)
    assert read_json(context.folder.parent / "verify.json")["lines"] == []
