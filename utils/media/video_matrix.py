"""What the header of an MP4 or QuickTime file asks for that OpenCV does not follow: mirrored pictures."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 2**28  # of a header that is read; an hour of video has a few megabytes


def mirror_fault(path: str | Path) -> str:
    """Say that a video is to be shown mirrored, which readers of frames do not do; empty where it is not.

    Front cameras write that. OpenCV takes the matrix of the header for a turn, so that frames come upside down where
    players show them mirrored.

    Parameters
    ----------
    path : str or Path
        A video; any that is no MP4 or QuickTime file asks for no mirror.

    References
    ----------
    ISO/IEC 14496-12, section 8.3.2, the matrix of a track header.

    Examples
    --------
    >>> import tempfile
    >>> def box(kind, *parts):
    ...     return struct.pack(">I", 8 + len(b"".join(parts))) + kind + b"".join(parts)
    >>> def movie(a, b, c, d):
    ...     matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    ...     handler = box(b"mdia", box(b"hdlr", bytes(8), b"vide", bytes(13)))
    ...     path = Path(tempfile.mkdtemp()) / "a.mp4"
    ...     _ = path.write_bytes(
    ...         box(b"ftyp", b"isom")
    ...         + box(b"moov", box(b"trak", box(b"tkhd", bytes(40), matrix, bytes(8)), handler))
    ...     )
    ...     return path
    >>> [mirror_fault(movie(*turn))[:43] for turn in ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1))]
    ['', '', '', 'its header asks for mirrored pictures (matr']
    """
    try:
        header = _movie_header(Path(path))
        tracks = [dict(_boxes(content)) for kind, content in _boxes(header) if kind == b"trak"]
        for track in tracks:
            handler = dict(_boxes(track.get(b"mdia", b""))).get(b"hdlr", b"")
            if handler[8:12] != b"vide":
                continue
            start = 52 if track[b"tkhd"][0] == 1 else 40  # of the matrix, after times of 64 or 32 bits
            a, b, _, c, d = (value / 65536 for value in struct.unpack_from(">5i", track[b"tkhd"], start))
            if a * d - b * c < 0:
                return (
                    f"its header asks for mirrored pictures (matrix {a:g} {b:g} {c:g} {d:g}), which is read as a turn: "
                    "frames and predictions are other than players show; write it anew with `ffmpeg -i IN OUT.mp4` and "
                    "look at a frame"
                )
    except (OSError, struct.error, KeyError, IndexError):
        pass  # a damaged header is told by those who decode
    return ""


def _movie_header(path: Path) -> bytes:
    """The content of the box `moov` of a file; empty where there is none.

    Examples
    --------
    >>> _movie_header(Path(__file__))
    b''
    """
    with open(path, "rb") as stream:
        while len(head := stream.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            rest = struct.unpack(">Q", stream.read(8))[0] - 16 if size == 1 else size - 8
            if kind == b"moov":
                return stream.read(min(rest, MOST_BYTES)) if rest > 0 else b""
            if not 0 <= rest <= path.stat().st_size or not kind.isalnum():  # to the end of the file, or no such file
                return b""
            stream.seek(rest, 1)
    return b""


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and contents of the boxes within a box.

    Examples
    --------
    >>> list(_boxes(bytes([0, 0, 0, 10]) + b"tkhdab" + bytes([0, 0, 0, 8]) + b"mdia"))
    [(b'tkhd', b'ab'), (b'mdia', b'')]
    """
    place = 0
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        if size < 8:
            return
        yield kind, content[place + 8 : place + size]
        place += size
