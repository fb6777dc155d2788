"""Limbs: chains of discs of which animals are made, how places lie to them, and how they are painted.

Distances to limbs give everything: edges that are smooth and lie where geometry says, to a fraction of a pixel; rounded
shading; fur that moves along; and whether something lies above a place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np

MARGIN = 5  # pixels around a limb that its fur and its shadow on what lies below may reach


@dataclass(frozen=True)
class Limb:
    """A part of a body: a chain of discs and what is between them.

    Parameters
    ----------
    points : ndarray, shape (N, 2)
        Its axis, as x and y in pixels; one point makes a disc.
    radii : ndarray, shape (N,)
        Half its width at each point.
    colour, accent : tuple of float
        Red, green and blue; a pattern mixes the second into the first.
    pattern : str
        `plain` or one of `PATTERNS`.
    keypoint : str
        Of which this limb is the mark, lying symmetrically around it; empty for other limbs.
    fur : float
        How ragged the edge is, in pixels; 0 is smooth and glossy.

    Examples
    --------
    >>> Limb(np.array([[3.0, 4.0]]), np.array([2.0]), (0, 0, 0)).box_xyxy.tolist()
    [1.0, 2.0, 5.0, 6.0]
    """

    points: np.ndarray
    radii: np.ndarray
    colour: tuple[float, ...]
    accent: tuple[float, ...] = (0.0, 0.0, 0.0)
    pattern: str = "plain"
    keypoint: str = ""
    fur: float = 0.0

    @cached_property
    def box_xyxy(self) -> np.ndarray:
        """Tight box around the discs.

        Examples
        --------
        >>> Limb(np.array([[0.0, 0], [9, 0]]), np.array([1.0, 2]), (0, 0, 0)).box_xyxy.tolist()
        [-1.0, -2.0, 11.0, 2.0]
        """
        reach = self.radii[:, None]
        return np.concatenate([(self.points - reach).min(axis=0), (self.points + reach).max(axis=0)])


# --- geometry ---------------------------------------------------------------------------------------------------------


class Measure(NamedTuple):
    """How places lie to a limb.

    Parameters
    ----------
    distance : ndarray, shape (P,)
        Pixels to its edge, negative inside.
    along : ndarray, shape (P,)
        From 0 at its first point to 1 at its last.
    across : ndarray, shape (P,)
        From -1 at one side over 0 on the axis to 1 at the other.
    normal_x, normal_y : ndarray, shape (P,)
        From the axis to the place, as a share of the radius.

    Examples
    --------
    >>> Measure(*np.zeros((5, 3))).normal_x.shape
    (3,)
    """

    distance: np.ndarray
    along: np.ndarray
    across: np.ndarray
    normal_x: np.ndarray
    normal_y: np.ndarray


def measure_limb(limb: Limb, x: np.ndarray, y: np.ndarray) -> Measure:
    """Measure places against a limb.

    Parameters
    ----------
    limb : Limb
        The limb.
    x, y : ndarray
        Of the places, in pixels; one row of x and one column of y make a grid.

    Returns
    -------
    Measure
        For each place, row by row, against the piece of the limb whose edge is nearest.

    Examples
    --------
    >>> limb = Limb(np.array([[0.0, 0], [10, 0]]), np.array([2.0, 4.0]), (0, 0, 0))
    >>> measure = measure_limb(limb, np.array([5.0, 5, 16]), np.array([3.0, -6, 0]))
    >>> measure.distance.tolist(), measure.along.tolist(), measure.across.tolist()
    ([0.0, 3.0, 2.0], [0.5, 0.5, 1.0], [1.0, -2.0, 0.0])
    """
    steps = _pieces(limb)[1]
    values = [value.reshape(len(steps), -1) for value in _measure_pieces(limb, x, y)]
    nearest = values[0].argmin(axis=0)
    distance, share, radius, away_x, away_y = (value[nearest, np.arange(len(nearest))] for value in values)
    ahead = steps / np.maximum(np.sqrt((steps**2).sum(axis=1, keepdims=True)), 1e-9)
    normal_x, normal_y = away_x / radius, away_y / radius
    across = ahead[nearest, 0] * normal_y - ahead[nearest, 1] * normal_x
    return Measure(distance, (nearest + share) / len(steps), across, normal_x, normal_y)


def distance_to(limb: Limb, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pixels to the edge of a limb, negative inside.

    Parameters
    ----------
    limb : Limb
        The limb.
    x, y : ndarray
        Of the places, in pixels; one row of x and one column of y make a grid.

    Returns
    -------
    ndarray of float64
        The same as in `measure_limb`, for less work, in the shape of the places.

    Examples
    --------
    >>> distance_to(Limb(np.array([[0.0, 0]]), np.array([2.0]), (0, 0, 0)), np.array([3.0, 0]), np.array([4.0, 1]))
    array([ 3., -1.])
    """
    return _measure_pieces(limb, x, y)[0].min(axis=0)


