"""Colours of classes: those that people expect by name, else ones that are told apart with any colour vision."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np

# Okabe and Ito, 2008, "Color Universal Design": told apart with any common kind of colour vision. Black is left out,
# because it reads as "no data" on a map.
_FIRST_COLOURS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
# Machado et al., 2009, table 1, severity 1: what people without red or green cones see, of linear red, green, blue.
_COLOUR_VISIONS = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
)

# What maps commonly show: the colour that people expect, and the words for it.
_EXPECTED: dict[tuple[int, int, int], str] = {
    (33, 113, 181): "water sea ocean river lake pond stream waterbody canal reservoir",
    (20, 120, 55): "forest tree wood woodland canopy conifer broadleaf mangrove",
    (150, 200, 80): "vegetation grass grassland meadow lawn pasture shrub shrubland park rangeland green herbaceous",
    (125, 125, 130): "road street highway asphalt pavement impervious parking track path",
    (200, 40, 45): "building house roof rooftop",
    (255, 125, 125): "urban city town settlement developed residential",
    (245, 205, 65): "field crop cropland farmland agriculture agricultural farm wheat maize",
    (180, 130, 85): "soil bare barren earth ground mud dirt",
    (245, 220, 160): "sand beach desert dune",
    (225, 243, 255): "snow ice glacier",
    (160, 150, 210): "cloud fog",
    (65, 65, 75): "shadow shade",
    (85, 160, 170): "wetland marsh swamp bog",
    (115, 75, 70): "rock stone cliff mountain",
    (130, 205, 240): "sky",
    (245, 185, 165): "coral reef",
    (190, 190, 185): "background other unknown clutter nothing none rest void",
}
_COLOUR_OF_WORD = {word: colour for colour, words in _EXPECTED.items() for word in words.split()}
# Between two colours of a map, in CIELAB, where 2.3 is just noticeable side by side: as most people see it, and as
# anybody does. Two shades of sand that are 16 apart are taken for one another in a map. What cannot be had is halved.
_LEAST_DIFFERENCES = ((20.0, 10.0), (10.0, 10.0))
_MANY_COLOURS = 40  # more are not told apart anyway
# What stands out on grey: for marks such as those of errors, which must not look like a class.
_MARKS: dict[tuple[int, ...], str] = {
    (230, 0, 60): "red",
    (255, 0, 255): "magenta",
    (255, 255, 0): "yellow",
    (0, 255, 255): "cyan",
    (0, 255, 0): "green",
}
# Of a mark from all classes, in CIELAB: as most people see it, and as anybody does. Pure red and crimson are 32 apart,
# and who does not see them side by side takes one for the other.
_MARK_DIFFERENCE = (40.0, 15.0)
# Towards white or black, and by which share: further classes of one kind.
_TINTS = ((255, 0.45), (0, 0.35), (0, 0.55), (255, 0.7))


def _appearance(colours: np.ndarray) -> np.ndarray:
    """Colours as they appear to three kinds of colour vision, in coordinates where distance is difference.

    Parameters
    ----------
    colours : ndarray of uint8, shape (N, 3)
        Red, green, blue.

    Returns
    -------
    ndarray of float32, shape (N, 3, 3)
        CIELAB of each colour under each vision.

    Examples
    --------
    >>> _appearance(np.array([[255, 255, 255], [0, 0, 0]], np.uint8))[..., 0].round().tolist()  # lightness
    [[100.0, 100.0, 100.0], [0.0, 0.0, 0.0]]
    """
    values = colours.astype(np.float32) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    seen = np.clip(np.einsum("vij,nj->nvi", np.array(_COLOUR_VISIONS, np.float32), linear), 0, 1)
    return cv2.cvtColor(seen.astype(np.float32), cv2.COLOR_LRGB2Lab)


@functools.cache
def _candidates() -> tuple[np.ndarray, np.ndarray]:
    """Colours (N, 3) that are neither like missing data nor like paper, and how they appear, (N, 3, 3).

    Examples
    --------
    >>> _candidates()[0].shape[1], bool((_candidates()[0] == (255, 255, 255)).all(axis=1).any())
    (3, False)
    """
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    looks = _appearance(candidates)
    usable = (looks[:, 0, 0] > 25) & (looks[:, 0, 0] < 95)
    return candidates[usable], looks[usable]


@functools.cache
def _palette() -> np.ndarray:
    """All 256 colours: known good ones first, then always the candidate that is farthest from all before it.

    Examples
    --------
    >>> _palette().shape, len(np.unique(_palette(), axis=0))
    ((256, 3), 256)
    """
    candidates, looks = _candidates()
    colours = [np.array(colour, np.uint8) for colour in _FIRST_COLOURS]
    nearest = np.full(len(candidates), np.inf, np.float32)
    for index in range(256):
        if index >= len(colours):
            colours.append(candidates[int(nearest.argmax())])
        distance = np.linalg.norm(looks - _appearance(colours[index][None]), axis=-1).min(axis=1)
        nearest = np.minimum(nearest, distance)
    return np.stack(colours)


def class_palette(num_classes: int) -> np.ndarray:
    """Choose a colour for each class, always the same, as different as possible, also to colour-blind people.

    Parameters
    ----------
    num_classes : int
        K, at most 256. The first colours do not depend on it.

    Returns
    -------
    ndarray of uint8, shape (K, 3)
        Red, green, blue; neither nearly black nor nearly white.

    Raises
    ------
    ValueError
        If there are more classes than bytes.

    References
    ----------
    Okabe and Ito, 2008, for the first seven; farthest point sampling in CIELAB under normal vision, protanopia and
    deuteranopia as simulated by Machado et al., 2009 (doi:10.1109/TVCG.2009.113), for the others.

    Examples
    --------
    >>> class_palette(2).tolist()
    [[0, 114, 178], [230, 159, 0]]
    """
    if not 0 <= num_classes <= 256:
        raise ValueError(f"num_classes: expected 0 to 256, got {num_classes}")
    return _palette()[:num_classes].copy()


_CASE_CHANGE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def expected_colour(name: str) -> tuple[int, int, int] | None:
    """The colour that people expect of a class, or None; the last word that is known decides.

    Words end at anything that is no letter, and where capitals begin.

    Examples
    --------
    >>> expected_colour("Open Water"), expected_colour("forest_roads"), expected_colour("fox")
    ((33, 113, 181), (125, 125, 130), None)
    >>> expected_colour("WetSand") == expected_colour("OSMSand") == expected_colour("SAND") == expected_colour("sand")
    True
    """
    words = _CASE_CHANGE.sub(" ", name).lower()
    for word in reversed(re.findall(r"[^\W\d_]+", words)):
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            if form in _COLOUR_OF_WORD:
                return _COLOUR_OF_WORD[form]
    return None


def colours_of_classes(names: Sequence[str], chosen: Mapping[str, Sequence[int]] | None = None) -> np.ndarray:
    """Choose a colour for each class by its name.

    Colours that are chosen come first, then those that people expect of a name (water blue, forest green), of which
    further classes get lighter and darker tints. The others get the colours of `class_palette` that differ from these.

    Parameters
    ----------
    names : sequence of str
        K class names, at most 255.
    chosen : mapping of str to (red, green, blue), optional
        Colours of some classes; names that are no class are left aside.

    Returns
    -------
    ndarray of uint8, shape (K, 3)
        Red, green, blue.

    Examples
    --------
    >>> colours_of_classes(["fox", "water", "river", "roof"], {"roof": [9, 8, 7]}).tolist()
    [[230, 159, 0], [33, 113, 181], [133, 177, 214], [9, 8, 7]]
    """
    colours = {name: tuple(colour) for name, colour in (chosen or {}).items() if name in names}
    expected = {name: colour for name in names if name not in colours and (colour := expected_colour(name)) is not None}
    palette = [tuple(colour) for colour in class_palette(256).tolist()]
    for tints in (0, len(_TINTS)):  # the colour itself before tints of others, which could be like it
        for name, colour in expected.items():
            wanted = [colour, *(_tint(colour, *tint) for tint in _TINTS[:tints])]
            free = _first_free(wanted, colours.values(), _LEAST_DIFFERENCES[:1])
            if name not in colours and free is not None:
                colours[name] = free
    for name in names:
        if name not in colours:
            free = _first_free(palette, colours.values(), (*_LEAST_DIFFERENCES, (0.0, 0.0)))
            assert free is not None, "there are more colours than classes"
            colours[name] = free
    return np.array([colours[name] for name in names], np.uint8).reshape(-1, 3)


def _tint(colour: Sequence[int], end: int, share: float) -> tuple[int, ...]:
    """A colour that is mixed with white or black.

    Examples
    --------
    >>> _tint((33, 113, 181), 255, 0.45), _tint((33, 113, 181), 0, 0.35)
    ((133, 177, 214), (21, 73, 118))
    """
    return tuple(round(part + (end - part) * share) for part in colour)


def _first_free(
    colours: Sequence[tuple[int, ...]], others: Collection[Sequence[int]], limits: Sequence[tuple[float, float]]
) -> tuple[int, ...] | None:
    """The first colour that is told apart from others; None where there is none.

    Parameters
    ----------
    colours : sequence of (red, green, blue)
        To choose from.
    others : collection of (red, green, blue)
        Those that are taken.
    limits : sequence of (float, float)
        Least differences as most people see it, and as anybody does; each is tried where the one before leaves nothing.
        With very many others a colour only has to be another one.

    Examples
    --------
    >>> _first_free([(0, 112, 180), (230, 159, 0)], [(0, 114, 178)], [(20.0, 10.0)])
    (230, 159, 0)
    >>> _first_free([(0, 112, 180)], [(0, 114, 178)], [(20.0, 10.0)]) is None
    True
    """
    taken = {tuple(map(int, other)) for other in others}
    new = [colour for colour in colours if colour not in taken]
    if not new or not taken or len(taken) > _MANY_COLOURS:
        return new[0] if new else None
    looks, known = _appearance(np.array(new, np.uint8)), _appearance(np.array(list(taken), np.uint8))
    distances = np.linalg.norm(looks[:, None] - known[None], axis=-1)  # (colours, others, visions)
    for usual, least in limits:
        free = ((distances[..., 0] >= usual) & (distances >= least).all(axis=-1)).all(axis=1)
        if free.any():
            return new[int(free.argmax())]
    return None


def mark_colours(wanted: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Choose colours of marks, such as those of errors, that nobody takes for one of a class.

    Parameters
    ----------
    wanted : sequence of (red, green, blue)
        The colour that each mark has where no other is like it.
    others : sequence of (red, green, blue)
        Colours of the classes in use.

    Returns
    -------
    list of (int, int, int)
        The wanted colour, else the first of a few bright ones that differs from all others and from the marks before
        it; where every one is taken, the colour that differs most.

    Examples
    --------
    >>> mark_colours([(230, 0, 60)], [(33, 113, 181)]), mark_colours([(230, 0, 60)], [(200, 40, 45)])  # a red class
    ([(230, 0, 60)], [(255, 0, 255)])
    """
    taken, marks = [tuple(map(int, colour)) for colour in others], list[tuple[int, ...]]()
    for wish in wanted:
        colours = (tuple(wish), *_MARKS)
        free: tuple[int, ...] | None = next((colour for colour in colours if _stands_out(colour, taken)), None)
        marks.append(free or _farthest(taken))
        taken.append(marks[-1])
    return marks


