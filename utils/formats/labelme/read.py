"""LabelMe: one JSON file for each picture, with shapes in pixels; a `group_id` joins the shapes of one animal.

Keypoints are points with the keypoint's name as label; a rectangle, polygon or circle of the same group is the animal's
box or outline, and its label the category. Points lie as LabelMe places them: the origin is the outer corner of the
top-left pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.formats import specs
from utils.formats.labelme.files import Entry, PictureFolders, find_picture, list_entries
from utils.formats.labelme.instances import ANY_CATEGORY, ShapeReader
from utils.formats.pictures import decode_embedded, picture_ids
from utils.formats.sets import FACTS, find_unlabelled, finish_sets, size_problems, text_sizes
from utils.formats.text_files import read_json_file
from utils.formats.types import AnnotatedPicture, AnnotationSet, Problem, build_skeleton
from utils.media.picture_sizes import picture_size

DEFAULT_CATEGORY = "animal"
BESIDE = "put the picture beside it, or set paths.data_root to a folder that holds both"


def read_labelme(
    path: str | Path,
    root: str | Path | None = None,
    keypoint_names: Sequence[str] | None = None,
    need_keypoints: bool = True,
) -> dict[str, AnnotationSet]:
    r"""Read a LabelMe data set.

    Shapes without group_id are one animal where that is possible: no duplicate keypoint, and there is one box at
    most. Otherwise their points are left out, with a problem: which of them belong together nobody has said. Without
    any point, each such shape is an instance of its own.

    A specification (YAML with `format: labelme`) may name `path`, `train`, `val`, `test` or `all` (a folder, list,
    index or JSON file, or several), `kpt_shape`, `keypoint_names` (or `kpt_names`, `kpt_labels`), `flip_idx`, `edges`
    and `names`, the categories. What it does not name is collected from the files: the labels of points, in the order
    in which they first appear, are the keypoints; the labels of boxes and outlines are the categories.

    Parameters
    ----------
    path : str or Path
        A specification, a folder, a list of JSON files or pictures (.txt, .list), an index (.jsonl with image_path and
        json_path), or one JSON file.
    root : str or Path, optional
        Data root, which no imagePath may leave: by default the specification's, the folder, or the file's folder.
    keypoint_names : sequence of str, optional
        In place of collected ones.
    need_keypoints : bool
        Whether the shapes are animals with keypoints, or objects with boxes, outlines, lines and masks: see
        `ShapeReader`.

    Returns
    -------
    dict of str to AnnotationSet
        By split. A picture that exists only inside its JSON file has that file as path and
        `extra["image_data"] == "embedded"`; `pictures.picture_bytes` reads it. `extra["found_by"]` tells how each
        picture was found; the file's flags are the picture's tags, a shape's flags that are true its instance's.

    Raises
    ------
    DataError
        If nothing can be read, keypoint names are doubled, or a path leaves the data root.

    Examples
    --------
    >>> import json, tempfile, cv2, numpy as np
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((4, 6), np.uint8))
    >>> nose = {"label": "nose", "points": [[3, 2]], "shape_type": "point", "group_id": 0}
    >>> _ = (folder / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [nose]}))
    >>> found = read_labelme(folder)["all"]
    >>> found.pictures[0].id, found.pictures[0].size, found.pictures[0].instances[0].keypoints.tolist()
    ('a', (4, 6), [[3.0, 2.0, 2.0]])
    """
    path = Path(path)
    spec = specs.read_spec(path, root) if path.suffix.lower() in specs.SUFFIXES else None
    base = spec.root if spec else Path(root) if root is not None else path if path.is_dir() else path.parent
    problems: list[Problem] = specs.find_misspelled(spec) if spec else []
    entries = list_entries(path, spec, base, problems)
    files = {split: _read_files(part, base, problems) for split, part in entries.items()}
    if not any(files.values()):
        first = f"; first: {problems[0]}" if problems else ""
        raise DataError(f"{path}: none of the {sum(map(len, entries.values()))} files is a LabelMe file{first}")
    if not any(file.picture for part in files.values() for file in part):
        raise DataError(
            f"{path}: none of the {sum(map(len, files.values()))} files has a picture; first: {problems[0]}"
        )
    reader = _build_reader(path, spec, files, keypoint_names, need_keypoints)
    ids = picture_ids((file.picture for part in files.values() for file in part if file.picture), base)
    sets = {split: AnnotationSet([], {}, []) for split in files}
    for split, part in files.items():
        _fill(sets[split], part, ids, reader)
    _name_categories(sets, reader)
    used = {file.path: file.picture for part in files.values() for file in part if file.picture}
    named = {entry.path.stem for part in entries.values() for entry in part}
    named -= {picture.stem for picture in used.values()}
    labelled = used.values() if path.is_dir() else ()
    cure = "save one without a shape where there is no object"
    return finish_sets(sets, problems, find_unlabelled(path, labelled, "a LabelMe file", cure, named))


@dataclass(frozen=True)
class _File:
    """A LabelMe file with its picture, if it has one; the data of an embedded one is not kept.

    Examples
    --------
    >>> _File(Path("a.json"), {"shapes": []}).picture is None
    True
    """

    path: Path
    keys: dict[str, Any]
    picture: Path | None = None
    found_by: str = ""
    size: tuple[int, int] | None = None


def _read_files(entries: Sequence[Entry], root: Path, problems: list[Problem]) -> list[_File]:
    """Read the files of a split and find their pictures.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text('{"shapes": [], "imagePath": "a.png"}')
    >>> _ = path.with_name("b.json").write_text('{"images": []}')
    >>> problems = []
    >>> [file.picture for file in _read_files([Entry(path), Entry(path.with_name("b.json"))], path.parent, problems)]
    [None]
    >>> [problem.what[:37] for problem in problems]
    ["no picture: looked for imagePath 'a.p", "not a LabelMe file: no list 'shapes'"]
    """
    files, folders = [], PictureFolders()
    for entry in entries:
        try:
            keys = read_json_file(entry.path, "imagePath")
            if not isinstance(keys, dict) or not isinstance(keys.get("shapes"), list):
                raise DataError(f"{entry.path}: not a LabelMe file: no list 'shapes'")
        except DataError as error:
            problems.append(Problem(str(entry.path), str(error).partition(": ")[2], "mend or remove the file"))
            continue
        files.append(_locate_picture(entry, keys, root, problems, folders))
    return files


def _locate_picture(
    entry: Entry, keys: dict[str, Any], root: Path, problems: list[Problem], folders: PictureFolders
) -> _File:
    """Find the picture of a file and its size; without a usable one the file has no picture.

    Examples
    --------
    >>> problems = []
    >>> keys = {"shapes": [], "imagePath": "b.png"}
    >>> _locate_picture(Entry(Path("/no/a.json")), keys, Path("/no"), problems, PictureFolders()).found_by
    ''
    >>> str(problems[0])
    "/no/a.json: no picture: looked for imagePath 'b.png', beside the file and inside it; put the picture beside it, \
or set paths.data_root to a folder that holds both"
    """
    size = None
    try:
        picture, found_by = find_picture(entry, keys, root, folders)
    except (DataError, ValueError, OSError) as error:
        what = str(error).removeprefix(f"{entry.path}: ")
        problems.append(Problem(str(entry.path), what, "" if isinstance(error, DataError) else BESIDE))
        keys.pop("imageData", None)
        return _File(entry.path, keys)
    if picture is None:
        what = f"no picture: looked for imagePath {keys.get('imagePath')!r}, beside the file and inside it"
        problems.append(Problem(str(entry.path), what, BESIDE))
    else:
        try:
            size = picture_size(decode_embedded(entry.path, keys["imageData"]) if found_by == "embedded" else picture)
        except DataError as error:
            problems.append(Problem(str(entry.path), str(error)))
            picture = None
    keys.pop("imageData", None)  # a data set of these would fill the memory
    return _File(entry.path, keys, picture, found_by, size)


def _build_reader(
    path: Path,
    spec: specs.Spec | None,
    files: Mapping[str, Sequence[_File]],
    keypoint_names: Sequence[str] | None,
    need_keypoints: bool = True,
) -> ShapeReader:
    """The reader for the categories and keypoints of the specification, or else of the files in order of appearance.

    Raises
    ------
    DataError
        If `kpt_shape` contradicts the files, or a name is a duplicate.

    Examples
    --------
    >>> shapes = [{"label": name, "shape_type": "point"} for name in ("tail", "nose")]
    >>> _build_reader(Path("d"), None, {"all": [_File(Path("a.json"), {"shapes": shapes})]}, None).skeletons
    {'': Skeleton(names=('tail', 'nose'), flip_idx=None, edges=())}
    """
    declared = specs.category_names(spec) if spec else None
    categories = declared or [ANY_CATEGORY]
    names = specs.keypoint_names(spec, categories) if spec else None
    if keypoint_names is not None:
        names = {category: list(keypoint_names) for category in categories}
    if names is None:
        shapes = [shape for part in files.values() for file in part for shape in file.keys["shapes"]]
        points = [shape for shape in shapes if isinstance(shape, dict) and shape.get("shape_type") == "point"]
        labels = (str(shape["label"]) for shape in points if "label" in shape)
        collected = list(dict.fromkeys(label for label in labels if label.strip()))
        shape = specs.keypoint_shape(spec) if spec else None
        if shape is not None and shape[0] != len(collected):
            what = f"kpt_shape says {shape[0]} keypoints, the files have {len(collected)}: {', '.join(collected[:12])}"
            raise DataError(f"{path}: {what}; name them in keypoint_names")
        names = {category: collected for category in categories}
    if spec:
        return ShapeReader(specs.build_skeletons(spec, names), declared is None, need_keypoints)
    skeletons = {category: build_skeleton(str(path), labels) for category, labels in names.items()}
    return ShapeReader(skeletons, True, need_keypoints)


def _fill(annotations: AnnotationSet, files: Sequence[_File], ids: Mapping[Path, str], reader: ShapeReader) -> None:
    """Add the pictures of a split, and the problems of their shapes.

    Examples
    --------
    >>> from utils.formats.types import Skeleton
    >>> reader = ShapeReader({"mouse": Skeleton(("nose",))}, any_category=False)
    >>> keys = {"shapes": [], "imageHeight": 4, "imageWidth": 9}
    >>> file = _File(Path("a.json"), keys, Path("a.png"), "sidecar", (4, 6))
    >>> annotations = AnnotationSet([], {})
    >>> _fill(annotations, [file], {Path("a.png"): "a"}, reader)
    >>> annotations.pictures[0].id, annotations.problems[0].what
    ('a', 'imageHeight x imageWidth is 4 x 9, the picture is 4 x 6')
    """
    taken: dict[str, _File] = {}
    stated: list[tuple] = []
    for file in files:
        if file.picture is None or file.size is None:
            continue
        id = ids[file.picture]
        if id in taken:
            what = f"{file.picture} is labelled by {taken[id].path} too; this file is left out"
            differs = file.keys["shapes"] != taken[id].keys["shapes"]
            annotations.problems.append(Problem(str(file.path), what, "keep one of them", id, lost=differs))
            continue
        taken[id] = file
        instances, problems = reader.read(file.keys["shapes"], file.size)
        flags = file.keys["flags"] if isinstance(file.keys.get("flags"), dict) else {}
        picture = AnnotatedPicture(id, file.picture, file.size, tuple(instances), _picture_facts(file), flags)
        stated.append((file.keys.get("imageHeight"), file.keys.get("imageWidth")))
        annotations.problems += size_problems(str(file.path), "imageHeight x imageWidth", stated[-1], picture)
        annotations.problems += [replace(p, where=f"{file.path}: {p.where}", picture=id) for p in problems]
        annotations.pictures.append(picture)
    if files:
        annotations.problems += text_sizes(str(files[0].path.parent), "imageHeight x imageWidth", stated)


def _picture_facts(file: _File) -> dict[str, Any]:
    """What a file says about its picture beyond the shapes.

    Examples
    --------
    >>> _picture_facts(_File(Path("a.json"), {"shapes": []}, Path("a.json"), "embedded", (4, 6)))
    {'found_by': 'embedded', 'image_data': 'embedded'}
    """
    kept = file.keys.get(FACTS)
    facts = {key: value for key, value in kept.items() if key != "image_data"} if isinstance(kept, dict) else {}
    facts["found_by"] = file.found_by
    if file.found_by == "embedded":
        facts["image_data"] = "embedded"
    return facts


def _name_categories(sets: Mapping[str, AnnotationSet], reader: ShapeReader) -> None:
    """Give every set its skeletons, and animals of points only the only category that there is, or "animal".

    Examples
    --------
    >>> from utils.formats.types import Skeleton
    >>> reader = ShapeReader({ANY_CATEGORY: Skeleton(())}, any_category=True)
    >>> boxes = [{"label": "cat", "points": [[0, 0], [2, 3]], "shape_type": "rectangle"}]
    >>> picture = AnnotatedPicture("a", Path("a.png"), (4, 6), tuple(reader.read(boxes, (4, 6))[0]))
    >>> annotations = AnnotationSet([picture], {})
    >>> _name_categories({"all": annotations}, reader)
    >>> annotations.skeletons
    {'cat': Skeleton(names=(), flip_idx=None, edges=())}
    """
    if not reader.any_category:
        for annotations in sets.values():
            annotations.skeletons = dict(reader.skeletons)
        return
    instances = [i for annotations in sets.values() for picture in annotations.pictures for i in picture.instances]
    labels = list(dict.fromkeys(instance.category for instance in instances if instance.category != ANY_CATEGORY))
    default = labels[0] if len(labels) == 1 else DEFAULT_CATEGORY
    if any(instance.category == ANY_CATEGORY for instance in instances):
        labels = list(dict.fromkeys([*labels, default]))
    for annotations in sets.values():
        annotations.skeletons = {label: reader.skeletons[ANY_CATEGORY] for label in labels}
        annotations.pictures = [
            replace(picture, instances=tuple(replace(i, category=i.category or default) for i in picture.instances))
            for picture in annotations.pictures
        ]
