"""Made-up labelled pictures with everything that a format may meet."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.formats.types import (
    AnnotatedPicture,
    AnnotationSet,
    Instance,
    Skeleton,
    build_skeleton,
    keypoints_array,
    missing_keypoints,
)

SKELETONS = {
    "mouse": build_skeleton("made up", ["nose", "left ear", "right ear", "tail base"], None, [(0, 1), (0, 2)]),
    "Wüstenmaus, gross": build_skeleton("made up", ["a", "b", "c", "d"], [0, 2, 1, 3]),
}


def draw(path: Path, height: int = 40, width: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 127, np.uint8))
    return path


class PoseMaker:
    """Random sets in a folder; `full` has crowds, polygons, tracks, scores and instances with nothing but a box."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self, seed: int, full: bool, skeletons: dict[str, Skeleton] | None = None) -> dict[str, AnnotationSet]:
        generator = np.random.default_rng(seed)
        skeletons = skeletons or SKELETONS
        return {split: self._make_set(split, generator, full, skeletons) for split in ("train", "val")}

    def _make_set(self, split: str, generator: np.random.Generator, full: bool, skeletons: dict) -> AnnotationSet:
        pictures = []
        for index in range(5):
            height, width = (int(size) for size in generator.integers(30, 90, 2))
            name = f"data/{split}/{'deep/' if index % 2 else ''}picture {index}.{'png' if index < 4 else 'jpg'}"
            path = draw(self.folder / name, height, width)
            count = int(generator.integers(0, 4))
            animals = tuple(self._make_instance(generator, full, skeletons, (height, width), n) for n in range(count))
            pictures.append(AnnotatedPicture(name.rpartition(".")[0], path, (height, width), animals))
        return AnnotationSet(pictures, dict(skeletons))

    def _make_instance(self, generator, full: bool, skeletons: dict, size: tuple[int, int], number: int) -> Instance:
        category = str(generator.choice(list(skeletons)))
        count = skeletons[category].num_keypoints
        scale = np.array(size[::-1])
        seen = generator.integers(0, 3, count)
        corners = np.sort(generator.uniform(0, 1, (2, 2)), axis=0) * scale
        box = corners.ravel()
        simple = Instance(category, keypoints_array(generator.uniform(0, 1, (count, 2)) * scale, seen), box)
        if not full:
            return simple
        kind = generator.integers(0, 4)
        polygons = tuple(generator.uniform(0, 1, (int(n), 2)) * scale for n in generator.integers(3, 7, kind % 3))
        return Instance(
            category=category,
            keypoints=missing_keypoints(count) if kind == 3 else simple.keypoints,
            box_xyxy=box if kind or not (seen > 0).any() else None,
            polygons=polygons,
            area=float(generator.uniform(1, 99)) if generator.random() < 0.5 else None,
            is_crowd=bool(generator.random() < 0.3),
            group=[None, number, 1000 + int(generator.integers(1000))][generator.integers(3)],
            score=float(generator.random()) if generator.random() < 0.5 else None,
            keypoint_scores=np.where(seen == 1, np.nan, generator.random(count)) if (seen == 2).any() else None,
            track_id=int(generator.integers(0, 50)) if generator.random() < 0.5 else None,
            extra={"note": "first\nsecond", "box_head": [1, 2.5]} if generator.random() < 0.5 else {},
            tags={"occluded": True, "truncated": False} if generator.random() < 0.5 else {},
        )


@pytest.fixture
def maker(tmp_path) -> PoseMaker:
    return PoseMaker(tmp_path / "source")


@pytest.fixture
def draw_picture():
    return draw


ODD_VALUES = [None, 3, -1, 2.5, float("nan"), "", "x", [], [1], {}, True, [[1, 2]], {"a": 1}, "³"]


def spoil_value(content: object, generator: np.random.Generator) -> None:
    """Replace one value, at any depth, by an odd one."""
    places: list[tuple] = []

    def walk(node) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(content)
    node, key = places[generator.integers(len(places))]
    node[key] = ODD_VALUES[generator.integers(len(ODD_VALUES))]


@pytest.fixture
def spoil():
    return spoil_value
