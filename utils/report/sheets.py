"""Contact sheets: many small pictures in one, each with its name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from utils.report.plots import draw_legend, fit_picture, with_title

SIDE = 320  # pixels of the longer side of a picture
_GAP = 8  # pixels between pictures
_WIDEST = 2400  # pixels of a sheet


def contact_sheet(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    legend: Sequence[tuple[str, Sequence[int]]] = (),
    side: int = SIDE,
) -> np.ndarray:
    """Lay pictures in rows, as nearly square as they can be, with titles above and a legend below.

    Parameters
    ----------
    pictures : sequence of ndarray of uint8, shape (H, W, 3)
        One or more; larger ones are shrunk to `side`, small ones enlarged by a whole number.
    titles : sequence of str
        One for each picture; a long one keeps its end.
    legend : sequence of (str, colour)
        Names and their red, green, blue.
    side : int
        Pixels of the longer side of a picture, at most.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    ValueError
        If there is no picture.

    Examples
    --------
    >>> pictures = [np.zeros((100, 200, 3), np.uint8), np.zeros((640, 320, 3), np.uint8)]
    >>> contact_sheet(pictures, ["a", "b"], [("road", (255, 0, 0))]).shape
    (372, 416, 3)
    """
    if not pictures:
        raise ValueError("a contact sheet needs a picture")
    shown = [fit_picture(picture, side) for picture in pictures]
    zooms = [side // max(picture.shape[:2]) for picture in shown]
    shown = [picture.repeat(zoom, 0).repeat(zoom, 1) for picture, zoom in zip(shown, zooms, strict=True)]
    letters = max(side // 9, 4)  # that fit above a picture
    shown = [with_title(picture, title[-letters:]) for picture, title in zip(shown, titles, strict=True)]
    width = max(picture.shape[1] for picture in shown) + _GAP
    columns = min(math.ceil(len(shown) ** 0.5), max(_WIDEST // width, 1))
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    strips = []
    for row in rows:
        strip = np.full((max(picture.shape[0] for picture in row) + _GAP, columns * width, 3), 255, np.uint8)
        for column, picture in enumerate(row):
            strip[: picture.shape[0], column * width : column * width + picture.shape[1]] = picture
        strips.append(strip)
    return np.vstack([*strips, *([draw_legend(legend, columns * width)] if legend else [])])
