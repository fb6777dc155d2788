"""What moves the weights: Muon with AdamW, learning rate schedules, weight averages, and when to stop.

Everything here is built from a module and numbers, and all state is saved and loaded
(`utils.runtime.checkpoints.pack_state`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from utils.errors import DataError, DinolithError, SettingsError

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("constant", "cosine", "one_cycle", "poly", "step")


@dataclass(frozen=True)
class HiddenMatrix:
    """A kernel that maps vectors to vectors, and how its values form matrices with one row per output.

    Parameters
    ----------
    name : str
        Name of the parameter in its module.
    parameter : Parameter, shape (D, ...)
        The kernel as its layer holds it.
    blocks : int
        Independent matrices that are stacked along its first axis: groups of a convolution; 3 for the joint query, key
        and value projection of an attention layer.
    transposed : bool
        Whether the first axis counts inputs: transposed convolutions.

    Examples
    --------
    >>> layer = nn.ConvTranspose2d(4, 3, kernel_size=2)  # weight (4, 3, 2, 2): one input gives 3 x 2 x 2 outputs
    >>> kernel = HiddenMatrix("weight", layer.weight, transposed=True)
    >>> [tuple(matrix.shape) for matrix in kernel.matrices(layer.weight)]
    [(12, 4)]
    """

    name: str
    parameter: nn.Parameter
    blocks: int = 1
    transposed: bool = False

    def matrices(self, values: Tensor) -> list[Tensor]:
        """Form the matrices of the kernel, or of its gradient; views wherever the memory layout allows them.

        Parameters
        ----------
        values : Tensor, shape (D, ...)
            Of the parameter's shape.

        Returns
        -------
        list of Tensor, shape (rows, columns)
            One per block; a row per output.

        Examples
        --------
        >>> layer = nn.Conv2d(4, 6, kernel_size=3, groups=2)
        >>> [tuple(matrix.shape) for matrix in HiddenMatrix("weight", layer.weight, blocks=2).matrices(layer.weight)]
        [(3, 18), (3, 18)]
        """
        flat = [part.reshape(len(part), -1) for part in values.detach().chunk(self.blocks)]
        return [part.t() for part in flat] if self.transposed else flat

    def write_back(self, matrices: Sequence[Tensor]) -> None:
        """Copy matrices into the parameter, unless they are views of it already.

        Parameters
        ----------
        matrices : sequence of Tensor, shape (rows, columns)
            As `matrices` gave them.

        Examples
        --------
        >>> layer = nn.Conv2d(2, 2, kernel_size=(1, 2)).to(memory_format=torch.channels_last)
        >>> kernel = HiddenMatrix("weight", layer.weight)
        >>> kernel.write_back([torch.arange(8.0).view(2, 4)])
        >>> layer.weight.flatten(1).tolist()
        [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
        """
        parts = self.parameter.detach().chunk(self.blocks)
        for part, matrix in zip(parts, matrices, strict=True):
            if matrix.untyped_storage().data_ptr() != part.untyped_storage().data_ptr():
                part.copy_((matrix.t() if self.transposed else matrix).reshape(part.shape))


def find_kernels(module: nn.Module) -> dict[str, HiddenMatrix]:
    """Find the trained kernels of linear, convolution and attention layers, wherever they stand.

    Parameters
    ----------
    module : Module
        Searched with all its parts.

    Returns
    -------
    dict of HiddenMatrix
        By parameter name. Norms, biases, embeddings and free parameters (queries) are not in it.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=4))
    >>> {name: kernel.blocks for name, kernel in find_kernels(model).items()}
    {'0.weight': 1, '2.weight': 4}
    """
    layouts = {}
    for child in module.modules():
        own = dict(child.named_parameters(recurse=False))
        for attribute, blocks, transposed in _kernel_layouts(child):
            if attribute in own:
                layouts[id(own[attribute])] = (blocks, transposed)
    return {
        name: HiddenMatrix(name, parameter, *layouts[id(parameter)])
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and id(parameter) in layouts
    }


def _kernel_layouts(layer: nn.Module) -> list[tuple[str, int, bool]]:
    """Tell a layer's kernels: attribute, blocks along the first axis, whether that axis counts inputs.

    Examples
    --------
    >>> _kernel_layouts(nn.ConvTranspose2d(4, 2, 2, groups=2)), _kernel_layouts(nn.LayerNorm(4))
    ([('weight', 2, True)], [])
    """
    if isinstance(layer, nn.Linear):
        return [("weight", 1, False)]
    if isinstance(layer, _ConvNd):
        return [("weight", layer.groups, layer.transposed)]
    if isinstance(layer, nn.MultiheadAttention):  # its output projection is a linear layer of its own
        separate = [(f"{part}_proj_weight", 1, False) for part in "qkv"]
        return [("in_proj_weight", 3, False), *separate]
    return []


def split_parameters(module: nn.Module) -> tuple[list[HiddenMatrix], dict[str, nn.Parameter]]:
    """Divide the trained parameters between Muon and AdamW; each is served exactly once.

    A module, or any part of it, declares its first and last layers by `input_layers` and `output_layers`: tuples of
    names of its parts or parameters.

    Parameters
    ----------
    module : Module
        What is trained; frozen parameters are left out.

    Returns
    -------
    hidden : list of HiddenMatrix
        For Muon: kernels of hidden layers with at least two inputs and outputs.
    rest : dict of Parameter
        For AdamW: first and last layers, norms, biases, embeddings and queries, depthwise kernels.

    Raises
    ------
    ValueError
        If a declared name is none of the module's.

    References
    ----------
    Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon).

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))
    >>> model.input_layers, model.output_layers = ("0",), ("2",)
    >>> hidden, rest = split_parameters(model)
    >>> [kernel.name for kernel in hidden], list(rest)
    (['1.weight'], ['0.weight', '0.bias', '1.bias', '2.weight', '2.bias'])
    """
    outer = {id(parameter) for parameter in _outer_parameters(module)}
    hidden = [
        kernel for kernel in find_kernels(module).values() if id(kernel.parameter) not in outer and _is_matrix(kernel)
    ]
    taken = {kernel.name for kernel in hidden}
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return hidden, {name: parameter for name, parameter in trained.items() if name not in taken}


def _is_matrix(kernel: HiddenMatrix) -> bool:
    """Whether there is a matrix worth orthogonalising: at least two inputs and two outputs in each block.

    Examples
    --------
    >>> layers = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 1)
    >>> [_is_matrix(find_kernels(layer)["weight"]) for layer in layers]
    [True, False, False]
    """
    first, second = kernel.parameter.shape[:2]
    return min(first // kernel.blocks, second) > 1


def _outer_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Find the parameters of all declared first and last layers.

    Examples
    --------
    >>> model = nn.ModuleDict({"head": nn.Linear(2, 3)})
    >>> model["head"].output_layers = ("weight",)
    >>> [tuple(parameter.shape) for parameter in _outer_parameters(model)]
    [(3, 2)]
    >>> model["head"].output_layers = ("classifier",)
    >>> _outer_parameters(model)
    Traceback (most recent call last):
        ...
    ValueError: Linear declares the outer layer 'classifier', which it does not have; its parts: weight, bias
    """
    found: list[nn.Parameter] = []
    for child in module.modules():
        for attribute in ("input_layers", "output_layers"):
            for declared in getattr(child, attribute, ()):
                found += _parameters_under(child, declared)
    return found


