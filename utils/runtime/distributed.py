"""Ranks: every use of torch.distributed, behind functions that are right in a single process too.

The rules that keep ranks from waiting for each other forever: every rank calls the same collectives in the same order,
also with an empty share; what only rank 0 does goes through `run_on_main`, whose errors reach all ranks. A loss is
divided once by the count of all ranks, and its gradients are shared by DistributedDataParallel (`wrap_in_ddp`): the
result is what one process computes from all the items.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import DataError, DinolithError, Interrupted, LockedError, SettingsError
from utils.runtime import lost_ranks

Item = TypeVar("Item")

LAUNCH_HINT = "start it with: torchrun --nproc_per_node=NUMBER_OF_RANKS main.py CONFIG"
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ARRAY, TENSOR = "\0array", "\0tensor"  # stand in the JSON text for an array or tensor that lies behind it
ERROR_FAMILIES = (SettingsError, DataError, LockedError)


def start_ranks(
    setting: str | bool = "auto",
    backend: str | None = None,
    device: str | torch.device = "cpu",
    timeout_s: float = 7200.0,
) -> torch.device:
    """Join the other ranks, when there are any.

    Parameters
    ----------
    setting : "auto", True or False
        Setting `resources.distributed`. "auto" follows the environment that torchrun makes.
    backend : str, optional
        "nccl" or "gloo"; by default nccl on CUDA devices and gloo elsewhere.
    device : str or torch.device
        Kind of device that the ranks compute on. "cuda" without an index becomes the GPU of the local rank.
    timeout_s : float
        Seconds that a rank waits in a collective before it gives the others up. Long, because all ranks wait while
        rank 0 works alone.

    Returns
    -------
    torch.device
        The device of this rank.

    Raises
    ------
    SettingsError
        If the setting does not fit the way of starting, or the backend does not fit the device.

    Examples
    --------
    >>> start_ranks("auto", device="cpu"), world_size()
    (device(type='cpu'), 1)
    >>> start_ranks(True)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: resources.distributed: true, but ... start it with: torchrun --nproc_per_node=...
    """
    device = torch.device(device)
    if not _wants_ranks(setting, "RANK" in os.environ and "WORLD_SIZE" in os.environ):
        return device
    _check_launcher_environment()
    backend = _choose_backend(backend, device)
    device = _device_of_rank(device, int(os.environ.get("LOCAL_RANK", "0")), shared=backend != "nccl")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not is_active():
        # torchrun keeps the store in its own process, so that ranks can be looked after while they still start
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            lost_ranks.watch_ranks(joined=False)
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        lost_ranks.watch_ranks(joined=True)
    return device


def stop_ranks() -> None:
    """Leave the other ranks; does nothing in a single process.

    Examples
    --------
    >>> stop_ranks()
    >>> world_size()
    1
    """
    if lost_ranks.is_any_lost():
        return  # to leave a group in order takes all of its ranks
    lost_ranks.stop_watching()
    if is_active():
        dist.destroy_process_group()


def _wants_ranks(setting: str | bool, launched: bool) -> bool:
    """Decide whether to join other ranks.

    Raises
    ------
    SettingsError
        When the setting is unknown, or contradicts how the process was started.

    Examples
    --------
    >>> _wants_ranks("auto", launched=True), _wants_ranks("auto", launched=False), _wants_ranks(False, launched=False)
    (True, False, False)
    >>> _wants_ranks(False, launched=True)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: resources.distributed: false, but torchrun has started several ranks...
    """
    if setting not in ("auto", True, False):
        raise SettingsError(f"resources.distributed: expected auto, true or false, got {setting!r}")
    if setting is True and not launched:
        problem = "true, but this is a single process without torchrun's environment"
        raise SettingsError(f"resources.distributed: {problem}; {LAUNCH_HINT}")
    if setting is False and launched:
        problem = "false, but torchrun has started several ranks, which would all do the same work"
        raise SettingsError(f"resources.distributed: {problem}; set it to auto or true, or start without torchrun")
    return launched


def _check_launcher_environment() -> None:
    """Refuse half an environment, such as one that a cluster's scheduler leaves.

    Raises
    ------
    SettingsError
        When a variable is missing or no whole number.

    Examples
    --------
    >>> from unittest.mock import patch
    >>> with patch.dict(os.environ, {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, clear=True):
    ...     _check_launcher_environment()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: resources.distributed: the environment has RANK and WORLD_SIZE but no MASTER_ADDR...
    """
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if missing:
        problem = f"the environment has RANK and WORLD_SIZE but no {', '.join(missing)}"
        raise SettingsError(f"resources.distributed: {problem}; {LAUNCH_HINT}")
    for name in ("RANK", "WORLD_SIZE"):
        if not os.environ[name].isdecimal():
            raise SettingsError(
                f"resources.distributed: {name} in the environment is {os.environ[name]!r}, expected a whole number; "
                + LAUNCH_HINT
            )


def _choose_backend(backend: str | None, device: torch.device) -> str:
    """Find a backend that carries tensors of the device, or say why the wanted one does not.

    Raises
    ------
    SettingsError
        When the backend is unknown, is not built in, or does not carry tensors of the device.

    Examples
    --------
    >>> _choose_backend(None, torch.device("cpu"))
    'gloo'
    >>> _choose_backend("nccl", torch.device("cpu"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: resources.dist_backend: nccl carries ... CUDA devices only, ...; set it to gloo
    """
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    if backend not in ("nccl", "gloo"):
        raise SettingsError(f"resources.dist_backend: unknown backend {backend!r}; known: gloo, nccl")
    if backend == "nccl" and device.type != "cuda":
        problem = f"nccl carries tensors of CUDA devices only, and the device is {device}"
        raise SettingsError(f"resources.dist_backend: {problem}; set it to gloo")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "resources.dist_backend: the device is cuda, but no CUDA device can be used here; set the device to cpu "
            "and the backend to gloo"
        )
    if backend == "nccl" and not dist.is_nccl_available():
        raise SettingsError("resources.dist_backend: this build of torch has no nccl; set it to gloo")
    return backend


def _device_of_rank(device: torch.device, local_rank: int, shared: bool) -> torch.device:
    """Give each rank of a machine its own GPU; with gloo, ranks may share one.

    Raises
    ------
    SettingsError
        When there are more ranks than GPUs and the backend cannot share them.

    Examples
    --------
    >>> _device_of_rank(torch.device("cpu"), 3, shared=True), _device_of_rank(torch.device("cuda:2"), 0, shared=True)
    (device(type='cpu'), device(type='cuda', index=2))
    """
    if device.type != "cuda" or device.index is not None:
        return device
    count = torch.cuda.device_count()
    if local_rank >= count and not shared:
        raise SettingsError(
            f"resources.distributed: local rank {local_rank} has no GPU of its own, this machine has {count}; start at "
            f"most {count} ranks per machine, or set resources.dist_backend to gloo"
        )
    return torch.device("cuda", local_rank % max(count, 1))


def is_active() -> bool:
    """Whether this process has joined other ranks (it may be the only one).

    Examples
    --------
    >>> is_active()
    False
    """
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Count the ranks; 1 in a single process.

    Examples
    --------
    >>> world_size()
    1
    """
    return dist.get_world_size() if is_active() else 1


def rank() -> int:
    """Index of this process among the ranks; 0 in a single process.

    Examples
    --------
    >>> rank()
    0
    """
    return dist.get_rank() if is_active() else 0


def is_main() -> bool:
    """Whether this process is the one that logs, decides and writes shared files.

    Examples
    --------
    >>> is_main()
    True
    """
    return rank() == 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """Give this rank its items, every world_size-th; no item goes to two ranks, and a share may be empty.

    Parameters
    ----------
    items : sequence
        The same on all ranks.

    Returns
    -------
    sequence
        All items in a single process.

    Examples
    --------
    >>> share(["a", "b", "c"])
    ['a', 'b', 'c']
    """
    return items[rank() :: world_size()]


def barrier() -> None:
    """Wait until all ranks have come here.

    Examples
    --------
    >>> barrier() is None
    True
    """
    sum_over_ranks(torch.zeros(1))


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all ranks; a copy of it in a single process.

    Parameters
    ----------
    values : Tensor
        Numbers, of the same shape and type on all ranks. Gradients do not flow: see `differentiable_sum_over_ranks`.

    Returns
    -------
    Tensor
        The sum, equal on all ranks.

    Examples
    --------
    >>> sum_over_ranks(torch.tensor([1, 2])).tolist()
    [1, 2]
    """
    values = values.detach()
    if world_size() == 1:
        return values.clone()
    device = f"cuda:{torch.cuda.current_device()}" if dist.get_backend() == "nccl" else "cpu"
    total = values.to(device, copy=True).contiguous()
    dist.all_reduce(total)
    return total.to(values.device)


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose backward pass is an all-reduce too.

    What every rank reads from the sum depends on every rank's input, so an input's gradient is the sum of the gradients
    that all ranks have found for the sum.

    Examples
    --------
    >>> _SumOverRanks.apply(torch.tensor([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Sum the values.

        Examples
        --------
        >>> _SumOverRanks.forward(None, torch.tensor([3])).tolist()
        [3]
        """
        return sum_over_ranks(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Sum the gradients.

        Examples
        --------
        >>> _SumOverRanks.backward(None, torch.tensor([3])).tolist()
        [3]
        """
        return sum_over_ranks(gradients[0])


def differentiable_sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all ranks so that gradients flow to all of them, as batch statistics need.

    Parameters
    ----------
    values : Tensor
        Of the same shape and type on all ranks. All ranks must run the backward pass, too.

    Returns
    -------
    Tensor
        The sum, equal on all ranks; `values` itself in a single process.

    Examples
    --------
    >>> values = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> (differentiable_sum_over_ranks(values) * 3).sum().backward()
    >>> values.grad.tolist()
    [3.0, 3.0]
    """
    return values if world_size() == 1 else _SumOverRanks.apply(values)


def wrap_in_ddp(module: nn.Module) -> nn.Module:
    """Let all ranks share the gradients of a module; the module itself in a single process.

    DistributedDataParallel averages gradients over ranks, so a loss that is to be summed is multiplied by
    `world_size()` before its backward pass. With `find_unused_parameters` a rank with an empty share may leave
    parameters unused; besides, buckets are then never rebuilt, so that a resumed training adds up in the same order as
    an unbroken one. Buffers are not broadcast, as each rank computes the same ones.

    The wrapper has a process group of its own: its collectives start as gradients become ready, which may be before or
    after those that a module has in its own backward pass (`differentiable_sum_over_ranks`).

    Parameters
    ----------
    module : Module
        With at least one trained parameter; all ranks call this together and then hold rank 0's weights.

    Returns
    -------
    Module
        What to call in training; `module` keeps the weights.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> wrap_in_ddp(layer) is layer
    True
    """
    if world_size() == 1:
        return module
    # strides: of depthwise kernels, harmless; broadcast_buffers: older versions of torch do not know its new name
    warnings.filterwarnings("ignore", message="Grad strides do not match|`broadcast_buffers` is deprecated")
    return DistributedDataParallel(
        module, process_group=dist.new_group(), find_unused_parameters=True, broadcast_buffers=False
    )


def share_gradients(module: nn.Module, now: bool) -> AbstractContextManager:
    """Decide whether the backward pass of a module from `wrap_in_ddp` shares its gradients; forward goes inside, too.

    Parameters
    ----------
    module : Module
        What `wrap_in_ddp` returned.
    now : bool
        False only accumulates on this rank: all micro-batches of a step but the last.

    Examples
    --------
    >>> with share_gradients(nn.Linear(2, 2), now=False):
    ...     print("accumulates")
    accumulates
    """
    return nullcontext() if now or not isinstance(module, DistributedDataParallel) else module.no_sync()


def broadcast_object(value: Any = None) -> Any:
    """Give all ranks the value of rank 0.

    Parameters
    ----------
    value : JSON value
        Numbers (NaN and infinities too), text, None, lists and dictionaries with text keys. Ignored on other ranks.

    Returns
    -------
    JSON value
        Rank 0's value after JSON (tuples become lists), on rank 0 and in a single process too: ranks cannot differ.

    Raises
    ------
    TypeError
        On all ranks, if rank 0's value has no JSON form.

    Examples
    --------
    >>> broadcast_object({"best": (0.5, float("inf"))})
    {'best': [0.5, inf]}
    >>> broadcast_object({1: "road"})
    Traceback (most recent call last):
        ...
    TypeError: values that travel between ranks need text keys, got key 1 (int)
    """
    return _decode(_broadcast_bytes(_encode(value) if is_main() else b""))


def gather_objects(value: Any) -> list[Any]:
    """Give all ranks the values of all ranks.

    Parameters
    ----------
    value : JSON value, ndarray, Tensor, or a list or dictionary of them
        As `broadcast_object` takes, and arrays and tensors, which travel as bytes; may differ in size between ranks.

    Returns
    -------
    list
        One value per rank, in the order of the ranks; tensors are on the CPU.

    Raises
    ------
    TypeError
        On all ranks, if the value of any of them has another form.

    Examples
    --------
    >>> gather_objects({"seconds": 1.5, "counts": np.arange(3)})
    [{'seconds': 1.5, 'counts': array([0, 1, 2])}]
    """
    return [_decode(data) for data in _gather_bytes(_encode(value))]


def run_on_main(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Let rank 0 alone call a function; all ranks get its result, or its error.

    Parameters
    ----------
    function : callable
        What to do once.
    *arguments, **options
        What it is called with.

    Returns
    -------
    JSON value
        The function's result, as `broadcast_object` gives it.

    Raises
    ------
    BaseException
        On rank 0 the function's own error; on other ranks one of the same family (settings, data, lock, interruption,
        other) with the same message, so that no rank waits for one that has failed.

    Examples
    --------
    >>> run_on_main(sorted, (3, 1, 2), reverse=True)
    [3, 2, 1]
    """
    if not is_main():
        return _decode(_broadcast_bytes(b""))
    try:
        encoded = _encode(function(*arguments, **options))
    except BaseException as error:  # the others must hear of an interruption too, or they wait for this rank
        _broadcast_bytes(_encode_error(error))
        raise
    return _decode(_broadcast_bytes(encoded))


def run_on_all(function: Callable[[], Any]) -> list[Any]:
    """Let each rank do its share; all get the results of all ranks, or an error when any of them failed.

    Parameters
    ----------
    function : callable
        The share of this rank; it takes part in no collective.

    Returns
    -------
    list
        One result per rank, in the order of the ranks, as `gather_objects` gives them.

    Raises
    ------
    BaseException
        On a rank that failed its own error; on the others, once they are done, the first of those, as from
        `run_on_main`.

    Examples
    --------
    >>> run_on_all(lambda: rank() + 1)
    [1]
    """
    try:
        encoded = _encode(function())
    except BaseException as error:  # the others must hear of it, or they wait for this rank
        _gather_bytes(_encode_error(error))
        raise
    return [_decode(data) for data in _gather_bytes(encoded)]


def _encode(value: Any) -> bytes:
    r"""Encode a value as a line of JSON, and arrays and tensors in it as safetensors behind that line.

    A value of another form becomes an error that is raised where it is decoded.

    Examples
    --------
    >>> _encode([1, None])
    b'{"value": [1, null]}'
    >>> _encode(np.zeros(1, np.uint8)).partition(b"\n")[0], len(_encode(np.zeros(10**6, np.uint8))) < 1.001e6
    (b'{"value": {"\\u0000array": "0"}}', True)
    >>> _encode({"a": object})[:22]
    b'{"error": {"family": "'
    """
    tensors: dict[str, Tensor] = {}

    def take_out(part: Any) -> dict[str, str]:
        if not isinstance(part, np.ndarray | Tensor):
            raise TypeError(f"a value of type {type(part).__name__} cannot travel between ranks")
        tensor = torch.from_numpy(part) if isinstance(part, np.ndarray) else part.detach().cpu()
        name = str(len(tensors))
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        return {ARRAY if isinstance(part, np.ndarray) else TENSOR: name}

    try:
        _check_keys(value)
        text = json.dumps({"value": value}, default=take_out).encode()
        return text + b"\n" + save(tensors) if tensors else text
    except (TypeError, ValueError) as error:  # ValueError: a value that contains itself
        return _encode_error(TypeError(str(error)))


def _check_keys(value: Any) -> None:
    """Refuse keys that JSON would silently turn into text.

    Raises
    ------
    TypeError
        When a key is no text.

    Examples
    --------
    >>> _check_keys([{"a": {None: 1}}])
    Traceback (most recent call last):
        ...
    TypeError: values that travel between ranks need text keys, got key None (NoneType)
    """
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                kind = type(key).__name__
                raise TypeError(f"values that travel between ranks need text keys, got key {key!r} ({kind})")
    if isinstance(value, dict | list | tuple):
        for child in value.values() if isinstance(value, dict) else value:
            _check_keys(child)


def _encode_error(error: BaseException) -> bytes:
    """Encode an error by its family and message.

    Examples
    --------
    >>> _encode_error(DataError("scene.tif: truncated"))
    b'{"error": {"family": "DataError", "message": "scene.tif: truncated", "signum": null}}'
    """
    family = next((kind.__name__ for kind in (*ERROR_FAMILIES, TypeError) if isinstance(error, kind)), "")
    signum = error.exit_code - 128 if isinstance(error, Interrupted) else None
    message = str(error) if isinstance(error, DinolithError | TypeError) else f"{type(error).__name__}: {error}"
    return json.dumps({"error": {"family": family, "message": message, "signum": signum}}).encode()


def _decode(data: bytes) -> Any:
    """Decode a value, or raise the error that came in its place.

    Examples
    --------
    >>> _decode(_encode([torch.ones(2), None]))
    [tensor([1., 1.]), None]
    >>> _decode(b'{"value": NaN}')
    nan
    >>> _decode(_encode_error(ZeroDivisionError("division by zero")))
    Traceback (most recent call last):
        ...
    utils.errors.DinolithError: another rank failed: ZeroDivisionError: division by zero
    """
    text, _, packed = data.partition(b"\n")
    tensors = load(packed) if packed else {}

    def put_back(part: dict[str, Any]) -> Any:
        if part.keys() == {TENSOR}:
            return tensors[part[TENSOR]]
        return tensors[part[ARRAY]].numpy() if part.keys() == {ARRAY} else part

    envelope = json.loads(text, object_hook=put_back)
    if "error" not in envelope:
        return envelope["value"]
    error = envelope["error"]
    families: dict[str, type[Exception]] = {kind.__name__: kind for kind in (*ERROR_FAMILIES, TypeError)}
    found: Any = DinolithError(f"another rank failed: {error['message']}")
    if error["signum"] is not None:
        found = Interrupted(error["signum"])
    elif error["family"] in families:
        found = families[error["family"]](*error["message"].splitlines())
    found.told = True  # where it was raised first; once is enough
    raise found


def _broadcast_bytes(data: bytes) -> bytes:
    """Give all ranks the bytes of rank 0.

    Examples
    --------
    >>> _broadcast_bytes(b"ab")
    b'ab'
    """
    parcel = [data]
    if world_size() > 1:
        dist.broadcast_object_list(parcel, src=0)
    return parcel[0]


def _gather_bytes(data: bytes) -> list[bytes]:
    """Give all ranks the bytes of all ranks, in the order of the ranks.

    Examples
    --------
    >>> _gather_bytes(b"ab")
    [b'ab']
    """
    gathered = [data] * world_size()
    if world_size() > 1:
        dist.all_gather_object(gathered, data)
    return gathered
