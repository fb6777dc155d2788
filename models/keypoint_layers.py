"""What all keypoint heads share: their options, merged blocks, and the way from the patch grid to the fine grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from models.base import FeatureSpec, HeadOptions, KeypointHead, Layers, Width
from models.layers import (
    ChannelNorm,
    Classifier,
    ConvNorm,
    DetailBranch,
    Projections,
    ResidualUnit,
    halving_widths,
    levels_by_stride,
)
from utils.errors import SettingsError

RARE = 0.01  # probability of a keypoint in a cell before anything is learned


class KeypointOptions(HeadOptions):
    """Settings that all keypoint heads have.

    Examples
    --------
    >>> KeypointOptions(feature_merge="mean", feature_align_dim="auto").feature_align_dim
    'auto'
    """

    width: Width = Field(128, description="channels on the patch grid; halved with each doubling of the grid")
    narrowest: Width = Field(32, description="channels on the fine grid are never fewer than this")
    detail_width: Width = Field(32, description="channels of the raw picture's detail on the fine grid")
    depth: Layers = Field(1, description="residual units on the patch grid")
    feature_merge: Literal["concat", "mean", "max"] = Field(
        "concat", description="how the maps of the blocks are joined"
    )
    feature_align_dim: Width | Literal["auto"] | None = Field(
        None, description="channels that each block is brought to before they are joined; auto: its own, at most width"
    )
    normalize_features: bool = Field(True, description="layer norm of each cell of each block before they are joined")
    use_image: bool = Field(
        False, description="let the up-sampling see the raw picture beside the maps; twice the cost, no gain measured"
    )
    grouping: bool = Field(False, description="also centres of animals and offsets to them, for several in a picture")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the channels dropped on the patch grid")


class MergedMaps(nn.Module):
    """Bring the maps of all blocks to the patch grid and to one scale, align their channels, and join them.

    Parameters
    ----------
    spec : FeatureSpec
        The maps.
    options : KeypointOptions
        How they are normalised, aligned and joined.

    Raises
    ------
    SettingsError
        If a mean or maximum is asked for of blocks whose channels differ.

    Examples
    --------
    >>> spec = FeatureSpec((8, 8), (14, 14), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> MergedMaps(spec, KeypointOptions(feature_align_dim=6)).channels
    12
    >>> spec = FeatureSpec((8, 4), (8, 8), 8, 3, (0.5,) * 3, (0.5,) * 3)
    >>> MergedMaps(spec, KeypointOptions(feature_merge="max"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.feature_merge: max needs blocks of equal width, got 8, 4 channels...
    """

    def __init__(self, spec: FeatureSpec, options: KeypointOptions):
        super().__init__()
        self.merge = options.feature_merge
        self.pools = [spec.patch_size // stride for stride in spec.strides]
        widths, aligned = list(spec.channels), options.feature_align_dim
        if aligned is not None:  # `auto` takes the narrowest block's, so that the stages of a pyramid have a mean
            widths = [min(*widths, options.width) if aligned == "auto" else aligned] * len(widths)
        if self.merge != "concat" and len(set(widths)) > 1:
            raise SettingsError(
                f"model.head_options.feature_merge: {self.merge} needs blocks of equal width, got "
                f"{', '.join(map(str, widths))} channels; set feature_align_dim: auto, or merge by concat"
            )
        self.channels = sum(widths) if self.merge == "concat" else widths[0]
        self.norms = nn.ModuleList(
            ChannelNorm(channels) if options.normalize_features else nn.Identity() for channels in spec.channels
        )
        self.aligners = nn.ModuleList(
            nn.Identity()
            if aligned is None
            else nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GELU(), ChannelNorm(width))
            for channels, width in zip(spec.channels, widths, strict=True)
        )

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Join maps (B, C_i, h_i, w_i) to one (B, C, rows, columns) on the patch grid.

        Examples
        --------
        >>> spec = FeatureSpec((1, 1), (4, 8), 8, 3, (0.5,) * 3, (0.5,) * 3)
        >>> merged = MergedMaps(spec, KeypointOptions(feature_merge="mean", normalize_features=False))
        >>> merged([torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]]), torch.tensor([[[[4.0]]]])]).tolist()
        [[[[3.0]]]]
        """
        aligned = []
        for feature_map, pool, norm, align in zip(feature_maps, self.pools, self.norms, self.aligners, strict=True):
            normed = norm(feature_map)
            aligned.append(align(F.avg_pool2d(normed, pool) if pool > 1 else normed))
        if self.merge == "concat":
            return torch.cat(aligned, dim=1)
        stacked = torch.stack(aligned)
        return stacked.mean(dim=0) if self.merge == "mean" else stacked.amax(dim=0)


class MapNorm(nn.GroupNorm):
    """Group normalisation over a whole map, in groups of as many channels as the number of channels allows.

    On the fine grid most cells are background, and a cell that is normalised by itself cannot be quiet: with
    `ChannelNorm` throughout, the median error on 17 keypoints of a mouse was 4.0 pixels, with this 3.3 (72 labelled
    frames, one seed).

    Parameters
    ----------
    channels : int
        Channels of the map.

    References
    ----------
    Wu and He, 2018 (arXiv:1803.08494).

    Examples
    --------
    >>> [MapNorm(channels).num_groups for channels in (64, 12, 7)]
    [8, 4, 1]
    """

    def __init__(self, channels: int):
        super().__init__(math.gcd(8, channels), channels)


class UpStep(nn.Module):
    """Double the grid by a transposed convolution, and let maps in that have the finer grid of their own.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels before and after.
    map_channels : sequence of int
        Channels of the maps that join; none for a plain transformer.

    Examples
    --------
    >>> UpStep(8, 4, [])(torch.zeros(1, 8, 2, 3), []).shape
    torch.Size([1, 4, 4, 6])
    """

    def __init__(self, channels_in: int, channels_out: int, map_channels: Sequence[int]):
        super().__init__()
        self.raise_grid = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False)
        self.norm = nn.Sequential(MapNorm(channels_out), nn.ReLU())
        self.entry = Projections(map_channels, channels_out) if map_channels else None

    def forward(self, coarse: Tensor, joining: Sequence[Tensor]) -> Tensor:
        """Map (B, C, 2 h, 2 w) of a map (B, c, h, w) and those that join it.

        Examples
        --------
        >>> UpStep(8, 4, [6])(torch.zeros(0, 8, 2, 3), [torch.zeros(0, 6, 4, 6)]).shape
        torch.Size([0, 4, 4, 6])
        """
        raised = self.raise_grid(coarse)
        if self.entry is not None:
            raised = raised + self.entry(joining, tuple(raised.shape[-2:]))
        return self.norm(raised)


class DetailJoin(nn.Module):
    """Correct a map of the fine grid by the picture's own detail; starts without, so that the features lead.

    Parameters
    ----------
    spec : FeatureSpec
        The picture and its patches.
    channels : int
        Channels of the map.
    detail_width : int
        Channels of the detail on the fine grid; half as many at half its stride.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> DetailJoin(spec, 1, 4)(torch.full((1, 1, 4, 8), 2.0), torch.zeros(1, 3, 14, 20)).unique().tolist()
    [2.0]
    """

    def __init__(self, spec: FeatureSpec, channels: int, detail_width: int):
        super().__init__()
        self.detail = DetailBranch(spec, max(detail_width // 2, 1), detail_width)
        self.correction = nn.Conv2d(channels + detail_width, channels, 3, padding=1, bias=False)
        self.norm = MapNorm(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, fine: Tensor, image: Tensor) -> Tensor:
        """The corrected map (B, c, h, w), nowhere negative.

        Examples
        --------
        >>> join = DetailJoin(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), 6, 4)
        >>> join(torch.zeros(0, 6, 4, 8), torch.zeros(0, 3, 14, 20)).shape
        torch.Size([0, 6, 4, 8])
        """
        seen = torch.cat([fine, self.detail(image)[1]], dim=1)
        return F.relu(fine + self.norm(self.correction(seen)))


class KeypointDecoder(nn.Module):
    """Merged blocks, a residual trunk on the patch grid, and learned up-sampling to the fine grid.

    The vectors of a plain transformer know where in its patch a thing lies. A transposed convolution can say it for
    each quarter of a cell by itself; interpolation blurs it (median error 4.3 against 3.3 pixels, as at `MapNorm`).
    Maps of a pyramid that are finer than the patch grid join on the way, and the picture's own detail at the end.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    options : KeypointOptions
        Widths, and whether the picture is seen.

    Attributes
    ----------
    widths : list of int
        Channels at each of `spec.levels`, coarse to fine.

    References
    ----------
    Xiao et al., 2018 (arXiv:1804.06208), section 2. Departures: a residual unit before the up-sampling, norms that do
    not look at the batch, channels that halve as the grid doubles, detail from the raw picture.

    Examples
    --------
    >>> spec = FeatureSpec((8, 8), (14, 14), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> KeypointDecoder(spec, KeypointOptions(width=16, narrowest=8)).widths
    [16, 8, 8]
    """

    def __init__(self, spec: FeatureSpec, options: KeypointOptions):
        super().__init__()
        self.widths = halving_widths(options.width, options.narrowest, len(spec.levels))
        self.joining = levels_by_stride(spec, len(self.widths))[1:]
        self.merged = MergedMaps(spec, options)
        self.stem = ConvNorm(self.merged.channels, options.width, kernel_size=1)
        self.dropout = nn.Dropout2d(options.dropout)
        self.trunk = nn.Sequential(*(ResidualUnit(options.width) for _ in range(options.depth)))
        self.steps = nn.ModuleList(
            UpStep(coarse, fine, [spec.channels[index] for index in joining])
            for (coarse, fine), joining in zip(pairwise(self.widths), self.joining, strict=True)
        )
        self.join = DetailJoin(spec, self.widths[-1], options.detail_width) if options.use_image else None
        # the optimiser reads this of every part of a head; where no picture is seen, there is no first layer
        self.input_layers = ("join.detail.stem",) if options.use_image else ()

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps (B, C, rows, columns) of the patch grid and (B, c, h, w) of the fine grid.

        Examples
        --------
        >>> spec = FeatureSpec((8, 4), (14, 7), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> decoder = KeypointDecoder(spec, KeypointOptions(width=16, narrowest=8))
        >>> [tuple(part.shape) for part in decoder([torch.zeros(1, 8, 2, 3), torch.zeros(1, 4, 4, 6)], None)]
        [(1, 16, 2, 3), (1, 8, 8, 12)]
        """
        patches = fine = self.trunk(self.dropout(self.stem(self.merged(feature_maps))))
        for step, joining in zip(self.steps, self.joining, strict=True):
            fine = step(fine, [feature_maps[index] for index in joining])
        return patches, fine if self.join is None else self.join(fine, cast(Tensor, image))


class FineClassifier(Classifier):
    """The last 1x1 convolution, in float32 under autocast too: a peak between two cells is found by small differences.

    Beside a bias of -4.6, bfloat16 counts in steps of 1/32.

    The weights start as those of any layer: with the small ones of `Classifier` it takes more than twice as many steps.

    Examples
    --------
    >>> classifier = FineClassifier(1, 1)
    >>> _ = nn.init.ones_(classifier.weight), nn.init.constant_(classifier.bias, 4.0)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     classifier(torch.full((1, 1, 1, 1), 2.0**-9)).item() - 4
    0.001953125
    """

    def __init__(self, channels: int, num_outputs: int):
        super().__init__(channels, num_outputs)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def init_prior_bias(self) -> FineClassifier:
        """Set the bias so that each cell starts with a probability of 0.01, since most cells hold no keypoint.

        References
        ----------
        Lin et al., 2017 (arXiv:1708.02002), section 4.1.

        Examples
        --------
        >>> [round(probability, 4) for probability in FineClassifier(8, 2).init_prior_bias().bias.sigmoid().tolist()]
        [0.01, 0.01]
        """
        nn.init.constant_(cast(Tensor, self.bias), math.log(RARE / (1 - RARE)))
        return self

    @override
    def forward(self, feature_map: Tensor) -> Tensor:
        """Values (B, K, h, w) of a map (B, C, h, w), float32.

        Examples
        --------
        >>> FineClassifier(8, 2)(torch.zeros(0, 8, 2, 3)).shape
        torch.Size([0, 2, 2, 3])
        """
        with torch.autocast(feature_map.device.type, enabled=False):
            return super().forward(feature_map.float())


class GroupingBranch(nn.Module):
    """Where the centres of animals are, and how far each cell's keypoints lie from their own animal's centre.

    Parameters
    ----------
    channels : int
        Channels of the map on the fine grid.
    num_keypoints : int
        Each has two offsets.
    cells : int
        Fine cells per patch side: the unit that the last layer counts offsets in.

    References
    ----------
    Zhou et al., 2019 (arXiv:1904.07850), section 5; Cheng et al., 2020 (arXiv:1911.10194), section 3.1.

    Examples
    --------
    >>> output = GroupingBranch(8, num_keypoints=5, cells=4)(torch.zeros(1, 8, 2, 3))
    >>> output["centre"].shape, output["offsets"].shape
    (torch.Size([1, 1, 2, 3]), torch.Size([1, 10, 2, 3]))
    """

    output_layers: ClassVar[tuple[str, ...]] = ("centre", "offsets")

    def __init__(self, channels: int, num_keypoints: int, cells: int):
        super().__init__()
        self.cells = cells
        self.hidden = ConvNorm(channels, 2 * channels, separable=True)
        self.centre = FineClassifier(2 * channels, 1).init_prior_bias()
        self.offsets = FineClassifier(2 * channels, 2 * num_keypoints)

    def forward(self, fine: Tensor) -> dict[str, Tensor]:
        """``"centre"`` (B, 1, h, w), logits, and ``"offsets"`` (B, 2 K, h, w) in cells, of a map (B, C, h, w).

        Examples
        --------
        >>> branch = GroupingBranch(8, num_keypoints=1, cells=4)
        >>> _ = branch.offsets.bias.data.copy_(torch.tensor([0.5, -2.0]))
        >>> branch(torch.zeros(1, 8, 1, 1))["offsets"].flatten().round().tolist()
        [2.0, -8.0]
        """
        hidden = self.hidden(fine)
        return {"centre": self.centre(hidden), "offsets": self.offsets(hidden) * self.cells}


class FineGridHead(KeypointHead):
    """What the keypoint heads have in common: the decoder and, when asked for, the grouping into animals.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_keypoints : int
        Channels of the heatmaps.
    options : KeypointOptions
        Widths, merging of blocks, picture, grouping.

    Raises
    ------
    SettingsError
        If the options do not fit the specification.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (14,), 14, 5, (0.5,) * 3, (0.5,) * 3)
    >>> FineGridHead(spec, 2, KeypointOptions())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.use_image: false leaves 2 extra bands unseen; set it to true, or ...
    """

    Options: ClassVar[type[HeadOptions]] = KeypointOptions
    needs_image: ClassVar[bool] = True

    def __init__(self, spec: FeatureSpec, num_keypoints: int, options: KeypointOptions):
        super().__init__(spec, num_keypoints, options)
        self.use_image = options.use_image
        if spec.image_channels > 3 and not options.use_image:
            raise SettingsError(
                f"model.head_options.use_image: false leaves {spec.image_channels - 3} extra bands unseen; "
                "set it to true, or choose three in dataset.bands"
            )
        self.decoder = KeypointDecoder(spec, options)
        fine = self.decoder.widths[-1]
        self.grouping = GroupingBranch(fine, num_keypoints, spec.fine_cells) if options.grouping else None

    @property
    @override
    def sees_image(self) -> bool:
        """Whether the picture is looked at: the option `use_image`.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> FineGridHead(spec, 2, KeypointOptions()).sees_image
        False
        """
        return self.use_image

    def draw(self, patches: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """Maps of the fine grid that the head answers with, made of both grids of the decoder.

        `patches` has shape (B, C, h, w), `fine` shape (B, F, H, W), and so have the maps.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = FineGridHead(spec, 5, KeypointOptions(width=16, grouping=True))
        >>> sorted(head.draw(torch.zeros(1, 16, 2, 3), torch.zeros(1, 16, 8, 12)))
        ['centre', 'offsets']
        """
        return {} if self.grouping is None else self.grouping(fine)

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None = None) -> dict[str, Tensor]:
        """Maps of the fine grid, by name.

        Parameters
        ----------
        feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
            One map per chosen block.
        image : Tensor, shape (B, 3 + E, H, W)
            Values of 0..255; not needed where `sees_image` is false.

        Returns
        -------
        dict of Tensor
            As `models.base.KeypointHead` lists them; all float32.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = FineGridHead(spec, 5, KeypointOptions(width=16, grouping=True))
        >>> head([torch.zeros(1, 8, 2, 3)], torch.zeros(1, 3, 28, 30))["offsets"].shape
        torch.Size([1, 10, 8, 12])
        """
        maps, _ = self.receive(feature_maps, image)
        return self.draw(*self.decoder(maps, image))
