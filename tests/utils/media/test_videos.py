"""Every frame once and in order, exact resumption, honest counts, and videos that are whole or absent."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import struct
from pathlib import Path

import numpy as np
import pytest

from utils.errors import DataError
from utils.media.picture_sizes import MAX_PIXELS
from utils.media.videos import CODECS, VideoReader, VideoWriter, is_video, video_faults
from utils.raster.files import check_scene

OPENFIELD = Path(__file__).resolve().parents[4] / "shared" / "data" / "kp_openfield" / "video.mp4"
COUNT, SIZE = 40, (48, 64)

needs_real_data = pytest.mark.skipif(not OPENFIELD.is_file(), reason=f"no real video at {OPENFIELD}")


def draw_frame(index: int) -> np.ndarray:
    """A frame that tells its index: a bright bar whose far side moves by a pixel per frame, red on blue."""
    frame = np.full((*SIZE, 3), (0, 0, 90), np.uint8)
    frame[:, : index + 8] = (220, 40, 40)
    return frame


def read_index(frame: np.ndarray) -> int:
    return int((frame[..., 0] > 120).sum(axis=1).mean().round()) - 8


def write_video(path: Path, count: int = COUNT) -> Path:
    with VideoWriter(path, SIZE, fps=20) as writer:
        for index in range(count):
            writer.write(draw_frame(index))
    return path


@pytest.fixture(params=sorted(CODECS))
def video(request, tmp_path: Path) -> Path:
    return write_video(tmp_path / f"walk{request.param}")


# --- reading ---------------------------------------------------------------------------------------------------------


def test_frames_come_in_order_and_in_colour(video: Path) -> None:
    reader = VideoReader(video)
    assert (reader.size, reader.fps, reader.rotation_deg, reader.header_frames) == (SIZE, 20, 0, COUNT)
    frames = list(reader.frames())
    assert [read_index(frame) for frame in frames] == list(range(COUNT))
    assert frames[0].dtype == np.uint8
    assert frames[0].flags.c_contiguous
    assert np.abs(frames[5].astype(int) - draw_frame(5)).mean() < 4
    assert reader.count_frames() == COUNT


@pytest.mark.parametrize("start", [0, 1, 17, 39, 40])
def test_resumption_gives_the_same_frames(video: Path, start: int) -> None:
    reader = VideoReader(video)
    whole, rest = list(reader.frames()), list(reader.frames(start))
    assert len(rest) == COUNT - start
    assert all(np.array_equal(one, other) for one, other in zip(whole[start:], rest, strict=True))


def test_resumption_beyond_the_end_is_refused(video: Path) -> None:
    with pytest.raises(DataError, match="only 40 frames can be decoded, so none can follow frame 41"):
        next(VideoReader(video).frames(41))
    with pytest.raises(ValueError, match="expected 0 or more, got -1"):
        VideoReader(video).frames(-1)


def test_passes_do_not_disturb_each_other(video: Path) -> None:
    reader = VideoReader(video)
    one, other = reader.frames(), reader.frames(10)
    assert [(read_index(next(one)), read_index(next(other))) for _ in range(5)] == [(k, k + 10) for k in range(5)]


def test_a_reader_works_in_another_process(video: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(VideoReader.count_frames, (VideoReader(video),)) == COUNT


def test_an_abandoned_pass_closes_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi")

    def is_open() -> bool:
        handles = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
        return any(handle.is_symlink() and os.readlink(handle) == str(path) for handle in handles)

    frames = VideoReader(path).frames()
    next(frames)
    assert is_open()
    frames.close()
    assert not is_open()
    with VideoReader(path) as reader:
        frames = reader.frames()
        next(frames)
        assert is_open()
    assert not is_open()
    with pytest.raises(ValueError, match="the reader was closed after frame 0"):
        next(frames)
    assert reader.count_frames() == COUNT


# --- wrong headers and damage ----------------------------------------------------------------------------------------


def claim_frames(path: Path, claimed: int) -> None:
    """Write another number of frames into both headers of an AVI file."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"avih", 24), (b"strh", 40)):
        place = data.index(mark) + offset
        assert struct.unpack_from("<I", data, place) == (COUNT,)
        struct.pack_into("<I", data, place, claimed)
    path.write_bytes(data)


