"""Losses of dense prediction as sums; their counts follow from the target alone.

A loss here is a sum over pixels, classes or masks, and the number to divide it by can be known before the forward.
So micro-batches and ranks add their sums, divide once by the count of all, and agree to the last pixel on the
gradient that one process with one large batch would have found. Every function works on an empty batch and on
targets without a valid pixel: the sum is then 0 and still hangs on the graph.

All terms of a softmax need two numbers only: the log probability of each pixel's true class, and the probability
that each class receives in all. `TargetLogProbability` computes both in one pass and has its gradient written out:
on a CPU 1.5 (2 classes) to 5 times (8 classes at 512 x 512) as fast as `F.cross_entropy` beside a one-hot Dice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

IGNORE_INDEX = 255


class MaskWeights(NamedTuple):
    """How much class, per-pixel and Dice terms weigh, both in the matching and in the loss.

    Parameters
    ----------
    classes, bce, dice : float
        The defaults are those of Mask2Former (arXiv:2112.01527, section 4.1), which replaced MaskFormer's focal loss
        by plain binary cross entropy.

    Examples
    --------
    >>> MaskWeights(dice=1.0)
    MaskWeights(classes=2.0, bce=5.0, dice=1.0)
    """

    classes: float = 2.0
    bce: float = 5.0
    dice: float = 5.0


# --- what the target alone tells -------------------------------------------------------------------------------------


def class_bins(target: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Class of each pixel with the ignored ones in a bin of their own behind the classes.

    Parameters
    ----------
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    num_classes : int
        K; ignored pixels get this number.
    ignore_index : int
        Value of pixels without truth; it may also be one of the classes, which is then left out.

    Returns
    -------
    Tensor of int64, shape (B, H * W)
        Values 0 to K.

    Raises
    ------
    ValueError
        If a pixel holds neither a class nor `ignore_index`. On an accelerator this is not checked, because looking
        at a value there would stall it; `verify` has seen all labels before.

    Examples
    --------
    >>> class_bins(torch.tensor([[[0, 2], [255, 1]]], dtype=torch.uint8), num_classes=3).tolist()
    [[0, 2, 3, 1]]
    """
    ignored = target == ignore_index
    if num_classes > torch.iinfo(target.dtype).max:
        target = target.long()
    bins = target.masked_fill(ignored, num_classes)
    if bins.device.type == "cpu" and bins.numel():
        _check_range(bins.masked_fill(ignored, 0), num_classes, ignore_index)
    return bins.flatten(1).long()


def _check_range(classes: Tensor, num_classes: int, ignore_index: int) -> None:
    """Complain about a class that the model does not have.

    Examples
    --------
    >>> _check_range(torch.tensor([0, 7]), 3, 255)
    Traceback (most recent call last):
        ...
    ValueError: target holds values 0 to 7, expected 0 to 2 or 255 (ignored); check the class mapping
    """
    low, high = (int(value) for value in classes.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"target holds values {low} to {high}, expected 0 to {num_classes - 1} or {ignore_index} (ignored); "
            "check the class mapping"
        )


