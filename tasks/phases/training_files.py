"""The files of a training in the run's folder: its checkpoints, and the state from which it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from tasks.model import trained_state
from tasks.phases.training_state import TrainingState, describe_scores
from tasks.prepared import PreparedItem
from tasks.runs import BEST, STATE, checkpoint_path, checkpoint_paths, keep_latest_epochs
from tasks.seen import digest_items
from tasks.task import Task
from utils.errors import DinolithError
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint, save_checkpoint

LARGEST_WEIGHT = 1e15  # what is larger has diverged: products of it overflow, and scores of it mean nothing


class TrainingFiles:
    """The checkpoints and the state of a training; all ranks call it together, rank 0 writes.

    Parameters
    ----------
    task : Task
        Describes itself in the checkpoints.
    folder : Path
        Of the run.
    state : TrainingState
        What is saved.
    fingerprint : str
        Of the training.
    train_items, val_items : sequence of PreparedItem
        The splits.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> files = training_example(tempfile.mkdtemp()).files
    >>> files.folder.name, files.load_state()
    ('run', False)
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        state: TrainingState,
        fingerprint: str,
        train_items: Sequence[PreparedItem],
        val_items: Sequence[PreparedItem],
    ):
        self.task, self.folder, self.state, self.fingerprint = task, folder, state, fingerprint
        self.train_items, self.val_items = train_items, val_items
        self.saved_at = time.perf_counter()

    # -- checkpoints

    def save_checkpoint(self, name: str, steps: int, found: Mapping[str, Any]) -> None:
        """Write the checkpoint `best` or `last`, also to `train.weights_dir`, or that of an epoch.

        Parameters
        ----------
        name : str
            `BEST`, `LAST` or what `epoch_name` gives.
        steps : int
            Steps of the optimiser until now.
        found : mapping
            What `study_training` found in the labels.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> from tasks.runs import LAST
        >>> from utils.runtime.checkpoints import load_checkpoint
        >>> training = training_example(tempfile.mkdtemp())
        >>> training.files.save_checkpoint(LAST, 7, training.found)
        >>> description = load_checkpoint(checkpoint_path(training.files.folder, LAST)).description
        >>> description["kind"], description["training"]["steps"]
        ('segmentation', 7)
        """
        kept = {key: found[key] for key in ("colours", "doubts", "val", "untrained", "in_colours")}
        description = {**self.task.describe(), **self.task.describe_data(), "seen": self._seen}
        training = {"steps": steps, **kept}
        if name == BEST:
            training["belief"] = self.state.best["belief"]
        description |= {"fingerprint": self.fingerprint, "training": training}
        paths = checkpoint_paths(self.folder, self.task.settings, name)
        self.state.save_checkpoint(paths, description, self.task.kept_tensors())

    def describe_best_anew(self, best: Checkpoint, scores: Mapping[str, Any], belief: Mapping[str, Any]) -> None:
        """Write the best weights once more, with the present settings and their scores by them.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> from utils.runtime.checkpoints import load_checkpoint
        >>> files = training_example(tempfile.mkdtemp()).files
        >>> path = checkpoint_path(files.folder, BEST)
        >>> best = Checkpoint({}, {"epoch": 3, "metrics": {"mIoU": 0.5}, "training": {"steps": 6}}, path)
        >>> files.describe_best_anew(best, {"mIoU": 0.25, "per_class": {}}, {"doubts": []})
        >>> described = load_checkpoint(path).description
        >>> described["epoch"], described["metrics"], described["training"]
        (3, {'mIoU': 0.25}, {'steps': 6, 'belief': {'doubts': []}})
        """
        described = best.description | self.task.describe() | describe_scores(self.task, scores)
        described["training"] |= {"belief": belief}
        paths = checkpoint_paths(self.folder, self.task.settings, BEST)
        for path in paths:
            distributed.run_on_main(lambda to=path: str(save_checkpoint(to, best.tensors, described, best.kept)))

    def remove_old_checkpoints(self) -> None:
        """Keep the checkpoints of the latest epochs, as many as the settings say; rank 0 does it.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> from tasks.runs import epoch_name
        >>> training = training_example(tempfile.mkdtemp(), "train.save_total_limit=2")
        >>> for training.state.epoch in (9, 10, 11):
        ...     training.files.save_checkpoint(epoch_name(training.state.epoch), 2, training.found)
        >>> training.files.remove_old_checkpoints()
        >>> sorted(path.name for path in (training.files.folder / "checkpoints").glob("*.safetensors"))
        ['epoch_010.safetensors', 'epoch_011.safetensors']
        """
        limit = self.task.settings.train.save_total_limit
        if limit is not None:
            distributed.run_on_main(keep_latest_epochs, self.folder, self.state.epoch, limit)

    @cached_property
    def _seen(self) -> dict[str, list[str]]:
        """Digests of the pictures of both splits, by which evaluate knows them again.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> files = training_example(tempfile.mkdtemp()).files
        >>> {split: len(digests) for split, digests in files._seen.items()}
        {'train': 1, 'val': 1}
        """
        splits = {"train": self.train_items, "val": self.val_items}
        return {split: digest_items(self.task.source, [item.item for item in items]) for split, items in splits.items()}

    # -- the state

    def load_state(self) -> bool:
        """Take up the state that an earlier call saved, where `train.resume` asks for it; tell whether there was one.

        Raises
        ------
        DataError
            If the file is damaged.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> for resume in ("auto", "never"):
        ...     files = training_example(tempfile.mkdtemp(), f"train.resume={resume}").files
        ...     files.save_state()
        ...     print(files.load_state())
        True
        False
        """
        path, best = (checkpoint_path(self.folder, name) for name in (STATE, BEST))
        return self.task.settings.train.resume == "auto" and self.state.load(path, self.fingerprint, best)

    def is_save_due(self) -> bool:
        """Whether the last state was saved so long ago that much would be lost.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training_example(tempfile.mkdtemp()).files.is_save_due()
        False
        """
        return time.perf_counter() - self.saved_at > 60 * self.task.settings.train.save_minutes

    def save_state(self) -> None:
        """Write all that an exact continuation needs.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> files = training_example(tempfile.mkdtemp()).files
        >>> files.save_state()
        >>> checkpoint_path(files.folder, STATE).exists()
        True
        """
        self.saved_at = time.perf_counter()
        self.state.save(checkpoint_path(self.folder, STATE), self.fingerprint)


def refuse_broken_weights(model: nn.Module, epoch: int) -> None:
    """Stop before weights that are no numbers any more take the place of good ones in a checkpoint.

    Raises
    ------
    DinolithError
        If a weight is NaN or has diverged.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> model = training_example(tempfile.mkdtemp()).model
    >>> _ = next(model.head.parameters()).data.fill_(float("nan"))
    >>> refuse_broken_weights(model, epoch=1)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DinolithError: train: epoch 1 left weights that are NaN or beyond all bounds (head...); ...
    """
    for name, value in trained_state(model).items():
        if not (value.abs() < LARGEST_WEIGHT).all():  # so written, NaN is found too
            raise DinolithError(
                f"train: epoch {epoch} left weights that are NaN or beyond all bounds ({name}); "
                "lower train.muon_lr and train.adamw_lr, or set train.clip_norm; earlier checkpoints stay"
            )
