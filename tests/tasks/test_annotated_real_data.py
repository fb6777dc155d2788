"""Segmentation of real photos from annotations: docs/configs/photo_coco.yml, and what pycocotools draws of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

import main
from config import load_settings
from tasks import kinds
from tasks.example import tiny_backbone
from tasks.segmentation.task import SegmentationTask
from utils.formats.convert import convert_labels
from utils.formats.drawn_labels import DrawnLabels
from utils.formats.read import read_annotations
from utils.formats.types import AnnotationSet
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.runtime.files import read_json

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT.parent / "shared" / "data" / "photo_coco"
CONFIG = ROOT / "docs" / "configs" / "photo_coco.yml"

pytestmark = pytest.mark.skipif(not PHOTOS.exists(), reason=f"{PHOTOS} is not there")


def words_for(folder: Path, *more: str) -> list[str]:
    """Overrides for a small backbone and files in a folder."""
    paths = [f"paths.{name}={folder}/{name}" for name in ("processed_dir", "runs_root", "splits_dir")]
    small = [f"model.backbone={tiny_backbone()}", "model.layers=[0,1]", "dataset.nodata=[]", "logging.level=error"]
    return [f"paths.data_root={PHOTOS}", *small, *paths, *more]


def photo_task(folder: Path, *more: str) -> SegmentationTask:
    """The task of the settings file, with a small backbone."""
    return SegmentationTask("photos", load_settings(CONFIG, words_for(folder, *more), kinds()).tasks["photos"])


def class_map(task: SegmentationTask, key: str) -> np.ndarray:
    scenes = task.source.scenes
    files = scenes.labelled()[key]
    scene = scenes.scene(files.paths)
    return scenes.labels(files.label).read(scene, Window(0, 0, scene.height, scene.width))


def test_areas_are_those_of_pycocotools_but_for_edges(tmp_path):
    """It counts a pixel by another rule at the edges: areas differ by a part of the outline's length."""
    part = read_annotations(PHOTOS / "instance_segmentation" / "config.yaml", root=PHOTOS)["train"]
    pictures = part.pictures[::3]
    convert_labels({"val": AnnotationSet(pictures, part.skeletons)}, tmp_path, "coco", mode="segmentation")
    theirs = COCO(str(next(tmp_path.rglob("*val.json"))))
    ids = {Path(image["file_name"]).stem: id for id, image in theirs.imgs.items()}
    ours = truth = 0
    for picture in pictures:
        scene = RasterScene(picture.path)
        annotations = theirs.loadAnns(sorted(theirs.getAnnIds(ids[picture.path.stem])))
        assert len(annotations) == len(picture.instances)
        for instance, annotation in zip(picture.instances, annotations, strict=True):
            own = type(picture)(picture.id, picture.path, picture.size, (instance,))
            drawn = DrawnLabels("l", [own], {instance.category: 0}, 1).read(scene, Window(0, 0, *picture.size)) == 0
            mask = theirs.annToMask(annotation).astype(bool)
            length = sum(np.abs(np.diff(ring, axis=0, append=ring[:1])).sum() for ring in instance.polygons)
            assert (drawn ^ mask).sum() <= 0.75 * length + 4, (picture.id, annotation["id"])
            ours, truth = ours + int(drawn.sum()), truth + int(mask.sum())
    assert truth > 1_000_000
    assert ours == pytest.approx(truth, rel=0.01)


def test_photos_with_boxes_only_are_trained_on_and_what_is_in_the_boxes_is_not(tmp_path):
    task = photo_task(tmp_path)
    task.source.prepare_data()
    train, val = (task.source.items(split) for split in ("train", "val"))
    assert (len(train), len(val)) == (96, 32)
    outlined = {path.stem for path in (PHOTOS / "instance_segmentation" / "labels" / "train2017").iterdir()}
    assert sum(item.id.rpartition("/")[2] in outlined for item in train) == 68
    assert all(item.id.rpartition("/")[2] in outlined for item in val)
    label = class_map(task, "images/train2017/000000000540")
    assert set(np.unique(label)) == {0, 255}  # 20 boxes, no outline
    assert 0.05 < (label == 255).mean() < 0.95
    found = [class_map(task, item.id) for item in val]
    assert not any((label == 255).any() for label in found)
    assert len(np.unique(np.concatenate([label.ravel() for label in found]))) == 11


@pytest.mark.parametrize("format", ["coco", "yolo", "labelme", "cvat", "fiftyone", "masks"])
def test_a_copy_in_another_format_gives_the_same_classes(format, tmp_path):
    names = sorted(path.stem for path in (PHOTOS / "instance_segmentation" / "labels" / "train2017").iterdir())[:8]
    chosen = [f"images/train2017/{name}.jpg" for name in names]
    rest = ("dataset.splits={}", "dataset.unlabelled=ignore")  # masks say themselves what is not labelled
    few = (f"paths.raw_images_dir=[{','.join(chosen)}]", *rest, "train.val_fraction=0.3")
    task = photo_task(tmp_path, *few, f"dataset.convert_to={{format: {format}, folder: {tmp_path}/copy}}")
    task.source.prepare_data()
    copied = (f"paths.label_path={tmp_path}/copy", f"paths.data_root={tmp_path}/copy")
    copy = photo_task(tmp_path, *rest, *copied)
    keys = {key.rpartition("/")[2]: key for key in copy.source.scenes.labelled()}
    assert set(keys) == set(names)
    for name in names:
        first, second = class_map(task, f"images/train2017/{name}"), class_map(copy, keys[name])
        assert (first != second).mean() < 0.002, name


def test_the_settings_file_runs_all_phases(tmp_path):
    fast = ("dataset.scale=0.15", "prepare.tile_size=64", "train.epochs=1", "model.head=linear")
    picture = ("inference.enable=true", "inference.inputs=images/train2017/000000000540.jpg")
    assert main.main([str(CONFIG), *words_for(tmp_path, *fast, *picture, "dataset.augmentations.enable=false")]) == 0
    run = next(tmp_path.glob("runs_root/*/latest"))
    assert read_json(run / "evaluate_val" / "metrics.json")["pictures"] == 32
    assert next(run.rglob("000000000540_classes.tif")).is_file()
