"""From maps of logits to points: one sub-pixel decoder for training, evaluation and inference, and grouping to animals.

Points are in cells with the origin at the outer corner of the grid: the centre of the first cell is (0.5, 0.5), and
multiplied by the stride they are canvas pixels. Cells outside the picture may be filled with -inf before decoding.

The decoder fits a paraboloid to the logarithm of the probability at 3 x 3 cells. A Gaussian's logarithm is one, so its
place and its width are found exactly, whatever its height; where there is no such summit, on plateaus, the centre of
the plateau's middle cell stands. The same fit serves the strongest peak (`best_peaks`) and all of them (`all_peaks`).
In place of the fit both can take the mean under a softmax: over the whole map, or around each of several peaks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.keypoints.local_maxima import centre_on_plateaus, find_maxima, read_neighbourhoods

DECODERS = ("quadratic", "soft_argmax")
_FLAT = 1e-5  # curvature below which a direction has no summit: that of a Gaussian of 300 cells
_LEAST_DETERMINANT = 1e-3  # of the product of the curvatures; below it a ridge has no place along itself
_MAX_STEP = 1.0  # cells that a point may lie from the centre of its strongest cell, along each axis


class Peaks(NamedTuple):
    """Peaks of maps; leading dimensions as the function that gives them says.

    Parameters
    ----------
    points : Tensor, shape (..., 2)
        x and y in cells.
    scores : Tensor, shape (...)
        Probability at the strongest cell.
    spread : Tensor, shape (...)
        Standard deviation of the peak in cells: the root mean square over directions of the Gaussian whose logarithm
        has the same curvature. At most the longer side of the map, which also stands for "flat".

    Examples
    --------
    >>> Peaks(torch.tensor([1.5, 0.5]), torch.tensor(0.75), torch.tensor(2.0)).points.tolist()
    [1.5, 0.5]
    """

    points: Tensor
    scores: Tensor
    spread: Tensor


def raise_to_single(maps: Tensor) -> Tensor:
    """Bring maps to at least single precision.

    The shape may be any; it stays.

    Parameters
    ----------
    maps : Tensor
        Of any float type.

    Returns
    -------
    Tensor
        float32 in place of the half precisions, else unchanged.

    Examples
    --------
    >>> raise_to_single(torch.zeros(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps


def soft_argmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean place under a softmax over the whole map; it has a gradient everywhere.

    Parameters
    ----------
    logits : Tensor, shape (..., h, w)
        Scores; half precision is raised to single.
    temperature : float
        The logits are divided by it: below 1 the strongest cells count more.

    Returns
    -------
    Tensor, shape (..., 2)
        x and y in cells.

    Raises
    ------
    ValueError
        If the temperature is not above 0.

    References
    ----------
    Sun et al., 2018 (arXiv:1711.08229), section 2.

    Examples
    --------
    >>> soft_argmax(torch.zeros(2, 4)).tolist(), soft_argmax(torch.tensor([[0.0, 90.0, 90.0]])).tolist()
    ([2.0, 1.0], [2.0, 0.5])
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    height, width = logits.shape[-2:]
    flat = raise_to_single(logits).flatten(-2) / temperature
    probabilities = flat.softmax(dim=-1).unflatten(-1, (height, width))
    columns = torch.arange(width, device=flat.device, dtype=flat.dtype) + 0.5
    rows = torch.arange(height, device=flat.device, dtype=flat.dtype) + 0.5
    # Sums, not matrix products, which autocast would round to bfloat16.
    x = (probabilities.sum(dim=-2) * columns).sum(dim=-1)
    return torch.stack([x, (probabilities.sum(dim=-1) * rows).sum(dim=-1)], dim=-1)


# --- the fit ---------------------------------------------------------------------------------------------------------


def _fit_paraboloids(logs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the summit and the variance of Gaussians by the logarithms of 3 x 3 values.

    Parameters
    ----------
    logs : Tensor of float64, shape (M, 3, 3)
        Logarithms. Of a cell with -inf nothing is known but that the picture ends there: its axis has no summit.

    Returns
    -------
    Tensor, shape (M, 2)
        x and y of the summit from the centre of the middle cell.
    Tensor, shape (M, 2)
        Variances along x and y; meaningless where flat.
    Tensor of bool, shape (M, 2)
        Along which axes there is a summit.

    Examples
    --------
    >>> x, y = torch.arange(-1, 2), torch.arange(-1, 2).unsqueeze(1)
    >>> logs = -((x - 0.25) ** 2) / 2.0 - (y + 0.5) ** 2 / 8.0
    >>> [values.tolist() for values in _fit_paraboloids(logs.double().unsqueeze(0))]
    [[[0.25, -0.5]], [[1.0, 4.0]], [[True, True]]]
    """
    slopes = torch.stack([logs[:, 1, 2] - logs[:, 1, 0], logs[:, 2, 1] - logs[:, 0, 1]], dim=1) / 2
    sides = torch.stack([logs[:, 1, 2] + logs[:, 1, 0], logs[:, 2, 1] + logs[:, 0, 1]], dim=1)
    curvatures = sides - 2 * logs[:, 1, 1].unsqueeze(1)
    twist = (logs[:, 2, 2] - logs[:, 2, 0] - logs[:, 0, 2] + logs[:, 0, 0]) / 4
    bent = (curvatures < -_FLAT) & curvatures.isfinite()
    curvatures, slopes = curvatures.where(bent, -1.0), slopes.where(bent, 0.0)
    product = curvatures.prod(dim=1)
    joint = bent.all(dim=1) & (product - twist**2 > _LEAST_DETERMINANT * product)
    twist = twist.where(joint, 0.0).unsqueeze(1)  # else each axis for itself
    variances = -curvatures.flip(1) / (product.unsqueeze(1) - twist**2)
    covariance = twist / (product.unsqueeze(1) - twist**2)
    return variances * slopes + covariance * slopes.flip(1), variances, bent


def _refine(maps: Tensor, index: Tensor, cells: Tensor, from_logits: bool) -> tuple[Tensor, Tensor]:
    """Points (M, 2) and spreads (M,) of peaks, given their strongest cells.

    Examples
    --------
    >>> maps = torch.tensor([[[-9.0, -4.0, -9.0], [-5.0, 0.0, -5.0], [-9.0, -4.0, -9.0]]]).exp()
    >>> points, spread = _refine(maps, torch.tensor([0]), torch.tensor([[1, 1]]), from_logits=False)
    >>> points.tolist(), round(spread.item(), 4)  # variances 1 / 10 and 1 / 8
    ([[1.5, 1.5]], 0.3354)
    """
    height, width = maps.shape[1:]
    centres, longest = cells.double() + 0.5, float(max(height, width))
    if min(height, width) < 3:
        return centres.float(), torch.full_like(centres[:, 0], longest).float()
    values, middle = read_neighbourhoods(maps, index, cells)
    logs = F.logsigmoid(values.double()) if from_logits else values.double().log()
    steps, variances, bent = _fit_paraboloids(logs)
    points = (middle + 0.5 + steps).where(bent, centres)
    points = centres + (points - centres).clamp(-_MAX_STEP, _MAX_STEP)
    points = points.clamp(min=0).minimum(points.new_tensor([width, height]))
    spread = variances.where(bent, longest**2).mean(dim=1).sqrt().clamp(max=longest)
    return points.float(), spread.float()


def refine(probabilities: Tensor, cells: Tensor) -> Tensor:
    """Move peaks from their strongest cells to where the probability, read as a Gaussian, has its summit.

    One Newton step on the logarithm of 3 x 3 cells with the full Hessian. At the border the 3 x 3 cells next to it
    are read, so a peak in the outermost cells is as exact. A point stays within 1 cell of the cell's centre along each
    axis, and on the grid; along an axis without a summit it stays at the centre.

    Parameters
    ----------
    probabilities : Tensor, shape (..., h, w)
        Not negative; their scale does not matter.
    cells : Tensor of int64, shape (..., 2)
        Column and row of the strongest cell of each map.

    Returns
    -------
    Tensor of float32, shape (..., 2)
        x and y in cells.

    References
    ----------
    Zhang et al., 2020 (arXiv:1910.06278), section 3.1, without smoothing.

    Examples
    --------
    >>> x, y = torch.arange(5) + 0.5, torch.arange(4).unsqueeze(1) + 0.5
    >>> gaussian = (-((x - 2.75) ** 2 + (y - 1.25) ** 2) / 8).exp()
    >>> refine(gaussian, torch.tensor([2, 1])).tolist(), refine(torch.ones(4, 5), torch.tensor([2, 1])).tolist()
    ([2.75, 1.25], [2.5, 1.5])
    """
    maps = raise_to_single(probabilities).reshape(-1, *probabilities.shape[-2:])
    index = torch.arange(len(maps), device=maps.device)
    points, _ = _refine(maps, index, cells.reshape(-1, 2), from_logits=False)
    return points.view(*probabilities.shape[:-2], 2)


# --- peaks of maps ---------------------------------------------------------------------------------------------------


def _check(logits: Tensor, decoder: str) -> None:
    """Raise a ValueError for an unknown decoder, or logits without four dimensions.

    Examples
    --------
    >>> _check(torch.zeros(1, 1, 2, 2), "mean")
    Traceback (most recent call last):
        ...
    ValueError: unknown decoder 'mean'; known: quadratic, soft_argmax
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")
    if logits.ndim != 4:
        raise ValueError(f"logits must have shape (B, K, h, w), got {tuple(logits.shape)}")


def best_peaks(logits: Tensor, decoder: str = "quadratic") -> Peaks:
    """Locate each keypoint at the one strongest peak of its map.

    Parameters
    ----------
    logits : Tensor, shape (B, K, h, w)
        Scores before the sigmoid; -inf outside the picture.
    decoder : {"quadratic", "soft_argmax"}
        The fit of `refine`, or the mean place under a softmax over the whole map.

    Returns
    -------
    Peaks
        With leading dimensions (B, K). Scores and spreads are those of the strongest cell with either decoder.

    Raises
    ------
    ValueError
        If the decoder is unknown, or the logits do not have four dimensions.

    Examples
    --------
    >>> logits = torch.full((1, 1, 4, 6), -6.0)
    >>> logits[0, 0, 2, 3:5] = 0.0
    >>> peaks = best_peaks(logits)
    >>> peaks.points.tolist(), peaks.scores.tolist()
    ([[[4.0, 2.5]]], [[0.5]])
    """
    _check(logits, decoder)
    maps = raise_to_single(logits.detach()).flatten(0, 1)
    best, places = maps.flatten(1).max(dim=1)
    cells = torch.stack([places % maps.shape[2], places // maps.shape[2]], dim=1)
    cells = centre_on_plateaus(maps, cells)
    points, spread = _refine(maps, torch.arange(len(maps), device=maps.device), cells, from_logits=True)
    if decoder == "soft_argmax":
        points = soft_argmax(maps).float()
    shape = logits.shape[:2]
    return Peaks(points.view(*shape, 2), best.sigmoid().view(shape), spread.view(shape))


def _suppress(points: Tensor, scores: Tensor, radius: float, most: int) -> Tensor:
    """Choose the strongest points of each row, none within `radius` of a stronger one.

    Parameters
    ----------
    points : Tensor, shape (L, M, 2)
        x and y in cells.
    scores : Tensor, shape (L, M)
        -inf where there is no point.
    radius : float
        In cells.
    most : int
        Largest number per row.

    Returns
    -------
    Tensor of int64, shape (L, at most `most`)
        Columns of the chosen ones by falling score, then -1.

    Examples
    --------
    >>> points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.9, 0.0]]])
    >>> _suppress(points, torch.tensor([[0.5, 0.9, 0.7]]), radius=1.0, most=3).tolist()
    [[1, 0]]
    """
    alive, chosen = scores.clone(), []
    for _ in range(min(most, scores.shape[1])):
        best, column = alive.max(dim=1)
        if bool((best == -torch.inf).all()):
            break
        chosen.append(column.where(best > -torch.inf, -1))
        winners = points.gather(1, column.view(-1, 1, 1).expand(-1, 1, 2))
        alive.masked_fill_((points - winners).square().sum(dim=2) < radius**2, -torch.inf)
        alive.scatter_(1, column.unsqueeze(1), -torch.inf)  # also with a radius of 0
    return torch.stack(chosen, dim=1) if chosen else torch.zeros(len(points), 0, dtype=torch.int64)


def _average_around(maps: Tensor, index: Tensor, cells: Tensor, radius: float) -> Tensor:
    """Mean places (M, 2) under a softmax over the cells of maps (L, h, w) within `radius` of the peaks' cells (M, 2).

    Examples
    --------
    >>> maps = torch.tensor([[[0.0, 0, -99, 0, 0, 9]]])
    >>> _average_around(maps, torch.tensor([0, 0]), torch.tensor([[0, 0], [3, 0]]), radius=1.0).tolist()
    [[1.0, 0.5], [4.0, 0.5]]
    """
    height, width = maps.shape[1:]
    reach = int(min(radius, max(height, width)))
    steps = torch.arange(-reach, reach + 1, device=maps.device)
    columns, rows = cells[:, :1] + steps, cells[:, 1:] + steps  # (M, S)
    inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    inside &= steps.square() + steps.square().unsqueeze(1) <= radius**2
    places = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)
    values = maps.flatten(1)[index.view(-1, 1, 1), places].masked_fill(~inside, -torch.inf)
    return cells + soft_argmax(values) - reach


def all_peaks(
    logits: Tensor, radius_cells: float, most: int, min_score: float, decoder: str = "quadratic"
) -> list[list[Peaks]]:
    """Locate every peak of each map: local maxima, the strongest first, none near a stronger one.

    Parameters
    ----------
    logits : Tensor, shape (B, K, h, w)
        Scores before the sigmoid; -inf outside the picture.
    radius_cells : float
        A peak nearer than this to a stronger one is dropped; distances are between the refined points.
    most : int
        Largest number of peaks per map.
    min_score : float
        Peaks with a smaller probability are dropped, so that a map may have none.
    decoder : {"quadratic", "soft_argmax"}
        The fit of `refine`, or the mean place under a softmax over the cells within `radius_cells` of each peak: over
        the whole map all peaks would have one place. Which peaks there are does not depend on it.

    Returns
    -------
    list of list of Peaks
        For each image and keypoint, peaks on the CPU with leading dimension (M,), by falling score.

    Raises
    ------
    ValueError
        If the decoder is unknown, or the logits do not have four dimensions.

    Examples
    --------
    >>> logits = torch.full((1, 2, 4, 8), -5.0)
    >>> logits[0, 0, 1, 1], logits[0, 0, 1, 6], logits[0, 0, 1, 3] = 2.0, 3.0, 0.0
    >>> [peaks.points.tolist() for peaks in all_peaks(logits, radius_cells=3, most=5, min_score=0.2)[0]]
    [[[6.5, 1.5], [1.5, 1.5]], []]
    """
    _check(logits, decoder)
    maps = raise_to_single(logits.detach()).flatten(0, 1)
    least = math.log(min_score / (1 - min_score)) if 0 < min_score < 1 else math.copysign(math.inf, min_score - 0.5)
    index, cells = find_maxima(maps, least)
    points, spread = _refine(maps, index, cells, from_logits=True)
    scores = maps[index, cells[:, 1], cells[:, 0]].sigmoid()
    table = torch.cat([points, scores.unsqueeze(1), spread.unsqueeze(1), cells], dim=1).float().cpu()
    index = index.cpu()
    counts = torch.bincount(index, minlength=len(maps))
    slots = torch.arange(len(index)) - (counts.cumsum(0) - counts)[index]
    padded = torch.zeros(len(maps), int(counts.max()) if len(maps) else 0, 6)
    padded[:, :, 2] = -torch.inf
    padded[index, slots] = table
    chosen = _suppress(padded[..., :2], padded[..., 2], radius_cells, most)
    rows = [row[columns[columns >= 0]] for row, columns in zip(padded, chosen, strict=True)]
    if decoder == "soft_argmax" and rows:
        places = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows], dtype=torch.int64))
        kept = torch.cat(rows)
        averages = _average_around(maps, places.to(maps.device), kept[:, 4:].long().to(maps.device), radius_cells)
        kept[:, :2] = averages.cpu()
        rows = list(kept.split([len(row) for row in rows]))
    peaks = [Peaks(row[:, :2], row[:, 2], row[:, 3]) for row in rows]
    return [peaks[start : start + logits.shape[1]] for start in range(0, len(peaks), logits.shape[1])]
