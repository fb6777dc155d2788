"""Tables of boxes: columns by the header, empty pictures, map coordinates, predictions and tables without a header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from utils.errors import DataError
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.formats.tables.read import read_tables
from utils.raster.files import write_raster

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "det_trees"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data set in {REAL}")
HEADER = "image_path,xmin,ymin,xmax,ymax,label\n"


@pytest.fixture
def read(tmp_path, draw_picture):
    """Read a table beside those of the pictures a.png and b.png, 40 x 60, that it names."""

    def make(text: str, name: str = "boxes.csv"):
        for picture in ("a.png", "b.png"):
            if picture in text:
                draw_picture(tmp_path / picture)
        (tmp_path / name).write_text(text)
        return read_annotations(tmp_path / name)["all"]

    return make


def boxes_of(part) -> dict[str, list]:
    return {p.id: [(i.category, i.box_xyxy.tolist()) for i in p.instances] for p in part.pictures}


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "a.png,3,10,30,20,Tree\n",
        "image_path,xmin,xmax,ymin,ymax,label\na.png,3,30,10,20,Tree\n",
        "label,ymax,xmax,ymin,xmin,extra,image_path\nTree,20,30,10,3,x,a.png\n",
        "\ufefffilename,width,height,class,xmin,ymin,xmax,ymax\r\na.png,60,40,Tree,3,10,30,20\r\n",
        "IMAGE , X1 ,Y1,X2,Y2,Class_Name\na.png, 3,10 ,30,20, Tree \n",
        "left,top,right,bottom,name,file_name\n3,10,30,20,Tree,./a.png\n",
    ],
)
def test_the_header_tells_the_order(text, read):
    part = read(text)
    assert boxes_of(part) == {"a": [("Tree", [3, 10, 30, 20])]}
    assert not part.problems


def test_a_row_of_zeros_or_nothing_says_that_there_is_no_object(read):
    part = read(HEADER + "a.png,0,0,0,0,Tree\nb.png,,,,,\n")
    assert boxes_of(part) == {"a": [], "b": []}
    assert not part.problems
    both = read(HEADER + "a.png,0,0,0,0,Tree\na.png,1,2,3,4,Tree\n")
    assert boxes_of(both) == {"a": [("Tree", [1, 2, 3, 4])]}
    assert both.problems[0].where.endswith("boxes.csv:2")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,3,10,30,Tree", "expected 6 cells as the header has, got 5"),
        ("a.png,3,10,30,20,Tree,", "expected 6 cells as the header has, got 7"),
        ("a.png,x,10,30,20,Tree", "expected finite numbers as xmin, ymin, xmax, ymax, got 'x', '10', '30', '20'"),
        ("a.png,nan,10,30,20,Tree", "expected finite numbers"),
        ("a.png,1_0,10,30,20,Tree", "expected finite numbers as xmin, ymin, xmax, ymax, got '1_0'"),
        ("a.png,inf,10,30,20,Tree", "expected finite numbers"),
        ("a.png,,10,30,20,Tree", "expected finite numbers"),
        ("a.png,3,10,30,20,", "expected a name, got ''"),
        ("a.png,30,10,30,20,Tree", "expected a box with a width and a height, got 0 x 10"),
        ("a.png,30,10,3,20,Tree", "expected a box with a width and a height, got -27 x 10"),
        ("a.png,70,10,90,20,Tree", "lies outside of the picture of 60 x 40 pixels"),
    ],
)
def test_a_bad_row_is_one_problem_with_file_and_line(row, reason, read):
    part = read(f'{HEADER}a.png,3,10,30,20,"a\nlabel"\n{row}\n')
    assert len(part.pictures[0].instances) == 1
    [problem] = part.problems
    assert problem.where.endswith("boxes.csv:4")  # the row before it takes two lines
    assert reason in problem.what
    assert part.pictures[0].extra["incomplete"]


def test_names_may_hold_commas_quotes_and_line_ends(tmp_path, draw_picture):
    draw_picture(tmp_path / 'a, "b"\nc.png')
    (tmp_path / "boxes.csv").write_text(HEADER + '"a, ""b""\nc.png",3,10,30,20,"oak, red"\n')
    [picture] = read_tables(tmp_path / "boxes.csv")["all"].pictures
    assert picture.path.name == 'a, "b"\nc.png'
    assert picture.instances[0].category == "oak, red"


def test_pictures_that_are_not_there_are_one_problem_each(read):
    part = read(HEADER + "c.png,1,2,3,4,x\nc.png,1,2,3,4,x\na.png,1,2,3,4,x\n,1,2,3,4,x\n")
    assert [(Path(p.where).name, p.what) for p in part.problems] == [
        ("boxes.csv:2", "no such picture: c.png"),
        ("boxes.csv:5", "no picture is named"),
    ]


def test_a_picture_in_two_tables_is_read_from_the_first(read, tmp_path):
    read(HEADER + "a.png,1,2,3,4,x\nb.png,1,2,3,4,x\n", "one.csv")
    (tmp_path / "two.csv").write_text(HEADER + "a.png,5,6,7,8,x\n")
    part = read_annotations(tmp_path, "csv")["all"]
    assert boxes_of(part) == {"a": [("x", [1, 2, 3, 4])], "b": [("x", [1, 2, 3, 4])]}
    [problem] = part.problems
    assert problem.where.endswith("two.csv:2")
    assert "has rows in" in problem.what


def test_shares_of_the_picture_are_refused(read):
    with pytest.raises(DataError, match="all corners lie between 0 and 1, as shares of the picture do"):
        read(HEADER + "a.png,0.1,0.2,0.5,1.0,x\n")
    assert boxes_of(read(HEADER + "a.png,0,0,1,1,x\n")) == {"a": [("x", [0, 0, 1, 1])]}  # one pixel


@pytest.mark.parametrize("name", ["score", "scores", "Confidence"])
def test_predictions_are_no_labels(name, read, tmp_path):
    text = f"image_path,xmin,ymin,xmax,ymax,label,{name}\na.png,1,2,3,4,x,0.5\n"
    with pytest.raises(DataError, match=f"a table of predictions: it has a column '{name}'; labels have none"):
        read(text, "predicted.csv")
    with pytest.raises(DataError, match="a table of predictions"):
        read_tables(tmp_path / "predicted.csv")
    part = read(HEADER + "a.png,1,2,3,4,x\n")
    assert boxes_of(read_annotations(tmp_path)["all"]) == boxes_of(part)
    [problem] = read_annotations(tmp_path)["all"].problems
    assert "not read: a table of predictions" in problem.what


def test_a_table_without_a_header_is_refused_with_the_reason(read):
    with pytest.raises(DataError, match="a table without a header, as its first line holds a box; add one"):
        read("a.png,1,2,3,4,cow\nb.png,,,,,\n")
    with pytest.raises(DataError, match="nor one of boxes, whose header names image_path, xmin"):
        read("image,xmin,ymin,label\n")
    with pytest.raises(DataError, match="the header names 'xmin' twice"):
        read("image_path,xmin,xmin,ymin,xmax,ymax,label\n")


def test_a_stated_size_must_be_the_picture_s(read):
    part = read("filename,width,height,class,xmin,ymin,xmax,ymax\na.png,50,40,Tree,3,10,30,20\n")
    assert part.problems[0].what == "height x width is 40 x 50, the picture is 40 x 60"


@pytest.mark.parametrize("angle", [0, 30])
def test_map_coordinates_become_boxes_around_them(angle, tmp_path):
    transform = Affine.translation(500_000, 4_000_000) @ Affine.rotation(angle) @ Affine.scale(0.5, -0.5)
    write_raster(tmp_path / "a.tif", np.zeros((40, 60, 3), np.uint8), crs="EPSG:32631", transform=transform)
    pixels = np.array([[10, 8], [30, 8], [30, 20], [10, 20]], float)
    corners = np.array([transform @ tuple(corner) for corner in pixels])
    low, high = corners.min(axis=0), corners.max(axis=0)
    (tmp_path / "boxes.csv").write_text(HEADER + f"a.tif,{low[0]},{low[1]},{high[0]},{high[1]},Tree\n")
    [tree] = read_tables(tmp_path)["all"].pictures[0].instances
    around = np.array([~transform @ (x, y) for x in (low[0], high[0]) for y in (low[1], high[1])])
    np.testing.assert_allclose(tree.box_xyxy, [*around.min(axis=0), *around.max(axis=0)], atol=1e-6)
    if not angle:
        np.testing.assert_allclose(tree.box_xyxy, [10, 8, 30, 20], atol=1e-6)


def test_pixels_of_a_placed_raster_stay_pixels_and_a_doubt_is_told(tmp_path):
    far, near = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), Affine(1, 0, 0, 0, -1, 40)
    for transform, problems in ((far, 0), (near, 1)):
        write_raster(tmp_path / "a.tif", np.zeros((40, 60, 3), np.uint8), crs="EPSG:32631", transform=transform)
        (tmp_path / "boxes.csv").write_text(HEADER + "a.tif,10,8,30,20,Tree\n")
        part = read_tables(tmp_path / "boxes.csv")["all"]
        assert boxes_of(part) == {"a": [("Tree", [10, 8, 30, 20])]}
        assert ["may be pixels or map coordinates" in problem.what for problem in part.problems] == [True] * problems


def test_a_box_over_the_antimeridian_is_not_its_complement(tmp_path):
    transform = Affine(0.001, 0, 179.97, 0, -0.001, 10)
    write_raster(tmp_path / "a.tif", np.zeros((40, 60, 3), np.uint8), crs="EPSG:4326", transform=transform)
    (tmp_path / "boxes.csv").write_text(HEADER + "a.tif,179.99,9.97,180.02,9.99,x\n")
    [found] = read_tables(tmp_path / "boxes.csv")["all"].pictures[0].instances
    np.testing.assert_allclose(found.box_xyxy, [20, 10, 50, 30], atol=1e-6)
    (tmp_path / "boxes.csv").write_text(HEADER + "a.tif,179.99,9.97,-179.98,9.99,x\n")
    with pytest.raises(
        DataError, match=r"boxes\.csv:2: a box of more than 180 degrees of longitude; if it crosses the"
    ):
        read_tables(tmp_path / "boxes.csv")


def test_splits_are_named_by_the_files(read, tmp_path):
    read(HEADER + "a.png,1,2,3,4,x\nb.png,1,2,3,4,x\n")
    (tmp_path / "boxes.csv").unlink()
    (tmp_path / "train.csv").write_text(HEADER + "a.png,1,2,3,4,x\n")
    (tmp_path / "val.csv").write_text(HEADER + "b.png,1,2,3,4,y\n")
    sets = read_annotations(tmp_path)
    assert {split: boxes_of(part) for split, part in sets.items()} == {
        "train": {"a": [("x", [1, 2, 3, 4])]},
        "val": {"b": [("y", [1, 2, 3, 4])]},
    }
    assert list(sets["train"].skeletons) == list(sets["val"].skeletons) == ["x", "y"]


def test_boxes_are_refused_where_keypoints_are_needed(read, tmp_path):
    read(HEADER + "a.png,1,2,3,4,x\n")
    with pytest.raises(DataError, match="labels of format csv are boxes without keypoints"):
        read_poses(tmp_path)


@needs_real_data
@pytest.mark.real_data
def test_real_trees():
    truth = read_annotations(REAL / "2018_SJER_3_252000_4107000_image_477_truth.csv")["all"]
    assert truth.pictures[0].instances[0].box_xyxy.tolist() == [1, 103, 82, 235]  # the header is xmin,xmax,ymin,ymax
    assert (len(truth.pictures[0].instances), list(truth.skeletons)) == (7, ["0"])
    assert truth.problems[0].what.startswith("pictures without a row, left out: 5, such as 2019_BLAN_3")
    assert len(truth.problems) == 1
    sets = read_boxes(REAL, "csv")["all"]
    counts = {Path(p.path).name: len(p.instances) for p in sets.pictures}
    assert counts == {
        "2018_SJER_3_252000_4107000_image_477.tif": 7,
        "OSBS_029.tif": 61,
        "OSBS_029.png": 61,
        "2019_YELL_2_541000_4977000_image_crop.png": 79,
        "SOAP_061.png": 37,
    }
    told = {Path(problem.where).name: problem.what for problem in sets.problems}
    assert "a table of predictions" in told["2018_SJER_3_252000_4107000_image_477.csv"]
    assert "a table of predictions" in told["2019_BLAN_3_751000_4330000_image_crop_bbox.csv"]
    with pytest.raises(DataError, match="a table of predictions"):
        read_annotations(REAL / "2018_SJER_3_252000_4107000_image_477.csv")
