"""A student that begins as blocks of its teacher: same maps where sizes agree, nearly the same where patches grow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models import build_head
from models.backbone import Backbone, load_backbone
from models.backbones.inheritance import resample_patches, resample_positions
from models.backbones.random_backbone import write_random_backbone
from models.backbones.student import Student
from models.backbones.transformer_students import TransformerStudent
from models.backbones.weights import IMAGENET
from models.base import FeatureSpec
from utils.errors import SettingsError

TEACHER = {"width": 16, "depth": 4, "heads": 2, "patch_size": 4}
OPTIONS = {"width": 16, "depth": 2, "heads": 2, "patch_size": 4, "mlp_ratio": 2}
STUDENTS = {"dinov2": "dinov2", "dinov2_with_registers": "dinov2", "dinov3_vit": "vit"}


def teacher(folder, family: str = "dinov2", layers: tuple[int, ...] = (0, 1), **options) -> Backbone:
    return load_backbone(str(write_random_backbone(folder, family, **{**TEACHER, **options})), layers, precision="fp32")


def student(name: str = "dinov2", **options) -> TransformerStudent:
    torch.manual_seed(0)
    made = build_head("distill", name, FeatureSpec((16, 16), (4, 4), 4, 3, *IMAGENET), 2, {**OPTIONS, **options})
    assert isinstance(made, TransformerStudent)
    return made


def own_options(family: str, large: Backbone) -> dict:
    config = large.model.config
    if family == "dinov3_vit":
        return {"registers": config.num_register_tokens}
    return {"positions": config.image_size // config.patch_size}


def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 24, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("family", ["dinov2", "dinov3_vit"])
def test_the_first_blocks_give_the_maps_of_the_teacher(family, tmp_path):
    large = teacher(tmp_path, family)
    small = student(STUDENTS[family], inherit=[0, 1], **own_options(family, large))
    before = small.backbone(pictures())
    small.inherit_from(large)
    for own, theirs, random in zip(small.backbone(pictures()), large(pictures()), before, strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
        assert (random - theirs).abs().max() > 0.1


def test_other_blocks_are_those_that_were_named(tmp_path):
    large, small = teacher(tmp_path, layers=(3,)), student(inherit=[-1, 1])
    small.inherit_from(large)
    for own, theirs in ((0, 3), (1, 1)):
        expected = large.blocks[theirs].state_dict()
        assert all(
            torch.equal(value, expected[name]) for name, value in small.backbone.blocks[own].state_dict().items()
        )


def test_registers_of_the_teacher_stay_behind(tmp_path):
    large, small = teacher(tmp_path, "dinov2_with_registers"), student(inherit=[0, 1])
    small.inherit_from(large)
    assert torch.equal(small.backbone.blocks[1].norm1.weight, large.blocks[1].norm1.weight)


def test_larger_patches_see_an_enlarged_picture_as_the_teacher_sees_the_picture(tmp_path):
    large = teacher(tmp_path)
    config = large.model.config
    small = student(inherit=[0, 1], patch_size=6, positions=config.image_size // config.patch_size)
    small.inherit_from(large)
    image = F.interpolate(torch.rand(1, 3, 6, 8), size=(24, 32), mode="bicubic") * 255  # patches resized one by one ...
    patches = F.unfold(image, 4, stride=4).transpose(1, 2).reshape(-1, 3, 4, 4)  # ... as interpolation sees edges
    enlarged = F.interpolate(patches, size=(6, 6), mode="bilinear")
    tall = F.fold(enlarged.reshape(1, 48, -1).transpose(1, 2), (36, 48), 6, stride=6)
    torch.testing.assert_close(small.backbone(tall)[1], large(image)[1], atol=1e-3, rtol=1e-3)


def test_a_kernel_of_smaller_patches_is_the_nearest_that_there_is():
    kernel = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    small = resample_patches(kernel, 4)
    patches = torch.randn(400, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    shrunk = F.interpolate(patches, size=(4, 4), mode="bilinear")

    def miss(candidate: torch.Tensor) -> float:
        # over all patches the mean square is the sum of squares of what a pixel of the large kernel is not given
        units = F.interpolate(torch.eye(36).view(36, 1, 6, 6), size=(4, 4), mode="bilinear").flatten(1)
        return float((candidate.flatten(2) @ units.T - kernel.flatten(2)).square().sum())

    least = miss(small)
    for seed in range(5):
        nudge = torch.randn(small.shape, generator=torch.Generator().manual_seed(seed))
        assert miss(small + 0.01 * nudge) > least
    given = torch.einsum("dcij,ncij->nd", small, shrunk)
    assert (
        float(
            torch.corrcoef(torch.stack([given.flatten(), torch.einsum("dcij,ncij->nd", kernel, patches).flatten()]))[
                0, 1
            ]
        )
        > 0.5
    )


def test_positions_of_the_same_grid_stay_and_a_constant_stays_constant():
    positions = torch.randn(1, 1 + 25, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample_positions(positions, 25), positions)
    constant = torch.cat([positions[:, :1], torch.ones(1, 25, 3)], dim=1)
    torch.testing.assert_close(resample_positions(constant, 9)[:, 1:], torch.ones(1, 9, 3))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("dinov2", {"inherit": [0]}, "1 blocks of the teacher for 2 of the student"),
        ("dinov2", {"inherit": [0, 4]}, "block 4 does not exist; there are 4 blocks"),
        ("dinov2", {"inherit": [0, 2]}, "block 2 of the teacher lies behind block 1, the last that is learnt"),
        ("dinov2", {"inherit": [0, 1], "heads": 4}, "heads: 4, but the teacher, .* has 2"),
        ("dinov2", {"inherit": [0, 1], "mlp_ratio": 4}, "mlp_ratio: 4.0, but the teacher, .* has 2.0"),
        ("dinov2", {"inherit": [0, 1], "width": 8}, "width: 8, but the teacher, .* has 16"),
        ("dinov3_vit", {"inherit": [0, 1]}, "the teacher is a dinov3_vit, the student a dinov2"),
    ],
)
def test_what_cannot_be_inherited_is_refused_with_and_without_the_weights(family, options, message, tmp_path):
    large = teacher(tmp_path, family)
    with pytest.raises(SettingsError, match=message):
        student(**options).inherit_from(large)
    with pytest.raises(SettingsError, match=message):
        student(**options).check_teacher(large.info)


def test_registers_that_the_teacher_does_not_have_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"register_tokens has the shape \(1, 2, 16\) in the teacher"):
        student("vit", inherit=[0, 1], registers=3).inherit_from(teacher(tmp_path, "dinov3_vit"))


def test_one_block_may_learn_several_of_the_teachers():
    small = student(layers=[1, 1])
    assert small.learners == (1, 1)
    assert small.backbone.info.layers == (1,)
    found = small([torch.zeros(2, 16, 6, 8)] * 2, pictures())
    assert [tuple(one.shape) for one in found.values()] == [(2, 16, 6, 8)] * 2
    assert not torch.equal(found["predicted_0"], found["predicted_1"]), "each has a projection of its own"
    assert isinstance(small, Student)
