"""What needs no training in detection: the same boxes in every picture, where objects of the other pictures lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.baselines import spread
from utils.boxes.detections import FoundBoxes, TrueBoxes
from utils.boxes.geometry import ious, pairwise
from utils.boxes.suppression import nms, vote_boxes

MOST_BOXES = 100  # of a picture; more are not counted
LOOKED_AT = 1000  # objects of a class from which the boxes are taken


def constant_boxes(true: TrueBoxes, sizes: Sequence[tuple[int, int]], num_classes: int) -> FoundBoxes | None:
    """Predict in every picture the mean boxes of the places where most objects of half of the other pictures lie.

    The pictures are divided by turns; each half gets the boxes of the other one, so that no picture is predicted from
    its own labels. Places are shares of the pictures' sides. A box scores the share of pictures with an object there.

    Parameters
    ----------
    true : TrueBoxes
        Objects of all pictures.
    sizes : sequence of (int, int)
        Height and width of each picture.
    num_classes : int
        K.

    Returns
    -------
    FoundBoxes or None
        At most 100 detections per picture; None for less than two pictures.

    Examples
    --------
    >>> boxes = np.array([[1.0, 1, 3, 4], [2, 2, 6, 8]])
    >>> true = TrueBoxes(np.array([0, 1]), boxes, np.array([0, 0]), np.zeros(2, bool))
    >>> found = constant_boxes(true, [(5, 4), (10, 8)], 1)  # the second picture is twice as large
    >>> found.pictures.tolist(), found.boxes_xyxy.tolist(), found.scores.tolist()
    ([0, 1], [[1.0, 1.0, 3.0, 4.0], [2.0, 2.0, 6.0, 8.0]], [1.0, 1.0])
    """
    if len(sizes) < 2:
        return None
    scales = np.array(sizes, np.float64)[:, [1, 0, 1, 0]]
    shares = true._replace(boxes_xyxy=true.boxes_xyxy / scales[true.pictures])
    parts = []
    for half in (0, 1):
        pictures = np.arange(half, len(sizes), 2)
        others = np.flatnonzero((true.pictures % 2 != half) & ~true.is_crowd)
        boxes, labels, scores = _usual_places(shares.take(others), len(sizes) - len(pictures), num_classes)
        repeated = np.repeat(pictures, len(boxes))
        placed = np.tile(boxes, (len(pictures), 1)) * scales[repeated]
        parts.append(FoundBoxes(repeated, placed, np.tile(labels, len(pictures)), np.tile(scores, len(pictures))))
    joined = FoundBoxes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return joined.take(np.argsort(joined.pictures, kind="stable"))


def _usual_places(objects: TrueBoxes, pictures: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (M, 4), classes (M,) and scores (M,) of the places where most objects lie.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 1, 4, 5], [7, 7, 8, 8]])
    >>> objects = TrueBoxes(np.arange(4), boxes, np.zeros(4, int), np.zeros(4, bool))
    >>> [part.round(2).tolist() for part in _usual_places(objects, 4, 1)]
    [[[0.0, 0.23, 4.0, 4.23], [7.0, 7.0, 8.0, 8.0]], [0, 0], [0.75, 0.25]]
    """
    found = [(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))]
    for label in range(num_classes):
        rows = objects.rows(label)
        boxes = objects.boxes_xyxy[rows[spread(len(rows), LOOKED_AT)]]
        if len(boxes):
            near = (pairwise(ious, boxes, boxes) >= 0.5).sum(axis=1) * len(rows) / len(boxes)
            scores = np.minimum(near / pictures, 1.0)
            kept = nms(boxes, scores, most=MOST_BOXES)
            found.append((vote_boxes(kept, boxes, np.ones(len(boxes))), np.full(len(kept), label), scores[kept]))
    boxes, labels, scores = (np.concatenate(columns) for columns in zip(*found, strict=True))
    surest = np.argsort(-scores, kind="stable")[:MOST_BOXES]
    return boxes[surest], labels[surest], scores[surest]
