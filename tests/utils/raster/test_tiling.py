"""Windows and blending: weights, seams, bands, skipping."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from utils.raster.tiling import (
    TAPERS,
    StripBlender,
    Window,
    axis_weights,
    decode_classes,
    split_rows,
    window_starts,
    windows_for_rows,
)


def draw_cases(count: int) -> list[tuple[int, int, tuple[int, int], tuple[int, int]]]:
    """Height, width, tile and stride at random, small strides and rasters below a tile among them."""
    random = np.random.default_rng(7)
    cases = []
    for _ in range(count):
        height, width = (int(value) for value in random.integers(1, 40, 2))
        tile = tuple(int(value) for value in random.integers(2, 17, 2))
        stride = tuple(int(random.integers(1, side + 1)) for side in tile)
        cases.append((height, width, tile, stride))
    return cases


CASES = draw_cases(40)


def absolute_model(window: Window, channels: int = 3) -> np.ndarray:
    """Probabilities that depend on nothing but the pixel's place in the raster."""
    y = np.arange(window.y, window.y + window.height)[:, None]
    x = np.arange(window.x, window.x + window.width)[None]
    logits = np.stack([np.sin(0.3 * y + k) + np.cos(0.7 * x * (k + 1)) for k in range(channels)])
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(axis=0)).astype(np.float32)


def noisy_model(window: Window, channels: int = 3) -> np.ndarray:
    """Values that differ from window to window, also on the same ground."""
    random = np.random.default_rng([abs(window.y), abs(window.x), window.y < 0, window.x < 0])
    return random.random((channels, window.height, window.width), dtype=np.float32)


def blend(blender: StripBlender, model, skipped=frozenset()) -> tuple[dict[Window, np.ndarray], np.ndarray]:
    """All blocks, and the picture that they make."""
    blocks = {}
    for window in blender.windows:
        finished = blender.skip(window) if window in skipped else blender.add(window, model(window))
        for place, values in finished:
            assert place not in blocks
            assert place.intersection(window) == place, "a block must lie in the window that finished it"
            blocks[place] = values
    blender.finish()
    bottom = max((place.rows.stop for place in blocks), default=0)
    right = max((place.columns.stop for place in blocks), default=0)
    picture = np.full((blender.channels, bottom, right), np.nan, np.float32)
    for place, values in blocks.items():
        assert values.shape[1:] == (place.height, place.width)
        assert np.isnan(picture[:, place.rows, place.columns]).all(), "blocks must not overlap"
        picture[:, place.rows, place.columns] = values
    return blocks, picture


@pytest.mark.parametrize(("height", "width", "tile", "stride"), CASES)
def test_windows_cover_the_raster_and_none_is_superfluous(height, width, tile, stride):
    covered = np.zeros((height, width), int)
    for window in windows_for_rows(height, width, tile, stride, (0, height)):
        ground = window.intersection(Window(0, 0, height, width))
        fresh = covered[ground.rows, ground.columns] == 0
        assert fresh.any(), "this window's ground was covered before"
        covered[ground.rows, ground.columns] += 1
    assert covered.all()


@pytest.mark.parametrize("kind", sorted(TAPERS))
@pytest.mark.parametrize(("size", "tile", "stride"), [(c[0], c[2][0], c[3][0]) for c in CASES])
def test_weights_sum_to_one_and_are_one_where_a_window_is_alone(size, tile, stride, kind):
    starts = window_starts(size, tile, stride)
    weights = axis_weights(size, starts, tile, kind)
    total, count = np.zeros(size + 2 * tile, np.float32), np.zeros(size + 2 * tile, int)
    for start, row in zip(starts, weights, strict=True):
        total[start + tile : start + 2 * tile] += row
        count[start + tile : start + 2 * tile] += 1
    inside = slice(tile, tile + size)
    np.testing.assert_allclose(total[inside], 1, atol=1e-6)
    assert (weights > 0).all()
    for start, row in zip(starts, weights, strict=True):
        assert (row[count[start + tile : start + 2 * tile] == 1] == 1).all()


