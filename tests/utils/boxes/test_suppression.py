"""Suppression and fusion of candidates against literal versions, and their invariances."""

import numpy as np
import pytest

from utils.boxes.geometry import distance_ious, ious, pairwise
from utils.boxes.suppression import fuse_boxes, merge_candidates, nms, soft_nms, vote_boxes


def candidates(seed: int, objects: int = 12, each: int = 25, classes: int = 3) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 300, (objects, 1, 2))
    sides = generator.uniform(10, 80, (objects, 1, 2))
    low = corners + generator.normal(0, 4, (objects, each, 2))
    high = corners + sides + generator.normal(0, 4, (objects, each, 2))
    boxes = np.concatenate([low, np.maximum(high, low + 1)], axis=2).reshape(-1, 4)
    scores = generator.permutation(len(boxes)) / len(boxes) + 0.001  # no ties
    return boxes, scores, generator.integers(0, classes, len(boxes))


def literal_nms(boxes, scores, labels, iou, measure=ious):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(labels[index] != labels[other] or measure(boxes[index], boxes[other]) <= iou for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("distance", [False, True])
def test_nms_keeps_what_the_literal_one_keeps(seed, distance):
    boxes, scores, labels = candidates(seed, objects=14 + 10 * seed)  # more than a block of candidates
    given = nms(boxes, scores, labels, 0.45, distance)
    assert given.tolist() == literal_nms(boxes, scores, labels, 0.45, distance_ious if distance else ious)
    assert nms(boxes, scores, labels, 0.45, distance, most=5).tolist() == given[:5].tolist()


def methods():
    def voted(boxes, scores, labels):
        kept = nms(boxes, scores, labels)
        return vote_boxes(kept, boxes, scores, labels), scores[kept], labels[kept]

    def softened(boxes, scores, labels, method):
        kept, new = soft_nms(boxes, scores, labels, method=method)
        return boxes[kept], new, labels[kept]

    yield "nms", lambda boxes, scores, labels: (boxes[kept := nms(boxes, scores, labels)], scores[kept], labels[kept])
    yield "gaussian", lambda *given: softened(*given, "gaussian")
    yield "linear", lambda *given: softened(*given, "linear")
    yield "vote", voted
    yield "cluster", lambda *given: merge_candidates(*given, method="cluster")
    yield "fuse", lambda *given: fuse_boxes(*given, sources=2)


METHODS = dict(methods())


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_candidates_changes_nothing(name):
    given = candidates(5)
    order = np.random.default_rng(6).permutation(len(given[0]))
    first, second = METHODS[name](*given), METHODS[name](*(part[order] for part in given))
    assert len(first[0]) > 12
    for part, other in zip(first, second, strict=True):
        assert np.allclose(part, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_boxes_scale_with_the_picture(name):
    boxes, scores, labels = candidates(7)
    for scale in (1 / 64, 16):
        small, large = METHODS[name](boxes, scores, labels), METHODS[name](scale * boxes, scores, labels)
        assert np.allclose(scale * small[0], large[0], rtol=1e-12)
        assert np.allclose(small[1], large[1], rtol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_classes_do_not_see_each_other(name):
    boxes, scores, labels = candidates(8)
    together = METHODS[name](boxes, scores, labels)
    for label in range(3):
        alone = METHODS[name](boxes[labels == label], scores[labels == label], labels[labels == label])
        mine = together[2] == label
        assert np.allclose(together[0][mine], alone[0], atol=1e-9)
        assert np.allclose(together[1][mine], alone[1])


@pytest.mark.parametrize("name", METHODS)
def test_nothing_and_one_pixel(name):
    empty = METHODS[name](np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    assert [part.shape for part in empty] == [(0, 4), (0,), (0,)]
    pixels = np.array([[3.0, 3, 4, 4], [3, 3, 4, 4], [4, 3, 5, 4]])
    boxes, scores, _ = METHODS[name](pixels, np.array([0.5, 0.25, 0.75]), np.zeros(3, int))
    assert boxes[0].tolist() == [4, 3, 5, 4]
    assert (scores[1:] <= scores[:-1]).all()


def test_of_equal_scores_the_first_one_stays():
    boxes = np.array([[0.0, 0, 10, 10], [0, 1, 10, 10], [0, 0, 10, 9]])
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        assert nms(boxes[order], np.full(3, 0.5)).tolist() == [0]
        assert soft_nms(boxes[order], np.full(3, 0.5))[0][0] == 0


def test_two_people_of_one_size_side_by_side_stay_two_by_distance():
    boxes = np.array([[0.0, 0, 30, 100], [10, 0, 40, 100]])  # an IoU of one half, centres a third of a width apart
    assert nms(boxes, np.array([0.9, 0.8]), iou=0.495).tolist() == [0]
    assert nms(boxes, np.array([0.9, 0.8]), iou=0.495, distance=True).tolist() == [0, 1]


def test_soft_suppression_is_the_literal_one():
    boxes, scores, labels = candidates(9, objects=5)
    left, marks, kept, given = set(range(len(boxes))), scores.copy(), [], []
    while left:
        best = max(left, key=lambda index: (marks[index], -index))
        left.remove(best)
        if marks[best] < 1e-3:
            continue
        kept.append(best)
        given.append(marks[best])
        for index in left:
            if labels[index] == labels[best]:
                marks[index] *= np.exp(-(ious(boxes[index], boxes[best]) ** 2) / 0.5)
    indices, new = soft_nms(boxes, scores, labels)
    assert indices.tolist() == kept
    assert np.allclose(new, given)


def test_votes_come_nearer_to_the_truth_than_the_surest_box():
    generator = np.random.default_rng(10)
    truth = np.array([50.0, 60, 90, 140])
    boxes = truth + generator.normal(0, 4, (40, 4))
    scores = generator.uniform(0.2, 1, 40)
    kept = nms(boxes, scores, iou=0.3)
    assert len(kept) == 1
    assert np.abs(vote_boxes(kept, boxes, scores) - truth).max() < np.abs(boxes[kept] - truth).max()


def test_fusion_trusts_what_more_sources_found():
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    fused, scores, labels = fuse_boxes(boxes, np.array([0.6, 0.4, 0.8]), np.array([2, 2, 1]), sources=2)
    assert scores.tolist() == [0.5, 0.4]
    assert labels.tolist() == [2, 1]
    assert fused[0].tolist() == [0, 0, 10, 10]


def test_detections_are_sorted_in_the_types_that_came_and_at_most_so_many():
    boxes, scores, labels = candidates(11)
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    for method in ("nms", "soft", "vote", "cluster", "none"):
        found = merge_candidates(boxes, scores, labels, method, most=7)
        assert [part.dtype for part in found] == [np.float32, np.float32, labels.dtype]
        assert [len(part) for part in found] == [7, 7, 7]
        assert (np.diff(found[1]) <= 0).all()
    across = merge_candidates(boxes, scores, labels, across=True)
    assert pairwise(ious, across[0], across[0])[np.triu_indices(len(across[0]), 1)].max() <= 0.5
    assert len(across[0]) < len(merge_candidates(boxes, scores, labels)[0])


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="candidate 1 is not finite"):
        nms(np.array([[0, 0, 1, 1], [0, 0, np.inf, 1]]), np.ones(2))
    with pytest.raises(ValueError, match="unknown method of suppression 'best'"):
        merge_candidates(np.zeros((1, 4)), np.ones(1), np.zeros(1, int), "best")
    with pytest.raises(ValueError, match="a score and a label per box, got 2, 1 and 2"):
        nms(np.zeros((2, 4)), np.ones(1))
