"""A task with the model of a checkpoint: what predicts pictures that are in memory, without training data or a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from config import TaskConfig
from tasks import load_task
from tasks.context import Context
from tasks.item import Piece
from tasks.model import load_trained_state
from tasks.phases.prediction import predict
from tasks.phases.samples import LiveSamples
from tasks.runs import choose_device
from tasks.task import Task
from utils.errors import DataError, DinolithError
from utils.logging import VerbosityLogger
from utils.runtime.checkpoints import Checkpoint, load_checkpoint


@dataclass(frozen=True)
class TrainedTask:
    """A task and its model, ready to predict.

    Parameters
    ----------
    task : Task
        Reads pictures and makes predictors.
    model : Module
        With the trained weights.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> task.source.prepare_data()
    >>> trained = TrainedTask(task, task.build_model())
    >>> sum(piece.arrays["classes"].size for piece in trained.predict(np.zeros((40, 48, 3), np.uint8)))
    1920
    """

    task: Task
    model: nn.Module

    @classmethod
    def load(cls, path: str | Path, settings: TaskConfig, name: str = "trained") -> Self:
        """Make task and model of a checkpoint; training data are not needed.

        Parameters
        ----------
        path : str or Path
            The checkpoint.
        settings : TaskConfig
            Of the checkpoint's kind: how to predict, and the backbone where the checkpoint's id is not to be used.
        name : str
            What messages call the task.

        Raises
        ------
        DataError
            If the checkpoint cannot be read, is of another kind or contradicts the settings.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> TrainedTask.load("/no/such/best.safetensors", scene_task().settings)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: /no/such/best.safetensors: no such checkpoint...
        """
        checkpoint = load_checkpoint(path)
        with description_in_errors(checkpoint):
            task = load_task(settings.kind).from_checkpoint(name, settings, checkpoint)
            return cls(task, build_trained(task, checkpoint))

    def predict(self, image: np.ndarray, prompts: Any = None) -> list[Piece]:
        """Predict a picture, exactly as inference predicts the same picture in a file.

        Parameters
        ----------
        image : ndarray, shape (H, W, C)
            Pixels, of the type that the training pictures had.
        prompts : any, optional
            Where to look, for tasks that must be told, such as instances with boxes.

        Returns
        -------
        list of Piece
            What the task's predictor gives.

        Raises
        ------
        ValueError
            If the array is no such picture, or prompts are missing.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> TrainedTask(task, task.build_model()).predict(np.zeros((40, 48), np.uint8))
        Traceback (most recent call last):
            ...
        ValueError: expected a picture of shape (H, W, C), got (40, 48)
        """
        if image.ndim != 3:
            raise ValueError(f"expected a picture of shape (H, W, C), got {image.shape}")
        context = Context(VerbosityLogger("error"), Path())
        with self.task.source.in_memory(image, prompts) as item:
            settings = self.task.settings
            device = choose_device(settings.device("inference"))
            samples, model = LiveSamples(self.task, self.task.prediction_views()), self.model.to(device).eval()
            given = predict(self.task, model, samples, [[item]], device, settings.inference.batch_size, context)
            with closing(given):
                return [piece for _, piece in given if piece is not None]


def build_trained(task: Task, checkpoint: Checkpoint) -> nn.Module:
    """Make a task's model with the weights of a checkpoint; called on all ranks.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> task.source.prepare_data()
    >>> build_trained(task, Checkpoint({}, {}, Path("a")))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: weights do not fit this model: missing head...
    """
    task.setup()
    model = task.build_model()
    load_trained_state(model, checkpoint.tensors)
    return model


@contextmanager
def description_in_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Say that a checkpoint's description is damaged where a task cannot be made of it.

    Raises
    ------
    DataError
        In place of errors of type, value, key and the like.

    Examples
    --------
    >>> with description_in_errors(Checkpoint({}, {}, Path("a.safetensors"))):
    ...     [][0]  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.safetensors: its description cannot be used (IndexError: list index out of range); ...
    """
    try:
        yield
    except DinolithError:
        raise
    except Exception as error:
        problem = f"its description cannot be used ({type(error).__name__}: {error})"
        raise DataError(f"{checkpoint.path}: {problem}; take another copy of the checkpoint, or train again") from error
