"""What a head must give, and the geometry that all heads share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

MAX_STRIDE = 4  # image pixels per cell of the logits, at most

# Options that size memory end well above what published heads have.
Width = Annotated[int, Field(ge=1, le=4096)]  # channels
OptionalWidth = Annotated[int, Field(ge=0, le=4096)]  # 0: the part is left out
HiddenUnits = Annotated[int, Field(ge=1, le=16384)]
Layers = Annotated[int, Field(ge=1, le=64)]
AttentionHeads = Annotated[int, Field(ge=1, le=128)]
Queries = Annotated[int, Field(ge=1, le=5000)]  # attention and matching grow with their square


@dataclass(frozen=True)
class FeatureSpec:
    """What a head is given: the maps of a frozen backbone and the picture behind them.

    Parameters
    ----------
    channels : tuple of int
        Channels of each feature map, shallow blocks first.
    strides : tuple of int
        Image pixels per cell of each map; each divides `patch_size`.
    patch_size : int
        Pictures are padded at the bottom and right to multiples of this many pixels.
    image_channels : int
        Three colours and the extra bands behind them.
    mean, std : tuple of float
        Normalisation of the colours on the scale 0..1, as the backbone's weights expect it.

    Raises
    ------
    ValueError
        If the parts do not fit each other.

    Examples
    --------
    >>> spec = FeatureSpec((8, 8), (14, 14), 14, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> spec.fine_cells, spec.stride
    (4, 3.5)
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    patch_size: int
    image_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.channels or len(self.channels) != len(self.strides):
            raise ValueError(f"need one stride per feature map, got channels {self.channels}, strides {self.strides}")
        if any(self.patch_size % stride for stride in self.strides):
            raise ValueError(f"each stride must divide the patch size {self.patch_size}, got {self.strides}")
        if self.image_channels < 3 or len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(
                f"need at least 3 image channels, 3 means, 3 deviations; got {self.image_channels}, "
                f"{self.mean}, {self.std}"
            )

    @property
    def fine_cells(self) -> int:
        """Cells per patch side of the canonical fine grid: a power of two, cells of at most 4 pixels.

        Examples
        --------
        >>> [FeatureSpec((8,), (p,), p, 3, (0.5,) * 3, (0.5,) * 3).fine_cells for p in (8, 14, 16, 32)]
        [2, 4, 4, 8]
        """
        return 2 ** max(0, math.ceil(math.log2(self.patch_size / MAX_STRIDE)))

    @property
    def stride(self) -> float:
        """Image pixels per cell of the fine grid, a fraction when the patch is no multiple of 4.

        Examples
        --------
        >>> FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3).stride
        4.0
        """
        return self.patch_size / self.fine_cells

    @property
    def levels(self) -> tuple[int, ...]:
        """Cells per patch side from the patch grid to the fine grid, doubling each time.

        Examples
        --------
        >>> FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3).levels
        (1, 2, 4)
        """
        return tuple(2**level for level in range(self.fine_cells.bit_length()))

    def patch_grid(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of patches that cover a picture.

        Examples
        --------
        >>> FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3).patch_grid((28, 43))
        (2, 4)
        """
        height, width = image_size
        return -(-height // self.patch_size), -(-width // self.patch_size)


def patch_grid_of(feature_maps: Sequence[Tensor], spec: FeatureSpec) -> tuple[int, int]:
    """Rows and columns of patches that the feature maps cover, once they are what the head was built for.

    Parameters
    ----------
    feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
        One map per chosen block.
    spec : FeatureSpec
        What the head was built for.

    Returns
    -------
    tuple of int
        Rows and columns of the patch grid.

    Raises
    ------
    ValueError
        If the number of maps, their channels, or the area that they cover differ from the specification.

    Examples
    --------
    >>> spec = FeatureSpec((8, 4), (8, 16), 16, 3, (0.5,) * 3, (0.5,) * 3)
    >>> patch_grid_of([torch.zeros(1, 8, 4, 6), torch.zeros(1, 4, 2, 3)], spec)
    (2, 3)
    """
    channels = tuple(feature_map.shape[1] for feature_map in feature_maps)
    if channels != spec.channels:
        raise ValueError(f"feature maps must have channels {spec.channels}, got {channels}")
    grids = {
        (rows * stride / spec.patch_size, columns * stride / spec.patch_size)
        for (rows, columns), stride in zip((m.shape[-2:] for m in feature_maps), spec.strides, strict=True)
    }
    rows, columns = min(grids)
    if len(grids) > 1 or rows % 1 or columns % 1:
        sizes = [tuple(feature_map.shape[-2:]) for feature_map in feature_maps]
        raise ValueError(f"maps of strides {spec.strides} must cover the same whole patches, got sizes {sizes}")
    return int(rows), int(columns)


def resize(feature_map: Tensor, size: Sequence[int], antialias: bool = False) -> Tensor:
    """Resize bilinearly between the same outer corners; nothing is done when the size is right already.

    Parameters
    ----------
    feature_map : Tensor, shape (B, C, h, w)
        B may be 0.
    size : sequence of int
        Rows and columns of the result.
    antialias : bool
        Let all cells count where they become fewer.

    Returns
    -------
    Tensor, shape (B, C, rows, columns)
        The same ground in more or fewer cells.

    Examples
    --------
    >>> resize(torch.tensor([[[[0.0, 4.0]]]]), (1, 4)).tolist()
    [[[[0.0, 1.0, 3.0, 4.0]]]]
    >>> resize(torch.zeros(0, 8, 2, 3), (4, 6)).shape
    torch.Size([0, 8, 4, 6])
    """
    if tuple(feature_map.shape[-2:]) == tuple(size):
        return feature_map
    return F.interpolate(feature_map, size=tuple(size), mode="bilinear", antialias=antialias, align_corners=False)


def fit_to_image(logits: Tensor, image_size: Sequence[int], patch_size: int) -> Tensor:
    """Bring logits of the padded grid to the pixels of the picture.

    The grid covers whole patches, so it reaches beyond a picture whose sides are no multiples of the patch. Resizing it
    straight to the picture would squeeze it: up to a patch of drift. It is resized to the padded size and cropped.

    Parameters
    ----------
    logits : Tensor, shape (B, K, h, w)
        Covers the padded picture exactly.
    image_size : sequence of int
        Height and width of the picture, in pixels.
    patch_size : int
        The picture was padded at the bottom and right to multiples of this.

    Returns
    -------
    Tensor, shape (B, K, height, width), float32
        Logits of each pixel.

    Examples
    --------
    >>> fit_to_image(torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]]), (1, 6), patch_size=8).tolist()
    [[[[0.0, 0.25, 0.75, 1.25, 1.75, 2.25]]]]
    """
    height, width = image_size
    padded = (-(-height // patch_size) * patch_size, -(-width // patch_size) * patch_size)
    logits = logits.float()  # bfloat16 has too few digits to interpolate between neighbours
    return resize(logits, padded)[..., :height, :width]


class HeadOptions(BaseModel):
    """Base of the settings of a head: frozen, strict, nothing unknown gets in.

    Examples
    --------
    >>> HeadOptions().model_dump()
    {}
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Head(nn.Module):
    """Base of all heads: called as `head(feature_maps, image)`, it answers with a dictionary of maps.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_outputs : int
        How many things it tells apart; what they are, its kind says.
    options : HeadOptions
        Its settings, of the type `Options`; kept for the description in a checkpoint.

    Attributes
    ----------
    Options : type of HeadOptions
        The settings that the head understands.
    needs_image : bool
        Whether the head looks at the picture itself; only such heads take extra bands.
    input_layers, output_layers : tuple of str
        Prefixes of parameter names in the first and last layers, which a matrix optimiser must leave to AdamW.
    counts : str
        The name of `num_outputs` in messages.
    takes : tuple of str
        What it is called with by name beside maps and picture: `valid`, the mask of a batch (None where nothing was
        padded), and `target`, that of a training batch (None in evaluation).

    Raises
    ------
    ValueError
        If there is nothing to tell.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> head = Head(spec, num_outputs=2, options=HeadOptions())
    >>> head.stride, head.num_parameters, head.needs_image
    (3.5, 0, False)
    """

    Options: ClassVar[type[HeadOptions]] = HeadOptions
    needs_image: ClassVar[bool] = False
    input_layers: ClassVar[tuple[str, ...]] = ()
    output_layers: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[str] = "num_outputs"
    takes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: FeatureSpec, num_outputs: int, options: HeadOptions):
        super().__init__()
        if num_outputs < 1:
            raise ValueError(f"{self.counts} must be at least 1, got {num_outputs}")
        self.spec = spec
        self.options = options

    @property
    def sees_image(self) -> bool:
        """Whether the head looks at the picture with these options; heads that can do without it answer for themselves.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> SegmentationHead(spec, 2, HeadOptions()).sees_image
        False
        """
        return self.needs_image

    @property
    def stride(self) -> float:
        """Image pixels per cell of the logits.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (32,), 32, 3, (0.5,) * 3, (0.5,) * 3)
        >>> SegmentationHead(spec, 2, HeadOptions()).stride
        4.0
        """
        return self.spec.stride

    @property
    def num_parameters(self) -> int:
        """Number of trained values.

        Examples
        --------
        >>> head = SegmentationHead(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), 2, HeadOptions())
        >>> head.add_module("classifier", nn.Conv2d(8, 2, kernel_size=1))
        >>> head.num_parameters
        18
        """
        return sum(parameter.numel() for parameter in self.parameters())

    def receive(self, feature_maps: Sequence[Tensor], image: Tensor | None) -> tuple[list[Tensor], tuple[int, int]]:
        """Check what came, and give it the number type and memory layout that the head computes in.

        Parameters
        ----------
        feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
            As stored or as computed, any floating type.
        image : Tensor of shape (B, 3 + E, H, W), or None
            None is refused by heads that need the picture.

        Returns
        -------
        list of Tensor
            The maps, float32, channels last.
        tuple of int
            Rows and columns of the patch grid.

        Raises
        ------
        ValueError
            If maps and picture do not fit each other or the head.

        Examples
        --------
        >>> head = SegmentationHead(FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3), 2, HeadOptions())
        >>> maps, grid = head.receive([torch.zeros(1, 8, 2, 3, dtype=torch.float16)], torch.zeros(1, 3, 20, 30))
        >>> maps[0].dtype, grid
        (torch.float32, (2, 3))
        """
        grid = patch_grid_of(feature_maps, self.spec)
        if self.sees_image:
            self._check_image(image, grid)
        # convolutions run up to three times faster on channels last (measured on CPU, 32 channels)
        return [feature_map.float().contiguous(memory_format=torch.channels_last) for feature_map in feature_maps], grid

    def _check_image(self, image: Tensor | None, grid: tuple[int, int]) -> None:
        """Raise a ValueError unless the picture has the right channels and the size that the maps were made from.

        Examples
        --------
        >>> head = SegmentationHead(FeatureSpec((8,), (14,), 14, 4, (0.5,) * 3, (0.5,) * 3), 2, HeadOptions())
        >>> head._check_image(torch.zeros(1, 3, 20, 30), (2, 3))
        Traceback (most recent call last):
            ...
        ValueError: image must have 4 channels and fit a patch grid of (2, 3), got shape (1, 3, 20, 30)
        """
        if image is None:
            raise ValueError(f"{type(self).__name__} needs the image beside the feature maps, got None")
        if image.shape[1] != self.spec.image_channels or self.spec.patch_grid(image.shape[-2:]) != grid:
            raise ValueError(
                f"image must have {self.spec.image_channels} channels and fit a patch grid of {grid}, "
                f"got shape {tuple(image.shape)}"
            )


