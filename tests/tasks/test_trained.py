"""Pictures in memory are predicted as inference predicts them in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from config import parse_settings
from tasks import kinds
from tasks.context import Context
from tasks.distill.example import student_task
from tasks.example import example_task, tiny_backbone
from tasks.item import Piece
from tasks.keypoints.example import animals_example
from tasks.labelled import decode_picture
from tasks.phases import load_phase
from tasks.phases.inference import output_folder
from tasks.phases.prediction import predict
from tasks.phases.samples import LiveSamples
from tasks.runs import BEST, checkpoint_path
from tasks.task import Task
from tasks.trained import TrainedTask
from utils.errors import DataError


def train(task: Task, context: Context) -> Path:
    for phase in ("prepare", "train"):
        load_phase(phase)(task, context)
    return checkpoint_path(context.folder, BEST)


def load_elsewhere(kind: str, checkpoint: Path, folder: Path, *overrides: str) -> TrainedTask:
    """A trained task in a folder without pictures and labels."""
    text = f"""
    paths: {{processed_dir: {folder}/elsewhere}}
    model: {{backbone: {tiny_backbone()}}}
    tasks: {{here: {{kind: {kind}}}}}
    """
    return TrainedTask.load(checkpoint, parse_settings(text, overrides, kinds()).tasks["here"])


def assert_equal_pieces(found: list[Piece], expected: list[Piece], but: tuple[str, ...] = ()) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.window == other.window
        assert one.arrays.keys() == other.arrays.keys()
        for name in one.arrays.keys() - set(but):
            np.testing.assert_equal(one.arrays[name], other.arrays[name])


def test_a_scene_in_memory_is_mapped_as_inference_maps_its_file(tmp_path):
    task, context = example_task(tmp_path, "inference.tta.horizontal_flip=true")
    checkpoint = train(task, context)
    load_phase("inference")(task, context)
    with rasterio.open(next(output_folder(task, context).glob("*_classes.tif"))) as written:
        expected = written.read(1)
    with rasterio.open(tmp_path / "pictures" / "scene_0.tif") as scene:
        image = np.moveaxis(scene.read(), 0, 2)
    trained = load_elsewhere(
        "segmentation", checkpoint, tmp_path, "inference={overlap: 0.25, tta: {horizontal_flip: true}}"
    )
    classes = np.full(image.shape[:2], 255, np.uint8)
    for piece in trained.predict(image):
        assert piece.window is not None
        y, x = piece.window.y, piece.window.x
        classes[y : y + piece.window.height, x : x + piece.window.width] = piece.arrays["classes"]
    assert set(np.unique(expected)) == {0, 1}
    np.testing.assert_array_equal(classes, expected)
    with pytest.raises(DataError, match="holds uint16, but the model was trained on 8-bit values"):
        trained.predict(image.astype(np.uint16))
    with pytest.raises(DataError, match="4 bands to read, but the other pictures have 3"):
        trained.predict(np.zeros((40, 40, 4), np.uint8))


@pytest.mark.parametrize("mode", ["whole", "per_instance"])
def test_animals_in_memory_are_found_as_in_their_file(mode, tmp_path):
    task, context = animals_example(tmp_path, f"keypoints.instance_mode={mode}")
    checkpoint = train(task, context)
    item = task.source.items("val")[0]
    trained = load_elsewhere("keypoints", checkpoint, tmp_path)
    samples = LiveSamples(trained.task, trained.task.prediction_views())
    given = predict(trained.task, trained.model.eval(), samples, [[item]], "cpu", 1, context)
    expected = [piece for _, piece in given if piece is not None]
    image = decode_picture(item.picture)
    assert_equal_pieces(trained.predict(image, item.picture.instances), expected)
    with pytest.raises(ValueError, match=r"expected a picture \(H, W, 3\) of uint8, got \(8, 8, 4\) of uint8"):
        trained.predict(np.zeros((8, 8, 4), np.uint8))
    if mode == "per_instance":
        with pytest.raises(ValueError, match="give prompts"):
            trained.predict(image)


def test_a_task_without_predictions_of_pictures_says_so():
    task = student_task()
    with pytest.raises(TypeError, match="CropSource predicts no pictures in memory"):
        TrainedTask(task, task.build_model()).predict(np.zeros((32, 32, 3), np.uint8))
