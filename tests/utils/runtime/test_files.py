"""Files that are complete or absent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import DataError
from utils.runtime.files import atomic_path, read_json, sweep_temporaries, write_json

WRITES = """
import sys, time
from utils.runtime.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("begun", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def mask():
    """A mask that lets the owner write, the group read and nobody else look."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_written_files_obey_the_mask_of_the_process_which_is_left_alone(tmp_path, mask, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda bits: pytest.fail(f"other threads would create files under mask {bits:o}"))
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    monkeypatch.undo()
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_no_flipped_bit_of_a_json_file_with_a_checksum_is_used(tmp_path):
    """All bits: the file is refused, or what is read is the same."""
    path, value = tmp_path / "a.json", {"fingerprint": "00ff", "metrics": {"mIoU": 0.5, "worst": None}}
    write_json(path, value, checksum=True)
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = read_json(path, {}, checksum=True)
        except DataError:
            continue
        assert {key: found[key] for key in value} == value, f"bit {bit} changed what is read"
    write_json(path, value)  # of an earlier version
    assert read_json(path, {}, checksum=True) == value


def test_a_sweep_removes_what_a_killed_process_left_and_nothing_of_a_live_one(tmp_path):
    target = tmp_path / "deep" / "a.json"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    command = [sys.executable, "-c", WRITES, str(target)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        [held] = tmp_path.rglob("*.partial")
        assert sweep_temporaries(tmp_path) == 0
        assert (held / "a.json").read_text() == "half"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert held.exists()
    assert sweep_temporaries(tmp_path) == 1
    assert list(target.parent.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "a.json").write_text("before")
    with pytest.raises(TypeError, match="not JSON serializable"), atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text(json.dumps(object()))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"
