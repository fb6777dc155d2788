"""Starting a module from the weights of another one, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from utils.errors import DataError

NAMES_SHOWN = 5


def init_from(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    classes_from: Sequence[str] | None = None,
    classes_to: Sequence[str] | None = None,
    coarser: Mapping[str, str] | None = None,
) -> list[str]:
    """Start a module from another one's tensors, as far as they fit.

    Rows that belong to a class are copied by the class's name. They are looked for in the layers that the module
    declares as `output_layers` (in all its layers, when no part of it declares any), where the first axis is as long as
    the classes, or by one longer ("no object", the last row).

    Parameters
    ----------
    module : Module
        Freshly initialised; what finds no match stays so.
    tensors : mapping of Tensor
        The other module's `state_dict`.
    classes_from, classes_to : sequence of str, optional
        Class names of the other module and of this one, in the order of their rows.
    coarser : mapping of str to str, optional
        Class of the other module from whose row a class begins that has no namesake there.

    Returns
    -------
    list of str
        What stays freshly initialised: names of tensors, and of classes in them.

    Raises
    ------
    DataError
        If no tensor matches at all.

    Examples
    --------
    >>> import torch
    >>> head = nn.Linear(2, 3)
    >>> source = {"weight": torch.tensor([[1.0, 1.0], [2.0, 2.0]]), "bias": torch.tensor([3.0, 4.0])}
    >>> init_from(head, source, ["road", "water"], ["water", "road", "house"])
    ['weight (house)', 'bias (house)']
    >>> head.bias[:2].tolist()
    [4.0, 3.0]
    >>> init_from(head, source, ["road", "water"], ["lake", "river", "road"], {"lake": "water", "river": "water"})
    []
    >>> head.bias.tolist()
    [4.0, 4.0, 3.0]
    """
    state = module.state_dict()
    classes = None
    if classes_from is not None and classes_to is not None:
        classes = classes_from, classes_to, {label: label for label in classes_from} | dict(coarser or {})
    outputs = output_tensors(module)
    fresh = [
        _copy_matching(name, tensor, tensors.get(name), classes if name in outputs else None)
        for name, tensor in state.items()
    ]
    if state and fresh == list(state):
        raise DataError(
            f"nothing to start from: no tensor of this {type(module).__name__} matches; it has "
            f"{_list_names('', list(state)).strip()}, the other has {_list_names('', list(tensors)).strip() or 'none'}"
        )
    return [name for name in fresh if name]


def output_tensors(module: nn.Module) -> set[str]:
    """Names of the tensors in declared output layers; of all tensors when nothing is declared.

    Examples
    --------
    >>> head = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> head.output_layers = ("1",)
    >>> sorted(output_tensors(head))
    ['1.bias', '1.weight']
    """
    prefixes = [
        f"{part}.{declared}" if part else declared
        for part, child in module.named_modules()
        for declared in getattr(child, "output_layers", ())
    ]
    names = set(module.state_dict())
    return {name for name in names if any(name == p or name.startswith(p + ".") for p in prefixes)} or names


def _copy_matching(
    name: str,
    target: Tensor,
    source: Tensor | None,
    classes: tuple[Sequence[str], Sequence[str], Mapping[str, str]] | None,
) -> str:
    """Copy what matches into a tensor, row by row between the classes of both; name what stays as it was, or "".

    Examples
    --------
    >>> import torch
    >>> [_copy_matching("a", torch.zeros(2), torch.ones(length), None) for length in (3, 2)]
    ['a', '']
    >>> _copy_matching("a", torch.zeros(2), torch.ones(1), (["road"], ["road", "water"], {"road": "road"}))
    'a (water)'
    """
    if source is None:
        return name
    pairs = None if classes is None else _pair_rows(source, target, *classes)
    if classes is None or pairs is None:
        if source.shape != target.shape:
            return name
        target.copy_(source)
        return ""
    for row_from, row_to in pairs:
        target[row_to].copy_(source[row_from])
    copied = {row_to for _, row_to in pairs}
    fresh = [label for row, label in enumerate(classes[1]) if row not in copied]
    if not fresh:
        return ""
    return f"{name} ({', '.join(fresh)})" if copied else name


def _pair_rows(
    source: Tensor,
    target: Tensor,
    classes_from: Sequence[str],
    classes_to: Sequence[str],
    beginnings: Mapping[str, str],
) -> list[tuple[int, int]] | None:
    """Pair the rows of each class and of the one it begins from.

    None where the tensors do not have a row per class, and at most one after them.

    Examples
    --------
    >>> import torch
    >>> begin = {"road": "road", "lake": "water"}
    >>> _pair_rows(torch.zeros(3), torch.zeros(3), ["road", "water"], ["lake", "road"], begin)  # "no object" is last
    [(1, 0), (0, 1), (2, 2)]
    >>> _pair_rows(torch.zeros(1), torch.zeros(3), ["road"], ["lake", "road"], begin) is None
    True
    """
    if not source.ndim or not target.ndim or source.shape[1:] != target.shape[1:]:
        return None
    extra = len(source) - len(classes_from)
    if extra not in (0, 1) or extra != len(target) - len(classes_to):
        return None
    pairs = [
        (list(classes_from).index(beginnings[label]), row)
        for row, label in enumerate(classes_to)
        if label in beginnings
    ]
    return pairs + [(len(classes_from), len(classes_to))] * extra


def _list_names(label: str, names: Sequence[str]) -> str:
    """Put a label before the first few names; nothing where there is no name.

    Examples
    --------
    >>> _list_names("missing", list("abcdefg")), _list_names("missing", [])
    ('missing a, b, c, d, e and 2 more', '')
    """
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{label} {', '.join(names[:NAMES_SHOWN])}{more}" if names else ""
