"""Cells and proposals that answer for objects."""

import torch

from utils.boxes.assignment import central_cells, draw_proposals, spread_proposals
from utils.boxes.geometry import ious, pairwise


def greedy(boxes: torch.Tensor, scores: torch.Tensor, most_iou: float) -> list[int]:
    """The definition, one box after the other."""
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if scores[index] > 0 and all(ious(boxes[index], boxes[other]) <= most_iou for other in kept):
            kept.append(index)
    return kept


def test_spread_proposals_are_those_of_the_greedy_order():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(3, 60, 2, generator=generator) * 30
    boxes = torch.cat([low, low + 5 + 20 * torch.rand(3, 60, 2, generator=generator)], dim=2)
    scores = (torch.rand(3, 60, generator=generator) - 0.2).clamp(min=0)
    for most_iou in (0.1, 0.5, 0.7):
        chosen = spread_proposals(boxes, scores, most_iou, limit=60)
        expected = [greedy(boxes[row], scores[row], most_iou) for row in range(3)]
        assert [[index for index in row if index >= 0] for row in chosen.tolist()] == expected
        assert spread_proposals(boxes, scores, most_iou, limit=4).tolist() == [row[:4] for row in expected]


def test_every_object_alone_has_a_cell_however_small_and_wherever_it_lies():
    y, x = torch.meshgrid(torch.arange(5) * 14.0 + 7, torch.arange(7) * 14.0 + 7, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], dim=1)
    strides, ranges = torch.full((35,), 14.0), torch.tensor([[0.0, torch.inf]]).expand(35, 2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        low = torch.rand(2, generator=generator) * torch.tensor([97.0, 69.0])
        sides = torch.rand(2, generator=generator) * torch.tensor([60.0, 40.0]) + 1
        box = torch.cat([low, torch.minimum(low + sides, torch.tensor([98.0, 70.0]))])
        answers = central_cells(points, strides, ranges, box[None])
        assert (answers == 0).any()
        centre, reach = (box[:2] + box[2:]) / 2, torch.maximum((box[2:] - box[:2]) / 4, torch.tensor(7.0))
        assert ((points[answers == 0] - centre).abs() <= reach).all()


def test_jittered_objects_mostly_overlap_theirs_and_all_objects_have_their_turn():
    objects = torch.tensor([[0.0, 0, 20, 40], [50, 50, 90, 60], [5, 80, 9, 84]])
    drawn = draw_proposals(torch.zeros(0, 4), objects, 200, torch.Generator().manual_seed(0))
    best, index = pairwise(ious, drawn, objects).max(dim=1)
    assert len(drawn) == 100
    assert 0.5 < best.mean() < 0.85
    assert (best >= 0.3).float().mean() > 0.9
    assert index.bincount().min() >= 30