def test_hann_weights_have_the_worked_values():
    overlap = axis_weights(12, [0, 6], tile=8)[1, :2]
    np.testing.assert_allclose(overlap, np.sin(np.pi * np.array([0.125, 0.375])) ** 2, rtol=1e-6)


@pytest.mark.parametrize("kind", sorted(TAPERS))
@pytest.mark.parametrize(("height", "width", "tile", "stride"), CASES)
def test_blocks_tile_the_raster_and_reproduce_a_constant(height, width, tile, stride, kind):
    blender = StripBlender(height, width, 2, tile, stride, kind)
    constant = np.array([0.3, 0.7], np.float32)[:, None, None]
    _, picture = blend(blender, lambda window: np.broadcast_to(constant, (2, *tile)))
    assert picture.shape == (2, height, width)
    np.testing.assert_allclose(picture, np.broadcast_to(constant, picture.shape), atol=1e-6)


@pytest.mark.parametrize(("height", "width", "tile", "stride"), CASES)
def test_a_model_of_absolute_places_is_reproduced_whatever_the_windows(height, width, tile, stride):
    blender = StripBlender(height, width, 3, tile, stride)
    _, picture = blend(blender, lambda window: torch.from_numpy(absolute_model(window)))
    np.testing.assert_allclose(picture, absolute_model(Window(0, 0, height, width)), atol=2e-6)


