"""Losses of keypoint heads as sums; their counts follow from the targets alone, as in `utils.losses`.

Maps are compared cell by cell where there is a picture (`valid`). Three choices keep the maps' summits sharp, because
the decoder reads sub-pixel places from their shape:

- Class balance weighs whole cells, by 1 + (w - 1) * target. To weigh the positive half of the cross entropy alone
  would move its optimum: at w = 80 a target of 0.1 asks for a probability of 0.9, and summits become plateaus.
- The focal loss of heatmaps weighs by |target - p| (quality focal loss), so that its optimum is the target, too.
- Dice has squares in the denominator. Without them its optimum for a soft target is a hard mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.boxes.geometry import generalised_ious, sides_to_xyxy
from utils.keypoints.heatmaps import UNKNOWN, single_points
from utils.keypoints.peaks import raise_to_single, soft_argmax

_NOWHERE = -1e30  # logit of a cell without a picture; finite, so that a map of nothing else gives no NaN
_LARGEST_WEIGHT = 50.0  # of a cell of a keypoint against one of empty ground
_EPS = 1e-6  # added to the numerator and denominator of Dice
_FURTHEST = 4.0  # canvas sizes; box edges beyond this say nothing more to the overlap and would overflow


# --- heatmaps --------------------------------------------------------------------------------------------------------


def positive_weights(sums: Tensor) -> Tensor:
    """Choose how much the cells of a keypoint weigh against its empty ground.

    Parameters
    ----------
    sums : Tensor, shape (2, K)
        Sums of each keypoint's targets, and of 1 - target, over the training set: no weight depends on a batch.

    Returns
    -------
    Tensor of float32, shape (K,)
        Negative over positive, from 1 to 50; 1 for a keypoint that never occurs.

    Examples
    --------
    >>> positive_weights(torch.tensor([[2.0, 1.0, 8.0, 0.0], [8.0, 900.0, 2.0, 10.0]])).tolist()
    [4.0, 50.0, 1.0, 1.0]
    """
    positive, negative = sums.double()
    weights = (negative / positive.clamp(min=torch.finfo(torch.float64).tiny)).clamp(1.0, _LARGEST_WEIGHT)
    return weights.where(positive > 0, 1.0).float()


_bce = partial(F.binary_cross_entropy_with_logits, reduction="none")
HEATMAP_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": _bce,
    "mse": lambda logits, target: (logits.sigmoid() - target) ** 2,
    "focal": lambda logits, target: _bce(logits, target) * (logits.sigmoid() - target) ** 2,  # gamma of 2
}


def _soft_dice_sum(logits: Tensor, target: Tensor, valid: Tensor | float) -> Tensor:
    """Sum 1 - Dice over the maps that show their keypoint.

    All have shape (B, K, h, w), or one that broadcasts to it.

    Examples
    --------
    >>> target = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])
    >>> round(_soft_dice_sum(torch.zeros(1, 2, 1, 2), target, 1.0).item(), 4)  # 1 - 2 / (0.5 + 2)
    0.2
    """
    probabilities, truth = logits.sigmoid() * valid, target * valid
    overlap = (probabilities * truth).sum(dim=(2, 3))
    total = (probabilities.square() + truth.square()).sum(dim=(2, 3))
    return (1 - (2 * overlap + _EPS) / (total + _EPS)).where(truth.sum(dim=(2, 3)) > 0, 0.0).sum()


def heatmap_sums(
    logits: Tensor,
    target: Tensor,
    *,
    valid: Tensor | None = None,
    kind: str = "bce",
    heatmap_weight: float = 1.0,
    dice_weight: float = 0.5,
    balance: Tensor | None = None,
) -> dict[str, Tensor]:
    """Sum the terms of a heatmap loss.

    Parameters
    ----------
    logits : Tensor, shape (B, K, h, w)
        Scores before the sigmoid; half precision is raised to single.
    target : Tensor, shape (B, K, h, w)
        Values 0 to 1.
    valid : Tensor of bool, shape (B, 1, h, w), optional
        Cells with a picture; all of them when None.
    kind : {"bce", "mse", "focal"}
        Binary cross entropy, squared error of the probability, or quality focal loss.
    heatmap_weight, dice_weight : float
        Factors, already applied to the sums; a term with factor 0 is neither computed nor returned.
    balance : Tensor of shape (K,), optional
        Weight of a cell whose target is 1, from `positive_weights`; in between, weights follow the target.

    Returns
    -------
    dict of str to Tensor of shape ()
        "heatmap" and "dice", as far as they have a factor; sums, to be divided by what all ranks count.

    Raises
    ------
    ValueError
        If shapes do not agree, or the kind is unknown.

    References
    ----------
    Li et al., 2020 (arXiv:2006.04388), equation 2, for the focal loss; Milletari et al., 2016 (arXiv:1606.04797),
    section 3, for Dice with squares.

    Examples
    --------
    >>> logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    >>> sums = heatmap_sums(logits, target, kind="mse", dice_weight=1.0)
    >>> {name: round(value.item(), 4) for name, value in sums.items()}  # 1 / 4 + 1 / 4; 1 - 1 / 1.5
    {'heatmap': 0.5, 'dice': 0.3333}
    """
    if kind not in HEATMAP_LOSSES:
        raise ValueError(f"unknown heatmap loss {kind!r}; known: {', '.join(HEATMAP_LOSSES)}")
    if logits.shape != target.shape:
        raise ValueError(f"logits and target must agree, got {tuple(logits.shape)} and {tuple(target.shape)}")
    logits, counted = raise_to_single(logits), 1.0 if valid is None else valid.float()
    sums: dict[str, Tensor] = {}
    if heatmap_weight:
        weights = counted if balance is None else counted * (1 + (balance.to(target) - 1).view(-1, 1, 1) * target)
        sums["heatmap"] = heatmap_weight * (HEATMAP_LOSSES[kind](logits, target) * weights).sum()
    if dice_weight:
        sums["dice"] = dice_weight * _soft_dice_sum(logits, target, counted)
    return sums


# --- coordinates -----------------------------------------------------------------------------------------------------


COORDINATE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,
    "l1": F.l1_loss,
    "l2": F.mse_loss,
}


def coordinate_sum(
    logits: Tensor,
    keypoints: Tensor,
    stride: float,
    *,
    valid: Tensor | None = None,
    kind: str = "smooth_l1",
    temperature: float = 1.0,
) -> Tensor:
    """Sum the distances between the mean places of maps and the truth, where one instance has the keypoint.

    The place is the soft argmax over the whole map: over a window around the truth it would never learn that there is
    a second summit elsewhere. A lower temperature makes empty ground count less.

    Parameters
    ----------
    logits : Tensor, shape (B, K, h, w)
        Scores before the sigmoid; half precision is raised to single.
    keypoints : Tensor, shape (B, N, K, 3)
        x and y in canvas pixels, visibility; coordinates with visibility 0 may be NaN.
    stride : float
        Canvas pixels per cell.
    valid : Tensor of bool, shape (B, 1, h, w), optional
        Cells with a picture; the others have no part in the mean.
    kind : {"smooth_l1", "l1", "l2"}
        Smooth absolute, absolute, or squared difference in cells, summed over x and y.
    temperature : float
        Of the softmax.

    Returns
    -------
    Tensor, shape ()
        The sum; divide it by `coordinate_count`.

    Raises
    ------
    ValueError
        If the kind is unknown.

    References
    ----------
    Sun et al., 2018 (arXiv:1711.08229).

    Examples
    --------
    >>> keypoints = torch.tensor([[[[2.0, 6.0, 2.0], [float("nan"), 0.0, 0.0]]]])
    >>> coordinate_sum(torch.zeros(1, 2, 2, 4), keypoints, stride=4, kind="l1").item()  # |2 - 0.5| + |1 - 1.5|
    2.0
    """
    if kind not in COORDINATE_LOSSES:
        raise ValueError(f"unknown coordinate loss {kind!r}; known: {', '.join(COORDINATE_LOSSES)}")
    points, single = single_points(keypoints, (logits.shape[-2], logits.shape[-1]), stride)
    image, keypoint = single.nonzero(as_tuple=True)
    maps = raise_to_single(logits[image, keypoint])
    if valid is not None:
        maps = maps.masked_fill(~valid[image, 0], _NOWHERE)
    return COORDINATE_LOSSES[kind](soft_argmax(maps, temperature), points[image, keypoint], reduction="sum")


def coordinate_count(keypoints: Tensor, grid: tuple[int, int], stride: float) -> Tensor:
    """Count the keypoints that `coordinate_sum` compares.

    Parameters
    ----------
    keypoints, stride
        As there.
    grid : (int, int)
        Rows and columns of the maps.

    Returns
    -------
    Tensor of float64, shape ()
        Keypoints that exactly one instance of their image shows on the grid.

    Examples
    --------
    >>> coordinate_count(torch.tensor([[[[2.0, 6.0, 2.0], [1.0, 1.0, 0.0]]]]), (2, 4), stride=4).item()
    1.0
    """
    return single_points(keypoints, grid, stride)[1].sum().double()


# --- offsets, boxes, objects -----------------------------------------------------------------------------------------


def offset_sum(offsets: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Sum smooth L1 of the vectors to centres, where they are known; divide by `mask.sum()`.

    Parameters
    ----------
    offsets : Tensor, shape (B, 2 K, h, w)
        The head's vectors in cells; half precision is raised to single.
    target : Tensor, shape (B, 2 K, h, w)
        Those of `heatmaps.CentreTargets`.
    mask : Tensor of bool, shape (B, K, h, w)
        Where they are known.

    Returns
    -------
    Tensor, shape ()
        The sum over cells of x and y.

    Examples
    --------
    >>> target, mask = torch.tensor([[[[3.0, 9.0]], [[0.5, 9.0]]]]), torch.tensor([[[[True, False]]]])
    >>> offset_sum(torch.zeros(1, 2, 1, 2), target, mask).item()  # 3 - 1 / 2, and 0.5 ** 2 / 2
    2.625
    """
    image, keypoint, row, column = mask.nonzero(as_tuple=True)  # few cells: far faster than a loss of whole maps
    vectors, truth = (
        raise_to_single(torch.stack([maps[image, 2 * keypoint + axis, row, column] for axis in (0, 1)]))
        for maps in (offsets, target)
    )
    return F.smooth_l1_loss(vectors, truth, reduction="sum")


