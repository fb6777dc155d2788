"""Train: stored (or online) features -> head -> loss -> validation -> best checkpoint.

The loop is deterministic: the order of samples, their views and variations are functions of seed and epoch, and the
state that is saved holds everything else. N epochs in one go and in pieces give the same weights.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.base import Batch, Context, PhaseResult, Progress, Task, open_store
from tasks.model import load_trained_state, trained_state
from tasks.phases.prediction import score
from tasks.phases.streams import closed_in_the_end, read_ahead
from tasks.prepared import PreparedItem, PreparedReader, prepared_items
from tasks.runs import BEST, LAST, STATE, checkpoint_path, choose_device, choose_run, seed_everything
from utils import distributed
from utils.checkpoints import init_from, load_checkpoint, load_training_state, save_checkpoint, save_training_state
from utils.data import SampleRef
from utils.errors import DataError, DinolithError, Interrupted
from utils.feature_store import FeatureStore
from utils.files import digest_json, read_json, write_json
from utils.logging import format_duration, progress
from utils.metrics import RunningMean
from utils.optim import (
    EarlyStopping,
    NonFiniteGuard,
    Schedule,
    build_ema,
    build_optimizer,
    clip_gradients,
)
from utils.plots import plot_training
from utils.report import CsvLog

LOG_EVERY = 10  # batches
LARGEST_WEIGHT = 1e15  # what is larger has diverged: products of it overflow, and scores of it mean nothing


@dataclass(frozen=True)
class Step:
    """One step of the optimiser: its micro-batches, and the rank's share of each.

    Examples
    --------
    >>> Step(0, [[SampleRef(0)]]).index
    0
    """

    index: int
    micro_batches: Sequence[Sequence[SampleRef]]


def run(task: Task, context: Context) -> PhaseResult:
    """Train a task's head, or go on with an interrupted training.

    Parameters
    ----------
    task : Task
        Gives model, targets and loss.
    context : Context
        The run's folder, and whether to stop.

    Returns
    -------
    PhaseResult
        With the best validation score.

    Raises
    ------
    DataError
        If the data are not prepared.
    Interrupted
        After a signal; the state is saved.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from tasks.phases import prepare
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> _ = prepare.run(task, context)
    >>> sorted(run(task, context).metrics), run(task, context).status
    (['mIoU'], 'up to date')
    """
    store = open_store(task.settings, "train")
    train_items = prepared_items(task, store, "train", "train")
    val_items = prepared_items(task, store, "val", "train")
    if not any(item.entries for item in train_items):
        raise DataError("train: the train split holds no labelled window; see paths.label_path and the split lists")
    if not any(item.entries for item in val_items):
        raise DataError("train: the val split holds no labelled window; see paths.label_path and the split lists")
    fingerprint = training_fingerprint(task, train_items, val_items)
    folder, why = distributed.run_on_main(lambda: _choose_run(task, context, fingerprint))
    if why:
        context.log.info(f"train: {folder} is a new run, as {why}")
    context.folder = Path(folder)  # the phases that follow look there
    finished = read_json(context.folder / "train.json", {})
    if finished.get("fingerprint") == fingerprint and checkpoint_path(context.folder, BEST).exists():
        context.log.info(f"train: {context.folder} holds this training, finished; nothing to do")
        return PhaseResult("up to date", finished["metrics"])
    seed_everything(task.settings.resources)
    task.learn_from([entry for item in train_items for entry in item.entries])
    training = Training(task, context, store, train_items, val_items, fingerprint)
    metrics = training.run()
    if distributed.is_main():
        write_json(context.folder / "train.json", {"fingerprint": fingerprint, "metrics": metrics})
    distributed.barrier()
    return PhaseResult("done", metrics)


def _choose_run(task: Task, context: Context, fingerprint: str) -> list[str]:
    """Find the run's folder; as text, so that it travels to other ranks.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> _choose_run(task, context, "a") == [str(context.folder), ""]
    True
    """
    folder, why = choose_run(context.folder, task.settings, fingerprint)
    return [str(folder), why]


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
        "num_workers",
        "val_batch_size",
        "tensorboard",
        "weights_dir",
        "processed_dir",
        "device",
    }
    settings = task.settings.train.model_dump(mode="json", exclude=harmless)
    entries = [[list(entry.record_keys()) for item in split for entry in item.entries] for split in splits]
    what = {
        "train": settings,
        "variations": task.settings.dataset.augmentations.model_dump(mode="json"),
        "task": task.describe(),
        "seed": task.settings.resources.seed,
        "entries": entries,
    }
    return digest_json(what)


class Training:
    """The state of a training and its loop.

    Parameters
    ----------
    task : Task
        Gives model, targets and loss.
    context : Context
        The run's folder, and whether to stop.
    store : FeatureStore
        Holds the records.
    train_items, val_items : sequence of PreparedItem
        The splits.
    fingerprint : str
        Ties the saved state to these settings and data.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> training = training_example(tempfile.mkdtemp())
    >>> training.steps_per_epoch, training.epoch
    (2, 0)
    """

    def __init__(
        self,
        task: Task,
        context: Context,
        store: FeatureStore,
        train_items: Sequence[PreparedItem],
        val_items: Sequence[PreparedItem],
        fingerprint: str,
    ):
        settings = task.settings.train
        self.task, self.context, self.store, self.settings = task, context, store, settings
        self.val_items, self.fingerprint = val_items, fingerprint
        self.device = choose_device(task.settings.device("train"))
        self.reader = PreparedReader(task, store, train_items)
        self.weights = task.sampling_weights(self.reader.entries)
        self.model = task.build_model().to(self.device)
        self.optimizer = build_optimizer(
            self.model,
            kind=settings.optimizer,
            muon_lr=settings.muon_lr,
            adamw_lr=settings.adamw_lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        micro_batches = -(-len(self.reader.entries) // settings.batch_size)
        self.steps_per_epoch = -(-micro_batches // settings.grad_accum_steps)
        total = self.steps_per_epoch * settings.epochs
        self.schedule = Schedule(
            settings.schedule,
            total,
            warmup_steps=0 if settings.schedule == "one_cycle" else round(settings.warmup * total),
            rise_share=settings.warmup,
            milestones=tuple(round(share * total) for share in settings.milestones),
        )
        self.ema = build_ema(self.model, settings.ema_decay)
        self.early = EarlyStopping(settings.patience, settings.min_delta, mode="max")
        self.guard = NonFiniteGuard(settings.non_finite_limit)
        self.epoch, self.step_in_epoch = 0, 0
        self.best: dict[str, Any] = {}
        self.loss = RunningMean()
        self.metrics: dict[str, Any] = {}
        self.csv = CsvLog(context.folder / "results.csv")
        self.saved_at = self.started_at = time.perf_counter()

    # -- the loop

    def run(self) -> dict[str, float]:
        """Train until the last epoch or until nothing improves.

        Returns
        -------
        dict
            The best primary score.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> sorted(training_example(tempfile.mkdtemp()).run())
        ['mIoU']
        """
        self._start()
        while self.epoch < self.settings.epochs and not self.early.should_stop:
            self._train_one_epoch()
            self._end_epoch()
        if self.early.should_stop:
            self.context.log.info(
                f"train: no gain in {self.settings.patience} validations; stopped at epoch {self.epoch}"
            )
        return {self.task.primary: float(self.best.get(self.task.primary, float("nan")))}

    def _start(self) -> None:
        """Resume, take another head's weights, or begin.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._start()
        >>> training.epoch
        0
        """
        path = checkpoint_path(self.context.folder, STATE)
        if self.settings.resume == "auto" and path.exists():
            state = load_training_state(path)
            whole = not state["best"] or checkpoint_path(self.context.folder, BEST).exists()
            if whole and state["fingerprint"] == self.fingerprint:
                self._load(state)
                self.context.log.info(f"train: resuming at epoch {self.epoch + 1}, step {self.step_in_epoch}")
                return
        self.csv.truncate_after("epoch", 0)
        if self.settings.init_from:
            self._init_from(self.settings.init_from)
        size = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.context.log.info(
            f"train: {size / 1e6:.2f} M parameters, {len(self.reader.entries)} windows, "
            f"{self.steps_per_epoch} steps per epoch, {self.settings.epochs} epochs on {self.device}"
        )

    def _init_from(self, source: str) -> None:
        """Copy the head of a checkpoint; name what does not fit and starts anew.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training_example(tempfile.mkdtemp())._init_from("/no/such/file.safetensors")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: /no/such/file.safetensors: no such checkpoint...
        """
        checkpoint = load_checkpoint(source)
        described = self.task.describe()
        fresh = init_from(
            self.model,
            checkpoint.tensors,
            classes_from=checkpoint.description.get("classes"),
            classes_to=described.get("classes"),
        )
        self.context.log.info(
            f"train: starting from {source}" + (f"; re-initialised: {', '.join(fresh)}" if fresh else "")
        )

    def _train_one_epoch(self) -> None:
        """One pass over the training windows, from the step where it was interrupted.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._train_one_epoch()
        >>> training.step_in_epoch, training.loss.compute() > 0
        (2, True)
        """
        self.model.train()
        curriculum = self.task.curriculum(self.epoch, self.settings.epochs)
        first = self.step_in_epoch
        steps = self._steps()[first:]
        loaded: Iterator[tuple[Step, list[Batch]]] = ((step, self._load_step(step, curriculum)) for step in steps)
        if self.settings.num_workers > 0:
            loaded = read_ahead(loaded, depth=2 * self.settings.num_workers)
        waited, began = 0.0, time.perf_counter()
        bar = progress(loaded, len(steps), f"epoch {self.epoch + 1}", logger=self.context.log, every=len(steps) + 1)
        mark = time.perf_counter()
        with closed_in_the_end(loaded):
            for step, batches in bar:
                waited += time.perf_counter() - mark
                due = (step.index + 1) % LOG_EVERY == 0 or step.index + 1 == self.steps_per_epoch
                stop, loss, scores = self._take_step(batches, curriculum, with_scores=due)
                self.step_in_epoch = step.index + 1
                if due:
                    taken = step.index + 1 - first  # since the training was resumed
                    self._log_step(step, loss, scores, waited / taken, (time.perf_counter() - began) / taken)
                self._save_if_due(stop)
                mark = time.perf_counter()

    def _steps(self) -> list[Step]:
        """Plan an epoch: the same on every rank, a function of seed and epoch.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> steps = training_example(tempfile.mkdtemp())._steps()
        >>> sorted(ref.position for step in steps for part in step.micro_batches for ref in part)
        [0, 1, 2, 3, 4, 5]
        """
        entries = self.reader.entries
        generator = np.random.default_rng([self.task.settings.resources.seed, self.epoch])
        if self.weights is None:
            order = generator.permutation(len(entries))
        else:
            order = generator.choice(len(entries), len(entries), p=self.weights / self.weights.sum())
        curriculum = self.task.curriculum(self.epoch, self.settings.epochs)
        refs = []
        for position in order.tolist():
            stored = sorted(entries[position].records) if self.settings.features == "cached" else self._online_views()
            views = self.task.training_views(stored, curriculum)
            refs.append(SampleRef(position, views[int(generator.integers(len(views)))]))
        micro = self.reader.plan(refs, self.settings.batch_size, generator)
        grouped = [
            micro[i : i + self.settings.grad_accum_steps] for i in range(0, len(micro), self.settings.grad_accum_steps)
        ]
        return [Step(index, group) for index, group in enumerate(grouped)]

    def _online_views(self) -> list[str]:
        """Names of the views that pictures are turned to when features are computed online.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training_example(tempfile.mkdtemp())._online_views()
        ['identity']
        """
        return [view.name for view in self.task.views("train")]

    def _load_step(self, step: Step, curriculum: Progress) -> list[Batch]:
        """Read this rank's share of each micro-batch of a step.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> [len(batch) for batch in training._load_step(training._steps()[0], Progress())]
        [4]
        """
        return [self.reader.read(distributed.share(part), curriculum).to(self.device) for part in step.micro_batches]

    def _take_step(
        self, batches: Sequence[Batch], curriculum: Progress, with_scores: bool
    ) -> tuple[bool, float, dict[str, tuple[float, float]]]:
        """Forward and backward of all micro-batches, then one step of the optimiser.

        Returns
        -------
        stop : bool
            Whether any rank was asked to stop.
        loss : float
            Weighted mean loss of all ranks.
        scores : dict
            Sums and counts of the task's training scores, of this rank's last micro-batch.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> batches = training._load_step(training._steps()[0], Progress())
        >>> stop, loss, scores = training._take_step(batches, Progress(), with_scores=True)
        >>> stop, loss > 0, sorted(scores)
        (False, True, ['pixel_accuracy'])
        """
        counts, stop = self._global_counts(batches)
        self.schedule.apply(self.optimizer, self.epoch * self.steps_per_epoch + self.step_in_epoch)
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        scores: dict[str, tuple[float, float]] = {}
        for batch in batches:
            outputs = self.model(batch)
            loss = self._weighted(self.task.loss(outputs, batch, curriculum), counts)
            loss.backward()
            total += loss.detach()
            if with_scores:
                scores = self.task.training_scores(outputs, batch)
        loss_value = float(distributed.sum_over_ranks(total))
        if self.guard.update(loss_value):
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            distributed.sum_gradients(parameters)
            clip_gradients(parameters, self.settings.clip_norm)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
            self.loss.update(loss_value, 1)
        return stop, loss_value, scores

    def _global_counts(self, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], bool]:
        """Sum the divisors of the loss over micro-batches and ranks, and with them the wish to stop.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> counts, stop = training._global_counts(training._load_step(training._steps()[0], Progress()))
        >>> int(counts["ce"]), stop
        (4096, False)
        """
        summed: dict[str, Tensor] = {}
        for batch in batches:
            for name, count in self.task.loss_counts(batch).items():
                summed[name] = summed.get(name, 0) + count.to(self.device, torch.float64)
        wish = torch.tensor(float(self.context.stop_requested() is not None), dtype=torch.float64, device=self.device)
        names = sorted(summed)
        reduced = distributed.sum_over_ranks(torch.stack([summed[name] for name in names] + [wish]))
        return dict(zip(names, reduced[:-1], strict=True)), bool(reduced[-1] > 0)

    def _weighted(self, sums: dict[str, Tensor], counts: dict[str, Tensor]) -> Tensor:
        """Divide each loss term by its count over all ranks, weigh and add.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._weighted({"ce": torch.tensor(6.0)}, {"ce": torch.tensor(4.0)}).item()
        1.5
        """
        weights = self.task.loss_weights()
        terms = [weights[name] * value / counts[name].clamp(min=1).to(value.dtype) for name, value in sums.items()]
        return torch.stack(terms).sum()

    def _log_step(self, step: Step, loss: float, scores: dict, waited: float, seconds: float) -> None:
        """Say where training stands; a step takes so many seconds, of which it waits so long for data.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training_example(tempfile.mkdtemp())._log_step(Step(0, []), 0.5, {"pixel_accuracy": (3, 4)}, 0.1, 1.0)
        """
        batch = step.index + 1
        ahead = (self.settings.epochs - self.epoch) * self.steps_per_epoch - batch
        rates = ", ".join(f"{group['lr']:.2e}" for group in self.optimizer.param_groups)
        said = "".join(f"  {name} {total / max(count, 1):.4f}" for name, (total, count) in scores.items())
        self.context.log.info(
            f"epoch {self.epoch + 1}/{self.settings.epochs}  batch {batch}/{self.steps_per_epoch}  lr {rates}  "
            f"eta {format_duration(ahead * seconds)}  time {seconds:.3f} s  data {waited:.3f} s  loss {loss:.4f}{said}"
        )

    # -- between epochs

    def _end_epoch(self) -> None:
        """Validate, keep the best, log, save.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._train_one_epoch()
        >>> training._end_epoch()
        >>> training.epoch, checkpoint_path(training.context.folder, BEST).exists()
        (1, True)
        """
        self._refuse_broken_weights()
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        loss = self.loss.compute()
        self.loss = RunningMean()
        row = {"epoch": self.epoch, "train_loss": loss, "lr": self.optimizer.param_groups[0]["lr"]}
        if self.epoch % self.settings.val_every == 0 or self.epoch == self.settings.epochs:
            scores = self._validate()
            row.update({name: value for name, value in scores.items() if isinstance(value, float)})
            self._decide(scores)
        self._write_row(row)
        self._save_checkpoint(LAST)
        self._save_state()

    def _refuse_broken_weights(self) -> None:
        """Stop before weights that are no numbers any more take the place of good ones in a checkpoint.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> _ = next(training.model.head.parameters()).data.fill_(float("nan"))
        >>> training._refuse_broken_weights()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DinolithError: train: epoch 1 left weights that are NaN or beyond all bounds (head...); ...
        """
        for name, value in self._trained().items():
            if not (value.abs() < LARGEST_WEIGHT).all():  # so written, NaN is found too
                raise DinolithError(
                    f"train: epoch {self.epoch + 1} left weights that are NaN or beyond all bounds ({name}); lower "
                    "train.muon_lr and train.adamw_lr, or set train.clip_norm; earlier checkpoints stay"
                )

    def _validate(self) -> dict[str, Any]:
        """Score the validation split with the weights that would be shipped.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> 0 <= training_example(tempfile.mkdtemp())._validate()["mIoU"] <= 1
        True
        """
        self.model.eval()
        cached = self.settings.features == "cached"
        with self._shipped_weights():
            return score(
                self.task,
                self.model,
                self.val_items,
                self.store if cached else None,
                self.device,
                self.settings.val_batch_size,
                Context(self.context.log, self.context.folder),  # a validation is not cut short
            )

    def _shipped_weights(self) -> Any:
        """Swap the averaged weights in, where there are any.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> with training_example(tempfile.mkdtemp())._shipped_weights():
        ...     print("inside")
        inside
        """
        return nullcontext() if self.ema is None else self.ema.swap()

    def _decide(self, scores: dict[str, Any]) -> None:
        """Let rank 0 decide whether these are the best weights; all ranks follow.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._decide({"mIoU": 0.5})
        >>> training.best["mIoU"]
        0.5
        """
        primary = self.task.primary
        value = distributed.broadcast_object(float(scores[primary]))
        self.metrics = scores
        improved = self.early.update(value)
        self.context.log.info(
            f"epoch {self.epoch}: {primary} {value:.4f}" + (" (best)" if improved else f" (best {self.early.best:.4f})")
        )
        if improved or not self.best:
            self.best = {primary: value, "epoch": self.epoch}
            self._save_checkpoint(BEST)

    def _write_row(self, row: dict[str, Any]) -> None:
        """Add an epoch to results.csv and the plot.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._write_row({"epoch": 1, "train_loss": 0.5, "lr": 0.1})
        >>> training.csv.path.read_text().splitlines()[0]
        'epoch,train_loss,lr'
        """
        if not distributed.is_main():
            return
        self.csv.append(row)
        if self.epoch == self.settings.epochs or self.epoch % 10 == 0:
            plot_training(self.csv.rows(), self.context.folder / "training.png", scores=self.task.plotted)
        if self.settings.tensorboard:
            from utils.report import write_tensorboard

            write_tensorboard(self.context.folder / "tensorboard", row, self.epoch)

    # -- saving

    def _save_if_due(self, stop: bool) -> None:
        """Save the state from time to time, and before an interruption.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training_example(tempfile.mkdtemp())._save_if_due(stop=True)
        Traceback (most recent call last):
            ...
        utils.errors.Interrupted: interrupted by SIGTERM; the next run continues from here
        """
        late = time.perf_counter() - self.saved_at > 60 * self.settings.save_minutes
        if stop or (late and distributed.is_main()):
            self._save_state()
        if stop:
            distributed.barrier()
            raise Interrupted(self.context.stop_requested() or signal.SIGTERM)

    def _trained(self) -> dict[str, Tensor]:
        """Parameters and buffers of the trained part of the model.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> all(name.startswith("head.") for name in training_example(tempfile.mkdtemp())._trained())
        True
        """
        return trained_state(self.model)

    def _save_checkpoint(self, name: str) -> None:
        """Write a checkpoint that describes itself.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._save_checkpoint(LAST)
        >>> load_checkpoint(checkpoint_path(training.context.folder, LAST)).description["kind"]
        'segmentation'
        """
        if not distributed.is_main():
            return
        with self._shipped_weights():
            tensors = {key: value.detach().cpu().contiguous().clone() for key, value in self._trained().items()}
        scores = {key: value for key, value in self.metrics.items() if isinstance(value, int | float)}
        description = {**self.task.describe(), "epoch": self.epoch, "metrics": scores, "fingerprint": self.fingerprint}
        save_checkpoint(checkpoint_path(self.context.folder, name), tensors, description)
        if self.settings.weights_dir:
            head = self.task.settings.model.head
            save_checkpoint(Path(self.settings.weights_dir) / f"{head}_{name}.safetensors", tensors, description)

    def _save_state(self) -> None:
        """Write all that an exact continuation needs.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._save_state()
        >>> load_training_state(checkpoint_path(training.context.folder, STATE))["epoch"]
        0
        """
        self.saved_at = time.perf_counter()
        if not distributed.is_main():
            return
        state = {
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "best": self.best,
            "metrics": {key: value for key, value in self.metrics.items() if isinstance(value, int | float)},
            "loss": self.loss.state,
            "model": self._trained(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "early": self.early.state_dict(),
            "guard": self.guard.state_dict(),
            "random": torch.get_rng_state(),
        }
        save_training_state(checkpoint_path(self.context.folder, STATE), state)

    def _load(self, state: dict[str, Any]) -> None:
        """Take up a saved state.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training.epoch = 3
        >>> training._save_state()
        >>> training.epoch = 0
        >>> training._load(load_training_state(checkpoint_path(training.context.folder, STATE)))
        >>> training.epoch
        3
        """
        load_trained_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.early.load_state_dict(state["early"])
        self.guard.load_state_dict(state["guard"])
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.best, self.metrics = state["best"], state["metrics"]
        self.loss = RunningMean()
        self.loss.load_state(state["loss"])
        torch.set_rng_state(state["random"])
        if distributed.is_main():
            self.csv.truncate_after("epoch", self.epoch)
