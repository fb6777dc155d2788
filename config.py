"""Settings that all kinds of task share: typed, with default, unit and help; and the loading of a file of them.

One YAML file drives everything. Top-level sections are the defaults of every task; a section inside `tasks.NAME`
overrides them key by key; without `tasks` the file is one task, named as its kind. Each kind of task has its own class
of settings in `tasks/<kind>/settings.py`, put together from the sections here. Precedence: command line > file > safe
mode > profile > default; on the command line a task's entry > one for all tasks, which also replaces what tasks of the
file set themselves. Nothing unknown gets in, and all errors of a file are reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from utils.errors import DataError, SettingsError
from utils.geometry.augment_settings import AffineAugmentationsConfig as AffineAugmentationsConfig  # for the kinds
from utils.geometry.augment_settings import AugmentationsConfig, GeometricAugmentationsConfig
from utils.report.tracking import TrackingConfig
from utils.runtime.reading import MAX_SETTINGS_BYTES, read_bounded_text
from utils.runtime.setting_classes import merge_classes, only_known, unknown_keys
from utils.runtime.setting_errors import MAX_MISTAKES, list_mistakes
from utils.runtime.setting_files import expand_path, find_beside, merge_sections, read_profile
from utils.runtime.setting_tasks import (
    FIRST_KIND,
    apply_overrides,
    find_class,
    hidden_overrides,
    only_task,
    settings_of_others,
    validate_task,
)
from utils.runtime.setting_types import BandNumber as BandNumber  # these seven are for the kinds' own settings
from utils.runtime.setting_types import (
    Batch,
    BlockChoice,
    Count,
    Device,
    Fraction,
    NonNegative,
    OneOrMore,
    OneOrMoreSplits,
    Positive,
    Precision,
    Readers,
    Section,
    Threads,
)
from utils.runtime.setting_types import ClassName as ClassName
from utils.runtime.setting_types import Interval as Interval
from utils.runtime.setting_types import Multiple as Multiple
from utils.runtime.setting_types import Percentiles as Percentiles
from utils.runtime.setting_types import Pixels as Pixels
from utils.runtime.setting_types import Side as Side
from utils.runtime.strict_yaml import read_sections

PHASES = ("prepare", "verify", "train", "evaluate", "inference", "export")

SAFE_MODE: dict[str, Any] = {  # what resources.safe_mode puts in place of defaults and profiles
    "resources": {"omp_threads": max(1, (os.cpu_count() or 2) // 2), "interop_threads": 1},
    "prepare": {"batch_size": 1},
    "train": {"batch_size": 2, "num_workers": 0},
    "inference": {"batch_size": 1},
}
OF_CALL = {  # what a call does once, for all of its tasks
    "resources": ("omp_threads", "interop_threads", "matmul_precision", "deterministic", "distributed", "dist_backend"),
    "logging": ("level", "timestamps", "file"),
}


class ResourcesConfig(Section):
    """The machine: seed, threads, precision, ranks."""

    seed: int = Field(1337, ge=0, lt=2**32, description="seed of every random choice")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:N or mps; auto: a CUDA GPU if there is one")
    omp_threads: Threads | None = Field(None, description="threads inside one operation; null leaves it to the machine")
    interop_threads: Threads | None = Field(None, description="operations that may run side by side")
    matmul_precision: Literal["highest", "high", "medium"] = Field("highest", description="high may use TF32 on a GPU")
    safe_mode: bool = Field(False, description="small batches, half the processors, where the file sets nothing else")
    deterministic: bool = Field(False, description="refuse operations whose result depends on timing")
    distributed: bool | Literal["auto"] = Field("auto", description="auto follows torchrun; false under it is an error")
    dist_backend: Literal["nccl", "gloo"] | None = Field(None, description="null: nccl on GPUs, gloo on CPUs")


class LoggingConfig(Section):
    """Log level, timestamps and file."""

    level: Literal["error", "info", "debug"] = Field("info", description="least important lines that are shown")
    timestamps: bool = Field(False, description="start each line with date and time")
    file: str | None = Field(None, description="also write the lines to this file")


class PathsConfig(Section):
    """Folders and files shared by the phases; relative paths start in the working directory."""

    data_root: str | None = Field(None, description="where relative paths of pictures and labels start")
    processed_dir: str = Field("processed", description="the feature store")
    runs_root: str = Field("runs", description="results: runs_root/<task>/<time>/")
    run_name: str | None = Field(None, description="a fixed name for the run's folder in place of the time")
    splits_dir: str = Field("splits", description="where prepare writes split lists that are not named")

    def resolve(self, name: str) -> Any:
        """A path setting with `~`, `$VARIABLES` and `data_root` filled in.

        Examples
        --------
        >>> PathsConfig(splits_dir="lists", data_root="/d").resolve("splits_dir")
        '/d/lists'
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


