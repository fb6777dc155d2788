"""The objective of a task: targets, losses as sums with counts, and the drawing of samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from tasks.sample import Batch, Progress, Sample
from utils.data import Entry


class Objective(ABC):
    """The loss of a task: `counts` come from the targets, `loss` gives sums, which are divided once, over all ranks.

    `takes_predictions` is True where `loss` can be taken from what the model gives when it predicts, too.
    """

    takes_predictions: ClassVar[bool] = False

    def curriculum(self, epoch: int, epochs: int) -> Progress:
        """Give the progress of training at an epoch, for targets and losses."""
        return Progress(epoch, epochs)

    def training_views(self, stored: Sequence[str], progress: Progress) -> Sequence[str]:
        """Choose the views of a sample that this epoch may draw."""
        return stored

    def sampling_weights(self, entries: Sequence[Entry]) -> np.ndarray | None:
        """Give how often each of N samples is drawn, relative to others, (N,); None: once per epoch each."""
        return None

    def fit_statistics(self, entries: Sequence[Entry]) -> None:  # noqa: B027 - only some tasks need it
        """Compute statistics of the training samples, such as class weights."""

    def check_validation(self, entries: Sequence[Entry]) -> None:  # noqa: B027 - only some tasks can tell
        """Raise for validation samples on which no score can be computed."""

    def encode(self, sample: Sample, progress: Progress) -> Any:
        """Make the target of a sample."""
        return None

    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        """Add the joined targets to a batch."""
        return batch

    def weights(self) -> dict[str, float]:
        """Give the weight of each loss term."""
        return {"loss": 1.0}

    @abstractmethod
    def counts(self, batch: Batch) -> Mapping[str, Tensor | None]:
        """Give the divisor of each term, of shape (), from the targets alone; None for a term that `loss` counts.

        The first are summed over ranks and micro-batches before the forward, so that accumulated micro-batches equal
        one large batch. The others are divided by the count of their micro-batch over all ranks and by the number of
        micro-batches: accumulation then differs from one large batch.
        """

    @abstractmethod
    def loss(
        self, outputs: dict[str, Tensor], batch: Batch, progress: Progress
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Give the sum of each term, of shape (), over at least one sample; or (sum, count) where `counts` has None."""

    def scores(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, tuple[float, float]]:
        """Give cheap scores of a training batch as (sum, count), for the log."""
        return {}
