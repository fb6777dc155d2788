"""What an input depends on: every file that is read with it counts, and nothing that is not read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine

from tasks.example import example_task
from tasks.phases import evaluate, inference, prepare, train
from utils.errors import DataError
from utils.raster import dependencies
from utils.raster.dependencies import input_stamps
from utils.raster.files import check_scene, write_raster
from utils.raster.header import read_header
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

PLACE = {"crs": "EPSG:32631", "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000)}
SHAPEFILE = ("dbf", "shx", "prj", "cpg", "sbn", "qix")


def later(path: Path) -> None:
    """Give a file a later time, as an edit does, whatever the clock of the file system."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def write_mosaic(path: Path, *tiles: str, tag: str = "SourceFilename") -> None:
    """A VRT of one band whose tiles of 4 x 6 pixels stand side by side."""
    sources = "".join(
        f'<SimpleSource><{tag} relativeToVRT="1">{name}</{tag}><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="6" ySize="4"/><DstRect xOff="{6 * index}" yOff="0" xSize="6" ySize="4"/>'
        "</SimpleSource>"
        for index, name in enumerate(tiles)
    )
    band = f'<VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand>'
    path.write_text(f'<VRTDataset rasterXSize="{6 * len(tiles)}" rasterYSize="4">{band}</VRTDataset>')


@pytest.mark.parametrize(
    ("name", "companion"),
    [
        *((name, f"{name}{end}") for name in ("a.tif", "a.png", "a.jpg", "a.jp2") for end in (".aux.xml", ".msk")),
        *(("a.tif", f"a.{suffix}") for suffix in ("tif.ovr", "tfw", "TFW", "wld", "tifw", "prj", "IMD")),
        *(("a.tif", other) for other in ("a_rpc.txt", "a_RPC.TXT")),
        *(("a.jpg", other) for other in ("a.jgw", "a.jpgw", "a.wld")),
        *(("a.shp", f"a.{suffix}") for suffix in SHAPEFILE),
        *(("A.SHP", f"A.{suffix.upper()}") for suffix in SHAPEFILE),
        *(("a.gpkg", other) for other in ("a.gpkg-wal", "a.gpkg-journal")),
        *(("a.tab", f"a.{suffix}") for suffix in ("dat", "map", "id")),
        ("a.gml", "a.gfs"),
    ],
)  # fmt: skip
def test_a_file_that_appears_changes_or_goes_makes_another_input(tmp_path, name, companion):
    (tmp_path / name).write_bytes(b"x")
    alone = input_stamps(tmp_path / name)
    (tmp_path / companion).write_bytes(b"<x/>")
    with_it = input_stamps(tmp_path / name)
    (tmp_path / companion).write_bytes(b"<yy/>")
    changed = input_stamps(tmp_path / name)
    assert len(alone) == 1
    assert alone != with_it != changed != alone
    (tmp_path / companion).unlink()
    assert input_stamps(tmp_path / name) == alone


def test_labels_notes_and_neighbours_are_not_part_of_a_picture(tmp_path):
    for name in ("a.tif", "a.json", "a.txt", "a.geojson", "ab.tfw", "a.b.tif", "b.tif.aux.xml", "a.qml", "a.gpkg-shm"):
        (tmp_path / name).touch()
    assert [Path(stamp[0]).name for stamp in input_stamps(tmp_path / "a.tif")] == ["a.tif"]


def test_a_listing_of_a_folder_is_kept_only_while_it_cannot_change_unseen(tmp_path):
    (tmp_path / "a.tif").touch()
    os.utime(tmp_path, (1, 1))  # an old folder
    assert len(input_stamps(tmp_path / "a.tif")) == 1
    assert len(input_stamps(tmp_path / "a.tif")) == 1
    (tmp_path / "a.tfw").touch()
    assert len(input_stamps(tmp_path / "a.tif")) == 2


