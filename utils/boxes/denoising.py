"""Noisy copies of the objects of a picture, which a decoder learns to put right beside finding them itself."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from utils.boxes.geometry import cxcywh_to_xyxy, xyxy_to_cxcywh

LABEL_NOISE = 0.25  # share of the copies that have a random class
FALSE, FILLER = -1, -2  # what a copy stands for that has no object: it is too far off; it is none


class NoisyObjects(NamedTuple):
    """Copies of the objects of one picture, in groups of as many good ones as bad ones.

    Parameters
    ----------
    classes : Tensor of int64, shape (D,)
        Some of them wrong.
    boxes : Tensor, shape (D, 4)
        Centre and sides, each as a share of the picture.
    objects : Tensor of int64, shape (D,)
        The object that each is to become, or `FALSE`.
    groups : Tensor of int64, shape (D,)
        Copies of one group see each other, from 1.

    Examples
    --------
    >>> NoisyObjects(*[torch.zeros(0)] * 4).classes.shape
    torch.Size([0])
    """

    classes: Tensor
    boxes: Tensor
    objects: Tensor
    groups: Tensor


def num_noisy(num_objects: int, most: int) -> int:
    """How many good copies there are of so many objects.

    Examples
    --------
    >>> [num_noisy(number, most=100) for number in (0, 1, 30, 400)]
    [0, 100, 90, 100]
    """
    return min(num_objects, most) * max(1, most // num_objects) if num_objects else 0


def seed_for(labels: Tensor, boxes: Tensor, number: int) -> int:
    """Seed of the noise of a picture: the same on whatever rank and in whatever batch it comes.

    Parameters
    ----------
    labels : Tensor of int64, shape (G,)
        Classes of the objects.
    boxes : Tensor, shape (G, 4)
        Their boxes.
    number : int
        How many batches came before, so that the noise is another one each time.

    Returns
    -------
    int
        63 bits.

    Examples
    --------
    >>> labels, boxes = torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.25, 0.25]])
    >>> seed_for(labels, boxes, 7) == seed_for(labels.clone(), boxes.clone(), 7) != seed_for(labels, boxes, 8)
    True
    """
    content = labels.cpu().numpy().tobytes() + boxes.cpu().numpy().tobytes() + number.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def add_noise(labels: Tensor, boxes: Tensor, num_classes: int, most: int, number: int) -> NoisyObjects:
    """Copy the objects of a picture, with noise that a decoder can put right, and with noise that it must not.

    Parameters
    ----------
    labels : Tensor of int64, shape (G,)
        Classes of the objects.
    boxes : Tensor, shape (G, 4)
        Centre and sides, each as a share of the picture.
    num_classes : int
        From which a wrong class is drawn.
    most : int
        Good copies at most; of more objects, so many are drawn.
    number : int
        As in `seed_for`.

    Returns
    -------
    NoisyObjects
        Twice as many as `num_noisy` says.

    References
    ----------
    Zhang et al., 2023 (arXiv:2203.03605, DINO), section 3.3, with the noise of transformers' `Deimv2Model`. Departure:
    the number of groups is that of the picture, not that of the fullest picture of the batch.

    Examples
    --------
    >>> noisy = add_noise(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.25, 0.25]]), num_classes=3, most=2, number=0)
    >>> noisy.objects.tolist(), noisy.groups.tolist()
    ([0, -1, 0, -1], [1, 1, 2, 2])
    >>> off = (cxcywh_to_xyxy(noisy.boxes) - torch.tensor([0.375, 0.375, 0.625, 0.625])).abs()
    >>> bool((off[0::2] <= 0.125).all()), bool((off[1::2] >= 0.125 - 1e-6).all())
    (True, True)
    """
    generator = torch.Generator().manual_seed(seed_for(labels, boxes, number))
    chosen = torch.arange(len(labels))
    if len(labels) > most:
        chosen = torch.randperm(len(labels), generator=generator)[:most].sort().values
    size = len(chosen)
    groups = num_noisy(len(labels), most) // max(size, 1)
    rows = chosen.repeat(2 * groups)
    is_false = (torch.arange(2 * groups) % 2).bool().repeat_interleave(size)
    classes = labels.cpu()[rows]
    wrong = torch.rand(len(rows), generator=generator) < LABEL_NOISE
    classes = torch.where(wrong, torch.randint(num_classes, rows.shape, generator=generator), classes)
    centred = boxes.cpu().float()[rows]
    signs = torch.randint(2, centred.shape, generator=generator) * 2.0 - 1.0
    # of half a side: a good copy moves each edge by less than that, a bad one by more
    moved = signs * (torch.rand(centred.shape, generator=generator) + is_false[:, None].float())
    corners = cxcywh_to_xyxy(centred) + moved * centred[:, 2:].repeat(1, 2) / 2
    noisy = xyxy_to_cxcywh(corners.clamp(0, 1))
    number_of_group = torch.arange(groups).repeat_interleave(2 * size) + 1
    parts = classes, noisy, rows.masked_fill(is_false, FALSE), number_of_group
    return NoisyObjects(*(part.to(labels.device) for part in parts))


def fill_up(noisy: NoisyObjects, length: int, no_class: int) -> NoisyObjects:
    """Lengthen the copies of a picture to those of the fullest one of a batch.

    Parameters
    ----------
    noisy : NoisyObjects
        D copies.
    length : int
        At least D.
    no_class : int
        Class of what is added.

    Returns
    -------
    NoisyObjects
        With filler, of group 0, behind.

    Examples
    --------
    >>> noisy = add_noise(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.25, 0.25]]), num_classes=3, most=1, number=0)
    >>> fill_up(noisy, 3, no_class=3).objects.tolist(), fill_up(noisy, 3, no_class=3).groups.tolist()
    ([0, -1, -2], [1, 1, 0])
    """
    more = length - len(noisy.classes)
    return NoisyObjects(
        torch.cat([noisy.classes, noisy.classes.new_full((more,), no_class)]),
        torch.cat([noisy.boxes, noisy.boxes.new_full((more, 4), 0.5)]),
        torch.cat([noisy.objects, noisy.objects.new_full((more,), FILLER)]),
        torch.cat([noisy.groups, noisy.groups.new_zeros(more)]),
    )


def visible_queries(groups: Tensor, num_queries: int) -> Tensor:
    """Say who sees whom: copies their own group and the queries that search, which see each other only.

    Parameters
    ----------
    groups : Tensor of int64, shape (B, D)
        Group of each copy.
    num_queries : int
        Queries behind them, Q.

    Returns
    -------
    Tensor of bool, shape (B, 1, D + Q, D + Q)
        True where a row looks at a column.

    Examples
    --------
    >>> visible_queries(torch.tensor([[1, 2]]), num_queries=1).int().tolist()
    [[[[1, 0, 1], [0, 1, 1], [0, 0, 1]]]]
    """
    searching = groups.new_full((len(groups), num_queries), -1)
    of_query = torch.cat([groups, searching], dim=1)
    rows, columns = of_query[:, :, None], of_query[:, None, :]
    return ((rows == columns) | (columns == -1))[:, None]
