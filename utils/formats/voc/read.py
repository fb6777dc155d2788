"""Pascal VOC: an XML file for each picture, with a box for each object.

VOC counts pixels from 1 (its top-left pixel is (1, 1)) and includes the last one, so `xmin` 1 and `xmax` W mean the
whole width: the box is (xmin - 1, ymin - 1, xmax, ymax), as detectron2 reads it. Programs that write edges counted from
0 under the same names are known by a box that begins before 1, which VOC does not have: then all boxes of the set are
taken as they stand. DeepForest copies the numbers of its VOC files into its tables as they are, so the tables lie one
pixel further right and down than the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.formats import specs
from utils.formats.box_rules import cut_to_picture, name_categories
from utils.formats.elements import Element, XmlError, parse_xml
from utils.formats.labelme.files import PictureFolders
from utils.formats.pictures import picture_ids
from utils.formats.predictions import read_score, score_name
from utils.formats.sets import find_unlabelled, finish_sets, size_problems
from utils.formats.text_files import read_data
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Problem
from utils.formats.values import read_number
from utils.formats.voc.files import LISTS, find_picture, list_labels
from utils.media.picture_sizes import picture_size

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]*?\sencoding\s*=\s*["']([\w.-]+)""")
FLAGS = ("difficult", "truncated", "occluded")  # 0 or 1; a difficult object is no example and no false alarm
OBJECT_LIKE = frozenset({"object", "obj", "bndbox", "bbox", "box", "robndbox", "polygon", "xmin"})  # where VOC has none
BESIDE = "put the picture beside it or in a folder JPEGImages or images, or set paths.data_root to a folder of both"


def read_voc(path: str | Path, root: str | Path | None = None) -> dict[str, AnnotationSet]:
    r"""Read Pascal VOC labels.

    A difficult object is a crowd (`is_crowd`): to be ignored. `difficult`, `truncated` and `occluded`, where they are
    1, are tags, `pose` is an extra fact. An XML file without an object says that there is none.

    Parameters
    ----------
    path : str or Path
        A folder, one XML file, a list of XML files or pictures, or a specification (YAML with `format: voc`, and
        `path`, `train`, `val`, `test` or `all`, and `names`, the categories in order; by default those of the files,
        sorted).
    root : str or Path, optional
        Data root, which no picture may leave: by default the specification's, the folder, or the file's folder.

    Returns
    -------
    dict of str to AnnotationSet
        By split: of `ImageSets/Main`, or of folders named train, val (valid) or test.

    Raises
    ------
    DataError
        If nothing can be read. A single bad object is skipped and becomes a Problem with file and line.

    References
    ----------
    Everingham & Winn, The PASCAL Visual Object Classes Challenge 2012 Development Kit.

    Examples
    --------
    >>> import tempfile, cv2
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    >>> box = "<bndbox><xmin>1</xmin><ymax>40</ymax><xmax>30</xmax><ymin>11</ymin></bndbox>"
    >>> rest = "<object><name>cat</name></object>"
    >>> text = f"<annotation><filename>a.png</filename><object><name>dog</name>{box}</object>\n{rest}</annotation>"
    >>> _ = (folder / "a.xml").write_text(text)
    >>> part = read_voc(folder)["all"]
    >>> part.pictures[0].instances[0].category, part.pictures[0].instances[0].box_xyxy.tolist()
    ('dog', [0.0, 10.0, 30.0, 40.0])
    >>> str(part.problems[0])  # doctest: +ELLIPSIS
    '.../a.xml:2: no bndbox in the object; mend or remove the object'
    """
    path = Path(path)
    spec = specs.read_spec(path, root) if path.suffix.lower() in specs.SUFFIXES else None
    base = spec.root if spec else Path(root) if root is not None else path if path.is_dir() else path.parent
    problems: list[Problem] = specs.find_misspelled(spec) if spec else []
    labels = list_labels(path, spec, base, problems)
    folders = PictureFolders()
    files = {split: list(_read_files(part, base, folders, problems)) for split, part in labels.items()}
    usable = [file for part in files.values() for file in part]
    if not usable:
        first = f"; first: {problems[0]}" if problems else ""
        raise DataError(f"{path}: none of the {sum(map(len, labels.values()))} VOC files can be used{first}")
    from_zero = _counts_from_zero(usable, problems)
    ids = picture_ids((file.picture for file in usable), base)
    names = specs.category_names(spec) if spec else None
    sets = {split: AnnotationSet([], {}, []) for split in files}
    for split, part in files.items():
        _fill(sets[split], part, ids, from_zero, names)
    name_categories(sets, names)
    by_list = not path.is_dir() or (path / LISTS).is_dir()  # lists leave out what they do not name
    used = {file.path: file.picture for file in usable}
    named = {label.stem for part in labels.values() for label in part}
    named -= {picture.stem for picture in used.values()}
    labelled = () if by_list else used.values()
    cure = "write one without an object where there is none"
    return finish_sets(sets, problems, find_unlabelled(path, labelled, "an XML file", cure, named))


