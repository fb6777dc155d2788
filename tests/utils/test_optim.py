import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from utils.errors import DataError, DinolithError, SettingsError
from utils.optim import (
    OPTIMIZERS,
    SCHEDULES,
    EarlyStopping,
    ExponentialMovingAverage,
    NonFiniteGuard,
    Schedule,
    build_ema,
    build_optimizer,
    clip_gradients,
    find_kernels,
    split_parameters,
)
from utils.runtime.checkpoints import load_training_state, save_training_state


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
            schedule.apply(optimizer, step)
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
        groups = build_optimizer(model, kind=kind).param_groups
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
    ours = build_optimizer(layer, muon_lr=0.1, momentum=0.9, weight_decay=0.5)
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
        build_optimizer(module).step()
    assert torch.equal(grouped.weight, torch.cat([half.weight for half in halves]))


@pytest.mark.parametrize(("rows", "columns", "scale"), [(4, 16, 1.0), (16, 4, 2.0)])
def test_the_step_is_near_orthogonal_and_scaled_by_the_shape(rows, columns, scale):
    layer = nn.Linear(columns, rows, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(rows, columns) * 1e3
    build_optimizer(layer, muon_lr=1.0, weight_decay=0.0).step()
    lengths = torch.linalg.svdvals(before - layer.weight.detach()) / scale
    assert 0.5 < float(lengths.min()) <= float(lengths.max()) < 1.5  # the iteration's own tolerance


@pytest.mark.parametrize("make_layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_channels_last_kernel_moves_as_a_plain_one(make_layer):
    plain = make_layer(4, 6, 3, bias=False)
    turned = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    optimizers = [build_optimizer(layer) for layer in (plain, turned)]
    for _ in range(2):
        gradient = torch.randn_like(plain.weight)
        for layer, optimizer in zip((plain, turned), optimizers, strict=True):
            layer.weight.grad = gradient.clone(memory_format=torch.preserve_format)
            optimizer.step()
    assert turned.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.weight, turned.weight)


def test_a_module_whose_memory_was_replaced_is_still_served():
    layer = nn.Linear(3, 2, bias=False)
    optimizer = build_optimizer(layer, muon_lr=1.0)
    layer.weight.data = torch.full((2, 3), 100.0)  # as `module.to` does
    layer.weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert 98 < float(layer.weight.detach().min()) <= float(layer.weight.detach().max()) < 100


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_all_gradients_are_zeroed(kind, set_to_none):
    model = make_decoder()
    optimizer = build_optimizer(model, kind=kind)
    train(model, optimizer, torch.Generator(), steps=range(1))
    optimizer.zero_grad(set_to_none=set_to_none)
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert all(gradient is None if set_to_none else not gradient.any() for gradient in gradients)


def test_a_parameter_without_a_gradient_stays():
    model = make_decoder()
    optimizer = build_optimizer(model)
    before = copy.deepcopy(model)
    model.mix.bias.grad = torch.ones(4)
    optimizer.step()
    assert not torch.equal(model.mix.bias, before.mix.bias)
    model.mix.bias.data.copy_(before.mix.bias)
    assert same_weights(model, before)


def test_weight_decay_draws_kernels_only():
    model = make_decoder()
    before = copy.deepcopy(model)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    build_optimizer(model, muon_lr=0.5, adamw_lr=0.25, weight_decay=0.5).step()
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
    schedule = Schedule("one_cycle", total_steps=6)

    def start():
        model = make_decoder()
        return model, build_optimizer(model, kind=kind), torch.Generator().manual_seed(1)

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
    optimizer, other = build_optimizer(model), build_optimizer(model)
    train(model, optimizer, torch.Generator())
    other.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(other.state_dict())
    train(model, optimizer, torch.Generator())
    momentum = [state["muon"]["state"][0]["momentum_buffer"] for state in (before, other.state_dict())]
    assert torch.equal(*momentum)


def test_the_state_of_other_parameters_is_refused():
    state = build_optimizer(nn.Linear(2, 2)).state_dict()
    with pytest.raises(DataError, match=r"muon expected 0\.weight, got weight; start a new training"):
        build_optimizer(nn.Sequential(nn.Linear(2, 2))).load_state_dict(state)
    with pytest.raises(DataError, match="adamw expected weight, bias, got bias"):
        build_optimizer(nn.Linear(2, 2), kind="adamw").load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"muon_lr": 0.0}, "muon_lr: expected a finite number above 0, got 0.0"),
        ({"adamw_lr": math.nan}, "adamw_lr: expected a finite number above 0, got nan"),
        ({"adamw_lr": math.inf}, "adamw_lr: .* got inf"),
        ({"weight_decay": -0.1}, "weight_decay: expected a finite number of at least 0, got -0.1"),
        ({"momentum": 1.0}, "momentum: expected at least 0 and less than 1, got 1.0"),
        ({"betas": (0.9, 1.5)}, "betas: expected at least 0 and less than 1, got 1.5"),
        ({"kind": "sgd"}, "unknown optimizer 'sgd'; known: adamw, muon"),
    ],
)
def test_numbers_with_which_nothing_is_learnt_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        build_optimizer(nn.Linear(2, 2), **options)


