"""Ensembles with another model's objects: each strategy equals a case computed by hand, through the phases too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch

from tasks.example import example_task
from tasks.phases import evaluate, inference, prepare, train
from tasks.sample import Sample
from tasks.segmentation.ensemble import Ensemble
from tasks.segmentation.ensemble_settings import EnsembleConfig
from tasks.segmentation.items import SceneItem
from tasks.segmentation.predictor import DensePredictor
from tasks.segmentation.settings import SegmentationSettings
from utils.errors import DataError
from utils.masks.ensemble import ScoredMask, blend, score_maps, suppress, vote, with_background
from utils.raster.tiling import Window

SIZE = (4, 8)


def rectangle(index: int, score: float, top: int, left: int, height: int, width: int) -> ScoredMask:
    return ScoredMask(index, score, slice(top, top + height), slice(left, left + width), np.ones((height, width), bool))


def probabilities(*objects: tuple[int, float, int, int, int, int]) -> np.ndarray:
    """Three classes: 0 with .8, and rectangles of others with a probability; what is left is shared by the others."""
    found = np.zeros((3, *SIZE), np.float32)
    found[0], found[1:] = 0.8, 0.1
    for index, value, top, left, height, width in objects:
        part = found[:, top : top + height, left : left + width]
        part[:], part[index] = (1 - value) / 2, value
    return found


def test_weighted_is_the_weighted_mean_of_both():
    ours = probabilities((1, 0.6, 0, 0, 4, 4))
    theirs = with_background(score_maps([rectangle(2, 0.9, 0, 2, 4, 4)], 3, SIZE), 0)
    joined = blend(ours, theirs, 0.6, 0.4)
    # columns 0, 2, 4, 6: ours alone with their background 1; both; theirs over our background; background of both
    expected = [
        [0.6 * 0.2 + 0.4, 0.6 * 0.2 + 0.4 * 0.1, 0.6 * 0.8 + 0.4 * 0.1, 0.6 * 0.8 + 0.4],
        [0.6 * 0.6, 0.6 * 0.6, 0.6 * 0.1, 0.6 * 0.1],
        [0.6 * 0.2, 0.6 * 0.2 + 0.4 * 0.9, 0.6 * 0.1 + 0.4 * 0.9, 0.6 * 0.1],
    ]
    assert joined[:, 1, ::2] == pytest.approx(np.array(expected), abs=1e-6)


def test_without_a_background_pixels_of_no_object_keep_our_probabilities():
    ours = probabilities()
    theirs = with_background(score_maps([rectangle(2, 0.5, 0, 0, 4, 2)], 3, SIZE), None)
    joined = blend(ours, theirs, 0.6, 0.4)
    assert (joined[:, :, 2:] == ours[:, :, 2:]).all()
    assert joined[:, 0, 0] == pytest.approx([0.8 * 0.8, 0.8 * 0.1, 0.8 * 0.1 + 0.4 * 0.5])  # it counts by its score


def test_voting_takes_the_surer_class():
    ours = probabilities((1, 0.6, 0, 0, 4, 4))
    objects = [rectangle(2, 0.5, 0, 0, 4, 2), rectangle(2, 0.9, 0, 2, 4, 4), rectangle(1, 0.7, 0, 6, 4, 2)]
    joined = vote(ours, with_background(score_maps(objects, 3, SIZE), None))
    assert joined.argmax(axis=0)[0].tolist() == [1, 1, 2, 2, 2, 2, 0, 0]  # .6 > .5, .9 > .6, .9 > .8, .8 > .7
    assert joined.max(axis=0)[0] == pytest.approx([0.6, 0.6, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8])


@pytest.mark.parametrize(("score", "drawn"), [(0.9, [0, 1, 1, 1, 1, 0, 0, 0]), (0.3, [1, 1, 1, 1, 0, 0, 0, 0])])
def test_suppression_keeps_the_surer_of_two_objects_that_cover_each_other(score, drawn):
    ours = probabilities((1, 0.6, 0, 0, 4, 4))
    moved = rectangle(1, score, 0, 1, 4, 4)  # shares 3 of 5 columns
    joined = suppress(ours, [moved], 0, 0.6)
    assert joined.argmax(axis=0)[2].tolist() == drawn
    both = suppress(ours, [moved], 0, 0.61)
    assert both.argmax(axis=0)[2].tolist() == [1, 1, 1, 1, 1, 0, 0, 0], "an overlap below iou leaves both"
    other = suppress(ours, [moved._replace(label=2)], 0, 0.5)
    assert set(other.argmax(axis=0)[2, 1:4].tolist()) == {2 if score > 0.6 else 1}, "the surer is on top"


@pytest.mark.parametrize("strategy", ["weighted", "voting", "nms"])
def test_blocks_of_a_picture_are_joined_as_the_whole_is(strategy):
    settings = SegmentationSettings(dataset={"unlabelled": "a"})
    ensemble = Ensemble(settings, EnsembleConfig(predictions="x", strategy=strategy), ["a", "b", "c"])
    objects = [rectangle(1, 0.7, 1, 1, 3, 5), rectangle(2, 0.9, 0, 3, 2, 4)]
    ensemble.objects = lambda item: objects
    logits = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    item = SceneItem("a", (), "a", Window(0, 0, *SIZE), 4, 4, (0, 4))
    predictor = DensePredictor(3, 4, ensemble=ensemble)
    predictor.start(item)
    pieces = []
    for x in (0, 4):
        sample = Sample(str(x), item, {"image": np.zeros((4, 4, 3), np.uint8)}, Window(0, x, 4, 4))
        pieces += predictor.push([sample], {"logits": logits[..., x : x + 4]})
    pieces += predictor.finish()
    found = np.full(SIZE, 99)
    for piece in pieces:
        found[piece.window.rows, piece.window.columns] = piece.arrays["classes"]
    whole = ensemble.join(torch.softmax(logits, dim=1)[0].numpy(), objects, Window(0, 0, *SIZE))
    assert (found == whole.argmax(axis=0)).all()


def predictions_of(folder: Path, name: str, category: str, score: float | None) -> str:
    """A COCO file with one object in a picture: its upper left quarter."""
    height, width = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED).shape[:2]
    x, y = width / 2, height / 2
    found = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, x, y], "segmentation": [[0, 0, x, 0, x, y, 0, y]]}
    content = {
        "images": [{"id": 1, "file_name": name, "height": height, "width": width}],
        "annotations": [found | ({} if score is None else {"score": score})],
        "categories": [{"id": 1, "name": category}],
    }
    (folder / "other.json").write_text(json.dumps(content))
    return str(folder / "other.json")


def test_inference_joins_both_models_and_a_change_of_the_other_is_seen(tmp_path):
    alone, context = example_task(tmp_path)
    prepare.run(alone, context)
    train.run(alone, context)
    inference.run(alone, context)
    (path,) = (context.folder / "predictions").glob("scene_0*.tif")
    before = rasterio.open(path).read(1)
    other = predictions_of(tmp_path / "pictures", "scene_0.tif", "light", 1.0)
    setting = f"inference.ensemble={{predictions: {other}, strategy: voting}}"
    task, _ = example_task(tmp_path, setting)
    task.preflight(["inference"])
    assert inference.run(task, context).status == "done"
    height, width = before.shape
    expected = before.copy()
    expected[: height // 2, : width // 2] = 1
    assert (rasterio.open(path).read(1) == expected).all()
    assert inference.run(task, context).status == "up to date"
    predictions_of(tmp_path / "pictures", "scene_0.tif", "dark", 1.0)
    again, _ = example_task(tmp_path, setting)
    assert inference.run(again, context).status == "done"
    assert (rasterio.open(path).read(1)[: height // 2, : width // 2] == 0).all()


def test_predictions_may_lie_elsewhere_than_their_pictures(tmp_path):
    example_task(tmp_path)
    other = Path(predictions_of(tmp_path / "pictures", "scene_0.tif", "light", 0.9))
    (tmp_path / "models").mkdir()
    other = other.rename(tmp_path / "models" / "other.json")
    task, _ = example_task(tmp_path, f"inference.ensemble={{predictions: {other}}}")
    task.preflight(["inference"])


@pytest.mark.parametrize(
    ("name", "category", "score", "told"),
    [
        ("scene_0.tif", "boat", 0.9, "boat is no class; known: dark, light"),
        ("scene_0.tif", "light", None, "no object has a score"),
        ("scene_0.tif", "light", 87.0, "1 scores are not from 0 to 1, such as 87"),
        ("scene_1.tif", "light", 0.9, "holds nothing of any of 1 pictures, such as .*scene_0.tif"),
    ],
)
def test_predictions_that_cannot_be_used_are_refused_before_work(tmp_path, name, category, score, told):
    example_task(tmp_path)
    other = predictions_of(tmp_path / "pictures", name, category, score)
    task, _ = example_task(tmp_path, f"inference.ensemble={{predictions: {other}}}")
    with pytest.raises(DataError, match=told):
        task.preflight(["inference"])


def test_predictions_of_named_pictures_need_not_be_of_those_of_the_training(tmp_path):
    example_task(tmp_path)
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "pictures" / "scene_1.tif", tmp_path / "new" / "other.tif")
    (tmp_path / "labels" / "other.tif").write_bytes((tmp_path / "labels" / "scene_1.tif").read_bytes())
    other = predictions_of(tmp_path / "new", "other.tif", "light", 0.9)
    named = (
        f"evaluate={{inputs: {tmp_path}/new/other.tif, labels: {tmp_path}/labels, ensemble: {{predictions: {other}}}}}"
    )
    task, _ = example_task(tmp_path, named)
    task.preflight(["evaluate"])
    trained, _ = example_task(tmp_path, f"evaluate.ensemble={{predictions: {other}}}")
    with pytest.raises(DataError, match=r"^evaluate\.ensemble\.predictions: .*holds nothing of any of 2 pictures"):
        trained.preflight(["evaluate"])


def test_a_block_of_a_picture_is_not_joined_with_objects_of_the_whole(tmp_path):
    blocks = "dataset.splits.block_tiles=1"
    task, context = example_task(tmp_path, blocks)
    prepare.run(task, context)
    train.run(task, context)
    scene = task.source.items("val")[0].sources[0].name
    other = predictions_of(tmp_path / "pictures", scene, "light", 0.9)
    scored, _ = example_task(tmp_path, blocks, f"evaluate.ensemble={{predictions: {other}}}")
    with pytest.raises(DataError, match=r"a part of a picture, and .* holds objects of whole ones"):
        evaluate.run(scored, context)
