"""Paths of scenes: finding them in folders and globs, leaving some out, and naming them."""

from __future__ import annotations

import fnmatch
import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import DataError
from utils.media.overlays import is_overlay_picture
from utils.runtime.files import walk_files
from utils.runtime.reading import check_regular

if TYPE_CHECKING:
    pass

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".jpeg", ".webp", ".bmp")


def find_scenes(sources: str | Path | Sequence[str | Path], exclude: Sequence[str | Path] = ()) -> list[Path]:
    """List the scenes in files, folders (with all folders inside), globs, or a list of these.

    Parameters
    ----------
    sources : str, Path or a sequence of them
        Folders give their files with a known suffix (`RASTER_SUFFIXES`), hidden ones left out. A file that is named
        itself may have any suffix.
    exclude : sequence of str or Path
        Files, folders, or patterns on a file's name or path to leave out, such as "*.mask.tif".

    Returns
    -------
    list of Path
        Each file once: sources in the order given, the files of each sorted.

    Raises
    ------
    DataError
        If a source does not exist, or nothing is found in all of them.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.tif", "a.PNG", "a.mask.tif", "notes.txt"):
    ...     (folder / name).touch()
    >>> [path.name for path in find_scenes(folder, exclude=["*.mask.tif"])]
    ['a.PNG', 'b.tif']
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    found = [path for source in listed for path in _expand_source(source)]
    scenes = [path for path in dict.fromkeys(found) if not is_excluded(path, exclude)]
    if not scenes:
        where = ", ".join(str(source) for source in listed) or "an empty list"
        left_out = f" ({len(found)} left out by {[str(entry) for entry in exclude]})" if found else ""
        raise DataError(f"no scene in {where}{left_out}; looked for files with {', '.join(RASTER_SUFFIXES)}")
    return scenes


def _expand_source(source: str | Path) -> list[Path]:
    """The files of one source: itself, a folder's, or a glob's.

    Raises
    ------
    DataError
        When there is no such file or folder, or when it is a pipe or a device.

    Examples
    --------
    >>> _expand_source("/no/such/scene.tif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/scene.tif: no such file or folder
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _files_of_folder(path)
    if path.is_file():
        return [path]
    if path.exists():
        check_regular(path)
    if not glob.has_magic(str(path)):
        raise DataError(f"{path}: no such file or folder")
    hits = [Path(hit) for hit in sorted(glob.glob(str(path), recursive=True))]
    open_ended = path.name.endswith("*")  # "*.img" means it, "tile_*" also meets the sidecar files
    for hit in hits:
        if hit.exists() and not hit.is_dir() and has_raster_suffix(hit):
            check_regular(hit)
    files = [hit for hit in hits if hit.is_file() and (not open_ended or has_raster_suffix(hit))]
    files = [file for file in files if not is_overlay_picture(file)]
    return files + [inner for hit in hits if hit.is_dir() and path.name != "**" for inner in _files_of_folder(hit)]


def has_raster_suffix(path: Path) -> bool:
    """Whether a file's name ends as a raster's or picture's does.

    Examples
    --------
    >>> has_raster_suffix(Path("a.TIF")), has_raster_suffix(Path("a.tif.aux.xml"))
    (True, False)
    """
    return path.suffix.lower() in RASTER_SUFFIXES


def _files_of_folder(folder: Path) -> list[Path]:
    """Rasters and pictures in a folder and the folders inside, sorted, hidden ones left out.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "deep").mkdir()
    >>> for name in ("deep/a.jp2", ".b.partial.tif"):
    ...     (folder / name).touch()
    >>> [str(path.relative_to(folder)) for path in _files_of_folder(folder)]
    ['deep/a.jp2']
    """
    files = [path for path in walk_files(folder) if has_raster_suffix(path) and path.is_file()]
    return [path for path in files if not is_overlay_picture(path)]  # inference may write beside its inputs


def broken_links(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    """Links to rasters and pictures in folders that lead nowhere, so that `find_scenes` leaves them out.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a.tif").symlink_to("gone.tif")
    >>> [path.name for path in broken_links([folder])]
    ['a.tif']
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    folders = [folder for folder in (Path(source).expanduser() for source in listed) if folder.is_dir()]
    inside = (path for folder in folders for path in walk_files(folder))
    return [path for path in inside if has_raster_suffix(path) and not path.exists()]


def is_excluded(path: Path, exclude: Sequence[str | Path]) -> bool:
    """Whether a file is named by, lies in, or matches one of the entries.

    Examples
    --------
    >>> is_excluded(Path("/data/labels/a.tif"), ["/data/labels"]), is_excluded(Path("/data/a.tif"), ["b*"])
    (True, False)
    """
    for entry in map(str, exclude):
        if fnmatch.fnmatch(path.name, entry) or fnmatch.fnmatch(str(path), entry):
            return True
        if Path(entry).expanduser().absolute() in (path.absolute(), *path.absolute().parents):
            return True
    return False


def scene_ids(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Name each scene by its stem, with as many parent folders as tell repeated stems apart.

    The ids depend on the set of paths, not on their order; parts are joined by two underscores, so that an id is
    also a file name.

    Examples
    --------
    >>> list(scene_ids(["x/north/a.tif", "x/south/a.tif", "x/b.tif"]))
    ['north__a', 'south__a', 'b']
    >>> list(scene_ids(["x/a.tif", "x/a.png"]))
    ['a.tif', 'a.png']
    """
    unique = [Path(path) for path in dict.fromkeys(map(str, paths))]
    names = {path: path.stem for path in unique}
    for depth in range(1, max((len(path.absolute().parts) for path in unique), default=1)):
        for path in _repeated(names):
            names[path] = "__".join([*path.absolute().parts[-1 - depth : -1], path.stem])
    for path in _repeated(names):
        names[path] = path.name
    for path in _repeated(names):
        names[path] = "__".join(path.absolute().parts[1:])
    return {name: path for path, name in names.items()}


def _repeated(names: dict[Path, str]) -> list[Path]:
    """The paths whose name another one has too.

    Examples
    --------
    >>> [str(path) for path in _repeated({Path("a/x"): "x", Path("b/x"): "x", Path("y"): "y"})]
    ['a/x', 'b/x']
    """
    counts = Counter(names.values())
    return [path for path, name in names.items() if counts[name] > 1]
