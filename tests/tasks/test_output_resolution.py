"""Maps on the grid of the picture, pixel for pixel, whatever `dataset.scale` the model works at."""

from __future__ import annotations

import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine

from tasks.example import example_task
from tasks.phases import evaluate, inference, prepare, train
from tasks.phases.prediction import predict
from tasks.phases.samples import LiveSamples
from tasks.trained import TrainedTask
from tests.tasks.example_runs import SMALL, spoken
from utils.errors import Interrupted
from utils.geometry.augment import IDENTITY
from utils.report.plots import draw_class_map
from utils.runtime import distributed
from utils.runtime.files import read_json

HALF = (*SMALL, "dataset.scale=0.5", "prepare.tile_size=16", "train.epochs=3")
GRIDS = {
    "north up": Affine(0.5, 0, 500000, 0, -0.5, 5500000),
    "south up": Affine(0.5, 0, 500000, 0, 0.5, 5500000),
    "rotated": Affine(0.4, 0.3, 500000, 0.3, -0.4, 5500000),
}


def write_picture(path: Path, size: tuple[int, int], transform: Affine | None, hole: slice | None = None) -> np.ndarray:
    """Dark and light blots of some pixels and noise; 0 in all bands, which is nodata, in the hole. Gives the blots."""
    generator = np.random.default_rng(3)
    blots = generator.integers(0, 2, (size[0] // 16 + 1, size[1] // 16 + 1)).repeat(16, 0).repeat(16, 1)
    blots = blots[: size[0], : size[1]]
    image = (60 + 120 * blots + generator.integers(0, 20, (3, *size))).astype(np.uint8)
    if hole is not None:
        image[:, hole, hole] = 0
    place = {"crs": "EPSG:32632", "transform": transform} if transform else {}
    profile = {"count": 3, "height": size[0], "width": size[1], "dtype": "uint8", "nodata": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", **profile, **place) as raster:
            raster.write(image)
    return blots


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    task, context = example_task(folder, *HALF)
    prepare.run(task, context)
    train.run(task, context)
    return folder


def infer(folder: Path, picture: Path, out: Path, *overrides: str):
    """Predict a picture with the model of a folder."""
    places = (f"inference.inputs={picture}", f"inference.output_dir={out}", "inference.confidence=true")
    return example_task(folder, *HALF, *places, *overrides)


def read(path: Path):
    with rasterio.open(path) as raster:
        return raster.read(1), raster.transform, raster.crs


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_the_map_lies_on_the_picture_pixel_for_pixel(name, trained, tmp_path):
    picture = tmp_path / "picture.tif"
    blots = write_picture(picture, (97, 131), GRIDS[name], hole=slice(41, 64))
    task, context = infer(trained, picture, tmp_path / "out", "inference.polygons.enable=true")
    inference.run(task, context)
    classes, transform, crs = read(tmp_path / "out" / "picture_classes.tif")
    confidence, *place = read(tmp_path / "out" / "picture_classes_confidence.tif")
    assert classes.shape == confidence.shape == (97, 131)
    assert (transform, crs) == (GRIDS[name], "EPSG:32632")
    assert place == [transform, crs]
    hole = np.zeros((97, 131), bool)
    hole[41:64, 41:64] = True
    assert np.array_equal(classes == 255, hole), "nothing but the nodata of the picture, at odd pixels too"
    assert np.array_equal(confidence == 255, hole)
    assert (classes == blots)[~hole].mean() > 0.9
    _, _, shapes, (indices, *_) = pyogrio.raw.read(tmp_path / "out" / "picture_classes.gpkg", layer="classes")
    shapes = shapely.from_wkb(shapes)
    centres = [(transform @ (x + 0.5, y + 0.5), classes[y, x]) for y, x in ((3, 5), (50, 100), (96, 0), (20, 130))]
    for (x, y), value in centres:
        assert indices[shapely.contains_xy(shapes, x, y)].tolist() == [value]
    assert shapely.area(shapes).sum() == pytest.approx((~hole).sum() * abs(transform.determinant))


def test_the_model_grid_is_a_choice_and_the_same_without_a_scale(trained, tmp_path):
    picture = tmp_path / "picture.tif"
    write_picture(picture, (97, 131), GRIDS["north up"])
    task, context = infer(trained, picture, tmp_path / "model", "inference.output_resolution=model")
    inference.run(task, context)
    coarse, transform, _ = read(tmp_path / "model" / "picture_classes.tif")
    assert coarse.shape == (49, 66)
    assert transform @ (66, 49) == pytest.approx(GRIDS["north up"] @ (131, 97)), "all outer corners stay"
    fine, context = infer(trained, picture, tmp_path / "source")
    inference.run(fine, context)
    classes, *_ = read(tmp_path / "source" / "picture_classes.tif")
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in ((97, 49), (131, 66)))
    nearest = coarse[np.ix_(rows, columns)]
    assert (classes == nearest).mean() > 0.9, "only edges are finer"
    # at scale 1 both write the same bytes
    files = {}
    for choice in ("source", "model"):
        folder = tmp_path / f"plain_{choice}"
        plain, context = example_task(folder, *SMALL, f"inference.output_resolution={choice}")
        prepare.run(plain, context)
        train.run(plain, context)
        inference.run(plain, context)
        files[choice] = read(context.folder / "predictions" / "scene_0_classes.tif")
    assert np.array_equal(files["source"][0], files["model"][0])
    assert files["source"][1:] == files["model"][1:]


def test_a_stopped_inference_and_bands_of_ranks_give_the_map_of_an_unbroken_one(trained, tmp_path, monkeypatch):
    picture = tmp_path / "picture.tif"
    write_picture(picture, (150, 101), GRIDS["rotated"], hole=slice(60, 90))
    whole, context = infer(trained, picture, tmp_path / "whole", "inference.batch_size=1")
    total = []
    inference.run(whole, replace(context, check_stop=lambda: total.append(None)))
    assert len(total) > 20
    names = ("picture_classes.tif", "picture_classes_confidence.tif")
    expected = [read(tmp_path / "whole" / name) for name in names]
    for stop in range(3, len(total), 6):
        out = tmp_path / f"cut_{stop}"
        cut, _ = infer(trained, picture, out, "inference.batch_size=1")
        asked = []

        def check_stop(asked=asked, stop=stop):
            asked.append(None)
            if len(asked) == stop:
                raise Interrupted(signal.SIGINT)

        with pytest.raises(Interrupted):
            inference.run(cut, replace(context, check_stop=check_stop))
        assert not list(out.glob("*.tif"))
        inference.run(cut, context)
        for name, (values, *place) in zip(names, expected, strict=True):
            found, *there = read(out / name)
            assert np.array_equal(found, values)
            assert there == place
        shutil.rmtree(out)
    task, model, _ = evaluate.restore(infer(trained, picture, tmp_path / "bands")[0], None, context, "inference")
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    bands = task.source.partition(task.source.items("inference"))
    monkeypatch.undo()
    assert [band[0].rows[0] for band in bands] == [0, *(band[0].rows[1] for band in bands[:-1])]
    assert bands[-1][0].rows[1] == 150
    assert len({band[0].rows for band in bands}) == 3
    classes = np.zeros((150, 101), np.uint8)
    for band in bands:
        given = predict(task, model.eval(), LiveSamples(task, [IDENTITY]), [band], "cpu", 4, context)
        for _, piece in given:
            if piece is not None:
                there = piece.window.rows, piece.window.columns
                classes[there] = np.where(piece.arrays["valid"], piece.arrays["classes"], 255)
    assert np.array_equal(classes, expected[0][0])


def test_a_photo_its_overlay_and_a_picture_in_memory_have_the_photos_size(trained, tmp_path):
    picture = tmp_path / "photo.tif"
    write_picture(picture, (70, 90), None)
    task, context = infer(trained, picture, tmp_path / "out")
    inference.run(task, context)
    classes, *_ = read(tmp_path / "out" / "photo_classes.tif")
    overlay, *_ = read(tmp_path / "out" / "photo_overlay.png")
    assert classes.shape == (70, 90)
    with rasterio.open(picture) as raster:
        image = np.moveaxis(raster.read(), 0, 2)
    drawn = draw_class_map(image, classes, task.output._palette())
    assert np.array_equal(overlay[:70], drawn[..., 0])
    assert overlay.shape[1] == 90
    assert (overlay[70:] == 0).any(), "lines below name the classes and say that the score is in doubt"
    restored, model, _ = evaluate.restore(task, None, context, "inference")
    found = np.zeros((70, 90), np.uint8)
    for piece in TrainedTask(restored, model).predict(image):
        found[piece.window.rows, piece.window.columns] = piece.arrays["classes"]
    assert np.array_equal(found, classes)


def test_scores_stay_those_of_the_models_grid_which_is_named(trained):
    runs = []
    context, log = spoken(trained)
    for choice in ("source", "model"):
        task, _ = example_task(trained, *HALF, f"inference.output_resolution={choice}")
        runs.append(evaluate.run(task, context).status)
        assert all(item.output is None for item in task.source.items("val"))
    assert runs == ["done", "up to date"]
    assert "count pixels that are the model's, after dataset.scale: the side of one is 2 pixels" in log.read_text()
    metrics = read_json(context.folder / "evaluate_val" / "metrics.json", checksum=True)
    assert metrics["grid"]["scale"] == 0.5
    [item] = task.source.items("val")
    scene = task.source.scenes.scene(item.sources)
    assert (scene.height * 2, scene.width * 2) == (scene.file_grid.height, scene.file_grid.width)
    assert 0 < metrics["metrics"]["support"] <= item.area.height * item.area.width
