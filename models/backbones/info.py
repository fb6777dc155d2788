"""What a backbone is, without its weights: layout, blocks, channels, strides, normalisation and precision."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.backbones.weights import (
    EMBEDDED,
    FAMILIES,
    STATED_DIGEST,
    Triple,
    build_config,
    check_stated_digest,
    choose_family,
    digest_weights,
    find_backbone_folder,
    read_json_object,
    read_licence,
    read_normalization,
)
from utils.errors import DataError, SettingsError
from utils.runtime.reading import reads

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "bf16", "fp32")
ATTENTIONS = ("sdpa", "eager")


@dataclass(frozen=True)
class BackboneInfo:
    """What everything downstream may know about a backbone without holding its weights.

    Parameters
    ----------
    id : str
        The source as it was given: `embedded`, a folder or a Hugging Face id.
    family : str
        dinov2, dinov2_with_registers, dinov3_vit or dinov3_convnext.
    digest : str
        32 hexadecimal digits that stand for the weights and their architecture.
    licence : str
        Licence of the weights; "unknown" when neither a model card nor the table names one.
    patch_size : int
        Pictures are padded to multiples of this many pixels: the patch side of a ViT, 32 for a ConvNeXt.
    layers : tuple of int
        Chosen blocks, counted from 0, in the order asked for.
    channels, strides : tuple of int
        Of each map; a stride is image pixels per cell.
    mean, std : tuple of float
        Of red, green and blue on a scale from 0 to 1, as the weights expect.
    num_blocks : int
        Blocks (or stages) that the weights have.
    precision_in_use : str
        "bf16" or "fp32": what is computed with, after `auto` is decided.
    attention : str
        "sdpa" or "eager"; "none" for a ConvNeXt.

    Examples
    --------
    >>> from models.backbones.weights import IMAGENET
    >>> info = BackboneInfo("a", "dinov2", "0f", "unknown", 14, (3,), (8,), (14,), *IMAGENET, 4)
    >>> info.padded((30, 28)), info.feature_grid((30, 28))
    ((42, 28), [(3, 2)])
    """

    id: str
    family: str
    digest: str
    licence: str
    patch_size: int
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: Triple
    std: Triple
    num_blocks: int
    precision_in_use: str = "fp32"
    attention: str = "sdpa"

    def describe_blocks(self, precision: str) -> str:
        """Name the chosen blocks, and the backbone by its source and architecture, for the log.

        Examples
        --------
        >>> describe_backbone("embedded", [0, 2]).describe_blocks("bf16")
        'blocks 0, 2 of the embedded backbone (dinov2 of 3 blocks, patch 16, bf16)'
        """
        name = "the embedded backbone" if self.id == EMBEDDED else self.id
        blocks, what = ", ".join(map(str, self.layers)), f"{self.family} of {self.num_blocks} blocks"
        return f"blocks {blocks} of {name} ({what}, patch {self.patch_size}, {precision})"

    def padded(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Height and width after continuation to the patch grid.

        Examples
        --------
        >>> from models.backbones.weights import IMAGENET
        >>> info = BackboneInfo("a", "dinov3_convnext", "0f", "unknown", 32, (0,), (8,), (4,), *IMAGENET, 4)
        >>> info.padded((1, 64))
        (32, 64)
        """
        height, width = (-(-side // self.patch_size) * self.patch_size for side in image_size)
        return height, width

    def feature_grid(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        """Rows and columns of each map for pictures of one size.

        Parameters
        ----------
        image_size : sequence of two int
            Height and width before padding.

        Returns
        -------
        list of (int, int)
            One pair per chosen block.

        Examples
        --------
        >>> from models.backbones.weights import IMAGENET
        >>> info = BackboneInfo("a", "dinov3_convnext", "0f", "x", 32, (0, 3), (8, 64), (4, 32), *IMAGENET, 4)
        >>> info.feature_grid((40, 20))
        [(16, 8), (2, 1)]
        """
        height, width = self.padded(image_size)
        return [(height // stride, width // stride) for stride in self.strides]


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16 in hardware, so that it is faster than float32.

    Examples
    --------
    >>> has_bfloat16("meta")
    False
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        # Emulated bfloat16 (AVX512 without BF16) runs slower than float32 does, so that it does not count.
        abilities = torch.cpu.get_capabilities()
        return any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile"))
    return False


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """Decide what to compute with: "auto" is bfloat16 where the hardware has it; float16 is never an option.

    Raises
    ------
    SettingsError
        For any other word.

    Examples
    --------
    >>> resolve_precision("auto", "meta"), resolve_precision("bf16", "meta")
    ('fp32', 'bf16')
    >>> resolve_precision("fp16", "cpu")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: unknown precision 'fp16'; known: auto, bf16, fp32 (float16 overflows in DINOv3)
    """
    if precision not in PRECISIONS:
        raise SettingsError(
            f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)} (float16 overflows in DINOv3)"
        )
    if precision == "bf16" and torch.device(device).type == "cpu" and not has_bfloat16(device):
        logger.warning("precision bf16 is slow here: this processor has neither AVX512-BF16 nor AMX")
    if precision == "auto":
        return "bf16" if has_bfloat16(device) else "fp32"
    return precision


def even_blocks(count: int, num_blocks: int) -> list[int]:
    """Choose blocks (or stages) at even distances, the last one among them.

    Parameters
    ----------
    count : int
        How many; at most `num_blocks`.
    num_blocks : int
        Blocks that there are.

    Returns
    -------
    list of int
        Ascending, from 0.

    Raises
    ------
    ValueError
        If there are fewer.

    Examples
    --------
    >>> even_blocks(4, 12), even_blocks(4, 6), even_blocks(1, 6)
    ([2, 5, 8, 11], [1, 2, 4, 5], [5])
    """
    if not 1 <= count <= num_blocks:
        raise ValueError(f"expected 1 to {num_blocks} of {num_blocks} blocks, got {count}")
    return [int((index + 1) * num_blocks / count + 0.5) - 1 for index in range(count)]


def choose_blocks(layers: str | Sequence[int] | Sequence[float] | None, num_blocks: int) -> list[int]:
    """Turn what a person writes for blocks, which may be relative to their number, into indices.

    Parameters
    ----------
    layers : str, sequence of int or sequence of float, optional
        "last4" for the last four, "even4" for four at even distances, the last one among them, and all where there are
        fewer; indices, negative ones from the end; shares of the depth above 0, 1.0 being the last block. None is
        "even4".
    num_blocks : int
        Blocks that there are.

    Returns
    -------
    list of int
        In the order given; shares that mean the same block count once.

    Examples
    --------
    >>> choose_blocks("last2", 12), choose_blocks("even4", 12), choose_blocks("even4", 3), choose_blocks([-1, 0], 12)
    ([10, 11], [2, 5, 8, 11], [0, 1, 2], [-1, 0])
    >>> choose_blocks([0.25, 0.5, 1.0], 12), choose_blocks([0.5, 0.6, 1.0], 3)
    ([2, 5, 11], [1, 2])
    """
    words = "even4" if layers is None else layers
    if isinstance(words, str):
        count = min(int(words[4:]), num_blocks)
        return even_blocks(count, num_blocks) if words.startswith("even") else list(range(num_blocks))[-count:]
    shares = [layer for layer in words if isinstance(layer, float)]
    if not shares:
        return [int(layer) for layer in words]
    return list(dict.fromkeys(max(math.floor(share * num_blocks + 0.5), 1) - 1 for share in shares))


def resolve_layers(layers: Sequence[int], num_blocks: int) -> tuple[int, ...]:
    """Turn block indices, some of them perhaps from the end, into indices from 0.

    Parameters
    ----------
    layers : sequence of int
        In any order, without repeats.
    num_blocks : int
        Blocks that there are.

    Returns
    -------
    tuple of int
        In the order given.

    Raises
    ------
    SettingsError
        When there is none, one that does not exist, or one twice.

    Examples
    --------
    >>> resolve_layers([-1, 3], 12)
    (11, 3)
    >>> resolve_layers([12], 12)
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: layers: block 12 does not exist; there are 12 blocks, 0 to 11 (or -12 to -1)
    """
    resolved = tuple(index + num_blocks if index < 0 else index for index in layers)
    if not resolved:
        raise SettingsError(f"layers: expected at least one block index; there are {num_blocks} blocks")
    for given, index in zip(layers, resolved, strict=True):
        if not 0 <= index < num_blocks:
            raise SettingsError(
                f"layers: block {given} does not exist; there are {num_blocks} blocks, "
                f"0 to {num_blocks - 1} (or {-num_blocks} to -1)"
            )
        if resolved.count(index) > 1:
            raise SettingsError(f"layers: block {index} is named twice in {list(layers)}; name each block once")
    return resolved


def _describe_geometry(folder: Path, family: str, config: Any) -> tuple[int, list[int], list[int]]:
    """Patch size, and channels and stride of every block, from a transformers configuration.

    Raises
    ------
    DataError
        When patches are not square or pictures not of three colours.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> _describe_geometry(Path("a"), "dinov3_convnext", SimpleNamespace(num_channels=3, hidden_sizes=[8, 16, 32, 64]))
    (32, [8, 16, 32, 64], [4, 8, 16, 32])
    """
    if config.num_channels != 3:
        raise DataError(f"{folder}: the backbone takes {config.num_channels} channels; expected one of 3 colours")
    if not FAMILIES[family].is_vit:
        strides = [4 * 2**stage for stage in range(len(config.hidden_sizes))]
        return strides[-1], list(config.hidden_sizes), strides
    sides = config.patch_size if isinstance(config.patch_size, list | tuple) else (config.patch_size,)
    if len(set(sides)) != 1:
        raise DataError(f"{folder}: patches of {tuple(sides)} pixels; expected square ones")
    return sides[0], [config.hidden_size] * config.num_hidden_layers, [sides[0]] * config.num_hidden_layers


MOST_BLOCKS, MOST_OF_A_SIZE = 1000, 100_000  # of a backbone; the largest have 40 blocks of 24,576 values


@reads("a backbone", "fetch the folder again, or name another")
def describe_backbone(
    source: str,
    layers: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    attention: str = "sdpa",
) -> BackboneInfo:
    """Say what `load_backbone` would load, checked as far as that goes without building the model.

    Parameters
    ----------
    source, layers, device, precision, attention
        As in `load_backbone`.

    Returns
    -------
    BackboneInfo
        What keys, plans and checkpoints need.

    Raises
    ------
    DataError
        When weights are gated, missing, cut off, pickled or of an unknown architecture.
    SettingsError
        When layers, device, precision or attention cannot be had.

    Examples
    --------
    >>> info = describe_backbone("embedded", [-1, 0])
    >>> info.layers, info.strides, info.padded((100, 16))
    ((2, 0), (16, 16), (112, 16))
    """
    if attention not in ATTENTIONS:
        raise SettingsError(f"unknown attention {attention!r}; known: {', '.join(ATTENTIONS)}")
    folder = find_backbone_folder(source)
    settings = read_json_object(folder / "config.json")
    for key, value in settings.items():
        most = MOST_BLOCKS if key == "num_hidden_layers" else MOST_OF_A_SIZE
        if isinstance(value, int) and value > most:  # building it would fill the memory, or never end
            raise DataError(f"{folder}: {key} of config.json is {value}, expected at most {most}; fetch it again")
    family = choose_family(folder, settings)
    config = build_config(folder, family, settings)
    patch_size, channels, strides = _describe_geometry(folder, family, config)
    chosen = resolve_layers(layers, len(channels))
    mean, std = read_normalization(source, folder, settings)
    check_stated_digest(folder, settings.get(STATED_DIGEST), (mean, std))
    return BackboneInfo(
        id=source,
        family=family,
        digest=digest_weights(folder),
        licence=read_licence(source, folder),
        patch_size=patch_size,
        layers=chosen,
        channels=tuple(channels[index] for index in chosen),
        strides=tuple(strides[index] for index in chosen),
        mean=mean,
        std=std,
        num_blocks=len(channels),
        precision_in_use=resolve_precision(precision, _check_device(device)),
        attention=attention if FAMILIES[family].is_vit else "none",
    )


def _check_device(device: torch.device | str) -> torch.device:
    """A device that exists here.

    Raises
    ------
    SettingsError
        When torch does not know it or this machine does not have it.

    Examples
    --------
    >>> _check_device("cpu")
    device(type='cpu')
    >>> _check_device("gpu")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: unknown device 'gpu'; known: cpu, cuda, cuda:1, mps and the like
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise SettingsError(f"unknown device {device!r}; known: cpu, cuda, cuda:1, mps and the like") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"device {str(device)!r}: torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return found
