"""Students: small backbones in the layouts of transformers that learn the feature maps of a teacher.

What is trained is a `models.backbone.Backbone`, so that the maps of a student are those that everybody sees who loads
its folder, and one linear layer per block that speaks the teacher's channels and is left behind in the end.
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

from models.backbone import Backbone, BackboneInfo, resolve_layers
from models.base import FeatureSpec, Head, HeadOptions, resize
from models.inheritance import choose_blocks, inherit_weights
from models.weights import (
    FAMILIES,
    build_config,
    find_backbone_folder,
    quiet_transformers,
    read_json_object,
)
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


class TransformerOptions(StudentOptions):
    """Settings that students of one width share.

    Examples
    --------
    >>> TransformerOptions(width=384, depth=3, heads=6, inherit=[0, 1, 2]).patch_size
    16
    """

    width: int = Field(256, ge=4, description="channels")
    depth: int = Field(6, ge=1, description="blocks")
    heads: int = Field(4, ge=1, description="attention heads, which share the width evenly")
    patch_size: int = Field(16, ge=1, description="pixels per patch side")
    layer_scale: float = Field(1.0, gt=0, description="start of the layer scales; 1 is right for so few blocks")
    inherit: list[int] | None = Field(
        None,
        min_length=1,
        description="block of the teacher with whose weights each block of the student begins, and all that stands "
        "before and behind blocks with it; null: random weights",
    )


class VitOptions(TransformerOptions):
    """Settings of the `vit` student; each head has a multiple of four channels.

    Examples
    --------
    >>> VitOptions().width
    256
    """

    mlp_ratio: float = Field(4.0, gt=0, description="hidden layer of a block, as a multiple of the width")
    registers: int = Field(4, ge=0, description="register tokens")
    rope_theta: float = Field(100.0, gt=0, description="base of the rotary positions")
    position_rescale: float = Field(
        2.0, ge=1, description="in training, positions are stretched at random by up to this factor or its inverse"
    )
    position_jitter: float = Field(1.1, ge=1, description="the same, down and across apart")


class Dinov2Options(TransformerOptions):
    """Settings of the `dinov2` student, by default three blocks as wide as ViT-S.

    Examples
    --------
    >>> Dinov2Options().width, Dinov2Options().positions
    (384, 24)
    """

    width: int = Field(384, ge=4, description="channels")
    depth: int = Field(3, ge=1, description="blocks")
    heads: int = Field(6, ge=1, description="attention heads, which share the width evenly")
    mlp_ratio: int = Field(4, ge=1, description="hidden layer of a block, as a multiple of the width")
    positions: int = Field(24, ge=1, description="side of the grid of learnt positions, in patches; others are between")


class ConvNextOptions(StudentOptions):
    """Settings of the `convnext` student.

    Examples
    --------
    >>> ConvNextOptions().widths
    [48, 96, 192, 384]
    """

    widths: list[int] = Field([48, 96, 192, 384], min_length=4, max_length=4, description="channels of the four stages")
    depths: list[int] = Field([2, 2, 6, 2], min_length=4, max_length=4, description="layers of the four stages")
    layer_scale: float = Field(1.0, gt=0, description="start of the layer scales")


class Projection(nn.Conv2d):
    """A linear layer from a student's channels to a teacher's, which knows how the teacher's are standardised.

    Mean and deviation are buffers beside the weights, so that they travel with the checkpoint.

    Parameters
    ----------
    in_channels, out_channels : int
        Of the student and of the teacher.

    Examples
    --------
    >>> projection = Projection(4, 2)
    >>> projection.know(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    >>> projection.standardize(torch.tensor([3.0, 6.0]).view(1, 2, 1, 1)).flatten().tolist()
    [1.0, 1.0]
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1)
        self.register_buffer("mean", torch.zeros(out_channels))
        self.register_buffer("deviation", torch.ones(out_channels))

    def know(self, mean: Tensor, deviation: Tensor) -> None:
        """Take what was measured of the teacher.

        Both have shape (C,).

        Examples
        --------
        >>> projection = Projection(4, 2)
        >>> projection.know(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
        >>> projection.mean.tolist()
        [1.0, 2.0]
        """
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def start_with(self, weight: Tensor, bias: Tensor) -> None:
        """Begin with this weight (out, in) and bias (out,).

        Examples
        --------
        >>> projection = Projection(1, 2)
        >>> projection.start_with(torch.tensor([[1.0], [2.0]]), torch.zeros(2))
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
        """Give a standardised map (B, C, h, w) the teacher's own means and deviations again.

        Examples
        --------
        >>> projection = Projection(4, 1)
        >>> projection.know(torch.tensor([5.0]), torch.tensor([2.0]))
        >>> projection.restore(torch.ones(1, 1, 1, 1)).item()
        7.0
        """
        return standard * self.deviation[:, None, None] + self.mean[:, None, None]


def fit_grid(feature_map: Tensor, grid: Sequence[int]) -> Tensor:
    """Bring a map to another grid of the same ground, bilinearly; where cells become fewer, all of them count.

    `feature_map` has shape (B, C, h, w), the result shape (B, C, *grid).

    Examples
    --------
    >>> fit_grid(torch.tensor([[[[0.0, 4.0]]]]), (1, 4)).flatten().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    fewer = feature_map.shape[-2] > grid[0] or feature_map.shape[-1] > grid[1]
    return resize(feature_map, grid, antialias=fewer)


