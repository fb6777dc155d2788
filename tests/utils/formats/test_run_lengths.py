"""Masks as run lengths: those of another size, or that do not add up, are no masks."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from utils.formats.read import read_annotations, read_boxes
from utils.formats.run_lengths import box_of_mask, read_counts
from utils.formats.types import encode_mask


@pytest.mark.parametrize("seed", range(8))
def test_text_and_numbers_mean_the_same_as_in_pycocotools(seed):
    generator = np.random.default_rng(seed)
    small = generator.random((5, 7)) < 0.3
    mask = np.kron(small, np.ones((generator.integers(1, 40), generator.integers(1, 40)), bool))
    numbers = encode_mask(mask)
    text = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    compressed = {"size": text["size"], "counts": text["counts"].decode()}
    assert read_counts(compressed, mask.shape) == numbers["counts"]
    if mask.any():
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box_of_mask(numbers).tolist() == box_of_mask(compressed).tolist() == box


BAD = {
    "of no size": ({"size": [0, 0], "counts": [5, 5]}, "a mask of 0 x 0 pixels, but its picture has 40 x 60"),
    "larger": ({"size": [80, 120], "counts": [4820, 40, 4740]}, "a mask of 80 x 120 pixels"),
    "turned": ({"size": [60, 40], "counts": [2400]}, "a mask of 60 x 40 pixels, but its picture has 40 x 60"),
    "too many": ({"size": [40, 60], "counts": [0, 10**17]}, f"run lengths of {10**17} pixels in a mask of 40 x 60"),
    "too few": ({"size": [40, 60], "counts": [100, 40]}, "run lengths of 140 pixels in a mask of 40 x 60"),
    "negative": ({"size": [40, 60], "counts": [2410, -10]}, "without counts and size as whole numbers"),
    "text": ({"size": [40, 60], "counts": "1o" * 40}, "without counts and size as whole numbers"),
    "short text": ({"size": [40, 60], "counts": "321"}, "run lengths of 6 pixels in a mask of 40 x 60"),
    "no counts": ({"size": [40, 60]}, "without counts and size as whole numbers"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("more", [{}, {"bbox": [2, 4, 20, 10]}])
def test_a_mask_that_is_none_of_its_picture_is_refused_with_its_id(name, more, tmp_path, draw_picture):
    mask, reason = BAD[name]
    draw_picture(tmp_path / "a.png")
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6]},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": mask, **more},
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cow"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    part = read_boxes(tmp_path / "labels.json")["all"]
    assert [each.group for each in part.pictures[0].instances] == [1]
    [problem] = part.problems
    assert problem.where.endswith("labels.json: annotation 2")
    assert reason in problem.what
    assert part.pictures[0].extra["incomplete"]


def test_a_huge_run_costs_no_memory():
    tracemalloc.start()
    with pytest.raises(ValueError, match="run lengths of 100000000000000000 pixels"):
        box_of_mask({"size": [40, 60], "counts": [0, 10**17]})
    assert box_of_mask({"size": [10**6, 10**6], "counts": [10**12 - 3, 2, 1]}).tolist() == [999999, 999997, 1e6, 999999]
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize("mask", [{"size": [4, 6], "counts": [24]}, "eJw", {"counts": [2400]}])
def test_a_mask_in_our_key_of_labelme_is_checked_too(mask, tmp_path, draw_picture):
    draw_picture(tmp_path / "a.png")
    shape = {"label": "cow", "points": [[2, 4], [20, 30]], "shape_type": "rectangle", "dinolith": {"mask": mask}}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
    part = read_annotations(tmp_path)["all"]
    assert part.pictures[0].instances[0].mask is None
    assert "'dinolith' cannot be used (a mask " in part.problems[0].what
