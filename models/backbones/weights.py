"""The files of a backbone: where they lie, whose they are, what goes with them, and loading them strictly.

Nothing pickled is read. A digest stands for what the weights compute, whatever the names of files and classes.
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

import torch
from safetensors import safe_open
from torch import nn

from utils.errors import DataError, DinolithError
from utils.runtime.files import digest_json
from utils.runtime.reading import check_regular, file_errors, read_bounded_text, unique_keys
from utils.runtime.strict_yaml import read_value

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "embedded"
Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SAT493M: tuple[Triple, Triple] = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
NORMALIZATIONS = {"sat493m": SAT493M, "lvd1689m": IMAGENET, "dinov2": IMAGENET}  # part of a weight id -> mean, std
LICENCES = {"facebook/dinov3": "dinov3-license", "facebook/dinov2": "apache-2.0"}  # beginning of a weight id -> licence
STATED_DIGEST = "dinolith_digest"  # in config.json of an exported backbone: digest of weights, settings, normalisation
# Fields of config.json that do not change what the weights compute, so that they do not change the digest either.
PASSIVE_FIELDS = frozenset(
    (
        *("_name_or_path", "architectures", "dtype", "id2label", "initializer_range", "label2id", "problem_type"),
        *("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names", "use_cache"),
        *("torch_dtype", "transformers_version", STATED_DIGEST),
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


def find_backbone_folder(source: str) -> Path:
    """Find the folder that holds a backbone's files; the hub is asked only for an id that the cache does not hold.

    Parameters
    ----------
    source : str
        `embedded`, a folder, or a Hugging Face id such as `facebook/dinov2-small`.

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
    return find_weights_folder(source, f"backbone {source!r}", f", a Hugging Face id, or '{EMBEDDED}'")


def find_weights_folder(source: str, what: str, others: str = " or a Hugging Face id") -> Path:
    """Find a folder with weights; the hub is asked only for an id that the cache does not hold.

    `what` begins the messages, and `others` says there what else than a folder may be given.

    Raises
    ------
    DataError
        As for `find_backbone_folder`.

    Examples
    --------
    >>> find_weights_folder("/no/such/folder", "model.init")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: model.init: no such folder; give a folder with config.json and ... or a Hugging Face id
    """
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return folder
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) is None or folder.exists():
        raise DataError(f"{what}: no such folder; give a folder with config.json and model.safetensors{others}")
    return _find_in_cache(source) or _fetch_from_hub(source, what)


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


def _fetch_from_hub(repository: str, what: str) -> Path:
    """Fetch a repository's configuration, weights and model card into the Hugging Face cache.

    Raises
    ------
    DataError
        When the repository is gated, missing or out of reach.

    Examples
    --------
    >>> from unittest.mock import patch
    >>> with patch("huggingface_hub.snapshot_download", side_effect=OSError("no route")):
    ...     _fetch_from_hub("nobody/no-such-repository", "backbone 'x'")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: backbone 'x': neither a folder nor in the Hugging Face cache (HF_HOME), and the hub was ...
    """
    from huggingface_hub import errors, snapshot_download

    logger.info("fetching %s from the Hugging Face hub", repository)
    try:
        with _bars_in_terminals_only():
            return Path(snapshot_download(repository, allow_patterns=list(HUB_FILES)))
    except errors.GatedRepoError as error:
        raise DataError(
            f"{what}: access is gated; accept the licence at https://huggingface.co/{repository}, "
            "then set HF_TOKEN to a token of that account, or give a folder that holds the weights"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"{what}: neither a folder here nor a repository that the hub shows; check the spelling, "
            "or set HF_TOKEN if it is private"
        ) from error
    except (OSError, ValueError, errors.HTTPError) as error:
        raise DataError(
            f"{what}: neither a folder nor in the Hugging Face cache (HF_HOME), and the hub was not "
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
        return [folder / name for name in sorted(set(read_json_object(index).get("weight_map", {}).values()))]
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


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, or say which file is not one.

    Raises
    ------
    DataError
        When the file is missing, is not JSON or not an object.

    Examples
    --------
    >>> read_json_object(EMBEDDED_FOLDER / "config.json")["model_type"]
    'dinov2'
    """
    if not path.is_file():
        raise DataError(f"{path.parent}: expected {path.name}, found none; is this a folder of a DINO model?")
    with file_errors(path, "not JSON", "fetch the file again"):
        value = json.loads(read_bounded_text(path), object_pairs_hook=unique_keys)
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def choose_family(folder: Path, config: Mapping[str, Any]) -> str:
    """The architecture that a configuration names.

    Raises
    ------
    DataError
        When it is not a known one, or `model_type` and `architectures` contradict each other.

    Examples
    --------
    >>> choose_family(Path("a"), {"model_type": "dinov2", "architectures": ["Dinov2Model"]})
    'dinov2'
    >>> choose_family(Path("a"), {"model_type": "dinov2", "architectures": ["DINOv3ViTModel"]})
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


def read_normalization(source: str, folder: Path, config: Mapping[str, Any]) -> tuple[Triple, Triple]:
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
    >>> read_normalization("facebook/dinov3-vitl16-pretrain-sat493m", Path("a"), {})[0]
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
    settings = read_json_object(path)
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
    try:
        text = read_bounded_text(path) if path.is_file() else ""
        match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, flags=re.DOTALL)
        header = read_value(match[1]) if match else None
    except DinolithError:
        header = None  # a card is prose for people; a broken header only means that it states no licence
    return header if isinstance(header, dict) else {}


