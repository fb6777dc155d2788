"""From samples to finished pieces: the one way by which validation, evaluate and inference predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor, nn

from tasks.base import Batch, Context, Item, Piece, Predictor, Sample, Task
from tasks.phases.streams import closed_in_the_end, read_ahead
from tasks.prepared import PreparedItem, PreparedReader, batched, collate_samples
from utils import distributed
from utils.augment import IDENTITY
from utils.data import SampleRef
from utils.feature_store import FeatureStore


def live_batches(
    task: Task, item: Item, predictor: Predictor, batch_size: int
) -> Iterator[tuple[list[Sample], Batch | None]]:
    """Read an item's samples in all prediction views, a batch at a time.

    Yields
    ------
    samples : list of Sample
        In order, window by window, the views of a window together, with their arrays.
    batch : Batch or None
        None for samples that the predictor does not want the model to see.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.settle()
    >>> item = task.items("val")[0]
    >>> [len(samples) for samples, batch in live_batches(task, item, task.predictor(), 4)]
    [4, 4, 1]
    """
    views = task.prediction_views()
    samples = (task.apply_view(sample, view) for sample in task.samples(item) for view in views)
    if not predictor.batched:
        for sample in samples:  # whether the next sample is wanted may depend on what this one gave
            yield ([sample], collate_samples(task, [sample]) if predictor.wants(sample) else None)
        return
    for wanted, run in groupby(samples, predictor.wants):
        while group := list(islice(run, batch_size)):
            yield group, collate_samples(task, group) if wanted else None


def stored_batches(
    task: Task, prepared: PreparedItem, store: FeatureStore, predictor: Predictor, batch_size: int
) -> Iterator[tuple[list[Sample], Batch | None]]:
    """Read an item's prepared samples, a batch at a time; the same samples as `live_batches` without views.

    A predictor that is not batched is asked of every sample, as it is there; one that is sees all samples, because
    what a stored sample costs is reading it.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> [len(samples) for samples, batch in stored_batches(task, prepared[0], store, task.predictor(), 3)]
    [3, 1]
    """
    reader = PreparedReader(task, store, [prepared])
    refs = [SampleRef(position) for position in range(len(prepared.entries))]
    for group in batched(refs, batch_size if predictor.batched else 1):
        batch = reader.read(group)
        wanted = predictor.batched or predictor.wants(batch.samples[0])
        yield batch.samples, batch if wanted else None


def predict_item(
    model: nn.Module | None,
    predictor: Predictor,
    item: Item,
    batches: Iterator[tuple[list[Sample], Batch | None]],
    device: str | torch.device,
    context: Context,
    resume: int | None = None,
) -> Iterator[Piece]:
    """Predict one item.

    Parameters
    ----------
    model : Module or None
        Maps a batch to outputs; None when the predictor needs no model.
    predictor : Predictor
        Turns outputs into pieces.
    item : Item
        What is predicted.
    batches : iterator
        From `live_batches` or `stored_batches`.
    device : str
        Where the model is.
    context : Context
        Whether to stop.
    resume : int, optional
        Resume point of the item's sink.

    Yields
    ------
    Piece
        As soon as it is finished.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.settle()
    >>> item, predictor = task.items("val")[0], task.predictor()
    >>> batches = live_batches(task, item, predictor, 4)
    >>> pieces = predict_item(task.build_model().eval(), predictor, item, batches, "cpu", context)
    >>> sum(piece.arrays["classes"].size for piece in pieces)
    4096
    """
    predictor.start(item, resume)
    if predictor.batched:  # one thread reads, one computes, and this one blends, decodes and hands on
        computed = read_ahead(apply_model(model, read_ahead(batches, depth=2), device, context), depth=1)
    else:
        computed = apply_model(model, batches, device, context)
    with closed_in_the_end(computed):
        for samples, outputs in computed:
            yield from predictor.push(samples, outputs)
    yield from predictor.finish()


def apply_model(
    model: nn.Module | None,
    batches: Iterator[tuple[list[Sample], Batch | None]],
    device: str | torch.device,
    context: Context,
) -> Iterator[tuple[list[Sample], dict[str, Tensor] | None]]:
    """Compute the outputs of each batch; None where the model is not wanted.

    Examples
    --------
    >>> from tasks.example import example_context
    >>> from pathlib import Path
    >>> doubled = lambda batch: {"logits": 2 * batch.arrays["image"]}
    >>> batches = iter([([], Batch([], {"image": torch.ones(1)})), ([], None)])
    >>> list(apply_model(doubled, batches, "cpu", example_context(Path("run"))))
    [([], {'logits': tensor([2.])}), ([], None)]
    """
    with closed_in_the_end(batches):
        for samples, batch in batches:
            context.check_stop()
            outputs: dict[str, Tensor] | None = None
            if batch is not None and model is not None:
                with torch.no_grad():  # holds for the thread that it is said in
                    outputs = model(batch.to(device))
            yield samples, outputs


def score(
    task: Task,
    model: nn.Module | None,
    prepared: Sequence[PreparedItem],
    store: FeatureStore | None,
    device: str | torch.device,
    batch_size: int,
    context: Context,
) -> dict[str, Any]:
    """Predict items and compare them with their truth; every rank takes its share and all get the scores.

    Parameters
    ----------
    task : Task
        Gives predictor, truth and metric.
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

    Returns
    -------
    dict
        The metric's scores.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> from tasks.base import Context
    >>> from utils.logging import VerbosityLogger
    >>> context = Context(VerbosityLogger("error"), store.folder)
    >>> model = task.build_model().eval()
    >>> stored = score(task, model, prepared, store, "cpu", 4, context)
    >>> live = score(task, model, prepared, None, "cpu", 4, context)
    >>> stored["mIoU"] == live["mIoU"], stored["support"]
    (True, 6144)
    """
    metric = task.metric()
    by_id = {entry.item.id: entry for entry in prepared}
    groups = task.partition([entry.item for entry in prepared])
    for item in (item for group in distributed.share(groups) for item in group):
        predictor = task.predictor(None if store is None else [IDENTITY])  # stored samples come as they are
        if store is None:
            batches = live_batches(task, item, predictor, batch_size)
        else:
            batches = stored_batches(task, by_id[item.id], store, predictor, batch_size)
        with closed_in_the_end(predict_item(model, predictor, item, batches, device, context)) as pieces:
            for piece in pieces:
                metric.update(piece, task.truth(item, piece.window))
    merged = task.metric()
    for state in distributed.gather_objects(metric.state()):
        merged.merge(state)
    return merged.compute()
