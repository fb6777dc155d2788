"""One step of the optimiser: divisors of all ranks, forward and backward of each micro-batch, the update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tasks.sample import Batch, Progress
from tasks.task import Task
from utils.optim import MuonAdamW, clip_gradients
from utils.runtime import distributed
from utils.training.averages import ExponentialMovingAverage
from utils.training.schedule import Schedule
from utils.training.stopping import NonFiniteGuard

LossTerms = Mapping[str, Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Divisors:
    """What divides the sum of each loss term.

    Parameters
    ----------
    counts : dict of Tensor
        For terms that are counted from the targets: over all micro-batches of the step and all ranks.
    in_forward : list of str
        Terms whose count comes with their sum, when the loss is computed.
    micro_batches : int
        Of the step.

    Examples
    --------
    >>> Divisors({"ce": torch.tensor(4.0)}, [], 1).means({"ce": torch.tensor(6.0)})
    {'ce': tensor(1.5000)}
    """

    counts: dict[str, Tensor]
    in_forward: list[str]
    micro_batches: int

    @property
    def names(self) -> list[str]:
        """Names of all terms, the same on all ranks.

        Examples
        --------
        >>> Divisors({"dice": torch.tensor(4.0)}, ["box"], 1).names
        ['box', 'dice']
        """
        return sorted([*self.counts, *self.in_forward])

    def means(self, terms: LossTerms) -> dict[str, Tensor]:
        """Divide the terms of a micro-batch; with counts of the forward, all ranks call it together.

        Parameters
        ----------
        terms : mapping of Tensor or of (Tensor, Tensor)
            The sum of each term; for those of `in_forward` sum and count. Empty on a rank without samples.

        Returns
        -------
        dict of Tensor, shape ()
            This rank's part of each term: over ranks and micro-batches it adds up to the mean, not yet weighted.

        Raises
        ------
        ValueError
            If a term comes with a count although it was counted from the targets, or the other way round.

        Examples
        --------
        >>> divisors = Divisors({}, ["box"], micro_batches=2)
        >>> divisors.means({"box": (torch.tensor(6.0), torch.tensor(3.0))})
        {'box': tensor(1.)}
        >>> divisors.means({"box": torch.tensor(6.0)})
        Traceback (most recent call last):
            ...
        ValueError: loss: the terms with a count must be those for which `counts` gives None (box), got none
        """
        counted = [name for name, value in terms.items() if isinstance(value, tuple)]
        if set(counted) - set(self.in_forward) or (terms and set(self.in_forward) - set(counted)):
            expected, got = (", ".join(sorted(names)) or "none" for names in (self.in_forward, counted))
            raise ValueError(
                f"loss: the terms with a count must be those for which `counts` gives None ({expected}), got {got}"
            )
        counts = dict(self.counts)
        if self.in_forward:
            device = next(iter(counts.values())).device if counts else None
            of_rank = [terms[name][1] if terms else torch.zeros((), device=device) for name in self.in_forward]
            summed = distributed.sum_over_ranks(torch.stack([count.detach().double() for count in of_rank]))
            counts |= dict(zip(self.in_forward, summed.clamp(min=1) * self.micro_batches, strict=True))
        sums = {name: value[0] if isinstance(value, tuple) else value for name, value in terms.items()}
        return {name: value / counts[name].clamp(min=1).to(value.dtype) for name, value in sums.items()}


def count_targets(
    task: Task, batches: Sequence[Batch], device: torch.device, flags: Sequence[bool] = ()
) -> tuple[Divisors, list[bool]]:
    """Sum the divisors of the loss over micro-batches and ranks, and with them flags; all ranks call it together.

    Parameters
    ----------
    task : Task
        Counts the targets.
    batches : sequence of Batch
        This rank's share of each micro-batch.
    device : torch.device
        Where the counts are needed.
    flags : sequence of bool
        What this rank asks for, such as a stop.

    Returns
    -------
    Divisors
        The same on all ranks.
    list of bool
        Whether any rank has raised each flag.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> training = training_example(tempfile.mkdtemp())
    >>> batches = next(training.read(training.plan_epoch()[:1], Progress()))
    >>> divisors, flags = count_targets(training.task, batches, training.device, [False, True])
    >>> int(divisors.counts["ce"]), flags
    (4096, [False, True])
    """
    summed: dict[str, Tensor] = {}
    in_forward: set[str] = set()
    for batch in batches:
        for name, count in task.objective.counts(batch).items():
            if count is None:
                in_forward.add(name)
            else:
                summed[name] = summed.get(name, 0) + count.to(device, torch.float64)
    names = sorted(summed)
    raised = torch.tensor([float(flag) for flag in flags], dtype=torch.float64, device=device)
    reduced = distributed.sum_over_ranks(torch.cat([*(summed[name].reshape(1) for name in names), raised]))
    counts = dict(zip(names, reduced, strict=False))
    return Divisors(counts, sorted(in_forward), len(batches)), [bool(value) for value in reduced[len(names) :] > 0]


class WeightedLoss(nn.Module):
    """A model with the loss of its task, as one module for DistributedDataParallel.

    The wrapper looks for unused parameters from what the module returns. So it must be the loss: an output that no
    term weighs would be taken for used.

    Parameters
    ----------
    model : Module
        Maps a batch to outputs.
    task : Task
        Gives the loss terms and their weights.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> training = training_example(tempfile.mkdtemp())
    >>> loss, terms, outputs = WeightedLoss(training.model, training.task)(
    ...     training.reader.read([], Progress()), Progress(), Divisors({}, [], 1)
    ... )
    >>> loss.item(), loss.requires_grad, terms, outputs["logits"].shape
    (0.0, True, {}, torch.Size([0, 2, 8, 8]))
    """

    def __init__(self, model: nn.Module, task: Task):
        super().__init__()
        self.model = model
        self.task = task
        # without an unused parameter torch advises, once on every rank, to look for none
        self.never_used = nn.Parameter(torch.zeros(1, device=next(model.parameters()).device))

    def forward(
        self, batch: Batch, progress: Progress, divisors: Divisors
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Compute this rank's part of the loss, and of each term and the outputs without their graph.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> batches = next(training.read(training.plan_epoch()[:1], Progress()))
        >>> divisors, _ = count_targets(training.task, batches, training.device)
        >>> loss, terms, outputs = WeightedLoss(training.model, training.task)(batches[0], Progress(), divisors)
        >>> loss.requires_grad, outputs["logits"].requires_grad, sorted(terms)
        (True, False, ['ce', 'dice'])
        """
        outputs = self.model(batch)
        terms: LossTerms = self.task.objective.loss(outputs, batch, progress) if len(batch) else {}
        means, weights = divisors.means(terms), self.task.objective.weights()
        if means:
            loss = torch.stack([weights[name] * value for name, value in means.items()]).sum()
        else:  # a rank without samples: zero gradients, for which the other ranks wait
            loss = 0 * torch.stack([output.sum() for output in outputs.values() if output.requires_grad]).sum()
        means, outputs = ({name: value.detach() for name, value in values.items()} for values in (means, outputs))
        return loss, means, outputs


