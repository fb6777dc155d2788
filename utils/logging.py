"""What a run tells: `[LEVEL] message` lines, how long each phase took, and how far a loop has come.

The module is imported as `utils.logging`; it does not replace the standard library's `logging`, whose lines it shows
while `listening`.
"""

from __future__ import annotations

import logging as standard
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from tqdm import tqdm
from typing_extensions import override

from utils.errors import Interrupted, SettingsError, escape_controls, shorten

Item = TypeVar("Item")

FIRST_S = 10.0  # a loop that takes longer says so
LEVELS = {"error": 0, "info": 1, "debug": 2}
LOG_LINE = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d )?\[(ERROR|WARNING|INFO|DEBUG)\] ")  # as `_write` begins it
MAX_START = 4096  # bytes by which a log is known


class VerbosityLogger:
    """Write `[LEVEL] message` lines: errors to stderr, the rest to stdout, all of them to a file on request.

    Parameters
    ----------
    level : str
        "error" (errors only), "info" (also information and warnings) or "debug" (everything).
    timestamps : bool
        Put date and time before each line.
    file : str or Path, optional
        Lines are appended to it as they come; its folder is made. It holds the same lines as the console.
    quiet : bool
        Say nothing but errors, whatever the level: for all ranks but the first.

    Raises
    ------
    SettingsError
        If the level is unknown, or the file cannot be opened.

    Examples
    --------
    >>> logger = VerbosityLogger("info")
    >>> logger.info("3 windows")
    [INFO] 3 windows
    >>> logger.debug("not shown")
    >>> VerbosityLogger("loud")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: logging.level: unknown level 'loud'; known: error, info, debug
    """

    def __init__(
        self, level: str = "info", timestamps: bool = False, file: str | Path | None = None, quiet: bool = False
    ):
        if level not in LEVELS:
            raise SettingsError(f"logging.level: unknown level {level!r}; known: {', '.join(LEVELS)}")
        self.level = level
        self.timestamps = timestamps
        self.quiet = quiet
        self._closed_streams: list[IO[str]] = []  # streams that nobody reads any more
        self.open_bars = 0  # progress bars on the terminal that lines must not break
        self._file = None if file is None else _open_log(Path(file))

    def __enter__(self) -> VerbosityLogger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; later lines go to the console only.

        Examples
        --------
        >>> logger = VerbosityLogger()
        >>> logger.close()
        >>> logger.info("still here")
        [INFO] still here
        """
        if self._file is not None:
            self._file.close()
            self._file = None

    def shows(self, level: str) -> bool:
        """Whether lines of a level are written; asked before costly text is made.

        Examples
        --------
        >>> VerbosityLogger("info").shows("debug"), VerbosityLogger("info", quiet=True).shows("error")
        (False, True)
        """
        limit = LEVELS["error"] if self.quiet else LEVELS[self.level]
        return LEVELS[level] <= limit

    def error(self, message: str) -> None:
        """Say what failed, on stderr.

        Examples
        --------
        >>> from contextlib import redirect_stderr
        >>> with redirect_stderr(sys.stdout):
        ...     VerbosityLogger("error").error("scene.tif: truncated")
        [ERROR] scene.tif: truncated
        """
        self._write("error", "ERROR", message, sys.stderr)

    def warning(self, message: str) -> None:
        """Say what looks wrong but does not stop the run; shown from level "info" up.

        Examples
        --------
        >>> VerbosityLogger("info").warning("no CRS")
        [WARNING] no CRS
        >>> VerbosityLogger("error").warning("not shown")
        """
        self._write("info", "WARNING", message, sys.stdout)

    def info(self, message: str) -> None:
        r"""Say what is being done, in one line: a line break or an escape code in a name cannot forge another.

        Examples
        --------
        >>> VerbosityLogger().info("read a.png\n[INFO] done")
        [INFO] read a.png\n[INFO] done
        """
        self._write("info", "INFO", message, sys.stdout)

    def debug(self, message: str) -> None:
        """Say what only a person in search of a fault wants to know.

        Examples
        --------
        >>> VerbosityLogger("debug").debug("bucket 0: 2 tensors")
        [DEBUG] bucket 0: 2 tensors
        """
        self._write("debug", "DEBUG", message, sys.stdout)

    def _write(self, level: str, label: str, message: str, stream: IO[str]) -> None:
        """Write a message to its stream and to the file, when its level is shown.

        Examples
        --------
        >>> VerbosityLogger()._write("info", "INFO", "a", sys.stdout)
        [INFO] a
        """
        if not self.shows(level):
            return
        # tqdm.write keeps clear of a bar, but it settles multiprocessing's start method: only where there is a bar
        write = tqdm.write if self.open_bars else print
        stamp = datetime.now().isoformat(" ", timespec="seconds") + " " if self.timestamps else ""
        line = f"{stamp}[{label}] {escape_controls(shorten(message))}"
        self._append_to_file(line)
        # what the encoding lacks is escaped: a class name must not stop a run under cron's ASCII locale
        encoding = getattr(stream, "encoding", None) or "utf-8"
        self._print(line.encode(encoding, errors="backslashreplace").decode(encoding), write, stream)

    def _print(self, line: str, write: Callable[..., None], stream: IO[str]) -> None:
        """Print a line; when nobody reads the pipe any more (`... | head`), the work goes on without it.

        Examples
        --------
        >>> VerbosityLogger()._print("[INFO] a", print, sys.stdout)
        [INFO] a
        """
        if stream in self._closed_streams:
            return
        try:
            write(line, file=stream)
            stream.flush()  # stdout into a pipe or a cron mail is otherwise silent for minutes
        except BrokenPipeError:
            self._closed_streams.append(stream)
            with suppress(OSError):  # what is left in its buffer would raise again when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def _append_to_file(self, line: str) -> None:
        r"""Append a line to the file; a disk that is full ends the file, not the run.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.log"
        >>> with VerbosityLogger(file=path) as logger:
        ...     logger._append_to_file("[INFO] a")
        >>> path.read_text()
        '[INFO] a\n'
        """
        if self._file is None:
            return
        try:
            self._file.write(line + "\n")
        except OSError as error:
            with suppress(OSError):
                self.close()  # tries to write what is left
            self._file = None
            self.warning(f"logging.file: cannot be written any more ({error.strerror}); lines go to the console only")


class _Relay(standard.Handler):
    """Hands records of the standard library's `logging` to a `VerbosityLogger`.

    Examples
    --------
    >>> _Relay(VerbosityLogger()).emit(standard.LogRecord("utils", standard.WARNING, "", 0, "%d odd", (3,), None))
    [WARNING] 3 odd
    """

    def __init__(self, logger: VerbosityLogger):
        super().__init__()
        self.logger = logger

    @override
    def emit(self, record: standard.LogRecord) -> None:
        """Write a record as a line of its level.

        Examples
        --------
        >>> _Relay(VerbosityLogger("error")).emit(standard.LogRecord("a", standard.INFO, "", 0, "not shown", (), None))
        """
        writers = ((standard.ERROR, self.logger.error), (standard.WARNING, self.logger.warning))
        write = next((write for level, write in writers if record.levelno >= level), self.logger.info)
        write(record.getMessage())


@contextmanager
def listening(logger: VerbosityLogger, *names: str) -> Iterator[None]:
    """Show what modules below these packages give to the standard library's `logging`.

    Examples
    --------
    >>> with listening(VerbosityLogger(), "utils"):
    ...     standard.getLogger("utils.raster.vector_labels").warning("one polygon is no polygon")
    [WARNING] one polygon is no polygon
    """
    relay, loggers = _Relay(logger), [standard.getLogger(name) for name in names]
    before = [(source.level, source.propagate) for source in loggers]
    for source in loggers:
        source.addHandler(relay)
        source.setLevel(standard.INFO)
        source.propagate = False
    try:
        yield
    finally:
        for source, (level, propagate) in zip(loggers, before, strict=True):
            source.removeHandler(relay)
            source.setLevel(level)
            source.propagate = propagate


def _open_log(path: Path) -> IO[str]:
    r"""Open a log file for appending, line by line.

    Raises
    ------
    SettingsError
        When the file cannot be written, or is no log of ours.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "logs" / "run.log"
    >>> stream = _open_log(path)
    >>> _ = stream.write("one line\n")
    >>> path.read_text()  # before the file is closed
    'one line\n'
    """
    refuse_foreign_log(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a", buffering=1, encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"logging.file: cannot write {path}: {error.strerror}; choose a file in a folder that you may write"
        ) from None


def refuse_foreign_log(path: Path) -> None:
    r"""Refuse to add lines to a file that does not begin as a log: settings or labels would be broken.

    Raises
    ------
    SettingsError
        When the file begins with anything else than a line of a log, or cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "config.yml"
    >>> refuse_foreign_log(path)
    >>> _ = path.write_text("2026-01-31 09:30:00 [INFO] train: started\n")
    >>> refuse_foreign_log(path)
    >>> _ = path.write_text("train: {epochs: 5}\n")
    >>> refuse_foreign_log(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: logging.file: .../config.yml is a file of something else than log lines: ...
    """
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # such as a name that is too long, below a file, or with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"logging.file: cannot write {path}: {reason}; choose another file") from None
    if not path.is_file():  # absent, or a terminal, a pipe and the like
        return
    try:
        with open(path, "rb") as stream:
            start = stream.read(MAX_START)
    except OSError as error:
        raise SettingsError(f"logging.file: {path}: cannot be read ({error.strerror}); name another file") from None
    if start and not LOG_LINE.match(start):
        what = "no text file" if b"\0" in start else "a file of something else than log lines"
        line = start.partition(b"\n")[0][:60].decode(errors="replace").rstrip()
        raise SettingsError(f"logging.file: {path} is {what}: it begins with {line!r}; name a file of its own")


def format_duration(seconds: float) -> str:
    """Write a length of time with the two units that matter.

    Parameters
    ----------
    seconds : float
        Length in seconds.

    Returns
    -------
    str
        "unknown" when the length is not finite.

    Examples
    --------
    >>> [format_duration(seconds) for seconds in (0.0123, 0.5, 59.96, 75, 3725, 90000)]
    ['12 ms', '0.5 s', '1 min 0 s', '1 min 15 s', '1 h 2 min', '1 d 1 h']
    >>> format_duration(float("inf"))
    'unknown'
    """
    if not abs(seconds) < float("inf"):  # also False for NaN
        return "unknown"
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:  # below what would be printed as 60.0 s
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, next_size, next_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // next_size} {next_unit}"
    return f"{whole // 60} min {whole % 60} s"


class TimedBlock:
    """Say when a phase starts, how it ends, and how long it took.

    Parameters
    ----------
    name : str
        What is timed.
    logger : VerbosityLogger, optional
        Told about it; without one the block only measures.

    Examples
    --------
    >>> with TimedBlock("prepare", VerbosityLogger()) as block:  # doctest: +ELLIPSIS
    ...     pass
    [INFO] prepare: started
    [INFO] prepare: finished in ... ms
    >>> block.seconds < 1
    True
    """

    def __init__(self, name: str, logger: VerbosityLogger | None = None):
        self.name = name
        self.logger = logger
        self._start: float | None = None
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start, up to the end when it has come.

        Examples
        --------
        >>> TimedBlock("never started").seconds
        0.0
        """
        if self._start is None:
            return 0.0
        return (time.monotonic() if self._end is None else self._end) - self._start

    def __enter__(self) -> TimedBlock:
        self._start, self._end = time.monotonic(), None
        if self.logger is not None:
            self.logger.info(f"{self.name}: started")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end = time.monotonic()
        if self.logger is not None:
            self._log_end(self.logger, error)

    def _log_end(self, logger: VerbosityLogger, error: BaseException | None) -> None:
        """Log how the block ended; the error itself is reported by whoever handles it.

        Examples
        --------
        >>> TimedBlock("train")._log_end(VerbosityLogger(), KeyboardInterrupt())
        [WARNING] train: interrupted after 0 ms
        """
        duration = format_duration(self.seconds)
        if error is None:
            logger.info(f"{self.name}: finished in {duration}")
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            logger.warning(f"{self.name}: interrupted after {duration}")
        else:
            logger.info(f"{self.name}: failed after {duration}")


class Progress:
    """Tell how far a loop has come: a bar in a terminal, a line now and then elsewhere.

    A loop that is short gives no line: the first one comes after ten seconds, or after `every_s` if that is less.

    Parameters
    ----------
    total : int, optional
        Number of items of the whole loop.
    name : str
        What is done.
    logger : VerbosityLogger
        Gets the lines; when it does not show information there is no bar either.
    every_s : float
        Seconds between two lines; infinite for none.

    Examples
    --------
    >>> with Progress(4, "windows", VerbosityLogger(), every_s=0) as loop:  # doctest: +ELLIPSIS
    ...     loop.advance(3)
    [INFO] windows: 3/4 (75%), ... per s, ... left, ends about ...
    >>> loop.done
    3
    """

    def __init__(self, total: int | None, name: str, logger: VerbosityLogger, every_s: float = 60.0):
        self.total = total
        self.name = name
        self.logger = logger
        self.every_s = every_s
        self.done = 0
        self._start = time.monotonic()
        self._next = 0.0  # when the next line is due
        self._bar: tqdm | None = None

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._next = self._start + min(FIRST_S, self.every_s)
        if self.logger.shows("info") and sys.stderr.isatty():
            self._bar = tqdm(total=self.total, desc=self.name, leave=False, dynamic_ncols=True)
            self.logger.open_bars += 1
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self.logger.open_bars -= 1

    @property
    def rate(self) -> float:
        """Items per second of this run; 0 before the first one.

        Examples
        --------
        >>> Progress(4, "windows", VerbosityLogger()).rate
        0.0
        """
        return self.done / max(time.monotonic() - self._start, 1e-9)

    @property
    def eta_s(self) -> float:
        """Seconds to the end at this rate; infinite when the rate or the total is unknown.

        Examples
        --------
        >>> Progress(4, "windows", VerbosityLogger()).eta_s
        inf
        """
        if self.total is None or not self.done:
            return float("inf")
        return max(self.total - self.done, 0) / self.rate

    def advance(self, count: int = 1) -> None:
        """Count finished items, and tell when it is time.

        Parameters
        ----------
        count : int
            Items that were finished since the last call.

        Examples
        --------
        >>> loop = Progress(None, "frames", VerbosityLogger(), every_s=0)
        >>> loop.advance(2)  # doctest: +ELLIPSIS
        [INFO] frames: 2, ... per s
        """
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif count and time.monotonic() >= self._next:
            self._next = time.monotonic() + self.every_s
            self.logger.info(self.describe())

    def describe(self) -> str:
        """Count, rate and time to the end, in words.

        Examples
        --------
        >>> Progress(8, "windows", VerbosityLogger()).describe()
        'windows: 0/8 (0%), 0.0 per s, end unknown'
        """
        if self.total is None:
            return f"{self.name}: {self.done}, {self.rate:.1f} per s"
        share = 100 * self.done / self.total if self.total else 100
        eta = self.eta_s
        end = f"{format_duration(eta)} left, ends about {format_end(eta)}" if eta < float("inf") else "end unknown"
        return f"{self.name}: {self.done}/{self.total} ({share:.0f}%), {self.rate:.1f} per s, {end}"


def format_end(seconds: float) -> str:
    """Write the time of day that comes after some seconds, with the date if it is not today.

    Examples
    --------
    >>> len(format_end(0)), len(format_end(3 * 86400)), format_end(1e300)
    (5, 16, 'never')
    """
    now = datetime.now()
    try:
        end = now + timedelta(seconds=seconds)
    except OverflowError:
        return "never"
    return end.strftime("%H:%M" if end.date() == now.date() else "%Y-%m-%d %H:%M")


def progress(
    iterable: Iterable[Item],
    total: int | None = None,
    name: str = "",
    *,
    logger: VerbosityLogger,
    every_s: float = 60.0,
) -> Iterator[Item]:
    """Pass items on, and tell how far the loop has come.

    Parameters
    ----------
    iterable : iterable
        What is looped over.
    total : int, optional
        Number of items; taken from the iterable when it knows its length.
    name : str
        What is done.
    logger : VerbosityLogger
        Gets the lines.
    every_s : float
        Seconds between two lines, as for `Progress`.

    Yields
    ------
    Item
        The items, unchanged and in order.

    Examples
    --------
    >>> for item in progress("abc", name="letters", logger=VerbosityLogger(), every_s=0):  # doctest: +ELLIPSIS
    ...     print(item)
    a
    [INFO] letters: 1/3 (33%), ... per s, ...
    b
    [INFO] letters: 2/3 (67%), ... per s, ...
    c
    [INFO] letters: 3/3 (100%), ... per s, 0 ms left, ends about ...
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(total, name, logger, every_s) as loop:
        for item in iterable:
            yield item
            loop.advance()
