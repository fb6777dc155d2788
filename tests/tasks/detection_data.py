"""Small labelled pictures of bright rectangles on a dark ground, for tests of detection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CLASSES = ("red", "blue")
COLOURS = {"red": (230, 40, 40), "blue": (40, 60, 230)}
Rectangle = tuple[str, Sequence[float]]  # class and x1, y1, x2, y2


def draw(
    size: tuple[int, int], rectangles: Sequence[Rectangle], seed: int = 0, ground: tuple[int, int] = (20, 50)
) -> np.ndarray:
    """A picture (H, W, 3) of filled rectangles on a dark ground of values from the first to below the second."""
    image = np.random.default_rng(seed).integers(*ground, (*size, 3), np.uint8)
    for name, box in rectangles:
        left, top, right, bottom = (round(side) for side in box)
        image[top:bottom, left:right] = COLOURS[name]
    return image


def write_split(
    folder: Path,
    split: str,
    pictures: Mapping[str, tuple[tuple[int, int], Sequence[Rectangle]]],
    ground: tuple[int, int] = (20, 50),
) -> None:
    """Write pictures and their COCO boxes: name -> size and rectangles."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, (size, rectangles)) in enumerate(pictures.items(), start=1):
        cv2.imwrite(str(folder / "images" / name), draw(size, rectangles, number, ground)[..., ::-1])
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for colour, (left, top, right, bottom) in rectangles:
            box = [left, top, right - left, bottom - top]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": CLASSES.index(colour) + 1,
                "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def scattered(number: int, size: tuple[int, int], seed: int, sides: tuple[int, int] = (12, 30)) -> list[Rectangle]:
    """Rectangles of whole pixels, placed at random; they may overlap."""
    generator = np.random.default_rng(seed)
    found: list[Rectangle] = []
    for _ in range(number):
        height, width = generator.integers(*sides, 2).tolist()
        top, left = (int(generator.integers(0, side - part)) for side, part in zip(size, (height, width), strict=True))
        found.append((CLASSES[int(generator.integers(2))], (left, top, left + width, top + height)))
    return found
