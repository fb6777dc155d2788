"""Virtual rasters (VRT): files that name other files. They are opened when they are asked for and name none outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from utils.errors import DataError
from utils.runtime.reading import check_regular, file_errors, read_bounded

SUFFIX = ".vrt"
_IN_A_FILE = re.compile(r"^(?:/vsi[a-z0-9_]+/|[A-Za-z][A-Za-z0-9_]+:(?://)?(?:\d+:)?)+")  # /vsizip/, NETCDF:, vrt://
_NETWORK = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)|(?<!vrt)://", re.IGNORECASE)
_PROGRAMS = ("pixelfunctioncode", "pixelfunctionlanguage")
MAX_BYTES = 2**27  # a mosaic of 100,000 tiles


_TRUSTED: dict[str, tuple[str | None, bool]] = {}  # what `trust_vrts` said of a path


def trust_vrts(paths: Iterable[str | Path], root: str | Path | None, anywhere: bool) -> None:
    """Say from where virtual rasters may take pixels besides their own folder; of others nothing is known.

    Parameters
    ----------
    paths : iterable of str or Path
        Files that are about to be read.
    root : str or Path, optional
        Those below this folder may take pixels from all of it.
    anywhere : bool
        They may be virtual rasters whatever their suffix, and take pixels from any file of this machine.

    Examples
    --------
    >>> trust_vrts(["/data/maps/m.vrt"], "/data", anywhere=False)
    >>> allows(Path("/data/maps/m.vrt"), Path("/data/tiles/a.tif")), allows(Path("/m.vrt"), Path("/../etc/a.tif"))
    (True, True)
    >>> allows(Path("/data/maps/m.vrt"), Path("/etc/a.tif")), allows(Path("/maps/m.vrt"), Path("/data/tiles/a.tif"))
    (False, False)
    """
    _TRUSTED.update({str(path): (None if root is None else os.path.realpath(root), anywhere) for path in paths})


def allows(vrt: Path, source: Path) -> bool:
    """Whether a virtual raster may take pixels from a file.

    Examples
    --------
    >>> allows(Path("/a/m.vrt"), Path("/a/tiles/b.tif")), allows(Path("/a/m.vrt"), Path("/a/../etc/b.tif"))
    (True, False)
    """
    root, anywhere = _TRUSTED.get(str(vrt), (None, False))
    own, other = Path(os.path.realpath(vrt)), Path(os.path.realpath(source))
    below = root is not None and own.is_relative_to(root) and other.is_relative_to(root)
    return anywhere or below or other.is_relative_to(own.parent)


def is_virtual(path: Path) -> bool:
    """Whether a file is a VRT, which GDAL tells by its content.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.vrt"
    >>> _ = path.write_text('<VRTDataset rasterXSize="6" rasterYSize="4"/>')
    >>> is_virtual(path), is_virtual(path.with_name("none.vrt"))
    (True, False)
    """
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return b"<VRTDataset" in stream.read(1024)


def check_vrt(path: str | Path, above: tuple[Path, ...] = ()) -> None:
    """Refuse a virtual raster that is not asked for, or that takes pixels from where it may not; sources likewise.

    Parameters
    ----------
    path : str or Path
        The file.
    above : tuple of Path
        Virtual rasters that lead to this one.

    Raises
    ------
    DataError
        If it has another suffix, takes pixels from what is missing, no file, or outside of what is trusted, or
        runs a program.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.vrt"
    >>> _ = path.write_text("<VRTDataset><SourceFilename>/vsicurl/http://a/b.tif</SourceFilename></VRTDataset>")
    >>> check_vrt(path)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.vrt: takes pixels from /vsicurl/http://a/b.tif, which is no file here; copy it ...
    """
    path = Path(path)
    real = Path(os.path.realpath(path))
    if path.suffix.lower() != SUFFIX and not _TRUSTED.get(str(path), (None, False))[1]:
        raise DataError(
            f"{path}: its content is a virtual raster (VRT), which takes its pixels from other files; give it the "
            f"suffix {SUFFIX}{_lift(path)}"
        )
    if real in above:
        raise DataError(f"{path}: a virtual raster that is made of itself; name the files that hold the pixels")
    root = _parse(path)
    if any(element.tag.lower() in _PROGRAMS for element in root.iter()):
        raise DataError(f"{path}: a virtual raster that runs a program; write its values to a GeoTIFF")
    for name, relative in dict.fromkeys(_source_names(root)):
        source = None if _NETWORK.search(name) else _locate_source(path, name, relative)
        if source is None:
            raise DataError(f"{path}: takes pixels from {name[:200]}, which is no file here; copy it here, and name it")
        if not allows(path, source):
            trusted = "its folder and of paths.data_root" if str(path) in _TRUSTED else "its folder"
            raise DataError(f"{path}: takes pixels from {source}, outside of {trusted}; move it there{_lift(path)}")
        check_regular(source)
        if is_virtual(source):
            trust_vrts([source], *_TRUSTED.get(str(path), (None, False)))
            check_vrt(source, (*above, real))


def _lift(path: Path) -> str:
    """How to lift the limits of a VRT: kinds of task that have a setting for it have said what they trust.

    Examples
    --------
    >>> _lift(Path("of_keypoints.vrt"))
    ', or write its pixels to a GeoTIFF with gdal_translate'
    """
    if str(path) in _TRUSTED:
        return ", or set dataset.allow_vrt: true"
    return ", or write its pixels to a GeoTIFF with gdal_translate"


def _parse(path: Path) -> ElementTree.Element:
    """Parse the XML of a VRT.

    Raises
    ------
    DataError
        If it is no XML, or larger than one can be.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.vrt"
    >>> _ = path.write_text("<VRTDataset><A/>")
    >>> _parse(path)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.vrt: damaged VRT (ParseError: no element found: line 1, column 16); build it anew ...
    """
    with file_errors(path, "damaged VRT", "build it anew (gdalbuildvrt)"):
        return ElementTree.fromstring(read_bounded(path, MAX_BYTES))


def virtual_sources(path: str | Path) -> list[Path]:
    """The local files that a VRT names as sources of its pixels and places; none for other files.

    Raises
    ------
    DataError
        If one does not exist, where GDAL may give an empty area, or the file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.vrt"
    >>> source = '<SimpleSource><SourceFilename relativeToVRT="1">b.tif</SourceFilename></SimpleSource>'
    >>> _ = path.write_text(f'<VRTDataset><VRTRasterBand band="1">{source}</VRTRasterBand></VRTDataset>')
    >>> virtual_sources(path)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.vrt: its source ...b.tif does not exist; copy it there, or build the VRT anew ...
    >>> path.with_name("b.tif").touch()
    >>> [source.name for source in virtual_sources(path)]
    ['b.tif']
    """
    path = Path(path)
    if not is_virtual(path):
        return []
    names = dict.fromkeys(_source_names(_parse(path)))
    sources = [_locate_source(path, name, relative) for name, relative in names]
    return list(dict.fromkeys(source for source in sources if source is not None))


def _source_names(root: ElementTree.Element) -> Iterator[tuple[str, bool]]:
    """Names of sources in a VRT, also of masks, overviews and VRTs within it, and whether they start at its folder.

    Examples
    --------
    >>> text = '<V><O><SourceDataset relativeToVRT="1">a.tif</SourceDataset></O><MDI key="X_DATASET">b.tif</MDI></V>'
    >>> list(_source_names(ElementTree.fromstring(text)))
    [('a.tif', True), ('b.tif', False)]
    """
    for element in root.iter():  # GDAL takes no notice of the case of tags and attributes
        tag, facts = element.tag.lower(), {key.lower(): value for key, value in element.attrib.items()}
        named = tag in ("sourcefilename", "sourcedataset", "dempath")
        geolocation = tag == "mdi" and facts.get("key", "").upper() in ("X_DATASET", "Y_DATASET")
        argument = tag == "argument" and "dataset_filename" in facts.get("name", "").lower()
        if (named or geolocation or argument) and element.text and element.text.strip():
            yield element.text.strip(), facts.get("relativetovrt") == "1"


def _locate_source(path: Path, name: str, relative: bool) -> Path | None:
    """The file of a source of a VRT; None for one that is in no local file, such as one on a server.

    Raises
    ------
    DataError
        If a plain path does not exist.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.vrt"
    >>> path.with_name("b.nc").touch()
    >>> _locate_source(path, f'NETCDF:"{path.parent}/b.nc":t', False).name
    'b.nc'
    >>> _locate_source(path, "/vsicurl/https://example.org/a.tif", False) is None
    True
    """
    candidates = [path.parent / name, Path(name)]
    candidates = candidates if relative else candidates[::-1]
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is not None:
        return found
    inside = _IN_A_FILE.sub("", name)
    if inside == name and not name.startswith("<"):
        raise DataError(
            f"{path}: its source {candidates[0]} does not exist; copy it there, or build the VRT anew (gdalbuildvrt)"
        )
    inside = re.split(r'["}?]', inside.strip('"{'))[0]
    places = [place for start in (Path(inside), path.parent / inside) for place in (start, *start.parents)]
    return next((place for place in places if place.is_file()), None)
