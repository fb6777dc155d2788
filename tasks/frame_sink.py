"""Sinks that collect what is found in a picture, the frames of a video or the rows of a raster before they write it."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from typing_extensions import override

from tasks.item import Item, Piece
from tasks.output import Sink
from utils.runtime.files import digest_json, named_in_errors, sync, write_bytes


class FrameSink(Sink):
    """Collects pieces as lines of a file beside the result, so that an interrupted input goes on after the last one.

    Parameters
    ----------
    item : Item
        The picture, video or raster.
    folder : Path
        Folder of the results.
    fingerprint : dict
        Of the model and settings; lines with another one are dropped.

    Examples
    --------
    >>> import tempfile
    >>> class NumberSink(FrameSink):
    ...     to_json = staticmethod(lambda piece: piece.arrays)
    ...     def close(self):
    ...         return list(self.lines())
    >>> sink = NumberSink(Item("a", ()), Path(tempfile.mkdtemp()), {})
    >>> sink.append(Piece(sink.item, {"frame": 0}))
    >>> sink.flush()
    >>> sink.resume_point(), sink.close()
    (1, [{'frame': 0}])
    """

    def __init__(self, item: Item, folder: Path, fingerprint: dict[str, Any]):
        self.item, self.folder = item, folder
        self.header = digest_json(fingerprint)
        self.partial = folder / f".{item.id}.part.jsonl"
        self.file: TextIO | None = None

    @abstractmethod
    def to_json(self, piece: Piece) -> dict[str, Any]:
        """Give a piece as plain values."""

    @override
    def append(self, piece: Piece) -> None:
        if self.file is None:
            good = max((stop for stop, _ in self._checked()), default=0)
            if good:
                os.truncate(self.partial, good)  # a damaged end, and what follows it, is found again
            else:
                write_bytes(self.partial, checked_line({"made_from": self.header}).encode())
            self.file = self.partial.open("a", encoding="utf-8")
        with named_in_errors(self.partial):
            self.file.write(checked_line(self.to_json(piece)))

    def _checked(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Intact lines with the places of their ends, the first of which holds the fingerprint; none if it is another.

        Examples
        --------
        >>> import tempfile
        >>> class NumberSink(FrameSink):
        ...     to_json = close = lambda self, piece: piece.arrays
        >>> folder = Path(tempfile.mkdtemp())
        >>> sink = NumberSink(Item("a", ()), folder, {})
        >>> sink.append(Piece(sink.item, {"frame": 0}))
        >>> sink.flush()
        >>> len(list(sink._checked())), len(list(NumberSink(sink.item, folder, {"settings": 1})._checked()))
        (2, 0)
        >>> os.truncate(sink.partial, sink.partial.stat().st_size - 1)
        >>> len(list(sink._checked()))
        1
        """
        if not self.partial.exists():
            return
        stop = 0
        with open(self.partial, "rb") as stream:
            for number, text in enumerate(stream):
                try:
                    line = json.loads(text)["line"]
                    intact = checked_line(line).encode() == text
                except (ValueError, KeyError, TypeError):  # the last line is incomplete after a power cut
                    return
                if not intact or (number == 0 and line != {"made_from": self.header}):
                    return
                stop += len(text)
                yield stop, line

    def lines(self) -> Iterator[dict[str, Any]]:
        """What was collected, in order; read one by one, as a raster may have millions of objects.

        Examples
        --------
        >>> import tempfile
        >>> class NumberSink(FrameSink):
        ...     to_json = close = lambda self, piece: piece.arrays
        >>> list(NumberSink(Item("a", ()), Path(tempfile.mkdtemp()), {}).lines())
        []
        """
        return (line for number, (_, line) in enumerate(self._checked()) if number)

    @override
    def resume_point(self) -> int | None:
        return sum(1 for _ in self.lines()) or None

    @override
    def flush(self) -> None:
        if self.file is not None:
            with named_in_errors(self.partial):
                self.file.close()
            self.file = None
            sync(self.partial)


def checked_line(value: Any) -> str:
    r"""One line of an unfinished prediction, with a checksum by which a changed bit is found.

    Examples
    --------
    >>> checked_line({"frame": 3})
    '{"checksum": "cc96eeee937f4b939bea688b1ea80522", "line": {"frame": 3}}\n'
    """
    return json.dumps({"checksum": digest_json(value), "line": value}) + "\n"
