"""Losses against slow, plain versions of their formulas, and against each other on pieces of a batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.losses import (
    MaskWeights,
    TargetLogProbability,
    class_weights_from_counts,
    cross_entropy_count,
    cross_entropy_sum,
    dice_count,
    dice_sum,
    focal_sum,
    mask_classification_counts,
    mask_classification_sums,
    match_masks,
    pixel_counts,
    segmentation_counts,
    segmentation_sums,
    target_on_grid,
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


def gradient_of(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_over_count_is_the_weighted_mean_of_torch(weights: Tensor | None) -> None:
    logits, target = make_batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mean = cross_entropy_sum(ours, target, weights) / cross_entropy_count(target, weights)
    expected = F.cross_entropy(theirs, target.long(), weight=weights, ignore_index=255)
    torch.testing.assert_close(mean.float(), expected)
    torch.testing.assert_close(gradient_of(mean, ours), gradient_of(expected, theirs))


def test_dice_equals_its_definition_image_by_image() -> None:
    logits, target = make_batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    torch.testing.assert_close(dice_sum(ours, target), slow_dice(theirs, target))
    torch.testing.assert_close(
        gradient_of(dice_sum(ours, target), ours), gradient_of(slow_dice(theirs, target), theirs)
    )
    assert dice_count(target, 4).item() == 3 + 3 + 4


def test_focal_without_gamma_is_cross_entropy_and_falls_with_gamma() -> None:
    logits, target = make_batch()
    plain = cross_entropy_sum(logits, target, WEIGHTS)
    torch.testing.assert_close(focal_sum(logits, target, 0.0, WEIGHTS), plain)
    values = [focal_sum(logits, target, gamma, WEIGHTS).item() for gamma in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values, reverse=True)
    chosen = logits.log_softmax(1).gather(1, target.long().where(target != 255, 0).unsqueeze(1)).squeeze(1)
    expected = -((1 - chosen.exp()) ** 2 * chosen)[target != 255].sum()
    torch.testing.assert_close(focal_sum(logits, target, 2.0), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient_is_finite_at_certainty(gamma: float) -> None:
    logits = torch.tensor([[[[200.0]], [[0.0]]]], requires_grad=True)
    gradient = gradient_of(focal_sum(logits, torch.zeros(1, 1, 1, dtype=torch.uint8), gamma), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("with_mass", [True, False])
def test_written_out_gradient_passes_gradcheck(with_mass: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    bins = torch.tensor([[0, 2, 3, 1, 1], [2, 2, 3, 3, 0]])  # 3: ignored

    def outputs(values: Tensor) -> tuple[Tensor, ...]:
        return TargetLogProbability.apply(values, bins, with_mass)[: 1 + with_mass]

    assert torch.autograd.gradcheck(outputs, (logits,))


def test_terms_equal_the_single_functions_times_their_factors() -> None:
    logits, target = make_batch()
    options = {"ce_weight": 0.5, "dice_weight": 3.0, "focal_weight": 2.0, "class_weights": WEIGHTS}
    sums = segmentation_sums(logits, target, focal_gamma=1.5, **options)
    torch.testing.assert_close(sums["ce"], 0.5 * cross_entropy_sum(logits, target, WEIGHTS))
    torch.testing.assert_close(sums["dice"], 3 * dice_sum(logits, target))
    torch.testing.assert_close(sums["focal"], 2 * focal_sum(logits, target, 1.5, WEIGHTS))
    counts = segmentation_counts(target, 4, **options)
    assert set(counts) == set(sums)
    assert counts["ce"] == counts["focal"] == cross_entropy_count(target, WEIGHTS)
    assert counts["dice"] == dice_count(target, 4)


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
    value = dice_sum(logits.bfloat16(), target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, dice_sum(logits.bfloat16().float(), target))


def test_a_class_may_be_the_one_that_is_ignored() -> None:
    logits, target = make_batch()
    target = target.masked_fill(target == 255, 0)
    expected = F.cross_entropy(logits, target.long(), ignore_index=0, reduction="sum")
    torch.testing.assert_close(cross_entropy_sum(logits, target, ignore_index=0), expected)
    assert pixel_counts(target, 4, ignore_index=0)[:, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_unknown_class_is_named(dtype: torch.dtype) -> None:
    target = torch.tensor([[[0, 5, 255]]], dtype=dtype)
    with pytest.raises(ValueError, match=r"values 0 to 5, expected 0 to 2 or 255 \(ignored\)"):
        dice_count(target, 3)


def test_sizes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 2, 4, 6\) and \(1, 6, 4\)"):
        dice_sum(torch.zeros(1, 2, 4, 6), torch.zeros(1, 6, 4, dtype=torch.uint8))


def test_class_weights_have_mean_one_and_fall_with_frequency() -> None:
    counts = torch.tensor([10_000_000, 0, 90_000, 3])
    for mode in ("inverse_sqrt", "median_frequency"):
        weights = class_weights_from_counts(counts, mode)
        assert weights[1] == 0
        assert weights[0] < weights[2] < weights[3]
        assert weights[counts > 0].mean().item() == pytest.approx(1)
    rare = class_weights_from_counts(torch.tensor([10**9, 1]), "median_frequency")
    assert rare[1] / rare[0] == pytest.approx(1e4, rel=1e-3)  # the floor of 1e-4 holds
    with pytest.raises(ValueError, match="unknown class weight mode 'auto'; known: inverse_sqrt, median_frequency"):
        class_weights_from_counts(counts, "auto")
    with pytest.raises(ValueError, match="no class has a single pixel"):
        class_weights_from_counts(torch.zeros(3))


# --- mask classification ---------------------------------------------------------------------------------------------


def test_grid_reads_the_centres_also_with_a_fractional_stride() -> None:
    target = torch.arange(7 * 14).view(1, 7, 14)
    grid = target_on_grid(target, (2, 4))  # stride 3.5: centres at 1.75, 5.25, 8.75, 12.25
    assert grid.tolist() == [[[row * 14 + column for column in (1, 5, 8, 12)] for row in (1, 5)]]


def test_matching_is_the_cheapest_of_all_assignments() -> None:
    generator = torch.Generator().manual_seed(2)
    class_logits, mask_logits = torch.randn(5, 4, generator=generator), torch.randn(5, 6, 8, generator=generator)
    classes = torch.randint(0, 3, (6, 8), generator=generator)
    labels = torch.tensor([0, 1, 2])
    masks, weights = classes == labels.view(-1, 1, 1), MaskWeights(1.0, 2.0, 3.0)

    def cost(query: int, label: int) -> float:
        logits, mask = mask_logits[query], masks[label].float()
        probability = logits.sigmoid()
        dice = 1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1)
        bce = F.binary_cross_entropy_with_logits(logits, mask)
        return float(-class_logits[query].softmax(0)[label] + 2 * bce + 3 * dice)

    best = min(itertools.permutations(range(5), 3), key=lambda queries: sum(map(cost, queries, range(3))))
    found = dict(
        zip(
            *(part.tolist() for part in match_masks(class_logits, mask_logits, masks, labels, None, weights)),
            strict=True,
        )
    )
    assert found == {query: label for label, query in enumerate(best)}


def test_matching_on_fewer_pixels_finds_clear_matches() -> None:
    columns = torch.arange(64) // 16
    masks = columns.expand(64, 64) == torch.arange(4).view(-1, 1, 1)
    order = torch.tensor([2, 0, 3, 1])
    mask_logits = masks[order] * 8.0 - 4.0
    queries, chosen = match_masks(torch.zeros(4, 5), mask_logits, masks, torch.arange(4), max_pixels=50)
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
    torch.testing.assert_close((sums["mask_class"] / count).float(), MaskWeights().classes * expected)


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
    assert sums["mask_bce"].item() == pytest.approx(MaskWeights().bce * 4 * torch.tensor(2.0).log().item())
