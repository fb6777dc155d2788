"""Pictures of results: training curves, confusion matrices, class maps over images.

Pictures are `uint8` arrays (H, W, 3) in red, green, blue until `save_picture` writes them. Plots go through
matplotlib's objects and never through `pyplot`, whose hidden list of figures leaks memory and wants a display;
matplotlib is imported when the first plot is drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from utils import IGNORE_INDEX
from utils.report.caption import current_caption
from utils.report.colours import class_palette, mark_colours, mark_name
from utils.runtime.files import atomic_path, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONT, _FONT_SCALE, _LINE_HEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 22  # pixels
PANEL_SIZE = 512  # pixels of the longer side of a panel, at most
WRONG = (230, 0, 60)  # where no class looks like it
# Columns whose names hold one of these are shares of one, which fit one panel.
SCORE_WORDS = ("iou", "acc", "dice", "precision", "score", "pck", "oks", "cosine", "variance")


# --- pictures --------------------------------------------------------------------------------------------------------


def show_colours(image: np.ndarray) -> np.ndarray:
    """First three channels of a picture, contiguous; a single channel is shown grey.

    Examples
    --------
    >>> show_colours(np.full((1, 2, 1), 7, np.uint8)).tolist(), show_colours(np.zeros((2, 3, 5), np.uint8)).shape
    ([[[7, 7, 7], [7, 7, 7]]], (2, 3, 3))
    """
    image = image[..., None] if image.ndim == 2 else image
    return np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2))


def draw_class_map(image: np.ndarray, classes: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lay the colours of classes over a picture, half and half.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, C)
        The picture; channels after the third are not shown.
    classes : ndarray of uint8, shape (H, W)
        Class indices; where they have no colour, as `IGNORE_INDEX`, the picture stays as it is.
    palette : ndarray of uint8, shape (K, 3)
        Colours of the classes.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new picture.

    Raises
    ------
    ValueError
        If the sizes differ.

    Examples
    --------
    >>> image, palette = np.full((1, 2, 3), 100, np.uint8), np.array([[200, 0, 50]], np.uint8)
    >>> draw_class_map(image, np.array([[0, 255]], np.uint8), palette).tolist()
    [[[150, 50, 75], [100, 100, 100]]]
    """
    if image.shape[:2] != classes.shape:
        raise ValueError(f"image {image.shape} and classes {classes.shape} must have one height and width")
    picture = show_colours(image)
    colours = palette[np.minimum(classes, len(palette) - 1)]
    blended = cv2.addWeighted(colours, 0.5, picture, 0.5, 0.0)
    shown = (classes != IGNORE_INDEX) & (classes < len(palette))
    return np.where(shown[..., None], blended, picture)


def _draw_errors(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, colour: Sequence[int] = WRONG
) -> np.ndarray:
    """Show a picture in grey, its wrong pixels in a colour, and darker where nothing is known.

    `image` has shape (H, W, C), `truth` and `prediction` shape (H, W); the result has shape (H, W, 3).

    Examples
    --------
    >>> image, truth = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 1, 255]], np.uint8)
    >>> _draw_errors(image, truth, np.zeros((1, 3), np.uint8)).tolist()
    [[[100, 100, 100], [230, 0, 60], [50, 50, 50]]]
    """
    grey = cv2.cvtColor(show_colours(image), cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    labelled = truth != IGNORE_INDEX
    grey[~labelled] //= 2
    grey[labelled & (truth != prediction)] = colour
    return grey


def fit_picture(picture: np.ndarray, limit: int) -> np.ndarray:
    """Shrink a picture whose longer side exceeds a limit.

    Examples
    --------
    >>> [fit_picture(np.zeros((side, 4 * side, 3), np.uint8), 200).shape for side in (100, 10)]
    [(50, 200, 3), (10, 40, 3)]
    """
    height, width = picture.shape[:2]
    shrink = max(height, width) / limit
    if shrink <= 1:
        return picture
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _text_width(text: str) -> int:
    """Pixels that a line of text takes.

    Examples
    --------
    >>> _text_width("") < _text_width("road") < _text_width("building")
    True
    """
    return cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0]


