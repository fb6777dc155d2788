"""Writing data sets that FiftyOne imports as FiftyOneDataset, with their pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from utils.formats.extents import extent_of
from utils.formats.fiftyone.fields import CLASSES
from utils.formats.fiftyone.labels import FACTS as LABEL_FACTS
from utils.formats.fiftyone.labels import nest_rings
from utils.formats.fiftyone.read import METADATA, SAMPLES
from utils.formats.fiftyone.values import write_array
from utils.formats.mask_outlines import outline_parts
from utils.formats.pictures import new_names
from utils.formats.predictions import score_name
from utils.formats.run_lengths import box_of_mask, decode_runs
from utils.formats.sets import FACTS, list_lost, place_pictures, shared_skeletons, to_json
from utils.formats.specs import SPLIT_WORDS
from utils.formats.types import MISSING, AnnotatedPicture, AnnotationSet, Instance, Skeleton
from utils.media.picture_sizes import picture_size
from utils.runtime.files import write_bytes

BOXES, OUTLINES, POINTS = "ground_truth", "gt_polylines", "gt_keypoints"  # names of fields
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # of an attribute or a field, as FiftyOne has them
_TAKEN = frozenset(
    {
        "_id", "_cls", "id", "tags", "attributes", "label", "bounding_box", "mask", "mask_path", "points", "closed",
        "filled", "index", "instance", "logits", "confidence", "confidences", "occluded_points", *LABEL_FACTS,
    }
)  # fmt: skip
_SAMPLE_KEYS = frozenset({"id", "filepath", "tags", "metadata", BOXES, OUTLINES, POINTS})


def write_fiftyone(sets: Mapping[str, AnnotationSet], folder: str | Path) -> list[Path]:
    """Write a data set of FiftyOne: samples.json, metadata.json, and the pictures in data/<split>/.

    Outlines and lines become polylines in the field gt_polylines, boxes and masks detections in ground_truth, keypoints
    a field gt_keypoints for each kind of skeleton. Where there are several fields, all labels get an index, the same
    for those of one object. The split is a tag of the sample. Without a version in it, metadata.json is read by every
    version of FiftyOne, as of an older one. Pictures are given a second name (a hard link) where the system allows it,
    else copied.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        samples.json and metadata.json.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> cow = Instance("cow", box_xyxy=np.array([0.0, 1, 3, 3]), tags={"age": 3})
    >>> picture = AnnotatedPicture("a", folder / "a.png", (4, 6), (cow,))
    >>> written = write_fiftyone({"val": AnnotationSet([picture], {"cow": Skeleton(())})}, folder / "new")
    >>> [path.name for path in written]
    ['samples.json', 'metadata.json']
    >>> sample = json.loads(written[0].read_text())["samples"][0]
    >>> sample["filepath"], sample["tags"], sample["ground_truth"]["detections"]
    ('data/val/a.png', ['val'], [{'_cls': 'Detection', 'label': 'cow', 'age': 3, 'bounding_box': [0.0, 0.25, 0.5, \
0.5]}])
    """
    folder, skeletons = Path(folder), shared_skeletons(sets)
    names = {split: new_names(part.pictures) for split, part in sets.items()}
    tops = {split: folder / "data" / split for split in sets}
    place_pictures(folder, sets, {s: [tops[s] / name for name in names[s]] for s in sets}, tops=tops.values())
    fields = name_fields(skeletons)
    instances = [i for part in sets.values() for picture in part.pictures for i in picture.instances]
    used = list(dict.fromkeys(name for instance in instances for name in _fields_of(instance, fields))) or [BOXES]
    linked = len(used) > 1 or any(len(_fields_of(instance, fields)) > 1 for instance in instances)
    samples = [
        _sample(picture, f"data/{split}/{name}", split, fields, used, linked)
        for split, part in sets.items()
        for picture, name in zip(part.pictures, names[split], strict=True)
    ]
    kinds = {
        name: {"labels": list(s.names), "flip_idx": list(s.flip_idx or range(s.num_keypoints)), "edges": s.edges}
        for name, s in skeletons.items()
    }
    shown = {fields[name]: skeletons[name] for name in fields}
    info = {
        "default_classes": list(skeletons),
        "skeletons": {name: {"labels": list(s.names), "edges": s.edges} for name, s in shown.items()},
        FACTS: {"categories": kinds},
    }
    write_bytes(folder / SAMPLES, to_json({"samples": samples}))
    write_bytes(folder / METADATA, to_json({"name": folder.name, "media_type": "image", "info": info}))
    return [folder / SAMPLES, folder / METADATA]


def name_fields(skeletons: Mapping[str, Skeleton]) -> dict[str, str]:
    """The field for the keypoints of each class that has any: one for each kind of skeleton.

    Examples
    --------
    >>> nose = Skeleton(("nose",))
    >>> name_fields({"fox": nose, "cow": Skeleton(()), "dog": nose, "fly": Skeleton(("head",))})
    {'fox': 'gt_keypoints', 'dog': 'gt_keypoints', 'fly': 'gt_keypoints_2'}
    """
    kinds = [skeleton for skeleton in dict.fromkeys(skeletons.values()) if skeleton.num_keypoints]
    names = [POINTS, *(f"{POINTS}_{number}" for number in range(2, len(kinds) + 1))]
    return {name: names[kinds.index(s)] for name, s in skeletons.items() if s.num_keypoints}


def _fields_of(instance: Instance, fields: Mapping[str, str]) -> list[str]:
    """The fields in which an instance has labels.

    Examples
    --------
    >>> _fields_of(Instance("fox", np.array([[1.0, 2, 2]]), np.zeros(4)), {"fox": "gt_keypoints"})
    ['ground_truth', 'gt_keypoints']
    """
    found = [BOXES] if _has_box(instance) else []
    found += [OUTLINES] * (bool(instance.polygons) + bool(instance.lines))
    return found + ([fields[instance.category]] if (instance.keypoints[:, 2] > MISSING).any() else [])


def _has_box(instance: Instance) -> bool:
    """Whether an instance becomes a detection: it has no outline, or its box is the size of its keypoints.

    Examples
    --------
    >>> ring, box = np.zeros((3, 2)), np.zeros(4)
    >>> [_has_box(Instance("cow", np.ones((joints, 3)), box, (ring,))) for joints in (0, 1)]
    [False, True]
    """
    if instance.polygons:
        return instance.box_xyxy is not None and bool((instance.keypoints[:, 2] > MISSING).any())
    return instance.box_xyxy is not None or instance.mask is not None


def _sample(
    picture: AnnotatedPicture,
    path: str,
    split: str,
    fields: Mapping[str, str],
    used: Sequence[str],
    linked: bool,
) -> dict[str, Any]:
    """A sample; fields without a label hold an empty list.

    Examples
    --------
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), (), {}, {"checked": True, "time": "day"})
    >>> sample = _sample(picture, "data/all/a.png", "all", {}, ["gt_polylines"], False)
    >>> sample["tags"], sample["time"], sample["gt_polylines"]
    (['checked'], {'_cls': 'Classification', 'label': 'day'}, {'_cls': 'Polylines', 'polylines': []})
    """
    height, width = picture.size or picture_size(picture.path)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in used}
    for number, instance in enumerate(picture.instances, start=1):
        for name, label in _labels(instance, fields, (height, width)):
            head = {"_cls": label.pop("_cls"), "label": instance.category}
            found[name].append(head | ({"index": number} if linked else {}) | _facts(instance) | label)
    flags = [name for name, value in picture.tags.items() if value is True and name.lower() not in SPLIT_WORDS]
    named = {name: value for name, value in picture.tags.items() if _is_class(name, value)}
    one, several = CLASSES
    return {
        "filepath": path,
        "tags": [*([] if split == "all" else [split]), *flags],
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
        **{
            name: {"_cls": one, "label": value}
            if isinstance(value, str)
            else {"_cls": several, "classifications": [{"_cls": one, "label": text} for text in value]}
            for name, value in named.items()
        },
        **{name: _listed(name, labels) for name, labels in found.items()},
    }


def _is_class(name: str, value: Any) -> bool:
    """Whether a tag of a picture can be a field with classes.

    Examples
    --------
    >>> _is_class("time", "day"), _is_class("time", ["day", "fog"]), _is_class("time of day", "day"), _is_class("a", 3)
    (True, True, False, False)
    """
    texts = isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))
    return texts and bool(value) and name not in _SAMPLE_KEYS and _NAME.fullmatch(name) is not None


def _listed(name: str, labels: list[dict[str, Any]]) -> dict[str, Any]:
    """A field with a list of labels.

    Examples
    --------
    >>> _listed("gt_keypoints_2", [])
    {'_cls': 'Keypoints', 'keypoints': []}
    """
    kind = {BOXES: "Detections", OUTLINES: "Polylines"}.get(name, "Keypoints")
    return {"_cls": kind, kind.lower(): labels}


def _labels(instance: Instance, fields: Mapping[str, str], size: tuple[int, int]) -> list[tuple[str, dict[str, Any]]]:
    """The labels of an instance, each with its field.

    Examples
    --------
    >>> road = Instance("road", lines=(np.array([[0.0, 0], [3, 2]]),))
    >>> _labels(road, {}, (4, 6))
    [('gt_polylines', {'_cls': 'Polyline', 'points': [[[0.0, 0.0], [0.5, 0.5]]], 'closed': False, 'filled': False})]
    """
    sides = np.array([size[1], size[0]], np.float64)
    found: list[tuple[str, dict[str, Any]]] = []
    if instance.polygons:
        rings = [(ring / sides).tolist() for ring in _rings(instance)]
        found.append((OUTLINES, {"_cls": "Polyline", "points": rings, "closed": True, "filled": True}))
    if _has_box(instance):
        detection = _detection(replace(instance, mask=None) if instance.polygons else instance, size)
        found += [(BOXES, {"_cls": "Detection", **detection})] if detection else []
    if instance.lines:
        lines = [(line / sides).tolist() for line in instance.lines]
        found.append((OUTLINES, {"_cls": "Polyline", "points": lines, "closed": False, "filled": False}))
    if (instance.keypoints[:, 2] > MISSING).any():
        points = instance.keypoints[:, :2] / sides
        shown = [[None if np.isnan(x) else x for x in point] for point in points.tolist()]
        missing = [[{"$numberDouble": "NaN"}] * 2 if None in point else point for point in shown]
        label = {"_cls": "Keypoint", "points": missing, "visibility": instance.keypoints[:, 2].astype(int).tolist()}
        found.append((fields[instance.category], label))
    return found


def _rings(instance: Instance) -> list[np.ndarray]:
    """The rings of an outline as FiftyOne fills them: what lies in an odd number of them.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    >>> inside = Instance("cow", polygons=(square, square / 2))  # which adds nothing
    >>> len(_rings(inside)), len(_rings(Instance("cow", polygons=(square,), holes=(square / 2 + 1,))))
    (1, 2)
    """
    rings = [*instance.polygons, *instance.holes]
    if _says_itself(instance):
        return rings
    parts = shapely.get_parts(shapely.union_all(outline_parts(instance.polygons, instance.holes)))
    edges = [edge for part in parts for edge in (part.exterior, *part.interiors)]
    return [shapely.get_coordinates(edge)[:-1] for edge in edges]


def _says_itself(instance: Instance) -> bool:
    """Whether the rings of an instance, filled by odd and even, are its area, so that they are read as they were.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    >>> [_says_itself(Instance("cow", polygons=(square, square + step))) for step in (9, 1)]
    [True, False]
    """
    rings = [*instance.polygons, *instance.holes]
    if len(rings) < 2:
        return True
    polygons, holes, has_islands = nest_rings(rings)
    same = len(polygons) == len(instance.polygons) and all(
        a is b for a, b in zip([*polygons, *holes], rings, strict=True)
    )
    if has_islands or not same:
        return False
    areas = shapely.make_valid(np.array([shapely.Polygon(ring) for ring in rings]))
    first, second = shapely.STRtree(areas).query(areas, predicate="intersects")
    count = len(polygons)
    alike = (first < second) & ((first < count) == (second < count))
    meeting = shapely.area(shapely.intersection(areas[first[alike]], areas[second[alike]]))
    return not (meeting > 0).any()


def _detection(instance: Instance, size: tuple[int, int]) -> dict[str, Any]:
    """Box and mask of an instance: the stated box where its pixels hold the mask, else the one around the mask.

    Examples
    --------
    >>> mask = {"size": [4, 8], "counts": [8, 2, 2, 2, 18]}
    >>> keys = _detection(Instance("cow", box_xyxy=np.array([1.6, 0, 4.0, 2.2]), mask=mask), (4, 8))
    >>> keys["bounding_box"], _detection(Instance("cow", mask=mask), (4, 8))["bounding_box"]
    ([0.2, 0.0, 0.3, 0.55], [0.25, 0.0, 0.25, 0.5])
    """
    around = None if instance.mask is None else box_of_mask(instance.mask)
    stated = instance.box_xyxy
    if around is None and stated is None:
        return {}
    box = around if stated is None or not _holds(stated, around, size) else stated
    assert box is not None, "one of them is there"
    left, top, right, bottom = box.tolist()
    height, width = size
    found: dict[str, Any] = {
        "bounding_box": [left / width, top / height, (right - left) / width, (bottom - top) / height]
    }
    if instance.mask is not None and around is not None:
        x1, y1, x2, y2 = np.floor(box + 0.5).astype(int).tolist()
        found["mask"] = write_array(np.ascontiguousarray(decode_runs(instance.mask)[y1:y2, x1:x2]))
    return found


def _holds(box: np.ndarray, around: np.ndarray | None, size: tuple[int, int]) -> bool:
    """Whether the pixels of a box (4,) hold the box around a mask, and lie in the picture.

    Examples
    --------
    >>> _holds(np.array([0.4, 0, 3, 3]), np.array([0.0, 0, 3, 3]), (4, 6)), _holds(np.ones(4), np.zeros(4), (4, 6))
    (True, False)
    """
    if around is None:
        return True
    x1, y1, x2, y2 = np.floor(box + 0.5).tolist()
    inside = min(x1, y1) >= 0 and x2 <= size[1] and y2 <= size[0]
    return inside and bool((np.array([x1, y1]) <= around[:2]).all() and (np.array([x2, y2]) >= around[2:]).all())


def _facts(instance: Instance) -> dict[str, Any]:
    """Attributes of each label of an instance.

    Examples
    --------
    >>> _facts(Instance("cow", is_crowd=True, z_order=2, tags={"age": 3, "a b": 1}))
    {'age': 3, 'iscrowd': 1, 'z_order': 2}
    """
    tags = {name: value for name, value in instance.tags.items() if _is_attribute(name, value)}
    stated = {
        "iscrowd": 1 if instance.is_crowd else None,
        "area": instance.area,
        "group_id": instance.group,
        "track_id": instance.track_id,
        "z_order": instance.z_order or None,
    }
    return tags | {name: value for name, value in stated.items() if value is not None}


def _is_attribute(name: str, value: Any) -> bool:
    """Whether a tag can be an attribute of a label, and is read as one.

    Examples
    --------
    >>> _is_attribute("age", 3), _is_attribute("a b", 3), _is_attribute("label", "x"), _is_attribute("age", None)
    (True, False, False, False)
    """
    plain = isinstance(value, str | int | float)
    return plain and name not in _TAKEN and _NAME.fullmatch(name) is not None and score_name([name]) is None


def unsupported(annotations: AnnotationSet) -> list[str]:
    """List what FiftyOne cannot hold of a set.

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
    >>> cow = Instance("cow", polygons=(ring,), box_xyxy=np.array([0.0, 0, 4, 3]), tags={"a b": 1})
    >>> print(*unsupported(AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), (cow,))], {})), sep="; ")
    boxes beside outlines (left out): 1 of 1 instances; tags whose names or values are none of FiftyOne's (left out): \
1 of 1 instances
    """
    sizes = {
        id(i): p.size or picture_size(p.path)
        for p in annotations.pictures
        for i in p.instances
        if i.mask and i.box_xyxy is not None
    }

    def is_moved(instance: Instance) -> bool:
        around = None if instance.mask is None else box_of_mask(instance.mask)
        return id(instance) in sizes and not _holds(instance.box_xyxy, around, sizes[id(instance)])  # type: ignore[arg-type]

    tests = {
        "neither area, line nor keypoint (left out)": lambda i: (
            extent_of(i) is None and not (i.keypoints[:, 2] > MISSING).any()
        ),
        "boxes beside outlines (left out)": lambda i: i.box_xyxy is not None and not _has_box(i),
        "masks beside polygons (left out)": lambda i: i.mask is not None and bool(i.polygons),
        "boxes that do not hold their mask (written as those around it)": lambda i: not i.polygons and is_moved(i),
        "outlines whose parts overlap (written as one area)": lambda i: not _says_itself(i),
        "tags whose names or values are none of FiftyOne's (left out)": lambda i: any(
            not _is_attribute(name, value) for name, value in i.tags.items()
        ),
    }
    kept = (
        "boxes", "polygons", "holes", "lines", "masks", "keypoints", "is_crowd", "area", "group", "track_id", "z_order",
        "tags",
    )  # fmt: skip
    held = all(
        (value is True and name.lower() not in SPLIT_WORDS) or _is_class(name, value)
        for picture in annotations.pictures
        for name, value in picture.tags.items()
    )
    return list_lost(annotations, kept, tests, ("tags",) if held else ())
