import copy
import math

import pytest
import torch
from torch import nn

from utils.errors import DataError
from utils.optim import OPTIMIZERS, MuonAdamW, clip_gradients, find_kernels, split_parameters
from utils.runtime.checkpoints import load_training_state, save_training_state
from utils.training.schedule import Schedule


class Decoder(nn.Module):
    """One of every kind of parameter that a head may have."""

    input_layers = ("stem",)
    output_layers = ("classifier", "queries")

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.queries = nn.Parameter(torch.randn(5, 4))
        self.names = nn.Embedding(5, 4)
        self.gate = nn.Linear(4, 1)
        self.mix = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.classifier = nn.Linear(4, 2)

    def forward(self, images):
        fine = self.up(self.norm(self.depthwise(self.grouped(self.stem(images)))))
        tokens = fine.flatten(2).transpose(1, 2)
        queries = (self.queries + self.names.weight).expand(len(images), -1, -1)
        queries = self.attention(queries, tokens, tokens)[0]
        return self.classifier(self.frozen(self.mix(queries)) * self.gate(queries).sigmoid())


def make_decoder(seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return Decoder()


def train(model, optimizer, generator, schedule=None, steps=range(3)) -> None:
    for step in steps:
        optimizer.zero_grad()
        images = torch.randn(2, 3, 4, 6, generator=generator)
        model(images).square().sum().backward()
        if schedule is not None:
            schedule.apply(optimizer.param_groups, step)
        optimizer.step()


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_muon_gets_hidden_matrices_and_every_trained_parameter_is_served_once():
    model = make_decoder()
    hidden, rest = split_parameters(model)
    served = [kernel.name for kernel in hidden] + list(rest)
    assert sorted(served) == sorted(name for name, weight in model.named_parameters() if weight.requires_grad)
    assert {kernel.name for kernel in hidden} == {
        "grouped.weight",
        "up.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "mix.weight",
    }


def test_both_optimizers_together_hold_every_trained_value_once():
    model = make_decoder()
    for kind in OPTIMIZERS:
        groups = MuonAdamW(model, kind=kind).param_groups
        values = sum(weight.numel() for group in groups for weight in group["params"])
        assert values == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_a_tied_kernel_is_served_once_and_kept_from_muon_by_either_name():
    model = nn.ModuleDict({"hidden": nn.Linear(4, 4), "last": nn.Linear(4, 4)})
    model["last"].weight = model["hidden"].weight
    assert [kernel.name for kernel in split_parameters(model)[0]] == ["hidden.weight"]
    model.output_layers = ("last",)
    hidden, rest = split_parameters(model)
    assert hidden == []
    assert list(rest) == ["hidden.weight", "hidden.bias", "last.bias"]


def test_a_declared_layer_that_does_not_exist_is_an_error_and_one_switched_off_is_not():
    model = make_decoder()
    model.output_layers = ("clasifier",)
    with pytest.raises(
        ValueError, match="Decoder declares the outer layer 'clasifier', which it does not have; its par"
    ):
        split_parameters(model)
    model.output_layers, model.auxiliary = ("auxiliary",), None
    assert "classifier.weight" in {kernel.name for kernel in split_parameters(model)[0]}


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (nn.Linear(3, 2), [(2, 3)]),
        (nn.Conv2d(4, 6, (1, 3), groups=2), [(3, 6), (3, 6)]),
        (nn.ConvTranspose2d(4, 6, (1, 3), groups=2), [(9, 2), (9, 2)]),
        (nn.MultiheadAttention(4, 2), [(4, 4)] * 3),
    ],
)
def test_matrices_have_a_row_per_output_and_share_the_kernels_memory(layer, shapes):
    kernel = next(iter(find_kernels(layer).values()))
    matrices = kernel.matrices(kernel.parameter)
    assert [tuple(matrix.shape) for matrix in matrices] == shapes
    for matrix in matrices:
        matrix.fill_(7.0)
    assert bool((kernel.parameter == 7).all())


