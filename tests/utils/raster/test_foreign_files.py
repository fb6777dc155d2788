"""Files that would make GDAL read others or use the network, and paths that libraries take apart."""

import ast
import base64
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import shapely

from utils.errors import DataError
from utils.raster.drivers import RASTER_DRIVERS, VECTOR_DRIVERS
from utils.raster.files import RasterFile, check_scene, write_raster
from utils.raster.header import read_header
from utils.raster.label_pairs import pair_labels
from utils.raster.polygons import write_polygons
from utils.raster.scene_paths import find_scenes
from utils.raster.tiling import Window
from utils.raster.vector_files import read_features, read_layer_info, write_features
from utils.raster.vrt import trust_vrts
from utils.raster.writer import ClassRasterWriter, is_prediction

ROOT = Path(__file__).parents[3]
SOURCE = "<SimpleSource><SourceFilename {}>{}</SourceFilename></SimpleSource>"
BAND = f'<VRTRasterBand dataType="Byte" band="1">{SOURCE}</VRTRasterBand>'
POINT = '{"type": "Feature", "properties": {"kind": "a"}, "geometry": {"type": "Point", "coordinates": [1, 2]}}'
ODD = "a!b;c #d?e&f%41 'g'"


def vrt(name: str, relative: str = 'relativeToVRT="1"') -> str:
    return f'<VRTDataset rasterXSize="4" rasterYSize="4">{BAND.format(relative, name)}</VRTDataset>'


@pytest.fixture
def server():
    """An address of this machine, and the requests that reached it."""
    requests = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                requests.append(connection.recv(100))
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        listener.shutdown(socket.SHUT_RDWR)


def calling(address: str) -> dict[str, str]:
    """Contents that make GDAL ask an address, by a name that claims something else."""
    window = (
        "<UpperLeftX>0</UpperLeftX><UpperLeftY>9</UpperLeftY><LowerRightX>9</LowerRightX><LowerRightY>0</LowerRightY>"
    )
    tiles = (
        f"{window}<TileLevel>1</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY><YOrigin>top</YOrigin>"
    )
    link = {"type": "link", "properties": {"href": f"{address}/crs", "type": "ogcwkt"}}
    stac = {"type": "Feature", "stac_version": "1.0.0", "assets": {"a": {"href": f"{address}/a"}}}
    collection = {"type": "FeatureCollection", "crs": link, "features": [json.loads(POINT)]}
    return {
        "mosaic.vrt": vrt(f"/vsicurl/{address}/a.tif"),
        "lower.vrt": vrt(f"/vsicurl/{address}/a.tif").replace("SourceFilename", "sourcefilename"),
        "picture.tif": vrt(f"/vsicurl/{address}/a.tif"),
        "picture.png": vrt(f"{address}/a.tif"),
        "wms.tif": f'<GDAL_WMS><Service name="TMS"><ServerUrl>{address}/${{z}}</ServerUrl></Service><DataWindow>{tiles}'
        "</DataWindow><Projection>EPSG:3857</Projection><BandsCount>3</BandsCount></GDAL_WMS>",
        "wmts.jp2": f"<GDAL_WMTS><GetCapabilitiesUrl>{address}/c</GetCapabilitiesUrl></GDAL_WMTS>",
        "wcs.tif": f"<WCS_GDAL><ServiceURL>{address}/wcs?</ServiceURL><CoverageName>c</CoverageName></WCS_GDAL>",
        "ogr.geojson": f'<OGRVRTDataSource><OGRVRTLayer name="x"><SrcDataSource>/vsicurl/{address}/x.geojson'
        "</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>",
        "wfs.geojson": f"<OGRWFSDataSource><URL>{address}/wfs</URL></OGRWFSDataSource>",
        "link.geojson": json.dumps(collection),
        "escaped.geojson": json.dumps(collection).replace('"crs"', '"\\u0063rs"'),
        "stac.geojson": json.dumps(stac),
    }


