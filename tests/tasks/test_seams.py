"""A map must not show how it was cut: other windows, mirrored pictures and pictures of one colour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from torch import nn

from tasks.context import Context
from tasks.example import example_context, example_task
from tasks.item import Item
from tasks.phases import evaluate, prepare, train
from tasks.phases.prediction import predict as predict_items
from tasks.phases.samples import Job, LiveSamples
from tasks.segmentation.predictor import DensePredictor
from tasks.segmentation.task import SegmentationTask
from tests.models.local_backbone import write_local_backbone
from utils.raster.tiling import StripBlender, Window

TILE, STRIDE, SIDE = 64, 48, 64 + 4 * 48  # windows that lie symmetrically
INSIDE = (slice(TILE, -TILE), slice(TILE, -TILE))  # where windows of any offset see ground on all sides
OFFSETS = [(0, 0), (5, 11), (13, 2), (18, 21)]


class PlainAverage(DensePredictor):
    def start(self, item: Item, resume: int | None = None) -> None:
        super().start(item, resume)
        area = item.area
        self.blender = StripBlender(
            area.height, area.width, self.num_classes, item.tile, item.stride, "uniform", rows=item.rows
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[SegmentationTask, nn.Module, Path]:
    folder = tmp_path_factory.mktemp("seams")
    backbone = write_local_backbone(folder / "backbone")  # what a transformer sees of its window is no fault of tiling
    model = (f"model.backbone={backbone}", "model.layers=[1, 2, 3, 5]", "model.head=unet")
    task, context = example_task(folder, "train.epochs=5", f"prepare.tile_size={TILE}", *model)
    prepare.run(task, context)
    assert train.run(task, context).metrics["mIoU"] > 0.9
    restored, model, _ = evaluate.restore(task, None, context, "inference")
    return restored, model.eval(), folder


def draw(seed: int = 0) -> np.ndarray:
    """Dark and light blots with soft edges and noise, (3, SIDE, SIDE)."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(size=(SIDE // TILE + 2, SIDE // TILE + 2)).astype(np.float32)
    smooth = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    noise = generator.integers(-10, 10, (3, SIDE, SIDE))
    return (120 + 60 * np.tanh(8 * smooth) + noise).clip(0, 255).astype(np.uint8)


def map_of(trained, image: np.ndarray, *, at: tuple[int, int] = (0, 0), plain: bool = False, **changes) -> np.ndarray:
    """Predict a picture as inference does; what lies before the first window stays 255."""
    task, model, folder = trained
    path = folder / "picture.tif"
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=SIDE,
        width=SIDE,
        dtype="uint8",
        crs="EPSG:32632",
        transform=transform,
    ) as raster:
        raster.write(image)
    settings = task.settings.inference.model_copy(update={"inputs": str(path), **changes})
    task = SegmentationTask(task.name, task.settings.model_copy(update={"inference": settings}))
    task.source.scenes.use_scaling(trained[0].source.scenes.scaling)
    [item] = task.source.items("inference")
    area = Window(*at, SIDE - at[0], SIDE - at[1])
    classes = np.full((SIDE, SIDE), 255, np.uint8)
    for window, found in predict(task, model, replace(item, area=area, rows=(0, area.height)), plain, folder):
        classes[area.rows, area.columns][window.rows, window.columns] = found
    return classes


def predict(
    task: SegmentationTask, model: nn.Module, item: Item, plain: bool, folder: Path
) -> Iterator[tuple[Window, np.ndarray]]:
    source = LiveSamples(task, task.prediction_views())
    context: Context = example_context(folder)
    for _, piece in predict_items(task, model, source, [[item]], "cpu", 4, context, averaged if plain else Job):
        if piece is not None:
            yield piece.window, piece.arrays["classes"]


def averaged(item: Item, predictor: DensePredictor) -> Job:
    return Job(item, PlainAverage(predictor.num_classes, predictor.patch_size, predictor.views))


def differences(trained, plain: bool) -> np.ndarray:
    maps = [map_of(trained, draw(), at=at, plain=plain)[INSIDE] for at in OFFSETS]
    assert all(0.2 < found.mean() < 0.8 for found in maps), "both classes are there"
    return np.array([(first != second).mean() for i, first in enumerate(maps) for second in maps[:i]])


def test_other_windows_change_few_pixels_and_a_plain_average_more(trained):
    blended, plain = differences(trained, plain=False), differences(trained, plain=True)
    assert blended.max() < 0.005, blended
    assert blended.mean() < 0.7 * plain.mean(), (blended.mean(), plain.mean())


def test_windows_of_double_size_give_nearly_the_same_map(trained):
    small, large = map_of(trained, draw()), map_of(trained, draw(), tile_size=2 * TILE)
    assert (small != large).mean() < 0.02


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 1), ("vertical_flip", 0)])
def test_with_mirrored_views_a_mirrored_picture_gives_the_mirrored_map(trained, name, axis):
    tta = trained[0].settings.inference.tta.model_copy(update={name: True})
    image = draw(1)
    upright = map_of(trained, image, tta=tta)
    mirrored = map_of(trained, np.ascontiguousarray(np.flip(image, axis + 1)), tta=tta)
    assert (np.flip(mirrored, axis) != upright).sum() <= 2, "only ties may fall to another side"
    assert (np.flip(upright, axis) != upright).mean() > 0.2, "the picture itself is not symmetric"


@pytest.mark.parametrize(("level", "expected"), [(65, 0), (195, 1)])
def test_a_picture_of_one_colour_becomes_a_map_of_one_class(trained, level, expected):
    classes = map_of(trained, np.full((3, SIDE, SIDE), level, np.uint8))
    assert (classes[1:-1, 1:-1] == expected).all()
    assert (classes == expected).mean() > 0.999
