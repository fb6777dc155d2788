"""Files that inference writes for each input, and whether an existing file is one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.item import Item
from utils.errors import DataError, SettingsError
from utils.runtime.files import read_json

MADE_BY = {"made_by": "dinolith"}  # in the JSON of each input: inference may replace it and the files that it lists


def result_path(name: str, folder: Path) -> Path:
    """The JSON of a picture or video.

    Examples
    --------
    >>> result_path("a", Path("out")).as_posix()
    'out/a.json'
    """
    return folder / f"{name}.json"


@dataclass(frozen=True)
class ResultFiles:
    """What a run of inference writes into a folder.

    Parameters
    ----------
    folder : Path
        Where to.
    others : callable
        Gives the files of an item besides its JSON.
    shared : sequence of Path
        Files about all items together.
    is_shared : callable
        Whether an existing file is such a file by inference.

    Examples
    --------
    >>> files = ResultFiles(Path("out"), lambda item: [Path("out") / f"{item.id}.xml"], [], lambda path: False)
    >>> [path.name for path in files.of(Item("a", ()))]
    ['a.json', 'a.xml']
    """

    folder: Path
    others: Callable[[Any], list[Path]]
    shared: Sequence[Path]
    is_shared: Callable[[Path], bool]

    def of(self, item: Item) -> list[Path]:
        """All files of an item, its JSON first.

        Examples
        --------
        >>> [path.name for path in ResultFiles(Path("out"), lambda item: [], [], lambda path: False).of(Item("a", ()))]
        ['a.json']
        """
        return [result_path(item.id, self.folder), *self.others(item)]


def refuse_double(items: Sequence[Any], files: ResultFiles) -> None:
    """Refuse inputs, whose `picture` has a path, if results would be written over each other or over an input.

    Raises
    ------
    DataError
        If two results share a name, or a result has the name of an input.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> items = [SimpleNamespace(id="all", picture=SimpleNamespace(path=Path("all.png")))]
    >>> refuse_double(items, ResultFiles(Path("out"), lambda item: [], [Path("out/all.json")], lambda path: False))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: all.png: its result out/all.json is also that of all inputs together; rename one
    """
    owners = dict.fromkeys(files.shared, "that of all inputs together")
    owners |= {item.picture.path: "to be predicted itself" for item in items}
    for item in items:
        path = item.picture.path
        for target in files.of(item):
            if target in owners:
                raise DataError(f"{path}: its result {target} is also {owners[target]}; rename one")
            owners[target] = f"that of {path}"


def refuse_foreign(items: Sequence[Any], files: ResultFiles) -> None:
    """Refuse to write results over files that inference did not write, such as labels of a person.

    Raises
    ------
    SettingsError
        If there is such a file.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> files = ResultFiles(folder, lambda item: [folder / f"{item.id}.txt"], [], lambda path: False)
    >>> refuse_foreign([Item("a", ())], files)
    >>> _ = (folder / "a.txt").write_text("0 .5 .5 .25 .25")
    >>> refuse_foreign([Item("a", ())], files)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: .../a.txt: already exists and was not written by inference; choose another ...
    """
    foreign = [path for path in files.shared if path.exists() and not files.is_shared(path)]
    for item in items:
        path, *others = files.of(item)
        record = read_result(path)
        foreign += [path] if path.exists() and record is None else []
        foreign += [other for other in others if other.exists() and other.name not in (record or {}).get("files", [])]
    if foreign:
        raise SettingsError(
            f"{foreign[0]}: already exists and was not written by inference; choose another inference.output_dir, or "
            f"move the file away{f' ({len(foreign) - 1} more are like it)' if len(foreign) > 1 else ''}"
        )


def read_result(path: Path) -> dict[str, Any] | None:
    """The JSON of a picture or video as inference wrote it; None for anything else.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, text in {"a": '{"made_by": "dinolith", "files": []}', "b": '{"shapes": []}', "c": "{"}.items():
    ...     _ = (folder / f"{name}.json").write_text(text)
    >>> [read_result(folder / f"{name}.json") for name in "abcd"]
    [{'made_by': 'dinolith', 'files': []}, None, None, None]
    """
    try:
        content = read_json(path) if path.is_file() else None
    except (DataError, RecursionError):  # the file of a person may have any content
        return None
    is_result = (
        isinstance(content, dict) and content.items() >= MADE_BY.items() and isinstance(content.get("files"), list)
    )
    return content if is_result else None


def is_overlay(path: Path) -> bool:
    """Whether a video is an overlay that inference wrote, and therefore no input.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "v.json").write_text('{"made_by": "dinolith", "files": ["v_overlay.mp4"]}')
    >>> is_overlay(folder / "v_overlay.mp4"), is_overlay(folder / "w_overlay.mp4"), is_overlay(folder / "v.mp4")
    (True, False, False)
    """
    name, end, _ = path.stem.rpartition("_overlay")
    record = read_result(result_path(name, path.parent)) if end else None
    return record is not None and path.name in record["files"]