@dataclass(frozen=True)
class _File:
    """A VOC file with its picture.

    Examples
    --------
    >>> _File(Path("a.xml"), parse_xml("<annotation/>"), Path("a.png"), (4, 6)).size
    (4, 6)
    """

    path: Path
    content: Element
    picture: Path
    size: tuple[int, int]


def _read_files(
    labels: Sequence[Path], root: Path, folders: PictureFolders, problems: list[Problem]
) -> Iterator[_File]:
    """Read the files of a split and find their pictures; what cannot be used becomes a problem.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.xml"
    >>> _ = path.write_text("<annotation><filename>a.png</filename></annotation>")
    >>> problems = []
    >>> list(_read_files([path], path.parent, PictureFolders(), problems)), problems[0].what
    ([], "no picture: looked for 'a.png' and for a.* beside it and in folders of pictures")
    """
    for label in labels:
        try:
            content = _read_annotation(label)
            stated = content.text_of("filename")
            picture = find_picture(label, stated, root, folders)
            if picture is None:
                what = f"no picture: looked for {stated!r} and for {label.stem}.* beside it and in folders of pictures"
                problems.append(Problem(str(label), what, BESIDE))
                continue
            yield _File(label, content, picture, picture_size(picture))
        except DataError as error:
            where, _, what = str(error).partition(": ")
            problems.append(Problem(where, what, "" if ";" in what else "mend or remove the file"))


def _read_annotation(path: Path) -> Element:
    """The element `annotation` of a VOC file.

    Raises
    ------
    DataError
        If it is not XML, or another kind of it, or its text is not in the encoding that it declares.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.xml"
    >>> _ = path.write_text("<PAMDataset/>")
    >>> _read_annotation(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.xml: expected an element annotation as VOC has, got PAMDataset
    """
    data = read_data(path)
    if not data.strip():
        raise DataError(f"{path}: an empty file; write an element annotation, without an object where there is none")
    try:
        text: str | bytes = data.decode("utf-8-sig")  # whatever another encoding a declaration may have kept
    except UnicodeDecodeError as error:
        declared = _DECLARED.match(data)
        if b"\0" not in data and (declared is None or declared[1].upper() == b"UTF-8"):
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(f"{path}:{line}: not UTF-8, and no other encoding is declared; save it as UTF-8") from None
        text = data
    try:
        content = parse_xml(data if b"\0" in data else text)
    except XmlError as error:
        raise DataError(f"{path}:{error}") from None
    if content.name != "annotation":
        raise DataError(f"{path}: expected an element annotation as VOC has, got {content.name[:60]}")
    return content


