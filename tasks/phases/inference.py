"""Inference: new rasters, pictures or videos -> streamed predictions in the formats that people open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from config import expand_path
from tasks.base import Context, Item, PhaseResult
from tasks.phases.evaluate import restore
from tasks.phases.prediction import live_batches, predict_item
from tasks.phases.streams import closed_in_the_end
from tasks.runs import choose_device
from tasks.task import Task
from utils import distributed
from utils.checkpoints import Checkpoint
from utils.errors import DataError
from utils.files import digest_array, digest_json, file_stamp, read_json, write_json
from utils.logging import Progress

RECORD = "inference.json"  # in the run's folder: what was predicted from what


def run(task: Task, context: Context) -> PhaseResult:
    """Predict every input that has no up-to-date prediction.

    Parameters
    ----------
    task : Task
        The task.
    context : Context
        The run's folder, and whether to stop.

    Returns
    -------
    PhaseResult
        `up to date` when all outputs were there.

    Raises
    ------
    DataError
        If there is no input or no checkpoint.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from tasks.phases import prepare, train
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> _ = prepare.run(task, context), train.run(task, context)
    >>> run(task, context).status, run(task, context).status
    ('done', 'up to date')
    """
    settings = task.settings.inference
    task, model, checkpoint = restore(task, settings.checkpoint, context, "inference")
    items = task.source.items("inference")
    if not items:
        raise DataError("inference: no input; name pictures in inference.input_tif")
    folder = output_folder(task, context)
    prints = {item.id: fingerprint(task, item, checkpoint) for item in items}
    done = read_json(context.folder / RECORD, {})
    todo = [item for item in items if not is_current(done.get(item.id), prints[item.id])]
    distributed.barrier()  # all ranks have read the record before rank 0 writes it again
    for name in sorted(set_of(items) - set_of(todo)):
        context.log.info(f"inference: {name} is up to date")
    if not todo:
        return PhaseResult("up to date")
    device = choose_device(task.settings.device("inference"))
    if model is not None:
        model.to(device).eval()
    groups = task.source.partition(todo)
    for group in distributed.share(groups):
        for item in group:
            predict(task, model, item, folder, prints[item.id], device, context)
    distributed.barrier()
    if distributed.is_main():
        finish(task, todo, folder, prints, done, context)
        for path in task.output.write_summary(items, folder):
            context.log.info(f"inference: {path}")
    distributed.barrier()
    return PhaseResult("done", {"outputs": float(len(todo))})


def set_of(items: Sequence[Item]) -> set[str]:
    """Ids of items.

    Examples
    --------
    >>> set_of([Item("a", ())])
    {'a'}
    """
    return {item.id for item in items}


def output_folder(task: Task, context: Context) -> Path:
    """Where predictions go: the named folder, or one in the run's.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> output_folder(task, context).name
    'predictions'
    """
    named = task.settings.inference.output_dir
    return Path(expand_path(named)) if named else context.folder / "predictions"


def fingerprint(task: Task, item: Item, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Tell what a prediction was made from; another one means that it must be made again.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> sorted(fingerprint(task, task.source.items("inference")[0], None))
    ['checkpoint', 'item', 'settings']
    """
    harmless = {"enable", "checkpoint", "input_tif", "batch_size", "device"}
    return {
        "checkpoint": digest_checkpoint(checkpoint) if checkpoint else None,
        "item": digest_json(item.stamp()),
        "settings": digest_json(task.settings.inference.model_dump(mode="json", exclude=harmless)),
    }


def digest_checkpoint(checkpoint: Checkpoint) -> str:
    """Digest what a checkpoint holds; its file may be written in more than one way.

    Examples
    --------
    >>> import torch
    >>> digests = {digest_checkpoint(Checkpoint({"bias": torch.tensor(b)}, {}, Path("a"))) for b in (0.0, -0.0, 0.0)}
    >>> len(digests)
    2
    """
    bits = {
        name: [str(tensor.dtype), list(tensor.shape), digest_array(tensor.cpu().reshape(-1).view(torch.uint8).numpy())]
        for name, tensor in checkpoint.tensors.items()
    }
    return digest_json({"description": checkpoint.description, "tensors": bits})


def is_current(entry: dict | None, expected: dict[str, Any]) -> bool:
    """Whether a recorded prediction is still that of its input, and its files are as they were left.

    Examples
    --------
    >>> is_current(None, {}), is_current({"fingerprint": {"item": "0"}, "files": []}, {"item": "0"})
    (False, True)
    """
    if not isinstance(entry, dict) or entry.get("fingerprint") != expected or not isinstance(entry.get("files"), list):
        return False  # also where a person changed the record
    return all(Path(stamp[0]).exists() and file_stamp(stamp[0]) == stamp for stamp in entry["files"])


def predict(
    task: Task, model: nn.Module | None, item: Item, folder: Path, made_from: dict, device: Any, context: Context
) -> None:
    """Predict one item into its sink, from where an interrupted run stopped.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> item = task.source.items("inference")[0]
    >>> predict(task, task.build_model().eval(), item, context.folder, {}, "cpu", context)
    >>> task.output.sink(item, context.folder, {}).resume_point()
    64
    """
    sink = task.output.sink(item, folder, made_from)
    resume = sink.resume_point()
    if resume:
        context.log.info(f"inference: {item.id}: resuming at {resume}")
        item = task.source.continue_from(item, resume)
    predictor = task.predictor()
    batches = live_batches(task, item, predictor, task.settings.inference.batch_size)
    total = task.source.count_samples(item) * len(task.prediction_views())
    with Progress(total, f"inference {item.id}", context.log, every=50) as counter:
        counted = count_batches(batches, counter)
        with closed_in_the_end(predict_item(model, predictor, item, counted, device, context, resume)) as pieces:
            for piece in pieces:
                sink.append(piece)
    sink.flush()


def count_batches(batches: Iterator[tuple[list, Any]], counter: Progress) -> Iterator[tuple[list, Any]]:
    """Advance a progress display by the samples that pass.

    Examples
    --------
    >>> from utils.logging import VerbosityLogger
    >>> counter = Progress(3, "windows", VerbosityLogger("error"))
    >>> list(count_batches([([1, 2], None), ([3], None)], counter)), counter.done
    ([([1, 2], None), ([3], None)], 3)
    """
    for samples, batch in batches:
        yield samples, batch
        counter.advance(len(samples))


def finish(task: Task, items: Sequence[Item], folder: Path, prints: dict, done: dict, context: Context) -> None:
    """Close the sinks and record what was made.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> finish(task, [], context.folder, {}, {}, context)
    >>> read_json(context.folder / RECORD)
    {}
    """
    for item in items:
        files = task.output.sink(item, folder, prints[item.id]).close()
        done[item.id] = {"fingerprint": prints[item.id], "files": [file_stamp(path) for path in files]}
        for path in files:
            context.log.info(f"inference: {path}")
        write_json(context.folder / RECORD, done)
    write_json(context.folder / RECORD, done)
