"""What a file is that holds no labels in a known format, and what to do with it."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from utils.formats.pictures import is_absolute, list_files, plain_path
from utils.formats.predictions import CURE
from utils.formats.specs import SPLIT_KEYS, SUFFIXES, read_yaml
from utils.formats.tables.columns import find_columns, first_row, is_headerless
from utils.media.videos import is_video
from utils.runtime.reading import UTF16

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
HDF5 = (".h5", ".hdf5")
OTHER_SUFFIXES = (*_ARCHIVES, *_SHEETS, *HDF5, ".csv", ".xml", *SUFFIXES)  # of files that may be taken for labels
_DEEPLABCUT_KEYS = ("Task", "scorer", "video_sets", "bodyparts")
_PEEK = 2**16
_MOST_LISTED = 2**23  # bytes of the names in an archive
_ROW = re.compile(r"\d{1,6}(?:\.0*)?(?:\s+[-+0-9.eE]+){4,}$")  # of a YOLO label


def describe_other(path: Path) -> str | None:
    r"""Say what a file is that holds no labels in a known format, and what to do; None where that is not known.

    Parameters
    ----------
    path : Path
        A file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
    >>> _ = path.write_text("scorer;a;a\nbodyparts;nose;nose\ncoords;x;y\n")
    >>> describe_other(path)
    'a table with semicolons, as spreadsheets save csv in some languages; save it with commas between the cells'
    """
    suffix = path.suffix.lower()
    if suffix in _SHEETS:
        return "a spreadsheet; save it as csv, with commas between the cells"
    if suffix in HDF5:
        return "HDF5, and DeepLabCut's tables are read as csv; put the csv beside it (DeepLabCut writes both)"
    if zipfile.is_zipfile(path):
        return _describe_zip(path)
    if suffix in _ARCHIVES:
        return "an archive; unpack it and name the folder"
    if is_video(path):
        return "a video without labels; name the labels of its frames, or the video in inference.inputs"
    if suffix == ".csv":
        return _describe_table(path)
    if suffix in SUFFIXES:
        return _describe_project(path)
    if suffix == ".txt" and holds_rows(path):
        return "rows of a YOLO label; name the folder that holds images and labels, or its data.yaml"
    return _describe_xml(path) if suffix == ".xml" and not path.name.lower().endswith(".aux.xml") else None


def _describe_zip(path: Path) -> str:
    """What a zip holds by the names in it; nothing is unpacked, and of very many files not even the names are read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "set.zip"
    >>> with zipfile.ZipFile(path, "w") as archive:
    ...     for name in ("project.json", "task_0/task.json", "task_0/annotations.json"):
    ...         archive.writestr(name, "")
    >>> _describe_zip(path)[:78]
    'a backup of CVAT, which only CVAT reads; restore it there, export the labels a'
    >>> with zipfile.ZipFile(path, "w") as archive:
    ...     archive.writestr("../labels.json", "")
    >>> _describe_zip(path)
    "an archive with names that lead out of its folder, such as '../labels.json'; do not unpack it as it is"
    """
    try:
        if not 0 < _listed_bytes(path) <= _MOST_LISTED:
            return "an archive; unpack it and name the folder"
        with open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
            names = [plain_path(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "an archive that is damaged; copy or export it again"
    out = next((name for name in names if is_absolute(name) or ".." in name.split("/")), None)
    if out is not None:
        return f"an archive with names that lead out of its folder, such as {out[:60]!r}; do not unpack it as it is"
    lasts = {name.rpartition("/")[2] for name in names}
    if "project.json" in lasts or {"task.json", "annotations.json"} <= lasts:
        exports = "'CVAT for images 1.1' or 'CVAT for video 1.1', with images"
        restore = f"restore it there, export the labels as {exports}, and unpack that"
        return f"a backup of CVAT, which only CVAT reads; {restore}"
    kinds = {"annotations.xml": "an export of CVAT, packed", "samples.json": "an export of FiftyOne, packed"}
    what = next((kind for name, kind in kinds.items() if name in lasts), "an archive")
    return f"{what}; unpack it and name the folder"


def _listed_bytes(path: Path) -> int:
    """How long the list of names of a zip is, in bytes, as its end says; more than can be said there counts as endless.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "set.zip"
    >>> with zipfile.ZipFile(path, "w") as archive:
    ...     archive.writestr("a.json", "")
    >>> _listed_bytes(path)
    52
    """
    with open(path, "rb") as stream:
        start = max(stream.seek(0, 2) - _PEEK - 22, 0)  # the end may have a comment
        stream.seek(start)
        tail = stream.read()
    place = tail.rfind(b"PK\5\6")
    count, size = struct.unpack_from("<HI", tail, place + 10) if 0 <= place <= len(tail) - 22 else (0, 0)
    return 2**32 if count == 2**16 - 1 else size


def holds_rows(path: Path) -> bool:
    r"""Whether the first line of a text file looks like a row of a YOLO label.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("\n0 .5 .5 .25 .25\n")
    >>> holds_rows(path)
    True
    >>> _ = path.write_text("images/a.png")
    >>> holds_rows(path)
    False
    """
    with open(path, "rb") as stream:
        text = stream.read(_PEEK).decode("utf-8-sig", errors="replace")
    return _ROW.match(next((line.strip() for line in text.splitlines() if line.strip()), "")) is not None


def describe_others(folder: Path) -> str:
    """Name the first file of a folder that is no labels in a known format, and what to do, after a semicolon.

    Parameters
    ----------
    folder : Path
        Files in it come before those in folders inside.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> describe_others(folder)
    ''
    >>> (folder / "day1").mkdir()
    >>> (folder / "day1" / "CollectedData_me.h5").touch()
    >>> describe_others(folder)[:48]
    '; day1/CollectedData_me.h5 is HDF5, and DeepLabC'
    """
    files = sorted(list_files(folder, OTHER_SUFFIXES), key=lambda file: (file.suffix == ".xml", file.parent != folder))
    found = ((file, what) for file in files if (what := describe_other(file)))
    return next((f"; {file.relative_to(folder)} is {what}" for file, what in found), "")


def _describe_table(path: Path) -> str:
    r"""What a csv is that is no table of DeepLabCut.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "boxes.csv"
    >>> _ = path.write_text("image_path,xmin,ymin,label\na.png,1,2,Tree\n")
    >>> _describe_table(path)[:47]
    "a table with the columns 'image_path', 'xmin', "
    >>> _ = path.write_text("image_path,xmin,ymin,xmax,ymax,label,score\na.png,1,2,3,4,Tree,.5\n")
    >>> _describe_table(path)[:51]
    "a table of predictions: it has a column 'score'; la"
    >>> _ = path.write_text("a.png,1,2,3,4,Tree\n")
    >>> _describe_table(path)[:44]
    'a table without a header, as its first line '
    """
    with open(path, "rb") as stream:
        head = stream.read(_PEEK)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "a table in UTF-16, as spreadsheets save it; save it as csv in UTF-8, with commas between the cells"
    first, _, rest = head.decode("utf-8-sig", errors="replace").partition("\n")
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if re.search(rf"^\"?bodyparts\"?{sign}", rest, re.MULTILINE) or first.count(sign) > first.count(","):
            how = "as spreadsheets save csv in some languages; save it with commas between the cells"
            return f"a table with {name}, {how}"
    row = first_row(head.decode("utf-8-sig", errors="replace"))
    columns = find_columns(row)
    if columns is not None and columns.score is not None:
        name = row[columns.score].strip()
        return f"a table of predictions: it has a column {name!r}; {CURE}"
    needed = "image_path, xmin, ymin, xmax, ymax, label"
    if is_headerless(row):
        which = "its corners are in, which only a header tells"
        return f"a table without a header, as its first line holds a box; add one ({needed} in the order that {which})"
    names = ", ".join(repr(cell.strip()) for cell in first.split(",")[:6])
    return (
        f"a table with the columns {names}, not one of DeepLabCut, whose rows begin with scorer, bodyparts and "
        f"coords, nor one of boxes, whose header names {needed}; name its columns so, or convert it to COCO or YOLO"
    )


def _describe_xml(path: Path) -> str:
    r"""What an XML file is that is no label of VOC.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "annotations.xml"
    >>> _ = path.write_text("<?xml version='1.0'?>\n<!-- <a> -->\n<opencv_storage/>")
    >>> _describe_xml(path)
    "XML of 'opencv_storage', and VOC has 'annotation', CVAT 'annotations'; export it as one of these, COCO or YOLO"
    >>> _ = path.write_text("")
    >>> _describe_xml(path)
    'an empty file'
    """
    with open(path, "rb") as stream:
        head = stream.read(_PEEK)
    if not head.strip():
        return "an empty file"
    found = outermost_element(head.decode("utf-16" if head.startswith(UTF16) else "utf-8", errors="replace"))
    if found is None:
        return "not XML, as its name says"
    known = "VOC has 'annotation', CVAT 'annotations'"
    return f"XML of {found[:60]!r}, and {known}; export it as one of these, COCO or YOLO"


def outermost_element(text: str) -> str | None:
    """Name of the element that holds all others, out of the beginning of an XML file; None where there is none.

    Examples
    --------
    >>> outermost_element("<?xml version='1.0'?><!-- <a> --><annotations><meta/>"), outermost_element("a,b")
    ('annotations', None)
    """
    found = re.search(r"<([^\s<>!?/][^\s<>/]*)", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    return found[1] if found else None


def _describe_project(path: Path) -> str | None:
    r"""What a YAML file is that describes no labels.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "config.yaml"
    >>> _ = path.write_text("Task: reach\nscorer: ann\nvideo_sets: {}\nbodyparts: [paw]\n")
    >>> _describe_project(path)
    'the configuration of a DeepLabCut project; name its folder labeled-data, with the CollectedData csv files'
    >>> _ = path.write_text("path: .\ntrain: images\n")
    >>> _describe_project(path)
    'a specification of labels that does not say names, the classes; add that, or format: if it is no YOLO'
    """
    keys = read_yaml(path)
    if sum(key in keys for key in _DEEPLABCUT_KEYS) >= 3:
        folder = "labeled-data, with the CollectedData csv files"
        return f"the configuration of a DeepLabCut project; name its folder {folder}"
    if {"paths", "dataset", "tasks"} & set(keys) or isinstance(keys.get("train"), Mapping):  # of YOLO it is a path
        return "a settings file of this program; name the labels themselves"
    named, split = "names" in keys or "nc" in keys, any(keys.get(key) is not None for key in SPLIT_KEYS)
    if not named and not split and "path" not in keys:
        return None
    lacking = [] if named else ["names, the classes"]
    lacking += [] if split else ["train, val, test or all, each a folder or a list of pictures"]
    return f"a specification of labels that does not say {' and '.join(lacking)}; add that, or format: if it is no YOLO"