def _pieces(limb: Limb) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where pieces start, what leads to their ends, the radius at the start, and how much it grows to the end.

    Examples
    --------
    >>> limb = Limb(np.array([[0.0, 0], [8, 0], [8, 4]]), np.array([1.0, 1, 3]), (0, 0, 0))
    >>> [values.tolist() for values in _pieces(limb)]
    [[[0.0, 0.0], [8.0, 0.0]], [[8.0, 0.0], [0.0, 4.0]], [1.0, 1.0], [0.0, 2.0]]
    """
    points, radii = limb.points, limb.radii
    if len(points) == 1:
        return points, np.zeros((1, 2)), radii, np.zeros(1)
    return points[:-1], points[1:] - points[:-1], radii[:-1], radii[1:] - radii[:-1]


def _measure_pieces(limb: Limb, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distance, share of the way, radius there, and x and y from the axis; of each piece and place.

    Examples
    --------
    >>> limb = Limb(np.array([[0.0, 0], [8, 0], [8, 8]]), np.array([1.0, 1, 3]), (0, 0, 0))
    >>> [values.tolist() for values in _measure_pieces(limb, np.array([4.0]), np.array([4.0]))[:3]]
    [[[3.0], [2.0]], [[0.5], [0.5]], [[1.0], [2.0]]]
    """
    starts, steps, radii, growth = (values.T[(..., *[None] * x.ndim)] for values in _pieces(limb))
    x, y = x - starts[0], y - starts[1]
    squares = np.maximum(steps[0] ** 2 + steps[1] ** 2, 1e-12)
    share = x * (steps[0] / squares) + y * (steps[1] / squares)
    share = np.minimum(np.maximum(share, 0), 1)
    x, y = x - share * steps[0], y - share * steps[1]
    radius = radii + share * growth
    return np.sqrt(x * x + y * y) - radius, share, radius, x, y


def find_covered(places: np.ndarray, limbs: Sequence[Limb]) -> np.ndarray:
    """Whether places lie beneath any limb.

    Parameters
    ----------
    places : ndarray, shape (P, 2)
        x and y.
    limbs : sequence of Limb
        All that lie above the places.

    Returns
    -------
    ndarray of bool, shape (P,)
        True where something covers the place.

    Examples
    --------
    >>> disc = Limb(np.array([[3.0, 4.0]]), np.array([2.0]), (0, 0, 0))
    >>> find_covered(np.array([[4.5, 4.0], [4.5, 5.5]]), [disc]).tolist()
    [True, False]
    """
    covered = np.zeros(len(places), bool)
    for limb in limbs:
        left, top, right, bottom = limb.box_xyxy
        near = (places >= (left, top)).all(axis=1) & (places <= (right, bottom)).all(axis=1)
        if near.any():
            covered[near] |= distance_to(limb, *places[near].T) < 0
    return covered


