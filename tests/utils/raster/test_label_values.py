"""Values of labels that are no class: all of them at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely

from utils.errors import DataError
from utils.raster.files import write_raster
from utils.raster.labels import UnknownValuesError, refuse_unknown_values
from utils.raster.qgis import add_style
from utils.raster.raster_labels import RasterLabels
from utils.raster.scenes import RasterScene
from utils.raster.vector_files import read_features, read_layer_info


def test_all_values_that_are_no_class_are_counted_over_the_whole_label(tmp_path):
    """More than one window of the check, each with other values."""
    classes = np.zeros((40, 2100), np.uint8)
    classes[:, 5], classes[:, 1500], classes[3, 2050] = 7, 9, 7
    write_raster(tmp_path / "a.tif", np.zeros_like(classes))
    write_raster(tmp_path / "l.tif", classes)
    with pytest.raises(UnknownValuesError) as caught:
        RasterLabels(tmp_path / "l.tif", 2).check(RasterScene(tmp_path / "a.tif"))
    assert caught.value.counts == {"7": 41, "9": 40}
    with pytest.raises(
        DataError, match=r"7 \(82 times in 2 files, such as .*one\), 9 \(80 times .*label_mapping, as in"
    ):
        refuse_unknown_values({Path("one"): caught.value, Path("two"): caught.value})
    many = UnknownValuesError(Path("a.jpg"), {str(n): n + 1 for n in range(150)}, "in it", ["0"], "map them")
    with pytest.raises(DataError, match=r"150 values .* and 130 more; .* save masks as PNG"):
        refuse_unknown_values({Path("a.jpg"): many})


def test_a_table_without_places_and_styles_are_no_layers_to_choose_from(tmp_path):
    """The table comes first, so that a reader which takes the first layer meets it."""
    path = tmp_path / "l.gpkg"
    word = np.array(["brick"], dtype=object)
    pyogrio.raw.write(path, None, [word], ["wall"], layer="notes", geometry_type=None)
    box = np.array([shapely.to_wkb(shapely.box(1, 2, 3, 4))], dtype=object)
    place = {"layer": "houses", "geometry_type": "Polygon", "crs": "EPSG:32631", "append": True}
    pyogrio.raw.write(path, box, [np.array(["stone"], dtype=object)], ["wall"], **place)
    add_style(path, "houses", "<qgis/>")
    assert read_layer_info(path, None).layer == "houses"
    assert read_features(path, None, "wall").values.tolist() == ["stone"]
