"""Names of the files that inference writes, and whether an existing file is one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tasks.result_files import MADE_BY, ResultFiles
from utils.media.overlays import ENDING as OVERLAY_ENDING
from utils.media.videos import is_video
from utils.runtime.reading import read_bounded

CSV_COLUMNS = ("picture", "frame", "animal", "score")
COCO_KEYS = ("image_id", "category_id", "keypoints", "score")
PREDICTIONS_CSV, PREDICTIONS_COCO = "predictions.csv", "predictions_coco.json"


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


def result_files(folder: Path, formats: Sequence[str]) -> ResultFiles:
    """What a run of inference writes.

    Examples
    --------
    >>> from tasks.keypoints.items import PoseItem
    >>> from utils.formats.types import AnnotatedPicture
    >>> item = PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), None, ()), "inference")
    >>> [path.name for path in result_files(Path("out"), ["labelme"]).of(item)]
    ['a.json', 'a_overlay.png', 'a.labelme.json']
    """
    others = lambda item: other_results(item.id, item.picture.path, folder, formats)  # noqa: E731 - an argument
    return ResultFiles(folder, others, shared_results(folder, formats), is_shared_result)


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
