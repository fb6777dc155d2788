"""A run's folder, its checkpoints, its device and its seeds."""

from __future__ import annotations

import os
import random
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import ResourcesConfig, TaskConfig, expand_path
from utils.errors import DataError, SettingsError
from utils.runtime.checkpoints import checkpoint_files, is_checkpoint_file
from utils.runtime.files import read_json, sweep_temporaries, temporary_folder, write_json

BEST, LAST, STATE = "best", "last", "state"
CONFIG, RUN = "config.json", "run.json"  # the resolved settings; the fingerprint of the training in the folder
LATEST = "latest"  # the pointer to the run that continues
EPOCH_FILE = re.compile(r"epoch_(\d{3,})\.(safetensors|json)")
MOST_SHOWN = 3  # changed settings in a message
# settings of where results go; a file stands for its folder
WRITTEN = re.compile(r"(runs_root|processed_dir|splits_dir|weights_dir|output_dir|output_tif|\.folder|logging\.file)$")


def task_folder(name: str, settings: TaskConfig) -> Path:
    """The folder of all runs of a task.

    Examples
    --------
    >>> task_folder("coral", TaskConfig()).as_posix()
    'runs/coral'
    """
    return Path(expand_path(settings.paths.runs_root)) / name


def latest_run(name: str, settings: TaskConfig) -> Path | None:
    """The run that `latest` points to; None if there is none.

    Examples
    --------
    >>> import tempfile
    >>> latest_run("coral", TaskConfig(paths={"runs_root": tempfile.mkdtemp()})) is None
    True
    """
    pointer = task_folder(name, settings) / LATEST
    folder = pointer.parent / os.readlink(pointer) if pointer.is_symlink() else pointer
    return folder if folder.is_dir() else None


def open_run(name: str, settings: TaskConfig) -> Path:
    """Choose the folder of a call: `paths.run_name`, the latest run, or a new one; `train` may choose another.

    Parameters
    ----------
    name : str
        The task.
    settings : TaskConfig
        Its settings.

    Returns
    -------
    Path
        The folder.

    Examples
    --------
    >>> import tempfile
    >>> settings = TaskConfig(paths={"runs_root": tempfile.mkdtemp()})
    >>> first = open_run("coral", settings)
    >>> first == open_run("coral", settings) == latest_run("coral", settings)
    True
    """
    if settings.paths.run_name:
        folder = task_folder(name, settings) / settings.paths.run_name
    else:
        folder = latest_run(name, settings) or new_folder(task_folder(name, settings))
    if not (folder / RUN).exists():  # no training is in it, to which the settings there would belong
        write_json(folder / CONFIG, settings.model_dump(mode="json"))
    _point_to(folder)
    return folder


def new_folder(parent: Path) -> Path:
    """Name a folder by the time; it is not created.

    Examples
    --------
    >>> new_folder(Path("runs/coral")).parent.as_posix()
    'runs/coral'
    """
    folder = parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    while folder.exists():  # two runs within one second
        folder = folder.with_name(folder.name + "+")
    return folder


