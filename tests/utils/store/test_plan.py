"""The plan of a store: what it measures of the disk, and when."""

from __future__ import annotations

import os

import pytest

from tasks.example import example_task
from tasks.forecast import forecast
from tasks.phases import prepare
from tasks.stores import preview_stores
from tests.tasks.example_runs import spoken
from utils.store import plan
from utils.store.plan import Plan, measure_writing


def test_a_disk_is_written_through_for_the_time_that_was_asked_for(tmp_path, monkeypatch):
    clock = iter(range(100))  # a second for each block
    monkeypatch.setattr(plan.time, "perf_counter", lambda: float(next(clock)))
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size) or real(file))
    assert measure_writing(tmp_path, seconds=3) == 2 * plan.BLOCK_BYTES / 3
    assert synced == [plan.BLOCK_BYTES, 2 * plan.BLOCK_BYTES]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_not_filled(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)

    class Full:
        f_frsize, f_bavail = real.f_frsize, plan.BLOCK_BYTES * plan.FREE_SHARE // real.f_frsize - 1

    monkeypatch.setattr(os, "statvfs", lambda folder: Full)
    assert measure_writing(tmp_path) is None


def test_a_plan_says_the_time_of_the_disk_only_where_it_was_measured():
    assert str(Plan(10, 6 * 10**10, 10**12, "s", 1e8)).endswith(
        "; the disk takes 100.0 MB a second, so 10 min 0 s at least"
    )
    assert "at least" not in str(Plan(10, 6 * 10**10, 10**12, "s"))


@pytest.mark.parametrize("limit", [0, 10**12])
def test_prepare_measures_the_disk_before_a_large_plan_and_a_check_never_does(limit, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(prepare, "LARGE_BYTES", limit)
    monkeypatch.setattr(prepare, "measure_writing", lambda folder: measured.append(folder) or 5e7)
    task, _ = example_task(tmp_path)
    with preview_stores():
        (line,) = forecast(task, ["prepare"], {}, {})
    assert measured == []
    assert ("at a speed that is not measured" in line) == (limit == 0)
    context, log = spoken(tmp_path)
    assert prepare.run(task, context).status == "done"
    assert len(measured) == (limit == 0)
    assert ("the disk takes 50.0 MB a second, so " in log.read_text()) == (limit == 0)