def test_the_matrix_of_a_transposed_convolution_is_the_map_from_one_input_to_its_outputs():
    layer = nn.ConvTranspose2d(3, 2, kernel_size=2, stride=2, bias=False)
    [matrix] = find_kernels(layer)["weight"].matrices(layer.weight)
    vector = torch.randn(3)
    assert torch.allclose(layer(vector.view(1, 3, 1, 1)).flatten(), matrix @ vector, atol=1e-6)


def test_a_linear_layer_moves_as_torchs_muon_moves_it():
    layer = nn.Linear(6, 4, bias=False)
    plain = nn.Parameter(layer.weight.detach().clone())
    ours = MuonAdamW(layer, muon_lr=0.1, momentum=0.9, weight_decay=0.5)
    torchs = torch.optim.Muon([plain], lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(3):
        layer.weight.grad = torch.randn(4, 6)
        plain.grad = layer.weight.grad.clone()
        ours.step()
        torchs.step()
    assert torch.equal(layer.weight, plain)


def test_groups_of_a_convolution_move_as_convolutions_of_their_own():
    grouped = nn.Conv2d(6, 4, 3, groups=2, bias=False)
    halves = [nn.Conv2d(3, 2, 3, bias=False) for _ in range(2)]
    gradient = torch.randn_like(grouped.weight)
    for half, weight, part in zip(halves, grouped.weight.detach().chunk(2), gradient.chunk(2), strict=True):
        half.weight.data.copy_(weight)
        half.weight.grad = part.clone()
    grouped.weight.grad = gradient
    for module in (grouped, *halves):
        MuonAdamW(module).step()
    assert torch.equal(grouped.weight, torch.cat([half.weight for half in halves]))


@pytest.mark.parametrize(("rows", "columns", "scale"), [(4, 16, 1.0), (16, 4, 2.0)])
def test_the_step_is_near_orthogonal_and_scaled_by_the_shape(rows, columns, scale):
    layer = nn.Linear(columns, rows, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(rows, columns) * 1e3
    MuonAdamW(layer, muon_lr=1.0, weight_decay=0.0).step()
    lengths = torch.linalg.svdvals(before - layer.weight.detach()) / scale
    assert 0.5 < float(lengths.min()) <= float(lengths.max()) < 1.5  # the iteration's own tolerance


@pytest.mark.parametrize("make_layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_channels_last_kernel_moves_as_a_plain_one(make_layer):
    plain = make_layer(4, 6, 3, bias=False)
    turned = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    optimizers = [MuonAdamW(layer) for layer in (plain, turned)]
    for _ in range(2):
        gradient = torch.randn_like(plain.weight)
        for layer, optimizer in zip((plain, turned), optimizers, strict=True):
            layer.weight.grad = gradient.clone(memory_format=torch.preserve_format)
            optimizer.step()
    assert turned.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.weight, turned.weight)


def test_a_module_whose_memory_was_replaced_is_still_served():
    layer = nn.Linear(3, 2, bias=False)
    optimizer = MuonAdamW(layer, muon_lr=1.0)
    layer.weight.data = torch.full((2, 3), 100.0)  # as `module.to` does
    layer.weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert 98 < float(layer.weight.detach().min()) <= float(layer.weight.detach().max()) < 100


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_all_gradients_are_freed(kind):
    model = make_decoder()
    optimizer = MuonAdamW(model, kind=kind)
    train(model, optimizer, torch.Generator(), steps=range(1))
    optimizer.zero_grad()
    assert all(weight.grad is None for weight in model.parameters())


def test_a_parameter_without_a_gradient_stays():
    model = make_decoder()
    optimizer = MuonAdamW(model)
    before = copy.deepcopy(model)
    model.mix.bias.grad = torch.ones(4)
    optimizer.step()
    assert not torch.equal(model.mix.bias, before.mix.bias)
    model.mix.bias.data.copy_(before.mix.bias)
    assert same_weights(model, before)


def test_weight_decay_applies_to_kernels_only():
    model = make_decoder()
    before = copy.deepcopy(model)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    MuonAdamW(model, muon_lr=0.5, adamw_lr=0.25, weight_decay=0.5).step()
    shrunk = {
        name: float((weight.detach() / old.detach()).mean().round(decimals=4))
        for (name, weight), old in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(weight, old)
    }
    muon = {kernel.name for kernel in split_parameters(model)[0]}
    assert muon <= set(shrunk) == set(find_kernels(model))
    assert all(share == (0.75 if name in muon else 0.875) for name, share in shrunk.items())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_training_in_two_pieces_equals_one_in_a_go_bit_by_bit(kind, tmp_path):
    schedule = Schedule("one_cycle", total_steps=6, warmup=0.3)

    def start():
        model = make_decoder()
        return model, MuonAdamW(model, kind=kind), torch.Generator().manual_seed(1)

    model, optimizer, generator = start()
    train(model, optimizer, generator, schedule, range(6))

    half, half_optimizer, half_generator = start()
    train(half, half_optimizer, half_generator, schedule, range(3))
    state = {"model": half.state_dict(), "optimizer": half_optimizer.state_dict(), "g": half_generator.get_state()}
    saved = load_training_state(save_training_state(tmp_path / "last", state))

    resumed, resumed_optimizer, resumed_generator = start()
    resumed.load_state_dict(saved["model"])
    resumed_optimizer.load_state_dict(saved["optimizer"])
    resumed_generator.set_state(saved["g"])
    train(resumed, resumed_optimizer, resumed_generator, schedule, range(3, 6))
    assert same_weights(model, resumed)


def test_a_loaded_state_is_a_copy():
    model = make_decoder()
    optimizer, other = MuonAdamW(model), MuonAdamW(model)
    train(model, optimizer, torch.Generator())
    other.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(other.state_dict())
    train(model, optimizer, torch.Generator())
    momentum = [state["muon"]["state"][0]["momentum_buffer"] for state in (before, other.state_dict())]
    assert torch.equal(*momentum)


def test_the_state_of_other_parameters_is_refused():
    state = MuonAdamW(nn.Linear(2, 2)).state_dict()
    with pytest.raises(DataError, match=r"muon expected 0\.weight, got weight; start a new training"):
        MuonAdamW(nn.Sequential(nn.Linear(2, 2))).load_state_dict(state)
    with pytest.raises(DataError, match="adamw expected weight, bias, got bias"):
        MuonAdamW(nn.Linear(2, 2), kind="adamw").load_state_dict(state)


def test_a_module_without_trained_parameters_is_refused():
    with pytest.raises(ValueError, match="no trained parameter"):
        MuonAdamW(nn.Linear(2, 2).requires_grad_(False))


def test_clipping_scales_all_gradients_together_and_spares_short_and_broken_ones():
    weights = [torch.zeros(1, requires_grad=True) for _ in range(3)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([-4.0])
    assert clip_gradients(weights, 10.0) == 5.0
    assert clip_gradients(weights) == 5.0
    assert [weights[0].grad.item(), weights[1].grad.item()] == [3.0, -4.0]
    clip_gradients(weights, 0.5)
    assert clip_gradients(weights) == pytest.approx(0.5, rel=1e-4)
    weights[0].grad = torch.tensor([math.inf])
    assert clip_gradients(weights, 0.5) == math.inf
    assert weights[1].grad.item() == pytest.approx(-0.4, rel=1e-4)
    assert clip_gradients([]) == 0.0


def test_both_optimizers_follow_the_schedule_from_their_own_peak_also_after_loading():
    model = make_decoder()
    optimizer = MuonAdamW(model, muon_lr=0.5, adamw_lr=0.25)
    schedule = Schedule("constant", total_steps=4, warmup=0.25)
    schedule.apply(optimizer.param_groups, 0)
    resumed = MuonAdamW(model, muon_lr=0.5, adamw_lr=0.25)
    resumed.load_state_dict(optimizer.state_dict())
    schedule.apply(resumed.param_groups, 0)
    assert [group["lr"] for group in resumed.param_groups] == [0.25, 0.125, 0.125]
