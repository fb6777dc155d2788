r"""Whether a map shows how it was cut: the same ground with other windows, turned, and without anything on it.

    python -m benchmarks.seams                                     # the project's sample and backbone
    python -m benchmarks.seams --config docs/configs/geo_buildings.yml paths.data_root=/data/geo_buildings \
        model.backbone=/models/dinov2-small inference.inputs=scenes/2_kampala_2.tif
    python -m benchmarks.seams --quick                             # one epoch: does it run?

A head is trained (once per run folder), then one picture is predicted as `inference` does it, with the first window at
different places. Pixels nearer to the edge than a window do not count: there the windows differ in what they see at
all. Places that differ by whole patches of the backbone tell about the blending alone; others also put the patches
elsewhere on the ground, which moves the outlines that a coarse backbone draws. Beside the blending that the project
uses stands a plain average of the windows. Further: windows of double size; with mirrored test-time views, the map of
the mirrored picture, which must be the mirrored map; and a picture of one colour, whose map must repeat with the
windows.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import nn

from benchmarks.workbench import machine_line, quiet_libraries, verdict
from config import load_settings
from tasks import kinds
from tasks.context import Context
from tasks.item import Item
from tasks.phases import inference, prepare, train
from tasks.phases.prediction import predict
from tasks.phases.samples import Job, LiveSamples
from tasks.predictor import Predictor
from tasks.segmentation.items import SceneItem
from tasks.segmentation.predictor import DensePredictor
from tasks.segmentation.settings import SegmentationSettings
from tasks.segmentation.task import SegmentationTask
from utils.logging import VerbosityLogger
from utils.raster.tiling import StripBlender, Window

GOAL = 0.005
SAMPLE = Path(__file__).resolve().parent.parent / "config.example.yml"


class PlainAverage(DensePredictor):
    """Averages overlapping windows without weights, to show what weights are for."""

    def start(self, item: Item, resume: int | None = None) -> None:
        """Begin an item."""
        super().start(item, resume)
        assert isinstance(item, SceneItem)
        area = item.area
        self.blender = StripBlender(
            area.height, area.width, self.num_classes, item.tile, item.stride, "uniform", rows=item.rows
        )


class Mapper:
    """A trained task that maps parts of a picture, cut in any way."""

    def __init__(self, settings: SegmentationSettings, folder: Path, level: str):
        self.context = Context(VerbosityLogger(level), folder)
        task = SegmentationTask("segmentation", settings)
        prepare.run(task, self.context)
        train.run(task, self.context)
        restored, model, _ = inference.restore(task, None, self.context, "inference")
        assert isinstance(restored, SegmentationTask)
        assert isinstance(model, nn.Module)
        self.task, self.model = restored, model.eval()

    def with_inference(self, **changes: Any) -> SegmentationTask:
        """The task with other settings of inference."""
        settings = self.task.settings
        changed: dict[str, Any] = {"inference": settings.inference.model_copy(update=changes)}
        if "inputs" in changes:  # pictures that are written here have the model's scale already
            changed["dataset"] = settings.dataset.model_copy(update={"scale": 1.0})
        task = SegmentationTask(self.task.name, settings.model_copy(update=changed))
        task.source.scenes.use_scaling(self.task.source.scenes.scaling)
        return task

    def item(self, task: SegmentationTask) -> SceneItem:
        """The first picture to predict."""
        item = task.source.items("inference")[0]
        assert isinstance(item, SceneItem)
        return item

    def map(self, task: SegmentationTask, item: SceneItem, plain: bool = False) -> np.ndarray:
        """Classes of an item's area."""
        source, batch_size = LiveSamples(task, task.prediction_views()), task.settings.inference.batch_size
        classes = np.full((item.area.height, item.area.width), 255, np.uint8)
        open_job = averaged if plain else Job
        for _, piece in predict(task, self.model, source, [[item]], "cpu", batch_size, self.context, open_job):
            if piece is None:
                continue
            assert piece.window is not None
            valid = np.where(piece.arrays["valid"], piece.arrays["classes"], 255)
            classes[piece.window.rows, piece.window.columns] = valid
        return classes


