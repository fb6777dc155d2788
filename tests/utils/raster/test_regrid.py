"""Probabilities reach the picture's grid as if all of them had been there at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from utils.raster.regrid import AxisMap, BlockResampler
from utils.raster.tiling import StripBlender, Window

SIZES = [  # of the model's grid, and of the picture's
    ((12, 20), (24, 40)),
    ((13, 7), (27, 15)),
    ((9, 14), (31, 46)),
    ((24, 40), (12, 20)),
    ((23, 31), (8, 10)),
    ((10, 11), (10, 12)),
    ((1, 1), (5, 3)),
    ((11, 16), (11, 16)),
]


def probabilities(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    return generator.dirichlet(np.ones(3), size).transpose(2, 0, 1).astype(np.float32)


def blocks(height: int, width: int, generator: np.random.Generator, first: int = 0):
    """A random partition into strips, all cut at the same columns, from row `first` on."""
    rows = sorted({first, height, *generator.integers(first, height + 1, 3).tolist()})
    columns = sorted({0, width, *generator.integers(0, width + 1, 3).tolist()})
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Window(top, left, bottom - top, right - left)


def regrid(values, valid, target, parts, rows=None):
    resampler = BlockResampler(values.shape[1:], target, rows or (0, target[0]))
    made, known = np.full((len(values), *target), np.nan, np.float32), np.zeros(target, bool)
    times = np.zeros(target, int)
    for window in parts:
        block = values[:, window.rows, window.columns], valid[window.rows, window.columns]
        for place, part, counts in resampler.add(window, *block):
            made[:, place.rows, place.columns], known[place.rows, place.columns] = part, counts
            times[place.rows, place.columns] += 1
    return made, known, times


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_how_blocks_are_cut_and_where_rows_begin_changes_no_bit(size, target, monkeypatch):
    generator = np.random.default_rng(0)
    values, valid = probabilities(size, generator), generator.random(size) < 0.8
    whole, known, times = regrid(values, valid, target, [Window(0, 0, *size)])
    assert (times == 1).all()
    monkeypatch.setattr("utils.raster.regrid._CHUNK_PIXELS", 30)  # wide blocks come in several parts
    for _ in range(8):
        made, counts, times = regrid(values, valid, target, blocks(*size, generator))
        assert (times == 1).all()
        assert np.array_equal(made, whole)
        assert np.array_equal(counts, known)
        rows = tuple(sorted(generator.integers(0, target[0] + 1, 2).tolist()))
        first, last = AxisMap(size[0], target[0]).needed(rows)
        parts = blocks(last, size[1], generator, first) if first < last else ()
        made, counts, times = regrid(values, valid, target, parts, rows)
        assert (times[rows[0] : rows[1]] == 1).all()
        assert times.sum() == (rows[1] - rows[0]) * target[1]
        assert np.array_equal(made[:, rows[0] : rows[1]], whole[:, rows[0] : rows[1]])
        assert np.array_equal(counts[rows[0] : rows[1]], known[rows[0] : rows[1]])


def test_equal_grids_change_nothing():
    values = probabilities((11, 16), np.random.default_rng(0))
    made, known, _ = regrid(values, np.ones((11, 16), bool), (11, 16), [Window(0, 0, 11, 16)])
    assert np.array_equal(made, values)
    assert known.all()


@pytest.mark.parametrize(("size", "target"), [pair for pair in SIZES if pair[1] >= pair[0]])
def test_finer_pixels_are_interpolated_between_the_centres_of_the_models_pixels(size, target):
    """As torch does it, whose corners are also those of the ground, not the centres of the outer pixels."""
    values = probabilities(size, np.random.default_rng(1))
    made, _, _ = regrid(values, np.ones(size, bool), target, [Window(0, 0, *size)])
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None], target, mode="bilinear")[0].numpy()
    np.testing.assert_allclose(made, expected, atol=1e-6)
    np.testing.assert_allclose(made.sum(axis=0), 1, atol=1e-6)


def test_a_class_that_is_sure_keeps_its_ground_pixel_for_pixel():
    classes = np.random.default_rng(2).integers(0, 3, (9, 13))
    values = np.eye(3, dtype=np.float32)[classes].transpose(2, 0, 1)
    made, _, _ = regrid(values, np.ones((9, 13), bool), (27, 39), [Window(0, 0, 9, 13)])
    assert np.array_equal(made[:, 1::3, 1::3].argmax(axis=0), classes)  # the centres are those of the model's pixels
    made, _, _ = regrid(values, np.ones((9, 13), bool), (18, 26), [Window(0, 0, 9, 13)])
    # nine sixteenths of each pixel's weight are of the model's pixel that covers its centre
    assert np.array_equal(made.argmax(axis=0), classes.repeat(2, axis=0).repeat(2, axis=1))


def test_coarser_pixels_are_means_of_the_ground():
    values = probabilities((6, 8), np.random.default_rng(3))
    made, _, _ = regrid(values, np.ones((6, 8), bool), (3, 4), [Window(0, 0, 6, 8)])
    np.testing.assert_allclose(made, values.reshape(3, 3, 2, 4, 2).mean(axis=(2, 4)), atol=1e-6)


def test_pixels_that_do_not_count_have_no_part():
    values, valid = probabilities((4, 6), np.random.default_rng(4)), np.ones((4, 6), bool)
    valid[:, 3:] = False
    values[:, :, 3:] = 1e6
    made, known, _ = regrid(values, valid, (8, 12), [Window(0, 0, 4, 6)])
    assert known[:, :7].all()  # also the column that lies half over pixels that count
    assert not known[:, 7:].any()
    assert made[:, :, :7].max() <= 1.00001
    np.testing.assert_allclose(made[:, :, :7].sum(axis=0), 1, atol=1e-5)
    assert not made[:, :, 7:].any()


def test_blended_windows_reach_the_picture_in_bands_as_in_one_piece():
    """The rows of two ranks, or before and after a stop, give the bits of an unbroken run."""
    size, target, tile, stride = (50, 37), (117, 80), 16, 12
    field = probabilities((80, 80), np.random.default_rng(5))
    axis = AxisMap(size[0], target[0])

    def run(rows):
        blender = StripBlender(*size, 3, tile, stride, rows=axis.needed(rows))
        resampler = BlockResampler(size, target, rows)
        found = np.full((3, *target), np.nan, np.float32)
        for window in blender.windows:
            shaken = np.roll(field, window.y + 2 * window.x, axis=2)  # each window sees something else
            for place, values in blender.add(window, shaken[:, window.rows, window.columns]):
                for out, made, _ in resampler.add(place, values):
                    found[:, out.rows, out.columns] = made
        return found[:, rows[0] : rows[1]]

    whole = run((0, 117))
    assert np.isfinite(whole).all()
    for cut in (axis.done(12), axis.done(36), 1, 61, 116):
        assert np.array_equal(np.concatenate([run((0, cut)), run((cut, 117))], axis=1), whole)
