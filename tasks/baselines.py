"""What colours alone would score: a few numbers per class or keypoint, fitted on some training samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.item import Item, Piece
from tasks.neighbours import natural
from tasks.sample import Sample
from utils.data import Entry
from utils.media.thumbnails import FLAT, SIDE, thumbnail

if TYPE_CHECKING:
    from tasks.output import Output
    from tasks.source import Source

LOOKED_AT = 48  # samples that are read, spread evenly; reading and fitting then take seconds
FULLEST = 4  # further samples for each class or keypoint: those that hold most of it
DOUBLE = 0.995  # likeness of near doubles: frames in a row of a still camera have .999, an animal at one spot again .98


class ColourBaseline(ABC):
    """Predicts from the colour of each place alone."""

    @abstractmethod
    def fit(self, samples: Iterable[Sample]) -> dict[str, Any] | None:
        """Learn from samples with labels; gives JSON, or None if there is nothing to learn."""

    @abstractmethod
    def predict(self, fitted: Mapping[str, Any], sample: Sample) -> Iterator[tuple[Piece, Any]]:
        """Give the prediction for a sample, or for some of its pixels, and the truth of these."""


def score_baseline(
    output: Output, primary: str, baseline: ColourBaseline, fitted: Mapping[str, Any], samples: Iterable[Sample]
) -> float:
    """Score a baseline as the task's predictions are scored; NaN where nothing was counted.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> from tasks.prepared import PreparedReader
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> samples = list(PreparedReader(task, store, prepared).samples(range(6)))
    >>> baseline = task.output.baseline()
    >>> score_baseline(task.output, "mIoU", baseline, baseline.fit(samples), samples)  # dark and light are told apart
    1.0
    """
    metric = output.metric()
    for sample in samples:
        for piece, truth in baseline.predict(fitted, sample):
            metric.update(piece, truth)
    return float(metric.compute().get(primary, float("nan")))


def spread(total: int, number: int) -> list[int]:
    """At most `number` of `total` positions, spread evenly.

    Examples
    --------
    >>> spread(10, 4), spread(2, 4), spread(0, 4)
    ([0, 3, 6, 9], [0, 1], [])
    """
    return sorted(set(np.linspace(0, total - 1, min(total, number)).round().astype(int).tolist())) if total else []


def choose_entries(entries: Sequence[Entry]) -> list[int]:
    """Positions of the entries to learn from: some spread evenly, and the fullest of each class or keypoint.

    Examples
    --------
    >>> facts = [{"counts": {"sea": 5, "ship": place == 57}} for place in range(99)]
    >>> entries = [Entry(str(place), "00", {}, None, found) for place, found in enumerate(facts)]
    >>> chosen = choose_entries(entries)
    >>> len(chosen) <= LOOKED_AT + 2 * FULLEST, 57 in chosen
    (True, True)
    """
    chosen = set(spread(len(entries), LOOKED_AT))
    counts = [entry.facts.get("counts", {}) for entry in entries]
    for name in dict.fromkeys(name for found in counts for name in found):
        fullest = nlargest(FULLEST, range(len(entries)), key=lambda place: counts[place].get(name, 0))
        chosen.update(place for place in fullest if counts[place].get(name, 0))
    return sorted(chosen)


def neighbouring_entries(entries: Sequence[Entry], others: Sequence[Entry]) -> list[int]:
    """Positions of the entries whose names come just before or after one of the others, as frames of a video do.

    Examples
    --------
    >>> entries = [Entry(f"frame_{number}", "00") for number in (1, 2, 9, 11, 20)]
    >>> neighbouring_entries(entries, [Entry("frame_10", "00")])
    [2, 3]
    """
    named = [(natural(entry.sample_id), 0, place) for place, entry in enumerate(entries)]
    order = sorted([*named, *((natural(entry.sample_id), 1, -1) for entry in others)])
    found: set[int] = set()
    for line in (order, order[::-1]):
        last = -1
        for _, other, place in line:
            last = last if other else place
            found.update([last] if other and last >= 0 else [])
    return sorted(found)


def share_of_doubles(scored: Sequence[np.ndarray], training: Sequence[np.ndarray]) -> float:
    """Share of pictures that are nearly one of training, by their directions.

    Examples
    --------
    >>> first, second, third = np.eye(1024)[:3]
    >>> share_of_doubles([first, second], [third, first]), share_of_doubles([], [first])
    (0.5, 0.0)
    """
    if not scored or not training:
        return 0.0
    return float(((np.stack(scored) @ np.stack(training).T).max(axis=1) >= DOUBLE).mean())


def direction(sample: Sample) -> np.ndarray:
    """Thumbnail of a sample's picture as a vector (1024,) of length 1 around 0; zeros where it shows nothing.

    Examples
    --------
    >>> image = np.full((64, 64, 3), 7, np.uint8)
    >>> image[:32] = 9
    >>> views = [image[:32], image, 2 * image]
    >>> looks = [direction(Sample("a", Item("a", ()), {"image": view})) for view in views]
    >>> float(np.abs(looks[0]).max()), round(float(looks[1] @ looks[2]), 6)
    (0.0, 1.0)
    """
    if "image" not in sample.arrays:
        return np.zeros(SIDE * SIDE)
    small = thumbnail(np.asarray(sample.arrays["image"])).ravel().astype(np.float64)
    centred = small - small.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > FLAT * SIDE * np.abs(small).max() else np.zeros(small.size)


def live_samples(source: Source, items: Sequence[Item]) -> Iterator[Sample]:
    """Read a few samples of some items that are not stored.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> source = scene_task().source
    >>> source.prepare_data()
    >>> source.scenes.find_scaling()
    >>> len(list(live_samples(source, source.items("train"))))
    6
    """
    chosen = spread(len(items), LOOKED_AT)
    for place in chosen:
        yield from islice(source.samples(items[place]), max(LOOKED_AT // len(chosen), 1))
