"""Grounds seen from above, for made-up pictures of animals: grass with daisies, rippled sand, pebbles.

Everything is drawn at the size wanted, in float64; only blades are drawn by OpenCV, in bytes, alike on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from utils.sample import draw_noise

FINE = 4  # bits below the pixel in places that OpenCV is given


def draw_grass(generator: np.random.Generator, size: tuple[int, int], sun: np.ndarray) -> np.ndarray:
    """A meadow: blades of many greens, and here and there a daisy.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Height and width in pixels.
    sun : ndarray, shape (3,)
        Direction to it: x, y and up.

    Returns
    -------
    ndarray of float64, shape (H, W, 3)
        Red, green and blue, 0 to 255.

    Examples
    --------
    >>> grass = draw_grass(np.random.default_rng(0), (60, 80), np.array([0, 0, 1.0])).mean(axis=(0, 1))
    >>> bool(grass[1] > grass[0] > grass[2])
    True
    """
    height, width = size
    base = np.array([98.0, 132, 62]) * generator.uniform(0.9, 1.08) + generator.uniform(-10, 10, 3) * [1, 0.3, 0.6]
    damp = 0.05 * draw_noise(generator, size, 50.0) + 0.05 * draw_noise(generator, size, 7.0)
    canvas = np.clip(base * (1 + damp[..., None]), 0, 255).astype(np.uint8, order="C")
    wind = generator.uniform(0, 2 * np.pi)
    count = height * width // 24
    roots = generator.uniform((-4, -4), (width + 4, height + 4), (count, 2))
    angles, lengths = wind + generator.normal(0, 0.7, count), generator.uniform(3, 9, count)
    tips = roots + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    greens = base * generator.uniform(0.74, 1.24, (count, 1)) + generator.uniform(0, 18, (count, 1)) * [1, 0.6, 0]
    for root, tip, green in zip(_fixed(roots), _fixed(tips), greens.tolist(), strict=True):
        cv2.line(canvas, root, tip, green, 1, cv2.LINE_AA, FINE)
    meadow = canvas.astype(np.float64)
    for _ in range(generator.poisson(height * width / 9000)):
        _draw_daisy(meadow, generator)
    return meadow


def _draw_daisy(canvas: np.ndarray, generator: np.random.Generator) -> None:
    """Draw a small flower somewhere.

    Examples
    --------
    >>> canvas = np.zeros((40, 40, 3))
    >>> _draw_daisy(canvas, np.random.default_rng(0))
    >>> 10 < int((canvas.max(axis=2) > 150).sum()) < 60
    True
    """
    middle = generator.uniform((0, 0), (canvas.shape[1], canvas.shape[0]))
    radius, turn = generator.uniform(1.7, 2.5), generator.uniform(0, 2 * np.pi)
    petals = turn + np.arange(6) * np.pi / 3
    _draw_disc(canvas, middle + 0.8, 1.9 * radius, (52, 80, 40), 0.7)
    for place in middle + radius * np.stack([np.cos(petals), np.sin(petals)], axis=1):
        _draw_disc(canvas, place, 0.62 * radius, (246, 244, 236))
    _draw_disc(canvas, middle, 0.62 * radius, (240, 194, 56))


def _draw_disc(
    canvas: np.ndarray, middle: np.ndarray, radius: float, colour: tuple[float, ...], strength: float = 1.0
) -> None:
    """Draw a disc with a smooth edge; places count from the outer corner.

    Examples
    --------
    >>> canvas = np.zeros((3, 5, 3))
    >>> _draw_disc(canvas, np.array([2.5, 1.5]), 1.0, (8, 0, 0))
    >>> canvas[..., 0].round(1).tolist()
    [[0.0, 0.7, 4.0, 0.7, 0.0], [0.0, 4.0, 8.0, 4.0, 0.0], [0.0, 0.7, 4.0, 0.7, 0.0]]
    """
    height, width = canvas.shape[:2]
    left, top = np.clip(np.floor(middle - radius - 1).astype(int), 0, (width, height)).tolist()
    right, bottom = np.clip(np.ceil(middle + radius + 1).astype(int), 0, (width, height)).tolist()
    y, x = np.ogrid[top:bottom, left:right]
    distance = np.hypot(x + 0.5 - middle[0], y + 0.5 - middle[1])
    cover = strength * np.clip(radius + 0.5 - distance, 0, 1)[..., None]
    canvas[top:bottom, left:right] = canvas[top:bottom, left:right] * (1 - cover) + np.array(colour) * cover


def _fixed(places: np.ndarray) -> list[tuple[int, int]]:
    """Places as OpenCV takes them: whole numbers of fractions, counted from the centre of the first pixel.

    Examples
    --------
    >>> _fixed(np.array([[0.5, 1.0]]))
    [(0, 8)]
    """
    return [(x, y) for x, y in np.rint((places - 0.5) * 2**FINE).astype(int).tolist()]


def draw_sand(generator: np.random.Generator, size: tuple[int, int], sun: np.ndarray) -> np.ndarray:
    """A beach: ripples of the wind, lit from the side of the sun, grains, and a few stones.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Height and width in pixels.
    sun : ndarray, shape (3,)
        Direction to it: x, y and up.

    Returns
    -------
    ndarray of float64, shape (H, W, 3)
        Red, green and blue, 0 to 255.

    Examples
    --------
    >>> sand = draw_sand(np.random.default_rng(0), (60, 80), np.array([0, 0, 1.0])).mean(axis=(0, 1))
    >>> bool(sand[0] > sand[1] > sand[2] > 100)
    True
    """
    y, x = np.indices(size) + 0.5
    angle, period = generator.uniform(0, 2 * np.pi), generator.uniform(11, 17)
    across = np.array([np.cos(angle), np.sin(angle)])
    path = x * across[0] + y * across[1] + 5.5 * draw_noise(generator, size, 38.0) + draw_noise(generator, size, 12.0)
    strength = np.clip(0.6 + 0.5 * draw_noise(generator, size, 60.0), 0.05, 1.2)
    slope = np.cos(2 * np.pi * path / period) + 0.3 * np.cos(4 * np.pi * path / period + 1)
    lit = 1 + 0.085 * strength * slope * (1 if across @ sun[:2] >= 0 else -1)
    grain = 0.022 * generator.standard_normal(size) + 0.02 * draw_noise(generator, size, 2.5)
    colour = np.array([214.0, 190, 148]) * generator.uniform(0.92, 1.04) + generator.uniform(-6, 6, 3)
    canvas = np.clip(colour * (lit + grain)[..., None], 0, 255)
    for _ in range(generator.poisson(size[0] * size[1] / 4500)):
        place, radius = generator.uniform((0, 0), (size[1], size[0])), generator.uniform(1.2, 2.6)
        grey = generator.uniform(110, 235)
        _draw_disc(canvas, place - 1.1 * radius * sun[:2], radius, (146, 122, 92), 0.8)
        _draw_disc(canvas, place, radius, (grey, grey * 0.96, grey * 0.9))
        _draw_disc(canvas, place + 0.35 * radius * sun[:2], 0.5 * radius, (255, 250, 240), 0.3)
    return canvas


def draw_pebbles(generator: np.random.Generator, size: tuple[int, int], sun: np.ndarray) -> np.ndarray:
    """A river bank: rounded stones of many colours, lit from the side of the sun.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Height and width in pixels.
    sun : ndarray, shape (3,)
        Direction to it: x, y and up.

    Returns
    -------
    ndarray of float64, shape (H, W, 3)
        Red, green and blue, 0 to 255.

    Examples
    --------
    >>> pebbles = draw_pebbles(np.random.default_rng(0), (60, 80), np.array([-0.6, 0, 0.8]))
    >>> pebbles.shape, bool(pebbles.std() > 15)
    ((60, 80, 3), True)
    """
    spacing = generator.uniform(11, 17)
    stone, gap, offset = _nearest_stones(generator, size, spacing)
    count = stone.max() + 1
    grey = generator.uniform(112, 186, (count, 1)) + generator.uniform(-5, 5, 3)
    warmth = np.array([0.09, 0.02, -0.09])
    colours = grey * (1 + generator.normal(0, 0.015, (count, 3)) + generator.uniform(-0.5, 1.2, (count, 1)) * warmth)
    right, down = offset
    reach = np.minimum(gap / 0.42, (0.72 - np.sqrt(right**2 + down**2)) / 0.3)  # corners are worn off
    edge = np.clip(reach, 0, 1)
    lit = 0.72 + 0.28 * edge * (2 - edge) + 0.32 * (right * sun[0] + down * sun[1])
    speckle = 0.03 * generator.standard_normal(size) + 0.03 * draw_noise(generator, size, 3.0)
    stones = colours[stone] * (lit + speckle)[..., None]
    earth = np.array([92.0, 84, 72]) * (1 + 0.12 * draw_noise(generator, size, 4.0))[..., None]
    cover = np.clip((reach - 0.12) / 0.3, 0, 1)[..., None]
    return np.clip(earth * (1 - cover) + stones * cover, 0, 255)


def _nearest_stones(
    generator: np.random.Generator, size: tuple[int, int], spacing: float
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """For each pixel its stone, how far its edge is, and where it lies from the middle; in units of the spacing.

    Stones lie about a grid, so that only the nine cells around a pixel need be looked at.

    Examples
    --------
    >>> stone, gap, offset = _nearest_stones(np.random.default_rng(0), (30, 40), 10.0)
    >>> stone.shape, bool(gap.min() >= 0), bool(np.abs(offset[0]).max() < 1.5)
    ((30, 40), True, True)
    """
    rows, columns = (int(side / spacing) + 3 for side in size)
    middles = (generator.uniform(0.14, 0.86, (rows, columns, 2)) + np.indices((columns, rows)).T).reshape(-1, 2)
    middle_x, middle_y = np.ascontiguousarray(middles.T)
    y, x = np.ogrid[: size[0], : size[1]]
    y, x = (y + 0.5) / spacing + 1, (x + 0.5) / spacing + 1
    cell = y.astype(int) * columns + x.astype(int)
    stone = cell
    first, second = np.full(size, np.inf), np.full(size, np.inf)
    for step in (down * columns + right for down in (-1, 0, 1) for right in (-1, 0, 1)):
        square = (x - middle_x[cell + step]) ** 2 + (y - middle_y[cell + step]) ** 2
        nearer = square < first
        second = np.where(nearer, first, np.minimum(second, square))
        first = np.minimum(first, square)
        stone = np.where(nearer, cell + step, stone)
    return stone, np.sqrt(second) - np.sqrt(first), (x - middle_x[stone], y - middle_y[stone])


GROUNDS: dict[str, Callable[[np.random.Generator, tuple[int, int], np.ndarray], np.ndarray]] = {
    "grass": draw_grass,
    "sand": draw_sand,
    "pebbles": draw_pebbles,
}
