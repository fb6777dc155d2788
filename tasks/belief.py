"""Whether a score can be believed, and why not: said in the log, in metrics.json, and above pictures and plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

LEAST_STEPS = 50  # weights begin at random, and a tenth of the steps is warm-up: fewer have hardly left their start
LEAST_PIXELS = 5_000  # a patch of 70 x 70: neighbouring pixels show one thing, so fewer are only a handful of places
LEAST_PIXELS_OF_CLASS = 100  # one pixel more or less then moves the score of the class by a hundredth
LEAST_POINTS = 50  # a share of 50 points is known to .07 (standard error at one half)
LEAST_POINTS_OF_ONE = 10  # to .16 for one keypoint
LEAST_BOXES, LEAST_BOXES_OF_ONE = 50, 10  # objects: a share of 50 is known to .07, of one class to .16
LEAST_PICTURES = 10  # objects and pixels of one picture show one place at one time, however many they are
LEAST_CELLS = 500  # of a feature map: two crops of 16 x 16 cells
NEAR_CHANCE = 0.1  # of the way from the confidence of a guess to 1
LEAST_GAIN = 0.01  # over a score that needs no training; less is within the chance of one split
MOST_BORDERING = 0.1  # share of scored items that touch training items from which the score is of the same place
MOST_DOUBLES = 0.1  # share of validation pictures with a near double in training
NAMED = 5  # classes or keypoints that a line names


class Doubt(NamedTuple):
    """One reason not to believe a score.

    Parameters
    ----------
    code : str
        For programs, and short enough for a caption: `few_steps`.
    text : str
        For a person.

    Examples
    --------
    >>> Doubt("few_steps", "only 6 steps of training").code
    'few_steps'
    """

    code: str
    text: str


@dataclass(frozen=True)
class Support:
    """What a score was counted on.

    Parameters
    ----------
    unit : str
        `pixels`, `points`, `boxes` or `cells`.
    counts : mapping of str to int
        By class or keypoint; by anything else where `least_each` is 0.
    least, least_each : int
        Fewer in all, or of one class or keypoint, are too few.
    each : str
        `class` or `keypoint`.
    doubts : sequence of Doubt
        What the kind of task itself finds, such as a confidence near chance.

    Examples
    --------
    >>> list(Support("pixels", {"sea": 900, "sand": 0}, 100, 10).find())
    [Doubt(code='no_pixels_of_a_class', text='no pixels of sand were scored')]
    """

    unit: str
    counts: Mapping[str, int]
    least: int
    least_each: int = 0
    each: str = "class"
    doubts: Sequence[Doubt] = field(default=())

    def find(self) -> Iterator[Doubt]:
        """Give the doubts that follow from the counts, and those of the kind.

        Examples
        --------
        >>> [doubt.text for doubt in Support("pixels", {"sea": 90, "sand": 5}, 100, 10).find()]
        ['only 95 pixels were scored (fewer than 100)', 'fewer than 10 pixels were scored of sand (5)']
        """
        unit, total = self.unit, sum(self.counts.values())
        if total < self.least:
            yield Doubt(f"few_{unit}", f"only {total:,} {unit} were scored (fewer than {self.least:,})")
        if self.least_each:
            missing = [name for name, count in self.counts.items() if not count]
            few = [f"{name} ({count})" for name, count in self.counts.items() if 0 < count < self.least_each]
            if missing:
                yield Doubt(f"no_{unit}_of_a_{self.each}", f"no {unit} of {listed(missing)} were scored")
            if few:
                text = f"fewer than {self.least_each} {unit} were scored of {listed(few)}"
                yield Doubt(f"few_{unit}_of_a_{self.each}", text)
        yield from self.doubts


def listed(names: Sequence[str]) -> str:
    """Name the first few of many.

    Examples
    --------
    >>> listed(["a", "b"]), listed(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def near_chance(confidence: float, choices: int) -> Iterator[Doubt]:
    """Doubt a mean confidence that hardly differs from that of a guess among some choices.

    Examples
    --------
    >>> [doubt.text for doubt in near_chance(0.177, 6)], list(near_chance(0.5, 6))
    (['the mean confidence is 0.177, where a guess among 6 has 0.167'], [])
    """
    guess = 1 / choices
    if choices > 1 and confidence < guess + NEAR_CHANCE * (1 - guess):
        text = f"the mean confidence is {confidence:.3f}, where a guess among {choices} has {guess:.3f}"
        yield Doubt("confidence_near_chance", text)


def no_better(primary: str, score: float, baselines: Mapping[str, float]) -> Iterator[Doubt]:
    """Doubt a score that a prediction without training nearly reaches.

    Parameters
    ----------
    primary : str
        Name of the score; larger is better.
    score : float
        Its value.
    baselines : mapping of str to float
        Values of `constant` and `colours`; NaN where unknown.

    Examples
    --------
    >>> list(no_better("mIoU", 0.25, {"constant": 0.245, "colours": 0.1}))  # doctest: +NORMALIZE_WHITESPACE
    [Doubt(code='no_better_than_constant',
           text='mIoU 0.2500 is not 0.01 above that of a constant prediction (0.2450)')]
    >>> list(no_better("negative_error", -20.0, {"constant": -60.0}))
    []
    """
    words = {"constant": "a constant prediction", "colours": "colours alone"}
    for name, value in baselines.items():
        needed = LEAST_GAIN * max(1.0, abs(value))
        if math.isfinite(value) and not score - value >= needed:
            text = f"{primary} {score:.4f} is not {needed:.2g} above that of {words[name]} ({value:.4f})"
            yield Doubt(f"no_better_than_{name}", text)


def few_steps(steps: int | None) -> Iterator[Doubt]:
    """Doubt weights after few steps of the optimiser; None: their number is not known.

    Examples
    --------
    >>> list(few_steps(6)), list(few_steps(None))
    ([Doubt(code='few_steps', text='only 6 steps of training up to this checkpoint (fewer than 50)')], [])
    """
    if steps is not None and steps < LEAST_STEPS:
        yield Doubt("few_steps", f"only {steps} steps of training up to this checkpoint (fewer than {LEAST_STEPS})")


def few_pictures(number: int) -> Iterator[Doubt]:
    """Doubt a score of so few pictures that one more or less would change it.

    Examples
    --------
    >>> list(few_pictures(3)), list(few_pictures(10))
    ([Doubt(code='few_pictures', text='only 3 pictures were scored (fewer than 10)')], [])
    """
    if number < LEAST_PICTURES:
        yield Doubt("few_pictures", f"only {number} pictures were scored (fewer than {LEAST_PICTURES})")


class Place(NamedTuple):
    """Where an item lies: two items of one space whose boxes touch show the same place or its border.

    Parameters
    ----------
    space : str
        Such as the ground, a scene, or a video.
    box : tuple of float
        Left, top, right, bottom; of a video: the first frame, 0, the frame after the last, 1.
    reach : float
        Distance up to which boxes touch.

    Examples
    --------
    >>> Place("scene", (0, 0, 8, 8), 1).space
    'scene'
    """

    space: str
    box: tuple[float, float, float, float]
    reach: float


def same_place(scored: Iterable[Place | None], training: Iterable[Place | None]) -> Iterator[Doubt]:
    """Doubt a score of items of which many overlap or border training items.

    Examples
    --------
    >>> left, right, far = (Place("scene", (x, 0, x + 8, 8), 1) for x in (0, 8, 40))
    >>> [doubt.text.partition(";")[0] for doubt in same_place([left, far], [right])]
    ['1 of 2 scored items overlap or border training items: the score says little of other places']
    >>> list(same_place([far], [right])), list(same_place([None], [right]))
    ([], [])
    """
    spaces: dict[str, list[tuple[float, ...]]] = {}
    for place in training:
        if place is not None:
            spaces.setdefault(place.space, []).append(place.box)
    boxes = {space: np.array(found, float) for space, found in spaces.items()}
    places = list(scored)
    touching = 0
    for place in places:
        others = None if place is None else boxes.get(place.space)
        if place is not None and others is not None:
            left, top, right, bottom = place.box
            across = (others[:, 0] <= right + place.reach) & (others[:, 2] >= left - place.reach)
            along = (others[:, 1] <= bottom + place.reach) & (others[:, 3] >= top - place.reach)
            touching += bool((across & along).any())
    if places and touching >= MOST_BORDERING * len(places):
        yield Doubt(
            "same_place",
            f"{touching} of {len(places)} scored items overlap or border training items: the score says little of "
            "other places; name items of another place in dataset.splits.val_list",
        )


def judge(primary: str, score: float, baselines: Mapping[str, float], doubts: Iterable[Doubt]) -> dict[str, Any]:
    """Put together what is said about a score, as JSON.

    Examples
    --------
    >>> judge("mIoU", 0.75, {"constant": 0.25}, [])
    {'believable': True, 'reasons': [], 'baselines': {'constant': 0.25}}
    >>> judge("mIoU", 0.75, {}, few_steps(6))["reasons"]
    [{'code': 'few_steps', 'text': 'only 6 steps of training up to this checkpoint (fewer than 50)'}]
    """
    found = dict.fromkeys([*doubts, *no_better(primary, score, baselines)])
    reasons = [{"code": doubt.code, "text": doubt.text} for doubt in found]
    return {"believable": not reasons, "reasons": reasons, "baselines": dict(baselines)}


def sentence(primary: str, score: float, belief: Mapping[str, Any] | None) -> str:
    """What the log says of a score that cannot be believed; empty for one that can.

    Examples
    --------
    >>> sentence("mIoU", 0.75, judge("mIoU", 0.75, {}, few_steps(6)))
    'mIoU 0.7500 cannot be believed: only 6 steps of training up to this checkpoint (fewer than 50)'
    >>> sentence("mIoU", 0.75, None)
    ''
    """
    if belief is None or belief["believable"]:
        return ""
    return f"{primary} {score:.4f} cannot be believed: {'; '.join(reason['text'] for reason in belief['reasons'])}"


def caption(primary: str, score: float, belief: Mapping[str, Any] | None) -> str:
    """The same in a few words, for pictures.

    Examples
    --------
    >>> caption("mIoU", 0.75, judge("mIoU", 0.75, {}, few_steps(6)))
    'mIoU 0.7500 cannot be believed: few steps'
    """
    if belief is None or belief["believable"]:
        return ""
    words = ", ".join(reason["code"].replace("_", " ") for reason in belief["reasons"])
    return f"{primary} {score:.4f} cannot be believed: {words}"


def doubts_of_checkpoint(primary: str, description: Mapping[str, Any]) -> tuple[str, str]:
    """What the log and the pictures say of the best score that a checkpoint states, if it cannot be believed.

    Examples
    --------
    >>> training = {"belief": judge("mIoU", 0.75, {}, few_steps(6))}
    >>> doubts_of_checkpoint("mIoU", {"training": training, "metrics": {"mIoU": 0.75}})[1]
    'mIoU 0.7500 cannot be believed: few steps'
    >>> doubts_of_checkpoint("PCK", {"training": training, "metrics": {"PCK": 0.0}})[1]
    'PCK 0.0000 cannot be believed: few steps'
    >>> doubts_of_checkpoint("mIoU", {"kind": "segmentation"})  # of an older version
    ('', '')
    """
    belief = (description.get("training") or {}).get("belief")
    value = (description.get("metrics") or {}).get(primary)  # JSON knows no NaN; 0 is a score
    score = math.nan if value is None else float(value)
    return sentence(primary, score, belief), caption(primary, score, belief)
