"""The source of a task: items, samples, labels, and the records of the store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar
from zlib import crc32

import numpy as np
from typing_extensions import override

from config import TaskConfig
from tasks.belief import Place
from tasks.features import FeatureService
from tasks.item import Finding, Item, Piece
from tasks.sample import Producer, Request, Sample
from tasks.seen import digest_pictures
from tasks.splits import (
    LIST_SPLITS,
    OTHER_PICTURES,
    as_names,
    check_fraction,
    lists_stay,
    read_list,
    refuse_absent_test,
    settle_lists,
    split_list,
    warn_of_absent,
)
from utils.errors import DataError, SettingsError
from utils.geometry.augment import IDENTITY, Variation, View, views_of
from utils.geometry.fields import STANDARD_FIELDS, Fields, apply_view
from utils.runtime.files import digest_json
from utils.runtime.setting_errors import suggest

ItemT = TypeVar("ItemT", bound=Item)  # the items of a kind of task


class Source(ABC, Generic[ItemT]):
    """Gives the items of each split and their samples; phases read data through it and nothing else.

    Parameters
    ----------
    name : str
        The task's name, which is in the names of its split lists.
    settings : TaskConfig
        All settings of the task.

    Attributes
    ----------
    unreadable : mapping of str to DataError
        Inputs of inference that `items` left out because they cannot be opened.
    """

    unreadable: Mapping[str, DataError] = MappingProxyType({})

    def __init__(self, name: str, settings: TaskConfig):
        self.name = name
        self.settings = settings

    # -- items

    def prepare_data(self) -> None:
        """Write the files that the splits need, such as lists of a drawn split; runs first, on rank 0."""

    def preview_data(self) -> str:
        """Find out what `prepare_data` would write, keep it in memory, and say it; empty for nothing."""
        return ""

    @abstractmethod
    def items(self, split: str) -> list[ItemT]:
        """Give the items of `train`, `val`, `test`, `inference`, or `inputs` for those of `evaluate.inputs`."""

    def partition(self, items: Sequence[ItemT]) -> list[list[ItemT]]:
        """Divide items into groups, such as bands of a raster or whole videos; one rank processes a group."""
        return [[item] for item in items]

    def continue_from(self, item: ItemT, resume: int) -> ItemT:
        """Remove from an item what a sink has already written."""
        return item

    def in_memory(self, image: np.ndarray, prompts: Any = None) -> AbstractContextManager[Item]:
        """Give an item of a picture (H, W, C) that is in no file, to be predicted while the context is open.

        Raises
        ------
        TypeError
            If the task predicts no pictures.
        """
        raise TypeError(f"{type(self).__name__} predicts no pictures in memory")

    def picture_digest(self, item: ItemT) -> str:
        """Digest the picture of an item, by which it is known again under another name."""
        return digest_pictures(item.sources)

    def left_out(self, split: str) -> str:
        """Describe which pictures of a split, or of the "inputs", are not used, and why; empty if all are used."""
        return ""

    @abstractmethod
    def samples(self, item: ItemT) -> Iterator[Sample]:
        """Read an item's samples in order; reading is lazy."""

    def place(self, item: ItemT) -> Place | None:
        """Say where an item lies, to find items of the same place; None where that is not known."""
        return None

    def count_samples(self, item: ItemT) -> int:
        """At most how many samples an item gives; known without reading."""
        return 1

    @abstractmethod
    def truth(self, piece: Piece) -> Any:
        """Read the label of what a piece shows, in the item's own pixels."""

    def audit(self, items: Iterable[ItemT]) -> Iterator[Finding]:
        """Look for pictures and labels that cannot be used."""
        yield from ()

    def sample_stats(self, sample: Sample) -> dict[str, Any]:
        """Give numbers of a sample for later use without reading it, such as pixels per class."""
        return {}

    # -- stored records

    @property
    def fields(self) -> Fields:
        """Kind of each field of a sample, by which it is turned, warped, padded and stacked."""
        return STANDARD_FIELDS

    def cell_size(self) -> int:
        """Give the pixels per side of the largest cell of the feature maps."""
        return 1

    def cache_key(self) -> dict[str, Any]:
        """Give everything that the stored samples of an item depend on, besides its files."""
        return {}

    def views(self, split: str) -> Sequence[View | Variation]:
        """Give the views of each sample that are stored."""
        return [IDENTITY]

    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        """Vary a sample at random; all samples keep their size, or all get one size."""
        return sample

    def apply_view(self, sample: Sample, view: View | Variation) -> Sample:
        """Turn a sample, or vary it at random; its id and the number of the variation are the seed."""
        plain, generator = self.draw_view(sample.id, view)
        arrays = apply_view(self.fields, sample.arrays, plain)
        turned = sample.with_arrays(arrays, view=sample.view.compose(plain))
        return turned if isinstance(view, View) else self.augment(turned, generator)

    def draw_view(self, sample_id: str, view: View | Variation) -> tuple[View, np.random.Generator]:
        """Give the flip and turn of a view or variation of a sample, and the generator for further variation."""
        generator = np.random.default_rng([crc32(sample_id.encode()), 0 if isinstance(view, View) else view.index])
        if isinstance(view, View):
            return view, generator
        plain = [stored for stored in self.views("train") if isinstance(stored, View)]
        return plain[int(generator.integers(len(plain)))], generator

    def requests(self, sample: Sample) -> list[Request]:
        """Give the records to compute and store for a sample."""
        return []

    def producers(self) -> dict[str, Producer]:
        """Give the functions that compute the requests, by name."""
        return {}

    def record_bytes(self) -> int:
        """Give the size of the records of one view of a sample."""
        return 0

    def sample_bytes(self) -> int:
        """Give the size of a sample's record."""
        return 0


