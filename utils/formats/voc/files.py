"""XML files of a Pascal VOC data set: listing them by split, and finding the picture of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.errors import DataError
from utils.formats import specs
from utils.formats.file_names import FileNames
from utils.formats.labelme.files import PictureFolders
from utils.formats.moved import NO_FOLDER, parts_of
from utils.formats.pictures import is_picture, list_files, resolve_inside
from utils.formats.recognise import format_of_file
from utils.formats.text_files import LIST_SUFFIXES, find_listed, read_lines
from utils.formats.types import Problem
from utils.runtime.reading import kind_at

LABEL_FOLDERS = ("annotations", "labels", "xml", "xmls")  # in lower case
PICTURE_FOLDERS = ("JPEGImages", "images", "Images", "")  # "": the folder that holds the folder of labels
LISTS = "ImageSets/Main"


def list_labels(path: Path, spec: specs.Spec | None, root: Path, problems: list[Problem]) -> dict[str, list[Path]]:
    """The XML files of each split.

    In a folder with `ImageSets/Main`, its lists `train.txt`, `val.txt` and `test.txt` count (without train and val,
    `trainval.txt` as all); else folders named train, val (valid) or test, where all files lie in such; else all files
    are one set.

    Parameters
    ----------
    path : Path
        A folder, a list, one XML file, or the specification.
    spec : Spec, optional
        The specification, when `path` is one.
    root : Path
        Data root.
    problems : list of Problem
        Gets what is named and not there.

    Raises
    ------
    DataError
        If a split has no file at all.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("train/a.xml", "valid/b.xml"):
    ...     (folder / name).parent.mkdir()
    ...     _ = (folder / name).write_text("<annotation/>")
    >>> {split: [file.name for file in files] for split, files in list_labels(folder, None, folder, []).items()}
    {'train': ['a.xml'], 'val': ['b.xml']}
    """
    if spec is not None:
        found = {
            split: [file for source in sources for file in _expand(source, root, problems)]
            for split, sources in spec.splits().items()
        }
    elif path.is_dir():
        found = _by_lists(path, problems) or _by_folder(path, list(_expand(path, root, problems)))
    else:
        split = specs.split_of_name(path.name) if path.suffix.lower() in LIST_SUFFIXES else None
        found = {split or "all": list(_expand(path, root, problems))}
    for split, files in found.items():
        if not files:
            first = f"; first: {problems[0]}" if problems else ""
            raise DataError(f"{path}: {split}: no VOC file (*.xml){first}")
    return {split: list(dict.fromkeys(files)) for split, files in found.items()}


def _expand(source: Path, root: Path, problems: list[Problem]) -> Iterator[Path]:
    """The XML files in a folder or list, or the file itself.

    Raises
    ------
    DataError
        If it is something else.

    Examples
    --------
    >>> next(_expand(Path("a.xml"), Path("."), [])).name
    'a.xml'
    """
    if source.is_dir():
        folders, labels, passed = PictureFolders(), dict[str, list[Path]](), list[Path]()
        files = {file: format_of_file(file) == "voc" for file in list_files(source, (".xml",))}
        for file in (file for file, is_label in files.items() if is_label):
            labels.setdefault(file.stem, []).append(file)
        for file, is_label in files.items():
            if is_label or _is_of_picture(file, labels.get(file.stem, ()), root, folders):
                yield file
            elif file.stem in labels:
                passed.append(file)
        if passed:
            what = f"{len(passed)} XML files that are no VOC labels are passed over, such as {passed[0]}"
            cure = "correct those that were meant as labels: their pictures have labels elsewhere, which are read"
            problems.append(Problem(str(source), what, cure, blocks=False))
    elif source.suffix.lower() == ".xml":
        yield source
    elif source.suffix.lower() in LIST_SUFFIXES:
        names = FileNames()
        for number, line in read_lines(source):
            try:
                named = find_listed(line, source.parent, root)
                label = names.find(named.with_suffix(".xml")) if named is not None and is_picture(named) else named
            except ValueError as error:
                problems.append(Problem(f"{source}:{number}", str(error), "mend the line, or take it out"))
                continue
            if label is None:
                problems.append(
                    Problem(f"{source}:{number}", f"no such file: {line}", "put it there, or mend the line")
                )
            else:
                yield label
    else:
        raise DataError(f"{source}: expected a folder, an XML file or a list (.txt)")


def _is_of_picture(file: Path, labels: Sequence[Path], root: Path, folders: PictureFolders) -> bool:
    """Whether an XML file that is no VOC label has a picture of its name: it is meant as one, and reading it tells.

    Not where it lies beside that picture and one of the `labels` of its name is of it: then it is the metadata of a
    camera or a vendor of satellite pictures.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a.tif").touch()
    >>> _ = (folder / "a.xml").write_text("<isd/>")
    >>> [_is_of_picture(folder / name, [], folder, PictureFolders()) for name in ("a.xml", "b.xml", "a.tif.aux.xml")]
    [True, False, False]
    >>> _is_of_picture(folder / "a.xml", [folder / "Annotations" / "a.xml"], folder, PictureFolders())
    False
    """
    try:
        picture = find_picture(file, None, root, folders)
        if picture is None or file.parent != picture.parent or not file.stat().st_size:
            return picture is not None
        return all(find_picture(label, None, root, folders) != picture for label in labels)
    except DataError:  # several pictures have its name
        return True


def _by_lists(folder: Path, problems: list[Problem]) -> dict[str, list[Path]]:
    r"""Splits by the lists of `ImageSets/Main`, whose lines begin with a name without suffix; empty without any.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, text in {"Annotations/a.xml": "<annotation/>", "ImageSets/Main/val.txt": "a 1\nb -1"}.items():
    ...     (folder / name).parent.mkdir(parents=True)
    ...     _ = (folder / name).write_text(text)
    >>> problems = []
    >>> [file.name for file in _by_lists(folder, problems)["val"]], problems[0].what
    (['a.xml'], 'no such file: Annotations/b.xml')
    """
    lists = {name: folder / LISTS / f"{name}.txt" for name in ("train", "val", "test", "trainval")}
    there = {name: path for name, path in lists.items() if path.is_file()}
    if {"train", "val"} & there.keys():
        there.pop("trainval", None)
    found: dict[str, list[Path]] = {}
    names = FileNames()
    for name, path in there.items():
        files = found.setdefault("all" if name == "trainval" else name, [])
        for number, line in read_lines(path):
            wanted = folder / "Annotations" / f"{line.split()[0]}.xml"
            label = names.find(wanted)
            if label is not None:
                files.append(label)
            else:
                what = f"no such file: {wanted.relative_to(folder).as_posix()}"
                problems.append(Problem(f"{path}:{number}", what, "put it there, or take the line out"))
    return found


def _by_folder(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Splits by a folder named train, val (valid) or test in each file's path, else one set.

    Examples
    --------
    >>> files = [Path("/d/annotations/valid/a.xml"), Path("/d/b.xml")]
    >>> list(_by_folder(Path("/d"), files)), list(_by_folder(Path("/d"), files[:1]))
    (['all'], ['val'])
    """
    splits = [
        next((specs.SPLIT_WORDS[part] for part in file.relative_to(folder).parts[:-1] if part in specs.SPLIT_WORDS), "")
        for file in files
    ]
    if not all(splits):
        return {"all": list(files)}
    found: dict[str, list[Path]] = {}
    for split, file in zip(splits, files, strict=True):
        found.setdefault(split, []).append(file)
    return found


