"""Settings as nested dictionaries: which file, profiles, layers over layers, and values from the command line."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from utils.errors import DataError, SettingsError
from utils.runtime.reading import MAX_SETTINGS_BYTES, read_bounded_text
from utils.runtime.setting_errors import MAX_SHOWN, explain_errors, suggest
from utils.runtime.strict_yaml import MAX_DEPTH, read_sections, read_value

CONFIG_VARIABLE = "DINOV3SEG_CONFIG"
VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)  # as os.path.expandvars finds them
RESULTS = re.compile(r"(_dir|_root|\.folder|output_tif|logging\.file)$")  # settings of what is made when it is missing


def expand_path(path: str, take_as_is: bool = True) -> str:
    """Fill in `~` and `$VARIABLES`; with `take_as_is` a file that has such a name is taken under it.

    Raises
    ------
    SettingsError
        If a variable is not set or a user unknown, and there is no file of that very name.

    Examples
    --------
    >>> os.environ["SCENES"] = "/data/scenes"
    >>> expand_path("$SCENES/a.tif")
    '/data/scenes/a.tif'
    >>> expand_path("${NO_SUCH}/a.tif")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: ${NO_SUCH}/a.tif: the variable NO_SUCH is not set; set it, or write the path out
    """
    unset = [name for name in map("".join, VARIABLE.findall(path)) if name not in os.environ]
    expanded = os.path.expandvars(os.path.expanduser(path))
    literal = take_as_is and os.path.lexists(path)
    if unset and not literal:
        raise SettingsError(f"{path}: the variable {unset[0]} is not set; set it, or write the path out")
    if expanded.startswith("~") and not literal:
        raise SettingsError(f"{path}: there is no user {path[1:].split('/')[0]!r}; write the path out")
    return expanded


def unset_variables(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings that name a folder for results below a variable that is not set, a line each.

    Examples
    --------
    >>> list(unset_variables({"paths": {"runs_root": "$NO_SUCH/runs", "run_name": "$NO_SUCH"}}))
    ['paths.runs_root: $NO_SUCH/runs: the variable NO_SUCH is not set; set it, or write the path out']
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from unset_variables(value, f"{prefix}{key}.")
        elif isinstance(value, str) and RESULTS.search(f"{prefix}{key}"):
            try:
                expand_path(value, take_as_is=False)  # an earlier version made folders of such names
            except SettingsError as error:
                yield f"{prefix}{key}: {error}"


def find_config(argument: str | None = None, needed: bool = True) -> Path | None:
    """Choose the settings file: the argument, `$DINOV3SEG_CONFIG`, or `config.yml` here or in a folder above.

    Parameters
    ----------
    argument : str, optional
        Path given on the command line.
    needed : bool
        Whether it is an error if none is named and none is found.

    Returns
    -------
    Path or None
        An existing file.

    Raises
    ------
    SettingsError
        If the named file is missing, or none is found.

    Examples
    --------
    >>> import tempfile
    >>> from contextlib import chdir
    >>> folder = Path(tempfile.mkdtemp()).resolve() / "deep" / "er"
    >>> folder.mkdir(parents=True)
    >>> _ = (folder.parent / "config.yml").write_text("{}")
    >>> with chdir(folder):
    ...     find_config() == folder.parent / "config.yml"
    True
    """
    named = argument or os.environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(expand_path(named))
        if not path.is_file():
            source = "the command line" if argument else f"${CONFIG_VARIABLE}"
            raise SettingsError(f"{path}: no such settings file (named by {source})")
        return path
    start = Path.cwd()
    for folder in (start, *start.parents):
        if (folder / "config.yml").is_file():
            return folder / "config.yml"
    if not needed:
        return None
    raise SettingsError(
        f"no settings file: give one (python main.py config.yml), set ${CONFIG_VARIABLE}, or put config.yml into "
        f"{start} or a folder above; config.example.yml is a start"
    )


def find_beside(path: str, folder: Path, key: str) -> str:
    """Find a file that a settings file names: in the working directory, or else beside the settings file.

    Parameters
    ----------
    path : str
        As it is in the settings.
    folder : Path
        Where the settings file is.
    key : str
        The setting, for the error.

    Returns
    -------
    str
        The path beside the settings file if the file is only there; else `path` as it is, also if it is nowhere.

    Raises
    ------
    SettingsError
        If there are two files and they differ.

    Examples
    --------
    >>> import tempfile
    >>> from contextlib import chdir
    >>> here, folder = (Path(tempfile.mkdtemp()) for _ in range(2))
    >>> _ = (folder / "val.txt").write_text("reef_1")
    >>> with chdir(here):
    ...     find_beside("val.txt", folder, "val_list") == str(folder / "val.txt")
    True
    >>> _ = (here / "val.txt").write_text("reef_2")
    >>> with chdir(here):
    ...     find_beside("val.txt", folder, "val_list")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: val_list: val.txt is in the working directory (...) and beside the settings file (...
    """
    here = Path(expand_path(path))
    there = folder / here
    if here.is_absolute() or not there.is_file():
        return path
    if here.is_file() and not filecmp.cmp(here, there, shallow=False):
        raise SettingsError(
            f"{key}: {path} is in the working directory ({Path.cwd()}) and beside the settings file "
            f"({folder.resolve()}), and the two differ; remove one of them, or give the whole path"
        )
    return path if here.is_file() else str(there)


def merge_sections(base: dict, changes: dict) -> dict:
    """Lay `changes` over `base` key by key; sections merge, everything else replaces.

    Examples
    --------
    >>> merge_sections({"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": []})
    {'a': {'x': 1, 'y': 3}, 'b': []}
    """
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_sections(merged[key], value) if nested else value
    return merged


def holds(tree: Any, path: Sequence[str]) -> bool:
    """Whether nested dictionaries hold a value at `path`.

    Examples
    --------
    >>> holds({"train": {"lr": 1}}, ["train", "lr"]), holds({"train": {}}, ["train", "lr"])
    (True, False)
    """
    for key in path:
        if not isinstance(tree, dict) or (key := spelled(tree, key)) not in tree:
            return False
        tree = tree[key]
    return True


def spelled(tree: Mapping[Any, Any], key: str) -> Any:
    """The key of a mapping that is written so: a file's key may be a number, where a path has text.

    Examples
    --------
    >>> spelled({7: "road"}, "7"), spelled({7: "road"}, "8")
    (7, '8')
    """
    return key if key in tree else next((known for known in tree if str(known) == key), key)


def set_value(tree: dict, override: str) -> None:
    """Set one `key.path=value` in nested dictionaries; the value takes the place of a whole section too.

    Raises
    ------
    SettingsError
        If it is not written so, a key is a list or a number in another writing, the value is no YAML, or the path leads
        through a value that is no section.

    Examples
    --------
    >>> tree = {"train": {"epochs": 5}, "dataset": None}
    >>> set_value(tree, "train.loss.ce_weight=0.5")
    >>> set_value(tree, "dataset.scale=2.0")
    >>> tree
    {'train': {'epochs': 5, 'loss': {'ce_weight': 0.5}}, 'dataset': {'scale': 2.0}}
    >>> set_value(tree, "dataset.label_pattern={stem}_a.png")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: ...in quotes; on a command line: "dataset.label_pattern='{stem}_a.png'"
    """
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise SettingsError(f"{override[:MAX_SHOWN]}: expected key.path=value, such as train.epochs=3")
    *sections, key = path.split(".")
    if len(sections) >= MAX_DEPTH:
        raise SettingsError(f"{override[:MAX_SHOWN]}: {len(sections)} sections within each other, at most {MAX_DEPTH}")
    for section in sections:
        name = _key_of(tree, section, override)
        if tree.get(name) is None:  # a section may be there with nothing in it
            tree[name] = {}
        tree = tree[name]
        if not isinstance(tree, dict):
            raise SettingsError(f"{override[:MAX_SHOWN]}: {section} is not a section")
    try:
        read = read_value(value)
    except SettingsError as error:
        quoted = path + "='" + value.replace("'", "''") + "'"  # the shell takes the outer quotes away
        cure = f'; on a command line: "{quoted}"' if "quotes" in str(error) and len(quoted) < MAX_SHOWN else ""
        raise SettingsError(f"{override[:MAX_SHOWN]}: the value cannot be used: {error}{cure}") from None
    tree[_key_of(tree, key, override)] = read


def _key_of(tree: Mapping[Any, Any], key: str, override: str) -> Any:
    """The key of a mapping that a part of a path means; what a file would read as another key is refused.

    Raises
    ------
    SettingsError
        If the mapping has no such key, and YAML reads it as a list, a section, or a number that is written otherwise.

    Examples
    --------
    >>> _key_of({5: "road"}, "5", "label_mapping.5=a"), _key_of({"05": "road"}, "05", "label_mapping.05=a")
    (5, '05')
    >>> _key_of({5: "road"}, "05", "label_mapping.05=a")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: label_mapping.05=a: the key '05' is the number 5; write it so
    """
    name = spelled(tree, key)
    try:
        meant = read_value(key) if name not in tree else None
    except SettingsError:  # a star or another sign of YAML's, which a name may have
        meant = None
    if isinstance(meant, list | dict):
        raise SettingsError(
            f"{override[:MAX_SHOWN]}: a key of the command line is one word or number, got {key[:60]!r}; "
            "give each key an entry, or the whole section, such as section={[1, 2]: a}"
        )
    if isinstance(meant, int | float) and not isinstance(meant, bool) and str(meant) != key:
        raise SettingsError(f"{override[:MAX_SHOWN]}: the key {key[:60]!r} is the number {meant}; write it so")
    return name


def read_profile(name: str, folder: Path, model: type[BaseModel]) -> dict:
    """Read a profile, which lies in a folder named by its kind of task, and check that it can be used by itself.

    Raises
    ------
    SettingsError
        If there is no such profile, or it holds what it cannot set.

    Examples
    --------
    >>> import tempfile
    >>> from pydantic import create_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "quick.yml").write_text("epochs: 3")
    >>> read_profile("quick", folder, create_model("Task", epochs=(int, 5)))
    {'epochs': 3}
    """
    kind, path = folder.parent.name, Path(expand_path(name))
    if path.suffix not in (".yml", ".yaml"):
        path = folder / f"{name}.yml"
        names = sorted(file.stem for file in folder.glob("*.yml"))
        if name not in names:
            there = f"{suggest(name, names)} known: {', '.join(names)}" if names else f"; kind {kind} has none"
            raise SettingsError(f"profile: unknown name {name!r}{there}; or name a YAML file")
    try:
        tree = read_sections(read_bounded_text(path, MAX_SETTINGS_BYTES))
        wrong = sorted({"kind", "profile", "tasks"} & set(tree))
        if wrong:
            raise SettingsError(f"{wrong[0]}: a profile of kind {kind} cannot hold it; drop it")
        model.model_validate(tree)
    except (OSError, DataError) as error:
        raise SettingsError(f"profile: {path}: cannot be read as text: {error}") from None
    except ValidationError as error:
        raise SettingsError(*(f"{path}: {line}" for line in explain_errors(error, model))) from None
    except SettingsError as error:
        raise SettingsError(*(f"{path}: {line}" for line in str(error).splitlines())) from None
    return tree
