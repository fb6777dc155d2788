"""The base of tasks whose model is a head on the maps of the frozen backbone."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from config import TaskConfig, expand_path
from models import build_head
from models.backbones.info import resolve_precision
from models.base import FeatureSpec, Head
from tasks.context import Context
from tasks.features import FeatureService
from tasks.memory import refuse_too_large, sample_bytes
from tasks.model import FeatureModel, may_start_from
from tasks.named_files import check_there, sample_writes
from tasks.projection import count_chosen, learn_once
from tasks.runs import choose_device
from tasks.source import FeatureSource, ListedSource
from tasks.splits import warn_of_absent
from tasks.stores import open_store
from tasks.task import Task
from utils.errors import DataError, SettingsError
from utils.geometry.augment import View, views_of
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint, load_checkpoint

logger = logging.getLogger(__name__)

PROJECTION = "projection"  # starts the names of its tensors in a checkpoint

Config = TypeVar("Config", bound=TaskConfig)
DESCRIBED = frozenset(  # what `describe_model` writes and `restored_settings` needs
    [
        "kind",
        "head",
        "head_options",
        "backbone",
        "layers",
        "precision",
        "attention",
        "freeze",
        "features",
        "store_dtype",
    ]
)


class FeatureTask(Task):
    """A task with a head on stored or live maps of the backbone.

    Attributes
    ----------
    features : FeatureService
        The backbone, its maps and their records.
    source : FeatureSource
        The items, samples and labels.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task("inference.tta.horizontal_flip=true")
    >>> [view.name for view in task.prediction_views()]
    ['identity', 'hflip']
    """

    source: FeatureSource

    @cached_property
    def features(self) -> FeatureService:
        """The backbone with its store; weights are loaded when they are needed.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().features.store_dtype
        'fp16'
        """
        settings, prepare = self.settings, self.settings.prepare
        device, store = choose_device(settings.device("prepare")), open_store(settings, "prepare")
        features = FeatureService(settings.model, store, prepare.store_dtype, device, prepare.project)
        copy = settings.processed_dir("train")
        if prepare.project is not None and copy != settings.processed_dir("prepare") and copy.exists():
            features.more_stores = [open_store(settings, "train")]
        return features

    @override
    def setup(self) -> None:
        self.features.setup()
        for note in self.odd_sides() if distributed.is_main() else ():
            tell_once(note)

    def odd_sides(self) -> list[str]:
        """Say which sizes in the settings are no whole number of the backbone's patches, and what comes of it.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().odd_sides(), len(scene_task("prepare.tile_size=34").odd_sides())
        ([], 1)
        """
        return []

    def beside_patch(self, key: str, side: int) -> str:
        """Say of a size that it is no whole number of patches, and which are near; empty where it is one.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().beside_patch("prepare.tile_size", 34), scene_task().beside_patch("prepare.tile_size", 36)
        ('prepare.tile_size: 34 is no multiple of 4, the patch of the backbone (32 and 36 are)', '')
        """
        patch = self.features.info.patch_size
        below, above = side // patch * patch, -(-side // patch) * patch
        near = f"{below} and {above} are" if below else f"{above} is"
        return f"{key}: {side} is no multiple of {patch}, the patch of the backbone ({near})" if side % patch else ""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Give how many classes or keypoints the head has."""

    def works_from_checkpoint(self) -> bool:
        """Whether no phase is enabled that makes a model, and the settings name the checkpoint to use.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> alone = "evaluate={enable: true, checkpoint: best.safetensors}"
        >>> scene_task(alone).works_from_checkpoint()  # the example prepares and trains
        False
        >>> scene_task("prepare.enable=false", "train.enable=false", alone).works_from_checkpoint()
        True
        """
        enabled = self.settings.enabled_phases
        named = [getattr(self.settings, phase).checkpoint for phase in ("evaluate", "inference") if phase in enabled]
        return any(named) and not {"prepare", "verify", "train"} & set(enabled)

    def plan_before_sample(self) -> list[str]:
        """The lines of `check` while prepare has yet to write the sample; lists that it will draw are announced.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("dataset.sample={enable: true, folder: /no/such}").plan_before_sample()
        ['the sample is not in /no/such yet; prepare writes it']
        """
        warn_of_absent(self.name, self.settings)
        if "inference" in self.settings.enabled_phases and isinstance(self.source, ListedSource):
            self.source.inference_sources()
        sample = getattr(self.settings.dataset, "sample", None)  # kinds that draw one have it
        return [f"the sample is not in {sample.folder} yet; prepare writes it"] if sample else []

    @override
    def check_init_from(self) -> None:
        named, model = self.settings.train.init_from, self.settings.model
        try:
            checkpoint = load_checkpoint(expand_path(named or ""))
        except DataError as error:
            raise DataError(f"train.init_from: {error}") from None
        kind, other = checkpoint.description.get("kind"), checkpoint.description.get("head")
        finetunes = model.freeze is not True and any(name.startswith("backbone.") for name in checkpoint.tensors)
        if not finetunes and not may_start_from(self.start_shapes(), checkpoint.tensors, same_kind=kind == self.kind):
            raise DataError(
                f"train.init_from: {checkpoint.path}: a checkpoint of kind {kind}, head {other}; this task is of kind "
                f"{self.kind}, head {model.head}, and no tensor fits; name another checkpoint, or remove the setting"
            )

    def start_shapes(self) -> nn.Module:
        """What a training can start from another model's weights, without memory for its weights.

        How many classes there are shows only when labels are read: here two.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> [name for name in scene_task().start_shapes().state_dict() if "classifier.weight" in name]
        ['head.classifier.weight']
        """
        self.features.setup()
        spec = self.spec()  # may load the backbone, whose weights must be real
        with torch.device("meta"):
            head = build_head(self.kind, self.settings.model.head, spec, 2, self.settings.model.head_options)
        return nn.ModuleDict({"head": head})

    @override
    def check_memory(self, phases: Sequence[str]) -> None:
        self.features.setup()
        for phase in phases:
            device = choose_device(self.settings.device(phase))
            refuse_too_large(self, phase, self.largest_sample(phase), device)

    @override
    def sample_memory(self) -> int:
        return sample_bytes(self, self.largest_sample("train"))

    def largest_sample(self, phase: str) -> tuple[int, int]:
        """Height and width of the largest sample of a phase, in pixels.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("inference.tile_size=64").largest_sample("prepare")
        (32, 32)
        """
        return self.source.sample_size()

    # -- model

    @override
    def build_model(self) -> nn.Module:
        model = self.settings.model
        finetune = False if model.freeze is True else (model.freeze or True)
        return FeatureModel(self.features, self.make_seeded_head(), finetune, self.train_precision)

    @property
    def train_precision(self) -> str:
        """What trained weights compute in: "bf16" or "fp32".

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("train.precision=bf16").train_precision
        'bf16'
        """
        return resolve_precision(self.settings.train.precision, choose_device(self.settings.device("train")))

    def check_head(self) -> None:
        """Raise for an unknown head or options that it does not take, without making its weights.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("model.head_options={width: 0}").check_head()
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: model.head_options.width: expected greater than or equal to 1, got int 0
        """
        self.features.setup()
        self.head_shapes()

    def head_shapes(self) -> Head:
        """Make the head without memory for its weights, for its stride and other numbers.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> next(scene_task().head_shapes().parameters()).device.type
        'meta'
        """
        self.spec()  # may load the backbone, whose weights must be real
        with torch.device("meta"):
            return self.make_head()

    def make_seeded_head(self) -> Head:
        """Make the head with the same first weights on every rank; the global generator is left as it was.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> first, second = (next(task.make_seeded_head().parameters()) for _ in range(2))
        >>> torch.equal(first, second)
        True
        """
        generator_state = torch.get_rng_state()
        torch.manual_seed(self.settings.resources.seed)
        head = self.make_head()
        torch.set_rng_state(generator_state)
        return head

    def make_head(self) -> Head:
        """Make the head that the settings name.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().make_head().stride
        4.0
        """
        model = self.settings.model
        return build_head(self.kind, model.head, self.spec(), self.num_outputs, self.head_options())

    def head_options(self) -> dict[str, Any]:
        """Options of the head: those of the settings, and what the task decides itself.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task("model.head_options={width: 16}").head_options()
        {'width': 16}
        """
        return self.settings.model.head_options

    def spec(self) -> FeatureSpec:
        """Channels, strides and normalisation of the features and pictures, for the head.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> scene_task().spec().patch_size
        4
        """
        info = self.features.info
        return FeatureSpec(
            info.channels, info.strides, info.patch_size, self.source.image_channels(), info.mean, info.std
        )

    def describe_model(self) -> dict[str, Any]:
        """The description of backbone and head in a checkpoint.

        Raises
        ------
        DataError
            If a projection of the blocks was not learnt yet.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> DESCRIBED <= set(task.describe_model())
        True
        """
        settings, info = self.settings, self.features.info
        projected: dict[str, Any] = {}  # trainings without a projection are described as before there were any
        if self.features.project is not None:
            digest = self.features.known_projection().digest
            projected = {"project": self.features.project, "projection": digest}
        return {
            "kind": self.kind,
            "head": settings.model.head,
            "head_options": self.head_options(),
            "backbone": {"id": info.id, "digest": info.digest, "licence": info.licence, "family": info.family},
            "layers": list(info.layers),
            "precision": settings.model.precision,
            "attention": settings.model.attention,
            "freeze": settings.model.freeze,
            "features": settings.train.features,
            "train_precision": self.train_precision,
            "store_dtype": settings.prepare.store_dtype,
            "normalization": {"mean": list(info.mean), "std": list(info.std)},
            **projected,
        }

    @classmethod
    def check_description(cls, checkpoint: Checkpoint, needed: frozenset[str]) -> dict[str, Any]:
        """Give the description in a checkpoint, if it is complete and of this kind.

        Raises
        ------
        DataError
            If it is of another kind, or a key is missing.

        Examples
        --------
        >>> from tasks.segmentation.task import SegmentationTask
        >>> description = {"kind": "segmentation"}
        >>> SegmentationTask.check_description(Checkpoint({}, description, Path("a")), frozenset(["scale"]))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a: its description lacks attention, backbone, features, ...; take another copy
        """
        description = checkpoint.description
        if description.get("kind") != cls.kind:
            raise DataError(
                f"{checkpoint.path}: a checkpoint of {description.get('kind')!r}, not of {cls.kind!r}; name another"
            )
        missing = sorted((DESCRIBED | needed) - set(description))
        if missing:
            listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise DataError(f"{checkpoint.path}: its description lacks {listed}; take another copy")
        return description

    @staticmethod
    def restored_settings(settings: Config, description: dict[str, Any], path: Path) -> Config:
        """Settings with the model of a checkpoint; another head in the file is an error, what else differs is told.

        Raises
        ------
        DataError
            If the file asks for another head.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> description = {**task.describe_model(), "layers": [1]}
        >>> FeatureTask.restored_settings(task.settings, description, Path("a")).model.layers
        [1]
        """
        refuse_other(settings.model, "model", {"head": description["head"]}, path)
        source = (
            settings.model.backbone if "backbone" in settings.model.model_fields_set else description["backbone"]["id"]
        )
        keys = ("head", "head_options", "layers", "precision", "attention", "freeze")
        given = {key: description[key] for key in keys if key in type(settings.model).model_fields}
        model = settings.model.model_copy(update=given | {"backbone": source})
        stored = {"project": description.get("project")} if "project" in type(settings.prepare).model_fields else {}
        warn_of_unused(settings.prepare, "prepare", stored, path)
        prepare = settings.prepare.model_copy(update={**stored, "store_dtype": description["store_dtype"]})
        # checkpoints of older versions name no precision: their heads were trained in fp32
        computed = {"features": description["features"], "precision": description.get("train_precision", "fp32")}
        train = settings.train.model_copy(update=computed)
        warn_of_unused(settings.model, "model", given, path)
        warn_of_unused(settings.train, "train", computed, path)
        return settings.model_copy(update={"model": model, "prepare": prepare, "train": train})

    def refuse_other_backbone(self, description: dict[str, Any], path: Path) -> None:
        """Raise if the backbone is not the one that the checkpoint was trained on.

        Raises
        ------
        DataError
            If the digests differ.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task()
        >>> task.refuse_other_backbone({"backbone": {"id": "x", "digest": "y"}}, Path("a"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a: was trained on the backbone x with digest y, but ...
        """
        backbone, source = description["backbone"], self.settings.model.backbone
        self.features.setup()
        if self.features.info.digest != backbone["digest"]:
            raise DataError(
                f"{path}: was trained on the backbone {backbone['id']} with digest {backbone['digest']}, but {source} "
                f"has {self.features.info.digest}; give that backbone in model.backbone"
            )

    def take_features(self, checkpoint: Checkpoint) -> None:
        """See that the backbone is that of a checkpoint, and take the projection of its blocks from it.

        Raises
        ------
        DataError
            If the backbone is another one, or the checkpoint lacks its projection.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task, tensors = scene_task("prepare.project=3"), {"weight": torch.eye(3, 16), "bias": torch.zeros(3)}
        >>> task.features.use_projection(tensors, "a")
        >>> kept, described = task.kept_tensors(), task.describe_model()
        >>> other = scene_task("prepare.project=3")
        >>> other.take_features(Checkpoint({}, described, Path("a"), kept))
        >>> other.describe_model() == described
        True
        >>> other.take_features(Checkpoint({}, described, Path("a")))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a: expected a projection of 16 to 3 channels, found none; take another copy
        """
        self.refuse_other_backbone(checkpoint.description, checkpoint.path)
        if self.features.project is not None:
            start = f"{PROJECTION}."
            found = {key: value for key, value in checkpoint.kept.items() if key.startswith(start)}
            tensors = {key.removeprefix(start): value for key, value in found.items()}
            self.features.use_projection(tensors, str(checkpoint.path))

    @override
    def kept_tensors(self) -> dict[str, Tensor]:
        if self.features.project is None:
            return {}
        return {f"{PROJECTION}.{name}": value for name, value in self.features.known_projection().tensors().items()}

    # -- what prepare learns

    @override
    def unlearnt(self) -> int:
        if self.features.projection is not None or self.features.project is None:
            return 0
        return count_chosen(self.source)

    @override
    def learn(self, context: Context) -> None:
        if self.features.project is not None:
            distributed.run_on_main(learn_once, self.source, self.features, context)
            self.features.store.refresh()  # what rank 0 has written

    @override
    def assume_learnt(self) -> None:
        self.features.assume_projection()

    @override
    def shared_records(self) -> list[str]:
        return [] if self.features.project is None else [self.features.projection_key]

    # -- predictions

    @override
    def prediction_views(self, phase: str = "inference") -> list[View]:
        tta = getattr(self.settings, phase).tta
        return views_of(tta.horizontal_flip, tta.vertical_flip, tta.quarter_turns)


