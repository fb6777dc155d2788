"""Every setting: typed, with its default, unit and help. Loading, search order, overrides and errors.

One YAML file drives everything. Top-level sections are the defaults of every task; a section inside `tasks.NAME`
overrides them key by key; without `tasks` the file is one task named `segmentation`. Precedence: command line >
file > safe mode > profile > default. Nothing unknown gets in, and all errors of a file are reported at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from utils.errors import SettingsError
from utils.setting_errors import explain_errors, suggest
from utils.strict_yaml import UniqueKeyLoader, hint_of_quotes, read_sections

CONFIG_VARIABLE = "DINOV3SEG_CONFIG"
TASK_NAME = re.compile(r"[\w-]+")
PROFILES = Path(__file__).parent / "tasks"
PHASES = ("prepare", "verify", "train", "evaluate", "inference", "export")

KIND_DEFAULTS: dict[str, dict[str, Any]] = {  # below all that a file says
    "distill": {
        "model": {"head": "vit"},
        "train": {"adamw_lr": 1.0e-3, "ema_decay": 0.999},
    },
    "keypoints": {"model": {"head": "conv"}},
}
SAFE_MODE: dict[str, Any] = {  # what resources.safe_mode puts in place of defaults and profiles
    "resources": {"omp_threads": max(1, (os.cpu_count() or 2) // 2), "interop_threads": 1},
    "prepare": {"batch_size": 1},
    "train": {"batch_size": 2, "num_workers": 0},
    "inference": {"batch_size": 1},
}
SAFE_MODE_OF_KIND: dict[str, dict[str, Any]] = {"keypoints": {"keypoints": {"short_side": 378}}}
NOT_FOR = {  # settings that a kind of task has no use for; shared sections may hold them for other tasks
    "segmentation": ["keypoints", "distill", "dataset.convert_to"],
    "distill": [
        "keypoints",
        "paths.label_path",
        *(
            f"dataset.{name}"
            for name in (
                "classes",
                "bands",
                "band_files",
                "scale",
                "label_pattern",
                "label_layer",
                "label_attribute",
                "label_mapping",
                "label_colours",
                "label_nodata",
                "unlabelled",
                "line_width",
                "max_windows",
                "sample",
                "convert_to",
                "splits.block_tiles",
                "augmentations.scale_range",
                "augmentations.rotation_degrees",
            )
        ),
        "model.num_classes",
        "model.freeze",
        "prepare.tile_size",
        "prepare.overlap",
        "train.loss",
        "train.sampling",
        "train.crop_size",
        "train.val_overlap",
    ],
    "keypoints": [
        "distill",
        *(
            f"dataset.{name}"
            for name in (
                "classes",
                "bands",
                "band_files",
                "scale",
                "value_range",
                "percentiles",
                "max_pixels",
                "label_pattern",
                "label_layer",
                "label_attribute",
                "label_mapping",
                "label_colours",
                "label_nodata",
                "unlabelled",
                "line_width",
                "max_windows",
                "splits.block_tiles",
            )
        ),
        "paths.raw_images_dir",
        "model.num_classes",
        "prepare.tile_size",
        "prepare.overlap",
        "train.loss",
        "train.sampling",
        "train.crop_size",
        "train.val_overlap",
        *(f"inference.{name}" for name in ("tile_size", "overlap", "output_tif", "confidence", "format", "polygons")),
    ],
}

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=1, le=32768)]  # pixels; a window is held in memory with its features
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class Section(BaseModel):
    """A part of the settings: frozen, strict, without unknown keys and empty texts.

    Examples
    --------
    >>> ResourcesConfig(seed=1).seed
    1
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_empty_text(cls, value: Any) -> Any:
        """Refuse "", which stands for a forgotten value and would mean the working directory as a path.

        Examples
        --------
        >>> PathsConfig._refuse_empty_text("scenes"), PathsConfig._refuse_empty_text([])
        ('scenes', [])
        """
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError("text that is not empty (leave the key out, or write null, for no value)")
        return value


class ResourcesConfig(Section):
    """The machine: seed, threads, precision, ranks.

    Examples
    --------
    >>> ResourcesConfig().distributed
    'auto'
    """

    seed: int = Field(1337, ge=0, lt=2**32, description="seed of every random choice")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N; auto takes a GPU when there is one")
    omp_threads: Threads | None = Field(None, description="threads inside one operation; null leaves it to the machine")
    interop_threads: Threads | None = Field(None, description="operations that may run side by side")
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "highest", description="float32 matrix products: highest is exact, high may use TF32 on a GPU"
    )
    safe_mode: bool = Field(
        False,
        description="for shared desktops: half of the processors, small batches and pictures, no workers, "
        "wherever the file does not say otherwise",
    )
    deterministic: bool = Field(False, description="refuse operations whose result depends on timing")
    distributed: bool | Literal["auto"] = Field(
        "auto", description="auto follows torchrun; true demands it; false under torchrun is an error"
    )
    dist_backend: Literal["nccl", "gloo"] | None = Field(
        None, description="how ranks talk; null takes nccl on GPUs and gloo on CPUs"
    )


class LoggingConfig(Section):
    """What is said, and where.

    Examples
    --------
    >>> LoggingConfig(level="debug").level
    'debug'
    """

    level: Literal["error", "info", "debug"] = Field("info", description="least important lines that are shown")
    timestamps: bool = Field(False, description="start each line with date and time")
    file: str | None = Field(None, description="also write the lines to this file")


class PathsConfig(Section):
    """Folders and files shared by the phases; relative paths start in the working directory.

    Examples
    --------
    >>> PathsConfig(data_root="/data", raw_images_dir="scenes").resolve("raw_images_dir")
    '/data/scenes'
    """

    data_root: str | None = Field(None, description="where relative paths of pictures and labels start")
    raw_images_dir: str | list[str] | None = Field(None, description="pictures: file, folder, glob, or a list of them")
    label_path: str | None = Field(None, description="labels: one raster or vector file, or a folder of them")
    processed_dir: str = Field("processed", description="the feature store")
    runs_root: str = Field("runs", description="results: runs_root/<task>/<time>/")
    run_name: str | None = Field(None, description="a fixed name for the run's folder in place of the time")
    splits_dir: str = Field("splits", description="where prepare writes split lists that are not named")

    def resolve(self, name: str) -> Any:
        """A path setting with `~`, `$VARIABLES` and `data_root` filled in.

        Examples
        --------
        >>> PathsConfig(raw_images_dir=["a", "/b"], data_root="/d").resolve("raw_images_dir")
        ['/d/a', '/b']
        """
        value = getattr(self, name)
        if isinstance(value, list):
            return [self.locate(entry) for entry in value]
        return None if value is None else self.locate(value)

    def locate(self, value: str) -> str:
        """One path below `data_root`, unless it is absolute.

        Examples
        --------
        >>> PathsConfig(data_root="/d").locate("a.tif")
        '/d/a.tif'
        """
        return os.path.join(expand_path(self.data_root or ""), expand_path(value))