def test_the_count_survives_a_wrong_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "a.avi")
    claim_frames(path, 600)
    reader = VideoReader(path)
    assert reader.header_frames == 600
    with caplog.at_level(logging.WARNING):
        assert reader.count_frames() == COUNT
        assert len(list(reader.frames())) == COUNT
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 40 of the 600 frames that its header promises can be decoded; the rest is left out"
    ]


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_truncated_video_gives_what_it_has_and_says_so(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    path = write_video(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        indices = [read_index(frame) for frame in VideoReader(path).frames()]
    assert 10 < len(indices) < 30
    assert indices[:-1] == list(range(len(indices) - 1))  # the last frame may be half a frame
    assert f"{len(indices)} of the 40 frames that its header promises" in caplog.text
    assert capfd.readouterr().err == ""


def test_a_whole_video_brings_no_warning(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list(VideoReader(video).frames())
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"", "the file is empty; copy it again"),
        ("a.mp4", b"hello", "cannot be opened as a video; it is damaged or cut short: copy it again, or convert it"),
        ("frame01.avi", b"RIFF\0\0\0\0AVI LIST", "can"),
        ("a.mkv", b"\x1aE\xdf\xa3" + bytes(500), "can"),
    ],
)
def test_unreadable_files_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        VideoReader(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_mp4_without_its_end_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged or cut short"):
        VideoReader(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        VideoReader(tmp_path / "a.mp4")
    with pytest.raises(DataError, match="a folder, not a video"):
        VideoReader(tmp_path)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_frames_come_turned_as_the_header_asks(tmp_path: Path, degrees: int, turns: int) -> None:
    """An MP4's track header holds a matrix; 90 degrees clockwise is three quarter turns counter-clockwise."""
    path = write_video(tmp_path / "a.mp4", count=3)
    upright = next(VideoReader(path).frames())
    data = bytearray(path.read_bytes())
    one = 1 << 16
    a, b = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    place = data.index(b"tkhd") + 4 + 40  # version, flags, times, id, duration, layer, group, volume
    assert struct.unpack_from(">9i", data, place) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, place, a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    reader = VideoReader(path)
    assert reader.rotation_deg == degrees
    assert reader.size == (SIZE if degrees == 180 else SIZE[::-1])
    assert np.array_equal(next(reader.frames()), np.rot90(upright, turns))


@needs_real_data
def test_a_real_video() -> None:
    reader = VideoReader(OPENFIELD)
    assert reader.size == (480, 640)
    assert reader.fps == pytest.approx(30, abs=0.01)
    assert reader.count_frames() == reader.header_frames == 2330
    whole = [frame for index, frame in zip(range(130), reader.frames(), strict=False) if index >= 120]
    resumed = [frame for _, frame in zip(range(10), reader.frames(120), strict=False)]
    assert all(np.array_equal(one, other) for one, other in zip(whole, resumed, strict=True))
    assert is_video(OPENFIELD)


def jpeg_places(data: bytes) -> list[tuple[int, int]]:
    """Start and length of each frame's data in an AVI file of Motion JPEG."""
    places, start = [], data.index(b"movi")
    while (start := data.find(b"00dc", start)) >= 0 and start < data.rindex(b"idx1"):
        length = struct.unpack_from("<I", data, start + 4)[0]
        places.append((start + 8, length))
        start += 8 + length
    assert len(places) == COUNT
    return places


def drop_frames(path: Path, dropped: set[int]) -> None:
    """Leave the places of frames in an AVI file empty, as programs do that record what a camera sends."""
    data, index = path.read_bytes(), b""
    first = jpeg_places(data)[0][0] - 8
    movi, out = data.index(b"movi"), bytearray(data[:first])
    for frame, (start, length) in enumerate(jpeg_places(data)):
        content = b"" if frame in dropped else data[start : start + length + length % 2]
        index += struct.pack("<4sIII", b"00dc", 16, len(out) - movi, 0 if frame in dropped else length)
        out += struct.pack("<4sI", b"00dc", 0 if frame in dropped else length) + content
    struct.pack_into("<I", out, movi - 4, len(out) - movi)
    out += struct.pack("<4sI", b"idx1", len(index)) + index
    struct.pack_into("<I", out, 4, len(out) - 8)
    path.write_bytes(out)


@pytest.mark.parametrize(
    ("dropped", "told"),
    [
        ({5}, "1 frame is missing inside: 1 before frame 5;"),
        ({5, 6, 7, 20}, "4 frames are missing inside: 3 before frame 5, 1 before frame 17;"),
        ({0, 1}, "2 frames are missing inside: 2 before frame 0;"),
        (set(range(1, COUNT, 2)), "19 frames are missing inside: 1 before frame 1, 1 before frame 2, "),
    ],
)
def test_frames_that_were_dropped_inside_are_told_with_their_places(
    tmp_path: Path, dropped: set[int], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "a.avi")
    drop_frames(path, dropped)
    with caplog.at_level(logging.WARNING):
        indices = [read_index(frame) for frame in VideoReader(path).frames()]
    assert indices == [index for index in range(COUNT) if index not in dropped]
    [line] = caplog.messages
    assert line.startswith(f"{path}: by the times of its frames, {told}")
    assert "frames are numbered as they are decoded" in line


@pytest.mark.parametrize("start", [0, 10, COUNT])
def test_damage_that_the_decoder_conceals_is_told_with_its_frame(
    tmp_path: Path, start: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    path = write_video(tmp_path / "a.avi")
    data = bytearray(path.read_bytes())
    for frame in (7, 30):
        place, length = jpeg_places(bytes(data))[frame]
        data[place + length - 60 : place + length - 20] = b"\xa5" * 40
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert len(list(VideoReader(path).frames(start))) == COUNT - start
        assert not list(VideoReader(path, report=False).frames(COUNT)), "a second look says nothing"
    [line] = caplog.messages
    assert f"{path}: the decoder reports damaged data at or near frame 7, 30 (" in line
    assert video_faults(path) == [line.removeprefix(f"{path}: ")]
    assert len(caplog.messages) == 1
    assert capfd.readouterr() == ("", "")


def test_a_pass_that_is_left_early_ends_the_search_for_damage(video: Path) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before = children()  # of other tests
    frames = VideoReader(video).frames()
    next(frames)
    assert len(children() - before) == 1
    frames.close()
    assert not children() - before


def test_frames_too_large_for_memory_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch) -> None:
    path = write_video(tmp_path / "a.avi")
    monkeypatch.setattr("utils.media.videos.MAX_PIXELS", 48 * 64)
    assert VideoReader(path).size == SIZE
    monkeypatch.setattr("utils.media.videos.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(
        DataError, match=r"a\.avi: frames of 48 x 64 pixels \(height x width\), expected at most 3071 in"
    ):
        VideoReader(path)
    assert MAX_PIXELS > 7680 * 4320


@pytest.mark.parametrize("claimed", [600, 10**9])
def test_a_forecast_believes_no_header_that_the_file_has_no_room_for(tmp_path: Path, claimed: int) -> None:
    path = write_video(tmp_path / "a.avi")
    claim_frames(path, claimed)
    room = path.stat().st_size // 16
    assert COUNT < 600 < room
    assert VideoReader(path).header_frames == claimed
    assert VideoReader(path).expect_frames() == (claimed if claimed <= room else COUNT)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_nothing_appears_before_the_video_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("before")
    writer = VideoWriter(path, SIZE, 20)
    for index in range(3):
        writer.write(draw_frame(index))
    assert path.read_text() == "before"
    assert sorted(entry.suffix for entry in tmp_path.iterdir()) == [".mp4", ".partial"]
    writer.close()
    writer.close()
    assert VideoReader(path).count_frames() == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]
    with pytest.raises(ValueError, match="the video is closed"):
        writer.write(draw_frame(0))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_video_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("before")

    def write_and_stop() -> None:
        with VideoWriter(path, SIZE, 20) as writer:
            writer.write(draw_frame(0))
            raise error

    with pytest.raises(error):
        write_and_stop()
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["before"]


def test_a_video_without_frames_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frame was written"), VideoWriter(tmp_path / "a.mp4", SIZE, 20):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (47, 63)])
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_odd_sides_lose_nothing(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    frame = np.zeros((*size, 3), np.uint8)
    frame[:, :, 1] = np.linspace(0, 255, size[1])[None]
    with VideoWriter(tmp_path / f"a{suffix}", size, 20) as writer:
        writer.write(frame)
    read = next(VideoReader(tmp_path / f"a{suffix}").frames())
    assert read.shape == (48, 64, 3)
    assert np.abs(read[: size[0], : size[1]].astype(int) - frame).mean() < 4
    assert abs(int(read[20, -1, 1]) - 255) < 12


@pytest.mark.parametrize(
    ("path", "size", "fps", "message"),
    [
        ("a.gif", SIZE, 20, r"cannot write .gif; known: .mp4, .mov, .mkv, .avi"),
        ("a", SIZE, 20, "cannot write no suffix"),
        ("a.mp4", (0, 5), 20, "above 0"),
        ("a.mp4", SIZE, float("nan"), "above 0"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, path: str, size: tuple, fps: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoWriter(tmp_path / path, size, fps)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"a\.mp4: cannot be written \(.+\); free space"):
        VideoWriter(tmp_path / "file" / "a.mp4", SIZE, 20)


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_a_full_disk_leaves_no_half_video(tmp_path: Path, suffix: str) -> None:
    """The system's limit on the size of files stands for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (60, 240, 320, 3)).astype(np.uint8)

    def write() -> None:
        with VideoWriter(tmp_path / f"a{suffix}", (240, 320), 20) as writer:
            for frame in noise:
                writer.write(frame)

    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be written \(.+\); free space on this disk"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_video(tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert one == other


# --- recognising -----------------------------------------------------------------------------------------------------


def test_videos_are_known_by_suffix_and_content(video: Path, tmp_path: Path) -> None:
    assert is_video(video)
    assert is_video(str(video))
    upper = tmp_path / f"UPPER{video.suffix.upper()}"
    upper.write_bytes(video.read_bytes())
    assert is_video(upper)
    renamed = tmp_path / "walk.bin"
    renamed.write_bytes(video.read_bytes())
    assert not is_video(renamed)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert not is_video(empty)
    assert not is_video(tmp_path)


def test_a_transport_stream_is_known_by_its_beat(tmp_path: Path) -> None:
    stream, text = tmp_path / "a.ts", tmp_path / "b.ts"
    stream.write_bytes((b"G" + bytes(187)) * 3)
    text.write_text("Good morning, this is TypeScript. " * 20)
    assert (is_video(stream), is_video(text)) == (True, False)


def test_a_video_in_place_of_a_raster_is_called_one(video: Path) -> None:
    [told] = check_scene(video)
    assert "(it is a video); segmentation and labels have none: write its frames as pictures" in told
