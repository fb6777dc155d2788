"""Boxes on pictures: found, missed and false ones in lines that differ by colour and by stroke.

A line is drawn inside its box, so that neighbours do not hide each other, over a dark rim that stands out on any
ground. Colours are told apart by colour-blind people, strokes in black and white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

from utils.boxes.detections import FALSE, IGNORED, TrueBoxes, match_picture
from utils.report.colours import class_palette
from utils.report.plots import draw_legend, show_colours, side_by_side, with_title

Stroke = Literal["solid", "dashed", "dotted"]

PANEL = 1000  # pixels of the longer side of a panel, at most; small pictures are enlarged, at most threefold
_LARGEST_ZOOM = 3.0
_DARK = (20, 20, 20)
_DASH = {"solid": (1, 0), "dashed": (7, 4), "dotted": (2, 2)}  # widths of the line that are drawn and left out
_LEAST_WRITTEN = 26  # pixels of a box's width from which its score is written
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4


class Style(NamedTuple):
    """How a box is drawn.

    Examples
    --------
    >>> STYLES["missed"].stroke
    'dashed'
    """

    colour: tuple[int, int, int]
    stroke: Stroke


STYLES = {
    "object": Style((240, 240, 240), "solid"),
    "found": Style((86, 180, 233), "solid"),
    "missed": Style((255, 200, 0), "dashed"),
    "false": Style((230, 0, 60), "dotted"),
    "ignored": Style((150, 150, 150), "dotted"),
}


def line_width(size: tuple[int, int]) -> int:
    """Pixels of a line in a picture of a height and width.

    Examples
    --------
    >>> [line_width(size) for size in ((100, 100), (480, 640), (1080, 1920), (4000, 6000))]
    [1, 1, 4, 12]
    """
    return max(1, round(0.0025 * (size[0] * size[1]) ** 0.5))


def draw_box(picture: np.ndarray, box_xyxy: np.ndarray, style: Style, width: int) -> None:
    """Draw the outline of a box inside it, in place.

    Parameters
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        Where it is drawn.
    box_xyxy : ndarray, shape (4,)
        In pixels; a box smaller than the line is filled.
    style : Style
        Colour and stroke.
    width : int
        Pixels of the line.

    Examples
    --------
    >>> picture = np.full((20, 30, 3), 128, np.uint8)
    >>> draw_box(picture, np.array([5.0, 4, 25, 16]), STYLES["missed"], 1)
    >>> picture[4, 5].tolist(), picture[4, 13].tolist(), picture[10, 15].tolist(), picture[3, 15].tolist()
    ([255, 200, 0], [20, 20, 20], [128, 128, 128], [128, 128, 128])
    """
    left, top, right, bottom = np.rint(box_xyxy).astype(int).tolist()
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    drawn, gap = (part * width for part in _DASH[style.stroke])
    rim = width + 1 if style.stroke == "solid" and width > 1 else width
    for x1, y1, x2, y2 in _edges(left, top, right, bottom, rim):
        _fill(picture, (x1, y1, x2, y2), _DARK)
    for x1, y1, x2, y2 in _edges(left, top, right, bottom, width):
        lies = x2 - x1 >= y2 - y1
        start, end = (x1, x2) if lies else (y1, y2)
        for place in range(start, end, drawn + gap):
            stop = min(place + drawn, end)
            _fill(picture, (place, y1, stop, y2) if lies else (x1, place, x2, stop), style.colour)


def _edges(left: int, top: int, right: int, bottom: int, width: int) -> list[tuple[int, int, int, int]]:
    """The four edges of a box as boxes inside it.

    Examples
    --------
    >>> _edges(0, 0, 10, 6, 2)
    [(0, 0, 10, 2), (0, 4, 10, 6), (0, 0, 2, 6), (8, 0, 10, 6)]
    """
    across, along = min(width, right - left), min(width, bottom - top)
    return [
        (left, top, right, top + along),
        (left, bottom - along, right, bottom),
        (left, top, left + across, bottom),
        (right - across, top, right, bottom),
    ]


def _fill(picture: np.ndarray, box: tuple[int, int, int, int], colour: Sequence[int]) -> None:
    """Fill the part of a box that lies in a picture (H, W, 3).

    Examples
    --------
    >>> picture = np.zeros((2, 3, 3), np.uint8)
    >>> _fill(picture, (-5, 1, 2, 9), (7, 8, 9))
    >>> picture[..., 0].tolist()
    [[0, 0, 0], [7, 7, 0]]
    """
    x1, y1, x2, y2 = (max(side, 0) for side in box)
    picture[y1:y2, x1:x2] = colour


def write_label(picture: np.ndarray, text: str, box_xyxy: np.ndarray, colour: Sequence[int]) -> None:
    """Write a line on a ground of the box's colour above it, or inside where there is no room above; in place.

    Parameters
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        Where it is written.
    text : str
        What OpenCV's letters cannot show is written as a question mark.
    box_xyxy : ndarray, shape (4,)
        In pixels.
    colour : sequence of int
        Red, green, blue of the ground.

    Examples
    --------
    >>> picture = np.zeros((40, 60, 3), np.uint8)
    >>> write_label(picture, "0.50", np.array([5.0, 20, 50, 38]), (240, 240, 240))
    >>> picture[10, 6].tolist(), bool((picture[8:19, 6:30] == 20).any()), int(picture[21:].max())
    ([240, 240, 240], True, 0)
    """
    plain = "".join(letter if 32 <= ord(letter) < 127 else "?" for letter in text)
    (width, height), _ = cv2.getTextSize(plain, _FONT, _FONT_SCALE, 1)
    left, top = np.rint(box_xyxy[:2]).astype(int).tolist()
    left = max(min(left, picture.shape[1] - width - 4), 0)
    above = top - height - 5
    upper = above if above >= 0 else max(top, 0)
    _fill(picture, (left, upper, left + width + 4, upper + height + 5), colour)
    dark = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 110
    ink = _DARK if dark else (255, 255, 255)
    cv2.putText(picture, plain, (left + 2, upper + height + 2), _FONT, _FONT_SCALE, ink, 1, cv2.LINE_AA)


def draw_detections(
    image: np.ndarray,
    boxes_xyxy: np.ndarray,
    scores: np.ndarray | None,
    labels: np.ndarray,
    names: Sequence[str],
    colours: np.ndarray | None = None,
) -> np.ndarray:
    """Lay detections over a picture, each class in its colour, with name and score where there is room.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, C)
        The picture; channels after the third are not shown.
    boxes_xyxy : ndarray, shape (N, 4)
        In pixels.
    scores : ndarray, shape (N,), or None
        The surest are drawn last, on top. None for labelled objects, which have names only.
    labels : ndarray of int, shape (N,)
        Class indices.
    names : sequence of str
        Of the K classes.
    colours : ndarray of uint8, shape (K, 3), optional
        Of the classes.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new picture.

    Examples
    --------
    >>> box = np.array([[4.0, 4, 16, 12]])
    >>> picture = draw_detections(np.zeros((20, 30, 3), np.uint8), box, np.array([0.5]), np.array([0]), ["fox"])
    >>> picture[4, 10].tolist(), picture[8, 8].tolist()
    ([0, 114, 178], [0, 0, 0])
    """
    picture = show_colours(image).copy()
    palette = class_palette(min(len(names), 256)) if colours is None else colours
    width = line_width(picture.shape[:2])
    for row in np.arange(len(labels)) if scores is None else np.argsort(scores, kind="stable"):
        colour = tuple(map(int, palette[labels[row] % len(palette)]))
        draw_box(picture, boxes_xyxy[row], Style((colour[0], colour[1], colour[2]), "solid"), width)
        if boxes_xyxy[row, 2] - boxes_xyxy[row, 0] >= _LEAST_WRITTEN:
            name, score = names[labels[row]] if len(names) > 1 else "", "" if scores is None else f"{scores[row]:.2f}"
            if text := f"{name} {score}".strip():
                write_label(picture, text, boxes_xyxy[row], colour)
    return picture


# --- comparison with the truth ---------------------------------------------------------------------------------------


def draw_box_comparison(
    image: np.ndarray,
    true: TrueBoxes,
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    thresholds: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Draw a picture with its objects, found and missed, beside one with its detections, right and false.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, C)
        The picture; channels after the third are not shown.
    true : TrueBoxes
        Its objects and ignore regions.
    boxes_xyxy, scores, labels : ndarray, shape (N, 4), (N,) and (N,)
        Its detections.
    names : sequence of str
        Of the K classes.
    thresholds : mapping of str to float, optional
        Score from which on the detections of a class are drawn; those of classes that it lacks, and with NaN, all.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        The sheet: a title with the counts above each picture, and a legend.

    Examples
    --------
    >>> boxes = np.array([[4.0, 4, 40, 40], [60, 10, 90, 50]])
    >>> true = TrueBoxes(np.zeros(2, int), boxes, np.zeros(2, int), np.zeros(2, bool))
    >>> given = (boxes[:1], np.array([0.5]), np.array([0]), ["fox"])
    >>> draw_box_comparison(np.zeros((60, 100, 3), np.uint8), true, *given).shape
    (224, 604, 3)
    """
    least = [(thresholds or {}).get(name, np.nan) for name in names]
    counts = scores >= np.nan_to_num(np.array(least, np.float64), nan=-np.inf)[labels]
    kept = np.flatnonzero(counts)[np.argsort(-scores[counts], kind="stable")]
    boxes, marks, classes = boxes_xyxy[kept], scores[kept], labels[kept]
    matches = match_picture(boxes, classes, true)
    found = np.isin(np.arange(len(true.labels)), matches)
    whats = np.where(true.is_crowd, "ignored", np.where(found, "object", "missed"))
    seen = np.select([matches == FALSE, matches == IGNORED], ["false", "ignored"], "found")
    ground, factors = _enlarged(image)
    left = _draw_kinds(ground, true.boxes_xyxy * factors, whats, _texts(names, true.labels, None))
    right = _draw_kinds(ground, boxes * factors, seen, _texts(names, classes, marks))
    objects = int((~true.is_crowd).sum())
    shown = "" if thresholds is None else ", from the best score on"
    titles = (
        f"{objects} objects: {int(found.sum())} found, {objects - int(found.sum())} missed",
        f"{len(boxes)} detections{shown}: {int((seen == 'found').sum())} right, {int((seen == 'false').sum())} false",
    )
    sheet = side_by_side([with_title(panel, title) for panel, title in zip((left, right), titles, strict=True)])
    entries = [(f"{name} ({style.stroke})", style.colour) for name, style in STYLES.items()]
    return np.vstack([sheet, draw_legend(entries, sheet.shape[1])])


