"""Poses over a picture: points, the lines between them, and their names.

Marks keep their size on the screen: their radius follows the picture, but stays small beside the animal. A point (x, y)
is drawn to a sixteenth of a pixel; the centre of the first pixel is (0.5, 0.5). What is not finite is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from utils.report.colours import class_palette
from utils.report.plots import show_colours

Edges = Sequence[tuple[int, int]]

_SHIFT = 4  # OpenCV takes coordinates in 1 / 2^4 pixels
_FARTHEST = 1e5  # pixels; OpenCV's coordinates are 32-bit
_DARK, _LIGHT = (20, 20, 20), (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SMALLEST_FONT, _LARGEST_FONT = 0.45, 1.2  # OpenCV's scale; smaller letters cannot be read


# --- marks -----------------------------------------------------------------------------------------------------------


def _place(point: np.ndarray) -> tuple[int, int]:
    """A point in OpenCV's fixed-point coordinates, which lie on pixel centres.

    `point` has shape (2,): x, y.

    Examples
    --------
    >>> _place(np.array([0.5, 2.0])), _place(np.array([1e30, 0.5]))
    ((0, 24), (1600000, 0))
    """
    x, y = np.clip((np.asarray(point[:2], float) - 0.5) * 2**_SHIFT, -_FARTHEST * 2**_SHIFT, _FARTHEST * 2**_SHIFT)
    return round(float(x)), round(float(y))


def finite_points(pose: np.ndarray) -> np.ndarray:
    """Tell which points of a pose are somewhere.

    Parameters
    ----------
    pose : ndarray, shape (K, 2 or more)
        x, y.

    Returns
    -------
    ndarray of bool, shape (K,)
        Whether both are finite.

    Examples
    --------
    >>> finite_points(np.array([[1.0, 2, 0.5], [np.nan, 2, 0.5]])).tolist()
    [True, False]
    """
    return np.isfinite(pose[:, :2]).all(axis=1)


def mark_radius(size: tuple[int, int], poses: Sequence[np.ndarray]) -> float:
    """Choose the radius of a point's mark.

    Parameters
    ----------
    size : (int, int)
        Height and width of the picture.
    poses : sequence of ndarray, shape (K, 2 or more)
        What is drawn: marks are smaller on small animals, down to half the size. For the frames of a video give none,
        or those of one frame, lest the marks pulsate.

    Returns
    -------
    float
        In pixels, at least 1.5.

    Examples
    --------
    >>> [mark_radius(size, []) for size in ((48, 64), (240, 320), (480, 640), (1080, 1920))]
    [1.5, 2.5, 3.88, 10.08]
    >>> mark_radius((1080, 1920), [np.array([[0.0, 0], [90, 120]])]), mark_radius((1080, 1920), [np.zeros((2, 2))])
    (6.75, 5.04)
    """
    extents = [np.ptp(pose[finite_points(pose), :2], axis=0) for pose in poses if finite_points(pose).sum() > 1]
    side = math.sqrt(size[0] * size[1])
    largest = max(0.007 * side, min(0.02 * side, 2.5))  # on small pictures marks are larger, or none could be seen
    fitting = 0.045 * float(np.median(np.linalg.norm(extents, axis=1))) if extents else largest
    return round(max(min(largest, max(fitting, 0.5 * largest)), 1.5), 2)


def draw_line(picture: np.ndarray, start: np.ndarray, end: np.ndarray, colour: Sequence[int], width: int) -> None:
    """Draw a line with smooth edges.

    Parameters
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        Where it is drawn, in place.
    start, end : ndarray, shape (2 or more,)
        x, y in pixels.
    colour : sequence of int
        Red, green, blue.
    width : int
        In pixels.

    Examples
    --------
    >>> picture = np.zeros((5, 9, 3), np.uint8)
    >>> draw_line(picture, np.array([0.5, 2.5]), np.array([8.5, 2.5]), (0, 200, 0), 1)
    >>> picture[2, 4, 1].item() > 150, picture[0].max().item()
    (True, 0)
    """
    cv2.line(picture, _place(start), _place(end), tuple(map(int, colour)), width, cv2.LINE_AA, _SHIFT)


def _draw_disc(picture: np.ndarray, centre: np.ndarray, radius: float, colour: Sequence[int]) -> None:
    """Draw a disc with smooth edges.

    `picture` has shape (H, W, 3), `centre` shape (2,).

    Examples
    --------
    >>> picture = np.zeros((9, 13, 3), np.uint8)
    >>> _draw_disc(picture, np.array([8.5, 4.5]), 3.0, (200, 0, 0))
    >>> picture[4, 8].tolist(), picture[4, 2].tolist(), bool(0 < picture[1, 8, 0])
    ([200, 0, 0], [0, 0, 0], True)
    """
    centre_px, radius_px = _place(centre), round(radius * 2**_SHIFT)
    cv2.circle(picture, centre_px, radius_px, tuple(map(int, colour)), -1, cv2.LINE_AA, _SHIFT)


def _draw_bones(picture: np.ndarray, pose: np.ndarray, edges: Edges, colours: np.ndarray, radius: float) -> None:
    """Draw the lines between the points of a pose, each half in the colour of its end, over a dark rim.

    `picture` has shape (H, W, 3), `pose` shape (K, 3), `colours` shape (K, 3).

    Examples
    --------
    >>> picture = np.full((20, 40, 3), 255, np.uint8)
    >>> pose = np.array([[4.5, 10.5], [36.5, 10.5], [np.nan, 5.0]])
    >>> colours = np.array([[200, 0, 0], [0, 0, 200], [0, 0, 0]])
    >>> _draw_bones(picture, pose, [(0, 1), (0, 2)], colours, radius=3.0)
    >>> picture[10, 8].tolist(), picture[10, 32].tolist(), bool((picture[0] == 255).all())
    ([200, 0, 0], [0, 0, 200], True)
    """
    finite = finite_points(pose)
    drawn = [(first, second) for first, second in edges if finite[first] and finite[second]]
    width = max(1, round(0.6 * radius))
    for first, second in drawn if width > 1 else ():  # the rim would hide a line of one pixel
        draw_line(picture, pose[first], pose[second], _DARK, width + 2)
    for first, second in drawn:
        middle = (pose[first, :2] + pose[second, :2]) / 2
        draw_line(picture, pose[first], middle, colours[first], width)
        draw_line(picture, middle, pose[second], colours[second], width)


def _draw_points(picture: np.ndarray, pose: np.ndarray, colours: np.ndarray, radius: float, hollow: np.ndarray) -> None:
    """Draw the points of a pose as discs, or as rings, in a light and a dark rim that stand out on any ground.

    `picture` has shape (H, W, 3), `pose` shape (K, 3), `colours` shape (K, 3), `hollow` shape (K,).

    Examples
    --------
    >>> picture = np.full((20, 40, 3), 128, np.uint8)
    >>> pose = np.array([[10.5, 10.5], [30.5, 10.5]])
    >>> _draw_points(picture, pose, np.array([[200, 0, 0], [0, 0, 200]]), 4.0, np.array([False, True]))
    >>> picture[10, 10].tolist(), picture[10, 30].tolist()
    ([200, 0, 0], [255, 255, 255])
    """
    rim = max(0.7, 0.25 * radius)
    for index in np.flatnonzero(finite_points(pose)):
        _draw_disc(picture, pose[index], radius + 1.6 * rim, _DARK)
        _draw_disc(picture, pose[index], radius + 0.8 * rim, _LIGHT)
        _draw_disc(picture, pose[index], radius, colours[index])
        if hollow[index]:
            _draw_disc(picture, pose[index], 0.55 * radius, _LIGHT)


def draw_poses(
    image: np.ndarray,
    poses: Sequence[np.ndarray],
    edges: Edges = (),
    *,
    third: Literal["score", "visibility"] = "score",
    colours: np.ndarray | None = None,
    radius: float | None = None,
) -> np.ndarray:
    """Lay poses over a picture.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, C)
        The picture; channels after the third are not shown.
    poses : sequence of ndarray, shape (K, 3)
        x and y in pixels of the picture, and a score or a visibility. Points that are not finite are left out.
    edges : sequence of (int, int)
        Keypoints joined by a line.
    third : "score" or "visibility"
        What the third column is. By visibility, 0 is left out and 1 is drawn as a ring.
    colours : ndarray of uint8, shape (K, 3), optional
        Red, green, blue of the keypoints; those of `class_palette` by default.
    radius : float, optional
        Of a point, in pixels; `mark_radius` by default.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new picture.

    Examples
    --------
    >>> image, pose = np.zeros((30, 40, 3), np.uint8), np.array([[10.5, 20.5, 0.9], [np.nan, np.nan, 0.1]])
    >>> drawn = draw_poses(image, [pose], edges=[(0, 1)])
    >>> drawn[20, 10].tolist(), int(image.max())
    ([0, 114, 178], 0)
    """
    picture = show_colours(image).copy()
    shown = [np.array(pose, float) for pose in poses]
    hollow = [np.zeros(len(pose), bool) for pose in shown]
    if third == "visibility":
        hollow = [pose[:, 2] == 1 for pose in shown]
        for pose in shown:
            pose[pose[:, 2] == 0, :2] = np.nan
    radius = mark_radius(picture.shape[:2], shown) if radius is None else radius
    colours = class_palette(256) if colours is None else colours
    for pose in shown:
        _draw_bones(picture, pose, edges, np.resize(colours, (len(pose), 3)), radius)
    for pose, rings in zip(shown, hollow, strict=True):
        _draw_points(picture, pose, np.resize(colours, (len(pose), 3)), radius, rings)
    return picture


def draw_names(picture: np.ndarray, poses: Sequence[np.ndarray], names: Sequence[str], radius: float) -> None:
    """Write the names of points beside them, light in a dark rim.

    A name stands to the right of its point, else to the left, above or below it. Where it would cover a point or
    another name, or leave the picture, it is left out: small or crowded animals have the names that there is room for.

    Parameters
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        Where they are written, in place; letters follow its size, but stay legible on small ones.
    poses : sequence of ndarray, shape (K, 2 or more)
        x, y of the points. Those that are not finite, or outside, have no name.
    names : sequence of str
        Of the K keypoints.
    radius : float
        Of the points' marks, in pixels.

    Examples
    --------
    >>> picture, pose = np.zeros((40, 120, 3), np.uint8), np.array([[20.5, 20.5, 1], [np.nan, 3.0, 1]])
    >>> draw_names(picture, [pose], ["nose", "tail"], radius=2.0)
    >>> columns = np.flatnonzero((picture == 255).any(axis=(0, 2)))
    >>> bool(columns.min() > 23), bool(columns.max() < 60), bool(picture[:, :20].any())
    (True, True, False)
    """
    height, width = picture.shape[:2]
    scale = min(max(math.sqrt(height * width) / 1700, _SMALLEST_FONT), _LARGEST_FONT)
    weight = 1 if scale < 0.7 else 2
    gap = 1.4 * radius + 3  # the mark with its rims
    points = [(point[:2], name) for pose in poses for point, name in zip(pose, names, strict=True)]
    points = [(point, name) for point, name in points if np.isfinite(point).all()]
    places = np.array([point for point, _ in points]).reshape(-1, 2)
    taken = np.concatenate([places - gap + 1, places + gap - 1], axis=1)
    inside = [(*point, name) for point, name in points if (point >= 0).all() and (point < (width, height)).all()]
    for x, y, name in inside:
        (wide, tall), below = cv2.getTextSize(name, _FONT, scale, weight)
        for left, top in (
            (x + gap, y - tall / 2),
            (x - gap - wide, y - tall / 2),
            (x - wide / 2, y - gap - tall - below),
            (x - wide / 2, y + gap),
        ):
            box = np.array([left, top, left + wide, top + tall + below])
            covers = ((taken[:, :2] < box[2:]) & (box[:2] < taken[:, 2:])).all(axis=1).any()
            if not covers and (box[:2] >= 0).all() and (box[2:] <= (width, height)).all():
                _write_name(picture, name, (round(float(left)), round(float(top)) + tall), scale, weight)
                taken = np.concatenate([taken, box[None]])
                break


def _write_name(picture: np.ndarray, name: str, start: tuple[int, int], scale: float, weight: int) -> None:
    """Write light letters, whose lower left is at `start` (x, y), in a dark rim of a pixel or two.

    `picture` has shape (H, W, 3).

    Examples
    --------
    >>> picture = np.full((30, 60, 3), 255, np.uint8)
    >>> _write_name(picture, "nose", (5, 20), 0.45, 1)
    >>> bool(picture.min() < 60), bool((picture[:5] == 255).all())
    (True, True)
    """
    letters = np.zeros(picture.shape[:2], np.uint8)
    cv2.putText(letters, name, start, _FONT, scale, 255, weight, cv2.LINE_AA)
    (x, y, wide, tall), rim = cv2.boundingRect(letters), weight + 1  # a thicker stroke is no rim in every OpenCV
    part = slice(max(y - rim, 0), y + tall + rim), slice(max(x - rim, 0), x + wide + rim)
    around = cv2.dilate(letters[part], np.ones((2 * weight + 1, 2 * weight + 1), np.uint8))
    for mask, colour in ((around, _DARK), (letters[part], _LIGHT)):
        share = mask[..., None] / 255
        picture[part] = np.rint(picture[part] * (1 - share) + np.array(colour) * share).astype(np.uint8)