class AugmentationsConfig(Section):
    """How training pictures are varied; stored features use stored views, online features everything.

    Examples
    --------
    >>> AugmentationsConfig().enable
    False
    """

    enable: bool = Field(False, description="train on more than the pictures as they are")
    hflip: bool = Field(True, description="mirror left and right")
    vflip: bool = Field(True, description="mirror top and bottom")
    rotate90: bool = Field(True, description="quarter turns")
    stored_views: int = Field(
        4, ge=1, le=8, description="views of each window whose features are stored, the picture itself included"
    )
    stored_variations: int = Field(
        0, ge=0, le=64, description="further random variations of each picture (see below) whose features are stored"
    )
    scale_range: list[Positive] = Field(
        [1.0, 1.0],
        min_length=2,
        max_length=2,
        description="random enlargement; needs stored_variations or train.features: online",
    )
    rotation_degrees: float = Field(0.0, ge=0, le=180, description="random rotation; likewise")
    brightness: Fraction = Field(0.0, description="random change of brightness; likewise")
    contrast: Fraction = Field(0.0, description="random change of contrast; likewise")
    saturation: Fraction = Field(0.0, description="random change of saturation; likewise")

    def random_parts(self) -> list[str]:
        """Names of the random variations that are asked for.

        Examples
        --------
        >>> AugmentationsConfig(enable=True, contrast=0.1).random_parts()
        ['contrast']
        >>> AugmentationsConfig(enable=False, contrast=0.1).random_parts()
        []
        """
        names = ["rotation_degrees", "brightness", "contrast", "saturation"]
        active = [name for name in names if getattr(self, name) > 0]
        if self.scale_range != [1.0, 1.0]:
            active.insert(0, "scale_range")
        return active if self.enable else []


class SplitsConfig(Section):
    """Which ground trains and which ground judges.

    Examples
    --------
    >>> SplitsConfig(train_list="splits/train.txt").block_tiles is None
    True
    """

    train_list: str | None = Field(None, description="text file of item ids; written by prepare when it is absent")
    val_list: str | None = Field(None, description="the same for validation")
    test_list: str | None = Field(None, description="item ids of a further split, for evaluate.split: test")
    block_tiles: Count | None = Field(
        None, description="side of the spatial blocks of the default split, in tiles; null chooses by the data's size"
    )


class SampleConfig(Section):
    """The seeded sample that the project makes itself.

    Examples
    --------
    >>> SampleConfig().enable
    False
    """

    enable: bool = Field(False, description="make the sample and use it in place of paths.raw_images_dir")
    folder: str = Field("data/sample", description="where the sample is written")
    seed: int = Field(7, ge=0, description="seed of the sample's landscape")


class ConvertConfig(Section):
    """A copy of the labels in another format.

    Examples
    --------
    >>> ConvertConfig(format="coco", folder="mice_coco").layout
    'annotations'
    """

    format: Literal["yolo", "labelme", "coco", "deeplabcut"] = Field(description="what other programs read")
    folder: str = Field(description="where to write; empty, or a copy made earlier")
    layout: Literal["annotations", "folders"] = Field(
        "annotations", description="coco: annotations/ and images/, or train/ and valid/ with JPEGImages each"
    )
    mode: Literal["keypoints", "segmentation"] = Field(
        "keypoints", description="coco: points, or only outlines (boxes where there is none)"
    )


class DatasetConfig(Section):
    """Pictures, labels and classes.

    Examples
    --------
    >>> DatasetConfig(classes=["field", "road"]).unlabelled
    'ignore'
    """

    classes: list[str] | None = Field(None, min_length=1, description="class names; index 0 is the first of them")
    bands: list[Count] | None = Field(
        None, min_length=1, description="bands to read, from 1, in order: three colours, then extra bands for the head"
    )
    band_files: list[str] | None = Field(
        None, min_length=1, description="files below raw_images_dir that are the bands of one scene"
    )
    scale: Positive = Field(
        1.0, description="resample pictures by this factor before anything else: 0.5 halves each side"
    )
    value_range: list[float] | None = Field(
        None, min_length=2, max_length=2, description="values that become black and white; null takes percentiles"
    )
    percentiles: list[Annotated[float, Field(ge=0, le=100)]] = Field(
        [1.0, 99.0], min_length=2, max_length=2, description="of all pictures together, for data that is not 8 bits"
    )
    max_pixels: Count = Field(
        178_956_970, description="refuse pictures that must be decoded whole and hold more pixels than this"
    )
    label_pattern: str | None = Field(
        None, description="name of a picture's label in the folder label_path, such as '{stem}_buildings.geojson'"
    )
    label_layer: str | None = Field(None, description="layer of a vector file")
    label_attribute: str | None = Field(None, description="attribute of a vector file that holds the class")
    label_mapping: dict[str | int, str | int] | None = Field(
        None,
        description="label value -> class name or index; '*' stands for every other value; 'ignore' leaves out; "
        "attributes that are class names need no entry; in rasters 255 is unlabelled unless it is mapped",
    )
    label_colours: dict[str, list[int]] | None = Field(
        None, description="class name -> [red, green, blue] of masks that are painted in colours; results take them too"
    )
    label_nodata: list[int] = Field([], description="label values that mean 'not labelled'")
    unlabelled: str = Field(
        "ignore", description="class of the ground outside all features of a vector file, or 'ignore'"
    )
    line_width: Positive = Field(3.0, description="width at which lines of a vector file are drawn, in pixels")
    max_windows: Count | None = Field(None, description="keep only this many windows per item, for a quick try")
    augmentations: AugmentationsConfig = AugmentationsConfig()
    splits: SplitsConfig = SplitsConfig()
    sample: SampleConfig = SampleConfig()
    convert_to: ConvertConfig | None = Field(
        None, description="prepare also writes the labels in another format, divided as the splits are"
    )


