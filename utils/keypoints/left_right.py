"""Left and right: which keypoints are pairs, which tell an animal's axis, and losses that keep the sides apart.

The picture is seen from above, y points down: looking from the back of an animal to its front, what lies on its left
has a negative cross product with the axis. The losses are sums over pairs and images, to be divided by the number of
`active_pairs`; they speak of one place per keypoint, so they are silent where an image shows several animals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from utils.errors import DataError
from utils.keypoints.heatmaps import points_on_grid
from utils.keypoints.peaks import raise_to_single

_FRONT = ("nose", "snout", "muzzle", "beak", "mouth", "head", "neck")
_BACK = ("tailbase", "baseoftail", "roottail", "tailroot", "rootoftail", "tailstart", "tail", "abdomen", "rump")
_TINY = 1e-6  # cells; keeps the gradient of a length of 0 finite
_CELL = 1.0  # a direction within less than a cell says nothing, and its gradient would drown all others


# --- names -----------------------------------------------------------------------------------------------------------


def left_right_pairs(flip_idx: Sequence[int], names: Sequence[str] | None = None) -> Tensor:
    """List the pairs of keypoints that a mirror exchanges.

    Parameters
    ----------
    flip_idx : sequence of int
        The keypoint that each one turns into in a mirror.
    names : sequence of str, optional
        Names of the keypoints; with them, the left one comes first. Without them, the lower index does.

    Returns
    -------
    Tensor of int64, shape (P, 2)
        Indices, by the lower one of each pair.

    Raises
    ------
    DataError
        If the names of a pair do not tell which one is left.

    Examples
    --------
    >>> left_right_pairs((0, 2, 1, 4, 3)).tolist()
    [[1, 2], [3, 4]]
    >>> left_right_pairs((0, 2, 1, 4, 3), ("nose", "rightear", "leftear", "paw1LH", "paw4RH")).tolist()
    [[2, 1], [3, 4]]
    """
    pairs = [(index, other) for index, other in enumerate(flip_idx) if index < other]
    if names is not None:
        pairs = [(one, other) if _is_left(names[one], names[other]) else (other, one) for one, other in pairs]
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def _is_left(name: str, partner: str) -> bool:
    """Whether the first of two names that are a pair is the left one.

    Raises
    ------
    DataError
        When the names do not say which of them is the left one.

    Examples
    --------
    >>> _is_left("eyeL", "eyeR"), _is_left("rightEar", "leftEar")
    (True, False)
    >>> _is_left("Nearknee", "Offknee")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: keypoints 'Nearknee' and 'Offknee': which is left? rename them, or do not swap sides
    """
    one, other = name.lower(), partner.lower()
    sides = {("left" in one, "right" in one), ("right" in other, "left" in other)} - {(False, False)}
    if not sides:
        sides = {(a == "l", a == "r") for a, b in zip(one, other, strict=False) if {a, b} == {"l", "r"}}
    if len(sides) != 1 or (True, True) in sides:
        raise DataError(f"keypoints {name!r} and {partner!r}: which is left? rename them, or do not swap sides")
    return sides == {(True, False)}


def _plain_names(names: Sequence[str]) -> list[str]:
    """Names in small letters without separators; empty for those that have a side.

    Examples
    --------
    >>> _plain_names(("Tail_Base top", "tailBase2", "left_ear", "noseL", "EarRight"))
    ['tailbasetop', 'tailbase2', '', '', '']
    """
    words = [re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name) for name in names]
    sided = [any(re.fullmatch("l|r|.*(left|right).*", word.lower()) for word in parts) for parts in words]
    return ["" if side else "".join(parts).lower() for parts, side in zip(words, sided, strict=True)]


def _find_names(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Indices of names without a side, in the order of the wanted words: exact names, else the first that begins so.

    Examples
    --------
    >>> _find_names(("left_head", "tail_base_top", "Head", "tail", "noseL"), ("nose", "head", "tailbase", "tail"))
    [2, 1, 3]
    """
    plain, found = _plain_names(names), list[int]()
    for word in wanted:
        rest = [index for index in range(len(names)) if index not in found]
        exact = [index for index in rest if plain[index] == word]
        found += exact or [index for index in rest if plain[index].startswith(word)][:1]
    return found


def body_axis(names: Sequence[str]) -> tuple[int, int] | None:
    """Choose the two keypoints between which the body's axis runs.

    The first two anchors may be nose and head: too near each other to give a direction. So the front end comes from one
    list of names and the back end from another.

    Parameters
    ----------
    names : sequence of str
        Names of the keypoints.

    Returns
    -------
    (int, int) or None
        Indices of the front and of the back; None where one is missing, and where there are two fronts of the same
        kind, as nose_top and nose_bottom of two views: one axis would not fit both.

    Examples
    --------
    >>> body_axis(("tailbase", "head", "nose", "leftear")), body_axis(("nose_top", "nose_bottom", "tail"))
    ((2, 0), None)
    """
    front, back = _find_names(names, _FRONT), _find_names(names, _BACK)
    if not front or not back:
        return None
    plain = _plain_names(names)
    word = next(word for word in _FRONT if plain[front[0]].startswith(word))
    rivals = [name for name in plain if name.startswith(word)]
    return (front[0], back[0]) if word in plain or len(rivals) == 1 else None


