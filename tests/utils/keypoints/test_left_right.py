"""Left and right: pairs by name, losses that part them, and labels that are put right by the body's axis."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from utils.errors import DataError
from utils.keypoints.left_right import (
    active_pairs,
    body_axis,
    canonicalise_left_right,
    left_right_pairs,
    pair_margin,
    pair_overlap,
    side_consistency,
)
from utils.keypoints.peaks import soft_argmax

PAIRS = torch.tensor([[2, 3], [4, 5]])
AXIS = (0, 1)
# Seen from above, the nose up: nose, tail, left and right ear, left and right paw. y points down.
ANIMAL = torch.tensor([[0.0, -20.0], [0.0, 20.0], [-5.0, -15.0], [5.0, -14.0], [-9.0, 10.0], [7.0, 12.0]])


def turn(points: Tensor, degrees: float, shift: tuple[float, float] = (50.0, 50.0)) -> Tensor:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return points @ torch.tensor([[cosine, sine], [-sine, cosine]]) + torch.tensor(shift)


def label(points: Tensor, visibility: float = 2.0) -> Tensor:
    return torch.cat([points, torch.full((*points.shape[:-1], 1), visibility)], dim=-1)


# --- names -----------------------------------------------------------------------------------------------------------


def test_pairs_come_from_the_mirror_and_left_ones_first_by_name() -> None:
    names = ("nose", "Eye_Right", "Eye_Left", "R_F_Paw", "L_F_Paw", "forelegL1", "forelegR1")
    flip_idx = (0, 2, 1, 4, 3, 6, 5)
    assert left_right_pairs(flip_idx).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert left_right_pairs(flip_idx, names).tolist() == [[2, 1], [4, 3], [5, 6]]
    assert left_right_pairs((0, 1)).shape == (0, 2)


@pytest.mark.parametrize("names", [("Nearknee", "Offknee"), ("left_right", "right_left"), ("a", "b")])
def test_names_without_a_side_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="which is left"):
        left_right_pairs((1, 0), names)


@pytest.mark.parametrize(
    ("names", "axis"),
    [
        (("snout", "leftear", "rightear", "tailbase"), (0, 3)),
        (("left_eye", "right_eye", "nose", "neck", "root_of_tail"), (2, 4)),
        (("snout", "head", "neck", "forelegL1", "tailbase", "tailtip"), (0, 4)),
        (("nose_top", "tailBase_top", "nose_bot", "tailBase_bot"), None),
        (("p00", "p01"), None),
        (("noseL", "noseR", "tail"), None),
    ],
)
def test_axis_is_found_by_name(names: tuple[str, ...], axis: tuple[int, int] | None) -> None:
    assert body_axis(names) == axis


# --- losses ----------------------------------------------------------------------------------------------------------


def test_pairs_are_compared_where_one_animal_shows_both() -> None:
    one = label(turn(ANIMAL, 0))
    images = torch.zeros(5, 2, 6, 3)
    images[:4, 0] = one
    images[1, 1] = one  # two animals
    images[2, 0, 2] = torch.tensor([float("nan"), float("nan"), 0.0])  # an ear is missing
    images[3, 0, 0, 2] = 0  # the nose is missing
    options = {"pairs": PAIRS, "grid": (25, 25), "stride": 4.0}
    expected = [[True, True], [False, False], [False, True], [True, True], [False, False]]
    assert active_pairs(images, **options).tolist() == expected
    expected[3] = [False, False]
    assert active_pairs(images, axis=AXIS, **options).tolist() == expected
    near = active_pairs(images, least_distance_cells=3.0, **options)  # ears are 2.5 cells apart, paws 4
    assert near[0].tolist() == [False, True]


def test_overlap_margin_and_sides_agree_with_one_pair_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 7, 9, generator=generator) * 3
    active = torch.tensor([[True, False], [True, True], [False, True]])
    points = soft_argmax(logits)
    overlap, margin, sides = 0.0, 0.0, 0.0
    for image, pair in active.nonzero().tolist():
        left, right = PAIRS[pair].tolist()
        maps = logits[image].flatten(1).softmax(dim=1)
        overlap += (maps[left] * maps[right]).sum().item()
        margin += max(0.0, 3.0 - (points[image, left] - points[image, right]).norm().item())
        axis = points[image, 0] - points[image, 1]
        arms = points[image, [left, right]] - (points[image, 0] + points[image, 1]) / 2
        sines = (axis[0] * arms[:, 1] - axis[1] * arms[:, 0]) / ((axis @ axis + 1) * (arms.square().sum(1) + 1)).sqrt()
        sides += max(0.0, (sines[0] * sines[1] + 0.1).item())
    assert pair_overlap(logits, PAIRS, active).item() == pytest.approx(overlap, rel=1e-5)
    assert pair_margin(points, PAIRS, active, 3.0).item() == pytest.approx(margin, rel=1e-5)
    assert side_consistency(points, PAIRS, active, AXIS, 0.1).item() == pytest.approx(sides, rel=1e-4)


def test_losses_of_pieces_add_up_and_of_nothing_are_zero() -> None:
    logits = torch.randn(4, 6, 5, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    active = torch.rand(4, 2, generator=torch.Generator().manual_seed(2)) < 0.7

    def losses(part: slice, active: Tensor = active) -> Tensor:
        points = soft_argmax(logits[part])
        return torch.stack(
            [
                pair_overlap(logits[part], PAIRS, active[part]),
                pair_margin(points, PAIRS, active[part], 4.0),
                side_consistency(points, PAIRS, active[part], AXIS, 0.5),
            ]
        )

    torch.testing.assert_close(losses(slice(0, 1)) + losses(slice(1, 4)), losses(slice(0, 4)))
    assert (losses(slice(0, 4)) > 0).all()
    for nothing in (losses(slice(0, 0)), losses(slice(0, 4), active & False)):
        assert nothing.tolist() == [0, 0, 0]
        (gradient,) = torch.autograd.grad(nothing.sum(), logits, retain_graph=True)
        assert not gradient.any()


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e30])
def test_gradients_are_finite_also_where_all_points_lie_together(scale: float) -> None:
    logits = (torch.randn(2, 6, 5, 6, generator=torch.Generator().manual_seed(3)) * scale).requires_grad_()
    active, points = torch.ones(2, 2, dtype=torch.bool), soft_argmax(logits)
    total = pair_overlap(logits, PAIRS, active) + pair_margin(points, PAIRS, active, 4.0)
    total = total + side_consistency(points, PAIRS, active, AXIS, 0.5)
    (gradient,) = torch.autograd.grad(total, logits)
    assert total.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 100


@pytest.mark.parametrize("degrees", [0, 90, 200])
def test_sides_cost_nothing_when_a_pair_straddles_the_axis_however_it_is_turned(degrees: float) -> None:
    points, active = turn(ANIMAL, degrees).unsqueeze(0), torch.tensor([[True, True]])
    assert side_consistency(points, PAIRS, active, AXIS).item() == 0
    folded = points.clone()
    folded[0, 3] = folded[0, 2]  # both ears on the left
    assert side_consistency(folded, PAIRS, active, AXIS).item() > 0.05


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 45, 137, 260])
def test_right_labels_stay_and_wrong_ones_are_exchanged(degrees: float) -> None:
    truth = label(turn(ANIMAL, degrees))
    truth[2, 2] = 1.0
    assert torch.equal(canonicalise_left_right(truth, PAIRS, AXIS), truth)
    wrong = truth[[0, 1, 3, 2, 4, 5]]
    both = torch.stack([truth, wrong, truth[[0, 1, 3, 2, 5, 4]]])
    assert torch.equal(canonicalise_left_right(both, PAIRS, AXIS), truth.expand(3, 6, 3))


def test_a_bent_animal_with_both_of_a_pair_on_one_side_is_judged_by_which_is_further() -> None:
    truth = label(turn(ANIMAL, 30))
    bent = label(turn(ANIMAL + torch.tensor([[0.0, 0], [0, 0], [20, 0], [20, 0], [0, 0], [0, 0]]), 30))
    assert torch.equal(canonicalise_left_right(bent, PAIRS, AXIS), bent)
    assert not torch.equal(bent, truth)


@pytest.mark.parametrize("degrees", [10, 100, 190, 280])
def test_missing_points_stay_missing_and_decide_nothing(degrees: float) -> None:
    wrong = label(turn(ANIMAL, degrees))[[0, 1, 3, 2, 5, 4]]
    nan = float("nan")
    missing = torch.stack([wrong, wrong, wrong])
    missing[0, 2] = missing[1, 0] = missing[2, 1] = torch.tensor([nan, nan, 0.0])
    result = canonicalise_left_right(missing, PAIRS, AXIS)
    torch.testing.assert_close(result[1:], missing[1:], equal_nan=True)  # no axis
    torch.testing.assert_close(result[0, :4], missing[0, :4], equal_nan=True)  # no ear
    assert torch.equal(result[0, 4:], wrong[[5, 4]])
    assert torch.equal(missing[0, 4:], wrong[4:])  # the input is left alone
