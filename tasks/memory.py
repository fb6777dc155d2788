"""The memory that a batch takes at least, told from settings before any of it is allocated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tasks.model import lower_what
from utils.errors import SettingsError
from utils.runtime import distributed

if TYPE_CHECKING:
    from tasks.feature_task import FeatureTask

FLOAT = 4  # bytes
COPIES = 4  # of a weight in training: itself, its gradient, and at least two where Adam keeps moments
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
    """Bytes of a picture (height, width) and of its maps as a model takes them; what is computed from them is not in.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> sample_bytes(scene_task(), (32, 40))  # 3 channels, and two maps of 8 channels with a stride of 4
    20480
    """
    height, width = size
    grids = task.features.info.feature_grid((height, width))
    maps = sum(
        channels * rows * columns for channels, (rows, columns) in zip(task.features.info.channels, grids, strict=True)
    )
    return FLOAT * (height * width * task.source.image_channels() + maps)


def refuse_too_large(task: FeatureTask, phase: str, size: Sequence[int], device: torch.device) -> None:
    """Refuse sizes of samples, batches and heads that no memory of this machine holds.

    What is counted is less than what full batches take, so that none is refused that could run.

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
    utils.errors.SettingsError: train: a batch of 4 samples of 10000000 x 10000000 pixels takes at least ...
    """
    batch = getattr(task.settings, phase).batch_size
    if phase == "train":
        batch = -(-batch // distributed.world_size())  # of all ranks together
    weights = 0  # prepare has no head; labels without a keypoint have none either
    if phase != "prepare":
        weights = task.head_shapes().num_parameters * FLOAT * (COPIES if phase == "train" else 1)
    samples, there = batch * sample_bytes(task, size), memory_of(device)
    if samples + weights <= there:
        return
    head = f", and the head {weights / GB:.2f} GB" if weights else ""
    raise SettingsError(
        f"{phase}: a batch of {batch} samples of {size[0]} x {size[1]} pixels takes at least {samples / GB:.2f} GB"
        f"{head}, but {device} has {there / GB:.1f} GB",
        *lower_what(task.settings, phase),
    )
