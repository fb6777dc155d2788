"""Dinolith: one command, one YAML file.

python main.py [CONFIG] [key.path=value ...] reads the settings and runs, for every task, the phases that are enabled.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import (
    DataError,
    DinolithError,
    Interrupted,
    LockedError,
    SettingsError,
    advice_for_files,
    advice_for_packages,
)

try:
    from config import PHASES, Settings, TaskConfig, expand_path, load_settings, parse_settings, safe_mode_in_force
    from tasks import kinds, load_task
    from utils.logging import TimedBlock, VerbosityLogger, listening, refuse_foreign_log
    from utils.runtime.files import FileLock, write_json
    from utils.runtime.setting_classes import schema_of
    from utils.runtime.setting_files import find_config
    from utils.runtime.signals import StopSignal
except ModuleNotFoundError as error:
    if (advice := advice_for_packages(error)) is None:
        raise
    if advice:
        print(f"[ERROR] {advice}", file=sys.stderr)
    sys.exit(DinolithError.exit_code)

if TYPE_CHECKING:
    from tasks.task import Task

FAULTS_SHOWN = 5  # below the closing table
HELP = """settings on the command line:
  key.path=value             for every task of the file whose kind has the key, also where the task sets it itself
  tasks.NAME.key.path=value  for one task; counts before an entry for all
  The value is YAML and takes the place of what is there, also of a whole section, as in train={epochs: 3}.

exit codes:
  0  done, or nothing to do          75  another run holds the lock
  2  settings cannot be used        130  interrupted by Ctrl-C; state saved
  3  data or weights cannot be used 143  interrupted by SIGTERM; state saved
  4  failed while running
"""


@dataclass
class Outcome:
    """The results of a call: one row per phase, one column of scores per task."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    results: dict[str, dict[str, str]] = field(default_factory=dict)  # task -> what was made -> where it is
    at_work: str = ""  # the phase that runs; after a failure the one that failed
    began: float | None = None  # when the phase that runs did, by the monotonic clock
    faults: list[str] = field(default_factory=list)  # what is wrong with results that were made
    failures: list[str] = field(default_factory=list)  # what could not be done while the rest was

    def add(
        self, task: str, phase: str, status: str, seconds: float, metrics: dict[str, float], doubt: str = ""
    ) -> None:
        """Add a phase.

        Examples
        --------
        >>> outcome = Outcome()
        >>> outcome.add("coral", "prepare", "up to date", 0.1, {"records": 3.0})
        >>> outcome.add("coral", "evaluate", "done", 2.5, {"mIoU": 0.5})
        >>> outcome.rows[0], outcome.scores
        (('coral.prepare', 'up to date', 0.1), {'coral': {'mIoU (evaluate)': 0.5}})
        """
        self.rows.append((f"{task}.{phase}", status, seconds))
        if phase in ("train", "evaluate"):
            labelled = {name if phase == "train" else f"{name} ({phase})": value for name, value in metrics.items()}
            self.scores.setdefault(task, {}).update(labelled)
            self.doubts[task] = doubt
        elif doubt and not self.doubts.get(task):  # of the checkpoint that inference was told to use
            self.doubts[task] = f"of the checkpoint: {doubt}"

    def end_at_work(self, error: BaseException) -> None:
        """Add the phase that runs, which an error ends; does nothing where none runs or it is added already.

        Examples
        --------
        >>> outcome = Outcome(at_work="coral.train", began=time.monotonic())
        >>> outcome.end_at_work(KeyboardInterrupt())
        >>> outcome.end_at_work(ValueError("of the same phase"))
        >>> [row[:2] for row in outcome.rows]
        [('coral.train', 'interrupted')]
        """
        if self.began is not None:
            status = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
            self.rows.append((self.at_work, status, time.monotonic() - self.began))
            self.began = None


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
        "       python main.py [CONFIG] --new-config DATA [PROFILE]",
        description="Turn pictures into maps, boxes and keypoints: runs the enabled phases of every task in the "
        "settings file CONFIG. Without CONFIG: $DINOV3SEG_CONFIG, then config.yml here or in a folder above.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="CONFIG key.path=value", help="settings file, and settings to change")
    add(
        "--check",
        action="store_true",
        help="check settings, data, weights; print what is to do and how long; write nothing",
    )
    add("--only", metavar="TASK[.PHASE],...", help="run only these; a phase named here need not be enabled")
    add("--schema", action="store_true", help="print the JSON schema of the settings, for editors")
    add(
        "--new-config",
        nargs="+",
        metavar=("DATA", "PROFILE"),
        help="look at labelled data and write settings for them to CONFIG (config.yml)",
    )
    return parser.parse_intermixed_args(list(arguments))


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Separate the settings file from overrides.

    Raises
    ------
    SettingsError
        If two settings files are named.

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
        both = ", ".join(files)
        raise SettingsError(f"two settings files given: {both}; an override needs '=', as in train.epochs=3")
    return (files[0] if files else None), [word for word in words if "=" in word]


