"""A map that repeats with its windows is told from one that does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from utils.raster.tiling import Window
from utils.raster.window_pattern import ClassChanges, describe_pattern, repeats_with
from utils.raster.writer import ClassRasterWriter

SIZE, PERIOD = 600, 47.25
NODATA = 255


def natural_map(seed: int, size: int = SIZE) -> np.ndarray:
    """Patches of three classes of no particular size, (H, W)."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 6)
    return np.digitize(field, np.quantile(field, [0.5, 0.8])).astype(np.uint8)


def changes_of(classes: np.ndarray) -> ClassChanges:
    """Changes of a whole map (H, W)."""
    changes = ClassChanges(*classes.shape, NODATA)
    for y, row in enumerate(classes):
        changes.add(y, row)
    return changes


def with_spots(classes: np.ndarray, period: float) -> np.ndarray:
    """The map with a spot of another class in the middle of each window, as positions in a backbone's input make."""
    y, x = (np.arange(side) % period for side in classes.shape)
    spot = (np.abs(y - period / 2) < period / 6)[:, None] & (np.abs(x - period / 2) < period / 6)
    return np.where(spot, 3, classes).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_only_the_step_of_the_windows_is_found(seed):
    natural = natural_map(seed)
    assert describe_pattern(changes_of(natural), PERIOD, PERIOD) == ""
    spotted = changes_of(with_spots(natural, PERIOD))
    assert "every 47.25 pixels" in describe_pattern(spotted, PERIOD, PERIOD)
    assert describe_pattern(spotted, 41.0, 57.0) == ""  # rows of houses, say: not with the windows


def test_a_regular_ground_is_no_pattern_of_the_windows():
    fields = (np.add.outer(np.arange(SIZE) // 30, np.arange(SIZE) // 30) % 2).astype(np.uint8)
    assert describe_pattern(changes_of(fields), PERIOD, PERIOD) == ""
    assert repeats_with(changes_of(fields).columns, 30.0) > 1


def test_collars_and_few_windows():
    spotted = with_spots(natural_map(0), PERIOD)
    spotted[:, 400:] = NODATA
    assert "every 47.25 pixels" in describe_pattern(changes_of(spotted), PERIOD, PERIOD)
    few = with_spots(natural_map(0, 300), PERIOD)  # six windows in a row say too little
    assert describe_pattern(changes_of(few), PERIOD, PERIOD) == ""


def test_changes_are_those_of_the_whole_map():
    classes = natural_map(3, 40)
    classes[10:12, 5:30] = NODATA
    there = classes != NODATA
    changes = changes_of(classes)
    assert changes.rows.tolist() == ((classes[1:] != classes[:-1]) & there[1:] & there[:-1]).sum(axis=1).tolist()
    across = (classes[:, 1:] != classes[:, :-1]) & there[:, 1:] & there[:, :-1]
    assert changes.columns.tolist() == across.sum(axis=0).tolist()


def test_changes_of_a_written_map_are_those_of_its_pixels(tmp_path):
    """Strips are read back in blocks of 512 rows, one after the other in the same memory."""
    classes = np.repeat(natural_map(1, 40), 30, axis=0)  # 1200 rows
    options = {"class_names": ["a", "b", "c"], "palette": np.eye(3, dtype=int) * 200}
    writer = ClassRasterWriter(tmp_path / "a.tif", height=1200, width=40, **options)
    for y in range(0, 1200, 300):
        writer.append(Window(y, 0, 300, 40), classes[y : y + 300])
    writer.close()
    assert writer.changes.rows.tolist() == (classes[1:] != classes[:-1]).sum(axis=1).tolist()
