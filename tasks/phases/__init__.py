"""The phases, each written once for every task."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.context import Context, PhaseResult
    from tasks.task import Task

PHASES = ("prepare", "verify", "train", "evaluate", "inference", "export")


def load_phase(name: str) -> Callable[[Task, Context], PhaseResult]:
    """Import a phase when it is needed.

    Examples
    --------
    >>> load_phase("verify").__module__
    'tasks.phases.verify'
    """
    return import_module(f"tasks.phases.{name}").run
