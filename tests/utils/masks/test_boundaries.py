"""Boundary IoU equals its literal definition, by blocks and as a whole, and unknown pixels make no edges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from utils.masks import boundaries
from utils.masks.boundaries import boundary_counts


def draw(seed: int, size: tuple[int, int] = (61, 47), num_classes: int = 3) -> np.ndarray:
    """Class indices of blobs."""
    noise = np.random.default_rng(seed).random((*size, num_classes)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 3).argmax(axis=2).astype(np.uint8)


def literal_band(mask: np.ndarray, distance: int) -> np.ndarray:
    """A mask without what is left of it after so many erosions, as the paper's authors write it."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return mask & (cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1] == 0)


@pytest.mark.parametrize("distance", [1, 2, 7])
def test_counts_are_those_of_the_definition(distance):
    prediction, truth = draw(0), draw(1)
    expected = []
    for index in range(3):
        ours, theirs = (literal_band(mask == index, distance) for mask in (prediction, truth))
        expected.append([np.count_nonzero(ours & theirs), np.count_nonzero(ours | theirs)])
    assert boundary_counts(prediction, truth, 3, distance).tolist() == expected


@pytest.mark.parametrize("pixels", [1, 47 * 5, 47 * 20])
def test_blocks_of_rows_count_as_the_whole_picture_does(monkeypatch, pixels):
    prediction, truth = draw(2), draw(3)
    truth[20:30, 10:20] = 255
    whole = boundary_counts(prediction, truth, 3, 4)
    monkeypatch.setattr(boundaries, "_BLOCK_PIXELS", pixels)
    assert boundary_counts(prediction, truth, 3, 4).tolist() == whole.tolist()


def test_what_is_predicted_where_the_truth_is_unknown_does_not_matter():
    prediction, truth = draw(4), draw(5)
    truth[:, 25:] = 255
    other = prediction.copy()
    other[:, 25:] = draw(6)[:, 25:]
    assert boundary_counts(prediction, truth, 3, 2).tolist() == boundary_counts(other, truth, 3, 2).tolist()


def test_an_unknown_stripe_makes_no_edge():
    truth = np.ones((20, 20), np.uint8)
    truth[:, 9:11] = 255
    (_, (shared, either)) = boundary_counts(np.ones((20, 20), np.uint8), truth, 2, 1)
    frame = 20 * 20 - 18 * 18 - 4  # the border of the picture, without the four pixels of the stripe
    assert (shared, either) == (frame, frame)
