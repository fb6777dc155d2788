"""DEIMv2 on stored maps: transformers' hybrid encoder and decoder, whose queries are chosen from the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import Deimv2Config, Deimv2ForObjectDetection, DINOv3ViTConfig
from transformers.models.deimv2.modeling_deimv2 import Deimv2Model, inverse_sigmoid
from typing_extensions import override

from models.base import FeatureSpec, HeadOptions, HiddenUnits, Layers, OptionalWidth, Queries
from models.layers import ChannelNorm
from models.map_pyramid import MapPyramid
from models.set_prediction import Objects, SetHead, SetOptions, picture_sizes, read_objects, to_pixels
from utils.boxes.deim_losses import distillation_sum, fine_grained_sum, matching_aware_sum, overlaps
from utils.boxes.denoising import FILLER, NoisyObjects, add_noise, fill_up, num_noisy, visible_queries
from utils.boxes.matching import Matches, excused, focal_class_costs, match_sets, unite
from utils.boxes.set_losses import box_sums

GAMMA = 1.5  # of the matching-aware loss
WEIGHTS = {"mal": 1.0, "l1": 5.0, "giou": 2.0, "fgl": 0.15, "ddf": 1.5}
COSTS = (2.0, 5.0, 2.0)  # of class, L1 distance and generalised IoU in the matching
REG_SCALE, UPPER = 4.0, 0.5  # curvature and upper bound of the bins of an edge
ANCHOR = 0.05  # side of the boxes that the cells of the finest level begin with, as a share of the picture
PRIOR = 0.01  # score of everything at first
UNSEEN = -1e4  # logit of filler


class DeimOptions(SetOptions):
    """Settings of the DEIM head.

    Examples
    --------
    >>> DeimOptions(num_queries=900).denoising
    100
    """

    detail_width: OptionalWidth = Field(16, description="channels of the raw picture's detail; 0: none is looked at")
    depth: Layers = Field(1, description="blocks in each stage of the pyramid")
    decoder_layers: Layers = Field(4, description="layers of the decoder, each with losses of its own")
    feedforward: HiddenUnits = Field(1024, multiple_of=2, description="hidden units of each feed-forward part")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden values that are left out in training")
    eval_queries: Queries | None = Field(None, description="queries in predictions; null: num_queries")
    denoising: int = Field(
        100, ge=0, le=5000, description="noisy copies of the objects to learn from, at most; 0: none"
    )


def deim_config(options: DeimOptions, num_classes: int) -> Deimv2Config:
    """Settings of transformers' encoder and decoder; its own backbone, which is thrown away, is as small as can be.

    Examples
    --------
    >>> config = deim_config(DeimOptions(width=64), num_classes=3)
    >>> config.d_model, config.num_labels, config.num_denoising
    (64, 3, 0)
    """
    smallest: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    backbone = DINOv3ViTConfig(**smallest | {"out_indices": [1]})
    config = Deimv2Config(
        backbone_config=backbone,
        d_model=options.width,
        encoder_hidden_dim=options.width,
        encoder_in_channels=[options.width] * 3,
        decoder_in_channels=[options.width] * 3,
        encoder_ffn_dim=options.feedforward,
        decoder_ffn_dim=options.feedforward,
        encoder_attention_heads=options.attention_heads,
        decoder_attention_heads=options.attention_heads,
        decoder_layers=options.decoder_layers,
        depth_mult=options.depth / 3,
        encoder_has_trailing_conv=False,  # as in the models on DINOv3
        dropout=options.dropout,
        num_queries=options.num_queries,
        num_denoising=0,  # `NoisyClasses` has its own
        initializer_bias_prior_prob=PRIOR,
        tie_word_embeddings=False,  # it fails for a single layer; `DeimHead` has one classifier in all places
        reg_scale=REG_SCALE,
        up=UPPER,
    )
    config.num_labels = num_classes
    return config


def norm_over_channels(module: nn.Module) -> None:
    """Replace all batch norms of a module, whose statistics would be those of a small share of a batch.

    Examples
    --------
    >>> module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.BatchNorm2d(8)))
    >>> norm_over_channels(module)
    >>> type(module[1][0]).__name__
    'ChannelNorm'
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, ChannelNorm(child.num_features))
        else:
            norm_over_channels(child)


