"""What several benchmarks share: synthetic scenes, backbones, settings, and clocks that take turns."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import rasterio
import torch
import yaml
from rasterio.windows import Window as RasterioWindow
from torch.nn.functional import interpolate

from config import Settings, parse_settings
from models.backbones.random_backbone import write_random_backbone
from tasks import kinds
from tasks.context import Context
from tasks.segmentation.task import SegmentationTask
from utils.logging import VerbosityLogger

VIT_SMALL = {"width": 384, "depth": 12, "heads": 6, "patch_size": 14}  # the shape of DINOv2-S and DINOv3-S
TINY = {"width": 8, "depth": 2, "heads": 2, "patch_size": 14}
SIDE = 518  # pixels of a window: 37 patches of 14
BAND_ROWS = 1024  # rows of a scene that are made at a time
GROUND_M = 0.5  # metres per pixel

SETTINGS = """
resources: {{omp_threads: {threads}, device: cpu}}
paths: {{raw_images_dir: {folder}/pictures, label_path: {folder}/labels, processed_dir: {folder}/store,
  runs_root: {folder}/runs, splits_dir: {folder}/splits}}
dataset: {{classes: {classes}, splits: {{block_tiles: 1}}}}
model: {{backbone: {backbone}}}
prepare: {{enable: true, tile_size: {side}}}
train: {{enable: true}}
inference: {{inputs: {folder}/pictures/scene_0.tif}}
"""


def random_backbone(named: str | None, folder: Path, shape: Mapping[str, int] = VIT_SMALL) -> str:
    """Take the named backbone, or write one of random weights: as fast as a trained one of its shape."""
    return named or str(write_random_backbone(folder / "backbone", family="dinov2", seed=0, **shape))


def write_scene(
    folder: Path, height: int, width: int, num_classes: int = 2, seed: int = 0, name: str = "scene_0"
) -> None:
    """Write a picture of smooth noise, tiled and compressed as maps come, and labels that its brightness decides."""
    for kind in ("pictures", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    options = {"driver": "GTiff", "dtype": "uint8", "height": height, "width": width, "crs": "EPSG:32636"}
    options |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "bigtiff": "if_safer"}
    options["transform"] = rasterio.Affine(GROUND_M, 0, 500_000, 0, -GROUND_M, 5_500_000)
    with (
        rasterio.open(folder / "pictures" / f"{name}.tif", "w", count=3, interleave="pixel", **options) as picture,
        rasterio.open(folder / "labels" / f"{name}.tif", "w", count=1, **options) as labels,
    ):
        for top in range(0, height, BAND_ROWS):
            place = RasterioWindow(0, top, width, min(BAND_ROWS, height - top))
            image = draw_noise(place.height, width, seed + top)
            brightness = image.mean(axis=0)
            picture.write(image, window=place)
            labels.write((brightness * num_classes / 256).astype(np.uint8)[None], window=place)


def draw_noise(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth noise (3, H, W): like ground, it compresses to about half and has patches of one class."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 2 + height // 64, 2 + width // 64, generator=generator)
    fine = torch.randn(1, 3, height, width, generator=generator)
    smooth = interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (128 + 60 * smooth + 6 * fine)[0].clamp(0, 255).to(torch.uint8).numpy()


def make_settings(folder: Path, backbone: str, *overrides: str, side: int = SIDE, classes: int = 2) -> Settings:
    """Settings of a task on the scenes in a folder."""
    names = [f"class_{index}" for index in range(classes)]
    text = SETTINGS.format(folder=folder, backbone=backbone, side=side, classes=names, threads=torch.get_num_threads())
    return parse_settings(text, overrides, kinds())


def make_task(folder: Path, backbone: str, *overrides: str, **shape: int) -> tuple[SegmentationTask, Context]:
    """A task on the scenes in a folder, and a context that only speaks of errors."""
    settings = make_settings(folder, backbone, *overrides, **shape).tasks["segmentation"]
    return SegmentationTask("segmentation", settings), Context(VerbosityLogger("error"), folder / "runs" / "bench")


def write_config(path: Path, settings: Settings) -> Path:
    """Write a task's settings as a file for `main.py`."""
    values = settings.tasks["segmentation"].model_dump(mode="json", exclude_unset=True, exclude={"kind"})
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def seconds_of(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds (of all threads) of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def take_turns(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each function; they take turns, so that other work on the machine slows all of them."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(seconds_of(function))
    return seconds


def median_ratio(above: list[tuple[float, float]], below: list[tuple[float, float]], which: int = 0) -> float:
    """Median of the ratios of neighbouring measurements; 0 compares wall seconds, 1 CPU seconds."""
    return statistics.median(a[which] / b[which] for a, b in zip(above, below, strict=True))


def verdict(text: str, value: float, goal: float, *, at_least: bool, digits: int = 2) -> str:
    """A figure with the goal beside it."""
    met = value >= goal if at_least else value <= goal
    return f"{text}: {value:.{digits}f}  (goal {'>=' if at_least else '<='} {goal:g}: {'met' if met else 'MISSED'})"


def machine_line() -> str:
    """What the machine is and how busy it is, without which no figure means anything."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load} before the start"


def quiet_libraries() -> None:
    """Keep warnings of libraries out of the tables."""
    warnings.filterwarnings("ignore")
