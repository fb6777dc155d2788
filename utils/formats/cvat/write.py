"""Writing CVAT files of version 1.1 for images, with their pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax import saxutils

import numpy as np

from utils.formats.drawn_labels import decode_mask
from utils.formats.mask_outlines import draw_outlines
from utils.formats.pictures import new_names
from utils.formats.predictions import score_name
from utils.formats.sets import list_lost, place_pictures, shared_skeletons
from utils.formats.types import (
    MISSING,
    OCCLUDED,
    AnnotatedPicture,
    AnnotationSet,
    Instance,
    Skeleton,
    encode_mask,
    infer_flip_idx,
)
from utils.formats.voc.write import escape
from utils.media.picture_sizes import picture_size
from utils.runtime.files import write_bytes

SUBSETS = {"train": "Train", "val": "Validation", "test": "Test", "all": "default"}  # as CVAT calls them


def write_cvat(sets: Mapping[str, AnnotationSet], folder: str | Path) -> list[Path]:
    """Write a CVAT data set: annotations.xml as of a project, whose images say their subset, and images/<subset>/.

    An instance becomes a polygon for each of its parts, else a mask or a box, a polyline for each of its lines, and a
    skeleton with its box; several of these are joined by a group_id: its own where no other instance has it. An outline
    with holes becomes the mask of the pixels whose centres it covers. Keypoints without a place are outside. Pictures
    are given a second name (a hard link) where the system allows it, else copied.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        The XML file.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> cow = Instance("cow", box_xyxy=np.array([0.0, 1, 4.5, 3]), z_order=2, tags={"occluded": True, "age": 3})
    >>> picture = AnnotatedPicture("a", folder / "a.png", (4, 6), (cow,))
    >>> [path] = write_cvat({"val": AnnotationSet([picture], {"cow": Skeleton(())})}, folder / "new")
    >>> path.relative_to(folder).as_posix(), (folder / "new" / "images" / "Validation" / "a.png").read_bytes()
    ('new/annotations.xml', b'pixels')
    >>> print(path.read_text().partition("</meta>")[2].strip())
    <image id="0" name="a.png" subset="Validation" width="6" height="4">
    <box label="cow" source="manual" occluded="1" xtl="0.0" ytl="1.0" xbr="4.5" ybr="3.0" z_order="2">\
<attribute name="age">3</attribute></box>
    </image>
    </annotations>
    """
    folder, skeletons = Path(folder), shared_skeletons(sets)
    names = {split: new_names(part.pictures) for split, part in sets.items()}
    tops = {split: folder / "images" / SUBSETS[split] for split in sets}
    images = {split: [tops[split] / name for name in names[split]] for split in sets}
    place_pictures(folder, sets, images, tops=tops.values())
    number, path = 0, folder / "annotations.xml"
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    lines += _meta(sets, skeletons)
    for split, part in sets.items():
        for picture, name in zip(part.pictures, names[split], strict=True):
            lines += _image(picture, number, name, SUBSETS[split], skeletons)
            number += 1
    write_bytes(path, "\n".join([*lines, "</annotations>", ""]).encode())
    return [path]


def _keys(**values: Any) -> str:
    r"""Attributes of an element; those that are None are left out.

    Examples
    --------
    >>> _keys(label='a"<b', group_id=None, left=2)
    ' label=\'a"&lt;b\' left="2"'
    """
    shown = {key: escape(str(value)) for key, value in values.items() if value is not None}
    return "".join(f" {key}={saxutils.quoteattr(saxutils.unescape(value))}" for key, value in shown.items())


def _meta(sets: Mapping[str, AnnotationSet], skeletons: Mapping[str, Skeleton]) -> Iterator[str]:
    """The head of the file: the labels with the kinds of their attributes.

    Examples
    --------
    >>> print(*_meta({}, {"fox": Skeleton(("nose",))}), sep="")
    <meta><project><name>labels</name><labels><label><name>fox</name><type>skeleton</type><attributes></attributes>\
