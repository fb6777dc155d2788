"""Losses of keypoints: least at the truth, sums over pieces of a batch add up, gradients stay finite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from utils.keypoints.heatmaps import (
    BoxTargets,
    CentreTargets,
    box_targets,
    centre_targets,
    instance_mask_targets,
    keypoint_heatmaps,
)
from utils.keypoints.losses import (
    COORDINATE_LOSSES,
    HEATMAP_LOSSES,
    box_sums,
    coordinate_count,
    coordinate_sum,
    heatmap_sums,
    instance_mask_count,
    instance_mask_sum,
    objectness_count,
    objectness_sum,
    offset_sum,
    positive_weights,
)
from utils.keypoints.peaks import best_peaks

GRID, STRIDE, BATCH, KEYPOINTS = (9, 13), 3.5, 4, 3
SIZE = (32, 46)


class Example:
    """One batch: labels, targets, what is known, and random outputs of a head."""

    def __init__(self, seed: int = 0, batch: int = BATCH, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        points = torch.rand(batch, 2, KEYPOINTS, 2, generator=generator) * torch.tensor([46.0, 32.0])
        visibility = torch.randint(0, 3, (batch, 2, KEYPOINTS), generator=generator).float()
        points[visibility == 0] = float("nan")
        self.keypoints = torch.cat([points, visibility.unsqueeze(-1)], dim=-1)
        corners = torch.rand(batch, 2, 2, 2, generator=generator).sort(dim=2).values * torch.tensor([46.0, 32.0])
        self.boxes = corners.flatten(2)
        self.heatmaps = keypoint_heatmaps(self.keypoints, GRID, STRIDE, 1.3)
        self.centres: CentreTargets = centre_targets(
            self.keypoints, self.boxes, GRID, STRIDE, sigma_cells=1.3, radius_cells=1.5
        )
        self.box: BoxTargets = box_targets(self.keypoints, self.boxes, GRID, STRIDE, SIZE, 1.5)
        self.masks = instance_mask_targets(self.boxes, GRID, STRIDE)
        self.valid = torch.rand(batch, 1, *GRID, generator=generator) < 0.8
        self.balance = torch.tensor([5.0, 20.0, 1.0])
        self.output = torch.randn(batch, 6 * KEYPOINTS, *GRID, generator=generator) * scale

    def piece(self, part: slice) -> Example:
        """Some images of the batch."""
        other = object.__new__(Example)
        for name, value in vars(self).items():
            if isinstance(value, CentreTargets | BoxTargets):
                value = type(value)(*(tensor[part] for tensor in value))
            elif name != "balance":
                value = value[part]
            setattr(other, name, value)
        return other


def heatmap_terms(example: Example, output: Tensor, kind: str) -> dict[str, tuple[Tensor, Tensor]]:
    known = {"valid": example.valid, "balance": example.balance}
    sums = heatmap_sums(output[:, :KEYPOINTS], example.heatmaps, kind=kind, **known)
    assert sums.keys() == {"heatmap", "dice"}
    shown = (example.heatmaps * (example.valid)).sum(dtype=torch.float64)
    return {name: (sums[name], shown) for name in sums}


def coordinate_terms(example: Example, output: Tensor, kind: str) -> dict[str, tuple[Tensor, Tensor]]:
    maps = output[:, :KEYPOINTS]
    total = coordinate_sum(maps, example.keypoints, STRIDE, valid=example.valid, kind=kind, temperature=0.7)
    return {kind: (total, coordinate_count(example.keypoints, GRID, STRIDE))}


def other_terms(example: Example, output: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    centres, box, valid = example.centres, example.box, example.valid
    boxes = box_sums(output[:, :4], box.distances, box.mask)
    objects = objectness_sum(output[:, :1], centres.centres, valid)
    return {
        "offsets": (offset_sum(output[:, : 2 * KEYPOINTS], centres.offsets, centres.mask), centres.mask.sum()),
        **{name: (value, box.mask.sum()) for name, value in boxes.items()},
        "objectness": (objects, objectness_count(centres.centres, valid)),
        "masks": (instance_mask_sum(output[:, 1:2], example.masks, valid), instance_mask_count(example.masks, valid)),
    }


TERMS: dict[str, Callable[[Example, Tensor], dict[str, tuple[Tensor, Tensor]]]] = {
    **{f"heatmap {kind}": lambda e, o, kind=kind: heatmap_terms(e, o, kind) for kind in HEATMAP_LOSSES},
    **{f"coordinates {kind}": lambda e, o, kind=kind: coordinate_terms(e, o, kind) for kind in COORDINATE_LOSSES},
    "others": other_terms,
}


# --- what all have in common -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TERMS)
def test_sums_and_counts_of_pieces_add_up(name: str) -> None:
    example = Example()
    whole = TERMS[name](example, example.output)
    pieces = [example.piece(slice(0, 1)), example.piece(slice(1, 4))]
    parts = [TERMS[name](piece, piece.output) for piece in pieces]
    for term, (total, count) in whole.items():
        assert count > 0
        torch.testing.assert_close(sum(part[term][0] for part in parts), total, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sum(part[term][1] for part in parts), count)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_finite_at_extreme_outputs(name: str, scale: float) -> None:
    example = Example(seed=1, scale=scale)
    output = example.output.requires_grad_()
    for total, _ in TERMS[name](example, output).values():
        (gradient,) = torch.autograd.grad(total, output, retain_graph=True)
        assert gradient.isfinite().all()
        assert total.isfinite()
        assert gradient.any() or scale > 1


@pytest.mark.parametrize("name", TERMS)
def test_coordinates_of_missing_points_have_no_influence(name: str) -> None:
    example = Example(seed=2)
    plain = TERMS[name](example, example.output)
    missing = example.keypoints[..., 2] == 0
    assert missing.any()
    other = Example(seed=2)
    other.keypoints[..., :2][missing] = 7.0
    other.heatmaps = keypoint_heatmaps(other.keypoints, GRID, STRIDE, 1.3)
    other.centres = centre_targets(other.keypoints, other.boxes, GRID, STRIDE, sigma_cells=1.3, radius_cells=1.5)
    other.box = box_targets(other.keypoints, other.boxes, GRID, STRIDE, SIZE, 1.5)
    for term, values in TERMS[name](other, other.output).items():
        assert [value.item() for value in values] == [value.item() for value in plain[term]]


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("name", TERMS)
def test_nothing_known_gives_zero_on_the_graph(name: str, batch: int) -> None:
    example = Example(batch=batch)
    example.keypoints[..., 2] = 0
    example.boxes[:] = 0
    example.valid[:] = False
    for targets in (example.centres, example.box):
        for tensor in targets:
            tensor.zero_()
    output = example.output.requires_grad_()
    for total, count in TERMS[name](example, output).values():
        (gradient,) = torch.autograd.grad(total, output, retain_graph=True)
        assert (total.item(), count.item()) == (0, 0)
        assert not gradient.any()


@pytest.mark.parametrize("name", [name for name in TERMS if not name.startswith("coord")])
def test_cells_without_a_picture_have_no_influence(name: str) -> None:
    example = Example(seed=3)
    changed = example.output.clone()
    unknown = ~example.valid
    if name != "others":
        changed[:, :KEYPOINTS][unknown.expand(-1, KEYPOINTS, -1, -1)] += 5
    else:
        changed[:, :2][unknown.expand(-1, 2, -1, -1) & ~example.box.mask] += 5
    plain = TERMS[name](example, example.output)
    assert not torch.equal(changed, example.output)
    for term, (total, _) in TERMS[name](example, changed).items():
        if term not in ("offsets", "box_l1", "box_giou"):
            torch.testing.assert_close(total, plain[term][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TERMS)
def test_half_precision_is_raised(name: str, dtype: torch.dtype) -> None:
    example = Example(seed=4)
    half = example.output.to(dtype)
    raised = TERMS[name](example, half.float())
    for term, (total, _) in TERMS[name](example, half).items():
        assert total.dtype == torch.float32
        torch.testing.assert_close(total, raised[term][0])


# --- heatmaps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*HEATMAP_LOSSES, "dice"])
@pytest.mark.parametrize("balance", [None, 30.0])
def test_the_target_itself_is_the_optimum(kind: str, balance: float | None) -> None:
    """Also with class balance and Dice: otherwise summits would become plateaus."""
    points = torch.tensor([[[[20.3, 14.9, 2.0], [33.1, 8.2, 2.0]]]])
    target = 0.95 * keypoint_heatmaps(points, GRID, STRIDE, 1.5).clamp(min=1e-4)
    weights = None if balance is None else torch.tensor([balance, 2.0])
    options = {"balance": weights, "dice_weight": float(kind == "dice"), "heatmap_weight": float(kind != "dice")}
    logits = torch.logit(target).requires_grad_()

    def value(logits: Tensor) -> Tensor:
        return sum(heatmap_sums(logits, target, kind="bce" if kind == "dice" else kind, **options).values())

    (gradient,) = torch.autograd.grad(value(logits), logits)
    assert gradient.abs().max() < 1e-4
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    assert value(logits + 0.1 * noise) > value(logits)
    assert value(logits - 0.1 * noise) > value(logits)


@pytest.mark.parametrize("kind", HEATMAP_LOSSES)
def test_maps_that_are_fitted_freely_give_the_point_back(kind: str) -> None:
    truth = torch.tensor([[[[21.7, 15.2, 2.0]]]])
    target = keypoint_heatmaps(truth, GRID, STRIDE, 1.5)
    balance = positive_weights(torch.stack([part.double().sum(dim=(0, 2, 3)) for part in (target, 1 - target)]))
    logits = torch.zeros_like(target).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        sum(heatmap_sums(logits, target, kind=kind, balance=balance).values()).backward()
        optimizer.step()
    found = best_peaks(logits).points[0, 0] * STRIDE
    assert (found - truth[0, 0, 0, :2]).abs().max() < 0.5  # pixels, of cells of 3.5


@pytest.mark.parametrize("kind", ["bce", "mse"])
def test_a_cell_of_the_keypoint_weighs_as_many_empty_ones_as_the_balance_says(kind: str) -> None:
    example, balance = Example(seed=11), torch.tensor([4.0, 1.0, 9.0])
    known = {"valid": example.valid}
    cells = (example.valid).double()
    weights = cells * (1 + (balance.view(3, 1, 1) - 1) * example.heatmaps)
    logits = example.output[:, :KEYPOINTS]
    if kind == "bce":
        errors = -(example.heatmaps * logits.sigmoid().log() + (1 - example.heatmaps) * (-logits).sigmoid().log())
    else:
        errors = (logits.sigmoid() - example.heatmaps) ** 2
    sums = heatmap_sums(logits, example.heatmaps, kind=kind, balance=balance, dice_weight=0.0, **known)
    assert sums["heatmap"].item() == pytest.approx((errors * weights).sum().item(), rel=1e-5)


def test_dice_is_per_image_and_keypoint_that_it_shows() -> None:
    example = Example(seed=6)
    options = {"valid": example.valid, "heatmap_weight": 0.0, "dice_weight": 1.0}
    logits = example.output[:, :KEYPOINTS]
    expected, shown = 0.0, 0
    for image in range(BATCH):
        for keypoint in range(KEYPOINTS):
            cells = example.valid[image, 0]
            p, t = logits[image, keypoint][cells].sigmoid(), example.heatmaps[image, keypoint][cells]
            if t.sum() > 0:
                expected += 1 - (2 * (p * t).sum() / (p.square().sum() + t.square().sum())).item()
                shown += 1
    assert 0 < shown < BATCH * KEYPOINTS
    assert heatmap_sums(logits, example.heatmaps, **options)["dice"].item() == pytest.approx(expected, abs=1e-4)


def test_unknown_kinds_are_refused() -> None:
    maps = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="unknown heatmap loss 'dice'; known: bce, mse, focal"):
        heatmap_sums(maps, maps, kind="dice")
    with pytest.raises(ValueError, match="logits and target must agree"):
        heatmap_sums(maps, maps[0])
    with pytest.raises(ValueError, match="unknown coordinate loss 'l3'"):
        coordinate_sum(maps, torch.zeros(1, 1, 1, 3), 4.0, kind="l3")


# --- coordinates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "expected"), [("l1", 7.0), ("l2", 25.0), ("smooth_l1", 6.0)])
def test_distances_are_in_cells_and_only_where_one_instance_has_the_keypoint(kind: str, expected: float) -> None:
    keypoints = torch.zeros(1, 2, 2, 3)
    keypoints[0, 0, 0] = torch.tensor([7.0, 7.0, 1.0])  # cell (2, 2)
    keypoints[0, :, 1] = torch.tensor([14.0, 7.0, 2.0])  # in two instances
    logits = torch.full((1, 2, *GRID), -50.0)
    logits[0, :, 5, 4:6] = 50.0  # mean place (5, 5.5)
    logits[0, :, 6, 4:6] = 50.0  # mean place (5, 6)
    assert coordinate_count(keypoints, GRID, STRIDE).item() == 1
    assert coordinate_sum(logits, keypoints, STRIDE, kind=kind).item() == pytest.approx(expected, abs=1e-4)


def test_cells_without_a_picture_have_no_part_in_the_mean_place() -> None:
    keypoints = torch.tensor([[[[17.5, 14.0, 2.0]]]])  # cell (5, 4)
    valid = torch.zeros(1, 1, *GRID, dtype=torch.bool)
    valid[..., :8, :10] = True
    assert coordinate_sum(torch.zeros(1, 1, *GRID), keypoints, STRIDE, valid=valid).item() == pytest.approx(0, abs=1e-5)
    assert coordinate_sum(torch.zeros(1, 1, *GRID), keypoints, STRIDE).item() > 1
    nothing = coordinate_sum(torch.zeros(1, 1, *GRID), keypoints, STRIDE, valid=valid & False, temperature=0.1)
    assert nothing.isfinite()


# --- offsets, boxes, objects -----------------------------------------------------------------------------------------


def test_perfect_branches_cost_nothing() -> None:
    example = Example(seed=8)
    centres, box = example.centres, example.box
    assert offset_sum(centres.offsets, centres.offsets, centres.mask).item() == 0
    sums = box_sums(box.distances, box.distances, box.mask)
    assert sums["box_l1"].item() == 0
    assert sums["box_giou"].item() == pytest.approx(0, abs=1e-4)
    sure = torch.where(example.masks == 1, 60.0, -60.0)
    assert instance_mask_sum(sure, example.masks).item() == pytest.approx(0, abs=1e-6)
    found = torch.where(centres.centres == 1, 60.0, -60.0)
    assert objectness_sum(found, centres.centres).item() == pytest.approx(0, abs=1e-6)
    assert objectness_sum(-found, centres.centres).item() > 60


def test_overlap_of_sides_is_that_of_boxes() -> None:
    """Against the plain definition on corners, in another frame and scale, which the overlap does not see."""
    generator = torch.Generator().manual_seed(9)
    sides, target = torch.rand(2, 200, 4, generator=generator)
    sides[100:] -= 0.4  # some do not hold the cell, some are empty
    scale, centre = torch.tensor([200.0, 100.0]), torch.tensor([31.0, 7.0])

    def corners(box: Tensor) -> Tensor:
        return torch.cat([centre - box[:, :2] * scale, centre + box[:, 2:] * scale], dim=1)

    def area(box: Tensor) -> Tensor:
        return (box[:, 2:] - box[:, :2]).clamp(min=0).prod(dim=1)

    one, other = corners(sides), corners(target)
    overlap = area(torch.cat([torch.maximum(one, other)[:, :2], torch.minimum(one, other)[:, 2:]], dim=1))
    union = area(one) + area(other) - overlap
    hull = area(torch.cat([torch.minimum(one, other)[:, :2], torch.maximum(one, other)[:, 2:]], dim=1))
    expected = (1 - overlap / union + (hull - union) / hull).sum()
    maps = [box.T.reshape(1, 4, 10, 20) for box in (sides, target)]
    sums = box_sums(*maps, torch.ones(1, 1, 10, 20, dtype=torch.bool))
    torch.testing.assert_close(sums["box_l1"], (sides - target).abs().sum(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sums["box_giou"], expected, rtol=1e-4, atol=1e-3)


def test_the_neighbours_of_a_centre_are_forgiven_more_than_empty_ground() -> None:
    centres = Example(seed=12).centres.centres
    p = Example(seed=12).output[:, :1].sigmoid()
    expected = torch.where(centres == 1, (1 - p) ** 2 * p.log(), (1 - centres) ** 4 * p**2 * (1 - p).log()).sum()
    total = objectness_sum(torch.logit(p), centres)
    assert total.item() == pytest.approx(-expected.item(), rel=1e-4)


def test_unknown_ground_of_masks_is_not_counted() -> None:
    example = Example(seed=10)
    example.masks[:, :, 2:4] = 255
    known = example.valid & (example.masks != 255)
    assert instance_mask_count(example.masks, example.valid).item() == known.sum().item()
    changed = example.output[:, :1].clone()
    changed[~known] = 9.0
    torch.testing.assert_close(
        instance_mask_sum(changed, example.masks, example.valid),
        instance_mask_sum(example.output[:, :1], example.masks, example.valid),
    )
