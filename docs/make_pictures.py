"""Draw the pictures of the README from a finished run of the example: python -m docs.make_pictures [RUNS [SAMPLE]]."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import rasterio

from utils.media.videos import VideoReader
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.report.colours import colours_of_classes
from utils.report.plots import draw_comparison, save_picture, side_by_side
from utils.samples.world import CLASSES

PICTURES = Path(__file__).parent / "pictures"
SHOWN_FRAMES = 3


def main(runs: str = "runs", sample: str = "data/sample") -> None:
    """Show the unseen scene and its map, and frames of the unseen video with their keypoints."""
    draw_map(runs, sample)
    draw_foxes(runs)


def draw_foxes(runs: str) -> None:
    """Show frames of the overlay video, at even distances."""
    with VideoReader(Path(runs) / "foxes" / "latest" / "predictions" / "chase_overlay.mp4") as video:
        frames = list(video.frames())
    chosen = [frames[(2 * index + 1) * len(frames) // (2 * SHOWN_FRAMES)] for index in range(SHOWN_FRAMES)]
    save_picture(PICTURES / "foxes.png", side_by_side(chosen))


def draw_map(runs: str, sample: str) -> None:
    """Show the unseen scene, and the map that the run made of it."""
    path = Path(runs) / "segmentation" / "latest" / "predictions" / "east_classes.tif"
    with rasterio.open(path) as raster:
        classes = raster.read(1)
    scene = RasterScene(Path(sample) / "unseen" / "east.tif")
    image, valid = scene.read(Window(0, 0, scene.height, scene.width))
    classes[~valid] = 255
    picture = draw_comparison(np.ascontiguousarray(image[..., :3]), None, classes, colours_of_classes(CLASSES), CLASSES)
    save_picture(PICTURES / "sample.png", picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
