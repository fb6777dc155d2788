"""Output of segmentation: scores, comparison pictures, class maps and polygons."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import rasterio
from typing_extensions import override

from config import expand_path
from tasks.baselines import ColourBaseline
from tasks.belief import LEAST_PIXELS, LEAST_PIXELS_OF_CLASS, Support, few_pictures, near_chance
from tasks.item import Item, Piece
from tasks.output import Metric, Output, Sink, name_scores
from tasks.sample import Sample
from tasks.segmentation.baseline import ClassColours
from tasks.segmentation.drawn import choose_part
from tasks.segmentation.items import SceneItem
from tasks.segmentation.metric import SegmentationMetric, report_scores
from tasks.segmentation.scenes import SceneReader
from tasks.segmentation.settings import SegmentationSettings
from tasks.segmentation.sinks import RasterSink, refuse_foreign
from utils import IGNORE_INDEX as IGNORE
from utils.errors import SettingsError
from utils.raster.fill import Fill, describe_fill, find_fill
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.writer import ClassRasterWriter
from utils.report.colours import colours_of_classes
from utils.report.plots import draw_class_map, draw_comparison, overlay_legend, show_colours
from utils.runtime.setting_errors import suggest

logger = logging.getLogger(__name__)

FEW_FILLED = 3  # pictures with undeclared fill that are reported one by one
FILL_PREDICTED = "they are predicted as a class"
OVERLAY_SIDE = 2048  # pixels of the longer side of an overlay, at most


class SegmentationOutput(Output):
    """Scores and maps of the classes.

    Parameters
    ----------
    settings : SegmentationSettings
        Formats and folders.
    classes : list of str
        Class names.
    scenes : SceneReader
        Reads pictures and labels.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> scene_task().output.metric().compute()["support"]
    0
    """

    class_score: ClassVar[str] = "IoU"

    def __init__(self, settings: SegmentationSettings, classes: list[str], scenes: SceneReader):
        self.settings, self.classes, self.scenes = settings, classes, scenes
        self.fills: dict[Path, list[Fill]] = {}  # of the pictures that were predicted
        self._parts: dict[str, Window] = {}  # of the items that are drawn

    @override
    def metric(self, phase: str = "train") -> Metric:
        width = self.settings.evaluate.boundary_width if phase == "evaluate" else None
        return SegmentationMetric(self.classes, width)

    @override
    def extra_metrics_key(self) -> dict[str, Any]:
        width = self.settings.evaluate.boundary_width
        return {} if width is None else {"boundary_width": width}

    @override
    def baseline(self) -> ColourBaseline:
        return ClassColours(len(self.classes))

    @override
    def scores_by_class(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        return name_scores(metrics.get("per_class", {}))

    @override
    def support(self, metrics: dict[str, Any]) -> Support:
        counts = {name: metrics["per_class"][name]["Support"] for name in self.classes}
        doubts = list(near_chance(metrics["mean_confidence"], len(self.classes))) if metrics["support"] else []
        if self._are_photos(metrics["per_scene"]):  # of a place on Earth, one scene may be all that there is
            doubts += few_pictures(len(metrics["per_scene"]))
        return Support("pixels", counts, LEAST_PIXELS, LEAST_PIXELS_OF_CLASS, doubts=doubts)

    def _are_photos(self, scored: Iterable[str]) -> bool:
        """Whether none of the scored scenes, by their ids, has a place on Earth; of no scene it is not known.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> output = scene_task().output
        >>> output._are_photos(["scene_0"]), output._are_photos([])
        (False, False)
        """
        files = self.scenes.labelled()
        known = [files[scene].paths for scene in scored if scene in files]
        return bool(known) and all(self.scenes.scene(paths).crs is None for paths in known)

    @override
    def score_grid(self) -> dict[str, Any]:
        scale, size = self.settings.dataset.scale, self.settings.dataset.image_size
        if size is not None:
            return {"image_size": size, "pixels": f"the model's, after dataset.image_size {size[0]} x {size[1]}"}
        side = f"the model's, after dataset.scale: the side of one is {1 / scale:g} pixels of the picture"
        return {"scale": scale, "pixels": "the picture's" if scale == 1 else side}

    @override
    def report(self, metrics: dict[str, Any], folder: Path, log: Any) -> None:
        report_scores(metrics, self.classes, folder, log)

    def _palette(self) -> np.ndarray:
        """Colours of the classes in results, (C, 3), of `dataset.colours`, `dataset.label_colours`, or by their names.

        Raises
        ------
        SettingsError
            If `dataset.colours` names no class.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task("dataset.label_colours={light: [1, 2, 3]}", "dataset.colours={dark: [4, 5, 6]}")
        >>> task.output._palette().tolist()
        [[4, 5, 6], [1, 2, 3]]
        """
        dataset = self.settings.dataset
        for name in dataset.colours or {}:
            self.class_index(name, "dataset.colours")
        return colours_of_classes(self.classes, {**(dataset.label_colours or {}), **(dataset.colours or {})})

    @override
    def shows(self, piece: Piece, kept: int) -> bool:
        assert piece.window is not None
        assert isinstance(piece.item, SceneItem)
        return piece.window.intersection(self._shown(piece.item)) is not None

    def _shown(self, item: SceneItem) -> Window:
        """The part of an item that its comparison picture shows.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.source.prepare_data()
        >>> task.output._shown(task.source.items("val")[0])
        Window(y=0, x=0, height=64, width=64)
        """
        if item.id not in self._parts:
            read = functools.partial(self.scenes.read_labels, item)
            self._parts[item.id] = choose_part(item.area.height, item.area.width, len(self.classes), read)
        return self._parts[item.id]

    @override
    def draw(self, item: Item, pieces: Iterable[Piece]) -> np.ndarray | None:
        assert isinstance(item, SceneItem)
        shown = self._shown(item)
        prediction = np.full((shown.height, shown.width), IGNORE, np.uint8)
        for piece in pieces:
            assert piece.window is not None
            part = piece.window.intersection(shown)
            if part is not None:
                local = part.shifted(-piece.window.y, -piece.window.x)
                classes = piece.arrays["classes"][local.rows, local.columns]
                predicted = piece.arrays["valid"][local.rows, local.columns]
                place = part.shifted(-shown.y, -shown.x)
                prediction[place.rows, place.columns] = np.where(predicted, classes, IGNORE)
        arrays = self.scenes.read(item, shown)
        prediction[~arrays["valid"]] = IGNORE
        image = np.ascontiguousarray(arrays["image"][..., :3])
        is_part = (shown.height, shown.width) != (item.area.height, item.area.width)
        return draw_comparison(image, arrays.get("label"), prediction, self._palette(), self.classes, is_part)

    @override
    def draw_sample(self, sample: Sample) -> np.ndarray:
        return draw_class_map(sample.arrays["image"], sample.arrays["label"], self._palette())

    @override
    def sample_legend(self) -> list[tuple[str, Sequence[int]]]:
        return list(zip(self.classes, self._palette().tolist(), strict=True))

    @override
    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        assert isinstance(item, SceneItem)
        settings = self.settings.inference
        scene = self.scenes.scene(item.sources)
        self._report_loss(scene)
        grid = scene.file_grid if item.output else scene.grid
        writer = ClassRasterWriter(
            self.destination(item, folder),
            height=grid.height,
            width=grid.width,
            crs=grid.crs,
            transform=grid.transform,
            control_points=scene.control_points(grid.height, grid.width),
            class_names=self.classes,
            palette=self._palette(),
            confidence=settings.confidence,
            format=settings.format,
            fingerprint=fingerprint,
            window_steps=(
                item.stride * item.map_size[0] / item.area.height,
                item.stride * item.map_size[1] / item.area.width,
            ),
        )
        return RasterSink(
            writer,
            item,
            confidence=settings.confidence,
            polygons=self.polygon_options(),
            draw_overlay=functools.partial(self.draw_overlay, item) if self.is_photo(item) else None,
        )

    def is_photo(self, item: SceneItem) -> bool:
        """Whether an item has no place on Earth, so that people look at it in a viewer of pictures.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.output.is_photo(task.source.items("inference")[0])
        False
        """
        return self.scenes.scene(item.sources).crs is None

    def draw_overlay(self, item: SceneItem, path: Path) -> np.ndarray:
        """Draw the classes in a raster over their picture, reduced to a longer side of 2048 pixels, with a legend.

        The picture has shape (H, W, 3), uint8. Rows are read in strips, so that memory does not grow with the picture.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import scene_task
        >>> from utils.raster.files import write_raster
        >>> task = scene_task()
        >>> task.source.prepare_data()
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> write_raster(path, np.ones((64, 64), np.uint8))
        >>> task.output.draw_overlay(task.source.items("inference")[0], path).shape  # 22 rows name the class
        (86, 64, 3)
        """
        height, width = item.map_size
        scene = self.scenes.scene(item.sources)
        scene = scene.unscaled if item.output else scene
        step = max(1, math.ceil(max(height, width) / OVERLAY_SIDE))
        strip = step * max(1, 1024 // step)
        palette, shown, drawn = self._palette(), set[int](), []
        with rasterio.open(path) as raster:
            for y in range(0, height, strip):
                window = Window(y, 0, min(strip, height - y), width)
                classes = raster.read(1, window=((y, y + window.height), (0, width)))[::step, ::step]
                image = scene.read(window)[0][::step, ::step]
                shown |= set(np.unique(classes).tolist())
                drawn.append(draw_class_map(show_colours(image), classes, palette))
        entries = [(name, palette[index].tolist()) for index, name in enumerate(self.classes) if index in shown]
        return np.concatenate([*drawn, overlay_legend(entries, drawn[0].shape[1])])

    def _report_loss(self, scene: RasterScene) -> None:
        """Warn once of a place that the map does not keep, and of fill that becomes a class in it.

        Of many pictures with fill, only the first are named here.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> from utils.raster.example import raster_file
        >>> pixels = np.random.default_rng(0).integers(90, 250, (8, 8, 3), dtype=np.uint8)
        >>> pixels[:, 4:] = 255
        >>> output = scene_task().output
        >>> output._report_loss(RasterScene(raster_file("a.tif", pixels)))
        >>> [fills[0].value for fills in output.fills.values()]
        [255.0]
        """
        path = scene.paths[0]
        if path in self.fills:
            return
        self.fills[path] = [] if self.settings.dataset.nodata == [] else find_fill(scene)
        if scene.unplaced:
            to_tiff = Path(self.settings.inference.output_tif or "a.tif").suffix.lower() != ".png"
            keeps = "keeps these points" if to_tiff and scene.control_points(1, 1) else "has no place on Earth"
            logger.warning("%s: %s; its map %s", path, scene.unplaced, keeps)
        fill = describe_fill({path: self.fills[path]}, FILL_PREDICTED)
        if fill and sum(map(bool, self.fills.values())) <= FEW_FILLED:
            logger.warning(fill)

    @override
    def write_summary(self, items: Sequence[Item], folder: Path) -> list[Path]:
        if sum(map(bool, self.fills.values())) > FEW_FILLED:
            logger.warning(describe_fill(self.fills, FILL_PREDICTED))
        return []

    def polygon_options(self) -> dict[str, Any] | None:
        """Options of the polygons; None if `inference.polygons` is off.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task("inference.polygons={enable: true, skip: [dark]}")
        >>> task.output.polygon_options()["skip_classes"]
        [0]
        """
        settings = self.settings.inference.polygons
        if not settings.enable:
            return None
        return {
            "class_names": self.classes,
            "palette": self._palette(),
            "skip_classes": [self.class_index(name, "inference.polygons.skip") for name in settings.skip],
            "simplify_tolerance": settings.simplify,
            "min_area": settings.min_area,
        }

    def destination(self, item: SceneItem, folder: Path) -> Path:
        """Path of the class raster of an item; a file there that inference did not write is an error.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.output.destination(task.source.items("inference")[0], Path("out")).as_posix()
        'out/scene_0_classes.tif'
        """
        settings = self.settings.inference
        output_tif = settings.output_tif
        path = Path(expand_path(output_tif)) if output_tif else folder / f"{item.id.replace('/', '_')}_classes.tif"
        refuse_foreign(path, settings.confidence, settings.polygons.enable, self.is_photo(item))
        return path

    def class_index(self, name: str, where: str) -> int:
        """Index of a class that a setting names.

        Raises
        ------
        SettingsError
            If there is no such class.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> output = scene_task().output
        >>> output.class_index("light", "inference.polygons.skip")
        1
        """
        if name not in self.classes:
            raise SettingsError(
                f"{where}: no class {name!r}{suggest(name, self.classes)} known: {', '.join(self.classes)}"
            )
        return self.classes.index(name)
