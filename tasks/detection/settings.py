"""Settings of tasks of kind detection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from config import (
    AffineAugmentationsConfig,
    ClassName,
    Count,
    DatasetConfig,
    Fraction,
    InferenceConfig,
    LabelledEvaluateConfig,
    ModelConfig,
    PathsConfig,
    SampleConfig,
    Section,
    Side,
    TaskConfig,
    TrainConfig,
)
from models import HeadName
from utils.formats.convert_settings import ConvertConfig


class DetectionPaths(PathsConfig):
    """Folders and files shared by the phases; relative paths start in the working directory."""

    label_path: str | None = Field(None, description="labels: one file, or a folder of them; they name the pictures")


class DetectionAugmentationsConfig(AffineAugmentationsConfig):
    """How training pictures are varied; by default objects stay upright."""

    vflip: bool = Field(False, description="mirror top and bottom")
    rotate90: bool = Field(False, description="quarter turns")


class SubsetConfig(Section):
    """A few pictures of each split, spread evenly over it, for a pilot run."""

    train: Count | None = Field(None, description="pictures to train on; null takes all")
    val: Count | None = Field(None, description="pictures to validate on; null takes all")


class DetectionConvertConfig(ConvertConfig):
    """A copy of the labels in another format."""

    format: Literal["yolo", "coco", "voc", "labelme", "csv", "cvat", "fiftyone"] = Field(
        description="what other programs read"
    )


class DetectionDataset(DatasetConfig):
    """Pictures, labels and classes."""

    classes: list[ClassName] | None = Field(
        None,
        min_length=1,
        description="class names, in order; null takes all of the labels; objects of others are background",
    )
    label_mapping: dict[str | int, ClassName] | None = Field(
        None,
        description="name of a class in the labels -> class; '*' is every other name; 'ignore' makes its boxes regions "
        "where objects are neither learnt nor false alarms",
    )
    label_layer: str | None = Field(None, description="layer of a vector file")
    label_attribute: str | None = Field(
        None,
        description="attribute of a vector file that holds the class; null: label, class, class_name, category, "
        "category_name or name",
    )
    subset: SubsetConfig = SubsetConfig()
    convert_to: DetectionConvertConfig | None = Field(
        None, description="prepare also writes the labels in another format, divided as the splits are"
    )
    augmentations: DetectionAugmentationsConfig = DetectionAugmentationsConfig()
    sample: SampleConfig = SampleConfig()


class DetectionModel(ModelConfig):
    """The frozen backbone and the head that is trained on it."""

    head: Annotated[str, HeadName("detection")] = Field("dense", description="name in the registry of heads")
    init: str | None = Field(
        None,
        min_length=1,
        description="folder or Hugging Face id of a detector of transformers with whose weights the head begins, where "
        "names and shapes fit: DETR for the head detr, DEIMv2 for deim",
    )


class DetectionConfig(Section):
    """What only tasks of kind detection have."""

    format: Literal["auto", "yolo", "coco", "voc", "labelme", "csv", "vector", "cvat", "fiftyone"] = Field(
        "auto", description="of paths.label_path; auto looks at what is there"
    )
    split_by: Literal["auto", "picture", "folder", "stem"] = Field(
        "auto",
        description="what stays together in the default split; stem: the name up to its last number; auto: folders or "
        "stems where there are several and neighbours look alike, else pictures",
    )
    shortest_edge: Side = Field(518, description="pixels of a sample's short side, to which pictures are scaled")
    longest_edge: Side = Field(840, description="most pixels of its long side; a longer picture is scaled down to it")
    pad_size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="[height, width] to which all samples are padded; swapped for upright pictures, rounded up to "
        "whole patches; null pads nothing but batches of several sizes",
    )
    windows: Literal[0, 2, 3] = Field(
        0, description="n x n windows of a picture are seen beside the whole, each enlarged to the whole's size"
    )
    window_overlap: float = Field(0.2, ge=0, lt=0.5, description="share of a window that its neighbour repeats")
    window_largest: float = Field(
        0.4,
        gt=0,
        le=1,
        description="size of a box (root of its area) in that of a window up to which the window tells it; larger ones "
        "are left to the whole picture",
    )
    min_visible: Fraction = Field(
        0.3, description="share of a box that a window or variation must show; less is neither object nor false alarm"
    )
    min_score: Fraction = Field(0.05, description="boxes below this are left out of predictions")
    suppression: Literal["nms", "soft", "vote", "cluster", "none"] = Field(
        "nms",
        description="how boxes of one object become one: the best; soft: others lose score; vote: their mean; cluster: "
        "as vote, and boxes side by side stay two",
    )
    iou: Fraction = Field(0.5, description="overlap from which two boxes of a class may be one object")
    max_detections: int = Field(
        300, ge=1, le=100_000, description="most boxes of a picture, frame, or window of a raster"
    )
    formats: list[Literal["csv", "coco", "yolo", "labelme", "voc", "gpkg", "video"]] = Field(
        ["csv", "gpkg"],
        min_length=1,
        description="what inference writes beside JSON and overlay; gpkg: of rasters with a place; video: an overlay",
    )


class DetectionTrain(TrainConfig):
    """Train a head."""

    sampling: Literal["uniform", "objects"] = Field(
        "objects", description="objects: samples without an object come a quarter as often as others"
    )


class DetectionSettings(TaskConfig):
    """All settings of a task of kind detection, defaults filled in.

    Examples
    --------
    >>> DetectionSettings(train={"enable": True}).model.head
    'dense'
    >>> list(DetectionSettings().clashes())
    []
    """

    safe_mode: ClassVar[dict[str, Any]] = {"detection": {"shortest_edge": 378, "longest_edge": 616}}
    sample_sizes: ClassVar[dict[str, int | None]] = {
        "detection.shortest_edge": 800,
        "detection.longest_edge": 1333,
        "detection.pad_size": None,
    }
    labels_may_split: ClassVar[bool] = True

    kind: Literal["detection"] = Field("detection", description="what the task makes of pictures")
    paths: DetectionPaths = DetectionPaths()
    dataset: DetectionDataset = DetectionDataset()
    model: DetectionModel = DetectionModel()
    train: DetectionTrain = DetectionTrain()
    evaluate: LabelledEvaluateConfig = LabelledEvaluateConfig()
    inference: InferenceConfig = InferenceConfig()
    detection: DetectionConfig = DetectionConfig()

    @override
    def clashes(self) -> Iterator[str]:
        yield from super().clashes()
        sides = self.detection
        if self.evaluate.inputs is not None and self.evaluate.labels is None:
            yield "evaluate.inputs: set, but evaluate.labels is not; name the labels of these pictures"
        if sides.shortest_edge > sides.longest_edge:
            yield (
                f"detection.shortest_edge: {sides.shortest_edge} exceeds detection.longest_edge, "
                f"{sides.longest_edge}; lower it, or raise the other"
            )
        if sides.pad_size is not None and (
            min(sides.pad_size) < sides.shortest_edge or max(sides.pad_size) < sides.longest_edge
        ):
            yield (
                f"detection.pad_size: {sides.pad_size} has no room for pictures of {sides.shortest_edge} x "
                f"{sides.longest_edge} pixels; make it as large as shortest_edge and longest_edge"
            )
