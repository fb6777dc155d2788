"""A small made-up piece of countryside from the air, with its labels: something to try every phase on.

Three scenes of fields, roads, buildings, water and forest at half a metre per pixel. The shapes are planned first, as
polygons in pixels; the picture is drawn from them and the labels are the same polygons in geographic coordinates, so
that both agree to the pixel. Colour alone does not tell the classes apart: dark roofs look like water, dense crops like
forest, tracks like stubble, and light falls off across a scene. A corner lies outside the rotated footprint (nodata),
and one building site is left without a label.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from scipy import ndimage
from shapely import affinity

from utils.errors import DataError
from utils.files import atomic_path, digest_file, read_json, write_json

logger = logging.getLogger(__name__)

CLASSES = ("field", "road", "building", "water", "forest")
UNLABELLED = "building site"
IGNORE_INDEX = 255
SCENE_CRS = "EPSG:32632"
LABEL_CRS = "EPSG:4326"
METRES_PER_PIXEL = 0.5
ORIGIN = (612_000.0, 5_318_000.0)  # easting and northing of the first scene's outer corner
SCENE_GAP_M = 100.0
NODATA = 0
MARK = "sample.json"  # what was drawn, with a digest of each file; begun before the first one
VERSION = 1  # of what is drawn; raise it when the same seed gives other files
SCENE_NAMES = ("scenes/north.tif", "scenes/south.tif", "unseen/east.tif")
LABEL_NAMES = ("labels.gpkg", "labels.gpkg", "unseen/labels.gpkg")
SUN = np.array([0.8, 0.6])  # shadows fall this way, x and y

CROPS = ((104, 128, 62), (134, 148, 78), (172, 158, 104), (190, 172, 124), (116, 92, 68), (88, 74, 58), (72, 98, 50))
ROOFS = ((158, 92, 72), (142, 76, 60), (176, 172, 166), (66, 72, 78), (54, 62, 66), (120, 112, 104))
ASPHALT = (118, 116, 114)
TRACK = (164, 146, 116)
WATER = (48, 66, 70)
FOREST = (58, 80, 46)
SOIL = (150, 124, 98)


@dataclass(frozen=True)
class Patch:
    """A piece of ground of one kind, and how it looks.

    Parameters
    ----------
    kind : str
        One of `CLASSES`, or `UNLABELLED`.
    shape : shapely.Polygon
        In pixels of its scene, x to the right and y down.
    colour : tuple of float
        Red, green and blue.
    angle : float
        Of crop rows or of the roof's ridge, in radians.
    period : float
        Pixels between crop rows.

    Examples
    --------
    >>> Patch("water", shapely.box(0, 0, 4, 2), WATER).shape.area
    8.0
    """

    kind: str
    shape: Any
    colour: tuple[float, ...]
    angle: float = 0.0
    period: float = 6.0


@dataclass(frozen=True)
class Sample:
    """Where the files of a sample lie.

    Parameters
    ----------
    folder : Path
        That holds all of them.
    scenes : tuple of Path
        Two scenes for training and validation.
    labels : Path
        Polygons of both, with the attribute `class`.
    unseen_scene, unseen_labels : Path
        A third scene, for inference, and its polygons.
    classes : tuple of str
        Values of the attribute.

    Examples
    --------
    >>> locate_sample("a").labels.as_posix()
    'a/labels.gpkg'
    """

    folder: Path
    scenes: tuple[Path, ...]
    labels: Path
    unseen_scene: Path
    unseen_labels: Path
    classes: tuple[str, ...] = CLASSES


def locate_sample(folder: str | Path) -> Sample:
    """Where a sample's files lie, or will lie.

    Examples
    --------
    >>> [scene.name for scene in locate_sample("a").scenes]
    ['north.tif', 'south.tif']
    """
    folder = Path(folder)
    first, second, unseen = (folder / name for name in SCENE_NAMES)
    return Sample(folder, (first, second), folder / LABEL_NAMES[0], unseen, folder / LABEL_NAMES[2])


def make_sample(folder: str | Path, seed: int = 7, size: tuple[int, int] = (768, 1024)) -> Sample:
    """Make the sample, unless it is there already.

    Parameters
    ----------
    folder : str or Path
        Made when missing; other files in it are left alone.
    seed : int
        The same seed and size give the same pixels and polygons.
    size : (int, int)
        Height and width of each scene in pixels.

    Returns
    -------
    Sample
        Paths of the scenes and labels.

    Raises
    ------
    ValueError
        When a side is under 128 pixels: there would be no room for every class.
    DataError
        When the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> sample = make_sample(tempfile.mkdtemp(), size=(128, 160))
    >>> import rasterio
    >>> with rasterio.open(sample.unseen_scene) as scene:
    ...     scene.shape, scene.count, scene.crs.to_epsg(), scene.res, scene.nodata
    ((128, 160), 3, 32632, (0.5, 0.5), 0.0)
    """
    if min(size) < 128:
        raise ValueError(f"size: expected a height and width of at least 128 pixels, got {tuple(size)}")
    sample = locate_sample(folder)
    recipe = {"version": VERSION, "seed": seed, "size": list(size)}
    if is_whole(sample.folder, recipe):
        return sample
    begin_sample(sample.folder, recipe, [*SCENE_NAMES, *LABEL_NAMES])
    logger.info("drawing a sample of %d scenes in %s", len(SCENE_NAMES), sample.folder)
    try:
        _write_sample(sample.folder, seed, size)
    except OSError as error:
        raise unwritable(sample.folder, error) from error
    digests = {name: digest_file(sample.folder / name) for name in sorted({*SCENE_NAMES, *LABEL_NAMES})}
    write_json(sample.folder / MARK, {**recipe, "classes": list(CLASSES), "files": digests})
    return sample


def is_whole(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether a folder holds the sample of a recipe, each file as it was written.

    Examples
    --------
    >>> import tempfile
    >>> is_whole(Path(tempfile.mkdtemp()), {"version": VERSION, "seed": 7, "size": [768, 1024]})
    False
    """
    try:
        written = read_json(folder / MARK, default={})
    except ValueError:
        return False  # not JSON: something else wrote it, so make it anew
    if not isinstance(written, dict) or {key: written.get(key) for key in recipe} != recipe:
        return False
    files = written.get("files", {})
    return bool(files) and all(
        (folder / name).is_file() and digest_file(folder / name) == digest for name, digest in files.items()
    )


