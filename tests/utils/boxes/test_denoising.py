"""Noisy copies: as many as allowed, the same in any batch, another each time, and what they see."""

from __future__ import annotations

import pytest
import torch

from tests.utils.boxes.test_matching import random_boxes
from utils.boxes.denoising import FALSE, FILLER, add_noise, fill_up, num_noisy, visible_queries
from utils.boxes.geometry import cxcywh_to_xyxy


@pytest.mark.parametrize("number", [1, 3, 99, 100, 101, 400])
def test_copies_are_capped_and_half_of_them_are_good(number: int) -> None:
    labels = torch.arange(number) % 7
    noisy = add_noise(labels, random_boxes(number), num_classes=7, most=100, number=3)
    good = noisy.objects != FALSE
    assert int(good.sum()) == int((~good).sum()) == num_noisy(number, 100) <= 100
    groups = int(noisy.groups.max())
    copied = noisy.objects[good]
    assert groups == max(1, 100 // number)
    assert len(copied.unique()) == min(number, 100)
    assert copied.bincount().max() == groups
    right = noisy.classes[good] == labels[copied]
    assert 0.6 < right.float().mean() <= 1.0  # three quarters, and by chance one in seven of the others


def test_good_copies_move_edges_by_less_than_half_a_side_and_bad_ones_by_more() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.1]]).expand(50, 4)
    noisy = add_noise(torch.zeros(50, dtype=torch.int64), boxes, num_classes=1, most=50, number=0)
    half = torch.tensor([0.1, 0.05, 0.1, 0.05])
    moved = (cxcywh_to_xyxy(noisy.boxes) - cxcywh_to_xyxy(boxes[:1])).abs() / half
    good = noisy.objects != FALSE
    assert moved[good].max() <= 1 + 1e-4
    assert moved[~good].min() >= 1 - 1e-4
    assert moved[~good].max() <= 2 + 1e-4
    assert 0.4 < moved[good].mean() < 0.6


def test_noise_is_that_of_the_picture_and_of_the_number_of_batches() -> None:
    labels, boxes = torch.tensor([0, 2]), random_boxes(2)
    torch.manual_seed(0)
    first = add_noise(labels, boxes, num_classes=3, most=10, number=4)
    torch.manual_seed(1)  # another rank, another state
    again = add_noise(labels, boxes, num_classes=3, most=10, number=4)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    later = add_noise(labels, boxes, num_classes=3, most=10, number=5)
    assert not torch.equal(first.boxes, later.boxes)


def test_nothing_comes_of_nothing() -> None:
    noisy = add_noise(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), num_classes=3, most=10, number=0)
    assert noisy.boxes.shape == (0, 4)
    assert (fill_up(noisy, 4, no_class=3).objects == FILLER).all()


def test_queries_that_search_see_no_copy_and_no_row_is_empty() -> None:
    visible = visible_queries(torch.tensor([[1, 1, 2, 0, 0], [0, 0, 0, 0, 0]]), num_queries=3)
    assert visible.shape == (2, 1, 8, 8)
    assert not visible[:, :, 5:, :5].any()
    assert visible[:, :, :, 5:].all()
    assert visible[0, 0, 0, :5].tolist() == [True, True, False, False, False]
    assert visible.any(dim=-1).all()
