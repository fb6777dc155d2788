"""Pictures and labels for segmentation: files, pairs, one scaling of values, and reading of windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from config import expand_path
from tasks.segmentation.annotations import (
    OF_ANNOTATIONS,
    SegmentationLabels,
    find_annotations,
    names_annotations,
    refuse_other_settings,
)
from tasks.segmentation.items import SceneFiles, SceneItem
from tasks.segmentation.settings import SegmentationDataset, SegmentationSettings
from tasks.segmentation.value_checks import (
    refuse_mixed_bands,
    refuse_mixed_values,
    refuse_other_bands,
    refuse_other_values,
)
from tasks.splits import refuse_unlistable
from tasks.stores import advice_to_prepare, open_store
from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError, SettingsError
from utils.geometry.padding import pad_picture
from utils.raster.dependencies import input_stamps
from utils.raster.files import check_scene
from utils.raster.fill import Fill, find_fill, nodata_values, values_to_leave_out
from utils.raster.inputs import refuse_videos
from utils.raster.label_pairs import is_vector, pair_labels, unpaired_hint
from utils.raster.labels import LabelSource, UnknownValuesError, refuse_shared, refuse_unknown_values
from utils.raster.raster_labels import RasterLabels
from utils.raster.scaling import ValueScaling, value_kind
from utils.raster.scaling_estimate import estimate_scaling
from utils.raster.scene_paths import broken_links, find_scenes, scene_ids
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.vector_labels import VectorLabels
from utils.raster.vrt import trust_vrts
from utils.runtime.files import digest_json

NO_LABELS = (
    "paths.label_path: not set; name the labels: a raster or vector file, a folder of them, or annotations of pictures"
)


def image_size(dataset: SegmentationDataset) -> tuple[int, int] | None:
    """Height and width of `dataset.image_size`.

    Examples
    --------
    >>> image_size(SegmentationDataset(image_size=[480, 640])), image_size(SegmentationDataset())
    ((480, 640), None)
    """
    return None if dataset.image_size is None else (dataset.image_size[0], dataset.image_size[1])


class SceneReader:
    """Opens pictures and their labels, all with one scaling of values.

    Parameters
    ----------
    settings : SegmentationSettings
        Paths and data set.
    classes : list of str
        Class names.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> sorted(scene_task().source.scenes.labelled())
    ['scene_0', 'scene_1']
    """

    def __init__(self, settings: SegmentationSettings, classes: list[str]):
        self.settings = settings
        self.classes = classes
        self.scaling: ValueScaling | None = None
        self.trained_by: Path | None = None  # the checkpoint with the scaling
        self._scenes: dict[tuple[Path, ...], RasterScene] = {}
        self._labels: dict[Path, LabelSource] = {}
        self._files: dict[str, SceneFiles] | None = None
        self._annotations: SegmentationLabels | None = None
        self.unlabelled: list[str] = []

    # -- files

    def labelled(self) -> dict[str, SceneFiles]:
        """Scenes of `paths.raw_images_dir`, or that annotations name, that have a label, by id.

        Raises
        ------
        SettingsError, DataError
            If paths are not set, nothing is found or nothing has a label.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.source.scenes.labelled()["scene_0"].label.name
        'scene_0.tif'
        """
        if self._files is None:
            self._files = self._find_files()
        return self._files

    @property
    def annotations(self) -> SegmentationLabels | None:
        """The labels, where they are annotations of pictures; None for rasters and vector files.

        Raises
        ------
        SettingsError, DataError
            As `labelled` does.

        Examples
        --------
        >>> from tasks.example import annotated_task, scene_task
        >>> [task.source.scenes.annotations is None for task in (annotated_task(), scene_task())]
        [False, True]
        """
        self.labelled()
        return self._annotations

    def _find_files(self) -> dict[str, SceneFiles]:
        """Labelled scenes: what pairs with rasters and vector files, else what annotations name.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> list(annotated_task().source.scenes._find_files())
        ['pictures/scene_0', 'pictures/scene_1']
        """
        dataset, failed = self.settings.dataset, None
        annotations = find_annotations(self.settings, self.classes) if names_annotations(self.settings) else None
        if annotations is None and dataset.format == "auto":
            try:
                files = self._paired_files()
                if all(str(scene.label).lower().endswith(".json") for scene in files.values()):  # vectors, or LabelMe's
                    annotations = None if dataset.label_pattern else find_annotations(self.settings, self.classes)
            except (DataError, SettingsError) as error:
                annotations = None if dataset.label_pattern else find_annotations(self.settings, self.classes)
                failed = error
        if annotations is not None:
            self._annotations = annotations
            files = annotations.files()
            self.unlabelled = annotations.unlabelled
        elif failed is not None or dataset.format != "auto":
            raise failed or SettingsError(NO_LABELS)
        elif self.trained_by is None:  # a checkpoint may bring them from its training on annotations
            refuse_other_settings(dataset, OF_ANNOTATIONS, "rasters and vector files")
        return files

    def _paired_files(self) -> dict[str, SceneFiles]:
        """Scenes that have a raster or vector file as label.

        Raises
        ------
        SettingsError, DataError
            If paths are not set, nothing is found or nothing has a label.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> [files.label.name for files in scene_task().source.scenes._paired_files().values()]
        ['scene_0.tif', 'scene_1.tif']
        """
        groups = self._find_groups()
        labels = self._pair([paths[0] for paths in groups.values()])
        files = {key: SceneFiles(paths, labels.get(paths[0])) for key, paths in groups.items()}
        labelled = {key: scene for key, scene in files.items() if scene.label is not None}
        self.unlabelled = sorted(set(files) - set(labelled))
        if not labelled:
            where, pattern = self.settings.paths.resolve("label_path"), self.settings.dataset.label_pattern
            pictures = [paths[0] for paths in groups.values()]
            hint = unpaired_hint(pictures, Path(str(where)), pattern)
            raise DataError(f"paths.label_path: no label in {where} for any of {len(files)} pictures; {hint}")
        return labelled

    def broken_links(self) -> list[str]:
        """Give the names of links among the pictures whose target does not exist.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> Path(task.settings.paths.raw_images_dir, "scene_2.tif").symlink_to("gone.tif")
        >>> task.source.scenes.broken_links()
        ['scene_2.tif']
        """
        return [path.name for path in broken_links(self.settings.paths.resolve("raw_images_dir") or [])]

    def _find_groups(self) -> dict[str, tuple[Path, ...]]:
        """Files of each scene: one, or one per band.

        Raises
        ------
        SettingsError
            If no picture is named.
        DataError
            If a band is missing, or a name cannot be written to a split list.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> [len(paths) for paths in scene_task().source.scenes._find_groups().values()]
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
        pictures = find_scenes(source)
        refuse_videos(pictures)
        pattern = self.settings.dataset.label_pattern
        if pattern:  # labels may be in the folder of the pictures, but have other names
            pictures = [path for path in pictures if not fnmatch(path.name, pattern.replace("{stem}", "*"))] or pictures
        groups: dict[str, tuple[Path, ...]] = {key: (path,) for key, path in scene_ids(pictures).items()}
        refuse_unlistable(groups)
        return groups

    def _pair(self, pictures: Sequence[Path]) -> dict[Path, Path]:
        """Find the label of each picture.

        Raises
        ------
        SettingsError
            If no label is named.
        DataError
            If the path does not exist, or photos share a label by their stem.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scenes = scene_task().source.scenes
        >>> scenes._pair([])
        {}
        """
        source = self.settings.paths.resolve("label_path")
        if source is None:
            raise SettingsError(NO_LABELS)
        if isinstance(source, list) and len(source) == 1:
            source = source[0]
        for path in [source] if isinstance(source, str) else source:
            if not Path(path).exists():
                raise DataError(f"{path}: no such file or folder (paths.label_path)")
        if isinstance(source, list):
            raise DataError(
                f"paths.label_path: a list is of annotations, and {', '.join(source)} are not all of a format that is "
                "read; set dataset.format, or name one file or folder of rasters or vector files"
            )
        pairs, _ = pair_labels(pictures, source, self.settings.dataset.label_pattern)
        if Path(source).is_dir():
            refuse_shared(pairs)
        return pairs

    def scene(self, paths: tuple[Path, ...]) -> RasterScene:
        """Open a scene with the bands, scale and scaling of the settings.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scenes = scene_task().source.scenes
        >>> scenes.scene(scenes.labelled()["scene_0"].paths).height
        64
        """
        if paths not in self._scenes:
            dataset = self.settings.dataset
            self.trust(paths)
            self._scenes[paths] = RasterScene(
                paths,
                bands=dataset.bands,
                scale=dataset.scale,
                size=image_size(dataset),
                max_pixels=dataset.max_pixels,
                scaling=self.scaling,
                nodata=nodata_values(dataset.nodata),
            )
            if self.scaling is not None:
                refuse_other_bands(self._scenes[paths], self.scaling)
                if self.trained_by is not None:
                    refuse_other_values(self._scenes[paths], self.scaling, self.trained_by)
        return self._scenes[paths]

    def trust(self, paths: Iterable[Path]) -> None:
        """Say of files about to be read what they may make GDAL read if they are virtual rasters.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source.scenes.trust([Path("mosaic.vrt")])
        """
        root = expand_path(self.settings.paths.data_root or "")
        trust_vrts(paths, root, self.settings.dataset.allow_vrt)

    def forget(self, paths: tuple[Path, ...]) -> None:
        """Close a scene that was opened.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scenes = scene_task().source.scenes
        >>> paths = scenes.labelled()["scene_0"].paths
        >>> first = scenes.scene(paths)
        >>> scenes.forget(paths)
        >>> scenes.scene(paths) is first
        False
        """
        self._scenes.pop(paths, None)

    # -- the scaling of values

    def use_scaling(self, scaling: ValueScaling | None, trained_by: Path | None = None) -> None:
        """Read all scenes with this scaling of values.

        Parameters
        ----------
        scaling : ValueScaling, optional
            The values that become 0 and 255; None for no scaling.
        trained_by : Path, optional
            The checkpoint with the scaling; then scenes are checked for other values than in training.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scenes = scene_task().source.scenes
        >>> scenes.use_scaling(None)
        >>> scenes._scenes
        {}
        """
        self.scaling, self.trained_by = scaling, trained_by
        self._scenes.clear()

    def find_scaling(self, make: bool = False) -> None:
        """Read the global scaling of values from the store, or estimate it if it is not stored and `make` is true.

        Raises
        ------
        DataError
            If it is not stored and `make` is false.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> scenes = task.source.scenes
        >>> scenes.find_scaling(make=True)
        >>> scenes.scaling.low
        (0.0, 0.0, 0.0)
        """
        if self.scaling is not None:
            return
        dataset = self.settings.dataset
        what = {**self._stamps(), "range": dataset.value_range, "percentiles": dataset.percentiles}
        store = open_store(self.settings, "prepare")
        scaling = store.manifests.read(digest_json(what))
        if scaling is None:
            if not make:
                advice = advice_to_prepare(self.settings, "prepare", store.folder)
                raise DataError(f"the scaling of values is not stored yet; {advice}")
            opened = {key: self.scene(files.paths) for key, files in self.labelled().items()}
            if value_kind(next(iter(opened.values())).dtype) != "8-bit":  # fill must not decide it
                left_out = {key: values_to_leave_out(fills) for key, fills in self.fills().items()}
                opened = {key: scene.with_nodata(left_out.get(key, ())) for key, scene in opened.items()}
            scaling = estimate_scaling(list(opened.values()), dataset.percentiles, dataset.value_range).to_json()
            store.manifests.write(digest_json(what), scaling)
        self.use_scaling(ValueScaling.from_json(scaling))

    def _stamps(self) -> dict[str, Any]:
        """What facts about the values of the labelled pictures depend on.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("dataset.nodata=255").source.scenes._stamps()["nodata"]
        [255.0]
        """
        scenes, dataset = self.labelled(), self.settings.dataset
        return {
            "scaling": [stamp[1:] for f in scenes.values() for path in f.paths for stamp in input_stamps(path)],
            "names": sorted(scenes),
            "bands": dataset.bands,
            "nodata": list(nodata_values(dataset.nodata)),
        }

    def fills(self) -> dict[str, list[Fill]]:
        """Undeclared fill in the labelled pictures, by scene; looked for once, and kept in the store.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source.scenes.fills()
        {'scene_0': [], 'scene_1': []}
        >>> scene_task("dataset.nodata=[]").source.scenes.fills()
        {}
        """
        if self.settings.dataset.nodata == []:
            return {}
        manifests, key = open_store(self.settings, "prepare").manifests, digest_json({"fill": self._stamps()})
        kept = manifests.read(key)
        if kept is None:
            found = {name: find_fill(self.scene(files.paths)) for name, files in self.labelled().items()}
            kept = {name: [fill.to_json() for fill in fills] for name, fills in found.items()}
            manifests.write(key, kept)
        return {name: [Fill.from_json(fill) for fill in fills] for name, fills in kept.items()}

    # -- labels

    def labels(self, path: Path) -> LabelSource:
        """Open a label with the settings of the data set.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scenes = scene_task().source.scenes
        >>> type(scenes.labels(scenes.labelled()["scene_0"].label)).__name__
        'RasterLabels'
        """
        if path not in self._labels:
            self._labels[path] = self._open_labels(path)
        return self._labels[path]

    def _open_labels(self, path: Path) -> LabelSource:
        """Choose between annotations, raster and vector labels.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scenes = scene_task().source.scenes
        >>> scenes._open_labels(scenes.labelled()["scene_0"].label).num_classes
        2
        """
        if self._annotations is not None and path == self._annotations.path:
            return self._annotations.drawn
        dataset, number = self.settings.dataset, len(self.classes)
        mapping = dataset.label_mapping or {}
        if is_vector(path):
            one_class = "*" in mapping and dataset.label_attribute is None  # then no value is looked at
            class_mapping = {} if one_class else {name: name for name in self.classes}
            return VectorLabels(
                path,
                number,
                mapping={**class_mapping, **mapping},
                class_names=self.classes,
                layer=dataset.label_layer,
                attribute=dataset.label_attribute,
                unlabelled=dataset.unlabelled,
                line_width=dataset.line_width,
            )
        self.trust([path])
        return RasterLabels(
            path,
            number,
            mapping=dataset.label_mapping,
            class_names=self.classes,
            colours=dataset.label_colours,
            ignore_values=dataset.label_nodata,
            max_pixels=dataset.max_pixels,
        )

    def check(self) -> list[str]:
        """Check the header of every scene and label, and count them.

        Raises
        ------
        DataError
            If a file cannot be read, or pictures differ in their bands or kinds of values.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().source.scenes.check()
        ['2 labelled pictures']
        """
        scenes = self.labelled()
        unknown: dict[Path, UnknownValuesError] = {}
        numbers: dict[int, Path] = {}
        kinds: dict[str, Path] = {}
        for files in scenes.values():
            self.trust(files.paths)
            raise_first(check_scene(path, self.settings.dataset.max_pixels) for path in files.paths)
            scene = self.scene(files.paths)
            assert files.label is not None
            try:
                self.labels(files.label).check(scene)
            except UnknownValuesError as error:  # the next files may hold others: a person wants all at once
                unknown[files.label] = error
            numbers.setdefault(scene.num_bands, files.paths[0])
            kinds.setdefault(value_kind(scene.dtype), files.paths[0])
        refuse_unknown_values(unknown)
        if self.settings.dataset.value_range is None and self.trained_by is None:  # else each is compared with training
            refuse_mixed_values(kinds)
        refuse_mixed_bands(numbers)
        without = f", {len(self.unlabelled)} without a label are left out" if self.unlabelled else ""
        return [f"{len(scenes)} labelled pictures{without}"]

    # -- windows

    def read(self, item: SceneItem, window: Window) -> dict[str, np.ndarray]:
        """Read a window of an item; pixels outside the item are mirrored and not valid.

        Parameters
        ----------
        item : SceneItem
            No pixel outside its area is read, so that training never uses pixels of validation.
        window : Window
            In the item's pixels.

        Returns
        -------
        dict of str to ndarray
            `image` (h, w, C) uint8, `valid` (h, w) bool, and `label` (h, w) uint8 with 255 where unlabelled, if the
            scene has a label.

        Raises
        ------
        ValueError
            If the window is outside the item.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.source.prepare_data()
        >>> item = task.source.items("val")[0]
        >>> arrays = task.source.scenes.read(item, Window(48, 0, 32, 32))
        >>> arrays["image"].shape, int(arrays["valid"].sum()), int((arrays["label"] == 255).sum())
        ((32, 32, 3), 512, 576)
        """
        inner = window.intersection(Window(0, 0, item.area.height, item.area.width))
        if inner is None:
            raise ValueError(f"{window} lies outside {item.id}")
        place = inner.shifted(item.area.y, item.area.x)
        files = self.files_of(item)
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

    def read_labels(self, item: SceneItem, window: Window) -> np.ndarray:
        """Read the classes (h, w) of a window inside an item; the picture is read only where there is a label.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.source.prepare_data()
        >>> item, window = task.source.items("val")[0], Window(0, 0, 8, 4)
        >>> scenes = task.source.scenes
        >>> bool((scenes.read_labels(item, window) == scenes.read(item, window)["label"]).all())
        True
        """
        files = self.files_of(item)
        if files.label is None:
            return np.full((window.height, window.width), IGNORE, np.uint8)
        label = self.labels(files.label).read(self.scene(files.paths), window.shifted(item.area.y, item.area.x))
        return self.read(item, window)["label"] if (label != IGNORE).any() else label

    def holds_something(self, item: SceneItem, window: Window) -> np.ndarray:
        """Tell which pixels (H, W) of a window of the files of an item, before `dataset.scale`, hold something.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task("dataset.scale=0.5")
        >>> item = task.source.items("inference")[0]
        >>> task.source.scenes.holds_something(item, Window(32, 32, 32, 16)).sum().item(), item.area.height
        (512, 32)
        """
        return self.scene_of(item).read_file_values(window)[1]

    def scene_of(self, item: SceneItem) -> RasterScene:
        """Open the scene of an item.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.source.scenes.scene_of(task.source.items("inference")[0]).height
        64
        """
        return self.scene(self.files_of(item).paths)

    def files_of(self, item: SceneItem) -> SceneFiles:
        """Files of an item's scene.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.source.prepare_data()
        >>> task.source.scenes.files_of(task.source.items("inference")[0]).label is None
        True
        """
        labelled = self._files.get(item.scene_id) if self._files else None
        if labelled is not None and (item.sources, item.labels_digest) == (labelled.sources, labelled.labels_digest):
            return labelled
        return SceneFiles(item.sources, None)


def raise_first(problems: Iterable[Iterable[Any]]) -> None:
    """Raise the first problem of several checks.

    Examples
    --------
    >>> raise_first([[], ["a.tif: truncated"]])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: truncated
    """
    for part in problems:
        for problem in part:
            raise DataError(str(problem))
