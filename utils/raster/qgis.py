"""Layer styles for QGIS, which show the classes of a map by name and colour."""

from __future__ import annotations

from collections.abc import Sequence
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
