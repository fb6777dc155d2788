"""What every segmentation head must hold, and what single heads and their parts say new."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import HEADS, build_head, choose, find_head, read_head_options
from models.base import FeatureSpec, SegmentationHead, fit_to_image, patch_grid_of, resize
from models.layers import FusionPyramid, RankBatchNorm2d, levels_by_stride, spread_over_levels
from utils.errors import SettingsError

NAMES = sorted(HEADS["segmentation"])
WITH_IMAGE = [name for name in NAMES if find_head("segmentation", name).needs_image]
SMALL = {
    "dpt": {"width": 16, "narrowest": 8, "detail_width": 8},
    "linear": {},
    "maskformer": {
        "width": 16, "narrowest": 8, "detail_width": 8, "num_queries": 5, "layers": 2, "attention_heads": 2,
        "feedforward": 32,
    },
    "segformer": {"width": 32, "narrowest": 16},
    "unet": {"width": 16, "narrowest": 8},
    "unet_v2": {"width": 16, "narrowest": 8, "prior_width": 8},
}  # fmt: skip
GEOMETRIES = {  # patch size: channels and strides of the maps
    "vit14": (14, (8, 8, 8, 8), (14, 14, 14, 14)),
    "vit16": (16, (8, 8), (16, 16)),
    "vit8": (8, (8,), (8,)),
    "vit16_six_maps": (16, (8,) * 6, (16,) * 6),
    "convnext": (32, (4, 6, 8, 10), (4, 8, 16, 32)),
    "convnext_without_coarsest": (32, (4, 8), (8, 16)),
}


def make_spec(geometry: str = "vit14", extra_bands: int = 0) -> FeatureSpec:
    patch_size, channels, strides = GEOMETRIES[geometry]
    return FeatureSpec(channels, strides, patch_size, 3 + extra_bands, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def make_head(name: str, spec: FeatureSpec, num_classes: int = 3, **options: object) -> SegmentationHead:
    torch.manual_seed(0)
    return build_head("segmentation", name, spec, num_classes, {**SMALL[name], **options})


def make_input(
    spec: FeatureSpec, batch: int, image_size: tuple[int, int], seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = spec.patch_grid(image_size)
    maps = []
    for channels, stride in zip(spec.channels, spec.strides, strict=True):
        cells = spec.patch_size // stride
        maps.append(torch.randn(batch, channels, rows * cells, columns * cells, generator=generator))
    shape = (batch, spec.image_channels, *image_size)
    return maps, torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def total(output: dict[str, Tensor]) -> Tensor:
    return sum((value.square().mean() if value.numel() else value.sum() * 0 for value in output.values()), Tensor([0]))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", NAMES)
def test_logits_cover_the_padded_grid_and_nothing_more(name: str, geometry: str) -> None:
    spec = make_spec(geometry)
    head = make_head(name, spec).eval()
    image_size = (33, 57)  # odd, not square, no multiple of a patch
    maps, image = make_input(spec, 2, image_size)
    with torch.no_grad():
        logits = head(maps, image)["logits"]
    rows, columns = spec.patch_grid(image_size)
    padded = (rows * spec.patch_size, columns * spec.patch_size)
    assert 1 <= head.stride <= 4
    assert tuple(logits.shape) == (2, 3, round(padded[0] / head.stride), round(padded[1] / head.stride))
    assert logits.isfinite().all()
    assert fit_to_image(logits, image_size, spec.patch_size).shape == (2, 3, *image_size)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_segformer_without_upsampling_gives_logits_on_the_patch_grid(geometry: str) -> None:
    spec = make_spec(geometry)
    head = make_head("segformer", spec, upsampling=False).eval()
    maps, image = make_input(spec, 2, (33, 57))
    rolled = [part.roll(spec.patch_size // stride, 2) for part, stride in zip(maps, spec.strides, strict=True)]
    with torch.no_grad():
        logits, moved = (head(given, image)["logits"] for given in (maps, rolled))
    assert head.stride == spec.patch_size
    assert tuple(logits.shape) == (2, 3, *spec.patch_grid((33, 57)))
    assert moved.allclose(logits.roll(1, 2), atol=1e-5), "each cell is classified by itself"
    assert head.num_parameters < make_head("segformer", spec).num_parameters


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_outputs_come_while_training_only(name: str) -> None:
    spec = make_spec()
    head = make_head(name, spec)
    maps, image = make_input(spec, 1, (28, 42))
    training, evaluating = head(maps, image), head.eval()(maps, image)
    assert {key for key in training if key not in evaluating} == {key for key in training if key.startswith("aux_")}
    assert set(evaluating) <= {"logits", "class_logits", "mask_logits"}
    if "aux_logits" in training:
        sides = training["logits"].shape[-1] / training["aux_logits"].shape[-1]
        assert head.stride * sides <= 4


@pytest.mark.parametrize("geometry", ["vit14", "convnext"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_in_a_few_steps(name: str, geometry: str) -> None:
    spec = make_spec(geometry)
    head = make_head(name, spec)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05)
    reached = {key: 0.0 for key, _ in head.named_parameters()}
    for seed in range(3):  # gains that start at zero let gradients through after a step
        maps, image = make_input(spec, 2, (33, 57), seed)
        optimizer.zero_grad()
        output = head(maps, image)
        losses = [(value * torch.randn_like(value)).sum() for value in output.values()]
        torch.stack(losses).sum().backward()
        for key, parameter in head.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            reached[key] += parameter.grad.abs().sum().item()
        optimizer.step()
    assert [key for key, amount in reached.items() if amount == 0] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_passes_and_contributes_zero(name: str) -> None:
    spec = make_spec()
    head = make_head(name, spec)
    maps, image = make_input(spec, 0, (33, 57))
    before = {key: value.clone() for key, value in head.state_dict().items()}
    output = head(maps, image)
    total(output).backward()
    assert output["logits"].shape[0] == 0
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None, key
        assert not parameter.grad.any(), key
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_extra_bands_change_the_logits_or_are_refused(name: str) -> None:
    spec = make_spec(extra_bands=2)
    if name not in WITH_IMAGE:
        with pytest.raises(SettingsError, match=f"'{name}' takes 3 image channels, got 5; .*: {', '.join(WITH_IMAGE)}"):
            make_head(name, spec)
        return
    head = make_head(name, spec).eval()
    maps, image = make_input(spec, 1, (28, 42))
    changed = image.clone()
    changed[:, 4] = 255 - changed[:, 4]
    assert not torch.allclose(head(maps, image)["logits"], head(maps, changed)["logits"])


@pytest.mark.parametrize("name", NAMES)
def test_autocast_gives_float32_logits_near_the_exact_ones(name: str) -> None:
    spec = make_spec()
    head = make_head(name, spec, **({"masked_attention": False} if name == "maskformer" else {}))
    maps, image = make_input(spec, 2, (28, 42))
    exact = head(maps, image)["logits"]
    with torch.autocast("cpu", torch.bfloat16):
        output = head([feature_map.bfloat16() for feature_map in maps], image)
    total(output).backward()
    assert output["logits"].dtype == torch.float32
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())
    assert (output["logits"] - exact).abs().mean() < 0.1 * exact.std()


@pytest.mark.parametrize("name", NAMES)
def test_two_samples_are_memorised(name: str) -> None:
    spec = make_spec("vit16")
    head = make_head(name, spec, num_classes=2)
    maps, image = make_input(spec, 2, (48, 64))
    labels = torch.randint(0, 2, (2, 3, 4), generator=torch.Generator().manual_seed(1))  # one class per patch
    labels = labels.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3 if name == "maskformer" else 2e-2)
    for _ in range(50):
        optimizer.zero_grad()
        loss = F.cross_entropy(fit_to_image(head(maps, image)["logits"], (48, 64), 16), labels)
        loss.backward()
        optimizer.step()
    prediction = fit_to_image(head.train()(maps, image)["logits"], (48, 64), 16).argmax(dim=1)
    accuracy = (prediction == labels).float().mean().item()
    assert accuracy > (0.9 if name == "linear" else 0.95)  # bilinear logits cannot follow the corners of patches


@pytest.mark.parametrize("name", NAMES)
def test_a_head_repeats_itself_and_survives_its_state_dict(name: str) -> None:
    spec = make_spec()
    first, second = make_head(name, spec).eval(), make_head(name, spec).eval()
    maps, image = make_input(spec, 1, (28, 42))
    assert torch.equal(first(maps, image)["logits"], second(maps, image)["logits"])
    for parameter in first.parameters():
        nn.init.normal_(parameter)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(maps, image)["logits"], second(maps, image)["logits"])


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_batch_do_not_see_each_other(name: str) -> None:
    spec = make_spec()
    head = make_head(name, spec).eval()
    maps, image = make_input(spec, 2, (28, 42))
    both = head(maps, image)["logits"]
    alone = head([feature_map[1:] for feature_map in maps], image[1:])["logits"]
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dpt", "linear", "segformer", "unet"])
def test_far_ground_has_no_say(name: str) -> None:
    """The other heads look at whole pictures on purpose: by attention, or by a gate."""
    spec = make_spec("vit16")
    head = make_head(name, spec).eval()
    maps, image = make_input(spec, 1, (32, 320))
    changed = [feature_map.clone() for feature_map in maps]
    for feature_map in changed:
        feature_map[..., 10:] += 5
    before, after = head(maps, image)["logits"], head(changed, image)["logits"]
    near = before.shape[-1] // 10  # the first two of twenty patches
    torch.testing.assert_close(before[..., :near], after[..., :near], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("name", NAMES)
def test_named_layers_exist_and_only_linear_has_batch_statistics(name: str) -> None:
    head = make_head(name, make_spec())
    names = [key for key, _ in head.named_parameters()]
    for prefix in head.input_layers + head.output_layers:
        assert any(key == prefix or key.startswith(prefix + ".") for key in names), prefix
    has_statistics = any(isinstance(module, nn.BatchNorm2d | RankBatchNorm2d) for module in head.modules())
    assert has_statistics == (name == "linear")
    assert head.num_parameters == sum(parameter.numel() for parameter in head.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_options_are_frozen_strict_and_described(name: str) -> None:
    options = find_head("segmentation", name).Options
    assert options.model_config["frozen"]
    assert all(field.description for field in options.model_fields.values())
    with pytest.raises(SettingsError, match=r"model\.head_options\.bogus: unknown key.*known keys: "):
        build_head("segmentation", name, make_spec(), 2, {"bogus": 1})


@pytest.mark.parametrize("name", WITH_IMAGE)
def test_a_picture_that_does_not_fit_is_refused(name: str) -> None:
    spec = make_spec()
    head = make_head(name, spec)
    maps, image = make_input(spec, 1, (28, 42))
    with pytest.raises(ValueError, match="needs the image"):
        head(maps)
    with pytest.raises(ValueError, match=r"fit a patch grid of \(2, 3\), got shape \(1, 3, 29, 42\)"):
        head(maps, torch.zeros(1, 3, 29, 42))
    assert head(maps, image.float())["logits"].shape[0] == 1


@pytest.mark.parametrize("image_size", [(32, 64), (25, 61)])
@pytest.mark.parametrize("patch_size", [14, 16])
def test_the_edge_of_a_step_does_not_drift(patch_size: int, image_size: tuple[int, int]) -> None:
    spec = FeatureSpec((1,), (patch_size,), patch_size, 3, (0.5,) * 3, (0.5,) * 3)
    head = build_head("segmentation", "linear", spec, 2, {}).eval()
    with torch.no_grad():
        head.get_parameter("classifiers.0.weight").copy_(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1))
    rows, columns = spec.patch_grid(image_size)
    step = -torch.ones(1, 1, rows, columns)
    step[..., 2:] = 1  # the edge stands at exactly two patches
    prediction = fit_to_image(head([step], None)["logits"], image_size, patch_size).argmax(dim=1)
    edges = (prediction == 0).sum(dim=-1)
    assert (edges - 2 * patch_size).abs().max() <= patch_size / 4 / 2


def test_fit_to_image_keeps_a_ramp_where_it_is() -> None:
    centres = (torch.arange(12) + 0.5) * 3.5  # 3 patches of 14 pixels in cells of 3.5
    fitted = fit_to_image(centres.reshape(1, 1, 1, 12).expand(1, 1, 4, 12), (10, 37), patch_size=14)[0, 0, 0]
    torch.testing.assert_close(fitted[2:35], torch.arange(2, 35) + 0.5)
    assert fit_to_image(torch.zeros(0, 2, 4, 12), (10, 37), 14).shape == (0, 2, 10, 37)


def test_linear_is_batch_norm_and_one_layer_over_the_joined_maps() -> None:
    spec = make_spec("vit16")
    head = make_head("linear", spec)
    maps, _ = make_input(spec, 2, (32, 48))
    joined = F.batch_norm(torch.cat(maps, dim=1), None, None, training=True)
    layer = head.get_parameter("classifiers.0.weight"), head.get_parameter("classifiers.0.bias")
    expected = resize(F.conv2d(joined, *layer), (8, 12))
    torch.testing.assert_close(head(maps)["logits"], expected, atol=1e-5, rtol=1e-4)


def test_rank_batch_norm_is_batch_norm_in_one_process() -> None:
    ours, theirs = RankBatchNorm2d(5), nn.BatchNorm2d(5)
    maps = (3 + 2 * torch.randn(4, 5, 3, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    weights = torch.randn(4, 5, 3, 2, generator=torch.Generator().manual_seed(1))
    gradients = []
    for norm in (ours, theirs):
        maps.grad = None
        (norm(maps) * weights).sum().backward()
        gradients.append([maps.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for own, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(own, reference, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.eval()(maps), theirs.eval()(maps), atol=1e-5, rtol=1e-4)


def test_rank_batch_norm_joins_a_full_and_an_empty_share(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    sums: list[Tensor] = []

    def record(values: Tensor) -> Tensor:
        sums.append(values)
        return values

    monkeypatch.setattr("models.layers.differentiable_sum_over_ranks", record)
    full = RankBatchNorm2d(3)
    full(maps)
    answers = iter([value.detach() for value in sums])
    monkeypatch.setattr("models.layers.differentiable_sum_over_ranks", lambda values: values + next(answers))
    empty = RankBatchNorm2d(3)
    normalized = empty(maps[:0])
    normalized.sum().backward()
    assert normalized.shape == (0, 3, 4, 5)
    torch.testing.assert_close(empty.running_var, full.running_var)
    assert empty.weight.grad is not None
    assert not empty.weight.grad.any()


def test_maskformer_logits_are_log_probabilities_of_its_votes() -> None:
    spec = make_spec()
    output = make_head("maskformer", spec, num_classes=4)(*make_input(spec, 2, (28, 42)))
    assert output["class_logits"].shape == (2, 5, 5)
    assert output["mask_logits"].shape == (2, 5, 8, 12)
    assert output["aux_class_logits"].shape == (2, 2, 5, 5)
    assert output["aux_mask_logits"].shape == (2, 2, 5, 8, 12)
    torch.testing.assert_close(output["logits"].exp().sum(dim=1), torch.ones(2, 8, 12))


def test_maskformer_with_a_query_per_class() -> None:
    spec = make_spec()
    head = make_head("maskformer", spec, num_classes=4, queries_per_class=True)
    output = head(*make_input(spec, 1, (28, 42)))
    assert output["mask_logits"].shape[1] == 4


def test_maskformer_votes_stay_finite_when_no_query_votes() -> None:
    from models.maskformer import semantic_logits

    class_logits = torch.tensor([[[0.0, 0.0, 200.0]]], requires_grad=True)
    logits = semantic_logits(class_logits, torch.full((1, 1, 2, 2), -200.0))
    logits.sum().backward()
    torch.testing.assert_close(logits.exp(), torch.full((1, 2, 2, 2), 0.5))
    assert class_logits.grad is not None
    assert class_logits.grad.isfinite().all()


def test_maps_enter_deep_ones_first_and_at_their_own_stride() -> None:
    assert spread_over_levels(make_spec("vit16_six_maps"), 3) == [[4, 5], [2, 3], [0, 1]]
    assert spread_over_levels(make_spec("vit8"), 3) == [[0], [0], [0]]
    assert spread_over_levels(make_spec("convnext"), 4) == [[3], [2], [1], [0]]
    assert levels_by_stride(make_spec("convnext_without_coarsest"), 4) == [[], [1], [0], []]


def test_the_fine_grid_of_a_pyramid_carries_detail_of_the_picture() -> None:
    spec = make_spec("vit16")
    torch.manual_seed(0)
    pyramid = FusionPyramid(spec, [16, 8, 8], detail_width=8)
    maps, image = make_input(spec, 1, (32, 48))
    changed = image.clone()
    changed[..., :4, :4] = 255 - changed[..., :4, :4]
    before, after = pyramid(maps, image, (2, 3)), pyramid(maps, changed, (2, 3))
    assert torch.equal(before[0], after[0])
    moved = (before[-1] - after[-1]).abs().amax(dim=1)[0]
    assert moved[0, 0] > 0
    assert not moved[4:, 6:].any()


def test_foreign_maps_are_refused() -> None:
    spec = make_spec("convnext")
    maps, _ = make_input(spec, 1, (64, 64))
    with pytest.raises(ValueError, match=r"channels \(4, 6, 8, 10\), got \(4, 6, 8\)"):
        patch_grid_of(maps[:3], spec)
    with pytest.raises(ValueError, match="must cover the same whole patches"):
        patch_grid_of([*maps[:3], maps[3][..., :1]], spec)
    with pytest.raises(ValueError, match="one stride per feature map"):
        FeatureSpec((8, 8), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match="must divide the patch size 14"):
        FeatureSpec((8,), (4,), 14, 3, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match="at least 3 image channels"):
        FeatureSpec((8,), (14,), 14, 1, (0.5,), (0.5,))
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        make_head("linear", spec, num_classes=0)


def test_wrong_names_and_options_are_told_all_at_once() -> None:
    with pytest.raises(SettingsError, match=r"model\.head: unknown head 'upernet'; known: dpt, linear, maskformer"):
        build_head("segmentation", "upernet", make_spec(), 2, {})
    with pytest.raises(SettingsError, match="paint: unknown kind of colour 'mauve'; known: red"):
        choose({"red": 1}, "mauve", kind="kind of colour", setting="paint")
    with pytest.raises(SettingsError) as caught:
        read_head_options({"widht": 8, "depth": "2", "narrowest": 0}, find_head("segmentation", "dpt").Options)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "model.head_options.depth: expected int, got str '2'" in lines
    assert "model.head_options.narrowest: expected greater than or equal to 1, got int 0" in lines
    assert any(line.startswith("model.head_options.widht: unknown key, did you mean 'width'?") for line in lines)
    with pytest.raises(SettingsError, match=r"model\.head_options: width must be a multiple of 4"):
        build_head("segmentation", "maskformer", make_spec(), 2, {"width": 30})