class NoisyClasses(nn.Embedding):
    """What a noisy copy of an object of each class looks like to the decoder, and the noise itself.

    Parameters
    ----------
    num_classes : int
        Classes of objects; one more stands for filler.
    width : int
        Channels.

    Examples
    --------
    >>> noise = NoisyClasses(3, 8)
    >>> objects = Objects([torch.tensor([1, 2])], [torch.full((2, 4), 0.5)], [torch.zeros(0, 4)])
    >>> first, second = noise.draw(objects, most=5), noise.draw(objects, most=5)
    >>> first.classes.shape, torch.equal(first.boxes, second.boxes), noise.drawn.item()
    (torch.Size([1, 8]), False, 2)
    """

    drawn: Tensor

    def __init__(self, num_classes: int, width: int):
        super().__init__(num_classes + 1, width, padding_idx=num_classes)
        # saved with the weights, so that a resumed training draws what an unbroken one draws
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def draw(self, objects: Objects, most: int) -> NoisyObjects | None:
        """Copies for all samples, with an axis B in front, as many as for the fullest one; None without samples.

        Examples
        --------
        >>> nothing = Objects([torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, 4)], [torch.zeros(0, 4)])
        >>> NoisyClasses(3, 8).draw(nothing, most=5).boxes.shape
        torch.Size([1, 0, 4])
        """
        number = int(self.drawn)
        self.drawn += 1
        if not objects.labels:
            return None
        no_class = self.num_embeddings - 1
        rows = zip(objects.labels, objects.boxes, strict=True)
        copies = [add_noise(labels, boxes, no_class, most, number) for labels, boxes in rows]
        longest = max(len(each.classes) for each in copies)
        filled = [fill_up(each, longest, no_class) for each in copies]
        return NoisyObjects(*(torch.stack(parts) for parts in zip(*filled, strict=True)))


