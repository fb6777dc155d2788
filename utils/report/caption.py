"""A line that every result which is written inside carries: pictures, plots, maps and tables of predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_caption: ContextVar[str] = ContextVar("caption", default="")


@contextmanager
def captioned(text: str) -> Iterator[None]:
    """Write a line into every result that is saved inside: above pictures and plots; an empty text adds none.

    Examples
    --------
    >>> with captioned("few pixels"):
    ...     current_caption()
    'few pixels'
    >>> current_caption()
    ''
    """
    token = _caption.set(text)
    try:
        yield
    finally:
        _caption.reset(token)


def current_caption() -> str:
    """The line that results carry at this place; empty for none.

    Examples
    --------
    >>> current_caption()
    ''
    """
    return _caption.get()
