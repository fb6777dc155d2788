"""The losses of DETR against transformers' own, and what must hold of sums."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from tests.utils.boxes.test_matching import random_boxes, random_objects
from utils.boxes.matching import Matches, excused, match_sets, softmax_class_costs
from utils.boxes.set_losses import box_sums, class_count, class_sum

WEIGHTS = (1.0, 5.0, 2.0)
LAYERS, QUERIES, CLASSES = 3, 20, 5


def loss_of(logits: Tensor, boxes: Tensor, labels: list[Tensor], objects: list[Tensor]) -> Tensor:
    matches = match_sets(logits, boxes, labels, objects, softmax_class_costs, WEIGHTS)
    silent = torch.zeros(logits.shape[:3], dtype=torch.bool)
    numbers = [len(each) for each in labels]
    l1, giou = box_sums(boxes, torch.cat(objects), matches)
    classes = class_sum(logits, torch.cat(labels), matches, silent, 0.1) / class_count(numbers, QUERIES, 0.1).float()
    return classes + (5 * l1 + 2 * giou) / max(sum(numbers), 1)


@pytest.mark.parametrize("numbers", [[4, 0, 7], [1], [0, 0], [20, 3]])
def test_the_loss_is_that_of_transformers(numbers: list[int]) -> None:
    labels, objects = random_objects(numbers, CLASSES)
    logits = torch.randn(LAYERS, len(numbers), QUERIES, CLASSES + 1, generator=torch.Generator().manual_seed(2))
    boxes = random_boxes(LAYERS, len(numbers), QUERIES, seed=3)
    parts = [part.requires_grad_() for part in (logits, boxes)]
    loss = loss_of(logits, boxes, labels, objects)
    config = SimpleNamespace(
        class_cost=1,
        bbox_cost=5,
        giou_cost=2,
        num_labels=CLASSES,
        eos_coefficient=0.1,
        auxiliary_loss=True,
        decoder_layers=LAYERS,
        bbox_loss_coefficient=5,
        giou_loss_coefficient=2,
    )
    target = [{"class_labels": classes, "boxes": truth} for classes, truth in zip(labels, objects, strict=True)]
    expected, _, _ = ForObjectDetectionLoss(logits[-1], target, "cpu", boxes[-1], config, logits, boxes)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(value, parts, allow_unused=True) for value in (loss, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-4, atol=1e-6)


def test_sums_and_counts_add_up_over_ranks() -> None:
    numbers = [4, 0, 7]
    labels, objects = random_objects(numbers, CLASSES)
    logits = torch.randn(LAYERS, 3, QUERIES, CLASSES + 1, generator=torch.Generator().manual_seed(2))
    boxes = random_boxes(LAYERS, 3, QUERIES, seed=3)

    def sums(rows: slice) -> Tensor:
        part = logits[:, rows], boxes[:, rows]
        matches = match_sets(*part, labels[rows], objects[rows], softmax_class_costs, WEIGHTS)
        silent = torch.zeros(part[0].shape[:3], dtype=torch.bool)
        classes = class_sum(part[0], torch.cat(labels[rows]), matches, silent, 0.1)
        count = class_count(numbers[rows], QUERIES, 0.1).float()
        return torch.stack([classes, *box_sums(part[1], torch.cat(objects[rows]), matches), count])

    torch.testing.assert_close(sums(slice(0, 1)) + sums(slice(1, 3)), sums(slice(0, 3)))


def test_a_prediction_in_an_ignore_region_learns_nothing() -> None:
    logits = torch.zeros(1, 1, 3, 2, requires_grad=True)
    boxes = torch.tensor([[[[0.2, 0.5, 0.1, 0.1], [0.3, 0.5, 0.1, 0.1], [0.8, 0.5, 0.1, 0.1]]]])
    matches = Matches(*torch.tensor([[0], [0], [0], [0]]))  # the first lies in the region, and has an object
    silent = excused(boxes, [torch.tensor([[0.25, 0.5, 0.5, 1.0]])], matches)
    class_sum(logits, torch.tensor([0]), matches, silent, 0.1).backward()
    assert logits.grad is not None
    assert [bool(row.abs().sum() > 0) for row in logits.grad[0, 0]] == [True, False, True]
