"""The base of all detection heads: what they are given, what they answer, and the losses that each brings along."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from models.base import FeatureSpec, Head, HeadOptions


class DetectionHead(Head):
    """Base of all heads that turn feature maps into boxes.

    The dictionary holds always ``"boxes_xyxy"`` (B, N, 4), float32, in pixels of the padded sample, and ``"scores"``
    (B, N, K) in 0..1, of N candidates; while training also what the losses of the head need. A batch may be empty.

    A target is a dictionary of lists with an element per sample: ``"boxes_xyxy"`` (M, 4) in pixels of the sample,
    ``"labels"`` (M,) of int64, and ``"is_crowd"`` (M,) of bool, True where a box says only that something in it is not
    told apart: it is neither learnt nor a false alarm.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Classes of objects.
    options : HeadOptions
        Its settings, of the type `Options`.

    Attributes
    ----------
    merges : bool
        Whether several candidates may lie on one object, so that the predictor must keep the best of them.

    Raises
    ------
    ValueError
        If there is no class.

    Examples
    --------
    >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> DetectionHead(spec, num_classes=0, options=HeadOptions())
    Traceback (most recent call last):
        ...
    ValueError: num_classes must be at least 1, got 0
    """

    counts: ClassVar[str] = "num_classes"
    merges: ClassVar[bool] = True

    def __init__(self, spec: FeatureSpec, num_classes: int, options: HeadOptions):
        super().__init__(spec, num_classes, options)
        self.num_classes = num_classes

    @property
    @abstractmethod
    def max_objects(self) -> int:
        """Give how many boxes a sample can have at most."""

    def max_objects_in(self, grid: tuple[int, int]) -> int:
        """Give how many boxes a sample of so many rows and columns of patches can have at most.

        Examples
        --------
        >>> from models import build_head
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> small = {"width": 16, "num_queries": 100}
        >>> [build_head("detection", name, spec, 1, small).max_objects_in((3, 4)) for name in ("detr", "deim")]
        [100, 84]
        """
        return self.max_objects

    @abstractmethod
    def forward(
        self,
        feature_maps: Sequence[Tensor],
        image: Tensor | None = None,
        valid: Tensor | None = None,
        target: Any = None,
    ) -> dict[str, Tensor]:
        """Give candidates from maps (B, C_i, h_i, w_i); `valid` (B, H, W) is False in padding, `target` for training.

        What of the last two a head takes, its `takes` names.
        """

    @abstractmethod
    def counts_of(self, target: Any) -> Mapping[str, Tensor | None]:
        """Give the divisor of each loss term, of shape (), as an objective's `counts`; the head may have no weights."""

    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """Give the weight of each loss term."""

    @abstractmethod
    def losses(
        self, outputs: dict[str, Tensor], target: Any, progress_fraction: float
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Give the sum of each loss term over at least one sample; the head may have no weights."""
