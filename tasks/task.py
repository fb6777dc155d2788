"""A task: its settings and four parts, which the phases in `tasks/phases` use for every kind.

source      items, samples, labels, and the records of the store
objective   targets, losses, scores of a training batch
predictor   from outputs of the model to pieces of a prediction
output      metrics, pictures, prediction files, exported files
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor, nn

from config import TaskConfig, expand_path
from tasks.objective import Objective
from tasks.output import Output
from tasks.predictor import Predictor
from tasks.references import Reference
from tasks.runs import choose_device, refuse_foreign_weights
from tasks.source import Source
from utils.errors import DataError, SettingsError
from utils.geometry.augment import IDENTITY, View
from utils.report.tracking import require_trackers

if TYPE_CHECKING:
    from tasks.context import Context
    from utils.runtime.checkpoints import Checkpoint


def check_folder(setting: str, path: str | None) -> None:
    """Refuse a setting that names a folder for results which cannot be made or written.

    Raises
    ------
    SettingsError
        If the path or a folder above it is a file, or the folder is not to be written.

    Examples
    --------
    >>> check_folder("export.output_dir", __file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: export.output_dir: .../task.py is a file; name a folder
    >>> check_folder("train.weights_dir", "/dev/null/weights")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: train.weights_dir: /dev/null is no folder; name a folder
    """
    if not path:
        return
    folder = Path(expand_path(path))
    there = next(part for part in (folder, *folder.absolute().parents) if os.path.lexists(part))
    if not there.is_dir():
        what = "is a file" if there.is_file() else "is no folder"
        raise SettingsError(f"{setting}: {there} {what}; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SettingsError(f"{setting}: {folder}: the folder {there} cannot be written; name another one")


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
    trained_as : dict, optional
        Description of the checkpoints that this object trained, as JSON: for these it is not made again.
    source, objective, output
        Its parts. A task that trains nothing has no objective; a predictor is made for each group of items.
    """

    kind: ClassVar[str]
    phases: ClassVar[tuple[str, ...]]
    absent: ClassVar[Mapping[str, str]] = {}  # phase that the kind does not have -> advice
    primary: ClassVar[str]  # the metric that chooses the best checkpoint; larger is better
    plotted: ClassVar[tuple[str, ...]] = ()  # scores that training.png shows; none: all
    counted: ClassVar[tuple[str, str] | None] = None  # what entries count of each name, such as ("pixels", "class")
    sample_files: ClassVar[tuple[str, ...]] = ()  # that prepare writes below dataset.sample.folder; none: not known

    trained_as: dict[str, Any] | None = None
    source: Source
    output: Output

    def __init__(self, name: str, settings: TaskConfig):
        self.name = name
        self.settings = settings

    @property
    def objective(self) -> Objective:
        """Targets and losses.

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
        """Raise for settings, data or weights that cannot be used; give the lines of the plan."""

    def awaits_sample(self) -> bool:
        """Whether prepare has yet to write the sample data that the settings ask for.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().awaits_sample(), scene_task("dataset.sample={enable: true, folder: /no/such}").awaits_sample()
        (False, True)
        """
        sample = getattr(self.settings.dataset, "sample", None)
        return sample is not None and sample.enable and not Path(expand_path(sample.folder)).exists()

    def preflight(self, phases: Sequence[str]) -> None:
        """Raise before any task starts for problems that show without reading pictures; called on all ranks.

        Raises
        ------
        SettingsError, DataError
            If a device or folder cannot be used.
        """
        for phase in phases:
            choose_device(self.settings.device(phase))
        if "train" in phases:
            require_trackers(self.settings.train.tensorboard, self.settings.train.tracking)
        if "train" in phases:
            check_folder("train.weights_dir", self.settings.train.weights_dir)
            refuse_foreign_weights(self.settings.train.weights_dir, self.settings.model.head)
        for phase in (name for name in ("inference", "export") if name in phases):
            check_folder(f"{phase}.output_dir", getattr(self.settings, phase).output_dir)

    def coarser_classes(self, description: Mapping[str, Any]) -> dict[str, str]:
        """Give the class of another training, by the description of its checkpoint, from which each class may begin."""
        return {}

    def check_init_from(self) -> None:  # noqa: B027 - only some tasks train something
        """Raise for `train.init_from` of a model that shares nothing with this one; the checkpoint is there."""

    def check_memory(self, phases: Sequence[str]) -> None:  # noqa: B027 - only some tasks can tell
        """Raise for sizes of samples, batches and models that cannot fit into memory, before any is allocated."""

    def sample_memory(self) -> int:
        """Bytes at least of a training sample with its feature maps; 0: not known."""
        return 0

    @classmethod
    def settings_for_named(cls, settings: Any) -> Any:
        """Settings whose data are `evaluate.inputs` and `evaluate.labels`, to score each of these pictures.

        Raises
        ------
        SettingsError
            If the kind of task scores splits only.
        """
        raise SettingsError(f"evaluate.inputs: a task of kind {cls.kind} scores splits only; drop it")

    def setup(self) -> None:  # noqa: B027 - only some tasks have something to decide
        """Decide what all ranks must agree on; every phase calls it first, on all ranks."""

    # -- what prepare learns before it stores anything

    def unlearnt(self) -> int:
        """Give how many training samples prepare has yet to learn from what records depend on; 0 for nothing."""
        return 0

    def learn(self, context: Context) -> None:  # noqa: B027 - only some tasks have something to learn
        """Learn it and keep it in the store, or say what is there; called on all ranks, the first does the work."""

    def assume_learnt(self) -> None:  # noqa: B027 - only some tasks have something to learn
        """Take values of the right shape in place of what is not learnt yet, to find out how long the model takes."""

    def shared_records(self) -> list[str]:
        """Give the keys of records in the store that belong to no item, such as what was learnt."""
        return []

    def kept_tensors(self) -> dict[str, Tensor]:
        """Give the tensors that a checkpoint holds beside the trained ones, as predictions need them."""
        return {}

    # -- model

    def build_model(self) -> nn.Module:
        """Make the model, with the same first weights on every rank.

        Raises
        ------
        TypeError
            If the task trains nothing.
        """
        raise TypeError(f"{self.kind} trains nothing")

    def start_weights(self, model: nn.Module) -> list[str]:
        """Copy the first weights that the settings name into a model whose training begins; give lines for the log."""
        return []

    def describe(self) -> dict:
        """Give the description of the model in its checkpoint, from which it can be built for predictions."""
        return {"kind": self.kind}

    def describe_data(self) -> dict[str, Any]:
        """Give what a checkpoint also says, on which its weights do not depend: how labels and predictions are read."""
        return {}

    def learning_key(self) -> dict[str, Any]:
        """Give settings, not in the description or the records, that trained weights or the best of them depend on."""
        return {}

    def validating_key(self) -> dict[str, Any]:
        """Give settings, in no fingerprint of a training, by which its validations choose the best weights."""
        return {}

    def predicting_key(self, phase: str) -> dict[str, Any]:
        """Give settings of no phase that the results of evaluate or inference depend on, besides the checkpoint."""
        return {}

    @classmethod
    def from_checkpoint(cls, name: str, settings: Any, checkpoint: Checkpoint) -> Self:
        """Make a task that predicts with the model of a checkpoint, without training data.

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
    def predictor(self, views: Sequence[View] | None = None, phase: str = "train") -> Predictor:
        """Make a predictor for a group of items; `views` is None for those of `prediction_views`, `phase` who asks."""

    def prediction_views(self, phase: str = "inference") -> list[View]:
        """Give the views that are averaged in evaluate or inference."""
        return [IDENTITY]
