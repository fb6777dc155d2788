"""A keypoint head that also says where animals are, how far they reach, and which cells they cover."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from models.base import FeatureSpec
from models.conv import ConvHead
from models.keypoint_layers import FineClassifier, KeypointOptions
from models.layers import ConvNorm


class MultitaskHead(ConvHead):
    """The convolutional head with branches for objectness, boxes and the mask of animals.

    Each branch says something of each cell, so that every animal of a picture can be supervised by itself. Keypoints
    are drawn and decoded as without them.

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
    Tian et al., 2019 (arXiv:1904.01355), section 3.1, for boxes as the distances of a cell to the four sides.

    Examples
    --------
    >>> spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> MultitaskHead(spec, 17, KeypointOptions()).num_parameters - ConvHead(spec, 17, KeypointOptions()).num_parameters
    2854
    """

    output_layers: ClassVar[tuple[str, ...]] = ("classifier", "objectness", "boxes", "instance_mask")

    def __init__(self, spec: FeatureSpec, num_keypoints: int, options: KeypointOptions):
        super().__init__(spec, num_keypoints, options)
        fine = self.decoder.widths[-1]
        self.animals = ConvNorm(fine, 2 * fine, separable=True)
        self.objectness = FineClassifier(2 * fine, 1).init_prior_bias()
        self.boxes = FineClassifier(2 * fine, 4)
        self.instance_mask = FineClassifier(2 * fine, 1)

    @override
    def draw(self, patches: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """What `ConvHead` draws, and the three branches.

        Returns
        -------
        dict of Tensor
            Also ``"objectness"`` (B, 1, h, w) and ``"instance_mask"`` (B, 1, h, w), logits, and ``"boxes"``
            (B, 4, h, w): distances of the cell to the left, top, right and bottom side, in cells, never negative.

        Examples
        --------
        >>> import torch
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = MultitaskHead(spec, 5, KeypointOptions(width=16))
        >>> output = head.draw(torch.zeros(1, 16, 2, 3), torch.zeros(1, 16, 8, 12))
        >>> {name: tuple(values.shape[1:]) for name, values in output.items()}
        {'heatmaps': (5, 8, 12), 'objectness': (1, 8, 12), 'boxes': (4, 8, 12), 'instance_mask': (1, 8, 12)}
        >>> output["boxes"].min().item() > 0
        True
        """
        animals = self.animals(fine)
        return super().draw(patches, fine) | {
            "objectness": self.objectness(animals),
            "boxes": F.softplus(self.boxes(animals)) * self.spec.fine_cells,  # the last layer counts in patches
            "instance_mask": self.instance_mask(animals),
        }
