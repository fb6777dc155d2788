"""XML files of a CVAT data set: which there are, of which split, and where their pictures lie."""

from __future__ import annotations

import os
from pathlib import Path

from utils.errors import DataError
from utils.formats import specs
from utils.formats.pictures import list_files
from utils.formats.recognise import format_of_file


def find_files(path: Path, spec: specs.Spec | None) -> dict[str, list[Path]]:
    """The XML files of each split, by a folder inside the data set or their name; subsets inside them may say more.

    Raises
    ------
    DataError
        If there is none.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("train", "night"):
    ...     (folder / name).mkdir()
    ...     _ = (folder / name / "annotations.xml").write_text("<annotations><meta/></annotations>")
    >>> {split: [file.parent.name for file in files] for split, files in find_files(folder, None).items()}
    {'train': ['train'], 'all': ['night']}
    """
    if spec is not None:
        return specs.split_files(spec, "a CVAT file (xml)")
    if not path.is_dir():
        return {specs.split_of_name(path.name) or "all": [path]}
    files = [file for file in list_files(path, (".xml",)) if format_of_file(file) == "cvat"]
    if not files:
        raise DataError(f"{path}: no CVAT file (xml with annotations) in it or in the folders inside")
    found: dict[str, list[Path]] = {"train": [], "val": [], "test": [], "all": []}
    for file in files:
        words = [specs.SPLIT_WORDS.get(part.lower()) for part in file.relative_to(path).parts[:-1]]
        named = next((word for word in words if word), None)
        found[named or specs.split_of_name(file.name) or "all"].append(file)
    return {split: part for split, part in found.items() if part}


def split_of_subset(subset: str | None, file_split: str) -> str:
    """The split that a subset of CVAT means; of the subset that tasks without one are in, that of the file.

    Examples
    --------
    >>> [split_of_subset(name, "all") for name in ("Train", "Validation", "default", None, "night")]
    ['train', 'val', 'all', 'all', 'all']
    """
    return specs.SPLIT_WORDS.get((subset or "").lower(), file_split)


def picture_folders(file: Path, subset: str | None, root: Path) -> list[Path]:
    """Folders in which the pictures of a file may lie, the likeliest first.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "images" / "Train").mkdir(parents=True)
    >>> found = picture_folders(folder / "annotations.xml", "Train", folder)
    >>> [place.relative_to(folder).as_posix() for place in found]
    ['images/Train', 'images', '.']
    """
    inner = [f"images/{subset}", subset] if subset and subset.strip("./\\") == subset and "/" not in subset else []
    inner = [*inner[:1], "images", "images/default", "data", *inner[1:], "."]
    tops = dict.fromkeys([file.parent.absolute(), root.absolute()])
    places = [Path(os.path.normpath(top / name)) for top in tops for name in inner]
    return [place for place in dict.fromkeys(places) if place.is_dir()]
