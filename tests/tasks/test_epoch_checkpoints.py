"""Checkpoints of the latest epochs: which are kept, and what a kill leaves."""

from __future__ import annotations

import pytest

from tasks.example import example_task
from tasks.phases import prepare, train, training_files
from tasks.runs import BEST, LAST, checkpoint_path
from tasks.segmentation.task import SegmentationTask
from tests.tasks.example_runs import SMALL, equal, in_folder, weights_of
from utils.runtime.checkpoints import load_checkpoint

ENDS = ("safetensors", "json")


def kept_epochs(folder) -> list[str]:
    return sorted(path.stem for path in (folder / "checkpoints").glob("epoch_*.safetensors"))


def test_the_checkpoints_of_the_latest_epochs_are_kept_beside_best_and_last(tmp_path):
    task, context = example_task(tmp_path, *SMALL, "train.epochs=4", "train.save_total_limit=2")
    prepare.run(task, context)
    train.run(task, context)
    assert kept_epochs(context.folder) == ["epoch_003", "epoch_004"]
    names = {path.name for path in (context.folder / "checkpoints").iterdir()}
    assert names == {f"{name}.{end}" for name in ("best", "last", "epoch_003", "epoch_004") for end in ENDS} | {
        "state.safetensors"
    }
    assert equal(weights_of(context, "epoch_004"), weights_of(context, LAST))
    assert not equal(weights_of(context, "epoch_003"), weights_of(context, LAST))
    checkpoint = load_checkpoint(checkpoint_path(context.folder, "epoch_003"))
    assert checkpoint.description["epoch"] == 3
    again, _ = example_task(tmp_path, *SMALL, "train.epochs=4")
    assert train.run(again, context).status == "up to date", "what is kept does not change the weights"


@pytest.mark.parametrize("moment", ["written", "half removed", "removed"])
def test_a_kill_around_the_removal_of_an_old_checkpoint_leaves_nothing_strange(moment, tmp_path, monkeypatch):
    task, context = example_task(tmp_path, *SMALL, "train.epochs=4", "train.save_total_limit=2")
    prepare.run(task, context)
    whole, cut = in_folder(context, "whole"), in_folder(context, "cut")
    train.run(task, whole)
    real = training_files.keep_latest_epochs

    def remove(folder, epoch, limit):
        if epoch != 3:
            return real(folder, epoch, limit)
        if moment == "removed":
            real(folder, epoch, limit)
        if moment == "half removed":
            (folder / "checkpoints" / "epoch_001.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_files, "keep_latest_epochs", remove)
        with pytest.raises(KeyboardInterrupt):
            train.run(SegmentationTask(task.name, task.settings), cut)
    train.run(SegmentationTask(task.name, task.settings), cut)
    files = [sorted(path.name for path in (place.folder / "checkpoints").iterdir()) for place in (whole, cut)]
    assert files[0] == files[1]
    for name in ("epoch_003", "epoch_004", BEST, LAST):
        assert equal(weights_of(whole, name), weights_of(cut, name)), name


def test_a_training_begun_anew_does_not_keep_epochs_of_the_one_before(tmp_path, monkeypatch):
    task, context = example_task(tmp_path, *SMALL, "train={epochs: 4, save_total_limit: 2, resume: never}")
    prepare.run(task, context)
    real = train.Training.train_one_epoch
    for end, kept in ((3, ["epoch_002", "epoch_003"]), (1, ["epoch_001"])):

        def train_one_epoch(self, end=end):
            if self.state.epoch == end:
                raise KeyboardInterrupt
            real(self)

        with monkeypatch.context() as patch:
            patch.setattr(train.Training, "train_one_epoch", train_one_epoch)
            with pytest.raises(KeyboardInterrupt):
                train.run(SegmentationTask(task.name, task.settings), context)
        assert kept_epochs(context.folder) == kept
