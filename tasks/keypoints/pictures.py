"""Pictures, videos and labels of a keypoint task: what is read, how it is split, and the samples that are cut of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from config import TaskConfig
from tasks.base import Finding, Item, Sample
from tasks.keypoints.results import is_overlay
from tasks.splits import OTHER_PICTURES, settle_lists, split_list
from utils.crops import (
    box_of_points,
    box_of_polygon,
    canvas_of,
    crop_of_box,
    drop_outside,
    move_boxes,
    move_points,
    warp_picture,
    whole_picture,
)
from utils.errors import DataError, SettingsError
from utils.files import digest_json, file_stamp
from utils.formats.picture_sizes import picture_size
from utils.formats.pictures import picture_bytes
from utils.formats.read import read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton
from utils.inputs import find_inputs
from utils.splits import nearest, read_list
from utils.videos import VideoReader, is_video

logger = logging.getLogger(__name__)

REACH = 3.0  # how many times as wide or high as its picture a box may be; a crop of a larger one shows nothing
NUMBER_AT_END = re.compile(r"[\W_]*\d+$")


@dataclass(frozen=True)
class PoseItem(Item):
    """A picture, or the frames of a video.

    Parameters
    ----------
    picture : AnnotatedPicture
        Where it is, and the animals that are known in it; a video knows none.
    split : str
        What it is for.
    first_frame : int
        Of a video: where to begin.

    Examples
    --------
    >>> PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").labels_digest == labels_digest(())
    True
    """

    picture: AnnotatedPicture
    split: str
    first_frame: int = 0

    @property
    def labels_digest(self) -> str:
        """Digest of the animals that are known in it.

        Examples
        --------
        >>> len(PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").labels_digest)
        32
        """
        return labels_digest(self.picture.instances)

    def stamp(self) -> list:
        """Say when the picture or its labels changed.

        Examples
        --------
        >>> PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").stamp()[:2]
        ['a', []]
        """
        return [self.id, [file_stamp(path) for path in self.sources], self.labels_digest]


def labels_digest(instances: Iterable[Instance]) -> str:
    """Digest what a sample takes from labels: points, boxes and outlines.

    Examples
    --------
    >>> animal = Instance("fly", np.array([[1.0, 2.0, 2.0]]))
    >>> labels_digest([animal]) == labels_digest([replace(animal, is_crowd=True)])
    False
    """

    def listed(array: np.ndarray | None) -> Any:
        return None if array is None else np.nan_to_num(array, nan=-1.0).tolist()

    return digest_json(
        [
            [
                animal.category,
                listed(animal.keypoints),
                listed(animal.box_xyxy),
                [listed(part) for part in animal.polygons],
                animal.is_crowd,
            ]
            for animal in instances
        ]
    )


class PoseData:
    """Everything that is read from disk for keypoints.

    Parameters
    ----------
    name : str
        The task, for the names of split lists.
    settings : TaskConfig
        Paths, data set and sizes.
    multiple : callable
        Gives what both sides of a canvas are multiples of: the patch of the backbone.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.keypoints.example import animals_example
    >>> data = animals_example(tempfile.mkdtemp())[0].data
    >>> data.skeleton.names[:2], len(data.pictures)
    (('snout', 'left_ear'), 12)
    """

    def __init__(self, name: str, settings: TaskConfig, multiple: Any):
        self.name = name
        self.settings = settings
        self.own = settings.keypoints
        self.multiple = multiple
        self.fixed: dict[str, Any] = {}  # what a checkpoint says in place of the labels

    # -- labels

    @cached_property
    def sets(self) -> dict[str, AnnotationSet]:
        """Labelled pictures by split; `all` where the source knows no splits.

        Raises
        ------
        SettingsError, DataError
            If no labels are named, or nothing can be read.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> list(animals_example(tempfile.mkdtemp())[0].data.sets)
        ['train', 'val']
        """
        source = self.settings.paths.resolve("label_path")
        if source is None:
            raise SettingsError(
                "paths.label_path: not set; name the labels: a data.yaml, a COCO json, a LabelMe folder or a csv"
            )
        if not Path(source).exists():
            raise DataError(f"paths.label_path: {source}: no such file or folder; give a data set file or a folder")
        names = None
        if self.own.names_file is not None:
            names = read_list(Path(self.settings.paths.locate(self.own.names_file)))
        return read_poses(source, self.own.format, self.settings.paths.data_root, names)

    @cached_property
    def skeleton(self) -> Skeleton:
        """The keypoints; those of a checkpoint where the task was made from one.

        Raises
        ------
        SettingsError
            If the labels hold several skeletons and none is chosen.
        DataError
            If splits disagree on it.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data.skeleton.flip_idx
        (0, 2, 1, 4, 3, 5, 6)
        """
        if "skeleton" in self.fixed:
            return self.fixed["skeleton"]
        wanted = self.own.category
        known = join_skeletons(self.sets, wanted)
        if wanted is not None and wanted not in known:
            raise SettingsError(f"keypoints.category: no {wanted!r} in the labels; {nearest(wanted, sorted(known))}")
        chosen = {skeleton.names: skeleton for name, skeleton in known.items() if wanted in (None, name)}
        if len(chosen) != 1:
            raise SettingsError(
                f"keypoints.category: the labels hold {', '.join(sorted(known))} with {len(chosen)} different sets of "
                "keypoints; choose one of them"
            )
        return next(iter(chosen.values()))

    @cached_property
    def faults(self) -> dict[str, Finding]:
        """What makes a box unusable, by picture; the first of each.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp())[0].data
        >>> data.sets["val"].pictures[1].instances[0].box_xyxy[2] = 1e300
        >>> print(*data.faults.values())
        images/val_001: animal 1: its box of 1e+300 x 67 pixels is more than 3 times as wide or high as the picture; \
