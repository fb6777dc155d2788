"""Settings of tasks of kind boxes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from config import (
    Count,
    DatasetConfig,
    Fraction,
    GeometricAugmentationsConfig,
    InferenceConfig,
    ModelConfig,
    NonNegative,
    SampleConfig,
    Section,
    TaskConfig,
)
from models import HeadName


class BoxesDataset(DatasetConfig):
    """The sample and how it is varied."""

    augmentations: GeometricAugmentationsConfig = GeometricAugmentationsConfig()
    sample: SampleConfig = SampleConfig()


class BoxesModel(ModelConfig):
    """The frozen backbone and the head that is trained on it."""

    head: Annotated[str, HeadName("boxes")] = Field("cells", description="name in the registry of heads")


class BoxesConfig(Section):
    """What only tasks of kind boxes have."""

    shrink: Count = Field(4, description="pixels of a picture per pixel of a sample")
    min_side: NonNegative = Field(0.0, description="boxes with a shorter side, in pixels of the picture, are left out")
    min_score: Fraction = Field(0.5, description="boxes below this are left out of predictions")


class BoxesSettings(TaskConfig):
    """All settings of a task of kind boxes."""

    kind: Literal["boxes"] = Field("boxes", description="what the task makes of pictures")
    dataset: BoxesDataset = BoxesDataset()
    model: BoxesModel = BoxesModel()
    inference: InferenceConfig = InferenceConfig()
    boxes: BoxesConfig = BoxesConfig()
