"""Predicted poses for readers of COCO: results for the labels that the pictures have, else a whole file of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tasks.keypoints.items import PoseItem
from tasks.keypoints.results import COCO_KEYS
from tasks.result_files import MADE_BY
from utils.formats.coco.label_ids import LabelIds
from utils.formats.coco.write import coco_content
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, keypoints_array
from utils.media.picture_sizes import picture_size
from utils.media.videos import VideoReader, is_video

Row = tuple[str, int, int, np.ndarray, float]  # item, frame, number of the animal, its points (K, 3) and score


def results_of_labels(rows: Sequence[Row], items: Sequence[PoseItem], ids: LabelIds) -> list[dict[str, Any]]:
    """The list that COCO's tools compare with the labels: `COCO(labels).loadRes(results)`.

    A point that was not found is 0, 0, 0; the third value of others is their score.

    Examples
    --------
    >>> from pathlib import Path
    >>> item = PoseItem("a", (), AnnotatedPicture("a", Path("/a.png"), (4, 6), ()), "inference")
    >>> pose = np.array([[1.0, 2.0, 0.9], [np.nan, np.nan, 0.01]])
    >>> results_of_labels([("a", 0, 0, pose, 0.5)], [item], LabelIds(Path("val.json"), {Path("/a.png"): 7}, 3))
    [{'image_id': 7, 'category_id': 3, 'keypoints': [1.0, 2.0, 0.9, 0.0, 0.0, 0.0], 'score': 0.5}]
    """
    named = {item.id: ids.pictures[item.picture.path.resolve()] for item in items}
    found = []
    for name, _, _, pose, score in rows:
        seen = np.where(np.isnan(pose[:, :1]), 0.0, pose).reshape(-1).tolist()
        found.append(dict(zip(COCO_KEYS, (named[name], ids.category, seen, score), strict=True)))
    return found


def whole_file(rows: Sequence[Row], items: Sequence[PoseItem], skeleton: Skeleton, category: str) -> dict[str, Any]:
    """A COCO file with images, annotations and the category; an image for every frame of a video.

    Predicted points are 2 (visible), others 0, and `keypoint_scores` are their scores.

    Examples
    --------
    >>> from pathlib import Path
    >>> item = PoseItem("a", (), AnnotatedPicture("a", Path("new/a.png"), (4, 6), ()), "inference")
    >>> content = whole_file([("a", 0, 0, np.array([[1.0, 2.0, 0.9]]), 0.5)], [item], Skeleton(("nose",)), "fox")
    >>> content["images"], content["annotations"][0]["image_id"], content["annotations"][0]["keypoints"]
    ([{'id': 1, 'file_name': 'a.png', 'width': 6, 'height': 4}], 1, [1.0, 2.0, 2])
    """
    by_frame: dict[tuple[str, int], list[Instance]] = {}
    for name, frame, _, pose, score in rows:
        points = keypoints_array(pose[:, :2], 2.0 * ~np.isnan(pose[:, 0]))
        animal = Instance(category, points, score=score, keypoint_scores=pose[:, 2])
        by_frame.setdefault((name, frame), []).append(animal)
    top = os.path.commonpath([item.picture.path.absolute().parent for item in items])
    pictures, files = [], []
    for item in items:
        frames = sorted(frame for name, frame in by_frame if name == item.id) if is_video(item.picture.path) else [0]
        size = size_of(item)
        for frame in frames:
            extra = {"frame": frame} if is_video(item.picture.path) else {}
            animals = tuple(by_frame.get((item.id, frame), ()))
            pictures.append(AnnotatedPicture(item.id, item.picture.path, size, animals, extra))
            files.append(os.path.relpath(item.picture.path.absolute(), top).replace(os.sep, "/"))
    skeletons = {category: skeleton}
    content = coco_content(AnnotationSet(pictures, skeletons), skeletons, files, "keypoints")
    return {"info": {"description": "predicted keypoints", **MADE_BY}, **content}


def size_of(item: PoseItem) -> tuple[int, int]:
    """Height and width of a picture or video.

    Examples
    --------
    >>> from pathlib import Path
    >>> size_of(PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "inference"))
    (4, 6)
    """
    if item.picture.size is not None:
        return item.picture.size
    path = item.picture.path
    return VideoReader(path).size if is_video(path) else picture_size(path)


def poses_of(animals: Iterator[tuple[str, int, int, dict[str, Any]]], read: Any) -> list[Row]:
    """Rows of animals as they were written.

    Examples
    --------
    >>> from tasks.keypoints.sinks import pose_array
    >>> animal = {"score": 0.5, "keypoints_xy": [[1.0, 2.0]], "keypoint_scores": [0.9]}
    >>> poses_of(iter([("a", 0, 0, animal)]), pose_array)[0][3].tolist()
    [[1.0, 2.0, 0.9]]
    """
    return [(name, frame, number, read(animal), animal["score"]) for name, frame, number, animal in animals]