# --- which pairs are compared ----------------------------------------------------------------------------------------


def active_pairs(
    keypoints: Tensor,
    pairs: Tensor,
    grid: tuple[int, int],
    stride: float,
    *,
    axis: tuple[int, int] | None = None,
    least_distance_cells: float = 0.0,
) -> Tensor:
    """Tell in which images a pair is compared: those with one animal that shows both keypoints.

    Parameters
    ----------
    keypoints : Tensor, shape (B, N, K, 3)
        x and y in canvas pixels, visibility.
    pairs : Tensor of int64, shape (P, 2)
        Indices.
    grid : (int, int)
        Rows and columns of the output.
    stride : float
        Canvas pixels per cell.
    axis : (int, int), optional
        Keypoints that must be there, too.
    least_distance_cells : float
        Pairs that truly are nearer to each other, as in an animal seen from its side, are not to be driven apart.

    Returns
    -------
    Tensor of bool, shape (B, P)
        Its sum is the count of the losses.

    Examples
    --------
    >>> keypoints = torch.tensor([[[[2.0, 2.0, 2.0], [14.0, 2.0, 2.0], [6.0, 6.0, 0.0]]]])
    >>> active_pairs(keypoints, torch.tensor([[0, 1], [0, 2]]), (2, 4), stride=4).tolist()
    [[True, False]]
    >>> active_pairs(keypoints, torch.tensor([[0, 1]]), (2, 4), stride=4, least_distance_cells=4).tolist()
    [[False]]
    """
    points, present = points_on_grid(keypoints, grid, stride)
    alone = present.any(dim=2).sum(dim=1, keepdim=True) == 1
    points, present = points.sum(dim=1), present.any(dim=1)  # of the one animal
    pairs = pairs.to(points.device)
    apart = (points[:, pairs[:, 0]] - points[:, pairs[:, 1]]).norm(dim=-1) >= least_distance_cells
    active = alone & apart & present[:, pairs].all(dim=2)
    return active if axis is None else active & present[:, list(axis)].all(dim=1, keepdim=True)


# --- losses ----------------------------------------------------------------------------------------------------------


def _soft_length(vectors: Tensor, least: float) -> Tensor:
    """Lengths of vectors (..., 2), at least `least`, with a finite gradient at 0.

    The result has shape (...).

    Examples
    --------
    >>> _soft_length(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), least=4.0).tolist()
    [5.0, 4.0]
    """
    return (vectors.square().sum(dim=-1) + least**2).sqrt()


def pair_overlap(logits: Tensor, pairs: Tensor, active: Tensor) -> Tensor:
    """Sum the probability that left and right, drawn from their maps, fall into the same cell.

    Parameters
    ----------
    logits : Tensor, shape (B, K, h, w)
        Scores; each map is brought to a sum of 1 by a softmax over its cells.
    pairs : Tensor of int64, shape (P, 2)
        Indices.
    active : Tensor of bool, shape (B, P)
        Pairs to compare, from `active_pairs`; `active.sum()` is the count.

    Returns
    -------
    Tensor, shape ()
        The sum, from 0 to the count.

    Examples
    --------
    >>> pairs, active = torch.tensor([[0, 1]]), torch.tensor([[True]])
    >>> pair_overlap(torch.zeros(1, 2, 2, 4), pairs, active).item()  # 8 cells of 1 / 8 * 1 / 8
    0.125
    """
    image, pair = active.nonzero(as_tuple=True)
    chosen = pairs.to(image.device)[pair]
    left, right = (logits[image, chosen[:, side]].flatten(1) for side in (0, 1))
    return (raise_to_single(left).softmax(dim=1) * raise_to_single(right).softmax(dim=1)).sum()


def pair_margin(points: Tensor, pairs: Tensor, active: Tensor, margin_cells: float) -> Tensor:
    """Sum how much nearer than a margin left and right are.

    Parameters
    ----------
    points : Tensor, shape (B, K, 2)
        x and y in cells, from `peaks.soft_argmax`.
    pairs : Tensor of int64, shape (P, 2)
        Indices.
    active : Tensor of bool, shape (B, P)
        Pairs to compare; best those that truly are as far apart as the margin.
    margin_cells : float
        Distance from which on there is nothing to pay.

    Returns
    -------
    Tensor, shape ()
        The sum in cells.

    Examples
    --------
    >>> points = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [9.0, 0.0]]])
    >>> pair_margin(points, torch.tensor([[0, 1], [0, 2]]), torch.tensor([[True, True]]), 8.0).item()
    3.0
    """
    pairs = pairs.to(points.device)
    between = points[:, pairs[:, 0]] - points[:, pairs[:, 1]]
    return (margin_cells - _soft_length(between, _TINY)).relu().where(active, 0.0).sum()


