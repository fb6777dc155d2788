"""Foxes seen from above, made of limbs: their joints, their coats, and where each keypoint lies.

Lengths of the body are in units, of which a fox has about ninety from snout to tail tip; `Pose.unit` says how many
pixels one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.limbs import Limb, find_covered

KEYPOINTS = ("snout", "left_ear", "right_ear", "left_paw", "right_paw", "tail_base", "tail_tip")
EDGES = ((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5), (5, 6))


@dataclass(frozen=True)
class Coat:
    """Colours of a fox.

    Parameters
    ----------
    fur, back, cream, socks, tip, ear : tuple of float
        Red, green and blue of the flanks, the line along the back, cheeks and chest, legs, tail tip and inner ear.

    Examples
    --------
    >>> COATS["red"].fur[0] > COATS["silver"].fur[0]
    True
    """

    fur: tuple[float, ...]
    back: tuple[float, ...]
    cream: tuple[float, ...]
    socks: tuple[float, ...]
    tip: tuple[float, ...]
    ear: tuple[float, ...]


COATS = {
    "red": Coat((222, 118, 48), (176, 78, 30), (250, 236, 214), (58, 40, 36), (252, 246, 236), (74, 48, 42)),
    "arctic": Coat(
        (226, 230, 236), (206, 212, 222), (252, 252, 252), (196, 202, 214), (250, 252, 255), (214, 160, 156)
    ),
    "silver": Coat((84, 90, 104), (52, 56, 68), (168, 174, 186), (34, 34, 42), (246, 246, 250), (148, 112, 112)),
    "fennec": Coat((232, 198, 146), (204, 160, 104), (252, 242, 224), (214, 178, 132), (66, 50, 44), (240, 176, 156)),
    "umber": Coat((142, 96, 66), (86, 56, 42), (226, 198, 164), (60, 42, 34), (240, 226, 204), (206, 146, 124)),
}
NOSE = (34.0, 27.0, 30.0)
GLINT = (250.0, 250.0, 246.0)


@dataclass(frozen=True)
class Pose:
    """Where a fox is and how its joints are turned; angles are in radians, clockwise as seen.

    Parameters
    ----------
    centre : (float, float)
        x and y of the middle of its back, in pixels.
    heading : float
        0 looks along x.
    unit : float
        Pixels per unit of length.
    bend : float
        Turn of the back from hips to shoulders.
    head : float
        Turn of the head against the shoulders.
    tail, curl : float
        Turn of the tail's root against the hips, and from there to its tip.
    steps : (float, float, float, float)
        How far the left front, right front, left hind and right hind paws are ahead, -1 to 1.
    ears, brush, stout : float
        Length of the ears, length of the tail and width of the body, as factors.

    Examples
    --------
    >>> Pose((0, 0), heading=0.5).steps
    (0.0, 0.0, 0.0, 0.0)
    """

    centre: tuple[float, float]
    heading: float = 0.0
    unit: float = 1.0
    bend: float = 0.0
    head: float = 0.0
    tail: float = 0.0
    curl: float = 0.0
    steps: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    ears: float = 1.0
    brush: float = 1.0
    stout: float = 1.0


# --- anatomy ---------------------------------------------------------------------------------------------------------


class Frame:
    """Places relative to a joint: so many units ahead of it, and so many to its left.

    Parameters
    ----------
    origin : array, shape (2,)
        The joint, in pixels.
    heading : float
        Where ahead is.
    unit : float
        Pixels per unit.

    Examples
    --------
    >>> Frame((10, 20), 0.0, 2.0).at((3, 1)).tolist()  # left of what looks along x is up
    [[16.0, 18.0]]
    """

    def __init__(self, origin: Sequence[float] | np.ndarray, heading: float, unit: float):
        self.origin, self.heading, self.unit = np.asarray(origin, np.float64), heading, unit
        ahead = np.array([np.cos(heading), np.sin(heading)])
        self.axes = unit * np.stack([ahead, [ahead[1], -ahead[0]]])

    def at(self, *places: tuple[float, float]) -> np.ndarray:
        """Pixels of places.

        Parameters
        ----------
        *places : (float, float)
            Units ahead and to the left.

        Returns
        -------
        ndarray, shape (len(places), 2)
            x and y.

        Examples
        --------
        >>> Frame((0, 0), np.pi / 2, 1.0).at((1, 0), (0, 1)).round(9).tolist()  # looking down, left is right
        [[0.0, 1.0], [1.0, -0.0]]
        """
        return self.origin + np.array(places, np.float64) @ self.axes

    def limb(self, places: Sequence[tuple[float, float]], radii: Sequence[float], *look, **more) -> Limb:
        """Make a limb of places and radii in units.

        Examples
        --------
        >>> Frame((10, 20), 0.0, 2.0).limb([(0, 0), (5, 0)], [1, 3], NOSE).radii.tolist()
        [2.0, 6.0]
        """
        return Limb(self.at(*places), self.unit * np.asarray(radii, np.float64), *look, **more)


def bend_chain(
    start: Sequence[float] | np.ndarray, heading: float, bend: float, length: float, count: int
) -> np.ndarray:
    """Points of an arc.

    Parameters
    ----------
    start : array, shape (2,)
        First point.
    heading : float
        Direction there.
    bend : float
        Turn until the last point.
    length : float
        In pixels.
    count : int
        Points wanted.

    Returns
    -------
    ndarray, shape (count, 2)
        At equal distances.

    Examples
    --------
    >>> bend_chain((1, 2), 0.0, 0.0, 8.0, 3).tolist()
    [[1.0, 2.0], [5.0, 2.0], [9.0, 2.0]]
    """
    directions = heading + bend * (np.arange(count - 1) + 0.5) / (count - 1)
    steps = np.stack([np.cos(directions), np.sin(directions)], axis=1) * length / (count - 1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)]) + start


def build_fox(pose: Pose, coat: Coat) -> list[Limb]:
    """All limbs of a fox, what lies lowest first.

    Parameters
    ----------
    pose : Pose
        Place and joints.
    coat : Coat
        Colours.

    Returns
    -------
    list of Limb
        Each of `KEYPOINTS` has exactly one mark among them.

    Examples
    --------
    >>> limbs = build_fox(Pose((50, 40)), COATS["red"])
    >>> sorted(limb.keypoint for limb in limbs if limb.keypoint) == sorted(KEYPOINTS)
    True
    """
    spine = bend_chain((0, 0), pose.heading - pose.bend / 2, pose.bend, 26 * pose.unit, 7)
    spine = spine - spine[3] + pose.centre
    hips = Frame(spine[0], pose.heading - pose.bend / 2, pose.unit)
    shoulders = Frame(spine[-1], pose.heading + pose.bend / 2, pose.unit)
    neck = Frame(spine[-1], shoulders.heading + 0.4 * pose.head, pose.unit)
    head = Frame(neck.at((14.5, 0))[0], shoulders.heading + pose.head, pose.unit)
    trunk = np.concatenate([spine, neck.at((7, 0))])
    return [
        *_build_legs(hips, shoulders, pose, coat),
        *_build_tail(hips, pose, coat),
        *_build_trunk(trunk, hips, pose, coat),
        *_build_head(head, pose, coat),
    ]


def _build_legs(hips: Frame, shoulders: Frame, pose: Pose, coat: Coat) -> list[Limb]:
    """Four legs; the front paws bear marks.

    Examples
    --------
    >>> pose = Pose((0, 0), steps=(1.0, -1.0, 0, 0))
    >>> legs = _build_legs(Frame((0, 0), 0, 1), Frame((26, 0), 0, 1), pose, COATS["red"])
    >>> [(limb.keypoint, limb.points.mean(axis=0).tolist()) for limb in legs if limb.keypoint]
    [('left_paw', [30.5, -13.5]), ('right_paw', [18.5, 13.5])]
    """
    limbs = []
    for side, step in ((1, pose.steps[2]), (-1, pose.steps[3])):
        foot = -4 + 5.5 * step
        leg = [(1, side * 6), (-4 + 3 * step, side * 10), (foot, side * 12.5)]
        limbs.append(hips.limb(leg, [5.2, 3.9, 2.8], coat.fur, coat.socks, "sock", fur=0.6))
        limbs.append(hips.limb([(foot - 0.8, side * 12.5), (foot + 2.6, side * 12.8)], [3, 2.9], coat.socks))
    for side, step, name in ((1, pose.steps[0], "left_paw"), (-1, pose.steps[1], "right_paw")):
        paw = -1.5 + 6 * step
        leg = [(-4, side * 5), (-2.5 + 3 * step, side * 10.5), (paw, side * 13.5)]
        limbs.append(shoulders.limb(leg, [4.4, 3.6, 2.8], coat.fur, coat.socks, "sock", fur=0.6))
        ends = [(paw - 1.7, side * 13.5), (paw + 1.7, side * 13.5)]
        limbs.append(shoulders.limb(ends, [3.1, 3.1], coat.socks, keypoint=name))
    return limbs


def _build_tail(hips: Frame, pose: Pose, coat: Coat) -> list[Limb]:
    """A bushy tail whose tip has another colour.

    Examples
    --------
    >>> brush, tip = _build_tail(Frame((50, 40), 0, 1), Pose((0, 0)), COATS["red"])
    >>> tip.keypoint, tip.points.round(9).tolist()
    ('tail_tip', [[10.5, 40.0]])
    """
    root = hips.at((-6.5, 0))[0]
    chain = bend_chain(root, hips.heading + np.pi + pose.tail, pose.curl, 33 * pose.unit * pose.brush, 9)
    radii = pose.unit * np.array([2.8, 3.8, 5.2, 6.5, 7.2, 7.2, 6.4, 4.6, 2.2])
    return [
        Limb(chain, radii, coat.fur, coat.tip, "tip", fur=1.4),
        Limb(chain[-1:], np.array([1.9 * pose.unit]), coat.tip, keypoint="tail_tip"),
    ]


def _build_trunk(trunk: np.ndarray, hips: Frame, pose: Pose, coat: Coat) -> list[Limb]:
    """Trunk with neck, and the dark spot at the tail's root.

    Examples
    --------
    >>> trunk = bend_chain((0, 0), 0.0, 0.0, 28, 8)
    >>> limbs = _build_trunk(trunk, Frame(trunk[0], 0, 1), Pose((16, 0)), COATS["red"])
    >>> [limb.points.mean(axis=0).tolist() for limb in limbs if limb.keypoint]
    [[-6.5, 0.0]]
    """
    radii = pose.unit * pose.stout * np.array([8.2, 9.4, 9.8, 9.4, 9.0, 9.2, 9.0, 7.8])
    return [
        Limb(trunk, radii, coat.fur, coat.back, "back", fur=1.0),
        hips.limb([(-7.4, 0), (-5.6, 0)], [1.8, 1.8], coat.back, keypoint="tail_base"),
    ]


def _build_head(head: Frame, pose: Pose, coat: Coat) -> list[Limb]:
    """Head, ears, eyes and nose.

    Examples
    --------
    >>> limbs = _build_head(Frame((50, 40), 0, 1), Pose((0, 0)), COATS["red"])
    >>> [(limb.keypoint, limb.points.mean(axis=0).round(9).tolist()[0]) for limb in limbs if limb.keypoint]
    [('left_ear', 45.4), ('right_ear', 45.4), ('snout', 64.8)]
    """
    limbs = []
    for side, name in ((1, "left_ear"), (-1, "right_ear")):
        root, axis = np.array([-3.0, side * 6.6]), pose.ears * np.array([-3.0, side * 10.5])
        ear = [tuple(root + share * axis) for share in (0.0, 0.3, 0.65, 1.0)]
        limbs.append(head.limb(ear, [5.6, 4.9, 3.0, 0.6], coat.fur, coat.socks, "sock", fur=0.4))
        inner = [tuple(np.array([-4.6, side * 11.2]) + share * axis) for share in (-0.16, 0.16)]
        limbs.append(head.limb(inner, [2.0, 2.0], coat.ear, keypoint=name))
    skull = [(-2.5, 0), (1, 0), (5, 0), (10, 0), (14, 0)]
    limbs.append(head.limb(skull, [9.0, 10.0, 8.5, 4.5, 2.5], coat.fur, coat.cream, "cheeks", fur=0.8))
    for side in (1, -1):
        limbs.append(head.limb([(5.0, side * 4.3), (6.9, side * 3.8)], [1.5, 1.3], NOSE))
        limbs.append(head.limb([(6.8, side * 3.5)], [0.55], GLINT))
    limbs.append(head.limb([(14.8, -0.5), (14.8, 0.5)], [2.0, 2.0], NOSE, keypoint="snout"))
    limbs.append(head.limb([(15.6, 0.6)], [0.5], GLINT))
    return limbs


# --- keypoints --------------------------------------------------------------------------------------------------------


def locate_keypoints(limbs: Sequence[Limb]) -> np.ndarray:
    """Where the marks of all keypoints lie.

    Parameters
    ----------
    limbs : sequence of Limb
        Of one fox.

    Returns
    -------
    ndarray, shape (K, 2)
        x and y in pixels, in the order of `KEYPOINTS`.

    Examples
    --------
    >>> locate_keypoints(build_fox(Pose((50, 40)), COATS["red"])).round(9)[[0, 5]].tolist()
    [[92.3, 40.0], [30.5, 40.0]]
    """
    marks = {limb.keypoint: limb.points.mean(axis=0) for limb in limbs if limb.keypoint}
    return np.stack([marks[name] for name in KEYPOINTS])


def hidden_keypoints(limbs: Sequence[Limb], above: Sequence[Limb] = ()) -> np.ndarray:
    """Which keypoints lie beneath another part of the fox, or beneath another fox.

    Parameters
    ----------
    limbs : sequence of Limb
        Of the fox.
    above : sequence of Limb
        Of all foxes that are painted after it.

    Returns
    -------
    ndarray of bool, shape (K,)
        In the order of `KEYPOINTS`.

    Examples
    --------
    >>> fox, other = (build_fox(Pose(centre), COATS["red"]) for centre in ((50, 40), (110, 40)))
    >>> hidden_keypoints(fox).tolist()
    [False, False, False, False, False, False, False]
    >>> hidden_keypoints(fox, above=other).tolist()  # its snout lies under the other's rump
    [True, False, False, False, False, False, False]
    """
    hidden = {}
    for index, limb in enumerate(limbs):
        if limb.keypoint:
            later = [other for other in limbs[index + 1 :] if other.colour != GLINT]
            hidden[limb.keypoint] = find_covered(limb.points.mean(axis=0)[None], [*later, *above])[0]
    return np.array([hidden[name] for name in KEYPOINTS])
