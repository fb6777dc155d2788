"""Averages of weights over a training, for evaluation and for the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import DataError


class ExponentialMovingAverage:
    """Average of a module's weights over its training, for evaluation.

    The decay grows from 0.1 to its setting, min(decay, (1 + t) / (10 + t)) at update t, so that a short training is not
    an average with the random start.

    Parameters
    ----------
    module : Module
        Its trained parameters are averaged; its buffers (running statistics) are copied.
    decay : float
        Above 0, below 1.

    Examples
    --------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = layer.weight.data.fill_(0.0)
    >>> average = ExponentialMovingAverage(layer, decay=0.5)
    >>> _ = layer.weight.data.fill_(1.0)
    >>> average.update()
    >>> with average.swap():
    ...     print(round(layer.weight.item(), 4))
    0.9
    >>> layer.weight.item()
    1.0
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module = module
        self.decay = decay
        self.updates = 0
        self.averages = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        """Tensors of the module that the average follows.

        Examples
        --------
        >>> list(ExponentialMovingAverage(nn.BatchNorm1d(2, affine=False), 0.5)._tensors())
        ['running_mean', 'running_var', 'num_batches_tracked']
        """
        trained = {name: tensor for name, tensor in self.module.named_parameters() if tensor.requires_grad}
        return trained | dict(self.module.named_buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present weights into the average; to be called after each step of the optimizer.

        Examples
        --------
        >>> average = ExponentialMovingAverage(nn.Linear(1, 1), decay=0.9)
        >>> average.update()
        >>> average.updates
        1
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in self._tensors().items():
            if isinstance(tensor, nn.Parameter):
                self.averages[name].lerp_(tensor, 1 - decay)
            else:
                self.averages[name].copy_(tensor)
        self.updates += 1

    @contextmanager
    def swap(self) -> Iterator[nn.Module]:
        """Put the averaged weights into the module; they are swapped back at the end, also after an error.

        Yields
        ------
        Module
            The module itself, with the averaged weights.

        Examples
        --------
        >>> layer = nn.Linear(1, 1)
        >>> average = ExponentialMovingAverage(layer, decay=0.9)
        >>> with average.swap() as averaged:
        ...     averaged is layer
        True
        """
        current = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        try:
            self._fill(self.averages)
            yield self.module
        finally:
            self._fill(current)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite the module's tensors, in place.

        Examples
        --------
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> ExponentialMovingAverage(layer, decay=0.9)._fill({"weight": torch.tensor([[2.0]])})
        >>> layer.weight.item()
        2.0
        """
        for name, tensor in self._tensors().items():
            tensor.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """All state, for `save_training_state`.

        Examples
        --------
        >>> sorted(ExponentialMovingAverage(nn.Linear(1, 1), decay=0.9).state_dict())
        ['averages', 'updates']
        """
        return {"updates": self.updates, "averages": dict(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Parameters
        ----------
        state : mapping
            What `state_dict` gave; it is copied.

        Raises
        ------
        DataError
            If it is that of another module.

        Examples
        --------
        >>> average = ExponentialMovingAverage(nn.Linear(1, 1), decay=0.9)
        >>> average.load_state_dict(ExponentialMovingAverage(nn.Linear(2, 1), decay=0.9).state_dict())
        Traceback (most recent call last):
            ...
        utils.errors.DataError: the saved weight average does not fit this Linear: weight; start a new training
        """
        saved = state["averages"]
        shapes = {name: tensor.shape for name, tensor in saved.items()}
        expected = {name: tensor.shape for name, tensor in self.averages.items()}
        if shapes != expected:
            wrong = sorted(name for name in shapes | expected if shapes.get(name) != expected.get(name))
            raise DataError(
                f"the saved weight average does not fit this {type(self.module).__name__}: {', '.join(wrong[:5])}; "
                "start a new training"
            )
        self.updates = state["updates"]
        for name, average in self.averages.items():
            average.copy_(saved[name])