@cache
def tell_once(text: str, level: int = logging.INFO) -> None:
    """Log a line, once in a process, however many phases come to it.

    Examples
    --------
    >>> tell_once("a side"), tell_once("a side"), tell_once.cache_info().hits > 0
    (None, None, True)
    """
    logger.log(level, text)


def warn_of_unused(section: Any, where: str, described: dict[str, Any], path: Path) -> None:
    """Say once which settings of the file have no effect, as the model of a checkpoint was trained with others.

    Blocks named by a word or from the end are not compared.

    Examples
    --------
    >>> from config import ModelConfig
    >>> section = ModelConfig(precision="bf16", head_options={"width": 8})
    >>> warn_of_unused(section, "model", {"precision": "fp32", "head_options": {"width": 8, "depth": 2}}, Path("a"))
    >>> tell_once.cache_info().currsize > 0
    True
    """
    for key, value in described.items():
        setting = getattr(section, key)
        if key not in section.model_fields_set or setting in (value, "auto", None):
            continue
        if isinstance(setting, dict) and setting.items() <= value.items():
            continue
        if key == "layers" and not all(isinstance(index, int) and index >= 0 for index in setting):
            continue
        text = f"{where}.{key}: {setting!r} has no effect on {path}, which was trained with {value!r}; drop it"
        tell_once(text, logging.WARNING)