def begin_sample(folder: Path, recipe: dict[str, Any], names: Iterable[str]) -> None:
    """Refuse to draw over files of somebody else; mark the folder as the sample's before its first file.

    Raises
    ------
    DataError
        If a file or folder of the sample is there already, and no sample.json says that it is the sample's.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "labels.gpkg").write_text("of somebody")
    >>> begin_sample(folder, {}, ["labels.gpkg"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../labels.gpkg: is there already, and not of the sample; name an empty folder in ...
    """
    taken = [folder / name for name in names if (folder / name).exists()]
    if taken and not (folder / MARK).exists():
        raise DataError(
            f"{taken[0]}: is there already, and not of the sample; name an empty folder in dataset.sample.folder, or "
            "set dataset.sample.enable: false to use your own data"
        )
    try:
        write_json(folder / MARK, {**recipe, "files": {}})
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> DataError:
    """The error of a sample that cannot be written.

    Examples
    --------
    >>> print(unwritable(Path("a"), OSError(28, "No space left on device")))  # doctest: +ELLIPSIS
    a: the sample could not be written (No space left on device); free space on this disk, or name another folder ...
    """
    reason = error.strerror or error.__cause__ or error  # rasterio's own name neither file nor cause
    return DataError(
        f"{folder}: the sample could not be written ({reason}); free space on this disk, or name another folder in "
        "dataset.sample.folder"
    )


def _write_sample(folder: Path, seed: int, size: tuple[int, int]) -> None:
    """Plan, draw and write all scenes and their labels.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _write_sample(folder, 1, (128, 128))
    >>> sorted(path.name for path in folder.iterdir())
    ['labels.gpkg', 'scenes', 'unseen']
    """
    labelled: dict[str, list[tuple[str, Any]]] = {name: [] for name in LABEL_NAMES}
    for index, (scene_name, label_name) in enumerate(zip(SCENE_NAMES, LABEL_NAMES, strict=True)):
        patches, image, _ = draw_scene(seed, index, size)
        transform = scene_transform(index, size)
        write_scene(folder / scene_name, image, transform)
        labelled[label_name] += [
            (patch.kind, to_geographic(patch.shape, transform)) for patch in patches if patch.kind in CLASSES
        ]
    for label_name, polygons in labelled.items():
        write_labels(folder / label_name, polygons)


def draw_scene(seed: int, index: int, size: tuple[int, int]) -> tuple[list[Patch], np.ndarray, np.ndarray]:
    """Plan and draw one scene.

    Parameters
    ----------
    seed : int
        Of the sample.
    index : int
        Which scene.
    size : (int, int)
        Height and width.

    Returns
    -------
    patches : list of Patch
        The ground, without overlap.
    image : array, shape (H, W, 3)
        uint8, 0 outside the footprint and nowhere else.
    class_map : array, shape (H, W)
        uint8 index into `CLASSES`, 255 where there is no label.

    Examples
    --------
    >>> patches, image, class_map = draw_scene(7, 0, (128, 160))
    >>> image.shape, np.unique(class_map).tolist()
    ((128, 160, 3), [0, 1, 2, 3, 4, 255])
    """
    generator = np.random.default_rng([seed, index])
    patches = plan_ground(generator, size)
    owners = rasterize_patches(patches, size)
    image = paint_ground(generator, patches, owners)
    codes = [IGNORE_INDEX, *(CLASSES.index(p.kind) if p.kind in CLASSES else IGNORE_INDEX for p in patches)]
    return patches, image, np.array(codes, np.uint8)[owners]


