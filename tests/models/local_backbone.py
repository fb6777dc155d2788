"""A backbone that sees what lies around a patch and nothing else: where a map must not show how it was cut.

A trained transformer looks at its whole window, so that a moved window changes its map a little, whatever is done when
windows are put together. This one, a DINOv3 ViT whose weights were never trained, is without that: what still moves is
a fault of the tiling. Each of its parts is drawn from a seed around a structure that keeps what a patch looks like
readable and adds what lies around it.

- Patch embedding: the lowest two-dimensional cosines of brightness and of two colour differences, an orthonormal basis
  brought to about equal variance for natural pictures (whose amplitude falls with frequency: Field, 1987) and turned by
  a random rotation, so that colour and texture stay linearly readable and no channel dominates.
- Attention: constant queries and keys let the rotary positions alone decide, which makes a smooth window around each
  patch; every head has another width.
- Values, outputs and hidden layers are random rotations; branches are scaled so that context mixes into a patch without
  drowning it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.backbones.random_backbone import write_backbone_folder

SEED = 7
PATCH_SIZE = 16
WIDTH = 128
DEPTH = 6
HEADS = 4
HIDDEN = 256
REGISTERS = 4
WAVES = (72, 27, 27)  # cosines of brightness and of two colour differences; with the two marks they fill the width
MARKS = 2  # one direction that all patches share and one that CLS and registers share
ROPE_THETA = 0.1  # below one: frequencies rise from 1 to 7.5 turns per half picture, for windows of a few patches
WINDOW_BANDS = (8, 5, 3, 2)  # per head: how many of the frequencies shape its window; fewer make it wider
WINDOW_SHARPNESS = 12.0  # logit of a patch with itself
ATTENTION_SCALE = 0.35  # of what attention adds to a patch
MLP_SCALE = 0.5
MLP_GAIN = 3.0  # of the hidden layer's input, well into the bend of GELU
PATCH_MARK_SIZE = 8.0  # a constant part that keeps the norms from blowing up flat patches
PREFIX_SIZE = 8.0
REGISTER_SPREAD = 0.1

CONFIG = {
    "architectures": ["DINOv3ViTModel"],
    "model_type": "dinov3_vit",
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "num_register_tokens": REGISTERS,
    "patch_size": PATCH_SIZE,
    "image_size": 512,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-05,
    "key_bias": True,
    "query_bias": True,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
    "rope_theta": ROPE_THETA,
    "layerscale_value": 1.0,
    "attention_dropout": 0.0,
    "drop_path_rate": 0.0,
}


def draw_rotation(generator: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A random matrix with orthonormal rows or columns, whichever are fewer.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    rows, columns : int
        Shape.

    Returns
    -------
    array, shape (rows, columns)
        float64.

    References
    ----------
    Saxe et al., 2014 (arXiv:1312.6120).

    Examples
    --------
    >>> rotation = draw_rotation(np.random.default_rng(0), 2, 5)
    >>> bool(np.allclose(rotation @ rotation.T, np.eye(2)))
    True
    """
    normal = generator.standard_normal((max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(normal)
    basis = basis * np.sign(np.diag(triangle))  # the same factor whatever sign a LAPACK prefers
    return basis if rows >= columns else basis.T


def list_waves(count: int, side: int) -> list[tuple[int, int]]:
    """The lowest vertical and horizontal frequencies of a patch, from the mean on.

    Parameters
    ----------
    count : int
        How many.
    side : int
        Pixels per patch side.

    Returns
    -------
    list of (int, int)
        Half periods per patch, vertical and horizontal.

    Examples
    --------
    >>> list_waves(4, 16)
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    pairs = [(v, h) for v in range(side) for h in range(side)]
    return sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:count]


def draw_cosine(wave: tuple[int, int], side: int) -> np.ndarray:
    """One function of the orthonormal two-dimensional cosine transform.

    Parameters
    ----------
    wave : (int, int)
        Half periods per patch, vertical and horizontal.
    side : int
        Pixels per patch side.

    Returns
    -------
    array, shape (side, side)
        Of length one.

    References
    ----------
    Ahmed, Natarajan and Rao, 1974: Discrete cosine transform.

    Examples
    --------
    >>> draw_cosine((0, 0), 4)[0, 0].item(), round(float(np.sum(draw_cosine((1, 2), 4) ** 2)), 9)
    (0.25, 1.0)
    """
    positions = (np.arange(side) + 0.5) / side
    vertical, horizontal = (np.cos(np.pi * frequency * positions) for frequency in wave)
    cosine = np.outer(vertical, horizontal)
    return cosine / np.linalg.norm(cosine)


def build_patch_filters() -> np.ndarray:
    """Filters of brightness and two colour differences, scaled to about equal variance on natural pictures.

    Returns
    -------
    array, shape (126, 3, PATCH_SIZE, PATCH_SIZE)
        Orthogonal to each other.

    Examples
    --------
    >>> filters = build_patch_filters().reshape(126, -1)
    >>> bool(np.allclose(filters @ filters.T, np.diag(np.sum(filters**2, axis=1))))
    True
    """
    colours = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    filters = []
    for colour, count, gain in zip(colours, WAVES, (1, 4, 4), strict=True):  # colours vary less than brightness
        for wave in list_waves(count, PATCH_SIZE):
            whitening = gain * np.hypot(1, np.hypot(*wave)) / PATCH_SIZE
            filters.append(whitening * np.einsum("c,yx->cyx", colour, draw_cosine(wave, PATCH_SIZE)))
    return np.stack(filters)


def build_window_key() -> np.ndarray:
    """The constant query and key that let rotary positions make a window of each head's own width.

    The product of two constants of size a, turned by angles that differ by w, is a^2 cos(w): highest for the patch
    itself. The first half of a head's channels holds the cosine parts, vertical frequencies before horizontal ones.

    Returns
    -------
    array, shape (WIDTH,)
        Head after head.

    References
    ----------
    Su et al., 2021 (arXiv:2104.09864), with constants in place of content.

    Examples
    --------
    >>> [int(np.count_nonzero(head)) for head in build_window_key().reshape(HEADS, -1)]
    [16, 10, 6, 4]
    """
    channels = WIDTH // HEADS
    frequencies = channels // 4
    key = np.zeros((HEADS, channels))
    for head, bands in enumerate(WINDOW_BANDS):
        size = np.sqrt(WINDOW_SHARPNESS * np.sqrt(channels) / (2 * bands))
        key[head, :bands] = key[head, frequencies : frequencies + bands] = size
    return key.reshape(-1)


def build_block(
    generator: np.random.Generator, window_key: np.ndarray, prefix_mark: np.ndarray
) -> dict[str, np.ndarray]:
    """Weights of one transformer block, by their name within the block.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    window_key : array, shape (WIDTH,)
        From `build_window_key`.
    prefix_mark : array, shape (WIDTH,)
        Direction of the tokens before the patches. Their key is the window key taken away, for they have no place.

    Returns
    -------
    dict of str to array
        float64.

    Examples
    --------
    >>> block = build_block(np.random.default_rng(0), np.ones(WIDTH), np.eye(WIDTH)[0])
    >>> sorted(block)[:3], block["mlp.up_proj.weight"].shape
    (['attention.k_proj.bias', 'attention.k_proj.weight', 'attention.o_proj.bias'], (256, 128))
    """
    ones, zeros = np.ones(WIDTH), np.zeros(WIDTH)
    return {
        "norm1.weight": ones,
        "norm1.bias": zeros,
        "attention.q_proj.weight": np.zeros((WIDTH, WIDTH)),
        "attention.q_proj.bias": window_key,
        "attention.k_proj.weight": -np.outer(window_key, prefix_mark) / np.sqrt(WIDTH),
        "attention.k_proj.bias": window_key,
        "attention.v_proj.weight": draw_rotation(generator, WIDTH, WIDTH),
        "attention.v_proj.bias": zeros,
        "attention.o_proj.weight": draw_rotation(generator, WIDTH, WIDTH),
        "attention.o_proj.bias": zeros,
        "layer_scale1.lambda1": np.full(WIDTH, ATTENTION_SCALE),
        "norm2.weight": ones,
        "norm2.bias": zeros,
        "mlp.up_proj.weight": draw_rotation(generator, HIDDEN, WIDTH) * MLP_GAIN,
        "mlp.up_proj.bias": np.zeros(HIDDEN),
        "mlp.down_proj.weight": draw_rotation(generator, WIDTH, HIDDEN),
        "mlp.down_proj.bias": zeros,
        "layer_scale2.lambda1": np.full(WIDTH, MLP_SCALE),
    }


def build_weights(seed: int = SEED) -> dict[str, np.ndarray]:
    """All weights, by their name in transformers.

    Parameters
    ----------
    seed : int
        Of numpy's PCG64 generator.

    Returns
    -------
    dict of str to array
        float16, for what is computed in float64 and then rounded is the same on every machine.

    Examples
    --------
    >>> weights = build_weights()
    >>> sum(weight.nbytes for weight in weights.values()) < 2_000_000
    True
    """
    generator = np.random.default_rng(seed)
    rotation = draw_rotation(generator, WIDTH, WIDTH)
    patch_mark, prefix_mark = rotation[:, -2], rotation[:, -1]
    filters = np.einsum("wf,fcyx->wcyx", rotation[:, :-MARKS], build_patch_filters())
    registers = REGISTER_SPREAD * generator.standard_normal((1, REGISTERS, WIDTH))
    weights = {
        "embeddings.cls_token": PREFIX_SIZE * prefix_mark.reshape(1, 1, WIDTH),
        "embeddings.mask_token": np.zeros((1, 1, WIDTH)),
        "embeddings.register_tokens": PREFIX_SIZE * prefix_mark + registers,
        "embeddings.patch_embeddings.weight": filters,
        "embeddings.patch_embeddings.bias": PATCH_MARK_SIZE * patch_mark,
        "norm.weight": np.ones(WIDTH),
        "norm.bias": np.zeros(WIDTH),
    }
    for index in range(DEPTH):
        block = build_block(generator, build_window_key(), prefix_mark)
        weights |= {f"layer.{index}.{name}": weight for name, weight in block.items()}
    return {name: weight.astype(np.float16) for name, weight in weights.items()}


def write_local_backbone(folder: str | Path, seed: int = SEED) -> Path:
    """Write the backbone: configuration, weights and preprocessor file.

    Parameters
    ----------
    folder : str or Path
        Made when missing.
    seed : int
        Of the weights.

    Returns
    -------
    Path
        The folder, which `model.backbone` accepts.

    Examples
    --------
    >>> import tempfile
    >>> sorted(path.name for path in write_local_backbone(tempfile.mkdtemp()).iterdir())
    ['config.json', 'model.safetensors', 'preprocessor_config.json']
    """
    return write_backbone_folder(folder, CONFIG, build_weights(seed))
