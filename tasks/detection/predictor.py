"""From the candidates of samples to boxes in pixels of their pictures, each object once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from typing_extensions import override

from tasks.detection.rasters import RasterItem, RasterPieces
from tasks.detection.settings import DetectionConfig
from tasks.detection.views import content_of
from tasks.item import Item, Piece
from tasks.predictor import Predictor
from tasks.sample import Sample
from utils.boxes.geometry import areas, clip_boxes, intersections
from utils.boxes.suppression import merge_candidates
from utils.geometry.crops import move_boxes
from utils.raster.tiling import Window

LOOKED_AT = 1000  # best candidates of a sample, at least: boxes of one object become one of them
AT_EDGE = 2.0  # pixels of a sample from an inner edge of a window up to which a box may have been cut off there
COVERED = 0.7  # share of such a box inside another one of its class from which it is a part of that


class Candidates(NamedTuple):
    """What was found in a picture; rows correspond.

    Parameters
    ----------
    boxes_xyxy : ndarray, shape (N, 4)
        In pixels of the picture.
    scores : ndarray, shape (N,)
        In 0..1.
    labels : ndarray of int64, shape (N,)
        Classes.
    is_cut : ndarray of bool, shape (N,)
        Whether the box ends at an inner edge of a window, so that it may be a part of an object.

    Examples
    --------
    >>> Candidates(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros(0, bool)).scores.shape
    (0,)
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    is_cut: np.ndarray


