"""Errors that a person can act on, and the exit code that each one stands for."""

from __future__ import annotations

import signal


class DinolithError(Exception):
    """Base of all errors that `main.py` reports as one line, without a traceback.

    Examples
    --------
    >>> DinolithError("x").exit_code
    4
    """

    exit_code = 4
    task = ""  # the task that it is about, where there are several


class SettingsError(DinolithError, ValueError):
    """The settings cannot be used as they stand.

    Examples
    --------
    >>> SettingsError("train.lr: unknown key").exit_code
    2
    """

    exit_code = 2


class DataError(DinolithError, ValueError):
    """A picture, a label, a store, a checkpoint or weights cannot be used.

    Examples
    --------
    >>> DataError("scene.tif: truncated").exit_code
    3
    """

    exit_code = 3


class LockedError(DinolithError):
    """Another run is at work on the same output.

    Examples
    --------
    >>> LockedError("runs/coral: in use").exit_code
    75
    """

    exit_code = 75


class Interrupted(DinolithError):
    """A signal asked the run to stop; its state has been saved.

    Parameters
    ----------
    signum : int
        The signal, SIGINT or SIGTERM.

    Examples
    --------
    >>> Interrupted(signal.SIGTERM).exit_code, str(Interrupted(signal.SIGINT))
    (143, 'interrupted by SIGINT; the next run continues from here')
    """

    def __init__(self, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name}; the next run continues from here")
        self.exit_code = 128 + signum
