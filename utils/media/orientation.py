r"""How pictures are to be turned: one rule for every kind of task.

A picture, mask or label is turned as its EXIF orientation says, in JPEG, PNG, WebP and TIFF, unless it has a place on
Earth, which counts on pixels as they are stored. A PNG may hold its EXIF in a chunk `eXIf`, or in a text "Raw profile
type exif" or "APP1", as ImageMagick writes it and OpenCV reads it. An orientation in XMP alone is not followed, only
told: Windows and Pillow follow it, OpenCV and GDAL do not.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image

HEADERS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # what Pillow and OpenCV read alike
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_START = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_PLACE_TAGS = (33550, 33922, 34264)  # of a GeoTIFF: pixel scale, tie points, transformation
_XMP_TAG = 700  # of a TIFF
_MOST_TEXT = 2**20  # bytes of a text of a PNG, as in Pillow; EXIF of a JPEG is at most 64 KiB
_RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
_IN_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])\b""")


def picture_orientation(path: str | Path) -> int:
    """Read the orientation by which a picture file is turned, 1 to 8.

    Parameters
    ----------
    path : str or Path
        A file that exists.

    Returns
    -------
    int
        1 where its EXIF says none, cannot be read, or the picture has a place on Earth.

    References
    ----------
    Exif 2.32 and TIFF 6.0, tag 274.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.tif"
    >>> Image.new("L", (6, 4)).save(path, tiffinfo={274: 6})
    >>> picture_orientation(path)
    6
    """
    return _orientations(path)[0]


def ignored_orientation(path: str | Path) -> int:
    r"""Read an orientation that only the XMP of a picture file gives, 1 to 8.

    Parameters
    ----------
    path : str or Path
        A file that exists.

    Returns
    -------
    int
        1 where there is none, or EXIF has one, which decides.

    References
    ----------
    XMP Specification, part 2, tiff:Orientation, and part 3 on where XMP stands in files.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.webp"
    >>> Image.new("L", (6, 4)).save(path, xmp=b"<tiff:Orientation>6</tiff:Orientation>")
    >>> ignored_orientation(path), picture_orientation(path)
    (6, 1)
    """
    return _orientations(path)[1]


def describe_ignored(path: str | Path) -> str:
    """Say that a picture is not turned although its XMP asks for it, and what to do; empty where there is no doubt.

    Parameters
    ----------
    path : str or Path
        A file that exists.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.webp"
    >>> Image.new("L", (6, 4)).save(path, xmp=b"<tiff:Orientation>6</tiff:Orientation>")
    >>> describe_ignored(path)[:59]
    'orientation 6 stands in its XMP only, and it is not turned:'
    """
    turn = ignored_orientation(path)
    if turn == 1:
        return ""
    return (
        f"orientation {turn} stands in its XMP only, and it is not turned: OpenCV and GDAL show it so, Windows and "
        "Pillow turned; if its labels fit the turned picture, copy the orientation to its EXIF "
        "(exiftool -n '-IFD0:Orientation<XMP-tiff:Orientation' FILE)"
    )


def _orientations(path: str | Path) -> tuple[int, int]:
    """The orientation of EXIF, and that of XMP where EXIF has none.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.jpg"
    >>> Image.new("L", (6, 4)).save(path, xmp=b'tiff:Orientation="8"')
    >>> _orientations(path)
    (1, 8)
    """
    with open(path, "rb") as stream:
        try:
            tags, xmp = _metadata(stream)
            decided = any(tag in tags for tag in (ExifTags.Base.Orientation, *_PLACE_TAGS))
            stated = None if decided else _IN_XMP.search(xmp)
            return orientation_in(tags), 1 if stated is None else int(stated[1])
        except Exception:  # not such a picture, or its tags are damaged: viewers show it as it is stored
            return 1, 1


def _metadata(stream: BinaryIO) -> tuple[Any, bytes]:
    """Tags of a picture's EXIF or of a TIFF's first page, and its XMP.

    Raises
    ------
    Exception
        Whatever its reader raises for what it does not understand.

    Examples
    --------
    >>> import io
    >>> Image.new("L", (6, 4)).save(stream := io.BytesIO(), "JPEG", xmp=b"told")
    >>> _ = stream.seek(0)
    >>> tags, xmp = _metadata(stream)
    >>> dict(tags), xmp
    ({}, b'told')
    """
    start = stream.read(len(PNG_START))
    stream.seek(0)
    if start[:4] in TIFF_STARTS:  # Pillow opens fewer kinds of TIFF than others do
        import tifffile

        with tifffile.TiffFile(stream) as pages:
            tags: Any = {tag.code: tag.value for tag in pages.pages.first.tags}
            xmp = tags.get(_XMP_TAG)
            return tags, xmp if isinstance(xmp, bytes) else b""
    if start == PNG_START:  # Pillow reads what stands behind the pixels only when it decodes them
        return tags_of_png(stream), _xmp_of_png(stream)
    with Image.open(stream, formats=HEADERS) as picture:
        return tags_of(picture), picture.info.get("xmp", b"")


def tags_of(picture: Image.Image) -> Image.Exif:
    """EXIF tags of an open picture that is neither a TIFF nor a PNG.

    Raises
    ------
    Exception
        Whatever Pillow raises for tags that it does not understand.

    Examples
    --------
    >>> tags_of(Image.new("L", (6, 4))).get(274) is None
    True
    """
    tags = Image.Exif()  # not `picture.getexif()`: it also follows XMP
    tags.load(picture.info.get("exif", b""))
    return tags


