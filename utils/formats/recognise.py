"""Which label format a file or folder holds, by its content."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from utils.errors import DataError
from utils.formats.masks.layout import CLASSES, find_splits
from utils.formats.other_files import describe_other, describe_others, holds_rows, outermost_element
from utils.formats.pictures import PICTURE_SUFFIXES, list_files
from utils.formats.specs import SPLIT_KEYS, SUFFIXES, read_yaml
from utils.formats.tables.columns import find_columns, first_row
from utils.formats.types import FORMATS
from utils.runtime.reading import UTF16, check_regular, file_errors

logger = logging.getLogger(__name__)

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb")
_OF_BOXES = {"voc": "VOC (xml)", "csv": "tables of boxes (csv)", "vector": "vector files"}
_PEEK = 2**16


def find_source(path: Path, format: str = "auto") -> tuple[Path, str]:
    """Find what to read, and its format.

    In a folder the first of these counts: a specification file (YAML with `kpt_shape` or `format`), COCO files right in
    it, in `annotations` or of that name, LabelMe files, DeepLabCut tables, CVAT files, exports of FiftyOne, a
    specification of a YOLO set without keypoints (YAML with `names` and a split), COCO files elsewhere, VOC files,
    tables of boxes, vector files, masks of classes with classes.txt, pictures with YOLO's rows.

    Parameters
    ----------
    path : Path
        A file or folder that exists.
    format : str
        A format, or auto.

    Returns
    -------
    tuple of Path and str
        The file or folder to read, and its format.

    Raises
    ------
    DataError
        If the content is of no format, or a folder has several specification files.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "data.yaml").write_text("kpt_shape: [4, 3]")
    >>> source, format = find_source(folder)
    >>> source.name, format
    ('data.yaml', 'yolo')
    """
    if path.is_dir():
        return _find_in_folder(path, format)
    if path.suffix.lower() in (".h5", ".hdf5"):
        raise DataError(f"{path}: DeepLabCut's tables are read as csv; name the csv beside it (DeepLabCut writes both)")
    found = format_of_file(path)
    if format == "auto" and found is None:
        if what := describe_other(path):
            raise DataError(f"{path}: {what}")
        raise DataError(
            f"{path}: no known label format; tried a specification (YAML with kpt_shape, format or names), "
            "LabelMe, COCO and FiftyOne (JSON), lists and indexes (txt, list, jsonl), DeepLabCut and boxes (csv), CVAT "
            "and VOC (xml), vector files"
        )
    return path, found if format == "auto" and found is not None else format


def _find_in_folder(folder: Path, format: str) -> tuple[Path, str]:
    """Find the specification file of a folder, or its label files.

    Raises
    ------
    DataError
        If there is neither, or several specifications.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    >>> _find_in_folder(folder, "auto")[1]
    'labelme'
    """
    certain = _spec_of_folder(folder, format, certain=True)
    if certain:
        return certain
    if format in FORMATS and format != "yolo":
        return folder, format
    files = list_files(folder, (".json", ".csv", ".xml", *VECTOR_SUFFIXES)) if format == "auto" else []
    found: dict[str | None, list[Path]] = {}
    for file in files:
        found.setdefault(format_of_file(file, certain=True), []).append(file)
    among_pictures = not any(_is_usual_coco(file.relative_to(folder)) for file in found.get("coco", ()))
    sure = ("labelme", "deeplabcut", "cvat", "fiftyone")
    for candidate in sure if among_pictures else ("coco", *sure):
        if candidate in found:
            return folder, candidate
    likely = _spec_of_folder(folder, format, certain=False)
    if likely is None and "coco" in found:
        return folder, "coco"
    of_boxes = [candidate for candidate in _OF_BOXES if candidate in found]
    if likely is None and of_boxes:
        if len(of_boxes) > 1:
            others = " and ".join(_OF_BOXES[other] for other in of_boxes[1:])
            logger.warning("%s: %s are read, and %s in it passed over", folder, _OF_BOXES[of_boxes[0]], others)
        return folder, of_boxes[0]
    if likely is None and find_splits(folder):
        return folder, "masks"
    if likely is None and has_rows(folder):
        return folder, "yolo"
    rows = (file for file in list_files(folder, (".txt",)) if likely is None and file.is_file() and holds_rows(file))
    if (lone := next(rows, None)) is not None:
        raise DataError(f"{lone}: {describe_other(lone)}")
    if likely is None and format == "yolo":
        raise DataError(f"{folder}: no YAML with kpt_shape or names in it, so what rows hold is unknown; add one")
    if likely is None:
        raise DataError(
            f"{folder}: no labels; tried a specification (YAML with kpt_shape, format or names), "
            "COCO, LabelMe and FiftyOne (JSON), DeepLabCut and boxes (csv), CVAT and VOC (xml), vector files, YOLO's "
            f"rows (txt){describe_others(folder)}"
        )
    return likely


def _is_usual_coco(file: Path) -> bool:
    """Whether a COCO file lies in a data set where COCO files do.

    Parameters
    ----------
    file : Path
        Relative to the folder of the data set.

    Examples
    --------
    >>> names = ("labels.json", "Annotations/a/b.json", "train/_annotations.coco.json", "images/labels.json")
    >>> [_is_usual_coco(Path(name)) for name in names]
    [True, True, True, False]
    """
    *folders, name = map(str.lower, file.parts)
    return not folders or folders[0] == "annotations" or (len(folders) == 1 and "annotations" in name)


def formats_in(folder: Path) -> dict[str, Path]:
    """Every label format that a folder surely holds, each with a file of it.

    Parameters
    ----------
    folder : Path
        It and all folders inside are looked through, for specifications only itself.

    Returns
    -------
    dict of str to Path
        Rows of YOLO without their specification count too, although they cannot be read without it: beside a picture
        or another label of their name, or in a folder `labels`.

    Raises
    ------
    DataError
        If a specification names an unknown format.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    >>> _ = (folder / "b.json").write_text('{"images": [], "annotations": []}')
    >>> _ = (folder / "a.txt").write_text("0 0.5 0.5 0.25 0.125"), (folder / "a.png").touch()
    >>> {name: path.name for name, path in formats_in(folder).items()}
    {'labelme': 'a.json', 'coco': 'b.json', 'yolo': 'a.txt'}
    """
    found: dict[str, Path] = {}
    specs = (file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    for file in (*specs, *list_files(folder, (".json", ".csv", ".xml"))):
        if file.is_file() and (kind := format_of_file(file, certain=file.suffix.lower() not in SUFFIXES)):
            found.setdefault(kind, file)
    named = {path.with_suffix("") for path in list_files(folder, (*PICTURE_SUFFIXES, ".json", ".xml"))}
    rows = (
        file
        for file in list_files(folder, (".txt",))
        if file.with_suffix("") in named or "labels" in (folder.name, *file.relative_to(folder).parts[:-1])
    )
    labelled = next((file for file in rows if file.is_file() and holds_rows(file)), None)
    if labelled is not None:
        found.setdefault("yolo", labelled)
    return found


def other_formats(folder: Path, taken: str, setting: str = "the format of the labels") -> str:
    """Say which labels of a folder are not read, as they are of another format, and how to read them; empty if none.

    Parameters
    ----------
    folder : Path
        What is no folder is the label file itself.
    taken : str
        The format that is read.
    setting : str
        What chooses the format.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    >>> print(other_formats(folder, "coco").removeprefix(str(folder)))
    : holds labels of several formats; coco is read, labelme (such as a.json) is not; to read those, set the format \
