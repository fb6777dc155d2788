"""Linear scaling of raw values to 8 bits, the same for a whole data set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utils.errors import SettingsError
from utils.geometry.resampling import working_dtype


def value_kind(dtype: np.dtype) -> str:
    """Name the kinds of values that do not share a scaling: 8-bit colours, counts of a sensor, and real numbers.

    Examples
    --------
    >>> [value_kind(np.dtype(name)) for name in ("uint8", "uint16", "int16", "float32")]
    ['8-bit', 'integer', 'integer', 'float']
    """
    if dtype.itemsize == 1:
        return "8-bit"
    return "float" if dtype.kind == "f" else "integer"


@dataclass(frozen=True)
class ValueScaling:
    """One linear map of values to 0..255 for a whole data set, band by band.

    Parameters
    ----------
    low, high : tuple of float
        Values of each band that become 0 and 255; what lies beyond is clipped.
    kind : str, optional
        What the values were found in (see `value_kind`); None where the range was given, or in old checkpoints.

    Examples
    --------
    >>> ValueScaling((0.0,), (1000.0,)).apply(np.array([[-5.0], [500.0], [2000.0]])).tolist()
    [[0], [128], [255]]
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    kind: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", tuple(float(value) for value in self.low))
        object.__setattr__(self, "high", tuple(float(value) for value in self.high))
        if len(self.low) != len(self.high) or not self.low:
            raise SettingsError(
                f"value scaling: {len(self.low)} low and {len(self.high)} high values; expected one each per band"
            )
        if not all(
            math.isfinite(low) and math.isfinite(high) and low < high
            for low, high in zip(self.low, self.high, strict=True)
        ):
            raise SettingsError(f"value scaling: every low must lie below its high, got {self.low} and {self.high}")

    @classmethod
    def identity(cls, num_bands: int) -> ValueScaling:
        """The scaling of pictures, which are 0..255 already.

        Examples
        --------
        >>> ValueScaling.identity(2)
        ValueScaling(low=(0.0, 0.0), high=(255.0, 255.0), kind='8-bit')
        """
        return cls((0.0,) * num_bands, (255.0,) * num_bands, value_kind(np.dtype(np.uint8)))

    @property
    def is_identity(self) -> bool:
        """Whether 8-bit values pass unchanged.

        Examples
        --------
        >>> ValueScaling.identity(3).is_identity, ValueScaling((0,), (254,)).is_identity
        (True, False)
        """
        return set(self.low) == {0.0} and set(self.high) == {255.0}

    def to_json(self) -> dict[str, Any]:
        """The scaling as plain lists, for a checkpoint or a store.

        Examples
        --------
        >>> ValueScaling((0,), (9,)).to_json()
        {'low': [0.0], 'high': [9.0], 'kind': None}
        """
        return {"low": list(self.low), "high": list(self.high), "kind": self.kind}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ValueScaling:
        """The scaling that `to_json` gave.

        Examples
        --------
        >>> scaling = ValueScaling((0.5, 1), (9, 7))
        >>> ValueScaling.from_json(scaling.to_json()) == scaling
        True
        """
        read = cls(tuple(value["low"]), tuple(value["high"]), value.get("kind"))
        if "kind" not in value and read.is_identity:  # from before kinds were kept: 0 and 255 came of 8-bit files
            return cls.identity(len(read.low))
        return read

    def apply(self, values: np.ndarray, axis: int = -1) -> np.ndarray:
        """Scale values to 8 bits, rounded and clipped; what is no number becomes 0.

        Parameters
        ----------
        values : array, any shape
            Raw values of any type.
        axis : int
            The axis of the bands.

        Returns
        -------
        uint8 array, the shape of `values`

        Raises
        ------
        ValueError
            If the number of bands is another.

        Examples
        --------
        >>> ValueScaling((0, -1), (255, 1)).apply(np.array([[254.6, np.nan], [3, 1]])).tolist()
        [[255, 0], [3, 255]]
        """
        if values.shape[axis] != len(self.low):
            raise ValueError(f"value scaling: expected {len(self.low)} bands on axis {axis}, got shape {values.shape}")
        if values.dtype == np.uint8 and self.is_identity:
            return values
        scaled = values.astype(working_dtype(values.dtype))
        shape = [1] * values.ndim
        shape[axis] = -1
        gain = [255 / (high - low) for low, high in zip(self.low, self.high, strict=True)]
        scaled -= np.array(self.low, dtype=scaled.dtype).reshape(shape)
        scaled *= np.array(gain, dtype=scaled.dtype).reshape(shape)
        np.rint(scaled, out=scaled)
        np.fmax(scaled, 0, out=scaled)  # takes the number beside a NaN
        return np.fmin(scaled, 255, out=scaled).astype(np.uint8)
