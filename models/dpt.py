"""The default head: maps fused coarse to fine, with detail from the raw picture, at a tenth of a U-Net's cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from pydantic import Field
from torch import Tensor, nn

from models.base import FeatureSpec, HeadOptions, Layers, SegmentationHead, Width
from models.layers import ChannelNorm, Classifier, FusionPyramid, halving_widths


class DPTOptions(HeadOptions):
    """Settings of the dense prediction head.

    Examples
    --------
    >>> DPTOptions().width
    128
    """

    width: Width = Field(128, description="channels on the patch grid; halved with each doubling of the grid")
    narrowest: Width = Field(32, description="channels on the fine grid are never fewer than this")
    detail_width: Width = Field(32, description="channels of the raw picture's detail on the fine grid")
    depth: Layers = Field(1, description="residual units at each level")


class DPTHead(SegmentationHead):
    """Fuse the maps of several blocks from the patch grid to the fine grid.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Channels of the logits.
    options : DPTOptions
        Widths and depth.

    References
    ----------
    Ranftl et al., 2021 (arXiv:2103.13413); departures are named at `models.layers.FusionPyramid`.

    Examples
    --------
    >>> spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> DPTHead(spec, 2, DPTOptions()).num_parameters < 1_000_000
    True
    """

    Options: ClassVar[type[HeadOptions]] = DPTOptions
    needs_image: ClassVar[bool] = True
    input_layers: ClassVar[tuple[str, ...]] = ("pyramid.detail.stem",)
    output_layers: ClassVar[tuple[str, ...]] = ("classifier",)

    def __init__(self, spec: FeatureSpec, num_classes: int, options: DPTOptions):
        super().__init__(spec, num_classes, options)
        widths = halving_widths(options.width, options.narrowest, len(spec.levels))
        self.pyramid = FusionPyramid(spec, widths, options.detail_width, options.depth)
        self.norm = nn.Sequential(ChannelNorm(widths[-1]), nn.ReLU())
        self.classifier = Classifier(widths[-1], num_classes)

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of the fine grid.

        Parameters
        ----------
        feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
            One map per chosen block.
        image : Tensor, shape (B, 3 + E, H, W)
            Values of 0..255.

        Returns
        -------
        dict of Tensor
            ``"logits"`` (B, K, h, w).

        Examples
        --------
        >>> import torch
        >>> head = DPTHead(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), 2, DPTOptions(width=8, narrowest=4))
        >>> head([torch.zeros(1, 8, 2, 3)], torch.zeros(1, 3, 28, 30))["logits"].shape
        torch.Size([1, 2, 8, 12])
        """
        maps, grid = self.receive(feature_maps, image)
        fine = self.pyramid(maps, cast(Tensor, image), grid)[-1]
        return {"logits": self.classifier(self.norm(fine))}