class StepResult(NamedTuple):
    """What came out of a step.

    Parameters
    ----------
    loss : float
        Weighted mean over all ranks.
    gradient_norm : float
        Before clipping; not finite on all ranks alike.
    applied : bool
        False where loss or gradient is not finite and the weights stayed.
    outputs : dict of Tensor
        Of this rank's share of the last micro-batch.
    terms : mapping of float
        Mean of each term over all ranks, before it is weighted.

    Examples
    --------
    >>> StepResult(0.5, 1.0, True, {}).applied
    True
    """

    loss: float
    gradient_norm: float
    applied: bool
    outputs: dict[str, Tensor]
    terms: Mapping[str, float] = MappingProxyType({})


class Optimisation:
    """What moves the weights of a model: gradients of all ranks, optimizer, schedule, average and guard.

    Parameters
    ----------
    task : Task
        Gives loss and settings.
    model : Module
        What is trained, on its device.
    total_steps : int
        Of the whole training.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> training = training_example(tempfile.mkdtemp())
    >>> sorted(Optimisation(training.task, training.model, 10).state_dict())
    ['ema', 'guard', 'optimizer']
    """

    def __init__(self, task: Task, model: nn.Module, total_steps: int):
        settings = task.settings.train
        self.settings, self.model = settings, model
        self.optimizer = MuonAdamW(
            model,
            kind=settings.optimizer,
            muon_lr=settings.muon_lr,
            adamw_lr=settings.adamw_lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.schedule = Schedule(
            settings.schedule,
            total_steps,
            warmup=settings.warmup,
            milestones=tuple(round(share * total_steps) for share in settings.milestones),
        )
        self.ema = ExponentialMovingAverage(model, settings.ema_decay) if settings.ema_decay else None
        self.guard = NonFiniteGuard(settings.non_finite_limit)
        self.weighted_loss = distributed.wrap_in_ddp(WeightedLoss(model, task))

    def step(self, index: int, batches: Sequence[Batch], progress: Progress, divisors: Divisors) -> StepResult:
        """Forward and backward of all micro-batches, then one update; all ranks call it together.

        Parameters
        ----------
        index : int
            Number of the step since the training began.
        batches : sequence of Batch
            This rank's share of each micro-batch.
        progress : Progress
            For losses that change over the epochs.
        divisors : Divisors
            Of these micro-batches.

        Raises
        ------
        DinolithError
            If too many steps in a row had a loss or gradient that is not finite.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training = training_example(tempfile.mkdtemp())
        >>> batches = next(training.read(training.plan_epoch()[:1], Progress()))
        >>> divisors, _ = count_targets(training.task, batches, training.device)
        >>> result = training.optimisation.step(0, batches, Progress(), divisors)
        >>> result.applied, result.gradient_norm > 0, sorted(result.terms)
        (True, True, ['ce', 'dice'])
        """
        self.schedule.apply(self.optimizer.param_groups, index)
        self.optimizer.zero_grad()
        total: Any = 0.0
        zero = torch.zeros((), device=next(self.model.parameters()).device)
        terms, given = dict.fromkeys(divisors.names, zero), dict.fromkeys(divisors.names, zero)
        for number, batch in enumerate(batches, start=1):
            with distributed.share_gradients(self.weighted_loss, now=number == len(batches)):
                loss, means, outputs = self.weighted_loss(batch, progress, divisors)
                (loss * distributed.world_size()).backward()  # gradients are averaged over ranks
            total = total + loss.detach()
            terms |= {name: terms[name] + value for name, value in means.items()}
            given |= dict.fromkeys(means, zero + 1)
        norm = clip_gradients([p for p in self.model.parameters() if p.requires_grad], self.settings.clip_norm)
        broken = total.new_tensor(not math.isfinite(norm))
        summed = distributed.sum_over_ranks(torch.stack([total, broken, *terms.values(), *given.values()]))
        loss_value, ranks_broken, *values = summed.tolist()
        pairs = zip(terms, values[: len(terms)], values[len(terms) :], strict=True)
        means_of_all = {name: value for name, value, ranks in pairs if ranks}  # not of what this head does not have
        norm = math.inf if ranks_broken and math.isfinite(norm) else norm
        applied = self.guard.update(loss_value, norm)
        if applied:
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
        return StepResult(loss_value, norm, applied, outputs, means_of_all)

    def state_dict(self) -> dict[str, Any]:
        """All state beside the weights, for `save_training_state`.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> training_example(tempfile.mkdtemp()).optimisation.state_dict()["guard"]
        {'in_a_row': 0, 'total': 0}
        """
        return {
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> optimisation = training_example(tempfile.mkdtemp()).optimisation
        >>> state = optimisation.state_dict()
        >>> optimisation.load_state_dict({**state, "guard": {"in_a_row": 1, "total": 4}})
        >>> optimisation.guard.total
        4
        """
        self.optimizer.load_state_dict(state["optimizer"])
        self.guard.load_state_dict(state["guard"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