class SegmentationHead(Head):
    """Base of all heads that turn feature maps into class logits, by default on a grid of at most 4 pixels per cell.

    The dictionary holds always ``"logits"`` (B, K, h, w), on a grid that covers the padded picture; ``"aux_logits"``
    from a head with deep supervision, while training; ``"class_logits"`` and ``"mask_logits"`` from one that classifies
    masks.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Channels of the logits.
    options : HeadOptions
        Its settings, of the type `Options`.

    Raises
    ------
    ValueError
        If there is no class.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> SegmentationHead(spec, num_classes=2, options=HeadOptions()).num_classes
    2
    """

    counts: ClassVar[str] = "num_classes"
    num_queries: int | None = None  # of a head that classifies masks: each gives one

    def __init__(self, spec: FeatureSpec, num_classes: int, options: HeadOptions):
        super().__init__(spec, num_classes, options)
        self.num_classes = num_classes


class KeypointHead(Head):
    """Base of all heads that turn feature maps into heatmaps of keypoints on the fine grid of the specification.

    The dictionary holds always ``"heatmaps"`` (B, K, h, w), logits on a grid that covers the padded picture: point
    (x, y) in pixels lies at cell coordinate (x / stride, y / stride), the centre of the first cell being (0.5, 0.5).
    A head that groups keypoints into animals adds ``"centre"`` (B, 1, h, w), logits, and ``"offsets"`` (B, 2 K, h, w)
    in cells; a multitask head adds ``"objectness"``, ``"boxes"`` and ``"instance_mask"``.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_keypoints : int
        Channels of the heatmaps.
    options : HeadOptions
        Its settings, of the type `Options`.

    Raises
    ------
    ValueError
        If there is no keypoint.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> KeypointHead(spec, num_keypoints=0, options=HeadOptions())
    Traceback (most recent call last):
        ...
    ValueError: num_keypoints must be at least 1, got 0
    """

    counts: ClassVar[str] = "num_keypoints"

    def __init__(self, spec: FeatureSpec, num_keypoints: int, options: HeadOptions):
        super().__init__(spec, num_keypoints, options)
        self.num_keypoints = num_keypoints
