"""Prediction files of segmentation: class maps, confidence and polygons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.item import Piece
from tasks.output import Sink
from tasks.segmentation.items import SceneItem
from utils.errors import SettingsError
from utils.media.overlays import ENDING as OVERLAY_ENDING
from utils.media.overlays import is_overlay_picture, write_overlay_picture
from utils.raster.attribute_table import is_attribute_table, sidecar_path
from utils.raster.polygons import is_polygons, write_polygons
from utils.raster.qgis import is_style
from utils.raster.writer import BESIDE, NODATA, ClassRasterWriter, is_prediction


def overlay_path(path: Path) -> Path:
    """Where the overlay of a class raster is.

    Examples
    --------
    >>> overlay_path(Path("out/reef_classes.tif")).name, overlay_path(Path("map.png")).name
    ('reef_overlay.png', 'map_overlay.png')
    """
    return path.with_name(path.stem.removesuffix("_classes") + OVERLAY_ENDING)


def refuse_foreign(path: Path, confidence: bool = False, polygons: bool = False, overlay: bool = False) -> None:
    """Refuse to write a prediction over files that inference did not write, such as the picture itself.

    Parameters
    ----------
    path : Path
        The class raster.
    confidence, polygons, overlay : bool
        Whether these files are written beside it.

    Raises
    ------
    SettingsError
        If there is such a file.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import write_pictures
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_pictures(folder)
    >>> refuse_foreign(folder / "new.tif")
    >>> refuse_foreign(folder / "pictures" / "scene_0.tif")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: .../scene_0.tif: already exists and was not written by inference; ...
    """
    for file, is_own in _written_beside(path, confidence, polygons, overlay).items():
        if file.exists() and not is_own(file):
            raise SettingsError(
                f"{file}: already exists and was not written by inference; choose another inference.output_tif or "
                "inference.output_dir, or move the file away"
            )


def _written_beside(
    path: Path, confidence: bool, polygons: bool, overlay: bool = False
) -> dict[Path, Callable[[Path], bool]]:
    """The files of a prediction, each with a function that is true for a file that inference wrote.

    Examples
    --------
    >>> [file.name for file in _written_beside(Path("a.tif"), True, True)]
    ['a.tif', 'a.qml', 'a.tif.aux.xml', 'a_confidence.tif', 'a.gpkg']
    >>> [file.name for file in _written_beside(Path("a.png"), False, False)]
    ['a.png']
    """
    files: dict[Path, Callable[[Path], bool]] = {path: is_prediction}
    if path.suffix.lower() != ".png":  # the style of a map by inference may be replaced, even if QGIS has saved it
        files[path.with_suffix(".qml")] = lambda style: is_style(style) or is_prediction(path)
        files[sidecar_path(path)] = lambda table: is_attribute_table(table) or is_prediction(path)
    if confidence:
        files[path.with_stem(f"{path.stem}_confidence")] = is_prediction
    if polygons:
        files[path.with_suffix(".gpkg")] = is_polygons
    if overlay:
        files[overlay_path(path)] = is_overlay_picture
    return files


class RasterSink(Sink):
    """Writes class maps as georeferenced rasters; nodata where the picture has none.

    Parameters
    ----------
    writer : ClassRasterWriter
        Collects finished strips until the raster is complete.
    item : SceneItem
        The item to write; its rows are the share of this rank.
    confidence : bool
        Whether the writer takes the probability of the chosen class.
    polygons : dict, optional
        Options of `write_polygons`; None writes no polygons.
    draw_overlay : callable, optional
        Draws the classes in a finished raster over the picture, (H, W, 3); None writes no overlay.

    Examples
    --------
    >>> RasterSink.__mro__[1].__name__
    'Sink'
    """

    def __init__(
        self,
        writer: ClassRasterWriter,
        item: SceneItem,
        confidence: bool = False,
        polygons: dict[str, Any] | None = None,
        draw_overlay: Callable[[Path], np.ndarray] | None = None,
    ):
        self.writer = writer
        self.item = item
        self.confidence = confidence
        self.polygons = polygons
        self.draw_overlay = draw_overlay

    @override
    def append(self, piece: Piece) -> None:
        assert piece.window is not None
        classes = piece.arrays["classes"]
        classes[~piece.arrays["valid"]] = NODATA
        self.writer.append(piece.window, classes, piece.arrays["confidence"] if self.confidence else None)

    @override
    def resume_point(self) -> int | None:
        return self.writer.resume_row(self.item.rows)

    @override
    def names(self) -> list[str]:
        files = self.writer.outputs
        files += [files[0].with_suffix(".gpkg")] if self.polygons is not None else []
        overlay = [overlay_path(files[0]).name] if self.draw_overlay is not None else []
        return [self.writer.work.name, *(f"{path.name}{BESIDE}" for path in files), *overlay]

    @override
    def close(self) -> list[Path]:
        files = self.writer.close()
        if self.polygons is not None:
            destination = files[0].with_suffix(".gpkg")
            write_polygons(files[0], destination, **self.polygons)
            files.append(destination)
        if self.draw_overlay is not None:
            write_overlay_picture(overlay_path(files[0]), self.draw_overlay(files[0]))
            files.append(overlay_path(files[0]))
        return files

    @override
    def faults(self) -> list[str]:
        empty = "nothing is predicted: the picture is transparent or nodata everywhere; see its opacity, dataset.nodata"
        return [text for text in (self.writer.pattern, empty if self.writer.is_empty else "") if text]
