"""Vector files: features in the order of the file, whatever their numbers and the spatial index."""

from __future__ import annotations

import json
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from pyogrio.raw import write

from utils.errors import DataError
from utils.raster import vector_files, vector_labels
from utils.raster.files import write_raster
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.vector_files import read_features, rows_without_place, write_features
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


def write_esri(path: Path, numbers: list) -> None:
    """The stairs as ESRI JSON whose OBJECTID runs against the order of the file."""
    rows = zip(LAYERS, KINDS, numbers, strict=True)
    features = [
        {"attributes": {"OBJECTID": number, "kind": kind}, "geometry": {"rings": [list(shape.exterior.coords)]}}
        for shape, kind, number in rows
    ]
    fields = [{"name": "OBJECTID", "type": "esriFieldTypeOID"}, {"name": "kind", "type": "esriFieldTypeInteger"}]
    place = {"geometryType": "esriGeometryPolygon", "spatialReference": {"wkid": 32631}}
    path.write_text(json.dumps({"objectIdFieldName": "OBJECTID", **place, "fields": fields, "features": features}))


@pytest.mark.parametrize("numbers", [[50, 40, 30, 20, 10], [3, 3, 1, 2**40, 2**40], [None, 9, 2, 1, 5]])
@pytest.mark.parametrize("many", [False, True])
def test_esri_json_is_drawn_in_the_order_of_the_file_whatever_its_objectid(tmp_path, monkeypatch, numbers, many):
    if many:
        monkeypatch.setattr(vector_labels, "_MANY_FEATURES", 2)
    write_esri(tmp_path / "l.json", numbers)
    np.testing.assert_array_equal(drawn(tmp_path / "l.json", tmp_path), STAIRS)