def choose_run(current: Path, settings: TaskConfig, fingerprint: str, write: bool = True) -> tuple[Path, str]:
    """Find the run of a training: the one with its fingerprint, the current folder if it holds none, or a new one.

    So a rerun from cron resumes the training or finds it finished, and other settings or data never overwrite a model.
    With earlier settings, their run is found again.

    Parameters
    ----------
    current : Path
        The folder of the call.
    settings : TaskConfig
        For `config.json` of a new run.
    fingerprint : str
        Of the training.
    write : bool
        False only finds out: `latest` stays, and a new run is not made.

    Returns
    -------
    folder : Path
        The run; `latest` points to it.
    why : str
        What differs from the current run, if another one is chosen; else empty.

    Raises
    ------
    SettingsError
        If `paths.run_name` names a run that holds another training.

    Examples
    --------
    >>> import tempfile
    >>> first = Path(tempfile.mkdtemp()) / "first"
    >>> choose_run(first, TaskConfig(), "a") == (first, "")
    True
    >>> second, why = choose_run(first, TaskConfig(train={"epochs": 2}), "b")
    >>> second == first, why
    (False, 'train.epochs is 2, was 30')
    >>> choose_run(second, TaskConfig(), "a") == (first, "")
    True
    """
    resolved = settings.model_dump(mode="json")
    runs = sorted(current.parent.glob(f"*/{RUN}"))
    trainings = {path.parent: read_json(path, {}, checksum=True).get("training") for path in runs}
    trainings = {folder: training for folder, training in trainings.items() if not folder.is_symlink()}
    same = [folder for folder, training in trainings.items() if training == fingerprint]
    if same and not settings.paths.run_name:
        if write:
            _point_to(same[-1])
        return same[-1], ""
    folder, why = current, ""
    holds_training = current in trainings or any((current / "checkpoints").glob("*"))
    if holds_training and trainings.get(current) != fingerprint:
        why = what_differs(read_json(current / CONFIG, {}), resolved)
        if settings.paths.run_name:
            raise SettingsError(
                f"paths.run_name: {current} holds another training ({why}); choose another name, or move it away"
            )
        folder = new_folder(current.parent)
    if write:
        write_json(folder / CONFIG, resolved)
        write_json(folder / RUN, {"training": fingerprint}, checksum=True)
        _point_to(folder)
    return folder, why


