"""The one service that turns pictures into features: the frozen backbone, its identity, and the keys of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import ModelConfig
from models.backbone import Backbone, load_backbone
from models.backbones.info import BackboneInfo, choose_blocks, resolve_precision
from models.backbones.projection import BlockProjection
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
    project : int, optional
        Channels of the one map to which the maps of all blocks are projected; None gives the maps as they are.

    Attributes
    ----------
    more_stores : sequence of FeatureStore
        Where a projection is looked for that `store` does not hold, such as a copy that is trained from.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> task.features.info.layers, task.features.info.channels
    ((0, 1), (8, 8))
    >>> scene_task("prepare.project=3").features.info.channels
    (3,)
    """

    def __init__(
        self,
        model: ModelConfig,
        store: FeatureStore,
        store_dtype: str,
        device: torch.device,
        project: int | None = None,
    ):
        self.settings = model
        self.store = store
        self.store_dtype = store_dtype
        self.device = device
        self.project = project
        self.precision = resolve_precision(model.precision, device)
        self.more_stores: Sequence[FeatureStore] = ()
        self._backbone: Backbone | None = None
        self._info: BackboneInfo | None = None
        self._plain: BackboneInfo | None = None  # without a projection
        self._projection: BlockProjection | None = None
        self._assumed: BlockProjection | None = None

    def setup(self) -> None:
        """Find out what the backbone is, once for all ranks: rank 0 alone asks the hub; a collective.

        Loading the weights is none, as ranks without work skip it; where the files are known it is not needed.

        Raises
        ------
        SettingsError
            If `model.dino_channels` is not the backbone's width, or its blocks cannot be projected.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> features = scene_task().features
        >>> features.setup()
        >>> features.info.strides
        (4, 4)
        >>> scene_task("prepare.project=17").features.setup()
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: prepare.project: 17, but blocks 0, 1 have 16 channels together; lower it
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
        self._plain = info = _from_json(values)
        self._check_width(info)
        self._info = info if self.project is None else projected_info(info, self.project)

    @property
    def info(self) -> BackboneInfo:
        """What the backbone is and which maps it gives, without loading it where its files are known.

        With a projection, there is one map of its channels; `layers` are still all blocks.

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

    def _check_width(self, info: BackboneInfo) -> None:
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
        if asked is not None and asked not in info.channels:
            real = ", ".join(str(width) for width in dict.fromkeys(info.channels))
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
        recipe = {**self._map_recipe(), "store_dtype": self.store_dtype}
        if self.project is None:
            return recipe
        return {**recipe, "projection": self.projection and self.projection.digest}

    def describe(self) -> str:
        """The blocks whose maps a head gets, for people.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> changes = "model.backbone=embedded", "model.precision=fp32", "prepare.project=3"
        >>> scene_task(*changes).features.describe()
        'blocks 0, 1 of the embedded backbone (dinov2 of 3 blocks, patch 16, fp32), projected to 3 channels'
        """
        projected = "" if self.project is None else f", projected to {self.project} channels"
        return self.info.describe_blocks(self.precision) + projected

    def _map_recipe(self) -> dict[str, Any]:
        """Everything that the maps of the blocks depend on beside the pixels.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().features._map_recipe()["padding"]
        'reflect-to-patch-grid-1'
        """
        info = self.info
        return {
            "backbone": info.digest,
            "layers": list(info.layers),
            "mean": list(info.mean),
            "std": list(info.std),
            "precision": self.precision,
            "attention": self.settings.attention,
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
        return [round_like_store(feature_map, self.store_dtype) for feature_map in self._compute(images)]

    def _compute(self, images: Tensor) -> list[Tensor]:
        """Compute the maps of pictures (B, 3, H, W), projected where the settings ask for it.

        Raises
        ------
        DataError
            If the projection was not learnt yet.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("prepare.project=3").features._compute(torch.zeros(1, 3, 8, 12))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...: holds no projection of blocks 0, 1 to 3 channels; run prepare, which learns it
        """
        maps = self.backbone(images.to(self.device))
        if self.project is None:
            return maps
        if self._assumed is not None and self.projection is None:
            return [self._assumed(maps)]
        return [self.known_projection()(maps)]

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
        maps = self._compute(stacked)
        return (
            {f"map_{i}": encode_features(feature_map[b], self.store_dtype) for i, feature_map in enumerate(maps)}
            for b in range(len(inputs))
        )

    # -- projection

    @property
    def projection_key(self) -> str:
        """Name of the record of the projection: one for the same maps and number of channels, whatever was learnt from.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> three, int8, four = (["prepare.project=3"], ["prepare.project=3", "prepare.store_dtype=int8"],
        ...     ["prepare.project=4"])
        >>> len({scene_task(*settings).features.projection_key for settings in (three, int8, four)})
        2
        """
        return record_key(kind="projection", channels=self.project, **self._map_recipe())

    @property
    def projection(self) -> BlockProjection | None:
        """The projection that was taken from a checkpoint, or lies in a store; None before it is learnt.

        Raises
        ------
        DataError
            If its record is damaged.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("prepare.project=3").features.projection is None
        True
        """
        if self._projection is None and self.project is not None:
            for store in (self.store, *self.more_stores):
                if store.has(self.projection_key):
                    self.use_projection(store.read(self.projection_key), f"{store.folder}, {self.projection_key}")
                    break
        return self._projection

    def known_projection(self) -> BlockProjection:
        """The projection.

        Raises
        ------
        DataError
            If it was not learnt yet.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("prepare.project=3").features.known_projection()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...: holds no projection of blocks 0, 1 to 3 channels; run prepare, which learns it
        """
        projection = self.projection
        if projection is None:
            blocks = ", ".join(map(str, self.info.layers))
            raise DataError(
                f"{self.store.folder}: holds no projection of blocks {blocks} to {self.project} channels; run prepare, "
                "which learns it"
            )
        return projection

    def use_projection(self, tensors: dict[str, Tensor], where: str) -> None:
        """Project with given tensors, which were read from `where`.

        Raises
        ------
        DataError
            If they are no projection of these blocks to so many channels.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> features = scene_task("prepare.project=3").features
        >>> features.use_projection({"weight": torch.eye(3, 16), "bias": torch.zeros(3)}, "best.safetensors")
        >>> [tuple(feature_map.shape) for feature_map in features.maps(torch.zeros(2, 3, 8, 12))]
        [(2, 3, 2, 3)]
        """
        assert self.project is not None
        self._projection = BlockProjection.read(tensors, (self.project, self._block_channels()), where).to(self.device)

    def assume_projection(self) -> None:
        """Compute with a projection of zeros until one is learnt: for the time that it takes, not for its values.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> features = scene_task("prepare.project=3").features
        >>> features.assume_projection()
        >>> features.maps(torch.zeros(1, 3, 4, 4))[0].flatten().tolist(), features.projection is None
        ([0.0, 0.0, 0.0], True)
        """
        if self.project is not None and self.projection is None:
            weight = torch.zeros(self.project, self._block_channels())
            self._assumed = BlockProjection(weight, torch.zeros(self.project)).to(self.device)

    def _block_channels(self) -> int:
        """Channels of the maps of all blocks together.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().features._block_channels()
        16
        """
        assert self.info
        assert self._plain is not None
        return sum(self._plain.channels)

    @torch.no_grad()
    def tokens(self, image: np.ndarray, valid: np.ndarray | None = None) -> Tensor:
        """Compute the vectors that are projected, of the cells of one picture that show anything valid.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3)
            8-bit colours.
        valid : ndarray of bool, shape (H, W), optional
            Pixels that are no padding and no nodata; None for all.

        Returns
        -------
        Tensor, shape (cells, C)
            float32, row by row; C channels are those of all blocks.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> features, valid = scene_task("prepare.project=3").features, np.zeros((8, 12), bool)
        >>> valid[:, 7:] = True
        >>> image = np.zeros((8, 12, 3), np.uint8)
        >>> tuple(features.tokens(image).shape), tuple(features.tokens(image, valid).shape)
        ((6, 16), (4, 16))
        """
        maps = self.backbone(torch.from_numpy(image).permute(2, 0, 1)[None].to(self.device))
        tokens = torch.cat([feature_map[0].flatten(1) for feature_map in maps]).T
        if valid is None:
            return tokens
        stride = self.info.strides[0]
        padded = np.zeros(self.info.padded(valid.shape), bool)
        padded[: valid.shape[0], : valid.shape[1]] = valid
        shown = padded.reshape(padded.shape[0] // stride, stride, -1, stride).any(axis=(1, 3))
        return tokens[torch.from_numpy(shown.ravel()).to(tokens.device)]

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


def projected_info(info: BackboneInfo, channels: int) -> BackboneInfo:
    """What a backbone is whose maps are projected to one of so many channels.

    Raises
    ------
    SettingsError
        If the blocks have several strides, or fewer channels together.

    Examples
    --------
    >>> from models.backbones.weights import IMAGENET
    >>> info = BackboneInfo("a", "dinov3_convnext", "0f", "x", 32, (0, 3), (8, 64), (4, 32), *IMAGENET, 4)
    >>> projected_info(replace(info, strides=(4, 4)), 16).channels
    (16,)
    >>> projected_info(info, 16)
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: prepare.project: blocks 0, 3 have strides of 4, 32 pixels, and one map has one; ...
    """
    blocks = ", ".join(map(str, info.layers))
    if len(set(info.strides)) > 1:
        strides = ", ".join(map(str, info.strides))
        raise SettingsError(
            f"prepare.project: blocks {blocks} have strides of {strides} pixels, and one map has one; choose one of "
            f"them, such as model.layers: [{info.layers[-1]}], or drop prepare.project"
        )
    if channels > sum(info.channels):
        raise SettingsError(
            f"prepare.project: {channels}, but blocks {blocks} have {sum(info.channels)} channels together; lower it"
        )
    return replace(info, channels=(channels,), strides=info.strides[:1])


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
