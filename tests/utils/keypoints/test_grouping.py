"""Grouping: animals that were drawn are found again, each with its own points, also when a centre is missed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.keypoints.grouping import group_peaks
from utils.keypoints.heatmaps import centre_targets, keypoint_heatmaps
from utils.keypoints.peaks import Peaks, all_peaks

GRID, STRIDE = (90, 120), 3.5
REACH = 4.0


def make_animals(count: int, num_keypoints: int, seed: int, missing: float = 0.0) -> Tensor:
    """Keypoints (N, K, 3) in canvas pixels, centres 25 cells apart, and equal keypoints 7 cells; some not labelled."""
    generator = np.random.default_rng(seed)
    animals: list[np.ndarray] = []
    while len(animals) < count:
        centre = generator.uniform((12, 12), (GRID[1] - 12, GRID[0] - 12))
        points = centre + generator.uniform(-10, 10, (num_keypoints, 2))
        others = np.array(animals).reshape(-1, num_keypoints, 2)
        apart = (np.linalg.norm(others - points, axis=2) > 7).all()
        if apart and (np.linalg.norm(others.mean(axis=1) - points.mean(axis=0), axis=1) > 25).all():
            animals.append(points)
    visibility = np.where(generator.random((count, num_keypoints, 1)) < missing, 0.0, 2.0)
    visibility[:, :2] = 2.0
    points = np.where(visibility > 0, np.array(animals) * STRIDE, np.nan)
    return torch.from_numpy(np.concatenate([points, visibility], axis=2)).float()


def detect(keypoints: Tensor) -> tuple[list[Peaks], Peaks, Tensor]:
    """Peaks of each keypoint, peaks of centres, and offsets, from perfect maps of one image."""
    batch = keypoints.unsqueeze(0)
    targets = centre_targets(batch, torch.zeros(1, len(keypoints), 4), GRID, STRIDE, sigma_cells=2.0, radius_cells=2.5)
    maps = torch.cat([keypoint_heatmaps(batch, GRID, STRIDE, 1.5), targets.centres], dim=1)
    peaks = all_peaks(torch.logit(0.9 * maps.clamp(min=1e-12)), 3.0, 20, 0.3)[0]
    return peaks[:-1], peaks[-1], targets.offsets[0]


def assert_same_animals(instances: Tensor, truth: Tensor) -> None:
    """Each animal of the truth is one instance: the same keypoints, at the same places."""
    assert len(instances) == len(truth)
    expected = (truth[..., :2] / STRIDE).where(truth[..., 2:] > 0, torch.nan)
    means = expected.nanmean(dim=1)
    order = torch.cdist(means, instances[..., :2].nanmean(dim=1)).argmin(dim=1)
    assert len(order.unique()) == len(truth)
    torch.testing.assert_close(instances[order][..., :2], expected, atol=0.05, rtol=0, equal_nan=True)
    assert torch.equal(instances[order][..., 2] > 0, truth[..., 2] > 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("count", "num_keypoints", "missing"), [(1, 1, 0.0), (3, 5, 0.0), (5, 8, 0.3), (6, 3, 0.2)])
def test_animals_are_found_exactly(count: int, num_keypoints: int, missing: float, seed: int) -> None:
    truth = make_animals(count, num_keypoints, seed, missing if num_keypoints > 2 else 0.0)
    instances, scores = group_peaks(*detect(truth), most_instances=20, max_distance_cells=REACH)
    assert_same_animals(instances, truth)
    assert (scores.diff() <= 0).all()
    assert (scores > 0).all()


def test_an_animal_whose_centre_was_missed_is_found_by_the_votes_of_its_points() -> None:
    truth = make_animals(4, 6, seed=20)
    peaks, centres, offsets = detect(truth)
    some = Peaks(*(part[:2] for part in centres))
    none = Peaks(*(part[:0] for part in centres))
    for seen in (some, none):
        instances, scores = group_peaks(peaks, seen, offsets, most_instances=20, max_distance_cells=REACH)
        assert_same_animals(instances, truth)
        assert scores.isfinite().all()


def test_less_than_half_of_the_points_make_no_animal_of_their_own() -> None:
    truth = make_animals(2, 6, seed=21)
    peaks, centres, offsets = detect(truth)
    none = Peaks(*(part[:0] for part in centres))
    few = [Peaks(*(part[:0] for part in of_one)) if keypoint > 1 else of_one for keypoint, of_one in enumerate(peaks)]
    instances, scores = group_peaks(few, none, offsets, most_instances=20, max_distance_cells=REACH)
    assert (instances.shape, scores.shape) == ((0, 6, 3), (0,))
    instances, _ = group_peaks(few, centres, offsets, most_instances=20, max_distance_cells=REACH)
    assert (instances[..., 2] > 0).tolist() == [[True, True, False, False, False, False]] * 2


def test_stray_peaks_change_nothing_when_they_point_elsewhere_or_are_weaker() -> None:
    truth = make_animals(3, 4, seed=22)
    peaks, centres, offsets = detect(truth)
    generator = torch.Generator().manual_seed(23)
    strays = torch.rand(4, 6, 2, generator=generator) * torch.tensor([GRID[1], GRID[0]])
    known = (truth[..., :2] / STRIDE).flatten(0, 1)
    noisy = []
    for of_keypoint, places in zip(peaks, strays, strict=True):
        places = places[torch.cdist(places, known).min(dim=1).values > 12]  # no vectors were taught there
        places = places[torch.cdist(places, centres.points).min(dim=1).values > REACH]
        weak = torch.full((len(places),), 0.31)
        noisy.append(Peaks(torch.cat([of_keypoint.points, places]), torch.cat([of_keypoint.scores, weak]), weak))
    assert sum(len(of_one.scores) for of_one in noisy) > sum(len(of_one.scores) for of_one in peaks)
    assert_same_animals(group_peaks(noisy, centres, offsets, most_instances=20, max_distance_cells=REACH)[0], truth)


def test_a_weak_centre_beside_a_strong_one_takes_no_points_though_they_vote_nearer_to_it() -> None:
    truth = make_animals(3, 5, seed=26)
    peaks, centres, offsets = detect(truth)
    aside = torch.tensor([2.0, 0.0])
    offsets.view(5, 2, *GRID)[1::2] += aside.view(2, 1, 1)  # every other keypoint votes for the weak centres exactly
    scores = torch.cat([centres.scores, 0.2 * centres.scores])
    both = Peaks(torch.cat([centres.points, centres.points + aside]), scores, scores)
    instances, _ = group_peaks(peaks, both, offsets, most_instances=20, max_distance_cells=REACH)
    assert_same_animals(instances, truth)


def test_the_assignment_has_the_largest_sum_of_scores_times_nearness() -> None:
    generator = torch.Generator().manual_seed(24)
    points, centres = torch.rand(4, 2, generator=generator) * 6, torch.rand(3, 2, generator=generator) * 6
    scores = torch.rand(4, generator=generator) + 0.1
    cells = points.long() + 0.5
    gains = scores.unsqueeze(1) * (1 - torch.cdist(cells, centres) / 5).clamp(min=0)
    trust = torch.tensor([1.0, 0.9, 0.8])  # tells which centre an instance came from
    gains = gains * trust
    best = max(sum(gains[p, c] for c, p in enumerate(order)) for order in itertools.permutations(range(4), 3))
    grouped, totals = group_peaks(
        [Peaks(points, scores, scores)],
        Peaks(centres, trust, trust),
        torch.zeros(2, 6, 6),
        most_instances=9,
        max_distance_cells=5.0,
    )
    found = 0.0
    for (x, y, score), total in zip(grouped[:, 0].tolist(), totals.tolist(), strict=True):
        peak = (points - torch.tensor([x, y])).norm(dim=1).argmin()
        found += gains[peak, (trust - total / score).abs().argmin()].item()
    assert len(grouped) == 3
    assert found == pytest.approx(best.item())


def test_only_the_best_animals_are_kept() -> None:
    truth = make_animals(5, 3, seed=25)
    peaks, centres, offsets = detect(truth)
    ranked = Peaks(centres.points, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), centres.spread)
    every, _ = group_peaks(peaks, ranked, offsets, most_instances=9, max_distance_cells=REACH)
    best, scores = group_peaks(peaks, ranked, offsets, most_instances=2, max_distance_cells=REACH)
    assert torch.equal(best, every[:2])
    torch.testing.assert_close(scores, best[..., 2].mean(dim=1) * torch.tensor([0.9, 0.8]))


def test_vectors_that_are_not_finite_lose_points_but_do_not_stop() -> None:
    truth = make_animals(2, 3, seed=26)
    peaks, centres, offsets = detect(truth)
    offsets = torch.full_like(offsets, float("nan"))
    instances, _ = group_peaks(peaks, centres, offsets, most_instances=9, max_distance_cells=REACH)
    assert instances.shape == (0, 3, 3)


def test_offsets_must_fit_the_keypoints() -> None:
    peaks = [Peaks(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0))] * 3
    with pytest.raises(ValueError, match=r"offsets must have shape \(2 \* 3, h, w\), got \(4, 5, 5\)"):
        group_peaks(peaks, peaks[0], torch.zeros(4, 5, 5), most_instances=1, max_distance_cells=1.0)
