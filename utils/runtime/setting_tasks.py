"""The tasks of one settings file: which they are, of which kind, and each one's settings out of all layers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from utils.errors import SettingsError
from utils.runtime.setting_classes import only_known
from utils.runtime.setting_errors import explain_errors, suggest
from utils.runtime.setting_files import expand_path, holds, merge_sections, set_value, spelled, unset_variables

LARGEST_HEADER = 10**8  # bytes, as safetensors allows
TASK_NAME = re.compile(r"[\w-]+")
FIRST_KIND = "segmentation"  # of a file that names none, as the published ones do
Kind = TypeVar("Kind", bound=BaseModel)  # the settings class of a kind of task
Below = Callable[[type[Kind], dict], dict]  # what lies between a file's settings and the defaults of a kind


def only_task(tree: Mapping[str, Any]) -> str:
    """Name the one task of a file without `tasks`, and so its runs: as its kind.

    Examples
    --------
    >>> only_task({}), only_task({"kind": "keypoints"}), only_task({"kind": ["keypoints"]})
    ('segmentation', 'keypoints', 'segmentation')
    """
    kind = tree.get("kind", kind_of_checkpoint(tree) or FIRST_KIND)
    return kind if isinstance(kind, str) and TASK_NAME.fullmatch(kind) else FIRST_KIND


def kind_of_checkpoint(tree: Mapping[str, Any]) -> str | None:
    """Read the kind of task in the checkpoint that `evaluate` or `inference` names; None where there is none to read.

    Whether the file is whole is for those who load it: a kind that is read wrong ends there.

    Examples
    --------
    >>> kind_of_checkpoint({"evaluate": {"checkpoint": "/no/such/best.safetensors"}}) is None
    True
    """
    for phase in ("evaluate", "inference"):
        section = tree.get(phase)
        path = section.get("checkpoint") if isinstance(section, Mapping) else None
        if isinstance(path, str) and (kind := _read_kind(Path(expand_path(path)).with_suffix(".safetensors"))):
            return kind
    return None


def _read_kind(path: Path) -> str | None:
    """The kind in a checkpoint's header, read without PyTorch, so that settings load in a moment.

    Examples
    --------
    >>> import tempfile
    >>> from utils.runtime.checkpoints import save_checkpoint
    >>> _read_kind(save_checkpoint(Path(tempfile.mkdtemp()) / "best", {}, {"kind": "keypoints"}))
    'keypoints'
    """
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = stream.read(size) if size <= LARGEST_HEADER else b""
        kind = json.loads(json.loads(header)["__metadata__"]["dinolith"])["content"]["kind"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return kind if isinstance(kind, str) and TASK_NAME.fullmatch(kind) else None


def apply_overrides(tree: dict, overrides: Sequence[str]) -> None:
    """Lay the command line over the settings of a file.

    An entry `key.path=value` is for every task whose kind has the key, also for one that sets it itself, and
    `tasks.NAME.key.path=value` for that task. The more special entry counts wherever it stands: one for a task before
    one for all, a key before its whole section. Of two entries for the same key the later counts.

    Parameters
    ----------
    tree : dict
        The file's settings, which are changed.
    overrides : sequence of str
        Of the command line.

    Raises
    ------
    SettingsError
        If an entry cannot be read, or names a task that the file does not have.

    Examples
    --------
    >>> tree = {"tasks": {"quick": {"train": {"epochs": 5}}, "other": {}}}
    >>> apply_overrides(tree, ["tasks.quick.train.epochs=1", "train.epochs=2", "train={batch_size: 4}"])
    >>> tree["train"], tree["tasks"]
    ({'batch_size': 4, 'epochs': 2}, {'quick': {'train': {'epochs': 1}}, 'other': {}})
    """
    paths = {override: path_of(override) for override in overrides}
    special = {override: (path[0] == "tasks" and len(path) > 1, len(path)) for override, path in paths.items()}
    for override in sorted(overrides, key=lambda override: (paths[override] != ["tasks"], *special[override])):
        override_tasks(tree, override)


def path_of(override: str) -> list[str]:
    """The keys of an entry of the command line.

    Examples
    --------
    >>> path_of("train.epochs=3")
    ['train', 'epochs']
    """
    return override.partition("=")[0].split(".")


def override_tasks(tree: dict, override: str) -> None:
    """Set one `key.path=value`; what tasks themselves set there is removed, as the command line comes first.

    Raises
    ------
    SettingsError
        If it names a task that the file does not have.

    Examples
    --------
    >>> tree = {"model": {"head": "dpt"}, "tasks": {"quick": {"model": {"head": "linear", "layers": [1]}}, "other": {}}}
    >>> override_tasks(tree, "model.head=unet")
    >>> tree["model"], tree["tasks"]
    ({'head': 'unet'}, {'quick': {'model': {'layers': [1]}}, 'other': {}})
    """
    tasks, path = tree.get("tasks"), path_of(override)
    names = list(map(str, tasks)) if isinstance(tasks, dict) else [only_task(tree)]
    if path[0] == "tasks" and len(path) > 1 and path[1] not in names:
        raise SettingsError(f"{override}: unknown task {path[1]!r}{suggest(path[1], names)} known: {', '.join(names)}")
    set_value(tree, override)
    for section in tasks.values() if isinstance(tasks, dict) and path[0] != "tasks" else ():
        if isinstance(section, dict):
            uncover(section, path)


def uncover(section: dict, path: Sequence[str]) -> None:
    """Remove a task's own value that hides the shared one at `path`: the one there, or nothing in place of a section.

    Examples
    --------
    >>> section = {"train": {"epochs": 3, "loss": None}, "distill": {"probe": None}}
    >>> uncover(section, ["train", "epochs"]), uncover(section, ["distill", "probe", "config"])
    (None, None)
    >>> section
    {'train': {'loss': None}, 'distill': {}}
    """
    for key in path[:-1]:
        key = spelled(section, key)
        if section.get(key) is None:
            section.pop(key, None)
            return
        section = section[key]
        if not isinstance(section, dict):
            return  # a mistake, which is found when the task is validated
    section.pop(spelled(section, path[-1]), None)


def hides(section: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a task's own value stands before the shared one at `path`: at that place, or in place of a section above.

    Examples
    --------
    >>> hides({"train": {"epochs": 3}}, ["train", "epochs"]), hides({"train": {"epochs": 3}}, ["train"])
    (True, False)
    """
    inner: Any = section
    for key in path:
        if not isinstance(inner, dict):
            return True
        if (key := spelled(inner, key)) not in inner:
            return False
        inner = inner[key]
    return not isinstance(inner, dict)


