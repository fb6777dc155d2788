"""What a task gives to the phases, and the things that flow between them.

The phases in `tasks/phases` are written once against `Task` and `Predictor`; none of them asks which task it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from config import expand_path
from tasks.runs import choose_device
from utils.augment import IDENTITY, Variation, View
from utils.checkpoints import find_file
from utils.data import Entry
from utils.errors import DataError, SettingsError
from utils.files import file_stamp
from utils.geometry.fields import STANDARD_FIELDS, Fields, apply_view
from utils.report import require_tensorboard
from utils.tiling import Window

if TYPE_CHECKING:
    from config import TaskConfig
    from utils.checkpoints import Checkpoint
    from utils.feature_store import FeatureStore
    from utils.logging import VerbosityLogger


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
    """Turns the model's outputs for the samples of one item into pieces; keeps state within an item.

    `batched` is False where `wants` depends on what came out for the sample before.
    """

    batched: bool = True

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

    def flush(self) -> None:  # noqa: B027 - most sinks write at once
        """Make what was appended durable."""

    @abstractmethod
    def close(self) -> list[Path]:
        """Finish the output and give its files; called once, after all ranks have flushed."""


def check_checkpoint(named: str | None, made_first: bool) -> None:
    """Refuse a checkpoint that is not there, unless training comes first and may make it.

    Raises
    ------
    DataError
        If there is none.

    Examples
    --------
    >>> check_checkpoint(None, False), check_checkpoint("runs/a/latest/checkpoints/best.safetensors", True)
    (None, None)
    >>> check_checkpoint("/no/such/best.safetensors", False)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/best.safetensors: no such checkpoint, and none near it; train first or name another
    """
    if named and not made_first:
        find_file(Path(expand_path(named)), "checkpoint")


def check_folder(named: str | None) -> None:
    """Refuse a file where results are to have a folder.

    Raises
    ------
    SettingsError
        If a file stands there.

    Examples
    --------
    >>> check_folder(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: inference.output_dir: .../base.py is a file; name a folder
    """
    if named and Path(expand_path(named)).is_file():
        raise SettingsError(f"inference.output_dir: {expand_path(named)} is a file; name a folder")


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


class Task(ABC):
    """One kind of job. Phases call these methods and nothing else.

    Parameters
    ----------
    name : str
        The task's name in the settings.
    settings : TaskConfig
        All of its settings.
    """

    kind: ClassVar[str]
    phases: ClassVar[tuple[str, ...]]
    absent: ClassVar[Mapping[str, str]] = {}  # phases that one may look for -> what to do in their place
    primary: ClassVar[str]  # the metric that chooses the best checkpoint; larger is better
    plotted: ClassVar[tuple[str, ...]] = ()  # scores that training.png shows; none: all

    def __init__(self, name: str, settings: TaskConfig):
        self.name = name
        self.settings = settings

    # -- before work starts

    @classmethod
    def needed_by(cls, settings: TaskConfig) -> list[str]:
        """Names of other tasks that a task with these settings reads from."""
        start = settings.train.init_from
        return [start] if start else []

    @abstractmethod
    def check(self) -> list[str]:
        """Raise for settings, data or weights that cannot work; give lines that tell the plan."""

    def check_early(self, phases: Sequence[str]) -> None:
        """Raise, before any task works, for what can be told without reading pictures; on all ranks."""
        for phase in phases:
            choose_device(self.settings.device(phase))
        if "train" in phases and self.settings.train.tensorboard:
            require_tensorboard()
        for phase in (name for name in ("evaluate", "inference") if name in phases):
            check_checkpoint(getattr(self.settings, phase).checkpoint, "train" in phases)
        check_folder(self.settings.inference.output_dir if "inference" in phases else None)

    def settle(self) -> None:  # noqa: B027 - only some tasks have something to decide
        """Decide what is global before anything is read: sample, split lists, value scaling. Main rank only."""

    # -- data

    @abstractmethod
    def items(self, split: str) -> list[Item]:
        """Pictures and labels of `train`, `val`, `test` or `inference`."""

    def partition(self, items: Sequence[Item]) -> list[list[Item]]:
        """Group what must stay together and in order; ranks take whole groups."""
        return [[item] for item in items]

    def continue_from(self, item: Item, resume: int) -> Item:
        """Keep of an item what is still to predict after an interruption."""
        return item

    @abstractmethod
    def samples(self, item: Item, prompts: Any = None) -> Iterator[Sample]:
        """Read what a model sees of an item, in order."""

    def count_samples(self, item: Item) -> int:
        """Say how many samples an item has at most, without reading it."""
        return 1

    @abstractmethod
    def truth(self, item: Item, window: Window | None = None) -> Any:
        """Read the truth in the item's own pixels, by piece."""

    def audit(self, items: Iterable[Item]) -> Iterator[Finding]:
        """Check labels and pictures: what is wrong, where, how to mend it."""
        yield from ()

    def facts(self, sample: Sample) -> dict[str, Any]:
        """Say what later phases want to know of a sample without reading it."""
        return {}

    # -- stored records

    @property
    def fields(self) -> Fields:
        """Kind of each field of a sample, by which it is turned, warped, padded and stacked."""
        return STANDARD_FIELDS

    def cell_size(self) -> int:
        """Pixels per side of the largest cell of the feature maps."""
        return 1

    def recipe(self) -> dict[str, Any]:
        """Everything in the settings and weights that a prepared item depends on."""
        return {}

    def views(self, split: str) -> Sequence[View | Variation]:
        """Views and random variations of each sample that are stored."""
        return [IDENTITY]

    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        """Vary a training sample at random; all samples keep their size, or all come to one size."""
        return sample

    def apply_view(self, sample: Sample, view: View | Variation) -> Sample:
        """Turn a sample to a view, or vary it as this variation always does: prepare and training see the same."""
        plain, generator = self.draw_view(sample.id, view)
        arrays = apply_view(self.fields, sample.arrays, plain)
        turned = sample.with_arrays(arrays, view=sample.view.compose(plain))
        return turned if isinstance(view, View) else self.augment(turned, generator)

    def draw_view(self, sample_id: str, view: View | Variation) -> tuple[View, np.random.Generator]:
        """Give the flip and turn of a view or variation of a sample, and the generator of what varies it further."""
        index = 0 if isinstance(view, View) else view.index
        generator = np.random.default_rng([crc32(sample_id.encode()), index])
        if isinstance(view, View):
            return view, generator
        plain = [known for known in self.views("train") if isinstance(known, View)]
        return plain[int(generator.integers(len(plain)))], generator

    def requests(self, sample: Sample) -> list[Request]:
        """Say what to compute and store for a sample."""
        return []

    def producers(self) -> dict[str, Producer]:
        """Give what computes requests, by name; loads weights, so it is called only when there is work."""
        return {}

    def record_bytes(self) -> int:
        """Size of the stored records of one sample and view, about."""
        return 0

    def sample_bytes(self) -> int:
        """Size of the stored arrays of one sample, about."""
        return 0

    # -- training

    def build_model(self) -> nn.Module:
        """Give a module that maps a `Batch` to named outputs; only its trainable part is saved."""
        raise TypeError(f"{self.kind} has nothing to train")

    def describe(self) -> dict[str, Any]:
        """Say in a checkpoint all that evaluate, inference and export need."""
        return {"kind": self.kind}

    @classmethod
    def restore(cls, name: str, settings: TaskConfig, checkpoint: Checkpoint) -> Task:
        """Make the task again as it was when the checkpoint was written."""
        found = checkpoint.description.get("kind")
        if found != cls.kind:
            raise DataError(f"{checkpoint.path}: a checkpoint of {found!r}, not of {cls.kind!r}; name the right one")
        return cls(name, settings)

    def training_views(self, stored: Sequence[str], progress: Progress) -> Sequence[str]:
        """Choose among the views of a training sample those that may come in this epoch."""
        return stored

    def curriculum(self, epoch: int, epochs: int) -> Progress:
        """Say what changes over the epochs."""
        return Progress(epoch, epochs)

    def sampling_weights(self, entries: Sequence[Entry]) -> np.ndarray | None:
        """How often each training sample comes; None: once per epoch each."""
        return None

    def learn_from(self, entries: Sequence[Entry]) -> None:  # noqa: B027 - only some tasks need it
        """Take from the training entries what the loss needs, such as class weights."""

    def encode(self, sample: Sample, progress: Progress) -> Any:
        """Make the loss's target of one sample, or None when `collate` makes it of the whole batch."""
        return None

    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        """Put the targets of a batch together."""
        return batch

    def loss_weights(self) -> dict[str, float]:
        """Weight of each loss term."""
        return {"loss": 1.0}

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Give the divisor of each loss term, from the targets alone."""
        raise TypeError(f"{self.kind} has nothing to train")

    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Give the sum of each loss term."""
        raise TypeError(f"{self.kind} has nothing to train")

    def training_scores(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, tuple[float, float]]:
        """Give sums and counts of scores that are logged while training."""
        return {}

    # -- predictions

    @abstractmethod
    def predictor(self, views: Sequence[View] | None = None) -> Predictor:
        """Give what turns outputs into pieces; `views` come for each sample, those of `prediction_views` when None."""

    def prediction_views(self) -> list[View]:
        """Views whose predictions are averaged."""
        return [IDENTITY]

    @abstractmethod
    def metric(self) -> Metric:
        """Give an empty score."""

    def appraisal(self) -> dict[str, Any]:
        """Say what `appraise` depends on beside model and split."""
        return {}

    def appraise(self, model: nn.Module | None, context: Context) -> dict[str, Any]:
        """Give evaluate further scores, which need more than the split; all ranks call it together."""
        return {}

    def report(self, metrics: dict[str, Any], folder: Path, log: VerbosityLogger) -> None:
        """Print tables and draw plots of scores."""
        for name, value in metrics.items():
            if isinstance(value, float):
                log.info(f"{name} {value:.4f}")

    def draw(self, item: Item, pieces: Iterator[Piece]) -> np.ndarray | None:
        """Draw an item with what was predicted of it and its truth, (H, W, 3) uint8."""
        return None

    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        """Give what writes an item's prediction."""
        raise TypeError(f"{self.kind} writes no predictions")

    def conclude(self, items: Sequence[Item], folder: Path) -> list[Path]:
        """Write what is about all items of an inference together, once each is complete."""
        return []

    def export(self, model: nn.Module | None, folder: Path, checkpoint: Checkpoint | None) -> list[Path]:
        """Write what leaves the house."""
        raise TypeError(f"{self.kind} exports nothing")


def open_store(settings: TaskConfig, phase: str, threads: int = 2) -> FeatureStore:
    """Open the feature store of a phase; two threads read a batch in two thirds of the time that one takes.

    Examples
    --------
    >>> import tempfile
    >>> from config import parse_settings
    >>> folder = tempfile.mkdtemp()
    >>> len(open_store(parse_settings(f"paths: {{processed_dir: {folder}}}").shared, "train"))
    0
    """
    from utils.feature_store import FeatureStore

    return FeatureStore(settings.processed_dir(phase), threads=threads)
