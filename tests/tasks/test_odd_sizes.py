"""Sizes that are no whole number of the backbone's patches are said, not silently rounded."""

from __future__ import annotations

import logging

from tasks.example import scene_task
from tasks.feature_task import tell_once
from tasks.keypoints.example import pose_task


def lines_of(task, caplog) -> list[str]:
    """What two phases say of sizes."""
    tell_once.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="tasks.feature_task"):
        task.source.prepare_data()
        task.setup()
        task.setup()
    return [record.message for record in caplog.records if record.name == "tasks.feature_task"]


def test_windows_beside_the_patch_are_said_once_with_the_sizes_near(caplog):
    task = scene_task("prepare.tile_size=30", "inference.tile_size=37", "inference.enable=true")
    windows = "each window is padded to the next multiple, by reflection"
    assert lines_of(task, caplog) == [
        f"prepare.tile_size: 30 is no multiple of 4, the patch of the backbone (28 and 32 are); {windows}",
        f"inference.tile_size: 37 is no multiple of 4, the patch of the backbone (36 and 40 are); {windows}",
    ]
    assert [line for line in task.check() if "multiple" in line] == task.odd_sides()
    assert lines_of(scene_task("inference.tile_size=37"), caplog) == [], "inference does not run"
    assert lines_of(scene_task(), caplog) == []


def test_the_short_side_of_samples_is_said_with_what_they_become(caplog):
    task = pose_task("keypoints.short_side=90")
    height, width = task.labels.canvas
    assert (height % 4, width % 4) == (0, 0)
    assert lines_of(task, caplog) == [
        "keypoints.short_side: 90 is no multiple of 4, the patch of the backbone (88 and 92 are); "
        f"pictures are scaled to fit {height} x {width} pixels (height x width)"
    ]
    assert height == 92
    assert any("short_side: 90" in line for line in task.check())
    assert lines_of(pose_task(), caplog) == []
