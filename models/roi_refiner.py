"""A second look at each proposal: samples of the maps around it say where its edges are and what it is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from models.layers import ConvNorm

SAMPLES = 14  # along each side of the region that is looked at
REGION = 1.7  # sides of the region in sides of the proposal
PLACES = 4  # channels that tell each sample where it lies, and how large the proposal is
NARROWEST = 2.0  # cells that a region has per side, at least


class Refined(NamedTuple):
    """What a second look finds.

    Parameters
    ----------
    boxes_xyxy : Tensor, shape (B, R, 4)
        Boxes with their edges moved, in pixels.
    edge_logits : Tensor, shape (B, R, 4, SAMPLES)
        At which sample each edge lies, in the order of the box.
    quality_logits : Tensor, shape (B, R)
        Of the IoU that the box has with its object.
    class_logits : Tensor, shape (B, R, K)
        Of the class of the object.

    Examples
    --------
    >>> Refined(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 14), torch.zeros(1, 2), torch.zeros(1, 2, 3))._fields
    ('boxes_xyxy', 'edge_logits', 'quality_logits', 'class_logits')
    """

    boxes_xyxy: Tensor
    edge_logits: Tensor
    quality_logits: Tensor
    class_logits: Tensor


def sample_places(boxes_xyxy: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """Lay the region of each box: 1.7 times its sides around its centre, two cells at least.

    Parameters
    ----------
    boxes_xyxy : Tensor, shape (..., 4)
        In pixels.
    stride : float
        Pixels per cell of the map.

    Returns
    -------
    start, step : Tensor, shape (..., 2)
        Left upper corner of the region and the distance of its samples, x and y, in pixels: sample i lies at
        `start + (i + 0.5) * step`.

    Examples
    --------
    >>> start, step = sample_places(torch.tensor([10.0, 20, 80, 22]), stride=14)
    >>> start.tolist(), step.tolist()
    ([-14.5, 7.0], [8.5, 2.0])
    """
    sides = (REGION * (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2])).clamp(min=NARROWEST * stride)
    centres = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2
    return centres - sides / 2, sides / SAMPLES


def sampling_weights(start: Tensor, step: Tensor, cells: int, stride: float) -> Tensor:
    """Weights of the cells of a row or column in each sample: linear interpolation, or a mean where samples are wider.

    Parameters
    ----------
    start, step : Tensor, shape (...)
        As `sample_places` gives them, of one axis.
    cells : int
        Of the map along that axis.
    stride : float
        Pixels per cell.

    Returns
    -------
    Tensor, shape (..., SAMPLES, cells)
        Their sum is 1 inside the map, and falls to 0 outside of it.

    Examples
    --------
    >>> weights = sampling_weights(torch.tensor(4.0), torch.tensor(2.0), cells=3, stride=4)
    >>> weights[:3].tolist()
    [[0.25, 0.75, 0.0], [0.0, 0.75, 0.25], [0.0, 0.25, 0.75]]
    """
    samples = torch.arange(SAMPLES, device=start.device) + 0.5
    places = (start[..., None] + samples * step[..., None]) / stride - 0.5  # in cells from the centre of the first
    width = (step / stride).clamp(min=1)[..., None, None]
    distances = (places[..., None] - torch.arange(cells, device=start.device)).abs()
    return (1 - distances / width).clamp(min=0) / width


def sample_regions(feature_map: Tensor, boxes_xyxy: Tensor, stride: float) -> Tensor:
    """Take samples of a map around each box, as matrix products: exact gradients, equal on every device.

    Parameters
    ----------
    feature_map : Tensor, shape (B, C, h, w)
        0 where nothing is, as beyond its edges.
    boxes_xyxy : Tensor, shape (B, R, 4)
        In pixels.
    stride : float
        Pixels per cell.

    Returns
    -------
    Tensor, shape (B * R, C, SAMPLES, SAMPLES)
        Channels last in memory.

    Examples
    --------
    >>> ramp = torch.arange(8.0).expand(1, 1, 6, 8)
    >>> samples = sample_regions(ramp, torch.tensor([[[12.0, 8, 20, 16]]]), stride=4)
    >>> samples.shape, (100 * samples[0, 0, 7, ::13]).round().tolist()
    (torch.Size([1, 1, 14, 14]), [192.0, 508.0])
    """
    batch, number = boxes_xyxy.shape[:2]
    channels, rows, columns = feature_map.shape[1:]
    start, step = sample_places(boxes_xyxy, stride)
    across, down = (
        sampling_weights(start[..., axis], step[..., axis], cells, stride).to(feature_map.dtype)
        for axis, cells in ((0, columns), (1, rows))
    )  # (B, R, SAMPLES, cells)
    cells = feature_map.permute(0, 2, 3, 1).reshape(batch, rows, columns * channels)
    lines = down.reshape(batch, number * SAMPLES, rows) @ cells
    samples = across[:, :, None] @ lines.view(batch, number, SAMPLES, columns, channels)
    return samples.reshape(batch * number, SAMPLES, SAMPLES, channels).permute(0, 3, 1, 2)


class EdgeFinder(nn.Module):
    """Says at which sample of a profile the two edges of a box lie; starts near the edges of the proposal.

    Parameters
    ----------
    channels : int
        Of the profile.

    Examples
    --------
    >>> finder = EdgeFinder(8)
    >>> edges = torch.tensor([[2.5, 10.5]])
    >>> finder(torch.zeros(1, 8, 14), edges).softmax(dim=-1).argmax(dim=-1).tolist()
    [[2, 10]]
    """

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(channels, channels, 3, padding=1), nn.ReLU())
        self.logits = nn.Conv1d(channels, 2, 3, padding=1)
        self.log_spread = nn.Parameter(torch.tensor(0.0))  # of the first guess around the edge, in samples
        nn.init.normal_(self.logits.weight, std=0.01)

    def forward(self, profile: Tensor, edges: Tensor) -> Tensor:
        """Logits (N, 2, SAMPLES) of a profile (N, C, SAMPLES); `edges` (N, 2) are the proposal's, in samples.

        Examples
        --------
        >>> EdgeFinder(8)(torch.zeros(0, 8, 14), torch.zeros(0, 2)).shape
        torch.Size([0, 2, 14])
        """
        samples = torch.arange(SAMPLES, device=edges.device) + 0.5
        guess = -((samples - edges[..., None]) / self.log_spread.exp()).square() / 2
        return self.logits(self.layers(profile)).float() + guess


def edge_loss(edge_logits: Tensor, proposals_xyxy: Tensor, boxes_xyxy: Tensor, stride: float) -> Tensor:
    """Cross-entropy of the sample at which each edge lies; an edge between two samples counts for both.

    Parameters
    ----------
    edge_logits : Tensor, shape (N, 4, SAMPLES)
        Of the second look at proposals.
    proposals_xyxy, boxes_xyxy : Tensor, shape (N, 4)
        The proposals, and the objects that they should become.
    stride : float
        Pixels per cell of the map.

    Returns
    -------
    Tensor, shape (N,)
        Mean over the four edges.

    References
    ----------
    Li et al., 2020 (arXiv:2006.04388), section 3.2.

    Examples
    --------
    >>> logits = torch.full((1, 4, 14), -20.0)
    >>> box, logits[0, :2, 2], logits[0, 2:, 11] = torch.tensor([[0.0, 0, 140, 140]]), 20.0, 20.0
    >>> [edge_loss(logits, box, box + by * torch.tensor([-1.0, -1, 1, 1]), 1.0).round().item() for by in (5.0, -2.0)]
    [4.0, 20.0]
    """
    start, step = sample_places(proposals_xyxy, stride)
    places = (boxes_xyxy - start.repeat(1, 2)) / step.repeat(1, 2) - 0.5  # the first sample is 0
    places = places.clamp(0, SAMPLES - 1)
    lower = places.floor().clamp(max=SAMPLES - 2)
    share = places - lower
    logs = edge_logits.log_softmax(dim=-1)
    below, above = (logs.gather(2, (lower.long() + one)[..., None])[..., 0] for one in (0, 1))
    return -((1 - share) * below + share * above).mean(dim=1)


class RoiRefiner(nn.Module):
    """Three convolutions over the samples of a region; profiles of rows and columns find the edges.

    Parameters
    ----------
    channels : int
        Of the convolutions, and of the map with the `PLACES` channels that are added to its samples.
    num_classes : int
        K.
    stride : float
        Pixels per cell of the map.
    dropout : float
        Of the features that class and quality are told from.

    References
    ----------
    Wang et al., 2020 (arXiv:1912.04260) find edges in profiles of a region; the expectation over samples is that of
    Sun et al., 2018 (arXiv:1711.08229). Departures: the first guess is the proposal, two passes share their weights.

    Examples
    --------
    >>> refiner = RoiRefiner(8, num_classes=3, stride=14.0, dropout=0.0)
    >>> refined = refiner(torch.zeros(1, 4, 6, 6), torch.tensor([[[20.0, 20, 60, 70]]]))
    >>> refined.boxes_xyxy.round().tolist(), refined.class_logits.shape
    ([[[20.0, 20.0, 60.0, 70.0]]], torch.Size([1, 1, 3]))
    """

    def __init__(self, channels: int, num_classes: int, stride: float, dropout: float):
        super().__init__()
        self.stride = stride
        self.convolutions = nn.Sequential(*(ConvNorm(channels, channels) for _ in range(3)))
        self.across, self.down = EdgeFinder(channels), EdgeFinder(channels)
        self.summary = nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Dropout(dropout))
        self.quality, self.classes = nn.Linear(channels, 1), nn.Linear(channels, num_classes)
        nn.init.constant_(self.classes.bias, -math.log(num_classes))  # one of them, or as probably none

    @override
    def forward(self, feature_map: Tensor, boxes_xyxy: Tensor) -> Refined:
        batch, number = boxes_xyxy.shape[:2]
        start, step = (value.flatten(0, 1) for value in sample_places(boxes_xyxy, self.stride))
        corners = boxes_xyxy.reshape(-1, 2, 2)  # the first and the last edge, x and y
        edges = ((corners - start[:, None]) / step[:, None]).transpose(1, 2)  # (N, axis, 2), in samples
        samples = sample_regions(feature_map, boxes_xyxy, self.stride)
        seen = self.convolutions(torch.cat([samples, self._places(corners, start, step)], dim=1))
        logits = torch.stack(
            [self.across(seen.mean(dim=2), edges[:, 0]), self.down(seen.mean(dim=3), edges[:, 1])], dim=1
        )  # (N, axis, 2, SAMPLES)
        expected = logits.softmax(dim=-1) @ (torch.arange(SAMPLES, device=logits.device) + 0.5)
        moved = (start[:, :, None] + expected * step[:, :, None]).transpose(1, 2)  # (N, 2 edges, axis)
        low, high = moved[:, 0], moved[:, 1]
        boxes = torch.cat([torch.minimum(low, high), torch.maximum(low, high)], dim=-1)
        summary = self.summary(torch.cat([seen.mean(dim=(2, 3)), self._core(seen)], dim=1))
        return Refined(
            boxes.view(batch, number, 4),
            logits.transpose(1, 2).reshape(batch, number, 4, SAMPLES),
            self.quality(summary).float().view(batch, number),
            self.classes(summary).float().view(batch, number, self.classes.out_features),
        )

    def _places(self, corners: Tensor, start: Tensor, step: Tensor) -> Tensor:
        """Where the samples lie in halves of the box from its centre, and its sides in cells, as logarithms.

        Gives a tensor of shape (N, PLACES, SAMPLES, SAMPLES).

        Examples
        --------
        >>> box = torch.tensor([[0.0, 0.0, 28.0, 56.0]])
        >>> start, step = sample_places(box, 14.0)
        >>> refiner = RoiRefiner(8, 1, 14.0, 0.0)
        >>> places = refiner._places(box.view(1, 2, 2), start, step)[0, :, 0, 13]
        >>> (100 * places).round().tolist()
        [158.0, -158.0, 69.0, 139.0]
        """
        sides = (corners[:, 1] - corners[:, 0]).clamp(min=1.0)
        samples = torch.arange(SAMPLES, device=step.device) + 0.5 - SAMPLES / 2
        from_centre = (samples[:, None] * (2 * step / sides)[:, None]).clamp(-4, 4)  # (N, SAMPLES, axis)
        shape = (len(corners), SAMPLES, SAMPLES)
        across, down = from_centre[:, None, :, 0].expand(shape), from_centre[:, :, None, 1].expand(shape)
        logs = [each.expand(shape) for each in (sides / self.stride).log()[:, :, None, None].unbind(dim=1)]
        return torch.stack([across, down, *logs], dim=1).contiguous(memory_format=torch.channels_last)

    def _core(self, seen: Tensor) -> Tensor:
        """Mean over the samples within the proposal, (N, C).

        Examples
        --------
        >>> seen = torch.zeros(1, 1, 14, 14)
        >>> seen[..., 3:11, 3:11] = 1
        >>> RoiRefiner(8, 1, 14.0, 0.0)._core(seen).tolist()
        [[1.0]]
        """
        margin = round(SAMPLES * (1 - 1 / REGION) / 2)
        return seen[..., margin:-margin, margin:-margin].mean(dim=(2, 3))
