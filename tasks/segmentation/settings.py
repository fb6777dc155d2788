"""Settings of tasks of kind segmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from config import (
    BandNumber,
    ClassName,
    Count,
    DatasetConfig,
    GeometricAugmentationsConfig,
    InferenceConfig,
    Interval,
    ModelConfig,
    Multiple,
    NonNegative,
    PathsConfig,
    Percentiles,
    Pixels,
    Positive,
    PrepareConfig,
    SampleConfig,
    Section,
    Side,
    SplitsConfig,
    TaskConfig,
    TrainConfig,
)
from models import HeadName
from tasks.segmentation.ensemble_settings import EnsembleConfig
from tasks.segmentation.evaluate_settings import SegmentationEvaluate
from utils.formats.convert_settings import ConvertConfig

Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


class SegmentationPaths(PathsConfig):
    """Folders and files shared by the phases; relative paths start in the working directory."""

    raw_images_dir: str | list[str] | None = Field(
        None, description="pictures: file, folder, glob, or a list of them; null with annotations, which name them"
    )
    label_path: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="labels: one raster or vector file, a folder of them, or annotations that name the pictures; of a "
        "list of annotations the first that labels a picture counts",
    )


class SegmentationSplits(SplitsConfig):
    """Training, validation and test split."""

    block_tiles: Count | None = Field(
        None,
        description="side of the spatial blocks into which the default split cuts pictures, in tiles; null keeps "
        "several photos and many scenes whole, and else chooses by the data's size",
    )


class SegmentationConvertConfig(ConvertConfig):
    """A copy of annotations in another format."""

    format: Literal["yolo", "coco", "labelme", "cvat", "fiftyone", "masks", "voc", "csv"] = Field(
        description="what other programs read"
    )

    @override
    def how(self) -> dict[str, str]:
        return {**super().how(), "mode": "segmentation"}


class SegmentationDataset(DatasetConfig):
    """Pictures, labels and classes."""

    classes: list[ClassName] | None = Field(None, min_length=1, description="class names; index 0 is the first of them")
    bands: list[BandNumber] | None = Field(
        None, min_length=1, description="bands to read, from 1, in order: three colours, then extra bands for the head"
    )
    band_files: list[str] | None = Field(
        None, min_length=1, description="files below raw_images_dir that are the bands of one scene"
    )
    scale: Multiple = Field(
        1.0, description="resample pictures by this factor before anything else: 0.5 halves each side"
    )
    image_size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = Field(
        None, description="[height, width] to which every picture is resampled, in place of scale; shapes may change"
    )
    value_range: Interval | None = Field(None, description="values that become black and white; null takes percentiles")
    percentiles: Percentiles = Field([1.0, 99.0], description="of all pictures together, for data that is not 8 bits")
    max_pixels: Pixels = Field(
        178_956_970, description="refuse pictures that must be decoded whole and hold more pixels than this"
    )
    nodata: float | list[float] | None = Field(
        None,
        description="value, or values, of pictures that mean 'nothing' besides what the files declare: where all bands "
        "hold it, in signed and real types where any does; null reports areas that look like it, [] does not look",
    )
    allow_vrt: bool = Field(
        False,
        description="let virtual rasters (VRT) have any suffix and take pixels from any file of this machine; "
        "otherwise they end in .vrt and name files of their own folder, or of data_root where they lie in it",
    )
    format: Literal["auto", "coco", "yolo", "labelme", "cvat", "fiftyone", "masks", "voc", "csv"] = Field(
        "auto",
        description="format of annotations; auto: rasters and vector files that pair with pictures, else by content",
    )
    taxonomy: str | dict[str, str] | None = Field(
        None,
        description="family of each name in annotations: a YAML file of lines `name: family`, such lines here, "
        "finegrained or agnostic; families are classes, or values of label_mapping",
    )
    overlap: Literal["order", "area"] = Field(
        "order",
        description="which of two annotated objects lies on top: order, of the higher z-order, else the later in the "
        "file; area, the smaller",
    )
    boxes: Literal["auto", "class", "ignore", "skip"] = Field(
        "auto",
        description="annotated boxes without an outline: class draws them, ignore leaves their pixels unlabelled, skip "
        "draws nothing; auto: class for LabelMe and CVAT, else ignore",
    )
    convert_to: SegmentationConvertConfig | None = Field(
        None, description="prepare also writes annotations in another format, divided as the splits are"
    )
    label_pattern: str | None = Field(
        None, description="name of a picture's label in the folder label_path, such as '{stem}_buildings.geojson'"
    )
    label_layer: str | None = Field(None, description="layer of a vector file")
    label_attribute: str | None = Field(None, description="attribute of a vector file that holds the class")
    label_mapping: dict[str | int, ClassName | int] | None = Field(
        None,
        description="label value or annotated name -> class name or index; '*' is every other; 'ignore' leaves out; "
        "attributes and names that are class names need no entry; in rasters 255 is unlabelled unless it is mapped",
    )
    label_colours: dict[ClassName, list[int]] | None = Field(
        None,
        description="class name -> [red, green, blue] of masks that are painted in colours, 'ignore' too for a colour "
        "that is left out; results take these colours",
    )
    colours: dict[ClassName, Colour] | None = Field(
        None, description="class name -> [red, green, blue] in results; others have label_colours, or those of maps"
    )
    label_nodata: list[int] = Field([], description="label values that mean 'not labelled'")
    unlabelled: str = Field(
        "ignore", description="class of the pixels outside all features of a vector file or annotations, or 'ignore'"
    )
    line_width: float = Field(
        3.0,
        gt=0,
        le=32768,
        description="width at which lines of a vector file or annotations are drawn, in pixels after scale",
    )
    max_windows: Count | None = Field(None, description="keep only this many windows per item, for a quick try")
    augmentations: GeometricAugmentationsConfig = GeometricAugmentationsConfig()
    splits: SegmentationSplits = SegmentationSplits()
    sample: SampleConfig = SampleConfig()


class SegmentationModel(ModelConfig):
    """The frozen backbone and the head that is trained on it."""

    head: Annotated[str, HeadName("segmentation")] = Field("dpt", description="name in the registry of heads")
    num_classes: int | None = Field(
        None, ge=1, le=254, description="number of classes, when dataset.classes does not name them"
    )


class SegmentationPrepare(PrepareConfig):
    """Cut the pictures, compute their features once, store them."""

    tile_size: Side = Field(512, description="side of a window in pixels")
    overlap: float = Field(0.0, ge=0, lt=0.9, description="share of a training window that its neighbour repeats")


class LossConfig(Section):
    """Weights of the loss terms."""

    ce_weight: NonNegative = Field(1.0, description="cross-entropy per pixel")
    dice_weight: NonNegative = Field(1.0, description="Dice per picture and class that occurs in it")
    aux_weight: NonNegative = Field(0.4, description="the same terms on a head's auxiliary logits")
    focal_gamma: NonNegative = Field(0.0, description="above 0 the cross-entropy is focal with this exponent")
    class_weights: Literal["auto"] | list[NonNegative] | None = Field(
        None, description="auto: from the pixel counts of the training split; or one weight per class"
    )
    no_object_weight: Positive = Field(0.1, description="mask classification: weight of queries without a mask")


class SegmentationTrain(TrainConfig):
    """Train a head."""

    later: ClassVar[tuple[str, ...]] = ("cat_max_ratio",)

    loss: LossConfig = LossConfig()
    sampling: Literal["uniform", "rare"] = Field(
        "uniform", description="rare: windows with rare classes come more often"
    )
    val_overlap: float = Field(
        0.25, ge=0, lt=0.9, description="share of a window that its neighbour repeats in validation, test and evaluate"
    )
    crop_size: Side | None = Field(None, description="random crops of this side; needs features: online")
    cat_max_ratio: Positive = Field(
        1.0, le=1, description="a crop is drawn anew, ten times at most, while one class has more than this share of it"
    )


class PolygonsConfig(Section):
    """Polygons of the predicted classes."""

    enable: bool = Field(False, description="write a GeoPackage beside each raster")
    simplify: NonNegative = Field(0.0, description="largest deviation in pixels; 0 keeps every corner")
    min_area: NonNegative = Field(0.0, description="leave out smaller polygons, in pixels")
    skip: list[str] = Field([], description="classes that get no polygons, such as the background")


class SegmentationInference(InferenceConfig):
    """Predict new pictures."""

    output_tif: str | None = Field(None, description="name of the result, for one picture")
    tile_size: Side | None = Field(None, description="null: as in training")
    overlap: float = Field(0.25, ge=0, lt=0.9, description="share of a window that its neighbour repeats, blended")
    confidence: bool = Field(False, description="also write the probability of the chosen class")
    format: Literal["cog", "gtiff"] = Field("cog", description="cloud-optimised or plain tiled GeoTIFF")
    output_resolution: Literal["source", "model"] = Field(
        "source", description="grid of the map: that of the picture, pixel for pixel, or that of the model, after scale"
    )
    polygons: PolygonsConfig = PolygonsConfig()
    ensemble: EnsembleConfig | None = Field(None, description="predict together with another model's objects")


class SegmentationSettings(TaskConfig):
    """All settings of a task of kind segmentation, defaults filled in.

    Examples
    --------
    >>> SegmentationSettings(train={"enable": True}).model.head
    'dpt'
    """

    sample_sizes: ClassVar[dict[str, int | None]] = {"prepare.tile_size": None}

    kind: Literal["segmentation"] = Field("segmentation", description="what the task makes of pictures")
    paths: SegmentationPaths = SegmentationPaths()
    dataset: SegmentationDataset = SegmentationDataset()
    model: SegmentationModel = SegmentationModel()
    prepare: SegmentationPrepare = SegmentationPrepare()
    train: SegmentationTrain = SegmentationTrain()
    evaluate: SegmentationEvaluate = SegmentationEvaluate()
    inference: SegmentationInference = SegmentationInference()

    @override
    def clashes(self) -> Iterator[str]:
        yield from super().clashes()
        classes, number = self.dataset.classes, self.model.num_classes
        loss, crop, output = self.train.loss, self.train.crop_size, self.inference.output_tif
        if self.evaluate.names_pictures and None in (self.evaluate.inputs, self.evaluate.labels):
            yield "evaluate.inputs and evaluate.labels: only one is set; give the pictures and their labels"
        if self.dataset.image_size is not None and self.dataset.scale != 1:
            yield f"dataset.image_size: set beside dataset.scale {self.dataset.scale:g}; drop one of the two"
        if self.train.cat_max_ratio < 1 and crop is None:
            yield "train.cat_max_ratio: acts on random crops; set train.crop_size, or drop it"
        if crop is not None and self.train.features == "cached":
            yield "train.crop_size: stored features cannot be cropped; set train.features: online or crop_size: null"
        if crop is not None and crop > self.prepare.tile_size:
            yield f"train.crop_size: {crop} exceeds prepare.tile_size {self.prepare.tile_size}"
        if classes and number and len(classes) != number:
            yield f"model.num_classes: {number}, but dataset.classes names {len(classes)}; drop one of the two"
        if loss.ce_weight == loss.dice_weight == 0:
            yield "train.loss: ce_weight and dice_weight are both 0, so no loss is left; raise one"
        if isinstance(loss.class_weights, list) and not any(loss.class_weights):
            yield f"train.loss.class_weights: at least one must be above 0, got {loss.class_weights}"
        if output and not output.lower().endswith((".tif", ".tiff", ".png")):
            yield f"inference.output_tif: expected a name that ends with .tif or .png, got {output!r}"
