"""Vector files over rasters: boxes in pixels through any CRS and a rotated transform, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from utils.errors import DataError
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.raster.files import write_raster
from utils.raster.grids import transform_points
from utils.raster.vector_files import write_features

UTM = "EPSG:32631"


def write_scene(path, angle: float = 0, origin: tuple[float, float] = (500_000, 4_000_000), crs: str | None = UTM):
    transform = Affine.translation(*origin) @ Affine.rotation(angle) @ Affine.scale(0.5, -0.5)
    write_raster(path, np.zeros((40, 60, 3), np.uint8), crs=crs, transform=transform)
    return transform


def on_map(transform: Affine, pixels: list[tuple[float, float]]) -> shapely.Polygon:
    return shapely.Polygon([transform @ corner for corner in pixels])


def rectangle(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@pytest.mark.parametrize("angle", [0, 30, 90])
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb"])
def test_outlines_become_boxes_in_pixels(angle, suffix, tmp_path):
    transform = write_scene(tmp_path / "a.tif", angle)
    shapes = [on_map(transform, rectangle(10, 8, 30, 20)), on_map(transform, [(40, 30), (50, 25), (45, 38)])]
    crs = CRS.from_epsg(4326 if suffix == "geojson" else 32631)

    def carry(points: np.ndarray) -> np.ndarray:
        return np.column_stack(transform_points(CRS.from_string(UTM), crs, *points.T))

    placed = [shapely.transform(shape, carry) for shape in shapes]
    write_features(tmp_path / f"trees.{suffix}", placed, crs=crs.to_string(), label=["Oak", "Ash"])
    part = read_boxes(tmp_path)["all"]
    found = {instance.category: instance.box_xyxy for instance in part.pictures[0].instances}
    np.testing.assert_allclose(found["Oak"], [10, 8, 30, 20], atol=0.01)
    np.testing.assert_allclose(found["Ash"], [40, 25, 50, 38], atol=0.01)
    assert list(part.skeletons) == ["Ash", "Oak"]
    assert not part.problems


def test_a_feature_belongs_to_each_raster_that_it_meets_and_is_cut_there(tmp_path):
    left = write_scene(tmp_path / "left.tif")
    write_scene(tmp_path / "right.tif", origin=(500_030, 4_000_000))
    write_scene(tmp_path / "far.tif", origin=(510_000, 4_000_000))
    write_features(tmp_path / "trees.gpkg", [on_map(left, rectangle(50, 10, 66, 20))], crs=UTM, kind=["x"])
    part = read_annotations(tmp_path)["all"]
    assert {p.id: p.instances[0].box_xyxy.round(6).tolist() for p in part.pictures} == {
        "left": [50, 10, 60, 20],
        "right": [0, 10, 6, 20],
    }
    assert list(part.skeletons) == ["object"]  # no attribute that is known to hold the class
    assert [problem.what for problem in part.problems] == [
        "rasters that no feature meets, left out: 1, such as far.tif"
    ]


def test_an_attribute_may_name_the_raster(tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    write_scene(tmp_path / "b.tif")  # the same place
    shape = on_map(transform, rectangle(10, 8, 30, 20))
    names = ["b.tif", "c.tif"]
    write_features(tmp_path / "trees.gpkg", [shape, shape], crs=UTM, label=["x", "x"], image_path=names)
    part = read_annotations(tmp_path / "trees.gpkg")["all"]
    assert {p.id: len(p.instances) for p in part.pictures} == {"b": 1}
    told = [problem.what for problem in part.problems]
    assert "no such picture: c.tif" in told
    assert any("features meet no raster" in what for what in told)


def test_predictions_points_and_places_elsewhere_are_told(tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    shape = on_map(transform, rectangle(10, 8, 30, 20))
    write_features(tmp_path / "p.gpkg", [shape], crs=UTM, label=["x"], score=[0.5])
    with pytest.raises(DataError, match="predictions, as the attribute 'score' says; labels have none"):
        read_annotations(tmp_path / "p.gpkg")
    with pytest.raises(DataError, match=r"no vector file with labels in it; .*p.gpkg: not read: predictions"):
        read_annotations(tmp_path)
    write_features(tmp_path / "q.gpkg", [shapely.Point(transform @ (5, 5))], crs=UTM, label=["x"])
    with pytest.raises(DataError, match="1 features of type Point enclose no area and have no box"):
        read_annotations(tmp_path / "q.gpkg")
    write_features(tmp_path / "r.gpkg", [shapely.box(1, 2, 3, 4)], crs=UTM, label=["x"])
    with pytest.raises(DataError, match=r"its features meet no raster in .*name the rasters' folder"):
        read_annotations(tmp_path / "r.gpkg")


def test_a_crs_on_one_side_only_is_refused(tmp_path):
    transform = write_scene(tmp_path / "a.tif", crs=None)
    write_features(tmp_path / "t.gpkg", [on_map(transform, rectangle(10, 8, 30, 20))], crs=UTM, label=["x"])
    with pytest.raises(DataError, match=r"a\.tif: has no CRS, but .*t\.gpkg has one"):
        read_annotations(tmp_path / "t.gpkg")


def test_a_feature_without_a_class_is_a_problem(tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    shape = on_map(transform, rectangle(10, 8, 30, 20))
    write_features(tmp_path / "t.gpkg", [shape, shape], crs=UTM, label=["x", ""])
    part = read_annotations(tmp_path / "t.gpkg")["all"]
    assert len(part.pictures[0].instances) == 1
    assert part.problems[0].where.endswith("t.gpkg: feature 2")
    assert part.pictures[0].extra["incomplete"]
    with pytest.raises(DataError, match="labels of format vector are boxes without keypoints"):
        read_poses(tmp_path)
