"""Settings of an ensemble with another model's objects."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from config import Fraction, Positive, Section


class EnsembleConfig(Section):
    """Join the class probabilities with the objects that another model has found in the same pictures.

    Examples
    --------
    >>> EnsembleConfig(predictions="yolo.json").strategy
    'weighted'
    """

    predictions: str = Field(
        description="objects with scores: a COCO file, or another format of labels; classes as in dataset.classes or "
        "dataset.label_mapping"
    )
    strategy: Literal["weighted", "voting", "nms"] = Field(
        "weighted",
        description="weighted: mean of probabilities and scores; voting: of two classes the surer; nms: of objects of "
        "one class that cover each other the surer",
    )
    weight: Positive = Field(0.6, description="weighted: of our probabilities")
    other_weight: Positive = Field(0.4, description="weighted: of the other model's scores")
    iou: Fraction = Field(0.5, description="nms: masks that overlap this much are one object")
