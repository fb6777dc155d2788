"""The memory that a batch takes at least, told from settings before any of it is allocated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tasks.model import lower_what
from utils.errors import DataError, SettingsError
from utils.runtime import distributed

if TYPE_CHECKING:
    from tasks.feature_task import FeatureTask

FLOAT = 4  # bytes of a weight
HALF = 2  # bytes of a value of a map at least: bfloat16 or float16
COPIES = 3  # of a weight in training at least: itself, its gradient, and the moment of Muon (Adam keeps two)
GB = 1e9


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a graphics card, or of the machine.

    Examples
    --------
    >>> memory_of(torch.device("cpu")) > 10**8
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sample_bytes(task: FeatureTask, size: Sequence[int]) -> int:
    """Bytes at least of a picture (height, width) and of its maps; what is computed from them is not in.

    The picture counts as 8-bit, and its maps as of 16 bits, on the grid of the picture that the backbone sees: that of
    distillation, which has one size, may be smaller than the crop.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> from tasks.example import scene_task
    >>> sample_bytes(scene_task(), (32, 40))  # 3 channels, and two maps of 8 channels with a stride of 4
    6400
    >>> sample_bytes(student_task(), (32, 32))  # the teacher sees 16 x 16 pixels
    3584
    """
    height, width = size
    source = task.source
    seen = (height, width) if tuple(size) != source.sample_size() else source.backbone_size()
    grids = task.features.info.feature_grid(seen)
    maps = sum(
        channels * rows * columns for channels, (rows, columns) in zip(task.features.info.channels, grids, strict=True)
    )
    return height * width * source.image_channels() + HALF * maps


def number_of_samples(task: FeatureTask, phase: str) -> int:
    """At most how many samples a phase has to put into batches; 1 before prepare has written the lists.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> number_of_samples(task, "train"), number_of_samples(task, "inference")
    (1, 9)
    >>> task.source.prepare_data()
    >>> number_of_samples(task, "train"), number_of_samples(task, "prepare")
    (6, 15)
    """
    evaluate, source = task.settings.evaluate, task.source
    views = len(task.prediction_views(phase)) if phase in ("evaluate", "inference") else 1
    splits = {
        "prepare": ("train", "val"),
        "train": ("train",),
        "evaluate": evaluate.splits or ["inputs"],
        "inference": ("inference",),
    }[phase]
    try:
        items = {split: source.items(split) for split in splits}
    except DataError:  # the phase itself raises it, unless prepare writes the lists before
        return 1
    number = 0
    for split, chosen in items.items():
        each = len(source.views(split)) if phase == "prepare" else views
        number += each * sum(map(source.count_samples, chosen))
    return max(number, 1)


def refuse_too_large(task: FeatureTask, phase: str, size: Sequence[int], device: torch.device) -> None:
    """Refuse sizes of samples, batches and heads that no memory of this machine holds.

    What is counted is less than what the batches take, so that none is refused that could run: a batch has no more
    samples than the phase, which are counted where the settings alone ask for too much.

    Parameters
    ----------
    task : FeatureTask
        The task; its head is made without weights.
    phase : str
        prepare, train, evaluate or inference.
    size : sequence of int
        Height and width of the largest sample, in pixels.
    device : torch.device
        Where the phase computes.

    Raises
    ------
    SettingsError
        Names the settings that make a batch or the head so large.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> refuse_too_large(scene_task(), "train", (32, 32), torch.device("cpu"))
    >>> refuse_too_large(scene_task(), "train", (10**7, 10**7), torch.device("cpu"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: train: a batch of 1 samples of 10000000 x 10000000 pixels takes at least ...
    """
    weights = 0  # prepare has no head; labels without a keypoint have none either
    if phase != "prepare":
        weights = task.head_shapes().num_parameters * FLOAT * (COPIES if phase == "train" else 1)
    batch, one, there = getattr(task.settings, phase).batch_size, sample_bytes(task, size), memory_of(device)
    ranks = distributed.world_size() if phase == "train" else 1  # a batch is of all ranks together
    if -(-batch // ranks) * one + weights <= there:
        return
    batch = -(-min(batch, number_of_samples(task, phase)) // ranks)
    samples = batch * one
    if samples + weights <= there:
        return
    head = f", and the head {weights / GB:.2f} GB" if weights else ""
    raise SettingsError(
        f"{phase}: a batch of {batch} samples of {size[0]} x {size[1]} pixels takes at least {samples / GB:.2f} GB"
        f"{head}, but {device} has {there / GB:.1f} GB",
        *lower_what(task.settings, phase),
    )
