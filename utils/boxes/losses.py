"""Losses of the scores that rank boxes, one value per score; callers sum and divide."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Cross-entropy with a quality from 0 to 1 as target, times the squared distance of the score from it.

    Parameters
    ----------
    logits, quality : Tensor, equal shapes
        Quality is 0 where a cell is none of the class, and the IoU of its box where it is.

    Returns
    -------
    Tensor, of that shape
        0 where the score is the quality already.

    References
    ----------
    Li et al., 2020 (arXiv:2006.04388), equation 5, with beta 2.

    Examples
    --------
    >>> import torch
    >>> losses = quality_focal_loss(torch.tensor([0.0, 0.0, 20.0]), torch.tensor([0.5, 0.0, 0.0]))
    >>> [round(loss, 4) for loss in losses.tolist()]
    [0.0, 0.1733, 20.0]
    """
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return entropy * (logits.sigmoid() - quality).square()
