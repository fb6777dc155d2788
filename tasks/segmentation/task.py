"""Semantic segmentation of scenes and photos: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from typing_extensions import override

from config import SampleConfig, expand_path
from models.backbones.info import choose_blocks, resolve_layers
from models.base import SegmentationHead
from tasks.feature_task import FeatureTask, refuse_other, refuse_unused_sample
from tasks.predictor import Predictor
from tasks.segmentation.annotations import classes_of_taxonomy
from tasks.segmentation.ensemble import Ensemble
from tasks.segmentation.families import coarser_classes
from tasks.segmentation.items import SceneItem
from tasks.segmentation.label_settings import describe_labels, kept_band_files, kept_labels
from tasks.segmentation.objective import SegmentationObjective, listed_weights
from tasks.segmentation.output import SegmentationOutput
from tasks.segmentation.predictor import DensePredictor
from tasks.segmentation.settings import SegmentationSettings
from tasks.segmentation.source import SceneSource
from tasks.segmentation.value_checks import read_scaling
from utils.errors import DataError, SettingsError
from utils.geometry.augment import View
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint, load_checkpoint
from utils.samples.files import LAND_FILES

DESCRIBED = frozenset(["classes", "tile_size", "scale", "bands", "scaling"])  # what `from_checkpoint` needs


class SegmentationTask(FeatureTask):
    """Maps of classes from rasters and photos.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> task.kind, task.primary, task.classes
    ('segmentation', 'mIoU', ['dark', 'light'])
    """

    settings: SegmentationSettings
    kind = "segmentation"
    phases: ClassVar[tuple[str, ...]] = ("prepare", "verify", "train", "evaluate", "inference")
    primary = "mIoU"
    counted: ClassVar[tuple[str, str] | None] = ("pixels", "class")
    sample_files = LAND_FILES

    source: SceneSource
    output: SegmentationOutput

    def __init__(self, name: str, settings: SegmentationSettings):
        super().__init__(name, settings)
        self.classes = class_names(settings)
        self.source = SceneSource(name, settings, self.features, self.classes)
        self.output = SegmentationOutput(settings, self.classes, self.source.scenes)
        self._ensembles: dict[str, Ensemble] = {}  # their files are read once

    @cached_property
    @override
    def objective(self) -> SegmentationObjective:
        head = self.head_shapes()
        assert isinstance(head, SegmentationHead)
        return SegmentationObjective(self.settings, self.classes, self.features.info, head)

    @property
    @override
    def num_outputs(self) -> int:
        return len(self.classes)

    # -- before work starts

    @override
    def check(self) -> list[str]:
        classes, scenes = f"{len(self.classes)} classes: {', '.join(self.classes)}", self.source.scenes
        if self.works_from_checkpoint():
            lines = [f"head and classes are those of the checkpoint; {classes}"]
        else:
            self.spec()
            lines = [
                f"head {self.settings.model.head} on {self.features.describe()}, {classes}",
                *self.odd_sides(),
            ]
        if self.awaits_sample():
            return [*lines, *self.plan_before_sample()]
        if {"prepare", "verify", "train"} & set(self.settings.enabled_phases):
            lines += scenes.check()
            self.source.check_lists()
        if self.settings.inference.enable:
            lines += [f"inference: {item.id}, {' x '.join(map(str, item.map_size))} pixels" for item in self._inputs()]
            lines += [f"inference: left out: {error}" for error in self.source.unreadable.values()]
        return lines

    @override
    def preflight(self, phases: Sequence[str]) -> None:
        super().preflight(phases)
        if "prepare" in phases:
            for name in ("raw_images_dir", "label_path"):
                refuse_unused_sample(self.settings, name, self.sample_files)
        if "train" in phases:
            listed_weights(self.settings, len(self.classes))
            self.check_head()
        if "inference" in phases and not self.settings.dataset.sample.enable:  # prepare writes the sample
            distributed.run_on_main(lambda: self._inputs() and None)
        for phase in ("evaluate", "inference"):
            if phase in phases and (ensemble := self.ensemble(phase)) is not None:
                try:
                    ensemble.check(self._pictures_of(phase))
                except DataError as error:
                    raise DataError(f"{phase}.ensemble.predictions: {error}") from None

    def _pictures_of(self, phase: str) -> list[Path]:
        """The first file of each picture that evaluate may score, or inference predicts; none before they are made.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> [path.name for path in scene_task()._pictures_of("inference")]
        ['scene_0.tif']
        """
        if self.settings.dataset.sample.enable:  # prepare writes the sample
            return []
        if phase == "inference":
            return [item.sources[0] for item in self._inputs()]
        if self.settings.evaluate.names_pictures:
            other = type(self)(self.name, self.settings_for_named(self.settings))
            return [files.paths[0] for files in other.source.scenes.labelled().values()]
        return [files.paths[0] for files in self.source.scenes.labelled().values()]

    def _inputs(self) -> list[SceneItem]:
        """Check the pictures to predict; those that cannot be read are left out, and inference reports them.

        Raises
        ------
        DataError
            If none of them can be read.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> len(scene_task()._inputs())
        1
        """
        items = self.source.items("inference")
        if self.source.unreadable and not items:
            raise DataError(*"\n".join(map(str, self.source.unreadable.values())).splitlines())
        self.output.polygon_options()
        settings = self.settings.inference
        if settings.output_tif or settings.output_dir:
            for item in items:
                self.output.destination(item, Path(expand_path(settings.output_dir or "")))
        return items

    @override
    def largest_sample(self, phase: str) -> tuple[int, int]:
        train, tile = self.settings.train, self.settings.prepare.tile_size
        sides = {"train": train.crop_size, "inference": self.settings.inference.tile_size}
        side = sides.get(phase) or tile
        return side, side

    @override
    def odd_sides(self) -> list[str]:
        train, inference = self.settings.train, self.settings.inference
        sides = {"prepare.tile_size": self.settings.prepare.tile_size, "train.crop_size": train.crop_size}
        sides |= {"inference.tile_size": inference.tile_size if inference.enable else None}
        notes = [self.beside_patch(key, side) for key, side in sides.items() if side]
        return [f"{note}; each window is padded to the next multiple, by reflection" for note in notes if note]

    @override
    def setup(self) -> None:
        super().setup()
        self.source.scenes.find_scaling()

    @override
    @classmethod
    def settings_for_named(cls, settings: SegmentationSettings) -> SegmentationSettings:
        named = {"raw_images_dir": settings.evaluate.inputs, "label_path": settings.evaluate.labels}
        dataset = settings.dataset.model_copy(update={"sample": SampleConfig(), "convert_to": None})
        return settings.model_copy(update={"paths": settings.paths.model_copy(update=named), "dataset": dataset})

    # -- checkpoints

    @override
    def coarser_classes(self, description: Mapping[str, Any]) -> dict[str, str]:
        return coarser_classes(self.settings.dataset, self.classes, description)

    @override
    def describe_data(self) -> dict[str, Any]:
        return {"labels": describe_labels(self.settings.dataset)}

    @override
    def predicting_key(self, phase: str) -> dict[str, Any]:
        ensemble = self.ensemble(phase)
        joined = {} if ensemble is None else {"ensemble": ensemble.key()}
        if phase == "evaluate":
            return joined  # the rest is in the key of the samples
        pictures = {"bands", "band_files", "scale", "nodata", "colours", "label_colours"}
        pictures |= (
            {"image_size"} if self.settings.dataset.image_size else set()
        )  # results of before it are still found
        return self.settings.dataset.model_dump(mode="json", include=pictures) | joined

    @override
    def describe(self) -> dict[str, Any]:
        self.source.scenes.find_scaling()
        assert self.source.scenes.scaling is not None
        names, size = self.settings.dataset.band_files, self.settings.dataset.image_size
        return {
            **self.describe_model(),
            "classes": self.classes,
            "tile_size": self.settings.prepare.tile_size,
            "scale": self.settings.dataset.scale,
            "bands": self.settings.dataset.bands,
            **({"band_files": names} if names else {}),  # trainings of before it was kept are still found
            **({"image_size": size} if size else {}),
            "nodata": self.settings.dataset.nodata,
            "scaling": self.source.scenes.scaling.to_json(),
            "label_colours": self.settings.dataset.label_colours,
            "colours": self.settings.dataset.colours,
            "value_range": self.settings.dataset.value_range,
            "percentiles": self.settings.dataset.percentiles,
        }

    @classmethod
    @override
    def from_checkpoint(cls, name: str, settings: SegmentationSettings, checkpoint: Checkpoint) -> Self:
        description = cls.check_description(checkpoint, DESCRIBED)
        refuse_other_data(settings, description, checkpoint.path)
        model = settings.model
        settings = cls.restored_settings(settings, description, checkpoint.path)
        known = {key: description[key] for key in ("classes", "scale", "bands")} | kept_colours(settings, description)
        known["image_size"] = description.get("image_size")
        if "nodata" not in settings.dataset.model_fields_set:  # new pictures may have a fill of their own
            known["nodata"] = description.get("nodata")  # not in old checkpoints
        known |= kept_band_files(settings, description)
        known |= kept_labels(settings.dataset, description, checkpoint.path)
        dataset = settings.dataset.model_copy(update=known)
        prepare = settings.prepare.model_copy(update={"tile_size": description["tile_size"]})
        task = cls(name, settings.model_copy(update={"dataset": dataset, "prepare": prepare}))
        task.take_features(checkpoint)
        number = task.features.info.num_blocks  # -1 is the last block
        layers = resolve_layers(choose_blocks(model.layers or description["layers"], number), number)
        if list(layers) != list(description["layers"]):
            refuse_other(model, "model", {"layers": description["layers"]}, checkpoint.path)
        task.source.scenes.use_scaling(read_scaling(description["scaling"], checkpoint.path), checkpoint.path)
        return task

    @override
    def take_checkpoint(self, checkpoint: Checkpoint) -> None:
        scenes = self.source.scenes
        scenes.use_scaling(scenes.scaling, checkpoint.path)  # new pictures must hold values that the model knows

    # -- predictions

    @override
    def predictor(self, views: Sequence[View] | None = None, phase: str = "train") -> Predictor:
        number = len(self.prediction_views() if views is None else views)
        read_valid = self.source.scenes.holds_something
        patch_size = self.features.info.patch_size
        return DensePredictor(len(self.classes), patch_size, number, read_valid, self.ensemble(phase))

    def ensemble(self, phase: str) -> Ensemble | None:
        """What joins the predictions of a phase with another model's; None where nothing does.

        Examples
        --------
        >>> from tasks.example import scene_task
        >>> task = scene_task("inference.ensemble={predictions: a.json}")
        >>> task.ensemble("evaluate") is None, task.ensemble("inference").settings.predictions
        (True, 'a.json')
        """
        asked = {"evaluate": self.settings.evaluate.ensemble, "inference": self.settings.inference.ensemble}.get(phase)
        if asked is None:
            return None
        if phase not in self._ensembles:
            self._ensembles[phase] = Ensemble(self.settings, asked, self.classes)
        return self._ensembles[phase]


def class_names(settings: SegmentationSettings) -> list[str]:
    """Names of the classes, or `class_0` and so on.

    Raises
    ------
    SettingsError
        If neither names nor a number are set, or the names cannot be used.

    Examples
    --------
    >>> class_names(SegmentationSettings(model={"num_classes": 2}))
    ['class_0', 'class_1']
    >>> class_names(SegmentationSettings(dataset={"taxonomy": "agnostic", "unlabelled": "background"}))
    ['background', 'coral']
    >>> class_names(SegmentationSettings())
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: dataset.classes: not set; name them, such as [field, road], or set model.num_classes
    """
    names, number = settings.dataset.classes, settings.model.num_classes
    if names is None and number is None:
        names = _classes_of_checkpoint(settings) or classes_of_taxonomy(settings.dataset)
    if names is None and number is None:
        raise SettingsError("dataset.classes: not set; name them, such as [field, road], or set model.num_classes")
    names = names or [f"class_{index}" for index in range(number or 0)]
    if len(names) > 254:
        raise SettingsError(f"dataset.classes: at most 254 classes fit into 8-bit labels, got {len(names)}")
    strange = [name for name in names if not name.strip() or not name.isprintable()]
    if strange:
        raise SettingsError(f"dataset.classes: a name must be printable text, got {strange[0]!r}")
    if len(set(names)) != len(names) or "ignore" in names:
        raise SettingsError(f"dataset.classes: names must differ, and none may be 'ignore', got {names}")
    return names


def _classes_of_checkpoint(settings: SegmentationSettings) -> list[str] | None:
    """Classes of the checkpoint in the settings, if no other phase than prediction is enabled.

    Phases that `--only` asks for need not be enabled.

    Examples
    --------
    >>> _classes_of_checkpoint(SegmentationSettings()) is None
    True
    """
    if {"prepare", "verify", "train"} & set(settings.enabled_phases):
        return None
    path = settings.evaluate.checkpoint or settings.inference.checkpoint
    return load_checkpoint(expand_path(path)).description.get("classes") if path else None


def kept_colours(settings: SegmentationSettings, description: dict[str, Any]) -> dict[str, Any]:
    """The colours in a checkpoint, where the settings do not say how labels are read or results are shown.

    Examples
    --------
    >>> description = {"label_colours": {"fish": [255, 0, 0]}, "colours": None}
    >>> kept_colours(SegmentationSettings(), description)
    {'label_colours': {'fish': [255, 0, 0]}, 'colours': None}
    >>> kept_colours(SegmentationSettings(dataset={"label_mapping": {1: "fish"}}), description)
    {'colours': None}
    """
    dataset = settings.dataset
    missing = ["label_colours"] if dataset.label_colours is None and dataset.label_mapping is None else []
    missing += ["colours"] if dataset.colours is None else []
    return {key: description[key] for key in missing if key in description}  # not in old checkpoints


def refuse_other_data(settings: SegmentationSettings, description: dict[str, Any], path: Path) -> None:
    """Refuse settings of pictures and classes in the file that differ from a checkpoint.

    Examples
    --------
    >>> description = {"classes": ["a", "b"], "bands": None, "scale": 1.0, "tile_size": 64}
    >>> refuse_other_data(SegmentationSettings(model={"num_classes": 2}), description, Path("a"))
    >>> refuse_other_data(SegmentationSettings(dataset={"scale": 0.5}), description, Path("a"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a: holds scale 1.0, but dataset.scale asks for 0.5; name the right checkpoint or drop it
    """
    keys = ("classes", "bands", "scale", "value_range", "percentiles")  # the last two are not in old checkpoints
    described = {key: description[key] for key in keys if key in description}
    described["image_size"] = description.get("image_size")  # only where it was set
    refuse_other(settings.dataset, "dataset", described, path)
    refuse_other(settings.prepare, "prepare", {"tile_size": description["tile_size"]}, path)
    if settings.model.num_classes is not None:
        refuse_other(settings.model, "model", {"num_classes": len(description["classes"])}, path)
