"""Values of settings that once ended in a crash or were passed over."""

from pathlib import Path

import pytest

from tasks.phases import load_phase
from tasks.runs import checkpoint_path
from tests.settings.distill import split_bands
from tests.settings.stage import EXAMPLES, task_of
from utils.errors import SettingsError


def test_training_goes_on_while_no_keypoint_is_found(tmp_path):
    task, context = task_of(
        "keypoints", tmp_path, ("keypoints.best_metric=error", "keypoints.min_score=1.0", "train.epochs=2")
    )
    result = load_phase("train")(task, context)
    assert -200 < result.metrics["negative_error"] < -5, "points that were missed count as far as an animal is large"
    assert checkpoint_path(context.folder, "best").exists()


@pytest.fixture
def bands(tmp_path) -> Path:
    EXAMPLES["distill"](tmp_path)
    split_bands(tmp_path)
    return tmp_path / "bands"


def pictures_of(folder: Path, *stacks: list[Path], more: str = "distill.crops=1") -> dict:
    named = [[str(path) for path in stack] for stack in stacks]
    return EXAMPLES["distill"](folder, f"distill.stacks={named}", more)[0].source.files.pictures


def test_a_stack_of_files_with_three_bands_is_refused(tmp_path, bands):
    scene = tmp_path / "pictures" / "scene.tif"
    with pytest.raises(SettingsError, match="expected three files of one band, got 9 bands in all"):
        pictures_of(tmp_path, [scene, scene, scene])


def test_bands_are_chosen_from_a_stack_of_files_with_three(tmp_path, bands):
    scene = tmp_path / "pictures" / "scene.tif"
    found = pictures_of(tmp_path, [scene, scene, scene], more="distill.bands={scene.tif: [1, 5, 9]}")
    assert found["scene"].paths == (scene, scene, scene)


def test_bands_of_a_stack_are_no_pictures_themselves(tmp_path, bands):
    stack = [path.rename(tmp_path / "pictures" / path.name) for path in sorted(bands.iterdir())]
    found = pictures_of(tmp_path, stack)
    assert sorted(found) == ["B00", "clip", "photo_0", "photo_1", "photo_2", "scene"]
    assert found["B00"].paths == tuple(stack)


def test_stacks_that_begin_with_the_same_file_are_refused(tmp_path, bands):
    one, two, three = sorted(bands.iterdir())
    with pytest.raises(SettingsError, match=r"two stacks begin with .*B00\.tif"):
        pictures_of(tmp_path, [one, two, three], [one, three, two])
