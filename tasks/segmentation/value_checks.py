"""Checks of the bands and values of pictures: against each other, and against those that the model was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.raster.scaling import ValueScaling, value_kind
from utils.raster.scaling_estimate import share_outside
from utils.raster.scenes import RasterScene

logger = logging.getLogger(__name__)

MOST_OUTSIDE = 0.5  # share of values outside those of training above which a picture is of another kind


def refuse_other_bands(scene: RasterScene, scaling: ValueScaling) -> None:
    """Refuse a scene whose number of bands is not that of the scaling of values and of the model.

    Raises
    ------
    DataError
        If the numbers differ.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> scenes = scene_task().source.scenes
    >>> scene = scenes.scene(scenes.labelled()["scene_0"].paths)
    >>> refuse_other_bands(scene, ValueScaling((0,) * 3, (255,) * 3))
    >>> refuse_other_bands(scene, ValueScaling((0,) * 5, (255,) * 5))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...scene_0.tif: 3 bands to read, but the other pictures have 5; ...
    """
    if scene.num_bands != len(scaling.low):
        raise DataError(
            f"{scene.paths[0]}: {scene.num_bands} bands to read, but the other pictures have "
            f"{len(scaling.low)}; choose bands that all of them have in dataset.bands, or name another picture"
        )


def refuse_other_values(scene: RasterScene, scaling: ValueScaling, trained_by: Path) -> None:
    """Refuse a scene with another kind of values than in training, for which the map would be useless.

    If training used 8-bit values as they are, every other type is refused. Otherwise, if most values of a scene
    are outside those of training, it is refused if its kind of values is another one; else a warning is logged.

    Parameters
    ----------
    scene : RasterScene
        A picture to predict.
    scaling : ValueScaling
        That of training.
    trained_by : Path
        The checkpoint with the scaling.

    Raises
    ------
    DataError
        If the values are of another kind.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> scenes = scene_task().source.scenes
    >>> scene = scenes.scene(scenes.labelled()["scene_0"].paths)
    >>> refuse_other_values(scene, ValueScaling((0,) * 3, (255,) * 3, "8-bit"), Path("best.safetensors"))
    >>> scaling = ValueScaling((0,) * 3, (1,) * 3, "float")
    >>> refuse_other_values(scene, scaling, Path("best.safetensors"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...scene_0.tif: holds uint8, and ... lie outside 0 to 1, but the model was ...
    """
    kind = value_kind(scene.dtype)
    trained_kind = "8-bit values as they are" if scaling.kind == "8-bit" else f"{scaling.kind or 'other'} values"
    trained = f"but the model was trained on {trained_kind} ({trained_by})"
    cure = "convert it as the training pictures were, or train on pictures of its kind"
    if scaling.kind == "8-bit" and kind != "8-bit":
        raise DataError(f"{scene.paths[0]}: holds {scene.dtype}, {trained}; {cure}")
    share = 0.0 if scaling.is_identity and kind == "8-bit" else share_outside(scene, scaling)
    if share <= MOST_OUTSIDE:
        return
    span = f"{min(scaling.low):g} to {max(scaling.high):g}"
    far = f"{share:.0%} of its values lie outside {span}"
    text = f"{scene.paths[0]}: holds {scene.dtype}, and {far}, {trained}; {cure}"
    if scaling.kind is not None and kind != scaling.kind:
        raise DataError(text)
    logger.warning(text)


def refuse_mixed_bands(numbers: Mapping[int, Path]) -> None:
    """Refuse pictures with several numbers of bands, each with a picture that has it.

    Raises
    ------
    DataError
        If there is more than one number.

    Examples
    --------
    >>> refuse_mixed_bands({3: Path("a.tif")})
    >>> refuse_mixed_bands({4: Path("b.tif"), 3: Path("a.tif")})
    Traceback (most recent call last):
        ...
    utils.errors.DataError: pictures differ in their bands: a.tif has 3, b.tif has 4; choose bands that all have in ...
    """
    if len(numbers) > 1:
        text = ", ".join(f"{path} has {number}" for number, path in sorted(numbers.items()))
        raise DataError(f"pictures differ in their bands: {text}; choose bands that all have in dataset.bands")


def refuse_mixed_values(kinds: Mapping[str, Path]) -> None:
    """Refuse pictures of several kinds of values: with one scaling for all, those with small values become black.

    Raises
    ------
    DataError
        If there is more than one kind.

    Examples
    --------
    >>> refuse_mixed_values({"8-bit": Path("a.tif")})
    >>> refuse_mixed_values({"8-bit": Path("a.tif"), "integer": Path("b.tif")})
    Traceback (most recent call last):
        ...
    utils.errors.DataError: pictures differ in their values: a.tif has 8-bit, b.tif has integer; one scaling ...
    """
    if len(kinds) > 1:
        text = ", ".join(f"{path} has {kind}" for kind, path in sorted(kinds.items()))
        raise DataError(
            f"pictures differ in their values: {text}; one scaling for all would make the smaller ones black: convert "
            "them to one type, or set dataset.value_range if their values mean the same"
        )


def read_scaling(value: Any, path: Path) -> ValueScaling:
    """Read the scaling of values in a checkpoint.

    Raises
    ------
    DataError
        If it is damaged.

    Examples
    --------
    >>> read_scaling({"low": 3}, Path("best.safetensors"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: best.safetensors: its scaling of values is damaged ({'low': 3}); take another copy
    """
    try:
        return ValueScaling.from_json(value)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: its scaling of values is damaged ({value}); take another copy") from None
