"""Items of keypoints: pictures with labelled animals or tools, and videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.labelled import PictureItem
from tasks.labels import box_fault
from utils.formats.extents import extent_of
from utils.formats.types import AnnotatedPicture, Instance
from utils.geometry.crops import box_of_points, move_boxes
from utils.runtime.files import digest_json


@dataclass(frozen=True)
class PoseItem(PictureItem):
    """A picture with labelled animals or tools, or the frames of a video.

    Examples
    --------
    >>> from pathlib import Path
    >>> PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").labels_digest == labels_digest(())
    True
    """

    @property
    def labels_digest(self) -> str:
        """Digest of its labelled animals.

        Examples
        --------
        >>> from pathlib import Path
        >>> len(PoseItem("a", (), AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "val").labels_digest)
        32
        """
        return labels_digest(self.picture.instances)


def labels_digest(instances: Iterable[Instance]) -> str:
    """Digest the labels that a sample uses: points, boxes and outlines, and the box around what is drawn else.

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
                *([listed(extent_of(animal))] if animal.box_xyxy is None and (animal.mask or animal.lines) else ()),
            ]
            for animal in instances
        ]
    )


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
    >>> from pathlib import Path
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
    extent = extent_of(animal)
    return box_of_points(animal.keypoints) if extent is None else extent


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
        extent = extent_of(animal)
        is_drawn = extent is not None
        box = extent if is_drawn else box_of_points(animal.keypoints, margin=0, least=0)
        if box is None:
            continue
        fault = box_fault(box, size, needs_area=is_drawn)
        if fault:
            yield f"animal {index}: {fault}"


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
