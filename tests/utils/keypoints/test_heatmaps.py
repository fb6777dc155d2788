"""Targets: drawn in windows as if drawn in whole maps, and moved by flips and quarter turns as their points are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from utils.keypoints.heatmaps import (
    box_targets,
    centre_heatmaps,
    centre_targets,
    instance_centres,
    instance_mask_targets,
    keypoint_heatmaps,
    points_on_grid,
    single_points,
    valid_at_centres,
)

STRIDES = [3.5, 4.0]
GRID = (12, 17)


def make_instances(
    stride: float, seed: int = 0, batch: int = 2, instances: int = 4, keypoints: int = 3, grid: tuple[int, int] = GRID
) -> tuple[Tensor, Tensor]:
    """Keypoints around the canvas, some beyond it, some missing with NaN; boxes, of which the last is empty."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([grid[1], grid[0]]) * stride
    points = (torch.rand(batch, instances, keypoints, 2, generator=generator) * 1.3 - 0.15) * size
    visibility = torch.randint(0, 3, (batch, instances, keypoints), generator=generator).float()
    points[visibility == 0] = float("nan")
    corners = torch.rand(batch, instances, 2, 2, generator=generator).sort(dim=2).values * size
    corners[:, -1] = 0
    return torch.cat([points, visibility.unsqueeze(-1)], dim=-1), corners.flatten(2)


