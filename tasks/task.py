"""A task: its settings and four parts, which the phases in `tasks/phases` use without asking which task they run.

source      what is read: items, samples, labels, and what is stored of them
objective   what is learnt: targets, losses, scores of a training batch
predictor   what comes out of the model: pieces of a prediction
output      what people get: metrics, pictures, prediction files, exported files
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import nn

from config import TaskConfig, expand_path
from tasks.objective import Objective
from tasks.output import Output
from tasks.predictor import Predictor
from tasks.references import Reference
from tasks.runs import choose_device
from tasks.source import Source
from utils.errors import DataError, SettingsError
from utils.geometry.augment import IDENTITY, View
from utils.report.tables import require_tensorboard
from utils.runtime.checkpoints import find_file

if TYPE_CHECKING:
    from utils.runtime.checkpoints import Checkpoint


def check_checkpoint(named: str | None, made_first: bool) -> None:
    """Refuse a checkpoint that is not there, unless training comes first and may make it.

    Raises
    ------
    DataError
        If there is none.

    Examples
    --------
    >>> check_checkpoint(None, False), check_checkpoint("runs/a/latest/checkpoints/best.safetensors", True)
    (None, None)
    >>> check_checkpoint("/no/such/best.safetensors", False)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/best.safetensors: no such checkpoint, and none near it; train first or name another
    """
    if named and not made_first:
        find_file(Path(expand_path(named)), "checkpoint")


def check_folder(named: str | None) -> None:
    """Refuse a file where results are to have a folder.

    Raises
    ------
    SettingsError
        If a file stands there.

    Examples
    --------
    >>> check_folder(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: inference.output_dir: .../task.py is a file; name a folder
    """
    if named and Path(expand_path(named)).is_file():
        raise SettingsError(f"inference.output_dir: {expand_path(named)} is a file; name a folder")


class Task(ABC):
    """One kind of job, with a name and settings; one object per task and run.

    Parameters
    ----------
    name : str
        The task's name in the settings.
    settings : TaskConfig
        All of its settings.

    Attributes
    ----------
    source, objective, output
        Its parts. A task that trains nothing has no objective; a predictor is made for each group of items.
    """

    kind: ClassVar[str]
    phases: ClassVar[tuple[str, ...]]
    absent: ClassVar[Mapping[str, str]] = {}  # phases that a user may look for -> what to do in their place
    primary: ClassVar[str]  # the metric that chooses the best checkpoint; larger is better
    plotted: ClassVar[tuple[str, ...]] = ()  # scores that training.png shows; none: all

    source: Source
    output: Output

    def __init__(self, name: str, settings: TaskConfig):
        self.name = name
        self.settings = settings

    @property
    def objective(self) -> Objective:
        """What is learnt.

        Raises
        ------
        TypeError
            If the task trains nothing.
        """
        raise TypeError(f"{self.kind} trains nothing")

    # -- before work starts

    @classmethod
    def references(cls, settings: TaskConfig) -> list[Reference]:
        """Give the settings that may name another task of the same file, in place of a path."""
        return [Reference("train.init_from", "checkpoint"), Reference("model.backbone", "export", ("embedded",))]

    @abstractmethod
    def check(self) -> list[str]:
        """Raise for settings, data or weights that cannot work; give lines that tell the plan."""

    def preflight(self, phases: Sequence[str]) -> None:
        """Raise, before any task works, for what can be seen without reading pictures; called on all ranks.

        Raises
        ------
        SettingsError, DataError
            If a device, checkpoint or folder cannot be used.
        """
        for phase in phases:
            choose_device(self.settings.device(phase))
        if "train" in phases and self.settings.train.tensorboard:
            require_tensorboard()
        for phase in (name for name in ("evaluate", "inference") if name in phases):
            check_checkpoint(getattr(self.settings, phase).checkpoint, "train" in phases)
        check_folder(self.settings.inference.output_dir if "inference" in phases else None)

    def setup(self) -> None:  # noqa: B027 - only some tasks have something to decide
        """Decide together what all ranks must agree on; every phase calls it on all ranks before anything else."""

    # -- model

    def build_model(self) -> nn.Module:
        """Make the model, with the same first weights on every rank.

        Raises
        ------
        TypeError
            If the task trains nothing.
        """
        raise TypeError(f"{self.kind} trains nothing")

    def describe(self) -> dict:
        """Give what a checkpoint says of its model, so that predicting needs nothing else."""
        return {"kind": self.kind}

    @classmethod
    def from_checkpoint(cls, name: str, settings: Any, checkpoint: Checkpoint) -> Self:
        """Make a task that predicts with a checkpoint's model; training data are not needed.

        Raises
        ------
        DataError
            If the checkpoint is of another kind.
        """
        kind = checkpoint.description.get("kind")
        if kind != cls.kind:
            raise DataError(f"{checkpoint.path}: a checkpoint of {kind!r}, not of {cls.kind!r}; name another")
        return cls(name, settings)

    def take_checkpoint(self, checkpoint: Checkpoint) -> None:  # noqa: B027 - only some tasks have something to do
        """Get ready to predict with a checkpoint that describes itself as this task does, in place of a new object."""

    # -- predictions

    @abstractmethod
    def predictor(self, views: Sequence[View] | None = None) -> Predictor:
        """Make what turns outputs of the model into pieces; `views` is None for those of `prediction_views`."""

    def prediction_views(self) -> list[View]:
        """Give the views that are averaged at inference."""
        return [IDENTITY]