def test_a_module_without_trained_parameters_is_refused():
    with pytest.raises(ValueError, match="no trained parameter"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False))


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


def make_schedule(kind: str, **options) -> Schedule:
    return Schedule(kind, **{"total_steps": 20, "warmup_steps": 4, "milestones": (8, 12), **options})


@pytest.mark.parametrize("kind", SCHEDULES)
def test_factors_rise_to_one_then_never_rise_again(kind):
    factors = [make_schedule(kind).factor(step) for step in range(25)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[:5]))
    assert factors[4] == 1.0
    assert all(a >= b for a, b in pairwise(factors[4:]))
    assert factors[19:] == [factors[19]] * 6


@pytest.mark.parametrize(("kind", "share"), [("one_cycle", 1.0), ("cosine", 0.9), ("poly", 0.85)])
def test_the_final_ratio_is_where_it_falls_to(kind, share):
    schedule = make_schedule(kind, final_ratio=0.25)
    assert 0.25 <= schedule.factor(19) < 0.25 + 0.75 * (1 - share) + 1e-9


def test_one_cycle_is_that_of_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=50, pct_start=0.3)
    ours = Schedule("one_cycle", total_steps=50, rise_share=0.3, initial_ratio=1 / 25, final_ratio=1 / 25 / 1e4)
    for step in range(50):
        assert ours.factor(step) == pytest.approx(torchs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < 49:
            torchs.step()


def test_step_drops_at_its_milestones():
    schedule = Schedule("step", total_steps=6, milestones=(2, 4), gamma=0.5)
    assert [schedule.factor(step) for step in range(6)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_training_of_a_single_step_learns(kind):
    assert Schedule(kind, total_steps=1).factor(0) == 1.0


def test_both_optimizers_follow_the_schedule_from_their_own_peak_also_after_loading():
    model = make_decoder()
    optimizer = build_optimizer(model, muon_lr=0.5, adamw_lr=0.25)
    schedule = Schedule("poly", total_steps=4, power=1.0)
    schedule.apply(optimizer, 3)
    resumed = build_optimizer(model, muon_lr=0.5, adamw_lr=0.25)
    resumed.load_state_dict(optimizer.state_dict())
    schedule.apply(resumed, 1)
    assert [group["lr"] for group in resumed.param_groups] == [0.375, 0.1875, 0.1875]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cos"}, "unknown schedule 'cos'; known: constant, cosine, one_cycle, poly, step"),
        ({"total_steps": 0}, "total_steps: expected at least 1, got 0"),
        ({"warmup_steps": 21}, "warmup_steps: expected 0 to 20, got 21"),
        ({"final_ratio": 1.5}, "final_ratio: expected a share from 0 to 1, got 1.5"),
        ({"gamma": math.nan}, "gamma: expected a share from 0 to 1, got nan"),
        ({"power": 0.0}, "power: expected a finite number above 0, got 0.0"),
    ],
)
def test_schedules_out_of_range_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        make_schedule(**{"kind": "cosine", **options})


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="step: expected at least 0, got -1"):
        make_schedule("cosine").factor(-1)


def test_after_400_steps_the_average_has_forgotten_the_start():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    average = ExponentialMovingAverage(layer, decay=0.999)
    target = torch.randn(3, 4)
    for _ in range(400):
        layer.weight.data.lerp_(target, 0.1)
        average.update()
    with average.swap():
        # a constant decay of 0.999 would keep two thirds of the start: a distance of about 1
        assert float((layer.weight.detach() - target).abs().max()) < 0.01


