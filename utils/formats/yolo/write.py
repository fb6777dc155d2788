"""Writing YOLO data sets of poses, outlines or boxes, with their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.formats import specs
from utils.formats.extents import extent_of
from utils.formats.mask_outlines import join_rings, mask_of_instance, rings_apart, trace_mask
from utils.formats.pictures import new_names
from utils.formats.sets import Z_ORDER_LOST, in_drawing_order, list_lost, place_pictures, shared_skeletons
from utils.formats.types import (
    AnnotatedPicture,
    AnnotationSet,
    Instance,
    Skeleton,
    missing_keypoints,
)
from utils.formats.yolo.rows import TOLERANCE
from utils.geometry.crops import tight_box
from utils.runtime.files import write_bytes


def write_yolo(sets: Mapping[str, AnnotationSet], folder: str | Path) -> list[Path]:
    """Write a YOLO data set: data.yaml, `images/<split>/` and `labels/<split>/`.

    It is one of outlines where an instance has an outline or a mask and no keypoint is labelled, else one of poses if
    categories have keypoints, else one of boxes. A row of outlines is one ring: several parts and holes are joined by
    bridges without width, a mask is written as its outline, and a box as its four corners. Objects stand in the order
    of their `z_order`. Pictures are given a second name (a hard link) where the system allows it, else copied. What the
    format cannot hold is left out: `unsupported` lists it.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        The specification first, then the label files.

    Raises
    ------
    DataError
        If categories have different numbers of keypoints, or a picture's size is not known.

    Examples
    --------
    >>> import tempfile
    >>> sets = {"all": AnnotationSet([], {"mouse": Skeleton(("nose",)), "fish": Skeleton(("eye", "fin"))})}
    >>> write_yolo(sets, tempfile.mkdtemp())
    Traceback (most recent call last):
        ...
    utils.errors.DataError: YOLO holds one number of keypoints, but mouse has 1, fish has 2; choose categories
    """
    folder, skeletons = Path(folder), shared_skeletons(sets)
    outlines = writes_outlines(sets.values())
    counts = {name: skeleton.num_keypoints for name, skeleton in skeletons.items()}
    if len(set(counts.values())) > 1 and not outlines:
        stated = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise DataError(f"YOLO holds one number of keypoints, but {stated}; choose categories")
    keys = specs.spec_keys(dict.fromkeys(skeletons, Skeleton(())) if outlines else skeletons)
    if isinstance(keys.get("flip_idx"), dict):  # the format has one for all; `unsupported` lists the others
        del keys["flip_idx"]
    images = {s: [folder / "images" / s / name for name in new_names(part.pictures)] for s, part in sets.items()}
    tops = {split: (folder / "images" / split, folder / "labels" / split) for split in sets}
    labels = {
        split: [(tops[split][1] / image.relative_to(tops[split][0])).with_suffix(".txt") for image in images[split]]
        for split in sets
    }
    written = [path for paths in labels.values() for path in paths]
    texts = [_format_label(picture, skeletons, outlines) for part in sets.values() for picture in part.pictures]
    place_pictures(folder, sets, images, written, [top for pair in tops.values() for top in pair])
    for label, text in zip(written, texts, strict=True):
        write_bytes(label, text.encode())
    splits = {split: f"images/{split}" for split in sets}
    return [specs.write_spec(folder / "data.yaml", {"path": ".", **splits, **keys}), *written]


def writes_outlines(parts: Iterable[AnnotationSet]) -> bool:
    """Whether splits are written as outlines: there are some, or masks, and no keypoint is labelled.

    Examples
    --------
    >>> mask = Instance("car", mask={"size": [4, 6], "counts": [6, 2, 16]})
    >>> part = AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), (mask,))], {"car": Skeleton(())})
    >>> fox = replace(part.pictures[0], instances=(Instance("fox", np.array([[1.0, 2, 2]])),))
    >>> writes_outlines([part]), writes_outlines([part, AnnotationSet([fox], {"fox": Skeleton(("nose",))})])
    (True, False)
    """
    instances = [instance for part in parts for picture in part.pictures for instance in picture.instances]
    if any((instance.keypoints[:, 2] > 0).any() for instance in instances):
        return False
    return any(instance.polygons or instance.mask for instance in instances)


def _format_label(picture: AnnotatedPicture, skeletons: Mapping[str, Skeleton], outlines: bool = False) -> str:
    """The label file of a picture: of outlines, else of poses or boxes.

    Raises
    ------
    DataError
        If its size is not known.

    Examples
    --------
    >>> _format_label(AnnotatedPicture("a", Path("a.png"), None, ()), {})
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.png: the size is unknown, and YOLO writes shares of it; look at its problem
    """
    if picture.size is None:
        raise DataError(f"{picture.path}: the size is unknown, and YOLO writes shares of it; look at its problem")
    numbers = {name: number for number, name in enumerate(skeletons)}
    rows = []
    for instance in in_drawing_order(picture, holds_crowds=not outlines):  # boxes do not lie on each other
        if not outlines:
            rows.append(_format_row(instance, skeletons, picture.size))
        elif (ring := _written_ring(instance, picture.size)) is not None:
            shares = ring / np.array(picture.size[::-1], np.float64)
            rows.append(" ".join([str(numbers[instance.category]), *(f"{x:.15g}" for x in shares.ravel().tolist())]))
    return "".join(row + "\n" for row in rows if row)


def unsupported(annotations: AnnotationSet, outlines: bool | None = None) -> list[str]:
    """List what YOLO cannot hold of a set.

    Parameters
    ----------
    annotations : AnnotationSet
        What is to be written.
    outlines : bool, optional
        Whether it is written as outlines, for another split may have some; by default as `writes_outlines` says.

    Returns
    -------
    list of str
        Each with how many instances have it; empty when writing loses nothing.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> crowd = Instance("mouse", keypoints_array([[1, 2]], [2]), tight_box(np.eye(2)), is_crowd=True, area=6.0)
    >>> beyond = Instance("mouse", keypoints_array([[9, 2]], [2]), np.array([0.0, 0, 9, 3]))
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), (crowd, beyond))
    >>> for line in unsupported(AnnotationSet([picture], {"mouse": Skeleton(("nose",))})):
    ...     print(line)
    boxes beyond the picture or flat (cut to it): 1
    keypoints beyond the picture (written as missing): 1
    is_crowd: 1 of 2 instances
    area: 1 of 2 instances
    """
    counts = {skeleton.num_keypoints for skeleton in annotations.skeletons.values()}
    outlines = writes_outlines([annotations]) if outlines is None else outlines
    sizes = [f"{len(counts)} different numbers of keypoints"] if len(counts) > 1 and not outlines else []
    sizes += ["names of keypoints, of which none is labelled"] if outlines and max(counts, default=0) else []
    flips = len({skeleton.flip_idx for skeleton in annotations.skeletons.values()})
    is_doubtful = flips > 1 and not outlines
    sides = ["flip_idx that differs between categories (inferred from the names when read)"] if is_doubtful else []
    tests: dict[str, Callable[[Instance], bool]] = {
        "scores": lambda i: i.score is not None or i.keypoint_scores is not None,
        Z_ORDER_LOST: lambda i: i.z_order != 0,
    }
    tests |= _LOST_OF_OUTLINES if outlines else _LOST_OF_BOXES
    kept = {"keypoints", "score", "z_order"} | (_OF_RINGS if outlines else {"boxes"})
    placed = [(i, p.size) for p in annotations.pictures if p.size is not None for i in p.instances]
    lines = [f"{name}: {count}" for name, count in _count_cut(placed, outlines).items() if count]
    return [*sizes, *sides, *lines, *list_lost(annotations, kept, tests)]


_OF_RINGS = {"boxes", "polygons", "holes", "lines", "masks"}
_LOST_OF_BOXES: dict[str, Callable[[Instance], bool]] = {
    "neither box, keypoint, outline, line nor mask (left out)": lambda i: (
        extent_of(i) is None and tight_box(i.keypoints) is None
    ),
}
_LOST_OF_OUTLINES: dict[str, Callable[[Instance], bool]] = {
    "neither box, outline nor mask (left out)": lambda i: not i.polygons and i.box_xyxy is None and not i.mask,
    "boxes beside outlines (the outlines are written)": lambda i: i.box_xyxy is not None and bool(i.polygons or i.mask),
    "boxes (written as outlines of four corners)": lambda i: i.box_xyxy is not None and not i.polygons and not i.mask,
    "holes (cut into the outline, and read as a part of it)": lambda i: bool(i.holes),
    "outlines of several parts (joined to one)": lambda i: len(i.polygons) > 1,
    "masks (written as outlines)": lambda i: bool(i.mask),
    "lines": lambda i: bool(i.lines),
}


def _count_cut(placed: Sequence[tuple[Instance, tuple[int, int]]], outlines: bool) -> dict[str, int]:
    """How many boxes, keypoints and outlines are changed as they reach beyond their picture, of a given size each.

    Examples
    --------
    >>> wide = Instance("car", polygons=(np.array([[0.0, 0], [9, 0], [9, 3]]),))
    >>> _count_cut([(wide, (4, 6))], outlines=True)
    {'outlines beyond the picture (cut to it)': 1}
    """
    if outlines:
        beyond = sum(bool(i.polygons) and not _holds_rings(i.polygons, size) for i, size in placed)
        return {"outlines beyond the picture (cut to it)": beyond}
    return {
        "no box (the tight box of the keypoints is written)": sum(
            extent_of(i) is None and tight_box(i.keypoints) is not None for i, _ in placed
        ),
        "boxes beyond the picture or flat (cut to it)": sum(
            i.box_xyxy is not None and not _holds_box(i, size) for i, size in placed
        ),
        "keypoints beyond the picture (written as missing)": sum(
            int(((i.keypoints[:, 2] > 0) & ~_is_held(i, size)).sum()) for i, size in placed
        ),
    }


def _written_ring(instance: Instance, size: tuple[int, int]) -> np.ndarray | None:
    """The one outline (N, 2) of an instance's row, in the picture; None where it has neither outline, mask nor box.

    Examples
    --------
    >>> _written_ring(Instance("car", box_xyxy=np.array([1.0, 2, 5, 4])), (4, 6)).tolist()
    [[1.0, 2.0], [5.0, 2.0], [5.0, 4.0], [1.0, 4.0]]
    >>> mask = {"size": [4, 6], "counts": [6, 2, 16]}
    >>> _written_ring(Instance("car", mask=mask), (4, 6)).tolist()
    [[1.0, 2.0], [1.0, 4.0], [2.0, 4.0], [2.0, 2.0]]
    """
    polygons, holes = list(instance.polygons), list(instance.holes)
    if instance.mask is not None:
        polygons, holes = trace_mask(mask_of_instance(instance, size))
    if not polygons and instance.box_xyxy is not None:
        x1, y1, x2, y2 = _written_box(instance, size).tolist()  # type: ignore[union-attr]
        polygons = [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])]
    if len(polygons) > 1 or holes or not _holds_rings(polygons, size):
        polygons, holes = rings_apart(polygons, holes, size)
    return join_rings(polygons, holes) if polygons else None


def _holds_rings(rings: Sequence[np.ndarray], size: tuple[int, int]) -> bool:
    """Whether reading would take rings as they are: none reaches far beyond the picture.

    Examples
    --------
    >>> triangle = np.array([[0.0, 0], [6, 0], [6, 3]])
    >>> _holds_rings([triangle], (4, 6)), _holds_rings([triangle * 2], (4, 6))
    (True, False)
    """
    shares = np.concatenate([np.zeros((1, 2)), *rings]) / np.array(size[::-1], np.float64)
    return bool(((shares >= -TOLERANCE) & (shares <= 1 + TOLERANCE)).all())


def _format_row(instance: Instance, skeletons: Mapping[str, Skeleton], size: tuple[int, int]) -> str:
    """Write one row; empty for an instance with neither box, keypoint nor polygon.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> mouse = Instance("mouse", keypoints_array([[50, 50], [0, 0]], [1, 0]), np.array([50.0, 37.5, 150, 62.5]))
    >>> _format_row(mouse, {"mouse": Skeleton(("nose", "tail"))}, (100, 200))
    '0 0.5 0.5 0.5 0.25 0.25 0.5 1 0 0 0'
    """
    box = _written_box(instance, size)
    if box is None:
        return ""
    if not len(instance.keypoints):
        instance = replace(instance, keypoints=missing_keypoints(skeletons[instance.category].num_keypoints))
    held = _is_held(instance, size)
    points = np.where(held[:, None], instance.keypoints[:, :2] / np.array(size[::-1], np.float64), 0)
    seen = np.where(held, instance.keypoints[:, 2], 0)
    numbers = [f"{x:.15g} {y:.15g} {v:.0f}" for (x, y), v in zip(points, seen, strict=True)]
    shares = [f"{share:.15g}" for share in _box_shares(box, size)]
    return " ".join([str(list(skeletons).index(instance.category)), *shares, *numbers])


def _box_shares(box_xyxy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Centre, width and height of a box (4,) as shares of a picture of `size` (height, width).

    Examples
    --------
    >>> _box_shares(np.array([50.0, 0, 150, 25]), (100, 200)).tolist()
    [0.5, 0.125, 0.5, 0.25]
    """
    low, high = box_xyxy[:2], box_xyxy[2:]
    return np.concatenate([(low + high) / 2, high - low]) / np.array([*size[::-1], *size[::-1]], np.float64)


