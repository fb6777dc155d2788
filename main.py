"""Dinolith: one command, one YAML file.

python main.py [CONFIG] [key.path=value ...] reads the settings and runs, for every task, the phases that are enabled.
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import PHASES, Settings, expand_path, load_settings, safe_mode_in_force
from tasks import kinds, load_task
from utils.errors import DataError, DinolithError, LockedError, SettingsError
from utils.files import FileLock, write_json
from utils.logging import TimedBlock, VerbosityLogger, listening
from utils.setting_classes import schema_of
from utils.setting_files import find_config
from utils.signals import StopSignal

EXIT_CODES = """exit codes:
  0  done, or nothing to do          75  another run holds the lock
  2  settings cannot be used        130  interrupted by Ctrl-C; state saved
  3  data or weights cannot be used 143  interrupted by SIGTERM; state saved
  4  failed while running
"""


@dataclass
class Outcome:
    """What a call did: one row per phase, one column of scores per task.

    Examples
    --------
    >>> outcome = Outcome()
    >>> outcome.add("coral", "train", "done", 2.5, {"mIoU": 0.5})
    >>> outcome.scores
    {'coral': {'mIoU': 0.5}}
    """

    rows: list[tuple[str, str, float]] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, task: str, phase: str, status: str, seconds: float, metrics: dict[str, float]) -> None:
        """Add a phase.

        Examples
        --------
        >>> outcome = Outcome()
        >>> outcome.add("coral", "prepare", "up to date", 0.1, {"records": 3.0})
        >>> outcome.rows, outcome.scores
        ([('coral.prepare', 'up to date', 0.1)], {})
        """
        self.rows.append((f"{task}.{phase}", status, seconds))
        if phase in ("train", "evaluate"):
            named = {name if phase == "train" else f"{name} ({phase})": value for name, value in metrics.items()}
            self.scores.setdefault(task, {}).update(named)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Examples
    --------
    >>> parsed = parse_arguments(["config.yml", "train.epochs=3", "--only", "coral.train"])
    >>> parsed.words, parsed.only
    (['config.yml', 'train.epochs=3'], 'coral.train')
    """
    parser = argparse.ArgumentParser(
        prog="main.py",
        usage="python main.py [CONFIG] [key.path=value ...] [--check] [--only TASK[.PHASE],...] [--schema]\n"
        "       python main.py [CONFIG] --new-config DATA PROFILE",
        description="Turn pictures into maps and keypoints: runs the enabled phases of every task in the settings file "
        "CONFIG. Without CONFIG: $DINOV3SEG_CONFIG, then config.yml here or in a folder above.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG key.path=value", help="settings file, and settings to change"
    )
    parser.add_argument(
        "--check", action="store_true", help="validate settings, data and weights, print the plan, run nothing"
    )
    parser.add_argument(
        "--only", metavar="TASK[.PHASE],...", help="run only these; a phase named here need not be enabled"
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the settings, for editors")
    parser.add_argument(
        "--new-config",
        nargs=2,
        metavar=("DATA", "PROFILE"),
        help="look at keypoint labels and write settings for them to CONFIG (config.yml); PROFILE may be none",
    )
    return parser.parse_intermixed_args(list(arguments))


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the settings file from overrides.

    Examples
    --------
    >>> split_words(["train.epochs=3", "config.yml"])
    ('config.yml', ['train.epochs=3'])
    >>> split_words(["a.yml", "b.yml"])
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: two settings files given: a.yml, b.yml; an override needs '=', as in train.epochs=3
    """
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise SettingsError(
            f"two settings files given: {', '.join(files)}; an override needs '=', as in train.epochs=3"
        )
    return (files[0] if files else None), [word for word in words if "=" in word]


def choose_phases(settings: Settings, only: str | None) -> dict[str, tuple[str, ...]]:
    """The phases to run of each task, in the order in which tasks need each other.

    Parameters
    ----------
    settings : Settings
        The settings.
    only : str, optional
        Comma-separated TASK or TASK.PHASE.

    Returns
    -------
    dict of str to tuple of str
        task -> phases.

    Raises
    ------
    SettingsError
        For an unknown task or phase, a phase that a task does not have, or tasks that need each other in a circle.

    Examples
    --------
    >>> from config import parse_settings
    >>> settings = parse_settings("tasks: {a: {train: {enable: true}}, b: {}}", (), kinds())
    >>> choose_phases(settings, None), choose_phases(settings, "b.evaluate,a")
    ({'a': ('train',), 'b': ()}, {'a': ('train',), 'b': ('evaluate',)})
    """
    wanted = parse_only(settings, only) if only is not None else {name: None for name in settings.tasks}
    chosen: dict[str, tuple[str, ...]] = {}
    for name in order_tasks(settings):
        if name not in wanted:
            continue
        named = wanted[name]
        phases = settings.tasks[name].enabled_phases if named is None else tuple(p for p in PHASES if p in named)
        task = load_task(settings.tasks[name].kind)
        for phase in phases:
            if phase not in task.phases:
                instead = f"{task.absent[phase]}; " if phase in task.absent else ""
                raise SettingsError(
                    f"{name}.{phase}: a task of kind {settings.tasks[name].kind} has no phase {phase}; "
                    f"it has {', '.join(task.phases)}; {instead}"
                    + (f"leave it out of --only {only}" if only else f"set {phase}.enable: false")
                )
        chosen[name] = phases
    return chosen


def parse_only(settings: Settings, only: str) -> dict[str, set[str] | None]:
    """Read `--only`: task -> named phases, None for those that are enabled.

    Examples
    --------
    >>> from config import parse_settings
    >>> parse_only(parse_settings("{}", (), kinds()), "segmentation.train")
    {'segmentation': {'train'}}
    >>> parse_only(parse_settings("{}", (), kinds()), "coral")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: --only coral: unknown task 'coral'; known: segmentation
    """
    wanted: dict[str, set[str] | None] = {}
    for entry in only.split(","):
        name, _, phase = entry.strip().partition(".")
        if name not in settings.tasks:
            hint = f"did you mean {next(iter(settings.tasks))}.{name}? known" if name in PHASES else "known"
            raise SettingsError(f"--only {entry}: unknown task {name!r}; {hint}: {', '.join(settings.tasks)}")
        if phase and phase not in PHASES:
            raise SettingsError(f"--only {entry}: unknown phase {phase!r}; known: {', '.join(PHASES)}")
        if not phase:
            wanted[name] = None
        elif wanted.get(name, set()) is not None:
            wanted[name] = (wanted.get(name) or set()) | {phase}
    return wanted


def order_tasks(settings: Settings) -> list[str]:
    """Sort tasks so that each comes after those it reads from.

    Examples
    --------
    >>> from config import parse_settings
    >>> text = "tasks: {fine: {train: {enable: true, init_from: coarse}}, coarse: {}}"
    >>> order_tasks(parse_settings(text, (), kinds()))
    ['coarse', 'fine']
    >>> text = "tasks: {a: {train: {enable: true, init_from: b}}, b: {train: {enable: true, init_from: a}}}"
    >>> order_tasks(parse_settings(text, (), kinds()))
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: tasks need each other in a circle: a -> b -> a
    """
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise SettingsError(f"tasks need each other in a circle: {' -> '.join([*path[path.index(name) :], name])}")
        if name not in ordered and name in settings.tasks:
            for needed in load_task(settings.tasks[name].kind).needed_by(settings.tasks[name]):
                visit(needed, (*path, name))
            ordered.append(name)

    for name in settings.tasks:
        visit(name, ())
    return ordered


@contextmanager
def about_task(name: str, settings: Settings) -> Iterator[None]:
    """Let errors of settings or data say which task they are about, where there are several.

    Examples
    --------
    >>> from config import parse_settings
    >>> settings = parse_settings("tasks: {coral: {}, fish: {}}", (), kinds())
    >>> def fail():
    ...     with about_task("fish", settings):
    ...         raise DataError("reef.tif: truncated")
    >>> guarded(fail, VerbosityLogger("error"))
    3
    """
    try:
        yield
    except (SettingsError, DataError) as error:
        if len(settings.tasks) > 1:
            error.task = name
        raise


def run_task(
    name: str, settings: Settings, phases: Sequence[str], log: VerbosityLogger, stop: StopSignal, outcome: Outcome
) -> None:
    """Run phases of one task, each in a `TimedBlock`.

    Examples
    --------
    >>> from config import parse_settings
    >>> settings = parse_settings("{}", (), kinds())
    >>> run_task("segmentation", settings, (), VerbosityLogger("error"), StopSignal(), Outcome())
    """
    if not phases:
        return
    from tasks.base import Context
    from tasks.phases import load_phase
    from tasks.runs import resolve_start, shared_run, task_folder
    from utils import distributed

    config = resolve_start(settings.tasks[name], settings.tasks)
    with ExitStack() as stack:
        lock = FileLock(task_folder(name, config) / ".lock")
        distributed.run_on_main(lambda: stack.enter_context(lock) and None)
        context = Context(log, shared_run(name, config), stop.check, lambda: stop.signum)
        task = load_task(config.kind)(name, config)
        queue = list(phases)
        while queue:
            phase = queue.pop(0)
            with TimedBlock(f"{name}.{phase}", log) as block:
                result = load_phase(phase)(task, context)
            outcome.add(name, phase, result.status, block.seconds, result.metrics)
            if result.metrics.get("bad records") and "prepare" in phases:
                queue.insert(0, "prepare")  # makes again what verify set aside, so that train finds it


def check(settings: Settings, phases: dict[str, tuple[str, ...]], log: VerbosityLogger) -> None:
    """Validate settings, data and weights of every task and print what would run.

    Examples
    --------
    >>> from config import parse_settings
    >>> check(parse_settings("{}", (), kinds()), {}, VerbosityLogger("info"))
    [INFO] check: the settings can be used
    """
    for name, chosen in phases.items():
        config = settings.tasks[name]
        log.info(f"{name}: {config.kind}: {', '.join(chosen) or 'no phase is enabled'}")
        if not chosen:
            continue
        with about_task(name, settings):
            task = load_task(config.kind)(name, config)
            task.check_early(chosen)
            for line in task.check():
                log.info(f"{name}: {line}")
    log.info("check: the settings can be used")


def close(outcome: Outcome, log: VerbosityLogger) -> None:
    """Print the closing tables: phases with their times, and the scores of the tasks side by side.

    Examples
    --------
    >>> outcome = Outcome()
    >>> outcome.add("coral", "train", "done", 2.5, {"mIoU": 0.5})
    >>> close(outcome, VerbosityLogger("error"))
    """
    from utils.report import format_table, phase_table

    if outcome.rows:
        for line in phase_table(outcome.rows).splitlines():
            log.info(line)
    names = list(dict.fromkeys(name for scores in outcome.scores.values() for name in scores))
    if names:
        rows = [[task, *(scores.get(name, float("nan")) for name in names)] for task, scores in outcome.scores.items()]
        for line in format_table(["Task", *names], rows).splitlines():
            log.info(line)


def run(settings: Settings, phases: dict[str, tuple[str, ...]], only_check: bool) -> int:
    """Start the ranks, run everything, and write the outcome to status.json.

    Examples
    --------
    >>> import tempfile
    >>> from config import parse_settings
    >>> text = f"{{paths: {{runs_root: {tempfile.mkdtemp()}}}, logging: {{level: error}}}}"
    >>> settings = parse_settings(text, (), kinds())
    >>> run(settings, {"segmentation": ()}, only_check=False)
    0
    """
    shared = settings.shared
    with ExitStack() as stack:
        ranks = start(settings)
        stack.callback(ranks)
        from utils import distributed
        from utils.metrics import nan_to_none

        main_rank = distributed.is_main()
        file = expand_path(shared.logging.file) if shared.logging.file and main_rank else None
        log = stack.enter_context(
            VerbosityLogger(shared.logging.level, shared.logging.timestamps, file, quiet=not main_rank)
        )
        stack.enter_context(listening(log, "models", "tasks", "utils"))
        if careful := safe_mode_in_force(shared):
            log.info(f"safe mode: {', '.join(careful)}")
        stop = stack.enter_context(StopSignal(quiet=not main_rank))
        outcome = Outcome()
        code = guarded(lambda: work(settings, phases, only_check, log, stop, outcome), log, shared.train)
        if main_rank and not only_check and code != LockedError.exit_code:
            rows = [{"phase": name, "status": status, "seconds": seconds} for name, status, seconds in outcome.rows]
            status = {"exit_code": code, "phases": rows, "scores": outcome.scores}
            code = tell_status(Path(expand_path(shared.paths.runs_root)) / "status.json", nan_to_none(status), log)
    return code


def tell_status(path: Path, status: dict[str, Any], log: VerbosityLogger) -> int:
    """Write the outcome for schedulers; gives the exit code, which a folder that cannot be written turns into 3.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "status.json"
    >>> tell_status(path, {"exit_code": 2}, VerbosityLogger("error")), path.exists()
    (2, True)
    """
    code = int(status["exit_code"])
    if code == 0:
        return guarded(lambda: write_json(path, status), log)
    with suppress(OSError):  # the error itself has been told; often it is this very folder
        write_json(path, status)
    return code


def start(settings: Settings) -> Callable[[], None]:
    """Set up machine and ranks; gives what ends them.

    Examples
    --------
    >>> from config import parse_settings
    >>> start(parse_settings("{}", (), kinds()))()
    """
    from tasks.runs import choose_device, set_up_machine
    from utils import distributed

    resources = settings.shared.resources
    set_up_machine(resources)
    distributed.start_ranks(resources.distributed, resources.dist_backend, choose_device(resources.device))
    return distributed.stop_ranks


def work(
    settings: Settings,
    phases: dict[str, tuple[str, ...]],
    only_check: bool,
    log: VerbosityLogger,
    stop: StopSignal,
    outcome: Outcome,
) -> None:
    """Check, or run all tasks and print the closing tables.

    Examples
    --------
    >>> from config import parse_settings
    >>> work(parse_settings("{}", (), kinds()), {}, False, VerbosityLogger("info"), StopSignal(), Outcome())
    [INFO] no phase is enabled; set enable: true in a section such as prepare or train
    """
    if only_check:
        check(settings, phases, log)
        return
    if not any(phases.values()):
        log.info("no phase is enabled; set enable: true in a section such as prepare or train")
    for name, chosen in phases.items():
        if chosen:
            with about_task(name, settings):
                load_task(settings.tasks[name].kind)(name, settings.tasks[name]).check_early(chosen)
    try:
        for name, chosen in phases.items():
            with about_task(name, settings):
                run_task(name, settings, chosen, log, stop, outcome)
    finally:
        close(outcome, log)


def guarded(function: Callable[[], Any], log: VerbosityLogger, train: Any = None) -> int:
    """Run a function; turn its errors into lines for a person and an exit code for a scheduler.

    Examples
    --------
    >>> def fail():
    ...     raise SettingsError("train.lr: unknown key")
    >>> guarded(fail, VerbosityLogger("error")), guarded(lambda: None, VerbosityLogger("error"))
    (2, 0)
    """
    try:
        function()
    except DinolithError as error:
        for line in str(error).splitlines():
            log.error(f"{error.task}: {line}" if error.task else line)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted; stopped at once, what was saved before stays")
        return 130
    except (RuntimeError, MemoryError) as error:
        if train is None or not (isinstance(error, MemoryError) or "out of memory" in str(error)):
            return report_crash(error, log)
        from tasks.model import advice_for_memory

        return guarded(lambda: raise_error(advice_for_memory(train)), log)
    except OSError as error:
        advice = advice_for_files(error)
        if advice is None:
            return report_crash(error, log)
        log.error(advice)
        for line in "".join(traceback.format_exception(error)).rstrip().splitlines():
            log.debug(line)
        return DataError.exit_code
    except (
        Exception
    ) as error:  # the last resort: whatever it is, the scheduler gets code 4 and the person the traceback
        return report_crash(error, log)
    return 0


def advice_for_files(error: OSError) -> str | None:
    """Say what to do about a file or folder that the system refuses; None when it is no matter of files.

    Examples
    --------
    >>> advice_for_files(FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b.txt"))
    'a/b.txt: No such file or directory; check the path that the settings name'
    >>> advice_for_files(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None
    True
    """
    cures = {
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free space on this disk, or name a folder on another one",
        (errno.EACCES, errno.EPERM, errno.EROFS): "name a folder that you may write, or have the rights changed",
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR): "a file stands where a folder is needed, or a folder in place of "
        "a file; remove it, or name another place",
        (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP): "check the path that the settings name",
    }
    cure = next((cure for numbers, cure in cures.items() if error.errno in numbers), None)
    where = error.filename2 or error.filename
    return None if cure is None else f"{where or 'a file'}: {error.strerror}; {cure}"


def raise_error(error: BaseException) -> None:
    """Raise an error where an expression is needed.

    Examples
    --------
    >>> raise_error(ValueError("x"))
    Traceback (most recent call last):
        ...
    ValueError: x
    """
    raise error


def report_crash(error: BaseException, log: VerbosityLogger) -> int:
    """Log an error that nobody foresaw, with its traceback.

    Examples
    --------
    >>> report_crash(ValueError("x"), VerbosityLogger("error"))
    4
    """
    log.error(f"failed while running: {type(error).__name__}: {error}")
    for line in "".join(traceback.format_exception(error)).rstrip().splitlines():
        log.error(line)
    return 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    Examples
    --------
    >>> main(["--schema"])  # doctest: +ELLIPSIS
    {
      "$defs": {
    ...
    0
    """
    parsed = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    if parsed.schema:
        print(json.dumps(schema_of(kinds()), indent=2))
        return 0
    if parsed.new_config:
        return new_config(parsed.words, *parsed.new_config)
    settings, phases = None, {}

    def read() -> None:
        nonlocal settings, phases
        named, overrides = split_words(parsed.words)
        settings = load_settings(find_config(named), overrides, kinds())
        phases = choose_phases(settings, parsed.only)

    log = VerbosityLogger("info")
    code = guarded(read, log)
    if code or settings is None:
        return code
    return guarded_run(settings, phases, parsed.check, log)


def new_config(words: Sequence[str], data: str, profile: str) -> int:
    """Write settings for somebody's labels; returns the exit code.

    Examples
    --------
    >>> new_config(["new.yml"], "/no/such/labels", "none")
    3
    """
    from tasks.keypoints.new_config import write_new_config

    log = VerbosityLogger("info")

    def write() -> None:
        target, overrides = split_words(words)
        if overrides:
            raise SettingsError(f"{overrides[0]}: --new-config takes no overrides; change the file that it writes")
        write_new_config(data, profile, target or "config.yml", log)

    with listening(log, "tasks", "utils"):
        return guarded(write, log)


def guarded_run(settings: Settings, phases: dict[str, tuple[str, ...]], only_check: bool, log: VerbosityLogger) -> int:
    """Run, also catching what goes wrong while ranks and log are set up.

    Examples
    --------
    >>> from config import parse_settings
    >>> guarded_run(parse_settings("resources: {distributed: true}", (), kinds()), {}, False, VerbosityLogger("error"))
    2
    """
    codes = [4]
    failed = guarded(lambda: codes.__setitem__(0, run(settings, phases, only_check)), log)
    return failed or codes[0]


if __name__ == "__main__":
    sys.exit(main())
