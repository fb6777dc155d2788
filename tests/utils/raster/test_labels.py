"""Labels: on the pixel where they belong, in every window the same, and never misplaced in silence."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT

from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError, SettingsError
from utils.raster import grids, raster_labels, vector_labels
from utils.raster.class_table import label_counts
from utils.raster.files import write_raster
from utils.raster.grids import PixelGrid, carry_bounds, locate_pixels, transform_points
from utils.raster.header import read_header
from utils.raster.label_pairs import is_vector, pair_labels
from utils.raster.raster_labels import RasterLabels
from utils.raster.scene_paths import find_scenes
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.vector_files import write_features
from utils.raster.vector_labels import VectorLabels

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "data"
UTM = "EPSG:32631"
PLACE = {"crs": UTM, "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000)}
HEIGHT, WIDTH = 90, 130

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def scene(tmp_path) -> RasterScene:
    """90 x 130 pixels of 2 m."""
    write_raster(tmp_path / "scene.tif", np.zeros((HEIGHT, WIDTH, 3), np.uint8), **PLACE)
    return RasterScene(tmp_path / "scene.tif")


def whole(scene: RasterScene) -> Window:
    return Window(0, 0, scene.height, scene.width)


def assert_windows_agree(source, scene: RasterScene, generator: np.random.Generator, count: int = 20) -> np.ndarray:
    """Read windows of any size and place and compare them with the whole; give the whole."""
    label = source.read(scene, whole(scene))
    around = np.pad(label, 80, constant_values=IGNORE)
    for _ in range(count):
        y, x = (int(value) for value in generator.integers(-40, (scene.height, scene.width)))
        window = Window(y, x, *(int(value) for value in generator.integers(1, 80, 2)))
        expected = around[window.y + 80 : window.y + 80 + window.height, window.x + 80 : window.x + 80 + window.width]
        read = source.read(scene, window)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read[: expected.shape[0], : expected.shape[1]], expected)
    return label


# ------------------------------------------------------------------------------------------------ rasters


def test_labels_on_the_scenes_own_grid_are_read_as_they_are(tmp_path, scene, generator):
    values = generator.integers(0, 4, (HEIGHT, WIDTH), dtype=np.uint8)
    write_raster(tmp_path / "l.tif", values, **PLACE)
    label = assert_windows_agree(RasterLabels(tmp_path / "l.tif", 4), scene, generator)
    np.testing.assert_array_equal(label, values)


@pytest.mark.parametrize("scale", [0.5, 0.37, 1.9])
def test_labels_follow_the_scaled_grid(tmp_path, scene, generator, scale):
    """Each pixel takes the label under its own centre: computed here by hand."""
    values = generator.integers(0, 250, (HEIGHT, WIDTH), dtype=np.uint8)
    write_raster(tmp_path / "l.tif", values, **PLACE)
    scaled = RasterScene(scene.paths, scale=scale)
    label = assert_windows_agree(RasterLabels(tmp_path / "l.tif", 250), scaled, generator)
    rows = np.floor((np.arange(scaled.height) + 0.5) * HEIGHT / scaled.height + 1e-6).astype(int)
    columns = np.floor((np.arange(scaled.width) + 0.5) * WIDTH / scaled.width + 1e-6).astype(int)
    np.testing.assert_array_equal(label, values[np.ix_(rows, columns)])


@pytest.mark.parametrize("factor", [0.25, 3])
@pytest.mark.parametrize("shift", [(0, 0), (37.3, -11.9), (-90, 60)])
def test_another_resolution_and_origin_does_not_drift(tmp_path, scene, generator, factor, shift):
    size = (int(HEIGHT / factor), int(WIDTH / factor))
    values = generator.integers(0, 250, size, dtype=np.uint8)
    transform = Affine(2 * factor, 0, 500_000 + shift[0], 0, -2 * factor, 5_000_000 + shift[1])
    write_raster(tmp_path / "l.tif", values, crs=UTM, transform=transform)
    label = assert_windows_agree(RasterLabels(tmp_path / "l.tif", 250), scene, generator)
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    column = np.floor((2 * x - shift[0]) / (2 * factor) + 1e-6).astype(int)
    row = np.floor((2 * y + shift[1]) / (2 * factor) + 1e-6).astype(int)
    inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    expected = np.where(inside, values[row.clip(0, size[0] - 1), column.clip(0, size[1] - 1)], IGNORE)
    np.testing.assert_array_equal(label, expected)
    if shift != (0, 0):
        assert (label == IGNORE).any()


@pytest.mark.parametrize("rotation", [0, 30])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:3035", "EPSG:32632"])
def test_another_crs_equals_gdals_exact_warp(tmp_path, generator, crs, rotation):
    """A scene of a few kilometres against labels in another CRS; GDAL warps without its approximation."""
    transform = Affine(11, 0, 500_000, 0, -9, 5_000_000) @ Affine.rotation(rotation)
    write_raster(tmp_path / "a.tif", np.zeros((150, 190), np.uint8), crs=UTM, transform=transform)
    scene = RasterScene(tmp_path / "a.tif", scale=0.8)
    left, bottom, right, top = carry_bounds(scene.grid.bounds, scene.crs, CRS.from_user_input(crs))
    height, width = 97, 71
    values = generator.integers(0, 250, (height, width), dtype=np.uint8)
    place = Affine((right - left) / width, 0, left + 0.1 * (right - left), 0, (bottom - top) / height, top)
    write_raster(tmp_path / "l.tif", values, crs=crs, transform=place)
    label = assert_windows_agree(RasterLabels(tmp_path / "l.tif", 250), scene, generator)
    size = {"height": scene.height, "width": scene.width, "crs": scene.crs, "transform": scene.transform}
    with (
        rasterio.open(tmp_path / "l.tif") as dataset,
        WarpedVRT(dataset, **size, tolerance=1e-9, add_alpha=True) as warped,
    ):
        expected = np.where(warped.read(2) == 255, warped.read(1), IGNORE)
    np.testing.assert_array_equal(label, expected)
    assert 0.01 < (label == IGNORE).mean() < 0.7


def test_places_between_lattice_points_are_those_of_every_point(generator, monkeypatch):
    """A map that bends much: interpolated or carried point by point, the answer is the same."""
    source = PixelGrid(700, 900, CRS.from_epsg(3035), Affine(2000, 0, 3_000_000, 0, -2000, 4_000_000))
    target = PixelGrid(800, 800, CRS.from_epsg(4326), Affine(0.03, 0, -5, 0, -0.02, 60))
    for window in (Window(0, 0, 200, 300), Window(333, 511, 77, 64), Window(650, 850, 50, 50)):
        x, y = np.meshgrid(window.x + np.arange(window.width) + 0.5, window.y + np.arange(window.height) + 0.5)
        map_x, map_y = 3_000_000 + 2000 * x, 4_000_000 - 2000 * y
        longitude, latitude = transform_points(source.crs, target.crs, map_x.ravel(), map_y.ravel())
        expected_rows = np.floor((60 - latitude) / 0.02 + 1e-6).reshape(x.shape)
        expected_columns = np.floor((longitude + 5) / 0.03 + 1e-6).reshape(x.shape)
        for limit in (np.inf, 0):
            monkeypatch.setattr(grids, "_LATTICE_ERROR", limit)
            rows, columns = locate_pixels(source, target, window)
            np.testing.assert_array_equal(rows, expected_rows)
            np.testing.assert_array_equal(columns, expected_columns)


def test_places_that_a_crs_does_not_have_are_unknown(tmp_path):
    write_raster(
        tmp_path / "a.tif", np.zeros((180, 360), np.uint8), crs="EPSG:4326", transform=Affine(1, 0, -180, 0, -1, 95)
    )
    grid = PixelGrid(100, 100, CRS.from_epsg(3857), Affine(300_000, 0, -15e6, 0, -300_000, 15e6))
    write_raster(tmp_path / "l.tif", np.ones((100, 100), np.uint8), crs=grid.crs, transform=grid.transform)
    scene = RasterScene(tmp_path / "a.tif")
    rows, _ = locate_pixels(scene.grid, grid, Window(0, 0, 180, 360))
    assert (rows[:5] == -1).all()  # beyond the pole
    read = RasterLabels(tmp_path / "l.tif", 2).read(scene, whole(scene))
    assert set(np.unique(read)) == {1, IGNORE}
    assert (read[:5] == IGNORE).all()


def test_fine_labels_are_read_in_pieces(tmp_path, scene, generator, monkeypatch):
    values = generator.integers(0, 250, (HEIGHT * 4, WIDTH * 4), dtype=np.uint8)
    write_raster(tmp_path / "l.tif", values, crs=UTM, transform=PLACE["transform"] @ Affine.scale(0.25))
    source = RasterLabels(tmp_path / "l.tif", 250)
    label = source.read(scene, whole(scene))
    monkeypatch.setattr(raster_labels, "_READ_PIXELS", 5000)
    np.testing.assert_array_equal(source.read(scene, whole(scene)), label)
    np.testing.assert_array_equal(label, values[2::4, 2::4])


def test_overviews_of_averages_are_not_read(tmp_path, scene):
    values = np.zeros((HEIGHT * 4, WIDTH * 4), np.uint8)
    values[::2] = 2
    write_raster(tmp_path / "l.tif", values, crs=UTM, transform=PLACE["transform"] @ Affine.scale(0.25))
    with rasterio.open(tmp_path / "l.tif", "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
    label = RasterLabels(tmp_path / "l.tif", 3).read(RasterScene(scene.paths, scale=0.5), Window(0, 0, 45, 65))
    assert set(np.unique(label)) <= {0, 2}


# ------------------------------------------------------------------------------------------------ values


def test_values_become_classes_by_the_mapping(tmp_path, scene):
    values = np.full((HEIGHT, WIDTH), -99999, np.float32)
    values[0, :5] = [10, 20, 30, np.nan, 40]
    write_raster(tmp_path / "l.tif", values, nodata=-99999, **PLACE)
    mapping = {10: "road", "20": 0, 30.0: "ignore", "*": 1}
    source = RasterLabels(tmp_path / "l.tif", 3, mapping, ["field", "tree", "road"], ignore_values=[40])
    assert source.read(scene, Window(0, 0, 1, 6)).tolist() == [[2, 0, 255, 255, 255, 255]]
    named = RasterLabels(tmp_path / "l.tif", 3, {**mapping, -99999: 2}, ["field", "tree", "road"])
    assert named.read(scene, Window(0, 2, 1, 4)).tolist() == [[255, 255, 1, 2]]


@pytest.mark.parametrize(
    ("mapping", "expected"), [(None, [255, 1, 2, 255]), ({0: 0, 1: 1, 2: 2, "*": "ignore"}, [0, 1, 2, 255])]
)
def test_nodata_of_labels_is_the_files_unless_it_is_mapped(tmp_path, scene, mapping, expected):
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[0, :4] = [0, 1, 2, 255]
    write_raster(tmp_path / "l.tif", values, nodata=0, **PLACE)
    source = RasterLabels(tmp_path / "l.tif", 3, mapping)
    assert source.read(scene, Window(0, 0, 1, 4)).tolist() == [expected]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_a_value_that_is_no_class_is_named(tmp_path, scene, dtype):
    values = np.ones((HEIGHT, WIDTH), dtype)
    values[40, 50:57] = 9
    write_raster(tmp_path / "l.tif", values, **PLACE)
    source = RasterLabels(tmp_path / "l.tif", 2)
    assert source.read(scene, Window(0, 0, 40, WIDTH)).min() == 1  # not met yet
    message = (
        r"l\.tif: value 9 \(7 times in the window at y 0, x 0\) is no class; known: 0, 1, 255; .*dataset.label_mapping"
    )
    with pytest.raises(DataError, match=message):
        source.check(scene)
    with pytest.raises(DataError, match=r"value 9 \(3 times in the window at y 40, x 50\)"):
        source.read(scene, Window(40, 50, 2, 3))


def test_values_outside_the_scene_do_not_matter(tmp_path, scene):
    values = np.full((HEIGHT + 20, WIDTH), 77, np.uint8)
    values[10:-10] = 1
    write_raster(tmp_path / "l.tif", values, crs=UTM, transform=PLACE["transform"] @ Affine.translation(0, -10))
    source = RasterLabels(tmp_path / "l.tif", 2)
    source.check(scene)
    assert set(np.unique(source.read(scene, whole(scene)))) == {1}


def test_a_fraction_is_no_class(tmp_path, scene):
    write_raster(tmp_path / "l.tif", np.full((HEIGHT, WIDTH), 0.5, np.float32), **PLACE)
    with pytest.raises(DataError, match=r"value 0\.5 \("):
        RasterLabels(tmp_path / "l.tif", 2).check(scene)


def test_colours_of_a_painted_mask(tmp_path, generator):
    colours = {"water": [0, 0, 0], "diver": [0, 0, 255], "reef": [255, 0, 255]}
    table = np.uint8(list(colours.values()))
    classes = generator.integers(0, 3, (20, 30))
    write_raster(tmp_path / "a.jpg", np.zeros((20, 30, 3), np.uint8))
    write_raster(tmp_path / "m.png", table[classes])
    write_raster(
        tmp_path / "p.png",
        classes.astype(np.uint8),
        palette={i: tuple(colour) for i, colour in enumerate(table.tolist())},
    )
    scene = RasterScene(tmp_path / "a.jpg")
    for name in ("m.png", "p.png"):
        label = assert_windows_agree(RasterLabels(tmp_path / name, 3, colours=colours), scene, generator)
        np.testing.assert_array_equal(label, classes)
    by_colour = {tuple(colour): name for name, colour in colours.items()}
    by_colour[0, 0, 255] = "ignore"
    source = RasterLabels(tmp_path / "m.png", 3, class_names=list(colours), colours=by_colour)
    np.testing.assert_array_equal(source.read(scene, whole(scene)), np.where(classes == 1, IGNORE, classes))
    with pytest.raises(
        DataError, match=r"value \[255, 0, 255\] \(\d+ times .* known: \[0, 0, 0\], \[0, 0, 255\]; .*label_colours"
    ):
        RasterLabels(tmp_path / "m.png", 2, colours={name: colours[name] for name in ("water", "diver")}).check(scene)
    with pytest.raises(DataError, match=r"labels need one band, this file has 3; .*dataset.label_colours"):
        RasterLabels(tmp_path / "m.png", 3).check(scene)
    assert RasterLabels(tmp_path / "p.png", 3).read(scene, Window(0, 0, 20, 30)).tolist() == classes.tolist()


def test_masks_without_a_place_must_have_the_pictures_size(tmp_path):
    write_raster(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8))
    write_raster(tmp_path / "whole.png", np.ones((40, 60), np.uint8))
    write_raster(tmp_path / "half.png", np.ones((20, 30), np.uint8))
    halved = RasterScene(tmp_path / "a.png", scale=0.5)
    for name in ("whole.png", "half.png"):
        assert RasterLabels(tmp_path / name, 2).read(halved, whole(halved)).mean() == 1
    with pytest.raises(DataError, match=r"half\.png: 20 x 30 pixels, but .*a\.png has 40 x 60"):
        RasterLabels(tmp_path / "half.png", 2).check(RasterScene(tmp_path / "a.png"))


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize("vector", [False, True])
def test_a_crs_on_one_side_only_is_refused(tmp_path, scene, vector):
    write_raster(tmp_path / "plain.tif", np.zeros((HEIGHT, WIDTH), np.uint8))
    if vector:
        write_features(tmp_path / "l.gpkg", [shapely.box(500_000, 4_999_900, 500_100, 5_000_000)], crs=UTM)
        write_features(tmp_path / "plain.gpkg", [shapely.box(0, 0, 9, 9)])
        placed, plain = (VectorLabels(tmp_path / f"{name}.gpkg", 2, {"*": 1}) for name in ("l", "plain"))
    else:
        write_raster(tmp_path / "l.tif", np.zeros((HEIGHT, WIDTH), np.uint8), **PLACE)
        placed, plain = (RasterLabels(tmp_path / f"{name}.tif", 2) for name in ("l", "plain"))
    pictures = RasterScene(tmp_path / "plain.tif")
    for act in (lambda source, scene: source.check(scene), lambda source, scene: source.read(scene, whole(scene))):
        with pytest.raises(DataError, match=r"labels are in EPSG:32631, but .*plain\.tif has no CRS; give the picture"):
            act(placed, pictures)
        with pytest.raises(DataError, match=r"labels have no CRS, but .*scene\.tif is in EPSG:32631; give the labels"):
            act(plain, scene)
    placed.check(scene)
    plain.check(pictures)


@pytest.mark.parametrize("vector", [False, True])
def test_labels_far_away_are_refused_with_both_bounds(tmp_path, scene, vector):
    if vector:
        write_features(tmp_path / "l.geojson", [shapely.box(100, 10, 101, 11)], crs="EPSG:4326")
        source = VectorLabels(tmp_path / "l.geojson", 2, {"*": 1})
    else:
        transform = Affine(0.1, 0, 100, 0, -0.1, 11)
        write_raster(tmp_path / "l.tif", np.zeros((10, 10), np.uint8), crs="EPSG:4326", transform=transform)
        source = RasterLabels(tmp_path / "l.tif", 2)
    message = (
        r"no common ground: labels x 100 to 101, y 10 to 11 \(EPSG:4326\), in the scene's CRS .*"
        r"scene\.tif x 500000 to 500260, y 4999820 to 5000000 \(EPSG:32631\)"
    )
    with pytest.raises(DataError, match=message):
        source.check(scene)
    with pytest.raises(DataError, match="no common ground"):
        source.read(scene, whole(scene))


# ------------------------------------------------------------------------------------------------ vectors


def random_polygons(generator: np.random.Generator, count: int = 60) -> list[shapely.Polygon]:
    """Stars around the scene, in UTM; some stick out."""
    polygons = []
    for x, y in generator.uniform((499_980, 4_999_800), (500_280, 5_000_020), (count, 2)):
        angles = np.sort(generator.uniform(0, 2 * np.pi, 9))
        radius = generator.uniform(3, 30, 9)
        polygons.append(shapely.Polygon(np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)))
    return polygons


@pytest.mark.parametrize("name", ["l.gpkg", "l.geojson", "l.shp", "l.fgb"])
def test_polygons_are_drawn_where_and_in_the_order_they_lie(tmp_path, scene, generator, name):
    polygons = random_polygons(generator)
    kinds = generator.integers(0, 3, len(polygons)).tolist()
    options = {"SPATIAL_INDEX": "NO"} if name == "l.fgb" else {}  # its index would sort the features
    wkb = np.array([shapely.to_wkb(polygon) for polygon in polygons], dtype=object)
    fields = {"field_data": [np.array(kinds)], "fields": ["kind"]}
    pyogrio.raw.write(tmp_path / name, wkb, **fields, geometry_type="Polygon", crs=UTM, **options)
    source = VectorLabels(tmp_path / name, 4, {i: i for i in range(3)}, attribute="kind", unlabelled=3)
    source.check(scene)
    label = assert_windows_agree(source, scene, generator)
    valid = [polygon if polygon.is_valid else shapely.make_valid(polygon) for polygon in polygons]
    shapes = list(zip(valid, kinds, strict=True))
    expected = rasterize(shapes, out_shape=label.shape, fill=3, transform=scene.transform, dtype="uint8")
    assert (label != expected).mean() < 1e-9
    assert len(np.unique(label)) == 4


def test_blocks_and_pieces_do_not_show(tmp_path, scene, generator, monkeypatch):
    """Many features, small blocks, giants cut down: the class map is that of one piece."""
    giant = shapely.Point(500_100, 4_999_900).buffer(1e6, quad_segs=2000)
    polygons = [giant, *random_polygons(generator, 40)]
    write_features(tmp_path / "l.gpkg", polygons, crs=UTM, kind=list(range(41)))
    options = {"attribute": "kind", "unlabelled": 50}
    mapping = {value: value for value in range(41)}
    label = VectorLabels(tmp_path / "l.gpkg", 51, mapping, **options).read(scene, whole(scene))
    for name, value in (("_FETCH", 64), ("_MANY_FEATURES", 0), ("_BLOCKS_KEPT", 2)):
        monkeypatch.setattr(vector_labels, name, value)
    monkeypatch.setattr("utils.raster.labels.BLOCK", 32)
    monkeypatch.setattr("utils.raster.shapes._MANY_VERTICES", 4)
    pieces = VectorLabels(tmp_path / "l.gpkg", 51, mapping, **options)
    np.testing.assert_array_equal(assert_windows_agree(pieces, scene, generator), label)
    assert len(pieces._fetched.values) == vector_labels._FETCHES_KEPT
    assert 50 not in label


def test_edges_on_pixel_centres_are_the_same_in_every_window(tmp_path, scene, generator):
    boxes = [shapely.box(500_001 + 20 * i, 4_999_901, 500_011 + 20 * i, 4_999_981) for i in range(12)]
    triangles = [
        shapely.Polygon([(500_001 + 20 * i, 4_999_831), (500_021 + 20 * i, 4_999_831), (500_001 + 20 * i, 4_999_851)])
        for i in range(12)
    ]
    write_features(tmp_path / "l.gpkg", boxes + triangles, crs=UTM)
    label = assert_windows_agree(VectorLabels(tmp_path / "l.gpkg", 2, {"*": 1}, unlabelled=0), scene, generator)
    assert (label[9:49].sum(axis=1) == 12 * 5).all()  # 10 m are five pixels, on whichever side the centre falls


@pytest.mark.parametrize("scale", [1, 0.5])
def test_another_crs_is_carried_vertex_by_vertex(tmp_path, scene, generator, scale):
    """The same polygons in degrees give the same class map, but for centres within a hair of an edge."""
    polygons = random_polygons(generator)
    there = [
        shapely.transform(
            polygon, lambda xy: np.stack(transform_points(CRS.from_string(UTM), CRS.from_epsg(4326), *xy.T), axis=1)
        )
        for polygon in polygons
    ]
    write_features(tmp_path / "a.gpkg", polygons, crs=UTM)
    write_features(tmp_path / "b.geojson", there, crs="EPSG:4326")
    scaled = RasterScene(scene.paths, scale=scale)
    first = VectorLabels(tmp_path / "a.gpkg", 2, {"*": 1}, unlabelled=0).read(scaled, whole(scaled))
    second = VectorLabels(tmp_path / "b.geojson", 2, {"*": 1}, unlabelled=0)
    second.check(scaled)
    assert (assert_windows_agree(second, scaled, generator) != first).mean() < 1e-3
    assert 0.1 < first.mean() < 0.9


def test_long_edges_follow_their_true_course(tmp_path):
    """A box in degrees on a continental grid: its sides are parallels and meridians, not straight lines."""
    transform = Affine(5000, 0, 3_000_000, 0, -5000, 4_200_000)
    write_raster(tmp_path / "a.tif", np.zeros((400, 500), np.uint8), crs="EPSG:3035", transform=transform)
    scene = RasterScene(tmp_path / "a.tif")
    write_features(tmp_path / "l.geojson", [shapely.box(-4, 42, 24, 54)], crs="EPSG:4326")
    label = VectorLabels(tmp_path / "l.geojson", 2, {"*": 1}, unlabelled=0).read(scene, whole(scene))
    x, y = np.meshgrid(np.arange(500) + 0.5, np.arange(400) + 0.5)
    map_x, map_y = 3_000_000 + 5000 * x.ravel(), 4_200_000 - 5000 * y.ravel()
    longitude, latitude = (
        part.reshape(x.shape) for part in transform_points(scene.crs, CRS.from_epsg(4326), map_x, map_y)
    )
    expected = (longitude > -4) & (longitude < 24) & (latitude > 42) & (latitude < 54)
    assert (label != expected).sum() <= 20  # sagging straight sides would differ in thousands of pixels


def test_lines_have_a_width_and_points_one_pixel(tmp_path, scene):
    lines = [shapely.LineString([(500_010, 4_999_987), (500_050, 4_999_987)])]
    points = shapely.MultiPoint([(500_000.1, 4_999_999.9), (500_259.9, 4_999_820.1)])
    write_features(tmp_path / "lines.gpkg", lines, crs=UTM)
    write_features(tmp_path / "points.gpkg", [points], crs=UTM)
    for width in (1, 3, 5):
        source = VectorLabels(tmp_path / "lines.gpkg", 2, {"*": 1}, unlabelled=0, line_width=width)
        label = source.read(scene, whole(scene))
        assert label[:, 15].sum() == width
        assert np.flatnonzero(label[:, 15]).mean() == 6  # row 6 holds y 4,999,987
    label = VectorLabels(tmp_path / "points.gpkg", 2, {"*": 1}, unlabelled=0).read(scene, whole(scene))
    assert np.argwhere(label == 1).tolist() == [[0, 0], [HEIGHT - 1, WIDTH - 1]]
    with pytest.raises(SettingsError, match=r"line_width is in pixels, expected at least 1, got 0\.5"):
        VectorLabels(tmp_path / "lines.gpkg", 2, {"*": 1}, line_width=0.5)


def test_holes_stay_and_invalid_polygons_are_mended(tmp_path, scene, caplog):
    ring = shapely.box(500_020, 4_999_920, 500_100, 4_999_980).difference(
        shapely.box(500_040, 4_999_940, 500_080, 4_999_960)
    )
    bow_tie = shapely.Polygon([(500_120, 4_999_900), (500_160, 4_999_940), (500_160, 4_999_900), (500_120, 4_999_940)])
    write_features(tmp_path / "l.gpkg", [ring, bow_tie], crs=UTM)
    label = VectorLabels(tmp_path / "l.gpkg", 2, {"*": 1}, unlabelled=0).read(scene, whole(scene))
    assert label[10:40, 10:50].sum() == 40 * 30 - 20 * 10
    assert label[30:50, 60:80].sum() == pytest.approx(20 * 20 / 2, abs=20)
    assert "invalid polygons were made valid (1 in" in caplog.text


def test_empty_and_missing_geometries_are_passed_over(tmp_path, scene):
    import json

    square = [[[500_000, 4_999_900], [500_100, 4_999_900], [500_100, 5_000_000], [500_000, 4_999_900]]]
    shapes = [None, {"type": "Polygon", "coordinates": []}, {"type": "Polygon", "coordinates": square}]
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    (tmp_path / "l.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    source = VectorLabels(tmp_path / "l.geojson", 2, {"*": 1}, unlabelled=0)
    source.check(scene)
    assert source.read(scene, whole(scene)).sum() == pytest.approx(50 * 50 / 2, abs=30)


def test_the_attribute_and_its_values_are_checked(tmp_path, scene):
    box = shapely.box(500_000, 4_999_900, 500_100, 5_000_000)
    names = ["field", "field", None, "rode"]
    write_features(
        tmp_path / "l.gpkg", [box] * 4, crs=UTM, name=np.array(names, dtype=object), code=[1.0, 2.0, 2.0, 7.0]
    )
    with pytest.raises(DataError, match=r"l\.gpkg: no attribute 'class'; fields: name, code"):
        VectorLabels(tmp_path / "l.gpkg", 2, {"a": 1}, attribute="class").check(scene)
    message = r"value null \(1 times in attribute 'name'\), rode \(1 times .*is no class; known: field; .*label_mapping"
    with pytest.raises(DataError, match=message):
        VectorLabels(tmp_path / "l.gpkg", 2, {"field": 1}, attribute="name").check(scene)
    with pytest.raises(DataError, match=r"value 7 \(1 times in attribute 'code'\)"):
        VectorLabels(tmp_path / "l.gpkg", 2, {1: 0, 2: 1}, attribute="code").read(scene, whole(scene))
    classes = ["field", "road"]
    source = VectorLabels(
        tmp_path / "l.gpkg", 2, {"rode": "road", "*": "ignore"}, classes, attribute="name", unlabelled="field"
    )
    source.check(scene)
    assert label_counts(source.read(scene, whole(scene)), 2).tolist() == [HEIGHT * WIDTH - 50 * 50, 50 * 50]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping": {"a": 1}}, "without an attribute every feature is of one class"),
        ({"mapping": {"*": 2}}, "unknown class 2; known: 0, 1, ignore"),
        ({"mapping": {"*": 1}, "unlabelled": "water"}, "unknown class 'water'"),
        ({"mapping": {"*": 1}, "num_classes": 256}, "expected 1 to 255"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        VectorLabels("l.gpkg", **{"num_classes": 2, **options})
    with pytest.raises(SettingsError, match="not both"):
        RasterLabels("l.tif", 2, {1: 1}, colours={"a": [0, 0, 0]})


def test_a_layer_must_be_chosen_where_there_are_several(tmp_path, scene):
    box = np.array([shapely.to_wkb(shapely.box(500_000, 4_999_900, 500_100, 5_000_000))], dtype=object)
    for layer in ("roads", "houses"):
        options = {"geometry_type": "Polygon", "crs": UTM, "layer": layer, "append": (tmp_path / "l.gpkg").exists()}
        pyogrio.raw.write(tmp_path / "l.gpkg", box, [], [], **options)
    with pytest.raises(DataError, match=r"holds the layers roads, houses; choose one in dataset\.label_layer"):
        VectorLabels(tmp_path / "l.gpkg", 2, {"*": 1}).check(scene)
    with pytest.raises(DataError, match="has no layer 'trees'; it holds the layers roads, houses"):
        VectorLabels(tmp_path / "l.gpkg", 2, {"*": 1}, layer="trees").check(scene)
    assert VectorLabels(tmp_path / "l.gpkg", 2, {"*": 1}, layer="houses").read(scene, Window(0, 0, 1, 1)) == 1


@pytest.mark.parametrize("claim", ["EPSG:4326", "EPSG:3857"])
def test_a_file_that_claims_a_wrong_crs_is_never_placed(tmp_path, scene, claim):
    """Metres that claim to be degrees, and numbers of one CRS that claim another: refused with the likely cure."""
    write_features(tmp_path / "l.geojson", [shapely.box(500_010, 4_999_900, 500_100, 4_999_990)], crs=claim)
    source = VectorLabels(tmp_path / "l.geojson", 2, {"*": 1}, unlabelled=0)
    kind = "claims EPSG:4326 .*but holds x 500010 to 500100" if claim == "EPSG:4326" else "no common ground"
    message = rf"{kind}.*the numbers would fit the scene's own EPSG:32631.*ogr2ogr -a_srs"
    with pytest.raises(DataError, match=message):
        source.check(scene)
    with pytest.raises(DataError, match=message):
        source.read(scene, whole(scene))


@pytest.mark.parametrize("content", ["", "not json", '{"type": "FeatureCollection", "features": []}'])
def test_what_holds_no_features_is_refused(tmp_path, scene, content):
    (tmp_path / "l.geojson").write_text(content)
    with pytest.raises(DataError, match=r"l\.geojson: (cannot be opened as a vector file|layer .* holds no features)"):
        VectorLabels(tmp_path / "l.geojson", 2, {"*": 1}).check(scene)


def test_sources_cross_processes_and_threads_and_see_new_versions(tmp_path, scene, generator):
    polygons = random_polygons(generator)
    write_features(tmp_path / "l.gpkg", polygons, crs=UTM)
    source = VectorLabels(tmp_path / "l.gpkg", 2, {"*": 1}, unlabelled=0)
    label = source.read(scene, whole(scene))
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy._blocks.values) == 0
    windows = [Window(int(y), int(x), 40, 40) for y, x in generator.integers(0, 50, (30, 2))]
    with ThreadPoolExecutor(4) as pool:
        for window, read in zip(windows, pool.map(lambda window: copy.read(scene, window), windows), strict=True):
            np.testing.assert_array_equal(read, label[window.rows, window.columns])
    (tmp_path / "l.gpkg").unlink()
    write_features(tmp_path / "l.gpkg", [shapely.box(499_000, 4_000_000, 600_000, 5_100_000)], crs=UTM)
    assert source.read(scene, whole(scene)).min() == 1


def test_what_is_read_can_be_changed_without_harm(tmp_path, scene, generator):
    write_features(tmp_path / "l.gpkg", random_polygons(generator), crs=UTM)
    source = VectorLabels(tmp_path / "l.gpkg", 2, {"*": 1}, unlabelled=0)
    first = source.read(scene, whole(scene))
    kept = first.copy()
    first[:] = IGNORE
    np.testing.assert_array_equal(source.read(scene, whole(scene)), kept)


# ------------------------------------------------------------------------------------------------ pairing


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_labels_are_paired_by_stem_with_folders_telling_equals_apart(tmp_path):
    touch(tmp_path / "images", "north/a.tif", "south/a.tif", "b.jpg", "c.jpg")
    touch(tmp_path / "labels", "north/a.tif", "south/a.tif", "b.shp", "b.dbf", "b.prj", "notes.txt")
    scenes = find_scenes(tmp_path / "images")
    pairs, unpaired = pair_labels(scenes, tmp_path / "labels")
    found = {
        str(scene.relative_to(tmp_path / "images")): str(label.relative_to(tmp_path / "labels"))
        for scene, label in pairs.items()
    }
    assert found == {"north/a.tif": "north/a.tif", "south/a.tif": "south/a.tif", "b.jpg": "b.shp"}
    assert [path.name for path in unpaired] == ["c.jpg"]


@pytest.mark.parametrize("pattern", ["{stem}.mask.tif", "{stem}.mask.*", "{stem}_buildings.geojson"])
def test_a_pattern_finds_labels_beside_the_scenes(tmp_path, pattern):
    name = pattern.replace("*", "tif")
    touch(tmp_path, "a[1].tif", "b.tif", *(name.replace("{stem}", stem) for stem in ("a[1]", "b")))
    scenes = [tmp_path / "a[1].tif", tmp_path / "b.tif"]
    pairs, unpaired = pair_labels(scenes, tmp_path, pattern)
    assert [label.name for label in pairs.values()] == [name.replace("{stem}", stem) for stem in ("a[1]", "b")]
    assert unpaired == []


def test_one_file_serves_all_scenes_and_doubt_is_refused(tmp_path):
    touch(tmp_path, "a.tif", "labels/a.tif", "labels/a.gpkg")
    scene = tmp_path / "a.tif"
    assert pair_labels([scene], tmp_path / "labels" / "a.gpkg") == ({scene: tmp_path / "labels" / "a.gpkg"}, [])
    with pytest.raises(DataError, match=r"a\.tif: 2 labels fit: .*a\.gpkg, .*a\.tif; choose by dataset.label_pattern"):
        pair_labels([scene], tmp_path / "labels")
    with pytest.raises(DataError, match="none: no such file or folder for labels"):
        pair_labels([scene], tmp_path / "none")
    with pytest.raises(SettingsError, match=r"expected \{stem\}"):
        pair_labels([scene], tmp_path, "a.tif")
    assert is_vector("x.SHP")


def test_counts_leave_out_the_ignored_and_refuse_the_foreign(generator):
    label = generator.integers(0, 3, (40, 50)).astype(np.uint8)
    label[:5] = IGNORE
    assert label_counts(label, 4).tolist() == [*(int((label == index).sum()) for index in range(3)), 0]
    with pytest.raises(ValueError, match=r"labels hold \[2\]; expected classes 0 to 1, or 255"):
        label_counts(label, 2)


# ------------------------------------------------------------------------------------------------ real data


@pytest.mark.real_data
@needs_real_data
@pytest.mark.parametrize("scale", [1, 0.5])
def test_real_outlines_in_degrees_meet_the_roofs(scale):
    """The outlines of a scene in web mercator, against a plain rasterisation of the whole."""
    folder = REAL / "geo_buildings" / "scenes"
    scene = RasterScene(folder / "2_kampala_2.tif", scale=scale)
    source = VectorLabels(folder / "2_kampala_2_buildings.geojson", 2, {"*": 1}, unlabelled=0)
    source.check(scene)
    label = assert_windows_agree(source, scene, np.random.default_rng(1))
    shapes = shapely.from_wkb(pyogrio.raw.read(source.path)[2])
    moved = shapely.transform(
        shapes, lambda xy: np.stack(transform_points(CRS.from_epsg(4326), scene.crs, *xy.T), axis=1)
    )
    expected = rasterize(moved, out_shape=label.shape, transform=scene.transform)
    assert (label != expected).mean() < 1e-5
    assert 0.5 < label.mean() < 0.7  # a dense quarter


@pytest.mark.real_data
@needs_real_data
def test_a_real_shapefile_agrees_with_its_labelled_pixels():
    """The raster holds the pixels that the polygons touch, in another realisation of the same CRS."""
    folder = REAL / "geo_landsat"
    scene = RasterScene(folder / "landsat_multiband.tif")
    mapping = {value + 1: value for value in range(7)}
    polygons = VectorLabels(folder / "landsat96_polygons.shp", 7, mapping, attribute="id")
    pixels = RasterLabels(folder / "landsat96_labelled_pixels.tif", 7, mapping)
    for source in (polygons, pixels):
        source.check(scene)
    drawn, read = (assert_windows_agree(source, scene, np.random.default_rng(2)) for source in (polygons, pixels))
    both = (drawn != IGNORE) & (read != IGNORE)
    assert (drawn == read)[both].all()
    assert both.sum() > 0.75 * (read != IGNORE).sum()  # the others are only touched at an edge
    assert both.sum() > 0.99 * (drawn != IGNORE).sum()


@pytest.mark.real_data
@needs_real_data
def test_the_real_trap_is_reported_with_its_cure():
    scene = RasterScene(REAL / "geo_spacenet" / "sample_geotiff_custom_proj.tif")
    source = VectorLabels(REAL / "geo_spacenet" / "geotiff_custom_proj_labels.geojson", 2, {"*": 1})
    with pytest.raises(
        DataError, match=r"claims EPSG:4326 .*but holds x -663347.* fit the scene's own .*ogr2ogr -a_srs"
    ):
        source.check(scene)


@pytest.mark.real_data
@needs_real_data
def test_few_real_pixels_are_found_in_a_large_scene():
    folder = REAL / "geo_sentinel2"
    scene = RasterScene([folder / f"B0{band}.tif" for band in (4, 3, 2, 8)])
    names = ["Sand", "WetSand", "Forested Wetland", "Emergent Wetland", "Subtidal Haline", "Herbaceous"]
    mapping = {name: name for name in names}
    source = VectorLabels(folder / "labels" / "rcr_landcover.shp", 6, mapping, names, attribute="Classname")
    source.check(scene)
    counts = label_counts(source.read(scene, whole(scene)), 6)
    assert counts.sum() == 598
    assert counts.min() > 0


@pytest.mark.real_data
@needs_real_data
def test_real_masks_in_colours_and_chips():
    names = ("BW", "HD", "PF", "WR", "RO", "RI", "FV", "SR")
    colours = {name: [255 * (index >> bit & 1) for bit in (2, 1, 0)] for index, name in enumerate(names)}
    folder = REAL / "photo_underwater"
    pairs, unpaired = pair_labels(find_scenes(folder / "images"), folder / "masks")
    assert (len(pairs), unpaired) == (8, [])
    for path, label in pairs.items():
        RasterLabels(label, 8, colours=colours).check(RasterScene(path))
    folder = REAL / "geo_buildings" / "chips" / "val"
    pairs, unpaired = pair_labels(find_scenes(folder, exclude=["*.mask.tif"]), folder, "{stem}.mask.tif")
    assert (len(pairs), unpaired) == (29, [])
    for path, label in list(pairs.items())[:5]:
        assert read_header(path).grid.difference(read_header(label).grid) is None
        assert set(np.unique(RasterLabels(label, 2).read(RasterScene(path), Window(0, 0, 256, 256)))) <= {0, 1}
