"""Keypoint queries: each looks for its place in the picture, at the others, and draws its own heatmap."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor, nn
from typing_extensions import override

from models.base import AttentionHeads, FeatureSpec, HeadOptions, Layers
from models.keypoint_layers import RARE, FineGridHead, KeypointOptions
from models.layers import ChannelNorm, ResidualUnit
from models.maskformer import Attention, sine_positions
from utils.errors import SettingsError

FEEDFORWARD = 2  # hidden units of the feed-forward part, in widths


class RelationalOptions(KeypointOptions):
    """Settings of the head with keypoint queries.

    Examples
    --------
    >>> RelationalOptions(anchors=[0, 3]).layers
    2
    """

    layers: Layers = Field(2, description="layers of the transformer decoder")
    heads: AttentionHeads = Field(4, description="heads of each attention; divides width")
    anchors: list[NonNegativeInt] = Field([], description="keypoints that tell which way an animal lies, from 0")
    dropout: float = Field(0.1, ge=0, lt=1, description="share dropped on the patch grid and after each attention")

    @model_validator(mode="after")
    def _check_width(self) -> RelationalOptions:
        """Refuse a width that position encodings or attention heads cannot share out.

        Raises
        ------
        ValueError
            If the width is no multiple of 4 and of the heads.

        Examples
        --------
        >>> try:
        ...     RelationalOptions(width=36, heads=8)
        ... except ValueError as error:
        ...     print(error.errors()[0]["msg"])
        Value error, width must be a multiple of 4 and of heads (8), got 36
        """
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of 4 and of heads ({self.heads}), got {self.width}")
        return self


class RelationalLayer(nn.Module):
    """One layer: keypoints look at the picture, at the anchors, at each other, then think.

    Parameters
    ----------
    width, heads : int
        Channels of the queries, attention heads.
    dropout : float
        Share dropped of what each part adds.
    anchors : sequence of int
        Queries that all others look at through a gate, shut at first; none: no such attention.

    References
    ----------
    Pre-norm: Xiong et al., 2020 (arXiv:2002.04745). A gate that starts at zero: Bachlechner et al., 2020
    (arXiv:2003.04887).

    Examples
    --------
    >>> layer = RelationalLayer(8, heads=2, dropout=0.0, anchors=[0])
    >>> layer(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8), torch.zeros(5, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, dropout: float, anchors: list[int]):
        super().__init__()
        self.anchors = anchors
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4 if anchors else 3))
        self.cross_attention = Attention(width, heads)
        self.anchor_attention = Attention(width, heads) if anchors else None
        self.gate = nn.Parameter(torch.zeros(width)) if anchors else None
        self.self_attention = Attention(width, heads)
        self.feedforward = nn.Sequential(
            nn.Linear(width, FEEDFORWARD * width), nn.GELU(), nn.Linear(FEEDFORWARD * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def _attend_to_anchors(self, queries: Tensor) -> Tensor:
        """What the gate lets through of the anchors' answer to queries (B, K, C); zero without anchors.

        Examples
        --------
        >>> layer = RelationalLayer(8, heads=2, dropout=0.0, anchors=[1])
        >>> layer._attend_to_anchors(torch.randn(1, 3, 8)).abs().sum().item()
        0.0
        """
        if self.anchor_attention is None or self.gate is None:
            return torch.zeros_like(queries)
        normed = self.norms[3](queries)
        anchors = normed[:, self.anchors]
        return self.gate.tanh() * self.anchor_attention(normed, anchors, anchors)

    def forward(self, queries: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        """Queries (B, K, C) after looking at the memory (B, N, C), whose cells lie at positions (N, C).

        Examples
        --------
        >>> layer = RelationalLayer(8, heads=2, dropout=0.0, anchors=[])
        >>> layer(torch.zeros(0, 3, 8), torch.zeros(0, 5, 8), torch.zeros(5, 8)).shape
        torch.Size([0, 3, 8])
        """
        seen = self.cross_attention(self.norms[0](queries), memory + positions, memory)
        queries = queries + self.dropout(seen)
        queries = queries + self.dropout(self._attend_to_anchors(queries))
        normed = self.norms[1](queries)
        queries = queries + self.dropout(self.self_attention(normed, normed, normed))
        return queries + self.dropout(self.feedforward(self.norms[2](queries)))


class RelationalHead(FineGridHead):
    """Queries of keypoints read the patch grid and each other; each then draws its heatmap on the fine grid.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_keypoints : int
        Channels of the heatmaps; one query each.
    options : RelationalOptions
        Widths, layers, anchors.

    Raises
    ------
    SettingsError
        If there is no keypoint of an anchor's number, or one is named twice.

    References
    ----------
    Queries that draw masks: Cheng et al., 2021 (arXiv:2107.06278). Departures: one query for each keypoint, which is
    not matched; attention to anchors; a bias for each keypoint.

    Examples
    --------
    >>> spec = FeatureSpec((8,) * 2, (14,) * 2, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> RelationalHead(spec, 5, RelationalOptions(width=16)).num_queries
    5
    >>> RelationalHead(spec, 5, RelationalOptions(anchors=[0, 5]))
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: model.head_options.anchors: expected different keypoints of 0 to 4, got [0, 5]
    """

    Options: ClassVar[type[HeadOptions]] = RelationalOptions
    input_layers: ClassVar[tuple[str, ...]] = ("queries",)
    output_layers: ClassVar[tuple[str, ...]] = ("mask_embedding.2", "scale", "bias")

    def __init__(self, spec: FeatureSpec, num_keypoints: int, options: RelationalOptions):
        super().__init__(spec, num_keypoints, options)
        anchors, width, fine = options.anchors, options.width, self.decoder.widths[-1]
        if len(set(anchors)) < len(anchors) or any(anchor >= num_keypoints for anchor in anchors):
            raise SettingsError(
                f"model.head_options.anchors: expected different keypoints of 0 to {num_keypoints - 1}, got {anchors}"
            )
        self.num_queries = num_keypoints
        self.queries = nn.Parameter(torch.randn(num_keypoints, width))
        self.memory_norm = nn.LayerNorm(width)
        self.summary = nn.Linear(width, width)
        self.layers = nn.ModuleList(
            RelationalLayer(width, options.heads, options.dropout, anchors) for _ in range(options.layers)
        )
        self.query_norm = nn.LayerNorm(width)
        self.mask_embedding = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, fine))
        self.refine = nn.Sequential(ResidualUnit(fine), ChannelNorm(fine))
        self.scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.full((num_keypoints,), RARE).logit())
        last = cast(nn.Linear, self.mask_embedding[-1])
        nn.init.normal_(last.weight, std=0.02)  # all heatmaps start flat, and the bias alone decides
        nn.init.zeros_(last.bias)

    def _read_picture(self, patches: Tensor) -> Tensor:
        """Queries (B, K, C) that have read the patch grid (B, C, rows, columns).

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> RelationalHead(spec, 5, RelationalOptions(width=16))._read_picture(torch.zeros(1, 16, 2, 3)).shape
        torch.Size([1, 5, 16])
        """
        memory = self.memory_norm(patches.flatten(2).transpose(1, 2))
        positions = sine_positions(patches.shape[2], patches.shape[3], patches.shape[1]).to(memory)
        queries = self.queries + self.summary(memory.mean(dim=1, keepdim=True))
        for layer in self.layers:
            queries = layer(queries, memory, positions)
        return self.query_norm(queries)

    @override
    def draw(self, patches: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """``"heatmaps"`` (B, K, h, w): how well each fine cell fits what each query looks for; and what groups them.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = RelationalHead(spec, 5, RelationalOptions(width=16))
        >>> heatmaps = head.draw(torch.zeros(1, 16, 2, 3), torch.zeros(1, 16, 8, 12))["heatmaps"]
        >>> heatmaps.shape, round(heatmaps.sigmoid().mean().item(), 3)
        (torch.Size([1, 5, 8, 12]), 0.01)
        """
        queries = self.mask_embedding(self._read_picture(patches))
        refined = self.refine(fine)
        with torch.autocast(fine.device.type, enabled=False):  # as `FineClassifier`
            queries = queries.float() * self.scale.exp()
            heatmaps = torch.einsum("bqc,bchw->bqhw", queries, refined.float()) + self.bias[:, None, None]
        return {"heatmaps": heatmaps, **super().draw(patches, fine)}
