"""Inference: new rasters, pictures or videos -> streamed predictions in the formats that people open."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from config import expand_path
from tasks.belief import doubts_of_checkpoint
from tasks.context import Context, PhaseResult
from tasks.grey_inputs import tell_grey
from tasks.item import Item, Piece
from tasks.named_files import located
from tasks.phases.evaluate import restore, safe_name, workload
from tasks.phases.prediction import predict
from tasks.phases.samples import Job, LiveSamples
from tasks.predictor import Predictor
from tasks.runs import choose_device
from tasks.task import Task
from utils.errors import DataError, Interrupted
from utils.logging import Progress
from utils.raster.inputs import tell_passed_over
from utils.report.caption import captioned
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint, load_training_state, save_training_state
from utils.runtime.files import cut_name, digest_array, digest_json, file_stamp, read_json, refuse_long, write_json
from utils.runtime.streams import Stream

RECORD = "inference.json"  # in the run's folder: what was predicted from what
FEW = 12  # inputs whose files are listed in the log, one by one
RECORD_S = 5.0  # between two writings of it, which takes as long as all items before took
SAVE_S = 30.0  # between two savings of what a predictor remembers


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
    task.check_memory(["inference"])
    doubt, text = doubts_of_checkpoint(task.primary, checkpoint.description) if checkpoint else ("", "")
    if doubt:
        context.log.warning(f"inference: of the checkpoint: {doubt}")
    items, unreadable = readable_inputs(task)
    folder = output_folder(task, context)
    prints = {item.id: fingerprint(task, item, checkpoint) for item in items}
    done = read_json(context.folder / RECORD, {}, checksum=True)
    todo = [item for item in items if not is_current(done.get(item.id), prints[item.id])]
    distributed.barrier()  # all ranks have read the record before rank 0 writes it again
    for name in sorted(set_of(items) - set_of(todo)):
        context.log.info(f"inference: {name} is up to date")
        for fault in done[name].get("faults", []):
            context.log.warning(f"inference: {name}: {fault}")
    for error in unreadable.values():
        context.log.warning(f"inference: {error}")
    if not todo:
        failures = tuple(map(str, unreadable.values()))
        return PhaseResult("up to date", doubt=doubt, faults=faults_in(done, items), failures=failures)
    distributed.run_on_main(tell_of_inputs, task, checkpoint, todo, context)
    context.begin(workload(task, todo, len(task.prediction_views())), task, todo[0])
    device = choose_device(task.settings.device("inference"))
    if model is not None:
        model.to(device).eval()
    share = Share(task, folder, prints, context)
    groups, batch_size = distributed.share(task.source.partition(todo)), settings.batch_size
    source = LiveSamples(task, task.prediction_views())
    how: dict[str, Any] = {"open_job": share.open_job, "skip_unreadable": True, "phase": "inference"}
    given = predict(task, model, source, groups, device, batch_size, context, **how)
    written = distributed.run_on_all(lambda: (share.write(given, groups), faults_of(groups)))
    failed = {name: problem for part, _ in written for name, problem in part}
    faults = {name: told for _, part in written for name, told in part.items()}
    predicted = [replace(item, faults=faults.get(item.id, [])) for item in todo if item.id not in failed]

    def close() -> None:
        with captioned(text):
            finish(task, predicted, folder, prints, done, context)
        for path in task.output.write_summary([item for item in items if item.id not in failed], folder):
            context.log.info(f"inference: {path}")

    distributed.run_on_main(close)
    failures = (*map(str, unreadable.values()), *failed.values())
    if len(failed) == len(items):
        raise DataError(*"\n".join(failures).splitlines())
    return PhaseResult("done", {"outputs": float(len(predicted))}, doubt, faults_in(done, items), failures)


def tell_of_inputs(task: Task, checkpoint: Checkpoint | None, todo: Sequence[Item], context: Context) -> None:
    """Warn of pictures without colours, and of files in folders of inputs that are passed over.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from utils.logging import VerbosityLogger
    >>> task, context = example_task(folder := tempfile.mkdtemp(), f"inference.inputs={(folder := tempfile.mkdtemp())}")
    >>> (Path(folder) / ".a.png").touch()
    >>> tell_of_inputs(task, None, [], Context(VerbosityLogger(), context.folder))  # doctest: +ELLIPSIS
    [WARNING] inference: 1 pictures or videos whose names begin with a dot are left out, such as ...
    """
    if checkpoint and (grey := tell_grey(checkpoint.description, todo)):
        context.log.warning(f"inference: {grey}")
    for line in tell_passed_over(located(task.settings, task.settings.inference.inputs)):
        context.log.warning(f"inference: {line}")


def readable_inputs(task: Task) -> tuple[list[Item], dict[str, DataError]]:
    """Give the items to predict, and why others cannot be opened.

    Raises
    ------
    DataError
        If there is none to predict.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> [item.id for item in readable_inputs(scene_task())[0]]
    ['scene_0']
    """
    items = task.source.items("inference")
    unreadable = dict(task.source.unreadable)
    readable = []
    for item in items:
        try:
            task.source.count_samples(item)
        except DataError as error:
            unreadable[item.id] = error
        else:
            readable.append(item)
    if not readable:
        lines = "\n".join(map(str, unreadable.values())).splitlines()
        raise DataError(*(lines or ["inference: no input; name pictures in inference.inputs"]))
    return readable, unreadable


def set_of(items: Sequence[Item]) -> set[str]:
    """Ids of items.

    Examples
    --------
    >>> set_of([Item("a", ())])
    {'a'}
    """
    return {item.id for item in items}


def faults_of(groups: Sequence[Sequence[Item]]) -> dict[str, list[str]]:
    """What was wrong with the files of items that a rank has read, by their ids.

    Examples
    --------
    >>> faults_of([[Item("a", ()), Item("b", (), faults=["4 frames are missing"])]])
    {'b': ['4 frames are missing']}
    """
    return {item.id: item.faults for group in groups for item in group if item.faults}


def faults_in(done: Mapping[str, Any], items: Sequence[Item]) -> tuple[str, ...]:
    """What the record says is wrong with the results of some items, a line each.

    Examples
    --------
    >>> faults_in({"a": {"faults": ["the map repeats"]}, "b": {"faults": ["old"]}}, [Item("a", ()), Item("c", ())])
    ('a: the map repeats',)
    """
    return tuple(f"{item.id}: {fault}" for item in items for fault in done.get(item.id, {}).get("faults", ()))


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
    harmless = {"enable", "checkpoint", "inputs", "input_tif", "batch_size", "device"}
    settings = task.settings.inference.model_dump(mode="json", exclude=harmless)
    return {
        "checkpoint": digest_checkpoint(checkpoint) if checkpoint else None,
        "item": digest_json(item.stamp()),
        "settings": digest_json([settings, task.predicting_key("inference")]),
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


class Share:
    """Writes what one rank predicts into the sinks of its items, so that a later run goes on where this one stops.

    Parameters
    ----------
    task : Task
        Gives the sinks.
    folder : Path
        Where predictions go.
    prints : dict of str to dict
        Item id -> what its prediction is made from.
    context : Context
        Where to speak.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> [item] = task.source.items("inference")
    >>> share, source = Share(task, context.folder, {item.id: {}}, context), LiveSamples(task, task.prediction_views())
    >>> model = task.build_model().eval()
    >>> share.write(predict(task, model, source, [[item]], "cpu", 4, context, share.open_job), [[item]])
    []
    >>> task.output.sink(item, context.folder, {}).resume_point()
    64
    """

    def __init__(self, task: Task, folder: Path, prints: dict[str, dict[str, Any]], context: Context):
        self.task, self.folder, self.prints, self.context = task, folder, prints, context
        self.saved_at = time.monotonic()

    def open_job(self, item: Item, predictor: Predictor) -> Job:
        """Open the sink of an item, and see where an earlier run has stopped.

        Raises
        ------
        DataError
            If the item's name is so long that the disk takes no file of its result.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> [item] = task.source.items("inference")
        >>> Share(task, context.folder, {item.id: {}}, context).open_job(item, task.predictor()).resume
        0
        """
        sink = self.task.output.sink(item, self.folder, self.prints[item.id])
        source = item.sources[0] if item.sources else item.id
        refuse_long(source, [*sink.names(), state_path(self.folder, item).name], self.folder)
        resume, state = sink.resume_point(), None
        if resume and remembers(predictor):
            resume, state = read_state(state_path(self.folder, item), self.prints[item.id], resume)
            sink.rewind(resume or 0)
        left = item if resume is None else self.task.source.continue_from(item, resume)
        if left != item:  # the band of a rank may begin at a row that is not the first
            self.context.log.info(f"inference: {item.id}: resuming at {resume}")
        return Job(left, predictor, resume, state, sink)

    def write(self, given: Stream[tuple[Job, Piece | None]], groups: Sequence[Sequence[Item]]) -> list[tuple[str, str]]:
        """Write pieces as they come; what is complete is durable at once, and the rest when the run is interrupted.

        Returns
        -------
        list of (str, str)
            Items that could not be read to the end, and why.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> Share(task, context.folder, {}, context).write((pair for pair in ()), [])
        []
        """
        items = [item for group in groups for item in group]
        total = sum(map(self.task.source.count_samples, items)) * len(self.task.prediction_views())
        name = f"inference {items[0].id}" if len(items) == 1 else f"inference of {len(items)} inputs"
        begun: dict[int, Job] = {}
        failed: list[tuple[str, str]] = []
        with closing(given), Progress(total, name, self.context.log) as counter:
            try:
                for job, piece in given:
                    if job.error is not None:
                        if begun.pop(id(job), None) and job.sink is not None:
                            job.sink.flush()  # what was read stays for a run after the file was mended
                        if job.done:
                            failed.append((job.item.id, str(job.error)))
                            self.context.log.warning(f"inference: {job.error}")
                        continue
                    assert job.sink is not None
                    begun[id(job)] = job
                    if piece is not None:
                        job.sink.append(piece)
                        continue
                    counter.advance(job.pushed)
                    job.pushed = 0
                    if job.done:
                        self.save(begun.pop(id(job)))
                    elif time.monotonic() - self.saved_at > SAVE_S and remembers(job.predictor):
                        self.save(job)
            except Interrupted:
                for job in begun.values():
                    self.save(job)
                raise
        return failed

    def save(self, job: Job) -> None:
        """Make the pieces of an item durable, and with them what its predictor remembers.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> [item] = task.source.items("inference")
        >>> share = Share(task, context.folder, {item.id: {}}, context)
        >>> share.save(share.open_job(item, task.predictor()))
        """
        assert job.sink is not None
        job.sink.flush()
        self.saved_at = time.monotonic()
        resume = job.sink.resume_point() if remembers(job.predictor) else None
        if resume is not None:
            kept = {"made_from": self.prints[job.item.id], "resume": resume, "state": job.predictor.state()}
            save_training_state(state_path(self.folder, job.item), kept)


def remembers(predictor: Predictor) -> bool:
    """Whether what a predictor makes of a sample depends on a state that it can give.

    Examples
    --------
    >>> from tasks.segmentation.predictor import DensePredictor
    >>> remembers(DensePredictor(2, 4))
    False
    """
    return predictor.stateful and type(predictor).state is not Predictor.state


def state_path(folder: Path, item: Item) -> Path:
    """Where the state of an item's predictor is kept until the item is complete; its name is no longer than others'.

    Examples
    --------
    >>> state_path(Path("maps"), Item("a/b", ())).name
    '.a_b-f5effa31.state.safetensors'
    """
    return folder / f".{cut_name(safe_name(item.id))}-{digest_json(item.id)[:8]}.state.safetensors"


def read_state(path: Path, made_from: dict[str, Any], reached: int) -> tuple[int | None, dict[str, Any] | None]:
    """Read the resume point and the state that belong together; none if they are not of this prediction.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> _ = save_training_state(path, {"made_from": {}, "resume": 3, "state": {"next_id": 2}})
    >>> read_state(path, {}, 5), read_state(path, {}, 2), read_state(path, {"item": "0"}, 5)
    ((3, {'next_id': 2}), (None, None), (None, None))
    """
    if not path.exists():
        return None, None
    kept = load_training_state(path)
    fits = kept["made_from"] == made_from and kept["resume"] <= reached
    return (kept["resume"], kept["state"]) if fits else (None, None)


def finish(task: Task, items: Sequence[Item], folder: Path, prints: dict, done: dict, context: Context) -> None:
    """Close the sinks and record what was made.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> finish(task, [], context.folder, {}, {}, context)
    >>> read_json(context.folder / RECORD, checksum=True)
    {}
    """
    recorded_at, written = time.monotonic(), 0
    log = context.log.info if len(items) <= FEW else context.log.debug
    try:
        for item in items:
            sink = task.output.sink(item, folder, prints[item.id])
            files = sink.close()
            done[item.id] = {"fingerprint": prints[item.id], "files": [file_stamp(path) for path in files]}
            shown = sink.faults()
            for fault in shown:
                context.log.warning(f"inference: {item.id}: {fault}")
            faults = [*item.faults, *shown]
            if faults:
                done[item.id]["faults"] = faults
            state_path(folder, item).unlink(missing_ok=True)
            for path in files:
                log(f"inference: {path}")
            written += len(files)
            if time.monotonic() - recorded_at > RECORD_S:
                write_json(context.folder / RECORD, done, checksum=True)
                recorded_at = time.monotonic()
    finally:
        write_json(context.folder / RECORD, done, checksum=True)
    if len(items) > FEW:
        context.log.info(f"inference: {written} files of {len(items)} inputs in {folder}")
