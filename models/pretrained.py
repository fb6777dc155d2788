"""Starting a head from the weights of a detector that was trained elsewhere, as far as they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.backbones.weights import find_weights_folder, read_json_object, read_weights
from models.set_prediction import SetHead
from utils.errors import DataError

NAMES_SHOWN = 8


def find_pretrained(source: str) -> Path:
    """Find the folder that `model.init` names.

    Raises
    ------
    DataError
        If there is none, or the hub does not give the files; the message says what to do.

    Examples
    --------
    >>> find_pretrained("/no/such/folder")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: model.init: '/no/such/folder': no such folder; give a folder with ... or a Hugging Face id
    """
    return find_weights_folder(source, f"model.init: {source!r}")


def start_from(head: SetHead, folder: Path) -> list[str]:
    """Copy the tensors of a detector of transformers whose names and shapes are those of a head.

    Parameters
    ----------
    head : SetHead
        Freshly initialised; what finds no match stays so.
    folder : Path
        With `model.safetensors` (or shards) and, if possible, `config.json`.

    Returns
    -------
    list of str
        Lines for the log: how much was taken, and what starts anew and why.

    Raises
    ------
    DataError
        If the files are of another kind of detector, pickles or damaged, or nothing in them fits.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> from models.base import FeatureSpec
    >>> from models.detr import DetrHead, DetrOptions
    >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> head = DetrHead(spec, 2, DetrOptions(width=16, encoder_layers=0, decoder_layers=1, feedforward=32))
    >>> folder = Path(tempfile.mkdtemp())
    >>> there = {"model.decoder.layernorm.bias": torch.ones(16), "class_labels_classifier.bias": torch.ones(92)}
    >>> save_file(there, folder / "model.safetensors")
    >>> [line.split(",")[0] for line in start_from(head, folder)]
    ['1 of 39 tensors of the head are taken from there', 'these start anew: class_labels_classifier.bias (92 there']
    >>> head.decoder.layernorm.bias[:2].tolist()
    [1.0, 1.0]
    """
    check_kind(head, folder)
    there = rename(head, read_weights(folder))
    here = {name: parameter for name, parameter in head.named_parameters() if parameter.requires_grad}
    fitting = [name for name, parameter in here.items() if name in there and there[name].shape == parameter.shape]
    if not fitting:
        found, wanted = (", ".join(sorted(names)[:3]) or "none" for names in (there, here))
        raise DataError(
            f"model.init: {folder}: none of its {len(there)} tensors fits the head {type(head).__name__}: it has "
            f"{found}, ..., the head {wanted}, ...; give other weights, or the width and layers that these have"
        )
    broken = [name for name in fitting if not torch.isfinite(there[name]).all()]
    if broken:
        raise DataError(f"model.init: {folder}: {broken[0]} holds NaN or infinity; take another copy")
    with torch.no_grad():
        for name in fitting:
            here[name].copy_(there[name])
    taken, whole = (sum(here[name].numel() for name in names) for names in (fitting, here))
    lines = [f"{len(fitting)} of {len(here)} tensors of the head are taken from there, {taken} of {whole} weights"]
    left = sorted(set(here) - set(fitting), key=lambda name: (name not in there, name))  # other shapes first
    fresh = [f"{name} ({why_fresh(name, here, there)})" for name in left]
    more = f" and {len(fresh) - NAMES_SHOWN} more" if len(fresh) > NAMES_SHOWN else ""
    return lines + ([f"these start anew: {', '.join(fresh[:NAMES_SHOWN])}{more}"] if fresh else [])


def check_kind(head: SetHead | type[SetHead], folder: Path) -> None:
    """Raise a DataError unless a folder holds, as far as it says, the detector that a head starts from.

    Examples
    --------
    >>> import tempfile
    >>> from models.detr import DetrHead
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "config.json").write_text('{"model_type": "deformable_detr"}')
    >>> check_kind(DetrHead, folder)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: model.init: ...: is of the kind 'deformable_detr', but the head starts from 'detr'; ...
    """
    stated = read_json_object(folder / "config.json").get("model_type") if (folder / "config.json").is_file() else None
    if stated not in (None, head.starts_from):
        raise DataError(
            f"model.init: {folder}: is of the kind {stated!r}, but the head starts from {head.starts_from!r}; "
            "tensors of one name mean other things there"
        )


def rename(head: SetHead | type[SetHead], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a detector under the names that they have in a head, without those that a head does not take over.

    Examples
    --------
    >>> from models.detr import DetrHead
    >>> names = "model.decoder.layers.0.encoder_attn.out_proj.bias", "model.encoder.layers.1.fc2.bias"
    >>> list(rename(DetrHead, {name: torch.zeros(1) for name in names}))
    ['decoder.layers.0.encoder_attn.o_proj.bias', 'encoder.layers.1.mlp.fc2.bias']
    """
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in head.renamed:
            name = re.sub(pattern, replacement, name)
        if name.startswith(head.takes_over):
            renamed[name] = tensor
    return renamed


def why_fresh(name: str, here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> str:
    """Say why a tensor of a head is not taken.

    Examples
    --------
    >>> why_fresh("a", {"a": torch.zeros(300, 8)}, {"a": torch.zeros(100, 8)}), why_fresh("a", {}, {})
    ('100 x 8 there, 300 x 8 here', 'not there')
    """
    if name not in there:
        return "not there"
    shapes = (" x ".join(map(str, tensors[name].shape)) for tensors in (there, here))
    return "{} there, {} here".format(*shapes)
