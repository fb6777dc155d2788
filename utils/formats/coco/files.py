"""COCO files of a data set: which there are, of which split, and where their pictures lie."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError
from utils.formats import specs
from utils.formats.moved import NO_FOLDER, find_here, need_moved
from utils.formats.pictures import is_absolute, list_files, plain_path, resolve_inside
from utils.formats.recognise import format_of_file
from utils.runtime.reading import kind_at


@dataclass(frozen=True)
class Sources:
    """The COCO files of a data set.

    Parameters
    ----------
    files : dict of str to list of Path
        By split.
    root : Path
        Data root.
    image_root : Path, optional
        Where the pictures lie, if that was said.
    spec : Spec, optional
        The specification, if there is one.
    named : bool
        Whether each file was named, so that one that cannot be used is an error and not a problem.

    Examples
    --------
    >>> Sources({"train": [Path("train.json")]}, Path(".")).named
    True
    """

    files: dict[str, list[Path]]
    root: Path
    image_root: Path | None = None
    spec: specs.Spec | None = None
    named: bool = True


def find_sources(path: Path, root: Path | None) -> Sources:
    """Find the COCO files that a specification, a file or a folder stands for.

    In a folder, the first of these counts that has any: `annotations/` with all folders inside, the folder itself,
    `annotations` files in the folders inside, all folders inside. The data root of a file that is given alone is the
    folder that holds `annotations`, else its own.

    Raises
    ------
    DataError
        If there is none, or a specification names what is not there.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "annotations").mkdir()
    >>> for name in ("person_keypoints_train2017.json", "person_keypoints_val2017.json"):
    ...     _ = (folder / "annotations" / name).write_text('{"images": []}')
    >>> list(find_sources(folder, None).files)
    ['train', 'val']
    """
    if path.suffix.lower() in specs.SUFFIXES:
        return _sources_of_spec(specs.read_spec(path, root))
    if path.is_dir():
        usual = [folder for folder in sorted(path.iterdir()) if folder.name.lower() == "annotations"]
        groups = (
            [file for folder in usual for file in list_files(folder, (".json",))],
            sorted(path.glob("[!.]*.json")),
            sorted(file for file in path.glob("[!.]*/[!.]*.json") if "annotations" in file.name.lower()),
        )
        found = next((files for files in map(_coco_files, groups) if files), [])
        found = found or [file for file in list_files(path, (".json",)) if format_of_file(file, certain=True) == "coco"]
        if not found:
            raise DataError(f"{path}: no COCO file (JSON) in it or in the folders inside")
        return Sources(_by_split(found, path), root or path, named=False)
    above = next((folder.parent for folder in path.parents if folder.name.lower() == "annotations"), path.parent)
    return Sources(_by_split([path], path.parent), root or above)


def _coco_files(files: Sequence[Path]) -> list[Path]:
    """Those of some JSON files that look like COCO's; beside them, LabelMe's do not count.

    Raises
    ------
    DataError
        If another file beside COCO's is neither: an emptied train.json must not vanish from the data set.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "val.json").write_text('{"images": []}'), (folder / "train.json").write_text("")
    >>> _coco_files([folder / "val.json"]) == [folder / "val.json"]
    True
    >>> _coco_files(sorted(folder.iterdir()))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../train.json: expected a COCO file as val.json beside it is, got an empty file; ...
    """
    formats = {file: format_of_file(file) for file in files}
    found = [file for file, format in formats.items() if format == "coco"]
    others = [file for file, format in formats.items() if format is None]
    if found and others:
        got = "no images, annotations and categories" if others[0].stat().st_size else "an empty file"
        raise DataError(
            f"{others[0]}: expected a COCO file as {found[0].name} beside it is, got {got}; take another copy, or "
            "move the file away if it holds no labels"
        )
    return found


def _by_split(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """Files by the split that a folder inside the data set, their name, or else their folder speaks of.

    Examples
    --------
    >>> files = [Path("valid/annotations.json"), Path("annotations_train.json"), Path("labels.json")]
    >>> list(_by_split(files, Path(".")))
    ['train', 'val', 'all']
    >>> list(_by_split([Path("val/0128_test.json")], Path("."))), list(_by_split([Path("val/train.json")], Path("val")))
    (['val'], ['train'])
    """
    found: dict[str, list[Path]] = {"train": [], "val": [], "test": [], "all": []}
    for file in files:
        by_folder = specs.SPLIT_WORDS.get(file.parent.name)
        inside = by_folder if file.parent != folder else None
        found[inside or specs.split_of_name(file.name) or by_folder or "all"].append(file)
    return {split: part for split, part in found.items() if part}


def _sources_of_spec(spec: specs.Spec) -> Sources:
    """Files and image root that a specification names.

    Raises
    ------
    DataError
        If one of them is not there.

    Examples
    --------
    >>> _sources_of_spec(specs.Spec(Path("data.yaml"), Path("/no"), {"train": "a.json"}))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: train: no such file or folder: /no/a.json
    """
    files = specs.split_files(spec, "a COCO file (JSON)")
    stated = spec.keys.get("image_root") or spec.keys.get("images")
    if stated is None:
        return Sources(files, spec.root, None, spec)
    image_root = Path(os.path.normpath(spec.root / plain_path(str(stated))))
    try:
        found = find_here(str(stated), [image_root], [spec.root], ["folder"])
    except ValueError as error:
        raise DataError(f"{spec.path}: image_root: {error}") from None
    if found is None:
        raise DataError(f"{spec.path}: image_root: no such folder: {image_root}")
    return Sources(files, spec.root, found, spec)


def image_folders(sources: Sources, split: str, file: Path) -> list[Path]:
    """Folders in which the pictures of a file may lie, the likeliest first.

    The image root alone, if one is given. Otherwise the file's folder and those above it up to the data root, and in
    each `images`, `JPEGImages`, and folders named like the split or like the year's split of COCO (`train2017`).

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("annotations", "images/train"):
    ...     (root / name).mkdir(parents=True)
    >>> folders = image_folders(Sources({}, root), "train", root / "annotations" / "train.json")
    >>> [folder.relative_to(root).as_posix() for folder in folders]
    ['annotations', 'images/train', 'images', '.']
    """
    if sources.image_root is not None:
        return [sources.image_root]
    words = [word for word, name in specs.SPLIT_WORDS.items() if name == split]
    words += [word for word in re.split(r"[^0-9A-Za-z]+", file.stem) if word.rstrip("0123456789") in words]
    inner = [*(f"images/{word}" for word in words), *words, "images", "JPEGImages", "."]
    inner += [f"{word}/{name}" for word in words for name in ("images", "JPEGImages")]
    start, top = file.parent.absolute(), sources.root.absolute()
    levels = [level for level in (start, *start.parents) if level.is_relative_to(top)] or [start, top]
    candidates = [levels[0], *(level / name for level in levels for name in inner)]
    return list(dict.fromkeys(Path(os.path.normpath(folder)) for folder in candidates if folder.is_dir()))


def find_image(name: str, folders: Sequence[Path], root: Path) -> Path | None:
    """The picture that a file_name means; None where none is there.

    Of a path from another computer, or out of the data root, only the end counts.

    Raises
    ------
    ValueError
        If such an end leads to several pictures or to none, or the path cannot be followed.

    Examples
    --------
    >>> find_image("b.png", [Path("/data/images")], Path("/data")) is None
    True
    """
    leads_out = True
    for folder in folders:
        top = root if folder.absolute().is_relative_to(root.absolute()) else folder
        try:
            path = resolve_inside("", name, folder, top)
        except DataError:
            continue
        leads_out = False
        if kind_at(path) in NO_FOLDER:
            return path
    return need_moved(name, folders, root) if leads_out or is_absolute(plain_path(name)) else None
