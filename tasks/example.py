"""A small segmentation task on generated data, for examples in docstrings and for tests."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import rasterio

from config import parse_settings
from tasks import kinds
from tasks.context import Context
from utils.logging import VerbosityLogger
from utils.samples.files import write_foxes

if TYPE_CHECKING:
    from tasks.phases.train import Training
    from tasks.prepared import PreparedItem
    from tasks.segmentation.task import SegmentationTask
    from utils.store.feature_store import FeatureStore

Made = TypeVar("Made")

SETTINGS = """
resources: {{omp_threads: 1}}
paths: {{raw_images_dir: {folder}/pictures, label_path: {folder}/labels, processed_dir: {folder}/store,
  runs_root: {folder}/runs, splits_dir: {folder}/splits}}
dataset: {{classes: [dark, light], splits: {{block_tiles: 2}}}}
model: {{backbone: {backbone}, layers: [0, 1], precision: fp32}}
prepare: {{enable: true, tile_size: 32}}
train: {{enable: true, epochs: 1, batch_size: 4, val_fraction: 0.34, adamw_lr: 0.01}}
inference: {{inputs: {folder}/pictures/scene_0.tif, overlap: 0.25, format: gtiff}}
"""


def example_task(folder: str | Path, *overrides: str) -> tuple[SegmentationTask, Context]:
    """Make two pictures of dark and light halves with their labels, and a task on them with a tiny backbone.

    Parameters
    ----------
    folder : str or Path
        Folder of all files.
    *overrides : str
        Settings to change, such as `train.epochs=3`.

    Examples
    --------
    >>> import tempfile
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> len(task.source.scenes.labelled())
    2
    """
    from tasks.segmentation.task import SegmentationTask

    folder = Path(folder)
    if not (folder / "pictures").exists():
        write_pictures(folder)
    text = SETTINGS.format(folder=folder, backbone=tiny_backbone())
    settings = parse_settings(text, overrides, kinds()).tasks["segmentation"]
    return SegmentationTask("segmentation", settings), example_context(folder / "run")


def scene_task(*overrides: str) -> SegmentationTask:
    """Make `example_task` in a new temporary folder, removed when the process ends.

    Examples
    --------
    >>> scene_task("train.epochs=3").settings.train.epochs
    3
    """
    return in_temporary_folder(example_task, *overrides)


def annotated_example(folder: str | Path, *overrides: str) -> tuple[SegmentationTask, Context]:
    """Make two photos with outlines of what is light in a COCO file; the rest is dark.

    Examples
    --------
    >>> import tempfile
    >>> task, context = annotated_example(tempfile.mkdtemp())
    >>> [path.name for path in task.source.scenes.labelled()["pictures/scene_0"].paths]
    ['scene_0.png']
    """
    folder = Path(folder)
    if not (folder / "labels.json").exists():
        write_annotated(folder)
    return example_task(
        folder,
        f"paths.data_root={folder}",
        "paths.raw_images_dir=null",
        "paths.label_path=labels.json",
        "dataset.unlabelled=dark",
        "dataset.splits.block_tiles=null",
        "train.val_fraction=0.5",
        "inference.inputs=pictures/scene_0.png",
        *overrides,
    )


def annotated_task(*overrides: str) -> SegmentationTask:
    """Make `annotated_example` in a new temporary folder, removed when the process ends.

    Examples
    --------
    >>> annotated_task("dataset.overlap=area").settings.dataset.overlap
    'area'
    """
    return in_temporary_folder(annotated_example, *overrides)


def in_temporary_folder(make: Callable[..., tuple[Made, Context]], *overrides: str) -> Made:
    """Make a task of an example in a temporary folder, removed when the process ends.

    Examples
    --------
    >>> in_temporary_folder(example_task).name
    'segmentation'
    """
    folder = tempfile.mkdtemp()
    task, _ = make(folder, *overrides)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return task


def example_context(folder: Path) -> Context:
    """A context that logs only errors.

    Examples
    --------
    >>> example_context(Path("runs")).log.shows("info")
    False
    """
    return Context(VerbosityLogger("error"), folder)


def prepared_example(folder: str | Path, *overrides: str) -> tuple[SegmentationTask, FeatureStore, list[PreparedItem]]:
    """The example after prepare: the task, its store and the items of the training split.

    Examples
    --------
    >>> import tempfile
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> [len(item.entries) for item in prepared]
    [4, 2]
    """
    from tasks.phases import prepare
    from tasks.prepared import prepared_items
    from tasks.stores import open_store

    task, context = example_task(folder, *overrides)
    prepare.run(task, context)
    store = open_store(task.settings, "train")
    return task, store, prepared_items(task, store, "train", "train")


def training_example(folder: str | Path, *overrides: str) -> Training:
    """The example before its first training step.

    Examples
    --------
    >>> import tempfile
    >>> training_example(tempfile.mkdtemp()).steps_per_epoch
    2
    """
    from tasks.phases.train import Training
    from tasks.prepared import prepared_items

    task, store, train_items = prepared_example(folder, *overrides)
    val_items = prepared_items(task, store, "val", "train")
    return Training(task, example_context(Path(folder) / "run"), store, train_items, val_items, "example")


def write_pictures(folder: Path) -> None:
    """Write two pictures, 64 x 64 and 64 x 96 pixels, whose left and right halves are dark and light.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_pictures(folder)
    >>> sorted(path.name for path in (folder / "labels").iterdir())
    ['scene_0.tif', 'scene_1.tif']
    """
    generator = np.random.default_rng(0)
    for index, width in enumerate((64, 96)):
        label = np.zeros((1, 64, width), np.uint8)
        label[:, :, width // 2 :] = 1
        image = (60 + 120 * label + generator.integers(0, 20, (3, 64, width))).astype(np.uint8)
        label[:, 62:, :] = 255 if index == 0 else label[:, 62:, :]
        _write(folder / "pictures" / f"scene_{index}.tif", image)
        _write(folder / "labels" / f"scene_{index}.tif", label)


def write_annotated(folder: Path) -> None:
    """Write two photos, 64 x 64 and 64 x 96 pixels, and a COCO file with the outlines of what is light in them.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_annotated(folder)
    >>> [len(entry["segmentation"][0]) for entry in json.loads((folder / "labels.json").read_text())["annotations"]]
    [8, 6, 8]
    """
    generator = np.random.default_rng(0)
    outlines = (
        [[(32, 0), (64, 0), (64, 60), (32, 60)]],
        [[(8, 0), (96, 0), (96, 32)], [(8, 40), (60, 40), (60, 60), (8, 60)]],
    )
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (width, shapes) in enumerate(zip((64, 96), outlines, strict=True)):
        light = np.zeros((64, width), np.uint8)
        for shape in shapes:
            cv2.fillPoly(light, [np.array(shape)], 1)
            flat = [float(value) for corner in shape for value in corner]
            entry = {"id": len(annotations) + 1, "image_id": index, "category_id": 1, "segmentation": [flat]}
            annotations.append(entry | {"iscrowd": 0})
        image = (60 + 120 * light[..., None] + generator.integers(0, 20, (64, width, 3))).astype(np.uint8)
        path = folder / "pictures" / f"scene_{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        images.append({"id": index, "file_name": f"pictures/{path.name}", "height": 64, "width": width})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "light"}]}
    (folder / "labels.json").write_text(json.dumps(content))


def _write(path: Path, bands: np.ndarray) -> None:
    """Write a georeferenced GeoTIFF of (C, H, W) bytes.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.tif"
    >>> _write(path, np.zeros((1, 2, 3), np.uint8))
    >>> path.exists()
    True
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    transform = rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5500000)
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", crs="EPSG:32632", transform=transform, **profile) as raster:
            raster.write(bands)


@cache
def tiny_backbone() -> str:
    """Folder of a random DINOv2 of width 8 with two blocks and patches of 4 pixels.

    Examples
    --------
    >>> (Path(tiny_backbone()) / "config.json").exists()
    True
    """
    from models.backbones.random_backbone import write_random_backbone

    folder = tempfile.mkdtemp(prefix="tiny-backbone-")
    write_random_backbone(folder, family="dinov2", width=8, depth=2, heads=2, patch_size=4, seed=0)
    return folder


@cache
def drawn_animals() -> Path:
    """Draw eight pictures of foxes for training and four for validation, and a video, once in a process.

    Examples
    --------
    >>> sorted(path.name for path in drawn_animals().iterdir())
    ['annotations', 'chase.mp4', 'images', 'sample.json']
    """
    folder = Path(tempfile.mkdtemp())
    weakref.finalize(drawn_animals, shutil.rmtree, folder, ignore_errors=True)
    write_foxes(folder, seed=1, train=8, val=4, frames=4)
    return folder
