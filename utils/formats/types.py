"""What every label format is read into and written from: instances in pictures, skeletons of categories, problems."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from utils.errors import DataError

POSE_FORMATS = ("yolo", "labelme", "coco", "deeplabcut", "cvat", "fiftyone")
BOX_FORMATS = ("voc", "csv", "vector")  # hold boxes or outlines, and no keypoints
CLASS_FORMATS = ("masks",)  # tell classes of pixels, and no objects
FORMATS = (*POSE_FORMATS, *BOX_FORMATS, *CLASS_FORMATS)
SPLITS = ("train", "val", "test", "all")  # "all": a source without splits
MISSING, OCCLUDED, VISIBLE = 0, 1, 2
MOST_POINTS = 1_000_000  # of one outline or line


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one category.

    Parameters
    ----------
    names : tuple of str
        One name per keypoint, all different.
    flip_idx : tuple of int, optional
        `flip_idx[k]` is the keypoint that `k` becomes in a mirrored picture; None where no keypoint has a side.
    edges : tuple of pairs of int
        Lines to draw, as indices from 0.

    Raises
    ------
    ValueError
        If a name is a duplicate, `flip_idx` is not its own inverse, or an edge names no keypoint.

    Examples
    --------
    >>> Skeleton(("nose", "left_ear", "right_ear"), (0, 2, 1)).num_keypoints
    3
    >>> Skeleton(("nose", "left_ear"), (1, 1))
    Traceback (most recent call last):
        ...
    ValueError: flip_idx must name each of the 2 keypoints once and be its own inverse, got [1, 1]
    """

    names: tuple[str, ...]
    flip_idx: tuple[int, ...] | None = None
    edges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        doubled = sorted({name for name in self.names if self.names.count(name) > 1})
        if doubled:
            raise ValueError(f"keypoint names must differ, but {', '.join(map(repr, doubled))} is a duplicate")
        indices = list(range(len(self.names)))
        flips = indices if self.flip_idx is None else list(self.flip_idx)
        if sorted(flips) != indices or any(flips[flips[k]] != k for k in indices):
            raise ValueError(
                f"flip_idx must name each of the {len(indices)} keypoints once and be its own inverse, got {flips}"
            )
        wrong = [edge for edge in self.edges if not all(0 <= index < len(self.names) for index in edge)]
        if wrong:
            raise ValueError(f"edge {list(wrong[0])} names no keypoint; there are {len(self.names)}, counted from 0")

    @property
    def num_keypoints(self) -> int:
        """Number of keypoints.

        Examples
        --------
        >>> Skeleton(("nose", "tail")).num_keypoints
        2
        """
        return len(self.names)


