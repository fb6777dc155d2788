"""Files that are read with a raster or vector file: those beside it, and the sources of a virtual raster.

GDAL reads georeference, masks, nodata, overviews and attributes from files beside the named one, and the pixels of a
VRT from its sources. An input has changed when any of these has, or when one has appeared or gone.
"""

from __future__ import annotations

import functools
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from utils.errors import DataError
from utils.media.videos import SUFFIXES as VIDEO_SUFFIXES
from utils.raster.gdal import gdal_errors, note_version, open_raster
from utils.raster.label_pairs import VECTOR_SUFFIXES
from utils.raster.scene_paths import RASTER_SUFFIXES
from utils.raster.vrt import is_virtual, virtual_sources
from utils.runtime.files import digest_json, file_stamp

_AFTER_NAME = (".aux.xml", ".msk", ".ovr", ".msk.ovr", ".msk.aux.xml", ".aux", ".hdr", "-wal", "-journal")
_AFTER_STEM = (
    *(".aux.xml", ".aux", ".rrd", ".ovr", ".prj", ".wld", ".tab", ".hdr", ".clr", ".stx"),  # rasters
    *(".imd", ".rpb", "_rpc.txt", "_metadata.txt", "_mtl.txt"),  # scenes of satellites
    *(".shx", ".dbf", ".cpg", ".qpj", ".sbn", ".sbx", ".qix"),  # Shapefile
    *(".dat", ".map", ".id", ".ind", ".mid", ".gfs", ".xsd", ".csvt"),  # MapInfo, GML, csv
)
# What GDAL reads with these is known by name; of any other format it is asked.
_KNOWN_BY_NAME = frozenset({*RASTER_SUFFIXES, *VECTOR_SUFFIXES, *VIDEO_SUFFIXES})
_RACY_NS = 2 * 10**9  # a folder that changed later than this may change again without another time
_MANY = 1000  # files of one mosaic above which its stamps are kept for a while: each of its blocks asks for them
_KEPT: dict[str, tuple[float, list[list]]] = {}


def input_stamps(path: str | Path) -> list[list]:
    """Path, size and time of a file and of all that is read with it: changes when any of them does.

    Statistics and histograms, which viewers add to an `.aux.xml`, change nothing that is read and do not count.

    Parameters
    ----------
    path : str or Path
        A raster, picture or vector file.

    Returns
    -------
    list of list
        The file's own stamp first (see `file_stamp`).

    Raises
    ------
    DataError
        If a source of a VRT does not exist.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.shp", "a.dbf", "a.PRJ", "ab.dbf", "a.txt"):
    ...     (folder / name).touch()
    >>> [Path(stamp[0]).name for stamp in input_stamps(folder / "a.shp")]
    ['a.shp', 'a.PRJ', 'a.dbf']
    """
    began = time.monotonic()
    until, stamps = _KEPT.get(str(path), (began, []))
    if began < until:
        return stamps
    first, *others = _walk(Path(path), {})
    stamps = [file_stamp(first)]
    for other in others:
        if other.name.lower().endswith(".aux.xml"):
            digest = _digest_auxiliary(other)
            stamps += [[str(other.resolve()), digest]] if digest else []
        else:
            stamps.append(file_stamp(other))
    note_version(str(path), digest_json(stamps))
    if len(stamps) > _MANY:
        _KEPT[str(path)] = (began + 10 * (time.monotonic() - began), stamps)
    return stamps


def _walk(path: Path, seen: dict[str, None]) -> Iterator[Path]:
    """A file, the files beside it that are read with it, and the same of the sources of a VRT, each once.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.jpg"
    >>> for name in ("a.jpg", "a.jgw", "a.jpg.msk", "a.json"):
    ...     path.with_name(name).touch()
    >>> [found.name for found in _walk(path, {})]
    ['a.jpg', 'a.jgw', 'a.jpg.msk']
    """
    key = str(path.absolute())
    if key in seen:
        return
    seen[key] = None
    yield path
    for other in [*files_beside(path), *_files_of_dataset(path)]:
        if str(other.absolute()) not in seen:
            seen[str(other.absolute())] = None
            yield other
    for source in virtual_sources(path):
        yield from _walk(source, seen)


