"""What blending windows and writing the class map cost by themselves: CPU per megapixel, and peak memory.

Run from the project's folder::

    python -m benchmarks.tiler            # everything, some minutes
    python -m benchmarks.tiler --quick    # speed, and the small rasters only

The model is trivial on purpose: it gives prepared probabilities in constant time, so that what is measured is the
tiler. (a) One thread, 4 classes, tiles of 512 with 25 % overlap: the tiler beside the plain loop, which adds weighted
windows to an array of the whole raster, divides by an array of summed weights and takes the argmax. (b) Each raster
in a process of its own, from a sparse GeoTIFF to a finished COG; the peak is the process's highest resident memory
less what it held after its imports. (`VmHWM` of /proc rather than `ru_maxrss`: the latter is inherited over fork.)
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread: before numpy and torch are loaded

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window as RasterioWindow

from utils.raster.gdal import bounded_gdal
from utils.raster.tiling import StripBlender, Window, axis_weights, decode_classes, windows_for_rows
from utils.raster.writer import ClassRasterWriter

TILE, STRIDE = 512, 384
CPU_GOAL_S = 0.08
PLAIN, WIDE = "flat, < 600 MB", "< 2 GB"
RASTERS = [  # height, width, classes, goal
    (4_000, 2_048, 4, PLAIN),
    (16_000, 2_048, 4, PLAIN),
    (64_000, 2_048, 4, PLAIN),
    (8_192, 8_192, 4, PLAIN),
    (1_024, 100_000, 8, WIDE),
]
GOAL_MB = {PLAIN: 600, WIDE: 2_000}


def make_probabilities(num_classes: int) -> torch.Tensor:
    """Smooth random probabilities of one window, shape (K, TILE, TILE)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, num_classes, 16, 16, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=(TILE, TILE), mode="bicubic")
    return logits.mul(3).softmax(dim=1)[0].contiguous()


def run_tiler(picture: np.ndarray, probabilities: torch.Tensor) -> np.ndarray:
    """Read, blend and decode as inference does."""
    _, height, width = picture.shape
    classes = np.empty((height, width), np.uint8)
    blender = StripBlender(height, width, len(probabilities), TILE, STRIDE)
    for window in blender.windows:
        read_padded(picture, window)
        for block, values in blender.add(window, probabilities):
            classes[block.rows, block.columns] = decode_classes(values)[0]
    blender.finish()
    return classes


def run_plain_loop(picture: np.ndarray, probabilities: torch.Tensor) -> np.ndarray:
    """Read, add to an array of the whole raster, divide by the weights and decode."""
    _, height, width = picture.shape
    weight = torch.from_numpy(axis_weights(TILE, [0, STRIDE], TILE)[1])  # rises over the overlap
    weight = torch.minimum(weight, weight.flip(0))
    weights = weight[:, None] * weight
    total = torch.zeros(len(probabilities), height + TILE, width + TILE)
    weight_sum = torch.zeros(height + TILE, width + TILE)
    for window in windows_for_rows(height, width, TILE, STRIDE, (0, height)):
        read_padded(picture, window)
        total[:, window.rows, window.columns] += probabilities * weights
        weight_sum[window.rows, window.columns] += weights
    blended = total[:, :height, :width] / weight_sum[:height, :width]
    return blended.argmax(dim=0).to(torch.uint8).numpy()


def read_padded(picture: np.ndarray, window: Window) -> np.ndarray:
    """One window of an array in memory, zeros where it sticks out."""
    part = picture[:, window.rows, window.columns]
    if part.shape[1:] == (TILE, TILE):
        return np.ascontiguousarray(part)
    padded = np.zeros((len(picture), TILE, TILE), np.uint8)
    padded[:, : part.shape[1], : part.shape[2]] = part
    return padded


