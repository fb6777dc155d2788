"""Local maxima of maps, one for each plateau: whole plateaus, not their first cell, and no shoulders.

Maps that were computed in bfloat16, or that were taught with discs, have neighbours of exactly the same value. The
first of these would draw every point to the top left, and each of them would be a peak of its own.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def read_neighbourhoods(maps: Tensor, index: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Values of 3 x 3 cells around a cell, moved inwards at the border.

    Parameters
    ----------
    maps : Tensor, shape (L, h, w)
        At least 3 x 3 cells.
    index : Tensor of int64, shape (M,)
        Map of each cell.
    cells : Tensor of int64, shape (M, 2)
        Column and row.

    Returns
    -------
    Tensor, shape (M, 3, 3)
        The values.
    Tensor of int64, shape (M, 2)
        Column and row of the middle one.

    Examples
    --------
    >>> values, middle = read_neighbourhoods(torch.arange(12).view(1, 3, 4), torch.tensor([0]), torch.tensor([[3, 1]]))
    >>> values.tolist(), middle.tolist()
    ([[[1, 2, 3], [5, 6, 7], [9, 10, 11]]], [[2, 1]])
    """
    height, width = maps.shape[1:]
    middle = cells.clamp(min=1).minimum(cells.new_tensor([width - 2, height - 2]))
    around = torch.arange(-1, 2, device=maps.device)
    rows = (index * height + middle[:, 1]).unsqueeze(1) + around
    columns = middle[:, 0].unsqueeze(1) + around
    return maps.flatten()[rows.unsqueeze(2) * width + columns.unsqueeze(1)], middle


def _max_of_neighbours(maps: Tensor) -> Tensor:
    """Largest value of 3 x 3 cells around each cell of (L, h, w).

    Two passes of shifted maxima: ten times as fast on a CPU as `F.max_pool2d`.

    Examples
    --------
    >>> _max_of_neighbours(torch.tensor([[[1.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]]])).tolist()
    [[[1.0, 1.0, 4.0, 4.0], [1.0, 1.0, 4.0, 4.0]]]
    """
    result = maps.clone()
    torch.maximum(result[:, 1:], maps[:, :-1], out=result[:, 1:])
    torch.maximum(result[:, :-1], maps[:, 1:], out=result[:, :-1])
    rows = result.clone()
    torch.maximum(result[..., 1:], rows[..., :-1], out=result[..., 1:])
    torch.maximum(result[..., :-1], rows[..., 1:], out=result[..., :-1])
    return result


def _has_tie(maps: Tensor, index: Tensor, cells: Tensor) -> Tensor:
    """Whether a cell of a map may have a neighbour of the same value.

    `maps` has shape (L, h, w), `index` shape (M,), `cells` shape (M, 2) as x, y; the result has shape (M,).

    Examples
    --------
    >>> maps = torch.tensor([[[0.0, 1.0, 1.0, 0.0]] * 3])
    >>> _has_tie(maps, torch.tensor([0, 0]), torch.tensor([[1, 0], [3, 2]])).tolist()
    [True, True]
    """
    if min(maps.shape[1:]) < 3:
        return torch.ones_like(index, dtype=torch.bool)
    values, _ = read_neighbourhoods(maps, index, cells)
    of_cells = maps[index, cells[:, 1], cells[:, 0]]
    return (values == of_cells.view(-1, 1, 1)).sum(dim=(1, 2)) > 1


def _label_regions(mask: np.ndarray) -> np.ndarray:
    """Number the connected regions of a stack of maps (T, h, w); cells that touch at a corner are connected.

    Examples
    --------
    >>> _label_regions(np.array([[[1, 0], [0, 1]], [[1, 0], [0, 0]]])).tolist()
    [[[1, 0], [0, 1]], [[2, 0], [0, 0]]]
    """
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1] = True  # within a map only
    return ndimage.label(mask, structure)[0]


def _middles(labels: np.ndarray) -> np.ndarray:
    """For each labelled region of a stack of maps, its cell nearest to the mean of its cells.

    Parameters
    ----------
    labels : ndarray of int, shape (T, h, w)
        0 for no region; a region lies in one map.

    Returns
    -------
    ndarray of int64, shape (R, 4)
        Label, map, row and column, in the order of labels.

    Examples
    --------
    >>> _middles(np.array([[[3, 3, 3, 0, 5]]])).tolist()
    [[3, 0, 0, 1], [5, 0, 0, 4]]
    """
    sizes = np.bincount(labels.ravel())
    names = np.flatnonzero(sizes[1:]) + 1
    places = np.stack(labels.nonzero())
    region = np.searchsorted(names, labels[tuple(places)])
    squares = np.zeros(len(region))
    for axis in places[1:]:
        means = np.bincount(region, weights=axis, minlength=len(names)) / sizes[names]
        squares += (axis - means[region]) ** 2
    least = np.full(len(names), np.inf)
    np.minimum.at(least, region, squares)
    nearest = np.flatnonzero(squares == least[region])
    first = nearest[np.unique(region[nearest], return_index=True)[1]]
    return np.stack([names, *places[:, first]], axis=1)


