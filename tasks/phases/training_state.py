"""What an exact continuation of a training needs, and how it and the checkpoints are saved and loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tasks.context import Workload
from tasks.model import load_trained_state, trained_state
from tasks.phases.step import Optimisation
from tasks.prepared import PreparedItem
from tasks.runs import BEST, STATE, checkpoint_path, what_differs
from tasks.task import Task
from utils.metrics import RunningMean
from utils.optim import EarlyStopping
from utils.runtime import distributed
from utils.runtime.checkpoints import load_training_state, save_checkpoint, save_training_state
from utils.runtime.files import digest_json


class TrainingState:
    """Weights, optimiser, generators and the place in the training.

    Parameters
    ----------
    model : Module
        What is trained.
    optimisation : Optimisation
        Its optimiser, average and guard.
    early : EarlyStopping
        When to stop.
    device : torch.device
        Whose generator is saved beside the CPU's.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> state = training_example(tempfile.mkdtemp()).state
    >>> state.epoch, state.step_in_epoch, state.best
    (0, 0, {})
    """

    def __init__(self, model: nn.Module, optimisation: Optimisation, early: EarlyStopping, device: torch.device):
        self.model, self.optimisation, self.early, self.device = model, optimisation, early, device
        self.epoch, self.step_in_epoch = 0, 0
        self.best: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.by_class: dict[str, float] = {}  # scores such as IoU/water, of the last validation
        self.loss = RunningMean()
        self.terms: dict[str, RunningMean] = {}

    def add(self, loss: float, terms: Mapping[str, float]) -> None:
        """Count the loss of a step and its terms, for the means of the epoch.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> state = training_example(tempfile.mkdtemp()).state
        >>> state.add(1.5, {"ce": 1.0, "dice": 0.5})
        >>> state.add(0.5, {"ce": 0.5, "dice": 0.0})
        >>> state.take_means()
        {'train_loss': 1.0, 'loss/ce': 0.75, 'loss/dice': 0.25}
        """
        self.loss.update(loss)
        for name, value in terms.items():
            self.terms.setdefault(name, RunningMean()).update(value)

    def take_means(self) -> dict[str, float]:
        """Give the mean loss of the epoch and the mean of each term, before it is weighted; start anew.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training_example(tempfile.mkdtemp()).state.take_means()
        {'train_loss': nan}
        """
        means = {"train_loss": self.loss.compute()}
        means |= {f"loss/{name}": mean.compute() for name, mean in sorted(self.terms.items())}
        self.loss, self.terms = RunningMean(), {}
        return means

    def shipped_weights(self) -> AbstractContextManager:
        """Swap the averaged weights into the model, where there are any.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> with training_example(tempfile.mkdtemp()).state.shipped_weights():
        ...     print("inside")
        inside
        """
        return nullcontext() if self.optimisation.ema is None else self.optimisation.ema.swap()

    @contextmanager
    def swapped_weights(self, tensors: dict[str, Tensor]) -> Iterator[None]:
        """Put the weights of a checkpoint into the model; its own are back at the end, also after an error.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> state = training_example(tempfile.mkdtemp()).state
        >>> own = {key: value.clone() for key, value in trained_state(state.model).items()}
        >>> with state.swapped_weights({key: torch.zeros_like(value) for key, value in own.items()}):
        ...     sum(value.count_nonzero().item() for value in trained_state(state.model).values())
        0
        >>> all(torch.equal(value, own[key]) for key, value in trained_state(state.model).items())
        True
        """
        own = {key: value.detach().clone() for key, value in trained_state(self.model).items()}
        try:
            load_trained_state(self.model, tensors)
            yield
        finally:
            load_trained_state(self.model, own)

    def save_checkpoint(
        self, paths: Sequence[Path], description: dict[str, Any], kept: Mapping[str, Tensor] = MappingProxyType({})
    ) -> None:
        """Write the weights that are validated as checkpoints that describe themselves; rank 0 does it for all.

        `kept` are the tensors that predictions need beside them.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> from utils.runtime.checkpoints import load_checkpoint
        >>> path = Path(tempfile.mkdtemp()) / "last.safetensors"
        >>> training_example(path.parent).state.save_checkpoint([path], {"kind": "segmentation"})
        >>> load_checkpoint(path).description
        {'kind': 'segmentation', 'epoch': 0, 'metrics': {}, 'by_class': {}}
        """
        described = {**description, "epoch": self.epoch, "metrics": plain_numbers(self.metrics)}
        described["by_class"] = self.by_class

        def write() -> None:
            with self.shipped_weights():
                trained = trained_state(self.model)
                tensors = {key: value.detach().cpu().contiguous().clone() for key, value in trained.items()}
            for path in paths:
                save_checkpoint(path, tensors, described, kept)

        distributed.run_on_main(write)

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the state, with the generators of every rank; all ranks call it together, rank 0 writes.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> training_example(path.parent).state.save(path, "a")
        >>> load_training_state(path)["fingerprint"]
        'a'
        """
        generators = distributed.gather_objects(generator_states(self.device))

        def write() -> None:
            state = {
                "fingerprint": fingerprint,
                "epoch": self.epoch,
                "step_in_epoch": self.step_in_epoch,
                "best": self.best,
                "metrics": plain_numbers(self.metrics),
                "by_class": self.by_class,
                "loss": self.loss.state,
                "terms": {name: mean.state for name, mean in self.terms.items()},
                "model": trained_state(self.model),
                "early": self.early.state_dict(),
                "random": generators,
                **self.optimisation.state_dict(),
            }
            save_training_state(path, state)

        distributed.run_on_main(write)

    def load(self, path: Path, fingerprint: str, best: Path) -> bool:
        """Take up a saved state, where it is one of this training and its best checkpoint is still there.

        Every rank takes its own generators. With another number of ranks than before, a rank that has none keeps
        those it began with: dropout then differs from an unbroken training.

        Parameters
        ----------
        path : Path
            What `save` wrote.
        fingerprint : str
            Of this training.
        best : Path
            The best checkpoint, which a state refers to once there was a validation.

        Returns
        -------
        bool
            Whether the training goes on from there.

        Raises
        ------
        DataError
            If the file is damaged.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> state = training_example(path.parent).state
        >>> state.epoch = 3
        >>> state.save(path, "a")
        >>> state.epoch = 0
        >>> state.load(path, "b", path), state.load(path, "a", path), state.epoch
        (False, True, 3)
        """
        if not path.exists():
            return False
        saved = load_training_state(path)
        if saved["fingerprint"] != fingerprint or (saved["best"] and not best.exists()):
            return False
        load_trained_state(self.model, saved["model"])
        self.optimisation.load_state_dict(saved)
        self.early.load_state_dict(saved["early"])
        self.epoch, self.step_in_epoch = saved["epoch"], saved["step_in_epoch"]
        self.best, self.metrics = saved["best"], saved["metrics"]
        self.by_class = saved.get("by_class", {})  # states of earlier versions have none
        self.loss = RunningMean()
        self.loss.load_state(saved["loss"])
        self.terms = {}
        for name, values in saved.get("terms", {}).items():  # states of earlier versions have none
            self.terms[name] = RunningMean()
            self.terms[name].load_state(values)
        generators = saved["random"]
        if isinstance(generators, Tensor):  # version 1.0 kept the CPU's generator of rank 0 alone
            generators = [[generators]]
        if distributed.rank() < len(generators):
            restore_generators(self.device, generators[distributed.rank()])
        return True