def measure_cpu(run: Callable, picture: np.ndarray, probabilities: torch.Tensor, repeats: int = 3) -> float:
    """CPU seconds per megapixel of the raster, the best of some runs."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run(picture, probabilities)
        seconds.append(time.process_time() - start)
    return min(seconds) / (picture.shape[1] * picture.shape[2] / 1e6)


def print_cpu(side: int) -> None:
    """Part (a): the tiler beside the plain loop."""
    torch.set_num_threads(1)
    picture = np.zeros((3, side, side), np.uint8)
    probabilities = make_probabilities(4)
    tiler = measure_cpu(run_tiler, picture, probabilities)
    plain = measure_cpu(run_plain_loop, picture, probabilities)
    same = (run_tiler(picture, probabilities) == run_plain_loop(picture, probabilities))[TILE:-TILE, TILE:-TILE].mean()
    print(f"(a) CPU per megapixel, one thread, 4 classes, tile {TILE}, 25 % overlap, {side} x {side} pixels")
    print(f"    tiler       {tiler:7.4f} s   goal <= {CPU_GOAL_S}: {'met' if tiler <= CPU_GOAL_S else 'MISSED'}")
    print(f"    plain loop  {plain:7.4f} s   {plain / tiler:.1f}x; same class in {same:.2%} of the inner pixels")


def memory_mb(name: str) -> float:
    """A memory figure of this process, VmRSS (now) or VmHWM (highest), in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


def make_sparse_raster(path: Path, height: int, width: int) -> None:
    """A tiled GeoTIFF of three bands of which no tile is stored: it reads as zeros and takes no room."""
    options = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": height, "width": width, "crs": "EPSG:32636"}
    tiles = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "sparse_ok": True, "bigtiff": "if_safer"}
    transform = rasterio.transform.from_origin(500_000, 10_000_000, 0.5, 0.5)
    with rasterio.open(path, "w", **options, **tiles, transform=transform):
        pass


def infer_raster(source: Path, destination: Path, num_classes: int) -> None:
    """Window by window from a raster to a class map with overviews."""
    probabilities = make_probabilities(num_classes)
    with bounded_gdal(), rasterio.open(source) as raster:
        height, width = raster.shape
        palette = np.arange(num_classes * 3).reshape(-1, 3)
        place = {"crs": raster.crs, "transform": raster.transform}
        names = [f"class {index}" for index in range(num_classes)]
        writer = ClassRasterWriter(
            destination, height=height, width=width, class_names=names, palette=palette, confidence=True, **place
        )
        blender = StripBlender(height, width, num_classes, TILE, STRIDE)
        for window in blender.windows:
            ground = RasterioWindow(window.x, window.y, window.width, window.height)
            raster.read(window=ground, boundless=False)
            for block, values in blender.add(window, probabilities):
                writer.append(block, *decode_classes(values))
        blender.finish()
        writer.close()


def measure_memory(height: int, width: int, num_classes: int) -> dict[str, float]:
    """Peak memory over the imports and wall time of one raster; runs in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.tif"
        make_sparse_raster(source, height, width)
        start, before = time.perf_counter(), memory_mb("VmRSS")
        infer_raster(source, Path(folder) / "map.tif", num_classes)
        return {"peak_mb": memory_mb("VmHWM") - before, "seconds": time.perf_counter() - start}


def print_memory(rasters: list[tuple[int, int, int, str]]) -> None:
    """Part (b): one process per raster."""
    print("(b) peak memory of reading, blending and writing a COG with confidence, over the imports")
    for height, width, num_classes, goal in rasters:
        arguments = [str(value) for value in (height, width, num_classes)]
        command = [sys.executable, "-m", "benchmarks.tiler", "--measure", *arguments]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        met = "met" if result["peak_mb"] < GOAL_MB[goal] else "MISSED"
        full = num_classes * height * width * 4 / 1e6
        print(
            f"    {width:>7,} columns x {height:>6,} rows, {num_classes} classes: {result['peak_mb']:6.0f} MB "
            f"(an array of the whole: {full:6.0f} MB), {result['seconds']:5.0f} s   goal {goal}: {met}",
            flush=True,
        )


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small rasters only")
    parser.add_argument(
        "--measure", type=int, nargs=3, metavar=("HEIGHT", "WIDTH", "CLASSES"), help="one raster of (b)"
    )
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_memory(*options.measure)))
        return
    print_cpu(2048 if options.quick else 8192)
    print_memory(RASTERS[:2] if options.quick else RASTERS)


if __name__ == "__main__":
    main()
