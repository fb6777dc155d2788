"""How feature maps are stored: as fp16, as bf16, or as int8 with one scale per channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.errors import DataError

FEATURE_DTYPES = ("fp16", "bf16", "int8")


@dataclass(frozen=True, eq=False)
class Int8Features:
    """A feature map as int8 with one scale per channel.

    Parameters
    ----------
    values : Tensor of int8, shape (C, ...)
        Steps of the channel's scale, -127 to 127.
    scales : Tensor of float32, shape (C,)
        Size of one step.

    Examples
    --------
    >>> Int8Features(torch.tensor([[4, -2]], dtype=torch.int8), torch.tensor([0.5])).decode().tolist()
    [[2.0, -1.0]]
    """

    values: Tensor
    scales: Tensor

    def decode(self) -> Tensor:
        """The feature map as float32: float16 would add an error of its own.

        Its shape is that of the values, (C, h, w).

        Examples
        --------
        >>> encode_features(torch.tensor([[127.0, 63.6]]), "int8").decode().tolist()
        [[127.0, 64.0]]
        """
        return multiply_scales(self.values[None], self.scales[None])[0]


def encode_features(array: Tensor | np.ndarray, dtype: str) -> Tensor | Int8Features:
    """Bring a feature map into the form in which it is stored.

    Parameters
    ----------
    array : Tensor or ndarray, shape (C, h, w)
        Finite values; may lie on an accelerator.
    dtype : {"fp16", "bf16", "int8"}
        int8 has a symmetric scale per channel; its error is at most half a scale. It is read back as float32, the
        other two as they are.

    Returns
    -------
    Tensor or Int8Features
        What `StoreWriter.put` takes.

    Raises
    ------
    DataError
        If a value is not finite, or beyond the range of fp16.
    ValueError
        If `dtype` is not one of the three, or an int8 map has no channel axis or no cells.

    Examples
    --------
    >>> encode_features(torch.ones(2, 1, 3), "fp16").dtype
    torch.float16
    >>> encode_features(torch.tensor([[[-254.0, 127.0]]]), "int8").values.tolist()
    [[[-127, 64]]]
    >>> encode_features(torch.full((1, 1, 1), 7e4), "fp16")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: feature map reaches 70000, fp16 ends at 65504: choose bf16 (or int8) as the stored dtype
    """
    if dtype not in FEATURE_DTYPES:
        raise ValueError(f"unknown feature dtype {dtype!r}; known: {', '.join(FEATURE_DTYPES)}")
    features = torch.as_tensor(array).detach()
    if dtype == "int8":
        return _encode_int8(features)
    encoded = features.to({"fp16": torch.float16, "bf16": torch.bfloat16}[dtype])
    _check_finite(encoded, features)
    return encoded


def _encode_int8(features: Tensor) -> Int8Features:
    """Divide each channel by its largest magnitude / 127 and round.

    `features` has shape (C, h, w); there are C scales.

    Raises
    ------
    ValueError
        If the map has fewer than two dimensions or no cells.

    Examples
    --------
    >>> encoded = _encode_int8(torch.tensor([[1.0, -127.0], [0.0, 0.0]]))
    >>> encoded.values.tolist(), encoded.scales[0].item()
    ([[1, -127], [0, 0]], 1.0)
    """
    if features.ndim < 2 or not features.numel():
        raise ValueError(f"an int8 feature map must have shape (C, h, w) with cells, got {tuple(features.shape)}")
    features = features.float()
    _check_finite(features, features)
    peaks = features.flatten(1).abs().amax(dim=1)
    scales = (peaks / 127).clamp(min=torch.finfo(torch.float32).tiny)  # a channel of zeros must not divide by zero
    steps = features / scales.view(-1, *[1] * (features.ndim - 1))
    return Int8Features(steps.round_().clamp_(-127, 127).to(torch.int8), scales)


def _check_finite(encoded: Tensor, features: Tensor) -> None:
    """Raise when encoding left something that is not a number, and say why.

    Both have one shape, such as (C, h, w).

    Examples
    --------
    >>> _check_finite(torch.tensor([float("inf")]), torch.tensor([float("nan")]))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: feature map holds NaN or infinity: compute the backbone in bf16 or fp32, never fp16
    """
    if not encoded.numel() or all(bool(torch.isfinite(bound)) for bound in torch.aminmax(encoded)):
        return
    peak = features.abs().max().item()
    if math.isfinite(peak):
        raise DataError(f"feature map reaches {peak:g}, fp16 ends at 65504: choose bf16 (or int8) as the stored dtype")
    raise DataError("feature map holds NaN or infinity: compute the backbone in bf16 or fp32, never fp16")


def multiply_scales(values: Tensor, scales: Tensor, out: Tensor | None = None) -> Tensor:
    """Decode a batch of int8 maps, shape (B, C, ...), with scales (B, C).

    Examples
    --------
    >>> multiply_scales(torch.ones(1, 2, 1, dtype=torch.int8), torch.tensor([[2.0, 3.0]])).tolist()
    [[[2.0], [3.0]]]
    """
    out = torch.empty(values.shape) if out is None else out
    out.copy_(values)  # then in place: a product of two types is eight times as slow
    return out.mul_(scales.reshape(*scales.shape, *[1] * (values.ndim - 2)))


def encoded_bytes(shape: Sequence[int], dtype: str) -> int:
    """How many bytes a feature map takes on disk.

    Parameters
    ----------
    shape : sequence of int
        (C, h, w).
    dtype : {"fp16", "bf16", "int8"}
        Stored type.

    Raises
    ------
    ValueError
        If the type is unknown.

    Examples
    --------
    >>> encoded_bytes((384, 32, 32), "fp16"), encoded_bytes((384, 32, 32), "int8")
    (786432, 394752)
    """
    if dtype not in FEATURE_DTYPES:
        raise ValueError(f"unknown feature dtype {dtype!r}; known: {', '.join(FEATURE_DTYPES)}")
    cells = math.prod(shape)
    return cells + 4 * shape[0] if dtype == "int8" else 2 * cells
