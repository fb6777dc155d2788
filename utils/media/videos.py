"""Videos: frames in order, whatever the header says, and files that are complete or absent.

Frames are decoded one after the other by OpenCV. Seeking is not used: in many codecs it lands on a neighbouring frame,
and a resumed run would shift its points by one. Where a header asks for a turn (phones write that), frames come turned
as players show them. A header's frame count is a hint only; `count_frames` decodes.
"""

from __future__ import annotations

import logging
import math
import os
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.errors import DataError
from utils.media.damage import VideoCheck
from utils.media.frame_times import Counted, Promise, find_losses
from utils.media.other_kinds import VIDEO_SUFFIXES as SUFFIXES
from utils.media.picture_sizes import MAX_PIXELS
from utils.media.video_matrix import mirror_fault
from utils.runtime.files import atomic_path

logger = logging.getLogger(__name__)
# FFmpeg's own complaints go past the log and name no file; OpenCV reads this when it first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# Without a choice, OpenCV tries other readers on what FFmpeg refuses; one takes digits for a series of pictures.
BACKEND = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends() else cv2.CAP_ANY
# Codecs that every build of OpenCV writes, by the suffixes they go with.
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # with which MP4 and QuickTime files begin
_MATROSKA = b"\x1aE\xdf\xa3"
_SMALLEST_FRAME = 16  # bytes, with its entry in an index; a header that promises more frames than that is not believed
_BEGINNINGS = (_MATROSKA, b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"0&\xb2u", b"FLV", b"OggS")


