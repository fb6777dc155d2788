"""Fill that no file declares: areas of one value outside the scene, or a value far from all data such as -9999."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.raster.scaling import value_kind
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

_WHOLE_SIDE = 1024  # pixels; a larger scene is looked at in windows
_WINDOWS_ACROSS = 12
_WINDOW_SIDE = 80
_LEAST_SHARE = 0.005  # of the pixels looked at, for an area of one value
_LEAST_FAR_SHARE = 0.0005  # for a value far from all others
_SOLID = 0.8  # share of an area's pixels of which at least three neighbours are in it, as in a collar of two pixels
_MOST_FILL = 0.95  # more is the content of a scene
_SHOWN = 3


@dataclass(frozen=True)
class Fill:
    """A value that fills areas of a scene and is not declared as nodata.

    Parameters
    ----------
    value : float
        As the file holds it, in all bands.
    share : float
        Of the pixels, estimated where a scene is looked at in windows.
    reaches_border : bool
        Whether the areas reach the border of the scene.
    data : (float, float) or None
        The smallest and largest other value; None when there is none.

    Examples
    --------
    >>> print(Fill(255.0, 0.3146, True, (0.0, 254.0)))
    31 % of the pixels are exactly 255 in all bands and reach the border
    >>> print(Fill(-9999.0, 0.002, False, (3.0, 812.0)))
    0.2 % of the pixels are exactly -9999 in all bands, all others 3 to 812
    """

    value: float
    share: float
    reaches_border: bool
    data: tuple[float, float] | None

    def to_json(self) -> list:
        """The fill as plain values.

        Examples
        --------
        >>> Fill(0.0, 0.5, True, (1.0, 9.0)).to_json()
        [0.0, 0.5, True, [1.0, 9.0]]
        """
        return [self.value, self.share, self.reaches_border, None if self.data is None else list(self.data)]

    @classmethod
    def from_json(cls, value: Sequence) -> Fill:
        """The fill that `to_json` gave.

        Examples
        --------
        >>> Fill.from_json([0.0, 0.5, True, [1.0, 9.0]])
        Fill(value=0.0, share=0.5, reaches_border=True, data=(1.0, 9.0))
        """
        number, share, reaches_border, data = value
        return cls(number, share, reaches_border, None if data is None else (data[0], data[1]))

    def __str__(self) -> str:
        where = " and reach the border" if self.reaches_border else ""
        others = f", all others {self.data[0]:g} to {self.data[1]:g}" if self.data and not self.reaches_border else ""
        percent = float(f"{100 * self.share:.2g}")
        return f"{percent:g} % of the pixels are exactly {self.value:g} in all bands{where}{others}"


def find_fill(scene: RasterScene) -> list[Fill]:
    """Look for undeclared fill in a scene: whole where it is small, in windows spread over it where it is large.

    Fill is the smallest or the largest value of the scene, in all bands at once, in solid areas. In 8-bit pictures the
    areas reach the border, as black and white also occur inside pictures. A value further from all others than these
    spread is fill wherever it is.

    Parameters
    ----------
    scene : RasterScene
        Looked at before its `scale`; its declared nodata and its `nodata` are left out.

    Returns
    -------
    list of Fill
        None, one or two; none of a scene that cannot be read, which is reported by whoever reads it all.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> pixels = np.random.default_rng(0).integers(90, 250, (40, 60, 3), dtype=np.uint8)
    >>> pixels[:, 45:] = 255
    >>> [str(fill) for fill in find_fill(RasterScene(raster_file("a.tif", pixels)))]
    ['25 % of the pixels are exactly 255 in all bands and reach the border']
    >>> find_fill(RasterScene(raster_file("a.tif", pixels, nodata=255)))
    []
    """
    bands = sorted({channel: index for index, channel in enumerate(scene.channels)}.values())
    size = (scene.file_grid.height, scene.file_grid.width)
    try:
        parts = [(window, *_read(scene, window, bands)) for window in _windows(*size)]
    except DataError:
        return []
    seen = [values[:, valid] for _, values, valid in parts if valid.any()]
    if not seen:
        return []
    extremes = {float(min(part.min() for part in seen)), float(max(part.max() for part in seen))}
    found = (_measure(value, parts, size, value_kind(scene.dtype)) for value in sorted(extremes))
    return [fill for fill in found if fill is not None]


def _read(scene: RasterScene, window: Window, bands: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Values (C, h, w) of some channels, and the valid pixels (h, w) that are numbers in all of them.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> scene = RasterScene(raster_file("a.tif", np.float32([[1, np.nan, 3]])))
    >>> [part.tolist() for part in _read(scene, Window(0, 0, 1, 3), [0])]
    [[[[1.0, 0.0, 3.0]]], [[True, False, True]]]
    """
    values, valid = scene.read_file_values(window)
    return values[list(bands)], valid & np.isfinite(values).all(axis=0)


def _windows(height: int, width: int) -> Iterator[Window]:
    """The whole of a small scene, or windows spread evenly over a large one, its border included.

    Examples
    --------
    >>> list(_windows(40, 60))
    [Window(y=0, x=0, height=40, width=60)]
    >>> windows = list(_windows(5000, 3000))
    >>> len(windows), windows[0], windows[-1]
    (144, Window(y=0, x=0, height=80, width=80), Window(y=4920, x=2920, height=80, width=80))
    """
    if height * width <= _WHOLE_SIDE**2:
        yield Window(0, 0, height, width)
        return
    sides = [min(_WINDOW_SIDE, size) for size in (height, width)]
    rows, columns = (
        np.unique(np.linspace(0, size - side, _WINDOWS_ACROSS).round().astype(int))
        for size, side in zip((height, width), sides, strict=True)
    )
    yield from (Window(int(y), int(x), *sides) for y in rows for x in columns)


