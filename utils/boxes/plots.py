"""Plots of box scores: precision over recall, and over the score from which on detections count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.boxes.thresholds import STEPS
from utils.report.colours import class_palette
from utils.report.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CURVES = 20  # classes with most objects; more curves are not told apart
_DASHES = ("-", "--", ":")  # classes of one colour differ by their line, and in print all do


def _shown(classes: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Places of the classes that are drawn: those with most objects, and none without.

    Examples
    --------
    >>> _shown({"fox": {"objects": 2}, "hen": {"objects": 0}, "man": {"objects": 5}})
    [2, 0]
    """
    numbers = [scores["objects"] for scores in classes.values()]
    order = sorted(range(len(numbers)), key=lambda place: -numbers[place])
    return [place for place in order[:_MOST_CURVES] if numbers[place]]


def _draw_classes(axes: Axes, x: np.ndarray, curves: Sequence[Any], labels: Mapping[int, str]) -> None:
    """Draw the curves of some classes over x (N,), each (N,) and with None or NaN where it is not known.

    Examples
    --------
    >>> axes = new_figure(3, 2).subplots()
    >>> _draw_classes(axes, np.array([0.0, 1.0]), [[1.0, None], [0.5, 0.5]], {1: "man"})
    >>> [(line.get_label(), line.get_ydata().tolist()) for line in axes.lines]
    [('man', [0.5, 0.5])]
    """
    palette = class_palette(8) / 255
    for number, (place, label) in enumerate(labels.items()):
        line = _DASHES[number // len(palette) % len(_DASHES)]
        values = np.array(curves[place], np.float64)
        axes.plot(x, values, line, label=label, color=tuple(palette[number % len(palette)]), linewidth=1.4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)


def _title(count: int, of: int) -> str:
    """Say that not all classes are drawn.

    Examples
    --------
    >>> _title(20, 80), _title(2, 2)
    (' (the 20 classes with most objects)', '')
    """
    return f" (the {count} classes with most objects)" if count == _MOST_CURVES < of else ""


def plot_precision_recall(
    precision: Mapping[str, Sequence[Any]], classes: Mapping[str, Mapping[str, Any]], path: str | Path
) -> None:
    """Plot precision over recall of each class, at IoUs of .50 and .75.

    Parameters
    ----------
    precision : mapping of str to array, shape (K, 101)
        By "50" and "75": the largest precision at recalls of 0 to 1 or beyond.
    classes : mapping
        "objects", "AP50" and "AP75" of each class, by name.
    path : str or Path
        The picture.

    Examples
    --------
    >>> import cv2, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "precision_recall.png"
    >>> scores = {"fox": {"objects": 3, "AP50": 0.5, "AP75": 0.25}}
    >>> plot_precision_recall({"50": [[0.5] * 101], "75": [[0.25] * 101]}, scores, path)
    >>> cv2.imread(str(path)).shape
    (450, 1100, 3)
    """
    names, shown = list(classes), _shown(classes)
    figure = new_figure(11, 4.5)
    for axes, level in zip(figure.subplots(1, 2), ("50", "75"), strict=True):
        labels = {place: f"{names[place]} (AP {classes[names[place]][f'AP{level}']:.3f})" for place in shown}
        _draw_classes(axes, np.linspace(0, 1, 101), precision[level], labels)
        axes.set_title(f"IoU .{level}{_title(len(shown), len(names))}", fontsize=10)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        if shown:
            axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, path)


def plot_thresholds(
    curves: Mapping[str, Sequence[Any]], classes: Mapping[str, Mapping[str, Any]], path: str | Path
) -> None:
    """Plot F1, precision and recall of each class over the score from which on detections count, and the best score.

    Parameters
    ----------
    curves : mapping of str to array, shape (K, 101)
        "F1", "precision" and "recall" at scores of 0 to 1.
    classes : mapping
        "objects", "score" and "F1" of each class, by name.
    path : str or Path
        The picture.

    Examples
    --------
    >>> import cv2, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "thresholds.png"
    >>> flat = [[0.5] * 101]
    >>> scores = {"fox": {"objects": 3, "score": 0.25, "F1": 0.5}}
    >>> plot_thresholds({"F1": flat, "precision": flat, "recall": flat}, scores, path)
    >>> cv2.imread(str(path)).shape
    (450, 1500, 3)
    """
    names, shown = list(classes), _shown(classes)
    figure = new_figure(15, 4.5)
    for axes, title in zip(figure.subplots(1, 3), ("F1", "precision", "recall"), strict=True):
        labels = {place: f"{names[place]} (best from {classes[names[place]]['score']:.2f} on)" for place in shown}
        _draw_classes(axes, STEPS, curves[title], labels)
        if title == "F1":
            for line, place in zip(axes.lines[:], shown, strict=True):
                scores = classes[names[place]]
                axes.plot([scores["score"]], [scores["F1"]], "o", color=line.get_color(), markersize=5)
        axes.set_title(f"{title} at IoU .50{_title(len(shown), len(names))}", fontsize=10)
        axes.set_xlabel("score from which on detections count")
    if shown:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, path)
