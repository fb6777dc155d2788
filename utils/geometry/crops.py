"""Geometry of keypoint samples: one affine matrix takes a picture to its canvas, and its inverse takes points back.

A sample is a whole picture or the surroundings of one animal, laid on a canvas whose size is common to a task. All
matrices are 3 x 3, float64, and move points whose origin is the outer corner of the first pixel; pixels move by the
same matrix, so pictures and points cannot part. Movements are chained by a product: `augmentation @ crop` crops first.

What lies outside a picture is black and not valid here, where `warp_image` mirrors it. A mirrored animal would have
keypoints that no label names, and a head would be taught that they are background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from utils.geometry.warps import transform_points, warp_image, warp_valid

# --- canvases --------------------------------------------------------------------------------------------------------


def canvas_of(sizes: Sequence[tuple[int, int]], short_side: int, multiple: int = 1) -> tuple[int, int]:
    """Choose one canvas for all pictures of a set.

    Its aspect is the one of which the pictures, each scaled to fit, cover the largest share on average. Its size is
    such that the median picture's shorter side is `short_side` on it.

    Parameters
    ----------
    sizes : sequence of (int, int)
        Height and width of each picture.
    short_side : int
        Pixels on the canvas.
    multiple : int
        Both sides are rounded up to a multiple of this.

    Returns
    -------
    (int, int)
        Height and width; every picture fits, by `whole_picture`.

    Raises
    ------
    ValueError
        If there is no picture, or a number is not positive.

    Examples
    --------
    >>> canvas_of([(480, 640), (960, 1280), (600, 600)], short_side=384)
    (384, 512)
    >>> canvas_of([(1080, 1920)], short_side=384, multiple=14)
    (392, 686)
    """
    sides = np.asarray(sizes, np.float64).reshape(-1, 2)
    if not len(sides) or sides.min() <= 0 or short_side < 1 or multiple < 1:
        raise ValueError(f"expected pictures and sides above 0, got {list(sizes)[:3]}, {short_side} and {multiple}")
    # A picture of aspect a covers min(a / A, A / a) of a canvas of aspect A. The sum over pictures has its maximum at
    # the aspect of one of them, because between two neighbours it is convex in log A: sorted sums find it.
    aspects = np.sort(sides[:, 1] / sides[:, 0])
    narrower = np.cumsum(aspects) / aspects
    wider = (np.sum(1 / aspects) - np.cumsum(1 / aspects)) * aspects
    aspect = float(aspects[np.argmax(narrower + wider)])
    # A picture on a canvas of height 1: as high as it where the picture is narrower, as wide where it is wider.
    heights = np.minimum(1.0, aspect / aspects)
    height = short_side / np.median(heights * np.minimum(1.0, aspects))
    rounded = [math.ceil(side / multiple - 1e-9) * multiple for side in (height, height * aspect)]
    return rounded[0], rounded[1]


def whole_picture(size: tuple[int, int], canvas: tuple[int, int]) -> np.ndarray:
    """Scale a picture to fit a canvas, with its aspect kept, at the top left.

    Parameters
    ----------
    size : (int, int)
        Height and width of the picture.
    canvas : (int, int)
        Height and width of the canvas.

    Returns
    -------
    ndarray of float64, shape (3, 3)
        From picture to canvas.

    Examples
    --------
    >>> whole_picture((100, 400), canvas=(100, 200)).tolist()
    [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    return np.diag([scale, scale, 1.0])


def crop_of_box(box_xyxy: np.ndarray, canvas: tuple[int, int], scale: float = 1.25) -> np.ndarray:
    """Centre a box on a canvas and enlarge it until it fills it, without distortion.

    Parameters
    ----------
    box_xyxy : array, shape (4,)
        In pixels of the picture; what it leaves free on the canvas shows more of the picture, or its outside.
    canvas : (int, int)
        Height and width of the canvas.
    scale : float
        How much larger than the box the crop is; 1 touches it.

    Returns
    -------
    ndarray of float64, shape (3, 3)
        From picture to canvas.

    Raises
    ------
    ValueError
        If the box is a point, not finite or inside out, or `scale` is not positive.

    Examples
    --------
    >>> crop_of_box(np.array([10, 20, 30, 30]), canvas=(64, 50), scale=1.25).tolist()
    [[2.0, 0.0, -15.0], [0.0, 2.0, -18.0], [0.0, 0.0, 1.0]]
    """
    left, top, right, bottom = (float(side) for side in box_xyxy)
    width, height = right - left, bottom - top
    if not (min(width, height) >= 0 and 0 < max(width, height) < math.inf and scale > 0):
        raise ValueError(f"expected a box x1, y1, x2, y2 with an extent and a scale above 0, got {box_xyxy}, {scale}")
    enlarged = min(
        canvas[1] / (width * scale) if width else math.inf, canvas[0] / (height * scale) if height else math.inf
    )
    x = canvas[1] / 2 - enlarged * (left + right) / 2
    y = canvas[0] / 2 - enlarged * (top + bottom) / 2
    return np.array([[enlarged, 0.0, x], [0.0, enlarged, y], [0.0, 0.0, 1.0]])


# --- boxes -----------------------------------------------------------------------------------------------------------


def box_of_points(keypoints: np.ndarray, margin: float = 0.1, least: float = 8.0) -> np.ndarray | None:
    """Box around the keypoints that are there.

    Parameters
    ----------
    keypoints : ndarray, shape (K, 3)
        x, y and v; those with v = 0 do not count.
    margin : float
        Added on each side, as a share of the longer side of the tight box: a straight animal has a thin one.
    least : float
        Pixels added on each side at least, so that a single point has a box too.

    Returns
    -------
    ndarray of float64, shape (4,), or None
        The box as x1, y1, x2, y2; it may reach outside the picture. None where no keypoint is there.

    Examples
    --------
    >>> box_of_points(np.array([[10, 20, 2], [60, 40, 1], [np.nan, np.nan, 0]]), margin=0.5).tolist()
    [-15.0, -5.0, 85.0, 65.0]
    >>> box_of_points(np.array([[10, 20, 2]])).tolist(), box_of_points(np.array([[10, 20, 0]]))
    ([2.0, 12.0, 18.0, 28.0], None)
    """
    keypoints = np.asarray(keypoints, np.float64)
    there = keypoints[keypoints[:, 2] > 0, :2]
    if not len(there):
        return None
    low, high = there.min(axis=0), there.max(axis=0)
    added = max(margin * float((high - low).max()), least)
    return np.concatenate([low - added, high + added])


def tight_box(points: np.ndarray) -> np.ndarray | None:
    """Smallest box around the points that are not NaN, or None without any.

    Parameters
    ----------
    points : ndarray, shape (N, 2 or more)
        x and y come first.

    Returns
    -------
    ndarray of float64, shape (4,), or None
        x1, y1, x2, y2; of zero size for a single point.

    Examples
    --------
    >>> tight_box(np.array([[3, 9, 2], [5, 4, 1], [np.nan, np.nan, 0]])).tolist()
    [3.0, 4.0, 5.0, 9.0]
    """
    placed = points[np.isfinite(points[:, :2]).all(axis=1), :2]
    return np.concatenate([placed.min(axis=0), placed.max(axis=0)]).astype(np.float64) if len(placed) else None


def move_boxes(boxes_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes around moved boxes; a turn makes them larger than what they hold.

    Parameters
    ----------
    boxes_xyxy : ndarray, shape (..., 4)
        In pixels before.
    matrix : ndarray, shape (3, 3)
        Affine.

    Returns
    -------
    ndarray of float64, shape (..., 4)
        In pixels after, not clipped.

    Examples
    --------
    >>> move_boxes(np.array([[1, 2, 3, 7]]), np.array([[-2.0, 0, 10], [0, 1, 5], [0, 0, 1]])).tolist()
    [[4.0, 7.0, 8.0, 12.0]]
    """
    corners = np.asarray(boxes_xyxy, np.float64)[..., [0, 1, 2, 1, 2, 3, 0, 3]]
    moved = transform_points(corners.reshape(*corners.shape[:-1], 4, 2), matrix)
    return np.concatenate([moved.min(axis=-2), moved.max(axis=-2)], axis=-1)


# --- pictures --------------------------------------------------------------------------------------------------------


def warp_picture(image: np.ndarray, matrix: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Lay a picture on a canvas; outside it, the canvas is black and not valid.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, C)
        The picture, any number of channels.
    matrix : ndarray, shape (3, 3)
        From picture to canvas.
    canvas : (int, int)
        Height and width of the canvas.

    Returns
    -------
    image : ndarray of uint8, shape (*canvas, C)
        Bilinear, smoothed first as far as it shrinks.
    valid : ndarray of bool, shape canvas
        Whether a pixel's centre lies in the picture.

    Examples
    --------
    >>> shift = np.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    >>> image, valid = warp_picture(np.array([[[7], [9]]], np.uint8), shift, (2, 4))
    >>> image[..., 0].tolist(), valid[0].tolist()
    ([[0, 7, 9, 0], [0, 0, 0, 0]], [False, True, True, False])
    """
    rows, columns = _part_seen(image.shape[:2], matrix, canvas)
    part = image[rows, columns]
    if not part.size:
        return np.zeros((*canvas, image.shape[2]), image.dtype), np.zeros(canvas, bool)
    local = matrix @ np.array([[1.0, 0, columns.start], [0, 1, rows.start], [0, 0, 1]])
    valid = warp_valid(np.ones(part.shape[:2], bool), local, canvas)
    warped = warp_image(part, local, canvas)
    warped[~valid] = 0
    return warped, valid


def _part_seen(size: tuple[int, ...], matrix: np.ndarray, canvas: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a picture that a canvas shows, with a margin as wide as smoothing looks.

    The matrix has shape (3, 3), from the picture to the canvas.

    Without this, a crop of one small animal would smooth the whole picture, and OpenCV refuses sides above 32767.

    Examples
    --------
    >>> _part_seen((100, 200), np.array([[1.0, 0, -90], [0, 1, 20], [0, 0, 1]]), (50, 40))
    (slice(0, 32, None), slice(88, 132, None))
    """
    corners = np.array([(0, 0), (canvas[1], 0), (canvas[1], canvas[0]), (0, canvas[0])], np.float64)
    inverse = np.linalg.inv(matrix)
    seen = transform_points(corners, inverse)
    shrinking = math.sqrt(abs(np.linalg.det(inverse[:2, :2])))
    margin = 2 + math.ceil(2 * max(shrinking - 1, 0))  # OpenCV's kernels reach 3 sigma; sigma is (shrinking - 1) / 2
    low = np.floor(seen.min(axis=0)).astype(int) - margin
    high = np.ceil(seen.max(axis=0)).astype(int) + margin
    (left, top), (right, bottom) = (np.clip(place, 0, (size[1], size[0])).tolist() for place in (low, high))
    return slice(top, bottom), slice(left, right)


# --- points ----------------------------------------------------------------------------------------------------------


def move_points(keypoints: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Move keypoints by a matrix; the third number is kept.

    Parameters
    ----------
    keypoints : ndarray, shape (..., 3)
        x, y and v or a score. NaN stays NaN.
    matrix : ndarray, shape (3, 3)
        From picture to canvas.

    Returns
    -------
    ndarray of float64, shape (..., 3)
        On the canvas, or outside it.

    Examples
    --------
    >>> move_points(np.array([[1, 2, 2], [5, 5, 0]]), np.array([[2.0, 0, 1], [0, 2, 0], [0, 0, 1]])).tolist()
    [[3.0, 4.0, 2.0], [11.0, 10.0, 0.0]]
    """
    keypoints = np.asarray(keypoints, np.float64)
    return np.concatenate([transform_points(keypoints[..., :2], matrix), keypoints[..., 2:]], axis=-1)


def points_back(keypoints: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Undo `move_points`.

    Parameters
    ----------
    keypoints : ndarray, shape (..., 3)
        x and y on the canvas, then v or a score.
    matrix : ndarray, shape (3, 3)
        From picture to canvas.

    Returns
    -------
    ndarray of float64, shape (..., 3)
        In pixels of the picture.

    Examples
    --------
    >>> points_back(np.array([[3, 4, 2]]), np.array([[2.0, 0, 1], [0, 2, 0], [0, 0, 1]])).tolist()
    [[1.0, 2.0, 2.0]]
    """
    return move_points(keypoints, np.linalg.inv(matrix))


def drop_outside(keypoints: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Mark keypoints outside a canvas as missing, and write all that are missing as zeros.

    Parameters
    ----------
    keypoints : ndarray, shape (..., 3)
        x, y and v on the canvas.
    canvas : (int, int)
        Height and width; a point at exactly the far side is outside.

    Returns
    -------
    ndarray, shape (..., 3)
        A copy; x = y = v = 0 where nothing is on the canvas, as samples hold it.

    Examples
    --------
    >>> drop_outside(np.array([[0, 9.5, 2], [20, 5, 2], [np.nan, np.nan, 0]]), canvas=(10, 20)).tolist()
    [[0.0, 9.5, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    x, y, visibility = np.moveaxis(np.asarray(keypoints)[..., :3], -1, 0)
    inside = (x >= 0) & (x < canvas[1]) & (y >= 0) & (y < canvas[0]) & (visibility > 0)
    return np.where(inside[..., None], keypoints, np.zeros_like(keypoints))


def move_keypoints(keypoints: np.ndarray, matrix: np.ndarray, flip_idx: Sequence[int] | None) -> np.ndarray:
    """Move keypoints by a matrix; where it mirrors, left and right change places.

    Parameters
    ----------
    keypoints : ndarray, shape (..., K, 3)
        x, y and v.
    matrix : ndarray, shape (3, 3)
        From picture to canvas; it mirrors when its determinant is negative.
    flip_idx : sequence of int, optional
        Which keypoint each becomes in a mirror; None where none has a side.

    Returns
    -------
    ndarray of float64, shape (..., K, 3)
        In the order of names, on the canvas or outside it.

    Raises
    ------
    ValueError
        If `flip_idx` has another length than there are keypoints.

    Examples
    --------
    >>> keypoints = np.array([[5, 1, 2], [2, 3, 2], [8, 3, 1]])  # nose, left and right ear
    >>> mirror = np.array([[-1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
    >>> move_keypoints(keypoints, mirror, flip_idx=(0, 2, 1)).tolist()
    [[5.0, 1.0, 2.0], [2.0, 3.0, 1.0], [8.0, 3.0, 2.0]]
    """
    moved = move_points(keypoints, matrix)
    if flip_idx is None or np.linalg.det(matrix[:2, :2]) > 0:
        return moved
    if len(flip_idx) != moved.shape[-2]:
        raise ValueError(f"flip_idx is for {len(flip_idx)} keypoints, but there are {moved.shape[-2]}")
    return moved[..., list(flip_idx), :]


# --- augmentation ----------------------------------------------------------------------------------------------------


def random_similarity(
    generator: np.random.Generator,
    canvas: tuple[int, int],
    scale: tuple[float, float],
    rotation_deg: float,
) -> np.ndarray:
    """Draw a matrix that turns and scales a canvas about its centre.

    Parameters
    ----------
    generator : numpy.random.Generator
        Always asked for two numbers.
    canvas : (int, int)
        Height and width.
    scale : (float, float)
        Smallest and largest enlargement; between them all octaves are equally likely.
    rotation_deg : float
        Largest turn to either side.

    Returns
    -------
    ndarray of float64, shape (3, 3)
        From canvas to canvas.

    Raises
    ------
    ValueError
        If a value makes no sense.

    Examples
    --------
    >>> random_similarity(np.random.default_rng(0), (10, 20), (2.0, 2.0), 0.0)[:2, 2].tolist()
    [-10.0, -5.0]
    """
    if not (0 < scale[0] <= scale[1] and 0 <= rotation_deg <= 180):
        raise ValueError(
            "expected 0 < smallest <= largest scale and a rotation of 0 to 180 degrees, got "
            f"{tuple(scale)} and {rotation_deg}"
        )
    draws = generator.random(2)
    enlargement = scale[0] * (scale[1] / scale[0]) ** draws[0]
    angle_deg = rotation_deg * (2 * draws[1] - 1)
    # This formula is about a point and holds for outer corners too, since we name the centre in their terms.
    centre = (canvas[1] / 2, canvas[0] / 2)
    return np.vstack([cv2.getRotationMatrix2D(centre, angle_deg, enlargement), [0.0, 0.0, 1.0]])


def random_affine(
    generator: np.random.Generator,
    canvas: tuple[int, int],
    scale: tuple[float, float],
    rotation_deg: float,
    shear_deg: float = 0.0,
    translate: float = 0.0,
    probability: float = 1.0,
) -> np.ndarray:
    """Draw a matrix that turns, scales and shears a canvas about its centre, and then shifts it.

    Parameters
    ----------
    generator : numpy.random.Generator
        Always asked for seven numbers.
    canvas, scale, rotation_deg
        As for `random_similarity`.
    shear_deg : float
        Largest angle to either side by which a vertical, and by which a horizontal line is tilted, below 90.
    translate : float
        Largest shift to either side, as a share of width and of height.
    probability : float
        How often the canvas moves at all.

    Returns
    -------
    ndarray of float64, shape (3, 3)
        From canvas to canvas; without a shear it keeps angles.

    Raises
    ------
    ValueError
        If a value makes no sense.

    Examples
    --------
    >>> random_affine(np.random.default_rng(0), (10, 20), (2.0, 2.0), 0.0)[:2, 2].tolist()
    [-10.0, -5.0]
    >>> sheared = random_affine(np.random.default_rng(0), (10, 20), (1.0, 1.0), 0.0, shear_deg=10)
    >>> (sheared @ [10, 5, 1]).tolist(), bool(abs(np.linalg.det(sheared) - 1) < 0.04)
    ([10.0, 5.0, 1.0], True)
    >>> random_affine(np.random.default_rng(0), (10, 20), (2.0, 2.0), 90.0, probability=0.0).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if not (0 <= shear_deg < 90 and translate >= 0 and 0 <= probability <= 1):
        raise ValueError(
            "expected a shear of 0 to 90 degrees, a shift of 0 or more and a probability of 0 to 1, got "
            f"{shear_deg}, {translate} and {probability}"
        )
    turn = random_similarity(generator, canvas, scale, rotation_deg)
    draws = generator.random(5)
    if draws[4] >= probability:
        return np.eye(3)
    height, width = canvas
    tilts = np.tan(np.radians(shear_deg * (2 * draws[:2] - 1)))
    shear = np.array([[1.0, tilts[0], 0], [tilts[1], 1, 0], [0, 0, 1]])
    shear[:2, 2] = (width / 2, height / 2) - shear[:2, :2] @ (width / 2, height / 2)
    shift = np.eye(3)
    shift[:2, 2] = translate * (2 * draws[2:4] - 1) * (width, height)
    return shift @ shear @ turn
