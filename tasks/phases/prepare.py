"""Prepare: items -> samples and views -> batched producers -> feature store.

Only what is missing is computed: an item whose manifest and records are there is not even read, and a record whose
key is in the store is not computed again. An interruption loses at most the records that were not yet in a shard.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tasks.context import Context, PhaseResult, Workload
from tasks.evidence import untrained
from tasks.item import Item
from tasks.prepared import is_complete, manifest_key, read_entries, write_entries
from tasks.sample import Producer, Request, Sample
from tasks.stores import open_store
from tasks.task import Task
from utils.data import Entry
from utils.geometry.augment import Variation, View
from utils.logging import format_duration, progress
from utils.runtime import distributed
from utils.runtime.files import digest_array, format_bytes
from utils.runtime.streams import Stream, read_ahead
from utils.store.feature_store import FeatureStore, record_key
from utils.store.plan import LARGE_BYTES, Plan, measure_writing
from utils.store.writer import StoreWriter

SPLITS = ("train", "val")
Record = tuple[str, dict[str, Any], dict[str, Any]]  # key, arrays, what to say of it


@dataclass(frozen=True)
class Job:
    """An item to prepare, the views it needs and the name of its manifest.

    Examples
    --------
    >>> Job("train", Item("a", ()), [], "00").split
    'train'
    """

    split: str
    item: Item
    views: Sequence[View | Variation]
    key: str


@dataclass
class OpenItem:
    """The samples of an item that were read so far.

    Its manifest is written when all are read, before the last records are computed: a manifest whose records are not
    all there counts as missing.

    Examples
    --------
    >>> OpenItem(Job("train", Item("a", ()), [], "00")).entries
    []
    """

    job: Job
    entries: list[Entry] = field(default_factory=list)


def run(task: Task, context: Context) -> PhaseResult:
    """Prepare everything that the splits of a task need.

    Parameters
    ----------
    task : Task
        The task.
    context : Context
        Where to speak, and whether to stop.

    Returns
    -------
    PhaseResult
        `up to date` when nothing was missing.

    Raises
    ------
    DataError
        If the store does not fit on the disk, or data cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> run(task, context).status, run(task, context).status
    ('done', 'up to date')
    """
    drawn = task.source.preview_data() if context.preview else ""
    if not context.preview:
        distributed.run_on_main(task.source.prepare_data)
    task.setup()
    task.check_memory(["prepare"])  # the number of samples is known only now
    store = open_store(task.settings, "prepare")
    jobs, unlearnt = missing_jobs(task, store), distributed.run_on_main(task.unlearnt)
    distributed.barrier()  # before any rank writes, so that all ranks found the same jobs
    if context.preview and (needed := size_of(task, jobs)[1]) >= LARGE_BYTES:
        unmeasured = f"writes {format_bytes(needed)}, at a speed that is not measured, as nothing is written here"
        drawn = f"{unmeasured}; {drawn}" if drawn else unmeasured
    if drawn:
        context.begin(workload(task, jobs, drawn), task, jobs[0].item if jobs else None)
    if not jobs and not unlearnt:
        context.log.info(f"prepare: all items are in {store.folder}; nothing to do")
        distributed.run_on_main(tell_untrained, task, store, context)
        return PhaseResult("up to date")
    context.begin(workload(task, jobs), task, jobs[0].item if jobs else task.source.items("train")[0])
    producers = task.source.producers()
    distributed.run_on_main(announce_plan, task, store, jobs, context)
    task.learn(context)
    if unlearnt:
        jobs = missing_jobs(task, store)  # records of what was learnt before and lost may be there
        distributed.barrier()
    made = Preparation(task, store, producers, context).run(distributed.share(jobs))
    total = int(distributed.sum_over_ranks(torch.tensor(made)))
    context.log.info(f"prepare: {total} records written to {store.folder}")
    distributed.run_on_main(tell_untrained, task, store, context)
    return PhaseResult("done")


def missing_jobs(task: Task, store: FeatureStore) -> list[Job]:
    """List the items whose records are not all in the store.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> [job.split for job in missing_jobs(task, open_store(task.settings, "prepare"))]
    ['train', 'train', 'val']
    """
    recipe = task.source.cache_key()
    jobs = []
    for split in SPLITS:
        views = task.source.views(split)
        for group in task.source.partition(task.source.items(split)):
            for item in group:
                key = manifest_key(recipe, item, views)
                if not is_complete(store, read_entries(store, key)):
                    jobs.append(Job(split, item, views, key))
    return jobs


def tell_untrained(task: Task, store: FeatureStore, context: Context) -> None:
    """Warn of classes or keypoints of which the training split has none, while the split can still be changed.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> from utils.logging import VerbosityLogger
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp(), "dataset.classes=[dark, light, grey]")
    >>> tell_untrained(task, store, Context(VerbosityLogger(), "run"))  # doctest: +ELLIPSIS
    [WARNING] prepare: the training split has no pixels of grey, which cannot be learnt; label some there, or ...
    """
    if task.counted is None:
        return
    recipe, views = task.source.cache_key(), task.source.views("train")
    keys = (manifest_key(recipe, item, views) for item in task.source.items("train"))
    for doubt in untrained(task, (entry for key in keys for entry in read_entries(store, key) or ())):
        context.log.warning(f"prepare: {doubt.text}")


def workload(task: Task, jobs: Sequence[Job], first: str = "") -> Workload:
    """What it takes to prepare some items: at most, as records that are there already show only when they are read.

    `first` is what comes before, for the text.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> workload(task, missing_jobs(task, open_store(task.settings, "prepare")))
    Workload(text='3 items, at most 15 windows in 15 views', backbone=15, head=0.0, read=0.0, saved=0)
    """
    samples = sum(task.source.count_samples(job.item) for job in jobs)
    records = sum(task.source.count_samples(job.item) * len(job.views) for job in jobs)
    unlearnt = task.unlearnt()
    text = f"{len(jobs)} items, at most {samples} windows in {records} views" + (f"; {first}" if first else "")
    text += f"; learns a projection from {unlearnt} windows first" if unlearnt else ""
    return Workload(text, backbone=(records if task.source.record_bytes() else 0) + unlearnt)


def announce_plan(task: Task, store: FeatureStore, jobs: Sequence[Job], context: Context) -> None:
    """Say how many records, bytes and how much free disk there are; refuse what does not fit.

    The disk is measured before a large plan, as it may take longer than the backbone.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> announce_plan(task, open_store(task.settings, "prepare"), [], context)
    """
    records, needed = size_of(task, jobs)
    plan = Plan(records, needed, shutil.disk_usage(store.folder).free, str(store.folder))
    if needed >= LARGE_BYTES and needed <= plan.free_bytes:
        plan = replace(plan, bytes_per_s=measure_writing(store.folder))
    context.log.info(f"prepare: plan: {workload(task, jobs).text}; {plan}")
    prepare = task.settings.prepare
    plan.refuse_if_full(int(prepare.reserve_gb * 1e9), "project" in type(prepare).model_fields)


def size_of(task: Task, jobs: Sequence[Job]) -> tuple[int, int]:
    """How many records some items give, at most, and their bytes.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> records, needed = size_of(task, missing_jobs(task, open_store(task.settings, "prepare")))
    >>> records, needed == 15 * (task.source.sample_bytes() + task.source.record_bytes())
    (30, True)
    """
    samples = sum(task.source.count_samples(job.item) for job in jobs)
    records = sum(task.source.count_samples(job.item) * len(job.views) for job in jobs)
    return samples + records, samples * task.source.sample_bytes() + records * task.source.record_bytes()


class BackgroundWriter:
    """Encodes and writes records in a thread, so that the next batch is computed meanwhile.

    The thread takes batches in order, so that the records of a store lie in the order in which they were asked for.
    An error of the thread is raised by a later `take` or by the end of the `with` block.

    Parameters
    ----------
    writer : StoreWriter
        Takes the records.
    most : int
        Batches that may wait; bounds the memory, also that of the accelerator.

    Examples
    --------
    >>> import tempfile
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> with store.writer() as writer, BackgroundWriter(writer) as background:
    ...     background.take([("ab" * 16, {"x": torch.ones(2)}, {})])
    >>> store.read("ab" * 16)["x"].tolist()
    [1.0, 1.0]
    """

    def __init__(self, writer: StoreWriter, most: int = 2):
        self.writer = writer
        self.most = most
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="background")
        self.waiting: deque[Future[None]] = deque()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        self.pool.shutdown()  # what was computed before an error is still written
        if kind is None:
            self._wait_for(0)

    def take(self, records: Iterable[Record]) -> None:
        """Write records later; they are made when their turn comes, where the iterable makes them one by one.

        Examples
        --------
        >>> import tempfile
        >>> with FeatureStore(tempfile.mkdtemp()).writer() as writer, BackgroundWriter(writer) as background:
        ...     background.take((str(1 // x), {}, {}) for x in [0])
        Traceback (most recent call last):
            ...
        ZeroDivisionError: integer division or modulo by zero
        """
        self._wait_for(self.most - 1)
        self.waiting.append(self.pool.submit(self._write, records))

    def _wait_for(self, left: int) -> None:
        """Wait until at most so many batches are under way.

        Examples
        --------
        >>> background = BackgroundWriter(None)
        >>> background.take([])
        >>> background._wait_for(0)
        >>> len(background.waiting)
        0
        """
        while len(self.waiting) > left:
            self.waiting.popleft().result()

    def _write(self, records: Iterable[Record]) -> None:
        """Hand records to the store's writer.

        Examples
        --------
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> with store.writer() as writer:
        ...     BackgroundWriter(writer)._write([("ab" * 16, {"x": torch.ones(2)}, {})])
        >>> len(store)
        1
        """
        for key, arrays, metadata in records:
            self.writer.put(key, arrays, metadata)


@dataclass(frozen=True)
class SamplePlan:
    """What is to be stored of a sample.

    Parameters
    ----------
    sample : Sample
        With its arrays, which are stored.
    key : str
        Name of the record of these arrays.
    requests : dict of str to list of Request
        What each view asks for.
    facts : dict
        What the task wants to know later.

    Examples
    --------
    >>> sample = Sample("a", Item("a", ()), {})
    >>> SamplePlan(sample, "00", {"identity": [Request("backbone", "11", None)]}, {}).entry.records
    {'identity': {'backbone': '11'}}
    """

    sample: Sample
    key: str
    requests: dict[str, list[Request]]
    facts: dict[str, Any]

    @property
    def entry(self) -> Entry:
        """Where the records of the sample will be.

        Examples
        --------
        >>> SamplePlan(Sample("a", Item("a", ()), {}), "00", {}, {}).entry.sample_key
        '00'
        """
        window = self.sample.window
        place = [window.y, window.x, window.height, window.width] if window else None
        records = {view: {asked.producer: asked.key for asked in group} for view, group in self.requests.items()}
        return Entry(self.sample.id, self.key, records, place, self.facts)


def make_plan(task: Task, sample: Sample, views: Sequence[View | Variation]) -> SamplePlan:
    """Turn a sample to its views and hash all pixels: what takes time beside reading and computing.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from utils.geometry.augment import IDENTITY
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> plan = make_plan(task, next(task.source.samples(task.source.items("train")[0])), [IDENTITY])
    >>> plan.entry.window, list(plan.requests), plan.facts
    ([0, 0, 32, 32], ['identity'], {'counts': {'dark': 1024, 'light': 0}})
    """
    digests = {name: digest_array(array) for name, array in sample.arrays.items()}
    requests = {view.name: task.source.requests(task.source.apply_view(sample, view)) for view in views}
    return SamplePlan(sample, record_key(kind="sample", arrays=digests), requests, task.source.sample_stats(sample))


class Preparation:
    """Computes and stores the records of this rank's jobs.

    One thread reads, others turn and hash, this one computes, a further one encodes, and the store's own writes.

    Parameters
    ----------
    task : Task
        Reads samples and says what to store.
    store : FeatureStore
        Takes the records.
    producers : dict of str to Producer
        Compute the records.
    context : Context
        Where to speak, and whether to stop.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> store = open_store(task.settings, "prepare")
    >>> Preparation(task, store, task.source.producers(), context).run(missing_jobs(task, store))
    30
    """

    def __init__(self, task: Task, store: FeatureStore, producers: dict[str, Producer], context: Context):
        self.task = task
        self.store = store
        self.producers = producers
        self.context = context
        self.batch_size = task.settings.prepare.batch_size
        self.samples: list[Record] = []  # wait until there is a batch of them
        self.pending: dict[tuple, list[Request]] = defaultdict(list)
        self.known: set[str] = set()
        self.written = 0
        self.announced = False

    def run(self, jobs: Sequence[Job]) -> int:
        """Prepare items one after the other; reading, computing and writing overlap.

        Returns
        -------
        int
            Number of records written.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> Preparation(task, open_store(task.settings, "prepare"), {}, context).run([])
        0
        """
        workers = max(self.task.settings.prepare.workers, 1)
        total = sum(self.task.source.count_samples(job.item) for job in jobs)
        with (
            self.store.writer() as writer,
            BackgroundWriter(writer) as background,
            ThreadPoolExecutor(workers, thread_name_prefix="plan") as pool,
            closing(read_ahead(self._plans(jobs, pool), depth=2 * self.batch_size * workers)) as plans,
        ):
            samples = self._closing_items(plans)
            for opened, plan in progress(samples, total, "prepare", logger=self.context.log):
                self.context.check_stop()
                opened.entries.append(self._take(plan.result(), background))
            self._hand_over_samples(background)
            for group in list(self.pending):
                self._compute(group, background)
        return self.written

    def _closing_items(
        self, plans: Iterator[tuple[OpenItem, Future[SamplePlan] | None]]
    ) -> Iterator[tuple[OpenItem, Future[SamplePlan]]]:
        """Give on the plans of samples; at the end of an item, write down what it has.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> list(Preparation(task, open_store(task.settings, "prepare"), {}, context)._closing_items(iter([])))
        []
        """
        for opened, plan in plans:
            if plan is None:
                write_entries(self.store, opened.job.key, opened.entries)
            else:
                yield opened, plan

    def _plans(
        self, jobs: Sequence[Job], pool: ThreadPoolExecutor
    ) -> Stream[tuple[OpenItem, Future[SamplePlan] | None]]:
        """Read the samples of all jobs and plan each in the pool; None marks the end of an item.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.source.prepare_data()
        >>> store = open_store(task.settings, "prepare")
        >>> work = Preparation(task, store, {}, context)
        >>> with ThreadPoolExecutor(1) as pool:
        ...     plans = list(work._plans(missing_jobs(task, store)[:1], pool))
        >>> [plan.result().entry.window[:2] for _, plan in plans[:-1]], plans[-1][1]
        ([[0, 0], [0, 32], [32, 0], [32, 32]], None)
        """
        for job in jobs:
            opened = OpenItem(job)
            for sample in self.task.source.samples(job.item):
                yield opened, pool.submit(make_plan, self.task, sample, job.views)
            yield opened, None

    def _take(self, plan: SamplePlan, background: BackgroundWriter) -> Entry:
        """Store a sample's arrays and queue what its views ask for, as far as they are not stored.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> work = Preparation(task, open_store(task.settings, "prepare"), {}, context)
        >>> plan = SamplePlan(Sample("a", Item("a", ()), {}), "ab" * 16, {}, {"cells": 3})
        >>> entries = [work._take(plan, None) for _ in range(2)]
        >>> entries[1].facts, work.written
        ({'cells': 3}, 1)
        """
        if self._is_new(plan.key):
            self.samples.append((plan.key, plan.sample.arrays, {"sample": plan.sample.id}))
            self.written += 1
            if len(self.samples) == self.batch_size:
                self._hand_over_samples(background)
        for requests in plan.requests.values():
            for request in requests:
                self._queue(request, background)
        return plan.entry

    def _is_new(self, key: str) -> bool:
        """Whether a record is neither stored nor about to be.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> work = Preparation(task, open_store(task.settings, "prepare"), {}, context)
        >>> work._is_new("00" * 16), work._is_new("00" * 16)
        (True, False)
        """
        new = key not in self.known and not self.store.has(key)
        self.known.add(key)
        return new

    def _hand_over_samples(self, background: BackgroundWriter) -> None:
        """Let the arrays of the samples that wait be written.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> work = Preparation(task, open_store(task.settings, "prepare"), {}, context)
        >>> work.samples = [("ab" * 16, {"x": torch.ones(1)}, {})]
        >>> with work.store.writer() as writer, BackgroundWriter(writer) as background:
        ...     work._hand_over_samples(background)
        >>> work.samples, len(work.store)
        ([], 1)
        """
        background.take(self.samples)
        self.samples = []

    def _queue(self, request: Request, background: BackgroundWriter) -> None:
        """Add a request to its batch; compute the batch when it is full.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> work = Preparation(task, open_store(task.settings, "prepare"), {}, context)
        >>> import numpy as np
        >>> work.known.add("00")
        >>> work._queue(Request("backbone", "00", np.zeros(3)), None)
        >>> dict(work.pending)
        {}
        """
        if not self._is_new(request.key):
            return
        self.pending[request.group].append(request)
        if len(self.pending[request.group]) == self.batch_size:
            self._compute(request.group, background)

    def _compute(self, group: tuple, background: BackgroundWriter) -> None:
        """Compute one batch of requests and let it be stored.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> import numpy as np
        >>> double = lambda inputs: [{"twice": 2 * array} for array in inputs]
        >>> work = Preparation(task, open_store(task.settings, "prepare"), {"double": double}, context)
        >>> with work.store.writer() as writer, BackgroundWriter(writer) as background:
        ...     work._queue(Request("double", "ab" * 16, np.ones(2)), background)
        ...     work._compute(("double", (2,)), background)
        >>> work.store.read("ab" * 16)["twice"].tolist()
        [2.0, 2.0]
        """
        requests = self.pending.pop(group)
        started = time.perf_counter()
        records = self.producers[group[0]]([request.inputs for request in requests])
        background.take(self._name_records(requests, records, started))
        self.written += len(requests)

    def _name_records(
        self, requests: Sequence[Request], records: Iterable[dict[str, Any]], started: float
    ) -> Iterator[Record]:
        """Give each record the key of its request; say how long the first batch took, from `started` on.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> work = Preparation(task, open_store(task.settings, "prepare"), {}, context)
        >>> list(work._name_records([Request("double", "00", None)], [{"x": 1}], 0.0)), work.announced
        ([('00', {'x': 1}, {'producer': 'double'})], True)
        """
        for request, record in zip(requests, records, strict=True):
            yield request.key, record, {"producer": request.producer}
        if not self.announced:
            self.announced = True
            seconds = (time.perf_counter() - started) / len(requests)
            self.context.log.info(f"prepare: {format_duration(seconds)} per record in the first batch")