def _counts_from_zero(files: Sequence[_File], problems: list[Problem]) -> bool:
    """Whether the boxes of a set count pixels from 0, which only one that begins before 1 can tell.

    Examples
    --------
    >>> box = "<object><bndbox><xmin>{}</xmin><ymin>3</ymin></bndbox></object>"
    >>> files = [_File(Path("a.xml"), parse_xml(f"<annotation>{box.format(x)}</annotation>"), Path("a.png"), (4, 6))
    ...     for x in (1, 0)]
    >>> problems = []
    >>> _counts_from_zero(files[:1], problems), _counts_from_zero(files, problems), problems[0].what[:31]
    (False, True, 'xmin is 0, but VOC counts from ')
    """
    for file in files:
        for target in file.content.find_all("object"):
            box = target.find("bndbox")
            for name in CORNERS[:2] if box is not None else ():
                try:
                    value = read_number(box.text_of(name) or "nan")  # type: ignore[union-attr]
                except ValueError:
                    continue
                if value < 1:
                    what = (
                        f"{name} is {value:g}, but VOC counts from 1: the boxes of this set are taken as edges "
                        "counted from 0, not as first and last pixels"
                    )
                    cure = "look at the boxes; if only this one is wrong, set it to 1"
                    problems.append(Problem(f"{file.path}:{box.line}", what, cure, blocks=False))  # type: ignore[union-attr]
                    return True
    return False


def _fill(
    annotations: AnnotationSet,
    files: Sequence[_File],
    ids: Mapping[Path, str],
    from_zero: bool,
    names: Sequence[str] | None,
) -> None:
    """Add the pictures of a split, and the problems of their objects.

    Examples
    --------
    >>> content = parse_xml("<annotation><size><width>9</width><height>4</height></size></annotation>")
    >>> annotations = AnnotationSet([], {})
    >>> _fill(annotations, [_File(Path("a.xml"), content, Path("a.png"), (4, 6))], {Path("a.png"): "a"}, False, None)
    >>> annotations.pictures[0].id, annotations.problems[0].what
    ('a', 'height x width is 4 x 9, the picture is 4 x 6')
    """
    taken: dict[str, Path] = {}
    for file in files:
        id = ids[file.picture]
        if id in taken:
            what = f"{file.picture} is labelled by {taken[id]} too; this file is left out"
            annotations.problems.append(Problem(str(file.path), what, "keep one of them", id, lost=True))
            continue
        taken[id] = file.path
        instances = []
        for target in file.content.find_all("object"):
            try:
                instances.append(_read_object(target, file.size, from_zero, names))
            except ValueError as error:
                where = f"{file.path}:{target.line}"
                annotations.problems.append(Problem(where, str(error), "mend or remove the object", id, lost=True))
        picture = AnnotatedPicture(id, file.picture, file.size, tuple(instances))
        annotations.problems += size_problems(str(file.path), "height x width", _stated_size(file.content), picture)
        annotations.problems += _hidden_objects(file, id)
        annotations.pictures.append(picture)


def _hidden_objects(file: _File, id: str) -> list[Problem]:
    """One problem for all elements that look like objects and stand where VOC has none: they are not read.

    Examples
    --------
    >>> text = "<annotation><Object/><objects><object><bndbox/></object></objects></annotation>"
    >>> [problem] = _hidden_objects(_File(Path("a.xml"), parse_xml(text), Path("a.png"), (4, 6)), "a")
    >>> str(problem)
    "a.xml:1: looks like an object and is not read: 'Object' in 'annotation', and 1 more; expected object right in \
annotation, with name and bndbox; write it so, or remove it"
    """
    found = list(_find_unread(file.content, OBJECT_LIKE, {"object"}))
    for target in file.content.find_all("object"):
        found += _find_unread(target, {"object"}, {"part"})
    if not found:
        return []
    above, first = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    what = f"looks like an object and is not read: {first.name[:60]!r} in {above.name[:60]!r}{more}"
    cure = "expected object right in annotation, with name and bndbox; write it so, or remove it"
    return [Problem(f"{file.path}:{first.line}", what, cure, id, lost=True)]


