"""Students: what they cost, that every weight learns and is served, and that a written folder gives their maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models import HEADS, build_head
from models.backbone import load_backbone
from models.backbones.random_backbone import write_backbone_folder, write_random_backbone
from models.backbones.student import Student, count_multiply_adds
from models.backbones.transformer_students import VitOptions, VitStudent
from models.backbones.weights import IMAGENET, read_json_object
from models.base import FeatureSpec
from utils.errors import SettingsError
from utils.optim import split_parameters

VIT_SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14, "mlp_ratio": 4}
SMALL: dict[str, dict[str, Any]] = {
    "vit": {"width": 16, "depth": 2, "heads": 2, "registers": 1, "patch_size": 8},
    "convnext": {"widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "dinov2": {"width": 16, "depth": 2, "heads": 2, "patch_size": 8, "positions": 5},
}
SPEC = FeatureSpec((6, 10), (14, 14), 14, 3, *IMAGENET)


def make(name: str, spec: FeatureSpec = SPEC, **options) -> Student:
    torch.manual_seed(0)
    student = build_head("distill", name, spec, len(spec.channels), {**SMALL[name], **options})
    assert isinstance(student, Student)
    return student


def pictures(count: int = 2, height: int = 32, width: int = 64) -> torch.Tensor:
    noise = np.random.default_rng(1).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(noise)


def test_every_student_is_small_in_these_tests():
    assert set(SMALL) == set(HEADS["distill"])


@pytest.mark.parametrize("side", [224, 518])
@pytest.mark.parametrize("name", sorted(HEADS["distill"]))
def test_a_default_student_is_five_times_cheaper_than_a_small_vit_and_fits_into_12_mb(name, side):
    spec = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, *IMAGENET)
    student = build_head("distill", name, spec, 4, {})
    assert sum(array.nbytes for array in student.tensors().values()) < 12e6
    own = count_multiply_adds(student.backbone.info.family, student.config, (side, side))
    assert 5 * own <= count_multiply_adds("dinov2", VIT_SMALL, (side, side))


@pytest.mark.parametrize("family", ["dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext"])
def test_the_count_of_multiplications_is_that_of_what_runs(family, tmp_path):
    folder = write_random_backbone(tmp_path, family, width=16, depth=2, patch_size=8)
    size = (64, 96)
    backbone = load_backbone(str(folder), [-1], attention="eager" if family != "dinov3_convnext" else "sdpa")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.zeros(1, 3, *size))
    counted = count_multiply_adds(family, read_json_object(folder / "config.json"), size)
    assert 2 * counted == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", sorted(HEADS["distill"]))
def test_every_trained_weight_has_a_gradient(name):
    student = make(name)
    maps = [torch.zeros(2, channels, 2, 4) for channels in SPEC.channels]
    found = student(maps, pictures(), torch.tensor([[1.3, 0.8], [0.7, 1.0]]))
    sum(output.square().sum() for output in found.values()).backward()
    without = [name for name, weight in student.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not without
    assert [tuple(output.shape) for output in found.values()] == [(2, 6, 2, 4), (2, 10, 2, 4)]


def test_muon_serves_the_matrices_of_the_blocks_and_nothing_else():
    hidden, rest = split_parameters(make("vit"))
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    assert {kernel.name.rpartition(".")[0].rpartition(".")[2] for kernel in hidden} == set(parts)
    assert len(hidden) == 2 * len(parts)
    assert any("patch_embeddings" in name for name in rest)
    assert any("projections" in name for name in rest)
    assert not any("mask_token" in name for name in rest), "nothing masks patches here"
    hidden, rest = split_parameters(make("convnext"))
    assert not any("stages.0.downsample" in kernel.name or "depthwise" in kernel.name for kernel in hidden)
    assert any("pointwise" in kernel.name for kernel in hidden)


@pytest.mark.parametrize("name", sorted(HEADS["distill"]))
def test_a_picture_is_seen_the_same_in_any_company(name):
    student = make(name).train()
    images, stretch = pictures(3), torch.tensor([[1.3, 0.8], [0.7, 1.0], [1.0, 1.0]])
    maps = [torch.zeros(3, channels, 2, 4) for channels in SPEC.channels]
    together = student(maps, images, stretch)["predicted_1"]
    alone = [student([one[:1] for one in maps], images[i : i + 1], stretch[i : i + 1])["predicted_1"] for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_positions_that_are_not_stretched_are_those_of_transformers():
    student = make("vit")
    images = pictures()
    plain, by_one = (student.backbone(images, stretch) for stretch in (None, torch.ones(2, 2)))
    torch.testing.assert_close(by_one[1], plain[1], atol=1e-6, rtol=1e-5)
    assert (student.backbone(images, torch.full((2, 2), 1.5))[1] - plain[1]).abs().max() > 1e-4


def test_the_stretch_stays_in_its_bounds_and_fills_them():
    student = make("vit", position_rescale=2.0, position_jitter=1.25)
    drawn = np.array([student.draw_stretch(np.random.default_rng(seed)) for seed in range(300)])
    assert drawn.min() > 1 / 2.5
    assert drawn.max() < 2.5
    assert drawn.max() > 2
    assert np.abs(np.log(drawn[:, 0] / drawn[:, 1])).max() < 2 * np.log(1.25)


@pytest.mark.parametrize("name", sorted(HEADS["distill"]))
def test_a_written_student_loads_as_a_backbone_and_gives_its_maps(name, tmp_path):
    student = make(name)
    info = student.backbone.info
    write_backbone_folder(tmp_path, student.config, student.tensors(), (info.mean, info.std))
    loaded = load_backbone(str(tmp_path), info.layers, precision="fp32")
    assert (loaded.info.channels, loaded.info.strides) == (info.channels, info.strides)
    with torch.no_grad():
        pairs = list(zip(loaded(pictures()), student.backbone(pictures()), strict=True))
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert float((ours - theirs).norm() / theirs.norm()) < 2e-3
        assert not torch.equal(ours, theirs), (
            "float16 cannot hold all digits; is the comparison one of a thing with itself?"
        )


def test_a_student_sees_larger_grids_than_it_was_made_for():
    student = make("vit")
    assert [tuple(one.shape) for one in student.backbone(pictures(1, 200, 136))] == [(1, 16, 25, 17)] * 2


def test_the_teachers_channels_travel_with_the_weights():
    student = make("vit")
    student.projections[0].set_target_stats(torch.arange(6.0), torch.full((6,), 2.0))
    kept = {name: value for name, value in student.state_dict().items() if name.startswith("projections.0")}
    assert kept["projections.0.mean"].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(kept["projections.0.deviation"].tolist()) == {2.0}


def test_the_precision_of_a_student_can_be_chosen_and_its_weights_stay_exact():
    student = make("vit")
    exact = student.backbone(pictures())[1]
    student.compute_in("bf16")
    rough = student.backbone(pictures())[1]
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.1
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [0]}, "1 blocks for 2 of the teacher"),
        ({"depth": 3, "layers": [0, 1]}, "leaves out the last of 3 blocks"),
        ({"layers": [0, 7]}, "block 7 does not exist"),
        ({"heads": 3}, "3 heads share 16 channels"),
        ({"widht": 3}, "did you mean 'width'"),
    ],
)
def test_students_that_cannot_be_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        make("vit", **options)


def test_a_wide_student_is_the_same_for_the_same_seed():
    def weights() -> torch.Tensor:
        torch.manual_seed(3)
        student = VitStudent(SPEC, 2, VitOptions(width=16, depth=2, heads=2))
        return torch.cat([weight.detach().flatten() for weight in student.parameters()])

    assert torch.equal(weights(), weights())
