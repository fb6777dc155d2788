"""Inference says that a map repeats with its windows: in the log, in the map itself and when it is up to date."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio

from tasks.context import Context
from tasks.example import scene_task
from tasks.item import Piece
from tasks.phases.inference import RECORD, faults_in, finish
from tasks.segmentation.items import SceneItem
from utils.logging import VerbosityLogger
from utils.raster.example import raster_file
from utils.raster.tiling import Window
from utils.runtime.files import read_json

SIDE, STRIDE = 480, 48


@pytest.mark.parametrize("repeats", [True, False])
def test_a_map_that_repeats_is_told(tmp_path, capfd, repeats):
    pixels = np.random.default_rng(0).integers(90, 250, (SIDE, SIDE, 3), dtype=np.uint8)
    named = f"inference.inputs={raster_file('wide.tif', pixels, crs='EPSG:32631')}"
    task = scene_task(named, "inference.confidence=true")
    [item] = task.source.items("inference")
    assert isinstance(item, SceneItem)
    item = replace(item, tile=64, stride=STRIDE)
    y, x = np.mgrid[:SIDE, :SIDE]
    step = STRIDE if repeats else 37
    classes = ((y % step < step // 3) & (x % step < step // 3)).astype(np.uint8)
    arrays = {"classes": classes, "valid": np.ones((SIDE, SIDE), bool), "confidence": np.ones((SIDE, SIDE))}
    sink = task.output.sink(item, tmp_path, {"checkpoint": "a"})
    sink.append(Piece(item, arrays, Window(0, 0, SIDE, SIDE)))
    sink.flush()
    context = Context(VerbosityLogger("info"), tmp_path)
    finish(task, [item], tmp_path, {item.id: {"checkpoint": "a"}}, {}, context)
    logged = "".join(capfd.readouterr())
    told = [line for line in logged.splitlines() if "[WARNING]" in line and "repeat with the windows" in line]
    kept = read_json(tmp_path / RECORD, checksum=True)[item.id].get("faults", [])
    tags = []
    for path in sorted(tmp_path.glob("*.tif")):
        with rasterio.open(path) as raster:
            tags += [raster.tags()["WINDOW_PATTERN"]] if "WINDOW_PATTERN" in raster.tags() else []
    below = faults_in(read_json(tmp_path / RECORD, checksum=True), [item])
    assert len(told) == len(kept) == len(below) == repeats
    assert len(tags) == 2 * repeats, "of the classes and of the confidence"
    assert all("every 48 pixels" in text for text in [*told, *kept, *tags, *below])