def test_no_file_makes_a_request(server, tmp_path):
    """In a process of its own, where GDAL starts with this program's settings, as in a run."""
    address, requests = server
    for name, text in calling(address).items():
        (tmp_path / name).write_text(text)
    program = (
        "import sys; from pathlib import Path\n"
        "from utils.errors import DataError; from utils.raster.files import check_scene\n"
        "from utils.raster.vector_files import read_features\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    for read in (lambda: check_scene(path) and 'refused', lambda: read_features(path, None, None)):\n"
        "        try: outcome = read() or 'read'\n"
        "        except DataError as error: outcome = 'refused'\n"
        "        print(path.name, outcome)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "no_proxy": "127.0.0.1,localhost"}  # as on many desktops
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n")[:-1] == [f"{name} refused" for name in sorted(calling("")) for _ in range(2)]
    assert done.stderr == ""
    assert requests == []


def test_the_server_of_these_tests_counts(server):
    import urllib.request

    address, requests = server
    with pytest.raises(OSError, match=r"\w"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/a", timeout=5)
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{"type": "Feat', 'loadGeoJSON({"type": "Feat', "its crs is a link to http://a/crs"),
        ('"ogcwkt"}', '"ogcwkt",}', r"its crs \(at byte \d+\) is not JSON"),
        ('"crs": {', '"crs": /* x */ {', r"its crs \(at byte \d+\) is not JSON"),
        ('"crs": {', '"crs": {"z": "' + "y" * 70_000 + '", ', "its crs is a link to http://a/crs"),
        ('"crs": {', '"crs": {"type": "name", ', "the key 'type' is a duplicate in one object"),
    ],
)
def test_a_crs_that_hides_its_link_is_refused(tmp_path, old, new, message):
    text = calling("http://a")["link.geojson"]
    assert old in text
    (tmp_path / "a.geojson").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        read_layer_info(tmp_path / "a.geojson", None)


def test_a_class_that_is_stated_twice_is_refused(tmp_path):
    path = tmp_path / "a.geojson"
    write_features(path, [shapely.box(0, 0, 1, 1)] * 2, crs="EPSG:4326", kind=["field", "road"])
    path.write_text(path.read_text().replace('"kind": "road"', '"kind": "road", "kind": "field"'))
    with pytest.raises(DataError, match=r"a\.geojson: at byte \d+: the key 'kind' is a duplicate in one object"):
        read_layer_info(path, None)


FEATURE = '{"type": "Feature", "properties": {"kind": "field"}, "geometry": {"type": "Point", "coordinates": [1, 2]}}'


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"geometry"', '"properties": {"kind": "road"}, "geometry"', "properties"),
        ('"geometry"', '"propertie\\u0073": {"kind": "road"}, "geometry"', "properties"),
        ('"geometry"', '"geometry": null, "geometry"', "geometry"),
        ("[1, 2]", '[1, 2], "coordinates": [8, 9]', "coordinates"),
        ('"field"', '"field", "text": "' + "y" * 100_000 + '", "kind": "road"', "kind"),
        ('"field"', '"field", "text": "{\\"kind\\"}", "kind": "road"', "kind"),
    ],
)
def test_a_key_that_is_stated_twice_is_refused_wherever_it_stands(tmp_path, old, new, key):
    path = tmp_path / "a.geojson"
    text = f'{{"type": "FeatureCollection", "features": [{FEATURE}, {FEATURE.replace(old, new)}]}}'
    path.write_text(text)
    with pytest.raises(DataError, match=rf"a\.geojson: at byte \d+: the key '{key}' is a duplicate in one object"):
        read_layer_info(path, None)
    path.write_text("\n".join([FEATURE, FEATURE.replace(old, new)]))  # one feature in a line
    with pytest.raises(DataError, match=rf"the key '{key}' is a duplicate in one object"):
        read_layer_info(path, None)