def orientation_in(tags: Any) -> int:
    """The orientation that tags give, 1 for none, one that does not exist, and pictures with a place on Earth.

    Parameters
    ----------
    tags : mapping of int to Any
        Of EXIF or of a TIFF.

    Examples
    --------
    >>> orientation_in({274: 6}), orientation_in({274: 9}), orientation_in({274: 6, 33550: (2.0, 2.0, 0.0)})
    (6, 1, 1)
    """
    value = tags.get(ExifTags.Base.Orientation)
    known = value in range(1, 9) and not any(tag in tags for tag in _PLACE_TAGS)
    return int(value) if known else 1


# ------------------------------------------------------------------------------------------------ PNG


def tags_of_png(stream: BinaryIO) -> Image.Exif:
    r"""EXIF tags of a PNG: of its chunk `eXIf`, else of a raw profile in a text, also behind the pixels.

    Parameters
    ----------
    stream : binary stream
        The file.

    Raises
    ------
    Exception
        Whatever Pillow raises for tags that it does not understand.

    References
    ----------
    PNG Specification, third edition, 11.3.4.5; MagickCore's coders/png.c for raw profiles.

    Examples
    --------
    >>> import io
    >>> exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    >>> body = b"Raw profile type exif\0\nexif\n 26\n" + exif.hex().encode()
    >>> file = bytes(8) + len(body).to_bytes(4, "big") + b"tEXt" + body + bytes(4)
    >>> tags_of_png(io.BytesIO(file))[274]
    6
    """
    tags, profile = Image.Exif(), b""
    for kind, body in _chunks(stream, (b"eXIf", *TEXT_CHUNKS)):
        if kind == b"eXIf":
            tags.load(body)
            return tags
        profile = profile or exif_in_text(kind, body)
    tags.load(profile)
    return tags


def exif_in_text(kind: bytes, body: bytes) -> bytes:
    r"""EXIF that stands in a text chunk of a PNG as a raw profile; empty for another text, and a damaged one.

    Parameters
    ----------
    kind : bytes
        Name of the chunk.
    body : bytes
        Its content.

    Returns
    -------
    bytes
        As it stands in a chunk `eXIf`.

    Examples
    --------
    >>> exif_in_text(b"tEXt", b"Raw profile type APP1\0\ngeneric profile\n 12\n457869660000\n49492A000800\n")
    b'II*\x00\x08\x00'
    >>> exif_in_text(b"tEXt", b"Raw profile type exif\0\nexif\n 12\n49492A000800")
    b''
    """
    keyword, text = text_of_chunk(kind, body)
    if keyword not in _RAW_PROFILES:
        return b""
    exif = _raw_profile(text).removeprefix(b"Exif\0\0")
    return exif if exif.startswith(TIFF_STARTS) else b""


def _raw_profile(text: bytes) -> bytes:
    r"""Bytes of a raw profile: a line with its name, one with their number, and hexadecimal digits; empty if damaged.

    Examples
    --------
    >>> _raw_profile(b"\nxmp\n       3\n3c78\n3e\n"), _raw_profile(b"\nxmp\n 9\n3c78")
    (b'<x>', b'')
    """
    try:
        _, length, digits = text.lstrip(b"\n").split(b"\n", 2)
        data = bytes.fromhex(digits.decode("ascii"))
        return data if len(data) == int(length) else b""
    except ValueError:
        return b""


def _xmp_of_png(stream: BinaryIO) -> bytes:
    r"""XMP of a PNG, wherever it stands among the texts; empty when there is none.

    Examples
    --------
    >>> import io
    >>> _xmp_of_png(io.BytesIO(bytes(8) + b"\0\0\0\x19iTXtXML:com.adobe.xmp\0\0\0\0\0<x>" + bytes(4)))
    b'<x>'
    """
    for kind, body in _chunks(stream, TEXT_CHUNKS):
        keyword, text = text_of_chunk(kind, body)
        if keyword == b"XML:com.adobe.xmp":
            return text
        if keyword == b"Raw profile type xmp":
            return _raw_profile(text)
    return b""


def text_of_chunk(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    r"""Keyword and text of a chunk `tEXt`, `zTXt` or `iTXt`; both are empty for a damaged or too long one.

    Parameters
    ----------
    kind : bytes
        Name of the chunk.
    body : bytes
        Its content.

    References
    ----------
    PNG Specification, third edition, 11.3.3.

    Examples
    --------
    >>> text_of_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"told"))
    (b'Comment', b'told')
    >>> text_of_chunk(b"iTXt", b"Comment\0\1\0en\0Note\0" + zlib.compress(b"told"))
    (b'Comment', b'told')
    """
    keyword, _, text = body.partition(b"\0")
    packed = kind == b"zTXt"
    if packed:
        text = text[1:]  # the only method is 0
    elif kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind a language and a translated keyword
    if packed:
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(text, _MOST_TEXT)
        except zlib.error:
            return b"", b""
        if not unpacker.eof:
            return b"", b""
    return keyword, text


def _chunks(stream: BinaryIO, kinds: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    r"""Name and content of the chunks of some kinds of a PNG; longer ones than `_MOST_TEXT` are passed over.

    Examples
    --------
    >>> import io
    >>> list(_chunks(io.BytesIO(bytes(8) + b"\0\0\0\1IDAT-----\0\0\0\3eXIfII*----"), (b"eXIf",)))
    [(b'eXIf', b'II*')]
    """
    stream.seek(len(PNG_START))
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4]), head[4:]
        wanted = kind in kinds and length <= _MOST_TEXT
        body = stream.read(length) if wanted else b""
        stream.seek(4 if wanted else length + 4, os.SEEK_CUR)  # a checksum follows
        if wanted:
            yield kind, body
