"""Losses and scores between feature maps: what counts, what does not, and sums that merge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tasks.distill.map_comparison import (
    TERMS,
    ChannelStatistics,
    MapScores,
    distill_counts,
    distill_sums,
    relation_sum,
    score_map,
    valid_cells,
)


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def means(predicted: list[torch.Tensor], target: list[torch.Tensor], valid: torch.Tensor) -> dict[str, float]:
    counts = distill_counts(valid, [tuple(one.shape[-2:]) for one in target], TERMS)
    sums = distill_sums(predicted, target, valid, TERMS)
    return {name: float(sums[name].detach() / counts[name]) for name in TERMS}


def test_means_are_those_of_the_formulas():
    predicted, target = maps(0, 2, 5, 3, 4), maps(1, 2, 5, 3, 4)
    found = means([predicted], [target], torch.ones(2, 12, 16, dtype=torch.bool))
    assert found["cosine"] == pytest.approx(float(1 - F.cosine_similarity(predicted, target).mean()), rel=1e-5)
    assert found["smooth_l1"] == pytest.approx(float(F.smooth_l1_loss(predicted, target)), rel=1e-5)
    affinities = []
    for one in (predicted, target):
        directions = F.normalize(one.flatten(2), dim=1)
        affinities.append(torch.einsum("bci,bcj->bij", directions, directions))
    assert found["relation"] == pytest.approx(float((affinities[0] - affinities[1]).square().mean()), rel=1e-5)


def test_cells_without_data_count_in_nothing():
    valid = torch.ones(2, 12, 16, dtype=torch.bool)
    valid[1, :, 8:] = False
    predicted, target = maps(0, 2, 5, 3, 4).requires_grad_(), maps(1, 2, 5, 3, 4)
    before = means([predicted], [target], valid)
    sums = distill_sums([predicted], [target], valid, TERMS)
    torch.stack(list(sums.values())).sum().backward()
    assert predicted.grad[1, :, :, 2:].abs().max() == 0
    assert predicted.grad[1, :, :, :2].abs().max() > 0
    other = predicted.detach().clone()
    other[1, :, :, 2:] = 99.0
    assert means([other], [target], valid) == pytest.approx(before, rel=1e-6)
    assert float(distill_counts(valid, [(3, 4)], ["cosine"])["cosine"]) == 12 + 6


def test_blocks_count_the_same_whatever_their_grids():
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    coarse, fine = maps(0, 1, 5, 2, 2), maps(1, 1, 5, 8, 8)
    for predicted in ([-coarse, fine], [coarse, -fine]):  # one block is opposite (2), the other exact (0)
        assert means(predicted, [coarse, fine], valid)["cosine"] == pytest.approx(1.0, abs=1e-5)


def test_shares_of_a_batch_add_up():
    valid = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.4
    predicted, target = maps(0, 3, 5, 2, 2), maps(1, 3, 5, 2, 2)
    whole = distill_sums([predicted], [target], valid, TERMS)
    parts = [distill_sums([predicted[i : i + 1]], [target[i : i + 1]], valid[i : i + 1], TERMS) for i in range(3)]
    for name in TERMS:
        assert float(sum(part[name] for part in parts)) == pytest.approx(float(whole[name]), rel=1e-5)
    empty = distill_sums([predicted[:0]], [target[:0]], valid[:0], TERMS)
    assert [float(value) for value in empty.values()] == [0, 0, 0]


def test_relations_of_large_grids_are_those_of_some_cells():
    predicted, target = maps(0, 1, 4, 40, 40), maps(1, 1, 4, 40, 40)
    known = torch.ones(1, 40, 40, dtype=torch.bool)
    some = float(relation_sum(predicted, target, known)) / known.sum().item()
    assert some == pytest.approx(0.5, abs=0.05)  # twice the variance of a cosine of four random channels
    assert float(relation_sum(2 * target, target, known)) == pytest.approx(0, abs=1e-6)


def test_a_cell_is_known_when_more_than_half_of_it_is():
    valid = torch.zeros(1, 4, 4, dtype=torch.bool)
    valid[0, :2, :2] = True
    valid[0, 2:, 2:] = torch.tensor([[True, True], [False, False]])
    assert valid_cells(valid, (2, 2)).tolist() == [[[True, False], [False, False]]]


def test_statistics_are_those_of_all_cells_together():
    statistics = ChannelStatistics()
    parts = [3 + 2 * maps(seed, 4, 5, 6) for seed in range(3)]
    for part in parts:
        statistics.update(part)
    joined = torch.cat([part.flatten(1) for part in parts], dim=1).double()
    mean, deviation = statistics.compute()
    torch.testing.assert_close(mean, joined.mean(dim=1))
    torch.testing.assert_close(deviation, joined.std(dim=1, unbiased=False))


def test_explained_variance_is_that_of_all_cells_and_merges():
    targets = [1 + maps(seed, 3, 4, 4) for seed in range(4)]
    predictions = [target + 0.5 * maps(9 + seed, 3, 4, 4) for seed, target in enumerate(targets)]
    known = torch.ones(4, 4, dtype=torch.bool)
    known[0] = False
    merged = MapScores()
    for target, predicted in zip(targets, predictions, strict=True):
        found = score_map(predicted, target, (predicted, target), known)
        merged.add(MapScores.from_state(found.state()))
    wanted, own = (np.concatenate([one[:, known].numpy() for one in part], axis=1) for part in (targets, predictions))
    error = ((wanted - own) ** 2).sum() / ((wanted - wanted.mean(axis=1, keepdims=True)) ** 2).sum()
    assert merged.compute()["explained_variance"] == pytest.approx(1 - error, rel=1e-5)
    assert merged.cells == 4 * 12
    assert merged.compute()["cosine"] == pytest.approx(merged.compute()["raw_cosine"])