class ModelConfig(Section):
    """The frozen backbone and the head that is trained on it.

    Examples
    --------
    >>> ModelConfig().head
    'dpt'
    """

    backbone: str = Field("embedded", description="Hugging Face id, a folder, or 'embedded'")
    layers: list[int] | None = Field(
        None,
        min_length=1,
        description="blocks whose maps the head sees, from 0, negative from the end; null: four, even, or all of fewer",
    )
    head: str = Field("dpt", description="name in the registry of heads")
    head_options: dict[str, Any] = Field({}, description="options of the head; see its file")
    num_classes: Count | None = Field(None, description="number of classes, when dataset.classes does not name them")
    dino_channels: Count | None = Field(None, description="width of the backbone; checked, not needed")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="arithmetic of the backbone; auto takes bf16 where the machine has it"
    )
    attention: Literal["sdpa", "eager"] = Field("sdpa", description="implementation of the attention")
    compile: bool = Field(False, description="torch.compile the backbone")
    freeze: bool | Count = Field(
        True, description="true: never trained; false: all blocks are; n: the last n are (needs train.features: online)"
    )


class PrepareConfig(Section):
    """Cut the pictures, compute their features once, store them.

    Examples
    --------
    >>> PrepareConfig().tile_size
    512
    """

    enable: bool = Field(False, description="run this phase")
    tile_size: Side = Field(512, description="side of a window in pixels")
    overlap: float = Field(0.0, ge=0, lt=0.9, description="share of a training window that its neighbour repeats")
    batch_size: Count = Field(4, description="windows per forward of the backbone")
    workers: int = Field(1, ge=0, description="threads that read ahead")
    device: Device | None = Field(None, description="null: resources.device")
    store_dtype: Literal["fp16", "bf16", "int8"] = Field(
        "fp16", description="how features are stored; int8 per channel"
    )
    processed_dir: str | None = Field(None, description="null: paths.processed_dir")
    reserve_gb: NonNegative = Field(1.0, description="disk that must stay free, in GB")


class VerifyConfig(Section):
    """Check every record and every label.

    Examples
    --------
    >>> VerifyConfig().rehash
    True
    """

    enable: bool = Field(False, description="run this phase")
    workers: Count = Field(2, description="threads that check records, in parallel")
    rehash: bool = Field(True, description="read every record and compare its checksum")
    processed_dir: str | None = Field(None, description="null: paths.processed_dir")


class LossConfig(Section):
    """Weights of the loss terms.

    Examples
    --------
    >>> LossConfig().aux_weight
    0.4
    """

    ce_weight: NonNegative = Field(1.0, description="cross-entropy per pixel")
    dice_weight: NonNegative = Field(1.0, description="Dice per picture and class that occurs in it")
    aux_weight: NonNegative = Field(0.4, description="the same terms on a head's auxiliary logits")
    focal_gamma: NonNegative = Field(0.0, description="above 0 the cross-entropy is focal with this exponent")
    class_weights: Literal["auto"] | list[NonNegative] | None = Field(
        None, description="auto: from the pixel counts of the training split; or one weight per class"
    )
    no_object_weight: Positive = Field(0.1, description="mask classification: weight of queries without a mask")


class TrainConfig(Section):
    """Train a head.

    Examples
    --------
    >>> TrainConfig(epochs=3).patience
    10
    """

    enable: bool = Field(False, description="run this phase")
    processed_dir: str | None = Field(None, description="null: paths.processed_dir")
    weights_dir: str | None = Field(None, description="also keep {head}_best and {head}_last here")
    device: Device | None = Field(None, description="null: resources.device")
    features: Literal["cached", "online"] = Field("cached", description="from the store, or computed at every step")
    batch_size: Count = Field(8, description="windows per micro-batch, over all ranks")
    grad_accum_steps: Count = Field(1, description="micro-batches per step of the optimiser")
    epochs: Count = Field(30, description="passes over the training windows")
    num_workers: int = Field(
        0, ge=0, description="threads that read batches ahead, in parallel; 0 reads in the training thread"
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="muon: Muon for hidden matrices, AdamW for the rest"
    )
    muon_lr: Positive = Field(0.02, description="peak learning rate of Muon")
    adamw_lr: Positive = Field(3.0e-3, description="peak learning rate of AdamW")
    momentum: float = Field(0.95, ge=0, lt=1, description="momentum of Muon")
    weight_decay: NonNegative = Field(0.01, description="decoupled; not applied to norms and biases")
    schedule: Literal["one_cycle", "cosine", "poly", "step", "constant"] = Field(
        "one_cycle", description="of both rates"
    )
    warmup: Fraction = Field(0.1, description="share of all steps in which the rates rise")
    milestones: list[Fraction] = Field(
        [0.8, 0.95], description="schedule step: shares of training after which rates fall to a tenth"
    )
    clip_norm: NonNegative | None = Field(1.0, description="largest norm of the gradient; 0 or null does not clip")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "fp32",
        description="arithmetic of the head (bf16 by autocast; losses in fp32); auto: bf16 where the hardware has it; "
        "the checkpoint keeps it for evaluate and inference",
    )
    compile: bool = Field(False, description="torch.compile what is trained, in training and its validations")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="moving average of the weights; 0 is off")
    loss: LossConfig = LossConfig()
    sampling: Literal["uniform", "rare"] = Field(
        "uniform", description="rare: windows with rare classes come more often"
    )
    crop_size: Count | None = Field(None, description="random crops of this side; needs features: online")
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the ground that the default split keeps for validation"
    )
    val_every: Count = Field(1, description="epochs between validations")
    val_batch_size: Count = Field(8, description="windows per forward in validation")
    val_overlap: float = Field(
        0.25, ge=0, lt=0.9, description="share of a window that its neighbour repeats in validation, test and evaluate"
    )
    patience: Count = Field(10, description="validations without gain before training stops")
    min_delta: NonNegative = Field(0.0, description="least gain that counts")
    resume: Literal["auto", "never"] = Field(
        "auto", description="auto continues an interrupted run of the same settings"
    )
    save_minutes: Positive = Field(5.0, description="time between two saved states inside an epoch")
    init_from: str | None = Field(None, description="a task or a checkpoint whose head is the start")
    non_finite_limit: Count = Field(
        20, description="steps in a row that are skipped as their loss or gradient is not finite; one more is an error"
    )
    tensorboard: bool = Field(False, description="also write TensorBoard events")


