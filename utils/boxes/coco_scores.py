"""Average precision and recall of boxes as COCO defines them, for any number of detections per picture.

An object is small below 32^2 and large above 96^2 square pixels of its box; COCO's own figures take the area of its
mask. Means leave out classes without an object. An ignore region counts for detections of its class only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from utils.boxes.detections import FoundBoxes, TrueBoxes
from utils.boxes.geometry import areas, xyxy_to_xywh
from utils.errors import SettingsError

STANDARD = 100  # detections per picture and class that COCO counts
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
SIZES = ("all", "small", "medium", "large")
_TOGETHER = 500  # pictures that are matched at a time: as the library has them, 10,000 would take 4 GB


class CocoArrays(NamedTuple):
    """What scores are taken from; NaN where a class has no object.

    Parameters
    ----------
    precision : ndarray, shape (10, 101, K, 4, M)
        Over IoUs of .5 to .95, recalls of 0 to 1, classes, `SIZES` and numbers of detections.
    recall : ndarray, shape (10, K, 4, M)
        The largest that is reached.
    max_detections : tuple of int
        The M numbers of detections per picture and class, ascending.

    Examples
    --------
    >>> arrays = CocoArrays(np.full((10, 101, 1, 4, 1), 0.5), np.full((10, 1, 4, 1), 0.25), (100,))
    >>> arrays.average_precision(), arrays.average_recall(size="small")
    (0.5, 0.25)
    """

    precision: np.ndarray
    recall: np.ndarray
    max_detections: tuple[int, ...]

    def average_precision(
        self, iou: float | None = None, size: str = "all", most: int = STANDARD, label: int | None = None
    ) -> float:
        """Mean precision over recalls, classes and IoUs, or at one IoU or of one class; NaN where there is no object.

        Examples
        --------
        >>> precision = np.full((10, 101, 2, 4, 1), np.nan)
        >>> precision[0, :, 1] = 0.75
        >>> arrays = CocoArrays(precision, np.zeros((10, 2, 4, 1)), (100,))
        >>> arrays.average_precision(0.5), arrays.average_precision(0.5, label=0)
        (0.75, nan)
        """
        values = self.precision[:, :, :, SIZES.index(size), self.max_detections.index(most)]
        values = values if iou is None else values[[int(np.abs(IOUS - iou).argmin())]]
        return _mean(values if label is None else values[:, :, label])

    def average_recall(self, size: str = "all", most: int = STANDARD, label: int | None = None) -> float:
        """Mean of the largest recalls over classes and IoUs, or of one class; NaN where there is no object.

        Examples
        --------
        >>> arrays = CocoArrays(np.zeros((10, 101, 1, 4, 2)), np.full((10, 1, 4, 2), [0.25, 0.5]), (1, 100))
        >>> arrays.average_recall(most=1), arrays.average_recall()
        (0.25, 0.5)
        """
        values = self.recall[:, :, SIZES.index(size), self.max_detections.index(most)]
        return _mean(values if label is None else values[:, label])


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN, any shape; NaN when nothing is left.

    Examples
    --------
    >>> _mean(np.array([0.5, np.nan, 1.0])), _mean(np.array([np.nan]))
    (0.75, nan)
    """
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if finite.size else math.nan


