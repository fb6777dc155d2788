"""The comparison picture of a large scene shows what is scored, not the corner where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine

from tasks.item import Piece
from tasks.phases.evaluate import NAMED
from tasks.segmentation.drawn import choose_part
from tests.settings.stage import task_of
from utils.raster.files import write_raster
from utils.raster.tiling import Window
from utils.report.plots import with_title

PLACE = {"crs": "EPSG:32631", "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000)}


@pytest.mark.parametrize(("y", "x"), [(0, 0), (1700, 900), (2060, 1460), (900, 0)])
def test_the_part_holds_what_is_labelled_wherever_it_is(y, x):
    labels = np.full((2100, 1500), 255, np.uint8)
    labels[y : y + 40, x : x + 40] = 1
    part = choose_part(2100, 1500, 2, lambda window: labels[window.rows, window.columns])
    assert (part.height, part.width) == (1024, 1024)
    assert part.intersection(Window(0, 0, 2100, 1500)) == part, "inside"
    assert (labels[part.rows, part.columns] == 1).sum() == (labels == 1).sum()


def test_two_classes_weigh_more_than_a_larger_area_of_one():
    labels = np.full((1024, 4096), 255, np.uint8)
    labels[:500, :600], labels[:400, 3000:3300], labels[400:800, 3000:3300] = 0, 1, 2
    part = choose_part(1024, 4096, 3, lambda window: labels[window.rows, window.columns])
    assert set(np.unique(labels[part.rows, part.columns])) == {1, 2, 255}


def test_a_large_scene_is_looked_at_in_a_sixteenth_of_its_rows():
    asked: list[Window] = []

    def read(window: Window) -> np.ndarray:
        asked.append(window)
        labels = np.full((window.height, window.width), 255, np.uint8)
        labels[:, 30_000:30_100] = 0 if 20_000 <= window.y < 20_400 else 255
        return labels

    part = choose_part(50_000, 40_000, 2, read)
    assert part.intersection(Window(20_000, 30_000, 400, 100)) == Window(20_000, 30_000, 400, 100)
    assert sum(window.height * window.width for window in asked) == 50_000 * 40_000 // 16


@pytest.mark.parametrize("y", [0, 1, 1400, 2099])
def test_a_label_that_is_thinner_than_the_rows_looked_at_is_found_too(y):
    labels = np.full((2100, 1500), 255, np.uint8)
    labels[y, 1200:1400] = 0
    part = choose_part(2100, 1500, 1, lambda window: labels[window.rows, window.columns])
    assert (labels[part.rows, part.columns] == 0).sum() == 200


def test_a_picture_that_is_shown_whole_is_not_read():
    assert choose_part(1024, 7, 1, lambda window: pytest.fail("read")) == Window(0, 0, 1024, 7)


def test_the_picture_of_a_scene_shows_its_labelled_corner_and_names_the_part(tmp_path):
    labels = np.full((1500, 1400), 255, np.uint8)
    labels[1400:1450, 1300:1350], labels[1450:, 1350:] = 0, 1
    (tmp_path / "pictures").mkdir()
    (tmp_path / "labels").mkdir()
    pixels = np.random.default_rng(0).integers(40, 200, (1500, 1400, 3), dtype=np.uint8)
    write_raster(tmp_path / "pictures" / "a.tif", pixels, **PLACE)
    write_raster(tmp_path / "labels" / "a.tif", labels, **PLACE)
    named = (f"evaluate.inputs={tmp_path}/pictures/a.tif", f"evaluate.labels={tmp_path}/labels")
    task, _ = task_of("segmentation", tmp_path, named)
    task = type(task)(task.name, type(task).settings_for_named(task.settings))
    task.source.scenes.find_scaling(make=True)
    [item] = task.source.items(NAMED)
    shown = task.output._shown(item)
    assert labels[shown.rows, shown.columns].min() == 0
    window = Window(1400, 1300, 100, 100)
    truth = labels[window.rows, window.columns]
    piece = Piece(item, {"classes": np.zeros((100, 100), np.uint8), "valid": truth != 255}, window)
    assert task.output.shows(piece, 0)
    assert not task.output.shows(Piece(item, {}, Window(0, 0, 100, 100)), 0)
    sheet = task.output.draw(item, [piece])
    panel = sheet[:22, 3 * 516 :]
    assert np.array_equal(panel, with_title(np.zeros((1, 512, 3), np.uint8), "errors in this part: 50.00 %")[:22])