def choose_phases(settings: Settings, only: str | None) -> dict[str, tuple[str, ...]]:
    """The phases to run of each task, in the order in which tasks need each other; `only` is TASK[.PHASE],...

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
    from tasks.references import order_tasks

    requested = parse_only(settings, only) if only is not None else {name: None for name in settings.tasks}
    chosen: dict[str, tuple[str, ...]] = {}
    for name in order_tasks(settings.tasks):
        if name not in requested:
            continue
        chosen_phases = requested[name]
        phases = (
            settings.tasks[name].enabled_phases
            if chosen_phases is None
            else tuple(p for p in PHASES if p in chosen_phases)
        )
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

    Raises
    ------
    SettingsError
        If a task or phase is unknown.

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
    requested: dict[str, set[str] | None] = {}
    for entry in only.split(","):
        name, _, phase = entry.strip().partition(".")
        if name not in settings.tasks:
            hint = f"did you mean {next(iter(settings.tasks))}.{name}? known" if name in PHASES else "known"
            raise SettingsError(f"--only {entry}: unknown task {name!r}; {hint}: {', '.join(settings.tasks)}")
        if phase and phase not in PHASES:
            raise SettingsError(f"--only {entry}: unknown phase {phase!r}; known: {', '.join(PHASES)}")
        if not phase:
            requested[name] = None
        elif requested.get(name, set()) is not None:
            requested[name] = (requested.get(name) or set()) | {phase}
    return requested


@contextmanager
def task_in_errors(name: str, settings: Settings) -> Iterator[None]:
    """Add the name of the task to errors of settings or data, if there are several tasks.

    Raises
    ------
    SettingsError, DataError
        The same error, with the name of the task.

    Examples
    --------
    >>> from config import parse_settings
    >>> with task_in_errors("fish", parse_settings("tasks: {coral: {}, fish: {}}", (), kinds())):
    ...     raise DataError("reef.tif: truncated")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: reef.tif: truncated
    """
    try:
        yield
    except (SettingsError, DataError) as error:
        if len(settings.tasks) > 1:
            error.task = name
        raise


def build_task(name: str, settings: Settings, phases: Sequence[str]) -> Task:
    """Make the object of a task and check it, before any task starts.

    Examples
    --------
    >>> from config import parse_settings
    >>> from tasks.stores import preview_stores
    >>> with preview_stores():
    ...     build_task("segmentation", parse_settings("model: {num_classes: 2}", (), kinds()), ()).name
    'segmentation'
    """
    from tasks.named_files import starts_from_file
    from tasks.references import resolve_references

    with task_in_errors(name, settings):
        config = resolve_references(settings.tasks[name], settings.tasks, "export")
        task = load_task(config.kind)(name, config)
        task.preflight(phases)
        if starts_from_file(name, settings.tasks, phases):
            task.check_init_from()
        if not task.awaits_sample():  # its pictures would say how large samples are
            task.check_memory([phase for phase in phases if phase in ("prepare", "train")])
    return task


def build_tasks(settings: Settings, phases: dict[str, tuple[str, ...]]) -> dict[str, Task]:
    """Check the files that all tasks name, and make the tasks' objects, except of those that wait for an export.

    Examples
    --------
    >>> from config import parse_settings
    >>> build_tasks(parse_settings("{}", (), kinds()), {"segmentation": ()})
    {}
    """
    from tasks.named_files import check_named_files
    from tasks.references import awaits_export

    for name, chosen in phases.items():
        with task_in_errors(name, settings):
            check_named_files(name, settings.tasks, chosen)
    ready = [name for name, chosen in phases.items() if chosen]
    ready = [name for name in ready if not awaits_export(settings.tasks[name], settings.tasks, phases)]
    return {name: build_task(name, settings, phases[name]) for name in ready}


def check(settings: Settings, phases: dict[str, tuple[str, ...]], log: VerbosityLogger) -> None:
    """Validate settings, data and weights of every task and print what is up to date, what would run and how long.

    Examples
    --------
    >>> from config import parse_settings
    >>> check(parse_settings("{}", (), kinds()), {}, VerbosityLogger("info"))
    [INFO] check: the settings can be used
    """
    from tasks.forecast import forecast

    tasks = build_tasks(settings, phases)
    due: dict[str, set[str]] = {}
    for name, chosen in phases.items():
        log.info(f"{name}: {settings.tasks[name].kind}: {', '.join(chosen) or 'no phase is enabled'}")
        if name in tasks:
            with task_in_errors(name, settings):
                for line in (*tasks[name].check(), *forecast(tasks[name], chosen, settings.tasks, due)):
                    log.info(f"{name}: {line}")
        elif chosen:
            log.info(f"{name}: waits for the backbone that another task exports; it is checked after that")
    log.info("check: the settings can be used")


def run_task(
    task: Task, settings: Settings, phases: Sequence[str], log: VerbosityLogger, stop: StopSignal, outcome: Outcome
) -> None:
    """Run phases of one task, each in a `TimedBlock`.

    Examples
    --------
    >>> import tempfile
    >>> from config import parse_settings
    >>> from tasks.example import example_task
    >>> task, outcome = example_task(tempfile.mkdtemp())[0], Outcome()
    >>> settings = Settings({"segmentation": task.settings}, task.settings)
    >>> run_task(task, settings, ["prepare"], VerbosityLogger("error"), StopSignal(), outcome)
    >>> outcome.rows[0][:2]
    ('segmentation.prepare', 'done')
    """
    from tasks.context import Context
    from tasks.phases import load_phase
    from tasks.references import resolve_references
    from tasks.runs import list_results, open_run, sweep_results, task_folder
    from utils.runtime import distributed

    name = task.name  # another task of this call may have written the checkpoint
    task.settings = resolve_references(task.settings, settings.tasks, "checkpoint")
    with ExitStack() as stack:
        lock = FileLock(task_folder(name, task.settings) / ".lock")
        distributed.run_on_main(lambda: stack.enter_context(lock) and None)
        distributed.run_on_main(lambda: sweep_results(name, task.settings))
        folder = Path(distributed.run_on_main(lambda: str(open_run(name, task.settings))))
        context = Context(log, folder, stop.check, lambda: stop.signum)
        queue = list(phases)
        while queue:
            phase = queue.pop(0)
            outcome.at_work, outcome.began = f"{name}.{phase}", time.monotonic()
            try:
                with TimedBlock(outcome.at_work, log) as block:
                    result = load_phase(phase)(task, context)
            except BaseException as error:
                outcome.end_at_work(error)
                raise
            finally:
                outcome.results[name] = list_results(context.folder, task.settings)
            outcome.began = None
            status = "partly done" if result.failures else result.status
            outcome.add(name, phase, status, block.seconds, result.metrics, result.doubt)
            outcome.faults += [f"{name}: {fault}" for fault in result.faults]
            outcome.failures += [f"{name}.{phase}: {failure}" for failure in result.failures]
            outcome.at_work = ""
            if result.metrics.get("bad records") and "prepare" in phases:
                queue.insert(0, "prepare")  # repeats the records that verify set aside


def close(outcome: Outcome, log: VerbosityLogger) -> None:
    """Print the closing tables, of phases and scores, why not to believe these, faults of results, and where they are.

    Examples
    --------
    >>> outcome = Outcome(results={"coral": {"run": "/runs/coral/1", "predictions": "/maps"}})
    >>> outcome.add("coral", "train", "done", 2.5, {"mIoU": 0.5})
    >>> outcome.faults = ["coral: a: the map repeats"]
    >>> close(outcome, VerbosityLogger("info"))  # doctest: +ELLIPSIS
    [INFO] Phase ...
    [INFO] coral: a: the map repeats
    [INFO] coral: results: /runs/coral/1
    [INFO] coral: predictions: /maps
    """
    from utils.report.tables import format_table, phase_table

    if outcome.rows:
        for line in phase_table(outcome.rows).splitlines():
            log.info(line)
    names = list(dict.fromkeys(name for scores in outcome.scores.values() for name in scores))
    if names:
        rows = [[task, *(scores.get(name, float("nan")) for name in names)] for task, scores in outcome.scores.items()]
        for line in format_table(["Task", *names], rows).splitlines():
            log.info(line)
    for task, doubt in outcome.doubts.items():
        if doubt:
            log.info(f"{task}: {doubt}")
    for fault in outcome.faults[:FAULTS_SHOWN]:
        log.info(fault)
    if len(outcome.faults) > FAULTS_SHOWN:
        log.info(f"and {len(outcome.faults) - FAULTS_SHOWN} more such lines in inference.json of the runs")
    for task, results in outcome.results.items():
        run = results.get("run", "")
        inside = [path.removeprefix(f"{run}/") for path in results.values() if run and path.startswith(f"{run}/")]
        if run:
            log.info(f"{task}: results: {run}" + (f" ({', '.join(inside)})" if inside else ""))
        for name, path in results.items():
            if not run or not f"{path}/".startswith(f"{run}/"):
                log.info(f"{task}: {name}: {path}")


def run(
    settings: Settings, phases: dict[str, tuple[str, ...]], log: VerbosityLogger, stop: StopSignal, outcome: Outcome
) -> None:
    """Run all tasks and print the closing tables.

    Raises
    ------
    SettingsError
        If there is nothing to run.

    Examples
    --------
    >>> from config import parse_settings
    >>> nothing = parse_settings("{}", (), kinds())
    >>> run(nothing, {}, VerbosityLogger("info"), StopSignal(), Outcome())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: no phase is enabled; set enable: true in a section such as prepare or train, or run ...
    """
    if not any(phases.values()):
        raise SettingsError(
            "no phase is enabled; set enable: true in a section such as prepare or train, or run --only TASK.PHASE"
        )
    tasks = build_tasks(settings, phases)
    try:
        for name, chosen in phases.items():
            if chosen:
                task = tasks.pop(name, None) or build_task(
                    name, settings, chosen
                )  # popped, so that its memory is freed
                with task_in_errors(name, settings):
                    run_task(task, settings, chosen, log, stop, outcome)
    finally:
        close(outcome, log)
    if outcome.failures:
        outcome.at_work = outcome.failures[0].partition(":")[0]
        number = f"{len(outcome.failures)} input{'s' if len(outcome.failures) > 1 else ''}"
        raise DataError(*"\n".join(outcome.failures).splitlines(), f"{number} could not be predicted; the rest is done")


def run_and_report(settings: Settings, phases: dict[str, tuple[str, ...]], only_check: bool) -> int:
    """Start ranks and log, check or run everything, and write the outcome to status.json; gives the exit code.

    Examples
    --------
    >>> import tempfile
    >>> from config import parse_settings
    >>> text = f"{{paths: {{runs_root: {tempfile.mkdtemp()}}}, logging: {{level: error}}}}"
    >>> run_and_report(parse_settings(text, (), kinds()), {"segmentation": ()}, only_check=False)
    2
    """
    from tasks.runs import choose_device, refuse_foreign_status, set_up_machine
    from tasks.stores import keep_stores, make_no_stores, preview_stores
    from utils.runtime import distributed, lost_ranks

    shared, resources = settings.shared, settings.shared.resources
    with ExitStack() as stack:
        set_up_machine(resources)
        distributed.start_ranks(resources.distributed, resources.dist_backend, choose_device(resources.device))
        stack.callback(distributed.stop_ranks)
        stack.enter_context(preview_stores() if only_check else keep_stores())
        stores = {"prepare", "verify", "train"} & {phase for chosen in phases.values() for phase in chosen}
        if not stores and distributed.world_size() == 1:  # ranks tell each other by a store what they found out
            stack.enter_context(make_no_stores())
        main_rank = distributed.is_main()
        writes = main_rank and not only_check
        status_path = Path(expand_path(shared.paths.runs_root)) / "status.json"
        file = expand_path(shared.logging.file) if shared.logging.file and main_rank else None
        if main_rank:
            refuse_foreign_status(status_path)
        if file and only_check:
            refuse_foreign_log(Path(file))
            file = None
        level, timestamps = shared.logging.level, shared.logging.timestamps
        log = stack.enter_context(VerbosityLogger(level, timestamps, file, quiet=not main_rank))
        stack.enter_context(listening(log, "models", "tasks", "utils"))
        if careful := safe_mode_in_force(shared):
            log.info(f"safe mode: {', '.join(careful)}")
        stop, outcome = stack.enter_context(StopSignal(quiet=not main_rank)), Outcome()

        def finish(error: BaseException | None = None) -> int:
            name, _, phase = outcome.at_work.rpartition(".")
            at_work = settings.tasks.get(name, shared), phase or "train"
            code = 0 if error is None else exit_code(error, log, at_work)
            if error is not None:
                outcome.end_at_work(error)  # of a rank that is lost while this one is in a long call
            if writes and code != LockedError.exit_code:
                code = write_status(status_path, code, outcome, log, error)
            return code

        lost_ranks.when_lost(finish)
        try:
            if only_check:
                check(settings, phases, log)
            else:
                run(settings, phases, log, stop, outcome)
        except (Exception, KeyboardInterrupt) as error:  # so that status.json holds the outcome of every run
            return finish(lost_ranks.explain(error))
        return finish()


def write_status(
    path: Path, code: int, outcome: Outcome, log: VerbosityLogger, error: BaseException | None = None
) -> int:
    """Write the outcome for schedulers; gives the exit code, 3 if the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "status.json"
    >>> outcome = Outcome(at_work="coral.train", results={"coral": {"run": "/runs/coral/1"}})
    >>> write_status(path, 3, outcome, VerbosityLogger("error"), DataError("a.tif: cut off"))
    3
    >>> status = json.loads(path.read_text())
    >>> status["failed_phase"], status["error"], status["results"]
    ('coral.train', 'a.tif: cut off', {'coral': {'run': '/runs/coral/1'}})
    """
    from utils.metrics import nan_to_none

    rows = [{"phase": name, "status": status, "seconds": seconds} for name, status, seconds in outcome.rows]
    failure = {}
    if error is not None:
        text = str(error) if isinstance(error, DinolithError) else f"{type(error).__name__}: {error}"
        failure = {"failed_phase": outcome.at_work or None, "error": text}
    status = {"exit_code": code, **failure, "phases": rows, "scores": outcome.scores, "results": outcome.results}
    try:
        write_json(path, nan_to_none(status))
    except OSError as error:
        return code or exit_code(error, log)  # an earlier error is logged already
    return code


def exit_code(error: BaseException, log: VerbosityLogger, at_work: tuple[TaskConfig, str] | None = None) -> int:
    """Log an error and give the exit code; `at_work` are the settings and the phase, for advice on memory.

    Examples
    --------
    >>> log = VerbosityLogger("error")
    >>> exit_code(SettingsError("train.lr: unknown key"), log), exit_code(ValueError("x"), log)
    (2, 4)
    """
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    if at_work is not None and isinstance(error, RuntimeError | MemoryError):
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            from tasks.model import advice_for_memory

            error = advice_for_memory(*at_work)
    elif isinstance(error, ModuleNotFoundError) and (missing := advice_for_packages(error)) is not None:
        error = DinolithError(missing)
    elif isinstance(error, OSError) and (advice := advice_for_files(error)):
        for line in lines:
            log.debug(line)
        error = DataError(advice)
    if isinstance(error, DinolithError):
        for line in () if error.told else str(error).splitlines():
            log.error(f"{error.task}: {line}" if error.task else line)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        log.error("interrupted; stopped at once, what was saved before stays")
        return 130
    log.error(f"failed while running: {type(error).__name__}: {error}")
    for line in lines:
        log.error(line)
    return 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    Examples
    --------
    >>> main(["--schema"])  # doctest: +ELLIPSIS
    {
      "$schema": ...
    ...
    0
    """
    parsed = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    if parsed.schema:
        print(json.dumps(schema_of(kinds()), indent=2))
        return 0
    log = VerbosityLogger("info")
    try:
        path, overrides = split_words(parsed.words)
        if parsed.new_config:
            return new_config(path, [*overrides], log, parsed.new_config)
        settings = read_settings(path, overrides)
        return run_and_report(settings, choose_phases(settings, parsed.only), parsed.check)
    except (Exception, KeyboardInterrupt) as error:  # also errors during the start of ranks and log
        return exit_code(error, log)