def choose_learners(named: Sequence[int] | None, count: int, depth: int) -> tuple[int, ...]:
    """Decide which block of a student learns each of the teacher's blocks.

    Parameters
    ----------
    named : sequence of int, optional
        Blocks of the student, one for each of the teacher's, negative from the end; None spreads them evenly.
    count : int
        Blocks of the teacher to learn.
    depth : int
        Blocks of the student.

    Returns
    -------
    tuple of int
        Blocks of the student, from 0; one may stand there more than once.

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
    if named is None:
        return tuple(-(-(index + 1) * depth // count) - 1 for index in range(count))
    learners = tuple(resolve_layers([layer], depth)[0] for layer in named)
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
        The maps of the teacher that are to be learnt, and the normalisation, which the student takes over.
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
        self.projections = nn.ModuleList(Projection(channels[own], teacher) for own, teacher in pairs)

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
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = VitStudent(spec, 1, VitOptions(width=8, depth=1, heads=2))
        >>> student.compute_in("bf16")
        >>> student.backbone.precision_in_use
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
        >>> spec = FeatureSpec((6, 4), (4, 8), 8, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = VitStudent(spec, 2, VitOptions(width=8, depth=2, heads=2, patch_size=4))
        >>> found = student([torch.zeros(1, 6, 2, 4), torch.zeros(1, 4, 1, 2)], torch.zeros(1, 3, 8, 16))
        >>> {name: tuple(predicted.shape) for name, predicted in found.items()}
        {'predicted_0': (1, 6, 2, 4), 'predicted_1': (1, 4, 1, 2)}
        """
        own = dict(zip(self.backbone.info.layers, self.backbone(image, stretch), strict=True))
        parts = zip(self.learners, self.projections, feature_maps, strict=True)
        fitted = [fit_grid(projection(own[layer]), target.shape[-2:]) for layer, projection, target in parts]
        return {f"predicted_{index}": predicted for index, predicted in enumerate(fitted)}

    def tensors(self) -> dict[str, np.ndarray]:
        """The backbone's weights by their names, rounded to float16, without what only training needs.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> tensors = VitStudent(spec, 1, VitOptions(width=8, depth=1, heads=2)).tensors()
        >>> tensors["norm.weight"].dtype, any("projection" in name for name in tensors)
        (dtype('float16'), False)
        """
        named = self.backbone.model.named_parameters()
        return {name: parameter.detach().cpu().to(torch.float16).numpy() for name, parameter in named}


