"""From the maps of samples to animals in pixels of their pictures: views, decoding, grouping and crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tasks.item import Item, Piece
from tasks.keypoints.objective import CENTRE_SIGMA
from tasks.keypoints.settings import KeypointsConfig
from tasks.predictor import Predictor
from tasks.sample import Sample
from utils.geometry.crops import points_back
from utils.keypoints.grouping import group_peaks
from utils.keypoints.peaks import Peaks, all_peaks, best_peaks


@dataclass(frozen=True)
class Decoder:
    """Decodes maps into animals; the same in validation, evaluation, inference and export.

    Parameters
    ----------
    stride : float
        Canvas pixels per cell.
    flip_idx : tuple of int
        For each keypoint the one that takes its place in a mirrored picture.
    settings : KeypointsConfig
        Decoder, scores and distances.
    grouping : bool
        Whether the head groups points into animals; else a canvas holds one animal.
    most : int
        Most animals of a canvas.

    Examples
    --------
    >>> decoder = Decoder(4.0, (0,), KeypointsConfig(), False, 1)
    >>> maps = {"heatmaps": torch.full((1, 1, 3, 5), -9.0)}
    >>> maps["heatmaps"][0, 0, 1, 2] = 3.0
    >>> [[animal.keypoints.round(2).tolist() for animal in found] for found in decoder.decode(maps)]
    [[[[10.0, 6.0, 0.95]]]]
    """

    stride: float
    flip_idx: tuple[int, ...]
    settings: KeypointsConfig
    grouping: bool
    most: int

    def merge(self, maps: Sequence[dict[str, Tensor]], views: Sequence[Any]) -> dict[str, Tensor]:
        """Merge the maps of one sample's views, each (C, h, w), as logits of merged probabilities.

        A canvas is a whole number of cells wide and high, so maps are mirrored without interpolation.

        Examples
        --------
        >>> from utils.geometry.augment import IDENTITY, View
        >>> decoder = Decoder(4.0, (1, 0), KeypointsConfig(tta_merge="max"), False, 1)
        >>> plain, mirrored = torch.tensor([[[0.0, 0, 0]], [[0, 0, 9]]]), torch.tensor([[[8.0, 0, 0]], [[0, 0, 0]]])
        >>> decoder.merge([{"heatmaps": plain}, {"heatmaps": mirrored}], [IDENTITY, View(True, 0)])["heatmaps"].tolist()
        [[[0.0, 0.0, 0.0]], [[0.0, 0.0, 9.0]]]
        """
        if len(maps) == 1:
            return maps[0]
        upright = [self._upright(view_maps, view) for view_maps, view in zip(maps, views, strict=True)]
        return {name: self._merge_one(name, [view_maps[name] for view_maps in upright]) for name in upright[0]}

    def _merge_one(self, name: str, maps: Sequence[Tensor]) -> Tensor:
        """Merge one kind of map (C, h, w) over views: vectors by mean, logits by mean or maximum of probabilities.

        Examples
        --------
        >>> decoder = Decoder(4.0, (0,), KeypointsConfig(), False, 1)
        >>> decoder._merge_one("offsets", [torch.tensor([1.0]), torch.tensor([3.0])])
        tensor([2.])
        """
        stacked = torch.stack(list(maps))
        if name == "offsets":
            return stacked.mean(dim=0)
        if self.settings.tta_merge == "max":
            return stacked.amax(dim=0)
        return torch.logit(torch.sigmoid(stacked.double()).mean(dim=0)).float()

    def _upright(self, maps: dict[str, Tensor], view: Any) -> dict[str, Tensor]:
        """Bring the maps (C, h, w) of a view to the plain sample: cells, left and right, and vectors.

        Examples
        --------
        >>> from utils.geometry.augment import View
        >>> decoder = Decoder(4.0, (0,), KeypointsConfig(), True, 2)
        >>> maps = {"heatmaps": torch.tensor([[[1.0, 2]]]), "offsets": torch.tensor([[[5.0, 6]], [[7, 8]]])}
        >>> {name: found.flatten().tolist() for name, found in decoder._upright(maps, View(True, 0)).items()}
        {'heatmaps': [2.0, 1.0], 'offsets': [-6.0, -5.0, 8.0, 7.0]}
        """
        back = view.invert()
        order = list(self.flip_idx) if view.flip else list(range(len(self.flip_idx)))
        upright: dict[str, Tensor] = {name: back.apply(maps[name]) for name in ("heatmaps", "centre") if name in maps}
        upright["heatmaps"] = upright["heatmaps"][order]
        if "offsets" in maps:
            vectors = back.apply(maps["offsets"]).unflatten(0, (-1, 2))[order].movedim(1, -1)
            upright["offsets"] = back.vectors(vectors).movedim(-1, 1).flatten(0, 1)
        return upright

    def decode(self, maps: dict[str, Tensor]) -> list[list[Animal]]:
        """Find the animals in maps (B, C, h, w) of a batch, in canvas pixels, highest score first.

        Examples
        --------
        >>> decoder = Decoder(4.0, (0,), KeypointsConfig(), False, 1)
        >>> decoder.decode({"heatmaps": torch.full((2, 1, 3, 5), -9.0)})
        [[], []]
        """
        heatmaps = maps["heatmaps"].float().cpu()
        if not self.grouping:
            peaks = best_peaks(heatmaps, self.settings.decoder)
            return [self._single(peaks, index) for index in range(len(heatmaps))]
        return self._several(heatmaps, maps["centre"].float().cpu(), maps["offsets"].float().cpu())

    def _single(self, peaks: Peaks, index: int) -> list[Animal]:
        """The single animal of a canvas, if any of its points reaches `min_score`.

        Examples
        --------
        >>> decoder = Decoder(4.0, (0,), KeypointsConfig(), False, 1)
        >>> peaks = best_peaks(torch.full((1, 1, 3, 5), 2.0))
        >>> round(decoder._single(peaks, 0)[0].score, 2)
        0.88
        """
        points = torch.cat([peaks.points[index] * self.stride, peaks.scores[index, :, None]], dim=1)
        return self._keep([(points, float(peaks.scores[index].mean()), peaks.spread[index] * self.stride)])

    def _several(self, heatmaps: Tensor, centres: Tensor, offsets: Tensor) -> list[list[Animal]]:
        """Group the peaks of heatmaps (B, K, h, w) into animals, with centres and offsets.

        Examples
        --------
        >>> decoder = Decoder(4.0, (0,), KeypointsConfig(), True, 2)
        >>> nothing = torch.full((1, 1, 3, 5), -9.0)
        >>> decoder._several(nothing, nothing, torch.zeros(1, 2, 3, 5))
        [[]]
        """
        settings = self.settings
        points = all_peaks(heatmaps, settings.nms_radius, 2 * self.most, settings.min_score, settings.decoder)
        middles = all_peaks(
            centres, 2 * CENTRE_SIGMA, 2 * self.most, settings.min_score
        )  # the target joins nearer ones
        reach = max(heatmaps.shape[-2:]) * CENTRE_REACH
        decoded = []
        for index, peaks in enumerate(points):
            animals, scores = group_peaks(
                peaks, middles[index][0], offsets[index], most_instances=self.most, max_distance_cells=reach
            )
            spread = spread_of(animals, peaks) * self.stride
            animals[..., :2] *= self.stride
            decoded.append(self._keep(list(zip(animals, scores.tolist(), spread, strict=True))))
        return decoded

    def _keep(self, animals: Sequence[tuple[Tensor, float, Tensor]]) -> list[Animal]:
        """Leave out points (K, 3) and animals with low scores.

        Examples
        --------
        >>> decoder = Decoder(4.0, (0, 1), KeypointsConfig(min_score=0.5), False, 1)
        >>> points = torch.tensor([[1.0, 2.0, 0.9], [3.0, 4.0, 0.1]])
        >>> decoder._keep([(points, 0.5, torch.ones(2))])[0].keypoints.round(1).tolist()
        [[1.0, 2.0, 0.9], [nan, nan, 0.1]]
        """
        least, kept = self.settings.min_score, []
        for points, score, spread in animals:
            keypoints = points.double().numpy().copy()
            low = ~(keypoints[:, 2] >= least)
            keypoints[low, :2] = np.nan
            if not low.all():
                kept.append(Animal(keypoints, score, spread.double().numpy()))
        return kept


CENTRE_REACH = 0.1  # of the canvas's longer side: how far a point's vote may lie from a centre


@dataclass(frozen=True)
class Animal:
    """A predicted animal.

    Parameters
    ----------
    keypoints : ndarray of float64, shape (K, 3)
        x, y and score; x and y are NaN where the score is below `min_score`.
    score : float
        Of the animal.
    spread : ndarray, shape (K,)
        Width of each peak in pixels; a wide peak means an uncertain position.

    Examples
    --------
    >>> Animal(np.zeros((1, 3)), 0.5, np.ones(1)).score
    0.5
    """

    keypoints: np.ndarray
    score: float
    spread: np.ndarray


def spread_of(animals: Tensor, peaks: Sequence[Peaks]) -> Tensor:
    """Look up the spread of the peak behind each keypoint of grouped animals (N, K, 3), in cells; NaN for no point.

    Examples
    --------
    >>> peaks = [Peaks(torch.tensor([[1.0, 2.0]]), torch.ones(1), torch.tensor([0.7]))]
    >>> spread_of(torch.tensor([[[1.0, 2.0, 1.0]], [[float("nan"), float("nan"), 0.0]]]), peaks)
    tensor([[0.7000],
            [   nan]])
    """
    spread = torch.full(animals.shape[:2], torch.nan)
    for k, candidates in enumerate(peaks):
        if len(candidates.points) and len(animals):
            distances = (animals[:, k, None, :2] - candidates.points[None].float()).square().sum(dim=-1)
            nearest = distances.nan_to_num(nan=torch.inf).min(dim=1)
            spread[:, k] = torch.where(nearest.values < 1e-3, candidates.spread[nearest.indices].float(), torch.nan)
    return spread


class PosePredictor(Predictor):
    """Decodes samples and gives a piece per picture or frame.

    Parameters
    ----------
    decoder : Decoder
        From maps to animals.
    views : int
        Consecutive samples that show the same canvas; their maps are merged.

    Examples
    --------
    >>> predictor = PosePredictor(Decoder(4.0, (0,), KeypointsConfig(), False, 1), views=1)
    >>> predictor.start(Item("a", ()))
    >>> arrays = {"matrix": np.diag([2.0, 2.0, 1.0]), "place": np.array([0, 0])}
    >>> maps = torch.full((1, 1, 3, 5), -9.0)
    >>> maps[0, 0, 1, 2] = 3.0
    >>> list(predictor.push([Sample("a", Item("a", ()), arrays)], {"heatmaps": maps}))
    []
    >>> [piece] = predictor.finish()
    >>> piece.arrays["keypoints"].round(2).tolist()
    [[[5.0, 3.0, 0.95]]]
    """

    def __init__(self, decoder: Decoder, views: int):
        self.decoder = decoder
        self.views = views

    @override
    def start(self, item: Item, resume: int | None = None) -> None:
        self.item, self.resumed = item, bool(resume)
        self.turned: list[tuple[Sample, dict[str, Tensor]]] = []
        self.frame: int | None = None
        self.animals: list[Animal] = []

    @override
    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        if outputs is None or not samples:
            return
        complete: list[tuple[Sample, dict[str, Tensor]]] = []
        for index, sample in enumerate(samples):
            self.turned.append((sample, {name: maps[index] for name, maps in outputs.items()}))
            if len(self.turned) == self.views:
                views = [turned.view for turned, _ in self.turned]
                complete.append((self.turned[0][0], self.decoder.merge([maps for _, maps in self.turned], views)))
                self.turned = []
        if not complete:
            return
        stacked = {name: torch.stack([maps[name] for _, maps in complete]) for name in complete[0][1]}
        for (sample, _), animals in zip(complete, self.decoder.decode(stacked), strict=True):
            yield from self._take(sample, animals)

    def _take(self, sample: Sample, animals: Sequence[Animal]) -> Iterator[Piece]:
        """Add the animals of a canvas to its frame; if a new frame begins, yield the previous one.

        Examples
        --------
        >>> predictor = PosePredictor(Decoder(4.0, (0,), KeypointsConfig(), False, 1), views=1)
        >>> predictor.start(Item("a", ()))
        >>> arrays = {"matrix": np.diag([2.0, 2.0, 1.0]), "place": np.array([3, 0])}
        >>> animal = Animal(np.array([[4.0, 6.0, 0.9]]), 0.9, np.ones(1))
        >>> list(predictor._take(Sample("a", Item("a", ()), arrays), [animal])), predictor.animals[0].keypoints.tolist()
        ([], [[2.0, 3.0, 0.9]])
        """
        frame = int(sample.arrays["place"][0])
        if self.frame not in (None, frame):
            yield self._piece()
        self.frame = frame
        matrix = sample.arrays["matrix"]
        zoom = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
        self.animals += [
            Animal(points_back(animal.keypoints, matrix), animal.score, animal.spread / zoom) for animal in animals
        ]

    @override
    def finish(self) -> Iterator[Piece]:
        if self.turned:
            raise RuntimeError(f"{len(self.turned)} of {self.views} views of the last sample came")
        if self.frame is None:
            if self.resumed:  # all frames are written already
                return
            self.frame = 0
        yield self._piece()

    def _piece(self) -> Piece:
        """The piece of the current frame.

        Examples
        --------
        >>> predictor = PosePredictor(Decoder(4.0, (0,), KeypointsConfig(), False, 1), views=1)
        >>> predictor.start(Item("a", ()))
        >>> predictor._piece().arrays["scores"].shape
        (0,)
        """
        count, animals = len(self.decoder.flip_idx), self.animals
        self.animals = []
        arrays = {
            "frame": self.frame,
            "keypoints": np.array([animal.keypoints for animal in animals]).reshape(-1, count, 3),
            "scores": np.array([animal.score for animal in animals]),
            "spread": np.array([animal.spread for animal in animals]).reshape(-1, count),
        }
        return Piece(self.item, arrays)