<svg>&lt;circle data-type="element node" data-element-id="1" data-node-id="1" data-label-name="nose" r="1.5" cx="50.0" \
cy="10.0"/&gt;</svg></label><label><name>nose</name><type>points</type><attributes></attributes><parent>fox</parent>\
</label></labels></project></meta>
    """
    kinds: dict[str, dict[str, str]] = {}
    for part in sets.values():
        for instance in (instance for picture in part.pictures for instance in picture.instances):
            for name, value in instance.tags.items():
                known = kinds.setdefault(instance.category, {})
                kind = _kind_of(value)
                known[name] = kind if known.get(name, kind) == kind else "text"
    yield "<meta><project><name>labels</name><labels>"
    for name, skeleton in skeletons.items():
        kind = "skeleton" if skeleton.num_keypoints else "any"
        rows = (_attribute_kind(key, value) for key, value in kinds.get(name, {}).items())
        drawing = f"<svg>{escape(_draw(skeleton))}</svg>" if skeleton.num_keypoints else ""
        head = f"<name>{escape(name)}</name><type>{kind}</type><attributes>{''.join(rows)}</attributes>"
        yield f"<label>{head}{drawing}</label>"
        for joint in skeleton.names:
            parent = f"<parent>{escape(name)}</parent>"
            yield f"<label><name>{escape(joint)}</name><type>points</type><attributes></attributes>{parent}</label>"
    tags = {str(name) for part in sets.values() for picture in part.pictures for name in picture.tags}
    for name in sorted(tags - skeletons.keys()):
        yield f"<label><name>{escape(name)}</name><type>tag</type><attributes></attributes></label>"
    yield "</labels></project></meta>"


def _kind_of(value: Any) -> str:
    """How CVAT asks for a value.

    Examples
    --------
    >>> _kind_of(True), _kind_of(2.5), _kind_of("old")
    ('checkbox', 'number', 'text')
    """
    return "checkbox" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "text"


def _attribute_kind(name: str, kind: str) -> str:
    """The head's entry of an attribute.

    Examples
    --------
    >>> _attribute_kind("age", "number")
    '<attribute><name>age</name><mutable>False</mutable><input_type>number</input_type></attribute>'
    """
    return f"<attribute><name>{escape(name)}</name><mutable>False</mutable><input_type>{kind}</input_type></attribute>"


def _draw(skeleton: Skeleton) -> str:
    """The drawing of a skeleton, from which CVAT makes its points and edges: here on a circle.

    Examples
    --------
    >>> _draw(Skeleton(("a", "b"), None, ((0, 1),)))[-60:]
    '<line data-type="edge" data-node-from="1" data-node-to="2"/>'
    """
    steps = [2 * math.pi * k / skeleton.num_keypoints for k in range(skeleton.num_keypoints)]
    nodes = [
        '<circle data-type="element node"'
        + _keys(**{"data-element-id": k, "data-node-id": k, "data-label-name": name, "r": "1.5"})
        + f' cx="{50 + 40 * math.sin(step):.1f}" cy="{50 - 40 * math.cos(step):.1f}"/>'
        for k, (name, step) in enumerate(zip(skeleton.names, steps, strict=True), start=1)
    ]
    lines = [f'<line data-type="edge" data-node-from="{a + 1}" data-node-to="{b + 1}"/>' for a, b in skeleton.edges]
    return "".join([*nodes, *lines])


def _image(
    picture: AnnotatedPicture, number: int, name: str, subset: str, skeletons: Mapping[str, Skeleton]
) -> Iterator[str]:
    """The element of a picture.

    Examples
    --------
    >>> print(*_image(AnnotatedPicture("a", Path("a.png"), (4, 6), (), {}, {"day": True}), 3, "a.png", "Test", {}))
    <image id="3" name="a.png" subset="Test" width="6" height="4"> <tag label="day" source="manual"></tag> </image>
    """
    height, width = picture.size or picture_size(picture.path)
    yield f"<image{_keys(id=number, name=name, subset=subset, width=width, height=height)}>"
    lowest = min((instance.z_order for instance in picture.instances if not instance.is_crowd), default=1)
    for instance, group in zip(picture.instances, _choose_groups(picture), strict=True):
        if instance.is_crowd:  # under all others, as crowds are drawn; CVAT has none
            instance = replace(instance, z_order=min(instance.z_order, lowest - 1))
        yield from _shapes(instance, (height, width), skeletons[instance.category], group)
    for tag, value in picture.tags.items():
        if value is not False:
            facts = _attributes(value) if isinstance(value, dict) else ""
            yield f"<tag{_keys(label=tag, source='manual')}>{facts}</tag>"
    yield "</image>"


def _choose_groups(picture: AnnotatedPicture) -> list[int | None]:
    """A group_id for each instance: its own where no other has it, else one that is free if it has several shapes.

    Examples
    --------
    >>> part = np.zeros((3, 2))
    >>> stated = (2, 1), (1, 3), (1, 3), (2, None)
    >>> cows = tuple(Instance("cow", polygons=(part,) * count, group=group) for count, group in stated)
    >>> _choose_groups(AnnotatedPicture("a", Path("a.png"), (4, 6), cows))
    [1, None, None, 4]
    """
    stated = [instance.group for instance in picture.instances]
    own = _single(stated)
    free = max([0, *(group for group in stated if group is not None)])
    groups: list[int | None] = []
    for instance, group in zip(picture.instances, own, strict=True):
        if group is None and _count_shapes(instance) > 1:
            free += 1
            group = free
        groups.append(group)
    return groups


def _single(stated: Sequence[int | None]) -> list[int | None]:
    """The groups that one instance alone has; None for others.

    Examples
    --------
    >>> _single([3, 4, 3, None, 0])
    [None, 4, None, None, None]
    """
    counts: dict[int | None, int] = {}
    for group in stated:
        counts[group] = counts.get(group, 0) + 1
    return [group if group and group > 0 and counts[group] == 1 else None for group in stated]


def _count_shapes(instance: Instance) -> int:
    """How many shapes an instance becomes.

    Examples
    --------
    >>> _count_shapes(Instance("fox", np.array([[1.0, 2, 2]]), np.array([0.0, 0, 4, 4])))
    2
    """
    polygons = 1 if instance.holes else len(instance.polygons)
    area = (polygons or int(instance.mask is not None)) + int(_has_box(instance))
    return area + len(instance.lines) + int((instance.keypoints[:, 2] > MISSING).any())


def _has_box(instance: Instance) -> bool:
    """Whether the box of an instance is written: where it has no outline, and where it has keypoints, whose size it is.

    Examples
    --------
    >>> ring, box = np.zeros((3, 2)), np.zeros(4)
    >>> [_has_box(Instance("cow", np.ones((joints, 3)), box, (ring,))) for joints in (0, 1)]
    [False, True]
    """
    outlined = bool(instance.polygons) or instance.mask is not None
    return instance.box_xyxy is not None and (not outlined or bool((instance.keypoints[:, 2] > MISSING).any()))


def _shapes(instance: Instance, size: tuple[int, int], skeleton: Skeleton, group: int | None) -> Iterator[str]:
    """The elements of an instance; the first one has its attributes.

    Examples
    --------
    >>> mask = {"size": [2, 3], "counts": [2, 3, 1]}
    >>> print(*_shapes(Instance("cow", mask=mask), (2, 3), Skeleton(()), None))
    <mask label="cow" source="manual" occluded="0" rle="0, 3, 1" left="1" top="0" width="2" height="2" z_order="0">\
