"""Linear probes of teacher, student and a random student on a labelled task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from config import expand_path, load_settings
from models.backbones.info import BackboneInfo
from models.backbones.random_backbone import write_backbone_folder
from models.backbones.student import Student
from tasks import kinds, load_task
from tasks.context import Context
from tasks.distill.settings import DistillSettings, ProbeConfig
from tasks.features import even_layers
from tasks.prepared import PreparedReader, prepared_items
from tasks.probe import fit_probe
from tasks.runs import choose_device
from tasks.segmentation.settings import SegmentationSettings
from tasks.stores import open_store
from utils.errors import SettingsError
from utils.runtime import distributed
from utils.runtime.files import digest_json

PROBED = "segmentation"
MOST_CELLS = 50_000  # of each probe: 300 MB with 1536 channels
SIDE_BY_SIDE = 4  # windows per forward


def read_probe(probe: ProbeConfig) -> SegmentationSettings:
    """Read the settings of the labelled task.

    Raises
    ------
    SettingsError
        If the file does not exist, or has no segmentation task.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "probe.yml"
    >>> _ = path.write_text("dataset: {classes: [field, road]}")
    >>> read_probe(ProbeConfig(config=str(path), overrides=["prepare.tile_size=64"])).prepare.tile_size
    64
    >>> _ = path.write_text("kind: keypoints")
    >>> read_probe(ProbeConfig(config=str(path)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: distill.probe.config: .../probe.yml holds no task of kind segmentation
    """
    path = Path(expand_path(probe.config))
    if not path.is_file():
        raise SettingsError(f"distill.probe.config: {path}: no such settings file")
    tasks = load_settings(path, probe.overrides, kinds()).tasks.values()
    task_settings = next((task for task in tasks if isinstance(task, SegmentationSettings)), None)
    if task_settings is None:
        raise SettingsError(f"distill.probe.config: {path} holds no task of kind {PROBED}")
    return task_settings


def probe_recipe(probe: ProbeConfig) -> dict[str, Any]:
    """Everything that the scores of the probes depend on, besides the models.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "probe.yml"
    >>> _ = path.write_text("dataset: {classes: [field, road]}")
    >>> plain, finer = (ProbeConfig(config=str(path), overrides=more) for more in ([], ["prepare.tile_size=64"]))
    >>> probe_recipe(plain) == probe_recipe(finer)
    False
    """
    return {"probe": digest_json(read_probe(probe).model_dump(mode="json", include={"paths", "dataset", "prepare"}))}


def compare_probes(
    settings: DistillSettings,
    probe: ProbeConfig,
    teacher: BackboneInfo,
    student: Student,
    fresh: Student,
    context: Context,
) -> dict[str, float]:
    """Fit a probe to each of three backbones and score it, on the same windows.

    Parameters
    ----------
    settings : DistillSettings
        Of the distillation.
    probe : ProbeConfig
        The labelled task.
    teacher : BackboneInfo
        The teacher and its blocks.
    student, fresh : Student
        The trained one, and one of random weights.
    context : Context
        Folder, log and stop signal.

    Returns
    -------
    dict of float
        mIoU of `teacher`, `student` and `random`, and the share of the gap from random to teacher that is `closed`.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.distill.example import student_example
    >>> from tasks.example import SETTINGS, tiny_backbone, write_pictures
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_pictures(folder)
    >>> _ = (folder / "probe.yml").write_text(SETTINGS.format(folder=folder, backbone=tiny_backbone()))
    >>> task, context = student_example(folder / "student", f"distill.probe.config={folder}/probe.yml")
    >>> sorted(task.output.extra_metrics(task.build_model(), context)["probe"])
    ['closed', 'random', 'student', 'teacher']
    """
    labelled = read_probe(probe)
    folder = context.folder / "probe"
    backbones: dict[str, tuple[str, Sequence[int]]] = {"teacher": (teacher.id, teacher.layers)}
    for name, one in (("student", student), ("random", fresh)):
        if distributed.is_main():
            normalization = (one.backbone.info.mean, one.backbone.info.std)
            write_backbone_folder(folder / name, one.config, one.tensors(), normalization)
    distributed.barrier()
    for name in ("student", "random"):  # the default blocks of the folder, not only the trained ones
        backbones[name] = (str(folder / name), even_layers(str(folder / name)))
    scores = {}
    for name, (source, layers) in backbones.items():
        scores[name] = score_probe(probe_settings(settings, labelled, source, layers, folder), context)
        context.log.info(f"probe: {name}: mIoU {scores[name]:.4f}")
    gap = scores["teacher"] - scores["random"]
    closed = (scores["student"] - scores["random"]) / gap if gap > 0 else float("nan")
    return {**scores, "closed": closed}


def probe_settings(
    settings: DistillSettings, labelled: SegmentationSettings, source: str, layers: Sequence[int], folder: Path
) -> SegmentationSettings:
    """Settings of the labelled task with another backbone and the folders of the distillation.

    Examples
    --------
    >>> made = probe_settings(DistillSettings(), SegmentationSettings(prepare={"tile_size": 64}), "a", [1], Path("p"))
    >>> made.model.backbone, made.model.layers, made.prepare.tile_size, made.paths.splits_dir
    ('a', [1], 64, 'p')
    """
    model: dict[str, Any] = {"backbone": source, "layers": list(layers), "dino_channels": None}
    model |= {"precision": settings.model.precision, "head": "linear", "head_options": {}, "freeze": True}
    paths = {"processed_dir": str(settings.processed_dir("train")), "splits_dir": str(folder)}
    plain = labelled.dataset.augmentations.model_copy(update={"enable": False})
    return labelled.model_copy(
        update={
            "resources": settings.resources,
            "model": labelled.model.model_copy(update=model),
            "paths": labelled.paths.model_copy(update=paths),
            "dataset": labelled.dataset.model_copy(update={"augmentations": plain}),
            "prepare": labelled.prepare.model_copy(update={"processed_dir": None, "device": settings.prepare.device}),
            "train": labelled.train.model_copy(update={"processed_dir": None, "features": "cached", "crop_size": None}),
        }
    )


def score_probe(settings: SegmentationSettings, context: Context) -> float:
    """Prepare the labelled windows for a backbone, fit a probe to those of train, and give its mIoU on those of val.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_context, scene_task
    >>> 0.5 < score_probe(scene_task().settings, example_context(Path(tempfile.mkdtemp()))) <= 1
    True
    """
    from tasks.phases import load_phase
    from tasks.phases.prediction import score

    task = load_task(settings.kind)("probe", settings)
    load_phase("prepare")(task, replace(context, folder=context.folder / "probe"))
    store = open_store(settings, "train")
    train, val = (prepared_items(task, store, split, "probe") for split in ("train", "val"))
    fitted = fit_probe(task, PreparedReader(task, store, train), most=MOST_CELLS)
    device = choose_device(settings.device("evaluate"))
    return float(score(task, fitted.to(device), val, store, device, SIDE_BY_SIDE, context)[task.primary])
