"""Reading ahead of the work, so that reading, computing and writing overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

Element = TypeVar("Element")
Stream = Generator[Element, None, None]  # may be closed, and then closes what it reads from


class _End:
    """What the reading thread leaves behind: the end, or the error that ended it.

    Examples
    --------
    >>> _End(None).error is None
    True
    """

    def __init__(self, error: BaseException | None):
        self.error = error


def read_ahead(source: Stream[Element], depth: int) -> Stream[Element]:
    """Run a generator in a thread, at most `depth` elements ahead of its reader.

    Whoever reads must close what this gives (`contextlib.closing`): a generator that waits to be collected may outlive
    the interpreter, whose end then kills its threads in the middle of foreign code.

    Parameters
    ----------
    source : generator
        Consumed and closed in one background thread; its errors are raised here.
    depth : int
        Elements that may wait; bounds the memory.

    Yields
    ------
    element
        In the order of `source`.

    Examples
    --------
    >>> list(read_ahead((x for x in range(5)), depth=2))
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
            with closing(source):
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
