"""Source of keypoints: pictures and videos as items, their split, and samples: whole pictures or crops of an animal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from config import expand_path
from tasks.features import FeatureService
from tasks.item import Finding, Item, Piece
from tasks.keypoints.audit import audit_pictures
from tasks.keypoints.items import (
    PoseItem,
    box_faults,
    box_of,
    decode_picture,
    is_usable,
    mask_out_crowd,
    name_inputs,
)
from tasks.keypoints.labels import PoseLabels, join_skeletons
from tasks.keypoints.results import is_overlay
from tasks.keypoints.settings import KeypointsSettings
from tasks.neighbours import choose_groups, draw_groups, grouped
from tasks.sample import Sample
from tasks.seen import digest_pictures, digest_stream
from tasks.source import ListedSource
from tasks.splits import split_list
from utils.errors import DataError, SettingsError
from utils.formats.convert import convert_poses, is_converted
from utils.formats.pictures import picture_bytes
from utils.formats.read import read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance
from utils.geometry.augment import RandomColour
from utils.geometry.crops import (
    crop_of_box,
    drop_outside,
    move_boxes,
    move_points,
    random_similarity,
    warp_picture,
    whole_picture,
)
from utils.geometry.fields import Boxes, Fields, Image, Mask, Points, Transform, Values, warp
from utils.media.thumbnails import thumbnail
from utils.media.videos import VideoReader, is_video
from utils.raster.gdal import refuse_other_encoding
from utils.raster.inputs import find_inputs
from utils.samples.files import write_foxes


class PoseSource(ListedSource[PoseItem]):
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

    def __init__(self, name: str, settings: KeypointsSettings, features: FeatureService, labels: PoseLabels):
        super().__init__(name, settings, features)
        self.keypoints = settings.keypoints
        self.labels = labels

    # -- items

    @override
    def prepare_data(self) -> None:
        dataset = self.settings.dataset
        if dataset.sample.enable:
            write_foxes(expand_path(dataset.sample.folder), seed=dataset.sample.seed)
        if self.has_lists():
            self.write_splits()
        if dataset.convert_to is not None:
            target = dataset.convert_to
            convert_poses(self.split_sets(), expand_path(target.folder), target.format, target.layout, target.mode)

    @override
    def preview_data(self) -> str:
        what, target = super().preview_data() if self.has_lists() else "", self.settings.dataset.convert_to
        if target is None or is_converted(
            self.split_sets(), expand_path(target.folder), target.format, target.layout, target.mode
        ):
            return what
        return f"{what}; writes the labels as {target.format}".removeprefix("; ")

    @override
    def items(self, split: str) -> list[PoseItem]:
        if split != "inference" and not self.labels.skeleton.num_keypoints:
            return []  # such labels can only be converted
        if split == "inputs":
            self.labels.warn_of_problems()
        return super().items(split)

    @override
    def picture_digest(self, item: PoseItem) -> str:
        picture = item.picture
        embedded = picture.extra.get("image_data") == "embedded"
        return digest_stream(BytesIO(picture_bytes(picture))) if embedded else digest_pictures([picture.path])

    @override
    def left_out(self) -> str:
        unlabelled = self.labels.unlabelled
        return f"{len(unlabelled)} inputs have no label, such as {unlabelled[0]}" if unlabelled else ""

    @override
    def names(self) -> list[str]:
        return sorted(self.labels.pictures)

    @override
    def named(self, name: str, split: str) -> list[PoseItem]:
        return [self._item(self.labels.pictures[name][1], split)] if name in self.labels.pictures else []

    @override
    def unlisted(self, split: str) -> list[PoseItem]:
        return [
            self._item(picture, split)
            for labelled_split, picture in self.labels.pictures.values()
            if labelled_split == split
        ]

    @staticmethod
    def _item(picture: AnnotatedPicture, split: str) -> PoseItem:
        """Make an item of a labelled picture.

        Examples
        --------
        >>> PoseSource._item(AnnotatedPicture("a", Path("a.png"), None, ()), "val").split
        'val'
        """
        return PoseItem(picture.id, (picture.path,), picture, split)

    @override
    def uses_list(self, split: str) -> bool:
        listed = getattr(self.settings.dataset.splits, f"{split}_list")
        return listed is not None or (split != "test" and not {"train", "val"} <= set(self.labels.sets))

    def has_lists(self) -> bool:
        """Whether the train or validation split comes from a list, and not from the labels.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().source.has_lists()
        False
        """
        return self.uses_list("train") or self.uses_list("val")

    def is_split(self) -> bool:
        """Whether the lists of the splits exist or are not needed; else prepare writes them.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().source.is_split()
        True
        """
        lists = [split_list(self.name, self.settings, split) for split in ("train", "val") if self.uses_list(split)]
        return all(path is not None and path.exists() for path in lists)

    def first_split(self) -> str:
        """The first split with pictures; verify reports the problems of all labels with it.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().source.first_split()
        'train'
        """
        return next((split for split in ("train", "val", "test") if self.items(split)), "train")

    def split_sets(self) -> dict[str, AnnotationSet]:
        """All labels of every kind of animal, by split.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> sets = pose_task().source.split_sets()
        >>> {split: len(part.pictures) for split, part in sets.items()}
        {'train': 8, 'val': 4}
        """
        whole = {picture.id: picture for part in self.labels.sets.values() for picture in part.pictures}
        skeletons = join_skeletons(self.labels.sets)
        divided = {}
        for split in ("train", "val", "test"):
            ids = [item.picture.id for item in super().items(split)]
            if ids:
                divided[split] = AnnotationSet([whole[id] for id in ids], skeletons)
        return divided

    @override
    def split_recipe(self) -> str:
        seed, fraction = self.settings.resources.seed, self.settings.train.val_fraction
        return f"seed {seed}, val_fraction {fraction:g}, by {self.keypoints.split_by}"

    @override
    def draw_split(self) -> tuple[list[str], list[str]]:
        names = [
            item.id
            for item in self.without_test(self._item(picture, "train") for _, picture in self.labels.pictures.values())
        ]
        by: str = self.keypoints.split_by
        if by == "auto":
            pictures = self.labels.pictures
            cure = "write the split lists yourself, whole videos in each"
            by = choose_groups(names, lambda name: thumbnail(decode_picture(pictures[name][1])), cure)
        groups = grouped(names, by)
        if len(groups) < 2:
            raise DataError(
                f"keypoints.split_by: {by} gives a single group of pictures, so that none is left for validation; "
                "choose another, or write the split lists yourself"
            )
        val = draw_groups(groups, self.settings.train.val_fraction, self.settings.resources.seed)
        return sorted(set(names) - set(val)), val

    @override
    def input_items(self, sources: list[str]) -> list[PoseItem]:
        try:
            inputs = name_inputs(find_inputs(sources, is_result=is_overlay))
        except DataError as error:
            raise DataError(f"inference.inputs: {error}") from error
        unreadable = {}
        for name in list(inputs):
            try:
                refuse_other_encoding(inputs[name].name)  # no table could name its result
            except DataError as error:
                unreadable[name] = error
                del inputs[name]
        self.unreadable = unreadable
        prompts = self._prompts(inputs) if self.keypoints.instance_mode == "per_instance" else {}
        return [
            self._item(AnnotatedPicture(name, path, None, prompts.get(name, ())), "inference")
            for name, path in inputs.items()
        ]

    @override
    @contextmanager
    def in_memory(self, image: np.ndarray, prompts: Any = None) -> Iterator[Item]:
        if image.dtype != np.uint8 or image.shape[2] != 3:
            raise ValueError(f"expected a picture (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
        if self.keypoints.instance_mode == "per_instance" and not prompts:
            raise ValueError("keypoints.instance_mode is per_instance: give prompts, an instance with a box per animal")
        picture = AnnotatedPicture("array", Path("array"), (image.shape[0], image.shape[1]), tuple(prompts or ()))
        yield PoseItem(picture.id, (), picture, "inference", pixels=image)

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
        for part in read_poses(self.settings.paths.locate(folder), "labelme").values():
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
    def continue_from(self, item: PoseItem, resume: int) -> PoseItem:
        return replace(item, first_frame=resume)

    @override
    def count_samples(self, item: PoseItem) -> int:
        if is_video(item.picture.path):
            return VideoReader(item.picture.path).header_frames or 0
        return len(item.picture.instances) if self.settings.keypoints.instance_mode == "per_instance" else 1

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
        for frame, image in self._frames(item):
            for index, matrix, animals in self._places(item, image.shape[:2]):
                name = f"{item.id}#{frame}.{index}"
                yield Sample(name, item, self._arrays(image, matrix, animals, (frame, index)))

    def _frames(self, item: PoseItem) -> Iterator[tuple[int, np.ndarray]]:
        """The picture of an item as frame 0, or the frames of a video.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> source = pose_task().source
        >>> [(frame, image.shape) for frame, image in source._frames(source.items("val")[0])]
        [(0, (192, 256, 3))]
        """
        path = item.picture.path
        if is_video(path):
            with VideoReader(path) as video:
                yield from enumerate(video.frames(item.first_frame), start=item.first_frame)
        elif item.first_frame == 0:
            yield 0, decode_picture(item.picture) if item.pixels is None else item.pixels

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
        height, width = sample.arrays["image"].shape[:2]
        low, high = varied.scale_range
        matrix = random_similarity(generator, (height, width), (low, high), varied.rotation_degrees)
        colour = RandomColour(varied.brightness, varied.contrast, varied.saturation)
        still = np.array_equal(matrix, np.eye(3))
        arrays = sample.arrays if still else warp(self.fields, sample.arrays, matrix, (height, width))
        return sample.with_arrays({**arrays, "image": colour(arrays["image"], generator)})
