"""Settings of tasks of kind keypoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from config import (
    AffineAugmentationsConfig,
    DatasetConfig,
    Fraction,
    InferenceConfig,
    LabelledEvaluateConfig,
    ModelConfig,
    NonNegative,
    PathsConfig,
    Positive,
    SampleConfig,
    Section,
    Side,
    TaskConfig,
)
from models import HeadName
from utils.formats.convert_settings import ConvertConfig

Cells = Annotated[float, Field(gt=0, le=1024)]  # of a heatmap, which has a few hundred along a side


class KeypointsPaths(PathsConfig):
    """Folders and files shared by the phases; relative paths start in the working directory."""

    label_path: str | None = Field(None, description="labels: one file, or a folder of them; they name the pictures")


class KeypointsConvertConfig(ConvertConfig):
    """A copy of the labels in another format."""

    format: Literal["yolo", "labelme", "coco", "deeplabcut", "cvat", "fiftyone"] = Field(
        description="what other programs read"
    )
    mode: Literal["keypoints", "segmentation"] = Field(
        "keypoints", description="coco: points, or only outlines (boxes where there is none)"
    )


class KeypointsDataset(DatasetConfig):
    """Pictures, labels and classes."""

    augmentations: AffineAugmentationsConfig = AffineAugmentationsConfig()
    sample: SampleConfig = SampleConfig()
    convert_to: KeypointsConvertConfig | None = Field(
        None, description="prepare also writes the labels in another format, divided as the splits are"
    )


class KeypointsModel(ModelConfig):
    """The frozen backbone and the head that is trained on it."""

    head: Annotated[str, HeadName("keypoints")] = Field("conv", description="name in the registry of heads")


class KeypointLossConfig(Section):
    """Weights of the loss terms of keypoints; sizes are in cells of the head's output."""

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
    """What only tasks of kind keypoints have."""

    format: Literal["auto", "yolo", "labelme", "coco", "deeplabcut", "cvat", "fiftyone"] = Field(
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
    max_instances: int = Field(
        20, ge=1, le=5000, description="most animals of a picture; more are an error of the labels"
    )
    grouping: bool | Literal["auto"] = Field(
        "auto", description="learn which points belong together; auto: when a whole picture holds several animals"
    )
    split_by: Literal["auto", "picture", "folder", "stem"] = Field(
        "auto",
        description="what stays together in the default split; stem: the name up to its last number; auto: folders or "
        "stems where there are several and neighbours look alike, else pictures",
    )
    mask_type: Literal["gaussian", "circle"] = Field("gaussian", description="shape of the heatmaps' targets")
    sigma: Cells = Field(1.5, description="their size in cells of the output: deviation, or radius of the circle")
    sigma_end: Cells | None = Field(None, description="size at the last epoch; null: as at the first")
    augment_from: Fraction = Field(0.0, description="share of training before which pictures are not varied")
    augment_until: Fraction = Field(1.0, description="share of training after which pictures are not varied")
    loss: KeypointLossConfig = KeypointLossConfig()
    canonicalise: bool | Literal["auto"] = Field(
        "auto", description="name left and right of training labels by the body axis; auto: small ambiguous sets"
    )
    automatic_rules: bool = Field(True, description="let small or ambiguous data change defaults; each is logged")
    decoder: Literal["quadratic", "soft_argmax"] = Field(
        "quadratic",
        description="from a heatmap to a point: a fit to 3 x 3 cells, or the mean under a softmax, over the whole map "
        "of one animal, or within nms_radius of each peak of several",
    )
    min_score: Fraction = Field(
        0.05, description="points below this are left out of predictions, and animals without a point above it"
    )
    nms_radius: Cells = Field(3.0, description="cells between two peaks of one keypoint")
    tta_merge: Literal["mean", "max"] = Field("mean", description="how heatmaps of mirrored pictures are merged")
    thresholds: list[Positive] = Field([], description="PCK: pixels of the picture, beside 2, 4, 8 and 16")
    oks_sigmas: Positive | list[Positive] = Field(0.05, description="OKS: one for all keypoints, or one each")
    best_metric: Literal["PCK", "error", "AP"] = Field(
        "PCK", description="chooses the best checkpoint: weighted PCK, mean error of all labelled points, or OKS AP"
    )
    formats: list[Literal["labelme", "coco", "json", "csv", "video"]] = Field(
        ["csv", "json"], min_length=1, description="what inference writes; video: an overlay of a video"
    )
    prompts: str | None = Field(None, description="folder of LabelMe files whose rectangles say where animals are")


class KeypointsSettings(TaskConfig):
    """All settings of a task of kind keypoints, defaults filled in.

    Examples
    --------
    >>> KeypointsSettings(train={"enable": True}).model.head
    'conv'
    """

    safe_mode: ClassVar[dict[str, Any]] = {"keypoints": {"short_side": 378}}
    sample_sizes: ClassVar[dict[str, int | None]] = {"keypoints.short_side": 378}
    rooted: ClassVar[Mapping[str, frozenset[str]]] = {
        **TaskConfig.rooted,
        "keypoints.names_file": frozenset(["data"]),
        "keypoints.prompts": frozenset(["data", "inference"]),
    }
    labels_may_split: ClassVar[bool] = True

    kind: Literal["keypoints"] = Field("keypoints", description="what the task makes of pictures")
    paths: KeypointsPaths = KeypointsPaths()
    dataset: KeypointsDataset = KeypointsDataset()
    model: KeypointsModel = KeypointsModel()
    evaluate: LabelledEvaluateConfig = LabelledEvaluateConfig()
    inference: InferenceConfig = InferenceConfig()
    keypoints: KeypointsConfig = KeypointsConfig()

    @override
    def clashes(self) -> Iterator[str]:
        yield from super().clashes()
        keypoints = self.keypoints
        varied = self.dataset.augmentations.enable
        if varied and keypoints.augment_from >= keypoints.augment_until:
            yield (
                f"keypoints.augment_from: {keypoints.augment_from:g} is not below keypoints.augment_until "
                f"({keypoints.augment_until:g}), so that no picture is ever varied; raise augment_until, or set "
                "dataset.augmentations.enable: false"
            )
        if keypoints.prompts is not None and keypoints.instance_mode == "whole":
            yield "keypoints.prompts: read with keypoints.instance_mode: per_instance only; set that, or remove prompts"
        if self.evaluate.inputs is not None and self.evaluate.labels is None:
            yield "evaluate.inputs: set, but evaluate.labels is not; name the labels of these pictures"
