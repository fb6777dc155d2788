"""The default keypoint head: a convolutional decoder, and one layer that says where each keypoint is."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from models.base import FeatureSpec
from models.keypoint_layers import FineClassifier, FineGridHead, KeypointOptions


class ConvHead(FineGridHead):
    """Heatmaps by a linear layer on the fine grid of the decoder.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_keypoints : int
        Channels of the heatmaps.
    options : KeypointOptions
        Widths, merging of blocks, picture, grouping.

    References
    ----------
    Xiao et al., 2018 (arXiv:1804.06208); departures are named at `models.keypoint_layers.KeypointDecoder`.

    Examples
    --------
    >>> spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> 400_000 < ConvHead(spec, 17, KeypointOptions()).num_parameters < 800_000
    True
    """

    output_layers: ClassVar[tuple[str, ...]] = ("classifier",)

    def __init__(self, spec: FeatureSpec, num_keypoints: int, options: KeypointOptions):
        super().__init__(spec, num_keypoints, options)
        self.classifier = FineClassifier(self.decoder.widths[-1], num_keypoints).init_prior_bias()

    @override
    def draw(self, patches: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """``"heatmaps"`` (B, K, h, w) and what groups them.

        Examples
        --------
        >>> import torch
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = ConvHead(spec, 5, KeypointOptions(width=16))
        >>> head.draw(torch.zeros(1, 16, 2, 3), torch.zeros(1, 16, 8, 12))["heatmaps"].shape
        torch.Size([1, 5, 8, 12])
        """
        return {"heatmaps": self.classifier(fine), **super().draw(patches, fine)}
