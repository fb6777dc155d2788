"""Files that are complete or absent."""

from __future__ import annotations

import os

import pytest

from utils.runtime.files import atomic_path


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
