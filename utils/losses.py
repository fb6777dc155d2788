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

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils import IGNORE_INDEX

EPS = 1e-6  # added to the numerator and denominator of Dice

# --- what the target alone tells -------------------------------------------------------------------------------------


def class_bins(target: Tensor, num_classes: int) -> Tensor:
    """Class of each pixel with the ignored ones in a bin of their own behind the classes.

    Parameters
    ----------
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    num_classes : int
        K; ignored pixels get this number.

    Returns
    -------
    Tensor of int64, shape (B, H * W)
        Values 0 to K.

    Raises
    ------
    ValueError
        If a pixel holds neither a class nor `IGNORE_INDEX`. On an accelerator this is not checked, because looking
        at a value there would stall it; `verify` has seen all labels before.

    Examples
    --------
    >>> class_bins(torch.tensor([[[0, 2], [255, 1]]], dtype=torch.uint8), num_classes=3).tolist()
    [[0, 2, 3, 1]]
    >>> class_bins(torch.tensor([[[0, 7]]]), num_classes=3)
    Traceback (most recent call last):
        ...
    ValueError: target holds values 0 to 7, expected 0 to 2 or 255 (ignored); check the class mapping
    """
    ignored = target == IGNORE_INDEX
    if num_classes > torch.iinfo(target.dtype).max:
        target = target.long()
    bins = target.masked_fill(ignored, num_classes)
    if bins.device.type == "cpu" and bins.numel():
        low, high = (int(value) for value in bins.masked_fill(ignored, 0).aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"target holds values {low} to {high}, expected 0 to {num_classes - 1} or {IGNORE_INDEX} (ignored); "
                "check the class mapping"
            )
    return bins.flatten(1).long()


def pixel_counts(target: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each class in each image.

    Parameters
    ----------
    target : Tensor of uint8 or int64, shape (B, H, W)
        Class indices.
    num_classes : int
        K.

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
    return _count_bins(class_bins(target, num_classes), num_classes)


def _count_bins(bins: Tensor, num_classes: int) -> Tensor:
    """Count each row's bins, without the last one, that of the ignored pixels.

    `bins` has shape (B, N), the result shape (B, K).

    Examples
    --------
    >>> _count_bins(torch.tensor([[0, 0, 2], [1, 1, 2]]), num_classes=2).tolist()
    [[2, 0], [0, 2]]
    """
    rows, width = len(bins), num_classes + 1
    fused = bins + torch.arange(rows, device=bins.device).unsqueeze(1) * width
    return torch.bincount(fused.flatten(), minlength=rows * width).view(rows, width)[:, :num_classes]


def class_weights_from_counts(counts: Tensor) -> Tensor:
    """Choose class weights for a training set by how often its classes occur: frequency ** -0.5.

    Frequencies below 1e-4 are taken as 1e-4, so that a handful of pixels cannot outweigh everything else. A class
    that never occurs gets weight 0: nothing can be learned of it, and its pixels in a validation set would otherwise
    drown the loss of the classes that were learned. The other weights have mean 1.

    Parameters
    ----------
    counts : Tensor, shape (K,)
        Pixels of each class in the training split.

    Returns
    -------
    Tensor of float32, shape (K,)
        The weights.

    Raises
    ------
    ValueError
        If no class occurs.

    References
    ----------
    Mahajan et al., 2018 (arXiv:1805.00932, section 2.2) for the square root.

    Examples
    --------
    >>> class_weights_from_counts(torch.tensor([900, 100, 0])).tolist()
    [0.5, 1.5, 0.0]
    """
    counts = counts.double()
    present = counts > 0
    if not bool(present.any()):
        raise ValueError("class weights: no class has a single pixel; check the labels of the training split")
    weights = (counts / counts.sum()).clamp(min=1e-4) ** -0.5
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

    Raises
    ------
    ValueError
        If the shapes do not agree.

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

    `values` and `bins` have shape (B, N), the weights shape (K,).

    Examples
    --------
    >>> _weigh_pixels(torch.ones(1, 3), torch.tensor([[1, 0, 2]]), torch.tensor([0.5, 4.0])).tolist()
    [[4.0, 0.5, 0.0]]
    """
    if class_weights is None:
        return values  # ignored pixels have log probability 0 already
    table = torch.cat([class_weights.to(values), values.new_zeros(1)])
    return values * table.index_select(0, bins.flatten()).view(bins.shape)  # far faster than table[bins]


def _dice_terms(of_target: Tensor, mass: Tensor, bins: Tensor) -> Tensor:
    """Sum 1 - Dice over images and the classes they show.

    `of_target` and `bins` have shape (B, N), `mass` shape (B, K).

    Examples
    --------
    >>> of_target = torch.tensor([[0.5, 0.5]]).log()
    >>> round(_dice_terms(of_target, torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 0]])).item(), 4)  # 1 - 2 / 4
    0.5
    """
    counts = _count_bins(bins, mass.shape[1])
    overlap = mass.new_zeros(len(bins), mass.shape[1] + 1).scatter_add(1, bins, of_target.exp())[:, :-1]
    dice = (2 * overlap + EPS) / (mass + counts + EPS)
    return ((1 - dice) * (counts > 0)).sum()


def segmentation_sums(
    logits: Tensor,
    target: Tensor,
    *,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
    focal_weight: float = 0.0,
    focal_gamma: float = 2.0,
    class_weights: Tensor | None = None,
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
    >>> {name: round(value.item(), 4) for name, value in segmentation_sums(logits, target).items()}
    {'ce': 1.3863, 'dice': 0.3333}
    """
    flat = _checked_logits(logits, target)
    bins = class_bins(target, logits.shape[1])
    of_target, mass = TargetLogProbability.apply(flat, bins, dice_weight != 0)
    sums: dict[str, Tensor] = {}
    if ce_weight or focal_weight:
        cross_entropy = _weigh_pixels(-of_target, bins, class_weights)
        if ce_weight:
            sums["ce"] = ce_weight * cross_entropy.sum()
        if focal_weight:
            missing = -torch.expm1(of_target)
            if focal_gamma < 1:  # the root of 0 has an infinite slope: NaN for a pixel of probability 1
                missing = missing.clamp(min=torch.finfo(missing.dtype).eps)
            sums["focal"] = focal_weight * (cross_entropy * missing**focal_gamma).sum()
    if dice_weight:
        sums["dice"] = dice_weight * _dice_terms(of_target, mass, bins)
    return sums


def segmentation_counts(
    target: Tensor,
    num_classes: int,
    *,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
    focal_weight: float = 0.0,
    class_weights: Tensor | None = None,
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
    counts = pixel_counts(target, num_classes)
    weights = counts.new_ones(num_classes) if class_weights is None else class_weights.to(counts.device)
    pixels = (counts.sum(dim=0).double() * weights.double()).sum()
    pairs = (counts > 0).sum().double()
    named = {"ce": (ce_weight, pixels), "focal": (focal_weight, pixels), "dice": (dice_weight, pairs)}
    return {name: count for name, (weight, count) in named.items() if weight}
