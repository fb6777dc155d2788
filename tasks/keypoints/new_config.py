"""A new settings file for keypoint labels, with statistics of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from config import defaults_below, parse_settings
from tasks import kinds
from tasks.keypoints.audit import audit_pictures
from tasks.keypoints.items import PoseItem, usable
from tasks.keypoints.labels import PoseLabels
from tasks.keypoints.settings import KeypointsSettings
from tasks.keypoints.survey import suggestions, survey
from utils.errors import DataError, SettingsError
from utils.formats.types import AnnotatedPicture
from utils.logging import VerbosityLogger
from utils.runtime.files import write_bytes

TEMPLATE = """\
# Keypoints of {label}: {first}
{advice}# Run: python main.py {target}
paths:
  data_root: {root}
  label_path: {path}
model:
  backbone: embedded                      # better: facebook/dinov2-small, or the folder of downloaded weights
prepare: {{enable: true}}
verify: {{enable: true}}
train: {{enable: true}}
evaluate: {{enable: true}}
inference: {{enable: false, inputs: /path/to/video.mp4}}
tasks:
  {name}:
    kind: keypoints
{profile}    keypoints: {{short_side: {short_side}, formats: [csv, json]}}
"""
NO_PROFILE = "none"


def write_new_config(source: str, profile: str, target: str | Path, log: VerbosityLogger) -> Path:
    """Read labels, log their statistics and problems, and write settings that train on them.

    Parameters
    ----------
    source : str
        Labels in any format that is read.
    profile : str
        Name or file of a profile, or none.
    target : str or Path
        The settings file; must not exist.
    log : VerbosityLogger
        Gets the audit.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SettingsError
        If the file exists, or the profile is unknown.
    DataError
        If no picture can be read.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.keypoints.example import drawn_animals
    >>> target = Path(tempfile.mkdtemp()) / "foxes.yml"
    >>> _ = write_new_config(str(drawn_animals() / "annotations"), "small_data", target, VerbosityLogger("error"))
    >>> parse_settings(target.read_text(), (), kinds()).tasks["annotations"].train.patience
    12
    """
    target, path = Path(target), Path(source).absolute()
    if target.exists():
        raise SettingsError(f"{target}: already exists; name another file, or remove it")
    if profile != NO_PROFILE:
        defaults_below(KeypointsSettings, {"profile": profile})
    labels = labels_of(path)
    pictures = [picture for _, picture in labels.pictures.values()]
    if not any(usable(picture) for picture in pictures):
        raise DataError(f"{source}: {len(pictures)} pictures, but no keypoint is labelled in them; name other labels")
    figures, advice = survey(labels.skeleton, pictures), suggestions(labels.skeleton, pictures)
    _log_survey(figures, advice, labels, pictures, log)
    text = _settings_text(path, profile, target, figures[0], advice, labels.keypoints.short_side)
    parse_settings(text, (), kinds())  # raises if they cannot be used
    write_bytes(target, text.encode())
    log.info(f"wrote {target}; look at it, then: python main.py {target} --check")
    return target


def _log_survey(
    figures: Sequence[str],
    advice: Sequence[str],
    labels: PoseLabels,
    pictures: Sequence[AnnotatedPicture],
    log: VerbosityLogger,
) -> None:
    """Log statistics of labels, their problems and suggestions.

    Examples
    --------
    >>> from tasks.keypoints.example import drawn_animals
    >>> from unittest.mock import Mock
    >>> log = Mock()
    >>> _log_survey(["8 pictures"], ["label more"], labels_of(drawn_animals() / "annotations"), [], log)
    >>> [call.args[0] for call in log.info.call_args_list]
    ['audit: 8 pictures', 'audit: suggestion: label more']
    """
    for line in figures:
        log.info(f"audit: {line}")
    items = [PoseItem(picture.id, (picture.path,), picture, "train") for picture in pictures]
    for finding in (*labels.problems(), *audit_pictures(items, labels.skeleton)):
        log.warning(f"audit: {finding}" if finding.blocks else f"audit: note: {finding}")
    for line in advice:
        log.info(f"audit: suggestion: {line}")


def _settings_text(path: Path, profile: str, target: Path, first: str, advice: Sequence[str], short_side: int) -> str:
    """Text of the settings file, with statistics and suggestions as comments.

    Examples
    --------
    >>> text = _settings_text(Path("/data/my mice.json"), NO_PROFILE, Path("mice.yml"), "8 pictures", [], 364)
    >>> parse_settings(text, (), kinds()).tasks["my_mice"].keypoints.short_side
    364
    """
    return TEMPLATE.format(
        label=path.name,
        path=json.dumps(place_of(path)[1], ensure_ascii=False),
        first=first,
        advice="".join(f"# {line}\n" for line in advice),
        target=target,
        root=json.dumps(place_of(path)[0], ensure_ascii=False),
        name="".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in path.stem),
        profile="" if profile == NO_PROFILE else f"    profile: {profile}\n",
        short_side=short_side,
    )


def place_of(path: Path) -> tuple[str, str]:
    """Divide a path into `paths.data_root` and `paths.label_path`; a folder with one YAML file stands for that file.

    Examples
    --------
    >>> place_of(Path("/data/mice.json"))
    ('/data', 'mice.json')
    """
    files = sorted(path.glob("*.y*ml")) if path.is_dir() else []
    place = files[0] if len(files) == 1 else path
    return str(place.parent), place.name


def labels_of(path: Path) -> PoseLabels:
    """Read labels with default settings.

    Examples
    --------
    >>> from tasks.keypoints.example import drawn_animals
    >>> labels_of(drawn_animals() / "annotations").skeleton.num_keypoints
    7
    """
    root, label_path = place_of(path)
    tree = {
        "paths": {"data_root": root, "label_path": label_path},
        "tasks": {"labels": {"kind": "keypoints"}},
    }
    settings = parse_settings(yaml.safe_dump(tree), (), kinds())
    return PoseLabels(settings.tasks["labels"], lambda: 14)
