"""A map of a picture that is transparent everywhere holds nothing, and that is told with the result."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.example import scene_task
from tasks.item import Piece
from utils.raster.files import write_raster
from utils.raster.tiling import Window


@pytest.mark.parametrize("opacity", [0, 255])
def test_a_map_of_nodata_alone_is_told(tmp_path, opacity):
    pixels = np.full((64, 64, 4), (9, 80, 30, opacity), np.uint8)
    write_raster(tmp_path / "a.tif", pixels, alpha=True)
    task = scene_task(f"inference.inputs={tmp_path}/a.tif")
    task.source.prepare_data()
    task.source.scenes.find_scaling(make=True)
    [item] = task.source.items("inference")
    valid = task.source.scenes.read(item, Window(0, 0, 64, 64))["valid"]
    sink = task.output.sink(item, tmp_path / "maps", {})
    arrays = {"classes": np.ones((64, 64), np.uint8), "valid": valid, "confidence": np.ones((64, 64), np.float32)}
    sink.append(Piece(item, arrays, Window(0, 0, 64, 64)))
    sink.flush()
    sink.close()
    told = [text for text in sink.faults() if "transparent or nodata everywhere" in text]
    assert bool(told) == (opacity == 0)
