"""Parts that several heads are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from models.base import FeatureSpec, resize
from utils.geometry.padding import pad_picture
from utils.runtime.distributed import differentiable_sum_over_ranks

EXTRA_BAND_MEAN = 0.5  # bands beyond the colours have no statistics of their own: the middle of the scale,
EXTRA_BAND_STD = 0.25  # and a quarter of it


def grid_size(grid: tuple[int, int], cells: int) -> tuple[int, int]:
    """Rows and columns of a grid with `cells` cells per patch side.

    Examples
    --------
    >>> grid_size((2, 3), 4)
    (8, 12)
    """
    return grid[0] * cells, grid[1] * cells


def levels_by_stride(spec: FeatureSpec, num_levels: int) -> list[list[int]]:
    """Indices of the maps whose own stride is that of each level; level 0 is the patch grid.

    Examples
    --------
    >>> levels_by_stride(FeatureSpec((8,) * 3, (4, 16, 32), 32, 3, (0.5,) * 3, (0.5,) * 3), 4)
    [[2], [1], [], [0]]
    """
    levels: list[list[int]] = [[] for _ in range(num_levels)]
    for index, stride in enumerate(spec.strides):
        levels[min(round(math.log2(spec.patch_size / stride)), num_levels - 1)].append(index)
    return levels


def spread_over_levels(spec: FeatureSpec, num_levels: int) -> list[list[int]]:
    """Say at which level of a decoder each feature map enters, deep maps at coarse levels.

    Maps of a pyramid enter where their own stride stands. The maps of a plain transformer all have one stride; they
    are spread evenly by depth, the deepest at the patch grid. A level that no map is left for takes the shallowest
    again.

    Parameters
    ----------
    spec : FeatureSpec
        The maps, shallow blocks first.
    num_levels : int
        Level 0 is the patch grid; each further level halves the stride.

    Returns
    -------
    list of list of int
        Indices of the maps that enter at each level, never none.

    Examples
    --------
    >>> vit = FeatureSpec((8,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> spread_over_levels(vit, 3)
    [[2, 3], [1], [0]]
    >>> spread_over_levels(FeatureSpec((8, 8), (14, 14), 14, 3, (0.5,) * 3, (0.5,) * 3), 3)
    [[1], [0], [0]]
    """
    num_maps = len(spec.strides)
    levels: list[list[int]] = [[] for _ in range(num_levels)]
    if len(set(spec.strides)) > 1:
        levels = levels_by_stride(spec, num_levels)
    else:
        for index in range(num_maps):
            depth = num_maps - 1 - index  # 0 for the deepest
            levels[depth * num_levels // max(num_maps, num_levels)].append(index)
    return [level or [0] for level in levels]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each cell by itself.

    No statistic of the picture enters. Group normalisation would take the mean of a window away from all its cells: a
    window full of one class then looks like a window with little of it. On aerial pictures with 58 % buildings, where
    training had seen 8 to 30 %, one head reached a building IoU of 0.40 with group and 0.73 with channel normalisation.
    Windows of the same ground also agree better.

    References
    ----------
    Ba et al., 2016 (arXiv:1607.06450), as ConvNeXt uses it (Liu et al., 2022, arXiv:2201.03545).

    Examples
    --------
    >>> norm = ChannelNorm(2, eps=0.0)
    >>> norm(torch.tensor([[1.0, 10.0], [3.0, 50.0]]).reshape(1, 2, 1, 2)).tolist()
    [[[[-1.0, -1.0]], [[1.0, 1.0]]]]
    """

    @override
    def forward(self, feature_map: Tensor) -> Tensor:
        """Normalise each cell of a map (B, C, h, w); with channels last this moves no memory.

        Examples
        --------
        >>> ChannelNorm(8)(torch.zeros(0, 8, 2, 3)).shape
        torch.Size([0, 8, 2, 3])
        """
        return super().forward(feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Sequential):
    """Convolution, normalisation over channels, ReLU.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels before and after.
    kernel_size, stride : int
        An odd kernel, padded so that only the stride changes the size.
    separable : bool
        One depthwise kernel per channel, then a 1x1: a ninth of the work of a 3x3, for fine grids.

    Examples
    --------
    >>> ConvNorm(4, 8, stride=2)(torch.zeros(1, 4, 6, 10)).shape
    torch.Size([1, 8, 3, 5])
    >>> [sum(p.numel() for p in ConvNorm(16, 16, separable=s).parameters()) for s in (False, True)]
    [2336, 432]
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int = 3, stride: int = 1, *, separable: bool = False
    ):
        padding = kernel_size // 2
        convolution: nn.Module = nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding, bias=False)
        if separable:
            convolution = nn.Sequential(
                nn.Conv2d(channels_in, channels_in, kernel_size, stride, padding, groups=channels_in, bias=False),
                nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False),
            )
        super().__init__(convolution, ChannelNorm(channels_out), nn.ReLU())


class ResidualUnit(nn.Module):
    """Two convolutions beside a shortcut; starts as the identity, so that deep stacks learn from the first step.

    Parameters
    ----------
    channels : int
        Channels before and after.

    References
    ----------
    He et al., 2016 (arXiv:1603.05027), the pre-activation unit, with normalisation over channels.

    Examples
    --------
    >>> feature_map = torch.tensor([[[[1.0, -2.0]]]])
    >>> ResidualUnit(1)(feature_map).tolist()
    [[[[1.0, -2.0]]]]
    """

    def __init__(self, channels: int):
        super().__init__()
        self.activation = nn.ReLU()
        self.first = ConvNorm(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = ChannelNorm(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Add what the two convolutions find.

        Examples
        --------
        >>> ResidualUnit(8)(torch.zeros(0, 8, 2, 3)).shape
        torch.Size([0, 8, 2, 3])
        """
        return feature_map + self.norm(self.second(self.first(self.activation(feature_map))))


class Classifier(nn.Conv2d):
    """The last 1x1 convolution: small weights and no bias at first, logits in float32 under autocast too.

    Examples
    --------
    >>> classifier = Classifier(8, 2)
    >>> classifier.bias.tolist(), classifier.weight.abs().max().item() < 0.1
    ([0.0, 0.0], True)
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__(channels, num_classes, kernel_size=1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, self.bias))

    @override
    def forward(self, feature_map: Tensor) -> Tensor:
        """Logits (B, K, h, w) of a map (B, C, h, w).

        Examples
        --------
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     Classifier(8, 2)(torch.zeros(1, 8, 2, 3)).dtype
        torch.float32
        """
        return super().forward(feature_map).float()


class Projections(nn.Module):
    """Project several maps by 1x1 convolutions, each on its own grid, and add them up on one grid.

    Both steps are linear, so projecting first gives what resizing first would, on a fraction of the cells.

    Parameters
    ----------
    channels_in : iterable of int
        Channels of each map; at least one.
    channels_out : int
        Channels of the sum.

    Examples
    --------
    >>> Projections([8, 4], 6)([torch.zeros(1, 8, 2, 3), torch.zeros(1, 4, 4, 6)], (4, 6)).shape
    torch.Size([1, 6, 4, 6])
    """

    def __init__(self, channels_in: Iterable[int], channels_out: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels_out, 1, bias=False) for channels in channels_in)
        self.norm = ChannelNorm(channels_out)

    def forward(self, feature_maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Sum of the projections (B, C, rows, columns), normalised.

        Examples
        --------
        >>> projections = Projections([1], 2)
        >>> _ = projections.layers[0].weight.data.copy_(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1))
        >>> projections([torch.tensor([[[[5.0]]]])], (1, 2)).round().tolist()
        [[[[-1.0, -1.0]], [[1.0, 1.0]]]]
        """
        by_size: dict[tuple[int, ...], Tensor] = {}
        for layer, feature_map in zip(self.layers, feature_maps, strict=True):
            projected, grid = layer(feature_map), tuple(feature_map.shape[-2:])
            by_size[grid] = by_size[grid] + projected if grid in by_size else projected
        resized = [resize(projected, size) for projected in by_size.values()]
        return self.norm(sum(resized[1:], start=resized[0]))


class ImageInput(nn.Module):
    """Normalise a picture, pad it to whole patches, and bring it to a grid of so many cells per patch.

    Parameters
    ----------
    spec : FeatureSpec
        Normalisation of the colours, number of extra bands, patch size.
    cells : int
        Cells per patch side of the result; the picture is not resized when that is the patch size.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (2,), 2, 4, (0.0, 0.5, 1.0), (0.25, 0.5, 1.0))
    >>> picture = torch.tensor([255, 255, 0, 255], dtype=torch.uint8).reshape(1, 4, 1, 1)
    >>> ImageInput(spec, cells=2)(picture)[0, :, 1, 1].tolist()
    [4.0, 1.0, -1.0, 2.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: FeatureSpec, cells: int):
        super().__init__()
        extra_bands = spec.image_channels - 3
        mean = torch.tensor([*spec.mean, *[EXTRA_BAND_MEAN] * extra_bands]).reshape(1, -1, 1, 1)
        std = torch.tensor([*spec.std, *[EXTRA_BAND_STD] * extra_bands]).reshape(1, -1, 1, 1)
        # not persistent: the specification holds them, and a state dict only what is trained
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.patch_size = spec.patch_size
        self.cells = cells

    def forward(self, image: Tensor) -> Tensor:
        """Picture (B, 3 + E, H, W) of 0..255 to (B, 3 + E, rows * cells, columns * cells), float32.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> ImageInput(spec, cells=16)(torch.zeros(1, 3, 15, 14, dtype=torch.uint8)).shape
        torch.Size([1, 3, 32, 16])
        """
        height, width = image.shape[-2:]
        normalized = (image.float() / 255 - self.mean) / self.std
        padded = pad_picture(normalized, (height + -height % self.patch_size, width + -width % self.patch_size))
        size = tuple(side // self.patch_size * self.cells for side in padded.shape[-2:])
        return resize(padded, size).contiguous(memory_format=torch.channels_last)


class DetailBranch(nn.Module):
    """Detail of the raw picture at half the stride of the fine grid, and on the fine grid itself.

    The picture is first brought to four cells per fine cell (its own size when the patch is 8, 16 or 32), so that two
    convolutions of stride 2 land on the grids of the decoder exactly.

    Parameters
    ----------
    spec : FeatureSpec
        The picture and its patches.
    half_channels, fine_channels : int
        Channels of the two maps.
    depth : int
        Further convolutions after each of the two that halve the grid.

    References
    ----------
    The spatial prior module of Chen et al., 2023 (arXiv:2205.08534), section 3.3, without its coarser levels.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> half, fine = DetailBranch(spec, 8, 16)(torch.zeros(1, 3, 28, 42, dtype=torch.uint8))
    >>> half.shape, fine.shape
    (torch.Size([1, 8, 16, 24]), torch.Size([1, 16, 8, 12]))
    """

    def __init__(self, spec: FeatureSpec, half_channels: int, fine_channels: int, depth: int = 0):
        super().__init__()
        self.image = ImageInput(spec, spec.fine_cells * 4)
        self.stem = ConvNorm(spec.image_channels, half_channels, stride=2)
        self.refine_half = nn.Sequential(
            *(ConvNorm(half_channels, half_channels, separable=True) for _ in range(depth))
        )
        self.down = ConvNorm(half_channels, fine_channels, stride=2)
        self.refine_fine = nn.Sequential(*(ConvNorm(fine_channels, fine_channels) for _ in range(depth)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of the picture with 2 and 1 cells per side of a fine cell.

        Examples
        --------
        >>> branch = DetailBranch(FeatureSpec((8,), (32,), 32, 3, (0.5,) * 3, (0.5,) * 3), 8, 16, depth=1)
        >>> [tuple(detail.shape) for detail in branch(torch.zeros(0, 3, 32, 64))]
        [(0, 8, 16, 32), (0, 16, 8, 16)]
        """
        half = self.refine_half(self.stem(self.image(image)))
        return half, self.refine_fine(self.down(half))


class UpBlock(nn.Module):
    """One step of a U-Net's decoder: narrow, up-sample, join the skip, convolve twice.

    Parameters
    ----------
    channels_in, skip_channels, channels_out : int
        Channels from the coarser level, of the skip, and of the result.
    separable : bool
        As in `ConvNorm`.

    Examples
    --------
    >>> UpBlock(8, 3, 4)(torch.zeros(1, 8, 2, 3), torch.zeros(1, 3, 4, 6)).shape
    torch.Size([1, 4, 4, 6])
    """

    def __init__(self, channels_in: int, skip_channels: int, channels_out: int, *, separable: bool = False):
        super().__init__()
        self.narrow = nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False)
        self.convolutions = nn.Sequential(
            ConvNorm(channels_out + skip_channels, channels_out, separable=separable),
            ConvNorm(channels_out, channels_out, separable=separable),
        )

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Map on the grid of the skip, which may be any multiple of the coarse one.

        Examples
        --------
        >>> UpBlock(8, 3, 4)(torch.zeros(0, 8, 2, 3), torch.zeros(0, 3, 5, 7)).shape
        torch.Size([0, 4, 5, 7])
        """
        raised = resize(self.narrow(coarse), skip.shape[-2:])
        return self.convolutions(torch.cat([raised, skip], dim=1))


def halving_widths(width: int, narrowest: int, num_levels: int) -> list[int]:
    """Channels of each level of a decoder, halved with each doubling of the grid.

    Examples
    --------
    >>> halving_widths(512, 64, 5)
    [512, 256, 128, 64, 64]
    """
    return [max(width >> level, min(width, narrowest)) for level in range(num_levels)]


class FusionPyramid(nn.Module):
    """Fuse maps from the patch grid to the fine grid, with the picture's own detail joined at the end.

    Parameters
    ----------
    spec : FeatureSpec
        What the decoder is given.
    widths : sequence of int
        Channels at each of `spec.levels`, coarse to fine.
    detail_width : int
        Channels of the picture's detail on the fine grid; half as many at half its stride.
    depth : int
        Residual units at each level.

    References
    ----------
    Ranftl et al., 2021 (arXiv:2103.13413), section 3.2. Departures: channel norm, projections before the up-sampling,
    channels that halve as the grid doubles, no level coarser than the patch grid, detail from the raw picture.

    Examples
    --------
    >>> spec = FeatureSpec((8, 8), (14, 14), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> pyramid = FusionPyramid(spec, [16, 8, 4], detail_width=4)
    >>> [tuple(level.shape) for level in pyramid([torch.zeros(1, 8, 2, 3)] * 2, torch.zeros(1, 3, 28, 42), (2, 3))]
    [(1, 16, 2, 3), (1, 8, 4, 6), (1, 4, 8, 12)]
    """

    def __init__(self, spec: FeatureSpec, widths: Sequence[int], detail_width: int, depth: int = 1):
        super().__init__()
        self.cells = spec.levels
        self.entries = spread_over_levels(spec, len(widths))
        self.projections = nn.ModuleList(
            Projections([spec.channels[index] for index in entry], width)
            for entry, width in zip(self.entries, widths, strict=True)
        )
        self.narrows = nn.ModuleList(
            nn.Conv2d(coarse, fine, kernel_size=1, bias=False) for coarse, fine in pairwise(widths)
        )
        self.units = nn.ModuleList(nn.Sequential(*(ResidualUnit(width) for _ in range(depth))) for width in widths)
        self.detail = DetailBranch(spec, max(detail_width // 2, 1), detail_width)
        self.join = ConvNorm(widths[-1] + detail_width, widths[-1])

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Fused maps of all levels, coarse to fine.

        Examples
        --------
        >>> pyramid = FusionPyramid(FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3), [4], detail_width=2)
        >>> [tuple(level.shape) for level in pyramid([torch.zeros(0, 8, 2, 3)], torch.zeros(0, 3, 8, 12), (2, 3))]
        [(0, 4, 2, 3)]
        """
        levels: list[Tensor] = []
        for index, cells in enumerate(self.cells):
            size = grid_size(grid, cells)
            fused = self.projections[index]([feature_maps[entry] for entry in self.entries[index]], size)
            if levels:
                fused = fused + resize(self.narrows[index - 1](levels[-1]), size)
            if index == len(self.cells) - 1:
                fused = self.join(torch.cat([fused, self.detail(image)[1]], dim=1))
            levels.append(self.units[index](fused))
        return levels


class RankBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics are those of all ranks: two ranks compute what one process computes.

    Works on CPU (torch's SyncBatchNorm does not), and on a rank whose share of the batch is empty.

    Parameters
    ----------
    channels : int
        Channels of the maps.

    References
    ----------
    Ioffe and Szegedy, 2015 (arXiv:1502.03167).

    Examples
    --------
    >>> norm = RankBatchNorm2d(1)
    >>> normed = norm(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1))
    >>> [round(value, 4) for value in (*normed.flatten().tolist(), norm.running_var.item())]
    [-1.0, 1.0, 1.1]
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Normalise a map (B, C, h, w), by the statistics of the batch in training, by the running ones else.

        Examples
        --------
        >>> RankBatchNorm2d(2)(torch.zeros(0, 2, 3, 4)).shape
        torch.Size([0, 2, 3, 4])
        """
        feature_map = feature_map.float()
        mean, variance = self._batch_statistics(feature_map) if self.training else (self.running_mean, self.running_var)
        scale = self.weight * (variance + 1e-5).rsqrt()
        shift = self.bias - mean * scale
        return feature_map * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)

    def _batch_statistics(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) over the cells of all ranks, which also move the running ones.

        Examples
        --------
        >>> mean, variance = RankBatchNorm2d(1)._batch_statistics(torch.tensor([[[[1.0, 5.0]]]]))
        >>> mean.tolist(), variance.tolist()
        ([3.0], [4.0])
        """
        axes = (0, 2, 3)
        cells = feature_map.numel() // feature_map.shape[1]
        sums = differentiable_sum_over_ranks(torch.cat([feature_map.sum(axes), feature_map.new_tensor([cells])]))
        count = sums[-1].detach().clamp(min=1)  # no cell on any rank: zeros, not nan
        mean = sums[:-1] / count
        # the second pass over centred values keeps the digits that a difference of squares would lose
        squares = (feature_map - mean.reshape(-1, 1, 1)).square().sum(axes)
        variance = differentiable_sum_over_ranks(squares) / count
        momentum = 0.1 * (sums[-1].detach() > 0)  # an empty batch moves nothing
        unbiased = variance.detach() * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean.detach(), momentum)
        self.running_var.lerp_(unbiased, momentum)
        return mean, variance
