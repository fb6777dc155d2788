"""The loss of mask classification: queries are matched with the classes of a picture, and each pair is scored.

As everywhere, losses are sums over the local batch, and counts come from the targets alone, before the forward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from utils import IGNORE_INDEX
from utils.losses import pixel_counts

# Of the terms in the matching and in the loss, as in Mask2Former (arXiv:2112.01527, section 4.1).
CLASS_WEIGHT, BCE_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
MATCHED_PIXELS = 12544  # larger masks are compared on this many evenly spread valid pixels, always the same ones


def target_on_grid(
    target: Tensor,
    grid_size: tuple[int, int],
    covered_size: tuple[int, int] | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Read the class under the centre of each cell of a coarser grid.

    Parameters
    ----------
    target : Tensor, shape (B, H, W)
        Class indices.
    grid_size : (int, int)
        Rows and columns of the grid.
    covered_size : (int, int), optional
        Height and width in image pixels that the grid covers, when an image was padded at the bottom and the right;
        the image's own size otherwise.
    ignore_index : int
        Value of cells whose centre lies in the padding.

    Returns
    -------
    Tensor, shape (B, rows, columns)
        Same type as `target`.

    Examples
    --------
    >>> target = torch.arange(24).view(1, 4, 6)
    >>> target_on_grid(target, (2, 3)).tolist()
    [[[7, 9, 11], [19, 21, 23]]]
    >>> target_on_grid(target, (2, 4), covered_size=(4, 8)).tolist()
    [[[7, 9, 11, 255], [19, 21, 23, 255]]]
    """
    size = target.shape[1:]
    covered = size if covered_size is None else covered_size
    for axis in (0, 1):
        cells = torch.arange(grid_size[axis], device=target.device)
        # Integers, because (cell + 0.5) * 3.5 in float32 may fall on the wrong side of a pixel's edge.
        pixels = (2 * cells + 1) * covered[axis] // (2 * grid_size[axis])
        target = target.index_select(axis + 1, pixels.clamp(max=size[axis] - 1))
        outside = (pixels >= size[axis]).view((-1, 1) if axis == 0 else (1, -1))
        target = target.masked_fill(outside, ignore_index)
    return target


def _spread_indices(count: int, limit: int, device: torch.device) -> Tensor:
    """At most `limit` of `count` indices, spread evenly by steps of the golden ratio.

    The result has shape (M,).

    An ordinary step may beat with the width of the rows and see a few columns only.

    Examples
    --------
    >>> _spread_indices(10, 4, torch.device("cpu")).tolist()
    [0, 6, 2, 8]
    >>> _spread_indices(3, 4, torch.device("cpu")).tolist()
    [0, 1, 2]
    """
    if count <= limit:
        return torch.arange(count, device=device)
    steps = torch.arange(limit, dtype=torch.float64) * 0.6180339887498949
    return (steps.frac() * count).long().to(device)