def files_beside(path: Path) -> list[Path]:
    """The existing files that GDAL reads with a file because of their names, whatever their case.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.tif", "a.tif.aux.xml", "a.TFW", "a_RPC.TXT", "b.tfw", "a.b.tfw"):
    ...     (folder / name).touch()
    >>> [found.name for found in files_beside(folder / "a.tif")]
    ['a.TFW', 'a.tif.aux.xml', 'a_RPC.TXT']
    """
    name, stem, suffix = path.name.lower(), path.stem.lower(), path.suffix.lower()[1:]
    world = (f".{suffix[:1]}{suffix[-1:]}w", f".{suffix}w")
    wanted = {name + ending for ending in _AFTER_NAME} | {stem + ending for ending in (*_AFTER_STEM, *world)}
    folder = path.parent
    if not folder.is_dir():  # such as GDAL's own /vsimem/
        return []
    if not os.access(folder, os.R_OK):  # its files can be read, but not listed
        return [folder / other for other in sorted(wanted) if other != path.name and (folder / other).is_file()]
    changed = folder.stat().st_mtime_ns
    listed = _list_folder if time.time_ns() - changed > _RACY_NS else _list_folder.__wrapped__
    names = listed(str(folder.absolute()), changed)
    found = sorted(other for key in wanted for other in names.get(key, ()) if other != path.name)
    empty = [
        other for other in found if other.lower().endswith(("-wal", "-journal")) and not (folder / other).stat().st_size
    ]
    return [folder / other for other in found if other not in empty]  # SQLite makes and drops empty ones as it reads


@functools.lru_cache(maxsize=64)
def _list_folder(folder: str, changed_ns: int) -> dict[str, list[str]]:
    """Names in a folder by their lower-case form; `changed_ns`, its time, tells one listing from the next.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> Path(folder, "A.tfw").touch()
    >>> _list_folder(folder, 0)
    {'a.tfw': ['A.tfw']}
    """
    names = defaultdict(list)
    for name in os.listdir(folder):
        names[name.lower()].append(name)
    return dict(names)


def _files_of_dataset(path: Path) -> list[Path]:
    """What GDAL says it reads of a format whose files cannot be told by their names.

    Examples
    --------
    >>> import tempfile
    >>> import rasterio
    >>> path = Path(tempfile.mkdtemp()) / "a.bil"
    >>> rasterio.open(path, "w", driver="EHdr", height=4, width=6, count=1, dtype="uint8").close()
    >>> [found.name for found in _files_of_dataset(path)]
    ['a.bil', 'a.hdr']
    """
    if path.suffix.lower() in _KNOWN_BY_NAME or is_virtual(path):
        return []
    try:
        with gdal_errors(str(path), "opened"):
            return [Path(name) for name in open_raster(str(path)).files if Path(name).is_file()]
    except DataError:
        return []  # who reads it reports that it cannot be read


def _digest_auxiliary(path: Path) -> str | None:
    """Digest what an `.aux.xml` says besides statistics and histograms; None where nothing is left.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.tif.aux.xml"
    >>> band = '<PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">{}</MDI></Metadata>{}</PAMRasterBand>'
    >>> _ = path.write_text(f"<PAMDataset>{band.format(3, '')}</PAMDataset>")
    >>> _digest_auxiliary(path) is None
    True
    >>> _ = path.write_text(f"<PAMDataset>{band.format(3, '<NoDataValue>0</NoDataValue>')}</PAMDataset>")
    >>> len(_digest_auxiliary(path))
    32
    """
    content = path.read_bytes()
    try:
        facts = _auxiliary_facts(ElementTree.fromstring(content))
    except ElementTree.ParseError:
        return digest_json(content.hex())
    return digest_json(facts) if facts else None


def _auxiliary_facts(element: ElementTree.Element) -> list | None:
    """Tag, attributes, text and children of an element without statistics; None where nothing is left.

    Examples
    --------
    >>> _auxiliary_facts(ElementTree.fromstring('<PAMDataset><Metadata><MDI key="a">b</MDI></Metadata></PAMDataset>'))
    ['PAMDataset', [], '', [['Metadata', [], '', [['MDI', [('key', 'a')], 'b', []]]]]]
    >>> _auxiliary_facts(ElementTree.fromstring('<PAMDataset><Histograms><HistItem/></Histograms></PAMDataset>'))
    """
    if element.tag == "Histograms" or element.get("key", "").startswith("STATISTICS_"):
        return None
    children = [fact for child in element if (fact := _auxiliary_facts(child)) is not None]
    if not children and element.tag in ("PAMDataset", "PAMRasterBand", "Metadata"):
        return None
    return [element.tag, sorted(element.items()), (element.text or "").strip(), children]
