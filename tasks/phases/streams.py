"""Reading ahead of the work, so that reading, computing and writing overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Element = TypeVar("Element")
Source = TypeVar("Source", bound=Iterable)


class _End:
    """What the reading thread leaves behind: the end, or the error that ended it.

    Examples
    --------
    >>> _End(None).error is None
    True
    """

    def __init__(self, error: BaseException | None):
        self.error = error


@contextmanager
def closed_in_the_end(source: Source) -> Iterator[Source]:
    """Close a generator however its reader leaves, and with it the threads that read ahead for it.

    A generator that waits to be collected may outlive the interpreter, whose end then kills its threads in the middle
    of foreign code: the process aborts after it said that all is saved.

    Examples
    --------
    >>> numbers = (number for number in range(5))
    >>> with closed_in_the_end(numbers) as source:
    ...     print(next(source))
    0
    >>> list(numbers), list(closed_in_the_end([1]).__enter__())
    ([], [1])
    """
    try:
        yield source
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def read_ahead(source: Iterable[Element], depth: int) -> Generator[Element, None, None]:
    """Run an iterator in a thread, at most `depth` elements ahead of its reader.

    Parameters
    ----------
    source : iterable
        Consumed in one background thread; its errors are raised here.
    depth : int
        Elements that may wait; bounds the memory.

    Yields
    ------
    element
        In the order of `source`.

    Examples
    --------
    >>> list(read_ahead(range(5), depth=2))
    [0, 1, 2, 3, 4]
    >>> list(read_ahead((1 // x for x in [1, 0]), depth=2))
    Traceback (most recent call last):
        ...
    ZeroDivisionError: integer division or modulo by zero
    """
    waiting: queue.Queue = queue.Queue(max(depth, 1))
    stopped = threading.Event()

    def put(element: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(element, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        end = _End(None)
        try:
            with closed_in_the_end(source):
                for element in source:
                    if not put(element):
                        return
        except BaseException as caught:  # handed to the reader, whatever it is
            end = _End(caught)
        put(end)
        del end  # with it the error would hold this frame, and this frame the error

    thread = threading.Thread(target=work, daemon=True, name="read-ahead")
    thread.start()
    try:
        while True:
            element = waiting.get()
            if isinstance(element, _End):
                if element.error is not None:
                    raise element.error
                return
            yield element
    finally:
        element = None  # as above
        stopped.set()
        thread.join()
