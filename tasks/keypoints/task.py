"""The keypoint task: animals and tools in pictures and videos."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from config import expand_path
from models import find_head, read_head_options
from models.base import KeypointHead
from tasks.base import Batch, Entry, Finding, Item, Metric, Piece, Predictor, Progress, Sample, Sink, Task
from tasks.feature_task import FeatureTask, refuse_other, refuse_unused_sample
from tasks.keypoints.audit import audit_pictures
from tasks.keypoints.drawing import draw_item
from tasks.keypoints.objective import Objective, Target
from tasks.keypoints.pictures import PoseData, PoseItem
from tasks.keypoints.prediction import Decoder, PosePredictor
from tasks.keypoints.results import refuse_double, refuse_foreign
from tasks.keypoints.rules import Decision, automatic_settings
from tasks.keypoints.scoring import PRIMARY, KeypointMetric, report_scores
from tasks.keypoints.settings import KeypointsSettings
from tasks.keypoints.sinks import PoseSink, gather_predictions
from tasks.splits import lists_stay
from utils import distributed
from utils.animals import make_animals
from utils.augment import IDENTITY, RandomColour, View, tta_views
from utils.checkpoints import Checkpoint
from utils.crops import drop_outside, move_boxes, move_keypoints, random_similarity, warp_picture
from utils.errors import DataError, SettingsError
from utils.formats.convert import convert_poses
from utils.formats.poses import Instance, Skeleton
from utils.tiling import Window
from utils.videos import VideoReader, is_video

logger = logging.getLogger(__name__)

DESCRIBED = frozenset(["skeleton", "canvas", "most", "grouping", "instance_mode", "bbox_scale"])


class KeypointsTask(FeatureTask):
    """Named points of animals or tools.

    Parameters
    ----------
    name : str
        The task's name in the settings.
    settings : KeypointsSettings
        All of its settings.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.keypoints.example import animals_example
    >>> task, context = animals_example(tempfile.mkdtemp())
    >>> task.kind, task.num_outputs, task.sample_size()
    ('keypoints', 7, (96, 128))
    """

    settings: KeypointsSettings
    kind = "keypoints"
    phases: ClassVar[tuple[str, ...]] = ("prepare", "verify", "train", "evaluate", "inference")
    primary = "weighted_PCK"
    plotted: ClassVar[tuple[str, ...]] = (
        "weighted_PCK",
        "PCK@2px",
        "PCK@4px",
        "PCK@8px",
        "PCK@16px",
        "OKS_AP",
        "OKS_AR",
    )

    def __init__(self, name: str, settings: KeypointsSettings):
        super().__init__(name, settings)
        self.primary = PRIMARY[settings.keypoints.best_metric]  # type: ignore[misc]
        self.data = PoseData(name, settings, lambda: self.features.info.patch_size)
        self.decisions: list[Decision] = []
        self.ruled = self.restored = False

    @property
    def num_outputs(self) -> int:
        """Number of keypoints.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].num_outputs
        7
        """
        return self.data.skeleton.num_keypoints

    def sample_size(self) -> tuple[int, int]:
        """Height and width of the canvas.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].sample_size()
        (96, 128)
        """
        return self.data.canvas

    @property
    def grouping(self) -> bool:
        """Whether the head learns which points belong together.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].grouping
        True
        """
        if "grouping" in self.data.fixed:
            return self.data.fixed["grouping"]
        asked = self.settings.keypoints.grouping
        return self.data.most > 1 if asked == "auto" else asked

    def head_options(self) -> dict[str, Any]:
        """Options of the head, with the grouping that the data ask for.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].head_options()
        {'width': 16, 'grouping': True}
        """
        return {**self.settings.model.head_options, "grouping": self.grouping}

    # -- before work starts

    def check(self) -> list[str]:
        """Check labels and weights, and tell the plan.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].check()[1]
        '8 pictures to train on, 4 to validate, canvas 96 x 128 pixels, at most 3 animals each'
        """
        sample, info, data = self.settings.dataset.sample, self.features.info, self.data
        if sample.enable and not Path(expand_path(sample.folder)).exists():
            return [f"the sample is not in {sample.folder} yet; prepare makes it"]
        wanted = self.settings.dataset.convert_to
        if wanted is not None and not self.num_outputs:
            return [f"{self._split_sizes()}, no keypoint in them; prepare only writes the labels as {wanted.format}"]
        lines = [
            f"head {self.settings.model.head} on blocks {', '.join(map(str, info.layers))} of {info.family} "
            f"(patch {info.patch_size}, {self.features.precision}), {self.num_outputs} keypoints: "
            f"{', '.join(data.skeleton.names)}",
            f"{self._split_sizes()}, canvas {data.canvas[0]} x {data.canvas[1]} pixels, "
            f"at most {data.most} animals each",
        ]
        if self.settings.inference.enable:
            lines += [f"inference: {item.id}" for item in data.items("inference")]
        return lines

    def _split_sizes(self) -> str:
        """Say how many pictures train and judge.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0]._split_sizes()
        '8 pictures to train on, 4 to validate'
        """
        if not self.data.is_split() or (self.data.has_lists() and not lists_stay(self.name, self.settings)):
            train, val = self.data.draw_split()
            return f"{len(train)} pictures to train on, {len(val)} to validate, once prepare has split them"
        return f"{len(self.data.items('train'))} pictures to train on, {len(self.data.items('val'))} to validate"

    def check_early(self, phases: Sequence[str]) -> None:
        """Check devices, head and what is to be predicted, before hours of work end at them.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp(), "inference.input_tif=/no.png")[0].check_early(["inference"])
        Traceback (most recent call last):
            ...
        utils.errors.DataError: inference.input_tif: /no.png: no such file or folder
        """
        super().check_early(phases)
        if "prepare" in phases:
            refuse_unused_sample(self.settings, "label_path")
        if self.settings.dataset.sample.enable and not self.restored:  # the sample is made by prepare
            model = self.settings.model
            read_head_options(model.head_options, find_head(self.kind, model.head).Options)
            return
        if {"prepare", "train"} & set(phases):
            self._refuse_pointless(phases)
            if distributed.is_main():
                self.data.warn_of_problems()
            self._check_views()
        if "train" in phases:
            self.check_head()
        if "inference" in phases:
            distributed.run_on_main(self._check_inputs)

    def _refuse_pointless(self, phases: Sequence[str]) -> None:
        """Refuse labels without a keypoint, unless they are only to be written in another format.

        Raises
        ------
        DataError
            If there is nothing to learn, or the labels cannot be read.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, _ = animals_example(tempfile.mkdtemp())
        >>> task._refuse_pointless(["train"])
        >>> task.data.skeleton = Skeleton(())
        >>> task._refuse_pointless(["train"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.DataError: annotations: no keypoint is labelled, only boxes and outlines; label points, or let ...
        """
        if self.data.skeleton.num_keypoints:
            return
        if self.settings.dataset.convert_to is None or set(phases) - {"prepare", "verify"}:
            raise DataError(
                f"{self.settings.paths.label_path}: no keypoint is labelled, only boxes and outlines; label points, or "
                "let prepare alone write them in another format (dataset.convert_to)"
            )

    def _check_inputs(self) -> None:
        """Check what is to be predicted, and that its results replace no file of a person.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> folder = tempfile.mkdtemp()
        >>> task, _ = animals_example(folder, f"inference.output_dir={folder}/animals/images")
        >>> task._check_inputs()
        >>> _ = (Path(folder) / "animals/images/val_000.json").write_text("{}")
        >>> task._check_inputs()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: .../val_000.json: stands there already and is no result of inference; ...
        """
        items, formats = self.data.items("inference"), self.settings.keypoints.formats
        named = self.settings.inference.output_dir
        folder = Path(expand_path(named)) if named else Path("predictions")  # in the run's folder all is ours
        refuse_double(items, folder, formats)
        if named:
            refuse_foreign(items, folder, formats)

    def _check_views(self) -> None:
        """Refuse quarter turns of canvases that are not square.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> changed = "dataset.augmentations={enable: true, rotate90: true}"
        >>> animals_example(tempfile.mkdtemp(), changed)[0]._check_views()
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: dataset.augmentations.rotate90: the canvas of 96 x 128 pixels is not square; ...
        """
        height, width = self.data.canvas
        varied, tta = self.settings.dataset.augmentations, self.settings.inference.tta
        asked = {
            "dataset.augmentations.rotate90": varied.enable and varied.rotate90,
            "inference.tta.quarter_turns": tta.quarter_turns,
        }
        for name, on in asked.items():
            if on and height != width:
                raise SettingsError(
                    f"{name}: the canvas of {height} x {width} pixels is not square; set false, or use crops"
                )

    def settle(self) -> None:
        """Make the sample, write the split lists, and the labels in another format where that is asked.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].settle()
        """
        sample = self.settings.dataset.sample
        if sample.enable:
            make_animals(expand_path(sample.folder), seed=sample.seed)
        self.data.settle_split()
        wanted = self.settings.dataset.convert_to
        if wanted is not None:
            folder = expand_path(wanted.folder)
            convert_poses(self.data.split_sets(), folder, wanted.format, wanted.layout, wanted.mode)

    # -- data

    def items(self, split: str) -> list[Item]:
        """Pictures of a split, none where no keypoint is labelled, or pictures and videos to predict.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> len(animals_example(tempfile.mkdtemp())[0].items("val"))
        4
        """
        return list(self.data.items(split)) if split == "inference" or self.num_outputs else []

    def continue_from(self, item: Item, resume: int) -> Item:
        """Keep the frames of a video that are still to predict.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> task.continue_from(task.items("val")[0], 7).first_frame
        7
        """
        assert isinstance(item, PoseItem)
        return replace(item, first_frame=resume)

    def samples(self, item: Item, prompts: Any = None) -> Iterator[Sample]:
        """Canvases of an item: its picture or frames whole, or a crop of each animal.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> next(task.samples(task.items("val")[0])).arrays["image"].shape
        (96, 128, 3)
        """
        assert isinstance(item, PoseItem)
        yield from self.data.samples(item)

    def count_samples(self, item: Item) -> int:
        """Number of canvases of an item.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> task.count_samples(task.items("val")[0])
        1
        """
        assert isinstance(item, PoseItem)
        if is_video(item.picture.path):
            return VideoReader(item.picture.path).header_frames or 0
        return len(item.picture.instances) if self.settings.keypoints.instance_mode == "per_instance" else 1

    def truth(self, item: Item, window: Window | None = None) -> tuple[Instance, ...]:
        """The animals of a picture, in its own pixels.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> task.truth(task.items("val")[0])[0].keypoints.shape
        (7, 3)
        """
        assert isinstance(item, PoseItem)
        return item.picture.instances

    def audit(self, items: Iterable[Item]) -> Iterator[Finding]:
        """Check labels and pictures.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> list(task.audit(task.items("train")))
        []
        """
        yield from audit_pictures([item for item in items if isinstance(item, PoseItem)], self.data)

    def facts(self, sample: Sample) -> dict[str, Any]:
        """Labelled points of each keypoint.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> sum(task.facts(next(task.samples(task.items("val")[0])))["counts"].values()) > 5
        True
        """
        seen = (sample.arrays["keypoints"][..., 2] > 0).sum(axis=0)
        return {"counts": dict(zip(self.data.skeleton.names, seen.tolist(), strict=True))}

    # -- stored records

    def recipe(self) -> dict[str, Any]:
        """All that prepared canvases and features depend on.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> sorted(animals_example(tempfile.mkdtemp())[0].recipe())
        ['bbox_scale', 'canvas', 'features', 'instance_mode', 'keypoints', 'most']
        """
        own = self.settings.keypoints
        cached = self.settings.train.features == "cached"
        return {
            "keypoints": list(self.data.skeleton.names),
            "canvas": list(self.data.canvas),
            "most": self.data.most,
            "instance_mode": own.instance_mode,
            "bbox_scale": own.bbox_scale,
            "features": self.features.recipe() if cached else None,
        }

    def view_group(self) -> list[View]:
        """Views that training pictures may take; mirrors only where it is known what they exchange.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> changed = "dataset.augmentations={enable: true, rotate90: false, vflip: false}"
        >>> [view.name for view in animals_example(tempfile.mkdtemp(), changed)[0].view_group()]
        ['identity', 'hflip']
        """
        self._apply_rules()
        return super().view_group()

    def transform(self, sample: Sample, view: View, generator: np.random.Generator | None = None) -> Sample:
        """Turn picture, points and boxes together; a mirror exchanges left and right.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> sample = next(task.samples(task.items("val")[0]))
        >>> twice = task.transform(task.transform(sample, View(True, 0)), View(True, 0))
        >>> bool(np.allclose(twice.arrays["keypoints"], sample.arrays["keypoints"], atol=1e-4))
        True
        """
        if view == IDENTITY:
            return sample
        matrix = view.matrix((sample.arrays["image"].shape[0], sample.arrays["image"].shape[1]))
        pictures = {name: view.apply(sample.arrays[name]) for name in ("image", "valid")}
        return sample.with_arrays(self._moved(sample, matrix, pictures), view=sample.view.compose(view))

    def _moved(self, sample: Sample, matrix: np.ndarray, pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays of a sample whose picture was moved by a matrix.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> sample = next(task.samples(task.items("val")[0]))
        >>> moved = task._moved(sample, np.diag([2.0, 2.0, 1.0]), {"valid": np.ones((192, 256), bool)})
        >>> moved["matrix"][0, 0] / sample.arrays["matrix"][0, 0]
        np.float64(2.0)
        """
        arrays, size = sample.arrays, pictures["valid"].shape
        points = move_keypoints(arrays["keypoints"], matrix, self._flip_idx)
        there = arrays["boxes"].any(axis=-1, keepdims=True)
        moved = {
            "keypoints": drop_outside(points, (size[0], size[1])).astype(np.float32),
            "boxes": np.where(there, move_boxes(arrays["boxes"], matrix), 0).astype(np.float32),
            "matrix": matrix @ arrays["matrix"],
        }
        return {**arrays, **pictures, **moved}

    @property
    def _flip_idx(self) -> tuple[int, ...]:
        """What each keypoint becomes in a mirror: itself where nothing else is known.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0]._flip_idx
        (0, 2, 1, 4, 3, 5, 6)
        """
        known = self.data.skeleton.flip_idx
        return tuple(range(self.num_outputs)) if known is None else known

    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        """Turn, scale and colour a sample at random, its points with it.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> changed = "dataset.augmentations={enable: true, rotate90: false, brightness: 0.5}"
        >>> task, context = animals_example(tempfile.mkdtemp(), changed, "train.features=online")
        >>> sample = next(task.samples(task.items("val")[0]))
        >>> varied = task.augment(sample, np.random.default_rng(0))
        >>> bool((varied.arrays["image"] != sample.arrays["image"]).any())
        True
        """
        varied = self.settings.dataset.augmentations
        if not varied.enable:
            return sample
        size = sample.arrays["image"].shape[:2]
        low, high = varied.scale_range
        matrix = random_similarity(generator, (size[0], size[1]), (low, high), varied.rotation_degrees)
        colour = RandomColour(varied.brightness, varied.contrast, varied.saturation)
        if np.array_equal(matrix, np.eye(3)):
            return sample.with_arrays({**sample.arrays, "image": colour(sample.arrays["image"], generator)})
        image, seen = warp_picture(sample.arrays["image"], matrix, (size[0], size[1]))
        ground, _ = warp_picture(sample.arrays["valid"][..., None].astype(np.uint8), matrix, (size[0], size[1]))
        pictures = {"image": colour(image, generator), "valid": seen & (ground[..., 0] > 0)}
        return sample.with_arrays(self._moved(sample, matrix, pictures))

    def sample_bytes(self) -> int:
        """Size of the stored arrays of one sample.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].sample_bytes()
        49540
        """
        height, width = self.sample_size()
        return height * width * 4 + self.data.most * (self.num_outputs * 12 + 16) + 88

    # -- training

    @cached_property
    def objective(self) -> Objective:
        """Targets and losses.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].objective.stride
        4.0
        """
        head = self.make_head()
        assert isinstance(head, KeypointHead)
        return Objective(self.settings, self.data.skeleton, self.data.canvas, head.stride, self.grouping)

    def _apply_rules(self) -> None:
        """Let the automatic rules change defaults, once; explicit settings stay.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> task._apply_rules()
        >>> task.decisions
        []
        """
        if self.ruled or self.restored or not self.settings.keypoints.automatic_rules:
            return
        self.ruled = True
        self.settings, self.decisions = automatic_settings(self.settings, self.data)
        for decision in self.decisions:
            logger.warning("%s", decision)

    def learn_from(self, entries: Sequence[Entry]) -> None:
        """Apply the automatic rules, and count what is rare.

        Raises
        ------
        DataError
            If no sample has a labelled point.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> task.learn_from([])
        >>> task.objective.balance is None
        True
        """
        self._apply_rules()
        shown = [sum(entry.facts["counts"][name] for entry in entries) for name in self.data.skeleton.names]
        if entries and not sum(shown):
            raise DataError(
                f"{self.settings.paths.label_path}: no labelled keypoint in train: all {len(entries)} samples are "
                "without one; label some animals, or see keypoints.category and the split lists"
            )
        self.objective.learn(shown, len(entries))

    def training_views(self, stored: Sequence[str], progress: Progress) -> Sequence[str]:
        """Pictures as they are outside the epochs in which they are to be varied.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp(), "keypoints.augment_until=0.9")
        >>> [list(task.training_views(["hflip", "identity"], Progress(epoch, 10))) for epoch in (0, 9)]
        [['hflip', 'identity'], ['identity']]
        """
        own = self.settings.keypoints
        varied = own.augment_from <= progress.fraction and (
            progress.fraction < own.augment_until or own.augment_until == 1
        )
        return stored if varied else [IDENTITY.name]

    def encode(self, sample: Sample, progress: Progress) -> Target:
        """Points of a sample, and the size that their targets have by now.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp(), "keypoints={sigma: 3.0, sigma_end: 1.0}")
        >>> sample = next(task.samples(task.items("val")[0]))
        >>> [task.encode(sample, Progress(epoch, 11)).sigma for epoch in (0, 5, 10)]
        [3.0, 2.0, 1.0]
        """
        return self.objective.encode(sample, progress)

    def collate(self, batch: Batch, targets: Sequence[Any]) -> Batch:
        """Draw the heatmaps of a batch.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> from tasks.prepared import stack_samples
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> sample = next(task.samples(task.items("val")[0]))
        >>> batch = task.collate(stack_samples([sample]), [task.encode(sample, Progress())])
        >>> batch.target["heatmaps"].shape
        torch.Size([1, 7, 24, 32])
        """
        batch.target = self.objective.draw(batch, targets)
        return batch

    def loss_weights(self) -> dict[str, float]:
        """Weights of the terms, as the settings say.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].loss_weights()["heatmap"]
        1.0
        """
        return self.objective.weights()

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Divisors of all terms, from the targets alone.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example, animals_batch
        >>> task, batch = animals_batch(tempfile.mkdtemp())
        >>> float(task.loss_counts(batch)["heatmap"]) > 0
        True
        """
        return self.objective.counts(batch.target)

    def loss(self, outputs: dict[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Sums of all terms.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example, animals_batch
        >>> task, batch = animals_batch(tempfile.mkdtemp())
        >>> sums = task.loss(task.build_model()(batch), batch, Progress())
        >>> sorted(sums) == sorted(task.loss_counts(batch))
        True
        """
        return self.objective.sums(outputs, batch.target, progress)

    # -- checkpoints

    def describe(self) -> dict[str, Any]:
        """All that a checkpoint must say.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].describe()["canvas"]
        [96, 128]
        """
        skeleton, own = self.data.skeleton, self.settings.keypoints
        return {
            **self.describe_model(),
            "classes": list(skeleton.names),
            "skeleton": {
                "names": list(skeleton.names),
                "flip_idx": None if skeleton.flip_idx is None else list(skeleton.flip_idx),
                "edges": [list(edge) for edge in skeleton.edges],
            },
            "canvas": list(self.data.canvas),
            "most": self.data.most,
            "grouping": self.grouping,
            "instance_mode": own.instance_mode,
            "bbox_scale": own.bbox_scale,
        }

    @classmethod
    def restore(cls, name: str, settings: KeypointsSettings, checkpoint: Checkpoint) -> Task:
        """Make the task of a checkpoint; what the settings say otherwise is an error.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> said = {**task.describe(), "canvas": [48, 64]}
        >>> KeypointsTask.restore("a", task.settings, Checkpoint({}, said, Path("a"))).sample_size()
        (48, 64)
        """
        said = cls.check_description(checkpoint, DESCRIBED)
        own = {"instance_mode": said["instance_mode"], "bbox_scale": said["bbox_scale"]}
        refuse_other(settings.keypoints, "keypoints", own, checkpoint.path)
        settings = cls.restored_settings(settings, said, checkpoint.path)
        task = cls(name, settings.model_copy(update={"keypoints": settings.keypoints.model_copy(update=own)}))
        skeleton = said["skeleton"]
        flip_idx = None if skeleton["flip_idx"] is None else tuple(skeleton["flip_idx"])
        edges = tuple((int(a), int(b)) for a, b in skeleton["edges"])
        task.data.fixed = {
            "skeleton": Skeleton(tuple(skeleton["names"]), flip_idx, edges),
            "canvas": (said["canvas"][0], said["canvas"][1]),
            "most": said["most"],
            "grouping": said["grouping"],
        }
        task.restored = True
        task.refuse_other_backbone(said, checkpoint.path)
        task._check_views()
        return task

    # -- predictions

    def predictor(self, views: Sequence[View] | None = None) -> Predictor:
        """Decoding of heatmaps, which come for each sample in all of the views.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].predictor().decoder.stride
        4.0
        """
        decoder = Decoder(self._spec().stride, self._flip_idx, self.settings.keypoints, self.grouping, self.data.most)
        return PosePredictor(decoder, len(self.prediction_views() if views is None else views))

    def prediction_views(self) -> list[View]:
        """Views that test-time augmentation merges.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, _ = animals_example(tempfile.mkdtemp(), "inference.tta.horizontal_flip=true")
        >>> [view.name for view in task.prediction_views()]
        ['identity', 'hflip']
        """
        tta = self.settings.inference.tta
        return tta_views(tta.horizontal_flip, tta.vertical_flip, tta.quarter_turns)

    def metric(self) -> Metric:
        """Errors, PCK, OKS AP and swaps.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> animals_example(tempfile.mkdtemp())[0].metric().compute()["pictures"]
        0
        """
        return KeypointMetric(self.data.skeleton, self.settings.keypoints)

    def report(self, metrics: dict[str, Any], folder: Path, log: Any) -> None:
        """Print tables, write scores of each keypoint.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> task.report(task.metric().compute(), context.folder, context.log)
        >>> (context.folder / "keypoints.csv").exists()
        True
        """
        report_scores(metrics, self.data.skeleton, folder, log)

    def draw(self, item: Item, pieces: Iterator[Piece]) -> np.ndarray | None:
        """Draw truth and prediction of a picture side by side.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> item = task.items("val")[0]
        >>> found = {"frame": 0, "keypoints": np.zeros((0, 7, 3)), "scores": np.zeros(0)}
        >>> task.draw(item, iter([Piece(item, found)])).ndim
        3
        """
        assert isinstance(item, PoseItem)
        return draw_item(item, next(iter(pieces)), self.data.skeleton)

    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        """Files of one picture or video.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> task.sink(task.items("inference")[0], context.folder, {}).resume_point() is None
        True
        """
        assert isinstance(item, PoseItem)
        return PoseSink(item, folder, self.data.skeleton, self.settings.keypoints.formats, fingerprint)

    def conclude(self, items: Sequence[Item], folder: Path) -> list[Path]:
        """Files about all pictures together.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.keypoints.example import animals_example
        >>> task, context = animals_example(tempfile.mkdtemp())
        >>> task.conclude([], context.folder)
        []
        """
        poses = [item for item in items if isinstance(item, PoseItem)]
        return gather_predictions(poses, folder, self.data.skeleton, self.settings.keypoints.formats)