def _written_box(instance: Instance, size: tuple[int, int]) -> np.ndarray | None:
    """The box (4,) of a row: as stated where it can be written, else in the picture and a pixel wide and high at least.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> _written_box(Instance("mouse", keypoints_array([[50, 20]], [2])), (100, 200)).tolist()
    [49.5, 19.5, 50.5, 20.5]
    """
    if _holds_box(instance, size):
        return instance.box_xyxy
    box = extent_of(instance)
    if box is None:
        box = tight_box(instance.keypoints)
    if box is None:
        return None
    limits = np.array([size[1], size[0]], np.float64)
    centre, extent = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 1)
    low, high = np.clip(centre - extent / 2, 0, limits - 1), np.clip(centre + extent / 2, 1, limits)
    return np.concatenate([low, high])


def _holds_box(instance: Instance, size: tuple[int, int]) -> bool:
    """Whether an instance has a box that reading would take back.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> flat = Instance("mouse", keypoints_array([[5, 2]], [2]), np.array([5.0, 2, 5, 9]))
    >>> _holds_box(flat, (100, 200))
    False
    """
    box = instance.box_xyxy
    if box is None:
        return False
    shares = _box_shares(box, size)
    return bool((shares[2:] > 0).all() and ((shares >= -TOLERANCE) & (shares <= 1 + TOLERANCE)).all())


def _is_held(instance: Instance, size: tuple[int, int]) -> np.ndarray:
    """Which keypoints, shape (K,), are there and near enough to the picture to be written.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> mouse = Instance("mouse", keypoints_array([[50, 50], [250, 50], [0, 0]], [1, 1, 0]))
    >>> _is_held(mouse, (100, 200)).tolist()
    [True, False, False]
    """
    shares = np.nan_to_num(instance.keypoints[:, :2], nan=-np.inf) / np.array([size[1], size[0]], np.float64)
    return ((shares >= -TOLERANCE) & (shares <= 1 + TOLERANCE)).all(axis=1)
