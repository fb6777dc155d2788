"""The default detector: each cell says which object it lies in and where its edges are; a second look mends boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn
from typing_extensions import override

from models.base import FeatureSpec, HeadOptions
from models.detection import DetectionHead
from models.layers import ChannelNorm, Classifier, ConvNorm, Projections
from models.roi_refiner import PLACES, Refined, RoiRefiner, edge_loss
from utils.boxes.assignment import (
    central_cells,
    draw_proposals,
    expected_cells,
    inside_any,
    match_proposals,
    spread_proposals,
)
from utils.boxes.geometry import areas, covered_shares, generalised_ious, ious, pairwise, sides_to_xyxy
from utils.boxes.losses import quality_focal_loss

PRIOR = 0.01  # score of every class at first
FIRST_REACH = 3.0  # cells from a cell to the edges of its box at first
FARTHEST = 5.0  # logarithm of the largest distance over the first one
LEVEL_SIDE = 6.0  # cells of a level that a box has per side where the next finer level takes over
POOL = 400  # best cells of a sample among which proposals are chosen, at least
PROPOSAL_IOU = 0.7  # no two proposals overlap more
MATCHED, HIT, MISSED = 0.3, 0.5, 0.4  # IoU from which edges are learnt, a class is right, and up to which it is wrong
CROWDED = 0.5  # share of a proposal in a crowd from which it is no false alarm
OTHER = -1  # class of objects that are not predicted
LEVELS = (2.0, 1.0, 0.5, 0.25)  # cells per patch side


class DenseOptions(HeadOptions):
    """Settings of `DenseHead`.

    Examples
    --------
    >>> DenseOptions().levels, DenseOptions().refine
    ([1.0], True)
    """

    width: int = Field(128, ge=8, le=4096, multiple_of=8, description="channels of the tower that all levels share")
    tower_layers: int = Field(2, ge=1, le=8, description="3x3 convolutions of the tower")
    levels: list[float] = Field(
        [1.0], min_length=1, description="cells per patch side of each level, fine ones first: of 2.0, 1.0, 0.5, 0.25"
    )
    dropout: float = Field(0.4, ge=0, lt=1, description="of the features from which classes are told")
    input_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the backbone's channels left out of each sample"
    )
    other_classes: bool = Field(
        False, description="learn where objects end also from labelled objects of classes that are not predicted"
    )
    candidates: int = Field(500, ge=1, le=50_000, description="most boxes of a sample")
    refine: bool = Field(True, description="look a second time at each candidate, closer")
    refine_width: int = Field(64, ge=8, le=1024, multiple_of=8, description="channels of the second look")
    refine_passes: int = Field(2, ge=1, le=4, description="how often edges are moved")
    refine_samples: int = Field(
        32, ge=2, le=5000, description="jittered objects and proposals of a sample to learn from"
    )
    refine_from: float = Field(0.02, ge=0, lt=1, description="lowest score of a cell whose box is looked at again")

    @field_validator("levels")
    @classmethod
    def check_levels(cls, levels: list[float]) -> list[float]:
        """Refuse levels that the head does not have, or in another order.

        Raises
        ------
        ValueError
            It says which there are.

        Examples
        --------
        >>> DenseOptions.check_levels([0.5, 1.0])
        Traceback (most recent call last):
            ...
        ValueError: expected some of 2.0, 1.0, 0.5, 0.25 in this order, got 0.5, 1.0
        """
        if levels != [level for level in LEVELS if level in levels]:
            expected, got = (", ".join(map(str, each)) for each in (LEVELS, levels))
            raise ValueError(f"expected some of {expected} in this order, got {got}")
        return levels


class DenseHead(DetectionHead):
    """Dense detection: many cells to one object while it learns, a linear layer for classes, a second look at boxes.

    The cells in the central half of an object answer for it. Classes are told by one linear layer from dropped-out
    features, so that few labels cannot be learnt by heart; edges by distances, which all classes share. The score of a
    class is the IoU that the cell's box should have with its object. Then samples of the maps around the best boxes are
    looked at again: they move the edges, twice, and tell class and IoU once more; the score is the square root of
    `first * sqrt(IoU * class)`. Normalisation over channels and maps that are empty in the padding make a padded
    picture give what the picture alone gives.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        K.
    options : DenseOptions
        Widths, levels, second look.

    References
    ----------
    Tian et al., 2019 (arXiv:1904.01355), cells and distances; Li et al., 2020 (arXiv:2006.04388), scores that are
    qualities; the second look: `models.roi_refiner`.

    Examples
    --------
    >>> spec = FeatureSpec((8, 8), (14, 14), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> head = DenseHead(spec, 2, DenseOptions(width=16, refine_from=0.0)).eval()
    >>> outputs = head([torch.zeros(1, 8, 4, 6)] * 2)
    >>> outputs["boxes_xyxy"].shape, outputs["scores"].shape
    (torch.Size([1, 4, 4]), torch.Size([1, 4, 2]))
    """

    Options: ClassVar[type[HeadOptions]] = DenseOptions
    options: DenseOptions
    takes: ClassVar[tuple[str, ...]] = ("valid", "target")
    merges: ClassVar[bool] = True
    input_layers: ClassVar[tuple[str, ...]] = ("projections",)
    output_layers: ClassVar[tuple[str, ...]] = ("classes", "distances")

    draws: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, options: DenseOptions):
        super().__init__(spec, num_classes, options)
        width = options.width
        self.projections = Projections(spec.channels, width)
        if 2.0 in options.levels:  # no cell sees another one, so that padding stays outside
            finer = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2, bias=False)
            self.finer = nn.Sequential(finer, ChannelNorm(width), nn.ReLU())
        self.tower = nn.ModuleList(ConvNorm(width, width) for _ in range(options.tower_layers))
        self.dropout = nn.Dropout(options.dropout)
        self.classes = Classifier(width, num_classes)
        nn.init.constant_(self.classes.bias, -math.log(1 / PRIOR - 1))  # type: ignore[arg-type]
        self.distances = Classifier(width, 4)
        self.log_reach = nn.Parameter(torch.full((len(options.levels),), math.log(FIRST_REACH)))
        # draws differ from step to step, are the same on every rank, and go on after a resume
        self.register_buffer("draws", torch.randint(2**31, ()))
        if options.refine:
            self.near_projections = Projections(spec.channels, options.refine_width - PLACES)
            self.refiner = RoiRefiner(options.refine_width, num_classes, float(spec.patch_size), options.dropout)

    @property
    @override
    def max_objects(self) -> int:
        return self.options.candidates

    # --- cells -------------------------------------------------------------------------------------------------------

    @override
    def forward(
        self,
        feature_maps: Sequence[Tensor],
        image: Tensor | None = None,
        valid: Tensor | None = None,
        target: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        maps, grid = self.receive(feature_maps, image)
        maps = [F.dropout2d(feature_map, self.options.input_dropout, self.training) for feature_map in maps]
        inside = self._inside(maps[0], grid, valid)
        cells = self._cells(maps, inside)
        limits = self._limits(inside, valid)
        outputs = self._candidates(cells, limits)
        if self.options.refine:
            near = self.near_projections(maps, inside.shape[-2:]) * inside
            if self.training:
                outputs |= self._learn_to_refine(near, outputs, target, limits)
            else:
                outputs = self._refine(near, outputs, limits)
        return outputs | cells if self.training else outputs

    def _inside(self, feature_map: Tensor, grid: tuple[int, int], valid: Tensor | None) -> Tensor:
        """1 in the patches of the picture and 0 in padding, (B, 1, rows, columns).

        Examples
        --------
        >>> spec = FeatureSpec((8,), (2,), 2, 3, (0.5,) * 3, (0.5,) * 3)
        >>> valid = torch.tensor([[[True, True, True, False, False, False]] * 2])
        >>> DenseHead(spec, 1, DenseOptions())._inside(torch.zeros(1, 8, 1, 3), (1, 3), valid).tolist()
        [[[[1.0, 1.0, 0.0]]]]
        """
        if valid is None:
            return feature_map.new_ones(len(feature_map), 1, *grid)
        patch = self.spec.patch_size
        return valid[:, None, ::patch, ::patch].to(feature_map.dtype)

    def _limits(self, inside: Tensor, valid: Tensor | None) -> Tensor:
        """Lower right corner (B, 1, 4) that no box passes, twice x and y, in pixels.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head, valid = DenseHead(spec, 1, DenseOptions()), torch.ones(1, 8, 8, dtype=torch.bool)
        >>> valid[..., 5:] = False
        >>> head._limits(torch.ones(1, 1, 2, 2), valid).tolist(), head._limits(torch.ones(1, 1, 2, 3), None).tolist()
        ([[[5.0, 8.0, 5.0, 8.0]]], [[[12.0, 8.0, 12.0, 8.0]]])
        """
        if valid is None:
            sides = inside.new_tensor([inside.shape[-1], inside.shape[-2]] * 2) * self.spec.patch_size
            return sides.expand(len(inside), 1, 4)
        sides = torch.stack([valid.any(dim=1).sum(dim=1), valid.any(dim=2).sum(dim=1)], dim=1)
        return sides.repeat(1, 2)[:, None].to(inside.dtype)

    def _cells(self, maps: Sequence[Tensor], inside: Tensor) -> dict[str, Tensor]:
        """What each cell of each level says, one behind the other.

        Gives ``"cell_logits"`` (B, P, K), ``"cell_boxes"`` (B, P, 4) and ``"cell_points"`` (P, 2) in pixels,
        ``"cell_strides"`` (P,), and ``"cell_valid"`` (B, P), 0 in padding.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = DenseHead(spec, 2, DenseOptions(levels=[2.0, 1.0, 0.5]))
        >>> cells = head._cells([torch.zeros(1, 8, 3, 4)], torch.ones(1, 1, 3, 4))
        >>> cells["cell_boxes"].shape, cells["cell_points"][-1].tolist()  # 48 + 12 + 4 cells
        (torch.Size([1, 64, 4]), [42.0, 42.0])
        """
        base = self.projections(maps, inside.shape[-2:]) * inside
        parts: dict[str, list[Tensor]] = {name: [] for name in ("logits", "boxes", "points", "strides", "valid")}
        for index, level in enumerate(self.options.levels):
            feature_map, mask = self._level(base, inside, level)
            stride = self.spec.patch_size / level
            for layer in self.tower:
                feature_map = layer(feature_map) * mask
            y, x = ((torch.arange(cells, device=mask.device) + 0.5) * stride for cells in mask.shape[-2:])
            points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
            raw = self.distances(feature_map).flatten(2).transpose(1, 2) + self.log_reach[index]
            sides = stride * raw.clamp(max=FARTHEST).exp()
            parts["boxes"].append(sides_to_xyxy(points, sides))
            parts["logits"].append(self.classes(self.dropout(feature_map)).flatten(2).transpose(1, 2))
            parts["points"].append(points)
            parts["strides"].append(points.new_full((len(points),), stride))
            parts["valid"].append(mask.flatten(1))
        axes = {"logits": 1, "boxes": 1, "points": 0, "strides": 0, "valid": 1}
        return {f"cell_{name}": torch.cat(each, dim=axes[name]) for name, each in parts.items()}

    def _level(self, base: Tensor, inside: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """The map and its mask with so many cells per patch side; coarse cells are means of the patches inside.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = DenseHead(spec, 2, DenseOptions(levels=[0.5]))
        >>> base = torch.tensor([[[[2.0, 4.0, 5.0]]]])
        >>> [each.tolist() for each in head._level(base, torch.ones(1, 1, 1, 3), 0.5)]
        [[[[[3.0, 5.0]]]], [[[[1.0, 1.0]]]]]
        """
        if level == 2.0:
            mask = inside.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            return self.finer(base) * mask, mask
        while level < 1:
            share = F.avg_pool2d(inside, 2, ceil_mode=True)
            base = F.avg_pool2d(base, 2, ceil_mode=True) / share.clamp(min=0.25)
            inside, level = (share > 0).to(inside.dtype), 2 * level
            base = base * inside
        return base, inside

    @torch.no_grad()
    def _candidates(self, cells: Mapping[str, Tensor], limits: Tensor) -> dict[str, Tensor]:
        """The best boxes of each sample, and their scores, 0 behind the last one.

        For a second look they do not overlap much; else they are the best as they come.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = DenseHead(spec, 2, DenseOptions(refine=False))
        >>> cells = head._cells([torch.zeros(1, 8, 3, 4)], torch.ones(1, 1, 3, 4))
        >>> limits = torch.tensor([[[56.0, 42.0, 56.0, 42.0]]])
        >>> head._candidates(cells, limits)["boxes_xyxy"].amax(dim=1).round().tolist()
        [[7.0, 0.0, 56.0, 42.0]]
        """
        options = self.options
        learns = self.training and options.refine
        number = 2 * options.refine_samples if learns else options.candidates
        scores = cells["cell_logits"].float().sigmoid() * cells["cell_valid"][..., None]
        best = scores.amax(dim=2)
        best, places = best.topk(min(max(POOL, 2 * number) if options.refine else number, best.shape[1]), dim=1)
        boxes = cells["cell_boxes"].float().gather(1, places[..., None].expand(-1, -1, 4))
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        scores = scores.gather(1, places[..., None].expand(-1, -1, scores.shape[2]))
        if options.refine:
            wanted = best if learns else torch.where(best >= options.refine_from, best, 0)
            chosen = spread_proposals(boxes, wanted, PROPOSAL_IOU, number)
            index = chosen.clamp(min=0)[..., None]
            boxes = boxes.gather(1, index.expand(-1, -1, 4))
            scores = scores.gather(1, index.expand(-1, -1, scores.shape[2])) * (chosen >= 0)[..., None]
        return {"boxes_xyxy": boxes, "scores": scores}

    # --- the second look ---------------------------------------------------------------------------------------------

    def _refine(self, near: Tensor, outputs: Mapping[str, Tensor], limits: Tensor) -> dict[str, Tensor]:
        """Move the edges of candidates and mend their scores.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = DenseHead(spec, 1, DenseOptions(refine_width=8)).eval()
        >>> outputs = {"boxes_xyxy": torch.tensor([[[7.0, 7, 35, 35]]]), "scores": torch.zeros(1, 1, 1)}
        >>> refined = head._refine(torch.zeros(1, 4, 3, 4), outputs, torch.tensor([[[56.0, 42.0, 56.0, 42.0]]]))
        >>> refined["scores"].tolist(), refined["boxes_xyxy"].round().tolist()
        ([[[0.0]]], [[[7.0, 7.0, 35.0, 35.0]]])
        """
        boxes = outputs["boxes_xyxy"]
        for _ in range(self.options.refine_passes):
            refined = self.refiner(near, boxes)
            boxes = torch.minimum(refined.boxes_xyxy.clamp(min=0), limits)
        second = refined.quality_logits.sigmoid()[..., None] * refined.class_logits.sigmoid()
        return {"boxes_xyxy": boxes, "scores": (outputs["scores"] * second.sqrt()).sqrt()}

    def _learn_to_refine(
        self, near: Tensor, found: Mapping[str, Tensor], target: Mapping[str, Any] | None, limits: Tensor
    ) -> dict[str, Tensor]:
        """Look at jittered objects and at proposals; what came in and went out of each pass, T passes one by one.

        Gives ``"roi_inputs"`` and ``"roi_boxes"`` (T, B, S, 4), ``"roi_edges"`` (T, B, S, 4, SAMPLES),
        ``"roi_qualities"`` (T, B, S), ``"roi_classes"`` (T, B, S, K), and ``"roi_present"`` (B, S), 0 in places that no
        proposal was left for.

        Raises
        ------
        ValueError
            Without a target.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = DenseHead(spec, 1, DenseOptions(refine_width=8, refine_samples=6))
        >>> found = {"boxes_xyxy": torch.ones(1, 9, 4), "scores": torch.ones(1, 9, 1)}
        >>> target = {"boxes_xyxy": [torch.tensor([[0.0, 0, 20, 30]])], "labels": [torch.tensor([0])]}
        >>> target["is_crowd"] = [torch.tensor([False])]
        >>> limits = torch.tensor([[[56.0, 42.0, 56.0, 42.0]]])
        >>> looks = head._learn_to_refine(torch.zeros(1, 4, 3, 4), found, target, limits)
        >>> looks["roi_inputs"].shape, looks["roi_present"].tolist()
        (torch.Size([2, 1, 6, 4]), [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
        """
        if target is None:
            raise ValueError("DenseHead learns to look a second time from the target, got None")
        self.draws += 1
        with torch.no_grad():
            inputs, present = self._draw(found, target, limits)
        passes: list[Refined] = []
        looked_at = []
        for _ in range(self.options.refine_passes):
            looked_at.append(inputs)
            passes.append(self.refiner(near, inputs))
            inputs = torch.minimum(passes[-1].boxes_xyxy.detach().clamp(min=0), limits)
        boxes, edges, qualities, classes = (torch.stack(each) for each in zip(*passes, strict=True))
        return {
            "roi_inputs": torch.stack(looked_at),
            "roi_boxes": boxes,
            "roi_edges": edges,
            "roi_qualities": qualities,
            "roi_classes": classes,
            "roi_present": present,
        }

    def _draw(self, found: Mapping[str, Tensor], target: Mapping[str, Any], limits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose what to look at: boxes (B, S, 4), and 1 or 0 (B, S) for whether they are there.

        What is drawn for a sample depends on the step and on its objects, not on the others of its batch.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = DenseHead(spec, 1, DenseOptions(refine_samples=4))
        >>> found = {"boxes_xyxy": torch.full((2, 3, 4), 9.0), "scores": torch.tensor([[[0.5], [0], [0]]] * 2)}
        >>> empty = {"boxes_xyxy": torch.zeros(0, 4), "labels": torch.zeros(0), "is_crowd": torch.zeros(0).bool()}
        >>> target = {name: [value] * 2 for name, value in empty.items()}
        >>> boxes, present = head._draw(found, target, torch.full((2, 1, 4), 14.0))
        >>> boxes[:, 0].tolist(), present[0].tolist()
        ([[9.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]], [1.0, 0.0, 0.0, 0.0])
        """
        number, boxes = self.options.refine_samples, found["boxes_xyxy"]
        drawn, present = boxes.new_zeros(len(boxes), number, 4), boxes.new_zeros(len(boxes), number)
        for row, (objects, _, _) in enumerate(self._objects(target)):
            content = int((objects.double().sum() * 16).round())
            generator = torch.Generator().manual_seed((int(self.draws) * 1_000_003 + content) % 2**63)
            proposals = boxes[row][found["scores"][row].amax(dim=1) > 0]
            chosen = draw_proposals(proposals, objects, number, generator).clamp(min=0)
            drawn[row, : len(chosen)], present[row, : len(chosen)] = torch.minimum(chosen, limits[row]), 1
        return drawn, present

    # --- losses ------------------------------------------------------------------------------------------------------

    def level_ranges(self) -> list[tuple[float, float, float]]:
        """Stride of each level, and the sizes of boxes from and up to which its cells answer, in pixels.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> DenseHead(spec, 1, DenseOptions(levels=[2.0, 1.0])).level_ranges()
        [(7.0, 0.0, 84.0), (14.0, 84.0, inf)]
        """
        strides = [self.spec.patch_size / level for level in self.options.levels]
        edges = [0.0, *(LEVEL_SIDE * stride for stride in strides[1:]), math.inf]
        return list(zip(strides, edges, edges[1:], strict=False))

    def _objects(self, target: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Objects (N, 4) of each sample with their classes (N,), -1 for those of other classes, and crowds (M, 4).

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> boxes, none = torch.tensor([[0.0, 0, 20, 30], [5, 5, 9, 9]]), torch.zeros(0, 4)
        >>> target = {"boxes_xyxy": [boxes], "labels": [torch.tensor([1, 0])], "others_xyxy": [boxes[1:]]}
        >>> target["is_crowd"] = [torch.tensor([False, True])]
        >>> [[objects, classes, crowds]] = DenseHead(spec, 2, DenseOptions(other_classes=True))._objects(target)
        >>> objects.tolist(), classes.tolist(), crowds.tolist()
        ([[0.0, 0.0, 20.0, 30.0], [5.0, 5.0, 9.0, 9.0]], [1, -1], [[5.0, 5.0, 9.0, 9.0]])
        """
        others = target.get("others_xyxy") if self.options.other_classes else None
        for row, (boxes, labels, is_crowd) in enumerate(
            zip(target["boxes_xyxy"], target["labels"], target["is_crowd"], strict=True)
        ):
            objects, classes = boxes[~is_crowd].float(), labels[~is_crowd]
            if others is not None:
                objects = torch.cat([objects, others[row].float()])
                classes = torch.cat([classes, classes.new_full((len(others[row]),), OTHER)])
            yield objects, classes, boxes[is_crowd].float()

    @override
    def counts_of(self, target: Mapping[str, Any]) -> dict[str, Tensor | None]:
        counts, own = torch.zeros(2, dtype=torch.float64)  # of all objects, and of those whose class is told
        for boxes, labels, _ in self._objects(target):
            objects = boxes.double()
            sizes = areas(objects).sqrt()
            strides = torch.zeros_like(sizes)
            for stride, low, high in self.level_ranges():
                strides[(sizes >= low) & (sizes < high)] = stride
            counts = counts.to(objects.device) + expected_cells(objects, strides)
            own = own.to(objects.device) + expected_cells(objects[labels != OTHER], strides[labels != OTHER])
        looks = ("refine_boxes", "refine_edges", "refine_qualities", "refine_classes") if self.options.refine else ()
        return {"classes": own, "boxes": counts, **dict.fromkeys(looks)}

    @override
    def loss_weights(self) -> dict[str, float]:
        weights = {"classes": 1.0, "boxes": 2.0}
        looks = {"refine_boxes": 1.0, "refine_edges": 0.25, "refine_qualities": 0.5, "refine_classes": 1.0}
        return weights | looks if self.options.refine else weights

    @override
    def losses(
        self, outputs: Mapping[str, Tensor], target: Mapping[str, Any], progress_fraction: float
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        samples = []
        for row, objects in enumerate(self._objects(target)):
            looks = self._look_losses(outputs, row, *objects) if self.options.refine else {}
            samples.append({**self._cell_losses(outputs, row, *objects), **looks})
        sums = {name: torch.stack([torch.stack(sample[name]) for sample in samples]).sum(dim=0) for name in samples[0]}
        return {name: (each[0], each[1].detach()) if len(each) == 2 else each[0] for name, each in sums.items()}

    def _cell_losses(
        self, outputs: Mapping[str, Tensor], row: int, objects: Tensor, labels: Tensor, crowds: Tensor
    ) -> dict[str, tuple[Tensor, ...]]:
        """Sums over the cells of one sample.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = DenseHead(spec, 1, DenseOptions())
        >>> cells = head._cells([torch.zeros(1, 8, 1, 2)], torch.ones(1, 1, 1, 2))
        >>> losses = head._cell_losses(cells, 0, torch.tensor([[0.0, 0, 14, 14]]), torch.tensor([0]), torch.zeros(0, 4))
        >>> round(losses["boxes"][0].item(), 2)  # a box of 84 pixels per side around one of 14
        0.97
        """
        points, strides = outputs["cell_points"], outputs["cell_strides"]
        ranges = points.new_zeros(len(points), 2)
        for stride, low, high in self.level_ranges():
            ranges[strides == stride] = ranges.new_tensor([low, high])
        inside = outputs["cell_valid"][row] > 0
        answers = torch.where(inside, central_cells(points, strides, ranges, objects), -1)
        positive = answers >= 0
        boxes, matched = outputs["cell_boxes"][row][positive], objects[answers[positive]]
        quality = torch.zeros_like(outputs["cell_logits"][row])
        classes_of = labels[answers[positive]]
        own = classes_of != OTHER
        cells = positive.nonzero()[own, 0]
        quality[cells, classes_of[own]] = ious(boxes.detach(), matched)[own]
        counted = inside & (positive | ~inside_any(points, crowds))
        classes = quality_focal_loss(outputs["cell_logits"][row], quality)[counted]
        return {"classes": (classes.sum(),), "boxes": ((1 - generalised_ious(boxes, matched)).sum(),)}

    def _look_losses(
        self, outputs: Mapping[str, Tensor], row: int, objects: Tensor, labels: Tensor, crowds: Tensor
    ) -> dict[str, tuple[Tensor, ...]]:
        """Sums and counts over what one sample was looked at again for, all passes.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = DenseHead(spec, 1, DenseOptions(refine_width=8, refine_samples=6, refine_passes=1))
        >>> box = torch.tensor([[0.0, 0, 20, 30]])
        >>> target = {"boxes_xyxy": [box], "labels": [torch.tensor([0])], "is_crowd": [torch.tensor([False])]}
        >>> outputs = head([torch.zeros(1, 8, 3, 4)], target=target)
        >>> losses = head._look_losses(outputs, 0, box, torch.tensor([0]), torch.zeros(0, 4))
        >>> sorted(losses), losses["refine_qualities"][1].item()
        (['refine_boxes', 'refine_classes', 'refine_edges', 'refine_qualities'], 4.0)
        """
        passes, number = outputs["roi_inputs"].shape[0], outputs["roi_inputs"].shape[2]
        inputs, boxes = (outputs[name][:, row].reshape(-1, 4) for name in ("roi_inputs", "roi_boxes"))
        present = outputs["roi_present"][row].repeat(passes) > 0
        best, index = match_proposals(inputs, objects)
        learnt = present & (best >= MATCHED)
        matched = objects[index[learnt]]
        edges = outputs["roi_edges"][:, row].reshape(passes * number, 4, -1)[learnt]
        quality, _ = match_proposals(boxes.detach(), objects)
        crowded = (
            pairwise(covered_shares, inputs, crowds).amax(dim=1) > CROWDED if len(crowds) else torch.zeros_like(present)
        )
        judged = present & (learnt | ~crowded)
        qualities = F.binary_cross_entropy_with_logits(
            outputs["roi_qualities"][:, row].flatten()[judged], quality[judged], reduction="none"
        )
        own = labels != OTHER
        if not own.all():
            best, index = match_proposals(inputs, objects[own])
        told = judged & ((best >= HIT) | (best <= MISSED))
        logits = outputs["roi_classes"][:, row].reshape(passes * number, -1)
        classes = torch.zeros_like(logits)
        hits = best >= HIT
        classes[hits, labels[own][index[hits]]] = 1
        entropies = F.binary_cross_entropy_with_logits(logits[told], classes[told], reduction="none")
        stride, count = float(self.spec.patch_size), learnt.sum().to(qualities.dtype)
        return {
            "refine_boxes": ((1 - generalised_ious(boxes[learnt], matched)).sum(), count),
            "refine_edges": (edge_loss(edges, inputs[learnt], matched, stride).sum(), count),
            "refine_qualities": (qualities.sum(), judged.sum().to(qualities.dtype)),
            "refine_classes": (entropies.sum(), told.sum().to(qualities.dtype)),
        }
