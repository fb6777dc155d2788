"""Names of the files that inference writes, and whether an existing file is one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import DataError, SettingsError
from utils.media.overlays import ENDING as OVERLAY_ENDING
from utils.media.videos import is_video
from utils.runtime.files import read_json
from utils.runtime.reading import read_bounded

if TYPE_CHECKING:
    from tasks.keypoints.items import PoseItem

MADE_BY = {"made_by": "dinolith"}  # in the JSON of each picture: inference may replace it and the files that it lists
CSV_COLUMNS = ("picture", "frame", "animal", "score")
COCO_KEYS = ("image_id", "category_id", "keypoints", "score")
PREDICTIONS_CSV, PREDICTIONS_COCO = "predictions.csv", "predictions_coco.json"


def result_path(name: str, folder: Path) -> Path:
    """The JSON of a picture or video.

    Examples
    --------
    >>> result_path("a", Path("out")).as_posix()
    'out/a.json'
    """
    return folder / f"{name}.json"


def other_results(name: str, source: Path, folder: Path, formats: Sequence[str]) -> list[Path]:
    """The other files of a picture or video, besides its JSON.

    Examples
    --------
    >>> [path.name for path in other_results("a", Path("a.png"), Path("out"), ["csv", "labelme", "video"])]
    ['a_overlay.png', 'a.labelme.json']
    """
    if is_video(source):
        return [folder / f"{name}_overlay{source.suffix}"] if "video" in formats else []
    labelme = [folder / f"{name}.labelme.json"] if "labelme" in formats else []
    return [folder / f"{name}{OVERLAY_ENDING}", *labelme]


def shared_results(folder: Path, formats: Sequence[str]) -> list[Path]:
    """The files about all pictures and videos together.

    Examples
    --------
    >>> [path.name for path in shared_results(Path("out"), ["coco", "csv", "json"])]
    ['predictions.csv', 'predictions_coco.json']
    """
    names = {"csv": PREDICTIONS_CSV, "coco": PREDICTIONS_COCO}
    return [folder / name for format, name in names.items() if format in formats]


def refuse_double(items: Sequence[PoseItem], folder: Path, formats: Sequence[str]) -> None:
    """Refuse inputs whose results would be written over each other or over an input.

    Raises
    ------
    DataError
        If two results share a name, or a result has the name of an input.

    Examples
    --------
    >>> from tasks.keypoints.items import PoseItem
    >>> from utils.formats.types import AnnotatedPicture
    >>> items = [PoseItem(name, (), AnnotatedPicture(name, Path(name + ".png"), None, ()), "inference")
    ...     for name in ("a", "predictions_coco")]
    >>> refuse_double(items, Path("out"), ["csv"])
    >>> refuse_double(items, Path("out"), ["coco"])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: predictions_coco.png: its result out/predictions_coco.json is also that of all inputs \
together; rename one
    """
    owners = dict.fromkeys(shared_results(folder, formats), "that of all inputs together")
    owners |= {item.picture.path: "to be predicted itself" for item in items}
    for item in items:
        path = item.picture.path
        for target in (result_path(item.id, folder), *other_results(item.id, path, folder, formats)):
            if target in owners:
                raise DataError(f"{path}: its result {target} is also {owners[target]}; rename one")
            owners[target] = f"that of {path}"


def refuse_foreign(items: Sequence[PoseItem], folder: Path, formats: Sequence[str]) -> None:
    """Refuse to write results over files that inference did not write, such as labels of a person.

    Raises
    ------
    SettingsError
        If there is such a file.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.keypoints.items import PoseItem
    >>> from utils.formats.types import AnnotatedPicture
    >>> folder = Path(tempfile.mkdtemp())
    >>> item = PoseItem("a", (), AnnotatedPicture("a", folder / "a.png", None, ()), "inference")
    >>> refuse_foreign([item], folder, ["csv"])
    >>> _ = (folder / "a.json").write_text('{"shapes": []}')
    >>> refuse_foreign([item], folder, ["csv"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: .../a.json: already exists and was not written by inference; choose another ...
    """
    foreign = [path for path in shared_results(folder, formats) if path.exists() and not is_shared_result(path)]
    for item in items:
        path = result_path(item.id, folder)
        record = read_result(path)
        others = other_results(item.id, item.picture.path, folder, formats)
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


def is_shared_result(path: Path) -> bool:
    """Whether a file is a table or list of results that inference wrote.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, text in {"a.csv": "picture,frame,animal,score,nose_x", "b.csv": "a,b", "c.json": "[1]"}.items():
    ...     _ = (folder / name).write_text(text)
    >>> [is_shared_result(path) for path in sorted(folder.iterdir())]
    [True, False, False]
    """
    if not path.is_file():
        return False
    content = read_bounded(path)
    if path.suffix == ".csv":
        return content.startswith(",".join(CSV_COLUMNS).encode())
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError):
        return False
    if isinstance(rows, dict):
        info = rows.get("info")
        return isinstance(info, dict) and info.items() >= MADE_BY.items()
    keys = set(COCO_KEYS), {*COCO_KEYS, "frame"}  # the second of older versions
    return isinstance(rows, list) and all(isinstance(row, dict) and row.keys() in keys for row in rows)


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
