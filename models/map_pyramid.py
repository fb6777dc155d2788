"""Three maps of strides near 8, 16 and 32 from stored ones, each exactly half as large as the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import FeatureSpec
from models.layers import ConvNorm, ImageInput, Projections, spread_over_levels

FINEST_STRIDE = 8  # pixels
LEVELS = 3


class Details(nn.Module):
    """Maps of the picture itself at strides near 8, 16 and 32.

    Parameters
    ----------
    spec : FeatureSpec
        The picture and its patches.
    width : int
        Channels at a quarter of the picture; twice as many on the maps.
    cells : int
        Cells per patch side that the picture is brought to: 8 for each cell of the finest map.

    References
    ----------
    The spatial tuning adapter of Huang et al., 2025 (arXiv:2509.20787, DEIMv2), with a convolution in place of its
    pooling, and normalisation over channels.

    Examples
    --------
    >>> import torch
    >>> details = Details(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), width=4, cells=16)
    >>> [tuple(each.shape) for each in details(torch.zeros(1, 3, 14, 28, dtype=torch.uint8), (2, 2))]
    [(1, 8, 4, 4), (1, 8, 2, 2), (1, 8, 1, 1)]
    """

    def __init__(self, spec: FeatureSpec, width: int, cells: int):
        super().__init__()
        self.image = ImageInput(spec, cells)
        self.stem = nn.Sequential(ConvNorm(spec.image_channels, width, stride=2), ConvNorm(width, width, stride=2))
        twice = 2 * width
        self.steps = nn.ModuleList(ConvNorm(channels, twice, stride=2) for channels in (width, twice, twice))

    def forward(self, image: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Maps of a picture (B, 3 + E, H, W), which is filled up with zeros to so many patches.

        Examples
        --------
        >>> import torch
        >>> details = Details(FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3), width=4, cells=16)
        >>> [tuple(each.shape) for each in details(torch.zeros(0, 3, 32, 16), (2, 2))]
        [(0, 8, 4, 4), (0, 8, 2, 2), (0, 8, 1, 1)]
        """
        picture = pad_to(self.image(image), (grid[0] * self.image.cells, grid[1] * self.image.cells))
        levels, detail = [], self.stem(picture)
        for step in self.steps:
            detail = step(detail)
            levels.append(detail)
        return levels


class MapPyramid(nn.Module):
    """Project the chosen blocks to three levels, shallow blocks to the fine one, with the picture's own detail.

    Parameters
    ----------
    spec : FeatureSpec
        What is given.
    width : int
        Channels of each level.
    detail_width : int
        As in `Details`; 0: the picture is not looked at.

    References
    ----------
    Huang et al., 2025 (arXiv:2509.20787, DEIMv2), section 3.1, with one projection per map in place of one of all.

    Examples
    --------
    >>> import torch
    >>> pyramid = MapPyramid(FeatureSpec((8,) * 3, (14,) * 3, 14, 3, (0.5,) * 3, (0.5,) * 3), 16, detail_width=4)
    >>> pyramid.padded_grid((3, 5))
    (4, 6)
    >>> [tuple(level.shape) for level in pyramid([torch.zeros(1, 8, 3, 5)] * 3, torch.zeros(1, 3, 40, 70), (3, 5))]
    [(1, 16, 8, 12), (1, 16, 4, 6), (1, 16, 2, 3)]
    """

    def __init__(self, spec: FeatureSpec, width: int, detail_width: int):
        super().__init__()
        finest = 2.0 ** round(math.log2(spec.patch_size / FINEST_STRIDE))  # cells per patch side
        self.cells = [finest / 2**level for level in range(LEVELS)]
        self.multiple = max(1, round(1 / self.cells[-1]))  # patches per cell of the coarsest level
        self.map_cells = [spec.patch_size // stride for stride in spec.strides]
        self.entries = spread_over_levels(spec, LEVELS)[::-1]
        self.details = Details(spec, detail_width, round(finest * FINEST_STRIDE)) if detail_width else None
        detail = [2 * detail_width] if detail_width else []
        self.projections = nn.ModuleList(
            Projections([*(spec.channels[index] for index in entry), *detail], width) for entry in self.entries
        )

    def padded_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches that all levels cover with whole cells.

        Examples
        --------
        >>> MapPyramid(FeatureSpec((8,), (8,), 8, 3, (0.5,) * 3, (0.5,) * 3), 16, 0).padded_grid((4, 5))
        (4, 8)
        """
        return grid[0] + -grid[0] % self.multiple, grid[1] + -grid[1] % self.multiple

    def forward(self, maps: Sequence[Tensor], image: Tensor | None, grid: tuple[int, int]) -> list[Tensor]:
        """Levels (B, width, rows, columns), fine to coarse, from maps that cover a grid of so many patches.

        Examples
        --------
        >>> import torch
        >>> pyramid = MapPyramid(FeatureSpec((4, 8), (16, 32), 32, 3, (0.5,) * 3, (0.5,) * 3), 16, 0)
        >>> [tuple(level.shape) for level in pyramid([torch.zeros(1, 4, 2, 6), torch.zeros(1, 8, 1, 3)], None, (1, 3))]
        [(1, 16, 4, 12), (1, 16, 2, 6), (1, 16, 1, 3)]
        """
        rows, columns = self.padded_grid(grid)
        padded = [
            pad_to(each, (rows * cells, columns * cells)) for each, cells in zip(maps, self.map_cells, strict=True)
        ]
        details = [] if self.details is None or image is None else self.details(image, (rows, columns))
        levels = []
        for index, (cells, entry) in enumerate(zip(self.cells, self.entries, strict=True)):
            given = [padded[number] for number in entry] + details[index : index + 1]
            levels.append(self.projections[index](given, (round(rows * cells), round(columns * cells))))
        return levels


def pad_to(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Fill a map (B, C, h, w) up with zeros below and to the right.

    Examples
    --------
    >>> import torch
    >>> pad_to(torch.ones(1, 1, 1, 2), (2, 3)).tolist()
    [[[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]
    """
    height, width = feature_map.shape[-2:]
    return F.pad(feature_map, (0, size[1] - width, 0, size[0] - height))
