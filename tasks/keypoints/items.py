"""Items of keypoints: pictures with labelled animals or tools, and videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.item import Item
from utils.errors import DataError
from utils.formats.pictures import picture_bytes
from utils.formats.types import AnnotatedPicture, Instance
from utils.geometry.crops import box_of_points, move_boxes, tight_box
from utils.raster.pictures import decode_rgb
from utils.runtime.files import digest_json

REACH = 3.0  # largest width or height of a box, relative to its picture


@dataclass(frozen=True)
class PoseItem(Item):
    """A picture, or the frames of a video.

    Parameters
    ----------
    picture : AnnotatedPicture
        Its path and labelled animals; a video has no animals.
    split : str
        Split that it belongs to.
    first_frame : int
        First frame of a video to read.
    pixels : ndarray, shape (H, W, 3), optional
        The picture itself, uint8, red first, where it is in no file.

    Examples
    --------
    >>> PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").labels_digest == labels_digest(())
    True
    """

    picture: AnnotatedPicture
    split: str
    first_frame: int = 0
    pixels: np.ndarray | None = field(default=None, compare=False)

    @property
    def labels_digest(self) -> str:
        """Digest of its labelled animals.

        Examples
        --------
        >>> len(PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").labels_digest)
        32
        """
        return labels_digest(self.picture.instances)

    def stamp(self) -> list:
        """Values that change with the picture or its labels.

        Examples
        --------
        >>> PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").stamp()[:2]
        ['a', []]
        """
        return [*super().stamp(), self.labels_digest]


def labels_digest(instances: Iterable[Instance]) -> str:
    """Digest the labels that a sample uses: points, boxes and outlines.

    Examples
    --------
    >>> from dataclasses import replace
    >>> animal = Instance("fly", np.array([[1.0, 2.0, 2.0]]))
    >>> labels_digest([animal]) == labels_digest([replace(animal, is_crowd=True)])
    False
    """

    def listed(array: np.ndarray | None) -> Any:
        return None if array is None else np.nan_to_num(array, nan=-1.0).tolist()

    return digest_json(
        [
            [
                animal.category,
                listed(animal.keypoints),
                listed(animal.box_xyxy),
                [listed(part) for part in animal.polygons],
                animal.is_crowd,
            ]
            for animal in instances
        ]
    )


def decode_picture(picture: AnnotatedPicture) -> np.ndarray:
    """Read a picture as it is displayed, (H, W, 3) uint8, red first; embedded ones too.

    Raises
    ------
    DataError
        If it cannot be decoded or shown in 8 bits, or has too many pixels.

    Examples
    --------
    >>> import cv2, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> _ = path.write_bytes(cv2.imencode(".png", np.full((2, 3, 3), (9, 0, 0), np.uint8))[1].tobytes())
    >>> decode_picture(AnnotatedPicture("a", path, None, ()))[0, 0].tolist()
    [0, 0, 9]
    """
    return decode_rgb(picture_bytes(picture), picture.path)


def is_usable(animal: Instance) -> bool:
    """Whether an animal can be used for training: not a crowd, and with a labelled point.

    Examples
    --------
    >>> is_usable(Instance("fly", np.array([[1.0, 2.0, 0.0]]))), is_usable(Instance("fly", np.array([[1.0, 2.0, 1.0]])))
    (False, True)
    """
    return not animal.is_crowd and bool((animal.keypoints[:, 2] > 0).any())


def usable(picture: AnnotatedPicture) -> list[Instance]:
    """The animals of a picture that can be used for training.

    Examples
    --------
    >>> usable(AnnotatedPicture("a", Path("a.png"), (4, 6), ()))
    []
    """
    return [animal for animal in picture.instances if is_usable(animal)]


def box_of(animal: Instance) -> np.ndarray | None:
    """Box (4,) of an animal: its own, or around its outline or points; None if it has none of them.

    Examples
    --------
    >>> box_of(Instance("fly", np.array([[10.0, 20.0, 2.0], [30.0, 20.0, 2.0]]))).tolist()
    [2.0, 12.0, 38.0, 28.0]
    """
    if animal.box_xyxy is not None:
        return animal.box_xyxy
    if animal.polygons:
        return tight_box(np.concatenate(animal.polygons))
    return box_of_points(animal.keypoints)


def box_faults(animals: Iterable[Instance], size: tuple[int, int] | None) -> Iterator[str]:
    """Describe boxes that cannot be used: without area, or far larger than their picture.

    For an animal with points only, the box around them is checked for its size; it always has an area.

    Examples
    --------
    >>> flat, wide = (Instance("fly", np.zeros((1, 3)), np.array(box)) for box in ([3.0, 4, 3, 9], [0.0, 0, 1e9, 5]))
    >>> list(box_faults([flat, wide], (4, 6)))[0]
    'animal 1: its box has no area (0 x 5 pixels)'
    >>> list(box_faults([flat, wide], (4, 6)))[1]
    'animal 2: its box of 1e+09 x 5 pixels is more than 3 times as wide or high as the picture'
    >>> list(box_faults([Instance("fly", np.array([[2.0, 2.0, 2.0]]))], (4, 6)))
    []
    """
    for index, animal in enumerate(animals, start=1):
        is_drawn = animal.box_xyxy is not None or bool(animal.polygons)
        box = box_of(animal) if is_drawn else box_of_points(animal.keypoints, margin=0, least=0)
        if box is None:
            continue
        width, height = box[2:] - box[:2]
        if is_drawn and not min(width, height) > 0:
            yield f"animal {index}: its box has no area ({width:g} x {height:g} pixels)"
        elif size is not None and not (width <= REACH * size[1] and height <= REACH * size[0]):
            what = f"its box of {width:.4g} x {height:.4g} pixels"
            yield f"animal {index}: {what} is more than {REACH:g} times as wide or high as the picture"


def mask_out_crowd(valid: np.ndarray, box_xyxy: np.ndarray | None, matrix: np.ndarray) -> None:
    """Mark the area of a crowd, whose animals are not labelled one by one, as not valid in a mask (H, W).

    Examples
    --------
    >>> valid = np.ones((2, 4), bool)
    >>> mask_out_crowd(valid, np.array([1.0, 0.0, 3.0, 1.0]), np.eye(3))
    >>> valid.tolist()
    [[True, False, False, True], [True, True, True, True]]
    """
    if box_xyxy is None:
        return
    left, top, right, bottom = move_boxes(box_xyxy, matrix).clip(0, None)
    valid[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = False


def name_inputs(paths: Sequence[Path]) -> dict[str, Path]:
    """Ids of inputs, which are also the names of their results.

    Raises
    ------
    DataError
        If two share a name.

    Examples
    --------
    >>> name_inputs([Path("day1/fox.png"), Path("day2/fox.mp4")])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: day2/fox.mp4: day1/fox.png has the same name, and so would its result; rename one
    """
    inputs: dict[str, Path] = {}
    for path in paths:
        if path.stem in inputs:
            raise DataError(f"{path}: {inputs[path.stem]} has the same name, and so would its result; rename one")
        inputs[path.stem] = path
    return inputs