def pixel_counts(target: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Count the pixels of each class in each image.

    Parameters
    ----------
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    num_classes : int
        K.
    ignore_index : int
        Value of pixels that are not counted.

    Returns
    -------
    Tensor of int64, shape (B, K)
        Pixels per image and class.

    Raises
    ------
    ValueError
        If the target holds an unknown class.

    Examples
    --------
    >>> pixel_counts(torch.tensor([[[0, 0, 2]], [[255, 1, 1]]], dtype=torch.uint8), num_classes=3).tolist()
    [[2, 0, 1], [0, 2, 0]]
    """
    return _count_bins(class_bins(target, num_classes, ignore_index), num_classes)


def _count_bins(bins: Tensor, num_classes: int) -> Tensor:
    """Count each row's bins, without the last one, that of the ignored pixels.

    Examples
    --------
    >>> _count_bins(torch.tensor([[0, 0, 2], [1, 1, 2]]), num_classes=2).tolist()
    [[2, 0], [0, 2]]
    """
    rows, width = len(bins), num_classes + 1
    fused = bins + torch.arange(rows, device=bins.device).unsqueeze(1) * width
    return torch.bincount(fused.flatten(), minlength=rows * width).view(rows, width)[:, :num_classes]


def cross_entropy_count(
    target: Tensor, class_weights: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Sum the weights of the valid pixels: what `cross_entropy_sum` and `focal_sum` are divided by.

    Parameters
    ----------
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    class_weights : Tensor of shape (K,), optional
        Weight per class; without it every valid pixel counts 1.
    ignore_index : int
        Value of pixels that are not counted.

    Returns
    -------
    Tensor of float64, shape ()
        The divisor; it is 0 when no pixel is valid.

    Examples
    --------
    >>> target = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    >>> cross_entropy_count(target).item(), cross_entropy_count(target, torch.tensor([0.25, 2.0])).item()
    (2.0, 2.25)
    """
    if class_weights is None:
        return (target != ignore_index).sum().double()
    counts = pixel_counts(target, len(class_weights), ignore_index).sum(dim=0)
    return (counts.double() * class_weights.to(counts.device, torch.float64)).sum()


def dice_count(target: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Count the pairs of an image and a class that it shows: what `dice_sum` is divided by.

    Parameters
    ----------
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    num_classes : int
        K.
    ignore_index : int
        Value of pixels without truth.

    Returns
    -------
    Tensor of float64, shape ()
        The divisor.

    Examples
    --------
    >>> dice_count(torch.tensor([[[0, 0, 2]], [[255, 1, 1]]], dtype=torch.uint8), num_classes=3).item()
    3.0
    """
    return (pixel_counts(target, num_classes, ignore_index) > 0).sum().double()


def class_weights_from_counts(counts: Tensor, mode: str = "inverse_sqrt") -> Tensor:
    """Choose class weights for a training set by how often its classes occur.

    Frequencies below 1e-4 are taken as 1e-4, so that a handful of pixels cannot outweigh everything else. A class
    that never occurs gets weight 0: nothing can be learned of it, and its pixels in a validation set would otherwise
    drown the loss of the classes that were learned. The other weights have mean 1.

    Parameters
    ----------
    counts : Tensor, shape (K,)
        Pixels of each class in the training split.
    mode : {"inverse_sqrt", "median_frequency"}
        Weight proportional to frequency ** -0.5, or to 1 / frequency (the median of it cancels in the mean).

    Returns
    -------
    Tensor of float32, shape (K,)
        The weights.

    Raises
    ------
    ValueError
        If the mode is unknown, or no class occurs.

    References
    ----------
    Mahajan et al., 2018 (arXiv:1805.00932, section 2.2) for the square root, which is the milder and safer choice;
    Eigen and Fergus, 2015 (arXiv:1411.4734, section 6.3.2), for median frequency, here over all images.

    Examples
    --------
    >>> class_weights_from_counts(torch.tensor([900, 100, 0])).tolist()
    [0.5, 1.5, 0.0]
    >>> class_weights_from_counts(torch.tensor([75, 25]), "median_frequency").tolist()
    [0.5, 1.5]
    """
    powers = {"inverse_sqrt": -0.5, "median_frequency": -1.0}
    if mode not in powers:
        raise ValueError(f"unknown class weight mode {mode!r}; known: {', '.join(powers)}")
    counts = counts.double()
    present = counts > 0
    if not bool(present.any()):
        raise ValueError("class weights: no class has a single pixel; check the labels of the training split")
    weights = (counts / counts.sum()).clamp(min=1e-4) ** powers[mode]
    weights = torch.where(present, weights, 0.0)
    return (weights * present.sum() / weights.sum()).float()


# --- sums over pixels ------------------------------------------------------------------------------------------------


class TargetLogProbability(torch.autograd.Function):
    """Log probability of each pixel's true class, and the probability each class receives in all.

    With p the softmax, t a pixel's class, a and m the gradients at the two outputs, the gradient at logit k of a
    valid pixel is p_k * (m_k - sum_j m_j p_j - a) + a * [k = t].

    Examples
    --------
    >>> logits = torch.tensor([[[0.0, 5.0], [0.0, 5.0]]])
    >>> log_probability, mass = TargetLogProbability.apply(logits, torch.tensor([[1, 2]]), True)
    >>> log_probability.exp().tolist(), mass.tolist()  # the second pixel is ignored
    ([[0.5, 1.0]], [[0.5, 0.5]])
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, bins: Tensor, with_mass: bool) -> tuple[Tensor, Tensor]:
        """Compute log probabilities of shape (B, N) and masses of shape (B, K).

        Parameters
        ----------
        ctx : Any
            Autograd's notebook.
        logits : Tensor, shape (B, K, N)
            Float32 or float64.
        bins : Tensor of int64, shape (B, N)
            True class, or K for an ignored pixel; such a pixel has log probability 0 and adds to no mass.
        with_mass : bool
            Without it the second output is empty and costs nothing.

        Returns
        -------
        Tensor, shape (B, N)
            Log probability of the true class.
        Tensor, shape (B, K)
            Sum of the probabilities over the valid pixels.

        Examples
        --------
        >>> logits = torch.zeros(1, 4, 2)
        >>> [output.shape for output in TargetLogProbability.apply(logits, torch.tensor([[1, 4]]), False)]
        [torch.Size([1, 2]), torch.Size([0])]
        """
        valid = bins < logits.shape[1]
        index = bins.where(valid, 0).unsqueeze(1)
        log_probabilities = F.log_softmax(logits, dim=1)
        of_target = log_probabilities.gather(1, index).squeeze(1).mul_(valid)
        probabilities = log_probabilities.exp_().mul_(valid.unsqueeze(1))  # zero where ignored: no gradient there
        ctx.save_for_backward(probabilities, index, valid)
        ctx.set_materialize_grads(False)
        return of_target, probabilities.sum(dim=2) if with_mass else probabilities.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        """Apply the formula of the class.

        Parameters
        ----------
        ctx : Any
            Autograd's notebook.
        *gradients : Tensor or None
            At the log probabilities, (B, N), and at the masses, (B, K).

        Returns
        -------
        Tensor or None, shape (B, K, N)
            The gradient at the logits; None for the other two inputs.

        Examples
        --------
        >>> logits = torch.zeros(1, 2, 1, requires_grad=True)
        >>> log_probability, mass = TargetLogProbability.apply(logits, torch.tensor([[1]]), True)
        >>> (log_probability.sum() + 4 * mass[0, 0]).backward()
        >>> logits.grad.flatten().tolist()  # (-0.5, 0.5) of the first term, (1, -1) of the second
        [0.5, -0.5]
        """
        probabilities, index, valid = ctx.saved_tensors
        at_target, at_mass = gradients
        shift = torch.zeros_like(probabilities[:, 0]) if at_target is None else at_target * valid
        if at_mass is None:
            result = probabilities * shift.neg().unsqueeze(1)
        else:
            with torch.autocast(probabilities.device.type, enabled=False):
                mean = torch.bmm(at_mass.unsqueeze(1), probabilities)
            result = (at_mass.unsqueeze(2) - mean).sub_(shift.unsqueeze(1)).mul_(probabilities)
        return result.scatter_add_(1, index, shift.unsqueeze(1)), None, None


def _checked_logits(logits: Tensor, target: Tensor) -> Tensor:
    """Logits as (B, K, H * W) in at least single precision, once they are known to fit the target.

    Examples
    --------
    >>> _checked_logits(torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16), torch.zeros(1, 3, 4)).shape
    torch.Size([1, 2, 12])
    >>> _checked_logits(torch.zeros(1, 2, 3, 4), torch.zeros(1, 4, 3))
    Traceback (most recent call last):
        ...
    ValueError: logits (B, K, H, W) and target (B, H, W) must agree, got (1, 2, 3, 4) and (1, 4, 3); resize the logits
    """
    if (
        logits.ndim != 4
        or target.ndim != 3
        or logits.shape[::2] + logits.shape[3:] != target.shape[:2] + target.shape[2:]
    ):
        raise ValueError(
            f"logits (B, K, H, W) and target (B, H, W) must agree, got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}; resize the logits"
        )
    logits = logits.flatten(2)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _weigh_pixels(values: Tensor, bins: Tensor, class_weights: Tensor | None) -> Tensor:
    """Multiply each pixel's value by the weight of its true class, 0 where it is ignored.

    Examples
    --------
    >>> _weigh_pixels(torch.ones(1, 3), torch.tensor([[1, 0, 2]]), torch.tensor([0.5, 4.0])).tolist()
    [[4.0, 0.5, 0.0]]
    """
    if class_weights is None:
        return values  # ignored pixels have log probability 0 already
    table = torch.cat([class_weights.to(values), values.new_zeros(1)])
    return values * table.index_select(0, bins.flatten()).view(bins.shape)  # far faster than table[bins]


def _dice_terms(of_target: Tensor, mass: Tensor, bins: Tensor, eps: float) -> Tensor:
    """Sum 1 - Dice over images and the classes they show.

    Examples
    --------
    >>> of_target = torch.tensor([[0.5, 0.5]]).log()
    >>> _dice_terms(of_target, torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 0]]), eps=0.0).item()  # 1 - 2 / 4
    0.5
    """
    counts = _count_bins(bins, mass.shape[1])
    overlap = mass.new_zeros(len(bins), mass.shape[1] + 1).scatter_add(1, bins, of_target.exp())[:, :-1]
    dice = (2 * overlap + eps) / (mass + counts + eps)
    return ((1 - dice) * (counts > 0)).sum()


def _focal_factor(of_target: Tensor, gamma: float) -> Tensor:
    """Weight (1 - p) ** gamma of a pixel whose true class has probability p.

    Examples
    --------
    >>> _focal_factor(torch.tensor([0.5, 1.0]).log(), gamma=2.0).tolist()
    [0.25, 0.0]
    """
    missing = -torch.expm1(of_target)
    # The root of 0 has an infinite slope, which a pixel known for certain would turn into NaN.
    return missing**gamma if gamma >= 1 else missing.clamp(min=torch.finfo(missing.dtype).eps) ** gamma


def segmentation_sums(
    logits: Tensor,
    target: Tensor,
    *,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
    focal_weight: float = 0.0,
    focal_gamma: float = 2.0,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    eps: float = 1e-6,
) -> dict[str, Tensor]:
    """Sum the terms of a segmentation loss, sharing one softmax.

    Parameters
    ----------
    logits : Tensor, shape (B, K, H, W)
        Scores before the softmax; half precision is raised to single.
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    ce_weight, dice_weight, focal_weight : float
        Factors, already applied to the sums; a term with factor 0 is neither computed nor returned.
    focal_gamma : float
        How strongly the focal term discounts pixels that are right already; at 0 it is cross entropy.
    class_weights : Tensor of shape (K,), optional
        Weight of a pixel by its true class, in cross entropy and focal loss.
    ignore_index : int
        Value of pixels without truth; they have no part in any term.
    eps : float
        Added to the numerator and denominator of Dice.

    Returns
    -------
    dict of str to Tensor of shape ()
        "ce", "dice" and "focal", as far as they have a factor; divide each by its `segmentation_counts`.

    Raises
    ------
    ValueError
        If shapes do not agree, or the target holds an unknown class.

    References
    ----------
    Milletari et al., 2016 (arXiv:1606.04797), without squares, per image and class that it shows, so that the loss
    is a sum that ranks can share; Lin et al., 2017 (arXiv:1708.02002), equation 4, over a softmax.

    Examples
    --------
    >>> logits, target = torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 0, 255]]], dtype=torch.uint8)
    >>> {name: round(value.item(), 4) for name, value in segmentation_sums(logits, target, eps=0.0).items()}
    {'ce': 1.3863, 'dice': 0.3333}
    """
    flat = _checked_logits(logits, target)
    bins = class_bins(target, logits.shape[1], ignore_index)
    of_target, mass = TargetLogProbability.apply(flat, bins, dice_weight != 0)
    sums: dict[str, Tensor] = {}
    if ce_weight or focal_weight:
        surprise = _weigh_pixels(-of_target, bins, class_weights)
        if ce_weight:
            sums["ce"] = ce_weight * surprise.sum()
        if focal_weight:
            sums["focal"] = focal_weight * (surprise * _focal_factor(of_target, focal_gamma)).sum()
    if dice_weight:
        sums["dice"] = dice_weight * _dice_terms(of_target, mass, bins, eps)
    return sums


def segmentation_counts(
    target: Tensor,
    num_classes: int,
    *,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
    focal_weight: float = 0.0,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> dict[str, Tensor]:
    """Give the divisor of each term of `segmentation_sums`, from the target alone.

    Parameters
    ----------
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    num_classes : int
        K.
    ce_weight, dice_weight, focal_weight : float
        As there: which terms exist.
    class_weights : Tensor of shape (K,), optional
        As there.
    ignore_index : int
        As there.

    Returns
    -------
    dict of str to Tensor of float64, shape ()
        The same names as `segmentation_sums` gives.

    Raises
    ------
    ValueError
        If the target holds an unknown class.

    Examples
    --------
    >>> target = torch.tensor([[[0, 0, 255]]], dtype=torch.uint8)
    >>> {name: count.item() for name, count in segmentation_counts(target, 2).items()}
    {'ce': 2.0, 'dice': 1.0}
    """
    counts = pixel_counts(target, num_classes, ignore_index)
    weights = counts.new_ones(num_classes) if class_weights is None else class_weights.to(counts.device)
    pixels = (counts.sum(dim=0).double() * weights.double()).sum()
    pairs = (counts > 0).sum().double()
    named = {"ce": (ce_weight, pixels), "focal": (focal_weight, pixels), "dice": (dice_weight, pairs)}
    return {name: count for name, (weight, count) in named.items() if weight}


def cross_entropy_sum(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Sum the cross entropy over valid pixels, each weighted by its true class.

    Parameters
    ----------
    logits : Tensor, shape (B, K, H, W)
        Scores before the softmax.
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    class_weights : Tensor of shape (K,), optional
        Weight per class.
    ignore_index : int
        Value of pixels without truth.

    Returns
    -------
    Tensor, shape ()
        Divided by `cross_entropy_count` this is torch's weighted mean.

    Raises
    ------
    ValueError
        If shapes do not agree, or the target holds an unknown class.

    Examples
    --------
    >>> logits = torch.tensor([[[[0.0, 9.0]], [[0.0, 0.0]]]])
    >>> round(cross_entropy_sum(logits, torch.tensor([[[1, 255]]])).item(), 4)
    0.6931
    """
    return segmentation_sums(logits, target, dice_weight=0.0, class_weights=class_weights, ignore_index=ignore_index)[
        "ce"
    ]


def focal_sum(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Sum the focal loss over valid pixels; its count is `cross_entropy_count`.

    Parameters
    ----------
    logits : Tensor, shape (B, K, H, W)
        Scores before the softmax.
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    gamma : float
        Exponent of (1 - p); 0 gives cross entropy.
    class_weights : Tensor of shape (K,), optional
        Weight per class.
    ignore_index : int
        Value of pixels without truth.

    Returns
    -------
    Tensor, shape ()
        The sum.

    Raises
    ------
    ValueError
        If shapes do not agree, or the target holds an unknown class.

    References
    ----------
    Lin et al., 2017 (arXiv:1708.02002), equation 4, over a softmax.

    Examples
    --------
    >>> round(focal_sum(torch.zeros(1, 2, 1, 1), torch.tensor([[[1]]])).item(), 4)  # 0.5 ** 2 * log 2
    0.1733
    """
    return segmentation_sums(
        logits,
        target,
        ce_weight=0.0,
        dice_weight=0.0,
        focal_weight=1.0,
        focal_gamma=gamma,
        class_weights=class_weights,
        ignore_index=ignore_index,
    )["focal"]


def dice_sum(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX, eps: float = 1e-6) -> Tensor:
    """Sum 1 - Dice over the images and the classes that each of them shows.

    Parameters
    ----------
    logits : Tensor, shape (B, K, H, W)
        Scores before the softmax; the logarithm of probabilities will do.
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    ignore_index : int
        Value of pixels without truth; what is predicted there does not count.
    eps : float
        Added to the numerator and denominator.

    Returns
    -------
    Tensor, shape ()
        The sum, to be divided by `dice_count`.

    Raises
    ------
    ValueError
        If shapes do not agree, or the target holds an unknown class.

    Examples
    --------
    >>> logits = torch.tensor([[[[50.0, 50.0, 50.0, 0.0]], [[-50.0, -50.0, -50.0, 50.0]]]])
    >>> dice_sum(logits, torch.tensor([[[0, 1, 1, 255]]]), eps=0.0).item()  # 1 - 2 / 4 for class 0, 1 for class 1
    1.5
    """
    return segmentation_sums(logits, target, ce_weight=0.0, ignore_index=ignore_index, eps=eps)["dice"]


# --- mask classification ---------------------------------------------------------------------------------------------


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


def _mask_costs(mask_logits: Tensor, masks: Tensor, weights: MaskWeights) -> Tensor:
    """Binary cross entropy and Dice of every query against every mask.

    Parameters
    ----------
    mask_logits : Tensor, shape (Q, P)
        Scores of P pixels.
    masks : Tensor, shape (N, P)
        Zeros and ones.
    weights : MaskWeights
        Factors of the two.

    Returns
    -------
    Tensor, shape (Q, N)
        Costs.

    Examples
    --------
    >>> costs = _mask_costs(torch.tensor([[50.0, -50.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), MaskWeights())
    >>> costs.round().tolist()  # 25 per pixel * 2 * 5 / 2, and a Dice of 1 / 3
    [[0.0, 253.0]]
    """
    pixels = max(mask_logits.shape[1], 1)
    bce = (F.softplus(mask_logits).sum(dim=1, keepdim=True) - mask_logits @ masks.T) / pixels
    probabilities = mask_logits.sigmoid()
    total = probabilities.sum(dim=1, keepdim=True) + masks.sum(dim=1)
    dice = 1 - (2 * probabilities @ masks.T + 1) / (total + 1)
    return weights.bce * bce + weights.dice * dice


@torch.no_grad()
def match_masks(
    class_logits: Tensor,
    mask_logits: Tensor,
    masks: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    weights: MaskWeights | None = None,
    max_pixels: int = 12544,
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
    weights : MaskWeights, optional
        Factors of the costs.
    max_pixels : int
        Larger masks are compared on this many evenly spread valid pixels, always the same ones.

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
    pixels = pixels[_spread_indices(len(pixels), max_pixels, device)]
    weights = weights or MaskWeights()
    with torch.autocast(device.type, enabled=False):
        logits, truth = mask_logits.flatten(1)[:, pixels].float(), masks.flatten(1)[:, pixels].float()
        costs = _mask_costs(logits, truth, weights)
        costs = costs - weights.classes * class_logits.float().softmax(dim=-1)[:, labels]
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


def _match_batch(class_logits: Tensor, mask_logits: Tensor, grid: Tensor, **options: Any) -> _Matches:
    """Match the classes that each image of a batch shows with its queries.

    Examples
    --------
    >>> mask_logits = torch.tensor([[[[0.0, 9.0]], [[9.0, 0.0]]]])
    >>> matches = _match_batch(torch.zeros(1, 2, 4), mask_logits, torch.tensor([[[2, 0]]]), ignore_index=255)
    >>> matches.queries.tolist(), matches.labels.tolist()
    ([0, 1], [0, 2])
    """
    num_classes, ignore_index = class_logits.shape[-1] - 1, options.pop("ignore_index")
    present = pixel_counts(grid, num_classes, ignore_index) > 0
    found = [torch.zeros(3, 0, dtype=torch.int64, device=grid.device)]
    for image, of_image in enumerate(present):
        labels = of_image.nonzero().squeeze(1)
        masks = grid[image] == labels.view(-1, 1, 1)
        valid = grid[image] != ignore_index
        queries, chosen = match_masks(class_logits[image], mask_logits[image], masks, labels, valid, **options)
        found.append(torch.stack([torch.full_like(queries, image), queries, labels[chosen]]))
    return _Matches(*torch.cat(found, dim=1))


def _fixed_matches(class_logits: Tensor, grid: Tensor, ignore_index: int) -> _Matches:
    """Let query k stand for class k wherever an image shows it.

    Examples
    --------
    >>> _fixed_matches(torch.zeros(1, 3, 4), torch.tensor([[[2, 0, 255]]]), 255).queries.tolist()
    [0, 2]
    >>> _fixed_matches(torch.zeros(1, 5, 4), torch.tensor([[[2, 0, 255]]]), 255)
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
    images, labels = (pixel_counts(grid, num_classes, ignore_index) > 0).nonzero().unbind(dim=1)
    return _Matches(images, labels, labels)


def _query_class_sum(class_logits: Tensor, matches: _Matches, no_object_weight: float) -> Tensor:
    """Sum the cross entropy of all queries: matched ones have a class, the others are "no object".

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
    known = torch.zeros(num_images, 1, device=class_logits.device)
    known[matches.images] = 1.0
    weights = known * torch.where(target == width - 1, no_object_weight, 1.0)
    chosen = F.log_softmax(class_logits.float(), dim=-1).gather(2, target.unsqueeze(2)).squeeze(2)
    return -(weights * chosen).sum()


def _mask_term_sums(mask_logits: Tensor, grid: Tensor, matches: _Matches, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Sum binary cross entropy (mean over valid cells) and 1 - Dice over the matched masks.

    Examples
    --------
    >>> matches = _Matches(torch.tensor([0]), torch.tensor([0]), torch.tensor([3]))
    >>> sums = _mask_term_sums(torch.zeros(1, 1, 1, 3), torch.tensor([[[3, 1, 255]]]), matches, 255)
    >>> [round(value.item(), 4) for value in sums]  # log 2, and 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    [0.6931, 0.3333]
    """
    logits = mask_logits[matches.images, matches.queries].flatten(1).float()
    truth = grid.flatten(1)[matches.images]
    valid = (truth != ignore_index).float()
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
    weights: MaskWeights | None = None,
    covered_size: tuple[int, int] | None = None,
    fixed: bool = False,
    ignore_index: int = IGNORE_INDEX,
    max_pixels: int = 12544,
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
    weights : MaskWeights, optional
        Factors of the three terms, applied to the sums and in the matching.
    covered_size : (int, int), optional
        Height and width in image pixels that the masks cover, when the image was padded.
    fixed : bool
        Query k stands for class k; nothing is matched.
    ignore_index : int
        Value of pixels without truth.
    max_pixels : int
        Cells that the matching looks at.

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
    weights = weights or MaskWeights()
    height, width = mask_logits.shape[-2:]
    grid = target_on_grid(target, (height, width), covered_size, ignore_index).long()
    if fixed:
        matches = _fixed_matches(class_logits, grid, ignore_index)
    else:
        options = {"ignore_index": ignore_index, "weights": weights, "max_pixels": max_pixels}
        matches = _match_batch(class_logits, mask_logits, grid, **options)
    bce, dice = _mask_term_sums(mask_logits, grid, matches, ignore_index)
    classes = _query_class_sum(class_logits, matches, no_object_weight)
    return {"mask_class": weights.classes * classes, "mask_bce": weights.bce * bce, "mask_dice": weights.dice * dice}


def mask_classification_counts(
    target: Tensor,
    num_classes: int,
    num_queries: int,
    grid_size: tuple[int, int],
    *,
    no_object_weight: float = 0.1,
    covered_size: tuple[int, int] | None = None,
    ignore_index: int = IGNORE_INDEX,
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
    ignore_index : int
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
    grid = target_on_grid(target, grid_size, covered_size, ignore_index)
    masks = (pixel_counts(grid, num_classes, ignore_index) > 0).sum(dim=1).clamp(max=num_queries).double()
    queries = torch.where(masks > 0, masks + (num_queries - masks) * no_object_weight, 0.0)
    return {"mask_class": queries.sum(), "mask_bce": masks.sum(), "mask_dice": masks.sum()}
