"""Settings of the evaluation of class maps."""

from __future__ import annotations

from pydantic import Field

from config import LabelledEvaluateConfig, Positive
from tasks.segmentation.ensemble_settings import EnsembleConfig


class SegmentationEvaluate(LabelledEvaluateConfig):
    """Score the best checkpoint on a split, or on other pictures and their labels.

    Examples
    --------
    >>> SegmentationEvaluate(boundary_width=0.02).names_pictures
    False
    """

    boundary_width: Positive | None = Field(
        None,
        description="also score the edges of classes (boundary IoU) this far from them: below 1 a share of a picture's "
        "diagonal (0.02 is usual), else pixels",
    )
    ensemble: EnsembleConfig | None = Field(None, description="score together with another model's objects")