class SplitsConfig(Section):
    """Training, validation and test split."""

    train_list: str | None = Field(
        None,
        description="text file of item ids, in the working directory or else beside the settings file; "
        "drawn and written by prepare when it is absent",
    )
    val_list: str | None = Field(None, description="the same for validation")
    test_list: str | None = Field(
        None, description="ids of a further split, for evaluate.split: test; no drawn list holds them"
    )


class SampleConfig(Section):
    """The seeded sample that the project makes itself."""

    enable: bool = Field(False, description="make the sample and use it in place of paths.raw_images_dir")
    folder: str = Field("data/sample", description="where the sample is written")
    seed: int = Field(7, ge=0, description="seed of the sample's landscape")


class DatasetConfig(Section):
    """Pictures, labels and classes."""

    augmentations: AugmentationsConfig = AugmentationsConfig()
    splits: SplitsConfig = SplitsConfig()


class ModelConfig(Section):
    """The frozen backbone and the head that is trained on it."""

    backbone: str = Field("embedded", description="Hugging Face id, folder, 'embedded', or distill task of this file")
    layers: BlockChoice | None = Field(
        None,
        description="blocks from 0, negative from the end; last4; even4, at even distances; or shares of the depth, "
        "as in [0.5, 1.0]; null is even4; all where there are fewer",
    )
    head: str = Field("linear", description="name in the registry of heads")
    head_options: dict[str, Any] = Field({}, description="options of the head; see its file")
    dino_channels: Count | None = Field(None, description="width of the backbone; checked, not needed")
    precision: Precision = Field("auto", description="of the backbone; auto: bf16 where it is fast")
    attention: Literal["sdpa", "eager"] = Field("sdpa", description="implementation of the attention")
    compile: bool = Field(False, description="torch.compile the backbone")
    freeze: bool | Count = Field(True, description="false: all blocks learn; n: the last n; with features: online")


class PrepareConfig(Section):
    """Cut the pictures, compute their features once, store them."""

    enable: bool = Field(False, description="run this phase")
    batch_size: Batch = Field(4, description="windows per forward of the backbone")
    workers: Readers = Field(1, description="threads that read ahead; 0 is as 1")
    device: Device | None = Field(None, description="null: resources.device")
    store_dtype: Literal["fp16", "bf16", "int8"] = Field("fp16", description="of stored features; int8 per channel")
    project: Count | None = Field(
        None, description="store one map of so many channels in place of those of all blocks, projected by PCA"
    )
    processed_dir: str | None = Field(None, description="null: paths.processed_dir")
    reserve_gb: NonNegative = Field(1.0, description="disk that must stay free, in GB")


class VerifyConfig(Section):
    """Check every record and every label."""

    enable: bool = Field(False, description="run this phase")
    workers: Threads = Field(2, description="threads that check records, in parallel")
    rehash: bool = Field(True, description="read every record and compare its checksum")
    processed_dir: str | None = Field(None, description="null: paths.processed_dir")
    samples: int = Field(16, ge=0, le=400, description="training samples to draw with their labels, in samples.png")