def averaged(item: Item, predictor: Predictor) -> Job:
    """An item whose windows are averaged with equal weights."""
    assert isinstance(predictor, DensePredictor)
    return Job(item, PlainAverage(predictor.num_classes, predictor.patch_size, predictor.views))


def moved(item: SceneItem, y: int, x: int) -> SceneItem:
    """The same picture whose first window stands elsewhere."""
    area = Window(y, x, item.area.height - y, item.area.width - x)
    return replace(item, area=area, rows=(0, area.height))


def share_of_difference(first: np.ndarray, second: np.ndarray, margin: int) -> float:
    """Share of pixels with data whose classes differ, a margin left out."""
    inner = slice(margin, -margin or None)
    first, second = first[inner, inner], second[inner, inner]
    valid = (first != 255) & (second != 255)
    if not valid.any():
        raise SystemExit(f"no pixel with data lies {margin} pixels, a window, from the edge; lower inference.tile_size")
    return float((first != second)[valid].mean())


def offset_differences(mapper: Mapper, offsets: list[tuple[int, int]], plain: bool) -> list[float]:
    """Differences between the maps of all pairs of offsets, on their common ground."""
    task = mapper.task
    item = mapper.item(task)
    maps = []
    for y, x in offsets:
        whole = np.full((item.area.height, item.area.width), 255, np.uint8)
        whole[y:, x:] = mapper.map(task, moved(item, y, x), plain)
        maps.append(whole)
    margin = item.tile
    return [share_of_difference(first, second, margin) for first, second in itertools.combinations(maps, 2)]


