"""The samples of items as they enter a prediction: read from pictures, or from the store."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.item import Item
from tasks.output import Sink
from tasks.predictor import Predictor
from tasks.prepared import PreparedItem, PreparedReader, collate_samples
from tasks.sample import Batch, Sample
from tasks.task import Task
from utils.data import SampleRef
from utils.errors import DataError
from utils.geometry.augment import IDENTITY, View
from utils.geometry.fields import kind_of
from utils.runtime.streams import Stream
from utils.store.feature_store import FeatureStore


@dataclass(eq=False)
class Job:
    """An item on its way.

    Parameters
    ----------
    item : Item
        What is still to predict of it.
    predictor : Predictor
        That of the item's group.
    resume : int, optional
        Resume point of the sink.
    state : dict, optional
        What the predictor remembered at that point.
    sink : Sink, optional
        Where pieces go.
    pushed : int
        Samples that the predictor has seen.
    done : bool
        Whether all pieces were given.
    error : DataError, optional
        Why its picture or video could not be read to the end; then it has no prediction.

    Examples
    --------
    >>> from tasks.segmentation.predictor import DensePredictor
    >>> Job(Item("a", ()), DensePredictor(2, 4)).done
    False
    """

    item: Item
    predictor: Predictor
    resume: int | None = None
    state: dict[str, Any] | None = None
    sink: Sink | None = None
    pushed: int = 0
    done: bool = False
    begun: bool = False
    error: DataError | None = None

    def begin(self) -> None:
        """Start the predictor, once.

        Examples
        --------
        >>> from tasks.segmentation.predictor import DensePredictor
        >>> from tasks.segmentation.items import SceneItem
        >>> from utils.raster.tiling import Window
        >>> job = Job(SceneItem("a", (), "a", Window(0, 0, 4, 8), 4, 4, (0, 4)), DensePredictor(2, 4))
        >>> job.begin()
        >>> job.predictor.item.id
        'a'
        """
        if not self.begun:
            self.predictor.start(self.item, self.resume)
            if self.state is not None:
                self.predictor.load_state(self.state)
        self.begun = True


@dataclass(eq=False)
class Slot:
    """A place in the stream: a sample, or the end of an item.

    Parameters
    ----------
    job : Job
        The item.
    sample : Sample, optional
        With its arrays, as soon as they are read.
    ref : SampleRef, optional
        Of a stored sample.
    ends : bool
        Whether this is the end of the item.
    number : int
        Running number in the stream.
    wanted : bool
        Whether the model must see the sample.
    batch : Batch, optional
        The sample alone, for a predictor that keeps state.

    Examples
    --------
    >>> from tasks.segmentation.predictor import DensePredictor
    >>> Slot(Job(Item("a", ()), DensePredictor(2, 4)), ends=True).wanted
    True
    """

    job: Job
    sample: Sample | None = None
    ref: SampleRef | None = None
    ends: bool = False
    number: int = 0
    wanted: bool = True
    batch: Batch | None = None


class Source(Protocol):
    """Where samples come from."""

    views: Sequence[View]

    def read(self, job: Job) -> Stream[Slot]:
        """Give a place for each sample of an item, in order."""

    def shape(self, slot: Slot) -> Hashable:
        """Give what must be equal for two samples to share a batch."""

    def load(self, slots: Sequence[Slot]) -> Batch:
        """Make a batch, and fill in the samples."""


class LiveSamples:
    """Samples read from pictures, each in all views, those of a sample together.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> source, job = LiveSamples(task, [IDENTITY]), Job(task.source.items("val")[0], task.predictor())
    >>> slots = list(source.read(job))
    >>> len(slots), len(source.load(slots[:4]))
    (9, 4)
    """

    def __init__(self, task: Task, views: Sequence[View]):
        self.task, self.views = task, views

    def read(self, job: Job) -> Stream[Slot]:
        """Read, and turn to each view.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.source.prepare_data()
        >>> source = LiveSamples(task, [IDENTITY])
        >>> slots = source.read(Job(task.source.items("val")[0], task.predictor()))
        >>> [slot.sample.window.x for slot in slots][:3]
        [0, 24, 48]
        """
        for sample in self.task.source.samples(job.item):
            for view in self.views:
                turned = self.task.source.apply_view(sample, view)
                yield Slot(job, turned, wanted=job.predictor.stateful or job.predictor.wants(turned))

    def shape(self, slot: Slot) -> Hashable:
        """Names and shapes of the arrays that are stacked; ragged ones, such as boxes, share a batch as they are.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.source.prepare_data()
        >>> source = LiveSamples(task, [IDENTITY])
        >>> slots = source.read(Job(task.source.items("val")[0], task.predictor()))
        >>> source.shape(next(slots))
        (('image', (32, 32, 3)), ('valid', (32, 32)), ('label', (32, 32)))
        """
        assert slot.sample is not None
        arrays, fields = slot.sample.arrays, self.task.source.fields
        return tuple((name, array.shape) for name, array in arrays.items() if not kind_of(fields, name).ragged)

    def load(self, slots: Sequence[Slot]) -> Batch:
        """Stack the samples.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.source.prepare_data()
        >>> source = LiveSamples(task, [IDENTITY])
        >>> slots = source.read(Job(task.source.items("val")[0], task.predictor()))
        >>> source.load([next(slots), next(slots)]).arrays["image"].shape
        torch.Size([2, 3, 32, 32])
        """
        return collate_samples(self.task, [slot.sample for slot in slots if slot.sample is not None])


class StoredSamples:
    """Samples and features that prepare has stored, as they are.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> source, job = StoredSamples(task, store, prepared), Job(prepared[1].item, task.predictor())
    >>> slots = list(source.read(job))
    >>> len(slots), len(source.load(slots)), slots[0].sample.item.id == job.item.id
    (2, 2, True)
    """

    views: Sequence[View] = (IDENTITY,)

    def __init__(self, task: Task, store: FeatureStore, prepared: Sequence[PreparedItem]):
        self.store = store
        self.reader = PreparedReader(task, store, prepared)
        self.places: dict[str, list[int]] = {}
        for position, owner in enumerate(self.reader.owners):
            self.places.setdefault(owner.id, []).append(position)

    def read(self, job: Job) -> Stream[Slot]:
        """Name the samples; they are read a batch at a time.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
        >>> source = StoredSamples(task, store, prepared)
        >>> slots = source.read(Job(prepared[0].item, task.predictor()))
        >>> [(slot.ref.position, slot.sample) for slot in slots][:2]
        [(0, None), (1, None)]
        """
        for position in self.places.get(job.item.id, ()):
            yield Slot(job, ref=SampleRef(position))

    def shape(self, slot: Slot) -> Hashable:
        """Names, shapes and types of all arrays that are stacked, from the store's index.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
        >>> source = StoredSamples(task, store, prepared)
        >>> slots = source.read(Job(prepared[0].item, task.predictor()))
        >>> sample, maps = source.shape(next(slots))
        >>> [name for name, _ in sample], [shape for _, (shape, _) in maps]
        (['image', 'valid', 'label'], [(8, 8, 8), (8, 8, 8)])
        """
        assert slot.ref is not None
        entry = self.reader.entries[slot.ref.position]
        fields, stored = self.reader.task.source.fields, self.store.describe(entry.sample_key).items()
        sample = tuple((name, layout) for name, layout in stored if not kind_of(fields, name).ragged)
        others = entry.records.get(slot.ref.view, {}).values()
        return (sample, *(tuple(self.store.describe(key).items()) for key in others))

    def load(self, slots: Sequence[Slot]) -> Batch:
        """Read the samples; what is not wanted is computed nevertheless, and not pushed.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import prepared_example
        >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
        >>> source = StoredSamples(task, store, prepared)
        >>> slots = source.read(Job(prepared[0].item, task.predictor()))
        >>> slot = next(slots)
        >>> source.load([slot]).feature_maps[0].shape, slot.sample.window.x
        (torch.Size([1, 8, 8, 8]), 0)
        """
        batch = self.reader.read([slot.ref for slot in slots if slot.ref is not None])
        for slot, sample in zip(slots, batch.samples, strict=True):
            slot.sample = sample
            slot.wanted = slot.job.predictor.stateful or slot.job.predictor.wants(sample)
        return batch
