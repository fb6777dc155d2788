"""Prepare: items -> samples and views -> batched producers -> feature store.

Only what is missing is computed: an item whose manifest and records are there is not even read, and a record whose
key is in the store is not computed again. An interruption loses at most the records that were not yet in a shard.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from tasks.base import Context, Entry, Item, PhaseResult, Producer, Request, Sample, Task, open_store
from tasks.phases.streams import read_ahead
from tasks.prepared import is_complete, manifest_key, read_entries, write_entries
from utils import distributed
from utils.augment import View
from utils.errors import DataError
from utils.feature_store import FeatureStore, record_key
from utils.files import digest_array
from utils.logging import format_duration, progress
from utils.store_writer import StoreWriter

SPLITS = ("train", "val")


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
    views: Sequence[View]
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
    distributed.run_on_main(task.settle)
    store = open_store(task.settings, "prepare")
    jobs = missing_jobs(task, store)
    distributed.barrier()  # before any rank writes, so that all ranks found the same jobs
    if not jobs:
        context.log.info(f"prepare: all items are in {store.folder}; nothing to do")
        return PhaseResult("up to date")
    producers = task.producers()
    announce_plan(task, store, jobs, context)
    made = Preparation(task, store, producers, context).run(distributed.share(jobs))
    total = int(distributed.sum_over_ranks(torch.tensor(made)))
    context.log.info(f"prepare: {total} records written to {store.folder}")
    return PhaseResult("done")


def missing_jobs(task: Task, store: FeatureStore) -> list[Job]:
    """List the items whose records are not all in the store.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.settle()
    >>> [job.split for job in missing_jobs(task, open_store(task.settings, "prepare"))]
    ['train', 'train', 'val']
    """
    recipe = task.recipe()
    jobs = []
    for split in SPLITS:
        views = task.views(split)
        for group in task.partition(task.items(split)):
            for item in group:
                key = manifest_key(recipe, item, views)
                if not is_complete(store, read_entries(store, key)):
                    jobs.append(Job(split, item, views, key))
    return jobs


def announce_plan(task: Task, store: FeatureStore, jobs: Sequence[Job], context: Context) -> None:
    """Say how many records, bytes and how much free disk there are; refuse what does not fit.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> announce_plan(task, open_store(task.settings, "prepare"), [], context)
    """
    samples = sum(task.count_samples(job.item) for job in jobs)
    records = sum(task.count_samples(job.item) * len(job.views) for job in jobs)
    needed = samples * task.sample_bytes() + records * task.record_bytes()
    free = shutil.disk_usage(store.folder).free
    context.log.info(
        f"prepare: plan: {len(jobs)} items, at most {samples} windows in {records} views, "
        f"{needed / 1e9:.2f} GB in {store.folder}, {free / 1e9:.1f} GB free"
    )
    reserve = task.settings.prepare.reserve_gb * 1e9
    if distributed.is_main() and needed + reserve > free:
        raise DataError(
            f"{store.folder}: the store needs {needed / 1e9:.2f} GB and {reserve / 1e9:.1f} GB must stay free, but the "
            f"disk has {free / 1e9:.2f} GB; choose another disk (paths.processed_dir), fewer views "
            "(dataset.augmentations.stored_views), fewer blocks (model.layers), prepare.store_dtype: int8, or "
            "train.features: online, which stores no features"
        )


class Preparation:
    """Computes and stores the records of this rank's jobs.

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
    >>> task.settle()
    >>> store = open_store(task.settings, "prepare")
    >>> Preparation(task, store, task.producers(), context).run(missing_jobs(task, store))
    30
    """

    def __init__(self, task: Task, store: FeatureStore, producers: dict[str, Producer], context: Context):
        self.task = task
        self.store = store
        self.producers = producers
        self.context = context
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
        workers = self.task.settings.prepare.workers
        total = sum(self.task.count_samples(job.item) for job in jobs)
        samples = read_ahead(self._samples(jobs), depth=2 * self.task.settings.prepare.batch_size * max(workers, 1))
        with self.store.writer() as writer, ThreadPoolExecutor(max(workers, 1)) as pool:
            for opened, sample in progress(samples, total, "prepare", logger=self.context.log, every=50):
                self.context.check_stop()
                if sample is None:
                    write_entries(self.store, opened.job.key, opened.entries)
                else:
                    opened.entries.append(self._store_sample(sample, opened.job.views, writer, pool))
            for group in list(self.pending):
                self._compute(group, writer)
        return self.written

    def _samples(self, jobs: Sequence[Job]) -> Iterator[tuple[OpenItem, Sample | None]]:
        """Read the samples of all jobs; None marks the end of an item.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> list(Preparation(task, open_store(task.settings, "prepare"), {}, context)._samples([]))
        []
        """
        for job in jobs:
            opened = OpenItem(job)
            for sample in self.task.samples(job.item):
                yield opened, sample
            yield opened, None

    def _store_sample(self, sample: Sample, views: Sequence[View], writer: StoreWriter, pool: Any) -> Entry:
        """Store a sample's arrays and queue what its views ask for.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> from utils.augment import IDENTITY
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.settle()
        >>> work = Preparation(task, open_store(task.settings, "prepare"), task.producers(), context)
        >>> sample = next(task.samples(task.items("train")[0]))
        >>> with work.store.writer() as writer, ThreadPoolExecutor(1) as pool:
        ...     work._store_sample(sample, [IDENTITY], writer, pool).window
        [0, 0, 32, 32]
        """
        digests = dict(zip(sample.arrays, pool.map(digest_array, sample.arrays.values()), strict=True))
        key = record_key(kind="sample", arrays=digests)
        if self._is_new(key):
            writer.put(key, sample.arrays, {"sample": sample.id})
            self.written += 1
        records: dict[str, dict[str, str]] = {}
        for view in views:
            requests = self.task.requests(self.task.transform(sample, view))
            records[view.name] = {request.producer: request.key for request in requests}
            for request in requests:
                self._queue(request, writer)
        window = sample.window
        place = [window.y, window.x, window.height, window.width] if window else None
        return Entry(sample.id, key, records, place, self.task.facts(sample))

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

    def _queue(self, request: Request, writer: StoreWriter) -> None:
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
        if len(self.pending[request.group]) == self.task.settings.prepare.batch_size:
            self._compute(request.group, writer)

    def _compute(self, group: tuple, writer: StoreWriter) -> None:
        """Compute and store one batch of requests.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> import numpy as np
        >>> double = lambda inputs: [{"twice": 2 * array} for array in inputs]
        >>> work = Preparation(task, open_store(task.settings, "prepare"), {"double": double}, context)
        >>> with work.store.writer() as writer:
        ...     work._queue(Request("double", "ab" * 16, np.ones(2)), writer)
        ...     work._compute(("double", (2,)), writer)
        >>> work.store.read("ab" * 16)["twice"].tolist()
        [2.0, 2.0]
        """
        requests = self.pending.pop(group)
        started = time.perf_counter()
        records = self.producers[group[0]]([request.inputs for request in requests])
        for request, record in zip(requests, records, strict=True):
            writer.put(request.key, record, {"producer": group[0]})
        self.written += len(requests)
        self._announce_time(len(requests), time.perf_counter() - started)

    def _announce_time(self, count: int, seconds: float) -> None:
        """After the first batch, say how long a record takes.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> work = Preparation(task, open_store(task.settings, "prepare"), {}, context)
        >>> work._announce_time(4, 2.0)
        >>> work.announced
        True
        """
        if not self.announced:
            self.announced = True
            self.context.log.info(f"prepare: {format_duration(seconds / count)} per record in the first batch")
