"""Comparison of feature maps: losses of a student, channel statistics, and scores with mergeable sums."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RELATED_CELLS = 400  # cells of a crop whose relations are compared; the cost grows with the square
TERMS = ("cosine", "smooth_l1", "relation")


def valid_cells(valid: Tensor, grid: Sequence[int]) -> Tensor:
    """Which cells of a grid are valid by more than half.

    Parameters
    ----------
    valid : Tensor of bool, shape (B, H, W)
        Of each pixel.
    grid : sequence of two int
        Rows and columns of cells.

    Returns
    -------
    Tensor of bool, shape (B, rows, columns)

    Examples
    --------
    >>> valid_cells(torch.tensor([[[True, True, True, False]]]), (1, 2)).tolist()
    [[[True, False]]]
    """
    return F.adaptive_avg_pool2d(valid[:, None].float(), (grid[0], grid[1]))[:, 0] > 0.5


def distill_counts(valid: Tensor, grids: Sequence[Sequence[int]], terms: Collection[str]) -> dict[str, Tensor]:
    """Divisors of the loss terms: valid cells of all maps, each map counted as if it had the grid of the first.

    Parameters
    ----------
    valid : Tensor of bool, shape (B, H, W)
        Of each pixel.
    grids : sequence of (int, int)
        Rows and columns of each map.
    terms : collection of str
        Of `TERMS`.

    Examples
    --------
    >>> counts = distill_counts(torch.ones(2, 8, 8, dtype=torch.bool), [(2, 4), (1, 2)], ["cosine"])
    >>> float(counts["cosine"])  # 2 crops x 2 maps x 8 cells
    32.0
    """
    cells = grids[0][0] * grids[0][1]
    shares = [valid_cells(valid, grid).flatten(1).double().mean(dim=1) for grid in grids]
    count = torch.stack(shares).sum() * cells
    return {name: count for name in TERMS if name in terms}


def distill_sums(
    predicted: Sequence[Tensor], target: Sequence[Tensor], valid: Tensor, terms: Collection[str]
) -> dict[str, Tensor]:
    """Sums of the loss terms over the valid cells of all maps; divided by `distill_counts` they are means.

    Parameters
    ----------
    predicted, target : sequence of Tensor, shape (B, C_i, h_i, w_i)
        Maps with standardised channels.
    valid : Tensor of bool, shape (B, H, W)
        Of each pixel of the crops.
    terms : collection of str
        Of `TERMS`; others are not computed.

    Returns
    -------
    dict of Tensor
        One sum per term.

    References
    ----------
    Cosine and smooth L1 as in Ranzinger et al., 2024 (arXiv:2312.06709), equation 3; the relations as in Park et al.,
    2019 (arXiv:1904.05068), with cosines in place of distances and angles.

    Examples
    --------
    >>> predicted, target = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    >>> predicted[0, 0], target[0, 1] = 1.0, 3.0
    >>> sums = distill_sums([predicted], [target], torch.ones(1, 4, 8, dtype=torch.bool), TERMS)
    >>> {name: float(value) for name, value in sums.items()}
    {'cosine': 2.0, 'smooth_l1': 3.0, 'relation': 0.0}
    """
    cells = target[0].shape[-2] * target[0].shape[-1]
    sums = {name: predicted[0].new_zeros(()) for name in TERMS if name in terms}
    for student_map, teacher_map in zip(predicted, target, strict=True):
        valid_map = valid_cells(valid, teacher_map.shape[-2:])
        share = cells / valid_map[0].numel() if len(valid_map) else 1.0
        if "cosine" in sums:
            sums["cosine"] = (
                sums["cosine"] + share * ((1 - F.cosine_similarity(student_map, teacher_map, dim=1)) * valid_map).sum()
            )
        if "smooth_l1" in sums:
            distance = F.smooth_l1_loss(student_map, teacher_map, reduction="none").mean(dim=1)
            sums["smooth_l1"] = sums["smooth_l1"] + share * (distance * valid_map).sum()
        if "relation" in sums:
            sums["relation"] = sums["relation"] + share * relation_sum(student_map, teacher_map, valid_map)
    return sums


def relation_sum(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared difference of the cosines between any two valid cells of a crop, times its valid cells.

    Parameters
    ----------
    predicted, target : Tensor, shape (B, C, h, w)
        Maps.
    valid : Tensor of bool, shape (B, h, w)
        Cells that count.

    Returns
    -------
    Tensor, no dimensions
        Summed over the batch. Of larger grids, `RELATED_CELLS` evenly spread cells are compared.

    Examples
    --------
    >>> predicted, target = torch.ones(1, 1, 1, 2), torch.tensor([[[[1.0, -1.0]]]])
    >>> float(relation_sum(predicted, target, torch.ones(1, 1, 2, dtype=torch.bool)))  # 2 of 4 pairs differ by 2
    4.0
    """
    number = valid[0].numel() if len(valid) else 0
    step = max(-(-number // RELATED_CELLS), 1)
    chosen = valid.flatten(1)[:, ::step]
    cosines = []
    for feature_map in (predicted, target):
        directions = F.normalize(feature_map.flatten(2)[..., ::step], dim=1)
        cosines.append(directions.transpose(1, 2) @ directions)
    pairs = chosen[:, :, None] & chosen[:, None, :]
    squares = ((cosines[0] - cosines[1]).square() * pairs).sum(dim=(1, 2))
    return (squares / pairs.sum(dim=(1, 2)).clamp(min=1) * valid.flatten(1).sum(dim=1)).sum()


class ChannelStatistics:
    """Mean and deviation of every channel over maps that are added one by one.

    Examples
    --------
    >>> statistics = ChannelStatistics()
    >>> statistics.update(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]]))
    >>> mean, deviation = statistics.compute()
    >>> mean.tolist(), [round(value, 3) for value in deviation.tolist()]
    ([2.0, 2.0], [1.0, 0.001])
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def update(self, feature_map: Tensor) -> None:
        """Count a map (C, h, w).

        Examples
        --------
        >>> statistics = ChannelStatistics()
        >>> statistics.update(torch.zeros(2, 3, 4))
        >>> statistics.count
        12
        """
        vectors = feature_map.double().flatten(1)
        self.count += vectors.shape[1]
        self.sums = self.sums + vectors.sum(dim=1)
        self.squares = self.squares + vectors.square().sum(dim=1)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, both of shape (C,); the deviation of a constant channel is at least 0.001.

        Examples
        --------
        >>> statistics = ChannelStatistics()
        >>> statistics.update(torch.full((1, 1, 2), 7.0))
        >>> [value.item() for value in statistics.compute()][0]
        7.0
        """
        assert isinstance(self.sums, Tensor), "no map was counted"
        assert isinstance(self.squares, Tensor), "no map was counted"
        mean = self.sums / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return mean, variance.sqrt().clamp(min=1e-3)


class LinearFit:
    """Least squares from the vectors of one map to those of another on the same grid, over pairs of maps.

    Examples
    --------
    >>> fit, features = LinearFit(), torch.randn(2, 4, 5)
    >>> fit.update(features, torch.stack([features[0] + 2 * features[1], 3 - features[0]]))
    >>> weight, bias = fit.solve(ridge=0.0)
    >>> [[round(value, 4) + 0.0 for value in row] for row in weight.tolist()]
    [[1.0, 2.0], [-1.0, 0.0]]
    >>> [round(value, 4) + 0.0 for value in bias.tolist()]
    [0.0, 3.0]
    """

    def __init__(self) -> None:
        self.products: Tensor | float = 0.0
        self.crossed: Tensor | float = 0.0

    def update(self, features: Tensor, target: Tensor) -> None:
        """Count the cells of two maps, (C, h, w) and (D, h, w).

        Examples
        --------
        >>> fit = LinearFit()
        >>> fit.update(torch.zeros(2, 3, 4), torch.zeros(5, 3, 4))
        >>> fit.products.shape, fit.crossed.shape
        (torch.Size([3, 3]), torch.Size([3, 5]))
        """
        vectors = features.double().flatten(1)
        vectors = torch.cat([vectors, torch.ones_like(vectors[:1])])
        self.products = self.products + vectors @ vectors.T
        self.crossed = self.crossed + vectors @ target.double().flatten(1).T

    def solve(self, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
        """Weight (D, C) and bias (D,); `ridge` is a share of the mean variance of the vectors, and spares the bias.

        Examples
        --------
        >>> fit = LinearFit()
        >>> fit.update(torch.ones(1, 2, 2), torch.full((1, 2, 2), 4.0))
        >>> [round(value.item(), 3) for value in fit.solve()]  # a constant channel explains nothing
        [0.0, 4.0]
        """
        assert isinstance(self.products, Tensor), "no map was counted"
        assert isinstance(self.crossed, Tensor), "no map was counted"
        count = self.products[-1, -1]
        mean, target_mean = self.products[:-1, -1] / count, self.crossed[-1] / count
        covariance = self.products[:-1, :-1] / count - mean.outer(mean)
        level = ridge * covariance.diagonal().mean().clamp(min=1e-12)
        crossed = self.crossed[:-1] / count - mean.outer(target_mean)
        weight = torch.linalg.solve(covariance + level * torch.eye(len(mean), dtype=mean.dtype), crossed).T
        return weight, target_mean - weight @ mean


@dataclass
class MapScores:
    """How well maps of one block are predicted: sums over cells.

    Parameters
    ----------
    cells : int
        Valid cells.
    cosine, raw_cosine : float
        Sums of cosines, of standardised channels and of raw ones.
    error, squares : float
        Sums of squared differences and of squared targets, standardised.
    sums : ndarray, shape (C,)
        Sums of the standardised targets.
    directions : ndarray, shape (C,)
        Sums of the standardised targets, each divided by its length.

    Examples
    --------
    >>> scores = MapScores(2, 1.0, 2.0, 1.0, 6.0, np.array([2.0]))
    >>> scores.compute()
    {'cosine': 0.5, 'raw_cosine': 1.0, 'explained_variance': 0.75}
    """

    cells: int = 0
    cosine: float = 0.0
    raw_cosine: float = 0.0
    error: float = 0.0
    squares: float = 0.0
    sums: Any = 0.0
    directions: Any = 0.0

    def add(self, other: MapScores) -> None:
        """Add the sums of further maps.

        Examples
        --------
        >>> scores = MapScores()
        >>> scores.add(MapScores(2, 1.0, 2.0, 0.0, 1.0, np.array([0.0])))
        >>> scores.cells
        2
        """
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def state(self) -> dict[str, Any]:
        """Sums as numbers and an array.

        Examples
        --------
        >>> MapScores(1, 0.5, 0.5, 0.0, 1.0, np.array([2.0])).state()["sums"]
        array([2.])
        """
        return {**vars(self), "sums": np.asarray(self.sums), "directions": np.asarray(self.directions)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MapScores:
        """The sums that `state` gave.

        Examples
        --------
        >>> MapScores.from_state(MapScores(1, 0.5, 0.5, 0.0, 1.0, np.array([2.0])).state()).sums.tolist()
        [2.0]
        """
        return cls(**state)

    def constant_cosine(self) -> float:
        """Mean cosine of the best map that is the same in every cell: the length of the mean direction.

        Examples
        --------
        >>> target = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]])
        >>> scores = score_map(target, target, (target, target), torch.ones(1, 2, dtype=torch.bool))
        >>> round(scores.constant_cosine(), 4)  # at 45 degrees to both
        0.7071
        """
        return float(np.linalg.norm(self.directions)) / self.cells if self.cells else float("nan")

    def compute(self) -> dict[str, float]:
        """Mean cosines, and the share of the targets' variance that is explained; NaN where nothing was counted.

        Examples
        --------
        >>> MapScores().compute()
        {'cosine': nan, 'raw_cosine': nan, 'explained_variance': nan}
        """
        if not self.cells:
            return dict.fromkeys(("cosine", "raw_cosine", "explained_variance"), float("nan"))
        spread = self.squares - float(np.square(self.sums).sum()) / self.cells
        return {
            "cosine": self.cosine / self.cells,
            "raw_cosine": self.raw_cosine / self.cells,
            "explained_variance": 1 - self.error / spread if spread > 0 else float("nan"),
        }


def score_map(predicted: Tensor, target: Tensor, raw: tuple[Tensor, Tensor], valid: Tensor) -> MapScores:
    """Compare one predicted map with its target.

    Parameters
    ----------
    predicted, target : Tensor, shape (C, h, w)
        With standardised channels.
    raw : pair of Tensor, shape (C, h, w)
        The same with raw channels.
    valid : Tensor of bool, shape (h, w)
        Cells that count.

    Examples
    --------
    >>> target = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]])
    >>> scores = score_map(target / 2, target, (target, -target), torch.ones(1, 2, dtype=torch.bool))
    >>> scores.cells, scores.cosine, scores.raw_cosine, scores.error, scores.sums.tolist()
    (2, 2.0, -2.0, 6.25, [3.0, 4.0])
    """
    student_map, teacher_map, raw_student, raw_teacher = (part.double()[:, valid] for part in (predicted, target, *raw))
    return MapScores(
        int(valid.sum()),
        float(F.cosine_similarity(student_map, teacher_map, dim=0).sum()),
        float(F.cosine_similarity(raw_student, raw_teacher, dim=0).sum()),
        float((student_map - teacher_map).square().sum()),
        float(teacher_map.square().sum()),
        teacher_map.sum(dim=1).cpu().numpy(),
        F.normalize(teacher_map, dim=0).sum(dim=1).cpu().numpy(),
    )