def build_skeleton(
    where: str,
    names: Sequence[str],
    flip_idx: Sequence[int] | None = None,
    edges: Sequence[tuple[int, int]] = (),
) -> Skeleton:
    """Build a skeleton out of a file's values; a `flip_idx` that the file lacks is inferred from the names.

    A `flip_idx` that moves nothing says that no keypoint has a side; here that is None.

    Raises
    ------
    DataError
        What `Skeleton` refuses, with the place in front.

    Examples
    --------
    >>> build_skeleton("data.yaml", ["nose", "left_ear", "right_ear"]).flip_idx
    (0, 2, 1)
    >>> build_skeleton("data.yaml: kpt_names", ["nose", "nose"])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: kpt_names: keypoint names must differ, but 'nose' is a duplicate
    """
    try:
        skeleton = Skeleton(tuple(names), None, tuple((int(a), int(b)) for a, b in edges))
        flips = infer_flip_idx(names) if flip_idx is None else tuple(int(index) for index in flip_idx)
        return replace(skeleton, flip_idx=None if flips == tuple(range(len(names))) else flips)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def infer_flip_idx(names: Sequence[str]) -> tuple[int, ...] | None:
    """Pair left and right keypoints by their names.

    A side is `left` or `right` anywhere in the name, `l` or `r` between separators, or a capital `L` or `R` at the edge
    of a run of capitals (`eyeL`, `forelegR1`, `LEar`, `paw1LH`). A side counts only when the mirrored name is
    there as well; where numbers stand in the way (`paw1LH`, `paw4RH`) they are left out of the comparison, if that
    leaves exactly one partner.

    Parameters
    ----------
    names : sequence of str
        Keypoint names in order.

    Returns
    -------
    tuple of int or None
        None where no name pairs with another.

    Examples
    --------
    >>> infer_flip_idx(["snout", "leftear", "rightear", "tailbase"])
    (0, 2, 1, 3)
    >>> infer_flip_idx(["paw1LH", "paw2LF", "paw3RF", "paw4RH", "nose"])
    (3, 2, 1, 0, 4)
    >>> infer_flip_idx(["rear", "lower", "upper"]) is None
    True
    """
    flips = list(range(len(names)))
    for strip_digits in (False, True):
        open_names = {k: names[k] for k in range(len(names)) if flips[k] == k}
        for left, right in _find_pairs(open_names, strip_digits):
            flips[left], flips[right] = right, left
    return tuple(flips) if flips != list(range(len(names))) else None


def _find_pairs(names: dict[int, str], strip_digits: bool) -> list[tuple[int, int]]:
    """Pairs of keypoints that are each other's only mirror.

    Examples
    --------
    >>> _find_pairs({0: "eyeL", 4: "eyeR"}, strip_digits=False)
    [(0, 4)]
    >>> _find_pairs({0: "eyeL1", 1: "eyeL2", 2: "eyeR3", 3: "eyeR4"}, strip_digits=True)
    []
    """
    plain = {k: _plain_name(name, strip_digits) for k, name in names.items()}
    mirrors: dict[int, set[str]] = {k: set() for k in names}
    for k, name in names.items():
        for start, end in {match.span() for pattern in (_SIDES, _CAPITALS) for match in pattern.finditer(name)}:
            mirrored = name[:start] + _OTHER_SIDE[name[start:end].lower()] + name[end:]
            mirrors[k].add(_plain_name(mirrored, strip_digits))
    partners = {k: [j for j in names if j != k and plain[j] in mirrors[k]] for k in names}
    single = [(k, found[0]) for k, found in partners.items() if len(found) == 1]
    return [(k, j) for k, j in single if k < j and partners[j] == [k]]


def _plain_name(name: str, strip_digits: bool) -> str:
    """Write a name as it is compared: lower case, one separator, with or without numbers.

    Examples
    --------
    >>> _plain_name("Left-Ear 2", strip_digits=True)
    'left_ear_'
    """
    text = re.sub(r"[\s_.\-]+", "_", name.casefold())
    return re.sub(r"\d+", "", text) if strip_digits else text


_SIDES = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)  # l_eye, eye-r, l1: alone
_CAPITALS = re.compile(r"(?<![A-Z])[LR](?![a-z])|[LR](?![A-Za-z])")  # eyeL, LEar, paw1LH, pawFL
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


