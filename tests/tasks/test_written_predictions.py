"""What inference writes opens in the readers that people have, and gives the scores that evaluate gives."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyogrio
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rio_cogeo import cog_validate

from tasks.example import example_context, example_task
from tasks.frame_sink import FrameSink
from tasks.item import Item, Piece
from tasks.keypoints.example import animals_example
from tasks.phases import load_phase
from tests.tasks.example_runs import SMALL
from tests.utils.formats.test_other_readers import assert_labelme_opens
from utils.errors import DataError

ODD = ["a\nb", "a\rb", "a\tb", "a,b", 'a"b', "a;b", "a!b", "a'b", "a\x1b[2Jb", "#a"]
ASKED = ("keypoints.formats=[coco, labelme]", "keypoints.min_score=0.0")


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> Path:
    """A folder in which a task has trained, and has predicted the pictures of validation."""
    folder = tmp_path_factory.mktemp("animals")
    task, context = animals_example(folder, *ASKED)
    for phase in ("prepare", "train", "inference"):
        load_phase(phase)(task, context)
    return context.folder


def test_pycocotools_scores_the_predictions_as_evaluate_does(tmp_path):
    """Poses near the truth, some points missing, an animal too many and one not found; written as inference writes."""
    task, _ = animals_example(tmp_path, "keypoints.formats=[coco]", "keypoints.oks_sigmas=0.1")
    generator, metric = np.random.default_rng(3), task.output.metric()
    items, truth = task.source.items("inference"), {item.picture.path: item for item in task.source.items("val")}
    for item in items:
        sink, true = task.output.sink(item, tmp_path, {}), truth[item.picture.path]
        poses = [animal.keypoints.copy() for animal in true.picture.instances]
        poses = [*poses[1:], *poses[-1:]] if len(poses) > 2 else poses
        for pose in poses:
            pose[:, :2] += generator.normal(0, 4, (7, 2))
            pose[generator.random(7) < 0.2, :2] = np.nan
        scores = generator.random(len(poses)).round(6)
        found = {"frame": 0, "keypoints": np.stack(poses), "scores": scores, "spread": np.ones((len(poses), 7))}
        metric.update(Piece(true, found), true.picture.instances)
        sink.append(Piece(item, found))
        sink.flush()
        sink.close()
    [file] = task.output.write_summary(items, tmp_path)
    labels = COCO(str(tmp_path / "animals" / "annotations" / "val.json"))
    theirs = COCOeval(labels, labels.loadRes(str(file)), "keypoints")
    theirs.params.kpt_oks_sigmas = np.full(7, 0.1)
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    ours = metric.compute()
    assert 0.1 < ours["OKS_AP"] < 0.95
    assert theirs.stats[[0, 5]] == pytest.approx([ours["OKS_AP"], ours["OKS_AR"]], abs=5e-5)


def test_without_labels_of_the_pictures_the_file_is_whole(animals, tmp_path):
    """Pictures that no labels name, and the frames of a video."""
    source, new = animals.parent / "animals", tmp_path / "new"
    new.mkdir()
    shutil.copy(source / "images" / "val_001.png", new / "fresh.png")
    shutil.copy(source / "chase.mp4", new)
    task, _ = animals_example(animals.parent, *ASKED, f"inference.inputs={new}", f"inference.output_dir={tmp_path}/out")
    load_phase("inference")(task, example_context(animals))
    coco = COCO(str(tmp_path / "out" / "predictions_coco.json"))
    assert {image["file_name"] for image in coco.imgs.values()} == {"fresh.png", "chase.mp4"}
    assert {image.get("frame") for image in coco.imgs.values()} >= {None, 0, 3}
    assert {(image["height"], image["width"]) for image in coco.imgs.values()} == {(192, 256)}
    assert all(annotation["image_id"] in coco.imgs for annotation in coco.anns.values())
    written = json.loads((tmp_path / "out" / "fresh.json").read_text())["frames"][0]["instances"]
    [image] = [image["id"] for image in coco.imgs.values() if image["file_name"] == "fresh.png"]
    poses = [np.reshape(found["keypoints"], (-1, 3)) for found in coco.loadAnns(coco.getAnnIds(image))]
    for pose, animal in zip(poses, written, strict=True):
        points = [point or [0, 0] for point in animal["keypoints_xy"]]
        assert np.allclose(pose[:, :2], points)
        assert set(pose[:, 2]) <= {0, 2}
    assert load_phase("inference")(task, example_context(animals)).status == "up to date", "its own files are known"


def test_labelme_opens_the_predictions(animals):
    files = sorted((animals / "predictions").glob("*.labelme.json"))
    assert len(files) == 4
    for file in files:
        assert_labelme_opens(file)


def test_maps_are_cloud_optimised(tmp_path):
    task, context = example_task(tmp_path, *SMALL, "inference.format=cog", "inference.confidence=true")
    for phase in ("prepare", "train", "inference"):
        load_phase(phase)(task, context)
    files = sorted((context.folder / "predictions").glob("*.tif"))
    assert len(files) == 2
    for file in files:
        valid, errors, _ = cog_validate(file)
        assert valid, errors


def copies(source: Path, folder: Path) -> list[Path]:
    """Copies of a picture under odd names, and one under a name that is no UTF-8."""
    folder.mkdir()
    paths = [folder / f"{name}{source.suffix}" for name in ODD]
    for path in paths:
        shutil.copy(source, path)
    shutil.copy(source, os.fsencode(folder) + b"/\xffb" + os.fsencode(source.suffix))
    return paths


def test_poses_of_oddly_named_pictures_are_written_in_every_format(animals, tmp_path):
    copies(animals.parent / "animals" / "images" / "val_001.png", tmp_path / "odd")
    formats = "keypoints.formats=[csv, json, coco, labelme]"
    where = (f"inference.inputs={tmp_path}/odd", f"inference.output_dir={tmp_path}/out")
    task, _ = animals_example(animals.parent, *ASKED, formats, *where)
    result = load_phase("inference")(task, example_context(animals))
    (failure,) = result.failures
    assert failure.endswith("\\udcffb.png: its name is not UTF-8, which is expected; rename the file")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", lineterminator=None)
    assert sorted(set(table["picture"])) == sorted(f"{name}.png" for name in ODD)
    coco = COCO(str(tmp_path / "out" / "predictions_coco.json"))
    assert sorted(image["file_name"] for image in coco.imgs.values()) == sorted(f"{name}.png" for name in ODD)
    assert {f"{name}.labelme.json" for name in ODD} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_pictures_that_are_named_by_numbers_keep_their_names_in_pandas(animals, tmp_path):
    source = animals.parent / "animals" / "images" / "val_001.png"
    (tmp_path / "new").mkdir()
    for name in ("000000000009", "12"):
        shutil.copy(source, tmp_path / "new" / f"{name}.png")
    where = (f"inference.inputs={tmp_path}/new", f"inference.output_dir={tmp_path}/out")
    task, _ = animals_example(animals.parent, *ASKED, "keypoints.formats=[csv]", *where)
    load_phase("inference")(task, example_context(animals))
    assert set(pd.read_csv(tmp_path / "out" / "predictions.csv")["picture"]) == {"000000000009.png", "12.png"}


def test_maps_and_polygons_of_oddly_named_pictures_are_written(tmp_path):
    task, context = example_task(tmp_path, *SMALL)
    for phase in ("prepare", "train"):
        load_phase(phase)(task, context)
    copies(tmp_path / "pictures" / "scene_0.tif", tmp_path / "odd")
    where = (f"inference.inputs={tmp_path}/odd", f"inference.output_dir={tmp_path}/out")
    task, _ = example_task(tmp_path, *SMALL, *where, "inference.polygons={enable: true}")
    result = load_phase("inference")(task, context)
    (failure,) = result.failures
    assert "its name is not UTF-8" in failure
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"{name}_classes.tif" for name in ODD} <= written
    polygons = {path for path in (tmp_path / "out").glob("*.gpkg")}
    assert len(polygons) == len(ODD)
    for path in polygons:
        plain = tmp_path / "plain.gpkg"
        shutil.copy(path, plain)
        assert pyogrio.read_info(plain, layer="classes")["features"] > 0


def test_pictures_that_no_list_can_name_are_refused_before_work(animals, tmp_path):
    shutil.copytree(animals.parent / "animals", tmp_path / "animals")
    labels = tmp_path / "animals" / "annotations"
    content = json.loads((labels / "train.json").read_text())
    old = content["images"][0]["file_name"]
    content["images"][0]["file_name"] = "odd\nname.png"
    (labels / "train.json").write_text(json.dumps(content))
    (labels / "val.json").unlink()
    (tmp_path / "animals" / "images" / old).rename(tmp_path / "animals" / "images" / "odd\nname.png")
    task, context = animals_example(tmp_path, "paths.label_path=annotations/train.json")
    with pytest.raises(DataError, match=r"odd\\nname': expected a name in UTF-8 of one line"):
        load_phase("prepare")(task, context)


@pytest.mark.parametrize("buffered", [True, False])
def test_a_disk_that_is_full_of_frames_is_told_with_the_file(buffered, tmp_path):
    class Numbers(FrameSink):
        to_json = staticmethod(lambda piece: piece.arrays)
        close = FrameSink.flush

    sink = Numbers(Item("clip", ()), tmp_path, {})
    sink.file = open("/dev/full", "w", buffering=-1 if buffered else 1)  # noqa: SIM115 - the sink closes it
    if buffered:
        sink.append(Piece(sink.item, {"frame": 0}))
    write = sink.flush if buffered else lambda: sink.append(Piece(sink.item, {"frame": 0}))
    with pytest.raises(OSError, match="No space left on device") as caught:
        write()
    assert caught.value.filename == str(tmp_path / ".clip.part.jsonl")
