"""Shapes of one picture of a CVAT file, joined to objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from utils.formats.cvat.labels import Labels, type_tags
from utils.formats.cvat.shapes import SHAPES, Shape, parse_shape
from utils.formats.elements import Element
from utils.formats.mask_outlines import draw_outlines
from utils.formats.run_lengths import decode_runs
from utils.formats.types import Instance, Skeleton, encode_mask, keypoints_array, missing_keypoints

Fault = tuple[int, str]  # line and what is wrong


def read_shapes(
    elements: Iterable[Element], size: tuple[int, int], labels: Labels, faults: list[Fault], label: str | None = None
) -> list[Shape]:
    """The shapes of a picture; one that cannot be used is left out.

    Parameters
    ----------
    elements : iterable of Element
        What stands in `image` or `track`; tags of the picture are passed over.
    size : (int, int)
        Height and width of the picture.
    labels : Labels
        Of the file.
    faults : list of (int, str)
        Gets the lines of those that are left out, and why.
    label : str, optional
        Of the track.

    Examples
    --------
    >>> from utils.formats.elements import parse_xml
    >>> shapes = '<box label="cow" xtl="1" ytl="2" xbr="3" ybr="4"/><points label="eye" points="1,2"/>'
    >>> image = parse_xml(f"<image>{shapes}</image>")
    >>> faults = []
    >>> [shape.kind for shape in read_shapes(image.children, (6, 8), Labels(), faults)], faults[0][1][:40]
    (['box'], 'points outside of a skeleton have no nam')
    """
    found = []
    for element in elements:
        if element.name in ("tag", "attribute"):
            continue
        try:
            if element.name not in SHAPES:
                raise ValueError(f"{element.name[:60]!r} is no shape that is known: {', '.join(SHAPES)}")
            name = element.attributes.get("label", "") if label is None else label
            shape = parse_shape(element, size, label, labels.defaults.get(name.strip()))
            if shape.kind == "points":
                raise ValueError("points outside of a skeleton have no name as keypoints, and no area; draw a skeleton")
            if labels.declared and shape.label not in labels.skeletons:
                raise ValueError(f"{shape.label!r} is no label of the file; known: {', '.join(labels.skeletons)}")
            _check_joints(shape, labels.skeletons)
        except ValueError as error:
            faults.append((element.line, str(error)))
        else:
            found.append(shape)
    return found


def _check_joints(shape: Shape, skeletons: Mapping[str, Skeleton]) -> None:
    """Refuse a skeleton whose points its label does not have.

    Raises
    ------
    ValueError
        With the first of them.

    Examples
    --------
    >>> _check_joints(Shape("fox", "skeleton", 1, joints={"ear": (1.0, 2.0, 2)}), {"fox": Skeleton(("nose",))})
    Traceback (most recent call last):
        ...
    ValueError: 'ear' is no point of the skeleton 'fox'; known: nose
    """
    if shape.kind != "skeleton":
        return
    names = skeletons[shape.label].names if shape.label in skeletons else ()
    for joint in shape.joints:
        if joint not in names:
            known = ", ".join(names) or "none, as the head of the file does not declare them"
            raise ValueError(f"{joint!r} is no point of the skeleton {shape.label!r}; known: {known}")


def join_shapes(
    shapes: Sequence[Shape], size: tuple[int, int], labels: Labels, track_id: int | None = None
) -> tuple[Instance, ...]:
    """Objects of a picture: of one label, group and z_order the parts of an outline, a box and a skeleton are one.

    A group with several boxes or skeletons is one of objects, which stay apart. Where a group has a mask, its polygons
    become part of that.

    Parameters
    ----------
    shapes : sequence of Shape
        In the order of the file.
    size : (int, int)
        Height and width of the picture.
    labels : Labels
        Of the file.
    track_id : int, optional
        Of the track that they belong to.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    >>> parts = [Shape("cow", "polygon", n, square + 4 * n, group=3) for n in range(2)]
    >>> box = Shape("cow", "box", 7, np.array([[0.0, 0], [6, 6]]), group=5)
    >>> [(len(each.polygons), each.group) for each in join_shapes([parts[0], box, parts[1], box], (9, 9), Labels())]
    [(2, 3), (0, 5), (0, 5)]
    """
    groups: dict[tuple, list[Shape]] = {}
    for index, shape in enumerate(shapes):
        alone = (-index,) if shape.group == 0 else ()
        groups.setdefault((shape.label, shape.group, shape.z_order, *alone), []).append(shape)
    apart = {
        key
        for key, parts in groups.items()
        if max(sum(part.kind == kind for part in parts) for kind in ("box", "skeleton")) > 1
    }
    objects: dict[tuple, list[Shape]] = {}
    for index, shape in enumerate(shapes):
        key = (shape.label, shape.group, shape.z_order, *((-index,) if shape.group == 0 else ()))
        objects.setdefault((*key, "apart", index) if key in apart else key, []).append(shape)
    return tuple(_build(parts, size, labels, track_id) for parts in objects.values())


def _build(parts: Sequence[Shape], size: tuple[int, int], labels: Labels, track_id: int | None) -> Instance:
    """One object out of its shapes.

    Examples
    --------
    >>> nose = Shape("fox", "skeleton", 1, joints={"nose": (1.0, 2.0, 1)}, group=4, tags={"age": "old"})
    >>> box = Shape("fox", "box", 2, np.array([[3.0, 1], [0, 5]]), group=4)
    >>> fox = _build([nose, box], (6, 8), Labels({"fox": Skeleton(("nose", "tail"))}), None)
    >>> fox.keypoints.tolist(), fox.box_xyxy.tolist(), fox.group, fox.tags
    ([[1.0, 2.0, 1.0], [nan, nan, 0.0]], [0.0, 1.0, 3.0, 5.0], 4, {'age': 'old'})
    """
    first, by_kind = parts[0], dict[str, list[Shape]]()
    for part in parts:
        by_kind.setdefault(part.kind, []).append(part)
    polygons = tuple(part.points for part in by_kind.get("polygon", ()))
    masks = [part.mask for part in by_kind.get("mask", ()) if part.mask is not None]
    if len(masks) > 1 or (masks and polygons):
        covered = [draw_outlines(polygons, (), size), *(decode_runs(mask) for mask in masks)]
        masks, polygons = [encode_mask(np.logical_or.reduce(covered))], ()
    corners = [np.sort(part.points, axis=0).ravel() for part in by_kind.get("box", ())]
    scores = [part.score for part in parts if part.score is not None]
    tags: dict[str, Any] = {}
    for part in parts:
        tags |= type_tags(part.tags, labels.kinds.get(first.label, {}))
    return Instance(
        category=first.label,
        keypoints=_keypoints(by_kind.get("skeleton", ()), labels.skeletons.get(first.label, Skeleton(()))),
        box_xyxy=corners[0] if corners else None,
        polygons=polygons,
        lines=tuple(part.points for part in by_kind.get("polyline", ())),
        mask=masks[0] if masks else None,
        group=first.group or None,
        score=min(scores) if scores else None,
        track_id=track_id,
        z_order=first.z_order,
        tags=tags,
    )


def _keypoints(parts: Sequence[Shape], skeleton: Skeleton) -> np.ndarray:
    """Keypoints (K, 3) of an object with one skeleton or none.

    Examples
    --------
    >>> _keypoints([Shape("fox", "skeleton", 1, joints={"tail": (3.0, 4.0, 2)})], Skeleton(("nose", "tail"))).tolist()
    [[nan, nan, 0.0], [3.0, 4.0, 2.0]]
    """
    if not parts or not skeleton.names:
        return missing_keypoints(skeleton.num_keypoints)
    rows = np.array([parts[0].joints.get(name, (0.0, 0.0, 0)) for name in skeleton.names])
    return keypoints_array(rows[:, :2], rows[:, 2])
