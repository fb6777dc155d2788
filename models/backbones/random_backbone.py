"""Small backbones with seeded random weights, for tests and examples, and the folder in which a backbone is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.backbones.weights import (
    FAMILIES,
    IMAGENET,
    STATED_DIGEST,
    build_config,
    digest_export,
    digest_weights,
)
from utils.runtime.files import atomic_path, write_bytes, write_json


def write_backbone_folder(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    normalization: tuple[Sequence[float], Sequence[float]] = IMAGENET,
    card: str | None = None,
    state_digest: bool = False,
) -> Path:
    """Write a backbone in the layout of transformers, byte for byte the same for the same values.

    Parameters
    ----------
    folder : str or Path
        Made when missing.
    config : mapping
        Content of `config.json`.
    tensors : mapping of str to array
        Weights by their name.
    normalization : pair of three float
        Mean and standard deviation.
    card : str, optional
        Text of the model card.
    state_digest : bool
        Let `config.json` state the digest of all files, so that damage is found where the backbone is loaded.

    Returns
    -------
    Path
        The folder.

    Examples
    --------
    >>> import tempfile
    >>> folder = write_backbone_folder(tempfile.mkdtemp(), {"model_type": "dinov2"}, {"a": np.zeros(2, np.float16)})
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.safetensors', 'preprocessor_config.json']
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    mean, deviation = normalization
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, temporary, {"format": "pt"})
    write_json(folder / "preprocessor_config.json", {"image_mean": list(mean), "image_std": list(deviation)})
    if card is not None:
        write_bytes(folder / "README.md", card.encode())
    stated = {STATED_DIGEST: digest_export(digest_weights(folder, config), normalization)} if state_digest else {}
    write_json(folder / "config.json", {**config, **stated})  # last: a folder with it is whole
    return folder


def write_random_backbone(
    folder: str | Path,
    family: str = "dinov2",
    width: int = 8,
    depth: int = 2,
    heads: int = 2,
    patch_size: int = 4,
    seed: int = 0,
) -> Path:
    """Write a tiny backbone with seeded random weights, for tests, examples and memory benchmarks.

    Parameters
    ----------
    folder : str or Path
        Made when missing.
    family : str
        One of `FAMILIES`.
    width, depth, heads : int
        Channels, blocks and attention heads; a ConvNeXt has `width` * 1, 2, 4, 8 channels, `depth` layers in stage 2.
    patch_size : int
        Pixels per patch side; a ConvNeXt has none.
    seed : int
        Of the weights.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        For an unknown family.

    Examples
    --------
    >>> import tempfile
    >>> from models.backbone import load_backbone
    >>> folder = write_random_backbone(tempfile.mkdtemp(), "dinov2_with_registers", width=12, depth=3)
    >>> load_backbone(str(folder), [-1]).info.channels
    (12,)
    """
    settings = _random_settings(family, width, depth, heads, patch_size)
    config = build_config(Path(folder), family, settings)
    generator = np.random.default_rng(seed)
    tensors = {
        name: _random_weight(name, shape, generator) for name, shape in sorted(_list_parameters(family, config).items())
    }
    return write_backbone_folder(folder, settings, tensors)


def _random_settings(family: str, width: int, depth: int, heads: int, patch_size: int) -> dict[str, Any]:
    """Content of `config.json` for a tiny backbone.

    Raises
    ------
    ValueError
        For an unknown family.

    Examples
    --------
    >>> _random_settings("dinov3_convnext", 8, 2, 2, 4)["hidden_sizes"]
    [8, 16, 32, 64]
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(sorted(FAMILIES))}")
    settings: dict[str, Any] = {"model_type": family, "architectures": [f"{FAMILIES[family].prefix}Model"]}
    if not FAMILIES[family].is_vit:
        sizes = {"hidden_sizes": [width * 2**stage for stage in range(4)], "depths": [1, 1, depth, 1]}
        return settings | sizes | {"layer_scale_init_value": 1.0}
    settings |= {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": patch_size,
        "image_size": 4 * patch_size,
    }
    settings |= {"intermediate_size": 2 * width} if family == "dinov3_vit" else {"mlp_ratio": 2}
    return settings if family == "dinov2" else settings | {"num_register_tokens": 2}


def _list_parameters(family: str, config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights, without making them.

    Examples
    --------
    >>> config = build_config(Path("a"), "dinov2", _random_settings("dinov2", 8, 1, 2, 4))
    >>> _list_parameters("dinov2", config)["embeddings.cls_token"]
    (1, 1, 8)
    """
    import transformers

    model_class = getattr(transformers, f"{FAMILIES[family].prefix}Model")
    with torch.device("meta"):
        model = model_class(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _random_weight(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """A random weight of a size that keeps activations near one.

    Examples
    --------
    >>> _random_weight("norm.weight", (3,), np.random.default_rng(0)).dtype
    dtype('float16')
    """
    values = generator.standard_normal(shape)
    if len(shape) == 1:
        is_factor = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "lambda1", "gamma"))
        values = 0.1 * values + float(is_factor)
    elif "token" not in name and "position" not in name:
        values /= np.sqrt(np.prod(shape[1:]))
    return values.astype(np.float16)
