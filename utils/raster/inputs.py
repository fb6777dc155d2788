"""What users name as input of a task that takes pictures and videos alike."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.errors import DataError
from utils.media.videos import SUFFIXES as VIDEO_SUFFIXES
from utils.media.videos import is_video
from utils.raster.scene_paths import RASTER_SUFFIXES, find_scenes, is_excluded
from utils.runtime.files import walk_files


def find_inputs(
    sources: Sequence[str], exclude: Sequence[str] = (), is_result: Callable[[Path], bool] = lambda path: False
) -> list[Path]:
    """List videos and pictures in files, folders (with all folders inside) and globs, each once.

    Parameters
    ----------
    sources : sequence of str
        Hidden files are left out of folders.
    exclude : sequence of str
        Files, folders, or patterns on a file's name or path to leave out.
    is_result : callable
        Tells videos that the project itself drew, which are an input only where they are named.

    Returns
    -------
    list of Path
        Sources in the order given; of each the videos, sorted, then the pictures as `find_scenes` lists them.

    Raises
    ------
    DataError
        If a source does not exist, or there is nothing in it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from utils.raster.files import write_raster
    >>> from utils.media.videos import VideoWriter
    >>> folder, frame = Path(tempfile.mkdtemp()), np.zeros((64, 64, 3), np.uint8)
    >>> write_raster(folder / "a.png", frame)
    >>> for name in ("b.mp4", "b_drawn.mp4"):
    ...     with VideoWriter(folder / name, size=(64, 64), fps=10) as video:
    ...         video.write(frame)
    >>> [path.name for path in find_inputs([str(folder)], is_result=lambda path: path.stem.endswith("_drawn"))]
    ['b.mp4', 'a.png']
    >>> [path.name for path in find_inputs([str(folder)], exclude=["b*"])]
    ['a.png']
    """
    found = (path for source in sources for path in _inputs_of(source, exclude, is_result))
    return list(dict.fromkeys(found))


def tell_passed_over(sources: Sequence[str]) -> list[str]:
    """Say of folders which files look like an input and are none: hidden pictures and videos, and empty videos.

    Parameters
    ----------
    sources : sequence of str
        As for `find_inputs`.

    Returns
    -------
    list of str
        A line each.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in (".a.png", "._c.png", "c.png", "d.mp4"):  # macOS writes ._c.png beside c.png on foreign disks
    ...     (folder / name).touch()
    >>> for line in tell_passed_over([str(folder)]):
    ...     print(line.replace(str(folder), ""))
    1 pictures or videos whose names begin with a dot are left out, such as /.a.png: rename those that are to be read
    1 files named as videos are left out, as their content is none, such as /d.mp4: copy them again, or take them away
    """
    folders = [folder for folder in (Path(source).expanduser() for source in sources) if folder.is_dir()]
    files = {file for folder in folders for file in walk_files(folder, hidden=True)}
    known = sorted(file for file in files if file.suffix.lower() in (*RASTER_SUFFIXES, *VIDEO_SUFFIXES))
    known = [file for file in known if not file.name.startswith("._") and file.is_file()]
    dotted = [file for file in known if file.name.startswith(".")]
    videos = VIDEO_SUFFIXES - {".ts", ".mts"}  # .ts is also TypeScript
    named = [file for file in known if not file.name.startswith(".") and file.suffix.lower() in videos]
    empty = [file for file in named if not is_video(file)]
    told = []
    if dotted:
        what = f"{len(dotted)} pictures or videos whose names begin with a dot are left out, such as {dotted[0]}"
        told.append(f"{what}: rename those that are to be read")
    if empty:
        what = f"{len(empty)} files named as videos are left out, as their content is none, such as {empty[0]}"
        told.append(f"{what}: copy them again, or take them away")
    return told


def refuse_videos(pictures: Sequence[Path]) -> None:
    """Refuse videos where only pictures and rasters are taken; opened as rasters they would be called damaged.

    Raises
    ------
    DataError
        If one is a video.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from utils.media.videos import VideoWriter
    >>> path = Path(tempfile.mkdtemp()) / "a.mp4"
    >>> with VideoWriter(path, size=(64, 64), fps=10) as video:
    ...     video.write(np.zeros((64, 64, 3), np.uint8))
    >>> refuse_videos([path])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.mp4: a video; this kind of task takes pictures and rasters; save the frames that ...
    """
    for path in pictures:
        if is_video(path):
            raise DataError(
                f"{path}: a video; this kind of task takes pictures and rasters; save the frames that matter as "
                "pictures, and name these"
            )


def _inputs_of(source: str, exclude: Sequence[str], is_result: Callable[[Path], bool]) -> list[Path]:
    """Videos and pictures of one source.

    Raises
    ------
    DataError
        When nothing is there, or only videos that inference has drawn.

    Examples
    --------
    >>> import tempfile
    >>> _inputs_of(tempfile.mkdtemp(), [], lambda path: False)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: no scene in ...; looked for files with .tif, ...bmp, and videos with ....mp4, ...
    """
    path = Path(source).expanduser()
    if is_video(path) and not is_excluded(path, exclude):
        return [path]
    is_pattern = glob.has_magic(str(path)) and not path.exists()
    hits = [Path(hit) for hit in glob.glob(str(path), recursive=True)] if is_pattern else [path]
    files = {file for hit in hits for file in (walk_files(hit) if hit.is_dir() else [hit])}
    videos = sorted(file for file in files if is_video(file) and not is_excluded(file, exclude) and not is_result(file))
    try:
        pictures = find_scenes(source, exclude)
    except DataError as error:
        if not videos:
            known = f", and videos with {', '.join(sorted(VIDEO_SUFFIXES))}" if "looked for" in str(error) else ""
            raise DataError(f"{error}{known}") from None
        pictures = []  # videos alone are an input too
    found = [*videos, *(picture for picture in pictures if not is_video(picture))]
    if not found:
        raise DataError(f"{source}: only videos that were drawn here; name one itself to take it as an input")
    return found
