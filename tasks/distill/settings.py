"""Settings of tasks of kind distill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from config import (
    BandNumber,
    Count,
    DatasetConfig,
    EvaluateConfig,
    ExportConfig,
    Interval,
    ModelConfig,
    NonNegative,
    PathsConfig,
    Percentiles,
    Pixels,
    Positive,
    PrepareConfig,
    Section,
    Side,
    TaskConfig,
    TrainConfig,
)
from models import HeadName


class DistillPaths(PathsConfig):
    """Folders and files shared by the phases; relative paths start in the working directory."""

    raw_images_dir: str | list[str] | None = Field(None, description="pictures: file, folder, glob, or a list of them")


class DistillDataset(DatasetConfig):
    """Pictures and how their values become 8 bits."""

    value_range: Interval | None = Field(None, description="values that become black and white; null takes percentiles")
    percentiles: Percentiles = Field([1.0, 99.0], description="of each raster by itself, for data that is not 8 bits")
    nodata: float | list[float] | None = Field(
        None,
        description="value, or values, of pictures that mean 'nothing' besides what the files declare: where all bands "
        "hold it, in signed and real types where any does; null reports areas that look like it, [] does not look",
    )
    max_pixels: Pixels = Field(
        178_956_970, description="refuse pictures that must be decoded whole and hold more pixels than this"
    )
    allow_vrt: bool = Field(
        False,
        description="let virtual rasters (VRT) have any suffix and take pixels from any file of this machine; "
        "otherwise they end in .vrt and name files of their own folder, or of data_root where they lie in it",
    )


class DistillModel(ModelConfig):
    """The teacher, which is frozen, and the student that is trained on its maps."""

    head: Annotated[str, HeadName("distill")] = Field("vit", description="name of the student in the registry of heads")
    freeze: ClassVar[bool] = True  # type: ignore[misc]  # no setting: the teacher is never trained


class DistillPrepare(PrepareConfig):
    """Cut the pictures, compute their features once, store them."""

    left_out: ClassVar[dict[str, str]] = {
        "project": "a student learns the maps of the teacher as they are, so that tasks of kind distill project none; "
        "set it in the tasks that use the student"
    }
    project: ClassVar[None] = None  # type: ignore[misc]


class DistillTrain(TrainConfig):
    """Train a student."""

    adamw_lr: Positive = Field(1.0e-3, description="peak learning rate of AdamW")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="moving average of the weights; 0 is off")


class DistillEvaluate(EvaluateConfig):
    """Score the best checkpoint on a split, or on other pictures, whose truth are the maps of the teacher."""

    tta: ClassVar[None] = None  # type: ignore[misc]  # no setting: the student sees pictures as they are


class DistillLossConfig(Section):
    """Weights of the loss terms of a student, all on the teacher's maps with standardised channels."""

    cosine: NonNegative = Field(1.0, description="1 - cosine between the vectors of a cell")
    smooth_l1: NonNegative = Field(1.0, description="smooth L1 distance of their channels")
    relation: NonNegative = Field(0.0, description="squared difference of the cosines between any two cells of a crop")


class ProbeConfig(Section):
    """A segmentation task on which linear classifiers of teacher, student and a random student are compared."""

    config: str = Field(description="settings file of that task; its pictures, labels, windows and splits are used")
    overrides: list[str] = Field([], description="settings to change in it, such as paths.data_root=/data")


class SourceConfig(Section):
    """Where pictures came from, for the model card."""

    name: str = Field(description="what the pictures are and who gave them")
    licence: str = Field(description="their licence")
    pictures: Count | None = Field(None, description="how many")


class CardConfig(Section):
    """What the model card of an exported student states besides measured values."""

    sources: list[SourceConfig] = Field([], description="the sets of pictures; none: the names in raw_images_dir")
    licence: str | None = Field(None, description="licence of the exported weights; null: the teacher's")
    origin: str | None = Field(None, description="where the teacher's weights come from, with their licences")


class DistillConfig(Section):
    """What only tasks of kind distill have."""

    crop: Side = Field(320, description="side of a crop in pixels; a multiple of the student's patch")
    zooms: list[Annotated[float, Field(ge=0.01, le=1)]] = Field(
        [1.0, 0.5], min_length=1, description="scales of the pictures: at 0.5 a crop covers twice its side"
    )
    crops: int = Field(
        4,
        ge=1,
        le=10_000,
        description="most crops of each photo, video frame and block of a raster, at each zoom; so 300 photos give "
        "1200 at one zoom, and a raster of 60,000 x 60,000 pixels, which is 900 blocks, 3600",
    )
    block: Side | None = Field(
        None,
        description="side of the blocks into which large pictures are cut, in pixels; a block belongs to one "
        "split as a whole. null: 2048, or less to get at least 20 items",
    )
    frame_step: Count = Field(50, description="distance of the frames of a video that are used, in frames")
    max_frames: Count | None = Field(
        None, description="number of frames of each video that may be used, from its start"
    )
    exclude: list[str] = Field([], description="files, folders and name patterns in raw_images_dir to leave out")
    bands: dict[str, list[BandNumber]] = Field(
        {}, description="name pattern -> the bands that are red, green and blue; other rasters give their first three"
    )
    stacks: list[list[str]] = Field(
        [], description="further pictures whose red, green and blue are three files: [[B04.tif, B03.tif, B02.tif]]"
    )
    student_scales: list[Annotated[float, Field(ge=0.25, le=4)]] = Field(
        [0.8, 1.0, 1.2],
        min_length=1,
        description="sizes of the student's crops in training, relative to the crop; one is drawn for each",
    )
    loss: DistillLossConfig = DistillLossConfig()
    probe: ProbeConfig | None = Field(
        None, description="section config, overrides: a segmentation task on which evaluate compares linear probes"
    )
    card: CardConfig = CardConfig()


class DistillSettings(TaskConfig):
    """All settings of a task of kind distill, defaults filled in.

    Examples
    --------
    >>> DistillSettings(train={"enable": True}).train.ema_decay
    0.999
    """

    sample_sizes: ClassVar[dict[str, int | None]] = {"distill.crop": None}
    rooted: ClassVar[Mapping[str, frozenset[str]]] = {**TaskConfig.rooted, "distill.stacks": frozenset(["data"])}

    kind: Literal["distill"] = Field("distill", description="what the task makes of pictures")
    paths: DistillPaths = DistillPaths()
    dataset: DistillDataset = DistillDataset()
    model: DistillModel = DistillModel()
    prepare: DistillPrepare = DistillPrepare()
    train: DistillTrain = DistillTrain()
    evaluate: DistillEvaluate = DistillEvaluate()
    export: ExportConfig = ExportConfig()
    distill: DistillConfig = DistillConfig()

    @override
    def clashes(self) -> Iterator[str]:
        yield from super().clashes()
        terms = self.distill.loss
        if terms.cosine == terms.smooth_l1 == terms.relation == 0:
            yield "distill.loss: all weights are 0, so no loss is left; raise one"
