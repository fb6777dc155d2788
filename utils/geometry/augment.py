"""Views, random geometry and random colours: what is done to a picture, its labels and its points before the backbone.

Stored features know eight views of a picture, the flips and quarter turns (`View`); they move pixels without changing
them. What is computed on the fly may also be scaled, turned, cropped (`RandomGeometry`) and coloured (`RandomColour`).
Geometry is one affine matrix from input to output points, with the origin at the outer corner of the first pixel;
utils/geometry/fields.py moves all fields of a sample by it, so they cannot part.

OpenCV does the work, not kornia: it colours bytes as they lie. On one core a 512 x 512 picture takes 0.1 ms, where
kornia 0.9 takes 21 ms.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.geometry.augment_settings import AugmentationsConfig

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, how bright red, green and blue look

_MOVED_BYTES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # sizes of a pixel that OpenCV can transpose
_ROTATIONS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}

Array = TypeVar("Array", np.ndarray, Tensor)


# --- views -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class View:
    """A flip and quarter turns, one of the eight ways to lay down a picture.

    Parameters
    ----------
    flip : bool
        Left and right are swapped first.
    quarter_turns : int
        Then the picture is turned counter-clockwise this many times, 0 to 3.

    Raises
    ------
    ValueError
        If `quarter_turns` is not 0, 1, 2 or 3.

    Examples
    --------
    >>> View(True, 1).name, View(True, 1).apply(np.array([[1, 2, 3], [4, 5, 6]])).tolist()
    ('transpose', [[1, 4], [2, 5], [3, 6]])
    """

    flip: bool
    quarter_turns: int

    def __post_init__(self) -> None:
        if self.quarter_turns not in range(4):
            raise ValueError(f"quarter_turns: expected 0, 1, 2 or 3, got {self.quarter_turns}")

    @property
    def name(self) -> str:
        """The view's name in keys and settings.

        Examples
        --------
        >>> View(False, 0).name, View(True, 2).name
        ('identity', 'vflip')
        """
        return _NAMES[self.flip, self.quarter_turns]

    @classmethod
    def from_name(cls, name: str) -> View:
        """Find the view of a name.

        Parameters
        ----------
        name : str
            identity, rot90, rot180, rot270, hflip, transpose, vflip or antitranspose.

        Returns
        -------
        View
            The view.

        Raises
        ------
        ValueError
            If no view has this name.

        Examples
        --------
        >>> View.from_name("rot90")
        View(flip=False, quarter_turns=1)
        """
        for (flip, quarter_turns), other in _NAMES.items():
            if other == name:
                return cls(flip, quarter_turns)
        raise ValueError(f"unknown view {name!r}; known: {', '.join(_NAMES.values())}")

    def apply(self, array: Array) -> Array:
        """Lay down an array this way; pixels move and keep their values.

        Parameters
        ----------
        array : ndarray of shape (H, W) or (H, W, C), or Tensor of shape (..., H, W)
            A picture, labels or a map.

        Returns
        -------
        ndarray or Tensor
            Contiguous; rows and columns are swapped by an odd number of quarter turns.

        Examples
        --------
        >>> View(False, 1).apply(torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist()
        [[3, 6], [2, 5], [1, 4]]
        """
        if isinstance(array, Tensor):
            flipped = array.flip(-1) if self.flip else array
            return torch.rot90(flipped, self.quarter_turns, (-2, -1)).contiguous()
        pixel_bytes = array.itemsize * math.prod(array.shape[2:])
        if array.size and pixel_bytes in _MOVED_BYTES:
            return self._apply_to_bytes(np.ascontiguousarray(array), pixel_bytes)
        return np.ascontiguousarray(np.rot90(np.flip(array, 1) if self.flip else array, self.quarter_turns))

    def _apply_to_bytes(self, array: np.ndarray, pixel_bytes: int) -> np.ndarray:
        """Let OpenCV move whole pixels, whatever they hold; it takes a tenth of NumPy's time.

        Examples
        --------
        >>> View(False, 1)._apply_to_bytes(np.array([[1.5, 2.5]]), 8).tolist()
        [[2.5], [1.5]]
        """
        moved: np.ndarray = array.reshape(-1).view(np.uint8).reshape(*array.shape[:2], pixel_bytes)
        if self.flip:
            moved = cv2.flip(moved, 1)
        if self.quarter_turns:
            moved = cv2.rotate(moved, _ROTATIONS[self.quarter_turns])
        size = array.shape[1::-1] if self.quarter_turns % 2 else array.shape[:2]
        return moved.reshape(-1).view(array.dtype).reshape(*size, *array.shape[2:])

    def invert(self) -> View:
        """The view that undoes this one.

        Returns
        -------
        View
            A flipped view undoes itself.

        Examples
        --------
        >>> View.from_name("rot90").invert().name, View.from_name("transpose").invert().name
        ('rot270', 'transpose')
        """
        return self if self.flip else View(False, -self.quarter_turns % 4)

    def compose(self, other: View) -> View:
        """The view that lays down first this way, then the other way.

        Parameters
        ----------
        other : View
            What comes second.

        Returns
        -------
        View
            Both in one.

        Examples
        --------
        >>> View.from_name("hflip").compose(View.from_name("rot90")).name
        'transpose'
        >>> View.from_name("rot90").compose(View.from_name("hflip")).name
        'antitranspose'
        """
        # A flip turns the sense of the turns before it.
        turns = other.quarter_turns + (-self.quarter_turns if other.flip else self.quarter_turns)
        return View(self.flip != other.flip, turns % 4)

    def vectors(self, vectors: Array) -> Array:
        """Turn differences of points, such as optical flow; where they are rooted is for `points` or `apply`.

        Parameters
        ----------
        vectors : ndarray or Tensor, shape (..., 2)
            x and y, signed.

        Returns
        -------
        ndarray or Tensor, shape (..., 2)
            Exact: components are swapped and negated only.

        Examples
        --------
        >>> View.from_name("rot90").vectors(np.array([3.0, 1.0])).tolist()
        [1.0, -3.0]
        """
        return self.points(vectors, (0, 0))

    def points(self, points: Array, image_size: tuple[int, int]) -> Array:
        """Move points along with a picture.

        Parameters
        ----------
        points : ndarray or Tensor, shape (..., 2)
            x and y in pixels, signed; the origin is the outer corner of the first pixel. NaN stays NaN.
        image_size : (int, int)
            Height and width of the picture before the view.

        Returns
        -------
        ndarray or Tensor, shape (..., 2)
            The same places in the picture after the view.

        Examples
        --------
        >>> View.from_name("hflip").points(np.array([0.5, 1.5]), image_size=(2, 3)).tolist()
        [2.5, 1.5]
        >>> View.from_name("rot90").points(torch.tensor([3.0, 0.0]), image_size=(2, 3)).tolist()
        [0.0, 0.0]
        """
        height, width = image_size
        x, y = points[..., 0], points[..., 1]
        if self.flip:
            x = width - x
        for _ in range(self.quarter_turns):
            x, y = y, width - x
            height, width = width, height
        return torch.stack([x, y], dim=-1) if isinstance(points, Tensor) else np.stack([x, y], axis=-1)

    def matrix(self, image_size: tuple[int, int]) -> np.ndarray:
        """The view as an affine matrix of points.

        Parameters
        ----------
        image_size : (int, int)
            Height and width of the picture before the view.

        Returns
        -------
        ndarray of float64, shape (3, 3)
            From points before to points after, as columns (x, y, 1).

        Examples
        --------
        >>> View.from_name("rot90").matrix((2, 3)).tolist()
        [[0.0, 1.0, 0.0], [-1.0, 0.0, 3.0], [0.0, 0.0, 1.0]]
        """
        origin = self.points(np.zeros(2), image_size)
        axes = self.points(np.eye(2), image_size) - origin
        return np.block([[axes.T, origin[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


_NAMES = {
    (False, 0): "identity",
    (False, 1): "rot90",
    (False, 2): "rot180",
    (False, 3): "rot270",
    (True, 0): "hflip",
    (True, 1): "transpose",
    (True, 2): "vflip",
    (True, 3): "antitranspose",
}
IDENTITY = View(False, 0)
_VARIED = re.compile(r"varied(\d+)-([0-9a-f]+)")


@dataclass(frozen=True, order=True)
class Variation:
    """One of several random variations of a picture whose features are stored like those of a view.

    Parameters
    ----------
    index : int
        Which one, from 1; it seeds the variation together with the picture.
    recipe : str
        Digest of the settings that the variation depends on, so that other settings have another name.

    Examples
    --------
    >>> Variation(3, "5ca1ab1e").name
    'varied3-5ca1ab1e'
    """

    index: int
    recipe: str

    @property
    def name(self) -> str:
        """The variation's name in keys.

        Examples
        --------
        >>> parse_view_name(Variation(2, "5ca1ab1e").name)
        Variation(index=2, recipe='5ca1ab1e')
        """
        return f"varied{self.index}-{self.recipe}"


def parse_view_name(name: str) -> View | Variation:
    """Find the view or variation of a name.

    Raises
    ------
    ValueError
        If the name is of neither.

    Examples
    --------
    >>> parse_view_name("hflip"), parse_view_name("varied12-5ca1ab1e")
    (View(flip=True, quarter_turns=0), Variation(index=12, recipe='5ca1ab1e'))
    """
    varied = _VARIED.fullmatch(name)
    return Variation(int(varied[1]), varied[2]) if varied else View.from_name(name)


def views_of(hflip: bool = False, vflip: bool = False, rotate90: bool = False) -> list[View]:
    """All views that the chosen movements lead to, in any order and number.

    Closed under composition, so a mean over them is the same for a picture and for any view of it.

    Parameters
    ----------
    hflip, vflip : bool
        Swap left and right; swap top and bottom.
    rotate90 : bool
        Turn by a quarter.

    Returns
    -------
    list of View
        1, 2, 4 or 8 views, the identity first.

    Examples
    --------
    >>> [view.name for view in views_of(hflip=True, vflip=True)]
    ['identity', 'rot180', 'hflip', 'vflip']
    """
    chosen = {"hflip": hflip, "vflip": vflip, "rot90": rotate90}
    generators = [View.from_name(name) for name, is_chosen in chosen.items() if is_chosen]
    found = {IDENTITY}
    while len(larger := found | {view.compose(generator) for view in found for generator in generators}) > len(found):
        found = larger
    return sorted(found)


# --- random geometry -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomGeometry:
    """Random view, scale, rotation and crop.

    Parameters
    ----------
    size : (int, int)
        Height and width of the output.
    scale : (float, float)
        Smallest and largest enlargement; between them all octaves are equally likely.
    rotation_deg : float
        Largest rotation to either side.
    views : tuple of View
        Equally likely flips and quarter turns.

    Raises
    ------
    ValueError
        If a value makes no sense.

    Examples
    --------
    >>> geometry = RandomGeometry(size=(4, 6), views=(View.from_name("hflip"),))
    >>> geometry.sample((4, 6), np.random.default_rng(0)).tolist()
    [[-1.0, 0.0, 6.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    rotation_deg: float = 0.0
    views: tuple[View, ...] = (IDENTITY,)

    def __post_init__(self) -> None:
        problems = {
            f"size: expected positive height and width, got {self.size}": min(self.size) < 1,
            f"scale: expected 0 < smallest <= largest, got {self.scale}": not 0 < self.scale[0] <= self.scale[1],
            f"rotation_deg: expected 0 to 180, got {self.rotation_deg}": not 0 <= self.rotation_deg <= 180,
            "views: expected at least one": not self.views,
        }
        for message, wrong in problems.items():
            if wrong:
                raise ValueError(message)

    def sample(self, image_size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
        """Draw a matrix.

        The crop lies inside the picture wherever it fits; where it does not, the picture lies inside the crop.

        Parameters
        ----------
        image_size : (int, int)
            Height and width of the input.
        generator : numpy.random.Generator
            Always asked for five numbers.

        Returns
        -------
        ndarray of float64, shape (3, 3)
            From input to output points.

        Examples
        --------
        >>> matrix = RandomGeometry(size=(2, 2)).sample((2, 9), np.random.default_rng(0))
        >>> matrix[1].tolist(), bool(0 <= -matrix[0, 2] <= 7), float(matrix[0, 2] % 1)
        ([0.0, 1.0, 0.0], True, 0.0)
        """
        draws = generator.random(5)
        view = self.views[int(draws[0] * len(self.views))]
        scale = self.scale[0] * (self.scale[1] / self.scale[0]) ** draws[1]
        angle_deg = self.rotation_deg * (2 * draws[2] - 1)
        linear = cv2.getRotationMatrix2D((0, 0), angle_deg, scale)[:, :2] @ view.matrix((0, 0))[:2, :2]
        middle = np.array(self.size[::-1]) / 2
        reach = np.abs(np.linalg.inv(linear)) @ middle  # half of what the crop spans in the input
        bounds = np.sort([reach, np.array(image_size[::-1]) - reach], axis=0)
        offset = middle - linear @ (bounds[0] + (bounds[1] - bounds[0]) * draws[3:])
        if scale == 1 and angle_deg == 0:
            offset = np.round(offset)  # a crop between pixels would blur for nothing
        return np.vstack([np.column_stack([linear, offset]), [0.0, 0.0, 1.0]])


# --- random colours --------------------------------------------------------------------------------------------------


def colour_matrix(brightness: float, contrast: float, saturation: float, hue_deg: float, grey: float) -> np.ndarray:
    """One affine map of colours for brightness, contrast, saturation and hue together.

    Parameters
    ----------
    brightness, contrast, saturation : float
        Factors; 1 changes nothing.
    hue_deg : float
        Turn around the grey axis, from red towards green.
    grey : float
        The brightness that a change of contrast leaves alone.

    Returns
    -------
    ndarray of float64, shape (3, 4)
        From columns (red, green, blue, 1) to red, green, blue.

    Examples
    --------
    >>> colour_matrix(2.0, 1.0, 1.0, 0.0, grey=100.0).tolist()
    [[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]
    >>> (colour_matrix(1.0, 0.5, 1.0, 120.0, grey=100.0) @ (200.0, 0.0, 0.0, 1.0)).round(9).tolist()
    [50.0, 150.0, 50.0]
    """
    saturate = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA)
    angle = math.radians(hue_deg)
    cross = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) / 3
    linear = brightness * contrast * saturate @ turn
    return np.column_stack([linear, np.full(3, brightness * (1 - contrast) * grey)])


@dataclass(frozen=True)
class RandomColour:
    """Random change of brightness, contrast, saturation, hue, sharpness and noise of the first three channels.

    Parameters
    ----------
    brightness, contrast, saturation : float
        Largest relative change to either side, below 1.
    hue_deg : float
        Largest turn around the grey axis to either side.
    blur_sigma : float
        Largest standard deviation of a Gaussian blur, in pixels.
    noise_std : float
        Largest standard deviation of Gaussian noise, in grey values.
    probability : float
        Share of pictures in which each of the first four is changed, one by one.

    Raises
    ------
    ValueError
        If a value is negative, or a relative change 1 or more.

    Examples
    --------
    >>> image = np.full((1, 1, 4), 100, np.uint8)
    >>> changed = RandomColour(brightness=0.5)(image, np.random.default_rng(0))
    >>> changed.tolist(), image.tolist()  # the fourth channel is no colour
    ([[[114, 114, 114, 100]]], [[[100, 100, 100, 100]]])
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue_deg: float = 0.0
    blur_sigma: float = 0.0
    noise_std: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            limit = 1.0 if name in ("brightness", "contrast", "saturation") else math.inf
            if not 0 <= value < limit or (name == "probability" and value > 1):
                raise ValueError(f"{name}: expected 0 or more and less than {limit}, got {value}")

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Draw the changes and make them.

        Parameters
        ----------
        image : ndarray of uint8, shape (H, W, C)
            The picture, C >= 3; it is left as it is.
        generator : numpy.random.Generator
            The only source of chance.

        Returns
        -------
        ndarray of uint8, shape (H, W, C)
            The changed picture.

        Raises
        ------
        ValueError
            If there are fewer than three channels.
        """
        if image.ndim != 3 or image.shape[2] < 3:
            raise ValueError(f"image must have shape (H, W, C) with at least three channels, got {image.shape}")
        draws = generator.random(6)
        shifts = 2 * draws[:4] - 1
        if self.probability < 1:
            shifts *= generator.random(4) < self.probability
        colours = self._recolour(np.ascontiguousarray(image[..., :3]), shifts)
        sigma = self.blur_sigma * draws[4]
        colours = cv2.GaussianBlur(colours, (0, 0), sigma) if sigma > 0.2 else colours  # below, no byte would change
        if self.noise_std:
            noise = generator.standard_normal(colours.shape, dtype=np.float32) * np.float32(self.noise_std * draws[5])
            colours = np.clip(np.rint(colours + noise), 0, 255).astype(np.uint8)
        return np.concatenate([colours, image[..., 3:]], axis=2) if image.shape[2] > 3 else colours

    def _recolour(self, colours: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """Change colours by shifts of -1 to 1 times the largest change.

        `colours` has shape (H, W, 3), uint8; `shifts` shape (4,): brightness, contrast, saturation, hue.

        Examples
        --------
        >>> pixel = np.full((1, 1, 3), 100, np.uint8)
        >>> RandomColour(brightness=0.5)._recolour(pixel, np.array([1.0, 0, 0, 0])).tolist()
        [[[150, 150, 150]]]
        """
        limits = (self.brightness, self.contrast, self.saturation)
        if not any(limits) and not self.hue_deg:
            return colours
        grey = float(LUMA @ cv2.mean(colours)[:3])
        brightness, contrast, saturation = (1 + shifts[:3] * limits).tolist()
        matrix = colour_matrix(brightness, contrast, saturation, self.hue_deg * float(shifts[3]), grey)
        return cv2.transform(colours, matrix)


def random_colour(varied: AugmentationsConfig) -> RandomColour:
    """The random change of colours that settings ask for.

    Examples
    --------
    >>> random_colour(AugmentationsConfig(hue_degrees=18, colour_probability=0.5))
    RandomColour(brightness=0.0, contrast=0.0, saturation=0.0, hue_deg=18.0, blur_sigma=0.0, noise_std=0.0, \
probability=0.5)
    """
    changes = varied.brightness, varied.contrast, varied.saturation, varied.hue_degrees
    return RandomColour(*changes, probability=varied.colour_probability)