def workload(task: Task, train: int, val: int, done: int = 0) -> Workload:
    """What it takes to train on so many windows, and to validate on so many, when some epochs are done.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> workload(scene_task("train.epochs=10"), train=20, val=5, done=4)
    Workload(text='6 of 10 epochs of 20 windows', backbone=0, head=390, read=0.0, saved=6)
    >>> workload(scene_task("train.epochs=10", "train.features=online"), train=20, val=5).backbone
    250
    """
    settings = task.settings.train
    left = settings.epochs - done
    text = f"{left} of {settings.epochs} epochs of {train} windows" if done else f"{left} epochs of {train} windows"
    online = settings.features == "online"
    return Workload(text, left * (train + val) if online else 0, left * (3 * train + val), saved=left)


def epochs_done(task: Task, folder: Path, fingerprint: str) -> int:
    """How many epochs of a training are done in a folder, where it would go on from them.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> epochs_done(scene_task(), Path("/no/such/run"), "a")
    0
    """
    path = checkpoint_path(folder, STATE)
    if task.settings.train.resume != "auto" or not path.exists():
        return 0
    saved = load_training_state(path)
    usable = saved["fingerprint"] == fingerprint and (not saved["best"] or checkpoint_path(folder, BEST).exists())
    return int(saved["epoch"]) if usable else 0


