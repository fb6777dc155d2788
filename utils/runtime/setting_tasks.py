"""The tasks of one settings file: which they are, of which kind, and each one's settings out of all layers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from utils.errors import SettingsError
from utils.runtime.setting_classes import only_known
from utils.runtime.setting_errors import explain_errors, suggest
from utils.runtime.setting_files import expand_path, holds, merge_sections, set_value, unset_variables

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


def override_tasks(tree: dict, override: str) -> None:
    """Set one `key.path=value`, also in the tasks that set it for themselves: the command line comes first.

    Examples
    --------
    >>> tree = {"model": {"head": "dpt"}, "tasks": {"quick": {"model": {"head": "linear"}}, "other": {}}}
    >>> override_tasks(tree, "model.head=unet")
    >>> tree["model"], tree["tasks"]
    ({'head': 'unet'}, {'quick': {'model': {'head': 'unet'}}, 'other': {}})
    """
    tasks, path = tree.get("tasks"), override.partition("=")[0].split(".")
    names = list(map(str, tasks)) if isinstance(tasks, dict) else [only_task(tree)]
    if path[0] == "tasks" and len(path) > 1 and path[1] not in names:
        raise SettingsError(f"{override}: unknown task {path[1]!r}{suggest(path[1], names)} known: {', '.join(names)}")
    set_value(tree, override)
    for section in tasks.values() if isinstance(tasks, dict) else ():
        if holds(section, path):
            set_value(section, override)


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
    merged = merge_sections(only_known(shared, kind_class), section)
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
