"""The projection of the maps of several blocks to one map of few channels, learnt from tokens (prepare.project)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from utils.errors import DataError
from utils.runtime.files import digest_array, digest_json

CONSTANT = 1e-6  # deviation over mean below which a channel is rounding of a constant
ZERO = 1e-10  # share of the largest variance below which a direction is rounding: float32 leaves some 1e-14


@dataclass(frozen=True, eq=False)
class BlockProjection:
    """Puts one map of N channels in place of those of several blocks, the same way in every cell.

    Parameters
    ----------
    weight : Tensor, shape (N, C)
        float32; C channels are those of all blocks, one block after the other.
    bias : Tensor, shape (N,)
        float32.

    Examples
    --------
    >>> projection = BlockProjection(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([0.5]))
    >>> projection([torch.ones(1, 2, 1, 2), torch.tensor([[[[3.0, 4.0]]]])]).tolist()
    [[[[7.5, 9.5]]]]
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Project maps of one grid, each picture by itself, so that its values do not depend on its batch.

        Parameters
        ----------
        maps : sequence of Tensor, shape (B, C_i, h, w)
            One per block; B may be 0.

        Returns
        -------
        Tensor, shape (B, N, h, w)
            float32.

        Examples
        --------
        >>> projection = BlockProjection(torch.zeros(5, 3), torch.zeros(5))
        >>> [tuple(projection([torch.zeros(size, 3, 2, 4)]).shape) for size in (2, 0)]
        [(2, 5, 2, 4), (0, 5, 2, 4)]
        """
        channels = torch.cat([feature_map.float() for feature_map in maps], dim=1)
        projected = channels.new_empty(len(channels), len(self.bias), *channels.shape[2:])
        with torch.autocast(channels.device.type, enabled=False):
            for picture, out in zip(channels.flatten(2), projected, strict=True):
                out.copy_(torch.addmm(self.bias[:, None], self.weight, picture).view_as(out))
        return projected

    @cached_property
    def digest(self) -> str:
        """Digest of all values: features of another projection have other names in the store.

        Examples
        --------
        >>> one, other = (BlockProjection(torch.tensor([[value]]), torch.zeros(1)) for value in (0.0, -0.0))
        >>> one.digest == other.digest, len(one.digest)
        (False, 32)
        """
        return digest_json({name: digest_array(value.cpu().numpy()) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Weight and bias by name, as store and checkpoints hold them.

        Examples
        --------
        >>> sorted(BlockProjection(torch.zeros(1, 2), torch.zeros(1)).tensors())
        ['bias', 'weight']
        """
        return {"weight": self.weight, "bias": self.bias}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], shape: tuple[int, int], where: str) -> BlockProjection:
        """Make a projection of its tensors.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            As `tensors` gives them.
        shape : (int, int)
            Channels after and before.
        where : str
            What was read, for the message.

        Raises
        ------
        DataError
            If tensors are missing, of another shape or type, or not finite.

        Examples
        --------
        >>> BlockProjection.read({"weight": torch.zeros(2, 3)}, (2, 3), "best.safetensors")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: best.safetensors: expected a projection of 3 to 2 channels, found weight (2, 3); ...
        """
        weight, bias = tensors.get("weight"), tensors.get("bias")
        fits = weight is not None and bias is not None
        if not fits or (tuple(weight.shape), tuple(bias.shape)) != (shape, shape[:1]):  # type: ignore[union-attr]
            found = ", ".join(f"{name} {tuple(value.shape)}" for name, value in sorted(tensors.items())) or "none"
            text = f"expected a projection of {shape[1]} to {shape[0]} channels, found {found}; take another copy"
            raise DataError(f"{where}: {text}")
        assert weight is not None
        assert bias is not None
        if weight.dtype != torch.float32 or not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise DataError(
                f"{where}: the projection of the blocks holds NaN, infinity or no float32; take another copy"
            )
        return cls(weight, bias)

    def to(self, device: torch.device) -> BlockProjection:
        """The same projection on a device.

        Examples
        --------
        >>> BlockProjection(torch.zeros(1, 2), torch.zeros(1)).to(torch.device("meta")).weight.device.type
        'meta'
        """
        return BlockProjection(self.weight.to(device), self.bias.to(device))