def _draw_text(picture: np.ndarray, text: str, x: int, top: int) -> None:
    """Write a line of text into a picture, dark on light.

    `picture` has shape (H, W, 3).

    Examples
    --------
    >>> picture = np.full((22, 60, 3), 255, np.uint8)
    >>> _draw_text(picture, "road", 2, 0)
    >>> bool(picture[:, 2:40].min() < 100), bool((picture[:, 50:] == 255).all())
    (True, True)
    """
    cv2.putText(picture, text, (x, top + _LINE_HEIGHT - 7), _FONT, _FONT_SCALE, (40, 40, 40), 1, cv2.LINE_AA)


def with_title(picture: np.ndarray, title: str) -> np.ndarray:
    """Put a light strip with a title above a picture, which is widened where the title needs it.

    Examples
    --------
    >>> with_title(np.zeros((10, 200, 3), np.uint8), "truth").shape
    (32, 200, 3)
    """
    height, width = picture.shape[:2]
    wide = max(width, _text_width(title) + 8)
    sheet = np.full((height + _LINE_HEIGHT, wide, 3), 255, np.uint8)
    sheet[_LINE_HEIGHT:, :width] = picture
    _draw_text(sheet, title, 4, 0)
    return sheet


def draw_legend(entries: Sequence[tuple[str, Sequence[int]]], width: int) -> np.ndarray:
    """Draw swatches with names, in as many lines as they need.

    Examples
    --------
    >>> entries = [("road", (255, 0, 0)), ("building", (0, 255, 0))]
    >>> draw_legend(entries, 400).shape, draw_legend(entries, 100).shape
    ((22, 400, 3), (44, 100, 3))
    """
    places, x, line = [], 4, 0
    for name, _ in entries:
        needed = 20 + _text_width(name) + 12
        if x > 4 and x + needed > width:
            x, line = 4, line + 1
        places.append((x, line * _LINE_HEIGHT))
        x += needed
    sheet = np.full(((line + 1) * _LINE_HEIGHT, width, 3), 255, np.uint8)
    for (name, colour), (x, top) in zip(entries, places, strict=True):
        sheet[top + 5 : top + 17, x : x + 14] = colour
        _draw_text(sheet, name, x + 20, top)
    return sheet


