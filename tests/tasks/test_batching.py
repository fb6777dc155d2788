"""Plans of batches: pictures of one shape together, in a random order of shapes, and only leftovers mixed."""

from collections import Counter

import numpy as np
import pytest

from tasks.batching import plan_batches

SHAPES = [(16, 24), (22, 12), (13, 30)]  # height and width


@pytest.mark.parametrize("seed", range(20))
def test_plans_hold_each_sample_once_in_as_many_batches_as_without_shapes(seed):
    generator = np.random.default_rng(seed)
    shapes = [SHAPES[index] for index in generator.integers(0, 3, int(generator.integers(1, 60)))]
    size = int(generator.integers(1, 9))
    plan = plan_batches(shapes, size, np.random.default_rng(seed))
    assert sorted(index for batch in plan for index in batch) == list(range(len(shapes)))
    assert len(plan) == -(-len(shapes) // size)
    assert sum(len(batch) < size for batch in plan) <= 1
    mixed = [batch for batch in plan if len({shapes[index] for index in batch}) > 1]
    left = sum(count % size for count in Counter(shapes).values())
    assert sum(map(len, mixed)) <= left < 3 * size, "only leftovers are mixed"
    assert plan == plan_batches(shapes, size, np.random.default_rng(seed))


def test_one_shape_is_cut_in_order_and_draws_nothing():
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    assert plan_batches([(4, 6)] * 7, 3, generator) == [[0, 1, 2], [3, 4, 5], [6]]
    assert generator.bit_generator.state == before


def test_the_order_of_buckets_follows_the_generator():
    shapes = [SHAPES[index % 3] for index in range(90)]
    plans = [plan_batches(shapes, 4, np.random.default_rng([0, epoch])) for epoch in range(3)]
    firsts = [[shapes[batch[0]] for batch in plan] for plan in plans]
    assert firsts[0] != firsts[1] != firsts[2]
    assert all(len(set(order[:8])) > 1 for order in firsts), "shapes come in turns"