def coco_arrays(
    true: TrueBoxes, found: FoundBoxes, num_classes: int, max_detections: Sequence[int] = (1, 10, STANDARD)
) -> CocoArrays:
    """Match detections with objects and take precision and recall, class by class.

    Parameters
    ----------
    true, found : TrueBoxes, FoundBoxes
        Objects and detections of the same pictures. Of detections of equal score the one that comes first is surer.
    num_classes : int
        K.
    max_detections : sequence of int
        Numbers of detections per picture and class to count, the surest ones.

    Returns
    -------
    CocoArrays
        Equal to those of pycocotools.

    Raises
    ------
    SettingsError
        If the package faster-coco-eval is not installed.

    References
    ----------
    Detection evaluation of COCO, cocodataset.org/#detection-eval, through faster-coco-eval.

    Examples
    --------
    >>> true = TrueBoxes(np.array([0]), np.array([[0.0, 0, 40, 40]]), np.array([1]), np.array([False]))
    >>> found = FoundBoxes(np.array([0, 0]), np.array([[0.0, 0, 40, 36]] * 2), np.ones(2, int), np.array([0.5, 0.75]))
    >>> arrays = coco_arrays(true, found, num_classes=2)
    >>> arrays.average_precision(0.5), round(arrays.average_recall(), 3), arrays.average_precision(size="large")
    (1.0, 0.9, nan)
    """
    counted = tuple(sorted(set(max_detections)))
    shape = (len(IOUS), len(RECALLS), num_classes, len(SIZES), len(counted))
    precision, recall = np.full(shape, np.nan), np.full((shape[0], *shape[2:]), np.nan)
    for label in range(num_classes):
        of_class = true.take(true.rows(label))
        if not of_class.is_crowd.all():
            precision[:, :, label], recall[:, label] = _of_class(of_class, found.take(found.rows(label)), counted)
    return CocoArrays(precision, recall, counted)


