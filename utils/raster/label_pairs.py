"""Which label file belongs to which scene, by their names."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from utils.errors import DataError, SettingsError
from utils.raster.other_labels import SUFFIXES, describe_other_labels, refuse_other_labels
from utils.raster.scene_paths import has_raster_suffix
from utils.runtime.files import walk_files
from utils.runtime.reading import check_regular

logger = logging.getLogger(__name__)

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".geojsonl", ".json", ".shp", ".fgb", ".kml", ".gml", ".sqlite")


def is_vector(path: str | Path) -> bool:
    """Whether a file's name is that of a vector file.

    Examples
    --------
    >>> is_vector("a.GPKG"), is_vector("a.tif")
    (True, False)
    """
    return Path(path).suffix.lower() in VECTOR_SUFFIXES


def pair_labels(
    scene_paths: Sequence[str | Path], label_source: str | Path, pattern: str | None = None
) -> tuple[dict[Path, Path], list[Path]]:
    """Find the label file of each scene.

    Parameters
    ----------
    scene_paths : sequence of str or Path
        The scenes.
    label_source : str or Path
        One file for all scenes, or a folder (with all folders inside) with one file for each.
    pattern : str, optional
        Name of a scene's label in the folder, with the scene's stem as {stem}, such as "{stem}_buildings.geojson" or
        "{stem}.mask.tif"; the rest may have wildcards. By default a raster or vector file of the same stem.

    Returns
    -------
    pairs : dict of Path to Path
        Label of each scene that has one.
    unpaired : list of Path
        The other scenes.

    Raises
    ------
    DataError
        If the source does not exist, is in no format that is read, several labels fit one scene equally well, or what
        has the name of a label is no file.
    SettingsError
        If the pattern lacks {stem}.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.tif", "b.tif", "a.mask.tif"):
    ...     (folder / name).touch()
    >>> pairs, unpaired = pair_labels([folder / "a.tif", folder / "b.tif"], folder, "{stem}.mask.tif")
    >>> [label.name for label in pairs.values()], [path.name for path in unpaired]
    (['a.mask.tif'], ['b.tif'])
    """
    scenes = [Path(path) for path in scene_paths]
    source = Path(label_source).expanduser()
    if pattern is not None and "{stem}" not in pattern:
        raise SettingsError(f"dataset.label_pattern: expected {{stem}} for the picture's name, got {pattern!r}")
    if source.is_file() or source.suffix.lower() == ".gdb":
        refuse_other_labels([source])
        return dict.fromkeys(scenes, source), []
    if source.exists() and not source.is_dir():
        check_regular(source)
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder for labels")
    pictures = {os.path.realpath(path) for path in scenes}
    listed = walk_files(source)
    files = [path for path in listed if os.path.isfile(path) and os.path.realpath(path) not in pictures]
    find = _finder(files, pattern)
    found = {scene: _choose_label(scene, find(scene)) for scene in scenes}
    pairs = {scene: label for scene, label in found.items() if label is not None}
    if len(pairs) < len(found):
        irregular = [path for path in listed if not os.path.isfile(path)]
        find = _finder(irregular + _folders_in(source), pattern)
        _refuse_irregular({scene: find(scene) for scene in scenes if scene not in pairs})
    refuse_other_labels(pairs.values())
    tell_unread(files, [scene.stem for scene in scenes if scene not in pairs])
    return pairs, [scene for scene in scenes if scene not in pairs]


def pattern_hint(pattern: str) -> str:
    """How a pattern is written in a settings file and on a command line, where the shell takes a pair of quotes away.

    Examples
    --------
    >>> print(pattern_hint("{stem}_mask.png"))
    dataset.label_pattern: '{stem}_mask.png' (on a command line: "dataset.label_pattern='{stem}_mask.png'")
    """
    quoted = "'" + pattern.replace("'", "''") + "'"
    return f'dataset.label_pattern: {quoted} (on a command line: "dataset.label_pattern={quoted}")'


def unpaired_hint(pictures: Sequence[Path], source: Path, setting: str | None) -> str:
    """What to do where no label of a folder goes with a picture by `dataset.label_pattern`, or by the stem without it.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a_mask.tif").touch()
    >>> print(unpaired_hint([Path("a.tif")], folder, None))  # doctest: +ELLIPSIS
    labels such as a_mask.tif are named after pictures: set dataset.label_pattern: '{stem}_mask.tif' (on ...
    >>> print(unpaired_hint([Path("b.tif")], folder, None))  # doctest: +ELLIPSIS
    labels are paired by stem; for other names set dataset.label_pattern: '{stem}_mask.png' (on a command line: ...
    >>> print(unpaired_hint([Path("a_mask.jpg")], folder, "{stem}_gt.tif"))
    no file matches '{stem}_gt.tif'; labels such as a_mask.tif have the pictures' names: remove dataset.label_pattern
    """
    own = {os.path.realpath(path) for path in pictures}
    labels = [path for path in walk_files(source) if is_vector(path) or has_raster_suffix(path)]
    labels = [path for path in labels if os.path.realpath(path) not in own]
    pattern, unmatched = name_pattern(pictures, labels), f"no file matches {setting!r}; " if setting else ""
    if pattern == "{stem}" and setting:
        stems = {path.stem for path in pictures}
        example = next(path.name for path in labels if path.stem in stems)
        return f"{unmatched}labels such as {example} have the pictures' names: remove dataset.label_pattern"
    if unmatched and pattern is None:
        return f"{unmatched}no label in {source} is named after a picture"
    if pattern is None or pattern == "{stem}":
        return f"labels are paired by stem; for other names set {pattern_hint('{stem}_mask.png')}"
    example = next(path.name for path in labels if path.name.endswith(pattern.removeprefix("{stem}")))
    return f"{unmatched}labels such as {example} are named after pictures: set {pattern_hint(pattern)}"


def name_pattern(pictures: Sequence[Path], labels: Sequence[Path]) -> str | None:
    """How most labels are named after a picture: "{stem}" for its stem and any suffix; None if none is.

    A number goes on where digits follow: `img10.tif` is not the label of `img1.tif`.

    Examples
    --------
    >>> name_pattern([Path("a.jpg"), Path("a_b.jpg")], [Path("m/a.png"), Path("m/a_b.png")])
    '{stem}'
    >>> name_pattern([Path("a.jpg")], [Path("a_mask.png")]), name_pattern([Path("a.jpg")], [Path("x.png")])
    ('{stem}_mask.png', None)
    >>> name_pattern([Path("img1.tif"), Path("img2.tif")], [Path("m/img10.tif"), Path("m/img20.tif")]) is None
    True
    """
    stems = {path.stem for path in pictures}
    endings: Counter[str] = Counter()
    for label in labels:
        lengths = (length for length in range(len(label.stem), 0, -1) if label.name[:length] in stems)
        length = next((length for length in lengths if not label.name[length].isdigit()), 0)
        if length:
            endings["" if length == len(label.stem) else label.name[length:]] += 1
    return "{stem}" + endings.most_common(1)[0][0] if endings else None


def _folders_in(folder: Path) -> list[Path]:
    """All folders below one but hidden ones, which `walk_files` leaves out too.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a/b.tif", ".old/c.tif"):
    ...     (folder / name).mkdir(parents=True)
    >>> [path.relative_to(folder).as_posix() for path in _folders_in(folder)]
    ['a', 'a/b.tif']
    """
    found = []
    for top, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))  # what is not in it is not walked
        found += [Path(top, name) for name in names]
    return found


def _refuse_irregular(found: Mapping[Path, Iterable[Path]]) -> None:
    """Refuse folders, pipes and links to nothing that have the name of a label: their scene would count as unlabelled.

    Raises
    ------
    DataError
        With the first of them, and the scene.

    Examples
    --------
    >>> _refuse_irregular({Path("a.tif"): [Path("/dev/zero")]})
    Traceback (most recent call last):
        ...
    utils.errors.DataError: the label of a.tif: /dev/zero: a device; expected a file on a disk; name another one
    """
    for scene, paths in found.items():
        for path in sorted(paths):
            try:
                check_regular(path)
            except DataError as error:
                raise DataError(f"the label of {scene.name}: {error}") from None
            except OSError as error:
                what = "a link that leads nowhere" if isinstance(error, FileNotFoundError) else error.strerror
                raise DataError(f"the label of {scene.name}: {path} cannot be read ({what}); put it there") from None


def tell_unread(files: Sequence[Path], stems: Collection[str]) -> None:
    """Warn of files beside the labels that are named as scenes without a label, but in no format that is read.

    Examples
    --------
    >>> from utils.logging import VerbosityLogger, listening
    >>> with listening(VerbosityLogger(), "utils"):
    ...     tell_unread([Path("l/a.tif"), Path("l/b.dxf")], ["b"])
    [WARNING] l/b.dxf: a drawing (DXF), which is not read; convert it: ogr2ogr -f GPKG b.gpkg l/b.dxf (1 such files)
    """
    wanted = set(stems)
    unread = [path for path in files if path.stem in wanted and path.suffix.lower() in SUFFIXES]
    if unread:
        logger.warning("%s: %s (%d such files)", unread[0], describe_other_labels(unread[0]), len(unread))


def _finder(files: Sequence[Path], pattern: str | None) -> Callable[[Path], list[Path]]:
    """A function from a scene to the files whose names fit; quick for many scenes unless the pattern has wildcards.

    The suffix of a file may be in capitals.

    Examples
    --------
    >>> files = [Path("l/a.shp"), Path("l/a.dbf"), Path("l/a_roads.shp")]
    >>> [str(path) for path in _finder(files, None)(Path("a.tif"))]
    ['l/a.shp']
    >>> [str(path) for path in _finder(files, "{stem}_*")(Path("a.tif"))]
    ['l/a_roads.shp']
    """

    def plain(path: Path) -> str:
        return path.stem + path.suffix.lower()

    labels = [path for path in files if is_vector(path) or has_raster_suffix(path)]
    if pattern is not None and glob.has_magic(pattern.replace("{stem}", "")):

        def match(scene: Path) -> list[Path]:
            name = pattern.replace("{stem}", glob.escape(scene.stem))
            return [path for path in labels if any(fnmatch.fnmatchcase(own, name) for own in (path.name, plain(path)))]

        return match
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in labels if pattern is None else files:
        names = {path.stem} if pattern is None else {path.name, plain(path)}
        for name in names:
            by_name[name].append(path)
    return lambda scene: by_name.get((pattern or "{stem}").replace("{stem}", scene.stem), [])


def _choose_label(scene: Path, candidates: Sequence[Path]) -> Path | None:
    """The candidate with most parent folders of the scene's names, where several folders hold equal file names.

    Raises
    ------
    DataError
        If several are equally like it.

    Examples
    --------
    >>> _choose_label(Path("images/north/a.tif"), [Path("labels/north/a.tif"), Path("labels/south/a.tif")])
    PosixPath('labels/north/a.tif')
    """
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    parents = [path.parent.parts[::-1] for path in (scene, *candidates)]  # the nearest folder first
    likeness = [len(os.path.commonprefix([parents[0], parts])) for parts in parents[1:]]  # noqa: RUF071 - of tuples
    best = [candidate for candidate, score in zip(candidates, likeness, strict=True) if score == max(likeness)]
    if len(best) > 1:
        names = ", ".join(str(candidate) for candidate in best[:4])
        cure = "take the others away, or name the labels' folders as the pictures' folders"
        if len({label.suffix for label in best}) == len(best):
            cure = f"choose by {pattern_hint('{stem}' + best[0].suffix)}"
        raise DataError(f"{scene}: {len(best)} labels fit: {names}; {cure}")
    return best[0]