def draw_slowly(keypoints: Tensor, stride: float, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Whole maps from squared distances, one point at a time."""
    maps = torch.zeros(len(keypoints), keypoints.shape[2], *GRID, dtype=torch.float64)
    columns, rows = torch.arange(GRID[1]) + 0.5, torch.arange(GRID[0]).unsqueeze(1) + 0.5
    for image, instance, keypoint in torch.cartesian_prod(*(torch.arange(size) for size in keypoints.shape[:3])):
        x, y, visibility = keypoints[image, instance, keypoint].double().tolist()
        if visibility > 0 and 0 <= x <= GRID[1] * stride and 0 <= y <= GRID[0] * stride:
            squares = (columns - x / stride) ** 2 + (rows - y / stride) ** 2
            maps[image, keypoint] = maps[image, keypoint].maximum(value(squares))
    return maps


# --- heatmaps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
def test_windows_hold_what_whole_maps_would_hold(stride: float, sigma: float) -> None:
    keypoints, _ = make_instances(stride, seed=int(10 * sigma))
    maps = keypoint_heatmaps(keypoints, GRID, stride, sigma)
    expected = draw_slowly(keypoints, stride, lambda squares: ((squares.min() - squares) / (2 * sigma**2)).exp())
    torch.testing.assert_close(maps.double(), expected, atol=4e-4, rtol=0)  # where a Gaussian is cut
    inner = expected > 0.01
    torch.testing.assert_close(maps.double()[inner], expected[inner], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("radius", [0.1, 0.8, 2.5])
def test_discs_hold_the_cells_within_the_radius_and_never_none(radius: float) -> None:
    keypoints, _ = make_instances(4.0, seed=3)
    maps = keypoint_heatmaps(keypoints, GRID, 4.0, radius, "circle")
    expected = draw_slowly(keypoints, 4.0, lambda squares: (squares <= max(radius**2, squares.min() + 1e-6)).double())
    assert torch.equal(maps.double(), expected)
    _, present = points_on_grid(keypoints, GRID, 4.0)
    assert ((maps.sum(dim=(2, 3)) > 0) == present.any(dim=1)).all()


@pytest.mark.parametrize("sigma", [0.05, 0.6, 2.0, 5.0])
def test_every_summit_is_exactly_1(sigma: float) -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(1, 1, 500, 2, generator=generator) * torch.tensor([17 * 3.5, 12 * 3.5])
    points[0, 0, :4] = torch.tensor([[0.0, 0.0], [59.5, 42.0], [0.0, 42.0], [7.0, 7.0]])  # corners, of cells too
    maps = keypoint_heatmaps(torch.cat([points, torch.ones(1, 1, 500, 1)], -1), GRID, 3.5, sigma)
    assert (maps.flatten(2).max(dim=2).values == 1).all()


@pytest.mark.parametrize("shape", ["gaussian", "circle"])
def test_spots_wider_than_the_map_cost_no_more_than_the_map(shape: str) -> None:
    keypoints = torch.tensor([[[[4.0, 4.0, 2.0]]]])
    maps = keypoint_heatmaps(keypoints, (16, 24), 4, 1e12, shape)  # windows of 8e12 cells would be terabytes
    assert torch.equal(maps, torch.ones(1, 1, 16, 24))
    targets = centre_targets(keypoints, torch.zeros(1, 1, 4), (16, 24), 4, sigma_cells=1, radius_cells=1e12)
    assert bool(targets.mask.all())


def test_points_beyond_the_grid_or_missing_leave_no_trace() -> None:
    nan, inf = float("nan"), float("inf")
    keypoints = torch.tensor(
        [[-0.1, 5, 2], [5, 48.1, 2], [68.1, 5, 1], [nan, nan, 0], [5, 5, 0], [nan, 5, 2], [inf, 1, 2]]
    )
    maps = keypoint_heatmaps(keypoints.view(1, 1, -1, 3), GRID, 4.0, 2.0)
    assert maps.shape == (1, 7, *GRID)
    assert not maps.any()


def test_no_instances_and_no_images_give_empty_maps() -> None:
    assert not keypoint_heatmaps(torch.zeros(2, 0, 3, 3), GRID, 4.0, 1.0).any()
    assert keypoint_heatmaps(torch.zeros(0, 2, 3, 3), GRID, 4.0, 1.0).shape == (0, 3, *GRID)
    targets = centre_targets(torch.zeros(2, 0, 3, 3), torch.zeros(2, 0, 4), GRID, 4.0, sigma_cells=1, radius_cells=1)
    assert [part.shape[1] for part in targets] == [1, 6, 3]
    assert not any(part.any() for part in targets)


@pytest.mark.parametrize(("shape", "size"), [("square", 1.0), ("circle", 0.0)])
def test_unknown_shapes_and_sizes_are_refused(shape: str, size: float) -> None:
    with pytest.raises(ValueError, match="shape must be one of gaussian, circle and the size above 0"):
        keypoint_heatmaps(torch.zeros(1, 1, 1, 3), GRID, 4.0, size, shape)


# --- symmetry --------------------------------------------------------------------------------------------------------


def mirror_points(keypoints: Tensor, width: float) -> Tensor:
    return torch.cat([width - keypoints[..., :1], keypoints[..., 1:]], dim=-1)


def turn_points(keypoints: Tensor, width: float) -> Tensor:
    """A quarter turn counter-clockwise, as `torch.rot90` turns maps."""
    return torch.cat([keypoints[..., 1:2], width - keypoints[..., :1], keypoints[..., 2:]], dim=-1)


def mirror_boxes(boxes: Tensor, width: float) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def turn_boxes(boxes: Tensor, width: float) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([y1, width - x2, y2, width - x1], dim=-1)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(("shape", "size"), [("gaussian", 1.7), ("circle", 2.2)])
def test_heatmaps_follow_a_mirror_and_a_quarter_turn(stride: float, shape: str, size: float) -> None:
    keypoints, _ = make_instances(stride, seed=5)
    width = GRID[1] * stride
    maps = keypoint_heatmaps(keypoints, GRID, stride, size, shape)
    mirrored = keypoint_heatmaps(mirror_points(keypoints, width), GRID, stride, size, shape)
    turned = keypoint_heatmaps(turn_points(keypoints, width), GRID[::-1], stride, size, shape)
    torch.testing.assert_close(mirrored, maps.flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned, torch.rot90(maps, 1, (2, 3)), atol=1e-4, rtol=0)
    assert maps.any()


@pytest.mark.parametrize("stride", STRIDES)
def test_vectors_to_centres_follow_a_mirror_and_a_quarter_turn(stride: float) -> None:
    keypoints, boxes = make_instances(stride, seed=6)
    width, sizes = GRID[1] * stride, {"sigma_cells": 1.5, "radius_cells": 2.3}
    plain = centre_targets(keypoints, boxes, GRID, stride, **sizes)
    x, y = plain.offsets[:, ::2], plain.offsets[:, 1::2]
    assert plain.mask.any()

    mirrored = centre_targets(mirror_points(keypoints, width), mirror_boxes(boxes, width), GRID, stride, **sizes)
    assert torch.equal(mirrored.mask, plain.mask.flip(-1))
    torch.testing.assert_close(mirrored.centres, plain.centres.flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored.offsets[:, ::2], -x.flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored.offsets[:, 1::2], y.flip(-1), atol=1e-4, rtol=0)

    turned = centre_targets(turn_points(keypoints, width), turn_boxes(boxes, width), GRID[::-1], stride, **sizes)
    assert torch.equal(turned.mask, torch.rot90(plain.mask, 1, (2, 3)))
    torch.testing.assert_close(turned.offsets[:, ::2], torch.rot90(y, 1, (2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.offsets[:, 1::2], -torch.rot90(x, 1, (2, 3)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("stride", STRIDES)
def test_box_targets_follow_a_mirror(stride: float) -> None:
    keypoints, boxes = make_instances(stride, seed=7)
    width, size = GRID[1] * stride, (GRID[0] * stride, GRID[1] * stride)
    plain = box_targets(keypoints, boxes, GRID, stride, size, 2.0)
    mirrored = box_targets(mirror_points(keypoints, width), mirror_boxes(boxes, width), GRID, stride, size, 2.0)
    assert torch.equal(mirrored.mask, plain.mask.flip(-1))
    torch.testing.assert_close(mirrored.distances, plain.distances.flip(-1)[:, [2, 1, 0, 3]], atol=1e-5, rtol=0)


# --- centres, vectors, boxes -----------------------------------------------------------------------------------------


def test_single_points_are_those_that_one_instance_shows() -> None:
    keypoints, _ = make_instances(4.0, seed=8, batch=4)
    points, single = single_points(keypoints, GRID, 4.0)
    cells, present = points_on_grid(keypoints, GRID, 4.0)
    assert 0 < single.sum() < single.numel()
    for image in range(4):
        for keypoint in range(3):
            shown = cells[image, present[image, :, keypoint], keypoint]
            assert bool(single[image, keypoint]) == (len(shown) == 1)
            assert torch.equal(points[image, keypoint], shown[0] if len(shown) == 1 else torch.zeros(2))


def test_centres_are_means_of_points_else_of_the_visible_part_of_boxes() -> None:
    keypoints = torch.zeros(1, 3, 2, 3)
    keypoints[0, 0] = torch.tensor([[8.0, 4.0, 2], [500, 4, 2]])  # one of the two is out of sight
    keypoints[0, 1:] = torch.tensor([float("nan"), 0.0, 0.0])
    boxes = torch.tensor([[[0.0, 0, 40, 40], [-40, 8, 8, 16], [-50, 8, -40, 16]]])
    centres, present = instance_centres(keypoints, boxes, GRID, 4.0)
    assert present.tolist() == [[True, True, False]]
    assert centres.tolist() == [[[2.0, 1.0], [1.0, 3.0], [0.0, 0.0]]]


@pytest.mark.parametrize("radius", [0.3, 2.6])
def test_vectors_belong_to_the_nearest_keypoint(radius: float) -> None:
    stride = 3.5
    keypoints, boxes = make_instances(stride, seed=9, batch=12, instances=9)
    targets = centre_targets(keypoints, boxes, GRID, stride, sigma_cells=1.0, radius_cells=radius)
    centres, _ = instance_centres(keypoints, boxes, GRID, stride)
    points, present = points_on_grid(keypoints, GRID, stride)
    rows, columns = torch.meshgrid(torch.arange(GRID[0]) + 0.5, torch.arange(GRID[1]) + 0.5, indexing="ij")
    cells = torch.stack([columns, rows], dim=-1)
    squares = (cells - points[..., None, None, :]).square().sum(-1)  # B, N, K, h, w
    reach = squares.amin(dim=(3, 4), keepdim=True).clamp(min=radius**2)
    squares = squares.masked_fill((squares > reach) | ~present[..., None, None], torch.inf)
    least, owner = squares.min(dim=1)
    assert torch.equal(targets.mask, least < torch.inf)
    vectors = centres[torch.arange(12).view(12, 1, 1, 1), owner] - cells
    found = targets.offsets.unflatten(1, (3, 2)).movedim(2, -1)
    torch.testing.assert_close(found[targets.mask], vectors[targets.mask])
    assert not found[~targets.mask].any()


def test_boxes_read_from_their_cells_are_the_boxes() -> None:
    stride, size = 3.5, (42, 59)
    keypoints, boxes = make_instances(stride, seed=10, batch=6)
    targets = box_targets(keypoints, boxes, GRID, stride, size, radius_cells=1.5)
    image, _, row, column = targets.mask.nonzero(as_tuple=True)
    middles = torch.stack([column, row], dim=1) * stride + stride / 2
    scale = torch.tensor([size[1], size[0]])
    sides = targets.distances[image, :, row, column]
    read = torch.cat([middles - sides[:, :2] * scale, middles + sides[:, 2:] * scale], dim=1)
    nearest = (boxes[image] - read.unsqueeze(1)).abs().amax(dim=2).amin(dim=1)
    assert len(read) > 20
    assert nearest.max() < 1e-3
    assert not targets.distances.masked_select(~targets.mask).any()


def test_every_separate_instance_has_a_cell_for_its_box_however_small() -> None:
    centres = torch.tensor([[6.0, 6.0], [30.3, 6.7], [50.1, 30.9], [8.0, 32.0]])
    boxes = torch.cat([centres - 0.6, centres + 0.6], dim=1).unsqueeze(0)
    targets = box_targets(torch.zeros(1, 4, 2, 3), boxes, GRID, 4.0, (48, 68), radius_cells=1.5)
    assert targets.mask.sum() == 4
    held = (centres / 4).long()
    assert targets.mask[0, 0, held[:, 1], held[:, 0]].all()


def test_instances_without_a_box_teach_no_box_but_a_centre() -> None:
    keypoints = torch.tensor([[[[20.0, 20.0, 2.0]]]])
    assert not box_targets(keypoints, torch.zeros(1, 1, 4), GRID, 4.0, (48, 68), 2.0).mask.any()
    assert centre_heatmaps(keypoints, torch.zeros(1, 1, 4), GRID, 4.0, 1.0).max() == 1


def test_masks_are_the_union_of_boxes_at_the_centres_of_cells() -> None:
    _, boxes = make_instances(3.5, seed=11)
    masks = instance_mask_targets(boxes, GRID, 3.5)
    x, y = (torch.arange(GRID[1]) + 0.5) * 3.5, (torch.arange(GRID[0]).unsqueeze(1) + 0.5) * 3.5
    expected = torch.zeros(2, *GRID, dtype=torch.bool)
    for image in range(2):
        for x1, y1, x2, y2 in boxes[image].tolist():
            expected[image] |= (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    assert torch.equal(masks.squeeze(1).bool(), expected)
    assert masks.dtype == torch.uint8


def test_drawn_masks_and_validity_are_read_under_the_centres_of_cells() -> None:
    drawn = torch.zeros(1, 40, 60, dtype=torch.uint8)  # the grid covers 42 x 59.5
    drawn[0, 10:20, 30:] = 3
    drawn[0, 20:30, 30:] = 255
    masks = instance_mask_targets(torch.zeros(1, 0, 4), GRID, 3.5, drawn)
    assert masks[0, 0, :, 10].tolist() == [0, 0, 0, 1, 1, 1, 255, 255, 255, 0, 0, 255]
    valid = valid_at_centres(drawn > 0, GRID, 3.5)
    assert valid.shape == (1, 1, *GRID)
    assert valid[0, 0, :, 10].tolist() == [False] * 3 + [True] * 6 + [False] * 3
