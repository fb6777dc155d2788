"""Split lists: where they are found, what is drawn and announced, and that nothing of test or of one video leaks."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import cv2
import numpy as np
import pytest
from affine import Affine

from config import load_settings, parse_settings
from tasks import kinds
from tasks.distill.example import student_example
from tasks.evidence import study_training
from tasks.example import SETTINGS, example_task, scene_task, tiny_backbone, write_pictures
from tasks.keypoints.example import animals_example
from tasks.neighbours import choose_groups
from tasks.phases import prepare
from tasks.prepared import prepared_items
from tasks.segmentation.task import SegmentationTask
from tasks.splits import nearest_choice, read_list, stratified_choice
from tasks.stores import open_store
from utils.errors import DataError, SettingsError
from utils.logging import VerbosityLogger, listening
from utils.media.thumbnails import thumbnail
from utils.raster.files import write_raster


def settings_file(folder: Path, **splits: str) -> Path:
    """A settings file in `folder` whose split lists have relative names."""
    write_pictures(folder)
    text = SETTINGS.format(folder=folder, backbone=tiny_backbone())
    listed = ", ".join(f"{key}: {value}" for key, value in splits.items())
    path = folder / "job.yml"
    text = text.replace(" val_fraction: 0.34,", "")  # lists of a person already say what is validated
    path.write_text(text.replace("splits: {block_tiles: 2}", f"splits: {{block_tiles: 1, {listed}}}"))
    return path


def segmentation(path: Path) -> SegmentationTask:
    return SegmentationTask("job", load_settings(path, (), kinds()).tasks["segmentation"])


def ids(task, split: str) -> list[str]:
    return [item.id for item in task.source.items(split)]


# ---------------------------------------------------------------------------------------------------------------------
# Where lists are found


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with chdir(tmp_path / "elsewhere"):
        yield tmp_path / "elsewhere"


def test_lists_beside_the_settings_are_used_from_another_folder(tmp_path, elsewhere):
    path = settings_file(tmp_path, train_list="lists/train.txt", val_list="lists/val.txt", test_list="lists/test.txt")
    (tmp_path / "lists").mkdir()
    for split, name in (("train", "scene_0@y0:32,x0:64"), ("val", "scene_0@y32:64,x0:64"), ("test", "scene_1")):
        (tmp_path / "lists" / f"{split}.txt").write_text(name)
    task = segmentation(path)
    task.source.prepare_data()
    assert [ids(task, split) for split in ("train", "val", "test")] == [
        ["scene_0@y0:32,x0:64"],
        ["scene_0@y32:64,x0:64"],
        ["scene_1"],
    ]
    assert not list(elsewhere.rglob("*.txt"))


def test_the_working_directory_comes_first_and_two_different_lists_are_refused(tmp_path, elsewhere):
    path = settings_file(tmp_path, train_list="train.txt", val_list="val.txt")
    (elsewhere / "train.txt").write_text("scene_0")
    assert load_settings(path, (), kinds()).shared.dataset.splits.train_list == "train.txt"
    (tmp_path / "train.txt").write_text("scene_0")
    assert load_settings(path, (), kinds()).shared.dataset.splits.train_list == "train.txt"
    (tmp_path / "train.txt").write_text("scene_1")
    with pytest.raises(SettingsError, match=r"dataset\.splits\.train_list: train\.txt is in the working directory"):
        load_settings(path, (), kinds())


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn is announced


def test_a_named_list_that_is_nowhere_is_drawn_with_a_warning(tmp_path, elsewhere, capsys):
    path = settings_file(tmp_path, train_list="gone/train.txt", val_list="gone/val.txt")
    with listening(VerbosityLogger(), "tasks"):
        segmentation(path).source.prepare_data()
    output = "".join(capsys.readouterr())
    assert f"[WARNING] dataset.splits.train_list: no gone/train.txt in the working directory ({elsewhere})" in output
    train, val = (read_list(elsewhere / "gone" / f"{split}.txt") for split in ("train", "val"))
    assert f"{len(train)} ids to train on in gone/train.txt, {len(val)} to validate on in gone/val.txt" in output
    with listening(VerbosityLogger(), "tasks"):
        segmentation(path).source.prepare_data()
    assert "splits" not in "".join(capsys.readouterr())  # a rerun finds them


def test_a_test_list_that_does_not_exist_is_refused(tmp_path, elsewhere):
    path = settings_file(tmp_path, test_list="gone/test.txt")
    for work in (lambda task: task.source.prepare_data(), lambda task: task.source.check_lists()):
        with pytest.raises(DataError, match=r"dataset\.splits\.test_list: no gone/test\.txt"):
            work(segmentation(path))


# ---------------------------------------------------------------------------------------------------------------------
# Nothing of test is drawn


def test_drawn_scenes_hold_nothing_of_the_test_list(tmp_path, elsewhere):
    (elsewhere / "test.txt").write_text("scene_1@y0:40,x0:64")  # touches two of the three blocks of the scene
    path = settings_file(tmp_path, test_list="test.txt")
    task = segmentation(path)
    task.source.prepare_data()
    areas = [(item.scene_id, item.area) for split in ("train", "val") for item in task.source.items(split)]
    [test] = task.source.items("test")
    assert {scene for scene, _ in areas} == {"scene_0", "scene_1"}
    assert not [area for scene, area in areas if scene == "scene_1" and area.intersection(test.area)]
    (elsewhere / "test.txt").write_text("scene_0")  # another test list: drawn anew
    task = segmentation(path)
    task.source.prepare_data()
    assert {item.scene_id for split in ("train", "val") for item in task.source.items(split)} == {"scene_1"}


def test_drawn_poses_hold_nothing_of_the_test_list_or_of_the_labels_test_split(tmp_path):
    only_train = ("paths.label_path=annotations/train.json", f"dataset.splits.test_list={tmp_path}/test.txt")
    task, _ = animals_example(tmp_path)
    (tmp_path / "test.txt").write_text("\n".join(sorted(task.labels.pictures)[4:7]))  # of the train split
    task, _ = animals_example(tmp_path, *only_train)
    task.source.prepare_data()
    drawn, test = {*ids(task, "train"), *ids(task, "val")}, set(ids(task, "test"))
    assert len(test) == 3
    assert drawn == set(task.labels.pictures) - test

    labels = tmp_path / "animals" / "annotations"
    (labels / "val.json").rename(labels / "test.json")  # labels with train and test, so that val is drawn
    task, _ = animals_example(tmp_path, f"paths.splits_dir={tmp_path}/other")
    task.source.prepare_data()
    assert sorted(task.labels.sets) == ["test", "train"]
    assert not {*ids(task, "train"), *ids(task, "val")} & set(ids(task, "test"))
    assert len(ids(task, "train")) + len(ids(task, "val")) == 8


def test_drawn_crops_hold_nothing_of_the_test_list(tmp_path):
    (tmp_path / "test.txt").write_text("photo_0\nclip")  # a photo, and all segments of a video
    task, _ = student_example(tmp_path, f"dataset.splits.test_list={tmp_path}/test.txt")
    task.source.prepare_data()
    drawn, test = {*ids(task, "train"), *ids(task, "val")}, set(ids(task, "test"))
    assert "photo_0" in test
    assert drawn == set(task.source.units) - test


# ---------------------------------------------------------------------------------------------------------------------
# Frames of one video stay together


def write_frames(folder: Path, names: list[str], videos: list[int]) -> None:
    """Write pictures (96, 128): those of one video have one blurred background and a disc that moves."""
    for frame, (name, video) in enumerate(zip(names, videos, strict=True)):
        noise = np.random.default_rng(video).uniform(0, 255, (96, 128)).astype(np.float32)
        picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8), None, 0, 255, cv2.NORM_MINMAX)
        cv2.circle(picture, (10 + 5 * frame, 48), 6, 255.0, -1)
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture.astype(np.uint8).repeat(3).reshape(96, 128, 3))


def frames(pattern: str, videos: int, length: int) -> tuple[list[str], list[int]]:
    names = [pattern.format(video=video, frame=frame) for video in range(videos) for frame in range(length)]
    return names, [video for video in range(videos) for _ in range(length)]


def look_at(folder: Path):
    return lambda name: thumbnail(cv2.imread(str(folder / f"{name}.png")))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("day{video}/cam_{frame}", "folder"), ("cam{video}x_{frame:03}", "stem"), ("{frame}v{video}x", "picture")],
)
def test_groups_are_folders_or_stems_where_they_hold_videos(tmp_path, pattern, found):
    names, videos = frames(pattern, 3, 5)
    write_frames(tmp_path, names, videos)
    assert choose_groups(names, look_at(tmp_path), "") == found
    write_frames(tmp_path, names, list(range(len(names))))  # the same names, but unrelated pictures
    assert choose_groups(names, look_at(tmp_path), "") == "picture"


def test_frames_of_a_single_video_are_announced(tmp_path, capsys):
    names, videos = frames("cam_{frame:03}", 1, 6)
    write_frames(tmp_path, names, videos)
    with listening(VerbosityLogger(), "tasks"):
        assert choose_groups(names, look_at(tmp_path), "write lists") == "picture"
    assert "[WARNING] splits: 100 % of neighbouring pictures look alike" in "".join(capsys.readouterr())


def write_labelled_frames(folder: Path, names: list[str], videos: list[int]) -> None:
    """Frames and a COCO file that labels the disc in each."""
    write_frames(folder / "animals" / "images", names, videos)
    pictures = [
        {"id": index, "file_name": f"{name}.png", "height": 96, "width": 128} for index, name in enumerate(names)
    ]
    animals = [
        {"id": index, "image_id": index, "category_id": 1, "keypoints": [10 + 5 * index, 48, 2], "num_keypoints": 1}
        for index in range(len(names))
    ]
    tree = {
        "images": pictures,
        "annotations": animals,
        "categories": [{"id": 1, "name": "disc", "keypoints": ["centre"]}],
    }
    (folder / "animals" / "annotations").mkdir()
    (folder / "animals" / "annotations" / "all.json").write_text(json.dumps(tree))


def test_keypoints_keep_the_frames_of_a_video_together(tmp_path):
    write_labelled_frames(tmp_path, *frames("vid{video}_{frame:03}", 4, 5))
    for seed in range(4):
        task, _ = animals_example(
            tmp_path, "paths.label_path=annotations/all.json", f"resources.seed={seed}", "train.val_fraction=0.25"
        )
        train, val = task.source.draw_split()
        assert len(train) == 15
        assert {name.split("_")[0] for name in train}.isdisjoint({name.split("_")[0] for name in val})


@pytest.mark.parametrize(("is_video", "doubts"), [(True, ["same_video"]), (False, [])])
def test_a_score_on_frames_between_those_of_training_is_doubted(is_video, doubts, tmp_path):
    names, videos = frames("cam_{frame:03}", 1, 10)
    write_labelled_frames(tmp_path, names, videos if is_video else list(range(10)))
    task, context = animals_example(tmp_path, "paths.label_path=annotations/all.json", "train.val_fraction=0.3")
    prepare.run(task, context)
    store = open_store(task.settings, "train")
    train, val = (prepared_items(task, store, split, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (7, 3)
    assert [code for code, _ in study_training(task, store, train, val)["doubts"]] == doubts


def test_segmentation_keeps_the_frames_of_a_video_together(tmp_path):
    names, videos = frames("vid{video}_{frame:03}", 4, 5)
    write_frames(tmp_path / "pictures", names, videos)
    (tmp_path / "labels").mkdir()
    for name in names:
        label = np.zeros((96, 128), np.uint8)
        label[:, 64:] = 1
        cv2.imwrite(str(tmp_path / "labels" / f"{name}.png"), label)
    for seed in range(4):
        task, _ = example_task(tmp_path, f"resources.seed={seed}", f"inference.input_tif={tmp_path}/pictures")
        train, val = task.source.draw_split()
        assert val
        assert {name.split("_")[0] for name in train}.isdisjoint({name.split("_")[0] for name in val})


def test_distillation_keeps_the_frames_of_a_video_together(tmp_path):
    names, videos = frames("vid{video}_{frame:03}", 4, 5)
    write_frames(tmp_path / "frames", names, videos)
    for seed in range(4):
        task, _ = student_example(tmp_path, f"resources.seed={seed}", f"paths.raw_images_dir={tmp_path}/frames")
        train, val = task.source.draw_split()
        assert val
        assert {name.split("_")[0] for name in train}.isdisjoint({name.split("_")[0] for name in val})


def test_ready_configs_find_their_lists_from_any_folder(elsewhere):
    configs = Path(__file__).parents[2] / "docs" / "configs"
    found = 0
    for path in sorted(configs.glob("*.yml")):
        splits = load_settings(path, (), kinds()).shared.dataset.splits
        named = [value for key, value in splits if key.endswith("_list") and value]
        assert [value for value in named if not Path(value).is_file()] == []
        found += len(named)
    assert found >= 7


def test_text_of_settings_without_a_file_is_taken_as_it_is():
    settings = parse_settings("dataset: {splits: {train_list: a.txt}}", (), kinds())
    assert settings.shared.dataset.splits.train_list == "a.txt"


@pytest.mark.parametrize("line", ["scene_1", "scene_1.tif", "pictures/scene_1.tif", r"C:\data\pictures\scene_1.tif"])
def test_a_split_list_takes_file_names(tmp_path, line):
    (tmp_path / "train.txt").write_text("scene_0\n")
    (tmp_path / "val.txt").write_text(line + "\n")
    lists = f"dataset.splits={{train_list: {tmp_path}/train.txt, val_list: {tmp_path}/val.txt}}"
    source = scene_task(lists).source
    assert [item.id for item in source.items("val")] == ["scene_1"]
    (tmp_path / "val.txt").write_text(f"{line}@y0:8,x0:16\nscene_1.png@y8:16,x0:16\n")
    assert [item.id for item in source.items("val")] == ["scene_1@y0:8,x0:16", "scene_1@y8:16,x0:16"]


def test_two_spellings_of_one_picture_are_refused(tmp_path):
    (tmp_path / "train.txt").write_text("scene_0\nscene_0.tif\n")
    source = scene_task(f"dataset.splits={{train_list: {tmp_path}/train.txt, val_list: {tmp_path}/val.txt}}").source
    with pytest.raises(DataError, match=r"'scene_0.tif' and 'scene_0' are the same picture; keep one line"):
        source.items("train")


# ---------------------------------------------------------------------------------------------------------------------
# Photos stay whole


def write_photos(folder: Path, count: int, classes: int = 2, size: tuple[int, int] = (96, 128), place=None) -> None:
    """Photos of noise, or scenes where `place` is given, with every class in each; they are larger than four tiles."""
    generator = np.random.default_rng(0)
    for index in range(count):
        label = (np.arange(size[1]) * classes // size[1]).astype(np.uint8)[None].repeat(size[0], 0)
        image = generator.integers(0, 256, (*size, 3), np.uint8)
        for room, values in (("pictures", image), ("labels", label)):
            (folder / room).mkdir(exist_ok=True)
            suffix = "png" if place is None else "tif"
            write_raster(folder / room / f"p{index}.{suffix}", values, **(place or {}))


def photo_task(folder: Path, *overrides: str) -> SegmentationTask:
    """A task whose tiles of 32 pixels are smaller than a fourth of a photo."""
    more = (f"inference.inputs={folder}/pictures", "dataset.splits.block_tiles=null", *overrides)
    return example_task(folder, *more)[0]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_photos_are_never_divided_where_there_are_two_or_more(tmp_path, count):
    write_photos(tmp_path, count)
    for seed in range(5):
        train, val = photo_task(tmp_path, f"resources.seed={seed}", "train.val_fraction=0.2").source.draw_split()
        assert sorted([*train, *val]) == [f"p{index}" for index in range(count)]
        assert train
        assert len(val) == {2: 1, 3: 1, 8: 2}[count]  # 0.2 of 8 is 1.6


def test_a_single_photo_is_divided_and_blocks_of_several_are_a_choice_with_a_warning(tmp_path, capsys):
    write_photos(tmp_path, 1)
    train, val = photo_task(tmp_path).source.draw_split()
    assert train
    assert val
    assert all(name.startswith("p0@") for name in (*train, *val))
    write_photos(tmp_path, 3)
    capsys.readouterr()
    with listening(VerbosityLogger(), "tasks"):
        photo_task(tmp_path, "dataset.splits.block_tiles=1").source.draw_split()
    told = "".join(capsys.readouterr())
    assert "photos, such as p" in told
    assert "are divided between training and validation, as dataset.splits.block_tiles is set" in told


@pytest.mark.parametrize(("count", "whole"), [(2, False), (4, False), (5, True), (7, True)])
def test_scenes_are_whole_where_there_are_enough(tmp_path, capsys, count, whole):
    write_photos(tmp_path, count, place={"crs": "EPSG:32631", "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000)})
    with listening(VerbosityLogger("info"), "tasks"):
        train, val = photo_task(tmp_path, "train.val_fraction=0.2").source.draw_split()
    assert all(("@" in name) != whole for name in (*train, *val))
    told = "".join(capsys.readouterr())
    assert ("no picture is divided" if whole else "have blocks in training too") in told
    assert "of the labelled pixels (train.val_fraction is 0.2" in told


def test_a_photo_of_the_test_list_leaves_enough_to_divide(tmp_path):
    """With one of two photos held out, the other is the only one, and is divided."""
    write_photos(tmp_path, 2)
    (tmp_path / "test.txt").write_text("p1")
    train, val = photo_task(tmp_path, f"dataset.splits.test_list={tmp_path}/test.txt").source.draw_split()
    assert train
    assert val
    assert all(name.startswith("p0@") for name in (*train, *val))


def test_a_share_that_classes_ask_for_is_said(tmp_path, capsys):
    """Each of three classes is in two photos only, so that validation needs three of eight."""
    write_photos(tmp_path, 8)
    for index in range(8):
        label = np.full((96, 128), index // 2 if index < 6 else 3, np.uint8)
        write_raster(tmp_path / "labels" / f"p{index}.png", label)
    with listening(VerbosityLogger("info"), "tasks"):
        task = photo_task(tmp_path, "train.val_fraction=0.2", "dataset.classes=[a, b, c, d]")
        val = task.source.draw_split()[1]
    assert len(val) == 4
    told = "".join(capsys.readouterr())
    assert "4 of 8 pictures are for validation, with 50 % of the labelled pixels (train.val_fraction is 0.2" in told
    assert "more, so that each class is in both where possible" in told


def test_few_large_units_come_as_near_to_the_share_as_classes_let():
    """Of eight photos of equal classes two are chosen for a fifth, whatever their sizes; no class is lost by it."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        counts = generator.integers(0, 100, (8, 3)) * (generator.random((8, 3)) < 0.6)
        first = stratified_choice(counts, 0.2, np.random.default_rng(seed))
        nearest = nearest_choice(counts, 0.2, np.random.default_rng(seed))
        apart = [abs(counts[chosen].sum() / counts.sum() - 0.2) for chosen in (first, nearest)]
        assert apart[1] <= apart[0]
        assert counts[nearest].any(axis=0).sum() >= counts[first].any(axis=0).sum()
        assert counts[~nearest].any(axis=0).sum() >= counts[~first].any(axis=0).sum()


def test_distillation_never_divides_one_of_several_photos(tmp_path):
    write_photos(tmp_path, 3)
    for seed in range(3):
        pictures = f"paths.raw_images_dir={tmp_path}/pictures"
        task, _ = student_example(tmp_path, f"resources.seed={seed}", pictures, "distill.block=null")
        assert any("@" in name for name in task.source.units)
        train, val = task.source.draw_split()
        assert val
        assert {name.split("@")[0] for name in train}.isdisjoint({name.split("@")[0] for name in val})
