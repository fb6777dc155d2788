"""A first dense detector: every cell of one map says which object it lies in, and how far the sides of its box are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from models.base import FeatureSpec, HeadOptions
from models.detection import DetectionHead
from models.layers import Classifier, ConvNorm, Projections

CORE = 0.5  # of a box's width and height around its centre, where cells answer for it
CANDIDATES = 300


class DenseOptions(HeadOptions):
    """Settings of `DenseHead`.

    Examples
    --------
    >>> DenseOptions().width
    96
    """

    width: int = Field(96, ge=8, multiple_of=8, description="channels of the shared tower")
    dropout: float = Field(0.3, ge=0, lt=1, description="of the features from which classes are told")


class DenseHead(DetectionHead):
    """One map at twice the patch grid, a tower of two convolutions, classes, and distances to the sides.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Classes of objects.
    options : DenseOptions
        Width and dropout.

    References
    ----------
    Tian et al., 2019 (arXiv:1904.01355), without its pyramid and centre-ness.

    Examples
    --------
    >>> head = DenseHead(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), 2, DenseOptions(width=16))
    >>> {name: tuple(value.shape) for name, value in head.eval()([torch.zeros(1, 8, 2, 3)]).items()}
    {'boxes_xyxy': (1, 24, 4), 'scores': (1, 24, 2)}
    """

    Options: ClassVar[type[HeadOptions]] = DenseOptions
    takes: ClassVar[tuple[str, ...]] = ("valid",)
    input_layers: ClassVar[tuple[str, ...]] = ("projections",)
    output_layers: ClassVar[tuple[str, ...]] = ("classifier", "sides")

    def __init__(self, spec: FeatureSpec, num_classes: int, options: DenseOptions):
        super().__init__(spec, num_classes, options)
        self.projections = Projections(spec.channels, options.width)
        self.tower = nn.Sequential(*(ConvNorm(options.width, options.width) for _ in range(2)))
        self.dropout = nn.Dropout2d(options.dropout)
        self.classifier = Classifier(options.width, num_classes)
        nn.init.constant_(cast(Tensor, self.classifier.bias), -4.6)  # a score of .01
        self.sides = Classifier(options.width, 4)

    @property
    @override
    def stride(self) -> float:
        return self.spec.patch_size / 2

    @property
    @override
    def max_objects(self) -> int:
        return CANDIDATES

    @override
    def forward(
        self,
        feature_maps: Sequence[Tensor],
        image: Tensor | None = None,
        valid: Tensor | None = None,
        target: Any = None,
    ) -> dict[str, Tensor]:
        maps, grid = self.receive(feature_maps, image)
        fine = (2 * grid[0], 2 * grid[1])
        features = self.tower(self.projections(maps, fine))
        logits = self.classifier(self.dropout(features)).flatten(2).transpose(1, 2)
        sides = (F.softplus(self.sides(features)) * 2 * self.stride).flatten(2).transpose(1, 2)
        points = self.points(fine).to(sides.device)
        boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=-1)
        if valid is not None:
            inside = F.adaptive_max_pool2d(valid[:, None].float(), fine).flatten(1)
            logits = logits.masked_fill(inside[..., None] == 0, -20.0)
        if self.training:
            return {"boxes_xyxy": boxes, "scores": logits.sigmoid(), "logits": logits, "points": points[None]}
        scores = logits.sigmoid()
        best = scores.amax(dim=2).topk(min(CANDIDATES, scores.shape[1]), dim=1).indices[..., None]
        return {"boxes_xyxy": boxes.take_along_dim(best, dim=1), "scores": scores.take_along_dim(best, dim=1)}

    def points(self, grid: tuple[int, int]) -> Tensor:
        """Centres (rows * columns, 2) of cells, in pixels.

        Examples
        --------
        >>> head = DenseHead(FeatureSpec((8,), (8,), 8, 3, (0.5,) * 3, (0.5,) * 3), 1, DenseOptions(width=16))
        >>> head.points((1, 2)).tolist()
        [[2.0, 2.0], [6.0, 2.0]]
        """
        y, x = ((torch.arange(number) + 0.5) * self.stride for number in grid)
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)

    @override
    def counts_of(self, target: Any) -> Mapping[str, Tensor | None]:
        return {"class": None, "box": None}

    @override
    def loss_weights(self) -> dict[str, float]:
        return {"class": 1.0, "box": 2.0}

    @override
    def losses(
        self, outputs: dict[str, Tensor], target: Any, progress_fraction: float
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        points, sums = outputs["points"][0], []
        for row, (boxes, labels, crowd) in enumerate(
            zip(target["boxes_xyxy"], target["labels"], target["is_crowd"], strict=True)
        ):
            sums.append(
                self._sample_losses(outputs["logits"][row], outputs["boxes_xyxy"][row], points, boxes, labels, crowd)
            )
        classes, overlaps, positive = (torch.stack(parts).sum() for parts in zip(*sums, strict=True))
        return {"class": (classes, positive), "box": (overlaps, positive)}

    def _sample_losses(
        self, points: Tensor, logits: Tensor, predicted: Tensor, boxes: Tensor, labels: Tensor, crowd: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of both terms and number of cells with an object, of logits (P, K) and boxes (P, 4) at points (P, 2).

        Examples
        --------
        >>> head = DenseHead(FeatureSpec((8,), (8,), 8, 3, (0.5,) * 3, (0.5,) * 3), 1, DenseOptions(width=16))
        >>> points, box = head.points((1, 2)), torch.tensor([[0.0, 0, 4, 4]])
        >>> target = box, torch.tensor([0]), torch.tensor([False])
        >>> sums = head._sample_losses(points, torch.zeros(2, 1), box.expand(2, 4), *target)
        >>> [round(value.item(), 3) for value in sums]
        [0.347, 0.0, 1.0]
        """
        centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        away = ((points[:, None] - centres) / halves.clamp(min=0.5 * self.stride)).abs().amax(dim=2)  # (P, M)
        ignored = (away[:, crowd] <= 1).any(dim=1)
        away = away.masked_fill(crowd, torch.inf)
        areas = halves.prod(dim=1)
        owner = torch.where(away <= CORE, areas, torch.inf).min(dim=1) if len(boxes) else None
        positive = owner.values.isfinite() if owner is not None else torch.zeros_like(ignored)
        wanted = torch.zeros_like(logits)
        ious = logits.new_zeros(len(points))
        if owner is not None and positive.any():
            truth = boxes[owner.indices[positive]]
            ious[positive] = _ious(predicted[positive], truth)
            wanted[positive, labels[owner.indices[positive]]] = ious[positive].detach()
        weight = (wanted - logits.sigmoid()).abs().square() * (positive | ~ignored)[:, None]
        classes = (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()
        return classes, (1 - ious[positive]).sum(), positive.sum().double()


def _ious(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (N,) of pairs of boxes (N, 4).

    Examples
    --------
    >>> _ious(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
    tensor([0.3333])
    """
    shared = (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])).clamp(min=0)
    inter = shared.prod(dim=1)
    areas, other_areas = ((part[:, 2:] - part[:, :2]).prod(dim=1) for part in (boxes, others))
    return inter / (areas + other_areas - inter).clamp(min=1e-9)