def _stands_out(colour: Sequence[int], others: Sequence[Sequence[int]]) -> bool:
    """Whether a mark's colour is told apart from others at a glance, also by people who are colour-blind.

    Examples
    --------
    >>> _stands_out((230, 0, 60), [(230, 159, 0)]), _stands_out((230, 0, 60), [(255, 0, 0)])
    (True, False)
    """
    looks = _appearance(np.array([colour, *others], np.uint8))
    distances = np.linalg.norm(looks[1:] - looks[0], axis=-1)
    return bool((distances[:, 0] >= _MARK_DIFFERENCE[0]).all() and (distances >= _MARK_DIFFERENCE[1]).all())


def mark_name(colour: Sequence[int]) -> str:
    """What a colour of `mark_colours` is called in a legend; empty for one without a common name.

    Examples
    --------
    >>> mark_name((255, 0, 255)), mark_name((102, 51, 0))
    ('magenta', '')
    """
    return _MARKS.get(tuple(colour), "")


def _farthest(others: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The colour that differs most from all others.

    Examples
    --------
    >>> _farthest([(255, 255, 0), (0, 255, 255), (255, 0, 255)])
    (102, 51, 0)
    """
    candidates, looks = _candidates()
    nearest = np.full(len(candidates), np.inf, np.float32)
    for other in _appearance(np.array(others, np.uint8)):
        nearest = np.minimum(nearest, np.linalg.norm(looks - other, axis=-1).min(axis=1))
    return tuple(candidates[int(nearest.argmax())].tolist())
