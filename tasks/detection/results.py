"""Names of the files that inference of detection writes, and whether an existing file is one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tasks.detection.items import DetectionItem
from tasks.detection.rasters import RasterItem
from tasks.result_files import MADE_BY, ResultFiles
from utils.media.overlays import ENDING as OVERLAY_ENDING
from utils.media.videos import is_video
from utils.runtime.reading import read_bounded

CSV_COLUMNS = ("picture", "frame", "class", "score", "xmin", "ymin", "xmax", "ymax")
MAP_COLUMNS = ("crs", "left", "bottom", "right", "top")
COCO_KEYS = ("image_id", "category_id", "bbox", "score")
PREDICTIONS_CSV, PREDICTIONS_COCO, CLASSES = "predictions.csv", "predictions_coco.json", "classes.txt"
ENDINGS = {"labelme": ".labelme.json", "yolo": ".txt", "voc": ".xml"}  # of a picture


def result_files(folder: Path, formats: Sequence[str], classes: Sequence[str]) -> ResultFiles:
    """What a run of inference writes.

    Parameters
    ----------
    folder : Path
        Folder of the results.
    formats : sequence of str
        Of `csv`, `coco`, `yolo`, `labelme`, `voc`, `gpkg` and `video`.
    classes : sequence of str
        The task's classes.

    Examples
    --------
    >>> [path.name for path in result_files(Path("out"), ["csv", "yolo"], ["cow"]).shared]
    ['predictions.csv', 'classes.txt']
    """
    names = {"csv": PREDICTIONS_CSV, "coco": PREDICTIONS_COCO, "yolo": CLASSES}
    shared = [folder / name for format, name in names.items() if format in formats]
    others = lambda item: other_results(item, folder, formats)  # noqa: E731 - an argument
    return ResultFiles(folder, others, shared, lambda path: is_shared_result(path, classes))


def other_results(item: DetectionItem, folder: Path, formats: Sequence[str]) -> list[Path]:
    """The files of an input besides its JSON.

    Examples
    --------
    >>> from utils.formats.types import AnnotatedPicture
    >>> item = DetectionItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "inference")
    >>> [path.name for path in other_results(item, Path("out"), ["csv", "labelme", "video"])]
    ['a_overlay.png', 'a.labelme.json']
    """
    if is_video(item.picture.path):
        return [folder / f"{item.id}_overlay{item.picture.path.suffix}"] if "video" in formats else []
    files = [folder / f"{item.id}{ending}" for format, ending in ENDINGS.items() if format in formats]
    if not isinstance(item, RasterItem):
        return [folder / f"{item.id}{OVERLAY_ENDING}", *files]
    layer = [folder / f"{item.id}.gpkg"] if "gpkg" in formats and item.is_placed else []
    return [folder / f"{item.id}.boxes.jsonl", *layer, *files]


def is_shared_result(path: Path, classes: Sequence[str]) -> bool:
    r"""Whether a file is a table, list of results or list of classes that inference wrote.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> header = "picture,frame,class,score,xmin,ymin,xmax,ymax"
    >>> for name, text in {"a.csv": header, "b.csv": "a,b", "c.json": "[1]", "classes.txt": "cow\n"}.items():
    ...     _ = (folder / name).write_text(text)
    >>> [is_shared_result(path, ["cow"]) for path in sorted(folder.iterdir())]
    [True, False, False, True]
    """
    if not path.is_file():
        return False
    content = read_bounded(path)
    if path.suffix == ".csv":
        return content.startswith(",".join(CSV_COLUMNS).encode())
    if path.suffix == ".txt":
        return content == class_list(classes).encode()
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError):
        return False
    if isinstance(rows, dict):
        info = rows.get("info")
        return isinstance(info, dict) and info.items() >= MADE_BY.items()
    return isinstance(rows, list) and all(isinstance(row, dict) and row.keys() == set(COCO_KEYS) for row in rows)


def class_list(classes: Sequence[str]) -> str:
    r"""The names of classes, a line each; line ends in a name become spaces, as the number of the line is the class.

    Examples
    --------
    >>> class_list(["cow", "a\nb"])
    'cow\na b\n'
    """
    return "".join(" ".join(name.splitlines()) + "\n" for name in classes)