def find_picture(label: Path, stated: str | None, root: Path, folders: PictureFolders) -> Path | None:
    """Find the picture of an XML file.

    In this order: `filename` as a path from the XML file, or from a folder of pictures beside the folder of labels;
    in these folders and the data root the picture of that name, whatever the case of its suffix, then the only one of
    the XML file's stem.

    Parameters
    ----------
    label : Path
        The XML file.
    stated : str, optional
        Its `filename`.
    root : Path
        Data root; no picture outside of it is taken.
    folders : PictureFolders
        Of the data set.

    Raises
    ------
    DataError
        If several pictures may be meant, or the path cannot be followed.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("JPEGImages", "Annotations"):
    ...     (folder / name).mkdir()
    >>> (folder / "JPEGImages" / "a.JPG").touch()
    >>> find_picture(folder / "Annotations" / "a.xml", "a.jpg", folder, PictureFolders()).name
    'a.JPG'
    """
    parts = parts_of(stated) if stated else []
    name = parts[-1] if parts and is_picture(parts[-1]) else None
    places = picture_folders(label.parent, root)
    for place in places if name else ():
        try:
            direct = resolve_inside("", str(stated), place, root)
        except DataError:  # of another computer, or out of the data root: only its end counts
            continue
        try:
            if kind_at(direct) in NO_FOLDER:
                return direct
        except DataError as error:
            raise DataError(f"{label}: filename: {error}") from None
    found = (folders.find(label, place, name) for place in places)
    return next((picture for picture in found if picture is not None), None)


def picture_folders(folder: Path, root: Path) -> list[Path]:
    """Folders in which the pictures of a folder of labels may lie, the likeliest first, all in the data root.

    Examples
    --------
    >>> [str(place) for place in picture_folders(Path("/d/Annotations/day1"), Path("/d"))]
    ['/d/Annotations/day1', '/d/JPEGImages/day1', '/d/images/day1', '/d/Images/day1', '/d/day1', '/d']
    """
    own, top = folder.absolute(), root.absolute()
    places = [own]
    inside = own.relative_to(top).parts if own.is_relative_to(top) else ()
    at = [index for index, part in enumerate(inside) if part.lower() in LABEL_FOLDERS]
    if at:
        before, after = inside[: at[-1]], inside[at[-1] + 1 :]
        places += [top.joinpath(*before, name, *after) for name in PICTURE_FOLDERS]
    places += [top, *(top / name for name in PICTURE_FOLDERS[:2])]
    return [place for place in dict.fromkeys(places) if place == own or place.is_relative_to(top)][:6]
