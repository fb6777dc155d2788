"""Messages that people can read and act on, however long or odd what they name is."""

from __future__ import annotations

import errno
import os

import pytest

from utils.errors import DataError, advice_for_files
from utils.logging import VerbosityLogger


@pytest.mark.parametrize("value", ["x" * 200_000, "a b " * 50_000, "\x1b" * 200_000])
def test_long_values_are_cut_and_place_and_advice_stay(value, capsys):
    text = f"train.txt:7: {value!r} is no picture; remove the line"
    for shown in (str(DataError(text)), _logged(text, capsys)):
        assert len(shown) < 6000
        assert "train.txt:7: '" in shown
        assert shown.rstrip().endswith("is no picture; remove the line")
        assert " characters ...]" in shown


def _logged(text, capsys):
    VerbosityLogger().warning(text)
    return capsys.readouterr().out


def test_a_long_path_is_told_whole():
    path = "/".join(["f" * 200] * 4)
    assert str(DataError(f"{path}: truncated")) == f"{path}: truncated"


@pytest.mark.parametrize("inside", ["", "deep/store.json"])
def test_a_link_to_nowhere_is_called_so(tmp_path, inside):
    (tmp_path / "runs").symlink_to("gone")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which class depends on the depth
        (tmp_path / "runs" / inside).mkdir(parents=True, exist_ok=True)
    advice = advice_for_files(caught.value)
    assert f"{tmp_path / 'runs'} is a link to gone, which is not there" in advice


def test_a_file_and_no_link_in_place_of_a_folder_is_called_so(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "runs").symlink_to("real")
    (tmp_path / "real" / "a").write_text("")
    with pytest.raises(FileExistsError) as caught:
        os.mkdir(tmp_path / "runs" / "a")
    assert "a file stands where a folder is needed" in advice_for_files(caught.value)
    assert "a: No space" in advice_for_files(OSError(errno.ENOSPC, "No space left on device", "a"))
