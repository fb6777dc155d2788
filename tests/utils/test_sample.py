import json
import time

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.warp import transform as warp_points

from utils.errors import DataError
from utils.files import digest_file
from utils.sample import (
    CLASSES,
    IGNORE_INDEX,
    LABEL_CRS,
    SCENE_CRS,
    draw_scene,
    fixed_date,
    make_sample,
    plan_ground,
    rasterize_patches,
    scene_transform,
)

SIZE = (192, 256)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("sample"), size=SIZE)


def read_labels(path):
    """Class names, and shapes in metres of the scenes' CRS."""
    meta, _, shapes, (classes,) = pyogrio.raw.read(path)
    assert meta["crs"] == LABEL_CRS

    def to_metres(points):
        return np.stack(warp_points(LABEL_CRS, SCENE_CRS, points[:, 0], points[:, 1]), axis=1)

    return classes.tolist(), [shapely.transform(shape, to_metres) for shape in shapely.from_wkb(shapes)]


@pytest.mark.parametrize(("index", "scene"), [(0, "scenes/north.tif"), (1, "scenes/south.tif"), (2, "unseen/east.tif")])
def test_labels_agree_with_the_drawn_classes_to_the_pixel(sample, index, scene):
    classes, shapes = read_labels(sample.unseen_labels if index == 2 else sample.labels)
    with rasterio.open(sample.folder / scene) as source:
        image, transform = source.read(), source.transform
    burnt = rasterize(
        [(shape, CLASSES.index(name)) for name, shape in zip(classes, shapes, strict=True)],
        SIZE,
        fill=IGNORE_INDEX,
        transform=transform,
        dtype=np.uint8,
    )
    _, drawn, class_map = draw_scene(7, index, SIZE)
    assert (burnt == class_map).mean() >= 0.995
    assert np.array_equal(np.moveaxis(image, 0, -1), drawn)


def test_default_size_has_every_class_nodata_corners_and_an_unlabelled_site_in_seconds():
    start = time.process_time()
    patches, image, class_map = draw_scene(7, 0, (768, 1024))
    assert time.process_time() - start < 5
    shares = np.bincount(class_map.ravel(), minlength=256) / class_map.size
    assert (shares[: len(CLASSES)] > 0.02).all()
    nodata = (image == 0).all(axis=-1)
    assert 0.005 < nodata.mean() < 0.08
    assert nodata[0, -1] or nodata[0, 0]
    assert (class_map[nodata] == IGNORE_INDEX).all()
    unlabelled = (class_map == IGNORE_INDEX) & ~nodata
    assert 0.001 < unlabelled.mean() < 0.05
    assert image[~nodata].min() > 0
    assert all(patch.shape.is_valid for patch in patches)


def test_patches_do_not_overlap_and_leave_no_hole_in_the_footprint():
    patches = plan_ground(np.random.default_rng(3), SIZE)
    union = shapely.union_all([patch.shape for patch in patches])
    assert np.isclose(union.area, sum(patch.shape.area for patch in patches), rtol=1e-6)
    filled = rasterize_patches(patches, SIZE) > 0
    assert filled[SIZE[0] // 8 : -SIZE[0] // 8, SIZE[1] // 8 : -SIZE[1] // 8].all()


def test_colour_alone_is_not_enough_but_says_something():
    """The best class for each coarse colour, learned on one scene, on another: better than chance, far from right."""
    (_, image, target), (_, other, truth) = (draw_scene(7, index, (384, 512)) for index in (0, 1))
    counts = np.zeros((16**3, len(CLASSES)))
    codes = (image // 16).astype(int) @ np.array([256, 16, 1])
    labelled = target != IGNORE_INDEX
    np.add.at(counts, (codes[labelled], target[labelled]), 1)
    weights = counts / counts.sum(axis=0)
    prediction = weights.argmax(axis=1)[(other // 16).astype(int) @ np.array([256, 16, 1])]
    known = truth != IGNORE_INDEX
    recalls = [(prediction[known & (truth == k)] == k).mean() for k in range(len(CLASSES))]
    assert 0.35 < np.mean(recalls) < 0.9


def test_light_differs_across_a_scene():
    _, image, target = draw_scene(7, 0, (384, 512))
    brightness = np.where(target == 0, image.mean(axis=-1), np.nan)
    quarters = [np.nanmean(part) for half in np.split(brightness, 2) for part in np.split(half, 2, axis=1)]
    assert max(quarters) / min(quarters) > 1.1


def test_scenes_have_georeference_and_do_not_share_ground(sample):
    bounds = []
    for path in (*sample.scenes, sample.unseen_scene):
        with rasterio.open(path) as scene:
            assert scene.crs.to_string() == SCENE_CRS
            assert (scene.dtypes[0], scene.nodata, scene.res) == ("uint8", 0, (0.5, 0.5))
            bounds.append(shapely.box(*scene.bounds))
    assert all(not a.intersects(b) for i, a in enumerate(bounds) for b in bounds[:i])
    _, shapes = read_labels(sample.labels)
    assert not any(shape.intersects(bounds[2]) for shape in shapes)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(sample, tmp_path):
    again = make_sample(tmp_path / "again", size=SIZE)
    other = make_sample(tmp_path / "other", seed=8, size=SIZE)
    for path in (*sample.scenes, sample.labels, sample.unseen_scene, sample.unseen_labels):
        name = path.relative_to(sample.folder)
        assert digest_file(again.folder / name) == digest_file(path)
        assert digest_file(other.folder / name) != digest_file(path)


def test_a_whole_sample_is_left_alone_and_a_broken_one_made_again(tmp_path):
    sample = make_sample(tmp_path, size=SIZE)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    make_sample(tmp_path, size=SIZE)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    whole = digest_file(sample.scenes[1])
    sample.scenes[1].write_bytes(sample.scenes[1].read_bytes()[:-100])
    make_sample(tmp_path, size=SIZE)
    assert digest_file(sample.scenes[1]) == whole
    sample.labels.unlink()
    make_sample(tmp_path, size=SIZE)
    assert sample.labels.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}'])
def test_a_foreign_description_does_not_stop_the_sample(tmp_path, content):
    (tmp_path / "sample.json").write_text(content)
    make_sample(tmp_path, size=(128, 128))
    assert json.loads((tmp_path / "sample.json").read_text())["size"] == [128, 128]


def test_files_of_somebody_else_are_not_drawn_over(tmp_path):
    (tmp_path / "labels.gpkg").write_text("of somebody")
    with pytest.raises(DataError, match=r"labels\.gpkg: is there already, and not of the sample"):
        make_sample(tmp_path, size=(128, 128))
    assert [path.name for path in tmp_path.iterdir()] == ["labels.gpkg"]
    assert (tmp_path / "labels.gpkg").read_text() == "of somebody"


def test_an_interrupted_sample_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.sample.write_labels", stop)
    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path, size=(128, 128))
    assert json.loads((tmp_path / "sample.json").read_text())["files"] == {}
    monkeypatch.undo()
    assert make_sample(tmp_path, size=(128, 128)).labels.exists()


def test_too_small_a_scene_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 128 pixels"):
        make_sample(tmp_path, size=(100, 300))


def test_gdal_keeps_its_own_date_afterwards():
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    with fixed_date():
        pass
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == before


def test_pixel_to_metres_has_its_origin_at_the_outer_corner(sample):
    with rasterio.open(sample.scenes[1]) as scene:
        assert scene.transform == scene_transform(1, SIZE)
        assert scene.xy(0, 0) == (scene.bounds.left + 0.25, scene.bounds.top - 0.25)
