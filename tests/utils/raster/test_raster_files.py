"""Raster files: found in any order of asking, bounded before they are decoded, and told when they are damaged."""

from __future__ import annotations

import inspect
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tasks.example import scene_task
from tasks.segmentation.settings import SegmentationDataset
from utils.errors import DataError
from utils.media import picture_sizes
from utils.raster import files as raster_files
from utils.raster.files import RasterFile, check_scene, write_raster
from utils.raster.raster_labels import RasterLabels
from utils.raster.scene_paths import broken_links, find_scenes, scene_ids
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.runtime.recent import Recent

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def test_scenes_come_from_files_folders_globs_and_lists(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.tif", "a.JP2", "deep/c.jpeg", "b.tif.aux.xml", ".hidden.tif", "odd.img", "b.mask.tif"):
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in find_scenes(tmp_path)]
    assert names == ["a.JP2", "b.mask.tif", "b.tif", "deep/c.jpeg"]
    assert [path.name for path in find_scenes(f"{tmp_path}/b*")] == ["b.mask.tif", "b.tif"]
    assert [path.name for path in find_scenes(f"{tmp_path}/*.img")] == ["odd.img"]
    assert [path.name for path in find_scenes(tmp_path / "odd.img")] == ["odd.img"]
    listed = find_scenes([tmp_path / "b.tif", tmp_path], exclude=["*.mask.tif", tmp_path / "deep"])
    assert [path.name for path in listed] == ["b.tif", "a.JP2"]


@pytest.mark.parametrize("name", ["none", "none.tif", "*.tif"])
def test_nothing_found_names_what_was_looked_for(tmp_path, name):
    with pytest.raises(DataError, match=r"none|\*\.tif"):
        find_scenes(tmp_path / name)


def test_linked_folders_are_entered_once_and_links_that_lead_nowhere_are_told(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.tif").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures" / "gone.tif").symlink_to(tmp_path / "nothing.tif")
    assert find_scenes(tmp_path / "pictures") == [tmp_path / "pictures" / "linked" / "a.tif"]
    assert broken_links(tmp_path / "pictures") == [tmp_path / "pictures" / "gone.tif"]


def test_a_png_with_a_hole_is_refused_though_it_has_an_end(tmp_path, generator):
    write_raster(tmp_path / "a.png", generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert check_scene(tmp_path / "a.png") == []
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[3000:3400] = bytes(400)
    (tmp_path / "b.png").write_bytes(content)
    (problem,) = check_scene(tmp_path / "b.png")
    assert "b.png: cannot be read (broken PNG file" in problem
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes() + b"notes of a program")
    assert check_scene(tmp_path / "c.png") == []


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_a_geotransform_that_is_no_place_is_refused(number, tmp_path):
    write_raster(
        tmp_path / "a.tif", np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine(1, 0, number, 0, -1, 9)
    )
    (problem,) = check_scene(tmp_path / "a.tif")
    assert "is no place: expected finite numbers below 1e+12" in problem


def test_an_empty_folder_says_which_suffixes_count(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=rf"no scene in {tmp_path}; looked for files with \.tif, \.tiff"):
        find_scenes(tmp_path)
    (tmp_path / "a.tif").touch()
    with pytest.raises(DataError, match=r"1 left out by \['\*\.tif'\]"):
        find_scenes(tmp_path, exclude=["*.tif"])


def test_ids_are_unique_and_do_not_depend_on_order(generator):
    paths = ["d/x/a.tif", "d/y/a.tif", "d/y/a.png", "e/x/a.tif", "d/b.tif", "d/x__a.tif"]
    ids = scene_ids(paths)
    assert len(ids) == len(paths)
    assert ids["b"] == Path("d/b.tif")
    shuffled = scene_ids([paths[index] for index in generator.permutation(len(paths))])
    assert shuffled == ids