@dataclass(frozen=True, eq=False)
class Instance:
    """One object in one picture, with as much as its label says of it.

    Parameters
    ----------
    category : str
        Its class: a key of the set's skeletons.
    keypoints : ndarray of float64, shape (K, 3)
        x and y in pixels from the outer corner of the top-left pixel, then 0 missing, 1 occluded, 2 visible;
        x and y are NaN where a keypoint is missing. Without keypoints (K = 0) by default.
    box_xyxy : ndarray of float64, shape (4,), optional
        In pixels.
    polygons : tuple of ndarray, shape (N, 2)
        Outline in pixels; several parts make one instance.
    holes : tuple of ndarray, shape (N, 2)
        Rings that are cut out of the union of `polygons`.
    lines : tuple of ndarray, shape (N, 2)
        Open lines in pixels; their width is not the object's.
    mask : dict, optional
        COCO's run lengths: `size` as [height, width], and `counts` as numbers or text.
    area : float, optional
        In square pixels, as the file states it.
    is_crowd : bool
        A group that is not told apart: to be ignored.
    group : int, optional
        LabelMe's group_id, COCO's annotation id.
    score, keypoint_scores : float and ndarray of shape (K,), optional
        Of a prediction.
    track_id : int, optional
        Identity over frames.
    z_order : int
        Where objects overlap, those of a higher order lie on those of a lower one; of equal ones, later on earlier.
    tags : dict
        Attributes: LabelMe's flags of a shape, COCO's `attributes`.
    extra : dict
        What the format holds beyond this.

    Raises
    ------
    ValueError
        If an array has another shape.

    Examples
    --------
    >>> Instance("mouse", keypoints_array([[3, 4], [0, 0]], [2, 0])).keypoints.tolist()
    [[3.0, 4.0, 2.0], [nan, nan, 0.0]]
    >>> Instance("car", box_xyxy=np.array([1.0, 2, 5, 8])).keypoints.shape
    (0, 3)
    >>> Instance("road", lines=(np.zeros((4, 3)),))
    Traceback (most recent call last):
        ...
    ValueError: lines must have shape (N, 2), got [(4, 3)]
    """

    category: str
    keypoints: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    box_xyxy: np.ndarray | None = None
    polygons: tuple[np.ndarray, ...] = ()
    holes: tuple[np.ndarray, ...] = ()
    lines: tuple[np.ndarray, ...] = ()
    mask: dict | None = None
    area: float | None = None
    is_crowd: bool = False
    group: int | None = None
    score: float | None = None
    keypoint_scores: np.ndarray | None = None
    track_id: int | None = None
    z_order: int = 0
    tags: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keypoints.ndim != 2 or self.keypoints.shape[1] != 3:
            raise ValueError(f"keypoints must have shape (K, 3), got {self.keypoints.shape}")
        if self.box_xyxy is not None and self.box_xyxy.shape != (4,):
            raise ValueError(f"box_xyxy must have shape (4,), got {self.box_xyxy.shape}")
        for name in ("polygons", "holes", "lines"):
            shapes = [points.shape for points in getattr(self, name)]
            if any(len(shape) != 2 or shape[1] != 2 for shape in shapes):
                raise ValueError(f"{name} must have shape (N, 2), got {shapes}")
        if self.keypoint_scores is not None and self.keypoint_scores.shape != self.keypoints.shape[:1]:
            raise ValueError(f"keypoint_scores must have shape (K,), got {self.keypoint_scores.shape}")


def keypoints_array(points: object, visibility: object) -> np.ndarray:
    """Join points and visibility, with NaN for what is missing.

    Parameters
    ----------
    points : array-like, shape (K, 2)
        x and y in pixels.
    visibility : array-like, shape (K,)
        0, 1 or 2.

    Returns
    -------
    ndarray of float64, shape (K, 3)

    Examples
    --------
    >>> keypoints_array([[1, 2]], [1]).tolist()
    [[1.0, 2.0, 1.0]]
    """
    seen = np.asarray(visibility, np.float64).reshape(-1)
    placed = np.where(seen[:, None] > MISSING, np.asarray(points, np.float64).reshape(-1, 2), np.nan)
    return np.column_stack([placed, seen])


def missing_keypoints(num_keypoints: int) -> np.ndarray:
    """Keypoints, shape (K, 3), of an instance that only has a box.

    Examples
    --------
    >>> missing_keypoints(2)[:, 2].tolist()
    [0.0, 0.0]
    """
    missing = np.full((num_keypoints, 3), np.nan)
    missing[:, 2] = MISSING
    return missing