def _texts(names: Sequence[str], labels: np.ndarray, scores: np.ndarray | None) -> list[str]:
    """What is written at boxes: the class where there are several, and the score of a detection.

    `labels` and `scores` have shape (N,).

    Examples
    --------
    >>> _texts(["fox", "hen"], np.array([1]), np.array([0.5])), _texts(["fox"], np.array([0]), None)
    (['hen 0.50'], [''])
    """
    words = [names[label] if len(names) > 1 else "" for label in labels]
    marks = [""] * len(words) if scores is None else [f"{score:.2f}" for score in scores]
    return [" ".join(filter(None, parts)) for parts in zip(words, marks, strict=True)]


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, C) at the size of a panel, and its pixels per pixel of the picture for x1, y1, x2, y2.

    Examples
    --------
    >>> panel, factors = _enlarged(np.zeros((500, 2000, 3), np.uint8))
    >>> panel.shape, factors.tolist()
    ((250, 1000, 3), [0.5, 0.5, 0.5, 0.5])
    """
    picture = show_colours(image)
    factor = min(PANEL / max(picture.shape[:2]), _LARGEST_ZOOM)
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    panel = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return panel, np.tile([width / picture.shape[1], height / picture.shape[0]], 2)


def _draw_kinds(ground: np.ndarray, boxes_xyxy: np.ndarray, kinds: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Draw boxes (N, 4) by what they are (N,) on a copy of a picture (H, W, 3), the faults on top.

    Examples
    --------
    >>> ground = np.full((20, 30, 3), 128, np.uint8)
    >>> boxes = np.array([[2.0, 2, 12, 12], [2, 2, 12, 12]])
    >>> _draw_kinds(ground, boxes, np.array(["missed", "object"]), ["", ""])[2, 2].tolist()
    [255, 200, 0]
    """
    picture, width = ground.copy(), line_width(ground.shape[:2])
    order = ("ignored", "object", "found", "false", "missed")
    for row in sorted(range(len(kinds)), key=lambda row: order.index(str(kinds[row]))):
        style = STYLES[str(kinds[row])]
        draw_box(picture, boxes_xyxy[row], style, width)
    for row, text in enumerate(texts):
        if text and boxes_xyxy[row, 2] - boxes_xyxy[row, 0] >= _LEAST_WRITTEN:
            write_label(picture, text, boxes_xyxy[row], STYLES[str(kinds[row])].colour)
    return picture
