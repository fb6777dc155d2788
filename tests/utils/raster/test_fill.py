"""Nodata by band, and fill that no file declares: followed where it is declared, found and reported where it is not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tasks.distill.example import student_task
from tasks.example import example_task, scene_task
from tasks.phases import inference, prepare, train
from utils.errors import DataError
from utils.raster.files import write_raster
from utils.raster.fill import describe_fill, find_fill
from utils.raster.scaling_estimate import estimate_scaling
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "data"
PLACE = {"crs": "EPSG:32631", "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000)}
HEIGHT, WIDTH = 40, 60

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def valid_pixels(scene: RasterScene) -> np.ndarray:
    return scene.read_values(Window(0, 0, scene.height, scene.width))[1]


# ------------------------------------------------------------------------------------------------ declared


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("declared", [(0, 0, None), (None, 0, None), (0, 0, 0), (0, None, -9999), (0, 300.5, np.nan)])
def test_every_band_that_declares_a_nodata_value_decides_in_unsigned_types(tmp_path, generator, dtype, declared):
    """A band that declares none, or a value it cannot hold, is no vote against the others."""
    values = generator.integers(1, 200, (HEIGHT, WIDTH, 3)).astype(dtype)
    values[8:16] = 0
    values[0, 0] = (0, 5, 5)
    values[1, 1] = (5, 5, 0)
    paths = [tmp_path / f"{band}.tif" for band in range(3)]
    for band, path in enumerate(paths):
        write_raster(path, values[..., band], **PLACE)
        if declared[band] is not None:
            (tmp_path / f"{band}.tif.aux.xml").write_text(
                f'<PAMDataset><PAMRasterBand band="1"><NoDataValue>{declared[band]}</NoDataValue></PAMRasterBand>'
                "</PAMDataset>"
            )
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[8:16] = False
    voters = [band for band in range(3) if declared[band] == 0]
    expected[0, 0] = 0 not in voters or len(voters) > 1
    expected[1, 1] = 2 not in voters or len(voters) > 1
    np.testing.assert_array_equal(valid_pixels(RasterScene(paths)), expected)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_any_band_decides_in_signed_and_real_types(tmp_path, generator, dtype):
    values = generator.integers(1, 200, (HEIGHT, WIDTH, 3)).astype(dtype)
    values[3, 4, 1] = -9999
    write_raster(tmp_path / "a.tif", values, nodata=-9999, **PLACE)
    assert (~valid_pixels(RasterScene(tmp_path / "a.tif"))).nonzero() == ([3], [4])


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_nodata_of_the_settings_means_nothing_where_all_bands_hold_it(tmp_path, generator, suffix, dtype):
    values = generator.integers(1, 200, (HEIGHT, WIDTH, 3)).astype(dtype)
    values[:, 50:], values[:2], values[5, 5] = 255, 0, (0, 255, 0)
    write_raster(tmp_path / f"a.{suffix}", values)
    scene = RasterScene(tmp_path / f"a.{suffix}", nodata=[0, 255])
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[:, 50:] = expected[:2] = False
    np.testing.assert_array_equal(valid_pixels(scene), expected)
    assert valid_pixels(RasterScene(tmp_path / f"a.{suffix}")).all()


def test_nodata_of_the_settings_is_compared_in_the_type_of_real_bands(tmp_path):
    lowest = float(np.finfo(np.float32).min)
    write_raster(tmp_path / "a.tif", np.float32([[lowest, 1, -9999]]))
    scene = RasterScene(tmp_path / "a.tif", nodata=[-3.4028235e38, -9999])
    assert valid_pixels(scene).tolist() == [[False, True, False]]


# ------------------------------------------------------------------------------------------------ undeclared


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        *(("uint8", 0), ("uint8", 255), ("uint16", 0), ("uint16", 65535), ("int16", -9999), ("int16", -32768)),
        *(("float32", -9999), ("float32", -3.4e38), ("float32", 0), ("float64", 1e20)),
    ],
)
@pytest.mark.parametrize("where", ["collar", "corner", "border"])
def test_fill_at_the_border_is_found_with_its_share(tmp_path, generator, dtype, fill, where):
    values = generator.integers(20, 230, (HEIGHT, WIDTH, 3)).astype(dtype)
    hole = np.zeros((HEIGHT, WIDTH), bool)
    if where == "collar":
        hole[:4] = hole[-4:] = hole[:, :4] = hole[:, -4:] = True
    elif where == "corner":  # as a scene turned in its frame has
        hole[np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) < 30] = True
    else:
        hole[:, 40:] = True
    values[hole] = fill
    write_raster(tmp_path / "a.tif", values, **PLACE)
    (found,) = find_fill(RasterScene(tmp_path / "a.tif"))
    assert found.value == np.dtype(dtype).type(fill)
    assert found.share == pytest.approx(hole.mean())
    assert found.reaches_border
    assert 20 <= found.data[0] < found.data[1] <= 230


def test_a_value_far_from_all_data_is_found_in_single_pixels(tmp_path, generator):
    values = generator.normal(300, 40, (200, 300)).astype(np.float32)
    values[generator.random((200, 300)) < 0.01] = -9999
    write_raster(tmp_path / "dem.tif", values, **PLACE)
    (found,) = find_fill(RasterScene(tmp_path / "dem.tif"))
    assert found.value == -9999
    assert found.share == pytest.approx(0.01, abs=0.003)


def test_declared_and_set_nodata_are_no_undeclared_fill(tmp_path, generator):
    values = generator.integers(20, 230, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    values[:, 40:] = 255
    write_raster(tmp_path / "a.tif", values, nodata=255)
    write_raster(tmp_path / "b.tif", values)
    assert find_fill(RasterScene(tmp_path / "a.tif")) == []
    assert find_fill(RasterScene(tmp_path / "b.tif", nodata=[255])) == []
    assert len(find_fill(RasterScene(tmp_path / "b.tif", scale=0.5))) == 1


def test_noise_saturated_pixels_and_colours_of_one_band_are_no_fill(tmp_path, generator):
    values = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    values[generator.random((HEIGHT, WIDTH)) < 0.05] = 255  # glints
    values[10:20, 10:20] = 0  # a shadow inside
    values[:, 50:] = (255, 255, 0)
    write_raster(tmp_path / "a.png", values)
    assert find_fill(RasterScene(tmp_path / "a.png")) == []


def test_a_large_scene_is_looked_at_in_windows(tmp_path, generator, monkeypatch):
    values = generator.integers(20, 230, (1500, 2100), dtype=np.uint8)
    values[:, 1470:] = 255
    write_raster(tmp_path / "a.tif", values, tiled=True)
    read = []
    original = RasterScene.read_file_values
    monkeypatch.setattr(
        RasterScene, "read_file_values", lambda scene, window: read.append(window) or original(scene, window)
    )
    (found,) = find_fill(RasterScene(tmp_path / "a.tif"))
    assert found.share == pytest.approx(0.3, abs=0.05)
    assert sum(window.height * window.width for window in read) <= 2**20 < values.size


def test_fill_does_not_decide_the_scaling_of_values(tmp_path, generator):
    task = scene_task()
    folder = Path(task.settings.paths.raw_images_dir)
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as raster:
            values, profile = raster.read().astype(np.int16) * 4 + 100, raster.profile | {"dtype": "int16"}
        values[:, :, :12] = -9999
        path.unlink()
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(values)
    task.source.scenes.find_scaling(make=True)
    low = min(task.source.scenes.scaling.low)
    assert low >= 100
    plain = [RasterScene(path) for path in sorted(folder.glob("*.tif"))]
    assert min(estimate_scaling(plain).low) == -9999  # what it was


# ------------------------------------------------------------------------------------------------ told


def fill_pictures(folder: Path) -> None:
    """Give the pictures of the example a white collar of 12 columns, which no file declares."""
    for path in sorted((folder / "pictures").glob("*.tif")):
        with rasterio.open(path, "r+") as raster:
            values = raster.read().clip(0, 250)
            values[:, :, :12] = 255
            raster.write(values)


def test_prepare_verify_and_inference_report_fill_until_it_is_named(tmp_path, caplog):
    example_task(tmp_path)
    fill_pictures(tmp_path)
    caplog.set_level(logging.WARNING)

    def told(*overrides: str) -> tuple[list[str], np.ndarray]:
        caplog.clear()
        task, context = example_task(tmp_path, f"inference.output_dir={tmp_path}/maps", *overrides)
        for phase in (prepare, train):
            phase.run(task, context)
        notes = [str(note) for note in task.source.audit(task.source.items("train")) if not note.blocks]
        inference.run(task, context)
        with rasterio.open(tmp_path / "maps" / "scene_0_classes.tif") as raster:
            return [record.getMessage() for record in caplog.records] + notes, raster.read(1) == 255

    lines, empty = told()
    assert not empty.any()
    prepared, predicted = (
        [line for line in lines if text in line] for text in ("they are read as data", "they are predicted as a class")
    )
    assert len(prepared) >= 2  # the log of prepare, and notes of verify
    assert len(predicted) == 1
    assert all("exactly 255 in all bands and reach the border" in line for line in (*prepared, *predicted))
    assert all("set dataset.nodata: 255" in line for line in (*prepared, *predicted))
    lines, empty = told("dataset.nodata=255")
    assert lines == []
    assert empty[:, :12].all()
    assert not empty[:, 12:].any()
    lines, empty = told("dataset.nodata=[]")
    assert lines == []
    assert not empty.any()


def test_a_checkpoint_keeps_the_nodata_of_its_training_and_new_pictures_may_have_another(tmp_path):
    from tasks.segmentation.task import SegmentationTask
    from utils.runtime.checkpoints import load_checkpoint

    example_task(tmp_path)
    task, context = example_task(tmp_path, "dataset.nodata=255")
    for phase in (prepare, train):
        phase.run(task, context)
    checkpoint = load_checkpoint(context.folder / "checkpoints" / "best.safetensors")

    def restored(*overrides: str) -> SegmentationTask:
        fresh, _ = example_task(tmp_path, *overrides)
        return SegmentationTask.from_checkpoint("segmentation", fresh.settings, checkpoint)

    assert restored().settings.dataset.nodata == 255
    other = restored("dataset.nodata=0")
    assert other.settings.dataset.nodata == 0
    stamps = [task.source.items("inference")[0].stamp() for task in (restored(), other)]
    assert stamps[0] != stamps[1]  # a prediction with another nodata is another one


def test_many_pictures_with_fill_are_one_line():
    fills = {f"{index}.tif": find_fill_of_white() for index in range(7)}
    line = describe_fill(fills, "they are read as data")
    assert line.startswith("7 pictures, such as 0.tif: 50 % of")
    assert "2.tif" in line
    assert "3.tif" not in line


def find_fill_of_white() -> list:
    """Fill of a picture whose right half is white."""
    from utils.raster.example import raster_file

    values = np.random.default_rng(0).integers(20, 230, (8, 8, 3), dtype=np.uint8)
    values[:, 4:] = 255
    return find_fill(RasterScene(raster_file("white.tif", values)))


def test_distillation_reports_fill_and_drops_it_when_it_is_named(tmp_path, caplog):
    def prepared(*overrides: str) -> tuple[list[str], int]:
        task = student_task(*overrides)
        paths = task.source.files.find_groups()["scene"]
        with rasterio.open(paths[0], "r+") as raster:
            values = raster.read().clip(0, 250)
            values[:, :, 40:] = 255
            raster.write(values)
        caplog.clear()
        task.source.prepare_data()
        items = [item for split in ("train", "val") for item in task.source.items(split)]
        crops = [sample for item in items for sample in task.source.samples(item) if item.picture.name == "scene"]
        return [record.getMessage() for record in caplog.records], sum(int(c.arrays["valid"].sum()) for c in crops)

    lines, whole = prepared()
    assert any("scene.tif" in line and "set dataset.nodata: 255" in line for line in lines)
    lines, part = prepared("dataset.nodata=255")
    assert not any("nodata" in line for line in lines)
    assert part < whole


@needs_real_data
def test_the_collar_of_a_real_sentinel_scene_is_found():
    folder = REAL / "geo_sentinel2"
    (found,) = find_fill(RasterScene([folder / f"{band}.tif" for band in ("B04", "B03", "B02")]))
    assert found.value == 255
    assert found.share == pytest.approx(0.315, abs=0.04)
    assert found.reaches_border


@needs_real_data
def test_declared_nodata_of_a_real_landsat_scene_is_no_undeclared_fill():
    assert find_fill(RasterScene(REAL / "geo_landsat" / "landsat_multiband.tif", bands=[3, 2, 1])) == []


def test_a_damaged_picture_is_reported_by_who_reads_it(tmp_path, generator):
    write_raster(tmp_path / "a.tif", generator.integers(0, 256, (400, 600, 3), dtype=np.uint8), compress="deflate")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[200_000:210_000] = bytes(10_000)
    (tmp_path / "a.tif").write_bytes(content)
    scene = RasterScene(tmp_path / "a.tif")
    assert find_fill(scene) == []
    with pytest.raises(DataError, match=r"a\.tif: cannot be read"):
        scene.read(Window(0, 0, 400, 600))
