"""The rival of the detection benchmark: centres of objects as peaks of one map with cells of about four pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.pose_accuracy import Deconvolutions
from models.base import FeatureSpec, HeadOptions
from models.detection import DetectionHead
from models.layers import Classifier

MIN_OVERLAP = 0.7  # a centre that is off by the radius of its spot still gives a box of this IoU
CANDIDATES = 300


def spot_radius(sides: Tensor) -> Tensor:
    """How far a corner of each box (N, 2) may be off, in cells, so that its IoU with the box stays at 0.7.

    References
    ----------
    Law and Deng, 2018 (arXiv:1808.01244), section 3.2: the case of a box that is shifted.
    """
    b, c = sides.sum(dim=1), sides.prod(dim=1) * (1 - MIN_OVERLAP) / (1 + MIN_OVERLAP)
    return (b - (b.square() - 4 * c).clamp(min=0).sqrt()) / 2


class CentreHead(DetectionHead):
    """Concatenated blocks, two transposed convolutions, and per cell: a score of each class, sides, offset.

    References
    ----------
    Zhou et al., 2019 (arXiv:1904.07850).
    """

    takes: ClassVar[tuple[str, ...]] = ("valid",)
    merges: ClassVar[bool] = False
    output_layers: ClassVar[tuple[str, ...]] = ("classes", "boxes")

    def __init__(self, spec: FeatureSpec, num_classes: int, options: HeadOptions):
        super().__init__(spec, num_classes, options)
        self.decoder = Deconvolutions(sum(spec.channels))
        self.classes, self.boxes = Classifier(32, num_classes), Classifier(32, 4)
        nn.init.constant_(self.classes.bias, -4.6)  # type: ignore[arg-type]  # a score of 0.01

    @property
    @override
    def max_objects(self) -> int:
        return CANDIDATES

    @property
    @override
    def stride(self) -> float:
        return self.spec.patch_size / 4

    @override
    def forward(
        self,
        feature_maps: Sequence[Tensor],
        image: Tensor | None = None,
        valid: Tensor | None = None,
        target: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        maps, grid = self.receive(feature_maps, image)
        _, fine = self.decoder(maps, None)
        logits, boxes = self.classes(fine), self.boxes(fine)
        size = (4 * grid[0], 4 * grid[1])
        inside = logits.new_ones(len(logits), *size)
        if valid is not None:
            patches = valid[:, :: self.spec.patch_size, :: self.spec.patch_size].to(logits.dtype)
            inside = patches.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        found = self._peaks(logits.detach(), boxes.detach(), inside)
        return {**found, "logits": logits, "sides": boxes, "inside": inside} if self.training else found

    def _peaks(self, logits: Tensor, boxes: Tensor, inside: Tensor) -> dict[str, Tensor]:
        """Cells that no neighbour surpasses, with their boxes."""
        scores = logits.float().sigmoid() * inside[:, None]
        scores = torch.where(F.max_pool2d(scores, 3, stride=1, padding=1) == scores, scores, 0).flatten(2)
        number = min(CANDIDATES, scores.shape[2])
        places = scores.amax(dim=1).topk(number, dim=1).indices
        chosen = boxes.float().flatten(2).gather(2, places[:, None].expand(-1, 4, -1)).transpose(1, 2)
        columns = logits.shape[3]
        cells = torch.stack([places % columns, places // columns], dim=2)
        centres, halves = cells + chosen[..., :2].sigmoid(), chosen[..., 2:].clamp(max=6).exp() / 2
        xyxy = self.stride * torch.cat([centres - halves, centres + halves], dim=2)
        return {
            "boxes_xyxy": xyxy,
            "scores": scores.gather(2, places[:, None].expand(-1, scores.shape[1], -1)).transpose(1, 2),
        }

    @override
    def counts_of(self, target: Mapping[str, Any]) -> dict[str, Tensor | None]:
        objects = torch.stack([(~is_crowd).sum() for is_crowd in target["is_crowd"]]).sum()
        return {"classes": objects, "sides": objects, "offsets": objects}

    @override
    def loss_weights(self) -> dict[str, float]:
        return {"classes": 1.0, "sides": 1.0, "offsets": 1.0}

    @override
    def losses(
        self, outputs: Mapping[str, Tensor], target: Mapping[str, Any], progress_fraction: float
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        samples = []
        for row, (boxes, labels, is_crowd) in enumerate(
            zip(target["boxes_xyxy"], target["labels"], target["is_crowd"], strict=True)
        ):
            logits, raw, inside = (outputs[name][row].float() for name in ("logits", "sides", "inside"))
            cells = boxes.float() / self.stride
            samples.append(self._sample_losses(logits, raw, inside, cells, labels, is_crowd))
        return dict(zip(("classes", "sides", "offsets"), torch.stack(samples).sum(dim=0), strict=True))

    def _sample_losses(
        self, logits: Tensor, raw: Tensor, inside: Tensor, boxes: Tensor, labels: Tensor, is_crowd: Tensor
    ) -> Tensor:
        """Sums of the three terms of one sample; boxes (N, 4) in cells."""
        rows, columns = logits.shape[1:]
        y, x = torch.arange(rows, device=logits.device)[:, None], torch.arange(columns, device=logits.device)
        wanted, weight = torch.zeros_like(logits), inside.clone()
        for left, top, right, bottom in boxes[is_crowd]:
            weight[(y + 0.5 >= top) & (y + 0.5 < bottom) & (x + 0.5 >= left) & (x + 0.5 < right)] = 0
        boxes, labels = boxes[~is_crowd], labels[~is_crowd]
        sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
        cells = torch.minimum(centres.long(), centres.new_tensor([columns - 1, rows - 1]).long())
        spreads = (2 * spot_radius(sides) + 1) / 6
        for (column, line), spread, label in zip(cells, spreads, labels, strict=True):
            spot = torch.exp(-((x - column).square() + (y - line).square()) / (2 * spread.square()))
            wanted[label] = torch.maximum(wanted[label], spot)
        weight[cells[:, 1], cells[:, 0]] = 1
        scores, log_scores, log_others = logits.sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)
        hit = (wanted == 1) * (1 - scores).square() * log_scores
        missed = (wanted < 1) * (1 - wanted).pow(4) * scores.square() * log_others
        at = raw[:, cells[:, 1], cells[:, 0]].T
        side_losses = (at[:, 2:] - sides.clamp(min=0.1).log()).abs().sum()
        offset_losses = (at[:, :2].sigmoid() - (centres - cells)).abs().sum()
        return torch.stack([-((hit + missed) * weight).sum(), side_losses, offset_losses])
