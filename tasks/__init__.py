"""The registry of tasks: one line per kind."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from utils.errors import SettingsError

if TYPE_CHECKING:
    from tasks.task import Task

TASKS = {
    "distill": "tasks.distill:DistillTask",
    "keypoints": "tasks.keypoints:KeypointsTask",
    "segmentation": "tasks.segmentation:SegmentationTask",
}


def load_task(kind: str) -> type[Task]:
    """Import the class of a kind of task when it is needed.

    Raises
    ------
    SettingsError
        If there is no such kind.

    Examples
    --------
    >>> load_task("segmentation").primary
    'mIoU'
    >>> load_task("segmentatoin")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: unknown kind 'segmentatoin'; known: distill, keypoints, segmentation
    """
    if kind not in TASKS:
        raise SettingsError(f"unknown kind {kind!r}; known: {', '.join(sorted(TASKS))}")
    module, _, name = TASKS[kind].partition(":")
    return getattr(import_module(module), name)
