"""Writing COCO files, with their pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.formats import specs
from utils.formats.coco.annotations import OWN_KEYS, PICTURE_KEYS
from utils.formats.extents import extent_of
from utils.formats.mask_outlines import mask_of_instance
from utils.formats.pictures import new_names
from utils.formats.run_lengths import area_of_mask
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
    AnnotatedPicture,
    AnnotationSet,
    Instance,
    Skeleton,
    encode_mask,
    polygon_area,
)
from utils.geometry.crops import tight_box
from utils.media.picture_sizes import picture_size
from utils.runtime.files import write_bytes

LAYOUTS = ("annotations", "folders")
MODES = ("keypoints", "segmentation")


def write_coco(
    sets: Mapping[str, AnnotationSet], folder: str | Path, layout: str = "annotations", mode: str = "keypoints"
) -> list[Path]:
    """Write a COCO data set.

    Where an instance lacks a box or an area, which other programs need, they are derived from its outline, mask or
    keypoints; the key "dinolith" of the annotation says so, and reading it drops them again. An outline with holes, or
    beside a mask, is written as a mask. Of lines the box around them is written; objects stand in the order of their
    `z_order`. Pictures are given a second name (a hard link) where the system allows it, else copied; none is encoded
    anew.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.
    layout : str
        "annotations": `annotations/<split>.json` and `images/<split>/`. "folders": `<split>/annotations.json` and
        `<split>/JPEGImages/`, with val called valid, and a copy `annotations_<split>.json` in the folder itself whose
        file names start from there.
    mode : str
        "keypoints", or "segmentation": outlines only, and boxes as outlines where there is none.

    Returns
    -------
    list of Path
        The specification data.yaml first, then the JSON files.

    Raises
    ------
    ValueError
        If layout or mode is unknown.

    Examples
    --------
    >>> import json, tempfile
    >>> from utils.formats.types import keypoints_array
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> mouse = Instance("mouse", keypoints_array([[1, 2]], [1]), np.array([0.0, 1, 4, 6]))
    >>> picture = AnnotatedPicture("a", folder / "a.png", (4, 6), (mouse,))
    >>> sets = {"val": AnnotationSet([picture], {"mouse": Skeleton(("nose",))})}
    >>> written = write_coco(sets, folder / "new", layout="folders")
    >>> [path.relative_to(folder).as_posix() for path in written]
    ['new/data.yaml', 'new/valid/annotations.json', 'new/annotations_valid.json']
    >>> annotation = json.loads(written[1].read_text())["annotations"][0]
    >>> annotation["bbox"], annotation["keypoints"], annotation["area"], annotation["dinolith"]
    ([0.0, 1.0, 4.0, 5.0], [1.0, 2.0, 1], 20.0, {'derived': ['area'], 'group': None})
    """
    for name, value, choices in (("layout", layout, LAYOUTS), ("mode", mode, MODES)):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(choices)}")
    folder, skeletons = Path(folder), shared_skeletons(sets)
    keys: dict[str, Any] = {"format": "coco", "path": "."} | ({"image_root": "images"} if layout != "folders" else {})
    written = []
    names = {split: "valid" if split == "val" and layout == "folders" else split for split in sets}
    tops = {s: f"{name}/JPEGImages" if layout == "folders" else f"images/{name}" for s, name in names.items()}
    files = {split: new_names(part.pictures) for split, part in sets.items()}
    place_pictures(folder, sets, {split: [folder / tops[split] / file for file in files[split]] for split in sets})
    for split, part in sets.items():
        name = names[split]
        targets = {f"annotations/{name}.json": f"{name}/"}
        if layout == "folders":
            targets = {f"{name}/annotations.json": "JPEGImages/", f"annotations_{name}.json": f"{tops[split]}/"}
        for target, prefix in targets.items():
            content = coco_content(part, skeletons, [prefix + file for file in files[split]], mode)
            write_bytes(folder / target, to_json(content))
            written.append(folder / target)
        keys[split] = next(iter(targets))
    keys |= {"names": dict(enumerate(skeletons))} if mode == "segmentation" else specs.spec_keys(skeletons)
    return [specs.write_spec(folder / "data.yaml", keys), *written]


def coco_content(
    annotations: AnnotationSet, skeletons: Mapping[str, Skeleton], files: list[str], mode: str
) -> dict[str, Any]:
    """What a COCO file holds.

    Parameters
    ----------
    annotations : AnnotationSet
        Pictures with their instances.
    skeletons : mapping of str to Skeleton
        Of the categories, whose ids are counted from 1.
    files : list of str
        The `file_name` of each picture.
    mode : str
        As for `write_coco`.

    Examples
    --------
    >>> skeleton = Skeleton(("eyeL", "eyeR"), (1, 0), ((0, 1),))
    >>> coco_content(AnnotationSet([], {}), {"mouse": skeleton}, [], "keypoints")["categories"]
    [{'id': 1, 'name': 'mouse', 'keypoints': ['eyeL', 'eyeR'], 'skeleton': [[1, 2]], 'flip_idx': [1, 0]}]
    """
    category_ids = {name: index for index, name in enumerate(skeletons, start=1)}
    image_ids = _choose_ids([picture.extra.get("image_id") for picture in annotations.pictures])
    instances = [
        (id, picture, i)
        for id, picture in zip(image_ids, annotations.pictures, strict=True)
        for i in in_drawing_order(picture)
    ]
    annotation_ids = _choose_ids([instance.group for *_, instance in instances])
    annotation = _annotation if mode == "keypoints" else _outline_annotation
    return {
        "images": [_image(p, id, file) for p, id, file in zip(annotations.pictures, image_ids, files, strict=True)],
        "annotations": [
            {"id": id, "image_id": image, "category_id": category_ids[i.category], **annotation(i, id, picture)}
            for id, (image, picture, i) in zip(annotation_ids, instances, strict=True)
        ],
        "categories": [_category(id, name, skeletons[name], mode) for name, id in category_ids.items()],
    }


def _choose_ids(stated: list[Any]) -> list[Any]:
    """The ids that are there if all are whole, positive and different, else 1 to N.

    Examples
    --------
    >>> _choose_ids([7, 3]), _choose_ids([0, 3]), _choose_ids([3, 3, None])
    ([7, 3], [1, 2], [1, 2, 3])
    """
    good = all(type(id) is int and id > 0 for id in stated) and len(set(stated)) == len(stated)
    return list(stated) if good else list(range(1, len(stated) + 1))  # some tools take 0 for "no match"


def _image(picture: AnnotatedPicture, id: int, file: str) -> dict[str, Any]:
    """An entry of `images`.

    Examples
    --------
    >>> _image(AnnotatedPicture("a", Path("a.png"), (4, 6), (), {"license": 4, "found_by": "sidecar"}), 1, "a.png")
    {'id': 1, 'file_name': 'a.png', 'width': 6, 'height': 4, 'license': 4}
    """
    height, width = picture.size or picture_size(picture.path)
    facts = {key: value for key, value in picture.extra.items() if key not in PICTURE_KEYS | {"incomplete"}}
    facts |= {"flags": picture.tags} if picture.tags else {}
    return {"id": id, "file_name": file, "width": width, "height": height, **facts}


def _category(id: int, name: str, skeleton: Skeleton, mode: str) -> dict[str, Any]:
    """An entry of `categories`; edges count keypoints from 1, `flip_idx` from 0.

    Examples
    --------
    >>> _category(1, "mouse", Skeleton(("nose",)), "segmentation")
    {'id': 1, 'name': 'mouse'}
    """
    entry: dict[str, Any] = {"id": id, "name": name}
    if mode == "keypoints" and skeleton.num_keypoints:
        entry["keypoints"] = list(skeleton.names)
        entry["skeleton"] = [[a + 1, b + 1] for a, b in skeleton.edges]
        entry["flip_idx"] = list(skeleton.flip_idx or range(skeleton.num_keypoints))
    return entry


def _annotation(instance: Instance, id: int, picture: AnnotatedPicture) -> dict[str, Any]:
    """Fields of an annotation with keypoints, of an instance of a picture.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), ())
    >>> _annotation(Instance("mouse", keypoints_array([[1, 2], [0, 0]], [2, 0]), group=3), 3, picture)["keypoints"]
    [1.0, 2.0, 2, 0, 0, 0]
    """
    fields = _shared_fields(instance, picture)
    if len(instance.keypoints):
        rows = [[x, y, int(v)] if v > 0 else [0, 0, 0] for x, y, v in instance.keypoints.tolist()]
        seen = int((instance.keypoints[:, 2] > 0).sum())
        fields |= {"keypoints": [value for row in rows for value in row], "num_keypoints": seen}
    if instance.keypoint_scores is not None:
        scores = instance.keypoint_scores.tolist()
        fields["keypoint_scores"] = [score if np.isfinite(score) else None for score in scores]
    facts: dict[str, Any] = {"derived": fields.pop("derived")}
    if instance.group != id:
        facts["group"] = instance.group
    return fields | ({FACTS: facts} if facts["derived"] or "group" in facts else {})


def _outline_annotation(instance: Instance, id: int, picture: AnnotatedPicture) -> dict[str, Any]:
    """Fields of an annotation without keypoints, of an instance of a picture; a box is its outline if it has no other.

    Examples
    --------
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), ())
    >>> _outline_annotation(Instance("mouse", box_xyxy=np.array([0.0, 1, 4, 6])), 1, picture)["segmentation"]
    [[0.0, 1.0, 4.0, 1.0, 4.0, 6.0, 0.0, 6.0]]
    """
    fields = _shared_fields(instance, picture)
    del fields["derived"]
    if not fields["segmentation"] and instance.box_xyxy is not None:
        x1, y1, x2, y2 = instance.box_xyxy.tolist()
        fields["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return fields


def _shared_fields(instance: Instance, picture: AnnotatedPicture) -> dict[str, Any]:
    """Fields of an annotation in both modes, and under `derived` which of them the instance does not state.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), ())
    >>> fields = _shared_fields(Instance("mouse", keypoints_array([[1, 2], [4, 3]], [2, 2])), picture)
    >>> fields["bbox"], fields["area"], fields["derived"]
    ([1.0, 2.0, 3.0, 1.0], 3.0, ['bbox', 'area'])
    """
    mask = _written_mask(instance, picture)
    box = extent_of(instance)
    derived = ["bbox"] if instance.box_xyxy is None and not instance.lines else []  # of lines it is all that is left
    if box is None:
        box = tight_box(instance.keypoints)
    x1, y1, x2, y2 = (0.0, 0.0, 0.0, 0.0) if box is None else box.tolist()
    area = instance.area
    if area is None:
        derived.append("area")
        area = (x2 - x1) * (y2 - y1)
        if mask is not None or instance.polygons:
            area = polygon_area(instance.polygons) if mask is None else area_of_mask(mask)
    polygons = [polygon.ravel().tolist() for polygon in instance.polygons]
    stated = {"track_id": instance.track_id, "score": instance.score, "attributes": instance.tags or None}
    return {
        **{key: value for key, value in instance.extra.items() if key not in OWN_KEYS},
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": area,
        "iscrowd": int(instance.is_crowd),
        "segmentation": polygons if mask is None else mask,
        **{key: value for key, value in stated.items() if value is not None},
        "derived": derived,
    }


def _written_mask(instance: Instance, picture: AnnotatedPicture) -> dict | None:
    """The mask in place of outlines, where an instance has one or its outlines have holes; else None.

    Examples
    --------
    >>> square, hole = (np.array([[a, a], [b, a], [b, b], [a, b]], float) for a, b in ((0, 3), (1, 2)))
    >>> picture = AnnotatedPicture("a", Path("a.png"), (3, 4), ())
    >>> _written_mask(Instance("ring", polygons=(square,), holes=(hole,)), picture)
    {'size': [3, 4], 'counts': [0, 4, 1, 4, 3]}
    """
    if not instance.holes and not (instance.mask and instance.polygons):
        return instance.mask
    return encode_mask(mask_of_instance(instance, picture.size or picture_size(picture.path)))


def unsupported(annotations: AnnotationSet, mode: str = "keypoints") -> list[str]:
    """List what COCO cannot hold of a set.

    Parameters
    ----------
    annotations : AnnotationSet
        What is to be written.
    mode : str
        As for `write_coco`.

    Returns
    -------
    list of str
        Each with how many instances have it; empty when writing loses nothing.

    Examples
    --------
    >>> from utils.formats.types import keypoints_array
    >>> mouse = Instance("mouse", keypoints_array([[1, 2]], [2]), extra={"score": "high"})
    >>> annotations = AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), (mouse,))], {})
    >>> unsupported(annotations), unsupported(annotations, "segmentation")
    (['extra facts that have the name of a field of COCO: 1 of 1 instances'], \
['extra facts that have the name of a field of COCO: 1 of 1 instances', 'keypoints: 1 of 1 instances'])
    """
    tests: dict[str, Callable[[Instance], bool]] = {
        "extra facts that have the name of a field of COCO": lambda i: bool(i.extra.keys() & OWN_KEYS),
        "outlines with holes or beside a mask (written as masks)": lambda i: bool(i.holes or (i.mask and i.polygons)),
        "lines (the box around them is written)": lambda i: bool(i.lines),
        Z_ORDER_LOST: lambda i: i.z_order != 0,
    }
    kept = HAS_FIELD.keys() - ({"keypoints"} if mode == "segmentation" else set())
    facts = {key for picture in annotations.pictures for key in picture.extra} - {"id", "file_name", "width", "height"}
    return list_lost(annotations, kept, tests, facts | {"tags"})
