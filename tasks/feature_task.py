"""What tasks share that train a head on the features of a backbone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import TaskConfig, expand_path
from models import build_head
from models.base import FeatureSpec, Head
from tasks.base import Producer, Request, Sample, Task, open_store
from tasks.features import FeatureService
from tasks.model import FeatureModel
from tasks.runs import choose_device
from utils.augment import IDENTITY, Variation, View, views_of
from utils.checkpoints import Checkpoint
from utils.errors import DataError, SettingsError
from utils.files import digest_json

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
    """A task whose samples have an `image`, whose model is a head on the maps of a backbone.

    Parameters
    ----------
    name : str
        The task's name in the settings.
    settings : TaskConfig
        All of its settings.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> isinstance(task, FeatureTask), task.num_outputs, task.sample_size()
    (True, 2, (32, 32))
    """

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Classes or keypoints: channels of the head's answer."""

    @abstractmethod
    def sample_size(self) -> tuple[int, int]:
        """Height and width of a sample."""

    def image_channels(self) -> int:
        """Channels of a sample's picture.

        Examples
        --------
        >>> from tasks.keypoints import KeypointsTask
        >>> KeypointsTask("animals", TaskConfig(kind="keypoints")).image_channels()
        3
        """
        return 3

    # -- features

    @cached_property
    def features(self) -> FeatureService:
        """The backbone, loaded when it is needed.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0].features.store_dtype
        'fp16'
        """
        device = choose_device(self.settings.device("prepare"))
        store = open_store(self.settings, "prepare")
        return FeatureService(self.settings.model, store, self.settings.prepare.store_dtype, device)

    def cell_size(self) -> int:
        """Side of a patch of the backbone, or of a cell of its coarsest stage.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0].cell_size()
        4
        """
        return self.features.info.patch_size

    def views(self, split: str) -> Sequence[View | Variation]:
        """Stored views of training samples; validation is stored as it is.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, _ = example_task(tempfile.mkdtemp(), "dataset.augmentations={enable: true, stored_views: 3}")
        >>> [view.name for view in task.views("train")][0], len(task.views("train")), len(task.views("val"))
        ('identity', 3, 1)
        """
        settings = self.settings.dataset.augmentations
        if split != "train" or not settings.enable:
            return [IDENTITY]
        group = self.view_group()
        if self.settings.train.features == "online":
            return group
        number = min(settings.stored_views, len(group))
        spread = [group[round(index * len(group) / number)] for index in range(number)]  # the same for every seed
        return [*spread, *self._stored_variations()]

    def view_group(self) -> list[View]:
        """Views that the settings allow a training picture to take.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, _ = example_task(tempfile.mkdtemp(), "dataset.augmentations={enable: true, rotate90: false}")
        >>> [view.name for view in task.view_group()]
        ['identity', 'rot180', 'hflip', 'vflip']
        """
        settings = self.settings.dataset.augmentations
        return views_of(settings.hflip, settings.vflip, settings.rotate90)

    def _stored_variations(self) -> list[Variation]:
        """Random variations of training samples whose features are stored; the same for every seed, to be shared.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> changed = "dataset.augmentations={enable: true, brightness: 0.2, stored_variations: 2}"
        >>> [variation.index for variation in example_task(tempfile.mkdtemp(), changed)[0]._stored_variations()]
        [1, 2]
        """
        settings = self.settings.dataset.augmentations
        recipe = digest_json(settings.model_dump(mode="json", exclude={"stored_variations"}))[:8]
        return [Variation(index + 1, recipe) for index in range(settings.stored_variations)]

    def requests(self, sample: Sample) -> list[Request]:
        """Features of the sample's colours, unless they are computed online.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.base import Item
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> sample = Sample("a", Item("a", ()), {"image": np.zeros((8, 8, 3), np.uint8)})
        >>> [request.producer for request in task.requests(sample)]
        ['backbone']
        """
        if self.settings.train.features == "online":
            return []
        colours = np.ascontiguousarray(sample.arrays["image"][..., :3])
        return [Request("backbone", self.features.key(colours), colours)]

    def producers(self) -> dict[str, Producer]:
        """The backbone.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> list(example_task(tempfile.mkdtemp())[0].producers())
        ['backbone']
        """
        return {"backbone": self.features.produce}

    def record_bytes(self) -> int:
        """Size of the features of one sample.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0].record_bytes()
        2048
        """
        if self.settings.train.features == "online":
            return 0
        return self.features.record_bytes(self.sample_size())

    # -- model

    def build_model(self) -> nn.Module:
        """The head on the backbone's features.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> type(example_task(tempfile.mkdtemp())[0].build_model().head).__name__
        'DPTHead'
        """
        model = self.settings.model
        generator_state = torch.get_rng_state()
        torch.manual_seed(self.settings.resources.seed)  # the same first weights on every rank
        head = self.make_head()
        torch.set_rng_state(generator_state)
        finetune = False if model.freeze is True else (model.freeze or True)
        return FeatureModel(self.features, head, finetune)

    def check_head(self) -> None:
        """Raise for a head or options that cannot be, without making its weights.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp(), "model.head_options={width: 0}")[0].check_head()
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: model.head_options.width: expected greater than 0, got int 0
        """
        self._spec()  # may load the backbone, whose weights must be real
        with torch.device("meta"):  # shapes only
            self.make_head()

    def make_head(self) -> Head:
        """Make the head that the settings name.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0].make_head().stride
        4.0
        """
        model = self.settings.model
        return build_head(self.kind, model.head, self._spec(), self.num_outputs, self.head_options())

    def head_options(self) -> dict[str, Any]:
        """Options of the head: those of the settings, and what the task decides itself.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp(), "model.head_options={width: 16}")[0].head_options()
        {'width': 16}
        """
        return self.settings.model.head_options

    def _spec(self) -> FeatureSpec:
        """What the head is told of the features and pictures.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> example_task(tempfile.mkdtemp())[0]._spec().patch_size
        4
        """
        info = self.features.info
        return FeatureSpec(info.channels, info.strides, info.patch_size, self.image_channels(), info.mean, info.std)

    def describe_model(self) -> dict[str, Any]:
        """What a checkpoint must say of backbone and head.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> DESCRIBED <= set(task.describe_model())
        True
        """
        settings, info = self.settings, self.features.info
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
            "store_dtype": settings.prepare.store_dtype,
            "normalization": {"mean": list(info.mean), "std": list(info.std)},
        }

    @classmethod
    def check_description(cls, checkpoint: Checkpoint, needed: frozenset[str]) -> dict[str, Any]:
        """Give a checkpoint's description when it is one of this kind, and whole.

        Raises
        ------
        DataError
            If it is of another kind, or lacks something.

        Examples
        --------
        >>> from tasks.segmentation import SegmentationTask
        >>> said = {"kind": "segmentation"}
        >>> SegmentationTask.check_description(Checkpoint({}, said, Path("a")), frozenset(["scale"]))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a: its description lacks attention, backbone, features, ...; take another copy
        """
        said = checkpoint.description
        if said.get("kind") != cls.kind:
            raise DataError(
                f"{checkpoint.path}: a checkpoint of {said.get('kind')!r}, not of {cls.kind!r}; name another"
            )
        missing = sorted((DESCRIBED | needed) - set(said))
        if missing:
            named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise DataError(f"{checkpoint.path}: its description lacks {named}; take another copy")
        return said

    @staticmethod
    def restored_settings(settings: TaskConfig, said: dict[str, Any], path: Path) -> TaskConfig:
        """Settings with the model that a checkpoint describes; what they say otherwise is an error, no compromise.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> said = {**task.describe_model(), "layers": [1]}
        >>> FeatureTask.restored_settings(task.settings, said, Path("a")).model.layers
        [1]
        """
        refuse_other(settings.model, "model", {"head": said["head"]}, path)
        source = settings.model.backbone if "backbone" in settings.model.model_fields_set else said["backbone"]["id"]
        told = ("head", "head_options", "layers", "precision", "attention", "freeze")
        model = settings.model.model_copy(update={key: said[key] for key in told} | {"backbone": source})
        prepare = settings.prepare.model_copy(update={"store_dtype": said["store_dtype"]})
        train = settings.train.model_copy(update={"features": said["features"]})
        return settings.model_copy(update={"model": model, "prepare": prepare, "train": train})

    def refuse_other_backbone(self, said: dict[str, Any], path: Path) -> None:
        """Raise when the backbone is not the one that a checkpoint was trained on.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import example_task
        >>> task, context = example_task(tempfile.mkdtemp())
        >>> task.refuse_other_backbone({"backbone": {"id": "x", "digest": "y"}}, Path("a"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a: was trained on the backbone x with digest y, but ...
        """
        known, source = said["backbone"], self.settings.model.backbone
        if self.features.info.digest != known["digest"]:
            raise DataError(
                f"{path}: was trained on the backbone {known['id']} with digest {known['digest']}, but {source} has "
                f"{self.features.info.digest}; give that backbone in model.backbone"
            )


