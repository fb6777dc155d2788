"""Losses against slow, plain versions of their formulas, and against each other on pieces of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.losses import (
    TargetLogProbability,
    class_weights_from_counts,
    segmentation_counts,
    segmentation_sums,
)

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25])


def make_batch(num_images: int = 3, num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits and targets of 5 x 7 pixels; some pixels are ignored, and the last class is rare."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_images, num_classes, 5, 7, generator=generator)
    target = torch.randint(0, num_classes - 1, (num_images, 5, 7), generator=generator)
    target[:, :2, :3] = 255
    target[:1, 4, 4] = num_classes - 1
    return logits, target.to(torch.uint8)


def slow_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of 1 - Dice, written as a loop over images and classes."""
    total = logits.new_zeros(())
    for image, truth in zip(logits.softmax(dim=1), target, strict=True):
        valid = truth != 255
        for index, probability in enumerate(image):
            mask = (truth == index)[valid].to(image.dtype)
            if mask.any():
                kept = probability[valid]
                total = total + 1 - (2 * (kept * mask).sum() + 1e-6) / (kept.sum() + mask.sum() + 1e-6)
    return total


def sum_of(name: str, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """One term of the loss alone."""
    weights = {f"{term}_weight": float(term == name) for term in ("ce", "dice", "focal")}
    return segmentation_sums(logits, target, **weights, **options)[name]


def gradient_of(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_over_count_is_the_weighted_mean_of_torch(weights: Tensor | None) -> None:
    logits, target = make_batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    count = segmentation_counts(target, 4, class_weights=weights)["ce"]
    mean = sum_of("ce", ours, target, class_weights=weights) / count
    expected = F.cross_entropy(theirs, target.long(), weight=weights, ignore_index=255)
    torch.testing.assert_close(mean.float(), expected)
    torch.testing.assert_close(gradient_of(mean, ours), gradient_of(expected, theirs))


def test_dice_equals_its_definition_image_by_image() -> None:
    logits, target = make_batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    torch.testing.assert_close(sum_of("dice", ours, target), slow_dice(theirs, target))
    torch.testing.assert_close(
        gradient_of(sum_of("dice", ours, target), ours), gradient_of(slow_dice(theirs, target), theirs)
    )
    assert segmentation_counts(target, 4)["dice"].item() == 3 + 3 + 4


def test_focal_without_gamma_is_cross_entropy_and_falls_with_gamma() -> None:
    logits, target = make_batch()
    plain = sum_of("ce", logits, target, class_weights=WEIGHTS)
    torch.testing.assert_close(sum_of("focal", logits, target, focal_gamma=0.0, class_weights=WEIGHTS), plain)
    gammas = (0.0, 0.5, 1.0, 2.0)
    values = [sum_of("focal", logits, target, focal_gamma=gamma, class_weights=WEIGHTS).item() for gamma in gammas]
    assert values == sorted(values, reverse=True)
    chosen = logits.log_softmax(1).gather(1, target.long().where(target != 255, 0).unsqueeze(1)).squeeze(1)
    expected = -((1 - chosen.exp()) ** 2 * chosen)[target != 255].sum()
    torch.testing.assert_close(sum_of("focal", logits, target, focal_gamma=2.0), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient_is_finite_at_certainty(gamma: float) -> None:
    logits = torch.tensor([[[[200.0]], [[0.0]]]], requires_grad=True)
    value = sum_of("focal", logits, torch.zeros(1, 1, 1, dtype=torch.uint8), focal_gamma=gamma)
    assert gradient_of(value, logits).isfinite().all()


@pytest.mark.parametrize("with_mass", [True, False])
def test_written_out_gradient_passes_gradcheck(with_mass: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    bins = torch.tensor([[0, 2, 3, 1, 1], [2, 2, 3, 3, 0]])  # 3: ignored

    def outputs(values: Tensor) -> tuple[Tensor, ...]:
        return TargetLogProbability.apply(values, bins, with_mass)[: 1 + with_mass]

    assert torch.autograd.gradcheck(outputs, (logits,))


def test_terms_equal_those_computed_alone_times_their_factors() -> None:
    logits, target = make_batch()
    options = {"ce_weight": 0.5, "dice_weight": 3.0, "focal_weight": 2.0, "class_weights": WEIGHTS}
    sums = segmentation_sums(logits, target, focal_gamma=1.5, **options)
    torch.testing.assert_close(sums["ce"], 0.5 * sum_of("ce", logits, target, class_weights=WEIGHTS))
    torch.testing.assert_close(sums["dice"], 3 * sum_of("dice", logits, target))
    focal = sum_of("focal", logits, target, focal_gamma=1.5, class_weights=WEIGHTS)
    torch.testing.assert_close(sums["focal"], 2 * focal)
    counts = segmentation_counts(target, 4, **options)
    assert set(counts) == set(sums)
    assert counts["ce"] == counts["focal"] == WEIGHTS[target[target != 255].long()].sum()
    assert counts["dice"] == 3 + 3 + 4


def test_sums_and_counts_of_pieces_add_up_to_the_batch() -> None:
    logits, target = make_batch(num_images=4)
    whole = segmentation_sums(logits, target, class_weights=WEIGHTS)
    pieces = [segmentation_sums(logits[part], target[part], class_weights=WEIGHTS) for part in (slice(1), slice(1, 4))]
    counts = [segmentation_counts(target[part], 4, class_weights=WEIGHTS) for part in (slice(1), slice(1, 4))]
    for name, value in whole.items():
        torch.testing.assert_close(value, pieces[0][name] + pieces[1][name])
        assert segmentation_counts(target, 4, class_weights=WEIGHTS)[name] == counts[0][name] + counts[1][name]


def test_ignored_pixels_have_no_influence_and_no_gradient() -> None:
    logits, target = make_batch()
    other = logits.clone()
    other[:, :, :2, :3] += 7 * torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(5))
    for name, value in segmentation_sums(logits, target, focal_weight=1.0).items():
        torch.testing.assert_close(segmentation_sums(other, target, focal_weight=1.0)[name], value)
    logits.requires_grad_()
    gradient = gradient_of(sum(segmentation_sums(logits, target, focal_weight=1.0).values()), logits)
    assert (gradient[:, :, :2, :3] == 0).all()
    assert (gradient[:, :, 2:] != 0).any()


@pytest.mark.parametrize("num_images", [0, 2])
def test_nothing_valid_gives_zero_on_the_graph(num_images: int) -> None:
    logits = torch.randn(num_images, 3, 4, 6, requires_grad=True)
    target = torch.full((num_images, 4, 6), 255, dtype=torch.uint8)
    total = sum(segmentation_sums(logits, target, focal_weight=1.0).values())
    assert total.item() == 0
    assert torch.equal(gradient_of(total, logits), torch.zeros_like(logits))
    assert all(count == 0 for count in segmentation_counts(target, 3, focal_weight=1.0).values())


def test_half_precision_logits_are_raised_to_single() -> None:
    logits, target = make_batch()
    value = sum_of("dice", logits.bfloat16(), target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, sum_of("dice", logits.bfloat16().float(), target))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_unknown_class_is_named(dtype: torch.dtype) -> None:
    target = torch.tensor([[[0, 5, 255]]], dtype=dtype)
    with pytest.raises(ValueError, match=r"values 0 to 5, expected 0 to 2 or 255 \(ignored\)"):
        segmentation_counts(target, 3)


def test_sizes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 2, 4, 6\) and \(1, 6, 4\)"):
        segmentation_sums(torch.zeros(1, 2, 4, 6), torch.zeros(1, 6, 4, dtype=torch.uint8))


def test_class_weights_have_mean_one_and_fall_with_frequency() -> None:
    counts = torch.tensor([10_000_000, 0, 90_000, 3])
    weights = class_weights_from_counts(counts)
    assert weights[1] == 0
    assert weights[0] < weights[2] < weights[3]
    assert weights[counts > 0].mean().item() == pytest.approx(1)
    rare = class_weights_from_counts(torch.tensor([10**9, 1]))
    assert rare[1] / rare[0] == pytest.approx(1e2, rel=1e-3)  # the floor of 1e-4 holds
    with pytest.raises(ValueError, match="no class has a single pixel"):
        class_weights_from_counts(torch.zeros(3))