</mask>
    """
    facts = _attributes({name: value for name, value in instance.tags.items() if (name, value) != ("occluded", True)})
    head = {"label": instance.category, "source": "manual"}
    occluded = int(instance.tags.get("occluded") is True)
    tail = {"z_order": instance.z_order, "group_id": group}
    drawn = encode_mask(draw_outlines(instance.polygons, instance.holes, size)) if instance.holes else None
    mask = instance.mask if drawn is None else drawn
    shapes: list[tuple[str, dict[str, Any]]] = []
    if instance.polygons and not instance.holes:
        shapes += [("polygon", {"points": _list_points(ring)}) for ring in instance.polygons]
    elif mask is not None:
        shapes += [("mask", keys) for keys in [_mask_keys(mask)] if keys]
    if instance.box_xyxy is not None and _has_box(instance):
        corners = zip(("xtl", "ytl", "xbr", "ybr"), map(float, instance.box_xyxy), strict=True)
        shapes.append(("box", dict(corners)))
    shapes += [("polyline", {"points": _list_points(line)}) for line in instance.lines]
    for kind, keys in shapes:
        yield f"<{kind}{_keys(**head, occluded=occluded, **keys, **tail)}>{facts}</{kind}>"
        facts = ""
    if (instance.keypoints[:, 2] > MISSING).any():
        yield f"<skeleton{_keys(**head, **tail)}>{_joints(instance, skeleton)}{facts}</skeleton>"


def _joints(instance: Instance, skeleton: Skeleton) -> str:
    """The points of a skeleton; those that are missing lie in the middle of the others, outside.

    Examples
    --------
    >>> fox = Instance("fox", np.array([[1.0, 2, 1], [np.nan, np.nan, 0]]))
    >>> print(_joints(fox, Skeleton(("nose", "tail"))))
    <points label="nose" source="manual" outside="0" occluded="1" points="1.0,2.0"></points>\