def what_differs(old: dict, new: dict) -> str:
    """Describe which settings of a training changed.

    Examples
    --------
    >>> what_differs({"train": {"epochs": 5, "enable": True}}, {"train": {"epochs": 7, "enable": False}})
    'train.epochs is 7, was 5'
    >>> what_differs({}, {})
    'the pictures, labels or weights are others'
    """
    harmless = {"resources", "logging", "paths", "verify", "evaluate", "inference", "export"}
    before, after = (dict(leaves({key: tree[key] for key in tree if key not in harmless})) for tree in (old, new))
    changed = [key for key in after if after[key] != before.get(key) and not key.endswith(".enable")]
    if not changed:
        return "the pictures, labels or weights are others"
    parts = [f"{key} is {after[key]}, was {before.get(key)}" for key in changed[:MOST_SHOWN]]
    return "; ".join(parts) + (f"; and {len(changed) - MOST_SHOWN} more" if len(changed) > MOST_SHOWN else "")


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings with their paths.

    Examples
    --------
    >>> list(leaves({"train": {"loss": {"ce_weight": 1.0}}}))
    [('train.loss.ce_weight', 1.0)]
    """
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _point_to(folder: Path) -> None:
    """Make `latest` point to a run.

    Raises
    ------
    DataError
        If a file or folder is in place of the link.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "a"
    >>> _point_to(folder)
    >>> os.readlink(folder.parent / "latest")
    'a'
    """
    pointer = folder.parent / LATEST
    if folder.name == LATEST:  # a copy of a run in place of the pointer
        return
    if pointer.exists() and not pointer.is_symlink():
        what = "a folder" if pointer.is_dir() else "a file"
        raise DataError(f"{pointer}: expected a link to the latest run, found {what}; move it elsewhere")
    with temporary_folder(pointer) as work:
        (work / LATEST).symlink_to(folder.name)
        os.replace(work / LATEST, pointer)


def checkpoint_path(folder: Path, name: str) -> Path:
    """Path of the best or last checkpoint of a run, or of its training state.

    Examples
    --------
    >>> checkpoint_path(Path("runs/coral/1"), BEST).as_posix()
    'runs/coral/1/checkpoints/best.safetensors'
    """
    return folder / "checkpoints" / f"{name}.safetensors"


def checkpoint_paths(folder: Path, settings: TaskConfig, name: str) -> list[Path]:
    """Where a training writes a checkpoint: in its run, and `best` and `last` also in `train.weights_dir`.

    Examples
    --------
    >>> settings = TaskConfig(kind="segmentation", train={"weights_dir": "/w"}, model={"head": "linear"})
    >>> [path.name for path in checkpoint_paths(Path("run"), settings, BEST)]
    ['best.safetensors', 'linear_best.safetensors']
    >>> [path.name for path in checkpoint_paths(Path("run"), settings, "epoch_001")]
    ['epoch_001.safetensors']
    """
    paths = [checkpoint_path(folder, name)]
    if settings.train.weights_dir and name in (BEST, LAST):
        paths.append(Path(expand_path(settings.train.weights_dir)) / f"{settings.model.head}_{name}.safetensors")
    return paths


def epoch_name(epoch: int) -> str:
    """Name of the checkpoint of an epoch, from 1 on.

    Examples
    --------
    >>> epoch_name(3), epoch_name(1200)
    ('epoch_003', 'epoch_1200')
    """
    return f"epoch_{epoch:03d}"


def keep_latest_epochs(folder: Path, epoch: int, limit: int) -> None:
    """Remove the checkpoints of epochs of a run, with their descriptions, but for the latest ones.

    Those of epochs that are yet to come are left from a training that was begun anew, or killed before its state was
    saved; they go too, and are written again.

    Parameters
    ----------
    folder : Path
        The run.
    epoch : int
        Epochs that are done.
    limit : int
        How many checkpoints to keep.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "checkpoints").mkdir()
    >>> for name in ("best.json", "epoch_001.json", "epoch_002.safetensors", "epoch_003.safetensors", "epoch_x.json"):
    ...     (folder / "checkpoints" / name).touch()
    >>> keep_latest_epochs(folder, epoch=2, limit=1)
    >>> sorted(path.name for path in (folder / "checkpoints").iterdir())
    ['best.json', 'epoch_002.safetensors', 'epoch_x.json']
    """
    for path in sorted((folder / "checkpoints").glob("epoch_*")):
        found = EPOCH_FILE.fullmatch(path.name)
        if found and not epoch - limit < int(found[1]) <= epoch:
            path.unlink()


def sweep_results(name: str, settings: TaskConfig) -> None:
    """Remove what killed runs have left half written, wherever a task writes; never that of a live process.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> settings = TaskConfig(paths={"runs_root": str(folder)}, train={"weights_dir": str(folder / "weights")})
    >>> for place in ("coral/1/checkpoints", "weights"):
    ...     (folder / place / ".a.json.0123456789ab.partial").mkdir(parents=True)
    >>> sweep_results("coral", settings), list(folder.rglob("*.partial"))
    (None, [])
    """
    for key, value in leaves(settings.model_dump(mode="json")):
        if isinstance(value, str) and WRITTEN.search(key):
            path = Path(expand_path(value))
            deep = key.endswith(("processed_dir", ".folder"))  # another may be the root of a disk
            sweep_temporaries(path.parent if path.suffix else path, recursive=deep)
    sweep_temporaries(task_folder(name, settings))


def list_results(folder: Path, settings: TaskConfig) -> dict[str, str]:
    """Where the results of a run are that exist, for `status.json`.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()).resolve()
    >>> write_json(folder / "evaluate_val" / "metrics.json", {})
    >>> {name: path.removeprefix(str(folder)) for name, path in list_results(folder, TaskConfig()).items()}
    {'run': '', 'metrics': '/evaluate_val/metrics.json'}
    """
    scored = getattr(settings, "evaluate", None)  # not every kind has every phase
    splits = (scored.splits or ["inputs"]) if scored is not None else []
    exported = getattr(getattr(settings, "export", None), "output_dir", None)
    inference = getattr(settings, "inference", None)
    predictions = getattr(inference, "output_tif", None) or getattr(inference, "output_dir", None)
    paths = {
        "run": folder,
        "checkpoint": checkpoint_path(folder, BEST),
        **{
            f"metrics_{split}" if place else "metrics": folder / f"evaluate_{split}" / "metrics.json"
            for place, split in enumerate(splits)
        },
        "predictions": Path(expand_path(predictions)) if predictions else folder / "predictions",
        "export": Path(expand_path(exported)) if exported else folder / "export",
    }
    return {name: str(path.resolve()) for name, path in paths.items() if path.exists()}


def try_weights_dir(path: str | None) -> None:
    """Write to `train.weights_dir` before a training that would end there hours later.

    Raises
    ------
    SettingsError
        If the folder cannot be made or written.

    Examples
    --------
    >>> try_weights_dir("/dev/null/a")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: train.weights_dir: /dev/null/a cannot be written (Not a directory); name another folder
    """
    if path is None:
        return
    folder = Path(expand_path(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"\0")
    except OSError as error:
        reason = f"{folder} cannot be written ({error.strerror})"
        raise SettingsError(f"train.weights_dir: {reason}; name another folder") from None


def refuse_foreign_weights(path: str | None, head: str) -> None:
    """Refuse to write checkpoints over files of a person in `train.weights_dir`.

    Raises
    ------
    SettingsError
        If a file has the name of a checkpoint there, and is none.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "linear_best.json").write_text("[1, 2]")
    6
    >>> refuse_foreign_weights(str(folder), "dpt"), refuse_foreign_weights(None, "linear")
    (None, None)
    >>> refuse_foreign_weights(str(folder), "linear")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: train.weights_dir: .../linear_best.json is no file of a checkpoint, and would be ...
    """
    for name in (BEST, LAST) if path else ():
        for file in checkpoint_files(Path(expand_path(path or "")) / f"{head}_{name}.safetensors"):
            if file.exists() and not is_checkpoint_file(file):
                raise SettingsError(
                    f"train.weights_dir: {file} is no file of a checkpoint, and would be replaced; move it elsewhere, "
                    "or name another folder"
                )


def refuse_foreign_status(path: Path) -> None:
    """Refuse to write the outcome of a run over a file of a person.

    Raises
    ------
    SettingsError
        If the file is there and no run has written it.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "status.json"
    >>> refuse_foreign_status(path)
    >>> _ = path.write_text('{"status": "my own"}')
    >>> refuse_foreign_status(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: paths.runs_root: .../status.json: already exists and was not written by a run; name ...
    """
    try:
        ours = not os.path.lexists(path) or "exit_code" in read_json(path, {})
    except (DataError, OSError):
        ours = False
    if not ours:
        raise SettingsError(
            f"paths.runs_root: {path}: already exists and was not written by a run; name another folder, or move the "
            "file away"
        )


def find_checkpoint(setting: str | None, folder: Path, phase: str) -> Path:
    """Choose the checkpoint of a phase: the one in the settings, or the best of the run.

    Raises
    ------
    DataError
        If there is none.

    Examples
    --------
    >>> find_checkpoint(None, Path("/no/run"), "evaluate")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: evaluate: no checkpoint in /no/run; run train first, or name one in evaluate.checkpoint
    """
    if setting:
        return Path(expand_path(setting))
    path = checkpoint_path(folder, BEST)
    if not path.exists():
        raise DataError(f"{phase}: no checkpoint in {folder}; run train first, or name one in {phase}.checkpoint")
    return path


def choose_device(setting: str) -> torch.device:
    """Turn a device setting into a device of this rank.

    Raises
    ------
    SettingsError
        If a GPU is set and there is none.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    if setting == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("device: mps asked for, but PyTorch sees no Apple GPU; set cpu or auto")
    if setting.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"device: {setting} asked for, but PyTorch sees no GPU; set cpu or auto")
    if setting == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(setting)


def seed_everything(resources: ResourcesConfig) -> None:
    """Seed the global generators of libraries; choices of this project use separate generators.

    Examples
    --------
    >>> seed_everything(ResourcesConfig(seed=3))
    >>> first = torch.rand(2)
    >>> seed_everything(ResourcesConfig(seed=3))
    >>> torch.equal(first, torch.rand(2))
    True
    """
    random.seed(resources.seed)
    np.random.seed(resources.seed)
    torch.manual_seed(resources.seed)


def set_up_machine(resources: ResourcesConfig) -> None:
    """Apply threads, precision and determinism.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> set_up_machine(ResourcesConfig(omp_threads=1, matmul_precision="high"))
    >>> torch.get_num_threads(), torch.get_float32_matmul_precision()
    (1, 'high')
    >>> set_up_machine(ResourcesConfig(omp_threads=before))
    """
    if resources.omp_threads:
        torch.set_num_threads(resources.omp_threads)
    if resources.interop_threads and resources.interop_threads != torch.get_num_interop_threads():
        torch.set_num_interop_threads(resources.interop_threads)
    torch.set_float32_matmul_precision(resources.matmul_precision)
    if resources.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(resources.deterministic)
    seed_everything(resources)