def check_stated_digest(folder: Path, stated: Any, normalization: tuple[Sequence[float], Sequence[float]]) -> None:
    """Refuse an exported backbone whose files are not those that the export wrote.

    Parameters
    ----------
    folder : Path
        The backbone.
    stated : str or None
        What its config.json states; None for a backbone that no export has made.
    normalization : pair of three float
        Mean and standard deviation, as they are read.

    Raises
    ------
    DataError
        When weights, settings or normalisation have changed.

    Examples
    --------
    >>> stated = digest_export(digest_weights(EMBEDDED_FOLDER), IMAGENET)
    >>> check_stated_digest(EMBEDDED_FOLDER, stated, IMAGENET)
    >>> check_stated_digest(EMBEDDED_FOLDER, stated, ([0.5] * 3, [0.5] * 3))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...: the files are not those that were exported: expected dinolith_digest ..., got ...; ...
    """
    if stated is not None and stated != (found := digest_export(digest_weights(folder), normalization)):
        raise DataError(
            f"{folder}: the files are not those that were exported: expected {STATED_DIGEST} {stated}, got {found}; a "
            f"file is damaged: export again or take another copy (after a change that is meant, remove {STATED_DIGEST} "
            "from config.json)"
        )


def digest_export(weights: str, normalization: tuple[Sequence[float], Sequence[float]]) -> str:
    """Digest of weights and settings with the normalisation.

    Examples
    --------
    >>> digest_export("00", IMAGENET) == digest_export("00", ([0.5] * 3, [0.5] * 3))
    False
    """
    return digest_json([weights, *(list(map(float, values)) for values in normalization)])


def digest_weights(folder: Path, settings: Mapping[str, Any] | None = None) -> str:
    """Hash what a backbone computes with: every tensor's name, type, shape and bytes, and the active configuration.

    The names are those of the files, not those of the installed transformers, and how tensors are spread over files
    does not count: the digest outlives both.

    Parameters
    ----------
    folder : Path
        With `config.json` and safetensors.
    settings : mapping, optional
        Content of a `config.json` that is not written yet.

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
    >>> from models.backbones.random_backbone import write_random_backbone
    >>> folders = [write_random_backbone(tempfile.mkdtemp(), seed=seed) for seed in (0, 0, 1)]
    >>> [digest_weights(folder) == digest_weights(folders[0]) for folder in folders]
    [True, True, False]
    """
    settings = read_json_object(folder / "config.json") if settings is None else settings
    config = {key: value for key, value in settings.items() if key not in PASSIVE_FIELDS}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    files = map(_open_tensors, _require_weight_files(folder))
    holders = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - a file is no dict
    for name in sorted(holders):
        stored = holders[name].get_slice(name)
        digest.update(f"\n{name} {stored.get_dtype()} {tuple(stored.get_shape())}\n".encode())
        digest.update(holders[name].get_tensor(name).reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _open_tensors(path: Path) -> Any:
    """Open a safetensors file, of which tensors are read one by one.

    Raises
    ------
    DataError
        When the file is cut off or is no safetensors file.

    Examples
    --------
    >>> "embeddings.cls_token" in _open_tensors(EMBEDDED_FOLDER / "model.safetensors").keys()
    True
    """
    with file_errors(path, "cut off or not a safetensors file", "fetch it again"):
        check_regular(path)
        return safe_open(path, framework="pt")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a folder, of one safetensors file or of its shards.

    Raises
    ------
    DataError
        When files are missing, cut off, or pickles.

    Examples
    --------
    >>> read_weights(EMBEDDED_FOLDER)["embeddings.cls_token"].ndim
    3
    """
    files = map(_open_tensors, _require_weight_files(folder))
    return {name: file.get_tensor(name) for file in files for name in file.keys()}  # noqa: SIM118 - a file is no dict


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


def build_config(folder: Path, family: str, settings: Mapping[str, Any]) -> Any:
    """Turn the settings of `config.json` into a configuration of transformers.

    Raises
    ------
    DataError
        When transformers does not accept them.

    Examples
    --------
    >>> build_config(Path("a"), "dinov2", {"hidden_size": 8}).hidden_size
    8
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    config_class = getattr(transformers, f"{FAMILIES[family].prefix}Config")
    try:
        return config_class.from_dict(dict(settings))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise DataError(f"{folder / 'config.json'}: not a configuration of {family} ({_first_line(error)})") from error


def load_model(folder: Path, family: str, attention: str) -> nn.Module:
    """Load weights strictly: a tensor that is missing, left over or of another shape is an error, not a warning.

    Raises
    ------
    DataError
        When the weights do not fit the configuration.

    Examples
    --------
    >>> import tempfile
    >>> from models.backbones.random_backbone import write_random_backbone
    >>> folder = write_random_backbone(tempfile.mkdtemp())
    >>> type(load_model(folder, "dinov2", "sdpa")).__name__
    'Dinov2Model'
    """
    import transformers

    model_class = getattr(transformers, f"{FAMILIES[family].prefix}Model")
    options = {"attn_implementation": attention} if FAMILIES[family].is_vit else {}
    with quiet_transformers():
        model, report = model_class.from_pretrained(
            str(folder),
            config=build_config(folder, family, read_json_object(folder / "config.json")),
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