def refuse_unused_sample(settings: TaskConfig, name: str) -> None:
    """Refuse to draw the sample for somebody whose pictures or labels, `paths.<name>`, are elsewhere.

    Examples
    --------
    >>> drawn = {"sample": {"enable": True, "folder": "data/sample"}}
    >>> refuse_unused_sample(TaskConfig(dataset=drawn, paths={"label_path": "data/sample/labels.gpkg"}), "label_path")
    >>> refuse_unused_sample(TaskConfig(dataset=drawn, paths={"label_path": "reef.gpkg"}), "label_path")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: dataset.sample.enable: true, but paths.label_path is reef.gpkg, outside \
dataset.sample.folder (data/sample); set it to false to use your own
    """
    sample, named = settings.dataset.sample, settings.paths.resolve(name)
    folder = Path(expand_path(sample.folder)).resolve()
    for source in [named] if isinstance(named, str) else named or []:
        if sample.enable and not Path(source).resolve().is_relative_to(folder):
            raise SettingsError(
                f"dataset.sample.enable: true, but paths.{name} is {source}, outside dataset.sample.folder "
                f"({sample.folder}); set it to false to use your own"
            )


def refuse_other(section: Any, where: str, said: dict[str, Any], path: Path) -> None:
    """Refuse settings that are given in the file and contradict a checkpoint.

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
    for key, value in said.items():
        asked = getattr(section, key)
        if key in section.model_fields_set and asked != value:
            raise DataError(
                f"{path}: holds {key} {value!r}, but {where}.{key} asks for {asked!r}; "
                "name the right checkpoint or drop it"
            )
