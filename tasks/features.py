"""The one service that turns pictures into features: the frozen backbone, its identity, and the keys of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import ModelConfig
from models.backbone import Backbone, load_backbone
from models.backbones.info import BackboneInfo, choose_blocks, resolve_precision
from models.backbones.weights import find_backbone_folder
from utils.errors import DataError, SettingsError
from utils.runtime import distributed
from utils.runtime.files import digest_array, digest_json, file_stamp, read_json
from utils.store.encoding import Int8Features, encode_features, encoded_bytes
from utils.store.feature_store import FeatureStore, record_key

PADDING = "reflect-to-patch-grid-1"  # changes when pictures are padded in another way, so that no old record is met


class FeatureService:
    """A frozen backbone that is loaded when it is first needed.

    Parameters
    ----------
    model : ModelConfig
        Backbone, layers, precision.
    store : FeatureStore
        Remembers the backbone's identity, so that a rerun need not read the weights.
    store_dtype : str
        How features are stored; computed maps are rounded the same way, so that a head cannot tell the difference.
    device : torch.device
        Where the backbone computes.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> task.features.info.layers, task.features.info.channels
    ((0, 1), (8, 8))
    """

    def __init__(self, model: ModelConfig, store: FeatureStore, store_dtype: str, device: torch.device):
        self.settings = model
        self.store = store
        self.store_dtype = store_dtype
        self.device = device
        self.precision = resolve_precision(model.precision, device)
        self._backbone: Backbone | None = None
        self._info: BackboneInfo | None = None

    def setup(self) -> None:
        """Find out what the backbone is, once for all ranks: rank 0 alone asks the hub; a collective.

        Loading the weights is none, as ranks without work skip it; where the files are known it is not needed.

        Raises
        ------
        SettingsError
            If `model.dino_channels` is not the backbone's width.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> features = scene_task().features
        >>> features.setup()
        >>> features.info.strides
        (4, 4)
        """
        if self._info is not None:
            return
        key = distributed.run_on_main(lambda: digest_json({"backbone": self._stamps(), "layers": self._asked_layers()}))
        values = self.store.manifests.read(key)
        if values is None:
            values = _as_json(self.backbone.info)
            distributed.barrier()
            if distributed.is_main():
                self.store.manifests.write(key, values)
        self._info = _from_json(values)
        self._check_width()

    @property
    def info(self) -> BackboneInfo:
        """What the backbone is, without loading it where its files are known.

        Raises
        ------
        RuntimeError
            If several ranks run and `setup` was not called: finding out is a collective.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().features.info.patch_size
        4
        """
        if self._info is None:
            if distributed.world_size() > 1:
                raise RuntimeError("the backbone is not known yet; call setup() on all ranks first")
            self.setup()
        assert self._info is not None
        return self._info

    def _stamps(self) -> list:
        """The backbone's files, by path, size and time.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> len(task.features._stamps()) >= 2
        True
        """
        folder = find_backbone_folder(self.settings.backbone)
        return [file_stamp(path) for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")]

    def _asked_layers(self) -> list[int]:
        """The settings' layers as indices; four even ones when none are named.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task("model.layers=null")
        >>> task.features._asked_layers()
        [0, 1]
        """
        return choose_blocks(self.settings.layers, count_blocks(self.settings.backbone))

    def _check_width(self) -> None:
        """Compare `model.dino_channels` with the backbone.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task("model.dino_channels=9")
        >>> task.features.info
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: model.dino_channels: 9, but the backbone's maps have 8 channels; drop the key
        """
        asked = self.settings.dino_channels
        if asked is not None and self._info is not None and asked not in self._info.channels:
            real = ", ".join(str(width) for width in dict.fromkeys(self._info.channels))
            self._info = None
            raise SettingsError(
                f"model.dino_channels: {asked}, but the backbone's maps have {real} channels; drop the key"
            )

    @property
    def backbone(self) -> Backbone:
        """The backbone, loaded.

        Raises
        ------
        DataError
            If its files have other bytes than when the store first met them.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.features.backbone.training
        False
        """
        if self._backbone is None:
            self._backbone = self._load()
            self._refuse_changed_weights(self._backbone.info)
        return self._backbone

    def _refuse_changed_weights(self, loaded: BackboneInfo) -> None:
        """Compare what was loaded with what the store knows of files of this name, size and time.

        Raises
        ------
        DataError
            If bits have changed.

        Examples
        --------
        >>> from dataclasses import replace
        >>> from tasks.example import scene_task
        >>> features = scene_task().features
        >>> features._refuse_changed_weights(replace(features.info, digest="00"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...: its files have the size and time that ... knows, but other bytes ...
        """
        known = self._info
        if known is None or (loaded.digest, loaded.mean, loaded.std) == (known.digest, known.mean, known.std):
            return
        raise DataError(
            f"{find_backbone_folder(self.settings.backbone)}: its files have the size and time that "
            f"{self.store.folder} knows, but other bytes (digest {loaded.digest}, expected {known.digest}): damaged; "
            "take another copy (after a change that is meant, touch the files)"
        )

    def _load(self) -> Backbone:
        """Load the backbone with the layers that are asked for.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.features._load().info.num_blocks
        2
        """
        settings = self.settings
        return load_backbone(
            settings.backbone,
            self._asked_layers(),
            device=self.device,
            precision=self.precision,
            attention=settings.attention,
            compile=settings.compile,
        )

    def finetuned(self, blocks: bool | int) -> nn.Module:
        """Give a copy of the backbone whose last blocks are trained.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> any(p.requires_grad for p in task.features.finetuned(1).parameters())
        True
        """
        backbone = self._load()
        backbone.unfreeze(blocks)
        return backbone

    def recipe(self) -> dict[str, Any]:
        """Everything that stored features depend on beside the pixels.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.features.recipe()["layers"]
        [0, 1]
        """
        info = self.info
        return {
            "backbone": info.digest,
            "layers": list(info.layers),
            "mean": list(info.mean),
            "std": list(info.std),
            "precision": self.precision,
            "attention": self.settings.attention,
            "store_dtype": self.store_dtype,
            "padding": PADDING,
        }

    def key(self, image: np.ndarray) -> str:
        """Name the record of a picture's features.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3)
            8-bit colours.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> dark, light = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
        >>> task.features.key(dark) == task.features.key(light)
        False
        """
        return record_key(kind="features", pixels=digest_array(image), **self.recipe())

    @torch.no_grad()
    def maps(self, images: Tensor) -> list[Tensor]:
        """Compute the maps of pictures, rounded as the store would round them.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            8-bit colours.

        Returns
        -------
        list of Tensor, each of shape (B, C, h, w)
            One per chosen block.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> [tuple(m.shape) for m in task.features.maps(torch.zeros(1, 3, 8, 12, dtype=torch.uint8))]
        [(1, 8, 2, 3), (1, 8, 2, 3)]
        """
        maps = self.backbone(images.to(self.device))
        return [round_like_store(feature_map, self.store_dtype) for feature_map in maps]

    @torch.no_grad()
    def produce(self, inputs: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
        """Compute the maps of pictures (H, W, 3) of one size at once; each record is encoded when it is asked for.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> [sorted(record) for record in task.features.produce([np.zeros((8, 12, 3), np.uint8)])]
        [['map_0', 'map_1']]
        """
        stacked = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)
        maps = self.backbone(stacked.to(self.device))
        return (
            {f"map_{i}": encode_features(feature_map[b], self.store_dtype) for i, feature_map in enumerate(maps)}
            for b in range(len(inputs))
        )

    def record_bytes(self, image_size: tuple[int, int]) -> int:
        """Size of a stored record of a picture.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.features.record_bytes((8, 12))
        192
        """
        grid = self.info.feature_grid(image_size)
        shapes = [(width, *cells) for width, cells in zip(self.info.channels, grid, strict=True)]
        return sum(encoded_bytes(shape, self.store_dtype) for shape in shapes)


def even_layers(source: str) -> list[int]:
    """Choose four blocks (or stages) at even distances, the last one among them; all when there are fewer.

    Examples
    --------
    >>> even_layers("embedded")
    [0, 1, 2]
    """
    return choose_blocks(None, count_blocks(source))


def count_blocks(source: str) -> int:
    """Count the blocks (or stages) of a backbone.

    Raises
    ------
    DataError
        If its configuration does not say it.

    Examples
    --------
    >>> count_blocks("embedded")
    3
    """
    path = find_backbone_folder(source) / "config.json"
    config = read_json(path, {})
    number = config.get("num_hidden_layers") or len(config.get("depths", ()))
    if not isinstance(number, int) or number < 1:
        raise DataError(f"{path}: does not say how many blocks there are; is this a DINO model?")
    return number


def round_like_store(feature_map: Tensor, store_dtype: str) -> Tensor:
    """Round a batch of maps as storing and reading them would.

    Examples
    --------
    >>> round_like_store(torch.full((1, 1, 1, 1), 1.0001), "fp16").item()
    1.0
    """
    encoded = [encode_features(single, store_dtype) for single in feature_map]
    return torch.stack([single.decode() if isinstance(single, Int8Features) else single for single in encoded])


def _as_json(info: BackboneInfo) -> dict[str, Any]:
    """Give a backbone's description as plain values.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> _from_json(_as_json(task.features.info)) == task.features.info
    True
    """
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(info).items()}


def _from_json(values: dict[str, Any]) -> BackboneInfo:
    """Make a backbone's description of plain values.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> _from_json(_as_json(task.features.info)).layers
    (0, 1)
    """
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return BackboneInfo(**fields)
