"""Areas of one set, copied into every format that holds them, cover the same pixels as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.formats.conftest import draw
from utils.formats.convert import convert_labels
from utils.formats.read import read_annotations
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, encode_mask

SIZE = (40, 60)
NAMES = ("road", "Porites/massive", "dot")


def ring(generator: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A star-shaped outline between two radii."""
    angles = np.sort(generator.uniform(0, 2 * np.pi, 12))
    radii = generator.uniform(low, high, 12)
    return np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None] + generator.uniform(10, 30, 2)


@pytest.fixture
def areas(tmp_path) -> dict[str, AnnotationSet]:
    """Outlines in parts and with holes, and masks, which overlap in an order that is not that of the file."""
    generator = np.random.default_rng(5)
    sets = {}
    for split in ("train", "val"):
        pictures = []
        for number in range(3):
            disc = ring(generator, 8, 14)
            hole = (disc - disc.mean(axis=0)) / 3 + disc.mean(axis=0)
            objects = (
                Instance(NAMES[0], polygons=(ring(generator, 4, 20), ring(generator, 4, 20)), z_order=2),
                Instance(NAMES[1], polygons=(disc,), holes=(hole,), z_order=1),
                Instance(NAMES[2], mask=encode_mask(generator.random(SIZE) < 0.02), z_order=3),
                Instance(NAMES[1], polygons=(ring(generator, 3, 9),), z_order=-1),
                Instance(NAMES[2], polygons=(ring(generator, 9, 16),), is_crowd=True),  # lies under all others
            )
            path = draw(tmp_path / "in" / split / f"{number}.png", *SIZE)
            pictures.append(AnnotatedPicture(f"{split}/{number}", path, SIZE, objects))
        sets[split] = AnnotationSet(pictures, {name: Skeleton(()) for name in NAMES})
    return sets


def class_maps(sets: dict[str, AnnotationSet], folder: Path) -> dict[str, np.ndarray]:
    """The index masks of all pictures; values are places in `NAMES`."""
    ordered = {split: replace(part, skeletons={name: Skeleton(()) for name in NAMES}) for split, part in sets.items()}
    convert_labels(ordered, folder, "masks")
    return {f"{path.parts[-3]}/{path.stem}": np.asarray(Image.open(path)) for path in folder.rglob("labels/*.png")}


@pytest.mark.parametrize("format", ["coco", "labelme", "cvat", "fiftyone", "masks"])
def test_a_copy_covers_the_same_pixels(format, areas, tmp_path):
    expected = class_maps(areas, tmp_path / "expected")
    assert {len(np.unique(values)) for values in expected.values()} == {4}
    convert_labels(areas, tmp_path / "copy", format)
    sets = read_annotations(tmp_path / "copy")
    assert not any(problem.lost for part in sets.values() for problem in part.problems)
    found = class_maps(sets, tmp_path / "found")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert (found[name] != values).sum() == 0, name
