"""Tracks of a CVAT file for video: one object over frames, with what is between its keyframes."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.errors import DataError
from utils.formats.cvat.instances import Fault, join_shapes, read_shapes
from utils.formats.cvat.labels import Labels
from utils.formats.cvat.shapes import Shape
from utils.formats.elements import Element
from utils.formats.names import read_name
from utils.formats.pictures import is_picture
from utils.formats.types import Instance, Problem
from utils.formats.values import read_flag, read_whole

_FRAME = re.compile(r"(?:frame_)?(\d{1,9})")


@dataclass(frozen=True)
class Track:
    """One object over the frames of a video.

    Parameters
    ----------
    id : int
        Its number.
    label : str
        Of its class.
    group : int
        0 where it has none.
    subset : str, optional
        Of the project that it is part of.
    shapes : list of (int, bool, Element)
        Frame, whether the object is outside from there on, and the shape; by frame.

    Examples
    --------
    >>> Track(0, "cow", 0, None, []).shapes
    []
    """

    id: int
    label: str
    group: int
    subset: str | None
    shapes: list[tuple[int, bool, Element]]


def read_track(element: Element) -> Track:
    """Read an element `track`.

    Raises
    ------
    ValueError
        If it has no label, or a shape no frame, or two shapes have one frame.

    Examples
    --------
    >>> from utils.formats.elements import parse_xml
    >>> box = '<box frame="{}" outside="{}" xtl="1" ytl="2" xbr="3" ybr="4"/>'
    >>> track = read_track(parse_xml(f'<track id="7" label="cow">{box.format(3, 1)}{box.format(0, 0)}</track>'))
    >>> track.id, [(frame, outside) for frame, outside, _ in track.shapes]
    (7, [(0, False), (3, True)])
    """
    keys = element.attributes
    label = read_name(keys.get("label"))
    shapes = []
    for part in element.children:
        if part.name == "attribute":
            continue
        try:
            frame = read_whole(part.attributes.get("frame", "none"))
            shapes.append((frame, _is_outside(part), part))
        except ValueError as error:
            raise ValueError(f"frame and outside of the shape in line {part.line}: {error}") from None
    shapes.sort(key=lambda shape: shape[0])
    doubled = next((last[2] for first, last in itertools.pairwise(shapes) if first[0] == last[0]), None)
    if doubled is not None:
        raise ValueError(f"the shape in line {doubled.line} has the frame {doubled.attributes['frame']} of another one")
    ids = {name: read_whole(keys.get(name) or "0") for name in ("id", "group_id")}
    return Track(ids["id"], label, ids["group_id"], keys.get("subset"), shapes)


def _is_outside(shape: Element) -> bool:
    """Whether a shape says that its object is not in the picture; a skeleton is outside with all of its points.

    Examples
    --------
    >>> point = Element("points", 1, attributes={"outside": "1"})
    >>> _is_outside(Element("skeleton", 1, children=[point])), _is_outside(Element("box", 1))
    (True, False)
    """
    parts = [part for part in shape.children if part.name != "attribute"]
    if shape.name == "skeleton" and parts:
        return all(read_flag("outside", part.attributes.get("outside")) for part in parts)
    return read_flag("outside", shape.attributes.get("outside"))


def frame_pictures(file: Path, folders: Sequence[Path]) -> dict[int, Path]:
    """The frames of a video by their numbers: pictures called frame_000012 or 12, in the first folder that has any.

    Raises
    ------
    DataError
        If there is none, or two have one number.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("frame_000003.png", "frame_000010.PNG", "cow.png"):
    ...     (folder / name).touch()
    >>> {frame: path.name for frame, path in frame_pictures(folder / "a.xml", [folder]).items()}
    {3: 'frame_000003.png', 10: 'frame_000010.PNG'}
    """
    for folder in folders:
        found: dict[int, Path] = {}
        for path in sorted(folder.iterdir()):
            match = _FRAME.fullmatch(path.stem) if is_picture(path) else None
            if match is None:
                continue
            if int(match[1]) in found:
                raise DataError(f"{path}: frame {int(match[1])}, as {found[int(match[1])]} is; keep one of them")
            found[int(match[1])] = path
        if found:
            return dict(sorted(found.items()))
    looked = ", ".join(map(str, folders)) or str(file.parent)
    raise DataError(
        f"{file}: tracks of a video, and none of its frames (frame_000000.png) is in {looked}; export them with images "
        "from CVAT, or as 'CVAT for images 1.1' if they are pictures with names of their own"
    )


def place_tracks(
    where: str,
    tracks: Sequence[Track],
    sizes: Mapping[int, tuple[int, int]],
    labels: Labels,
    problems: list[Problem],
) -> dict[int, tuple[tuple[Instance, ...], list[Fault]]]:
    """What is in each frame that has a picture.

    CVAT writes the frames between keyframes too. Where they are missing, boxes go evenly from one keyframe to the next,
    and other shapes stay as they are until then, which is told. A track ends with its last shape.

    Parameters
    ----------
    where : str
        The file.
    tracks : sequence of Track
        Of one video.
    sizes : dict of int to (int, int)
        Height and width of each frame.
    labels : Labels
        Of the file.
    problems : list of Problem
        Gets a note for each kind of doubt.

    Returns
    -------
    dict of int to (tuple of Instance, list of (int, str))
        By frame: its objects, and lines and faults of shapes that cannot be used.

    Examples
    --------
    >>> box = {"xtl": "0", "ytl": "0", "xbr": "4", "ybr": "4"}
    >>> start, end = (Element("box", 1, attributes=box | {"xbr": x}) for x in "48")
    >>> shapes = [(0, False, start), (4, True, end)]
    >>> sizes, problems = dict.fromkeys(range(6), (10, 10)), []
    >>> placed = place_tracks("a.xml", [Track(7, "cow", 0, None, shapes)], sizes, Labels(), problems)
    >>> [(frame, found[0][0].box_xyxy.tolist(), found[0][0].track_id) for frame, found in placed.items()][1:3]
    [(1, [0.0, 0.0, 5.0, 4.0], 7), (2, [0.0, 0.0, 6.0, 4.0], 7)]
    """
    found: dict[int, tuple[list[Instance], list[Fault]]] = {}
    frames, doubts = sorted(sizes), {"between": 0, "held": 0, "open": 0, "absent": 0}
    for track in tracks:
        for index, (frame, outside, element) in enumerate(track.shapes):
            after = track.shapes[index + 1] if index + 1 < len(track.shapes) else None
            if outside:
                continue
            doubts["absent"] += frame not in sizes
            doubts["open"] += after is None and bool(frames) and frame < frames[-1]
            last = frame if after is None else after[0] - 1
            for number in frames[bisect.bisect_left(frames, frame) : bisect.bisect_right(frames, last)]:
                instances, faults = found.setdefault(number, ([], []))
                shapes = read_shapes([element], sizes[number], labels, faults, track.label)
                if number > frame and after is not None and shapes:
                    shapes = [_between(shapes[0], after, (number - frame) / (after[0] - frame), sizes[number], labels)]
                    doubts["between" if shapes[0].kind == "box" else "held"] += 1
                shapes = [_of_group(shape, track.group) for shape in shapes]
                instances += join_shapes(shapes, sizes[number], labels, track.id)
    problems += _tell(where, doubts)
    return {frame: (tuple(instances), faults) for frame, (instances, faults) in sorted(found.items())}


def _between(
    shape: Shape, after: tuple[int, bool, Element], share: float, size: tuple[int, int], labels: Labels
) -> Shape:
    """A shape some way on to the next one of its track: a box evenly, another shape as it is.

    Examples
    --------
    >>> element = Element("box", 1, attributes={"xtl": "4", "ytl": "0", "xbr": "8", "ybr": "2"})
    >>> import numpy as np
    >>> start = Shape("cow", "box", 1, np.array([[0.0, 0], [2, 2]]))
    >>> _between(start, (4, False, element), 0.5, (9, 9), Labels()).points.tolist()
    [[2.0, 0.0], [5.0, 2.0]]
    """
    found = read_shapes([after[2]], size, labels, [], shape.label) if shape.kind == "box" else []
    if not found or found[0].kind != "box":
        return shape
    return replace(shape, points=shape.points + share * (found[0].points - shape.points))


def _of_group(shape: Shape, group: int) -> Shape:
    """A shape with the group of its track.

    Examples
    --------
    >>> _of_group(Shape("cow", "box", 1), 3).group
    3
    """
    return replace(shape, group=group)


def _tell(where: str, doubts: Mapping[str, int]) -> list[Problem]:
    """A note for each kind of doubt.

    Examples
    --------
    >>> print(*_tell("a.xml", {"held": 2, "open": 0}))
    a.xml: 2 shapes between keyframes that are no boxes are as in the keyframe before them; export the tracks from \
CVAT, which writes every frame
    """
    whats = {
        "between": (
            "boxes between keyframes are placed evenly between them",
            "export the tracks from CVAT, which writes every frame",
        ),
        "held": (
            "shapes between keyframes that are no boxes are as in the keyframe before them",
            "export the tracks from CVAT, which writes every frame",
        ),
        "open": (
            "tracks end before the last frame and do not say outside; they are taken to end there",
            "if they go on, write their other frames",
        ),
        "absent": ("shapes are in frames without a picture, and are left out", "put all frames there"),
    }
    return [
        Problem(where, f"{count} {whats[kind][0]}", whats[kind][1], blocks=False)
        for kind, count in doubts.items()
        if count
    ]
