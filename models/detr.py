"""DETR on a frozen map: a transformer encoder, and a decoder whose queries each name a class and a box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import DetrConfig, ResNetConfig
from transformers.models.detr.modeling_detr import (
    DetrDecoder,
    DetrEncoder,
    DetrMLPPredictionHead,
    DetrSinePositionEmbedding,
)
from typing_extensions import override

from models.base import FeatureSpec, HeadOptions, HiddenUnits, Layers, resize
from models.set_prediction import SetHead, SetOptions, picture_sizes, read_objects, to_pixels
from utils.boxes.matching import excused, match_sets, softmax_class_costs
from utils.boxes.set_losses import box_sums, class_count, class_sum

NO_OBJECT_WEIGHT = 0.1
CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0  # of the costs of the matching and of the losses


class DetrOptions(SetOptions):
    """Settings of the DETR head.

    Examples
    --------
    >>> DetrOptions(encoder_layers=0).decoder_layers
    6
    """

    encoder_layers: int = Field(6, ge=0, le=64, description="layers of self-attention over the map; 0: none")
    decoder_layers: Layers = Field(6, description="layers of the decoder, each with a loss of its own")
    feedforward: HiddenUnits = Field(2048, description="hidden units of each feed-forward part")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of hidden values that are left out in training")
    all_blocks: bool = Field(False, description="add up projections of all chosen blocks, not the last block alone")


def detr_config(options: DetrOptions) -> DetrConfig:
    """Settings of transformers' encoder and decoder.

    Examples
    --------
    >>> config = detr_config(DetrOptions(width=64, decoder_layers=2))
    >>> config.d_model, config.decoder_layers, config.auxiliary_loss
    (64, 2, True)
    """
    return DetrConfig(
        backbone_config=ResNetConfig(),  # never built: the maps come from the frozen backbone
        d_model=options.width,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers,
        encoder_attention_heads=options.attention_heads,
        decoder_attention_heads=options.attention_heads,
        encoder_ffn_dim=options.feedforward,
        decoder_ffn_dim=options.feedforward,
        dropout=options.dropout,
        num_queries=options.num_queries,
        auxiliary_loss=True,  # with it transformers norms what passes from layer to layer, in predictions too
    )


class DetrHead(SetHead):
    """transformers' DETR with the frozen map in place of its ResNet.

    The names of the weights are those of `DetrForObjectDetection` without `model.`, so that its checkpoints fit.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Classes of objects; a query may also answer "no object".
    options : DetrOptions
        Width, layers, queries.

    References
    ----------
    Carion et al., 2020 (arXiv:2005.12872), with the first weights of its section A.4.

    Examples
    --------
    >>> spec = FeatureSpec((8,) * 2, (14,) * 2, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> small = {"width": 16, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 32}
    >>> head = DetrHead(spec, 3, DetrOptions(num_queries=5, **small))
    >>> head.max_objects, head.input_projection.weight.shape
    (5, torch.Size([16, 8, 1, 1]))
    """

    Options: ClassVar[type[HeadOptions]] = DetrOptions
    starts_from: ClassVar[str] = "detr"
    renamed: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^model\.", ""),
        (r"\bout_proj\b", "o_proj"),  # the names of the published files, which transformers renames as it loads them
        (r"\blayers\.(\d+)\.fc([12])\b", r"layers.\1.mlp.fc\2"),
    )
    input_layers: ClassVar[tuple[str, ...]] = ("input_projection", "shallow_projections", "query_position_embeddings")
    output_layers: ClassVar[tuple[str, ...]] = ("class_labels_classifier", "bbox_predictor.layers.2")

    def __init__(self, spec: FeatureSpec, num_classes: int, options: DetrOptions):
        super().__init__(spec, num_classes, options)
        config = detr_config(options)
        shallow = spec.channels[:-1] if options.all_blocks else ()
        self.num_queries = options.num_queries
        self.input_projection = nn.Conv2d(spec.channels[-1], options.width, kernel_size=1)
        self.shallow_projections = nn.ModuleList(
            nn.Conv2d(channels, options.width, kernel_size=1, bias=False) for channels in shallow
        )
        self.position_embedding = DetrSinePositionEmbedding(options.width // 2, normalize=True)
        self.query_position_embeddings = nn.Embedding(options.num_queries, options.width)
        self.encoder = DetrEncoder(config)
        self.decoder = DetrDecoder(config)
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.ndim > 1:  # as the paper; transformers' normal values of 0.02 are for loaded weights
                    nn.init.xavier_uniform_(parameter)
        self.class_labels_classifier = nn.Linear(options.width, num_classes + 1)
        self.bbox_predictor = DetrMLPPredictionHead(options.width, options.width, 4, num_layers=3)

    @property
    @override
    def max_objects(self) -> int:
        return self.num_queries

    @override
    def predict(self, maps: list[Tensor], image: Tensor | None, valid: Tensor | None, target: Any) -> dict[str, Tensor]:
        stride = self.spec.strides[-1]
        cells = -(-picture_sizes(valid, maps[-1], stride) // stride)  # rows and columns of each picture
        scale = (cells.flip(1) * stride).float().repeat(1, 2)
        hidden = self._decode(self._project(maps), cells)
        with torch.autocast(scale.device.type, enabled=False):  # bfloat16 would move edges by pixels
            logits = self.class_labels_classifier(hidden.float())
            boxes = self.bbox_predictor(hidden.float()).sigmoid()
        scores = logits[:, -1].softmax(dim=-1)[..., :-1]
        outputs = {"boxes_xyxy": to_pixels(boxes[:, -1], scale), "scores": scores}
        return outputs | ({"logits": logits, "boxes": boxes, "scale": scale} if self.training else {})

    def _project(self, maps: list[Tensor]) -> Tensor:
        """Tokens (B, width, h, w) on the grid of the last map.

        Examples
        --------
        >>> spec = FeatureSpec((4, 8), (14,) * 2, 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> small = {"width": 16, "encoder_layers": 0, "decoder_layers": 1, "feedforward": 32}
        >>> heads = [DetrHead(spec, 3, DetrOptions(all_blocks=both, **small)) for both in (False, True)]
        >>> maps = [torch.ones(1, 4, 2, 3), torch.zeros(1, 8, 2, 3)]
        >>> [bool((head._project(maps) == head.input_projection(maps[1])).all()) for head in heads]
        [True, False]
        """
        projected = self.input_projection(maps[-1])
        for layer, feature_map in zip(self.shallow_projections, maps, strict=False):
            projected = projected + resize(layer(feature_map), projected.shape[-2:])
        return projected

    def _decode(self, projected: Tensor, cells: Tensor) -> Tensor:
        """What the queries know after each layer (B, L, Q, width), from a map of which each picture has so many cells.

        Examples
        --------
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> options = DetrOptions(width=16, encoder_layers=1, decoder_layers=2, feedforward=32, num_queries=5)
        >>> head = DetrHead(spec, 3, options).eval()
        >>> maps = torch.randn(1, 16, 2, 3)
        >>> padded = torch.cat([maps, torch.ones(1, 16, 2, 4)], dim=-1)
        >>> alone, in_batch = (head._decode(part, torch.tensor([[2, 3]])) for part in (maps, padded))
        >>> in_batch.shape, torch.allclose(alone, in_batch, atol=1e-5)
        (torch.Size([1, 2, 5, 16]), True)
        """
        rows, columns = (torch.arange(length, device=cells.device) for length in projected.shape[-2:])
        known = (rows < cells[:, :1])[:, :, None] & (columns < cells[:, 1:])[:, None]
        positions = self.position_embedding(projected.shape, projected.device, torch.float32, mask=known)
        positions, known = positions.flatten(2).transpose(1, 2), known.flatten(1)
        memory = self.encoder(projected.flatten(2).transpose(1, 2), known, positions).last_hidden_state
        places = self.query_position_embeddings.weight.expand(len(memory), -1, -1)
        decoded = self.decoder(
            inputs_embeds=torch.zeros_like(places),
            encoder_hidden_states=memory,
            encoder_attention_mask=known,
            spatial_position_embeddings=positions,
            object_queries_position_embeddings=places,
        )
        # transformers norms the last layer a second time
        return torch.stack([*decoded.intermediate_hidden_states[:-1], decoded.last_hidden_state], dim=1)

    # -- losses

    @override
    def counts_of(self, target: Any) -> Mapping[str, Tensor | None]:
        numbers = self.count_objects(target)
        boxes = torch.tensor(float(sum(numbers)), dtype=torch.float64)
        return {"class": class_count(numbers, self.num_queries, NO_OBJECT_WEIGHT), "l1": boxes, "giou": boxes}

    @override
    def loss_weights(self) -> dict[str, float]:
        return {"class": CLASS_WEIGHT, "l1": L1_WEIGHT, "giou": GIOU_WEIGHT}

    @override
    def losses(
        self, outputs: dict[str, Tensor], target: Any, progress_fraction: float
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        logits, boxes = outputs["logits"].transpose(0, 1), outputs["boxes"].transpose(0, 1)
        objects = read_objects(target, outputs["scale"])
        weights = (CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT)
        matches = match_sets(logits, boxes, objects.labels, objects.boxes, softmax_class_costs, weights)
        silent = excused(boxes, objects.ignored, matches)
        l1, giou = box_sums(boxes, torch.cat(objects.boxes), matches)
        in_all = class_sum(logits, torch.cat(objects.labels), matches, silent, NO_OBJECT_WEIGHT)
        return {"class": in_all, "l1": l1, "giou": giou}