def overlay_legend(entries: Sequence[tuple[str, Sequence[int]]], width: int) -> np.ndarray:
    """Draw a legend for below a picture that keeps its size, with the line of `captioned` under it.

    Examples
    --------
    >>> overlay_legend([("road", (255, 0, 0))], 200).shape
    (22, 200, 3)
    >>> from utils.report.caption import captioned
    >>> with captioned("mIoU 0.2500 cannot be believed: few steps"):
    ...     overlay_legend([("road", (255, 0, 0))], 200).shape
    (66, 200, 3)
    """
    lines: list[str] = []
    for word in current_caption().split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _text_width(longer) + 8 <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    sheet = np.full((len(lines) * _LINE_HEIGHT, width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        _draw_text(sheet, line, 4, number * _LINE_HEIGHT)
    return np.vstack([draw_legend(entries, width), sheet])


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures of one height next to each other, four pixels apart.

    Examples
    --------
    >>> side_by_side([np.zeros((5, 10, 3), np.uint8), np.zeros((5, 20, 3), np.uint8)]).shape
    (5, 34, 3)
    """
    gap = np.full((panels[0].shape[0], 4, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (panel, gap)][:-1])


def draw_comparison(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    palette: np.ndarray,
    class_names: Sequence[str],
    is_part: bool = False,
) -> np.ndarray:
    """Draw a picture, its truth, its prediction and what is wrong side by side, with titles and a legend.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, C)
        The picture; channels after the third are not shown.
    truth : ndarray of uint8, shape (H, W), or None
        True classes; without them there are two panels instead of four.
    prediction : ndarray of uint8, shape (H, W)
        Predicted classes.
    palette : ndarray of uint8, shape (K, 3)
        Colours of the classes.
    class_names : sequence of str
        Names of the K classes; the legend holds those that occur.
    is_part : bool
        Whether this is a part of a larger picture, so that the share of errors is not that of the picture.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        The sheet. What is wrong is red, or has another colour that no class is like; the legend names it.

    Raises
    ------
    ValueError
        If sizes differ.

    Examples
    --------
    >>> image, classes = np.zeros((100, 200, 3), np.uint8), np.zeros((100, 200), np.uint8)
    >>> draw_comparison(image, classes, classes, class_palette(2), ["field", "road"]).shape  # 22 + 100 + 22 rows
    (144, 812, 3)
    >>> draw_comparison(image, None, classes, class_palette(2), ["field", "road"]).shape
    (144, 404, 3)
    """
    panels = [("image, a part" if is_part else "image", show_colours(image))]
    if truth is not None:
        panels.append(("truth", draw_class_map(image, truth, palette)))
    panels.append(("prediction", draw_class_map(image, prediction, palette)))
    [colour] = mark_colours([WRONG], palette.tolist())
    if truth is not None:
        wrong = (truth != prediction)[truth != IGNORE_INDEX]
        share = f"{100 * wrong.mean():.2f} %" if wrong.size else "-"
        title = f"errors in this part: {share}" if is_part else f"errors: {share}"
        panels.append((title, _draw_errors(image, truth, prediction, colour)))
    sheet = side_by_side([with_title(fit_picture(picture, PANEL_SIZE), title) for title, picture in panels])
    occurring = np.unique(prediction if truth is None else np.concatenate([prediction.ravel(), truth.ravel()]))
    entries = [(class_names[index], palette[index].tolist()) for index in occurring if index < len(class_names)]
    if truth is not None:
        name = mark_name(colour)
        entries.append((f"wrong ({name})" if name else "wrong", list(colour)))
    return np.vstack([sheet, draw_legend(entries, sheet.shape[1])])


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a picture as PNG or JPEG that appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file; its suffix (.png, .jpg, .jpeg) decides the format.
    picture : ndarray of uint8, shape (H, W) or (H, W, 3) or (H, W, 4)
        Grey, or red, green, blue and, in a PNG, opacity.

    Raises
    ------
    ValueError
        If the suffix, type or shape is another.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> save_picture(path, np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    >>> cv2.imread(str(path)).tolist()  # OpenCV reads blue, green, red
    [[[0, 0, 255], [255, 0, 0]]]
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"{path}: expected a name that ends in .png, .jpg or .jpeg")
    channels = 1 if picture.ndim == 2 else picture.shape[-1]
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or channels not in (1, 3, 4) or not picture.size:
        raise ValueError(
            f"{path}: expected uint8 of shape (H, W), (H, W, 3) or (H, W, 4), got {picture.dtype}{picture.shape}"
        )
    if current_caption():
        picture = with_title(show_colours(picture), current_caption())
        channels = 3
    if channels >= 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if channels == 4 else cv2.COLOR_RGB2BGR)
    write_bytes(path, cv2.imencode(suffix, picture)[1].tobytes())


# --- plots -----------------------------------------------------------------------------------------------------------


def _number(value: Any) -> float:
    """A cell of a table as a number; NaN when it is none.

    Examples
    --------
    >>> _number("0.5"), _number(""), _number(None), _number("done")
    (0.5, nan, nan, nan)
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _panel_of(column: str) -> str | None:
    """The panel of the training plot in which a column is drawn; None for times, counters and other scores of classes.

    Examples
    --------
    >>> [_panel_of(column) for column in ("loss/ce", "lr", "lr/muon", "mIoU", "AP50", "IoU/road", "AP/road", "epoch")]
    ['loss', 'learning rate', 'learning rate', 'score', 'score', 'IoU of classes', None, None]
    """
    name = column.lower()
    if name.startswith("loss/") or ("loss" in name and "/" not in name):
        return "loss"
    if name == "lr" or name.startswith(("lr_", "lr/")):
        return "learning rate"
    if name.startswith(("iou/", "iou_")):
        return "IoU of classes"
    known = any(word in name for word in SCORE_WORDS) or re.match(r"a[pr](\d|_|$)", name)
    return "score" if known and "/" not in name else None


def _group_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Values of each column by panel, without columns that hold no number.

    Values have shape (N,), one per row.

    Examples
    --------
    >>> groups = _group_columns([{"epoch": 0, "loss": "0.5"}, {"epoch": 1, "loss": "0.25", "mIoU": ""}])
    >>> {panel: {name: values.tolist() for name, values in columns.items()} for panel, columns in groups.items()}
    {'loss': {'loss': [0.5, 0.25]}}
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for column in dict.fromkeys(name for row in rows for name in row):
        values = np.array([_number(row.get(column)) for row in rows])
        panel = _panel_of(column)
        if panel is not None and np.isfinite(values).any():
            groups.setdefault(panel, {})[column] = values
    return groups


def new_figure(width: float, height: float) -> Figure:
    """A figure that no global list knows, in inches at 100 pixels each.

    Examples
    --------
    >>> new_figure(4, 3).get_size_inches().tolist()
    [4.0, 3.0]
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Render a figure into a file that appears whole or not at all.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> save_figure(new_figure(2, 1), path)
    >>> cv2.imread(str(path)).shape
    (100, 200, 3)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    if current_caption():
        figure.suptitle(current_caption(), fontsize=8, wrap=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _draw_curves(axes: Axes, positions: np.ndarray, curves: Mapping[str, np.ndarray], title: str) -> None:
    """Draw curves of one panel; gaps in a column, such as epochs without validation, are bridged.

    `positions` and each curve have shape (N,).

    Examples
    --------
    >>> axes = new_figure(2, 1).subplots()
    >>> _draw_curves(axes, np.arange(3), {"loss": np.array([1.0, np.nan, 0.5])}, "loss")
    >>> axes.lines[0].get_xdata().tolist(), axes.get_title()
    ([0, 2], 'loss')
    """
    for colour, (name, values) in zip(
        np.resize(class_palette(256), (len(curves), 3)) / 255, curves.items(), strict=True
    ):
        finite = np.isfinite(values) & np.isfinite(positions)
        axes.plot(positions[finite], values[finite], label=name, color=tuple(colour), marker=".", linewidth=1.2)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if title == "learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if 0 < len(curves) <= 20:
        beside = len(curves) > 8  # not upon the curves
        axes.legend(fontsize=7, loc="upper left" if beside else "best", bbox_to_anchor=(1.0, 1.0) if beside else None)


def plot_training(rows: Sequence[Mapping[str, Any]], path: str | Path, scores: Collection[str] = ()) -> None:
    """Plot a training: losses, scores, IoU per class and learning rates, each in a panel of its own.

    Parameters
    ----------
    rows : sequence of mappings
        One per epoch, as in results.csv; cells may be numbers, text or empty.
    path : str or Path
        The picture.
    scores : collection of str
        Columns of the panel of scores; empty for all.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "training.png"
    >>> plot_training([{"epoch": 0, "loss": 0.5, "mIoU": 0.1}, {"epoch": 1, "loss": 0.25, "mIoU": 0.5}], path)
    >>> cv2.imread(str(path)).shape  # two panels
    (350, 1000, 3)
    """
    groups = _group_columns(rows) or {"no epoch yet": {}}
    if scores and "score" in groups:
        groups["score"] = {name: values for name, values in groups["score"].items() if name in scores}
    positions = np.array([_number(row.get("epoch", index)) for index, row in enumerate(rows)])
    figure = new_figure(5 * len(groups), 3.5)
    for axes, (title, curves) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        _draw_curves(axes, positions, curves, title)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def label_cells(axes: Axes, shares: np.ndarray) -> None:
    """Write each share into its cell, light on dark and dark on light.

    `shares` has shape (rows, columns).

    Examples
    --------
    >>> axes = new_figure(2, 2).subplots()
    >>> label_cells(axes, np.array([[1.0, 0.0], [np.nan, np.nan]]))
    >>> [(text.get_text(), text.get_color()) for text in axes.texts]
    [('1.00', 'white'), ('0.00', 'black')]
    """
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)


def plot_confusion(matrix: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Plot a confusion matrix, each row as shares of the true class.

    Parameters
    ----------
    matrix : array or Tensor, shape (K, K)
        Pixels by true class (rows) and predicted class (columns).
    class_names : sequence of str
        Names of the K classes.
    path : str or Path
        The picture. Up to 20 classes have their numbers in the cells.

    Raises
    ------
    ValueError
        If there are not as many names as rows and columns.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "confusion.png"
    >>> plot_confusion(np.array([[3, 1], [0, 4]]), ["field", "road"], path)
    >>> cv2.imread(str(path)).shape[0] > 300
    True
    """
    counts = np.asarray(matrix)
    num_classes = len(class_names)
    if counts.shape != (num_classes, num_classes):
        raise ValueError(f"confusion matrix: expected one row and column per name, {num_classes}, got {counts.shape}")
    side = min(3.0 + 0.45 * num_classes, 30.0)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)  # rows without counts: NaN
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, label="share of the true class")
    axes.set_xticks(range(num_classes), class_names, rotation=90, fontsize=8)
    axes.set_yticks(range(num_classes), class_names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if num_classes <= 20:
        label_cells(axes, shares)
    save_figure(figure, path)
