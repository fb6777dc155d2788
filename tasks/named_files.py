"""Files that settings name, checked before any work: lists, pictures, labels and checkpoints."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from config import PHASES, TaskConfig, expand_path
from tasks import load_task
from tasks.references import references_of
from tasks.runs import leaves, task_folder
from tasks.splits import LIST_SPLITS, MADE, read_list, refuse_absent_test, refuse_empty_lists
from utils.errors import DataError, SettingsError
from utils.raster.inputs import find_inputs
from utils.runtime.checkpoints import find_file
from utils.runtime.reading import check_regular

FOLDERS = re.compile(r"(runs_root|data_root|processed_dir|splits_dir|weights_dir|output_dir|\.folder)$")


def check_named_files(name: str, tasks: Mapping[str, TaskConfig], phases: Sequence[str]) -> None:
    """Refuse files that phases of a task read and that are not there, or are no files, before any work starts.

    Left out is only what the run itself makes: the files of the sample, and checkpoints of its trainings.

    Parameters
    ----------
    name : str
        The task.
    tasks : mapping of str to TaskConfig
        All tasks of the file.
    phases : sequence of str
        Those of the task that run.

    Raises
    ------
    DataError
        With the setting, the path, and what is wrong with it.

    Examples
    --------
    >>> check_named_files("coral", {"coral": TaskConfig(evaluate={"inputs": "/dev/zero"})}, ["evaluate"])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: evaluate.inputs: /dev/zero: a device; expected a file on a disk; name another one
    """
    settings, sample = tasks[name], load_task(tasks[name].kind).sample_files
    refuse_files_for_folders(settings, phases)
    evaluates_split = "evaluate" in phases and not settings.evaluate.names_pictures
    if {"prepare", "verify", "train"} & set(phases) or evaluates_split:
        _check_lists(name, settings, phases, evaluates_split)
    _check_roots(settings, phases, evaluates_split, sample)
    sources = {}
    if "inference" in phases:
        sources["inference.inputs"] = located(settings, settings.inference.inputs)
    if "evaluate" in phases and settings.evaluate.names_pictures:
        sources["evaluate.inputs"] = located(settings, settings.evaluate.inputs)
        sources["evaluate.labels"] = located(settings, getattr(settings.evaluate, "labels", None))
    for setting, paths in sources.items():
        for source in (source for source in paths if not sample_writes(settings, source, sample)):
            check_there(setting, source)
            if setting == "evaluate.inputs":
                _check_pictures(setting, source)
    _check_checkpoints(name, tasks, phases)


def refuse_files_for_folders(settings: TaskConfig, phases: Sequence[str]) -> None:
    """Refuse settings of a folder that name a file, or something inside of one, before any work starts.

    Left out are the settings of phases that do not run, and those of a sample that is not written.

    Raises
    ------
    SettingsError
        All of them, a line each.

    Examples
    --------
    >>> refuse_files_for_folders(TaskConfig(paths={"runs_root": f"{__file__}/runs"}), ["train"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: paths.runs_root: .../named_files.py: a file, expected a folder; name another one
    """
    found = []
    for key, value in leaves(settings.model_dump(mode="json")):
        section = key.partition(".")[0]
        idle = section in PHASES and section not in phases
        sample = getattr(settings.dataset, "sample", None)
        idle |= key == "dataset.sample.folder" and not (sample is not None and sample.enable)
        if idle or not isinstance(value, str) or not FOLDERS.search(key):
            continue
        path = Path(expand_path(value)).absolute()
        there = next(place for place in (path, *path.parents) if os.path.lexists(place))
        if not there.is_dir():
            what = "a file" if there.exists() else "a link to nowhere"
            found.append(f"{key}: {there}: {what}, expected a folder; name another one")
    if found:
        raise SettingsError(*found)


def _check_roots(settings: TaskConfig, phases: Sequence[str], evaluates_split: bool, sample: Sequence[str]) -> None:
    """Refuse relative paths that are in the working directory, but not in `paths.data_root`, where they start.

    Raises
    ------
    DataError
        With the setting, and what to write in it.

    Examples
    --------
    >>> _check_roots(TaskConfig(paths={"data_root": "/no/such"}), ["train"], False, ())  # it names no relative path
    """
    root, reads = settings.paths.data_root, set(phases)
    reads |= {"data"} if {"prepare", "verify", "train"} & reads or evaluates_split else set()
    for setting, readers in settings.rooted.items() if root is not None else ():
        section, _, key = setting.partition(".")
        value = getattr(getattr(settings, section, None), key, None)
        for entry in flat(value) if readers & reads else ():
            place, here = settings.paths.locate(entry), expand_path(entry)
            if os.path.isabs(here) or matches(place) or sample_writes(settings, place, sample) or not matches(here):
                continue
            raise DataError(
                f"{setting}: {place}: no such file or folder: relative paths start in paths.data_root ({root}), and "
                f"{entry} is in the working directory; write {os.path.abspath(here)}, or change paths.data_root"
            )


def flat(value: str | Sequence | None) -> list[str]:
    """The texts of a setting that holds one, none, or lists of them.

    Examples
    --------
    >>> flat([["a", "b"], "c"]), flat(None)
    (['a', 'b', 'c'], [])
    """
    return [value] if isinstance(value, str) else [text for entry in value or () for text in flat(entry)]


def matches(path: str) -> bool:
    """Whether a path is there, or a glob finds a file.

    Examples
    --------
    >>> matches(__file__), matches(os.path.dirname(__file__) + "/*.py"), matches("/no/such/*.py")
    (True, True, False)
    """
    return os.path.lexists(path) or (glob.has_magic(path) and any(glob.iglob(path, recursive=True)))


def _check_lists(name: str, settings: TaskConfig, phases: Sequence[str], evaluates_split: bool) -> None:
    """Refuse a test list that is not there, and lists that are not text.

    Raises
    ------
    DataError
        If a list cannot be used.

    Examples
    --------
    >>> _check_lists("coral", TaskConfig(dataset={"splits": {"train_list": "/dev/zero"}}), ["train"], False)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /dev/zero: a device; expected a file on a disk; name another one; a split list holds ...
    """
    if {"prepare", "verify", "train"} & set(phases) or "test" in settings.evaluate.splits:
        refuse_absent_test(name, settings)
    for split in LIST_SPLITS:
        path = getattr(settings.dataset.splits, f"{split}_list")
        if path is not None and os.path.lexists(expand_path(path)):
            read_list(expand_path(path))
    needed = {*(MADE if "train" in phases else ()), *(settings.evaluate.splits if evaluates_split else ())}
    refuse_empty_lists(name, settings, needed)


def _check_pictures(setting: str, source: str) -> None:
    """Refuse a folder that holds neither pictures nor videos.

    Raises
    ------
    DataError
        With the setting.

    Examples
    --------
    >>> import tempfile
    >>> _check_pictures("evaluate.inputs", tempfile.mkdtemp())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: evaluate.inputs: no scene in ...
    """
    try:
        find_inputs([source])
    except DataError as error:
        raise DataError(f"{setting}: {error}") from None


def located(settings: TaskConfig, value: str | Sequence[str] | None) -> list[str]:
    """The paths of a setting that holds one, several or none.

    Examples
    --------
    >>> located(TaskConfig(paths={"data_root": "/d"}), "a.tif"), located(TaskConfig(), None)
    (['/d/a.tif'], [])
    """
    listed = [value] if isinstance(value, str) else value or []
    return [settings.paths.locate(entry) for entry in listed]


def check_there(setting: str, source: str) -> None:
    """Refuse a path that is not there, or is a pipe or a device, and a glob that nothing matches.

    Raises
    ------
    DataError
        With the setting.

    Examples
    --------
    >>> check_there("keypoints.prompts", "/no/such/*.json")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: keypoints.prompts: /no/such/*.json: no file matches; correct the pattern
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return
    try:
        if not glob.has_magic(source) or path.exists():
            check_regular(path)
        elif not glob.glob(str(path), recursive=True):
            raise DataError(f"{path}: no file matches; correct the pattern")
    except DataError as error:
        raise DataError(f"{setting}: {error}") from None
    except FileNotFoundError:
        raise DataError(f"{setting}: {path}: no such file or folder") from None
    except OSError as error:
        raise DataError(f"{setting}: {path}: cannot be opened ({error.strerror}); name another one") from None


def sample_writes(settings: TaskConfig, source: str, files: Sequence[str]) -> bool:
    """Whether a path or glob stands for files that prepare writes as the sample, and that may not be there yet.

    Parameters
    ----------
    settings : TaskConfig
        With `dataset.sample`, where the kind has it.
    source : str
        File, folder or glob.
    files : sequence of str
        The files of the sample, below its folder; none where the kind does not say, which stands for all.

    Examples
    --------
    >>> from tasks.segmentation.settings import SegmentationSettings
    >>> settings = SegmentationSettings(dataset={"sample": {"enable": True, "folder": "/s"}})
    >>> sources = ["/s/unseen", "/s/*/a.tif", "/s/b.tif", "/a.tif"]
    >>> [sample_writes(settings, source, ["unseen/a.tif"]) for source in sources]
    [True, True, False, False]
    """
    sample = getattr(settings.dataset, "sample", None)
    if sample is None or not sample.enable:
        return False
    folder = Path(expand_path(sample.folder)).resolve()
    place = os.path.relpath(Path(source).expanduser().resolve(), folder)
    inside = not files and not place.startswith("..")
    return inside or any(
        place in (".", file) or file.startswith(f"{place}/") or fnmatchcase(file, place) for file in files
    )


def _check_checkpoints(name: str, tasks: Mapping[str, TaskConfig], phases: Sequence[str]) -> None:
    """Refuse a checkpoint that is not there and that no training of this call writes.

    Raises
    ------
    DataError
        With the setting, and the checkpoints near that path.

    Examples
    --------
    >>> settings = TaskConfig(train={"init_from": "/no/such/best.safetensors"})
    >>> _check_checkpoints("coral", {"coral": settings}, ["train"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: train.init_from: /no/such/best.safetensors: no such checkpoint, and none near it; ...
    """
    settings = tasks[name]
    references = (ref for ref in references_of(settings) if ref.gives == "checkpoint" and not ref.task(settings, tasks))
    named = {reference.setting: reference.value(settings) for reference in references}
    for phase in (phase for phase in ("evaluate", "inference", "export") if phase in phases):
        named[f"{phase}.checkpoint"] = getattr(settings, phase).checkpoint
    for setting, value in named.items():
        phase = setting.partition(".")[0]
        if phase not in phases or value is None:
            continue
        path = Path(expand_path(value))
        if not run_writes(name, tasks, phases, setting, path):
            try:
                find_file(path, "checkpoint")
            except DataError as error:
                raise DataError(f"{setting}: {error}") from None


def starts_from_file(name: str, tasks: Mapping[str, TaskConfig], phases: Sequence[str]) -> bool:
    """Whether a training starts from a checkpoint that is there already: `train.init_from` names no task of this call.

    Examples
    --------
    >>> tasks = {"a": TaskConfig(train={"init_from": "b"}), "b": TaskConfig(train={"init_from": "/c.safetensors"})}
    >>> [starts_from_file(name, tasks, ["train"]) for name in tasks]
    [False, True]
    """
    references = {reference.setting: reference for reference in references_of(tasks[name])}
    start = references.get("train.init_from")
    value = start.value(tasks[name]) if start is not None and "train" in phases else None
    if value is None or (start is not None and start.task(tasks[name], tasks)):
        return False
    return not run_writes(name, tasks, phases, "train.init_from", Path(expand_path(value)))


def run_writes(name: str, tasks: Mapping[str, TaskConfig], phases: Sequence[str], setting: str, path: Path) -> bool:
    """Whether a training of this call may write the checkpoint that a setting of a task names.

    Examples
    --------
    >>> tasks = {"coral": TaskConfig(paths={"runs_root": "/r"}, train={"enable": True})}
    >>> path = Path("/r/coral/latest/checkpoints/best.safetensors")
    >>> [run_writes("coral", tasks, ["train"], setting, path) for setting in ("train.init_from", "evaluate.checkpoint")]
    [False, True]
    """
    writers = {other for other, task in tasks.items() if "train" in task.enabled_phases and other != name}
    writers |= {name} if "train" in phases and not setting.startswith("train.") else set()
    return any(task_writes(other, tasks[other], path) for other in writers)


def task_writes(name: str, settings: TaskConfig, path: Path) -> bool:
    """Whether the training of a task may write a checkpoint at a path.

    Examples
    --------
    >>> settings = TaskConfig(train={"weights_dir": "/w"}, paths={"runs_root": "/r"})
    >>> paths = ("/w/linear_best.safetensors", "/r/coral/latest/checkpoints/best.safetensors", "/r/best.safetensors")
    >>> [task_writes("coral", settings, Path(path)) for path in paths]
    [True, True, False]
    """
    folders = [task_folder(name, settings)]
    folders += [Path(expand_path(settings.train.weights_dir))] if settings.train.weights_dir else []
    return any(path.absolute().is_relative_to(folder.absolute()) for folder in folders)
