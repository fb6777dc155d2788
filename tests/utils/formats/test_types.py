"""Annotation types: skeletons and their mirror images, and instances of every kind."""

from __future__ import annotations

import numpy as np
import pytest

from utils.formats.types import Instance, Skeleton, infer_flip_idx


@pytest.mark.parametrize(
    ("names", "flips"),
    [
        (["nose", "left_eye", "right_eye"], (0, 2, 1)),
        (["LeftEye", "RightEye"], (1, 0)),
        (["eye-l", "eye-r", "tail"], (1, 0, 2)),
        (["L_Eye", "R_Eye", "L_F_Paw", "R_F_Paw"], (1, 0, 3, 2)),
        (["eyeL", "eyeR", "forelegL1", "forelegR1"], (1, 0, 3, 2)),
        (["LEar", "REar"], (1, 0)),
        (["pawFL", "pawFR", "pawHL", "pawHR"], (1, 0, 3, 2)),
        (["paw1LH_top", "paw2LF_top", "paw3RF_top", "paw4RH_top"], (3, 2, 1, 0)),
        (["Ear Left", "Ear Right"], (1, 0)),
        (["eyeL1", "eyeL2", "eyeR3", "eyeR4"], None),  # which is the mirror of which is not said
        (["eyeR2", "eyeL1", "eyeR3"], None),  # the left one has two partners
        (["rear", "lear"], None),  # lower case: a word, not a side
        (["left_paw", "nose"], None),
        (["lower", "upper", "collar"], None),
        ([], None),
    ],
)
def test_left_and_right_are_paired_by_name(names, flips):
    assert infer_flip_idx(names) == flips


def test_inferred_pairs_are_their_own_inverse():
    generator = np.random.default_rng(3)
    words = ["left", "right", "L", "R", "l", "r", "paw", "ear", "1", "2", "_", "H"]
    for _ in range(2000):
        names = list({"".join(generator.choice(words, 4)) for _ in range(6)})
        flips = infer_flip_idx(names)
        if flips is not None:
            Skeleton(tuple(names), flips)  # refuses what is no involution


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"keypoints must have shape \(K, 3\)"):
        Instance("mouse", np.zeros((4, 2)))
    with pytest.raises(ValueError, match="box_xyxy"):
        Instance("mouse", np.zeros((4, 3)), np.zeros(3))
    with pytest.raises(ValueError, match=r"polygons must have shape \(N, 2\), got \[\(3, 2\), \(6,\)\]"):
        Instance("mouse", polygons=(np.zeros((3, 2)), np.zeros(6)))
    with pytest.raises(ValueError, match=r"keypoint_scores must have shape \(K,\), got \(2,\)"):
        Instance("mouse", keypoint_scores=np.zeros(2))


def test_an_object_needs_no_keypoints():
    car = Instance("car", box_xyxy=np.array([1.0, 2, 5, 8]))
    assert car.keypoints.shape == (0, 3)
    assert (car.polygons, car.mask, car.track_id, car.tags) == ((), None, None, {})