def test_the_average_follows_its_formula_and_copies_buffers():
    norm = nn.BatchNorm1d(1)
    average = ExponentialMovingAverage(norm, decay=0.15)
    expected = 1.0
    for step, value in enumerate((2.0, 5.0, -1.0)):
        norm.weight.data.fill_(value)
        norm.running_mean.fill_(value)
        average.update()
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.averages["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert average.averages["running_mean"].item() == -1.0


def test_frozen_parameters_are_not_averaged():
    assert not any(name.startswith("frozen") for name in ExponentialMovingAverage(make_decoder(), 0.9).averages)


def test_a_swap_is_undone_to_the_bit_also_after_an_error():
    model = make_decoder()
    average = ExponentialMovingAverage(model, 0.9)
    train(model, build_optimizer(model), torch.Generator())
    before = copy.deepcopy(model)
    changed = []

    def evaluate() -> None:
        changed.append(not same_weights(model, before))
        raise ArithmeticError

    with pytest.raises(ArithmeticError), average.swap():
        evaluate()
    assert changed == [True]
    assert same_weights(model, before)


def test_a_continued_average_equals_an_unbroken_one(tmp_path):
    def run(model, average, values):
        for value in values:
            model.weight.data.fill_(value)
            average.update()

    model, resumed = nn.Linear(1, 1), nn.Linear(1, 1)
    resumed.load_state_dict(model.state_dict())
    average = ExponentialMovingAverage(model, 0.9)
    run(model, average, (1.0, 2.0))
    state = load_training_state(save_training_state(tmp_path / "last", average.state_dict()))
    run(model, average, (4.0, 8.0))
    continued = ExponentialMovingAverage(resumed, 0.9)
    continued.load_state_dict(state)
    run(resumed, continued, (4.0, 8.0))
    assert continued.updates == average.updates == 4
    assert torch.equal(continued.averages["weight"], average.averages["weight"])


def test_averages_are_switched_off_by_zero_and_refuse_the_impossible():
    assert build_ema(nn.Linear(1, 1), 0.0) is None
    for decay in (1.0, -0.1, math.nan):
        with pytest.raises(SettingsError, match="ema_decay: expected at least 0 and less than 1"):
            build_ema(nn.Linear(1, 1), decay)
    state = ExponentialMovingAverage(nn.Linear(2, 1), 0.9).state_dict()
    with pytest.raises(DataError, match="does not fit this Linear: weight; start a new training"):
        ExponentialMovingAverage(nn.Linear(1, 1), 0.9).load_state_dict(state)


@pytest.mark.parametrize(("mode", "sign"), [("max", 1.0), ("min", -1.0)])
def test_early_stopping_in_both_directions(mode, sign):
    stopping = EarlyStopping(patience=2, delta=0.1, mode=mode)
    assert [stopping.update(sign * value) for value in (0.5, 0.55, 0.61, 0.65)] == [True, False, True, False]
    assert not stopping.should_stop
    stopping.update(math.nan)
    assert stopping.should_stop
    assert stopping.best == sign * 0.61


def test_a_slow_start_is_not_an_end():
    """Keypoints score 0 until the first peak is sure enough: patience that ran from there stopped before anything."""
    stopping = EarlyStopping(patience=2)
    for value in (math.nan, 0.0, 0.0, math.nan, 0.0, 0.0):
        stopping.update(value)
        assert not stopping.should_stop
    assert [stopping.update(value) for value in (0.1, 0.0, 0.1)] == [True, False, False]
    assert stopping.should_stop


def test_nan_is_no_first_best_and_infinity_is_no_gain_over_itself():
    stopping = EarlyStopping(patience=3)
    assert [stopping.update(value) for value in (math.nan, 0.0, math.inf, math.inf)] == [False, True, True, False]
    assert stopping.waited == 1


def test_without_patience_it_never_stops_and_state_goes_there_and_back():
    stopping = EarlyStopping(patience=None)
    for _ in range(50):
        stopping.update(0.5)
    assert not stopping.should_stop
    other = EarlyStopping(patience=49)
    other.load_state_dict(stopping.state_dict())
    assert other.should_stop
    assert not other.update(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience: expected at least 1"),
        ({"delta": -1.0}, "delta: expected a finite number of at least 0, got -1.0"),
        ({"mode": "best"}, "mode: expected max or min, got 'best'"),
    ],
)
def test_early_stopping_refuses_what_makes_no_sense(options, message):
    with pytest.raises(SettingsError, match=message):
        EarlyStopping(**options)


def test_the_guard_counts_in_a_row_and_gives_up_with_advice():
    guard = NonFiniteGuard(limit=2)
    for loss in (math.nan, math.inf, 1.0, math.nan, -math.inf):
        assert guard.update(loss) == math.isfinite(loss)
    other = NonFiniteGuard(limit=2)
    other.load_state_dict(guard.state_dict())
    with pytest.raises(DinolithError, match=r"not finite 3 times in a row \(5 in all\); lower muon_lr and adamw_lr"):
        other.update(math.nan)
    with pytest.raises(SettingsError, match="limit: expected at least 0 steps, got -1"):
        NonFiniteGuard(-1)
