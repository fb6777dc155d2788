"""An all-MLP decoder that learns its way from the patch grid to the fine grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from models.base import FeatureSpec, HeadOptions, SegmentationHead, Width
from models.layers import (
    ChannelNorm,
    Classifier,
    Projections,
    grid_size,
    halving_widths,
    levels_by_stride,
)


class SegFormerOptions(HeadOptions):
    """Settings of the all-MLP head.

    Examples
    --------
    >>> SegFormerOptions().dropout
    0.0
    """

    width: Width = Field(256, description="channels on the patch grid; halved with each doubling of the grid")
    narrowest: Width = Field(64, description="channels on the fine grid are never fewer than this")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the channels dropped before the classifier")
    upsampling: bool = Field(
        True, description="learned steps to the fine grid; false: logits on the patch grid, enlarged by interpolation"
    )


def shuffle_quarters(feature_map: Tensor) -> Tensor:
    """Spread four channels over the quarters of their cell: `F.pixel_shuffle`, whose gradient fails on an empty batch.

    Parameters
    ----------
    feature_map : Tensor, shape (B, 4 C, h, w)
        For each channel of the result: top left, top right, bottom left, bottom right.

    Returns
    -------
    Tensor, shape (B, C, 2 h, 2 w)
        Four times as many cells.

    Examples
    --------
    >>> import torch
    >>> shuffle_quarters(torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)).tolist()
    [[[[1.0, 2.0], [3.0, 4.0]]]]
    """
    batch, channels, rows, columns = feature_map.shape
    quarters = feature_map.reshape(batch, channels // 4, 2, 2, rows, columns).permute(0, 4, 2, 5, 3, 1)
    channels_last = quarters.reshape(batch, 2 * rows, 2 * columns, channels // 4)
    return channels_last.permute(0, 3, 1, 2)


class LearnedUpsampling(nn.Module):
    """Each cell says what its four quarters hold; a depthwise convolution ties the quarters of neighbours.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels before and after.

    References
    ----------
    Sub-pixel convolution: Shi et al., 2016 (arXiv:1609.05158). The depthwise kernel is that of SegFormer's Mix-FFN.

    Examples
    --------
    >>> import torch
    >>> LearnedUpsampling(8, 4)(torch.zeros(1, 8, 2, 3)).shape
    torch.Size([1, 4, 4, 6])
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.quarters = nn.Conv2d(channels_in, 4 * channels_out, kernel_size=1, bias=False)
        self.mix = nn.Conv2d(channels_out, channels_out, 3, padding=1, groups=channels_out, bias=False)
        self.norm = nn.Sequential(ChannelNorm(channels_out), nn.ReLU())

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map of twice as many rows and columns.

        Examples
        --------
        >>> import torch
        >>> LearnedUpsampling(8, 4)(torch.zeros(0, 8, 2, 3)).shape
        torch.Size([0, 4, 4, 6])
        """
        quarters = shuffle_quarters(self.quarters(feature_map))
        return self.norm(quarters + self.mix(quarters))


class SegFormerHead(SegmentationHead):
    """Maps projected and fused where they stand, then up-sampled in learned steps.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given; three image channels, for it never sees the picture.
    num_classes : int
        Channels of the logits.
    options : SegFormerOptions
        Widths, dropout, and whether logits are on the fine grid or on the patch grid.

    References
    ----------
    Xie et al., 2021 (arXiv:2105.15203), section 3.2. Departures: the maps of a plain transformer share one stride, so
    that up-sampling and joining them adds no resolution; learned up-sampling makes it here. Channel norm, not batch.

    Examples
    --------
    >>> spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> SegFormerHead(spec, 2, SegFormerOptions()).num_parameters
    625858
    """

    Options: ClassVar[type[HeadOptions]] = SegFormerOptions
    input_layers: ClassVar[tuple[str, ...]] = ()
    output_layers: ClassVar[tuple[str, ...]] = ("classifier",)

    def __init__(self, spec: FeatureSpec, num_classes: int, options: SegFormerOptions):
        super().__init__(spec, num_classes, options)
        num_levels = len(spec.levels) if options.upsampling else 1
        widths = halving_widths(options.width, options.narrowest, num_levels)
        self.is_fine = options.upsampling
        self.entries = levels_by_stride(spec, len(widths))
        self.entries[0] = self.entries[0] or [len(spec.channels) - 1]  # the decoder starts at the patch grid
        self.projections = nn.ModuleDict(
            {
                str(level): Projections([spec.channels[index] for index in entry], widths[level])
                for level, entry in enumerate(self.entries)
                if entry
            }
        )
        self.fuse = nn.Sequential(
            nn.ReLU(), nn.Conv2d(widths[0], widths[0], 1, bias=False), ChannelNorm(widths[0]), nn.ReLU()
        )
        self.steps = nn.ModuleList(LearnedUpsampling(coarse, fine) for coarse, fine in pairwise(widths))
        self.dropout = nn.Dropout2d(options.dropout)
        self.classifier = Classifier(widths[-1], num_classes)

    @property
    @override
    def stride(self) -> float:
        return self.spec.stride if self.is_fine else float(self.spec.patch_size)

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of the fine grid, or without up-sampling of the patch grid.

        Parameters
        ----------
        feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
            One map per chosen block.
        image : Tensor, optional
            Not looked at.

        Returns
        -------
        dict of Tensor
            ``"logits"`` (B, K, h, w).

        Examples
        --------
        >>> import torch
        >>> head = SegFormerHead(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), 2, SegFormerOptions(width=16))
        >>> head([torch.zeros(1, 8, 2, 3)])["logits"].shape
        torch.Size([1, 2, 8, 12])
        """
        maps, grid = self.receive(feature_maps, image)
        entering = {
            int(level): projection([maps[i] for i in self.entries[int(level)]], grid_size(grid, 2 ** int(level)))
            for level, projection in self.projections.items()
        }
        fused = self.fuse(entering[0])
        for level, step in enumerate(self.steps, start=1):
            fused = step(fused)
            if level in entering:
                fused = fused + entering[level]
        return {"logits": self.classifier(self.dropout(fused))}