# ------------------------------------------------------------------------------------------------------- planning


def plan_ground(generator: np.random.Generator, size: tuple[int, int]) -> list[Patch]:
    """Lay out a scene: what comes first covers what comes later, fields fill the rest.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Height and width in pixels.

    Returns
    -------
    list of Patch
        Polygons without overlap that fill the footprint.

    Examples
    --------
    >>> patches = plan_ground(np.random.default_rng(0), (128, 160))
    >>> shapes = [patch.shape for patch in patches]
    >>> bool(np.isclose(sum(shape.area for shape in shapes), shapely.union_all(shapes).area))
    True
    """
    footprint = plan_footprint(generator, size)
    lines = plan_roads(generator, size)
    waters = plan_blobs(generator, size, count=4, roughness=0.5, radius=0.13)
    roads = shapely.union_all([line.buffer(width) for line, width, _ in lines])
    blocked = shapely.union_all([roads.buffer(3), *[water.buffer(4) for water in waters]])
    patches = plan_buildings(generator, lines, blocked)
    patches += [Patch("road", line.buffer(width, cap_style="flat"), colour) for line, width, colour in lines]
    patches += [Patch(UNLABELLED, shape, SOIL) for shape in plan_blobs(generator, size, 1, 1.0, 0.06)]
    patches += [Patch("water", shape, WATER) for shape in waters]
    patches += [Patch("forest", shape, FOREST) for shape in plan_blobs(generator, size, 5, 1.2, 0.11)]
    return remove_overlap(patches + plan_fields(generator, size), footprint)


def plan_footprint(generator: np.random.Generator, size: tuple[int, int]) -> Any:
    """What the camera saw: the frame cut by a turned one, which leaves corners without data.

    Examples
    --------
    >>> footprint = plan_footprint(np.random.default_rng(0), (128, 160))
    >>> 0.85 < footprint.area / (128 * 160) < 0.99
    True
    """
    height, width = size
    frame = shapely.box(0, 0, width, height)
    turned = affinity.rotate(affinity.scale(frame, 1.05, 1.05), generator.uniform(5, 7) * generator.choice([-1, 1]))
    return frame.intersection(affinity.translate(turned, 0.01 * width, 0.01 * height))


def plan_roads(generator: np.random.Generator, size: tuple[int, int]) -> list[tuple[Any, float, tuple[int, ...]]]:
    """Two roads that cross and two tracks, each a smooth curve from edge to edge.

    Returns
    -------
    list of (shapely.LineString, float, tuple of int)
        Centre line, half its width in pixels, and colour.

    Examples
    --------
    >>> roads = plan_roads(np.random.default_rng(0), (128, 160))
    >>> len(roads), roads[0][0].crosses(roads[1][0])
    (4, True)
    """
    height, width = size
    roads: list[tuple[Any, float, tuple[int, ...]]] = []
    for index, (half_width, colour) in enumerate([(7.0, ASPHALT), (6.0, ASPHALT), (4.0, TRACK), (4.0, TRACK)]):
        # Two main roads near the middle, tracks in the outer thirds; odd ones run from top to bottom.
        along, across = (width, height) if index % 2 == 0 else (height, width)
        middle = (
            generator.uniform(0.4, 0.6)
            if index < 2
            else generator.choice([0.15, 0.85]) + generator.uniform(-0.06, 0.06)
        )
        offsets = across * (middle + generator.uniform(-0.14, 0.14, 4))
        corners = np.stack([np.linspace(-0.05, 1.05, 4) * along, offsets], axis=1)
        curve = draw_bezier(corners if index % 2 == 0 else corners[:, ::-1])
        roads.append((shapely.LineString(curve), half_width, colour))
    return roads


def draw_bezier(corners: np.ndarray, count: int = 48) -> np.ndarray:
    """Points of a cubic Bezier curve.

    Parameters
    ----------
    corners : array, shape (4, 2)
        Control points.
    count : int
        Points wanted.

    Returns
    -------
    array, shape (count, 2)
        From the first corner to the last.

    Examples
    --------
    >>> draw_bezier(np.array([[0, 0], [0, 8], [8, 8], [8, 0]]), 3).tolist()
    [[0.0, 0.0], [4.0, 6.0], [8.0, 0.0]]
    """
    t = np.linspace(0, 1, count)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return weights @ corners


