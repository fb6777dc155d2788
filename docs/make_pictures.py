"""Draw docs/pictures/sample.png from a finished run of the example: python -m docs.make_pictures [RUNS [SAMPLE]]."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import rasterio

from utils.plots import class_palette, draw_comparison, save_picture
from utils.rasters import RasterScene
from utils.sample import CLASSES
from utils.tiling import Window


def main(runs: str = "runs", sample: str = "data/sample") -> None:
    """Show the unseen scene, and the map that the run made of it."""
    path = Path(runs) / "segmentation" / "latest" / "predictions" / "east_classes.tif"
    with rasterio.open(path) as raster:
        classes = raster.read(1)
    scene = RasterScene(Path(sample) / "unseen" / "east.tif")
    image, valid = scene.read(Window(0, 0, scene.height, scene.width))
    classes[~valid] = 255
    picture = draw_comparison(np.ascontiguousarray(image[..., :3]), None, classes, class_palette(len(CLASSES)), CLASSES)
    save_picture(Path(__file__).parent / "pictures" / "sample.png", picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
