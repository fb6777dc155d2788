"""Outlines, lines, masks and boxes on the pixels of a picture, each against a class map made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from utils.errors import DataError
from utils.formats.drawn_labels import DrawnLabels, decode_mask
from utils.formats.outline_rules import keep_areas
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, encode_mask
from utils.raster.example import raster_file
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

CLASSES = {"a": 0, "b": 1, "field": 2, "unsure": 255}
LETTERS = {0: "a", 1: "b", 2: "#", 255: "."}


def square(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


A, B = (Instance("a", polygons=(square(1, 1, 6, 6),)), Instance("b", polygons=(square(4, 4, 8, 8),)))
LINE = Instance("a", lines=(np.array([[1.5, 2.5], [5.5, 2.5]]),))
BOX = Instance("b", box_xyxy=np.array([4.0, 4, 8, 8]))


def draw(*instances: Instance, size=(8, 8), format="coco", boxes="auto", scene=None, **options) -> list[str]:
    """Rows of the class map of a picture with some objects."""
    path = raster_file("a.png", np.zeros(size, np.uint8))
    sets = {"all": AnnotationSet([AnnotatedPicture("a", Path(path), size, instances)], {})}
    kept = keep_areas(sets, format, boxes)["all"].pictures
    labels = DrawnLabels("labels", kept, CLASSES, 3, ["a", "b", "field"], **options)
    opened = RasterScene(path, **(scene or {}))
    drawn = labels.read(opened, Window(0, 0, opened.height, opened.width))
    return ["".join(LETTERS[value] for value in row) for row in drawn.tolist()]


LATER = ["........", *[".aaaaa.."] * 3, *[".aaabbbb"] * 2, *["....bbbb"] * 2]
FIRST = ["........", *[".aaaaa.."] * 3, *[".aaaaabb"] * 2, *["....bbbb"] * 2]


@pytest.mark.parametrize(
    ("objects", "overlap", "expected"),
    [
        ((A, B), "order", LATER),
        ((B, A), "order", FIRST),
        ((replace(A, z_order=1), B), "order", FIRST),
        ((replace(A, z_order=-1), replace(B, z_order=-2)), "order", FIRST),
        ((A, B), "area", LATER),  # 16 pixels lie on 25
        ((B, A), "area", LATER),
        ((B, replace(A, z_order=5)), "area", LATER),
    ],
)
def test_the_stated_order_decides_where_objects_overlap(objects, overlap, expected):
    assert draw(*objects, overlap=overlap) == expected


def test_masks_and_outlines_lie_in_one_order():
    covered = np.zeros((8, 8), bool)
    covered[4:, 4:] = True
    mask = Instance("b", mask=encode_mask(covered))
    assert draw(A, mask) == draw(A, mask, overlap="area") == LATER
    assert draw(mask, A) == draw(A, replace(mask, z_order=-1)) == FIRST
    last = Instance("field", polygons=(square(5, 5, 7, 7),))
    assert draw(A, mask, last)[4:] == [".aaabbbb", ".aaab##b", "....b##b", "....bbbb"]


def test_a_hole_shows_what_lies_below():
    ring = replace(A, holes=(square(2, 2, 4, 4),))
    expected = ["........", ".aaaaa..", *[".a..aa.."] * 2, *[".aaaaa.."] * 2, *["........"] * 2]
    assert draw(ring) == expected
    below = Instance("b", polygons=(square(0, 0, 8, 3),))
    assert draw(below, ring)[:4] == ["bbbbbbbb", "baaaaabb", "babbaabb", ".a..aa.."]


def test_parts_of_an_object_unite_and_a_hole_is_cut_from_all_of_them():
    parts = replace(A, polygons=(square(0, 0, 4, 2), square(2, 0, 8, 2)), holes=(square(3, 0, 5, 1),))
    assert draw(parts)[:3] == ["aaa..aaa", "aaaaaaaa", "........"]


def test_an_outline_that_crosses_itself_encloses_both_halves():
    bow_tie = Instance("a", polygons=(np.array([[0.0, 0], [8, 0], [0, 8], [8, 8]]),))
    drawn = draw(bow_tie, size=(8, 8))
    assert drawn[1][2:6] == "aaaa"
    assert drawn[6][2:6] == "aaaa"
    assert drawn[3][0] == drawn[4][0] == drawn[3][7] == drawn[4][7] == "."


def test_a_scribble_is_drawn_at_once_and_by_the_area_it_covers():
    """Made valid, an outline of 3000 random corners would take hours; by the shoelace it would have hardly an area."""
    corners = np.random.default_rng(0).uniform(0, 60, (3000, 2))
    scribble, small = Instance("a", polygons=(corners,)), Instance("b", polygons=(square(20, 20, 40, 40),))
    drawn = draw(small, scribble, size=(60, 60), overlap="area")
    assert all(row[20:40] == "b" * 20 for row in drawn[20:40])
    assert 0.3 < sum(row.count("a") for row in drawn) / (3600 - 400) < 0.7
    cut = draw(replace(scribble, holes=(square(0, 0, 30, 60),)), size=(60, 60))
    assert all(row[:30] == "." * 30 for row in cut)
    assert sum(row.count("a") for row in cut) > 500


@pytest.mark.parametrize(
    ("width", "rows"),
    [
        (1, ["........", "........", ".aaaaa..", "........"]),
        (3, ["........", "aaaaaaa.", "aaaaaaa.", "aaaaaaa."]),
    ],
)
def test_lines_have_a_width_in_pixels_of_the_scene(width, rows):
    assert draw(LINE, line_width=width)[:4] == rows
    assert draw(LINE, line_width=width)[4:] == ["........"] * 4


@pytest.mark.parametrize(
    ("format", "boxes", "lower"),
    [
        ("coco", "auto", [*["#aaaaa.."] * 2, *["####...."] * 2]),
        ("yolo", "ignore", [*["#aaaaa.."] * 2, *["####...."] * 2]),
        ("coco", "class", [*["#aaabbbb"] * 2, *["####bbbb"] * 2]),
        ("labelme", "auto", [*["#aaabbbb"] * 2, *["####bbbb"] * 2]),
        ("cvat", "auto", [*["#aaabbbb"] * 2, *["####bbbb"] * 2]),
        ("labelme", "skip", [*["#aaaaa##"] * 2, *["########"] * 2]),
        ("labelme", "ignore", [*["#aaaaa.."] * 2, *["####...."] * 2]),
    ],
)
def test_a_box_is_an_area_or_unknown_or_nothing(format, boxes, lower):
    """Outlines lie over what a box hides; what is no object is of the class `field`."""
    drawn = draw(A, BOX, format=format, boxes=boxes, unlabelled="field")
    assert drawn[:2] == ["########", "#aaaaa##"]
    assert drawn[4:] == lower


def test_a_box_of_the_class_of_what_is_unlabelled_hides_nothing():
    assert draw(replace(BOX, category="field"), unlabelled="field") == ["########"] * 8


def test_a_box_beside_an_outline_is_a_part_where_boxes_are_drawn():
    both = replace(A, box_xyxy=np.array([7.0, 0, 8, 2]))
    around = replace(A, box_xyxy=np.array([1.0, 1, 6, 6]))
    assert draw(both, format="labelme")[:2] == [".......a", ".aaaaa.a"]
    assert draw(both, format="coco") == draw(around, format="labelme") == draw(A)


def test_background_is_a_class_only_where_it_is_named():
    assert draw(A)[:2] == ["........", ".aaaaa.."]
    assert draw(A, unlabelled="field")[:2] == ["########", "#aaaaa##"]
    assert draw(A, Instance("unsure", polygons=(square(0, 0, 3, 2),)), unlabelled="field")[:2] == [
        "...#####",
        "...aaa##",
    ]


def test_crowds_lie_under_all_others_whatever_their_order():
    crowd = replace(B, is_crowd=True, z_order=9)
    assert draw(A, crowd) == draw(crowd, A) == FIRST


def test_scale_and_image_size_move_the_outlines_with_the_pixels():
    block = Instance("a", polygons=(square(2, 2, 6, 8),))
    covered = np.zeros((8, 8), bool)
    covered[2:8, 2:6] = True
    mask = Instance("a", mask=encode_mask(covered))
    half = ["....", ".aa.", ".aa.", ".aa."]
    wide = ["................", *["....aaaaaaaa...."] * 3]
    for instance in (block, mask):
        assert draw(instance, scene={"scale": 0.5}) == half
        assert draw(instance, scene={"size": (4, 16)}) == wide
    line = Instance("a", lines=(np.array([[3.0, 3], [5, 3]]),))  # at half the scale from 1.5 to 2.5, in the row of 1.5
    assert draw(line, scene={"scale": 0.5}, line_width=1) == ["....", ".aa.", "....", "...."]


def test_any_window_is_the_crop_of_the_whole(monkeypatch):
    generator = np.random.default_rng(3)
    instances = []
    for place in range(40):
        centre, name = generator.uniform(0, 90, 2), "ab"[place % 2]
        corners = centre + generator.normal(0, 15, (6, 2)).round(place % 3)
        covered = np.zeros((70, 90), bool)
        covered[int(centre[1]) % 70 :, int(centre[0]) :] = generator.random() > 0.5
        kinds = [{"polygons": (corners,)}, {"lines": (corners,)}, {"mask": encode_mask(covered)}]
        kinds += [{"polygons": (corners,), "holes": (corners * 0.5 + centre * 0.5,)}]
        instances.append(Instance(name, **kinds[place % 4], z_order=place % 3))
    path = raster_file("a.png", np.zeros((70, 90), np.uint8))
    picture = AnnotatedPicture("a", Path(path), (70, 90), tuple(instances))
    for scene in (RasterScene(path), RasterScene(path, scale=0.7), RasterScene(path, size=(91, 77))):
        whole = DrawnLabels("l", [picture], CLASSES, 3).read(scene, Window(0, 0, scene.height, scene.width))
        assert len(np.unique(whole)) == 3
        monkeypatch.setattr("utils.raster.labels.BLOCK", 16)
        pieces = DrawnLabels("l", [picture], CLASSES, 3)
        for _ in range(30):
            y, x = (int(generator.integers(-5, side - 2)) for side in (scene.height, scene.width))
            window = Window(y, x, *(int(side) for side in generator.integers(1, 40, 2)))
            inside = window.intersection(Window(0, 0, scene.height, scene.width))
            read = pieces.read(scene, window)
            if inside is None:
                assert (read == 255).all()
                continue
            local = inside.shifted(-y, -x)
            np.testing.assert_array_equal(read[local.rows, local.columns], whole[inside.rows, inside.columns])
        monkeypatch.undo()


def test_a_mask_is_decoded_as_it_was_encoded():
    generator = np.random.default_rng(1)
    for shape in ((5, 7), (1, 9), (9, 1), (6, 6)):
        covered = generator.random(shape) > 0.6
        found = decode_mask(encode_mask(covered))
        assert found is not None
        place, pixels = found
        whole = np.zeros(shape, bool)
        whole[place.rows, place.columns] = pixels
        np.testing.assert_array_equal(whole, covered)


def test_labels_of_another_size_are_refused():
    path = raster_file("a.png", np.zeros((8, 6), np.uint8))
    labels = DrawnLabels("labels.json", [AnnotatedPicture("a", Path(path), (8, 8), ())], CLASSES, 3)
    with pytest.raises(DataError, match=r"8 x 6 pixels .* its labels in labels.json are of 8 x 8"):
        labels.read(RasterScene(path), Window(0, 0, 2, 2))


@pytest.mark.parametrize(
    ("instance", "told"),
    [
        (Instance("a", polygons=(square(0, 0, np.nan, 3),)), "object 1: expected finite corners, got NaN or infinity"),
        (Instance("a", polygons=(square(20, 20, 22, 22),)), "object 1: it lies outside of the picture of 8 x 8 pixels"),
        (Instance("a", polygons=(square(0, 0, 900, 2),)), "object 1: it reaches 892 pixels beyond the picture"),
        (Instance("a", polygons=(square(1, 1, 1, 3),)), "object 1: an outline of 4 points without an area"),
        (Instance("a", keypoints=np.ones((1, 3))), "object 1: neither outline nor box: no pixel is known to be of it"),
        (Instance("a", mask={"size": [8, 8], "counts": [64]}), "object 1: a mask that covers nothing"),
        (Instance("a", mask={"size": [8, 8], "counts": [60]}), "object 1: run lengths of 60 pixels in a mask of 8 x 8"),
        (
            Instance("a", box_xyxy=np.array([9.0, 0, 12, 4])),
            "object 1: the box 9, 0, 12, 4 lies outside",
        ),
        (Instance("a", lines=(np.array([[0.0, 0], [np.inf, 3]]),)), "object 1: expected finite corners, got NaN"),
    ],
)
def test_what_has_no_area_is_told_and_its_picture_is_incomplete(instance, told):
    picture = AnnotatedPicture("a", Path("a.png"), (8, 8), (instance, A))
    kept = keep_areas({"all": AnnotationSet([picture], {})}, "coco")["all"]
    assert [i.polygons for i in kept.pictures[0].instances] == [A.polygons]
    assert kept.pictures[0].extra == {"incomplete": True}
    assert str(kept.problems[0]).startswith(f"a.png: {told}")
    assert kept.problems[0].lost
