import copy

import pytest
import torch
from torch import nn

from utils.errors import DataError
from utils.runtime.checkpoints import load_training_state, save_training_state
from utils.training.averages import ExponentialMovingAverage


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
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1).requires_grad_(False))
    assert list(ExponentialMovingAverage(model, 0.9).averages) == ["0.weight"]


def test_a_swap_is_undone_to_the_bit_also_after_an_error():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = ExponentialMovingAverage(model, 0.9)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.add_(1)
    before = copy.deepcopy(model.state_dict())
    changed = []

    def evaluate() -> None:
        changed.extend(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        raise ArithmeticError

    with pytest.raises(ArithmeticError), average.swap():
        evaluate()
    assert all(changed)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


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


def test_the_state_of_another_module_is_refused():
    state = ExponentialMovingAverage(nn.Linear(2, 1), 0.9).state_dict()
    with pytest.raises(DataError, match="does not fit this Linear: weight; start a new training"):
        ExponentialMovingAverage(nn.Linear(1, 1), 0.9).load_state_dict(state)