class FeatureSource(Source[ItemT]):
    """A source whose samples are pictures for the frozen backbone.

    Parameters
    ----------
    name, settings
        As for `Source`.
    features : FeatureService
        The backbone and its stored maps.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task("dataset.augmentations={enable: true, hflip: true, vflip: true, stored_views: 2}")
    >>> [view.name for view in task.source.views("train")]
    ['identity', 'hflip']
    >>> task = scene_task("dataset.augmentations={enable: true, brightness: 0.2, stored_variations: 2}")
    >>> [variation.index for variation in task.source.views("train")[-2:]]
    [1, 2]
    """

    def __init__(self, name: str, settings: TaskConfig, features: FeatureService):
        super().__init__(name, settings)
        self.features = features

    @abstractmethod
    def sample_size(self) -> tuple[int, int]:
        """Give height and width of a sample's picture."""

    def image_channels(self) -> int:
        """Give the number of channels of a sample's picture; the backbone sees the first three.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("dataset.bands=[1, 2, 3, 1]").source.image_channels()
        4
        """
        return 3

    @override
    def cell_size(self) -> int:
        return self.features.info.patch_size

    @override
    def views(self, split: str) -> Sequence[View | Variation]:
        settings = self.settings.dataset.augmentations
        if split != "train" or not settings.enable:
            return [IDENTITY]
        group = views_of(settings.hflip, settings.vflip, settings.rotate90)
        if self.settings.train.features == "online":
            return group
        number = min(settings.stored_views, len(group))
        spread = [group[round(index * len(group) / number)] for index in range(number)]  # the same for every seed
        key = digest_json(settings.key(exclude={"stored_variations"}))[:8]
        return [*spread, *(Variation(index + 1, key) for index in range(settings.stored_variations))]

    def features_key(self) -> dict[str, Any] | None:
        """Give everything that the stored maps depend on; None with `train.features: online`.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source.features_key()["layers"], scene_task("train.features=online").source.features_key()
        ([0, 1], None)
        """
        return self.features.recipe() if self.settings.train.features == "cached" else None

    def backbone_image(self, sample: Sample) -> np.ndarray:
        """Give the picture (H, W, 3) of a sample for the backbone.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> sample = Sample("a", Item("a", ()), {"image": np.zeros((4, 6, 5), np.uint8)})
        >>> scene_task().source.backbone_image(sample).shape
        (4, 6, 3)
        """
        return np.ascontiguousarray(sample.arrays["image"][..., :3])

    def backbone_size(self) -> tuple[int, int]:
        """Give height and width of the picture for the backbone.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> source.sample_size(), source.backbone_size()
        ((32, 32), (16, 16))
        """
        return self.sample_size()

    @override
    def requests(self, sample: Sample) -> list[Request]:
        if self.settings.train.features == "online":
            return []
        image = self.backbone_image(sample)
        return [Request("backbone", self.features.key(image), image)]

    @override
    def producers(self) -> dict[str, Producer]:
        return {"backbone": self.features.produce}

    @override
    def record_bytes(self) -> int:
        return 0 if self.settings.train.features == "online" else self.features.record_bytes(self.backbone_size())


