"""What colours alone would score in segmentation: a Gaussian over the bands per class, all classes alike likely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.baselines import ColourBaseline
from tasks.item import Piece
from tasks.sample import Sample
from utils import IGNORE_INDEX as IGNORE

FITTED_PIXELS = 500  # of a class in a sample
SCORED_PIXELS = 20_000  # of a sample
NOISE = 1.0  # variance that is added to every band, in squared 8-bit steps: that of rounding, and no class is a point


class ClassColours(ColourBaseline):
    """Mean and covariance of the bands of each class; a pixel gets the class under which it is most likely.

    Parameters
    ----------
    num_classes : int
        K.

    Examples
    --------
    >>> from tasks.item import Item
    >>> image = np.array([[[10, 20], [12, 21], [200, 90], [202, 80]]], np.uint8)
    >>> arrays = {"image": image, "label": np.array([[0, 0, 1, 1]], np.uint8)}
    >>> colours, sample = ClassColours(3), Sample("a", Item("a", ()), arrays)
    >>> fitted = colours.fit([sample])
    >>> fitted["classes"], fitted["means"]
    ([0, 1], [[11.0, 20.5], [201.0, 85.0]])
    >>> [piece.arrays["classes"].tolist() for piece, truth in colours.predict(fitted, sample)]
    [[0, 0, 1, 1]]
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    @override
    def fit(self, samples: Iterable[Sample]) -> dict[str, Any] | None:
        found: dict[int, list[np.ndarray]] = {}
        for sample in samples:
            pixels, label = _pixels(sample)
            for index in np.unique(label):
                found.setdefault(int(index), []).append(_evenly(pixels[label == index], FITTED_PIXELS))
        if not found:
            return None
        classes = sorted(found)
        colours = [np.concatenate(found[index]).astype(np.float64) for index in classes]
        noise = NOISE * np.eye(colours[0].shape[1])
        return {
            "classes": classes,
            "means": [part.mean(axis=0).tolist() for part in colours],
            "covariances": [(np.cov(part.T, bias=True).reshape(noise.shape) + noise).tolist() for part in colours],
        }

    @override
    def predict(self, fitted: Mapping[str, Any], sample: Sample) -> Iterator[tuple[Piece, Any]]:
        pixels, truth = (_evenly(part, SCORED_PIXELS) for part in _pixels(sample))
        if not len(truth):
            return
        scores = np.full((len(truth), self.num_classes), -np.inf)
        for index, mean, covariance in zip(fitted["classes"], fitted["means"], fitted["covariances"], strict=True):
            away = pixels.astype(np.float64) - mean
            distance = np.einsum("nc,cd,nd->n", away, np.linalg.inv(covariance), away)
            scores[:, index] = -0.5 * (distance + np.linalg.slogdet(covariance)[1])
        arrays: dict[str, Any] = {"classes": scores.argmax(axis=1).astype(np.uint8)}
        if self.num_classes == 2:  # the probability that the metric of two classes wants
            with np.errstate(invalid="ignore", over="ignore"):
                arrays["foreground"] = np.nan_to_num(1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))).astype(np.float32)
        yield Piece(sample.item, arrays), truth


def _pixels(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Labelled pixels (N, C) of a sample and their classes (N,).

    Examples
    --------
    >>> from tasks.item import Item
    >>> arrays = {"image": np.zeros((2, 2, 3), np.uint8), "label": np.array([[0, 255], [255, 1]], np.uint8)}
    >>> _pixels(Sample("a", Item("a", ()), arrays))[1].tolist()
    [0, 1]
    """
    label = sample.arrays["label"]
    return sample.arrays["image"][label != IGNORE], label[label != IGNORE]


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of N rows, evenly spread.

    Examples
    --------
    >>> _evenly(np.arange(10), 5).tolist()
    [0, 2, 4, 6, 8]
    """
    return rows[:: -(-len(rows) // most)] if len(rows) > most else rows
