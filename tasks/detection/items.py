"""Items of detection: pictures with labelled objects, and videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from typing_extensions import override

from tasks.labelled import PictureItem
from utils.runtime.files import digest_json


class Objects(NamedTuple):
    """The labelled objects of a picture; rows of all three correspond.

    Parameters
    ----------
    boxes_xyxy : ndarray of float64, shape (N, 4)
        In pixels of the picture; they may reach beyond it.
    labels : ndarray of int64, shape (N,)
        Class of each.
    is_crowd : ndarray of bool, shape (N,)
        Regions in which objects are not told apart: neither learnt nor false alarms.

    Examples
    --------
    >>> no_objects().boxes_xyxy.shape
    (0, 4)
    """

    boxes_xyxy: np.ndarray
    labels: np.ndarray
    is_crowd: np.ndarray


def no_objects() -> Objects:
    """The objects of a picture without any.

    Examples
    --------
    >>> [len(part) for part in no_objects()]
    [0, 0, 0]
    """
    return Objects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))


@dataclass(frozen=True)
class DetectionItem(PictureItem):
    """A picture with labelled objects, or the frames of a video.

    Parameters
    ----------
    objects : Objects
        Those of the task's classes.
    others_xyxy : ndarray of float64, shape (M, 4)
        Boxes of labelled objects of other classes, from which a head may learn where objects end.

    Examples
    --------
    >>> from pathlib import Path
    >>> from utils.formats.types import AnnotatedPicture
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), ())
    >>> one = Objects(np.array([[0.0, 0, 2, 2]]), np.array([1]), np.array([False]))
    >>> DetectionItem("a", (), picture, "val", objects=one).labels_digest == DetectionItem(
    ...     "a", (), picture, "val", objects=no_objects()
    ... ).labels_digest
    False
    """

    objects: Objects = field(default_factory=no_objects, compare=False, kw_only=True)
    others_xyxy: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)), compare=False, kw_only=True)

    @property
    @override
    def labels_digest(self) -> str:
        # none of the others: as before they were known, so that no training of that time is another one now
        others = (self.others_xyxy,) if len(self.others_xyxy) else ()
        return digest_json([part.tolist() for part in (*self.objects, *others)])