class TransformerStudent(Student):
    """Base of the students that may begin as blocks of their teacher.

    Parameters
    ----------
    spec : FeatureSpec
        The teacher's maps.
    num_outputs : int
        How many.
    options : TransformerOptions
        Its size.

    Raises
    ------
    SettingsError
        If `inherit` does not name one block of the teacher for each of the student's.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> Dinov2Student(spec, 1, Dinov2Options(width=8, depth=2, heads=2, inherit=[0]))
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.inherit: 1 blocks of the teacher for 2 of the student; name one ...
    """

    options: TransformerOptions

    def __init__(self, spec: FeatureSpec, num_outputs: int, options: TransformerOptions):
        if options.inherit is not None and len(options.inherit) != options.depth:
            raise SettingsError(
                f"model.head_options.inherit: {len(options.inherit)} blocks of the teacher for {options.depth} of the "
                "student; name one for each"
            )
        super().__init__(spec, num_outputs, options)

    def geometry(self) -> tuple[list[int], list[int], int]:
        """Channels and strides of the blocks, and the patch size.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> VitStudent(spec, 1, VitOptions(width=8, depth=1, heads=2)).geometry()
        ([8], [16], 16)
        """
        own = self.options
        return [own.width] * own.depth, [own.patch_size] * own.depth, own.patch_size

    def refuse_heads(self, multiple: int) -> None:
        """Raise unless each head has a multiple of so many channels.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> VitStudent(spec, 1, VitOptions(width=8, depth=1, heads=4))
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: model.head_options.heads: 4 heads share 8 channels; each needs a multiple of 4
        """
        if self.options.width % (multiple * self.options.heads):
            raise SettingsError(
                f"model.head_options.heads: {self.options.heads} heads share {self.options.width} channels; each "
                f"needs a multiple of {multiple}"
            )

    def check_teacher(self, teacher: BackboneInfo) -> None:
        """Raise where `inherit` asks for what the teacher does not have, without loading its weights.

        Raises
        ------
        SettingsError
            As `begin_as` would.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbone import load_backbone
        >>> from models.random_backbone import write_random_backbone
        >>> teacher = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), width=8, heads=2)), [-1]).info
        >>> spec = FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3)
        >>> Dinov2Student(spec, 1, Dinov2Options(width=8, depth=1, heads=1, inherit=[0])).check_teacher(teacher)
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: model.head_options.heads: 1, but the teacher, whose weights `inherit` takes, has 2
        """
        if self.options.inherit is not None:
            folder = find_backbone_folder(teacher.id)
            config = build_config(folder, teacher.family, read_json_object(folder / "config.json"))
            choose_blocks(self.backbone, teacher, config, self.options.inherit)

    def begin_as(self, teacher: Backbone) -> None:
        """Take over weights of the teacher, where `inherit` asks for it.

        Raises
        ------
        SettingsError
            If the teacher is built otherwise, or does not have the blocks.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbone import load_backbone
        >>> from models.random_backbone import write_random_backbone
        >>> teacher = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), width=8, depth=3, heads=2)), [2])
        >>> spec = FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = Dinov2Student(spec, 1, Dinov2Options(width=8, depth=1, heads=2, mlp_ratio=2, inherit=[2]))
        >>> student.begin_as(teacher)
        >>> torch.equal(student.backbone.blocks[0].norm1.weight, teacher.blocks[2].norm1.weight)
        True
        """
        if self.options.inherit is not None:
            inherit_weights(self.backbone, teacher, self.options.inherit)


class VitStudent(TransformerStudent):
    """A transformer in the layout of DINOv3: patches, registers, rotary positions, layer scale.

    Parameters
    ----------
    spec : FeatureSpec
        The teacher's maps.
    num_outputs : int
        How many.
    options : VitOptions
        Its size.

    References
    ----------
    Simeoni et al., 2025 (arXiv:2508.10104): the layout, and the rescaling and jitter of positions. Drawn once per
    picture here, not per batch, so that gradients do not depend on how a batch is shared.

    Examples
    --------
    >>> spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> student = VitStudent(spec, 4, VitOptions())
    >>> 9e6 < sum(array.nbytes for array in student.tensors().values()) < 12e6
    True
    """

    family: ClassVar[str] = "dinov3_vit"
    Options: ClassVar[type[HeadOptions]] = VitOptions
    input_layers: ClassVar[tuple[str, ...]] = ("backbone.model.embeddings",)
    options: VitOptions

    def make_config(self) -> dict[str, Any]:
        """Content of `config.json`.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> VitStudent(spec, 1, VitOptions(width=8, depth=1, heads=2)).make_config()["intermediate_size"]
        32
        """
        own = self.options
        self.refuse_heads(multiple=4)  # rotary positions turn pairs of channels, down and across
        return {
            "architectures": ["DINOv3ViTModel"],
            "model_type": self.family,
            "hidden_size": own.width,
            "intermediate_size": round(own.width * own.mlp_ratio),
            "num_hidden_layers": own.depth,
            "num_attention_heads": own.heads,
            "num_register_tokens": own.registers,
            "patch_size": own.patch_size,
            "image_size": 20 * own.patch_size,
            "num_channels": 3,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-05,
            "use_gated_mlp": False,
            "rope_theta": own.rope_theta,
            "layerscale_value": own.layer_scale,
            "pos_embed_rescale": own.position_rescale,
            "pos_embed_jitter": own.position_jitter,
            "attention_dropout": 0.0,
            "drop_path_rate": 0.0,
        }

    def draw_stretch(self, generator: np.random.Generator) -> list[float]:
        """Log-uniform factors: one for both axes, and one for each.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = VitStudent(spec, 1, VitOptions(width=8, depth=1, heads=2, position_jitter=1.0))
        >>> down, across = student.draw_stretch(np.random.default_rng(0))
        >>> down == across, 0.5 <= down <= 2
        (True, True)
        """
        both, down, across = generator.uniform(-1, 1, 3)
        rescale, jitter = self.options.position_rescale, self.options.position_jitter
        return [float(rescale**both * jitter**down), float(rescale**both * jitter**across)]


