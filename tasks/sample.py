"""What reaches a model: samples, what is stored of them, and batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tasks.item import Item
from utils.geometry.augment import IDENTITY, View
from utils.raster.tiling import Window


@dataclass(frozen=True)
class Sample:
    """What a model sees: a window, a picture, a crop of one animal, a pair of frames.

    Parameters
    ----------
    id : str
        Unique in the data set.
    item : Item
        Where it comes from.
    arrays : dict of str to ndarray
        Named fields, such as `image` (H, W, C) uint8, `label` (H, W) uint8 and `valid` (H, W) bool, of the kinds that
        the task declares.
    window : Window, optional
        Its place in the item, in pixels.
    view : View
        How it was turned or mirrored.

    Examples
    --------
    >>> Sample("a", Item("a", ()), {"image": np.zeros((2, 3, 3), np.uint8)}).view.name
    'identity'
    """

    id: str
    item: Item
    arrays: dict[str, Any]
    window: Window | None = None
    view: View = IDENTITY

    def with_arrays(self, arrays: dict[str, Any], **changes: Any) -> Sample:
        """Copy this sample with other arrays.

        Examples
        --------
        >>> Sample("a", Item("a", ()), {}).with_arrays({"image": np.ones(2)}).arrays["image"].tolist()
        [1.0, 1.0]
        """
        return replace(self, arrays=arrays, **changes)


@dataclass(frozen=True)
class Request:
    """Something to compute once and store.

    Parameters
    ----------
    producer : str
        Which of the task's producers computes it.
    key : str
        The record's name in the store: a digest of all that it depends on.
    inputs : ndarray
        What the producer needs, of one shape for all requests that are computed together.

    Examples
    --------
    >>> Request("backbone", "ab12", np.zeros((4, 6, 3), np.uint8)).group
    ('backbone', (4, 6, 3))
    """

    producer: str
    key: str
    inputs: np.ndarray

    @property
    def group(self) -> tuple[str, tuple[int, ...]]:
        """Requests of one group can be computed in one batch.

        Examples
        --------
        >>> Request("flow", "ab12", np.zeros(3)).group
        ('flow', (3,))
        """
        return self.producer, self.inputs.shape


class Producer(Protocol):
    """Computes the records of a batch of requests."""

    def __call__(self, inputs: Sequence[np.ndarray]) -> Iterable[dict[str, Any]]:
        """Give one record per input; what an iterator does for each is done in another thread, beside the next call."""


@dataclass
class Batch:
    """What reaches a model, whether it came from the store or was computed on the fly.

    Parameters
    ----------
    samples : list of Sample
        With their arrays, without padding, for the predictor; without them in training.
    arrays : dict of str to Tensor or list of Tensor
        Fields of all samples: `image` (B, C, H, W) uint8, `label` (B, H, W) and so on; ragged ones, such as boxes, are
        lists with a tensor per sample.
    feature_maps : list of Tensor (B, C, h, w), optional
        One per chosen block; None when the model has yet to compute them.
    target : any
        What the loss compares with: a tensor (B, ...), a list with an element per sample, a dictionary or tuple of
        those, or None.
    sizes : list of (int, int), optional
        Height and width of each sample where pictures of several sizes were padded to one; `arrays` then have `valid`.

    Examples
    --------
    >>> len(Batch([], {"image": torch.zeros(0, 3, 4, 6)}))
    0
    """

    samples: list[Sample]
    arrays: dict[str, Any]
    feature_maps: list[Tensor] | None = None
    target: Any = None
    sizes: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        """Give the number of samples."""
        return len(self.samples)

    def to(self, device: str | torch.device) -> Batch:
        """Copy the batch to a device.

        Examples
        --------
        >>> Batch([], {"image": torch.zeros(1, 3, 4, 6)}).to("cpu").arrays["image"].shape
        torch.Size([1, 3, 4, 6])
        """
        moved = [_to_device(value, device) for value in (self.arrays, self.feature_maps, self.target)]
        return Batch(self.samples, moved[0], moved[1], moved[2], self.sizes)


def _to_device(value: Any, device: str | torch.device) -> Any:
    """Copy the tensors of a nested value to a device.

    Examples
    --------
    >>> _to_device({"boxes": [torch.zeros(2)], "names": ("a",)}, "meta")
    {'boxes': [tensor(..., device='meta', size=(2,))], 'names': ('a',)}
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: _to_device(part, device) for name, part in value.items()}
    return type(value)(_to_device(part, device) for part in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Progress:
    """How far training has come; reaches the code that encodes targets.

    Examples
    --------
    >>> Progress(epoch=3, epochs=12).fraction
    0.25
    """

    epoch: int = 0
    epochs: int = 1

    @property
    def fraction(self) -> float:
        """Share of the training that is done.

        Examples
        --------
        >>> Progress(0, 10).fraction
        0.0
        """
        return self.epoch / max(self.epochs, 1)
