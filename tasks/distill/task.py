"""The task that makes small backbones: a student learns the feature maps of a frozen teacher."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from config import TaskConfig, expand_path
from models.backbone import resolve_precision
from models.student import Student, TransformerStudent
from models.weights import FAMILIES
from tasks.base import (
    Batch,
    Context,
    Entry,
    Finding,
    Item,
    Metric,
    Piece,
    Predictor,
    Progress,
    Request,
    Sample,
    Task,
    open_store,
)
from tasks.distill.comparison import compare_probes, probe_recipe, read_probe
from tasks.distill.export import export_student
from tasks.distill.model import DistillModel, fit_projections, teacher_pictures
from tasks.distill.pictures import CropData, CropItem
from tasks.distill.scoring import StudentMetric, StudentPredictor, draw_maps, report_scores
from tasks.feature_task import FeatureTask, refuse_other
from tasks.runs import choose_device
from tasks.splits import lists_stay
from utils import distributed
from utils.augment import IDENTITY, RandomColour, View
from utils.checkpoints import Checkpoint
from utils.data import BACKBONE, map_names
from utils.errors import DataError, SettingsError
from utils.map_comparison import ChannelStatistics, distill_counts, distill_sums
from utils.tiling import Window

logger = logging.getLogger(__name__)

DESCRIBED = frozenset(["crop"])
CONVNEXT_STRIDE = 16  # pixels of a convolutional student per cell of the teacher: its third stage
MEASURED_RECORDS = 256  # training records whose channels are measured


class DistillTask(FeatureTask):
    """A small backbone that speaks for a large one.

    Parameters
    ----------
    name : str
        The task's name in the settings.
    settings : TaskConfig
        All of its settings.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.distill.example import student_example
    >>> task, context = student_example(tempfile.mkdtemp())
    >>> task.kind, task.num_outputs, task.sample_size(), task.teacher_side
    ('distill', 2, (32, 32), 16)
    """

    kind = "distill"
    phases: ClassVar[tuple[str, ...]] = ("prepare", "verify", "train", "evaluate", "export")
    absent: ClassVar[Mapping[str, str]] = {"inference": "export it and name the folder in model.backbone of a task"}
    primary = "mean_cosine"

    def __init__(self, name: str, settings: TaskConfig):
        super().__init__(name, settings)
        self.data = CropData(name, settings)
        self.statistics: list[tuple[Tensor, Tensor]] | None = None
        self._measured: list[Entry] = []

    @property
    def num_outputs(self) -> int:
        """Number of the teacher's maps.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].num_outputs
        2
        """
        return len(self.features.info.layers)

    def sample_size(self) -> tuple[int, int]:
        """Height and width of a crop.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].sample_size()
        (32, 32)
        """
        return self.settings.distill.crop, self.settings.distill.crop

    @property
    def teacher_side(self) -> int:
        """Side of the pictures that the teacher is shown: its cells then lie on those of the student.

        A convolutional teacher, whose maps have several strides, is shown the crop as it is.

        Raises
        ------
        SettingsError
            If the crop is no multiple of the patches.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].teacher_side
        16
        >>> student_example(tempfile.mkdtemp(), "distill.crop=36")[0].teacher_side
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: distill.crop: 36 is no multiple of 8, the patch of the student; take 32 or 40
        """
        info, crop, student = self.features.info, self.settings.distill.crop, self._student.backbone.info
        refuse_odd_crop(crop, student.patch_size, "the patch of the student")
        if not FAMILIES[info.family].is_vit:
            refuse_odd_crop(crop, info.patch_size, "the largest stride of the teacher")
            return crop
        stride = student.patch_size if FAMILIES[student.family].is_vit else CONVNEXT_STRIDE
        return crop // stride * info.patch_size

    # -- before work starts

    def check(self) -> list[str]:
        """Check settings, pictures and weights, and tell the plan.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> for line in student_example(tempfile.mkdtemp())[0].check():
        ...     print(line)
        student vit with 0.01 M parameters for blocks 0, 1 of dinov2 (patch 4, fp32), crops of 32 pixels
        5 pictures and videos, 10 items, which prepare will split
        """
        info, units = self.features.info, self.data.units
        size = sum(parameter.numel() for parameter in self._student.backbone.parameters())
        self.teacher_side  # noqa: B018 - raises for a crop that cannot be
        split = "which prepare will split"
        if lists_stay(self.name, self.settings):
            split = f"{len(self.items('train'))} to train on, {len(self.items('val'))} to validate"
        return [
            f"student {self.settings.model.head} with {size / 1e6:.2f} M parameters for blocks "
            f"{', '.join(map(str, info.layers))} of {info.family} (patch {info.patch_size}, "
            f"{self.features.precision}), crops of {self.settings.distill.crop} pixels",
            f"{len(self.data.pictures)} pictures and videos, {len(units)} items, {split}",
        ]

    def check_early(self, phases: Sequence[str]) -> None:
        """Check devices, student, crop, pictures and probe, before hours of work end at them.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp(), "distill.probe.config=/no/such.yml")
        >>> task.check_early(["evaluate"])
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: distill.probe.config: /no/such.yml: no such settings file
        """
        super().check_early(phases)
        self.teacher_side  # noqa: B018 - raises for a teacher, student or crop that cannot be
        if isinstance(self._student, TransformerStudent):
            self._student.check_teacher(self.features.info)
        if {"prepare", "train"} & set(phases):
            distributed.run_on_main(lambda: self.data.find_groups() and None)
        if "evaluate" in phases and self.settings.distill.probe is not None:
            read_probe(self.settings.distill.probe)
        if "export" in phases:
            refuse_file(self.settings.export.output_dir)

    def settle(self) -> None:
        """Count frames and write the split lists.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> task.settle()
        >>> len(task.items("val"))
        2
        """
        self.data.settle_split()

    # -- data

    def items(self, split: str) -> list[Item]:
        """Pictures, blocks of rasters and stretches of videos.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> task.settle()
        >>> len(task.items("train"))
        8
        """
        return list(self.data.items(split))

    def samples(self, item: Item, prompts: Any = None) -> Iterator[Sample]:
        """Crops of an item.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> next(task.samples(task.data.units["scene"])).arrays["image"].shape
        (32, 32, 3)
        """
        assert isinstance(item, CropItem)
        yield from self.data.samples(item)

    def count_samples(self, item: Item) -> int:
        """Number of crops of an item, at most.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> task.count_samples(task.data.units["scene"])
        6
        """
        assert isinstance(item, CropItem)
        return self.data.count_crops(item)

    def truth(self, item: Item, window: Window | None = None) -> None:
        """Nothing: the maps to compare with come with the outputs.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].truth(Item("a", ())) is None
        True
        """

    def audit(self, items: Iterable[Item]) -> Iterator[Finding]:
        """Read every crop, and name the pictures that cannot be read or give none.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> list(task.audit(task.data.units.values()))
        []
        """
        for item in items:
            try:
                number = sum(1 for _ in self.samples(item))
            except DataError as error:
                yield Finding(item.id, str(error))
                continue
            if not number:
                yield Finding(item.id, "no crop of it holds enough", "nothing is learnt from it", blocks=False)

    # -- stored records

    def recipe(self) -> dict[str, Any]:
        """All that crops and the teacher's maps depend on.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> sorted(student_example(tempfile.mkdtemp())[0].recipe())
        ['crops', 'features', 'teacher_side', 'values']
        """
        own, dataset = self.settings.distill, self.settings.dataset
        cached = self.settings.train.features == "cached"
        return {
            "crops": own.model_dump(mode="json", include={"crop", "zooms", "crops", "frame_step", "bands"}),
            "values": [dataset.value_range, dataset.percentiles],
            "teacher_side": self.teacher_side,
            "features": self.features.recipe() if cached else None,
        }

    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        """Vary the colours of a crop, for student and teacher alike.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> changed = ("dataset.augmentations={enable: true, brightness: 0.5}", "train.features=online")
        >>> task, _ = student_example(tempfile.mkdtemp(), *changed)
        >>> sample = next(task.samples(task.data.units["scene"]))
        >>> varied = task.augment(sample, np.random.default_rng(0))
        >>> bool((varied.arrays["image"] != sample.arrays["image"]).any())
        True
        """
        varied = self.settings.dataset.augmentations
        if not varied.enable:
            return sample
        colour = RandomColour(varied.brightness, varied.contrast, varied.saturation)
        return sample.with_arrays({**sample.arrays, "image": colour(sample.arrays["image"], generator)})

    def requests(self, sample: Sample) -> list[Request]:
        """The teacher's maps of the crop, at the teacher's size.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp())
        >>> [(request.producer, request.inputs.shape) for request in task.requests(next(task.samples(
        ...     task.data.units["scene"])))]
        [('backbone', (16, 16, 3))]
        """
        if self.settings.train.features == "online":
            return []
        picture = self._teacher_picture(sample.arrays["image"])
        return [Request(BACKBONE, self.features.key(picture), picture)]

    def _teacher_picture(self, image: np.ndarray) -> np.ndarray:
        """A crop (H, W, 3) at the teacher's size.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0]._teacher_picture(np.zeros((32, 32, 3), np.uint8)).shape
        (16, 16, 3)
        """
        crop = torch.from_numpy(np.ascontiguousarray(image[..., :3])).permute(2, 0, 1)[None]
        return np.ascontiguousarray(teacher_pictures(crop, self.teacher_side)[0].permute(1, 2, 0).numpy())

    def record_bytes(self) -> int:
        """Size of the teacher's maps of one crop.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].record_bytes()  # 2 maps of 8 channels, 4 x 4 cells, 2 bytes
        512
        """
        if self.settings.train.features == "online":
            return 0
        return self.features.record_bytes((self.teacher_side, self.teacher_side))

    def sample_bytes(self) -> int:
        """Size of a crop and its validity.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].sample_bytes()
        4096
        """
        return 4 * self.settings.distill.crop**2

    # -- training

    def make_student(self) -> Student:
        """Make the student that the settings name.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].make_student().backbone.info.layers
        (0, 1)
        """
        student = self.make_head()
        assert isinstance(student, Student)
        return student

    def build_model(self) -> nn.Module:
        """The student, with what is known of the teacher's channels.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp())
        >>> weights = [next(task.build_model().parameters()).sum().item() for _ in range(2)]
        >>> weights[0] == weights[1]
        True
        """
        state = torch.get_rng_state()
        torch.manual_seed(self.settings.resources.seed)  # the same first weights on every rank
        student = self.make_student()
        torch.set_rng_state(state)
        device = choose_device(self.settings.device("train"))
        student.compute_in(resolve_precision(self.settings.train.precision, device))
        model = DistillModel(self.features, student, self.teacher_side, self.settings.distill.student_scales)
        for projection, known in zip(model.projections, self.statistics or [], strict=self.statistics is not None):
            projection.know(*known)
        if self.statistics is not None and isinstance(student, TransformerStudent) and student.options.inherit:
            self._begin_as_teacher(student)  # only where a training begins
        return model

    def _begin_as_teacher(self, student: TransformerStudent) -> None:
        """Give a student blocks of the teacher, and the projections that serve it best as it is.

        With random projections the first gradients would destroy what was inherited, before the projections are of use
        (Kumar et al., 2022, arXiv:2202.10054).

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> from tasks.phases import prepare
        >>> from tasks.prepared import prepared_items
        >>> options = "{width: 8, depth: 1, heads: 2, mlp_ratio: 2, patch_size: 8, inherit: [1]}"
        >>> task, context = student_example(tempfile.mkdtemp(), "model.head=dinov2", f"model.head_options={options}")
        >>> _ = prepare.run(task, context)
        >>> task.learn_from(prepared_items(task, open_store(task.settings, "train"), "train", "train")[0].entries)
        >>> student = task.build_model().student
        >>> torch.equal(student.backbone.blocks[0].norm1.weight, task.features.backbone.blocks[1].norm1.weight)
        True
        """
        student.begin_as(self.features.backbone)
        found = distributed.run_on_main(lambda: fit_projections(student, self._measured_records()))
        for projection, (weight, bias) in zip(student.projections, found, strict=True):
            projection.start_with(torch.tensor(weight), torch.tensor(bias))  # type: ignore[operator]

    def learn_from(self, entries: Sequence[Entry]) -> None:
        """Measure the channels of the teacher's maps over training crops; rank 0 does it for all.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp())
        >>> task.learn_from([])
        >>> task.statistics is None
        True
        """
        if not entries:
            return
        count = min(len(entries), MEASURED_RECORDS)
        self._measured = [entries[index * len(entries) // count] for index in range(count)]
        measured = distributed.run_on_main(self._measure)
        self.statistics = [(torch.tensor(mean), torch.tensor(deviation)) for mean, deviation in measured]

    def _measure(self) -> list[list[list[float]]]:
        """Mean and deviation of each channel of each map, over evenly chosen crops.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> from tasks.phases import prepare
        >>> from tasks.prepared import prepared_items
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> _ = prepare.run(task, context)
        >>> task.learn_from(prepared_items(task, open_store(task.settings, "train"), "train", "train")[0].entries)
        >>> [[len(values) for values in found] for found in task._measure()]
        [[8, 8], [8, 8]]
        """
        statistics = [ChannelStatistics() for _ in range(self.num_outputs)]
        for _, maps in self._measured_records():
            for known, feature_map in zip(statistics, maps, strict=True):
                known.update(feature_map)
        return [[values.float().tolist() for values in known.compute()] for known in statistics]

    def _measured_records(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Crops (H, W, 3) that were chosen for measuring, and the teacher's maps (C, h, w) of each.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> list(student_example(tempfile.mkdtemp())[0]._measured_records())
        []
        """
        store = open_store(self.settings, "train")
        for entry in self._measured:
            image = np.asarray(store.read(entry.sample_key)["image"])
            key = entry.records.get(IDENTITY.name, {}).get(BACKBONE)
            if key is None:
                picture = torch.from_numpy(self._teacher_picture(image))
                maps = [found[0].cpu() for found in self.features.maps(picture.permute(2, 0, 1)[None])]
            else:
                maps = [found[0] for found in store.read_batch([key], map_names(store.describe(key))).values()]
            yield torch.from_numpy(image), maps

    def encode(self, sample: Sample, progress: Progress) -> dict[str, Any]:
        """Draw the size at which the student sees a crop, and the stretch of its positions, for this epoch.

        A function of seed, epoch and the crop's id: a resumed run and any number of ranks draw the same.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp())
        >>> sample = Sample("a", Item("a", ()), {})
        >>> drawn = [task.encode(sample, Progress(epoch, 9)) for epoch in (0, 0, 1)]
        >>> drawn[0] == drawn[1], drawn[0] == drawn[2]
        (True, False)
        """
        words = [self.settings.resources.seed, progress.epoch, crc32(f"{sample.id}/{sample.view.name}".encode())]
        generator = np.random.default_rng(words)
        scale = int(generator.integers(len(self.settings.distill.student_scales)))
        return {"scale": scale, "stretch": self._student.draw_stretch(generator)}

    @cached_property
    def _student(self) -> Student:
        """A student without weights, for what it says of itself.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> next(student_example(tempfile.mkdtemp())[0]._student.parameters()).device
        device(type='meta')
        """
        self._spec()  # may load the teacher, whose weights must be real
        with torch.device("meta"):
            return self.make_student()

    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        """Put what was drawn for the crops together.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_batch
        >>> student_batch(tempfile.mkdtemp())[1].target["stretch"].shape
        torch.Size([1, 2])
        """
        batch.target = {
            "scale": torch.tensor([target["scale"] for target in targets], dtype=torch.int64),
            "stretch": torch.tensor([target["stretch"] for target in targets], dtype=torch.float32).view(-1, 2),
        }
        return batch

    def _terms(self) -> list[str]:
        """Loss terms that weigh something.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0]._terms()
        ['cosine', 'smooth_l1']
        """
        return [name for name, weight in self.loss_weights().items() if weight > 0]

    def loss_weights(self) -> dict[str, float]:
        """Weights of the terms, as the settings say.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].loss_weights()
        {'cosine': 1.0, 'smooth_l1': 1.0, 'relation': 0.0}
        """
        terms = self.settings.distill.loss
        return {"cosine": terms.cosine, "smooth_l1": terms.smooth_l1, "relation": terms.relation}

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Known cells of all maps.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_batch
        >>> task, batch = student_batch(tempfile.mkdtemp())
        >>> float(task.loss_counts(batch)["cosine"])  # 2 maps of 4 x 4 cells
        32.0
        """
        grids = self.features.info.feature_grid((self.teacher_side, self.teacher_side))
        return distill_counts(batch.arrays["valid"], grids, self._terms())

    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Sums of all terms over the known cells.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_batch
        >>> task, batch = student_batch(tempfile.mkdtemp())
        >>> sums = task.loss(task.build_model().train()(batch), batch, Progress())
        >>> sorted(sums), bool(sums["cosine"] > 0)
        (['cosine', 'smooth_l1'], True)
        """
        predicted = [outputs[f"predicted_{index}"] for index in range(self.num_outputs)]
        target = [outputs[f"target_{index}"] for index in range(self.num_outputs)]
        return distill_sums(predicted, target, batch.arrays["valid"], self._terms())

    def training_scores(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, tuple[float, float]]:
        """The mean cosine of all blocks.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_batch
        >>> task, batch = student_batch(tempfile.mkdtemp())
        >>> sorted(task.training_scores(task.build_model().train()(batch), batch))
        ['cosine']
        """
        with torch.no_grad():
            sums = self.loss(outputs, batch, Progress())
        count = float(next(iter(self.loss_counts(batch).values())))
        return {"cosine": (count - float(sums["cosine"]), count)} if "cosine" in sums else {}

    # -- checkpoints

    def describe(self) -> dict[str, Any]:
        """All that a checkpoint must say.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp())
        >>> task.describe()["crop"], task.describe()["student"]["family"]
        (32, 'dinov3_vit')
        """
        info = self._student.backbone.info
        return {
            **self.describe_model(),
            "crop": self.settings.distill.crop,
            "distill": self.settings.distill.model_dump(mode="json", include={"student_scales", "loss"}),
            "student": {"family": info.family, "layers": list(info.layers), "config": self._student.config},
        }

    @classmethod
    def restore(cls, name: str, settings: TaskConfig, checkpoint: Checkpoint) -> Task:
        """Make the task of a checkpoint; what the settings say otherwise is an error.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp())
        >>> said = {**task.describe(), "crop": 64}
        >>> DistillTask.restore("a", task.settings, Checkpoint({}, said, Path("best.safetensors")))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: best.safetensors: holds crop 64, but distill.crop asks for 32; name the right ...
        """
        said = cls.check_description(checkpoint, DESCRIBED)
        refuse_other(settings.distill, "distill", {"crop": said["crop"]}, checkpoint.path)
        settings = cls.restored_settings(settings, said, checkpoint.path)
        own = settings.distill.model_copy(update={"crop": said["crop"]})
        task = cls(name, settings.model_copy(update={"distill": own}))
        task.refuse_other_backbone(said, checkpoint.path)
        return task

    # -- predictions

    def predictor(self, views: Sequence[View] | None = None) -> Predictor:
        """Comparison with the teacher, crop by crop.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].predictor().num_blocks
        2
        """
        return StudentPredictor(self.num_outputs)

    def metric(self) -> Metric:
        """Cosines and explained variance by block.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].metric().layers
        [0, 1]
        """
        return StudentMetric(self.features.info.layers)

    def appraisal(self) -> dict[str, Any]:
        """What the comparison of probes depends on.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> student_example(tempfile.mkdtemp())[0].appraisal()
        {}
        """
        probe = self.settings.distill.probe
        return {} if probe is None else probe_recipe(probe)

    def appraise(self, model: nn.Module | None, context: Context) -> dict[str, Any]:
        """Compare linear probes on the labelled task that the settings name.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> task.appraise(task.build_model(), context)
        {}
        """
        probe = self.settings.distill.probe
        if probe is None:
            return {}
        assert isinstance(model, DistillModel)
        fresh = self.build_model()
        assert isinstance(fresh, DistillModel)
        return {
            "probe": compare_probes(self.settings, probe, self.features.info, model.student, fresh.student, context)
        }

    def report(self, metrics: dict[str, Any], folder: Path, log: Any) -> None:
        """Print tables, write scores of each block.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> task.report(task.metric().compute(), context.folder, context.log)
        >>> (context.folder / "blocks.csv").exists()
        True
        """
        report_scores(metrics, folder, log)

    def draw(self, item: Item, pieces: Iterator[Piece]) -> np.ndarray | None:
        """Draw the first crop beside the maps of teacher and student; None for an item without one.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, _ = student_example(tempfile.mkdtemp())
        >>> maps = np.random.default_rng(0).normal(size=(8, 4, 4))
        >>> found = {"image": np.zeros((32, 32, 3), np.uint8), "target": maps, "predicted": maps}
        >>> task.draw(Item("a", ()), iter([Piece(Item("a", ()), found)])).ndim, task.draw(Item("a", ()), iter([]))
        (3, None)
        """
        piece = next(iter(pieces), None)
        return None if piece is None else draw_maps(*(piece.arrays[name] for name in ("image", "target", "predicted")))

    def export(self, model: nn.Module | None, folder: Path, checkpoint: Checkpoint | None) -> list[Path]:
        """Write a folder that `model.backbone` accepts.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_example
        >>> task, context = student_example(tempfile.mkdtemp())
        >>> checkpoint = Checkpoint({}, {"epoch": 3, "metrics": {}}, context.folder / "checkpoints/best.safetensors")
        >>> paths = task.export(task.build_model(), context.folder / "export", checkpoint)
        >>> sorted(path.name for path in paths)
        ['README.md', 'config.json', 'model.safetensors', 'preprocessor_config.json']
        """
        assert isinstance(model, DistillModel)
        assert checkpoint is not None
        return export_student(self.settings, self.features.info, model.student, folder, checkpoint)


def refuse_odd_crop(crop: int, multiple: int, what: str) -> None:
    """Refuse a crop that is not made of whole patches.

    Examples
    --------
    >>> refuse_odd_crop(320, 16, "the patch of the student")
    >>> refuse_odd_crop(330, 16, "the patch of the student")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: distill.crop: 330 is no multiple of 16, the patch of the student; take 320 or 336
    """
    if crop % multiple:
        below = crop // multiple * multiple
        near = f"{below} or {below + multiple}" if below else str(multiple)
        raise SettingsError(f"distill.crop: {crop} is no multiple of {multiple}, {what}; take {near}")


def refuse_file(named: str | None) -> None:
    """Refuse a file where the exported folder is to be.

    Examples
    --------
    >>> refuse_file(None)
    >>> refuse_file(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: export.output_dir: .../task.py is a file; name a folder
    """
    if named and Path(expand_path(named)).is_file():
        raise SettingsError(f"export.output_dir: {expand_path(named)} is a file; name a folder")
