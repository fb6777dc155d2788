"""What tasks share that look for objects in labelled pictures and in videos: items, their splits, and checks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from typing_extensions import override

from config import SampleConfig, expand_path
from tasks.feature_task import FeatureTask
from tasks.features import FeatureService
from tasks.item import Item
from tasks.labels import PictureLabels
from tasks.neighbours import choose_groups, draw_groups, grouped
from tasks.result_files import ResultFiles, refuse_double, refuse_foreign
from tasks.seen import digest_pictures, digest_stream
from tasks.source import ListedSource
from tasks.splits import lists_stay, split_list
from utils.errors import DataError, SettingsError
from utils.formats.convert import convert_labels, is_converted
from utils.formats.pictures import picture_bytes
from utils.formats.types import AnnotatedPicture, AnnotationSet, Skeleton
from utils.media.thumbnails import thumbnail
from utils.media.videos import VideoReader, is_video
from utils.raster.gdal import refuse_other_encoding
from utils.raster.inputs import find_inputs
from utils.raster.pictures import decode_raster, decode_rgb
from utils.samples.files import write_foxes


@dataclass(frozen=True)
class PictureItem(Item):
    """A picture with labelled objects, or the frames of a video.

    Parameters
    ----------
    picture : AnnotatedPicture
        Its path and labelled objects; a video has none.
    split : str
        Split that it belongs to.
    first_frame : int
        First frame of a video to read.
    pixels : ndarray, shape (H, W, 3), optional
        The picture itself, uint8, red first, where it is in no file.

    Examples
    --------
    >>> PictureItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").first_frame
    0
    """

    picture: AnnotatedPicture
    split: str
    first_frame: int = 0
    pixels: np.ndarray | None = field(default=None, compare=False)

    @property
    def labels_digest(self) -> str:
        """Digest of its labelled objects.

        Examples
        --------
        >>> PictureItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").labels_digest
        ''
        """
        return ""

    @property
    def file_name(self) -> str:
        """Its id with the suffix of its file: text in any table, where an id such as 000000000009 is read as a number.

        Examples
        --------
        >>> picture = AnnotatedPicture("09", Path("x/09.jpg"), None, ())
        >>> [PictureItem(name, (), picture, "val").file_name for name in ("09", "x/09")]
        ['09.jpg', 'x/09.jpg']
        """
        suffix = self.picture.path.suffix
        return self.id if self.id.endswith(suffix) else self.id + suffix

    def stamp(self) -> list:
        """Values that change with the picture or its labels.

        Examples
        --------
        >>> PictureItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").stamp()
        ['a', [], '']
        """
        return [*super().stamp(), self.labels_digest]

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """The picture (H, W, 3) as frame 0, or the frames of a video with their numbers.

        Examples
        --------
        >>> picture = AnnotatedPicture("array", Path("array"), (4, 6), ())
        >>> item = PictureItem("array", (), picture, "inference", pixels=np.zeros((4, 6, 3), np.uint8))
        >>> [(frame, image.shape) for frame, image in item.frames()]
        [(0, (4, 6, 3))]
        """
        if is_video(self.picture.path):
            with VideoReader(self.picture.path) as video:
                yield from enumerate(video.frames(self.first_frame), start=self.first_frame)
                self.faults[:] = video.faults
        elif self.first_frame == 0:
            yield 0, decode_picture(self.picture) if self.pixels is None else self.pixels

    def count_frames(self) -> int:
        """About how many frames there are, as a video's header says.

        Examples
        --------
        >>> PictureItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").count_frames()
        1
        """
        return VideoReader(self.picture.path).expect_frames() if is_video(self.picture.path) else 1


PictureT = TypeVar("PictureT", bound=PictureItem)


def decode_picture(picture: AnnotatedPicture) -> np.ndarray:
    """Read a picture as it is displayed, (H, W, 3) uint8, red first; embedded ones too.

    Raises
    ------
    DataError
        If it cannot be decoded or shown in 8 bits, or has too many pixels.

    Examples
    --------
    >>> import cv2, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> _ = path.write_bytes(cv2.imencode(".png", np.full((2, 3, 3), (9, 0, 0), np.uint8))[1].tobytes())
    >>> decode_picture(AnnotatedPicture("a", path, None, ()))[0, 0].tolist()
    [0, 0, 9]
    """
    if picture.path.suffix.lower() == ".vrt":  # its pixels lie in other files
        return decode_raster(picture.path)
    return decode_rgb(picture_bytes(picture), picture.path)


def name_inputs(paths: Sequence[Path]) -> dict[str, Path]:
    """Ids of inputs, which are also the names of their results.

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
    inputs: dict[str, Path] = {}
    for path in paths:
        if path.stem in inputs:
            raise DataError(f"{path}: {inputs[path.stem]} has the same name, and so would its result; rename one")
        inputs[path.stem] = path
    return inputs


