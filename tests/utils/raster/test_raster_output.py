"""Class maps and polygons on disk: what stands in them, and that a stop at any moment costs nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.transform import from_origin

from utils.errors import DataError, SettingsError
from utils.raster.tiling import StripBlender, Window, decode_classes, split_rows
from utils.raster.writer import ClassRasterWriter

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["field", "straße", "a < b", "water"]
FILES = ["map.qml", "map.tif", "map.tif.aux.xml", "map_confidence.tif"]
PALETTE = [[10, 20, 30], [200, 0, 0], [0, 200, 0], [0, 0, 255]]
PLACE = {"crs": "EPSG:32636", "transform": from_origin(500_000, 10_000, 0.5, 0.5)}
HEIGHT, WIDTH, TILE, STRIDE = 1100, 700, 256, 192


def make_writer(path: Path, **changes) -> ClassRasterWriter:
    """A writer for the test raster."""
    options = {"height": HEIGHT, "width": WIDTH, "class_names": NAMES, "palette": PALETTE, "confidence": True, **PLACE}
    return ClassRasterWriter(path, **{**options, "fingerprint": {"checkpoint": "a"}, **changes})


def probabilities(window: Window) -> np.ndarray:
    """Values that differ from window to window, smooth within each."""
    random = np.random.default_rng([window.y, window.x])
    coarse = random.random((len(NAMES), 8, 8), dtype=np.float32).repeat(32, axis=1).repeat(32, axis=2)
    return coarse / coarse.sum(axis=0)


def write_rows(writer: ClassRasterWriter, rows: tuple[int, int], pause: float = 0.0) -> int:
    """Blend and write the rows that are missing; the number of windows that this took."""
    start = writer.resume_row(rows)
    blender = StripBlender(HEIGHT, WIDTH, len(NAMES), TILE, STRIDE, rows=(start, rows[1]))
    for window in blender.windows:
        time.sleep(pause)
        for block, values in blender.add(window, probabilities(window)):
            classes, confidence = decode_classes(values)
            y, x = np.mgrid[block.rows, block.columns]
            classes[y + x < 150] = 255  # a corner without data
            writer.append(block, classes, confidence)
    return len(blender.windows)


def make_map(path: Path, **changes) -> Path:
    """The whole test raster in one go."""
    writer = make_writer(path, **changes)
    write_rows(writer, (0, HEIGHT))
    return writer.close()[0]


def read(path: Path) -> np.ndarray:
    """Pixels of a file."""
    with rasterio.open(path) as raster:
        return raster.read(1)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[np.ndarray, np.ndarray]:
    """Classes and confidence of a run without a stop."""
    path = make_map(tmp_path_factory.mktemp("unbroken") / "map.tif")
    return read(path), read(path.with_stem("map_confidence"))


@pytest.mark.parametrize("kind", ["cog", "gtiff"])
def test_a_raster_reads_back_with_all_that_people_expect(tmp_path, unbroken, kind):
    path = make_map(tmp_path / "map.tif", format=kind)
    with rasterio.open(path) as raster:
        assert np.array_equal(raster.read(1), unbroken[0])
        assert (raster.profile["tiled"], raster.block_shapes) == (True, [(512, 512)])
        assert raster.compression.name == "deflate"
        assert raster.overviews(1) == [2, 4]
        assert raster.nodata == 255
        assert raster.crs == "EPSG:32636"
        assert raster.transform == PLACE["transform"]
        assert [list(raster.colormap(1)[index][:3]) for index in range(4)] == PALETTE
        assert raster.colormap(1)[255][3] == 0
        assert [raster.tags(1)[f"CLASS_{index}"] for index in range(4)] == NAMES
        assert raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == ("COG" if kind == "cog" else None)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == FILES
    assert 'value="2" color="#00c800" label="a &lt; b"' in (tmp_path / "map.qml").read_text()


def test_gdal_reads_category_names_and_the_attribute_table(tmp_path, unbroken):
    """GDAL copies what it has understood of the sidecar into that of a copy."""
    path = tmp_path / "map.tif"
    writer = make_writer(path)
    write_rows(writer, (0, HEIGHT))
    writer.close()
    copy = tmp_path / "copy.tif"
    rasterio.shutil.copy(path, copy, driver="GTiff")
    band = ElementTree.parse(f"{copy}.aux.xml").getroot().find("PAMRasterBand")
    assert [entry.text for entry in band.iter("Category")] == NAMES
    usages = [int(field.find("Usage").text) for field in band.iter("FieldDefn")]
    assert usages == [5, 2, 1, 6, 7, 8]  # value, name, pixels, red, green, blue
    rows = [[cell.text for cell in row] for row in band.iter("Row")]
    counts = np.bincount(unbroken[0].ravel(), minlength=256)
    expected = zip(range(4), NAMES, counts[:4].tolist(), *np.array(PALETTE).T.tolist(), strict=True)
    assert rows == [[str(value) for value in row] for row in expected]


def test_overviews_take_the_most_frequent_class_and_never_a_mean(tmp_path):
    writer = make_writer(tmp_path / "map.tif", height=1024, width=1024, confidence=False)
    classes = np.zeros((1024, 1024), np.uint8)
    classes[:, 1::2] = 3
    classes[1::2, 1::2] = 0
    writer.append(Window(0, 0, 1024, 1024), classes)
    with rasterio.open(writer.close()[0], overview_level=0) as overview:
        assert np.unique(overview.read(1)).tolist() == [0]


def test_confidence_is_a_file_of_its_own_with_its_scale(tmp_path, unbroken):
    path = make_map(tmp_path / "map.tif").with_stem("map_confidence")
    with rasterio.open(path) as raster:
        stored = raster.read(1)
        assert np.array_equal(stored, unbroken[1])
        assert raster.nodata == 255
        assert raster.scales[0] == pytest.approx(1 / 254)
    assert ((stored == 255) == (unbroken[0] == 255)).all()
    whole = StripBlender(HEIGHT, WIDTH, len(NAMES), TILE, STRIDE)
    blocks = [block for window in whole.windows for block in whole.add(window, probabilities(window))]
    place, values = blocks[-1]
    assert np.abs(stored[place.rows, place.columns] / 254 - values.max(axis=0)).max() <= 0.5 / 254 + 1e-6


def test_a_picture_becomes_a_picture_with_a_palette(tmp_path, unbroken):
    path = make_map(tmp_path / "map.png", crs=None, transform=None)
    with rasterio.open(path) as raster:
        assert raster.driver == "PNG"
        assert np.array_equal(raster.read(1), unbroken[0])
        assert list(raster.colormap(1)[1][:3]) == PALETTE[1]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["map.png", "map_confidence.png"]


def test_a_raster_without_georeference_has_none_afterwards(tmp_path, unbroken):
    path = make_map(tmp_path / "map.tif", crs=None, transform=None)
    with rasterio.open(path) as raster:
        assert raster.crs is None
        assert raster.transform.is_identity
        assert np.array_equal(raster.read(1), unbroken[0])


def test_blocks_of_a_strip_come_in_any_order(tmp_path):
    writer = make_writer(tmp_path / "map.tif", height=4, width=10, confidence=False)
    truth = np.random.default_rng(0).integers(0, 4, (4, 10)).astype(np.uint8)
    for y, columns in [(0, [(6, 4), (0, 6)]), (3, [(3, 7), (0, 3)])]:
        for x, width in columns:
            block = Window(y, x, 3 if y == 0 else 1, width)
            writer.append(block, truth[block.rows, block.columns])
    assert np.array_equal(read(writer.close()[0]), truth)


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_ranks_write_bands_of_one_raster(tmp_path, unbroken, parts):
    bands = split_rows(HEIGHT, TILE, STRIDE, parts)
    for rows in reversed(bands):
        write_rows(make_writer(tmp_path / "map.tif"), rows)
    assert np.array_equal(read(make_writer(tmp_path / "map.tif").close()[0]), unbroken[0])


def test_another_number_of_ranks_goes_on_where_the_first_stopped(tmp_path, unbroken):
    first = make_writer(tmp_path / "map.tif")
    write_rows(first, (300, 800))
    second = make_writer(tmp_path / "map.tif")
    assert second.store.missing_rows(0, HEIGHT) == [(0, 300), (800, HEIGHT)]
    assert second.resume_row((500, HEIGHT)) == 800
    for rows in second.store.missing_rows(0, HEIGHT):
        write_rows(second, rows)
    assert np.array_equal(read(second.close()[0]), unbroken[0])


def test_a_strip_that_is_not_full_is_made_again(tmp_path, unbroken):
    path = tmp_path / "map.tif"
    writer = make_writer(path)
    blender = StripBlender(HEIGHT, WIDTH, len(NAMES), TILE, STRIDE)
    for window in blender.windows[:6]:  # four windows make a strip
        for block, values in blender.add(window, probabilities(window)):
            writer.append(block, *decode_classes(values))
    assert make_writer(path).resume_row() == STRIDE
    for strip in writer.work.glob("*.strip"):
        strip.unlink()  # these had no corner without data
    windows = write_rows(make_writer(path), (0, HEIGHT))
    assert windows == len(blender.windows)
    assert np.array_equal(read(make_writer(path).close()[0]), unbroken[0])


def test_resuming_computes_only_what_the_missing_rows_need(tmp_path):
    writer = make_writer(tmp_path / "map.tif")
    write_rows(writer, (0, 3 * STRIDE))
    rows_of_windows = len(range(2 * STRIDE, HEIGHT - (TILE - STRIDE), STRIDE))  # one above, for its overlap
    assert write_rows(make_writer(tmp_path / "map.tif"), (0, HEIGHT)) == 4 * rows_of_windows
    assert write_rows(make_writer(tmp_path / "map.tif"), (0, HEIGHT)) == 0


@pytest.mark.parametrize(
    "changes", [{"fingerprint": {"checkpoint": "b"}}, {"height": HEIGHT + 1}, {"confidence": False}]
)
def test_strips_of_other_settings_are_dropped(tmp_path, changes):
    path = tmp_path / "map.tif"
    write_rows(make_writer(path), (0, STRIDE))
    other = make_writer(path, **changes)
    assert other.resume_row() == 0
    block = np.zeros((1, WIDTH), np.uint8)
    other.append(Window(0, 0, 1, WIDTH), block, *([] if changes.get("confidence") is False else [block / 1.0]))
    assert make_writer(path).resume_row() == 0


def test_dropping_old_strips_leaves_what_another_rank_is_writing(tmp_path):
    writer = make_writer(tmp_path / "map.tif")
    writer.work.mkdir()
    being_written, old = writer.work / ".0123.x.strip", writer.work / "0123_0000000000_192.strip"
    being_written.touch(), old.touch()
    write_rows(writer, (0, STRIDE))
    assert being_written.exists()
    assert not old.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    writer = make_writer(tmp_path / "file" / "map.tif")
    with pytest.raises(DataError, match=r"map\.tif: could not be written .* choose another folder"):
        write_rows(writer, (0, STRIDE))


def test_new_colours_keep_the_strips(tmp_path):
    write_rows(make_writer(tmp_path / "map.tif"), (0, STRIDE))
    recoloured = make_writer(tmp_path / "map.tif", palette=np.zeros((4, 3)))
    assert recoloured.resume_row() == STRIDE


def test_a_damaged_strip_is_named_and_only_it_is_made_again(tmp_path, unbroken):
    writer = make_writer(tmp_path / "map.tif")
    write_rows(writer, (0, HEIGHT))
    strip = sorted(writer.work.glob("*.strip"))[2]
    data = bytearray(strip.read_bytes())
    data[40] ^= 1
    strip.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged strip, removed; run again"):
        writer.close()
    assert not (tmp_path / "map.tif").exists()
    again = make_writer(tmp_path / "map.tif")
    assert again.store.missing_rows(0, HEIGHT) == [(2 * STRIDE, 3 * STRIDE)]
    write_rows(again, again.store.missing_rows(0, HEIGHT)[0])
    assert np.array_equal(read(again.close()[0]), unbroken[0])


def start_child(path: Path, pause: float) -> subprocess.Popen:
    """This file as a program of its own, which writes the test raster."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, __file__, str(path), str(pause)], env=environment)


