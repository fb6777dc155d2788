"""Polygons: exactly the pixels of the classes, whatever the bands, with holes, areas and clear refusals."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.transform import from_origin

from utils.errors import DataError, SettingsError
from utils.raster.polygons import Polygons, measure_area_m2, write_polygons

NAMES = ["field", "straße", "a < b", "water"]
PLACE = {"crs": "EPSG:32636", "transform": from_origin(500_000, 10_000, 0.5, 0.5)}


@contextmanager
def full_disk(largest_file: int):
    """Let writes fail half-way, as on a full disk: no file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_polygons(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fields and geometries of a GeoPackage."""
    from pyogrio.raw import read as read_layer

    meta, _, geometries, fields = read_layer(path)
    return dict(zip(meta["fields"].tolist(), fields, strict=True)), shapely.from_wkb(geometries)


def make_class_map(path: Path, classes: np.ndarray, **place) -> Path:
    """A class map file with given pixels."""
    options = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, **place}
    with rasterio.open(path, "w", height=classes.shape[0], width=classes.shape[1], **options) as raster:
        raster.write(classes, 1)
    return path


def draw_classes(height: int, width: int, seed: int) -> np.ndarray:
    """Blobs of four classes with specks and a hole without data."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 4, (-(-height // 5), -(-width // 5)), dtype=np.uint8)
    classes = classes.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]
    classes[random.random((height, width)) < 0.1] = 2
    classes[height // 3 : height // 2, width // 3 : width // 2] = 255
    return classes


@pytest.mark.parametrize("band_pixels", [1, 60 * 3, 60 * 17, 10**6])
def test_polygons_are_the_pixels_of_the_classes(tmp_path, band_pixels):
    classes = draw_classes(70, 60, seed=1)
    source = make_class_map(tmp_path / "map.tif", classes, **PLACE)
    count = write_polygons(source, tmp_path / "map.gpkg", class_names=NAMES, band_pixels=band_pixels)
    fields, geometries = read_polygons(tmp_path / "map.gpkg")
    assert len(geometries) == count
    assert shapely.is_valid(geometries).all()
    for index in range(4):
        chosen = fields["class_index"] == index
        assert fields["area_px"][chosen].sum() == (classes == index).sum()
        assert fields["area_m2"][chosen].sum() == pytest.approx(0.25 * (classes == index).sum())
        assert set(fields["class_name"][chosen]) == {NAMES[index]}
    drawn = zip(geometries, fields["class_index"], strict=True)
    redrawn = rasterize(drawn, classes.shape, fill=255, transform=PLACE["transform"], dtype="uint8")
    assert np.array_equal(redrawn, classes)


@pytest.mark.parametrize("seed", range(6))
def test_bands_give_the_polygons_of_the_whole(tmp_path, seed):
    source = make_class_map(tmp_path / "map.tif", draw_classes(41, 37, seed), **PLACE)
    found = []
    for name, band_pixels in [("bands", 37 * 4), ("whole", 10**6)]:
        write_polygons(source, tmp_path / f"{name}.gpkg", class_names=NAMES, band_pixels=band_pixels)
        geometries = shapely.normalize(read_polygons(tmp_path / f"{name}.gpkg")[1])
        found.append(geometries[np.lexsort((*shapely.bounds(geometries).T, shapely.area(geometries)))])
    assert len(found[0]) == len(found[1])
    assert shapely.equals(*found).all()


def test_a_spiral_across_many_bands_is_one_polygon_with_its_holes(tmp_path):
    classes = np.ones((21, 21), np.uint8)
    classes[0] = classes[-1] = classes[:, 0] = classes[:, -1] = 0  # a ring
    classes[2:-2:2, 0:-3] = 0  # teeth that hang on its left side
    classes[10, 16:18] = 255
    source = make_class_map(tmp_path / "map.tif", classes, **PLACE)
    write_polygons(source, tmp_path / "map.gpkg", class_names=NAMES, skip_classes=[1], band_pixels=21)
    fields, geometries = read_polygons(tmp_path / "map.gpkg")
    assert fields["area_px"].tolist() == [int((classes == 0).sum())]
    polygon = shapely.get_parts(geometries)[0]
    assert len(polygon.interiors) == 1
    assert not polygon.contains(shapely.Point(500_000 + 0.5 * 1.5, 10_000 - 0.5 * 1.5))


def test_crs_is_written_and_small_or_skipped_areas_are_not(tmp_path):
    from pyogrio import read_info

    classes = np.zeros((20, 20), np.uint8)
    classes[2:4, 2:4], classes[8:14, 8:14] = 1, 3
    source = make_class_map(tmp_path / "map.tif", classes, **PLACE)
    options = {"class_names": NAMES, "skip_classes": [0], "min_area": 5}
    assert write_polygons(source, tmp_path / "map.gpkg", **options) == 1
    info = read_info(tmp_path / "map.gpkg")
    assert (info["crs"], info["layer_name"], info["features"]) == ("EPSG:32636", "classes", 1)
    fields, geometries = read_polygons(tmp_path / "map.gpkg")
    assert fields["class_name"].tolist() == ["water"]
    assert shapely.bounds(geometries[0]).tolist() == [500_004, 9_993, 500_007, 9_996]


def test_old_readers_take_the_file_and_qgis_finds_its_style(tmp_path):
    """The row that QGIS asks for: empty schema, table, geometry column, default first."""
    source = make_class_map(tmp_path / "map.tif", draw_classes(20, 30, seed=1), **PLACE)
    palette = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]], np.uint8)
    write_polygons(source, tmp_path / "map.gpkg", class_names=NAMES, palette=palette, skip_classes=[0])
    with closing(sqlite3.connect(tmp_path / "map.gpkg")) as base:
        assert base.execute("pragma user_version").fetchone()[0] <= 10300
        query = "select styleQML, useAsDefault from layer_styles where f_table_schema = '' and f_table_name = 'classes'"
        ((style, default),) = base.execute(f"{query} and f_geometry_column = 'geom'").fetchall()
        assert base.execute("pragma foreign_key_check").fetchall() == []
    renderer = ElementTree.fromstring(style.partition("\n")[2]).find("renderer-v2")
    colours = {
        symbol.get("name"): symbol.find("layer/prop[@k='color']").get("v") for symbol in renderer.find("symbols")
    }
    shown = {entry.get("value"): colours[entry.get("symbol")] for entry in renderer.find("categories")}
    assert (default, renderer.get("attr")) == (1, "class_name")
    assert shown == {"straße": "4,5,6,255", "a < b": "7,8,9,255", "water": "10,11,12,255"}
    assert set(read_polygons(tmp_path / "map.gpkg")[0]["class_name"]) == set(shown)  # the first layer is the polygons


