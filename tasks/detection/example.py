"""A small detection task on generated pictures of foxes, for examples in docstrings and for tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from config import parse_settings
from tasks import kinds
from tasks.context import Context
from tasks.example import drawn_animals, example_context, in_temporary_folder, tiny_backbone

if TYPE_CHECKING:
    from tasks.detection.task import DetectionTask

SETTINGS = """
resources: {{omp_threads: 1}}
paths: {{data_root: {folder}/animals, label_path: annotations, processed_dir: {folder}/store,
  runs_root: {folder}/runs, splits_dir: {folder}/splits}}
model: {{backbone: {backbone}, layers: [0, 1], precision: fp32, head: dense, head_options: {{width: 16}}}}
prepare: {{enable: true}}
train: {{enable: true, epochs: 1, batch_size: 4}}
inference: {{inputs: "images/val_*.png"}}
detection: {{shortest_edge: 96, longest_edge: 128}}
tasks: {{foxes: {{kind: detection}}}}
"""


def foxes_example(folder: str | Path, *overrides: str) -> tuple[DetectionTask, Context]:
    """Draw eight pictures for training and four for validation, and make a task on them with a tiny backbone.

    Examples
    --------
    >>> fox_task().source.sample_size()
    (96, 128)
    """
    from tasks.detection.task import DetectionTask

    folder = Path(folder)
    if not (folder / "animals").exists():
        shutil.copytree(drawn_animals(), folder / "animals")
    text = SETTINGS.format(folder=folder, backbone=tiny_backbone())
    settings = parse_settings(text, overrides, kinds()).tasks["foxes"]
    return DetectionTask("foxes", settings), example_context(folder / "run")


def fox_task(*overrides: str) -> DetectionTask:
    """Make `foxes_example` in a new temporary folder, removed when the process ends.

    Examples
    --------
    >>> fox_task("detection.shortest_edge=48").source.sample_size()
    (48, 64)
    """
    return in_temporary_folder(foxes_example, *overrides)
