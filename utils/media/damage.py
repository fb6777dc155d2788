"""Damage that a decoder bridges: pixels come out, and only a line of its C library tells that they may be wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_JPEG = b"\xff\xd8"
_CUT_OFF = "Premature end"  # such a file is refused by every reader
_NEXT = "dinolith: next picture"
# libjpeg writes to the process's stderr, without the file's name; at an eighth of the size decoding needs little memory
_PROGRAM = """
import os, sys
import cv2
import numpy as np
for path in sys.stdin.buffer.read().split(b"\\0"):
    print(sys.argv[1], file=sys.stderr, flush=True)
    try:
        cv2.imdecode(np.fromfile(os.fsdecode(path), np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except cv2.error:
        pass
"""
# FFmpeg bridges damage likewise. With one thread it complains at the frame that it gives next, or a few before that.
# Its lines wait in a buffer of the C library; a large frame may bring thousands, so they are dropped after each frame.
_VIDEO_PROGRAM = """
import ctypes, json, os, sys, tempfile
import cv2
parent, log, answer, library = os.getppid(), tempfile.TemporaryFile(), os.dup(1), ctypes.CDLL(None)
os.dup2(log.fileno(), 1)
os.dup2(log.fileno(), 2)
capture = cv2.VideoCapture(sys.argv[1], int(sys.argv[2]), [cv2.CAP_PROP_N_THREADS, 1])
count, frames, text, more = 0, [], "", True
opened = capture.isOpened()
while more and os.getppid() == parent:
    more = capture.grab()
    library.fflush(None)
    if os.fstat(log.fileno()).st_size:
        log.seek(0)
        text = text or log.read(2000).decode(errors="replace")
        frames.append(count)
        log.seek(0)
        log.truncate()
    count += more
os.write(answer, json.dumps([opened, frames[:10], len(frames), text]).encode())
"""


class VideoCheck:
    r"""Look for damage of a video that its decoder bridges, in a process of its own, while the caller does other work.

    The file is decoded a second time there, by one thread, which takes longer than a pass of all threads does; FFmpeg's
    complaints are read from what the process prints.

    Parameters
    ----------
    path : str or Path
        A video.
    backend : int
        OpenCV's number of the reader.

    Examples
    --------
    >>> import cv2, tempfile
    >>> import numpy as np
    >>> from utils.media.videos import VideoWriter
    >>> path = Path(tempfile.mkdtemp()) / "a.avi"
    >>> with VideoWriter(path, size=(48, 64), fps=25) as writer:
    ...     for grey in (40, 80, 120):
    ...         writer.write(np.full((48, 64, 3), grey, np.uint8))
    >>> with VideoCheck(path, cv2.CAP_FFMPEG) as check:
    ...     check.result()
    ''
    >>> data = path.read_bytes()
    >>> middle = data.index(b"\xff\xd8", data.index(b"\xff\xd8", data.index(b"\xff\xd8") + 2) + 2) + 30
    >>> _ = path.write_bytes(data[:middle] + bytes(200) + data[middle + 200 :])
    >>> with VideoCheck(path, cv2.CAP_FFMPEG) as check:
    ...     check.result()[:49]
    'the decoder reports damaged data at or near frame'
    """

    def __init__(self, path: str | Path, backend: int):
        command = [sys.executable, "-P", "-c", _VIDEO_PROGRAM, os.path.abspath(path), str(backend)]
        told = {"OPENCV_FFMPEG_LOGLEVEL": "16", "OPENCV_LOG_LEVEL": "OFF"}
        quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | told}
        self._process, self._reason = None, ""
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, **quiet)
        except OSError as error:  # no room for a further process: the frames matter more than this search
            self._reason = str(error.strerror)

    def __enter__(self) -> VideoCheck:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is None:
            return
        self._process.kill()  # has ended, unless the caller did not wait for the result
        with self._process:  # closes its pipe and waits for it
            pass

    def result(self) -> str:
        """Wait for the end; what is wrong and near which frames, empty for nothing.

        Examples
        --------
        >>> with VideoCheck("no/such.mp4", 0) as check:
        ...     check.result()
        'damage inside is not searched for: the file cannot be opened a second time'
        """
        if self._process is None:
            return f"damage inside is not searched for: {self._reason}"
        out = self._process.communicate()[0]
        if self._process.returncode or not out:
            return f"the search for damage inside stopped, with code {self._process.returncode}; damage is not reported"
        opened, frames, count, text = json.loads(out)
        if not opened:
            return "damage inside is not searched for: the file cannot be opened a second time"
        if not frames:
            return ""
        lines = [line.strip() for line in re.sub(r"\[OPENCV:FFMPEG:\d+\]", "\n", text).splitlines() if line.strip()]
        more = f" and {count - len(frames)} more" if count > len(frames) else ""
        return (
            f"the decoder reports damaged data at or near frame {', '.join(map(str, frames))}{more} "
            f"({lines[0] if lines else 'without a reason'}); up to the next key frame pictures may be wrong or repeat "
            "others: look at them, or take another copy of the file"
        )


def jpeg_damage(paths: Sequence[str | Path]) -> dict[Path, str]:
    r"""Find the JPEG files that OpenCV decodes although their data are damaged.

    Parameters
    ----------
    paths : sequence of str or Path
        Files that exist, of any kind; what is no JPEG is left out.

    Returns
    -------
    dict of Path to str
        What libjpeg says of each damaged file. They are decoded in a process of their own, whose stderr can be read;
        a file that ends that process is told, and the others are decoded in the next one.

    Examples
    --------
    >>> import cv2, tempfile
    >>> import numpy as np
    >>> path = Path(tempfile.mkdtemp()) / "a.jpg"
    >>> noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    >>> data = cv2.imencode(".jpg", noise)[1].tobytes()
    >>> _ = path.write_bytes(data[:2000] + b"\xff\xd3" + data[2002:])
    >>> jpeg_damage([path])[path]
    'Corrupt JPEG data: premature end of data segment'
    """
    jpegs = [Path(path) for path in paths if _is_jpeg(path)]
    found = {}
    while jpegs:
        listed = b"\0".join(os.fsencode(path) for path in jpegs)
        command = [sys.executable, "-P", "-c", _PROGRAM, _NEXT]
        ended = subprocess.run(command, input=listed, stderr=subprocess.PIPE, check=False)
        texts = ended.stderr.decode(errors="replace").split(_NEXT)[1:]
        for path, text in zip(jpegs, texts, strict=False):
            lines = [line for line in text.splitlines() if line and not line.startswith(_CUT_OFF)]
            if lines:
                found[path] = "; ".join(dict.fromkeys(lines))
        if not ended.returncode:
            break
        if not texts:
            ended.check_returncode()  # not even the first file was reached
        found[jpegs[len(texts) - 1]] = f"the decoder stopped at it, with code {ended.returncode}"
        jpegs = jpegs[len(texts) :]
    return found


def _is_jpeg(path: str | Path) -> bool:
    """Whether a file begins as a JPEG does.

    Examples
    --------
    >>> _is_jpeg(__file__)
    False
    """
    with open(path, "rb") as stream:
        return stream.read(2) == _JPEG
