"""Scores on new pictures from a checkpoint alone: no settings file, no training data; equal to scoring by hand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import main
from tasks.example import drawn_animals, example_task, write_pictures
from tasks.keypoints.example import animals_example, pose_task
from tasks.keypoints.sinks import pose_array
from tasks.phases import load_phase
from tasks.runs import BEST, checkpoint_path
from tests.tasks.example_runs import SMALL, rewrite
from utils.formats.convert import convert_labels
from utils.formats.read import read_poses
from utils.formats.types import AnnotationSet
from utils.keypoints.metrics import PoseScores
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import read_json

CODED = "dataset.label_mapping={7: light, 9: dark, 255: ignore}"


def train(example, folder: Path, *overrides: str) -> Path:
    task, context = example(folder, *overrides)
    for phase in ("prepare", "train"):
        load_phase(phase)(task, context)
    target = folder.with_name(f"{folder.name}.safetensors")
    shutil.copy(checkpoint_path(context.folder, BEST), target)
    return target


def recode(folder: Path) -> None:
    """Write 9 for dark and 7 for light pixels."""
    for path in (folder / "labels").iterdir():
        rewrite(path, lambda pixels: np.copyto(pixels, np.where(pixels < 2, 9 - 2 * pixels, pixels)))


@pytest.fixture(scope="module")
def land(tmp_path_factory) -> Path:
    """The checkpoint of a training on two scenes whose labels hold codes; they are gone."""
    folder = tmp_path_factory.mktemp("land") / "old"
    write_pictures(folder)
    recode(folder)
    checkpoint = train(example_task, folder, *SMALL, CODED, "train.epochs=3")
    shutil.copy(folder / "pictures" / "scene_1.tif", folder.parent / "seen.tif")
    shutil.rmtree(folder)
    return checkpoint


@pytest.fixture
def scenes(tmp_path, monkeypatch) -> Path:
    """New scenes with labels of the same codes, and pictures noisier than those of training."""
    write_pictures(tmp_path / "new")
    recode(tmp_path / "new")
    generator = np.random.default_rng(5)
    for path in (tmp_path / "new" / "pictures").iterdir():
        rewrite(
            path, lambda pixels: np.copyto(pixels, (pixels // 2 + generator.integers(0, 90, pixels.shape)).astype("u1"))
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "new"


def evaluate(*arguments: object) -> dict:
    assert main.main(["evaluate.enable=true", "logging.file=log.txt", *map(str, arguments)]) == 0
    [path] = Path("runs").glob("*/*[0-9]/evaluate_inputs/metrics.json")
    return json.loads(path.read_text())


def test_scenes_are_scored_from_a_checkpoint_alone_as_by_hand(land, scenes):
    found = evaluate(
        f"evaluate.checkpoint={land}", f"evaluate.inputs={scenes}/pictures", f"evaluate.labels={scenes}/labels"
    )
    assert main.main(
        ["inference.enable=true", f"inference.checkpoint={land}", f"inference.inputs={scenes}/pictures",
         "inference.output_dir=maps"]
    ) == 0  # fmt: skip
    confusion = np.zeros((2, 2), np.int64)
    for path in sorted((scenes / "labels").iterdir()):
        with rasterio.open(path) as label, rasterio.open(f"maps/{path.stem}_classes.tif") as predicted:
            codes, classes = label.read(1), predicted.read(1)
        for row, code in enumerate((9, 7)):  # dark, light
            for column in (0, 1):
                confusion[row, column] += ((codes == code) & (classes == column)).sum()
    right = np.diag(confusion)
    iou = right / (confusion.sum(0) + confusion.sum(1) - right)
    assert found["metrics"]["confusion"] == confusion.tolist()
    assert 0.3 < iou.mean() < 0.999, "neither all right nor all wrong"
    assert found["metrics"]["mIoU"] == pytest.approx(iou.mean(), abs=5e-5)
    assert (found["split"], found["pictures"], found["views"]) == ("inputs", 2, ["identity"])
    assert found["seen"] == {"train": [], "val": []}


def test_a_picture_of_training_is_known_again_by_its_content(land, scenes):
    shutil.copy(land.parent / "seen.tif", scenes / "pictures" / "another.tif")
    shutil.copy(scenes / "labels" / "scene_1.tif", scenes / "labels" / "another.tif")
    found = evaluate(
        f"evaluate.checkpoint={land}", f"evaluate.inputs={scenes}/pictures", f"evaluate.labels={scenes}/labels"
    )
    assert found["seen"] == {"train": ["another"], "val": ["another"]}, "blocks of that scene are in both"
    log = Path("log.txt").read_text()
    assert "1 of the 3 were trained on, at least in part, and their scores say nothing about new pictures: anot" in log
    assert (
        f"labels are read as in the training of {land}: dataset.label_mapping {{7: 'light', 9: 'dark', 255: 'ignore'}}"
        in log
    )


def test_pictures_without_a_label_are_told_and_the_names_of_settings_are_those_of_the_file(land, scenes, capsys):
    named = [f"evaluate.checkpoint={land}", f"evaluate.inputs={scenes}/pictures"]
    shutil.copy(scenes / "pictures/scene_0.tif", scenes / "pictures/bare.tif")
    found = evaluate(*named, f"evaluate.labels={scenes}/labels")
    assert found["left_out"] == "1 pictures are left out: 1 without a label, such as bare"
    enabled = ["evaluate.enable=true", "paths.runs_root=other", *named]
    (scenes / "none").mkdir()
    for labels, message in (
        ("none", "evaluate.labels: no label in"),
        ("gone", "evaluate.labels: .*gone: no such file or folder"),
    ):
        assert main.main([*enabled, f"evaluate.labels={scenes}/{labels}"]) == 3
        assert re.search(message, capsys.readouterr().err)
    assert main.main(enabled) == 2
    assert "evaluate.inputs and evaluate.labels: only one is set" in capsys.readouterr().err


def test_labels_of_other_names_are_told_with_words_that_work(land, scenes, capsys):
    """The advice is taken as a shell takes it, which strips a pair of quotes."""
    for path in sorted((scenes / "labels").iterdir()):
        path.rename(path.with_name(f"{path.stem}_gt.tif"))
    named = [f"evaluate.checkpoint={land}", f"evaluate.inputs={scenes}/pictures", f"evaluate.labels={scenes}/labels"]
    assert main.main(["evaluate.enable=true", *named]) == 3
    said = capsys.readouterr().err
    assert "labels such as scene_0_gt.tif are named after pictures" in said
    [advised] = shlex.split(re.search(r"on a command line: (\".*?\")", said)[1])
    assert evaluate(*named, advised)["pictures"] == 2
    unquoted = advised.replace("'", "")
    assert main.main(["evaluate.enable=true", *named, unquoted]) == 2
    [quoted] = shlex.split(re.search(r"on a command line: (\".*\")", capsys.readouterr().err)[1])
    assert quoted == advised


def test_evaluate_after_training_scores_what_its_settings_name(tmp_path):
    """In one process, where the task itself would be kept; training does not see the other pictures."""
    write_pictures(tmp_path / "new")
    new = tmp_path / "new"
    task, context = example_task(tmp_path, *SMALL, f"evaluate.inputs={new}/pictures", f"evaluate.labels={new}/labels")
    for phase in ("prepare", "train", "evaluate"):
        load_phase(phase)(task, context)
    found = read_json(context.folder / "evaluate_inputs" / "metrics.json")
    assert (found["pictures"], found["metrics"]["support"]) == (2, 64 * 64 + 64 * 96 - 128)


@pytest.fixture(scope="module")
def foxes(tmp_path_factory) -> Path:
    """The checkpoint of a training on drawn animals, with its data gone."""
    folder = tmp_path_factory.mktemp("foxes") / "old"
    settings = (
        "train.epochs=2",
        "keypoints.decoder=soft_argmax",
        "keypoints.oks_sigmas=0.2",
        "keypoints.min_score=0.0",
    )
    checkpoint = train(animals_example, folder, *settings)
    shutil.rmtree(folder)
    return checkpoint


@pytest.fixture
def animals(tmp_path, monkeypatch) -> Path:
    """Pictures of new animals, with labels in a folder of their own."""
    shutil.copytree(drawn_animals(), tmp_path / "drawn")
    (tmp_path / "pictures").mkdir()
    content = json.loads((tmp_path / "drawn/annotations/val.json").read_text())
    for picture in content["images"]:
        shutil.copy(tmp_path / "drawn" / "images" / picture["file_name"], tmp_path / "pictures")
    (tmp_path / "labels.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_animals_are_scored_from_a_checkpoint_alone_as_by_hand(foxes, animals):
    found = evaluate(f"evaluate.checkpoint={foxes}", "evaluate.inputs=pictures", "evaluate.labels=labels.json")
    predict = ["inference.enable=true", f"inference.checkpoint={foxes}", "inference.inputs=pictures"]
    assert main.main([*predict, "inference.output_dir=out"]) == 0
    truth = read_poses(animals / "drawn" / "annotations", root=animals / "drawn")["val"]
    scores = PoseScores(7, truth.skeletons["fox"].flip_idx, 0.2)
    for picture in truth.pictures:
        [frame] = read_json(animals / "out" / f"{picture.path.stem}.json")["frames"]
        true = [(animal.keypoints, animal.box_xyxy, animal.area, animal.is_crowd) for animal in picture.instances]
        scores.update(true, [(pose_array(animal), animal["score"]) for animal in frame["instances"]], picture.id)
    by_hand = scores.compute()
    for name in ("mean_error_px", "median_error_px", "weighted_PCK", "PCK@16px", "OKS_AP", "OKS_AR", "labelled"):
        assert found["metrics"][name] == pytest.approx(by_hand[name], rel=5e-5), name
    assert found["seen"] == {"train": [], "val": [f"val_{index:03}" for index in range(4)]}
    kept = load_checkpoint(foxes).description["keypoints"]
    assert (kept["decoder"], kept["oks_sigmas"], kept["category"]) == ("soft_argmax", 0.2, None)


def test_pictures_whose_labels_cannot_be_read_whole_are_named_with_the_score(foxes, animals):
    content = json.loads(Path("labels.json").read_text())
    content["annotations"][0]["keypoints"][0] = "x"
    first = content["annotations"][0]["image_id"]
    Path("labels.json").write_text(json.dumps(content))
    shutil.copy("pictures/val_003.png", "pictures/bare.png")
    named = [f"evaluate.checkpoint={foxes}", "evaluate.inputs=pictures", "evaluate.labels=labels.json"]
    lost = next(Path(picture["file_name"]).stem for picture in content["images"] if picture["id"] == first)
    for times in (1, 2):  # also when nothing is to do
        found = evaluate(*named)
        assert found["pictures"] == 3
        assert found["left_out"] == (
            "2 pictures are left out: 1 without a label that can be read, such as pictures/bare.png; "
            f"1 whose labels cannot be read or used whole, such as {lost}"
        )
        told = f"{found['metrics']['weighted_PCK']:.4f} does not count all pictures: {found['left_out']}"
        assert Path("log.txt").read_text().count(told) == times


def test_a_problem_of_the_labels_is_named_once_in_a_run_without_verify(foxes, animals, capsys):
    content = json.loads(Path("labels.json").read_text())
    content["annotations"][0]["keypoints"][0] = "x"
    Path("labels.json").write_text(json.dumps(content))
    evaluate(f"evaluate.checkpoint={foxes}", "evaluate.inputs=pictures", f"evaluate.labels={animals}/labels.json")
    captured = capsys.readouterr()
    told = [line for line in (captured.out + captured.err).splitlines() if " in the labels: " in line]
    assert len(told) == 1
    assert "1 problem in the labels: " in told[0]
    assert "labels.json" in told[0]
    assert "verify" not in told[0]


@pytest.mark.parametrize("labels", ["all", "train"])
def test_lost_labels_of_a_source_without_splits_are_told_of_every_split_that_is_drawn(labels):
    source = pose_task().source
    (train, val), skeletons = source.labels.sets.values(), source.categories()
    val.pictures[1].extra["incomplete"] = True
    lost = "left out: 1 whose labels cannot be read or used whole, such as images/val_001"
    assert (source.left_out("train"), source.left_out("val")) == ("", f"1 pictures are {lost}")
    source.labels.sets = {labels: AnnotationSet([*train.pictures, *val.pictures], skeletons)}
    for split in ("train", "val"):
        assert source.left_out(split) == f"1 pictures of the whole label set are {lost}"
    assert source.left_out("test") == ""  # no test list, no picture of it


@pytest.mark.parametrize("format", ["yolo", "labelme", "coco", "deeplabcut", "cvat", "fiftyone"])
def test_labels_of_every_format_give_the_same_score(format, foxes, animals):
    named = [f"evaluate.checkpoint={foxes}", "evaluate.pictures=0"]
    expected = evaluate(*named, "evaluate.labels=labels.json", "evaluate.inputs=pictures")["metrics"]
    shutil.rmtree("runs")
    converted = read_poses(animals / "drawn" / "annotations", root=animals / "drawn")["val"]
    convert_labels({"all": converted}, animals / format, format)
    found = evaluate(*named, f"evaluate.labels={format}")
    assert found["pictures"] == 4
    names = ["labelled", "instances"]  # without boxes, as in DeepLabCut, animals have another size, by which they match
    names += ["missed", "mean_error_px", "weighted_PCK"] if format != "deeplabcut" else []
    for name in names:
        assert found["metrics"][name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.parametrize("inputs", ["copies/day 1", "copies", "[copies/day 1]"])
def test_copies_of_pictures_are_scored_with_the_words_that_the_refusal_tells(inputs, foxes, animals, capsys):
    shutil.copytree("pictures", "copies/day 1")
    named = [f"evaluate.checkpoint={foxes}", f"evaluate.inputs={inputs}", "evaluate.labels=drawn/annotations/val.json"]
    assert main.main(["evaluate.enable=true", *named]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "4 inputs have the names of such pictures, but lie in another folder: write " in told
    words = shlex.split(told.partition("another folder: write ")[2].partition(" after the command")[0])
    assert words[0] == f"paths.data_root={animals.resolve()}/copies/day 1"
    assert evaluate(named[0], *words)["pictures"] == 4


def reorder_keypoints(content: dict[str, Any], first: str, point: list[float] | None = None) -> None:
    """List the keypoints the other way round, behind the first one, which may get another name and place."""
    names = content["categories"][0]["keypoints"]
    content["categories"] = [{"id": 1, "name": "vixen", "keypoints": [first, *names[:0:-1]]}]
    for animal in content["annotations"]:
        rows = np.reshape(animal["keypoints"], (-1, 3))
        animal["keypoints"] = np.concatenate([[point or rows[0]], rows[:0:-1]]).ravel().tolist()


def test_keypoints_are_those_of_the_checkpoint_by_name(foxes, animals):
    """Labels in another order give the same score; a name that they lack is not scored, and said."""
    named = [f"evaluate.checkpoint={foxes}", "evaluate.inputs=pictures", "evaluate.labels=labels.json"]
    before = evaluate(*named)["metrics"]["per_keypoint"]
    original = Path("labels.json").read_text()
    content = json.loads(original)
    name = content["categories"][0]["keypoints"][0]
    reorder_keypoints(content, name)
    Path("labels.json").write_text(json.dumps(content))
    assert evaluate(*named)["metrics"]["per_keypoint"] == before
    content = json.loads(original)
    reorder_keypoints(content, "whisker", [9, 9, 2])
    Path("labels.json").write_text(json.dumps(content))
    after = evaluate(*named)["metrics"]["per_keypoint"]  # with a point less, animals may be matched in another way
    assert after["labelled"] == [0, *before["labelled"][1:]]
    told = f"the labels lack {name}; the checkpoint does not predict whisker; these keypoints are not scored"
    assert told in Path("log.txt").read_text()


def test_a_check_of_a_checkpoint_alone_needs_no_labels_of_training(land, foxes, scenes, animals, capsys):
    named = (f"evaluate.inputs={scenes}/pictures", f"evaluate.labels={scenes}/labels")
    assert main.main(["--check", "evaluate.enable=true", f"evaluate.checkpoint={land}", *named]) == 0
    assert "head and classes are those of the checkpoint; 2 classes: dark, light" in capsys.readouterr().out
    named = ("evaluate.inputs=pictures", "evaluate.labels=labels.json")
    assert main.main(["--check", "evaluate.enable=true", f"evaluate.checkpoint={foxes}", *named]) == 0
    assert "evaluate: to do: 4 items, at most 4 windows" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_a_test_split_that_the_labels_name_needs_no_list(tmp_path):
    """In data.yaml, with an absolute path that paths.data_root does not replace."""
    shutil.copytree(drawn_animals(), tmp_path / "animals")
    sets = read_poses(tmp_path / "animals" / "annotations", root=tmp_path / "animals")
    both = sets["val"]
    sets = {"train": sets["train"], "val": replace(both, pictures=both.pictures[:1])}
    sets["test"] = replace(both, pictures=both.pictures[1:])
    convert_labels(sets, tmp_path / "set", "yolo")
    spec = tmp_path / "set" / "data.yaml"
    spec.write_text(spec.read_text().replace("path: .", f"path: {tmp_path}/set"))
    shutil.copytree(tmp_path / "set", tmp_path / "animals", dirs_exist_ok=True)  # the same splits below data_root
    named = (f"paths.label_path={spec}", "evaluate.split=test", "evaluate.enable=true")
    task, context = animals_example(tmp_path, *named)
    task.preflight(["prepare", "train", "evaluate"])
    for phase in ("prepare", "train", "evaluate"):
        load_phase(phase)(task, context)
    found = read_json(context.folder / "evaluate_test" / "metrics.json", checksum=True)
    assert (found["pictures"], found["split"]) == (3, "test")
    assert {item.sources[0].parents[1] for item in task.source.items("test")} == {tmp_path / "set" / "images"}