def test_long_properties_are_read_whole(tmp_path):
    path, long = tmp_path / "a.geojson", "y{" * 100_000
    longer = FEATURE.replace('"field"', f'"road", "text": "{long}", "nested": {{"kind": "x", "text": "\\\\"}}')
    path.write_text(f'{{"type": "FeatureCollection", "features": [{FEATURE}, {longer}]}}')
    assert read_features(path, None, "kind").values.tolist() == ["field", "road"]
    assert read_features(path, None, "text").values.tolist() == [None, long]


def test_a_crs_that_is_a_link_is_refused_by_name(tmp_path):
    for name in ("link.geojson", "escaped.geojson"):
        (tmp_path / name).write_text(calling("http://a")[name])
        with pytest.raises(DataError, match=rf"{name}: its crs is a link to http://a/crs.*ogr2ogr -a_srs"):
            read_layer_info(tmp_path / name, None)
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    (tmp_path / "a.geojson").write_text(json.dumps({**json.loads(calling("")["link.geojson"]), "crs": named}))
    assert read_layer_info(tmp_path / "a.geojson", None).crs.to_epsg() == 32632


@pytest.mark.parametrize("name", ["EPSG:99999", "urn:ogc:def:crs:EPSG::99999", "Gauss-Krueger", ""])
def test_a_crs_that_nobody_knows_is_not_taken_for_degrees(tmp_path, name):
    named = {"type": "name", "properties": {"name": name}}
    (tmp_path / "a.geojson").write_text(json.dumps({**json.loads(calling("")["link.geojson"]), "crs": named}))
    with pytest.raises(DataError, match=r"a\.geojson: its crs is named .* which is unknown"):
        read_layer_info(tmp_path / "a.geojson", None)


@pytest.mark.parametrize(
    "name", ["CRS84", "urn:ogc:def:crs:OGC:1.3:CRS84", "http://www.opengis.net/def/crs/EPSG/0/4326"]
)
def test_names_of_degrees_are_known(tmp_path, name):
    named = {"type": "name", "properties": {"name": name}}
    (tmp_path / "a.geojson").write_text(json.dumps({**json.loads(calling("")["link.geojson"]), "crs": named}))
    assert read_layer_info(tmp_path / "a.geojson", None).crs.is_geographic


# --- virtual rasters -------------------------------------------------------------------------------------------------