class EvaluateConfig(Section):
    """Score the best checkpoint.

    Examples
    --------
    >>> EvaluateConfig().split
    'val'
    """

    enable: bool = Field(False, description="run this phase")
    split: Literal["train", "val", "test"] = Field("val", description="the split to score")
    checkpoint: str | None = Field(None, description="null: the best one of this task's latest run")
    batch_size: Count = Field(4, description="windows per forward")
    device: Device | None = Field(None, description="null: resources.device")
    pictures: int = Field(8, ge=0, description="comparison pictures to draw")


class KeypointLossConfig(Section):
    """Weights of the loss terms of keypoints; sizes are in cells of the head's output.

    Examples
    --------
    >>> KeypointLossConfig().heatmap
    'bce'
    """

    heatmap: Literal["bce", "mse", "focal"] = Field("bce", description="what compares heatmaps with their targets")
    heatmap_weight: NonNegative = Field(1.0, description="of that comparison")
    balance: bool = Field(
        False, description="weigh the few cells near a keypoint up, at most 50 times; flattens the peaks"
    )
    dice_weight: NonNegative = Field(0.5, description="Dice per picture and keypoint")
    coord_weight: NonNegative = Field(0.0, description="distance of the soft-argmax to the keypoint")
    coord_type: Literal["smooth_l1", "l1", "l2"] = Field("smooth_l1", description="how that distance counts")
    coord_warmup: NonNegative = Field(5.0, description="epochs in which coord_weight rises from 0")
    grouping_weight: NonNegative = Field(0.5, description="centres of animals and offsets to them")
    objectness_weight: NonNegative = Field(0.25, description="head multitask: where animals are")
    box_weight: NonNegative = Field(0.25, description="head multitask: their boxes")
    mask_weight: NonNegative = Field(0.25, description="head multitask: their area")
    aux_warmup: NonNegative = Field(10.0, description="epochs in which the three weights above rise from 0")
    pair_weight: NonNegative = Field(0.0, description="left and right of a pair must not share a place")
    pair_margin_px: NonNegative = Field(4.0, description="their least distance, in pixels of the sample")
    side_weight: NonNegative = Field(0.0, description="left and right of a pair lie on two sides of the body axis")
    side_margin: NonNegative = Field(0.0, description="sine of the least angle to that axis")


class KeypointsConfig(Section):
    """What only tasks of kind keypoints have.

    Examples
    --------
    >>> KeypointsConfig().instance_mode
    'whole'
    """

    format: Literal["auto", "yolo", "labelme", "coco", "deeplabcut"] = Field(
        "auto", description="of paths.label_path; auto looks at what is there"
    )
    names_file: str | None = Field(
        None, description="LabelMe: text file with the keypoints' names, one per line; null collects them from labels"
    )
    category: str | None = Field(None, description="the kind of animal, where the labels hold several")
    instance_mode: Literal["whole", "per_instance"] = Field(
        "whole", description="whole: the picture as it is; per_instance: a crop of each animal"
    )
    bbox_scale: float = Field(1.25, ge=1, le=10, description="size of a crop over the animal's box")
    short_side: Side = Field(518, description="pixels of a sample's short side, to which pictures are scaled")
    max_instances: Count = Field(20, description="most animals of a picture; more are an error of the labels")
    grouping: bool | Literal["auto"] = Field(
        "auto", description="learn which points belong together; auto: when a whole picture holds several animals"
    )
    split_by: Literal["picture", "folder", "stem"] = Field(
        "picture", description="what stays together in the default split; stem: the name up to its last number"
    )
    mask_type: Literal["gaussian", "circle"] = Field("gaussian", description="shape of the heatmaps' targets")
    sigma: Positive = Field(1.5, description="their size in cells of the output: deviation, or radius of the circle")
    sigma_end: Positive | None = Field(None, description="size at the last epoch; null: as at the first")
    augment_from: Fraction = Field(0.0, description="share of training before which pictures are not varied")
    augment_until: Fraction = Field(1.0, description="share of training after which pictures are not varied")
    loss: KeypointLossConfig = KeypointLossConfig()
    canonicalise: bool | Literal["auto"] = Field(
        "auto", description="name left and right of training labels by the body axis; auto: small ambiguous sets"
    )
    automatic_rules: bool = Field(True, description="let small or ambiguous data change defaults; each is logged")
    decoder: Literal["quadratic", "soft_argmax"] = Field("quadratic", description="from a heatmap to a point")
    min_score: Fraction = Field(
        0.05, description="points below this are left out of predictions, and animals without a point above it"
    )
    nms_radius: Positive = Field(3.0, description="cells between two peaks of one keypoint")
    tta_merge: Literal["mean", "max"] = Field("mean", description="how heatmaps of mirrored pictures are merged")
    thresholds: list[Positive] = Field([], description="PCK: pixels of the picture, beside 2, 4, 8 and 16")
    oks_sigmas: Positive | list[Positive] = Field(0.05, description="OKS: one for all keypoints, or one each")
    best_metric: Literal["PCK", "error", "AP"] = Field(
        "PCK", description="chooses the best checkpoint: weighted PCK, mean error, or OKS AP"
    )
    formats: list[Literal["labelme", "coco", "json", "csv", "video"]] = Field(
        ["csv", "json"], min_length=1, description="what inference writes; video: an overlay of a video"
    )
    prompts: str | None = Field(None, description="folder of LabelMe files whose rectangles say where animals are")


class TTAConfig(Section):
    """Predictions of turned and mirrored pictures, averaged.

    Examples
    --------
    >>> TTAConfig(horizontal_flip=True).quarter_turns
    False
    """

    horizontal_flip: bool = Field(False, description="also predict the mirrored picture")
    vertical_flip: bool = Field(False, description="also predict the picture upside down")
    quarter_turns: bool = Field(False, description="also predict the picture turned by 90, 180 and 270 degrees")


class PolygonsConfig(Section):
    """Polygons of the predicted classes.

    Examples
    --------
    >>> PolygonsConfig().simplify
    0.0
    """

    enable: bool = Field(False, description="write a GeoPackage beside each raster")
    simplify: NonNegative = Field(0.0, description="largest deviation in pixels; 0 keeps every corner")
    min_area: NonNegative = Field(0.0, description="leave out smaller polygons, in pixels")
    skip: list[str] = Field([], description="classes that get no polygons, such as the background")


