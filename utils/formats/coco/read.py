"""COCO: one JSON file for each split, with images, annotations and categories.

Points and boxes are taken as pixels from the outer corner of the top-left pixel, as they stand: x / width is the share
of the picture, without a shift by half a pixel.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats import specs
from utils.formats.coco.annotations import PICTURE_KEYS, check_dialect, read_annotation, read_categories
from utils.formats.coco.files import Sources, find_image, find_sources, image_folders
from utils.formats.coco.ids import IdFinder, is_id
from utils.formats.moved import parts_of
from utils.formats.pictures import picture_ids
from utils.formats.predictions import score_key
from utils.formats.sets import find_unlabelled, finish_sets, size_problems, text_sizes
from utils.formats.text_files import read_json_file
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem, Skeleton
from utils.media.picture_sizes import picture_size
from utils.runtime.reading import file_errors

_SPLIT_KEYS = {  # keys of others that draw a validation split -> what does so here
    "val_split": "train.val_fraction",
    "val_seed": "resources.seed",
    "auto_val_split": "train.val_fraction, as a split is always drawn where no val is named",
}
_SPEC_KEYS = ("image_root", "images", *_SPLIT_KEYS)


def read_coco(
    path: str | Path, root: str | Path | None = None, need_keypoints: bool = True
) -> dict[str, AnnotationSet]:
    """Read COCO labels: boxes, outlines and keypoints.

    `iscrowd`, `area`, `track_id` and `score` are kept, `attributes` are the tags, a segmentation by run lengths is the
    mask; whatever else an annotation says is in the instance's `extra`. The annotation's id is the group.
    Where a category has neither `flip_idx` nor `flip_pairs`, left and right are paired by the names of the keypoints.

    Parameters
    ----------
    path : str or Path
        A specification (YAML with `format: coco`, `path`, `image_root` or `images`, `train`, `val`, `test` or `all` as
        one JSON file or a list; `kpt_shape`, `keypoint_names`, `flip_idx`, `edges` in place of the file's), one JSON
        file, or a folder with `annotations/`. Without a specification the names of the files tell the splits.
    root : str or Path, optional
        Data root, which no file_name may leave.
    need_keypoints : bool
        Whether a file of which no category has keypoints is refused.

    Returns
    -------
    dict of str to AnnotationSet
        By split. `extra` of a picture holds `image_id` and what else the file says about it.

    Raises
    ------
    DataError
        If nothing can be read: a list of detections, COCO-WholeBody, no keypoints, none of the pictures there.

    Examples
    --------
    >>> import json, tempfile, cv2, numpy as np
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((4, 6), np.uint8))
    >>> content = {
    ...     "images": [{"id": 1, "file_name": "a.png"}],
    ...     "categories": [{"id": 1, "name": "fish", "keypoints": ["eye"]}],
    ...     "annotations": [
    ...         {"id": 5, "image_id": 1, "category_id": 1, "keypoints": [3, 2, 2]},
    ...         {"id": 6, "image_id": 1, "category_id": 1, "keypoints": [3, 2]},
    ...     ],
    ... }
    >>> _ = (folder / "val.json").write_text(json.dumps(content))
    >>> val = read_coco(folder / "val.json")["val"]
    >>> val.pictures[0].size, val.pictures[0].instances[0].keypoints.tolist(), val.problems[0].what
    ((4, 6), [[3.0, 2.0, 2.0]], 'expected 3 keypoint values (1 keypoints of 3), got 2')
    """
    sources = find_sources(Path(path), None if root is None else Path(root))
    _refuse_split_keys(sources)
    problems = specs.find_misspelled(sources.spec, _SPEC_KEYS) if sources.spec else []
    read = {split: _read_files(sources, split, need_keypoints, problems) for split in sources.files}
    read = {split: files for split, files in read.items() if files}
    if not read:
        raise DataError(f"{path}: no COCO labels that can be used; first: {problems[0]}")
    _refuse_lost_split(sources, read, problems)
    ids = picture_ids((image.path for files in read.values() for file in files for image in file.images), sources.root)
    sets = {split: _build_set(files, ids) for split, files in read.items()}
    named = {name for files in read.values() for file in files for name in file.unusable}
    cure = "add one without annotations where there is no object"
    return finish_sets(sets, problems, find_unlabelled(path, ids, "an entry in images", cure, named))


def _refuse_split_keys(sources: Sources) -> None:
    """Refuse keys that would draw a validation split, where the specification names none; else they mean nothing.

    Raises
    ------
    DataError
        With the setting that takes the key's place.

    Examples
    --------
    >>> spec = specs.Spec(Path("data.yaml"), Path("."), {"val_split": 0.3})
    >>> _refuse_split_keys(Sources({"train": [], "val": []}, Path("."), spec=spec))
    >>> _refuse_split_keys(Sources({"train": []}, Path("."), spec=spec))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: val_split: is not read; drop the key and set train.val_fraction
    """
    if sources.spec is None or "val" in sources.files:
        return
    for key, setting in _SPLIT_KEYS.items():
        if key in sources.spec.keys:
            raise DataError(f"{sources.spec.path}: {key}: is not read; drop the key and set {setting}")


@dataclass(frozen=True)
class _Image:
    """An entry of `images` whose picture was found.

    Examples
    --------
    >>> _Image(Path("a.png"), (4, 6), {"id": 7, "file_name": "a.png", "license": 4}).keys["license"]
    4
    """

    path: Path
    size: tuple[int, int]
    keys: dict[str, Any]


@dataclass
class _File:
    """A COCO file, read.

    Examples
    --------
    >>> _File(Path("a.json"), {}).images
    []
    """

    path: Path
    categories: dict[int | str, tuple[str, Skeleton]]
    images: list[_Image] = field(default_factory=list)
    annotations: list[Any] = field(default_factory=list)
    image_ids: dict[int | str, int] = field(default_factory=dict)  # with how many pictures have each
    problems: list[Problem] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)  # names of pictures that are left out, with a problem


def _read_files(sources: Sources, split: str, need_keypoints: bool, problems: list[Problem]) -> list[_File]:
    """Read the files of a split; of a folder, those that cannot be used become problems.

    Raises
    ------
    DataError
        If a file is not JSON, a path leads out of the data root, or a named file cannot be used.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text("[]")
    >>> problems = []
    >>> _read_files(Sources({"all": [path]}, path.parent, named=False), "all", True, problems), len(problems)
    ([], 1)
    """
    files = []
    for path in sources.files[split]:
        content = read_json_file(path, "file_name")
        try:
            with file_errors(path, "cannot be read as COCO JSON"):
                if not sources.named and _is_predicted(content):
                    what = "not read: predictions, as the score of each of its annotations says"
                    problems.append(Problem(str(path), what, blocks=False))
                    continue
                files.append(_read_file(sources, split, path, content, need_keypoints))
        except DataError as error:
            if sources.named:
                raise
            problems.append(Problem(str(path), str(error).removeprefix(f"{path}: "), "", None))
    return files


def _is_predicted(content: Any) -> bool:
    """Whether every annotation of a file has a score, as predictions have.

    Examples
    --------
    >>> annotations = [{"id": 1, "score": 0.5}, {"id": 2, "score": None}]
    >>> _is_predicted({"annotations": annotations[:1]}), _is_predicted({"annotations": annotations})
    (True, False)
    """
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not annotations:
        return False
    return all(isinstance(keys, dict) and score_key(keys) for keys in annotations)


def _refuse_lost_split(sources: Sources, read: Mapping[str, list[_File]], problems: Sequence[Problem]) -> None:
    """Refuse a folder of whose train or val no file can be used, as the other split would be divided in its place.

    Raises
    ------
    DataError
        With the reason of the first of these files.

    Examples
    --------
    >>> sources = Sources({"train": [Path("train.json")], "val": [Path("val.json")]}, Path("."), named=False)
    >>> _refuse_lost_split(sources, {"val": []}, [Problem("train.json", "no category has keypoints")])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: train.json: no category has keypoints; no file of train can be used, mend it or move it away
    """
    for split in ("train", "val"):
        if split in sources.files and split not in read:
            names = {str(file) for file in sources.files[split]}
            first = next(problem for problem in problems if problem.where in names)
            raise DataError(f"{first}; no file of {split} can be used, mend it or move it away")


def _read_file(sources: Sources, split: str, path: Path, content: Any, need_keypoints: bool) -> _File:
    """Check one file's content, and find its pictures.

    Raises
    ------
    DataError
        If it is of another dialect, lacks keypoints that are needed, or none of its pictures is there.

    Examples
    --------
    >>> content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "car"}]}
    >>> sources = Sources({}, Path("."))
    >>> _read_file(sources, "all", Path("a.json"), content, need_keypoints=False).categories[1][0]
    'car'
    >>> _read_file(sources, "all", Path("a.json"), content, need_keypoints=True)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.json: no category has keypoints (car); give keypoint_names in a specification
    """
    content = check_dialect(str(path), content)
    file = _File(path, {}, annotations=content["annotations"])
    categories = read_categories(str(path), content["categories"], file.problems)
    file.categories = _override(sources.spec, categories)
    if need_keypoints and not any(skeleton.num_keypoints for _, skeleton in file.categories.values()):
        names = ", ".join(name for name, _ in file.categories.values()) or "there is none"
        raise DataError(f"{path}: no category has keypoints ({names}); give keypoint_names in a specification")
    folders = image_folders(sources, split, path)
    missing: list[Problem] = []
    for index, keys in enumerate(content["images"], start=1):
        _add_image(file, index, keys, folders, sources.root, missing)
    if missing and not file.images:
        looked = ", ".join(str(folder) for folder in folders[:4])
        raise DataError(f"{missing[0]} (none of the {len(missing)} pictures is there; looked in {looked})")
    file.problems += missing
    return file


def _override(
    spec: specs.Spec | None, categories: Mapping[int | str, tuple[str, Skeleton]]
) -> dict[int | str, tuple[str, Skeleton]]:
    """Put the specification's keypoints in place of the file's.

    Raises
    ------
    DataError
        If their number differs.

    Examples
    --------
    >>> spec = specs.Spec(Path("data.yaml"), Path("."), {"keypoint_names": ["eye", "tail"]})
    >>> _override(spec, {1: ("fish", Skeleton(("a",)))})
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: 2 keypoints for 'fish', the COCO file has 1; name each of them once
    """
    keys = ("flip_idx", "edges", "kpt_shape", *specs.NAME_KEYS)
    if spec is None or not any(spec.keys.get(key) is not None for key in keys):
        return dict(categories)
    # data.yaml of a data set with several categories names only those that have keypoints
    stated_names = {name: list(skeleton.names) for name, skeleton in categories.values()}
    names = specs.keypoint_names(spec, list(stated_names)) or stated_names
    shape = specs.keypoint_shape(spec)
    for category, labels in names.items():
        count = len(stated_names[category])
        if shape is not None and count not in (0, shape[0]):
            raise DataError(f"{spec.path}: kpt_shape says {shape[0]} keypoints, {category!r} has {count}")
        if count not in (0, len(labels)):
            what = f"{len(labels)} keypoints for {category!r}, the COCO file has {count}"
            raise DataError(f"{spec.path}: {what}; name each of them once")
    skeletons = specs.build_skeletons(spec, names)
    stated = {key for key in ("flip_idx", "edges") if spec.keys.get(key) is not None}
    return {id: (name, _mix(skeletons[name], skeleton, stated)) for id, (name, skeleton) in categories.items()}


def _mix(new: Skeleton, old: Skeleton, stated: set[str]) -> Skeleton:
    """The new skeleton, with what the specification does not state taken from the file.

    Examples
    --------
    >>> _mix(Skeleton(("a", "b")), Skeleton(("x", "y"), (1, 0), ((0, 1),)), set()).edges
    ((0, 1),)
    """
    if new.num_keypoints != old.num_keypoints:
        return new
    keep_flips = "flip_idx" not in stated and (new.flip_idx is None or new.names == old.names)
    flips = old.flip_idx if keep_flips else new.flip_idx
    return Skeleton(new.names, flips, new.edges if "edges" in stated else old.edges)


def _add_image(file: _File, index: int, keys: Any, folders: Sequence[Path], root: Path, missing: list[Problem]) -> None:
    """Add an entry of `images`, or the problem that keeps it out.

    Examples
    --------
    >>> file = _File(Path("a.json"), {})
    >>> _add_image(file, 1, {"id": 3}, [], Path("."), [])
    >>> str(file.problems[0])
    "a.json: image 1: expected an id and a file_name, got {'id': 3}; mend or remove the entry"
    """
    id: Any = keys.get("id") if isinstance(keys, dict) else None
    if is_id(id):
        file.image_ids[id] = file.image_ids.get(id, 0) + 1
    if not is_id(id) or not isinstance(keys.get("file_name"), str):
        what = f"expected an id and a file_name, got {str(keys)[:60]}"
        file.problems.append(Problem(f"{file.path}: image {index}", what, "mend or remove the entry"))
        return
    where = f"{file.path}: image {id}"
    if file.image_ids[id] > 1:
        what = "the id is a duplicate, so that its annotations may be of either picture; both are left out"
        file.problems.append(Problem(where, what, "give each picture its own id"))
        file.unusable.update(parts_of(keys["file_name"])[-1:])
        return
    what, cure = (
        f"no such picture: {keys['file_name']}",
        "put it there; paths.data_root is where pictures are looked for",
    )
    try:
        path = find_image(keys["file_name"], folders, root)
    except ValueError as error:
        path, what, cure = None, str(error), "" if isinstance(error, DataError) else cure
    if path is None:
        missing.append(Problem(where, what, cure))
        return
    try:
        size = picture_size(path)
    except DataError as error:
        file.problems.append(Problem(where, str(error)))
        file.unusable.update(parts_of(keys["file_name"])[-1:])
        return
    file.images.append(_Image(path, size, keys))


def _build_set(files: Sequence[_File], ids: Mapping[Path, str]) -> AnnotationSet:
    """Join the files of a split.

    Raises
    ------
    DataError
        If two files mean different keypoints by one category.

    Examples
    --------
    >>> files = [_File(Path(f"{n}.json"), {1: ("fish", Skeleton((n,)))}) for n in "ab"]
    >>> _build_set(files, {})
    Traceback (most recent call last):
        ...
    utils.errors.DataError: b.json: category 'fish' has other keypoints than in a.json; give them different names
    """
    annotations = AnnotationSet([], {}, [])
    taken: dict[Path, tuple[Path, _Image]] = {}
    for file in files:
        for name, skeleton in file.categories.values():
            if annotations.skeletons.setdefault(name, skeleton) != skeleton:
                what = f"category {name!r} has other keypoints than in {files[0].path}"
                raise DataError(f"{file.path}: {what}; give them different names")
        annotations.problems += file.problems
        _add_pictures(annotations, file, ids, taken)
    return annotations


def _add_pictures(
    annotations: AnnotationSet, file: _File, ids: Mapping[Path, str], taken: dict[Path, tuple[Path, _Image]]
) -> None:
    """Add the pictures of a file to its split; one that is there already is left out, with a problem.

    `taken` gives the file and the entry of each picture that is there.

    Examples
    --------
    >>> entries = [{"id": id, "file_name": "a.png"} for id in (1, 2)]
    >>> file = _File(Path("a.json"), {}, [_Image(Path("a.png"), (4, 6), keys) for keys in entries])
    >>> annotations = AnnotationSet([], {})
    >>> _add_pictures(annotations, file, {Path("a.png"): "a"}, {})
    >>> len(annotations.pictures), str(annotations.problems[0])
    (1, "a.json: image 2: its file_name 'a.png' is the picture a.png, which image 1 of a.json is already; only \
image 1 is used, image 2 and its 0 annotations are left out; name another picture, or keep one entry and give its id \
to the annotations of both")
    """
    instances = _read_annotations(file, ids, annotations.problems)
    for image in file.images:
        id, where = ids[image.path], f"{file.path}: image {image.keys['id']}"
        found = tuple(instances.get(image.keys["id"], ()))
        if image.path in taken:
            other, first = taken[image.path]
            named, kept = image.keys["file_name"], f"image {first.keys['id']}"
            what = (
                f"its file_name {named!r} is the picture {image.path}, which {kept} of {other} is already; only {kept} "
                f"is used, image {image.keys['id']} and its {len(found)} annotations are left out"
            )
            cure = "name another picture, or keep one entry and give its id to the annotations of both"
            same = posixpath.normpath(named) == posixpath.normpath(first.keys["file_name"])
            lost = bool(found) or not same  # else the labels of the first may be those of another
            annotations.problems.append(Problem(where, what, cure, id, lost=lost))
            continue
        taken[image.path] = file.path, image
        facts = {key: value for key, value in image.keys.items() if key not in PICTURE_KEYS}
        facts["image_id"] = image.keys["id"]
        tags = facts.pop("flags") if isinstance(facts.get("flags"), dict) else {}  # as `write_coco` keeps them
        picture = AnnotatedPicture(id, image.path, image.size, found, facts, tags)
        annotations.pictures.append(picture)
        if file.image_ids.get(image.keys["id"], 1) > 1:
            what = "the id is a duplicate: its annotations may be of another picture"
            annotations.problems.append(Problem(where, what, "give each picture its own id", id, lost=True))
        annotations.problems += size_problems(where, "height x width", _stated_size(image), picture)
    annotations.problems += text_sizes(str(file.path), "height x width", map(_stated_size, file.images))


def _stated_size(image: _Image) -> tuple:
    """Height and width that an entry states, as it writes them.

    Examples
    --------
    >>> _stated_size(_Image(Path("a.png"), (4, 6), {"height": "4"}))
    ('4', None)
    """
    return image.keys.get("height"), image.keys.get("width")


def _read_annotations(file: _File, ids: Mapping[Path, str], problems: list[Problem]) -> dict[Any, list[Instance]]:
    """Instances by image id; annotations that cannot be used become problems.

    Where annotations belong to no picture of the file, a picture without any may be theirs: it is not taken for empty.

    Examples
    --------
    >>> file = _File(Path("a.json"), {1: ("fish", Skeleton(("eye",)))}, image_ids={1: 1})
    >>> file.annotations = [{"id": 5, "image_id": 1, "category_id": 2}]
    >>> problems = []
    >>> _read_annotations(file, {}, problems), problems[0].what
    ({1: []}, 'category 2 is unknown; known: 1')
    """
    names = {image.keys["id"]: ids[image.path] for image in file.images}
    sizes = {image.keys["id"]: image.size for image in file.images}
    images, categories = IdFinder(file.image_ids), IdFinder(file.categories)
    instances: dict[Any, list[Instance]] = {}
    seen, homeless = set(), 0
    for index, keys in enumerate(file.annotations, start=1):
        stated = keys if isinstance(keys, dict) else {}
        id, image = str(stated.get("id", f"at place {index}")), None
        where = f"{file.path}: annotation {id}"
        try:
            if not isinstance(keys, dict):
                raise ValueError(f"expected an annotation, got {str(keys)[:60]}")
            image = images.find(stated.get("image_id"), "image")
            instances.setdefault(image, [])
            instance, parts = _read_one(file, keys, categories, sizes.get(image))
        except ValueError as error:
            homeless += image is None
            problems.append(Problem(where, str(error), "mend or remove the annotation", names.get(image), lost=True))
            continue
        problems += [Problem(where, part, "", names.get(image)) for part in parts]
        if id in seen:
            problems.append(Problem(where, "the id is a duplicate", "give each annotation its own", names.get(image)))
        seen.add(id)
        instances[image].append(instance)
    for image, name in names.items() if homeless else ():
        if image not in instances:
            what = f"has no annotation, and {homeless} of the file are of unknown images, maybe of this one"
            problems.append(Problem(f"{file.path}: image {image}", what, "mend their image_id", name, lost=True))
    return instances


def _read_one(
    file: _File, keys: Mapping[str, Any], categories: IdFinder, size: tuple[int, int] | None
) -> tuple[Instance, list[str]]:
    """One annotation, if its category is known; `size` is that of its picture, if that is known.

    Raises
    ------
    ValueError
        If its category is unknown, or the annotation cannot be used.

    Examples
    --------
    >>> _read_one(_File(Path("a.json"), {}), {"category_id": 3}, IdFinder([]), None)
    Traceback (most recent call last):
        ...
    ValueError: category 3 is unknown; known: none
    """
    return read_annotation(keys, *file.categories[categories.find(keys.get("category_id"), "category")], size)
