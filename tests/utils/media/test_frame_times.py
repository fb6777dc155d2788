"""Where frames are missing, by their times: found at a steady rate, whatever it is, and never where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from utils.media.frame_times import Promise, find_gaps, find_losses


@pytest.mark.parametrize("fps", [7.5, 25, 29.97, 60, 240])
@pytest.mark.parametrize("rounded", [False, True])
def test_leaps_are_found_at_any_rate_also_in_whole_milliseconds(fps, rounded):
    dropped = {12, 13, 14, 40, 97}
    times = np.array([1000 * index / fps for index in range(100) if index not in dropped])
    assert find_gaps(np.round(times) if rounded else times) == {12: 3, 37: 1, 93: 1}
    assert find_gaps(np.round(np.arange(100) * 1000 / fps)) == {}


def test_times_without_a_steady_rate_show_nothing():
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert find_gaps(np.cumsum(rng.integers(10, 200, 60))) == {}


def test_times_that_a_decoder_does_not_know_are_passed_over():
    times = [0.0, 40.0, 80.0, 0.0, 160.0, 200.0, 200.0, 280.0, 400.0, 0.0, 0.0]
    assert find_gaps(times) == {8: 2}


@pytest.mark.parametrize(
    ("times", "promise", "told"),
    [
        (np.arange(20) * 40.0, Promise(40, 25.0, "frames"), ["20 of the 40 frames that its header promises"]),
        (np.arange(20) * 40.0, Promise(40, 25.0, "duration"), ["20 of the 40 frames that its header promises"]),
        (np.arange(20) * 40.0, Promise(21, 25.0, "frames"), []),
        (np.arange(20) * 40.0, Promise(40, 25.0, "duration from zero", start_ms=800.0), []),
        (np.array([0, 90, 100, 300, 500, 900.0]), Promise(28, 25.0, "duration"), []),  # no steady rate, and all there
        (np.array([0, 10, 30, 40, 70, 90.0]), Promise(60, 25.0, "duration"), ["6 of the 60 frames that its header"]),
        (
            np.array([0, 40, 160.0]),
            Promise(9, 25.0, "places"),
            ["by the times of its frames, 2 frames are", "3 of the"],
        ),
        (np.arange(3) * 40.0, Promise(None, None, "duration"), []),
        (np.arange(2, 30) * 40.0, Promise(28, 25.0, "places"), []),  # delayed by a decoder that reorders
        (np.array([]), Promise(4, 25.0, "frames"), []),
    ],
)
def test_what_is_missing_at_the_end_is_told_where_the_header_can_know(times, promise, told):
    found = list(find_losses(list(times), promise))
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True))
