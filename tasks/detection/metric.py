"""Scores of boxes, with tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from tasks.detection.baseline import constant_boxes
from tasks.item import Piece
from tasks.output import Metric
from utils.boxes.coco_scores import STANDARD, coco_arrays, coco_scores
from utils.boxes.crowd_scores import crowd_average_precision, jaccard_index, log_average_miss_rate, rank_detections
from utils.boxes.detections import FoundBoxes, TrueBoxes, match_all
from utils.boxes.plots import plot_precision_recall, plot_thresholds
from utils.boxes.thresholds import best_threshold, count_confusions, plain_confusions, threshold_curves
from utils.report.plots import plot_confusion
from utils.report.tables import format_table, write_csv

COUNTED = (1, 10, STANDARD, 500, 1000)  # detections of a picture and class; those above the setting are left out
CONSTANT_PICTURES = 500  # on which the constant prediction is scored
CROWD = ("crowd_AP", "crowd_MR", "crowd_JI")
TABLE = ("objects", "AP", "AP50", "AP75", "AR_100", *CROWD, "F1", "precision", "recall", "score")


class _Picture(NamedTuple):
    """What was labelled and found in a picture; boxes in single precision.

    Examples
    --------
    >>> _Picture((4, 6), *(np.zeros(0),) * 6).size
    (4, 6)
    """

    size: tuple[int, int]
    true_boxes: np.ndarray
    true_labels: np.ndarray
    is_crowd: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class DetectionMetric(Metric):
    """COCO's average precision and recall, those of crowds, the best thresholds and what is taken for what.

    For 10,000 pictures with 100 detections of 80 objects each the state takes 45 MB; docs/detection.md says how long
    the scores take.

    Parameters
    ----------
    classes : sequence of str
        Names of the K classes.
    max_detections : int
        Most detections of a picture; where it exceeds 100, AP is given at 500, 1000 and this number, too.

    Examples
    --------
    >>> from tasks.item import Item
    >>> metric = DetectionMetric(["fox"])
    >>> found = {"boxes_xyxy": np.array([[0.0, 0, 4, 4]]), "scores": np.array([0.5]), "labels": np.array([0])}
    >>> truth = {"boxes_xyxy": np.array([[0.0, 0, 4, 3]]), "labels": np.array([0]), "is_crowd": np.array([False])}
    >>> metric.update(Piece(Item("a", ()), {**found, "frame": 0, "size": (8, 8)}), truth)
    >>> scores = metric.compute()
    >>> [round(scores[name], 2) for name in ("AP", "AP50", "AP75")], scores["classes"]["fox"]["score"]
    ([0.6, 1.0, 1.0], 0.5)
    """

    def __init__(self, classes: Sequence[str], max_detections: int = STANDARD):
        self.classes = list(classes)
        self.counted = sorted({*(number for number in COUNTED if number <= max(STANDARD, max_detections))})
        if max_detections > STANDARD:
            self.counted = sorted({*self.counted, max_detections})
        self.pictures: dict[str, _Picture] = {}

    @override
    def update(self, piece: Piece, truth: Mapping[str, np.ndarray]) -> None:
        arrays = piece.arrays
        self._add(
            f"{piece.item.id}#{arrays['frame']}",
            _Picture(
                (int(arrays["size"][0]), int(arrays["size"][1])),
                np.asarray(truth["boxes_xyxy"], np.float32).reshape(-1, 4),
                np.asarray(truth["labels"], np.int32),
                np.asarray(truth["is_crowd"], bool),
                np.asarray(arrays["boxes_xyxy"], np.float32).reshape(-1, 4),
                np.asarray(arrays["labels"], np.int32),
                np.asarray(arrays["scores"], np.float64),  # the best threshold must not cut off its own detection
            ),
        )

    def _add(self, name: str, picture: _Picture) -> None:
        """Add a picture, which comes once.

        Raises
        ------
        ValueError
            If it came before, or a number is not finite.

        Examples
        --------
        >>> metric, picture = DetectionMetric(["fox"]), _Picture((4, 6), *(np.zeros(0),) * 6)
        >>> metric._add("a", picture)
        >>> metric._add("a", picture)
        Traceback (most recent call last):
            ...
        ValueError: picture 'a' was scored before; it would count twice
        """
        if name in self.pictures:
            raise ValueError(f"picture {name!r} was scored before; it would count twice")
        if not all(np.isfinite(part).all() for part in (picture.boxes, picture.scores)):
            raise ValueError(f"picture {name!r}: a box or score that was predicted is not finite")
        self.pictures[name] = picture

    @override
    def state(self) -> Any:
        names, pictures = list(self.pictures), list(self.pictures.values())
        columns = {
            field: np.concatenate([getattr(picture, field) for picture in pictures])
            for field in _Picture._fields[1:]
            if pictures
        }
        counts = [[len(picture.true_labels), len(picture.labels)] for picture in pictures]
        return {"names": names, "sizes": [list(picture.size) for picture in pictures], "counts": counts, **columns}

    @override
    def merge(self, state: Any) -> None:
        if not state["names"]:
            return
        ends = np.cumsum(state["counts"], axis=0)[:-1].T
        parts = [np.split(state[name], ends[int(place >= 3)]) for place, name in enumerate(_Picture._fields[1:])]
        for name, size, *arrays in zip(state["names"], state["sizes"], *parts, strict=True):
            self._add(name, _Picture((size[0], size[1]), *arrays))

    def together(self, names: Sequence[str]) -> tuple[TrueBoxes, FoundBoxes]:
        """Objects and detections of some pictures.

        Examples
        --------
        >>> true, found = DetectionMetric(["fox"]).together([])
        >>> true.boxes_xyxy.shape, found.scores.shape
        ((0, 4), (0,))
        """
        if not names:
            return TrueBoxes.empty(), FoundBoxes.empty()
        columns = zip(*(self.pictures[name][1:] for name in names), strict=True)
        true_boxes, true_labels, is_crowd, boxes, labels, scores = (np.concatenate(column) for column in columns)
        counts = ([len(getattr(self.pictures[name], field)) for name in names] for field in ("true_labels", "labels"))
        objects, detections = (np.repeat(np.arange(len(names)), numbers) for numbers in counts)
        return TrueBoxes(objects, true_boxes, true_labels, is_crowd), FoundBoxes(detections, boxes, labels, scores)

    @override
    def compute(self) -> dict[str, Any]:
        names = sorted(self.pictures)  # by name, whatever rank a picture comes from
        true, found = self.together(names)
        arrays = coco_arrays(true, found, len(self.classes), self.counted)
        matches = match_all(true, found)
        rankings = [rank_detections(true, found, matches, label, len(names)) for label in range(len(self.classes))]
        classes = {}
        for label, (name, ranking) in enumerate(zip(self.classes, rankings, strict=True)):
            index, score = jaccard_index(true, found, label)
            crowd = (crowd_average_precision(ranking), log_average_miss_rate(ranking), index)
            classes[name] = {
                **counts_of(true, found, label),
                **coco_scores(arrays, label),
                **dict(zip(CROWD, crowd, strict=True)),
                "crowd_JI_score": score,
                **best_threshold(ranking),
            }
        thresholds = [scores["score"] for scores in classes.values()]
        curves = [threshold_curves(ranking) for ranking in rankings]
        levels = {"50": arrays.precision[0], "75": arrays.precision[5]}
        return {
            **coco_scores(arrays),
            **{name: mean_of([scores[name] for scores in classes.values()]) for name in (*CROWD, "F1")},
            "pictures": len(names),
            **{
                name: sum(scores[name] for scores in classes.values())
                for name in ("objects", "ignore_regions", "detections")
            },
            "most_objects": max((scores["most_objects"] for scores in classes.values()), default=0),
            "classes": classes,
            "precision_at_recalls": {name: of[:, :, 0, -1].T.round(4).tolist() for name, of in levels.items()},
            "thresholds": {
                name: [curve[name].round(4).tolist() for curve in curves] for name in ("F1", "precision", "recall")
            },
            "confusion": plain_confusions(count_confusions(true, found, matches, thresholds)),
        }

    @override
    def constant(self) -> dict[str, Any]:
        names = sorted(self.pictures)
        names = names[:: -(-len(names) // CONSTANT_PICTURES)] if names else []
        true, _ = self.together(names)
        found = constant_boxes(true, [self.pictures[name].size for name in names], len(self.classes))
        return {} if found is None else coco_scores(coco_arrays(true, found, len(self.classes)))


def counts_of(true: TrueBoxes, found: FoundBoxes, label: int) -> dict[str, int]:
    """Count what there is of a class.

    Examples
    --------
    >>> true = TrueBoxes(np.array([0, 0, 1]), np.zeros((3, 4)), np.zeros(3, int), np.array([False, False, True]))
    >>> counts_of(true, FoundBoxes.empty(), 0)
    {'objects': 2, 'most_objects': 2, 'with_objects': 1, 'ignore_regions': 1, 'detections': 0}
    """
    of_class = true.labels == label
    _, numbers = np.unique(true.pictures[of_class & ~true.is_crowd], return_counts=True)
    return {
        "objects": int(numbers.sum()),
        "most_objects": int(numbers.max(initial=0)),
        "with_objects": len(numbers),
        "ignore_regions": int((of_class & true.is_crowd).sum()),
        "detections": int((found.labels == label).sum()),
    }


def mean_of(values: Sequence[float]) -> float:
    """Mean of what is not NaN; NaN when nothing is left.

    Examples
    --------
    >>> mean_of([0.5, float("nan"), 1.0]), mean_of([])
    (0.75, nan)
    """
    finite = [value for value in values if value == value]
    return float(np.mean(finite)) if finite else float("nan")


def report_scores(metrics: dict[str, Any], classes: Sequence[str], folder: Path, log: Any) -> None:
    """Log the scores of all classes and of each; write and plot those of each.

    Parameters
    ----------
    metrics : dict
        What `DetectionMetric.compute` gave.
    classes : sequence of str
        Names of the K classes.
    folder : Path
        Of the table and the plots.
    log : logger
        For people.

    Examples
    --------
    >>> import tempfile
    >>> from utils.logging import VerbosityLogger
    >>> folder = Path(tempfile.mkdtemp())
    >>> report_scores(DetectionMetric(["fox"]).compute(), ["fox"], folder, VerbosityLogger("error"))
    >>> sorted(path.name for path in folder.iterdir())
    ['classes.csv', 'confusion.png', 'precision_recall.png', 'thresholds.png']
    """
    shown = [[name, value] for name, value in metrics.items() if isinstance(value, int | float)]
    rows = [{"class": name, **metrics["classes"][name]} for name in classes]
    cells = [[row["class"], *(row[column] for column in TABLE)] for row in rows]
    tables = [
        format_table(["Score", "Value"], shown, markdown=False),
        format_table(["class", *TABLE], cells, markdown=False),
    ]
    for line in "\n".join(tables).splitlines():
        log.info(line)
    if metrics["most_objects"] > STANDARD:
        log.warning(
            f"evaluate: a picture holds {metrics['most_objects']} objects of one class, and AP counts {STANDARD} "
            "detections of a picture and class; AP@... of more are in the table"
        )
    write_csv(folder / "classes.csv", rows)
    plot_precision_recall(metrics["precision_at_recalls"], metrics["classes"], folder / "precision_recall.png")
    plot_thresholds(metrics["thresholds"], metrics["classes"], folder / "thresholds.png")
    for size, matrix in metrics["confusion"].items():
        if size == "all" or np.sum(matrix):
            name = "confusion.png" if size == "all" else f"confusion_{size}.png"
            plot_confusion(np.array(matrix), [*classes, "background"], folder / name)
