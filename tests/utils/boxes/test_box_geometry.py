"""Geometry of boxes: properties over random boxes, and what happens at the edges."""

import numpy as np
import pytest
import torch

from utils.boxes.geometry import (
    areas,
    clip_boxes,
    covered_shares,
    cxcywh_to_xyxy,
    distance_ious,
    generalised_ious,
    hulls,
    intersections,
    ious,
    keep_visible,
    pairwise,
    sides_to_xyxy,
    smaller_shares,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_sides,
    xyxy_to_xywh,
)

MEASURES = (intersections, ious, generalised_ious, distance_ious, covered_shares, smaller_shares)


def random_boxes(generator: np.random.Generator, number: int, side: int = 40) -> np.ndarray:
    corners = generator.integers(0, side, (number, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1).astype(np.float64)


def painted(box: np.ndarray, side: int = 41) -> np.ndarray:
    left, top, right, bottom = box.astype(int)
    mask = np.zeros((side, side), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_areas_and_overlaps_are_those_of_painted_pixels():
    generator = np.random.default_rng(0)
    boxes, others = random_boxes(generator, 30), random_boxes(generator, 30)
    for box, other in zip(boxes, others, strict=True):
        first, second = painted(box), painted(other)
        shared, union = (first & second).sum(), (first | second).sum()
        assert areas(box) == first.sum()
        assert intersections(box, other) == shared
        assert ious(box, other) == pytest.approx(shared / union)
        assert covered_shares(box, other) == pytest.approx(shared / first.sum())
        assert smaller_shares(box, other) == pytest.approx(shared / min(first.sum(), second.sum()))
        hull = painted(hulls(box, other)).sum()
        assert generalised_ious(box, other) == pytest.approx(shared / union - (hull - union) / hull)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_tensors_and_arrays_give_the_same_pairs(measure):
    generator = np.random.default_rng(1)
    boxes, others = random_boxes(generator, 7), random_boxes(generator, 5)
    given = pairwise(measure, torch.from_numpy(boxes), torch.from_numpy(others))
    wanted = pairwise(measure, boxes, others)
    assert wanted.shape == (7, 5)
    assert np.allclose(given.numpy(), wanted, rtol=0, atol=1e-12)
    assert wanted[3, 2] == measure(boxes[3], others[2])


@pytest.mark.parametrize("measure", MEASURES[1:], ids=lambda measure: measure.__name__)
@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_shares_do_not_change_with_scale_and_place(measure, scale):
    generator = np.random.default_rng(2)
    boxes, others = random_boxes(generator, 20), random_boxes(generator, 20)
    moved = [scale * (part + np.array([3, -8, 3, -8])) for part in (boxes, others)]
    assert np.allclose(measure(*moved), measure(boxes, others), rtol=0, atol=1e-9)


@pytest.mark.parametrize("measure", [ious, generalised_ious, distance_ious, intersections, smaller_shares])
def test_overlaps_do_not_depend_on_the_order_and_are_one_with_oneself(measure):
    boxes = random_boxes(np.random.default_rng(3), 25)
    table = pairwise(measure, boxes, boxes)
    assert np.array_equal(table, table.T)
    if measure is not intersections:
        assert np.allclose(np.diag(table), 1)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_no_boxes_and_boxes_without_area(measure):
    assert pairwise(measure, np.zeros((0, 4)), np.ones((3, 4))).shape == (0, 3)
    assert pairwise(measure, torch.zeros(2, 3, 4), torch.zeros(2, 0, 4)).shape == (2, 3, 0)
    flat = np.array([[5.0, 5, 5, 9], [6, 6, 4, 9], [5, 5, 5, 5]])
    table = pairwise(measure, flat, flat)
    assert np.isfinite(table).all()
    assert (table <= 1).all()
    assert not pairwise(ious, flat, flat).any()


def test_a_one_pixel_box_is_one_square_pixel_and_half_a_pixel_off_a_third():
    pixel = np.array([7.0, 3, 8, 4], np.float32)
    assert areas(pixel) == 1
    assert ious(pixel, pixel) == 1
    assert ious(pixel, pixel + np.array([0.5, 0, 0.5, 0], np.float32)) == pytest.approx(1 / 3)
    assert ious(pixel, pixel + np.array([1, 0, 1, 0], np.float32)) == 0  # half-open: neighbours do not overlap


def test_losses_of_generalised_iou_have_finite_gradients_everywhere():
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5], [9, 9, 3, 3], [2, 0, 4, 2]], requires_grad=True)
    truth = torch.tensor([[0.0, 0, 2, 2]]).expand(4, 4)
    (1 - generalised_ious(boxes, truth)).sum().backward()
    assert torch.isfinite(boxes.grad).all()
    assert boxes.grad[3].abs().sum() > 0  # a box beside its truth is drawn to it


def test_formats_go_there_and_back():
    generator = np.random.default_rng(4)
    boxes, points = random_boxes(generator, 12), generator.uniform(0, 40, (12, 2))
    for given in (boxes, torch.from_numpy(boxes)):
        place = points if given is boxes else torch.from_numpy(points)
        for back, there in ((xywh_to_xyxy, xyxy_to_xywh), (cxcywh_to_xyxy, xyxy_to_cxcywh)):
            assert np.array_equal(back(there(given)), boxes)
        assert np.allclose(sides_to_xyxy(place, xyxy_to_sides(place, given)), boxes, atol=1e-12)
    assert xyxy_to_cxcywh(boxes)[0, 0] == boxes[0, [0, 2]].mean()


def test_clipping_moves_edges_and_not_centres():
    box = np.array([[-10.0, 5, 20, 15]])
    assert clip_boxes(box, (12, 16)).tolist() == [[0, 5, 16, 12]]
    assert clip_boxes(torch.from_numpy(box), (12, 16)).tolist() == [[0, 5, 16, 12]]
    assert box.tolist() == [[-10, 5, 20, 15]]  # not in place


def test_what_is_hardly_visible_becomes_an_ignore_region_and_what_is_outside_goes():
    boxes = np.array([[0, 0, 10, 10], [-5, 0, 5, 10], [-6, 0, 4, 10], [90, 0, 99, 9], [4, 4, 4, 9], [-8, 0, 2, 10]])
    crowd = np.array([False, False, False, False, False, True])
    kept, labels, is_crowd = keep_visible(boxes.astype(np.float32), np.arange(6), crowd, (20, 30), 0.5)
    assert labels.tolist() == [0, 1, 2, 5]
    assert is_crowd.tolist() == [False, False, True, True]  # the second is visible by exactly one half
    assert kept.tolist() == [[0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 4, 10], [0, 0, 2, 10]]
    assert kept.dtype == np.float32
    assert not keep_visible(boxes[:3], np.arange(3), np.zeros(3, bool), (20, 30), 0.0)[2].any()


def test_rows_that_do_not_correspond_or_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="as many labels as boxes, got 2, 1 and 2"):
        keep_visible(np.zeros((2, 4)), np.zeros(1), np.zeros(2, bool), (5, 5), 0.5)
    with pytest.raises(ValueError, match=r"not finite: \[\[0.0, nan, 1.0, 1.0\]\]"):
        keep_visible(np.array([[0, np.nan, 1, 1]]), np.zeros(1), np.zeros(1, bool), (5, 5), 0.5)
