"""LabelMe files of a data set: listing them by split, and finding the picture that each belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats import specs
from utils.formats.file_names import FileNames
from utils.formats.moved import NO_FOLDER, need_moved, parts_of, refuse_other
from utils.formats.pictures import is_absolute, is_picture, list_files, plain_path, resolve_inside
from utils.formats.text_files import LIST_SUFFIXES, find_listed, read_lines
from utils.formats.types import Problem
from utils.runtime.reading import kind_at

LISTS = (*LIST_SUFFIXES, ".jsonl")
_LABEL_FOLDERS = ("labels", "annotations", "labelme", "json")


@dataclass(frozen=True)
class Entry:
    """One LabelMe file that a data set names.

    Parameters
    ----------
    path : Path
        The JSON file.
    picture : Path, optional
        Its picture, where an index says so.
    where : str
        What names it, for problems.

    Examples
    --------
    >>> Entry(Path("a.json")).picture is None
    True
    """

    path: Path
    picture: Path | None = None
    where: str = ""


def list_entries(path: Path, spec: specs.Spec | None, root: Path, problems: list[Problem]) -> dict[str, list[Entry]]:
    """The LabelMe files of each split.

    Parameters
    ----------
    path : Path
        A folder, a list, an index, one JSON file, or the specification.
    spec : Spec, optional
        The specification, when `path` is one.
    root : Path
        Data root.
    problems : list of Problem
        Gets what is named and not there.

    Raises
    ------
    DataError
        If a split has no file at all.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("train/a.json", "val/b.json"):
    ...     (folder / name).parent.mkdir()
    ...     (folder / name).touch()
    >>> {split: [entry.path.name for entry in part] for split, part in list_entries(folder, None, folder, []).items()}
    {'train': ['a.json'], 'val': ['b.json']}
    """
    if spec is not None:
        found = {
            split: [entry for source in sources for entry in _expand(source, root, problems)]
            for split, sources in spec.splits().items()
        }
    elif path.is_dir():
        found = _split_by_folder(path, list(_expand(path, root, problems)))
    else:
        is_list = path.suffix.lower() in LISTS
        split = specs.split_of_name(path.name) if is_list else None  # a picture may be called "test"
        found = {split or "all": list(_expand(path, root, problems))}
    for split, entries in found.items():
        if not entries:
            first = f"; first: {problems[0]}" if problems else ""
            raise DataError(f"{path}: {split}: no LabelMe file (*.json){first}")
    return _without_shared(found, problems)


def _without_shared(found: dict[str, list[Entry]], problems: list[Problem]) -> dict[str, list[Entry]]:
    """Each file of a split once; one that lists give to several pictures is left out, with a problem.

    Examples
    --------
    >>> entries = [Entry(Path("a.json"), Path(name), f"list:{n}") for n, name in enumerate(("a.jpg", "a.png"))]
    >>> problems = []
    >>> _without_shared({"all": [*entries, Entry(Path("b.json"))]}, problems)
    {'all': [Entry(path=PosixPath('b.json'), picture=None, where='')]}
    >>> str(problems[0])
    'list:1: a.json would be the label of a.jpg and of a.png; give each picture its own name and label, or take one \
away'
    """
    pictures: dict[Path, Entry] = {}
    shared: set[Path] = set()
    for entry in (entry for entries in found.values() for entry in entries):
        first = pictures.setdefault(entry.path, entry)
        if first.picture != entry.picture:
            what = f"{entry.path} would be the label of {first.picture} and of {entry.picture}"
            cure = "give each picture its own name and label, or take one away"
            problems.append(Problem(entry.where or str(entry.path), what, cure))
            shared.add(entry.path)
    return {
        split: list({entry.path: entry for entry in entries if entry.path not in shared}.values())
        for split, entries in found.items()
    }


def _split_by_folder(folder: Path, entries: list[Entry]) -> dict[str, list[Entry]]:
    """Splits by the uppermost folders, when all files lie in such as are named train, val (valid) or test.

    Examples
    --------
    >>> entries = [Entry(Path("/d/valid/a.json")), Entry(Path("/d/b.json"))]
    >>> list(_split_by_folder(Path("/d"), entries)), list(_split_by_folder(Path("/d"), entries[:1]))
    (['all'], ['val'])
    """
    names = [entry.path.relative_to(folder).parts[0] for entry in entries]
    if not names or any(name not in specs.SPLIT_WORDS for name in names):
        return {"all": entries}
    found: dict[str, list[Entry]] = {}
    for name, entry in zip(names, entries, strict=True):
        found.setdefault(specs.SPLIT_WORDS[name], []).append(entry)
    return found


def _expand(source: Path, root: Path, problems: list[Problem]) -> Iterator[Entry]:
    """The LabelMe files in a folder, list or index.

    Raises
    ------
    DataError
        If it is something else.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_text("a.json")
    >>> problems = []
    >>> list(_expand(path, path.parent, problems)), problems[0].what
    ([], 'no such file: a.json')
    """
    if source.is_dir():
        yield from (Entry(path) for path in list_files(source, (".json",)))
    elif source.suffix.lower() == ".json":
        yield Entry(source)
    elif source.suffix.lower() in LISTS:
        names = FileNames()
        for number, line in read_lines(source):
            try:
                yield _read_line(line, source, f"{source}:{number}", root, names)
            except ValueError as error:
                problems.append(Problem(f"{source}:{number}", str(error), "mend the line, or take it out"))
    else:
        raise DataError(f"{source}: expected a folder, a JSON file, a list (.txt) or an index (.jsonl)")


def _read_line(line: str, source: Path, where: str, root: Path, names: FileNames) -> Entry:
    """One line of a list (a JSON file, or a picture with a JSON file beside it) or of an index.

    Raises
    ------
    ValueError
        If it names no file that is there.

    Examples
    --------
    >>> _read_line('{"image": "a.png"}', Path("train.jsonl"), "train.jsonl:1", Path("."), FileNames())
    Traceback (most recent call last):
        ...
    ValueError: expected {"image_path": ..., "json_path": ...}, got {"image": "a.png"}
    """
    if source.suffix.lower() != ".jsonl":
        named = _find(line, source.parent, root)
        if not is_picture(named):
            return Entry(named, None, where)
        path = names.find(named.with_suffix(".json"))
        if path is None:
            raise ValueError(f"no such file: {named.with_suffix('.json')}")
        return Entry(path, named, where)
    try:
        keys = json.loads(line)
    except ValueError:
        keys = None
    if not isinstance(keys, dict) or not isinstance(keys.get("json_path"), str):
        raise ValueError(f'expected {{"image_path": ..., "json_path": ...}}, got {line.strip()[:80]}')
    picture = keys.get("image_path")
    found = _find(str(picture), source.parent, root) if picture else None
    return Entry(_find(keys["json_path"], source.parent, root), found, where)


def _find(text: str, folder: Path, root: Path) -> Path:
    """File that a line names, relative to the list or to the data root.

    Raises
    ------
    ValueError
        If it is not there.

    Examples
    --------
    >>> _find("a.json", Path("/no/such"), Path("/no"))
    Traceback (most recent call last):
        ...
    ValueError: no such file: a.json
    """
    found = find_listed(text, folder, root)
    if found is None:
        raise ValueError(f"no such file: {plain_path(text)}")
    return found


def find_picture(entry: Entry, keys: dict[str, Any], root: Path, folders: PictureFolders) -> tuple[Path | None, str]:
    """Find the picture of a LabelMe file.

    In this order: what an index says; `imagePath`; beside the file a picture of `imagePath`'s name, then the only one
    of the file's stem; `imageData` inside the file; the same names where a folder `labels`, `annotations`, `labelme` or
    `json` of its path is replaced by `images`. Of an `imagePath` from another computer, or out of the data root, only
    the end counts, also below the data root.

    Parameters
    ----------
    entry : Entry
        The file.
    keys : dict
        Its content.
    root : Path
        Data root; no picture outside of it is taken.
    folders : PictureFolders
        Of the data set.

    Returns
    -------
    Path or None
        The picture; the LabelMe file itself for an embedded one.
    str
        How it was found: index, imagePath, sidecar, embedded or images.

    Raises
    ------
    DataError, ValueError
        If the picture that is named lies outside of the root and none of its name inside, or several may be meant.

    Examples
    --------
    >>> find_picture(Entry(Path("/no/labels/a.json")), {"imagePath": "a.png"}, Path("/no"), PictureFolders())
    (None, '')
    """
    if entry.picture is not None:
        where = f"{entry.where or entry.path}: image_path"
        return resolve_inside(where, str(entry.picture.absolute()), entry.path.parent, root), "index"
    folder, stated = entry.path.parent, keys.get("imagePath")
    parts = parts_of(stated) if isinstance(stated, str) else []
    name = parts[-1] if parts and is_picture(parts[-1]) else None  # some files name themselves
    direct = _inside(str(stated), folder, root) if name else None
    if direct is not None and kind_at(direct) in NO_FOLDER:
        return direct, "imagePath"
    embedded = isinstance(keys.get("imageData"), str) and keys["imageData"]
    beside = folders.find(entry.path, folder, name, refuse=not embedded)
    if beside is not None:
        if name is not None and direct is None:
            refuse_other(str(stated), [folder], beside, "imagePath: ")
        return beside, "sidecar"
    if embedded:
        return entry.path, "embedded"
    images = _images_folder(folder, root)
    found = folders.find(entry.path, images, name) if images else None
    if found is None and name and (direct is None or is_absolute(plain_path(str(stated)))):
        found = need_moved(str(stated), [folder, root], root, "imagePath: ")
    return found, "images" if found else ""


def _inside(text: str, folder: Path, root: Path) -> Path | None:
    """The path that a text means here, or None where that is out of the data root.

    Examples
    --------
    >>> _inside("../../etc/x.png", Path("/data/labels"), Path("/data")) is None
    True
    """
    try:
        return resolve_inside("", text, folder, root)
    except DataError:
        return None


class PictureFolders:
    """The pictures in folders by stem; each folder is listed once.

    Examples
    --------
    >>> PictureFolders().find(Path("/no/a.json"), Path("/no"), None) is None
    True
    """

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, list[Path]]] = {}

    def find(self, label: Path, folder: Path, name: str | None, refuse: bool = True) -> Path | None:
        """The picture of a name in a folder, whatever the case of its suffix, else the only one of the label's stem.

        Parameters
        ----------
        label : Path
            The LabelMe file.
        folder : Path
            Where to look.
        name : str, optional
            Name of the picture, as the label has it.
        refuse : bool
            Whether several pictures of the stem are an error, and not None.

        Raises
        ------
        DataError
            If there are several of the stem.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for file in ("a.png", "a.JPG"):
        ...     (folder / file).touch()
        >>> PictureFolders().find(folder / "a.json", folder, "a.jpg").name
        'a.JPG'
        >>> PictureFolders().find(Path("a.json"), folder, "old.png")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a.json: may be the label of .../a.JPG or of .../a.png; name its picture in imagePath
        """
        if folder not in self._listed:
            found: dict[str, list[Path]] = {}
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                if is_picture(file) and not file.is_dir():
                    found.setdefault(file.stem, []).append(file)
            self._listed[folder] = found
        if name is not None:
            alike = self._listed[folder].get(Path(name).stem, [])
            exact = [file for file in alike if file.name == name] or [
                file for file in alike if file.suffix.lower() == Path(name).suffix.lower()
            ]
            if len(exact) == 1:
                return exact[0]
        of_stem = self._listed[folder].get(label.stem, [])
        if len(of_stem) > 1 and refuse:
            listed = " or of ".join(map(str, of_stem[:3]))
            raise DataError(f"{label}: may be the label of {listed}; name its picture in imagePath")
        return of_stem[0] if len(of_stem) == 1 else None


def _images_folder(folder: Path, root: Path) -> Path | None:
    """The folder of pictures that belongs to a folder of labels, within the data root.

    Examples
    --------
    >>> _images_folder(Path("/data/labels/day1"), Path("/data")).as_posix()
    '/data/images/day1'
    >>> _images_folder(Path("/labels/data"), Path("/labels/data")) is None
    True
    """
    if not folder.absolute().is_relative_to(root.absolute()):
        return None
    parts = list(folder.absolute().relative_to(root.absolute()).parts)
    places = [index for index, part in enumerate(parts) if part in _LABEL_FOLDERS]
    if not places:
        return None
    parts[places[-1]] = "images"
    return root.absolute().joinpath(*parts)
