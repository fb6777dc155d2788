"""The loss on the validation split, taken from the outputs that are scored anyway."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tasks.sample import Batch, Progress
from tasks.task import Task
from utils.metrics import RunningMean


class ValidationLoss:
    """Means of the loss terms over the samples that are predicted; where windows overlap, pixels count in each.

    Parameters
    ----------
    task : Task
        Gives targets, terms and their weights.
    progress : Progress
        Of the training.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> training = training_example(tempfile.mkdtemp())
    >>> losses = ValidationLoss(training.task, Progress())
    >>> losses.watch(training.reader.read([]), {"logits": torch.zeros(0, 2, 8, 8)})
    >>> losses.compute()
    {}
    """

    def __init__(self, task: Task, progress: Progress):
        self.task, self.progress = task, progress
        self.means: dict[str, RunningMean] = {}

    def watch(self, batch: Batch, outputs: Mapping[str, Tensor]) -> None:
        """Add the terms of a batch whose samples have their arrays.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> from utils.data import SampleRef
        >>> training = training_example(tempfile.mkdtemp())
        >>> losses = ValidationLoss(training.task, Progress())
        >>> losses.watch(training.reader.read([SampleRef(0)]), {"logits": torch.zeros(1, 2, 8, 8)})
        >>> round(losses.compute()["val_loss/ce"], 4)
        0.6931
        """
        if not len(batch):
            return
        objective = self.task.objective
        targets = [objective.encode(sample, self.progress) for sample in batch.samples]
        batch = objective.collate(batch, targets)
        with torch.no_grad():
            counts, terms = objective.counts(batch), objective.loss(dict(outputs), batch, self.progress)
        for name, value in terms.items():
            total, count = value if isinstance(value, tuple) else (value, counts[name])
            assert count is not None
            self.means.setdefault(name, RunningMean()).update(total, count)

    def state(self) -> dict[str, Tensor]:
        """Sums and counts of the terms, to be merged.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> ValidationLoss(scene_task(), Progress()).state()
        {}
        """
        return {name: mean.state.cpu() for name, mean in self.means.items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add another rank's sums and counts.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> losses = ValidationLoss(scene_task(), Progress())
        >>> losses.merge({"ce": torch.tensor([6.0, 4.0])})
        >>> losses.merge({"ce": torch.tensor([1.0, 1.0])})
        >>> losses.compute()
        {'val_loss': 1.4, 'val_loss/ce': 1.4}
        """
        for name, pair in state.items():
            mean = self.means.setdefault(name, RunningMean())
            mean.state = mean.state + torch.as_tensor(pair)

    def compute(self) -> dict[str, float]:
        """The weighted loss and the mean of each term; empty where nothing was seen.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> losses = ValidationLoss(scene_task("train.loss.dice_weight=0.5"), Progress())
        >>> losses.merge({"ce": torch.tensor([2.0, 4.0]), "dice": torch.tensor([1.0, 1.0])})
        >>> losses.compute()
        {'val_loss': 1.0, 'val_loss/ce': 0.5, 'val_loss/dice': 1.0}
        """
        if not self.means:
            return {}
        weights = self.task.objective.weights()
        means = {name: mean.compute() for name, mean in sorted(self.means.items())}
        total = sum(weights[name] * value for name, value in means.items())
        return {"val_loss": total, **{f"val_loss/{name}": value for name, value in means.items()}}