correct or remove it
        """
        found: dict[str, Finding] = {}
        for picture in (picture for part in self.sets.values() for picture in part.pictures):
            fault = next(box_faults(filter(self._counts, picture.instances), picture.size), None)
            if fault is not None:
                found.setdefault(picture.id, Finding(picture.id, fault, "correct or remove it"))
        return found

    @cached_property
    def pictures(self) -> dict[str, tuple[str, AnnotatedPicture]]:
        """Every labelled picture by id, with the split that its source puts it in; animals of the chosen kind only.

        Pictures of whose labels something could not be read are left out, since what is missing there would be
        taught as "no animal here"; `verify` tells what to mend.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> sorted({split for split, _ in animals_example(tempfile.mkdtemp())[0].data.pictures.values()})
        ['train', 'val']
        """
        found: dict[str, tuple[str, AnnotatedPicture]] = {}
        incomplete: list[str] = []
        for split, part in self.sets.items():
            for picture in part.pictures:
                if picture.extra.get("incomplete") or picture.id in self.faults:
                    incomplete.append(picture.id)
                    continue
                if picture.id in found:
                    raise DataError(f"{picture.path}: stands in {found[picture.id][0]} and in {split}; keep one")
                found[picture.id] = split, replace(picture, instances=tuple(filter(self._counts, picture.instances)))
        if incomplete:
            told = f"{len(incomplete)} pictures, such as {incomplete[0]}, have labels that cannot be read or used whole"
            if not found:
                raise DataError(f"{self.settings.paths.label_path}: all {told}; first: {next(self.problems())}")
            logger.warning("%s; they are left out until that is mended, see the report of verify", told)
        return found

    def split_sets(self) -> dict[str, AnnotationSet]:
        """All labels, every kind of animal, divided as the splits are.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> sets = animals_example(tempfile.mkdtemp())[0].data.split_sets()
        >>> {split: len(part.pictures) for split, part in sets.items()}
        {'train': 8, 'val': 4}
        """
        whole = {picture.id: picture for part in self.sets.values() for picture in part.pictures}
        skeletons = join_skeletons(self.sets)
        divided = {}
        for split in ("train", "val", "test"):
            ids = [item.picture.id for item in self.items(split)]
            if ids:
                divided[split] = AnnotationSet([whole[id] for id in ids], skeletons)
        return divided

    def _counts(self, animal: Instance) -> bool:
        """Whether an animal is of the kind that this task learns.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp())[0].data
        >>> data._counts(Instance("animal", np.zeros((7, 3)))), data._counts(Instance("animal", np.zeros((3, 3))))
        (True, False)
        """
        fits = len(animal.keypoints) == self.skeleton.num_keypoints
        return fits and self.own.category in (None, animal.category)

    @cached_property
    def most(self) -> int:
        """Most animals of a sample.

        Raises
        ------
        DataError
            If a picture holds more than `keypoints.max_instances`.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data.most
        3
        """
        if "most" in self.fixed:
            return self.fixed["most"]
        if self.own.instance_mode == "per_instance":
            return 1
        numbers = {picture.path: len(usable(picture)) for _, picture in self.pictures.values()}
        fullest = max(numbers, key=lambda path: numbers[path])
        if numbers[fullest] > self.own.max_instances:
            raise DataError(
                f"{fullest}: {numbers[fullest]} animals, but keypoints.max_instances is {self.own.max_instances}; "
                "raise it, or set keypoints.instance_mode: per_instance"
            )
        return max(numbers[fullest], 1)

    @cached_property
    def canvas(self) -> tuple[int, int]:
        """Height and width of every sample.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data.canvas
        (96, 128)
        """
        if "canvas" in self.fixed:
            return self.fixed["canvas"]
        side, multiple = self.own.short_side, self.multiple()
        if self.own.instance_mode == "per_instance":
            return canvas_of([(1, 1)], side, multiple)
        sizes = [picture.size for _, picture in self.pictures.values() if picture.size is not None]
        if not sizes:
            raise DataError(f"{self.settings.paths.resolve('label_path')}: none of its pictures can be read")
        return canvas_of(sizes, side, multiple)

    # -- items

    def items(self, split: str) -> list[PoseItem]:
        """Pictures of a split, or what inference is to predict.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> [len(animals_example(tempfile.mkdtemp())[0].data.items(split)) for split in ("train", "val", "test")]
        [8, 4, 0]
        """
        if split == "inference":
            return self._inference_items()
        chosen = self._listed(split) if self._has_lists(split) else self._own_split(split)
        if split != "train":
            self._refuse_overlap(split, chosen)
        return [PoseItem(picture.id, (picture.path,), picture, split) for picture in chosen]

    def _has_lists(self, split: str) -> bool:
        """Whether a list says what a split holds; else the labels' own splits do.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data._has_lists("train")
        False
        """
        named = getattr(self.settings.dataset.splits, f"{split}_list")
        return named is not None or (split != "test" and not {"train", "val"} <= set(self.sets))

    def has_lists(self) -> bool:
        """Whether lists, and not the labels, say which pictures train and which judge.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data.has_lists()
        False
        """
        return self._has_lists("train") or self._has_lists("val")

    def is_split(self) -> bool:
        """Whether it is known which pictures train and which judge; else prepare writes the lists.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data.is_split()
        True
        """
        lists = [split_list(self.name, self.settings, split) for split in ("train", "val") if self._has_lists(split)]
        return all(path is not None and path.exists() for path in lists)

    def _own_split(self, split: str) -> list[AnnotatedPicture]:
        """Pictures that the labels put in a split.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data._own_split("val")[0].size
        (192, 256)
        """
        return [picture for known, picture in self.pictures.values() if known == split]

    def _listed(self, split: str) -> list[AnnotatedPicture]:
        """Pictures of a split list.

        Raises
        ------
        DataError
            If the list is absent, or names no picture.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp(), "dataset.splits.val_list=no.txt")[0].data._listed("val")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: no.txt: no such split list; run prepare, which writes it, or write it yourself
        """
        path = split_list(self.name, self.settings, split)
        assert path is not None
        if not path.exists():
            raise DataError(f"{path}: no such split list; run prepare, which writes it, or write it yourself")
        chosen = []
        for name in read_list(path):
            if name not in self.pictures:
                known = nearest(name, sorted(self.pictures))
                raise DataError(f"{path}: no labelled picture {name!r}; {known}; {OTHER_PICTURES}")
            chosen.append(self.pictures[name][1])
        return chosen

    def _refuse_overlap(self, split: str, chosen: Sequence[AnnotatedPicture]) -> None:
        """Refuse pictures that both train and judge.

        Raises
        ------
        DataError
            If there is one.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp())[0].data
        >>> data._refuse_overlap("val", data._own_split("val"))
        >>> data._refuse_overlap("val", data._own_split("train"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: the labels' val: images/train_000 is of train too; scores on a picture that was \
trained on mean nothing, so take it out of one of them
        """
        listed = self._has_lists("train")
        path = split_list(self.name, self.settings, "train")
        if listed and not (path and path.exists()):  # judging alone needs no list of train
            return
        training = {picture.id for picture in (self._listed("train") if listed else self._own_split("train"))}
        for picture in chosen:
            if picture.id in training:
                named = split_list(self.name, self.settings, split) if self._has_lists(split) else None
                where = named or f"the labels' {split}"
                raise DataError(
                    f"{where}: {picture.id} is of train too; scores on a picture that was trained on mean nothing, so "
                    "take it out of one of them"
                )

    def settle_split(self) -> None:
        """Write the split lists where the labels know no splits and nobody named lists.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data.settle_split()
        """
        if self.has_lists():
            how = (
                f"seed {self.settings.resources.seed}, val_fraction {self.settings.train.val_fraction:g}, "
                f"by {self.own.split_by}"
            )
            settle_lists(self.name, self.settings, self.draw_split, how, self.pictures)

    def draw_split(self) -> tuple[list[str], list[str]]:
        """Choose groups of pictures for validation until their share is reached.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> [len(part) for part in animals_example(tempfile.mkdtemp())[0].data.draw_split()]
        [10, 2]
        """
        groups: dict[str, list[str]] = {}
        for name, (_, picture) in self.pictures.items():
            groups.setdefault(group_of(picture, self.own.split_by), []).append(name)
        if len(groups) < 2:
            raise DataError(
                f"keypoints.split_by: {self.own.split_by} gives a single group of pictures, so that none is left for "
                "validation; choose another, or write the split lists yourself"
            )
        wanted = self.settings.train.val_fraction * len(self.pictures)
        order = np.random.default_rng(self.settings.resources.seed).permutation(sorted(groups)).tolist()
        val: list[str] = []
        for group in order[:-1]:
            if not val or len(val) + len(groups[group]) / 2 <= wanted:
                val += groups[group]
        return sorted(set(self.pictures) - set(val)), sorted(val)

    def _inference_items(self) -> list[PoseItem]:
        """Pictures and videos to predict, with prompts where animals are cropped.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> [item.id for item in animals_example(tempfile.mkdtemp())[0].data.items("inference")]
        ['val_000', 'val_001', 'val_002', 'val_003']
        """
        named = self.settings.inference.input_tif
        if named is None:
            raise SettingsError(
                "inference.input_tif: not set; name what to predict: pictures, videos, folders, globs or a list of them"
            )
        sources = [self.settings.paths.locate(entry) for entry in ([named] if isinstance(named, str) else named)]
        try:
            found = name_inputs(find_inputs(sources, is_result=is_overlay))
        except DataError as error:
            raise DataError(f"inference.input_tif: {error}") from error
        prompts = self._prompts(found) if self.own.instance_mode == "per_instance" else {}
        return [
            PoseItem(name, (path,), AnnotatedPicture(name, path, None, prompts.get(name, ())), "inference")
            for name, path in found.items()
        ]

    def _prompts(self, found: dict[str, Path]) -> dict[str, tuple[Instance, ...]]:
        """Boxes of animals from LabelMe files with the pictures' names.

        Raises
        ------
        SettingsError, DataError
            If no folder is named, or a picture has no boxes there.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp(), "keypoints.instance_mode=per_instance")[0].data
        >>> data._prompts({"a": Path("a.png")})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: keypoints.prompts: not set; per_instance needs to know where animals are: ...
        """
        named = self.own.prompts
        if named is None:
            raise SettingsError(
                "keypoints.prompts: not set; per_instance needs to know where animals are: name a folder of LabelMe "
                "files with a rectangle around each, or set keypoints.instance_mode: whole"
            )
        drawn = {}
        for part in read_poses(self.settings.paths.locate(named), "labelme").values():
            drawn.update({Path(picture.id).name: picture for picture in part.pictures})
        missing = [name for name in found if name not in drawn or not drawn[name].instances]
        if missing:
            raise DataError(f"keypoints.prompts: no rectangle for {found[missing[0]]} in {named}; draw one per animal")
        for name in found:
            for fault in box_faults(drawn[name].instances, drawn[name].size):
                raise DataError(f"keypoints.prompts: {named}: {name}: {fault}; correct or remove it")
        return {name: drawn[name].instances for name in found}

    # -- samples

    def samples(self, item: PoseItem) -> Iterator[Sample]:
        """Cut the samples of an item, frame by frame and animal by animal.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp())[0].data
        >>> sample = next(data.samples(data.items("train")[0]))
        >>> {name: array.shape for name, array in sample.arrays.items()}["keypoints"]
        (3, 7, 3)
        """
        for frame, image in self._frames(item):
            for index, matrix, animals in self._places(item, image.shape[:2]):
                name = f"{item.id}#{frame}.{index}"
                yield Sample(name, item, self._arrays(image, matrix, animals, (frame, index)))

    def _frames(self, item: PoseItem) -> Iterator[tuple[int, np.ndarray]]:
        """The picture of an item as frame 0, or the frames of a video.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp())[0].data
        >>> [(frame, image.shape) for frame, image in data._frames(data.items("val")[0])]
        [(0, (192, 256, 3))]
        """
        path = item.picture.path
        if is_video(path):
            with VideoReader(path) as video:
                yield from enumerate(video.frames(item.first_frame), start=item.first_frame)
        else:
            yield 0, decode_picture(item.picture)

    def _places(self, item: PoseItem, size: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray, Sequence[Instance]]]:
        """Where samples lie in a picture: its whole, or the surroundings of each animal.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp())[0].data
        >>> [(index, matrix[0, 0]) for index, matrix, _ in data._places(data.items("val")[0], (192, 256))]
        [(0, np.float64(0.5))]
        """
        if self.own.instance_mode == "whole":
            yield 0, whole_picture((size[0], size[1]), self.canvas), item.picture.instances
            return
        for fault in box_faults(item.picture.instances, (size[0], size[1])):
            raise DataError(f"{item.picture.path}: {fault}; correct or remove it")
        for index, animal in enumerate(item.picture.instances):
            box = box_of(animal)
            if box is not None and not animal.is_crowd:
                yield index, crop_of_box(box, self.canvas, self.own.bbox_scale), [animal]

    def _arrays(
        self, image: np.ndarray, matrix: np.ndarray, animals: Sequence[Instance], place: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Lay a picture and its animals on the canvas.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp())[0].data
        >>> arrays = data._arrays(np.zeros((192, 256, 3), np.uint8), np.diag([0.5, 0.5, 1.0]), [], (0, 0))
        >>> arrays["valid"].all(), arrays["keypoints"].any()
        (np.True_, np.False_)
        """
        laid, valid = warp_picture(image, matrix, self.canvas)
        for animal in animals:
            if animal.is_crowd:
                hide(valid, box_of(animal), matrix)
        seen = [animal for animal in animals if is_usable(animal)][: self.most]
        keypoints = np.zeros((self.most, self.skeleton.num_keypoints, 3), np.float32)
        boxes = np.zeros((self.most, 4), np.float32)
        for row, animal in enumerate(seen):
            keypoints[row] = drop_outside(move_points(animal.keypoints, matrix), self.canvas)
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

    # -- checks

    def problems(self) -> Iterator[Finding]:
        """What readers skipped or doubted.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> list(animals_example(tempfile.mkdtemp())[0].data.problems())
        []
        """
        for part in self.sets.values():
            for problem in part.problems:
                yield Finding(problem.where, problem.what, problem.cure)
        yield from self.faults.values()

    def warn_of_problems(self) -> None:
        """Say once how much readers skipped or doubted, for those who do not run verify.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> data = animals_example(tempfile.mkdtemp())[0].data
        >>> data.warn_of_problems(), len(list(data.problems()))
        (None, 0)
        """
        found = list(self.problems())
        if found:
            logger.warning("%d problems in the labels, which verify lists; the first: %s", len(found), found[0])

    def first_split(self) -> str:
        """The first split that has pictures: with it verify tells what readers skipped.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].data.first_split()
        'train'
        """
        return next((split for split in ("train", "val", "test") if self.items(split)), "train")


