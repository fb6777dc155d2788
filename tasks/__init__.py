"""The registry of tasks: one line per kind."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from utils.errors import SettingsError

if TYPE_CHECKING:
    from config import TaskConfig
    from tasks.task import Task

TASKS = {  # kind -> where the class of its settings is, which is cheap to import, and where its task is
    "detection": ("tasks.detection.settings:DetectionSettings", "tasks.detection.task:DetectionTask"),
    "distill": ("tasks.distill.settings:DistillSettings", "tasks.distill.task:DistillTask"),
    "keypoints": ("tasks.keypoints.settings:KeypointsSettings", "tasks.keypoints.task:KeypointsTask"),
    "segmentation": ("tasks.segmentation.settings:SegmentationSettings", "tasks.segmentation.task:SegmentationTask"),
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
    utils.errors.SettingsError: unknown kind 'segmentatoin'; known: detection, distill, keypoints, segmentation
    """
    if kind not in TASKS:
        raise SettingsError(f"unknown kind {kind!r}; known: {', '.join(sorted(TASKS))}")
    return _import(TASKS[kind][1])


def kinds() -> dict[str, type[TaskConfig]]:
    """The class of settings of each kind of task.

    Examples
    --------
    >>> kinds()["keypoints"]().model.head
    'conv'
    """
    return {kind: _import(settings) for kind, (settings, _) in TASKS.items()}


def _import(place: str) -> Any:
    """Import what `module:name` says.

    Examples
    --------
    >>> _import("utils.errors:SettingsError").exit_code
    2
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
