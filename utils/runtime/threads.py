"""A function applied in several threads at once, with its results in the order of the inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Input = TypeVar("Input")
Result = TypeVar("Result")

AHEAD = 2  # inputs per thread that are under way or finished before their results are read; bounds the memory


def map_in_threads(function: Callable[[Input], Result], inputs: Iterable[Input], threads: int) -> Generator[Result]:
    """Apply a function to inputs in parallel; the results do not depend on the number of threads.

    Parameters
    ----------
    function : callable
        Must be safe to call from several threads.
    inputs : iterable
        Read in the thread that reads the results.
    threads : int
        Calls that run at the same time; 0 calls the function in the thread that reads the results.

    Yields
    ------
    Result
        In the order of `inputs`. An error of `function` is raised in the place of its result.

    Examples
    --------
    >>> list(map_in_threads(lambda value: value * value, range(5), threads=2))
    [0, 1, 4, 9, 16]
    >>> list(map_in_threads(lambda value: 1 // value, [1, 0], threads=2))
    Traceback (most recent call last):
        ...
    ZeroDivisionError: integer division or modulo by zero
    """
    if threads < 1:
        yield from map(function, inputs)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="map") as pool:
        try:
            for value in inputs:
                waiting.append(pool.submit(function, value))
                if len(waiting) >= threads * AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the reader has left early: what has not begun is not needed
                future.cancel()