of the labels, or name their file
    >>> other_formats(folder, "labelme")
    ''
    >>> _ = (folder / "a.txt").write_text("0 .5 .5 .25 .25")
    >>> other_formats(folder, "labelme").partition("yolo")[2]  # doctest: +ELLIPSIS
    ' (such as a.txt) is not; to read those, write a data.yaml with names, train (the folder of their pictures) ...'
    """
    found = formats_in(folder) if folder.is_dir() else {}
    others = {name: file for name, file in found.items() if name != taken}
    if not others:
        return ""
    listed = " and ".join(f"{name} (such as {file.relative_to(folder)})" for name, file in others.items())
    bare = "yolo" in others and others["yolo"].suffix.lower() == ".txt"  # without what names classes and points
    ways = [f"set {setting}, or name their file"] if set(others) - ({"yolo"} if bare else set()) else []
    if bare:
        spec = "a data.yaml with names, train (the folder of their pictures) and, for keypoints, kpt_shape"
        ways.append(
            f"{'for yolo, ' if ways else ''}write {spec}, beside the folders of pictures and labels, and name it"
        )
    verb = "is" if len(others) == 1 else "are"
    read = f"{folder}: holds labels of several formats; {taken} is read, {listed} {verb} not"
    return f"{read}; to read those, {'; '.join(ways)}"


def _spec_of_folder(folder: Path, format: str, certain: bool) -> tuple[Path, str] | None:
    """The specification file of a folder that is of the format, if there is one.

    Raises
    ------
    DataError
        If there are several, and none is named data.yaml or dataset.yaml.

    Examples
    --------
    >>> import tempfile
    >>> _spec_of_folder(Path(tempfile.mkdtemp()), "auto", certain=False) is None
    True
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    found = {file: kind for file in files if (kind := format_of_file(file, certain)) and format in ("auto", kind)}
    usual = [file for file in found if file.stem in ("data", "dataset")]
    if len(found) > 1 and len(usual) != 1:
        raise DataError(f"{folder}: several specifications: {', '.join(file.name for file in found)}; name one of them")
    return next(((file, found[file]) for file in usual or found), None)


