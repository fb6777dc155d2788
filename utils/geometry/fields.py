"""Kinds of the fields of a sample: what a view, a warp, padding and stacking do to each, written once.

A task declares the kind of every field by its name; a field without a kind is an error, so nothing is guessed from a
shape. In a sample, pictures are (H, W, C); in a batch, (B, C, H, W). Points have their origin at the outer corner of
the first pixel. Padding adds pixels below and to the right, so that no coordinate changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from utils.errors import DataError
from utils.geometry.augment import IDENTITY, View
from utils.geometry.crops import drop_outside, move_boxes, move_keypoints, warp_picture
from utils.geometry.padding import pad_picture
from utils.geometry.warps import transform_vectors, warp_image, warp_labels, warp_valid

Size = tuple[int, int]  # height and width
Memory = Callable[[Sequence[int], torch.dtype], Tensor]
Rows = Tensor | list[Any]  # one field of several samples: stacked where it was read so, else a list


def allocate(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Fresh memory; `RecordReader.memory` gives used memory, which is faster.

    Examples
    --------
    >>> allocate((2, 3), torch.uint8).shape
    torch.Size([2, 3])
    """
    return torch.empty(tuple(shape), dtype=dtype)


# --- kinds -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """Numbers without a place: nothing moves them.

    Parameters
    ----------
    ragged : bool
        Their number differs from sample to sample, so that a batch holds a list of tensors.

    Examples
    --------
    >>> Values().stack([np.array([1, 2]), np.array([3, 4])]).tolist()
    [[1, 2], [3, 4]]
    >>> Values(ragged=True).stack([np.array([1]), np.array([], np.int64)])
    [tensor([1]), tensor([], dtype=torch.int64)]
    """

    ragged: bool = field(default=False, kw_only=True)

    def apply_view(self, value: Any, view: View, size: Size) -> Any:
        """Move the value as its picture of a size is moved by a view.

        Examples
        --------
        >>> Values().apply_view(3, View(True, 0), (2, 3))
        3
        """
        turned = (size[1], size[0]) if view.quarter_turns % 2 else size
        return self.warp(value, view.matrix(size), size, turned)

    def warp(self, value: Any, matrix: np.ndarray, size: Size, output_size: Size) -> Any:
        """Move the value by an affine matrix (3, 3), from points in the input to points in the output.

        Examples
        --------
        >>> Values().warp(3, np.eye(3), (2, 3), (2, 3))
        3
        """
        return value

    def pad(self, value: Any, size: Size, padded: Size) -> Any:
        """Adapt the value to a picture of a size that is padded below and to the right.

        Examples
        --------
        >>> Values().pad(3, (2, 3), (4, 4))
        3
        """
        return value

    def stack(self, values: Rows, memory: Memory = allocate) -> Tensor | list[Tensor]:
        """Put the values of several samples together, in fresh memory unless they are stacked already.

        Examples
        --------
        >>> Values().stack(torch.ones(2, 3)).shape
        torch.Size([2, 3])
        """
        if self.ragged:
            return [torch.as_tensor(value) for value in values]
        if isinstance(values, Tensor):
            return values
        rows = [torch.as_tensor(value) for value in values]
        return torch.stack(rows, out=memory((len(rows), *rows[0].shape), rows[0].dtype))


class Grid(Values):
    """A field with the picture's rows and columns as its first two axes.

    Examples
    --------
    >>> Grid().stack([np.zeros((4, 6, 3))]).shape
    torch.Size([1, 3, 4, 6])
    """

    @override
    def apply_view(self, value: np.ndarray, view: View, size: Size) -> np.ndarray:
        return view.apply(value)

    @override
    def pad(self, value: np.ndarray, size: Size, padded: Size) -> np.ndarray:
        return pad_picture(value, padded)

    @override
    def stack(self, values: Rows, memory: Memory = allocate) -> Tensor | list[Tensor]:
        if values[0].ndim == 2:
            return super().stack(values, memory)
        rows = values.numpy() if isinstance(values, Tensor) else [np.asarray(value) for value in values]
        height, width, channels = rows[0].shape
        dtype = torch.as_tensor(rows[0]).dtype
        planes = memory((len(rows), channels, height, width), dtype)
        for target, source in zip(planes, rows, strict=True):
            if dtype == torch.uint8 and source.size:
                cv2.split(source, list(target.numpy()))  # seven times as fast as a strided copy
            else:
                target.copy_(torch.from_numpy(source).permute(2, 0, 1))
        return planes


@dataclass(frozen=True)
class Image(Grid):
    """A picture (H, W, C), or further channels such as an elevation.

    Parameters
    ----------
    outside : str
        What a warp shows beyond the edges: `mirror` or `black`.

    Examples
    --------
    >>> image, shift = np.array([[[7], [9]]], np.uint8), np.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    >>> [Image(outside).warp(image, shift, (1, 2), (1, 4))[..., 0].tolist() for outside in ("mirror", "black")]
    [[[9, 7, 9, 7]], [[0, 7, 9, 0]]]
    """

    outside: Literal["mirror", "black"] = "mirror"

    @override
    def warp(self, value: np.ndarray, matrix: np.ndarray, size: Size, output_size: Size) -> np.ndarray:
        if self.outside == "mirror":
            return warp_image(value, matrix, output_size)
        return warp_picture(value, matrix, output_size)[0]


@dataclass(frozen=True)
class Mask(Grid):
    """Class indices, instance numbers or validity (H, W): resampled by the nearest pixel, never mixed.

    Parameters
    ----------
    fill : int
        Value beyond the edges; 0 is False in a mask of bool.

    Examples
    --------
    >>> Mask(255).pad(np.array([[1, 2]], np.uint8), (1, 2), (2, 3)).tolist()
    [[1, 2, 255], [255, 255, 255]]
    """

    fill: int = 0

    @override
    def warp(self, value: np.ndarray, matrix: np.ndarray, size: Size, output_size: Size) -> np.ndarray:
        plain = value.view(np.uint8) if value.dtype == bool else value
        return warp_labels(plain, matrix, output_size, self.fill).view(value.dtype)

    @override
    def pad(self, value: np.ndarray, size: Size, padded: Size) -> np.ndarray:
        width = [(0, after - before) for before, after in zip(size, padded, strict=True)]
        return np.pad(value, width, constant_values=self.fill)


@dataclass(frozen=True)
class Vectors(Grid):
    """A flow field (H, W, 2) of x and y: its cells move, and its components turn and stretch with the picture.

    Beyond the edges it is 0, as it is in what padding adds.

    Examples
    --------
    >>> Vectors().apply_view(np.array([[[1.0, 0.0], [2.0, 3.0]]]), View(True, 0), (1, 2)).tolist()
    [[[-2.0, 3.0], [-1.0, 0.0]]]
    """

    @override
    def apply_view(self, value: np.ndarray, view: View, size: Size) -> np.ndarray:
        return view.vectors(view.apply(value))

    @override
    def warp(self, value: np.ndarray, matrix: np.ndarray, size: Size, output_size: Size) -> np.ndarray:
        moved = transform_vectors(warp_image(value, matrix, output_size), matrix).astype(value.dtype)
        moved[~warp_valid(np.ones(size, bool), matrix, output_size)] = 0
        return moved

    @override
    def pad(self, value: np.ndarray, size: Size, padded: Size) -> np.ndarray:
        return np.pad(value, [(0, padded[0] - size[0]), (0, padded[1] - size[1]), (0, 0)])


@dataclass(frozen=True)
class Displacements(Values):
    """Vectors (..., 2) of x and y without a place, such as the movement of a whole picture: they turn and stretch.

    Examples
    --------
    >>> Displacements().apply_view(np.array([3.0, 1.0]), View(False, 1), (2, 5)).tolist()
    [1.0, -3.0]
    """

    @override
    def warp(self, value: np.ndarray, matrix: np.ndarray, size: Size, output_size: Size) -> np.ndarray:
        return transform_vectors(value, matrix).astype(value.dtype)


@dataclass(frozen=True)
class Points(Values):
    """Points (..., K, 2) of x and y, or (..., K, 3) with their visibility or (..., K, 4) and more.

    With a visibility, a point outside the picture becomes a row of zeros, as one that was never labelled; a point at
    exactly the far side is outside. Without one, points outside keep their place.

    Parameters
    ----------
    swap : tuple of int, optional
        Which point each becomes in a mirror, such as a left ear the right one; None where none has a side.

    Examples
    --------
    >>> ears = np.array([[1.0, 1, 2], [3, 1, 1]])
    >>> Points(swap=(1, 0)).apply_view(ears, View(True, 0), (4, 10)).tolist()
    [[7.0, 1.0, 1.0], [9.0, 1.0, 2.0]]
    """

    swap: tuple[int, ...] | None = None
    ragged: bool = field(default=True, kw_only=True)

    @override
    def warp(self, value: np.ndarray, matrix: np.ndarray, size: Size, output_size: Size) -> np.ndarray:
        moved = move_keypoints(value, matrix, self.swap)
        return (moved if value.shape[-1] == 2 else drop_outside(moved, output_size)).astype(value.dtype)


@dataclass(frozen=True)
class Boxes(Values):
    """Boxes (..., 4) as x1, y1, x2, y2, half-open; a turn by other than quarters gives the box around the turned one.

    They are not clipped, and a row of zeros is no box and stays so.

    Examples
    --------
    >>> Boxes().apply_view(np.array([[1.0, 0, 3, 1], [0, 0, 0, 0]]), View(True, 0), (4, 10)).tolist()
    [[7.0, 0.0, 9.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """

    ragged: bool = field(default=True, kw_only=True)

    @override
    def warp(self, value: np.ndarray, matrix: np.ndarray, size: Size, output_size: Size) -> np.ndarray:
        present = value.any(axis=-1, keepdims=True)
        return np.where(present, move_boxes(value, matrix), 0).astype(value.dtype)


@dataclass(frozen=True)
class Transform(Values):
    """An affine matrix (3, 3) from the item's points to the sample's: what moves the sample is put in front of it.

    Examples
    --------
    >>> Transform().apply_view(np.diag([2.0, 2.0, 1.0]), View(True, 0), (4, 10)).tolist()
    [[-2.0, 0.0, 10.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """

    @override
    def warp(self, value: np.ndarray, matrix: np.ndarray, size: Size, output_size: Size) -> np.ndarray:
        return matrix @ value


@dataclass(frozen=True)
class Maps(Values):
    """Feature maps (C, h, w) that are stored for each view: they are never turned, only cropped by whole cells.

    The features of a flipped picture are not its flipped features. In a sample they are tensors, as NumPy has no
    bfloat16.

    Parameters
    ----------
    cell : int
        Pixels per side of the largest cell, so that a picture's sides count as multiples of it.

    Examples
    --------
    >>> maps = torch.arange(6).view(1, 2, 3)
    >>> Maps(4).warp(maps, np.array([[1.0, 0, -4], [0, 1, -4], [0, 0, 1]]), (8, 12), (4, 8)).tolist()
    [[[4, 5]]]
    >>> Maps(4).pad(maps, (7, 12), (9, 12)).tolist()
    [[[0, 1, 2], [3, 4, 5], [0, 1, 2]]]
    """

    cell: int = 1

    @override
    def apply_view(self, value: Tensor, view: View, size: Size) -> Tensor:
        raise ValueError(f"feature maps cannot be laid down as {view.name}; read those that are stored for this view")

    @override
    def warp(self, value: Tensor, matrix: np.ndarray, size: Size, output_size: Size) -> Tensor:
        (left, top), rest = -matrix[:2, 2], [*output_size, *size]
        aligned = all(float(place) % self.cell == 0 for place in (left, top, *rest)) and min(left, top) >= 0
        if not aligned or not np.array_equal(matrix[:2, :2], np.eye(2)):
            raise ValueError(
                f"feature maps are cropped by whole cells of {self.cell} pixels only, got the matrix {matrix.tolist()} "
                f"from {size} to {output_size}; store maps of each variation"
            )
        rows, columns = (self.grid(value, size, part) for part in ((int(top), int(left)), output_size))
        return value[:, rows[0] : rows[0] + columns[0], rows[1] : rows[1] + columns[1]]

    @override
    def pad(self, value: Tensor, size: Size, padded: Size) -> Tensor:
        return pad_picture(value, self.grid(value, size, padded))

    def grid(self, value: Tensor, size: Size, other: Size) -> Size:
        """Rows and columns that maps of a picture of `size` would have for a picture of another size.

        Raises
        ------
        ValueError
            If these are no whole cells.

        Examples
        --------
        >>> Maps(4).grid(torch.zeros(1, 4, 6), (8, 12), (9, 16))
        (6, 8)
        """
        cells = []
        for present, before, after in zip(value.shape[-2:], size, other, strict=True):
            count, rest = divmod(present * math.ceil(after / self.cell), math.ceil(before / self.cell))
            if rest:
                raise ValueError(f"maps of {present} cells for {before} pixels have no whole cells for {after} pixels")
            cells.append(count)
        return cells[0], cells[1]


Fields = Mapping[str, Values]

STANDARD_FIELDS: Fields = {"image": Image(), "label": Mask(255), "valid": Mask(0)}


# --- samples ---------------------------------------------------------------------------------------------------------


def kind_of(fields: Fields, name: str) -> Values:
    """The declared kind of a field.

    Raises
    ------
    ValueError
        If none is declared.

    Examples
    --------
    >>> kind_of(STANDARD_FIELDS, "valid")
    Mask(ragged=False, fill=0)
    >>> kind_of(STANDARD_FIELDS, "boxes_xyxy")
    Traceback (most recent call last):
        ...
    ValueError: field 'boxes_xyxy' has no kind; declared: image, label, valid; add it to the task's `fields`
    """
    if name not in fields:
        declared = ", ".join(fields) or "none"
        raise ValueError(f"field {name!r} has no kind; declared: {declared}; add it to the task's `fields`")
    return fields[name]


def sample_size(fields: Fields, arrays: Mapping[str, Any]) -> Size | None:
    """Height and width of a sample; None where it has no picture, mask or flow field.

    Raises
    ------
    ValueError
        If a field has no kind, or these fields have several sizes.

    Examples
    --------
    >>> sample_size(STANDARD_FIELDS, {"label": np.zeros((4, 6))}), sample_size({"class": Values()}, {"class": 3})
    ((4, 6), None)
    """
    found = {
        name: (value.shape[0], value.shape[1])
        for name, value in arrays.items()
        if isinstance(kind_of(fields, name), Grid)
    }
    if len(set(found.values())) > 1:
        shown = ", ".join(f"{name} {height} x {width}" for name, (height, width) in found.items())
        raise ValueError(f"fields of one sample have several sizes: {shown}")
    return next(iter(found.values()), None)


def apply_view(fields: Fields, arrays: Mapping[str, Any], view: View) -> dict[str, Any]:
    """Flip and turn all fields of a sample together.

    Parameters
    ----------
    fields : mapping of str to Values
        Kind of each field.
    arrays : mapping of str to array
        The sample.
    view : View
        Flip and quarter turns; the identity copies nothing.

    Returns
    -------
    dict of str to array
        The sample in this view.

    Raises
    ------
    ValueError
        If a field has no kind, or the sample no picture to turn about.

    Examples
    --------
    >>> arrays = {"image": np.arange(6).reshape(1, 3, 2), "boxes": np.array([[0, 0, 1, 1]])}
    >>> turned = apply_view({"image": Image(), "boxes": Boxes()}, arrays, View(False, 1))
    >>> turned["image"].shape, turned["boxes"].tolist()
    ((3, 1, 2), [[0, 2, 1, 3]])
    """
    size = sample_size(fields, arrays)
    if view == IDENTITY:
        return dict(arrays)
    if size is None:
        raise ValueError(f"a sample of {', '.join(arrays) or 'no fields'} has no picture that a view could turn")
    return {name: kind_of(fields, name).apply_view(value, view, size) for name, value in arrays.items()}


def warp(fields: Fields, arrays: Mapping[str, Any], matrix: np.ndarray, output_size: Size) -> dict[str, Any]:
    """Move all fields of a sample by one affine matrix.

    Parameters
    ----------
    fields : mapping of str to Values
        Kind of each field.
    arrays : mapping of str to array
        The sample.
    matrix : ndarray, shape (3, 3)
        From points in the input to points in the output.
    output_size : (int, int)
        Height and width of the output.

    Returns
    -------
    dict of str to array
        The sample after the movement.

    Raises
    ------
    ValueError
        If a field has no kind, or the sample no picture that tells its size.

    Examples
    --------
    >>> arrays = {"label": np.array([[1, 2]], np.uint8), "points": np.array([[0.5, 0.5]])}
    >>> fields = {"label": Mask(255), "points": Points()}
    >>> [value.tolist() for value in warp(fields, arrays, np.diag([2.0, 1, 1]), (1, 5)).values()]
    [[[1, 1, 2, 2, 255]], [[1.0, 0.5]]]
    """
    size = sample_size(fields, arrays)
    if size is None:
        raise ValueError(f"a sample of {', '.join(arrays) or 'no fields'} has no picture that could be warped")
    return {name: kind_of(fields, name).warp(value, matrix, size, output_size) for name, value in arrays.items()}


# --- batches ---------------------------------------------------------------------------------------------------------


def split_rows(fields: Fields, rows: Mapping[str, Rows]) -> Iterator[dict[str, Any]]:
    """Give the fields of each sample, without a copy.

    Examples
    --------
    >>> [sample["label"].tolist() for sample in split_rows(STANDARD_FIELDS, {"label": torch.eye(2)[:, None]})]
    [[[1.0, 0.0]], [[0.0, 1.0]]]
    """
    for index in range(len(next(iter(rows.values()), ()))):
        yield {
            name: values[index] if isinstance(kind_of(fields, name), Maps) else np.asarray(values[index])
            for name, values in rows.items()
        }


def merge_rows(samples: Sequence[Mapping[str, Any]]) -> dict[str, Rows]:
    """Undo `split_rows`; nothing is stacked.

    Examples
    --------
    >>> merge_rows([{"class": 1}, {"class": 2}])
    {'class': [1, 2]}
    """
    return {name: [sample[name] for sample in samples] for name in samples[0]}


def collate(
    fields: Fields, rows: Mapping[str, Rows], padded: Size | None = None, memory: Memory = allocate
) -> tuple[dict[str, Any], list[Size] | None]:
    """Put samples together: pictures of several sizes are padded, ragged fields become lists.

    Parameters
    ----------
    fields : mapping of str to Values
        Kind of each field.
    rows : mapping of str to Tensor or list
        Each field of all samples; a tensor is used as it is where nothing must be padded or reordered.
    padded : (int, int), optional
        Height and width of the batch; the largest of its samples when None.
    memory : callable
        Gives a tensor of a shape and type for the results.

    Returns
    -------
    arrays : dict of str to Tensor or list of Tensor
        Pictures (B, C, H, W), masks (B, H, W); with `valid`, False in what was added, where something was padded.
    sizes : list of (int, int), or None
        Height and width of each sample where something was padded.

    Raises
    ------
    DataError
        If a field that is not ragged has several shapes.

    Examples
    --------
    >>> labels = [np.ones((1, 3), np.uint8), np.ones((2, 2), np.uint8)]
    >>> arrays, sizes = collate(STANDARD_FIELDS, {"label": labels})
    >>> arrays["label"].tolist(), arrays["valid"].sum().item(), sizes
    ([[[1, 1, 1], [255, 255, 255]], [[1, 1, 255], [1, 1, 255]]], 7, [(1, 3), (2, 2)])
    """
    found = [sample_size(fields, sample) for sample in split_rows(fields, rows)]
    sizes = [size for size in found if size is not None]
    if sizes and (len(set(sizes)) > 1 or padded not in (None, sizes[0])):
        target = padded or (max(size[0] for size in sizes), max(size[1] for size in sizes))
        valid = [np.ones(size, bool) for size in sizes]
        fields, rows = {"valid": Mask(0), **fields}, {"valid": valid, **rows}
        rows = {
            name: [kind_of(fields, name).pad(value, size, target) for value, size in zip(values, sizes, strict=True)]
            for name, values in merge_rows(list(split_rows(fields, rows))).items()
        }
    else:
        sizes = []
    arrays = {}
    for name, values in rows.items():
        kind = kind_of(fields, name)
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1 and not kind.ragged:
            shown = " and ".join(str(shape) for shape in sorted(shapes)[:2])
            raise DataError(f"field {name!r}: samples of shapes {shown} cannot be stacked; declare it ragged")
        arrays[name] = kind.stack(values, memory)
    return arrays, sizes or None


def padded_maps(
    compute: Callable[[Tensor], list[Tensor]], images: Tensor, sizes: Sequence[Size], cell: int
) -> list[Tensor]:
    """Compute the feature maps of padded pictures as those of the pictures without padding, and pad the maps.

    What was added to a picture never reaches the backbone, so that these maps equal stored ones.

    Parameters
    ----------
    compute : callable
        Maps pictures (B, C, H, W) of one size to feature maps (B, C, h, w).
    images : Tensor, shape (B, C, H, W)
        Padded below and to the right.
    sizes : sequence of (int, int)
        Height and width of each before.
    cell : int
        As in `Maps`.

    Returns
    -------
    list of Tensor, shape (B, C, h, w)
        On the grid of the padded pictures.

    Examples
    --------
    >>> images = torch.arange(12.0).view(2, 1, 1, 6)
    >>> [maps] = padded_maps(lambda pictures: [pictures[..., ::2]], images, [(1, 6), (1, 4)], cell=2)
    >>> maps[:, 0, 0].tolist()
    [[0.0, 2.0, 4.0], [6.0, 8.0, 6.0]]
    """
    kind, padded = Maps(cell=cell), (images.shape[-2], images.shape[-1])
    order, parts = [], []
    for size in dict.fromkeys(sizes):
        members = [index for index, other in enumerate(sizes) if other == size]
        maps = compute(images[members, :, : size[0], : size[1]])
        parts.append([kind.pad(feature_map, size, padded) for feature_map in maps])
        order += members
    back = torch.tensor(order, device=parts[0][0].device).argsort()
    return [torch.cat(level)[back] for level in zip(*parts, strict=True)]
