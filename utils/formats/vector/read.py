"""Vector files over rasters: the outline of each feature becomes a box in the pixels of the raster on which it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely

from utils.errors import DataError
from utils.formats import specs
from utils.formats.box_rules import cut_to_picture, name_categories
from utils.formats.coco.files import Sources, find_image, image_folders
from utils.formats.pictures import list_files, picture_ids
from utils.formats.predictions import CURE, score_name
from utils.formats.recognise import VECTOR_SUFFIXES
from utils.formats.sets import finish_sets
from utils.formats.tables.columns import PICTURE
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem
from utils.formats.vector.classes import DEFAULT_CATEGORY, VectorChoice, as_category, class_attribute
from utils.formats.vector.outlines import Outlines
from utils.formats.vector.place import grid_of
from utils.raster.grids import PixelGrid
from utils.raster.labels import refuse_impossible
from utils.raster.vector_files import LayerInfo, describe_truncated, read_features, read_layer_info

RASTERS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".vrt")


def read_vector(
    path: str | Path, root: str | Path | None = None, choice: VectorChoice | None = None
) -> dict[str, AnnotationSet]:
    """Read features as boxes of the rasters on which they lie.

    The class is the attribute `label`, `class`, `class_name`, `category`, `category_name` or `name`, the first that is
    there, or the one that `choice` names; where no attribute holds text, all features are of one class, "object". Where
    an attribute such as `image_path` names the picture, it counts; else a feature belongs to every raster that it
    meets. A feature of several parts that do not touch gives a box for each of them.

    Parameters
    ----------
    path : str or Path
        A vector file (GeoPackage, GeoJSON, Shapefile, FlatGeobuf) with one layer of polygons, a folder of them, or a
        specification (YAML with `format: vector`, and `path`, `train`, `val`, `test` or `all`, and `names`).
    root : str or Path, optional
        Folder of the rasters; by default the specification's, the folder, or the file's folder.
    choice : VectorChoice, optional
        Layer and attribute of the labels.

    Returns
    -------
    dict of str to AnnotationSet
        By split, as the names of the files say. Rasters that no feature meets are left out, with a problem: they may
        not be labelled.

    Raises
    ------
    DataError
        If a file cannot be read, holds scores and thus predictions, may hold the class in an attribute that nobody
        named, has a CRS that its coordinates cannot have or that the rasters lack (or the other way round), or meets
        no raster.

    Examples
    --------
    >>> import tempfile
    >>> from affine import Affine
    >>> from utils.raster.files import write_raster
    >>> from utils.raster.vector_files import write_features
    >>> folder = Path(tempfile.mkdtemp())
    >>> transform = Affine(0.5, 0, 100, 0, -0.5, 50)
    >>> write_raster(folder / "a.tif", np.zeros((4, 6, 3), np.uint8), crs="EPSG:32631", transform=transform)
    >>> write_features(folder / "trees.gpkg", [shapely.box(101, 48.5, 102, 49.5)], crs="EPSG:32631", label=["Tree"])
    >>> picture = read_vector(folder / "trees.gpkg")["all"].pictures[0]
    >>> picture.id, picture.instances[0].category, picture.instances[0].box_xyxy.tolist()
    ('a', 'Tree', [2.0, 1.0, 4.0, 3.0])
    """
    path, choice = Path(path), choice or VectorChoice()
    problems: list[Problem] = []
    sources = _find_sources(path, None if root is None else Path(root), problems, choice.layer)
    rasters = _Rasters(sources.root)
    read = {
        split: [_read_file(sources, split, file, rasters, choice, problems) for file in files]
        for split, files in sources.files.items()
    }
    found = list(dict.fromkeys(picture for part in read.values() for boxes in part for picture in boxes))
    if not found:
        first = f"; first: {problems[0]}" if problems else ""
        raise DataError(
            f"{path}: its features meet no raster in {sources.root}{first}; name the rasters' folder in paths.data_root"
        )
    ids = picture_ids(found, sources.root)
    names = specs.category_names(sources.spec) if sources.spec else None
    sets = {split: _build_set(part, ids, rasters, names) for split, part in read.items()}
    name_categories(sets, names)
    read_already = {raster.resolve() for raster in ids}
    lacking = [raster for raster in rasters.listed() if raster.resolve() not in read_already]
    if lacking:
        what = f"rasters that no feature meets, left out: {len(lacking)}, such as {lacking[0].name}"
        problems.append(Problem(str(path), what, "label them, or leave them so", blocks=False))
    return finish_sets(sets, problems)


def _find_sources(path: Path, root: Path | None, problems: list[Problem], layer: str | None = None) -> Sources:
    """The vector files of each split; in a folder, those of predictions are left out.

    Raises
    ------
    DataError
        If there is none.

    Examples
    --------
    >>> _find_sources(Path("/d/trees.gpkg"), None, []).root.as_posix()
    '/d'
    """
    if path.suffix.lower() in specs.SUFFIXES:
        spec = specs.read_spec(path, root)
        problems += specs.find_misspelled(spec)
        return Sources(specs.split_files(spec, "a vector file"), spec.root, None, spec)
    files = [path]
    if path.is_dir():
        files = []
        for file in list_files(path, VECTOR_SUFFIXES):
            score = _score_of(read_layer_info(file, layer))
            if score:
                what = f"not read: predictions, as the attribute {score!r} says"
                problems.append(Problem(str(file), what, blocks=False))
            else:
                files.append(file)
        if not files:
            raise DataError(f"{path}: no vector file with labels in it{f'; {problems[0]}' if problems else ''}")
    top = root or (path if path.is_dir() else path.parent)
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(specs.split_of_name(file.name) or "all", []).append(file)
    return Sources({split: found[split] for split in ("train", "val", "test", "all") if split in found}, top)


def _score_of(info: LayerInfo) -> str | None:
    """The attribute that holds scores, by which a vector file is one of predictions.

    Examples
    --------
    >>> _score_of(LayerInfo(None, ("kind", "Score"), 1, (0, 0, 1, 1), "GPKG", "a"))
    'Score'
    """
    return score_name(info.fields)


class _Rasters:
    """The rasters of a folder that have a place on Earth, opened when they are needed.

    Examples
    --------
    >>> _Rasters(Path("/no/such")).listed()
    []
    """

    def __init__(self, root: Path):
        self.root = root
        self.grids: dict[Path, PixelGrid | None] = {}
        self._listed: list[Path] | None = None

    def grid(self, path: Path) -> PixelGrid | None:
        """Where the pixels of a raster lie; None without a place.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> _Rasters(Path(".")).grid(Path(raster_file("a.tif", np.zeros((4, 6), np.uint8)))) is None
        True
        """
        if path not in self.grids:
            self.grids[path] = grid_of(path)
        return self.grids[path]

    def listed(self) -> list[Path]:
        """The rasters of the folder, sorted.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = Path(raster_file("a.tif", np.zeros((4, 6), np.uint8), crs="EPSG:32631"))
        >>> _Rasters(path.parent).listed() == [path]
        True
        """
        if self._listed is None:
            self._listed = []
            for path in list_files(self.root, RASTERS) if self.root.is_dir() else ():
                try:
                    if self.grid(path) is not None:
                        self._listed.append(path)
                except DataError:  # not a raster that can be opened; where a feature names it, that is told
                    continue
        return self._listed


@dataclass
class _Boxes:
    """Boxes of one raster, with the place and class of each.

    Examples
    --------
    >>> _Boxes().problems
    []
    """

    boxes: list[np.ndarray] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def _read_file(
    sources: Sources, split: str, file: Path, rasters: _Rasters, choice: VectorChoice, problems: list[Problem]
) -> dict[Path, _Boxes]:
    """Boxes of a vector file by the raster on which they lie.

    Raises
    ------
    DataError
        If it cannot be read, holds predictions, or one of it and a raster lacks a CRS.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.vector_files import write_features
    >>> file = Path(tempfile.mkdtemp()) / "a.geojson"
    >>> write_features(file, [shapely.box(1, 2, 3, 4)], crs="EPSG:4326", score=[0.5])
    >>> _read_file(
    ...     Sources({}, file.parent), "all", file, _Rasters(file.parent), VectorChoice(), []
    ... )  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.geojson: predictions, as the attribute 'score' says; labels have none: remove it ...
    """
    info = read_layer_info(file, choice.layer)
    score = _score_of(info)
    if score is not None:
        raise DataError(f"{file}: predictions, as the attribute {score!r} says; {CURE}")
    if info.truncated:
        problems.append(Problem(str(file), *describe_truncated(info)))
    attribute = class_attribute(file, info, choice, problems)
    features = read_features(file, choice.layer, attribute)
    categories = [DEFAULT_CATEGORY if attribute is None else as_category(value) for value in features.values.tolist()]
    lower = {name.lower(): name for name in reversed(info.fields)}
    picture = next((lower[name] for name in PICTURE if name in lower and lower[name] != attribute), None)
    named = None
    if picture is not None:
        names = read_features(file, choice.layer, picture, geometry=False).values.tolist()
        named = _named_rasters(sources, split, file, names, problems)
    usable = _usable_outlines(file, features.geometries, problems)
    outlines = Outlines.of(file, features, info.crs, info.bounds)
    found: dict[Path, _Boxes] = {}
    met, parted = ~usable, np.zeros(len(usable), int)
    for raster, owners, boxes in _meetings(outlines, info, usable, named, rasters):
        part = found.setdefault(raster, _Boxes())
        met[owners] = True
        parted = np.maximum(parted, np.bincount(owners, minlength=len(parted)))
        for index, box in zip(owners.tolist(), boxes, strict=True):
            where = f"{file}: feature {features.numbers[index]}"
            if categories[index]:
                part.boxes.append(box)
                part.categories.append(categories[index])
                part.where.append(where)
            else:
                part.problems.append(Problem(where, "expected a class, got an empty value", "give it one", lost=True))
    _tell_of_places(file, features.numbers, met, parted, rasters.root, problems)
    return found


def _tell_of_places(
    file: Path, numbers: np.ndarray, met: np.ndarray, parted: np.ndarray, root: Path, problems: list[Problem]
) -> None:
    """Report features that met no raster, bool (N,), and those with several boxes, int (N,), by their numbers (N,).

    Examples
    --------
    >>> problems = []
    >>> counts = np.array([0, 3, 1])
    >>> _tell_of_places(Path("a.gpkg"), np.array([4, 5, 6]), counts > 0, counts, Path("scenes"), problems)
    >>> print(*problems, sep=" | ")
    a.gpkg: 1 features meet no raster in scenes (numbers 4); name the rasters' folder in paths.data_root | a.gpkg: 1 \
features have parts that do not touch, and give 3 boxes, one for each part (numbers 5); where parts are one object, \
draw them as one outline
    """
    homeless, several = (np.flatnonzero(which) for which in (~met, parted > 1))
    if len(homeless):
        some = ", ".join(map(str, numbers[homeless[:5]]))
        what = f"{len(homeless)} features meet no raster in {root} (numbers {some})"
        problems.append(Problem(str(file), what, "name the rasters' folder in paths.data_root"))
    if len(several):
        some, total = ", ".join(map(str, numbers[several[:5]])), int(parted[several].sum())
        what = (
            f"{len(several)} features have parts that do not touch, and give {total} boxes, one for each part "
            f"(numbers {some})"
        )
        problems.append(Problem(str(file), what, "where parts are one object, draw them as one outline", blocks=False))


def _named_rasters(
    sources: Sources, split: str, file: Path, names: Sequence[object], problems: list[Problem]
) -> list[Path | None]:
    """The raster that each feature names; None, with a problem, where it is not there.

    Examples
    --------
    >>> problems = []
    >>> _named_rasters(Sources({}, Path("/no")), "all", Path("/no/a.gpkg"), ["b.tif", "b.tif"], problems), len(problems)
    ([None, None], 1)
    """
    folders = image_folders(sources, split, file)
    found: dict[str, Path | None] = {}
    for name in map(str, names):
        if name in found:
            continue
        what = f"no such picture: {name}"
        try:
            found[name] = find_image(name, folders, sources.root)
        except ValueError as error:
            found[name], what = None, str(error)
        if found[name] is None:
            problems.append(Problem(str(file), what, "put it there; paths.data_root is where pictures are looked for"))
    return [found[str(name)] for name in names]


def _usable_outlines(file: Path, geometries: np.ndarray, problems: list[Problem]) -> np.ndarray:
    """Which geometries (N,) enclose an area, bool (N,); of the others one problem for each kind.

    Examples
    --------
    >>> problems = []
    >>> shapes = np.array([shapely.box(0, 0, 1, 1), shapely.Point(1, 2), None])
    >>> _usable_outlines(Path("a.gpkg"), shapes, problems).tolist(), str(problems[0])
    ([True, False, False], 'a.gpkg: 1 features of type Point enclose no area and have no box; draw outlines around \
the objects')
    """
    usable = np.isin(shapely.get_type_id(geometries), (3, 6, 7)) & (shapely.area(geometries) > 0)
    kinds: dict[str, int] = {}
    for geometry in geometries[~usable]:
        kind = "none" if geometry is None else geometry.geom_type
        kinds[kind] = kinds.get(kind, 0) + 1
    for kind, count in kinds.items():
        what = f"{count} features of type {kind} enclose no area and have no box"
        problems.append(Problem(str(file), what, "draw outlines around the objects"))
    return usable


def _meetings(
    outlines: Outlines, info: LayerInfo, usable: np.ndarray, named: Sequence[Path | None] | None, rasters: _Rasters
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Every raster with the features on it: the raster, their indices (K,), and boxes (K, 4) in pixels.

    Raises
    ------
    DataError
        If only one of the file and a raster has a CRS, or the file's coordinates cannot be in its CRS.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> from utils.raster.vector_files import Features
    >>> path = Path(raster_file("a.tif", np.zeros((4, 6), np.uint8), crs="EPSG:32631"))
    >>> info = LayerInfo(None, (), 1, (1, 2, 3, 4), "GPKG", "a")
    >>> features = Features(np.array([1]), np.array([shapely.box(1, 2, 3, 4)]), np.array([None]))
    >>> outlines = Outlines.of(Path("a.gpkg"), features, None, info.bounds)
    >>> list(_meetings(outlines, info, np.array([True]), None, _Rasters(path.parent)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.gpkg: has no CRS, but .../a.tif has one; write the CRS into the file (ogr2ogr -a_srs)
    """
    file = outlines.path
    candidates = rasters.listed() if named is None else [path for path in dict.fromkeys(named) if path is not None]
    places = {path: number for number, path in enumerate(candidates)}
    of_raster = None if named is None else np.array([-1 if path is None else places[path] for path in named])
    grids = [rasters.grid(path) for path in candidates]
    refuse_impossible(file, info, [grid for grid in grids if grid is not None])
    for number, (raster, grid) in enumerate(zip(candidates, grids, strict=True)):
        if grid is None:
            raise DataError(f"{raster}: has no place on Earth, but {file} is in map coordinates; give it a transform")
        if (grid.crs is None) != (info.crs is None):
            which = (f"{file}: has no CRS", raster) if info.crs is None else (f"{raster}: has no CRS", file)
            raise DataError(f"{which[0]}, but {which[1]} has one; write the CRS into the file (ogr2ogr -a_srs)")
        owners, boxes = outlines.boxes_on(grid, usable if of_raster is None else usable & (of_raster == number))
        if len(owners):
            yield raster, owners, boxes


