"""From logits of windows to class maps: blending, decoding and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from models.base import fit_to_image
from tasks.item import Item, Piece
from tasks.predictor import Predictor
from tasks.sample import Sample
from tasks.segmentation.ensemble import Ensemble
from tasks.segmentation.items import SceneItem
from utils.raster.regrid import BlockResampler
from utils.raster.tiling import StripBlender, Window, decode_classes


class DensePredictor(Predictor):
    """Blends the probabilities of overlapping windows and decodes them block by block.

    Parameters
    ----------
    num_classes : int
        Classes of the logits.
    patch_size : int
        Pixels per side of a cell of the backbone's patch grid.
    views : int
        Consecutive samples that show the same window; their probabilities are averaged.
    read_valid : callable, optional
        Gives the pixels (H, W) of a window of an item's map in which the picture holds something; needed for items
        whose map has other pixels than the model sees.
    ensemble : Ensemble, optional
        Joins the probabilities with another model's objects before classes are chosen.

    Examples
    --------
    >>> item = SceneItem("a", (), "a", Window(0, 0, 4, 8), 4, 4, (0, 4))
    >>> predictor = DensePredictor(num_classes=2, patch_size=4)
    >>> predictor.start(item)
    >>> image = np.zeros((4, 4, 3), np.uint8)
    >>> samples = [Sample(str(x), item, {"image": image}, Window(0, x, 4, 4)) for x in (0, 4)]
    >>> logits = torch.zeros(2, 2, 4, 4)
    >>> logits[1, 1] = 5.0
    >>> pieces = [*predictor.push(samples, {"logits": logits}), *predictor.finish()]
    >>> [(piece.window.x, int(piece.arrays["classes"].max())) for piece in pieces]
    [(0, 0), (4, 1)]
    """

    def __init__(
        self,
        num_classes: int,
        patch_size: int,
        views: int = 1,
        read_valid: Callable[[SceneItem, Window], np.ndarray] | None = None,
        ensemble: Ensemble | None = None,
    ):
        self.num_classes = num_classes
        self.patch_size = patch_size
        self.views = views
        self.read_valid = read_valid
        self.ensemble = ensemble
        self.item: SceneItem | None = None
        self.turned: list[tuple[Sample, Tensor]] = []

    @override
    def start(self, item: Item, resume: int | None = None) -> None:
        assert isinstance(item, SceneItem)
        self.item, self.turned = item, []
        self.objects = self.ensemble.objects(item) if self.ensemble is not None else None
        self.held: list[tuple[Window, np.ndarray, np.ndarray | None]] = []
        size = item.area.height, item.area.width
        self.blender = StripBlender(*size, self.num_classes, item.tile, item.stride, rows=item.area_rows)
        self.resampler = BlockResampler(size, item.output, item.rows) if item.output else None
        self.waiting = iter(item.windows())

    @override
    def push(self, samples: Sequence[Sample], outputs: dict[str, Tensor] | None) -> Iterator[Piece]:
        if outputs is None or not samples:
            return
        for index, sample in enumerate(samples):  # one by one: a batch of full-size probabilities leaves the caches
            turned = self._probabilities(outputs["logits"][index : index + 1], sample.window)[0]
            self.turned.append((sample, sample.view.invert().apply(turned)))
            if len(self.turned) == self.views:
                upright, views = self.turned[0][0], [view for _, view in self.turned]
                self.turned = []
                yield from self._blend(upright, views[0] if len(views) == 1 else torch.stack(views).mean(dim=0))

    def _probabilities(self, logits: Tensor, window: Window | None) -> Tensor:
        """Turn logits (B, K, h, w) on the patch grid into probabilities (B, K, H, W) of windows.

        Examples
        --------
        >>> DensePredictor(2, 4)._probabilities(torch.zeros(1, 2, 2, 2), Window(0, 0, 4, 4))[0, :, 0, 0].tolist()
        [0.5, 0.5]
        """
        assert window is not None
        fitted = fit_to_image(logits.float(), (window.height, window.width), self.patch_size)
        return torch.softmax(fitted, dim=1).cpu()

    def _blend(self, sample: Sample, probabilities: Tensor) -> Iterator[Piece]:
        """Add the probabilities (K, H, W) of a window to the blender, after skipped windows before it.

        Examples
        --------
        >>> predictor = DensePredictor(2, 4)
        >>> predictor.start(SceneItem("a", (), "a", Window(0, 0, 4, 8), 4, 4, (0, 4)))
        >>> sample = Sample("a", predictor.item, {"valid": np.ones((4, 4), bool)}, Window(0, 4, 4, 4))
        >>> pieces = list(predictor._blend(sample, torch.full((2, 4, 4), 0.5)))
        >>> [(piece.window.x, bool(piece.arrays["valid"].all())) for piece in pieces]
        [(0, False), (4, True)]
        """
        for window in self.waiting:
            if window == sample.window:
                yield from self._decode(self.blender.add(window, probabilities), window, sample.arrays.get("valid"))
                return
            yield from self._skip(window)

    def _skip(self, window: Window) -> Iterator[Piece]:
        """Skip a window without data.

        Examples
        --------
        >>> predictor = DensePredictor(2, 4)
        >>> predictor.start(SceneItem("a", (), "a", Window(0, 0, 4, 4), 4, 4, (0, 4)))
        >>> [piece.arrays["valid"].any().item() for piece in predictor._skip(Window(0, 0, 4, 4))]
        [False]
        """
        nothing = np.zeros((window.height, window.width), bool)
        yield from self._decode(self.blender.skip(window), window, nothing)

    @override
    def finish(self) -> Iterator[Piece]:
        if self.turned:
            raise RuntimeError(f"{len(self.turned)} of {self.views} views of the last window came")
        for window in self.waiting:
            yield from self._skip(window)
        self.blender.finish()
        if self.held:
            yield from self._join_whole()

    def _decode(
        self, blocks: Sequence[tuple[Window, np.ndarray]], window: Window, valid: np.ndarray | None
    ) -> Iterator[Piece]:
        """Decode finished blocks (K, H, W), which lie inside the window that finished them, on the grid of the map.

        Examples
        --------
        >>> predictor = DensePredictor(2, 4)
        >>> predictor.start(SceneItem("a", (), "a", Window(0, 0, 4, 8), 4, 4, (0, 4)))
        >>> block = np.stack([np.full((1, 2), 0.25, np.float32), np.full((1, 2), 0.75, np.float32)])
        >>> pieces = predictor._decode([(Window(0, 0, 1, 2), block)], Window(0, 0, 4, 4), None)
        >>> next(pieces).arrays["confidence"].tolist()
        [[0.75, 0.75]]
        """
        assert self.item is not None
        for place, probabilities in blocks:
            local = place.shifted(-window.y, -window.x)
            inside = None if valid is None else valid[local.rows, local.columns]
            if self.resampler is None:
                yield from self._pieces(place, probabilities, inside)
                continue
            assert self.read_valid is not None
            for target, values, known in self.resampler.add(place, probabilities, inside):
                if known.any():
                    known = known & self.read_valid(self.item, target)
                yield from self._pieces(target, values, known)

    def _pieces(self, place: Window, probabilities: np.ndarray, valid: np.ndarray | None) -> Iterator[Piece]:
        """Give the piece of a block, or hold the block where an ensemble needs the whole picture.

        Examples
        --------
        >>> predictor = DensePredictor(num_classes=2, patch_size=4)
        >>> predictor.start(SceneItem("a", (), "a", Window(0, 0, 4, 8), 4, 4, (0, 4)))
        >>> [piece.window.x for piece in predictor._pieces(Window(0, 4, 1, 2), np.zeros((2, 1, 2), np.float32), None)]
        [4]
        """
        if self.ensemble is None or self.objects is None:
            yield self._piece(place, probabilities, valid)
        elif self.ensemble.needs_whole:
            self.held.append((place, probabilities.copy(), valid))
        else:
            yield self._piece(place, self.ensemble.join(probabilities, self.objects, place), valid)

    def _join_whole(self) -> Iterator[Piece]:
        """Join the blocks of a picture with the objects of the ensemble, and give their pieces.

        Examples
        --------
        >>> predictor = DensePredictor(2, 4)
        >>> predictor.start(SceneItem("a", (), "a", Window(0, 0, 1, 2), 4, 4, (0, 1)))
        >>> list(predictor._join_whole())
        []
        """
        if not self.held:
            return
        assert self.item is not None
        assert self.ensemble is not None
        height, width = self.item.map_size
        whole = np.zeros((self.num_classes, height, width), np.float32)
        for place, probabilities, _ in self.held:
            whole[:, place.rows, place.columns] = probabilities
        joined = self.ensemble.join(whole, self.objects or [], Window(0, 0, height, width))
        for place, _, valid in self.held:
            yield self._piece(place, joined[:, place.rows, place.columns], valid)

    def _piece(self, place: Window, probabilities: np.ndarray, valid: np.ndarray | None) -> Piece:
        """Choose the class of each pixel of a block (K, H, W), of which `valid` (H, W) hold something.

        Examples
        --------
        >>> predictor = DensePredictor(2, 4)
        >>> predictor.start(SceneItem("a", (), "a", Window(0, 0, 4, 8), 4, 4, (0, 4)))
        >>> piece = predictor._piece(Window(0, 0, 1, 2), np.float32([[[0.25, 0.5]], [[0.75, 0.5]]]), None)
        >>> piece.arrays["classes"].tolist()
        [[1, 0]]
        """
        assert self.item is not None
        classes, confidence = decode_classes(probabilities)
        np.minimum(confidence, 1, out=confidence)  # the rounded weights of several windows sum to up to 1.0000002
        arrays: dict[str, Any] = {"classes": classes, "confidence": confidence}
        if self.num_classes == 2:
            arrays["foreground"] = np.minimum(probabilities[1], 1)
        if valid is not None:
            arrays["valid"] = valid
        return Piece(self.item, arrays, place)
