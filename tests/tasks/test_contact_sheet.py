"""The contact sheet of verify shows training samples as they are varied, with their labels, in every kind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tasks.detection.example import foxes_example
from tasks.distill.example import student_example
from tasks.example import example_task, prepared_example
from tasks.keypoints.example import animals_example
from tasks.phases import prepare, verify
from tasks.phases.contact_sheet import draw_samples
from tasks.prepared import PreparedReader
from utils.data import SampleRef
from utils.report.plots import draw_class_map
from utils.report.sheets import contact_sheet

KINDS = {
    "segmentation": example_task,
    "keypoints": animals_example,
    "detection": foxes_example,
    "distill": student_example,
}


@pytest.mark.parametrize("features", ["cached", "online"])
@pytest.mark.parametrize("kind", KINDS)
def test_verify_draws_samples_of_every_kind(tmp_path, kind, features):
    task, context = KINDS[kind](tmp_path, f"train.features={features}", "verify.samples=3")
    prepare.run(task, context)
    verify.run(task, context)
    sheet = cv2.imread(str(context.folder.parent / "samples.png"))
    assert sheet.std() > 10
    again, _ = KINDS[kind](tmp_path, f"train.features={features}", "verify.samples=3")
    (context.folder.parent / "samples.png").unlink()
    verify.run(again, context)
    assert (cv2.imread(str(context.folder.parent / "samples.png")) == sheet).all(), "the seed chooses the samples"


def test_a_view_is_drawn_with_the_labels_of_that_view(tmp_path):
    task, store, prepared = prepared_example(
        tmp_path, "dataset.augmentations={enable: true, hflip: true, vflip: false, rotate90: false, stored_views: 2}"
    )
    reader = PreparedReader(task, store, prepared)
    places = [SampleRef(place, view) for place in range(len(reader.entries)) for view in ("identity", "hflip")]
    expected = {}
    for ref in places:
        [sample] = reader.read([ref]).samples
        drawn = draw_class_map(sample.arrays["image"], sample.arrays["label"], task.output._palette())
        title = sample.id if ref.view == "identity" else f"{sample.id} hflip"
        expected[ref] = contact_sheet([drawn], [title], task.output.sample_legend())
    sheets = [draw_samples(task, store, [item], 1) for item in prepared]
    for sheet in sheets:
        assert any(sheet.shape == one.shape and (sheet == one).all() for one in expected.values())


def test_samples_whose_records_are_missing_are_passed_over(tmp_path):
    task, store, prepared = prepared_example(tmp_path)
    keys = [key for item in prepared for entry in item.entries for key in entry.record_keys()]
    for key in keys:
        store.set_aside(key, "test")
    assert draw_samples(task, store, prepared, 4) is None


def test_small_pictures_are_enlarged_and_large_ones_shrunk():
    sheet = contact_sheet([np.zeros((20, 40, 3), np.uint8), np.zeros((400, 800, 3), np.uint8)], ["a", "b"], side=100)
    assert sheet.shape == (22 + 50 + 8, 2 * 108, 3)
    assert (sheet[22:62, :80] == 0).all()
    assert (sheet[22:72, 108:208] == 0).all()
