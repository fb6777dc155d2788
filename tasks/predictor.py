"""What comes out of a model: pieces of a prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from tasks.item import Item, Piece
from tasks.sample import Sample


class Predictor(ABC):
    """Turns the model's outputs for samples into pieces; one predictor serves the items of one group, in their order.

    `stateful` is True where `wants` depends on what came out for the samples before: it is then asked when those were
    pushed. Else it must depend on the sample alone, and is asked in another thread, before `start`.
    """

    stateful: bool = False

    @abstractmethod
    def start(self, item: Item, resume: int | None = None) -> None:
        """Begin an item, or go on with it from a resume point of its sink."""

    def wants(self, sample: Sample) -> bool:
        """Whether the model must see this sample; False for one that the predictor can bridge."""
        return True

    @abstractmethod
    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        """Take the outputs of samples, in order (None for samples that were not wanted); give finished pieces."""

    @abstractmethod
    def finish(self) -> Iterator[Piece]:
        """Give what is left of the item."""

    def state(self) -> dict[str, Any] | None:
        """Give arrays and plain values that hold what is remembered after the pieces so far; None: nothing is.

        Asked of stateful predictors between two samples. An interrupted item goes on at the resume point of its sink,
        and the samples from there on come again.
        """
        return None

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - most remember nothing
        """Go on from a state, after `start`."""
