"""FiftyOne: the folder that it exports a data set into, as FiftyOneDataset, read without FiftyOne.

Points and boxes are shares of the picture, from its outer top-left corner. Of a polyline that is filled, a ring inside
another one is a hole; one that is not filled is a line, closed or open.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.errors import DataError
from utils.formats import specs
from utils.formats.coco.files import find_image
from utils.formats.fiftyone.fields import (
    CLASSES,
    SEGMENTATION,
    Head,
    choose_fields,
    classes_in,
    read_head,
    survey_fields,
)
from utils.formats.fiftyone.labels import Label, labels_in, read_label
from utils.formats.fiftyone.values import plain_number, read_array
from utils.formats.moved import parts_of
from utils.formats.pictures import list_files, picture_ids, resolve_inside
from utils.formats.recognise import format_of_file
from utils.formats.run_lengths import refuse_large
from utils.formats.sets import find_unlabelled, finish_sets, size_problems, text_sizes
from utils.formats.text_files import read_data, read_json_file
from utils.formats.types import (
    AnnotatedPicture,
    AnnotationSet,
    Instance,
    Problem,
    Skeleton,
    encode_mask,
    missing_keypoints,
)
from utils.media.decoding import decode
from utils.media.picture_sizes import picture_size
from utils.runtime.reading import read_bounded

_MOST_OBJECTS = 2_000_000  # each takes a hundred times the memory of a number
SAMPLES, METADATA = "samples.json", "metadata.json"


def read_fiftyone(
    path: str | Path, root: str | Path | None = None, need_keypoints: bool = False, need_objects: bool = False
) -> dict[str, AnnotationSet]:
    """Read an exported data set of FiftyOne: detections with masks, polylines, keypoints, masks of classes.

    The tags train, val and test of a sample are its split, other tags and classes of a whole picture are the picture's
    tags. `iscrowd`, `area`, `group_id`, `track_id` and `z_order` of a label are what they are called; its other
    attributes and its tags are tags. A label with a confidence is a prediction.

    Parameters
    ----------
    path : str or Path
        The folder, its samples.json, or a specification (YAML with `format: fiftyone`, `path`, `all` or splits as
        files samples.json, and `label_field`, where several fields hold labels).
    root : str or Path, optional
        Data root, which no file that is named may leave: by default the folder.
    need_keypoints : bool
        Whether labels without keypoints are refused.
    need_objects : bool
        Whether masks of classes, which tell no objects apart, are refused.

    Returns
    -------
    dict of str to AnnotationSet
        By split. Samples whose field of labels is empty (null) are left out, which is told.

    Raises
    ------
    DataError
        If nothing can be read, or several fields may be the labels. A single bad label is skipped and becomes a
        Problem.

    References
    ----------
    FiftyOne's manual, FiftyOneDataset.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "data").mkdir()
    >>> _ = cv2.imwrite(str(folder / "data" / "a.png"), np.zeros((40, 60), np.uint8))
    >>> coral = {"label": "coral", "points": [[[0, 0], [1, 0], [1, 1]]], "closed": True, "filled": True}
    >>> truth = {"_cls": "Polylines", "polylines": [coral, {"label": "coral", "points": []}]}
    >>> sample = {"filepath": "data/a.png", "tags": ["val"], "truth": truth}
    >>> _ = (folder / "samples.json").write_text(json.dumps({"samples": [sample]}))
    >>> part = read_fiftyone(folder)["val"]
    >>> part.pictures[0].instances[0].polygons[0].tolist()
    [[0.0, 0.0], [60.0, 0.0], [60.0, 40.0]]
    >>> str(part.problems[0]).partition("samples.json: ")[2]
    'sample 1: truth: label 2: expected points as a list of lists of pairs, got []; mend or remove the label'
    """
    path = Path(path)
    spec = specs.read_spec(path, root) if path.suffix.lower() in specs.SUFFIXES else None
    problems: list[Problem] = specs.find_misspelled(spec, ("label_field",)) if spec else []
    found = _find_files(path, spec)
    first = next(iter(found.values()))[0]
    base = spec.root if spec else Path(root) if root is not None else path if path.is_dir() else first.parent
    stated = spec.keys.get("label_field") if spec else None
    files = [
        _read_file(file, split, base, None if stated is None else str(stated), (need_keypoints, need_objects), problems)
        for split, part in found.items()
        for file in part
    ]
    pages = [page for file in files for page in file.pages]
    if not pages:
        reason = f"; first: {problems[0]}" if problems else ""
        raise DataError(f"{path}: no sample of the FiftyOne data set can be used{reason}")
    ids = picture_ids((page.path for page in pages), base)
    skeletons = _name_classes(str(path), files)
    order = {split: None for split in ("train", "val", "test", "all") if any(page.split == split for page in pages)}
    sets = {split: AnnotationSet([], dict(skeletons), []) for split in order}
    _fill(sets, pages, ids, skeletons)
    named = {name for file in files for name in file.unusable}
    cure = "add a sample with an empty list of labels where there is no object"
    return finish_sets(sets, problems, find_unlabelled(path, ids, "a sample with labels", cure, named))


def _find_files(path: Path, spec: specs.Spec | None) -> dict[str, list[Path]]:
    """The files samples.json, or folders samples, of each split: those of folders named train, val or test are of it.

    Raises
    ------
    DataError
        If there is none.

    Examples
    --------
    >>> _find_files(Path("set/metadata.json"), None)
    {'all': [PosixPath('set/samples.json')]}
    """
    if spec is not None:
        return specs.split_files(spec, f"a file {SAMPLES}")
    if not path.is_dir():
        return {"all": [path.with_name(SAMPLES) if path.name == METADATA else path]}
    files = [file for file in list_files(path, (".json",)) if file.name in (SAMPLES, METADATA)]
    tops = {file.parent: None for file in files if format_of_file(file) == "fiftyone"}
    found: dict[str, list[Path]] = {}
    for top in tops:
        words = (specs.SPLIT_WORDS.get(part.lower()) for part in top.relative_to(path).parts)
        split = next((word for word in words if word), "all")
        found.setdefault(split, []).append(top / SAMPLES if (top / SAMPLES).exists() else top / "samples")
    if not found:
        raise DataError(f"{path}: no {SAMPLES} of FiftyOne in it or in the folders inside")
    return found


@dataclass(frozen=True)
class _Page:
    """A sample with its picture.

    Examples
    --------
    >>> _Page(Path("a.png"), (4, 6), "all", "samples.json: sample 1", (None, None), ()).faults
    ()
    """

    path: Path
    size: tuple[int, int]
    split: str
    where: str
    stated: tuple[Any, Any]
    labels: Sequence[tuple[Label, ...]]
    tags: dict[str, Any] = field(default_factory=dict)
    faults: Sequence[tuple[str, str]] = ()


@dataclass
class _File:
    """An export, as far as it is read.

    Examples
    --------
    >>> _File(Path("samples.json"), Head(), {}, Path(".")).pages
    []
    """

    path: Path
    head: Head
    fields: dict[str, str]  # kinds by name
    root: Path
    pages: list[_Page] = field(default_factory=list)
    skeletons: dict[str, Skeleton] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    empty: list[str] = field(default_factory=list)  # samples without labels
    unscored: set[str] = field(default_factory=set)  # fields whose confidences nobody has stated

    def add(self, number: int, sample: Any, split: str, problems: list[Problem]) -> None:
        """Add a sample, or the problem that keeps it out.

        Examples
        --------
        >>> problems = []
        >>> _File(Path("samples.json"), Head(), {}, Path(".")).add(3, {"filepath": "no.png"}, "all", problems)
        >>> str(problems[0])
        'samples.json: sample 3: no such picture: no.png; put it there; paths.data_root is where pictures are looked \
for'
        """
        where, cure = f"{self.path}: sample {number}", "put it there; paths.data_root is where pictures are looked for"
        name = sample.get("filepath") if isinstance(sample, Mapping) else None
        try:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"expected a sample with a filepath, got {str(sample)[:60]}")
            folder = self.path.parent
            picture = find_image(name, [folder, folder / "data"], self.root)
            if picture is None:
                raise ValueError(f"no such picture: {name}")
            size = picture_size(picture)
            split, tags = _split_and_tags(sample, split)
        except ValueError as error:
            problems.append(Problem(where, str(error), "" if isinstance(error, DataError) else cure))
            self.unusable.update(parts_of(str(name))[-1:])
            return
        if all(sample.get(key) is None for key in self.fields):
            self.empty.append(name)
            return
        faults: list[tuple[str, str]] = []
        labels = self._read_labels(sample, size, faults)
        metadata = sample.get("metadata")
        stated = metadata if isinstance(metadata, Mapping) else {}
        height, width = (plain_number(stated.get(side)) for side in ("height", "width"))
        self.pages.append(
            _Page(picture, size, split, where, (height, width), join_labels(labels, len(self.fields) > 1), tags, faults)
        )

    def _read_labels(
        self, sample: Mapping[str, Any], size: tuple[int, int], faults: list[tuple[str, str]]
    ) -> list[Label]:
        """The labels of a sample; those that cannot be used are named in `faults`.

        Examples
        --------
        >>> faults, file = [], _File(Path("samples.json"), Head(), {"truth": "Detections"}, Path("."))
        >>> file._read_labels({"truth": {"_cls": "Detections", "detections": [{"label": "cow"}]}}, (4, 6), faults)
        []
        >>> faults[0][0]
        'truth: label 1'
        """
        found: list[Label] = []
        for name, kind in self.fields.items():
            value = sample.get(name)
            if value is None:
                continue
            try:
                if not isinstance(value, Mapping):
                    raise ValueError(f"expected labels, got {str(value)[:60]}")
                listed = [value] if kind == SEGMENTATION else labels_in(value)
            except ValueError as error:
                faults.append((name, str(error)))
                continue
            for number, keys in enumerate(listed, start=1):
                where = name if kind == SEGMENTATION else f"{name}: label {number}"
                try:
                    if kind == SEGMENTATION:
                        found += self._read_classes(name, keys, size, faults)
                    else:
                        points = keys.get("points") if isinstance(keys, Mapping) else None
                        count = len(points) if kind == "Keypoints" and isinstance(points, list) else 0
                        skeleton = functools.partial(self._skeleton, name, count)
                        found.append(read_label(kind, keys, size, skeleton, self._open))
                        if name in self.unscored:
                            found[-1].fields.pop("score", None)
                except ValueError as error:
                    faults.append((where, str(error)))
        return found

    def _skeleton(self, name: str, points: int, label: str) -> Skeleton:
        """The keypoints of a class in a field, which stay what they were when it was first met.

        Raises
        ------
        ValueError
            If two fields mean different ones.

        Examples
        --------
        >>> file = _File(Path("samples.json"), Head(by_field={"a": Skeleton(("nose",))}), {}, Path("."))
        >>> file._skeleton("a", 1, "fox").names
        ('nose',)
        >>> file._skeleton("b", 2, "fox")
        Traceback (most recent call last):
            ...
        ValueError: 'fox' has other keypoints in another label; give one of them another name
        """
        wanted = self.head.skeleton(label, name, min(points, specs.MOST_KEYPOINTS))
        if self.skeletons.setdefault(label, wanted) != wanted:
            raise ValueError(f"{label!r} has other keypoints in another label; give one of them another name")
        return wanted

    def _open(self, name: str) -> np.ndarray:
        """The mask that a `mask_path` names, (H, W), from a picture with one band or several equal ones.

        Raises
        ------
        ValueError
            If it is none, or lies outside of the data root.

        Examples
        --------
        >>> _File(Path("samples.json"), Head(), {}, Path("."))._open("no.png")
        Traceback (most recent call last):
            ...
        ValueError: no such mask: no.png
        """
        path = resolve_inside(f"{self.path}: mask_path", name, self.path.parent, self.root)
        if not path.is_file():
            raise ValueError(f"no such mask: {name}")
        refuse_large(picture_size(path))
        mask = decode(read_bounded(path), cv2.IMREAD_UNCHANGED)
        if mask is not None and mask.ndim == 3 and (mask[..., :1] == mask).all():
            mask = mask[..., 0]
        if mask is None or mask.ndim != 2:
            raise ValueError(f"expected a mask of one band in {name}")
        return mask

    def _read_classes(
        self, name: str, keys: Mapping[str, Any], size: tuple[int, int], faults: list[tuple[str, str]]
    ) -> list[Label]:
        """A label for each class of a mask; 0 is nothing, unless it has a name.

        Raises
        ------
        ValueError
            If the mask is none, or not of the picture's size.

        Examples
        --------
        >>> file = _File(Path("samples.json"), Head(targets={"": {1: "cow"}}), {}, Path("."))
        >>> faults = []
        >>> [label.fields for label in file._read_classes("truth", {"mask": [[0, 1], [2, 2]]}, (2, 2), faults)], faults
        ([{'mask': {'size': [2, 2], 'counts': [2, 1, 1]}}], [('truth', 'values of the mask without a name: 2')])
        """
        mask, path = keys.get("mask"), keys.get("mask_path")
        if mask is None and not path:
            raise ValueError("neither mask nor mask_path")
        values = read_array(mask, size[0] * size[1]) if mask is not None else self._open(str(path))
        if values.shape != size:
            what = f"a mask of {values.shape[0]} x {values.shape[1]} pixels, but its picture has {size[0]} x {size[1]}"
            raise ValueError(f"{what}; write the mask again at the picture's size")
        targets = self.head.targets.get(name, self.head.targets.get(""))
        present = [int(value) for value in np.unique(values) if value or (targets and 0 in targets)]
        names = {value: str(value) for value in present} if targets is None else targets
        if lost := [value for value in present if value not in names]:
            faults.append((name, f"values of the mask without a name: {', '.join(map(str, lost[:5]))}"))
        known = [value for value in present if value in names]
        return [Label(names[value], "area", None, {"mask": encode_mask(values == value)}) for value in known]


def _read_file(
    path: Path,
    split: str,
    root: Path,
    stated: str | None,
    needs: tuple[bool, bool],
    problems: list[Problem],
) -> _File:
    """Read an export.

    Parameters
    ----------
    path : Path
        samples.json, or a folder of a file for each sample.
    split : str
        Of samples whose tags say none.
    root : Path
        Data root.
    stated : str, optional
        The field with the labels.
    needs : (bool, bool)
        Whether keypoints are needed, and objects.
    problems : list of Problem
        Gets what is wrong with samples.

    Raises
    ------
    DataError
        If it is no export of FiftyOne, or has no labels.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "samples.json"
    >>> _ = path.write_text("[]")
    >>> _read_file(path, "all", path.parent, None, (False, False), [])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../samples.json: expected samples as a list, as FiftyOne exports them, got []
    """
    if path.is_dir():
        samples: Any = [read_json_file(file) for file in list_files(path, (".json",))]
    else:
        if (count := read_data(path).count(b'"$number')) > _MOST_OBJECTS:
            what = f"{count} numbers as objects ($number), and there may be {_MOST_OBJECTS}"
            raise DataError(f"{path}: {what}; write them as plain numbers")
        content = read_json_file(path)
        samples = content.get("samples") if isinstance(content, Mapping) else None
        if not isinstance(samples, list):
            raise DataError(f"{path}: expected samples as a list, as FiftyOne exports them, got {str(content)[:60]}")
    metadata = path.parent / METADATA
    head = read_head(str(metadata), read_json_file(metadata) if metadata.is_file() else None)
    surveyed = survey_fields(samples)
    chosen = choose_fields(str(path), surveyed, stated, *needs, problems)
    file = _File(path, head, {name: surveyed[name].kind for name in chosen}, root)
    file.unscored = {name for name in chosen if surveyed[name].is_default}
    for name in sorted(file.unscored):
        what = (
            f"{name}: the confidence of {surveyed[name].scored} labels is 100, as CVAT has it where nobody changed it"
        )
        problems.append(Problem(str(path), f"{what}; they are read as labels", "look at them", blocks=False))
    for number, sample in enumerate(samples, start=1):
        file.add(number, sample, split, problems)
    problems += text_sizes(str(path), "height x width", (page.stated for page in file.pages))
    if file.empty:
        what = f"samples without labels (null) in {' and '.join(chosen)}, left out: {len(file.empty)}"
        cure = "give those an empty list of labels where there is no object"
        problems.append(Problem(str(path), f"{what}, such as {', '.join(file.empty[:3])}", cure, blocks=False))
        file.unusable.update(name for text in file.empty for name in parts_of(text)[-1:])
    return file


def _split_and_tags(sample: Mapping[str, Any], split: str) -> tuple[str, dict[str, Any]]:
    """The split of a sample, and what else is said of its picture.

    Raises
    ------
    ValueError
        If its tags name two splits.

    Examples
    --------
    >>> day = {"_cls": "Classification", "label": "day"}
    >>> _split_and_tags({"tags": ["validation", "checked"], "time": day}, "all")
    ('val', {'checked': True, 'time': 'day'})
    >>> _split_and_tags({"tags": ["train", "test"]}, "all")
    Traceback (most recent call last):
        ...
    ValueError: its tags name several splits: train, test; keep one of them
    """
    listed = sample.get("tags")
    tags = [str(tag) for tag in listed] if isinstance(listed, list) else []
    words = [tag for tag in tags if tag.lower() in specs.SPLIT_WORDS]
    splits = dict.fromkeys(specs.SPLIT_WORDS[word.lower()] for word in words)
    if len(splits) > 1:
        raise ValueError(f"its tags name several splits: {', '.join(words)}; keep one of them")
    found: dict[str, Any] = {tag: True for tag in tags if tag not in words}
    for name, value in sample.items():
        if isinstance(value, Mapping) and value.get("_cls") in CLASSES:
            names = classes_in(value)
            if names:
                found[name] = names[0] if value["_cls"] == CLASSES[0] else names
    return next(iter(splits), split), found


def join_labels(labels: Iterable[Label], several: bool = False) -> list[tuple[Label, ...]]:
    """Labels by object: of one class and index, one of each slot.

    Parameters
    ----------
    labels : iterable of Label
        Of one sample.
    several : bool
        Whether they are of several fields. Then, and where an object has several labels, the index is the order.

    Examples
    --------
    >>> labels = [Label("cow", "box", 2), Label("cow", "box", 1), Label("cow", "points", 2), Label("cow", "box", 2)]
    >>> [[(label.slot, label.index) for label in parts] for parts in join_labels(labels)]
    [[('box', 1)], [('box', 2), ('points', 2)], [('box', 2)]]
    """
    objects: list[dict[str, Label]] = []
    known: dict[tuple[str, int], list[dict[str, Label]]] = {}
    for label in labels:
        alike = [] if label.index is None else known.setdefault((label.name, label.index), [])
        parts = next((parts for parts in alike if label.slot not in parts), None)
        if parts is None:
            parts = {}
            objects.append(parts)
            alike.append(parts)
        parts[label.slot] = label
    joined = [tuple(parts.values()) for parts in objects]
    if several or any(len(parts) > 1 for parts in joined):
        joined.sort(key=lambda parts: -1 if parts[0].index is None else parts[0].index)
    return joined


def _name_classes(where: str, files: Sequence[_File]) -> dict[str, Skeleton]:
    """Every class with its keypoints: those that the heads declare, in their order, then others, sorted.

    Raises
    ------
    DataError
        If two files mean different keypoints by one class.

    Examples
    --------
    >>> labels = [(Label(name, "box"),) for name in ("dog", "ant")]
    >>> page = _Page(Path("a.png"), (4, 6), "all", "", (None, None), labels)
    >>> list(_name_classes("set", [_File(Path("s.json"), Head(["dog", "cat"]), {}, Path("."), [page])]))
    ['dog', 'cat', 'ant']
    """
    found: dict[str, Skeleton] = {}
    for file in files:
        for name, skeleton in (file.head.skeletons | file.skeletons).items():
            if found.setdefault(name, skeleton) != skeleton:
                raise DataError(f"{where}: {name!r} has other keypoints in {file.path}; give them different names")
    declared = [name for file in files for name in (*file.head.skeletons, *file.head.classes)]
    declared += [name for file in files for key, names in file.head.targets.items() for name in names.values()]
    used = sorted({parts[0].name for file in files for page in file.pages for parts in page.labels})
    masks = any(kind == SEGMENTATION for file in files for kind in file.fields.values())
    targets = {name for file in files for names in file.head.targets.values() for name in names.values()}
    kept = [name for name in (*declared, *used) if masks or name in used or name not in targets]
    return {name: found.get(name, Skeleton(())) for name in dict.fromkeys(kept)}


def _fill(
    sets: Mapping[str, AnnotationSet],
    pages: Sequence[_Page],
    ids: Mapping[Path, str],
    skeletons: Mapping[str, Skeleton],
) -> None:
    """Add pictures to their splits, and the problems of their labels.

    Examples
    --------
    >>> sets = {"all": AnnotationSet([], {})}
    >>> page = _Page(Path("a.png"), (4, 6), "all", "samples.json: sample 1", (None, None), (), {}, [("truth", "no")])
    >>> _fill(sets, [page, page], {Path("a.png"): "a"}, {})
    >>> print(*sets["all"].problems, sep="; ")
    samples.json: sample 1: truth: no; mend or remove the label; samples.json: sample 1: a.png is labelled by \
