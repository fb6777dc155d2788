"""Frozen DINO backbones: pictures in, feature maps of the chosen blocks out.

What is the same for every backbone, and tested:

- Block index i counts from 0 (negative from the end) and means `hidden_states[i + 1]` of transformers. The blocks of a
  ConvNeXt are its stages, with strides 4, 8, 16 and 32.
- A ViT's final norm is applied to every chosen block. A ConvNeXt's final norm fits its last stage only, so that stages
  0, 1 and 2 come as they are and stage 3 comes normed, as in the authors' `get_intermediate_layers`.
- CLS and register tokens are dropped. The patch size is what the model's configuration says.
- A picture of any size is continued at its bottom and right by reflection up to the patch grid; maps cover that grid.
- Weights stay float32, bfloat16 appears only as autocast, and maps are float32.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from utils.errors import DataError, SettingsError
from utils.files import atomic_path, write_bytes, write_json

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SAT493M: tuple[Triple, Triple] = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
NORMALIZATIONS = {"sat493m": SAT493M, "lvd1689m": IMAGENET, "dinov2": IMAGENET}  # part of a weight id -> mean, std
LICENCES = {"facebook/dinov3": "dinov3-license", "facebook/dinov2": "apache-2.0"}  # beginning of a weight id -> licence
PRECISIONS = ("auto", "bf16", "fp32")
ATTENTIONS = ("sdpa", "eager")
# Fields of config.json that do not change what the weights compute, so that they do not change the digest either.
PASSIVE_FIELDS = frozenset(
    (
        *("_name_or_path", "architectures", "dtype", "id2label", "initializer_range", "label2id", "problem_type"),
        *("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names", "use_cache"),
        *("torch_dtype", "transformers_version"),
    )
)
HUB_FILES = (
    "config.json",
    "preprocessor_config.json",
    "README.md",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)


@dataclass(frozen=True)
class Family:
    """Where the parts of one architecture lie in transformers.

    Parameters
    ----------
    prefix : str
        What the names of its classes begin with.
    blocks : str
        Dotted path from the model to the list of blocks (or stages).
    norm : str
        Name of the final norm.
    is_vit : bool
        Whether blocks pass tokens on; else they are stages that pass maps on.

    Examples
    --------
    >>> FAMILIES["dinov2"].claims("Dinov2ForImageClassification"), FAMILIES["dinov2"].claims("Dinov2WithRegistersModel")
    (True, False)
    """

    prefix: str
    blocks: str
    norm: str
    is_vit: bool = True

    def claims(self, class_name: str) -> bool:
        """Whether a class name of transformers belongs to this family.

        Examples
        --------
        >>> FAMILIES["dinov3_vit"].claims("DINOv3ConvNextModel")
        False
        """
        return re.fullmatch(rf"{self.prefix}(Model|Backbone|For\w+)", class_name) is not None


FAMILIES = {
    "dinov2": Family("Dinov2", "encoder.layer", "layernorm"),
    "dinov2_with_registers": Family("Dinov2WithRegisters", "encoder.layer", "layernorm"),
    "dinov3_vit": Family("DINOv3ViT", "model.layer", "norm"),
    "dinov3_convnext": Family("DINOv3ConvNext", "model.stages", "layer_norm", is_vit=False),
}


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

    def padded(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Height and width after continuation to the patch grid.

        Examples
        --------
        >>> info = BackboneInfo("a", "dinov3_convnext", "0f", "unknown", 32, (0,), (8,), (4,), *IMAGENET, 4)
        >>> info.padded((1, 64))
        (32, 64)
        """
        height, width = image_size
        return _next_multiple(height, self.patch_size), _next_multiple(width, self.patch_size)

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
        >>> info = BackboneInfo("a", "dinov3_convnext", "0f", "x", 32, (0, 3), (8, 64), (4, 32), *IMAGENET, 4)
        >>> info.feature_grid((40, 20))
        [(16, 8), (2, 1)]
        """
        height, width = self.padded(image_size)
        return [(height // stride, width // stride) for stride in self.strides]


def _next_multiple(length: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `length`.

    Examples
    --------
    >>> _next_multiple(15, 14), _next_multiple(28, 14)
    (28, 28)
    """
    return -(-length // step) * step


# ----------------------------------------------------------------------------------------------- where the weights lie


def find_backbone_folder(source: str, local_files_only: bool = False) -> Path:
    """Find the folder that holds a backbone's files; the hub is asked only for an id that the cache does not hold.

    Parameters
    ----------
    source : str
        `embedded`, a folder, or a Hugging Face id such as `facebook/dinov2-small`.
    local_files_only : bool
        Never ask the hub. Under several ranks rank 0 comes first without this and fills the cache; the others follow,
        after a barrier, with it.

    Returns
    -------
    Path
        A folder with `config.json` and safetensors.

    Raises
    ------
    DataError
        When there is no such folder, or the hub does not give the files; the message says what to do.

    Examples
    --------
    >>> find_backbone_folder("embedded").name
    'embedded'
    >>> find_backbone_folder("/no/such/folder")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: backbone '/no/such/folder': no such folder; give a folder with ... or 'embedded'
    """
    if source == EMBEDDED:
        return EMBEDDED_FOLDER
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return folder
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) is None or folder.exists():
        raise DataError(
            f"backbone {source!r}: no such folder; give a folder with config.json and model.safetensors, "
            f"a Hugging Face id, or '{EMBEDDED}'"
        )
    return _find_in_cache(source) or _fetch_from_hub(source, local_files_only)


