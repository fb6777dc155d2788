"""Pictures, rasters and videos to learn from, and the scales at which they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np

from tasks.base import Item, open_store
from tasks.distill.settings import DistillSettings
from tasks.splits import refuse_unlistable
from utils.errors import DataError, SettingsError
from utils.media.videos import VideoReader, is_video
from utils.raster.files import scene_ids
from utils.raster.inputs import find_inputs
from utils.raster.scenes import RasterScene, ValueScaling, estimate_scaling
from utils.raster.tiling import Window
from utils.runtime.files import digest_json, file_stamp

MOST_ENLARGED = 2.0  # how much a small picture may be scaled up to fill a crop


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


class PictureReader:
    """Finds and opens the pictures and videos, without labels.

    Parameters
    ----------
    settings : DistillSettings
        Paths, data set and distillation.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> sorted(student_task().source.files.pictures)
    ['clip', 'photo_0', 'photo_1', 'photo_2', 'scene']
    """

    def __init__(self, settings: DistillSettings):
        self.settings = settings
        self.own = settings.distill
        self.too_small: list[str] = []
        self._scalings: dict[tuple[Path, ...], ValueScaling | None] = {}

    @cached_property
    def pictures(self) -> dict[str, Picture]:
        """Pictures and videos by name, without those that are too small.

        Raises
        ------
        SettingsError, DataError
            If none are named, or nothing is found.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> list(student_task().source.files.pictures)
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
        >>> from tasks.distill.example import student_task
        >>> task = student_task("distill.exclude=['photo_*', '*.mp4']")
        >>> [[path.name for path in paths] for paths in task.source.files.find_groups().values()]
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
        for stack in stacks:
            refuse_stack(stack)
        refuse_equal_firsts(stacks)
        stacked = {path.resolve() for stack in stacks for path in stack}  # bands in raw_images_dir are no pictures
        found = [
            path for path in (find_inputs(listed, self.own.exclude) if listed else []) if path.resolve() not in stacked
        ]
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
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> source.files._measure("clip", source.files.find_groups()["clip"]).frames
        12
        """
        if is_video(paths[0]):
            most = self.own.max_frames
            frames = self._count_frames(paths[0])
            return Picture(name, paths, VideoReader(paths[0]).size, frames if most is None else min(frames, most))
        scene = self.open(paths, 1.0)
        return Picture(name, paths, (scene.height, scene.width))

    def _count_frames(self, path: Path) -> int:
        """Count the frames of a video that can be decoded, once: the store remembers.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> source.files._count_frames(source.files.find_groups()["clip"][0])
        12
        """
        store = open_store(self.settings, "prepare")
        key = digest_json({"frames": file_stamp(path)})
        known = store.read_manifest(key)
        if known is None:
            known = VideoReader(path).count_frames()
            store.write_manifest(key, known)
        return known

    def open(self, paths: tuple[Path, ...], scale: float) -> RasterScene:
        """Open a raster or photo at a scale, with its values as 8 bits.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> source.files.open(source.files.find_groups()["scene"], 0.5).height
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
        >>> from tasks.distill.example import student_task
        >>> task = student_task("distill.bands={'scene*': [3, 2, 1]}")
        >>> task.source.files._bands(task.source.files.find_groups()["scene"], 10**8)
        (3, 2, 1)
        """
        for pattern, bands in self.own.bands.items():
            if any(fnmatch(path.name, pattern) or fnmatch(str(path), pattern) for path in paths):
                if len(bands) != 3:
                    raise SettingsError(f"distill.bands: three bands make a picture; {pattern!r} has {len(bands)}")
                return tuple(bands)
        number = RasterScene(paths, max_pixels=limit).num_bands
        if len(paths) > 1 and number != 3:
            raise SettingsError(
                f"distill.stacks: {', '.join(path.name for path in paths)}: expected three files of one band, got "
                f"{number} bands in all; name files of one band, or choose three of these bands in distill.bands"
            )
        return (1, 2, 3) if number > 3 else None

    def find_scaling(self, paths: tuple[Path, ...]) -> None:
        """Find what becomes black and white in a raster that is not of 8 bits: one scaling for all of it.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> paths = source.files.find_groups()["scene"]
        >>> source.files.find_scaling(paths)
        >>> source.files._scalings[paths] is None
        True
        """
        if paths in self._scalings:
            return
        scene, dataset = self.open(paths, 1.0), self.settings.dataset
        plain = scene.dtype == np.uint8 and dataset.value_range is None
        self._scalings[paths] = None if plain else estimate_scaling([scene], dataset.percentiles, dataset.value_range)

    def scales(self, size: tuple[int, int], margin: int = 0) -> list[float]:
        """Scales at which crops of ground of this size are taken; none where it is too small.

        What is smaller than a crop (and a margin) at a zoom is scaled to fill one, if it fills half of it already.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task("distill={crop: 32, zooms: [1.0, 0.5]}").source
        >>> [source.files.scales((64, side)) for side in (64, 40, 20, 8)]
        [[1.0, 0.5], [1.0, 0.8], [1.6], []]
        """
        needed, short = self.own.crop + margin, min(size)
        found: list[float] = []
        for zoom in self.own.zooms:
            fills = short * zoom / needed
            if fills * MOST_ENLARGED >= 1:
                found.append(zoom if fills >= 1 else needed / short)
        return list(dict.fromkeys(found))


def refuse_equal_firsts(stacks: Sequence[Sequence[Path]]) -> None:
    """Refuse stacks that begin with the same file, by which they are named.

    Raises
    ------
    SettingsError
        If two of them do.

    Examples
    --------
    >>> refuse_equal_firsts([[Path("B04.tif"), Path("B03.tif")], [Path("B04.tif"), Path("B08.tif")]])
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: distill.stacks: two stacks begin with B04.tif, by which they are named; drop one
    """
    firsts = [stack[0] for stack in stacks]
    twice = next((path for index, path in enumerate(firsts) if path in firsts[:index]), None)
    if twice is not None:
        raise SettingsError(f"distill.stacks: two stacks begin with {twice}, by which they are named; drop one")


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