class DeimHead(SetHead):
    """transformers' DEIMv2 with stored maps in place of its backbone.

    The names of the weights are those of `Deimv2ForObjectDetection` without `model.`. Pictures of one size are computed
    together, each without the padding of the batch.

    Parameters
    ----------
    spec : FeatureSpec
        What the head is given.
    num_classes : int
        Classes of objects.
    options : DeimOptions
        Width, layers, queries.

    References
    ----------
    Huang et al., 2025 (arXiv:2509.20787). Departures: normalisation over channels in place of batch norms, and those of
    `utils.boxes.deim_losses` and `utils.boxes.denoising`.

    Examples
    --------
    >>> spec = FeatureSpec((8,) * 3, (14,) * 3, 14, 3, (0.5,) * 3, (0.5,) * 3)
    >>> small = {"width": 16, "attention_heads": 2, "feedforward": 32, "decoder_layers": 2}
    >>> head = DeimHead(spec, 3, DeimOptions(num_queries=7, eval_queries=9, **small)).eval()
    >>> output = head([torch.zeros(1, 8, 3, 5)] * 3, torch.zeros(1, 3, 40, 70))
    >>> head.max_objects, output["boxes_xyxy"].shape, output["scores"].shape
    (7, torch.Size([1, 9, 4]), torch.Size([1, 9, 3]))
    """

    Options: ClassVar[type[HeadOptions]] = DeimOptions
    starts_from: ClassVar[str] = "deimv2"
    renamed: ClassVar[tuple[tuple[str, str], ...]] = ((r"^model\.", ""),)
    takes_over: ClassVar[tuple[str, ...]] = ("decoder.", "enc_")  # what comes before has other norms here
    needs_image: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("valid", "target")
    input_layers: ClassVar[tuple[str, ...]] = ("pyramid", "denoising_class_embed")
    output_layers: ClassVar[tuple[str, ...]] = ("enc_score_head", "enc_bbox_head.layers.2", "decoder.class_embed")

    def __init__(self, spec: FeatureSpec, num_classes: int, options: DeimOptions):
        super().__init__(spec, num_classes, options)
        library = Deimv2ForObjectDetection(deim_config(options, num_classes)).model
        norm_over_channels(library)
        self.detail = options.detail_width > 0
        self.num_queries, self.denoising = options.num_queries, options.denoising
        self.eval_queries = options.eval_queries or options.num_queries
        self.pyramid = MapPyramid(spec, options.width, options.detail_width)
        self.encoder, self.enc_output = library.encoder, library.enc_output
        self.enc_score_head, self.enc_bbox_head = library.enc_score_head, library.enc_bbox_head
        self.decoder, self.anchors = library.decoder, library._cached_generate_anchors
        # one layer in all places, as transformers ties them
        self.decoder.class_embed = nn.ModuleList([library.decoder.class_embed[0]] * options.decoder_layers)
        self.denoising_class_embed = NoisyClasses(num_classes, options.width) if options.denoising else None

    @property
    @override
    def sees_image(self) -> bool:
        return self.detail

    @property
    @override
    def max_objects(self) -> int:
        return min(self.num_queries, self.eval_queries)

    @override
    def max_objects_in(self, grid: tuple[int, int]) -> int:
        rows, columns = self.pyramid.padded_grid(grid)
        cells = sum(round(rows * each) * round(columns * each) for each in self.pyramid.cells)
        return min(self.max_objects, cells)  # a query starts from a cell

    @override
    def predict(self, maps: list[Tensor], image: Tensor | None, valid: Tensor | None, target: Any) -> dict[str, Tensor]:
        spec, sizes = self.spec, self._sizes(maps, image, valid)
        grids = [self.pyramid.padded_grid(spec.patch_grid(size)) for size in sizes]
        scale = maps[0].new_tensor([[columns, rows] * 2 for rows, columns in grids]) * spec.patch_size
        noisy = self._draw(target, scale)
        order: list[int] = []
        parts: list[dict[str, Tensor]] = []
        for size in dict.fromkeys(sizes):
            members = [index for index, other in enumerate(sizes) if other == size]
            levels = self._levels([each[members] for each in maps], None if image is None else image[members], size)
            copies = None if noisy is None else NoisyObjects(*(part[members] for part in noisy))
            with torch.autocast(scale.device.type, enabled=False):  # bfloat16 would move edges by pixels
                parts.append(self._decode([level.float() for level in levels], copies))
            order += members
        back = torch.tensor(order, device=scale.device).argsort()
        outputs = {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
        found = {
            "boxes_xyxy": to_pixels(outputs["boxes"][:, -1].clamp(0, 1), scale),
            "scores": outputs["logits"][:, -1].sigmoid(),
        }
        if not self.training:
            return found
        if self.denoising_class_embed is not None:  # in the graph of a batch without objects, too
            outputs["logits"] = outputs["logits"] + 0 * self.denoising_class_embed.weight.sum()
        return found | outputs | {"scale": scale}

    def _sizes(self, maps: list[Tensor], image: Tensor | None, valid: Tensor | None) -> list[tuple[int, int]]:
        """Height and width of each picture, without the padding of the batch.

        Examples
        --------
        >>> head = DeimHead(FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3), 3, DeimOptions(width=16))
        >>> maps, image = [torch.zeros(1, 8, 2, 3)], torch.zeros(1, 3, 7, 9)
        >>> head._sizes(maps, None, None), head._sizes(maps, image, None), head._sizes(maps, image, image[:, 0] == 0)
        ([(8, 12)], [(7, 9)], [(7, 9)])
        """
        if image is not None and valid is None:
            return [(image.shape[-2], image.shape[-1])] * len(image)
        return [(height, width) for height, width in picture_sizes(valid, maps[-1], self.spec.strides[-1]).tolist()]

    def _draw(self, target: Any, scale: Tensor) -> NoisyObjects | None:
        """Draw noisy copies of the objects; one number is used up for every batch, on every rank.

        Examples
        --------
        >>> head = DeimHead(FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3), 3, DeimOptions(width=16))
        >>> head._draw(None, torch.zeros(0, 4)) is None, head.denoising_class_embed.drawn.item()
        (True, 1)
        """
        if not self.training or self.denoising_class_embed is None:
            return None
        objects = Objects([], [], []) if target is None else read_objects(target, scale)
        return self.denoising_class_embed.draw(objects, self.denoising)

    def _levels(self, maps: list[Tensor], image: Tensor | None, size: tuple[int, int]) -> list[Tensor]:
        """Encoded levels, fine to coarse, of pictures of one size, cut out of a padded batch.

        Examples
        --------
        >>> head = DeimHead(FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3), 3, DeimOptions(width=16))
        >>> levels = head._levels([torch.zeros(1, 8, 9, 9)], torch.zeros(1, 3, 144, 144), (30, 64))
        >>> [tuple(level.shape) for level in levels]
        [(1, 16, 4, 8), (1, 16, 2, 4), (1, 16, 1, 2)]
        """
        grid = self.spec.patch_grid(size)
        cut = [
            each[:, :, : grid[0] * cells, : grid[1] * cells]
            for each, cells in zip(maps, self.pyramid.map_cells, strict=True)
        ]
        picture = image[:, :, : size[0], : size[1]] if image is not None and self.detail else None
        return self.encoder(inputs_embeds=self.pyramid(cut, picture, grid)).feature_maps

    def _decode(self, levels: list[Tensor], noisy: NoisyObjects | None) -> dict[str, Tensor]:
        """Choose queries from the levels (B, C, h, w) and let the decoder refine them, with noisy copies before them.

        Examples
        --------
        >>> head = DeimHead(FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3), 3, DeimOptions(width=16)).eval()
        >>> outputs = head._decode([torch.zeros(1, 16, 4, 8), torch.zeros(1, 16, 2, 4), torch.zeros(1, 16, 1, 2)], None)
        >>> outputs["boxes"].shape, outputs["queries"].tolist()  # 42 cells, and filler
        (torch.Size([1, 1, 300, 4]), [42])
        """
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        wanted = self.num_queries if self.training else self.eval_queries
        logits, starts, content = self._choose(memory, sizes, wanted)
        content, references, visible, copies, chosen = content.detach(), starts.detach(), None, 0, content.shape[1]
        if noisy is not None and self.denoising_class_embed is not None:
            copies = noisy.classes.shape[1]
            content = torch.cat([self.denoising_class_embed(noisy.classes), content], dim=1)
            references = torch.cat([inverse_sigmoid(noisy.boxes), references], dim=1)
            visible = visible_queries(noisy.groups, chosen)
        decoded = self.decoder(
            inputs_embeds=content,
            encoder_hidden_states=memory,
            encoder_attention_mask=visible,  # transformers' name for what the queries see of each other
            reference_points=references,
            spatial_shapes=torch.tensor(sizes, device=memory.device),
            spatial_shapes_list=sizes,
        )
        stacked = {
            "logits": decoded.intermediate_logits,
            "boxes": decoded.intermediate_reference_points,
            "corners": decoded.intermediate_predicted_corners,
            "references": decoded.initial_reference_points[:, :1],
        }
        outputs = {name: part[:, :, copies:] for name, part in stacked.items()}
        outputs |= {"first_logits": logits[:, None], "first_boxes": starts.sigmoid()[:, None]}
        fillers = {"logits": UNSEEN, "first_logits": UNSEEN}
        outputs = {
            name: F.pad(part, (0, 0, 0, wanted - chosen), value=fillers.get(name, 0.5))
            for name, part in outputs.items()
        }
        outputs["queries"] = torch.full((len(memory),), chosen, device=memory.device)
        if noisy is not None:
            outputs |= {f"dn_{name}": part[:, :, :copies] for name, part in stacked.items()}
            outputs |= {"dn_objects": noisy.objects}
        return outputs

    def _choose(self, memory: Tensor, sizes: list[tuple[int, int]], wanted: int) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the cells of the levels that look most like an object: logits, boxes before the sigmoid, and content.

        Examples
        --------
        >>> head = DeimHead(FeatureSpec((8,), (16,), 16, 3, (0.5,) * 3, (0.5,) * 3), 3, DeimOptions(width=16)).eval()
        >>> [tuple(part.shape) for part in head._choose(torch.zeros(1, 10, 16), [(2, 4), (1, 2)], wanted=7)]
        [(1, 7, 3), (1, 7, 4), (1, 7, 16)]
        """
        anchors, inside = Deimv2Model._cached_generate_anchors(tuple(sizes), ANCHOR, memory.device, memory.dtype)
        candidates = self.enc_output(inside * memory)
        logits, starts = self.enc_score_head(candidates), self.enc_bbox_head(candidates) + anchors
        best = logits.amax(dim=-1).topk(min(wanted, memory.shape[1]), dim=1).indices[..., None]
        logits, starts, content = (
            each.gather(1, best.expand(-1, -1, each.shape[-1])) for each in (logits, starts, candidates)
        )
        return logits, starts, content

    # -- losses

    @override
    def counts_of(self, target: Any) -> Mapping[str, Tensor | None]:
        numbers = self.count_objects(target)
        # a picture without objects counts as one, or a batch of such pictures would be divided by nothing
        sums = {"mal": sum(max(number, 1) for number in numbers), "ddf": len(numbers)}
        if self.denoising:
            copies = sum(num_noisy(number, self.denoising) for number in numbers)
            sums |= {f"dn_{name}": len(numbers) if name == "ddf" else copies for name in WEIGHTS}
        counted = {name: torch.tensor(float(value), dtype=torch.float64) for name, value in sums.items()}
        return {**counted, **dict.fromkeys(("l1", "giou", "fgl"))}

    @override
    def loss_weights(self) -> dict[str, float]:
        return WEIGHTS | {f"dn_{name}": weight for name, weight in WEIGHTS.items()}

    @override
    def losses(
        self, outputs: dict[str, Tensor], target: Any, progress_fraction: float
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        objects = read_objects(target, outputs["scale"])
        logits, boxes = (
            torch.cat([outputs[name], outputs[f"first_{name}"]], dim=1).transpose(0, 1) for name in ("logits", "boxes")
        )
        boxes = boxes.clamp(0, 1)
        queries = outputs["queries"]
        matches = match_sets(
            logits, boxes, objects.labels, objects.boxes, focal_class_costs, COSTS, num_queries=queries.tolist()
        )
        filler = torch.arange(logits.shape[2], device=queries.device) >= queries[:, None]
        silent = excused(boxes, objects.ignored, matches) | filler
        united = unite(matches, len(logits))
        sums = self._sums(outputs, "", logits, boxes, objects, matches, united, silent, queries)
        pairs = torch.tensor(len(united.sets) / len(logits), device=queries.device)
        terms: dict[str, Tensor | tuple[Tensor, Tensor]] = {**sums}
        terms |= {name: (sums[name], pairs) for name in ("l1", "giou", "fgl")}
        if "dn_objects" in outputs:
            terms |= self._denoising_sums(outputs, objects)
        return terms

    def _denoising_sums(self, outputs: dict[str, Tensor], objects: Objects) -> dict[str, Tensor]:
        """Sum the terms of the noisy copies, of which it is known what each is to become.

        Examples
        --------
        >>> head = DeimHead(FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3), 3, DeimOptions(width=16))
        >>> boxes = [torch.tensor([[0.0, 0.0, 8.0, 4.0]])]
        >>> target = {"boxes_xyxy": boxes, "labels": [torch.tensor([1])], "is_crowd": [torch.tensor([False])]}
        >>> outputs = head([torch.zeros(1, 8, 8, 8)], torch.zeros(1, 3, 32, 32), None, target)
        >>> sorted(head._denoising_sums(outputs, read_objects(target, outputs["scale"])))
        ['dn_ddf', 'dn_fgl', 'dn_giou', 'dn_l1', 'dn_mal']
        """
        logits, boxes = outputs["dn_logits"].transpose(0, 1), outputs["dn_boxes"].transpose(0, 1).clamp(0, 1)
        place = outputs["dn_objects"]
        before = torch.tensor([0, *(len(labels) for labels in objects.labels[:-1])], device=place.device).cumsum(0)
        images, copies = (place >= 0).nonzero().unbind(dim=1)
        rows = place[images, copies] + before[images]
        sets = torch.arange(len(logits), device=place.device).repeat_interleave(len(rows))
        matches = Matches(sets, *(part.repeat(len(logits)) for part in (images, copies, rows)))
        silent = (place == FILLER).expand(logits.shape[:3])
        real = (place != FILLER).sum(dim=1)
        sums = self._sums(outputs, "dn_", logits, boxes, objects, matches, matches, silent, real)
        return {f"dn_{name}": value for name, value in sums.items()}

    @staticmethod
    def _sums(
        outputs: dict[str, Tensor],
        prefix: str,
        logits: Tensor,
        boxes: Tensor,
        objects: Objects,
        matches: Matches,
        united: Matches,
        silent: Tensor,
        num_queries: Tensor,
    ) -> dict[str, Tensor]:
        """Sum each term over the sets: before the first layer, after each layer, and those of the encoder, if any.

        Examples
        --------
        >>> nothing = torch.zeros(0, dtype=torch.int64)
        >>> objects, none = Objects([nothing], [torch.zeros(0, 4)], [torch.zeros(0, 4)]), Matches(*[nothing] * 4)
        >>> outputs = {"corners": torch.randn(1, 2, 5, 132), "references": torch.full((1, 1, 5, 4), 0.5)}
        >>> logits, boxes, silent = torch.zeros(4, 1, 5, 3), torch.full((4, 1, 5, 4), 0.5), torch.zeros(4, 1, 5) > 0
        >>> sums = DeimHead._sums(outputs, "", logits, boxes, objects, none, none, silent, torch.tensor([5]))
        >>> {name: round(value.item(), 2) for name, value in sums.items() if name != "ddf"}
        {'mal': 14.7, 'l1': 0.0, 'giou': 0.0, 'fgl': 0.0}
        """
        labels, truth = torch.cat(objects.labels), torch.cat(objects.boxes)
        corners, references = outputs[f"{prefix}corners"].transpose(0, 1), outputs[f"{prefix}references"][:, 0]
        layers = len(corners)
        refined, earlier = (Matches(*(part[united.sets < most] for part in united)) for most in (layers, layers - 1))
        l1, giou = box_sums(boxes, truth, united)
        after = boxes[1 : layers + 1]  # the first set comes before the distributions
        return {
            "mal": matching_aware_sum(logits, labels, overlaps(boxes, truth, matches), matches, silent, GAMMA),
            "l1": l1,
            "giou": giou,
            "fgl": fine_grained_sum(
                corners, references, truth, overlaps(after, truth, refined), refined, REG_SCALE, UPPER
            ),
            "ddf": distillation_sum(corners, logits[layers], overlaps(after, truth, earlier), earlier, num_queries),
        }
