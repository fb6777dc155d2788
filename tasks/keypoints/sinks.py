"""Prediction files of keypoints: JSON, csv, LabelMe, COCO results and overlay videos."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.frame_sink import FrameSink
from tasks.item import Piece
from tasks.keypoints.coco_results import poses_of, results_of_labels, whole_file
from tasks.keypoints.items import PoseItem
from tasks.keypoints.results import CSV_COLUMNS, PREDICTIONS_COCO, PREDICTIONS_CSV, other_results, shared_results
from tasks.labelled import decode_picture
from tasks.result_files import MADE_BY, result_path
from utils.errors import DataError
from utils.formats.coco.label_ids import LabelIds
from utils.formats.types import Skeleton
from utils.keypoints.drawing import draw_names, draw_poses, mark_radius
from utils.media.overlays import ENDING as OVERLAY_ENDING
from utils.media.overlays import write_overlay_picture
from utils.media.videos import VideoReader, VideoWriter, is_video
from utils.report.caption import current_caption
from utils.report.colours import class_palette
from utils.report.plots import overlay_legend
from utils.runtime.files import read_json, write_bytes, write_json

logger = logging.getLogger(__name__)

DEFAULT_FPS = 25.0  # of an overlay, if the video does not state its rate


class PoseSink(FrameSink):
    """Collects the frames of one picture or video, then writes its files.

    Frames are appended to a file beside the result, so that an interrupted video continues after the last one.

    Parameters
    ----------
    item : PoseItem
        The picture or video.
    folder : Path
        Folder of the results.
    skeleton : Skeleton
        The keypoints.
    formats : sequence of str
        Which files to write, of `labelme`, `coco`, `json`, `csv` and `video`.
    fingerprint : dict
        Of the model and settings; frames with another one are dropped.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import AnnotatedPicture
    >>> import cv2
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    >>> item = PoseItem("a", (), AnnotatedPicture("a", folder / "a.png", None, ()), "inference")
    >>> sink = PoseSink(item, folder, Skeleton(("nose",)), ["csv"], {})
    >>> found = {"frame": 0, "keypoints": np.array([[[1.0, 2.0, 0.5]]]), "scores": np.array([0.5])}
    >>> sink.append(Piece(item, {**found, "spread": np.array([[1.0]])}))
    >>> sink.flush()
    >>> [path.name for path in sink.close()]
    ['a.json', 'a_overlay.png']
    """

    item: PoseItem

    def __init__(
        self, item: PoseItem, folder: Path, skeleton: Skeleton, formats: Sequence[str], fingerprint: dict[str, Any]
    ):
        super().__init__(item, folder, fingerprint)
        self.skeleton, self.formats = skeleton, formats

    @override
    def to_json(self, piece: Piece) -> dict[str, Any]:
        return frame_to_json(piece)

    @override
    def names(self) -> list[str]:
        others = other_results(self.item.id, self.item.picture.path, self.folder, self.formats)
        return [path.name for path in (self.partial, result_path(self.item.id, self.folder), *others)]

    @override
    def close(self) -> list[Path]:
        frames = list(self.lines())
        path, picture = result_path(self.item.id, self.folder), self.item.picture.path
        others = other_results(self.item.id, picture, self.folder, self.formats)
        content = {
            **MADE_BY,  # lists the other files before they exist, so that after an interruption they may be replaced
            "files": [other.name for other in others],
            "source": str(picture),
            "keypoint_names": list(self.skeleton.names),
            **({"faults": self.item.faults} if self.item.faults else {}),
            **({"score_doubt": current_caption()} if current_caption() else {}),
            "frames": frames,
        }
        write_json(path, content, checksum=True)
        for other in others:
            if is_video(picture):
                write_overlay(self.item, frames, self.skeleton, other)
            elif other.name.endswith(OVERLAY_ENDING):
                write_picture_overlay(self.item, frames, self.skeleton, other)
            else:
                write_labelme_prediction(self.item, frames, self.skeleton, other)
        self.partial.unlink(missing_ok=True)
        return [path, *others]


def frame_to_json(piece: Piece) -> dict[str, Any]:
    """The animals of a frame as plain values; a point that was not found is null.

    Examples
    --------
    >>> from tasks.item import Item
    >>> found = {"frame": 3, "keypoints": np.array([[[1.0, 2.0, 0.5], [np.nan, np.nan, 0.01]]])}
    >>> found |= {"scores": np.array([0.255]), "spread": np.array([[1.5, 2.0]])}
    >>> frame_to_json(Piece(Item("a", ()), found))["instances"][0]["keypoints_xy"]
    [[1.0, 2.0], None]
    """
    arrays = piece.arrays
    instances = [
        {
            "score": round(float(score), 6),
            "keypoints_xy": [[x, y] if np.isfinite(x) else None for x, y in keypoints[:, :2].round(4).tolist()],
            "keypoint_scores": keypoints[:, 2].round(6).tolist(),
            "spread_px": [value if np.isfinite(value) else None for value in spread.round(3).tolist()],
        }
        for keypoints, score, spread in zip(arrays["keypoints"], arrays["scores"], arrays["spread"], strict=True)
    ]
    return {"frame": int(arrays["frame"]), "instances": instances}


def pose_array(instance: dict[str, Any]) -> np.ndarray:
    """Keypoints (K, 3) of a written animal: x, y and score; NaN where a point was not found.

    Examples
    --------
    >>> pose_array({"keypoints_xy": [[1.0, 2.0], None], "keypoint_scores": [0.5, 0.01]}).tolist()
    [[1.0, 2.0, 0.5], [nan, nan, 0.01]]
    """
    points = [point or (np.nan, np.nan) for point in instance["keypoints_xy"]]
    return np.column_stack([np.array(points, float).reshape(-1, 2), instance["keypoint_scores"]])


def write_labelme_prediction(item: PoseItem, frames: Sequence[dict], skeleton: Skeleton, path: Path) -> None:
    """Write a LabelMe file: a point for each keypoint and a small circle around it, grouped by animal.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import AnnotatedPicture
    >>> from utils.runtime.files import write_bytes
    >>> import cv2
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_bytes(folder / "a.png", cv2.imencode(".png", np.zeros((40, 60, 3), np.uint8))[1].tobytes())
    >>> item = PoseItem("a", (), AnnotatedPicture("a", folder / "a.png", None, ()), "inference")
    >>> animal = {"score": 0.5, "keypoints_xy": [[10.0, 20.0]], "keypoint_scores": [0.5]}
    >>> frames = [{"frame": 0, "instances": [animal]}]
    >>> write_labelme_prediction(item, frames, Skeleton(("nose",)), folder / "b.json")
    >>> [shape["shape_type"] for shape in read_json(folder / "b.json")["shapes"]]
    ['point', 'polygon']
    """
    height, width = decode_picture(item.picture).shape[:2]
    radius = max(2.0, 0.008 * min(height, width))
    shapes = [
        shape
        for frame in frames
        for group, animal in enumerate(frame["instances"], start=1)
        for name, row in zip(skeleton.names, pose_array(animal), strict=True)
        if np.isfinite(row[0])
        for shape in labelme_shapes(name, row, group, radius)
    ]
    write_json(
        path,
        {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(item.picture.path, path.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        },
    )


def labelme_shapes(name: str, row: np.ndarray, group: int, radius: float) -> Iterator[dict[str, Any]]:
    """A point (3,) and a circle of sixteen corners around it, as LabelMe keeps them.

    Examples
    --------
    >>> point, circle = labelme_shapes("nose", np.array([10.0, 20.0, 0.5]), 1, 2.0)
    >>> point["points"], len(circle["points"]), circle["label"]
    ([[10.0, 20.0]], 16, 'nose')
    """
    x, y, score = (float(value) for value in row)
    angles = np.arange(16) * (2 * np.pi / 16)
    circle = np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)]).round(3)
    common = {"label": name, "group_id": group, "description": f"score {score:.3f}", "flags": {}, "mask": None}
    yield {**common, "shape_type": "point", "points": [[x, y]]}
    yield {**common, "shape_type": "polygon", "points": circle.tolist()}


def write_overlay(item: PoseItem, frames: Sequence[dict], skeleton: Skeleton, path: Path) -> None:
    """Draw the animals with the names of their points over each frame of a video.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import AnnotatedPicture
    >>> folder = Path(tempfile.mkdtemp())
    >>> with VideoWriter(folder / "v.avi", (32, 48), 10.0) as video:
    ...     video.write(np.zeros((32, 48, 3), np.uint8))
    >>> item = PoseItem("v", (), AnnotatedPicture("v", folder / "v.avi", None, ()), "inference")
    >>> write_overlay(item, [{"frame": 0, "instances": []}], Skeleton(("nose",)), folder / "w.avi")
    >>> VideoReader(folder / "w.avi").count_frames(), VideoReader(folder / "w.avi").size  # 22 rows name the keypoints
    (1, (54, 48))
    """
    reader = VideoReader(item.picture.path, report=False)  # prediction has said what is wrong with it
    poses = {frame["frame"]: [pose_array(animal) for animal in frame["instances"]] for frame in frames}
    radius = mark_radius(reader.size, [])  # the same in all frames, so that marks do not change size
    legend = keypoint_legend(skeleton, reader.size[1])
    size = (reader.size[0] + len(legend), reader.size[1])
    with VideoWriter(path, size, reader.fps or DEFAULT_FPS) as video:
        for index, image in enumerate(reader.frames()):
            drawn = draw_poses(image, poses.get(index, []), skeleton.edges, radius=radius)
            draw_names(drawn, poses.get(index, []), skeleton.names, radius)
            video.write(np.concatenate([drawn, legend]))


def write_picture_overlay(item: PoseItem, frames: Sequence[dict], skeleton: Skeleton, path: Path) -> None:
    """Draw the animals with the names of their points over a picture, above a legend.

    Examples
    --------
    >>> import tempfile, cv2
    >>> from utils.formats.types import AnnotatedPicture
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    >>> item = PoseItem("a", (), AnnotatedPicture("a", folder / "a.png", None, ()), "inference")
    >>> animal = {"score": 0.5, "keypoints_xy": [[10.0, 20.0]], "keypoint_scores": [0.5]}
    >>> frames = [{"frame": 0, "instances": [animal]}]
    >>> write_picture_overlay(item, frames, Skeleton(("nose",)), folder / "a_overlay.png")
    >>> drawn = cv2.imread(str(folder / "a_overlay.png"))
    >>> drawn.shape, drawn[20, 10].any(), drawn[20, 50].any()
    ((62, 60, 3), np.True_, np.False_)
    """
    image = decode_picture(item.picture)
    poses = [pose_array(animal) for frame in frames for animal in frame["instances"]]
    drawn = draw_poses(image, poses, skeleton.edges)
    draw_names(drawn, poses, skeleton.names, mark_radius(drawn.shape[:2], poses))
    write_overlay_picture(path, np.concatenate([drawn, keypoint_legend(skeleton, drawn.shape[1])]))


def keypoint_legend(skeleton: Skeleton, width: int) -> np.ndarray:
    """Names of the keypoints in the colours in which they are drawn, (rows, width, 3).

    Examples
    --------
    >>> keypoint_legend(Skeleton(("nose", "tail")), 200).shape
    (22, 200, 3)
    """
    palette = class_palette(256)
    entries = [(name, palette[index % 256].tolist()) for index, name in enumerate(skeleton.names)]
    return overlay_legend(entries, width)


def gather_predictions(
    items: Sequence[PoseItem],
    folder: Path,
    skeleton: Skeleton,
    formats: Sequence[str],
    find: Callable[[], LabelIds | None] = lambda: None,
    category: str = "animal",
) -> list[Path]:
    """Write the predictions of all pictures and videos: a csv, and a file for readers of COCO.

    Parameters
    ----------
    items : sequence of PoseItem
        The pictures and videos.
    folder : Path
        Folder of the results.
    skeleton : Skeleton
        The keypoints.
    formats : sequence of str
        Of which `csv` and `coco` ask for these files.
    find : callable
        Gives the ids of COCO labels that hold all items: then the file is a list of results for them. By default it is
        a whole COCO file.
    category : str
        The kind of animal.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import AnnotatedPicture
    >>> import cv2
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    >>> item = PoseItem("a", (), AnnotatedPicture("a", folder / "a.png", None, ()), "inference")
    >>> _ = PoseSink(item, folder, Skeleton(("nose",)), ["csv"], {}).close()
    >>> [path.name for path in gather_predictions([item], folder, Skeleton(("nose",)), ["csv", "coco"])]
    ['predictions.csv', 'predictions_coco.json']
    """
    if not items or not {"csv", "coco"} & set(formats):
        return []
    rows = list(written_animals(items, folder))
    if not rows:
        logger.warning(
            "no animal was found in any of %d pictures and videos: every score is below keypoints.min_score; "
            "lower it, or train longer",
            len(items),
        )
    if "csv" in formats:
        names = {item.id: item.file_name for item in items}
        named = [(names[name], frame, number, animal) for name, frame, number, animal in rows]
        write_bytes(folder / PREDICTIONS_CSV, "".join(csv_lines(named, skeleton)).encode())
    if "coco" in formats:
        poses, ids = poses_of(iter(rows), pose_array), find()
        content = whole_file(poses, items, skeleton, category) if ids is None else results_of_labels(poses, items, ids)
        if ids is not None:
            logger.info("%s: results for the labels %s, with their ids", folder / PREDICTIONS_COCO, ids.file)
        write_json(folder / PREDICTIONS_COCO, content)
    return shared_results(folder, formats)


def written_animals(items: Sequence[PoseItem], folder: Path) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Picture, frame, number and values of every animal that was written.

    Raises
    ------
    DataError
        If the file of a prediction does not exist any more.

    Examples
    --------
    >>> list(written_animals([], Path(".")))
    []
    """
    for item in items:
        path = result_path(item.id, folder)
        content = read_json(path, checksum=True)
        if content is None:
            raise DataError(f"{path}: no longer exists; run inference again")
        for frame in content["frames"]:
            for number, animal in enumerate(frame["instances"]):
                yield item.id, frame["frame"], number, animal


