import io
import logging as standard
import math
import multiprocessing
import re
import sys

import pytest

import utils.logging
from utils.errors import Interrupted, SettingsError
from utils.logging import Progress, TimedBlock, VerbosityLogger, format_duration, listening, progress


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def say_everything(logger: VerbosityLogger) -> None:
    logger.error("e")
    logger.warning("w")
    logger.info("i")
    logger.debug("d")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("error", ""),
        ("info", "[WARNING] w\n[INFO] i\n"),
        ("debug", "[WARNING] w\n[INFO] i\n[DEBUG] d\n"),
    ],
)
def test_levels_choose_what_goes_to_stdout_and_errors_go_to_stderr(level, expected, capsys):
    say_everything(VerbosityLogger(level))
    captured = capsys.readouterr()
    assert captured.out == expected
    assert captured.err == "[ERROR] e\n"


def test_a_quiet_logger_still_reports_errors(capsys):
    say_everything(VerbosityLogger("debug", quiet=True))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "[ERROR] e\n")


def test_the_file_gets_every_shown_line_at_once_and_is_appended_to(tmp_path, capsys):
    path = tmp_path / "deep" / "run.log"
    for _ in range(2):
        with VerbosityLogger("info", file=path) as logger:
            say_everything(logger)
            assert path.read_text().endswith("[ERROR] e\n[WARNING] w\n[INFO] i\n")  # not buffered until closing
    assert path.read_text() == "[ERROR] e\n[WARNING] w\n[INFO] i\n" * 2


def test_a_timestamp_stands_before_the_line(capsys):
    VerbosityLogger(timestamps=True).info("a")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[INFO\] a\n", capsys.readouterr().out)


HOSTILE = "a\n[INFO] done\r\x1b[2J\x9b1m\u2028\u202e\udcff.tif"  # what may stand in a file's name or a label
ESCAPED = r"a\n[INFO] done\r\x1b[2J\x9b1m\u2028\u202e\udcff.tif"


def test_names_cannot_forge_lines_or_act_on_the_terminal(tmp_path, capsys):
    with VerbosityLogger("debug", file=tmp_path / "run.log") as logger, listening(logger, "utils"):
        logger.info(HOSTILE)
        logger.error(HOSTILE)
        standard.getLogger("utils.somewhere").warning("%s: odd", HOSTILE)
    captured = capsys.readouterr()
    assert captured.out == f"[INFO] {ESCAPED}\n[WARNING] {ESCAPED}: odd\n"
    assert captured.err == f"[ERROR] {ESCAPED}\n"
    expected = f"[INFO] {ESCAPED}\n[ERROR] {ESCAPED}\n[WARNING] {ESCAPED}: odd\n"
    assert (tmp_path / "run.log").read_bytes() == expected.encode()


def test_unknown_level_and_unwritable_file_are_errors_of_the_settings(tmp_path):
    with pytest.raises(SettingsError, match="unknown level 'verbose'; known: error, info, debug"):
        VerbosityLogger("verbose")
    (tmp_path / "taken").write_text("")
    with pytest.raises(SettingsError, match=r"logging\.file: cannot write .*taken/run\.log"):
        VerbosityLogger(file=tmp_path / "taken" / "run.log")


def test_characters_that_the_console_lacks_are_escaped_in_it_and_whole_in_the_file(tmp_path, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with VerbosityLogger(file=tmp_path / "run.log") as logger:
        logger.info("forêt")
    assert raw.getvalue() == b"[INFO] for\\xeat\n"
    assert (tmp_path / "run.log").read_text(encoding="utf-8") == "[INFO] forêt\n"


@pytest.mark.parametrize(
    ("error", "stream", "words"),
    [
        (ValueError("no"), "out", "[INFO] train: failed after"),
        (Interrupted(15), "out", "[WARNING] train: interrupted after"),
        (KeyboardInterrupt(), "out", "[WARNING] train: interrupted after"),
    ],
)
def test_a_timed_block_tells_how_it_ended_and_lets_the_error_pass(error, stream, words, capsys):
    with pytest.raises(type(error)), TimedBlock("train", VerbosityLogger()):
        raise error
    assert words in getattr(capsys.readouterr(), stream)


def test_seconds_run_during_the_block_and_stand_still_after_it():
    with TimedBlock("quiet") as block:
        during = block.seconds
    after = block.seconds
    assert 0 <= during <= after == block.seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.1, "0.1 s"),
        (59.94, "59.9 s"),
        (119.7, "2 min 0 s"),
        (3600, "1 h 0 min"),
        (math.nan, "unknown"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_progress_writes_a_line_after_ten_seconds_and_then_each_minute(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(utils.logging.time, "monotonic", lambda: clock[0])
    with Progress(1000, "windows", VerbosityLogger()) as loop:
        for second in range(1, 200):
            clock[0] = float(second)
            loop.advance(2)
    lines = capsys.readouterr().out.splitlines()
    counts = [f"{2 * second}/1000 ({second // 5}%), 2.0 per s" for second in (10, 70, 130, 190)]
    assert [line.partition(", ")[0] + ", 2.0 per s" for line in lines] == [f"[INFO] windows: {text}" for text in counts]
    assert "8 min 10 s left, ends about " in lines[0]


def test_progress_is_silent_on_a_quiet_logger_even_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(progress(range(4), name="windows", logger=VerbosityLogger(quiet=True), every_s=0))
    assert capsys.readouterr().out == ""
    assert sys.stderr.getvalue() == ""


def test_a_terminal_gets_a_bar_that_makes_way_for_messages(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    logger = VerbosityLogger()
    for item in progress(range(3), name="windows", logger=logger, every_s=0):
        logger.info(f"item {item}")
    shown = terminal.getvalue()
    assert "windows:" in shown
    assert len(re.findall(r"\r +\r\[INFO\] item \d\n", shown)) == 3  # the bar is wiped out before each line
    assert shown.count("[INFO]") == 3  # no lines of the loop's own beside its bar
    assert logger.open_bars == 0


def test_a_loop_that_is_left_early_closes_its_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    logger = VerbosityLogger()
    loop = progress(range(3), name="windows", logger=logger)
    next(loop)
    assert logger.open_bars == 1
    loop.close()
    assert logger.open_bars == 0


def test_the_rate_gives_the_rest_of_the_time():
    with Progress(15, "windows", VerbosityLogger("error")) as loop:
        assert loop.eta_s == float("inf")
        loop._start -= 10.0  # as if ten seconds had passed
        loop.advance(5)
    assert loop.rate == pytest.approx(0.5, rel=0.01)
    assert loop.eta_s == pytest.approx(20.0, rel=0.01)


def test_the_standard_library_is_not_shadowed_and_the_start_method_is_left_open():
    assert hasattr(standard, "getLogger")
    before = multiprocessing.get_start_method(allow_none=True)
    VerbosityLogger("error").info("a")
    assert multiprocessing.get_start_method(allow_none=True) == before
