"""Students: small backbones in the layouts of transformers that learn the feature maps of a teacher.

What is trained is a `models.backbone.Backbone`, so that the maps of a student are those of whoever loads its
folder, and one linear layer per block, from its channels to the teacher's, which is not exported.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.backbone import Backbone
from models.backbones.info import BackboneInfo, resolve_layers
from models.backbones.weights import FAMILIES, build_config, quiet_transformers
from models.base import FeatureSpec, Head, HeadOptions, resize
from utils.errors import SettingsError


class StudentOptions(HeadOptions):
    """Settings that all students share.

    Examples
    --------
    >>> StudentOptions(layers=[2, 5]).layers
    [2, 5]
    """

    layers: list[int] | None = Field(
        None,
        min_length=1,
        description="which block of the student learns each of the teacher's; one may learn several; null: evenly, "
        "to the last",
    )


class Projection(nn.Conv2d):
    """A linear layer from a student's channels to a teacher's, which standardises the teacher's.

    Mean and deviation are buffers beside the weights, so that they travel with the checkpoint.

    Parameters
    ----------
    in_channels, out_channels : int
        Of the student and of the teacher.

    Examples
    --------
    >>> projection = Projection(4, 2)
    >>> projection.set_target_stats(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    >>> projection.standardize(torch.tensor([3.0, 6.0]).view(1, 2, 1, 1)).flatten().tolist()
    [1.0, 1.0]
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1)
        self.register_buffer("mean", torch.zeros(out_channels))
        self.register_buffer("deviation", torch.ones(out_channels))

    def set_target_stats(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and deviation of the teacher's channels.

        Both have shape (C,).

        Examples
        --------
        >>> projection = Projection(4, 2)
        >>> projection.set_target_stats(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
        >>> projection.mean.tolist()
        [1.0, 2.0]
        """
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def load_weights(self, weight: Tensor, bias: Tensor) -> None:
        """Set weight (out, in) and bias (out,).

        Examples
        --------
        >>> projection = Projection(1, 2)
        >>> projection.load_weights(torch.tensor([[1.0], [2.0]]), torch.zeros(2))
        >>> projection(torch.full((1, 1, 1, 1), 3.0)).flatten().tolist()
        [3.0, 6.0]
        """
        with torch.no_grad():
            self.weight.copy_(weight[..., None, None])
            self.bias.copy_(bias)  # type: ignore[union-attr]

    def standardize(self, feature_map: Tensor) -> Tensor:
        """Bring a teacher's map (B, C, h, w) to mean 0 and deviation 1 in every channel.

        Examples
        --------
        >>> Projection(4, 2).standardize(torch.ones(1, 2, 3, 4)).shape
        torch.Size([1, 2, 3, 4])
        """
        return (feature_map.float() - self.mean[:, None, None]) / self.deviation[:, None, None]

    def restore(self, standard: Tensor) -> Tensor:
        """Give a standardised map (B, C, h, w) the teacher's means and deviations again.

        Examples
        --------
        >>> projection = Projection(4, 1)
        >>> projection.set_target_stats(torch.tensor([5.0]), torch.tensor([2.0]))
        >>> projection.restore(torch.ones(1, 1, 1, 1)).item()
        7.0
        """
        return standard * self.deviation[:, None, None] + self.mean[:, None, None]


def fit_grid(feature_map: Tensor, grid: Sequence[int]) -> Tensor:
    """Resize a map to another grid, bilinearly, and with antialiasing where cells become fewer.

    `feature_map` has shape (B, C, h, w), the result shape (B, C, *grid).

    Examples
    --------
    >>> fit_grid(torch.tensor([[[[0.0, 4.0]]]]), (1, 4)).flatten().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    fewer = feature_map.shape[-2] > grid[0] or feature_map.shape[-1] > grid[1]
    return resize(feature_map, grid, antialias=fewer)


def choose_learners(layers: Sequence[int] | None, count: int, depth: int) -> tuple[int, ...]:
    """Decide which block of a student learns each of the teacher's blocks.

    Parameters
    ----------
    layers : sequence of int, optional
        Blocks of the student, one for each of the teacher's, negative from the end; None spreads them evenly.
    count : int
        Blocks of the teacher to learn.
    depth : int
        Blocks of the student.

    Returns
    -------
    tuple of int
        Blocks of the student, from 0; one may be there more than once.

    Raises
    ------
    SettingsError
        If there are not as many, one does not exist, or the last one of the student would learn nothing.

    Examples
    --------
    >>> choose_learners(None, 2, 6), choose_learners(None, 4, 3), choose_learners([0, -1], 2, 6)
    ((2, 5), (0, 1, 2, 2), (0, 5))
    >>> choose_learners([5], 2, 6)
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.layers: 1 blocks for 2 of the teacher; name one for each
    """
    if layers is None:
        return tuple(-(-(index + 1) * depth // count) - 1 for index in range(count))
    learners = tuple(resolve_layers([layer], depth)[0] for layer in layers)
    if len(learners) != count:
        raise SettingsError(
            f"model.head_options.layers: {len(learners)} blocks for {count} of the teacher; name one for each"
        )
    if depth - 1 not in learners:
        raise SettingsError(
            f"model.head_options.layers: {list(learners)} leaves out the last of {depth} blocks, which would learn "
            "nothing; name it, or make the student smaller"
        )
    return learners


class Student(Head):
    """Base of all students: a trained backbone and a projection per block of the teacher.

    Parameters
    ----------
    spec : FeatureSpec
        The maps of the teacher that are to be learnt, and the normalisation, which is also the student's.
    num_outputs : int
        How many maps; one for each of the specification's.
    options : StudentOptions
        Its size.

    Raises
    ------
    SettingsError
        If a block is named that does not exist, or the last one would learn nothing.

    Examples
    --------
    >>> from models.backbones.transformer_students import VitOptions, VitStudent
    >>> spec = FeatureSpec((8, 8), (14, 14), 14, 3, (0.5,) * 3, (0.25,) * 3)
    >>> student = VitStudent(spec, 2, VitOptions(width=16, depth=3, heads=2))
    >>> student.learners, student.backbone.info.mean, len(student.projections)
    ((1, 2), (0.5, 0.5, 0.5), 2)
    >>> VitStudent(spec, 2, VitOptions(width=16, depth=3, heads=2, layers=[0, 1]))
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.layers: [0, 1] leaves out the last of 3 blocks, which would learn ...
    """

    family: ClassVar[str]
    needs_image: ClassVar[bool] = True
    output_layers: ClassVar[tuple[str, ...]] = ("projections",)
    Options: ClassVar[type[HeadOptions]] = StudentOptions

    def __init__(self, spec: FeatureSpec, num_outputs: int, options: StudentOptions):
        super().__init__(spec, num_outputs, options)
        import transformers

        self.config = self.make_config()
        channels, strides, patch_size = self.geometry()
        self.learners = choose_learners(options.layers, num_outputs, len(channels))
        layers = tuple(sorted(set(self.learners)))
        info = BackboneInfo(
            id="student",
            family=self.family,
            digest="",
            licence="",
            patch_size=patch_size,
            layers=layers,
            channels=tuple(channels[index] for index in layers),
            strides=tuple(strides[index] for index in layers),
            mean=(spec.mean[0], spec.mean[1], spec.mean[2]),
            std=(spec.std[0], spec.std[1], spec.std[2]),
            num_blocks=len(channels),
        )
        with quiet_transformers():
            model_class = getattr(transformers, f"{FAMILIES[self.family].prefix}Model")
            model = model_class(build_config(Path("student"), self.family, self.config))
        self.backbone = Backbone(model, info)
        self.backbone.unfreeze(True)
        pairs = zip(self.learners, spec.channels, strict=True)
        self.projections = nn.ModuleList(Projection(channels[layer], width) for layer, width in pairs)

    @abstractmethod
    def make_config(self) -> dict[str, Any]:
        """Give the content of `config.json`."""

    @abstractmethod
    def geometry(self) -> tuple[list[int], list[int], int]:
        """Give channels and stride of every block, and what sides of pictures are multiples of."""

    def draw_stretch(self, generator: np.random.Generator) -> list[float]:
        """Draw by how much the positions of one picture are stretched, down and across.

        Examples
        --------
        >>> from models.backbones.convnext_student import ConvNextOptions, ConvNextStudent
        >>> spec = FeatureSpec((8,), (32,), 32, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = ConvNextStudent(spec, 1, ConvNextOptions(widths=[4, 4, 8, 8], depths=[1, 1, 1, 1]))
        >>> student.draw_stretch(np.random.default_rng(0))
        [1.0, 1.0]
        """
        return [1.0, 1.0]

    def compute_in(self, precision: str) -> None:
        """Choose the arithmetic of the backbone, "bf16" or "fp32"; weights are float32 either way.

        Examples
        --------
        >>> from models.backbones.transformer_students import VitOptions, VitStudent
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = VitStudent(spec, 1, VitOptions(width=8, depth=1, heads=2))
        >>> student.compute_in("bf16")
        >>> student.backbone.info.precision_in_use
        'bf16'
        """
        self.backbone.info = replace(self.backbone.info, precision_in_use=precision)

    def forward(
        self, feature_maps: Sequence[Tensor], image: Tensor, stretch: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Predict the teacher's maps from the picture.

        Parameters
        ----------
        feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
            The teacher's; only their grids are looked at.
        image : Tensor, shape (B, 3, H, W)
            uint8, or floating point on a scale from 0 to 255.
        stretch : Tensor, shape (B, 2), optional
            Of positions, while training.

        Returns
        -------
        dict of Tensor
            ``"predicted_0"`` and so on, each of the shape of its map, standardised.

        Examples
        --------
        >>> from models.backbones.transformer_students import VitOptions, VitStudent
        >>> spec = FeatureSpec((6, 4), (4, 8), 8, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = VitStudent(spec, 2, VitOptions(width=8, depth=2, heads=2, patch_size=4))
        >>> found = student([torch.zeros(1, 6, 2, 4), torch.zeros(1, 4, 1, 2)], torch.zeros(1, 3, 8, 16))
        >>> {name: tuple(predicted.shape) for name, predicted in found.items()}
        {'predicted_0': (1, 6, 2, 4), 'predicted_1': (1, 4, 1, 2)}
        """
        maps = dict(zip(self.backbone.info.layers, self.backbone(image, stretch), strict=True))
        parts = zip(self.learners, self.projections, feature_maps, strict=True)
        fitted = [fit_grid(projection(maps[layer]), target.shape[-2:]) for layer, projection, target in parts]
        return {f"predicted_{index}": predicted for index, predicted in enumerate(fitted)}

    def tensors(self) -> dict[str, np.ndarray]:
        """The backbone's weights by their names, rounded to float16, without what only training needs.

        Examples
        --------
        >>> from models.backbones.transformer_students import VitOptions, VitStudent
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> tensors = VitStudent(spec, 1, VitOptions(width=8, depth=1, heads=2)).tensors()
        >>> tensors["norm.weight"].dtype, any("projection" in name for name in tensors)
        (dtype('float16'), False)
        """
        named = self.backbone.model.named_parameters()
        return {name: parameter.detach().cpu().to(torch.float16).numpy() for name, parameter in named}


def count_multiply_adds(family: str, config: Mapping[str, Any], image_size: Sequence[int]) -> int:
    """Count the multiplications with an addition that a backbone needs for one picture.

    Counted are matrix products and convolutions; not norms, activations and softmax, which are a few percent. Twice as
    many are its FLOPs.

    Parameters
    ----------
    family : str
        One of `models.backbones.weights.FAMILIES`.
    config : mapping
        What `config.json` says.
    image_size : sequence of two int
        Height and width, which are continued to whole patches.

    Returns
    -------
    int
        Of all blocks.

    Examples
    --------
    >>> small = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}
    >>> round(count_multiply_adds("dinov2", small, (224, 224)) / 1e9, 2)
    6.12
    """
    import transformers

    settings = build_config(Path("student"), family, config)
    settings._attn_implementation = "eager"  # fused attention is not counted where there is no memory behind a tensor
    multiple = settings.patch_size if FAMILIES[family].is_vit else 32
    height, width = (-(-side // multiple) * multiple for side in image_size)
    with quiet_transformers(), torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        getattr(transformers, f"{FAMILIES[family].prefix}Model")(settings)(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() // 2
