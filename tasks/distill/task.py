"""The task of distillation: a small student is trained on the maps of a teacher backbone, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from typing_extensions import override

from config import expand_path
from models.backbones.student import Student
from models.backbones.transformer_students import TransformerStudent
from models.backbones.weights import FAMILIES
from tasks.distill.comparison import read_probe
from tasks.distill.export import refuse_foreign
from tasks.distill.model import DistillModel, fit_projections
from tasks.distill.objective import DistillObjective
from tasks.distill.output import DistillOutput
from tasks.distill.predictor import StudentPredictor
from tasks.distill.settings import DistillSettings
from tasks.distill.source import CropSource
from tasks.feature_task import FeatureTask, refuse_other
from tasks.predictor import Predictor
from tasks.splits import lists_stay
from utils.errors import SettingsError
from utils.geometry.augment import IDENTITY, View
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint

DESCRIBED = frozenset(["crop"])
CONVNEXT_STRIDE = 16  # pixels of a convolutional student per cell of the teacher: its third stage


class DistillTask(FeatureTask):
    """Distils a teacher backbone into a small student.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> task = student_task()
    >>> task.kind, task.primary, task.num_outputs
    ('distill', 'mean_cosine', 2)
    """

    settings: DistillSettings
    kind = "distill"
    phases: ClassVar[tuple[str, ...]] = ("prepare", "verify", "train", "evaluate", "export")
    absent: ClassVar[Mapping[str, str]] = {"inference": "export it and name the folder in model.backbone of a task"}
    primary = "mean_cosine"

    source: CropSource
    output: DistillOutput

    def __init__(self, name: str, settings: DistillSettings):
        super().__init__(name, settings)
        self.source = CropSource(name, settings, self.features, lambda: self.teacher_side)
        self.output = DistillOutput(settings, self.features, self.build_model)

    @cached_property
    @override
    def objective(self) -> DistillObjective:
        return DistillObjective(self.settings, self.source, self._student)

    @property
    @override
    def num_outputs(self) -> int:
        return len(self.features.info.layers)

    @property
    def teacher_side(self) -> int:
        """Side of the pictures for the teacher, with which its grid is that of the student.

        A convolutional teacher, whose maps have several strides, gets the crop in its own size.

        Raises
        ------
        SettingsError
            If the crop is not a multiple of the patches.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> student_task().teacher_side
        16
        >>> student_task("distill.crop=36").teacher_side
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: distill.crop: 36 is not a multiple of 8, the patch of the student; take 32 or 40
        """
        info, crop, student = self.features.info, self.settings.distill.crop, self._student.backbone.info
        refuse_odd_crop(crop, student.patch_size, "the patch of the student")
        if not FAMILIES[info.family].is_vit:
            refuse_odd_crop(crop, info.patch_size, "the largest stride of the teacher")
            return crop
        stride = student.patch_size if FAMILIES[student.family].is_vit else CONVNEXT_STRIDE
        return crop // stride * info.patch_size

    # -- before work starts

    @override
    def check(self) -> list[str]:
        info, units = self.features.info, self.source.units
        size = sum(parameter.numel() for parameter in self._student.backbone.parameters())
        self.teacher_side  # noqa: B018 - raises for a crop of another size
        self.source.check_lists()
        split = "which prepare will split"
        if lists_stay(self.name, self.settings):
            split = f"{len(self.source.items('train'))} to train on, {len(self.source.items('val'))} to validate"
        return [
            f"student {self.settings.model.head} with {size / 1e6:.2f} M parameters for "
            f"{info.describe_blocks(self.features.precision)}, crops of {self.settings.distill.crop} pixels",
            f"{len(self.source.files.pictures)} pictures and videos, {len(units)} items, {split}",
        ]

    @override
    def preflight(self, phases: Sequence[str]) -> None:
        super().preflight(phases)
        self.features.setup()
        self.teacher_side  # noqa: B018 - raises if teacher, student and crop do not fit
        if isinstance(self._student, TransformerStudent):
            self._student.check_teacher(self.features.info)
        if {"prepare", "train"} & set(phases):
            distributed.run_on_main(lambda: self.source.files.find_groups() and None)
        if "export" in phases and self.settings.export.output_dir:
            refuse_foreign(Path(expand_path(self.settings.export.output_dir)))
        if "evaluate" in phases and self.settings.distill.probe is not None:
            read_probe(self.settings.distill.probe)

    @override
    @classmethod
    def settings_for_named(cls, settings: DistillSettings) -> DistillSettings:
        paths = settings.paths.model_copy(update={"raw_images_dir": settings.evaluate.inputs})
        distill = settings.distill.model_copy(update={"stacks": []})  # pictures beside raw_images_dir
        return settings.model_copy(update={"paths": paths, "distill": distill})

    # -- model

    @cached_property
    def _student(self) -> Student:
        """A student without memory for its weights, to read its sizes.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> student_task()._student.backbone.info.patch_size
        8
        """
        student = self.head_shapes()
        assert isinstance(student, Student)
        return student

    @override
    def start_shapes(self) -> nn.Module:
        self.features.setup()
        return nn.ModuleDict({"student": self.head_shapes()})

    @override
    def build_model(self) -> nn.Module:
        student = self.make_seeded_head()
        assert isinstance(student, Student)
        student.compute_in(self.train_precision)
        model = DistillModel(self.features, student, self.teacher_side, self.settings.distill.student_scales)
        statistics = self.objective.statistics
        for projection, measured in zip(model.projections, statistics or [], strict=statistics is not None):
            projection.set_target_stats(*measured)
        if statistics is not None and isinstance(student, TransformerStudent) and student.options.inherit:
            self._initialise_from_teacher(student)  # only at the start of a training
        return model

    def _initialise_from_teacher(self, student: TransformerStudent) -> None:
        """Initialise a student from blocks of the teacher, and fit its projections.

        With random projections the first gradients would destroy the inherited weights (Kumar et al., 2022,
        arXiv:2202.10054).

        Examples
        --------
        >>> import tempfile
        >>> from tasks.stores import open_store
        >>> from tasks.distill.example import student_example
        >>> from tasks.phases import prepare
        >>> from tasks.prepared import prepared_items
        >>> options = "{width: 8, depth: 1, heads: 2, mlp_ratio: 2, patch_size: 8, inherit: [1]}"
        >>> task, context = student_example(tempfile.mkdtemp(), "model.head=dinov2", f"model.head_options={options}")
        >>> _ = prepare.run(task, context)
        >>> prepared = prepared_items(task, open_store(task.settings, "train"), "train", "train")
        >>> task.objective.fit_statistics(prepared[0].entries)
        >>> student = task.build_model().student
        >>> torch.equal(student.backbone.blocks[0].norm1.weight, task.features.backbone.blocks[1].norm1.weight)
        True
        """
        student.inherit_from(self.features.backbone)
        fitted = distributed.run_on_main(lambda: fit_projections(student, self.objective.measured_records()))
        for projection, (weight, bias) in zip(student.projections, fitted, strict=True):
            projection.load_weights(torch.tensor(weight), torch.tensor(bias))  # type: ignore[operator]

    # -- checkpoints

    @override
    def describe(self) -> dict[str, Any]:
        info = self._student.backbone.info
        return {
            **self.describe_model(),
            "crop": self.settings.distill.crop,
            "distill": self.settings.distill.model_dump(mode="json", include={"student_scales", "loss"}),
            "student": {"family": info.family, "layers": list(info.layers), "config": self._student.config},
        }

    @override
    @classmethod
    def from_checkpoint(cls, name: str, settings: DistillSettings, checkpoint: Checkpoint) -> Self:
        description = cls.check_description(checkpoint, DESCRIBED)
        refuse_other(settings.distill, "distill", {"crop": description["crop"]}, checkpoint.path)
        settings = cls.restored_settings(settings, description, checkpoint.path)
        distill = settings.distill.model_copy(update={"crop": description["crop"]})
        task = cls(name, settings.model_copy(update={"distill": distill}))
        task.take_features(checkpoint)
        return task

    @override
    def take_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.objective.statistics = None  # students made from now on begin with nothing of the teacher

    # -- predictions

    @override
    def predictor(self, views: Sequence[View] | None = None, phase: str = "train") -> Predictor:
        return StudentPredictor(self.num_outputs)

    @override
    def prediction_views(self, phase: str = "inference") -> list[View]:
        return [IDENTITY]


def refuse_odd_crop(crop: int, multiple: int, what: str) -> None:
    """Refuse a crop that does not consist of whole patches.

    Raises
    ------
    SettingsError
        If the crop is not a multiple.

    Examples
    --------
    >>> refuse_odd_crop(320, 16, "the patch of the student")
    >>> refuse_odd_crop(330, 16, "the patch of the student")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: distill.crop: 330 is not a multiple of 16, the patch of the student; take 320 or 336
    """
    if crop % multiple:
        below = crop // multiple * multiple
        near = f"{below} or {below + multiple}" if below else str(multiple)
        raise SettingsError(f"distill.crop: {crop} is not a multiple of {multiple}, {what}; take {near}")
