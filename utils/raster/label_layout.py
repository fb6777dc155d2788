"""Which files of a folder are pictures and which are their labels, for settings that are written for a person."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError
from utils.raster.header import read_header
from utils.raster.label_pairs import is_vector, name_pattern
from utils.raster.other_labels import refuse_other_labels
from utils.raster.scene_paths import has_raster_suffix
from utils.runtime.files import walk_files

_WORDS = (
    "mask masks label labels labelled labeled annotation annotations gt groundtruth truth seg segmentation "
    "segmentations target targets segmentationclass"
)
LABEL_WORDS = frozenset(_WORDS.split())
_PEEK = 4096
# Bands by name: words, and the numbers of Sentinel-2 and of Landsat 8 and 9.
_RED, _GREEN, _BLUE = (("red", "b04", "b4"), ("green", "b03", "b3"), ("blue", "b02", "b2"))
_NEAR_INFRARED = ("nir", "b08", "b8", "b05", "b5")


@dataclass(frozen=True)
class Layout:
    """Pictures and labels of one data set.

    Parameters
    ----------
    pictures : tuple of Path
        Rasters and pictures that are not labels.
    labels : tuple of Path
        Label rasters, or vector files.
    label_source : Path
        What `paths.label_path` names: the only label, or the folder of all.
    pattern : str or None
        How the name of a label follows from that of its picture, unless their stems are the same.
    band_files : tuple of str
        The pictures in the order of their bands, where they are the bands of one scene.
    others : tuple of Path
        Vector files that could be labels too.

    Examples
    --------
    >>> Layout((Path("a.tif"),), (Path("l.gpkg"),), Path("l.gpkg"), None).picture_source
    PosixPath('a.tif')
    """

    pictures: tuple[Path, ...]
    labels: tuple[Path, ...]
    label_source: Path
    pattern: str | None
    band_files: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def picture_source(self) -> Path:
        """What `paths.raw_images_dir` names: the only picture, or the folder of all.

        Examples
        --------
        >>> Layout((Path("/x/i/a.png"), Path("/x/i/b.png")), (), Path("/x/m"), None).picture_source.as_posix()
        '/x/i'
        """
        return self.pictures[0] if len(self.pictures) == 1 else common_folder(self.pictures)


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all of some files.

    Examples
    --------
    >>> common_folder([Path("/x/a/1.png"), Path("/x/b/2.png")]).as_posix()
    '/x'
    """
    return Path(os.path.commonpath([path.parent for path in paths]))


def find_layout(source: Path, given: Sequence[Path] | None = None) -> Layout:
    """Find pictures and labels in a folder, or around a label file or a folder of labels.

    Label rasters are told from pictures by a word in the names of folders or files, such as `masks/` or `a_label.png`.

    Parameters
    ----------
    source : Path
        A folder with both, a label file, or a folder of labels.
    given : sequence of Path, optional
        The pictures, where they are known.

    Raises
    ------
    DataError
        If there are no labels or no pictures, the labels are in no format that is read, or it is not clear which file
        holds them.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.tif", "b.tif", "a.mask.tif", "b.mask.tif"):
    ...     (folder / name).touch()
    >>> layout = find_layout(folder)
    >>> [path.name for path in layout.pictures], layout.pattern
    (['a.tif', 'b.tif'], '{stem}.mask.tif')
    """
    refuse_other_labels([source])
    root = source if source.is_dir() else source.parent
    rasters, vectors = _rasters_and_vectors(root)
    masks = [path for path in rasters if _is_named_label(path, root)]
    if source.is_dir() and rasters and len(masks) in (0, len(rasters)) and _has_word(source.name):  # labels alone
        root, labels = source.parent, [*rasters, *vectors]
        rasters = [path for path in _rasters_and_vectors(root)[0] if path not in set(labels)]
        masks = [path for path in rasters if _is_named_label(path, root)]
    else:
        labels = [source] if source.is_file() else masks or vectors
    pictures = [path for path in rasters if path not in {*labels, *masks}] if given is None else list(given)
    if not labels:
        raise DataError(
            f"{source}: no labels among {len(rasters)} pictures; expected masks in a folder or under names with mask "
            "or label, or a vector file (GeoPackage, GeoJSON, Shapefile); name the labels' file or folder"
        )
    if not pictures:
        raise DataError(
            f"{source}: {len(labels)} labels, but no pictures in {root}; put them beside the labels, or write "
            "paths.raw_images_dir=FOLDER after the command"
        )
    return pair(pictures, labels, source, [path for path in vectors if path not in labels])


