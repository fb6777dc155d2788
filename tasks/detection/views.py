"""What a detector sees of a picture: the whole, scaled to bounded sides, and n x n windows of it, enlarged as much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np

from tasks.sample import Sample

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


def content_of(sample: Sample) -> np.ndarray:
    """Box (4,) of the part of a sample that shows its picture, without padding.

    Examples
    --------
    >>> from tasks.item import Item
    >>> content_of(Sample("a", Item("a", ()), {"image": np.zeros((4, 6, 3)), "valid": np.eye(4, 6) > 0})).tolist()
    [0.0, 0.0, 4.0, 4.0]
    """
    valid = sample.arrays.get("valid")
    if valid is None:
        height, width = sample.arrays["image"].shape[:2]
        return np.array([0.0, 0, width, height])
    rows, columns = (np.flatnonzero(valid.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1.0, rows[-1] + 1.0])


def cut_to_content(sample: Sample) -> Sample:
    """Take the padding, which is below and to the right, off a sample.

    Examples
    --------
    >>> from tasks.item import Item
    >>> valid = np.zeros((4, 6), bool)
    >>> valid[:3, :5] = True
    >>> arrays = cut_to_content(Sample("a", Item("a", ()), {"image": np.zeros((4, 6, 3)), "valid": valid})).arrays
    >>> arrays["image"].shape, "valid" in arrays
    ((3, 5, 3), False)
    """
    if "valid" not in sample.arrays:
        return sample
    width, height = content_of(sample)[2:].astype(int)
    arrays = {name: array for name, array in sample.arrays.items() if name != "valid"}
    return sample.with_arrays({**arrays, "image": arrays["image"][:height, :width]})


def pad_sample(image: np.ndarray, padded: Size, fill: np.ndarray) -> dict[str, np.ndarray]:
    """Pad a picture (H, W, 3) below and to the right with a colour (3,); gives it as `image`, and where it is `valid`.

    Examples
    --------
    >>> arrays = pad_sample(np.full((2, 2, 3), 9, np.uint8), (2, 4), np.array([1, 2, 3], np.uint8))
    >>> arrays["image"][0].tolist(), arrays["valid"][0].tolist()
    ([[9, 9, 9], [9, 9, 9], [1, 2, 3], [1, 2, 3]], [True, True, False, False])
    """
    height, width = image.shape[:2]
    arrays = {"image": np.empty((*padded, 3), np.uint8), "valid": np.zeros(padded, bool)}
    arrays["image"][:] = fill
    arrays["image"][:height, :width], arrays["valid"][:height, :width] = image, True
    return arrays
