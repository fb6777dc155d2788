"""Headers that ask for a mirrored picture are told, where frames would come turned without a word."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from utils.media.videos import VideoReader, VideoWriter, video_faults


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a video whose first column is bright, and put a matrix into its track header."""
    frame = np.full((64, 96, 3), 20, np.uint8)
    frame[:, :48] = 220
    with VideoWriter(path, size=(64, 96), fps=10) as video:
        for _ in range(3):
            video.write(frame)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    struct.pack_into(">5i", content, place, a << 16, b << 16, 0, c << 16, d << 16)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_mirror_is_told_by_the_first_pass_and_by_verify(matrix, suffix, tmp_path, caplog):
    path = with_matrix(tmp_path / f"a{suffix}", *matrix)
    [fault] = video_faults(path)
    assert fault.startswith(f"its header asks for mirrored pictures (matrix {' '.join(map(str, matrix))})")
    reader = VideoReader(path)
    assert len(list(reader.frames())) == 3
    assert reader.faults == [fault]
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {fault}"]


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_a_turn_is_followed_and_no_fault(matrix, tmp_path):
    path = with_matrix(tmp_path / "a.mp4", *matrix)
    assert video_faults(path) == []
    frame = next(VideoReader(path).frames())
    bright = np.argwhere(frame.mean(axis=2) > 120).mean(axis=0) / frame.shape[:2]
    a, b, _, _ = matrix  # where the left side, (-1, 0) from the middle, is shown
    np.testing.assert_allclose(bright, [0.5 - 0.25 * b, 0.5 - 0.25 * a], atol=0.03)