def centre_on_plateaus(maps: Tensor, cells: Tensor) -> Tensor:
    """Move the strongest cell of each map to the middle of the plateau that it is a cell of.

    Parameters
    ----------
    maps : Tensor, shape (L, h, w)
        Scores.
    cells : Tensor of int64, shape (L, 2)
        Column and row of the strongest cell of each map.

    Returns
    -------
    Tensor of int64, shape (L, 2)
        The same cells, or of connected equal ones the one nearest to their mean.

    Examples
    --------
    >>> maps = torch.tensor([[[0.0, 7.0, 7.0, 7.0, 0.0, 7.0]] * 3])
    >>> centre_on_plateaus(maps, torch.tensor([[1, 0]])).tolist()
    [[2, 1]]
    """
    index = torch.arange(len(maps), device=maps.device)
    tied = _has_tie(maps, index, cells).nonzero().squeeze(1)
    if not len(tied):
        return cells
    summits = maps[tied, cells[tied, 1], cells[tied, 0]]
    labels = _label_regions((maps[tied] == summits.view(-1, 1, 1)).cpu().numpy())
    first = cells[tied].cpu().numpy()
    chosen = labels[np.arange(len(first)), first[:, 1], first[:, 0]]
    middles = _middles(np.where(labels == chosen[:, None, None], labels, 0))
    cells = cells.clone()
    where = torch.from_numpy(middles[:, 1]).to(tied.device)
    cells[tied[where]] = torch.from_numpy(middles[:, [3, 2]]).to(cells)
    return cells


def _merge_plateaus(maps: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """One cell for each plateau of local maxima; none for one that goes on uphill.

    `maps` and `highest` have shape (L, h, w); the index has shape (M,), the cells shape (M, 2) as x, y.

    Examples
    --------
    >>> maps = torch.tensor([[[3.0, 3.0, 3.0, 0.0, 1.0, 1.0, 2.0]]])
    >>> highest = torch.tensor([[[True, True, True, False, True, False, True]]])
    >>> _merge_plateaus(maps, highest)[1].tolist()
    [[1, 0], [6, 0]]
    """
    labels = _label_regions(highest.cpu().numpy())
    beside = _max_of_neighbours(maps.masked_fill(highest, -torch.inf))  # of cells that are no maxima
    uphill = np.unique(labels[(highest & (beside == maps)).cpu().numpy()])
    middles = _middles(np.where(np.isin(labels, uphill), 0, labels))
    found = torch.from_numpy(middles).to(maps.device)
    return found[:, 1], found[:, [3, 2]]


def find_maxima(maps: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Find the local maxima of maps: cells that no neighbour exceeds, one for each plateau.

    Parameters
    ----------
    maps : Tensor, shape (L, h, w)
        Scores; NaN and -inf are never maxima.
    least : float
        Smallest score of a maximum.

    Returns
    -------
    Tensor of int64, shape (M,)
        Map of each maximum, ascending.
    Tensor of int64, shape (M, 2)
        Its column and row.

    Examples
    --------
    >>> maps = torch.tensor([[[0.0, 5.0, 5.0, 5.0, 0.0, 3.0, 3.0, 4.0]] * 3])
    >>> index, cells = find_maxima(maps, least=1.0)
    >>> cells.tolist()  # the shoulder at 3 is no maximum
    [[2, 1], [7, 1]]
    """
    highest = (_max_of_neighbours(maps) == maps) & (maps >= least) & (maps > -torch.inf)
    index, rows, columns = highest.nonzero(as_tuple=True)
    cells = torch.stack([columns, rows], dim=1)
    in_tie = torch.zeros(len(maps), dtype=torch.bool, device=maps.device)
    in_tie[index[_has_tie(maps, index, cells)]] = True
    if not bool(in_tie.any()):
        return index, cells
    merged, merged_cells = _merge_plateaus(maps[in_tie], highest[in_tie])
    clear = ~in_tie[index]
    index = torch.cat([index[clear], in_tie.nonzero().squeeze(1)[merged]])
    order = index.sort(stable=True).indices
    return index[order], torch.cat([cells[clear], merged_cells])[order]
