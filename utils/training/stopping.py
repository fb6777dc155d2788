"""When a training ends: no gain for long, or steps whose loss or gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from utils.errors import DinolithError, SettingsError


class EarlyStopping:
    """End a training that no longer gets better.

    Parameters
    ----------
    patience : int
        Evaluations without an improvement after which to stop. They are counted once a score is above `chance`: until
        then nothing was found yet, and the training has only started slowly.
    delta : float
        An improvement is more than this. Small gains add up, as they are measured from the last improvement. While no
        score is above `chance`, one that is not below the best is an improvement: of weights that find nothing yet, the
        later ones have learnt more.
    mode : str
        "max" for scores, "min" for losses.

    Attributes
    ----------
    chance : float, optional
        Score that needs no training, such as that of a constant prediction; None: any score but 0 is above it.

    Raises
    ------
    SettingsError
        If the mode is neither.

    Examples
    --------
    >>> stopping = EarlyStopping(patience=2, delta=0.125)
    >>> [stopping.update(value) for value in (0.5, 0.5625, 0.75, float("nan"), 0.75)]
    [True, False, True, False, False]
    >>> stopping.should_stop, stopping.best
    (True, 0.75)
    >>> [stopping.update(value) for stopping in [EarlyStopping(patience=1)] for value in (0.0, 0.0, 0.0, 0.25, 0.25)]
    [True, True, True, True, False]
    >>> stopping = EarlyStopping(delta=0.125)
    >>> stopping.chance = 0.5
    >>> [stopping.update(value) for value in (0.125, 0.1875, 0.125)]  # below chance no gain is too small
    [True, True, False]
    >>> stopping = EarlyStopping(patience=1)
    >>> stopping.chance = 0.25
    >>> [(stopping.update(value), stopping.should_stop) for value in (0.25, 0.125, 0.5, 0.5)]
    [(True, False), (False, False), (True, False), (False, True)]
    """

    def __init__(self, patience: int = 10, delta: float = 0.0, mode: str = "max"):
        if mode not in ("max", "min"):
            raise SettingsError(f"mode: expected max or min, got {mode!r}")
        self.patience = patience
        self.delta = delta
        self.mode = mode
        self.best: float | None = None
        self.chance: float | None = None
        self.waited = 0

    def update(self, value: float) -> bool:
        """Take an evaluation into account.

        Parameters
        ----------
        value : float
            The score or loss; NaN is never an improvement.

        Returns
        -------
        bool
            Whether it is an improvement.

        Examples
        --------
        >>> stopping = EarlyStopping(mode="min")
        >>> stopping.update(0.5), stopping.update(0.25), stopping.update(0.5)
        (True, True, False)
        """
        gain = math.inf if self.best is None else (value - self.best if self.mode == "max" else self.best - value)
        improved = not math.isnan(value) and (gain > self.delta or (gain >= 0 and not self._has_begun()))
        if improved:
            self.best = float(value)
        self.waited = 0 if improved or not self._has_begun() else self.waited + 1
        return improved

    def describe(self, improved: bool) -> str:
        r"""How the last score stands among those until now; none is called the best before one is above chance.

        Examples
        --------
        >>> stopping = EarlyStopping()
        >>> stopping.describe(False)
        'none yet'
        >>> stopping.chance = 0.25
        >>> print(*(stopping.describe(stopping.update(value)) for value in (0.25, 0.125)), sep="\n")
        kept until a score is above 0.2500, that of a constant prediction
        0.2500 is kept until a score is above 0.2500, that of a constant prediction
        >>> [stopping.describe(stopping.update(value)) for value in (0.5, 0.25)]
        ['best', 'best 0.5000']
        """
        if self.best is None:  # a NaN is no score
            return "none yet"
        if self._has_begun():
            return "best" if improved else f"best {self.best:.4f}"
        chance = "0" if self.chance is None else f"{self.chance:.4f}, that of a constant prediction"
        return f"{'kept' if improved else f'{self.best:.4f} is kept'} until a score is above {chance}"

    def _has_begun(self) -> bool:
        """Whether the best score is above chance; a loss always is.

        Examples
        --------
        >>> stopping = EarlyStopping()
        >>> _ = stopping.update(-20.0)  # an error with its sign turned is a score, too
        >>> stopping._has_begun()
        True
        >>> stopping.chance = -10.0
        >>> stopping._has_begun()
        False
        """
        if self.best is None or self.mode == "min":
            return self.best is not None
        return self.best != 0 if self.chance is None else self.best > self.chance

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out.

        Examples
        --------
        >>> EarlyStopping(patience=1).should_stop
        False
        """
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """All state, for `save_training_state`.

        Examples
        --------
        >>> EarlyStopping().state_dict()
        {'best': None, 'waited': 0, 'chance': None}
        """
        return {"best": self.best, "waited": self.waited, "chance": self.chance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; the settings stay those of this run.

        Parameters
        ----------
        state : mapping
            What `state_dict` gave.

        Examples
        --------
        >>> stopping = EarlyStopping(patience=3)
        >>> stopping.load_state_dict({"best": 0.5, "waited": 3})
        >>> stopping.should_stop
        True
        """
        self.best = state["best"]
        self.waited = state["waited"]
        self.chance = state.get("chance")  # not in states of version 1.0


class NonFiniteGuard:
    """Count steps that are skipped as their loss or gradient is not finite, and give up after too many in a row.

    Parameters
    ----------
    limit : int
        Steps in a row that may be skipped.

    Examples
    --------
    >>> guard = NonFiniteGuard(limit=2)
    >>> [guard.update(loss) for loss in (0.5, float("nan"), 0.5, float("inf"))]
    [True, False, True, False]
    >>> guard.update(0.5, gradient_norm=float("inf")), guard.in_a_row, guard.total
    (False, 2, 3)
    """

    def __init__(self, limit: int = 10):
        self.limit = limit
        self.in_a_row = 0
        self.total = 0

    def update(self, loss: float, gradient_norm: float = 0.0) -> bool:
        """Whether to make a step with this loss and gradient.

        Parameters
        ----------
        loss, gradient_norm : float
            Of all ranks, so that all of them decide alike.

        Returns
        -------
        bool
            False: skip this step.

        Raises
        ------
        DinolithError
            After more than `limit` such steps in a row.

        Examples
        --------
        >>> NonFiniteGuard(limit=0).update(float("nan"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DinolithError: the loss was not finite 1 times in a row (1 in all); lower muon_lr and adamw_lr, ...
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.total += 1
        if self.in_a_row > self.limit:
            what = "gradient" if math.isfinite(loss) else "loss"
            raise DinolithError(
                f"the {what} was not finite {self.in_a_row} times in a row ({self.total} in all); lower muon_lr and "
                "adamw_lr, lengthen the warm-up, clip the gradients, or compute in fp32; the last checkpoint is good"
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """All state, for `save_training_state`.

        Examples
        --------
        >>> NonFiniteGuard().state_dict()
        {'in_a_row': 0, 'total': 0}
        """
        return {"in_a_row": self.in_a_row, "total": self.total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Parameters
        ----------
        state : mapping
            What `state_dict` gave.

        Examples
        --------
        >>> guard = NonFiniteGuard()
        >>> guard.load_state_dict({"in_a_row": 1, "total": 4})
        >>> guard.total
        4
        """
        self.in_a_row = state["in_a_row"]
        self.total = state["total"]
