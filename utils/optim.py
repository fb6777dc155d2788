"""Muon with AdamW as one optimizer, which parameters each of them updates, and gradient clipping.

Schedules, averaged weights and early stopping are in `utils.training`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from utils.errors import DataError, SettingsError
from utils.training.stopping import EarlyStopping

__all__ = ["EarlyStopping", "MuonAdamW", "clip_gradients", "find_kernels", "split_parameters"]

OPTIMIZERS = ("adamw", "muon")
ADAMW_BETAS = (0.9, 0.95)


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
        parameters = dict(child.named_parameters(recurse=False))
        for attribute, blocks, transposed in _kernel_layouts(child):
            if attribute in parameters:
                layouts[id(parameters[attribute])] = (blocks, transposed)
    return {
        name: HiddenMatrix(name, parameter, *layouts[id(parameter)])
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and id(parameter) in layouts
    }


def _kernel_layouts(layer: nn.Module) -> list[tuple[str, int, bool]]:
    """List a layer's kernels: attribute, blocks along the first axis, whether that axis counts inputs.

    Examples
    --------
    >>> _kernel_layouts(nn.ConvTranspose2d(4, 2, 2, groups=2)), _kernel_layouts(nn.LayerNorm(4))
    ([('weight', 2, True)], [])
    """
    if isinstance(layer, nn.Linear):
        return [("weight", 1, False)]
    if isinstance(layer, _ConvNd):
        return [("weight", layer.groups, layer.transposed)]
    if isinstance(layer, nn.MultiheadAttention):  # its output projection is a separate linear layer
        separate = [(f"{part}_proj_weight", 1, False) for part in "qkv"]
        return [("in_proj_weight", 3, False), *separate]
    return []


def split_parameters(module: nn.Module) -> tuple[list[HiddenMatrix], dict[str, nn.Parameter]]:
    """Divide the trained parameters between Muon and AdamW; each gets exactly one of them.

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
        kernel
        for kernel in find_kernels(module).values()
        if id(kernel.parameter) not in outer
        and min(len(kernel.parameter) // kernel.blocks, kernel.parameter.shape[1]) > 1  # else no matrix: depthwise
    ]
    taken = {kernel.name for kernel in hidden}
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return hidden, {name: parameter for name, parameter in trained.items() if name not in taken}


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

    `torch.optim.Muon` takes matrices only. It is given slots, which at every step point at the kernels' values and
    gradients as matrices (views of the same memory; values are copied only where the memory layout allows no view). Its
    step is scaled by sqrt(max(1, rows / columns)).

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
        Decoupled, per step and unit of learning rate; applied to kernels only, not to norms, biases, embeddings and
        queries.

    Raises
    ------
    SettingsError
        If the kind is unknown.
    ValueError
        If nothing is trained, a declared first or last layer does not exist, or torch refuses a number.

    References
    ----------
    Jordan et al., 2024 (kellerjordan.github.io/posts/muon); Loshchilov and Hutter, 2019 (arXiv:1711.05101).

    Examples
    --------
    >>> optimizer = MuonAdamW(nn.Linear(2, 2), muon_lr=0.5, adamw_lr=0.25)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.5, 0.25]
    >>> list(MuonAdamW(nn.Linear(2, 2), kind="adamw").rest)
    ['weight', 'bias']
    >>> MuonAdamW(nn.Linear(2, 2), kind="sgd")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: unknown optimizer 'sgd'; known: adamw, muon
    """

    def __init__(
        self,
        module: nn.Module,
        kind: str = "muon",
        *,
        muon_lr: float = 0.02,
        adamw_lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ):
        if kind not in OPTIMIZERS:
            raise SettingsError(f"unknown optimizer {kind!r}; known: {', '.join(OPTIMIZERS)}")
        self.hidden, self.rest = split_parameters(module)
        if kind == "adamw":
            self.hidden = []
            self.rest = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        if not self.hidden and not self.rest:
            raise ValueError("there is no trained parameter to optimise")
        self._slots = [kernel.matrices(kernel.parameter) for kernel in self.hidden]
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._names: dict[str, list[str]] = {}  # of the parameters of each, in the order of its state
        if self.hidden:
            slots = [slot for slots in self._slots for slot in slots]
            self._names["muon"] = [kernel.name for kernel in self.hidden]
            self._optimizers["muon"] = torch.optim.Muon(
                slots, lr=muon_lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="original"
            )
        if self.rest:
            groups = _decay_groups(self.rest, find_kernels(module), weight_decay)
            self._names["adamw"] = list(self.rest)
            self._optimizers["adamw"] = torch.optim.AdamW(groups, lr=adamw_lr, betas=ADAMW_BETAS)
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]  # what a schedule's factor applies to

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both optimizers, as schedules want them.

        Examples
        --------
        >>> [len(group["params"]) for group in MuonAdamW(nn.Linear(2, 2), kind="adamw").param_groups]
        [1, 1]
        """
        return [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]

    @property
    def rates(self) -> dict[str, float]:
        """Present learning rate of each optimizer.

        Examples
        --------
        >>> MuonAdamW(nn.Linear(2, 2), muon_lr=0.5, adamw_lr=0.25).rates
        {'muon': 0.5, 'adamw': 0.25}
        """
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in self._optimizers.items()}

    def step(self) -> None:
        """Move all parameters that have a gradient.

        Examples
        --------
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> optimizer = MuonAdamW(layer, muon_lr=1.0, weight_decay=0.0)
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

    def zero_grad(self) -> None:
        """Free the gradients of all parameters, Muon's and AdamW's.

        Examples
        --------
        >>> layer = nn.Linear(2, 2)
        >>> optimizer = MuonAdamW(layer)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.zero_grad()
        >>> layer.weight.grad, layer.bias.grad
        (None, None)
        """
        slots = (slot for slots in self._slots for slot in slots)
        for parameter in (*slots, *(kernel.parameter for kernel in self.hidden), *self.rest.values()):
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """All state, for `save_training_state`.

        Returns
        -------
        dict
            State of each optimizer, and the names that it belongs to.

        Examples
        --------
        >>> sorted(MuonAdamW(nn.Linear(2, 2)).state_dict())
        ['adamw', 'muon', 'names']
        """
        states = {kind: optimizer.state_dict() for kind, optimizer in self._optimizers.items()}
        return {"names": self._names, **states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state, learning rates included, of an optimizer of the same parameters.

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
        >>> optimizer = MuonAdamW(nn.Linear(2, 2))
        >>> optimizer.load_state_dict(MuonAdamW(nn.Linear(2, 2), kind="adamw").state_dict())
        Traceback (most recent call last):
            ...
        utils.errors.DataError: the saved state of the optimizer is that of other parameters or of another optimizer: \
muon expected weight, got nothing; start a new training
        """
        expected, got = self._names, state.get("names", {})
        for kind in (*expected, *got):
            wanted, found = (", ".join(names.get(kind, ())) or "nothing" for names in (expected, got))
            if wanted != found:
                raise DataError(
                    "the saved state of the optimizer is that of other parameters or of another optimizer: "
                    f"{kind} expected {wanted}, got {found}; start a new training"
                )
        for kind, optimizer in self._optimizers.items():
            optimizer.load_state_dict(copy.deepcopy(state[kind]))  # torch would share the tensors' memory


def _fill_slots(kernel: HiddenMatrix, slots: Sequence[Tensor]) -> None:
    """Point slots at a kernel's present values and gradient.

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
    """Group parameters into those with weight decay and those without; no group is empty.

    Examples
    --------
    >>> layer = nn.Linear(2, 3)
    >>> groups = _decay_groups(dict(layer.named_parameters()), ["weight"], 0.5)
    >>> [(tuple(group["params"][0].shape), group["weight_decay"]) for group in groups]
    [((3, 2), 0.5), ((3,), 0.0)]
    """
    with_decay = [parameter for name, parameter in parameters.items() if name in decayed]
    without = [parameter for name, parameter in parameters.items() if name not in decayed]
    groups = [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


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
