"""Verify: every record of the store and every label -> a report; bad records are set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.context import Context, PhaseResult, Workload
from tasks.item import Finding, Item
from tasks.phases.contact_sheet import draw_samples
from tasks.phases.prepare import SPLITS
from tasks.prepared import PreparedItem, manifest_key, read_entries
from tasks.stores import open_store
from tasks.task import Task
from utils.errors import DataError
from utils.formats.pictures import is_picture
from utils.logging import Progress
from utils.media.damage import jpeg_damage
from utils.media.orientation import describe_ignored
from utils.media.videos import is_video, video_faults
from utils.report.plots import save_picture
from utils.runtime import distributed
from utils.runtime.files import write_json
from utils.store.feature_store import FeatureStore, Problem

PARTS, SMALLEST_PART = 200, 256  # of the records; each part looks at the store's folder anew
PICTURES_AT_ONCE = 1000  # JPEG files that one process decodes


def run(task: Task, context: Context) -> PhaseResult:
    """Check a task's records and labels.

    Parameters
    ----------
    task : Task
        The task.
    context : Context
        Where to speak; the report is written to its folder.

    Returns
    -------
    PhaseResult
        Always `done`: a check is never out of date.

    Raises
    ------
    DataError
        If labels or pictures cannot be used.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from tasks.phases import prepare
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> _ = prepare.run(task, context)
    >>> run(task, context).metrics
    {'records': 30.0, 'bad records': 0.0, 'findings': 0.0}
    """
    task.setup()
    if context.preview:
        context.begin(workload(task))
    report = distributed.run_on_main(lambda: check_everything(task, context))
    for line in report["lines"]:
        context.log.warning(f"verify: {line}")
    for line in report["summary"]:
        context.log.info(f"verify: {line}")
    figures = {"records": report["records"], "bad records": report["bad_records"], "findings": report["findings"]}
    if report["findings"]:
        raise DataError(
            f"verify: {report['findings']} findings in labels or pictures, listed above and in "
            f"{context.folder.parent / 'verify.json'}; mend them before training"
        )
    return PhaseResult("done", {name: float(value) for name, value in figures.items()})


def workload(task: Task) -> Workload:
    """What it takes to read all records that the splits need.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> work = workload(task)
    >>> work.text, work.read > 15 * 2 * 8 * 8 * 8
    ('15 windows', True)
    """
    store = open_store(task.settings, "verify")
    entries = [e for split in SPLITS for item in known_items(task, store, split) for e in item.entries]
    size = task.source.sample_bytes() + task.source.record_bytes()
    views = sum(1 + len(entry.records) for entry in entries)
    return Workload(f"{len(entries)} windows", read=float(size * views))


def check_everything(task: Task, context: Context) -> dict[str, Any]:
    """Check records, then pictures and labels, and write the report.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> check_everything(task, context)["records"]
    0
    """
    store = open_store(task.settings, "verify")
    broken = list(set_aside_broken_files(store))
    shared = [key for key in task.shared_records() if store.has(key)]
    if shared:  # first: other records are named by what these hold
        broken += set_aside_bad_records(task, store, shared, context)
    prepared = {split: known_items(task, store, split) for split in SPLITS}
    listed = {split: task.source.items(split) for split in SPLITS}
    keys = sorted(
        {key for items in prepared.values() for item in items for entry in item.entries for key in entry.record_keys()}
    )
    bad = broken + list(set_aside_bad_records(task, store, keys, context))
    keys += shared
    number = len(store.missing(keys))
    found = list(dict.fromkeys(finding for split in SPLITS for finding in task.source.audit(listed[split])))
    found += doubtful_pictures([item for split in SPLITS for item in listed[split]], context)
    findings = [str(finding) for finding in found if finding.blocks]
    notes = [str(finding) for finding in found if not finding.blocks]
    for split, items in prepared.items():
        notes += [*absent(split, items), *unprepared(split, len(listed[split]), len(items))]
    summary = [
        f"{len(keys)} records, {number} bad; {len(findings)} findings, {len(notes)} notes in pictures and labels"
    ]
    summary += [line for split, items in prepared.items() for line in balance(split, items)]
    if bad:
        summary.append("the next prepare makes the bad records again, and only those")
    sheet = draw_samples(task, store, prepared["train"], task.settings.verify.samples)
    if sheet is not None:
        save_picture(context.folder.parent / "samples.png", sheet)
        summary.append(f"{context.folder.parent / 'samples.png'} shows training samples with their labels")
    lines = [str(finding) for finding in bad] + findings + [f"note: {note}" for note in notes]
    report = {
        "records": len(keys),
        "bad_records": number,
        "findings": len(findings),
        "notes": len(notes),
        "lines": lines,
        "summary": summary,
    }
    write_json(context.folder.parent / "verify.json", report)  # of the data, not of a training: beside the runs
    return report


def doubtful_pictures(items: Sequence[Item], context: Context) -> list[Finding]:
    """Note pictures that programs show in different ways, and pictures and videos that are damaged and decoded yet.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from tasks.example import example_context
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("L", (6, 4)).save(folder + "/a.webp", xmp=b'tiff:Orientation="6"')
    >>> found = doubtful_pictures([Item("a", (Path(folder, "a.webp"),))], example_context(folder))
    >>> [(finding.problem[:38], finding.blocks) for finding in found]
    [('orientation 6 stands in its XMP only, ', False)]
    """
    sources = dict.fromkeys(path for item in items for path in item.sources)
    paths = [path for path in sources if is_picture(path) and path.is_file()]
    found = [Finding(str(path), text, blocks=False) for path in paths if (text := describe_ignored(path))]
    for first in range(0, len(paths), PICTURES_AT_ONCE):
        context.check_stop()
        for path, text in jpeg_damage(paths[first : first + PICTURES_AT_ONCE]).items():
            what = f"its data are damaged, and decoded all the same ({text}): a part may be grey, shifted or noise"
            found.append(Finding(str(path), what, "look at it; take another copy, or write it anew", blocks=False))
    for path in sources:
        context.check_stop()
        if is_video(path):
            found += [Finding(str(path), fault, blocks=False) for fault in video_faults(path)]
    return found


def known_items(task: Task, store: FeatureStore, split: str) -> list[PreparedItem]:
    """The items of a split that were prepared, whether or not all of their records are there.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> len(known_items(task, store, "train"))
    2
    """
    recipe, views = task.source.cache_key(), task.source.views(split)
    found = []
    for item in task.source.items(split):
        entries = read_entries(store, manifest_key(recipe, item, views))
        if entries is not None:
            found.append(PreparedItem(item, entries))
    return found


def set_aside_broken_files(store: FeatureStore) -> Iterator[Finding]:
    """Look at the headers of all files of the store, whoever made them; take damaged and foreign ones out of use.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> manifest = next(store.folder.glob("manifests/*.json"))
    >>> _ = manifest.write_text("{")
    >>> [finding.where == f"manifests/{manifest.name}" for finding in set_aside_broken_files(store)]
    [True]
    """
    for problem in store.verify(rehash=False):
        store.set_aside(problem.subject, problem.message)
        yield Finding(problem.subject, problem.message, "set aside")


def set_aside_bad_records(task: Task, store: FeatureStore, keys: Sequence[str], context: Context) -> list[Finding]:
    """Read every record and compare its checksum; take bad ones out of use.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example, example_context
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> shard = next(store.folder.glob("shards/*.safetensors"))
    >>> data = bytearray(shard.read_bytes())
    >>> data[-1] ^= 1
    >>> _ = shard.write_bytes(data)
    >>> keys = store.keys()
    >>> findings = set_aside_bad_records(task, store, keys, example_context(store.folder))
    >>> len(findings), len(store.missing(keys))
    (1, 1)
    """
    findings, missing = [], []
    for problem in verify_in_parts(task, store, keys, context):
        context.check_stop()
        if not problem.file:  # nothing to set aside: the record is in no file
            missing.append(problem.subject)
        else:
            store.set_aside(problem.subject, problem.message)
            findings.append(Finding(problem.file or problem.subject, problem.message, "set aside"))
    if missing:
        text = f"{len(missing)} records are not there (first: {missing[0]})"
        findings.append(Finding(str(store.folder), text, "run prepare"))
    return findings


def verify_in_parts(task: Task, store: FeatureStore, keys: Sequence[str], context: Context) -> Iterator[Problem]:
    """Verify records part by part, and tell how far it has come.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example, example_context
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> found = list(verify_in_parts(task, store, ["ab" * 16, *store.keys()], example_context(store.folder)))
    >>> [problem.kind for problem in found]
    ['missing']
    """
    size = max(len(keys) // PARTS, SMALLEST_PART)
    with Progress(len(keys), "records verified", context.log) as counter:
        for first in range(0, len(keys), size):
            part = keys[first : first + size]
            yield from store.verify(part, task.settings.verify.rehash, task.settings.verify.workers)
            context.check_stop()
            counter.advance(len(part))


def count_labels(items: Sequence[PreparedItem]) -> Counter:
    """Sum what prepare counted in each sample.

    Examples
    --------
    >>> from tasks.item import Item
    >>> from utils.data import Entry
    >>> entries = [Entry("a", "00", {}, None, {"counts": {"field": 3, "road": 0}})]
    >>> count_labels([PreparedItem(Item("a", ()), entries)])
    Counter({'field': 3, 'road': 0})
    """
    counts: Counter = Counter()
    for entry in (entry for item in items for entry in item.entries):
        counts.update(entry.facts.get("counts", {}))
    return counts


def balance(split: str, items: Sequence[PreparedItem]) -> list[str]:
    """Say how many windows a split has and how its classes are balanced.

    Examples
    --------
    >>> from tasks.item import Item
    >>> from utils.data import Entry
    >>> entries = [Entry("a", "00", {}, None, {"counts": {"field": 3, "road": 1}})]
    >>> balance("train", [PreparedItem(Item("a", ()), entries)])
    ['train: items 1, windows 1', 'train: field 75.0 %, road 25.0 %']
    """
    counts = count_labels(items)
    lines = [f"{split}: items {len(items)}, windows {sum(len(item.entries) for item in items)}"]
    total = sum(counts.values())
    if total:
        lines.append(f"{split}: " + ", ".join(f"{name} {100 * value / total:.1f} %" for name, value in counts.items()))
    return lines


def absent(split: str, items: Sequence[PreparedItem]) -> list[str]:
    """Name what a split holds nothing of.

    Examples
    --------
    >>> from tasks.item import Item
    >>> from utils.data import Entry
    >>> entries = [Entry("a", "00", {}, None, {"counts": {"field": 3, "road": 0}})]
    >>> absent("train", [PreparedItem(Item("a", ()), entries)])
    ['train: nothing is labelled road; it cannot be learnt']
    """
    missing = [name for name, value in count_labels(items).items() if value == 0]
    consequence = "it cannot be learnt" if split == "train" else "its metrics mean nothing"
    return [f"{split}: nothing is labelled {', '.join(missing)}; {consequence}"] if missing else []


def unprepared(split: str, items: int, prepared: int) -> list[str]:
    """Say how many items of a split are not prepared.

    Examples
    --------
    >>> unprepared("val", 5, 3), unprepared("val", 3, 3)
    (['val: 2 of 5 items are not prepared; run prepare'], [])
    """
    return [f"{split}: {items - prepared} of {items} items are not prepared; run prepare"] if items > prepared else []
