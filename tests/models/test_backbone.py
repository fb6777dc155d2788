import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models.backbone import load_backbone
from models.backbones.info import describe_backbone, has_bfloat16
from models.backbones.random_backbone import write_random_backbone
from models.backbones.student import count_multiply_adds
from models.backbones.weights import EMBEDDED_FOLDER, FAMILIES, IMAGENET, quiet_transformers
from tests.models.local_backbone import write_local_backbone
from utils.errors import SettingsError

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "models" / "dinov2-small"
VITS = sorted(name for name, family in FAMILIES.items() if family.is_vit)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {name: write_random_backbone(root / name, name, width=16, depth=3, heads=2) for name in FAMILIES}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return str(write_local_backbone(tmp_path_factory.mktemp("local")))


def make_images(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def load_reference(folder, family):
    """The whole model as transformers gives it."""
    import transformers

    with quiet_transformers():
        model = getattr(transformers, f"{FAMILIES[family].prefix}Model").from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def normalize(images, mean=IMAGENET[0], std=IMAGENET[1]):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (images.float() / 255 - mean) / std


# ------------------------------------------------------------------------------------------------ what the maps are


@pytest.mark.parametrize("family", VITS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_maps_of_a_vit_are_normed_hidden_states_without_prefix_tokens(folders, family, attention):
    images = make_images(2, 12, 20)
    with torch.no_grad():
        reference = load_reference(folders[family], family)
        output = reference(normalize(images), output_hidden_states=True)
        norm = reference.get_submodule(FAMILIES[family].norm)
        expected = [norm(output.hidden_states[i + 1])[:, -15:].transpose(1, 2).reshape(2, 16, 3, 5) for i in range(3)]
        last = output.last_hidden_state[:, -15:].transpose(1, 2).reshape(2, 16, 3, 5)
    backbone = load_backbone(str(folders[family]), [0, 2, 1], precision="fp32", attention=attention)
    maps = backbone(images)
    for index, found in zip((0, 2, 1), maps, strict=True):
        torch.testing.assert_close(found, expected[index], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[1], last, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(maps[0], maps[1], atol=0.1)


def test_stages_of_a_convnext_come_as_they_are_and_only_the_last_is_normed(folders):
    images = make_images(2, 64, 96)
    folder = folders["dinov3_convnext"]
    with torch.no_grad():
        reference = load_reference(folder, "dinov3_convnext")
        output = reference(normalize(images), output_hidden_states=True)
    maps = load_backbone(str(folder), range(4), precision="fp32")(images)
    assert [tuple(map.shape) for map in maps] == [(2, 16, 16, 24), (2, 32, 8, 12), (2, 64, 4, 6), (2, 128, 2, 3)]
    for stage in range(3):
        torch.testing.assert_close(maps[stage], output.hidden_states[stage + 1], rtol=1e-4, atol=1e-4)
    # Behind the pooled token, last_hidden_state is the normed last stage.
    torch.testing.assert_close(
        maps[3].flatten(2).transpose(1, 2), output.last_hidden_state[:, 1:], rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(maps[3], output.hidden_states[4], atol=0.1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("size", [(1, 1), (7, 30), (32, 33), (4, 128)])
def test_maps_cover_the_padded_grid_for_any_size(folders, family, size):
    backbone = load_backbone(str(folders[family]), [0, -1])
    maps = backbone(make_images(1, *size))
    assert [tuple(map.shape[2:]) for map in maps] == backbone.info.feature_grid(size)
    assert all(map.isfinite().all() and map.is_contiguous() and map.dtype == torch.float32 for map in maps)
    height, width = backbone.info.padded(size)
    assert height % backbone.info.patch_size == width % backbone.info.patch_size == 0
    assert 0 <= height - size[0] < backbone.info.patch_size
    assert list(backbone.info.channels) == [map.shape[1] for map in maps]


def test_padding_continues_the_picture_by_reflection(folders):
    backbone = load_backbone(str(folders["dinov2"]), [-1], precision="fp32")
    image = make_images(1, 9, 14)
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 3), (0, 2)), mode="reflect")
    assert torch.equal(backbone(image)[0], backbone(torch.from_numpy(padded))[0])


def test_a_batch_gives_what_its_pictures_give_alone_as_bytes_or_floats(folders):
    backbone = load_backbone(str(folders["dinov3_vit"]), [0, 2], precision="fp32")
    images = make_images(3, 10, 16)
    together = backbone(images)
    for index in range(3):
        alone = backbone(images[index : index + 1].float())
        for whole, single in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[index : index + 1], single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_empty_batch_gives_empty_maps(folders, family):
    backbone = load_backbone(str(folders[family]), [1, 0])
    shapes = [tuple(map.shape) for map in backbone(make_images(0, 33, 50))]
    assert shapes == [(0, *map.shape[1:]) for map in backbone(make_images(1, 33, 50))]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"shape \(B, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(1, 4, 8, 8), r"got \(1, 4, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8), r"got \(1, 3, 0, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int32), "uint8 or floating point"),
    ],
)
def test_other_shapes_and_types_are_refused(folders, images, message):
    backbone = load_backbone(str(folders["dinov2"]), [0])
    with pytest.raises(ValueError, match=message):
        backbone(images)


