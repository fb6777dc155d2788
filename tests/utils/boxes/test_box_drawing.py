"""Boxes on pictures: inside their outlines, told apart by colour and stroke, the faults on top."""

import numpy as np
import pytest

from utils.boxes.detections import TrueBoxes
from utils.boxes.drawing import STYLES, draw_box, draw_box_comparison, draw_detections


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("width", [1, 3])
def test_a_box_is_drawn_inside_itself_and_nowhere_else(name, width):
    picture = np.full((60, 80, 3), 128, np.uint8)
    draw_box(picture, np.array([10.0, 5, 70, 50]), STYLES[name], width)
    changed = (picture != 128).any(axis=2)
    assert changed[5:50, 10:70][:width].all()  # the line, or the dark between its strokes
    changed[5:50, 10:70] = False
    assert not changed.any()
    assert (picture == STYLES[name].colour).all(axis=2).any()


def test_strokes_differ_without_colour():
    strokes = {}
    for name in ("found", "missed", "false"):
        picture = np.full((200, 200, 3), 128, np.uint8)
        draw_box(picture, np.array([10.0, 10, 190, 190]), STYLES[name], 2)
        line = (picture[10, 10:190] == STYLES[name].colour).all(axis=1).astype(int)
        strokes[name] = int((np.diff(line, prepend=0) == 1).sum()), round(float(line.mean()), 1)
    assert strokes == {"found": (1, 1.0), "missed": (9, 0.6), "false": (23, 0.5)}


@pytest.mark.parametrize(
    ("box", "seen"),
    [
        ([3, 3, 3, 3], True),
        ([3, 3, 4, 4], True),
        ([-9, -9, 200, 200], False),
        ([500, 500, 600, 600], False),
        ([70, 50, 90, 70], True),
    ],
)
def test_boxes_of_one_pixel_and_beyond_the_edge_are_drawn_as_far_as_they_are_there(box, seen):
    picture = np.full((60, 80, 3), 128, np.uint8)
    for style in STYLES.values():
        draw_box(picture, np.array(box, float), style, 2)
    assert (picture != 128).any() == seen


def test_a_comparison_counts_what_it_shows_and_marks_every_kind():
    truth = np.array([[10.0, 10, 60, 60], [100, 10, 150, 60], [200, 10, 290, 90]])
    true = TrueBoxes(np.zeros(3, int), truth, np.zeros(3, int), np.array([False, False, True]))
    boxes = np.array([truth[0] + 2, [30, 80, 60, 95], [210, 20, 240, 50], [150, 70, 190, 95]])
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    sheet = draw_box_comparison(np.full((100, 300, 3), 90, np.uint8), true, boxes, scores, np.zeros(4, int), ["fox"])
    panels = sheet[:-22]
    for style in STYLES.values():
        assert (panels == style.colour).all(axis=2).any()
    fewer = draw_box_comparison(
        np.full((100, 300, 3), 90, np.uint8), true, boxes, scores, np.zeros(4, int), ["fox"], {"fox": 0.85}
    )
    assert not (fewer[:-44] == STYLES["false"].colour).all(axis=2).any()  # of what is false nothing is that sure


def test_the_surest_detection_is_drawn_on_top_in_the_colour_of_its_class():
    boxes = np.array([[10.0, 10, 60, 60], [10, 10, 60, 60]])
    picture = draw_detections(
        np.zeros((80, 80, 3), np.uint8), boxes, np.array([0.9, 0.5]), np.array([1, 0]), ["a", "b"]
    )
    assert picture[40, 10].tolist() == [230, 159, 0]


def test_any_number_of_channels_and_no_detection():
    empty = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), ["fox"])
    for channels in (1, 3, 5):
        image = np.full((50, 70, channels), 9, np.uint8)
        assert draw_detections(image, *empty).shape == (50, 70, 3)
        assert draw_box_comparison(image, TrueBoxes.empty(), *empty).shape[2] == 3
