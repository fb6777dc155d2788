"""What a phase needs beside its task, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.logging import VerbosityLogger


@dataclass
class Context:
    """What a phase needs beside its task.

    Parameters
    ----------
    log : VerbosityLogger
        Where to speak.
    folder : Path
        The run's folder.
    check_stop : callable
        Raises `Interrupted` when a signal asked the run to stop.
    stop_requested : callable
        Whether a signal asked the run to stop, for loops that save first.

    Examples
    --------
    >>> from utils.logging import VerbosityLogger
    >>> Context(VerbosityLogger("error"), Path("runs/a/1")).folder.name
    '1'
    """

    log: VerbosityLogger
    folder: Path
    check_stop: Any = field(default=lambda: None)
    stop_requested: Any = field(default=lambda: None)


@dataclass(frozen=True)
class PhaseResult:
    """How a phase ended.

    Parameters
    ----------
    status : str
        `done` or `up to date`.
    metrics : dict
        Main figures, for the closing table.
    doubt : str
        Why they cannot be believed; empty where they can.

    Examples
    --------
    >>> PhaseResult("done", {"mIoU": 0.5}).status
    'done'
    """

    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    doubt: str = ""