@pytest.mark.parametrize(("height", "width", "tile", "stride"), CASES[:20])
def test_blending_equals_the_plain_weighted_mean(height, width, tile, stride):
    blender = StripBlender(height, width, 3, tile, stride, "linear")
    _, picture = blend(blender, noisy_model)
    tops = window_starts(height, tile[0], stride[0])
    lefts = window_starts(width, tile[1], stride[1])
    rows, columns = axis_weights(height, tops, tile[0], "linear"), axis_weights(width, lefts, tile[1], "linear")
    total = np.zeros((3, height + 2 * tile[0], width + 2 * tile[1]))
    for y, row in zip(tops, rows, strict=True):
        for x, column in zip(lefts, columns, strict=True):
            place = Window(y + tile[0], x + tile[1], *tile)
            total[:, place.rows, place.columns] += noisy_model(Window(y, x, *tile)) * row[:, None] * column
    inside = total[:, tile[0] : tile[0] + height, tile[1] : tile[1] + width]
    np.testing.assert_allclose(picture, inside, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize(("height", "width", "tile", "stride"), CASES[:12])
def test_bands_of_rows_give_the_bits_of_the_whole(height, width, tile, stride, parts):
    _, whole = blend(StripBlender(height, width, 3, tile, stride), noisy_model)
    bands = split_rows(height, tile[0], stride[0], parts)
    assert (bands[0][0], bands[-1][1], len(bands)) == (0, height, parts)
    for (start, stop), following in zip(bands, [*bands[1:], (height, height)], strict=True):
        assert stop == following[0]
        blender = StripBlender(height, width, 3, tile, stride, rows=(start, stop))
        assert blender.windows == windows_for_rows(height, width, tile, stride, (start, stop))
        blocks, picture = blend(blender, noisy_model)
        if blocks:
            assert np.array_equal(picture[:, start:stop], whole[:, start:stop])


@pytest.mark.parametrize("start", [0, 1, 5, 11, 12, 22, 28])
@pytest.mark.parametrize("stride", [2, 3, 5, 6])
def test_beginning_at_any_row_gives_the_bits_of_an_unbroken_run(start, stride):
    _, whole = blend(StripBlender(29, 17, 2, 6, stride), lambda window: noisy_model(window, 2))
    _, picture = blend(StripBlender(29, 17, 2, 6, stride, rows=(start, 29)), lambda window: noisy_model(window, 2))
    assert np.array_equal(picture[:, start:], whole[:, start:])


@pytest.mark.parametrize(("height", "width", "tile", "stride"), CASES[:20])
def test_skipping_changes_nothing_outside_the_skipped_windows(height, width, tile, stride):
    windows = StripBlender(height, width, 3, tile, stride).windows
    skipped = {window for index, window in enumerate(windows) if index % 3 == 1}
    _, whole = blend(StripBlender(height, width, 3, tile, stride), noisy_model)
    blocks, picture = blend(StripBlender(height, width, 3, tile, stride), noisy_model, skipped)
    assert sum(place.height * place.width for place in blocks) == height * width
    outside = np.ones((height, width), bool)
    alone = np.zeros((height, width), bool)
    for window in windows:
        ground = window.intersection(Window(0, 0, height, width))
        if window in skipped:
            outside[ground.rows, ground.columns] = False
        else:
            alone[ground.rows, ground.columns] = True
    assert np.array_equal(picture[:, outside], whole[:, outside])
    assert (picture[:, ~alone] == 0).all()


def test_a_block_is_not_touched_by_later_windows_and_the_input_never():
    blender = StripBlender(20, 20, 2, tile=8, stride=6)
    kept = []
    for window in blender.windows:
        values = noisy_model(window, 2)
        before = values.copy()
        kept += [(block, block.copy()) for _, block in blender.add(window, values)]
        assert np.array_equal(values, before)
    assert all(np.array_equal(block, copy) for block, copy in kept)


def test_what_sticks_out_may_be_left_away():
    whole = blend(StripBlender(5, 7, 2, tile=8, stride=6), lambda window: noisy_model(window, 2))[1]
    cropped = blend(StripBlender(5, 7, 2, tile=8, stride=6), lambda window: noisy_model(window, 2)[:, :5, :7])[1]
    assert np.array_equal(whole, cropped)


def test_memory_is_overlaps_only():
    blender = StripBlender(10**6, 3000, 8, tile=512, stride=384)
    held = blender._row_carry.nbytes + blender._column_carry.nbytes
    assert held == 8 * 4 * (128 * 3000 + 512 * 128)


def test_hann_blending_hides_a_step_between_windows_better_than_a_plain_mean():
    steps = {}
    for kind in ("hann", "uniform"):
        blender = StripBlender(8, 32, 1, tile=16, stride=8, weights=kind)
        _, picture = blend(blender, lambda window: np.full((1, 16, 16), window.x, np.float32))
        steps[kind] = np.abs(np.diff(picture[0, 0])).max()
    assert steps["hann"] < 0.5 * steps["uniform"]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: window_starts(10, 4, 5), "1 <= stride <= tile"),
        (lambda: window_starts(0, 4, 2), "size >= 1"),
        (lambda: axis_weights(8, [0, 4], 4, "cosine"), "unknown blending weights 'cosine'; known: hann, linear, unif"),
        (lambda: axis_weights(9, [0, 5], 4), "leave gaps in 9 pixels"),
        (lambda: StripBlender(8, 8, 1, 4, 4, rows=(4, 9)), r"within 0..8, got \(4, 9\)"),
        (lambda: StripBlender(8, 8, 2, 4, 4).add(Window(0, 0, 4, 4), np.ones((1, 4, 4))), r"shape \(2, 4, 4\), got"),
        (lambda: StripBlender(8, 8, 1, 4, 4).add(Window(4, 0, 4, 4), np.ones((1, 4, 4))), "row by row: expected"),
        (lambda: StripBlender(8, 8, 1, 4, 4).finish(), "4 of 4 windows have not come"),
        (lambda: decode_classes(np.zeros((256, 1, 1))), "K from 1 to 255"),
    ],
)
def test_errors_say_what_was_expected(action, message):
    with pytest.raises(ValueError, match=message):
        action()


def test_a_window_too_many_is_refused():
    blender = StripBlender(4, 4, 1, 4, 4)
    blender.add(Window(0, 0, 4, 4), np.ones((1, 4, 4)))
    with pytest.raises(ValueError, match="all 1 windows have come"):
        blender.skip(Window(0, 0, 4, 4))


@pytest.mark.parametrize("channels", [1, 2, 5, 255])
def test_decode_agrees_with_argmax_also_on_ties(channels):
    values = np.random.default_rng(0).integers(0, 6, (channels, 13, 17)).astype(np.float32)
    classes, confidence = decode_classes(torch.from_numpy(values))
    assert classes.dtype == np.uint8
    assert np.array_equal(classes, values.argmax(axis=0))
    assert np.array_equal(confidence, values.max(axis=0))