def test_simplified_outlines_stay_within_the_tolerance(tmp_path):
    y, x = np.mgrid[:80, :80]
    classes = (np.hypot(y - 40, x - 40) < 30).astype(np.uint8)
    source = make_class_map(tmp_path / "map.tif", classes)
    options = {"class_names": NAMES, "skip_classes": [0]}
    write_polygons(source, tmp_path / "exact.gpkg", **options)
    write_polygons(source, tmp_path / "simple.gpkg", simplify_tolerance=1.5, **options)
    exact, simple = (read_polygons(tmp_path / f"{name}.gpkg")[1][0] for name in ("exact", "simple"))
    assert shapely.get_num_coordinates(simple) < 0.3 * shapely.get_num_coordinates(exact)
    assert shapely.hausdorff_distance(exact, simple) <= 1.5
    assert simple.is_valid


def test_a_map_without_wanted_classes_gives_an_empty_layer(tmp_path):
    source = make_class_map(tmp_path / "map.tif", np.full((5, 5), 255, np.uint8))
    assert write_polygons(source, tmp_path / "map.gpkg", class_names=NAMES) == 0
    assert len(read_polygons(tmp_path / "map.gpkg")[1]) == 0


def test_batches_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.raster.polygons.PolygonSink.batch", 3)
    classes = draw_classes(41, 37, 0)
    source = make_class_map(tmp_path / "map.tif", classes)
    count = write_polygons(source, tmp_path / "map.gpkg", class_names=NAMES, band_pixels=37 * 4)
    fields, geometries = read_polygons(tmp_path / "map.gpkg")
    assert len(geometries) == count > 30
    assert fields["area_px"].sum() == (classes != 255).sum()


def test_area_on_the_ellipsoid_is_that_of_the_earth():
    cells = shapely.box(np.arange(-180, 180, 90), -90, np.arange(-90, 270, 90), 90)
    area = measure_area_m2(cells, rasterio.crs.CRS.from_epsg(4326)).sum()
    assert area == pytest.approx(510_065_621_724_000, rel=1e-9)  # GRS 80 and WGS 84 agree to this


def test_area_in_feet_is_told_in_square_metres():
    square = np.array([shapely.box(0, 0, 1, 1)])
    assert measure_area_m2(square, rasterio.crs.CRS.from_epsg(2263))[0] == pytest.approx((1200 / 3937) ** 2)


def test_polygons_on_a_full_disk_say_what_to_do(tmp_path):
    source = make_class_map(tmp_path / "map.tif", draw_classes(300, 300, 0))
    with full_disk(120_000), pytest.raises(DataError, match="free some space or choose another folder"):
        write_polygons(source, tmp_path / "map.gpkg", class_names=NAMES)
    assert not (tmp_path / "map.gpkg").exists()


@pytest.mark.parametrize(
    ("classes", "name", "error", "message"),
    [
        (np.full((4, 4), 7, np.uint8), "map.gpkg", DataError, "holds class 7, but only 4 classes have names"),
        (np.zeros((4, 4), np.uint16), "map.gpkg", DataError, "one band of uint8, got 1 of uint16"),
        (np.zeros((4, 4), np.uint8), "map.shp", SettingsError, "written as .gpkg, got '.shp'"),
    ],
)
def test_maps_that_cannot_become_polygons_are_refused(tmp_path, classes, name, error, message):
    source = make_class_map(tmp_path / "map.tif", classes, dtype=classes.dtype.name)
    with pytest.raises(error, match=message):
        write_polygons(source, tmp_path / name, class_names=NAMES)
    assert not (tmp_path / name).exists()


def test_a_truncated_map_is_named(tmp_path):
    source = make_class_map(tmp_path / "map.tif", np.random.default_rng(0).integers(0, 4, (600, 600), dtype=np.uint8))
    source.write_bytes(source.read_bytes()[:200_000])
    with pytest.raises(DataError, match=r"map\.tif: rows .* cannot be read"):
        write_polygons(source, tmp_path / "map.gpkg", class_names=NAMES)


def test_polygons_keep_class_and_geometry_together():
    polygons = Polygons(shapely.box(0, 0, [1, 2, 3], 1), np.array([7, 8, 9], np.uint8)).keep(np.array([2, 0]))
    assert dict(zip(polygons.classes.tolist(), shapely.area(polygons.geometries), strict=True)) == {9: 3.0, 7: 1.0}
