"""Learning rate schedules: a factor of the peak rate for each step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from utils.errors import SettingsError

SCHEDULES = ("constant", "cosine", "one_cycle", "poly", "step")
POLY_POWER = 0.9
STEP_DROP = 0.1
ONE_CYCLE_START = 0.04


@dataclass(frozen=True)
class Schedule:
    """Factor of the peak learning rate at each step; it depends on the step's number alone.

    Parameters
    ----------
    kind : str
        "one_cycle" (rise and fall along half cosines), "cosine" (fall along a half cosine), "poly" (fall as power 0.9
        of the share that is left), "step" (to a tenth at each milestone) or "constant".
    total_steps : int
        Steps of the whole training, at least 1.
    warmup : float
        Share of the steps in which the rate rises, from 0 to 1; linear, but for "one_cycle".
    milestones : tuple of int
        Steps at which "step" drops.

    Raises
    ------
    SettingsError
        If the kind is unknown.

    References
    ----------
    Smith and Topin, 2018 (arXiv:1708.07120), with the cosines of torch.optim.lr_scheduler.OneCycleLR, down to 0 and
    without a cycle of the momentum. Loshchilov and Hutter, 2017 (arXiv:1608.03983) for "cosine", without restarts.

    Examples
    --------
    >>> schedule = Schedule("cosine", total_steps=7, warmup=3 / 7)
    >>> [round(schedule.factor(step), 2) for step in range(7)]
    [0.25, 0.5, 0.75, 1.0, 0.85, 0.5, 0.15]
    """

    kind: str
    total_steps: int
    warmup: float = 0.0
    milestones: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise SettingsError(f"unknown schedule {self.kind!r}; known: {', '.join(SCHEDULES)}")

    def factor(self, step: int) -> float:
        """Factor of the peak learning rate for a step.

        Parameters
        ----------
        step : int
            Counted from 0; after the last one its value stays.

        Returns
        -------
        float
            From 0 to 1.

        Raises
        ------
        ValueError
            If the step is negative.

        Examples
        --------
        >>> steps = Schedule("step", total_steps=9, milestones=(1, 2))
        >>> [round(steps.factor(step), 2) for step in range(4)]
        [1.0, 0.1, 0.01, 0.01]
        """
        if step < 0:
            raise ValueError(f"step: expected at least 0, got {step}")
        step = min(step, self.total_steps - 1)
        if self.kind == "one_cycle":
            return self._one_cycle(step)
        warmup_steps = round(self.warmup * self.total_steps)
        rise = min(1.0, (step + 1) / (warmup_steps + 1))  # no step is lost at a rate of 0
        return rise * self._fall(max(step, warmup_steps), warmup_steps)

    def _fall(self, step: int, warmup_steps: int) -> float:
        """Factor after the warm-up.

        Examples
        --------
        >>> round(Schedule("cosine", total_steps=9)._fall(6, warmup_steps=3), 3)
        0.5
        """
        if self.kind == "constant":
            return 1.0
        if self.kind == "step":
            return STEP_DROP ** sum(step >= milestone for milestone in self.milestones)
        left = 1 - (step - warmup_steps) / max(self.total_steps - warmup_steps, 1)
        return left**POLY_POWER if self.kind == "poly" else _half_cosine(left)

    def _one_cycle(self, step: int) -> float:
        """Factor on the way up to the peak and down again, to 0 at the last step.

        Examples
        --------
        >>> schedule = Schedule("one_cycle", total_steps=5, warmup=0.6)
        >>> [round(schedule._one_cycle(step), 2) for step in range(5)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
        """
        peak = max(self.warmup * self.total_steps - 1, 0.0)
        if step < peak:
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * _half_cosine(step / peak)
        return _half_cosine(1 - (step - peak) / max(self.total_steps - 1 - peak, 1e-9))

    def apply(self, groups: Iterable[dict[str, Any]], step: int) -> None:
        """Set the learning rate of every parameter group for a step.

        Parameters
        ----------
        groups : iterable of dict
            Parameter groups of an optimizer; the peak of each is its `initial_lr`.
        step : int
            Counted from 0.

        Examples
        --------
        >>> groups = [{"initial_lr": 0.5}, {"initial_lr": 0.25}]
        >>> Schedule("constant", total_steps=4, warmup=0.25).apply(groups, step=0)
        >>> [group["lr"] for group in groups]
        [0.25, 0.125]
        """
        for group in groups:
            group["lr"] = group["initial_lr"] * self.factor(step)


def _half_cosine(share: float) -> float:
    """Go from 0 to 1 along half a cosine wave.

    Examples
    --------
    >>> [round(_half_cosine(share), 3) for share in (0, 0.25, 0.5, 1)]
    [0.0, 0.146, 0.5, 1.0]
    """
    return (1 - math.cos(math.pi * share)) / 2