class InferenceConfig(Section):
    """Predict new pictures.

    Examples
    --------
    >>> InferenceConfig().overlap
    0.25
    """

    enable: bool = Field(False, description="run this phase")
    input_tif: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="pictures: file, folder, glob, or a list of them"
    )
    output_tif: str | None = Field(None, description="name of the result, for one picture")
    output_dir: str | None = Field(None, description="folder of the results, <stem>_classes.tif each; null: the run's")
    checkpoint: str | None = Field(None, description="null: the best one of this task's latest run")
    tile_size: Side | None = Field(None, description="null: as in training")
    overlap: float = Field(0.25, ge=0, lt=0.9, description="share of a window that its neighbour repeats, blended")
    batch_size: Count = Field(4, description="windows per forward")
    device: Device | None = Field(None, description="null: resources.device")
    tta: TTAConfig = TTAConfig()
    confidence: bool = Field(False, description="also write the probability of the chosen class")
    format: Literal["cog", "gtiff"] = Field("cog", description="cloud-optimised or plain tiled GeoTIFF")
    polygons: PolygonsConfig = PolygonsConfig()


class DistillLossConfig(Section):
    """Weights of the loss terms of a student, all on the teacher's maps with standardised channels.

    Examples
    --------
    >>> DistillLossConfig().relation
    0.0
    """

    cosine: NonNegative = Field(1.0, description="1 - cosine between the vectors of a cell")
    smooth_l1: NonNegative = Field(1.0, description="smooth L1 distance of their channels")
    relation: NonNegative = Field(0.0, description="squared difference of the cosines between any two cells of a crop")


class ProbeConfig(Section):
    """A labelled segmentation task on which linear classifiers of teacher, student and a random student are compared.

    Examples
    --------
    >>> ProbeConfig(config="docs/configs/geo_buildings.yml").overrides
    []
    """

    config: str = Field(description="settings file of that task; its pictures, labels, windows and splits are used")
    overrides: list[str] = Field([], description="settings to change in it, such as paths.data_root=/data")


class SourceConfig(Section):
    """Where pictures came from, for the model card.

    Examples
    --------
    >>> SourceConfig(name="reef photos", licence="CC BY 4.0").pictures is None
    True
    """

    name: str = Field(description="what the pictures are and who gave them")
    licence: str = Field(description="their licence")
    pictures: Count | None = Field(None, description="how many")


class CardConfig(Section):
    """What the model card of an exported student says beyond what is measured.

    Examples
    --------
    >>> CardConfig(licence="apache-2.0").sources
    []
    """

    sources: list[SourceConfig] = Field([], description="the sets of pictures; none: the names in raw_images_dir")
    licence: str | None = Field(None, description="licence of the exported weights; null: the teacher's")
    origin: str | None = Field(None, description="where the teacher's weights come from, with their licences")


class DistillConfig(Section):
    """What only tasks of kind distill have.

    Examples
    --------
    >>> DistillConfig().crop
    320
    """

    crop: Side = Field(320, description="side of a crop in pixels; a multiple of the student's patch")
    zooms: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1.0, 0.5], min_length=1, description="scales of the pictures: at 0.5 a crop covers twice its side"
    )
    crops: Count = Field(
        4,
        description="most crops of each photo, video frame and block of a raster, at each zoom; so 300 photos give "
        "1200 at one zoom, and a raster of 60,000 x 60,000 pixels, which is 900 blocks, 3600",
    )
    block: Side | None = Field(
        None,
        description="side of the blocks into which large pictures are cut, in pixels; a block trains or judges as a "
        "whole. null: 2048, less while there would be under 20 items",
    )
    frame_step: Count = Field(50, description="from one frame of a video that is used to the next")
    max_frames: Count | None = Field(None, description="frames of each video that may be used, from its beginning")
    exclude: list[str] = Field([], description="files, folders and name patterns in raw_images_dir to leave out")
    bands: dict[str, list[Count]] = Field(
        {}, description="name pattern -> the bands that are red, green and blue; other rasters give their first three"
    )
    stacks: list[list[str]] = Field(
        [], description="further pictures whose red, green and blue are three files: [[B04.tif, B03.tif, B02.tif]]"
    )
    student_scales: list[Annotated[float, Field(ge=0.25, le=4)]] = Field(
        [0.8, 1.0, 1.2], min_length=1, description="sizes at which the student sees a crop in training, by turns"
    )
    loss: DistillLossConfig = DistillLossConfig()
    probe: ProbeConfig | None = Field(
        None, description="section config, overrides: a segmentation task on which evaluate compares linear probes"
    )
    card: CardConfig = CardConfig()


class ExportConfig(Section):
    """Hand a trained model over (kind distill: a folder for model.backbone; other kinds have no such phase yet).

    Examples
    --------
    >>> ExportConfig().enable
    False
    """

    enable: bool = Field(False, description="run this phase")
    checkpoint: str | None = Field(None, description="null: the best one of this task's latest run")
    output_dir: str | None = Field(None, description="null: the folder `export` of the run")