def join_skeletons(sets: Mapping[str, AnnotationSet], wanted: str | None = None) -> dict[str, Skeleton]:
    """Skeletons of all splits by category.

    Raises
    ------
    DataError
        If splits disagree on the wanted category, or on any where none is named: one would be read as the other.

    Examples
    --------
    >>> sets = {split: AnnotationSet([], {"fox": Skeleton((split, "tail"))}) for split in ("train", "val")}
    >>> list(join_skeletons(sets, "wolf"))
    ['fox']
    >>> join_skeletons(sets)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: category 'fox': keypoint 1 is 'train' in train and 'val' in val; give both splits the \
same skeleton, or the category another name
    """
    found: dict[str, tuple[str, Skeleton]] = {}
    for split, part in sets.items():
        for name, skeleton in part.skeletons.items():
            first, known = found.setdefault(name, (split, skeleton))
            if skeleton != known and wanted in (None, name):
                what = skeleton_difference(known, skeleton).format(first=first, second=split)
                cure = "give both splits the same skeleton, or the category another name"
                raise DataError(f"category {name!r}: {what}; {cure}")
    return {name: skeleton for name, (_, skeleton) in found.items()}


def skeleton_difference(first: Skeleton, second: Skeleton) -> str:
    """Say what two skeletons differ in; `{first}` and `{second}` stand for where they are.

    Examples
    --------
    >>> skeleton_difference(Skeleton(("a",)), Skeleton(("a", "b")))
    '1 keypoints in {first} and 2 in {second}'
    >>> skeleton_difference(Skeleton(("a", "b"), (1, 0)), Skeleton(("a", "b")))
    'flip_idx is (1, 0) in {first} and None in {second}'
    """
    if first.num_keypoints != second.num_keypoints:
        return f"{first.num_keypoints} keypoints in {{first}} and {second.num_keypoints} in {{second}}"
    for index, (one, other) in enumerate(zip(first.names, second.names, strict=True), start=1):
        if one != other:
            quoted = [repr(name).replace("{", "{{").replace("}", "}}") for name in (one, other)]
            return f"keypoint {index} is {quoted[0]} in {{first}} and {quoted[1]} in {{second}}"
    if first.flip_idx != second.flip_idx:
        return f"flip_idx is {first.flip_idx} in {{first}} and {second.flip_idx} in {{second}}"
    return "the edges in {first} are others than in {second}"