def _build_set(
    parts: Sequence[dict[Path, _Boxes]], ids: dict[Path, str], rasters: _Rasters, names: Sequence[str] | None
) -> AnnotationSet:
    """The rasters of a split with the boxes of all its files.

    Examples
    --------
    >>> _build_set([], {}, _Rasters(Path(".")), None).pictures
    []
    """
    annotations = AnnotationSet([], {}, [])
    for raster in dict.fromkeys(raster for part in parts for raster in part):
        id, grid = ids[raster], rasters.grid(raster)
        assert grid is not None, "features lie on rasters with a place"
        size, instances = (grid.height, grid.width), []
        for boxes in (part[raster] for part in parts if raster in part):
            annotations.problems += [Problem(p.where, p.what, p.cure, id, p.lost) for p in boxes.problems]
            for box, category, where in zip(boxes.boxes, boxes.categories, boxes.where, strict=True):
                try:
                    if names is not None and category not in names:
                        raise ValueError(f"{category!r} is no category; known: {', '.join(names)}")
                    instances.append(Instance(category, box_xyxy=cut_to_picture(box, size)))
                except ValueError as error:
                    problem = Problem(where, str(error), "mend or remove the feature", id, lost=True)
                    annotations.problems.append(problem)
        annotations.pictures.append(AnnotatedPicture(id, raster, size, tuple(instances)))
    return annotations
