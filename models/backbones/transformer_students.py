"""Transformer students in the layouts of DINOv3 and DINOv2, which may be initialised with blocks of their teacher."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from models.backbone import Backbone
from models.backbones.info import BackboneInfo
from models.backbones.inheritance import choose_blocks, inherit_weights
from models.backbones.student import Student, StudentOptions
from models.backbones.weights import FAMILIES, build_config, find_backbone_folder, read_json_object
from models.base import FeatureSpec, HeadOptions
from utils.errors import SettingsError


class TransformerOptions(StudentOptions):
    """Settings that students of one width share.

    Examples
    --------
    >>> TransformerOptions(width=384, depth=3, heads=6, inherit=[0, 1, 2]).patch_size
    16
    """

    width: int = Field(256, ge=4, le=4096, description="channels")
    depth: int = Field(6, ge=1, le=64, description="blocks")
    heads: int = Field(4, ge=1, le=128, description="attention heads, which share the width evenly")
    patch_size: int = Field(16, ge=1, le=256, description="pixels per patch side")
    layer_scale: float = Field(1.0, gt=0, description="initial value of the layer scales; 1 is right for so few blocks")
    inherit: list[int] | None = Field(
        None,
        min_length=1,
        description="block of the teacher whose weights initialise each block of the student, with all layers before "
        "and behind the blocks; null: random weights",
    )


class VitOptions(TransformerOptions):
    """Settings of the `vit` student; each head has a multiple of four channels.

    Examples
    --------
    >>> VitOptions().width
    256
    """

    mlp_ratio: float = Field(4.0, gt=0, le=16, description="hidden layer of a block, as a multiple of the width")
    registers: int = Field(4, ge=0, le=64, description="register tokens")
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

    width: int = Field(384, ge=4, le=4096, description="channels")
    depth: int = Field(3, ge=1, le=64, description="blocks")
    heads: int = Field(6, ge=1, le=128, description="attention heads, which share the width evenly")
    mlp_ratio: int = Field(4, ge=1, le=16, description="hidden layer of a block, as a multiple of the width")
    positions: int = Field(
        24, ge=1, le=512, description="side of the grid of learnt positions, in patches; interpolated"
    )


class TransformerStudent(Student):
    """Base of the students that may be initialised with blocks of their teacher.

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

    head_multiple: ClassVar[int] = 1  # channels of a head are a multiple of this
    options: TransformerOptions

    def __init__(self, spec: FeatureSpec, num_outputs: int, options: TransformerOptions):
        if options.inherit is not None and len(options.inherit) != options.depth:
            raise SettingsError(
                f"model.head_options.inherit: {len(options.inherit)} blocks of the teacher for {options.depth} of the "
                "student; name one for each"
            )
        super().__init__(spec, num_outputs, options)

    @override
    def geometry(self) -> tuple[list[int], list[int], int]:
        options = self.options
        return [options.width] * options.depth, [options.patch_size] * options.depth, options.patch_size

    @override
    def make_config(self) -> dict[str, Any]:
        options = self.options
        multiple = self.head_multiple
        if options.width % (multiple * options.heads):
            raise SettingsError(
                f"model.head_options.heads: {options.heads} heads share {options.width} channels; each "
                f"needs a multiple of {multiple}"
            )
        return {
            "architectures": [f"{FAMILIES[self.family].prefix}Model"],
            "model_type": self.family,
            "hidden_size": options.width,
            "num_hidden_layers": options.depth,
            "num_attention_heads": options.heads,
            "patch_size": options.patch_size,
            "num_channels": 3,
            "hidden_act": "gelu",
            "layerscale_value": options.layer_scale,
            "drop_path_rate": 0.0,
        }

    def check_teacher(self, teacher: BackboneInfo) -> None:
        """Raise where `inherit` asks for what the teacher does not have, without loading its weights.

        Raises
        ------
        SettingsError
            As `inherit_from` does.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbone import load_backbone
        >>> from models.backbones.random_backbone import write_random_backbone
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

    def inherit_from(self, teacher: Backbone) -> None:
        """Copy weights of the teacher, where `inherit` asks for it.

        Raises
        ------
        SettingsError
            If the teacher is built otherwise, or does not have the blocks.

        Examples
        --------
        >>> import tempfile
        >>> from models.backbone import load_backbone
        >>> from models.backbones.random_backbone import write_random_backbone
        >>> teacher = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), width=8, depth=3, heads=2)), [2])
        >>> spec = FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3)
        >>> student = Dinov2Student(spec, 1, Dinov2Options(width=8, depth=1, heads=2, mlp_ratio=2, inherit=[2]))
        >>> student.inherit_from(teacher)
        >>> student.backbone.blocks[0].norm1.weight.equal(teacher.blocks[2].norm1.weight)
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
    head_multiple: ClassVar[int] = 4  # rotary positions turn pairs of channels, down and across
    options: VitOptions

    @override
    def make_config(self) -> dict[str, Any]:
        options = self.options
        return super().make_config() | {
            "intermediate_size": round(options.width * options.mlp_ratio),
            "num_register_tokens": options.registers,
            "image_size": 20 * options.patch_size,
            "layer_norm_eps": 1e-05,
            "use_gated_mlp": False,
            "rope_theta": options.rope_theta,
            "pos_embed_rescale": options.position_rescale,
            "pos_embed_jitter": options.position_jitter,
            "attention_dropout": 0.0,
        }

    @override
    def draw_stretch(self, generator: np.random.Generator) -> list[float]:
        both, down, across = generator.uniform(-1, 1, 3)  # log-uniform factors: one for both axes, and one for each
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

    @override
    def make_config(self) -> dict[str, Any]:
        return super().make_config() | {
            "mlp_ratio": self.options.mlp_ratio,
            "image_size": self.options.positions * self.options.patch_size,
            "layer_norm_eps": 1e-06,
            "use_swiglu_ffn": False,
            "attention_probs_dropout_prob": 0.0,
            "hidden_dropout_prob": 0.0,
        }
