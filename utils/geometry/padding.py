"""The one way in which a picture is continued below and to the right of its edges: by reflection.

Reflection without a repeated edge is the rule that stored features were computed under, so records of earlier versions
stay valid. Backbones look at what lies beyond an edge, and a reflection looks like more of the same to them.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from utils.geometry.resampling import reflect_index

Array = TypeVar("Array", np.ndarray, Tensor)


def pad_picture(picture: Array, size: tuple[int, int]) -> Array:
    """Continue a picture below and to the right by reflection, up to a size.

    Parameters
    ----------
    picture : ndarray of shape (H, W) or (H, W, C), or Tensor of shape (..., H, W)
        A picture or a feature map.
    size : (int, int)
        Height and width wanted, at least those of the picture.

    Returns
    -------
    ndarray or Tensor
        The picture itself where it has this size.

    Raises
    ------
    ValueError
        If the picture is larger than `size`.

    Examples
    --------
    >>> pad_picture(np.array([[1, 2, 3]]), (2, 5)).tolist()
    [[1, 2, 3, 2, 1], [1, 2, 3, 2, 1]]
    >>> pad_picture(torch.tensor([[[1], [2]]]), (4, 1)).tolist()
    [[[1], [2], [1], [2]]]
    """
    first = picture.ndim - 2 if isinstance(picture, Tensor) else 0
    for axis, length in enumerate(size, start=first):
        present = picture.shape[axis]
        if present > length:
            raise ValueError(f"a picture of {tuple(picture.shape[first : first + 2])} cannot be padded to {size}")
        if present == length:
            continue
        reflected = reflect_index(0, length, present)
        if isinstance(picture, Tensor):
            picture = picture.index_select(axis, torch.from_numpy(reflected).to(picture.device))
        else:
            picture = picture.take(reflected, axis=axis)
    return picture
