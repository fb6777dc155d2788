"""Grids: there and back between CRSs, and what differs between two of them."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from utils.raster.grids import PixelGrid, transform_points

PLACE = {"crs": "EPSG:32636", "transform": Affine(2, 0, 500_000, 0, -3, 10_000)}


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def test_points_go_there_and_back_and_lost_ones_are_infinite(generator):
    degrees, utm = CRS.from_epsg(4326), CRS.from_epsg(32636)
    x, y = generator.uniform(30, 36, 500), generator.uniform(-10, 60, 500)
    there = transform_points(degrees, utm, x, y)
    back = transform_points(utm, degrees, *there)
    np.testing.assert_allclose(back, (x, y), atol=1e-9)
    y[7], x[9] = 91, np.nan
    lost = transform_points(degrees, utm, x, y)
    assert np.flatnonzero(~np.isfinite(lost[0])).tolist() == [7, 9]
    np.testing.assert_array_equal(np.delete(lost[0], [7, 9]), np.delete(there[0], [7, 9]))


def test_a_grid_tells_what_differs():
    grid = PixelGrid(40, 60, CRS.from_epsg(32636), PLACE["transform"])
    assert grid.difference(grid.scaled(1)) is None
    noisy = PixelGrid(40, 60, grid.crs, Affine(2 + 1e-7, 0, 500_000.000001, 0, -3, 10_000))
    assert grid.difference(noisy) is None
    assert grid.scaled(0.25).bounds == grid.bounds
