"""What settings are made of: the base of their sections, and numbers and lists with bounds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator


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


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=1, le=32768)]  # pixels; a window is held in memory with its features
Interval = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
Percentiles = Annotated[
    list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=2, max_length=2), AfterValidator(_ascending)
]
OneOrMore = str | Annotated[list[str], Field(min_length=1)]  # a file, folder or glob, or a list of them
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


class Section(BaseModel):
    """A part of the settings: frozen, strict, without unknown keys and empty texts.

    Examples
    --------
    >>> class Resources(Section):
    ...     seed: int = 0
    >>> Resources(seed=1).seed
    1
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_empty_text(cls, value: Any) -> Any:
        """Refuse "", which stands for a forgotten value and would mean the working directory as a path.

        Examples
        --------
        >>> Section._refuse_empty_text("scenes"), Section._refuse_empty_text([])
        ('scenes', [])
        """
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError("text that is not empty (leave the key out, or write null, for no value)")
        return value