def plan_blobs(
    generator: np.random.Generator, size: tuple[int, int], count: int, roughness: float, radius: float
) -> list[Any]:
    """Rounded shapes in different parts of the frame.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Height and width of the frame.
    count : int
        How many.
    roughness : float
        How far the outline strays; 0 gives ellipses.
    radius : float
        Of the first and largest, as a share of the shorter side.

    Returns
    -------
    list of shapely.Polygon
        They may overlap.

    Examples
    --------
    >>> lakes = plan_blobs(np.random.default_rng(0), (128, 160), 3, 0.5, 0.2)
    >>> len(lakes), all(lake.is_valid for lake in lakes), lakes[0].area > lakes[2].area
    (3, True, True)
    """
    height, width = size
    directions = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    waves = np.arange(2, 8)[:, None]
    # One place in each of `count` columns and, in a random order, rows: spread out, so that each split gets some.
    columns = (generator.permutation(count) + generator.uniform(0.25, 0.75, count)) / count
    rows = (generator.permutation(count) + generator.uniform(0.25, 0.75, count)) / count
    blobs = []
    for index in range(count):
        strength = roughness * generator.uniform(-0.35, 0.35, (len(waves), 1)) / waves
        phase = generator.uniform(0, 2 * np.pi, (len(waves), 1))
        reach = radius * min(size) * 0.85**index * np.exp(np.sum(strength * np.cos(waves * directions + phase), axis=0))
        stretch, turn = generator.uniform(1.0, 1.7), generator.uniform(0, 180)
        outline = np.stack([reach * np.cos(directions) * stretch, reach * np.sin(directions)], axis=1)
        blob = affinity.rotate(shapely.Polygon(outline), turn, origin=(0, 0))
        blobs.append(affinity.translate(blob, columns[index] * width, rows[index] * height))
    return blobs


def plan_buildings(
    generator: np.random.Generator, roads: Sequence[tuple[Any, float, tuple[int, ...]]], blocked: Any
) -> list[Patch]:
    """Houses and halls beside the roads, turned as the road runs; none overlaps another or what is blocked.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    roads : sequence of (shapely.LineString, float, tuple of int)
        From `plan_roads`.
    blocked : shapely geometry
        Where nothing may be built.

    Returns
    -------
    list of Patch
        Of the kind building.

    Examples
    --------
    >>> line = shapely.LineString([(0, 50), (400, 50)])
    >>> houses = plan_buildings(np.random.default_rng(0), [(line, 6.0, ASPHALT)], line.buffer(8))
    >>> len(houses) > 3, any(house.shape.intersects(line.buffer(8)) for house in houses)
    (True, False)
    """
    buildings: list[Patch] = []
    for line, half_width, _ in roads:
        for distance in np.arange(15.0, line.length, 46.0):
            for side in (-1, 1):
                place = distance + generator.uniform(-10, 10)
                building = plan_building(generator, line, place, side * half_width)
                taken = any(building.shape.distance(other.shape) < 6 for other in buildings)
                if generator.uniform() < 0.7 and not taken and not building.shape.intersects(blocked):
                    buildings.append(building)
    return buildings


def plan_building(generator: np.random.Generator, line: Any, place: float, half_width: float) -> Patch:
    """One building beside a line: a rectangle, sometimes with a wing.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    line : shapely.LineString
        The road.
    place : float
        Pixels along it.
    half_width : float
        Of the road; negative on the other side.

    Returns
    -------
    Patch
        Its angle is that of the ridge.

    Examples
    --------
    >>> line = shapely.LineString([(0, 50), (400, 50)])
    >>> house = plan_building(np.random.default_rng(0), line, 100, 6.0)
    >>> house.kind, house.shape.bounds[1] > 56
    ('building', True)
    """
    here, ahead = (np.array(line.interpolate(place + step).coords[0]) for step in (0, 1))
    back = np.array(line.interpolate(place - 1).coords[0])
    angle = np.arctan2(*(ahead - back)[::-1])
    normal = np.array([-np.sin(angle), np.cos(angle)])
    is_hall = generator.uniform() < 0.2
    length, depth = generator.uniform((34, 24), (60, 34)) if is_hall else generator.uniform((18, 13), (32, 22))
    setback = half_width + np.sign(half_width) * (generator.uniform(7, 18) + depth / 2)
    house = shapely.box(-length / 2, -depth / 2, length / 2, depth / 2)
    if generator.uniform() < 0.3:
        wing = length * generator.uniform(0.25, 0.4)
        house = house.union(shapely.box(-length / 2, 0, -length / 2 + wing, depth * 0.9))
    centre = here + setback * normal
    turned = affinity.rotate(house, np.degrees(angle), origin=(0, 0))
    colour = ROOFS[generator.integers(len(ROOFS))]
    return Patch("building", affinity.translate(turned, *centre), colour, angle=float(angle))