@pytest.mark.parametrize(("strips", "wait"), [(1, 0.0), (3, 0.013), (6, 0.02)])
def test_kill_at_any_moment_and_go_on_gives_the_same_pixels(tmp_path, unbroken, strips, wait):
    path = tmp_path / "map.tif"
    child = start_child(path, 0.01)
    work = make_writer(path).work
    deadline = time.monotonic() + 60
    while len(list(work.glob("[!.]*.strip"))) < strips and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(wait)  # the last case reaches into the assembly
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert not path.exists()
    writer = make_writer(path)
    assert writer.resume_row() >= strips * STRIDE or writer.resume_row() == HEIGHT
    write_rows(writer, (0, HEIGHT))
    writer.close()
    assert np.array_equal(read(path), unbroken[0])
    assert np.array_equal(read(path.with_stem("map_confidence")), unbroken[1])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == FILES


@contextmanager
def full_disk(largest_file: int):
    """Let writes fail half-way, as on a full disk: no file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["map.tif", "map.png"])
def test_a_full_disk_says_what_to_do_and_keeps_what_is_finished(tmp_path, unbroken, name):
    path = tmp_path / name
    writer = make_writer(path)
    write_rows(writer, (0, HEIGHT))
    with full_disk(5_000), pytest.raises(DataError, match="free some space or choose another folder and run again"):
        writer.close()
    assert not path.exists()
    assert make_writer(path).resume_row() == HEIGHT
    assert {entry.suffix for entry in writer.work.iterdir()} == {".strip", ".json"}
    assert np.array_equal(read(make_writer(path).close()[0]), unbroken[0])


def test_a_disk_that_fills_up_between_strips_keeps_the_finished_ones(tmp_path):
    writer = make_writer(tmp_path / "map.tif", confidence=False)
    noise = np.random.default_rng(0).integers(0, 4, (100, WIDTH), dtype=np.uint8)
    writer.append(Window(0, 0, 100, WIDTH), noise)
    with full_disk(5_000), pytest.raises(DataError, match="what is finished is kept in"):
        writer.append(Window(100, 0, 100, WIDTH), noise)
    assert writer.resume_row() == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": [str(index) for index in range(256)]}, "1 to 255 classes"),
        ({"palette": [[0, 0, 0]]}, r"for each of 4 classes, got shape \(1, 3\)"),
        ({"format": "jpeg"}, "unknown raster format 'jpeg'; known: cog, gtiff"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, changes, message):
    with pytest.raises(SettingsError, match=message):
        make_writer(tmp_path / "map.tif", **changes)


@pytest.mark.parametrize(
    ("window", "blocks", "message"),
    [
        (Window(0, 0, 2, 9), [np.zeros((2, 9), np.uint8)] * 2, "does not lie within"),
        (Window(0, 0, 2, 3), [np.zeros((2, 3), np.uint8)], "expected uint8 classes, confidence, got uint8"),
        (Window(0, 0, 2, 3), [np.zeros((2, 3), np.int64)] * 2, "got int64, int64"),
        (Window(0, 0, 2, 3), [np.zeros((3, 2), np.uint8)] * 2, r"planes of shape \[\(3, 2\)"),
        (Window(0, 0, 2, 3), [np.full((2, 3), 4, np.uint8)] * 2, "class 4 is neither below 4 nor nodata 255"),
        (Window(0, 0, 2, 5), [np.zeros((2, 5), np.uint8)] * 2, "these columns have come before"),
        (Window(2, 0, 2, 5), [np.zeros((2, 5), np.uint8)] * 2, "a block of another strip came before"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(tmp_path, window, blocks, message):
    writer = make_writer(tmp_path / "map.tif", height=4, width=8)
    writer.append(Window(0, 4, 2, 4), np.zeros((2, 4), np.uint8), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=message):
        writer.append(window, *blocks)


def test_closing_too_early_is_refused(tmp_path):
    writer = make_writer(tmp_path / "map.tif")
    write_rows(writer, (0, STRIDE))
    with pytest.raises(ValueError, match=f"rows {STRIDE}..{HEIGHT} have not been written"):
        writer.close()


if __name__ == "__main__":  # the process that is killed
    child_writer = make_writer(Path(sys.argv[1]))
    write_rows(child_writer, (0, HEIGHT), pause=float(sys.argv[2]))
    child_writer.close()
    time.sleep(60)  # so that the one who kills never comes too late