def test_a_picture_is_decoded_once_and_the_cache_is_bounded(tmp_path, generator, monkeypatch):
    decoded = []
    original = raster_files._decode_whole
    monkeypatch.setattr(raster_files, "_decode_whole", lambda header: decoded.append(header.path) or original(header))
    monkeypatch.setattr(raster_files, "_PICTURES", Recent(2 * 64 * 64 * 3, raster_files._decoded_bytes))
    for name in "abc":
        write_raster(tmp_path / f"{name}.png", generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        scene = RasterScene(tmp_path / f"{name}.png")
        for y in range(0, 64, 8):
            scene.read(Window(y, 0, 8, 64))
    assert len(decoded) == 3
    assert len(raster_files._PICTURES.values) == 2
    write_raster(tmp_path / "c.png", np.zeros((64, 64, 3), np.uint8))  # a new version is seen
    assert RasterScene(tmp_path / "c.png").read(Window(0, 0, 64, 64))[0].max() == 0


def png_with_header(path: Path, width: int, height: int) -> None:
    """A file of a few bytes whose header promises a picture of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_giant_header_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(raster_files, "_decode_whole", lambda header: pytest.fail("decoded"))
    png_with_header(tmp_path / "bomb.png", 100_000, 90_000)
    message = r"bomb\.png: 90000 x 100000 pixels \(height x width\), more than max_pixels .* .gdal_translate -of COG"
    with pytest.raises(DataError, match=message):
        RasterScene(tmp_path / "bomb.png").read(Window(0, 0, 1, 1))
    assert "90000 x 100000" in check_scene(tmp_path / "bomb.png")[0]


def test_the_checks_of_scenes_have_the_limit_of_the_settings(monkeypatch):
    task, limits = scene_task("dataset.max_pixels=200000000"), []
    for module in ("scenes", "source"):
        name = f"tasks.segmentation.{module}.check_scene"
        monkeypatch.setattr(name, lambda path, max_pixels=None: limits.append(max_pixels) or [])
    task.source.scenes.check()
    checked = len(limits)
    task._inputs()
    assert 0 < checked < len(limits)
    assert set(limits) == {200_000_000}


def test_one_limit_of_pixels_holds_everywhere():
    assert SegmentationDataset().max_pixels == picture_sizes.MAX_PIXELS
    for reader in (RasterFile, RasterScene, RasterLabels, check_scene):
        assert inspect.signature(reader).parameters["max_pixels"].default == picture_sizes.MAX_PIXELS


def test_size_limits_spare_rasters_with_random_access(tmp_path):
    profile = {"driver": "GTiff", "height": 30_000, "width": 30_000, "count": 1, "dtype": "uint8", "SPARSE_OK": True}
    one = rasterio.windows.Window(0, 0, 30_000, 1)  # a raster of which no block is there is refused
    with rasterio.open(tmp_path / "tiled.tif", "w", tiled=True, **profile) as raster:
        raster.write(np.ones((1, 1, 30_000), np.uint8), window=one)
    with rasterio.open(tmp_path / "bomb.tif", "w", compress="deflate", blockysize=1, **profile) as raster:
        raster.write(np.ones((1, 1, 30_000), np.uint8), window=one)
    _, valid = RasterScene(tmp_path / "tiled.tif", max_pixels=1000).read(Window(29_990, 29_990, 20, 20))
    assert valid.sum() == 100
    with pytest.raises(DataError, match="far more than the file's bytes can hold"):
        RasterScene(tmp_path / "bomb.tif", max_pixels=1000).read(Window(0, 0, 8, 8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("strips.tif", {}),
        ("tiles.tif", {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}),
        ("a.png", {}),
        ("a.jpg", {}),
        ("a.webp", {}),
        ("a.bmp", {}),
        ("a.jp2", {}),
    ],
)
def test_a_truncated_file_is_told_at_the_check_and_while_reading(tmp_path, generator, name, options):
    path = tmp_path / name
    write_raster(path, generator.integers(0, 256, (200, 180, 3), dtype=np.uint8), **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    problems = check_scene(path)
    assert len(problems) == 1
    assert str(path) in problems[0]
    assert "copy" in problems[0]
    with pytest.raises(DataError, match=rf"{name}: cannot be read .*(truncated|damaged).*copy"):
        RasterScene(path).read(Window(0, 0, 200, 180))


def test_a_cut_in_the_middle_is_found_though_the_last_block_is_whole(tmp_path, generator):
    """Tiles may lie in any order: here the first one comes last in the file."""
    import tifffile

    path = tmp_path / "a.tif"
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    write_raster(path, generator.integers(0, 256, (128, 128), dtype=np.uint8), **options)
    with tifffile.TiffFile(path) as stream:
        tag = stream.pages.first.tags["TileOffsets"]
    data = bytearray(path.read_bytes())
    layout = f"<{len(tag.value)}{tag.dtype.name[0].upper() if tag.dtype.name != 'SHORT' else 'H'}"
    struct.pack_into(layout.replace("L", "I"), data, tag.valueoffset, *reversed(tag.value))
    path.write_bytes(data[:-3000])
    assert "truncated: its data end at byte" in check_scene(path)[0]
    assert RasterScene(path).read(Window(70, 70, 20, 20))[1].all()
    with pytest.raises(DataError, match="cannot be read"):
        RasterScene(path).read(Window(0, 0, 20, 20))


@pytest.mark.parametrize("content", [b"", b"not a raster at all", b"II*\0\x08\0\0\0"])
def test_what_is_no_raster_is_refused(tmp_path, content, capfd):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif: cannot be opened \("):
        _ = RasterScene(tmp_path / "a.tif").height
    with pytest.raises(DataError, match=r"none\.tif: no such file"):
        _ = RasterScene(tmp_path / "none.tif").height
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("bands", [1, 3])
def test_a_tiff_that_gdal_cannot_read_is_read_by_tifffile(tmp_path, generator, bands):
    pytest.importorskip("imagecodecs")
    import tifffile

    shape = (40, 50) if bands == 1 else (40, 50, bands)
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    tags = [(33550, "d", 3, (2.0, 3.0, 0.0)), (33922, "d", 6, (0, 0, 0, 500_000.0, 10_000.0, 0))]
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32636)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, pixels, compression="png", photometric="rgb" if bands == 3 else "minisblack", metadata=None,
        extratags=[*tags, (34735, "H", len(keys), keys)],
    )  # fmt: skip
    with pytest.raises(rasterio.errors.RasterioIOError):
        rasterio.open(path)
    scene = RasterScene(path)
    image, _ = scene.read(Window(5, 6, 20, 30))
    expected = pixels[5:25, 6:36]
    np.testing.assert_array_equal(image, np.repeat(expected[:, :, None], 3, 2) if bands == 1 else expected)
    assert (scene.crs.to_epsg(), tuple(scene.transform)[:6]) == (32636, (2, 0, 500_000, 0, -3, 10_000))
    assert check_scene(path) == []
    path.write_bytes(path.read_bytes()[:-200])
    assert "truncated" in check_scene(path)[0]


def test_a_missing_codec_is_named(tmp_path, generator):
    pytest.importorskip("imagecodecs")
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", generator.integers(0, 256, (40, 50), dtype=np.uint8), compression="png")
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from utils.raster.files import check_scene; print(check_scene(sys.argv[1]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.tif"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "pip install imagecodecs" in run.stdout