def _of_class(true: TrueBoxes, found: FoundBoxes, counted: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Precision (10, 101, 4, M) and recall (10, 4, M) of a class with at least one object.

    Pictures are independent until their matches are put together, so that few of them at a time are as the library
    has them: a dictionary for each box.

    Raises
    ------
    SettingsError
        If the package is missing.

    Examples
    --------
    >>> true = TrueBoxes(np.array([0]), np.array([[0.0, 0, 9, 9]]), np.array([0]), np.array([False]))
    >>> precision, recall = _of_class(true, FoundBoxes.empty(), (1, 100))
    >>> precision.shape, recall[0].tolist()
    ((10, 101, 4, 2), [[0.0, 0.0], [0.0, 0.0], [nan, nan], [nan, nan]])
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise SettingsError("AP: the package faster-coco-eval is missing; pip install -r requirements.txt") from None
    pictures, kept = np.union1d(true.pictures, found.pictures), _surest(found, counted[-1])
    matched: list[list[Any]] = [[] for _ in SIZES]
    for start in range(0, len(pictures), _TOGETHER):
        chunk = pictures[start : start + _TOGETHER]
        objects, detections = true.take(_rows_of(true.pictures, chunk)), kept.take(_rows_of(kept.pictures, chunk))
        sets = [
            COCO(_coco_set(chunk, objects, "iscrowd", objects.is_crowd.astype(int))),
            COCO(_coco_set(chunk, detections, "score", detections.scores.astype(np.float64))),
        ]
        evaluation = COCOeval_faster(*sets, "bbox", separate_eval=True)
        evaluation.params.maxDets = list(counted)
        evaluation.evaluate()
        for place, of_size in enumerate(matched):
            of_size += evaluation._evalImgs_cpp[place * len(chunk) : (place + 1) * len(chunk)]
    evaluation._paramsEval.imgIds, evaluation._evalImgs_cpp = pictures.tolist(), [*chain(*matched)]
    evaluation.accumulate()
    arrays = (np.asarray(evaluation.eval[name], np.float64) for name in ("precision", "recall"))
    precision, recall = (np.where(array < 0, np.nan, array) for array in arrays)  # -1 stands for no object
    return precision[:, :, 0], recall[:, 0]


def _rows_of(of_rows: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Rows of some neighbouring pictures; the pictures of all rows (N,) and those asked for (P,) ascend.

    Examples
    --------
    >>> _rows_of(np.array([0, 2, 2, 5]), np.array([1, 2])).tolist()
    [1, 2]
    """
    return np.arange(np.searchsorted(of_rows, pictures[0]), np.searchsorted(of_rows, pictures[-1], side="right"))


def _surest(found: FoundBoxes, most: int) -> FoundBoxes:
    """The surest detections of each picture; more are never counted.

    Examples
    --------
    >>> found = FoundBoxes(np.array([0, 0, 0, 1]), np.zeros((4, 4)), np.zeros(4, int), np.array([0.1, 0.3, 0.2, 0.1]))
    >>> _surest(found, 2).scores.tolist()
    [0.3, 0.2, 0.1]
    """
    order = np.lexsort((np.arange(len(found.scores)), -found.scores, found.pictures))
    ranks = np.arange(len(order)) - np.searchsorted(found.pictures[order], found.pictures[order])
    return found.take(np.sort(order[ranks < most]))


def _coco_set(pictures: np.ndarray, boxes: TrueBoxes | FoundBoxes, field: str, values: np.ndarray) -> dict[str, Any]:
    """Boxes of one class as COCO has them, numbered from 1, with one more field; pictures (P,), values (N,).

    Examples
    --------
    >>> found = FoundBoxes(np.array([4]), np.array([[1.0, 2, 4, 6]]), np.zeros(1, int), np.array([0.5]))
    >>> _coco_set(np.array([4]), found, "score", found.scores)["annotations"]
    [{'id': 1, 'image_id': 4, 'category_id': 1, 'bbox': [1.0, 2.0, 3.0, 4.0], 'area': 12.0, 'iscrowd': 0, 'score': 0.5}]
    """
    places = boxes.boxes_xyxy.astype(np.float64)
    columns = (boxes.pictures.tolist(), xyxy_to_xywh(places).tolist(), areas(places).tolist(), values.tolist())
    return {
        "images": [{"id": picture} for picture in pictures.tolist()],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"id": number, "image_id": picture, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0, field: value}
            for number, (picture, box, area, value) in enumerate(zip(*columns, strict=True), start=1)
        ],
    }


def coco_scores(arrays: CocoArrays, label: int | None = None) -> dict[str, float]:
    """Name the scores of all classes, or of one.

    Parameters
    ----------
    arrays : CocoArrays
        Of at least 1, 10 and 100 detections.
    label : int, optional
        One class.

    Returns
    -------
    dict of str to float
        "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_small", "AR_medium" and "AR_large" count 100
        detections per picture and class, as everybody does; the same at another number M, if larger, as "AP@M" and so
        on; "AR_M" for every M. NaN where there is no object.

    Examples
    --------
    >>> arrays = CocoArrays(np.full((10, 101, 1, 4, 4), 0.5), np.full((10, 1, 4, 4), 0.25), (1, 10, 100, 300))
    >>> list(coco_scores(arrays))[:9]
    ['AP', 'AP50', 'AP75', 'AP_small', 'AP_medium', 'AP_large', 'AR_1', 'AR_10', 'AR_100']
    >>> list(coco_scores(arrays))[13:]
    ['AP@300', 'AP50@300', 'AP75@300', 'AP_small@300', 'AP_medium@300', 'AP_large@300']
    """
    scores: dict[str, float] = {}
    for most in [STANDARD, *(number for number in arrays.max_detections if number > STANDARD)]:
        at = "" if most == STANDARD else f"@{most}"
        precisions = {"AP": (None, "all"), "AP50": (0.5, "all"), "AP75": (0.75, "all")}
        precisions |= {f"AP_{size}": (None, size) for size in SIZES[1:]}
        for name, (iou, size) in precisions.items():
            scores[name + at] = arrays.average_precision(iou, size, most, label)
        if most == STANDARD:
            recalls = {f"AR_{number}": ("all", number) for number in arrays.max_detections}
            recalls |= {f"AR_{size}": (size, STANDARD) for size in SIZES[1:]}
            for name, (size, number) in recalls.items():
                scores[name] = arrays.average_recall(size, number, label)
    return scores