def decode_picture(picture: AnnotatedPicture) -> np.ndarray:
    """Read a picture as it is displayed, (H, W, 3) uint8, red first; embedded ones too.

    Raises
    ------
    DataError
        If it is no picture, or a larger one than can be worked on.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> _ = path.write_bytes(cv2.imencode(".png", np.full((2, 3, 3), (9, 0, 0), np.uint8))[1].tobytes())
    >>> decode_picture(AnnotatedPicture("a", path, None, ()))[0, 0].tolist()
    [0, 0, 9]
    """
    data = picture_bytes(picture)
    picture_size(data, picture.path)  # before memory is taken for what its header claims
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # it has limits of its own on what a header may say
        decoded = None
    if decoded is None:
        raise DataError(f"{picture.path}: cannot be decoded as a picture; is it cut off? take another copy")
    return np.ascontiguousarray(decoded[..., ::-1])


def is_usable(animal: Instance) -> bool:
    """Whether an animal teaches something: told apart, and with a point.

    Examples
    --------
    >>> is_usable(Instance("fly", np.array([[1.0, 2.0, 0.0]]))), is_usable(Instance("fly", np.array([[1.0, 2.0, 1.0]])))
    (False, True)
    """
    return not animal.is_crowd and bool((animal.keypoints[:, 2] > 0).any())


