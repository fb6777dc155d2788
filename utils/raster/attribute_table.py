"""Class names, colours and pixel counts beside a class map, where GDAL and QGIS look for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

SIDECAR = ".aux.xml"  # GDAL's file of what a format cannot hold; after the whole name of the raster
_HEAD = '<PAMDataset>\n <PAMRasterBand band="1">\n  <CategoryNames>\n'
# Name, GDALRATFieldType and GDALRATFieldUsage of each column.
_COLUMNS = (("Value", 0, 5), ("Class", 2, 2), ("Count", 1, 1), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))


def sidecar_path(raster: str | Path) -> Path:
    """Path of the sidecar file of a raster.

    Examples
    --------
    >>> sidecar_path("maps/a.tif").as_posix()
    'maps/a.tif.aux.xml'
    """
    return Path(f"{raster}{SIDECAR}")


def is_attribute_table(path: str | Path) -> bool:
    """Whether a file is a sidecar as `attribute_table` writes it.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.tif.aux.xml"
    >>> _ = path.write_text(attribute_table(["a"], np.zeros((1, 3), np.uint8), [4]))
    >>> is_attribute_table(path)
    True
    """
    head = _HEAD.encode()
    with open(path, "rb") as stream:
        return stream.read(len(head)) == head


def attribute_table(class_names: Sequence[str], palette: np.ndarray, counts: Sequence[int]) -> str:
    """Write the category names and the raster attribute table of a class map.

    Parameters
    ----------
    class_names : sequence of str
        K names.
    palette : ndarray, shape (K, 3)
        Red, green, blue in 0..255.
    counts : sequence of int
        Pixels of each class.

    Returns
    -------
    str
        The text of GDAL's sidecar file.

    References
    ----------
    GDAL, Persistent Auxiliary Metadata and `GDALRATFieldUsage` (gdal.org).

    Examples
    --------
    >>> text = attribute_table(["a<b", "c"], np.array([[255, 0, 16], [1, 2, 3]]), [5, 0])
    >>> [line.strip() for line in text.splitlines() if "Row index" in line or "<Category>" in line][1:3]
    ['<Category>c</Category>', '<Row index="0"><F>0</F><F>a&lt;b</F><F>5</F><F>255</F><F>0</F><F>16</F></Row>']
    """
    names = [f"   <Category>{escape(name)}</Category>" for name in class_names]
    fields = [
        f'   <FieldDefn index="{index}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>'
        for index, (name, kind, usage) in enumerate(_COLUMNS)
    ]
    rows = []
    for index, (name, count, color) in enumerate(zip(class_names, counts, palette.astype(int).tolist(), strict=True)):
        cells = "".join(f"<F>{escape(str(value))}</F>" for value in (index, name, count, *color))
        rows.append(f'   <Row index="{index}">{cells}</Row>')
    table = ['  <GDALRasterAttributeTable tableType="thematic">', *fields, *rows, "  </GDALRasterAttributeTable>"]
    lines = [*names, "  </CategoryNames>", *table, " </PAMRasterBand>", "</PAMDataset>", ""]
    return _HEAD + "\n".join(lines)
