"""One-to-one matching of a set of predictions with the objects of a picture, as DETR and its kin learn from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from utils.boxes.geometry import covered_shares, cxcywh_to_xyxy, generalised_ious, pairwise

IGNORED_SHARE = 0.5  # a prediction with more of its area than this in an ignore region is no false alarm
UNUSABLE = 1e6  # cost of a pair that is not finite: taken only where nothing else is left

ClassCosts = Callable[[Tensor, Tensor], Tensor]


class Matches(NamedTuple):
    """Which prediction stands for which object, over all sets of a batch.

    Parameters
    ----------
    sets : Tensor of int64, shape (M,)
        Which of the stacked sets of predictions, such as those of the layers of a decoder.
    images, queries : Tensor of int64, shape (M,)
        The sample and the place in its set.
    objects : Tensor of int64, shape (M,)
        Row in the objects of all samples, one after the other.

    Examples
    --------
    >>> Matches(torch.tensor([0]), torch.tensor([1]), torch.tensor([4]), torch.tensor([7])).queries.tolist()
    [4]
    """

    sets: Tensor
    images: Tensor
    queries: Tensor
    objects: Tensor


def softmax_class_costs(logits: Tensor, labels: Tensor) -> Tensor:
    """What it costs to take each query for each object: less the probability of its class.

    Parameters
    ----------
    logits : Tensor, shape (..., Q, K + 1)
        The last column is "no object".
    labels : Tensor of int64, shape (G,)
        Classes of the objects.

    Returns
    -------
    Tensor, shape (..., Q, G)
        -1 to 0.

    References
    ----------
    Carion et al., 2020 (arXiv:2005.12872), section 3.1.

    Examples
    --------
    >>> softmax_class_costs(torch.tensor([[0.0, 0.0, -99.0]]), torch.tensor([1, 1, 0])).tolist()
    [[-0.5, -0.5, -0.5]]
    """
    return -logits.float().softmax(dim=-1)[..., labels]


def focal_class_costs(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """What it costs to take each query for each object: its focal loss as that class, less its loss as nothing.

    Parameters
    ----------
    logits : Tensor, shape (..., Q, K)
        Each class for itself.
    labels : Tensor of int64, shape (G,)
        Classes of the objects.
    alpha, gamma : float
        Of the focal loss.

    Returns
    -------
    Tensor, shape (..., Q, G)
        Costs.

    References
    ----------
    Zhu et al., 2021 (arXiv:2010.04159), the matching of Deformable DETR and its descendants.

    Examples
    --------
    >>> [round(cost, 3) for cost in focal_class_costs(torch.tensor([[0.0], [9.0]]), torch.tensor([0]))[:, 0].tolist()]
    [-0.087, -6.748]
    """
    chosen = logits.float().sigmoid()[..., labels]
    negative = (1 - alpha) * chosen**gamma * -(1 - chosen + 1e-8).log()
    return alpha * (1 - chosen) ** gamma * -(chosen + 1e-8).log() - negative


def assign(costs: Tensor) -> Tensor:
    """Give each object the query that costs least in all, one query to an object.

    Parameters
    ----------
    costs : Tensor, shape (S, Q, G)
        Of each of S sets; Q is at least G. What is not finite counts as very high: a diverged head must reach the count
        of bad steps in the training loop, not fail in the solver.

    Returns
    -------
    Tensor of int64, shape (S, G)
        The query of each object, on the CPU.

    Raises
    ------
    ValueError
        If there are more objects than queries.

    Examples
    --------
    >>> assign(torch.tensor([[[0.0, 1.0], [5.0, 1.5], [0.25, float("nan")]]])).tolist()
    [[2, 0]]
    """
    num_queries, num_objects = costs.shape[-2:]
    if num_objects > num_queries:
        raise ValueError(f"cannot match {num_objects} objects with {num_queries} queries, one each")
    chosen = torch.empty(len(costs), num_objects, dtype=torch.int64)
    for number, of_set in enumerate(costs.nan_to_num(UNUSABLE, UNUSABLE, UNUSABLE).cpu().numpy()):
        queries, objects = linear_sum_assignment(of_set)
        chosen[number, torch.from_numpy(objects)] = torch.from_numpy(queries)
    return chosen


@torch.no_grad()
def match_sets(
    logits: Tensor,
    boxes: Tensor,
    labels: Sequence[Tensor],
    objects: Sequence[Tensor],
    class_costs: ClassCosts,
    weights: tuple[float, float, float],
    num_queries: Sequence[int] | None = None,
) -> Matches:
    """Match every set of a batch for itself.

    Parameters
    ----------
    logits : Tensor, shape (S, B, Q, K')
        Class scores of S sets of predictions.
    boxes : Tensor, shape (S, B, Q, 4)
        Centre and sides, each as a share of the picture.
    labels : sequence of Tensor of int64, shape (G_i,)
        Classes of each sample's objects.
    objects : sequence of Tensor, shape (G_i, 4)
        Their boxes, as `boxes`.
    class_costs : callable
        `softmax_class_costs` or `focal_class_costs`.
    weights : tuple of three float
        Of the class cost, the L1 distance and the generalised IoU.
    num_queries : sequence of int, optional
        How many of the Q each sample has; the rest is filler.

    Returns
    -------
    Matches
        S entries for each object.

    Raises
    ------
    ValueError
        If a sample has more objects than queries.

    Examples
    --------
    >>> boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]]])
    >>> classes, truth = [torch.tensor([0])], [torch.tensor([[0.2, 0.2, 0.1, 0.2]])]
    >>> found = match_sets(torch.zeros(1, 1, 2, 2), boxes, classes, truth, softmax_class_costs, (1, 5, 2))
    >>> found.queries.tolist(), found.objects.tolist()
    ([1], [0])
    """
    device, parts, before = logits.device, [torch.zeros(4, 0, dtype=torch.int64)], 0
    for image, (classes, truth) in enumerate(zip(labels, objects, strict=True)):
        if len(truth):
            real = slice(None if num_queries is None else num_queries[image])
            found = boxes[:, image, real].float()
            costs = weights[0] * class_costs(logits[:, image, real], classes)
            costs = costs + weights[1] * torch.cdist(found, truth.expand(len(found), -1, -1), p=1)
            overlap = pairwise(generalised_ious, cxcywh_to_xyxy(found), cxcywh_to_xyxy(truth))
            queries = assign(costs - weights[2] * overlap)
            rows = torch.arange(before, before + len(truth))
            sets = torch.arange(len(queries))[:, None].expand_as(queries)
            entry = [sets, torch.full_like(queries, image), queries, rows.expand_as(queries)]
            parts.append(torch.stack([part.flatten() for part in entry]))
        before += len(truth)
    return Matches(*torch.cat(parts, dim=1).to(device))


def unite(matches: Matches, num_sets: int) -> Matches:
    """Let every query that some set has matched stand in all sets for the object that most of them chose.

    Parameters
    ----------
    matches : Matches
        Of the sets one by one.
    num_sets : int
        How many sets the result covers.

    Returns
    -------
    Matches
        The same queries in every set; an object may have several.

    References
    ----------
    The global union of Peng et al., 2024 (arXiv:2410.13842, D-FINE), section 4.2; of equal votes the object that comes
    first wins.

    Examples
    --------
    >>> found = torch.tensor([[0, 0, 0], [0, 0, 0], [5, 5, 2], [1, 0, 1]])
    >>> matches = Matches(*torch.cat([found, found[:, :1]], dim=1))
    >>> united = unite(matches, num_sets=2)
    >>> [part.tolist() for part in united]
    [[0, 0, 1, 1], [0, 0, 0, 0], [2, 5, 2, 5], [1, 1, 1, 1]]
    """
    triples = torch.stack([matches.images, matches.queries, matches.objects], dim=1)
    unique, votes = torch.unique(triples, dim=0, return_counts=True)  # sorted by image, query, object
    place = unique[:, 0] * (int(matches.queries.max()) + 1 if len(triples) else 1) + unique[:, 1]
    by_votes = votes.argsort(descending=True, stable=True)
    order = by_votes[place[by_votes].argsort(stable=True)]
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[order[1:]] != place[order[:-1]]
    images, queries, objects = unique[order[first]].T
    sets = torch.arange(num_sets, device=place.device).repeat_interleave(len(images))
    return Matches(sets, images.repeat(num_sets), queries.repeat(num_sets), objects.repeat(num_sets))


@torch.no_grad()
def excused(boxes: Tensor, ignored: Sequence[Tensor], matches: Matches) -> Tensor:
    """Say which predictions lie in a region where nothing is known, and so are no false alarms.

    Parameters
    ----------
    boxes : Tensor, shape (S, B, Q, 4)
        Centre and sides, each as a share of the picture.
    ignored : sequence of Tensor, shape (R_i, 4)
        Ignore regions of each sample, as `boxes`.
    matches : Matches
        A matched prediction has an object, wherever it lies.

    Returns
    -------
    Tensor of bool, shape (S, B, Q)
        True for those with more than half of their area in one region.

    Examples
    --------
    >>> boxes = torch.tensor([[[[0.25, 0.5, 0.2, 0.2], [0.75, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]]])
    >>> left_half, nothing = torch.tensor([[0.25, 0.5, 0.5, 1.0]]), torch.zeros(0, dtype=torch.int64)
    >>> excused(boxes, [left_half], Matches(*[nothing] * 4)).tolist()
    [[[True, False, True]]]
    >>> excused(boxes, [left_half], Matches(*torch.tensor([[0], [0], [2], [0]]))).tolist()
    [[[True, False, False]]]
    """
    inside = torch.zeros(boxes.shape[:3], dtype=torch.bool, device=boxes.device)
    for image, regions in enumerate(ignored):
        if len(regions):
            found = cxcywh_to_xyxy(boxes[:, image].float())
            inside[:, image] = (pairwise(covered_shares, found, cxcywh_to_xyxy(regions)) > IGNORED_SHARE).any(dim=-1)
    inside[matches.sets, matches.images, matches.queries] = False
    return inside
