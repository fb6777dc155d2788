"""Made-up foxes seen from above, with keypoints: pictures, COCO labels and a short video to try every phase on.

One to three foxes on grass, sand or pebbles, with varied joints, sizes, coats and light. The limbs are planned first;
pictures and labels are both made from them, so that a mark and its label agree to a fraction of a pixel. Coat and
ground do not tell left from right, only the body does. A keypoint beneath a body is labelled as hidden (v = 1); one
outside the picture is not labelled (v = 0). Boxes, areas and outlines are of what can be seen of a fox.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.files import atomic_path, digest_file, write_json
from utils.fox_scenes import FPS, Scene, draw_chase, draw_scene, plan_scene
from utils.foxes import EDGES, KEYPOINTS, hidden_keypoints, locate_keypoints
from utils.grounds import GROUNDS
from utils.limbs import Limb
from utils.sample import MARK, begin_sample, is_whole, unwritable
from utils.videos import VideoWriter

logger = logging.getLogger(__name__)

CATEGORY = "fox"
SIZE = (192, 256)
VERSION = 1  # of what is drawn; raise it when the same seed gives other files


@dataclass(frozen=True)
class Animals:
    """Where the files of a sample lie.

    Parameters
    ----------
    folder : Path
        That holds all of them.
    images : Path
        Folder of the pictures of both splits.
    annotations : dict of str to Path
        COCO keypoints of `train` and `val`.
    video : Path
        Foxes on the move, without labels.

    Examples
    --------
    >>> locate_animals("a").annotations["val"].as_posix()
    'a/annotations/val.json'
    """

    folder: Path
    images: Path
    annotations: dict[str, Path]
    video: Path


def locate_animals(folder: str | Path) -> Animals:
    """Where a sample's files lie, or will lie.

    Examples
    --------
    >>> locate_animals("a").video.as_posix()
    'a/chase.mp4'
    """
    folder = Path(folder)
    annotations = {split: folder / "annotations" / f"{split}.json" for split in ("train", "val")}
    return Animals(folder, folder / "images", annotations, folder / "chase.mp4")


def make_animals(
    folder: str | Path, seed: int = 7, train: int = 60, val: int = 16, frames: int = 60, size: tuple[int, int] = SIZE
) -> Animals:
    """Make the sample, unless it is there already.

    Parameters
    ----------
    folder : str or Path
        Made when missing; other files in it are left alone.
    seed : int
        The same seed, numbers and size give the same files.
    train, val : int
        Pictures of each split.
    frames : int
        Of the video, 20 per second.
    size : (int, int)
        Height and width of pictures and video.

    Returns
    -------
    Animals
        Where everything is.

    Raises
    ------
    ValueError
        When a side is odd or under 128 pixels, where a fox would not fit, or there would be no picture or frame.
    DataError
        When the folder cannot be written.

    Examples
    --------
    >>> import json, tempfile
    >>> animals = make_animals(tempfile.mkdtemp(), train=2, val=1, frames=2, size=(128, 160))
    >>> labels = json.loads(animals.annotations["train"].read_text())
    >>> [image["file_name"] for image in labels["images"]], labels["categories"][0]["keypoints"][:3]
    (['train_000.png', 'train_001.png'], ['snout', 'left_ear', 'right_ear'])
    """
    if min(size) < 128 or any(side % 2 for side in size) or min(train, val, frames) < 1:
        raise ValueError(
            "expected even sides of at least 128 pixels and at least one picture of each split and one frame, "
            f"got {tuple(size)}, {train}, {val} and {frames}"
        )
    animals = locate_animals(folder)
    recipe = {"kind": CATEGORY, "version": VERSION, "seed": seed, "size": list(size)}
    recipe |= {"train": train, "val": val, "frames": frames}
    if is_whole(animals.folder, recipe):
        return animals
    targets = [animals.images, *animals.annotations.values(), animals.video]
    begin_sample(animals.folder, recipe, [path.relative_to(animals.folder).as_posix() for path in targets])
    logger.info("drawing %d pictures and a video of foxes in %s", train + val, animals.folder)
    try:
        names = _write_animals(animals, seed, {"train": train, "val": val}, frames, size)
    except OSError as error:
        raise unwritable(animals.folder, error) from error
    digests = {name: digest_file(animals.folder / name) for name in sorted(names)}
    write_json(animals.folder / MARK, {**recipe, "keypoints": list(KEYPOINTS), "files": digests})
    return animals


def _write_animals(
    animals: Animals, seed: int, counts: dict[str, int], frames: int, size: tuple[int, int]
) -> list[str]:
    """Draw and write everything; names of the files, relative to the folder.

    Examples
    --------
    >>> import tempfile
    >>> _write_animals(locate_animals(tempfile.mkdtemp()), 7, {"val": 1}, 1, (128, 160))
    ['images/val_000.png', 'annotations/val.json', 'chase.mp4']
    """
    written, kinds = [], sorted(GROUNDS)
    for split, count in counts.items():
        names = [f"{split}_{index:03d}.png" for index in range(count)]
        labels = []
        for index, name in enumerate(names):
            scene = plan_scene(np.random.default_rng([seed, split == "val", index]), size, kinds[index % len(kinds)])
            image, layers = draw_scene(scene, size)
            labels.append(label_scene(scene, layers))
            write_picture(animals.images / name, image)
        write_json(animals.annotations[split], coco_labels(names, labels, size))
        written += [animals.images / name for name in names] + [animals.annotations[split]]
    with VideoWriter(animals.video, size, FPS) as video:
        for frame in draw_chase(np.random.default_rng([seed, 2]), frames, size):
            video.write(frame)
    return [path.relative_to(animals.folder).as_posix() for path in [*written, animals.video]]


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write a picture as PNG that appears whole or not at all.

    Parameters
    ----------
    path : Path
        Ending in .png.
    image : ndarray of uint8, shape (H, W, 3)
        Red, green and blue.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> write_picture(path, np.uint8([[[1, 2, 3]]]))
    >>> cv2.imread(str(path)).tolist()  # blue comes first here
    [[[3, 2, 1]]]
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes())


# --- labels ----------------------------------------------------------------------------------------------------------


def label_scene(scene: Scene, cover: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Describe the foxes of a scene as COCO does, without numbers of pictures and annotations.

    Parameters
    ----------
    scene : Scene
        From `plan_scene`.
    cover : sequence of ndarray, shape (H, W)
        From `draw_scene`.

    Returns
    -------
    list of dict
        One per fox, what lies lowest first.

    Examples
    --------
    >>> scene = plan_scene(np.random.default_rng(0), (128, 160))
    >>> label = label_scene(scene, draw_scene(scene, (128, 160))[1])[0]
    >>> sorted(label), len(label["keypoints"])
    (['area', 'bbox', 'category_id', 'iscrowd', 'keypoints', 'num_keypoints', 'segmentation'], 21)
    """
    labels = []
    for index, (fox, seen) in enumerate(zip(scene.foxes, cover, strict=True)):
        above = [limb for other in scene.foxes[index + 1 :] for limb in other.limbs]
        keypoints = label_keypoints(fox.limbs, above, seen.shape)
        mask = seen > 0.5
        rows, columns = np.nonzero(mask)
        left, top, right, bottom = (
            int(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        )
        labels.append(
            {
                "category_id": 1,
                "keypoints": keypoints.ravel().tolist(),
                "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                "bbox": [left, top, right - left, bottom - top],
                "area": int(mask.sum()),
                "segmentation": [outline.ravel().tolist() for outline in trace_outlines(seen)],
                "iscrowd": 0,
            }
        )
    return labels


def label_keypoints(limbs: Sequence[Limb], above: Sequence[Limb], size: tuple[int, ...]) -> np.ndarray:
    """Place and visibility of each keypoint.

    Parameters
    ----------
    limbs : sequence of Limb
        Of the fox.
    above : sequence of Limb
        Of all foxes that are painted after it.
    size : (int, int)
        Height and width of the picture.

    Returns
    -------
    ndarray of float64, shape (K, 3)
        x, y and v: 2 visible, 1 beneath a body, 0 outside the picture, where x = y = 0.

    Examples
    --------
    >>> from utils.foxes import COATS, Pose, build_fox
    >>> label_keypoints(build_fox(Pose((50, 40)), COATS["red"]), [], (70, 90))[[0, 5]].tolist()
    [[0.0, 0.0, 0.0], [30.5, 40.0, 2.0]]
    """
    places = np.round(locate_keypoints(limbs), 3)
    inside = (places >= 0).all(axis=1) & (places < (size[1], size[0])).all(axis=1)
    visibility = np.where(hidden_keypoints(limbs, above), 1, 2) * inside
    return np.column_stack([np.where(np.stack([inside, inside], axis=1), places, 0.0), visibility])


def trace_outlines(cover: np.ndarray, finer: int = 4) -> list[np.ndarray]:
    """Polygons around where a fox covers at least half of the picture.

    Parameters
    ----------
    cover : ndarray, shape (H, W)
        Share of each pixel, 0 to 1.
    finer : int
        Steps per pixel.

    Returns
    -------
    list of ndarray, shape (N, 2)
        x and y in pixels from the outer corner of the picture, to a quarter of a pixel.

    Examples
    --------
    >>> cover = np.zeros((20, 30))
    >>> cover[5:15, 8:24] = 1
    >>> outline = trace_outlines(cover)[0]
    >>> bool(np.abs(outline.min(axis=0) - (8, 5)).max() < 0.5), bool(np.abs(outline.max(axis=0) - (24, 15)).max() < 0.5)
    (True, True)
    """
    height, width = cover.shape
    fine = cv2.resize(cover, (width * finer, height * finer), interpolation=cv2.INTER_LINEAR) > 0.5
    contours, _ = cv2.findContours(fine.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    simple = [cv2.approxPolyDP(contour, 0.3 * finer, True)[:, 0] for contour in contours]
    return [(outline + 0.5) / finer for outline in simple if cv2.contourArea(outline) >= 6 * finer**2]


def coco_labels(
    names: Sequence[str], labels: Sequence[Sequence[dict[str, Any]]], size: tuple[int, int]
) -> dict[str, Any]:
    """Put the labels of pictures together as a COCO keypoint file.

    Parameters
    ----------
    names : sequence of str
        File names of the pictures.
    labels : sequence of sequence of dict
        From `label_scene`, one entry per picture.
    size : (int, int)
        Height and width of the pictures.

    Returns
    -------
    dict
        Images, annotations and the category; all numbered from 1.

    Examples
    --------
    >>> coco = coco_labels(["a.png", "b.png"], [[{"area": 5}], [{"area": 6}, {"area": 7}]], (2, 3))
    >>> [(label["id"], label["image_id"]) for label in coco["annotations"]]
    [(1, 1), (2, 2), (3, 2)]
    """
    images = [
        {"id": number, "file_name": name, "width": size[1], "height": size[0]} for number, name in enumerate(names, 1)
    ]
    flat = [{"image_id": number, **label} for number, found in enumerate(labels, 1) for label in found]
    category = {"id": 1, "name": CATEGORY, "supercategory": "animal", "keypoints": list(KEYPOINTS)}
    return {
        "info": {"description": "made-up foxes seen from above", "version": str(VERSION)},
        "images": images,
        "annotations": [{"id": number, **label} for number, label in enumerate(flat, 1)],
        "categories": [{**category, "skeleton": [[first + 1, second + 1] for first, second in EDGES]}],
    }
