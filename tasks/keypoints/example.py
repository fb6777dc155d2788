"""A small keypoint task on generated pictures of animals, for examples in docstrings and for tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from config import parse_settings
from tasks import kinds
from tasks.context import Context
from tasks.example import drawn_animals, example_context, in_temporary_folder, tiny_backbone
from tasks.sample import Batch, Progress

if TYPE_CHECKING:
    from tasks.keypoints.task import KeypointsTask

SETTINGS = """
resources: {{omp_threads: 1}}
paths: {{data_root: {folder}/animals, label_path: annotations, processed_dir: {folder}/store,
  runs_root: {folder}/runs, splits_dir: {folder}/splits}}
model: {{backbone: {backbone}, layers: [0, 1], precision: fp32, head: conv, head_options: {{width: 16}}}}
prepare: {{enable: true}}
train: {{enable: true, epochs: 1, batch_size: 4}}
inference: {{inputs: "images/val_*.png"}}
keypoints: {{short_side: 96}}
tasks: {{animals: {{kind: keypoints}}}}
"""


def animals_example(folder: str | Path, *overrides: str) -> tuple[KeypointsTask, Context]:
    """Draw eight pictures for training and four for validation, and make a task on them with a tiny backbone.

    Examples
    --------
    >>> import tempfile
    >>> task = pose_task()
    >>> task.kind, task.primary
    ('keypoints', 'weighted_PCK')
    """
    from tasks.keypoints.task import KeypointsTask

    folder = Path(folder)
    if not (folder / "animals").exists():
        shutil.copytree(drawn_animals(), folder / "animals")
    text = SETTINGS.format(folder=folder, backbone=tiny_backbone())
    settings = parse_settings(text, overrides, kinds()).tasks["animals"]
    return KeypointsTask("animals", settings), example_context(folder / "run")


def pose_task(*overrides: str) -> KeypointsTask:
    """Make `animals_example` in a new temporary folder, removed when the process ends.

    Examples
    --------
    >>> pose_task("keypoints.short_side=112").source.sample_size()
    (112, 152)
    """
    return in_temporary_folder(animals_example, *overrides)


def animals_batch(folder: str | Path) -> tuple[KeypointsTask, Batch]:
    """The example and a batch of one training sample with its target.

    Examples
    --------
    >>> import tempfile
    >>> sorted(animals_batch(tempfile.mkdtemp())[1].target)
    ['centre', 'heatmaps', 'keypoints', 'near', 'offsets', 'valid']
    """
    from tasks.prepared import collate_samples

    task, _ = animals_example(folder)
    sample = next(task.source.samples(task.source.items("train")[0]))
    return task, task.objective.collate(collate_samples(task, [sample]), [task.objective.encode(sample, Progress())])