def format_of_file(path: Path, certain: bool = False) -> str | None:
    r"""Format of a file by its content, or None.

    Parameters
    ----------
    path : Path
        The file.
    certain : bool
        Whether a JSON file must look wholly like COCO's, and a YAML file have `format` or `kpt_shape`; else one sign,
        or `names` and a split, are enough, and reading tells what is missing.

    Raises
    ------
    DataError
        If a specification names an unknown format.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "CollectedData.csv"
    >>> _ = path.write_text("scorer,a,a\nbodyparts,nose,nose\ncoords,x,y\n")
    >>> format_of_file(path)
    'deeplabcut'
    >>> _ = (path.parent / "a.xml").write_text("<!-- <a> --><annotations><meta/></annotations>")
    >>> format_of_file(path.parent / "a.xml")
    'cvat'
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return _format_of_spec(path, certain)
    if path.name == CLASSES and find_splits(path.parent):
        return "masks"
    if suffix == ".json":
        return _format_of_json(path, certain)
    if suffix in (".jsonl", ".txt", ".list"):
        return _format_of_list(path)
    if suffix == ".csv":
        return _format_of_table(_peek(path))
    if suffix == ".xml":  # not the notes of GDAL beside a raster, and other XML
        text = _peek(path)
        if outermost_element(text) == "annotations":
            return "cvat"
        return "voc" if re.search(r"<annotation[\s/>]", text, re.IGNORECASE) else None
    return "vector" if suffix in VECTOR_SUFFIXES else None


def _format_of_table(text: str) -> str | None:
    """Format of a csv by its beginning, or None; a table of boxes with scores is one of predictions, not of labels.

    Examples
    --------
    >>> header = "image_path,xmin,ymin,xmax,ymax,label"
    >>> _format_of_table(header), _format_of_table(header + ",score") is None
    ('csv', True)
    """
    if re.search(r"^bodyparts,", text, re.MULTILINE):
        return "deeplabcut"
    try:
        columns = find_columns(first_row(text))
    except ValueError:  # a name stands in the header twice: the reader tells
        return "csv"
    return "csv" if columns is not None and columns.score is None else None


def has_rows(folder: Path) -> bool:
    """Whether a folder holds pictures and labels as YOLO has them, in `labels` or beside the pictures.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.txt").write_text("0 .5 .5 .25 .25")
    >>> has_rows(folder)
    False
    >>> (folder / "a.png").touch()
    >>> has_rows(folder)
    True
    """
    stems = {file.with_suffix("") for file in list_files(folder, PICTURE_SUFFIXES)}
    for file in list_files(folder, (".txt",)) if stems else ():
        is_label = file.with_suffix("") in stems or "labels" in file.relative_to(folder).parts[:-1]
        if is_label and file.is_file() and holds_rows(file):
            return True
    return False


def _format_of_spec(path: Path, certain: bool = False) -> str | None:
    """Format that a YAML file speaks of, or None where it is no specification.

    Raises
    ------
    DataError
        If it names an unknown format.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "data.yaml"
    >>> _ = path.write_text("format: lableme")
    >>> _format_of_spec(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../data.yaml: format: expected one of yolo, labelme, coco, deeplabcut, cvat, \
fiftyone, voc, csv, vector, masks, got 'lableme'
    """
    keys = read_yaml(path)
    stated = keys.get("format")
    if stated is None:
        is_likely = ("names" in keys or "nc" in keys) and any(key in keys for key in SPLIT_KEYS)
        return "yolo" if "kpt_shape" in keys or (is_likely and not certain) else None
    if stated not in FORMATS:
        raise DataError(f"{path}: format: expected one of {', '.join(FORMATS)}, got {stated!r}")
    return stated


def _format_of_json(path: Path, certain: bool = False) -> str | None:
    """Format of a JSON file by the words at its beginning and end, or None; a list may be one of COCO's results.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text('{"images": [], "annotations": []}')
    >>> _format_of_json(path)
    'coco'
    >>> _ = path.write_text("[1, 2]")
    >>> _format_of_json(path), _format_of_json(path, certain=True)
    ('coco', None)
    >>> _ = path.write_text('{"samples": [{"filepath": "data/a.png"}]}')
    >>> _format_of_json(path)
    'fiftyone'
    """
    text = _peek(path)
    if re.match(r'\ufeff?\s*\{\s*"samples"\s*:\s*\[', text):
        return "fiftyone"
    if path.name == "metadata.json" and (
        path.with_name("samples").is_dir() or path.with_name("samples.json").is_file()
    ):
        return "fiftyone"
    if re.search(r'"shapes"\s*:\s*\[', text):
        return "labelme"
    if re.search(r'"type"\s*:\s*"FeatureCollection"', text):
        return "vector"
    signs = sum(f'"{word}"' in text for word in ("images", "annotations", "categories", "image_id"))
    is_list = text.lstrip("\ufeff \n\r\t").startswith("[")
    if certain:
        return "coco" if signs >= 2 and not is_list else None
    return "coco" if signs or is_list else None


def _format_of_list(path: Path) -> str | None:
    r"""Format of a list by its first line; a list of pictures is LabelMe's where JSON lies beside them.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_text("labels/a.json\n")
    >>> _format_of_list(path)
    'labelme'
    """
    line = next((line.strip() for line in _peek(path).splitlines() if line.strip()), "").replace("\\", "/")
    if path.suffix.lower() == ".jsonl" or line.lower().endswith(".json"):
        return "labelme"
    if line.lower().endswith(".xml"):
        return "voc"
    return "labelme" if line and (path.parent / line).with_suffix(".json").is_file() else None


def _peek(path: Path) -> str:
    """Beginning and end of a text file in UTF-8; XML may be in UTF-16 with a byte order mark.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> _ = path.write_text("begin" + " " * 200_000 + "end")
    >>> text = _peek(path)
    >>> text[:5], text[-3:], len(text) < 200_000
    ('begin', 'end', True)
    """
    with file_errors(path, "cannot be read"):
        check_regular(path)
        with open(path, "rb") as stream:
            head = stream.read(_PEEK)
            size = stream.seek(0, 2)
            stream.seek(max(_PEEK, size - _PEEK) & ~1)  # at a whole character of UTF-16
            text = head + stream.read()
    is_utf16 = path.suffix.lower() == ".xml" and text.startswith(UTF16)
    return text.decode("utf-16" if is_utf16 else "utf-8", errors="replace")
