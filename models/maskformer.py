"""Mask classification: a transformer decoder whose queries each name a class and draw a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.base import AttentionHeads, FeatureSpec, HeadOptions, HiddenUnits, Layers, Queries, SegmentationHead, Width
from models.layers import FusionPyramid, Projections, ResidualUnit, halving_widths

MIN_PROBABILITY = 1e-6  # floor of the semantic map, so that its log and the log's gradient stay finite


class MaskFormerOptions(HeadOptions):
    """Settings of the mask classification head.

    Examples
    --------
    >>> MaskFormerOptions(queries_per_class=True, width=64).width
    64
    """

    width: Width = Field(128, description="channels of the transformer and of the patch grid")
    narrowest: Width = Field(32, description="channels on the fine grid, where masks are drawn, at least")
    detail_width: Width = Field(32, description="channels of the raw picture's detail on the fine grid")
    num_queries: Queries = Field(30, description="masks that are proposed for a picture")
    queries_per_class: bool = Field(False, description="one query for each class in place of `num_queries` free ones")
    layers: Layers = Field(3, description="layers of the transformer decoder")
    attention_heads: AttentionHeads = Field(4, description="heads of each attention")
    feedforward: HiddenUnits = Field(512, description="hidden units of each feed-forward part")
    masked_attention: bool = Field(True, description="a query looks only where its last mask is, as Mask2Former's do")

    @model_validator(mode="after")
    def _check_width(self) -> MaskFormerOptions:
        """Refuse a width that position encodings or attention heads cannot share out.

        Raises
        ------
        ValueError
            If the width is no multiple of 4 and of the attention heads.

        Examples
        --------
        >>> try:
        ...     MaskFormerOptions(width=36, attention_heads=8)
        ... except ValueError as error:
        ...     print(error.errors()[0]["msg"])
        Value error, width must be a multiple of 4 and of attention_heads (8), got 36
        """
        if self.width % 4 or self.width % self.attention_heads:
            raise ValueError(
                f"width must be a multiple of 4 and of attention_heads ({self.attention_heads}), got {self.width}"
            )
        return self


def sine_positions(rows: int, columns: int, channels: int) -> Tensor:
    """Encode the place of each cell by sines and cosines of its centre, relative to the size of the grid.

    Parameters
    ----------
    rows, columns : int
        Size of the grid.
    channels : int
        A multiple of 4: half for the row, half for the column.

    Returns
    -------
    Tensor, shape (rows * columns, channels)
        Encodings in row-major order.

    References
    ----------
    Carion et al., 2020 (arXiv:2005.12872), with positions normalised to 2 pi.

    Examples
    --------
    >>> positions = sine_positions(1, 2, channels=4)  # sine and cosine of the row, then of the column
    >>> positions.round(decimals=3).abs().tolist()
    [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """
    frequencies = 10000 ** (-torch.arange(channels // 4) / max(channels // 4, 1))
    encoded = []
    for length in (rows, columns):
        angles = (torch.arange(length) + 0.5)[:, None] / length * 2 * math.pi * frequencies
        encoded.append(torch.cat([angles.sin(), angles.cos()], dim=1))
    by_row = encoded[0][:, None].expand(rows, columns, -1)
    by_column = encoded[1][None].expand(rows, columns, -1)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)


class Attention(nn.Module):
    """Multi-head attention with its four matrices apart, as a matrix optimiser wants them.

    Parameters
    ----------
    width : int
        Channels of tokens.
    heads : int
        Divides `width`.

    References
    ----------
    Vaswani et al., 2017 (arXiv:1706.03762), section 3.2.

    Examples
    --------
    >>> Attention(8, heads=2)(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8), torch.zeros(1, 5, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def _split(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) as (B, heads, N, C / heads).

        Examples
        --------
        >>> Attention(8, heads=2)._split(torch.zeros(0, 3, 8)).shape
        torch.Size([0, 2, 3, 4])
        """
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:
        """What each query (B, Q, C) gathers from the tokens (B, N, C), where `allowed` (B, 1, Q, N) lets it look.

        Examples
        --------
        >>> attention = Attention(4, heads=1)
        >>> tokens, allowed = torch.randn(1, 2, 4), torch.tensor([[[[True, False]]]])
        >>> seen = attention(torch.randn(1, 1, 4), tokens, tokens, allowed)
        >>> torch.allclose(seen[:, 0], attention.out(attention.value(tokens[:, 0])), atol=1e-6)
        True
        """
        query, key, value = (
            self._split(self.query(queries)),
            self._split(self.key(keys)),
            self._split(self.value(values)),
        )
        gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.out(gathered.transpose(1, 2).flatten(2))


class QueryLayer(nn.Module):
    """One layer of the decoder: queries look at the picture, then at each other, then think.

    Parameters
    ----------
    width, heads, feedforward : int
        Channels, attention heads, hidden units of the feed-forward part.

    References
    ----------
    Cheng et al., 2022 (arXiv:2112.01527), section 3.2.1 and its order of attentions; pre-norm here (Xiong et al., 2020,
    arXiv:2002.04745), which needs no warm-up to be stable.

    Examples
    --------
    >>> layer = QueryLayer(8, heads=2, feedforward=16)
    >>> layer(torch.zeros(1, 3, 8), torch.zeros(3, 8), torch.zeros(1, 5, 8), torch.zeros(5, 8), None).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, feedforward: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.cross_attention = Attention(width, heads)
        self.self_attention = Attention(width, heads)
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward), nn.GELU(), nn.Linear(feedforward, width))

    def forward(
        self, queries: Tensor, query_positions: Tensor, memory: Tensor, positions: Tensor, allowed: Tensor | None
    ) -> Tensor:
        """Queries (B, Q, C) after looking at the memory (B, N, C), where `allowed` (B, 1, Q, N) lets them.

        Examples
        --------
        >>> layer = QueryLayer(8, heads=2, feedforward=16)
        >>> layer(torch.zeros(0, 3, 8), torch.zeros(3, 8), torch.zeros(0, 5, 8), torch.zeros(5, 8), None).shape
        torch.Size([0, 3, 8])
        """
        placed = self.norms[0](queries) + query_positions
        queries = queries + self.cross_attention(placed, memory + positions, memory, allowed)
        normed = self.norms[1](queries)
        placed = normed + query_positions
        queries = queries + self.self_attention(placed, placed, normed)
        return queries + self.feedforward(self.norms[2](queries))


