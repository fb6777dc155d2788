"""Scenes and photos for segmentation: items, their split, and the windows that are read of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from config import TaskConfig, expand_path
from tasks.base import Item, Sample
from tasks.splits import (
    OTHER_PICTURES,
    check_fraction,
    lists_stay,
    refuse_unlistable,
    settle_lists,
    split_list,
)
from utils.errors import DataError, SettingsError
from utils.geometry.padding import pad_picture
from utils.labels import IGNORE, LabelSource, RasterLabels, is_vector, label_counts, pair_labels
from utils.raster_files import broken_links, find_scenes, scene_ids
from utils.rasters import RasterScene, ValueScaling, share_outside, value_kind
from utils.splits import nearest, read_list, stratified_choice
from utils.tiling import Window, windows_for_rows
from utils.vector_labels import VectorLabels

logger = logging.getLogger(__name__)

BLOCK = re.compile(r"^(?P<scene>.+)@y(?P<y0>\d+):(?P<y1>\d+),x(?P<x0>\d+):(?P<x1>\d+)$")
TILE = re.compile(r"^(?P<scene>.+)_y(?P<y>\d+)_x(?P<x>\d+)$")
MANY_PICTURES = 5  # from here on small pictures are not cut by the default split
MOST_UNITS = 200_000  # more blocks of one scene are a mistake, and take hours to count
MOST_OUTSIDE = 0.5  # share of values beyond all that training saw from which a picture is of another kind
ENOUGH_UNITS = 20  # units that the default split would like to draw from
ONE_BLOCK = (
    "only one block of labelled ground: too little to keep some for validation; take a smaller prepare.tile_size, or "
    "write the split lists yourself"
)


@dataclass(frozen=True)
class SceneItem(Item):
    """A scene, or a block of one.

    Parameters
    ----------
    scene_id : str
        The scene.
    area : Window
        The ground that may be read, in the scene's pixels.
    tile, stride : int
        Side of a window, and the distance from one to the next.
    rows : tuple of int
        Rows of the area that are wanted of a prediction.
    split : str
        What the item is for.

    Examples
    --------
    >>> item = SceneItem("a", (), "a", Window(0, 0, 8, 8), 4, 4, (0, 8))
    >>> [window.y for window in item.windows()]
    [0, 0, 4, 4]
    """

    scene_id: str
    area: Window
    tile: int
    stride: int
    rows: tuple[int, int]
    split: str = "train"

    def stamp(self) -> list:
        """Say when the item changed: its files, and how it is cut.

        Examples
        --------
        >>> SceneItem("a", (), "a", Window(0, 0, 8, 8), 4, 2, (0, 8)).stamp()[2:]
        [[0, 0, 8, 8], 4, 2]
        """
        area = self.area
        padded = ["reflect"] if self.tile > min(area.height, area.width) else []  # entries of older padding are not met
        return [*super().stamp(), [area.y, area.x, area.height, area.width], self.tile, self.stride, *padded]

    def windows(self) -> list[Window]:
        """Windows that touch the wanted rows, in the area's pixels, row by row.

        Examples
        --------
        >>> len(SceneItem("a", (), "a", Window(0, 0, 8, 8), 4, 4, (0, 4)).windows())
        2
        """
        return windows_for_rows(self.area.height, self.area.width, self.tile, self.stride, self.rows)


@dataclass(frozen=True)
class SceneFiles:
    """The files of a scene and its label.

    Examples
    --------
    >>> SceneFiles((Path("a.tif"),), None).sources
    (PosixPath('a.tif'),)
    """

    paths: tuple[Path, ...]
    label: Path | None

    @property
    def sources(self) -> tuple[Path, ...]:
        """All files.

        Examples
        --------
        >>> len(SceneFiles((Path("a.tif"),), Path("a.gpkg")).sources)
        2
        """
        return self.paths + ((self.label,) if self.label else ())


def block_id(scene_id: str, area: Window) -> str:
    """Name a block of a scene.

    Examples
    --------
    >>> block_id("kampala", Window(0, 512, 1024, 256))
    'kampala@y0:1024,x512:768'
    """
    return f"{scene_id}@y{area.y}:{area.y + area.height},x{area.x}:{area.x + area.width}"


def parse_id(text: str, scenes: Sequence[str], tile: int) -> tuple[str, Window | None] | None:
    """Read an item id: a scene, a block of one, or a tile `<scene>_y<row>_x<column>`; None when it is none of them.

    Examples
    --------
    >>> parse_id("a@y0:8,x4:8", ["a"], 4)
    ('a', Window(y=0, x=4, height=8, width=4))
    >>> parse_id("a_y4_x0", ["a"], 4), parse_id("a", ["a"], 4), parse_id("b", ["a"], 4)
    (('a', Window(y=4, x=0, height=4, width=4)), ('a', None), None)
    """
    if text in scenes:
        return text, None
    block = BLOCK.match(text)
    if block and block["scene"] in scenes:
        y0, y1, x0, x1 = (int(block[name]) for name in ("y0", "y1", "x0", "x1"))
        return (block["scene"], Window(y0, x0, y1 - y0, x1 - x0)) if y1 > y0 and x1 > x0 else None
    cut = TILE.match(text)
    if cut and cut["scene"] in scenes:
        return cut["scene"], Window(int(cut["y"]), int(cut["x"]), tile, tile)
    return None


class SceneData:
    """Everything that is read from disk for segmentation.

    Parameters
    ----------
    name : str
        The task, for the names of split lists.
    settings : TaskConfig
        Paths, data set and window sizes.
    classes : list of str
        Class names.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> sorted(task.data.labelled_scenes())
    ['scene_0', 'scene_1']
    """

    def __init__(self, name: str, settings: TaskConfig, classes: list[str]):
        self.name = name
        self.settings = settings
        self.classes = classes
        self.scaling: ValueScaling | None = None
        self.trained_by: Path | None = None  # the checkpoint that the scaling comes from
        self._scenes: dict[tuple[Path, ...], RasterScene] = {}
        self._labels: dict[Path, LabelSource] = {}
        self._files: dict[str, SceneFiles] | None = None
        self.unlabelled: list[str] = []
        self._groundless: list[str] = []

    # -- files

    def labelled_scenes(self) -> dict[str, SceneFiles]:
        """Scenes of `paths.raw_images_dir` that have a label, by id.

        Raises
        ------
        SettingsError, DataError
            If paths are not set, nothing is found or nothing has a label.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.data.labelled_scenes()["scene_0"].label.name
        'scene_0.tif'
        """
        if self._files is None:
            groups = self._find_groups()
            labels = self._pair([paths[0] for paths in groups.values()])
            files = {key: SceneFiles(paths, labels.get(paths[0])) for key, paths in groups.items()}
            self._files = {key: scene for key, scene in files.items() if scene.label is not None}
            self.unlabelled = sorted(set(files) - set(self._files))
            if not self._files:
                where = self.settings.paths.resolve("label_path")
                raise DataError(
                    f"paths.label_path: no label in {where} for any of {len(files)} pictures; {self._hint()}"
                )
        return self._files

    def left_out(self) -> str:
        """Say which pictures no list can hold, and why; empty when there are none.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> Path(task.settings.paths.raw_images_dir, "scene_2.tif").symlink_to("gone.tif")
        >>> task.data.left_out()
        '1 pictures are left out: 1 links that lead nowhere, such as scene_2.tif'
        """
        source = self.settings.paths.resolve("raw_images_dir")
        reasons = {
            "without a label": self.unlabelled,
            "without a pixel that is both valid and labelled": self._groundless,
            "links that lead nowhere": [path.name for path in broken_links(source or [])],
        }
        said = [f"{len(names)} {why}, such as {names[0]}" for why, names in reasons.items() if names]
        total = sum(map(len, reasons.values()))
        return f"{total} pictures are left out: {'; '.join(said)}" if said else ""

    def _hint(self) -> str:
        """Say how labels are found.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0].data._hint()
        'labels are paired by stem; for other names set dataset.label_pattern'
        """
        pattern = self.settings.dataset.label_pattern
        return (
            f"no file matches {pattern!r}"
            if pattern
            else "labels are paired by stem; for other names set dataset.label_pattern"
        )

    def _find_groups(self) -> dict[str, tuple[Path, ...]]:
        """Files of each scene: one, or one per band.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> [len(paths) for paths in example_task(tempfile.mkdtemp())[0].data._find_groups().values()]
        [1, 1]
        """
        paths = self.settings.paths
        source = paths.resolve("raw_images_dir")
        if source is None:
            raise SettingsError("paths.raw_images_dir: not set; name the pictures: a file, folder, glob or list")
        names = self.settings.dataset.band_files
        if names:
            folder = Path(source[0] if isinstance(source, list) else source)
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise DataError(f"dataset.band_files: no {missing[0]} in {folder} (paths.raw_images_dir)")
            refuse_unlistable([folder.name])
            return {folder.name: tuple(folder / name for name in names)}
        found = find_scenes(source)
        pattern = self.settings.dataset.label_pattern
        if pattern:  # labels may lie beside the pictures; their names tell them apart
            found = [path for path in found if not fnmatch(path.name, pattern.replace("{stem}", "*"))] or found
        groups: dict[str, tuple[Path, ...]] = {key: (path,) for key, path in scene_ids(found).items()}
        refuse_unlistable(groups)
        return groups

    def _pair(self, pictures: Sequence[Path]) -> dict[Path, Path]:
        """Find the label of each picture.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data._pair([])
        {}
        """
        source = self.settings.paths.resolve("label_path")
        if source is None:
            raise SettingsError(
                "paths.label_path: not set; name the labels: a raster or vector file, or a folder of them"
            )
        if not Path(source).exists():
            raise DataError(f"{source}: no such file or folder (paths.label_path)")
        pairs, _ = pair_labels(pictures, source, self.settings.dataset.label_pattern)
        return pairs

    def scene(self, paths: tuple[Path, ...]) -> RasterScene:
        """Open a scene as the settings say.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data.scene(data.labelled_scenes()["scene_0"].paths).height
        64
        """
        if paths not in self._scenes:
            dataset = self.settings.dataset
            self._scenes[paths] = RasterScene(
                paths, bands=dataset.bands, scale=dataset.scale, max_pixels=dataset.max_pixels, scaling=self.scaling
            )
            self._refuse_other_bands(self._scenes[paths])
            self._refuse_other_values(self._scenes[paths])
        return self._scenes[paths]

    def _refuse_other_bands(self, scene: RasterScene) -> None:
        """Refuse a scene with another number of bands than the scaling of values, so than the model, knows.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data.use_scaling(ValueScaling((0,) * 5, (255,) * 5))
        >>> data.scene(data.labelled_scenes()["scene_0"].paths)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...scene_0.tif: 3 bands to read, but the other pictures have 5; ...
        """
        if self.scaling is not None and scene.num_bands != len(self.scaling.low):
            raise DataError(
                f"{scene.paths[0]}: {scene.num_bands} bands to read, but the other pictures have "
                f"{len(self.scaling.low)}; choose bands that all of them have in dataset.bands, or name another picture"
            )

    def _refuse_other_values(self, scene: RasterScene) -> None:
        """Refuse a scene whose values the model cannot know, which would give a map of nothing.

        Where 8-bit values were kept, every other type is refused. In other cases, a scene of which most values lie
        beyond all that was seen in training is refused when its values are known to be of another kind, else told of.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data.use_scaling(ValueScaling((0,) * 3, (1,) * 3, "float"), Path("best.safetensors"))
        >>> data.scene(data.labelled_scenes()["scene_0"].paths)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...scene_0.tif: holds uint8, and ... lie outside 0 to 1, but the model was ...
        """
        scaling, kind = self.scaling, value_kind(scene.dtype)
        if scaling is None or self.trained_by is None:
            return
        known = "8-bit values as they are" if scaling.kind == "8-bit" else f"{scaling.kind or 'other'} values"
        trained = f"but the model was trained on {known} ({self.trained_by})"
        cure = "convert it as the training pictures were, or train on pictures of its kind"
        if scaling.kind == "8-bit" and kind != "8-bit":
            raise DataError(f"{scene.paths[0]}: holds {scene.dtype}, {trained}; {cure}")
        share = 0.0 if scaling.is_identity and kind == "8-bit" else share_outside(scene, scaling)
        if share <= MOST_OUTSIDE:
            return
        span = f"{min(scaling.low):g} to {max(scaling.high):g}"
        far = f"{share:.0%} of its values lie outside {span}"
        said = f"{scene.paths[0]}: holds {scene.dtype}, and {far}, {trained}; {cure}"
        if scaling.kind is not None and kind != scaling.kind:
            raise DataError(said)
        logger.warning(said)

    def use_scaling(self, scaling: ValueScaling | None, trained_by: Path | None = None) -> None:
        """Read all scenes with this scaling of values from now on.

        Parameters
        ----------
        scaling : ValueScaling, optional
            What becomes 0 and 255.
        trained_by : Path, optional
            The checkpoint that it comes from: then scenes are checked for other values than the model knows.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data.use_scaling(None)
        >>> data._scenes
        {}
        """
        self.scaling, self.trained_by = scaling, trained_by
        self._scenes.clear()

    def labels(self, path: Path) -> LabelSource:
        """Open a label as the settings say.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> type(data.labels(data.labelled_scenes()["scene_0"].label)).__name__
        'RasterLabels'
        """
        if path not in self._labels:
            self._labels[path] = self._open_labels(path)
        return self._labels[path]

    def _open_labels(self, path: Path) -> LabelSource:
        """Choose between raster and vector labels.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data._open_labels(data.labelled_scenes()["scene_0"].label).num_classes
        2
        """
        dataset, number = self.settings.dataset, len(self.classes)
        mapping = dataset.label_mapping or {}
        if is_vector(path):
            known = {} if "*" in mapping else {name: name for name in self.classes}  # a class's name stands for it
            return VectorLabels(
                path,
                number,
                mapping={**known, **mapping},
                class_names=self.classes,
                layer=dataset.label_layer,
                attribute=dataset.label_attribute,
                unlabelled=dataset.unlabelled,
                line_width=dataset.line_width,
            )
        return RasterLabels(
            path,
            number,
            mapping=dataset.label_mapping,
            class_names=self.classes,
            colours=dataset.label_colours,
            ignore_values=dataset.label_nodata,
            max_pixels=dataset.max_pixels,
        )

    def class_index(self, name: str, where: str) -> int:
        """Index of a class that a setting names.

        Raises
        ------
        SettingsError
            If there is no such class.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data.class_index("light", "inference.polygons.skip")
        1
        """
        if name not in self.classes:
            raise SettingsError(f"{where}: no class {name!r}; {nearest(name, self.classes)}")
        return self.classes.index(name)

    # -- items

    def items(self, split: str) -> list[SceneItem]:
        """Items of a split list, or the pictures to predict.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.settle()
        >>> [item.id for item in task.data.items("val")]
        ['scene_0']
        """
        if split == "inference":
            return self._inference_items()
        path = self.list_path(split)
        if path is None:
            return []
        if not path.exists():
            raise DataError(f"{path}: no such split list; run prepare, which writes it, or write it yourself")
        scenes = self.labelled_scenes()
        items = []
        for line in read_list(path):
            place = parse_id(line, list(scenes), self.settings.prepare.tile_size)
            if place is None:
                known = nearest(line.partition("@")[0], list(scenes))
                raise DataError(f"{path}: no picture for {line!r}; {known}; {OTHER_PICTURES}")
            items.append(self._item(line, *place, scenes[place[0]], split))
        if split != "train":
            self._refuse_overlap(items, path)
        return items

    def _item(self, name: str, scene_id: str, area: Window | None, files: SceneFiles, split: str) -> SceneItem:
        """Make an item; validation is cut as inference is, so that their numbers agree.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data._item("scene_0", "scene_0", None, data.labelled_scenes()["scene_0"], "train").area
        Window(y=0, x=0, height=64, width=64)
        """
        scene = self.scene(files.paths)
        whole = Window(0, 0, scene.height, scene.width)
        area = whole if area is None else area.intersection(whole)
        if area is None:
            raise DataError(
                f"{self.list_path(split)}: {name} lies outside its scene of {scene.height} x {scene.width} pixels; the "
                "list was made with another dataset.scale or another picture; delete it to have it written anew"
            )
        settings = self.settings
        tile = settings.prepare.tile_size
        overlap = settings.prepare.overlap if split == "train" else settings.inference.overlap
        if split == "inference" and settings.inference.tile_size:
            tile = settings.inference.tile_size
        stride = max(round(tile * (1 - overlap)), 1)
        return SceneItem(name, files.sources, scene_id, area, tile, stride, (0, area.height), split)

    def _inference_items(self) -> list[SceneItem]:
        """Items of the pictures to predict.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> [item.id for item in example_task(tempfile.mkdtemp())[0].data._inference_items()]
        ['scene_0']
        """
        named = self.settings.inference.input_tif
        if named is None:
            raise SettingsError(
                "inference.input_tif: not set; name the pictures to predict: file, folder, glob or list"
            )
        sources = [self.settings.paths.locate(entry) for entry in ([named] if isinstance(named, str) else named)]
        names = self.settings.dataset.band_files
        if names and len(sources) == 1 and Path(sources[0]).is_dir():
            groups = {Path(sources[0]).name: tuple(Path(sources[0]) / name for name in names)}
        else:
            found = scene_ids(find_scenes(sources))
            groups = {key: (path,) for key, path in found.items() if path.resolve() not in self._results_of(found)}
        if self.settings.inference.output_tif and len(groups) > 1:
            raise SettingsError(
                f"inference.output_tif: one name for {len(groups)} pictures; set inference.output_dir in its place"
            )
        return [self._item(key, key, None, SceneFiles(paths, None), "inference") for key, paths in groups.items()]

    def _results_of(self, names: Iterable[str]) -> set[Path]:
        """Files that the predictions of pictures become in a named folder, which may be that of the pictures.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp(), "inference.output_dir=/maps")
        >>> sorted(path.name for path in task.data._results_of(["east"]))
        ['east_classes.tif', 'east_classes_confidence.tif', 'east_confidence.tif']
        """
        named = self.settings.inference.output_dir
        if named is None:
            return set()
        folder = Path(expand_path(named)).resolve()
        endings = ("_classes", "_confidence", "_classes_confidence")
        return {folder / f"{name.replace('/', '_')}{ending}.tif" for name in names for ending in endings}

    def _refuse_overlap(self, items: Sequence[SceneItem], path: Path) -> None:
        """Refuse ground that both trains and judges.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.settle()
        >>> task.data._refuse_overlap(task.data.items("train"), Path("val.txt"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: val.txt: scene_1... overlaps scene_1... of the train list; ...
        """
        training = self.items("train")
        for item in items:
            for other in training:
                if item.scene_id == other.scene_id and item.area.intersection(other.area):
                    raise DataError(
                        f"{path}: {item.id} overlaps {other.id} of the train list; scores on ground that was trained "
                        "on mean nothing, so take it out of one of the lists"
                    )

    # -- the default split

    def list_path(self, split: str) -> Path | None:
        """The file of a split: the named one, or the one that prepare writes.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.data.list_path("train").name
        'segmentation_train.txt'
        """
        return split_list(self.name, self.settings, split)

    def settle_split(self) -> None:
        """Write the split lists that are absent; see `tasks.splits.settle_lists`.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.data.settle_split()
        >>> len(read_list(task.data.list_path("train")))
        2
        """
        settle_lists(self.name, self.settings, self._draw_split, self._how(), self.labelled_scenes())

    def check_lists(self) -> None:
        """Read the split lists that prepare will not draw anew, or see whether there is ground to draw from.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0].data.check_lists()
        """
        if lists_stay(self.name, self.settings):
            check_fraction(self.name, self.settings)
            for split in ("train", "val", "test"):
                self.items(split)
        elif sum(len(self._units(files)) for files in self.labelled_scenes().values()) < 2:
            raise DataError(ONE_BLOCK)

    def _how(self) -> str:
        """Say how the default split is made.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0].data._how()
        'seed 1337, val_fraction 0.34, tiles of 32 pixels, scale 1, blocks of 2 tiles'
        """
        settings = self.settings
        blocks = settings.dataset.splits.block_tiles or "auto"
        return (
            f"seed {settings.resources.seed}, val_fraction {settings.train.val_fraction:g}, "
            f"tiles of {settings.prepare.tile_size} pixels, scale {settings.dataset.scale:g}, blocks of {blocks} tiles"
        )

    def _draw_split(self) -> tuple[list[str], list[str]]:
        """Choose the ground of validation by spatial blocks, seeded and balanced over the classes.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> [len(ids) for ids in example_task(tempfile.mkdtemp())[0].data._draw_split()]
        [2, 1]
        """
        units = [(key, area) for key, files in self.labelled_scenes().items() for area in self._units(files)]
        counts = np.array([self._count(key, area) for key, area in units])
        keep = counts.sum(axis=1) > 0
        units, counts = [unit for unit, kept in zip(units, keep, strict=True) if kept], counts[keep]
        if not units:
            raise DataError(
                "no labelled pixel with valid ground in any picture; see paths.label_path, dataset.label_mapping and "
                "the nodata of pictures and labels"
            )
        self._groundless = sorted(set(self.labelled_scenes()) - {key for key, _ in units})
        generator = np.random.default_rng(self.settings.resources.seed)
        chosen = stratified_choice(counts, self.settings.train.val_fraction, generator)
        if not chosen.any():
            raise DataError(ONE_BLOCK)
        names = [self._unit_name(key, area) for key, area in units]
        train = [name for name, held in zip(names, chosen, strict=True) if not held]
        return train, [name for name, held in zip(names, chosen, strict=True) if held]

    def _unit_name(self, scene_id: str, area: Window) -> str:
        """Name a unit of the split: the scene itself when it is not cut.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0].data._unit_name("scene_0", Window(0, 0, 64, 64))
        'scene_0'
        """
        scene = self.scene(self.labelled_scenes()[scene_id].paths)
        whole = (area.height, area.width) == (scene.height, scene.width)
        return scene_id if whole else block_id(scene_id, area)

    def _units(self, files: SceneFiles) -> list[Window]:
        """Blocks of a scene that the default split keeps together.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data._units(data.labelled_scenes()["scene_1"])
        [Window(y=0, x=0, height=64, width=64), Window(y=0, x=64, height=64, width=32)]
        """
        scene, tile = self.scene(files.paths), self.settings.prepare.tile_size
        blocks = scene.height * scene.width / (tile * self._block_tiles()) ** 2
        if blocks > MOST_UNITS:
            raise DataError(
                f"{files.paths[0]}: {scene.height} x {scene.width} pixels are {blocks:,.0f} blocks to draw a split "
                "from; take a larger prepare.tile_size or dataset.splits.block_tiles, or write the split lists yourself"
            )
        small = scene.height * scene.width <= 4 * tile * tile
        if small and len(self.labelled_scenes()) >= MANY_PICTURES:
            return [Window(0, 0, scene.height, scene.width)]
        side = tile * self._block_tiles()
        return [
            Window(y, x, min(side, scene.height - y), min(side, scene.width - x))
            for y in range(0, scene.height, side)
            for x in range(0, scene.width, side)
        ]

    def _block_tiles(self) -> int:
        """Side of a block in tiles: the largest that still gives enough blocks to draw from.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp(), "dataset.splits.block_tiles=null")[0].data._block_tiles()
        1
        """
        fixed = self.settings.dataset.splits.block_tiles
        if fixed:
            return fixed
        scenes = [self.scene(files.paths) for files in self.labelled_scenes().values()]
        tiles = sum(scene.height * scene.width for scene in scenes) / self.settings.prepare.tile_size**2
        return next((side for side in (8, 4, 2) if tiles / side**2 >= ENOUGH_UNITS), 1)

    def _count(self, scene_id: str, area: Window) -> np.ndarray:
        """Count the labelled valid pixels of each class in a block.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> data = example_task(tempfile.mkdtemp())[0].data
        >>> data._count("scene_0", Window(0, 0, 64, 64)).tolist()
        [1984, 1984]
        """
        item = SceneItem(
            scene_id,
            self.labelled_scenes()[scene_id].sources,
            scene_id,
            area,
            self.settings.prepare.tile_size,
            self.settings.prepare.tile_size,
            (0, area.height),
        )
        counts = np.zeros(len(self.classes), np.int64)
        for window in item.windows():
            label = self.read(item, window)["label"]
            counts += label_counts(label, len(self.classes))
        return counts

    # -- windows

    def read(self, item: SceneItem, window: Window) -> dict[str, np.ndarray]:
        """Read a window of an item; what sticks out of its ground is mirrored and not valid.

        Parameters
        ----------
        item : SceneItem
            Only its ground is read, so that no pixel of validation is seen in training.
        window : Window
            In the item's pixels.

        Returns
        -------
        dict of str to ndarray
            `image` (h, w, C) uint8, `valid` (h, w) bool, and `label` (h, w) uint8 with 255 where nothing is known, if
            the scene has a label.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.settle()
        >>> item = task.data.items("val")[0]
        >>> arrays = task.data.read(item, Window(48, 0, 32, 32))
        >>> arrays["image"].shape, int(arrays["valid"].sum()), int((arrays["label"] == 255).sum())
        ((32, 32, 3), 512, 576)
        """
        inner = window.intersection(Window(0, 0, item.area.height, item.area.width))
        if inner is None:
            raise ValueError(f"{window} lies outside {item.id}")
        place = inner.shifted(item.area.y, item.area.x)
        files = self._files_of(item)
        image, valid = self.scene(files.paths).read(place)
        below, right = window.height - inner.height, window.width - inner.width
        arrays = {
            "image": pad_picture(image, (window.height, window.width)),
            "valid": np.pad(valid, ((0, below), (0, right))),
        }
        if files.label is not None:
            label = self.labels(files.label).read(self.scene(files.paths), place)
            label[~valid] = IGNORE
            arrays["label"] = np.pad(label, ((0, below), (0, right)), constant_values=IGNORE)
        return arrays

    def _files_of(self, item: SceneItem) -> SceneFiles:
        """Files of an item's scene.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.settle()
        >>> task.data._files_of(task.data.items("inference")[0]).label is None
        True
        """
        labelled = self._files.get(item.scene_id) if self._files else None
        if labelled is not None and item.sources == labelled.sources:
            return labelled
        return SceneFiles(item.sources, None)

    def samples(self, item: SceneItem) -> Iterator[Sample]:
        """Read the windows of an item that hold something: labelled pixels, or valid ones where there are no labels.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.settle()
        >>> [sample.id for sample in task.data.samples(task.data.items("train")[0])][:2]
        ['scene_1@y0:64,x0:64/y0_x0', 'scene_1@y0:64,x0:64/y0_x32']
        """
        limit = self.settings.dataset.max_windows
        for window in item.windows()[:limit]:
            arrays = self.read(item, window)
            content = arrays["label"] != IGNORE if "label" in arrays else arrays["valid"]
            if content.any():
                yield Sample(f"{item.id}/y{window.y}_x{window.x}", item, arrays, window)
