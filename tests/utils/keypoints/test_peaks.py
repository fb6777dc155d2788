"""Decoding: what was drawn is found again to a fraction of a cell, alone or among others, mirrored or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.keypoints.heatmaps import keypoint_heatmaps
from utils.keypoints.peaks import all_peaks, best_peaks, refine, soft_argmax

SIGMAS = [1.0, 1.5, 2.0, 3.0]


def make_gaussians(points: Tensor, size: tuple[int, int], sigma: float, height: float = 1.0) -> Tensor:
    """Gaussians at points (M, 2) in cells, sampled at the centres of cells of whole maps."""
    columns, rows = torch.arange(size[1]) + 0.5, torch.arange(size[0]).unsqueeze(1) + 0.5
    x, y = points[:, 0, None, None], points[:, 1, None, None]
    return height * (-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)).exp()


def random_points(count: int, size: tuple[int, int], seed: int, margin: float = 0.0) -> Tensor:
    span = torch.tensor([size[1], size[0]]) - 2 * margin
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * span + margin


def to_logits(probabilities: Tensor) -> Tensor:
    return torch.logit(probabilities.double().clamp(1e-30, 0.999)).float()


# --- one peak --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("height", [1.0, 0.3])
def test_gaussians_at_any_offset_are_found_without_bias(sigma: float, height: float) -> None:
    size = (19, 26)
    points = random_points(2000, size, seed=1)
    maps = make_gaussians(points, size, sigma, height)
    cells = points.long()
    difference = refine(maps, cells) - points
    assert difference.abs().max() < 0.002  # 0.05 is asked for
    peaks = best_peaks(to_logits(0.9 * maps).unsqueeze(0))
    assert (peaks.points[0] - points).abs().max() < 0.01
    assert (peaks.spread / sigma - 1).abs().max() < 0.01  # 5 % are asked for
    torch.testing.assert_close(peaks.scores[0], 0.9 * maps.flatten(1).max(dim=1).values, atol=1e-5, rtol=0)


def test_the_whole_hessian_finds_oblique_summits_where_axes_alone_do_not() -> None:
    size, points = (15, 18), random_points(500, (15, 18), seed=2, margin=3.0)
    columns, rows = torch.arange(size[1]) + 0.5, torch.arange(size[0]).unsqueeze(1) + 0.5
    x, y = columns - points[:, 0, None, None], rows - points[:, 1, None, None]
    maps = (-(0.5 * x**2 + 0.4 * y**2 - 0.7 * x * y)).exp()
    places = maps.flatten(1).argmax(dim=1)
    cells = torch.stack([places % size[1], places // size[1]], dim=1)
    assert (refine(maps, cells) - points).abs().max() < 0.002


@pytest.mark.parametrize("stride", [3.5, 4.0])
@pytest.mark.parametrize("sigma", [0.7, 1.3, 2.5])
@pytest.mark.parametrize("grid", [(11, 23), (30, 8), (3, 3)])
def test_encoding_and_decoding_give_the_point_back(stride: float, sigma: float, grid: tuple[int, int]) -> None:
    points = random_points(400, grid, seed=3) * stride
    points[:2] = torch.tensor([[0.0, 0.0], [grid[1] * stride, grid[0] * stride]])
    keypoints = torch.cat([points, torch.full((400, 1), 2.0)], dim=1).view(1, 1, 400, 3)
    maps = keypoint_heatmaps(keypoints, grid, stride, sigma)
    peaks = best_peaks(to_logits(0.95 * maps))
    assert (peaks.points[0] - points / stride).abs().max() < 0.05


def test_flat_places_and_small_maps_stay_at_the_centres_of_cells() -> None:
    cells = torch.tensor([[0, 0], [3, 1]])
    assert refine(torch.ones(2, 4, 6), cells).tolist() == [[0.5, 0.5], [3.5, 1.5]]
    assert refine(torch.zeros(2, 4, 6), cells).tolist() == [[0.5, 0.5], [3.5, 1.5]]
    assert refine(torch.rand(1, 2, 9), torch.tensor([[4, 1]])).tolist() == [[4.5, 1.5]]
    flat = best_peaks(torch.zeros(1, 1, 5, 7))
    assert (flat.points.tolist(), flat.scores.item(), flat.spread.item()) == ([[[3.5, 2.5]]], 0.5, 7.0)


def test_a_ridge_is_refined_across_and_not_along() -> None:
    rows = torch.arange(9) + 0.5
    ridge = (-((rows - 4.8) ** 2) / 4).exp().unsqueeze(1).expand(9, 12)
    (point,) = refine(ridge.unsqueeze(0), torch.tensor([[6, 4]])).tolist()
    assert point == pytest.approx([6.5, 4.8], abs=1e-4)


def test_points_stay_near_their_cell_and_on_the_grid() -> None:
    logits = torch.randn(8, 40, 7, 9, generator=torch.Generator().manual_seed(4)) * 5
    peaks = best_peaks(logits)
    best = logits.flatten(2).argmax(dim=2)
    centres = torch.stack([best % 9 + 0.5, best // 9 + 0.5], dim=2)
    assert (peaks.points - centres).abs().max() <= 1
    assert (peaks.points >= 0).all()
    assert (peaks.points <= torch.tensor([9, 7])).all()
    assert peaks.spread.isfinite().all()
    assert (peaks.spread <= 9).all()


def test_ground_outside_the_picture_does_not_move_points() -> None:
    points = random_points(300, (12, 16), seed=5, margin=2.0)
    logits = to_logits(0.9 * make_gaussians(points, (12, 16), 1.5))
    masked = torch.nn.functional.pad(logits, (0, 5, 0, 3), value=-torch.inf)
    torch.testing.assert_close(best_peaks(masked.unsqueeze(0)).points, best_peaks(logits.unsqueeze(0)).points)
    edge = torch.full((1, 1, 5, 6), -torch.inf)
    edge[..., :4] = torch.tensor([-3.0, -2.0, -1.0, 0.0])
    edge[..., 2, :] += 1
    assert best_peaks(edge).points[0, 0, 0].item() == 3.5  # the summit may lie beyond: it stays in its cell


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_do_not_stop_validation(value: float) -> None:
    logits = torch.full((1, 2, 5, 6), value)
    assert best_peaks(logits).points.isfinite().all()
    assert len(all_peaks(logits, 2.0, 3, 0.1)[0]) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision_is_read(dtype: torch.dtype) -> None:
    points = random_points(50, (12, 16), seed=6, margin=1.0)
    logits = to_logits(0.9 * make_gaussians(points, (12, 16), 2.0)).to(dtype).unsqueeze(0)
    peaks = best_peaks(logits)
    assert peaks.points.dtype == torch.float32
    assert (peaks.points[0] - points).abs().max() < (0.5 if dtype == torch.bfloat16 else 0.01)


def test_soft_argmax_is_the_mean_place_and_has_gradients() -> None:
    logits = torch.randn(3, 2, 5, 8, generator=torch.Generator().manual_seed(7), requires_grad=True)
    points = soft_argmax(logits, temperature=0.5)
    weights = (logits / 0.5).flatten(2).softmax(dim=2).unflatten(2, (5, 8))
    rows, columns = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    expected = torch.stack([(weights * columns).sum((2, 3)), (weights * rows).sum((2, 3))], dim=-1)
    torch.testing.assert_close(points, expected)
    (gradient,) = torch.autograd.grad(points.sum(), logits)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    torch.testing.assert_close(soft_argmax(logits.flip(-1), 0.5), points * torch.tensor([-1, 1]) + torch.tensor([8, 0]))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        soft_argmax(logits, 0.0)


def test_both_decoders_agree_on_a_clear_peak_and_an_unknown_one_is_refused() -> None:
    points = random_points(40, (20, 24), seed=8, margin=6.0)
    logits = make_gaussians(points, (20, 24), 1.5).log().unsqueeze(0)
    soft, quadratic = best_peaks(logits, "soft_argmax"), best_peaks(logits)
    assert (soft.points[0] - points).abs().max() < 0.01
    assert torch.equal(soft.scores, quadratic.scores)
    with pytest.raises(ValueError, match="unknown decoder 'argmax'; known: quadratic, soft_argmax"):
        best_peaks(logits, "argmax")


@pytest.mark.parametrize("radius", [1.5, 3.5, 6.0])
def test_a_plateau_is_one_peak_at_its_middle(radius: float) -> None:
    points = random_points(60, (20, 26), seed=9, margin=7.0)
    keypoints = torch.cat([points * 4, torch.ones(60, 1)], dim=1).view(1, 1, 60, 3)
    logits = keypoint_heatmaps(keypoints, (20, 26), 4.0, radius, "circle") * 9 - 4
    best = best_peaks(logits)
    assert (best.points[0] - points).abs().max() < 1.0  # the middle of the disc's cells, and half a cell
    for peaks, point in zip(all_peaks(logits, 1.0, 9, 0.5)[0], best.points[0], strict=True):
        assert torch.equal(peaks.points, point.unsqueeze(0))


# --- many peaks ------------------------------------------------------------------------------------------------------


def choose_slowly(points: Tensor, radius: float, most: int) -> list[int]:
    """Greedy choice among points that are sorted by falling score."""
    kept: list[int] = []
    for index, point in enumerate(points):
        if all((points[other] - point).norm() >= radius for other in kept) and len(kept) < most:
            kept.append(index)
    return kept


@pytest.mark.parametrize(("radius", "most"), [(0.0, 100), (2.5, 100), (4.0, 5)])
def test_peaks_of_noise_are_chosen_greedily_by_their_true_distances(radius: float, most: int) -> None:
    logits = torch.randn(2, 3, 20, 31, generator=torch.Generator().manual_seed(10))
    every = all_peaks(logits, 0.0, 10_000, 0.3)
    chosen = all_peaks(logits, radius, most, 0.3)
    for image in range(2):
        for of_all, of_chosen in zip(every[image], chosen[image], strict=True):
            assert len(of_all.scores) > 30
            assert (of_all.scores.diff() <= 0).all()
            expected = choose_slowly(of_all.points, radius, most)
            assert torch.equal(of_chosen.points, of_all.points[expected])
            assert torch.equal(of_chosen.scores, of_all.scores[expected])


def test_the_first_of_all_peaks_is_the_best_peak() -> None:
    logits = torch.randn(3, 4, 15, 22, generator=torch.Generator().manual_seed(11))
    best = best_peaks(logits)
    for image, keypoints in enumerate(all_peaks(logits, 3.0, 4, 0.0)):
        for keypoint, peaks in enumerate(keypoints):
            assert torch.equal(peaks.points[0], best.points[image, keypoint])
            assert peaks.scores[0] == best.scores[image, keypoint]
            assert peaks.spread[0] == best.spread[image, keypoint]


def test_several_animals_are_found_and_nothing_else() -> None:
    points = random_points(400, (60, 80), seed=12)
    points = points[choose_slowly(points, 9.0, 20)]
    keypoints = torch.cat([points * 3.5, torch.full((len(points), 1), 1.0)], dim=1).view(1, -1, 1, 3)
    logits = to_logits(0.9 * keypoint_heatmaps(keypoints, (60, 80), 3.5, 1.5))
    peaks = all_peaks(logits, 4.0, 50, 0.2)[0][0]
    assert len(peaks.points) == len(points) == 20
    distances = torch.cdist(peaks.points, points)
    assert distances.min(dim=1).values.max() < 0.05
    assert len(distances.argmin(dim=1).unique()) == 20


def test_a_score_may_leave_none_and_the_number_is_kept_to() -> None:
    logits = torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(13))
    assert [len(peaks.scores) for peaks in all_peaks(logits, 1.0, 3, 0.999)[0]] == [0, 0]
    assert [len(peaks.scores) for peaks in all_peaks(logits, 1.0, 3, 0.0)[0]] == [3, 3]
    assert [len(peaks.scores) for peaks in all_peaks(logits, 1.0, 0, 0.0)[0]] == [0, 0]
    assert all_peaks(torch.zeros(0, 2, 9, 9), 1.0, 3, 0.0) == []


def test_decoding_follows_a_mirror() -> None:
    logits = torch.randn(2, 3, 14, 17, generator=torch.Generator().manual_seed(16))
    points, mirrored = best_peaks(logits).points.numpy(), best_peaks(logits.flip(-1)).points.numpy()
    np.testing.assert_allclose(mirrored, points * (-1, 1) + (17, 0), atol=1e-4)


def test_soft_argmax_of_several_peaks_is_that_of_the_cells_around_each() -> None:
    maps = torch.full((1, 2, 9, 12), -9.0)
    maps[0, 0, 1:4, 1:4], maps[0, 0, 2, 2] = torch.tensor([[0.0, 1, 2], [0, 3, 2], [0, 1, 0]]), 4.0
    maps[0, 0, 6, 9], maps[0, 0, 6, 10] = 3.0, 2.9
    maps[0, 1, 0, 11] = 2.0  # in a corner
    [[first, corner]] = all_peaks(maps, radius_cells=2, most=5, min_score=0.2, decoder="soft_argmax")
    expected = []
    for x, y in ((2, 2), (9, 6)):
        rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
        weights = maps[0, 0].exp() * ((columns - x) ** 2 + (rows - y) ** 2 <= 4)
        expected.append([float((weights * (of + 0.5)).sum() / weights.sum()) for of in (columns, rows)])
    np.testing.assert_allclose(first.points.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(corner.points.numpy(), [[11.5, 0.5]], atol=1e-3)
    plain = all_peaks(maps, radius_cells=2, most=5, min_score=0.2)[0]
    assert (first.points - plain[0].points).abs().max() > 0.05
    assert torch.equal(first.scores, plain[0].scores)
    assert torch.equal(first.spread, plain[0].spread)


def test_around_a_single_peak_within_a_radius_over_the_whole_map_both_soft_argmaxes_agree() -> None:
    maps = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(1))
    whole = best_peaks(maps, "soft_argmax").points
    around = all_peaks(maps, radius_cells=500, most=1, min_score=0, decoder="soft_argmax")
    torch.testing.assert_close(torch.stack([torch.cat([peaks.points for peaks in row]) for row in around]), whole)
    assert [peaks.points.shape for peaks in all_peaks(maps[:1] - 99, 3, 2, 0.5, "soft_argmax")[0]] == [(0, 2)] * 3
