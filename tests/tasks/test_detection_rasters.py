"""Values of rasters that detection predicts window by window: read as in photos, or refused with the reason."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine

from tasks.detection.example import fox_task
from tasks.detection.rasters import RasterItem
from tasks.labelled import decode_picture
from utils.errors import DataError
from utils.formats.types import AnnotatedPicture
from utils.raster import pictures
from utils.raster.files import write_raster
from utils.raster.vector_files import write_features

PLACE = {"crs": "EPSG:32631", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}
RAMP = np.linspace(0, 1, 300)[None].repeat(400, 0)
GREY = np.rint(RAMP * 255).astype(np.uint8)


def windows_of(path) -> np.ndarray:
    """What windows of a placed raster show of it, (400, 300, 3)."""
    [item] = fox_task().source.input_items([str(path)])
    shown = np.zeros((400, 300, 3), np.uint8)
    for window, image in item.read():
        shown[window.rows, window.columns] = image
    return shown


def picture_of(path) -> np.ndarray:
    return decode_picture(AnnotatedPicture("a", path, None, ()))


@pytest.mark.parametrize("read", [windows_of, picture_of])
def test_12_bits_in_16_are_refused_in_pictures_and_windows_alike(read, tmp_path):
    values = np.rint(RAMP * 4095).astype(np.uint16)
    values[0, :40] = 65535  # a collar
    for name, nodata in (("collar", 65535), ("none", None)):
        path = tmp_path / f"{name}.tif"
        write_raster(path, values if nodata else np.minimum(values, 4095), nodata=nodata, **PLACE)
        with pytest.raises(DataError, match=rf"{name}\.tif: 16-bit values up to 4095 only, .*-scale 0 4095 0 255"):
            read(path)


@pytest.mark.parametrize("read", [windows_of, picture_of])
def test_bits_that_a_raster_declares_and_dark_windows_of_a_bright_one_are_read(read, tmp_path):
    write_raster(tmp_path / "a.tif", np.rint(RAMP * 4095).astype(np.uint16), nbits=12, **PLACE)
    np.testing.assert_allclose(read(tmp_path / "a.tif")[..., 0], GREY, atol=1)
    write_raster(tmp_path / "b.tif", np.rint(RAMP * 65535).astype(np.uint16), **PLACE)
    np.testing.assert_allclose(read(tmp_path / "b.tif")[..., 0], GREY, atol=1)


@pytest.mark.parametrize("read", [windows_of, picture_of])
def test_a_fourth_band_that_is_no_opacity_is_told_once(read, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(pictures, "_TOLD", [])
    bands = np.stack([GREY, 255 - GREY, GREY // 2, GREY], axis=2)
    for name in ("a.tif", "b.tif"):
        write_raster(tmp_path / name, bands, photometric="MINISBLACK", **PLACE)
        with rasterio.open(tmp_path / name) as raster:
            assert "alpha" not in [colour.name for colour in raster.colorinterp]
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(read(tmp_path / "a.tif"), bands[..., :3])
        read(tmp_path / "b.tif")
    told = [record.getMessage() for record in caplog.records if "4 bands" in record.getMessage()]
    assert len(told) == 1
    assert (
        "a.tif: 4 bands, and none is opacity: the first three are read as red, green and blue, and the fourth"
        in told[0]
    )


def test_a_raster_without_data_is_not_called_too_large(tmp_path):
    options = {"tiled": True, "sparse_ok": True, "count": 3, "dtype": "uint8", "driver": "GTiff", **PLACE}
    rasterio.open(tmp_path / "a.tif", "w", height=100_000, width=100_000, **options).close()
    [item] = fox_task().source.input_items([str(tmp_path / "a.tif")])
    with pytest.raises(
        DataError, match=r"a\.tif: 100000 x 100000 pixels .*none of its \d+ blocks is there: it holds no data"
    ):
        list(item.frames())


@pytest.mark.parametrize("place", [PLACE, {}], ids=["placed", "photo"])
def test_a_virtual_raster_is_read_and_its_faults_are_its_own(place, tmp_path):
    write_raster(tmp_path / "a.tif", np.repeat(GREY[..., None], 3, 2), **place)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "v.vrt", driver="VRT")
    [item] = fox_task().source.input_items([str(tmp_path / "v.vrt")])
    assert isinstance(item, RasterItem) == bool(place)
    shown = windows_of(tmp_path / "v.vrt") if place else next(iter(item.frames()))[1]
    assert np.array_equal(shown[..., 0], GREY)
    text = (tmp_path / "v.vrt").read_text().replace(">a.tif<", ">/vsicurl/http://127.0.0.1:9/s.tif<")
    (tmp_path / "w.vrt").write_text(text.replace('relativeToVRT="1"', 'relativeToVRT="0"'))
    [item] = fox_task().source.input_items([str(tmp_path / "w.vrt")])
    with pytest.raises(DataError, match=r"w\.vrt: .*vsicurl"):
        list(item.frames())


def test_classes_of_outlines_are_chosen_or_said_to_be_one(tmp_path):
    write_raster(tmp_path / "a.tif", np.repeat(GREY[..., None], 3, 2), **PLACE)
    shapes = [shapely.box(5e5 + x, 5e6 - 40, 5e5 + x + 20, 5e6 - 9) for x in (5, 60)]
    write_features(tmp_path / "t.gpkg", shapes, crs="EPSG:32631", species=["oak", "ash"])

    def classes(*overrides: str) -> tuple[list[str], list[int]]:
        labels = fox_task(f"paths.data_root={tmp_path}", "paths.label_path=t.gpkg", *overrides).labels
        [(_, picture)] = labels.pictures.values()
        return labels.classes, labels.objects_of(picture).labels.tolist()

    with pytest.raises(DataError, match=r"there are species \(text\): name it in dataset\.label_attribute"):
        classes()
    assert classes("dataset.label_attribute=species") == (["ash", "oak"], [1, 0])
    assert classes("dataset.label_mapping={'*': tree}") == (["tree"], [0, 0])
    both = ("dataset.label_attribute=species", "dataset.label_mapping={oak: ignore, '*': tree}")
    assert classes(*both) == (["tree"], [0, 0])