def refuse_unused_sample(settings: Any, name: str, files: Sequence[str] = ()) -> None:
    """Refuse to write the sample if the pictures or labels in `paths.<name>` are elsewhere, or not among its `files`.

    Raises
    ------
    SettingsError
        If a path is outside the folder of the sample.
    DataError
        If a path is inside, but not there, and the sample does not have it either.

    Examples
    --------
    >>> drawn = {"sample": {"enable": True, "folder": "data/sample"}}
    >>> from tasks.segmentation.settings import SegmentationSettings
    >>> within, outside = {"label_path": "data/sample/labels.gpkg"}, {"label_path": "reef.gpkg"}
    >>> refuse_unused_sample(SegmentationSettings(dataset=drawn, paths=within), "label_path")
    >>> refuse_unused_sample(SegmentationSettings(dataset=drawn, paths=outside), "label_path")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: dataset.sample.enable: true, but paths.label_path is reef.gpkg, outside \
dataset.sample.folder (data/sample); set it to false to use your own
    """
    sample, path = settings.dataset.sample, settings.paths.resolve(name)
    folder = Path(expand_path(sample.folder)).resolve()
    for source in [path] if isinstance(path, str) else path or []:
        if sample.enable and not Path(source).resolve().is_relative_to(folder):
            raise SettingsError(
                f"dataset.sample.enable: true, but paths.{name} is {source}, outside dataset.sample.folder "
                f"({sample.folder}); set it to false to use your own"
            )
        if sample.enable and not sample_writes(settings, source, files):
            check_there(f"paths.{name}", source)


def refuse_other(section: Any, where: str, described: dict[str, Any], path: Path) -> None:
    """Refuse settings in the file that differ from a checkpoint.

    Raises
    ------
    DataError
        If a setting of the file differs from the checkpoint.

    Examples
    --------
    >>> from config import ModelConfig
    >>> refuse_other(ModelConfig(head="unet"), "model", {"head": "unet"}, Path("a"))
    >>> refuse_other(ModelConfig(), "model", {"head": "unet"}, Path("a"))
    >>> refuse_other(ModelConfig(head="dpt"), "model", {"head": "unet"}, Path("a"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a: holds head 'unet', but model.head asks for 'dpt'; name the right checkpoint or drop it
    """
    for key, value in described.items():
        setting = getattr(section, key)
        if key in section.model_fields_set and setting != value:
            raise DataError(
                f"{path}: holds {key} {value!r}, but {where}.{key} asks for {setting!r}; "
                "name the right checkpoint or drop it"
            )
