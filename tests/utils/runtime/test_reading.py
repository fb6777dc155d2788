"""Files that are none, that never end, or that break a reader: refused by name, before anything is read."""

import os
import socket
from pathlib import Path

import pytest

from tasks.splits import read_list
from utils.errors import DataError, SettingsError
from utils.formats.text_files import read_json_file, read_lines
from utils.media.picture_sizes import picture_size
from utils.runtime.files import read_json
from utils.runtime.reading import check_regular, file_errors, read_bounded, read_bounded_text


def make_pipe(folder):
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def make_socket(folder):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    return folder / "socket"


def make_link(folder):
    (folder / "link").symlink_to("/proc/self/environ")
    return folder / "link"


STRANGE = {
    "pipe": (make_pipe, "a pipe"),
    "socket": (make_socket, "a socket"),
    "zero": (lambda folder: "/dev/zero", "a device"),
    "proc": (lambda folder: "/proc/self/maps", "a file that the system makes"),
    "a link to proc": (
        lambda folder: (folder / "link").symlink_to("/proc/self/environ") or folder / "link",
        "the system",
    ),
}
READERS = (read_bounded, read_bounded_text, read_list, picture_size, read_json_file, read_json)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize(("make", "words"), STRANGE.values(), ids=STRANGE)
def test_what_is_no_file_on_a_disk_is_refused_before_it_is_read(make, words, reader, tmp_path):
    with pytest.raises(DataError, match=f"{words}.*expected a file on a disk"):
        reader(Path(make(tmp_path)))


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "large.txt"
    with path.open("wb") as stream:
        stream.truncate(2**40)  # takes no space
    with pytest.raises(DataError, match=f"{2**40} bytes, more than the"):
        list(read_lines(path))


def test_a_path_with_nul_is_refused_by_name():
    with pytest.raises(DataError, match=r"a\\x00b: a path cannot hold a NUL"):
        check_regular("a\0b")


def test_memory_files_and_links_to_files_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    assert read_bounded_text(tmp_path / "b.txt") == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    "error", [KeyError("x"), OverflowError("too large"), RecursionError(), MemoryError(), OSError(5, "I/O")]
)
def test_any_error_of_a_reader_names_the_file(error):
    words = r"^a\.tif: cannot be read as a GeoTIFF \(.*\); copy it again$"
    problem = "cannot be read as a GeoTIFF"
    with pytest.raises(DataError, match=words) as caught, file_errors("a.tif", problem, "copy it again"):
        raise error
    assert caught.value.__cause__ is error


def test_errors_that_say_what_they_are_about_pass_and_so_does_a_key(tmp_path):
    with pytest.raises(SettingsError, match=r"^train\.lr"), file_errors("a", "b"):
        raise SettingsError("train.lr: unknown key")
    with pytest.raises(KeyboardInterrupt), file_errors("a", "b"):
        raise KeyboardInterrupt


def test_numbers_of_400_digits_are_numbers(tmp_path):
    (tmp_path / "a.json").write_text(f"[{'9' * 400}, {'9' * 5000}, -{'9' * 20}, 12, 1e999]")
    assert read_json_file(tmp_path / "a.json") == [float("inf"), float("inf"), -1e20, 12, float("inf")]
