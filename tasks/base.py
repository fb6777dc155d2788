"""What a task gives to the phases, and the things that flow between them.

The phases in `tasks/phases` are written once against `Task` and `Predictor`; none of them asks which task it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.geometry.augment import IDENTITY, View
from utils.raster.tiling import Window
from utils.runtime.files import file_stamp

if TYPE_CHECKING:
    from config import TaskConfig
    from utils.logging import VerbosityLogger
    from utils.store.feature_store import FeatureStore


@dataclass(frozen=True)
class Item:
    """One picture, scene, block of a scene or video, with its label.

    Parameters
    ----------
    id : str
        Stable and unique in the data set; what a split list holds.
    sources : tuple of Path
        The files that it is made from, labels included.

    Examples
    --------
    >>> Item("a", ()).id
    'a'
    """

    id: str
    sources: tuple[Path, ...]

    def stamp(self) -> list:
        """Say when the item changed: path, size and time of each source.

        Examples
        --------
        >>> Item("a", ()).stamp()
        ['a', []]
        """
        return [self.id, [file_stamp(path) for path in self.sources]]


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


@dataclass(frozen=True)
class Finding:
    """Something wrong in the data, where, and how to mend it.

    Parameters
    ----------
    where, problem, cure : str
        Parts of the line that a person reads.
    blocks : bool
        False for what a person should look at, but may be right.

    Examples
    --------
    >>> print(Finding("scene.tif", "label value 7 outside 0..1", "add 7 to dataset.label_mapping"))
    scene.tif: label value 7 outside 0..1; add 7 to dataset.label_mapping
    """

    where: str
    problem: str
    cure: str = ""
    blocks: bool = True

    def __str__(self) -> str:
        """Give one line for a person."""
        return f"{self.where}: {self.problem}" + (f"; {self.cure}" if self.cure else "")


@dataclass(frozen=True)
class Piece:
    """A finished part of a prediction: a block of a raster, a picture, a frame.

    Parameters
    ----------
    item : Item
        What was predicted.
    arrays : dict of str to ndarray
        Named results, such as `classes` (h, w) uint8 and `confidence` (h, w) float32.
    window : Window, optional
        Its place in the item.

    Examples
    --------
    >>> Piece(Item("a", ()), {"classes": np.zeros((2, 3), np.uint8)}).arrays["classes"].shape
    (2, 3)
    """

    item: Item
    arrays: dict[str, Any]
    window: Window | None = None


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


class Metric(ABC):
    """A score with mergeable state: counted on each rank, merged once, divided last."""

    @abstractmethod
    def update(self, piece: Piece, truth: Any) -> None:
        """Count one piece against its truth."""

    @abstractmethod
    def state(self) -> Any:
        """Give the counts as plain numbers and lists."""

    @abstractmethod
    def merge(self, state: Any) -> None:
        """Add another rank's counts."""

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """Give the scores: numbers by name, and nested dictionaries for tables."""


class Sink(ABC):
    """Writes a prediction: complete or absent."""

    @abstractmethod
    def append(self, piece: Piece) -> None:
        """Take the next piece."""

    def resume_point(self) -> int | None:
        """Say where an interrupted prediction goes on; None: at the start."""
        return None

    def rewind(self, point: int) -> None:
        """Drop what was written from a resume point on; the predictor's saved state is older than it."""
        if (self.resume_point() or 0) > point:
            raise NotImplementedError(f"{type(self).__name__} cannot go back to {point}, as a predictor's state needs")

    def flush(self) -> None:  # noqa: B027 - most sinks write at once
        """Make what was appended durable."""

    @abstractmethod
    def close(self) -> list[Path]:
        """Finish the output and give its files; called once, after all ranks have flushed."""


@dataclass
class Context:
    """What a phase needs beside its task.

    Parameters
    ----------
    log : VerbosityLogger
        Where to speak.
    folder : Path
        The run's folder.
    check_stop : callable
        Raises `Interrupted` when a signal asked the run to stop.
    stop_requested : callable
        Whether a signal asked the run to stop, for loops that save first.

    Examples
    --------
    >>> from utils.logging import VerbosityLogger
    >>> Context(VerbosityLogger("error"), Path("runs/a/1")).folder.name
    '1'
    """

    log: VerbosityLogger
    folder: Path
    check_stop: Any = field(default=lambda: None)
    stop_requested: Any = field(default=lambda: None)


@dataclass(frozen=True)
class PhaseResult:
    """How a phase ended.

    Parameters
    ----------
    status : str
        `done` or `up to date`.
    metrics : dict
        Main figures, for the closing table.

    Examples
    --------
    >>> PhaseResult("done", {"mIoU": 0.5}).status
    'done'
    """

    status: str
    metrics: dict[str, float] = field(default_factory=dict)


def open_store(settings: TaskConfig, phase: str, threads: int = 2) -> FeatureStore:
    """Open the feature store of a phase; two threads read a batch in two thirds of the time that one takes.

    Examples
    --------
    >>> import tempfile
    >>> from config import TaskConfig
    >>> len(open_store(TaskConfig(paths={"processed_dir": tempfile.mkdtemp()}), "train"))
    0
    """
    from utils.store.feature_store import FeatureStore

    return FeatureStore(settings.processed_dir(phase), threads=threads)
