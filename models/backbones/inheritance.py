"""Weights of a large transformer as the beginning of a small one: some of its blocks, and all that stands around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbone import Backbone
from models.backbones.info import BackboneInfo, resolve_layers
from models.backbones.weights import FAMILIES
from utils.errors import SettingsError

PATCHES = "patch_embeddings"  # part of the name of the kernel that embeds patches
POSITIONS = "position_embeddings"


def inherit_weights(student: Backbone, teacher: Backbone, blocks: Sequence[int]) -> None:
    """Give each block of a student the weights of a block of its teacher, and take over what stands around them.

    The kernel of the patches and the grid of learnt positions are brought to the student's sizes; all else must have
    the teacher's.

    Parameters
    ----------
    student, teacher : Backbone
        Of one layout.
    blocks : sequence of int
        A block of the teacher for each of the student's, negative from the end.

    Raises
    ------
    SettingsError
        If the teacher lacks a block, or weights that the student has, or has them in another size.

    References
    ----------
    Taking every k-th block of a teacher: Sanh et al., 2019 (arXiv:1910.01108).

    Examples
    --------
    >>> import tempfile
    >>> from models.backbone import load_backbone
    >>> from models.backbones.random_backbone import write_random_backbone
    >>> teacher, student = (
    ...     load_backbone(str(write_random_backbone(tempfile.mkdtemp(), depth=depth, seed=depth)), [-1])
    ...     for depth in (3, 2)
    ... )
    >>> inherit_weights(student, teacher, [0, 2])
    >>> torch.equal(student.blocks[1].norm1.weight, teacher.blocks[2].norm1.weight)
    True
    >>> inherit_weights(student, teacher, [0, 3])
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.inherit: layers: block 3 does not exist; there are 3 blocks, ...
    """
    chosen = choose_blocks(student, teacher.info, teacher.model.config, blocks)
    theirs = teacher.model.state_dict()
    with torch.no_grad():
        for name, own in student.model.named_parameters():
            own.copy_(_fit(name, _find(theirs, _teachers_name(name, student.info.family, chosen)), own))


def choose_blocks(student: Backbone, teacher: BackboneInfo, config: Any, blocks: Sequence[int]) -> list[int]:
    """Number the blocks of a teacher that a student inherits, from 0; needs no weights.

    Parameters
    ----------
    student : Backbone
        Of the student.
    teacher : BackboneInfo
        Its blocks up to the last that is learnt are there.
    config : configuration of transformers
        Of the teacher.
    blocks : sequence of int
        A block of the teacher for each of the student's, negative from the end.

    Raises
    ------
    SettingsError
        If the teacher is of another layout or shape, or a block is not there.

    Examples
    --------
    >>> import tempfile
    >>> from models.backbone import load_backbone
    >>> from models.backbones.random_backbone import write_random_backbone
    >>> plain, rotary = (
    ...     load_backbone(str(write_random_backbone(tempfile.mkdtemp(), family)), [-1])
    ...     for family in ("dinov2", "dinov3_vit")
    ... )
    >>> choose_blocks(plain, plain.info, plain.model.config, [-1])
    [1]
    >>> choose_blocks(plain, rotary.info, rotary.model.config, [-1])
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.inherit: the teacher is a dinov3_vit, the student a dinov2; take ...
    """
    family = student.info.family
    if family != teacher.family.removesuffix("_with_registers"):  # whose registers a student without them leaves
        raise SettingsError(
            f"model.head_options.inherit: the teacher is a {teacher.family}, the student a {family}; take a student of "
            "its layout (model.head), or leave inherit out"
        )
    for (name, own), theirs in zip(_shape(student.model.config).items(), _shape(config).values(), strict=True):
        if own != theirs:
            raise SettingsError(
                f"model.head_options.{name}: {own}, but the teacher, whose weights `inherit` takes, has {theirs}"
            )
    try:
        chosen = [resolve_layers([block], teacher.num_blocks)[0] for block in blocks]
    except SettingsError as error:
        raise SettingsError(f"model.head_options.inherit: {error}") from None
    last = max(teacher.layers)  # what lies behind is not loaded
    if max(chosen) > last:
        raise SettingsError(
            f"model.head_options.inherit: block {max(chosen)} of the teacher lies behind block {last}, the last that "
            "is learnt; name it in model.layers, or inherit earlier ones"
        )
    return chosen


def _shape(config: Any) -> dict[str, Any]:
    """What two transformers must have in common, by the names of a student's options.

    Examples
    --------
    >>> from transformers import Dinov2Config
    >>> _shape(Dinov2Config(hidden_size=384, num_attention_heads=6))
    {'width': 384, 'heads': 6, 'mlp_ratio': 4.0}
    """
    width = config.hidden_size
    hidden = getattr(config, "intermediate_size", None) or int(width * config.mlp_ratio)
    return {"width": width, "heads": config.num_attention_heads, "mlp_ratio": hidden / width}


def _teachers_name(name: str, family: str, blocks: Sequence[int]) -> str:
    """Name a weight of the student as its teacher does.

    Examples
    --------
    >>> _teachers_name("encoder.layer.1.norm1.weight", "dinov2", [0, 8]), _teachers_name("layernorm.bias", "dinov2", [])
    ('encoder.layer.8.norm1.weight', 'layernorm.bias')
    """
    prefix = f"{FAMILIES[family].blocks}."
    if not name.startswith(prefix):
        return name
    index, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{blocks[int(index)]}.{rest}"


def _find(weights: Mapping[str, Tensor], name: str) -> Tensor:
    """Look up a weight of the teacher.

    Raises
    ------
    SettingsError
        When the teacher has no such weight.

    Examples
    --------
    >>> _find({}, "norm.weight")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.inherit: the teacher has no norm.weight; its blocks are built ...
    """
    if name not in weights:
        raise SettingsError(
            f"model.head_options.inherit: the teacher has no {name}; its blocks are built otherwise, leave inherit out"
        )
    return weights[name].float()


def _fit(name: str, theirs: Tensor, own: Tensor) -> Tensor:
    """Bring a weight of the teacher to the size of the student's.

    Raises
    ------
    SettingsError
        When the sizes differ.

    Examples
    --------
    >>> _fit("norm.weight", torch.ones(8), torch.ones(4))
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.inherit: norm.weight has the shape (8,) in the teacher and (4,) ...
    """
    if theirs.shape != own.shape and theirs.shape[:1] == own.shape[:1]:
        if PATCHES in name and theirs.shape[1] == own.shape[1]:
            return resample_patches(theirs, own.shape[-1])
        if POSITIONS in name and theirs.shape[2] == own.shape[2]:
            return resample_positions(theirs, own.shape[1] - 1)
    if theirs.shape != own.shape:
        raise SettingsError(
            f"model.head_options.inherit: {name} has the shape {tuple(theirs.shape)} in the teacher and "
            f"{tuple(own.shape)} in the student; give width, mlp_ratio and registers of the teacher"
        )
    return theirs


def resample_patches(kernel: Tensor, side: int) -> Tensor:
    """Bring the kernel of patches to patches of another size.

    Not as a picture is resized: the new kernel gives for a patch that was enlarged bilinearly what the old one gives
    for the patch itself (in the sense of least squares where patches become smaller).

    Parameters
    ----------
    kernel : Tensor, shape (D, 3, p, p)
        Of the old patches.
    side : int
        Side of the new patches in pixels.

    Returns
    -------
    Tensor, shape (D, 3, side, side)
        Of the new ones.

    References
    ----------
    Beyer et al., 2023 (arXiv:2212.08013), section 3.4.

    Examples
    --------
    >>> kernel, patch = torch.randn(2, 3, 4, 4), torch.randn(1, 3, 4, 4)
    >>> larger = F.interpolate(patch, size=(6, 6), mode="bilinear")
    >>> before, after = (kernel * patch).sum((1, 2, 3)), (resample_patches(kernel, 6) * larger).sum((1, 2, 3))
    >>> torch.allclose(before, after, atol=1e-4)
    True
    """
    old = kernel.shape[-1]
    units = torch.eye(old**2, dtype=torch.float64).view(-1, 1, old, old)
    resized = F.interpolate(units, size=(side, side), mode="bilinear", align_corners=False).flatten(1)
    back = torch.linalg.pinv(resized).to(kernel)  # (side^2, old^2)
    return (kernel.flatten(2) @ back.T).unflatten(2, (side, side))


def resample_positions(positions: Tensor, count: int) -> Tensor:
    """Bring learnt positions to another square grid; that of CLS, which stands first, stays.

    Parameters
    ----------
    positions : Tensor, shape (1, 1 + n^2, D)
        Of CLS and the old grid.
    count : int
        Cells of the new grid, a square.

    Returns
    -------
    Tensor, shape (1, 1 + count, D)
        Of CLS and the new grid.

    Examples
    --------
    >>> resample_positions(torch.tensor([[[9.0], [0.0], [4.0], [0.0], [4.0]]]), 1).flatten().tolist()
    [9.0, 2.0]
    """
    old, new = round((positions.shape[1] - 1) ** 0.5), round(count**0.5)
    grid = positions[:, 1:].unflatten(1, (old, old)).movedim(-1, 1)
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:, :1], resized.movedim(1, -1).flatten(1, 2)], dim=1)
