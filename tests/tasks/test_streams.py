"""Threads that read ahead end with what reads them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.base import Batch, Context, Item, Predictor, Sample
from tasks.example import example_context
from tasks.phases.prediction import predict_item
from tasks.phases.streams import read_ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def endless(closed: list[str]) -> Iterator[tuple[list[Sample], Batch]]:
    try:
        for _ in itertools.count():
            time.sleep(0.001)
            yield [], Batch([], {"image": torch.zeros(1)})
    finally:
        closed.append(threading.current_thread().name)


class Counter(Predictor):
    """Fails after some batches, if it is told to."""

    def __init__(self, fails_after: int = 10**9):
        self.left = fails_after

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


@pytest.mark.parametrize(
    ("context", "predictor", "error"),
    [(stopping_context(3), Counter(), InterruptedError), (example_context(Path("run")), Counter(3), ValueError)],
    ids=["asked to stop", "fails"],
)
def test_a_prediction_that_ends_early_leaves_no_thread_behind(context, predictor, error):
    closed: list[str] = []
    pieces = predict_item(lambda batch: {}, predictor, Item("a", ()), endless(closed), "cpu", context)
    with pytest.raises(error) as caught:
        list(pieces)
    assert readers() == []  # while the error, and with it the frames that it passed, are still held
    assert closed == ["read-ahead"]
    assert caught.value.args


def test_a_reader_that_stops_early_closes_the_source_in_its_thread():
    closed: list[str] = []
    stream = read_ahead(endless(closed), depth=2)
    next(stream)
    stream.close()
    assert (readers(), closed) == ([], ["read-ahead"])
