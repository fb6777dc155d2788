"""A U-Net decoder with a spatial prior of the picture, gated projections of the maps, and deep supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from models.base import FeatureSpec, HeadOptions, SegmentationHead, Width, resize
from models.layers import (
    ChannelNorm,
    Classifier,
    ConvNorm,
    DetailBranch,
    UpBlock,
    grid_size,
    halving_widths,
    spread_over_levels,
)


class UNetV2Options(HeadOptions):
    """Settings of the second U-Net head.

    Examples
    --------
    >>> UNetV2Options().prior_width
    32
    """

    width: Width = Field(128, description="channels on the patch grid, halved with each doubling; 512: the widest")
    narrowest: Width = Field(16, description="no level has fewer channels; 64: the widest")
    prior_width: Width = Field(32, description="channels of the picture's prior on the fine grid; 64: the widest")
    gate_reduction: int = Field(
        4, ge=1, le=4096, description="the gate of a projection has this many times fewer hidden units"
    )


class FidelityProjection(nn.Module):
    """Project a map and weigh its channels by a gate that looks at the whole picture.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels before and after.
    reduction : int
        Hidden units of the gate are so many times fewer than `channels_out`.

    References
    ----------
    The gate is that of Hu et al., 2018 (arXiv:1709.01507), section 3.

    Examples
    --------
    >>> FidelityProjection(8, 4, reduction=2)(torch.zeros(1, 8, 2, 3)).shape
    torch.Size([1, 4, 2, 3])
    """

    def __init__(self, channels_in: int, channels_out: int, reduction: int):
        super().__init__()
        hidden = max(channels_out // reduction, 1)
        self.project = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), ChannelNorm(channels_out))
        self.gate = nn.Sequential(
            nn.Linear(channels_out, hidden), nn.GELU(), nn.Linear(hidden, channels_out), nn.Sigmoid()
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """Gated projection (B, C, h, w).

        Examples
        --------
        >>> projection = FidelityProjection(1, 1, reduction=1)
        >>> _ = nn.init.constant_(projection.gate[2].bias, -1e9)  # a gate that is shut
        >>> projection(torch.tensor([[[[1.0, 3.0]]]])).abs().tolist()
        [[[[0.0, 0.0]]]]
        """
        projected = self.project(feature_map)
        # a mean, for adaptive pooling has no deterministic gradient on a GPU
        return projected * self.gate(projected.mean(dim=(2, 3)))[:, :, None, None]


class UNetV2Head(SegmentationHead):
    """Spatial prior module, fidelity-aware projections, a decoder, an auxiliary classifier one level before its end.

    The decoder ends at half the stride of the fine grid, so logits are never larger than the picture.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Channels of the logits.
    options : UNetV2Options
        Widths.

    References
    ----------
    Spatial prior module: Chen et al., 2023 (arXiv:2205.08534), section 3.3. Deep supervision: Lee et al., 2015
    (arXiv:1409.5185).

    Examples
    --------
    >>> spec = FeatureSpec((8,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> UNetV2Head(spec, 2, UNetV2Options(width=16)).stride
    1.75
    """

    Options: ClassVar[type[HeadOptions]] = UNetV2Options
    needs_image: ClassVar[bool] = True
    input_layers: ClassVar[tuple[str, ...]] = ("prior.stem",)
    output_layers: ClassVar[tuple[str, ...]] = ("classifier", "aux_classifier")

    def __init__(self, spec: FeatureSpec, num_classes: int, options: UNetV2Options):
        super().__init__(spec, num_classes, options)
        self.cells = (*spec.levels, 2 * spec.fine_cells)
        self.entries = spread_over_levels(spec, len(self.cells))
        widths = halving_widths(options.width, options.narrowest, len(self.cells))
        half_width = max(options.prior_width // 2, 1)
        self.projections = nn.ModuleList(
            nn.ModuleList(FidelityProjection(spec.channels[i], width, options.gate_reduction) for i in entry)
            for entry, width in zip(self.entries, widths, strict=True)
        )
        self.prior = DetailBranch(spec, half_width, options.prior_width, depth=1)
        self.bottleneck = ConvNorm(widths[0], widths[0])
        priors = [0] * (len(widths) - 2) + [options.prior_width, half_width]
        self.blocks = nn.ModuleList(
            UpBlock(coarse, fine + prior, fine, separable=fine < 32)
            for coarse, fine, prior in zip(widths[:-1], widths[1:], priors[1:], strict=True)
        )
        self.aux_classifier = Classifier(widths[-2], num_classes)
        self.classifier = Classifier(widths[-1], num_classes)

    @property
    @override
    def stride(self) -> float:
        """Image pixels per cell of the logits: half of the fine grid's.

        Examples
        --------
        >>> UNetV2Head(FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3), 2, UNetV2Options(width=16)).stride
        2.0
        """
        return self.spec.stride / 2

    def _project(self, maps: Sequence[Tensor], level: int, size: tuple[int, int]) -> Tensor:
        """Sum of the gated projections that enter at a level.

        Examples
        --------
        >>> head = UNetV2Head(FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3), 2, UNetV2Options(width=16))
        >>> head._project([torch.zeros(1, 8, 2, 3)], level=1, size=(4, 6)).shape
        torch.Size([1, 16, 4, 6])
        """
        layers = cast(nn.ModuleList, self.projections[level])
        projected = [resize(layer(maps[i]), size) for layer, i in zip(layers, self.entries[level], strict=True)]
        return sum(projected[1:], start=projected[0])

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None = None) -> dict[str, Tensor]:
        """Logits at half the stride of the fine grid; in training also those of the fine grid.

        Parameters
        ----------
        feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
            One map per chosen block.
        image : Tensor, shape (B, 3 + E, H, W)
            Values of 0..255.

        Returns
        -------
        dict of Tensor
            ``"logits"`` (B, K, 2h, 2w), and ``"aux_logits"`` (B, K, h, w) while training.

        Examples
        --------
        >>> head = UNetV2Head(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), 2, UNetV2Options(width=16))
        >>> output = head([torch.zeros(1, 8, 1, 2)], torch.zeros(1, 3, 14, 20))
        >>> output["logits"].shape, output["aux_logits"].shape
        (torch.Size([1, 2, 8, 16]), torch.Size([1, 2, 4, 8]))
        """
        maps, grid = self.receive(feature_maps, image)
        half_prior, fine_prior = self.prior(cast(Tensor, image))
        decoded = [self.bottleneck(self._project(maps, 0, grid))]
        for level, cells in enumerate(self.cells[1:], start=1):
            skip = self._project(maps, level, grid_size(grid, cells))
            if cells >= self.spec.fine_cells:
                skip = torch.cat([skip, fine_prior if cells == self.spec.fine_cells else half_prior], dim=1)
            decoded.append(self.blocks[level - 1](decoded[-1], skip))
        output = {"logits": self.classifier(decoded[-1])}
        if self.training:
            output["aux_logits"] = self.aux_classifier(decoded[-2])
        return output
