"""Vector files: features in the order of the file, whatever their numbers and the spatial index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine

from utils.raster import vector_labels
from utils.raster.files import write_raster
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.vector_files import read_features
from utils.raster.vector_labels import VectorLabels

PLACE = {"crs": "EPSG:32631", "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000)}
LAYERS = [shapely.box(500_000 + 8 * x, 4_999_960, 500_080, 5_000_000) for x in range(5)]  # each covers the next
KINDS = [3, 1, 4, 0, 2]
STAIRS = np.repeat(KINDS, 4)  # 4 pixels of each: the later feature lies over the earlier one


def write_geojson(path: Path, numbering: str) -> None:
    """The stairs as GeoJSON whose numbers, an `id` member or property, run against the order of the file."""
    features = []
    for index, (shape, kind) in enumerate(zip(LAYERS, KINDS, strict=True)):
        feature = {"type": "Feature", "properties": {"kind": kind}, "geometry": shapely.geometry.mapping(shape)}
        if numbering == "member":
            feature["id"] = 1000 - index
        elif numbering == "property":
            feature["properties"]["id"] = 50 - index
        features.append(feature)
    if path.suffix == ".geojsonl":
        path.write_text("\n".join(map(json.dumps, features)))
        return
    crs = {"type": "name", "properties": {"name": "EPSG:32631"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))


def drawn(path: Path, folder: Path) -> np.ndarray:
    """Classes along one row of a scene under the stairs."""
    write_raster(folder / "scene.tif", np.zeros((20, 20), np.uint8), **PLACE)
    labels = VectorLabels(path, 5, {index: index for index in range(5)}, attribute="kind")
    return labels.read(RasterScene(folder / "scene.tif"), Window(0, 0, 20, 20))[10]


@pytest.mark.parametrize("numbering", ["none", "member", "property"])
@pytest.mark.parametrize("many", [False, True])
def test_later_features_of_a_geojson_lie_over_earlier_ones_whatever_their_ids(tmp_path, monkeypatch, numbering, many):
    if many:  # read piece by piece, by bounds
        monkeypatch.setattr(vector_labels, "_MANY_FEATURES", 2)
    write_geojson(tmp_path / "l.geojson", numbering)
    np.testing.assert_array_equal(drawn(tmp_path / "l.geojson", tmp_path), STAIRS)


def test_lines_of_geojson_keep_their_order(tmp_path):
    write_geojson(tmp_path / "l.geojsonl", "member")
    values = read_features(tmp_path / "l.geojsonl", None, "kind", (5e5, 4e6, 6e5, 6e6)).values
    assert values.tolist() == KINDS


@pytest.mark.parametrize("suffix", ["gpkg", "shp", "sqlite", "tab"])
@pytest.mark.parametrize("many", [False, True])
def test_a_spatial_index_does_not_change_the_order(tmp_path, monkeypatch, suffix, many):
    if many:
        monkeypatch.setattr(vector_labels, "_MANY_FEATURES", 2)
    path = tmp_path / f"l.{suffix}"
    shapes = shapely.to_wkb(np.array(LAYERS))
    pyogrio.raw.write(path, shapes, [np.array(KINDS)], ["kind"], geometry_type="Polygon", crs="EPSG:32631")
    np.testing.assert_array_equal(drawn(path, tmp_path), STAIRS)


@pytest.mark.parametrize("index", ["YES", "NO"])
def test_features_of_a_flatgeobuf_come_as_the_file_holds_them(tmp_path, index):
    """With a spatial index the file itself is sorted by it; with bounds the order is that without."""
    path = tmp_path / "l.fgb"
    points = shapely.to_wkb(shapely.points([9.0, 1, 7, 3, 5], 0.0))
    options = {"geometry_type": "Point", "crs": "EPSG:32631", "SPATIAL_INDEX": index}
    pyogrio.raw.write(path, points, [np.array(KINDS)], ["kind"], **options)
    whole = read_features(path, None, "kind").values.tolist()
    assert read_features(path, None, "kind", (0, -1, 8, 1)).values.tolist() == [kind for kind in whole if kind != 3]
    assert index == "YES" or whole == KINDS