@pytest.fixture
def mosaic(tmp_path):
    """Folders `data/maps` and `data/tiles`, where a tile holds sevens; gives a function that writes a VRT."""
    for folder in ("data/maps", "data/tiles", "secret"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("data/tiles/a.tif", "data/maps/near.tif", "secret/b.tif"):
        write_raster(tmp_path / name, np.full((4, 4), 7, np.uint8))

    def write(text: str, name: str = "m.vrt") -> Path:
        path = tmp_path / "data" / "maps" / name
        path.write_text(text)
        return path

    return write


def test_a_vrt_with_sources_in_its_folder_is_read(mosaic):
    assert RasterFile(mosaic(vrt("near.tif"))).read(Window(0, 0, 4, 4), [1]).values.tolist() == [[[7] * 4] * 4]


@pytest.mark.parametrize("name", ["../tiles/a.tif", "../../secret/b.tif"])
def test_a_vrt_reads_other_folders_only_below_the_data_root_or_where_it_may(mosaic, tmp_path, name):
    path = mosaic(vrt(name))
    with pytest.raises(DataError, match=r"outside of its folder; move it there, or write its pixels to a GeoTIFF"):
        read_header(path)  # as a kind of task does that has no dataset.allow_vrt
    trust_vrts([path], tmp_path / "data", anywhere=False)
    if "secret" in name:
        told = r"outside of its folder and of paths\.data_root; move it there, or set dataset\.allow_vrt: true"
        with pytest.raises(DataError, match=told):
            read_header(path)
        trust_vrts([path], tmp_path / "data", anywhere=True)
    assert RasterFile(path).read(Window(0, 0, 1, 1), [1]).values.tolist() == [[[7]]]


def test_a_picture_that_is_a_vrt_is_refused_unless_it_is_allowed(mosaic):
    path = mosaic(vrt("near.tif"), "picture.tif")
    trust_vrts([path], None, anywhere=False)
    with pytest.raises(DataError, match=r"picture\.tif: its content is a virtual raster.*dataset\.allow_vrt: true"):
        read_header(path)
    trust_vrts([path], None, anywhere=True)
    assert read_header(path).driver == "VRT"


def test_sources_of_sources_are_checked_and_links_are_followed(mosaic, tmp_path):
    mosaic(vrt("../../secret/b.tif"), "inner.vrt")
    with pytest.raises(DataError, match=r"inner\.vrt: takes pixels from .*secret"):
        read_header(mosaic(vrt("inner.vrt"), "outer.vrt"))
    (tmp_path / "data" / "maps" / "link.tif").symlink_to(tmp_path / "secret" / "b.tif")
    with pytest.raises(DataError, match="outside of its folder"):
        read_header(mosaic(vrt("link.tif"), "linked.vrt"))
    with pytest.raises(DataError, match="made of itself"):
        read_header(mosaic(vrt("self.vrt"), "self.vrt"))


@pytest.mark.parametrize("name", ["/vsicurl/http://a/b.tif", "http://a/b.tif", "/vsis3/a/b.tif", "&lt;VRTDataset/&gt;"])
def test_sources_that_are_no_files_are_refused_even_where_vrts_are_allowed(mosaic, name):
    path = mosaic(vrt(name))
    trust_vrts([path], None, anywhere=True)
    with pytest.raises(DataError, match="which is no file here"):
        read_header(path)


def test_a_vrt_may_not_run_a_program_and_must_be_whole(mosaic):
    code = "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode>1</PixelFunctionCode>"
    with pytest.raises(DataError, match="runs a program"):
        read_header(mosaic(vrt("near.tif").replace("<SimpleSource>", f"{code}<SimpleSource>"), "code.vrt"))
    with pytest.raises(DataError, match=r"half\.vrt: damaged VRT"):
        read_header(mosaic(vrt("near.tif")[:-20], "half.vrt"))


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_overviews_that_lie_elsewhere_are_refused(mosaic, tmp_path, suffix):
    path = tmp_path / "data" / f"a{suffix}"
    write_raster(path, np.zeros((40, 40), np.uint8))
    metadata = '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">../secret/b.tif</MDI></Metadata>'
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{metadata}</PAMDataset>")
    assert "names ../secret/b.tif as its overviews" in check_scene(path)[0]


def test_the_lists_of_formats_hold_what_people_use():
    assert {"GTiff", "PNG", "JPEG", "WEBP", "JP2OpenJPEG", "HFA", "ENVI"} <= set(RASTER_DRIVERS)
    assert {"GPKG", "GeoJSON", "ESRI Shapefile", "FlatGeobuf", "KML", "SQLite"} <= set(VECTOR_DRIVERS)
    assert not {"VRT", "OGR_VRT", "WMS", "WMTS", "WFS", "HTTP"} & {*RASTER_DRIVERS, *VECTOR_DRIVERS}


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp"])
@pytest.mark.parametrize(("folder", "name"), [(ODD, "plain"), ("plain", ODD), (ODD, ODD)])
def test_vector_files_are_read_and_written_whatever_their_names(tmp_path, folder, name, suffix):
    path = tmp_path / folder / f"{name}{suffix}"
    path.parent.mkdir()
    if suffix == ".shp":  # of several files, which a person brings
        write = [tmp_path / "s.shp"]
        import pyogrio

        pyogrio.raw.write(
            write[0],
            shapely.to_wkb([shapely.Point(1, 2)]),
            [np.array([5])],
            ["kind"],
            geometry_type="Point",
            crs="EPSG:32632",
        )
        for part in tmp_path.glob("s.*"):
            part.rename(path.with_suffix(part.suffix))
    else:
        write_features(path, [shapely.Point(1, 2)], crs="EPSG:32632", kind=[5])
    assert read_features(path, None, "kind").values.tolist() == [5]
    assert read_layer_info(path, None).crs.to_epsg() == 32632
    assert {file.stem for file in path.parent.iterdir()} == {name}


@pytest.mark.parametrize(("folder", "name"), [(ODD, ODD), ("zip:", "a!b")])
def test_rasters_and_polygons_are_written_where_they_are_asked_for(tmp_path, folder, name, monkeypatch):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    path = Path(folder, f"{name}.tif")
    writer = ClassRasterWriter(path, height=2, width=3, class_names=["a", "b"], palette=[[0, 0, 0], [1, 1, 1]])
    writer.append(Window(0, 0, 2, 3), np.array([[0, 0, 1], [0, 0, 1]], np.uint8))
    writer.close()
    assert is_prediction(path)
    assert RasterFile(path).read(Window(0, 0, 2, 3), [1]).values.tolist() == [[[0, 0, 1], [0, 0, 1]]]
    polygons = path.with_suffix(".gpkg")
    write_polygons(path, polygons, class_names=["a", "b"])
    assert read_features(polygons, "classes", "class_name").values.tolist() == ["a", "b"]


# --- headers that cannot be true -------------------------------------------------------------------------------------


def tiled_header(side: int) -> bytes:
    """A TIFF of 16-pixel tiles in 200 bytes, whose tables of tiles would begin at its end."""
    tiles = (side // 16) ** 2
    places = [(324, 4, tiles, 150), (325, 4, tiles, 150)]
    facts = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (277, 1), (322, 16), (323, 16)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in facts]
    entries += [struct.pack("<HHII", *place) for place in places]
    return (struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + b"".join(entries)).ljust(200, b"\0")


def test_a_tiled_header_without_its_tiles_is_refused_by_the_bytes_that_are_there(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiled_header(100_000))
    with pytest.raises(DataError, match=r"a\.tif: (100000 x 100000 pixels.*in 39062500 tiles|cannot be )"):
        RasterFile(path).read(Window(0, 0, 16, 16), [1])
    assert check_scene(path)


def test_a_sparse_raster_is_read(tmp_path):
    import rasterio

    path = tmp_path / "a.tif"
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True, "nodata": 0}
    with rasterio.open(
        path, "w", driver="GTiff", width=60_000, height=60_000, count=1, dtype="uint8", **options
    ) as raster:
        raster.write(np.full((1, 512, 512), 7, np.uint8), window=rasterio.windows.Window(0, 0, 512, 512))
    assert path.stat().st_size < 2**20
    block = RasterFile(path).read(Window(0, 508, 1, 8), [1])
    assert block.values.tolist() == [[[7, 7, 7, 7, 0, 0, 0, 0]]]