def warnings_of(path: Path, folder: Path, caplog) -> list[str]:
    """What two checks of labels on scenes say."""
    write_raster(folder / "scene.tif", np.zeros((20, 40), np.uint8), **PLACE)
    labels = VectorLabels(path, 5, {index: index for index in range(5)}, attribute="kind")
    for _ in range(2):
        labels.check(RasterScene(folder / "scene.tif"))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("index", ["YES", "NO"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_flatgeobuf_that_lost_its_order_is_told_once_where_it_matters(tmp_path, caplog, index, apart):
    boxes = [shapely.box(500_000 + 8 * x, 4_999_960, 500_008 + 8 * x, 5_000_000) for x in range(5)]  # side by side
    shapes = shapely.to_wkb(np.array(boxes if apart else LAYERS))
    options = {"geometry_type": "Polygon", "crs": "EPSG:32631", "SPATIAL_INDEX": index}
    pyogrio.raw.write(tmp_path / "l.fgb", shapes, [np.array(KINDS)], ["kind"], **options)
    told = warnings_of(tmp_path / "l.fgb", tmp_path, caplog)
    assert len(told) == (index == "YES" and not apart)
    for text in told:
        assert "l.fgb: FlatGeobuf with a spatial index sorts" in text
        assert "-lco SPATIAL_INDEX=NO" in text


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp", "sqlite"])
@pytest.mark.parametrize("at_once", [200_000, 2])
def test_features_without_a_geometry_are_counted_and_named(tmp_path, caplog, monkeypatch, suffix, at_once):
    monkeypatch.setattr(vector_files, "_COUNTED_AT_ONCE", at_once)
    shapes = np.array([LAYERS[0], None, LAYERS[2], shapely.Polygon(), LAYERS[4]])
    path = tmp_path / f"l.{suffix}"
    kinds = np.array(KINDS)
    pyogrio.raw.write(path, shapely.to_wkb(shapes), [kinds], ["kind"], geometry_type="Polygon", crs="EPSG:32631")
    assert rows_without_place(path, None) == (2, 4)
    (told,) = warnings_of(path, tmp_path, caplog)
    assert f"l.{suffix}: 2 of 5 features have no geometry (rows 2, 4), so that they label nothing" in told


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp", "sqlite", "fgb"])
@pytest.mark.parametrize(("number", "corner"), [(np.nan, 2), (np.inf, 2), (np.nan, 0)])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_polygon_with_a_corner_that_is_not_finite_is_refused_by_its_row(
    tmp_path, monkeypatch, suffix, number, corner, many
):
    """GEOS made such a polygon valid by leaving it out, and its ground was of the class below."""
    if many:
        monkeypatch.setattr(vector_labels, "_MANY_FEATURES", 2)
    path = tmp_path / f"l.{suffix}"
    ring = np.array(LAYERS[1].exterior.coords)
    ring[[0, -1] if corner == 0 else corner, 0] = number
    if suffix == "geojson":  # GDAL writes no such number there; other programs do
        write_geojson(path, "none")
        document = json.loads(path.read_text())
        document["features"][1]["geometry"]["coordinates"] = [ring.tolist()]
        path.write_text(json.dumps(document))
    elif suffix == "shp":
        write(path, shapely.to_wkb(LAYERS), [np.array(KINDS)], ["kind"], geometry_type="Polygon", crs="EPSG:32631")
        content = bytearray(path.read_bytes())
        for place in (0, 4) if corner == 0 else (corner,):  # the second record's corners begin at 292
            struct.pack_into("<d", content, 292 + 16 * place, number)
        path.write_bytes(content)
    else:
        shapes = shapely.to_wkb(np.array(LAYERS))
        shapes[1] = struct.pack("<BIII", 1, 3, 1, len(ring)) + ring.astype("<f8").tobytes()
        options = {"SPATIAL_INDEX": "NO"} if suffix == "fgb" else {}
        options |= {"geometry_type": "Polygon", "crs": "EPSG:32631"}
        pyogrio.raw.write(path, shapes, [np.array(KINDS)], ["kind"], **options)
    write_raster(tmp_path / "scene.tif", np.zeros((20, 40), np.uint8), **PLACE)
    labels = VectorLabels(path, 5, {index: index for index in range(5)}, attribute="kind")
    with pytest.raises(DataError, match=r"l\.\w+: 1 of 5 features have a geometry that cannot be used .*: row 2;"):
        labels.check(RasterScene(tmp_path / "scene.tif"))
    with pytest.raises(DataError, match="row 2"):
        read_features(path, None, "kind")


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\rb", "a\x1b[2Jb", "a,b", 'a"b', "a;b", "a'b", "\u2028"])
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb"])
def test_vector_files_of_any_name_are_written_and_read(tmp_path, name, suffix):
    path = tmp_path / f"{name}.{suffix}"
    write_features(path, LAYERS, crs="EPSG:32631", kind=KINDS)
    assert sorted(read_features(path, None, "kind").values.tolist()) == sorted(KINDS)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_gdal_warns_of_is_logged_once_with_the_file(tmp_path, caplog, recwarn):
    path = tmp_path / "l.gpkg"
    write_features(path, LAYERS, crs="EPSG:32631", kind=KINDS)
    with closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA user_version = 99900")
        base.commit()
    for _ in range(2):
        assert read_features(path, None, "kind").values.tolist() == KINDS
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{path}: GDAL warns: ")
    assert "999" in told
    assert not list(recwarn)


def test_segmentation_tells_what_its_vector_labels_lack(tmp_path):
    """What a server kept back is a doubt, also in ESRI JSON, of which GDAL would ask the server for the rest."""
    rings = [[[0, 0], [0, 9], [9, 9], [9, 0], [0, 0]]]
    esri = {
        "geometryType": "esriGeometryPolygon",
        "spatialReference": {"wkid": 32631},
        "fields": [{"name": "kind", "type": "esriFieldTypeString"}],
        "features": [{"attributes": {"kind": "a"}, "geometry": {"rings": rings}}],
        "exceededTransferLimit": True,
    }
    (tmp_path / "e.json").write_text(json.dumps(esri))
    write_features(tmp_path / "g.geojson", [shapely.box(0, 0, 9, 9)], crs="EPSG:32631", kind=["a"])
    text = (tmp_path / "g.geojson").read_text()
    (tmp_path / "g.geojson").write_text(text.replace("{", '{"exceededTransferLimit": true,', 1))
    for name in ("e.json", "g.geojson"):
        labels = VectorLabels(tmp_path / name, 2, {"a": 1}, attribute="kind")
        [doubt] = labels.doubts()
        assert "holds 1 features, and says by 'exceededTransferLimit' that its server has more" in doubt
        assert read_features(tmp_path / name, None, "kind").values.tolist() == ["a"]


@pytest.mark.parametrize(("lost", "message"), [("dbf", "no attribute 'kind'; .*l.dbf is missing"), ("shx", "l.shx is")])
def test_segmentation_names_a_part_of_a_shapefile_that_is_missing(lost, message, tmp_path):
    transform, values = Affine(1, 0, 0, 0, -1, 9), [np.array(["a"], object)]
    write_raster(tmp_path / "a.tif", np.zeros((9, 9), np.uint8), crs="EPSG:32631", transform=transform)
    shapes = shapely.to_wkb([shapely.box(0, 0, 9, 9)])
    write(tmp_path / "l.shp", shapes, values, ["kind"], geometry_type="Polygon", crs="EPSG:32631")
    (tmp_path / f"l.{lost}").unlink()
    with pytest.raises(DataError, match=message):
        VectorLabels(tmp_path / "l.shp", 2, {"a": 1}, attribute="kind").check(RasterScene(tmp_path / "a.tif"))
