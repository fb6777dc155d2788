"""How predicted poses compare with true ones: sheets of pictures, and plots of errors and keypoints.

The numbers come from `PoseScores.compute` in utils/keypoints/metrics.py; the overlays come from
utils/keypoints/drawing.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from utils.keypoints.drawing import Edges, draw_line, draw_poses, finite_points, mark_radius
from utils.keypoints.matching import PredictedPose, TruthPose, is_counted, match_poses
from utils.keypoints.tables import SHARES, keypoint_rows, score_or_nan
from utils.report.colours import class_palette, mark_colours
from utils.report.plots import (
    PANEL_SIZE,
    WRONG,
    draw_legend,
    label_cells,
    new_figure,
    save_figure,
    show_colours,
    side_by_side,
    with_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LARGEST_ZOOM, _SMALLEST_MARK = 4.0, 2.5
MISSED, SURPLUS = (255, 200, 0), (190, 190, 190)  # marks of errors, where no keypoint looks like them


# --- sheets ----------------------------------------------------------------------------------------------------------


def poses_region(poses: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Choose the part of a picture in which its poses can be seen well.

    Parameters
    ----------
    poses : sequence of ndarray, shape (K, 2 or more)
        x, y in pixels.
    size : (int, int)
        Height and width of the picture.

    Returns
    -------
    (int, int, int, int)
        x1, y1, x2, y2; the whole picture where there is no pose in it.

    Examples
    --------
    >>> poses_region([np.array([[100.0, 50], [200, 90], [np.nan, 0]])], (480, 640))
    (60, 10, 240, 130)
    >>> poses_region([np.array([[10.0, 50], [630, 90]])], (480, 640)), poses_region([], (480, 640))
    ((0, 0, 640, 338), (0, 0, 640, 480))
    """
    height, width = size
    points = np.concatenate([pose[finite_points(pose), :2] for pose in poses] or [np.zeros((0, 2))])
    points = points[((points >= 0) & (points <= (width, height))).all(axis=1)]
    if not len(points):
        return 0, 0, width, height
    low, high = points.min(axis=0), points.max(axis=0)
    room = max(0.4 * float((high - low).max()), 16.0)
    x1, y1 = np.floor(np.maximum(low - room, 0)).astype(int).tolist()
    x2, y2 = np.ceil(np.minimum(high + room, (width, height))).astype(int).tolist()
    return x1, y1, x2, y2