class TrainConfig(Section):
    """Train a head."""

    enable: bool = Field(False, description="run this phase")
    processed_dir: str | None = Field(None, description="null: paths.processed_dir")
    weights_dir: str | None = Field(None, description="also keep {head}_best and {head}_last here")
    device: Device | None = Field(None, description="null: resources.device")
    features: Literal["cached", "online"] = Field("cached", description="from the store, or computed at every step")
    batch_size: Batch = Field(8, description="windows per micro-batch, over all ranks")
    grad_accum_steps: Count = Field(1, description="micro-batches per step of the optimiser")
    epochs: Count = Field(30, description="passes over the training windows")
    num_workers: Readers = Field(
        0, description="threads that read batches ahead, in parallel; 0 reads in the training thread"
    )
    optimizer: Literal["muon", "adamw"] = Field("muon", description="Muon for hidden matrices, AdamW for the rest")
    muon_lr: Positive = Field(0.02, description="peak learning rate of Muon")
    adamw_lr: Positive = Field(3.0e-3, description="peak learning rate of AdamW")
    momentum: float = Field(0.95, ge=0, lt=1, description="momentum of Muon")
    weight_decay: NonNegative = Field(0.01, description="decoupled; not applied to norms and biases")
    schedule: Literal["one_cycle", "cosine", "poly", "step", "constant"] = Field(
        "one_cycle", description="of the rates"
    )
    warmup: Fraction = Field(0.1, description="share of all steps in which the rates rise")
    milestones: list[Fraction] = Field([0.8, 0.95], description="schedule step: rates fall to a tenth at these shares")
    clip_norm: NonNegative | None = Field(1.0, description="largest norm of the gradient; 0 or null does not clip")
    precision: Precision = Field(
        "fp32",
        description="arithmetic of the head (bf16 by autocast; losses in fp32); auto: bf16 where the hardware has it; "
        "the checkpoint keeps it for evaluate and inference",
    )
    compile: bool = Field(False, description="torch.compile what is trained, in training and its validations")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="moving average of the weights; 0 is off")
    val_fraction: float = Field(0.2, gt=0, lt=1, description="share of the default split that is validation")
    val_every: Count = Field(1, description="epochs between validations")
    val_batch_size: Batch = Field(8, description="windows per forward in validation")
    patience: Count = Field(
        10, description="validations without gain, once better than a constant, before training stops"
    )
    min_delta: NonNegative = Field(0.0, description="least gain that counts")
    resume: Literal["auto", "never"] = Field("auto", description="auto continues an interrupted run of these settings")
    save_minutes: Positive = Field(5.0, description="time between two saved states inside an epoch")
    save_total_limit: Count | None = Field(
        None,
        description="latest epochs whose checkpoints are kept, as epoch_003, beside best and last; null keeps none",
    )
    init_from: str | None = Field(None, description="a task or a checkpoint whose head is the start")
    non_finite_limit: Count = Field(
        20, description="steps in a row that are skipped as their loss or gradient is not finite; one more is an error"
    )
    tensorboard: bool = Field(False, description="also write TensorBoard events")
    tracking: TrackingConfig = TrackingConfig()


class TTAConfig(Section):
    """Predictions of turned and mirrored pictures, averaged."""

    horizontal_flip: bool = Field(False, description="also predict the mirrored picture")
    vertical_flip: bool = Field(False, description="also predict the picture upside down")
    quarter_turns: bool = Field(False, description="also predict the picture turned by 90, 180 and 270 degrees")


class EvaluateConfig(Section):
    """Score the best checkpoint."""

    enable: bool = Field(False, description="run this phase")
    split: OneOrMoreSplits = Field("val", description="the split to score, or a list of them, where inputs names none")
    inputs: OneOrMore | None = Field(
        None, description="pictures to score in place of a split, each of them: file, folder, glob, or a list of them"
    )
    checkpoint: str | None = Field(None, description="null: the best one of this task's latest run")
    batch_size: Batch = Field(4, description="windows per forward")
    device: Device | None = Field(None, description="null: resources.device")
    pictures: int = Field(8, ge=0, le=10**6, description="comparison pictures to draw")
    tta: TTAConfig = TTAConfig()

    @property
    def splits(self) -> list[str]:
        """The splits to score, in order; none where pictures are named.

        Examples
        --------
        >>> EvaluateConfig(split=["val", "test"]).splits, EvaluateConfig(inputs="new").splits
        (['val', 'test'], [])
        """
        named = [self.split] if isinstance(self.split, str) else self.split
        return [] if self.names_pictures else list(dict.fromkeys(named))

    @property
    def names_pictures(self) -> bool:
        """Whether pictures are named in place of a split, by `inputs` or by `labels` that name them.

        Examples
        --------
        >>> EvaluateConfig().names_pictures, LabelledEvaluateConfig(labels="a.json").names_pictures
        (False, True)
        """
        return self.inputs is not None or getattr(self, "labels", None) is not None


