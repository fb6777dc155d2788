"""Layer styles for QGIS, which show the classes of a map by name and colour."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

STYLE_HEAD = (  # the first lines of a style, by which a later run recognises it
    "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
    '<qgis version="3.22" styleCategories="Symbology">',
    " <pipe>",
    '  <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">',
    "   <colorPalette>",
)


def is_style(path: str | Path) -> bool:
    """Whether a file is a layer style as `qgis_style` writes it, not one that somebody saved in QGIS.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.qml"
    >>> _ = path.write_text(qgis_style(["a"], np.zeros((1, 3), np.uint8)))
    >>> is_style(path)
    True
    >>> _ = path.write_text(path.read_text().replace("Symbology", "AllStyleCategories"))
    >>> is_style(path)
    False
    """
    head = "\n".join(STYLE_HEAD).encode()
    with open(path, "rb") as stream:
        return stream.read(len(head)) == head


def qgis_style(class_names: Sequence[str], palette: np.ndarray) -> str:
    """Write a layer style for QGIS: the colour and name of each class.

    Parameters
    ----------
    class_names : sequence of str
        K names.
    palette : ndarray, shape (K, 3)
        Red, green, blue in 0..255.

    Returns
    -------
    str
        The text of a `.qml` file; QGIS reads it when it stands beside the raster under the same stem.

    Examples
    --------
    >>> print(qgis_style(["a<b"], np.array([[255, 0, 16]])).splitlines()[5].strip())
    <paletteEntry value="0" color="#ff0010" label="a&lt;b" alpha="255"/>
    """
    entries = [
        f'    <paletteEntry value="{index}" color="#{bytes(color).hex()}" label={quoteattr(name)} alpha="255"/>'
        for index, (name, color) in enumerate(zip(class_names, palette.tolist(), strict=True))
    ]
    return "\n".join([*STYLE_HEAD, *entries, "   </colorPalette>", "  </rasterrenderer>", " </pipe>", "</qgis>", ""])


def qgis_polygon_style(attribute: str, class_names: Sequence[str], palette: np.ndarray) -> str:
    """Write a style for the polygons of QGIS: those of each class in its colour.

    Parameters
    ----------
    attribute : str
        Holds the class's name.
    class_names : sequence of str
        K names.
    palette : ndarray, shape (K, 3)
        Red, green, blue in 0..255.

    Returns
    -------
    str
        The text of a style, as in a `.qml` file or in the table `layer_styles` of a GeoPackage.

    Examples
    --------
    >>> print(qgis_polygon_style("kind", ["a<b"], np.array([[255, 0, 16]])).splitlines()[4].strip())
    <category value="a&lt;b" label="a&lt;b" symbol="0" render="true" type="string"/>
    """
    categories = [
        f'   <category value={quoteattr(name)} label={quoteattr(name)} symbol="{index}" render="true" type="string"/>'
        for index, name in enumerate(class_names)
    ]
    symbols = [
        f'   <symbol type="fill" name="{index}" alpha="1" clip_to_extent="1" force_rhr="0">\n'
        '    <layer class="SimpleFill" enabled="1" locked="0" pass="0">\n'
        f'     <prop k="color" v="{red},{green},{blue},255"/>\n'
        '     <prop k="style" v="solid"/>\n'
        '     <prop k="outline_color" v="35,35,35,255"/>\n'
        '     <prop k="outline_style" v="solid"/>\n'
        '     <prop k="outline_width" v="0.1"/>\n'
        '     <prop k="outline_width_unit" v="MM"/>\n'
        "    </layer>\n"
        "   </symbol>"
        for index, (red, green, blue) in enumerate(palette.tolist())
    ]
    return "\n".join(
        [
            *STYLE_HEAD[:2],
            f' <renderer-v2 type="categorizedSymbol" attr={quoteattr(attribute)} symbollevels="0" enableorderby="0">',
            "  <categories>",
            *categories,
            "  </categories>",
            "  <symbols>",
            *symbols,
            "  </symbols>",
            " </renderer-v2>",
            "</qgis>",
            "",
        ]
    )


def add_style(path: Path, layer: str, style: str) -> None:
    """Add the style with which QGIS shows the layer to a GeoPackage, in the table that QGIS itself makes for styles.

    Examples
    --------
    >>> import shapely, tempfile
    >>> from utils.raster.vector_files import write_features
    >>> path = Path(tempfile.mkdtemp()) / "classes.gpkg"
    >>> write_features(path, [shapely.Point(1, 2)], crs="EPSG:4326")
    >>> add_style(path, "classes", "<qgis/>")
    >>> with closing(sqlite3.connect(path)) as base:
    ...     base.execute("select f_table_name, f_geometry_column, useAsDefault, styleQML from layer_styles").fetchall()
    [('classes', 'geom', 1, '<qgis/>')]
    """
    with closing(sqlite3.connect(path)) as base, base:
        base.execute(
            'CREATE TABLE layer_styles ("id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, "f_table_catalog" TEXT(256), '
            '"f_table_schema" TEXT(256), "f_table_name" TEXT(256), "f_geometry_column" TEXT(256), '
            '"styleName" TEXT(30), "styleQML" TEXT, "styleSLD" TEXT, "useAsDefault" BOOLEAN, "description" TEXT, '
            '"owner" TEXT(30), "ui" TEXT(30), '
            "\"update_time\" DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        column = base.execute("SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", [layer]).fetchone()
        base.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
            "styleQML, styleSLD, useAsDefault, description, owner) VALUES ('', '', ?, ?, ?, ?, '', 1, ?, '')",
            [layer, *column, layer, style, "colours of the classes"],
        )
        base.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES (?, 'attributes', ?)",
            ["layer_styles", "layer_styles"],
        )
