"""Stopping a run so that the next one can go on: signals set a flag, and the loop stops where its state is whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from utils.errors import Interrupted

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAUNCHER_GRACE_S = 5.0


class StopSignal:
    """Note SIGINT and SIGTERM instead of dying from them; a second signal stops at once.

    Outside the main thread, where Python allows no handlers, it notes nothing and changes nothing.

    Parameters
    ----------
    quiet : bool
        Print nothing when a signal comes: for all ranks but the first.

    Attributes
    ----------
    grace_s : float
        Signals within this many seconds of the first are the same request: 0 s, or 5 s under torchrun, which answers a
        Ctrl-C (that every rank has already got from the terminal) by sending the signal once more.

    Examples
    --------
    >>> with StopSignal(quiet=True) as stop:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     stop.check()
    Traceback (most recent call last):
        ...
    utils.errors.Interrupted: interrupted by SIGTERM; the next run continues from here
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.grace_s = LAUNCHER_GRACE_S if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        self.signum: int | None = None
        self._owner = os.getpid()
        self._first_time = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._previous = {signum: signal.signal(signum, self._note) for signum in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            # None stands for a handler that was not installed by Python and cannot be put back
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def check(self) -> None:
        """Stop here, when a signal has come.

        Raises
        ------
        Interrupted
            After SIGINT or SIGTERM; its exit code is 130 or 143.

        Examples
        --------
        >>> stop = StopSignal()
        >>> stop.check()
        >>> stop.signum = signal.SIGINT
        >>> stop.check()
        Traceback (most recent call last):
            ...
        utils.errors.Interrupted: interrupted by SIGINT; the next run continues from here
        """
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: keep the first in mind, give way to the second.

        Raises
        ------
        KeyboardInterrupt
            At a second signal, `grace_s` seconds after the first.

        Examples
        --------
        >>> stop = StopSignal(quiet=True)
        >>> stop.grace_s = 60.0
        >>> stop._note(signal.SIGINT, None)
        >>> stop._note(signal.SIGTERM, None)  # within the grace: the same request
        >>> stop.signum == signal.SIGINT
        True
        """
        if os.getpid() != self._owner:
            if signum == signal.SIGTERM:  # a forked worker dies of it; SIGINT is its parent's to decide
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
        elif self.signum is None:
            self.signum, self._first_time = signum, time.monotonic()
            self._announce(signum)
        elif time.monotonic() - self._first_time >= self.grace_s:
            raise KeyboardInterrupt

    def _announce(self, signum: int) -> None:
        """Say on stderr what will happen; a plain write, as a buffered one may not be entered twice by a handler.

        Examples
        --------
        >>> StopSignal(quiet=True)._announce(signal.SIGINT) is None
        True
        """
        name = signal.Signals(signum).name
        text = f"\n[WARNING] {name}: saving the state, then stopping; a second signal stops at once\n"
        if not self.quiet:
            with suppress(OSError):  # stderr may be closed; the state is saved all the same
                os.write(2, text.encode())
