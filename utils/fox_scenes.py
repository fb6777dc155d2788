"""Scenes of made-up foxes seen from above: what is in a picture, how it is painted, and foxes on the move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from utils.foxes import COATS, Coat, Pose, build_fox, locate_keypoints
from utils.grounds import GROUNDS
from utils.limbs import Limb, find_covered, lay_on_ground, make_fur, paint_limbs
from utils.sample import draw_light

FPS = 20  # of the chase


@dataclass(frozen=True)
class Fox:
    """One fox of a scene.

    Parameters
    ----------
    limbs : list of Limb
        From `build_fox`.
    fur : ndarray, shape (S, S)
        From `make_fur`.

    Examples
    --------
    >>> Fox(build_fox(Pose((50, 40)), COATS["red"]), np.zeros((4, 4))).limbs[-2].keypoint
    'snout'
    """

    limbs: list[Limb]
    fur: np.ndarray


@dataclass(frozen=True)
class Scene:
    """What is in a picture.

    Parameters
    ----------
    ground : ndarray of float64, shape (H, W, 3)
        What the foxes walk on.
    foxes : list of Fox
        What lies lowest first.
    sun : ndarray, shape (3,)
        Direction to it: x, y and up.
    light : ndarray, shape (H, W, 1 or 3)
        Factor on all colours.
    noise : ndarray, shape (H, W, 1)
        Of the camera.

    Examples
    --------
    >>> plan_scene(np.random.default_rng(0), (128, 160)).ground.shape
    (128, 160, 3)
    """

    ground: np.ndarray
    foxes: list[Fox]
    sun: np.ndarray
    light: np.ndarray
    noise: np.ndarray


def plan_scene(generator: np.random.Generator, size: tuple[int, int], ground: str = "grass") -> Scene:
    """Choose light and foxes.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Height and width in pixels.
    ground : str
        One of `GROUNDS`.

    Returns
    -------
    Scene
        With one to three foxes, of each of which enough can be seen.

    Examples
    --------
    >>> sorted({len(plan_scene(np.random.default_rng(seed), (128, 160)).foxes) for seed in range(9)})
    [1, 2, 3]
    """
    sun = draw_sun(generator)
    bare = GROUNDS[ground](generator, size, sun)
    coats = [COATS[name] for name in generator.permutation(sorted(COATS))]
    foxes: list[Fox] = []
    wanted = generator.choice(3, p=(0.4, 0.4, 0.2)) + 1
    for _ in range(200):
        near = foxes[-1] if foxes and generator.random() < 0.8 else None
        limbs = build_fox(draw_pose(generator, size, near), vary_coat(generator, coats[len(foxes)]))
        if _all_seen([*(fox.limbs for fox in foxes), limbs], size):
            foxes.append(Fox(limbs, make_fur(generator)))
        if len(foxes) == wanted:
            break
    warmth = generator.uniform(-0.05, 0.05) * np.array([1, 0.15, -1])  # from the blue of noon to the gold of evening
    tint = generator.uniform(0.86, 1.1) * (1 + warmth)
    light = draw_light(generator, size)[..., None] * tint
    return Scene(bare, foxes, sun, light, generator.normal(0, 1.7, (*size, 1)))


def draw_sun(generator: np.random.Generator) -> np.ndarray:
    """Direction to the sun, from any side and well above the horizon.

    Examples
    --------
    >>> sun = draw_sun(np.random.default_rng(0))
    >>> bool(np.isclose((sun**2).sum(), 1)), bool(0.6 < sun[2] < 0.95)
    (True, True)
    """
    side, height = generator.uniform(0, 2 * np.pi), generator.uniform(0.65, 0.9)
    return np.array([*(np.sqrt(1 - height**2) * np.array([np.cos(side), np.sin(side)])), height])


def draw_pose(generator: np.random.Generator, size: tuple[int, int], near: Fox | None = None) -> Pose:
    """Choose place, joints and build of a fox.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Height and width of the picture.
    near : Fox, optional
        Another fox, which this one may touch.

    Returns
    -------
    Pose
        Its middle lies in the picture.

    Examples
    --------
    >>> pose = draw_pose(np.random.default_rng(0), (128, 160))
    >>> 0 < pose.centre[0] < 160, 0.9 < pose.unit < 1.5
    (True, True)
    """
    height, width = size
    x, y = generator.uniform((0.15 * width, 0.15 * height), (0.85 * width, 0.85 * height))
    if near is not None:
        middle = locate_keypoints(near.limbs)[[0, 5]].mean(axis=0)
        direction, distance = generator.uniform(0, 2 * np.pi), generator.uniform(26, 56)
        x, y = np.clip(middle + distance * np.array([np.cos(direction), np.sin(direction)]), 5, (width - 5, height - 5))
    return Pose(
        (float(x), float(y)),
        heading=generator.uniform(0, 2 * np.pi),
        unit=generator.uniform(0.95, 1.4),
        bend=generator.normal(0, 0.4),
        head=float(np.clip(generator.normal(0, 0.35), -0.8, 0.8)),
        tail=float(np.clip(generator.normal(0, 0.3), -0.7, 0.7)),
        curl=generator.normal(0, 0.8),
        steps=tuple(generator.uniform(-1, 1, 4).tolist()),
        ears=generator.uniform(0.85, 1.25),
        brush=generator.uniform(0.85, 1.1),
        stout=generator.uniform(0.9, 1.1),
    )


def vary_coat(generator: np.random.Generator, coat: Coat) -> Coat:
    """A coat a little lighter or darker, redder or bluer.

    Examples
    --------
    >>> coat = vary_coat(np.random.default_rng(0), COATS["red"])
    >>> bool(np.abs(np.array(coat.fur) / COATS["red"].fur - 1).max() < 0.15), coat.fur == COATS["red"].fur
    (True, False)
    """
    factor = generator.uniform(0.92, 1.05) * (1 + generator.uniform(-0.03, 0.03) * np.array([1, 0, -1]))
    return Coat(**{name: tuple((np.array(colour) * factor).tolist()) for name, colour in vars(coat).items()})


def _all_seen(foxes: Sequence[Sequence[Limb]], size: tuple[int, int]) -> bool:
    """Whether most of each fox, of its trunk and of its keypoints is in the picture and uncovered.

    Examples
    --------
    >>> one, beside, atop = (build_fox(Pose((x, 60)), COATS["red"]) for x in (60, 150, 70))
    >>> _all_seen([one, beside], (120, 200)), _all_seen([one, atop], (120, 200)), _all_seen([one], (120, 70))
    (True, False, False)
    """
    for index, limbs in enumerate(foxes):
        above = [limb for other in foxes[index + 1 :] for limb in other]
        trunk = next(limb.points for limb in limbs if limb.pattern == "back")
        parts = np.concatenate([limb.points for limb in limbs]), trunk, locate_keypoints(limbs)
        if any(_seen(part, above, size).mean() < least for part, least in zip(parts, (0.6, 0.8, 0.7), strict=True)):
            return False
    return True


def _seen(places: np.ndarray, above: Sequence[Limb], size: tuple[int, int]) -> np.ndarray:
    """Whether places are in the picture and beneath no limb.

    Examples
    --------
    >>> _seen(np.array([[0.0, 0], [10, 0], [5, 5]]), build_fox(Pose((50, 5)), COATS["red"]), (9, 10)).tolist()
    [True, False, False]
    """
    inside = (places >= 0).all(axis=1) & (places < (size[1], size[0])).all(axis=1)
    return inside & ~find_covered(places, above)


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw_scene(scene: Scene, size: tuple[int, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paint a scene.

    Everything is computed in float64 and rounded once, so that processors agree on the pixels.

    Parameters
    ----------
    scene : Scene
        From `plan_scene`.
    size : (int, int)
        Height and width.

    Returns
    -------
    image : ndarray of uint8, shape (H, W, 3)
        Red, green and blue.
    cover : list of ndarray, shape (H, W)
        For each fox, the share of each pixel at which it can be seen.

    Examples
    --------
    >>> scene = plan_scene(np.random.default_rng(0), (128, 160))
    >>> image, cover = draw_scene(scene, (128, 160))
    >>> image.shape, len(cover) == len(scene.foxes), bool(sum(cover).max() <= 1)
    ((128, 160, 3), True, True)
    """
    canvas = scene.ground
    cover: list[np.ndarray] = []
    for fox in scene.foxes:
        layer = paint_limbs(fox.limbs, size, scene.sun, fox.fur)
        canvas = lay_on_ground(canvas, layer, scene.sun)
        cover = [below * (1 - layer[..., 3]) for below in cover] + [layer[..., 3]]
    image = np.clip(np.rint(canvas * scene.light + scene.noise), 0, 255).astype(np.uint8)
    return image, cover