class LabelledSource(ListedSource[PictureT]):
    """A source of labelled pictures, whose labels may name the splits, and of videos to predict.

    Parameters
    ----------
    name, settings, features
        As for `FeatureSource`.
    labels : PictureLabels
        The pictures.
    split_by : str
        What stays together in a drawn split: a setting of the kind.
    where : str
        That setting's section, for messages.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> source = pose_task().source
    >>> source.names()[:2], source.named("images/val_000", "val")[0].split
    (['images/train_000', 'images/train_001'], 'val')
    """

    def __init__(
        self, name: str, settings: Any, features: FeatureService, labels: PictureLabels, split_by: str, where: str
    ):
        super().__init__(name, settings, features)
        self.labels, self.split_by, self.where = labels, split_by, where

    @abstractmethod
    def make_item(self, picture: AnnotatedPicture, split: str) -> PictureT:
        """Make the item of a picture or video."""

    @override
    def prepare_data(self) -> None:
        dataset: Any = self.settings.dataset
        sample, target = dataset.sample, dataset.convert_to
        if sample.enable:
            write_foxes(expand_path(sample.folder), seed=sample.seed)
        if self.has_lists():
            self.write_splits()
        if target is not None:
            convert_labels(self.split_sets(), expand_path(target.folder), target.format, **target.how())

    @override
    def preview_data(self) -> str:
        what, dataset = super().preview_data() if self.has_lists() else "", cast(Any, self.settings.dataset)
        target = dataset.convert_to
        if target is None or is_converted(self.split_sets(), expand_path(target.folder), target.format, **target.how()):
            return what
        return f"{what}; writes the labels as {target.format}".removeprefix("; ")

    def categories(self) -> dict[str, Skeleton]:
        """Categories of the labels of all splits, with their skeletons.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> list(fox_task().source.categories())
        ['fox']
        """
        sets = self.labels.sets.values()
        return {name: skeleton for part in sets for name, skeleton in part.skeletons.items()}

    def split_sets(self) -> dict[str, AnnotationSet]:
        """All labels of every category, by split.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> sets = pose_task().source.split_sets()
        >>> {split: len(part.pictures) for split, part in sets.items()}
        {'train': 8, 'val': 4}
        """
        whole = {picture.id: picture for part in self.labels.sets.values() for picture in part.pictures}
        skeletons = self.categories()
        divided = {}
        for split in ("train", "val", "test"):
            ids = [item.picture.id for item in super().items(split)]  # also of pictures that the kind cannot use
            if ids:
                divided[split] = AnnotationSet([whole[id] for id in ids], skeletons)
        return divided

    @override
    def items(self, split: str) -> list[PictureT]:
        if split == "inputs":
            self.labels.warn_of_problems()
        return super().items(split)

    @override
    def picture_digest(self, item: PictureT) -> str:
        picture = item.picture
        embedded = picture.extra.get("image_data") == "embedded"
        return digest_stream(BytesIO(picture_bytes(picture))) if embedded else digest_pictures([picture.path])

    @override
    def left_out(self, split: str) -> str:
        whole = split != "inputs" and self.uses_list(split)  # lists divide what can be used
        reasons = {
            "without a label that can be read": self.labels.unlabelled if split == "inputs" else [],
            "whose labels cannot be read or used whole": self.labels.incomplete(
                None if whole or split == "inputs" else split
            ),
        }
        parts = [f"{len(names)} {why}, such as {', '.join(names[:3])}" for why, names in reasons.items() if names]
        total = sum(map(len, reasons.values()))
        of_all = " of the whole label set" if whole else ""
        return f"{total} pictures{of_all} are left out: {'; '.join(parts)}" if parts else ""

    @override
    def names(self) -> list[str]:
        return sorted(self.labels.pictures)

    @override
    def named(self, name: str, split: str) -> list[PictureT]:
        return [self.make_item(self.labels.pictures[name][1], split)] if name in self.labels.pictures else []

    @override
    def unlisted(self, split: str) -> list[PictureT]:
        return [
            self.make_item(picture, split)
            for labelled_split, picture in self.labels.pictures.values()
            if labelled_split == split
        ]

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

    @override
    def split_recipe(self) -> str:
        seed, fraction = self.settings.resources.seed, self.settings.train.val_fraction
        return f"seed {seed}, val_fraction {fraction:g}, by {self.split_by}"

    @override
    def draw_split(self) -> tuple[list[str], list[str]]:
        pictures = self.labels.pictures
        names = [
            item.id for item in self.without_test(self.make_item(picture, "train") for _, picture in pictures.values())
        ]
        by = self.split_by
        if by == "auto":
            cure = "write the split lists yourself, whole videos in each"
            by = choose_groups(names, lambda name: thumbnail(decode_picture(pictures[name][1])), cure)
        groups = grouped(names, by)
        if len(groups) < 2:
            raise DataError(
                f"{self.where}.split_by: {by} gives a single group of pictures, so that none is left for validation; "
                "choose another, or write the split lists yourself"
            )
        val = draw_groups(groups, self.settings.train.val_fraction, self.settings.resources.seed)
        return sorted(set(names) - set(val)), val

    @override
    def input_items(self, sources: list[str]) -> list[PictureT]:
        return [
            self.make_item(AnnotatedPicture(name, path, None, ()), "inference")
            for name, path in self.find_inputs(sources).items()
        ]

    def find_inputs(self, sources: list[str]) -> dict[str, Path]:
        """Pictures and videos to predict, by their ids; those whose names no table can hold are left out, and told.

        Raises
        ------
        DataError
            If there is none, or two share a name.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().source.find_inputs(["/no/such.png"])
        Traceback (most recent call last):
            ...
        utils.errors.DataError: inference.inputs: /no/such.png: no such file or folder
        """
        try:
            inputs = name_inputs(find_inputs(sources, is_result=self.labels.is_result))
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
        return inputs

    @override
    @contextmanager
    def in_memory(self, image: np.ndarray, prompts: Any = None) -> Iterator[Item]:
        if image.dtype != np.uint8 or image.shape[2] != 3:
            raise ValueError(f"expected a picture (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
        picture = AnnotatedPicture("array", Path("array"), (image.shape[0], image.shape[1]), tuple(prompts or ()))
        yield replace(self.make_item(picture, "inference"), sources=(), pixels=image)

    @override
    def continue_from(self, item: PictureT, resume: int) -> PictureT:
        return replace(item, first_frame=resume)


class LabelledTask(FeatureTask):
    """A task on a `LabelledSource`.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> pose_task().split_sizes()
    '8 pictures to train on, 4 to validate'
    """

    source: LabelledSource

    @abstractmethod
    def result_files(self, folder: Path) -> ResultFiles:
        """What inference writes into a folder."""

    def check_inputs(self) -> None:
        """Check the inputs of inference, and that results overwrite no file of a person.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> folder = tempfile.mkdtemp()
        >>> task, _ = animals_example(folder, f"inference.output_dir={folder}/animals/images")
        >>> task.check_inputs()
        >>> _ = (Path(folder) / "animals/images/val_000.json").write_text("{}")
        >>> task.check_inputs()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: .../val_000.json: already exists and was not written by inference; ...
        """
        output_dir = self.settings.inference.output_dir
        items = self.source.items("inference")
        # in the run's folder no other files are expected
        files = self.result_files(Path(expand_path(output_dir)) if output_dir else Path("predictions"))
        refuse_double(items, files)
        if output_dir:
            refuse_foreign(items, files)

    def split_sizes(self) -> str:
        """Say how many pictures train and validation have, without writing lists.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task("paths.label_path=annotations/train.json").split_sizes()
        '6 pictures to train on, 2 to validate, once prepare has split them'
        """
        if self.source.has_lists():
            self.source.check_lists()
        if not self.source.is_split() or (self.source.has_lists() and not lists_stay(self.name, self.settings)):
            train, val = self.source.draw_split()
            return f"{len(train)} pictures to train on, {len(val)} to validate, once prepare has split them"
        return f"{len(self.source.items('train'))} pictures to train on, {len(self.source.items('val'))} to validate"

    def check_test_split(self) -> None:
        """Refuse to score a test split that neither a list nor the labels name.

        Raises
        ------
        SettingsError
            If there is none.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task("evaluate.split=test").check_test_split()
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: evaluate.split: test, but the labels name train, val, and dataset.splits.test_list \
is not set; name a list, or score val
        """
        if "test" not in self.settings.evaluate.splits or self.settings.dataset.splits.test_list is not None:
            return
        if "test" not in self.source.labels.sets:
            named = ", ".join(split for split in self.source.labels.sets if split != "all") or "no split"
            raise SettingsError(
                f"evaluate.split: test, but the labels name {named}, and dataset.splits.test_list is not set; "
                "name a list, or score val"
            )

    @override
    @classmethod
    def settings_for_named(cls, settings: Any) -> Any:
        paths = settings.paths.model_copy(update={"label_path": settings.evaluate.labels})
        dataset = settings.dataset.model_copy(update={"sample": SampleConfig(), "convert_to": None})
        return settings.model_copy(update={"paths": paths, "dataset": dataset})
