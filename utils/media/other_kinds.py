"""What a file is that nothing here reads as a picture or video, and what to do with it."""

from __future__ import annotations

from pathlib import Path

_PIXELS = "convert it to PNG or TIFF (magick IN OUT.png)"
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"heim": "HEIC"}
_BEGINNINGS = (
    (b"%PDF", "a PDF document", "export the page as PNG or TIFF"),
    (b"8BPS", "a Photoshop file", "export it as PNG or TIFF"),
    (b"\xff\x0a", "a JPEG XL picture, which is not read", _PIXELS),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture, which is not read", _PIXELS),
    (b"PK\x03\x04", "an archive", "unpack it, and name what is inside"),
    (b"\x1f\x8b", "an archive", "unpack it, and name what is inside"),
    (b"version https://git-lfs", "a pointer of Git LFS, in place of the file", "fetch the file (git lfs pull)"),
)
VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".mov", ".avi", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
        *(".wmv", ".flv", ".ogv", ".3gp"),
    )
)
READ = 2048  # bytes by which a file is known


def name_kind(source: str | Path | bytes) -> tuple[str, str] | None:
    """Tell by its first bytes what a file is; None where that says nothing, as of a damaged picture.

    Parameters
    ----------
    source : str, Path or bytes
        A file, or its first bytes.

    Returns
    -------
    (str, str) or None
        What it is, and what to do.

    Examples
    --------
    >>> name_kind(b"%PDF-1.4")[0], name_kind(b"hello")[0], name_kind(b"")[0]
    ('a PDF document', 'a text file', 'an empty file')
    >>> name_kind(b"<?xml version='1.0'?><svg width='4'/>")
    ('an SVG drawing', 'export it as PNG or TIFF')
    >>> name_kind(bytes([137, 80, 78, 71])), name_kind(b"<VRTDataset>")
    (None, None)
    """
    if not isinstance(source, bytes):
        try:
            with open(source, "rb") as stream:
                source = stream.read(READ)
        except OSError:
            return None
    head = source[:READ]
    if not head:
        return "an empty file", "copy it again"
    if head[4:8] == b"ftyp":
        kinds = [_BRANDS[head[at : at + 4]] for at in (8, *range(16, 40, 4)) if head[at : at + 4] in _BRANDS]
        return (f"a picture of kind {kinds[0]}, which is not read", _PIXELS) if kinds else None
    for beginning, what, cure in _BEGINNINGS:
        if head.startswith(beginning):
            return what, cure
    return _name_text(head)


def _name_text(head: bytes) -> tuple[str, str] | None:
    r"""What a file of text is; None where it is none, or a virtual raster.

    Examples
    --------
    >>> _name_text(b"<!DOCTYPE html><html><svg>")[0], _name_text(b"a\0b")
    ('a web page (HTML)', None)
    """
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3 or error.start == 0:  # a letter may be cut at the end
            return None
        text = head[: error.start].decode("utf-8-sig")
    if not text.isprintable() and any(not (letter.isprintable() or letter in "\n\r\t\f") for letter in text):
        return None
    lower = text.lower()
    if "<html" in lower or "<!doctype html" in lower:  # before SVG, which pages hold
        return "a web page (HTML)", "download the file itself again"
    if "<svg" in lower:
        return "an SVG drawing", "export it as PNG or TIFF"
    if "<vrtdataset" in lower:
        return None
    return "a text file", "name the file itself, or fetch it again"
