"""Objective of keypoints: targets of a batch, the loss terms, their divisors and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tasks.keypoints.settings import KeypointsSettings
from tasks.objective import Objective
from tasks.sample import Batch, Progress, Sample
from utils.data import Entry
from utils.errors import DataError, SettingsError
from utils.formats.types import Skeleton
from utils.geometry.augment import IDENTITY
from utils.keypoints.heatmaps import (
    box_targets,
    centre_heatmaps,
    centre_targets,
    instance_mask_targets,
    keypoint_heatmaps,
    valid_at_centres,
)
from utils.keypoints.left_right import (
    active_pairs,
    body_axis,
    canonicalise_left_right,
    left_right_pairs,
    pair_margin,
    pair_overlap,
    side_consistency,
)
from utils.keypoints.losses import (
    box_sums,
    coordinate_count,
    coordinate_sum,
    heatmap_sums,
    instance_mask_count,
    instance_mask_sum,
    objectness_count,
    objectness_sum,
    offset_sum,
    positive_weights,
)
from utils.keypoints.peaks import soft_argmax

CENTRE_SIGMA = 3.0  # cells; a centre needs no pixel precision
BOX_RADIUS = 2.0  # cells around a centre that predict its box
OFFSET_SCALE = 0.2  # offsets are tens of cells long; at full weight they would dominate the heatmaps
TEMPERATURE = 0.5  # of the soft-argmax: below 1, or the many cells of background would pull it to the middle


@dataclass(frozen=True)
class Target:
    """The truth of one sample on its canvas.

    Parameters
    ----------
    keypoints : ndarray, shape (N, K, 3)
        x, y, v in canvas pixels.
    boxes : ndarray, shape (N, 4)
        In canvas pixels.
    sigma : float
        Size of the spots in cells, at this point of the training.

    Examples
    --------
    >>> Target(np.zeros((1, 2, 3)), np.zeros((1, 4)), 1.5).sigma
    1.5
    """

    keypoints: np.ndarray
    boxes: np.ndarray
    sigma: float


class KeypointsObjective(Objective):
    """Targets and losses of keypoints.

    Parameters
    ----------
    settings : KeypointsSettings
        The task's settings.
    skeleton : Skeleton
        The keypoints.
    canvas : (int, int)
        Height and width of samples.
    stride : float
        Canvas pixels per cell of the head's maps.
    grouping : bool
        Whether points are grouped into animals.

    Examples
    --------
    >>> settings = KeypointsSettings()
    >>> KeypointsObjective(settings, Skeleton(("left", "right"), (1, 0)), (28, 56), 3.5, False).grid
    (8, 16)
    """

    def __init__(
        self, settings: KeypointsSettings, skeleton: Skeleton, canvas: tuple[int, int], stride: float, grouping: bool
    ):
        self.keypoints = settings.keypoints
        self.label_path = settings.paths.label_path
        self.weight = settings.keypoints.loss
        self.multitask = settings.model.head == "multitask"
        self.skeleton, self.canvas, self.stride, self.grouping = skeleton, canvas, stride, grouping
        self.grid = round(canvas[0] / stride), round(canvas[1] / stride)
        self.pairs = left_right_pairs(skeleton.flip_idx or range(skeleton.num_keypoints))
        self.axis = body_axis(skeleton.names)
        self.balance: Tensor | None = None

    @override
    def encode(self, sample: Sample, progress: Progress) -> Target:
        last = self.keypoints.sigma if self.keypoints.sigma_end is None else self.keypoints.sigma_end
        done = progress.epoch / max(progress.epochs - 1, 1)
        keypoints = torch.from_numpy(sample.arrays["keypoints"])
        if self.keypoints.canonicalise is True:
            keypoints = self._canonical(keypoints)
        return Target(
            keypoints.numpy(), sample.arrays["boxes"], self.keypoints.sigma + (last - self.keypoints.sigma) * done
        )

    def _canonical(self, keypoints: Tensor) -> Tensor:
        """Name left and right of training labels (N, K, 3) by the body axis.

        Raises
        ------
        SettingsError
            If the keypoints have no pairs of left and right, or no body axis.

        Examples
        --------
        >>> skeleton = Skeleton(("nose", "left_ear", "right_ear", "tail"), (0, 2, 1, 3))
        >>> objective = KeypointsObjective(KeypointsSettings(), skeleton, (28, 56), 3.5, False)
        >>> points = torch.tensor([[[10.0, 10, 2], [12, 14, 2], [12, 6, 2], [20, 10, 2]]])
        >>> objective._canonical(points)[0, 1].tolist()
        [12.0, 14.0, 2.0]
        """
        if self.axis is None or self.skeleton.flip_idx is None:
            raise SettingsError(
                "keypoints.canonicalise: needs pairs of left and right (flip_idx) and names such as nose and tailbase "
                f"for the body axis; got {', '.join(self.skeleton.names)}; set false"
            )
        pairs = left_right_pairs(self.skeleton.flip_idx, self.skeleton.names)
        return canonicalise_left_right(keypoints, pairs, self.axis)

    @override
    def fit_statistics(self, entries: Sequence[Entry]) -> None:
        labelled = self._count_labelled(entries, "train")
        if self.weight.balance:
            spot = 2 * np.pi * self.keypoints.sigma**2  # sum of a Gaussian of height 1
            positive = torch.tensor(labelled, dtype=torch.float64) * spot
            cells = len(entries) * self.grid[0] * self.grid[1]
            self.balance = positive_weights(torch.stack([positive, cells - positive]))

    @override
    def check_validation(self, entries: Sequence[Entry]) -> None:
        self._count_labelled(entries, "val")

    def _count_labelled(self, entries: Sequence[Entry], split: str) -> list[int]:
        """Count the labelled points of each keypoint.

        Raises
        ------
        DataError
            If there are samples, and none has one.

        Examples
        --------
        >>> objective = KeypointsObjective(KeypointsSettings(), Skeleton(("a",)), (28, 56), 3.5, False)
        >>> objective._count_labelled([Entry("x", "00", {}, None, {"counts": {"a": 3}})], "val")
        [3]
        """
        labelled = [sum(entry.facts["counts"][name] for entry in entries) for name in self.skeleton.names]
        if entries and not sum(labelled):
            raise DataError(
                f"{self.label_path}: no labelled keypoint in {split}: all {len(entries)} samples are "
                "without one; label some animals, or see keypoints.category and the split lists"
            )
        return labelled

    @override
    def training_views(self, stored: Sequence[str], progress: Progress) -> Sequence[str]:
        first, last = self.keypoints.augment_from, self.keypoints.augment_until
        varied = first <= progress.fraction and (last == 1 or progress.fraction < last)
        return stored if varied else [IDENTITY.name]

    @override
    def collate(self, batch: Batch, targets: Sequence[Target]) -> Batch:
        batch.target = self.draw_targets(batch.arrays["valid"], targets)
        return batch

    def draw_targets(self, valid: Tensor, targets: Sequence[Target]) -> dict[str, Any]:
        """Draw the target maps of samples with valid pixels (B, H, W).

        Examples
        --------
        >>> objective = KeypointsObjective(KeypointsSettings(), Skeleton(("a",)), (28, 56), 3.5, False)
        >>> truth = Target(np.full((1, 1, 3), 12.0, np.float32), np.zeros((1, 4), np.float32), 1.5)
        >>> valid = torch.ones(1, 28, 56, dtype=torch.bool)
        >>> float(objective.draw_targets(valid, [truth])["heatmaps"].max())
        1.0
        """
        keypoints = torch.from_numpy(np.stack([target.keypoints for target in targets]))
        boxes = torch.from_numpy(np.stack([target.boxes for target in targets]))
        place = (self.grid, self.stride)
        drawn: dict[str, Any] = {
            "keypoints": keypoints,
            "valid": valid_at_centres(valid, *place),
            "heatmaps": keypoint_heatmaps(keypoints, *place, targets[0].sigma, self.keypoints.mask_type),
        }
        if self.grouping:
            drawn["centre"], drawn["offsets"], drawn["near"] = centre_targets(
                keypoints, boxes, *place, sigma_cells=CENTRE_SIGMA, radius_cells=2 * targets[0].sigma
            )
        if self.multitask:
            drawn["objectness"] = centre_heatmaps(keypoints, boxes, *place, CENTRE_SIGMA)
            drawn["boxes"], drawn["in_box"] = box_targets(keypoints, boxes, *place, self.canvas, BOX_RADIUS)
            drawn["instance_mask"] = instance_mask_targets(boxes, *place)
        return drawn

    @override
    def weights(self) -> dict[str, float]:
        weight = self.weight
        return {
            "heatmap": weight.heatmap_weight,
            "dice": weight.dice_weight,
            "coordinate": weight.coord_weight,
            "centre": weight.grouping_weight,
            "offset": OFFSET_SCALE * weight.grouping_weight,
            "objectness": weight.objectness_weight,
            "box_l1": weight.box_weight,
            "box_giou": weight.box_weight,
            "instance_mask": weight.mask_weight,
            "pair_overlap": weight.pair_weight,
            "pair_margin": weight.pair_weight,
            "side": weight.side_weight,
        }

    @override
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        target = batch.target
        # heatmaps are divided by the sum of their targets, so that a keypoint weighs the same on any canvas
        maps = target["heatmaps"]
        shown = (maps.amax(dim=(-1, -2)) > 0).sum().double()
        counts = {"heatmap": maps.sum(dtype=torch.float64), "dice": shown}
        counts["coordinate"] = coordinate_count(target["keypoints"], self.grid, self.stride)
        if self.grouping:
            counts["centre"] = objectness_count(target["centre"], target["valid"])
            counts["offset"] = target["near"].sum().double()
        if self.multitask:
            counts["objectness"] = objectness_count(target["objectness"], target["valid"])
            counts["box_l1"] = counts["box_giou"] = target["in_box"].sum().double()
            counts["instance_mask"] = instance_mask_count(target["instance_mask"], target["valid"])
        if self.weight.pair_weight > 0:
            counts["pair_overlap"] = counts["pair_margin"] = self._pairs_of(target).sum().double()
        if self.weight.side_weight > 0:
            counts["side"] = self._pairs_of(target, sided=True).sum().double()
        weights = self.weights()
        return {name: count for name, count in counts.items() if weights[name] > 0}

    @override
    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        target = batch.target
        logits, valid, weight = outputs["heatmaps"], target["valid"], self.weight
        kind = weight.heatmap
        weights = self.weights()
        sums = heatmap_sums(
            logits,
            target["heatmaps"],
            valid=valid,
            kind=kind,
            heatmap_weight=float(weights["heatmap"] > 0),
            dice_weight=float(weights["dice"] > 0),
            balance=self.balance,
        )
        if weights["coordinate"] > 0:
            ramp = min(1.0, progress.epoch / weight.coord_warmup) if weight.coord_warmup else 1.0
            sums["coordinate"] = ramp * coordinate_sum(
                logits, target["keypoints"], self.stride, valid=valid, kind=weight.coord_type, temperature=TEMPERATURE
            )
        if self.grouping:
            sums["centre"] = objectness_sum(outputs["centre"], target["centre"], valid)
            sums["offset"] = offset_sum(outputs["offsets"], target["offsets"], target["near"])
        if self.multitask:
            sums |= self._auxiliary(outputs, target, progress)
        sums |= self._regularisers(logits, target, progress)
        return {name: value for name, value in sums.items() if weights[name] > 0}

    def _auxiliary(self, outputs: dict[str, Tensor], target: dict[str, Any], progress: Progress) -> dict[str, Tensor]:
        """Terms of the further maps (B, C, h, w) of the multitask head, whose weight rises slowly.

        Examples
        --------
        >>> settings = KeypointsSettings(model={"head": "multitask"})
        >>> objective = KeypointsObjective(settings, Skeleton(("a",)), (28, 56), 3.5, False)
        >>> truth = Target(np.full((1, 1, 3), 12.0, np.float32), np.array([[4.0, 4, 20, 20]], np.float32), 1.5)
        >>> target = objective.draw_targets(torch.ones(1, 28, 56, dtype=torch.bool), [truth])
        >>> maps = {name: torch.zeros(1, 1, 8, 16) for name in ("objectness", "instance_mask")}
        >>> maps["boxes"] = torch.ones(1, 4, 8, 16)
        >>> sums = objective._auxiliary(maps, target, Progress(5, 20))
        >>> sorted(sums), bool(sums["instance_mask"] > 0)
        (['box_giou', 'box_l1', 'instance_mask', 'objectness'], True)
        """
        valid = target["valid"]
        ramp = min(1.0, progress.epoch / self.weight.aux_warmup) if self.weight.aux_warmup else 1.0
        cells = outputs["boxes"].new_tensor([self.grid[1], self.grid[0]] * 2).view(1, 4, 1, 1)
        sums = {
            "objectness": objectness_sum(outputs["objectness"], target["objectness"], valid),
            "instance_mask": instance_mask_sum(outputs["instance_mask"], target["instance_mask"], valid),
            **box_sums(outputs["boxes"] / cells, target["boxes"], target["in_box"]),
        }
        return {name: ramp * value for name, value in sums.items()}

    def _pairs_of(self, target: dict[str, Any], sided: bool = False) -> Tensor:
        """Which left-right pairs (B, P) are compared.

        Examples
        --------
        >>> objective = KeypointsObjective(KeypointsSettings(), Skeleton(("a",)), (28, 56), 3.5, False)
        >>> objective._pairs_of({"keypoints": torch.zeros(2, 1, 1, 3)}).shape
        torch.Size([2, 0])
        """
        axis = self.axis if sided else None
        least = 0.0 if sided else self.weight.pair_margin_px / self.stride
        return active_pairs(
            target["keypoints"], self.pairs, self.grid, self.stride, axis=axis, least_distance_cells=least
        )

    def _regularisers(self, logits: Tensor, target: dict[str, Any], progress: Progress) -> dict[str, Tensor]:
        """Terms that keep left and right apart in heatmaps (B, K, h, w), as far as the settings ask for them.

        Examples
        --------
        >>> settings = KeypointsSettings(keypoints={"loss": {"pair_weight": 0.1}})
        >>> objective = KeypointsObjective(settings, Skeleton(("l_ear", "r_ear"), (1, 0)), (28, 56), 3.5, False)
        >>> points = torch.tensor([[[[4.0, 4.0, 2.0], [40.0, 20.0, 2.0]]]])
        >>> sorted(objective._regularisers(torch.zeros(1, 2, 8, 16), {"keypoints": points}, Progress(9, 9)))
        ['pair_margin', 'pair_overlap']
        """
        weight, sums = self.weight, {}
        ramp = min(1.0, progress.epoch / weight.coord_warmup) if weight.coord_warmup else 1.0
        points = soft_argmax(logits, TEMPERATURE) if weight.pair_weight > 0 or weight.side_weight > 0 else logits
        if weight.pair_weight > 0:
            active = self._pairs_of(target)
            sums["pair_overlap"] = ramp * pair_overlap(logits, self.pairs, active)
            sums["pair_margin"] = ramp * pair_margin(points, self.pairs, active, weight.pair_margin_px / self.stride)
        if weight.side_weight > 0:
            assert self.axis is not None  # the settings were checked
            active = self._pairs_of(target, sided=True)
            sums["side"] = ramp * side_consistency(points, self.pairs, active, self.axis, weight.side_margin)
        return sums
