"""Boxes of windows: each object once and whole, the same wherever the windows lie, in bounded memory, resumable."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from utils.boxes.windows import Found, WindowMerger
from utils.raster.tiling import Window, windows_for_rows

TILE, STRIDE = 160, 96


def draw_objects(seed: int, count: int, size: tuple[int, int], largest: float = 56) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) of objects, some of them side by side, and their classes (N,)."""
    generator = np.random.default_rng(seed)
    sides = np.exp(generator.uniform(np.log(12), np.log(largest), (count, 2)))
    corners = generator.uniform(0, np.array(size[::-1]) - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    neighbours = boxes[: count // 4] + np.tile([[0.6, 0.0]], 2) * (boxes[: count // 4, 2:3] - boxes[: count // 4, :1])
    return np.concatenate([boxes, neighbours]), generator.integers(0, 3, count + count // 4)


def respond(window: Window, objects: np.ndarray, labels: np.ndarray, least: float) -> tuple[np.ndarray, ...]:
    """A head of known response: of each object of which at least a share is seen, the part that is seen, a little off.

    The error of a window is its own, as that of a real head is; the less is seen of an object, the lower its score.
    """
    generator = np.random.default_rng([window.y, window.x])
    low, high = [window.x, window.y], [window.columns.stop, window.rows.stop]
    seen = np.concatenate([np.clip(objects[:, :2], low, high), np.clip(objects[:, 2:], low, high)], axis=1)
    sides = seen[:, 2:] - seen[:, :2]
    share = sides.prod(axis=1) / (objects[:, 2:] - objects[:, :2]).prod(axis=1)
    kept = share > least
    noise = generator.uniform(-0.01, 0.01, (len(objects), 4)) * np.tile(sides, 2)
    noise[np.isin(seen, [*low, *high])] = 0  # a part that is cut reaches to the window's edge
    return (seen + noise)[kept], (0.9 * share[kept]).astype(np.float32), labels[kept]


def merge(
    objects: np.ndarray,
    labels: np.ndarray,
    size: tuple[int, int],
    offset: tuple[int, int] = (0, 0),
    first: int = 0,
    least: float = 1 / 3,
) -> Iterator[tuple[Found, int]]:
    """The boxes that are finished with each row of windows, in the frame of the objects, and where to go on from."""
    shift = np.array([offset[1], offset[0]] * 2)
    height, width = size[0] - offset[0], size[1] - offset[1]
    windows = windows_for_rows(height, width, TILE, STRIDE, (0, height))
    windows = [w.intersection(Window(0, 0, height, width)) for w in windows]
    merger = WindowMerger(windows, (height, width), first_row=first)
    for row in merger.rows[first:]:
        for window in row:
            boxes, scores, classes = respond(window, objects - shift, labels, least)
            merger.add(window, boxes, scores, classes)
        found = merger.end_row()
        yield Found(found.boxes_xyxy + shift, found.scores, found.labels), merger.restart()


def collect(*args, **kwargs) -> Found:
    parts = [found for found, _ in merge(*args, **kwargs)]
    return Found(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes_xyxy", "scores", "labels"))
    )


def best_ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The IoU (N,) of each box with the other one that it shares most with."""
    low, high = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas, other_areas = ((part[:, 2:] - part[:, :2]).prod(axis=1) for part in (boxes, others))
    return (common / (areas[:, None] + other_areas - common)).max(axis=1)


def inside(boxes: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    return (boxes[:, 0] >= offset[1]) & (boxes[:, 1] >= offset[0])


@pytest.mark.parametrize(("largest", "least"), [(56, 1 / 3), (120, 0.02), (250, 0.02)])
@pytest.mark.parametrize("seed", range(3))
def test_each_object_is_there_once_and_whole(seed, largest, least):
    size = (700, 900)
    objects, labels = draw_objects(seed, 120 if largest < 100 else 30, size, largest)
    objects = np.clip(objects, 0, [900, 700, 900, 700])
    found = collect(objects, labels, size, least=least)
    for label in range(3):
        theirs, ours = objects[labels == label], found.boxes_xyxy[found.labels == label]
        assert len(ours) == len(theirs)
        assert (best_ious(theirs, ours) > 0.9).mean() > 0.99
        assert (best_ious(ours, theirs) > 0.9).mean() > 0.99


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_the_same_whatever_the_offset_of_the_windows(seed):
    size = (800, 1000)
    objects, labels = draw_objects(seed, 160, size)
    objects = np.clip(objects, 0, [1000, 800, 1000, 800])
    generator = np.random.default_rng(seed)
    whole = collect(objects, labels, size)
    for offset in generator.integers(1, STRIDE, (4, 2)).tolist():
        moved = collect(objects, labels, size, tuple(offset))
        kept = inside(objects, offset)  # objects that the other raster's edge cuts are others there
        assert (best_ious(objects[kept], whole.boxes_xyxy) > 0.9).mean() >= 0.99
        assert (best_ious(objects[kept], moved.boxes_xyxy) > 0.9).mean() >= 0.99
        # boxes of objects that both rasters hold whole, from either side: no doubles and no halves in one of them
        of_both = [found.boxes_xyxy[best_ious(found.boxes_xyxy, objects[kept]) > 0.5] for found in (whole, moved)]
        assert (best_ious(of_both[0], of_both[1]) > 0.9).mean() >= 0.99
        assert (best_ious(of_both[1], of_both[0]) > 0.9).mean() >= 0.99
        assert abs(len(of_both[0]) - len(of_both[1])) <= 0.01 * len(of_both[0])


def test_a_part_that_another_window_sees_whole_and_does_not_report_is_dropped():
    windows = [Window(0, 0, 10, 10), Window(0, 6, 10, 10)]
    merger = WindowMerger(windows, (10, 16))
    one = np.array([0.5], np.float32), np.array([0])
    merger.add(windows[0], np.array([[8.5, 2, 10, 6]]), *one)
    merger.add(windows[1], np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, int))
    assert len(merger.end_row().labels) == 0


def test_two_objects_of_one_window_never_become_one():
    windows = [Window(0, 0, 40, 40), Window(0, 20, 40, 40)]
    merger = WindowMerger(windows, (40, 60))
    pair = np.array([[22.0, 10, 34, 30], [26.0, 10, 38, 30]])  # IoU .5 with each other
    for window in windows:
        merger.add(window, pair, np.array([0.9, 0.8], np.float32), np.array([1, 1]))
    assert sorted(merger.end_row().boxes_xyxy.tolist()) == pair.tolist()


def test_other_classes_are_other_objects_and_small_ones_in_large_ones_stay():
    windows = [Window(0, 0, 40, 40), Window(0, 20, 40, 40)]
    merger = WindowMerger(windows, (40, 60))
    boxes = np.array([[22.0, 10, 34, 30], [22.0, 10, 34, 30], [25.0, 15, 29, 20]])
    for window in windows:
        merger.add(window, boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 0]))
    assert merger.end_row().boxes_xyxy.tolist() == boxes.tolist()


def test_memory_is_bounded_by_the_rows_of_windows():
    size = (6000, 400)
    objects, labels = draw_objects(5, 600, size)
    height, width = size
    windows = [w.intersection(Window(0, 0, *size)) for w in windows_for_rows(height, width, TILE, STRIDE, (0, height))]
    merger = WindowMerger(windows, size)
    most = total = 0
    for row in merger.rows:
        for window in row:
            merger.add(window, *respond(window, objects, labels, 1 / 3))
        most = max(most, sum(len(entries) for _, entries in merger.live))
        total += len(merger.end_row().labels)
    assert not merger.live
    assert total == pytest.approx(len(objects), rel=0.05)
    assert most < 0.12 * total


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_an_interrupted_raster_goes_on_with_the_same_boxes(stop):
    size = (900, 500)
    objects, labels = draw_objects(7, 150, size, 200)
    objects = np.clip(objects, 0, [500, 900, 500, 900])
    whole = list(merge(objects, labels, size))
    first = whole[stop][1]
    assert first <= stop + 1
    again = list(merge(objects, labels, size, first=first))
    for row in range(stop + 1, len(whole)):
        expected, found = whole[row][0], again[row - first][0]
        assert found.boxes_xyxy.tolist() == expected.boxes_xyxy.tolist()
        assert found.scores.tolist() == expected.scores.tolist()