def _across(points: Tensor, axis: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Cross product of the body's axis with each point's place, the axis, and the places seen from its middle.

    `points` has shape (..., K, 2); the cross product has shape (..., K).

    Examples
    --------
    >>> points = torch.tensor([[0.0, -2.0], [0.0, 2.0], [-3.0, 5.0]])  # the nose looks up the picture
    >>> _across(points, axis=(0, 1))[0].tolist()  # 4 cells of axis, 3 cells to its left
    [0.0, 0.0, -12.0]
    """
    front, back = points[..., axis[0], :].unsqueeze(-2), points[..., axis[1], :].unsqueeze(-2)
    along, arms = front - back, points - (front + back) / 2
    return along[..., 0] * arms[..., 1] - along[..., 1] * arms[..., 0], along, arms


def _sides(points: Tensor, axis: tuple[int, int]) -> Tensor:
    """Sine of the angle from the body's axis to each point, seen from the middle of the axis; the left is negative.

    `points` has shape (..., K, 2), the result shape (..., K).

    Examples
    --------
    >>> points = torch.tensor([[0.0, -200.0], [0.0, 200.0], [-300.0, 0.0], [400.0, 400.0], [0.5, 0.0]])
    >>> [round(value, 2) for value in _sides(points, axis=(0, 1)).tolist()]  # the last is too near to tell
    [0.0, 0.0, -1.0, 0.71, 0.45]
    """
    cross, along, arms = _across(points, axis)
    return cross / _soft_length(along, _CELL) / _soft_length(arms, _CELL)


def side_consistency(
    points: Tensor, pairs: Tensor, active: Tensor, axis: tuple[int, int], margin: float = 0.0
) -> Tensor:
    """Sum relu(s_left * s_right + margin): what it costs that both of a pair lie on one side of the body's axis.

    Parameters
    ----------
    points : Tensor, shape (B, K, 2)
        x and y in cells, from `peaks.soft_argmax`.
    pairs : Tensor of int64, shape (P, 2)
        Indices.
    active : Tensor of bool, shape (B, P)
        Pairs to compare, in images where the axis is known.
    axis : (int, int)
        Indices of the front and the back, from `body_axis`.
    margin : float
        Pairs pay until the product of their sines is below -margin.

    Returns
    -------
    Tensor, shape ()
        The sum.

    Examples
    --------
    >>> points = torch.tensor([[[0.0, -200.0], [0.0, 200.0], [-300.0, 0.0], [-400.0, 0.0], [400.0, 0.0]]])
    >>> pairs, active = torch.tensor([[2, 3], [2, 4]]), torch.tensor([[True, True]])
    >>> round(side_consistency(points, pairs, active, (0, 1), margin=0.25).item(), 3)
    1.25
    """
    sines, pairs = _sides(points, axis), pairs.to(points.device)
    products = sines[:, pairs[:, 0]] * sines[:, pairs[:, 1]]
    return (products + margin).relu().where(active, 0.0).sum()


# --- labels ----------------------------------------------------------------------------------------------------------


def canonicalise_left_right(keypoints: Tensor, pairs: Tensor, axis: tuple[int, int]) -> Tensor:
    """Exchange the labels of pairs whose left lies further to the right of the body's axis than their right does.

    For labels of training only: on labels of evaluation it would hide the very errors that are to be counted. Pairs
    stay as they are where one of the two, or an end of the axis, is missing.

    Parameters
    ----------
    keypoints : Tensor, shape (..., K, 3)
        x and y (y down), visibility; coordinates with visibility 0 may be NaN.
    pairs : Tensor of int64, shape (P, 2)
        Indices, left first (`left_right_pairs` with names).
    axis : (int, int)
        Indices of the front and the back, from `body_axis`.

    Returns
    -------
    Tensor, shape (..., K, 3)
        A copy with exchanged rows.

    Examples
    --------
    >>> keypoints = torch.tensor([[5.0, 0.0, 2.0], [5.0, 9.0, 2.0], [7.0, 3.0, 2.0], [3.0, 4.0, 1.0]])
    >>> canonicalise_left_right(keypoints, torch.tensor([[2, 3]]), axis=(0, 1))[2:].tolist()
    [[3.0, 4.0, 1.0], [7.0, 3.0, 2.0]]
    """
    present = keypoints[..., 2] > 0
    points = keypoints[..., :2].where(present.unsqueeze(-1), 0.0)
    cross, _, _ = _across(points, axis)
    left, right = pairs.to(keypoints.device).unbind(dim=1)
    wrong = (cross[..., left] > cross[..., right]) & present[..., left] & present[..., right]
    wrong = (wrong & present[..., list(axis)].all(dim=-1, keepdim=True)).unsqueeze(-1)
    result = keypoints.clone()
    result[..., left, :] = torch.where(wrong, keypoints[..., right, :], keypoints[..., left, :])
    result[..., right, :] = torch.where(wrong, keypoints[..., left, :], keypoints[..., right, :])
    return result