def _parameters_under(module: nn.Module, declared: str) -> list[nn.Parameter]:
    """Find the parameters of one part of a module; a part that is switched off (None) has none.

    Raises
    ------
    ValueError
        If the module has no part of that name.

    Examples
    --------
    >>> [tuple(weight.shape) for weight in _parameters_under(nn.Linear(2, 3), "bias")]
    [(3,)]
    """
    part: Any = module
    for name in declared.split("."):
        if not hasattr(part, name):
            parts = [*dict(module.named_parameters(recurse=False)), *dict(module.named_children())]
            raise ValueError(
                f"{type(module).__name__} declares the outer layer {declared!r}, which it does not have; its parts: "
                + ", ".join(parts)
            )
        part = getattr(part, name)
    if isinstance(part, nn.Parameter):
        return [part]
    return list(part.parameters()) if isinstance(part, nn.Module) else []


class MuonAdamW:
    """Muon for hidden matrices and AdamW for the rest, as one optimizer.

    `torch.optim.Muon` takes matrices only. It is given slots, which at every step stand for the kernels' values and
    gradients as matrices (views of the same memory; values are copied only where the memory layout allows no view). Its
    step is scaled by sqrt(max(1, rows / columns)).

    Parameters
    ----------
    hidden : sequence of HiddenMatrix
        What Muon serves; may be empty.
    rest : mapping of Parameter
        What AdamW serves, by name; may be empty.
    decayed : collection of str
        Names in `rest` that are drawn to zero; norms, biases and queries are not among them.
    muon_lr, adamw_lr : float
        Learning rates at their peak.
    momentum : float
        Of Muon.
    weight_decay : float
        Decoupled, per step and unit of learning rate.
    betas : tuple of float
        Decay of AdamW's first and second moments.

    References
    ----------
    Jordan et al., 2024 (kellerjordan.github.io/posts/muon); Loshchilov and Hutter, 2019 (arXiv:1711.05101).

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> optimizer = MuonAdamW([HiddenMatrix("weight", layer.weight)], {"bias": layer.bias}, muon_lr=0.5, adamw_lr=0.25)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.5, 0.25]
    """

    def __init__(
        self,
        hidden: Sequence[HiddenMatrix],
        rest: Mapping[str, nn.Parameter],
        *,
        decayed: Collection[str] = (),
        muon_lr: float = 0.02,
        adamw_lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
    ):
        _check_rates(muon_lr=muon_lr, adamw_lr=adamw_lr, momentum=momentum, weight_decay=weight_decay, betas=betas)
        if not hidden and not rest:
            raise ValueError("there is no trained parameter to optimise")
        self.hidden = list(hidden)
        self.rest = dict(rest)
        self._slots = [kernel.matrices(kernel.parameter) for kernel in self.hidden]
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        if self.hidden:
            slots = [slot for slots in self._slots for slot in slots]
            self._optimizers["muon"] = torch.optim.Muon(
                slots, lr=muon_lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="original"
            )
        if self.rest:
            groups = _decay_groups(self.rest, decayed, weight_decay)
            self._optimizers["adamw"] = torch.optim.AdamW(groups, lr=adamw_lr, betas=betas)
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]  # what a schedule's factor applies to

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both optimizers, as schedules want them.

        Examples
        --------
        >>> [len(group["params"]) for group in build_optimizer(nn.Linear(2, 2), kind="adamw").param_groups]
        [1, 1]
        """
        return [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]

    def step(self) -> None:
        """Move all parameters that have a gradient.

        Examples
        --------
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> optimizer = build_optimizer(layer, muon_lr=1.0, weight_decay=0.0)
        >>> before = layer.weight.detach().clone()
        >>> layer.weight.grad = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
        >>> optimizer.step()  # the step is nearly orthogonal, whatever the gradient's size
        >>> bool(((before - layer.weight) - torch.eye(2)).abs().max() < 0.4)
        True
        """
        for kernel, slots in zip(self.hidden, self._slots, strict=True):
            _fill_slots(kernel, slots)
        for optimizer in self._optimizers.values():
            optimizer.step()
        for kernel, slots in zip(self.hidden, self._slots, strict=True):
            kernel.write_back(slots)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of ALL parameters, Muon's and AdamW's.

        Parameters
        ----------
        set_to_none : bool
            Free the gradients' memory; otherwise fill them with zeros.

        Examples
        --------
        >>> layer = nn.Linear(2, 2)
        >>> optimizer = build_optimizer(layer)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.zero_grad()
        >>> layer.weight.grad, layer.bias.grad
        (None, None)
        """
        for slot in (slot for slots in self._slots for slot in slots):
            slot.grad = None
        for parameter in [*(kernel.parameter for kernel in self.hidden), *self.rest.values()]:
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.detach_().zero_()

    def state_dict(self) -> dict[str, Any]:
        """All state, for `save_training_state`.

        Returns
        -------
        dict
            State of each optimizer, and the names that it belongs to.

        Examples
        --------
        >>> sorted(build_optimizer(nn.Linear(2, 2)).state_dict())
        ['adamw', 'muon', 'names']
        """
        states = {kind: optimizer.state_dict() for kind, optimizer in self._optimizers.items()}
        return {"names": self._names(), **states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state, learning rates included, of an optimizer of the same parameters.

        Parameters
        ----------
        state : mapping
            What `state_dict` gave; it is copied.

        Raises
        ------
        DataError
            If it belongs to other parameters or to another choice of optimizer.

        Examples
        --------
        >>> optimizer = build_optimizer(nn.Linear(2, 2))
        >>> optimizer.load_state_dict(build_optimizer(nn.Linear(2, 2), kind="adamw").state_dict())
        Traceback (most recent call last):
            ...
        utils.errors.DataError: the saved state of the optimizer is that of other parameters or of another optimizer: \
muon expected weight, got nothing; start a new training
        """
        expected, got = self._names(), state.get("names", {})
        for kind in (*expected, *got):
            mine, theirs = (", ".join(names.get(kind, ())) or "nothing" for names in (expected, got))
            if mine != theirs:
                raise DataError(
                    "the saved state of the optimizer is that of other parameters or of another optimizer: "
                    f"{kind} expected {mine}, got {theirs}; start a new training"
                )
        for kind, optimizer in self._optimizers.items():
            optimizer.load_state_dict(copy.deepcopy(state[kind]))  # torch would share the tensors' memory

    def _names(self) -> dict[str, list[str]]:
        """Names of the parameters of each optimizer, in the order of its state.

        Examples
        --------
        >>> build_optimizer(nn.Linear(2, 2))._names()
        {'muon': ['weight'], 'adamw': ['bias']}
        """
        names = {"muon": [kernel.name for kernel in self.hidden], "adamw": list(self.rest)}
        return {kind: names[kind] for kind in self._optimizers}


def _fill_slots(kernel: HiddenMatrix, slots: Sequence[Tensor]) -> None:
    """Let slots stand for a kernel's present values and gradient.

    Slots have shape (rows, columns).

    They are set anew at every step, because a module that was moved to another device has other memory.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> layer.weight.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> slot = torch.zeros(2, 2)
    >>> _fill_slots(HiddenMatrix("weight", layer.weight), [slot])
    >>> slot.data_ptr() == layer.weight.data_ptr(), slot.grad.tolist()
    (True, [[1.0, 2.0], [3.0, 4.0]])
    """
    parameter = kernel.parameter
    gradients: Sequence[Tensor | None] = [None] * len(slots)
    if parameter.grad is not None:
        gradients = kernel.matrices(parameter.grad)
    for slot, values, gradient in zip(slots, kernel.matrices(parameter), gradients, strict=True):
        slot.data = values
        slot.grad = gradient


def _decay_groups(
    parameters: Mapping[str, nn.Parameter], decayed: Collection[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Group parameters by whether they are drawn to zero; no group is empty.

    Examples
    --------
    >>> layer = nn.Linear(2, 3)
    >>> groups = _decay_groups(dict(layer.named_parameters()), ["weight"], 0.5)
    >>> [(tuple(group["params"][0].shape), group["weight_decay"]) for group in groups]
    [((3, 2), 0.5), ((3,), 0.0)]
    """
    drawn = [parameter for name, parameter in parameters.items() if name in decayed]
    free = [parameter for name, parameter in parameters.items() if name not in decayed]
    groups = [{"params": drawn, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _check_rates(
    *, muon_lr: float, adamw_lr: float, momentum: float, weight_decay: float, betas: tuple[float, float]
) -> None:
    """Refuse numbers with which nothing would be learnt.

    Raises
    ------
    SettingsError
        If a rate is not above 0, the weight decay is negative, or a share is not from 0 to 1.

    Examples
    --------
    >>> _check_rates(muon_lr=0.0, adamw_lr=1e-3, momentum=0.9, weight_decay=0.0, betas=(0.9, 0.9))
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: muon_lr: expected a finite number above 0, got 0.0
    """
    for name, rate in (("muon_lr", muon_lr), ("adamw_lr", adamw_lr)):
        if not 0 < rate < math.inf:
            raise SettingsError(f"{name}: expected a finite number above 0, got {rate}")
    if not 0 <= weight_decay < math.inf:
        raise SettingsError(f"weight_decay: expected a finite number of at least 0, got {weight_decay}")
    for name, share in (("momentum", momentum), ("betas", betas[0]), ("betas", betas[1])):
        if not 0 <= share < 1:
            raise SettingsError(f"{name}: expected at least 0 and less than 1, got {share}")


def build_optimizer(
    module: nn.Module,
    kind: str = "muon",
    *,
    muon_lr: float = 0.02,
    adamw_lr: float = 1e-3,
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.95),
) -> MuonAdamW:
    """Build the optimizer of a module's trained parameters.

    Parameters
    ----------
    module : Module
        What is trained.
    kind : str
        "muon" (with AdamW for what is no hidden matrix) or "adamw" for everything.
    muon_lr, adamw_lr : float
        Learning rates at their peak.
    momentum : float
        Of Muon.
    weight_decay : float
        Decoupled; applied to kernels only, not to norms, biases, embeddings and queries.
    betas : tuple of float
        Decay of AdamW's first and second moments.

    Returns
    -------
    MuonAdamW
        The same class for both kinds.

    Raises
    ------
    SettingsError
        If the kind is unknown or a number is out of range.
    ValueError
        If nothing is trained, or a declared first or last layer does not exist.

    Examples
    --------
    >>> list(build_optimizer(nn.Linear(2, 2), kind="adamw").rest)
    ['weight', 'bias']
    >>> build_optimizer(nn.Linear(2, 2), kind="sgd")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: unknown optimizer 'sgd'; known: adamw, muon
    """
    if kind not in OPTIMIZERS:
        raise SettingsError(f"unknown optimizer {kind!r}; known: {', '.join(OPTIMIZERS)}")
    hidden, rest = split_parameters(module)
    if kind == "adamw":
        hidden, rest = [], {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    return MuonAdamW(
        hidden,
        rest,
        decayed=find_kernels(module),
        muon_lr=muon_lr,
        adamw_lr=adamw_lr,
        momentum=momentum,
        weight_decay=weight_decay,
        betas=betas,
    )


def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None = None) -> float:
    """Scale all gradients down together when their common length exceeds a limit.

    Gradients may have any shape.

    Parameters
    ----------
    parameters : iterable of Tensor
        Those without a gradient are passed over.
    max_norm : float, optional
        The limit; None and 0 only measure the gradients.

    Returns
    -------
    float
        Their length before, infinite or NaN when a gradient is; such gradients are left as they are, for the caller to
        skip the step.

    Examples
    --------
    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], max_norm=2.5), weight.grad.round(decimals=3).tolist()
    (5.0, [1.5, 2.0])
    >>> round(clip_gradients([weight], max_norm=0), 3), weight.grad.round(decimals=3).tolist()
    (2.5, [1.5, 2.0])
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
    length = float(norm)
    if max_norm and math.isfinite(length):
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    return length


class HasParamGroups(Protocol):
    """An optimizer, as far as a schedule needs to know it.

    Examples
    --------
    >>> optimizer: HasParamGroups = build_optimizer(nn.Linear(2, 2))
    >>> len(optimizer.param_groups)
    2
    """

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups with their learning rates.

        Examples
        --------
        >>> "lr" in torch.optim.SGD([torch.zeros(1)], lr=0.5).param_groups[0]
        True
        """


@dataclass(frozen=True)
class Schedule:
    """Share of the peak learning rate at each step; it depends on the step's number alone.

    Parameters
    ----------
    kind : str
        "one_cycle" (rise and fall along half cosines), "cosine" (fall along a half cosine), "poly" (fall as a power of
        what is left), "step" (drops at milestones) or "constant".
    total_steps : int
        Steps of the whole training.
    warmup_steps : int
        Steps of a linear rise before; for "one_cycle" the length of its rise, 0: by `rise_share`.
    final_ratio : float
        Share that "one_cycle", "cosine" and "poly" fall to.
    power : float
        Of "poly".
    milestones : tuple of int
        Steps at which "step" drops.
    gamma : float
        Factor of each drop.
    rise_share : float
        Share of all steps in which "one_cycle" rises.
    initial_ratio : float
        Share that "one_cycle" starts from.

    Raises
    ------
    SettingsError
        If the kind is unknown or a number is out of range.

    References
    ----------
    Smith and Topin, 2018 (arXiv:1708.07120), with the cosines of torch.optim.lr_scheduler.OneCycleLR; momentum is not
    cycled. Loshchilov and Hutter, 2017 (arXiv:1608.03983) for "cosine", without restarts.

    Examples
    --------
    >>> schedule = Schedule("cosine", total_steps=7, warmup_steps=3)
    >>> [round(schedule.factor(step), 2) for step in range(7)]
    [0.25, 0.5, 0.75, 1.0, 0.85, 0.5, 0.15]
    """

    kind: str = "one_cycle"
    total_steps: int = 1
    warmup_steps: int = 0
    final_ratio: float = 0.0
    power: float = 0.9
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    rise_share: float = 0.3
    initial_ratio: float = 0.04

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise SettingsError(f"unknown schedule {self.kind!r}; known: {', '.join(SCHEDULES)}")
        if self.total_steps < 1:
            raise SettingsError(f"total_steps: expected at least 1, got {self.total_steps}")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise SettingsError(f"warmup_steps: expected 0 to {self.total_steps}, got {self.warmup_steps}")
        for name in ("final_ratio", "gamma", "rise_share", "initial_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.power < math.inf:
            raise SettingsError(f"power: expected a finite number above 0, got {self.power}")

    def factor(self, step: int) -> float:
        """Share of the peak learning rate for a step.

        Parameters
        ----------
        step : int
            Counted from 0; after the last one its value stays.

        Returns
        -------
        float
            From 0 to 1.

        Raises
        ------
        ValueError
            If the step is negative.

        Examples
        --------
        >>> poly = Schedule("poly", total_steps=4, power=2.0)
        >>> [poly.factor(step) for step in range(6)]
        [1.0, 0.5625, 0.25, 0.0625, 0.0625, 0.0625]
        """
        if step < 0:
            raise ValueError(f"step: expected at least 0, got {step}")
        step = min(step, self.total_steps - 1)
        if self.kind == "one_cycle":
            return self._one_cycle(step)
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))  # no step is lost at a rate of 0
        return rise * self._fall(max(step, self.warmup_steps))

    def _fall(self, step: int) -> float:
        """Share after the warm-up.

        Examples
        --------
        >>> Schedule("step", total_steps=9, milestones=(4, 6), gamma=0.5)._fall(6)
        0.25
        """
        if self.kind == "constant":
            return 1.0
        if self.kind == "step":
            return self.gamma ** sum(step >= milestone for milestone in self.milestones)
        left = 1 - (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        shape = left**self.power if self.kind == "poly" else _half_cosine(left)
        return self.final_ratio + (1 - self.final_ratio) * shape

    def _one_cycle(self, step: int) -> float:
        """Share on the way up to the peak and down again; the last step has the final share.

        Examples
        --------
        >>> schedule = Schedule("one_cycle", total_steps=5, warmup_steps=2)
        >>> [round(schedule._one_cycle(step), 2) for step in range(5)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
        """
        peak = self.warmup_steps or max(self.rise_share * self.total_steps - 1, 0.0)
        if step < peak:
            return self.initial_ratio + (1 - self.initial_ratio) * _half_cosine(step / peak)
        left = 1 - (step - peak) / max(self.total_steps - 1 - peak, 1e-9)
        return self.final_ratio + (1 - self.final_ratio) * _half_cosine(left)

    def apply(self, optimizer: HasParamGroups, step: int) -> float:
        """Set the learning rate of every group for a step.

        Parameters
        ----------
        optimizer : MuonAdamW or torch.optim.Optimizer
            Each group's peak is its `initial_lr`, or the rate that it has at the first call.
        step : int
            Counted from 0.

        Returns
        -------
        float
            The factor.

        Examples
        --------
        >>> optimizer = build_optimizer(nn.Linear(2, 2), muon_lr=0.5, adamw_lr=0.25)
        >>> Schedule("poly", total_steps=4, power=1.0).apply(optimizer, step=2)
        0.5
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.25, 0.125]
        """
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        return factor


def _half_cosine(share: float) -> float:
    """Go from 0 to 1 along half a cosine wave.

    Examples
    --------
    >>> [round(_half_cosine(share), 3) for share in (0, 0.25, 0.5, 1)]
    [0.0, 0.146, 0.5, 1.0]
    """
    return (1 - math.cos(math.pi * share)) / 2


class ExponentialMovingAverage:
    """Average of a module's weights over its training, for evaluation.

    The decay grows from 0.1 to its setting, min(decay, (1 + t) / (10 + t)) at update t, so that a short training is not
    an average with the random start.

    Parameters
    ----------
    module : Module
        Its trained parameters are averaged; its buffers (running statistics) are copied.
    decay : float
        Above 0, below 1; for 0 see `build_ema`.

    Raises
    ------
    SettingsError
        If the decay is out of range.

    Examples
    --------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = layer.weight.data.fill_(0.0)
    >>> average = ExponentialMovingAverage(layer, decay=0.5)
    >>> _ = layer.weight.data.fill_(1.0)
    >>> average.update()
    >>> with average.swap():
    ...     print(round(layer.weight.item(), 4))
    0.9
    >>> layer.weight.item()
    1.0
    """

    def __init__(self, module: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise SettingsError(f"ema_decay: expected at least 0 and less than 1, got {decay}")
        self.module = module
        self.decay = decay
        self.updates = 0
        self.averages = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        """Tensors of the module that the average follows.

        Examples
        --------
        >>> list(ExponentialMovingAverage(nn.BatchNorm1d(2, affine=False), 0.5)._tensors())
        ['running_mean', 'running_var', 'num_batches_tracked']
        """
        trained = {name: tensor for name, tensor in self.module.named_parameters() if tensor.requires_grad}
        return trained | dict(self.module.named_buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present weights into the average; to be called after each step of the optimizer.

        Examples
        --------
        >>> average = ExponentialMovingAverage(nn.Linear(1, 1), decay=0.9)
        >>> average.update()
        >>> average.updates
        1
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in self._tensors().items():
            if isinstance(tensor, nn.Parameter):
                self.averages[name].lerp_(tensor, 1 - decay)
            else:
                self.averages[name].copy_(tensor)
        self.updates += 1

    @contextmanager
    def swap(self) -> Iterator[nn.Module]:
        """Put the averaged weights into the module; at the end, also after an error, its own come back.

        Yields
        ------
        Module
            The module itself, with the averaged weights.

        Examples
        --------
        >>> layer = nn.Linear(1, 1)
        >>> average = ExponentialMovingAverage(layer, decay=0.9)
        >>> with average.swap() as averaged:
        ...     averaged is layer
        True
        """
        own = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        try:
            self._fill(self.averages)
            yield self.module
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite the module's tensors, in place.

        Examples
        --------
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> ExponentialMovingAverage(layer, decay=0.9)._fill({"weight": torch.tensor([[2.0]])})
        >>> layer.weight.item()
        2.0
        """
        for name, tensor in self._tensors().items():
            tensor.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """All state, for `save_training_state`.

        Examples
        --------
        >>> sorted(ExponentialMovingAverage(nn.Linear(1, 1), decay=0.9).state_dict())
        ['averages', 'updates']
        """
        return {"updates": self.updates, "averages": dict(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Parameters
        ----------
        state : mapping
            What `state_dict` gave; it is copied.

        Raises
        ------
        DataError
            If it is that of another module.

        Examples
        --------
        >>> average = ExponentialMovingAverage(nn.Linear(1, 1), decay=0.9)
        >>> average.load_state_dict(ExponentialMovingAverage(nn.Linear(2, 1), decay=0.9).state_dict())
        Traceback (most recent call last):
            ...
        utils.errors.DataError: the saved weight average does not fit this Linear: weight; start a new training
        """
        saved = state["averages"]
        shapes = {name: tensor.shape for name, tensor in saved.items()}
        expected = {name: tensor.shape for name, tensor in self.averages.items()}
        if shapes != expected:
            wrong = sorted(name for name in shapes | expected if shapes.get(name) != expected.get(name))
            raise DataError(
                f"the saved weight average does not fit this {type(self.module).__name__}: {', '.join(wrong[:5])}; "
                "start a new training"
            )
        self.updates = state["updates"]
        for name, average in self.averages.items():
            average.copy_(saved[name])


def build_ema(module: nn.Module, decay: float) -> ExponentialMovingAverage | None:
    """Build the average of a module's weights; None when it is switched off by a decay of 0.

    Parameters
    ----------
    module : Module
        What is trained.
    decay : float
        At least 0, below 1.

    Examples
    --------
    >>> build_ema(nn.Linear(1, 1), 0.0) is None, build_ema(nn.Linear(1, 1), 0.5).decay
    (True, 0.5)
    """
    return None if decay == 0 else ExponentialMovingAverage(module, decay)


class EarlyStopping:
    """End a training that no longer gets better.

    Parameters
    ----------
    patience : int, optional
        Evaluations without an improvement after which to stop; None: never. As long as a score was never above 0
        nothing has been found yet, and nothing is waited for: that is a slow start, not an end.
    delta : float
        An improvement is more than this. Small gains add up, as they are measured from the last improvement.
    mode : str
        "max" for scores, "min" for losses.

    Raises
    ------
    SettingsError
        If an argument is out of range.

    Examples
    --------
    >>> stopping = EarlyStopping(patience=2, delta=0.125)
    >>> [stopping.update(value) for value in (0.5, 0.5625, 0.75, float("nan"), 0.75)]
    [True, False, True, False, False]
    >>> stopping.should_stop, stopping.best
    (True, 0.75)
    >>> [stopping.update(value) for stopping in [EarlyStopping(patience=1)] for value in (0.0, 0.0, 0.0, 0.25)]
    [True, False, False, True]
    """

    def __init__(self, patience: int | None = 10, delta: float = 0.0, mode: str = "max"):
        if patience is not None and patience < 1:
            raise SettingsError(f"patience: expected at least 1 (or none, to train to the end), got {patience}")
        if not 0 <= delta < math.inf:
            raise SettingsError(f"delta: expected a finite number of at least 0, got {delta}")
        if mode not in ("max", "min"):
            raise SettingsError(f"mode: expected max or min, got {mode!r}")
        self.patience = patience
        self.delta = delta
        self.mode = mode
        self.best: float | None = None
        self.waited = 0

    def update(self, value: float) -> bool:
        """Take an evaluation into account.

        Parameters
        ----------
        value : float
            The score or loss; NaN is never an improvement.

        Returns
        -------
        bool
            Whether it is an improvement.

        Examples
        --------
        >>> stopping = EarlyStopping(mode="min")
        >>> stopping.update(0.5), stopping.update(0.25), stopping.update(0.5)
        (True, True, False)
        """
        gain = math.inf if self.best is None else (value - self.best if self.mode == "max" else self.best - value)
        improved = not math.isnan(value) and gain > self.delta
        if improved:
            self.best = float(value)
        begun = self.best is not None and (self.mode == "min" or self.best != 0)
        self.waited = 0 if improved or not begun else self.waited + 1
        return improved

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out.

        Examples
        --------
        >>> EarlyStopping(patience=1).should_stop
        False
        """
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """All state, for `save_training_state`.

        Examples
        --------
        >>> EarlyStopping().state_dict()
        {'best': None, 'waited': 0}
        """
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; the settings stay those of this run.

        Parameters
        ----------
        state : mapping
            What `state_dict` gave.

        Examples
        --------
        >>> stopping = EarlyStopping(patience=3)
        >>> stopping.load_state_dict({"best": 0.5, "waited": 3})
        >>> stopping.should_stop
        True
        """
        self.best = state["best"]
        self.waited = state["waited"]


class NonFiniteGuard:
    """Count steps that are skipped as their loss or gradient is not finite, and give up after too many in a row.

    Parameters
    ----------
    limit : int
        Steps in a row that may be skipped.

    Raises
    ------
    SettingsError
        If the limit is negative.

    Examples
    --------
    >>> guard = NonFiniteGuard(limit=2)
    >>> [guard.update(loss) for loss in (0.5, float("nan"), 0.5, float("inf"))]
    [True, False, True, False]
    >>> guard.update(0.5, gradient_norm=float("inf")), guard.in_a_row, guard.total
    (False, 2, 3)
    """

    def __init__(self, limit: int = 10):
        if limit < 0:
            raise SettingsError(f"limit: expected at least 0 steps, got {limit}")
        self.limit = limit
        self.in_a_row = 0
        self.total = 0

    def update(self, loss: float, gradient_norm: float = 0.0) -> bool:
        """Say whether a step may be made with this loss and gradient.

        Parameters
        ----------
        loss, gradient_norm : float
            Of all ranks, so that all take the same way.

        Returns
        -------
        bool
            False: leave this step out.

        Raises
        ------
        DinolithError
            After more than `limit` such steps in a row.

        Examples
        --------
        >>> NonFiniteGuard(limit=0).update(float("nan"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DinolithError: the loss was not finite 1 times in a row (1 in all); lower muon_lr and adamw_lr, ...
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.total += 1
        if self.in_a_row > self.limit:
            what = "gradient" if math.isfinite(loss) else "loss"
            raise DinolithError(
                f"the {what} was not finite {self.in_a_row} times in a row ({self.total} in all); lower muon_lr and "
                "adamw_lr, lengthen the warm-up, clip the gradients, or compute in fp32; the last checkpoint is good"
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """All state, for `save_training_state`.

        Examples
        --------
        >>> NonFiniteGuard().state_dict()
        {'in_a_row': 0, 'total': 0}
        """
        return {"in_a_row": self.in_a_row, "total": self.total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Parameters
        ----------
        state : mapping
            What `state_dict` gave.

        Examples
        --------
        >>> guard = NonFiniteGuard()
        >>> guard.load_state_dict({"in_a_row": 1, "total": 4})
        >>> guard.total
        4
        """
        self.in_a_row = state["in_a_row"]
        self.total = state["total"]