def polygon_area(polygons: Sequence[np.ndarray]) -> float:
    """Summed area of polygons, each of shape (N, 2), in square pixels by the shoelace formula.

    Examples
    --------
    >>> polygon_area([np.array([[0.0, 0], [4, 0], [4, 3]])])
    6.0
    """
    total = 0.0
    for polygon in polygons:
        x, y = (polygon - polygon[0]).T  # near zero: large coordinates would cancel
        total += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return total


def encode_mask(mask: np.ndarray) -> dict:
    """Write a mask as COCO's run lengths: column by column, first of what it does not cover.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)

    Returns
    -------
    dict
        `size` as [height, width], and `counts`.

    Examples
    --------
    >>> encode_mask(np.array([[True, False, False], [True, False, True]]))
    {'size': [2, 3], 'counts': [0, 2, 3, 1]}
    """
    flat = mask.T.ravel()
    ends = [*(np.flatnonzero(flat[1:] != flat[:-1]) + 1), flat.size]
    counts = np.diff([0, *([0] if flat[:1].any() else []), *ends])
    return {"size": list(mask.shape), "counts": counts.tolist()}


@dataclass(frozen=True, eq=False)
class AnnotatedPicture:
    """One labelled picture: its size, and the objects in it.

    Parameters
    ----------
    id : str
        Path relative to the data root without suffix, parts joined by '/', unique in its data set.
    path : Path
        The picture; a LabelMe file where the picture is inside it (then `extra["image_data"]` is "embedded").
    size : tuple of int, optional
        (height, width) as displayed, after EXIF orientation; None when it could not be read.
    instances : tuple of Instance
        May be empty: a picture without an object is a label too.
    extra : dict
        What the format holds beyond this; `incomplete: True` where an instance or a point had to be skipped, so that
        the picture does not show nothing where it shows none.
    tags : dict
        Attributes of the whole picture: LabelMe's flags of a file.

    Examples
    --------
    >>> AnnotatedPicture("train/a", Path("images/train/a.png"), (480, 640), ()).size
    (480, 640)
    """

    id: str
    path: Path
    size: tuple[int, int] | None
    instances: tuple[Instance, ...]
    extra: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something in the labels that a person should mend; what it stands in is skipped, or read as `what` says.

    Parameters
    ----------
    where : str
        `file:line`, or `file: shape 3`.
    what : str
        What was expected and what came.
    cure : str
        What to do.
    picture : str, optional
        Id of the picture it belongs to.
    lost : bool
        Whether an object or a point of that picture is skipped, so that the picture's labels are incomplete.
    blocks : bool
        False for what a person should look at, but may be right: `verify` lists it and does not fail.

    Examples
    --------
    >>> str(Problem("a.txt:3", "expected 11 numbers, got 9", "complete the row"))
    'a.txt:3: expected 11 numbers, got 9; complete the row'
    """

    where: str
    what: str
    cure: str = ""
    picture: str | None = None
    lost: bool = False
    blocks: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.cure}" if self.cure else "")


@dataclass
class AnnotationSet:
    """The pictures of one split, with the categories of their instances.

    Parameters
    ----------
    pictures : list of AnnotatedPicture
        In a fixed order.
    skeletons : dict of str to Skeleton
        By category, in the order of the category indices; of a category without keypoints it has no names.
    problems : list of Problem
        What was skipped or doubtful while reading.

    Examples
    --------
    >>> AnnotationSet([], {"mouse": Skeleton(("nose",))}).num_instances
    0
    """

    pictures: list[AnnotatedPicture]
    skeletons: dict[str, Skeleton]
    problems: list[Problem] = field(default_factory=list)

    @property
    def num_instances(self) -> int:
        """Number of instances in all pictures.

        Examples
        --------
        >>> animal = Instance("mouse", missing_keypoints(1))
        >>> AnnotationSet([AnnotatedPicture("a", Path("a.png"), None, (animal, animal))], {}).num_instances
        2
        """
        return sum(len(picture.instances) for picture in self.pictures)