class TaskConfig(Section):
    """All settings of one task, defaults filled in.

    Examples
    --------
    >>> task = TaskConfig(kind="segmentation", train={"enable": True, "features": "online"})
    >>> task.enabled_phases
    ('train',)
    """

    kind: str = Field(
        "segmentation", description="what the task makes of pictures: segmentation, keypoints, or distill"
    )
    profile: str | None = Field(
        None, description="settings below those of the file: a name in tasks/<kind>/profiles, or a YAML file"
    )
    resources: ResourcesConfig = ResourcesConfig()
    logging: LoggingConfig = LoggingConfig()
    paths: PathsConfig = PathsConfig()
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    prepare: PrepareConfig = PrepareConfig()
    verify: VerifyConfig = VerifyConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    inference: InferenceConfig = InferenceConfig()
    export: ExportConfig = ExportConfig()
    keypoints: KeypointsConfig = KeypointsConfig()
    distill: DistillConfig = DistillConfig()

    @property
    def enabled_phases(self) -> tuple[str, ...]:
        """Names of the phases to run, in their order.

        Examples
        --------
        >>> TaskConfig(evaluate={"enable": True}, prepare={"enable": True}).enabled_phases
        ('prepare', 'evaluate')
        """
        return tuple(name for name in PHASES if getattr(self, name).enable)

    def device(self, phase: str) -> str:
        """The device setting of a phase, or the one of all.

        Examples
        --------
        >>> TaskConfig(resources={"device": "cuda"}, prepare={"device": "cpu"}).device("prepare")
        'cpu'
        """
        return getattr(getattr(self, phase), "device", None) or self.resources.device

    def processed_dir(self, phase: str) -> Path:
        """The feature store of a phase.

        Examples
        --------
        >>> TaskConfig(train={"processed_dir": "/cache"}).processed_dir("train").as_posix()
        '/cache'
        """
        own = getattr(getattr(self, phase), "processed_dir", None)
        return Path(expand_path(own or self.paths.processed_dir))

    @field_validator("dataset")
    @classmethod
    def _check_dataset(cls, dataset: DatasetConfig) -> DatasetConfig:
        """Refuse ranges that are upside down.

        Examples
        --------
        >>> TaskConfig(dataset={"percentiles": [1.0, 99.0]}).dataset.percentiles
        [1.0, 99.0]
        """
        for name in ("value_range", "percentiles"):
            pair = getattr(dataset, name)
            if pair is not None and not pair[0] < pair[1]:  # so written, NaN is refused too
                raise ValueError(f"dataset.{name}: the first value must be below the second, got {pair}")
        return dataset

    @model_validator(mode="after")
    def _check_clashes(self) -> TaskConfig:
        """Refuse settings that contradict each other, naming both.

        Examples
        --------
        >>> TaskConfig(model={"freeze": 2})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        pydantic_core._pydantic_core.ValidationError: ...
        """
        problems = list(self._clashes())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _clashes(self) -> Iterable[str]:
        """Each contradiction of the settings, with its cure.

        Examples
        --------
        >>> list(TaskConfig(model={"num_classes": 2})._clashes())
        []
        """
        cached = self.train.features == "cached"
        if cached and self.model.freeze is not True:
            yield "model.freeze: fine-tuned blocks have no stored features; set train.features: online or freeze: true"
        if cached and self.train.crop_size is not None:
            yield "train.crop_size: stored features cannot be cropped; set train.features: online or crop_size: null"
        yield from self._useless_variations(cached)
        yield from self._impossible()
        classes, number = self.dataset.classes, self.model.num_classes
        if classes and number and len(classes) != number:
            yield f"model.num_classes: {number}, but dataset.classes names {len(classes)}; drop one of the two"
        if self.train.crop_size and self.train.crop_size > self.prepare.tile_size:
            yield f"train.crop_size: {self.train.crop_size} exceeds prepare.tile_size {self.prepare.tile_size}"

    def _useless_variations(self, cached: bool) -> Iterable[str]:
        """Each random variation that nothing would make, with its cure.

        Examples
        --------
        >>> TaskConfig(dataset={"augmentations": {"enable": True, "stored_variations": 2}})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        pydantic_core._pydantic_core.ValidationError: ...
        """
        varied = self.dataset.augmentations
        where, parts = "dataset.augmentations", varied.random_parts()
        if not cached and varied.stored_variations:
            yield f"{where}.stored_variations: nothing is stored with train.features: online; set 0"
        if cached and not varied.stored_variations:
            for name in parts:
                cure = f"set {where}.stored_variations: 4 (or so), or train.features: online"
                yield f"{where}.{name}: stored features cannot be varied at every step; {cure}"
        if cached and varied.enable and varied.stored_variations and not parts:
            yield f"{where}.stored_variations: there is nothing to vary; set brightness, rotation_degrees or others"

    def _impossible(self) -> Iterable[str]:
        """Each setting that is well-formed but can only end in an error or a loss of files.

        Examples
        --------
        >>> list(TaskConfig()._impossible())
        []
        """
        name, low_high = self.paths.run_name, self.dataset.augmentations.scale_range
        if name and (name in (".", "..", "latest", ".lock") or "/" in name):
            yield f"paths.run_name: expected the name of a folder, other than latest, got {name!r}"
        if low_high[0] > low_high[1]:
            yield f"dataset.augmentations.scale_range: the first value must not exceed the second, got {low_high}"
        loss, output = self.train.loss, self.inference.output_tif
        if loss.ce_weight == loss.dice_weight == 0:
            yield "train.loss: ce_weight and dice_weight are both 0, so there is nothing to learn from; raise one"
        if isinstance(loss.class_weights, list) and not any(loss.class_weights):
            yield f"train.loss.class_weights: at least one must be above 0, got {loss.class_weights}"
        if output and not output.lower().endswith((".tif", ".tiff", ".png")):
            yield f"inference.output_tif: expected a name that ends with .tif or .png, got {output!r}"
        if self.evaluate.enable and self.evaluate.split == "test" and self.dataset.splits.test_list is None:
            yield "evaluate.split: test, but dataset.splits.test_list names no list; name one, or score val"
        terms = self.distill.loss
        if terms.cosine == terms.smooth_l1 == terms.relation == 0:
            yield "distill.loss: all weights are 0, so there is nothing to learn from; raise one"


@dataclass(frozen=True)
class Settings:
    """The settings of one call: its tasks in order, and the file they came from.

    Examples
    --------
    >>> settings = parse_settings("train: {enable: true}")
    >>> list(settings.tasks), settings.shared.resources.seed
    (['segmentation'], 1337)
    """

    tasks: dict[str, TaskConfig]
    shared: TaskConfig
    path: Path | None = None


def expand_path(path: str) -> str:
    """Fill in `~` and `$VARIABLES`.

    Examples
    --------
    >>> os.environ["SCENES"] = "/data/scenes"
    >>> expand_path("$SCENES/a.tif")
    '/data/scenes/a.tif'
    """
    return os.path.expandvars(os.path.expanduser(path))


def find_config(argument: str | None = None, start: Path | None = None) -> Path:
    """Choose the settings file: the argument, `$DINOV3SEG_CONFIG`, or `config.yml` here or in a folder above.

    Parameters
    ----------
    argument : str, optional
        Path given on the command line.
    start : Path, optional
        Folder in which the upward search begins; the working directory by default.

    Returns
    -------
    Path
        An existing file.

    Raises
    ------
    SettingsError
        If the named file is missing, or none is found.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "deep" / "er"
    >>> folder.mkdir(parents=True)
    >>> _ = (folder.parent / "config.yml").write_text("{}")
    >>> find_config(start=folder) == folder.parent / "config.yml"
    True
    """
    named = argument or os.environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(expand_path(named))
        if not path.is_file():
            source = "the command line" if argument else f"${CONFIG_VARIABLE}"
            raise SettingsError(f"{path}: no such settings file (named by {source})")
        return path
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "config.yml").is_file():
            return folder / "config.yml"
    raise SettingsError(
        f"no settings file: give one (python main.py config.yml), set ${CONFIG_VARIABLE}, or put config.yml into "
        f"{start} or a folder above; config.example.yml is a start"
    )