def is_video(path: str | Path) -> bool:
    """Whether a file is a video, by its suffix and by how its content begins.

    Parameters
    ----------
    path : str or Path
        Any path; what is no file is no video.

    Returns
    -------
    bool
        True says that it is worth opening, not that every frame can be decoded.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "module.ts"
    >>> _ = path.write_text("export const side = 188;")
    >>> is_video(path), is_video("missing.mp4")
    (False, False)
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    with open(path, "rb") as stream:
        data = stream.read(256)
    transport = any(data[start : start + 1] == data[start + 188 : start + 189] == b"G" for start in (0, 4))  # MPEG-TS
    avi = data[:4] == b"RIFF" and data[8:12] == b"AVI "
    return transport or avi or data[4:8] in _BOXES or data.startswith(_BEGINNINGS)


# --- reading ---------------------------------------------------------------------------------------------------------


class VideoReader:
    """Read the frames of a video, in order.

    The file is open only while frames are drawn, so a reader can be copied to another process, and several passes do
    not disturb each other. At the end of a `with`, passes that were left early are closed.

    Parameters
    ----------
    path : str or Path
        The video.
    report : bool
        Whether the first whole pass looks for damage and warns of `faults`; False for a second look at a file.

    Attributes
    ----------
    size : (int, int)
        Height and width of the frames, after any turn.
    fps : float or None
        Frames per second; None where the file does not say.
    rotation_deg : int
        The turn that the header asks for: 0, 90, 180 or 270. Frames come turned already.
    header_frames : int or None
        Frames that the header promises; None where it does not. It may be wrong.
    faults : list of str
        What the first whole pass found: frames missing inside or at the end, and damage that the decoder reports. Not
        every damage is seen: a decoder conceals some without a word, and a drop in a file without a steady frame rate
        leaves no trace.

    Raises
    ------
    DataError
        If the file is missing or empty, no frame can be decoded, or frames have more than `MAX_PIXELS` pixels.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.avi"
    >>> with VideoWriter(path, size=(48, 64), fps=25) as writer:
    ...     for grey in (40, 80, 120):
    ...         writer.write(np.full((48, 64, 3), grey, np.uint8))
    >>> reader = VideoReader(path)
    >>> reader.size, reader.fps, reader.header_frames
    ((48, 64), 25.0, 3)
    >>> [round(float(frame.mean()) / 40) for frame in reader.frames(start=1)]
    [2, 3]
    """

    def __init__(self, path: str | Path, report: bool = True):
        self.path, self.report = Path(path), report
        self.faults: list[str] = []
        self._open: list[cv2.VideoCapture] = []
        _check_file(self.path)
        with self._opened() as capture:
            sides = [int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)]
            if math.prod(sides) > MAX_PIXELS:
                raise DataError(
                    f"{self.path}: frames of {sides[0]} x {sides[1]} pixels (height x width), expected at most "
                    f"{MAX_PIXELS} in all; make them smaller with `ffmpeg -i IN -vf scale=iw/4:-2 OUT.mp4`"
                )
            self.rotation_deg = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
            self.fps = _positive(capture.get(cv2.CAP_PROP_FPS))
            header_frames = _positive(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            self.header_frames = None if header_frames is None else round(header_frames)
            read, frame = capture.read()
            first = capture.get(getattr(cv2, "CAP_PROP_PTS", -1))  # in frames; OpenCV before 4.11 does not tell
        if not read:
            raise DataError(f"{self.path}: no frame can be decoded; it is damaged or in an unknown codec: {_CURE}")
        by = _counted_by(self.path)
        start_ms = 1000 * first / self.fps if self.fps and by == "duration from zero" else 0.0
        self._promise = Promise(self.header_frames, self.fps, by, start_ms)
        self.size: tuple[int, int] = (frame.shape[0], frame.shape[1])
        self._count: int | None = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        for capture in self._open:
            capture.release()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": []}  # passes stay with the process that began them

    @contextmanager
    def _opened(self) -> Iterator[cv2.VideoCapture]:
        """Open the file, and close it however reading ends.

        Raises
        ------
        DataError
            When OpenCV cannot open it.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.mp4"
        >>> _ = path.write_bytes(bytes(4) + b"ftypisom")
        >>> VideoReader(path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../a.mp4: cannot be opened as a video; it is damaged or cut short: copy it again, ...
        """
        capture = _open_quietly(self.path)
        self._open.append(capture)
        try:
            if not capture.isOpened():
                raise DataError(f"{self.path}: cannot be opened as a video; it is damaged or cut short: {_CURE}")
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
            yield capture
        finally:
            capture.release()
            self._open = [other for other in self._open if other is not capture]

    def count_frames(self) -> int:
        """Count the frames that can be decoded; the first time, by decoding all.

        Returns
        -------
        int
            What `frames` gives from the start.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.avi"
        >>> with VideoWriter(path, size=(48, 64), fps=25) as writer:
        ...     writer.write(np.zeros((48, 64, 3), np.uint8))
        >>> VideoReader(path).count_frames()
        1
        """
        if self._count is None:
            with self._opened() as capture, self._checked() as check:
                times = array("d")
                while capture.grab():
                    times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
                self._finish(times, check)
        return self._count or 0

    def expect_frames(self) -> int:
        """About how many frames there are, without decoding them, for forecasts.

        Returns
        -------
        int
            What the header promises, where the file is large enough for that; else the frames that the file holds.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.avi"
        >>> with VideoWriter(path, size=(48, 64), fps=25) as writer:
        ...     writer.write(np.zeros((48, 64, 3), np.uint8))
        >>> reader = VideoReader(path)
        >>> reader.header_frames = 10**9
        >>> reader.expect_frames()
        1
        """
        if self.header_frames and self.header_frames <= self.path.stat().st_size // _SMALLEST_FRAME:
            return self.header_frames
        with self._opened() as capture:
            capture.set(cv2.CAP_PROP_FORMAT, -1)  # frames come as they are stored
            count = 0
            while capture.grab():
                count += 1
        return count

    def frames(self, start: int = 0) -> Generator[np.ndarray, None, None]:
        """Decode frames in order, to the end or to the first that cannot be decoded.

        Parameters
        ----------
        start : int
            Index of the first frame given, from 0; those before it are decoded and dropped.

        Returns
        -------
        generator of ndarray of uint8, shape (H, W, 3)
            Red, green and blue. Where fewer come than the header promises, a warning says how many.

        Raises
        ------
        DataError
            If there are fewer than `start` frames, or a frame has another size than the first.
        ValueError
            If `start` is negative, or the reader's `with` has ended meanwhile.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.mp4"
        >>> with VideoWriter(path, size=(48, 64), fps=25) as writer:
        ...     writer.write(np.zeros((48, 64, 3), np.uint8) + np.uint8([200, 100, 0]))
        >>> bool(np.abs(next(VideoReader(path).frames())[24, 32].astype(int) - [200, 100, 0]).max() < 9)
        True
        """
        if start < 0:
            raise ValueError(f"start: expected 0 or more, got {start}")
        return self._decode(start)

    def _decode(self, start: int) -> Generator[np.ndarray, None, None]:
        """One pass over the file.

        Frames have shape (H, W, 3), uint8.

        Raises
        ------
        DataError
            When there are no frames from `start` on, or a frame has another size.
        ValueError
            If the reader was closed meanwhile.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.avi"
        >>> with VideoWriter(path, size=(48, 64), fps=25) as writer:
        ...     writer.write(np.zeros((48, 64, 3), np.uint8))
        >>> next(VideoReader(path)._decode(2))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../a.avi: only 1 frames can be decoded, so none can follow frame 2; the file has ...
        """
        with self._opened() as capture, self._checked() as check:
            times = array("d")
            while len(times) < start and capture.grab():
                times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            if len(times) < start:
                raise DataError(
                    f"{self.path}: only {len(times)} frames can be decoded, so none can follow frame {start}; the file "
                    "has changed since, or is cut short"
                )
            while (frame := _next_frame(capture)) is not None:
                self._check_size(len(times), frame)
                times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
                yield frame
            if not capture.isOpened():
                raise ValueError(f"{self.path}: the reader was closed after frame {len(times) - 1}")
            self._finish(times, check)

    def _check_size(self, index: int, frame: np.ndarray) -> None:
        """Refuse a frame of another size: points and canvases are for one.

        Raises
        ------
        DataError
            When the frame has another size than the first.

        Examples
        --------
        >>> reader = VideoReader.__new__(VideoReader)
        >>> reader.path, reader.size = Path("a.mp4"), (48, 64)
        >>> reader._check_size(7, np.zeros((64, 48, 3), np.uint8))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a.mp4: frame 7 has 64 x 48 pixels (height x width), the first 48 x 64; ...
        """
        if frame.shape[:2] != self.size:
            found, expected = (f"{height} x {width}" for height, width in (frame.shape[:2], self.size))
            raise DataError(
                f"{self.path}: frame {index} has {found} pixels (height x width), the first {expected}; "
                "cut the video where its size changes"
            )

    @contextmanager
    def _checked(self) -> Iterator[VideoCheck | None]:
        """Search for damage during the first pass, if the caller wants to know; the search ends with the pass.

        Examples
        --------
        >>> reader = VideoReader.__new__(VideoReader)
        >>> reader.report, reader._count = False, None
        >>> with reader._checked() as check:
        ...     check is None
        True
        """
        if not self.report or self._count is not None:
            yield None
            return
        with VideoCheck(self.path, BACKEND) as check:
            yield check

    def _finish(self, times_ms: Sequence[float], check: VideoCheck | None) -> None:
        """Remember how many frames there are, and what is wrong with them; warn of it once.

        Examples
        --------
        >>> reader = VideoReader.__new__(VideoReader)
        >>> reader._promise, reader._count, reader.report = Promise(10, 1.0, by="places"), None, False
        >>> reader.path = Path("a.avi")
        >>> reader._finish([0.0, 1000.0, 2000.0], None)
        >>> reader.count_frames(), reader.faults
        (3, ['3 of the 10 frames that its header promises can be decoded; the rest is left out'])
        """
        if self._count is None:
            losses = find_losses(times_ms, self._promise)
            found = (mirror_fault(self.path), *losses, check.result() if check else "")
            self.faults = list(filter(None, found))
            for fault in self.faults if self.report else ():
                logger.warning("%s: %s", self.path, fault)
        self._count = len(times_ms)


def video_faults(path: str | Path) -> list[str]:
    """Decode a whole video to find what is wrong with it, without a line in the log.

    Parameters
    ----------
    path : str or Path
        The video.

    Returns
    -------
    list of str
        As `VideoReader.faults`; why it cannot be read, where that is so.

    Examples
    --------
    >>> video_faults("no/such.mp4")
    ['no such file; check the path of the video']
    """
    try:
        reader = VideoReader(path, report=False)
        with VideoCheck(path, BACKEND) as check:
            reader.count_frames()
            return [*reader.faults, *filter(None, [check.result()])]
    except DataError as error:
        return [str(error).removeprefix(f"{path}: ")]


_CURE = "copy it again, or convert it with `ffmpeg -i IN -c:v libx264 OUT.mp4`"


def _check_file(path: Path) -> None:
    """Refuse what is no file, or an empty one, in words that OpenCV does not have.

    Raises
    ------
    DataError
        When there is no such file, or it is empty.

    Examples
    --------
    >>> _check_file(Path("no/such.mp4"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: no/such.mp4: no such file; check the path of the video
    """
    if not path.is_file():
        what = "a folder, not a video" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; check the path of the video")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty; copy it again")


def _counted_by(path: Path) -> Counted:
    """What the number of frames in a header is made of, by how the file begins.

    Examples
    --------
    >>> _counted_by(Path(__file__))
    'duration'
    """
    with open(path, "rb") as stream:
        data = stream.read(8)
    if data[:4] == b"RIFF":
        return "places"
    if data[4:] in _BOXES:
        return "frames"
    return "duration from zero" if data[:4] == _MATROSKA else "duration"


def _open_quietly(path: Path) -> cv2.VideoCapture:
    """Open a file without lines of OpenCV's own on standard error: whoever calls says what is wrong.

    Examples
    --------
    >>> _open_quietly(Path("no/such.mp4")).isOpened()
    False
    """
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(os.path.abspath(path), BACKEND)  # a relative name might be read as a protocol
    finally:
        cv2.utils.logging.setLogLevel(level)


def _positive(value: float) -> float | None:
    """A number that a header may leave out or get wrong.

    Examples
    --------
    >>> _positive(29.97), _positive(0.0), _positive(float("nan")), _positive(-9.2e18)
    (29.97, None, None, None)
    """
    return float(value) if math.isfinite(value) and value > 0 else None


def _next_frame(capture: cv2.VideoCapture) -> np.ndarray | None:
    """Next frame as red, green and blue; None after the last.

    It has shape (H, W, 3), uint8.

    Examples
    --------
    >>> _next_frame(cv2.VideoCapture()) is None
    True
    """
    read, frame = capture.read()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if read else None


# --- writing ---------------------------------------------------------------------------------------------------------


class VideoWriter:
    """Write a video that appears whole, when it is closed, or not at all.

    Codecs want even sides: an odd side gets one more row or column, a copy of the last; points keep their places.

    Parameters
    ----------
    path : str or Path
        Its suffix chooses container and codec: .mp4, .mov and .mkv MPEG-4, .avi Motion JPEG.
    size : (int, int)
        Height and width of every frame.
    fps : float
        Frames per second.

    Raises
    ------
    ValueError
        If the suffix is not known, or a number is not positive.
    DataError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "deep" / "a.mp4"
    >>> with VideoWriter(path, size=(48, 65), fps=12.5) as writer:
    ...     writer.write(np.zeros((48, 65, 3), np.uint8))
    ...     path.exists()
    False
    >>> VideoReader(path).size, [entry.name for entry in path.parent.iterdir()]
    ((48, 66), ['a.mp4'])
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float):
        self.path, self.size, self.count = Path(path), (int(size[0]), int(size[1])), 0
        codec = CODECS.get(self.path.suffix.lower())
        if codec is None:
            raise ValueError(f"{self.path}: cannot write {self.path.suffix or 'no suffix'}; known: {', '.join(CODECS)}")
        if min(self.size) < 1 or not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"{self.path}: expected a size and a frame rate above 0, got {size} and {fps}")
        height, width = (side + side % 2 for side in self.size)
        self._stack = ExitStack()
        try:
            self._temporary = self._stack.enter_context(atomic_path(self.path))
        except OSError as error:
            raise self._cannot(error.strerror or str(error)) from error
        fourcc = cv2.VideoWriter.fourcc(*codec)
        self._writer = cv2.VideoWriter(str(self._temporary), fourcc, float(fps), (width, height))
        if not self._writer.isOpened():
            refused = self._cannot(f"OpenCV has no encoder for {codec}, or refuses the size or frame rate")
            self._discard(refused)
            raise refused

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is None:
            self.close()
        else:
            self._discard(error)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame.

        Parameters
        ----------
        frame : ndarray of uint8, shape (H, W, 3)
            Red, green and blue, of the writer's size.

        Raises
        ------
        ValueError
            If the frame has another shape or type, or the writer is closed.

        Examples
        --------
        >>> import tempfile
        >>> with VideoWriter(Path(tempfile.mkdtemp()) / "a.avi", size=(48, 64), fps=25) as writer:
        ...     writer.write(np.zeros((64, 48, 3), np.uint8))
        Traceback (most recent call last):
            ...
        ValueError: frame: expected uint8 of shape (48, 64, 3), got uint8 of (64, 48, 3)
        """
        if not self._writer.isOpened():
            raise ValueError(f"{self.path}: the video is closed")
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame: expected uint8 of shape {(*self.size, 3)}, got {frame.dtype} of {frame.shape}")
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if any(side % 2 for side in self.size):
            bgr = cv2.copyMakeBorder(bgr, 0, self.size[0] % 2, 0, self.size[1] % 2, cv2.BORDER_REPLICATE)
        self._writer.write(bgr)
        self.count += 1

    def close(self) -> None:
        """Finish the file and give it its name; a second time does nothing.

        Raises
        ------
        ValueError
            If no frame was written.
        DataError
            If the file cannot be read back or renamed, as on a full disk. It is removed then.

        Examples
        --------
        >>> import tempfile
        >>> writer = VideoWriter(Path(tempfile.mkdtemp()) / "a.avi", size=(48, 64), fps=25)
        >>> writer.close()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: .../a.avi: no frame was written
        """
        if not self._writer.isOpened():
            return
        self._writer.release()
        try:
            self._check_whole()
            self._stack.close()
        except (ValueError, OSError) as error:
            self._discard(error)
            if isinstance(error, OSError):
                raise self._cannot(error.strerror or str(error)) from error
            raise

    def _check_whole(self) -> None:
        """Look whether all frames arrived: OpenCV does not say when a disk is full.

        Raises
        ------
        DataError
            When frames are missing: the disk is full.
        ValueError
            If no frame was written.

        Examples
        --------
        >>> import tempfile
        >>> writer = VideoWriter(Path(tempfile.mkdtemp()) / "a.avi", size=(48, 64), fps=25)
        >>> writer.write(np.zeros((48, 64, 3), np.uint8))
        >>> writer.count = 5  # as if four had been lost
        >>> writer.close()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../a.avi: cannot be written (1 of 5 frames arrived); free space ...
        """
        if not self.count:
            raise ValueError(f"{self.path}: no frame was written")
        capture = _open_quietly(self._temporary)
        arrived = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if capture.isOpened() else 0
        capture.release()
        if arrived < self.count - 1:  # some containers give a duration only, which may be one frame short
            raise self._cannot(f"{arrived} of {self.count} frames arrived")

    def _cannot(self, reason: str) -> DataError:
        """An error that says what to do about a file that cannot be written.

        Examples
        --------
        >>> writer = VideoWriter.__new__(VideoWriter)
        >>> writer.path = Path("a.mp4")
        >>> writer._cannot("No space left on device")
        DataError('a.mp4: cannot be written (No space left on device); free space on this disk, or name another folder')
        """
        return DataError(f"{self.path}: cannot be written ({reason}); free space on this disk, or name another folder")

    def _discard(self, error: BaseException) -> None:
        """Leave nothing behind.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> writer = VideoWriter(folder / "a.avi", size=(48, 64), fps=25)
        >>> writer._discard(KeyboardInterrupt())
        >>> list(folder.iterdir())
        []
        """
        self._writer.release()
        self._stack.__exit__(type(error), error, error.__traceback__)
