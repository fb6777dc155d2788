"""Neighbouring frames of one video: found by their names and thumbnails, and kept together in a drawn split."""

from __future__ import annotations

import logging
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from utils.errors import DataError
from utils.media.thumbnails import likeness, thumbnail
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

logger = logging.getLogger(__name__)

NUMBER_AT_END = re.compile(r"[\W_]*\d+$")
DIGITS = re.compile(r"(\d+)")
ALIKE = 0.8  # likeness from which neighbours count as frames of one video; labelled frames have .8 to .97, photos .0
MOST_ALIKE = 0.5  # share of alike neighbours from which a set counts as made of videos
LARGEST_FRAME = 36_000_000  # pixels; 8K video has 33 million, and a scene of more would take long to read
SHORTEST = 5  # pictures; fewer are hardly a video
PAIRS = 40  # neighbours that are compared; the share is then known to .08

Thumbnails = Callable[[str], np.ndarray]


def group_of(name: str, split_by: str) -> str:
    """Group of a picture, which a drawn split keeps together.

    Examples
    --------
    >>> [group_of("day1/cam_0012", by) for by in ("picture", "folder", "stem")]
    ['day1/cam_0012', 'day1', 'day1/cam']
    """
    if split_by == "folder":
        return name.rpartition("/")[0]
    return NUMBER_AT_END.sub("", name) if split_by == "stem" else name


def choose_groups(names: Iterable[str], thumbnail_of: Thumbnails, cure: str) -> str:
    """Say what a drawn split must keep together: "folder" or "stem" where they are videos, else "picture".

    Parameters
    ----------
    names : iterable of str
        The pictures, with their folders.
    thumbnail_of : callable
        Gives the thumbnail of a picture; a picture that cannot be read is left out.
    cure : str
        What to do where videos are not told apart by names, for a warning.

    Returns
    -------
    str
        As `group_of` takes it; what was decided is logged.

    Examples
    --------
    >>> frame = {name: np.full((32, 32), float(index > 1)) for index, name in enumerate(["a/1", "a/2", "b/1", "b/2"])}
    >>> choose_groups(frame, frame.__getitem__, "write lists")
    'folder'
    >>> choose_groups(["a/1", "a/2"], {"a/1": np.eye(32), "a/2": np.eye(32)[::-1]}.__getitem__, "write lists")
    'picture'
    """
    names = sorted(names, key=natural)
    known: dict[str, np.ndarray | None] = {}
    for by in ("folder", "stem"):
        groups = grouped(names, by)
        if 1 < len(groups) < len(names):
            share = share_alike(
                [pair for members in groups.values() for pair in pairwise(members)], thumbnail_of, known
            )
            if share >= MOST_ALIKE:
                logger.info(
                    "splits: %.0f %% of neighbouring pictures look alike, as frames of a video do: the pictures of "
                    "each of %d %ss stay together",
                    100 * share,
                    len(groups),
                    by,
                )
                return by
    share = share_alike(list(pairwise(names)), thumbnail_of, known)
    if share >= MOST_ALIKE and len(names) >= SHORTEST:
        logger.warning(
            "splits: %.0f %% of neighbouring pictures look alike, as frames of a video do, but folders and names do "
            "not tell several videos apart; drawn picture by picture, so that training sees near doubles of what is "
            "validated; %s",
            100 * share,
            cure,
        )
    return "picture"


def scene_thumbnail(scene: RasterScene) -> np.ndarray:
    """Thumbnail (32, 32) of a raster or photo.

    Raises
    ------
    DataError
        If it cannot be read, or has more pixels than a frame of a video.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> scenes = scene_task().source.scenes
    >>> scene_thumbnail(scenes.scene(scenes.labelled()["scene_0"].paths)).shape
    (32, 32)
    """
    if scene.height * scene.width > LARGEST_FRAME:
        raise DataError(f"{scene.paths[0]}: {scene.height} x {scene.width} pixels are no frame of a video")
    return thumbnail(scene.read_values(Window(0, 0, scene.height, scene.width))[0])


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which `frame_2` comes before `frame_10`.

    Examples
    --------
    >>> sorted(["frame_10", "frame_2", "b"], key=natural)
    ['b', 'frame_2', 'frame_10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in DIGITS.split(name)]


def grouped(names: Iterable[str], by: str) -> dict[str, list[str]]:
    """Names by their group, in the order in which they come.

    Examples
    --------
    >>> grouped(["a/1", "b/1", "a/2"], "folder")
    {'a': ['a/1', 'a/2'], 'b': ['b/1']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name, by), []).append(name)
    return groups


def pairs_beside(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Each name with the others just before and after it in natural order, of those with its stem.

    Where no two names have one stem, those of one folder count.

    Examples
    --------
    >>> pairs_beside(["a_10", "b_1", "c_9"], ["a_1", "a_9", "a_11", "b_7"])
    [('a_10', 'a_9'), ('a_10', 'a_11'), ('b_1', 'b_7')]
    >>> pairs_beside(["d/x", "e/x"], ["d/v", "d/w", "f/x"])
    [('d/x', 'd/w')]
    """
    known, scored = set(others), sorted(set(names), key=natural)
    total = {*known, *scored}
    by = "stem" if len(grouped(total, "stem")) < len(total) else "folder"
    groups = {group: sorted(members, key=natural) for group, members in grouped(known - {*scored}, by).items()}
    found = []
    for name in scored:
        order = groups.get(group_of(name, by), [])
        place = bisect(order, natural(name), key=natural)
        found += [(name, other) for other in order[max(place - 1, 0) : place + 1]]
    return found


def share_alike(
    pairs: Sequence[tuple[str, str]], thumbnail_of: Thumbnails, known: dict[str, np.ndarray | None]
) -> float:
    """Share of pairs of pictures that look alike, of at most `PAIRS` spread evenly; 0 without a pair.

    `known` keeps thumbnails from one call to the next.

    Examples
    --------
    >>> pictures = {"a": np.eye(32), "b": np.eye(32), "c": np.eye(32)[::-1]}
    >>> share_alike([("a", "b"), ("b", "c")], pictures.__getitem__, {})
    0.5
    """

    def look(name: str) -> np.ndarray | None:
        if name not in known:
            try:
                known[name] = thumbnail_of(name)
            except DataError:  # verify and prepare report it
                known[name] = None
        return known[name]

    places = np.linspace(0, len(pairs) - 1, min(PAIRS, len(pairs))).round().astype(int)
    looks = [(look(pairs[place][0]), look(pairs[place][1])) for place in places]
    found = [likeness(first, second) for first, second in looks if first is not None and second is not None]
    return float(np.mean([value >= ALIKE for value in found])) if found else 0.0


def draw_groups(groups: Mapping[str, Sequence[str]], fraction: float, seed: int) -> list[str]:
    """Draw whole groups until about `fraction` of all members is drawn; at least one group, and never all.

    Where every group is larger than that, the smallest is taken.

    Examples
    --------
    >>> draw_groups({"a": ["a1", "a2", "a3", "a4"], "b": ["b1"], "c": ["c1", "c2", "c3"]}, 0.1, seed=0)
    ['b1']
    """
    size = fraction * sum(map(len, groups.values()))
    order = np.random.default_rng(seed).permutation(sorted(groups)).tolist()
    drawn: list[str] = []
    for name in order[:-1]:
        if len(drawn) + len(groups[name]) / 2 <= size:
            drawn += groups[name]
    return sorted(drawn or groups[min(order, key=lambda name: len(groups[name]))])