def semantic_logits(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Log of the semantic map: every query votes for its class where its mask is.

    Parameters
    ----------
    class_logits : Tensor, shape (B, Q, K + 1)
        The last class means "no object" and has no vote.
    mask_logits : Tensor, shape (B, Q, h, w)
        Before the sigmoid.

    Returns
    -------
    Tensor, shape (B, K, h, w)
        Logarithms of probabilities that sum to 1 over the classes.

    References
    ----------
    Cheng et al., 2021 (arXiv:2107.06278), section 3.4, semantic inference, clamped and normalised.

    Examples
    --------
    >>> sure = torch.tensor([[[50.0, 0.0, 0.0], [0.0, 50.0, 0.0]]])  # one query for each of two classes
    >>> masks = torch.tensor([[[[50.0, 0.0]], [[-50.0, 0.0]]]])
    >>> semantic_logits(sure, masks).exp().round(decimals=3).tolist()
    [[[[1.0, 0.5]], [[0.0, 0.5]]]]
    """
    with torch.autocast(mask_logits.device.type, enabled=False):  # small probabilities need the digits of float32
        votes = class_logits.float().softmax(dim=-1)[..., :-1]
        semantic = torch.einsum("bqk,bqhw->bkhw", votes, mask_logits.float().sigmoid()).clamp(min=MIN_PROBABILITY)
        return (semantic / semantic.sum(dim=1, keepdim=True)).log()


class MaskFormerHead(SegmentationHead):
    """A pixel decoder draws an embedding for each fine cell; queries that read the patch grid draw masks with it.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Classes; the queries may also answer "no object".
    options : MaskFormerOptions
        Widths, queries, layers.

    References
    ----------
    Cheng et al., 2021 (arXiv:2107.06278) and 2022 (arXiv:2112.01527: masked attention, supervision of the queries
    before each layer). Departure: all layers read the patch grid, for a plain transformer has no other scale.

    Examples
    --------
    >>> spec = FeatureSpec((8,) * 2, (14,) * 2, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> MaskFormerHead(spec, 5, MaskFormerOptions(width=16, queries_per_class=True)).num_queries
    5
    """

    Options: ClassVar[type[HeadOptions]] = MaskFormerOptions
    needs_image: ClassVar[bool] = True
    input_layers: ClassVar[tuple[str, ...]] = ("pyramid.detail.stem", "queries", "query_positions")
    output_layers: ClassVar[tuple[str, ...]] = ("classifier", "mask_embedding.4")

    def __init__(self, spec: FeatureSpec, num_classes: int, options: MaskFormerOptions):
        super().__init__(spec, num_classes, options)
        width = options.width
        widths = halving_widths(width, options.narrowest, len(spec.levels))
        self.num_queries = num_classes if options.queries_per_class else options.num_queries
        self.masked_attention = options.masked_attention
        self.pyramid = FusionPyramid(spec, widths, options.detail_width)
        self.memory = Projections(spec.channels, width)
        self.memory_unit = ResidualUnit(width)
        self.memory_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(self.num_queries, width))
        self.query_positions = nn.Parameter(torch.randn(self.num_queries, width))
        self.layers = nn.ModuleList(
            QueryLayer(width, options.attention_heads, options.feedforward) for _ in range(options.layers)
        )
        self.query_norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes + 1)
        self.mask_embedding = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, widths[-1])
        )
        for layer in (self.classifier, cast(nn.Linear, self.mask_embedding[-1])):
            nn.init.normal_(layer.weight, std=0.02)  # masks and classes start near one half, and the first steps choose
            nn.init.zeros_(layer.bias)

    def _predict(self, queries: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, Q, K + 1) and mask logits (B, Q, h, w) of queries (B, Q, C) over pixels (B, c, h, w).

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = MaskFormerHead(spec, 2, MaskFormerOptions(width=16))
        >>> [tuple(part.shape) for part in head._predict(torch.zeros(1, 5, 16), torch.zeros(1, 16, 2, 3))]
        [(1, 5, 3), (1, 5, 2, 3)]
        """
        queries = self.query_norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embedding(queries), pixels)
        return self.classifier(queries).float(), masks.float()

    def _attention_mask(self, mask_logits: Tensor) -> Tensor | None:
        """Patches (B, 1, Q, N) where a query's mask is, or all of them for a query whose mask is empty.

        Examples
        --------
        >>> head = MaskFormerHead(FeatureSpec((8,), (2,), 2, 3, (0.5,) * 3, (0.5,) * 3), 2, MaskFormerOptions(width=16))
        >>> head._attention_mask(torch.tensor([[[[1.0, -1.0]], [[-1.0, -2.0]]]])).tolist()
        [[[[True, False], [True, True]]]]
        """
        if not self.masked_attention:
            return None
        inside = F.avg_pool2d(mask_logits.detach(), self.spec.fine_cells).flatten(2) > 0
        return (inside | ~inside.any(dim=-1, keepdim=True))[:, None]

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None = None) -> dict[str, Tensor]:
        """Classes and masks of the queries, and the semantic map that they vote for.

        Parameters
        ----------
        feature_maps : sequence of Tensor, shape (B, C_i, h_i, w_i)
            One map per chosen block.
        image : Tensor, shape (B, 3 + E, H, W)
            Values of 0..255.

        Returns
        -------
        dict of Tensor
            ``"logits"`` (B, K, h, w), the log of the semantic map; ``"class_logits"`` (B, Q, K + 1); ``"mask_logits"``
            (B, Q, h, w). While training also ``"aux_class_logits"`` (L, B, Q, K + 1) and ``"aux_mask_logits"``
            (L, B, Q, h, w), the predictions before each of the L layers.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> head = MaskFormerHead(spec, 2, MaskFormerOptions(width=16, num_queries=5, layers=1))
        >>> output = head([torch.zeros(1, 8, 1, 2)], torch.zeros(1, 3, 14, 20))
        >>> output["logits"].shape, output["aux_mask_logits"].shape
        (torch.Size([1, 2, 4, 8]), torch.Size([1, 1, 5, 4, 8]))
        """
        maps, grid = self.receive(feature_maps, image)
        pixels = self.pyramid(maps, cast(Tensor, image), grid)[-1]
        memory = self.memory_unit(self.memory(maps, grid))
        memory = self.memory_norm(memory.flatten(2).transpose(1, 2))  # the tokens (B, N, C) that the queries read
        positions = sine_positions(*grid, memory.shape[-1]).to(memory)
        queries = self.queries.expand(len(memory), -1, -1)
        predictions = [self._predict(queries, pixels)]
        for layer in self.layers:
            allowed = self._attention_mask(predictions[-1][1])
            queries = layer(queries, self.query_positions, memory, positions, allowed)
            predictions.append(self._predict(queries, pixels))
        class_logits, mask_logits = predictions[-1]
        output = {"class_logits": class_logits, "mask_logits": mask_logits}
        output["logits"] = semantic_logits(class_logits, mask_logits)
        if self.training:
            output["aux_class_logits"] = torch.stack([classes for classes, _ in predictions[:-1]])
            output["aux_mask_logits"] = torch.stack([masks for _, masks in predictions[:-1]])
        return output
