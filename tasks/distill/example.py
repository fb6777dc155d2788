"""A small distillation on generated pictures with a tiny teacher, for examples in docstrings and for tests."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from config import parse_settings
from tasks import kinds
from tasks.context import Context
from tasks.example import example_context, in_temporary_folder, tiny_backbone
from tasks.sample import Batch, Progress
from utils.media.videos import VideoWriter
from utils.raster.files import write_raster

if TYPE_CHECKING:
    from tasks.distill.task import DistillTask

SETTINGS = """
resources: {{omp_threads: 1}}
paths: {{raw_images_dir: {folder}/pictures, processed_dir: {folder}/store, runs_root: {folder}/runs,
  splits_dir: {folder}/splits}}
model: {{backbone: {backbone}, layers: [0, 1], precision: fp32, head: vit,
  head_options: {{width: 16, depth: 2, heads: 2, registers: 1, patch_size: 8}}}}
prepare: {{enable: true}}
train: {{enable: true, epochs: 1, batch_size: 4, val_fraction: 0.2}}
distill: {{crop: 32, block: 128, frame_step: 2}}
tasks: {{student: {{kind: distill}}}}
"""


def student_example(folder: str | Path, *overrides: str) -> tuple[DistillTask, Context]:
    """Draw three photos, a raster and a video, and make a task on them with a tiny teacher.

    Examples
    --------
    >>> import tempfile
    >>> task = student_task()
    >>> task.kind, task.primary
    ('distill', 'mean_cosine')
    """
    from tasks.distill.task import DistillTask

    folder = Path(folder)
    if not (folder / "pictures").exists():
        shutil.copytree(drawn_pictures(), folder / "pictures")
    text = SETTINGS.format(folder=folder, backbone=tiny_backbone())
    settings = parse_settings(text, overrides, kinds()).tasks["student"]
    return DistillTask("student", settings), example_context(folder / "run")


def student_task(*overrides: str) -> DistillTask:
    """Make `student_example` in a new temporary folder, removed when the process ends.

    Examples
    --------
    >>> student_task("distill.crop=48").source.sample_size()
    (48, 48)
    """
    return in_temporary_folder(student_example, *overrides)


def student_batch(folder: str | Path, *overrides: str) -> tuple[DistillTask, Batch]:
    """The example and a training batch of one crop, with its target and without maps of the teacher.

    Examples
    --------
    >>> import tempfile
    >>> sorted(student_batch(tempfile.mkdtemp())[1].target)
    ['scale', 'stretch']
    """
    from tasks.prepared import collate_samples

    task, _ = student_example(folder, *overrides)
    sample = next(task.source.samples(task.source.units["scene"]))
    return task, task.objective.collate(collate_samples(task, [sample]), [task.objective.encode(sample, Progress())])


@cache
def drawn_pictures() -> Path:
    """Draw the pictures once in a process.

    Examples
    --------
    >>> sorted(path.name for path in drawn_pictures().iterdir())
    ['clip.mp4', 'photo_0.png', 'photo_1.png', 'photo_2.png', 'scene.tif']
    """
    folder = Path(tempfile.mkdtemp())
    weakref.finalize(drawn_pictures, shutil.rmtree, folder, ignore_errors=True)
    for index in range(3):
        write_raster(folder / f"photo_{index}.png", draw_blots(48, 64, seed=index))
    write_raster(folder / "scene.tif", draw_blots(96, 128, seed=9))
    with VideoWriter(folder / "clip.mp4", size=(64, 96), fps=10) as video:
        for index in range(12):
            video.write(draw_blots(64, 96, seed=20 + index))
    return folder


def draw_blots(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth blots of colour with a fine pattern, which differs from blot to blot, (H, W, 3) uint8.

    Examples
    --------
    >>> image = draw_blots(4, 6, seed=0)
    >>> image.shape, bool((image == draw_blots(4, 6, seed=0)).all()), bool((image == draw_blots(4, 6, seed=1)).all())
    ((4, 6, 3), True, False)
    """
    generator = np.random.default_rng(seed)
    coarse = generator.normal(size=(height // 16 + 2, width // 16 + 2, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[:height, :width]
    pattern = np.where(smooth[..., :1] > 0, ((rows // 2) % 2)[..., None], ((columns // 2) % 2)[..., None])
    return (
        (128 + 45 * smooth + 40 * (pattern - 0.5) + generator.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
    )
