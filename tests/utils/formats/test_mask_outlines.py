"""Outlines of masks and masks of outlines: what is drawn from the outlines of a mask is that mask."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
import shapely

from utils.formats.extents import extent_of
from utils.formats.mask_outlines import draw_outlines, join_rings, mask_of_instance, trace_mask
from utils.formats.run_lengths import area_of_mask, decode_runs
from utils.formats.types import Instance, encode_mask


def square(low: float, high: float, x: float = 0.0) -> np.ndarray:
    return np.array([[low + x, low], [high + x, low], [high + x, high], [low + x, high]])


def noise(seed: int) -> np.ndarray:
    """A mask of pieces in pieces, some of a pixel, some of many; it has parts, holes and islands in them."""
    generator = np.random.default_rng(seed)
    small = generator.random(generator.integers(1, 12, 2)) < generator.uniform(0.2, 0.9)
    return np.kron(small, np.ones(generator.integers(1, 4, 2), bool))


@pytest.mark.parametrize("seed", range(40))
def test_drawing_the_outlines_of_a_mask_gives_the_mask(seed):
    mask = noise(seed)
    polygons, holes = trace_mask(mask)
    assert np.array_equal(draw_outlines(polygons, holes, mask.shape), mask)
    area = shapely.union_all([shapely.Polygon(ring) for ring in polygons]).area
    area -= sum(shapely.make_valid(shapely.Polygon(ring)).area for ring in holes)
    assert area == pytest.approx(mask.sum())


@pytest.mark.parametrize("seed", range(40))
def test_one_ring_around_all_parts_and_holes_covers_what_they_cover(seed):
    mask = noise(seed)
    polygons, holes = trace_mask(mask)
    if not polygons:
        return
    ring = join_rings(polygons, holes)
    assert np.array_equal(draw_outlines([ring], [], mask.shape), mask)
    x, y = ring.T
    assert abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(mask.sum())


def test_an_island_in_a_hole_is_kept():
    mask = np.zeros((11, 13), bool)
    mask[1:10, 1:10] = True
    mask[2:9, 2:9] = False
    mask[4:6, 4:7] = True
    polygons, holes = trace_mask(mask)
    assert (len(polygons), len(holes)) == (1, 1)
    assert np.array_equal(draw_outlines(polygons, holes, mask.shape), mask)
    assert np.array_equal(draw_outlines([join_rings(polygons, holes)], [], mask.shape), mask)


def test_a_bridge_is_no_area_for_opencv_and_shapely():
    ring = join_rings([square(10, 90), square(10, 40, x=100)], [square(30, 50)])
    assert shapely.make_valid(shapely.Polygon(ring)).area == pytest.approx(80**2 + 30**2 - 20**2)
    drawn = cv2.fillPoly(np.zeros((100, 150), np.uint8), [ring.astype(np.int32)], 1)
    assert int(drawn.sum()) == pytest.approx(80**2 + 30**2 - 20**2, rel=0.06)  # it draws the edges too
    assert drawn[35:45, 35:45].sum() == 0


def test_run_lengths_are_decoded_as_they_are_encoded():
    for seed in range(20):
        mask = noise(seed)
        assert np.array_equal(decode_runs(encode_mask(mask), mask.shape), mask)
        assert area_of_mask(encode_mask(mask)) == mask.sum()


def test_a_mask_too_large_for_any_picture_is_not_decoded():
    start = time.monotonic()
    with pytest.raises(ValueError, match="a mask of 1000000000 x 1000000000 pixels, and a picture has"):
        decode_runs({"size": [10**9, 10**9], "counts": [10**18]})
    assert time.monotonic() - start < 1


def test_outlines_far_beyond_the_picture_are_drawn_where_they_meet_it():
    assert draw_outlines([np.array([[-1e30, -1e30], [1e30, -1e30], [1e30, 1e30], [-1e30, 1e30]])], [], (2, 3)).all()
    assert not draw_outlines([square(1e17, 2e17)], [], (2, 3)).any()


def test_parts_unite_and_holes_are_cut_out_of_all_of_them():
    instance = Instance("ring", polygons=(square(0, 6), square(2, 6, x=2)), holes=(square(3, 5),))
    mask = mask_of_instance(instance, (7, 9))
    assert mask.sum() == 36 + 2 * 4 - 4
    assert not mask[3:5, 3:5].any()


def test_the_extent_is_around_outlines_lines_and_mask_together():
    mask = np.zeros((9, 12), bool)
    mask[7:9, 1:3] = True
    line = np.array([[5.0, 4], [11, 4]])
    instance = Instance("car", polygons=(square(2, 6),), lines=(line,), mask=encode_mask(mask))
    assert extent_of(instance).tolist() == [1, 2, 11, 9]
    assert extent_of(Instance("car", lines=(line,))).tolist() == [5, 3.5, 11, 4.5]
    assert extent_of(Instance("car", mask=encode_mask(mask))).tolist() == [1, 7, 3, 9]
    assert extent_of(Instance("car", mask=encode_mask(np.zeros((9, 12), bool)))) is None


def test_many_parts_are_traced_and_joined_in_seconds():
    mask = np.random.default_rng(0).random((300, 400)) < 0.5
    start = time.monotonic()
    polygons, holes = trace_mask(mask)
    ring = join_rings(polygons, holes)
    assert time.monotonic() - start < 5
    assert np.array_equal(draw_outlines([ring], [], mask.shape), mask)
