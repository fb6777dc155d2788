"""Predicted boxes in the formats that other programs open: YOLO, LabelMe, VOC, csv, COCO."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.detection.items import DetectionItem
from tasks.detection.rasters import RasterItem
from tasks.detection.results import COCO_KEYS, CSV_COLUMNS, MAP_COLUMNS
from tasks.result_files import MADE_BY
from utils.formats.coco.label_ids import LabelIds
from utils.formats.coco.write import coco_content
from utils.formats.tables.write import plain_number
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton
from utils.formats.voc.write import voc_text
from utils.media.videos import is_video
from utils.raster.grids import apply_transform


@dataclass(frozen=True)
class Detected:
    """One predicted object.

    Parameters
    ----------
    name : str
        Its class.
    score : float
        0 to 1.
    box_xyxy : tuple of float
        In pixels of the picture.

    Examples
    --------
    >>> Detected.read({"class": "cow", "score": 0.5, "box_xyxy": [1, 2, 3, 4]}).box_xyxy
    (1.0, 2.0, 3.0, 4.0)
    """

    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Detected:
        """An object as the JSON of its picture holds it.

        Examples
        --------
        >>> Detected.read({"class": "cow", "score": 0.5, "box_xyxy": [1, 2, 3, 4]}).name
        'cow'
        """
        x1, y1, x2, y2 = map(float, written["box_xyxy"])
        return cls(written["class"], float(written["score"]), (x1, y1, x2, y2))

    def instance(self) -> Instance:
        """The object as a label with a score.

        Examples
        --------
        >>> Detected("cow", 0.5, (1.0, 2.0, 3.0, 4.0)).instance().score
        0.5
        """
        return Instance(self.name, box_xyxy=np.array(self.box_xyxy), score=self.score)


def yolo_text(objects: Iterable[Detected], size: tuple[int, int], classes: Sequence[str]) -> str:
    r"""Rows of YOLO with the score last: class, centre, width and height as shares of a picture of (height, width).

    Examples
    --------
    >>> yolo_text([Detected("cow", 0.5, (50.0, 0.0, 150.0, 25.0))], (100, 200), ["fox", "cow"])
    '1 0.5 0.125 0.5 0.25 0.5\n'
    """
    scale = np.array([size[1], size[0]], np.float64)
    lines = []
    for found in objects:
        low, high = np.array(found.box_xyxy[:2]), np.array(found.box_xyxy[2:])
        shares = [*((low + high) / 2 / scale).tolist(), *((high - low) / scale).tolist(), found.score]
        lines.append(f"{classes.index(found.name)} {' '.join(f'{share:.9g}' for share in shares)}\n")
    return "".join(lines)


def labelme_content(objects: Iterable[Detected], size: tuple[int, int], picture: str) -> dict[str, Any]:
    """A LabelMe file with a rectangle for each object and its score as description.

    Examples
    --------
    >>> content = labelme_content([Detected("cow", 0.5, (1.0, 2.0, 3.0, 4.0))], (100, 200), "../a.png")
    >>> shape = content["shapes"][0]
    >>> shape["points"], shape["description"], content["imageHeight"]
    ([[1.0, 2.0], [3.0, 4.0]], 'score 0.500', 100)
    """
    shapes: list[dict[str, Any]] = [
        {
            "label": found.name,
            "points": [list(found.box_xyxy[:2]), list(found.box_xyxy[2:])],
            "group_id": None,
            "description": f"score {found.score:.3f}",
            "shape_type": "rectangle",
            "flags": {},
            "mask": None,
        }
        for found in objects
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": picture,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def voc_content(objects: Iterable[Detected], size: tuple[int, int], picture: str) -> str:
    """A VOC file with the scores of the objects.

    Examples
    --------
    >>> "<score>0.5</score>" in voc_content([Detected("cow", 0.5, (1.0, 2.0, 3.0, 4.0))], (100, 200), "a.png")
    True
    """
    found = tuple(each.instance() for each in objects)
    return voc_text(AnnotatedPicture("", Path(picture), size, found), picture, scores=True)


def csv_rows(
    items: Sequence[DetectionItem], found: Iterable[tuple[DetectionItem, int, Detected]]
) -> Iterator[list[Any]]:
    """Header and rows of the table of all objects; of placed rasters also the map coordinates around each box.

    Examples
    --------
    >>> from utils.formats.types import AnnotatedPicture
    >>> item = DetectionItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "inference")
    >>> list(csv_rows([item], [(item, 0, Detected("cow", 0.5, (1.0, 2.0, 3.0, 4.25)))]))[1]
    ['a.png', 0, 'cow', 0.5, '1', '2', '3', '4.25']
    """
    has_map = any(isinstance(item, RasterItem) and item.is_placed for item in items)
    yield [*CSV_COLUMNS, *(MAP_COLUMNS if has_map else ())]
    for item, frame, each in found:
        row = [item.file_name, frame, each.name, each.score, *map(plain_number, each.box_xyxy)]
        if has_map:
            row += map_cells(item, each.box_xyxy)
        yield row


def map_cells(item: DetectionItem, box_xyxy: Sequence[float]) -> list[str]:
    """CRS, and smallest and largest map coordinates of a box; empty for a picture without a place.

    Examples
    --------
    >>> from utils.formats.types import AnnotatedPicture
    >>> map_cells(DetectionItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "inference"), (1, 2, 3, 4))
    ['', '', '', '', '']
    """
    if not isinstance(item, RasterItem) or not item.is_placed:
        return [""] * len(MAP_COLUMNS)
    grid = item.grid
    corners = np.asarray(box_xyxy, np.float64)[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    x, y = apply_transform(grid.transform, *corners.T)
    crs = "" if grid.crs is None else grid.crs.to_string()
    return [crs, *(plain_number(float(value)) for value in (x.min(), y.min(), x.max(), y.max()))]


def results_of_labels(found: Iterable[tuple[DetectionItem, int, Detected]], ids: LabelIds) -> Iterator[dict[str, Any]]:
    """The list that COCO's tools compare with the labels: `COCO(labels).loadRes(results)`.

    Examples
    --------
    >>> from utils.formats.types import AnnotatedPicture
    >>> item = DetectionItem("a", (), AnnotatedPicture("a", Path("/a.png"), (4, 6), ()), "inference")
    >>> ids = LabelIds(Path("val.json"), {Path("/a.png"): 7}, {"cow": 3})
    >>> list(results_of_labels([(item, 0, Detected("cow", 0.5, (1.0, 2.0, 4.0, 4.0)))], ids))
    [{'image_id': 7, 'category_id': 3, 'bbox': [1.0, 2.0, 3.0, 2.0], 'score': 0.5}]
    """
    for item, _, each in found:
        x1, y1, x2, y2 = each.box_xyxy
        values = ids.pictures[item.picture.path.resolve()], ids.category[each.name], [x1, y1, x2 - x1, y2 - y1]
        yield dict(zip(COCO_KEYS, (*values, each.score), strict=True))


def whole_file(
    items: Sequence[DetectionItem],
    found: Iterable[tuple[DetectionItem, int, Detected]],
    sizes: Mapping[str, tuple[int, int]],
    classes: Sequence[str],
) -> dict[str, Any]:
    """A COCO file with images, annotations and categories; an image for every frame of a video that holds an object.

    Examples
    --------
    >>> from utils.formats.types import AnnotatedPicture
    >>> item = DetectionItem("a", (), AnnotatedPicture("a", Path("new/a.png"), (4, 6), ()), "inference")
    >>> content = whole_file([item], [(item, 0, Detected("cow", 0.5, (1.0, 2.0, 4.0, 4.0)))], {"a": (4, 6)}, ["cow"])
    >>> content["images"], content["annotations"][0]["bbox"], content["annotations"][0]["score"]
    ([{'id': 1, 'file_name': 'a.png', 'width': 6, 'height': 4}], [1.0, 2.0, 3.0, 2.0], 0.5)
    """
    by_frame: dict[tuple[str, int], list[Instance]] = {}
    for item, frame, each in found:
        by_frame.setdefault((item.id, frame), []).append(each.instance())
    top = os.path.commonpath([item.picture.path.absolute().parent for item in items])
    pictures, files = [], []
    for item in items:
        path = item.picture.path
        frames = sorted(frame for name, frame in by_frame if name == item.id) if is_video(path) else [0]
        for frame in frames:
            extra = {"frame": frame} if is_video(path) else {}
            objects = tuple(by_frame.get((item.id, frame), ()))
            pictures.append(AnnotatedPicture(item.id, path, sizes[item.id], objects, extra))
            files.append(os.path.relpath(path.absolute(), top).replace(os.sep, "/"))
    skeletons = {name: Skeleton(()) for name in classes}
    content = coco_content(AnnotationSet(pictures, skeletons), skeletons, files, "keypoints")
    return {"info": {"description": "predicted boxes", **MADE_BY}, **content}
