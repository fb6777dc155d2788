"""Which cell or proposal answers for which object, while a head trains."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.boxes.geometry import ious, pairwise

CORE = 0.5  # of a box's width and height around its centre: the cells there answer for it
SHIFT, STRETCH = 0.15, 0.25  # standard deviations of jitter: of the centre in sides, of the sides as logarithm


def central_cells(points: Tensor, strides: Tensor, ranges: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Find for each cell the object that it answers for: several cells to an object, one object to a cell.

    A cell answers where its centre lies in the central half of a box, or, of a small box, no farther than half a cell
    from the centre, so that every object has a cell. Of several objects the smallest counts.

    Parameters
    ----------
    points : Tensor, shape (P, 2)
        Centres of the cells, in pixels.
    strides : Tensor, shape (P,)
        Pixels per side of each cell.
    ranges : Tensor, shape (P, 2)
        Sizes of boxes that a cell may answer for, from and up to, without it: square roots of areas, in pixels.
    boxes_xyxy : Tensor, shape (N, 4)
        The objects; N may be 0.

    Returns
    -------
    Tensor of int64, shape (P,)
        Index of the object, -1 for none.

    References
    ----------
    Tian et al., 2019 (arXiv:1904.01355), with the central part of Zhu et al., 2019 (arXiv:1903.00621).

    Examples
    --------
    >>> points, strides = torch.tensor([[2.0, 2], [6, 2], [10, 2], [14, 2]]), torch.full((4,), 4.0)
    >>> boxes = torch.tensor([[0.0, 0, 12, 4], [13, 1, 14, 2]])
    >>> central_cells(points, strides, torch.tensor([[0.0, 64.0]]).expand(4, 2), boxes).tolist()
    [-1, 0, -1, 1]
    >>> central_cells(points, strides, torch.tensor([[4.0, 64.0]]).expand(4, 2), boxes).tolist()
    [-1, 0, -1, -1]
    """
    if not len(boxes_xyxy):
        return torch.full((len(points),), -1, device=points.device)
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    centres = boxes_xyxy[:, :2] + sides / 2
    reach = torch.maximum(CORE / 2 * sides[:, None], strides[:, None] / 2)  # (N, P, 2)
    areas = sides.prod(dim=1)
    size = areas.sqrt()[:, None]
    answers = ((points - centres[:, None]).abs() <= reach).all(dim=-1)
    answers &= (size >= ranges[:, 0]) & (size < ranges[:, 1])
    smallest, index = torch.where(answers, areas[:, None], torch.inf).min(dim=0)
    return torch.where(smallest.isfinite(), index, -1)