samples.json: sample 1 too; this sample is left out; keep one of them
    """
    taken: dict[tuple[str, Path], str] = {}
    for page in pages:
        annotations, id, key = sets[page.split], ids[page.path], (page.split, page.path)
        if key in taken:
            what = f"{page.path} is labelled by {taken[key]} too; this sample is left out"
            annotations.problems.append(Problem(page.where, what, "keep one of them", id, lost=True))
            continue
        taken[key] = page.where
        instances = tuple(_build(parts, skeletons[parts[0].name]) for parts in page.labels)
        picture = AnnotatedPicture(id, page.path, page.size, instances, {}, page.tags)
        annotations.problems += [
            Problem(f"{page.where}: {place}", what, "mend or remove the label", id, lost=True)
            for place, what in page.faults
        ]
        annotations.problems += size_problems(page.where, "height x width", page.stated, picture)
        annotations.pictures.append(picture)


def _build(parts: Sequence[Label], skeleton: Skeleton) -> Instance:
    """One object out of its labels.

    Examples
    --------
    >>> box = Label("fox", "box", 1, {"box_xyxy": np.zeros(4), "tags": {"old": True}, "z_order": 2})
    >>> fox = _build([box, Label("fox", "line", 1, {"lines": (np.zeros((2, 2)),), "tags": {}})], Skeleton(("nose",)))
    >>> len(fox.lines), fox.tags, fox.z_order, fox.keypoints.shape
    (1, {'old': True}, 2, (1, 3))
    """
    fields: dict[str, Any] = {"keypoints": missing_keypoints(skeleton.num_keypoints)}
    tags: dict[str, Any] = {}
    for part in reversed(parts):  # of what several state, the first counts
        fields |= part.fields
        tags = {**part.fields.get("tags", {}), **tags}
    return Instance(parts[0].name, **(fields | {"tags": tags}))
