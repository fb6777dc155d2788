"""What settings are made of: the base of their sections, and numbers and lists with bounds."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator


def _ascending(pair: list[float]) -> list[float]:
    """Refuse a range that is upside down or not a number.

    Examples
    --------
    >>> _ascending([2.0, 1.0])
    Traceback (most recent call last):
        ...
    ValueError: a first value below the second
    """
    if not pair[0] < pair[1]:
        raise ValueError("a first value below the second")
    return pair


def _not_empty(name: str) -> str:
    """Refuse an empty name.

    Examples
    --------
    >>> _not_empty("")
    Traceback (most recent call last):
        ...
    ValueError: a name
    """
    if not name:
        raise ValueError("a name")
    return name


def _not_float16(word: Any) -> Any:
    """Refuse arithmetic whose numbers are too small for the features.

    Examples
    --------
    >>> _not_float16("fp16")
    Traceback (most recent call last):
        ...
    ValueError: auto, bf16 or fp32, as float16 overflows in DINOv3
    """
    if word in ("fp16", "float16", "half"):
        raise ValueError("auto, bf16 or fp32, as float16 overflows in DINOv3")
    return word


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9)]  # of what takes no memory by its number
Pixels = Annotated[int, Field(ge=1, le=10**15)]  # a limit on memory that a person may raise as far as it goes
Batch = Annotated[int, Field(ge=1, le=65536)]  # samples that pass a model together
BandNumber = Annotated[int, Field(ge=1, le=65535)]  # as many as a TIFF can have
Multiple = Annotated[float, Field(gt=0, le=100)]  # of the size of pictures
MOST_THREADS = 1024  # more than the processors of any machine; a system ends a program long before 1,000,000
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]
Readers = Annotated[int, Field(ge=0, le=MOST_THREADS)]  # threads beside the one that works
Side = Annotated[int, Field(ge=1, le=32768)]  # pixels; a window is held in memory with its features
Interval = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
Percentiles = Annotated[
    list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=2, max_length=2), AfterValidator(_ascending)
]
ClassName = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_not_empty)]
Precision = Annotated[Literal["auto", "bf16", "fp32"], BeforeValidator(_not_float16)]
OneOrMore = str | Annotated[list[str], Field(min_length=1)]  # a file, folder or glob, or a list of them
_Split = Literal["train", "val", "test"]
OneOrMoreSplits = _Split | Annotated[list[_Split], Field(min_length=1)]
BlockChoice = (  # of a backbone: indices, a word, or shares of its depth
    Annotated[list[int], Field(min_length=1)]
    | Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    | Annotated[str, Field(pattern=r"^(last|even)[1-9]\d{0,3}$")]
)
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


MOST = 2**53  # of a whole number: exact as a float, and more than any count
LARGEST = 3.4e38  # of a number: float32 holds it


class Section(BaseModel):
    """A part of the settings: frozen, strict, without unknown keys, empty texts and endless numbers.

    `later` names settings of later releases: while they are as by default, what older ones made stays valid.

    Examples
    --------
    >>> class Resources(Section):
    ...     seed: int = 0
    >>> Resources(seed=1).seed
    1
    """

    later: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def key(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """All settings that results depend on, as plain values, but for those of `later` that are as by default.

        Examples
        --------
        >>> class Colours(Section):
        ...     later: ClassVar[tuple[str, ...]] = ("hue",)
        ...     contrast: float = 0.0
        ...     hue: float = 0.0
        >>> Colours().key(), Colours(hue=9.0).key(exclude=["contrast"])
        ({'contrast': 0.0}, {'hue': 9.0})
        """
        fields = type(self).model_fields
        plain = {name for name in self.later if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude={*plain, *exclude})

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_unusable(cls, value: Any) -> Any:
        """Refuse "", which stands for a forgotten value and would mean the working directory as a path, and NUL.

        Raises
        ------
        ValueError
            Also for a number beyond what the arithmetic behind any setting holds.

        Examples
        --------
        >>> Section._refuse_unusable("scenes"), Section._refuse_unusable([]), Section._refuse_unusable(float("inf"))
        ('scenes', [], inf)
        >>> Section._refuse_unusable(10**299)
        Traceback (most recent call last):
            ...
        ValueError: a whole number of at most 9007199254740992
        """
        for part in value if isinstance(value, list) else (value,):
            if isinstance(part, str):
                if not part:
                    raise ValueError("text that is not empty (leave the key out, or write null, for no value)")
                if "\0" in part:
                    raise ValueError("text without the character NUL")
            elif isinstance(part, int) and abs(part) > MOST:
                raise ValueError(f"a whole number of at most {MOST}")
            elif isinstance(part, float) and LARGEST < abs(part) < math.inf:
                raise ValueError(f"a number of at most {LARGEST}")
        return value
