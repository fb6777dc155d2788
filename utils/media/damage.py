"""Damage that a decoder bridges: pixels come out, and only a line of its C library tells that they may be wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
