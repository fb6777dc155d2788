"""The convolutional student."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import override

from models.backbones.student import Student, StudentOptions
from models.base import HeadOptions, Layers, Width


class ConvNextOptions(StudentOptions):
    """Settings of the `convnext` student.

    Examples
    --------
    >>> ConvNextOptions().widths
    [48, 96, 192, 384]
    """

    widths: list[Width] = Field(
        [48, 96, 192, 384], min_length=4, max_length=4, description="channels of the four stages"
    )
    depths: list[Layers] = Field([2, 2, 6, 2], min_length=4, max_length=4, description="layers of the four stages")
    layer_scale: float = Field(1.0, gt=0, description="initial value of the layer scales")


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
    >>> from models.base import FeatureSpec
    >>> spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> student = ConvNextStudent(spec, 4, ConvNextOptions())
    >>> 8e6 < sum(array.nbytes for array in student.tensors().values()) < 12e6
    True
    """

    family: ClassVar[str] = "dinov3_convnext"
    Options: ClassVar[type[HeadOptions]] = ConvNextOptions
    input_layers: ClassVar[tuple[str, ...]] = ("backbone.model.model.stages.0.downsample_layers",)
    options: ConvNextOptions

    @override
    def make_config(self) -> dict[str, Any]:
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

    @override
    def geometry(self) -> tuple[list[int], list[int], int]:
        return list(self.options.widths), [4, 8, 16, 32], 32
