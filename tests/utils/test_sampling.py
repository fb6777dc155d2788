"""An epoch holds every sample as often as its weight says."""

from __future__ import annotations

import numpy as np
import pytest

from utils.training.sampling import draw_shares


@pytest.mark.parametrize("seed", range(20))
def test_each_sample_comes_its_share_rounded_up_or_down(seed):
    generator = np.random.default_rng(seed)
    weights = generator.choice([0.25, 0.5, 1.0, 3.0], 200)
    counts = np.bincount(draw_shares(weights, generator), minlength=200)
    shares = 200 * weights / weights.sum()
    assert counts.sum() == 200
    assert (np.floor(shares) <= counts).all()
    assert (counts <= np.ceil(shares)).all()


def test_one_sample_of_less_weight_costs_no_other_one():
    weights = np.ones(1000)
    weights[7] = 0.25
    counts = np.bincount(draw_shares(weights, np.random.default_rng(0)), minlength=1000)
    assert counts.min() >= 0
    assert (np.delete(counts, 7) >= 1).all()


def test_weights_without_a_share_are_never_drawn_and_the_mean_is_right():
    weights, counts = np.array([0.0, 1.0, 0.3, 0.0]), np.zeros(4)
    generator = np.random.default_rng(0)
    for _ in range(4000):
        counts += np.bincount(draw_shares(weights, generator), minlength=4)
    np.testing.assert_allclose(counts / 4000, 4 * weights / weights.sum(), atol=0.03)
    assert counts[[0, 3]].tolist() == [0, 0]


def test_the_order_is_mixed():
    order = draw_shares(np.ones(100), np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(100))
    assert abs(np.corrcoef(order, np.arange(100))[0, 1]) < 0.3