def hidden_overrides(
    overrides: Sequence[str], sections: Mapping[str, Any], classes: Mapping[str, type[BaseModel] | None]
) -> Iterator[str]:
    """Entries of the command line for all tasks that reach none, as entries for single tasks come before them.

    Parameters
    ----------
    overrides : sequence of str
        Of the command line.
    sections : mapping of str to dict
        What each task sets itself, with the command line in it.
    classes : mapping of str to type of BaseModel
        The settings class of each task, None where its kind is unknown.

    Yields
    ------
    str
        A line for each, with what hides it.

    Examples
    --------
    >>> from pydantic import create_model
    >>> classes = {"a": create_model("A", epochs=(int, 3)), "b": create_model("B")}
    >>> list(hidden_overrides(["epochs=1", "tasks.a.epochs=2"], {"a": {"epochs": 2}, "b": {}}, classes))
    ['epochs=1: reaches no task, as tasks.a.epochs comes before it; drop one of them']
    """
    for override in (override for override in overrides if path_of(override)[0] != "tasks"):
        path = path_of(override)
        nested: dict = reduce(lambda inner, key: {key: inner}, reversed(path), {})
        having = [name for name, kind in classes.items() if kind and holds(only_known(nested, kind), path)]
        if having and all(hides(sections[name], path) for name in having):
            verb = "comes" if len(having) == 1 else "come"
            listed = ", ".join(f"tasks.{name}.{'.'.join(path)}" for name in having)
            yield f"{override}: reaches no task, as {listed} {verb} before it; drop one of them"