def csv_lines(rows: Sequence[tuple[str, int, int, dict[str, Any]]], skeleton: Skeleton) -> Iterator[str]:
    """One line per animal: x, y and score of each keypoint, empty where a point was not found.

    Examples
    --------
    >>> animal = {"score": 0.5, "keypoints_xy": [[1.0, 2.0], None], "keypoint_scores": [0.9, 0.01]}
    >>> print(*csv_lines([("a.png", 0, 0, animal)], Skeleton(("nose", "tail"))), sep="", end="")
    picture,frame,animal,score,nose_x,nose_y,nose_score,tail_x,tail_y,tail_score
    a.png,0,0,0.5,1.0,2.0,0.9,,,0.01
    """
    columns = [f"{name}_{part}" for name in skeleton.names for part in ("x", "y", "score")]
    lines: list[list] = [[*CSV_COLUMNS, *columns]]
    for name, frame, number, animal in rows:
        cells = [value if np.isfinite(value) else "" for value in pose_array(animal).reshape(-1).tolist()]
        lines.append([name, frame, number, animal["score"], *cells])
    for line in lines:
        buffer = io.StringIO()
        csv.writer(buffer).writerow(line)  # with its own end of line, "\r\n", it quotes names with either of them
        yield buffer.getvalue().removesuffix("\r\n") + "\n"