def _cut_out(image: np.ndarray, region: tuple[int, int, int, int], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a region out of a picture and bring its longer side to a number of pixels, enlarged at most fourfold.

    Returns
    -------
    panel : ndarray of uint8, shape (height, width, 3)
        The region.
    factors : ndarray, shape (2,)
        Pixels of the panel per pixel of the picture, along x and y.

    Examples
    --------
    >>> panel, factors = _cut_out(np.zeros((100, 200, 3), np.uint8), (10, 20, 110, 70), limit=300)
    >>> panel.shape, factors.tolist(), _cut_out(np.zeros((30, 20, 3), np.uint8), (0, 0, 20, 30), 512)[0].shape
    ((150, 300, 3), [3.0, 3.0], (120, 80, 3))
    """
    x1, y1, x2, y2 = region
    part = show_colours(image)[y1:y2, x1:x2]
    factor = min(limit / max(part.shape[:2]), _LARGEST_ZOOM)
    width, height = (max(1, round(side * factor)) for side in (x2 - x1, y2 - y1))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    panel = cv2.resize(part, (width, height), interpolation=interpolation)
    return panel, np.array([width / (x2 - x1), height / (y2 - y1)])


def _draw_crosses(
    picture: np.ndarray, points: np.ndarray, arm: float, width: int, colour: Sequence[int] = MISSED
) -> None:
    """Cross out points, light on a dark rim.

    `picture` has shape (H, W, 3), `points` shape (N, 2).

    Examples
    --------
    >>> picture = np.zeros((20, 30, 3), np.uint8)
    >>> _draw_crosses(picture, np.array([[20.5, 10.5], [np.nan, 3.0]]), arm=4.0, width=1)
    >>> picture[10, 20].tolist(), picture[10, 5].tolist()
    ([255, 200, 0], [0, 0, 0])
    """
    for point in points[finite_points(points)]:
        for shade, wide in (((20, 20, 20), width + 2), (colour, width)):
            for step in (np.array([arm, arm]), np.array([arm, -arm])):
                draw_line(picture, point - step, point + step, shade, wide)


def _draw_errors(
    panel: np.ndarray,
    truth: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    matches: Sequence[int],
    colours: np.ndarray,
    radius: float,
    marks: Sequence[Sequence[int]] = (WRONG, MISSED, SURPLUS),
) -> np.ndarray:
    """Join each predicted point with the true one, cross out what was missed, and show surplus animals in grey.

    Parameters
    ----------
    panel : ndarray of uint8, shape (H, W, 3)
        The ground.
    truth, predictions : sequence of ndarray, shape (K, 3)
        In pixels of the panel.
    matches : sequence of int
        For each truth its prediction, or -1.
    colours : ndarray of uint8, shape (K, 3)
        Of the keypoints.
    radius : float
        Of the marks.
    marks : sequence of (red, green, blue)
        Of errors, of missed points and of surplus animals.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new picture. A point's mark is where it was predicted; the line from it ends where it should have been.

    Examples
    --------
    >>> truth, found = np.array([[10.5, 10.5, 2], [40.5, 30.5, 2]]), np.array([[30.5, 10.5, 1], [np.nan, 0, 0]])
    >>> colours = np.array([[0, 0, 200], [0, 200, 0]], np.uint8)
    >>> picture = _draw_errors(np.zeros((40, 60, 3), np.uint8), [truth], [found], [0], colours, radius=3.0)
    >>> picture[10, 30].tolist(), bool(picture[10, 20, 0] > 150), picture[30, 40].tolist()
    ([0, 0, 200], True, [255, 200, 0])
    """
    labelled = [np.where(pose[:, 2:3] > 0, pose[:, :2], np.nan) for pose in truth]
    found = [_matched(pose, predictions, index) for pose, index in zip(labelled, matches, strict=True)]
    surplus = [pose for index, pose in enumerate(predictions) if index not in matches]
    width = max(1, round(0.6 * radius))
    picture = draw_poses(panel, surplus, colours=np.full_like(colours, marks[2]), radius=0.8 * radius)
    for pose, predicted in zip(labelled, found, strict=True):
        for start, end in zip(pose, predicted, strict=True):
            if np.isfinite(start).all() and np.isfinite(end).all():
                draw_line(picture, start, end, marks[0], width)
    picture = draw_poses(picture, found, colours=colours, radius=0.8 * radius)
    for pose, predicted in zip(labelled, found, strict=True):
        _draw_crosses(picture, pose[~finite_points(predicted)], 1.2 * radius, width, marks[1])
    return picture


def _matched(labelled: np.ndarray, predictions: Sequence[np.ndarray], index: int) -> np.ndarray:
    """Predicted places of the labelled points of an animal; NaN where there is none.

    `labelled` has shape (K, 2), each prediction shape (K, 3); the result has shape (K, 2).

    Examples
    --------
    >>> labelled, prediction = np.array([[1.0, 2], [np.nan, np.nan]]), np.array([[3.0, 4, 0.5], [5, 6, 0.5]])
    >>> _matched(labelled, [prediction], 0).tolist(), _matched(labelled, [prediction], -1).tolist()
    ([[3.0, 4.0], [nan, nan]], [[nan, nan], [nan, nan]])
    """
    if index < 0:
        return np.full_like(labelled, np.nan)
    return np.where(finite_points(labelled)[:, None], predictions[index][:, :2], np.nan)


class _Tally(NamedTuple):
    """Errors of the labelled points of a picture, in its own pixels, and the number of surplus animals.

    Parameters
    ----------
    errors : ndarray, shape (N,)
        NaN for a point that was missed.
    surplus : int
        Predicted animals that belong to none.

    Examples
    --------
    >>> _Tally(np.array([3.0, np.nan]), surplus=1).title()
    'mean error: 3.0 px, 1 of 2 points missed, 1 surplus'
    >>> _Tally(np.array([]), surplus=0).title(), _Tally(np.array([np.nan]), surplus=0).title()
    ('mean error: -', 'mean error: -, 1 of 1 points missed')
    """

    errors: np.ndarray
    surplus: int

    @property
    def missed(self) -> int:
        """Labelled points that were not predicted.

        Examples
        --------
        >>> _Tally(np.array([3.0, np.nan]), surplus=0).missed
        1
        """
        return int(np.isnan(self.errors).sum())

    def title(self) -> str:
        """Say how far off and how complete a prediction is.

        Examples
        --------
        >>> _Tally(np.array([3.0, 4.0]), surplus=0).title()
        'mean error: 3.5 px'
        """
        errors = self.errors[~np.isnan(self.errors)]
        parts = [f"mean error: {errors.mean():.1f} px" if errors.size else "mean error: -"]
        if self.missed:
            parts.append(f"{self.missed} of {self.errors.size} points missed")
        if self.surplus:
            parts.append(f"{self.surplus} surplus")
        return ", ".join(parts)


def _tally(truth: Sequence[TruthPose], predictions: Sequence[PredictedPose], matches: Sequence[int]) -> _Tally:
    """Measure the labelled points of a picture; crowds do not count.

    Examples
    --------
    >>> pose, found = np.array([[1.0, 2, 2], [9.0, 2, 0]]), np.array([[1.0, 5, 1], [0.0, 0, 0]])
    >>> tally = _tally([TruthPose(pose)], [PredictedPose(found, 0.5), PredictedPose(found, 0.4)], [0])
    >>> tally.errors.tolist(), tally.surplus
    ([3.0], 1)
    """
    places, errors = [pose.keypoints for pose in predictions], [np.zeros(0)]
    for pose, index in zip(truth, matches, strict=True):
        if is_counted(pose):
            labelled = pose.keypoints[:, 2] > 0
            found = _matched(pose.keypoints[:, :2], places, index)
            errors.append(np.linalg.norm(pose.keypoints[:, :2] - found, axis=1)[labelled])
    return _Tally(np.concatenate(errors), len(predictions) - sum(index >= 0 for index in matches))


def draw_pose_comparison(
    image: np.ndarray,
    truth: Sequence[TruthPose] | None,
    predictions: Sequence[PredictedPose],
    names: Sequence[str],
    edges: Edges = (),
) -> np.ndarray:
    """Draw a picture, its true poses, its predicted ones and their errors side by side, with titles and a legend.

    What is shown is the part with the true animals, or with the predicted ones where there is no truth; it is enlarged
    at most fourfold.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, C)
        The picture; channels after the third are not shown.
    truth : sequence of TruthPose, or None
        Labelled animals; without them there are two panels instead of four. Occluded points are rings.
    predictions : sequence of PredictedPose
        Predicted animals.
    names : sequence of str
        Names of the K keypoints; the legend holds those that occur.
    edges : sequence of (int, int)
        Keypoints joined by a line.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        The sheet. In the last panel lines lead from the predicted points to the true ones.

    Examples
    --------
    >>> image, pose = np.zeros((100, 200, 3), np.uint8), np.array([[50.0, 40, 2], [150, 60, 2]])
    >>> sheet = draw_pose_comparison(image, [TruthPose(pose)], [PredictedPose(pose, 0.5)], ["nose", "tail"])
    >>> sheet.shape, draw_pose_comparison(image, None, [], ["nose", "tail"]).shape
    ((328, 2060, 3), (300, 1028, 3))
    """
    true, predicted = [pose.keypoints for pose in truth or ()], [pose.keypoints for pose in predictions]
    labelled = [np.where(pose[:, 2:3] > 0, pose, np.nan) for pose in true]
    region = poses_region(labelled or predicted, image.shape[:2])
    panel, factors = _cut_out(image, region, PANEL_SIZE)
    true, labelled, predicted = (
        [np.column_stack([(pose[:, :2] - region[:2]) * factors, pose[:, 2:]]) for pose in poses]
        for poses in (true, labelled, predicted)
    )
    colours = class_palette(len(names))
    radius = max(mark_radius(panel.shape[:2], labelled or predicted), _SMALLEST_MARK)
    panels = [("image", panel)]
    occurring = np.any([np.zeros(len(names), bool), *map(finite_points, labelled + predicted)], axis=0)
    entries = [(names[index], colours[index].tolist()) for index in np.flatnonzero(occurring).tolist()]
    if truth is not None:
        shown = draw_poses(panel, true, edges, third="visibility", colours=colours, radius=radius)
        panels.append(("truth", shown))
    panels.append(("prediction", draw_poses(panel, predicted, edges, colours=colours, radius=radius)))
    if truth is not None:
        matches = match_poses(truth, predictions)
        tally = _tally(truth, predictions, matches)
        grey = 0.7 * cv2.cvtColor(panel, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2) + 54
        marks = mark_colours((WRONG, MISSED, SURPLUS), colours.tolist())
        errors = _draw_errors(grey.astype(np.uint8), true, predicted, matches, colours, radius, marks)
        panels.append((tally.title(), errors))
        occurs = {"error": True, "missed": tally.missed, "surplus": tally.surplus}
        entries += [(name, list(mark)) for (name, shown), mark in zip(occurs.items(), marks, strict=True) if shown]
    sheet = side_by_side([with_title(picture, title) for title, picture in panels])
    return np.vstack([sheet, draw_legend(entries, sheet.shape[1])])


# --- plots -----------------------------------------------------------------------------------------------------------


def _draw_shares(axes: Axes, counts: np.ndarray, missed: int, labels: Sequence[str]) -> None:
    """Draw the share of points in each bin as bars, and of those up to each bin as a line.

    `counts` has shape (bins,).

    Examples
    --------
    >>> axes = new_figure(3, 2).subplots()
    >>> _draw_shares(axes, np.array([3, 1]), 4, ["0-2", "> 2"])
    >>> [float(bar.get_height()) for bar in axes.patches], axes.lines[0].get_ydata().tolist()
    ([37.5, 12.5, 50.0], [37.5, 50.0])
    """
    shares = 100 * np.append(counts, missed) / max(int(counts.sum()) + missed, 1)
    places = np.arange(len(shares))
    blue, orange = (tuple(colour / 255) for colour in class_palette(2))
    bars = axes.bar(places, shares, width=0.85, color=[blue] * len(counts) + [tuple(np.array(MISSED) / 255)])
    axes.bar_label(bars, [f"{share:.1f}" if share >= 0.05 else "" for share in shares], fontsize=7)
    axes.plot(places[:-1] + 0.425, shares[:-1].cumsum(), color=orange, marker=".", label="up to here (PCK)")
    axes.set_xticks(places, [*labels, "missed"], rotation=60, fontsize=8)
    axes.set_xlabel("error in pixels")
    axes.set_ylabel("% of labelled points")
    axes.set_ylim(0, 105)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="center right")


def _draw_pck_curves(
    axes: Axes, counts: np.ndarray, missed: np.ndarray, edges: Sequence[float], names: Sequence[str]
) -> None:
    """Draw for each keypoint the share of its points up to each error; keypoints without truth are left out.

    `counts` has shape (K, bins), `missed` shape (K,).

    Examples
    --------
    >>> axes = new_figure(3, 2).subplots()
    >>> _draw_pck_curves(axes, np.array([[3, 1], [0, 0]]), np.array([4, 0]), [0, 2, math.inf], ["nose", "tail"])
    >>> [(line.get_label(), line.get_ydata().tolist()) for line in axes.lines]
    [('nose', [37.5])]
    """
    totals = counts.sum(axis=1) + missed
    for colour, name, row, total in zip(class_palette(len(names)) / 255, names, counts, totals, strict=True):
        if total:
            axes.plot(edges[1:-1], 100 * row.cumsum()[:-1] / total, label=name, color=tuple(colour), linewidth=1.3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(edges[1:-1], [f"{edge:g}" for edge in edges[1:-1]], rotation=60, fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("threshold in pixels")
    axes.set_ylabel("PCK in %")
    axes.set_ylim(0, 105)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7, ncols=1 + len(axes.lines) // 16, loc="center left", bbox_to_anchor=(1.0, 0.5))


def plot_error_histogram(
    counts: np.ndarray | Sequence[Any],
    edges: Sequence[float],
    path: str | Path,
    missed: int | Sequence[int] = 0,
    names: Sequence[str] | None = None,
) -> None:
    """Plot how many points lie how far off, and PCK at every threshold.

    Parameters
    ----------
    counts : array, shape (bins,) or (K, bins)
        Points per bin, of all keypoints together or of each.
    edges : sequence of float, length bins + 1
        Pixels; the last one may be infinite (or None, as in JSON).
    path : str or Path
        The picture.
    missed : int or sequence of int, length K
        Labelled points that were not predicted; they have a bar of their own.
    names : sequence of str, optional
        Names of the K keypoints: a second panel then has a curve for each.

    Raises
    ------
    ValueError
        If edges, names or missed points do not fit the counts.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "errors.png"
    >>> plot_error_histogram([[3, 1], [0, 2]], [0, 2, math.inf], path, missed=[1, 0], names=["nose", "tail"])
    >>> cv2.imread(str(path)).shape
    (400, 1400, 3)
    """
    table = np.atleast_2d(np.asarray(counts, int))
    lost = np.atleast_1d(np.asarray(missed, int))
    if len(edges) != table.shape[1] + 1:
        raise ValueError(f"error histogram: expected {table.shape[1] + 1} edges, got {len(edges)}")
    if names is not None and not len(names) == len(table) == len(lost):
        raise ValueError(
            f"error histogram: {len(names)} names, {len(table)} rows and {len(lost)} counts of missed points"
        )
    figure = new_figure(14 if names else 7, 4)
    panels = figure.subplots(1, 2 if names else 1, squeeze=False)[0]
    last = f"> {edges[-2]:g}"  # the last edge is infinite, or None as it comes back from JSON
    bins = [*(f"{low:g}-{high:g}" for low, high in pairwise(edges[:-1])), last]
    _draw_shares(panels[0], table.sum(axis=0), int(lost.sum()), bins)
    if names:
        _draw_pck_curves(panels[1], table, lost, edges, names)
    save_figure(figure, path)


def plot_keypoint_table(result: Mapping[str, Any], names: Sequence[str], path: str | Path) -> None:
    """Plot PCK of each keypoint at each threshold as a coloured table, with its count and median error.

    Parameters
    ----------
    result : mapping
        What `PoseScores.compute` returns.
    names : sequence of str
        Names of the K keypoints.
    path : str or Path
        The picture; the first line holds all keypoints together.

    Raises
    ------
    ValueError
        If there are not as many names as keypoints.

    Examples
    --------
    >>> import tempfile
    >>> from utils.keypoints.metrics import PoseScores
    >>> path = Path(tempfile.mkdtemp()) / "keypoints.png"
    >>> plot_keypoint_table(PoseScores(3).compute(), ["nose", "neck", "tail"], path)
    >>> cv2.imread(str(path)).shape[1]
    800
    """
    rows = keypoint_rows(result, names)
    rows = [rows[-1], *rows[:-1]]
    shares = np.array([[score_or_nan(row[column]) for column in SHARES] for row in rows])
    figure = new_figure(8, 1.4 + 0.3 * len(rows))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    label_cells(axes, shares)
    axes.set_xticks(range(len(SHARES)), SHARES, rotation=30, ha="right", fontsize=8)
    medians = [score_or_nan(row["median_error_px"]) for row in rows]
    suffixes = ["" if math.isnan(median) else f"; median {median:.1f} px" for median in medians]
    labels = [f"{row['keypoint']} ({row['labelled']}{suffix})" for row, suffix in zip(rows, suffixes, strict=True)]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.axhline(0.5, color="black", linewidth=1)
    save_figure(figure, path)