def settings_of_others(
    tasks: Mapping[str, BaseModel], sections: Mapping[str, Any], of_call: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Settings of the whole call that a later task sets for itself, where nothing reads them.

    Parameters
    ----------
    tasks : mapping of str to BaseModel
        The settings of all tasks; the call takes those of the first.
    sections : mapping of str to dict
        What each task sets itself.
    of_call : mapping of str to sequence of str
        The keys that count for the whole call, by section.

    Yields
    ------
    str
        A line for each that differs from the first task's.

    Examples
    --------
    >>> from pydantic import create_model
    >>> model = create_model("Task", logging=(create_model("Logging", level=(str, "info")), ...))
    >>> own = {"a": {"logging": {}}, "b": {"logging": {"level": "debug"}}}
    >>> tasks = {name: model.model_validate(section) for name, section in own.items()}
    >>> list(settings_of_others(tasks, own, {"logging": ["level"]}))  # doctest: +ELLIPSIS
    ["tasks.b.logging.level: counts for the whole call, which takes that of the first task, a ('info'); set ..."]
    """
    first = next(iter(tasks), "")
    for name, task in tasks.items():
        for part, keys in of_call.items():
            for key in (key for key in keys if holds(sections[name], [part, key])):
                taken = getattr(getattr(tasks[first], part), key)
                if getattr(getattr(task, part), key) != taken:
                    what = f"counts for the whole call, which takes that of the first task, {first} ({taken!r})"
                    yield f"tasks.{name}.{part}.{key}: {what}; set {part}.{key} above `tasks`"


def find_class(
    name: str, shared: dict, section: dict, kinds: Mapping[str, type[Kind]], errors: set[str]
) -> type[Kind] | None:
    """Find the settings class of a task by its kind; mistakes are added to `errors`.

    Examples
    --------
    >>> errors = set()
    >>> find_class("coral", {}, {"kind": "segmentatoin"}, {"segmentation": BaseModel}, errors)
    >>> list(errors)
    ["tasks.coral.kind: unknown kind 'segmentatoin', did you mean 'segmentation'? known: segmentation"]
    """
    if not TASK_NAME.fullmatch(str(name)):
        errors.add(f"tasks.{name}: expected a name of letters, digits, _ and -, as it names a folder")
    kind = section.get("kind") or shared.get("kind")
    kind = kind or kind_of_checkpoint(section) or kind_of_checkpoint(shared) or FIRST_KIND
    if not isinstance(kind, str):
        errors.add(f"tasks.{name}.kind: expected text, got {type(kind).__name__} {kind!r}")
    elif kind not in kinds:
        errors.add(f"tasks.{name}.kind: unknown kind {kind!r}{suggest(kind, kinds)} known: {', '.join(sorted(kinds))}")
    else:
        return kinds[kind]
    return None


def validate_task(
    name: str, shared: dict, section: dict, kind_class: type[Kind], below: Below, errors: set[str]
) -> Kind | None:
    """Validate one task; mistakes are added to `errors`, each with its path in the file.

    Examples
    --------
    >>> from pydantic import create_model
    >>> kind_class = create_model("Task", train=(create_model("Train", epochs=(int, 3)), ...))
    >>> errors = set()
    >>> validate_task("coral", {"train": {"epochs": 5}}, {"train": {"epochs": "x"}}, kind_class, lambda *_: {}, errors)
    >>> [error[:35] for error in errors]
    ['tasks.coral.train.epochs: expected ']
    """
    filled = {
        key: value for key, value in section.items() if value is not None or not isinstance(shared.get(key), dict)
    }
    merged = merge_sections(only_known(shared, kind_class), filled)  # a section with nothing in it hides nothing
    tree = {key: value for key, value in merged.items() if value is not None}
    lines: list[str] = []
    try:
        validated = kind_class.model_validate(merge_sections(below(kind_class, tree), tree))
        lines = list(unset_variables(validated.model_dump()))
        if not lines:
            return validated
    except SettingsError as error:
        errors.update(str(error).splitlines())
    except ValidationError as error:
        lines = explain_errors(error, kind_class)
    for line in lines:
        place = line.partition(":")[0].split(".")
        errors.add(f"tasks.{name}.{line}" if holds(section, place) else line)
    return None
