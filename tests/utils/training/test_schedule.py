from itertools import pairwise

import pytest
import torch
from torch import nn

from utils.errors import SettingsError
from utils.training.schedule import SCHEDULES, Schedule


def make_schedule(kind: str) -> Schedule:
    return Schedule(kind, total_steps=20, warmup=0.25 if kind == "one_cycle" else 0.2, milestones=(8, 12))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_factors_rise_to_one_then_never_rise_again(kind):
    factors = [make_schedule(kind).factor(step) for step in range(25)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[:5]))
    assert factors[4] == 1.0
    assert all(a >= b for a, b in pairwise(factors[4:]))
    assert factors[19:] == [factors[19]] * 6


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("cosine", [0.5, 1.0, 0.75, 0.25]),
        ("poly", [0.5, 1.0, (2 / 3) ** 0.9, (1 / 3) ** 0.9]),
        ("step", [0.5, 1.0, 0.1, 0.01]),
        ("constant", [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_a_linear_rise_and_the_fall_of_each_kind(kind, factors):
    schedule = Schedule(kind, total_steps=4, warmup=0.25, milestones=(2, 3))
    assert [schedule.factor(step) for step in range(4)] == pytest.approx(factors)


def test_one_cycle_is_that_of_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=50, pct_start=0.3, final_div_factor=1e12
    )
    ours = Schedule("one_cycle", total_steps=50, warmup=0.3)
    for step in range(50):
        assert ours.factor(step) == pytest.approx(torchs.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        if step < 49:
            torchs.step()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_training_of_a_single_step_learns(kind):
    assert Schedule(kind, total_steps=1, warmup=0.1).factor(0) == 1.0


def test_an_unknown_kind_and_a_negative_step_are_refused():
    with pytest.raises(SettingsError, match="unknown schedule 'cos'; known: constant, cosine, one_cycle, poly, step"):
        Schedule("cos", total_steps=4)
    with pytest.raises(ValueError, match="step: expected at least 0, got -1"):
        make_schedule("cosine").factor(-1)
