"""Losses of DEIM: scores that follow the overlap, edges as distributions, and what the last layer teaches the others.

They are those of transformers' `Deimv2Loss`, as sums over a batch. Departures: the boxes of each layer go with its own
distributions (transformers 5.24 pairs them with those of the layer below, and leaves the last but one without a loss of
its boxes), and distillation is divided for each picture, not for the batch, so that it adds up over ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.loss.loss_d_fine import bbox2distance

from utils.boxes.geometry import cxcywh_to_xyxy, ious
from utils.boxes.matching import Matches

TEMPERATURE = 5.0  # of the distillation of distributions


def overlaps(boxes: Tensor, objects: Tensor, matches: Matches) -> Tensor:
    """Overlap of the matched boxes with their objects.

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
    Tensor, shape (M,)
        Intersection over union, without a gradient.

    Examples
    --------
    >>> boxes, matches = torch.tensor([[[[0.25, 0.5, 0.5, 1.0]]]]), Matches(*torch.zeros(4, 1).long())
    >>> overlaps(boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]), matches).tolist()
    [0.5]
    """
    found = boxes[matches.sets, matches.images, matches.queries].detach().float()
    return ious(cxcywh_to_xyxy(found), cxcywh_to_xyxy(objects[matches.objects]))


def matching_aware_sum(
    logits: Tensor, labels: Tensor, quality: Tensor, matches: Matches, silent: Tensor, gamma: float
) -> Tensor:
    """Sum the matching-aware loss: the score of a matched query learns a power of its overlap, all others learn 0.

    Parameters
    ----------
    logits : Tensor, shape (S, B, Q, K)
        Each class for itself.
    labels : Tensor of int64, shape (G,)
        Classes of the objects of all samples, one after the other.
    quality : Tensor, shape (M,)
        Overlap of each match.
    matches : Matches
        Which query stands for which object.
    silent : Tensor of bool, shape (S, B, Q)
        Queries of which nothing is known.
    gamma : float
        Power of the overlap, and of the scores that should be 0.

    Returns
    -------
    Tensor, shape ()
        Over all sets.

    References
    ----------
    Huang et al., 2025 (arXiv:2412.04234, DEIM), section 3.3.

    Examples
    --------
    >>> matches = Matches(*torch.tensor([[0], [0], [0], [0]]))
    >>> silent = torch.tensor([[[False, False, True]]])
    >>> sums = matching_aware_sum(torch.zeros(1, 1, 3, 1), torch.tensor([0]), torch.ones(1), matches, silent, 1.0)
    >>> round(sums.item(), 4)  # log 2 and half of it
    1.0397
    """
    logits = logits.float()
    place = (matches.sets, matches.images, matches.queries, labels[matches.objects])
    target, matched = torch.zeros_like(logits), torch.zeros_like(logits, dtype=torch.bool)
    target[place], matched[place] = quality**gamma, True
    weights = torch.where(matched, 1.0, logits.detach().sigmoid() ** gamma) * ~silent[..., None]
    return F.binary_cross_entropy_with_logits(logits, target, weight=weights, reduction="sum")


def fine_grained_sum(
    corners: Tensor,
    references: Tensor,
    objects: Tensor,
    quality: Tensor,
    matches: Matches,
    reg_scale: float,
    upper: float,
) -> Tensor:
    """Sum the cross-entropy of the distributions of the four edges with the two bins beside the true distance.

    Parameters
    ----------
    corners : Tensor, shape (S, B, Q, 4 * (bins + 1))
        Logits of the distances of left, upper, right and lower edge.
    references : Tensor, shape (B, Q, 4)
        Boxes from which the distances count: centre and sides, each as a share of the picture.
    objects : Tensor, shape (G, 4)
        Boxes of the objects of all samples, one after the other.
    quality : Tensor, shape (M,)
        Overlap of each match: its weight.
    matches : Matches
        Which query stands for which object.
    reg_scale, upper : float
        Curvature and upper bound of the distances that the bins stand for.

    Returns
    -------
    Tensor, shape ()
        Over all sets.

    References
    ----------
    Peng et al., 2024 (arXiv:2410.13842, D-FINE), equation 5.

    Examples
    --------
    >>> matches, box = Matches(*torch.zeros(4, 1).long()), torch.tensor([[0.5, 0.5, 0.25, 0.25]])
    >>> corners = torch.zeros(1, 1, 1, 4, 33)
    >>> corners[..., 16] = 50.0  # the middle bin: the reference is right
    >>> fine_grained_sum(corners.flatten(3), box[None], box, torch.ones(1), matches, 4.0, 0.5).item()
    0.0
    """
    bins = corners.shape[-1] // 4 - 1
    found = corners[matches.sets, matches.images, matches.queries].float().reshape(-1, bins + 1)
    starts = references[matches.images, matches.queries].detach().float()
    truth = cxcywh_to_xyxy(objects[matches.objects])
    left, of_right, of_left = bbox2distance(starts, truth, bins, reg_scale, starts.new_tensor([upper]))
    nearest = left.long()
    each = F.cross_entropy(found, nearest, reduction="none") * of_left
    each = each + F.cross_entropy(found, nearest + 1, reduction="none") * of_right
    return (each * quality.repeat_interleave(4)).sum()


def distillation_sum(corners: Tensor, logits: Tensor, quality: Tensor, matches: Matches, num_queries: Tensor) -> Tensor:
    """Sum over pictures what the earlier layers lose against the distributions of the last one.

    Parameters
    ----------
    corners : Tensor, shape (S, B, Q, 4 * (bins + 1))
        Logits of the distances of the edges of all layers; the last set teaches.
    logits : Tensor, shape (B, Q, K)
        Class scores of the last layer: the weight of a query that no object is matched with.
    quality : Tensor, shape (M,)
        Overlap of each match: its weight.
    matches : Matches
        Which query stands for which object, in the sets before the last.
    num_queries : Tensor of int64, shape (B,)
        How many of the Q each picture has; the rest is filler.

    Returns
    -------
    Tensor, shape ()
        For each layer but the last and each picture, the weighted mean of the divergences of matched and of other
        edges, each by the square root of their number.

    References
    ----------
    Peng et al., 2024 (arXiv:2410.13842, D-FINE), equation 6, with the numbers of each picture in place of the batch's.

    Examples
    --------
    >>> corners = torch.randn(2, 1, 3, 4 * 33)
    >>> nothing = Matches(*torch.zeros(4, 0).long())
    >>> same = corners[-1:].expand(2, -1, -1, -1)
    >>> rest = torch.zeros(1, 3, 1), torch.zeros(0), nothing, torch.tensor([3])
    >>> abs(distillation_sum(same, *rest).item()) < 1e-5, distillation_sum(corners, *rest).item() > 0.01
    (True, True)
    """
    corners = corners.float().unflatten(-1, (4, -1)) / TEMPERATURE
    teacher = corners[-1:].detach().softmax(dim=-1).expand_as(corners[:-1])
    divergence = F.kl_div(corners[:-1].log_softmax(dim=-1), teacher, reduction="none").sum(dim=(-1, -2))
    weights = logits.detach().float().sigmoid().amax(dim=-1).expand(divergence.shape).clone()
    matched = torch.zeros_like(weights, dtype=torch.bool)
    place = (matches.sets, matches.images, matches.queries)
    weights[place], matched[place] = quality, True
    real = torch.arange(weights.shape[-1], device=weights.device) < num_queries[:, None]
    weighted = TEMPERATURE**2 * weights * divergence
    total: Tensor = weighted.new_zeros(())
    roots: Tensor = weighted.new_zeros(weighted.shape[:2])
    for group in (matched & real, ~matched & real):
        root = (4.0 * group.sum(dim=-1)).sqrt()  # of the number of edges
        total = total + torch.where(group, weighted, 0.0).sum(dim=-1) / root.clamp(min=1)
        roots = roots + root
    return (total / roots.clamp(min=1)).sum()
