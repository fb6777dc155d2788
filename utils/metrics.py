"""Metrics with additive state: counts are summed over pieces and ranks, ratios are taken once, at the end.

Averages of classes follow mmsegmentation. A class that occurs neither in the truth nor in the prediction has no IoU
(NaN) and is left out of the means. One that is predicted but never true has IoU, Dice and precision 0, which do
count; its accuracy (recall) is 0 / 0 and left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils import IGNORE_INDEX

BINS = 256  # of probabilities; thresholds are multiples of 1 / 256, which are exact
_VALUES = 256  # of a uint8

ClassMap = np.ndarray | Tensor


def to_numpy(values: ClassMap) -> np.ndarray:
    """View or copy an array or a tensor, wherever it lies, as a numpy array.

    The shape may be any; it stays.

    Examples
    --------
    >>> to_numpy(torch.tensor([[1, 2]], dtype=torch.uint8)).tolist()
    [[1, 2]]
    """
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def nan_to_none(value: Any) -> Any:
    """Replace NaN and infinity by None, at any depth: JSON knows neither.

    Parameters
    ----------
    value : Any
        Nested dictionaries, lists and numbers.

    Returns
    -------
    Any
        The same with None in place of what is not finite.

    Examples
    --------
    >>> nan_to_none({"mIoU": 0.5, "IoU": [0.5, float("nan")]})
    {'mIoU': 0.5, 'IoU': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: nan_to_none(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [nan_to_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide element by element; NaN where there is nothing to divide by.

    Both have one shape, or shapes that broadcast.

    Examples
    --------
    >>> _ratio(np.array([1, 0, 0]), np.array([2, 4, 0])).tolist()
    [0.5, 0.0, nan]
    """
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN when nothing is left.

    `values` may have any shape.

    Examples
    --------
    >>> _mean(np.array([0.5, np.nan, 1.0])), _mean(np.array([np.nan]))
    (0.75, nan)
    """
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if finite.size else math.nan


class AdditiveState:
    """Base of metrics whose counts add up over pieces and ranks.

    Attributes
    ----------
    state : Tensor
        The counts; their shape is that of the metric.
    """

    state: Tensor

    def load_state(self, state: Tensor) -> None:
        """Replace the counts, for instance by their sum over ranks.

        Parameters
        ----------
        state : Tensor, of the shape of `state`
            Counts, on any device.

        Raises
        ------
        ValueError
            If the shape is that of other classes.

        Examples
        --------
        >>> metric = ConfusionMatrix(2)
        >>> metric.load_state(torch.tensor([[3, 0], [0, 1]]))
        >>> metric.compute()["aAcc"]
        1.0
        >>> metric.load_state(torch.zeros(3, 3))
        Traceback (most recent call last):
            ...
        ValueError: ConfusionMatrix: expected a state of shape (2, 2), got (3, 3)
        """
        if state.shape != self.state.shape:
            shapes = f"expected a state of shape {tuple(self.state.shape)}, got {tuple(state.shape)}"
            raise ValueError(f"{type(self).__name__}: {shapes}")
        self.state = state.detach().to(self.state).clone()

    def merge(self, other: AdditiveState) -> None:
        """Add the counts of another metric of the same kind and classes.

        Examples
        --------
        >>> mean, other = RunningMean(), RunningMean()
        >>> mean.update(1.0, 1)
        >>> other.update(9.0, 3)
        >>> mean.merge(other)
        >>> mean.compute()
        2.5
        """
        counts = self.state
        self.load_state(other.state)
        self.state += counts


class ConfusionMatrix(AdditiveState):
    """Count pixels by true and predicted class.

    Parameters
    ----------
    num_classes : int
        K, at most 255.

    Attributes
    ----------
    state : Tensor of int64, shape (K, K)
        Rows are true classes, columns predicted ones. States of pieces and ranks are added.

    Raises
    ------
    ValueError
        If `num_classes` does not fit class maps of bytes.

    References
    ----------
    IoUMetric of mmsegmentation, whose rule for absent classes is kept; see the head of this module.

    Examples
    --------
    >>> metric = ConfusionMatrix(num_classes=3)
    >>> metric.update(np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 0, 255]], np.uint8))
    >>> metric.state.tolist()
    [[2, 1, 0], [0, 0, 0], [0, 0, 0]]
    >>> result = metric.compute()
    >>> round(result["aAcc"], 4), round(result["mIoU"], 4), result["IoU"][1:]
    (0.6667, 0.3333, [0.0, nan])
    """

    def __init__(self, num_classes: int):
        if not 1 <= num_classes < _VALUES:
            raise ValueError(
                f"num_classes: expected 1 to {_VALUES - 1}, because class maps are bytes, got {num_classes}"
            )
        self.num_classes = num_classes
        self.state = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: ClassMap, target: ClassMap) -> None:
        """Add the pixels of one or more class maps.

        Parameters
        ----------
        prediction : array or Tensor of uint8, any shape
            Predicted classes.
        target : array or Tensor of uint8, same shape
            True classes.

        Raises
        ------
        ValueError
            If the shapes or types differ, or a pixel with truth holds a value that is no class.

        Examples
        --------
        >>> metric = ConfusionMatrix(2)
        >>> metric.update(torch.tensor([1, 1], dtype=torch.uint8), torch.tensor([1, 0], dtype=torch.uint8))
        >>> metric.state.tolist()
        [[0, 1], [0, 1]]
        """
        predicted, true = to_numpy(prediction), to_numpy(target)
        if predicted.shape != true.shape or predicted.dtype != np.uint8 or true.dtype != np.uint8:
            raise ValueError(
                "prediction and target must be uint8 and of one shape, got "
                f"{predicted.dtype}{list(predicted.shape)} and {true.dtype}{list(true.shape)}"
            )
        # All pairs of bytes are counted, classes or not: the check then costs 65,536 cells, not every pixel.
        pairs = true.astype(np.uint16).ravel() << np.uint16(8)
        pairs |= predicted.ravel()
        counts = np.bincount(pairs, minlength=_VALUES * _VALUES).reshape(_VALUES, _VALUES)
        self.state += torch.from_numpy(self._counts_of_classes(counts))

    def _counts_of_classes(self, counts: np.ndarray) -> np.ndarray:
        """Cut the counts of all pairs of bytes down to the classes.

        The counts have shape (256, 256), prediction by truth; the result has shape (K, K).

        Raises
        ------
        ValueError
            If a pixel has a value that is neither a class nor `IGNORE_INDEX`.

        Examples
        --------
        >>> counts = np.zeros((256, 256), np.int64)
        >>> counts[1, 0], counts[255, 9] = 3, 5
        >>> ConfusionMatrix(2)._counts_of_classes(counts).tolist()
        [[0, 0], [3, 0]]
        >>> counts[1, 9] = 1
        >>> ConfusionMatrix(2)._counts_of_classes(counts)
        Traceback (most recent call last):
            ...
        ValueError: class maps hold values beyond the 2 classes: [9] in the prediction, [] in the target
        """
        counts[IGNORE_INDEX] = 0
        of_classes = counts[: self.num_classes, : self.num_classes]
        if of_classes.sum() != counts.sum():
            predicted, true = (np.flatnonzero(counts.sum(axis=axis)) for axis in (0, 1))
            raise ValueError(
                f"class maps hold values beyond the {self.num_classes} classes: "
                f"{predicted[predicted >= self.num_classes].tolist()} in the prediction, "
                f"{true[true >= self.num_classes].tolist()} in the target"
            )
        return of_classes

    def compute(self) -> dict[str, Any]:
        """Take the ratios.

        Returns
        -------
        dict
            "aAcc" (share of pixels that are right); "mIoU", "mAcc", "mDice" and "mPrecision" (means over classes,
            without the NaN); and lists over the K classes, "IoU", "Acc" (recall), "Precision", "Dice" and "Support"
            (true pixels). A class or a set without pixels gives NaN.

        Examples
        --------
        >>> metric = ConfusionMatrix(2)
        >>> metric.load_state(torch.tensor([[2, 1], [1, 4]]))
        >>> result = metric.compute()
        >>> result["aAcc"], result["IoU"], result["Acc"][1], result["Support"]
        (0.75, [0.5, 0.6666666666666666], 0.8, [3, 5])
        """
        counts = self.state.numpy()
        hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        classes = {
            "IoU": _ratio(hits, true + predicted - hits),
            "Acc": _ratio(hits, true),
            "Dice": _ratio(2 * hits, true + predicted),
            "Precision": _ratio(hits, predicted),
        }
        result: dict[str, Any] = {"aAcc": float(_ratio(hits.sum(), counts.sum()))}
        result |= {f"m{name}": _mean(values) for name, values in classes.items()}
        result |= {name: values.tolist() for name, values in classes.items()}
        return result | {"Support": true.tolist()}


class RunningMean(AdditiveState):
    """Mean of sums over counts, such as a loss per valid pixel over an epoch.

    Attributes
    ----------
    state : Tensor of float64, shape (2,)
        Sum and count; it follows the values to their device, so that no step waits for an accelerator.

    Examples
    --------
    >>> mean = RunningMean()
    >>> mean.update(torch.tensor(6.0), torch.tensor(4))
    >>> mean.update(1.0, 1)
    >>> mean.compute(), RunningMean().compute()
    (1.4, nan)
    """

    def __init__(self) -> None:
        self.state = torch.zeros(2, dtype=torch.float64)

    def update(self, value_sum: Tensor | float, count: Tensor | float = 1) -> None:
        """Add a sum and what it counts.

        Parameters
        ----------
        value_sum : Tensor of shape () or float
            Sum of values; detached.
        count : Tensor of shape () or float
            How many values it sums.

        Examples
        --------
        >>> mean = RunningMean()
        >>> mean.update(torch.tensor(3.0, requires_grad=True), 2)
        >>> mean.state
        tensor([3., 2.], dtype=torch.float64)
        """
        device = value_sum.device if isinstance(value_sum, Tensor) else self.state.device
        pair = [torch.as_tensor(value).detach().to(device, torch.float64) for value in (value_sum, count)]
        self.state = self.state.to(device) + torch.stack(pair)

    def compute(self) -> float:
        """Divide; NaN when nothing was counted.

        Returns
        -------
        float
            The mean.

        Examples
        --------
        >>> mean = RunningMean()
        >>> mean.update(0.0, 0)
        >>> mean.compute()
        nan
        """
        total, count = self.state.tolist()
        return total / count if count else math.nan


class ScoreHistogram(AdditiveState):
    """Count the probabilities of class 1 by truth, to choose the threshold that serves a metric best.

    Attributes
    ----------
    state : Tensor of int64, shape (2, 256)
        Background and foreground pixels per bin of probability. States of pieces and ranks are added.

    Examples
    --------
    >>> scores = ScoreHistogram()
    >>> scores.update(np.array([0.1, 0.2, 0.25, 0.9]), np.array([0, 0, 1, 1], np.uint8))
    >>> scores.best_threshold()  # the default of 0.5 misses one of the two
    (0.25, 1.0)
    """

    def __init__(self) -> None:
        self.state = torch.zeros(2, BINS, dtype=torch.int64)

    def update(self, probabilities: ClassMap, target: ClassMap) -> None:
        """Add the pixels of one or more maps.

        Parameters
        ----------
        probabilities : array or Tensor, any shape
            Probability of the foreground, 0 to 1.
        target : array or Tensor of uint8, same shape
            True classes.

        Raises
        ------
        ValueError
            If the shapes differ, or a pixel with truth has no probability from 0 to 1.

        Examples
        --------
        >>> scores = ScoreHistogram()
        >>> scores.update(torch.tensor([0.5, 1.0, 0.3]), torch.tensor([0, 1, 255], dtype=torch.uint8))
        >>> scores.state.nonzero().tolist()
        [[0, 128], [1, 255]]
        """
        values, true = to_numpy(probabilities), to_numpy(target)
        if values.shape != true.shape:
            raise ValueError(f"probabilities {values.shape} and target {true.shape} must have one shape")
        valid = true != IGNORE_INDEX
        values, true = values[valid], true[valid]
        if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
            raise ValueError(f"probabilities: expected 0 to 1, got {values.min()} to {values.max()}")
        index = np.minimum((values * BINS).astype(np.int64), BINS - 1) + BINS * (true == 1)
        self.state += torch.from_numpy(np.bincount(index, minlength=2 * BINS).reshape(2, BINS))

    def curve(self) -> np.ndarray:
        """IoU of the foreground at every threshold i / 256, where a pixel is foreground from the threshold upwards.

        Returns
        -------
        ndarray of float64, shape (256,)
            NaN where there is no foreground.

        Examples
        --------
        >>> scores = ScoreHistogram()
        >>> scores.update(np.array([0.2, 0.2, 0.2, 0.7, 0.7]), np.array([0, 0, 0, 0, 1], np.uint8))
        >>> scores.curve()[[0, 128]].tolist()
        [0.2, 0.5]
        """
        # From a bin upwards everything is foreground: false and true positives.
        false, true = self.state.numpy()[:, ::-1].cumsum(axis=1)[:, ::-1]
        return _ratio(true, self.state[1].sum().item() + false)

    def best_threshold(self) -> tuple[float, float]:
        """Threshold with the best IoU; of equal ones, the nearest to 0.5.

        Returns
        -------
        float
            The threshold: a pixel is foreground when its probability reaches it. 0.5 when there is no score.
        float
            Its IoU, or NaN.

        Examples
        --------
        >>> scores = ScoreHistogram()
        >>> scores.update(np.repeat([0.0, 0.25, 0.75], [4, 1, 3]), np.array([0, 0, 0, 0, 1, 0, 1, 1], np.uint8))
        >>> scores.best_threshold(), ScoreHistogram().best_threshold()
        ((0.25, 0.75), (0.5, nan))
        """
        curve = self.curve()
        if np.isnan(curve).all():
            return 0.5, math.nan
        best = np.flatnonzero(curve == np.nanmax(curve)) / BINS
        return float(best[np.abs(best - 0.5).argmin()]), float(np.nanmax(curve))