def box_sums(distances: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Sum the errors of boxes at the cells that answer for one; divide each term by `mask.sum()`.

    Parameters
    ----------
    distances : Tensor, shape (B, 4, h, w)
        The head's left, top, right, bottom as shares of the canvas; half precision is raised to single.
    target : Tensor, shape (B, 4, h, w)
        Those of `heatmaps.BoxTargets`.
    mask : Tensor of bool, shape (B, 1, h, w)
        Cells that answer for a box.

    Returns
    -------
    dict of str to Tensor of shape ()
        "box_l1", summed over the four sides, and "box_giou", 1 - generalised IoU.

    References
    ----------
    Rezatofighi et al., 2019 (arXiv:1902.09630).

    Examples
    --------
    >>> target = torch.tensor([0.25, 0.25, 0.25, 0.25]).view(1, 4, 1, 1)
    >>> sums = box_sums(2 * target, target, torch.tensor([[[[True]]]]))
    >>> {name: value.item() for name, value in sums.items()}
    {'box_l1': 1.0, 'box_giou': 0.75}
    """
    image, _, row, column = mask.nonzero(as_tuple=True)
    sides, truth = raise_to_single(distances[image, :, row, column]), target[image, :, row, column]
    centre = sides.new_zeros(2)
    boxes, others = sides_to_xyxy(centre, sides.clamp(-_FURTHEST, _FURTHEST)), sides_to_xyxy(centre, truth)
    return {"box_l1": (sides - truth).abs().sum(), "box_giou": (1 - generalised_ious(boxes, others)).sum()}


def objectness_sum(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Sum the penalty-reduced focal loss of a map of centres; divide by `objectness_count`.

    Parameters
    ----------
    logits : Tensor, shape (B, 1, h, w)
        Scores before the sigmoid; half precision is raised to single.
    target : Tensor, shape (B, 1, h, w)
        `heatmaps.centre_heatmaps`; cells of exactly 1 are centres.
    valid : Tensor of bool, shape (B, 1, h, w), optional
        Cells with a picture; all of them when None.

    Returns
    -------
    Tensor, shape ()
        The sum.

    References
    ----------
    Zhou et al., 2019 (arXiv:1904.07850), equation 1.

    Examples
    --------
    >>> value = objectness_sum(torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 0.5, 0.0]]]]))
    >>> round((value / torch.tensor(2.0).log()).item(), 6)  # 1 / 4 * (1 + 1 / 16 + 1)
    0.515625
    """
    logits = raise_to_single(logits)
    centre = -F.logsigmoid(logits) * (-logits).sigmoid() ** 2
    ground = -F.logsigmoid(-logits) * logits.sigmoid() ** 2 * (1 - target) ** 4
    return (torch.where(target == 1, centre, ground) * (1.0 if valid is None else valid)).sum()


def objectness_count(target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count the centres by which `objectness_sum` is divided.

    Parameters
    ----------
    target, valid
        As there.

    Returns
    -------
    Tensor of float64, shape ()
        Valid cells of exactly 1.

    Examples
    --------
    >>> objectness_count(torch.tensor([[[[1.0, 0.5, 1.0]]]]), torch.tensor([[[[True, True, False]]]])).item()
    1.0
    """
    return ((target == 1) * (1.0 if valid is None else valid)).sum(dtype=torch.float64)


def instance_mask_sum(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Sum binary cross entropy of a map of all instances; divide by `instance_mask_count`.

    Parameters
    ----------
    logits : Tensor, shape (B, 1, h, w)
        Scores before the sigmoid; half precision is raised to single.
    target : Tensor of uint8, shape (B, 1, h, w)
        0 ground, 1 animal, 255 unknown.
    valid : Tensor of bool, shape (B, 1, h, w), optional
        Cells with a picture; all of them when None.

    Returns
    -------
    Tensor, shape ()
        The sum.

    Examples
    --------
    >>> target = torch.tensor([[[[1, 0, 255]]]], dtype=torch.uint8)
    >>> instance_mask_sum(torch.zeros(1, 1, 1, 3), target).exp().item()
    4.0
    """
    counted = (target != UNKNOWN) * (1.0 if valid is None else valid)
    return (_bce(raise_to_single(logits), (target == 1).float()) * counted).sum()


def instance_mask_count(target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count the cells of `instance_mask_sum`.

    Parameters
    ----------
    target, valid
        As there.

    Returns
    -------
    Tensor of float64, shape ()
        Valid cells that are not unknown.

    Examples
    --------
    >>> instance_mask_count(torch.tensor([[[[1, 0, 255]]]], dtype=torch.uint8)).item()
    2.0
    """
    return ((target != UNKNOWN) * (1.0 if valid is None else valid)).sum(dtype=torch.float64)
