"""Settings that name another task: the order of the tasks, and the files that replace the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

from config import TaskConfig, expand_path
from tasks import load_task
from tasks.runs import find_checkpoint, latest_run, task_folder
from utils.errors import DataError, SettingsError

Config = TypeVar("Config", bound=TaskConfig)


@dataclass(frozen=True)
class Reference:
    """A setting that may name another task of the same file.

    Parameters
    ----------
    setting : str
        Path of the setting, such as `train.init_from`.
    gives : str
        The result of the other task: `checkpoint` for its best checkpoint, `export` for its exported folder.
    reserved : tuple of str
        Values that never mean a task.

    Examples
    --------
    >>> from config import TaskConfig, TrainConfig
    >>> settings = TaskConfig(train=TrainConfig(init_from="coarse"))
    >>> Reference("train.init_from", "checkpoint").task(settings, {"coarse": settings})
    'coarse'
    """

    setting: str
    gives: str
    reserved: tuple[str, ...] = ()

    def task(self, settings: TaskConfig, tasks: Mapping[str, TaskConfig]) -> str | None:
        """Give the task that the setting names; None if it names none.

        Examples
        --------
        >>> Reference("model.backbone", "export", ("embedded",)).task(TaskConfig(), {"embedded": TaskConfig()})
        """
        value = self.value(settings)
        return value if value in tasks and value not in self.reserved else None

    def value(self, settings: TaskConfig) -> str | None:
        """Give the text of the setting; None if it is not set, or the kind does not have it.

        Examples
        --------
        >>> Reference("model.backbone", "export").value(TaskConfig())
        'embedded'
        """
        value: Any = settings
        for key in self.setting.split("."):
            value = getattr(value, key, None)  # a kind may have no training, or no backbone
        return value if isinstance(value, str) else None


def references_of(settings: TaskConfig) -> list[Reference]:
    """Give the settings of a task that may name another one.

    Examples
    --------
    >>> [reference.setting for reference in references_of(TaskConfig())]
    ['train.init_from', 'model.backbone']
    """
    return load_task(settings.kind).references(settings)


def order_tasks(tasks: Mapping[str, TaskConfig]) -> list[str]:
    """Sort tasks so that each comes after those that its settings name.

    Parameters
    ----------
    tasks : mapping of str to TaskConfig
        All tasks of a file.

    Returns
    -------
    list of str
        The names.

    Raises
    ------
    SettingsError
        If tasks name each other in a circle.

    Examples
    --------
    >>> from config import parse_settings
    >>> from tasks import kinds
    >>> text = "tasks: {fine: {train: {init_from: coarse}}, coarse: {}}"
    >>> order_tasks(parse_settings(text, (), kinds()).tasks)
    ['coarse', 'fine']
    >>> text = "tasks: {a: {train: {init_from: b}}, b: {train: {init_from: a}}}"
    >>> order_tasks(parse_settings(text, (), kinds()).tasks)
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: tasks need each other in a circle: a -> b -> a
    """
    needs = {
        name: [other for reference in references_of(task) if (other := reference.task(task, tasks)) is not None]
        for name, task in tasks.items()
    }
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise SettingsError(f"tasks need each other in a circle: {' -> '.join(error.args[1])}") from None


def awaits_export(settings: TaskConfig, tasks: Mapping[str, TaskConfig], phases: Mapping[str, Sequence[str]]) -> bool:
    """Whether a task needs the exported folder of another one that exports in the same call.

    Parameters
    ----------
    settings : TaskConfig
        Of the task.
    tasks : mapping of str to TaskConfig
        All tasks of the file.
    phases : mapping of str to sequence of str
        What runs of each.

    Examples
    --------
    >>> from config import parse_settings
    >>> from tasks import kinds
    >>> text = "tasks: {small: {kind: distill}, maps: {model: {backbone: small}}}"
    >>> tasks = parse_settings(text, (), kinds()).tasks
    >>> awaits_export(tasks["maps"], tasks, {"small": ["export"]}), awaits_export(tasks["maps"], tasks, {})
    (True, False)
    """
    made = (reference.task(settings, tasks) for reference in references_of(settings) if reference.gives == "export")
    return any("export" in phases.get(name, ()) for name in made if name is not None)


def resolve_references(settings: Config, tasks: Mapping[str, TaskConfig], gives: str) -> Config:
    """Replace the names of other tasks by the files that they made.

    Parameters
    ----------
    settings : TaskConfig
        Of the task that refers to others.
    tasks : mapping of str to TaskConfig
        All tasks of the file.
    gives : str
        Which references: those to a `checkpoint` or to an `export`.

    Returns
    -------
    TaskConfig
        With paths in place of names.

    Raises
    ------
    DataError
        If the file does not exist yet.

    Examples
    --------
    >>> from config import parse_settings
    >>> from tasks import kinds
    >>> tasks = parse_settings("tasks: {fine: {train: {init_from: coarse}}, coarse: {}}", (), kinds()).tasks
    >>> resolve_references(tasks["fine"], tasks, "checkpoint")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: train.init_from: no checkpoint in runs/coarse; run train first, ...
    """
    for reference in references_of(settings):
        name = reference.task(settings, tasks)
        if name is not None and reference.gives == gives:
            section, key = reference.setting.split(".")
            path = str(made_by(name, tasks[name], reference))
            changed = getattr(settings, section).model_copy(update={key: path})
            settings = settings.model_copy(update={section: changed})
    return settings


def made_by(name: str, settings: TaskConfig, reference: Reference) -> Path:
    """Find the checkpoint or exported folder of a task.

    Raises
    ------
    SettingsError
        If tasks of its kind have no export.
    DataError
        If it does not exist.

    Examples
    --------
    >>> from tasks.distill.settings import DistillSettings
    >>> made_by("maps", TaskConfig(), Reference("model.backbone", "export"))
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.backbone: maps is a task of kind segmentation, which exports no backbone
    >>> made_by("student", DistillSettings(), Reference("model.backbone", "export"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: model.backbone: student has exported nothing yet; set tasks.student.export.enable: true
    """
    run = latest_run(name, settings) or task_folder(name, settings)
    if reference.gives == "checkpoint":
        return find_checkpoint(None, run, reference.setting)
    if "export" not in type(settings).model_fields:
        raise SettingsError(f"{reference.setting}: {name} is a task of kind {settings.kind}, which exports no backbone")
    output_dir = settings.export.output_dir
    folder = Path(expand_path(output_dir)) if output_dir else run / "export"
    if not folder.is_dir():
        cure = (
            f"run {name}.export, which --only leaves out"
            if settings.export.enable
            else f"set tasks.{name}.export.enable: true"
        )
        raise DataError(f"{reference.setting}: {name} has exported nothing yet; {cure}")
    return folder