class ListedSource(FeatureSource[ItemT]):
    """A source whose splits are lists of names, drawn by prepare or written by a person.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> source = scene_task().source
    >>> source.prepare_data()
    >>> [len(source.items(split)) for split in ("train", "val", "test", "inference")]
    [2, 1, 0, 1]
    """

    drawn: Mapping[str, list[str]] = MappingProxyType({})  # lists of a preview, which are not written

    @abstractmethod
    def names(self) -> list[str]:
        """Give the names that a split list may hold."""

    @abstractmethod
    def named(self, name: str, split: str) -> list[ItemT]:
        """Give the items of one line of a split list; empty if no picture has that name."""

    @abstractmethod
    def draw_split(self) -> tuple[list[str], list[str]]:
        """Draw names to train on and names to validate on, by the seed."""

    @abstractmethod
    def split_recipe(self) -> str:
        """Give everything that a drawn split depends on, as the first line of its lists."""

    @abstractmethod
    def input_items(self, sources: list[str]) -> list[ItemT]:
        """Give the items to predict from files, folders and globs."""

    def uses_list(self, split: str) -> bool:
        """Whether a split comes from a list, and not from the labels.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> from tasks.example import scene_task
        >>> source = pose_task().source  # its labels name train and val
        >>> source.uses_list("train"), scene_task().source.uses_list("train")
        (False, True)
        """
        return True

    def unlisted(self, split: str) -> list[ItemT]:
        """Give the items of a split that comes from the labels.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> len(pose_task().source.unlisted("val"))
        4
        """
        return []

    def overlap(self, item: ItemT, other: ItemT) -> bool:
        """Whether two items share pixels.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> source = scene_task().source
        >>> names = ("scene_1", "scene_1@y0:8,x0:8", "scene_1@y8:9,x0:8")
        >>> whole, part, other = (source.named(name, "val")[0] for name in names)
        >>> source.overlap(whole, part), source.overlap(part, other)
        (True, False)
        """
        return item.id == other.id

    @override
    def items(self, split: str) -> list[ItemT]:
        if split == "inference":
            return self.input_items(self.inference_sources())
        if split == "inputs":
            return [item for name in self.names() for item in self.named(name, split)]
        chosen = self._of_split(split)
        if split != "train":
            path = split_list(self.name, self.settings, split) if self.uses_list(split) else None
            self._refuse_overlap(chosen, f"the labels' {split} split" if path is None else str(path))
        return chosen

    def _of_split(self, split: str) -> list[ItemT]:
        """Give the items of a split, without a comparison with those of train.

        Raises
        ------
        DataError
            If a list does not exist, or names no picture.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source._of_split("val")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...segmentation_val.txt: no such split list; run prepare, which writes it, or ...
        """
        path = split_list(self.name, self.settings, split)
        if not self.uses_list(split):
            return self.unlisted(split)
        if split in self.drawn:
            return [item for line in self.drawn[split] for item in self.named(line, split)]
        if path is None:
            return []
        if not path.exists():
            refuse_absent_test(self.name, self.settings)
            raise DataError(f"{path}: no such split list; run prepare, which writes it, or write it yourself")
        lines = as_names(read_list(path), self.names(), path)
        return [item for line in lines for item in self._named(line, split, path)]

    def held_out(self) -> list[ItemT]:
        """Give the items of the test split; a drawn split holds nothing of them.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source.held_out()
        []
        """
        return self._of_split("test")

    def without_test(self, items: Iterable[ItemT]) -> list[ItemT]:
        """Give the items that share no pixels with one of the test split.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import scene_task
        >>> path = Path(tempfile.mkdtemp()) / "test.txt"
        >>> _ = path.write_text("scene_0@y0:8,x0:8")
        >>> source = scene_task(f"dataset.splits.test_list={path}").source
        >>> names = ("scene_0", "scene_0@y8:64,x8:64", "scene_1")
        >>> [item.id for item in source.without_test(source.named(name, "train")[0] for name in names)]
        ['scene_0@y8:64,x8:64', 'scene_1']
        """
        tested: dict[str, list[ItemT]] = {}
        for item in self.held_out():
            tested.setdefault(self.picture_of(item), []).append(item)
        return [
            item
            for item in items
            if not any(self.overlap(item, other) for other in tested.get(self.picture_of(item), []))
        ]

    def inference_sources(self) -> list[str]:
        """Give the paths to predict.

        Raises
        ------
        SettingsError
            If `inference.inputs` is not set.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("inference.inputs=a.tif").source.inference_sources()
        ['a.tif']
        """
        listed = self.settings.inference.inputs
        if listed is None:
            raise SettingsError(
                "inference.inputs: not set; name what to predict: a file, folder or glob, or a list of them"
            )
        return [self.settings.paths.locate(entry) for entry in ([listed] if isinstance(listed, str) else listed)]

    def _named(self, line: str, split: str, path: Path) -> list[ItemT]:
        """Give the items of a line of a split list.

        Raises
        ------
        DataError
            If no picture has that name.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source._named("scene_2", "val", Path("val.txt"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: val.txt: no picture for 'scene_2', did you mean 'scene_1'? known: scene_0, ...
        """
        items = self.named(line, split)
        if not items:
            names = self.names()
            some = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            hint = suggest(line.partition("@")[0], names)
            raise DataError(f"{path}: no picture for {line!r}{hint} known: {some}; {OTHER_PICTURES}")
        return items

    def _refuse_overlap(self, chosen: Sequence[ItemT], where: str) -> None:
        """Raise if an item shares pixels with one of the train split.

        Raises
        ------
        DataError
            If two items overlap.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> source = scene_task().source
        >>> source.prepare_data()
        >>> source._refuse_overlap(source.items("train")[:1], "test.txt")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: test.txt: scene_1@y0:64,x0:64 is in the train split too; ...
        """
        train = split_list(self.name, self.settings, "train")
        if self.uses_list("train") and not (train and train.exists()):  # evaluation needs no train list
            return
        training = self.items("train")
        by_name: dict[str, list[ItemT]] = {}
        for item in training:
            by_name.setdefault(self.picture_of(item), []).append(item)
        for item in chosen:
            for other in by_name.get(self.picture_of(item), []):
                if self.overlap(item, other):
                    how = (
                        "is in the train split too"
                        if item.id == other.id
                        else f"overlaps {other.id} of the train split"
                    )
                    raise DataError(
                        f"{where}: {item.id} {how}; scores on training pictures are meaningless; remove it from "
                        "one of the splits"
                    )

    def picture_of(self, item: ItemT) -> str:
        """Give the name of the picture that an item is a part of; items of different pictures never overlap.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> source = scene_task().source
        >>> source.picture_of(source.named("scene_1@y0:8,x0:8", "val")[0])
        'scene_1'
        """
        return item.id

    @override
    def preview_data(self) -> str:
        self.drawn = self.write_splits(write=False)
        return "draws the split lists" if self.drawn else ""

    def write_splits(self, write: bool = True) -> dict[str, list[str]]:
        """Draw the split and write its lists, unless lists written by a person exist; gives what was drawn.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> source = scene_task().source
        >>> sorted(source.write_splits())
        ['train', 'val']
        >>> split_list("segmentation", source.settings, "val").read_text().count("scene")
        1
        """
        refuse_absent_test(self.name, self.settings)
        held_out = {item.id for item in self.held_out()}
        names = [name for name in self.names() if name not in held_out]
        return settle_lists(self.name, self.settings, self.draw_split, self.split_recipe(), names, held_out, write)

    def check_lists(self) -> None:
        """Raise for split lists that do not fit the pictures or the settings.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> source = scene_task("dataset.splits={train_list: /no/a.txt, val_list: /no/b.txt}").source
        >>> source.check_lists()
        """
        refuse_absent_test(self.name, self.settings)
        warn_of_absent(self.name, self.settings)
        if lists_stay(self.name, self.settings):
            check_fraction(self.name, self.settings)
            for split in LIST_SPLITS:
                self.items(split)
