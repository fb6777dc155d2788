"""Heads that predict sets: what each must hold, and that they compute what transformers' own models compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Deimv2ForObjectDetection, DetrForObjectDetection

from models import build_head
from models.base import FeatureSpec
from models.deim import DeimHead, DeimOptions, deim_config, norm_over_channels
from models.detection import DetectionHead
from models.detr import DetrHead, DetrOptions, detr_config
from tasks.model import load_trained_state, trained_state
from utils.boxes.geometry import xyxy_to_cxcywh
from utils.errors import DataError, SettingsError

SMALL_DETR = {"width": 32, "encoder_layers": 2, "decoder_layers": 3, "attention_heads": 4, "feedforward": 48}
SMALL_DEIM = {"width": 32, "detail_width": 4, "decoder_layers": 3, "attention_heads": 4, "feedforward": 48}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "detr": ("detr", SMALL_DETR),
    "detr_without_encoder": ("detr", SMALL_DETR | {"encoder_layers": 0}),
    "detr_of_all_blocks": ("detr", SMALL_DETR | {"all_blocks": True}),
    "deim": ("deim", SMALL_DEIM | {"denoising": 20}),
    "deim_without_picture": ("deim", SMALL_DEIM | {"detail_width": 0, "denoising": 0}),
    "deim_of_one_layer": ("deim", SMALL_DEIM | {"decoder_layers": 1, "denoising": 20}),
}
GEOMETRIES = {  # patch size: channels and strides of the maps
    "vit14": (14, (8, 8, 8), (14, 14, 14)),
    "vit16": (16, (8,), (16,)),
    "vit8": (8, (8, 8), (8, 8)),
    "convnext": (32, (4, 6, 8, 10), (4, 8, 16, 32)),
}
CLASSES = 3


def make_spec(geometry: str = "vit14") -> FeatureSpec:
    patch_size, channels, strides = GEOMETRIES[geometry]
    return FeatureSpec(channels, strides, patch_size, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def make_head(kind: str, spec: FeatureSpec | None = None, **options: Any) -> Any:
    name, given = KINDS[kind]
    torch.manual_seed(0)
    head = build_head(
        "detection", name, spec or make_spec(), CLASSES, {"dropout": 0.0, "num_queries": 9} | given | options
    )
    with torch.no_grad():  # as after some training: zeros at the start would hide what does not work
        for parameter in head.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return head


def make_input(spec: FeatureSpec, batch: int, size: tuple[int, int], seed: int = 0) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = spec.patch_grid(size)
    maps = [
        torch.randn(
            batch, channels, rows * spec.patch_size // stride, columns * spec.patch_size // stride, generator=generator
        )
        for channels, stride in zip(spec.channels, spec.strides, strict=True)
    ]
    return maps, torch.randint(0, 256, (batch, 3, *size), generator=generator, dtype=torch.uint8)


def make_target(numbers: list[int], size: tuple[int, int], crowds: int = 0, seed: int = 0) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.tensor([size[1], size[0]])
    target: dict[str, list[Tensor]] = {"boxes_xyxy": [], "labels": [], "is_crowd": []}
    for number in numbers:
        corners = torch.rand(number + crowds, 2, 2, generator=generator).sort(dim=1).values * (pixels - 2)
        corners[:, 1] += 1  # no box without area
        target["boxes_xyxy"].append(corners.flatten(1))
        target["labels"].append(torch.randint(CLASSES, (number + crowds,), generator=generator))
        target["is_crowd"].append(torch.arange(number + crowds) >= number)
    return target


def take(head: DetectionHead, valid: Tensor | None, target: Any) -> dict[str, Any]:
    """What the model gives a head beside the maps and the picture."""
    return {name: {"valid": valid, "target": target}[name] for name in head.takes}


def loss_of(
    head: DetectionHead, outputs: dict[str, Tensor], target: Any, counted: dict[str, float] | None = None
) -> Tensor:
    """The loss of a batch as the training step makes it, with divisors of its own or of all ranks."""
    sums, weights = head.losses(outputs, target, 0.5), head.loss_weights()
    counts = counted or counts_in(head, sums, target)
    parts = [value[0] if isinstance(value, tuple) else value for value in sums.values()]
    return sum(
        (weights[name] * part / max(counts[name], 1) for name, part in zip(sums, parts, strict=True)), Tensor([0])
    )


def counts_in(head: DetectionHead, sums: Any, target: Any) -> dict[str, float]:
    known = head.counts_of(target)
    return {name: float(value[1] if isinstance(value, tuple) else known[name]) for name, value in sums.items()}


# -- what every head holds


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_lie_in_the_patches_and_scores_in_0_to_1(kind: str, geometry: str) -> None:
    spec = make_spec(geometry)
    head = make_head(kind, spec).eval()
    maps, image = make_input(spec, 2, (66, 109))  # no square, no multiple of a patch
    with torch.no_grad():
        outputs = head(maps, image)
    assert set(outputs) == {"boxes_xyxy", "scores"}
    assert outputs["boxes_xyxy"].shape == (2, 9, 4)
    assert outputs["boxes_xyxy"].dtype == outputs["scores"].dtype == torch.float32
    assert outputs["scores"].shape == (2, 9, CLASSES)
    assert 0 <= outputs["scores"].min() <= outputs["scores"].max() <= 1
    low, high = outputs["boxes_xyxy"].split(2, dim=-1)
    assert (high >= low).all()
    centres = (low + high) / 2
    assert (centres >= 0).all()
    assert (centres <= torch.tensor([109.0, 66.0]) + 8 * spec.patch_size).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_the_same_boxes_alone_and_in_a_batch(kind: str) -> None:
    spec = make_spec()
    head = make_head(kind).eval()
    sizes = [(66, 109), (90, 40), (66, 109), (28, 28)]
    alone = [make_input(spec, 1, size, seed=number) for number, size in enumerate(sizes)]
    image = torch.randint(0, 256, (4, 3, 98, 112), dtype=torch.uint8)  # what lies in the padding must not matter
    valid = torch.zeros(4, 98, 112, dtype=torch.bool)
    maps = [torch.randn(4, channels, 7, 8) for channels in spec.channels]
    for number, (height, width) in enumerate(sizes):
        single, picture = alone[number]
        image[number, :, :height, :width], valid[number, :height, :width] = picture[0], True
        for whole, part in zip(maps, single, strict=True):
            whole[number, :, : part.shape[-2], : part.shape[-1]] = part[0]
    with torch.no_grad():
        together = head(maps, image, **take(head, valid, None))
        for number, (single, picture) in enumerate(alone):
            for name, output in head(single, picture).items():
                torch.testing.assert_close(together[name][number], output[0], rtol=1e-4, atol=1e-3, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_learn_from_a_batch(kind: str) -> None:
    head = make_head(kind)
    maps, image = make_input(head.spec, 2, (66, 109))
    target = make_target([4, 2], (66, 109))
    outputs = head(maps, image, **take(head, None, target))
    loss_of(head, outputs, target).backward()
    without = [
        name
        for name, parameter in head.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
    ]
    # a softmax does not see what all keys share, and DETR's first self-attention sees queries that are all zero
    blind = "k_proj.bias", "decoder.layers.0.self_attn"
    assert [name for name in without if not any(part in name for part in blind)] == []
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_has_all_trained_weights_in_its_graph(kind: str, training: bool) -> None:
    head = make_head(kind).train(training)
    maps, image = make_input(head.spec, 0, (66, 109))
    outputs = head(maps, image, **take(head, None, make_target([], (66, 109))))
    assert outputs["boxes_xyxy"].shape == (0, 9, 4)
    assert outputs["scores"].shape == (0, 9, CLASSES)
    if training:
        (0 * torch.stack([output.sum() for output in outputs.values() if output.requires_grad]).sum()).backward()
        trained = {name: parameter for name, parameter in head.named_parameters() if parameter.requires_grad}
        assert [name for name, parameter in trained.items() if parameter.grad is None] == []
        assert all((parameter.grad == 0).all() for parameter in trained.values() if parameter.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_objects_has_a_small_loss_and_gradient(kind: str) -> None:
    head = make_head(kind, num_queries=60)
    maps, image = make_input(head.spec, 2, (66, 109))
    target = make_target([0, 0], (66, 109), crowds=1)
    loss = loss_of(head, head(maps, image, **take(head, None, target)), target)
    loss.backward()
    assert 0 < loss.item() < 20  # 240 where it is divided by no object
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_more_objects_than_queries_are_refused_and_as_many_are_learnt(kind: str) -> None:
    size = (224, 224)
    target = make_target([400, 1], size)
    with pytest.raises(DataError, match=r"400 objects, but the head has 300 queries.*num_queries"):
        make_head(kind, num_queries=300).counts_of(target)
    head = make_head(kind, num_queries=400)
    assert head.max_objects == 400
    maps, image = make_input(head.spec, 2, size)
    head.counts_of(target)
    loss = loss_of(head, head(maps, image, **take(head, None, target)), target)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_of_a_pixel_and_of_the_whole_picture_have_finite_losses(kind: str) -> None:
    head = make_head(kind)
    maps, image = make_input(head.spec, 1, (66, 109))
    boxes = torch.tensor([[0.0, 0, 1, 1], [108, 65, 109, 66], [0, 0, 109, 66], [50, 0, 51, 66]])
    target = {
        "boxes_xyxy": [boxes],
        "labels": [torch.tensor([0, 1, 2, 0])],
        "is_crowd": [torch.zeros(4, dtype=torch.bool)],
    }
    loss = loss_of(head, head(maps, image, **take(head, None, target)), target)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_diverged_head_gives_a_loss_that_is_not_finite_and_no_error(kind: str) -> None:
    head = make_head(kind)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(float("nan"))
    maps, image = make_input(head.spec, 1, (66, 109))
    target = make_target([3], (66, 109))
    assert not loss_of(head, head(maps, image, **take(head, None, target)), target).isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_bit_by_bit(kind: str) -> None:
    found = []
    for _ in range(2):
        head = make_head(kind)
        maps, image = make_input(head.spec, 2, (66, 109))
        target = make_target([4, 2], (66, 109))
        loss_of(head, head(maps, image, **take(head, None, target)), target).backward()
        found.append([parameter.grad for parameter in head.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_to_bfloat16_moves_boxes_little(kind: str) -> None:
    head = make_head(kind)
    maps, image = make_input(head.spec, 2, (66, 109))
    target = make_target([4, 2], (66, 109))
    exact = head.eval()(maps, image)
    with torch.autocast("cpu", torch.bfloat16):
        close = head(maps, image)
        outputs = head.train()(maps, image, **take(head, None, target))
    assert all(output.dtype == torch.float32 for output in close.values())
    if "deim" not in kind:  # whose choice of queries may change
        torch.testing.assert_close(close["boxes_xyxy"], exact["boxes_xyxy"], rtol=0, atol=4.0)
    loss = loss_of(
        head, {name: part.float() if part.is_floating_point() else part for name, part in outputs.items()}, target
    )
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_the_head_alone_and_gives_the_same_boxes(kind: str) -> None:
    head, other = make_head(kind), make_head(kind)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.5)
    maps, image = make_input(head.spec, 1, (66, 109))
    tensors = {name: tensor.detach().clone() for name, tensor in trained_state(head).items()}
    assert sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()) == sum(
        parameter.numel() for parameter in head.parameters() if parameter.requires_grad
    )
    assert len({tensor.data_ptr() for tensor in trained_state(head).values()}) == len(tensors)  # none twice
    load_trained_state(other, tensors)
    for name, output in head.eval()(maps, image).items():
        assert torch.equal(output, other.eval()(maps, image)[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_losses_need_no_weights(kind: str) -> None:
    head = make_head(kind)
    with torch.device("meta"):
        shapes = build_head("detection", KINDS[kind][0], head.spec, CLASSES, {"num_queries": 9, **KINDS[kind][1]})
    assert isinstance(shapes, DetectionHead)
    maps, image = make_input(head.spec, 2, (66, 109))
    target = make_target([4, 2], (66, 109))
    outputs = head(maps, image, **take(head, None, target))
    assert loss_of(shapes, outputs, target).item() == loss_of(head, outputs, target).item()
    assert next(shapes.parameters()).is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_crowds_are_no_objects(kind: str) -> None:
    head = make_head(kind)
    with_crowd = make_target([2], (66, 109), crowds=1)
    without = {name: [part[0][:2]] for name, part in with_crowd.items()}
    counts = [{name: value for name, value in head.counts_of(target).items()} for target in (with_crowd, without)]
    assert counts[0] == counts[1]
    maps, image = make_input(head.spec, 1, (66, 109))
    outputs = head(maps, image, **take(head, None, without))
    sums = [head.losses(outputs, target, 0.0) for target in (with_crowd, without)]
    for name in ("l1", "giou"):
        first, second = (part[name][0] if isinstance(part[name], tuple) else part[name] for part in sums)
        assert torch.equal(first, second), name


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_compute_what_one_process_computes(kind: str) -> None:
    size = (66, 109)
    target = make_target([4, 0, 7], size, crowds=1)
    found = []
    for shares in ([slice(0, 3)], [slice(0, 1), slice(1, 3)]):
        heads = [make_head(kind) for _ in shares]
        maps, image = make_input(heads[0].spec, 3, size)
        ranks = []
        for head, rows in zip(heads, shares, strict=True):
            part = {name: values[rows] for name, values in target.items()}
            outputs = head([each[rows] for each in maps], image[rows], **take(head, None, part))
            ranks.append((head, outputs, part, counts_in(head, head.losses(outputs, part, 0.5), part)))
        summed = {name: sum(counts[name] for *_, counts in ranks) for name in ranks[0][3]}
        loss = sum(loss_of(head, outputs, part, summed) for head, outputs, part, _ in ranks)
        loss.backward()
        gradients = [
            sum(parts)
            for parts in zip(
                *([p.grad if p.grad is not None else torch.zeros(()) for p in head.parameters()] for head in heads),
                strict=True,
            )
        ]
        found.append((loss, gradients))
    torch.testing.assert_close(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["detr", "deim"])
def test_options_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"width must be a multiple of 4 and of attention_heads \(5\), got 32"):
        build_head("detection", name, make_spec(), 2, {"width": 32, "attention_heads": 5})


# -- transformers' own models on the same weights


class Backbone(nn.Module):
    """Gives stored maps where transformers would run its own backbone."""

    def __init__(self, *given: Any):
        super().__init__()
        self.given = given

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> list[Any]:
        return list(self.given)


@pytest.mark.parametrize("encoder_layers", [0, 2])
def test_detr_is_that_of_transformers(encoder_layers: int) -> None:
    options = DetrOptions(**SMALL_DETR | {"encoder_layers": encoder_layers}, num_queries=9, dropout=0.0)
    head = make_head("detr", encoder_layers=encoder_layers)
    maps, image = make_input(head.spec, 2, (70, 112))  # whole patches
    mask = torch.ones(2, 5, 8, dtype=torch.bool)
    mask[1, 4:], mask[1, :, 6:] = False, False  # the second picture is padded
    config = detr_config(options)
    config.num_labels = CLASSES
    library = DetrForObjectDetection(config)
    library.model.backbone = Backbone((maps[-1], mask))
    library.model.input_projection = nn.Conv2d(8, 32, 1)
    names = {name: name if name.startswith(("class_", "bbox_")) else f"model.{name}" for name in head.state_dict()}
    missing, unexpected = library.load_state_dict({names[n]: t for n, t in head.state_dict().items()}, strict=False)
    assert (missing, unexpected) == ([], [])
    target = make_target([4, 2], (56, 84))
    scales = torch.tensor([[112.0, 70, 112, 70], [84, 56, 84, 56]])
    labels = [
        {"class_labels": classes, "boxes": xyxy_to_cxcywh(boxes / scale)}
        for classes, boxes, scale in zip(target["labels"], target["boxes_xyxy"], scales, strict=True)
    ]
    expected = library.train()(image.float(), labels=labels)
    valid = mask.repeat_interleave(14, 1).repeat_interleave(14, 2)
    outputs = head.train()(maps, image, valid)
    torch.testing.assert_close(outputs["logits"][:, -1], expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["boxes"][:, -1], expected.pred_boxes, rtol=1e-4, atol=1e-5)
    assert loss_of(head, outputs, target).item() == pytest.approx(expected.loss.item(), rel=1e-5)
    found = head.eval()(maps, image, valid)
    scores = library.eval()(image.float()).logits.softmax(-1)[..., :-1]
    torch.testing.assert_close(found["scores"], scores, rtol=1e-4, atol=1e-5)


def test_deim_is_that_of_transformers() -> None:
    options = DeimOptions(**SMALL_DEIM, num_queries=9)
    head: DeimHead = make_head("deim").eval()
    maps, image = make_input(head.spec, 2, (84, 112))
    library = Deimv2ForObjectDetection(deim_config(options, CLASSES)).eval()
    norm_over_channels(library)
    library.model.conv_encoder = Backbone(*head.pyramid(maps, image, (6, 8)))
    tensors = {
        f"model.{name}": part for name, part in head.state_dict().items() if not name.startswith(("pyramid", "denois"))
    }
    missing, unexpected = library.load_state_dict(tensors, strict=False)
    assert unexpected == []
    assert {name.split(".")[0] for name in missing} <= {"class_embed", "bbox_embed"}  # copies of those of the decoder
    with torch.no_grad():
        expected, found = library(image.float()), head(maps, image)
    torch.testing.assert_close(found["scores"], expected.logits.sigmoid(), rtol=1e-4, atol=1e-5)
    centred = xyxy_to_cxcywh(found["boxes_xyxy"] / torch.tensor([112.0, 84, 112, 84]))
    torch.testing.assert_close(centred, expected.pred_boxes.clamp(0, 1), rtol=1e-4, atol=1e-5)


# -- what is said of single heads


def test_detr_takes_the_last_block_alone_unless_told_otherwise() -> None:
    for kind, needed in (("detr", [False, False, True]), ("detr_of_all_blocks", [True] * 3)):
        head: DetrHead = make_head(kind).eval()
        maps, image = make_input(head.spec, 1, (66, 109))
        before = head(maps, image)["boxes_xyxy"]
        changed = [
            not torch.equal(head([m + (n == number) for n, m in enumerate(maps)], image)["boxes_xyxy"], before)
            for number in range(3)
        ]
        assert changed == needed, kind


def test_deim_answers_with_more_queries_than_it_was_trained_with() -> None:
    few, many = (make_head("deim", eval_queries=number).eval() for number in (None, 60))
    many.load_state_dict(few.state_dict())
    maps, image = make_input(few.spec, 1, (140, 140))
    assert few(maps, image)["scores"].shape == (1, 9, CLASSES)
    assert many(maps, image)["scores"].shape == (1, 60, CLASSES)
    assert many.max_objects == 9
    assert many.train()(maps, image, target=make_target([2], (140, 140)))["boxes_xyxy"].shape == (1, 9, 4)


def test_deim_answers_for_a_picture_with_fewer_cells_than_queries() -> None:
    head = make_head("deim", num_queries=40).eval()
    maps, image = make_input(head.spec, 1, (20, 20))  # 2 x 2 patches: 16 + 4 + 1 cells
    outputs = head(maps, image)
    assert outputs["scores"].shape == (1, 40, CLASSES)
    assert (outputs["scores"][0, :21] > 0).all()
    assert (outputs["scores"][0, 21:] == 0).all()
    target = make_target([3], (20, 20))
    assert loss_of(head, head.train()(maps, image, target=target), target).isfinite()


def test_deim_does_not_look_at_the_target_in_predictions() -> None:
    head = make_head("deim").eval()
    maps, image = make_input(head.spec, 1, (66, 109))
    plain, told = head(maps, image), head(maps, image, target=make_target([4], (66, 109)))
    assert all(torch.equal(plain[name], told[name]) for name in plain)


def test_noisy_copies_change_nothing_for_the_queries_that_search() -> None:
    head, without = make_head("deim"), make_head("deim")
    without.load_state_dict(head.state_dict())
    without.denoising_class_embed = None
    maps, image = make_input(head.spec, 2, (66, 109))
    target = make_target([4, 1], (66, 109))
    told, plain = head(maps, image, target=target), without(maps, image, target=target)
    assert told["dn_logits"].shape[2] == 40  # 5 groups of 4 good and 4 bad ones, and 20 of 1 and 1
    torch.testing.assert_close(told["logits"], plain["logits"], rtol=1e-4, atol=1e-5)


def test_the_noise_of_a_resumed_training_is_that_of_an_unbroken_one() -> None:
    target = make_target([4], (66, 109))
    head = make_head("deim")
    maps, image = make_input(head.spec, 1, (66, 109))
    head(maps, image, target=target)
    resumed = make_head("deim")
    load_trained_state(resumed, {name: part.clone() for name, part in trained_state(head).items()})
    unbroken, after = (each(maps, image, target=target)["dn_boxes"] for each in (head, resumed))
    assert torch.equal(unbroken, after)
    assert not torch.equal(unbroken, head(maps, image, target=target)["dn_boxes"])