def expected_cells(boxes_xyxy: Tensor, strides: Tensor) -> Tensor:
    """Count the cells that would answer for objects, from the objects alone.

    Parameters
    ----------
    boxes_xyxy : Tensor, shape (N, 4)
        The objects.
    strides : Tensor, shape (N,)
        Pixels per side of the cells that answer for each.

    Returns
    -------
    Tensor, shape ()
        The sum over objects of the area of their central half in cells, at least one each.

    Examples
    --------
    >>> expected_cells(torch.tensor([[0.0, 0, 16, 32], [0, 0, 1, 1]]), torch.tensor([4.0, 4.0])).item()
    9.0
    """
    sides = CORE * (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / strides[:, None]
    return sides.prod(dim=1).clamp(min=1).sum()


def inside_any(points: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Whether each point (P, 2) lies in one of some boxes (N, 4), such as those of crowds.

    Examples
    --------
    >>> inside_any(torch.tensor([[1.0, 1], [5, 1]]), torch.tensor([[0.0, 0, 4, 4]])).tolist()
    [True, False]
    """
    low, high = boxes_xyxy[:, None, :2], boxes_xyxy[:, None, 2:]
    return ((points >= low) & (points < high)).all(dim=-1).any(dim=0)


def match_proposals(proposals_xyxy: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Find the object that each proposal overlaps most.

    Parameters
    ----------
    proposals_xyxy : Tensor, shape (R, 4)
        Boxes to be judged.
    boxes_xyxy : Tensor, shape (N, 4)
        The objects; N may be 0.

    Returns
    -------
    best : Tensor, shape (R,)
        IoU with that object; 0 without any.
    index : Tensor of int64, shape (R,)
        The object; 0 without any.

    Examples
    --------
    >>> boxes = torch.tensor([[8.0, 0, 12, 4], [0, 0, 4, 4]])
    >>> best, index = match_proposals(torch.tensor([[0.0, 0, 2, 4], [20, 0, 24, 4]]), boxes)
    >>> best.tolist(), index.tolist()
    ([0.5, 0.0], [1, 0])
    >>> match_proposals(torch.zeros(2, 4), torch.zeros(0, 4))[0].tolist()
    [0.0, 0.0]
    """
    if not len(boxes_xyxy):
        zeros = proposals_xyxy.new_zeros(len(proposals_xyxy))
        return zeros, zeros.long()
    best, index = pairwise(ious, proposals_xyxy, boxes_xyxy).max(dim=1)
    return best, index


def spread_proposals(boxes_xyxy: Tensor, scores: Tensor, most_iou: float, limit: int) -> Tensor:
    """Choose the best boxes such that no two of them overlap much: greedy suppression, for several samples at once.

    Written in matrices, for boxes on any device: a box stays where no better one that stays overlaps it. What the
    greedy order finds is the fixed point of that rule; it is reached after as many rounds as the longest chain of
    boxes that suppress each other.

    Parameters
    ----------
    boxes_xyxy : Tensor, shape (B, P, 4)
        In pixels.
    scores : Tensor, shape (B, P)
        Boxes of score 0 are never chosen.
    most_iou : float
        Two boxes above it do not both stay.
    limit : int
        Most boxes of a sample.

    Returns
    -------
    Tensor of int64, shape (B, R)
        Indices, best first, R the most that a sample has; -1 behind the last one of the others.

    Examples
    --------
    >>> boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 3], [8, 0, 12, 4], [0, 0, 4, 2]]])
    >>> spread_proposals(boxes, torch.tensor([[0.5, 0.75, 0.25, 0.125]]), most_iou=0.7, limit=10).tolist()
    [[1, 2, 3]]
    >>> spread_proposals(boxes, torch.zeros(1, 4), most_iou=0.7, limit=10).shape
    torch.Size([1, 0])
    """
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    boxes = boxes_xyxy.gather(1, order[..., None].expand(-1, -1, 4))
    worse = torch.ones(order.shape[1], order.shape[1], dtype=torch.bool, device=order.device).triu(diagonal=1)
    rivals = worse & (pairwise(ious, boxes, boxes) > most_iou)  # (B, better, worse)
    stays, before = scores > 0, None
    while before is None or not torch.equal(stays, before):
        before = stays
        stays = (scores > 0) & ~(rivals & stays[..., None]).any(dim=1)
    rank = torch.where(stays, stays.cumsum(dim=1), order.shape[1] + 1)
    count = int(stays.sum(dim=1).amax().clamp(max=limit)) if stays.numel() else 0
    places = rank.argsort(dim=1, stable=True)[:, :count]
    return torch.where(stays.gather(1, places), order.gather(1, places), -1)


def draw_proposals(proposals_xyxy: Tensor, boxes_xyxy: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Draw what a second look learns from: jittered objects, and proposals of which most may be false alarms.

    Parameters
    ----------
    proposals_xyxy : Tensor, shape (R, 4)
        Of the first look.
    boxes_xyxy : Tensor, shape (N, 4)
        The objects; half of what is drawn are theirs, in turn, in a random order.
    number : int
        How many are wanted.
    generator : torch.Generator
        On the CPU; the same draws whatever the device.

    Returns
    -------
    Tensor, shape (S, 4)
        S is at most `number`; less where there are too few proposals.

    Examples
    --------
    >>> drawn = draw_proposals(torch.ones(9, 4), torch.tensor([[0.0, 0, 8, 4]]), 6, torch.Generator().manual_seed(0))
    >>> drawn.shape, (drawn == 1).all(dim=1).tolist()
    (torch.Size([6, 4]), [False, False, False, True, True, True])
    >>> draw_proposals(torch.ones(2, 4), torch.zeros(0, 4), 6, torch.Generator()).shape
    torch.Size([2, 4])
    """
    device = proposals_xyxy.device
    jittered = number // 2 if len(boxes_xyxy) else 0
    turns = torch.randperm(len(boxes_xyxy), generator=generator).repeat(-(-jittered // max(len(boxes_xyxy), 1)))
    noise = torch.randn(jittered, 4, generator=generator).to(device)
    chosen = torch.randperm(len(proposals_xyxy), generator=generator)[: number - jittered].to(device)
    boxes = boxes_xyxy[turns[:jittered].to(device)]
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + SHIFT * noise[:, :2] * sides
    halves = sides * (STRETCH * noise[:, 2:]).exp() / 2
    return torch.cat([torch.cat([centres - halves, centres + halves], dim=1), proposals_xyxy[chosen]])
