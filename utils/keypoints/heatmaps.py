"""What a keypoint head is taught: maps of its output grid, drawn from points and boxes on the canvas.

Sizes are in output cells, not in pixels: a spot that is right for one cell size would vanish between the cells of a
coarser grid. Every spot reaches exactly 1 at its best cell; where the point lies within the cell is told by the cells
around it, because the spot is scaled, not moved. A canvas point p lies at the cell coordinate p / stride, with the
same origin: the centre of the first cell is (0.5, 0.5).

Only windows around points are computed: 20 animals of 32 keypoints in each of 8 pictures take 12 ms on one core for
maps of 150 x 200 cells at a sigma of 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utils.masks.losses import target_on_grid

SHAPES = ("gaussian", "circle")
UNKNOWN = 255  # in maps of instance masks: nobody knows what is there
_REACH_SIGMAS = 4.0  # a Gaussian is cut where it has fallen to 3e-4
_HALF_DIAGONAL = 0.7072  # cells; a point is never farther from the nearest centre, so no disc is empty


# --- points on the grid ----------------------------------------------------------------------------------------------


def points_on_grid(keypoints: Tensor, grid: tuple[int, int], stride: float) -> tuple[Tensor, Tensor]:
    """Bring keypoints to cell coordinates and tell which of them count.

    Parameters
    ----------
    keypoints : Tensor, shape (..., 3)
        x and y in canvas pixels, visibility; with visibility 0 the coordinates may be anything, NaN too.
    grid : (int, int)
        Rows and columns of the output.
    stride : float
        Canvas pixels per cell.

    Returns
    -------
    Tensor of float32, shape (..., 2)
        x and y in cells; 0 where the point does not count.
    Tensor of bool, shape (...)
        Whether it counts: visibility above 0, and on the grid or its very edge.

    Examples
    --------
    >>> keypoints = torch.tensor([[6.0, 2.0, 2], [float("nan"), 0, 0], [20, 12, 1], [20.5, 1, 2], [1, 1, 0]])
    >>> points, present = points_on_grid(keypoints, (3, 5), stride=4)
    >>> points[:3].tolist(), present.tolist()
    ([[1.5, 0.5], [0.0, 0.0], [5.0, 3.0]], [True, False, True, False, False])
    """
    height, width = grid
    points = keypoints[..., :2].float() / stride
    inside = (points >= 0) & (points <= points.new_tensor([width, height]))  # false for NaN
    present = inside.all(dim=-1) & (keypoints[..., 2] > 0)
    return points.where(present.unsqueeze(-1), 0.0), present


def single_points(keypoints: Tensor, grid: tuple[int, int], stride: float) -> tuple[Tensor, Tensor]:
    """Find the keypoints that exactly one instance of an image shows, for these have one true place.

    Parameters
    ----------
    keypoints : Tensor, shape (B, N, K, 3)
        x and y in canvas pixels, visibility.
    grid : (int, int)
        Rows and columns of the output.
    stride : float
        Canvas pixels per cell.

    Returns
    -------
    Tensor of float32, shape (B, K, 2)
        x and y in cells; 0 where there is not exactly one.
    Tensor of bool, shape (B, K)
        Whether there is exactly one.

    Examples
    --------
    >>> keypoints = torch.tensor([[[[4.0, 8, 2], [4, 4, 2]], [[0, 0, 0], [8, 8, 2]]]])
    >>> points, single = single_points(keypoints, (4, 4), stride=4)
    >>> points.tolist(), single.tolist()
    ([[[1.0, 2.0], [0.0, 0.0]]], [[True, False]])
    """
    points, present = points_on_grid(keypoints, grid, stride)
    single = present.sum(dim=1) == 1
    return points.sum(dim=1).where(single.unsqueeze(-1), 0.0), single


def instance_centres(
    keypoints: Tensor, boxes_xyxy: Tensor, grid: tuple[int, int], stride: float
) -> tuple[Tensor, Tensor]:
    """Find the centre of each instance: the mean of its points on the grid, or of its box where it has none.

    Parameters
    ----------
    keypoints : Tensor, shape (B, N, K, 3)
        x and y in canvas pixels, visibility.
    boxes_xyxy : Tensor, shape (B, N, 4)
        Boxes in canvas pixels, empty where there is none; what lies beyond the grid is cut off first.
    grid : (int, int)
        Rows and columns of the output.
    stride : float
        Canvas pixels per cell.

    Returns
    -------
    Tensor of float32, shape (B, N, 2)
        x and y in cells; 0 where there is no instance.
    Tensor of bool, shape (B, N)
        Whether there is an instance.

    Examples
    --------
    >>> keypoints = torch.tensor([[[[4.0, 8, 2], [12, 8, 1]], [[0, 0, 0], [0, 0, 0]]]])
    >>> boxes = torch.tensor([[[0.0, 0, 16, 16], [8, 4, 24, 8]]])
    >>> centres, present = instance_centres(keypoints, boxes, (4, 4), stride=4)
    >>> centres.tolist(), present.tolist()
    ([[[2.0, 2.0], [3.0, 1.5]]], [[True, True]])
    """
    points, seen = points_on_grid(keypoints, grid, stride)
    count = seen.sum(dim=2).unsqueeze(-1)
    corners = boxes_xyxy.float().unflatten(-1, (2, 2)) / stride
    corners = corners.clamp(min=0).minimum(corners.new_tensor([grid[1], grid[0]]))
    has_box = (corners[:, :, 1] > corners[:, :, 0]).all(dim=-1, keepdim=True)
    centres = corners.mean(dim=2).where(has_box, 0.0)
    return (points.sum(dim=2) / count).where(count > 0, centres), ((count > 0) | has_box).squeeze(-1)


# --- windows of cells ------------------------------------------------------------------------------------------------


def _axis_windows(positions: Tensor, reach: float, size: int) -> tuple[Tensor, Tensor]:
    """Cells of one axis whose centres lie within `reach` of a position, and their squared distances.

    Parameters
    ----------
    positions : Tensor, shape (P,)
        Coordinates in cells.
    reach : float
        In cells, at least 0.5.
    size : int
        Cells of the axis.

    Returns
    -------
    Tensor of int64, shape (P, S)
        Indices; those beyond the axis are moved to its ends.
    Tensor, shape (P, S)
        Squared distances; infinite beyond the axis.

    Examples
    --------
    >>> cells, squares = _axis_windows(torch.tensor([0.5, 3.0]), 1.5, 4)
    >>> cells.tolist(), squares.tolist()
    ([[0, 0, 1, 2], [1, 2, 3, 3]], [[inf, 0.0, 1.0, 4.0], [2.25, 0.25, 0.25, inf]])
    """
    # One cell more than must be: rounding may then add a cell at the rim, but never lose one.
    first, count = (positions - reach - 0.5).ceil().unsqueeze(1), int(2 * reach) + 1
    # A window wider than the axis would cost memory by the reach: then every cell of the axis, once.
    start = first if count <= size else torch.zeros_like(first)
    cells = start + torch.arange(min(count, size), device=positions.device)
    squares = (cells + 0.5 - positions.unsqueeze(1)) ** 2
    beyond = (cells < first.clamp(min=0)) | (cells >= (first + count).clamp(max=size))
    squares = squares.masked_fill(beyond, torch.inf)
    return cells.clamp(0, size - 1).long(), squares


def _draw_gaussians(columns: Tensor, rows: Tensor, sigma: float) -> Tensor:
    """Values of Gaussians in their windows, 1 at the cell nearest to the point.

    `columns` has shape (M, w), `rows` shape (M, h): squared distances along each axis; the result has shape (M, h, w).

    Examples
    --------
    >>> squares = torch.tensor([[0.25, 0.25, torch.inf]])
    >>> _draw_gaussians(squares, squares[:, :1], sigma=1.0).tolist()
    [[[1.0, 1.0, 0.0]]]
    """
    along = [(squares - squares.amin(dim=1, keepdim=True)) / (-2 * sigma**2) for squares in (columns, rows)]
    return along[0].exp().unsqueeze(1) * along[1].exp().unsqueeze(2)


def _draw_discs(columns: Tensor, rows: Tensor, radius: float) -> Tensor:
    """Ones within the radius of the points, at least at the nearest cell, zeros elsewhere.

    `columns` has shape (M, w), `rows` shape (M, h): squared distances along each axis; the result has shape (M, h, w).

    Examples
    --------
    >>> squares = torch.tensor([[0.25, 0.25, 2.25]])
    >>> _draw_discs(squares, squares[:, :1], radius=0.5).tolist()
    [[[1.0, 1.0, 0.0]]]
    """
    squares = columns.unsqueeze(1) + rows.unsqueeze(2)
    return (squares <= squares.amin(dim=(1, 2), keepdim=True).clamp(min=radius**2)).float()


def _draw(points: Tensor, present: Tensor, grid: tuple[int, int], size_cells: float, shape: str) -> Tensor:
    """Draw points of shape (B, N, C, 2) into maps of shape (B, C, h, w), the largest value winning.

    Raises
    ------
    ValueError
        If the shape of the spots is unknown, or their size not above 0.

    Examples
    --------
    >>> points = torch.tensor([[[[0.5, 0.5]], [[2.5, 0.5]]]])
    >>> _draw(points, torch.ones(1, 2, 1, dtype=torch.bool), (2, 4), 0.5, "circle").tolist()
    [[[[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]
    """
    if shape not in SHAPES or size_cells <= 0:
        raise ValueError(
            f"heatmaps: shape must be one of {', '.join(SHAPES)} and the size above 0, got {shape!r} and {size_cells}"
        )
    batch, _, channels, _ = points.shape
    image, _, channel = present.nonzero(as_tuple=True)
    x, y = points[present].unbind(dim=1)
    reach = max(size_cells * _REACH_SIGMAS, 1.5) if shape == "gaussian" else max(size_cells, _HALF_DIAGONAL)
    columns, column_squares = _axis_windows(x, reach, grid[1])
    rows, row_squares = _axis_windows(y, reach, grid[0])
    draw = _draw_gaussians if shape == "gaussian" else _draw_discs
    values = draw(column_squares, row_squares, size_cells)
    rows = rows + ((image * channels + channel) * grid[0]).unsqueeze(1)
    places = rows.unsqueeze(2) * grid[1] + columns.unsqueeze(1)
    maps = torch.zeros(batch * channels * grid[0] * grid[1], device=points.device)
    return maps.scatter_reduce_(0, places.flatten(), values.flatten(), "amax").view(batch, channels, *grid)


def keypoint_heatmaps(
    keypoints: Tensor, grid: tuple[int, int], stride: float, sigma_cells: float, shape: str = "gaussian"
) -> Tensor:
    """Draw a spot at every keypoint, all instances of an image into one map per keypoint.

    Parameters
    ----------
    keypoints : Tensor, shape (B, N, K, 3)
        x and y in canvas pixels, visibility; a point with visibility 0, or beyond the grid, leaves no trace.
    grid : (int, int)
        Rows and columns of the output.
    stride : float
        Canvas pixels per cell.
    sigma_cells : float
        Standard deviation of the Gaussians, or radius of the discs, in cells.
    shape : {"gaussian", "circle"}
        Gaussians are scaled so that the best cell is exactly 1 and cut at 4 sigma. A disc holds the cells whose
        centres lie in it, and at least the nearest one.

    Returns
    -------
    Tensor of float32, shape (B, K, h, w)
        Values 0 to 1; where spots overlap, the larger value.

    Raises
    ------
    ValueError
        If the shape is unknown or the size is not above 0.

    References
    ----------
    Tompson et al., 2014 (arXiv:1406.2984), with the peak scaled to 1.

    Examples
    --------
    >>> keypoints = torch.tensor([[[[6.0, 2.0, 2.0]], [[18.0, 6.0, 0.0]]]])
    >>> maps = keypoint_heatmaps(keypoints, (2, 4), stride=4, sigma_cells=0.5)
    >>> maps[0, 0].log().tolist()
    [[-2.0, 0.0, -2.0, -8.0], [-4.0, -2.0, -4.0, -10.0]]
    >>> keypoint_heatmaps(keypoints, (2, 4), 4, 1, "circle").tolist()
    [[[[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]]]
    """
    points, present = points_on_grid(keypoints, grid, stride)
    return _draw(points, present, grid, sigma_cells, shape)


def centre_heatmaps(
    keypoints: Tensor, boxes_xyxy: Tensor, grid: tuple[int, int], stride: float, sigma_cells: float
) -> Tensor:
    """Draw a Gaussian at the centre of every instance: the target of an objectness branch and of grouping.

    Parameters
    ----------
    keypoints, boxes_xyxy, grid, stride
        As in `instance_centres`.
    sigma_cells : float
        Standard deviation in cells.

    Returns
    -------
    Tensor of float32, shape (B, 1, h, w)
        As `keypoint_heatmaps`.

    Examples
    --------
    >>> keypoints, boxes = torch.zeros(1, 1, 2, 3), torch.tensor([[[0.0, 0.0, 12.0, 4.0]]])
    >>> centre_heatmaps(keypoints, boxes, (2, 3), 4, 0.25).round(decimals=2).tolist()
    [[[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]
    """
    centres, present = instance_centres(keypoints, boxes_xyxy, grid, stride)
    return _draw(centres.unsqueeze(2), present.unsqueeze(2), grid, sigma_cells, "gaussian")


# --- vectors from cells to instances ---------------------------------------------------------------------------------


def _owners(points: Tensor, present: Tensor, radius: float, grid: tuple[int, int]) -> Tensor:
    """Number, from 1, of the instance whose point of a channel is nearest to each cell within the radius, else 0.

    Parameters
    ----------
    points : Tensor, shape (B, N, C, 2)
        x and y in cells.
    present : Tensor of bool, shape (B, N, C)
        Which points there are.
    radius : float
        In cells; the cell nearest to a point always belongs to a disc.
    grid : (int, int)
        Rows and columns.

    Returns
    -------
    Tensor of int16, shape (B, C, h, w)
        Of two that are equally near, the first instance.

    Examples
    --------
    >>> points = torch.tensor([[[[0.5, 0.5]], [[2.75, 0.5]]]])
    >>> _owners(points, torch.ones(1, 2, 1, dtype=torch.bool), 2.0, (1, 5)).tolist()
    [[[[1, 1, 2, 2, 2]]]]
    """
    batch, instances, channels, _ = points.shape
    cells = batch * channels * grid[0] * grid[1]
    closeness = torch.zeros(cells, device=points.device)
    owners = torch.zeros(cells, dtype=torch.int16, device=points.device)
    reach = max(radius, _HALF_DIAGONAL)
    for instance in range(instances):  # each has one point per map, so no cell is written twice in one round
        image, channel = present[:, instance].nonzero(as_tuple=True)
        x, y = points[image, instance, channel].unbind(dim=1)
        columns, column_squares = _axis_windows(x, reach, grid[1])
        rows, row_squares = _axis_windows(y, reach, grid[0])
        rows = rows + ((image * channels + channel) * grid[0]).unsqueeze(1)
        inside = _draw_discs(column_squares, row_squares, radius).bool()
        places = (rows.unsqueeze(2) * grid[1] + columns.unsqueeze(1))[inside]
        near = 1 / (1 + (column_squares.unsqueeze(1) + row_squares.unsqueeze(2))[inside])
        nearer = near > closeness[places]
        closeness[places[nearer]] = near[nearer]
        owners[places[nearer]] = instance + 1
    return owners.view(batch, channels, *grid)


class CentreTargets(NamedTuple):
    """Where animals are, and where each keypoint's animal is.

    Parameters
    ----------
    centres : Tensor of float32, shape (B, 1, h, w)
        A Gaussian at each instance's centre.
    offsets : Tensor of float32, shape (B, 2 K, h, w)
        Channels 2 k and 2 k + 1: x and y, in cells, from a cell's centre to the centre of the instance whose keypoint
        k lies there; 0 elsewhere.
    mask : Tensor of bool, shape (B, K, h, w)
        Where the offsets mean something.

    Examples
    --------
    >>> CentreTargets(torch.zeros(1, 1, 2, 3), torch.zeros(1, 8, 2, 3), torch.zeros(1, 4, 2, 3))._fields
    ('centres', 'offsets', 'mask')
    """

    centres: Tensor
    offsets: Tensor
    mask: Tensor


def centre_targets(
    keypoints: Tensor,
    boxes_xyxy: Tensor,
    grid: tuple[int, int],
    stride: float,
    *,
    sigma_cells: float,
    radius_cells: float,
) -> CentreTargets:
    """Make the targets by which keypoints of several animals are grouped.

    Parameters
    ----------
    keypoints : Tensor, shape (B, N, K, 3)
        x and y in canvas pixels, visibility.
    boxes_xyxy : Tensor, shape (B, N, 4)
        Boxes in canvas pixels, empty where there is none.
    grid : (int, int)
        Rows and columns of the output.
    stride : float
        Canvas pixels per cell.
    sigma_cells : float
        Standard deviation of the centres' Gaussians, in cells.
    radius_cells : float
        Offsets are taught this far around each keypoint; where discs meet, by the nearest.

    Returns
    -------
    CentreTargets
        Centres, offsets and where offsets are known.

    References
    ----------
    Papandreou et al., 2018 (arXiv:1803.08225), section 3.2, with offsets to the instance's centre in place of a tree.

    Examples
    --------
    >>> keypoints = torch.tensor([[[[2.0, 2.0, 2.0], [18.0, 2.0, 2.0]]]])
    >>> targets = centre_targets(keypoints, torch.zeros(1, 1, 4), (1, 5), 4, sigma_cells=0.25, radius_cells=1)
    >>> targets.mask[0].int().tolist()
    [[[1, 1, 0, 0, 0]], [[0, 0, 0, 1, 1]]]
    >>> targets.offsets[0, ::2].tolist(), targets.centres[0, 0, 0].argmax().item()
    ([[[2.0, 1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, -1.0, -2.0]]], 2)
    """
    points, present = points_on_grid(keypoints, grid, stride)
    centres, exists = instance_centres(keypoints, boxes_xyxy, grid, stride)
    owners = _owners(points, present, radius_cells, grid)
    image, channel, row, column = owners.nonzero(as_tuple=True)
    cells = torch.stack([column, row], dim=1) + 0.5
    vectors = centres[image, owners[image, channel, row, column].long() - 1] - cells
    offsets = torch.zeros(len(points), 2 * points.shape[2], *grid, device=points.device)
    for axis in (0, 1):
        offsets[image, 2 * channel + axis, row, column] = vectors[:, axis]
    gaussians = _draw(centres.unsqueeze(2), exists.unsqueeze(2), grid, sigma_cells, "gaussian")
    return CentreTargets(gaussians, offsets, owners > 0)


class BoxTargets(NamedTuple):
    """Distances from cells near the centres of instances to the edges of their boxes.

    Parameters
    ----------
    distances : Tensor of float32, shape (B, 4, h, w)
        From the cell's centre to the left, top, right and bottom edge; horizontal ones as a share of the canvas' width,
        vertical ones of its height. Negative where the centre lies outside, as it may in a box smaller than a cell.
    mask : Tensor of bool, shape (B, 1, h, w)
        Where they mean something.

    Examples
    --------
    >>> BoxTargets(torch.zeros(1, 4, 2, 3), torch.zeros(1, 1, 2, 3, dtype=torch.bool)).mask.shape
    torch.Size([1, 1, 2, 3])
    """

    distances: Tensor
    mask: Tensor


def box_targets(
    keypoints: Tensor,
    boxes_xyxy: Tensor,
    grid: tuple[int, int],
    stride: float,
    canvas_size: tuple[int, int],
    radius_cells: float,
) -> BoxTargets:
    """Make the targets of a box branch, one box per instance.

    Distances have shape (B, 4, h, w), their mask shape (B, 1, h, w).

    Parameters
    ----------
    keypoints, boxes_xyxy, grid, stride
        As in `centre_targets`; instances without a box are left out.
    canvas_size : (int, int)
        Height and width in pixels by which distances are divided.
    radius_cells : float
        The cells within this distance of an instance's centre, as far as they lie in its box, answer for the box; the
        cell that holds the centre always does. Where two instances claim a cell, the nearer centre has it.

    Returns
    -------
    BoxTargets
        Distances, and where they are known.

    References
    ----------
    Tian et al., 2019 (arXiv:1904.01355), section 3.1, with centre sampling and without the exponential.

    Examples
    --------
    >>> boxes = torch.tensor([[[2.0, 0.0, 10.0, 4.0]]])
    >>> targets = box_targets(torch.zeros(1, 1, 2, 3), boxes, (2, 3), 4, canvas_size=(8, 16), radius_cells=1)
    >>> targets.mask.int().tolist(), targets.distances[0, :, 0, 1].tolist()
    ([[[[0, 1, 0], [0, 0, 0]]]], [0.25, 0.25, 0.25, 0.25])
    """
    centres, exists = instance_centres(keypoints, boxes_xyxy, grid, stride)
    has_box = (boxes_xyxy[..., 2:] > boxes_xyxy[..., :2]).all(dim=-1) & exists
    owners = _owners(centres.unsqueeze(2), has_box.unsqueeze(2), radius_cells, grid)
    image, _, row, column = owners.nonzero(as_tuple=True)
    instance = owners[image, 0, row, column].long() - 1
    cells = torch.stack([column, row], dim=1)
    middles = (cells + 0.5) * stride
    boxes = boxes_xyxy.float()[image, instance]
    size = boxes.new_tensor([canvas_size[1], canvas_size[0]])
    sides = torch.cat([(middles - boxes[:, :2]) / size, (boxes[:, 2:] - middles) / size], dim=1)
    last = cells.new_tensor([grid[1] - 1, grid[0] - 1])
    holds = (centres[image, instance].long().minimum(last) == cells).all(dim=1)
    kept = (sides > 0).all(dim=1) | holds
    image, row, column = image[kept], row[kept], column[kept]
    distances = boxes.new_zeros(len(boxes_xyxy), 4, *grid)
    mask = torch.zeros_like(owners, dtype=torch.bool)
    distances[image, :, row, column] = sides[kept]
    mask[image, 0, row, column] = True
    return BoxTargets(distances, mask)


# --- maps read at the centres of cells -------------------------------------------------------------------------------


def _read_at_centres(pictures: Tensor, grid: tuple[int, int], stride: float, padding: int) -> Tensor:
    """Values (B, 1, h, w) of pictures (B, H, W) under the centres of cells.

    Examples
    --------
    >>> pictures = torch.arange(12, dtype=torch.uint8).view(1, 2, 6)
    >>> _read_at_centres(pictures, (1, 4), 2.0, 255).tolist()
    [[[[7, 9, 11, 255]]]]
    """
    covered = (round(grid[0] * stride), round(grid[1] * stride))
    return target_on_grid(pictures, grid, covered, padding).unsqueeze(1)


def valid_at_centres(valid: Tensor, grid: tuple[int, int], stride: float) -> Tensor:
    """Tell which cells are valid: the pixel under the cell's centre decides.

    Parameters
    ----------
    valid : Tensor of bool, shape (B, H, W)
        Pixels of the canvas with a picture behind them.
    grid : (int, int)
        Rows and columns of the output; it may cover more than the canvas.
    stride : float
        Canvas pixels per cell.

    Returns
    -------
    Tensor of bool, shape (B, 1, h, w)
        False beyond the canvas.

    Examples
    --------
    >>> valid = torch.tensor([[True, True, True, False, True]]).expand(1, 4, 5)
    >>> valid_at_centres(valid, (2, 3), stride=2).tolist()
    [[[[True, False, False], [True, False, False]]]]
    """
    return _read_at_centres(valid.to(torch.uint8), grid, stride, 0).bool()


def instance_mask_targets(
    boxes_xyxy: Tensor, grid: tuple[int, int], stride: float, masks: Tensor | None = None
) -> Tensor:
    """Make the target of an instance mask branch: what belongs to any animal.

    Parameters
    ----------
    boxes_xyxy : Tensor, shape (B, N, 4)
        Boxes in canvas pixels, empty where there is none; their union is the target, if there are no masks.
    grid : (int, int)
        Rows and columns of the output.
    stride : float
        Canvas pixels per cell.
    masks : Tensor of uint8, shape (B, H, W), optional
        Drawn polygons on the canvas: 0 is ground, 255 unknown, anything else an animal.

    Returns
    -------
    Tensor of uint8, shape (B, 1, h, w)
        0 ground, 1 animal, 255 unknown, by the cell's centre.

    Examples
    --------
    >>> boxes = torch.tensor([[[0.0, 0.0, 5.0, 3.0], [7.0, 4.0, 12.0, 8.0]]])
    >>> instance_mask_targets(boxes, (2, 3), stride=4).tolist()
    [[[[1, 0, 0], [0, 0, 1]]]]
    >>> instance_mask_targets(boxes, (1, 3), 2, torch.tensor([[[0, 0, 0, 7], [0, 0, 0, 7]]])).tolist()
    [[[[0, 1, 255]]]]
    """
    if masks is not None:
        read = _read_at_centres(masks, grid, stride, UNKNOWN)
        return torch.where(read == UNKNOWN, UNKNOWN, (read > 0).to(torch.uint8))
    inside = []
    for axis, size in enumerate((grid[1], grid[0])):
        middles = (torch.arange(size, device=boxes_xyxy.device) + 0.5) * stride
        low, high = boxes_xyxy[..., axis, None], boxes_xyxy[..., axis + 2, None]
        inside.append(((middles >= low) & (middles < high)).float())
    return torch.einsum("bnx,bny->byx", *inside).gt(0).to(torch.uint8).unsqueeze(1)
