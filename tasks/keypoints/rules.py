"""Automatic rules: small or ambiguous data change defaults, never values of a settings file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.keypoints.audit import ambiguity
from tasks.keypoints.items import usable
from tasks.keypoints.settings import KeypointsSettings
from utils.formats.types import AnnotatedPicture, Skeleton
from utils.keypoints.left_right import body_axis, left_right_pairs

SMALL = 64  # training pictures
AMBIGUOUS = 0.5  # share of pairs whose left and right cannot be told apart


@dataclass(frozen=True)
class Decision:
    """A default that a rule changed.

    Parameters
    ----------
    rule : str
        Its name.
    setting : str
        The setting that it changes.
    value : any
        The new value.
    reason : str
        The reason, with numbers.

    Examples
    --------
    >>> print(Decision("no_flips", "dataset.augmentations.hflip", False, "the labels have no flip_idx"))
    rule no_flips: dataset.augmentations.hflip = False, as the labels have no flip_idx
    """

    rule: str
    setting: str
    value: Any
    reason: str

    def __str__(self) -> str:
        """Give one line for a person."""
        return f"rule {self.rule}: {self.setting} = {self.value}, as {self.reason}"


def decide(settings: KeypointsSettings, pictures: Sequence[AnnotatedPicture], skeleton: Skeleton) -> list[Decision]:
    """Find the rules that apply to the training pictures.

    Parameters
    ----------
    settings : KeypointsSettings
        Not changed.
    pictures : sequence of AnnotatedPicture
        Those of the training split.
    skeleton : Skeleton
        The keypoints.

    Returns
    -------
    list of Decision
        Changes of defaults; a setting in the file is kept.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> task = pose_task()
    >>> decide(task.settings, [], task.labels.skeleton)
    []
    """
    axis, doubt = body_axis(skeleton.names), 0.0
    if skeleton.flip_idx is not None and axis is not None:
        animals = [animal for picture in pictures for animal in usable(picture)]
        doubt = ambiguity(animals, left_right_pairs(skeleton.flip_idx).numpy(), axis)
    decisions = []
    if skeleton.flip_idx is None:
        nothing = "the labels have no flip_idx"
        decisions += [
            Decision("no_flips", f"dataset.augmentations.{name}", False, nothing) for name in ("hflip", "vflip")
        ]
    if doubt >= AMBIGUOUS:
        share = f"left and right cannot be told apart across the body in {100 * doubt:.0f} % of pairs"
        decisions += [
            Decision("ambiguous_data", f"keypoints.loss.{name}", 0.0, share) for name in ("pair_weight", "side_weight")
        ]
        decisions.append(Decision("ambiguous_data", "dataset.augmentations.hflip", False, share))
        if len(pictures) <= SMALL:
            share += f", and there are {len(pictures)} training pictures"
            decisions.append(Decision("ambiguous_data", "keypoints.canonicalise", True, share))
    return [decision for decision in decisions if changes(settings, decision)]


def changes(settings: KeypointsSettings, decision: Decision) -> bool:
    """Whether a rule changes a setting: it is not in the file, or auto, and has another value.

    Examples
    --------
    >>> given = KeypointsSettings(dataset={"augmentations": {"hflip": True}})
    >>> rule = Decision("no_flips", "dataset.augmentations.hflip", False, "")
    >>> changes(given, rule), changes(KeypointsSettings(), rule)
    (False, True)
    """
    section, key = section_of(settings, decision.setting)
    given = key in section.model_fields_set
    automatic = getattr(section, key) == "auto"
    return (not given or automatic) and getattr(section, key) != decision.value


def section_of(settings: KeypointsSettings, path: str) -> tuple[Any, str]:
    """The section and key of a setting's path.

    Examples
    --------
    >>> section, key = section_of(KeypointsSettings(), "dataset.augmentations.hflip")
    >>> type(section).__name__, key
    ('AffineAugmentationsConfig', 'hflip')
    """
    *parents, key = path.split(".")
    section: Any = settings
    for name in parents:
        section = getattr(section, name)
    return section, key


def with_setting(section: Any, path: list[str], value: Any) -> Any:
    """Copy a section with another value at a path below it.

    Examples
    --------
    >>> with_setting(KeypointsSettings(), ["train", "patience"], 3).train.patience
    3
    """
    key, *rest = path
    return section.model_copy(update={key: with_setting(getattr(section, key), rest, value) if rest else value})


def automatic_settings(
    settings: KeypointsSettings, pictures: Sequence[AnnotatedPicture], skeleton: Skeleton
) -> tuple[KeypointsSettings, list[Decision]]:
    """Apply the rules that apply to the training pictures.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> task = pose_task()
    >>> settings, decisions = automatic_settings(task.settings, [], task.labels.skeleton)
    >>> settings == task.settings, decisions
    (True, [])
    """
    decisions = decide(settings, pictures, skeleton)
    for decision in decisions:
        settings = with_setting(settings, decision.setting.split("."), decision.value)
    return settings, decisions
