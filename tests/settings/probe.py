"""A probe: what is looked at, and another value of a setting under which it looks different."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Probe:
    """How a setting shows that it acts.

    In values, `{folder}` is an empty folder, `{data}` the prepared data and `{model}` a checkpoint of the kind.
    """

    look: Callable[[str, Path, Sequence[str]], Any]
    other: str
    base: tuple[str, ...] = ()  # settings that hold for both values
    refuses: str = ""  # the error of the other value, where a refusal is all that it can do
    change: Callable[[Path], None] | None = None  # of a copy of the data, before anything is read


AGAIN = ("train.epochs=2",)
VARIED = "dataset.augmentations.enable=true"
PLAIN = (VARIED, *(f"dataset.augmentations.{name}=false" for name in ("hflip", "vflip", "rotate90")))
COLOUR = (VARIED, "dataset.augmentations.stored_variations=1")
BRIGHT = (*COLOUR, "dataset.augmentations.brightness=0.1")
NO_GPU = "mps asked for"  # no machine has every device: that the phase asks for it is what can be seen
