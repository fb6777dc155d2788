"""The linear probe: batch normalisation and one 1x1 convolution, the yardstick of frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from models.base import FeatureSpec, HeadOptions, SegmentationHead, resize
from models.layers import Classifier, RankBatchNorm2d, grid_size


class LinearOptions(HeadOptions):
    """Settings of the linear head.

    Examples
    --------
    >>> LinearOptions(dropout=0.1).dropout
    0.1
    """

    dropout: float = Field(0.0, ge=0, lt=1, description="share of the normalised channels dropped while training")


class LinearHead(SegmentationHead):
    """Batch normalisation over all maps, dropout, and one linear layer: the evaluation protocol of DINOv2 and DINOv3.

    Maps of one stride are classified together, as the protocol does; those of other strides (a ConvNeXt's) apart, each
    on its own grid, and the logits added up: a linear layer over the joined maps is such a sum.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given; three image channels, for it never sees the picture.
    num_classes : int
        Channels of the logits.
    options : LinearOptions
        Dropout.

    References
    ----------
    Oquab et al., 2023 (arXiv:2304.07193), section 7.4 ("lin."), with all chosen maps joined. The logits are up-sampled
    to the fine grid here, to the image by `fit_to_image`.

    Examples
    --------
    >>> spec = FeatureSpec((8, 8), (14, 14), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> head = LinearHead(spec, 3, LinearOptions())
    >>> head.num_parameters  # two per channel of the norm, weights, biases
    83
    """

    Options: ClassVar[type[HeadOptions]] = LinearOptions
    input_layers: ClassVar[tuple[str, ...]] = ("norms",)
    output_layers: ClassVar[tuple[str, ...]] = ("classifiers",)

    def __init__(self, spec: FeatureSpec, num_classes: int, options: LinearOptions):
        super().__init__(spec, num_classes, options)
        channels = [sum(spec.channels[index] for index in group) for group in self._groups()]
        self.norms = nn.ModuleList(RankBatchNorm2d(count) for count in channels)
        self.dropout = nn.Dropout2d(options.dropout)
        self.classifiers = nn.ModuleList(Classifier(count, num_classes) for count in channels)

    def _groups(self) -> list[list[int]]:
        """Indices of the maps of each stride.

        Examples
        --------
        >>> spec = FeatureSpec((8, 8, 8), (8, 32, 32), 32, 3, (0.5,) * 3, (0.5,) * 3)
        >>> LinearHead(spec, 3, LinearOptions())._groups()
        [[0], [1, 2]]
        """
        strides = self.spec.strides
        return [[i for i, other in enumerate(strides) if other == stride] for stride in dict.fromkeys(strides)]

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None = None) -> dict[str, Tensor]:
        """Classify each cell of the maps, then up-sample the logits to the fine grid.

        Parameters
        ----------
        feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
            One map per chosen block.
        image : Tensor, optional
            Not looked at.

        Returns
        -------
        dict of Tensor
            ``"logits"`` (B, K, h, w).

        Examples
        --------
        >>> spec = FeatureSpec((8, 8), (14, 14), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> LinearHead(spec, 3, LinearOptions())([torch.zeros(1, 8, 2, 5)] * 2)["logits"].shape
        torch.Size([1, 3, 8, 20])
        """
        maps, grid = self.receive(feature_maps, image)
        logits = []
        for group, norm, classifier in zip(self._groups(), self.norms, self.classifiers, strict=True):
            joined = torch.cat([maps[index] for index in group], dim=1)
            logits.append(resize(classifier(self.dropout(norm(joined))), grid_size(grid, self.spec.fine_cells)))
        return {"logits": sum(logits[1:], start=logits[0])}
