"""Prediction files of detection: JSON, csv, COCO, YOLO, LabelMe, VOC, GeoPackage, overlay pictures and videos."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.detection.exports import (
    Detected,
    csv_rows,
    labelme_content,
    results_of_labels,
    voc_content,
    whole_file,
    yolo_text,
)
from tasks.detection.items import DetectionItem
from tasks.detection.rasters import RasterItem
from tasks.detection.results import (
    CLASSES,
    PREDICTIONS_COCO,
    PREDICTIONS_CSV,
    class_list,
    other_results,
    result_files,
)
from tasks.frame_sink import FrameSink
from tasks.item import Piece
from tasks.labelled import decode_picture
from tasks.result_files import MADE_BY, result_path
from utils.boxes.drawing import draw_detections
from utils.errors import DataError
from utils.formats.coco.label_ids import LabelIds
from utils.media.overlays import ENDING as OVERLAY_ENDING
from utils.media.overlays import write_overlay_picture
from utils.media.videos import VideoReader, VideoWriter, is_video
from utils.raster.box_layer import write_boxes
from utils.raster.writer import BESIDE
from utils.report.caption import current_caption
from utils.report.colours import class_palette
from utils.report.plots import overlay_legend
from utils.runtime.files import atomic_path, read_json, write_bytes, write_json

logger = logging.getLogger(__name__)

DEFAULT_FPS = 25.0  # of an overlay, if the video does not state its rate
OF_A_FRAME = ("yolo", "labelme", "voc")  # formats with a file for each picture, which videos do not get


@dataclass(frozen=True)
class Looks:
    """How objects are written and drawn.

    Parameters
    ----------
    classes : tuple of str
        The task's classes.
    formats : tuple of str
        Which files to write.
    drawn_from : tuple of float
        Score of each class from which on its objects are drawn; files have them all.

    Examples
    --------
    >>> Looks(("cow", "fox"), ("csv",)).palette().shape
    (2, 3)
    """

    classes: tuple[str, ...]
    formats: tuple[str, ...]
    drawn_from: tuple[float, ...] = ()

    def palette(self) -> np.ndarray:
        """Colours (K, 3) of the classes.

        Examples
        --------
        >>> Looks(("cow",), ()).palette().dtype
        dtype('uint8')
        """
        colours = class_palette(256)
        return colours[np.arange(len(self.classes)) % 256]


class DetectionSink(FrameSink):
    """Collects the frames of one picture or video, or the rows of a raster, then writes its files.

    Parameters
    ----------
    item : DetectionItem
        The picture, video or raster.
    folder : Path
        Folder of the results.
    looks : Looks
        Classes and formats.
    fingerprint : dict
        Of the model and settings; frames with another one are dropped.

    Examples
    --------
    >>> import cv2, tempfile
    >>> from utils.formats.types import AnnotatedPicture
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    >>> item = DetectionItem("a", (), AnnotatedPicture("a", folder / "a.png", (40, 60), ()), "inference")
    >>> sink = DetectionSink(item, folder, Looks(("cow",), ("yolo",)), {})
    >>> found = {"boxes_xyxy": np.array([[1.0, 2, 31, 22]]), "scores": np.array([0.5]), "labels": np.array([0])}
    >>> sink.append(Piece(item, {"frame": 0, "size": (40, 60), **found}))
    >>> sink.flush()
    >>> [path.name for path in sink.close()], (folder / "a.txt").read_text().split()[-1]
    (['a.json', 'a_overlay.png', 'a.txt'], '0.5')
    """

    item: DetectionItem

    def __init__(self, item: DetectionItem, folder: Path, looks: Looks, fingerprint: dict[str, Any]):
        super().__init__(item, folder, fingerprint)
        self.looks = looks
        self.rows: int | None = None  # of windows that are written already, of a raster

    @override
    def to_json(self, piece: Piece) -> dict[str, Any]:
        arrays = piece.arrays
        rows = zip(arrays["boxes_xyxy"].tolist(), arrays["scores"].tolist(), arrays["labels"].tolist(), strict=True)
        objects = [
            {
                "class": self.looks.classes[label],
                "score": round(float(score), 6),
                "box_xyxy": [round(side, 3) for side in box],
            }
            for box, score, label in rows
        ]
        size = [int(side) for side in arrays["size"]]
        where: dict[str, Any] = {name: int(arrays[name]) for name in ("row", "restart") if name in arrays}
        return {"frame": int(arrays["frame"]), "size": size, **where, "objects": objects}

    @override
    def append(self, piece: Piece) -> None:
        if isinstance(self.item, RasterItem):
            if self.rows is None:
                self.rows = sum(1 for _ in self.lines())
            if int(piece.arrays["row"]) < self.rows:  # found again on the way to what is missing
                return
            self.rows += 1
        super().append(piece)

    @override
    def resume_point(self) -> int | None:
        if not isinstance(self.item, RasterItem):
            return super().resume_point()
        last = None
        for line in self.lines():
            last = line
        return None if last is None else int(last["restart"])

    @override
    def names(self) -> list[str]:
        others = other_results(self.item, self.folder, self.looks.formats)
        layers = [f"{path.name}{BESIDE}" for path in others if path.suffix == ".gpkg"]
        return [path.name for path in (self.partial, result_path(self.item.id, self.folder), *others)] + layers

    @override
    def close(self) -> list[Path]:
        item, path = self.item, result_path(self.item.id, self.folder)
        others = other_results(item, self.folder, self.looks.formats)
        content: dict[str, Any] = {
            **MADE_BY,  # lists the other files before they exist, so that after an interruption they may be replaced
            "files": [other.name for other in others],
            "source": str(item.picture.path),
            "classes": list(self.looks.classes),
            **({"faults": item.faults} if item.faults else {}),
            **({"score_doubt": current_caption()} if current_caption() else {}),
        }
        if isinstance(item, RasterItem):
            content |= {"size": [item.grid.height, item.grid.width], "objects": f"{item.id}.boxes.jsonl"}
        else:
            content["frames"] = list(self.lines())
        write_json(path, content, checksum=True)
        for other in others:
            self._write(other)
        self.partial.unlink(missing_ok=True)
        return [path, *others]

    def _write(self, path: Path) -> None:
        """Write one of the files of the input.

        Examples
        --------
        >>> import tempfile
        >>> from utils.formats.types import AnnotatedPicture
        >>> folder = Path(tempfile.mkdtemp())
        >>> item = DetectionItem("a", (), AnnotatedPicture("a", folder / "a.png", (40, 60), ()), "inference")
        >>> sink = DetectionSink(item, folder, Looks(("cow",), ("labelme",)), {})
        >>> sink.append(Piece(item, {"frame": 0, "size": (40, 60), **dict.fromkeys(
        ...     ("boxes_xyxy", "scores", "labels"), np.zeros(0))}))
        >>> sink.flush()
        >>> sink._write(folder / "a.labelme.json")
        >>> read_json(folder / "a.labelme.json")["imagePath"]
        'a.png'
        """
        item, frames = self.item, self.lines()
        if path.name.endswith(".boxes.jsonl"):
            write_lines(path, frames)
        elif path.suffix == ".gpkg":
            assert isinstance(item, RasterItem)
            parts = (arrays_of(line["objects"], self.looks.classes) for line in frames)
            write_boxes(path, parts, item.grid, self.looks.classes, self.looks.palette())
        elif is_video(item.picture.path):
            write_video_overlay(item, frames, self.looks, path)
        elif path.name.endswith(OVERLAY_ENDING):
            write_picture_overlay(item, frames, self.looks, path)
        else:
            lines = list(frames)
            objects = [Detected.read(each) for line in lines for each in line["objects"]]
            size = (lines[0]["size"][0], lines[0]["size"][1])
            beside = os.path.relpath(item.picture.path, path.parent)
            if path.suffix == ".txt":
                write_bytes(path, yolo_text(objects, size, self.looks.classes).encode())
            elif path.suffix == ".xml":
                write_bytes(path, voc_content(objects, size, beside).encode())
            else:
                write_json(path, labelme_content(objects, size, beside))


def arrays_of(
    objects: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (N, 4), scores (N,) and classes (N,) of objects as they are written.

    Examples
    --------
    >>> one = {"class": "fox", "score": 0.5, "box_xyxy": [1, 2, 3, 4]}
    >>> [part.tolist() for part in arrays_of([one], ["cow", "fox"])]
    [[[1.0, 2.0, 3.0, 4.0]], [0.5], [1]]
    """
    found = [Detected.read(each) for each in objects]
    boxes = np.array([each.box_xyxy for each in found], np.float64).reshape(-1, 4)
    labels = np.array([classes.index(each.name) for each in found], np.int64)
    return boxes, np.array([each.score for each in found], np.float64), labels