# --- painting --------------------------------------------------------------------------------------------------------


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """From 0 at one value to 1 at another, smooth at both.

    Examples
    --------
    >>> _ramp(np.array([0.0, 1, 2, 3, 9]), 1, 3).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    share = np.minimum(np.maximum((values - low) / (high - low), 0), 1)  # np.clip takes longer on few values
    return share**2 * (3 - 2 * share)


# How much of the accent shows, by place along and across a limb.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "tip": lambda along, across: _ramp(along - 0.05 * np.cos(9 * across), 0.66, 0.74),
    "sock": lambda along, across: _ramp(along, 0.35, 0.7),
    "back": lambda along, across: 0.75 * (1 - _ramp(np.abs(across), 0.12, 0.62)),
    "cheeks": lambda along, across: _ramp(np.abs(across), 0.3, 0.55) * _ramp(along, 0.3, 0.52),
}


def make_fur(generator: np.random.Generator, side: int = 64) -> np.ndarray:
    """Noise that repeats, drawn out along its first axis like hairs.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    side : int
        Rows and columns.

    Returns
    -------
    ndarray of float64, shape (side, side)
        Around 0, with a deviation of 1.

    Examples
    --------
    >>> fur = make_fur(np.random.default_rng(0))
    >>> fur.shape, round(float(fur.std()), 6), bool(np.abs(np.diff(fur, axis=0)).mean() < np.abs(np.diff(fur)).mean())
    ((64, 64), 1.0, True)
    """
    noise = np.fft.rfft2(generator.standard_normal((side, side)))
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    smooth = np.fft.irfft2(noise * np.exp(-((rows * 9) ** 2) - (columns * 3) ** 2), (side, side))
    return (smooth - smooth.mean()) / smooth.std()


def paint_limb(layer: np.ndarray, limb: Limb, sun: np.ndarray, fur: np.ndarray) -> None:
    """Paint a limb over what is on a layer, with a soft shadow on it.

    Parameters
    ----------
    layer : ndarray of float64, shape (H, W, 4)
        Red, green and blue, each times the share of the pixel that is painted, and that share; changed in place.
    limb : Limb
        What to paint; what lies outside the layer is left out.
    sun : ndarray, shape (3,)
        Direction to it: x, y and up.
    fur : ndarray, shape (S, S)
        From `make_fur`.

    Examples
    --------
    >>> layer = np.zeros((8, 9, 4))
    >>> disc = Limb(np.array([[4.25, 3.5]]), np.array([2.0]), (0, 0, 0))
    >>> paint_limb(layer, disc, np.array([0, 0, 1.0]), np.zeros((4, 4)))
    >>> y, x = np.indices((8, 9)) + 0.5
    >>> [round(float((axis * layer[..., 3]).sum() / layer[..., 3].sum()), 1) for axis in (x, y)]
    [4.2, 3.5]
    """
    rows, columns = (_window(limb.box_xyxy[axis::2], layer.shape[axis == 0]) for axis in (1, 0))
    part = layer[rows, columns]
    x, y = np.arange(columns.start, columns.stop)[None] + 0.5, np.arange(rows.start, rows.stop)[:, None] + 0.5
    measure = measure_limb(limb, x, y)
    near = np.flatnonzero(measure.distance < 1.5)
    if not len(near):
        return
    shade = 1 - 0.34 * (1 - _ramp(measure.distance, -2.0, 4.0))
    part[..., :3] *= shade.reshape(*part.shape[:2], 1)
    at = np.unravel_index(near, part.shape[:2])
    part[at] = _cover(part[at], limb, Measure(*(values[near] for values in measure)), sun, fur)


def _window(reach: np.ndarray, side: int) -> slice:
    """Pixels from one place to another, with a margin, as far as there are any.

    Examples
    --------
    >>> _window(np.array([3.5, 8.2]), 12), _window(np.array([90.0, 95.0]), 12)
    (slice(0, 12, None), slice(12, 12, None))
    """
    low, high = math.floor(reach[0]) - MARGIN, math.ceil(reach[1]) + MARGIN
    return slice(min(max(low, 0), side), min(max(high, 0), side))


def _cover(below: np.ndarray, limb: Limb, measure: Measure, sun: np.ndarray, fur: np.ndarray) -> np.ndarray:
    """Pixels of a limb over what is below them, each as far as the limb covers it.

    Examples
    --------
    >>> limb = Limb(np.array([[0.0, 0]]), np.array([2.0]), (100.0, 100.0, 100.0))
    >>> measure = measure_limb(limb, np.array([0.0, 2, 9]), np.zeros(3))
    >>> _cover(np.zeros((3, 4)), limb, measure, np.array([0, 0, 1.0]), np.zeros((4, 4)))[:, 3].tolist()
    [1.0, 0.5, 0.0]
    """
    hairs = _comb(limb, measure, fur)
    coverage = np.minimum(np.maximum(0.5 - measure.distance - 0.35 * limb.fur * hairs, 0), 1)[:, None]
    colour = _shade(limb, measure, hairs, sun)
    return below * (1 - coverage) + np.concatenate([colour * coverage, coverage], axis=1)


def _comb(limb: Limb, measure: Measure, fur: np.ndarray) -> np.ndarray:
    """Noise at each place that sticks to the limb: it moves and bends along with it.

    Examples
    --------
    >>> limb = Limb(np.array([[0.0, 0], [8, 0]]), np.array([2.0, 2.0]), (0, 0, 0), fur=1.0)
    >>> measure = measure_limb(limb, np.array([1.5, 2.5]), np.array([0.0, 1]))
    >>> _comb(limb, measure, np.arange(16.0).reshape(4, 4)).tolist()
    [4.0, 9.0]
    """
    if not limb.fur:
        return np.zeros(len(measure.along))
    length = np.hypot(*np.diff(limb.points, axis=0).T).sum()
    rows = np.floor(measure.along * length).astype(int) % len(fur)
    columns = np.floor(measure.across * limb.radii.mean() * 1.5).astype(int) % len(fur)
    return fur[rows, columns]


def _shade(limb: Limb, measure: Measure, hairs: np.ndarray, sun: np.ndarray) -> np.ndarray:
    """Colours of a limb as if it were round: lighter towards the sun, darker towards its edge.

    Examples
    --------
    >>> limb = Limb(np.array([[0.0, 0], [8, 0]]), np.array([2.0, 2.0]), (100.0, 100.0, 100.0))
    >>> measure = measure_limb(limb, np.array([4.0, 4]), np.array([-1.0, 1]))
    >>> north, south = _shade(limb, measure, np.zeros(2), np.array([0, -0.6, 0.8]))[:, 0]
    >>> bool(north > 100 > south)
    True
    """
    colour = np.broadcast_to(np.array(limb.colour), (len(hairs), 3))
    if limb.pattern != "plain":
        accent = PATTERNS[limb.pattern](measure.along, measure.across)[:, None]
        colour = colour * (1 - accent) + np.array(limb.accent) * accent
    flat = np.minimum(measure.normal_x**2 + measure.normal_y**2, 1.0)
    towards = 0.8 * (measure.normal_x * sun[0] + measure.normal_y * sun[1]) + np.sqrt(1 - 0.64 * flat) * sun[2]
    light = 0.66 + 0.44 * np.minimum(np.maximum(towards, 0), 1) + 0.032 * hairs
    rim = 1 - 0.22 * _ramp(measure.distance, -1.6, 0.2)
    return colour * (light * rim)[:, None]


def paint_limbs(limbs: Sequence[Limb], size: tuple[int, int], sun: np.ndarray, fur: np.ndarray) -> np.ndarray:
    """Paint all limbs on a layer of their own.

    Parameters
    ----------
    limbs : sequence of Limb
        What lies lowest first.
    size : (int, int)
        Height and width in pixels.
    sun : ndarray, shape (3,)
        Direction to it: x, y and up.
    fur : ndarray, shape (S, S)
        From `make_fur`.

    Returns
    -------
    ndarray of float64, shape (H, W, 4)
        Red, green and blue times the share painted, and that share.

    Examples
    --------
    >>> limb = Limb(np.array([[3.0, 4.0], [6.0, 4.0]]), np.array([2.0, 2.0]), (200, 100, 0))
    >>> layer = paint_limbs([limb], (8, 9), np.array([0, 0, 1.0]), make_fur(np.random.default_rng(0)))
    >>> layer.shape, float(layer[4, 4, 3]), float(layer[0, 0, 3])
    ((8, 9, 4), 1.0, 0.0)
    """
    layer = np.zeros((*size, 4))
    for limb in limbs:
        paint_limb(layer, limb, sun, fur)
    return layer


def lay_on_ground(ground: np.ndarray, layer: np.ndarray, sun: np.ndarray, height: float = 5.0) -> np.ndarray:
    """Put a painted layer on the ground, with the shadow that it casts.

    Parameters
    ----------
    ground : ndarray of float64, shape (H, W, 3)
        What lies below.
    layer : ndarray of float64, shape (H, W, 4)
        From `paint_limbs`.
    sun : ndarray, shape (3,)
        Direction to it: x, y and up.
    height : float
        Of the animal, in pixels.

    Returns
    -------
    ndarray of float64, shape (H, W, 3)
        Both together.

    Examples
    --------
    >>> ground, layer = np.full((30, 40, 3), 100.0), np.zeros((30, 40, 4))
    >>> layer[10:20, 10:20] = 1.0
    >>> picture = lay_on_ground(ground, layer, np.array([-0.6, 0, 0.8]))
    >>> float(picture[15, 15, 0]), bool(picture[15, 21, 0] < 80), bool(picture[15, 5, 0] > 90)
    (1.0, True, True)
    """
    shift = -height * sun[:2] / sun[2]
    margin = 8 + int(np.abs(shift).max())
    painted = layer[..., 3] > 0
    rows, columns = _reach(painted.any(axis=1), margin), _reach(painted.any(axis=0), margin)
    below, above = ground[rows, columns], layer[rows, columns]
    move = np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]])
    shadow = cv2.warpAffine(above[..., 3], move, above.shape[1::-1], flags=cv2.INTER_LINEAR)
    shadow = cv2.GaussianBlur(np.maximum(shadow, 0.6 * above[..., 3]), (0, 0), 2.0)[..., None]
    dark = below * (1 - shadow * np.array([0.6, 0.56, 0.46]))  # the sky still lights shadows, in blue
    picture = ground.copy()
    picture[rows, columns] = dark * (1 - above[..., 3:]) + above[..., :3]
    return picture


def _reach(used: Any, margin: int) -> slice:
    """From the first to the last that is used, with a margin.

    Examples
    --------
    >>> _reach(np.array([False, False, False, True, True, False, False]), 2), _reach(np.array([False]), 2)
    (slice(1, 7, None), slice(0, 0, None))
    """
    places = np.flatnonzero(used)
    return (
        slice(max(int(places[0]) - margin, 0), min(int(places[-1]) + 1 + margin, len(used)))
        if len(places)
        else slice(0, 0)
    )
