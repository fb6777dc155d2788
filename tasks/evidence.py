"""What is found out about a split beside its score: what colours alone give, and whether training saw the place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import numpy as np

from tasks.baselines import (
    LOOKED_AT,
    choose_entries,
    direction,
    live_samples,
    neighbouring_entries,
    score_baseline,
    share_of_doubles,
    spread,
)
from tasks.belief import MOST_DOUBLES, Doubt, few_steps, judge, listed, same_place
from tasks.grey_inputs import shows_colours
from tasks.item import Item
from tasks.neighbours import MOST_ALIKE, pairs_beside, share_alike
from tasks.prepared import PreparedItem, PreparedReader
from tasks.sample import Sample
from tasks.task import Task
from utils.data import Entry
from utils.errors import DataError, SettingsError
from utils.media.thumbnails import thumbnail
from utils.runtime.files import digest_json
from utils.store.feature_store import FeatureStore

# what `study_training` finds, before it was asked
UNSTUDIED: Mapping[str, Any] = MappingProxyType(
    {"colours": None, "colours_score": math.nan, "doubts": (), "val": "", "untrained": (), "in_colours": None}
)


def study_training(
    task: Task, store: FeatureStore, train_items: Sequence[PreparedItem], val_items: Sequence[PreparedItem]
) -> dict[str, Any]:
    """Study the splits of a training before it begins; reads some samples of each.

    Returns
    -------
    dict
        `colours`: what was learnt of colours, as JSON, or None; `colours_score`: what it scores on validation;
        `doubts`: lists of code and text; `val`: digest of the validation items; `untrained`: doubts of any split;
        `in_colours`: share of training samples that show colours, None where they hold no picture.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> found = study_training(task, store, prepared, prepared)
    >>> found["colours_score"], [code for code, _ in found["doubts"]]  # validation on the training pictures
    (1.0, ['same_place', 'same_pictures'])
    """
    training, scored = PreparedReader(task, store, train_items), PreparedReader(task, store, val_items)
    learnt_looks: list[np.ndarray] = []
    scored_looks: list[np.ndarray] = []
    baseline = task.output.baseline()
    coloured: list[bool] = []
    learnt = watched(training.samples(choose_entries(training.entries)), learnt_looks, coloured)
    fitted = None if baseline is None else baseline.fit(learnt)
    positions = spread(len(scored.entries), LOOKED_AT)
    shown = watched(scored.samples(positions), scored_looks)
    value = math.nan
    if baseline is not None and fitted is not None:
        value = score_baseline(task.output, task.primary, baseline, fitted, shown)
    for rest in (learnt, shown):  # what the baseline did not ask for is still compared
        for _ in rest:
            pass
    near = [scored.entries[place] for place in positions]
    for _ in watched(training.samples(neighbouring_entries(training.entries, near)), learnt_looks):
        pass
    doubts = list(same_place(*(map(task.source.place, items_of(part)) for part in (val_items, train_items))))
    doubts += same_pictures(scored_looks, learnt_looks)
    doubts += () if doubts else same_video(scored, training)
    return {
        "colours": fitted,
        "colours_score": value,
        "doubts": [list(doubt) for doubt in doubts],
        "untrained": [list(doubt) for doubt in untrained(task, training.entries)],
        "val": digest_ids(items_of(val_items)),
        "in_colours": sum(coloured) / len(coloured) if coloured else None,
    }


def untrained(task: Task, entries: Iterable[Entry]) -> Iterator[Doubt]:
    """Doubt a model of classes or keypoints of which the training split has none.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> entries = [Entry(name, "00", {}, None, {"counts": {"dark": 9, "light": 0}}) for name in "ab"]
    >>> [doubt.text for doubt in untrained(scene_task(), entries)]  # doctest: +ELLIPSIS
    ['the training split has no pixels of light, which cannot be learnt; label some there, or divide the ...']
    >>> list(untrained(scene_task(), []))
    []
    """
    if task.counted is None:
        return
    unit, each = task.counted
    counts: dict[str, int] = {}
    for entry in entries:
        for name, count in entry.facts["counts"].items():
            counts[name] = counts.get(name, 0) + count
    if missing := [name for name, count in counts.items() if not count]:
        text = f"the training split has no {unit} of {listed(missing)}, which cannot be learnt; label some there, or "
        yield Doubt(f"no_training_{unit}_of_a_{each}", text + "divide the pictures otherwise (dataset.splits)")


def watched(samples: Iterable[Sample], looks: list[np.ndarray], coloured: list[bool] | None = None) -> Iterator[Sample]:
    """Pass samples on and keep what they look like, and whether they show colours.

    Examples
    --------
    >>> looks = []
    >>> samples = [Sample("a", Item("a", ()), {"image": np.zeros((4, 6, 3), np.uint8)})]
    >>> len(list(watched(samples, looks))), looks[0].shape
    (1, (1024,))
    """
    for sample in samples:
        looks.append(direction(sample))
        if coloured is not None and "image" in sample.arrays:
            coloured.append(shows_colours(np.asarray(sample.arrays["image"])))
        yield sample


def same_pictures(scored: Sequence[np.ndarray], training: Sequence[np.ndarray]) -> Iterator[Doubt]:
    """Doubt a score of pictures that training saw, or nearly, such as the next frames of a video.

    Examples
    --------
    >>> first, second = np.eye(1024)[:2]
    >>> [doubt.text for doubt in same_pictures([first, second], [second])]
    ['50 % of 2 scored pictures that were compared have a near double in training']
    >>> list(same_pictures([first], [second]))
    []
    """
    share = share_of_doubles(scored, training)
    if share >= MOST_DOUBLES:
        compared = f"{len(scored)} scored pictures that were compared"
        yield Doubt("same_pictures", f"{100 * share:.0f} % of {compared} have a near double in training")


def same_video(scored: PreparedReader, training: PreparedReader) -> Iterator[Doubt]:
    """Doubt a score of pictures that look like the training pictures beside them by name, as frames of one video do.

    Pictures are compared by the first sample of each.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
    >>> list(same_video(reader, reader))  # no picture is beside itself
    []
    """
    if "image" not in training.task.source.fields:
        return
    readers = scored, training
    firsts = [{owner.id: place for place, owner in reversed(list(enumerate(part.owners)))} for part in readers]
    pairs = pairs_beside(*firsts)

    def look(name: str) -> np.ndarray:
        part = int(name not in firsts[0])
        [sample] = readers[part].samples([firsts[part][name]])
        return thumbnail(np.asarray(sample.arrays["image"]))

    share = share_alike(pairs, look, {}) * len({name for name, _ in pairs}) / max(len(firsts[0]), 1)
    if share >= MOST_ALIKE:
        text = f"{100 * share:.0f} % of the scored pictures look like the training pictures beside them by name, as "
        yield Doubt("same_video", text + "frames of one video do")


def items_of(prepared: Sequence[PreparedItem]) -> list[Any]:
    """The items of a prepared split.

    Examples
    --------
    >>> [item.id for item in items_of([PreparedItem(Item("a", ()), [])])]
    ['a']
    """
    return [entry.item for entry in prepared]


def digest_ids(items: Sequence[Item]) -> str:
    """Digest of the ids of some items.

    Examples
    --------
    >>> digest_ids([Item("a", ())]) == digest_ids([Item("a", ())]) != digest_ids([Item("b", ())])
    True
    """
    return digest_json([item.id for item in items])


def judge_training(task: Task, scores: Mapping[str, Any], steps: int, chance: float | None, found: Mapping) -> dict:
    """Judge the scores of a validation.

    Parameters
    ----------
    task : Task
        Knows what its scores were counted on.
    scores : mapping
        What the validation gave.
    steps : int
        Steps of training until now.
    chance : float, optional
        Score of the best constant prediction.
    found : mapping
        What `study_training` gave.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> scores = task.output.metric().compute()
    >>> found = {"colours_score": 0.5, "doubts": []}
    >>> [reason["code"] for reason in judge_training(task, scores, 6, 0.25, found)["reasons"]]
    ['few_steps', 'few_pixels', 'no_pixels_of_a_class', 'no_better_than_constant', 'no_better_than_colours']
    """
    support = task.output.support(dict(scores))
    studied = [*found.get("untrained", ()), *found["doubts"]]
    doubts = [*few_steps(steps), *(support.find() if support else ()), *(Doubt(*doubt) for doubt in studied)]
    baselines = {"constant": math.nan if chance is None else chance, "colours": found["colours_score"]}
    return judge(task.primary, float(scores[task.primary]), finite(baselines), doubts)


def judge_evaluation(
    task: Task,
    split: str,
    metrics: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    prepared: Sequence[PreparedItem],
    store: FeatureStore | None,
    seen: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Judge the scores of an evaluation.

    Parameters
    ----------
    task : Task
        Made from the checkpoint.
    split : str
        What was scored.
    metrics : mapping
        Scores, with those of a constant prediction as `constant`.
    training : mapping, optional
        What the checkpoint says of its training; None for old ones and for tasks that train nothing.
    prepared : sequence of PreparedItem
        The items that were scored.
    store : FeatureStore, optional
        Where their samples are; None reads them anew.
    seen : mapping, optional
        Of pictures that the settings name, those that training saw, under `train`.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> metrics = task.output.metric().compute() | {"constant": {"mIoU": 0.25}}
    >>> belief = judge_evaluation(task, "train", metrics, {"steps": 6}, prepared, store)
    >>> [reason["code"] for reason in belief["reasons"]]
    ['few_steps', 'few_pixels', 'no_pixels_of_a_class', 'training_pictures', 'no_better_than_constant']
    """
    known, items = training or {}, items_of(prepared)
    support = task.output.support(dict(metrics))
    doubts = [*few_steps(known.get("steps")), *(support.find() if support else ())]
    doubts += [Doubt(*doubt) for doubt in known.get("untrained", ())]  # not in old checkpoints
    if split == "train":
        doubts.append(Doubt("training_pictures", "these are the pictures of training"))
    elif split == "inputs":  # the data of the training need not be those of the settings
        trained_on = len((seen or {}).get("train", ()))
        text = f"{trained_on} of {len(items)} pictures are of training"
        doubts += [Doubt("training_pictures", text)] if trained_on else []
    elif known.get("val") == digest_ids(items):
        doubts += [Doubt(*doubt) for doubt in known["doubts"]]
    else:
        with suppress(DataError, SettingsError):  # the pictures of training need not be there
            doubts += same_place(map(task.source.place, items), map(task.source.place, task.source.items("train")))
    baselines = {"constant": float(metrics.get("constant", {}).get(task.primary, math.nan))}
    baseline, fitted = task.output.baseline(), known.get("colours")
    if baseline is not None and fitted is not None:
        if store is None:
            samples = live_samples(task.source, items)
        else:
            reader = PreparedReader(task, store, prepared)
            samples = reader.samples(spread(len(reader.entries), LOOKED_AT))
        baselines["colours"] = score_baseline(task.output, task.primary, baseline, fitted, samples)
    return judge(task.primary, float(metrics[task.primary]), finite(baselines), doubts)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The values that are numbers.

    Examples
    --------
    >>> finite({"constant": 0.5, "colours": float("nan")})
    {'constant': 0.5}
    """
    return {name: value for name, value in values.items() if math.isfinite(value)}
