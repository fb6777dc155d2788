"""Losses of sets of predictions that are matched with objects one to one; sums, as everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes.geometry import cxcywh_to_xyxy, generalised_ious
from utils.boxes.matching import Matches


def class_count(num_objects: Sequence[int], num_queries: int, no_object_weight: float) -> Tensor:
    """Divisor of `class_sum`: the weights of all queries, which the numbers of objects decide.

    Parameters
    ----------
    num_objects : sequence of int
        Objects of each sample.
    num_queries : int
        Queries of each sample.
    no_object_weight : float
        Weight of a query without object; one with an object has 1.

    Returns
    -------
    Tensor of float64, shape ()
        Of one set.

    Examples
    --------
    >>> class_count([3, 0], num_queries=11, no_object_weight=0.5).item()
    12.5
    """
    matched = sum(num_objects)
    return torch.tensor(matched + no_object_weight * (len(num_objects) * num_queries - matched), dtype=torch.float64)


def class_sum(logits: Tensor, labels: Tensor, matches: Matches, silent: Tensor, no_object_weight: float) -> Tensor:
    """Sum the cross-entropy of all queries: matched ones have a class, the others are "no object".

    Parameters
    ----------
    logits : Tensor, shape (S, B, Q, K + 1)
        The last column is "no object".
    labels : Tensor of int64, shape (G,)
        Classes of the objects of all samples, one after the other.
    matches : Matches
        Which query stands for which of them.
    silent : Tensor of bool, shape (S, B, Q)
        Queries of which nothing is known; they weigh 0, and all the same count in `class_count`.
    no_object_weight : float
        Weight of "no object".

    Returns
    -------
    Tensor, shape ()
        Over all sets.

    References
    ----------
    Carion et al., 2020 (arXiv:2005.12872), section 3.1, with the "no object" weight of section A.4.

    Examples
    --------
    >>> matches = Matches(*torch.tensor([[0], [0], [1], [0]]))
    >>> silent = torch.tensor([[[False, False, True]]])
    >>> round(class_sum(torch.zeros(1, 1, 3, 2), torch.tensor([0]), matches, silent, 0.5).item(), 4)  # 1.5 log 2
    1.0397
    """
    no_object = logits.shape[-1] - 1
    target = torch.full(logits.shape[:3], no_object, device=logits.device)
    target[matches.sets, matches.images, matches.queries] = labels[matches.objects]
    weights = torch.where(target == no_object, no_object_weight, 1.0) * ~silent
    losses = F.cross_entropy(logits.float().flatten(0, 2), target.flatten(), reduction="none")
    return (losses * weights.flatten()).sum()


def box_sums(boxes: Tensor, objects: Tensor, matches: Matches) -> tuple[Tensor, Tensor]:
    """Sum the L1 distance and 1 - generalised IoU of the matched boxes.

    Parameters
    ----------
    boxes : Tensor, shape (S, B, Q, 4)
        Centre and sides, each as a share of the picture.
    objects : Tensor, shape (G, 4)
        Boxes of the objects of all samples, one after the other.
    matches : Matches
        Which query stands for which of them.

    Returns
    -------
    tuple of Tensor, shape ()
        L1 distance, summed over the four numbers of a box, and 1 - generalised IoU.

    Examples
    --------
    >>> boxes = torch.tensor([[[[0.25, 0.5, 0.5, 1.0]]]])
    >>> matches = Matches(*torch.zeros(4, 1).long())
    >>> [value.item() for value in box_sums(boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]), matches)]
    [0.75, 0.5]
    """
    found = boxes[matches.sets, matches.images, matches.queries].float()
    truth = objects[matches.objects]
    overlap = generalised_ious(cxcywh_to_xyxy(found), cxcywh_to_xyxy(truth))
    return (found - truth).abs().sum(), (1 - overlap).sum()