def tile_size_difference(mapper: Mapper) -> float:
    """Difference between windows of the training size and of double size."""
    item = mapper.item(mapper.task)
    double = mapper.with_inference(tile_size=2 * item.tile)
    return share_of_difference(
        mapper.map(mapper.task, item), mapper.map(double, mapper.item(double)), min(item.tile, item.area.height // 4)
    )


def write_picture(path: Path, image: np.ndarray) -> str:
    """Write (3, H, W) as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    place = {"crs": "EPSG:32636", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=image.dtype, **place
    ) as raster:
        raster.write(image)
    return str(path)


def read_part(mapper: Mapper, cells: int) -> np.ndarray:
    """A part (3, H, W) of the picture from its middle whose windows lie symmetrically."""
    item = mapper.item(mapper.task)
    side = item.tile + cells * item.stride
    place = Window((item.area.height - side) // 2, (item.area.width - side) // 2, side, side)
    return np.moveaxis(mapper.task.source.scenes.read(item, place)["image"][..., :3], 2, 0)


def flip_difference(mapper: Mapper, folder: Path) -> float:
    """Difference between the map of a mirrored picture and the mirrored map, with mirrored test-time views."""
    item = mapper.item(mapper.task)
    cells = min((min(item.area.height, item.area.width) - item.tile) // item.stride, 4)
    image = read_part(mapper, cells)
    maps = []
    for name, turned in (("plain", image), ("mirrored", image[..., ::-1])):
        task = mapper.with_inference(
            inputs=write_picture(folder / f"{name}.tif", np.ascontiguousarray(turned)),
            tta=mapper.task.settings.inference.tta.model_copy(update={"horizontal_flip": True}),
        )
        maps.append(mapper.map(task, mapper.item(task)))
    return share_of_difference(maps[0], maps[1][:, ::-1], 0)


def constant_difference(mapper: Mapper, folder: Path) -> tuple[float, float]:
    """On a picture of one colour: share of pixels that differ from those one stride on, and of the commonest class."""
    item = mapper.item(mapper.task)
    side = item.tile + 3 * item.stride
    image = np.full((3, side, side), 128, np.uint8)
    task = mapper.with_inference(inputs=write_picture(folder / "constant.tif", image))
    flat = mapper.item(task)
    classes = mapper.map(task, flat)
    overlap, stride = item.tile - item.stride, item.stride
    inner = classes[overlap : -overlap or None, overlap : -overlap or None]  # where windows overlap on all sides alike
    step = [inner[stride:, :] != inner[:-stride, :], (inner[:, stride:] != inner[:, :-stride]).T]
    commonest = np.bincount(classes.ravel()).max() / classes.size
    return float(np.concatenate([part.ravel() for part in step]).mean()), float(commonest)


def compare(mapper: Mapper, folder: Path, options: argparse.Namespace) -> None:
    """Print all properties."""
    item = mapper.item(mapper.task)
    print(
        f"{item.id}, {item.area.height} x {item.area.width} pixels, windows of {item.tile}, stride {item.stride}, head "
        f"{mapper.task.settings.model.head}; shares of pixels that differ"
    )
    patch = mapper.task.features.info.patch_size
    results = {step: compare_offsets(mapper, step, options.offsets) for step in (patch, 1)}
    print(f"windows of double size: {tile_size_difference(mapper):.3%} differ")
    print(f"mirrored picture against mirrored map: {flip_difference(mapper, folder):.4%} differ (goal: 0)")
    repeated, commonest = constant_difference(mapper, folder)
    print(f"one colour: {repeated:.4%} differ from the pixel one stride on (goal: 0); {commonest:.1%} are of one class")
    for step, (blended, plain) in results.items():
        weighted, uniform = float(np.mean(blended)), float(np.mean(plain))
        how = f"multiples of {step}" if step > 1 else "any number of"
        print(verdict(f"first window moved by {how} pixels: share", weighted, GOAL, at_least=False, digits=5))
        print(verdict("    a plain average, times that", uniform / max(weighted, 1e-9), 1, at_least=True))


def compare_offsets(mapper: Mapper, step: int, number: int) -> tuple[list[float], list[float]]:
    """Differences between offsets that are multiples of a step, with weights and without."""
    stride = mapper.item(mapper.task).stride
    drawn = np.random.default_rng(0).integers(1, -(-stride // step), (number - 1, 2)) * step
    shifts = [(0, 0)] + [(int(y), int(x)) for y, x in drawn]
    blended, plain = (offset_differences(mapper, shifts, average) for average in (False, True))
    for name, shares in (("weighted", blended), ("plain average", plain)):
        print(f"{name}, first window at {', '.join(map(str, shifts))}: " + " ".join(f"{share:.3%}" for share in shares))
    return blended, plain


def read_settings(options: argparse.Namespace, folder: Path) -> SegmentationSettings:
    """Settings of the first task of a file, the sample's when none is named, with all outputs in a folder."""
    changes = [f"paths.processed_dir={folder}/store", f"paths.runs_root={folder}/runs", "logging.file=null"]
    if options.config is None:
        sample = [f"dataset.sample.folder={folder}/sample", f"paths.splits_dir={folder}/splits"]
        sample += [f"paths.raw_images_dir={folder}/sample/scenes", f"paths.label_path={folder}/sample/labels.gpkg"]
        changes += [*sample, f"inference.inputs={folder}/sample/unseen/east.tif"]
    changes += ["train.epochs=1"] if options.quick else []
    path = options.config or SAMPLE
    settings = load_settings(path, [*changes, *options.overrides], kinds())
    first = next(iter(settings.tasks.values()))
    if not isinstance(first, SegmentationSettings):
        raise SystemExit(f"{path}: the first task is of kind {first.kind}; seams are of segmentation")
    return first


def main() -> None:
    """Read the arguments, train where needed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key.path=value")
    parser.add_argument("--config", help="a settings file; the sample's when not given")
    parser.add_argument("--offsets", type=int, default=4, help="places of the first window")
    parser.add_argument("--folder", type=Path, default=None, help="keeps store and run for the next call")
    parser.add_argument("--log", default="error", choices=["error", "info"])
    parser.add_argument("--quick", action="store_true", help="one epoch, two offsets; the shares mean nothing")
    options = parser.parse_intermixed_args()
    quiet_libraries()
    if options.quick:
        options.offsets = 2
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        mapper = Mapper(read_settings(options, folder), folder / "runs" / "seams", options.log)
        with torch.no_grad():
            compare(mapper, folder, options)


if __name__ == "__main__":
    main()
