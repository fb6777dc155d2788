"""Whether a model that learnt from pictures in colours is given pictures that have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.item import Item
from utils.errors import DataError
from utils.media.videos import is_video
from utils.raster.header import read_header

APART = 16  # levels of 255 between two colour channels of a pixel from which it is no grey; less is noise of JPEG
COLOURED = 0.01  # share of such pixels in a picture in colours
MOSTLY = 0.9  # share of training pictures in colours from which a model does not know grey ones


def shows_colours(image: np.ndarray) -> bool:
    """Whether a picture has pixels that are no grey.

    Parameters
    ----------
    image : ndarray, shape (H, W, C)
        Values from 0 to 255. Of more than three channels the first three are looked at, of fewer none is a colour.

    Examples
    --------
    >>> image = np.full((8, 8, 3), 90, np.uint8)
    >>> grey = shows_colours(image)
    >>> image[0, 0, 2] = 200
    >>> grey, shows_colours(image)
    (False, True)
    """
    channels = image[..., :3].astype(np.int16)
    return channels.shape[-1] == 3 and float((np.ptp(channels, axis=-1) > APART).mean()) >= COLOURED


def is_grey(path: Path) -> bool:
    """Whether a file has one band, besides opacity, and no table of colours; False where it cannot be read.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> grey, colours = (raster_file("a.png", np.zeros((4, 6, bands), np.uint8)) for bands in (1, 3))
    >>> is_grey(Path(grey)), is_grey(Path(colours)), is_grey(Path("/no/such.png"))
    (True, False, False)
    """
    try:
        header = read_header(path)
    except DataError:  # whoever reads its pixels says why
        return False
    coloured = header.palette is not None and any(len(set(entry[:3])) > 1 for entry in header.palette)
    return len(header.colour_bands) == 1 and not coloured


def tell_grey(description: Mapping[str, Any], items: Iterable[Item]) -> str:
    """What to say of pictures with one band that a model of pictures in colours is given; empty where nothing.

    Parameters
    ----------
    description : mapping
        Of the checkpoint; older ones do not say how many of their training pictures have colours.
    items : iterable of Item
        Pictures to predict.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> item = Item("a", (Path(raster_file("a.png", np.zeros((4, 6), np.uint8))),))
    >>> tell_grey({"training": {"in_colours": 1.0}}, [item])  # doctest: +ELLIPSIS
    '.../a.png: has one band, and the model was trained on pictures in colours: do not rely on the result; give it ...'
    >>> [tell_grey({"training": training}, [item]) for training in ({"in_colours": 0.0}, {})]
    ['', '']
    """
    share = (description.get("training") or {}).get("in_colours")
    if share is None or share < MOSTLY:
        return ""
    single = (item.sources[0] for item in items if len(item.sources) == 1 and not is_video(item.sources[0]))
    grey = [path for path in single if is_grey(path)]
    if not grey:
        return ""
    what = "has one band" if len(grey) == 1 else f"and {len(grey) - 1} other pictures have one band"
    cure = "give it pictures in colours, or train with grey ones"
    return f"{grey[0]}: {what}, and the model was trained on pictures in colours: do not rely on the result; {cure}"
