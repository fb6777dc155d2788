"""A classic U-Net decoder: feature maps as skips, and the raw picture at the end, up to the picture's own size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from models.base import FeatureSpec, HeadOptions, SegmentationHead, Width
from models.layers import (
    Classifier,
    ConvNorm,
    ImageInput,
    Projections,
    UpBlock,
    grid_size,
    halving_widths,
    spread_over_levels,
)


class UNetOptions(HeadOptions):
    """Settings of the U-Net head.

    Examples
    --------
    >>> UNetOptions(width=512, narrowest=64).width
    512
    """

    width: Width = Field(
        128,
        description="channels of the bottleneck on the patch grid, halved with each doubling; 512 for the widest form",
    )
    narrowest: Width = Field(16, description="no level has fewer channels; 64 for the widest form")


class UNetHead(SegmentationHead):
    """A bottleneck on the patch grid, then blocks that double the grid, up to the size of the padded picture.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Channels of the logits.
    options : UNetOptions
        Widths.

    References
    ----------
    Ronneberger et al., 2015 (arXiv:1505.04597). Departures: channel norm; 1x1 and bilinear up-sampling in place of
    transposed convolutions; the last block goes from 8 cells per patch to the picture itself, whatever the patch size.

    Examples
    --------
    >>> spec = FeatureSpec((8,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> head = UNetHead(spec, 2, UNetOptions(width=16, narrowest=4))
    >>> head.stride, len(head.blocks)
    (1.0, 4)
    """

    Options: ClassVar[type[HeadOptions]] = UNetOptions
    needs_image: ClassVar[bool] = True
    input_layers: ClassVar[tuple[str, ...]] = ()
    output_layers: ClassVar[tuple[str, ...]] = ("classifier",)

    def __init__(self, spec: FeatureSpec, num_classes: int, options: UNetOptions):
        super().__init__(spec, num_classes, options)
        self.cells = (*spec.levels, 2 * spec.fine_cells)
        self.entries = spread_over_levels(spec, len(self.cells))
        widths = halving_widths(options.width, options.narrowest, len(self.cells) + 1)
        self.projections = nn.ModuleList(
            Projections([spec.channels[index] for index in entry], width)
            for entry, width in zip(self.entries, widths[:-1], strict=True)
        )
        self.bottleneck = nn.Sequential(ConvNorm(widths[0], widths[0]), ConvNorm(widths[0], widths[0]))
        skips = [*widths[1:-1], spec.image_channels]
        self.blocks = nn.ModuleList(
            UpBlock(coarse, skip, fine, separable=fine < 32)
            for coarse, skip, fine in zip(widths[:-1], skips, widths[1:], strict=True)
        )
        self.image = ImageInput(spec, spec.patch_size)
        self.classifier = Classifier(widths[-1], num_classes)

    @property
    @override
    def stride(self) -> float:
        """Image pixels per cell of the logits: they have the size of the padded picture.

        Examples
        --------
        >>> UNetHead(FeatureSpec((8,), (8,), 8, 3, (0.5,) * 3, (0.5,) * 3), 2, UNetOptions(width=16)).stride
        1.0
        """
        return 1.0

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of each pixel of the padded picture.

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
        >>> head = UNetHead(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), 2, UNetOptions(width=8))
        >>> head([torch.zeros(1, 8, 1, 2)], torch.zeros(1, 3, 14, 20))["logits"].shape
        torch.Size([1, 2, 14, 28])
        """
        maps, grid = self.receive(feature_maps, image)
        skips = [
            projection([maps[index] for index in entry], grid_size(grid, cells))
            for projection, entry, cells in zip(self.projections, self.entries, self.cells, strict=True)
        ]
        decoded = self.bottleneck(skips[0])
        for block, skip in zip(self.blocks, [*skips[1:], self.image(cast(Tensor, image))], strict=True):
            decoded = block(decoded, skip)
        return {"logits": self.classifier(decoded)}
