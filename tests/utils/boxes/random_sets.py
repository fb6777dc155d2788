"""Random objects and detections of several pictures, for tests of scores."""

from __future__ import annotations

import numpy as np

from utils.boxes.detections import FoundBoxes, TrueBoxes


def random_sets(
    seed: int, pictures: int = 12, classes: int = 3, most: int = 14, crowds: float = 0.15, side: float = 200.0
) -> tuple[TrueBoxes, FoundBoxes]:
    """Objects of all sizes, some pictures without any; detections near them, doubles, false ones, and none of some."""
    generator = np.random.default_rng(seed)
    true, found = [], []
    for picture in range(pictures):
        number = int(generator.integers(0, most)) if picture % 5 else 0
        low = generator.uniform(0, side, (number, 2))
        sides = generator.choice([6, 25, 60, 120], (number, 1)) * generator.uniform(0.7, 1.4, (number, 2))
        boxes, labels = np.concatenate([low, low + sides], axis=1), generator.integers(0, classes, number)
        true.append((np.full(number, picture), boxes, labels, generator.random(number) < crowds))
        copied = generator.integers(0, max(number, 1), int(1.5 * number))
        near = boxes[copied] + generator.normal(0, 0.06, (len(copied), 4)) * np.tile(sides[copied], 2)
        away = generator.uniform(0, side, (5, 2))
        near = np.concatenate([near, np.concatenate([away, away + generator.uniform(5, 90, (5, 2))], axis=1)])
        seen = np.concatenate([labels[copied], generator.integers(0, classes, 5)])
        scores = np.round(generator.random(len(near)), 2)  # with ties
        found.append((np.full(len(near), picture), near, seen, scores))
    joined = [[np.concatenate(parts) for parts in zip(*rows, strict=True)] for rows in (true, found)]
    return TrueBoxes(*joined[0]), FoundBoxes(*joined[1])
