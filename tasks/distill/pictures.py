"""Pictures, rasters and videos of distillation, and the scales of their crops."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np

from config import expand_path
from tasks.distill.settings import DistillSettings
from tasks.item import Item
from tasks.splits import refuse_unlistable
from tasks.stores import open_store
from utils.errors import DataError, SettingsError
from utils.media.videos import VideoReader, is_video
from utils.raster.dependencies import input_stamps
from utils.raster.fill import Fill, find_fill, nodata_values, values_to_leave_out
from utils.raster.inputs import find_inputs
from utils.raster.scaling import ValueScaling
from utils.raster.scaling_estimate import estimate_scaling
from utils.raster.scene_paths import scene_ids
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.vrt import trust_vrts
from utils.runtime.files import digest_json, file_stamp

MOST_ENLARGED = 2.0  # largest scale of a small picture to fill a crop


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
        Frames of a video that may be used; 0 for a picture.

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
    """A picture, a block of one, or a segment of a video; it belongs to one split as a whole.

    Parameters
    ----------
    picture : Picture
        The picture or video.
    area : Window
        The pixels that the item may read.
    frames : tuple of int, optional
        Of a video: its first frame, and the frame after its last one.

    Examples
    --------
    >>> CropItem("a", (), Picture("a", (), (4, 6)), Window(0, 0, 4, 6)).stamp()[2:]
    [[0, 0, 4, 6], None]
    """

    picture: Picture
    area: Window
    frames: tuple[int, int] | None = None

    def stamp(self) -> list:
        """Values that change with the files, area or frames of the item.

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
        self.options = settings.distill
        self.too_small: list[str] = []
        self._scalings: dict[tuple[Path, ...], ValueScaling | None] = {}

    @cached_property
    def pictures(self) -> dict[str, Picture]:
        """Pictures and videos by name, except those that are too small.

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
        measured = [self._measure(name, paths) for name, paths in groups.items()]
        fitting = {picture.name: picture for picture in measured if self.scales(picture.size)}
        self.too_small = [picture.name for picture in measured if picture.name not in fitting]
        if not fitting:
            raise DataError(
                f"paths.raw_images_dir: all {len(measured)} pictures are smaller than half of distill.crop "
                f"({self.options.crop} pixels); lower it"
            )
        return fitting

    def find_groups(self) -> dict[str, tuple[Path, ...]]:
        """Files of each picture: one, or one per colour.

        Raises
        ------
        SettingsError
            If no picture is named.
        DataError
            If none is found, or a name cannot be written to a split list.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> task = student_task("distill.exclude=['photo_*', '*.mp4']")
        >>> [[path.name for path in paths] for paths in task.source.files.find_groups().values()]
        [['scene.tif']]
        """
        paths = self.settings.paths
        source = paths.resolve("raw_images_dir")
        stacks = [tuple(Path(paths.locate(name)) for name in stack) for stack in self.options.stacks]
        if source is None and not stacks:
            raise SettingsError(
                "paths.raw_images_dir: not set; name pictures and videos: a file, folder, glob or list of them"
            )
        listed = [] if source is None else [source] if isinstance(source, str) else source
        for stack in stacks:
            refuse_stack(stack)
        refuse_equal_firsts(stacks)
        inputs = find_inputs(listed, self.options.exclude) if listed else []
        stacked = {os.path.realpath(path) for stack in stacks for path in stack}  # bands are no pictures
        files = [(path,) for path in inputs if os.path.realpath(path) not in stacked] + stacks
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
            most = self.options.max_frames
            frames = self._count_frames(paths[0])
            return Picture(name, paths, VideoReader(paths[0]).size, frames if most is None else min(frames, most))
        scene = self.open(paths, 1.0)
        return Picture(name, paths, (scene.height, scene.width))

    def _count_frames(self, path: Path) -> int:
        """Count the frames of a video that can be decoded; the store keeps the number.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> source.files._count_frames(source.files.find_groups()["clip"][0])
        12
        """
        store = open_store(self.settings, "prepare")
        key = digest_json({"frames": file_stamp(path)})
        frames = store.manifests.read(key)
        if frames is None:
            frames = VideoReader(path).count_frames()
            store.manifests.write(key, frames)
        return frames

    def open(self, paths: tuple[Path, ...], scale: float) -> RasterScene:
        """Open a raster or photo at a scale, with 8-bit values.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task().source
        >>> source.files.open(source.files.find_groups()["scene"], 0.5).height
        48
        """
        limit = self.settings.dataset.max_pixels
        trust_vrts(paths, expand_path(self.settings.paths.data_root or ""), self.settings.dataset.allow_vrt)
        bands = self._bands(paths, limit)
        scaling = self._scalings.get(paths)
        nodata = nodata_values(self.settings.dataset.nodata)
        return RasterScene(paths, bands=bands, scale=scale, max_pixels=limit, scaling=scaling, nodata=nodata)

    def _bands(self, paths: tuple[Path, ...], limit: int) -> tuple[int, ...] | None:
        """Bands that are red, green and blue; None for a file of up to three bands.

        Raises
        ------
        SettingsError
            If `distill.bands` does not give three bands.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> task = student_task("distill.bands={'scene*': [3, 2, 1]}")
        >>> task.source.files._bands(task.source.files.find_groups()["scene"], 10**8)
        (3, 2, 1)
        """
        for pattern, bands in self.options.bands.items():
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
        """Estimate the scaling of values of a raster that has no 8-bit values; once for the whole raster.

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
        if scene.dtype == np.uint8 and dataset.value_range is None:
            self._scalings[paths] = None
            return
        scene = scene.with_nodata(values_to_leave_out(self.fills.get(paths, [])))  # fill must not decide it
        self._scalings[paths] = estimate_scaling([scene], dataset.percentiles, dataset.value_range)

    @cached_property
    def fills(self) -> dict[tuple[Path, ...], list[Fill]]:
        """Undeclared fill of the pictures, by their files; looked for once, and kept in the store.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> fills = student_task().source.files.fills
        >>> [paths[0].name for paths in fills], any(fills.values())
        (['photo_0.png', 'photo_1.png', 'photo_2.png', 'scene.tif'], False)
        """
        if self.settings.dataset.nodata == []:
            return {}
        pictures = [picture.paths for picture in self.pictures.values() if not picture.frames]
        stamps = [stamp for paths in pictures for path in paths for stamp in input_stamps(path)]
        how = [self.options.bands, list(nodata_values(self.settings.dataset.nodata))]
        manifests, key = open_store(self.settings, "prepare").manifests, digest_json({"fill": stamps, "how": how})
        kept = manifests.read(key)
        if kept is None:
            kept = [[fill.to_json() for fill in find_fill(self.open(paths, 1.0))] for paths in pictures]
            manifests.write(key, kept)
        found = [[Fill.from_json(fill) for fill in fills] for fills in kept]
        return dict(zip(pictures, found, strict=True))

    def scales(self, size: tuple[int, int], margin: int = 0) -> list[float]:
        """Scales of crops for an area of this size; empty if it is too small.

        An area smaller than a crop (and a margin) at a zoom is enlarged to fill one, at most twice.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> source = student_task("distill={crop: 32, zooms: [1.0, 0.5]}").source
        >>> [source.files.scales((64, side)) for side in (64, 40, 20, 8)]
        [[1.0, 0.5], [1.0, 0.8], [1.6], []]
        """
        needed, short = self.options.crop + margin, min(size)
        scales: list[float] = []
        for zoom in self.options.zooms:
            fills = short * zoom / needed
            if fills * MOST_ENLARGED >= 1:
                scales.append(zoom if fills >= 1 else needed / short)
        return list(dict.fromkeys(scales))


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
    """Refuse a picture of several files that are not three existing files.

    Raises
    ------
    SettingsError
        If there are not three files.
    DataError
        If a file does not exist.

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