def load_settings(
    path: str | Path, overrides: Sequence[str] = (), kinds: Sequence[str] = ("segmentation",)
) -> Settings:
    """Read a settings file and apply `key.path=value` overrides.

    Parameters
    ----------
    path : str or Path
        A YAML file.
    overrides : sequence of str
        Such as `train.epochs=3` or `tasks.coral.train.epochs=3`; the value is YAML.
    kinds : sequence of str
        Known kinds of task.

    Returns
    -------
    Settings
        One validated `TaskConfig` per task.

    Raises
    ------
    SettingsError
        With one line per mistake, all of them at once.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "config.yml"
    >>> _ = path.write_text("train: {enable: true, epochs: 5}")
    >>> load_settings(path, ["train.epochs=3"]).tasks["segmentation"].train.epochs
    3
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as text: {error}") from None
    try:
        return parse_settings(text, overrides, kinds, Path(path))
    except SettingsError as error:
        raise SettingsError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def parse_settings(
    text: str, overrides: Sequence[str] = (), kinds: Sequence[str] = ("segmentation",), path: Path | None = None
) -> Settings:
    """Validate settings given as YAML text; see `load_settings`.

    Examples
    --------
    >>> parse_settings("train: {epochz: 3, adamw_lr: on}")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: train.adamw_lr: expected float, got str 'on'
    train.epochz: unknown key, did you mean 'epochs'? known keys: ...
    """
    tree = read_sections(text)
    for override in overrides:
        _override(tree, override)
    errors: dict[str, None] = {}  # a dictionary, because it keeps order and drops what two tasks repeat
    tasks = tree.pop("tasks", None)
    if tasks is None:
        kind = str(tree.get("kind", "segmentation"))
        tasks = {only_task(tree): {}}
        errors.update(
            {f"{path}: a task of kind {kind} has no use for it; drop it": None for path in useless(kind, tree)}
        )
    elif not isinstance(tasks, dict) or not tasks or not all(isinstance(task, dict) for task in tasks.values()):
        raise SettingsError("tasks: expected a section per task, such as tasks: {coral: {kind: segmentation}}")
    validated = {}
    for name, own in tasks.items():
        if not TASK_NAME.fullmatch(str(name)):
            errors[f"tasks.{name}: expected a name of letters, digits, _ and -, as it names a folder"] = None
        config = _validate_task(str(name), tree, own, kinds, errors)
        if config is not None:
            validated[str(name)] = config
    errors.update({line: None for line in shared_targets(validated)})
    if errors:
        raise SettingsError("\n".join(sorted(errors)))
    return Settings(validated, next(iter(validated.values())), path)


def only_task(tree: Mapping[str, Any]) -> str:
    """Name the one task of a file without `tasks`, and so its runs: as its kind.

    Examples
    --------
    >>> only_task({}), only_task({"kind": "keypoints"}), only_task({"kind": ["keypoints"]})
    ('segmentation', 'keypoints', 'segmentation')
    """
    kind = tree.get("kind", "segmentation")
    return kind if isinstance(kind, str) and TASK_NAME.fullmatch(kind) else "segmentation"


def _override(tree: dict, override: str) -> None:
    """Set one `key.path=value`, also in the tasks that set it for themselves: the command line comes first.

    Examples
    --------
    >>> tree = {"model": {"head": "dpt"}, "tasks": {"quick": {"model": {"head": "linear"}}, "other": {}}}
    >>> _override(tree, "model.head=unet")
    >>> tree["model"], tree["tasks"]
    ({'head': 'unet'}, {'quick': {'model': {'head': 'unet'}}, 'other': {}})
    """
    tasks, path = tree.get("tasks"), override.partition("=")[0].split(".")
    known = list(map(str, tasks)) if isinstance(tasks, dict) else [only_task(tree)]
    if path[0] == "tasks" and len(path) > 1 and path[1] not in known:
        raise SettingsError(f"{override}: unknown task {path[1]!r}{suggest(path[1], known)} known: {', '.join(known)}")
    _apply_override(tree, override)
    for own in tasks.values() if isinstance(tasks, dict) else ():
        if isinstance(own, dict) and _holds(own, path):
            _apply_override(own, override)


def _apply_override(tree: dict, override: str) -> None:
    """Set one `key.path=value` in nested dictionaries.

    Examples
    --------
    >>> tree = {"train": {"epochs": 5}}
    >>> _apply_override(tree, "train.loss.ce_weight=0.5")
    >>> tree
    {'train': {'epochs': 5, 'loss': {'ce_weight': 0.5}}}
    """
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise SettingsError(f"{override}: expected key.path=value, such as train.epochs=3")
    *sections, key = path.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{override}: {section} is not a section")
    try:
        tree[key] = yaml.load(value, UniqueKeyLoader)
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", error))
        raise SettingsError(f"{override}: the value is not valid YAML: {problem}{hint_of_quotes(problem)}") from None


def merge_sections(base: dict, own: dict) -> dict:
    """Lay `own` over `base` key by key; sections merge, everything else replaces.

    Examples
    --------
    >>> merge_sections({"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": []})
    {'a': {'x': 1, 'y': 3}, 'b': []}
    """
    merged = dict(base)
    for key, value in own.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_sections(merged[key], value) if nested else value
    return merged


def _validate_task(
    name: str, shared: dict, own: dict, kinds: Sequence[str], errors: dict[str, None]
) -> TaskConfig | None:
    """Validate one task; mistakes are added to `errors`, each with the path where it stands in the file.

    Examples
    --------
    >>> errors = {}
    >>> _validate_task("coral", {}, {"kind": "segmentatoin"}, ["segmentation"], errors)
    >>> list(errors)
    ["tasks.coral.kind: unknown kind 'segmentatoin', did you mean 'segmentation'? known: segmentation"]
    """
    tree = {key: value for key, value in merge_sections(shared, own).items() if value is not None}
    kind = tree.get("kind", "segmentation")
    if not isinstance(kind, str):
        errors[f"tasks.{name}.kind: expected text, got {type(kind).__name__} {kind!r}"] = None
        return None
    for dead in useless(kind, own):
        errors[f"tasks.{name}.{dead}: a task of kind {kind} has no use for it; drop it"] = None
    if kind not in kinds:
        hint = suggest(str(kind), kinds)
        errors[f"tasks.{name}.kind: unknown kind {kind!r}{hint} known: {', '.join(sorted(kinds))}"] = None
        return None
    try:
        return TaskConfig.model_validate(merge_sections(defaults_below(kind, tree), tree))
    except SettingsError as error:
        errors[str(error)] = None
        return None
    except ValidationError as error:
        for line in explain_errors(error, TaskConfig):
            path = line.partition(":")[0].split(".")
            errors[f"tasks.{name}.{line}" if _holds(own, path) else line] = None
        return None


def defaults_below(kind: str, tree: dict) -> dict:
    """What lies below the settings of a file: the kind's defaults, its profile, and the safe mode.

    Raises
    ------
    SettingsError
        If the profile is unknown or cannot be used.

    Examples
    --------
    >>> defaults_below("keypoints", {"profile": "small_data"})["train"]["patience"]
    12
    >>> defaults_below("segmentation", {"profile": "small_data"})
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: profile: unknown name 'small_data'; kind segmentation has none; or name a YAML file
    """
    below = KIND_DEFAULTS.get(kind, {})
    if tree.get("profile") is not None:
        below = merge_sections(below, read_profile(str(tree["profile"]), kind))
    resources = tree.get("resources")
    if isinstance(resources, dict) and resources.get("safe_mode") is True:
        below = merge_sections(merge_sections(below, SAFE_MODE), SAFE_MODE_OF_KIND.get(kind, {}))
    return below


def read_profile(name: str, kind: str) -> dict:
    """Read a profile and check that it can be used by itself.

    Examples
    --------
    >>> sorted(read_profile("baseline", "keypoints"))
    ['train']
    """
    folder = PROFILES / kind / "profiles"
    path = Path(expand_path(name))
    if path.suffix not in (".yml", ".yaml"):
        path = folder / f"{name}.yml"
        known = sorted(file.stem for file in folder.glob("*.yml"))
        if name not in known:
            there = f"{suggest(name, known)} known: {', '.join(known)}" if known else f"; kind {kind} has none"
            raise SettingsError(f"profile: unknown name {name!r}{there}; or name a YAML file")
    try:
        tree = read_sections(path.read_text(encoding="utf-8"))
        wrong = sorted({"kind", "profile", "tasks"} & set(tree)) + useless(kind, tree)
        if wrong:
            raise SettingsError(f"{wrong[0]}: a profile of kind {kind} cannot hold it; drop it")
        TaskConfig.model_validate(merge_sections(KIND_DEFAULTS.get(kind, {}), tree))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"profile: {path}: cannot be read as text: {error}") from None
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {line}" for line in explain_errors(error, TaskConfig))) from None
    except SettingsError as error:
        raise SettingsError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None
    return tree


def safe_mode_in_force(config: TaskConfig) -> list[str]:
    """Each setting that the safe mode decided, for the log.

    Examples
    --------
    >>> config = parse_settings("{resources: {safe_mode: true}, prepare: {batch_size: 3}}").shared
    >>> safe_mode_in_force(config)[-3:]
    ['train.batch_size 2', 'train.num_workers 0', 'inference.batch_size 1']
    """
    if not config.resources.safe_mode:
        return []
    tree = merge_sections(SAFE_MODE, SAFE_MODE_OF_KIND.get(config.kind, {}))
    pairs = [(section, key, value) for section, values in tree.items() for key, value in values.items()]
    return [
        f"{section}.{key} {value}" for section, key, value in pairs if getattr(getattr(config, section), key) == value
    ]


def shared_targets(tasks: dict[str, TaskConfig]) -> list[str]:
    """Find tasks that would write over each other's files.

    Examples
    --------
    >>> inference = {"enable": True, "output_dir": "maps"}
    >>> shared_targets({"a": TaskConfig(inference=inference), "b": TaskConfig(inference=inference)})
    ['tasks.b.inference.output_dir: maps holds the results of task a too; give each task a folder of its own']
    >>> export = {"enable": True, "output_dir": "models/mine"}
    >>> shared_targets({"a": TaskConfig(export=export), "b": TaskConfig(export=export)})
    ['tasks.b.export.output_dir: models/mine holds the export of task a too; give each task a folder of its own']
    """
    found: list[str] = []
    owners: dict[tuple[str, str], str] = {}
    for name, task in tasks.items():
        targets: list[tuple[str, str, str | None, str]] = []
        if task.inference.enable:
            results = ((key, getattr(task.inference, key)) for key in ("output_dir", "output_tif"))
            targets += [("inference", key, target, "the results") for key, target in results]
        weights = task.train.weights_dir and f"{task.train.weights_dir} ({task.model.head})"
        targets += [("train", "weights_dir", weights, "the weights")] if task.train.enable else []
        targets += [("export", "output_dir", task.export.output_dir, "the export")] if task.export.enable else []
        for section, key, target, what in targets:
            kind = key if section == "inference" else section
            if target and owners.setdefault((kind, target), name) != name:
                place = f"tasks.{name}.{section}.{key}: {target} holds {what} of task {owners[kind, target]} too"
                found.append(f"{place}; give each task a folder of its own")
    return found


def useless(kind: str, own: dict) -> list[str]:
    """Paths of settings that a section holds and its kind of task has no use for.

    Examples
    --------
    >>> useless("keypoints", {"train": {"epochs": 3, "crop_size": 64}})
    ['train.crop_size']
    """
    return [path for path in NOT_FOR.get(kind, []) if _holds(own, path.split("."))]


def _holds(tree: Any, path: Sequence[str]) -> bool:
    """Whether nested dictionaries hold a value at `path`.

    Examples
    --------
    >>> _holds({"train": {"lr": 1}}, ["train", "lr"]), _holds({"train": {}}, ["train", "lr"])
    (True, False)
    """
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def schema() -> dict:
    """The JSON schema of a settings file, for editors.

    Examples
    --------
    >>> schema()["properties"]["train"]["$ref"]
    '#/$defs/TrainConfig'
    >>> "tasks" in schema()["properties"]
    True
    """
    tree = TaskConfig.model_json_schema()
    own = {"type": "object", "properties": dict(tree["properties"]), "additionalProperties": False}
    tree["properties"]["tasks"] = {"type": "object", "additionalProperties": own, "description": "one section per task"}
    tree["title"] = "Dinolith settings"
    return tree