def pair(pictures: Sequence[Path], labels: Sequence[Path], source: Path, others: Sequence[Path] = ()) -> Layout:
    """Put pictures and labels together, with the pattern of their names.

    Raises
    ------
    DataError
        If several vector files are there and none goes with a picture by its name.

    Examples
    --------
    >>> layout = pair([Path("i/a.jpg"), Path("i/b.jpg")], [Path("m/a_roads.shp"), Path("m/b_roads.shp")], Path("m"))
    >>> layout.pattern, layout.label_source.as_posix()
    ('{stem}_roads.shp', 'm')
    >>> [pair([Path("a.tif")], [Path(name)], Path("a_gt.png")).pattern for name in ("a_gt.png", "areas.shp", "a.shp")]
    ['{stem}_gt.png', None, None]
    """
    bands = _order_bands(pictures)
    if len(labels) == 1:
        pattern = name_pattern(pictures, labels)  # labels of other pictures will be named so
        of_one = len(pictures) == 1 and pattern and not pattern.removeprefix("{stem}")[:1].isalnum()
        told = pattern if of_one and pattern != "{stem}" else None  # one label of several pictures is of them all
        return Layout(tuple(pictures), tuple(labels), labels[0], told, bands, tuple(others))
    pattern = name_pattern(pictures, labels)
    if pattern is None and all(map(is_vector, labels)):
        listed = ", ".join(path.name for path in labels[:8])
        raise DataError(f"{source}: {len(labels)} vector files, none named as a picture: {listed}; name one of them")
    if pattern is None:
        raise DataError(
            f"{source}: no label is named as a picture: pictures such as {pictures[0].name}, labels such as "
            f"{labels[0].name}; give a label its picture's name with an ending, or the same name in another folder"
        )
    same = pattern == "{stem}"
    ending = pattern.removeprefix("{stem}")
    chosen = tuple(labels) if same else tuple(path for path in labels if path.name.endswith(ending))
    return Layout(tuple(pictures), chosen, common_folder(chosen), None if same else pattern, (), tuple(others))


def _rasters_and_vectors(root: Path) -> tuple[list[Path], list[Path]]:
    """Rasters and pictures of a folder, and its vector files.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.json").write_text('{"images": []}'), (folder / "b.png").touch(), (folder / "c.shp").touch()
    >>> [[path.name for path in paths] for paths in _rasters_and_vectors(folder)]
    [['b.png'], ['c.shp']]
    """
    files = [path for path in walk_files(root) if path.is_file()]
    rasters = [path for path in files if has_raster_suffix(path)]
    vectors = [path for path in files if is_vector(path) and (path.suffix.lower() != ".json" or _is_geojson(path))]
    return rasters, vectors


def _is_geojson(path: Path) -> bool:
    """Whether a JSON file begins as GeoJSON does, not as labels of other kinds.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text('{"type": "FeatureCollection", "features": []}')
    >>> _is_geojson(path)
    True
    """
    with open(path, "rb") as stream:
        return b'"FeatureCollection"' in stream.read(_PEEK)


def _has_word(name: str) -> bool:
    """Whether a name holds a word for labels.

    Examples
    --------
    >>> _has_word("train_masks"), _has_word("a-label"), _has_word("images"), _has_word("maskedcrab")
    (True, True, False, False)
    """
    return not LABEL_WORDS.isdisjoint(re.findall(r"[a-z]+", name.lower()))


def _is_named_label(path: Path, root: Path) -> bool:
    """Whether a raster is a label by its own name or that of a folder below `root`.

    Examples
    --------
    >>> root = Path("/labels")
    >>> _is_named_label(root / "x" / "masks" / "a.png", root), _is_named_label(root / "a.png", root)
    (True, False)
    """
    relative = path.relative_to(root)
    return any(map(_has_word, (*relative.parts[:-1], relative.stem)))


def _order_bands(pictures: Sequence[Path]) -> tuple[str, ...]:
    """The files of one scene in the order red, green, blue, near infrared, others; empty where they are no such bands.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np, shutil
    >>> path = Path(raster_file("x_B02.tif", np.zeros((2, 3), np.uint16)))
    >>> files = [path.with_name(f"x_{name}.tif") for name in ("B02", "B03", "B04", "B11", "B08")]
    >>> for copy in files[1:]:
    ...     _ = shutil.copy(path, copy)
    >>> _order_bands(files)
    ('x_B04.tif', 'x_B03.tif', 'x_B02.tif', 'x_B08.tif', 'x_B11.tif')
    """
    words = {path: set(re.findall(r"[a-z]+\d*[a-z]?", path.stem.lower())) for path in pictures}
    colours = [[path for path in pictures if words[path] & set(names)] for names in (_RED, _GREEN, _BLUE)]
    if len(pictures) < 3 or len({path.parent for path in pictures}) > 1 or any(len(found) != 1 for found in colours):
        return ()
    headers = [read_header(path) for path in pictures]
    if any(len(header.dtypes) != 1 or header.grid != headers[0].grid for header in headers):
        return ()
    first = [found[0] for found in colours]
    rest = sorted(
        (path for path in pictures if path not in first), key=lambda path: (not words[path] & set(_NEAR_INFRARED), path)
    )
    return tuple(path.name for path in (*first, *rest))
