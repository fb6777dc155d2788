"""A picture with one band, given to a model that learnt from pictures in colours, is told in every kind."""

from __future__ import annotations

import pytest
from PIL import Image

from tasks.detection.example import foxes_example
from tasks.grey_inputs import is_grey
from tasks.phases import inference, prepare, train
from tests.tasks.example_runs import spoken
from tests.tasks.test_predictions import animals, photos

KINDS = [photos, animals, foxes_example]


def trained(make, folder, grey=False):
    """The task after training, on pictures in colours or on grey ones, and where its log is written."""
    task, context = make(folder, "train.epochs=1")
    pictures = sorted(path for path in folder.rglob("*.png") if "labels" not in path.parts)
    if grey:
        for path in pictures:
            Image.open(path).convert("L").save(path)
    context, log = spoken(folder)
    prepare.run(task, context)
    train.run(task, context)
    return pictures, context, log


def told_of(make, folder, context, log, inputs):
    """What inference says of pictures with one band."""
    before = len(log.read_text())
    task, _ = make(folder, "train.epochs=1", f"inference.inputs={[str(path) for path in inputs]}")
    inference.run(task, context)
    return [line for line in log.read_text()[before:].splitlines() if "one band" in line]


@pytest.mark.parametrize("make", KINDS)
def test_one_line_names_the_grey_pictures_where_training_had_colours(make, tmp_path):
    pictures, context, log = trained(make, tmp_path)
    indexed, grey = tmp_path / "palette.png", [tmp_path / f"grey_{mode}.png" for mode in ("1", "L", "LA")]
    Image.open(pictures[0]).convert("RGB").quantize(32).save(indexed)
    for path, mode in zip(grey, ("1", "L", "LA"), strict=True):
        Image.open(pictures[0]).convert("RGB").convert("L").convert(mode).save(path)
        assert is_grey(path)
    assert told_of(make, tmp_path, context, log, [pictures[0], indexed]) == []
    (line,) = told_of(make, tmp_path, context, log, [pictures[0], grey[1]])
    assert "grey_L.png: has one band, and the model was trained on pictures in colours" in line
    (line,) = told_of(make, tmp_path, context, log, [pictures[0], *grey])
    assert "grey_1.png: and 1 other pictures have one band"  # the third is predicted already in line


def test_nothing_is_said_where_training_had_grey_pictures(tmp_path):
    pictures, context, log = trained(photos, tmp_path, grey=True)
    assert told_of(photos, tmp_path, context, log, pictures[:2]) == []
