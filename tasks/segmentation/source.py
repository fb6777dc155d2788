"""Source of segmentation: pictures or blocks of them as items, their split, and their samples."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.io import MemoryFile
from typing_extensions import override

from config import expand_path
from tasks.belief import Place
from tasks.features import FeatureService
from tasks.item import Finding, Item, Piece
from tasks.labels import doubt_classes
from tasks.neighbours import choose_groups, group_of, scene_thumbnail
from tasks.places import place_on_ground
from tasks.sample import Sample
from tasks.seen import digest_pictures
from tasks.segmentation.annotations import read_families
from tasks.segmentation.copies import describe_copy, write_copy
from tasks.segmentation.items import SceneFiles, SceneItem, block_id, parse_id
from tasks.segmentation.scenes import SceneReader, raise_first
from tasks.segmentation.settings import SegmentationSettings
from tasks.segmentation.variations import draw_crop
from tasks.source import ListedSource
from tasks.splits import lists_stay, nearest_choice, split_list
from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError, SettingsError
from utils.formats.predictions import score_name
from utils.geometry.augment import RandomColour, RandomGeometry, random_colour
from utils.geometry.fields import warp
from utils.raster.class_table import label_counts
from utils.raster.files import check_scene
from utils.raster.fill import describe_fill, nodata_values
from utils.raster.inputs import refuse_videos
from utils.raster.labels import LabelSource
from utils.raster.scene_paths import find_scenes, scene_ids
from utils.raster.tiling import Window
from utils.raster.vector_files import read_layer_info
from utils.raster.vector_labels import VectorLabels
from utils.runtime import distributed
from utils.samples.files import write_land

logger = logging.getLogger(__name__)

LATER = ("taxonomy", "overlap", "boxes", "image_size")  # while they are as by default, older stores stay valid
MANY_PICTURES = 5  # with this many pictures, the default split does not cut any
MOST_UNITS = 200_000  # more blocks of one scene would take hours to count
ENOUGH_UNITS = 20  # number of blocks that the default split aims at
ONE_BLOCK = (
    "only one labelled block: too little to keep some for validation; take a smaller prepare.tile_size, or "
    "write the split lists yourself"
)


class SceneSource(ListedSource[SceneItem]):
    """Scenes and photos with a class per pixel.

    Parameters
    ----------
    name, settings, features
        As for `FeatureSource`.
    classes : list of str
        Class names.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> task.source.prepare_data()
    >>> [item.id for item in task.source.items("val")], task.source.items("test")
    (['scene_0'], [])
    """

    settings: SegmentationSettings

    def __init__(self, name: str, settings: SegmentationSettings, features: FeatureService, classes: list[str]):
        super().__init__(name, settings, features)
        self.classes = classes
        self.scenes = SceneReader(settings, classes)
        self._without_labels: list[str] = []

    # -- items

    @override
    def prepare_data(self) -> None:
        sample = self.settings.dataset.sample
        if sample.enable:
            write_land(expand_path(sample.folder), seed=sample.seed)
        self.scenes.check()
        self.scenes.find_scaling(make=True)
        fill = describe_fill(self.scenes.fills(), "they are read as data")
        if fill:
            logger.warning(fill)
        if self.has_lists():
            self.write_splits()
        write_copy(self)
        left_out = self.left_out("inputs")
        if left_out:
            logger.warning(left_out)

    @override
    def preview_data(self) -> str:
        self.scenes.find_scaling(make=True)
        what = super().preview_data() if self.has_lists() else ""
        return "; ".join(filter(None, [what, describe_copy(self)]))

    @override
    def left_out(self, split: str) -> str:
        if split != "inputs":  # the lists hold what can be used only
            return ""
        reasons = {
            "without a label": self.scenes.unlabelled,
            "without a pixel that is both valid and labelled": self._without_labels,
            "broken links": self.scenes.broken_links(),
        }
        if self.scenes.annotations is not None:
            reasons["whose labels cannot be read or used whole"] = self.scenes.annotations.incomplete()
        parts = [f"{len(names)} {why}, such as {names[0]}" for why, names in reasons.items() if names]
        total = sum(map(len, reasons.values()))
        return f"{total} pictures are left out: {'; '.join(parts)}" if parts else ""

    @override
    def items(self, split: str) -> list[SceneItem]:
        if split == "inputs":
            self.scenes.check()
            if self.scenes.annotations is not None:
                self.scenes.annotations.warn_of_problems()
        return super().items(split)

    @override
    def uses_list(self, split: str) -> bool:
        annotations = self.scenes.annotations
        if annotations is None or getattr(self.settings.dataset.splits, f"{split}_list") is not None:
            return True
        return split != "test" and not {"train", "val"} <= set(annotations.sets)

    @override
    def unlisted(self, split: str) -> list[SceneItem]:
        labelled = self.scenes.labelled().items()
        return [self._item(key, key, None, files, split) for key, files in labelled if files.split == split]

    def has_lists(self) -> bool:
        """Whether the train or validation split comes from a list, and not from annotations.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> annotated_task().source.has_lists()
        True
        """
        return self.uses_list("train") or self.uses_list("val")

    @override
    def picture_digest(self, item: SceneItem) -> str:
        return digest_pictures(self.scenes.files_of(item).paths)

    @override
    def names(self) -> list[str]:
        return list(self.scenes.labelled())

    @override
    def named(self, name: str, split: str) -> list[SceneItem]:
        scenes = self.scenes.labelled()
        place = parse_id(name, list(scenes), self.settings.prepare.tile_size)
        return [] if place is None else [self._item(name, *place, scenes[place[0]], split)]

    @override
    def overlap(self, item: SceneItem, other: SceneItem) -> bool:
        return item.area.intersection(other.area) is not None

    @override
    def picture_of(self, item: SceneItem) -> str:
        return item.scene_id

    @override
    def place(self, item: SceneItem) -> Place:
        scene, area = self.scenes.scene_of(item), item.area
        box = (area.x, area.y, area.x + area.width, area.y + area.height)
        return place_on_ground(scene.crs, scene.transform, box) or Place(item.scene_id, box, 0)

    def _item(self, name: str, scene_id: str, area: Window | None, files: SceneFiles, split: str) -> SceneItem:
        """Make an item with the window overlap of its split: training, validation or inference.

        Raises
        ------
        DataError
            If the area is outside the scene.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> source = scene_task().source
        >>> source._item("scene_0", "scene_0", None, source.scenes.labelled()["scene_0"], "train").area
        Window(y=0, x=0, height=64, width=64)
        """
        scene = self.scenes.scene(files.paths)
        whole = Window(0, 0, scene.height, scene.width)
        area = whole if area is None else area.intersection(whole)
        if area is None:
            raise DataError(
                f"{split_list(self.name, self.settings, split)}: {name} lies outside its scene of {scene.height} x "
                f"{scene.width} pixels; the list was made with another dataset.scale or another picture; delete it "
                "to have it written anew"
            )
        settings = self.settings
        tile = settings.prepare.tile_size
        overlaps = {"train": settings.prepare.overlap, "inference": settings.inference.overlap}
        overlap = overlaps.get(split, settings.train.val_overlap)
        if split == "inference" and settings.inference.tile_size:
            tile = settings.inference.tile_size
        stride = max(round(tile * (1 - overlap)), 1)
        nodata = nodata_values(settings.dataset.nodata)
        finer = split == "inference" and settings.inference.output_resolution == "source"
        output = (scene.file_grid.height, scene.file_grid.width) if finer and scene.grid != scene.file_grid else None
        rows = (0, output[0] if output else area.height)
        digest = files.labels_digest
        return SceneItem(name, files.sources, scene_id, area, tile, stride, rows, split, nodata, output, digest)

    @override
    def input_items(self, sources: list[str]) -> list[SceneItem]:
        groups, others = band_scenes(sources, self.settings.dataset.band_files or [])
        if others:
            found = find_scenes(others)
            refuse_videos(found)
            scenes = scene_ids(found)
            results = self._results_of(scenes)
            groups |= {key: (path,) for key, path in scenes.items() if path.resolve() not in results}
        if self.settings.inference.output_tif and len(groups) > 1:
            raise SettingsError(
                f"inference.output_tif: one name for {len(groups)} pictures; set inference.output_dir in its place"
            )
        items, unreadable, limit = [], {}, self.settings.dataset.max_pixels
        for key, paths in groups.items():
            try:
                item = self._item(key, key, None, SceneFiles(paths, None), "inference")
                self.scenes.trust(item.sources)
                raise_first(check_scene(path, limit) for path in item.sources)
                items.append(item)
            except DataError as error:
                unreadable[key] = error
        self.unreadable = unreadable
        return items

    @override
    @contextmanager
    def in_memory(self, image: np.ndarray, prompts: Any = None) -> Iterator[Item]:
        height, width, count = image.shape
        with MemoryFile(ext=".tif") as file:
            with file.open(  # every channel is one of the picture, none is opacity
                driver="GTiff", height=height, width=width, count=count, dtype=image.dtype, photometric="minisblack"
            ) as raster:
                raster.write(np.moveaxis(image, 2, 0))
            files = SceneFiles((Path(file.name),), None)
            try:
                yield self._item(file.name, file.name, None, files, "inference")
            finally:
                self.scenes.forget(files.paths)

    def _results_of(self, names: Iterable[str]) -> set[Path]:
        """Files of predictions in `inference.output_dir`, which may be the folder of the pictures.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task("inference.output_dir=/maps")
        >>> sorted(path.name for path in task.source._results_of(["east"]))
        ['east_classes.tif', 'east_classes_confidence.tif', 'east_confidence.tif']
        """
        output_dir = self.settings.inference.output_dir
        if output_dir is None:
            return set()
        folder = Path(expand_path(output_dir)).resolve()
        endings = ("_classes", "_confidence", "_classes_confidence")
        return {folder / f"{name.replace('/', '_')}{ending}.tif" for name in names for ending in endings}

    @override
    def partition(self, items: Sequence[SceneItem]) -> list[list[SceneItem]]:
        ranks = distributed.world_size()
        return [
            [replace(item, rows=rows)]
            for item in items
            for rows in item.bands(ranks if item.split == "inference" else 1)
        ]

    @override
    def continue_from(self, item: SceneItem, resume: int) -> SceneItem:
        return replace(item, rows=(max(resume, item.rows[0]), item.rows[1]))

    def first_split(self) -> str:
        """The first split with pictures; verify reports the problems of all annotations with it.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> source = annotated_task().source
        >>> _ = source.write_splits()
        >>> source.first_split()
        'train'
        """
        return next((split for split in ("train", "val", "test") if self.items(split)), "train")

    # -- the drawn split

    @override
    def check_lists(self) -> None:
        if not self.has_lists():
            return
        super().check_lists()
        if not lists_stay(self.name, self.settings) and len(self._drawn_from()) < 2:
            raise DataError(ONE_BLOCK)

    @override
    def split_recipe(self) -> str:
        settings = self.settings
        fixed = settings.dataset.splits.block_tiles
        blocks = f"blocks of {fixed} tiles" if fixed else "photos whole, blocks of auto tiles"
        size = settings.dataset.image_size
        resampled = f"scale {settings.dataset.scale:g}" if size is None else f"pictures of {size[0]} x {size[1]}"
        return (
            f"seed {settings.resources.seed}, val_fraction {settings.train.val_fraction:g}, "
            f"tiles of {settings.prepare.tile_size} pixels, {resampled}, {blocks}"
        )

    @override
    def draw_split(self) -> tuple[list[str], list[str]]:
        units = self._drawn_from()
        counts = np.array([self._count(key, area) for key, area in units])
        keep = counts.sum(axis=1) > 0
        units, counts = [unit for unit, kept in zip(units, keep, strict=True) if kept], counts[keep]
        if not units:
            raise DataError(
                "no pixel is both labelled and valid in any picture; see paths.label_path, dataset.label_mapping and "
                "the nodata of pictures and labels"
            )
        self._without_labels = sorted({key for key, _ in self._drawn_from()} - {key for key, _ in units})
        generator = np.random.default_rng(self.settings.resources.seed)
        names = [self._unit_name(key, area) for key, area in units]
        scenes = {key: self.scenes.scene(self.scenes.labelled()[key].paths) for key, _ in units}
        cure = "write the split lists yourself, whole videos in each"
        by = choose_groups(scenes, lambda key: scene_thumbnail(scenes[key]), cure)
        labels = names if by == "picture" else [group_of(key, by) for key, _ in units]
        order = {label: place for place, label in enumerate(dict.fromkeys(labels))}
        places = np.array([order[label] for label in labels])
        summed = np.zeros((len(order), counts.shape[1]), counts.dtype)
        np.add.at(summed, places, counts)
        chosen = nearest_choice(summed, self.settings.train.val_fraction, generator)[places]
        if not chosen.any():
            raise DataError(ONE_BLOCK)
        self._announce(units, counts, chosen)
        train = [name for name, held in zip(names, chosen, strict=True) if not held]
        return train, [name for name, held in zip(names, chosen, strict=True) if held]

    def _announce(self, units: Sequence[tuple[str, Window]], counts: np.ndarray, chosen: np.ndarray) -> None:
        """Log what is kept for validation: whole pictures or blocks, and their true share of the labelled pixels.

        `counts` has shape (N, K), `chosen` shape (N,).

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> from utils.logging import VerbosityLogger, listening
        >>> source, area = scene_task().source, Window(0, 0, 64, 64)
        >>> with listening(VerbosityLogger("info"), "tasks"):
        ...     source._announce([("scene_0", area)] * 2, np.array([[6], [4]]), np.array([False, True]))
        [INFO] splits: 1 of 2 blocks of 1 pictures are for validation, with 40 % of the labelled pixels ...
        """
        fraction, share = self.settings.train.val_fraction, counts[chosen].sum() / counts.sum()
        held = {key for (key, _), is_held in zip(units, chosen, strict=True) if is_held}
        both = held & {key for (key, _), is_held in zip(units, chosen, strict=True) if not is_held}
        pictures = {key for key, _ in units}
        what = "pictures" if len(units) == len(pictures) else f"blocks of {len(pictures)} pictures"
        divided = f"{len(both)} pictures have blocks in training too" if both else "no picture is divided"
        more = "" if share < fraction + 1 / len(units) else "; more, so that each class is in both where possible"
        logger.info(
            "splits: %d of %d %s are for validation, with %.0f %% of the labelled pixels (train.val_fraction is %g%s); "
            "%s",
            chosen.sum(),
            len(units),
            what,
            100 * share,
            fraction,
            more,
            divided,
        )
        photos = sorted(key for key in both if self.scenes.scene(self.scenes.labelled()[key].paths).crs is None)
        if photos and len(pictures) > 1:
            logger.warning(
                "splits: %d photos, such as %s, are divided between training and validation, as "
                "dataset.splits.block_tiles is set; remove it, and photos stay whole",
                len(photos),
                photos[0],
            )

    def _drawn_from(self) -> list[tuple[str, Window]]:
        """Blocks of all scenes that a split is drawn from: those outside the test split.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> [(key, area.x) for key, area in scene_task().source._drawn_from()]
        [('scene_0', 0), ('scene_1', 0), ('scene_1', 64)]
        """
        scenes = self.scenes.labelled()
        number = len(set(scenes) - {item.scene_id for item in self.held_out()})
        units = [(key, area) for key, files in scenes.items() for area in self._units(files, number)]
        items = [self._item(block_id(key, area), key, area, scenes[key], "train") for key, area in units]
        return [(item.scene_id, item.area) for item in self.without_test(items)]

    def _unit_name(self, scene_id: str, area: Window) -> str:
        """Name a unit of the split: the scene itself if it is not cut.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source._unit_name("scene_0", Window(0, 0, 64, 64))
        'scene_0'
        """
        scene = self.scenes.scene(self.scenes.labelled()[scene_id].paths)
        whole = (area.height, area.width) == (scene.height, scene.width)
        return scene_id if whole else block_id(scene_id, area)

    def _units(self, files: SceneFiles, number: int) -> list[Window]:
        """Blocks of a scene that the default split keeps together; the whole scene where others are enough to choose.

        `number` is that of all scenes without a part in the test split.

        Raises
        ------
        DataError
            If the scene has too many blocks.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> source = scene_task().source
        >>> source._units(source.scenes.labelled()["scene_1"], 2)
        [Window(y=0, x=0, height=64, width=64), Window(y=0, x=64, height=64, width=32)]
        """
        scene, tile = self.scenes.scene(files.paths), self.settings.prepare.tile_size
        blocks = scene.height * scene.width / (tile * self._block_tiles()) ** 2
        if blocks > MOST_UNITS:
            raise DataError(
                f"{files.paths[0]}: {scene.height} x {scene.width} pixels are {blocks:,.0f} blocks to draw a split "
                "from; take a larger prepare.tile_size or dataset.splits.block_tiles, or write the split lists yourself"
            )
        fixed = self.settings.dataset.splits.block_tiles
        small = scene.height * scene.width <= 4 * tile * tile
        many = number >= MANY_PICTURES and (small or not fixed)
        if many or (number >= 2 and scene.crs is None and not fixed):  # tiles of one photo are too much alike
            return [Window(0, 0, scene.height, scene.width)]
        side = tile * self._block_tiles()
        return [
            Window(y, x, min(side, scene.height - y), min(side, scene.width - x))
            for y in range(0, scene.height, side)
            for x in range(0, scene.width, side)
        ]

    def _block_tiles(self) -> int:
        """Side of a block in tiles: the largest that gives enough blocks to draw from.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("dataset.splits.block_tiles=null").source._block_tiles()
        1
        """
        fixed = self.settings.dataset.splits.block_tiles
        if fixed:
            return fixed
        scenes = [self.scenes.scene(files.paths) for files in self.scenes.labelled().values()]
        tiles = sum(scene.height * scene.width for scene in scenes) / self.settings.prepare.tile_size**2
        return next((side for side in (8, 4, 2) if tiles / side**2 >= ENOUGH_UNITS), 1)

    def _count(self, scene_id: str, area: Window) -> np.ndarray:
        """Count the labelled valid pixels of each class in a block, (K,).

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> source = scene_task().source
        >>> source._count("scene_0", Window(0, 0, 64, 64)).tolist()
        [1984, 1984]
        """
        item = self._item(scene_id, scene_id, area, self.scenes.labelled()[scene_id], "train")
        counts = np.zeros(len(self.classes), np.int64)
        for window in replace(item, stride=item.tile).windows():
            counts += label_counts(self.scenes.read(item, window)["label"], len(self.classes))
        return counts

    # -- samples

    @override
    def sample_size(self) -> tuple[int, int]:
        side = self.settings.prepare.tile_size
        return side, side

    @override
    def image_channels(self) -> int:
        bands, scaling = self.settings.dataset.bands, self.scenes.scaling
        if bands:
            return max(len(bands), 3)  # a single band is repeated
        return 3 if scaling is None else len(scaling.low)

    @override
    def samples(self, item: SceneItem) -> Iterator[Sample]:
        self.scenes.find_scaling()
        limit = self.settings.dataset.max_windows
        for window in item.windows()[:limit]:
            arrays = self.scenes.read(item, window)
            content = arrays["label"] != IGNORE if "label" in arrays else arrays["valid"]
            if content.any():
                yield Sample(f"{item.id}/y{window.y}_x{window.x}", item, arrays, window)

    @override
    def count_samples(self, item: SceneItem) -> int:
        number = len(item.windows())
        return min(number, self.settings.dataset.max_windows or number)

    @override
    def truth(self, piece: Piece) -> np.ndarray:
        assert isinstance(piece.item, SceneItem)
        assert piece.window is not None
        self.scenes.find_scaling()
        return self.scenes.read(piece.item, piece.window)["label"]

    @override
    def audit(self, items: Iterable[SceneItem]) -> Iterator[Finding]:
        yield from doubt_classes(self.classes)
        listed, annotations = list(items), self.scenes.annotations
        if annotations is not None and listed and listed[0].split == self.first_split():
            yield from annotations.problems()
        fills, told = self.scenes.fills(), set[str | Path]()
        for item in listed:
            if fills.get(item.scene_id) and item.scene_id not in told:
                told.add(item.scene_id)
                text = describe_fill({item.scene_id: fills[item.scene_id]}, "they are read as data")
                yield Finding(item.scene_id, text.removeprefix(f"{item.scene_id}: "), blocks=False)
            try:
                label = self.scenes.files_of(item).label
                if label is not None and label not in told:
                    told.add(label)
                    source = self.scenes.labels(label)
                    for doubt in (*source.doubts(), *doubt_scores(source)):
                        yield Finding(item.scene_id, doubt, blocks=False)
                for window in item.windows():
                    self.scenes.read(item, window)
            except DataError as error:
                yield Finding(item.id, str(error))

    @override
    def sample_stats(self, sample: Sample) -> dict[str, Any]:
        if "label" not in sample.arrays:
            return {}
        counts = label_counts(sample.arrays["label"], len(self.classes))
        return {"counts": {name: int(counts[index]) for index, name in enumerate(self.classes)}}

    @override
    def cache_key(self) -> dict[str, Any]:
        self.scenes.find_scaling()
        assert self.scenes.scaling is not None
        settings = self.settings.dataset
        apart = {"augmentations", "splits", "sample", "colours", "convert_to", "format"}  # no pixel depends on them
        apart |= {name for name in LATER if getattr(settings, name) == type(settings).model_fields[name].default}
        dataset = settings.model_dump(mode="json", exclude=apart)
        if settings.taxonomy is not None:
            dataset["taxonomy"] = read_families(settings)  # its file may change
        return {
            "dataset": dataset,
            "classes": self.classes,
            "scaling": {"low": list(self.scenes.scaling.low), "high": list(self.scenes.scaling.high)},
            "features": self.features_key(),
        }

    @override
    def sample_bytes(self) -> int:
        return self.settings.prepare.tile_size**2 * (self.image_channels() + 2)

    @override
    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        geometry, colour = self._variation
        most, label = self.settings.train.cat_max_ratio, sample.arrays["label"]
        matrix = draw_crop(self.fields, label, geometry, most, generator)
        arrays = warp(self.fields, sample.arrays, matrix, geometry.size)
        return sample.with_arrays({**arrays, "image": colour(arrays["image"], generator)})

    @cached_property
    def _variation(self) -> tuple[RandomGeometry, RandomColour]:
        """The random variations of `dataset.augmentations`.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source._variation[0].size
        (32, 32)
        """
        settings = self.settings.dataset.augmentations
        side = self.settings.train.crop_size or self.settings.prepare.tile_size
        if not settings.enable:
            return RandomGeometry((side, side)), RandomColour()
        low, high = settings.scale_range
        return (
            RandomGeometry((side, side), scale=(low, high), rotation_deg=settings.rotation_degrees),
            random_colour(settings),
        )


def band_scenes(sources: Sequence[str], names: Sequence[str]) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Find the scenes of `inference.inputs` that have one file per band, in a folder of their own.

    Parameters
    ----------
    sources : sequence of str
        Such folders, folders of them, globs, or files that hold all bands.
    names : sequence of str
        `dataset.band_files`; without any there are no such scenes.

    Returns
    -------
    scenes : dict of str to tuple of Path
        The files of each scene in the order of its bands, by the folder's name.
    others : list of str
        Sources that are files.

    Raises
    ------
    DataError
        If a folder holds none of the files, or two scenes have one name.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("june/B4.tif", "june/B3.tif", "july/B4.tif", "july/B3.tif"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     (folder / name).touch()
    >>> scenes, others = band_scenes([str(folder), "all_bands.tif"], ["B4.tif", "B3.tif"])
    >>> {key: [path.name for path in paths] for key, paths in scenes.items()}, others
    ({'july': ['B4.tif', 'B3.tif'], 'june': ['B4.tif', 'B3.tif']}, ['all_bands.tif'])
    """
    scenes: dict[str, tuple[Path, ...]] = {}
    others: list[str] = [] if names else list(sources)
    for source in sources if names else ():
        path = Path(source).expanduser()
        hits = [path, *sorted(path.iterdir())] if path.is_dir() else [Path(hit) for hit in sorted(glob.glob(str(path)))]
        folders = [hit for hit in hits if any((hit / name).is_file() for name in names)]
        if not folders and path.is_dir():
            raise DataError(
                f"inference.inputs: {source}: neither this folder nor one in it holds any of dataset.band_files "
                f"({', '.join(names)}); name the folder of a scene's bands, or a file that holds all bands"
            )
        if not folders:
            others.append(source)
        for folder in folders:
            if folder.name in scenes:
                taken = scenes[folder.name][0].parent
                raise DataError(
                    f"inference.inputs: {folder} and {taken} have one name, as would their maps; rename one"
                )
            scenes[folder.name] = tuple(folder / name for name in names)
    return scenes, others


def doubt_scores(source: LabelSource) -> list[str]:
    """Say that vector labels have scores, as predictions have; a note, as persons grade their outlines too.

    Examples
    --------
    >>> import tempfile
    >>> import shapely
    >>> from utils.raster.vector_files import write_features
    >>> path = tempfile.mkdtemp() + "/l.geojson"
    >>> write_features(path, [shapely.box(1, 2, 3, 4)], crs="EPSG:4326", Score=[0.5])
    >>> doubt_scores(VectorLabels(path, 2, {"*": 1}))[0].removeprefix(path)
    ": its features have an attribute 'Score', as predictions have: they are taken as labels; give the labels that a \
person made or checked"
    """
    name = score_name(read_layer_info(source.path, source.layer).fields) if isinstance(source, VectorLabels) else None
    if name is None:
        return []
    what = f"{source.path}: its features have an attribute {name!r}, as predictions have: they are taken as labels"
    return [f"{what}; give the labels that a person made or checked"]
