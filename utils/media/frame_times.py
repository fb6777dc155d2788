"""Times of the frames of a video: they show where frames are missing, which a decoder passes over without a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

_REGULAR = 0.75  # share of steps that must be alike: screen recordings and some phones have no step at all
_NAMED = 10  # so many places are named in a message
Counted = Literal["places", "frames", "duration", "duration from zero"]


@dataclass(frozen=True)
class Promise:
    """What a header says about the frames.

    Parameters
    ----------
    count : int or None
        How many there are; None where it does not say.
    fps : float or None
        Frames per second.
    by : str
        What the count is: places for frames, of which some may be empty (AVI); frames (MP4); or made of the duration,
        which may begin at the first frame or at zero (Matroska).
    start_ms : float
        Time of the first frame, for a duration from zero.

    Examples
    --------
    >>> Promise(250, 25.0, "duration").start_ms
    0.0
    """

    count: int | None
    fps: float | None
    by: Counted
    start_ms: float = 0.0


def find_losses(times_ms: Sequence[float], promise: Promise) -> Iterator[str]:
    """Say which frames are missing inside and at the end.

    One less at the end is no news: where a header gives a duration only, the count made of it may be one too many.

    Parameters
    ----------
    times_ms : sequence of float
        Time of each decoded frame in milliseconds, as for `find_gaps`.
    promise : Promise
        What the header says.

    Examples
    --------
    >>> [loss[:73] for loss in find_losses([0.0, 40.0, 160.0], Promise(6, 25.0, "places"))]
    ['by the times of its frames, 2 frames are missing inside: 2 before frame 2']
    >>> list(find_losses([0.0, 40.0, 80.0, 120.0], Promise(5, 25.0, "places")))
    []
    >>> list(find_losses([0.0, 100.0, 130.0, 600.0], Promise(16, 25.0, "duration")))  # no steady rate
    []
    """
    if not times_ms:
        return
    count, places = len(times_ms), promise.by == "places"
    step_ms = 1000 / promise.fps if promise.fps else 0.0
    gaps = find_gaps(times_ms, step_ms if places and step_ms else None)
    if places and step_ms and promise.count:
        late = round(times_ms[0] / step_ms)  # decoders that reorder frames begin late too, though none is missing
        if late > 0 and count + sum(gaps.values()) + late <= promise.count:
            gaps = {0: late, **gaps}
    if gaps:
        yield describe_gaps(gaps, sure=places)
    if promise.count is None:
        return
    if promise.by in ("places", "frames"):
        cut = count + places * sum(gaps.values()) < promise.count - 1
    else:
        longest_ms = max([step_ms, *(later - sooner for sooner, later in pairwise(times_ms))])
        cut = promise.count * step_ms - promise.start_ms - max(times_ms) > 3 * longest_ms
    if cut:
        yield f"{count} of the {promise.count} frames that its header promises can be decoded; the rest is left out"


def find_gaps(times_ms: Sequence[float], step_ms: float | None = None) -> dict[int, int]:
    """Find where the times of decoded frames leap over others.

    Parameters
    ----------
    times_ms : sequence of float
        Time of each decoded frame in milliseconds. One that does not exceed those before is not known; decoders give
        such at the end of some files.
    step_ms : float or None
        Duration of a frame, where the file counts in frames; None takes the median step, and finds nothing where the
        frames have no common rate.

    Returns
    -------
    dict of int to int
        Index of a decoded frame, and the number of frames that are missing right before it.

    Examples
    --------
    >>> find_gaps([0.0, 40.0, 80.0, 200.0, 240.0, 320.0, 360.0, 400.0, 440.0])
    {3: 2, 5: 1}
    >>> find_gaps([0.0, 80.0, 160.0, 240.0]), find_gaps([0.0, 80.0, 160.0, 240.0], step_ms=40.0)
    ({}, {1: 1, 2: 1, 3: 1})
    >>> find_gaps([0.0, 17.0, 130.0, 170.0, 300.0])
    {}
    """
    times = np.asarray(times_ms, float)
    earlier = np.maximum.accumulate(np.concatenate([[-np.inf], times]))[:-1]
    known = np.flatnonzero(times > earlier)
    leaps, frames = np.diff(times[known]), np.diff(known)
    if not leaps.size:
        return {}
    if step_ms is None:
        steps = leaps / frames
        step_ms = float(np.median(steps))
        alike = np.abs(steps - step_ms) <= max(0.25 * step_ms, 1.0)  # some containers round to milliseconds
        if alike.mean() < _REGULAR:
            return {}
    missing = np.rint(leaps / step_ms).astype(int) - frames
    return {int(known[place + 1]): int(missing[place]) for place in np.flatnonzero(missing > 0)}


def describe_gaps(gaps: dict[int, int], sure: bool = True) -> str:
    """Say in a line which frames are missing, or seem to be.

    Parameters
    ----------
    gaps : dict of int to int
        What `find_gaps` found.
    sure : bool
        Whether the file has a place for each frame. Else a program that wrote only the frames that differ, such as one
        that records a screen, leaves the same leaps in time.

    Examples
    --------
    >>> describe_gaps({5: 1}, sure=False)[:81]
    'by the times of its frames, 1 frame is missing inside, or its rate varies: 1 befo'
    >>> describe_gaps({5: 3, 17: 1})[:104]
    'by the times of its frames, 4 frames are missing inside: 3 before frame 5, 1 before frame 17; frames are'
    """
    count = sum(gaps.values())
    places = [f"{missing} before frame {index}" for index, missing in list(gaps.items())[:_NAMED]]
    more = f" and at {len(gaps) - _NAMED} more places" if len(gaps) > _NAMED else ""
    are = "1 frame is" if count == 1 else f"{count} frames are"
    doubt = "" if sure else ", or its rate varies"
    return (
        f"by the times of its frames, {are} missing inside{doubt}: {', '.join(places)}{more}; frames are numbered as "
        "they are decoded, so from there on a frame has a lower number than in programs that count by time"
    )
