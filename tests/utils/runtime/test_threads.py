"""Results in the order of the inputs, whatever the threads do."""

import itertools
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from utils.runtime.threads import map_in_threads


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_come_in_order_whatever_takes_longest(threads):
    seconds = np.random.default_rng(0).uniform(0, 0.01, 40)

    def work(index):
        time.sleep(seconds[index])
        return index

    assert list(map_in_threads(work, range(40), threads)) == list(range(40))


def test_as_many_calls_run_at_the_same_time_as_there_are_threads():
    meeting = threading.Barrier(3, timeout=20)
    assert len(list(map_in_threads(lambda _: meeting.wait(), range(6), threads=3))) == 6


def test_the_look_ahead_is_bounded():
    begun = []
    results = map_in_threads(begun.append, itertools.count(), threads=3)
    with closing(results):
        for read in range(1, 5):
            next(results)
            assert len(begun) <= read + 5, "six are under way when the first result is read"


def test_who_stops_reading_stops_the_threads():
    begun = []

    def work(index):
        begun.append(index)
        time.sleep(0.01)

    with closing(map_in_threads(work, range(1000), threads=2)) as results:
        next(results)
    assert len(begun) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("map")]


def test_an_error_comes_in_the_place_of_its_result():
    results = map_in_threads(lambda value: 6 // value, [3, 2, 0, 1], threads=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