def usable(picture: AnnotatedPicture) -> list[Instance]:
    """The animals of a picture that teach something.

    Examples
    --------
    >>> usable(AnnotatedPicture("a", Path("a.png"), (4, 6), ()))
    []
    """
    return [animal for animal in picture.instances if is_usable(animal)]


def box_of(animal: Instance) -> np.ndarray | None:
    """Where an animal is: its box, the box of its outline, or one around its points; None where nothing is known.

    Examples
    --------
    >>> box_of(Instance("fly", np.array([[10.0, 20.0, 2.0], [30.0, 20.0, 2.0]]))).tolist()
    [2.0, 12.0, 38.0, 28.0]
    """
    if animal.box_xyxy is not None:
        return animal.box_xyxy
    if animal.polygons:
        return box_of_polygon(*animal.polygons)
    return box_of_points(animal.keypoints)


def box_faults(animals: Iterable[Instance], size: tuple[int, int] | None) -> Iterator[str]:
    """Say of each animal what makes its box unusable: it has no area, or is far larger than its picture.

    Of an animal that has only points, they are what may reach too far: the box around them always has an area.

    Examples
    --------
    >>> flat, wide = (Instance("fly", np.zeros((1, 3)), np.array(box)) for box in ([3.0, 4, 3, 9], [0.0, 0, 1e9, 5]))
    >>> list(box_faults([flat, wide], (4, 6)))[0]
    'animal 1: its box has no area (0 x 5 pixels)'
    >>> list(box_faults([flat, wide], (4, 6)))[1]
    'animal 2: its box of 1e+09 x 5 pixels is more than 3 times as wide or high as the picture'
    >>> list(box_faults([Instance("fly", np.array([[2.0, 2.0, 2.0]]))], (4, 6)))
    []
    """
    for index, animal in enumerate(animals, start=1):
        is_drawn = animal.box_xyxy is not None or bool(animal.polygons)
        box = box_of(animal) if is_drawn else box_of_points(animal.keypoints, margin=0, least=0)
        if box is None:
            continue
        width, height = box[2:] - box[:2]
        if is_drawn and not min(width, height) > 0:
            yield f"animal {index}: its box has no area ({width:g} x {height:g} pixels)"
        elif size is not None and not (width <= REACH * size[1] and height <= REACH * size[0]):
            what = f"its box of {width:.4g} x {height:.4g} pixels"
            yield f"animal {index}: {what} is more than {REACH:g} times as wide or high as the picture"