def plan_fields(generator: np.random.Generator, size: tuple[int, int]) -> list[Patch]:
    """Fields that fill the frame: cells around scattered points, stretched along one direction.

    Examples
    --------
    >>> fields = plan_fields(np.random.default_rng(0), (128, 160))
    >>> shapely.union_all([field.shape for field in fields]).contains(shapely.box(0, 0, 160, 128))
    True
    """
    height, width = size
    reach = float(np.hypot(height, width))
    turn, spacing = generator.uniform(0, 180), 150.0
    steps = np.arange(-reach, reach, spacing)
    x, y = np.meshgrid(steps, steps * 0.6)
    points = np.stack([x.ravel(), y.ravel()], axis=1) + generator.uniform(-0.3, 0.3, (x.size, 2)) * [
        spacing,
        0.6 * spacing,
    ]
    cells = shapely.voronoi_polygons(shapely.MultiPoint(points), extend_to=shapely.box(-reach, -reach, reach, reach))
    frame = shapely.box(0, 0, width, height)
    fields = []
    for cell in sorted(cells.geoms, key=lambda cell: cell.bounds):  # releases of GEOS order them differently
        shape = affinity.translate(affinity.rotate(cell, turn, origin=(0, 0)), width / 2, height / 2)
        colour = np.array(CROPS[generator.integers(len(CROPS))]) * generator.uniform(0.9, 1.1)
        angle = np.radians(turn) + generator.choice([0.0, np.pi / 2]) + generator.normal(0, 0.05)
        if shape.intersects(frame):
            fields.append(Patch("field", shape, tuple(colour.tolist()), float(angle), generator.uniform(4, 9)))
    return fields


def remove_overlap(patches: Sequence[Patch], footprint: Any) -> list[Patch]:
    """Cut from each patch what earlier ones cover and what lies outside; pieces become patches of their own.

    Parameters
    ----------
    patches : sequence of Patch
        What comes first lies on top.
    footprint : shapely geometry
        Nothing is left outside.

    Returns
    -------
    list of Patch
        Single polygons without overlap, slivers under a pixel dropped.

    Examples
    --------
    >>> below, above = (Patch("field", shapely.box(0, 0, 9, 2), SOIL), Patch("road", shapely.box(4, 0, 5, 2), ASPHALT))
    >>> [(p.kind, p.shape.area) for p in remove_overlap([above, below], shapely.box(0, 0, 8, 2))]
    [('road', 2.0), ('field', 8.0), ('field', 6.0)]
    """
    covered = shapely.Polygon()
    pieces = []
    for patch in patches:
        visible = patch.shape.intersection(footprint).difference(covered)
        covered = covered.union(patch.shape)
        for piece in sorted(shapely.get_parts(visible), key=lambda piece: piece.bounds):
            if piece.geom_type == "Polygon" and piece.area >= 1:
                pieces.append(Patch(patch.kind, piece, patch.colour, patch.angle, patch.period))
    return pieces


def rasterize_patches(patches: Sequence[Patch], size: tuple[int, int]) -> np.ndarray:
    """Which patch each pixel's centre lies in.

    Parameters
    ----------
    patches : sequence of Patch
        Without overlap.
    size : (int, int)
        Height and width.

    Returns
    -------
    array, shape (H, W)
        int32: index of the patch plus 1; 0 where there is none.

    Examples
    --------
    >>> rasterize_patches([Patch("water", shapely.box(1, 0, 3, 1), WATER)], (2, 3)).tolist()
    [[0, 1, 1], [0, 0, 0]]
    """
    from rasterio.features import rasterize

    return rasterize([(patch.shape, index + 1) for index, patch in enumerate(patches)], size, dtype=np.int32)


# ------------------------------------------------------------------------------------------------------- painting


def paint_ground(generator: np.random.Generator, patches: Sequence[Patch], owners: np.ndarray) -> np.ndarray:
    """Draw a scene from its patches: texture of each kind, shadows, uneven light, a little blur and noise.

    Everything is computed in float64 and rounded once, so that processors agree on the pixels.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    patches : sequence of Patch
        The ground.
    owners : array, shape (H, W)
        From `rasterize_patches`.

    Returns
    -------
    array, shape (H, W, 3)
        uint8, 1 to 255; 0 where no patch is.

    Examples
    --------
    >>> patches = [Patch("water", shapely.box(0, 0, 8, 8), WATER)]
    >>> image = paint_ground(np.random.default_rng(0), patches, rasterize_patches(patches, (8, 9)))
    >>> bool(image[:, :8].min() > 0), int(image[:, 8].max())
    (True, 0)
    """
    kinds = np.array(["", *(patch.kind for patch in patches)])[owners]
    canvas = np.array([(0.0, 0.0, 0.0), *(patch.colour for patch in patches)])[owners]
    factor = np.ones(owners.shape)
    for kind, shade in SHADES.items():
        inside = kinds == kind
        if inside.any():
            factor = np.where(inside, shade(generator, patches, owners, inside), factor)
    canvas *= factor[..., None]
    canvas += shallow_water_tint(kinds == "water")
    shadow = cast_shadow(kinds == "building", 11) * (kinds != "building")
    shadow = np.maximum(shadow, cast_shadow(kinds == "forest", 6) * (kinds != "forest"))
    shadow = ndimage.gaussian_filter(shadow, 0.8)
    canvas *= 1 - shadow[..., None] * np.array([0.62, 0.58, 0.5])  # the sky still lights shadows, in blue
    canvas *= draw_light(generator, owners.shape)[..., None]
    canvas = ndimage.gaussian_filter(canvas, (0.6, 0.6, 0)) + generator.normal(0, 2.5, canvas.shape)
    image = np.clip(np.rint(canvas), 1, 255).astype(np.uint8)
    return np.where((owners > 0)[..., None], image, np.uint8(NODATA))


