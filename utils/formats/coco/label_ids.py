"""The ids that COCO labels give to pictures and categories, for results that belong to these labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats.coco.files import find_image, find_sources, image_folders
from utils.formats.recognise import find_source
from utils.formats.text_files import read_json_file


@dataclass(frozen=True)
class LabelIds:
    """Ids in a COCO file.

    Parameters
    ----------
    file : Path
        The file.
    pictures : dict of Path to id
        By resolved path.
    category : int, or dict of str to int
        Id of the category with the keypoints, or of each class.

    Examples
    --------
    >>> LabelIds(Path("val.json"), {Path("/data/a.png"): 7}, 1).pictures[Path("/data/a.png")]
    7
    """

    file: Path
    pictures: dict[Path, Any]
    category: Any


def find_ids(
    labels: str | Path,
    root: str | Path | None,
    pictures: Sequence[Path],
    keypoints: Sequence[str],
    beside: bool = False,
) -> LabelIds | None:
    """Find the COCO file among some labels that holds all of some pictures and a category with these keypoints.

    Parameters
    ----------
    labels : str or Path
        A file or folder, as `read_coco` takes it.
    root : str or Path, optional
        Data root.
    pictures : sequence of Path
        The pictures.
    keypoints : sequence of str
        Names of the keypoints, in order.
    beside : bool
        Whether file names also start in the folders of these pictures, as the labels are said to be theirs.

    Returns
    -------
    LabelIds or None
        None where the labels are no COCO, or no file of them has all of it.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp()).resolve()
    >>> (folder / "a.png").touch()
    >>> category = {"id": 3, "name": "fox", "keypoints": ["nose"]}
    >>> content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [], "categories": [category]}
    >>> _ = (folder / "val.json").write_text(json.dumps(content))
    >>> found = find_ids(folder / "val.json", None, [folder / "a.png"], ["nose"])
    >>> list(found.pictures.values()), found.category
    ([7], 3)
    >>> find_ids(folder / "val.json", None, [folder / "b.png"], ["nose"]) is None
    True
    """

    def choose(categories: Sequence[Mapping[str, Any]]) -> int | None:
        ids = [entry.get("id") for entry in categories if entry.get("keypoints") == list(keypoints)]
        return ids[0] if ids and isinstance(ids[0], int) else None

    return _find(labels, root, pictures, choose, beside)


def find_class_ids(
    labels: str | Path, root: str | Path | None, pictures: Sequence[Path], classes: Sequence[str], beside: bool = False
) -> LabelIds | None:
    """Find the COCO file among some labels that holds all of some pictures and a category of each class's name.

    Parameters
    ----------
    labels, root, pictures, beside
        As for `find_ids`.
    classes : sequence of str
        Names of the classes.

    Returns
    -------
    LabelIds or None
        Its `category` gives the id of each class. None where the labels are no COCO, or no file of them has all of it.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp()).resolve()
    >>> (folder / "a.png").touch()
    >>> categories = [{"id": 3, "name": "fox"}, {"id": 5, "name": "cow"}]
    >>> content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [], "categories": categories}
    >>> _ = (folder / "val.json").write_text(json.dumps(content))
    >>> find_class_ids(folder / "val.json", None, [folder / "a.png"], ["cow", "fox"]).category
    {'cow': 5, 'fox': 3}
    >>> find_class_ids(folder / "val.json", None, [folder / "a.png"], ["hen"]) is None
    True
    """

    def choose(categories: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
        named = {str(entry.get("name")): entry.get("id") for entry in categories}
        ids = {name: id for name in classes if isinstance(id := named.get(name), int)}
        return ids if len(ids) == len(classes) else None

    return _find(labels, root, pictures, choose, beside)


def _find(
    labels: str | Path,
    root: str | Path | None,
    pictures: Sequence[Path],
    choose: Callable[[Sequence[Mapping[str, Any]]], Any],
    beside: bool,
) -> LabelIds | None:
    """The first file of some labels that holds all pictures and of whose categories something is chosen.

    Examples
    --------
    >>> import tempfile
    >>> _find(tempfile.mkdtemp(), None, [], lambda categories: 1, False) is None
    True
    """
    try:
        source, format = find_source(Path(labels))
        if format != "coco":
            return None
        parents = list(dict.fromkeys(path.resolve().parent for path in pictures))
        sources = find_sources(source, None if root is None else Path(root))
        for split, files in sources.files.items():
            for file in files:
                folders = [*image_folders(sources, split, file), *(parents if beside else ())]
                found = _ids_of(file, read_json_file(file), folders, sources.root, pictures, choose)
                if found is not None:
                    return found
    except DataError:  # labels that cannot be read give no ids
        return None
    return None


def _ids_of(
    file: Path,
    content: Any,
    folders: Sequence[Path],
    root: Path,
    pictures: Sequence[Path],
    choose: Callable[[Sequence[Mapping[str, Any]]], Any],
) -> LabelIds | None:
    """Ids in one file, if it holds all pictures.

    Examples
    --------
    >>> content = {"images": [], "categories": []}
    >>> _ids_of(Path("a.json"), content, [], Path("."), [Path("a.png")], lambda categories: 1) is None
    True
    """
    parts = content if isinstance(content, dict) else {}
    entries, categories = (
        [entry for entry in parts.get(key) or [] if isinstance(entry, dict)] for key in ("images", "categories")
    )
    category = choose(categories)
    wanted = {path.resolve() for path in pictures}
    names = {path.name for path in wanted}
    ids: dict[Path, Any] = {}
    for entry in entries:
        name = entry.get("file_name")
        if isinstance(name, str) and name.replace("\\", "/").rpartition("/")[2] in names:
            try:
                path = find_image(name, folders, root)
            except ValueError:  # it leads to several pictures or none: reading the labels leaves it out, too
                continue
            if path is not None and path.resolve() in wanted:
                ids.setdefault(path.resolve(), entry.get("id"))
    whole = ids.keys() == wanted and len(set(map(str, ids.values()))) == len(ids)
    return LabelIds(file, ids, category) if whole and category is not None else None
