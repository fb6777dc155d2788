"""Train: stored (or online) features -> head -> loss -> validation -> best checkpoint.

The loop is deterministic: the order of samples, their views and variations are functions of seed and epoch, and the
state that is saved holds everything else. N epochs in one go and in pieces give the same weights.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.belief import sentence
from tasks.context import Context, PhaseResult
from tasks.evidence import UNSTUDIED, judge_training, study_training, untrained
from tasks.model import compile_trained
from tasks.phases.prediction import score
from tasks.phases.step import Optimisation, StepResult, count_targets
from tasks.phases.training_files import TrainingFiles, refuse_broken_weights
from tasks.phases.training_report import TrainingReport
from tasks.phases.training_state import (
    TrainingState,
    describe_scores,
    epochs_done,
    training_fingerprint,
    validated_otherwise,
    workload,
)
from tasks.prepared import PreparedItem, PreparedReader, prepared_items
from tasks.runs import (
    BEST,
    LAST,
    checkpoint_path,
    choose_device,
    choose_run,
    epoch_name,
    seed_everything,
    try_weights_dir,
)
from tasks.sample import Batch, Progress
from tasks.stores import open_store
from tasks.task import Task
from utils.data import SampleRef
from utils.errors import DataError, Interrupted
from utils.logging import format_duration, progress
from utils.optim import EarlyStopping
from utils.runtime import distributed
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import read_json, write_json
from utils.runtime.memory import describe_peak
from utils.runtime.starts import init_from
from utils.runtime.threads import map_in_threads
from utils.store.feature_store import FeatureStore
from utils.training.sampling import draw_shares

LOG_EVERY = 10  # batches

Step = Sequence[Sequence[SampleRef]]  # the micro-batches of one step of the optimiser, for all ranks


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
    task.setup()
    task.check_memory(["train"])  # the number of samples is known only after prepare
    store = open_store(task.settings, "train")
    train_items = prepared_items(task, store, "train", "train")
    val_items = prepared_items(task, store, "val", "train")
    if not any(item.entries for item in train_items):
        raise DataError("train: the train split holds no labelled window; see paths.label_path and the split lists")
    if not any(item.entries for item in val_items):
        raise DataError("train: the val split holds no labelled window; see paths.label_path and the split lists")
    task.objective.check_validation([entry for item in val_items for entry in item.entries])
    fingerprint = training_fingerprint(task, train_items, val_items)
    task.trained_as = json.loads(json.dumps(task.describe()))
    folder, why = distributed.run_on_main(
        lambda: [str(part) for part in choose_run(context.folder, task.settings, fingerprint, not context.preview)]
    )
    if why:
        context.log.info(f"train: {folder} is a new run, as {why}")
    context.folder = Path(folder)  # the phases that follow look there
    finished = read_json(context.folder / "train.json", {}, checksum=True)
    if finished.get("fingerprint") == fingerprint and checkpoint_path(context.folder, BEST).exists():
        context.log.info(f"train: {context.folder} holds this training, finished; nothing to do")
        if changed := validated_otherwise(task, finished.get("validation")):
            context.log.warning(
                f"train: the best checkpoint was chosen by validations with other settings ({changed}); its weights do "
                "not depend on them, and evaluate and inference follow them; to choose again, train under another "
                "paths.run_name"
            )
        return close(task, finished, "up to date", context)
    if context.preview:
        done = epochs_done(task, context.folder, fingerprint)
        train, val = (sum(len(item.entries) for item in items) for items in (train_items, val_items))
        context.begin(workload(task, train, val, done), task, train_items[0].item)
    distributed.run_on_main(lambda: try_weights_dir(task.settings.train.weights_dir))
    seed_everything(task.settings.resources)
    entries = [entry for item in train_items for entry in item.entries]
    task.objective.fit_statistics(entries)
    for doubt in untrained(task, entries):
        context.log.warning(f"train: {doubt.text}")
    training = Training(task, context, store, train_items, val_items, fingerprint)
    metrics = training.run()
    best = training.state.best
    finished = {"fingerprint": fingerprint, "metrics": metrics, "belief": best.get("belief")}
    finished["validation"] = best.get("validation")
    distributed.run_on_main(lambda: write_json(context.folder / "train.json", finished, checksum=True))
    return close(task, finished, "done", context)


def close(task: Task, finished: dict[str, Any], status: str, context: Context) -> PhaseResult:
    """Say whether the score of a finished training can be believed, and give the result of the phase.

    Examples
    --------
    >>> from tasks.example import example_context, scene_task
    >>> from tasks.belief import few_steps, judge
    >>> finished = {"metrics": {"mIoU": 0.5}, "belief": judge("mIoU", 0.5, {}, few_steps(6))}
    >>> close(scene_task(), finished, "done", example_context(Path("run"))).doubt
    'mIoU 0.5000 cannot be believed: only 6 steps of training up to this checkpoint (fewer than 50)'
    """
    doubt = sentence(task.primary, finished["metrics"][task.primary], finished.get("belief"))
    if doubt:
        context.log.warning(f"train: {doubt}")
    return PhaseResult(status, finished["metrics"], doubt)


class Training:
    """A training and its loop.

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
    >>> training.steps_per_epoch, training.state.epoch
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
        self.train_items, self.val_items, self.fingerprint = train_items, val_items, fingerprint
        self.found: dict[str, Any] = dict(UNSTUDIED)
        self.device = choose_device(task.settings.device("train"))
        self.reader = PreparedReader(task, store, train_items)
        self.weights = task.objective.sampling_weights(self.reader.entries)
        self.model = task.build_model().to(self.device)
        if settings.compile:
            compile_trained(self.model)
        micro_batches = -(-len(self.reader.entries) // settings.batch_size)
        self.steps_per_epoch = -(-micro_batches // settings.grad_accum_steps)
        self.optimisation = Optimisation(task, self.model, self.steps_per_epoch * settings.epochs)
        early = EarlyStopping(settings.patience, settings.min_delta, mode="max")
        self.state = TrainingState(self.model, self.optimisation, early, self.device)
        self.report = TrainingReport(task, context, fingerprint)
        self.files = TrainingFiles(task, context.folder, self.state, fingerprint, train_items, val_items)
        if distributed.rank():  # rank 0 goes on with the seed of one process; dropout of the others is drawn apart
            torch.manual_seed(task.settings.resources.seed + distributed.rank())

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
        self.start()
        state = self.state
        self.found = distributed.run_on_main(
            lambda: study_training(self.task, self.store, self.train_items, self.val_items)
        )
        if changed := validated_otherwise(self.task, state.best.get("validation")):
            self._score_best_anew(changed)
        try:
            distributed.run_on_main(self.report.begin, state.epoch)
            while state.epoch < self.settings.epochs and not state.early.should_stop:
                self.train_one_epoch()
                self.end_epoch()
        finally:
            self.report.finish()
        if state.early.should_stop:
            self.context.log.info(
                f"train: no gain in {self.settings.patience} validations; stopped at epoch {state.epoch}"
            )
        distributed.run_on_main(self.report.plot, state.best)
        if peak := describe_peak(self.device):
            self.context.log.info(f"train: the process held {peak}")
        return {self.task.primary: float(state.best.get(self.task.primary, float("nan")))}

    def start(self) -> None:
        """Resume, take another head's weights, or begin.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training.start()
        >>> training.state.epoch
        0
        """
        state, log = self.state, self.context.log
        resumed = self.files.load_state()
        self.files.remove_old_checkpoints()  # a run that begins anew has those of its first attempt
        if resumed:
            log.info(f"train: resuming at epoch {state.epoch + 1}, step {state.step_in_epoch}")
            return
        for line in self.task.start_weights(self.model):
            log.info(f"train: {line}")
        if self.settings.init_from:
            self._init_from(self.settings.init_from)
        size = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        log.info(
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
        utils.errors.DataError: train.init_from: /no/such/file.safetensors: no such checkpoint...
        """
        described = self.task.describe()
        try:
            checkpoint = load_checkpoint(source)
        except DataError as error:
            raise DataError(f"train.init_from: {error}") from None
        other = checkpoint.description
        try:
            classes, coarser = (other.get("classes"), described.get("classes")), self.task.coarser_classes(other)
            fresh = init_from(self.model, checkpoint.tensors, *classes, coarser)
        except DataError as error:
            theirs, ours = (f"kind {of.get('kind')}, head {of.get('head')}" for of in (other, described))
            raise DataError(
                f"train.init_from: {source}: a checkpoint of {theirs}; this task is of {ours}: {error}; name another "
                "checkpoint, or remove the setting"
            ) from None
        if other.get("projection") != described.get("projection"):
            text = f"train: {source}: its head learnt on other maps (another prepare.project, or of other data)"
            self.context.log.warning(f"{text}: those of its first layers that are taken over begin far from these maps")
        begun = "".join(f"; {name} begins as {family}" for name, family in coarser.items())
        again = f"; re-initialised: {', '.join(fresh)}" if fresh else ""
        self.context.log.info(f"train: starting from {source}{begun}{again}")

    def _score_best_anew(self, changed: str) -> None:
        """Score the best weights with the settings of now: scores under others do not compare with those to come.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._decide(training.validate())
        >>> known, training.state.early.best = training.state.best["mIoU"], 7.0
        >>> training._score_best_anew("min_score is 0.1, was 0.2")
        >>> training.state.early.best == training.state.best["mIoU"] == known
        True
        """
        state, primary = self.state, self.task.primary
        best = load_checkpoint(checkpoint_path(self.context.folder, BEST))
        with state.swapped_weights(best.tensors):
            scores = self._score()
        constant = scores.pop("constant", {}).get(primary)
        value, constant = distributed.broadcast_object((float(scores[primary]), constant))
        if constant is not None and math.isfinite(constant):
            state.early.chance = float(constant)
        self.context.log.warning(
            f"train: the settings of validation changed ({changed}): the best weights until now, of epoch "
            f"{state.best['epoch']}, score {primary} {value:.4f} with them, and {state.best[primary]:.4f} before"
        )
        state.early.best = None if math.isnan(value) else value
        steps = state.best["epoch"] * self.steps_per_epoch
        belief = judge_training(self.task, scores, steps, state.early.chance, self.found)
        state.best |= {primary: value, "belief": belief, "validation": self.task.validating_key()}
        self.files.describe_best_anew(best, scores, belief)

    def train_one_epoch(self) -> None:
        """One pass over the training windows, from the step where it was interrupted.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training.train_one_epoch()
        >>> training.state.step_in_epoch, training.state.loss.compute() > 0
        (2, True)
        """
        self.model.train()
        state = self.state
        curriculum = self.task.objective.curriculum(state.epoch, self.settings.epochs)
        first = state.step_in_epoch
        steps = self.plan_epoch()[first:]
        waited, began = 0.0, time.perf_counter()
        with closing(self.read(steps, curriculum)) as steps_read:
            bar = progress(
                steps_read, len(steps), f"epoch {state.epoch + 1}", logger=self.context.log, every_s=float("inf")
            )
            mark = time.perf_counter()
            for batches in bar:
                waited += time.perf_counter() - mark
                flags = [self.context.stop_requested() is not None, self.files.is_save_due()]
                divisors, (stop, save) = count_targets(self.task, batches, self.device, flags)
                result = self.optimisation.step(self._steps(), batches, curriculum, divisors)
                state.step_in_epoch += 1
                if result.applied:
                    state.add(result.loss, result.terms)
                taken = state.step_in_epoch - first  # since the training was resumed
                self._log_step(result, batches[-1], waited / taken, (time.perf_counter() - began) / taken)
                if stop or save:
                    self.files.save_state()
                if stop:
                    raise Interrupted(self.context.stop_requested() or signal.SIGTERM)
                mark = time.perf_counter()

    def plan_epoch(self) -> list[Step]:
        """Plan the present epoch: the same on every rank, a function of seed and epoch.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> steps = training_example(tempfile.mkdtemp()).plan_epoch()
        >>> sorted(ref.position for step in steps for part in step for ref in part)
        [0, 1, 2, 3, 4, 5]
        """
        entries, epoch = self.reader.entries, self.state.epoch
        generator = np.random.default_rng([self.task.settings.resources.seed, epoch])
        order = generator.permutation(len(entries)) if self.weights is None else draw_shares(self.weights, generator)
        curriculum = self.task.objective.curriculum(epoch, self.settings.epochs)
        online = [view.name for view in self.task.source.views("train")] if self.settings.features == "online" else None
        refs = []
        for position in order.tolist():
            views = self.task.objective.training_views(online or sorted(entries[position].records), curriculum)
            refs.append(SampleRef(position, views[int(generator.integers(len(views)))]))
        micro_batches = self.reader.plan(refs, self.settings.batch_size, generator)
        size = self.settings.grad_accum_steps
        return [micro_batches[start : start + size] for start in range(0, len(micro_batches), size)]

    def read(self, steps: Sequence[Step], curriculum: Progress) -> Generator[list[Batch]]:
        """Read this rank's share of the micro-batches of each step; `train.num_workers` threads read ahead.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp(), "train.num_workers=2")
        >>> [[len(batch) for batch in batches] for batches in training.read(training.plan_epoch(), Progress())]
        [[4], [2]]
        """

        def read_share(part: Sequence[SampleRef]) -> Batch:
            return self.reader.read(distributed.share(part), curriculum).to(self.device)

        parts = (part for step in steps for part in step)
        with closing(map_in_threads(read_share, parts, self.settings.num_workers)) as batches:
            for step in steps:
                yield list(islice(batches, len(step)))

    def _log_step(self, result: StepResult, batch: Batch, waited: float, seconds: float) -> None:
        """Log a skipped step, and now and then the progress, the loss, and the time that a step takes and waits.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> from utils.logging import VerbosityLogger
        >>> training.context.log, training.state.step_in_epoch = VerbosityLogger(), 1
        >>> training._log_step(StepResult(0.5, float("nan"), False, {}), Batch([], {}), 0.1, 1.0)
        [WARNING] epoch 1/1  batch 1/2: step skipped, its loss is 0.5 and its gradient norm nan; 0 in a row, 0 in all
        """
        number, of = self.state.step_in_epoch, self.steps_per_epoch
        place = f"epoch {self.state.epoch + 1}/{self.settings.epochs}  batch {number}/{of}"
        if not result.applied:
            guard = self.optimisation.guard
            self.context.log.warning(
                f"{place}: step skipped, its loss is {result.loss} and its gradient norm {result.gradient_norm}; "
                f"{guard.in_a_row} in a row, {guard.total} in all"
            )
        if number % LOG_EVERY and number != of:
            return
        scores = self.task.objective.scores(result.outputs, batch) if len(batch) else {}
        shown = "".join(f"  {name} {total / max(count, 1):.4f}" for name, (total, count) in scores.items())
        rates = ", ".join(f"{name} {rate:.2e}" for name, rate in self.optimisation.optimizer.rates.items())
        left = (self.settings.epochs - self.state.epoch) * of - number
        self.context.log.info(
            f"{place}  lr {rates}  eta {format_duration(left * seconds)}  time {seconds:.3f} s  data {waited:.3f} s  "
            f"loss {result.loss:.4f}{shown}"
        )

    # -- between epochs

    def end_epoch(self) -> None:
        """Validate, keep the best, log, save.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training.train_one_epoch()
        >>> training.end_epoch()
        >>> training.state.epoch, checkpoint_path(training.context.folder, BEST).exists()
        (1, True)
        """
        state = self.state
        refuse_broken_weights(self.model, state.epoch + 1)
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
        rates = self.optimisation.optimizer.rates
        row = {"epoch": state.epoch, **state.take_means(), "lr": next(iter(rates.values()))}
        row |= {f"lr/{name}": rate for name, rate in rates.items()} if len(rates) > 1 else {}
        if state.epoch % self.settings.val_every == 0 or state.epoch == self.settings.epochs:
            scores = self.validate()
            row.update({name: value for name, value in scores.items() if isinstance(value, float)})
            row.update(self.task.output.scores_by_class(scores))
            self._decide(scores)
        distributed.run_on_main(self.report.add, row, state.epoch)
        self.files.save_checkpoint(LAST, self._steps(), self.found)
        if self.settings.save_total_limit is not None:
            self.files.save_checkpoint(epoch_name(state.epoch), self._steps(), self.found)
        self.files.remove_old_checkpoints()
        self.files.save_state()

    def validate(self) -> dict[str, Any]:
        """Score the validation split with the weights that would be shipped.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> 0 <= training_example(tempfile.mkdtemp()).validate()["mIoU"] <= 1
        True
        """
        with self.state.shipped_weights():
            return self._score(constant=self.state.early.chance is None)

    def _score(self, constant: bool = True) -> dict[str, Any]:
        """Score the validation split with the weights that the model holds, and a constant prediction if asked to.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> ["constant" in training._score(constant) for constant in (True, False)]
        [True, False]
        """
        self.model.eval()
        return score(
            self.task,
            self.model,
            self.val_items,
            self.store if self.settings.features == "cached" else None,
            self.device,
            self.settings.val_batch_size,
            Context(self.context.log, self.context.folder),  # a validation is not cut short
            constant=constant,
            progress=self.task.objective.curriculum(self.state.epoch, self.settings.epochs),
        )

    def _decide(self, scores: dict[str, Any]) -> None:
        """Let rank 0 decide whether these are the best weights; all ranks follow.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training._decide(training.validate())
        >>> sorted(training.state.best), training.state.early.chance > 0
        (['belief', 'epoch', 'mIoU', 'validation'], True)
        """
        primary, state = self.task.primary, self.state
        constant = scores.pop("constant", {}).get(primary)
        value, constant = distributed.broadcast_object((float(scores[primary]), constant))
        state.metrics = scores
        state.by_class = describe_scores(self.task, scores)["by_class"]
        if constant is not None and math.isfinite(constant):
            state.early.chance = float(constant)
        improved = state.early.update(value)
        loss = f", validation loss {scores['val_loss']:.4f}" if "val_loss" in scores else ""
        self.context.log.info(f"epoch {state.epoch}: {primary} {value:.4f}{loss} ({state.early.describe(improved)})")
        if classes := self.task.output.describe_classes(scores):
            self.context.log.info(f"epoch {state.epoch}: {classes}")
        if improved or not state.best:
            belief = judge_training(self.task, scores, self._steps(), state.early.chance, self.found)
            chosen = self.task.validating_key()
            state.best = {primary: value, "epoch": state.epoch, "belief": belief, "validation": chosen}
            self.files.save_checkpoint(BEST, self._steps(), self.found)

    def _steps(self) -> int:
        """Steps of the optimiser until now.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> training.train_one_epoch()
        >>> training._steps()
        2
        """
        return self.state.epoch * self.steps_per_epoch + self.state.step_in_epoch
