"""What every keypoint head must hold: the maps it answers with, its options, and that it learns where a thing is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import HEADS, build_head, find_head
from models.base import FeatureSpec, KeypointHead
from models.keypoint_layers import KeypointOptions, MergedMaps
from utils.errors import SettingsError
from utils.optim import split_parameters

NAMES = sorted(HEADS["keypoints"])
SMALL = {"width": 16, "narrowest": 8, "detail_width": 8}
GEOMETRIES = {  # patch size: channels and strides of the maps
    "vit14": (14, (8, 8, 8, 8), (14, 14, 14, 14)),
    "vit16": (16, (8, 8), (16, 16)),
    "vit8": (8, (8,), (8,)),
    "vit4": (4, (8,), (4,)),
    "convnext": (32, (4, 6, 8, 10), (4, 8, 16, 32)),
    "convnext_without_coarsest": (32, (4, 8), (8, 16)),
}
EXTRAS = {
    "conv": set(),
    "multitask": {"objectness", "boxes", "instance_mask"},
    "relational": set(),
}


def make_spec(geometry: str = "vit14", extra_bands: int = 0) -> FeatureSpec:
    patch_size, channels, strides = GEOMETRIES[geometry]
    return FeatureSpec(channels, strides, patch_size, 3 + extra_bands, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def make_head(name: str, spec: FeatureSpec, num_keypoints: int = 3, **options: object) -> KeypointHead:
    torch.manual_seed(0)
    quiet = {"dropout": 0.0} if name == "relational" else {}
    head = build_head("keypoints", name, spec, num_keypoints, {**SMALL, **quiet, **options})
    assert isinstance(head, KeypointHead)
    return head


def make_input(
    spec: FeatureSpec, batch: int, image_size: tuple[int, int] = (33, 57), seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = spec.patch_grid(image_size)
    maps = []
    for channels, stride in zip(spec.channels, spec.strides, strict=True):
        cells = spec.patch_size // stride
        maps.append(torch.randn(batch, channels, rows * cells, columns * cells, generator=generator))
    shape = (batch, spec.image_channels, *image_size)
    return maps, torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def full_options(name: str) -> dict[str, object]:
    return {
        "grouping": True,
        "use_image": True,
        "feature_align_dim": "auto",
        **({"anchors": [0, 2]} if name == "relational" else {}),
    }


@pytest.mark.parametrize("image_size", [(33, 57), (1, 1), (32, 64)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", NAMES)
def test_all_maps_cover_the_padded_grid_and_nothing_more(name: str, geometry: str, image_size: tuple[int, int]) -> None:
    spec = make_spec(geometry)
    head = make_head(name, spec, grouping=True).eval()
    with torch.no_grad():
        output = head(*make_input(spec, 2, image_size))
    rows, columns = (side * spec.fine_cells for side in spec.patch_grid(image_size))
    channels = {"heatmaps": 3, "centre": 1, "offsets": 6, "objectness": 1, "boxes": 4, "instance_mask": 1}
    assert head.stride <= 4
    assert set(output) == {"heatmaps", "centre", "offsets"} | EXTRAS[name]
    for key, values in output.items():
        assert tuple(values.shape) == (2, channels[key], rows, columns), key
        assert values.isfinite().all()
        assert values.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_grouping_is_an_option_and_leaves_the_keypoints_alone(name: str) -> None:
    spec = make_spec()
    plain, grouped = (make_head(name, spec, grouping=grouping).eval() for grouping in (False, True))
    assert set(plain(*make_input(spec, 1))) == {"heatmaps"} | EXTRAS[name]
    extra, _ = grouped.load_state_dict(plain.state_dict(), strict=False)
    assert all(key.startswith("grouping.") for key in extra)
    maps, image = make_input(spec, 2)
    assert torch.equal(plain(maps, image)["heatmaps"], grouped(maps, image)["heatmaps"])


@pytest.mark.parametrize("name", NAMES)
def test_keypoints_start_rare(name: str) -> None:
    spec = make_spec()
    output = make_head(name, spec, grouping=True)(*make_input(spec, 2))
    for key in {"heatmaps", "centre", "objectness"} & set(output):
        probabilities = output[key].sigmoid()
        assert probabilities.max() < 0.05
        assert 0.005 < probabilities.mean() < 0.02
    if name == "multitask":
        assert output["boxes"].min() >= 0


@pytest.mark.parametrize("merge", ["concat", "mean", "max"])
@pytest.mark.parametrize("geometry", ["vit14", "convnext"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_in_a_few_steps(name: str, geometry: str, merge: str) -> None:
    spec = make_spec(geometry)
    head = make_head(name, spec, feature_merge=merge, **full_options(name))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05)
    reached = {key: 0.0 for key, _ in head.named_parameters()}
    for seed in range(3):  # gains and gates that start at zero let gradients through after a step
        optimizer.zero_grad()
        output = head(*make_input(spec, 2, seed=seed))
        torch.stack([(value * torch.randn_like(value)).sum() for value in output.values()]).sum().backward()
        for key, parameter in head.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            reached[key] += parameter.grad.abs().sum().item()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    assert [key for key, amount in reached.items() if amount == 0] == []


@pytest.mark.parametrize("use_image", [True, False])
@pytest.mark.parametrize("merge", ["concat", "mean", "max"])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_passes_and_contributes_zero(name: str, merge: str, use_image: bool) -> None:
    spec = make_spec()
    options = {**full_options(name), "dropout": 0.5, "feature_merge": merge, "use_image": use_image}
    head = make_head(name, spec, **options)
    output = head(*make_input(spec, 0))
    assert output["heatmaps"].shape == (0, 3, 12, 20)
    torch.stack([value.sum() for value in output.values()]).sum().backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None, key
        assert not parameter.grad.any(), key


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_seen_where_it_is_asked_for(name: str) -> None:
    spec = make_spec(extra_bands=1)
    maps, image = make_input(spec, 1)
    changed = image.clone()
    changed[:, 3] = 255 - changed[:, 3]
    seeing = make_head(name, spec, use_image=True).eval()
    assert torch.equal(seeing(maps, image)["heatmaps"], seeing(maps, changed)["heatmaps"])  # the features lead at first
    nn.init.ones_(seeing.decoder.join.norm.weight)
    assert not torch.equal(seeing(maps, image)["heatmaps"], seeing(maps, changed)["heatmaps"])
    with pytest.raises(ValueError, match="needs the image"):
        seeing(maps)
    with pytest.raises(SettingsError, match=r"head_options\.use_image: false leaves 1 extra bands unseen"):
        make_head(name, spec)
    blind = make_head(name, make_spec()).eval()
    assert not blind.sees_image
    assert torch.equal(blind(maps)["heatmaps"], blind(maps, image[:, :3])["heatmaps"])


@pytest.mark.parametrize("name", NAMES)
def test_autocast_gives_float32_maps_near_the_exact_ones(name: str) -> None:
    spec = make_spec()
    head = make_head(name, spec, **full_options(name))
    maps, image = make_input(spec, 2)
    exact = head(maps, image)
    with torch.autocast("cpu", torch.bfloat16):
        output = head([feature_map.bfloat16() for feature_map in maps], image)
    torch.stack([value.square().mean() for value in output.values()]).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())
    for key, values in output.items():
        assert values.dtype == torch.float32
        spread = (exact[key] - exact[key].mean(dim=(2, 3), keepdim=True)).abs().mean()
        assert (values - exact[key]).abs().mean() < 0.15 * spread, key


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_fitted_with_a_tenth_of_the_loss(name: str) -> None:
    spec = make_spec("vit16")
    head = make_head(name, spec, num_keypoints=4, **full_options(name))
    maps, image = make_input(spec, 2, (48, 64))
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(2, 4, 2, generator=generator) * torch.tensor([16.0, 12.0])  # in cells
    heatmaps = draw_gaussians(points, (12, 16))
    shapes = {key: value.shape for key, value in head(maps, image).items() if key != "heatmaps"}
    target = {
        key: torch.rand(*shape[:2], 1, 1, generator=generator).round().expand(shape) for key, shape in shapes.items()
    }
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)

    def loss() -> Tensor:
        output = head(maps, image)
        # the entropy of a target that is no 0 or 1 cannot be fitted away
        floor = F.binary_cross_entropy(heatmaps, heatmaps)
        total = 10 * (F.binary_cross_entropy_with_logits(output["heatmaps"], heatmaps) - floor)
        for key, values in target.items():
            distance = F.l1_loss if key in ("offsets", "boxes") else F.binary_cross_entropy_with_logits
            total = total + 0.1 * distance(output[key], values)
        return total

    first = loss().item()
    for _ in range(150):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < first / 10
    peaks = head(maps, image)["heatmaps"].flatten(2).argmax(dim=-1)
    found = torch.stack([peaks % 16, peaks // 16], dim=-1) + 0.5
    assert (found - points).abs().max() <= 1.0


def draw_gaussians(points: Tensor, size: tuple[int, int], sigma: float = 1.0) -> Tensor:
    """Maps (B, K, rows, columns) with a peak at points (B, K, 2) in cells."""
    rows, columns = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    squared_x = (columns - points[..., 0:1]).square()[:, :, None]
    squared_y = (rows - points[..., 1:2]).square()[..., None]
    return (-(squared_x + squared_y) / (2 * sigma**2)).exp()


def test_the_place_within_a_patch_is_read_from_the_picture() -> None:
    """Features that are the same for every place of the dot in its patch leave the picture to tell it."""
    spec = FeatureSpec((4,), (16,), 16, 3, (0.5,) * 3, (0.25,) * 3)
    head = make_head("conv", spec, num_keypoints=1, use_image=True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    def draw(batch: int) -> tuple[list[Tensor], Tensor, Tensor]:
        points = 4 + torch.rand(batch, 1, 2, generator=generator) * torch.tensor([56.0, 40.0])  # in pixels
        dots = 255 * draw_gaussians(points, (48, 64), sigma=2.0).expand(-1, 3, -1, -1)
        patches = (points[:, 0] // 16).long()
        maps = torch.zeros(batch, 4, 3, 4)
        maps[torch.arange(batch), :, patches[:, 1], patches[:, 0]] = torch.tensor([2.0, -1.0, 1.0, -2.0])
        return [maps], dots, points

    for _ in range(120):
        maps, image, points = draw(8)
        optimizer.zero_grad()
        output = head(maps, image)["heatmaps"]
        F.binary_cross_entropy_with_logits(output, draw_gaussians(points / 4, (12, 16))).backward()
        optimizer.step()
    maps, image, points = draw(64)
    weights = head.eval()(maps, image)["heatmaps"].sigmoid().square()
    weights = weights / weights.sum(dim=(2, 3), keepdim=True)
    x = (weights.sum(dim=2) * (torch.arange(16) + 0.5)).sum(dim=-1)
    y = (weights.sum(dim=3) * (torch.arange(12) + 0.5)).sum(dim=-1)
    error = (torch.stack([x, y], dim=-1) * head.stride - points).norm(dim=-1)
    assert error.median() < 0.25 * head.stride


@pytest.mark.parametrize("name", NAMES)
def test_a_head_repeats_itself_and_survives_its_state_dict(name: str) -> None:
    spec = make_spec()
    first, second = (make_head(name, spec, **full_options(name)).eval() for _ in range(2))
    maps, image = make_input(spec, 1)
    assert torch.equal(first(maps, image)["heatmaps"], second(maps, image)["heatmaps"])
    for parameter in first.parameters():
        nn.init.normal_(parameter)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(maps, image)["heatmaps"], second(maps, image)["heatmaps"])


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_batch_do_not_see_each_other(name: str) -> None:
    spec = make_spec()
    head = make_head(name, spec, **full_options(name)).eval()
    maps, image = make_input(spec, 2)
    both, alone = head(maps, image), head([feature_map[1:] for feature_map in maps], image[1:])
    for key, values in both.items():
        torch.testing.assert_close(values[1:], alone[key], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_while_training_only(name: str) -> None:
    spec = make_spec()
    head = make_head(name, spec, dropout=0.5)
    for parameter in head.parameters():  # gains that start at zero would hide it
        nn.init.normal_(parameter, std=0.3)
    maps, image = make_input(spec, 1)
    assert not torch.equal(head(maps, image)["heatmaps"], head(maps, image)["heatmaps"])
    assert torch.equal(head.eval()(maps, image)["heatmaps"], head(maps, image)["heatmaps"])


@pytest.mark.parametrize("options", [{}, {"grouping": True}, {"use_image": True}])
@pytest.mark.parametrize("name", NAMES)
def test_first_and_last_layers_are_left_to_adamw(name: str, options: dict[str, bool]) -> None:
    head = make_head(name, make_spec(), **options)
    hidden, rest = split_parameters(head)  # refuses names that do not exist
    last = {"conv": "classifier.weight", "multitask": "boxes.weight", "relational": "mask_embedding.2.weight"}[name]
    assert last in rest
    assert ("grouping.offsets.weight" in rest) == bool(options.get("grouping"))
    assert any(key.startswith("decoder.join.detail.stem") for key in rest) == options.get("use_image", False)
    assert {kernel.name for kernel in hidden} >= {"decoder.stem.0.weight", "decoder.trunk.0.second.weight"}


@pytest.mark.parametrize("name", NAMES)
def test_statistics_of_a_batch_are_never_used_and_parameters_are_counted(name: str) -> None:
    head = make_head(name, make_spec(), **full_options(name))
    assert not any("batchnorm" in type(module).__name__.lower() for module in head.modules())
    assert list(head.buffers()) == list(head.decoder.join.detail.buffers())  # the normalisation of the picture
    assert head.num_parameters == sum(parameter.numel() for parameter in head.parameters())


@pytest.mark.parametrize(
    ("name", "least", "most"), [("conv", 4e5, 8e5), ("multitask", 4e5, 8e5), ("relational", 8e5, 13e5)]
)
def test_the_default_size_for_a_small_backbone(name: str, least: float, most: float) -> None:
    spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.5,) * 3, (0.25,) * 3)
    assert least < build_head("keypoints", name, spec, 17, {}).num_parameters < most


@pytest.mark.parametrize("name", NAMES)
def test_options_are_frozen_strict_and_described(name: str) -> None:
    options = find_head("keypoints", name).Options
    assert options.model_config["frozen"]
    assert all(field.description for field in options.model_fields.values())


def test_wrong_options_are_told_all_at_once() -> None:
    given = {"feature_merge": "sum", "feature_align_dim": "wide", "dropout": 1.0, "widht": 8, "use_image": "no"}
    with pytest.raises(SettingsError) as caught:
        build_head("keypoints", "conv", make_spec(), 2, given)
    wrong = {line.split(": ")[0].removeprefix("model.head_options."): line for line in str(caught.value).splitlines()}
    assert set(wrong) == set(given)
    assert wrong["feature_merge"].endswith("expected 'concat', 'mean' or 'max', got str 'sum'")
    assert wrong["feature_align_dim"].endswith("expected int or 'auto', got str 'wide'")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("conv", {"heads": 4}, r"model\.head_options\.heads: unknown key"),
        ("relational", {"width": 30}, r"model\.head_options: width must be a multiple of 4 and of heads \(4\), got 30"),
        (
            "relational",
            {"anchors": [0, 3]},
            r"head_options\.anchors: expected different keypoints of 0 to 2, got \[0, 3\]",
        ),
        (
            "relational",
            {"anchors": [1, 1]},
            r"head_options\.anchors: expected different keypoints of 0 to 2, got \[1, 1\]",
        ),
        ("relational", {"anchors": [-1]}, r"head_options\.anchors\.0: expected greater than or equal to 0, got int -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_head(name, make_spec(), **options)


def test_blocks_of_unequal_width_are_joined_after_an_alignment_only() -> None:
    spec = make_spec("convnext")
    for merge in ("mean", "max"):
        with pytest.raises(
            SettingsError, match=f"feature_merge: {merge} needs blocks of equal width, got 4, 6, 8, 10 "
        ):
            make_head("conv", spec, feature_merge=merge)
        assert make_head("conv", spec, feature_merge=merge, feature_align_dim=5)(*make_input(spec, 1))
    with pytest.raises(ValueError, match="num_keypoints must be at least 1, got 0"):
        make_head("conv", spec, num_keypoints=0)


def test_normalized_blocks_do_not_know_their_scale() -> None:
    spec = make_spec()
    maps, _ = make_input(spec, 1)
    scaled = [feature_map * factor for feature_map, factor in zip(maps, (1, 10, 100, 1000), strict=True)]
    for merge in ("concat", "mean", "max"):
        merged = MergedMaps(spec, KeypointOptions(feature_merge=merge))
        torch.testing.assert_close(merged(maps), merged(scaled), atol=1e-4, rtol=1e-4)
    plain = MergedMaps(spec, KeypointOptions(feature_merge="max", normalize_features=False))
    assert torch.equal(plain(maps), torch.stack(maps).amax(dim=0))


def test_maps_of_a_pyramid_are_pooled_to_the_patch_grid_and_join_at_their_own() -> None:
    spec = make_spec("convnext")
    head = make_head("conv", spec).eval()
    maps, _ = make_input(spec, 1, (64, 96))
    checkered = [feature_map.clone() for feature_map in maps]
    checkered[0][:, :, ::2, ::2] += 5  # the same mean for every patch: only the fine grid can tell these cells
    before, after = head(maps)["heatmaps"], head(checkered)["heatmaps"]
    moved = (before - after).abs()
    assert moved[..., ::2, ::2].mean() > 1.5 * moved[..., 1::2, 1::2].mean()


def test_anchors_are_heard_once_their_gate_opens() -> None:
    spec = make_spec()
    head = make_head("relational", spec, anchors=[1]).eval()
    deaf = make_head("relational", spec).eval()
    deaf.load_state_dict({key: value for key, value in head.state_dict().items() if key in deaf.state_dict()})
    maps, image = make_input(spec, 1)
    torch.testing.assert_close(head(maps, image)["heatmaps"], deaf(maps, image)["heatmaps"])
    for layer in head.layers:
        nn.init.ones_(layer.gate)
    assert not torch.allclose(head(maps, image)["heatmaps"], deaf(maps, image)["heatmaps"])