class TokenMoments:
    """Sums over tokens from which their mean and covariance follow, in float64 and of bounded memory.

    Parameters
    ----------
    channels : int
        Of a token: those of all blocks.

    Examples
    --------
    >>> moments = TokenMoments(2)
    >>> moments.add(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    >>> mean, covariance = moments.mean_and_covariance()
    >>> mean.tolist(), covariance.tolist()
    ([2.0, 2.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    def __init__(self, channels: int):
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, tokens: Tensor) -> None:
        """Count tokens, shape (n, C).

        Examples
        --------
        >>> moments = TokenMoments(3)
        >>> moments.add(torch.ones(4, 3))
        >>> moments.count, moments.products[0].tolist()
        (4, [4.0, 4.0, 4.0])
        """
        values = tokens.cpu().double()
        self.count += len(values)
        self.total += values.sum(dim=0)
        self.products.addmm_(values.T, values)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and covariance (C, C) of the tokens.

        Examples
        --------
        >>> moments = TokenMoments(1)
        >>> moments.add(torch.tensor([[1.0], [5.0]]))
        >>> [value.flatten().tolist() for value in moments.mean_and_covariance()]
        [[3.0], [4.0]]
        """
        mean = self.total / self.count
        return mean, self.products / self.count - torch.outer(mean, mean)

    def projection(self, number: int) -> tuple[BlockProjection, float]:
        """The directions of most variance of the standardised tokens, and the share of their variance.

        Every channel is brought to mean 0 and deviation 1 first, so that no block outweighs another. All results have
        one common scale, with which the mean variance of their channels is 1. Of each direction, the largest part is
        positive, and one thread computes, so that equal tokens give equal bits.

        Parameters
        ----------
        number : int
            Channels to keep.

        Returns
        -------
        BlockProjection
            float32, on the CPU.
        float
            0 to 1.

        Raises
        ------
        DataError
            If the tokens vary in fewer directions.

        References
        ----------
        Principal component analysis of the correlation matrix: Jolliffe, Principal Component Analysis, 2002, 2.3.

        Examples
        --------
        >>> moments = TokenMoments(2)
        >>> moments.add(torch.tensor([[1.0, 10.0], [-1.0, -10.0], [1.0, 10.0], [-1.0, -10.0]]))
        >>> projection, explained = moments.projection(1)
        >>> projection([torch.tensor([[[[1.0]], [[10.0]]]])]).item(), round(explained, 6)
        (1.0, 1.0)
        >>> moments.projection(2)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: prepare.project: 2, but the 4 tokens of the training pictures vary in 1 directions ...
        """
        mean, covariance = self.mean_and_covariance()
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        inverse = torch.where(deviation > CONSTANT * mean.abs(), 1 / deviation, 0.0)
        correlation = covariance * inverse[:, None] * inverse
        with one_thread():  # results of several differ in their last bits
            variances, directions = torch.linalg.eigh((correlation + correlation.T) / 2)
        rank = int((variances > ZERO * variances[-1]).sum())
        if number > rank:
            raise DataError(
                f"prepare.project: {number}, but the {self.count} tokens of the training pictures vary in {rank} "
                f"directions only; lower it to {rank} at most, or give more pictures"
            )
        kept, rows = variances[-number:].sum(), directions[:, -number:].flip(1).T
        rows = rows * rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)).sign()
        weight = rows * inverse * (number / kept).sqrt()
        explained = kept / variances.clamp(min=0).sum()
        return BlockProjection(weight.float().contiguous(), -(weight @ mean).float()), float(explained)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, also in libraries.

    Examples
    --------
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