def _find_in_cache(repository: str) -> Path | None:
    """The snapshot of a repository in the Hugging Face cache, when it has all files that are needed.

    Examples
    --------
    >>> _find_in_cache("nobody/no-such-repository") is None
    True
    """
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    weights = _list_weight_files(folder)
    return folder if weights and all(path.is_file() for path in weights) else None


def _fetch_from_hub(repository: str, local_files_only: bool) -> Path:
    """Fetch a repository's configuration, weights and model card into the Hugging Face cache.

    Raises
    ------
    DataError
        When the repository is gated, missing or out of reach.

    Examples
    --------
    >>> _fetch_from_hub("nobody/no-such-repository", local_files_only=True)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: backbone 'nobody/no-such-repository': neither a folder nor in the Hugging Face cache ...
    """
    from huggingface_hub import errors, snapshot_download

    if not local_files_only:
        logger.info("fetching %s from the Hugging Face hub", repository)
    try:
        with _bars_in_terminals_only():
            return Path(
                snapshot_download(repository, allow_patterns=list(HUB_FILES), local_files_only=local_files_only)
            )
    except errors.GatedRepoError as error:
        raise DataError(
            f"backbone {repository!r}: access is gated; accept the licence at https://huggingface.co/{repository}, "
            "then set HF_TOKEN to a token of that account, or give a folder that holds the weights"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"backbone {repository!r}: neither a folder here nor a repository that the hub shows; check the spelling, "
            "or set HF_TOKEN if it is private"
        ) from error
    except (OSError, ValueError, errors.HTTPError) as error:
        raise DataError(
            f"backbone {repository!r}: neither a folder nor in the Hugging Face cache (HF_HOME), and the hub was not "
            f"reached ({_first_line(error)}); connect, unset HF_HUB_OFFLINE, or give a folder that holds the weights"
        ) from error


@contextmanager
def _bars_in_terminals_only() -> Iterator[None]:
    """Let the hub draw progress bars where a person sees them, and not into a log.

    Examples
    --------
    >>> from huggingface_hub.utils import are_progress_bars_disabled
    >>> before = are_progress_bars_disabled()
    >>> with _bars_in_terminals_only():
    ...     pass
    >>> are_progress_bars_disabled() == before
    True
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    is_free = constants.HF_HUB_DISABLE_PROGRESS_BARS is None  # the user's own word, either way, comes first
    hide = is_free and not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def _first_line(error: Exception) -> str:
    r"""What an error says first, without its stack of advice.

    Examples
    --------
    >>> _first_line(ValueError("no route to host\nPlease check"))
    'ValueError: no route to host'
    """
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def _list_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, one or the shards that its index names; empty when there are none.

    Examples
    --------
    >>> [path.name for path in _list_weight_files(EMBEDDED_FOLDER)]
    ['model.safetensors']
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(_read_json(index).get("weight_map", {}).values()))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def _require_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, or an error that says what is wrong with it.

    Raises
    ------
    DataError
        When there are none, only pickled ones, or a shard is missing.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "pytorch_model.bin").touch()
    >>> _require_weight_files(folder)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...: only pickled weights (pytorch_model.bin), which could run code when read; ...
    """
    paths = _list_weight_files(folder)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{folder}: shards that model.safetensors.index.json names are missing: {', '.join(missing)}")
    if paths:
        return paths
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise DataError(
            f"{folder}: only pickled weights ({pickled[0]}), which could run code when read; save them as "
            "model.safetensors (save_pretrained does)"
        )
    raise DataError(f"{folder}: expected model.safetensors (or shards with an index), found none")