def write_sparse(path: Path, parts: int, **more) -> None:
    """A raster of 60,000 x 60,000 pixels of which only some blocks of 512 are there."""
    import rasterio

    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True, **more}
    size = {"width": 60_000, "height": 60_000, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **options) as raster:
        for part in range(parts):
            block = rasterio.windows.Window(512 * part, 0, 512, 512)
            raster.write(np.random.default_rng(part).integers(1, 9, (1, 512, 512), np.uint8), window=block)


@pytest.mark.parametrize("more", [{}, {"nodata": 0}, {"tiled": False, "blockysize": 64, "blockxsize": 60_000}])
def test_a_raster_of_which_no_block_is_there_is_refused(tmp_path, more):
    write_sparse(tmp_path / "a.tif", 0, **more)
    message = r"a\.tif: 60000 x 60000 pixels \(height x width\), but none of its \d+ blocks is there: it holds no data"
    with pytest.raises(DataError, match=message):
        read_header(tmp_path / "a.tif")
    assert check_scene(tmp_path / "a.tif")


@pytest.mark.parametrize(("more", "told"), [({"nodata": 0}, "count as nodata"), ({}, "are read as 0, as data")])
def test_the_absent_blocks_of_a_sparse_raster_are_told_once(tmp_path, caplog, more, told):
    caplog.set_level("INFO")
    write_sparse(tmp_path / "a.tif", 2, **more)
    for _ in range(2):
        read_header(tmp_path / "a.tif")
    (text,) = [record.getMessage() for record in caplog.records]
    assert "a.tif: 13922 of 13924 blocks are absent" in text
    assert told in text


