"""Outlines of real photos through the formats of CVAT and FiftyOne and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.utils.formats.compare import find_differences
from utils.formats.convert import convert_labels, what_is_lost
from utils.formats.read import read_annotations

PHOTOS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "photo_coco"


@pytest.mark.real_data
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no real photos in {PHOTOS}")
@pytest.mark.parametrize("format", ["cvat", "fiftyone"])
def test_outlines_of_real_photos_are_the_same_after_a_copy(format, tmp_path):
    source, folder = PHOTOS / "instance_segmentation", tmp_path / "set"
    folder.mkdir()
    (folder / "images").symlink_to(PHOTOS / "images")
    (folder / "labels").symlink_to(source / "labels")
    names = yaml.safe_load((source / "config.yaml").read_text())["names"]
    every = {place: names.get(place, f"none {place}") for place in range(max(names) + 1)}
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": ".", "train": "images/train2017", "names": every}))
    sets = read_annotations(folder)
    assert (len(sets["train"].pictures), sets["train"].num_instances) == (128, 746)
    assert what_is_lost(sets, format) == []
    convert_labels(sets, tmp_path / "copy", format)
    copy = read_annotations(tmp_path / "copy")
    assert copy["train"].problems == []
    assert find_differences(sets, copy) == []
