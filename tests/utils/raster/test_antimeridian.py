"""The antimeridian: the same ground has two longitudes, and labels reach it by either of them."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError
from utils.raster import vector_labels
from utils.raster.files import write_raster
from utils.raster.grids import transform_points
from utils.raster.raster_labels import RasterLabels
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.vector_files import write_features
from utils.raster.vector_labels import VectorLabels

HEIGHT, WIDTH = 20, 40  # pixels of 0.01 degrees: 0.4 degrees from west to east
STEP = 0.01
DEGREES = CRS.from_epsg(4326)
FIJI = CRS.from_epsg(3832)  # metres, centred on 150 degrees east: no seam at the antimeridian


def scene_at(tmp_path, west: float) -> RasterScene:
    path = tmp_path / f"scene{west}.tif"
    place = {"crs": "EPSG:4326", "transform": Affine(STEP, 0, west, 0, -STEP, -17.0)}
    write_raster(path, np.zeros((HEIGHT, WIDTH, 3), np.uint8), **place)
    return RasterScene(path)


def box_of(columns: tuple[float, float], rows: tuple[float, float], west: float = 179.8) -> shapely.Polygon:
    """Columns and rows of a scene as a box on the ground."""
    left, right = (west + STEP * column for column in columns)
    return shapely.box(left, -17 - STEP * rows[1], right, -17 - STEP * rows[0])


def expected() -> np.ndarray:
    """Class 1 in columns 5 to 35, class 2 over it from column 25 on; the antimeridian is at column 20."""
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    classes[4:16, 5:35], classes[8:12, 25:] = 1, 2
    return classes


def turned(shape: shapely.Geometry, by: float) -> shapely.Geometry:
    return shapely.transform(shape, lambda points: np.add(points, (by, 0)))


def shapes_of(writing: str) -> list:
    """The features of `expected` in one way of writing longitudes."""
    first, second = box_of((5, 35), (4, 16)), box_of((25, 40), (8, 12))
    if writing == "beyond 180":
        return [first, second]
    if writing == "below -180":
        return [turned(first, -360), turned(second, -360)]
    west, east = (
        shapely.intersection(first, shapely.box(left, -90, left + 180, 90)) for left in (0, 180)
    )  # RFC 7946 cuts at the antimeridian
    return [shapely.MultiPolygon([west, turned(east, -360)]), turned(second, -360)]


@pytest.mark.parametrize("west", [179.8, -180.2])
@pytest.mark.parametrize("writing", ["beyond 180", "below -180", "cut at 180"])
@pytest.mark.parametrize("many", [False, True])
def test_vector_labels_reach_the_scene_however_longitudes_are_written(tmp_path, monkeypatch, west, writing, many):
    if many:
        monkeypatch.setattr(vector_labels, "_MANY_FEATURES", 1)
    write_features(tmp_path / "l.gpkg", shapes_of(writing), crs="EPSG:4326", kind=[1, 2])
    labels = VectorLabels(tmp_path / "l.gpkg", 3, {1: 1, 2: 2}, attribute="kind", unlabelled=0)
    scene = scene_at(tmp_path, west)
    labels.check(scene)
    np.testing.assert_array_equal(labels.read(scene, Window(0, 0, HEIGHT, WIDTH)), expected())
    np.testing.assert_array_equal(labels.read(scene, Window(3, 15, 9, 20)), expected()[3:12, 15:35])


def test_a_polygon_around_the_world_covers_both_sides(tmp_path):
    write_features(tmp_path / "l.geojson", [shapely.box(-180, -17.1, 180, -10)], crs="EPSG:4326")
    labels = VectorLabels(tmp_path / "l.geojson", 2, {"*": 1}, unlabelled=0)
    classes = labels.read(scene_at(tmp_path, 179.8), Window(0, 0, HEIGHT, WIDTH))
    assert (classes[:10] == 1).all()
    assert (classes[10:] == 0).all()


def test_a_scene_in_metres_takes_labels_of_both_sides(tmp_path):
    x, y = transform_points(DEGREES, FIJI, np.array([179.8, -179.8]), np.array([-17.2, -17.0]))
    place = Affine((x[1] - x[0]) / WIDTH, 0, x[0], 0, -(y[1] - y[0]) / HEIGHT, y[1])
    write_raster(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH), np.uint8), crs="EPSG:3832", transform=place)
    write_features(tmp_path / "l.gpkg", shapes_of("cut at 180"), crs="EPSG:4326", kind=[1, 2])
    labels = VectorLabels(tmp_path / "l.gpkg", 3, {1: 1, 2: 2}, attribute="kind", unlabelled=0)
    scene = RasterScene(tmp_path / "a.tif")
    labels.check(scene)
    assert (labels.read(scene, Window(0, 0, HEIGHT, WIDTH)) == expected()).mean() > 0.98  # rows are not quite even


@pytest.mark.parametrize("kind", ["vector", "raster"])
def test_labels_in_metres_reach_both_sides_of_a_scene_in_degrees(tmp_path, kind):
    scene = scene_at(tmp_path, 179.8)
    if kind == "vector":
        flat = []
        for shape in shapes_of("beyond 180"):
            points = shapely.get_coordinates(shapely.segmentize(shape, 0.01))
            flat.append(shapely.Polygon(np.stack(transform_points(DEGREES, FIJI, points[:, 0], points[:, 1]), axis=1)))
        write_features(tmp_path / "l.gpkg", flat, crs="EPSG:3832", kind=[1, 2])
        labels = VectorLabels(tmp_path / "l.gpkg", 3, {1: 1, 2: 2}, attribute="kind", unlabelled=0)
    else:
        x, y = transform_points(DEGREES, FIJI, np.array([179.8, -179.8]), np.array([-17.2, -17.0]))
        place = Affine((x[1] - x[0]) / WIDTH, 0, x[0], 0, -(y[1] - y[0]) / HEIGHT, y[1])
        write_raster(tmp_path / "l.tif", expected(), crs="EPSG:3832", transform=place)
        labels = RasterLabels(tmp_path / "l.tif", 3)
    labels.check(scene)
    read = labels.read(scene, Window(0, 0, HEIGHT, WIDTH))
    assert (read == expected()).mean() > 0.98


@pytest.mark.parametrize("west", [179.8, -180.2])
@pytest.mark.parametrize("label_west", [179.8, -180.2, -180.0, 0.0])
def test_raster_labels_reach_the_scene_however_longitudes_are_written(tmp_path, west, label_west):
    """-180 and 0 are rasters around the world, with longitudes from -180 to 180 and from 0 to 360."""
    values = expected()
    if label_west in (-180.0, 0.0):
        values = np.full((HEIGHT, 36_000), 0, np.uint8)
        columns = (np.arange(WIDTH) + round((179.8 - label_west) / STEP)) % 36_000
        values[:, columns] = expected()
    place = Affine(STEP, 0, label_west, 0, -STEP, -17.0)
    write_raster(tmp_path / "l.tif", values, crs="EPSG:4326", transform=place)
    labels, scene = RasterLabels(tmp_path / "l.tif", 3), scene_at(tmp_path, west)
    labels.check(scene)
    np.testing.assert_array_equal(labels.read(scene, Window(0, 0, HEIGHT, WIDTH)), expected())


def test_longitudes_from_0_to_360_hold_the_western_half_too(tmp_path):
    """Climate grids count from 0 to 360: 350 is -10."""
    values = np.tile(np.arange(36, dtype=np.uint8), (18, 1))
    write_raster(tmp_path / "l.tif", values, crs="EPSG:4326", transform=Affine(10, 0, 0, 0, -10, 90))
    write_raster(
        tmp_path / "a.tif", np.zeros((2, 4), np.uint8), crs="EPSG:4326", transform=Affine(10, 0, -20, 0, -10, 10)
    )
    read = RasterLabels(tmp_path / "l.tif", 36).read(RasterScene(tmp_path / "a.tif"), Window(0, 0, 2, 4))
    assert read.tolist() == [[34, 35, 0, 1]] * 2


def test_labels_elsewhere_stay_refused_and_half_a_map_stays_half(tmp_path):
    write_features(tmp_path / "l.geojson", [shapely.box(-179, -17.1, -178, -17)], crs="EPSG:4326")
    with pytest.raises(DataError, match="no common ground"):
        VectorLabels(tmp_path / "l.geojson", 2, {"*": 1}).check(scene_at(tmp_path, 179.8))
    place = Affine(STEP, 0, -180, 0, -STEP, -17.0)
    write_raster(tmp_path / "l.tif", np.ones((HEIGHT, WIDTH), np.uint8), crs="EPSG:4326", transform=place)
    read = RasterLabels(tmp_path / "l.tif", 2).read(scene_at(tmp_path, 179.8), Window(0, 0, HEIGHT, WIDTH))
    assert (read[:, :20] == IGNORE).all()
    assert (read[:, 20:] == 1).all()


@pytest.mark.parametrize("west", [179.8, -180.2])
def test_a_polygon_that_jumps_over_the_antimeridian_is_refused(tmp_path, west):
    inside, crossing = box_of((25, 40), (8, 12)), box_of((5, 35), (4, 16))
    jump = shapely.transform(crossing, lambda points: np.where(points > 180, points - 360, points))
    path = tmp_path / "labels.geojson"
    write_features(path, [inside, jump], crs="EPSG:4326")
    with pytest.raises(DataError, match=r"1 features have an edge of more than 180 degrees .*wrapdateline"):
        VectorLabels(path, 2, {"*": 1}).read(scene_at(tmp_path, west), Window(0, 0, HEIGHT, WIDTH))
