"""Files of the sample: labels agree with what is drawn, and files are made once, alike, and never over others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.warp import transform as warp_points

from utils.errors import DataError
from utils.media.videos import VideoReader
from utils.runtime.files import digest_file, read_json
from utils.samples import files
from utils.samples.files import LABEL_CRS, SCENE_CRS, SCENES, write_foxes, write_land
from utils.samples.world import CLASSES, draw_land, draw_photo

SIZE = (192, 256)
SMALL = {"train": 3, "val": 1, "frames": 3, "size": (128, 160)}
MAKERS = [
    lambda folder, **changes: write_land(folder, **{"size": (128, 128), **changes}),
    lambda folder, **changes: write_foxes(folder, **{**SMALL, **changes}),
]
BOTH = pytest.mark.parametrize("make", MAKERS, ids=["land", "foxes"])


@pytest.fixture(scope="module")
def land(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("land")
    write_land(folder, size=SIZE)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("index", "scene"), list(enumerate(SCENES)))
def test_label_polygons_agree_with_the_drawn_classes_to_the_pixel(land, index, scene):
    meta, _, shapes, (classes,) = pyogrio.raw.read(land / SCENES[scene])
    assert meta["crs"] == LABEL_CRS
    metres = shapely.transform(
        shapely.from_wkb(shapes), lambda points: np.stack(warp_points(LABEL_CRS, SCENE_CRS, *points.T), axis=1)
    )
    with rasterio.open(land / scene) as source:
        image, transform = np.moveaxis(source.read(), 0, -1), source.transform
        assert (source.crs.to_string(), source.nodata, source.res) == (SCENE_CRS, 0, (0.5, 0.5))
    codes = [CLASSES.index(name) for name in classes]
    burnt = rasterize(list(zip(metres, codes, strict=True)), SIZE, fill=255, transform=transform)
    drawn, areas, _ = draw_land(7, index, SIZE)
    shapes = [(area.shape, CLASSES.index(area.name)) for area in areas if area.name in CLASSES]
    assert np.array_equal(image, drawn)
    assert (burnt == rasterize(shapes, SIZE, fill=255)).mean() >= 0.999


def test_scenes_do_not_share_ground(land):
    with rasterio.open(land / "scenes/north.tif") as north, rasterio.open(land / "scenes/south.tif") as south:
        assert north.bounds.right < south.bounds.left
    _, _, shapes, _ = pyogrio.raw.read(land / "labels.gpkg")
    _, _, unseen, _ = pyogrio.raw.read(land / "unseen/labels.gpkg")
    assert not shapely.union_all(shapely.from_wkb(shapes)).intersects(shapely.union_all(shapely.from_wkb(unseen)))


def test_coco_labels_are_those_of_the_drawn_foxes(tmp_path):
    write_foxes(tmp_path, **SMALL)
    coco = read_json(tmp_path / "annotations" / "train.json")
    grounds = enumerate(("grass", "pebbles", "sand"))
    drawn = [draw_photo(np.random.default_rng([7, 0, index]), (128, 160), ground) for index, ground in grounds]
    foxes = [(number, fox) for number, (_, objects) in enumerate(drawn, 1) for fox in objects]
    assert len(coco["annotations"]) == len(foxes)
    for label, (image_id, fox) in zip(coco["annotations"], foxes, strict=True):
        x, y, width, height = label["bbox"]
        assert (label["image_id"], [x, y, x + width, y + height]) == (image_id, fox.box_xyxy.tolist())
        keypoints = np.reshape(label["keypoints"], (-1, 3))
        assert np.array_equal(keypoints, np.column_stack([fox.keypoints, fox.visibility]))
        assert label["num_keypoints"] == (fox.visibility > 0).sum()
        polygons = [shapely.Polygon(np.reshape(part, (-1, 2))) for part in label["segmentation"]]
        filled = rasterize(polygons, (128, 160)) > 0
        assert label["area"] == fox.mask.sum()
        assert filled[fox.mask].all()  # a polygon of COCO knows no holes, so it may cover a little more
        assert filled.sum() <= 1.1 * fox.mask.sum()
    with rasterio.open(tmp_path / "images" / "train_002.png") as picture:
        assert np.array_equal(np.moveaxis(picture.read(), 0, -1), drawn[2][0])
    assert VideoReader(tmp_path / "chase.mp4").count_frames() == 3


@BOTH
def test_same_seed_same_files_and_another_seed_others(tmp_path, make):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        make(tmp_path / name, seed=seed)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    pictures = [name for name in first if name.endswith((".tif", ".png", ".mp4", ".gpkg"))]
    assert all(first[name] != other[name] for name in pictures)


@BOTH
def test_a_whole_sample_is_left_alone_and_a_broken_one_made_again(tmp_path, make):
    make(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    make(tmp_path)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    whole, names = digests(tmp_path), sorted(read_json(tmp_path / "sample.json")["files"])
    (tmp_path / names[0]).write_bytes((tmp_path / names[0]).read_bytes()[:-100])
    (tmp_path / names[-1]).unlink()
    make(tmp_path)
    assert digests(tmp_path) == whole


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}'])
def test_a_foreign_description_does_not_stop_the_sample(tmp_path, content):
    (tmp_path / "sample.json").write_text(content)
    write_land(tmp_path, size=(128, 128))
    assert read_json(tmp_path / "sample.json")["size"] == [128, 128]


def test_files_of_somebody_else_are_not_drawn_over(tmp_path):
    (tmp_path / "labels.gpkg").write_text("of somebody")
    with pytest.raises(DataError, match=r"labels\.gpkg: is there already, and not of the sample"):
        write_land(tmp_path, size=(128, 128))
    assert [path.name for path in tmp_path.iterdir()] == ["labels.gpkg"]
    assert (tmp_path / "labels.gpkg").read_text() == "of somebody"


def test_an_interrupted_sample_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_features", stop)
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    with pytest.raises(KeyboardInterrupt):
        write_land(tmp_path, size=(128, 128))
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == before
    assert json.loads((tmp_path / "sample.json").read_text())["files"] == {}
    monkeypatch.undo()
    write_land(tmp_path, size=(128, 128))
    assert (tmp_path / "labels.gpkg").exists()


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the sample could not be written \(.+\); free space"):
        write_foxes(tmp_path / "file" / "deep", **SMALL)


@BOTH
def test_too_small_a_size_is_refused(tmp_path, make):
    with pytest.raises(ValueError, match="at least 128 pixels"):
        make(tmp_path, size=(100, 300))
    assert not list(tmp_path.iterdir())