def read_settings(path: str | None, overrides: Sequence[str]) -> Settings:
    """Read the settings file and lay the command line over it.

    A command line that names a checkpoint to evaluate or predict with needs no file: the checkpoint says the rest.

    Examples
    --------
    >>> import tempfile
    >>> from contextlib import chdir
    >>> with chdir(tempfile.mkdtemp()):
    ...     read_settings(None, ["evaluate.checkpoint=best.safetensors"]).shared.evaluate.checkpoint
    'best.safetensors'
    """
    alone = any(
        entry.partition("=")[0].endswith(("evaluate.checkpoint", "inference.checkpoint")) for entry in overrides
    )
    file = find_config(path, needed=not alone)
    return parse_settings("{}", overrides, kinds()) if file is None else load_settings(file, overrides, kinds())


def new_config(target: str | None, overrides: Sequence[str], log: VerbosityLogger, words: Sequence[str]) -> int:
    """Write a settings file for data; returns the exit code. `words` are DATA, PROFILE and more overrides.

    Raises
    ------
    SettingsError
        If the words are not understood, or the settings cannot be written.

    Examples
    --------
    >>> new_config(None, [], VerbosityLogger("error"), ["reef", "none", "a.yml"])
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: --new-config reef none a.yml: expected DATA [PROFILE]; write CONFIG before --new-config
    """
    from tasks.new_config import write_new_config

    overrides = [*overrides, *(word for word in words if "=" in word)]
    data, *rest = [word for word in words if "=" not in word] or [""]
    if not data or len(rest) > 1:
        raise SettingsError(
            f"--new-config {' '.join(words)}: expected DATA [PROFILE]; write CONFIG before --new-config"
        )
    with listening(log, "tasks", "utils"):
        write_new_config(data, rest[0] if rest else None, target or "config.yml", overrides, log)
    return 0


if __name__ == "__main__":
    sys.exit(main())
