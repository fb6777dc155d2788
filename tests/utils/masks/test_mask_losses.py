"""Mask classification: matches are the cheapest, and sums and counts add up over pieces of a batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.masks.losses import (
    BCE_WEIGHT,
    CLASS_WEIGHT,
    mask_classification_counts,
    mask_classification_sums,
    match_masks,
    target_on_grid,
)


def test_grid_reads_the_centres_also_with_a_fractional_stride() -> None:
    target = torch.arange(7 * 14).view(1, 7, 14)
    grid = target_on_grid(target, (2, 4))  # stride 3.5: centres at 1.75, 5.25, 8.75, 12.25
    assert grid.tolist() == [[[row * 14 + column for column in (1, 5, 8, 12)] for row in (1, 5)]]


def test_matching_is_the_cheapest_of_all_assignments() -> None:
    generator = torch.Generator().manual_seed(2)
    class_logits, mask_logits = torch.randn(5, 4, generator=generator), torch.randn(5, 6, 8, generator=generator)
    classes = torch.randint(0, 3, (6, 8), generator=generator)
    labels = torch.tensor([0, 1, 2])
    masks = classes == labels.view(-1, 1, 1)

    def cost(query: int, label: int) -> float:
        logits, mask = mask_logits[query], masks[label].float()
        probability = logits.sigmoid()
        dice = 1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1)
        bce = F.binary_cross_entropy_with_logits(logits, mask)
        return float(-2 * class_logits[query].softmax(0)[label] + 5 * bce + 5 * dice)

    best = min(itertools.permutations(range(5), 3), key=lambda queries: sum(map(cost, queries, range(3))))
    found = dict(
        zip(
            *(part.tolist() for part in match_masks(class_logits, mask_logits, masks, labels)),
            strict=True,
        )
    )
    assert found == {query: label for label, query in enumerate(best)}


def test_matching_on_fewer_pixels_finds_clear_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.masks.losses.MATCHED_PIXELS", 50)
    columns = torch.arange(64) // 16
    masks = columns.expand(64, 64) == torch.arange(4).view(-1, 1, 1)
    order = torch.tensor([2, 0, 3, 1])
    mask_logits = masks[order] * 8.0 - 4.0
    queries, chosen = match_masks(torch.zeros(4, 5), mask_logits, masks, torch.arange(4))
    assert (queries.tolist(), chosen.tolist()) == ([0, 1, 2, 3], order.tolist())


def test_matching_survives_logits_that_are_not_finite() -> None:
    mask_logits = torch.full((3, 2, 2), float("nan"))
    masks = torch.tensor([[[True, True], [False, False]]])
    queries, chosen = match_masks(torch.zeros(3, 2), mask_logits, masks, torch.tensor([0]))
    assert queries.shape == chosen.shape == (1,)


def make_mask_batch(num_images: int = 2, num_queries: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    class_logits = torch.randn(num_images, num_queries, 4, generator=generator, requires_grad=True)
    mask_logits = torch.randn(num_images, num_queries, 4, 6, generator=generator, requires_grad=True)
    target = torch.randint(0, 3, (num_images, 8, 12), generator=generator).to(torch.uint8)
    return class_logits, mask_logits, target


@pytest.mark.parametrize("fixed", [False, True])
def test_perfect_masks_cost_next_to_nothing(fixed: bool) -> None:
    _, _, target = make_mask_batch()
    grid = target_on_grid(target, (4, 6))
    order = torch.tensor([0, 1, 2] if fixed else [2, 0, 1])
    mask_logits = torch.where(grid.unsqueeze(1) == order.view(1, -1, 1, 1), 40.0, -40.0)
    class_logits = 40 * F.one_hot(order, 4).float().expand(2, 3, 4)
    sums = mask_classification_sums(class_logits, mask_logits, target, fixed=fixed)
    assert all(value < 1e-3 for value in sums.values())
    wrong = mask_classification_sums(class_logits, -mask_logits, target, fixed=fixed)
    assert wrong["mask_bce"] > 100


def test_mask_sums_and_counts_of_pieces_add_up() -> None:
    class_logits, mask_logits, target = make_mask_batch(num_images=3)
    target[1] = 1  # an image with a single class
    options = {"no_object_weight": 0.25}
    whole = mask_classification_sums(class_logits, mask_logits, target, **options)
    counts = mask_classification_counts(target, 3, 6, (4, 6), **options)
    assert {name: count.item() for name, count in counts.items()} == {
        "mask_class": 7 + (3 + 5 + 3) * 0.25,
        "mask_bce": 7,
        "mask_dice": 7,
    }
    pieces = [
        mask_classification_sums(
            class_logits[index : index + 1], mask_logits[index : index + 1], target[index : index + 1], **options
        )
        for index in range(3)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(value, sum(piece[name] for piece in pieces))


def test_mask_class_term_over_its_count_is_a_weighted_mean() -> None:
    class_logits, mask_logits, target = make_mask_batch(num_queries=3)
    sums = mask_classification_sums(class_logits, mask_logits, target, fixed=True, no_object_weight=0.1)
    count = mask_classification_counts(target, 3, 3, (4, 6), no_object_weight=0.1)["mask_class"]
    expected = F.cross_entropy(class_logits.flatten(0, 1), torch.tensor([0, 1, 2] * 2))  # all classes in both images
    torch.testing.assert_close((sums["mask_class"] / count).float(), CLASS_WEIGHT * expected)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("num_images", [0, 2])
def test_masks_without_any_truth_give_zero_on_the_graph(num_images: int, fixed: bool) -> None:
    class_logits, mask_logits, target = make_mask_batch(num_images, num_queries=3)
    target[:] = 255
    total = sum(mask_classification_sums(class_logits, mask_logits, target, fixed=fixed).values())
    assert total.item() == 0
    for gradient in torch.autograd.grad(total, (class_logits, mask_logits)):
        assert (gradient == 0).all()
    assert all(count == 0 for count in mask_classification_counts(target, 3, 3, (4, 6)).values())


def test_padding_and_ignored_cells_have_no_influence_on_the_masks() -> None:
    class_logits, mask_logits, target = make_mask_batch()
    target[:, :4] = 255
    options = {"covered_size": (8, 16)}  # columns 4.5 and more of the 6 are padding
    value = mask_classification_sums(class_logits, mask_logits, target, **options)
    other = mask_logits.detach().clone()
    other[:, :, :2] += 3
    other[..., 5] -= 3
    for name, changed in mask_classification_sums(class_logits, other, target, **options).items():
        torch.testing.assert_close(changed, value[name])


def test_more_classes_than_queries_count_as_many_masks_as_queries() -> None:
    class_logits, mask_logits, target = make_mask_batch(num_queries=2)
    counts = mask_classification_counts(target, 3, 2, (4, 6))
    assert counts["mask_bce"].item() == 4
    sums = mask_classification_sums(class_logits, torch.zeros_like(mask_logits), target)
    assert sums["mask_bce"].item() == pytest.approx(BCE_WEIGHT * 4 * torch.tensor(2.0).log().item())