class LabelledEvaluateConfig(EvaluateConfig):
    """Score the best checkpoint on a split, or on other pictures and their labels."""

    labels: str | None = Field(
        None, description="labels of evaluate.inputs: file or folder; read as in training, unless the file says how"
    )


class InferenceConfig(Section):
    """Predict new pictures."""

    enable: bool = Field(False, description="run this phase")
    inputs: OneOrMore | None = Field(None, description="pictures and videos: file, folder, glob, or a list of them")
    input_tif: OneOrMore | None = Field(None, description="another name of inputs; give one of the two")
    output_dir: str | None = Field(None, description="folder of the results; null: the run's")
    checkpoint: str | None = Field(None, description="null: the best one of this task's latest run")
    batch_size: Batch = Field(4, description="windows per forward")
    device: Device | None = Field(None, description="null: resources.device")
    tta: TTAConfig = TTAConfig()

    @model_validator(mode="before")
    @classmethod
    def _read_alias(cls, tree: Any) -> Any:
        """Put `input_tif` where `inputs` is read.

        Examples
        --------
        >>> InferenceConfig._read_alias({"input_tif": "a", "enable": True})
        {'enable': True, 'inputs': 'a'}
        """
        if not isinstance(tree, dict) or tree.get("input_tif") is None:
            return tree
        if tree.get("inputs") is not None:
            raise SettingsError("inference.input_tif: is another name of inference.inputs; give only one of the two")
        return {key: value for key, value in tree.items() if key != "input_tif"} | {"inputs": tree["input_tif"]}


class ExportConfig(Section):
    """Write a trained model in a form that other programs or tasks take."""

    enable: bool = Field(False, description="run this phase")
    checkpoint: str | None = Field(None, description="null: the best one of this task's latest run")
    output_dir: str | None = Field(None, description="null: the folder `export` of the run")


