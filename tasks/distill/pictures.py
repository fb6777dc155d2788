"""Pictures without labels for a student: rasters, photos and videos, their division into items, and crops of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np

from tasks.base import Item, Sample, open_store
from tasks.distill.settings import DistillSettings
from tasks.splits import OTHER_PICTURES, refuse_unlistable, settle_lists, split_list
from utils.errors import DataError, SettingsError
from utils.files import digest_json, file_stamp
from utils.inputs import find_inputs
from utils.raster_files import scene_ids
from utils.rasters import RasterScene, ValueScaling, estimate_scaling
from utils.resampling import resize_picture
from utils.splits import nearest, read_list
from utils.tiling import Window
from utils.videos import VideoReader, is_video

logger = logging.getLogger(__name__)

LARGEST_BLOCK = 2048  # pixels
MANY_PICTURES = 5  # from here on pictures of up to four blocks are not cut
ENOUGH_ITEMS = 20  # items that the default split would like to draw from
STRETCHES = 10  # into which a video is divided, so that other frames judge than train
MOST_ENLARGED = 2.0  # how much a small picture may be scaled up to fill a crop
MARGIN = 2  # pixels
CELL = 16  # pixels: the grain in which it is told how much of a crop holds nothing
MOST_INVALID = 0.25  # share of cells without data from which a crop is left out
TRIES = 4  # places that are looked at for each crop wanted, where many hold nothing


@dataclass(frozen=True)
class Picture:
    """A raster or photo in one file or three, or a video.

    Parameters
    ----------
    name : str
        Unique in the data set.
    paths : tuple of Path
        Its files.
    size : tuple of int
        Height and width.
    frames : int
        Frames of a video that may be used; 0 for what is no video.

    Examples
    --------
    >>> Picture("a", (Path("a.tif"),), (4, 6)).frames
    0
    """

    name: str
    paths: tuple[Path, ...]
    size: tuple[int, int]
    frames: int = 0


@dataclass(frozen=True)
class CropItem(Item):
    """A picture, a block of one, or a stretch of a video: what trains or judges as a whole.

    Parameters
    ----------
    picture : Picture
        Where it is.
    area : Window
        The ground that may be read.
    frames : tuple of int, optional
        Of a video: the first frame, and the first that does not belong to it.

    Examples
    --------
    >>> CropItem("a", (), Picture("a", (), (4, 6)), Window(0, 0, 4, 6)).stamp()[2:]
    [[0, 0, 4, 6], None]
    """

    picture: Picture
    area: Window
    frames: tuple[int, int] | None = None

    def stamp(self) -> list:
        """Say when the item changed: its files, its ground, its frames.

        Examples
        --------
        >>> CropItem("a", (), Picture("a", (), (4, 6), 9), Window(0, 0, 4, 6), (0, 9)).stamp()[3]
        [0, 9]
        """
        area = [self.area.y, self.area.x, self.area.height, self.area.width]
        return [*super().stamp(), area, None if self.frames is None else list(self.frames)]


class CropData:
    """Everything that is read from disk to distil.

    Parameters
    ----------
    name : str
        The task, for the names of split lists.
    settings : DistillSettings
        Paths and sizes.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.distill.example import student_example
    >>> data = student_example(tempfile.mkdtemp())[0].data
    >>> {name: (picture.size, picture.frames) for name, picture in data.pictures.items()}["scene"]
    ((96, 128), 0)
    """

    def __init__(self, name: str, settings: DistillSettings):
        self.name = name
        self.settings = settings
        self.own = settings.distill
        self.too_small: list[str] = []
        self._scalings: dict[tuple[Path, ...], ValueScaling | None] = {}

    # -- pictures

    @cached_property
    def pictures(self) -> dict[str, Picture]:
        """Pictures and videos by name, without those that are too small.

        Raises
        ------
        SettingsError, DataError
            If none are named, or nothing is found.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> list(student_example(tempfile.mkdtemp())[0].data.pictures)
        ['clip', 'photo_0', 'photo_1', 'photo_2', 'scene']
        """
        groups = self.find_groups()
        found = [self._measure(name, paths) for name, paths in groups.items()]
        fitting = {picture.name: picture for picture in found if self.scales(picture.size)}
        self.too_small = [picture.name for picture in found if picture.name not in fitting]
        if not fitting:
            raise DataError(
                f"paths.raw_images_dir: all {len(found)} pictures are smaller than half of distill.crop "
                f"({self.own.crop} pixels); lower it"
            )
        return fitting

    def find_groups(self) -> dict[str, tuple[Path, ...]]:
        """Files of each picture: one, or one per colour.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp(), "distill.exclude=['photo_*', '*.mp4']")
        >>> [[path.name for path in paths] for paths in task.data.find_groups().values()]
        [['scene.tif']]
        """
        paths = self.settings.paths
        source = paths.resolve("raw_images_dir")
        stacks = [tuple(Path(paths.locate(name)) for name in stack) for stack in self.own.stacks]
        if source is None and not stacks:
            raise SettingsError(
                "paths.raw_images_dir: not set; name pictures and videos: a file, folder, glob or list of them"
            )
        listed = [] if source is None else [source] if isinstance(source, str) else source
        found = find_inputs(listed, self.own.exclude) if listed else []
        for stack in stacks:
            refuse_stack(stack)
        files = [(path,) for path in found] + stacks
        if not files:
            raise DataError(f"no picture or video in {', '.join(listed) or 'an empty list'} (paths.raw_images_dir)")
        groups = dict(zip(scene_ids([group[0] for group in files]), files, strict=True))
        refuse_unlistable(groups)
        return groups

    def _measure(self, name: str, paths: tuple[Path, ...]) -> Picture:
        """Read the size of a picture from its header, and count the frames of a video.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> data._measure("clip", data.find_groups()["clip"]).frames
        12
        """
        if is_video(paths[0]):
            most = self.own.max_frames
            frames = self._count_frames(paths[0])
            return Picture(name, paths, VideoReader(paths[0]).size, frames if most is None else min(frames, most))
        scene = self._open(paths, 1.0)
        return Picture(name, paths, (scene.height, scene.width))

    def _count_frames(self, path: Path) -> int:
        """Count the frames of a video that can be decoded, once: the store remembers.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> data._count_frames(data.find_groups()["clip"][0])
        12
        """
        store = open_store(self.settings, "prepare")
        key = digest_json({"frames": file_stamp(path)})
        known = store.read_manifest(key)
        if known is None:
            known = VideoReader(path).count_frames()
            store.write_manifest(key, known)
        return known

    def _open(self, paths: tuple[Path, ...], scale: float) -> RasterScene:
        """Open a raster or photo at a scale, with its values as 8 bits.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> data._open(data.find_groups()["scene"], 0.5).height
        48
        """
        limit = self.settings.dataset.max_pixels
        bands = self._bands(paths, limit)
        scaling = self._scalings.get(paths)
        return RasterScene(paths, bands=bands, scale=scale, max_pixels=limit, scaling=scaling)

    def _bands(self, paths: tuple[Path, ...], limit: int) -> tuple[int, ...] | None:
        """Which bands are red, green and blue; None where a file has just these, or one, or a palette.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp(), "distill.bands={'scene*': [3, 2, 1]}")
        >>> task.data._bands(task.data.find_groups()["scene"], 10**8)
        (3, 2, 1)
        """
        for pattern, bands in self.own.bands.items():
            if any(fnmatch(path.name, pattern) or fnmatch(str(path), pattern) for path in paths):
                if len(bands) != 3:
                    raise SettingsError(f"distill.bands: three bands make a picture; {pattern!r} has {len(bands)}")
                return tuple(bands)
        return (1, 2, 3) if RasterScene(paths, max_pixels=limit).num_bands > 3 else None

    def _know_scaling(self, paths: tuple[Path, ...]) -> None:
        """Find what becomes black and white in a raster that is not of 8 bits: one scaling for all of it.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> paths = data.find_groups()["scene"]
        >>> data._know_scaling(paths)
        >>> data._scalings[paths] is None
        True
        """
        if paths in self._scalings:
            return
        scene, dataset = self._open(paths, 1.0), self.settings.dataset
        plain = scene.dtype == np.uint8 and dataset.value_range is None
        self._scalings[paths] = None if plain else estimate_scaling([scene], dataset.percentiles, dataset.value_range)

    def scales(self, size: tuple[int, int], margin: int = 0) -> list[float]:
        """Scales at which crops of ground of this size are taken; none where it is too small.

        What is smaller than a crop (and a margin) at a zoom is scaled to fill one, if it fills half of it already.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp(), "distill={crop: 32, zooms: [1.0, 0.5]}")[0].data
        >>> [data.scales((64, side)) for side in (64, 40, 20, 8)]
        [[1.0, 0.5], [1.0, 0.8], [1.6], []]
        """
        needed, short = self.own.crop + margin, min(size)
        found: list[float] = []
        for zoom in self.own.zooms:
            fills = short * zoom / needed
            if fills * MOST_ENLARGED >= 1:
                found.append(zoom if fills >= 1 else needed / short)
        return list(dict.fromkeys(found))

    def _scales_of(self, item: CropItem) -> list[float]:
        """Scales of an item's crops. Blocks need a margin, as their edges fall between the pixels of another scale.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> data._scales_of(data.units["scene"]), data._scales_of(data._cut(data.pictures["scene"], 40)[0])
        ([1.0, 0.5], [1.0625])
        """
        whole = (item.area.height, item.area.width) == item.picture.size
        return self.scales((item.area.height, item.area.width), 0 if whole else MARGIN)

    # -- items

    @cached_property
    def units(self) -> dict[str, CropItem]:
        """All items by id.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> list(student_example(tempfile.mkdtemp())[0].data.units)[:2]
        ['clip@f0:2', 'clip@f2:4']
        """
        side = self._block_side()
        return {item.id: item for picture in self.pictures.values() for item in self._cut(picture, side)}

    def _block_side(self) -> int:
        """Side of the blocks of large pictures: the largest that gives enough items to draw a split from.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp(), "distill.block=null")[0].data._block_side()
        32
        """
        if self.own.block:
            return max(self.own.block, self.own.crop)
        side = LARGEST_BLOCK
        while side // 2 >= self.own.crop:
            if sum(len(self._cut(picture, side)) for picture in self.pictures.values()) >= ENOUGH_ITEMS:
                break
            side //= 2
        return max(side, self.own.crop)

    def _cut(self, picture: Picture, side: int) -> list[CropItem]:
        """Divide a picture into even blocks, or a video into stretches.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> [item.id for item in data._cut(data.pictures["scene"], 64)]
        ['scene']
        >>> [item.id for item in data._cut(data.pictures["scene"], 40)][:2]
        ['scene@y0:32,x0:32', 'scene@y0:32,x32:64']
        """
        height, width = picture.size
        whole = Window(0, 0, height, width)
        if picture.frames:
            return [
                CropItem(f"{picture.name}@f{first}:{stop}", picture.paths, picture, whole, (first, stop))
                for first, stop in stretches(picture.frames, self.own.frame_step)
            ]
        most = side * side * (4 if len(self.pictures) >= MANY_PICTURES else 1)
        if height * width <= most:
            return [CropItem(picture.name, picture.paths, picture, whole)]
        return [
            CropItem(f"{picture.name}@y{y0}:{y1},x{x0}:{x1}", picture.paths, picture, Window(y0, x0, y1 - y0, x1 - x0))
            for y0, y1 in even_parts(height, -(-height // side))
            for x0, x1 in even_parts(width, -(-width // side))
            if self.scales((y1 - y0, x1 - x0), MARGIN)
        ]

    def items(self, split: str) -> list[CropItem]:
        """Items of a split list; the name of a picture stands for all of its items.

        Raises
        ------
        DataError
            If the list is absent, names nothing that is there, or what trains too.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp())
        >>> task.settle()
        >>> len(task.data.items("train")), len(task.data.items("val")), task.data.items("test")
        (8, 2, [])
        """
        path = split_list(self.name, self.settings, split)
        if path is None:
            return []
        if not path.exists():
            raise DataError(f"{path}: no such split list; run prepare, which writes it, or write it yourself")
        chosen = {item.id: item for line in read_list(path) for item in self._named(line, path)}
        if split != "train":
            training = {item.id for item in self.items("train")}
            double = next((name for name in chosen if name in training), None)
            if double is not None:
                raise DataError(
                    f"{path}: {double} is in the train list too; scores on what was trained on mean nothing, so take "
                    "it out of one of the lists"
                )
        return list(chosen.values())

    def _named(self, line: str, path: Path) -> list[CropItem]:
        """The items that a line of a split list stands for.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> len(data._named("clip", Path("a.txt"))), len(data._named("clip@f0:2", Path("a.txt")))
        (6, 1)
        >>> data._named("clap", Path("a.txt"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a.txt: no picture for 'clap'; did you mean 'clip'?; run prepare, which draws ...
        """
        if line in self.units:
            return [self.units[line]]
        if line in self.pictures:
            return [item for item in self.units.values() if item.picture.name == line]
        raise DataError(f"{path}: no picture for {line!r}; {nearest(line, list(self.pictures))}; {OTHER_PICTURES}")

    def settle_split(self) -> None:
        """Write the split lists that are absent; see `tasks.splits.settle_lists`.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> data.settle_split()
        >>> len(read_list(split_list("student", data.settings, "val")))
        2
        """
        seed, fraction = self.settings.resources.seed, self.settings.train.val_fraction
        own = self.own
        how = f"seed {seed}, val_fraction {fraction:g}, crops of {own.crop} pixels, blocks of {self._block_side()}"
        how += f", a frame in {own.frame_step}, items {digest_json(sorted(self.units))[:8]}"
        settle_lists(self.name, self.settings, self._draw_split, how, list(self.pictures))
        if self.too_small:
            logger.warning(
                "%d pictures, such as %s, are smaller than half of distill.crop (%d pixels) and are left out",
                len(self.too_small),
                self.too_small[0],
                self.own.crop,
            )

    def _draw_split(self) -> tuple[list[str], list[str]]:
        """Choose the items of validation, seeded.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> [len(ids) for ids in student_example(tempfile.mkdtemp())[0].data._draw_split()]
        [8, 2]
        """
        ids = sorted(self.units)
        if len(ids) < 2:
            raise DataError(
                f"only one item ({ids[0]}): too little to keep some for validation; take a smaller distill.block, or "
                "name more pictures"
            )
        order = np.random.default_rng(self.settings.resources.seed).permutation(len(ids))
        number = min(max(round(self.settings.train.val_fraction * len(ids)), 1), len(ids) - 1)
        val = {ids[index] for index in order[:number]}
        return [name for name in ids if name not in val], sorted(val)

    # -- crops

    def count_crops(self, item: CropItem) -> int:
        """Say how many crops an item has at most.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> [data.count_crops(data.units[name]) for name in ("scene", "clip@f0:2")]
        [6, 5]
        """
        total = 0
        for scale in self._scales_of(item):
            fit = math.floor(item.area.height * scale / self.own.crop) * math.floor(
                item.area.width * scale / self.own.crop
            )
            total += min(max(fit, 1), self.own.crops)
        return total * (len(range(*item.frames, self.own.frame_step)) if item.frames else 1)

    def samples(self, item: CropItem) -> Iterator[Sample]:
        """Cut the crops of an item; where they lie is a function of the item's id alone.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> samples = list(data.samples(data.units["scene"]))
        >>> samples[0].id, {name: array.shape for name, array in samples[0].arrays.items()}
        ('scene/1_y64_x32', {'image': (32, 32, 3), 'valid': (32, 32)})
        """
        scales = self._scales_of(item)
        if item.frames is None:
            self._know_scaling(item.picture.paths)
            for scale in scales:
                yield from self._cut_scene(item, scale)
        else:
            for frame, image in self._frames(item):
                for scale in scales:
                    yield from self._cut_frame(item, frame, image, scale)

    def _frames(self, item: CropItem) -> Iterator[tuple[int, np.ndarray]]:
        """The frames of a stretch that are used.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> [(frame, image.shape) for frame, image in data._frames(data.units["clip@f2:4"])]
        [(2, (64, 96, 3))]
        """
        assert item.frames is not None
        first, stop = item.frames
        with VideoReader(item.picture.paths[0]) as video:
            for frame, image in enumerate(video.frames(first), start=first):
                if frame >= stop:
                    return
                if frame % self.own.frame_step == 0:
                    yield frame, image

    def _cut_scene(self, item: CropItem, scale: float) -> Iterator[Sample]:
        """Crops of a raster or photo at one scale.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> [sample.id for sample in data._cut_scene(data.units["scene"], 0.5)]
        ['scene/0.5_y11_x0', 'scene/0.5_y11_x32']
        """
        scene = self._open(item.picture.paths, scale)
        down, across = scene.height / item.picture.size[0], scene.width / item.picture.size[1]
        top, left = math.ceil(item.area.y * down), math.ceil(item.area.x * across)  # no neighbour's pixel is averaged
        height = math.floor((item.area.y + item.area.height) * down) - top
        width = math.floor((item.area.x + item.area.width) * across) - left
        taken = 0
        for y, x in draw_places(height, width, self.own.crop, TRIES * self.own.crops, f"{item.id}/{scale:g}"):
            if taken == self.own.crops:
                return
            image, valid = scene.read(Window(top + y, left + x, self.own.crop, self.own.crop))
            if share_invalid(valid) <= MOST_INVALID:
                taken += 1
                yield self._sample(item, f"{item.id}/{scale:g}_y{top + y}_x{left + x}", image, valid, (y, x))

    def _cut_frame(self, item: CropItem, frame: int, image: np.ndarray, scale: float) -> Iterator[Sample]:
        """Crops of a frame at one scale.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> frame = np.zeros((64, 96, 3), np.uint8)
        >>> [sample.id for sample in data._cut_frame(data.units["clip@f2:4"], 2, frame, 0.5)]
        ['clip@f2:4/f2_0.5_y0_x8']
        """
        crop = self.own.crop
        scaled = resize_picture(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))
        name = f"{item.id}/f{frame}_{scale:g}"
        for y, x in draw_places(scaled.shape[0], scaled.shape[1], crop, self.own.crops, name):
            cut = np.ascontiguousarray(scaled[y : y + crop, x : x + crop])
            yield self._sample(item, f"{name}_y{y}_x{x}", cut, np.ones(cut.shape[:2], bool), (y, x))

    def _sample(
        self, item: CropItem, name: str, image: np.ndarray, valid: np.ndarray, place: tuple[int, int]
    ) -> Sample:
        """Make a sample of a crop.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> data = student_example(tempfile.mkdtemp())[0].data
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> data._sample(data.units["scene"], "a", image, image[..., 0] == 0, (3, 5)).window
        Window(y=3, x=5, height=32, width=32)
        """
        window = Window(*place, self.own.crop, self.own.crop)
        return Sample(name, item, {"image": image, "valid": valid}, window)


def refuse_stack(stack: Sequence[Path]) -> None:
    """Refuse a picture of several files that are not three, or not there.

    Examples
    --------
    >>> refuse_stack([Path("B04.tif"), Path("B03.tif")])
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: distill.stacks: three files make a picture, red, green and blue; got B04.tif, B03.tif
    """
    if len(stack) != 3:
        names = ", ".join(path.name for path in stack)
        raise SettingsError(f"distill.stacks: three files make a picture, red, green and blue; got {names or 'none'}")
    missing = next((path for path in stack if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{missing}: no such file (distill.stacks)")


def even_parts(size: int, parts: int) -> list[tuple[int, int]]:
    """Divide a length into parts that differ by one pixel at most.

    Examples
    --------
    >>> even_parts(10, 3)
    [(0, 3), (3, 7), (7, 10)]
    """
    edges = [round(index * size / parts) for index in range(parts + 1)]
    return list(pairwise(edges))


def stretches(frames: int, step: int) -> list[tuple[int, int]]:
    """Divide a video into stretches of whole steps, at most `STRETCHES`.

    Examples
    --------
    >>> stretches(100, 30), len(stretches(1000, 10))
    ([(0, 30), (30, 60), (60, 90), (90, 100)], 10)
    """
    used = -(-frames // step)
    parts = even_parts(used, min(used, STRETCHES))
    return [(first * step, min(stop * step, frames)) for first, stop in parts]


def draw_places(height: int, width: int, crop: int, most: int, seed: str) -> list[tuple[int, int]]:
    """Places of crops that do not overlap, spread at random over some ground.

    Parameters
    ----------
    height, width : int
        Of the ground, in pixels.
    crop : int
        Side of a crop.
    most : int
        How many are wanted.
    seed : str
        What alone decides where they lie.

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
    """Share of a crop's cells of which more than half holds nothing.

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
