"""Picture files that labels speak of: where they lie, their ids, their content, and copies of them."""

from __future__ import annotations

import base64
import binascii
import json
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.errors import DataError
from utils.formats.types import AnnotatedPicture
from utils.runtime.files import sync, temporary_folder, walk_files, write_bytes
from utils.runtime.reading import MAX_PICTURE_BYTES, file_errors, read_bounded, read_bounded_text

_CONTROLS = re.compile("[\x00-\x1f\x7f\u0085\u2028\u2029]")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_STARTS = {b"\xff\xd8": ".jpg", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif", b"RIFF": ".webp"}


def is_picture(path: str | Path) -> bool:
    """Whether a name ends as a picture's does.

    Examples
    --------
    >>> is_picture("a.JPG"), is_picture("a.json")
    (True, False)
    """
    return os.path.splitext(str(path))[1].lower() in PICTURE_SUFFIXES


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with these suffixes in a folder and all folders inside, sorted, hidden ones left out.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.png", "a.PNG", ".c.png", "d.txt"):
    ...     (folder / name).touch()
    >>> [path.name for path in list_files(folder, PICTURE_SUFFIXES)]
    ['a.PNG', 'b.png']
    """
    return [path for path in walk_files(folder) if path.suffix.lower() in suffixes]


def plain_path(text: str) -> str:
    r"""Write a path of a label with slashes, whichever system it comes from.

    Examples
    --------
    >>> plain_path("..\\images\\a.png")
    '../images/a.png'
    """
    return text.strip().replace("\\", "/")


def is_absolute(text: str) -> bool:
    """Whether a path starts at a root, of this system or of Windows, or is an address.

    Examples
    --------
    >>> is_absolute("/data/a.png"), is_absolute("C:/data/a.png"), is_absolute("s3://data/a.png")
    (True, True, True)
    >>> is_absolute("data/a.png")
    False
    """
    return text.startswith("/") or re.match(r"[A-Za-z]:/|[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def resolve_inside(where: str, text: str, folder: Path, root: Path) -> Path:
    """Path that a label names, which must stay within the data root.

    The check is one of words: links that the user has put into the root are the user's own.

    Parameters
    ----------
    where : str
        For the error: the file and what in it.
    text : str
        The path as written, absolute or relative to `folder`.
    folder, root : Path
        Where the label lies, and the data root.

    Raises
    ------
    DataError
        If the path leads out of the root.

    Examples
    --------
    >>> resolve_inside("a.json", "../images/a.png", Path("/data/labels"), Path("/data")).as_posix()
    '/data/images/a.png'
    >>> resolve_inside("a.json: imagePath", "../../etc/x.png", Path("/data/labels"), Path("/data"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.json: imagePath: '../../etc/x.png' is outside of the data root /data; name a \
picture inside, or give another root
    """
    plain = plain_path(text)
    if is_absolute(plain):
        joined = posixpath.normpath(plain)
    else:
        joined = posixpath.normpath(posixpath.join(folder.absolute().as_posix(), plain))
    top = posixpath.normpath(root.absolute().as_posix())
    if joined != top and not joined.startswith(top.rstrip("/") + "/"):
        raise DataError(
            f"{where}: {text!r} is outside of the data root {root}; name a picture inside, or give another root"
        )
    return Path(joined)


def picture_ids(paths: Iterable[Path], root: Path) -> dict[Path, str]:
    """Name pictures by their path relative to the root, without suffix where that tells them apart.

    Parameters
    ----------
    paths : iterable of Path
        All pictures of a data set, of every split.
    root : Path
        Data root; a picture elsewhere is named by its whole path.

    Returns
    -------
    dict of Path to str

    Examples
    --------
    >>> paths = [Path("/data/a/x.png"), Path("/data/a/y.png"), Path("/data/a/y.jpg"), Path("/other/z.png")]
    >>> list(picture_ids(paths, Path("/data")).values())
    ['a/x', 'a/y.png', 'a/y.jpg', 'other/z']
    """
    top = os.path.normpath(root.absolute())
    names: dict[Path, str] = {}
    counts: dict[str, int] = {}
    for path in paths:
        if path in names:
            continue
        relative = os.path.relpath(os.path.normpath(path.absolute()), top).replace(os.sep, "/")
        names[path] = os.path.normpath(path.absolute()).lstrip("/") if relative.startswith("../") else relative
        stem = os.path.splitext(names[path])[0]
        counts[stem] = counts.get(stem, 0) + 1
    stems = {path: os.path.splitext(name)[0] for path, name in names.items()}
    return {path: stem if counts[stem] == 1 else names[path] for path, stem in stems.items()}


def picture_bytes(picture: AnnotatedPicture) -> bytes:
    """Encoded content of a picture: of its file, or of the LabelMe file that it is embedded in.

    Parameters
    ----------
    picture : AnnotatedPicture
        Embedded when `extra["image_data"]` is "embedded"; the data is read anew, so that a set stays small.

    Returns
    -------
    bytes
        For `cv2.imdecode`.

    Raises
    ------
    DataError
        If the file is gone, or the embedded data is damaged.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text('{"imageData": "cGl4ZWxz"}')
    >>> picture_bytes(AnnotatedPicture("a", path, (4, 6), (), {"image_data": "embedded"}))
    b'pixels'
    """
    if not picture.path.is_file():
        raise DataError(f"{picture.path}: no such picture; put it there, or mend the label that names it")
    if picture.extra.get("image_data") != "embedded":
        return read_bounded(picture.path, MAX_PICTURE_BYTES)
    with file_errors(picture.path, "cannot be read as LabelMe JSON with an embedded picture"):
        return decode_embedded(picture.path, json.loads(read_bounded_text(picture.path))["imageData"])


def decode_embedded(path: Path, text: str) -> bytes:
    """Decode a picture that is written into a LabelMe file.

    Raises
    ------
    DataError
        If the text is not base64.

    Examples
    --------
    >>> decode_embedded(Path("a.json"), "cGl4ZWxz")
    b'pixels'
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{path}: imageData is damaged ({error}); put the picture beside the file") from None


def place_picture(picture: AnnotatedPicture, target: Path) -> None:
    """Put a picture into a data set: a second name of the same file where the system allows it, else a copy.

    Parameters
    ----------
    picture : AnnotatedPicture
        An embedded one becomes a file.
    target : Path
        New name; one that is there already is replaced.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"pixels")
    >>> place_picture(AnnotatedPicture("a", folder / "a.png", (4, 6), ()), folder / "deep" / "b.png")
    >>> (folder / "deep" / "b.png").read_bytes()
    b'pixels'
    """
    if picture.extra.get("image_data") == "embedded":
        write_bytes(target, picture_bytes(picture))
        return
    if target.exists() and target.samefile(picture.path):
        return
    with temporary_folder(target) as folder:
        try:
            os.link(picture.path.resolve(), folder / target.name)
        except OSError:  # another disk, or a file that is not ours
            write_bytes(target, picture_bytes(picture))
            return
        os.replace(folder / target.name, target)
    sync(target.parent)


def new_names(pictures: Sequence[AnnotatedPicture]) -> list[str]:
    """File names for pictures in a new folder: their ids without the folders that all of them share.

    No two have the same stem, because a label is found by it. Line ends and the like, which tables and lists of others
    do not hold, become "_". An embedded picture has the suffix that its data should
    have.

    Examples
    --------
    >>> paths = {"images/train/a": "a.png", "images/train/b/c": "c.jpg", "images/train/a.jpg": "a.jpg"}
    >>> new_names([AnnotatedPicture(id, Path(path), (4, 6), ()) for id, path in paths.items()])
    ['a.png', 'b/c.jpg', 'a_jpg.jpg']
    """
    shared = posixpath.commonpath([posixpath.dirname(picture.id) for picture in pictures]) if pictures else ""
    names, taken = [], set()
    for picture in pictures:
        stem, suffix = picture.id[len(shared) + 1 if shared else 0 :], picture.path.suffix
        if picture.extra.get("image_data") == "embedded":
            data = picture_bytes(picture)
            suffix = next((end for start, end in _STARTS.items() if data.startswith(start)), ".png")
        if suffix and stem.endswith(suffix):  # an id keeps its suffix where the stem alone was not unique
            stem = f"{stem.removesuffix(suffix)}_{suffix[1:]}"
        stem, suffix = (_CONTROLS.sub("_", part) for part in (stem, suffix))
        while stem in taken:
            stem += "_"
        taken.add(stem)
        names.append(stem + suffix)
    return names
