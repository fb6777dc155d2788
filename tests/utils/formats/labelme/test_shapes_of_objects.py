"""LabelMe without keypoints: outlines, lines and masks of objects, as LabelMe's own converters take them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.utils.formats.compare import find_differences
from utils.formats.extents import extent_of
from utils.formats.labelme.read import read_labelme
from utils.formats.labelme.write import unsupported, write_labelme
from utils.formats.mask_outlines import draw_outlines, mask_of_instance
from utils.formats.read import read_annotations, read_boxes
from utils.formats.run_lengths import decode_runs
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, encode_mask

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"

SQUARE = [[2, 2], [12, 2], [12, 12], [2, 12]]


def shape(label: str, kind: str, points: list, group: int | None = None, **keys) -> dict:
    return {"label": label, "shape_type": kind, "points": points, "group_id": group, **keys}


def mask_shape(label: str, x: int, y: int, pixels: np.ndarray, **keys) -> dict:
    """As LabelMe writes it: the corners are those of the first and of the last pixel."""
    height, width = pixels.shape
    text = base64.b64encode(cv2.imencode(".png", pixels.astype(np.uint8))[1]).decode()
    return shape(label, "mask", [[x, y], [x + width - 1, y + height - 1]], mask=text, **keys)


@pytest.fixture
def labels(tmp_path, draw_picture):
    """Write a LabelMe file of shapes beside its picture of 40 x 60, and read it as boxes, outlines, lines and masks."""

    def write(*shapes: dict) -> AnnotationSet:
        draw_picture(tmp_path / "set" / "a.png")
        content = {"version": "5.0.0", "shapes": list(shapes), "imagePath": "a.png", "imageData": None}
        (tmp_path / "set" / "a.json").write_text(json.dumps(content))
        return read_annotations(tmp_path / "set")["all"]

    return write


@pytest.mark.parametrize(("kind", "points"), [("line", [[1, 2], [9, 2]]), ("linestrip", [[1, 2], [9, 3], [20, 30]])])
def test_lines_are_read_and_cost_the_picture_nothing(labels, tmp_path, kind, points):
    part = labels(shape("road", kind, points), shape("car", "polygon", SQUARE))
    road, car = part.pictures[0].instances
    assert (road.category, [line.tolist() for line in road.lines], road.polygons) == ("road", [points], ())
    assert (car.category, len(car.polygons)) == ("car", 1)
    assert part.problems == []
    assert "incomplete" not in part.pictures[0].extra
    boxes = read_boxes(tmp_path / "set")["all"]
    assert "incomplete" not in boxes.pictures[0].extra
    assert boxes.pictures[0].instances[0].box_xyxy.tolist() == ([1, 1.5, 9, 2.5] if kind == "line" else [1, 2, 20, 30])


def test_lines_are_no_animals(labels, tmp_path):
    points = [{"label": name, "shape_type": "point", "points": [[x, 5]]} for name, x in (("nose", 3), ("tail", 9))]
    labels(*points, shape("spine", "linestrip", [[3, 5], [9, 5]]))
    part = read_labelme(tmp_path / "set")["all"]
    assert (len(part.pictures[0].instances), list(part.skeletons)) == (1, ["animal"])
    assert [(problem.lost, problem.blocks) for problem in part.problems] == [(False, False)]
    assert part.problems[0].what == "the linestrip 'spine' is neither keypoint, box nor outline; it is left out"


def test_a_mask_shape_covers_its_last_pixel(labels, tmp_path):
    pixels = np.array([[1, 0, 1], [1, 1, 1]], bool)
    part = labels(mask_shape("car", 1, 2, pixels))
    [car] = part.pictures[0].instances
    expected = np.zeros((40, 60), bool)
    expected[2:4, 1:4] = pixels
    assert np.array_equal(decode_runs(car.mask, (40, 60)), expected)
    assert extent_of(car).tolist() == [1, 2, 4, 4]
    assert read_boxes(tmp_path / "set")["all"].pictures[0].instances[0].box_xyxy.tolist() == [1, 2, 4, 4]


def test_shapes_of_one_label_and_group_are_parts_of_one_object(labels, tmp_path):
    box = shape("car", "rectangle", [[30, 20], [10, 10]], group=3)
    part = labels(box, shape("car", "polygon", SQUARE, group=3), shape("bus", "rectangle", [[1, 1], [5, 5]], group=3))
    car, bus = part.pictures[0].instances
    assert mask_of_instance(car, (40, 60)).sum() == 20 * 10 + 10 * 10 - 2 * 2
    assert extent_of(car).tolist() == [2, 2, 30, 20]
    assert (bus.box_xyxy.tolist(), bus.polygons) == ([1, 1, 5, 5], ())


def test_the_rectangle_of_an_animal_stays_its_box(labels, tmp_path):
    nose = {"label": "nose", "shape_type": "point", "points": [[3, 5]], "group_id": 3}
    box, outline = shape("cat", "rectangle", [[1, 1], [30, 20]], group=3), shape("cat", "polygon", SQUARE, group=3)
    for part in (labels(nose, box, outline), read_labelme(tmp_path / "set")["all"]):
        [cat] = part.pictures[0].instances
        assert (cat.box_xyxy.tolist(), len(cat.polygons)) == ([1, 1, 30, 20], 1)


def test_an_outline_with_the_name_of_a_point_is_an_object_where_no_keypoints_are_asked_for(labels, tmp_path):
    point = {"label": "coral", "shape_type": "point", "points": [[3, 5]], "group_id": 1}
    part = labels(shape("coral", "polygon", SQUARE), point)
    assert [len(i.polygons) for i in part.pictures[0].instances] == [1, 0]
    assert part.pictures[0].instances[0].category == "coral"
    assert [len(i.polygons) for i in read_labelme(tmp_path / "set")["all"].pictures[0].instances] == [0]


def test_objects_stand_in_the_order_of_the_file(labels):
    part = labels(shape("under", "polygon", SQUARE), shape("over", "polygon", SQUARE, group=1))
    assert [i.category for i in part.pictures[0].instances] == ["under", "over"]


def test_an_oriented_rectangle_is_an_outline(labels):
    part = labels(shape("car", "oriented_rectangle", SQUARE))
    assert part.pictures[0].instances[0].polygons[0].tolist() == SQUARE


def test_holes_become_masks_and_masks_stay_masks(tmp_path, draw_picture):
    square, hole = np.array(SQUARE, float), np.array(SQUARE, float) * 0.5 + 3
    drop = np.zeros((40, 60), bool)
    drop[20:30, 40:50] = np.eye(10, dtype=bool)
    line = np.array([[1.0, 2], [9, 30], [20, 31]])
    objects = (
        Instance("ring", polygons=(square,), holes=(hole,), lines=(line,), group=5, z_order=2),
        Instance("drop", box_xyxy=np.array([39.0, 19, 51, 31]), polygons=(square,), mask=encode_mask(drop), area=9.0),
        Instance("nothing", box_xyxy=np.array([1.0, 1, 5, 5]), mask={"size": [40, 60], "counts": [2400]}),
    )
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), objects)
    part = AnnotationSet([picture], {name: Skeleton(()) for name in ("ring", "drop", "nothing")})
    assert unsupported(part) == [
        "outlines with holes (written as masks): 1 of 3 instances",
        "z_order (written as the order of the objects): 1 of 3 instances",
    ]
    write_labelme({"all": part}, tmp_path / "new")
    read = read_labelme(tmp_path / "new", need_keypoints=False)["all"]
    assert read.problems == []
    drawn, nothing, ring = read.pictures[0].instances
    covered = draw_outlines([square], [hole], (40, 60))
    assert (ring.polygons, ring.holes, ring.group, ring.z_order) == ((), (), 5, 0)
    assert np.array_equal(decode_runs(ring.mask), covered)
    assert covered.sum() == 100 - 25
    assert [points.tolist() for points in ring.lines] == [line.tolist()]
    rest = [{"all": AnnotationSet([picture_of(pair)], {})} for pair in (objects[1:], (drawn, nothing))]
    assert find_differences(*rest, ignore=["group"]) == []
    content = json.loads((tmp_path / "new" / "all" / "a.json").read_text())
    kinds = [entry["shape_type"] for entry in content["shapes"]]
    assert kinds == ["polygon", "mask", "rectangle", "mask", "linestrip"]


def picture_of(instances: tuple[Instance, ...]) -> AnnotatedPicture:
    return AnnotatedPicture("a", Path("a.png"), (40, 60), instances)


def test_facts_about_a_mask_are_forgotten_when_it_is_drawn_anew(tmp_path, draw_picture):
    mask = np.zeros((40, 60), bool)
    mask[5:9, 5:9] = True
    car = Instance("car", box_xyxy=np.array([4.0, 4, 10, 10]), mask=encode_mask(mask), area=20.0, is_crowd=True)
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), (car,))
    path = write_labelme({"all": AnnotationSet([picture], {"car": Skeleton(())})}, tmp_path / "new")[1]
    content = json.loads(path.read_text())
    content["shapes"][0] |= mask_shape("car", 5, 5, np.ones((4, 5), bool))
    path.write_text(json.dumps(content))
    [edited] = read_labelme(tmp_path / "new", need_keypoints=False)["all"].pictures[0].instances
    assert (edited.box_xyxy, edited.area, edited.is_crowd) == (None, None, True)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")
@pytest.mark.real_data
def test_every_shape_of_the_examples_of_labelme_is_read():
    part = read_annotations(REAL / "labelme_examples")["all"]
    [problem] = part.problems  # a point beside several outlines, of which none has a group
    assert (problem.where.rpartition(" ")[2], problem.lost, problem.blocks) == ("6", False, False)
    assert not any(picture.extra.get("incomplete") for picture in part.pictures)
    [primitives] = (picture for picture in part.pictures if picture.id.endswith("primitives"))
    tests = {"line": lambda i: i.lines, "mask": lambda i: i.mask, "polygon": lambda i: i.polygons}
    kinds = [next((kind for kind, test in tests.items() if test(i)), "box") for i in primitives.instances]
    assert kinds == ["box", "polygon", "box", "polygon", "line", "line", "mask"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"group": [1]}, "expected a whole number, got [1]"),
        ({"extra": "more"}, "expected a mapping, got more"),
        ({"is_crowd": "often"}, "expected 0 or 1 as is_crowd, got 'often'"),
        ({"track": {}}, "expected a whole number, got {}"),
        ({"area": None, "box_xyxy": [1, 2, None, 4], "outline": [2, 2, 12, 12, 100]}, "expected finite numbers"),
    ],
)
def test_facts_of_another_kind_are_a_problem_and_not_kept(labels, tmp_path, facts, reason):
    part = labels({**shape("car", "polygon", SQUARE), "dinolith": facts})
    [problem] = part.problems
    assert reason in problem.what
    write_labelme({"all": part}, tmp_path / "new")  # what is kept can be written
    assert part.num_instances == 1


@pytest.mark.parametrize("group", [None, 4])
def test_a_point_does_not_join_outlines_of_other_names(labels, group):
    moved = [[x + 20, y] for x, y in SQUARE]
    part = labels(
        shape("car", "polygon", SQUARE, group),
        shape("wheel", "polygon", moved, group),
        shape("nut", "point", [[5, 5]], group),
    )
    [picture] = part.pictures
    assert [(one.category, len(one.polygons)) for one in picture.instances] == [("car", 1), ("wheel", 1)]
    told = [str(problem) for problem in part.problems]
    assert any("points beside several outlines" in text for text in told) == (group is None)
    assert not any(problem.lost for problem in part.problems)