# ------------------------------------------------------------------------------------------- what the files beside say


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or say which file is not one.

    Raises
    ------
    DataError
        When the file is missing, is not JSON or not an object.

    Examples
    --------
    >>> _read_json(EMBEDDED_FOLDER / "config.json")["model_type"]
    'dinov3_vit'
    """
    if not path.is_file():
        raise DataError(f"{path.parent}: expected {path.name}, found none; is this a folder of a DINO model?")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); fetch the file again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _choose_family(folder: Path, config: Mapping[str, Any]) -> str:
    """The architecture that a configuration names.

    Raises
    ------
    DataError
        When it is not a known one, or `model_type` and `architectures` contradict each other.

    Examples
    --------
    >>> _choose_family(Path("a"), {"model_type": "dinov2", "architectures": ["Dinov2Model"]})
    'dinov2'
    >>> _choose_family(Path("a"), {"model_type": "dinov2", "architectures": ["DINOv3ViTModel"]})
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a/config.json: model_type 'dinov2' does not fit architectures ['DINOv3ViTModel']; ...
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise DataError(f"{folder / 'config.json'}: unknown model_type {name!r}; known: {', '.join(sorted(FAMILIES))}")
    architectures = config.get("architectures") or []
    if architectures and not any(FAMILIES[name].claims(architecture) for architecture in architectures):
        raise DataError(
            f"{folder / 'config.json'}: model_type {name!r} does not fit architectures {architectures}; "
            "take the configuration that belongs to the weights"
        )
    return name


def _read_normalization(source: str, folder: Path, config: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """Mean and standard deviation that the weights expect, from their preprocessor file or a table by weight id.

    Returns
    -------
    tuple of two tuples of three float
        Mean and standard deviation on a scale from 0 to 1.

    Raises
    ------
    DataError
        When neither the file nor the table knows them, or the file is not usable.

    Examples
    --------
    >>> _read_normalization("facebook/dinov3-vitl16-pretrain-sat493m", Path("a"), {})[0]
    (0.43, 0.411, 0.296)
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return _parse_preprocessor(path)
    names = f"{source} {config.get('_name_or_path', '')}".lower()
    for part, normalization in NORMALIZATIONS.items():
        if part in names:
            return normalization
    raise DataError(
        f"{folder}: no preprocessor_config.json, and {source!r} is in no table: the mean and deviation of the weights "
        'are unknown; add the file with {"image_mean": [r, g, b], "image_std": [r, g, b]}'
    )


def _parse_preprocessor(path: Path) -> tuple[Triple, Triple]:
    """Mean and standard deviation from a preprocessor file, with its own scaling folded in.

    Raises
    ------
    DataError
        When the entries are missing or not three positive numbers.

    Examples
    --------
    >>> _parse_preprocessor(EMBEDDED_FOLDER / "preprocessor_config.json")[1]
    (0.229, 0.224, 0.225)
    """
    settings = _read_json(path)
    mean: Any = settings.get("image_mean")
    deviation: Any = settings.get("image_std")
    if settings.get("do_normalize") is False:
        mean, deviation = [0.0] * 3, [1.0] * 3
    if not (_is_triple(mean) and _is_triple(deviation) and min(deviation) > 0):
        raise DataError(f"{path}: expected image_mean and image_std of three numbers, got {mean} and {deviation}")
    # A rescale factor other than 1/255 means that mean and deviation live on another scale than 0 to 1.
    scale = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    red, green, blue = ((round(m / scale, 9), round(d / scale, 9)) for m, d in zip(mean, deviation, strict=True))
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _is_triple(value: Any) -> bool:
    """Whether a value is a list of three numbers.

    Examples
    --------
    >>> _is_triple([0.5, 0, 1]), _is_triple(0.5), _is_triple([0.5, "a", 1])
    (True, False, False)
    """
    return isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value)


def read_licence(source: str, folder: Path) -> str:
    """The licence of weights: what their model card states, else what is known of the id, else "unknown".

    Parameters
    ----------
    source : str
        The id or folder as the user gave it.
    folder : Path
        Where the files lie.

    Returns
    -------
    str
        Such as "apache-2.0" or "dinov3-license".

    Examples
    --------
    >>> read_licence("embedded", EMBEDDED_FOLDER), read_licence("facebook/dinov2-small", Path("a"))
    ('apache-2.0', 'apache-2.0')
    >>> read_licence("somebody/dinov2-copy", Path("a"))
    'unknown'
    """
    stated = _read_card(folder / "README.md")
    if stated.get("license") and stated["license"] != "other":
        return str(stated["license"])
    if stated.get("license_name"):
        return str(stated["license_name"])
    return next((licence for start, licence in LICENCES.items() if source.startswith(start)), "unknown")


def _read_card(path: Path) -> dict[str, Any]:
    """The YAML header of a model card; empty when there is none that can be read.

    Examples
    --------
    >>> _read_card(EMBEDDED_FOLDER / "README.md")["license"], _read_card(Path("/no/such/card"))
    ('apache-2.0', {})
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, flags=re.DOTALL)
    try:
        header = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        header = None  # a card is prose for people; a broken header only means that it states no licence
    return header if isinstance(header, dict) else {}


