"""Objective of detection: the boxes of a batch as its target; losses are those of the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from typing_extensions import override

from models.detection import DetectionHead
from tasks.detection.items import Objects
from tasks.detection.settings import DetectionSettings
from tasks.objective import Objective
from tasks.sample import Batch, Progress
from utils.boxes.geometry import areas
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
        Which samples are drawn, where labels are, and what windows are not asked for.

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
        teaches = [self._teaches(entry) for entry in entries]
        if self.settings.train.sampling == "uniform" or all(teaches):
            return None
        return np.where(teaches, 1.0, EMPTY)

    def _teaches(self, entry: Entry) -> bool:
        """Whether a sample shows an object that is not left to the whole picture.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> facts = [{"counts": {"fox": 1}, "part": part, "sizes": [0.75]} for part in (0, 3)]
        >>> [fox_task().objective._teaches(Entry("a", "0", {}, None, each)) for each in facts]
        [True, False]
        """
        sizes = entry.facts["sizes"]
        return min(sizes) <= self.settings.detection.window_largest if sizes and entry.facts["part"] else bool(sizes)

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
        batch.target["is_crowd"] = [
            crowd | large for crowd, large in zip(batch.target["is_crowd"], self._too_large(batch), strict=True)
        ]
        return batch

    def _too_large(self, batch: Batch) -> Iterator[Tensor]:
        """Which objects of each sample are so large in a window that they are left to the whole picture.

        Examples
        --------
        >>> import torch
        >>> from tasks.detection.example import fox_task
        >>> boxes = [torch.tensor([[0.0, 0, 30, 30], [0, 0, 70, 90]])] * 2
        >>> arrays = {"image": torch.zeros(2, 3, 96, 128), "boxes_xyxy": boxes, "part": torch.tensor([0, 3])}
        >>> [each.tolist() for each in fox_task().objective._too_large(Batch([], arrays))]
        [[False, False], [False, True]]
        """
        boxes, parts = batch.arrays["boxes_xyxy"], batch.arrays["part"].tolist()
        height, width = batch.arrays["image"].shape[-2:]
        for row, (objects, part) in enumerate(zip(boxes, parts, strict=True)):
            shown = batch.arrays["valid"][row].sum() if "valid" in batch.arrays else height * width
            yield (areas(objects) > self.settings.detection.window_largest**2 * shown) & (part > 0)

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
