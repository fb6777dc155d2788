"""Objective of detection: the boxes of a batch as its target; losses are those of the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from typing_extensions import override

from models.detection import DetectionHead
from tasks.detection.items import Objects
from tasks.detection.settings import DetectionSettings
from tasks.objective import Objective
from tasks.sample import Batch, Progress
from utils.data import Entry
from utils.errors import DataError

EMPTY = 0.25  # how often a sample without an object is drawn, relative to others


class DetectionObjective(Objective):
    """Targets of detection, and the losses that the head brings along.

    Parameters
    ----------
    head : DetectionHead
        Needs no weights.
    classes : list of str
        Names of the classes.
    settings : DetectionSettings
        Which samples are drawn, and where labels are.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> sorted(fox_task().objective.weights()) == sorted(fox_task().head_shapes().loss_weights())
    True
    """

    def __init__(self, head: DetectionHead, classes: Sequence[str], settings: DetectionSettings):
        self.head, self.classes, self.settings = head, list(classes), settings

    @override
    def sampling_weights(self, entries: Sequence[Entry]) -> np.ndarray | None:
        shown = [sum(entry.facts["counts"].values()) > 0 for entry in entries]
        if self.settings.train.sampling == "uniform" or all(shown):
            return None
        return np.where(shown, 1.0, EMPTY)

    @override
    def fit_statistics(self, entries: Sequence[Entry]) -> None:
        self._require_objects(entries, "train")

    @override
    def check_validation(self, entries: Sequence[Entry]) -> None:
        self._require_objects(entries, "val")

    def _require_objects(self, entries: Sequence[Entry], split: str) -> None:
        """Refuse samples of which none shows an object.

        Raises
        ------
        DataError
            If there are samples, and none has one.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().objective._require_objects([Entry("x", "00", {}, None, {"counts": {"fox": 0}})], "val")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: annotations: no labelled object in val: all 1 samples are without one; label some, or \
see dataset.classes and the split lists
        """
        if entries and not any(sum(entry.facts["counts"].values()) for entry in entries):
            raise DataError(
                f"{self.settings.paths.label_path}: no labelled object in {split}: all {len(entries)} samples are "
                "without one; label some, or see dataset.classes and the split lists"
            )

    @override
    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        names = (*Objects._fields, "others_xyxy")  # the last one only for a head that takes it
        batch.target = {name: batch.arrays[name] for name in names if name in batch.arrays}
        return batch

    @override
    def weights(self) -> dict[str, float]:
        return self.head.loss_weights()

    @override
    def counts(self, batch: Batch) -> Mapping[str, Tensor | None]:
        return self.head.counts_of(batch.target)

    @override
    def loss(
        self, outputs: dict[str, Tensor], batch: Batch, progress: Progress
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        return self.head.losses(outputs, batch.target, progress.fraction)