@dataclass(frozen=True, order=True)
class StoredTensor:
    """One tensor of a safetensors file: its name, type and shape, and its bytes from `start` to `stop` of the file.

    Examples
    --------
    >>> StoredTensor("norm.weight", "F16", (8,), 100, 116).stop
    116
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_stored_tensors(path: Path) -> list[StoredTensor]:
    """Read the header of a safetensors file, and see that the file is as long as it promises.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    list of StoredTensor
        Sorted by name.

    Raises
    ------
    DataError
        When the file is cut off or is no safetensors file.

    Examples
    --------
    >>> read_stored_tensors(EMBEDDED_FOLDER / "model.safetensors")[0].name
    'embeddings.cls_token'
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        base = 8 + length
        if size < 8 or base > size:
            raise DataError(f"{path}: cut off or not a safetensors file ({size} bytes); fetch it again")
        header = stream.read(length)
    try:
        tensors = [
            StoredTensor(name, entry["dtype"], tuple(entry["shape"]), *(base + at for at in entry["data_offsets"]))
            for name, entry in json.loads(header).items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a safetensors file (its header cannot be read); fetch it again") from error
    promised = max((tensor.stop for tensor in tensors), default=base)
    if size != promised:
        raise DataError(f"{path}: {size} bytes, but its header promises {promised}: cut off; fetch it again")
    return sorted(tensors)


def digest_weights(folder: Path) -> str:
    """Hash what a backbone computes with: every tensor's name, type, shape and bytes, and the active configuration.

    The names are those of the files, not those of the installed transformers, and how tensors are spread over files
    does not count: the digest outlives both.

    Parameters
    ----------
    folder : Path
        With `config.json` and safetensors.

    Returns
    -------
    str
        32 hexadecimal digits of SHA-256.

    Raises
    ------
    DataError
        When files are missing or cut off.

    Examples
    --------
    >>> import tempfile
    >>> folders = [write_random_backbone(tempfile.mkdtemp(), seed=seed) for seed in (0, 0, 1)]
    >>> [digest_weights(folder) == digest_weights(folders[0]) for folder in folders]
    [True, True, False]
    """
    config = {key: value for key, value in _read_json(folder / "config.json").items() if key not in PASSIVE_FIELDS}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    paths = _require_weight_files(folder)
    stored = sorted((tensor, path) for path in paths for tensor in read_stored_tensors(path))
    files = {path: np.memmap(path, np.uint8, "r") for path in paths}
    for tensor, path in stored:
        digest.update(f"\n{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(files[path][tensor.start : tensor.stop].data)
    return digest.hexdigest()[:32]


# ------------------------------------------------------------------------------------------------ precision and layers


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


# -------------------------------------------------------------------------------------------------------- the backbone


def reflected_indices(length: int, padded: int, device: torch.device | str = "cpu") -> Tensor:
    """Indices that continue a line by reflection at its ends, as often as needed.

    Parameters
    ----------
    length : int
        Cells of the line, at least 1.
    padded : int
        Cells wanted.
    device : torch.device or str
        Where the indices shall lie.

    Returns
    -------
    Tensor, shape (padded,)
        Indices into the line.

    Examples
    --------
    >>> reflected_indices(3, 8).tolist(), reflected_indices(1, 3).tolist()
    ([0, 1, 2, 1, 0, 1, 2, 1], [0, 0, 0])
    """
    period = max(2 * (length - 1), 1)
    position = torch.arange(padded, device=device) % period
    return torch.minimum(position, period - position) if length > 1 else position


class Backbone(nn.Module):
    """A frozen DINO model that turns pictures into the feature maps of chosen blocks.

    It stays in evaluation mode whatever `train()` asks for, so that dropout, stochastic depth and DINOv3's random
    positions stay off, also while blocks are tuned. Blocks behind the last chosen one are dropped.

    Parameters
    ----------
    model : nn.Module
        The model of transformers.
    info : BackboneInfo
        What it is and which blocks are asked for.

    Examples
    --------
    >>> import tempfile
    >>> folder = write_random_backbone(tempfile.mkdtemp(), width=8, depth=2, patch_size=4)
    >>> backbone = load_backbone(str(folder), [0, -1])
    >>> [tuple(map.shape) for map in backbone(torch.zeros(1, 3, 9, 16, dtype=torch.uint8))]
    [(1, 8, 3, 4), (1, 8, 3, 4)]
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, info: BackboneInfo):
        super().__init__()
        self.info = info
        self.model = model
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in info.std]).view(1, 3, 1, 1), False)
        self.register_buffer(
            "shift", torch.tensor([-m / s for m, s in zip(info.mean, info.std, strict=True)]).view(1, 3, 1, 1), False
        )
        del self.blocks[max(info.layers) + 1 :]
        self.requires_grad_(False)
        self.eval()

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, or a ConvNeXt's stages, up to the last chosen one.

        Examples
        --------
        >>> import tempfile
        >>> folder = write_random_backbone(tempfile.mkdtemp(), depth=3)
        >>> len(load_backbone(str(folder), [1]).blocks)
        2
        """
        return self.model.get_submodule(FAMILIES[self.info.family].blocks)  # type: ignore[return-value]

    @property
    def norm(self) -> nn.Module:
        """The final norm.

        Examples
        --------
        >>> import tempfile
        >>> load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0]).norm.normalized_shape
        (8,)
        """
        return self.model.get_submodule(FAMILIES[self.info.family].norm)

    @property
    def precision_in_use(self) -> str:
        """What is computed with: "bf16" or "fp32".

        Examples
        --------
        >>> import tempfile
        >>> load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0], precision="fp32").precision_in_use
        'fp32'
        """
        return self.info.precision_in_use

    @property
    def device(self) -> torch.device:
        """Where the weights lie.

        Examples
        --------
        >>> import tempfile
        >>> load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0]).device
        device(type='cpu')
        """
        return self.scale.device

    @property
    def is_frozen(self) -> bool:
        """Whether no weight is to be tuned.

        Examples
        --------
        >>> import tempfile
        >>> load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0]).is_frozen
        True
        """
        return not any(parameter.requires_grad for parameter in self.parameters())

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode, whatever is asked for.

        Examples
        --------
        >>> import tempfile
        >>> load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0]).train().training
        False
        """
        return super().train(False)

    def feature_grid(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        """Rows and columns of each map for pictures of height and width `image_size`.

        Examples
        --------
        >>> import tempfile
        >>> load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0]).feature_grid((9, 16))
        [(3, 4)]
        """
        return self.info.feature_grid(image_size)

    def unfreeze(self, last_blocks: int | bool) -> list[nn.Parameter]:
        """Let blocks be tuned: the last ones with the final norm, or all weights.

        Parameters
        ----------
        last_blocks : int or True
            How many blocks, counted back from the last chosen one; True for every weight that the maps depend on.

        Returns
        -------
        list of Parameter
            The weights that an optimizer should now be given; `info.digest` still names what they started from.

        Raises
        ------
        SettingsError
            When there are not that many blocks.

        Examples
        --------
        >>> import tempfile
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), depth=2)), [0, 1])
        >>> len(backbone.unfreeze(1)) < len(backbone.unfreeze(True))
        True
        """
        if last_blocks is not True and not 1 <= last_blocks <= len(self.blocks):
            raise SettingsError(
                f"unfreeze: expected 1 to {len(self.blocks)} blocks up to the last chosen one, got {last_blocks}"
            )
        self.requires_grad_(False)
        tuned = [self.model] if last_blocks is True else [*self.blocks[-last_blocks:], self.norm]
        for module in tuned:
            module.requires_grad_(True)
        for name, parameter in self.named_parameters():
            # Only pretraining masks patches: a tuned weight without a gradient would stop DDP.
            if name.endswith("mask_token"):
                parameter.requires_grad_(False)
        if not self._uses_norm:
            self.norm.requires_grad_(False)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def tuned_state(self) -> dict[str, Tensor]:
        """The weights that are being tuned, by name: what a checkpoint must hold beside the head.

        Examples
        --------
        >>> import tempfile
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0])
        >>> backbone.tuned_state()
        {}
        """
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_tuned_state(self, state: Mapping[str, Tensor]) -> None:
        """Put tuned weights back.

        Parameters
        ----------
        state : mapping of str to Tensor
            From `tuned_state` of a backbone with the same digest.

        Raises
        ------
        DataError
            When a name or a shape is not this backbone's.

        Examples
        --------
        >>> import tempfile
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0])
        >>> backbone.load_tuned_state({"model.nose": torch.zeros(1)})
        Traceback (most recent call last):
            ...
        utils.errors.DataError: tuned weights of another backbone: model.nose has shape [1], expected none
        """
        parameters = dict(self.named_parameters())
        for name, value in state.items():
            expected = list(parameters[name].shape) if name in parameters else "none"
            if list(value.shape) != expected:
                raise DataError(
                    f"tuned weights of another backbone: {name} has shape {list(value.shape)}, expected {expected}"
                )
        with torch.no_grad():
            for name, value in state.items():
                parameters[name].copy_(value)

    def normalize(self, images: Tensor) -> Tensor:
        """Continue pictures to the patch grid and scale them as the weights expect.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            uint8, or floating point on a scale from 0 to 255.

        Returns
        -------
        Tensor, shape (B, 3, padded H, padded W)
            float32.

        Raises
        ------
        ValueError
            For another shape or type.

        Examples
        --------
        >>> import tempfile
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), patch_size=4)), [0])
        >>> pixels = backbone.normalize(torch.full((1, 3, 5, 2), 255, dtype=torch.uint8))
        >>> pixels.shape, round(pixels[0, 2, 7, 3].item(), 4) == round((1 - 0.406) / 0.225, 4)
        (torch.Size([1, 3, 8, 4]), True)
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise ValueError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ValueError(f"images must be uint8 or floating point from 0 to 255, got {images.dtype}")
        images = images.to(self.device)
        for axis, length in zip((2, 3), self.info.padded(images.shape[2:]), strict=True):
            if images.shape[axis] != length:
                images = images.index_select(axis, reflected_indices(images.shape[axis], length, self.device))
        return torch.addcmul(self.shift, images.float(), self.scale)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps of the chosen blocks.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            uint8, or floating point on a scale from 0 to 255; B may be 0.

        Returns
        -------
        list of Tensor, shape (B, C_i, h_i, w_i)
            float32, one per chosen block in the order asked for, on the padded grid.

        Raises
        ------
        ValueError
            For pictures of another shape or type.

        Examples
        --------
        >>> import tempfile
        >>> folder = write_random_backbone(tempfile.mkdtemp(), "dinov3_convnext", width=8)
        >>> [tuple(map.shape) for map in load_backbone(str(folder), [0, 2])(torch.zeros(2, 3, 33, 30))]
        [(2, 8, 16, 8), (2, 32, 4, 2)]
        """
        pixels = self.normalize(images)
        if not len(pixels):
            grids = self.info.feature_grid(images.shape[2:])
            return [
                pixels.new_zeros(0, channels, *grid) for channels, grid in zip(self.info.channels, grids, strict=True)
            ]
        compute = self._compute_vit_maps if FAMILIES[self.info.family].is_vit else self._compute_stage_maps
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision_in_use == "bf16"),
        ):
            maps = compute(pixels)
        return [maps[index] for index in self.info.layers]

    def _compute_vit_maps(self, pixels: Tensor) -> dict[int, Tensor]:
        """Run the blocks of a ViT, keeping only the states that are asked for.

        Examples
        --------
        >>> import tempfile
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), depth=3)), [-1, 0])
        >>> sorted(backbone._compute_vit_maps(torch.zeros(1, 3, 8, 8)))
        [0, 2]
        """
        grid = (pixels.shape[2] // self.info.patch_size, pixels.shape[3] // self.info.patch_size)
        context = {}
        if hasattr(self.model, "rope_embeddings"):
            context["position_embeddings"] = self.model.rope_embeddings(pixels)  # type: ignore[operator]
        tokens = self.model.embeddings(pixels)  # type: ignore[operator]
        maps = {}
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, **context)
            if index in self.info.layers:
                maps[index] = self._tokens_to_map(tokens, grid)
        return maps

    def _tokens_to_map(self, tokens: Tensor, patch_grid: tuple[int, int]) -> Tensor:
        """Norm the patch tokens and lay them out as a map; the tokens before them (CLS, registers) are dropped.

        Examples
        --------
        >>> import tempfile
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0])
        >>> backbone._tokens_to_map(torch.zeros(1, 7, 8), (2, 3)).shape
        torch.Size([1, 8, 2, 3])
        """
        rows, columns = patch_grid
        patch_tokens = self._apply_norm(tokens[:, tokens.shape[1] - rows * columns :])
        return patch_tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns).contiguous()

    def _compute_stage_maps(self, pixels: Tensor) -> dict[int, Tensor]:
        """Run the stages of a ConvNeXt; only the last of all has a norm that fits it.

        Examples
        --------
        >>> import tempfile
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp(), "dinov3_convnext")), [1])
        >>> {stage: map.shape for stage, map in backbone._compute_stage_maps(torch.zeros(1, 3, 32, 64)).items()}
        {1: torch.Size([1, 16, 4, 8])}
        """
        maps = {}
        features = pixels
        for index, stage in enumerate(self.blocks):
            features = stage(features)
            if index in self.info.layers:
                is_last = index == self.info.num_blocks - 1
                normed = self._apply_norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if is_last else features
                maps[index] = normed.float().contiguous()
        return maps

    def _apply_norm(self, features: Tensor) -> Tensor:
        """The final norm over the last axis, in float32 whatever the blocks were computed in.

        Examples
        --------
        >>> import tempfile
        >>> backbone = load_backbone(str(write_random_backbone(tempfile.mkdtemp())), [0])
        >>> backbone._apply_norm(torch.zeros(1, 8, dtype=torch.bfloat16)).dtype
        torch.float32
        """
        with torch.autocast(self.device.type, enabled=False):
            return self.norm(features.float())

    @property
    def _uses_norm(self) -> bool:
        """Whether a chosen map goes through the final norm.

        Examples
        --------
        >>> import tempfile
        >>> folder = write_random_backbone(tempfile.mkdtemp(), "dinov3_convnext")
        >>> [load_backbone(str(folder), [stage])._uses_norm for stage in (2, 3)]
        [False, True]
        """
        return FAMILIES[self.info.family].is_vit or self.info.num_blocks - 1 in self.info.layers


# ------------------------------------------------------------------------------------------------------------- loading


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing progress bars and load reports; what it was set to comes back afterwards.

    Examples
    --------
    >>> from transformers.utils import logging as transformers_logging
    >>> before = transformers_logging.get_verbosity()
    >>> with quiet_transformers():
    ...     transformers_logging.get_verbosity() == transformers_logging.ERROR
    True
    >>> transformers_logging.get_verbosity() == before
    True
    """
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bar:
            transformers_logging.enable_progress_bar()