def generator_states(device: torch.device) -> list[Tensor]:
    """States of the generators that a training draws from: the CPU's, and that of the device it runs on.

    Examples
    --------
    >>> [state.dtype for state in generator_states(torch.device("cpu"))]
    [torch.uint8]
    """
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def restore_generators(device: torch.device, states: Sequence[Tensor]) -> None:
    """Set the generators to what `generator_states` gave; a state of the CPU alone leaves the device's as it is.

    Examples
    --------
    >>> states = generator_states(torch.device("cpu"))
    >>> first = torch.rand(2)
    >>> restore_generators(torch.device("cpu"), states)
    >>> torch.equal(first, torch.rand(2))
    True
    """
    torch.set_rng_state(states[0])
    if len(states) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif len(states) > 1 and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])


def plain_numbers(metrics: dict[str, Any]) -> dict[str, int | float]:
    """The scores that are single numbers.

    Examples
    --------
    >>> plain_numbers({"mIoU": 0.5, "confusion": [[1]]})
    {'mIoU': 0.5}
    """
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}


def describe_scores(task: Task, scores: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the validation of its weights.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> per_class = {"dark": {"IoU": 0.5}, "light": {"IoU": float("nan")}}
    >>> describe_scores(scene_task(), {"mIoU": 0.5, "per_class": per_class})["by_class"]
    {'IoU/dark': 0.5}
    """
    by_class = task.output.scores_by_class(dict(scores))
    finite = {name: value for name, value in by_class.items() if math.isfinite(value)}
    return {"metrics": plain_numbers(dict(scores)), "by_class": finite}


def validated_otherwise(task: Task, known: dict[str, Any] | None) -> str:
    """What differs from the settings by which validations chose the best weights; none known: of an earlier version.

    They are not in the fingerprint: the weights do not depend on them, and a threshold of predictions that is changed
    must not cost a training.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> validated_otherwise(fox_task("detection.iou=0.7"), fox_task().validating_key())
    'detection.iou is 0.7, was 0.5'
    >>> validated_otherwise(fox_task(), None)
    ''
    """
    now = json.loads(json.dumps(task.validating_key()))
    return "" if known is None or known == now else what_differs(known, now)


def training_fingerprint(task: Task, *splits: Sequence[PreparedItem]) -> str:
    """Digest of all that the trained weights depend on.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> training_fingerprint(task, prepared) == training_fingerprint(task, prepared, prepared)
    False
    """
    harmless = {
        "enable",
        "resume",
        "save_minutes",
        "save_total_limit",
        "tracking",
        "num_workers",
        "val_batch_size",
        "tensorboard",
        "weights_dir",
        "processed_dir",
        "device",
    }
    settings = task.settings.train.key(exclude=harmless)
    entries = [[list(entry.record_keys()) for item in split for entry in item.entries] for split in splits]
    what = {
        "train": settings,
        "variations": task.settings.dataset.augmentations.key(),
        "task": task.describe(),
        "seed": task.settings.resources.seed,
        "entries": entries,
    }
    if learning := task.learning_key():
        what["learning"] = learning
    return digest_json(what)