class Dinov2Student(TransformerStudent):
    """A transformer in the layout of DINOv2: patches, learnt positions, layer scale.

    Parameters
    ----------
    spec : FeatureSpec
        The teacher's maps.
    num_outputs : int
        How many.
    options : Dinov2Options
        Its size.

    References
    ----------
    Oquab et al., 2023 (arXiv:2304.07193).

    Examples
    --------
    >>> spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> student = Dinov2Student(spec, 4, Dinov2Options())
    >>> 9e6 < sum(array.nbytes for array in student.tensors().values()) < 12e6
    True
    """

    family: ClassVar[str] = "dinov2"
    Options: ClassVar[type[HeadOptions]] = Dinov2Options
    input_layers: ClassVar[tuple[str, ...]] = ("backbone.model.embeddings",)
    options: Dinov2Options

    def make_config(self) -> dict[str, Any]:
        """Content of `config.json`.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3)
        >>> config = Dinov2Student(spec, 1, Dinov2Options(width=8, depth=1, heads=2)).make_config()
        >>> config["image_size"], config["mlp_ratio"]
        (384, 4)
        """
        own = self.options
        self.refuse_heads(multiple=1)
        return {
            "architectures": ["Dinov2Model"],
            "model_type": self.family,
            "hidden_size": own.width,
            "mlp_ratio": own.mlp_ratio,
            "num_hidden_layers": own.depth,
            "num_attention_heads": own.heads,
            "patch_size": own.patch_size,
            "image_size": own.positions * own.patch_size,
            "num_channels": 3,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-06,
            "use_swiglu_ffn": False,
            "layerscale_value": own.layer_scale,
            "attention_probs_dropout_prob": 0.0,
            "hidden_dropout_prob": 0.0,
            "drop_path_rate": 0.0,
        }


class ConvNextStudent(Student):
    """A convolutional student in the layout of DINOv3's ConvNeXt: four stages, of strides 4, 8, 16 and 32.

    Parameters
    ----------
    spec : FeatureSpec
        The teacher's maps.
    num_outputs : int
        How many; at most four.
    options : ConvNextOptions
        Its size.

    References
    ----------
    Liu et al., 2022 (arXiv:2201.03545).

    Examples
    --------
    >>> spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> student = ConvNextStudent(spec, 4, ConvNextOptions())
    >>> 8e6 < sum(array.nbytes for array in student.tensors().values()) < 12e6
    True
    """

    family: ClassVar[str] = "dinov3_convnext"
    Options: ClassVar[type[HeadOptions]] = ConvNextOptions
    input_layers: ClassVar[tuple[str, ...]] = ("backbone.model.model.stages.0.downsample_layers",)
    options: ConvNextOptions

    def make_config(self) -> dict[str, Any]:
        """Content of `config.json`.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (32,), 32, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = ConvNextStudent(spec, 1, ConvNextOptions(widths=[4, 4, 8, 8], depths=[1, 1, 1, 1]))
        >>> student.make_config()["hidden_sizes"]
        [4, 4, 8, 8]
        """
        return {
            "architectures": ["DINOv3ConvNextModel"],
            "model_type": self.family,
            "hidden_sizes": self.options.widths,
            "depths": self.options.depths,
            "num_channels": 3,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-06,
            "layer_scale_init_value": self.options.layer_scale,
            "drop_path_rate": 0.0,
        }

    def geometry(self) -> tuple[list[int], list[int], int]:
        """Channels and strides of the stages, and the stride of the last.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (32,), 32, 3, (0.5,) * 3, (0.5,) * 3)
        >>> ConvNextStudent(spec, 1, ConvNextOptions(widths=[4, 4, 8, 8], depths=[1, 1, 1, 1])).geometry()
        ([4, 4, 8, 8], [4, 8, 16, 32], 32)
        """
        return list(self.options.widths), [4, 8, 16, 32], 32


def count_multiply_adds(family: str, config: Mapping[str, Any], image_size: Sequence[int]) -> int:
    """Count the multiplications with an addition that a backbone needs for one picture.

    Counted are matrix products and convolutions; not norms, activations and softmax, which are a few percent. Twice as
    many are its FLOPs.

    Parameters
    ----------
    family : str
        One of `models.weights.FAMILIES`.
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