def _measure(
    value: float, parts: Sequence[tuple[Window, np.ndarray, np.ndarray]], size: tuple[int, int], kind: str
) -> Fill | None:
    """Measure the areas of a value in windows, their values (C, h, w) and valid pixels (h, w); None for no fill.

    Examples
    --------
    >>> values = np.float32([[[0, 0, 7, 9], [0, 0, 8, 6]]])
    >>> part = (Window(0, 0, 2, 4), values, np.ones((2, 4), bool))
    >>> _measure(0.0, [part], (2, 4), "float").share
    0.5
    >>> _measure(9.0, [part], (2, 4), "float") is None
    True
    """
    height, width = size
    count = inside = on_border = 0
    hits = total = 0.0
    others = []
    for window, values, valid in parts:
        same = (values == value).all(axis=0) & valid
        around = np.pad(same, 1, mode="edge")
        neighbours = np.stack([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
        inner = same & (neighbours.sum(axis=0) >= 3)
        border = np.zeros_like(same)
        border[0], border[-1] = window.y == 0, window.rows.stop == height
        border[:, 0] |= window.x == 0
        border[:, -1] |= window.columns.stop == width
        # a window at the border stands for half as much ground along that side as one inside
        weight = 0.5 ** (int(border[[0, -1]].all(axis=1).any()) + int(border[:, [0, -1]].all(axis=0).any()))
        hits, total = hits + weight * same.sum(), total + weight * same.size
        count, inside = count + int(same.sum()), inside + int(inner.sum())
        on_border += int((same & border).sum())
        others.append(values[:, valid & ~same].ravel())
    data = np.concatenate(others).astype(np.float64)
    share = float(hits / total)
    solid = count > 0 and inside >= _SOLID * count
    area = share >= _LEAST_SHARE and solid and (on_border > 0 or kind != "8-bit")
    far = share >= _LEAST_FAR_SHARE and kind != "8-bit" and data.size > 0 and _is_far(value, data)
    span = (float(data.min()), float(data.max())) if data.size else None
    return Fill(value, share, on_border > 0, span) if area or far else None


def _is_far(value: float, data: np.ndarray) -> bool:
    """Whether a value lies further from all data, shape (N,), than the data spread.

    Examples
    --------
    >>> _is_far(-9999, np.arange(0.0, 3000)), _is_far(-1, np.arange(0.0, 3000))
    (True, False)
    """
    low, high = np.percentile(data, (1, 99))
    return bool(np.abs(data - value).min() > max(high - low, 0))


def nodata_values(setting: float | Sequence[float] | None) -> tuple[float, ...]:
    """The values of `dataset.nodata`: one, several or none.

    Examples
    --------
    >>> nodata_values(None), nodata_values(255), nodata_values([0, 255])
    ((), (255,), (0, 255))
    """
    if setting is None:
        return ()
    return (setting,) if isinstance(setting, int | float) else tuple(setting)


def values_to_leave_out(fills: Sequence[Fill]) -> tuple[float, ...]:
    """The values of fill that must not decide a scaling of values; none where little else is left.

    Examples
    --------
    >>> values_to_leave_out([Fill(-9999.0, 0.3, True, (0.0, 9.0))])
    (-9999.0,)
    >>> values_to_leave_out([Fill(0.0, 0.5, True, (1.0, 1.0)), Fill(1.0, 0.5, True, (0.0, 0.0))])
    ()
    """
    return tuple(fill.value for fill in fills) if sum(fill.share for fill in fills) < _MOST_FILL else ()


def describe_fill(found: Mapping[str, Sequence[Fill]] | Mapping[Path, Sequence[Fill]], consequence: str) -> str:
    """Report fill for the log, with up to three scenes by name; empty where there is none.

    Parameters
    ----------
    found : dict of str or Path to list of Fill
        Scenes and their fill.
    consequence : str
        What becomes of the pixels.

    Examples
    --------
    >>> fill = Fill(255.0, 0.3146, True, (0.0, 254.0))
    >>> print(describe_fill({"B04.tif": [fill], "B05.tif": []}, "they are predicted as a class"))
    B04.tif: 31 % of the pixels are exactly 255 in all bands and reach the border, which no file declares as nodata; \
they are predicted as a class; if they hold nothing, set dataset.nodata: 255, and if they are data, dataset.nodata: []
    >>> describe_fill({f"{name}.tif": [fill] for name in "abcde"}, "they are data").split(": ")[0]
    '5 pictures, such as a.tif'
    """
    named = {name: fills for name, fills in found.items() if fills}
    if not named:
        return ""
    values = sorted({fill.value for fills in named.values() for fill in fills})
    shown = [f"{name}: {' and '.join(map(str, fills))}" for name, fills in list(named.items())[:_SHOWN]]
    setting = f"{values[0]:g}" if len(values) == 1 else f"[{', '.join(f'{value:g}' for value in values[:8])}]"
    lead = f"{len(named)} pictures, such as " if len(named) > _SHOWN else ""
    return (
        f"{lead}{'; '.join(shown)}, which no file declares as nodata; {consequence}; if they hold nothing, set "
        f"dataset.nodata: {setting}, and if they are data, dataset.nodata: []"
    )