class TaskConfig(Section):
    """What the settings of every kind of task are put together from, and what phases may ask of them.

    The class of a kind names its `kind`, replaces sections, and adds `inference` and `export` where it has these
    phases; a field that it has no use for is taken out by `name: ClassVar = ...`.

    Examples
    --------
    >>> task = TaskConfig(train={"enable": True, "features": "online"})
    >>> task.enabled_phases
    ('train',)
    """

    safe_mode: ClassVar[dict[str, Any]] = {}  # what resources.safe_mode sets for this kind, beside SAFE_MODE
    sample_sizes: ClassVar[
        dict[str, int | None]
    ] = {}  # settings to lower where memory is short, to what value if known
    rooted: ClassVar[Mapping[str, frozenset[str]]] = {  # paths that start in paths.data_root, and what reads them
        "paths.raw_images_dir": frozenset(["data"]),  # the data of splits, or a phase
        "paths.label_path": frozenset(["data"]),
        "evaluate.inputs": frozenset(["evaluate"]),
        "evaluate.labels": frozenset(["evaluate"]),
        "inference.inputs": frozenset(["inference"]),
    }
    labels_may_split: ClassVar[bool] = False  # whether labels can name a test split, so that it needs no list

    kind: str = Field(FIRST_KIND, description="what the task makes of pictures")
    profile: str | None = Field(
        None, description="settings below the file's: a name in tasks/<kind>/profiles, or a file"
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
    if TYPE_CHECKING:  # a phase reads its section only in kinds that have it
        inference: InferenceConfig = InferenceConfig()
        export: ExportConfig = ExportConfig()

    @property
    def enabled_phases(self) -> tuple[str, ...]:
        """Names of the phases to run, in their order.

        Examples
        --------
        >>> TaskConfig(evaluate={"enable": True}, prepare={"enable": True}).enabled_phases
        ('prepare', 'evaluate')
        """
        return tuple(name for name in PHASES if name in type(self).model_fields and getattr(self, name).enable)

    def device(self, phase: str) -> str:
        """The device setting of a phase, or the one of all.

        Examples
        --------
        >>> TaskConfig(prepare={"device": "cpu"}).device("prepare")
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
        return Path(expand_path(getattr(getattr(self, phase), "processed_dir", None) or self.paths.processed_dir))

    @model_validator(mode="after")
    def _check_clashes(self) -> TaskConfig:
        """Refuse settings that contradict each other, naming both.

        Examples
        --------
        >>> TaskConfig(paths={"run_name": "a/b"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        pydantic_core._pydantic_core.ValidationError: ...
        """
        if problems := list(self.clashes()):
            raise SettingsError(*problems)
        return self

    def clashes(self) -> Iterator[str]:
        """Each contradiction and each setting that can only end in an error or a loss of files, with its cure.

        Examples
        --------
        >>> list(TaskConfig().clashes())
        []
        """
        name, varied, where = self.paths.run_name, self.dataset.augmentations, "dataset.augmentations"
        cached, parts = getattr(self.train, "features", "cached") == "cached", varied.random_parts()
        if isinstance(self.train, TrainConfig):  # not every kind trains
            yield from self.train.tracking.clashes()
        if cached and getattr(self.model, "freeze", True) is not True:
            yield "model.freeze: fine-tuned blocks have no stored features; set train.features: online or freeze: true"
        if self.prepare.project is not None and getattr(self.model, "freeze", True) is not True:
            yield "prepare.project: fits the maps of frozen blocks only; drop it, or set model.freeze: true"
        if not cached and varied.stored_variations:
            yield f"{where}.stored_variations: nothing is stored with train.features: online; set 0"
        if cached and not varied.stored_variations:
            for part in parts:
                cure = f"set {where}.stored_variations: 4 (or so), or train.features: online"
                yield f"{where}.{part}: stored features cannot be varied at every step; {cure}"
        if cached and varied.enable and varied.stored_variations and not parts:
            yield f"{where}.stored_variations: there is nothing to vary; set brightness, rotation_degrees or others"
        if name and (name in (".", "..", "latest", ".lock") or "/" in name):
            yield f"paths.run_name: expected the name of a folder, other than latest, got {name!r}"
        if isinstance(varied, GeometricAugmentationsConfig) and varied.scale_range[0] > varied.scale_range[1]:
            yield f"{where}.scale_range: the first value must not exceed the second, got {varied.scale_range}"
        by_list = "evaluate" in self.enabled_phases and not self.labels_may_split
        if by_list and "test" in self.evaluate.splits and self.dataset.splits.test_list is None:
            yield "evaluate.split: test, but dataset.splits.test_list names no list; name one, or score val"


Kinds = Mapping[str, type[TaskConfig]]


@dataclass(frozen=True)
class Settings:
    """The settings of one call: its tasks in order, and what they share (that of the first)."""

    tasks: dict[str, Any]  # each of its kind's class
    shared: TaskConfig


def load_settings(path: str | Path, overrides: Sequence[str], kinds: Kinds) -> Settings:
    """Read a YAML file of settings and apply overrides, such as `tasks.coral.train.epochs=3`, whose values are YAML.

    `kinds` gives the class of settings of each kind of task; each task of the result has its kind's.

    Raises
    ------
    SettingsError
        With one line per mistake, all of them at once.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "config.yml"
    >>> _ = path.write_text("train: {enable: true, epochs: 5}")
    >>> load_settings(path, ["train.epochs=3"], {"segmentation": TaskConfig}).shared.train.epochs
    3
    """
    try:
        text = read_bounded_text(path, MAX_SETTINGS_BYTES)
    except (OSError, DataError) as error:
        raise SettingsError(f"{path}: cannot be read as text: {error}") from None
    try:
        settings = parse_settings(text, overrides, kinds)
        tasks = {name: locate_lists(task, Path(path).parent) for name, task in settings.tasks.items()}
    except SettingsError as error:
        raise SettingsError(*(f"{path}: {line}" for line in str(error).splitlines())) from None
    return Settings(tasks, next(iter(tasks.values())))


def locate_lists(task: TaskConfig, folder: Path) -> TaskConfig:
    """Replace split lists that are only beside the settings file, in `folder`, by their path there.

    Raises
    ------
    SettingsError
        If a list is in the working directory and beside the settings file, and the two differ.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "mine.txt").write_text("reef_1")
    >>> task = TaskConfig(dataset={"splits": {"train_list": "mine.txt", "val_list": "others.txt"}})
    >>> found = locate_lists(task, folder).dataset.splits
    >>> found.train_list == str(folder / "mine.txt"), found.val_list
    (True, 'others.txt')
    """
    named = {key: value for key, value in task.dataset.splits if key.endswith("_list") and value is not None}
    found = {key: find_beside(value, folder, f"dataset.splits.{key}") for key, value in named.items()}
    moved = {key: path for key, path in found.items() if path != named[key]}
    if not moved:
        return task
    splits = task.dataset.splits.model_copy(update=moved)
    return task.model_copy(update={"dataset": task.dataset.model_copy(update={"splits": splits})})


def parse_settings(text: str, overrides: Sequence[str], kinds: Kinds) -> Settings:
    """Validate settings given as YAML text; see `load_settings`, also for what it raises.

    Examples
    --------
    >>> parse_settings("train: {epochz: 3, adamw_lr: on}", (), {"segmentation": TaskConfig})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: train.adamw_lr: expected float, got str 'on'
    train.epochz: unknown key, did you mean 'epochs'? all ... keys are in docs/settings.md
    """
    tree = _rename_inputs(read_sections(text))
    everything = " ".join([text, *overrides])
    old_name = "input_tif" in everything and "inputs" not in everything  # errors then name it so
    overrides = _rename_overrides(overrides)
    apply_overrides(tree, overrides)
    _rename_inputs(tree)  # also in a whole section of the command line
    tasks = tree.pop("tasks", None)
    if tasks is None:
        tasks = {only_task(tree): {}}
    wrong = [name for name, task in tasks.items() if not isinstance(task, dict)] if isinstance(tasks, dict) else []
    if not isinstance(tasks, dict) or not tasks or wrong:
        place = f"tasks.{wrong[0]}" if wrong else "tasks"
        raise SettingsError(f"{place}: expected a section per task, such as tasks: {{coral: {{kind: segmentation}}}}")
    errors: set[str] = set()
    tasks = {str(name): section for name, section in tasks.items()}
    classes = {name: find_class(name, tree, section, kinds, errors) for name, section in tasks.items()}
    present = kinds.values() if None in classes.values() else dict.fromkeys(filter(None, classes.values()))
    errors.update(islice(unknown_keys(tree, merge_classes(list(present))), MAX_MISTAKES + 1))
    validated = {}
    for name, kind_class in classes.items():
        if kind_class and (config := validate_task(name, tree, tasks[name], kind_class, defaults_below, errors)):
            validated[name] = config
    errors.update(shared_targets(validated))
    errors.update(hidden_overrides(overrides, tasks, classes))
    errors.update(settings_of_others(validated, tasks, OF_CALL))
    if errors:
        name = "inference.input_tif:" if old_name else "inference.inputs:"
        raise list_mistakes(line.replace("inference.inputs:", name) for line in errors)
    return Settings(validated, next(iter(validated.values())))


def _rename_inputs(tree: dict) -> dict:
    """Put `inference.input_tif` where `inference.inputs` is read, so that a later layer replaces it by either name.

    Examples
    --------
    >>> _rename_inputs({"inference": {"input_tif": "a"}, "tasks": {"b": {"inference": {"input_tif": "c"}}}})
    {'inference': {'inputs': 'a'}, 'tasks': {'b': {'inference': {'inputs': 'c'}}}}
    """
    tasks = tree.get("tasks")
    for section in (tree, *(tasks.values() if isinstance(tasks, dict) else ())):
        if isinstance(section, dict) and isinstance(section.get("inference"), dict):
            section["inference"] = InferenceConfig._read_alias(section["inference"])  # type: ignore[operator]  # pydantic's proxy
    return tree


def _rename_overrides(overrides: Sequence[str]) -> list[str]:
    """Write `inference.input_tif=` as `inference.inputs=`.

    Raises
    ------
    SettingsError
        If both are given for the same section.

    Examples
    --------
    >>> _rename_overrides(["train.epochs=3", "tasks.a.inference.input_tif=b.tif"])
    ['train.epochs=3', 'tasks.a.inference.inputs=b.tif']
    >>> _rename_overrides(["inference.inputs=a.png", "inference.input_tif=b.png"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: inference.input_tif=b.png: is another name of inference.inputs, which is given too; ...
    """
    renamed: list[str] = []
    names: dict[str, str] = {}
    for change in overrides:
        path, equals, value = change.partition("=")
        section, _, key = path.rpartition(".")
        if section.rpartition(".")[2] == "inference" and key in ("inputs", "input_tif"):
            if names.setdefault(section, key) != key:
                other = f"{section}.{names[section]}"
                raise SettingsError(f"{change}: is another name of {other}, which is given too; give only one of them")
            path = f"{section}.inputs"
        renamed.append(path + equals + value)
    return renamed


def defaults_below(kind_class: type[TaskConfig], tree: dict) -> dict:
    """What lies between the settings of a file and the defaults of a kind: its profile, and the safe mode.

    Raises
    ------
    SettingsError
        If the profile is unknown or cannot be used.

    Examples
    --------
    >>> defaults_below(TaskConfig, {"resources": {"safe_mode": True}})["train"]
    {'batch_size': 2, 'num_workers': 0}
    >>> defaults_below(TaskConfig, {"profile": "small_data"})
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: profile: unknown name 'small_data'; kind segmentation has none; or name a YAML file
    """
    profile, resources = tree.get("profile"), tree.get("resources")
    folder = Path(__file__).parent / "tasks" / kind_class.model_fields["kind"].default / "profiles"
    below = {} if profile is None else _rename_inputs(read_profile(str(profile), folder, kind_class))
    if isinstance(resources, dict) and resources.get("safe_mode") is True:
        below = merge_sections(below, _safe_mode(kind_class))
    return below


def _safe_mode(kind_class: type[TaskConfig]) -> dict:
    """What the safe mode sets for a kind of task.

    Examples
    --------
    >>> sorted(_safe_mode(TaskConfig))
    ['prepare', 'resources', 'train']
    """
    return merge_sections(only_known(SAFE_MODE, kind_class), kind_class.safe_mode)


def safe_mode_in_force(config: TaskConfig) -> list[str]:
    """Each setting that the safe mode decided, for the log.

    Examples
    --------
    >>> config = TaskConfig(resources={"safe_mode": True}, prepare={"batch_size": 1}, train={"num_workers": 0})
    >>> safe_mode_in_force(config)
    ['prepare.batch_size 1', 'train.num_workers 0']
    """
    if not config.resources.safe_mode:
        return []
    pairs = [(part, key, value) for part, values in _safe_mode(type(config)).items() for key, value in values.items()]
    return [f"{part}.{key} {value}" for part, key, value in pairs if getattr(getattr(config, part), key) == value]


def shared_targets(tasks: dict[str, TaskConfig]) -> list[str]:
    """Find tasks that would write over each other's files.

    Examples
    --------
    >>> train = {"enable": True, "weights_dir": "/w/../w"}
    >>> shared_targets({"a": TaskConfig(train=train), "b": TaskConfig(train=train)})
    ['tasks.b.train.weights_dir: /w/../w (linear) holds the weights of task a too; give each task a folder of its own']
    """
    found: list[str] = []
    owners: dict[tuple[str, str], str] = {}
    places = [("inference", "output_dir", "results"), ("inference", "output_tif", "results")]
    places += [("train", "weights_dir", "weights"), ("export", "output_dir", "export")]
    for name, task in tasks.items():
        for part, key, what in places:
            target = getattr(getattr(task, part, None), key, None) if part in task.enabled_phases else None
            real = os.path.realpath(expand_path(target or ""))  # `out` and `./out` are one folder
            if target and part == "train":
                target, real = f"{target} ({task.model.head})", f"{real} ({task.model.head})"
            if target and (owner := owners.setdefault((f"{part}.{key}", real), name)) != name:
                place = f"tasks.{name}.{part}.{key}: {target} holds the {what} of task {owner} too"
                found.append(f"{place}; give each task a folder of its own")
    return found
