"""Scenes: the same pixels whatever the window, exact grids, nothing made of nothing, and clear refusals."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from utils.errors import DataError, SettingsError
from utils.raster import scenes as rasters
from utils.raster.files import check_scene, turn_upright, write_raster
from utils.raster.gdal import HANDLES, OPEN_FILES
from utils.raster.grids import apply_transform
from utils.raster.header import read_header
from utils.raster.scaling import ValueScaling
from utils.raster.scaling_estimate import estimate_scaling, share_outside
from utils.raster.scene_paths import find_scenes
from utils.raster.scenes import NEUTRAL_COLOUR, RasterScene, reflect_index
from utils.raster.tiling import Window

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "data"
PLACE = {"crs": "EPSG:32636", "transform": Affine(2, 0, 500_000, 0, -3, 10_000)}

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def random_windows(generator: np.random.Generator, height: int, width: int, count: int = 25) -> list[Window]:
    """Windows of any size, most of which stick out somewhere."""
    sizes = generator.integers(1, 70, (count, 2))
    starts = generator.integers(-60, (height + 40, width + 40), (count, 2))
    return [Window(int(y), int(x), int(h), int(w)) for (y, x), (h, w) in zip(starts, sizes, strict=True)]


def reflected(image: np.ndarray, margin: int) -> np.ndarray:
    return np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")


# ------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize("scale", [1, 0.5, 0.37, 2.3, 1.6, 0.61])
def test_every_window_shows_the_same_pixels(tmp_path, generator, scale):
    """Overlapping windows agree bit for bit, nodata and reflection included."""
    values = generator.normal(0, 50, (83, 121, 3)).astype(np.float32)
    values[20:40, 30:50] = np.nan
    values[0, 0] = -9999
    write_raster(tmp_path / "a.tif", values, nodata=-9999, **PLACE, tiled=True, blockxsize=16, blockysize=32)
    scaling = ValueScaling((-100,) * 3, (100,) * 3)
    scene = RasterScene(tmp_path / "a.tif", scale=scale, scaling=scaling)
    whole, whole_valid = scene.read(Window(0, 0, scene.height, scene.width))
    margin = 24
    around = reflected(whole, margin)
    around_valid = np.pad(whole_valid, margin)
    assert 0.5 < whole_valid.mean() < 1
    assert (whole[~whole_valid] == NEUTRAL_COLOUR).all()
    for window in random_windows(generator, scene.height, scene.width):
        image, valid = scene.read(window)
        assert image.shape == (window.height, window.width, 3)
        assert image.dtype == np.uint8
        common = window.intersection(Window(-margin, -margin, scene.height + 2 * margin, scene.width + 2 * margin))
        if common is not None:
            there, here = common.shifted(margin, margin), common.shifted(-window.y, -window.x)
            np.testing.assert_array_equal(image[here.rows, here.columns], around[there.rows, there.columns])
            np.testing.assert_array_equal(valid[here.rows, here.columns], around_valid[there.rows, there.columns])


def test_a_scene_smaller_than_a_window_is_reflected_again_and_again(tmp_path):
    write_raster(tmp_path / "a.tif", np.uint8([[1, 2, 3]]))
    image, valid = RasterScene(tmp_path / "a.tif").read(Window(-1, -3, 3, 10))
    assert image[:, :, 0].tolist() == [[2, 3, 2, 1, 2, 3, 2, 1, 2, 3]] * 3
    assert reflect_index(-3, 10, 3).tolist() == [1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    assert valid.sum() == 3
    assert valid[1, 3:6].all()


def test_what_is_read_can_be_changed_without_harm(tmp_path, generator):
    write_raster(tmp_path / "a.png", generator.integers(0, 256, (8, 9, 3), dtype=np.uint8))
    scene = RasterScene(tmp_path / "a.png")
    first, valid = scene.read(Window(0, 0, 8, 9))
    kept = first.copy()
    first[:], valid[:] = 0, False
    again, still_valid = scene.read(Window(0, 0, 8, 9))
    np.testing.assert_array_equal(again, kept)
    assert still_valid.all()


def test_chunks_of_a_large_window_do_not_show(tmp_path, generator, monkeypatch):
    write_raster(tmp_path / "a.tif", generator.integers(0, 256, (90, 70, 3), dtype=np.uint8))
    scene = RasterScene(tmp_path / "a.tif", scale=0.43)
    window = Window(0, 0, scene.height, scene.width)
    whole = scene.read(window)[0]
    monkeypatch.setattr(rasters, "_CHUNK_PIXELS", 500)
    np.testing.assert_array_equal(scene.read(window)[0], whole)


@pytest.mark.parametrize("scale", [0.5, 0.31, 0.77, 1.5, 3.2])
def test_scaling_does_not_shift_the_ground(tmp_path, scale):
    """A raster that holds its own coordinates still holds them after scaling; the outer corners stay."""
    height, width = 61, 97
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    values = np.stack([2 * x, -3 * y, x * 0], axis=-1).astype(np.float32)
    write_raster(tmp_path / "a.tif", values, **PLACE)
    scene = RasterScene(tmp_path / "a.tif", scale=scale)
    full = RasterScene(tmp_path / "a.tif")
    assert scene.grid.bounds == pytest.approx(full.grid.bounds, abs=1e-9)
    assert abs(scene.height - height * scale) <= 0.5
    read, _ = scene.read_values(Window(0, 0, scene.height, scene.width))
    columns, rows = np.meshgrid(np.arange(scene.width) + 0.5, np.arange(scene.height) + 0.5)
    map_x, map_y = apply_transform(scene.transform, columns, rows)
    inner = np.s_[2:-2, 2:-2] if scale < 1 else np.s_[4:-4, 4:-4]
    error_x = (read[..., 0] - (map_x - 500_000))[inner] / 2
    error_y = (read[..., 1] - (map_y - 10_000))[inner] / 3
    for error in (error_x, error_y):  # in pixels of the file
        assert abs(error.mean()) < 0.01
        assert np.abs(error).max() < (0.26 if scale < 1 else 1e-4)


def test_halving_takes_the_mean_of_the_valid_pixels(tmp_path, generator):
    values = generator.integers(1, 1000, (12, 20), dtype=np.uint16)
    values[4:6, 8:10] = [[0, 0], [0, 7]]
    values[0:2, 0:2] = [[0, 0], [10, 30]]
    write_raster(tmp_path / "a.tif", values, nodata=0)
    means, valid = RasterScene(tmp_path / "a.tif", scale=0.5).read_values(Window(0, 0, 6, 10))
    expected = values.reshape(6, 2, 10, 2).mean(axis=(1, 3))
    assert (means[0, 0, 0], valid[0, 0], valid[2, 4]) == (20, True, False)
    expected[0, 0], expected[2, 4] = 20, 0
    np.testing.assert_array_equal(means[:, :, 0], expected)


# ------------------------------------------------------------------------------------------------ bands, types, nodata


def test_bands_are_chosen_in_order_and_counted_over_files(tmp_path, generator):
    first, second = generator.integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    write_raster(tmp_path / "a.tif", first, **PLACE)
    write_raster(tmp_path / "b.tif", second[:, :, :1], **PLACE)
    scene = RasterScene([tmp_path / "a.tif", tmp_path / "b.tif"], bands=[4, 1, 3, 4])
    image, _ = scene.read(Window(0, 0, 5, 6))
    expected = np.stack([second[..., 0], first[..., 0], first[..., 2], second[..., 0]], axis=-1)
    np.testing.assert_array_equal(image, expected)
    assert RasterScene([tmp_path / "a.tif", tmp_path / "b.tif"]).num_bands == 4
    assert RasterScene(tmp_path / "b.tif").num_bands == 3  # grey makes three colours
    with pytest.raises(DataError, match=r"dataset.bands asks for \[5, 0\], but the scene has bands 1 to 4"):
        _ = RasterScene([tmp_path / "a.tif", tmp_path / "b.tif"], bands=[1, 5, 0]).num_bands
    with pytest.raises(SettingsError, match="two bands make no colour picture"):
        _ = RasterScene(tmp_path / "a.tif", bands=[1, 2]).num_bands


def test_files_of_a_scene_must_share_their_grid(tmp_path):
    write_raster(tmp_path / "a.tif", np.zeros((4, 6), np.uint8), **PLACE)
    write_raster(
        tmp_path / "b.tif", np.zeros((4, 6), np.uint8), crs=PLACE["crs"], transform=Affine(2, 0, 500_001, 0, -3, 10_000)
    )
    write_raster(tmp_path / "c.tif", np.zeros((4, 6), np.uint8), crs="EPSG:32635", transform=PLACE["transform"])
    with pytest.raises(DataError, match=r"b\.tif: not on the grid of .*a\.tif: outer corners up to 0\.5 pixels apart"):
        _ = RasterScene([tmp_path / "a.tif", tmp_path / "b.tif"]).height
    with pytest.raises(DataError, match="CRS EPSG:32635 against EPSG:32636"):
        _ = RasterScene([tmp_path / "a.tif", tmp_path / "c.tif"]).height


def test_a_fourth_band_that_is_asked_for_is_a_colour(tmp_path):
    """GDAL takes near infrared for opacity where a file of four 8-bit bands does not say better."""
    pixels = np.uint8([[[9, 8, 7, 0], [6, 5, 4, 3]]])
    profile = {"driver": "GTiff", "height": 1, "width": 2, "count": 4, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))
    assert RasterScene(tmp_path / "a.tif").num_bands == 3
    image, valid = RasterScene(tmp_path / "a.tif", bands=[4, 1, 2]).read(Window(0, 0, 1, 2))
    assert image[0].tolist() == [[0, 9, 8], [3, 6, 5]]
    assert valid.all()


def test_unsigned_nodata_counts_in_all_bands_and_others_in_any(tmp_path):
    unsigned = np.uint8([[[0, 0, 0], [0, 9, 9], [255, 1, 0]]])
    write_raster(tmp_path / "u.tif", unsigned, nodata=0)
    image, valid = RasterScene(tmp_path / "u.tif").read(Window(0, 0, 1, 3))
    assert valid[0].tolist() == [False, True, True]
    assert image[0].tolist() == [list(NEUTRAL_COLOUR), [0, 9, 9], [255, 1, 0]]
    signed = np.int16([[[-1, -1, -1], [-1, 9, 9], [5, 1, 0]]])
    write_raster(tmp_path / "s.tif", signed, nodata=-1)
    _, valid = RasterScene(tmp_path / "s.tif", scaling=ValueScaling.identity(3)).read(Window(0, 0, 1, 3))
    assert valid[0].tolist() == [False, False, True]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -3.4e38])
def test_no_number_never_leaks(tmp_path, value):
    pixels = np.full((6, 6, 4), 7, np.float32)
    pixels[2:4, 2:4, 3] = value
    nodata = float(np.float32(-3.4e38))
    write_raster(tmp_path / "a.tif", pixels, nodata=nodata)
    for scale in (1, 0.5, 2):
        scene = RasterScene(tmp_path / "a.tif", scale=scale, scaling=ValueScaling((0,) * 4, (16,) * 4))
        image, valid = scene.read(Window(-1, -1, scene.height + 2, scene.width + 2))
        assert valid.sum() == (36 - 4) * scale**2
        assert set(np.unique(image[1:-1, 1:-1][valid[1:-1, 1:-1]])) == {112}
        assert image[1 + scene.height // 2, 1 + scene.width // 2].tolist() == [*NEUTRAL_COLOUR, 128]


def test_alpha_masks_and_palettes_hide_pixels(tmp_path):
    colours = np.uint8([[[9, 8, 7, 255], [1, 2, 3, 0]]])
    write_raster(tmp_path / "alpha.png", colours)
    write_raster(tmp_path / "grey.tif", colours[:, :, 2:], alpha=True)
    write_raster(tmp_path / "palette.png", np.uint8([[3, 5]]), palette={3: (9, 8, 7, 255), 5: (1, 2, 3, 0)})
    write_raster(tmp_path / "mask.tif", colours[:, :, :3])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "mask.tif", "r+") as dataset:
        dataset.write_mask(np.array([[255, 0]], dtype=np.uint8))
    for name, first in (
        ("alpha.png", [9, 8, 7]),
        ("grey.tif", [7, 7, 7]),
        ("palette.png", [9, 8, 7]),
        ("mask.tif", [9, 8, 7]),
    ):
        scene = RasterScene(tmp_path / name)
        assert scene.num_bands == 3, name
        image, valid = scene.read(Window(0, 0, 1, 2))
        assert (image[0].tolist(), valid[0].tolist()) == ([first, list(NEUTRAL_COLOUR)], [True, False]), name


def test_wide_types_need_a_scaling_and_complex_is_refused(tmp_path):
    write_raster(tmp_path / "a.tif", np.zeros((2, 3), np.uint16))
    with pytest.raises(DataError, match="values are uint16, a picture needs 8 bits"):
        RasterScene(tmp_path / "a.tif").read(Window(0, 0, 2, 3))
    write_raster(tmp_path / "c.tif", np.zeros((2, 3), np.complex64))
    with pytest.raises(DataError, match="complex numbers"):
        _ = RasterScene(tmp_path / "c.tif").height
    assert "complex" in check_scene(tmp_path / "c.tif")[0]


@pytest.mark.parametrize("options", [{"scale": 0}, {"scale": 17}])
def test_senseless_settings_are_refused(options):
    with pytest.raises(SettingsError, match="expected 1/256 to 16"):
        RasterScene("a.tif", **options)


@pytest.mark.parametrize("name", ["a.tif", "a.vrt", "a.jp2", "a.png", "a.webp", "a.bmp", "a.jpg"])
def test_every_format_reads_in_windows(tmp_path, generator, name):
    x, y = np.meshgrid(np.arange(90), np.arange(70))
    pixels = np.stack([x * 2, y * 3, x + y], axis=-1).astype(np.uint8)
    exact = {"a.webp": {"LOSSLESS": True}, "a.jp2": {"QUALITY": 100, "REVERSIBLE": True}, "a.jpg": {"QUALITY": 98}}
    if name == "a.vrt":
        write_raster(tmp_path / "source.tif", pixels, **PLACE)
        text = "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">source.tif'
            f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        (tmp_path / name).write_text(f'<VRTDataset rasterXSize="90" rasterYSize="70">{text}</VRTDataset>')
    else:
        write_raster(tmp_path / name, pixels, **exact.get(name, {}))
    assert check_scene(tmp_path / name) == []
    image, valid = RasterScene(tmp_path / name).read(Window(30, 40, 20, 30))
    difference = np.abs(image.astype(int) - pixels[30:50, 40:70].astype(int))
    assert difference.max() <= (6 if name == "a.jpg" else 0)
    assert valid.all()


# ------------------------------------------------------------------------------------------------ photos


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_as_viewers_show_it(tmp_path, orientation):
    from PIL import ImageOps

    x, y = np.meshgrid(np.arange(64), np.arange(32))
    picture = Image.fromarray(np.stack([x * 3, y * 7, x * 0], axis=-1).astype(np.uint8))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", exif=exif, quality=98)
    with Image.open(tmp_path / "a.jpg") as stored:
        shown = np.asarray(ImageOps.exif_transpose(stored))
    scene = RasterScene(tmp_path / "a.jpg")
    assert (scene.height, scene.width) == shown.shape[:2]
    image, _ = scene.read(Window(0, 0, scene.height, scene.width))
    assert np.abs(image.astype(int) - shown.astype(int)).max() <= 3
    assert turn_upright(np.zeros((2, 3)), orientation).shape == ((2, 3) if orientation < 5 else (3, 2))


# ------------------------------------------------------------------------------------------------ processes


def read_sum(arguments: tuple[RasterScene, Window]) -> tuple[int, int]:
    """The sum of a window's pixels, and the bound of GDAL's cache in the process that read them."""
    scene, window = arguments
    return int(scene.read(window)[0].sum()), rasterio._env.get_gdal_config("GDAL_CACHEMAX")


@pytest.mark.parametrize(("method", "processes"), [("fork", 2), ("spawn", 1)])
def test_scenes_cross_processes_while_files_are_open(tmp_path, generator, method, processes, monkeypatch):
    """A forked process must not read through the handle of its parent, whose file position it would share."""
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    pixels = generator.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    write_raster(tmp_path / "a.tif", pixels, tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    scene = RasterScene(tmp_path / "a.tif")
    windows = [Window(int(y), int(x), 60, 60) for y, x in generator.integers(0, 196, (60, 2))]
    expected = [(int(pixels[window.rows, window.columns].sum()), 64 * 2**20) for window in windows]
    assert scene.read(windows[0])[0].sum() == expected[0][0]
    with multiprocessing.get_context(method).Pool(processes) as pool:
        sums = pool.map_async(read_sum, [(scene, window) for window in windows], chunksize=3)
        assert [read_sum((scene, window))[0] for window in windows] == [pixel_sum for pixel_sum, _ in expected]
        assert sums.get(timeout=60) == expected


def test_threads_read_at_once(tmp_path, generator):
    pixels = generator.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    write_raster(tmp_path / "a.tif", pixels, tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    write_raster(tmp_path / "a.png", pixels)
    scenes = [RasterScene(tmp_path / name) for name in ("a.tif", "a.png")]
    windows = [Window(int(y), int(x), 50, 50) for y, x in generator.integers(0, 78, (80, 2))]
    with ThreadPoolExecutor(4) as pool:
        for scene in scenes:
            images = pool.map(lambda window, scene=scene: scene.read(window)[0], windows)
            for window, image in zip(windows, images, strict=True):
                np.testing.assert_array_equal(image, pixels[window.rows, window.columns])


def test_open_files_are_few_and_can_be_closed(tmp_path):
    def count() -> int:
        return sum(
            os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path))
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        )

    scenes = []
    for index in range(40):
        write_raster(tmp_path / f"{index}.tif", np.full((4, 4), index, np.uint8))
        scenes.append(RasterScene(tmp_path / f"{index}.tif"))
    assert [int(scene.read(Window(0, 0, 1, 1))[0][0, 0, 0]) for scene in scenes] == list(range(40))
    assert 0 < count() <= OPEN_FILES
    HANDLES.close([str(scenes[-1].paths[0])])
    before = count()
    HANDLES.close()
    assert (before, count()) == (OPEN_FILES - 1, 0)
    assert pickle.loads(pickle.dumps(scenes[3])).read(Window(0, 0, 1, 1))[0][0, 0, 0] == 3


# ------------------------------------------------------------------------------------------------ scaling


def test_scaling_is_global_seeded_and_without_nodata(tmp_path, generator, monkeypatch):
    monkeypatch.setattr("utils.raster.scaling_estimate._WINDOW_SIZE", 64)
    for name, centre in (("a", 1000), ("b", 3000)):
        values = generator.normal(centre, 100, (300, 300, 3)).astype(np.float32)
        values[:200] = -9999
        values[250, 250] = np.nan
        values[:, :, 2] = np.where(values[:, :, 2] == -9999, -9999, 5)
        write_raster(tmp_path / f"{name}.tif", values, nodata=-9999)
    scenes = [RasterScene(tmp_path / f"{name}.tif") for name in "ab"]
    scaling = estimate_scaling(scenes, (1, 99))
    assert scaling == estimate_scaling(scenes, (1, 99))
    assert scaling.low[0] == pytest.approx(1000 - 205, abs=25)
    assert scaling.high[0] == pytest.approx(3000 + 205, abs=25)
    assert (scaling.low[2], scaling.high[2]) == (5, 6)  # a constant band
    assert estimate_scaling(scenes, value_range=(0, 10)) == ValueScaling((0,) * 3, (10,) * 3)
    assert ValueScaling.from_json(scaling.to_json()) == scaling
    with pytest.raises(SettingsError, match="percentiles: expected two shares"):
        estimate_scaling(scenes, (99, 1))


def test_eight_bits_stay_and_scenes_must_agree(tmp_path):
    write_raster(tmp_path / "a.png", np.full((4, 4), 9, np.uint8))
    write_raster(tmp_path / "b.tif", np.full((4, 4, 4), 9, np.uint8))
    write_raster(tmp_path / "c.tif", np.zeros((4, 4), np.uint16), nodata=0)
    assert estimate_scaling([RasterScene(tmp_path / "a.png")]).is_identity
    with pytest.raises(DataError, match=r"a\.png: 3, .*b\.tif: 4; set dataset.bands"):
        estimate_scaling([RasterScene(tmp_path / name) for name in ("a.png", "b.tif")])
    with pytest.raises(DataError, match="no valid pixel"):
        estimate_scaling([RasterScene(tmp_path / "c.tif")])


@pytest.mark.parametrize(("low", "high"), [((0,), (0,)), ((0,), (1, 2)), ((), ()), ((float("nan"),), (1,))])
def test_a_scaling_that_makes_no_sense_is_refused(low, high):
    with pytest.raises(SettingsError, match="value scaling"):
        ValueScaling(low, high)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64", "int32"])
def test_scaling_equals_its_formula(generator, dtype):
    values = generator.integers(0, 200, (5, 6, 2)).astype(dtype)
    scaled = ValueScaling((10, 0), (150, 100)).apply(values)
    expected = np.clip((values.astype(float) - [10, 0]) / [140, 100], 0, 1) * 255
    assert np.abs(scaled - expected).max() <= 0.501


# ------------------------------------------------------------------------------------------------ real data


@pytest.mark.real_data
@needs_real_data
def test_real_scenes_open_and_read():
    paths = find_scenes([REAL / "geo_buildings" / "scenes", REAL / "geo_landsat" / "landsat_multiband.tif"])
    assert len(paths) == 8
    assert [problem for path in paths for problem in check_scene(path)] == []
    scene = RasterScene(paths[-1])
    scene = RasterScene(paths[-1], scaling=estimate_scaling([scene]))
    image, valid = scene.read(Window(0, 0, scene.height, scene.width))
    assert image.shape == (443, 489, 5)
    assert 0.8 < valid.mean() < 0.9  # the corners are nodata, -99999
    assert image[valid].min(axis=0).tolist() == [0] * 5
    assert image[valid].max(axis=0).tolist() == [255] * 5


@pytest.mark.real_data
@needs_real_data
def test_four_files_make_one_real_scene():
    folder = REAL / "geo_sentinel2"
    scene = RasterScene([folder / f"B0{band}.tif" for band in (4, 3, 2, 8)])
    assert (scene.height, scene.width, scene.num_bands, scene.crs.to_epsg()) == (2201, 2629, 4, 4326)
    image, _ = scene.read(Window(1000, 1000, 64, 64))
    for channel, band in enumerate((4, 3, 2, 8)):
        with rasterio.open(folder / f"B0{band}.tif") as dataset:
            expected = dataset.read(1, window=rasterio.windows.Window(1000, 1000, 64, 64))
        np.testing.assert_array_equal(image[:, :, channel], expected)


@pytest.mark.real_data
@needs_real_data
def test_half_scale_of_a_real_scene_is_gdals_average():
    path = REAL / "geo_buildings" / "scenes" / "2_kampala_2.tif"
    scene = RasterScene(path, scale=0.5)
    image, _ = scene.read(Window(100, 200, 64, 64))
    with rasterio.open(path) as dataset:
        full = dataset.read(window=rasterio.windows.Window(400, 200, 128, 128)).astype(float)
    means = full.reshape(3, 64, 2, 64, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    assert np.abs(image - means).max() <= 0.5
    assert read_header(path).tiled


def test_a_scaling_keeps_what_kind_of_values_it_was_found_in(tmp_path):
    for name, dtype in (("a", np.uint8), ("b", np.uint16), ("c", np.float32)):
        write_raster(tmp_path / f"{name}.tif", np.arange(64, dtype=dtype).reshape(8, 8))
    found = {name: estimate_scaling([RasterScene(tmp_path / f"{name}.tif")]) for name in "abc"}
    assert [found[name].kind for name in "abc"] == ["8-bit", "integer", "float"]
    assert ValueScaling.from_json(found["b"].to_json()).kind == "integer"
    assert ValueScaling.from_json({"low": [0], "high": [9]}).kind is None  # a checkpoint from before
    assert ValueScaling.from_json({"low": [0], "high": [255]}).kind == "8-bit"
    given = estimate_scaling([RasterScene(tmp_path / "a.tif")], value_range=(0, 255))
    assert given.kind is None  # whoever gives the range answers for the values


def test_the_share_outside_a_scaling_is_that_of_valid_values(tmp_path):
    values = np.full((4, 4), 5, np.int16)
    values[0] = -1
    values[1] = 900
    write_raster(tmp_path / "a.tif", values, nodata=-1)
    assert share_outside(RasterScene(tmp_path / "a.tif"), ValueScaling((0,) * 3, (9,) * 3)) == pytest.approx(1 / 3)
