"""Writing LabelMe files, each beside its picture."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.formats import specs
from utils.formats.extents import extent_of
from utils.formats.labelme.instances import outline_print
from utils.formats.mask_outlines import mask_of_instance
from utils.formats.pictures import new_names
from utils.formats.run_lengths import box_of_mask, decode_runs
from utils.formats.sets import (
    FACTS,
    HAS_FIELD,
    Z_ORDER_LOST,
    in_drawing_order,
    list_lost,
    place_pictures,
    shared_skeletons,
    to_json,
)
from utils.formats.types import (
    OCCLUDED,
    AnnotatedPicture,
    AnnotationSet,
    Instance,
    encode_mask,
)
from utils.media.picture_sizes import picture_size
from utils.runtime.files import write_bytes

_OWN_FACTS = ("image_data", "found_by", "incomplete")
VERSION = "5.5.0"  # of the file layout; LabelMe warns about another major version


def write_labelme(sets: Mapping[str, AnnotationSet], folder: str | Path) -> list[Path]:
    """Write a LabelMe data set: data.yaml, and in a folder for each split every picture with its JSON file beside it.

    An instance becomes its polygons and its mask, else a rectangle, its lines, labelled with the category, and a point
    for each keypoint that is not missing, joined by a group_id: the instance's own (COCO's annotation id) where the
    picture has it once. An outline with holes is written as a mask. What such shapes cannot show (area, crowd, track,
    scores, a box besides an outline) stands under the key "dinolith" of the first shape, and what is known of the
    picture under that key of the file; LabelMe keeps both. Objects stand in the order of their `z_order`. Pictures are
    given a second name (a hard link) where the system allows it, else copied.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        The specification first, then the JSON files.

    Examples
    --------
    >>> import json, tempfile
    >>> from utils.formats.types import Skeleton, keypoints_array
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> mouse = Instance("mouse", keypoints_array([[1, 2]], [1]), group=12)
    >>> picture = AnnotatedPicture("a", folder / "a.png", (4, 6), (mouse,))
    >>> sets = {"all": AnnotationSet([picture], {"mouse": Skeleton(("nose",))})}
    >>> written = write_labelme(sets, folder / "new")
    >>> [path.relative_to(folder).as_posix() for path in written]
    ['new/data.yaml', 'new/all/a.json']
    >>> keys = json.loads(written[1].read_text())
    >>> keys["imagePath"], [(shape["label"], shape["group_id"], shape["flags"]) for shape in keys["shapes"]]
    ('a.png', [('nose', 12, {'kp_visible': False})])
    """
    folder, skeletons = Path(folder), shared_skeletons(sets)
    images = {split: [folder / split / name for name in new_names(part.pictures)] for split, part in sets.items()}
    labels = [image.with_suffix(".json") for part in images.values() for image in part]
    place_pictures(folder, sets, images, labels, [folder / split for split in sets])
    for split, part in sets.items():
        for picture, image in zip(part.pictures, images[split], strict=True):
            write_bytes(image.with_suffix(".json"), to_json(_file_keys(picture, image.name, skeletons), indent=2))
    keys = {"format": "labelme", "path": ".", **{split: split for split in sets}, **specs.spec_keys(skeletons)}
    return [specs.write_spec(folder / "data.yaml", keys), *labels]


def _file_keys(picture: AnnotatedPicture, name: str, skeletons: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a LabelMe file.

    Examples
    --------
    >>> _file_keys(AnnotatedPicture("a", Path("a.png"), (4, 6), ()), "a.png", {})["imageHeight"]
    4
    """
    height, width = size = picture.size or picture_size(picture.path)
    picture = replace(picture, instances=in_drawing_order(picture))
    groups = _choose_groups(picture)
    facts = {key: value for key, value in picture.extra.items() if key not in _OWN_FACTS}
    return {
        "version": VERSION,
        "flags": picture.tags,
        **({FACTS: facts} if facts else {}),
        "shapes": [
            shape
            for instance, group in zip(picture.instances, groups, strict=True)
            for shape in _shapes(instance, skeletons[instance.category].names, group, size)
        ],
        "imagePath": name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _choose_groups(picture: AnnotatedPicture) -> list[int]:
    """A group_id for each instance: its own where no other has it, else the next free one.

    Examples
    --------
    >>> from utils.formats.types import missing_keypoints
    >>> animals = tuple(Instance("mouse", missing_keypoints(1), group=group) for group in (1, None, 1, 5))
    >>> _choose_groups(AnnotatedPicture("a", Path("a.png"), (4, 6), animals))
    [1, 0, 2, 5]
    """
    taken = {instance.group for instance in picture.instances}
    given: set[int | None] = set()
    groups: list[int] = []
    for instance in picture.instances:
        group = instance.group
        if group is None or group in given:
            group = next(number for number in range(2 * len(groups) + 2 + len(taken)) if number not in taken)
            taken.add(group)
        given.add(group)
        groups.append(group)
    return groups


def _shapes(instance: Instance, names: tuple[str, ...], group: int, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Shapes of an instance in a picture of `size`; the first one carries its tags as flags, and what no shape shows.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> mouse = Instance("mouse", keypoints_array([[1, 2], [0, 0]], [2, 0]), np.array([0.0, 1, 4, 5]), area=9.0)
    >>> [(shape["shape_type"], shape["points"]) for shape in _shapes(mouse, ("nose", "tail"), 3, (4, 6))]
    [('rectangle', [[0.0, 1.0], [4.0, 5.0]]), ('point', [[1.0, 2.0]])]
    """
    if instance.holes:
        mask = encode_mask(mask_of_instance(instance, size))
        instance = replace(instance, polygons=(), holes=(), mask=mask)
    shapes = [_shape(instance.category, "polygon", polygon, group) for polygon in instance.polygons]
    shapes += _mask_shapes(instance, group)
    if not shapes and instance.box_xyxy is not None:
        shapes.append(_shape(instance.category, "rectangle", instance.box_xyxy.reshape(2, 2), group))
    for line in instance.lines:
        shapes.append(_shape(instance.category, "line" if len(line) == 2 else "linestrip", line, group))
    for k in np.flatnonzero(instance.keypoints[:, 2] > 0):
        shape = _shape(names[k], "point", instance.keypoints[k : k + 1, :2], group)
        shape["flags"] = {"kp_visible": bool(instance.keypoints[k, 2] != OCCLUDED)}
        if instance.keypoint_scores is not None and np.isfinite(instance.keypoint_scores[k]):
            shape["score"] = float(instance.keypoint_scores[k])
        shapes.append(shape)
    facts = _facts(instance, group)
    if shapes:
        shapes[0]["flags"] |= instance.tags
        shapes[0] |= {FACTS: facts} if facts else {}
    yield from shapes


def _mask_shapes(instance: Instance, group: int) -> list[dict[str, Any]]:
    """The mask shape of an instance, whose corners are its first and its last pixel; none where it covers nothing.

    Examples
    --------
    >>> mask = {"size": [4, 6], "counts": [6, 2, 2, 2, 2, 2, 8]}
    >>> [shape["points"] for shape in _mask_shapes(Instance("mouse", mask=mask), 3)]
    [[[1.0, 2.0], [3.0, 3.0]]]
    """
    box = None if instance.mask is None else box_of_mask(instance.mask)
    if instance.mask is None or box is None:
        return []
    left, top, right, bottom = box.astype(int).tolist()
    pixels = decode_runs(instance.mask)[top:bottom, left:right].astype(np.uint8)
    shape = _shape(instance.category, "mask", box.reshape(2, 2) - [[0, 0], [1, 1]], group)
    return [shape | {"mask": base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()}]


def _shape(label: str, kind: str, points: np.ndarray, group: int) -> dict[str, Any]:
    """One shape as LabelMe writes it.

    Examples
    --------
    >>> _shape("nose", "point", np.array([[1.0, 2.0]]), 3)["points"]
    [[1.0, 2.0]]
    """
    return {
        "label": label,
        "points": points.tolist(),
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }


def _facts(instance: Instance, group: int) -> dict[str, Any]:
    """What the shapes of an instance do not show.

    Examples
    --------
    >>> from utils.formats.types import missing_keypoints
    >>> _facts(Instance("mouse", missing_keypoints(1), np.array([0.0, 1, 4, 5]), area=9.0), 0)
    {'area': 9.0, 'group': None, 'outline': [0.0, 1.0, 4.0, 5.0, 0.0]}
    """
    facts: dict[str, Any] = {}
    has_area = bool(instance.polygons) or (instance.mask is not None and box_of_mask(instance.mask) is not None)
    if not has_area and not instance.lines and instance.box_xyxy is None:
        facts["category"] = instance.category
    if has_area and instance.box_xyxy is not None:
        facts["box_xyxy"] = instance.box_xyxy.tolist()
    stated = {
        "area": instance.area,
        "score": instance.score,
        "track": instance.track_id,
        "mask": None if has_area else instance.mask,  # one that covers nothing
        "is_crowd": instance.is_crowd or None,
        "extra": instance.extra or None,
    }
    facts |= {key: value for key, value in stated.items() if value is not None}
    if instance.keypoint_scores is not None:
        facts["keypoint_scores"] = [
            score if np.isfinite(score) else None for score in instance.keypoint_scores.tolist()
        ]
    if instance.group != group:
        facts["group"] = instance.group
    if "area" in facts or "box_xyxy" in facts:
        facts["outline"] = outline_print(instance)
    return facts


def unsupported(annotations: AnnotationSet) -> list[str]:
    """List what LabelMe cannot hold of a set.

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
    >>> from utils.formats.types import missing_keypoints
    >>> nothing = Instance("mouse", missing_keypoints(1))
    >>> unsupported(AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), (nothing,))], {}))
    ['neither box, outline, line, mask nor keypoint (left out): 1 of 1 instances']
    """
    tests: dict[str, Callable[[Instance], bool]] = {
        "neither box, outline, line, mask nor keypoint (left out)": lambda i: (
            extent_of(i) is None and not (i.keypoints[:, 2] > 0).any()
        ),
        "outlines with holes (written as masks)": lambda i: bool(i.holes),
        Z_ORDER_LOST: lambda i: i.z_order != 0,
    }
    kept = {key for picture in annotations.pictures for key in picture.extra} - {"incomplete"}
    return list_lost(annotations, HAS_FIELD, tests, kept | {"tags"})
