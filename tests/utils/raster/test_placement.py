"""Places that are no transform: ground control points, RPCs and geolocation arrays are used, or their loss is told."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from tasks.example import example_task
from tasks.phases import inference, prepare, train
from utils.errors import DataError
from utils.raster.files import write_raster
from utils.raster.header import read_header
from utils.raster.raster_labels import RasterLabels
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.vector_files import write_features
from utils.raster.vector_labels import VectorLabels

HEIGHT, WIDTH = 40, 60
TURNED = Affine(2e-5, 3e-6, 3.0, 2e-6, -2e-5, 45.1)  # degrees, as the grid of a satellite's orbit lies
BEND = 3e-8  # degrees per squared pixel


def points_of(transform: Affine, bend: float = 0.0, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> list:
    """Nine ground control points of a transform; `bend` makes it none."""
    height, width = shape
    places = [(row, column) for row in (0, height / 2, height) for column in (0, width / 2, width)]
    xs = [(row, column, *(transform @ (column, row))) for row, column in places]
    return [GroundControlPoint(row, column, x + bend * column * row, y) for row, column, x, y in xs]


def write_with_points(path: Path, values: np.ndarray, points: list, crs: str = "EPSG:4326") -> None:
    write_raster(path, values)
    with rasterio.open(path, "r+") as raster:
        raster.gcps = (points, CRS.from_user_input(crs))


def corner(transform: Affine) -> shapely.Polygon:
    """The first 20 columns and 10 rows on the ground."""
    return shapely.Polygon([transform @ point for point in ((0, 0), (20, 0), (20, 10), (0, 10))])


def rpc() -> RPC:
    coefficients = [0.0] * 20
    return RPC(0, 1, 45, 1, [0, 0, 1, *coefficients[3:]], [1, *coefficients[1:]], 0, 1, 3, 1,
               [0, 1, *coefficients[2:]], [1, *coefficients[1:]], 0, 1, None, None)  # fmt: skip


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_labels_lie_at_the_true_place_of_ground_control_points(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_with_points(path, np.zeros((HEIGHT, WIDTH, 3), np.uint8), points_of(TURNED))
    write_features(tmp_path / "l.gpkg", [corner(TURNED)], crs="EPSG:4326", kind=["field"])
    scene = RasterScene(path)
    assert scene.crs == CRS.from_epsg(4326)
    np.testing.assert_allclose(scene.transform[:6], TURNED[:6], rtol=0, atol=1e-12)
    labels = VectorLabels(tmp_path / "l.gpkg", 2, {"field": 1}, attribute="kind", unlabelled=0)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:10, :20] = 1
    np.testing.assert_array_equal(labels.read(scene, Window(0, 0, HEIGHT, WIDTH)), expected)


def test_a_label_raster_may_have_ground_control_points_too(tmp_path):
    values = np.random.default_rng(3).integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8)
    write_with_points(tmp_path / "l.tif", values, points_of(TURNED))
    write_raster(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH), np.uint8), crs="EPSG:4326", transform=TURNED)
    read = RasterLabels(tmp_path / "l.tif", 2).read(RasterScene(tmp_path / "a.tif"), Window(0, 0, HEIGHT, WIDTH))
    np.testing.assert_array_equal(read, values)


def test_a_transform_goes_before_points_and_coefficients(tmp_path):
    write_raster(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH), np.uint8), crs="EPSG:4326", transform=TURNED)
    with rasterio.open(tmp_path / "a.tif", "r+") as raster:
        raster.rpcs = rpc()
    header = read_header(tmp_path / "a.tif")
    assert (header.grid.transform, header.unplaced) == (TURNED, None)


def unplaced_picture(path: Path, how: str, values: np.ndarray) -> str:
    """Write a picture whose place no transform gives; returns the option of gdalwarp that uses it."""
    if how == "bent":
        write_with_points(path, values, points_of(TURNED, BEND, values.shape[:2]))
        return "-tps"
    if how == "few":
        write_with_points(path, values, points_of(TURNED)[:1])
        return "-tps"
    write_raster(path, values)
    with rasterio.open(path, "r+") as raster:
        if how == "rpc":
            raster.rpcs = rpc()
            return "-rpc"
        raster.update_tags(ns="GEOLOCATION", X_DATASET="lon.tif", Y_DATASET="lat.tif", SRS="EPSG:4326")
    return "-geoloc"


@pytest.mark.parametrize("how", ["bent", "few", "rpc", "arrays"])
def test_labels_on_the_ground_are_refused_where_no_transform_gives_the_place(tmp_path, how):
    option = unplaced_picture(tmp_path / "a.tif", how, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    write_features(tmp_path / "l.gpkg", [corner(TURNED)], crs="EPSG:4326", kind=["field"])
    labels = VectorLabels(tmp_path / "l.gpkg", 2, {"field": 1}, attribute="kind", unlabelled=0)
    with pytest.raises(
        DataError, match=rf"a\.tif: its place is given by .*gdalwarp {option} .*l\.gpkg are in EPSG:4326"
    ):
        labels.check(RasterScene(tmp_path / "a.tif"))


def test_an_unplaced_label_raster_is_refused_for_a_placed_picture(tmp_path):
    option = unplaced_picture(tmp_path / "l.tif", "bent", np.zeros((HEIGHT, WIDTH), np.uint8))
    write_raster(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH), np.uint8), crs="EPSG:4326", transform=TURNED)
    with pytest.raises(DataError, match=rf"l\.tif: its place is given by 9 ground control points.*gdalwarp {option}"):
        RasterLabels(tmp_path / "l.tif", 2).check(RasterScene(tmp_path / "a.tif"))


def test_labels_in_the_pixels_of_an_unplaced_picture_are_used(tmp_path):
    unplaced_picture(tmp_path / "a.tif", "bent", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    values = np.random.default_rng(3).integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8)
    write_raster(tmp_path / "l.png", values)
    read = RasterLabels(tmp_path / "l.png", 2).read(RasterScene(tmp_path / "a.tif"), Window(0, 0, HEIGHT, WIDTH))
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(("scale", "grid"), [(1, "source"), (0.5, "model"), (0.5, "source")])
@pytest.mark.parametrize("format", ["cog", "gtiff"])
def test_a_map_keeps_points_that_no_transform_fits(tmp_path, scale, grid, format):
    task, context = example_task(tmp_path, f"dataset.scale={scale}", "prepare.tile_size=16")
    for phase in (prepare, train):
        phase.run(task, context)
    unplaced_picture(tmp_path / "bent.tif", "bent", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    outputs = (f"inference.inputs={tmp_path}/bent.tif", f"inference.output_dir={tmp_path}/maps")
    more = (f"inference.format={format}", "inference.confidence=true", f"inference.output_resolution={grid}")
    task, _ = example_task(tmp_path, f"dataset.scale={scale}", "prepare.tile_size=16", *outputs, *more)
    inference.run(task, context)
    with rasterio.open(tmp_path / "bent.tif") as raster:
        expected, crs = raster.gcps
    for name in ("bent_classes.tif", "bent_classes_confidence.tif"):
        with rasterio.open(tmp_path / "maps" / name) as raster:
            found, found_crs = raster.gcps
            assert found_crs == crs
        finer = scale if grid == "model" else 1
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row * finer, p.col * finer, p.x, p.y) for p in expected]


def test_maps_keep_the_place_of_points_or_say_that_it_is_lost(tmp_path, caplog):
    task, context = example_task(tmp_path)
    for phase in (prepare, train):
        phase.run(task, context)
    with rasterio.open(tmp_path / "pictures" / "scene_0.tif") as raster:
        values = raster.read().transpose(1, 2, 0)
    write_with_points(tmp_path / "fit.tif", values, points_of(TURNED, shape=values.shape[:2]))
    unplaced_picture(tmp_path / "bent.tif", "bent", values)
    caplog.set_level(logging.WARNING)
    unplaced_picture(tmp_path / "rpc.tif", "rpc", values)
    for name in ("fit", "bent", "rpc"):
        overrides = (f"inference.inputs={tmp_path}/{name}.tif", f"inference.output_dir={tmp_path}/maps")
        task, _ = example_task(tmp_path, *overrides)
        inference.run(task, context)
    with rasterio.open(tmp_path / "maps" / "fit_classes.tif") as raster:
        assert raster.crs == CRS.from_epsg(4326)
        np.testing.assert_allclose(raster.transform[:6], TURNED[:6], rtol=0, atol=1e-12)
    told = [record.getMessage() for record in caplog.records if "no place on Earth" in record.getMessage()]
    assert len(told) == 1
    assert "rpc.tif" in told[0]
    assert "gdalwarp -rpc" in told[0]
    kept = [record.getMessage() for record in caplog.records if "its map keeps these points" in record.getMessage()]
    assert len(kept) == 1
    assert "bent.tif" in kept[0]
    assert "gdalwarp -tps" in kept[0]