def draw_noise(generator: np.random.Generator, size: tuple[int, ...], scale: float) -> np.ndarray:
    """Smooth noise around 0 with a deviation near 1.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Height and width.
    scale : float
        Pixels between independent values.

    Returns
    -------
    array, shape (H, W)
        float64.

    Examples
    --------
    >>> noise = draw_noise(np.random.default_rng(0), (40, 50), 8.0)
    >>> noise.shape, bool(np.abs(np.diff(noise)).max() < 1)
    ((40, 50), True)
    """
    height, width = size
    coarse = generator.standard_normal((int(height / scale) + 3, int(width / scale) + 3))
    rows, columns = (1 + np.arange(side) / scale for side in (height, width))
    return _interpolate(_interpolate(coarse, rows).T, columns).T * 1.5  # interpolation takes a third of the deviation


def _interpolate(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values between rows, with smooth steps from one row to the next.

    Examples
    --------
    >>> _interpolate(np.array([[0.0], [8.0]]), np.array([0.0, 0.5, 0.75])).ravel().tolist()
    [0.0, 4.0, 6.75]
    """
    below = np.minimum(positions.astype(int), len(values) - 2)
    share = (positions - below)[:, None]
    share = share**2 * (3 - 2 * share)
    return values[below] * (1 - share) + values[below + 1] * share


def shade_fields(
    generator: np.random.Generator, patches: Sequence[Patch], owners: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Brightness of crops: rows, tramlines of the tractor, damp and dry spots, a rough margin.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    patches : sequence of Patch
        The ground.
    owners : array, shape (H, W)
        From `rasterize_patches`.
    inside : array, shape (H, W)
        bool: pixels of fields.

    Returns
    -------
    array, shape (H, W)
        Factor on the colour.

    Examples
    --------
    >>> patches = [Patch("field", shapely.box(0, 0, 40, 40), CROPS[0])]
    >>> owners = rasterize_patches(patches, (40, 40))
    >>> bool(shade_fields(np.random.default_rng(0), patches, owners, owners > 0).std() > 0.05)
    True
    """
    angle = np.array([0.0, *(patch.angle for patch in patches)])[owners]
    period = np.array([1.0, *(patch.period for patch in patches)])[owners]
    y, x = np.indices(owners.shape) + 0.5
    across = x * np.sin(angle) - y * np.cos(angle) + 0.8 * draw_noise(generator, owners.shape, 60.0)
    rows = np.sin(2 * np.pi * across / period)
    tramlines = np.abs(across % 48 - 24) < 1.2
    vigour = 0.07 * draw_noise(generator, owners.shape, 90.0) + 0.05 * draw_noise(generator, owners.shape, 20.0)
    grain = 0.06 * generator.standard_normal(owners.shape)
    margin = ndimage.distance_transform_edt(inside & (ndimage.minimum_filter(owners, 3) == owners)) < 3
    return 1 + 0.09 * rows + 0.14 * tramlines + vigour + grain - 0.15 * margin


def shade_roads(
    generator: np.random.Generator, patches: Sequence[Patch], owners: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Brightness of roads: worn patches, dusty edges and a pale line along the middle.

    Examples
    --------
    >>> inside = np.zeros((13, 8), bool)
    >>> inside[1:12] = True
    >>> shade = shade_roads(np.random.default_rng(0), [], inside.astype(int), inside).mean(axis=1)
    >>> bool(shade[6] > shade[4])
    True
    """
    depth = ndimage.distance_transform_edt(inside)
    wear = 0.06 * draw_noise(generator, owners.shape, 25.0) + 0.03 * generator.standard_normal(owners.shape)
    return 1 + wear + 0.25 * (depth > 5.5) * (depth == ndimage.maximum_filter(depth, 3)) - 0.12 * (depth < 1.5)


def shade_roofs(
    generator: np.random.Generator, patches: Sequence[Patch], owners: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Brightness of roofs: the slope to the sun is lighter than the other, courses of tiles run along the ridge.

    Examples
    --------
    >>> patches = [Patch("building", shapely.box(0, 0, 20, 10), ROOFS[0])]
    >>> owners = rasterize_patches(patches, (10, 20))
    >>> shade = shade_roofs(np.random.default_rng(0), patches, owners, owners > 0)
    >>> bool(shade[:5].mean() > shade[5:].mean())
    True
    """
    centres = np.array([(0.0, 0.0), *(patch.shape.centroid.coords[0] for patch in patches)])[owners]
    angle = np.array([0.0, *(patch.angle for patch in patches)])[owners]
    normal = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    y, x = np.indices(owners.shape) + 0.5
    offset = np.sum((np.stack([x, y], axis=-1) - centres) * normal, axis=-1)
    slope = -np.sign(offset) * (normal @ SUN)  # the sun stands opposite to where shadows fall
    tiles = 0.04 * np.sin(2 * np.pi * offset / 3.0)
    return 1 + 0.2 * slope + tiles + 0.03 * generator.standard_normal(owners.shape)


def shade_water(
    generator: np.random.Generator, patches: Sequence[Patch], owners: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Brightness of water: nearly even, with long ripples.

    Examples
    --------
    >>> water = np.ones((30, 40), bool)
    >>> bool(shade_water(np.random.default_rng(0), [], water.astype(int), water).std() < 0.15)
    True
    """
    ripples = ndimage.gaussian_filter(generator.standard_normal(owners.shape), (1.0, 4.0))
    return 1 + 0.25 * ripples + 0.05 * draw_noise(generator, owners.shape, 120.0)


def shade_forest(
    generator: np.random.Generator, patches: Sequence[Patch], owners: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Brightness of a canopy: rounded crowns, lit from the side of the sun.

    Examples
    --------
    >>> forest = np.ones((30, 40), bool)
    >>> bool(shade_forest(np.random.default_rng(0), [], forest.astype(int), forest).std() > 0.15)
    True
    """
    crowns = ndimage.gaussian_filter(generator.standard_normal(owners.shape), 2.6)
    crowns /= 0.11  # deviation of white noise after this blur
    lit = ndimage.sobel(crowns, axis=1) * SUN[0] + ndimage.sobel(crowns, axis=0) * SUN[1]
    return 1 + 0.18 * np.clip(crowns, -1.5, 1.5) + 0.07 * np.clip(lit, -4, 4)


def shade_soil(
    generator: np.random.Generator, patches: Sequence[Patch], owners: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Brightness of bare, disturbed soil.

    Examples
    --------
    >>> soil = np.ones((30, 40), bool)
    >>> shade_soil(np.random.default_rng(0), [], soil.astype(int), soil).shape
    (30, 40)
    """
    return 1 + 0.12 * draw_noise(generator, owners.shape, 10.0) + 0.06 * generator.standard_normal(owners.shape)


SHADES = {
    "field": shade_fields,
    "road": shade_roads,
    "building": shade_roofs,
    "water": shade_water,
    "forest": shade_forest,
    UNLABELLED: shade_soil,
}


def shallow_water_tint(water: np.ndarray) -> np.ndarray:
    """Colour that the ground adds where water is shallow, fading away from the shore.

    Parameters
    ----------
    water : array, shape (H, W)
        bool.

    Returns
    -------
    array, shape (H, W, 3)
        To be added.

    Examples
    --------
    >>> tint = shallow_water_tint(np.array([[False] + [True] * 30]))
    >>> bool(tint[0, 0, 0] == 0), bool(tint[0, 1, 0] > tint[0, 30, 0] > 0)
    (True, True)
    """
    depth = ndimage.distance_transform_edt(water)
    return (water * np.exp(-depth / 9.0))[..., None] * np.array([34.0, 30.0, 12.0])


def cast_shadow(tall: np.ndarray, length: int) -> np.ndarray:
    """Where tall things keep the sun away.

    Parameters
    ----------
    tall : array, shape (H, W)
        bool: pixels of them.
    length : int
        Pixels that their shadows reach.

    Returns
    -------
    array, shape (H, W)
        float64, 1 in the shade.

    Examples
    --------
    >>> tall = np.zeros((3, 5), bool)
    >>> tall[0, 0] = True
    >>> cast_shadow(tall, 2).astype(int).tolist()
    [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    """
    shade = np.zeros(tall.shape)
    for step in range(length):
        right, down = np.rint(SUN * step).astype(int)
        height, width = tall.shape
        shade[down:, right:] = np.maximum(shade[down:, right:], tall[: height - down, : width - right])
    return shade


def draw_light(generator: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Uneven light: it falls off across the scene, and thin clouds pass.

    Examples
    --------
    >>> light = draw_light(np.random.default_rng(0), (60, 80))
    >>> bool(light.max() / light.min() > 1.2), bool(light.min() > 0.5)
    (True, True)
    """
    y, x = (np.linspace(-1, 1, side) for side in size)
    direction = generator.uniform(0, 2 * np.pi)
    slope = np.cos(direction) * x[None] + np.sin(direction) * y[:, None]
    return 1 + 0.18 * slope + 0.04 * draw_noise(generator, size, max(size) / 4)


# -------------------------------------------------------------------------------------------------------- writing


def scene_transform(index: int, size: tuple[int, int]) -> Any:
    """From pixels of a scene to metres; scenes lie side by side, with a gap.

    Parameters
    ----------
    index : int
        Which scene.
    size : (int, int)
        Height and width in pixels.

    Returns
    -------
    affine.Affine
        Pixel (x, y) to easting and northing.

    Examples
    --------
    >>> transform = scene_transform(1, (768, 1024))
    >>> transform.c, transform.f, transform.e
    (612612.0, 5318000.0, -0.5)
    """
    from affine import Affine

    left = ORIGIN[0] + index * (size[1] * METRES_PER_PIXEL + SCENE_GAP_M)
    return Affine(METRES_PER_PIXEL, 0, left, 0, -METRES_PER_PIXEL, ORIGIN[1])


def to_geographic(shape: Any, transform: Any) -> Any:
    """Take a polygon from pixels of a scene to longitude and latitude.

    Parameters
    ----------
    shape : shapely.Polygon
        In pixels.
    transform : affine.Affine
        Of the scene.

    Returns
    -------
    shapely.Polygon
        In degrees.

    Examples
    --------
    >>> there = to_geographic(shapely.box(0, 0, 4, 2), scene_transform(0, (768, 1024)))
    >>> [round(degrees, 2) for degrees in there.bounds]
    [10.5, 48.01, 10.5, 48.01]
    """
    from rasterio.warp import transform as warp_points

    def to_degrees(points: np.ndarray) -> np.ndarray:
        eastings = transform.c + transform.a * points[:, 0] + transform.b * points[:, 1]
        northings = transform.f + transform.d * points[:, 0] + transform.e * points[:, 1]
        return np.stack(warp_points(SCENE_CRS, LABEL_CRS, eastings, northings), axis=1)

    return shapely.transform(shape, to_degrees)


def write_scene(path: Path, image: np.ndarray, transform: Any) -> None:
    """Write a scene as a tiled, compressed GeoTIFF.

    Parameters
    ----------
    path : Path
        Appears when it is whole.
    image : array, shape (H, W, 3)
        uint8.
    transform : affine.Affine
        From pixels to metres.

    Examples
    --------
    >>> import tempfile, rasterio
    >>> path = Path(tempfile.mkdtemp()) / "a.tif"
    >>> write_scene(path, np.full((300, 280, 3), 7, np.uint8), scene_transform(0, (300, 280)))
    >>> with rasterio.open(path) as scene:
    ...     scene.shape, scene.profile["tiled"], int(scene.read(2).max())
    ((300, 280), True, 7)
    """
    import rasterio

    profile = {"driver": "GTiff", "height": image.shape[0], "width": image.shape[1], "count": 3, "dtype": "uint8"}
    profile |= {"crs": SCENE_CRS, "transform": transform, "nodata": NODATA, "photometric": "RGB"}
    profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "predictor": 2}
    with atomic_path(path) as temporary, rasterio.open(temporary, "w", **profile) as scene:
        scene.write(np.moveaxis(image, -1, 0))


def write_labels(path: Path, polygons: Sequence[tuple[str, Any]]) -> None:
    """Write labels as a GeoPackage in geographic coordinates.

    Parameters
    ----------
    path : Path
        Appears when it is whole.
    polygons : sequence of (str, shapely.Polygon)
        Class and shape in degrees.

    Examples
    --------
    >>> import tempfile, pyogrio
    >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
    >>> write_labels(path, [("road", shapely.box(10, 48, 11, 49))])
    >>> pyogrio.read_info(path)["features"], pyogrio.raw.read(path)[3][0].tolist()
    (1, ['road'])
    """
    import pyogrio

    shapes = np.array([shapely.to_wkb(shape) for _, shape in polygons], dtype=object)
    classes = np.array([name for name, _ in polygons], dtype=object)
    with atomic_path(path) as temporary, fixed_date():
        temporary.unlink()  # GDAL makes the file itself, and takes an empty one for a broken database
        pyogrio.raw.write(
            temporary,
            shapes,
            [classes],
            ["class"],
            driver="GPKG",
            layer="labels",
            geometry_type="Polygon",
            crs=LABEL_CRS,
        )


@contextmanager
def fixed_date() -> Iterator[None]:
    """Let GDAL note one and the same date of change, so that equal labels make equal files.

    Examples
    --------
    >>> import pyogrio
    >>> with fixed_date():
    ...     pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    '2025-01-01T00:00:00.000Z'
    """
    import pyogrio

    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2025-01-01T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
