"""Weights of resampling."""

from __future__ import annotations

import numpy as np
import pytest

from utils.geometry.resampling import resampling_weights


@pytest.mark.parametrize("kind", ["area", "bilinear"])
@pytest.mark.parametrize(("source", "target"), [(10, 10), (10, 3), (7, 19), (100, 99), (5, 1)])
def test_weights_add_up_and_a_constant_stays(kind, source, target):
    index, weight = resampling_weights(0, target, source, target, kind)
    np.testing.assert_allclose(weight.sum(axis=1), 1, rtol=1e-12)
    assert index.min() >= 0
    assert index.max() < source
    part_index, part_weight = resampling_weights(target // 2, target - target // 2, source, target, kind)
    np.testing.assert_array_equal(part_index, index[target // 2 :])
    np.testing.assert_array_equal(part_weight, weight[target // 2 :])
    if kind == "area":
        total = np.zeros(source)
        np.add.at(total, index, weight)
        np.testing.assert_allclose(total, target / source)
