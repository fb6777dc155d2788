"""Class indices on a scene's pixels from labels in any CRS and resolution, and whether labels belong to a scene.

A pixel's class is that at the pixel's centre, found exactly and without regard to the window that is read. Nothing is
warped to an intermediate grid, and no file is loaded whole unless its format leaves no choice.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError, SettingsError
from utils.raster.grids import Bounds, PixelGrid, carry_bounds, crs_name, fits_degrees, overlap, turns_between
from utils.raster.header import read_header
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.raster.vector_files import LayerInfo

BLOCK = 1024  # side of the blocks in which class maps are drawn, at fixed places of the scene
MOST_VALUES, MANY_VALUES = 20, 100  # values that are no class: shown in a message, and too many for a clean mask


class LabelSource(ABC):
    """Gives the class of every pixel of a scene. One source serves all scenes that it covers.

    Parameters
    ----------
    path : str or Path
        The file.
    num_classes : int
        Classes, besides "ignore".
    class_names : sequence of str
        Their names, for mappings that use them and for messages.

    Examples
    --------
    >>> from utils.raster.raster_labels import RasterLabels
    >>> from utils.raster.vector_labels import VectorLabels
    >>> issubclass(RasterLabels, LabelSource), issubclass(VectorLabels, LabelSource)
    (True, True)
    """

    def __init__(self, path: str | Path, num_classes: int, class_names: Sequence[str] = ()):
        self.path = Path(path)
        if not 1 <= num_classes <= IGNORE:
            raise SettingsError(f'number of classes: expected 1 to 255 (255 itself means "ignore"), got {num_classes}')
        self.num_classes = num_classes
        self.class_names = tuple(class_names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, num_classes={self.num_classes})"

    def read(self, scene: RasterScene, window: Window) -> np.ndarray:
        """Read the classes of a window of a scene.

        Parameters
        ----------
        scene : RasterScene
            The scene whose pixels count, after its `scale`.
        window : Window
            Any part of it may lie outside.

        Returns
        -------
        uint8 array, shape (height, width)
            Class indices; 255 outside the scene and where it is not labelled.

        Raises
        ------
        DataError
            If the labels do not belong to the scene or hold a value that is no class.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> from utils.raster.raster_labels import RasterLabels
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.uint8([[9, 9, 9]]))
        >>> write_raster(folder + "/label.tif", np.uint8([[0, 1, 2]]))
        >>> labels = RasterLabels(folder + "/label.tif", num_classes=3)
        >>> labels.read(RasterScene(folder + "/a.tif"), Window(0, 1, 2, 3)).tolist()
        [[1, 2, 255], [255, 255, 255]]
        """
        label = np.full((window.height, window.width), IGNORE, dtype=np.uint8)
        inner = window.intersection(Window(0, 0, scene.height, scene.width))
        if inner is not None:
            local = inner.shifted(-window.y, -window.x)
            label[local.rows, local.columns] = self._read_inside(scene, inner)
        return label

    @abstractmethod
    def check(self, scene: RasterScene) -> None:
        """Find out early whether the labels fit a scene; reads a bounded part of them.

        Raises
        ------
        DataError
            If they lie elsewhere, have no CRS while the scene has one or the other way round, or hold a value that is
            no class.

        Examples
        --------
        >>> "check" in LabelSource.__abstractmethods__
        True
        """

    def doubts(self) -> list[str]:
        """Say what can be read, but is hardly meant.

        Returns
        -------
        list of str
            Each with the file and what to do.

        Raises
        ------
        DataError
            If the file is damaged.

        Examples
        --------
        >>> from utils.raster.raster_labels import RasterLabels
        >>> RasterLabels("l.tif", num_classes=2).doubts()
        []
        """
        return []

    @abstractmethod
    def _read_inside(self, scene: RasterScene, window: Window) -> np.ndarray:
        """Read the classes of a window that lies inside the scene.

        Examples
        --------
        >>> "_read_inside" in LabelSource.__abstractmethods__
        True
        """


def join_blocks(size: tuple[int, int], window: Window, draw: Callable[[Window], np.ndarray]) -> np.ndarray:
    """Put a window together from blocks of a class map, so that a pixel has one class whatever window asks for it.

    Parameters
    ----------
    size : (int, int)
        Height and width of the scene.
    window : Window
        Inside the scene.
    draw : callable
        Gives the classes (height, width) of a block, uint8.

    Returns
    -------
    uint8 array, shape (height, width)

    Examples
    --------
    >>> def draw(block):
    ...     return np.full((block.height, block.width), block.x // BLOCK, np.uint8)
    >>> join_blocks((2, 1030), Window(0, 1022, 1, 4), draw).tolist()
    [[0, 0, 1, 1]]
    """
    label = np.empty((window.height, window.width), dtype=np.uint8)
    for y in range(window.y // BLOCK * BLOCK, window.rows.stop, BLOCK):
        for x in range(window.x // BLOCK * BLOCK, window.columns.stop, BLOCK):
            whole = Window(y, x, min(BLOCK, size[0] - y), min(BLOCK, size[1] - x))
            part = whole.intersection(window)
            assert part is not None, "blocks are taken from the window's span"
            place, local = part.shifted(-window.y, -window.x), part.shifted(-y, -x)
            label[place.rows, place.columns] = draw(whole)[local.rows, local.columns]
    return label


class UnknownValuesError(DataError):
    """Labels hold values that are no class.

    Parameters
    ----------
    path : Path
        The label file.
    counts : mapping of str to int
        How often each of them occurs.
    where : str
        In which part of the file.
    classes : iterable of str
        Values that are classes.
    cure : str
        What to do.

    Examples
    --------
    >>> print(UnknownValuesError(Path("a.tif"), {"7": 12}, "at y 0, x 0", ["0", "1"], "map it"))
    a.tif: value 7 (12 times at y 0, x 0) is no class; known: 0, 1; map it
    """

    def __init__(self, path: Path, counts: Mapping[str, int], where: str, classes: Iterable[str], cure: str):
        self.counts, self.classes, self.cure = dict(counts), list(classes), cure
        shown = ", ".join(f"{value} ({count} times {where})" for value, count in itertools.islice(counts.items(), 5))
        more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
        super().__init__(f"{path}: value {shown}{more} is no class; known: {list_classes(self.classes)}; {cure}")


def list_classes(classes: Iterable[str]) -> str:
    """The first values that are classes, for a message.

    Examples
    --------
    >>> list_classes(map(str, range(30)))[-10:], list_classes([])
    ('17, 18, 19', 'none')
    """
    return ", ".join(itertools.islice(classes, 20)) or "none"


def refuse_unknown_values(unknown: Mapping[Path, UnknownValuesError]) -> None:
    """Report all values of all label files that are no class at once, the most frequent first.

    Raises
    ------
    DataError
        If there is any.

    Examples
    --------
    >>> errors = {
    ...     Path(name): UnknownValuesError(Path(name), counts, "in it", ["0"], "give it a class")
    ...     for name, counts in (("a.png", {"7": 12, "9": 1}), ("b.png", {"7": 30}))
    ... }
    >>> refuse_unknown_values(errors)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: 2 values of labels are no class: 7 (42 times in 2 files, such as a.png), 9 (1 times in ...
    """
    if not unknown:
        return
    errors = list(unknown.values())
    if len(errors) == 1 and len(errors[0].counts) == 1:
        raise errors[0]
    totals: Counter[str] = Counter()
    files: dict[str, list[Path]] = {}
    for path, error in unknown.items():
        totals.update(error.counts)
        for value in error.counts:
            files.setdefault(value, []).append(path)
    shown = [
        f"{value} ({count} times in {len(files[value])} files, such as {files[value][0]})"
        for value, count in totals.most_common(MOST_VALUES)
    ]
    more = f" and {len(totals) - MOST_VALUES} more" if len(totals) > MOST_VALUES else ""
    lossy = (
        "; so many come from JPEG compression or smooth edges: save masks as PNG" if len(totals) > MANY_VALUES else ""
    )
    raise DataError(
        f"{len(totals)} values of labels are no class: {', '.join(shown)}{more}; "
        f"known: {list_classes(errors[0].classes)}; {errors[0].cure}{lossy}"
    )


def check_same_kind(path: Path, label_crs: CRS | None, scene: RasterScene, unplaced: str | None = None) -> None:
    """Refuse labels with a CRS for a scene without one, and the other way round.

    `unplaced` says how a label raster gives its place, where that is no transform (see `RasterHeader`).

    Raises
    ------
    DataError
        When one of them has a CRS and the other has none, or a place that is no transform.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.files import write_raster
    >>> scene_path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(scene_path, np.zeros((4, 6), np.uint8))
    >>> check_same_kind(Path("l.tif"), CRS.from_epsg(4326), RasterScene(scene_path))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: l.tif: the labels are in EPSG:4326, but ...a.tif has no CRS; give the picture its CRS ...
    """
    if label_crs is not None and scene.unplaced:
        raise DataError(f"{scene.paths[0]}: {scene.unplaced}; its labels {path} are in {crs_name(label_crs)}")
    if scene.crs is not None and unplaced:
        raise DataError(f"{path}: {unplaced}; the picture {scene.paths[0]} is in {crs_name(scene.crs)}")
    if (label_crs is None) == (scene.crs is None):
        return
    if label_crs is None:
        raise DataError(
            f"{path}: the labels have no CRS, but {scene.paths[0]} is in {crs_name(scene.crs)}; "
            "give the labels their CRS and transform (rio edit-info --like), or make them anew from that picture"
        )
    raise DataError(
        f"{path}: the labels are in {crs_name(label_crs)}, but {scene.paths[0]} has no CRS; "
        "give the picture its CRS and transform (rio edit-info), or use labels in its pixels"
    )


def show_bounds(bounds: Bounds) -> str:
    """Bounds in a message.

    Examples
    --------
    >>> show_bounds((0.1234567, 2, 39.25, 4123456.7))
    'x 0.1234567 to 39.25, y 2 to 4123456.7'
    """
    left, bottom, right, top = (f"{value:.10g}" for value in bounds)
    return f"x {left} to {right}, y {bottom} to {top}"


def check_overlap(path: Path, bounds: Bounds, crs: CRS | None, scene: RasterScene) -> None:
    """Refuse labels that do not overlap the scene.

    Raises
    ------
    DataError
        When they do not overlap.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.files import write_raster
    >>> from affine import Affine
    >>> scene_path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(scene_path, np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> check_overlap(Path("l.tif"), (100, 0, 110, 9), CRS.from_epsg(32631), RasterScene(scene_path))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: l.tif: no common ground: labels x 100 to 110, y 0 to 9 (EPSG:32631), ...a.tif x 8 to 20, ...
    """
    carried = carry_bounds(bounds, crs, scene.crs)
    if carried is not None and turns_between(carried, scene.grid.bounds, scene.crs):
        return
    back = carry_bounds(scene.grid.bounds, scene.crs, crs) if carried is None else None
    if back is not None and turns_between(back, bounds, crs):  # labels all over the world have no place in every CRS
        return
    in_scene = "" if crs == scene.crs or carried is None else f", in the scene's CRS {show_bounds(carried)}"
    raise DataError(
        f"{path}: no common ground: labels {show_bounds(bounds)} ({crs_name(crs)}){in_scene}, "
        f"{scene.paths[0]} {show_bounds(scene.grid.bounds)} ({crs_name(scene.crs)}){guess_crs(bounds, crs, scene.grid)}"
    )


def guess_crs(bounds: Bounds, crs: CRS | None, grid: PixelGrid) -> str:
    """What the numbers would fit, when the file's CRS is likely to be wrong.

    Examples
    --------
    >>> from affine import Affine
    >>> grid = PixelGrid(4, 6, CRS.from_epsg(32631), Affine(2, 0, 8, 0, -2, 9))
    >>> guess_crs((9, 2, 12, 4), CRS.from_epsg(4326), grid)
    "; the numbers would fit the scene's own EPSG:32631: if the file claims a wrong CRS, set it (ogr2ogr -a_srs, ...)"
    """
    degrees = CRS.from_epsg(4326)
    tool = "if the file claims a wrong CRS, set it (ogr2ogr -a_srs, gdal_edit -a_srs)"
    if crs != grid.crs and overlap(bounds, grid.bounds):
        return f"; the numbers would fit the scene's own {crs_name(grid.crs)}: {tool}"
    carried = carry_bounds(bounds, degrees, grid.crs) if crs != degrees and fits_degrees(bounds) else None
    if carried is not None and overlap(carried, grid.bounds):
        return f"; the numbers would fit EPSG:4326: {tool}"
    return "; give labels of this ground, or leave the scene out"


def refuse_impossible(path: Path, info: LayerInfo, grids: Sequence[PixelGrid]) -> None:
    """Refuse a vector file whose coordinates its CRS cannot have, such as metres in place of degrees.

    Parameters
    ----------
    path : Path
        The file.
    info : LayerInfo
        What it says about itself.
    grids : sequence of PixelGrid
        Of the rasters that it is for: one of them may tell which CRS is meant.

    Raises
    ------
    DataError
        If it claims a CRS that cannot be.

    Examples
    --------
    >>> from affine import Affine
    >>> grid = PixelGrid(4, 6, CRS.from_epsg(32631), Affine(2, 0, 5e5, 0, -2, 5e6))
    >>> info = LayerInfo(CRS.from_epsg(4326), (), 1, (500001, 4999993, 500003, 4999997), "GeoJSON", "a")
    >>> refuse_impossible(Path("a.geojson"), info, [grid])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.geojson: claims EPSG:4326 (as every GeoJSON without a crs does), but holds x 500001 to ...
    """
    crs, bounds = info.crs, info.bounds
    if crs is None or (fits_degrees(bounds) if crs.is_geographic else carry_bounds(bounds, crs, CRS.from_epsg(4326))):
        return
    unsaid = " (as every GeoJSON without a crs does)" if info.driver.startswith("GeoJSON") else ""
    cannot = "are no degrees" if crs.is_geographic else "that CRS cannot express"
    guesses = [guess for grid in grids if "would fit" in (guess := guess_crs(bounds, crs, grid))]
    cure = guesses[0] if guesses else "; state the CRS that they are in (ogr2ogr -a_srs EPSG:CODE)"
    raise DataError(f"{path}: claims {crs_name(crs)}{unsaid}, but holds {show_bounds(bounds)}, which {cannot}{cure}")


def refuse_shared(pairs: Mapping[Path, Path]) -> None:
    """Refuse a label that several scenes would share by their stem, unless all of them have a place on Earth.

    Parameters
    ----------
    pairs : dict of Path to Path
        Label of each scene.

    Raises
    ------
    DataError
        For `a.jpg` and `a.png`, of which nothing says which one the label was made for.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> photos = [Path(raster_file(name, np.zeros((4, 6), np.uint8))) for name in ("a.png", "a.jpg")]
    >>> refuse_shared(dict.fromkeys(photos, Path("labels/a.tif")))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: labels/a.tif: fits ...a.png and ...a.jpg by its name, and can be right for one of them ...
    """
    scenes: dict[Path, list[Path]] = {}
    for scene, label in pairs.items():
        scenes.setdefault(label, []).append(scene)
    for label, sharing in scenes.items():
        if len(sharing) > 1 and not all(_has_place(scene) for scene in sharing):
            names = " and ".join(str(scene) for scene in sharing[:3])
            raise DataError(
                f"{label}: fits {names} by its name, and can be right for one of them only; give each picture its own "
                "name and label, or take one away"
            )


def _has_place(scene: Path) -> bool:
    """Whether a scene has a place on Earth, so that a label can be compared with it; True for one that is unreadable.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> _has_place(Path(raster_file("a.png", np.zeros((4, 6), np.uint8))))
    False
    """
    try:
        return read_header(scene).grid.crs is not None
    except DataError:  # the check of all scenes says what is wrong with it
        return True
