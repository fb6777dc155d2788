"""What the phases of a task would do if they were run now, and about how long it would take; nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from config import TaskConfig
from tasks.context import Context, Workload, WouldRun
from tasks.item import Item
from tasks.phases import evaluate, load_phase
from tasks.phases.prediction import apply_model
from tasks.phases.samples import Job, LiveSamples
from tasks.phases.training_state import workload
from tasks.references import references_of, resolve_references
from tasks.runs import choose_device, latest_run, new_folder, task_folder
from tasks.task import Task
from utils.geometry.augment import IDENTITY
from utils.logging import VerbosityLogger, format_duration
from utils.runtime import distributed
from utils.runtime.files import lock_holder

SAMPLES = 4  # that are timed
SAVE_S = 0.2  # of an epoch, beside its steps
READ_BYTES_PER_S = 1e9  # of a store on a local disk, with its checksums
MOST_TRIED = 2.5e8  # bytes of the samples that are timed, as they are stored; in memory they are four times that
SHORT_S = 1.0  # what takes less is not worth a number


def forecast(task: Task, phases: Sequence[str], tasks: Mapping[str, TaskConfig], due: dict[str, set[str]]) -> list[str]:
    r"""Say for each phase whether it is up to date, or what it would do and about how long.

    Each phase itself finds out, up to the point where it would begin its work. Where an earlier phase would change what
    a later one finds, the later one is taken to run. Times come from a few pictures that pass backbone and head.

    Parameters
    ----------
    task : Task
        Its `check` has passed. Stores must be previews (`preview_stores`).
    phases : sequence of str
        Those that a run would take, in their order.
    tasks : mapping of str to TaskConfig
        All tasks of the settings.
    due : dict of str to set of str
        Phases that would run, of the tasks before; those of this one are added.

    Returns
    -------
    list of str
        One line per phase, and one for a run that is at work now.

    Raises
    ------
    DataError, SettingsError
        As the run would raise them.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from tasks.stores import preview_stores
    >>> with preview_stores():
    ...     lines = forecast(example_task(tempfile.mkdtemp())[0], ["prepare", "train", "inference"], {}, {})
    >>> print("\n".join(line.partition(", about")[0] for line in lines))
    prepare: to do: 3 items, at most 15 windows in 15 views; draws the split lists
    train: to do: 1 epochs of 6 windows
    inference: to do: 1 items, at most 9 windows
    all phases
    """
    holder = lock_holder(task_folder(task.name, task.settings) / ".lock")
    lines = []
    if holder:
        lines.append(f"process {holder} is at work on this task now; a run started now would end at once, with code 75")
    if task.awaits_sample():
        return [*lines, f"{', '.join(phases)}: to do, once prepare has written the sample"]
    outlook = Outlook(task)
    due[task.name] = outlook.due
    needed = (ref.task(task.settings, tasks) for ref in references_of(task.settings) if ref.gives == "checkpoint")
    outlook.waits = any(other is not None and "train" in due.get(other, ()) for other in needed)
    if not outlook.waits:
        task.settings = resolve_references(task.settings, tasks, "checkpoint")
    total = 0.0
    for phase in phases:
        work = outlook.work_of(phase)
        if work is None:
            lines.append(f"{phase}: up to date")
            continue
        seconds = outlook.seconds(phase, work)
        total += seconds
        lines.append(f"{phase}: to do: {work.text}{about(seconds)}")
    if len(outlook.due) > 1:
        lines.append(f"all phases{about(total)}")
    return lines


def about(seconds: float) -> str:
    """Write a rough length of time.

    Examples
    --------
    >>> about(0.2), about(75.2)
    (', about a second', ', about 1 min 15 s')
    >>> about(math.nan)
    '; how long is not tried, as a sample is so large'
    """
    if math.isnan(seconds):
        return "; how long is not tried, as a sample is so large"
    return f", about {format_duration(round(seconds))}" if seconds > SHORT_S else ", about a second"


class Outlook:
    """Asks the phases of a task, one after the other, what they would do.

    Parameters
    ----------
    task : Task
        The task.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from tasks.stores import preview_stores
    >>> with preview_stores():
    ...     Outlook(example_task(tempfile.mkdtemp())[0]).work_of("prepare").backbone
    15
    """

    def __init__(self, task: Task):
        self.task = task
        self.due: set[str] = set()  # phases that would run
        self.waits = False  # for a training of another task
        self.timed: tuple[Task, Item | None] = task, None  # what is tried to find out how long pictures take
        named = task.settings.paths.run_name
        parent = task_folder(task.name, task.settings)
        folder = parent / named if named else latest_run(task.name, task.settings) or new_folder(parent)
        self.context = Context(VerbosityLogger("error", quiet=True), Path(folder), preview=True)

    def work_of(self, phase: str) -> Workload | None:
        """What a phase would do; None if it is up to date.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> from tasks.phases import prepare
        >>> from tasks.stores import preview_stores
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> _ = prepare.run(task, context)
        >>> with preview_stores():
        ...     Outlook(task).work_of("prepare") is None
        True
        """
        work = self._after_others(phase)
        if work is None:
            try:
                load_phase(phase)(self.task, self.context)
            except WouldRun as found:
                work = found.work
                if self.timed[1] is None and found.task is not None:
                    self.timed = found.task, found.item
        if work is not None:
            self.due.add(phase)
        return work

    def _after_others(self, phase: str) -> Workload | None:
        """What a phase would do after an earlier one that changes what it finds; None if there is no such phase.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.source.preview_data()
        'draws the split lists'
        >>> outlook = Outlook(task)
        >>> outlook.due = {"train"}
        >>> outlook._after_others("evaluate") is None, outlook._after_others("inference").text
        (False, '1 items, at most 9 windows')
        """
        source = self.task.source
        if (phase in ("verify", "train") and "prepare" in self.due) or (phase == "train" and self.waits):
            counts = {split: sum(map(source.count_samples, source.items(split))) for split in ("train", "val")}
            if phase == "train":
                return workload(self.task, counts["train"], counts["val"])
            size = source.sample_bytes() + source.record_bytes() * len(source.views("train"))
            return Workload(f"{sum(counts.values())} windows", read=float(size * sum(counts.values())))
        if phase not in ("evaluate", "inference", "export") or "train" not in self.due:
            return None
        if getattr(self.task.settings, phase).checkpoint:
            return None  # another training than this one's
        if phase == "export":
            return Workload("writes the exported files")
        settings, views = self.task.settings, self.task.prediction_views(phase)
        if phase == "evaluate" and settings.evaluate.names_pictures:
            named = type(self.task)(self.task.name, self.task.settings_for_named(settings))
            return evaluate.workload(named, named.source.items(evaluate.NAMED), len(views))
        stored = phase == "evaluate" and settings.train.features == "cached" and views == [IDENTITY]
        splits = settings.evaluate.splits if phase == "evaluate" else ["inference"]
        items = [item for split in splits for item in source.items(split)]
        return evaluate.workload(self.task, items, len(views), stored)

    def seconds(self, phase: str, work: Workload) -> float:
        """About how long some work takes, shared by all ranks.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> Outlook(scene_task()).seconds("verify", Workload("9 windows", read=3e9))
        3.0
        """
        seconds = work.read / READ_BYTES_PER_S
        if work.backbone or work.head:
            backbone, head = self._rates
            seconds += work.backbone * backbone + work.head * head
        return seconds / distributed.world_size() + work.saved * SAVE_S

    @cached_property
    def _rates(self) -> tuple[float, float]:
        """Seconds per picture in the backbone, with reading it, and in the head; NaN where they are not tried.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.source.preview_data()
        'draws the split lists'
        >>> outlook = Outlook(task)
        >>> outlook.timed = task, task.source.items("train")[0]
        >>> backbone, head = outlook._rates
        >>> backbone > 0 and head >= 0
        True
        """
        task, item = self.timed
        if item is None:
            return 0.0, 0.0
        if SAMPLES * task.sample_memory() > MOST_TRIED:
            return math.nan, math.nan
        device, source = choose_device(task.settings.device("prepare")), LiveSamples(task, [IDENTITY])
        task.assume_learnt()
        model = task.build_model().to(device).eval()
        reading = time.perf_counter()
        with closing(source.read(Job(item, task.predictor()))) as read:
            slots = list(islice(read, SAMPLES))
        reading = time.perf_counter() - reading
        if not slots:
            return 0.0, 0.0
        samples = [slot.sample for slot in slots if slot.sample is not None]
        requests = [request for sample in samples for request in task.source.requests(sample)]
        producer = task.source.producers().get("backbone")
        whole = seconds_of(lambda: apply_model(model, source.load(slots), device))
        part = 0.0
        if producer is not None and requests:
            inputs = [asked.inputs for asked in requests]
            part = seconds_of(lambda: list(producer(inputs)))
        return (reading + part) / len(slots), max(whole - part, 0.02 * whole) / len(slots)


def seconds_of(function: Callable[[], Any]) -> float:
    """Seconds of a call, after one that is not counted: libraries and devices warm up.

    Examples
    --------
    >>> 0.01 < seconds_of(lambda: time.sleep(0.01)) < 1
    True
    """
    function()
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