def write_lines(path: Path, lines: Iterator[Mapping[str, Any]]) -> None:
    r"""Write the objects of a raster, a line of JSON for each; the file appears whole or not at all.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.boxes.jsonl"
    >>> write_lines(path, iter([{"objects": [{"class": "cow"}]}, {"objects": []}]))
    >>> path.read_text()
    '{"class": "cow"}\n'
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(each) + "\n" for line in lines for each in line["objects"])


def legend(looks: Looks, width: int) -> np.ndarray:
    """Names of the classes in the colours in which they are drawn, and from which score on, (rows, width, 3).

    Examples
    --------
    >>> legend(Looks(("cow", "fox"), ()), 200).shape, legend(Looks(("cow", "fox"), (), (0.25, 0.5)), 200).shape
    ((22, 200, 3), (44, 200, 3))
    """
    names = list(looks.classes)
    if looks.drawn_from:
        names = [f"{name} from {score:.2f}" for name, score in zip(names, looks.drawn_from, strict=True)]
    return overlay_legend(list(zip(names, looks.palette().tolist(), strict=True)), width)


def draw_frame(image: np.ndarray, objects: Sequence[Mapping[str, Any]], looks: Looks) -> np.ndarray:
    """Draw objects over a picture (H, W, 3), each in its class's colour.

    Examples
    --------
    >>> one = {"class": "cow", "score": 0.5, "box_xyxy": [10, 10, 30, 30]}
    >>> drawn = draw_frame(np.zeros((40, 60, 3), np.uint8), [one], Looks(("cow",), ()))
    >>> drawn[20, 10].any(), drawn[20, 50].any()
    (np.True_, np.False_)
    >>> draw_frame(np.zeros((40, 60, 3), np.uint8), [one], Looks(("cow",), (), (0.75,))).any()
    np.False_
    """
    boxes, scores, labels = arrays_of(objects, looks.classes)
    if looks.drawn_from:
        drawn = scores >= np.array(looks.drawn_from)[labels]
        boxes, scores, labels = boxes[drawn], scores[drawn], labels[drawn]
    return draw_detections(image, boxes, scores, labels, looks.classes, looks.palette())


def write_picture_overlay(item: DetectionItem, lines: Iterator[Mapping[str, Any]], looks: Looks, path: Path) -> None:
    """Draw the objects over a picture, above the names of the classes.

    Examples
    --------
    >>> import cv2, tempfile
    >>> from utils.formats.types import AnnotatedPicture
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    >>> item = DetectionItem("a", (), AnnotatedPicture("a", folder / "a.png", (40, 60), ()), "inference")
    >>> write_picture_overlay(item, iter([]), Looks(("cow",), ()), folder / "a_overlay.png")
    >>> cv2.imread(str(folder / "a_overlay.png")).shape  # 22 rows name the classes
    (62, 60, 3)
    """
    image = decode_picture(item.picture)
    drawn = draw_frame(image, [each for line in lines for each in line["objects"]], looks)
    write_overlay_picture(path, np.concatenate([drawn, legend(looks, drawn.shape[1])]))


def write_video_overlay(item: DetectionItem, lines: Iterator[Mapping[str, Any]], looks: Looks, path: Path) -> None:
    """Draw the objects over each frame of a video.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import AnnotatedPicture
    >>> folder = Path(tempfile.mkdtemp())
    >>> with VideoWriter(folder / "v.avi", (32, 48), 10.0) as video:
    ...     video.write(np.zeros((32, 48, 3), np.uint8))
    >>> item = DetectionItem("v", (), AnnotatedPicture("v", folder / "v.avi", None, ()), "inference")
    >>> write_video_overlay(item, iter([{"frame": 0, "objects": []}]), Looks(("cow",), ()), folder / "w.avi")
    >>> VideoReader(folder / "w.avi").count_frames(), VideoReader(folder / "w.avi").size
    (1, (54, 48))
    """
    reader = VideoReader(item.picture.path, report=False)  # prediction has said what is wrong with it
    objects = {line["frame"]: line["objects"] for line in lines}
    names = legend(looks, reader.size[1])
    with VideoWriter(path, (reader.size[0] + len(names), reader.size[1]), reader.fps or DEFAULT_FPS) as video:
        for index, image in enumerate(reader.frames()):
            video.write(np.concatenate([draw_frame(image, objects.get(index, []), looks), names]))


def written_objects(item: DetectionItem, folder: Path) -> Iterator[tuple[DetectionItem, int, Detected]]:
    """Item, frame and object, for every object that was written.

    Raises
    ------
    DataError
        If the file of a prediction does not exist any more.

    Examples
    --------
    >>> from utils.formats.types import AnnotatedPicture
    >>> item = DetectionItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "inference")
    >>> list(written_objects(item, Path("/no/such")))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/a.json: no longer exists; run inference again
    """
    path = result_path(item.id, folder)
    content = read_json(path, checksum=True)
    if content is None:
        raise DataError(f"{path}: no longer exists; run inference again")
    if "frames" in content:
        for line in content["frames"]:
            for each in line["objects"]:
                yield item, line["frame"], Detected.read(each)
        return
    lines = folder / content["objects"]
    if not lines.is_file():
        raise DataError(f"{lines}: no longer exists; run inference again")
    with open(lines, encoding="utf-8") as stream:
        for text in stream:
            yield item, 0, Detected.read(json.loads(text))


def gather_predictions(
    items: Sequence[DetectionItem],
    folder: Path,
    looks: Looks,
    find: Callable[[], LabelIds | None] = lambda: None,
) -> list[Path]:
    """Write the files about all inputs: a csv, a file for readers of COCO, the classes of YOLO.

    Parameters
    ----------
    items : sequence of DetectionItem
        The pictures, videos and rasters.
    folder : Path
        Folder of the results.
    looks : Looks
        Classes and formats.
    find : callable
        Gives the ids of COCO labels that hold all items: then the file is a list of results for them. By default it is
        a whole COCO file.

    Examples
    --------
    >>> import tempfile
    >>> gather_predictions([], Path(tempfile.mkdtemp()), Looks(("cow",), ("csv", "coco")))
    []
    """
    if not items:
        return []
    found = lambda: (each for item in items for each in written_objects(item, folder))  # noqa: E731 - read twice
    if next(found(), None) is None:
        logger.warning(
            "no object was found in any of %d inputs: every score is below detection.min_score; lower it, or train "
            "longer",
            len(items),
        )
    videos = sum(is_video(item.picture.path) for item in items)
    lacking = [format for format in looks.formats if format in OF_A_FRAME]
    if videos and lacking:
        text = "%d videos get no files of format %s, which are of pictures; csv, coco and the JSON hold their frames"
        logger.warning(text, videos, ", ".join(lacking))
    if "csv" in looks.formats:
        with atomic_path(folder / PREDICTIONS_CSV) as path, open(path, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(csv_rows(items, found()))
    if "coco" in looks.formats:
        ids = find()
        if ids is not None:
            logger.info("%s: results for the labels %s, with their ids", folder / PREDICTIONS_COCO, ids.file)
            write_json(folder / PREDICTIONS_COCO, list(results_of_labels(found(), ids)))
        else:
            sizes = {item.id: size_of(item, folder) for item in items}
            write_json(folder / PREDICTIONS_COCO, whole_file(items, found(), sizes, looks.classes))
    if "yolo" in looks.formats:
        write_bytes(folder / CLASSES, class_list(looks.classes).encode())
    return list(result_files(folder, looks.formats, looks.classes).shared)


def size_of(item: DetectionItem, folder: Path) -> tuple[int, int]:
    """Height and width of an input, as its prediction says.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import AnnotatedPicture
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_json(folder / "a.json", {"frames": [{"frame": 0, "size": [4, 6], "objects": []}]}, checksum=True)
    >>> size_of(DetectionItem("a", (), AnnotatedPicture("a", Path("a.png"), None, ()), "inference"), folder)
    (4, 6)
    """
    content = read_json(result_path(item.id, folder), checksum=True)
    height, width = content["size"] if "size" in content else content["frames"][0]["size"]
    return height, width
