"""Settings of how training pictures are varied."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from utils.runtime.setting_types import Fraction, Multiple, Section


class AugmentationsConfig(Section):
    """How training pictures are varied; stored features use stored views, online features everything."""

    later: ClassVar[tuple[str, ...]] = ("hue_degrees", "colour_probability")

    enable: bool = Field(False, description="train on more than the pictures as they are")
    hflip: bool = Field(True, description="mirror left and right")
    vflip: bool = Field(True, description="mirror top and bottom")
    rotate90: bool = Field(True, description="quarter turns")
    stored_views: int = Field(4, ge=1, le=8, description="views of a window that are stored, itself included")
    stored_variations: int = Field(0, ge=0, le=64, description="further random variations that are stored")
    brightness: Fraction = Field(0.0, description="random change; needs stored_variations or features: online")
    contrast: Fraction = Field(0.0, description="likewise")
    saturation: Fraction = Field(0.0, description="likewise")
    hue_degrees: float = Field(0.0, ge=0, le=180, description="random turn of colours around the grey axis; likewise")
    colour_probability: Fraction = Field(
        1.0, description="share of varied pictures in which each of brightness, contrast, saturation and hue is changed"
    )

    def random_parts(self) -> list[str]:
        """Names of the random variations that are asked for.

        Examples
        --------
        >>> AugmentationsConfig(enable=True, contrast=0.1).random_parts()
        ['contrast']
        >>> AugmentationsConfig(enable=False, contrast=0.1).random_parts()
        []
        """
        names = (
            "scale_range",
            "rotation_degrees",
            "shear_degrees",
            "translate",
            "brightness",
            "contrast",
            "saturation",
            "hue_degrees",
        )
        fields = type(self).model_fields if self.enable else {}
        return [name for name in names if name in fields and getattr(self, name) != fields[name].default]


class GeometricAugmentationsConfig(AugmentationsConfig):
    """Variations of tasks whose targets are turned and enlarged with the picture."""

    scale_range: list[Multiple] = Field(
        [1.0, 1.0], min_length=2, max_length=2, description="random enlargement; needs as brightness does"
    )
    rotation_degrees: float = Field(0.0, ge=0, le=180, description="random rotation; likewise")


class AffineAugmentationsConfig(GeometricAugmentationsConfig):
    """Variations of tasks whose targets are points or boxes, which follow any affine movement of the picture."""

    shear_degrees: float = Field(0.0, ge=0, le=45, description="random shear along either axis; likewise")
    translate: Fraction = Field(0.0, description="random shift, as a share of width and height; likewise")
    probability: Fraction = Field(
        1.0, description="share of varied pictures that are turned, enlarged, sheared and shifted"
    )
