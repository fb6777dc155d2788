"""From samples to finished pieces: the one way by which validation, evaluate and inference predict.

The samples of all items of a rank are one stream. A thread reads them and puts those of one shape together, another one
computes, and outputs come back to each predictor in the order of its samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from tasks.context import Context
from tasks.item import Item, Piece
from tasks.phases.samples import Job, LiveSamples, Slot, Source, StoredSamples
from tasks.phases.validation_loss import ValidationLoss
from tasks.predictor import Predictor
from tasks.prepared import PreparedItem
from tasks.sample import Batch, Sample
from tasks.sample import Progress as TrainingProgress
from tasks.task import Task
from utils.errors import DataError
from utils.geometry.augment import IDENTITY, View
from utils.logging import Progress
from utils.runtime import distributed
from utils.runtime.streams import Stream, read_ahead
from utils.store.feature_store import FeatureStore

LOOK_AHEAD = 4  # batches of common shapes that may overtake a sample of a rare one; bounds what waits in memory

Outputs = dict[str, Tensor]


@dataclass(eq=False)
class Part:
    """Samples that the model sees together, and what passes it unseen: ends of items and samples not wanted.

    Examples
    --------
    >>> Part([], None, []).outputs is None
    True
    """

    slots: list[Slot]
    batch: Batch | None
    unseen: list[Slot]
    outputs: Outputs | None = field(default=None)


# ---------------------------------------------------------------------------------------------------------------------
# Batches


def interleave(streams: Iterable[Stream[Slot]], width: int) -> Stream[Slot]:
    """Take from the first `width` streams by turns; a stream that ends leaves its turn to the next one.

    Examples
    --------
    >>> count = lambda name, length: (f"{name}{i}" for i in range(length))
    >>> list(interleave([count("a", 1), count("b", 3), count("c", 2)], 2))
    ['a0', 'b0', 'b1', 'c0', 'b2', 'c1']
    """
    waiting, running = iter(streams), deque[Stream[Slot]]()
    try:
        while True:
            while len(running) < width and (stream := next(waiting, None)) is not None:
                running.append(stream)
            if not running:
                return
            for element in running[0]:
                running.rotate(-1)
                yield element
                break
            else:
                running.popleft()
    finally:
        for stream in running:
            stream.close()


def collect(source: Source, slots: Stream[Slot], batch_size: int) -> Stream[Part]:
    """Put samples of one shape together, across items.

    A full batch waits for one more slot, as the end of an item is known only then. A batch that is not full goes when
    its first sample is `LOOK_AHEAD` batches old, and at the end.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> source, job = LiveSamples(task, [IDENTITY]), Job(task.source.items("val")[0], task.predictor())
    >>> [len(part.batch) for part in collect(source, source.read(job), 4)]
    [4, 4, 1]
    """
    buckets: dict[Hashable, list[Slot]] = {}  # the one with the oldest sample first
    full: list[Slot] = []
    unseen: list[Slot] = []
    with closing(slots):
        for number, slot in enumerate(slots):
            slot.number = number
            if slot.ends or not slot.wanted:
                unseen.append(slot)
            if full or len(unseen) >= batch_size:
                yield Part(full, source.load(full) if full else None, unseen)
                full, unseen = [], []
            if slot.wanted and not slot.ends:
                bucket = buckets.setdefault(shape := source.shape(slot), [])
                bucket.append(slot)
                if len(bucket) == batch_size:
                    full = buckets.pop(shape)
            if not full and buckets:
                oldest = next(iter(buckets))
                if number - buckets[oldest][0].number >= LOOK_AHEAD * batch_size:
                    full = buckets.pop(oldest)
    for left in [full, *buckets.values()]:
        if left or unseen:
            yield Part(left, source.load(left) if left else None, unseen)
        unseen = []


def compute(
    model: nn.Module | None,
    parts: Stream[Part],
    device: str | torch.device,
    context: Context,
    losses: ValidationLoss | None = None,
) -> Stream[Part]:
    """Compute the outputs of each part, and their loss where it is asked for.

    Examples
    --------
    >>> from tasks.example import example_context
    >>> from pathlib import Path
    >>> doubled = lambda batch: {"logits": 2 * batch.arrays["image"]}
    >>> parts = (Part([], batch, []) for batch in (Batch([], {"image": torch.ones(1)}), None))
    >>> [part.outputs for part in compute(doubled, parts, "cpu", example_context(Path("run")))]
    [{'logits': tensor([2.])}, None]
    """
    with closing(parts):
        for part in parts:
            context.check_stop()
            part.outputs = apply_model(model, part.batch, device)
            if losses is not None and part.batch is not None and part.outputs is not None:
                losses.watch(part.batch.to(device), part.outputs)
            part.batch = None  # its memory is free while outputs wait for their turn
            yield part


def apply_model(model: nn.Module | None, batch: Batch | None, device: str | torch.device) -> Outputs | None:
    """Compute the outputs of a batch; None without a batch or a model.

    Examples
    --------
    >>> apply_model(None, Batch([], {}), "cpu") is None
    True
    """
    if batch is None or model is None:
        return None
    with torch.no_grad():  # holds for the thread that it is said in
        return model(batch.to(device))


def in_order(parts: Stream[Part]) -> Stream[tuple[Job, list[Sample], Outputs | None]]:
    """Give outputs in the order of the stream, those of one item and batch together; no sample: the item ends.

    Examples
    --------
    >>> job = Job(Item("a", ()), None)
    >>> slots = [Slot(job, Sample(str(number), job.item, {}), number=number) for number in range(3)]
    >>> first = Part([slots[0], slots[2]], None, [], {"x": torch.tensor([0, 2])})
    >>> second = Part([slots[1]], None, [Slot(job, ends=True, number=3)], {"x": torch.tensor([1])})
    >>> answers = in_order(part for part in (first, second))
    >>> [(len(samples), outputs and outputs["x"].tolist()) for _, samples, outputs in answers]
    [(1, [0]), (1, [1]), (1, [2]), (0, None)]
    """
    waiting: dict[int, tuple[Slot, Part, int]] = {}
    following = 0
    with closing(parts):
        for part in parts:
            for row, slot in enumerate([*part.slots, *part.unseen]):
                waiting[slot.number] = slot, part, row
            ready = []
            while following in waiting:
                ready.append(waiting.pop(following))
                following += 1
            for _, group in groupby(ready, lambda at: (id(at[0].job), id(at[1]), at[0].wanted, at[0].ends)):
                run = list(group)
                slot, origin, row = run[0]
                samples = [other.sample for other, _, _ in run if other.sample is not None]
                seen = slot.wanted and not slot.ends
                yield slot.job, samples, rows_of(origin.outputs, row, row + len(run)) if seen else None


def rows_of(outputs: Outputs | None, first: int, stop: int) -> Outputs | None:
    """Take the outputs of some samples of a batch.

    Examples
    --------
    >>> rows_of({"x": torch.arange(4)}, 1, 3), rows_of(None, 1, 3)
    ({'x': tensor([1, 2])}, None)
    """
    return None if outputs is None else {name: values[first:stop] for name, values in outputs.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Predictors that keep state


def load_each(source: Source, slots: Stream[Slot]) -> Stream[Slot]:
    """Read samples one by one, for predictors that are asked late.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> source, job = LiveSamples(task, [IDENTITY]), Job(task.source.items("val")[0], task.predictor())
    >>> [len(slot.batch) for slot in load_each(source, source.read(job))][:2]
    [1, 1]
    """
    with closing(slots):
        for slot in slots:
            if not slot.ends:
                slot.batch = source.load([slot])
            yield slot


def ask_late(
    model: nn.Module | None,
    source: Source,
    slots: Stream[Slot],
    width: int,
    device: str | torch.device,
    context: Context,
) -> Stream[tuple[Job, list[Sample], Outputs | None]]:
    """Give outputs as `in_order` does, a sample at a time; samples of several groups share a batch.

    What was given is pushed before the next sample of the same predictor is asked for.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> source, job = LiveSamples(task, [IDENTITY]), Job(task.source.items("val")[0], task.predictor())
    >>> slots = load_each(source, source.read(job))
    >>> answers = ask_late(lambda batch: {"logits": torch.ones(len(batch))}, source, slots, 2, "cpu", context)
    >>> [outputs["logits"].tolist() for _, samples, outputs in answers][:2]
    [[1.0], [1.0]]
    """
    with closing(slots):
        for together in rounds(slots, width):
            for slot in together:
                if slot.job.error is None:
                    slot.job.begin()
            if not all(slot.ends for slot in together):
                context.check_stop()
            buckets: dict[Hashable, list[Slot]] = {}
            for slot in together:
                if slot.sample is not None and slot.job.error is None and slot.job.predictor.wants(slot.sample):
                    buckets.setdefault(source.shape(slot), []).append(slot)
            found: dict[int, Outputs | None] = {}
            for alike in buckets.values():
                outputs = apply_model(model, join([slot.batch for slot in alike if slot.batch is not None]), device)
                found |= {id(slot): rows_of(outputs, row, row + 1) for row, slot in enumerate(alike)}
            for slot in together:
                yield slot.job, [] if slot.sample is None else [slot.sample], found.get(id(slot))


def rounds(slots: Iterable[Slot], width: int) -> Iterator[list[Slot]]:
    """Cut a stream into runs of at most `width` slots of different predictors.

    Examples
    --------
    >>> first, second = (Job(Item("a", ()), name) for name in ("one", "two"))
    >>> [len(run) for run in rounds([Slot(first), Slot(second), Slot(second), Slot(first)], 3)]
    [2, 2]
    """
    together: list[Slot] = []
    for slot in slots:
        if len(together) == width or any(slot.job.predictor is other.job.predictor for other in together):
            yield together
            together = []
        together.append(slot)
    if together:
        yield together


def join(batches: Sequence[Batch]) -> Batch:
    """Put batches of one shape together.

    Examples
    --------
    >>> join([Batch([], {"image": torch.zeros(1, 3, 4, 6)}, [torch.zeros(1, 8, 2, 3)])] * 2).feature_maps[0].shape
    torch.Size([2, 8, 2, 3])
    """
    if len(batches) == 1:
        return batches[0]
    arrays = {name: torch.cat([batch.arrays[name] for batch in batches]) for name in batches[0].arrays}
    stacks = [batch.feature_maps for batch in batches if batch.feature_maps is not None]
    maps = [torch.cat(levels) for levels in zip(*stacks, strict=True)] if stacks else None
    return Batch([sample for batch in batches for sample in batch.samples], arrays, maps)


# ---------------------------------------------------------------------------------------------------------------------
# The whole way


def predict(
    task: Task,
    model: nn.Module | None,
    source: Source,
    groups: Sequence[Sequence[Item]],
    device: str | torch.device,
    batch_size: int,
    context: Context,
    open_job: Callable[[Item, Predictor], Job] = Job,
    skip_unreadable: bool = False,
    phase: str = "train",
    losses: ValidationLoss | None = None,
) -> Stream[tuple[Job, Piece | None]]:
    """Predict the items of some groups.

    Parameters
    ----------
    task : Task
        Gives the predictors.
    model : Module or None
        Maps a batch to outputs; None when the predictors need no model.
    source : Source
        Gives the samples.
    groups : sequence of sequence of Item
        What stays together and in order.
    device : str
        Where the model is.
    batch_size : int
        Samples per forward, at most.
    context : Context
        Whether to stop.
    open_job : callable
        Called for each item when it is about to be read, in the reading thread.
    skip_unreadable : bool
        Whether an item that cannot be read ends with `Job.error`, in place of an exception that ends all.
    phase : str
        Who asks.
    losses : ValidationLoss, optional
        Sees the outputs of all samples.

    Yields
    ------
    job : Job
        The item.
    piece : Piece or None
        As soon as it is finished; the pieces of an item in order. None after each push: all pieces so far were given,
        and all of the item when the job is done.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> source, groups = LiveSamples(task, [IDENTITY]), task.source.partition(task.source.items("val"))
    >>> given = list(predict(task, task.build_model().eval(), source, groups, "cpu", 4, context))
    >>> sum(piece.arrays["classes"].size for _, piece in given if piece is not None), given[-1][0].done
    (4096, True)
    """
    stateful = task.predictor(source.views, phase).stateful  # asked on all ranks, also on one without a group

    def read(group: Sequence[Item]) -> Stream[Slot]:
        predictor = task.predictor(source.views, phase)
        for item in group:
            job = Job(item, predictor)
            try:
                job = open_job(item, predictor)
                yield from source.read(job)
            except DataError as error:
                if not skip_unreadable:
                    raise
                job.error = error
            yield Slot(job, ends=True)

    slots = interleave(map(read, groups), batch_size if stateful else 1)
    if stateful:
        ahead = read_ahead(load_each(source, slots), depth=2 * batch_size)
        answers = ask_late(model, source, ahead, batch_size, device, context)
    else:  # one thread reads, one computes, and this one blends, decodes and hands on
        parts = read_ahead(collect(source, slots, batch_size), depth=2)
        answers = in_order(read_ahead(compute(model, parts, device, context, losses), depth=1))
    return hand_on(answers)


def hand_on(
    answers: Stream[tuple[Job, list[Sample], Outputs | None]],
) -> Stream[tuple[Job, Piece | None]]:
    """Push outputs to their predictors, and give the pieces that they finish, as `predict` says.

    Examples
    --------
    >>> from tasks.segmentation.predictor import DensePredictor
    >>> from tasks.segmentation.items import SceneItem
    >>> from utils.raster.tiling import Window
    >>> item = SceneItem("a", (), "a", Window(0, 0, 4, 4), 4, 4, (0, 4))
    >>> job, sample = Job(item, DensePredictor(2, 4)), Sample("a", item, {}, Window(0, 0, 4, 4))
    >>> answers = [(job, [sample], {"logits": torch.zeros(1, 2, 4, 4)}), (job, [], None)]
    >>> [piece and piece.arrays["classes"].shape for _, piece in hand_on(answer for answer in answers)]
    [(4, 4), None, None]
    """
    with closing(answers):
        for job, samples, outputs in answers:
            if job.error is None:
                job.begin()
                yield from ((job, piece) for piece in (job.predictor.push(samples, outputs) if samples else ()))
                if not samples:
                    yield from ((job, piece) for piece in job.predictor.finish())
            job.pushed += len(samples)
            job.done = not samples
            yield job, None


def score(
    task: Task,
    model: nn.Module | None,
    prepared: Sequence[PreparedItem],
    store: FeatureStore | None,
    device: str | torch.device,
    batch_size: int,
    context: Context,
    views: Sequence[View] = (IDENTITY,),
    watch: Callable[[Piece], None] | None = None,
    constant: bool = False,
    phase: str = "train",
    progress: TrainingProgress | None = None,
) -> dict[str, Any]:
    """Predict items and compare them with their truth; every rank takes its share and all get the scores.

    Parameters
    ----------
    task : Task
        Gives predictors, truth and metric.
    model : Module or None
        In evaluation mode.
    prepared : sequence of PreparedItem
        Items, with the entries of the store where `store` is given.
    store : FeatureStore or None
        Where features are; None computes them.
    device : str
        Where the model is.
    batch_size : int
        Samples per forward.
    context : Context
        Whether to stop.
    views : sequence of View
        Views to average, where there is no store.
    watch : callable, optional
        Gets each piece of this rank's share, too.
    constant : bool
        Also score the best constant prediction.
    phase : str
        Who asks: `train` for validation, or `evaluate`.
    progress : Progress, optional
        Of a training, for which the loss is computed too where the task can.

    Returns
    -------
    dict
        The metric's scores; those of the constant prediction as `constant`.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> from tasks.context import Context
    >>> from utils.logging import VerbosityLogger
    >>> context = Context(VerbosityLogger("error"), store.folder)
    >>> model = task.build_model().eval()
    >>> stored = score(task, model, prepared, store, "cpu", 4, context)
    >>> live = score(task, model, prepared, None, "cpu", 4, context)
    >>> stored["mIoU"] == live["mIoU"], stored["support"]
    (True, 6144)
    """
    metric = task.output.metric(phase)
    losses = None
    if progress is not None and task.objective.takes_predictions:
        losses = ValidationLoss(task, progress)
    source: Source = LiveSamples(task, views) if store is None else StoredSamples(task, store, prepared)
    groups = distributed.share(task.source.partition([entry.item for entry in prepared]))
    given = predict(task, model, source, groups, device, batch_size, context, phase=phase, losses=losses)
    mine = {item.id for group in groups for item in group}
    total = sum(
        task.source.count_samples(entry.item) * len(views) if store is None else len(entry.entries)
        for entry in prepared
        if entry.item.id in mine
    )

    def count() -> Any:
        with closing(given), Progress(total, "windows predicted and scored", context.log) as counter:
            for job, piece in given:
                if piece is None:
                    counter.advance(job.pushed)
                    job.pushed = 0
                else:
                    metric.update(piece, task.source.truth(piece))
                    if watch is not None:
                        watch(piece)
        return metric.state(), {} if losses is None else losses.state()

    merged, summed = task.output.metric(phase), losses and ValidationLoss(task, losses.progress)
    for state, sums in distributed.run_on_all(count):
        merged.merge(state)
        if summed is not None:
            summed.merge(sums)
    found = {} if summed is None else summed.compute()
    return merged.compute() | found | ({"constant": merged.constant()} if constant else {})