def test_statistics_of_a_viewer_change_nothing_but_nodata_of_any_band_does(tmp_path):
    def say(band: int, content: str) -> list:
        text = f'<PAMDataset><PAMRasterBand band="{band}">{content}</PAMRasterBand></PAMDataset>'
        (tmp_path / "a.tif.aux.xml").write_text(text)
        return input_stamps(tmp_path / "a.tif")

    (tmp_path / "a.tif").touch()
    alone = input_stamps(tmp_path / "a.tif")
    statistics = '<Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata><Histograms><HistItem/></Histograms>'
    assert say(1, statistics) == alone
    first, second = (say(band, "<NoDataValue>0</NoDataValue>" + statistics) for band in (1, 2))
    assert alone != first != second != alone
    assert say(2, "<NoDataValue>0</NoDataValue>") == second


@pytest.mark.parametrize("change", ["tile", "mask", "inner"])
def test_a_vrt_depends_on_its_sources_and_theirs(tmp_path, change):
    (tmp_path / "tiles").mkdir()
    write_raster(tmp_path / "tiles" / "l.tif", np.full((4, 6), 1, np.uint8))
    write_raster(tmp_path / "tiles" / "r.tif", np.full((4, 6), 2, np.uint8))
    write_mosaic(tmp_path / "tiles" / "inner.vrt", "l.tif")
    write_mosaic(tmp_path / "outer.vrt", "tiles/inner.vrt", "tiles/r.tif")
    before = input_stamps(tmp_path / "outer.vrt")
    assert [Path(stamp[0]).name for stamp in before] == ["outer.vrt", "inner.vrt", "l.tif", "r.tif"]
    assert RasterScene(tmp_path / "outer.vrt").read(Window(0, 0, 1, 12))[0][0, :, 0].tolist() == [1] * 6 + [2] * 6
    if change == "tile":  # the same size in bytes, as a newer tile has
        write_raster(tmp_path / "tiles" / "l.tif", np.full((4, 6), 7, np.uint8))
        later(tmp_path / "tiles" / "l.tif")
    elif change == "mask":
        (tmp_path / "tiles" / "r.tif.msk").write_bytes(b"x")
    else:
        write_mosaic(tmp_path / "tiles" / "inner.vrt", "r.tif")
    assert input_stamps(tmp_path / "outer.vrt") != before
    first = {"tile": 7, "mask": 1, "inner": 2}[change]  # in the same process, with the old tile still open
    assert RasterScene(tmp_path / "outer.vrt").read(Window(0, 0, 1, 1))[0][0, 0, 0] == first


def test_sources_of_warped_nested_and_named_datasets_are_found(tmp_path):
    for name in ("a.tif", "b.tif", "c.tif", "d.tif", "dem.tif"):
        write_raster(tmp_path / name, np.zeros((4, 6), np.uint8))
    text = (
        "<VRTDataset><GDALWarpOptions><SourceDataset relativeToVRT='1'>a.tif</SourceDataset></GDALWarpOptions>"
        "<MaskBand><VRTRasterBand><A><SourceFilename relativeToVRT='1'>b.tif</SourceFilename></A></VRTRasterBand>"
        "</MaskBand><Input><VRTDataset><A><SourceFilename relativeToVRT='1'>vrt://c.tif?bands=1"
        f"</SourceFilename></A></VRTDataset></Input><SourceFilename>{tmp_path}/d.tif</SourceFilename>"
        "<DEMPath relativeToVRT='1'>dem.tif</DEMPath><SourceFilename>/vsicurl/https://example.org/e.tif</SourceFilename>"
        "</VRTDataset>"
    )
    (tmp_path / "all.vrt").write_text(text)
    found = dependencies.virtual_sources(tmp_path / "all.vrt")
    assert [path.name for path in found] == ["a.tif", "b.tif", "c.tif", "d.tif", "dem.tif"]


