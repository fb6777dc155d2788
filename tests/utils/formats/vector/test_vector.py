"""Vector files over rasters: boxes in pixels through any CRS and a rotated transform, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import shapely
from affine import Affine
from pyogrio.raw import write
from rasterio.crs import CRS

from utils.errors import DataError
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.formats.vector.classes import VectorChoice
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
    write_features(tmp_path / "trees.gpkg", [on_map(left, rectangle(50, 10, 66, 20))], crs=UTM, label=["x"])
    part = read_annotations(tmp_path)["all"]
    assert {p.id: p.instances[0].box_xyxy.round(6).tolist() for p in part.pictures} == {
        "left": [50, 10, 60, 20],
        "right": [0, 10, 6, 20],
    }
    assert list(part.skeletons) == ["x"]
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


def write_parts(path, shapes, crs: str = UTM, kind: str = "MultiPolygon", **columns) -> None:
    values = [np.array(column, object if isinstance(column[0], str) else None) for column in columns.values()]
    write(path, shapely.to_wkb(shapes), values, list(columns), geometry_type=kind, crs=crs, layer="l")


def boxes_of(path, **choice) -> list[tuple[str, list[float]]]:
    part = read_annotations(path, choice=VectorChoice(**choice))["all"]
    return [(i.category, i.box_xyxy.round(3).tolist()) for picture in part.pictures for i in picture.instances]


def test_the_class_is_never_guessed(tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    shapes = [on_map(transform, rectangle(10, 8, 30, 20)), on_map(transform, rectangle(40, 4, 50, 9))]
    file = tmp_path / "t.gpkg"
    write_features(file, shapes, crs=UTM, species=["oak", "ash"], height=[7, 8])
    with pytest.raises(DataError, match=r"there are species \(text\), height: name it in dataset\.label_attribute, or"):
        read_annotations(file)
    assert [name for name, _ in boxes_of(file, attribute="species")] == ["oak", "ash"]
    assert [name for name, _ in boxes_of(file, attribute="height")] == ["7", "8"]
    assert [name for name, _ in boxes_of(file, one_class=True)] == ["object", "object"]
    with pytest.raises(DataError, match=r"no attribute 'sort'; fields: species, height$"):
        read_annotations(file, choice=VectorChoice(attribute="sort"))
    file.unlink()
    write_features(tmp_path / "n.gpkg", shapes, crs=UTM, height=[7, 8])
    part = read_annotations(tmp_path / "n.gpkg")["all"]
    assert list(part.skeletons) == ["object"]
    assert "no attribute holds text (there are height): its features are all of one class" in part.problems[0].what


@pytest.mark.parametrize("upper", [False, True])
def test_a_part_of_a_shapefile_that_is_missing_is_named(upper, tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    shapes = [on_map(transform, rectangle(10, 8, 30, 20))]
    values = [np.array(["oak"], object)]
    write(tmp_path / "t.shp", shapely.to_wkb(shapes), values, ["label"], geometry_type="Polygon", crs=UTM)
    if upper:
        for path in list(tmp_path.glob("t.*")):
            path.rename(path.with_suffix(path.suffix.upper()))
    shp, dbf, shx = (f"t.{end.upper() if upper else end}" for end in ("shp", "dbf", "shx"))
    assert boxes_of(tmp_path / shp) == [("oak", [10, 8, 30, 20])]
    for lost in (dbf, shx):
        (tmp_path / f"no_{lost}").mkdir()
        for path in (path for path in tmp_path.iterdir() if path.is_file() and path.name != lost):
            shutil.copy(path, tmp_path / f"no_{lost}")
    with pytest.raises(DataError, match=rf"{shp}: {dbf} is missing, which holds the classes; put it beside"):
        read_annotations(tmp_path / f"no_{dbf}" / shp)
    assert boxes_of(tmp_path / f"no_{dbf}" / shp, one_class=True) == [("object", [10, 8, 30, 20])]
    with pytest.raises(DataError, match=rf"no attribute 'label'; .*{dbf} is missing"):
        read_annotations(tmp_path / f"no_{dbf}" / shp, choice=VectorChoice(attribute="label"))
    with pytest.raises(DataError, match=rf"{shx} is missing, without which no feature is found"):
        read_annotations(tmp_path / f"no_{shx}" / shp)


def test_the_layer_is_chosen(tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    shapes = [on_map(transform, rectangle(10, 8, 30, 20)), on_map(transform, rectangle(40, 4, 50, 9))]
    for layer, shape in zip(("l", "m"), shapes, strict=True):
        values = [np.array([layer.upper()], object)]
        options = {"geometry_type": "Polygon", "crs": UTM, "layer": layer, "append": layer == "m"}
        write(tmp_path / "t.gpkg", shapely.to_wkb([shape]), values, ["label"], **options)
    with pytest.raises(DataError, match=r"holds the layers l, m; choose one in dataset\.label_layer"):
        read_annotations(tmp_path / "t.gpkg")
    assert boxes_of(tmp_path / "t.gpkg", layer="m") == [("M", [40, 4, 50, 9])]
    (tmp_path / "boxes.csv").write_text("image_path,xmin,xmax,ymin,ymax,label\na.tif,3,9,1,5,x\n")
    with pytest.raises(
        DataError, match=r"labels of format csv have no layers and attributes; drop dataset\.label_layer"
    ):
        read_boxes(tmp_path / "boxes.csv", choice=VectorChoice(layer="m"))


def test_parts_that_do_not_touch_are_objects_of_their_own(tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    write_scene(tmp_path / "b.tif", origin=(500_030, 4_000_000))
    parts = [rectangle(2, 2, 8, 8), rectangle(50, 30, 66, 36), rectangle(66, 30, 70, 39)]  # the last two touch
    outline = shapely.MultiPolygon([on_map(transform, part) for part in parts])
    write_parts(tmp_path / "t.gpkg", [outline, shapely.MultiPolygon([on_map(transform, parts[0])])], label=["x", "y"])
    part = read_annotations(tmp_path / "t.gpkg")["all"]
    found = {p.id: [(i.category, i.box_xyxy.round(6).tolist()) for i in p.instances] for p in part.pictures}
    assert found == {
        "a": [("x", [2, 2, 8, 8]), ("x", [50, 30, 60, 36]), ("y", [2, 2, 8, 8])],
        "b": [("x", [0, 30, 10, 39])],
    }
    [note] = part.problems
    assert not note.blocks
    assert "1 features have parts that do not touch, and give 2 boxes, one for each part (numbers 1)" in note.what


@pytest.mark.parametrize("first", [179.97, -180.03])
def test_a_box_over_the_antimeridian(first, tmp_path):
    """Undivided it is refused, as in segmentation; divided there, or beyond 180 degrees, it is one box."""
    transform = Affine(0.001, 0, first, 0, -0.001, 10)
    write_raster(tmp_path / "a.tif", np.zeros((40, 60, 3), np.uint8), crs="EPSG:4326", transform=transform)
    whole = on_map(transform, rectangle(20, 10, 50, 30))

    def wrap(points: np.ndarray) -> np.ndarray:
        return np.column_stack([(points[:, 0] + 180) % 360 - 180, points[:, 1]])

    line = np.copysign(180, first)
    beyond = shapely.box(line, 0, line + np.sign(first), 20)
    pieces = [shapely.difference(whole, beyond), shapely.intersection(whole, beyond)]
    pieces[1] = shapely.transform(pieces[1], lambda points: points - (2 * line, 0))
    write_parts(tmp_path / "w.gpkg", [shapely.transform(whole, wrap)], "EPSG:4326", "Polygon", label=["x"])
    with pytest.raises(DataError, match=r"w\.gpkg: 1 features have an edge of more than 180 degrees of longitude"):
        read_annotations(tmp_path / "w.gpkg")
    write_parts(tmp_path / "d.gpkg", [shapely.MultiPolygon(pieces)], "EPSG:4326", label=["x"])
    write_parts(tmp_path / "b.gpkg", [whole], "EPSG:4326", "Polygon", label=["x"])
    for name in ("d", "b"):
        part = read_annotations(tmp_path / f"{name}.gpkg")["all"]
        [found] = part.pictures[0].instances
        np.testing.assert_allclose(found.box_xyxy, [20, 10, 50, 30], atol=1e-3)
        assert not part.problems


def test_a_raster_that_features_name_is_not_left_out(tmp_path, monkeypatch):
    transform = write_scene(tmp_path / "r.tif")
    shape = on_map(transform, rectangle(10, 8, 30, 20))
    write_features(tmp_path / "t.gpkg", [shape], crs=UTM, label=["x"], image_path=["r.tif"])
    monkeypatch.chdir(tmp_path)
    part = read_annotations("t.gpkg")["all"]
    assert [picture.id for picture in part.pictures] == ["r"]
    assert not part.problems


def test_metres_in_a_geojson_without_crs_are_told(tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    shape = on_map(transform, rectangle(10, 8, 30, 20))
    write_features(tmp_path / "t.geojson", [shape], crs="EPSG:4326", label=["x"])
    said = r"claims EPSG:4326 \(as every GeoJSON without a crs does\), but holds x 500005 to 500015, .*are no degrees; "
    with pytest.raises(DataError, match=said + "the numbers would fit the scene's own EPSG:32631: .*ogr2ogr -a_srs"):
        read_annotations(tmp_path / "t.geojson")
    write_scene(tmp_path / "a.tif", origin=(900_000, 100_000))
    with pytest.raises(DataError, match=said + r"state the CRS that they are in \(ogr2ogr -a_srs EPSG:CODE\)"):
        read_annotations(tmp_path / "t.geojson")


def test_a_file_that_its_server_cut_off_is_told(tmp_path):
    transform = write_scene(tmp_path / "a.tif")
    shape = on_map(transform, rectangle(10, 8, 30, 20))
    rings = [[list(point) for point in shape.exterior.coords]]
    for name, more in (("whole", False), ("part", True)):
        esri = {
            "geometryType": "esriGeometryPolygon",
            "spatialReference": {"wkid": 32631},
            "fields": [{"name": "label", "type": "esriFieldTypeString"}],
            "features": [{"attributes": {"label": "x"}, "geometry": {"rings": rings}}],
            "exceededTransferLimit": more,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(esri, indent=1))
        part = read_annotations(tmp_path / f"{name}.json", "vector")["all"]
        assert [i.box_xyxy.round(6).tolist() for i in part.pictures[0].instances] == [[10, 8, 30, 20]]
        told = [problem.what for problem in part.problems]
        assert len(told) == more
        assert all(
            "holds 1 features, and says by 'exceededTransferLimit' that its server has more" in it for it in told
        )


def test_the_order_of_esri_features_is_that_of_their_classes(tmp_path):
    """GDAL sorts features by OBJECTID where classes are read, and not where outlines are: they were exchanged."""
    transform = write_scene(tmp_path / "a.tif")
    places = [rectangle(10, 8, 30, 20), rectangle(40, 4, 50, 9)]
    features = [
        {
            "attributes": {"OBJECTID": number, "label": label},
            "geometry": {"rings": [[list(point) for point in on_map(transform, place).exterior.coords]]},
        }
        for number, label, place in zip((9, 3), ("oak", "ash"), places, strict=True)
    ]
    kinds = {"OBJECTID": "esriFieldTypeOID", "label": "esriFieldTypeString"}
    esri = {
        "geometryType": "esriGeometryPolygon",
        "spatialReference": {"wkid": 32631},
        "fields": [{"name": name, "type": kind} for name, kind in kinds.items()],
        "features": features,
    }
    (tmp_path / "e.json").write_text(json.dumps(esri))
    [picture] = read_annotations(tmp_path / "e.json", "vector")["all"].pictures
    assert {i.category: i.box_xyxy.round(6).tolist() for i in picture.instances} == {
        "oak": [10, 8, 30, 20],
        "ash": [40, 4, 50, 9],
    }


def test_a_feature_that_reaches_a_sliver_into_a_raster_is_no_object_there(tmp_path):
    left = write_scene(tmp_path / "left.tif")
    write_scene(tmp_path / "right.tif", origin=(500_030, 4_000_000))
    shapes = [on_map(left, rectangle(50, 10, 60.4, 20)), on_map(left, rectangle(70, 10, 75, 20))]
    write_features(tmp_path / "t.gpkg", shapes, crs=UTM, label=["x", "y"])
    part = read_boxes(tmp_path)["all"]
    assert {p.id: [(i.category, i.box_xyxy.round(6).tolist()) for i in p.instances] for p in part.pictures} == {
        "left": [("x", [50, 10, 60, 20])],
        "right": [("y", [10, 10, 15, 20])],
    }
    assert not part.problems


def test_of_several_attributes_that_may_name_the_picture_the_usual_one_does(tmp_path):
    """Not the first in the file: `image` may hold a number, as the tables of boxes have it."""
    shape = on_map(write_scene(tmp_path / "a.tif"), rectangle(10, 8, 30, 20))
    write_features(tmp_path / "t.gpkg", [shape], crs=UTM, image=["7"], label=["x"], image_path=["a.tif"])
    part = read_boxes(tmp_path / "t.gpkg")["all"]
    assert [picture.id for picture in part.pictures] == ["a"]
    assert not part.problems