<points label="tail" source="manual" outside="1" occluded="0" points="1.0,2.0"></points>
    """
    middle = np.nanmean(instance.keypoints[:, :2], axis=0)
    rows = []
    for name, (x, y, seen) in zip(skeleton.names, instance.keypoints, strict=True):
        place = middle if seen == MISSING else np.array([x, y])
        flags = {"outside": int(seen == MISSING), "occluded": int(seen == OCCLUDED)}
        rows.append(f"<points{_keys(label=name, source='manual', **flags, points=_list_points(place[None]))}></points>")
    return "".join(rows)


def _list_points(points: np.ndarray) -> str:
    """Points (N, 2) as CVAT lists them, each number as exact as it is.

    Examples
    --------
    >>> _list_points(np.array([[1.25, 2], [3, 4]]))
    '1.25,2.0;3.0,4.0'
    """
    return ";".join(f"{x!r},{y!r}" for x, y in points.tolist())


def _mask_keys(mask: Mapping[str, Any]) -> dict[str, Any]:
    """A mask as CVAT has it: run lengths row by row in the box around it; empty where it covers nothing.

    Examples
    --------
    >>> _mask_keys({"size": [2, 3], "counts": [2, 3, 1]})
    {'rle': '0, 3, 1', 'left': 1, 'top': 0, 'width': 2, 'height': 2}
    """
    found = decode_mask(mask)
    if found is None:
        return {}
    place, crop = found
    flat = crop.ravel()
    turns = [*([0] if flat[0] else []), *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    counts = np.diff([0, *turns]).tolist()
    sides = {"left": place.x, "top": place.y, "width": place.width, "height": place.height}
    return {"rle": ", ".join(map(str, counts)), **sides}


def _attributes(tags: Mapping[str, Any]) -> str:
    """Attributes of a shape or tag; true and false as CVAT's checkboxes have them.

    Examples
    --------
    >>> _attributes({"age": "<3", "hidden": False})
    '<attribute name="age">&lt;3</attribute><attribute name="hidden">false</attribute>'
    """
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in tags.items()}
    return "".join(f"<attribute{_keys(name=name)}>{escape(text)}</attribute>" for name, text in texts.items())


def unsupported(annotations: AnnotationSet) -> list[str]:
    """List what CVAT cannot hold of a set.

    Parameters
    ----------
    annotations : AnnotationSet
        What is to be written.

    Returns
    -------
    list of str
        Each with how many instances have it; empty when writing loses nothing.

    Examples
    --------
    >>> ring = np.array([[0.0, 0], [4, 0], [4, 3]])
    >>> cows = Instance("cow", polygons=(ring,), box_xyxy=np.array([0.0, 0, 4, 3])), Instance("cow", is_crowd=True)
    >>> print(*unsupported(AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), cows)], {})), sep="; ")
    neither area, line nor keypoint (left out): 1 of 2 instances; boxes beside outlines (left out): 1 of 2 instances; \
is_crowd: 1 of 2 instances
    """
    shared = {
        id(instance)
        for picture in annotations.pictures
        for instance, group in zip(picture.instances, _single([i.group for i in picture.instances]), strict=True)
        if instance.group is not None and group is None
    }
    tests = {
        "neither area, line nor keypoint (left out)": lambda i: not _count_shapes(i),
        "outlines with holes (written as masks of whole pixels)": lambda i: bool(i.holes),
        "boxes beside outlines (left out)": lambda i: i.box_xyxy is not None and not _has_box(i),
        "masks beside polygons (left out)": lambda i: i.mask is not None and bool(i.polygons),
        "groups that others have too, or below 1 (left out)": lambda i: id(i) in shared,
        "tags that are scores (read as such)": lambda i: score_name(i.tags) is not None,
        "tags that are neither text, number nor flag (written as text)": lambda i: any(
            not isinstance(value, str | int | float) for value in i.tags.values()
        ),
    }
    kept = ("boxes", "polygons", "holes", "lines", "masks", "keypoints", "group", "z_order", "tags")
    flags = {name for picture in annotations.pictures for name, value in picture.tags.items() if value is not True}
    plain = all(
        isinstance(picture.tags[n], dict) for picture in annotations.pictures for n in flags & picture.tags.keys()
    )
    turned = [
        f"mirrored keypoints of {name!r}, which their names do not tell"
        for name, skeleton in annotations.skeletons.items()
        if skeleton.flip_idx != infer_flip_idx(skeleton.names)
    ]
    return [*turned, *list_lost(annotations, kept, tests, ("tags",) if plain else ())]
