"""Real gloo ranks, one of which is stopped or killed; this file, run as a script, is the work of a rank.

The limits are shortened, so that a rank which is busy for longer than all of them shows that being busy is harmless.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.errors import DataError, Interrupted
from utils.runtime import distributed, lost_ranks
from utils.runtime.lost_ranks import LIMITS_S, Process, RankWatch, this_process

ROOT = Path(__file__).resolve().parents[3]
SHORT_S = {"gone": 0.5, "stopped": 1.0, "silent": 3.0, "unheard": 60.0, "absent": 60.0}
BUSY_S = 4
SOON_S = 30  # for a rank to notice, on a machine that is busy


def work_of_a_rank(machine: str) -> None:
    """Be busy in a call that lets no other thread of this process run, then wait for the other rank in vain."""
    lost_ranks.CHECK_S = 0.1
    LIMITS_S.update(SHORT_S)
    if machine:
        found = this_process()
        lost_ranks.this_process = lambda: Process(found.host, f"{machine} {os.environ['RANK']}", found.pid, found.born)
    distributed.start_ranks(True, timeout_s=100)
    lost_ranks.when_lost(lambda error: print(f"noticed: {error}", flush=True))
    distributed.barrier()
    if distributed.is_main() and machine:
        time.sleep(3)  # so that the other machine was heard from before
    try:
        distributed.run_on_main(lambda: ctypes.PyDLL(None).sleep(BUSY_S))  # a PyDLL keeps Python's lock
        print("nobody was lost", flush=True)
        if not distributed.is_main():
            time.sleep(60)  # here it is stopped or killed
        distributed.barrier()
    except RuntimeError as error:
        print(f"explained: {lost_ranks.explain(error)}", flush=True)
        sys.exit(4)


CASES = {
    "stopped": ("", signal.SIGSTOP, "noticed", "it was stopped (SIGSTOP)"),
    "stopped on another machine": ("far", signal.SIGSTOP, "noticed", "it was stopped (SIGSTOP)"),
    "killed": ("", signal.SIGKILL, "explained", "its process was killed"),
}


@pytest.fixture(scope="module")
def pairs():
    """Two ranks for each case, all at work at the same time."""
    started = {case: start_pair(machine) for case, (machine, *_) in CASES.items()}
    yield started
    for process in (process for pair in started.values() for process in pair):
        process.kill()
        process.communicate()


def start_pair(machine: str) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = {"WORLD_SIZE": "2", "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, __file__, machine],
            env=os.environ | launcher | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]


@pytest.mark.parametrize("case", CASES)
def test_a_lost_rank_is_named_in_one_line_and_a_busy_one_is_not_lost(case, pairs):
    (first, second), (_, number, way, what) = pairs[case], CASES[case]
    for process in (first, second):
        assert process.stdout.readline() == "nobody was lost\n", process.stdout.read()
    second.send_signal(number)
    said, _ = first.communicate(timeout=SOON_S)
    place = f"process {second.pid} on {socket.gethostname()}"
    assert said.startswith(f"{way}: rank 1 ({place}) is lost: {what}"), said
    assert said.endswith("run the same command again: it continues from what is saved\n")
    assert said.count("\n") == 1, "one line"
    assert first.returncode == 4


def test_the_limits_are_below_a_minute_for_what_shows_that_a_rank_is_lost():
    assert max(LIMITS_S[state] for state in ("gone", "stopped", "silent")) + 2 * lost_ranks.CHECK_S < 60


def watch_of(states: dict[int, str], rank: int = 1) -> RankWatch:
    watch = RankWatch(rank, len(states) + 1, "127.0.0.1", 1, "test")
    watch.look = lambda: None
    watch.states, watch.seconds = states, dict.fromkeys(states, 9.0)
    return watch


def test_only_the_lowest_rank_that_is_left_speaks_and_names_the_one_that_did_not_leave_by_itself(monkeypatch):
    monkeypatch.setattr(lost_ranks, "_watch", watch_of({0: "left", 2: "gone", 3: "alive"}))
    assert str(lost_ranks.explain(RuntimeError("Connection closed by peer"))).startswith("rank 2 is lost: its process")
    monkeypatch.setattr(lost_ranks, "_watch", watch_of({0: "alive", 2: "gone", 3: "alive"}))
    assert str(lost_ranks.explain(RuntimeError("Connection closed by peer"))) == ""


def test_a_connection_that_broke_while_a_file_was_read_is_no_damaged_file(monkeypatch):
    """Readers turn what libraries raise into errors that name the file; one may have waited for another rank."""
    broken = DataError("best.safetensors: its description cannot be used")
    broken.__cause__ = RuntimeError("Read error: connection reset by peer")
    monkeypatch.setattr(lost_ranks, "_watch", watch_of({0: "gone"}))
    assert str(lost_ranks.explain(broken)).startswith("rank 0 is lost: its process")
    monkeypatch.setattr(lost_ranks, "_watch", watch_of({0: "left"}))
    assert lost_ranks.explain(broken, patience_s=0) is broken, "the other rank has read the same damaged file"


def test_errors_that_say_what_is_wrong_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(lost_ranks, "_watch", watch_of({0: "gone"}))
    for error in (DataError("scene.tif: truncated"), ZeroDivisionError("x")):
        assert lost_ranks.explain(error) is error
    monkeypatch.setattr(lost_ranks, "_watch", watch_of({0: "left"}))
    stopped = Interrupted(signal.SIGTERM)
    assert lost_ranks.explain(stopped) is stopped, "all ranks were asked to stop, and the other one has"


def test_the_time_in_which_this_rank_was_stopped_itself_does_not_count(monkeypatch):
    watch = RankWatch(0, 2, "127.0.0.1", 1, "test")
    clock = [0.0]
    monkeypatch.setattr(lost_ranks.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lost_ranks, "state_of", lambda process: "stopped")
    watch._read_store = lambda: ({}, set())
    watch.processes[1] = watch.processes[0]
    watch.looked_at = 0.0
    for clock[0] in (2.0, 4.0, 3604.0):
        watch.look()
    assert watch.seconds[1] == 2.0 + 2 * lost_ranks.CHECK_S


if __name__ == "__main__":
    work_of_a_rank(sys.argv[1])