@pytest.mark.parametrize("different", [1, 2])
def test_a_raster_whose_blocks_are_all_the_same_bytes_is_refused(tmp_path, different):
    """Its size claims 3.6 GB, of which half a megabyte is there."""
    import tifffile

    write_sparse(tmp_path / "a.tif", different)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as stream:
        tags = stream.pages.first.tags
        for name in ("TileOffsets", "TileByteCounts"):
            values = tags[name].value
            tags[name].overwrite([values[index % different] for index in range(len(values))])
    with pytest.raises(DataError, match=rf"its 13924 blocks are the same {different} again and again: it holds no"):
        read_header(tmp_path / "a.tif")


def test_a_virtual_raster_of_empty_rasters_is_refused_unless_one_holds_data(tmp_path):
    for name, parts in (("a", 0), ("b", 0)):
        write_sparse(tmp_path / f"{name}.tif", parts)
    size = {"rasterXSize": "60000", "rasterYSize": "60000"}
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource>"
        for name in "ab"
    )
    facts = " ".join(f'{key}="{value}"' for key, value in size.items())
    path = tmp_path / "mosaic.vrt"
    path.write_text(
        f'<VRTDataset {facts}><VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(
        DataError, match=r"mosaic\.vrt: 60000 x 60000 .* none of its 13924 blocks is there \(source .*a\."
    ):
        read_header(path)
    write_sparse(tmp_path / "b.tif", 1)
    os.utime(path, (1, 1))
    assert read_header(path).grid.width == 60_000


def test_one_module_alone_imports_the_vector_library():
    """GDAL reads what it may open at its first use: whoever imports the library elsewhere may come too early."""
    importing = set()
    for path in (path for room in ("utils", "tasks", "models") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "pyogrio" for name in names):
                importing.add(path.name)
    assert importing == {"drivers.py"}


def test_a_pipe_or_device_named_as_a_picture_or_label_is_called_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "zero.tif").symlink_to("/dev/zero")
    for name, kind in (("pipe.tif", "a pipe"), ("zero.tif", "a device")):
        for read in (find_scenes, lambda path: pair_labels([], path)):
            with pytest.raises(DataError, match=rf"{name}: {kind}; expected a file on a disk"):
                read(tmp_path / name)


def test_a_raster_that_claims_very_many_bands_is_refused_before_it_is_read(tmp_path):
    write_raster(tmp_path / "a.tif", np.zeros((4, 6, 4096), np.uint8))
    assert len(read_header(tmp_path / "a.tif").dtypes) == 4096
    write_raster(tmp_path / "b.tif", np.zeros((4, 6, 4097), np.uint8))
    with pytest.raises(DataError, match=r"b\.tif: claims 4097 bands, expected at most 4096"):
        read_header(tmp_path / "b.tif")


WALKED = (  # the first 200 bytes of a damaged JPEG 2000 file, through whose code stream GDAL walks for minutes
    "AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAAABpaGRyAAAAKAAAADwAAwcHAAAAAAAPY29scgEA"
    "AAAAABEAAAcfanAyY/9P/1EALwACAAAAPAAAACgAAAAAAAAAAAAAADwAAAAoAAAAAAAAAAAAAwcBAQcBAQcBAf9SAA0BAAAB"
    "AQAEBAAAmf9cAAVCQAD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjP/kAA="
)


def test_the_header_of_a_damaged_jpeg_2000_file_is_read_at_once(tmp_path):
    path = tmp_path / "a.jp2"
    path.write_bytes(base64.b64decode(WALKED))
    code = f"from utils.raster.header import read_header; print(read_header({str(path)!r}).grid.height)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout == "40\n", done.stderr
