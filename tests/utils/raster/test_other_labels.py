"""Label files in formats that are not read: named as what they are, with the command that converts them."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely

from tasks.example import example_task
from utils.errors import DataError
from utils.raster.label_layout import find_layout
from utils.raster.label_pairs import pair_labels
from utils.raster.other_labels import describe_other_labels
from utils.raster.vector_files import read_layer_info, write_features

SQUARE = "POLYGON ((0 0, 0 9, 9 9, 9 0, 0 0))"
COCO = {"info": {}, "images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}
CASES = [
    ("l.csv", f'WKT,kind\n"{SQUARE}",field\n', "a table", "l.csv -oo GEOM_POSSIBLE_NAMES=WKT -a_srs EPSG:CODE"),
    ("l.csv", "kind;lat;lon\nfield;3;4\n", "a table", "-oo X_POSSIBLE_NAMES=lon -oo Y_POSSIBLE_NAMES=lat"),
    ("l.csv", "Easting,Northing\n1,2\n", "a table", "-oo X_POSSIBLE_NAMES=Easting -oo Y_POSSIBLE_NAMES=Northing"),
    ("l.xlsx", "PK", "a table", "-oo GEOM_POSSIBLE_NAMES=COLUMN_WITH_WKT"),
    ("l.tab", "!table", "a MapInfo table", "ogr2ogr -f GPKG l.gpkg"),
    ("l.mif", "Version 300", "a MapInfo file", "ogr2ogr -f GPKG l.gpkg"),
    ("l.dxf", "  0\nSECTION\n", "a drawing (DXF)", "ogr2ogr -f GPKG l.gpkg"),
    ("l.kmz", "PK", "a packed KML", "ogr2ogr -f GPKG l.gpkg"),
    ("l.gpx", "<gpx/>", "tracks", "ogr2ogr -f GPKG l.gpkg"),
    ("l.topojson", "{}", "TopoJSON", "ogr2ogr -f GPKG l.gpkg"),
    ("l.parquet", "PAR1", "GeoParquet", "ogr2ogr -f GPKG l.gpkg"),
    ("l.geojson.gz", "\x1f", "an archive", "unpack it and name the file in it, or convert it: ogr2ogr"),
    ("my l.dxf", "0", "a drawing (DXF)", "ogr2ogr -f GPKG 'my l'.gpkg"),
    (
        "l.json",
        json.dumps(COCO),
        "COCO annotations",
        "name the whole set in paths.label_path",
    ),
    (
        "l.json",
        '{"shapes": [], "imagePath": "a.png"}',
        "a LabelMe file",
        "name the whole set in paths.label_path",
    ),
]


@pytest.mark.parametrize(("name", "content", "what", "command"), CASES)
@pytest.mark.parametrize("way", ["file", "pattern", "new config"])
def test_a_file_in_another_format_is_named_with_the_command_that_converts_it(
    tmp_path, name, content, what, command, way
):
    path = tmp_path / name
    path.write_text(content)
    pictures = [Path("l.tif"), Path("my l.tif")]
    read = {
        "file": lambda: pair_labels(pictures, path),
        "pattern": lambda: pair_labels(pictures, tmp_path, "{stem}" + name.removeprefix("my ")[1:]),
        "new config": lambda: find_layout(path),
    }
    with pytest.raises(DataError) as caught:
        read[way]()
    text = str(caught.value)
    assert text.startswith(f"{path}: {what}")
    assert "not read" in text
    assert command in text
    assert "damaged" not in text


def test_archives_are_known_by_their_content_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "labels", "w") as archive:
        archive.writestr("l.shp", "")
    assert describe_other_labels(tmp_path / "labels").startswith("an archive, which is not read; unpack it")


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp", "fgb", "kml", "gml", "sqlite"])
def test_formats_that_are_read_are_not_refused(tmp_path, suffix):
    path = tmp_path / f"l.{suffix}"
    if suffix == "kml":
        path.write_text(
            '<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Placemark><Point><coordinates>1,2</coordinates>'
            "</Point></Placemark></Document></kml>"
        )
    elif suffix == "shp":
        import pyogrio

        shapes = shapely.to_wkb(np.array([shapely.Point(1, 2)]))
        pyogrio.raw.write(path, shapes, [np.array([1])], ["kind"], geometry_type="Point", crs="EPSG:4326")
    else:
        write_features(path, [shapely.Point(1, 2)], crs="EPSG:4326", kind=["a"])
    assert pair_labels([Path("a.tif")], path)[0] == {Path("a.tif"): path}
    assert read_layer_info(path, None).features == 1


def test_labels_of_a_folder_that_are_not_read_are_told(tmp_path, caplog):
    """One picture of two has its label in another format: it is left out, and the log says why."""
    task, _ = example_task(tmp_path)
    (tmp_path / "labels" / "scene_1.tif").unlink()
    (tmp_path / "labels" / "scene_1.dxf").write_text("0")
    caplog.set_level(logging.WARNING)
    assert sorted(task.source.scenes.labelled()) == ["scene_0"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert "scene_1.dxf: a drawing (DXF), which is not read; convert it: ogr2ogr -f GPKG scene_1.gpkg" in told