def best_candidates(
    boxes_xyxy: Tensor, scores: Tensor, min_score: float, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (M, 4), scores (M,) and classes (M,) of the `most` best pairs of a box (N, 4) and a class; scores (N, K).

    Examples
    --------
    >>> import torch
    >>> boxes, scores = torch.eye(2, 4), torch.tensor([[0.25, 0.5], [0.0, 0.75]])
    >>> [part.tolist() for part in best_candidates(boxes, scores, min_score=0.25, most=9)]
    [[[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], [0.75, 0.5, 0.25], [1, 1, 0]]
    """
    flat = scores.float().cpu().flatten()
    best = flat.topk(min(most, len(flat)))
    chosen = best.indices[best.values >= min_score]
    rows, labels = chosen // scores.shape[1], chosen % scores.shape[1]
    boxes = boxes_xyxy.float().cpu()[rows].double()
    return boxes.numpy(), flat[chosen].double().numpy(), labels.numpy()


def cut_off(boxes_xyxy: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Cut boxes (N, 4) off at the edges of a window (4,).

    Examples
    --------
    >>> cut_off(np.array([[0.0, 2, 9, 4]]), np.array([1.0, 0, 5, 3])).tolist()
    [[1.0, 2.0, 5.0, 3.0]]
    """
    return np.clip(boxes_xyxy, np.tile(window[:2], 2), np.tile(window[2:], 2))


def drop_parts(found: Candidates) -> Candidates:
    """Leave out boxes that a window cut off and that lie in a whole box of their class.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 8, 8], [0, 0, 8, 4], [0, 0, 4, 8]])
    >>> found = Candidates(boxes, np.array([0.5, 0.75, 0.25]), np.array([0, 0, 1]), np.array([False, True, True]))
    >>> drop_parts(found).scores.tolist()
    [0.5, 0.25]
    """
    whole = ~found.is_cut
    shared = intersections(found.boxes_xyxy[:, None], found.boxes_xyxy[None, whole])
    shares = shared / np.maximum(areas(found.boxes_xyxy), 1e-9)[:, None]
    same = found.labels[:, None] == found.labels[None, whole]
    is_part = found.is_cut & ((shares > COVERED) & same).any(axis=1)
    return Candidates(*(part[~is_part] for part in found))


class DetectionPredictor(Predictor):
    """Collects the candidates of all samples of a picture or frame, and merges them once.

    Parameters
    ----------
    settings : DetectionConfig
        Scores and suppression.
    merges : bool
        Whether the head may give an object several times in one sample.
    samples : int
        Samples of a picture in all views; with a single one and a head that gives each object once, all boxes stay.

    Examples
    --------
    >>> import torch
    >>> predictor = DetectionPredictor(DetectionConfig(), merges=True, samples=1)
    >>> predictor.start(Item("a", ()))
    >>> arrays = {"matrix": np.diag([2.0, 2.0, 1.0]), "part": np.array(0), "picture": np.array([0, 8, 8])}
    >>> arrays["image"] = np.zeros((16, 16, 3), np.uint8)
    >>> outputs = {"boxes_xyxy": torch.tensor([[[2.0, 2, 8, 8], [2, 2, 8, 9]]]), "scores": torch.full((1, 2, 1), 0.5)}
    >>> list(predictor.push([Sample("a", Item("a", ()), arrays)], outputs))
    []
    >>> [piece] = predictor.finish()
    >>> piece.arrays["boxes_xyxy"].tolist(), piece.arrays["scores"].tolist(), piece.arrays["frame"]
    ([[1.0, 1.0, 4.0, 4.0]], [0.5], 0)
    """

    def __init__(self, settings: DetectionConfig, merges: bool, samples: int):
        self.settings = settings
        self.most = max(LOOKED_AT, settings.max_detections)  # of a sample
        self.method = settings.suppression if merges or samples > 1 else "none"

    @override
    def start(self, item: Item, resume: int | None = None) -> None:
        self.item = item
        self.picture: tuple[int, ...] | None = None  # frame, height and width
        self.window: Window | None = None
        self.raster: RasterPieces | None = None
        if isinstance(item, RasterItem):
            edge = AT_EDGE * item.tile / self.settings.shortest_edge
            self.raster = RasterPieces(item, self.settings.iou, edge)
        self.found: list[Candidates] = []

    @override
    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        if outputs is None:
            return
        for sample, boxes, scores in zip(samples, outputs["boxes_xyxy"], outputs["scores"], strict=True):
            picture = tuple(int(value) for value in sample.arrays["picture"])
            if (self.picture, self.window) not in ((None, None), (picture, sample.window)):
                yield from self._pieces()
            self.picture, self.window = picture, sample.window
            self.found.append(self._candidates(sample, boxes, scores))

    def _candidates(self, sample: Sample, boxes: Tensor, scores: Tensor) -> Candidates:
        """The best candidates of a sample, from boxes (N, 4) in its pixels and scores (N, K).

        Examples
        --------
        >>> predictor = DetectionPredictor(DetectionConfig(), merges=True, samples=5)
        >>> matrix = np.array([[2.0, 0, -8], [0, 2, 0], [0, 0, 1]])  # the right half of a picture of 8 x 8
        >>> arrays = {"matrix": matrix, "part": np.array(2), "picture": np.array([0, 8, 8])}
        >>> arrays["image"] = np.zeros((8, 8, 3), np.uint8)
        >>> import torch
        >>> boxes = torch.tensor([[-3.0, 2, 4, 4], [5, -2, 8, 2]])
        >>> found = predictor._candidates(Sample("a", Item("a", ()), arrays), boxes, torch.tensor([[0.75], [0.5]]))
        >>> found.boxes_xyxy.tolist(), found.is_cut.tolist()
        ([[4.0, 1.0, 6.0, 2.0], [6.5, 0.0, 8.0, 1.0]], [True, False])
        """
        found, marks, labels = best_candidates(boxes, scores, self.settings.min_score, self.most)
        _, height, width = (int(value) for value in sample.arrays["picture"])
        back = np.linalg.inv(sample.arrays["matrix"])
        window = clip_boxes(move_boxes(content_of(sample), back), (height, width))
        inside = cut_off(move_boxes(found, back), window)
        near = AT_EDGE * np.sqrt(abs(np.linalg.det(back[:2, :2])))
        inner = np.abs(window - (0, 0, width, height)) > near  # edges of the window inside the picture
        is_cut = ((np.abs(inside - window) <= near) & inner).any(axis=1)
        seen = areas(inside) > 0
        if int(sample.arrays["part"]):  # the whole picture shows it better
            seen &= areas(inside) <= self.settings.window_largest**2 * areas(window)
        return Candidates(inside[seen], marks[seen], labels[seen], is_cut[seen])

    @override
    def finish(self) -> Iterator[Piece]:
        if self.picture is not None:
            yield from self._pieces()
        if self.raster is not None:
            yield from self.raster.finish()

    def _pieces(self) -> Iterator[Piece]:
        """The piece of the current picture or frame, or those that the current window of a raster completes.

        Examples
        --------
        >>> predictor = DetectionPredictor(DetectionConfig(), merges=True, samples=1)
        >>> predictor.start(Item("a", ()))
        >>> predictor.picture = (3, 8, 8)
        >>> predictor.found = [Candidates(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros(0, bool))]
        >>> [sorted(piece.arrays) for piece in predictor._pieces()]
        [['boxes_xyxy', 'frame', 'labels', 'scores', 'size']]
        """
        assert self.picture is not None
        together = drop_parts(Candidates(*(np.concatenate(parts) for parts in zip(*self.found, strict=True))))
        self.found = []
        settings = self.settings
        boxes, scores, labels = merge_candidates(
            together.boxes_xyxy,
            together.scores,
            together.labels,
            self.method,
            settings.iou,
            settings.max_detections,
        )
        kept = scores >= settings.min_score  # soft suppression lowers scores
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if self.raster is not None:
            assert self.window is not None
            yield from self.raster.add(self.window, boxes, scores, labels)
            return
        frame, height, width = self.picture
        arrays = {"boxes_xyxy": boxes, "scores": scores, "labels": labels}
        yield Piece(self.item, {"frame": frame, "size": (height, width), **arrays})
