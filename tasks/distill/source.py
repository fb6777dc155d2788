"""Source of distillation: pictures, blocks of rasters and segments of videos as items, and their crops."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
import torch
from typing_extensions import override

from tasks.belief import Place
from tasks.distill.model import teacher_pictures
from tasks.distill.pictures import CropItem, Picture, PictureReader
from tasks.distill.settings import DistillSettings
from tasks.features import FeatureService
from tasks.item import Finding, Piece
from tasks.neighbours import choose_groups, draw_groups, group_of, scene_thumbnail
from tasks.sample import Sample
from tasks.source import ListedSource
from utils.errors import DataError
from utils.geometry.augment import random_colour
from utils.geometry.resampling import resize_picture
from utils.media.videos import VideoReader
from utils.raster.fill import describe_fill, nodata_values
from utils.raster.tiling import Window
from utils.runtime.files import digest_json

logger = logging.getLogger(__name__)

LARGEST_BLOCK = 2048  # pixels
MANY_PICTURES = 5  # with this many pictures, those of up to four blocks are not cut
ENOUGH_ITEMS = 20  # number of items that the default split aims at
SEGMENTS = 10  # segments of a video, so that its frames of train and validation are far apart
MARGIN = 2  # pixels
CELL = 16  # pixels per side of the cells in which the share without data is counted
MOST_INVALID = 0.25  # largest share of cells without data in a crop
TRIES = 4  # places that are tried for each crop, if many have no data


class CropSource(ListedSource[CropItem]):
    """Square crops of pictures, rasters and videos, at several zooms.

    Parameters
    ----------
    name, settings, features
        As for `FeatureSource`.
    teacher_side : callable
        Gives the side of the teacher's picture of a crop, in pixels.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> source = student_task().source
    >>> source.sample_size(), source.backbone_size()
    ((32, 32), (16, 16))
    """

    settings: DistillSettings

    def __init__(self, name: str, settings: DistillSettings, features: FeatureService, teacher_side: Callable[[], int]):
        super().__init__(name, settings, features)
        self.options = settings.distill
        self.files = PictureReader(settings)
        self.teacher_side = teacher_side

    # -- items

    @override
    def prepare_data(self) -> None:
        self.write_splits()
        fill = describe_fill({paths[0]: fills for paths, fills in self.files.fills.items()}, "they are read as data")
        if fill:
            logger.warning(fill)
        too_small = self.files.too_small
        if too_small:
            logger.warning(
                "%d pictures, such as %s, are smaller than half of distill.crop (%d pixels) and are left out",
                len(too_small),
                too_small[0],
                self.options.crop,
            )

    @override
    def names(self) -> list[str]:
        return list(self.files.pictures)

    @override
    def named(self, name: str, split: str) -> list[CropItem]:
        if name in self.units:
            return [self.units[name]]
        return [item for item in self.units.values() if item.picture.name == name]

    @override
    def items(self, split: str) -> list[CropItem]:
        return [] if split == "inference" else list({item.id: item for item in super().items(split)}.values())

    @override
    def input_items(self, sources: list[str]) -> list[CropItem]:
        raise TypeError("distillation has no inference")

    @override
    def split_recipe(self) -> str:
        seed, fraction, options = self.settings.resources.seed, self.settings.train.val_fraction, self.options
        blocks = f"blocks of {self._block_side()}, photos whole"
        crops = f"crops of {options.crop} pixels, {blocks}, a frame in {options.frame_step}"
        return f"seed {seed}, val_fraction {fraction:g}, {crops}, items {digest_json(sorted(self.units))[:8]}"

    @override
    def draw_split(self) -> tuple[list[str], list[str]]:
        ids = sorted(item.id for item in self.without_test(self.units.values()))
        if len(ids) < 2:
            raise DataError(
                f"only {len(ids)} item{f' ({ids[0]})' if ids else ''} outside the test split: too few for a validation "
                "split; take a smaller distill.block, or name more pictures"
            )
        fraction, seed = self.settings.train.val_fraction, self.settings.resources.seed
        photos = sorted({self.units[name].picture.name for name in ids if not self.units[name].picture.frames})
        by = choose_groups(photos, self._thumbnail, "write the split lists yourself, whole videos in each")
        groups: dict[str, list[str]] = {}
        for name in ids:
            groups.setdefault(self._group(self.units[name], by, len(photos)), []).append(name)
        if len(groups) == 1:  # parts of one picture
            groups = {name: [name] for name in ids}
        if len(groups) == len(ids):
            order = np.random.default_rng(seed).permutation(len(ids))
            val = {ids[index] for index in order[: min(max(round(fraction * len(ids)), 1), len(ids) - 1)]}
        else:
            val = set(draw_groups(groups, fraction, seed))
        return [name for name in ids if name not in val], sorted(val)

    def _group(self, item: CropItem, by: str, number: int) -> str:
        """What a drawn split keeps together with an item: its video, its photo, or nothing but itself.

        Parameters
        ----------
        item : CropItem
            A picture, a block or a segment.
        by : str
            As `choose_groups` gives it.
        number : int
            Pictures that are no videos.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task("distill.block=null").source
        >>> units = [item for item in source.units.values() if not item.picture.frames]
        >>> sorted({source._group(item, "picture", 4) for item in units}), len(units)
        (['photo_0', 'photo_1', 'photo_2', 'scene'], 15)
        """
        picture = item.picture
        if picture.frames:
            return item.id
        if by != "picture":
            return group_of(picture.name, by)
        photo = number >= 2 and self.files.open(picture.paths, 1.0).crs is None  # its crops are too much alike
        return picture.name if photo or (number >= MANY_PICTURES and self.options.block is None) else item.id

    def _thumbnail(self, name: str) -> np.ndarray:
        """Thumbnail (32, 32) of a photo or raster.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> student_task().source._thumbnail("photo_0").shape
        (32, 32)
        """
        picture = self.files.pictures[name]
        return scene_thumbnail(self.files.open(picture.paths, 1.0))

    @cached_property
    def units(self) -> dict[str, CropItem]:
        """All items by id.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> list(student_task().source.units)[:2]
        ['clip@f0:2', 'clip@f2:4']
        """
        side = self._block_side()
        return {item.id: item for picture in self.files.pictures.values() for item in self._cut(picture, side)}

    def _block_side(self) -> int:
        """Side of the blocks of large pictures: the largest that gives enough items for a split.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> student_task("distill.block=null").source._block_side()
        32
        """
        if self.options.block:
            return max(self.options.block, self.options.crop)
        side = LARGEST_BLOCK
        while side // 2 >= self.options.crop:
            if sum(len(self._cut(picture, side)) for picture in self.files.pictures.values()) >= ENOUGH_ITEMS:
                break
            side //= 2
        return max(side, self.options.crop)

    def _cut(self, picture: Picture, side: int) -> list[CropItem]:
        """Divide a picture into even blocks, or a video into segments.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> [item.id for item in source._cut(source.files.pictures["scene"], 64)]
        ['scene']
        >>> [item.id for item in source._cut(source.files.pictures["scene"], 40)][:2]
        ['scene@y0:32,x0:32', 'scene@y0:32,x32:64']
        """
        height, width = picture.size
        whole = Window(0, 0, height, width)
        if picture.frames:
            return [
                CropItem(f"{picture.name}@f{first}:{stop}", picture.paths, picture, whole, (first, stop))
                for first, stop in video_segments(picture.frames, self.options.frame_step)
            ]
        most = side * side * (4 if len(self.files.pictures) >= MANY_PICTURES else 1)
        if height * width <= most:
            return [CropItem(picture.name, picture.paths, picture, whole)]
        return [
            CropItem(f"{picture.name}@y{y0}:{y1},x{x0}:{x1}", picture.paths, picture, Window(y0, x0, y1 - y0, x1 - x0))
            for y0, y1 in even_parts(height, -(-height // side))
            for x0, x1 in even_parts(width, -(-width // side))
            if self.files.scales((y1 - y0, x1 - x0), MARGIN)
        ]

    @override
    def place(self, item: CropItem) -> Place:
        if item.frames is not None:
            return Place(item.picture.name, (item.frames[0], 0, item.frames[1], 1), 0)
        area = item.area
        return Place(item.picture.name, (area.x, area.y, area.x + area.width, area.y + area.height), 0)

    # -- crops

    @override
    def count_samples(self, item: CropItem) -> int:
        total = 0
        for scale in self._scales_of(item):
            fit = math.floor(item.area.height * scale / self.options.crop) * math.floor(
                item.area.width * scale / self.options.crop
            )
            total += min(max(fit, 1), self.options.crops)
        return total * (len(range(*item.frames, self.options.frame_step)) if item.frames else 1)

    @override
    def samples(self, item: CropItem) -> Iterator[Sample]:
        scales = self._scales_of(item)
        if item.frames is None:
            self.files.find_scaling(item.picture.paths)
            for scale in scales:
                yield from self._cut_scene(item, scale)
        else:
            for frame, image in self._frames(item):
                for scale in scales:
                    yield from self._cut_frame(item, frame, image, scale)

    def _scales_of(self, item: CropItem) -> list[float]:
        """Scales of the crops of an item; blocks need a margin, as their edges are between pixels at another scale.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> block = source._cut(source.files.pictures["scene"], 40)[0]
        >>> source._scales_of(source.units["scene"]), source._scales_of(block)
        ([1.0, 0.5], [1.0625])
        """
        whole = (item.area.height, item.area.width) == item.picture.size
        return self.files.scales((item.area.height, item.area.width), 0 if whole else MARGIN)

    def _frames(self, item: CropItem) -> Iterator[tuple[int, np.ndarray]]:
        """The frames of a segment that are used.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> [(frame, image.shape) for frame, image in source._frames(source.units["clip@f2:4"])]
        [(2, (64, 96, 3))]
        """
        assert item.frames is not None
        first, stop = item.frames
        with VideoReader(item.picture.paths[0], report=False) as video:  # said when frames were counted
            for frame, image in enumerate(video.frames(first), start=first):
                if frame >= stop:
                    return
                if frame % self.options.frame_step == 0:
                    yield frame, image

    def _cut_scene(self, item: CropItem, scale: float) -> Iterator[Sample]:
        """Crops of a raster or photo at one scale.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> [sample.id for sample in source._cut_scene(source.units["scene"], 0.5)]
        ['scene/0.5_y11_x0', 'scene/0.5_y11_x32']
        """
        scene = self.files.open(item.picture.paths, scale)
        down, across = scene.height / item.picture.size[0], scene.width / item.picture.size[1]
        top, left = (
            math.ceil(item.area.y * down),
            math.ceil(item.area.x * across),
        )  # no pixel of a neighbouring block is averaged
        height = math.floor((item.area.y + item.area.height) * down) - top
        width = math.floor((item.area.x + item.area.width) * across) - left
        taken = 0
        for y, x in draw_places(height, width, self.options.crop, TRIES * self.options.crops, f"{item.id}/{scale:g}"):
            if taken == self.options.crops:
                return
            image, valid = scene.read(Window(top + y, left + x, self.options.crop, self.options.crop))
            if share_invalid(valid) <= MOST_INVALID:
                taken += 1
                yield self._sample(item, f"{item.id}/{scale:g}_y{top + y}_x{left + x}", image, valid, (y, x))

    def _cut_frame(self, item: CropItem, frame: int, image: np.ndarray, scale: float) -> Iterator[Sample]:
        """Crops of a frame (H, W, 3) at one scale.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> frame = np.zeros((64, 96, 3), np.uint8)
        >>> [sample.id for sample in source._cut_frame(source.units["clip@f2:4"], 2, frame, 0.5)]
        ['clip@f2:4/f2_0.5_y0_x8']
        """
        crop = self.options.crop
        scaled = resize_picture(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))
        name = f"{item.id}/f{frame}_{scale:g}"
        for y, x in draw_places(scaled.shape[0], scaled.shape[1], crop, self.options.crops, name):
            cut = np.ascontiguousarray(scaled[y : y + crop, x : x + crop])
            yield self._sample(item, f"{name}_y{y}_x{x}", cut, np.ones(cut.shape[:2], bool), (y, x))

    def _sample(
        self, item: CropItem, name: str, image: np.ndarray, valid: np.ndarray, place: tuple[int, int]
    ) -> Sample:
        """Make a sample of a crop (H, W, C) and its valid pixels (H, W).

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> source._sample(source.units["scene"], "a", image, image[..., 0] == 0, (3, 5)).window
        Window(y=3, x=5, height=32, width=32)
        """
        window = Window(*place, self.options.crop, self.options.crop)
        return Sample(name, item, {"image": image, "valid": valid}, window)

    @override
    def truth(self, piece: Piece) -> None:
        return None

    @override
    def audit(self, items: Iterable[CropItem]) -> Iterator[Finding]:
        for item in items:
            try:
                number = sum(1 for _ in self.samples(item))
            except DataError as error:
                yield Finding(item.id, str(error))
                continue
            if not number:
                yield Finding(item.id, "no crop of it has enough data", "it is not used", blocks=False)
            name = item.picture.paths[0]
            fill = describe_fill({name: self.files.fills.get(item.picture.paths, [])}, "they are read as data")
            if fill:
                yield Finding(str(name), fill.removeprefix(f"{name}: "), blocks=False)

    # -- stored records

    @override
    def sample_size(self) -> tuple[int, int]:
        return self.options.crop, self.options.crop

    @override
    def backbone_size(self) -> tuple[int, int]:
        return self.teacher_side(), self.teacher_side()

    @override
    def backbone_image(self, sample: Sample) -> np.ndarray:
        return self.teacher_picture(sample.arrays["image"])

    def teacher_picture(self, image: np.ndarray) -> np.ndarray:
        """A crop (H, W, 3) at the teacher's size.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> student_task().source.teacher_picture(np.zeros((32, 32, 3), np.uint8)).shape
        (16, 16, 3)
        """
        crop = torch.from_numpy(np.ascontiguousarray(image[..., :3])).permute(2, 0, 1)[None]
        return np.ascontiguousarray(teacher_pictures(crop, self.teacher_side())[0].permute(1, 2, 0).numpy())

    @override
    def cache_key(self) -> dict[str, Any]:
        dataset = self.settings.dataset
        return {
            "crops": self.options.model_dump(mode="json", include={"crop", "zooms", "crops", "frame_step", "bands"}),
            "values": [dataset.value_range, dataset.percentiles, *nodata_values(dataset.nodata)],
            "teacher_side": self.teacher_side(),
            "features": self.features_key(),
        }

    @override
    def sample_bytes(self) -> int:
        return 4 * self.settings.distill.crop**2

    @override
    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        varied = self.settings.dataset.augmentations
        if not varied.enable:
            return sample
        colour = random_colour(varied)
        return sample.with_arrays({**sample.arrays, "image": colour(sample.arrays["image"], generator)})


def even_parts(size: int, parts: int) -> list[tuple[int, int]]:
    """Divide a length into parts that differ by one pixel at most.

    Examples
    --------
    >>> even_parts(10, 3)
    [(0, 3), (3, 7), (7, 10)]
    """
    edges = [round(index * size / parts) for index in range(parts + 1)]
    return list(pairwise(edges))


def video_segments(frames: int, step: int) -> list[tuple[int, int]]:
    """Divide a video into segments of whole steps, at most `SEGMENTS`.

    Examples
    --------
    >>> video_segments(100, 30), len(video_segments(1000, 10))
    ([(0, 30), (30, 60), (60, 90), (90, 100)], 10)
    """
    used = -(-frames // step)
    parts = even_parts(used, min(used, SEGMENTS))
    return [(first * step, min(stop * step, frames)) for first, stop in parts]


def draw_places(height: int, width: int, crop: int, most: int, seed: str) -> list[tuple[int, int]]:
    """Draw places of crops that do not overlap, at random over an area.

    Parameters
    ----------
    height, width : int
        Of the area, in pixels.
    crop : int
        Side of a crop.
    most : int
        Largest number of places.
    seed : str
        The same text gives the same places.

    Returns
    -------
    list of (int, int)
        y and x of the upper left corners.

    Examples
    --------
    >>> places = draw_places(70, 200, 32, 3, "a")
    >>> len(places), places == draw_places(70, 200, 32, 3, "a"), places == draw_places(70, 200, 32, 3, "b")
    (3, True, False)
    >>> len(draw_places(70, 200, 32, 99, "a"))
    12
    """
    generator = np.random.default_rng(crc32(seed.encode()))
    rows, columns = (max(side // crop, 1) for side in (height, width))
    top = int(generator.integers(0, max(height - rows * crop, 0) + 1))
    left = int(generator.integers(0, max(width - columns * crop, 0) + 1))
    chosen = generator.permutation(rows * columns)[:most].tolist()
    return [(top + place // columns * crop, left + place % columns * crop) for place in chosen]


def share_invalid(valid: np.ndarray) -> float:
    """Share of the cells of a crop (H, W) that are more than half without data.

    Examples
    --------
    >>> valid = np.ones((32, 64), bool)
    >>> valid[:16, :16] = False
    >>> share_invalid(valid)
    0.125
    """
    grain = min(CELL, *valid.shape)
    rows, columns = (side // grain for side in valid.shape)
    cells = valid[: rows * grain, : columns * grain].reshape(rows, grain, columns, grain)
    return float((cells.mean(axis=(1, 3)) <= 0.5).mean())
