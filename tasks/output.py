"""The output of a task: scores, pictures, prediction files and exported files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import nn

from tasks.context import Context
from tasks.item import Item, Piece
from tasks.sample import Sample
from utils.report.plots import show_colours

if TYPE_CHECKING:
    from tasks.baselines import ColourBaseline
    from tasks.belief import Support
    from utils.logging import VerbosityLogger
    from utils.runtime.checkpoints import Checkpoint

CLASSES_SHOWN = 20  # in a line of the log


def name_scores(table: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Turn a table of scores by class into one row; counts, lists and what is not known are left out.

    Examples
    --------
    >>> name_scores({"cat": {"AP": 0.5, "boxes": 3}, "dog": {"AP": None}})
    {'AP/cat': 0.5}
    """
    return {
        f"{score}/{name}": value
        for name, scores in table.items()
        for score, value in scores.items()
        if isinstance(value, float)
    }


class Metric(ABC):
    """A score with mergeable state: counted on each rank, merged once, divided last."""

    @abstractmethod
    def update(self, piece: Piece, truth: Any) -> None:
        """Count one piece against its truth."""

    @abstractmethod
    def state(self) -> Any:
        """Give the counts: arrays, tensors, numbers and text, in lists and dictionaries with text keys."""

    @abstractmethod
    def merge(self, state: Any) -> None:
        """Add another rank's counts."""

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """Give the scores: numbers by name, and nested dictionaries for tables."""

    def constant(self) -> dict[str, Any]:
        """Give the scores that the best constant prediction would have had; empty where there is none."""
        return {}


class Sink(ABC):
    """Writes a prediction: complete or absent."""

    @abstractmethod
    def append(self, piece: Piece) -> None:
        """Take the next piece."""

    def resume_point(self) -> int | None:
        """Say where an interrupted prediction goes on; None: at the start."""
        return None

    def rewind(self, point: int) -> None:
        """Drop what was written from a resume point on; the predictor's saved state is older than it."""
        if (self.resume_point() or 0) > point:
            raise NotImplementedError(f"{type(self).__name__} cannot go back to {point}, as a predictor's state needs")

    def flush(self) -> None:  # noqa: B027 - most sinks write at once
        """Make what was appended durable."""

    def names(self) -> list[str]:
        """Give the names of all files that the output is made with, temporary ones too: a disk may not take them."""
        return []

    @abstractmethod
    def close(self) -> list[Path]:
        """Finish the output and give its files; called once, after all ranks have flushed."""

    def faults(self) -> list[str]:
        """Say what is wrong with a finished output as far as it shows; told in the log and kept in the record."""
        return []


class Output(ABC):
    """Turns pieces of predictions into scores and files; `class_score` is the score of a class that the log shows."""

    class_score: ClassVar[str] = ""

    @abstractmethod
    def metric(self, phase: str = "train") -> Metric:
        """Give an empty metric; in the phase `evaluate` it may score more than validation in training does."""

    def baseline(self) -> ColourBaseline | None:
        """Give what predicts from colours alone, to compare scores with; None where that says nothing."""
        return None

    def support(self, metrics: dict[str, Any]) -> Support | None:
        """Give what scores were counted on, and doubts that follow from them; None where that is not known."""
        return None

    def scores_by_class(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Give the scores of each class, keypoint or block of what the metric computed, named as `IoU/water`."""
        return name_scores(metrics.get("classes", {}))

    def describe_classes(self, metrics: Mapping[str, Any]) -> str:
        """Give the main score of each class in one line, the worst first; empty where there are fewer than two.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scores = {"dark": {"IoU": 0.75, "Acc": 0.5}, "light": {"IoU": 0.5, "Acc": 1.0}}
        >>> scene_task().output.describe_classes({"per_class": scores})
        'IoU: light 0.5000, dark 0.7500'
        """
        start = f"{self.class_score}/"
        named = self.scores_by_class(metrics).items()
        found = {name.removeprefix(start): value for name, value in named if name.startswith(start)}
        worst = sorted(found, key=lambda name: found[name])[:CLASSES_SHOWN]
        more = f" and {len(found) - len(worst)} better ones" if len(found) > len(worst) else ""
        return f"{self.class_score}: {', '.join(f'{name} {found[name]:.4f}' for name in worst)}{more}" if found else ""

    def score_grid(self) -> dict[str, Any] | None:
        """Say which pixels are scored, by `scale` and in words, `pixels`; None where scores do not count pixels."""
        return None

    def extra_metrics_key(self) -> dict[str, Any]:
        """Give everything that `extra_metrics` depends on, for the fingerprint of an evaluation."""
        return {}

    def extra_metrics(self, model: nn.Module | None, context: Context) -> dict[str, Any]:
        """Give scores that need more than predictions and labels; called on all ranks."""
        return {}

    def report(self, metrics: dict[str, Any], folder: Path, log: VerbosityLogger) -> None:
        """Log the scores and write tables and plots of them."""
        for name, value in metrics.items():
            if isinstance(value, float):
                log.info(f"{name} {value:.4f}")

    def take_scores(self, metrics: dict[str, Any]) -> None:  # noqa: B027 - most pictures need no scores
        """Learn the scores before pictures are drawn; called on all ranks."""

    def shows(self, piece: Piece, kept: int) -> bool:
        """Whether `draw` needs a piece beside those that are kept of its item."""
        return kept == 0

    def draw(self, item: Item, pieces: Iterable[Piece]) -> np.ndarray | None:
        """Draw pieces beside their picture and label, (H, W, 3) uint8."""
        return None

    def draw_sample(self, sample: Sample) -> np.ndarray:
        """Draw a training sample with its labels, (H, W, 3) uint8."""
        return show_colours(sample.arrays["image"])

    def sample_legend(self) -> list[tuple[str, Sequence[int]]]:
        """Give the names and colours of what `draw_sample` draws."""
        return []

    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        """Give the writer of the predictions of an item.

        Raises
        ------
        TypeError
            If the task writes no predictions.
        """
        raise TypeError(f"{type(self).__name__} writes no predictions")

    def write_summary(self, items: Sequence[Item], folder: Path) -> list[Path]:
        """Write files about all predictions together; gives their paths."""
        return []

    def export(self, model: nn.Module | None, folder: Path, checkpoint: Checkpoint | None) -> list[Path]:
        """Write the exported files; gives their paths.

        Raises
        ------
        TypeError
            If the task exports nothing.
        """
        raise TypeError(f"{type(self).__name__} exports nothing")
