"""A value scaling estimated from windows of all scenes, and how much of a scene it clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.errors import DataError, SettingsError
from utils.raster.scaling import ValueScaling, value_kind
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

_WINDOWS = 64  # that are read of all scenes
_WINDOW_SIZE = 256  # pixels a side
_CHECK_WINDOWS = 8  # of one scene


def estimate_scaling(
    scenes: Sequence[RasterScene],
    percentiles: Sequence[float] = (1.0, 99.0),
    value_range: Sequence[float] | None = None,
) -> ValueScaling:
    """Find one scaling of values for all scenes, from a bounded number of windows drawn by a fixed seed.

    Parameters
    ----------
    scenes : sequence of RasterScene
        With the same number of channels.
    percentiles : (float, float)
        Shares in percent below which a value becomes 0 and above which 255, per band. Scenes of 8 bits stay as they
        are.
    value_range : (float, float), optional
        Fixed values instead, the same for every band, also for scenes of 8 bits.

    Raises
    ------
    DataError
        If the scenes differ in channels, or no window of them holds anything.
    SettingsError
        If the percentiles or the range make no sense.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.tif", np.arange(-1, 101, dtype=np.int16).reshape(6, 17), nodata=-1)
    >>> estimate_scaling([RasterScene(path)], (10, 90)).to_json()
    {'low': [10.0, 10.0, 10.0], 'high': [90.0, 90.0, 90.0], 'kind': 'integer'}
    """
    counts = {scene.num_bands for scene in scenes}
    if len(counts) != 1:
        found = ", ".join(f"{scene.paths[0]}: {scene.num_bands}" for scene in scenes)
        raise DataError(
            "all scenes must have the same number of bands to share a scaling; "
            f"got {found or 'no scene'}; set dataset.bands"
        )
    num_bands = counts.pop()
    if value_range is not None:
        return ValueScaling((value_range[0],) * num_bands, (value_range[1],) * num_bands)
    if all(scene.dtype == np.uint8 for scene in scenes):
        return ValueScaling.identity(num_bands)
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise SettingsError(f"percentiles: expected two shares with 0 <= low < high <= 100, got {tuple(percentiles)}")
    sample = _sample_values(scenes, np.random.default_rng(0))
    low, high = np.percentile(sample.astype(np.float64), percentiles, axis=0)
    high = np.where(high > low, high, low + np.maximum(1, np.abs(low) * 1e-6))  # a constant band becomes 0
    kinds = {value_kind(scene.dtype) for scene in scenes}
    kind = kinds.pop() if len(kinds) == 1 else None
    return ValueScaling(tuple(low), tuple(high), kind)


def share_outside(scene: RasterScene, scaling: ValueScaling) -> float:
    """Share of a scene's values, in a few windows spread over it, that a scaling would clip to black or white.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.tif", np.int16([[1, 2, 300, 400]]))
    >>> share_outside(RasterScene(path), ValueScaling((0,) * 3, (350,) * 3))
    0.25
    """
    values = sample_scene(scene).astype(np.float64)
    if not len(values):
        return 0.0
    return float(np.mean((values < np.array(scaling.low)) | (values > np.array(scaling.high))))


def sample_scene(scene: RasterScene) -> np.ndarray:
    """Values of valid pixels of a scene, in a few windows spread over it, shape (N, bands).

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> sample_scene(RasterScene(raster_file("a.tif", np.uint8([[0, 7, 9]]), nodata=0)))[:, 0].tolist()
    [7, 9]
    """
    samples = _sample_scene(scene, np.random.default_rng(0), _CHECK_WINDOWS)
    return np.concatenate(samples) if samples else np.zeros((0, scene.num_bands), scene.dtype)


def _sample_values(scenes: Sequence[RasterScene], generator: np.random.Generator) -> np.ndarray:
    """Values of valid pixels, shape (N, bands), from windows spread over all scenes.

    Raises
    ------
    DataError
        If no window that was tried holds anything.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.tif", np.uint8([[0, 7], [8, 0]]), nodata=0)
    >>> sorted(_sample_values([RasterScene(path)], np.random.default_rng(0))[:, 0].tolist())
    [7, 8]
    """
    chosen = generator.permutation(len(scenes))[:_WINDOWS]
    share = max(1, _WINDOWS // len(chosen))
    samples = [values for index in chosen for values in _sample_scene(scenes[index], generator, share)]
    if not samples:
        raise DataError(
            f"{scenes[0].paths[0]}: no valid pixel in up to {4 * share} windows "
            f"in each of {len(chosen)} scenes; check nodata"
        )
    return np.concatenate(samples)


def _sample_scene(scene: RasterScene, generator: np.random.Generator, share: int) -> list[np.ndarray]:
    """Values from up to `share` windows of a scene that hold something; empty ones are replaced up to four times.

    Each has shape (N, bands).

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.tif", np.uint8([[1, 2, 3]]))
    >>> [values.tolist() for values in _sample_scene(RasterScene(path), np.random.default_rng(0), 1)]
    [[[1, 1, 1], [2, 2, 2], [3, 3, 3]]]
    """
    across = -(-scene.width // _WINDOW_SIZE)
    total = across * -(-scene.height // _WINDOW_SIZE)
    tries = generator.permutation(total)[: 4 * share] if total < 10**6 else generator.integers(0, total, 4 * share)
    samples: list[np.ndarray] = []
    for place in tries.tolist():
        y, x = (step * _WINDOW_SIZE for step in divmod(place, across))
        window = Window(y, x, min(_WINDOW_SIZE, scene.height - y), min(_WINDOW_SIZE, scene.width - x))
        values, valid = scene.read_values(window)
        if valid.any():
            samples.append(values[valid])
        if len(samples) == share:
            break
    return samples