def _mask_costs(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross entropy and Dice of every query against every mask.

    Parameters
    ----------
    mask_logits : Tensor, shape (Q, P)
        Scores of P pixels.
    masks : Tensor, shape (N, P)
        Zeros and ones.

    Returns
    -------
    Tensor, shape (Q, N)
        Costs.

    Examples
    --------
    >>> costs = _mask_costs(torch.tensor([[50.0, -50.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> costs.round().tolist()  # 25 per pixel * 2 * 5 / 2, and a Dice of 1 / 3
    [[0.0, 253.0]]
    """
    pixels = max(mask_logits.shape[1], 1)
    bce = (F.softplus(mask_logits).sum(dim=1, keepdim=True) - mask_logits @ masks.T) / pixels
    probabilities = mask_logits.sigmoid()
    total = probabilities.sum(dim=1, keepdim=True) + masks.sum(dim=1)
    dice = 1 - (2 * probabilities @ masks.T + 1) / (total + 1)
    return BCE_WEIGHT * bce + DICE_WEIGHT * dice


@torch.no_grad()
def match_masks(
    class_logits: Tensor,
    mask_logits: Tensor,
    masks: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Give each true mask the query that costs least in all, one query to a mask.

    Parameters
    ----------
    class_logits : Tensor, shape (Q, K + 1)
        Scores of the classes, "no object" last.
    mask_logits : Tensor, shape (Q, h, w)
        Scores of the masks.
    masks : Tensor of bool, shape (N, h, w)
        True masks.
    labels : Tensor of int64, shape (N,)
        Their classes.
    valid : Tensor of bool, shape (h, w), optional
        Pixels with truth; all of them when None.

    Returns
    -------
    Tensor of int64, shape (min(Q, N),)
        Queries, in ascending order.
    Tensor of int64, shape (min(Q, N),)
        The mask that belongs to each.

    References
    ----------
    Cheng et al., 2021 (arXiv:2107.06278), section 3.2, with the costs of arXiv:2112.01527.

    Examples
    --------
    >>> masks = torch.tensor([[[True, False]], [[False, True]]])
    >>> mask_logits = torch.tensor([[[0.0, 9.0]], [[0.0, 0.0]], [[9.0, 0.0]]])
    >>> match_masks(torch.zeros(3, 3), mask_logits, masks, torch.tensor([0, 1]))
    (tensor([0, 2]), tensor([1, 0]))
    """
    device = mask_logits.device
    pixels = torch.arange(mask_logits[0].numel(), device=device)
    if valid is not None:
        pixels = pixels[valid.flatten()]
    pixels = pixels[_spread_indices(len(pixels), MATCHED_PIXELS, device)]
    with torch.autocast(device.type, enabled=False):
        logits, truth = mask_logits.flatten(1)[:, pixels].float(), masks.flatten(1)[:, pixels].float()
        costs = _mask_costs(logits, truth)
        costs = costs - CLASS_WEIGHT * class_logits.float().softmax(dim=-1)[:, labels]
    # A diverged head must reach the count of bad steps in the training loop, not fail in the solver.
    queries, chosen = linear_sum_assignment(costs.nan_to_num(1e6, 1e6, -1e6).cpu().numpy())
    return torch.from_numpy(queries).to(device), torch.from_numpy(chosen).to(device)


class _Matches(NamedTuple):
    """Which query of which image stands for which class.

    Parameters
    ----------
    images, queries, labels : Tensor of int64, shape (M,)
        One entry per matched mask, over the whole batch.

    Examples
    --------
    >>> _Matches(torch.tensor([0]), torch.tensor([4]), torch.tensor([1])).queries.tolist()
    [4]
    """

    images: Tensor
    queries: Tensor
    labels: Tensor


def _match_batch(class_logits: Tensor, mask_logits: Tensor, grid: Tensor) -> _Matches:
    """Match the classes that each image of a batch shows with its queries.

    `class_logits` has shape (B, Q, K + 1), `mask_logits` shape (B, Q, h, w), `grid` shape (B, h, w).

    Examples
    --------
    >>> mask_logits = torch.tensor([[[[0.0, 9.0]], [[9.0, 0.0]]]])
    >>> matches = _match_batch(torch.zeros(1, 2, 4), mask_logits, torch.tensor([[[2, 0]]]))
    >>> matches.queries.tolist(), matches.labels.tolist()
    ([0, 1], [0, 2])
    """
    present = pixel_counts(grid, class_logits.shape[-1] - 1) > 0
    found = [torch.zeros(3, 0, dtype=torch.int64, device=grid.device)]
    for image, of_image in enumerate(present):
        labels = of_image.nonzero().squeeze(1)
        masks = grid[image] == labels.view(-1, 1, 1)
        valid = grid[image] != IGNORE_INDEX
        queries, chosen = match_masks(class_logits[image], mask_logits[image], masks, labels, valid)
        found.append(torch.stack([torch.full_like(queries, image), queries, labels[chosen]]))
    return _Matches(*torch.cat(found, dim=1))


def _fixed_matches(class_logits: Tensor, grid: Tensor) -> _Matches:
    """Let query k stand for class k wherever an image shows it.

    `class_logits` has shape (B, Q, K + 1), `grid` shape (B, h, w).

    Raises
    ------
    ValueError
        If there are not as many queries as classes.

    Examples
    --------
    >>> _fixed_matches(torch.zeros(1, 3, 4), torch.tensor([[[2, 0, 255]]])).queries.tolist()
    [0, 2]
    >>> _fixed_matches(torch.zeros(1, 5, 4), torch.tensor([[[2, 0, 255]]]))
    Traceback (most recent call last):
        ...
    ValueError: fixed matching needs one query per class, got 5 queries for 3 classes; change the number or match
    """
    num_queries, num_classes = class_logits.shape[1], class_logits.shape[2] - 1
    if num_queries != num_classes:
        raise ValueError(
            f"fixed matching needs one query per class, got {num_queries} queries for {num_classes} classes; "
            "change the number or match"
        )
    images, labels = (pixel_counts(grid, num_classes) > 0).nonzero().unbind(dim=1)
    return _Matches(images, labels, labels)


def _query_class_sum(class_logits: Tensor, matches: _Matches, no_object_weight: float) -> Tensor:
    """Sum the cross entropy of all queries: matched ones have a class, the others are "no object".

    `class_logits` has shape (B, Q, K + 1).

    Images without any mask have no valid pixel, so nothing is known of their queries.

    Examples
    --------
    >>> matches = _Matches(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    >>> round(_query_class_sum(torch.zeros(2, 2, 2), matches, 0.5).item(), 4)  # 1.5 * log 2; image 1 is silent
    1.0397
    """
    num_images, _, width = class_logits.shape
    target = torch.full(class_logits.shape[:2], width - 1, device=class_logits.device)
    target[matches.images, matches.queries] = matches.labels
    labelled = torch.zeros(num_images, 1, device=class_logits.device)
    labelled[matches.images] = 1.0
    weights = labelled * torch.where(target == width - 1, no_object_weight, 1.0)
    chosen = F.log_softmax(class_logits.float(), dim=-1).gather(2, target.unsqueeze(2)).squeeze(2)
    return -(weights * chosen).sum()


def _mask_term_sums(mask_logits: Tensor, grid: Tensor, matches: _Matches) -> tuple[Tensor, Tensor]:
    """Sum binary cross entropy (mean over valid cells) and 1 - Dice over the matched masks.

    `mask_logits` has shape (B, Q, h, w), `grid` shape (B, h, w).

    Examples
    --------
    >>> matches = _Matches(torch.tensor([0]), torch.tensor([0]), torch.tensor([3]))
    >>> sums = _mask_term_sums(torch.zeros(1, 1, 1, 3), torch.tensor([[[3, 1, 255]]]), matches)
    >>> [round(value.item(), 4) for value in sums]  # log 2, and 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    [0.6931, 0.3333]
    """
    logits = mask_logits[matches.images, matches.queries].flatten(1).float()
    truth = grid.flatten(1)[matches.images]
    valid = (truth != IGNORE_INDEX).float()
    masks = (truth == matches.labels.unsqueeze(1)).float()
    bce = ((F.softplus(logits) - logits * masks) * valid).sum(dim=1) / valid.sum(dim=1)
    probabilities = logits.sigmoid() * valid
    dice = (2 * (probabilities * masks).sum(dim=1) + 1) / (probabilities.sum(dim=1) + masks.sum(dim=1) + 1)
    return bce.sum(), (1 - dice).sum()


def mask_classification_sums(
    class_logits: Tensor,
    mask_logits: Tensor,
    target: Tensor,
    *,
    no_object_weight: float = 0.1,
    covered_size: tuple[int, int] | None = None,
    fixed: bool = False,
) -> dict[str, Tensor]:
    """Sum the loss of mask classification, where each class of an image is one mask.

    Parameters
    ----------
    class_logits : Tensor, shape (B, Q, K + 1)
        Scores of the classes, "no object" last.
    mask_logits : Tensor, shape (B, Q, h, w)
        Scores of the masks.
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices at image size; the grid of the masks reads it at the centres of its cells.
    no_object_weight : float
        Weight of a query that stands for nothing; they are many.
    covered_size : (int, int), optional
        Height and width in image pixels that the masks cover, when the image was padded.
    fixed : bool
        Query k stands for class k; nothing is matched.

    Returns
    -------
    dict of str to Tensor of shape ()
        "mask_class", "mask_bce" and "mask_dice", each to be divided by its `mask_classification_counts`.

    Raises
    ------
    ValueError
        If the target holds an unknown class, or `fixed` is asked for with queries that are not one per class.

    References
    ----------
    Cheng et al., 2021 (arXiv:2107.06278), section 3.2; binary cross entropy in place of their focal loss, and the
    weights, follow arXiv:2112.01527.

    Examples
    --------
    >>> target = torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 0]]])
    >>> mask_logits = torch.tensor([[[[-90.0, 90.0]], [[90.0, -90.0]]]])
    >>> sums = mask_classification_sums(torch.zeros(1, 2, 3), mask_logits, target)
    >>> {name: round(value.item(), 4) for name, value in sums.items()}  # 2 queries, each 2 * log 3
    {'mask_class': 4.3944, 'mask_bce': 0.0, 'mask_dice': 0.0}
    """
    height, width = mask_logits.shape[-2:]
    grid = target_on_grid(target, (height, width), covered_size).long()
    matches = _fixed_matches(class_logits, grid) if fixed else _match_batch(class_logits, mask_logits, grid)
    bce, dice = _mask_term_sums(mask_logits, grid, matches)
    classes = _query_class_sum(class_logits, matches, no_object_weight)
    return {"mask_class": CLASS_WEIGHT * classes, "mask_bce": BCE_WEIGHT * bce, "mask_dice": DICE_WEIGHT * dice}


def mask_classification_counts(
    target: Tensor,
    num_classes: int,
    num_queries: int,
    grid_size: tuple[int, int],
    *,
    no_object_weight: float = 0.1,
    covered_size: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Give the divisor of each term of `mask_classification_sums`, from the target alone.

    Parameters
    ----------
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices at image size.
    num_classes, num_queries : int
        K and Q.
    grid_size : (int, int)
        Rows and columns of the mask logits: a thin class may be missed by every cell's centre.
    no_object_weight : float
        As there.
    covered_size : (int, int), optional
        As there.

    Returns
    -------
    dict of str to Tensor of float64, shape ()
        Summed weights of the queries for "mask_class", number of matched masks for the other two.

    Raises
    ------
    ValueError
        If the target holds an unknown class.

    Examples
    --------
    >>> target = torch.tensor([[[1, 1, 0, 0]], [[255, 255, 255, 255]]])
    >>> counts = mask_classification_counts(target, 3, 6, (1, 2), no_object_weight=0.25)
    >>> {name: count.item() for name, count in counts.items()}  # 2 masks and 4 quarters; image 1 is silent
    {'mask_class': 3.0, 'mask_bce': 2.0, 'mask_dice': 2.0}
    """
    grid = target_on_grid(target, grid_size, covered_size)
    masks = (pixel_counts(grid, num_classes) > 0).sum(dim=1).clamp(max=num_queries).double()
    queries = torch.where(masks > 0, masks + (num_queries - masks) * no_object_weight, 0.0)
    return {"mask_class": queries.sum(), "mask_bce": masks.sum(), "mask_dice": masks.sum()}
