"""A head for boxes: of each cell whether the centre of an object is near, and how far the sides of its box are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.base import FeatureSpec, Head, HeadOptions, resize


class CellsOptions(HeadOptions):
    """Settings of `CellsHead`."""

    width: int = Field(16, gt=0, multiple_of=2, description="channels between the two layers")


class CellsHead(Head):
    """Two convolutions on the patch grid; a norm over the whole map lets padding show in the result.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_outputs : int
        Classes of objects.
    options : CellsOptions
        Its width.
    """

    Options: ClassVar[type[HeadOptions]] = CellsOptions
    input_layers: ClassVar[tuple[str, ...]] = ("layers.0",)
    output_layers: ClassVar[tuple[str, ...]] = ("cells",)

    def __init__(self, spec: FeatureSpec, num_outputs: int, options: CellsOptions):
        super().__init__(spec, num_outputs, options)
        self.num_classes, width = num_outputs, options.width
        merge = nn.Conv2d(sum(spec.channels), width, kernel_size=3, padding=1)
        self.layers = nn.Sequential(merge, nn.GroupNorm(2, width), nn.GELU())
        self.cells = nn.Conv2d(width, num_outputs + 4, kernel_size=3, padding=1)

    @property
    def stride(self) -> float:
        """Image pixels per cell."""
        return float(self.spec.patch_size)

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None = None) -> dict[str, Tensor]:
        """Give ``"objectness"`` (B, K, h, w), logits, and ``"boxes"`` (B, 4, h, w), distances to the sides in cells."""
        maps, grid = self.receive(feature_maps, image)
        cells = self.cells(self.layers(torch.cat([resize(each, grid) for each in maps], dim=1)))
        return {"objectness": cells[:, : self.num_classes], "boxes": F.softplus(cells[:, self.num_classes :])}
