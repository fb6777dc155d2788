"""Source of keypoints: pictures and videos as items, their split, and samples: whole pictures or crops of an animal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.features import FeatureService
from tasks.item import Finding, Item, Piece
from tasks.keypoints.audit import audit_pictures
from tasks.keypoints.items import PoseItem, box_faults, box_of, is_usable, mask_out_crowd
from tasks.keypoints.labels import PoseLabels, join_skeletons
from tasks.keypoints.settings import KeypointsSettings
from tasks.labelled import LabelledSource
from tasks.sample import Sample
from utils.errors import DataError, SettingsError
from utils.formats.read import read_poses
from utils.formats.types import AnnotatedPicture, Instance, Skeleton
from utils.geometry.augment import random_colour
from utils.geometry.crops import (
    crop_of_box,
    drop_outside,
    move_boxes,
    move_points,
    random_affine,
    warp_picture,
    whole_picture,
)
from utils.geometry.fields import Boxes, Fields, Image, Mask, Points, Transform, Values, warp
from utils.media.videos import is_video


class PoseSource(LabelledSource[PoseItem]):
    """Pictures and videos with labelled keypoints.

    Parameters
    ----------
    name, settings, features
        As for `FeatureSource`.
    labels : PoseLabels
        The skeleton, the pictures and the canvas.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> source = pose_task().source
    >>> len(source.items("train")), source.sample_size()
    (8, (96, 128))
    """

    settings: KeypointsSettings
    labels: PoseLabels

    def __init__(self, name: str, settings: KeypointsSettings, features: FeatureService, labels: PoseLabels):
        super().__init__(name, settings, features, labels, settings.keypoints.split_by, "keypoints")
        self.keypoints = settings.keypoints

    # -- items

    @override
    def items(self, split: str) -> list[PoseItem]:
        if split != "inference" and not self.labels.skeleton.num_keypoints:
            return []  # such labels can only be converted
        return super().items(split)

    @override
    def make_item(self, picture: AnnotatedPicture, split: str) -> PoseItem:
        return PoseItem(picture.id, (picture.path,), picture, split)

    @override
    def categories(self) -> dict[str, Skeleton]:
        return join_skeletons(self.labels.sets)

    @override
    def input_items(self, sources: list[str]) -> list[PoseItem]:
        inputs = self.find_inputs(sources)
        prompts = self._prompts(inputs) if self.keypoints.instance_mode == "per_instance" else {}
        return [
            self.make_item(AnnotatedPicture(name, path, None, prompts.get(name, ())), "inference")
            for name, path in inputs.items()
        ]

    @override
    @contextmanager
    def in_memory(self, image: np.ndarray, prompts: Any = None) -> Iterator[Item]:
        with super().in_memory(image, prompts) as item:
            if self.keypoints.instance_mode == "per_instance" and not prompts:
                what = "give prompts, an instance with a box per animal"
                raise ValueError(f"keypoints.instance_mode is per_instance: {what}")
            yield item

    def _prompts(self, inputs: dict[str, Path]) -> dict[str, tuple[Instance, ...]]:
        """Boxes of animals from LabelMe files with the pictures' names.

        Raises
        ------
        SettingsError, DataError
            If `keypoints.prompts` is not set, or a picture has no boxes there.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> source = pose_task("keypoints.instance_mode=per_instance").source
        >>> source._prompts({"a": Path("a.png")})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: keypoints.prompts: not set; per_instance needs the boxes of animals: ...
        """
        folder = self.keypoints.prompts
        if folder is None:
            raise SettingsError(
                "keypoints.prompts: not set; per_instance needs the boxes of animals: name a folder of LabelMe "
                "files with a rectangle around each, or set keypoints.instance_mode: whole"
            )
        drawn: dict[str, AnnotatedPicture] = {}
        for part in read_poses(self.settings.paths.locate(folder), "labelme", predictions=True).values():
            for picture in part.pictures:
                other = drawn.setdefault(picture.path.stem, picture)
                if other is not picture and picture.path.stem in inputs:
                    raise DataError(
                        f"keypoints.prompts: {folder}: {other.id} and {picture.id} both fit "
                        f"{inputs[picture.path.stem]} by name; keep one of them"
                    )
        missing = [name for name in inputs if name not in drawn or not drawn[name].instances]
        if missing:
            raise DataError(
                f"keypoints.prompts: no rectangle for {inputs[missing[0]]} in {folder}; draw one per animal"
            )
        for name in inputs:
            for fault in box_faults(drawn[name].instances, drawn[name].size):
                raise DataError(f"keypoints.prompts: {folder}: {name}: {fault}; correct or remove it")
        return {name: drawn[name].instances for name in inputs}

    @override
    def count_samples(self, item: PoseItem) -> int:
        crops = self.settings.keypoints.instance_mode == "per_instance" and not is_video(item.picture.path)
        return len(item.picture.instances) if crops else item.count_frames()

    @override
    def truth(self, piece: Piece) -> tuple[Instance, ...]:
        assert isinstance(piece.item, PoseItem)
        return piece.item.picture.instances

    @override
    def audit(self, items: Iterable[PoseItem]) -> Iterator[Finding]:
        poses = list(items)
        if poses and poses[0].split == self.first_split():
            yield from self.labels.problems()
        yield from audit_pictures(poses, self.labels.skeleton)

    # -- samples

    @override
    def sample_size(self) -> tuple[int, int]:
        return self.labels.canvas

    @override
    def samples(self, item: PoseItem) -> Iterator[Sample]:
        for frame, image in item.frames():
            for index, matrix, animals in self._places(item, image.shape[:2]):
                name = f"{item.id}#{frame}.{index}"
                yield Sample(name, item, self._arrays(image, matrix, animals, (frame, index)))

    def _places(self, item: PoseItem, size: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray, Sequence[Instance]]]:
        """Matrix (3, 3) of each sample of a picture: the whole picture, or a crop around each animal.

        Raises
        ------
        DataError
            If a box cannot be used for a crop.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> source = pose_task().source
        >>> [(index, matrix[0, 0]) for index, matrix, _ in source._places(source.items("val")[0], (192, 256))]
        [(0, np.float64(0.5))]
        """
        if self.keypoints.instance_mode == "whole":
            yield 0, whole_picture((size[0], size[1]), self.labels.canvas), item.picture.instances
            return
        for fault in box_faults(item.picture.instances, (size[0], size[1])):
            raise DataError(f"{item.picture.path}: {fault}; correct or remove it")
        for index, animal in enumerate(item.picture.instances):
            box = box_of(animal)
            if box is not None and not animal.is_crowd:
                yield index, crop_of_box(box, self.labels.canvas, self.keypoints.bbox_scale), [animal]

    def _arrays(
        self, image: np.ndarray, matrix: np.ndarray, animals: Sequence[Instance], place: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Warp a picture (H, W, 3) and its animals to the canvas.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> source = pose_task().source
        >>> arrays = source._arrays(np.zeros((192, 256, 3), np.uint8), np.diag([0.5, 0.5, 1.0]), [], (0, 0))
        >>> arrays["valid"].all(), arrays["keypoints"].any()
        (np.True_, np.False_)
        """
        laid, valid = warp_picture(image, matrix, self.labels.canvas)
        for animal in animals:
            if animal.is_crowd:
                mask_out_crowd(valid, box_of(animal), matrix)
        seen = [animal for animal in animals if is_usable(animal)][: self.labels.max_instances]
        keypoints = np.zeros((self.labels.max_instances, self.labels.skeleton.num_keypoints, 3), np.float32)
        boxes = np.zeros((self.labels.max_instances, 4), np.float32)
        for row, animal in enumerate(seen):
            keypoints[row] = drop_outside(move_points(animal.keypoints, matrix), self.labels.canvas)
            box = box_of(animal)
            assert box is not None  # it has a point
            boxes[row] = move_boxes(box, matrix)
        return {
            "image": laid,
            "valid": valid,
            "keypoints": keypoints,
            "boxes": boxes,
            "matrix": matrix,
            "place": np.array(place, np.int64),
        }

    @override
    def sample_stats(self, sample: Sample) -> dict[str, Any]:
        seen = (sample.arrays["keypoints"][..., 2] > 0).sum(axis=0)
        return {"counts": dict(zip(self.labels.skeleton.names, seen.tolist(), strict=True))}

    @override
    def cache_key(self) -> dict[str, Any]:
        return {
            "keypoints": list(self.labels.skeleton.names),
            "canvas": list(self.labels.canvas),
            "most": self.labels.max_instances,
            "instance_mode": self.keypoints.instance_mode,
            "bbox_scale": self.keypoints.bbox_scale,
            "features": self.features_key(),
        }

    @override
    def sample_bytes(self) -> int:
        height, width = self.sample_size()
        return height * width * 4 + self.labels.max_instances * (self.labels.skeleton.num_keypoints * 12 + 16) + 88

    @property
    @override
    def fields(self) -> Fields:
        return {
            "image": Image("black"),
            "valid": Mask(0),
            "keypoints": Points(self.labels.mirror_swap, ragged=False),
            "boxes": Boxes(ragged=False),
            "matrix": Transform(),
            "place": Values(),
        }

    @override
    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        varied = self.settings.dataset.augmentations
        if not varied.enable:
            return sample
        size = sample.arrays["image"].shape[:2]
        matrix = random_affine(
            generator,
            size,
            (varied.scale_range[0], varied.scale_range[1]),
            varied.rotation_degrees,
            varied.shear_degrees,
            varied.translate,
            varied.probability,
        )
        colour = random_colour(varied)
        arrays = sample.arrays if np.array_equal(matrix, np.eye(3)) else warp(self.fields, sample.arrays, matrix, size)
        return sample.with_arrays({**arrays, "image": colour(arrays["image"], generator)})
