"""A new settings file for a person's data: what the data hold, and settings that run on them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from config import defaults_below, parse_settings
from tasks import kinds, load_task
from tasks.draft import Draft, NoLabelsError
from tasks.feature_task import FeatureTask
from utils.errors import DataError, SettingsError
from utils.formats.other_files import describe_other
from utils.formats.recognise import format_of_file, formats_in
from utils.logging import VerbosityLogger
from utils.raster.label_layout import find_layout
from utils.runtime.files import write_bytes
from utils.runtime.setting_files import set_value
from utils.runtime.setting_tasks import apply_overrides
from utils.runtime.strict_yaml import UniqueKeyLoader

NO_PROFILE = "none"
DRAFTED = ("keypoints", "detection", "segmentation")  # kinds, in the order in which they are tried
# Names of files and folders that say nothing about the data.
_PLAIN = (
    "data dataset labels label masks mask annotations annotation images train val test config instances person "
    "labeled-data collecteddata coco yolo all"
)
_PLAIN_NAMES = frozenset(_PLAIN.split())
_SIDES = ("short_side", "shortest_edge", "longest_edge")  # of samples: 518 is whole patches of 14 pixels, not of 16


def write_new_config(
    source: str, profile: str | None, target: str | Path, overrides: Sequence[str], log: VerbosityLogger
) -> Path:
    """Look at data, log what they hold, and write settings that train on them.

    Parameters
    ----------
    source : str
        A folder of pictures and labels, or the labels: masks, vectors, or keypoints in any format that is read.
    profile : str, optional
        Name or file of a profile, or none; where it is left out, none is taken, and one that fits is suggested.
    target : str or Path
        The settings file; must not exist.
    overrides : sequence of str
        Settings to change, such as `dataset.label_layer=roads`; `kind=detection` chooses the kind of the task.
    log : VerbosityLogger
        Gets what the data hold, and their problems.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SettingsError
        If the file exists, or the kind, a profile or an override cannot be used.
    DataError
        If there are no labels that can be learnt.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import drawn_animals
    >>> target = Path(tempfile.mkdtemp()) / "foxes.yml"
    >>> labels = str(drawn_animals() / "annotations")
    >>> _ = write_new_config(labels, "small_data", target, ["train.epochs=7"], VerbosityLogger("error"))
    >>> settings = next(iter(parse_settings(target.read_text(), (), kinds()).tasks.values()))
    >>> settings.train.patience, settings.train.epochs
    (12, 7)
    """
    target, path = Path(target), Path(source).expanduser().absolute()
    from tasks.stores import preview_stores

    if target.exists():
        raise SettingsError(f"{target}: already exists; name another file, or remove it")
    if not path.exists():
        raise DataError(f"{source}: no such file or folder; name the labels, or a folder of pictures and labels")
    changes: dict[str, Any] = {}
    for override in overrides:
        set_value(changes, override)
    kind = changes.pop("kind", None)
    if kind is not None and kind not in DRAFTED:
        raise SettingsError(f"kind: settings are drafted for {', '.join(DRAFTED)}, got {kind!r}")
    overrides = [override for override in overrides if override.partition("=")[0].strip() != "kind"]
    own = [name for name in DRAFTED if name in changes]  # a setting that one kind has chooses it
    kind = own[0] if kind is None and len(own) == 1 else kind
    draft = draft_settings(path, changes, log, kind)
    if profile is not None and profile != NO_PROFILE:
        defaults_below(kinds()[draft.kind], {"profile": profile})
        draft.task["profile"] = profile
    if profile != NO_PROFILE:
        fitting = {name: line for name, line in draft.profiles.items() if name != profile}
        draft.advice[:0] = [f"{line}; to take it, write {name} after the data" for name, line in fitting.items()]
    draft.figures.insert(0, f"labels for {draft.kind}, read as {draft.read_as}")
    said = say_draft(draft, log)
    name = name_of(path if target.stem in _PLAIN_NAMES else Path(target.name))
    draft.tree["tasks"] = {name: {"kind": draft.kind, **draft.task}}
    apply_overrides(draft.tree, overrides)
    with preview_stores():  # what would stop a run is said before the file is there, and no store is begun
        text, task = load_draft(draft, name, path, target)
        chosen = [changes, (changes.get("tasks") or {}).get(name) or {}]
        lines = task.check()
        if draft.refine is not None:
            draft.refine(draft, task, chosen)
            say_draft(draft, log, said)
        if fit_sides(draft, chosen, task.features.info.patch_size) or draft.refine is not None:
            text, task = load_draft(draft, name, path, target)
            lines = task.check()
        for line in lines:
            log.info(f"check: {line}")
    write_bytes(target, text.encode())
    log.info(f"wrote {target}; look at it, then: python main.py {target}")
    return target


def say_draft(draft: Draft, log: VerbosityLogger, said: Sequence[str] = ()) -> list[str]:
    """Log what the data hold and what a draft suggests, without what is said already; give all that is said.

    Examples
    --------
    >>> draft = Draft("keypoints", {}, ["2 pictures", "3 animals"], ["label more"])
    >>> say_draft(draft, VerbosityLogger("info"), ["2 pictures"])
    [INFO] data: 3 animals
    [INFO] data: suggestion: label more
    ['2 pictures', '3 animals', 'suggestion: label more']
    """
    lines = [*draft.figures, *(f"suggestion: {line}" for line in draft.advice)]
    for line in lines:
        if line not in said:
            log.info(f"data: {line}")
    return lines


def load_draft(draft: Draft, name: str, path: Path, target: Path) -> tuple[str, FeatureTask]:
    """Write settings as YAML, and make their task.

    Raises
    ------
    SettingsError
        If they are not valid.

    Examples
    --------
    >>> from tasks.example import drawn_animals
    >>> from tasks.stores import preview_stores
    >>> labels = drawn_animals() / "annotations"
    >>> draft = draft_settings(labels, {}, VerbosityLogger("error"))
    >>> draft.tree["tasks"] = {"foxes": {"kind": draft.kind, **draft.task}}
    >>> with preview_stores():
    ...     load_draft(draft, "foxes", labels, Path("foxes.yml"))[1].features.info.patch_size
    16
    """
    text = settings_text(draft, path, target)
    settings = parse_settings(text, (), kinds()).tasks[name]
    task = load_task(draft.kind)(name, settings)
    assert isinstance(task, FeatureTask)
    return text, task


def fit_sides(draft: Draft, chosen: Sequence[Mapping[str, Any]], patch: int) -> bool:
    """Round the sides of samples that nobody has chosen to whole patches of the backbone; True if one was changed.

    Windows of scenes get smaller, as they must fit in.

    Parameters
    ----------
    draft : Draft
        Its sides are changed in place.
    chosen : sequence of mapping
        Settings that a person gives, for all tasks and for this one, which stay.
    patch : int
        Pixels per side of a patch.

    Examples
    --------
    >>> draft = Draft("keypoints", {}, [], task={"keypoints": {"short_side": 518, "formats": ["csv"]}})
    >>> fit_sides(draft, [{"keypoints": {"short_side": 518}}], 16), fit_sides(draft, [], 16), draft.task
    (False, True, {'keypoints': {'short_side': 512, 'formats': ['csv']}})
    >>> draft = Draft("segmentation", {"prepare": {"tile_size": 128}}, [])
    >>> fit_sides(draft, [], 14), draft.tree
    (True, {'prepare': {'tile_size': 126}})
    """
    section, given = draft.task.get(draft.kind, {}), {key for tree in chosen for key in tree.get(draft.kind) or {}}
    fitted = {key: max(round(section[key] / patch), 1) * patch for key in _SIDES if key in section and key not in given}
    changed = any(section[key] != side for key, side in fitted.items())
    section.update(fitted)
    tile = draft.tree.get("prepare", {}).get("tile_size")
    if tile is not None and not any("tile_size" in (tree.get("prepare") or {}) for tree in chosen):
        draft.tree["prepare"]["tile_size"] = max(tile // patch, 1) * patch
        changed |= tile % patch > 0
    return changed


def draft_settings(path: Path, changes: dict[str, Any], log: VerbosityLogger, kind: str | None = None) -> Draft:
    """Find the kind of task that learns from the data, or take the one that is chosen, and draft its settings.

    Raises
    ------
    DataError
        If there are no labels that any kind of task learns from.

    Examples
    --------
    >>> from tasks.example import drawn_animals
    >>> draft_settings(drawn_animals() / "annotations", {}, VerbosityLogger("error")).kind
    'keypoints'
    """
    from tasks.detection.new_config import draft_detection
    from tasks.keypoints.new_config import draft_keypoints
    from tasks.segmentation.new_config import draft_segmentation

    if path.is_file() and format_of_file(path) is None and (what := describe_other(path)):
        raise DataError(f"{path}: {what}")
    found: list[str] = []
    drafts: dict[str, Callable[..., Draft]] = {
        "keypoints": draft_keypoints,
        "detection": functools.partial(draft_detection, chosen=kind == "detection"),
        "segmentation": draft_segmentation,
    }
    for name in DRAFTED if kind is None else (kind,):
        try:
            drafted = drafts[name](path, changes, log)
            drafted.figures += labels_left_out(path, drafted.kind)
            return drafted
        except NoLabelsError as error:
            found.append(str(error))
        except DataError as error:
            raise DataError(*found, str(error)) from error
    raise DataError(*found)


def labels_left_out(path: Path, kind: str) -> list[str]:
    """Say which labels a folder holds for another kind of task than the one that is chosen.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import write_pictures
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_pictures(folder)
    >>> labels_left_out(folder, "keypoints")  # doctest: +ELLIPSIS
    ['2 masks or vectors, such as labels/scene_0.tif, are not used: these settings are for keypoints; ...']
    >>> labels_left_out(folder, "segmentation")
    []
    """
    if not path.is_dir():
        return []
    cure = f"not used: these settings are for {kind}; to learn from them, name them alone after --new-config"
    if kind == "segmentation":
        return [
            f"{name} labels, such as {file.relative_to(path)}, are {cure}" for name, file in formats_in(path).items()
        ]
    try:
        layout = find_layout(path)
    except DataError:
        return []
    labels = [label for label in layout.labels if label.is_relative_to(path)]
    if not labels or not any(picture.is_relative_to(path) for picture in layout.pictures):
        return []  # a folder of pictures with a word for labels in its name
    return [f"{len(labels)} masks or vectors, such as {labels[0].relative_to(path)}, are {cure}"]


def name_of(path: Path) -> str:
    """A name for the task: that of the file, or of the nearest folder that says more than "data" or "labels".

    Examples
    --------
    >>> name_of(Path("/sets/mice/labels/data.yaml")), name_of(Path("/sets/reef fish.json")), name_of(Path("/labels"))
    ('mice', 'reef_fish', 'labels')
    """
    for part in (path.stem if path.is_file() or path.suffix else path.name, *reversed(path.parent.parts[1:])):
        if part.lower().partition("_")[0] not in _PLAIN_NAMES and part.lower() not in _PLAIN_NAMES:
            break
    else:
        part = path.stem
    return re.sub(r"[^A-Za-z0-9_-]", "_", part)


class _Dumper(yaml.SafeDumper):
    """Quotes each text that the reader of settings would take for a number or a truth value.

    Examples
    --------
    >>> print(yaml.dump(["1e3", "road"], Dumper=_Dumper, default_flow_style=True).strip())
    ['1e3', road]
    """


_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *UniqueKeyLoader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *UniqueKeyLoader.yaml_implicit_resolvers}
}


def settings_text(draft: Draft, path: Path, target: Path) -> str:
    """Write settings as YAML, with what the data hold as comments.

    Examples
    --------
    >>> draft = Draft("segmentation", {"dataset": {"classes": ["1e3", "no"]}, "tasks": {"a": {}}}, ["2 pictures"])
    >>> print(settings_text(draft, Path("/x/reef"), Path("reef.yml")))
    # Settings for reef; written by --new-config
    # 2 pictures
    # Run: python main.py reef.yml
    dataset:
      classes: ['1e3', 'no']
    tasks:
      a: {}
    <BLANKLINE>
    """
    lines = [*draft.figures, *(f"suggestion: {line}" for line in draft.advice)]
    title = f"Settings for {path.name}; written by --new-config"
    comments = [f"# {' '.join(line.split())}" for line in (title, *lines)]
    body = yaml.dump(
        draft.tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
    )
    return "\n".join([*comments, f"# Run: python main.py {target}", body])