def _build_config(folder: Path, family: str, settings: Mapping[str, Any]) -> Any:
    """Turn the settings of `config.json` into a configuration of transformers.

    Raises
    ------
    DataError
        When transformers does not accept them.

    Examples
    --------
    >>> _build_config(Path("a"), "dinov2", {"hidden_size": 8}).hidden_size
    8
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    config_class = getattr(transformers, f"{FAMILIES[family].prefix}Config")
    try:
        return config_class.from_dict(dict(settings))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise DataError(f"{folder / 'config.json'}: not a configuration of {family} ({_first_line(error)})") from error


def _load_model(folder: Path, family: str, attention: str) -> nn.Module:
    """Load weights strictly: a tensor that is missing, left over or of another shape is an error, not a warning.

    Raises
    ------
    DataError
        When the weights do not fit the configuration.

    Examples
    --------
    >>> import tempfile
    >>> folder = write_random_backbone(tempfile.mkdtemp())
    >>> type(_load_model(folder, "dinov2", "sdpa")).__name__
    'Dinov2Model'
    """
    import transformers

    model_class = getattr(transformers, f"{FAMILIES[family].prefix}Model")
    options = {"attn_implementation": attention} if FAMILIES[family].is_vit else {}
    with quiet_transformers():
        model, report = model_class.from_pretrained(
            str(folder),
            config=_build_config(folder, family, _read_json(folder / "config.json")),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are reported below, together with everything else
            output_loading_info=True,
            **options,
        )
    problems = [
        f"{kind.removesuffix('_keys')}: {_shorten(report.get(kind) or ())}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(kind)
    ]
    if problems:
        raise DataError(
            f"{folder}: the weights do not fit the architecture {family} of config.json; {'; '.join(problems)}; "
            "take weights and configuration from the same place"
        )
    return model


def _shorten(names: Sequence[Any], most: int = 3) -> str:
    """The first few of many names, and how many there are.

    Examples
    --------
    >>> _shorten(["c", "a", "b", "d"]), _shorten([("a", [1], [2])])
    ('a, b, c, ... (4 tensors)', 'a [1] instead of [2]')
    """
    texts = sorted(
        name if isinstance(name, str) else f"{name[0]} {list(name[1])} instead of {list(name[2])}" for name in names
    )
    return ", ".join(texts) if len(texts) <= most else f"{', '.join(texts[:most])}, ... ({len(texts)} tensors)"


def describe_backbone(
    source: str,
    layers: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    attention: str = "sdpa",
    local_files_only: bool = False,
) -> BackboneInfo:
    """Say what `load_backbone` would load, checked as far as that goes without building the model.

    Parameters
    ----------
    source, layers, device, precision, attention, local_files_only
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
    >>> info = describe_backbone("embedded", [-1, 2])
    >>> info.layers, info.strides, info.padded((100, 16))
    ((5, 2), (16, 16), (112, 16))
    """
    if attention not in ATTENTIONS:
        raise SettingsError(f"unknown attention {attention!r}; known: {', '.join(ATTENTIONS)}")
    folder = find_backbone_folder(source, local_files_only)
    settings = _read_json(folder / "config.json")
    family = _choose_family(folder, settings)
    config = _build_config(folder, family, settings)
    patch_size, channels, strides = _describe_geometry(folder, family, config)
    chosen = resolve_layers(layers, len(channels))
    mean, std = _read_normalization(source, folder, settings)
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


def load_backbone(
    source: str,
    layers: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    attention: str = "sdpa",
    compile: bool = False,
    local_files_only: bool = False,
) -> Backbone:
    """Load a backbone, frozen and in evaluation mode.

    Parameters
    ----------
    source : str
        `embedded`, a folder, or a Hugging Face id (looked up in the cache first, then at the hub).
    layers : sequence of int
        Blocks whose maps are wanted, counted from 0, negative from the end; stages of a ConvNeXt.
    device : torch.device or str
        Where to compute.
    precision : {"auto", "bf16", "fp32"}
        What to compute with; weights are float32 in any case. "auto" takes bfloat16 where the hardware has it.
    attention : {"sdpa", "eager"}
        How attention is computed: fused and exact to .9998 in bfloat16, or step by step (faster on some CPUs).
    compile : bool
        Compile each block with torch.compile on first use.
    local_files_only : bool
        Never ask the hub, see `find_backbone_folder`.

    Returns
    -------
    Backbone
        With its description in `info`.

    Raises
    ------
    DataError
        When weights are gated, missing, cut off, pickled or of another architecture.
    SettingsError
        When layers, device, precision or attention cannot be had.

    References
    ----------
    Oquab et al., 2023 (arXiv:2304.07193); Darcet et al., 2023 (arXiv:2309.16588); Simeoni et al., 2025
    (arXiv:2508.10104).

    Examples
    --------
    >>> import tempfile
    >>> folder = write_random_backbone(tempfile.mkdtemp(), "dinov3_vit", width=8, depth=3, patch_size=4)
    >>> info = load_backbone(str(folder), [-1, 0], precision="fp32").info
    >>> info.family, info.layers, info.channels, info.strides, info.num_blocks, info.licence
    ('dinov3_vit', (2, 0), (8, 8), (4, 4), 3, 'unknown')
    """
    info = describe_backbone(
        source,
        layers,
        device=device,
        precision=precision,
        attention=attention,
        local_files_only=local_files_only,
    )
    folder = find_backbone_folder(source, local_files_only)
    backbone = Backbone(_load_model(folder, info.family, attention), info).to(device)
    if compile:
        # Block by block: equal blocks share one compilation, which takes a fraction of compiling the whole.
        for block in backbone.blocks:
            block.compile()
    return backbone


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


# ----------------------------------------------------------------------------------------------------- small backbones


def write_backbone_folder(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    normalization: tuple[Sequence[float], Sequence[float]] = IMAGENET,
    card: str | None = None,
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
    write_json(folder / "config.json", dict(config))  # last: a folder with it is whole
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
    >>> folder = write_random_backbone(tempfile.mkdtemp(), "dinov2_with_registers", width=12, depth=3)
    >>> load_backbone(str(folder), [-1]).info.channels
    (12,)
    """
    settings = _random_settings(family, width, depth, heads, patch_size)
    config = _build_config(Path(folder), family, settings)
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
    >>> config = _build_config(Path("a"), "dinov2", _random_settings("dinov2", 8, 1, 2, 4))
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
