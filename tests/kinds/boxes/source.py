"""Items of boxes: photos of the procedural sample in three shapes, and their samples: whole pictures, made smaller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from typing_extensions import override

from config import expand_path
from tasks.item import Finding, Item, Piece
from tasks.sample import Sample
from tasks.source import FeatureSource
from tests.kinds.boxes.settings import BoxesSettings
from utils.formats.read import read_annotations
from utils.geometry.augment import RandomColour
from utils.geometry.crops import random_similarity
from utils.geometry.fields import Boxes, Fields, Image, warp
from utils.raster.inputs import find_inputs
from utils.samples.files import write_foxes

SIZES = {"wide": (128, 160), "tall": (176, 128), "odd": (144, 200)}  # height and width of the pictures of a folder


@dataclass(frozen=True, eq=False)
class PhotoItem(Item):
    """A picture with its boxes (N, 4) in pixels; none are known at inference."""

    boxes_xyxy: np.ndarray


class BoxesSource(FeatureSource):
    """Photos of foxes with the boxes around them."""

    settings: BoxesSettings
    fields: ClassVar[Fields] = {"image": Image(), "boxes_xyxy": Boxes()}

    @override
    def prepare_data(self) -> None:
        sample = self.settings.dataset.sample
        for name, size in SIZES.items() if sample.enable else ():
            write_foxes(self.folder() / name, seed=sample.seed, train=5, val=1, frames=1, size=size)

    def folder(self) -> Path:
        return Path(expand_path(self.settings.dataset.sample.folder))

    @override
    def items(self, split: str) -> list[Item]:
        if split == "inference":
            paths = find_inputs([self.settings.paths.locate(str(self.settings.inference.inputs))])
            return [PhotoItem(path.stem, (path,), np.zeros((0, 4))) for path in paths]
        found: list[Item] = []
        for folder in (self.folder() / name for name in SIZES):
            labels = read_annotations(folder / "annotations", "coco", folder) if split in ("train", "val") else {}
            for picture in labels[split].pictures if labels else []:
                boxes = np.array([animal.box_xyxy for animal in picture.instances]).reshape(-1, 4)
                large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= self.settings.boxes.min_side
                sources = (picture.path, folder / "annotations" / f"{split}.json")
                found.append(PhotoItem(f"{folder.name}/{picture.id}", sources, boxes[large]))
        return found

    @override
    def samples(self, item: Item, prompts: Any = None) -> Iterator[Sample]:
        assert isinstance(item, PhotoItem)
        image, shrink = cv2.imread(str(item.sources[0]))[..., ::-1], self.settings.boxes.shrink
        arrays = {"image": np.ascontiguousarray(image), "boxes_xyxy": item.boxes_xyxy.astype(np.float32)}
        size = (-(-image.shape[0] // shrink), -(-image.shape[1] // shrink))
        yield Sample(item.id, item, warp(self.fields, arrays, np.diag([1 / shrink, 1 / shrink, 1]), size))

    @override
    def truth(self, piece: Piece) -> np.ndarray:
        assert isinstance(piece.item, PhotoItem)
        return piece.item.boxes_xyxy

    @override
    def audit(self, items: Iterable[Item]) -> Iterator[Finding]:
        for item in items:
            assert isinstance(item, PhotoItem)
            if (item.boxes_xyxy[:, 2:] <= item.boxes_xyxy[:, :2]).any():
                yield Finding(item.id, "a box has no area", "correct or remove it")

    @override
    def sample_stats(self, sample: Sample) -> dict[str, Any]:
        return {"counts": {"fox": len(sample.arrays["boxes_xyxy"])}}

    @override
    def sample_size(self) -> tuple[int, int]:
        height, width = max(SIZES.values(), key=lambda size: size[0] * size[1])
        return height // self.settings.boxes.shrink, width // self.settings.boxes.shrink

    @override
    def sample_bytes(self) -> int:
        height, width = self.sample_size()
        return height * width * 3 + 3 * 16

    @override
    def cache_key(self) -> dict[str, Any]:
        return {**self.settings.boxes.model_dump(include={"shrink", "min_side"}), "features": self.features_key()}

    @override
    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        varied, size = self.settings.dataset.augmentations, sample.arrays["image"].shape[:2]
        if not varied.enable:
            return sample
        low, high = varied.scale_range
        matrix = random_similarity(generator, size, (low, high), varied.rotation_degrees)
        colour = RandomColour(varied.brightness, varied.contrast, varied.saturation)
        arrays = warp(self.fields, sample.arrays, matrix, size)
        return sample.with_arrays({**arrays, "image": colour(arrays["image"], generator)})