def draw_chase(generator: np.random.Generator, frames: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Two foxes that chase each other around.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of chance.
    frames : int
        How many are wanted.
    size : (int, int)
        Height and width.

    Yields
    ------
    ndarray of uint8, shape (H, W, 3)
        One frame after the other.

    Examples
    --------
    >>> first, second = draw_chase(np.random.default_rng(0), 2, (128, 160))
    >>> first.shape, bool((first != second).any())
    ((128, 160, 3), True)
    """
    sun = draw_sun(generator)
    ground = GROUNDS["grass"](generator, size, sun)
    light = draw_light(generator, size)[..., None]
    coats = (COATS["red"], COATS["arctic"])
    furs = [make_fur(generator) for _ in coats]
    start, unit = generator.uniform(0, 2 * np.pi), 1.05 * min(size) / 192
    for index in range(frames):
        foxes = [
            Fox(build_fox(walk(start + 2.6 * number, index / FPS, unit, size), coat), fur)
            for number, (coat, fur) in enumerate(zip(coats, furs, strict=True))
        ]
        yield draw_scene(Scene(ground, foxes, sun, light, generator.normal(0, 1.7, (*size, 1))), size)[0]


def walk(start: float, time_s: float, unit: float, size: tuple[int, int]) -> Pose:
    """A fox on its way around the picture, clockwise along an ellipse.

    Parameters
    ----------
    start : float
        Where on the ellipse it begins, in radians.
    time_s : float
        Since then.
    unit : float
        Pixels per unit of the body.
    size : (int, int)
        Height and width of the picture.

    Returns
    -------
    Pose
        Opposite legs swing together, and the tail sways along.

    Examples
    --------
    >>> here, later = (walk(0.0, time_s, 1.0, (192, 256)).centre for time_s in (0.0, 0.4))
    >>> here, later[1] > here[1]
    ((207.36, 96.0), True)
    """
    height, width = size
    radii = np.array([0.31 * width, 0.27 * height])
    angle = start + 0.85 * time_s
    ahead = radii * [-np.sin(angle), np.cos(angle)]
    speed = np.hypot(*ahead)
    turning = radii.prod() / speed**3  # curvature of the ellipse, per pixel
    phase = 2 * np.pi * 1.7 * time_s + start
    swing = np.sin(phase)
    return Pose(
        (float(width / 2 + radii[0] * np.cos(angle)), float(height / 2 + radii[1] * np.sin(angle))),
        heading=float(np.arctan2(ahead[1], ahead[0]) + 0.04 * np.cos(phase)),
        unit=unit,
        bend=float(26 * unit * turning + 0.1 * np.cos(phase)),
        head=float(0.25 + 0.12 * np.sin(1.7 * time_s + start)),
        tail=float(-0.12 + 0.2 * np.sin(phase - 1)),
        curl=float(-0.25 + 0.45 * np.sin(phase - 2)),
        steps=(float(swing), float(-swing), float(-swing), float(swing)),
    )