@pytest.mark.parametrize("outer", [True, False])
def test_a_missing_source_is_named_before_anything_is_read(tmp_path, outer):
    write_mosaic(tmp_path / "inner.vrt", "gone.tif")
    write_mosaic(tmp_path / "outer.vrt", "inner.vrt")
    path = tmp_path / ("outer.vrt" if outer else "inner.vrt")
    message = re.escape(f"{tmp_path}/inner.vrt: its source {tmp_path}/gone.tif does not exist; copy it there")
    with pytest.raises(DataError, match=message):
        read_header(path)
    with pytest.raises(DataError, match=message):
        input_stamps(path)
    assert re.match(message, check_scene(path)[0])


def test_a_vrt_that_names_itself_ends(tmp_path):
    write_mosaic(tmp_path / "a.vrt", "b.vrt")
    write_mosaic(tmp_path / "b.vrt", "a.vrt")
    assert len(input_stamps(tmp_path / "a.vrt")) == 2


def test_gdal_names_the_files_of_formats_that_are_told_by_no_suffix(tmp_path):
    with rasterio.open(tmp_path / "a.dat", "w", driver="ENVI", height=4, width=6, count=1, dtype="uint8"):
        pass
    names = [Path(stamp[0]).name for stamp in input_stamps(tmp_path / "a.dat")]
    assert names[0] == "a.dat"
    assert "a.hdr" in names


def statuses(folder: Path, *overrides: str) -> list[str]:
    """What prepare, train, evaluate and inference of the example say, as a new command runs them."""
    task, context = example_task(folder, f"inference.output_dir={folder}/maps", *overrides)
    return [phase.run(task, context).status for phase in (prepare, train, evaluate, inference)]


def read_map(folder: Path) -> np.ndarray:
    """The classes that inference has written, (H, W)."""
    with rasterio.open(folder / "maps" / "scene_0_classes.tif") as raster:
        return raster.read(1)


def test_a_mask_that_appears_beside_a_picture_repeats_all_phases(tmp_path):
    assert statuses(tmp_path) == ["done"] * 4
    assert statuses(tmp_path) == ["up to date"] * 4
    assert (read_map(tmp_path) != 255).all()
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"),
        rasterio.open(tmp_path / "pictures" / "scene_0.tif", "r+") as picture,
    ):
        mask = np.full(picture.shape, 255, np.uint8)
        mask[:, :20] = 0
        status = (tmp_path / "pictures" / "scene_0.tif").stat()
        picture.write_mask(mask)
    os.utime(tmp_path / "pictures" / "scene_0.tif", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (tmp_path / "pictures" / "scene_0.tif.msk").is_file()
    assert statuses(tmp_path) == ["done"] * 4
    assert ((read_map(tmp_path) == 255) == (mask == 0)).all()


def test_new_attributes_of_a_shapefile_repeat_what_reads_labels(tmp_path):
    example_task(tmp_path)
    with rasterio.open(tmp_path / "pictures" / "scene_0.tif") as picture:
        left, bottom, right, top = picture.bounds
        crs = str(picture.crs)
    middle = (left + right) / 2
    halves = np.array([shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)])

    def write_labels(kinds: list[str]) -> None:
        columns = [np.array(kinds, dtype=object)]
        pyogrio.raw.write(
            tmp_path / "new.shp", shapely.to_wkb(halves), columns, ["kind"], geometry_type="Polygon", crs=crs
        )

    overrides = (f"paths.label_path={tmp_path}/l.shp", "dataset.label_attribute=kind")
    write_labels(["dark", "light"])
    for path in tmp_path.glob("new.*"):
        path.rename(path.with_name(f"l{path.suffix}"))
    assert statuses(tmp_path, *overrides) == ["done"] * 4
    assert statuses(tmp_path, *overrides) == ["up to date"] * 4
    write_labels(["light", "dark"])
    (tmp_path / "new.dbf").replace(tmp_path / "l.dbf")  # as a spreadsheet does: the shapes stay as they were
    later(tmp_path / "l.dbf")
    assert statuses(tmp_path, *overrides)[:3] == ["done"] * 3