def test_blocks_behind_the_last_chosen_one_are_dropped(folders):
    whole = load_backbone(str(folders["dinov2"]), [0, 2], precision="fp32")
    early = load_backbone(str(folders["dinov2"]), [-3], precision="fp32")
    assert (len(early.blocks), early.info.num_blocks) == (1, 3)
    images = make_images(1, 8, 12)
    assert torch.equal(early(images)[0], whole(images)[0])
    assert early.info.digest == whole.info.digest


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([3], "block 3 does not exist; there are 3 blocks, 0 to 2"),
        ([-4], "block -4 does not exist"),
        ([2, -1], "block 2 is named twice"),
        ([], "at least one"),
    ],
)
def test_layers_that_do_not_exist_or_repeat_are_refused(folders, layers, message):
    with pytest.raises(SettingsError, match=message):
        load_backbone(str(folders["dinov2"]), layers)


# ------------------------------------------------------------------------------------------- frozen, tuned, precision


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_it_stays_in_evaluation_mode_and_without_gradients(folders, family):
    backbone = load_backbone(str(folders[family]), [0, -1])
    images = make_images(1, 32, 32)
    before = backbone(images)
    torch.nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())
    after = backbone(images)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(before, after, strict=True))
    # A head must be able to learn from the maps: inference tensors could not enter its graph.
    weight = torch.ones(1, requires_grad=True)
    (after[0] * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("blocks", [1, True])
def test_every_tuned_weight_gets_a_gradient_and_no_other(folders, family, blocks):
    backbone = load_backbone(str(folders[family]), [0, 1], precision="fp32")
    tuned = backbone.unfreeze(blocks)
    sum(
        (map * torch.linspace(-1, 1, map.numel()).view_as(map)).sum() for map in backbone(make_images(2, 32, 64))
    ).backward()
    with_gradient = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert len(tuned) == len(with_gradient)
    assert all(p.grad.isfinite().all() for p in tuned)
    first = [name for name in with_gradient if name.startswith(f"model.{FAMILIES[family].blocks}.0.")]
    assert bool(first) == (blocks is True)


def test_impossible_numbers_of_tuned_blocks_are_refused(folders):
    first = load_backbone(str(folders["dinov2"]), [-1], precision="fp32")
    with pytest.raises(SettingsError, match="expected 1 to 3 blocks"):
        first.unfreeze(4)
    with pytest.raises(SettingsError, match="got 0"):
        first.unfreeze(0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_bfloat16_is_only_computed_with_and_close_to_float32(folders, family):
    images = make_images(1, 32, 48)
    exact, rounded = (load_backbone(str(folders[family]), [0, -1], precision=p) for p in ("fp32", "bf16"))
    assert (exact.info.precision_in_use, rounded.info.precision_in_use) == ("fp32", "bf16")
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.float32}
    for a, b in zip(exact(images), rounded(images), strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert torch.nn.functional.cosine_similarity(a, b, dim=1).min() > 0.99


def test_auto_precision_follows_the_hardware(folders):
    expected = "bf16" if has_bfloat16("cpu") else "fp32"
    assert load_backbone(str(folders["dinov2"]), [0]).info.precision_in_use == expected
    flags = Path("/proc/cpuinfo")
    if flags.exists() and "flags" in flags.read_text():
        words = flags.read_text().split()
        assert has_bfloat16("cpu") == bool({"avx512_bf16", "amx_bf16"} & set(words))


def test_words_that_are_not_known_are_refused(folders):
    source = str(folders["dinov2"])
    with pytest.raises(SettingsError, match="float16 overflows"):
        load_backbone(source, [0], precision="fp16")
    with pytest.raises(SettingsError, match="unknown attention 'flash'; known: sdpa, eager"):
        load_backbone(source, [0], attention="flash")
    with pytest.raises(SettingsError, match="unknown device 'gpu'"):
        load_backbone(source, [0], device="gpu")
    with pytest.raises(SettingsError, match="CUDA devices; use cpu"):
        load_backbone(source, [0], device="cuda:99")


def test_compile_is_set_up_block_by_block(folders):
    plain, compiled = (load_backbone(str(folders["dinov2"]), [1], precision="fp32", compile=c) for c in (False, True))
    assert all(block._compiled_call_impl is not None for block in compiled.blocks)
    assert all(block._compiled_call_impl is None for block in plain.blocks)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


# ------------------------------------------------------------------------------------------------ what is said of it


def test_info_can_be_written_down(folders):
    info = load_backbone(str(folders["dinov3_convnext"]), [-1, 0]).info
    assert json.loads(json.dumps(dataclasses.asdict(info)))["strides"] == [32, 4]
    assert (info.patch_size, info.channels, info.attention) == (32, (128, 16), "none")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_describing_and_loading_agree(folders, family):
    options = {"precision": "bf16", "attention": "eager"}
    described = describe_backbone(str(folders[family]), [-1, 0], **options)
    assert described == load_backbone(str(folders[family]), [-1, 0], **options).info
    for source in folders.values():
        assert (describe_backbone(str(source), [0]).digest == described.digest) == (source == folders[family])


# ---------------------------------------------------------------------------------------------- the embedded backbone


def test_the_embedded_backbone_is_small_says_where_it_comes_from_and_loads():
    assert (EMBEDDED_FOLDER / "model.safetensors").stat().st_size < 12_000_000
    card = (EMBEDDED_FOLDER / "README.md").read_text()
    assert all(part in card for part in ("apache-2.0", "dinov2-small", "OpenAerialMap", "| epoch | train loss |"))
    assert not re.search(r"/(work|tmp|home)/", card), "a path of the machine that made it"
    info = load_backbone("embedded", [0, 1, 2]).info
    assert (info.id, info.licence, info.patch_size, info.channels) == ("embedded", "apache-2.0", 16, (384, 384, 384))


def test_the_embedded_backbone_is_five_times_cheaper_than_its_teacher():
    teacher = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14, "mlp_ratio": 4}
    own = json.loads((EMBEDDED_FOLDER / "config.json").read_text())
    for side in (224, 518):
        theirs = count_multiply_adds("dinov2", teacher, (side, side))
        assert theirs >= 5 * count_multiply_adds(own["model_type"], own, (side, side))


# ------------------------------------------------------------------------------- the backbone that looks no farther


def test_local_features_do_not_depend_on_place_but_on_what_is_near(local):
    backbone = load_backbone(local, [5], precision="fp32")
    even = backbone(torch.full((1, 3, 128, 192), 90.0))[0]
    assert even.std(dim=(2, 3)).max() < 0.02
    image = torch.full((1, 3, 160, 160), 90.0)
    image[..., 80:96, 80:96] = make_images(1, 16, 16)
    change = (backbone(image)[0] - backbone(torch.full_like(image, 90.0))[0]).norm(dim=1)[0]
    assert change[5, 5] > 2 * change[5, 6] > 10 * change[0, 0]


def test_colour_can_be_read_linearly_from_every_local_block(local):
    backbone = load_backbone(local, range(6), precision="fp32")
    colours = torch.randint(40, 216, (3, 12, 16), generator=torch.Generator().manual_seed(0)).float()
    noise = 20 * torch.randn(3, 192, 256, generator=torch.Generator().manual_seed(1))
    image = colours.repeat_interleave(16, 1).repeat_interleave(16, 2) + noise
    target = colours.flatten(1).T
    for map in backbone(image[None]):
        tokens = torch.cat([map[0].flatten(1).T, torch.ones(192, 1)], dim=1)
        weights = torch.linalg.lstsq(tokens[:150].double(), target[:150].double()).solution
        error = tokens[150:].double() @ weights - target[150:]
        assert 1 - error.var() / target[150:].var() > 0.5


def test_the_local_backbone_is_the_same_byte_for_byte(local, tmp_path):
    write_local_backbone(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (Path(local) / path.name).read_bytes(), path.name


# --------------------------------------------------------------------------------------------------- trained weights


@pytest.fixture(scope="module")
def real():
    if not (REAL / "model.safetensors").exists():
        pytest.skip(f"no trained DINOv2-S at {REAL}")
    return str(REAL)


@pytest.mark.real_data
@pytest.mark.parametrize("size", [(101, 131), (56, 224)])
def test_trained_blocks_equal_hidden_states_at_odd_sizes(real, size):
    images = make_images(2, *size)
    backbone = load_backbone(real, [2, 5, 11], precision="fp32")
    rows, columns = backbone.info.feature_grid(size)[0]
    padded = np.pad(
        images.numpy(), [(0, 0), (0, 0), (0, rows * 14 - size[0]), (0, columns * 14 - size[1])], mode="reflect"
    )
    with torch.no_grad():
        model = load_reference(real, "dinov2")
        states = model(normalize(torch.from_numpy(padded)), output_hidden_states=True).hidden_states
    for index, found in zip((2, 5, 11), backbone(images), strict=True):
        with torch.no_grad():
            expected = model.layernorm(states[index + 1])[:, 1:].transpose(1, 2).reshape(2, 384, rows, columns)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.real_data
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trained_features_in_bfloat16_are_close_to_float32(real, attention):
    image = torch.nn.functional.interpolate(make_images(1, 8, 10).float(), (168, 224), mode="bicubic").clamp(0, 255)
    exact = load_backbone(real, [3, -1], precision="fp32")(image)
    rounded = load_backbone(real, [3, -1], precision="bf16", attention=attention)(image)
    for a, b in zip(exact, rounded, strict=True):
        assert torch.nn.functional.cosine_similarity(a, b, dim=1).min() > 0.98


@pytest.mark.real_data
def test_trained_weights_are_described(real):
    info = load_backbone(real, [-1]).info
    assert (info.family, info.patch_size, info.num_blocks, info.channels) == ("dinov2", 14, 12, (384,))
    assert (info.mean, info.std) == IMAGENET
    assert info.licence == "unknown"