def _find_unread(
    element: Element, names: AbstractSet[str], known: AbstractSet[str] = frozenset()
) -> Iterator[tuple[Element, Element]]:
    """The outermost elements of some names inside another one, each with the element that holds it.

    Parameters
    ----------
    element : Element
        Where to look, at any depth.
    names : set of str
        In lower case, without the prefix of a namespace.
    known : set of str
        Elements right inside, by their very names, that are left out with what is in them.

    Examples
    --------
    >>> content = parse_xml("<a><object/><b><v:Object><object/></v:Object></b></a>")
    >>> [(above.name, part.name) for above, part in _find_unread(content, {"object"}, {"object"})]
    [('b', 'v:Object')]
    """
    for child in element.children:
        if child.name in known:
            continue
        if child.name.rpartition(":")[2].lower() in names:
            yield element, child
        else:
            yield from _find_unread(child, names)


def _stated_size(content: Element) -> tuple[str | None, str | None]:
    """Height and width that a file states; None for what is missing or 0, as some programs write it.

    Examples
    --------
    >>> _stated_size(parse_xml("<annotation><size><width>9</width><height>0</height></size></annotation>"))
    (None, '9')
    """
    size = content.find("size")
    texts = [None if size is None else size.text_of(name) for name in ("height", "width")]
    height, width = (text if text and text.strip("0.") else None for text in texts)
    return height, width


def _read_object(target: Element, size: tuple[int, int], from_zero: bool, names: Sequence[str] | None) -> Instance:
    """One object of a picture.

    Raises
    ------
    ValueError
        What is wrong with it.

    Examples
    --------
    >>> text = "<bndbox><xmin>2</xmin><ymin>1</ymin>{}</bndbox>"
    >>> text = f"<object><name>dog</name><difficult>1</difficult>{text}</object>"
    >>> dog = _read_object(parse_xml(text.format("<xmax>2</xmax><ymax>3</ymax>")), (4, 6), False, None)
    >>> dog.box_xyxy.tolist(), dog.is_crowd, dog.tags
    ([1.0, 0.0, 2.0, 3.0], True, {'difficult': True})
    >>> _read_object(parse_xml(text.format("<xmax>x</xmax><ymax>3</ymax>")), (4, 6), False, None)
    Traceback (most recent call last):
        ...
    ValueError: expected numbers as xmin, ymin, xmax, ymax, got '2', '1', 'x', '3'
    """
    category = target.text_of("name")
    if category is None:
        raise ValueError("no name in the object")
    if names is not None and category not in names:
        raise ValueError(f"{category!r} is no category; known: {', '.join(names)}")
    boxes = list(target.find_all("bndbox"))
    if len(boxes) != 1:
        raise ValueError(f"{len(boxes)} bndbox in the object, expected one" if boxes else "no bndbox in the object")
    texts = [boxes[0].text_of(name) for name in CORNERS]
    try:
        corners = np.array([read_number(text or "none") for text in texts])
    except ValueError:
        stated = ", ".join(repr((text or "")[:20]) for text in texts)
        raise ValueError(f"expected numbers as {', '.join(CORNERS)}, got {stated}") from None
    if not from_zero:
        corners[:2] -= 1
    cut_to_picture(corners, size)
    tags: dict[str, Any] = {name: True for name in FLAGS if _flag(target, name)}
    pose = target.text_of("pose")
    extra = {} if pose in (None, "Unspecified") else {"pose": pose}
    name = score_name(child.name for child in target.children)
    score = None if name is None else read_score(name, target.text_of(name) or "")
    return Instance(category, box_xyxy=corners, is_crowd="difficult" in tags, score=score, tags=tags, extra=extra)


def _flag(target: Element, name: str) -> bool:
    """Whether a flag of an object is set.

    Raises
    ------
    ValueError
        If it is neither 0 nor 1.

    Examples
    --------
    >>> _flag(parse_xml("<object><truncated>1</truncated></object>"), "truncated")
    True
    """
    text = (target.text_of(name) or "0").lower()
    if text not in ("0", "1", "false", "true", "unspecified"):
        raise ValueError(f"expected 0 or 1 as {name}, got {text[:20]!r}")
    return text in ("1", "true")
