"""Threads that read ahead end with what reads them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.context import Context
from tasks.example import example_context
from tasks.item import Item
from tasks.phases.prediction import predict
from tasks.phases.samples import Slot
from tasks.predictor import Predictor
from tasks.sample import Batch, Sample
from utils.geometry.augment import IDENTITY
from utils.runtime.streams import read_ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def endless(closed: list[str]) -> Iterator[int]:
    try:
        for number in itertools.count():
            time.sleep(0.001)
            yield number
    finally:
        closed.append(threading.current_thread().name)


class Counter(Predictor):
    """Fails after some batches, if it is told to."""

    def __init__(self, fails_after: int = 10**9, stateful: bool = False):
        self.left, self.stateful = fails_after, stateful

    def start(self, item, resume=None):
        pass

    def push(self, samples, outputs):
        self.left -= 1
        if self.left < 0:
            raise ValueError("no more")
        yield from ()

    def finish(self):
        yield from ()


def stopping_context(after: int) -> Context:
    context, calls = example_context(Path("run")), itertools.count()

    def check_stop() -> None:
        if next(calls) >= after:
            raise InterruptedError("stop")

    context.check_stop = check_stop
    return context


class Endless:
    """A task and a source in one: an item without an end, whose reader notes where it was closed."""

    views = (IDENTITY,)

    def __init__(self, predictor: Predictor):
        self.given, self.closed = predictor, []

    def predictor(self, views, phase="train"):
        return self.given

    def read(self, job):
        yield from (Slot(job, Sample("a", job.item, {})) for _ in endless(self.closed))

    def shape(self, slot):
        return ()

    def load(self, slots):
        return Batch([], {"image": torch.zeros(1)})


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize(
    ("after", "fails_after", "error"),
    [(3, 10**9, InterruptedError), (10**9, 3, ValueError)],
    ids=["asked to stop", "fails"],
)
def test_a_prediction_that_ends_early_leaves_no_thread_behind(after, fails_after, error, stateful):
    task = Endless(Counter(fails_after, stateful))
    pieces = predict(task, lambda batch: {}, task, [[Item("a", ())]], "cpu", 2, stopping_context(after))
    with pytest.raises(error) as caught:
        list(pieces)
    assert readers() == []  # while the error, and with it the frames that it passed, are still held
    assert task.closed == ["read-ahead"]
    assert caught.value.args


def test_a_reader_that_stops_early_closes_the_source_in_its_thread():
    closed: list[str] = []
    stream = read_ahead(endless(closed), depth=2)
    next(stream)
    stream.close()
    assert (readers(), closed) == ([], ["read-ahead"])
