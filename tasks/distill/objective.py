"""Objective of distillation: distances between the maps of student and teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from models.backbones.student import Student
from tasks.distill.map_comparison import ChannelStatistics, distill_counts, distill_sums
from tasks.distill.settings import DistillSettings
from tasks.distill.source import CropSource
from tasks.objective import Objective
from tasks.sample import Batch, Progress, Sample
from tasks.stores import open_store
from utils.data import BACKBONE, Entry, map_names
from utils.geometry.augment import IDENTITY
from utils.runtime import distributed

MEASURED_RECORDS = 256  # training records whose channels are measured


class DistillObjective(Objective):
    """Cosine, smooth L1 and relation losses per cell and block.

    Parameters
    ----------
    settings : DistillSettings
        Loss weights and scales.
    source : CropSource
        Gives the picture of a crop for the teacher.
    student : Student
        Draws the stretch of its positions; its weights are not used.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> student_task("distill.loss.relation=0.5").objective.weights()
    {'cosine': 1.0, 'smooth_l1': 1.0, 'relation': 0.5}
    """

    def __init__(self, settings: DistillSettings, source: CropSource, student: Student):
        self.settings, self.source, self.student = settings, source, student
        self.features = source.features
        self.num_blocks = len(self.features.info.layers)
        self.statistics: list[tuple[Tensor, Tensor]] | None = None
        self._measured: list[Entry] = []

    @override
    def fit_statistics(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        count = min(len(entries), MEASURED_RECORDS)
        self._measured = [entries[index * len(entries) // count] for index in range(count)]
        measured = distributed.run_on_main(self._measure)
        self.statistics = [(torch.tensor(mean), torch.tensor(deviation)) for mean, deviation in measured]

    def _measure(self) -> list[list[list[float]]]:
        """Mean and deviation of each channel of each map, over evenly chosen crops.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> from tasks.phases import prepare
        >>> from tasks.prepared import prepared_items
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> _ = prepare.run(task, context)
        >>> prepared = prepared_items(task, open_store(task.settings, "train"), "train", "train")
        >>> task.objective.fit_statistics(prepared[0].entries)
        >>> [[len(values) for values in found] for found in task.objective._measure()]
        [[8, 8], [8, 8]]
        """
        statistics = [ChannelStatistics() for _ in range(self.num_blocks)]
        for _, maps in self.measured_records():
            for channels, feature_map in zip(statistics, maps, strict=True):
                channels.update(feature_map)
        return [[values.float().tolist() for values in channels.compute()] for channels in statistics]

    def measured_records(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Crops (H, W, 3) for the statistics, and the maps (C, h, w) of the teacher of each.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> list(student_task().objective.measured_records())
        []
        """
        store = open_store(self.settings, "train")
        for entry in self._measured:
            image = np.asarray(store.read(entry.sample_key)["image"])
            key = entry.records.get(IDENTITY.name, {}).get(BACKBONE)
            if key is None:
                picture = torch.from_numpy(self.source.teacher_picture(image))
                maps = [feature_map[0].cpu() for feature_map in self.features.maps(picture.permute(2, 0, 1)[None])]
            else:
                maps = [
                    feature_map[0] for feature_map in store.read_batch([key], map_names(store.describe(key))).values()
                ]
            yield torch.from_numpy(image), maps

    @override
    def encode(self, sample: Sample, progress: Progress) -> dict[str, Any]:
        words = [self.settings.resources.seed, progress.epoch, crc32(f"{sample.id}/{sample.view.name}".encode())]
        generator = np.random.default_rng(words)
        scale = int(generator.integers(len(self.settings.distill.student_scales)))
        return {"scale": scale, "stretch": self.student.draw_stretch(generator)}

    @override
    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        batch.target = {
            "scale": torch.tensor([target["scale"] for target in targets], dtype=torch.int64),
            "stretch": torch.tensor([target["stretch"] for target in targets], dtype=torch.float32).view(-1, 2),
        }
        return batch

    def _terms(self) -> list[str]:
        """Loss terms with a weight above 0.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> student_task().objective._terms()
        ['cosine', 'smooth_l1']
        """
        return [name for name, weight in self.weights().items() if weight > 0]

    @override
    def weights(self) -> dict[str, float]:
        terms = self.settings.distill.loss
        return {"cosine": terms.cosine, "smooth_l1": terms.smooth_l1, "relation": terms.relation}

    @override
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        grids = self.features.info.feature_grid(self.source.backbone_size())
        return distill_counts(batch.arrays["valid"], grids, self._terms())

    @override
    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        predicted = [outputs[f"predicted_{index}"] for index in range(self.num_blocks)]
        target = [outputs[f"target_{index}"] for index in range(self.num_blocks)]
        return distill_sums(predicted, target, batch.arrays["valid"], self._terms())

    @override
    def scores(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, tuple[float, float]]:
        with torch.no_grad():
            sums = self.loss(outputs, batch, Progress())
        count = float(next(iter(self.counts(batch).values())))
        return {"cosine": (count - float(sums["cosine"]), count)} if "cosine" in sums else {}
