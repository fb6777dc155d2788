"""Masks of a part of a picture as masks of the whole: CVAT and FiftyOne keep the part around the object."""

from __future__ import annotations

from typing import Any

import numpy as np


def place_mask(crop: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths of COCO, of a whole picture, out of the mask of a part of it.

    Parameters
    ----------
    crop : ndarray of bool, shape (H, W)
        What is covered in the part.
    left, top : int
        Its first column and row in the picture; what lies beyond the picture is cut.
    size : (int, int)
        Height and width of the picture.

    Returns
    -------
    dict
        `size` as [height, width], and `counts`, column by column, first of what is not covered.

    Examples
    --------
    >>> place_mask(np.array([[True, True], [False, True]]), 1, 0, (3, 4))
    {'size': [3, 4], 'counts': [3, 1, 2, 2, 4]}
    >>> place_mask(np.ones((2, 2), bool), 3, 2, (3, 4))
    {'size': [3, 4], 'counts': [11, 1]}
    """
    height, width = size
    shown = crop[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    left, top = max(left, 0), max(top, 0)
    edges = np.diff(np.pad(shown.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)  # of each column, from top to bottom
    (column, start), (_, stop) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    starts, stops = ((left + column) * height + top + row for row in (start, stop))
    joined = starts[1:] == stops[:-1]  # down to the last row and on in the next column
    starts, stops = starts[np.append(True, ~joined)[: len(starts)]], stops[np.append(~joined, True)[: len(stops)]]
    turns = np.concatenate([[0], np.column_stack([starts, stops]).ravel(), [height * width]])
    counts = np.diff(turns).tolist()
    return {"size": [height, width], "counts": counts[:-1] if counts[-1] == 0 else counts}