def hide(valid: np.ndarray, box_xyxy: np.ndarray | None, matrix: np.ndarray) -> None:
    """Mark the ground of a crowd as not valid: nobody told its animals apart, so it teaches nothing.

    Examples
    --------
    >>> valid = np.ones((2, 4), bool)
    >>> hide(valid, np.array([1.0, 0.0, 3.0, 1.0]), np.eye(3))
    >>> valid.tolist()
    [[True, False, False, True], [True, True, True, True]]
    """
    if box_xyxy is None:
        return
    left, top, right, bottom = move_boxes(box_xyxy, matrix).clip(0, None)
    valid[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = False


def group_of(picture: AnnotatedPicture, split_by: str) -> str:
    """What a picture must stay together with in the default split.

    Examples
    --------
    >>> picture = AnnotatedPicture("day1/cam_0012", Path("day1/cam_0012.png"), None, ())
    >>> [group_of(picture, by) for by in ("picture", "folder", "stem")]
    ['day1/cam_0012', 'day1', 'day1/cam']
    """
    if split_by == "folder":
        return picture.id.rpartition("/")[0]
    return NUMBER_AT_END.sub("", picture.id) if split_by == "stem" else picture.id


def name_inputs(paths: Sequence[Path]) -> dict[str, Path]:
    """Give inputs their ids, which are also the names of their results.

    Raises
    ------
    DataError
        If two share a name.

    Examples
    --------
    >>> name_inputs([Path("day1/fox.png"), Path("day2/fox.mp4")])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: day2/fox.mp4: day1/fox.png has the same name, and so would its result; rename one
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise DataError(f"{path}: {found[path.stem]} has the same name, and so would its result; rename one")
        found[path.stem] = path
    return found
