"""Windows tell of small objects, the whole picture of large ones; samples without objects are drawn less often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.detection.example import foxes_example
from tasks.detection.predictor import DetectionPredictor
from tasks.detection.settings import DetectionConfig
from tasks.detection.task import DetectionTask
from tasks.detection.views import part_matrices
from tasks.item import Item
from tasks.phases import prepare
from tasks.prepared import prepared_items
from tasks.sample import Sample
from tasks.stores import open_store
from tests.tasks.detection_data import write_split
from utils.geometry.crops import move_boxes

SIZE = (96, 128)
SMALL, LARGE = ("red", (10, 10, 26, 26)), ("red", (40, 20, 100, 84))


def make(folder: Path, *overrides: str) -> DetectionTask:
    for split in ("train", "val"):
        pictures = {"both": [SMALL, LARGE], "large": [LARGE], "none": []}
        write_split(folder / "animals", split, {f"{split}_{name}.png": (SIZE, own) for name, own in pictures.items()})
    where = f"paths.data_root={folder / 'animals'}"
    return foxes_example(folder, where, "detection.windows=2", "detection.min_visible=0.1", *overrides)[0]


@pytest.mark.parametrize(("largest", "found"), [(0.4, [0.5]), (1.0, [0.9, 0.5])])
def test_a_part_of_a_large_object_is_not_told_by_a_window(largest, found):
    """A window is sure of the upper half of a person, the whole picture less so of the person."""
    person, half = np.array([10.0, 10, 40, 95]), np.array([10.0, 10, 40, 50])
    whole, window, *_ = part_matrices((100, 100), (100, 100), 2, 0.2)
    samples = []
    for part, matrix in enumerate((whole, window)):
        arrays = {"matrix": matrix, "part": np.array(part), "picture": np.array([0, 100, 100])}
        samples.append(Sample("a", Item("a", ()), {**arrays, "image": np.zeros((100, 100, 3), np.uint8)}))
    boxes = [person, move_boxes(half, window)]
    outputs = {"boxes_xyxy": torch.tensor(np.array(boxes)[:, None]), "scores": torch.tensor([[[0.5]], [[0.9]]])}
    predictor = DetectionPredictor(DetectionConfig(window_largest=largest), True, 5)
    predictor.start(Item("a", ()))
    assert list(predictor.push(samples, outputs)) == []
    (piece,) = predictor.finish()
    assert piece.arrays["scores"].round(3).tolist() == found


def test_samples_without_an_object_are_drawn_a_quarter_as_often(tmp_path):
    task = make(tmp_path)
    _, context = foxes_example(tmp_path)
    prepare.run(task, context)
    entries = [
        entry
        for item in prepared_items(task, open_store(task.settings, "train"), "train", "train")
        for entry in item.entries
    ]
    weights = task.objective.sampling_weights(entries)
    assert weights is not None
    samples = (sample for item in task.source.items("train") for sample in task.source.samples(item))
    expected = [0.25 if sample.arrays["is_crowd"].all() else 1.0 for sample in samples]
    assert weights.tolist() == expected
    assert set(expected) == {0.25, 1.0}
    full = [entry for entry, weight in zip(entries, expected, strict=True) if weight == 1]
    assert task.objective.sampling_weights(full) is None  # each once an epoch
    assert make(tmp_path, "train.sampling=uniform").objective.sampling_weights(entries) is None
