"""What a phase needs beside its task, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.item import Item
    from tasks.task import Task
    from utils.logging import VerbosityLogger


@dataclass(frozen=True)
class Workload:
    """What a phase has to do, in units whose time can be measured before it starts.

    Parameters
    ----------
    text : str
        For people.
    backbone : float
        Pictures that pass through the frozen backbone.
    head : float
        Pictures that pass through the head, forward; a step of training counts for three, its backward pass for two.
    read : float
        Bytes that are read from the store.
    saved : int
        Epochs, each of which ends with checkpoints, tables and their safe way to the disk.

    Examples
    --------
    >>> Workload("2 items", backbone=8).head
    0.0
    """

    text: str = ""
    backbone: float = 0.0
    head: float = 0.0
    read: float = 0.0
    saved: int = 0


class WouldRun(Exception):
    """Ends a phase that is only looked at, when it has found something to do.

    Parameters
    ----------
    work : Workload
        What it has to do.
    task : Task, optional
        With which it would do it, such as one made from a checkpoint.
    item : Item, optional
        The first that passes the model.

    Examples
    --------
    >>> WouldRun(Workload("2 items")).work.text
    '2 items'
    """

    def __init__(self, work: Workload, task: Task | None = None, item: Item | None = None):
        super().__init__(work.text)
        self.work, self.task, self.item = work, task, item


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
    preview : bool
        Find out what there is to do, and neither do it nor write anything.

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
    preview: bool = False

    def begin(self, work: Workload, task: Task | None = None, item: Item | None = None) -> None:
        """Called by each phase when it has found something to do, before it writes anything; a preview ends here.

        Raises
        ------
        WouldRun
            In a preview.

        Examples
        --------
        >>> from utils.logging import VerbosityLogger
        >>> Context(VerbosityLogger("error"), Path("runs/a/1")).begin(Workload("2 items"))
        >>> Context(VerbosityLogger("error"), Path("runs/a/1"), preview=True).begin(Workload("2 items"))
        Traceback (most recent call last):
            ...
        tasks.context.WouldRun: 2 items
        """
        if self.preview:
            raise WouldRun(work, task, item)


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
    faults : tuple of str
        What is wrong with results that were made, a line each.
    failures : tuple of str
        What could not be done while the rest was, a line each; the command ends with code 3.

    Examples
    --------
    >>> PhaseResult("done", {"mIoU": 0.5}).status
    'done'
    """

    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    doubt: str = ""
    faults: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
