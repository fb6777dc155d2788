"""What a detector sees of a picture: the whole, scaled to bounded sides, and n x n windows of it, enlarged as much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np

from utils.geometry.crops import warp_picture

Size = tuple[int, int]  # height and width


def resized_size(size: Size, shortest_edge: int, longest_edge: int) -> Size:
    """Size of a picture whose short side becomes `shortest_edge`, or less where the long one would become too long.

    Parameters
    ----------
    size : (int, int)
        Height and width of the picture.
    shortest_edge, longest_edge : int
        Pixels; neither side exceeds the second.

    Returns
    -------
    (int, int)
        Height and width, at least 1; the aspect is kept up to rounding.

    References
    ----------
    `shortest_edge` and `longest_edge` of the image processors of transformers, which can exceed the second by a pixel.

    Examples
    --------
    >>> resized_size((480, 640), 960, 1536), resized_size((1080, 1920), 960, 1536), resized_size((1000, 100), 50, 80)
    ((960, 1280), (864, 1536), (80, 8))
    """
    scale = min(shortest_edge / min(size), longest_edge / max(size))
    height, width = (min(max(round(side * scale), 1), longest_edge) for side in size)
    return height, width


def padded_size(size: Size, pad_size: Sequence[int] | None, patch_size: int) -> Size:
    """Size of the sample that holds a scaled picture: of the picture itself, or of the padding.

    Parameters
    ----------
    size : (int, int)
        Height and width of the scaled picture.
    pad_size : (int, int), optional
        Height and width; where one picture lies and the other stands they are swapped.
    patch_size : int
        Both are rounded up to multiples of it.

    Examples
    --------
    >>> padded_size((800, 1200), (800, 1333), 16), padded_size((1200, 800), (800, 1333), 16)
    ((800, 1344), (1344, 800))
    >>> padded_size((800, 1200), None, 16)
    (800, 1200)
    """
    if pad_size is None:
        return size
    first, second = (ceil(side / patch_size) * patch_size for side in pad_size)
    upright = size[0] > size[1]
    return (second, first) if upright == (first < second) and first != second else (first, second)


def part_matrices(size: Size, sample: Size, windows: int, overlap: float) -> Iterator[np.ndarray]:
    """From pixels of a picture to those of each sample of it: the whole, then windows row by row.

    Parameters
    ----------
    size : (int, int)
        Height and width of the picture.
    sample : (int, int)
        Height and width of the whole picture as it is scaled, and of each window.
    windows : int
        Windows in each direction; 0 for none.
    overlap : float
        Share of a window that its neighbour repeats.

    Yields
    ------
    ndarray of float64, shape (3, 3)
        The outer windows end at the edges of the picture.

    References
    ----------
    The windows of DINOv3's detector (Siméoni et al., 2025, arXiv:2508.10104), which do not overlap.

    Examples
    --------
    >>> matrices = list(part_matrices((100, 200), (50, 100), 2, overlap=0.0))
    >>> [matrix[:2].ravel().tolist() for matrix in matrices[:3]]
    [[0.5, 0.0, 0.0, 0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [1.0, 0.0, -100.0, 0.0, 1.0, 0.0]]
    """
    zoom = np.array([sample[1] / size[1], sample[0] / size[0]])
    yield np.diag([*zoom, 1.0])
    share = 1 / (windows - (windows - 1) * overlap) if windows else 1.0
    starts = np.linspace(0, 1 - share, windows)
    for top in starts:
        for left in starts:
            enlarged, shift = np.diag([*(zoom / share), 1.0]), np.eye(3)
            shift[:2, 2] = -left * size[1], -top * size[0]
            yield enlarged @ shift


def lay_picture(image: np.ndarray, matrix: np.ndarray, size: Size, padded: Size, fill: np.ndarray) -> np.ndarray:
    """Lay a picture (H, W, 3) on a sample, and fill what is padded below and to the right with a colour (3,).

    Examples
    --------
    >>> image = np.full((2, 2, 3), 9, np.uint8)
    >>> lay_picture(image, np.eye(3), (2, 2), (2, 4), np.array([1, 2, 3], np.uint8))[0].tolist()
    [[9, 9, 9], [9, 9, 9], [1, 2, 3], [1, 2, 3]]
    """
    laid = warp_picture(image, matrix, size)[0]
    if size == padded:
        return laid
    sample = np.empty((*padded, 3), np.uint8)
    sample[:] = fill
    sample[: size[0], : size[1]] = laid
    return sample
